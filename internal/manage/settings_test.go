package manage

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

func number(n int) *int { return &n }

var filterProblem = regexp.MustCompile(`(?m)^(properties\.filter\.[^:]*): .*$`)

func TestEventSubscriptionProblems(t *testing.T) {
	known := strings.Join(resource.EndpointTypes(), ", ")
	with := func(change func(*EventSubscriptionChange)) EventSubscriptionChange {
		c := hook(hookURL)
		change(&c)
		return c
	}
	tests := []struct {
		name string
		at   string
		c    EventSubscriptionChange
		want string
	}{
		{"short name", workspaceID + extension + "ab", hook(hookURL), "name: The event subscription name 'ab' is not valid: use 3 to 64 letters, digits or '-'."},
		{"no destination", workspaceID + extension + "es1", EventSubscriptionChange{Target: "properties."},
			"properties.destination: An event subscription needs a destination: send one with endpointType WebHook and properties.endpointUrl."},
		{"no endpoint type", workspaceID + extension + "es1", EventSubscriptionChange{Target: "properties.", Destination: &DestinationChange{}},
			"properties.destination.endpointType: A destination needs an endpointType. This server delivers to: " + known + "."},
		{"other destination", workspaceID + extension + "es1", EventSubscriptionChange{Target: "properties.", Destination: &DestinationChange{Type: "Fax"}},
			"properties.destination.endpointType: The endpoint type 'Fax' is not one that this server delivers to. It delivers to: " + known + "."},
		{"no URL", workspaceID + extension + "es1", EventSubscriptionChange{Target: "properties.", Destination: &DestinationChange{Type: "WebHook"}},
			"properties.destination.properties.endpointUrl: A WebHook destination needs an endpointUrl, for example https://hooks.example/events."},
		{"relative URL", workspaceID + extension + "es1", hook("/in"),
			"properties.destination.properties.endpointUrl: The endpointUrl is not an absolute URL: write one like https://hooks.example/events, with special characters percent-encoded."},
		{"URL with a space", workspaceID + extension + "es1", hook("https://h.example/a b?code=s3cret"),
			"properties.destination.properties.endpointUrl: The endpointUrl is not an absolute URL: write one like https://hooks.example/events, with special characters percent-encoded."},
		{"URL that is not allowed", workspaceID + extension + "es1", hook("http://h.example/?code=s3cret"),
			"properties.destination.properties.endpointUrl: The endpointUrl cannot be used: the URL must start with https://."},
		{"long URL", workspaceID + extension + "es1", hook("https://h.example/" + strings.Repeat("a", maxURL)),
			"properties.destination.properties.endpointUrl: The endpointUrl has 8210 bytes; at most 8192 are allowed."},
		{"retry policy", workspaceID + extension + "es1", with(func(c *EventSubscriptionChange) {
			c.RetryPolicy = &RetryPolicyChange{number(31), number(0)}
		}), "properties.retryPolicy.maxDeliveryAttempts: The value 31 of maxDeliveryAttempts is out of range: use 1 to 30.\n" +
			"properties.retryPolicy.eventTimeToLiveInMinutes: The value 0 of eventTimeToLiveInMinutes is out of range: use 1 to 1440."},
		{"expired", workspaceID + extension + "es1", with(func(c *EventSubscriptionChange) { c.Expiration = text("2001-02-03T04:05:06Z") }),
			"properties.expirationTimeUtc: Invalid expiration time: '2001-02-03T04:05:06Z' is not in the future."},
		{"no time", workspaceID + extension + "es1", with(func(c *EventSubscriptionChange) { c.Expiration = text("tomorrow") }),
			"properties.expirationTimeUtc: The expirationTimeUtc 'tomorrow' is not a time: write it like 2030-01-31T12:00:00Z."},
		{"unknown schema", workspaceID + extension + "es1", with(func(c *EventSubscriptionChange) { c.DeliverySchema = text("Avro") }),
			"properties.eventDeliverySchema: The delivery schema 'Avro' is not known: use EventGridSchema or CloudEventSchemaV1_0."},
		{"custom schema", workspaceID + extension + "es1", with(func(c *EventSubscriptionChange) { c.DeliverySchema = text("CustomInputSchema") }),
			"properties.eventDeliverySchema: The delivery schema CustomInputSchema is for topics whose input schema is CustomEventSchema; this one's is EventGridSchema. Use EventGridSchema or CloudEventSchemaV1_0."},
		{"CloudEvents to Event Grid", topicsPrefix + "cloud" + extension + "es1", with(func(c *EventSubscriptionChange) { c.DeliverySchema = text("EventGridSchema") }),
			"properties.eventDeliverySchema: The topic takes CloudEventSchemaV1_0 and delivers nothing else: use CloudEventSchemaV1_0."},
		{"all at once, in field order", workspaceID + extension + "es1", EventSubscriptionChange{
			Target: "properties.", Expiration: text("x"), RetryPolicy: &RetryPolicyChange{MaxDeliveryAttempts: number(0)},
			Labels: &[]string{""}, Filter: json.RawMessage(`{"subjectBeginsWith":1,"advancedFilters":[{"operatorType":"StringIn","key":"data.x","values":[]}]}`),
			Destination: &DestinationChange{Type: "WebHook"},
			Problems:    []*fault.Error{fault.Field("properties.deadLetterDestination", "Leave it out."), fault.Field("properties.destination.properties.maxEventsPerBatch", "Use 1.")},
		}, "properties.destination.properties.endpointUrl: A WebHook destination needs an endpointUrl, for example https://hooks.example/events.\n" +
			"properties.destination.properties.maxEventsPerBatch: Use 1.\n" +
			"properties.filter.subjectBeginsWith\n" +
			"properties.filter.advancedFilters[0].values\n" +
			"properties.labels[0]: A label must have 1 to 512 characters, this one has 0.\n" +
			"properties.retryPolicy.maxDeliveryAttempts: The value 0 of maxDeliveryAttempts is out of range: use 1 to 30.\n" +
			"properties.expirationTimeUtc: The expirationTimeUtc 'x' is not a time: write it like 2030-01-31T12:00:00Z.\n" +
			"properties.deadLetterDestination: Leave it out."},
	}
	f := newFixture(t)
	f.topic(t, "cloud", "CloudEventSchemaV1_0")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.PutEventSubscription(context.Background(), f.owner, id(tt.at), tt.c, Precondition{})
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("error %v", err)
			}
			got := problems(err)
			got = filterProblem.ReplaceAllString(got, "$1") // package filter words these
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	if n := f.endpoint.count(); n != 0 {
		t.Errorf("%d handshakes for invalid requests", n)
	}
	if all := f.Store.EventSubscriptions.List(""); len(all) != 0 {
		t.Errorf("invalid requests left %d event subscriptions", len(all))
	}
}

