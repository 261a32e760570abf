package access

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const readerID = "0a000000-0000-4000-8000-000000000001"

func topicReader() Role {
	return Role{ID: readerID, Name: "Topic Reader", AssignableScopes: []string{testGroup}, Permissions: []Permission{{
		Actions: []string{"Microsoft.EventGrid/topics/*"}, NotActions: []string{"*/delete"},
		DataActions: []string{"Microsoft.EventGrid/events/*/action"}, NotDataActions: []string{ActionSend},
	}}}
}

func (w *world) define(t testing.TB, r Role) Role {
	t.Helper()
	r, err := w.directory.Define(t.Context(), r, w.ownerCaller(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A definition holds at once, in every form it gets, and after a start.
func TestDefine(t *testing.T) {
	w := newWorld(t)
	made := w.define(t, topicReader())
	if made.Type != CustomRole || made.CreatedBy != w.owner.ObjectID || made.Created.IsZero() {
		t.Errorf("stored %+v", made)
	}
	c := w.principal(t, "reader")
	w.grant(t, c, "topic reader", testTopic)
	topic := resource.MustID(testTopic)
	check := func(w *world, read, write, remove, receive, send bool) {
		t.Helper()
		for _, tt := range []struct {
			action string
			data   bool
			want   bool
		}{
			{"Microsoft.EventGrid/topics/read", false, read}, {"microsoft.eventgrid/TOPICS/write", false, write},
			{"Microsoft.EventGrid/topics/delete", false, remove}, {ActionReceive, true, receive}, {ActionSend, true, send},
			{ActionReceive, false, false},
		} {
			if got := w.strict.Decide(c.ObjectID, tt.action, tt.data, topic).Allowed; got != tt.want {
				t.Errorf("%s (data %v): decided %v, want %v", tt.action, tt.data, got, tt.want)
			}
			allowed := w.strict.Allowed
			if tt.data {
				allowed = w.strict.AllowedData
			}
			if got := allowed(c, tt.action, topic); got != tt.want {
				t.Errorf("%s (data %v): allowed %v, want %v", tt.action, tt.data, got, tt.want)
			}
		}
	}
	check(w, true, true, false, true, false)
	changed := topicReader()
	changed.Permissions[0].Actions = []string{"*/read"}
	changed.Permissions[0].DataActions = nil
	again := w.define(t, changed)
	if !again.Created.Equal(made.Created) || again.Updated.Before(made.Updated) {
		t.Errorf("created %v then %v", made.Created, again.Created)
	}
	check(w, true, false, false, false, false)
	check(openWorld(t, w.kv, t.TempDir()), true, false, false, false, false)
	if r, _ := w.directory.Roles().Role(RoleOwner); r.Name != "Owner" {
		t.Error("the built-in roles are gone")
	}
}

func TestDefineRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(r *Role)
		kind   fault.Kind
		code   string
		target string
	}{
		{"built in", func(r *Role) { r.ID = strings.ToUpper(RoleReader) }, fault.Conflict, "RoleDefinitionIsBuiltIn", ""},
		{"no GUID", func(r *Role) { r.ID = "mine" }, fault.Invalid, "InvalidRoleDefinitionId", "name"},
		{"no name", func(r *Role) { r.Name = " " }, fault.Invalid, "InvalidRequest", "properties.roleName"},
		{"long name", func(r *Role) { r.Name = strings.Repeat("x", 129) }, fault.Invalid, "InvalidRequest", "properties.roleName"},
		{"name of a built-in role", func(r *Role) { r.Name = "OWNER" }, fault.Conflict, "RoleDefinitionWithSameNameExists", "properties.roleName"},
		{"name of another", func(r *Role) { r.ID = "0a000000-0000-4000-8000-000000000002" }, fault.Conflict, "RoleDefinitionWithSameNameExists", "properties.roleName"},
		{"long description", func(r *Role) { r.Description = strings.Repeat("x", 1025) }, fault.Invalid, "InvalidRequest", "properties.description"},
		{"grants nothing", func(r *Role) { r.Permissions = []Permission{{NotActions: []string{"*"}}} }, fault.Invalid, "InvalidRequest", "properties.permissions"},
		{"no action", func(r *Role) { r.Permissions[0].Actions = []string{"a/b", "read all"} }, fault.Invalid, "InvalidRequest", "properties.permissions[0].actions[1]"},
		{"no data action", func(r *Role) { r.Permissions[0].NotDataActions = []string{""} }, fault.Invalid, "InvalidRequest", "properties.permissions[0].notDataActions[0]"},
		{"very many permissions", func(r *Role) { r.Permissions = append(make([]Permission, 100), r.Permissions...) }, fault.Invalid, "InvalidRequest", "properties.permissions"},
		{"nowhere", func(r *Role) { r.AssignableScopes = nil }, fault.Invalid, "InvalidRequest", "properties.assignableScopes"},
		{"no scope", func(r *Role) { r.AssignableScopes = []string{"/", "here"} }, fault.Invalid, "InvalidRequest", "properties.assignableScopes[1]"},
		{"assigned elsewhere", func(r *Role) { r.AssignableScopes = []string{testWorkspace} }, fault.Conflict, "RoleDefinitionHasAssignments", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.define(t, topicReader())
			w.grant(t, w.principal(t, "reader"), "Topic Reader", testTopic)
			r := topicReader()
			tt.change(&r)
			_, err := w.directory.Define(t.Context(), r, Caller{})
			if f := wantFault(t, err, tt.kind, tt.code); f.Target != tt.target {
				t.Errorf("target %q, want %q", f.Target, tt.target)
			}
			if kept, _ := w.directory.Roles().Role(readerID); kept.Name != "Topic Reader" {
				t.Errorf("now %+v", kept)
			}
		})
	}
}

