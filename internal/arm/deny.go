package arm

import (
	"net/http"

	"github.com/carillon-events/carillon/internal/access"
)

// denyAssignmentBody is a deny assignment on the wire. Source: spec/access.md section 12;
// azure-cli 2.91.0, role deny-assignment, for PUT and DELETE.
type denyAssignmentBody struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties denyAssignmentProperties `json:"properties"`
}

type denyAssignmentProperties struct {
	DenyAssignmentName      string              `json:"denyAssignmentName"`
	Description             string              `json:"description"`
	Permissions             []access.Permission `json:"permissions"`
	Scope                   string              `json:"scope"`
	DoNotApplyToChildScopes bool                `json:"doNotApplyToChildScopes"`
	Principals              []access.Denied     `json:"principals"`
	ExcludePrincipals       []access.Denied     `json:"excludePrincipals"`
	IsSystemProtected       bool                `json:"isSystemProtected"`
	CreatedOn               string              `json:"createdOn"`
	UpdatedOn               string              `json:"updatedOn"`
	CreatedBy               string              `json:"createdBy"`
	UpdatedBy               string              `json:"updatedBy"`
}

func denyAssignmentOf(x access.DenyAssignment) denyAssignmentBody {
	return denyAssignmentBody{
		ID: x.ID().String(), Name: x.Name, Type: "Microsoft.Authorization/denyAssignments",
		Properties: denyAssignmentProperties{
			DenyAssignmentName: x.Title, Description: x.Description, Permissions: x.Permissions, Scope: x.Scope.String(), DoNotApplyToChildScopes: x.OnlyScope,
			Principals: x.Principals, ExcludePrincipals: append([]access.Denied{}, x.Excluded...),
			CreatedOn: armTime(x.Created), UpdatedOn: armTime(x.Updated), CreatedBy: x.CreatedBy, UpdatedBy: x.UpdatedBy,
		},
	}
}

func putDenyAssignment(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	r.sameResource(f)
	p := f.sub("properties")
	x := access.DenyAssignment{
		Name: r.names[0], Scope: r.scope, Title: p.str("denyAssignmentName"), Description: p.str("description"),
		Permissions: permissionsOf(p), Principals: deniedOf(p, "principals"), Excluded: deniedOf(p, "excludePrincipals"),
	}
	if only := value[bool](p, "doNotApplyToChildScopes", "true or false"); only != nil {
		x.OnlyScope = *only
	}
	if protected := value[bool](p, "isSystemProtected", "true or false"); protected != nil && *protected {
		p.refuse("isSystemProtected", "This server protects no deny assignments from its administrators: leave isSystemProtected out.")
	}
	if p.str("condition") != "" {
		p.refuse("condition", "Conditions are not supported. Leave the condition out, or deny at a narrower scope.")
	}
	x, created, err := a.Plane.PutDenyAssignment(r.ctx, r.caller, x, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status: status, body: denyAssignmentOf(x)}, nil
}

// deniedOf reads a list of principals.
func deniedOf(p fields, name string) []access.Denied {
	var out []access.Denied
	for _, f := range p.objects(name, "an object with id and type") {
		d := access.Denied{ID: f.str("id"), Type: access.PrincipalType(f.str("type"))}
		if d.ID == access.Everyone {
			d.Type = "" // SystemDefined, or whatever clients say
		}
		out = append(out, d)
	}
	return out
}

func getDenyAssignment(a *api, r *request) (answer, error) {
	x, err := a.Plane.DenyAssignment(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return ok(denyAssignmentOf(x)), nil
}

func deleteDenyAssignment(a *api, r *request) (answer, error) {
	x, existed, err := a.Plane.DeleteDenyAssignment(r.ctx, r.caller, r.id)
	if err != nil || !existed {
		return answer{status: http.StatusNoContent}, err
	}
	return ok(denyAssignmentOf(x)), nil
}

func listDenyAssignments(a *api, r *request) (answer, error) {
	f, err := access.ParseAssignmentFilter(r.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	assignments, err := a.Plane.DenyAssignments(r.ctx, r.caller, r.scope, f)
	if err != nil {
		return answer{}, err
	}
	return a.page(r, entriesOf(assignments, func(x *access.DenyAssignment) entry {
		return entry{x.ID().Key(), x.Name, func() any { return denyAssignmentOf(*x) }}
	}))
}

// denialOf names the deny assignment that a decision rests on.
func denialOf(x *access.DenyAssignment) *denialBody {
	if x == nil {
		return nil
	}
	return &denialBody{ID: x.ID().String(), Name: x.Title, Scope: x.Scope.String()}
}

type denialBody struct {
	ID    string `json:"denyAssignmentId"`
	Name  string `json:"denyAssignmentName"`
	Scope string `json:"scope"`
}