func TestEventSubscriptionDefaults(t *testing.T) {
	f := newFixture(t)
	f.topic(t, "orders", "")
	f.topic(t, "cloud", "CloudEventSchemaV1_0")
	tests := []struct {
		name   string
		at     string
		types  []string
		schema event.Schema
	}{
		{"workspace", workspaceID + extension + "es1", mlevent.Types(), event.EventGridSchema},
		{"topic", topicsPrefix + "orders" + extension + "es1", nil, event.EventGridSchema},
		{"CloudEvents topic", topicsPrefix + "cloud" + extension + "es1", nil, event.CloudEventSchemaV1_0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := hook(hookURL)
			c.Expiration = text("")
			es := f.put(t, tt.at, c).Value
			if !slices.Equal(es.Filter.IncludedEventTypes, tt.types) || es.DeliverySchema != tt.schema {
				t.Errorf("types %v, schema %s", es.Filter.IncludedEventTypes, es.DeliverySchema)
			}
			if es.RetryPolicy != (resource.RetryPolicy{MaxDeliveryAttempts: 30, EventTimeToLive: 1440}) || !es.Expiration.IsZero() {
				t.Errorf("policy %+v, expiration %s", es.RetryPolicy, es.Expiration)
			}
			if es.State != resource.Succeeded || !es.Active || es.FilterGeneration != 1 {
				t.Errorf("state %s, active %t, generation %d", es.State, es.Active, es.FilterGeneration)
			}
		})
	}
}

