package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const (
	testSubscription = "/subscriptions/5f000000-0000-0000-0000-000000000001"
	testGroup        = testSubscription + "/resourceGroups/ml"
	testWorkspace    = testGroup + "/providers/Microsoft.MachineLearningServices/workspaces/churn"
	testTopic        = testGroup + "/providers/Microsoft.EventGrid/topics/orders"
	testSystemTopic  = testGroup + "/providers/Microsoft.EventGrid/systemTopics/churn"
	testHub          = testSubscription + "/resourceGroups/streams/providers/Microsoft.EventHub/namespaces/n/eventhubs/h"
	testEvents       = testWorkspace + "/providers/Microsoft.EventGrid/eventSubscriptions/retrain"
	testNested       = testSystemTopic + "/eventSubscriptions/retrain"
)

// The matrix of spec/access.md section 15, by the names of its rows, and rows of our own
// behind it. The row "topicTypes list" needs no right and stands in package arm.
func TestMatrix(t *testing.T) {
	w := newWorld(t)
	columns := []struct{ name, role, scope string }{
		{"Owner", "Owner", testSubscription},
		{"Contributor", "Contributor", testWorkspace},
		{"Reader", "Reader", testGroup},
		{"DataSci", "AzureML Data Scientist", testWorkspace},
		{"ES-Contr", "EventGrid EventSubscription Contributor", testWorkspace},
		{"ES-Reader", "EventGrid EventSubscription Reader", testSubscription},
		{"EG-Contr", "EventGrid Contributor", testGroup},
		{"Sender", "EventGrid Data Sender", testTopic},
		{"nobody", "", ""},
	}
	callers := map[string]Caller{}
	for _, c := range columns {
		callers[c.name] = w.principal(t, "matrix "+c.name)
		if c.role != "" {
			w.grant(t, callers[c.name], c.role, c.scope)
		}
	}
	check := func(action, scope string) func(*Authorizer, Caller) error {
		return func(z *Authorizer, c Caller) error { return z.Check(c, action, resource.MustID(scope)) }
	}
	write := func(action, target, source string) func(*Authorizer, Caller) error {
		return func(z *Authorizer, c Caller) error {
			return z.CheckEventSubscriptionWrite(c, action, resource.MustID(target), resource.MustID(source))
		}
	}
	toHub := func(z *Authorizer, c Caller) error {
		const action = "Microsoft.EventGrid/eventSubscriptions/write"
		if err := write(action, testEvents, testWorkspace)(z, c); err != nil {
			return err
		}
		return z.CheckLinked(c, action, resource.MustID(testEvents), "Microsoft.EventHub/namespaces/eventhubs/write", resource.MustID(testHub))
	}
	const (
		ok = iota
		no
		linked
	)
	tests := []struct {
		name            string
		do              func(*Authorizer, Caller) error
		actions, strict [9]int
	}{
		{"create/update subscription on workspace (webhook)", write("Microsoft.EventGrid/eventSubscriptions/write", testEvents, testWorkspace),
			[9]int{ok, ok, no, no, ok, no, ok, no, no}, [9]int{ok, ok, no, no, linked, no, linked, no, no}},
		{"delete subscription on workspace (webhook)", write("Microsoft.EventGrid/eventSubscriptions/delete", testEvents, testWorkspace),
			[9]int{ok, ok, no, no, ok, no, ok, no, no}, [9]int{ok, ok, no, no, linked, no, linked, no, no}},
		{"get/list subscription", check("Microsoft.EventGrid/eventSubscriptions/read", testEvents),
			[9]int{ok, ok, ok, no, ok, ok, ok, no, no}, [9]int{ok, ok, ok, no, ok, ok, ok, no, no}},
		{"getFullUrl", check("Microsoft.EventGrid/eventSubscriptions/getFullUrl/action", testEvents),
			[9]int{ok, ok, no, no, ok, no, ok, no, no}, [9]int{ok, ok, no, no, ok, no, ok, no, no}},
		{"nested under a system topic in the group", write("Microsoft.EventGrid/systemTopics/eventSubscriptions/write", testNested, testWorkspace),
			[9]int{ok, no, no, no, no, no, ok, no, no}, [9]int{ok, no, no, no, no, no, linked, no, no}},
		{"system topic of a workspace", write("Microsoft.EventGrid/systemTopics/write", testSystemTopic, testWorkspace),
			[9]int{ok, no, no, no, no, no, ok, no, no}, [9]int{ok, no, no, no, no, no, linked, no, no}},
		{"subscription on a topic", write("Microsoft.EventGrid/eventSubscriptions/write", testTopic+"/providers/Microsoft.EventGrid/eventSubscriptions/e", testTopic),
			[9]int{ok, no, no, no, no, no, ok, no, no}, [9]int{ok, no, no, no, no, no, ok, no, no}},
		{"subscription to an event hub without rights on the hub", toHub,
			[9]int{ok, linked, no, no, linked, no, linked, no, no}, [9]int{ok, linked, no, no, linked, no, linked, no, no}},
		{"topic create", check("Microsoft.EventGrid/topics/write", testTopic),
			[9]int{ok, no, no, no, no, no, ok, no, no}, [9]int{ok, no, no, no, no, no, ok, no, no}},
		{"topic listKeys", check("Microsoft.EventGrid/topics/listKeys/action", testTopic),
			[9]int{ok, no, no, no, no, no, ok, no, no}, [9]int{ok, no, no, no, no, no, ok, no, no}},
		{"publish with token", func(z *Authorizer, c Caller) error { return z.CheckData(c, ActionSend, resource.MustID(testTopic)) },
			[9]int{no, no, no, no, no, no, no, ok, no}, [9]int{no, no, no, no, no, no, no, ok, no}},
		{"create role assignment", check("Microsoft.Authorization/roleAssignments/write", testWorkspace),
			[9]int{ok, no, no, no, no, no, no, no, no}, [9]int{ok, no, no, no, no, no, no, no, no}},
		{"record a run", check("Microsoft.MachineLearningServices/workspaces/experiments/runs/write", testWorkspace+"/experiments/e/runs/r"),
			[9]int{ok, ok, no, ok, no, no, no, no, no}, [9]int{ok, ok, no, ok, no, no, no, no, no}},
		{"change the workspace", check(ActionWorkspaceWrite, testWorkspace),
			[9]int{ok, ok, no, no, no, no, no, no, no}, [9]int{ok, ok, no, no, no, no, no, no, no}},
		{"read events of the workspace", func(z *Authorizer, c Caller) error { return z.CheckEventRead(c, resource.MustID(testWorkspace)) },
			[9]int{ok, ok, no, no, no, no, no, no, no}, [9]int{ok, ok, no, no, no, no, no, no, no}},
		{"read events of the topic", func(z *Authorizer, c Caller) error { return z.CheckEventRead(c, resource.MustID(testTopic)) },
			[9]int{ok, no, no, no, no, no, ok, no, no}, [9]int{ok, no, no, no, no, no, ok, no, no}},
		{"create a principal", check(ActionPrincipalWrite, "/"),
			[9]int{no, no, no, no, no, no, no, no, no}, [9]int{no, no, no, no, no, no, no, no, no}},
	}
	codes := map[int]string{no: "AuthorizationFailed", linked: "LinkedAuthorizationFailed"}
	for _, tt := range tests {
		for i, c := range columns {
			for rule, z := range map[string]*Authorizer{"actions": w.actions, "strict": w.strict} {
				want := tt.actions[i]
				if rule == "strict" {
					want = tt.strict[i]
				}
				t.Run(tt.name+"/"+c.name+"/"+rule, func(t *testing.T) {
					err := tt.do(z, callers[c.name])
					f, _ := errors.AsType[*fault.Error](err)
					switch {
					case want == ok && err != nil:
						t.Errorf("refused: %v", err)
					case want != ok && (f == nil || f.Kind != fault.Forbidden || f.Code != codes[want]):
						t.Errorf("error %v, want a Forbidden fault with code %s", err, codes[want])
					}
				})
			}
		}
	}
}

