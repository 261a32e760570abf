package manage

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// fakeTargets is Targets whose answers are set by tests.
type fakeTargets struct {
	check, probe error
	secrets      map[string]string // that the last check saw
	probed       int
}

func (f *fakeTargets) Check(_ *resource.Kind, _ resource.Values, secrets map[string]string) error {
	f.secrets = secrets
	return f.check
}

func (f *fakeTargets) Probe(context.Context, *resource.EventSubscription) error {
	f.probed++
	return f.probe
}

// to is a change to a destination of a kind, its members as JSON.
func to(kind, members string) EventSubscriptionChange {
	d := &DestinationChange{Type: kind}
	if err := json.Unmarshal([]byte(members), &d.Members); err != nil {
		panic(err)
	}
	return EventSubscriptionChange{Target: "properties.", Destination: d}
}

func TestTargetProblems(t *testing.T) {
	const base = "properties.destination.properties."
	f := newFixture(t)
	targets := &fakeTargets{}
	f.Targets = targets
	batched := to("nats", `{"url":"nats://n:4222","subject":"ml"}`)
	batched.Destination.MaxEventsPerBatch = number(10)
	attributes := to("StorageQueue", `{"resourceId":"`+storageAccount+`","queueName":"q12"}`)
	attributes.Destination.Attributes = []AttributeChange{{Name: "X-Team", Type: "Static", Value: text("mlops")}}
	named := to("ServiceBusQueue", `{"resourceId":"/subscriptions/S/resourceGroups/G/providers/Microsoft.ServiceBus/namespaces/NS/queues/Q"}`)
	named.Destination.Attributes = []AttributeChange{{Name: "sessionid", Type: "Static", Value: text("s")}, {Name: "messageid", Type: "Static", Value: text("1")}}
	for _, tt := range []struct {
		name string
		c    EventSubscriptionChange
		want string
	}{
		{"attributes that mean something", named,
			base + "deliveryAttributeMappings[1].type: The delivery attribute MessageId is of one message alone and cannot be the same text for all: make it Dynamic, with a sourceField such as id.\n" +
				base + "deliveryAttributeMappings[1].name: A message can have one of the delivery attributes SessionId and MessageId: leave one of them out."},
		{"nothing", to("Nats", `{}`), base + "url: A destination of type Nats needs url: the server, nats:// or tls://; more of them separated by commas, for example nats://127.0.0.1:4222.\n" +
			base + "subject: A destination of type Nats needs subject: the subject; {type}, {subject}, {source} and {id} stand for what the event has there, dots and blanks replaced, for example ml.events.{type}."},
		{"a member that it does not have", to("Nats", `{"url":"u","subject":"s","endpointUrl":"https://x"}`),
			base + "endpointUrl: A destination of type Nats has no endpointUrl: use url, subject, username, password, token, credentials."},
		{"a number for a text", to("Nats", `{"url":4222,"subject":"s"}`), base + "url: The value 4222 of url is not a text, for example nats://127.0.0.1:4222."},
		{"a secret that is no text", to("Nats", `{"url":"u","subject":"s","password":{"s3cret":1}}`), base + "password: The value that was given of password is not a text, for example …."},
		{"a resource of another type", to("storagequeue", `{"resourceId":"`+workspaceID+`","queueName":"q12"}`),
			base + "resourceId: The value \"" + workspaceID + "\" of resourceId is not the full id of a Microsoft.Storage/storageAccounts, for example /subscriptions/S/resourceGroups/G/providers/Microsoft.Storage/storageAccounts/NAME."},
		{"a number out of range", to("StorageQueue", `{"resourceId":"`+storageAccount+`","queueName":"q12","queueMessageTimeToLiveInSeconds":-2}`),
			base + "queueMessageTimeToLiveInSeconds: The value -2 of queueMessageTimeToLiveInSeconds is not a whole number from -1 to 2147483647, for example 3600."},
		{"batches", batched, base + "maxEventsPerBatch: A destination of type Nats puts events together by itself: leave maxEventsPerBatch and preferredBatchSizeInKilobytes out."},
		{"attributes", attributes, base + "deliveryAttributeMappings: A destination of type StorageQueue takes no delivery attributes: leave deliveryAttributeMappings out."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.PutEventSubscription(context.Background(), f.owner, id(workspaceID+extension+"es1"), tt.c, Precondition{})
			if got := problems(err); got != tt.want || strings.Contains(got, "s3cret") {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
	targets.check = fault.Field("subject", "No such subject.")
	if _, err := f.PutEventSubscription(context.Background(), f.owner, id(workspaceID+extension+"es1"), to("Nats", `{"url":"u","subject":"s"}`), Precondition{}); problems(err) != base+"subject: No such subject." {
		t.Errorf("what the kind itself refuses: %v", err)
	}
	targets.check, targets.probe = nil, errors.New("no stream has the subject")
	_, err := f.PutEventSubscription(context.Background(), f.owner, id(workspaceID+extension+"es1"), to("Nats", `{"url":"u","subject":"s"}`), Precondition{})
	if bad, _ := errors.AsType[*fault.Error](err); bad == nil || bad.Kind != fault.Invalid || bad.Code != "InvalidDestination" || !strings.Contains(bad.Message, "no stream has the subject") {
		t.Errorf("what is not there: %v", err)
	}
	if all := f.Store.EventSubscriptions.List(""); len(all) != 0 || f.endpoint.count() != 0 {
		t.Errorf("%d event subscriptions, %d handshakes", len(all), f.endpoint.count())
	}
}

// TestTargetSecrets holds how long a secret stays that a request leaves out: as long as
// it goes to the same address.
func TestTargetSecrets(t *testing.T) {
	f := newFixture(t)
	targets := &fakeTargets{}
	f.Targets = targets
	at := id(workspaceID + extension + "es1")
	for _, step := range []struct {
		name, members string
		want          string
		probed        int
	}{
		{"given", `{"url":"nats://a:1","subject":"s","username":"u","password":"s3cret"}`, "s3cret", 1},
		{"left out", `{"url":"nats://a:1","subject":"s","username":"u"}`, "s3cret", 1},
		{"left out with another subject", `{"url":"nats://a:1","subject":"other","username":"u","password":null}`, "s3cret", 2},
		{"given anew", `{"url":"nats://a:1","subject":"other","username":"u","password":"s3cret2"}`, "s3cret2", 3},
		{"left out for another server", `{"url":"nats://b:1","subject":"other","username":"u"}`, "", 4},
		{"given for it", `{"url":"nats://b:1","subject":"other","username":"u","password":"s3cret3"}`, "s3cret3", 5},
		{"taken away", `{"url":"nats://b:1","subject":"other","username":"u","password":""}`, "", 6},
	} {
		v, err := f.PutEventSubscription(context.Background(), f.owner, at, to("Nats", step.members), Precondition{})
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		d := v.Value.Destination
		if raw, err := json.Marshal(v.Value); err != nil || strings.Contains(string(raw), "s3cret") {
			t.Errorf("%s: the record holds the secret in plain: %s", step.name, raw)
		}
		secrets, err := OpenFields(f.Sealer, &v.Value, d.Target)
		if err != nil || secrets["password"] != step.want || targets.secrets["password"] != step.want || targets.probed != step.probed {
			t.Errorf("%s: %v, stored %q, checked %q, %d probes; want %q, %d", step.name, err, secrets["password"], targets.secrets["password"], targets.probed, step.want, step.probed)
		}
		if v.Value.State != resource.Succeeded || !v.Value.Active {
			t.Errorf("%s: state %s", step.name, v.Value.State)
		}
	}
	if n := f.endpoint.count(); n != 0 {
		t.Errorf("%d handshakes", n)
	}
	// back to a webhook: it has to consent
	if _, err := f.PutEventSubscription(context.Background(), f.owner, at, hook(hookURL), Precondition{}); err != nil || f.endpoint.count() != 1 {
		t.Errorf("%v, %d handshakes", err, f.endpoint.count())
	}
}

// TestTargetAuthorization: whoever aims events at a resource needs to be allowed to write
// it. Source: spec/access.md section 10.
func TestTargetAuthorization(t *testing.T) {
	f := newFixture(t)
	f.Targets = &fakeTargets{}
	f.topic(t, "orders", "")
	for i, tt := range []struct {
		name, role, scope string
		allowed           bool
	}{
		{"nothing", "", "", false},
		{"reader", access.RoleReader, storageAccount, false},
		{"contributor of the account", access.RoleContributor, storageAccount, true},
		{"contributor of the queue", access.RoleContributor, storageAccount + "/queueServices/default/queues/q12", true},
		{"contributor of another queue", access.RoleContributor, storageAccount + "/queueServices/default/queues/other", false},
	} {
		caller := f.user(t, access.RoleContributor, topicsPrefix+"orders")
		if tt.role != "" {
			f.assign(t, caller, tt.role, tt.scope)
		}
		at := id(topicsPrefix + "orders" + extension + "es-" + string(rune('a'+i)) + "x")
		_, err := f.PutEventSubscription(context.Background(), caller, at, to("StorageQueue", `{"resourceId":"`+storageAccount+`","queueName":"q12"}`), Precondition{})
		bad, _ := errors.AsType[*fault.Error](err)
		if tt.allowed && err != nil || !tt.allowed && (bad == nil || bad.Code != "LinkedAuthorizationFailed") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
