package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/resource"
)

// Decision is whether somebody may do something, and why.
type Decision struct {
	Action     string
	DataAction bool
	Scope      resource.ID
	Allowed    bool
	Reasons    []Reason // the role assignments of the principal and its groups, those that grant it first
	Roles      []string // the roles that would grant it and can be assigned at the scope

	Denied *DenyAssignment // what takes it away, whatever the reasons say; nil for nothing

	// Linked is a second permission that the strict workspace rule asks for; Allowed is
	// that of both.
	Linked *Decision
}

// Reason is what one role assignment does for a decision.
type Reason struct {
	Assignment Assignment
	Role       string // name of the role
	Group      string // object id of the group that has it, "" for the principal itself
	Grants     bool
	Why        string
}

// Decide tells whether a principal may do an action, or a data action, at a scope, and
// which role assignments, and which deny assignment, say so. It decides as
// [Authorizer.Check] does. A principal that is not in the directory has the assignments
// of its object id.
func (z *Authorizer) Decide(objectID, action string, data bool, scope resource.ID) Decision {
	d := z.decide(strings.ToLower(objectID), action, data, scope)
	workspace, guarded := workspaceOf(scope)
	if z.rule == Strict && !data && guarded && changesEventSubscriptions(action) {
		linked := z.decide(strings.ToLower(objectID), ActionWorkspaceWrite, false, workspace)
		d.Linked, d.Allowed = &linked, d.Allowed && linked.Allowed
	}
	return d
}

// changesEventSubscriptions reports whether CheckEventSubscriptionWrite guards an
// action.
func changesEventSubscriptions(action string) bool {
	action = strings.ToLower(action)
	verb := action[strings.LastIndexByte(action, '/')+1:]
	kind := strings.TrimSuffix(action, "/"+verb)
	return (verb == "write" || verb == "delete") && strings.HasPrefix(action, "microsoft.eventgrid/") &&
		(strings.HasSuffix(kind, "/eventsubscriptions") || strings.HasSuffix(kind, "/systemtopics"))
}

func (z *Authorizer) decide(objectID, action string, data bool, scope resource.ID) Decision {
	p := managementPlane
	if data {
		p = dataPlane
	}
	roles := z.directory.Roles()
	d := Decision{Action: action, DataAction: data, Scope: scope, Roles: roles.granting(p, action, scope)}
	ids := append([]string{objectID}, z.directory.groupsOf(objectID)...)
	for _, id := range ids {
		for _, a := range z.directory.assignedDirectly(id) {
			r := Reason{Assignment: a}
			if id != objectID {
				r.Group = id
			}
			role, known := roles.Role(a.RoleID)
			r.Role = role.Name
			switch {
			case !known:
				r.Role, r.Why = a.RoleID, "its role definition is not there"
			case a.Condition != "":
				r.Why = "it has a condition, and conditions are not evaluated"
			case !a.Scope.Contains(scope):
				r.Why = fmt.Sprintf("its scope %s does not hold %s", a.Scope, scope)
			default:
				r.Grants, r.Why = role.explain(p, action)
			}
			d.Allowed = d.Allowed || r.Grants
			d.Reasons = append(d.Reasons, r)
		}
	}
	if d.Denied = z.directory.denied(ids, p, strings.ToLower(action), scope); d.Denied != nil {
		d.Allowed = false
	}
	slices.SortStableFunc(d.Reasons, func(a, b Reason) int {
		switch {
		case a.Grants != b.Grants && a.Grants:
			return -1
		case a.Grants != b.Grants:
			return 1
		}
		return strings.Compare(a.Assignment.ID().Key(), b.Assignment.ID().Key())
	})
	return d
}

// explain says which pattern of a role grants an action, or why none does.
func (r Role) explain(p plane, action string) (grants bool, why string) {
	lower, taken := strings.ToLower(action), ""
	for _, block := range r.Permissions {
		grant, except, names := block.Actions, block.NotActions, [2]string{"actions", "notActions"}
		if p == dataPlane {
			grant, except, names = block.DataActions, block.NotDataActions, [2]string{"dataActions", "notDataActions"}
		}
		g, e := firstMatch(grant, lower), firstMatch(except, lower)
		switch {
		case g != "" && e == "":
			return true, fmt.Sprintf("%q in its %s grants it", g, names[0])
		case g != "" && taken == "":
			taken = fmt.Sprintf("%q in its %s grants it and %q in its %s takes it away", g, names[0], e, names[1])
		}
	}
	switch {
	case taken != "":
		return false, taken
	case p == dataPlane:
		return false, "none of its dataActions is that"
	}
	return false, "none of its actions is that"
}

// firstMatch returns the first pattern that an action, in lower case, matches.
func firstMatch(texts []string, action string) string {
	i := slices.IndexFunc(patterns(texts), func(p pattern) bool { return p.match(action) })
	if i < 0 {
		return ""
	}
	return texts[i]
}
