package manage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Source: spec/access.md section 8.
const (
	roleEventGridContributor = "1e241071-0855-49ea-94dc-649edcd759de"
	roleDataScientist        = "f6c7c914-8db3-469d-8ca1-694a8f32e121"
)

func TestBootstrap(t *testing.T) {
	f := newFixture(t)
	w, ok := f.Store.Workspaces.Get(id(workspaceID).Key())
	if !ok || w.Value.Location != "local" || w.Value.UID == 0 || w.Value.TopicUID == 0 || !slices.Equal(w.Value.StatusEvents, []string{"Failed"}) {
		t.Errorf("workspace %+v", w.Value)
	}
	st, ok := f.Store.SystemTopics.Get(id(systemTopic).Key())
	if !ok || !st.Value.Source.Equal(id(workspaceID)) || st.Value.TopicType != "Microsoft.MachineLearningServices.Workspaces" {
		t.Errorf("system topic %+v", st.Value)
	}
	before := f.kv.Dump()
	if err := f.Bootstrap(context.Background(), f.owner); err != nil || fmt.Sprint(f.kv.Dump()) != fmt.Sprint(before) {
		t.Errorf("a second start changed something: %v", err)
	}
	if _, err := f.DeleteWorkspace(context.Background(), f.owner, id(workspaceID), Precondition{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Bootstrap(context.Background(), f.owner); err != nil || len(f.Store.Workspaces.List("")) != 0 {
		t.Errorf("a deleted workspace came back: %v", err)
	}
}

// operations are one call of every operation, with the action it needs.
func operations(f *fixture) []struct {
	name, action, scope string
	call                func(c access.Caller) error
} {
	ctx := context.Background()
	var (
		missingTopic = topicsPrefix + "missing"
		ext          = missingTopic + extension + "es1"
		nested       = missingTopic + "/eventSubscriptions/es1"
		st           = local + "/providers/Microsoft.EventGrid/systemTopics/missing"
		ws           = local + "/providers/Microsoft.MachineLearningServices/workspaces/missing"
		group        = "/subscriptions/" + FirstSubscription + "/resourceGroups/missing"
		grant        = local + "/providers/Microsoft.Authorization/roleAssignments/11111111-1111-1111-1111-111111111111"
	)
	const eg = "Microsoft.EventGrid/"
	type op = struct {
		name, action, scope string
		call                func(c access.Caller) error
	}
	return []op{
		{"get group", "Microsoft.Resources/subscriptions/resourceGroups/read", group, func(c access.Caller) error { _, err := f.Group(ctx, c, id(group)); return err }},
		{"put group", "Microsoft.Resources/subscriptions/resourceGroups/write", group, func(c access.Caller) error {
			_, _, err := f.PutGroup(ctx, c, id(group), Tracked{}, Precondition{})
			return err
		}},
		{"patch group", "Microsoft.Resources/subscriptions/resourceGroups/write", group, func(c access.Caller) error {
			_, err := f.PatchGroup(ctx, c, id(group), Tracked{}, Precondition{})
			return err
		}},
		{"delete group", "Microsoft.Resources/subscriptions/resourceGroups/delete", group, func(c access.Caller) error { _, err := f.DeleteGroup(ctx, c, id(group), Precondition{}); return err }},
		{"get topic", eg + "topics/read", missingTopic, func(c access.Caller) error { _, err := f.Topic(ctx, c, id(missingTopic)); return err }},
		{"list topics", eg + "topics/read", group, func(c access.Caller) error { _, err := f.Topics(ctx, c, id(group)); return err }},
		{"put topic", eg + "topics/write", missingTopic, func(c access.Caller) error {
			_, err := f.PutTopic(ctx, c, id(missingTopic), TopicChange{}, Precondition{})
			return err
		}},
		{"patch topic", eg + "topics/write", missingTopic, func(c access.Caller) error {
			_, err := f.PatchTopic(ctx, c, id(missingTopic), TopicChange{}, Precondition{})
			return err
		}},
		{"delete topic", eg + "topics/delete", missingTopic, func(c access.Caller) error {
			_, err := f.DeleteTopic(ctx, c, id(missingTopic), Precondition{})
			return err
		}},
		{"keys", eg + "topics/listKeys/action", missingTopic, func(c access.Caller) error { _, err := f.TopicKeys(ctx, c, id(missingTopic)); return err }},
		{"regenerate key", eg + "topics/regenerateKey/action", missingTopic, func(c access.Caller) error {
			_, err := f.RegenerateTopicKey(ctx, c, id(missingTopic), "x", nil)
			return err
		}},
		{"get system topic", eg + "systemTopics/read", st, func(c access.Caller) error { _, err := f.SystemTopic(ctx, c, id(st)); return err }},
		{"put system topic", eg + "systemTopics/write", st, func(c access.Caller) error {
			_, err := f.PutSystemTopic(ctx, c, id(st), SystemTopicChange{}, Precondition{})
			return err
		}},
		{"patch system topic", eg + "systemTopics/write", st, func(c access.Caller) error {
			_, err := f.PatchSystemTopic(ctx, c, id(st), Tracked{}, Precondition{})
			return err
		}},
		{"delete system topic", eg + "systemTopics/delete", st, func(c access.Caller) error { _, err := f.DeleteSystemTopic(ctx, c, id(st), Precondition{}); return err }},
		{"list system topics", eg + "systemTopics/read", group, func(c access.Caller) error { _, err := f.SystemTopics(ctx, c, id(group)); return err }},
		{"extension topic", eg + "extensionTopics/read", ws, func(c access.Caller) error { _, err := f.SystemTopicOf(ctx, c, id(ws)); return err }},
		{"event types", eg + "eventTypes/read", ws, func(c access.Caller) error { _, err := f.EventTypesOf(ctx, c, id(ws)); return err }},
		{"get workspace", "Microsoft.MachineLearningServices/workspaces/read", ws, func(c access.Caller) error { _, err := f.Workspace(ctx, c, id(ws)); return err }},
		{"put workspace", "Microsoft.MachineLearningServices/workspaces/write", ws, func(c access.Caller) error {
			_, err := f.PutWorkspace(ctx, c, id(ws), WorkspaceChange{}, Precondition{})
			return err
		}},
		{"patch workspace", "Microsoft.MachineLearningServices/workspaces/write", ws, func(c access.Caller) error {
			_, err := f.PatchWorkspace(ctx, c, id(ws), WorkspaceChange{}, Precondition{})
			return err
		}},
		{"delete workspace", "Microsoft.MachineLearningServices/workspaces/delete", ws, func(c access.Caller) error { _, err := f.DeleteWorkspace(ctx, c, id(ws), Precondition{}); return err }},
		{"list workspaces", "Microsoft.MachineLearningServices/workspaces/read", group, func(c access.Caller) error { _, err := f.Workspaces(ctx, c, id(group)); return err }},
		{"get event subscription", eg + "eventSubscriptions/read", ext, func(c access.Caller) error { _, err := f.EventSubscription(ctx, c, id(ext)); return err }},
		{"put event subscription", eg + "eventSubscriptions/write", ext, func(c access.Caller) error {
			_, err := f.PutEventSubscription(ctx, c, id(ext), EventSubscriptionChange{}, Precondition{})
			return err
		}},
		{"patch event subscription", eg + "eventSubscriptions/write", ext, func(c access.Caller) error {
			_, err := f.PatchEventSubscription(ctx, c, id(ext), EventSubscriptionChange{}, Precondition{})
			return err
		}},
		{"delete event subscription", eg + "eventSubscriptions/delete", ext, func(c access.Caller) error {
			_, err := f.DeleteEventSubscription(ctx, c, id(ext), Precondition{})
			return err
		}},
		{"full URL", eg + "eventSubscriptions/getFullUrl/action", ext, func(c access.Caller) error { _, err := f.FullURL(ctx, c, id(ext)); return err }},
		{"attributes", eg + "eventSubscriptions/getDeliveryAttributes/action", ext, func(c access.Caller) error { _, err := f.DeliveryAttributes(ctx, c, id(ext)); return err }},
		{"list of a source", eg + "eventSubscriptions/read", missingTopic, func(c access.Caller) error {
			_, err := f.EventSubscriptions(ctx, c, id(missingTopic), false, Part{})
			return err
		}},
		{"get nested", eg + "topics/eventSubscriptions/read", nested, func(c access.Caller) error { _, err := f.EventSubscription(ctx, c, id(nested)); return err }},
		{"put nested", eg + "topics/eventSubscriptions/write", nested, func(c access.Caller) error {
			_, err := f.PutEventSubscription(ctx, c, id(nested), EventSubscriptionChange{}, Precondition{})
			return err
		}},
		{"delete nested", eg + "topics/eventSubscriptions/delete", nested, func(c access.Caller) error {
			_, err := f.DeleteEventSubscription(ctx, c, id(nested), Precondition{})
			return err
		}},
		{"list nested", eg + "topics/eventSubscriptions/read", missingTopic, func(c access.Caller) error {
			_, err := f.EventSubscriptions(ctx, c, id(missingTopic), true, Part{})
			return err
		}},
		{"global list", eg + "eventSubscriptions/read", group, func(c access.Caller) error {
			_, err := f.ListEventSubscriptions(ctx, c, id(group), Listing{}, Part{})
			return err
		}},
		{"regional list", eg + "locations/eventSubscriptions/read", group, func(c access.Caller) error {
			_, err := f.ListEventSubscriptions(ctx, c, id(group), Listing{Location: "x"}, Part{})
			return err
		}},
		{"regional list of a type", eg + "locations/topictypes/eventSubscriptions/read", group, func(c access.Caller) error {
			_, err := f.ListEventSubscriptions(ctx, c, id(group), Listing{Location: "x", TopicType: "y"}, Part{})
			return err
		}},
		{"delivery status", eg + "eventSubscriptions/read", missingTopic, func(c access.Caller) error { _, err := f.Deliveries(ctx, c, id(missingTopic), false); return err }},
		{"dead letters", eg + "events/receive/action", missingTopic, func(c access.Caller) error { _, err := f.Deliveries(ctx, c, id(missingTopic), true); return err }},
		{"get role assignment", "Microsoft.Authorization/roleAssignments/read", grant, func(c access.Caller) error { _, err := f.RoleAssignment(ctx, c, id(grant)); return err }},
		{"put role assignment", "Microsoft.Authorization/roleAssignments/write", local, func(c access.Caller) error {
			_, _, err := f.PutRoleAssignment(ctx, c, access.Assignment{Scope: id(local)}, nil)
			return err
		}},
		{"delete role assignment", "Microsoft.Authorization/roleAssignments/delete", grant, func(c access.Caller) error { _, _, err := f.DeleteRoleAssignment(ctx, c, id(grant)); return err }},
		{"list role assignments", "Microsoft.Authorization/roleAssignments/read", local, func(c access.Caller) error {
			_, err := f.RoleAssignments(ctx, c, id(local), access.AssignmentFilter{})
			return err
		}},
		{"roles", "Microsoft.Authorization/roleDefinitions/read", local, func(c access.Caller) error { _, err := f.Roles(ctx, c, id(local)); return err }},
		{"principals", "Microsoft.Authorization/principals/read", "/", func(c access.Caller) error { _, err := f.Principals(ctx, c); return err }},
		{"principal", "Microsoft.Authorization/principals/read", "/", func(c access.Caller) error { _, err := f.Principal(ctx, c, "x"); return err }},
		{"create principal", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, _, err := f.CreatePrincipal(ctx, c, "x", nil); return err }},
		{"reset principal", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, _, err := f.ResetPrincipal(ctx, c, "x"); return err }},
		{"create user", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, _, err := f.CreateUser(ctx, c, "", "", nil); return err }},
		{"enable principal", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, err := f.SetPrincipalEnabled(ctx, c, "x", true); return err }},
		{"revoke tokens", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, err := f.RevokeTokens(ctx, c, "x"); return err }},
		{"add secret", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, _, err := f.AddSecret(ctx, c, "x", time.Time{}, nil); return err }},
		{"add certificate", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, err := f.AddCertificate(ctx, c, "x", "", nil); return err }},
		{"remove credential", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, err := f.RemoveCredential(ctx, c, "x", "y"); return err }},
		{"put federated credential", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error {
			_, err := f.PutFederated(ctx, c, "x", access.FederatedCredential{}, nil)
			return err
		}},
		{"remove federated credential", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, err := f.RemoveFederated(ctx, c, "x", "y"); return err }},
		{"rotate signing keys", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error {
			_, err := f.RotateSigningKeys(ctx, c, false, errors.New("not in this test"))
			return err
		}},
		{"delete principal", "Microsoft.Authorization/principals/write", "/", func(c access.Caller) error { _, err := f.DeletePrincipal(ctx, c, "x"); return err }},
	}
}

