package access

import (
	"slices"

	"github.com/carillon-events/carillon/internal/resource"
)

// Permissions returns what the roles of a caller at a scope, and above it, grant: those
// of each role once, in the order of the roles' ids. What one of them grants holds also
// where another one leaves it out. Roles under a condition are left out. Deny assignments
// are not: as in Azure they stand in a list of their own, and one that leaves actions out
// of what it takes away could not be said in these. [Authorizer.Decide] takes them in.
// Source: spec/access.md sections 6 and 12.
func (z *Authorizer) Permissions(c Caller, scope resource.ID) []Permission {
	d := z.directory
	var held []string
	for _, id := range c.ids() {
		for _, a := range d.assignedDirectly(id) {
			if a.Condition == "" && a.Scope.Contains(scope) {
				held = append(held, a.RoleID)
			}
		}
	}
	slices.Sort(held)
	var list []Permission
	for _, id := range slices.Compact(held) {
		if role, found := d.Roles().Role(id); found {
			list = append(list, role.Permissions...)
		}
	}
	return list
}
