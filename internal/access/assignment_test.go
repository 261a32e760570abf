package access

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

func TestAssign(t *testing.T) {
	w := newWorld(t)
	owner := w.ownerCaller(t)
	to := w.principal(t, "c")
	a := Assignment{
		Name: "9B000000-0000-0000-0000-00000000000B", Scope: resource.MustID(testGroup), PrincipalID: strings.ToUpper(to.ObjectID),
		RoleID: "/subscriptions/5f/providers/Microsoft.Authorization/roleDefinitions/" + strings.ToUpper(RoleReader),
	}
	first, created, err := w.directory.Assign(t.Context(), a, owner)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	if first.Name != strings.ToLower(a.Name) || first.RoleID != RoleReader || first.PrincipalID != to.ObjectID || first.PrincipalType != ServicePrincipal ||
		first.CreatedBy != owner.ObjectID || first.Created.IsZero() || !first.Updated.Equal(first.Created) {
		t.Errorf("stored %+v", first)
	}
	const id = testGroup + "/providers/Microsoft.Authorization/roleAssignments/9b000000-0000-0000-0000-00000000000b"
	if first.ID().String() != id {
		t.Errorf("id %s, want %s", first.ID(), id)
	}
	if got, ok := w.directory.Assignment(resource.MustID(strings.ToUpper(id))); !ok || got.Name != first.Name {
		t.Errorf("Assignment = %+v, %v", got, ok)
	}

	again, created, err := w.directory.Assign(t.Context(), a, owner)
	if err != nil || created || !again.Updated.Equal(first.Updated) {
		t.Errorf("again: %+v, created %v, %v", again, created, err)
	}
	described := a
	described.Description = "for the nightly job"
	again, created, err = w.directory.Assign(t.Context(), described, to)
	if err != nil || created || again.Description != described.Description || again.UpdatedBy != to.ObjectID || again.CreatedBy != owner.ObjectID {
		t.Errorf("described: %+v, created %v, %v", again, created, err)
	}

	other := a
	other.RoleID = RoleOwner
	_, _, err = w.directory.Assign(t.Context(), other, owner)
	wantFault(t, err, fault.Conflict, "RoleAssignmentUpdateNotPermitted")

	twice := a
	twice.Name = uuid.NewString()
	twice.Scope = resource.MustID(strings.ToUpper(testGroup))
	_, _, err = w.directory.Assign(t.Context(), twice, owner)
	if f := wantFault(t, err, fault.Conflict, "RoleAssignmentExists"); !strings.Contains(f.Message, first.Name) {
		t.Errorf("message %q does not name the other assignment", f.Message)
	}

	below := twice
	below.Scope = resource.MustID(testTopic)
	if _, created, err := w.directory.Assign(t.Context(), below, owner); err != nil || !created {
		t.Errorf("the same role below: created %v, %v", created, err)
	}
}