// Whoever may not do something hears 403, whether the thing exists or not, and
// before anything is said of the body.
func TestAuthorizationComesFirst(t *testing.T) {
	f := newFixture(t)
	nobody := f.user(t, "", "")
	before := f.kv.Dump()
	for _, op := range operations(f) {
		t.Run(op.name, func(t *testing.T) {
			err := op.call(nobody)
			if !fault.Is(err, fault.Forbidden) {
				t.Fatalf("nobody: %v", err)
			}
			if want := fmt.Sprintf("to perform action '%s' over scope '%s'", op.action, op.scope); !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nwant … %s …", err, want)
			}
			if err := op.call(f.owner); fault.Is(err, fault.Forbidden) {
				t.Errorf("owner: %v", err)
			}
		})
	}
	if after := f.kv.Dump(); len(after) != len(before)+1 { // the owner's principal "x"
		t.Errorf("%d records, were %d", len(after), len(before))
	}
}

// The strict rule: writing event subscriptions of a workspace needs write
// permission on the workspace, also around its system topic.
// Source: spec/access.md section 10.
func TestWorkspaceRule(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	paths := map[string]string{"scope form": workspaceID + extension + "es1", "nested": systemTopic + "/eventSubscriptions/es2", "extension of the system topic": systemTopic + extension + "es3"}
	tests := []struct {
		role string
		want string
	}{
		{access.RoleOwner, ""},
		{access.RoleContributor, ""},
		{roleEventGridContributor, "LinkedAuthorizationFailed"},
		{access.RoleReader, "AuthorizationFailed"},
		{roleDataScientist, "AuthorizationFailed"},
	}
	for _, tt := range tests {
		for form, at := range paths {
			t.Run(tt.role+" "+form, func(t *testing.T) {
				c := f.user(t, tt.role, local)
				_, put := f.PutEventSubscription(ctx, c, id(at), hook(hookURL), Precondition{})
				_, patch := f.PatchEventSubscription(ctx, c, id(at), EventSubscriptionChange{Labels: &[]string{"x"}}, Precondition{})
				_, del := f.DeleteEventSubscription(ctx, c, id(at), Precondition{})
				for verb, err := range map[string]error{"PUT": put, "PATCH": patch, "DELETE": del} {
					got := ""
					if e, ok := err.(*fault.Error); ok { //nolint:errorlint // the fault itself
						got = e.Code
					} else if err != nil {
						got = err.Error()
					}
					if got != tt.want {
						t.Errorf("%s: %q, want %q (%v)", verb, got, tt.want, err)
					}
				}
			})
		}
	}
	t.Run("system topic elsewhere", func(t *testing.T) {
		if _, _, err := f.PutGroup(ctx, f.owner, id("/subscriptions/"+FirstSubscription+"/resourceGroups/other"), Tracked{Location: "local"}, Precondition{}); err != nil {
			t.Fatal(err)
		}
		other := "/subscriptions/" + FirstSubscription + "/resourceGroups/other"
		c := f.user(t, roleEventGridContributor, other)
		_, err := f.PutSystemTopic(ctx, c, id(other+"/providers/Microsoft.EventGrid/systemTopics/mine"), SystemTopicChange{
			Tracked: Tracked{Location: "local"}, Source: workspaceID, TopicType: resource.TopicTypeWorkspace,
		}, Precondition{})
		if !fault.Is(err, fault.Forbidden) {
			t.Errorf("error %v", err)
		}
	})
}