func TestExpirationSpellings(t *testing.T) {
	want := time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, spelled := range []string{"2040-01-02T03:04:05Z", "2040-01-02T03:04:05.0000000Z", "2040-01-02T05:04:05+02:00", "2040-01-02T03:04:05"} {
		v := checker{}
		if got := v.expiration(spelled); !got.Equal(want) || v.err() != nil {
			t.Errorf("%s: %s, %v", spelled, got, v.err())
		}
	}
}

func TestReplaceResetsPatchKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		at := workspaceID + extension + "es1"
		c := hook(hookURL)
		c.Labels = &[]string{"a"}
		c.RetryPolicy = &RetryPolicyChange{number(3), nil}
		c.Filter = json.RawMessage(`{"subjectBeginsWith":"models/"}`)
		f.put(t, at, c)
		before := f.get(t, at).Value

		patched, err := f.PatchEventSubscription(context.Background(), f.owner, id(at), EventSubscriptionChange{Labels: &[]string{"b", "c"}}, Precondition{})
		if err != nil {
			t.Fatal(err)
		}
		es := patched.Value
		if !slices.Equal(es.Labels, []string{"b", "c"}) || es.RetryPolicy.MaxDeliveryAttempts != 3 || es.Filter.SubjectBeginsWith != "models/" || es.FilterGeneration != 1 {
			t.Errorf("after PATCH %+v", es)
		}
		if es.Destination.WebHook.SealedURL != before.Destination.WebHook.SealedURL || es.UID != before.UID {
			t.Error("PATCH without destination changed it")
		}
		if f.endpoint.count() != 1 {
			t.Errorf("%d handshakes, want that of the PUT only", f.endpoint.count())
		}

		c = EventSubscriptionChange{Target: "properties.", Destination: &DestinationChange{Type: "WEBHOOK"}}
		es = f.put(t, at, c).Value
		if es.Labels != nil || es.RetryPolicy.MaxDeliveryAttempts != 30 || es.Filter.SubjectBeginsWith != "" || es.FilterGeneration != 2 {
			t.Errorf("after PUT %+v", es)
		}
		if got, err := f.FullURL(context.Background(), f.owner, id(at)); err != nil || got != hookURL {
			t.Errorf("PUT without endpointUrl kept %q, %v", got, err)
		}
		if f.endpoint.count() != 2 || f.endpoint.last().URL != hookURL {
			t.Errorf("%d handshakes, the last with %q", f.endpoint.count(), f.endpoint.last().URL)
		}
		if got := f.broker.took(); got != "activate es1, activate es1, activate es1" {
			t.Errorf("broker saw: %s", got)
		}
	})
}

func TestPatchAsksAgainWhenItMatters(t *testing.T) {
	tests := []struct {
		name string
		c    EventSubscriptionChange
		asks bool
	}{
		{"labels", EventSubscriptionChange{Labels: &[]string{"x"}}, false},
		{"filter", EventSubscriptionChange{Filter: json.RawMessage(`{"subjectEndsWith":":2"}`)}, false},
		{"echoed destination", EventSubscriptionChange{Destination: &DestinationChange{Type: "WebHook"}}, false},
		{"the same URL", EventSubscriptionChange{Destination: &DestinationChange{Type: "WebHook", EndpointURL: text(hookURL)}}, false},
		{"another URL", EventSubscriptionChange{Destination: &DestinationChange{Type: "WebHook", EndpointURL: text("https://h.example/other")}}, true},
		{"another schema", EventSubscriptionChange{DeliverySchema: text("cloudeventschemav1_0")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			at := workspaceID + extension + "es1"
			f.put(t, at, hook(hookURL))
			if _, err := f.PatchEventSubscription(context.Background(), f.owner, id(at), tt.c, Precondition{}); err != nil {
				t.Fatal(err)
			}
			if got := f.endpoint.count() == 2; got != tt.asks {
				t.Errorf("asked again: %t, want %t", got, tt.asks)
			}
		})
	}
}

func TestDestinationIsReplacedAsAWhole(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.put(t, at, hook(hookURL))
	_, err := f.PatchEventSubscription(context.Background(), f.owner, id(at), EventSubscriptionChange{Destination: &DestinationChange{Type: "StorageQueue"}}, Precondition{})
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("error %v", err)
	}
	if got := f.get(t, at).Value.Destination.Type; got != resource.DestinationWebHook {
		t.Errorf("destination is now %s", got)
	}
}
