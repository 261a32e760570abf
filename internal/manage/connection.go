package manage

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

const actionConnections = resource.TypeConnection + "/"

// maxConnectionString bounds connection strings, in bytes. It is ours.
const maxConnectionString = 8 << 10

// ConnectionChange is what a request says of a connection. It has either the two members
// of an Azure resource or those of a bucket. A member that is nil is unchanged by PATCH
// and the default on PUT, but for secrets: those stay as long as they are for the same.
type ConnectionChange struct {
	ResourceID       *string
	ConnectionString *secret.String

	Bucket, Endpoint, Region, AccessKeyID *string
	PathStyle                             *bool
	SecretAccessKey, SessionToken         *secret.String // "" takes a session token away

	Problems []*fault.Error // what the wire form got wrong already
	Unread   error          // why the body could not be read at all
}

// Connection returns a connection.
func (p *Plane) Connection(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.Connection], error) {
	return readOne(ctx, p, caller, actionConnections, p.Store.Connections, id)
}

// Connections returns the connections of a subscription or a resource group.
func (p *Plane) Connections(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[resource.Connection], error) {
	return readAll(ctx, p, caller, actionConnections, p.Store.Connections, scope, func(c *resource.Connection) resource.ID { return c.ID })
}

// PutConnection creates a connection or replaces it, and reports whether it is new. What
// it is for stays. The next attempt uses it.
func (p *Plane) PutConnection(ctx context.Context, caller access.Caller, id resource.ID, c ConnectionChange, cond Precondition) (item resource.Item[resource.Connection], created bool, err error) {
	return p.changeConnection(ctx, caller, id, c, cond, false)
}

// PatchConnection changes a connection: its connection string, or the keys and settings of
// its bucket.
func (p *Plane) PatchConnection(ctx context.Context, caller access.Caller, id resource.ID, c ConnectionChange, cond Precondition) (resource.Item[resource.Connection], error) {
	item, _, err := p.changeConnection(ctx, caller, id, c, cond, true)
	return item, err
}

