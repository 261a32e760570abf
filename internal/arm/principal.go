package arm

import (
	"net/http"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// principalBody is a principal on the wire; this API is Carillon's own.
type principalBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"` // the object id
	Type       string              `json:"type"`
	Properties principalProperties `json:"properties"`
}

type principalProperties struct {
	ObjectID      string       `json:"objectId"`
	AppID         string       `json:"appId,omitempty"`
	Tenant        string       `json:"tenant"`
	DisplayName   string       `json:"displayName"`
	PrincipalType string       `json:"principalType"`
	Enabled       bool         `json:"enabled"`
	Secrets       []secretHint `json:"secrets"`
	CreatedBy     string       `json:"createdBy"`
	CreatedAt     string       `json:"createdAt"`
}

// secretHint tells client secrets apart without showing them.
type secretHint struct {
	Hint      string `json:"hint"` // its first characters
	CreatedAt string `json:"createdAt"`
}

func principalOf(p access.Principal) principalBody {
	b := principalBody{
		ID: principalID(p.ObjectID), Name: p.ObjectID, Type: "Carillon.Identity/principals",
		Properties: principalProperties{
			ObjectID: p.ObjectID, AppID: p.AppID, Tenant: p.TenantID, DisplayName: p.Name, PrincipalType: string(p.Type),
			Enabled: p.Enabled, Secrets: []secretHint{}, CreatedBy: p.Created.By, CreatedAt: armTime(p.Created.At),
		},
	}
	for _, s := range p.Secrets {
		b.Properties.Secrets = append(b.Properties.Secrets, secretHint{s.Hint, armTime(s.Created)})
	}
	return b
}

func principalID(objectID string) string {
	return resource.Root.Extension("Carillon.Identity", "principals", objectID).String()
}

// credentialBody shows a client secret, once.
type credentialBody struct {
	AppID       string `json:"appId"`
	Password    string `json:"password"`
	Tenant      string `json:"tenant"`
	ObjectID    string `json:"objectId"`
	DisplayName string `json:"displayName"`
}

func credentialOf(p access.Principal, plain secret.String) credentialBody {
	return credentialBody{AppID: p.AppID, Password: plain.Reveal(), Tenant: p.TenantID, ObjectID: p.ObjectID, DisplayName: p.Name}
}

func listPrincipals(a *api, r *request) (answer, error) {
	principals, err := a.Plane.Principals(r.ctx, r.caller)
	if err != nil {
		return answer{}, err
	}
	var entries []entry
	for _, p := range principals {
		entries = append(entries, entry{p.ObjectID, p.Name, principalOf(p)})
	}
	return a.list(r, entries)
}

func getPrincipal(a *api, r *request) (answer, error) {
	p, err := a.Plane.Principal(r.ctx, r.caller, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(principalOf(p)), nil
}

func createPrincipal(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	name := f.str("name")
	p, plain, err := a.Plane.CreatePrincipal(r.ctx, r.caller, name, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: credentialOf(p, plain)}, nil
}

func resetPrincipal(a *api, r *request) (answer, error) {
	p, plain, err := a.Plane.ResetPrincipal(r.ctx, r.caller, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(credentialOf(p, plain)), nil
}

func deletePrincipal(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DeletePrincipal(r.ctx, r.caller, r.names[0]))
}
