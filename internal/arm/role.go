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
	return a.page(r, entriesOf(assignments, func(x *access.Assignment) entry {
		return entry{x.ID().Key(), x.Name, func() any { return roleAssignmentOf(*x) }}
	}))
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
	CreatedOn        string              `json:"createdOn,omitempty"` // of a custom role, as are the others
	UpdatedOn        string              `json:"updatedOn,omitempty"`
	CreatedBy        string              `json:"createdBy,omitempty"`
	UpdatedBy        string              `json:"updatedBy,omitempty"`
}

func roleOf(scope resource.ID, x access.Role) roleBody {
	b := roleBody{
		ID: roleDefinitionID(scope, x.ID), Name: x.ID, Type: "Microsoft.Authorization/roleDefinitions",
		Properties: roleProperties{RoleName: x.Name, Type: string(x.Type), Description: x.Description, AssignableScopes: x.AssignableScopes, Permissions: x.Permissions},
	}
	if x.Type == access.CustomRole {
		p := &b.Properties
		p.CreatedOn, p.UpdatedOn, p.CreatedBy, p.UpdatedBy = armTime(x.Created), armTime(x.Updated), x.CreatedBy, x.UpdatedBy
	}
	return b
}

// listPermissions tells callers what their own roles grant at a scope. Everybody who is
// known may ask: it says nothing of what is there.
// Source: spec/access.md section 12.
func listPermissions(a *api, r *request) (answer, error) {
	return whole(a.Plane.Access.Permissions(r.caller, r.scope)), nil
}

// putRole answers 201 also for one that was there: the SDKs take nothing else.
// Source: spec/access.md section 12.
func putRole(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	p := f.sub("properties")
	x := access.Role{
		ID: r.names[0], Name: p.str("roleName"), Description: p.str("description"), AssignableScopes: p.texts("assignableScopes"),
	}
	if kind := p.str("type"); kind != "" && !strings.EqualFold(kind, string(access.CustomRole)) {
		p.refuse("type", "The type '%.80s' is not one that can be made: leave it out, or say CustomRole.", kind)
	}
	x.Permissions = permissionsOf(p)
	x, err := a.Plane.PutRole(r.ctx, r.caller, r.id, x, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: roleOf(r.scope, x)}, nil
}

// permissionsOf reads the permissions in the properties of a role definition or a deny
// assignment. A member that is none of theirs is refused: without a notActions that is
// misspelt, or a condition, a role would grant more than it says.
func permissionsOf(p fields) []access.Permission {
	var out []access.Permission
	for _, f := range p.objects("permissions", "an object with actions and dataActions") {
		f.knows("actions", "notActions", "dataActions", "notDataActions")
		out = append(out, access.Permission{
			Actions: f.texts("actions"), NotActions: f.texts("notActions"), DataActions: f.texts("dataActions"), NotDataActions: f.texts("notDataActions"),
		})
	}
	return out
}

func deleteRole(a *api, r *request) (answer, error) {
	x, existed, err := a.Plane.DeleteRole(r.ctx, r.caller, r.id)
	if err != nil || !existed {
		return answer{status: http.StatusNoContent}, err
	}
	return ok(roleOf(r.scope, x)), nil
}

// decisionBody tells whether somebody may do something; this API is Carillon's own.
type decisionBody struct {
	Allowed        bool          `json:"allowed"`
	PrincipalID    string        `json:"principalId,omitempty"`
	Action         string        `json:"action"`
	IsDataAction   bool          `json:"isDataAction"`
	Scope          string        `json:"scope"`
	Reasons        []reasonBody  `json:"reasons"`
	RolesThatGrant []string      `json:"rolesThatGrant"`
	DeniedBy       *denialBody   `json:"deniedBy,omitempty"`
	AlsoNeeded     *decisionBody `json:"alsoNeeded,omitempty"` // by the strict workspace rule
}

type reasonBody struct {
	RoleAssignmentID string `json:"roleAssignmentId"`
	RoleName         string `json:"roleName"`
	Scope            string `json:"scope"`
	GroupID          string `json:"groupId,omitempty"` // of the group that has the role
	Grants           bool   `json:"grants"`
	Why              string `json:"why"`
}

func decisionOf(d access.Decision) *decisionBody {
	b := &decisionBody{Allowed: d.Allowed, Action: d.Action, IsDataAction: d.DataAction, Scope: d.Scope.String(), Reasons: []reasonBody{}, RolesThatGrant: d.Roles, DeniedBy: denialOf(d.Denied)}
	for _, x := range d.Reasons {
		b.Reasons = append(b.Reasons, reasonBody{x.Assignment.ID().String(), x.Role, x.Assignment.Scope.String(), x.Group, x.Grants, x.Why})
	}
	if d.Linked != nil {
		b.AlsoNeeded = decisionOf(*d.Linked)
	}
	return b
}

func checkAccess(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	principal := f.str("principalId")
	data := value[bool](f, "isDataAction", "true or false")
	if principal == "" {
		principal = r.caller.ObjectID
	}
	d, err := a.Plane.CheckAccess(r.ctx, r.caller, r.scope, principal, f.str("action"), data != nil && *data, f.verdict(unread))
	if err != nil {
		return answer{}, err
	}
	b := decisionOf(d)
	b.PrincipalID = principal
	return ok(b), nil
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
