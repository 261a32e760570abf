package manage

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestNobodyInheritsGrants deletes resources that roles and a deny assignment lie at, and
// kills the process at every step of that. A role is never left where the resource is gone,
// a denial never gone where the resource is there, and repeated, the deletion is done.
func TestNobodyInheritsGrants(t *testing.T) {
	const (
		topic  = topicsPrefix + "orders"
		hooked = topic + extension + "es1"
	)
	for name, c := range map[string]struct {
		id     string
		roles  []string // where they are
		delete func(f *fixture) (bool, error)
		there  func(f *fixture) bool
	}{
		"topic": {topic, []string{topic, hooked}, func(f *fixture) (bool, error) {
			return f.DeleteTopic(t.Context(), f.owner, id(topic), Precondition{})
		}, func(f *fixture) bool { _, ok := f.Store.Topics.Get(id(topic).Key()); return ok }},
		"event subscription": {hooked, []string{hooked, topic + "/eventSubscriptions/es1"}, func(f *fixture) (bool, error) {
			return f.DeleteEventSubscription(t.Context(), f.owner, id(hooked), Precondition{})
		}, func(f *fixture) bool {
			_, ok := f.Store.EventSubscriptions.Get(resource.EventSubscriptionKey(id(topic), "es1"))
			return ok
		}},
		"domain": {domainID, []string{domainID, domainID + "/topics/tenant-a"}, func(f *fixture) (bool, error) {
			return f.DeleteDomain(t.Context(), f.owner, id(domainID), Precondition{})
		}, func(f *fixture) bool { _, ok := f.Store.Domains.Get(id(domainID).Key()); return ok }},
		"topic of a domain": {domainID + "/topics/tenant-a", []string{domainID + "/topics/tenant-a"}, func(f *fixture) (bool, error) {
			return f.DeleteDomainTopic(t.Context(), f.owner, id(domainID+"/topics/tenant-a"), Precondition{})
		}, func(f *fixture) bool {
			_, ok := f.Store.DomainTopics.Get(id(domainID + "/topics/tenant-a").Key())
			return ok
		}},
		"system topic": {systemTopic, []string{systemTopic}, func(f *fixture) (bool, error) {
			return f.DeleteSystemTopic(t.Context(), f.owner, id(systemTopic), Precondition{})
		}, func(f *fixture) bool { _, ok := f.Store.SystemTopics.Get(id(systemTopic).Key()); return ok }},
		"workspace": {workspaceID, []string{workspaceID, workspaceID + "/experiments/churn"}, func(f *fixture) (bool, error) {
			return f.DeleteWorkspace(t.Context(), f.owner, id(workspaceID), Precondition{})
		}, func(f *fixture) bool { _, ok := f.Store.Workspaces.Get(id(workspaceID).Key()); return ok }},
		"resource group": {local, []string{local, topic}, func(f *fixture) (bool, error) {
			return f.DeleteGroup(t.Context(), f.owner, id(local), Precondition{})
		}, func(f *fixture) bool { _, ok := f.Store.ResourceGroups.Get(id(local).Key()); return ok }},
	} {
		t.Run(name, func(t *testing.T) {
			cut := 0
			for done := false; !done; cut++ {
				f := newFixture(t)
				f.topic(t, "orders", "EventGridSchema")
				f.put(t, hooked, hook(hookURL))
				f.domain(t, DomainChange{})
				if _, err := f.PutDomainTopic(t.Context(), f.owner, id(domainID+"/topics/tenant-a"), Tracked{}, Precondition{}); err != nil {
					t.Fatal(err)
				}
				for _, scope := range c.roles {
					f.user(t, access.RoleReader, scope)
				}
				if _, _, err := f.Directory.Deny(t.Context(), access.DenyAssignment{
					Name: uuid.NewString(), Scope: id(c.id), Title: "no", Permissions: []access.Permission{{Actions: []string{"*/delete"}}},
					Principals: []access.Denied{{ID: uuid.NewString()}},
				}, f.owner); err != nil {
					t.Fatal(err)
				}
				k := &killer{at: cut + 1}
				f.through = func(kv resource.KV) resource.KV { return killedKV{kv, k} }
				f.start(t)
				_, err := c.delete(f)
				done = err == nil
				f.through = nil
				f.start(t)
				roles, denials := f.Directory.AssignmentsWithin(id(c.id)), f.Directory.DenyAssignmentsWithin(id(c.id))
				switch there := c.there(f); {
				case there && len(denials) == 0:
					t.Errorf("killed at step %d, it is there and its denial is not", cut)
				case !there && len(roles) > 0:
					t.Errorf("killed at step %d, it is gone, and these roles are left: %v", cut, roles)
				case there:
					if _, err := c.delete(f); err != nil {
						t.Error(err)
					}
					f.start(t)
					if roles, denials := f.Directory.AssignmentsWithin(id(c.id)), f.Directory.DenyAssignmentsWithin(id(c.id)); len(roles)+len(denials) > 0 {
						t.Errorf("killed at step %d and repeated, it leaves %v %v", cut, roles, denials)
					}
				}
				if all := f.Directory.AssignmentsWithin(resource.Root); !slices.ContainsFunc(all, func(a access.Assignment) bool { return a.Scope.Equal(resource.Root) }) {
					t.Fatal("the owner's role is gone")
				}
			}
			if cut < 2*3+1 { // before and behind a role, the record, and the denial, and nothing cut
				t.Errorf("the deletion was cut in %d places only", cut)
			}
		})
	}
}

