package arm

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// logged are the events in the log of every topic, the oldest first.
func logged() (events []broker.LoggedEvent) {
	for i, stage := range []string{`"staging"`, `"production"`, `null`, `["production"]`} {
		at := time.Date(2026, 11, 24, 12, i, 0, 0, time.UTC)
		events = append(events, broker.LoggedEvent{
			Event: fmt.Appendf(nil, `{"id":"e%d","topic":"/t","subject":"models/churn:%d","eventType":"Microsoft.MachineLearningServices.ModelRegistered","eventTime":"%s","dataVersion":"2","metadataVersion":"1","data":{"modelTags":{"stage":%s}}}`,
				i, i, at.Format(time.RFC3339), stage),
			Schema: event.EventGridSchema, PublishTime: at, Position: engine.At(uint64(i+1), 0), Sequencer: engine.Sequencer(7, engine.At(uint64(i+1), 0)),
		})
	}
	return events
}

func (b *fakeBroker) FindEvent(_ context.Context, _ resource.UID, name string) (broker.LoggedEvent, error) {
	for _, e := range logged() {
		if strings.Contains(string(e.Event), `"id":"`+name+`"`) {
			e.SameID = 1
			return e, nil
		}
	}
	return broker.LoggedEvent{}, fault.New(fault.NotFound, "EventNotFound", "No event with the id '%s' was found.", name)
}

func (b *fakeBroker) Newest(_ context.Context, _ resource.UID, back *broker.LookBack) iter.Seq2[broker.LoggedEvent, error] {
	return func(yield func(broker.LoggedEvent, error) bool) {
		events := logged()
		for i := len(events) - 1; i >= 0; i-- {
			back.Frames++
			back.Bytes += 100
			back.Oldest = events[i].PublishTime
			if !yield(events[i], nil) {
				return
			}
		}
	}
}

// Explain tells a story for each event: e0 failed twice and waits, e1 is a dead
// letter, the others were delivered; what is not wanted is not matched.
func (b *fakeBroker) Explain(_ context.Context, uid resource.UID, e *broker.LoggedEvent) (*broker.Explanation, bool, error) {
	b.mu.Lock()
	es, ok := b.live[uid]
	b.mu.Unlock()
	if !ok {
		return nil, false, nil
	}
	var parsed event.Event
	if err := parsed.Parse(e.Event, e.Schema); err != nil {
		return nil, true, err
	}
	m := filter.Compile(&es.Filter)
	x := &broker.Explanation{Generation: es.FilterGeneration, Filter: es.Filter, Matches: m.Match(&parsed), Clauses: m.Clauses(&parsed)}
	x.Delivery = broker.Story{HistoryComplete: true, Attempts: []broker.Attempt{}}
	at := e.PublishTime
	switch failed := (broker.Attempt{Number: 1, Start: at, Duration: 12.5, Outcome: "GenericError", Status: 500, Detail: "the endpoint answered 500"}); {
	case !x.Matches:
		x.Delivery.State, x.Delivery.Text = broker.StoryNotMatched, "Not delivered: the filter does not want the event."
	case string(parsed.ID) == "e0":
		second := failed
		second.Number, second.Start = 2, at.Add(10*time.Second)
		x.Delivery.State, x.Delivery.Text, x.Delivery.NextAttempt = broker.StoryWaitingForRetry, "Waits for its next attempt, number 3.", at.Add(40*time.Second)
		x.Delivery.Attempts = []broker.Attempt{failed, second}
	case string(parsed.ID) == "e1":
		failed.Outcome, failed.Status = "BadRequest", 400
		x.Delivery.State, x.Delivery.Text, x.Delivery.Attempts = broker.StoryDeadLettered, "Dead-lettered after 1 attempts.", []broker.Attempt{failed}
		x.Delivery.DeadLetter = &broker.StoryEnd{ID: "0000000000000001-0000000000010000", Reason: broker.ReasonBadRequest}
	default:
		x.Delivery.State, x.Delivery.Text = broker.StoryDelivered, "Delivered."
		x.Delivery.Attempts = []broker.Attempt{{Number: 1, Start: at, Duration: 0.75, Outcome: "Delivered", Status: 200}}
	}
	return x, true, nil
}

// TestExplainOverBothIds: an event subscription on a topic is explained under both
// of its ids, and one on a system topic below that.
func TestExplainOverBothIds(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", grids+"/topics/orders"+v, `{"location":"local"}`)
	nested, extension := grids+"/topics/orders/eventSubscriptions/es1", grids+"/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	system := grids + "/systemTopics/default/eventSubscriptions/es2"
	s.must("owner", "PUT", nested+v, hookBody)
	s.must("owner", "PUT", system+v, hookBody)
	for _, id := range []string{nested, extension, system} {
		for _, op := range []string{"/explain", "/EXPLAIN"} {
			if w := s.must("owner", "POST", id+op+v, `{"eventId":"e2"}`); !strings.Contains(w.Body.String(), `"eventSubscription":"`+id+`"`) || !strings.Contains(w.Body.String(), `"state":"delivered"`) {
				t.Errorf("%s%s: %s", id, op, w.Body)
			}
		}
		if w := s.must("owner", "POST", id+"/testFilter"+v, ""); !strings.Contains(w.Body.String(), `"tested":4,"matched":4`) {
			t.Errorf("%s/testFilter: %s", id, w.Body)
		}
	}
	if w := s.do("owner", "GET", nested+"/explain"+v, ""); w.Code != 405 {
		t.Errorf("GET explain: %d", w.Code)
	}
}