func TestTopicRules(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	first := f.topic(t, "Orders", "")
	put := func(at string, c TopicChange) error {
		_, err := f.PutTopic(ctx, f.owner, id(at), c, Precondition{})
		return err
	}
	here := Tracked{Location: "Local"}
	other := "/subscriptions/" + FirstSubscription + "/resourceGroups/other"
	if _, _, err := f.PutGroup(ctx, f.owner, id(other), here, Precondition{}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		err  error
		kind fault.Kind
		want string
	}{
		{"no location", put(topicsPrefix+"fresh", TopicChange{}), fault.Invalid, "location: The location property is required for this definition."},
		{"moved", put(topicsPrefix+"orders", TopicChange{Tracked: Tracked{Location: "westus2"}}), fault.Conflict,
			"location: The resource 'Orders' already exists in location 'local'. A resource cannot be moved to 'westus2'; delete it first or use another name."},
		{"another schema", put(topicsPrefix+"orders", TopicChange{Tracked: here, InputSchema: "CloudEventSchemaV1_0"}), fault.Invalid,
			"properties.inputSchema: The input schema of topic 'Orders' is EventGridSchema and cannot be changed to CloudEventSchemaV1_0. Make another topic, or delete this one first."},
		{"unknown schema, bad name", put(topicsPrefix+"f_", TopicChange{Tracked: here, InputSchema: "Avro"}), fault.Invalid,
			"name: The topic name 'f_' is not valid: use 3 to 50 letters, digits or '-'.\nproperties.inputSchema: The input schema 'Avro' is not known: use EventGridSchema, CloudEventSchemaV1_0 or CustomEventSchema."},
		{"no group", put("/subscriptions/"+FirstSubscription+"/resourceGroups/none/providers/Microsoft.EventGrid/topics/abc", TopicChange{Tracked: here}), fault.NotFound,
			": Resource group 'none' could not be found."},
		{"no subscription", put("/subscriptions/5f/resourceGroups/local/providers/Microsoft.EventGrid/topics/abc", TopicChange{Tracked: here}), fault.NotFound,
			": The subscription '5f' could not be found."},
		{"name taken", put(other+"/providers/Microsoft.EventGrid/topics/ORDERS", TopicChange{Tracked: here}), fault.Conflict,
			": The name 'ORDERS' is taken by the topic '" + topicsPrefix + "Orders'. Names of topics and domains are unique on a server, for publishers post to them by name; choose another one."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !fault.Is(tt.err, tt.kind) || problems(tt.err) != tt.want {
				t.Errorf("%v\ngot  %s\nwant %s", fault.KindOf(tt.err), problems(tt.err), tt.want)
			}
		})
	}
	again, err := f.PutTopic(ctx, f.owner, id(strings.ToUpper(topicsPrefix)+"orders"), TopicChange{Tracked: Tracked{Location: "LOCAL", Tags: map[string]string{"a": "b"}}}, Precondition{})
	if err != nil || again.Value.UID != first.Value.UID || again.Value.SealedKeys != first.Value.SealedKeys || again.Value.ID.String() != topicsPrefix+"Orders" {
		t.Errorf("replaced: %v, %+v", err, again.Value)
	}
}

