package access

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const (
	denyGroup = "/subscriptions/5f000000-0000-0000-0000-000000000000/resourceGroups/ml"
	denyTopic = denyGroup + "/providers/Microsoft.EventGrid/topics/orders"
	otherRG   = "/subscriptions/5f000000-0000-0000-0000-000000000000/resourceGroups/ml-prod"
)

// TestDenyAssignments holds who may do what against every kind of deny assignment. All
// callers are Owner and EventGrid Data Sender at / and would be allowed everything.
func TestDenyAssignments(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.principal(t, "ada"), w.principal(t, "bob")
	inner := w.group(t, "inner", bob.ObjectID)
	outer := w.group(t, "outer", inner.ObjectID)
	bob.Groups = w.directory.groupsOf(bob.ObjectID)
	for _, c := range []Caller{ada, bob} {
		w.grant(t, c, "Owner", "/")
		w.grant(t, c, "EventGrid Data Sender", "/")
	}
	deletes := []Permission{{Actions: []string{"*/delete"}}}
	one := func(ids ...string) (list []Denied) {
		for _, id := range ids {
			list = append(list, Denied{ID: id})
		}
		return list
	}
	const topicDelete, topicWrite = "microsoft.eventgrid/TOPICS/delete", "Microsoft.EventGrid/topics/write"
	for _, test := range []struct {
		name   string
		deny   DenyAssignment
		caller Caller
		action string
		data   bool
		at     string
		denied bool
	}{
		{"over Owner", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes}, ada, topicDelete, false, denyTopic, true},
		{"somebody else", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes}, bob, topicDelete, false, denyTopic, false},
		{"another action", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes}, ada, topicWrite, false, denyTopic, false},
		{"at the scope itself", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes}, ada, "Microsoft.Resources/subscriptions/resourceGroups/delete", false, denyGroup, true},
		{"a scope whose name goes on", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes}, ada, topicDelete, false, otherRG + "/providers/Microsoft.EventGrid/topics/orders", false},
		{"above the scope", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes}, ada, "Microsoft.Resources/subscriptions/delete", false, "/subscriptions/5f000000-0000-0000-0000-000000000000", false},
		{"not below", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes, OnlyScope: true}, ada, topicDelete, false, denyTopic, false},
		{"not below, at the scope", DenyAssignment{Principals: one(ada.ObjectID), Permissions: deletes, OnlyScope: true}, ada, "x/delete", false, strings.ToUpper(denyGroup), true},
		{"at the other id of an event subscription", DenyAssignment{Scope: resource.MustID(denyTopic + "/eventSubscriptions/es1"), Principals: one(ada.ObjectID), Permissions: deletes}, ada, topicDelete, false, denyTopic + "/providers/microsoft.eventgrid/eventsubscriptions/ES1", true},
		{"at that one", DenyAssignment{Scope: resource.MustID(denyTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"), Principals: one(ada.ObjectID), Permissions: deletes, OnlyScope: true}, ada, topicDelete, false, denyTopic + "/eventSubscriptions/es1", true},
		{"at the id of another", DenyAssignment{Scope: resource.MustID(denyTopic + "/eventSubscriptions/es1"), Principals: one(ada.ObjectID), Permissions: deletes}, ada, topicDelete, false, denyTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/es2", false},
		{"a group", DenyAssignment{Principals: one(inner.ObjectID), Permissions: deletes}, bob, topicDelete, false, denyTopic, true},
		{"a group around a group", DenyAssignment{Principals: one(outer.ObjectID), Permissions: deletes}, bob, topicDelete, false, denyTopic, true},
		{"everyone", DenyAssignment{Principals: one(Everyone), Permissions: deletes}, bob, topicDelete, false, denyTopic, true},
		{"everyone but one", DenyAssignment{Principals: one(Everyone), Excluded: one(bob.ObjectID), Permissions: deletes}, bob, topicDelete, false, denyTopic, false},
		{"everyone but one, the other", DenyAssignment{Principals: one(Everyone), Excluded: one(bob.ObjectID), Permissions: deletes}, ada, topicDelete, false, denyTopic, true},
		{"everyone but a group", DenyAssignment{Principals: one(Everyone), Excluded: one(outer.ObjectID), Permissions: deletes}, bob, topicDelete, false, denyTopic, false},
		{"what notActions leave out", DenyAssignment{Principals: one(Everyone), Permissions: []Permission{{Actions: []string{"*"}, NotActions: []string{"*/read", "*/write"}}}}, ada, topicWrite, false, denyTopic, false},
		{"what notActions do not leave out", DenyAssignment{Principals: one(Everyone), Permissions: []Permission{{Actions: []string{"*"}, NotActions: []string{"*/read", "*/write"}}}}, ada, topicDelete, false, denyTopic, true},
		{"a data action", DenyAssignment{Principals: one(Everyone), Permissions: []Permission{{DataActions: []string{"Microsoft.EventGrid/events/*"}}}}, ada, ActionSend, true, denyTopic, true},
		{"actions take no data action", DenyAssignment{Principals: one(Everyone), Permissions: []Permission{{Actions: []string{"*"}}}}, ada, ActionSend, true, denyTopic, false},
		{"data actions take no action", DenyAssignment{Principals: one(Everyone), Permissions: []Permission{{DataActions: []string{"*"}}}}, ada, topicWrite, false, denyTopic, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := test.deny
			d.Name, d.Title = uuid.NewString(), "no "+test.name
			if d.Scope.IsZero() {
				d.Scope = resource.MustID(denyGroup)
			}
			made, created, err := w.directory.Deny(t.Context(), d, w.ownerCaller(t))
			if err != nil || !created {
				t.Fatal(created, err)
			}
			defer func() {
				if _, err := w.directory.Undeny(t.Context(), made.ID()); err != nil {
					t.Error(err)
				}
			}()
			at := resource.MustID(test.at)
			check := w.strict.Check
			if test.data {
				check = w.strict.CheckData
			}
			err = check(test.caller, test.action, at)
			decision := w.strict.Decide(test.caller.ObjectID, test.action, test.data, at)
			if decision.Allowed == test.denied || (decision.Denied != nil) != test.denied || len(decision.Reasons) == 0 {
				t.Errorf("the decision is %+v, want denied %t", decision, test.denied)
			}
			if !test.denied {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			f := wantFault(t, err, fault.Forbidden, "DenyAssignmentAuthorizationFailed")
			for _, part := range []string{made.Title, made.ID().String(), test.action, test.caller.ObjectID} {
				if !strings.Contains(f.Message, part) {
					t.Errorf("the message %q does not name %s", f.Message, part)
				}
			}
		})
	}
	if err := w.strict.Check(ada, topicDelete, resource.MustID(denyTopic)); err != nil {
		t.Errorf("when every deny assignment is gone: %v", err)
	}
}

// TestDenyHoldsForLinkedChecks denies the second permission of an operation.
func TestDenyHoldsForLinkedChecks(t *testing.T) {
	w := newWorld(t)
	ada := w.principal(t, "ada")
	w.grant(t, ada, "Owner", "/")
	ws := resource.MustID(denyGroup + "/providers/Microsoft.MachineLearningServices/workspaces/default")
	es := ws.Extension("Microsoft.EventGrid", "eventSubscriptions", "es1")
	const write = "Microsoft.EventGrid/eventSubscriptions/write"
	if err := w.strict.CheckEventSubscriptionWrite(ada, write, es, ws); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.directory.Deny(t.Context(), DenyAssignment{
		Name: uuid.NewString(), Title: "frozen", Scope: ws, Principals: []Denied{{ID: ada.ObjectID}}, Permissions: []Permission{{Actions: []string{ActionWorkspaceWrite}}},
	}, w.ownerCaller(t))
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, w.strict.CheckEventSubscriptionWrite(ada, write, es, ws), fault.Forbidden, "DenyAssignmentAuthorizationFailed")
	if d := w.strict.Decide(ada.ObjectID, write, false, es); d.Allowed || d.Denied != nil || d.Linked == nil || d.Linked.Denied == nil {
		t.Errorf("the decision is %+v", d)
	}
	if err := w.actions.CheckEventSubscriptionWrite(ada, write, es, ws); err != nil {
		t.Errorf("without the strict rule: %v", err)
	}
}

// TestDenyLocksNobodyOut keeps deny assignments removable.
func TestDenyLocksNobodyOut(t *testing.T) {
	w := newWorld(t)
	owner, ada := w.ownerCaller(t), w.principal(t, "ada")
	w.grant(t, ada, "Owner", "/")
	all := DenyAssignment{Name: uuid.NewString(), Title: "nothing at all", Scope: resource.Root, Principals: []Denied{{ID: Everyone}}, Permissions: []Permission{{Actions: []string{"*"}, DataActions: []string{"*"}}}}
	_, _, err := w.directory.Deny(t.Context(), all, ada)
	wantFault(t, err, fault.Conflict, "DenyAssignmentLocksOut")
	for name, change := range map[string]func(d *DenyAssignment){
		"without themselves": func(d *DenyAssignment) { d.Excluded = []Denied{{ID: ada.ObjectID}} },
		"without deleting":   func(d *DenyAssignment) { d.Permissions = []Permission{{Actions: []string{"*/write"}}} },
	} {
		d := all
		change(&d)
		d.Name = uuid.NewString()
		made, _, err := w.directory.Deny(t.Context(), d, ada)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := w.strict.Check(ada, actionDenials+"delete", made.ID()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.directory.Undeny(t.Context(), made.ID()); err != nil {
			t.Fatal(err)
		}
	}
	made, _, err := w.directory.Deny(t.Context(), all, owner)
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, w.strict.Check(owner, "Microsoft.EventGrid/topics/read", resource.MustID(denyTopic)), fault.Forbidden, "DenyAssignmentAuthorizationFailed")
	wantFault(t, w.strict.Check(ada, actionDenials+"delete", made.ID()), fault.Forbidden, "DenyAssignmentAuthorizationFailed")
	for _, verb := range []string{"read", "write", "delete"} {
		if err := w.strict.Check(owner, actionDenials+verb, made.ID()); err != nil {
			t.Errorf("the owner of the directory cannot %s it: %v", verb, err)
		}
	}
	again := openWorld(t, w.kv, t.TempDir())
	wantFault(t, again.strict.Check(ada, "Microsoft.EventGrid/topics/read", resource.MustID(denyTopic)), fault.Forbidden, "DenyAssignmentAuthorizationFailed")
}

func TestDenyProblems(t *testing.T) {
	w := newWorld(t)
	known, _ := w.directory.Principal(w.principal(t, "c").ObjectID)
	_, _, err := w.directory.Deny(t.Context(), DenyAssignment{
		Name: "x", Scope: resource.Root, Permissions: []Permission{{Actions: []string{"no action!"}}},
		Principals: []Denied{{ID: "ada"}, {ID: known.AppID}}, Excluded: []Denied{{ID: uuid.NewString(), Type: "Robot"}},
	}, w.ownerCaller(t))
	f := wantFault(t, err, fault.Invalid, "InvalidDenyAssignmentId")
	var targets []string
	for _, d := range f.Details {
		targets = append(targets, d.Target)
	}
	if got, want := strings.Join(targets, " "), "name properties.denyAssignmentName properties.permissions[0].actions[0] properties.principals[0].id properties.principals[1].id properties.excludePrincipals[0].type"; got != want {
		t.Errorf("problems of %s, want %s", got, want)
	}
	_, _, err = w.directory.Deny(t.Context(), DenyAssignment{Name: uuid.NewString(), Title: "x", Scope: resource.Root, Permissions: []Permission{{}}}, w.ownerCaller(t))
	if err == nil || !strings.Contains(err.Error(), "takes nothing away") || !strings.Contains(err.Error(), "needs principals") {
		t.Errorf("an empty one: %v", err)
	}
}

// TestPermissionsAreWhatRolesGrant lists them as Azure does: a deny assignment is no part
// of them, and decides all the same.
func TestPermissionsAreWhatRolesGrant(t *testing.T) {
	w := newWorld(t)
	ada := w.principal(t, "ada")
	w.grant(t, ada, "Owner", denyGroup)
	at := resource.MustID(denyTopic)
	before := w.strict.Permissions(ada, at)
	_, _, err := w.directory.Deny(t.Context(), DenyAssignment{
		Name: uuid.NewString(), Title: "no deleting", Scope: resource.MustID(denyGroup), Principals: []Denied{{ID: ada.ObjectID}}, Permissions: []Permission{{Actions: []string{"*/delete"}}},
	}, w.ownerCaller(t))
	if err != nil {
		t.Fatal(err)
	}
	if after := w.strict.Permissions(ada, at); len(before) != 1 || !reflect.DeepEqual(after, before) {
		t.Errorf("permissions are %+v, were %+v", after, before)
	}
	if w.strict.Decide(ada.ObjectID, "Microsoft.EventGrid/topics/delete", false, at).Allowed {
		t.Error("what is denied is decided to be allowed")
	}
}
