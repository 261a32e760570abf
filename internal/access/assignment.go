package access

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Assignment is a role granted to a principal at a scope, and so for everything
// below the scope.
type Assignment struct {
	Name             string        `json:"name"` // GUID
	Scope            resource.ID   `json:"scope"`
	RoleID           string        `json:"roleId"`      // GUID of the role, lower case
	PrincipalID      string        `json:"principalId"` // object id, lower case
	PrincipalType    PrincipalType `json:"principalType"`
	Description      string        `json:"description,omitempty"`
	Condition        string        `json:"condition,omitempty"` // of a newer version; an assignment that has one grants nothing here
	ConditionVersion string        `json:"conditionVersion,omitempty"`
	Created          time.Time     `json:"created"`
	CreatedBy        string        `json:"createdBy,omitempty"` // object id
	Updated          time.Time     `json:"updated"`
	UpdatedBy        string        `json:"updatedBy,omitempty"`
}

// ID returns the assignment's resource id.
func (a Assignment) ID() resource.ID { return assignmentID(a.Scope, a.Name) }

func assignmentID(scope resource.ID, name string) resource.ID {
	return scope.Extension("Microsoft.Authorization", "roleAssignments", name)
}

// Assign stores a role assignment and reports whether it is new. RoleID may be
// any spelling of the definition's id; PrincipalType may be empty for a principal
// of the directory. The same assignment again changes nothing but its description.
// Source: spec/access.md section 12.
func (d *Directory) Assign(ctx context.Context, a Assignment, by Caller) (stored Assignment, created bool, err error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	a, err = d.checkAssignment(a)
	if err != nil {
		return Assignment{}, false, err
	}
	now := time.Now().UTC()
	key := a.ID().Key()
	if item, ok := d.assignments.Get(key); ok {
		old := item.Value
		if old.RoleID != a.RoleID || old.PrincipalID != a.PrincipalID {
			return Assignment{}, false, fault.New(fault.Conflict, "RoleAssignmentUpdateNotPermitted",
				"Role assignment %s exists; its principal, role and scope cannot be changed. Delete it and make another.", old.Name)
		}
		if old.Description == a.Description {
			return old, false, nil
		}
		old.Description, old.Updated, old.UpdatedBy = a.Description, now, by.ObjectID
		if _, err := d.assignments.Update(ctx, key, old, item.Revision); err != nil {
			return Assignment{}, false, err
		}
		return old, false, nil
	}
	for _, other := range d.assignedDirectly(a.PrincipalID) {
		if other.RoleID == a.RoleID && other.Scope.Equal(a.Scope) {
			return Assignment{}, false, fault.New(fault.Conflict, "RoleAssignmentExists",
				"The role assignment already exists. Its name is %s.", other.Name)
		}
	}
	a.Created, a.CreatedBy, a.Updated, a.UpdatedBy = now, by.ObjectID, now, by.ObjectID
	if _, err := d.assignments.Create(ctx, key, a); err != nil {
		return Assignment{}, false, err
	}
	return a, true, nil
}