func TestTopicKeys(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	topic := id(topicsPrefix + "orders")
	f.topic(t, "orders", "")
	keys, err := f.TopicKeys(ctx, f.owner, topic)
	if err != nil || len(keys[0]) != 44 || len(keys[1]) != 44 || keys[0] == keys[1] {
		t.Fatalf("keys %d and %d characters, %v", len(keys[0]), len(keys[1]), err)
	}
	next, err := f.RegenerateTopicKey(ctx, f.owner, topic, "KEY2", nil)
	if err != nil || next[0] != keys[0] || next[1] == keys[1] {
		t.Errorf("regenerated key2: first the same %t, second the same %t, %v", next[0] == keys[0], next[1] == keys[1], err)
	}
	if _, err := f.RegenerateTopicKey(ctx, f.owner, topic, "key3", nil); problems(err) != "keyName: The key name 'key3' is not valid: use key1 or key2." {
		t.Errorf("key3: %v", err)
	}
	for key, value := range f.kv.Dump() {
		for _, secret := range []string{keys[0], keys[1], next[1]} {
			if strings.Contains(value, secret) {
				t.Errorf("%s holds a key in clear", key)
			}
		}
	}
}

func TestCascade(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		name string
		del  func(f *fixture) (bool, error)
		left string
	}{
		{"topic", func(f *fixture) (bool, error) {
			return f.DeleteTopic(ctx, f.owner, id(topicsPrefix+"orders"), Precondition{})
		}, "on-ws under-st"},
		{"system topic", func(f *fixture) (bool, error) {
			return f.DeleteSystemTopic(ctx, f.owner, id(systemTopic), Precondition{})
		}, "on-topic on-ws"},
		{"workspace", func(f *fixture) (bool, error) {
			return f.DeleteWorkspace(ctx, f.owner, id(workspaceID), Precondition{})
		}, "on-topic"},
		{"group", func(f *fixture) (bool, error) { return f.DeleteGroup(ctx, f.owner, id(local), Precondition{}) }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.topic(t, "orders", "")
			f.put(t, topicsPrefix+"orders"+extension+"on-topic", hook(hookURL))
			f.put(t, workspaceID+extension+"on-ws", hook(hookURL))
			f.put(t, systemTopic+"/eventSubscriptions/under-st", hook(hookURL))
			reader := f.user(t, access.RoleReader, workspaceID)
			if existed, err := tt.del(f); err != nil || !existed {
				t.Fatalf("existed %t, %v", existed, err)
			}
			var left, live []string
			for _, item := range f.Store.EventSubscriptions.List("") {
				left = append(left, item.Value.Name)
			}
			for _, es := range f.broker.live {
				live = append(live, es.Name)
			}
			slices.Sort(left)
			slices.Sort(live)
			if strings.Join(left, " ") != tt.left || strings.Join(live, " ") != tt.left {
				t.Errorf("stored %v, live %v, want %s", left, live, tt.left)
			}
			_, there := f.Store.Workspaces.Get(id(workspaceID).Key())
			if f.Access.Allowed(reader, "Microsoft.MachineLearningServices/workspaces/read", id(workspaceID)) != there {
				t.Errorf("workspace there: %t, and the role assigned at it says otherwise", there)
			}
			if existed, err := tt.del(f); err != nil || existed {
				t.Errorf("deleted again: existed %t, %v", existed, err)
			}
		})
	}
}

