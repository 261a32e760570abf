package access

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Limits of a custom role.
const (
	maxRoleName        = 128
	maxRoleDescription = 1024
	maxRolePatterns    = 1000 // of all lists together
	maxRoleBlocks      = 100
	maxRoleScopes      = 100
	maxRoles           = 1000
)

// actionPattern is the form of an action in a role: words parted by slashes, with
// stars anywhere. Source: spec/access.md section 6.
var actionPattern = regexp.MustCompile(`^[A-Za-z0-9.*_-]+(/[A-Za-z0-9.*_-]+)*$`)

// Define stores a custom role definition, a new one or another form of one that is
// there. It holds for the next request, also where it is assigned already.
// Source: spec/access.md section 12.
func (d *Directory) Define(ctx context.Context, role Role, by Caller) (Role, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	role, err := d.checkRole(role)
	if err != nil {
		return Role{}, err
	}
	now := time.Now().UTC()
	role.Created, role.CreatedBy, role.Updated, role.UpdatedBy = now, by.ObjectID, now, by.ObjectID
	item, exists := d.definitions.Get(role.ID)
	if !exists {
		if len(d.definitions.List("")) >= maxRoles {
			return Role{}, fault.New(fault.Conflict, "RoleDefinitionLimitExceeded", "There are %d custom roles, the most there can be. Delete one.", maxRoles)
		}
		_, err := d.definitions.Create(ctx, role.ID, role)
		return role, err
	}
	role.Created, role.CreatedBy = item.Value.Created, item.Value.CreatedBy
	for _, a := range d.assignedRole(role.ID) {
		if !role.AssignableAt(a.Scope) {
			return Role{}, fault.New(fault.Conflict, "RoleDefinitionHasAssignments",
				"The role is assigned at scope '%s', which would not be among its assignable scopes. Delete the role assignment %s first.", a.Scope, a.ID())
		}
	}
	_, err = d.definitions.Update(ctx, item.Key, role, item.Revision)
	return role, err
}

// Undefine removes a custom role definition that nobody has, and returns it.
func (d *Directory) Undefine(ctx context.Context, id string) (Role, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	role, ok := d.Roles().Role(id)
	switch {
	case !ok:
		return Role{}, errNoRole(id)
	case role.Type == BuiltInRole:
		return Role{}, errBuiltIn(role)
	}
	if assigned := d.assignedRole(role.ID); len(assigned) > 0 {
		return Role{}, fault.New(fault.Conflict, "RoleDefinitionHasAssignments",
			"The role '%s' is assigned, by %s among others. Delete its role assignments first: carillon role assignment list --scope / --role '%s' shows them.", role.Name, assigned[0].ID(), role.Name)
	}
	return role, d.definitions.Delete(ctx, role.ID, 0)
}

// assignedRole returns the assignments of a role.
func (d *Directory) assignedRole(id string) []Assignment {
	return slices.DeleteFunc(d.Assignments(resource.Root, AssignmentFilter{}), func(a Assignment) bool { return a.RoleID != id })
}

func errNoRole(id string) error {
	return fault.New(fault.NotFound, "RoleDefinitionDoesNotExist", "The specified role definition with ID '%s' does not exist.", id)
}

func errBuiltIn(role Role) error {
	return fault.New(fault.Conflict, "RoleDefinitionIsBuiltIn", "The role '%s' is built in and cannot be changed. Make a custom role with a name of its own.", role.Name)
}

// checkRole returns the role in its stored form, or every problem it has.
func (d *Directory) checkRole(role Role) (Role, error) {
	if known, ok := d.Roles().Role(role.ID); ok && known.Type == BuiltInRole {
		return role, errBuiltIn(known)
	}
	var problems []*fault.Error
	if id, err := uuid.Parse(role.ID); err != nil || len(role.ID) != 36 {
		f := fault.Field("name", "The name %q of a role definition must be a GUID; what people read is properties.roleName.", role.ID)
		f.Code = "InvalidRoleDefinitionId"
		problems = append(problems, f)
	} else {
		role.ID = id.String()
	}
	role.Name = strings.TrimSpace(role.Name)
	if n := utf8.RuneCountInString(role.Name); n == 0 || n > maxRoleName {
		problems = append(problems, fault.Field("properties.roleName", "A role needs a name of 1 to %d characters; this one has %d.", maxRoleName, n))
	} else if other, taken := d.Roles().Named(role.Name); taken && other.ID != role.ID {
		f := fault.New(fault.Conflict, "RoleDefinitionWithSameNameExists", "There is a role named '%s' already, with the id %s. Choose another name.", other.Name, other.ID)
		f.Target = "properties.roleName"
		problems = append(problems, f)
	}
	if n := utf8.RuneCountInString(role.Description); n > maxRoleDescription {
		problems = append(problems, fault.Field("properties.description", "The description of a role has at most %d characters; this one has %d.", maxRoleDescription, n))
	}
	problems = append(problems, checkPermissions(&role.Permissions, "The role grants nothing: give it at least one of actions and dataActions.")...)
	switch n := len(role.AssignableScopes); {
	case n == 0:
		problems = append(problems, fault.Field("properties.assignableScopes", "A role needs assignableScopes: where it can be assigned, such as [\"/\"] for everywhere."))
	case n > maxRoleScopes:
		problems = append(problems, fault.Field("properties.assignableScopes", "A role has at most %d assignable scopes; this one has %d.", maxRoleScopes, n))
	}
	scopes := make([]string, len(role.AssignableScopes))
	for i, text := range role.AssignableScopes {
		id, err := resource.ParseID(text)
		if err != nil {
			problems = append(problems, fault.Field(fmt.Sprintf("properties.assignableScopes[%d]", i), "The value '%.200s' is not a scope: %v.", text, err))
			continue
		}
		scopes[i] = id.String()
	}
	role.Type, role.AssignableScopes = CustomRole, scopes
	return role, fault.Join(problems...)
}

// checkPermissions puts permissions into their stored form, and returns every problem
// they have. empty is said of those that name nothing.
func checkPermissions(list *[]Permission, empty string) []*fault.Error {
	if n := len(*list); n > maxRoleBlocks {
		return []*fault.Error{fault.Field("properties.permissions", "There are %d permissions, more than %d: put the actions of several into one.", n, maxRoleBlocks)}
	}
	var problems []*fault.Error
	granting, patterns := 0, 0
	blocks := slices.Clone(*list)
	for i := range blocks {
		p := &blocks[i]
		granting += len(p.Actions) + len(p.DataActions)
		for _, list := range []struct {
			name  string
			texts *[]string
		}{{"actions", &p.Actions}, {"notActions", &p.NotActions}, {"dataActions", &p.DataActions}, {"notDataActions", &p.NotDataActions}} {
			if *list.texts == nil {
				*list.texts = []string{} // written as [], not as null
			}
			patterns += len(*list.texts)
			for j, text := range *list.texts {
				if len(text) > 256 || !actionPattern.MatchString(text) {
					problems = append(problems, fault.Field(fmt.Sprintf("properties.permissions[%d].%s[%d]", i, list.name, j),
						"The value '%.300s' is not an action: write it like Microsoft.EventGrid/topics/read, with * for any run of characters.", text))
				}
			}
		}
	}
	*list = blocks
	switch {
	case granting == 0:
		problems = append(problems, fault.Field("properties.permissions", "%s", empty))
	case patterns > maxRolePatterns:
		problems = append(problems, fault.Field("properties.permissions", "There are %d actions in all, more than %d.", patterns, maxRolePatterns))
	}
	return problems
}