// checkAssignment returns the assignment with its ids in their stored form, or
// every problem it has.
func (d *Directory) checkAssignment(a Assignment) (Assignment, error) {
	var problems []*fault.Error
	if a.Scope.IsZero() {
		problems = append(problems, fault.Field("properties.scope", "A role assignment needs a scope."))
	}
	if name, err := uuid.Parse(a.Name); err != nil || len(a.Name) != 36 {
		f := fault.Field("name", "The name %q of a role assignment must be a GUID.", a.Name)
		f.Code = "InvalidRoleAssignmentId"
		problems = append(problems, f)
	} else {
		a.Name = name.String()
	}
	if role, ok := d.Roles().Role(a.RoleID); !ok {
		f := fault.Field("properties.roleDefinitionId", "The specified role definition with ID '%s' does not exist.", a.RoleID)
		f.Code = "RoleDefinitionDoesNotExist"
		problems = append(problems, f)
	} else {
		a.RoleID = role.ID
		if !a.Scope.IsZero() && !role.AssignableAt(a.Scope) {
			f := fault.Field("properties.scope", "The role '%s' cannot be assigned at scope '%s': its assignable scopes are %s.", role.Name, a.Scope, strings.Join(role.AssignableScopes, ", "))
			f.Code = "RoleAssignmentScopeNotAssignableToRoleDefinition"
			problems = append(problems, f)
		}
	}
	known, found := d.Principal(a.PrincipalID)
	if id, err := uuid.Parse(a.PrincipalID); err != nil || len(a.PrincipalID) != 36 {
		f := fault.Field("properties.principalId", "The principal id %q must be an object id, a GUID.", a.PrincipalID)
		f.Code = "InvalidPrincipalId"
		problems = append(problems, f)
	} else if a.PrincipalID = id.String(); !found {
		if f := d.appIDInstead("properties.principalId", a.PrincipalID); f != nil {
			problems = append(problems, f)
		}
	}
	switch {
	case found && a.PrincipalType != "" && !strings.EqualFold(string(a.PrincipalType), string(known.Type)):
		f := fault.Field("properties.principalType", "Principal %s is a %s, not a %s.", a.PrincipalID, known.Type, a.PrincipalType)
		f.Code = "UnmatchedPrincipalType"
		problems = append(problems, f)
	case found:
		a.PrincipalType = known.Type
	case a.PrincipalType == "":
		// Somebody whom only a foreign issuer knows. Azure takes it for a user.
		a.PrincipalType = User
	default:
		if a.PrincipalType, found = principalType(a.PrincipalType); !found {
			problems = append(problems, fault.Field("properties.principalType",
				"The principal type %q is not one of User, Group, ServicePrincipal, ForeignGroup, Device.", a.PrincipalType))
		}
	}
	if a.Condition != "" {
		problems = append(problems, fault.Field("properties.condition", "Conditions on role assignments are not supported. Leave the condition out, or assign a narrower role or scope."))
	}
	return a, fault.Join(problems...)
}

// appIDInstead is the problem of an id that is the app id of a principal: a role for it
// would be one for nobody, and a deny assignment would keep nobody from anything.
func (d *Directory) appIDInstead(field, id string) *fault.Error {
	p, ok := d.PrincipalByApp(id)
	if !ok {
		return nil
	}
	f := fault.Field(field, "The id %s is the app id of principal %q: give its object id, %s.", id, p.Name, p.ObjectID)
	f.Code = "InvalidPrincipalId"
	return f
}

// principalType gives a type its spelling.
func principalType(t PrincipalType) (PrincipalType, bool) {
	for _, known := range []PrincipalType{User, Group, ServicePrincipal, "ForeignGroup", "Device"} {
		if strings.EqualFold(string(t), string(known)) {
			return known, true
		}
	}
	return t, false
}

// Assignment finds a role assignment by its id.
func (d *Directory) Assignment(id resource.ID) (Assignment, bool) {
	item, ok := d.assignments.Get(id.Key())
	return item.Value, ok
}

// Unassign removes a role assignment and returns it. The last assignment that
// makes somebody Owner of everything stays.
func (d *Directory) Unassign(ctx context.Context, id resource.ID) (Assignment, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	item, ok := d.assignments.Get(id.Key())
	if !ok {
		return Assignment{}, fault.New(fault.NotFound, "RoleAssignmentNotFound", "The role assignment '%s' is not found.", id)
	}
	a := item.Value
	if ownsAll(a) && d.onlyOwner(a.PrincipalID) {
		return Assignment{}, errLastOwner()
	}
	if err := d.assignments.Delete(ctx, id.Key(), item.Revision); err != nil {
		return Assignment{}, err
	}
	return a, nil
}

// ownsAll reports whether an assignment makes its principal Owner of everything.
func ownsAll(a Assignment) bool {
	return a.RoleID == RoleOwner && a.Scope.Equal(resource.Root) && a.Condition == ""
}

// onlyOwner reports whether the principal is Owner of everything and no other
// principal that can sign in is. Groups do not count: they may be empty.
func (d *Directory) onlyOwner(principalID string) bool {
	owner := false
	for _, item := range d.assignments.List(assignmentID(resource.Root, "").Key()) {
		if !ownsAll(item.Value) {
			continue
		}
		if item.Value.PrincipalID == principalID {
			owner = true
			continue
		}
		if p, ok := d.Principal(item.Value.PrincipalID); ok && p.Enabled && p.Type != Group {
			return false
		}
	}
	return owner
}