// TestDeniedResourceKeepsItsGroup: whoever is kept from deleting a resource cannot delete
// it with its resource group.
func TestDeniedResourceKeepsItsGroup(t *testing.T) {
	const topic = topicsPrefix + "orders"
	for _, scope := range []string{topic, domainID, systemTopic, workspaceID} {
		f := newFixture(t)
		f.topic(t, "orders", "EventGridSchema")
		f.put(t, systemTopic+"/eventSubscriptions/es1", hook(hookURL))
		f.domain(t, DomainChange{})
		ada := f.user(t, access.RoleOwner, local)
		if _, _, err := f.Directory.Deny(t.Context(), access.DenyAssignment{
			Name: uuid.NewString(), Scope: id(scope), Title: "no", Permissions: []access.Permission{{Actions: []string{"*/delete"}}},
			Principals: []access.Denied{{ID: ada.ObjectID}},
		}, f.owner); err != nil {
			t.Fatal(err)
		}
		if _, err := f.DeleteGroup(t.Context(), ada, id(local), Precondition{}); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: %v", scope, err)
		}
		if _, err := f.Topic(t.Context(), f.owner, id(topic)); err != nil {
			t.Errorf("%s: what is beside it is gone: %v", scope, err)
		}
		if _, err := f.DeleteGroup(t.Context(), f.owner, id(local), Precondition{}); err != nil {
			t.Errorf("%s, somebody else: %v", scope, err)
		}
	}
}

// TestChangedDenialIsADeletedOne: whoever a deny assignment keeps from deleting it cannot
// write another form over it either; who may do both can.
func TestChangedDenialIsADeletedOne(t *testing.T) {
	f := newFixture(t)
	ada, bob := f.user(t, access.RoleOwner, local), f.user(t, access.RoleOwner, local)
	denial := access.DenyAssignment{
		Name: uuid.NewString(), Scope: id(local), Title: "no deleting", Permissions: []access.Permission{{Actions: []string{"*/delete"}}},
		Principals: []access.Denied{{ID: ada.ObjectID}},
	}
	if _, created, err := f.PutDenyAssignment(t.Context(), ada, denial, nil); created || !fault.Is(err, fault.Conflict) {
		t.Errorf("ada locks herself out: %t, %v", created, err)
	}
	if _, created, err := f.PutDenyAssignment(t.Context(), bob, denial, nil); !created || err != nil {
		t.Fatal(created, err)
	}
	empty := denial
	empty.Principals = []access.Denied{{ID: uuid.NewString()}}
	if _, _, err := f.PutDenyAssignment(t.Context(), ada, empty, nil); !fault.Is(err, fault.Forbidden) {
		t.Errorf("ada empties what denies her: %v", err)
	}
	if err := f.Access.Check(ada, "Microsoft.EventGrid/topics/delete", id(local)); !fault.Is(err, fault.Forbidden) {
		t.Errorf("ada may delete: %v", err)
	}
	if _, created, err := f.PutDenyAssignment(t.Context(), bob, empty, nil); created || err != nil {
		t.Errorf("bob changes it: %t, %v", created, err)
	}
}