func TestAssignRefuses(t *testing.T) {
	w := newWorld(t)
	good := Assignment{Name: uuid.NewString(), Scope: resource.Root, RoleID: RoleReader, PrincipalID: w.principal(t, "c").ObjectID}
	known, _ := w.directory.Principal(good.PrincipalID)
	app := known.AppID
	tests := []struct {
		name         string
		change       func(*Assignment)
		code, target string
	}{
		{"no scope", func(a *Assignment) { a.Scope = resource.ID{} }, "InvalidRequest", "properties.scope"},
		{"name", func(a *Assignment) { a.Name = "mine" }, "InvalidRoleAssignmentId", "name"},
		{"name in braces", func(a *Assignment) { a.Name = "{" + a.Name + "}" }, "InvalidRoleAssignmentId", "name"},
		{"no role", func(a *Assignment) { a.RoleID = "" }, "RoleDefinitionDoesNotExist", "properties.roleDefinitionId"},
		{"unknown role", func(a *Assignment) { a.RoleID = uuid.NewString() }, "RoleDefinitionDoesNotExist", "properties.roleDefinitionId"},
		{"principal", func(a *Assignment) { a.PrincipalID = "ada" }, "InvalidPrincipalId", "properties.principalId"},
		{"app id", func(a *Assignment) { a.PrincipalID = app }, "InvalidPrincipalId", "properties.principalId"},
		{"app id in capitals", func(a *Assignment) { a.PrincipalID = strings.ToUpper(app) }, "InvalidPrincipalId", "properties.principalId"},
		{"type of a known principal", func(a *Assignment) { a.PrincipalType = User }, "UnmatchedPrincipalType", "properties.principalType"},
		{"type", func(a *Assignment) { a.PrincipalID, a.PrincipalType = uuid.NewString(), "Robot" }, "InvalidRequest", "properties.principalType"},
		{"condition", func(a *Assignment) { a.Condition = "true" }, "InvalidRequest", "properties.condition"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := good
			tt.change(&a)
			_, _, err := w.directory.Assign(t.Context(), a, Caller{})
			if f := wantFault(t, err, fault.Invalid, tt.code); f.Target != tt.target {
				t.Errorf("target %q, want %q", f.Target, tt.target)
			}
		})
	}
	_, _, err := w.directory.Assign(t.Context(), Assignment{Name: "x", Scope: resource.Root, Condition: "true", PrincipalID: "y"}, Caller{})
	f, _ := errors.AsType[*fault.Error](err)
	var targets []string
	for _, d := range f.Details {
		targets = append(targets, d.Target)
	}
	if want := []string{"name", "properties.roleDefinitionId", "properties.principalId", "properties.condition"}; !slices.Equal(targets, want) {
		t.Errorf("problems %q, want %q", targets, want)
	}
	// Somebody whom only a foreign issuer knows may be granted a role.
	foreign := good
	foreign.PrincipalID, foreign.PrincipalType = uuid.NewString(), "foreigngroup"
	if a, _, err := w.directory.Assign(t.Context(), foreign, Caller{}); err != nil || a.PrincipalType != "ForeignGroup" {
		t.Errorf("foreign principal: %+v, %v", a, err)
	}
}