func TestUndefine(t *testing.T) {
	w := newWorld(t)
	w.define(t, topicReader())
	a := w.grant(t, w.principal(t, "reader"), "Topic Reader", testTopic)
	_, err := w.directory.Undefine(t.Context(), readerID)
	wantFault(t, err, fault.Conflict, "RoleDefinitionHasAssignments")
	if _, err := w.directory.Unassign(t.Context(), a.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.directory.Undefine(t.Context(), readerID); err != nil {
		t.Fatal(err)
	}
	_, err = w.directory.Undefine(t.Context(), readerID)
	wantFault(t, err, fault.NotFound, "RoleDefinitionDoesNotExist")
	_, err = w.directory.Undefine(t.Context(), RoleOwner)
	wantFault(t, err, fault.Conflict, "RoleDefinitionIsBuiltIn")
}

func TestAssignableScopes(t *testing.T) {
	w := newWorld(t)
	w.define(t, topicReader())
	c := w.principal(t, "reader")
	for scope, ok := range map[string]bool{
		testGroup: true, testTopic: true, strings.ToUpper(testTopic): true, testSubscription: false, "/": false, testGroup + "-prod": false,
	} {
		_, _, err := w.directory.Assign(t.Context(), Assignment{Name: uuid.NewString(), Scope: resource.MustID(scope), RoleID: readerID, PrincipalID: c.ObjectID}, Caller{})
		f, _ := errors.AsType[*fault.Error](err)
		if got := err == nil || f.Code == "RoleAssignmentExists"; got != ok {
			t.Errorf("at %s: %v, want allowed %v", scope, err, ok)
		}
	}
	granting := w.strict.Check(c, "Microsoft.EventGrid/topics/x", resource.MustID(testSubscription)).(*fault.Error).Info[0].Info.(MissingPermission)
	for _, r := range granting.RolesThatGrant {
		if r == "Topic Reader" {
			t.Error("a 403 advises a role that cannot be assigned there")
		}
	}
}

func TestDecide(t *testing.T) {
	w := newWorld(t)
	w.define(t, topicReader())
	direct, member, nobody := w.principal(t, "direct"), w.principal(t, "member"), w.principal(t, "nobody")
	inner := w.group(t, "inner", member.ObjectID)
	outer := w.group(t, "outer", inner.ObjectID)
	w.grant(t, direct, "Topic Reader", testGroup)
	w.grant(t, Caller{ObjectID: outer.ObjectID}, "EventGrid EventSubscription Contributor", testWorkspace)
	const es = "Microsoft.EventGrid/eventSubscriptions/"
	tests := []struct {
		name, who, action, scope string
		data, want               bool
		why, group               string
		linked                   bool
	}{
		{"granted", direct.ObjectID, "Microsoft.EventGrid/topics/write", testTopic, false, true, `"Microsoft.EventGrid/topics/*" in its actions grants it`, "", false},
		{"taken away", direct.ObjectID, "Microsoft.EventGrid/topics/delete", testTopic, false, false, `"*/delete" in its notActions takes it away`, "", false},
		{"not among them", direct.ObjectID, "Microsoft.EventGrid/domains/read", testTopic, false, false, "none of its actions is that", "", false},
		{"data taken away", direct.ObjectID, ActionSend, testTopic, true, false, "in its notDataActions takes it away", "", false},
		{"another scope", direct.ObjectID, "Microsoft.EventGrid/topics/write", testSubscription, false, false, "does not hold " + testSubscription, "", false},
		{"of a group in a group", member.ObjectID, es + "read", testEvents, false, true, "grants it", outer.ObjectID, false},
		{"strict rule", member.ObjectID, es + "write", testEvents, false, false, "grants it", outer.ObjectID, true},
		{"nobody", nobody.ObjectID, es + "read", testEvents, false, false, "", "", false},
		{"unknown", uuid.NewString(), es + "read", testEvents, false, false, "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := w.strict.Decide(strings.ToUpper(tt.who), tt.action, tt.data, resource.MustID(tt.scope))
			if d.Allowed != tt.want || (d.Linked != nil) != tt.linked {
				t.Errorf("allowed %v, linked %v; want %v, %v", d.Allowed, d.Linked, tt.want, tt.linked)
			}
			if (len(d.Reasons) == 0) != (tt.why == "") {
				t.Fatalf("reasons %+v", d.Reasons)
			}
			if tt.why != "" && (!strings.Contains(d.Reasons[0].Why, tt.why) || d.Reasons[0].Group != tt.group) {
				t.Errorf("reason %+v, want %q", d.Reasons[0], tt.why)
			}
		})
	}
	if d := w.actions.Decide(member.ObjectID, es+"write", false, resource.MustID(testEvents)); !d.Allowed || d.Linked != nil {
		t.Errorf("without the strict rule: %+v", d)
	}
}
