package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Actions that this package itself asks for, and those that guard principals.
// Principals are written by whoever may manage access, so the action lies in
// Microsoft.Authorization and ends in "write": Contributor's notActions then keep
// it from giving itself the secret of an Owner. Check them at resource.Root.
const (
	ActionWorkspaceWrite = "Microsoft.MachineLearningServices/workspaces/write"
	ActionSend           = "Microsoft.EventGrid/events/send/action"    // data plane
	ActionReceive        = "Microsoft.EventGrid/events/receive/action" // data plane

	ActionPrincipalRead  = "Microsoft.Authorization/principals/read"
	ActionPrincipalWrite = "Microsoft.Authorization/principals/write" // create, reset, enable, disable, delete; signing keys
)

// SigningKeysID is what the keys of the built-in issuer are called where resources are
// named.
var SigningKeysID = resource.Root.Extension("Carillon.Identity", "signingKeys", "tokens")

// WorkspaceRule is how event subscriptions on a workspace are guarded.
type WorkspaceRule string

// The workspace rules. Strict asks for write permission on the workspace itself as
// well, so Contributor and Owner may and the Event Grid roles may not; Actions is
// Azure's plain evaluation. Source: spec/access.md section 10.
const (
	Strict  WorkspaceRule = "strict"
	Actions WorkspaceRule = "actions"
)

// Authorizer decides what a caller may do. It is safe for concurrent use.
type Authorizer struct {
	directory *Directory
	rule      WorkspaceRule
}

// NewAuthorizer returns an Authorizer over a directory. An empty rule is Strict.
func NewAuthorizer(d *Directory, rule WorkspaceRule) (*Authorizer, error) {
	switch rule {
	case "":
		rule = Strict
	case Strict, Actions:
	default:
		return nil, fmt.Errorf("workspace rule %q is neither %q nor %q", rule, Strict, Actions)
	}
	return &Authorizer{directory: d, rule: rule}, nil
}

// Allowed reports whether the caller may do a management action at a scope.
func (z *Authorizer) Allowed(c Caller, action string, scope resource.ID) bool {
	return z.directory.allowed(c.ids(), managementPlane, strings.ToLower(action), scope)
}

// AllowedData reports whether the caller may do a data action at a scope.
func (z *Authorizer) AllowedData(c Caller, dataAction string, scope resource.ID) bool {
	return z.directory.allowed(c.ids(), dataPlane, strings.ToLower(dataAction), scope)
}

// Check returns nil when the caller may do a management action at a scope, and
// otherwise a Forbidden fault that names the action and the roles that grant it.
func (z *Authorizer) Check(c Caller, action string, scope resource.ID) error {
	if z.Allowed(c, action, scope) {
		return nil
	}
	return z.failed(c, managementPlane, action, scope)
}

// CheckData is Check for a data action.
func (z *Authorizer) CheckData(c Caller, dataAction string, scope resource.ID) error {
	if z.AllowedData(c, dataAction, scope) {
		return nil
	}
	return z.failed(c, dataPlane, dataAction, scope)
}

// CheckLinked is the second check of an operation that touches another resource:
// the caller may do action at scope, and needs linkedAction at linked as well.
// Source: spec/access.md section 11.
func (z *Authorizer) CheckLinked(c Caller, action string, scope resource.ID, linkedAction string, linked resource.ID) error {
	if z.Allowed(c, linkedAction, linked) {
		return nil
	}
	if err := z.CheckNotDenied(c, linkedAction, linked); err != nil {
		return err
	}
	f := fault.New(fault.Forbidden, "LinkedAuthorizationFailed",
		"The client '%s' with object id '%s' has permission to perform action '%s' on scope '%s', but it does not have permission to perform action '%s' on the linked scope '%s', or the linked scope is invalid.",
		c.Label(), c.ObjectID, action, scope, linkedAction, linked)
	f.Info = z.missing(managementPlane, linkedAction, linked)
	return f
}

// CheckNotDenied returns nil when no deny assignment keeps the caller from an action at a
// scope, whatever its roles say: for what goes along with something that the caller may
// do.
func (z *Authorizer) CheckNotDenied(c Caller, action string, scope resource.ID) error {
	return z.notDenied(c, managementPlane, action, scope)
}

