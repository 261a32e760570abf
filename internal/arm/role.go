package arm

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// roleAssignmentBody is a role assignment on the wire.
// Source: spec/access.md section 12.
type roleAssignmentBody struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties roleAssignmentProperties `json:"properties"`
}

type roleAssignmentProperties struct {
	Scope                              string  `json:"scope"`
	RoleDefinitionID                   string  `json:"roleDefinitionId"`
	PrincipalID                        string  `json:"principalId"`
	PrincipalType                      string  `json:"principalType"`
	Description                        *string `json:"description"`
	Condition                          *string `json:"condition"`
	ConditionVersion                   *string `json:"conditionVersion"`
	DelegatedManagedIdentityResourceID *string `json:"delegatedManagedIdentityResourceId"`
	CreatedOn                          string  `json:"createdOn"`
	UpdatedOn                          string  `json:"updatedOn"`
	CreatedBy                          string  `json:"createdBy"`
	UpdatedBy                          string  `json:"updatedBy"`
}

func roleAssignmentOf(x access.Assignment) roleAssignmentBody {
	return roleAssignmentBody{
		ID: x.ID().String(), Name: x.Name, Type: "Microsoft.Authorization/roleAssignments",
		Properties: roleAssignmentProperties{
			Scope: x.Scope.String(), RoleDefinitionID: roleDefinitionID(x.Scope, x.RoleID),
			PrincipalID: x.PrincipalID, PrincipalType: string(x.PrincipalType),
			Description: orNull(x.Description), Condition: orNull(x.Condition), ConditionVersion: orNull(x.ConditionVersion),
			CreatedOn: armTime(x.Created), UpdatedOn: armTime(x.Updated), CreatedBy: x.CreatedBy, UpdatedBy: x.UpdatedBy,
		},
	}
}

// roleDefinitionID names a role as seen from a scope: below its subscription.
func roleDefinitionID(scope resource.ID, role string) string {
	id := "/providers/Microsoft.Authorization/roleDefinitions/" + role
	if s := scope.Subscription(); s != "" {
		id = "/subscriptions/" + s + id
	}
	return id
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func getRoleAssignment(a *api, r *request) (answer, error) {
	x, err := a.Plane.RoleAssignment(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return ok(roleAssignmentOf(x)), nil
}

func putRoleAssignment(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	r.sameResource(f)
	p := f.sub("properties")
	x := access.Assignment{
		Name: r.names[0], Scope: r.scope, RoleID: p.str("roleDefinitionId"), PrincipalID: p.str("principalId"),
		PrincipalType: access.PrincipalType(p.str("principalType")), Description: p.str("description"), Condition: p.str("condition"),
	}
	if p.str("delegatedManagedIdentityResourceId") != "" {
		p.refuse("delegatedManagedIdentityResourceId", "This server delegates no managed identities: leave delegatedManagedIdentityResourceId out.")
	}
	x, created, err := a.Plane.PutRoleAssignment(r.ctx, r.caller, x, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status: status, body: roleAssignmentOf(x)}, nil
}

func deleteRoleAssignment(a *api, r *request) (answer, error) {
	x, existed, err := a.Plane.DeleteRoleAssignment(r.ctx, r.caller, r.id)
	if err != nil || !existed {
		return answer{status: http.StatusNoContent}, err
	}
	return ok(roleAssignmentOf(x)), nil
}

func listRoleAssignments(a *api, r *request) (answer, error) {
	f, err := access.ParseAssignmentFilter(r.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	assignments, err := a.Plane.RoleAssignments(r.ctx, r.caller, r.scope, f)
	if err != nil {
		return answer{}, err
	}
	var entries []entry
	for _, x := range assignments {
		entries = append(entries, entry{x.ID().Key(), x.Name, roleAssignmentOf(x)})
	}
	return a.page(r, entries)
}

// roleBody is a role definition on the wire. Source: spec/access.md section 12.
type roleBody struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties roleProperties `json:"properties"`
}

type roleProperties struct {
	RoleName         string              `json:"roleName"`
	Type             string              `json:"type"`
	Description      string              `json:"description"`
	AssignableScopes []string            `json:"assignableScopes"`
	Permissions      []access.Permission `json:"permissions"`
}

func roleOf(scope resource.ID, x access.Role) roleBody {
	return roleBody{
		ID: roleDefinitionID(scope, x.ID), Name: x.ID, Type: "Microsoft.Authorization/roleDefinitions",
		Properties: roleProperties{x.Name, string(x.Type), x.Description, x.AssignableScopes, x.Permissions},
	}
}

func getRole(a *api, r *request) (answer, error) {
	x, err := a.Plane.Role(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	return ok(roleOf(r.scope, x)), nil
}

func listRoles(a *api, r *request) (answer, error) {
	keep, err := parseRoleFilter(r.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	roles, err := a.Plane.Roles(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	list := []roleBody{}
	for _, x := range roles {
		if keep(x) {
			list = append(list, roleOf(r.scope, x))
		}
	}
	return whole(list), nil
}

var (
	roleTerm = regexp.MustCompile(`(?i)^\s*(roleName|type)\s+eq\s+'((?:[^']|'')*)'\s*$`)
	roleAll  = regexp.MustCompile(`(?i)^\s*(atScopeAndBelow|atScope)\(\s*\)\s*$`)
	andWord  = regexp.MustCompile(`(?i)\s+and\s+`)
)

// parseRoleFilter reads the $filter of role definitions: roleName eq 'Owner', type
// eq 'BuiltInRole', atScopeAndBelow(), joined by and. Source: spec/access.md 12.
func parseRoleFilter(text string) (func(access.Role) bool, error) {
	var name, kind *string
	if strings.TrimSpace(text) != "" {
		for _, term := range andWord.Split(text, -1) {
			m := roleTerm.FindStringSubmatch(term)
			switch {
			case m != nil && strings.EqualFold(m[1], "roleName"):
				v := strings.ReplaceAll(m[2], "''", "'")
				name = &v
			case m != nil:
				kind = &m[2]
			case !roleAll.MatchString(term):
				return nil, fault.Field("$filter", "The filter term '%.80s' is not one of roleName eq '{name}', type eq 'BuiltInRole', atScopeAndBelow().", term)
			}
		}
	}
	return func(x access.Role) bool {
		return (name == nil || strings.EqualFold(x.Name, *name)) && (kind == nil || strings.EqualFold(string(x.Type), *kind))
	}, nil
}