func TestSystemTopics(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	mine := local + "/providers/Microsoft.EventGrid/systemTopics/mine"
	change := SystemTopicChange{Tracked: Tracked{Location: "local"}, Source: strings.ToLower(workspaceID), TopicType: "microsoft.machinelearningservices.workspaces"}

	f.put(t, systemTopic+"/eventSubscriptions/es1", hook(hookURL))
	_, err := f.PutSystemTopic(ctx, f.owner, id(mine), change, Precondition{})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("second system topic of a source: %v", err)
	}
	if _, err := f.DeleteEventSubscription(ctx, f.owner, id(systemTopic+"/eventSubscriptions/es1"), Precondition{}); err != nil {
		t.Fatal(err)
	}
	made, err := f.PutSystemTopic(ctx, f.owner, id(mine), change, Precondition{})
	if err != nil || made.Value.Source.String() != workspaceID || made.Value.TopicType != resource.TopicTypeWorkspace {
		t.Fatalf("in place of the automatic one: %+v, %v", made.Value, err)
	}
	if all, _ := f.SystemTopics(ctx, f.owner, id(local)); len(all) != 1 {
		t.Errorf("%d system topics", len(all))
	}
	if of, err := f.SystemTopicOf(ctx, f.owner, id(workspaceID)); err != nil || !of.Value.ID.Equal(id(mine)) {
		t.Errorf("extension topic %v, %v", of.Value.ID, err)
	}
	wrong := change
	wrong.Source, wrong.TopicType = topicsPrefix+"orders", "Microsoft.Storage.StorageAccounts"
	_, err = f.PutSystemTopic(ctx, f.owner, id(mine), wrong, Precondition{})
	if want := "properties.source: The source '" + topicsPrefix + "orders' raises no events here: use the id of a Microsoft.MachineLearningServices/workspaces.\n" +
		"properties.topicType: The topic type 'Microsoft.Storage.StorageAccounts' is not one that this server raises events of: use Microsoft.MachineLearningServices.Workspaces."; problems(err) != want {
		t.Errorf("got\n%s\nwant\n%s", problems(err), want)
	}
	wrong = change
	wrong.Location = "westus2"
	if _, err := f.PutSystemTopic(ctx, f.owner, id(local+"/providers/Microsoft.EventGrid/systemTopics/third"), wrong, Precondition{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("another location than the source: %v", err)
	}
}

