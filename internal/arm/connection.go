package arm

import (
	"encoding/json"
	"net/http"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// connectionBody is a connection: of an Azure resource, or of a bucket. This API is
// Carillon's own.
type connectionBody struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	ETag       string     `json:"etag"`
	SystemData systemData `json:"systemData"`
	Properties any        `json:"properties"` // connectedResource or connectedBucket
}

// shownSecret says of a secret only that it is there: null, and absent for none.
type shownSecret = json.RawMessage

func shownSecretOf(sealed string) shownSecret {
	if sealed == "" {
		return nil
	}
	return shownSecret("null")
}

type connectedResource struct {
	ResourceID       string      `json:"resourceId"`
	ConnectionString shownSecret `json:"connectionString,omitempty"`
	Host             string      `json:"host,omitempty"`
	KeyName          string      `json:"keyName,omitempty"` // whose key it is
}

type connectedBucket struct {
	Bucket          string      `json:"bucket"`
	Endpoint        string      `json:"endpoint,omitempty"` // absent for Amazon's
	Region          string      `json:"region,omitempty"`
	PathStyle       bool        `json:"pathStyle"`
	AccessKeyID     string      `json:"accessKeyId,omitempty"`
	SecretAccessKey shownSecret `json:"secretAccessKey,omitempty"`
	SessionToken    shownSecret `json:"sessionToken,omitempty"`
}

func connectionOf(item resource.Item[resource.Connection]) connectionBody {
	c := item.Value
	b := connectionBody{ID: c.ID.String(), Name: c.ID.Name(), Type: resource.TypeConnection, ETag: item.ETag(), SystemData: systemDataOf(c.Created, c.Modified)}
	if c.Bucket == nil {
		b.Properties = connectedResource{ResourceID: c.Target.String(), ConnectionString: shownSecretOf(c.SealedString), Host: c.Host, KeyName: c.KeyName}
		return b
	}
	b.Properties = connectedBucket{
		Bucket: c.Bucket.Name, Endpoint: c.Bucket.Endpoint, Region: c.Bucket.Region, PathStyle: c.Bucket.PathStyle, AccessKeyID: c.Bucket.AccessKeyID,
		SecretAccessKey: shownSecretOf(c.Bucket.SealedSecret), SessionToken: shownSecretOf(c.Bucket.SealedSession),
	}
	return b
}

// connectionChange reads a connection from the body of a request.
func (r *request) connectionChange() manage.ConnectionChange {
	f, unread := r.readBody()
	r.sameResource(f)
	p := f.sub("properties")
	return manage.ConnectionChange{
		ResourceID: p.text("resourceId"), ConnectionString: (*secret.String)(p.text("connectionString")),
		Bucket: p.text("bucket"), Endpoint: p.text("endpoint"), Region: p.text("region"), AccessKeyID: p.text("accessKeyId"), PathStyle: value[bool](p, "pathStyle", "true or false"),
		SecretAccessKey: (*secret.String)(p.text("secretAccessKey")), SessionToken: (*secret.String)(p.text("sessionToken")),
		Problems: *f.problems, Unread: unread,
	}
}

func getConnection(a *api, r *request) (answer, error) {
	c, err := a.Plane.Connection(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, etag: c.ETag(), body: connectionOf(c)}, nil
}

func putConnection(a *api, r *request) (answer, error) {
	c, created, err := a.Plane.PutConnection(r.ctx, r.caller, r.id, r.connectionChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status: status, etag: c.ETag(), body: connectionOf(c)}, nil
}

func patchConnection(a *api, r *request) (answer, error) {
	c, err := a.Plane.PatchConnection(r.ctx, r.caller, r.id, r.connectionChange(), r.precondition())
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, etag: c.ETag(), body: connectionOf(c)}, nil
}

func deleteConnection(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeleteConnection(r.ctx, r.caller, r.id, r.precondition()))
}

func listConnections(a *api, r *request) (answer, error) {
	connections, err := a.Plane.Connections(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(connections, func(c *resource.Item[resource.Connection]) entry {
		return entry{c.Key, c.Value.ID.Name(), func() any { return connectionOf(*c) }}
	}))
}
