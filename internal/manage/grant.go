package manage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const (
	actionAssignments = "Microsoft.Authorization/roleAssignments/"
	actionRoles       = "Microsoft.Authorization/roleDefinitions/"
	actionDenials     = "Microsoft.Authorization/denyAssignments/"
)

// RoleAssignment returns a role assignment by its id.
func (p *Plane) RoleAssignment(ctx context.Context, caller access.Caller, id resource.ID) (access.Assignment, error) {
	if err := p.authorize(ctx, caller, actionAssignments+"read", id); err != nil {
		return access.Assignment{}, err
	}
	a, ok := p.Directory.Assignment(id)
	if !ok {
		return a, notFound("RoleAssignmentNotFound", "The role assignment '%s' is not found.", id)
	}
	return a, nil
}

// RoleAssignments returns the role assignments that count at a scope, and those
// below it unless the filter says otherwise.
func (p *Plane) RoleAssignments(ctx context.Context, caller access.Caller, scope resource.ID, f access.AssignmentFilter) ([]access.Assignment, error) {
	if err := p.authorize(ctx, caller, actionAssignments+"read", scope); err != nil {
		return nil, err
	}
	return p.Directory.Assignments(scope, f), nil
}

// PutRoleAssignment grants a role and reports whether that is new. The right to
// grant is needed at the very scope. unread says why the request could not be
// read, nil when it could.
func (p *Plane) PutRoleAssignment(ctx context.Context, caller access.Caller, a access.Assignment, unread error) (access.Assignment, bool, error) {
	if err := p.authorize(ctx, caller, actionAssignments+"write", a.Scope); err != nil {
		return a, false, err
	}
	if unread != nil {
		return a, false, unread
	}
	a, created, err := p.Directory.Assign(ctx, a, caller)
	if err == nil {
		p.changed(ctx, caller, "put", a.ID(), slog.String("assigned_to", a.PrincipalID), slog.String("role", a.RoleID))
	}
	return a, created, err
}

// DeleteRoleAssignment takes a role away and returns what was there.
func (p *Plane) DeleteRoleAssignment(ctx context.Context, caller access.Caller, id resource.ID) (a access.Assignment, existed bool, err error) {
	if err := p.authorize(ctx, caller, actionAssignments+"delete", id); err != nil {
		return a, false, err
	}
	a, err = p.Directory.Unassign(ctx, id)
	switch {
	case fault.Is(err, fault.NotFound):
		return a, false, nil
	case err != nil:
		return a, false, err
	}
	p.changed(ctx, caller, "delete", id, slog.String("assigned_to", a.PrincipalID), slog.String("role", a.RoleID))
	return a, true, nil
}

// DenyAssignment returns a deny assignment by its id.
func (p *Plane) DenyAssignment(ctx context.Context, caller access.Caller, id resource.ID) (access.DenyAssignment, error) {
	if err := p.authorize(ctx, caller, actionDenials+"read", id); err != nil {
		return access.DenyAssignment{}, err
	}
	a, ok := p.Directory.DenyAssignment(id)
	if !ok {
		return a, notFound("DenyAssignmentNotFound", "The deny assignment '%s' is not found.", id)
	}
	return a, nil
}

// DenyAssignments returns the deny assignments that count at a scope, and those below
// it unless the filter says otherwise.
func (p *Plane) DenyAssignments(ctx context.Context, caller access.Caller, scope resource.ID, f access.AssignmentFilter) ([]access.DenyAssignment, error) {
	if err := p.authorize(ctx, caller, actionDenials+"read", scope); err != nil {
		return nil, err
	}
	return p.Directory.DenyAssignments(scope, f), nil
}

// PutDenyAssignment stores a deny assignment and reports whether it is new. Another form
// of one that is there takes away what it said, so that needs the right to delete it as
// well: whoever it keeps from that could empty it instead. unread says why the request
// could not be read, nil when it could.
func (p *Plane) PutDenyAssignment(ctx context.Context, caller access.Caller, a access.DenyAssignment, unread error) (access.DenyAssignment, bool, error) {
	if err := p.authorize(ctx, caller, actionDenials+"write", a.Scope); err != nil {
		return a, false, err
	}
	if _, exists := p.Directory.DenyAssignment(a.ID()); exists {
		if err := p.Access.CheckLinked(caller, actionDenials+"write", a.Scope, actionDenials+"delete", a.ID()); err != nil {
			return a, false, err
		}
	}
	if unread != nil {
		return a, false, unread
	}
	a, created, err := p.Directory.Deny(ctx, a, caller)
	if err == nil {
		p.changed(ctx, caller, "put", a.ID(), slog.String("name", a.Title))
	}
	return a, created, err
}

// DeleteDenyAssignment removes a deny assignment and returns what was there.
func (p *Plane) DeleteDenyAssignment(ctx context.Context, caller access.Caller, id resource.ID) (a access.DenyAssignment, existed bool, err error) {
	if err := p.authorize(ctx, caller, actionDenials+"delete", id); err != nil {
		return a, false, err
	}
	a, err = p.Directory.Undeny(ctx, id)
	switch {
	case fault.Is(err, fault.NotFound):
		return a, false, nil
	case err != nil:
		return a, false, err
	}
	p.changed(ctx, caller, "delete", id, slog.String("name", a.Title))
	return a, true, nil
}

