package arm

import (
	"net/http"
	"strings"

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
	Members       []string     `json:"members,omitempty"` // object ids, of a group
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
			Enabled: p.Enabled, Members: p.Members, Secrets: []secretHint{}, CreatedBy: p.Created.By, CreatedAt: armTime(p.Created.At),
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
	name, kind := f.str("name"), f.str("principalType")
	group := strings.EqualFold(kind, string(access.Group))
	if kind != "" && !group && !strings.EqualFold(kind, string(access.ServicePrincipal)) {
		f.refuse("principalType", "The principal type '%.40s' is not one that can be made: use ServicePrincipal or Group.", kind)
	}
	if group {
		g, err := a.Plane.CreateGroup(r.ctx, r.caller, name, f.verdict(unread))
		if err != nil {
			return answer{}, err
		}
		return answer{status: http.StatusCreated, body: principalOf(g)}, nil
	}
	p, plain, err := a.Plane.CreatePrincipal(r.ctx, r.caller, name, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: credentialOf(p, plain)}, nil
}

func addMember(a *api, r *request) (answer, error) { return setMember(a, r, true) }

func removeMember(a *api, r *request) (answer, error) { return setMember(a, r, false) }

func setMember(a *api, r *request, in bool) (answer, error) {
	g, err := a.Plane.SetMember(r.ctx, r.caller, r.names[0], r.names[1], in)
	if err != nil {
		return answer{}, err
	}
	return ok(principalOf(g)), nil
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
