package access

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Everyone stands for every principal among those of a deny assignment.
// Source: spec/access.md section 7.
const Everyone = "00000000-0000-0000-0000-000000000000"

// systemDefined is the principal type of Everyone.
const systemDefined PrincipalType = "SystemDefined"

// Limits of deny assignments.
const (
	maxDenyName       = 256
	maxDenyPrincipals = 100 // of each list
	maxDenials        = 1000
)

// Denied is a principal that a deny assignment names.
type Denied struct {
	ID   string        `json:"id"` // object id, lower case, or Everyone
	Type PrincipalType `json:"type"`
}

// DenyAssignment takes actions away from principals at a scope, whatever roles they
// have. Azure makes them itself; here administrators do.
// Source: spec/access.md sections 6, 7 and 12.
type DenyAssignment struct {
	Name        string       `json:"name"` // GUID
	Scope       resource.ID  `json:"scope"`
	Title       string       `json:"title"` // what people call it
	Description string       `json:"description,omitempty"`
	Permissions []Permission `json:"permissions"`         // what is taken away
	OnlyScope   bool         `json:"onlyScope,omitempty"` // not what lies below it
	Principals  []Denied     `json:"principals"`
	Excluded    []Denied     `json:"excluded,omitempty"` // who of them is not meant
	Created     time.Time    `json:"created"`
	CreatedBy   string       `json:"createdBy,omitempty"` // object id
	Updated     time.Time    `json:"updated"`
	UpdatedBy   string       `json:"updatedBy,omitempty"`
}

// ID returns the deny assignment's resource id.
func (a DenyAssignment) ID() resource.ID { return denyID(a.Scope, a.Name) }

func denyID(scope resource.ID, name string) resource.ID {
	return scope.Extension("Microsoft.Authorization", "denyAssignments", name)
}

// covers reports whether a target lies where the deny assignment holds.
func (a *DenyAssignment) covers(target resource.ID) bool {
	if a.OnlyScope {
		return a.Scope.Equal(target)
	}
	return a.Scope.Contains(target)
}

// meets reports whether it is about somebody who has these ids: the own one and those
// of groups.
func (a *DenyAssignment) meets(ids []string) bool {
	names := func(list []Denied) bool {
		return slices.ContainsFunc(list, func(d Denied) bool { return d.ID == Everyone || slices.Contains(ids, d.ID) })
	}
	return names(a.Principals) && !names(a.Excluded)
}

// denial is a deny assignment made ready for deciding.
type denial struct {
	DenyAssignment
	matcher *matcher
}

// indexDenials brings the denials in step with the stored ones. They are few, so all
// are compiled anew.
func (d *Directory) indexDenials(string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []denial
	for _, item := range d.denyAssignments.List("") {
		all = append(all, denial{item.Value, compile(Role{Permissions: item.Value.Permissions})})
	}
	d.denials.Store(&all)
}

// denied returns the deny assignment that keeps somebody with these ids, the own one
// first, from an action, given in lower case; nil for none. What denies it at one of the
// ids of an event subscription denies it at the other. Who the data directory
// belongs to can always read and remove deny assignments: nobody locks it out.
// Source: spec/access.md section 7.
func (d *Directory) denied(ids []string, p plane, action string, target resource.ID) *DenyAssignment {
	all := d.denials.Load()
	if all == nil || len(*all) == 0 || len(ids) == 0 {
		return nil
	}
	twin, _ := target.Twin()
	for i := range *all {
		if x := &(*all)[i]; (x.covers(target) || x.covers(twin)) && x.meets(ids) && x.matcher.allows(p, action) {
			if strings.HasPrefix(action, strings.ToLower(actionDenials)) && ids[0] == d.ownerID() {
				return nil
			}
			return &x.DenyAssignment
		}
	}
	return nil
}

// actionDenials begin the actions on deny assignments.
const actionDenials = "Microsoft.Authorization/denyAssignments/"

// ownerID is the object id of who the data directory belongs to.
func (d *Directory) ownerID() string {
	item, _ := d.origin.Get(originKey)
	return item.Value.Owner.ObjectID
}

// Deny stores a deny assignment, a new one or another form of one that is there, and
// reports whether it is new. It is refused when it would keep by from removing it.
func (d *Directory) Deny(ctx context.Context, a DenyAssignment, by Caller) (stored DenyAssignment, created bool, err error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	if a, err = d.checkDenial(a); err != nil {
		return a, false, err
	}
	own := denial{a, compile(Role{Permissions: a.Permissions})}
	if by.ObjectID != d.ownerID() && own.meets(by.ids()) && own.covers(a.ID()) && own.matcher.allows(managementPlane, strings.ToLower(actionDenials+"delete")) {
		return a, false, fault.New(fault.Conflict, "DenyAssignmentLocksOut",
			"This would keep you from removing it again. Exclude yourself with excludePrincipals, or leave %sdelete out.", actionDenials)
	}
	now := time.Now().UTC()
	a.Created, a.CreatedBy, a.Updated, a.UpdatedBy = now, by.ObjectID, now, by.ObjectID
	item, exists := d.denyAssignments.Get(a.ID().Key())
	if !exists {
		if len(d.denyAssignments.List("")) >= maxDenials {
			return a, false, fault.New(fault.Conflict, "DenyAssignmentLimitExceeded", "There are %d deny assignments, the most there can be. Delete one.", maxDenials)
		}
		_, err := d.denyAssignments.Create(ctx, a.ID().Key(), a)
		return a, true, err
	}
	a.Created, a.CreatedBy = item.Value.Created, item.Value.CreatedBy
	_, err = d.denyAssignments.Update(ctx, item.Key, a, item.Revision)
	return a, false, err
}