// removeGranted removes the record of a resource, and the roles and denials at and below
// its ids: another one of its name must not inherit them. The roles go before the record
// and the denials behind it, so that wherever this is cut short, nobody may do more than
// before; repeated, it goes on.
func (p *Plane) removeGranted(ctx context.Context, record func() error, ids ...resource.ID) error {
	for _, id := range ids {
		for _, a := range p.Directory.AssignmentsWithin(id) {
			if _, err := p.Directory.Unassign(ctx, a.ID()); err != nil && !fault.Is(err, fault.NotFound) {
				return fmt.Errorf("remove role assignment %s: %w", a.ID(), err)
			}
		}
	}
	if err := record(); err != nil {
		return err
	}
	for _, id := range ids {
		for _, a := range p.Directory.DenyAssignmentsWithin(id) {
			if _, err := p.Directory.Undeny(ctx, a.ID()); err != nil && !fault.Is(err, fault.NotFound) {
				return fmt.Errorf("remove deny assignment %s: %w", a.ID(), err)
			}
		}
	}
	return nil
}

// Roles returns the role definitions that can be assigned at a scope, above it or
// below it.
func (p *Plane) Roles(ctx context.Context, caller access.Caller, scope resource.ID) ([]access.Role, error) {
	if err := p.authorize(ctx, caller, actionRoles+"read", scope); err != nil {
		return nil, err
	}
	var roles []access.Role
	for _, r := range p.Directory.Roles().List() {
		if slices.ContainsFunc(r.Scopes(), func(s resource.ID) bool { return s.Contains(scope) || scope.Contains(s) }) {
			roles = append(roles, r)
		}
	}
	return roles, nil
}

// PutRole stores a custom role definition. The right to do so is needed at the id and
// at each scope where the role can be assigned, now and before: who may manage access
// to one workspace must not widen a role that others have elsewhere. unread says why
// the request could not be read, nil when it could.
func (p *Plane) PutRole(ctx context.Context, caller access.Caller, id resource.ID, r access.Role, unread error) (access.Role, error) {
	if err := p.authorize(ctx, caller, actionRoles+"write", id); err != nil {
		return r, err
	}
	if unread != nil {
		return r, unread
	}
	old, _ := p.Directory.Roles().Role(r.ID)
	if old.Type == access.BuiltInRole {
		old = access.Role{}
	}
	for _, scope := range append(r.Scopes(), old.Scopes()...) {
		if err := p.Access.CheckLinked(caller, actionRoles+"write", id, actionRoles+"write", scope); err != nil {
			return r, err
		}
	}
	r, err := p.Directory.Define(ctx, r, caller)
	if err == nil {
		p.changed(ctx, caller, "put", id, slog.String("role", r.Name))
	}
	return r, err
}

// DeleteRole removes a custom role definition that nobody has, and returns it.
func (p *Plane) DeleteRole(ctx context.Context, caller access.Caller, id resource.ID) (r access.Role, existed bool, err error) {
	if err := p.authorize(ctx, caller, actionRoles+"delete", id); err != nil {
		return r, false, err
	}
	old, ok := p.Directory.Roles().Role(id.Name())
	if !ok {
		return r, false, nil
	}
	if old.Type == access.CustomRole {
		for _, scope := range old.Scopes() {
			if err := p.Access.CheckLinked(caller, actionRoles+"delete", id, actionRoles+"delete", scope); err != nil {
				return r, false, err
			}
		}
	}
	r, err = p.Directory.Undefine(ctx, id.Name())
	if err != nil {
		return r, false, err
	}
	p.changed(ctx, caller, "delete", id, slog.String("role", r.Name))
	return r, true, nil
}

// CheckAccess tells whether a principal may do something at a scope, and why. Everybody
// may ask it of themselves; of others, who may read role assignments there.
func (p *Plane) CheckAccess(ctx context.Context, caller access.Caller, scope resource.ID, objectID, action string, data bool, unread error) (access.Decision, error) {
	if !strings.EqualFold(objectID, caller.ObjectID) {
		if err := p.authorize(ctx, caller, actionAssignments+"read", scope); err != nil {
			return access.Decision{}, err
		}
	}
	if unread != nil {
		return access.Decision{}, unread
	}
	var problems []*fault.Error
	if uuid.Validate(objectID) != nil {
		problems = append(problems, fault.Field("principalId", "The value '%.80s' of principalId is not an object id, a GUID.", objectID))
	}
	if action == "" || strings.Contains(action, "*") {
		problems = append(problems, fault.Field("action", "The value '%.80s' of action is not one action: write it like Microsoft.EventGrid/topics/write.", action))
	}
	if err := fault.Join(problems...); err != nil {
		return access.Decision{}, err
	}
	return p.Access.Decide(objectID, action, data, scope), nil
}

// Role returns one role definition.
func (p *Plane) Role(ctx context.Context, caller access.Caller, id resource.ID) (access.Role, error) {
	if err := p.authorize(ctx, caller, actionRoles+"read", id); err != nil {
		return access.Role{}, err
	}
	r, ok := p.Directory.Roles().Role(id.Name())
	if !ok {
		return r, notFound("RoleDefinitionDoesNotExist", "The specified role definition with ID '%s' does not exist.", id.Name())
	}
	return r, nil
}