func TestTheLastOwnerStays(t *testing.T) {
	w := newWorld(t)
	root := w.directory.Assignments(resource.Root, AssignmentFilter{AtScope: true})
	if len(root) != 1 {
		t.Fatalf("assignments at /: %v", root)
	}
	guarded := func(when string) {
		t.Helper()
		_, err := w.directory.Unassign(t.Context(), root[0].ID())
		wantFault(t, err, fault.Conflict, "LastOwner")
		_, err = w.directory.DeletePrincipal(t.Context(), w.owner.ObjectID)
		wantFault(t, err, fault.Conflict, "LastOwner")
		_, err = w.directory.SetEnabled(t.Context(), w.owner.ObjectID, false)
		wantFault(t, err, fault.Conflict, "LastOwner")
		if !w.strict.Allowed(w.ownerCaller(t), "x/y", resource.Root) {
			t.Fatalf("%s: the owner lost its role", when)
		}
	}
	guarded("alone")

	below, contributor := w.principal(t, "below"), w.principal(t, "contributor")
	w.grant(t, below, "Owner", testSubscription)
	w.grant(t, contributor, "Contributor", "/")
	guarded("beside an owner of one subscription")

	w.grant(t, Caller{ObjectID: w.group(t, "group").ObjectID}, "Owner", "/")
	guarded("beside an empty group")

	_, _, err := w.directory.Assign(t.Context(), Assignment{Name: uuid.NewString(), Scope: resource.Root, RoleID: RoleOwner, PrincipalID: uuid.NewString()}, Caller{})
	if err != nil {
		t.Fatal(err)
	}
	guarded("beside somebody unknown")

	second := w.principal(t, "second")
	w.grant(t, second, "Owner", "/")
	if _, err := w.directory.SetEnabled(t.Context(), second.ObjectID, false); err != nil {
		t.Fatal(err)
	}
	guarded("beside a disabled owner")

	if _, err := w.directory.SetEnabled(t.Context(), second.ObjectID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.directory.Unassign(t.Context(), root[0].ID()); err != nil {
		t.Errorf("beside a second owner: %v", err)
	}
	_, err = w.directory.DeletePrincipal(t.Context(), second.ObjectID)
	wantFault(t, err, fault.Conflict, "LastOwner")
}

// Two owners who remove each other at the same moment leave one.
func TestOwnersRemoveEachOther(t *testing.T) {
	w := newWorld(t)
	second := w.grant(t, w.principal(t, "second"), "Owner", "/")
	first := w.directory.Assignments(resource.Root, AssignmentFilter{PrincipalID: w.owner.ObjectID})[0]
	var wg sync.WaitGroup
	var refused atomic.Int32
	for _, a := range []Assignment{first, second} {
		wg.Go(func() {
			if _, err := w.directory.Unassign(t.Context(), a.ID()); err != nil {
				refused.Add(1)
			}
		})
		wg.Go(func() {
			w.strict.Allowed(Caller{ObjectID: a.PrincipalID}, "x/y", resource.Root)
			w.directory.Assignments(resource.Root, AssignmentFilter{AssignedTo: a.PrincipalID})
		})
	}
	wg.Wait()
	if left := w.directory.Assignments(resource.Root, AssignmentFilter{}); len(left) != 1 || refused.Load() != 1 {
		t.Errorf("%d refused, left %v", refused.Load(), left)
	}
}

func TestUnassignMissing(t *testing.T) {
	w := newWorld(t)
	_, err := w.directory.Unassign(t.Context(), assignmentID(resource.MustID(testGroup), uuid.NewString()))
	wantFault(t, err, fault.NotFound, "RoleAssignmentNotFound")
}

func TestAssignments(t *testing.T) {
	w := newWorld(t)
	a, b := w.principal(t, "a"), w.principal(t, "b")
	w.grant(t, a, "Reader", testSubscription)
	w.grant(t, a, "Contributor", testGroup)
	w.grant(t, b, "Reader", testTopic)
	w.grant(t, b, "Owner", testGroup+"-prod")
	tests := []struct {
		name, scope string
		filter      AssignmentFilter
		want        []string // scope by principal
	}{
		{"above, at and below", testGroup, AssignmentFilter{}, []string{"owner /", "a " + testSubscription, "a " + testGroup, "b " + testTopic}},
		{"at scope", testGroup, AssignmentFilter{AtScope: true}, []string{"owner /", "a " + testSubscription, "a " + testGroup}},
		{"principal", testGroup, AssignmentFilter{PrincipalID: strings.ToUpper(b.ObjectID)}, []string{"b " + testTopic}},
		{"principal at scope", testGroup, AssignmentFilter{PrincipalID: b.ObjectID, AtScope: true}, nil},
		{"assigned to", testTopic, AssignmentFilter{AssignedTo: a.ObjectID}, []string{"a " + testSubscription, "a " + testGroup}},
		{"root", "/", AssignmentFilter{PrincipalID: b.ObjectID}, []string{"b " + testTopic, "b " + testGroup + "-prod"}},
	}
	names := map[string]string{w.owner.ObjectID: "owner", a.ObjectID: "a", b.ObjectID: "b"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, as := range w.directory.Assignments(resource.MustID(tt.scope), tt.filter) {
				got = append(got, names[as.PrincipalID]+" "+as.Scope.String())
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestParseAssignmentFilter(t *testing.T) {
	const id = "c1000000-0000-0000-0000-00000000000c"
	tests := []struct {
		name, text string
		want       AssignmentFilter
		bad        bool
	}{
		{"none", " ", AssignmentFilter{}, false},
		{"at scope", "atScope()", AssignmentFilter{AtScope: true}, false},
		{"principal", "principalId eq '" + id + "'", AssignmentFilter{PrincipalID: id}, false},
		{"case", "PRINCIPALID EQ '" + strings.ToUpper(id) + "'", AssignmentFilter{PrincipalID: id}, false},
		{"assigned to", "assignedTo('" + id + "')", AssignmentFilter{AssignedTo: id}, false},
		{"joined", "atScope() and assignedTo('" + id + "')", AssignmentFilter{AtScope: true, AssignedTo: id}, false},
		{"not a GUID", "principalId eq 'x'", AssignmentFilter{}, true},
		{"another property", "roleDefinitionId eq 'x'", AssignmentFilter{}, true},
		{"or", "atScope() or assignedTo('" + id + "')", AssignmentFilter{}, true},
		{"open end", "atScope() and ", AssignmentFilter{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAssignmentFilter(tt.text)
			if tt.bad {
				if f := wantFault(t, err, fault.Invalid, "InvalidRequest"); f.Target != "$filter" {
					t.Errorf("target %q", f.Target)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}