// checkDenial returns the deny assignment in its stored form, or every problem it has.
func (d *Directory) checkDenial(a DenyAssignment) (DenyAssignment, error) {
	var problems []*fault.Error
	if id, err := uuid.Parse(a.Name); err != nil || len(a.Name) != 36 {
		f := fault.Field("name", "The name %q of a deny assignment must be a GUID; what people read is properties.denyAssignmentName.", a.Name)
		f.Code = "InvalidDenyAssignmentId"
		problems = append(problems, f)
	} else {
		a.Name = id.String()
	}
	a.Title = strings.TrimSpace(a.Title)
	if n := utf8.RuneCountInString(a.Title); n == 0 || n > maxDenyName {
		problems = append(problems, fault.Field("properties.denyAssignmentName", "A deny assignment needs a name of 1 to %d characters; this one has %d.", maxDenyName, n))
	}
	if n := utf8.RuneCountInString(a.Description); n > maxRoleDescription {
		problems = append(problems, fault.Field("properties.description", "The description of a deny assignment has at most %d characters; this one has %d.", maxRoleDescription, n))
	}
	more := checkPermissions(&a.Permissions, "The deny assignment takes nothing away: give it at least one of actions and dataActions.")
	problems = append(problems, more...)
	for _, list := range []struct {
		name string
		of   *[]Denied
	}{{"principals", &a.Principals}, {"excludePrincipals", &a.Excluded}} {
		if len(*list.of) > maxDenyPrincipals {
			problems = append(problems, fault.Field("properties."+list.name, "A deny assignment names at most %d principals here; this one has %d.", maxDenyPrincipals, len(*list.of)))
			continue
		}
		checked := make([]Denied, len(*list.of))
		for i, p := range *list.of {
			var problem *fault.Error
			if checked[i], problem = d.checkDenied(fmt.Sprintf("properties.%s[%d]", list.name, i), p); problem != nil {
				problems = append(problems, problem)
			}
		}
		*list.of = checked
	}
	if len(a.Principals) == 0 {
		problems = append(problems, fault.Field("properties.principals", "A deny assignment needs principals: whom it is about; the id %s is everyone.", Everyone))
	}
	return a, fault.Join(problems...)
}

func (d *Directory) checkDenied(field string, p Denied) (Denied, *fault.Error) {
	id, err := uuid.Parse(p.ID)
	if err != nil || len(p.ID) != 36 {
		f := fault.Field(field+".id", "The principal id %q must be an object id, a GUID; %s is everyone.", p.ID, Everyone)
		f.Code = "InvalidPrincipalId"
		return p, f
	}
	p.ID = id.String()
	known, found := d.Principal(p.ID)
	if f := d.appIDInstead(field+".id", p.ID); f != nil && !found {
		return p, f
	}
	switch {
	case p.ID == Everyone:
		p.Type = systemDefined
	case found:
		p.Type = known.Type
	case p.Type == "":
		p.Type = User
	default:
		var ok bool
		if p.Type, ok = principalType(p.Type); !ok {
			return p, fault.Field(field+".type", "The principal type %q is not one of User, Group, ServicePrincipal, ForeignGroup, Device.", p.Type)
		}
	}
	return p, nil
}

// DenyAssignment finds a deny assignment by its id.
func (d *Directory) DenyAssignment(id resource.ID) (DenyAssignment, bool) {
	item, ok := d.denyAssignments.Get(id.Key())
	return item.Value, ok
}

// Undeny removes a deny assignment and returns it.
func (d *Directory) Undeny(ctx context.Context, id resource.ID) (DenyAssignment, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	item, ok := d.denyAssignments.Get(id.Key())
	if !ok {
		return DenyAssignment{}, fault.New(fault.NotFound, "DenyAssignmentNotFound", "The deny assignment '%s' is not found.", id)
	}
	return item.Value, d.denyAssignments.Delete(ctx, id.Key(), item.Revision)
}

// DenyAssignments returns the deny assignments at a scope, above it and, unless the
// filter says otherwise, below it, in the order of their ids.
func (d *Directory) DenyAssignments(scope resource.ID, f AssignmentFilter) []DenyAssignment {
	to := []string{strings.ToLower(f.AssignedTo)}
	to = append(to, d.groupsOf(to[0])...)
	var list []DenyAssignment
	for _, item := range d.denyAssignments.List("") {
		a := item.Value
		switch {
		case !a.Scope.Contains(scope) && (f.AtScope || !scope.Contains(a.Scope)):
		case f.PrincipalID != "" && !slices.ContainsFunc(a.Principals, func(p Denied) bool { return p.ID == f.PrincipalID }):
		case f.AssignedTo != "" && !a.meets(to):
		default:
			list = append(list, a)
		}
	}
	return list
}

// DenyAssignmentsWithin returns the deny assignments at a scope and below it.
func (d *Directory) DenyAssignmentsWithin(scope resource.ID) []DenyAssignment {
	return within(d.denyAssignments, scope)
}

// failedByDenial is the answer to a caller whom a deny assignment keeps from it.
// Source: spec/access.md section 11.
func failedByDenial(c Caller, action string, scope resource.ID, by *DenyAssignment) error {
	return fault.New(fault.Forbidden, "DenyAssignmentAuthorizationFailed",
		"The client '%s' with object id '%s' may have permission to perform action '%s' on scope '%s'; however, the access is denied because of the deny assignment with name '%s' and Id '%s' at scope '%s'.",
		c.Label(), c.ObjectID, action, scope, by.Title, by.ID(), by.Scope)
}
