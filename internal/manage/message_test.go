package manage

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// messenger is a Messenger that remembers; answer may be set.
type messenger struct {
	mu     sync.Mutex
	sent   []Message
	to     []string
	answer func(ctx context.Context) (Receipt, error)
}

func (m *messenger) SendMessage(ctx context.Context, es *resource.EventSubscription, msg Message) (Receipt, error) {
	m.mu.Lock()
	m.sent = append(m.sent, msg)
	m.to = append(m.to, es.Name)
	answer := m.answer
	m.mu.Unlock()
	if answer == nil {
		return Receipt{Response: broker.Response{Outcome: broker.Delivered, Status: 200}}, nil
	}
	return answer(ctx)
}

func (m *messenger) Preview(_ *resource.EventSubscription, msg Message) (Receipt, error) {
	return Receipt{RequestLine: "POST /", Body: msg.Body}, nil
}

// told returns whom something was sent to.
func (m *messenger) told() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.Sort(m.to)
	return strings.Join(m.to, ", ")
}

func (m *messenger) last(t *testing.T) Message {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sent) == 0 {
		t.Fatal("nothing was sent")
	}
	return m.sent[len(m.sent)-1]
}

var ownMapping = &event.Mapping{Type: event.MappedAttribute{SourceField: "kind.name"}, Subject: event.MappedAttribute{SourceField: "about"}}

// Source: spec/delivery.md section 1.8.
func TestDeletionNotice(t *testing.T) {
	deliver := func(schema string, batch int) EventSubscriptionChange {
		c := hook(hookURL)
		c.DeliverySchema = &schema
		if batch > 0 {
			c.Destination.MaxEventsPerBatch = &batch
		}
		return c
	}
	tests := []struct {
		name, at, contentType, topic string
		c                            EventSubscriptionChange
		array, cloud                 bool
	}{
		{"Event Grid", workspaceID + extension + "es1", "application/json; charset=utf-8", workspaceID, deliver("EventGridSchema", 0), true, false},
		{"CloudEvents", workspaceID + extension + "es1", "application/cloudevents+json; charset=utf-8", workspaceID, deliver("CloudEventSchemaV1_0", 0), false, true},
		{"CloudEvents in batches", workspaceID + extension + "es1", "application/cloudevents-batch+json; charset=utf-8", workspaceID, deliver("CloudEventSchemaV1_0", 10), true, true},
		{"custom input", topicsPrefix + "own" + extension + "es1", "application/json; charset=utf-8", topicsPrefix + "own", deliver("CustomInputSchema", 0), true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				m := &messenger{}
				f.Messenger = m
				go func() { _ = f.Run(t.Context()) }()
				if strings.Contains(tt.at, "/topics/own") {
					if _, err := f.PutTopic(t.Context(), f.owner, id(topicsPrefix+"own"), TopicChange{
						Tracked: Tracked{Location: "local"}, InputSchema: "CustomEventSchema", Mapping: ownMapping,
					}, Precondition{}); err != nil {
						t.Fatal(err)
					}
				}
				f.put(t, tt.at, tt.c)
				if _, err := f.DeleteEventSubscription(t.Context(), f.owner, id(tt.at), Precondition{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				got := m.last(t)
				if got.EventType != "SubscriptionDeletion" || got.ContentType != tt.contentType || got.Count != 0 || len(m.sent) != 1 {
					t.Errorf("%d sent; event type %q, content type %q, count %d", len(m.sent), got.EventType, got.ContentType, got.Count)
				}
				body := got.Body
				if tt.array {
					var list []json.RawMessage
					if err := json.Unmarshal(body, &list); err != nil || len(list) != 1 {
						t.Fatalf("body %s: %v", body, err)
					}
					body = list[0]
				}
				var e struct {
					EventType, Topic, Type, Source, Subject, EventTime, Time string
					Data                                                     map[string]string
				}
				if err := json.Unmarshal(body, &e); err != nil {
					t.Fatal(err)
				}
				typ, from := e.EventType, e.Topic
				if tt.cloud {
					typ, from, e.EventTime = e.Type, e.Source, e.Time
				}
				if len(e.EventTime) != len("2000-01-01T00:00:00.0000000Z") {
					t.Errorf("time %s", e.EventTime)
				}
				if typ != "Microsoft.EventGrid.SubscriptionDeletedEvent" || from != tt.topic || len(e.Data) != 1 || e.Data["eventSubscriptionId"] != tt.at {
					t.Errorf("type %q from %q: %v", typ, from, e.Data)
				}
			})
		})
	}
}

func TestWhoIsToldOfADeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		m := &messenger{}
		f.Messenger = m
		stopped := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = f.Run(ctx); close(stopped) }()
		f.topic(t, "orders", "")
		f.put(t, topicsPrefix+"orders"+extension+"with-topic", hook(hookURL))
		c := hook(hookURL)
		c.Expiration = text(time.Now().Add(time.Hour).Format(time.RFC3339))
		f.put(t, workspaceID+extension+"expires", c)
		f.put(t, workspaceID+extension+"stays", hook(hookURL))
		f.endpoint.will(silent)
		f.put(t, workspaceID+extension+"never-consented", hook(hookURL))
		for _, at := range []string{workspaceID + extension + "never-consented", workspaceID + extension + "never-was"} {
			if _, err := f.DeleteEventSubscription(ctx, f.owner, id(at), Precondition{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.DeleteTopic(ctx, f.owner, id(topicsPrefix+"orders"), Precondition{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if got := m.told(); got != "expires, with-topic" {
			t.Errorf("told: %s", got)
		}
		stop()
		<-stopped
		f.start(t) // a new process knows nothing of what was deleted
		f.Messenger = m
		go func() { _ = f.Run(t.Context()) }()
		time.Sleep(time.Hour)
		if got := m.told(); got != "expires, with-topic" {
			t.Errorf("told after a restart: %s", got)
		}
	})
}

// A handler that hangs, refuses or is gone delays no DELETE and fails none, and hears
// of it once.
func TestDeletionDoesNotWaitForTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		m := &messenger{answer: func(ctx context.Context) (Receipt, error) {
			<-ctx.Done()
			return Receipt{}, ctx.Err()
		}}
		f.Messenger = m
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = f.Run(ctx); close(done) }()
		began := time.Now()
		for range maxNotices + 10 { // more than may wait
			at := workspaceID + extension + "es1"
			f.put(t, at, hook(hookURL))
			if was, err := f.DeleteEventSubscription(ctx, f.owner, id(at), Precondition{}); err != nil || !was {
				t.Fatal(was, err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
		synctest.Wait()
		if n := len(m.sent); n != noticeHands {
			t.Errorf("%d are sent at a time", n)
		}
		stop()
		<-done
	})
}

func TestSendTestEvent(t *testing.T) {
	ctx := context.Background()
	wsAt, custom := workspaceID+extension+"es1", topicsPrefix+"own"+extension+"es1"
	tests := []struct {
		name, at, schema string
		c                EventSubscriptionChange
		test             TestEvent
		holds            []string // parts of the body
		problem          string
	}{
		{"the default", wsAt, "", hook(hookURL), TestEvent{}, []string{mlevent.RunCompletedType, `"topic":"` + workspaceID + `"`, `"sequencer":"00000000000000000000000000000000"`}, ""},
		{"the first type of the filter", wsAt, "", filtered(mlevent.ModelDeployedType, mlevent.RunCompletedType), TestEvent{}, []string{mlevent.ModelDeployedType}, ""},
		{"a type in any case", wsAt, "", hook(hookURL), TestEvent{EventType: strings.ToUpper(mlevent.DatasetDriftDetectedType)}, []string{`"` + mlevent.DatasetDriftDetectedType, "driftCoefficient"}, ""},
		{"a type that it does not raise", wsAt, "", hook(hookURL), TestEvent{EventType: "Other"}, nil, "eventType: A workspace raises no events of type 'Other'"},
		{"one's own", wsAt, "", hook(hookURL), TestEvent{Event: json.RawMessage(`{"id":"1","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{"a":1},"dataVersion":"1"}`)},
			[]string{`"id":"1"`, `"a":1`, workspaceID}, ""},
		{"one's own, not one", wsAt, "", hook(hookURL), TestEvent{Event: json.RawMessage(`{"id":"1"}`)}, nil, "event: The event is not one that the source takes (EventGridSchema)"},
		{"both", wsAt, "", hook(hookURL), TestEvent{Event: json.RawMessage(`{}`), EventType: "t"}, nil, "eventType: Send an event, or name"},
		{"a topic", custom, "EventGridSchema", hook(hookURL), TestEvent{}, []string{genericTestType, "carillon/test"}, ""},
		{"a topic, a type", custom, "EventGridSchema", hook(hookURL), TestEvent{EventType: "Orders.Paid"}, []string{`"eventType":"Orders.Paid"`}, ""},
		{"a topic of CloudEvents", custom, "CloudEventSchemaV1_0", hook(hookURL), TestEvent{}, []string{`"specversion":"1.0"`, genericTestType}, ""},
		{"a topic of custom input", custom, "CustomEventSchema", hook(hookURL), TestEvent{}, []string{`"kind":{"name":"Carillon.TestEvent"}`, `"subject":"carillon/test"`}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			m := &messenger{}
			f.Messenger = m
			if tt.schema != "" {
				c := TopicChange{Tracked: Tracked{Location: "local"}, InputSchema: tt.schema}
				if tt.schema == "CustomEventSchema" {
					c.Mapping = ownMapping
				}
				if _, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+"own"), c, Precondition{}); err != nil {
					t.Fatal(err)
				}
			}
			f.put(t, tt.at, tt.c)
			sent, err := f.SendTestEvent(ctx, f.owner, id(tt.at), tt.test)
			if tt.problem != "" {
				if got := problems(err); !strings.HasPrefix(got, tt.problem) || len(m.sent) > 0 {
					t.Errorf("problems %q, sent %d", got, len(m.sent))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := m.last(t)
			if got.EventType != "" || len(got.Headers) != 1 || got.Headers[0] != (Header{"carillon-test", "true"}) || got.Single == nil || len(got.Single.OutputID) != 32 {
				t.Errorf("message %+v, %+v", got, got.Single)
			}
			for _, part := range tt.holds {
				if !strings.Contains(string(sent.Body), part) || !json.Valid(sent.Body) {
					t.Errorf("no %s in %s", part, sent.Body)
				}
			}
			if sent.Action != broker.Done || sent.Response.Status != 200 {
				t.Errorf("action %s, %+v", sent.Action, sent.Response)
			}
		})
	}
}

