package manage

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// fakeLog is an EventLog that holds n events of every topic and knows which of
// them it was asked about.
type fakeLog struct {
	n      int
	stream resource.Stream
	asked  string
}

func (l *fakeLog) at(i int) broker.LoggedEvent {
	return broker.LoggedEvent{
		Event:  fmt.Appendf(nil, `{"id":"%d","topic":"/t","subject":"s/%d","eventType":"t","eventTime":"2026-11-24T12:00:00Z","data":{},"dataVersion":"1","metadataVersion":"1"}`, i, i),
		Schema: event.EventGridSchema, PublishTime: time.Date(2026, 11, 24, 12, 0, i, 0, time.UTC), Sequencer: fmt.Sprintf("%032x", i),
	}
}

func (l *fakeLog) FindEvent(_ context.Context, stream resource.Stream, name string) (broker.LoggedEvent, error) {
	l.stream, l.asked = stream, name
	return l.at(1), nil
}

func (l *fakeLog) Newest(_ context.Context, stream resource.Stream, _ *broker.LookBack) iter.Seq2[broker.LoggedEvent, error] {
	l.stream = stream
	return func(yield func(broker.LoggedEvent, error) bool) {
		for i := l.n; i > 0 && yield(l.at(i), nil); i-- {
		}
	}
}

func (l *fakeLog) Explain(context.Context, resource.UID, *broker.LoggedEvent) (*broker.Explanation, bool, error) {
	return &broker.Explanation{Delivery: broker.Story{State: broker.StoryDelivered}}, true, nil
}

func (f *fixture) withLog(n int) *fakeLog {
	log := &fakeLog{n: n}
	f.EventLog = log
	return log
}

// TestExplainNeedsBothRights: the event subscription's and the events', also where
// the event subscription hangs on a system topic.
func TestExplainNeedsBothRights(t *testing.T) {
	f := newFixture(t)
	f.withLog(3)
	const receiver = "78cbd9e7-9798-4e2e-9b5a-547d9ebb31fb" // EventGrid Data Receiver
	onWorkspace, onSystemTopic := workspaceID+extension+"es1", systemTopic+"/eventSubscriptions/es2"
	for _, id := range []string{onWorkspace, onSystemTopic} {
		f.put(t, id, hook(hookURL))
	}
	for _, tt := range []struct {
		name  string
		roles [][2]string // role and scope
		kind  fault.Kind  // of the refusal; 0 = none
	}{
		{"nothing", nil, fault.Forbidden},
		{"may read the event subscription only", [][2]string{{access.RoleReader, local}}, fault.Forbidden},
		{"may read events only", [][2]string{{receiver, workspaceID}}, fault.Forbidden},
		{"may read both", [][2]string{{access.RoleReader, local}, {receiver, workspaceID}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caller := f.user(t, "", "")
			for _, r := range tt.roles {
				f.assign(t, caller, r[0], r[1])
			}
			for _, id := range []string{onWorkspace, onSystemTopic} {
				_, err := f.ExplainEvent(t.Context(), caller, resource.MustID(id), ExplainRequest{EventID: "1"})
				_, err2 := f.TestFilter(t.Context(), caller, resource.MustID(id), FilterTest{})
				for _, err := range []error{err, err2} {
					if tt.kind == 0 && err != nil || tt.kind != 0 && !fault.Is(err, tt.kind) {
						t.Errorf("%s: %v", id, err)
					}
				}
			}
		})
	}
}