// An event subscription is one object under its two ids, and a workspace shows
// those of its system topic too.
func TestTwoPathsOneObject(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	f.topic(t, "Orders", "")
	nested := f.put(t, topicsPrefix+"orders/eventSubscriptions/Es1", hook(hookURL))
	extended := f.get(t, strings.ToLower(topicsPrefix+"ORDERS"+extension+"ES1"))
	if nested.Value.UID != extended.Value.UID {
		t.Error("two objects")
	}
	if got := nested.ID.String(); got != topicsPrefix+"Orders/eventSubscriptions/Es1" {
		t.Errorf("nested id %s", got)
	}
	if got := extended.ID.String(); got != topicsPrefix+"Orders"+extension+"Es1" {
		t.Errorf("extension id %s", got)
	}
	if want := local + "/providers/microsoft.eventgrid/topics/Orders"; extended.Topic != want {
		t.Errorf("topic %s, want %s", extended.Topic, want)
	}
	if nested.Value.FilterGeneration != 1 {
		t.Errorf("generation %d", nested.Value.FilterGeneration)
	}
	f.put(t, workspaceID+extension+"on-ws", hook(hookURL))
	f.put(t, systemTopic+"/eventSubscriptions/under-st", hook(hookURL))
	want := []string{systemTopic + "/eventSubscriptions/under-st", workspaceID + extension + "on-ws"} // by store key
	for most := range 3 {                                                                             // all at once, one by one, two
		var ids []string
		for part := (Part{Most: most}); ; {
			some, err := f.EventSubscriptions(ctx, f.owner, id(workspaceID), false, part)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range some {
				ids = append(ids, v.ID.String())
				part.After = v.Key
			}
			if most == 0 || len(some) < most {
				break
			}
		}
		if !slices.Equal(ids, want) {
			t.Errorf("workspace shows %v, %d at a time", ids, most)
		}
	}
	a, _ := f.Store.EventSubscriptions.Get(resource.EventSubscriptionKey(id(workspaceID), "on-ws"))
	b, _ := f.Store.EventSubscriptions.Get(resource.EventSubscriptionKey(id(systemTopic), "under-st"))
	if a.Value.TopicUID != b.Value.TopicUID || a.Value.TopicUID == 0 {
		t.Errorf("topics %s and %s", a.Value.TopicUID, b.Value.TopicUID)
	}
}