func (z *Authorizer) notDenied(c Caller, p plane, action string, scope resource.ID) error {
	if by := z.directory.denied(c.ids(), p, strings.ToLower(action), scope); by != nil {
		return failedByDenial(c, action, scope, by)
	}
	return nil
}

// CheckEventSubscriptionWrite guards everything that changes event subscriptions,
// and the system topics that they can hang under: the action at the target, and
// under the strict rule write permission on the workspace when the source is one.
// source is what raises the events; for a system topic pass the system topic's
// source, or an event subscription under it would go around the rule.
// Source: spec/access.md section 10.
func (z *Authorizer) CheckEventSubscriptionWrite(c Caller, action string, target, source resource.ID) error {
	if z.rule != Strict {
		return z.Check(c, action, target)
	}
	if !z.Allowed(c, action, target) {
		for _, id := range []resource.ID{source, target} {
			if _, ok := workspaceOf(id); ok { // a role with the action alone would be refused next
				return z.failed(c, managementPlane, action, target, ActionWorkspaceWrite)
			}
		}
		return z.failed(c, managementPlane, action, target)
	}
	for _, id := range []resource.ID{source, target} {
		if workspace, ok := workspaceOf(id); ok {
			if err := z.CheckLinked(c, action, target, ActionWorkspaceWrite, workspace); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckEventRead guards the reading of event bodies: it takes the data action
// events/receive/action, or write permission on the source itself.
func (z *Authorizer) CheckEventRead(c Caller, source resource.ID) error {
	if z.AllowedData(c, ActionReceive, source) {
		return nil
	}
	if kind := source.Type(); kind != "" && z.Allowed(c, kind+"/write", source) {
		return nil
	}
	return z.failed(c, dataPlane, ActionReceive, source)
}

// CheckReceive guards the receiving of events, which also takes them away from others: it
// takes the data action at the event subscription, and under the strict rule what making
// an event subscription of the workspace takes as well. source is what raises the events.
func (z *Authorizer) CheckReceive(c Caller, eventSubscription, source resource.ID) error {
	allowed := z.AllowedData(c, ActionReceive, eventSubscription)
	if twin, has := eventSubscription.Twin(); has && !allowed {
		allowed = z.AllowedData(c, ActionReceive, twin)
	}
	if !allowed {
		return z.failed(c, dataPlane, ActionReceive, eventSubscription)
	}
	if workspace, ok := workspaceOf(source); ok && z.rule == Strict {
		return z.CheckLinked(c, ActionReceive, eventSubscription, ActionWorkspaceWrite, workspace)
	}
	return nil
}

// workspaceOf returns the workspace that id is or lies in.
func workspaceOf(id resource.ID) (resource.ID, bool) {
	for ; !id.IsZero() && !id.Equal(resource.Root); id = id.Parent() {
		if id.IsType(resource.TypeWorkspace) {
			return id, true
		}
	}
	return resource.ID{}, false
}

// failed is the answer to a caller that may not. The roles that it names grant the
// further actions as well. Source: spec/access.md section 11.
func (z *Authorizer) failed(c Caller, p plane, action string, scope resource.ID, further ...string) error {
	if by := z.directory.denied(c.ids(), p, strings.ToLower(action), scope); by != nil {
		return failedByDenial(c, action, scope, by)
	}
	f := fault.New(fault.Forbidden, "AuthorizationFailed",
		"The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		c.Label(), c.ObjectID, action, scope)
	f.Info = z.missing(p, action, scope, further...)
	return f
}

// MissingPermission is the additional information of a 403: what to ask an
// administrator for.
type MissingPermission struct {
	Action         string   `json:"action"`
	Scope          string   `json:"scope"`
	RolesThatGrant []string `json:"rolesThatGrant"`
}

func (z *Authorizer) missing(p plane, action string, scope resource.ID, further ...string) []fault.Info {
	granting := z.directory.Roles().granting(p, action, scope)
	for _, f := range further {
		also := z.directory.Roles().granting(p, f, scope)
		granting = slices.DeleteFunc(granting, func(role string) bool { return !slices.Contains(also, role) })
	}
	return []fault.Info{{Type: "MissingPermission", Info: MissingPermission{
		Action: action, Scope: scope.String(), RolesThatGrant: granting,
	}}}
}