func (p *Plane) changeConnection(ctx context.Context, caller access.Caller, id resource.ID, c ConnectionChange, cond Precondition, patch bool) (item resource.Item[resource.Connection], created bool, err error) {
	if err := p.authorize(ctx, caller, actionConnections+"write", id); err != nil {
		return item, false, err
	}
	if _, err := p.group(id); err != nil {
		return item, false, err
	}
	if c.Unread != nil {
		return item, false, c.Unread
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	group, err := p.group(id)
	if err != nil {
		return item, false, err
	}
	present, exists := p.Store.Connections.Get(id.Key())
	if patch && !exists {
		return item, false, resourceNotFound(id)
	}
	if err := cond.Check(etagOf(present, exists)); err != nil {
		return item, false, err
	}
	d := connectionDraft{ConnectionChange: c, id: id, present: &resource.Connection{}, patch: patch}
	d.Modified = stamp(caller)
	if exists {
		d.present = &present.Value
		d.ID, d.UID, d.Created = present.Value.ID, present.Value.UID, present.Value.Created
	} else {
		d.ID, d.UID, d.Created = settle(group.Value.ID, resource.TypeConnection, id.Name()), resource.NewUID(), d.Modified
	}
	d.describe(p, exists)
	if err := p.authorizeConnection(caller, &d); err != nil {
		return item, false, err
	}
	if err := joinInOrder(append(d.Problems, resource.ConnectionName.Check(id.Name())), connectionOrder, ""); err != nil {
		return item, false, err
	}
	if err := p.onlyConnection(&d); err != nil {
		return item, false, err
	}
	if err := d.seal(p); err != nil {
		return item, false, err
	}
	if exists {
		item, err = p.Store.Connections.Update(ctx, id.Key(), d.Connection, present.Revision)
	} else {
		item, err = p.Store.Connections.Create(ctx, id.Key(), d.Connection)
	}
	if err != nil {
		return item, false, err
	}
	p.changed(ctx, caller, map[bool]string{false: "put", true: "patch"}[patch], item.Value.ID)
	return item, !exists, nil
}

// connectionOrder is the order of the members of connections.
var connectionOrder = []string{
	"id", "name", "type", "properties.resourceId", "properties.connectionString", "properties.bucket", "properties.endpoint", "properties.region",
	"properties.pathStyle", "properties.accessKeyId", "properties.secretAccessKey", "properties.sessionToken", "properties",
}

// connectionDraft is the connection that a request asks for.
type connectionDraft struct {
	ConnectionChange
	resource.Connection
	id      resource.ID
	present *resource.Connection // empty for none
	patch   bool
}

func (d *connectionDraft) wrong(field, format string, args ...any) {
	d.Problems = append(d.Problems, fault.Field("properties."+field, format, args...))
}

// describe fills in what the connection is for and how it is shown, and keeps of the
// present one what the request leaves out.
func (d *connectionDraft) describe(p *Plane, exists bool) {
	forBucket := d.ConnectionChange.Bucket != nil || d.present.Bucket != nil
	forResource := d.ResourceID != nil || !d.present.Target.IsZero()
	switch {
	case forBucket && forResource && exists:
		d.wrong("resourceId", "The connection '%s' is for %s, and a connection is for one thing: make another one, under a name of its own.", d.id.Name(), d.present.For())
	case forBucket && forResource:
		d.wrong("resourceId", "A connection is for one thing: give resourceId with connectionString, or bucket with its keys, not both.")
	case forBucket:
		d.describeBucket(p)
	case forResource:
		d.describeResource(p, exists)
	default:
		d.wrong("resourceId", "A connection is for an Azure resource or a bucket: give resourceId with connectionString, or bucket with its keys.")
	}
}

func (d *connectionDraft) describeResource(p *Plane, exists bool) {
	d.Target = d.present.Target
	if d.ResourceID != nil {
		named, err := resource.ParseID(*d.ResourceID)
		switch {
		case err != nil || named.Type() == "" || strings.HasPrefix(named.Type(), "Microsoft.Resources/"):
			d.wrong("resourceId", "The resourceId '%.200s' is not the full id of a resource, such as /subscriptions/S/resourceGroups/G/providers/Microsoft.ServiceBus/namespaces/NAME.", *d.ResourceID)
			d.Target = resource.ID{}
			return
		case exists && !named.Equal(d.present.Target):
			d.wrong("resourceId", "The connection '%s' is for %s and stays so: make another one, under a name of its own.", d.id.Name(), d.present.Target)
		default:
			d.Target = named
		}
	} else if !d.patch {
		d.wrong("resourceId", "The resourceId is missing: the id of the resource that the connection is for, %s.", d.present.Target)
	}
	for _, other := range []struct {
		name  string
		given bool
	}{
		{"endpoint", d.Endpoint != nil}, {"region", d.Region != nil}, {"pathStyle", d.PathStyle != nil},
		{"accessKeyId", d.AccessKeyID != nil}, {"secretAccessKey", d.SecretAccessKey != nil}, {"sessionToken", d.SessionToken != nil},
	} {
		if other.given {
			d.wrong(other.name, "The member %s is one of the connection of a bucket: leave it out for an Azure resource, whose connection string says all.", other.name)
		}
	}
	switch text := d.ConnectionString; {
	case text == nil && exists:
		d.Host, d.KeyName, d.SealedString = d.present.Host, d.present.KeyName, d.present.SealedString
	case text == nil:
		d.wrong("connectionString", "A connection needs the connectionString of the resource, as Azure shows it with the resource's keys.")
	case len(*text) > maxConnectionString:
		d.wrong("connectionString", "The connectionString has %d bytes; at most %d are allowed.", len(*text), maxConnectionString)
	case strings.ContainsFunc(text.Reveal(), func(r rune) bool { return r < ' ' || r == 0x7f }):
		d.wrong("connectionString", "The connectionString holds control characters or more than one line.")
	case p.CheckConnection != nil:
		var err error
		if d.Host, d.KeyName, err = p.CheckConnection(d.Target, *text); err != nil {
			d.Problems = append(d.Problems, fieldProblem("properties", err))
		}
	}
}

func (d *connectionDraft) describeBucket(p *Plane) {
	if d.ConnectionString != nil {
		d.wrong("connectionString", "The connection of a bucket has no connectionString: leave it out and give accessKeyId and secretAccessKey.")
	}
	b, before := &resource.ConnectionBucket{}, resource.ConnectionBucket{}
	if d.present.Bucket != nil {
		before = *d.present.Bucket
	}
	if d.patch {
		*b = before
	}
	for _, member := range []struct {
		into  *string
		given *string
	}{{&b.Name, d.ConnectionChange.Bucket}, {&b.Endpoint, d.Endpoint}, {&b.Region, d.Region}, {&b.AccessKeyID, d.AccessKeyID}} {
		if member.given != nil {
			*member.into = *member.given
		}
	}
	if d.PathStyle != nil {
		b.PathStyle = *d.PathStyle
	}
	b.Endpoint = strings.TrimRight(b.Endpoint, "/")
	if before.Name != "" && b.Name != before.Name {
		d.wrong("bucket", "The connection '%s' is for the bucket %s and stays so: make another one, under a name of its own.", d.id.Name(), before.Name)
	}
	// Keys go to the same place only, for the same user.
	b.SealedSecret, b.SealedSession = "", ""
	if b.Name == before.Name && b.Endpoint == before.Endpoint && b.AccessKeyID == before.AccessKeyID {
		b.SealedSecret, b.SealedSession = before.SealedSecret, before.SealedSession
	}
	checked := dataset.Bucket{Name: b.Name, Endpoint: b.Endpoint, Region: b.Region, AccessKeyID: b.AccessKeyID}
	if b.SealedSecret != "" { // it was checked when it was given
		checked.SecretAccessKey = secret.Hidden
	}
	if d.SecretAccessKey != nil {
		checked.SecretAccessKey = *d.SecretAccessKey
		b.SealedSession = "" // of the key before
	}
	if d.SessionToken != nil {
		checked.SessionToken = *d.SessionToken
		b.SealedSession = ""
	}
	for _, problem := range checked.Check() {
		problem.Target = "properties." + problem.Target
		d.Problems = append(d.Problems, problem)
	}
	if u, err := url.Parse(b.Endpoint); err == nil && u.Host != "" {
		if err := p.CheckURL(u); err != nil {
			d.wrong("endpoint", "The endpoint cannot be used: %v.", err)
		}
	}
	d.Connection.Bucket = b
}

// seal seals the secrets that the request gives.
func (d *connectionDraft) seal(p *Plane) error {
	type text struct {
		given *secret.String
		into  *string
		owner string
	}
	texts := []text{{d.ConnectionString, &d.SealedString, d.StringOwner()}}
	if b := d.Connection.Bucket; b != nil {
		texts = []text{{d.SecretAccessKey, &b.SealedSecret, d.SecretOwner()}, {d.SessionToken, &b.SealedSession, d.SessionOwner()}}
	}
	for _, t := range texts {
		if t.given == nil {
			continue
		}
		*t.into = ""
		if *t.given == "" {
			continue
		}
		sealed, err := p.Sealer.Seal([]byte(t.given.Reveal()), t.owner)
		if err != nil {
			return fmt.Errorf("seal a secret of %s: %w", d.ID, err)
		}
		*t.into = sealed
	}
	return nil
}

// authorizeConnection is the second check of a change of a connection. Nobody may say how
// a resource is reached who may not write it, as nobody may aim events at it; a bucket is
// no resource here and serves the whole server, so that takes the right to make connections
// everywhere.
// Source: spec/access.md section 10.
func (p *Plane) authorizeConnection(caller access.Caller, d *connectionDraft) error {
	switch {
	case d.Connection.Bucket != nil:
		return p.Access.CheckLinked(caller, actionConnections+"write", d.id, actionConnections+"write", p.subscription)
	case !d.Target.IsZero():
		return p.Access.CheckLinked(caller, actionConnections+"write", d.id, d.Target.Type()+"/write", d.Target)
	}
	return nil // said with the other problems
}

// onlyConnection reports a Conflict when another connection is for the same.
func (p *Plane) onlyConnection(d *connectionDraft) error {
	for _, other := range p.Store.Connections.List("") {
		if !other.Value.ID.Equal(d.ID) && other.Value.SameAs(&d.Connection) {
			return fault.New(fault.Conflict, "ConnectionExists", "The connection '%s' is for %s already, and there is one for each: change that one, or delete it first.", other.Value.ID, other.Value.For())
		}
	}
	return nil
}

// DeleteConnection removes a connection and reports whether it was there. What needs it
// fails from then on, until there is another one.
func (p *Plane) DeleteConnection(ctx context.Context, caller access.Caller, id resource.ID, cond Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionConnections+"delete", id); err != nil {
		return false, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	item, exists := p.Store.Connections.Get(id.Key())
	if err := cond.Check(etagOf(item, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.removeConnection(ctx, item); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", item.Value.ID)
	return true, nil
}

// removeConnection needs structure to be locked for writing.
func (p *Plane) removeConnection(ctx context.Context, c resource.Item[resource.Connection]) error {
	return p.removeGranted(ctx, func() error { return p.Store.Connections.Delete(ctx, c.Key, c.Revision) }, c.Value.ID)
}

// OpenConnectionString returns the connection string of an Azure resource.
func OpenConnectionString(o Opener, c *resource.Connection) (secret.String, error) {
	plain, err := o.Open(c.SealedString, c.StringOwner())
	if err != nil {
		return "", fmt.Errorf("open the connection string of %s: %w", c.ID, err)
	}
	return secret.String(plain), nil
}

// OpenBucket returns how the bucket of a connection is reached.
func OpenBucket(o Opener, c *resource.Connection) (dataset.Bucket, error) {
	b := dataset.Bucket{Name: c.Bucket.Name, Endpoint: c.Bucket.Endpoint, Region: c.Bucket.Region, PathStyle: c.Bucket.PathStyle, AccessKeyID: c.Bucket.AccessKeyID}
	for _, text := range []struct {
		sealed, owner string
		into          *secret.String
	}{{c.Bucket.SealedSecret, c.SecretOwner(), &b.SecretAccessKey}, {c.Bucket.SealedSession, c.SessionOwner(), &b.SessionToken}} {
		if text.sealed == "" {
			continue
		}
		plain, err := o.Open(text.sealed, text.owner)
		if err != nil {
			return b, fmt.Errorf("open the keys of %s: %w", c.ID, err)
		}
		*text.into = secret.String(plain)
	}
	return b, nil
}
