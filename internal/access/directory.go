package access

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/carillon-events/carillon/internal/resource"
)

// Directory is who exists and what they were granted and denied: principals, custom role
// definitions, role assignments and deny assignments, kept in a [resource.Store], with the
// sessions of users. It is safe for concurrent use.
type Directory struct {
	builtIn     *Roles
	roles       atomic.Pointer[Roles] // built-in ones and those of definitions
	definitions *resource.Collection[Role]
	principals  *resource.Collection[Principal]
	assignments *resource.Collection[Assignment]
	origin      *resource.Collection[origin]

	sessions *resource.Collection[Session] // by object id and session id

	denyAssignments *resource.Collection[DenyAssignment]
	denials         atomic.Pointer[[]denial] // of denyAssignments

	changes        sync.Mutex // held while a change is checked and stored, so that no two changes together break a rule
	sessionChanges sync.Mutex // as changes, for sessions

	mu        sync.RWMutex
	byApp     map[string]string                // client id → object id
	byName    map[string]string                // name in lower case → object id
	groups    map[string]map[string]bool       // object id → groups that name it as a member
	indexed   map[string]Principal             // object id → what byApp, byName and groups hold of it
	grants    map[string]map[string]Assignment // principal → assignments by key
	grantedTo map[string]string                // assignment key → principal
	changed   []func()
}

// NewDirectory adds the directory's collections to a store. Call it before the
// store is loaded.
func NewDirectory(store *resource.Store, roles *Roles) *Directory {
	d := &Directory{
		builtIn:     roles,
		definitions: resource.NewCollection[Role](store, "roleDefinition"),
		principals:  resource.NewCollection[Principal](store, "principal"),
		assignments: resource.NewCollection[Assignment](store, "roleAssignment"),
		origin:      resource.NewCollection[origin](store, "directory"),
		sessions:    resource.NewCollection[Session](store, "session"),

		denyAssignments: resource.NewCollection[DenyAssignment](store, "denyAssignment"),
		byApp:           map[string]string{},
		byName:          map[string]string{},
		groups:          map[string]map[string]bool{},
		indexed:         map[string]Principal{},
		grants:          map[string]map[string]Assignment{},
		grantedTo:       map[string]string{},
	}
	d.roles.Store(roles)
	d.definitions.OnChange(d.indexRoles)
	d.principals.OnChange(d.indexPrincipal)
	d.assignments.OnChange(d.indexAssignment)
	d.denyAssignments.OnChange(d.indexDenials)
	return d
}

// Roles returns the role definitions that can be assigned.
func (d *Directory) Roles() *Roles { return d.roles.Load() }

// indexRoles brings the roles in step with the custom definitions. Those are few, so
// all are compiled anew.
func (d *Directory) indexRoles(string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var custom []Role
	for _, item := range d.definitions.List("") {
		custom = append(custom, item.Value)
	}
	d.roles.Store(d.builtIn.with(custom))
}

// onPrincipalChange registers f, called after each change of a principal.
func (d *Directory) onPrincipalChange(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = append(d.changed, f)
}

// indexPrincipal brings the indexes in step with the principal of a key. It reads
// the record under the lock, so the last of two calls sees the last change.
func (d *Directory) indexPrincipal(key string) {
	d.mu.Lock()
	if old, ok := d.indexed[key]; ok {
		delete(d.byApp, old.AppID)
		if name := strings.ToLower(old.Name); d.byName[name] == key {
			delete(d.byName, name)
		}
		for _, m := range old.Members {
			delete(d.groups[m], key)
		}
		delete(d.indexed, key)
	}
	if item, ok := d.principals.Get(key); ok {
		p := item.Value
		d.indexed[key] = p
		d.byName[strings.ToLower(p.Name)] = key
		if p.AppID != "" {
			d.byApp[p.AppID] = key
		}
		for _, m := range p.Members {
			if d.groups[m] == nil {
				d.groups[m] = map[string]bool{}
			}
			d.groups[m][key] = true
		}
	}
	changed := d.changed
	d.mu.Unlock()
	for _, f := range changed {
		f()
	}
}

// byNameOf finds a principal by its name, ignoring case.
func (d *Directory) byNameOf(name string) (Principal, bool) {
	d.mu.RLock()
	objectID, ok := d.byName[strings.ToLower(name)]
	d.mu.RUnlock()
	if !ok {
		return Principal{}, false
	}
	return d.Principal(objectID)
}

// indexAssignment brings them in step with the role assignment of a key.
func (d *Directory) indexAssignment(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.grantedTo[key]; ok {
		delete(d.grants[old], key)
		delete(d.grantedTo, key)
	}
	item, ok := d.assignments.Get(key)
	if !ok {
		return
	}
	to := strings.ToLower(item.Value.PrincipalID)
	if d.grants[to] == nil {
		d.grants[to] = map[string]Assignment{}
	}
	d.grants[to][key] = item.Value
	d.grantedTo[key] = to
}

// allowed reports whether somebody with these ids, the own one first, may do the action,
// given in lower case: some role assignment grants it, and no deny assignment takes it.
func (d *Directory) allowed(ids []string, p plane, action string, target resource.ID) bool {
	return d.denied(ids, p, action, target) == nil && d.granted(ids, p, action, target)
}

// granted reports whether any role assignment of any of the principals, at a scope
// that holds target, grants the action, given in lower case.
// Source: spec/access.md section 7.
func (d *Directory) granted(principals []string, p plane, action string, target resource.ID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	roles := d.roles.Load()
	for _, id := range principals {
		for _, a := range d.grants[id] {
			if a.Condition != "" || !a.Scope.Contains(target) {
				continue
			}
			if role := roles.byID[a.RoleID]; role != nil && role.allows(p, action) {
				return true
			}
		}
	}
	return false
}