func errLastOwner() error {
	return fault.New(fault.Conflict, "LastOwner", "This would leave nobody who is Owner at the scope '/'. Assign that role to another principal first.")
}

// AssignmentFilter narrows a list of role assignments.
type AssignmentFilter struct {
	AtScope     bool   // leave out the scopes below
	PrincipalID string // only those of this principal
	AssignedTo  string // only those of this principal and of the groups it is in
}

var filterTerms = []struct {
	form *regexp.Regexp
	set  func(f *AssignmentFilter, id string)
}{
	{regexp.MustCompile(`(?i)^atScope\(\s*\)$`), func(f *AssignmentFilter, _ string) { f.AtScope = true }},
	{regexp.MustCompile(`(?i)^principalId\s+eq\s+'([^']*)'$`), func(f *AssignmentFilter, id string) { f.PrincipalID = id }},
	{regexp.MustCompile(`(?i)^gdprExportPrincipalId\s+eq\s+'([^']*)'$`), func(f *AssignmentFilter, id string) { f.PrincipalID = id }},
	{regexp.MustCompile(`(?i)^assignedTo\(\s*'([^']*)'\s*\)$`), func(f *AssignmentFilter, id string) { f.AssignedTo = id }},
}

var filterAnd = regexp.MustCompile(`(?i)\s+and\s+`)

// ParseAssignmentFilter reads the $filter of a role assignment list: terms of
// atScope(), principalId eq '{id}' and assignedTo('{id}'), joined by "and".
// Source: spec/access.md section 12.
func ParseAssignmentFilter(text string) (AssignmentFilter, error) {
	var f AssignmentFilter
	text = strings.TrimSpace(text)
	if text == "" {
		return f, nil
	}
terms:
	for _, term := range filterAnd.Split(text, -1) {
		for _, t := range filterTerms {
			if m := t.form.FindStringSubmatch(term); m != nil {
				id := ""
				if len(m) > 1 {
					parsed, err := uuid.Parse(m[1])
					if err != nil {
						return f, fault.Field("$filter", "The id '%s' in the filter is not a GUID.", m[1])
					}
					id = parsed.String()
				}
				t.set(&f, id)
				continue terms
			}
		}
		return f, fault.Field("$filter", "The filter term %q is not one of atScope(), principalId eq '{id}', assignedTo('{id}').", term)
	}
	return f, nil
}

// Assignments returns the role assignments at a scope, above it and, unless the
// filter says otherwise, below it, in the order of their ids.
// Source: spec/access.md section 12.
func (d *Directory) Assignments(scope resource.ID, f AssignmentFilter) []Assignment {
	to := map[string]bool{}
	if f.AssignedTo != "" {
		id := strings.ToLower(f.AssignedTo)
		to[id] = true
		for _, g := range d.groupsOf(id) {
			to[g] = true
		}
	}
	var list []Assignment
	for _, item := range d.assignments.List("") {
		a := item.Value
		switch {
		case !a.Scope.Contains(scope) && (f.AtScope || !scope.Contains(a.Scope)):
		case f.PrincipalID != "" && !strings.EqualFold(a.PrincipalID, f.PrincipalID):
		case f.AssignedTo != "" && !to[a.PrincipalID]:
		default:
			list = append(list, a)
		}
	}
	return list
}

// AssignmentsWithin returns the role assignments at a scope and below it.
func (d *Directory) AssignmentsWithin(scope resource.ID) []Assignment {
	return within(d.assignments, scope)
}

// within returns the records at a scope and below it: their keys are ids.
func within[T any](c *resource.Collection[T], scope resource.ID) (list []T) {
	c.Scan(strings.TrimSuffix(scope.Key(), "/")+"/", "", func(item resource.Item[T]) bool {
		list = append(list, item.Value)
		return true
	})
	return list
}

// assignedDirectly returns the assignments of one principal itself.
func (d *Directory) assignedDirectly(principalID string) []Assignment {
	d.mu.RLock()
	defer d.mu.RUnlock()
	list := make([]Assignment, 0, len(d.grants[principalID]))
	for _, a := range d.grants[principalID] {
		list = append(list, a)
	}
	return list
}
