package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/resource"
)

// RoleType tells the roles that ship from those that an operator made.
type RoleType string

// The role types. Source: spec/access.md section 8.
const (
	BuiltInRole RoleType = "BuiltInRole"
	CustomRole  RoleType = "CustomRole"
)

// Role is a role definition: a name for what somebody may do.
type Role struct {
	ID               string       `json:"id"` // GUID, lower case
	Name             string       `json:"name"`
	Type             RoleType     `json:"type"`
	Description      string       `json:"description,omitempty"`
	AssignableScopes []string     `json:"assignableScopes"`
	Permissions      []Permission `json:"permissions"`
	Created          time.Time    `json:"created,omitzero"` // of a custom role, as are the others
	CreatedBy        string       `json:"createdBy,omitempty"`
	Updated          time.Time    `json:"updated,omitzero"`
	UpdatedBy        string       `json:"updatedBy,omitempty"`
}

// AssignableAt reports whether the role may be assigned at a scope.
func (r Role) AssignableAt(scope resource.ID) bool {
	return slices.ContainsFunc(r.Scopes(), func(s resource.ID) bool { return s.Contains(scope) })
}

// Scopes returns the scopes at and below which the role may be assigned. One that
// cannot be read is none.
func (r Role) Scopes() []resource.ID {
	var scopes []resource.ID
	for _, text := range r.AssignableScopes {
		if id, err := resource.ParseID(text); err == nil {
			scopes = append(scopes, id)
		}
	}
	return scopes
}

// Permission is one block of a role. What its not-lists name is taken from its
// own lists only; it denies nothing that another block or role grants.
// Source: spec/access.md section 6.
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// Roles holds the role definitions that can be assigned, at one moment. It does not
// change.
type Roles struct {
	list []Role
	byID map[string]*matcher
}

// NewRoles returns the built-in roles and the custom ones given. An id or a name
// used twice and an id that is no GUID are errors.
func NewRoles(custom ...Role) (*Roles, error) {
	r := &Roles{byID: map[string]*matcher{}}
	for _, role := range append(builtInRoles(), custom...) {
		if err := r.add(role); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Roles) add(role Role) error {
	id, err := uuid.Parse(role.ID)
	if err != nil {
		return fmt.Errorf("role %q: id %q is not a GUID", role.Name, role.ID)
	}
	role.ID = id.String()
	if r.byID[role.ID] != nil {
		return fmt.Errorf("role %q: id %s is taken", role.Name, role.ID)
	}
	if _, taken := r.Named(role.Name); taken {
		return fmt.Errorf("role name %q is taken", role.Name)
	}
	r.list = append(r.list, role)
	r.byID[role.ID] = compile(role)
	return nil
}

// with returns the roles and further ones. One that cannot stand among them is left
// out, so it grants nothing.
func (r *Roles) with(custom []Role) *Roles {
	all := &Roles{list: slices.Clone(r.list), byID: maps.Clone(r.byID)}
	for _, role := range custom {
		_ = all.add(role) // it was checked when it was stored
	}
	return all
}

// List returns the roles, built-in ones first. Do not change what it returns.
func (r *Roles) List() []Role { return r.list }

// Role finds a role by its GUID or by any spelling of its definition's id.
func (r *Roles) Role(id string) (Role, bool) {
	guid, ok := definitionGUID(id)
	if !ok {
		return Role{}, false
	}
	i := slices.IndexFunc(r.list, func(role Role) bool { return role.ID == guid })
	if i < 0 {
		return Role{}, false
	}
	return r.list[i], true
}

// Named finds a role by its name, ignoring case.
func (r *Roles) Named(name string) (Role, bool) {
	i := slices.IndexFunc(r.list, func(role Role) bool { return strings.EqualFold(role.Name, name) })
	if i < 0 {
		return Role{}, false
	}
	return r.list[i], true
}

// granting returns the names of the roles that grant an action and can be assigned at
// a scope.
func (r *Roles) granting(p plane, action string, at resource.ID) []string {
	action = strings.ToLower(action)
	names := []string{}
	for _, role := range r.list {
		if r.byID[role.ID].allows(p, action) && (at.IsZero() || role.AssignableAt(at)) {
			names = append(names, role.Name)
		}
	}
	return names
}

// definitionGUID returns the GUID of a role definition's id, which may be spelled
// with any scope before it or be the GUID alone.
// Source: spec/access.md section 12.
func definitionGUID(id string) (string, bool) {
	id = strings.TrimRight(id, "/")
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		const kind = "/providers/microsoft.authorization/roledefinitions"
		if !strings.HasSuffix("/"+strings.Trim(strings.ToLower(id[:i]), "/"), kind) {
			return "", false
		}
		id = id[i+1:]
	}
	guid, err := uuid.Parse(id)
	if err != nil || len(id) != len(guid.String()) {
		return "", false
	}
	return guid.String(), true
}

// plane is which of a permission's pairs of lists decides.
type plane int

const (
	managementPlane plane = iota
	dataPlane
)

// matcher is a role made ready for matching: its blocks' patterns by plane.
type matcher struct {
	blocks [2][]block
}

type block struct{ grant, except []pattern }

func compile(role Role) *matcher {
	m := &matcher{}
	for _, p := range role.Permissions {
		m.blocks[managementPlane] = append(m.blocks[managementPlane], block{patterns(p.Actions), patterns(p.NotActions)})
		m.blocks[dataPlane] = append(m.blocks[dataPlane], block{patterns(p.DataActions), patterns(p.NotDataActions)})
	}
	return m
}

// allows reports whether a block grants the action, given in lower case.
func (m *matcher) allows(p plane, action string) bool {
	for _, b := range m.blocks[p] {
		if matchAny(b.grant, action) && !matchAny(b.except, action) {
			return true
		}
	}
	return false
}

func matchAny(list []pattern, action string) bool {
	return slices.ContainsFunc(list, func(p pattern) bool { return p.match(action) })
}

// pattern is an action pattern in lower case, cut at its stars. A star stands for
// any run of characters, slashes and nothing included.
// Source: spec/access.md section 6.
type pattern []string

func patterns(texts []string) []pattern {
	list := make([]pattern, 0, len(texts))
	for _, text := range texts {
		list = append(list, strings.Split(strings.ToLower(text), "*"))
	}
	return list
}

func (p pattern) match(action string) bool {
	first, last := p[0], p[len(p)-1]
	if len(p) == 1 {
		return action == first
	}
	if len(action) < len(first)+len(last) || !strings.HasPrefix(action, first) || !strings.HasSuffix(action, last) {
		return false
	}
	rest := action[len(first) : len(action)-len(last)]
	for _, part := range p[1 : len(p)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return true
}