// Consequences of the built-in roles. Source: spec/access.md section 8.
func TestConsequences(t *testing.T) {
	w := newWorld(t)
	caller := map[string]Caller{}
	for _, r := range w.directory.Roles().List() {
		caller[r.Name] = w.principal(t, "has "+r.Name)
		w.grant(t, caller[r.Name], r.Name, "/")
	}
	const (
		eg = "Microsoft.EventGrid/"
		ma = "Microsoft.Authorization/"
		ml = "Microsoft.MachineLearningServices/workspaces/"
	)
	tests := []struct {
		role, action string
		data, want   bool
	}{
		{"EventGrid EventSubscription Contributor", eg + "eventSubscriptions/write", false, true},
		{"EventGrid EventSubscription Contributor", eg + "eventSubscriptions/getFullUrl/action", false, true},
		{"EventGrid EventSubscription Contributor", eg + "eventSubscriptions/getDeliveryAttributes/action", false, true},
		{"EventGrid EventSubscription Contributor", eg + "systemTopics/eventSubscriptions/write", false, false},
		{"EventGrid EventSubscription Contributor", eg + "topics/eventSubscriptions/write", false, false},
		{"EventGrid EventSubscription Reader", eg + "eventSubscriptions/getFullUrl/action", false, false},
		{"Reader", eg + "eventSubscriptions/read", false, true},
		{"Reader", eg + "eventSubscriptions/getFullUrl/action", false, false},
		{"Reader", eg + "eventSubscriptions/getDeliveryAttributes/action", false, false},
		{"Reader", eg + "topics/listKeys/action", false, false},
		{"Contributor", eg + "topics/write", false, true},
		{"Contributor", eg + "topics/listKeys/action", false, true},
		{"Contributor", eg + "systemTopics/eventSubscriptions/delete", false, true},
		{"Contributor", ma + "roleAssignments/write", false, false},
		{"Contributor", ma + "roleAssignments/delete", false, false},
		{"Contributor", ma + "roleAssignments/read", false, true},
		{"Contributor", ma + "elevateAccess/action", false, false},
		{"Contributor", ActionPrincipalWrite, false, false},
		{"Contributor", ActionPrincipalRead, false, true},
		{"Role Based Access Control Administrator", ma + "roleAssignments/write", false, true},
		{"Role Based Access Control Administrator", ma + "roleDefinitions/write", false, false},
		{"Role Based Access Control Administrator", ActionPrincipalWrite, false, false},
		{"User Access Administrator", ma + "roleDefinitions/write", false, true},
		{"User Access Administrator", ActionPrincipalWrite, false, true},
		{"User Access Administrator", eg + "topics/write", false, false},
		{"AzureML Data Scientist", eg + "eventSubscriptions/read", false, false},
		{"AzureML Data Scientist", eg + "eventSubscriptions/write", false, false},
		{"AzureML Data Scientist", eg + "eventSubscriptions/delete", false, false},
		{"AzureML Data Scientist", ml + "models/versions/write", false, true},
		{"AzureML Data Scientist", ml + "onlineEndpoints/delete", false, true},
		{"AzureML Data Scientist", ml + "driftMonitors/runs/write", false, true},
		{"AzureML Data Scientist", "Microsoft.MachineLearningServices/workspaces/write", false, false},
		{"AzureML Data Scientist", "Microsoft.MachineLearningServices/workspaces/delete", false, false},
		{"AzureML Data Scientist", "Microsoft.MachineLearningServices/workspaces/read", false, false},
		{"AzureML Data Scientist", ml + "computes/c/write", false, false},
		{"AzureML Data Scientist", ml + "listKeys/action", false, false},
		{"AzureML Compute Operator", ml + "computes/start/action", false, true},
		{"AzureML Compute Operator", ml + "experiments/runs/write", false, false},
		{"AzureML Compute Operator", eg + "eventSubscriptions/write", false, false},
		{"Owner", eg + "topics/listKeys/action", false, true},
		{"Owner", ma + "roleAssignments/write", false, true},
		{"Owner", ActionSend, true, false},
		{"Owner", ActionReceive, true, false},
		{"EventGrid Contributor", ActionSend, true, false},
		{"EventGrid Data Sender", ActionSend, true, true},
		{"EventGrid Data Sender", ActionReceive, true, false},
		{"EventGrid Data Sender", ActionSend, false, false},
		{"EventGrid Data Sender", eg + "topics/write", false, false},
		{"EventGrid Data Receiver", ActionReceive, true, true},
		{"EventGrid Data Receiver", ActionSend, true, false},
		{"EventGrid Data Contributor", ActionSend, true, true},
		{"EventGrid Data Contributor", ActionReceive, true, true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s/%s/data=%v", tt.role, tt.action, tt.data), func(t *testing.T) {
			allowed := w.strict.Allowed
			if tt.data {
				allowed = w.strict.AllowedData
			}
			if got := allowed(caller[tt.role], tt.action, resource.MustID(testWorkspace)); got != tt.want {
				t.Errorf("allowed = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	w := newWorld(t)
	reader := w.principal(t, "reader")
	w.grant(t, reader, "Reader", testGroup)
	tests := []struct {
		name, action, scope string
		want                bool
	}{
		{"the scope itself", "Microsoft.Resources/subscriptions/resourceGroups/read", testGroup, true},
		{"below it", "Microsoft.EventGrid/topics/read", testTopic, true},
		{"other case", "MICROSOFT.EVENTGRID/TOPICS/READ", strings.ToUpper(testTopic), true},
		{"above it", "Microsoft.Resources/subscriptions/read", testSubscription, false},
		{"the root", "Microsoft.EventGrid/topics/read", "/", false},
		{"a group whose name begins like it", "Microsoft.EventGrid/topics/read", testGroup + "-prod/providers/Microsoft.EventGrid/topics/orders", false},
		{"a group whose name it begins with", "Microsoft.EventGrid/topics/read", strings.TrimSuffix(testGroup, "l") + "/providers/Microsoft.EventGrid/topics/orders", false},
		{"another subscription", "Microsoft.EventGrid/topics/read", strings.Replace(testTopic, "0001", "0002", 1), false},
		{"an action it does not have", "Microsoft.EventGrid/topics/write", testTopic, false},
		{"no action", "", testTopic, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := w.strict.Allowed(reader, tt.action, resource.MustID(tt.scope)); got != tt.want {
				t.Errorf("Allowed = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFailsClosed(t *testing.T) {
	w := newWorld(t)
	owner := w.ownerCaller(t)
	topic := resource.MustID(testTopic)
	if !w.strict.Allowed(owner, "x/y", topic) {
		t.Fatal("the owner may nothing: the other cases would prove nothing")
	}
	if w.strict.Allowed(owner, "x/y", resource.ID{}) {
		t.Error("no scope is allowed")
	}
	if w.strict.Allowed(Caller{}, "x/y", topic) || w.strict.Allowed(Caller{Groups: []string{owner.ObjectID}}, "x/y", topic) {
		t.Error("nobody is allowed")
	}
	for name, a := range map[string]Assignment{
		"a condition":    {Name: "00000000-0000-0000-0000-00000000000a", RoleID: RoleReader, Condition: "@Resource[x] StringEquals 'y'"},
		"a missing role": {Name: "00000000-0000-0000-0000-00000000000b", RoleID: "00000000-0000-0000-0000-00000000000c"},
	} {
		a.Scope, a.PrincipalID = resource.Root, w.principal(t, name).ObjectID
		if _, err := w.directory.assignments.Create(t.Context(), a.ID().Key(), a); err != nil {
			t.Fatal(err)
		}
		if w.strict.Allowed(Caller{ObjectID: a.PrincipalID}, "Microsoft.EventGrid/topics/read", topic) {
			t.Errorf("an assignment with %s grants", name)
		}
	}
	if _, err := NewAuthorizer(w.directory, "lax"); err == nil {
		t.Error("an unknown workspace rule is no error")
	}
}

func TestChangesHoldAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.principal(t, "c")
	topic := resource.MustID(testTopic)
	may := func() bool { return w.strict.Allowed(c, "Microsoft.EventGrid/topics/write", topic) }
	if may() {
		t.Fatal("allowed without an assignment")
	}
	a := w.grant(t, c, "Contributor", testGroup)
	if !may() {
		t.Fatal("refused with an assignment")
	}
	if _, err := w.directory.Unassign(t.Context(), a.ID()); err != nil {
		t.Fatal(err)
	}
	if may() {
		t.Fatal("allowed after the assignment was removed")
	}
}

// What another process stores holds here as well.
func TestChangesMadeElsewhere(t *testing.T) {
	w := newWorld(t)
	elsewhere := openWorld(t, w.kv, t.TempDir())
	c := elsewhere.principal(t, "c")
	a := elsewhere.grant(t, c, "Reader", testGroup)
	if !w.strict.Allowed(c, "Microsoft.EventGrid/topics/read", resource.MustID(testTopic)) {
		t.Error("an assignment made elsewhere grants nothing")
	}
	if _, err := elsewhere.directory.Unassign(t.Context(), a.ID()); err != nil {
		t.Fatal(err)
	}
	if w.strict.Allowed(c, "Microsoft.EventGrid/topics/read", resource.MustID(testTopic)) {
		t.Error("an assignment removed elsewhere still grants")
	}
}

func TestCustomRoles(t *testing.T) {
	operator := Role{ID: "00000000-0000-0000-0000-0000000000aa", Name: "Topic operator", Type: CustomRole, AssignableScopes: []string{"/"}, Permissions: []Permission{
		{Actions: []string{"Microsoft.EventGrid/topics/*"}, NotActions: []string{"Microsoft.EventGrid/topics/delete"}},
		{Actions: []string{"Microsoft.EventGrid/domains/read"}, DataActions: []string{"Microsoft.EventGrid/events/*"}, NotDataActions: []string{ActionReceive}},
	}}
	deleter := Role{ID: "00000000-0000-0000-0000-0000000000ab", Name: "Topic deleter", Type: CustomRole, AssignableScopes: []string{"/"}, Permissions: []Permission{
		{Actions: []string{"Microsoft.EventGrid/topics/delete"}, NotActions: []string{"Microsoft.EventGrid/topics/write"}},
	}}
	w := openWorld(t, &memoryKV{entries: map[string]engine.Change{}}, t.TempDir(), operator, deleter)
	one, both := w.principal(t, "one"), w.principal(t, "both")
	w.grant(t, one, "Topic operator", testGroup)
	w.grant(t, both, "Topic operator", testGroup)
	w.grant(t, both, "Topic deleter", testGroup)
	topic := resource.MustID(testTopic)
	tests := []struct {
		name    string
		c       Caller
		allowed func(Caller, string, resource.ID) bool
		action  string
		want    bool
	}{
		{"granted", one, w.strict.Allowed, "Microsoft.EventGrid/topics/write", true},
		{"taken away by notActions", one, w.strict.Allowed, "Microsoft.EventGrid/topics/delete", false},
		{"granted by the other role", both, w.strict.Allowed, "Microsoft.EventGrid/topics/delete", true},
		{"notActions of the other role deny nothing", both, w.strict.Allowed, "Microsoft.EventGrid/topics/write", true},
		{"second block", one, w.strict.Allowed, "Microsoft.EventGrid/domains/read", true},
		{"data action", one, w.strict.AllowedData, ActionSend, true},
		{"taken away by notDataActions", one, w.strict.AllowedData, ActionReceive, false},
		{"data action on the management plane", one, w.strict.Allowed, ActionSend, false},
		{"action on the data plane", one, w.strict.AllowedData, "Microsoft.EventGrid/topics/write", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.allowed(tt.c, tt.action, topic); got != tt.want {
				t.Errorf("allowed = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestGroupsGrant(t *testing.T) {
	w := newWorld(t)
	c := w.principal(t, "member")
	outer, inner := w.group(t, "outer"), w.group(t, "inner", c.ObjectID)
	w.setMembers(t, outer.ObjectID, inner.ObjectID)
	w.setMembers(t, inner.ObjectID, c.ObjectID, outer.ObjectID) // a circle ends
	w.grant(t, Caller{ObjectID: outer.ObjectID}, "Reader", testGroup)
	read := func() bool {
		caller, err := w.tokens.Validate(t.Context(), w.token(t, c), w.tokens.Management())
		if err != nil {
			t.Fatal(err)
		}
		return w.strict.Allowed(caller, "Microsoft.EventGrid/topics/read", resource.MustID(testTopic))
	}
	if !read() {
		t.Fatal("a nested group's role does not hold for its member")
	}
	assigned := w.directory.Assignments(resource.MustID(testGroup), AssignmentFilter{AssignedTo: c.ObjectID})
	if len(assigned) != 1 || assigned[0].PrincipalID != outer.ObjectID {
		t.Errorf("assignedTo lists %v", assigned)
	}
	w.setMembers(t, inner.ObjectID)
	if read() {
		t.Error("the role holds after the member was removed")
	}
}

// A system topic, or a child of the workspace, is no way around the strict rule.
func TestStrictRule(t *testing.T) {
	w := newWorld(t)
	c := w.principal(t, "grid")
	w.grant(t, c, "EventGrid Contributor", testSubscription)
	const action = "Microsoft.EventGrid/eventSubscriptions/write"
	child := testWorkspace + "/onlineEndpoints/score"
	tests := []struct {
		name, target, source string
		want                 bool
	}{
		{"workspace", testEvents, testWorkspace, false},
		{"workspace in another case", strings.ToUpper(testEvents), strings.ToUpper(testWorkspace), false},
		{"below the workspace", child + "/providers/Microsoft.EventGrid/eventSubscriptions/e", child, false},
		{"target in a workspace, source forgotten", testEvents, testTopic, false},
		{"system topic of a workspace", testNested, testWorkspace, false},
		{"topic", testTopic + "/providers/Microsoft.EventGrid/eventSubscriptions/e", testTopic, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target, source := resource.MustID(tt.target), resource.MustID(tt.source)
			err := w.strict.CheckEventSubscriptionWrite(c, action, target, source)
			if tt.want != (err == nil) {
				t.Errorf("error %v", err)
			}
			if err := w.actions.CheckEventSubscriptionWrite(c, action, target, source); err != nil {
				t.Errorf("plain actions: %v", err)
			}
		})
	}
}

// Clients and scripts read these texts. Source: spec/access.md section 11.
func TestForbiddenBodies(t *testing.T) {
	w := newWorld(t)
	app := Caller{ObjectID: "c1000000-0000-0000-0000-000000000001", AppID: "a1000000-0000-0000-0000-000000000001", Name: "ci", Type: ServicePrincipal}
	user := Caller{ObjectID: "c1000000-0000-0000-0000-000000000002", Name: "ada@grid.example", Type: User}
	w.grant(t, user, "EventGrid Contributor", testGroup)
	events, workspace := resource.MustID(testEvents), resource.MustID(testWorkspace)
	tests := []struct {
		name          string
		err           error
		code, message string
		roles         []string
	}{
		{"action, plain rule", w.actions.CheckEventSubscriptionWrite(app, "Microsoft.EventGrid/eventSubscriptions/write", events, workspace), "AuthorizationFailed",
			"The client 'a1000000-0000-0000-0000-000000000001' with object id 'c1000000-0000-0000-0000-000000000001' does not have authorization to perform action 'Microsoft.EventGrid/eventSubscriptions/write' over scope '" + testEvents + "' or the scope is invalid. If access was recently granted, please refresh your credentials.",
			[]string{"Owner", "Contributor", "EventGrid Contributor", "EventGrid EventSubscription Contributor"}},
		{"action, strict rule", w.strict.CheckEventSubscriptionWrite(app, "Microsoft.EventGrid/eventSubscriptions/write", events, workspace), "AuthorizationFailed",
			"The client 'a1000000-0000-0000-0000-000000000001' with object id 'c1000000-0000-0000-0000-000000000001' does not have authorization to perform action 'Microsoft.EventGrid/eventSubscriptions/write' over scope '" + testEvents + "' or the scope is invalid. If access was recently granted, please refresh your credentials.",
			[]string{"Owner", "Contributor"}},
		{"linked", w.strict.CheckEventSubscriptionWrite(user, "Microsoft.EventGrid/eventSubscriptions/write", events, workspace), "LinkedAuthorizationFailed",
			"The client 'ada@grid.example' with object id 'c1000000-0000-0000-0000-000000000002' has permission to perform action 'Microsoft.EventGrid/eventSubscriptions/write' on scope '" + testEvents + "', but it does not have permission to perform action 'Microsoft.MachineLearningServices/workspaces/write' on the linked scope '" + testWorkspace + "', or the linked scope is invalid.",
			[]string{"Owner", "Contributor"}},
		{"data action", w.strict.CheckData(user, ActionSend, resource.MustID(testTopic)), "AuthorizationFailed",
			"The client 'ada@grid.example' with object id 'c1000000-0000-0000-0000-000000000002' does not have authorization to perform action 'Microsoft.EventGrid/events/send/action' over scope '" + testTopic + "' or the scope is invalid. If access was recently granted, please refresh your credentials.",
			[]string{"EventGrid Data Sender", "EventGrid Data Contributor"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, ok := errors.AsType[*fault.Error](tt.err)
			if !ok || f.Kind != fault.Forbidden || f.Code != tt.code || f.Message != tt.message {
				t.Fatalf("error %#v\nwant %s: %s", tt.err, tt.code, tt.message)
			}
			if len(f.Info) != 1 || f.Info[0].Type != "MissingPermission" {
				t.Fatalf("additional information %v", f.Info)
			}
			if m := f.Info[0].Info.(MissingPermission); !slices.Equal(m.RolesThatGrant, tt.roles) {
				t.Errorf("roles %q, want %q", m.RolesThatGrant, tt.roles)
			}
		})
	}
	raw, err := json.Marshal(w.strict.Check(app, "Nobody.Grants/this/action", events).(*fault.Error).Info)
	want := `[{"type":"MissingPermission","info":{"action":"Nobody.Grants/this/action","scope":"` + testEvents + `","rolesThatGrant":["Owner","Contributor"]}}]`
	if err != nil || string(raw) != want {
		t.Errorf("info %s, %v\nwant %s", raw, err, want)
	}
}