func filtered(types ...string) EventSubscriptionChange {
	c := hook(hookURL)
	raw, _ := json.Marshal(map[string]any{"includedEventTypes": types})
	c.Filter = raw
	return c
}

// Every type that a workspace may raise has a sample.
func TestSamples(t *testing.T) {
	var have []string
	for _, s := range samples {
		have = append(have, s.EventType())
	}
	want := mlevent.AllTypes()
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("samples of %v, want %v", have, want)
	}
}

func TestWhoMaySendATestEvent(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	m := &messenger{answer: func(context.Context) (Receipt, error) {
		return Receipt{Response: broker.Response{Outcome: broker.Busy, Status: 503}}, nil
	}}
	f.Messenger = m
	at := workspaceID + extension + "es1"
	f.put(t, at, hook(hookURL))
	for name, role := range map[string]string{"reader": access.RoleReader, "nobody": ""} {
		if _, err := f.SendTestEvent(ctx, f.user(t, role, local), id(at), TestEvent{Invalid: errors.New("read later")}); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sent, err := f.SendTestEvent(ctx, f.owner, id(at), TestEvent{})
	if err != nil || sent.Action != broker.Retry {
		t.Errorf("%v, %v", sent.Action, err)
	}
	f.endpoint.will(silent)
	waiting := workspaceID + extension + "waiting"
	f.put(t, waiting, hook(hookURL))
	if _, err := f.SendTestEvent(ctx, f.owner, id(waiting), TestEvent{}); !fault.Is(err, fault.Conflict) {
		t.Errorf("before consent: %v", err)
	}
	if n := len(m.sent); n != 1 {
		t.Errorf("%d sent", n)
	}
}