func TestPreconditions(t *testing.T) {
	tests := []struct {
		name string
		c    Precondition
		etag string
		ok   bool
	}{
		{"none", Precondition{}, "", true},
		{"match", Precondition{IfMatch: `"a"`}, "a", true},
		{"match without quotes", Precondition{IfMatch: `a`}, "a", true},
		{"weak", Precondition{IfMatch: `W/"a"`}, "a", true},
		{"one of several", Precondition{IfMatch: `"b", "a"`}, "a", true},
		{"another", Precondition{IfMatch: `"b"`}, "a", false},
		{"any", Precondition{IfMatch: `*`}, "a", true},
		{"any of nothing", Precondition{IfMatch: `*`}, "", false},
		{"match of nothing", Precondition{IfMatch: `"a"`}, "", false},
		{"none of any", Precondition{IfNoneMatch: `*`}, "a", false},
		{"none of any, nothing there", Precondition{IfNoneMatch: `*`}, "", true},
		{"none of this", Precondition{IfNoneMatch: `"a"`}, "a", false},
		{"none of another", Precondition{IfNoneMatch: `"b"`}, "a", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Check(tt.etag)
			if (err == nil) != tt.ok || err != nil && !fault.Is(err, fault.PreconditionFailed) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestWorkspaceSettings(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	ws := id(local + "/providers/Microsoft.MachineLearningServices/workspaces/My_ws")
	w, err := f.PutWorkspace(ctx, f.owner, ws, WorkspaceChange{Tracked: Tracked{Location: "local"}, StatusEvents: &[]string{"failed", "COMPLETED", "Failed"}, PayloadCasing: "Documented", DriftRaiseOn: "Drift"}, Precondition{})
	if err != nil || !slices.Equal(w.Value.StatusEvents, []string{"Failed", "Completed"}) || w.Value.PayloadCasing != "documented" || w.Value.DriftRaiseOn != "drift" {
		t.Fatalf("%+v, %v", w.Value, err)
	}
	if _, err := f.SystemTopicOf(ctx, f.owner, ws); err != nil {
		t.Errorf("system topic: %v", err)
	}
	_, err = f.PatchWorkspace(ctx, f.owner, ws, WorkspaceChange{StatusEvents: &[]string{"Failed", "Done"}, PayloadCasing: "snake", DriftRaiseOn: "never"}, Precondition{})
	want := "properties.statusEvents[1]: The run status 'Done' is not known: use NotStarted, Starting, Provisioning, Preparing, Queued, Running, Finalizing, CancelRequested, Completed, Failed, Canceled, NotResponding, Paused, Unknown.\n" +
		"properties.payloadCasing: The payload casing 'snake' is not known: use camelCase or documented.\n" +
		"properties.driftRaiseOn: The value 'never' of driftRaiseOn is not known: use completed or drift."
	if problems(err) != want {
		t.Errorf("got\n%s\nwant\n%s", problems(err), want)
	}
	w, err = f.PatchWorkspace(ctx, f.owner, ws, WorkspaceChange{StatusEvents: &[]string{}}, Precondition{})
	if err != nil || len(w.Value.StatusEvents) != 0 || w.Value.PayloadCasing != "documented" {
		t.Errorf("PATCH: %+v, %v", w.Value, err)
	}
	again, err := f.PutWorkspace(ctx, f.owner, ws, WorkspaceChange{Tracked: Tracked{Location: "local"}}, Precondition{})
	if err != nil || !slices.Equal(again.Value.StatusEvents, []string{"Failed"}) || again.Value.PayloadCasing != "camelCase" || again.Value.TopicUID != w.Value.TopicUID {
		t.Errorf("PUT: %+v, %v", again.Value, err)
	}
}

func TestSubscriptionShowsToWhoeverHasARoleInIt(t *testing.T) {
	f := newFixture(t)
	for name, tt := range map[string]struct {
		role, scope string
		want        bool
	}{
		"owner of all":        {access.RoleOwner, "/", true},
		"reader of the group": {access.RoleReader, local, true},
		"nobody":              {"", "", false},
	} {
		if _, got := f.Subscription(f.user(t, tt.role, tt.scope)); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if _, got := f.Subscription(access.Caller{}); got {
		t.Error("the zero caller sees it")
	}
	groups, err := f.Groups(f.user(t, access.RoleReader, workspaceID), id("/subscriptions/"+FirstSubscription))
	if err != nil || len(groups) != 0 {
		t.Errorf("reader of a workspace lists groups %v, %v", groups, err)
	}
}