func TestExplainAGivenEvent(t *testing.T) {
	f := newFixture(t)
	f.withLog(0)
	f.topic(t, "grid", "EventGridSchema")
	f.topic(t, "cloud", "CloudEventSchemaV1_0")
	filtered := hook(hookURL)
	filtered.Filter = json.RawMessage(`{"advancedFilters":[{"operatorType":"StringIn","key":"source","values":["/mine"]}]}`)
	f.put(t, topicsPrefix+"grid"+extension+"es1", hook(hookURL))
	f.put(t, topicsPrefix+"cloud"+extension+"es1", filtered)
	for _, tt := range []struct {
		name, topic, event string
		matches            bool
		problem            string // part of it
	}{
		{"Event Grid", "grid", `{"id":"1","subject":"s","eventType":"t","eventTime":"2026-11-24T12:00:00Z"}`, true, ""},
		{"one in an array", "grid", `[{"id":"1","subject":"s","eventType":"t","eventTime":"2026-11-24T12:00:00Z"}]`, true, ""},
		{"CloudEvents", "cloud", `{"specversion":"1.0","id":"1","source":"/mine","type":"t"}`, true, ""},
		{"CloudEvents, not wanted", "cloud", `{"specversion":"1.0","id":"1","source":"/other","type":"t"}`, false, ""},
		{"the other schema", "grid", `{"specversion":"1.0","id":"1","source":"/mine","type":"t"}`, false, "EventGridSchema"},
		{"no event", "cloud", `7`, false, "CloudEventSchemaV1_0"},
		{"none in an array", "grid", `[]`, false, "event: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, err := f.ExplainEvent(t.Context(), f.owner, id(topicsPrefix+tt.topic+extension+"es1"), ExplainRequest{Event: json.RawMessage(tt.event)})
			if tt.problem != "" {
				if !fault.Is(err, fault.Invalid) || !strings.Contains(problems(err), tt.problem) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || x.Logged || x.Matches != tt.matches || x.Generation != 1 || len(x.Clauses) < 3 {
				t.Errorf("%+v %v", x, err)
			}
		})
	}
}

func TestExplainAnEventOfTheLog(t *testing.T) {
	f := newFixture(t)
	log := f.withLog(3)
	topic := f.topic(t, "orders", "")
	at := topicsPrefix + "orders" + extension + "es1"
	f.put(t, at, hook(hookURL))
	x, err := f.ExplainEvent(t.Context(), f.owner, id(at), ExplainRequest{EventID: "some id"})
	if err != nil || !x.Logged || x.Delivery.State != broker.StoryDelivered || log.asked != "some id" || log.stream.Topic != topic.Value.UID || x.EventSubscription.ID.String() != at {
		t.Errorf("%+v %v; asked for %q of %s", x, err, log.asked, log.stream.Topic)
	}
	for name, r := range map[string]ExplainRequest{"neither": {}, "both": {EventID: "1", Event: json.RawMessage(`{}`)}} {
		if _, err := f.ExplainEvent(t.Context(), f.owner, id(at), r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTestFilterBounds(t *testing.T) {
	f := newFixture(t)
	f.withLog(maxLast + 5)
	f.topic(t, "orders", "")
	at := topicsPrefix + "orders" + extension + "es1"
	filtered := hook(hookURL)
	filtered.Filter = json.RawMessage(`{"subjectEndsWith":"5"}`)
	f.put(t, at, filtered)
	ask := func(filter string, last int) (TestedFilter, error) {
		r := FilterTest{}
		if filter != "" {
			r.Filter = json.RawMessage(filter)
		}
		if last >= 0 {
			r.Last = &last
		}
		return f.TestFilter(t.Context(), f.owner, id(at), r)
	}
	got, err := ask("", -1)
	if err != nil || len(got.Events) != 100 || got.Matched != 10 || got.Refused != 90 || got.Events[0].ID != "10005" || !got.Events[0].Matches || got.Events[1].RefusedBy != "subjectEndsWith" {
		t.Errorf("by default %d events, %d matched, %v", len(got.Events), got.Matched, err)
	}
	if got, err = ask(`{"subjectBeginsWith":"s/1"}`, maxLast); err != nil || len(got.Events) != maxLast || got.Matched+got.Refused != maxLast {
		t.Errorf("%d events, %v", len(got.Events), err)
	}
	if now := f.get(t, at); now.Value.Filter.SubjectEndsWith != "5" || now.Value.FilterGeneration != 1 {
		t.Errorf("the filter was changed to %+v", now.Value.Filter)
	}
	for _, last := range []int{0, maxLast + 1} {
		if _, err := ask("", last); !fault.Is(err, fault.Invalid) || !strings.Contains(problems(err), "last: The value") {
			t.Errorf("last %d: %v", last, err)
		}
	}
	_, err = ask(`{"advancedFilters":[{"operatorType":"StringIn","key":"data.x","values":[]}]}`, 0)
	if lines := strings.Split(problems(err), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], "filter.advancedFilters[0].values: ") {
		t.Errorf("every problem is named: %q", lines)
	}
}

func TestCut(t *testing.T) {
	for in, want := range map[string]string{"": "", "short": "short", strings.Repeat("é", 600): strings.Repeat("é", 512) + "…", "a" + strings.Repeat("é", 600): "a" + strings.Repeat("é", 511) + "…"} {
		if got := cut([]byte(in)); got != want {
			t.Errorf("cut %q to %q", in, got)
		}
	}
}
