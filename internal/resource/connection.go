package resource

import "strings"

// Connection is how this server gets into something that events are delivered to, that
// dead letters are written to or that datasets are read from: the connection string of an
// Azure resource, or the keys of a bucket of an S3-compatible store. There is at most one
// for each. Azure's resource manager knows the keys of its resources; here somebody gives
// them who may write the resource.
type Connection struct {
	ID           ID                `json:"id"`
	UID          UID               `json:"uid"`
	Target       ID                `json:"resourceId,omitzero"`    // the Azure resource; zero for a bucket
	Host         string            `json:"host,omitempty"`         // of Target, for showing
	KeyName      string            `json:"keyName,omitempty"`      // whose key the connection string holds, for showing
	SealedString string            `json:"sealedString,omitempty"` // the connection string of Target; sealed with StringOwner as associated data
	Bucket       *ConnectionBucket `json:"bucket,omitempty"`       // nil for an Azure resource
	Created      Stamp             `json:"created"`
	Modified     Stamp             `json:"modified"`
}

// ConnectionBucket is a bucket of an S3-compatible store.
type ConnectionBucket struct {
	Name          string `json:"name"`               // AnyBucket is every bucket that has no connection of its own
	Endpoint      string `json:"endpoint,omitempty"` // "" = Amazon's
	Region        string `json:"region,omitempty"`   // "" = the store is asked
	PathStyle     bool   `json:"pathStyle,omitempty"`
	AccessKeyID   string `json:"accessKeyId,omitempty"`   // "" = requests are not signed
	SealedSecret  string `json:"sealedSecret,omitempty"`  // of the access key; sealed with SecretOwner as associated data
	SealedSession string `json:"sealedSession,omitempty"` // "" = none; sealed with SessionOwner as associated data
}

// TypeConnection is the resource type of connections. It is Carillon's own.
const TypeConnection = "Carillon.Secrets/connections"

// StringOwner is the associated data that the connection string is sealed with.
func (c *Connection) StringOwner() string { return c.UID.String() + "/connectionString" }

// SecretOwner is the associated data that the secret of a bucket's access key is sealed
// with.
func (c *Connection) SecretOwner() string { return c.UID.String() + "/secretAccessKey" }

// SessionOwner is the associated data that the session token of a bucket is sealed with.
func (c *Connection) SessionOwner() string { return c.UID.String() + "/sessionToken" }

// EachSealed satisfies Sealing.
func (c *Connection) EachSealed(f func(sealed *string, associated string)) {
	each(f, &c.SealedString, c.StringOwner())
	if c.Bucket != nil {
		each(f, &c.Bucket.SealedSecret, c.SecretOwner())
		each(f, &c.Bucket.SealedSession, c.SessionOwner())
	}
}

// For says what the connection is for.
func (c *Connection) For() string {
	switch {
	case c.Bucket == nil:
		return c.Target.String()
	case c.Bucket.Name == AnyBucket:
		return "all buckets without a connection of their own"
	}
	return "the bucket " + c.Bucket.Name
}

// AnyBucket is the name by which one connection is for every bucket that has none of its
// own.
const AnyBucket = "*"

// SameAs reports whether two connections are for the same.
func (c *Connection) SameAs(other *Connection) bool {
	if c.Bucket != nil || other.Bucket != nil {
		return c.Bucket != nil && other.Bucket != nil && c.Bucket.Name == other.Bucket.Name
	}
	const account = "Microsoft.Storage/storageAccounts"
	if c.Target.IsType(account) && other.Target.IsType(account) {
		return strings.EqualFold(c.Target.Name(), other.Target.Name()) // Azure has each name once
	}
	return c.Target.Equal(other.Target)
}
