package arm

import (
	"context"
	"encoding/json"
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

func (b *fakeBroker) FindEvent(_ context.Context, _ resource.Stream, name string) (broker.LoggedEvent, error) {
	for _, e := range logged() {
		if strings.Contains(string(e.Event), `"id":"`+name+`"`) {
			e.SameID = 1
			return e, nil
		}
	}
	return broker.LoggedEvent{}, fault.New(fault.NotFound, "EventNotFound", "No event with the id '%s' was found.", name)
}

func (b *fakeBroker) Newest(_ context.Context, _ resource.Stream, back *broker.LookBack) iter.Seq2[broker.LoggedEvent, error] {
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

// Attempts tells of nine attempts of every event subscription, every third of which
// the endpoint was too busy for.
func (b *fakeBroker) Attempts(_ context.Context, _ resource.UID, q broker.AttemptQuery) (found []broker.PastAttempt, more broker.AttemptPlace, err error) {
	for i := 9; i > 0; i-- {
		a := broker.PastAttempt{Position: engine.At(uint64(i), 0).String(), Attempt: broker.Attempt{Number: 1, Start: time.Date(2026, 11, 24, 12, i, 0, 0, time.UTC), Duration: 1.5, Outcome: "Delivered", Status: 200}}
		if i%3 == 0 {
			a.Outcome, a.Status, a.Detail = "Busy", 503, "503"
		}
		outcome, _ := broker.ParseOutcome(a.Outcome)
		place := broker.AttemptPlace{Message: uint64(i), Index: 2}
		switch {
		case q.Before.Message != 0 && place.Message >= q.Before.Message, q.Outcome != broker.NotAttempted && outcome != q.Outcome, a.Start.Before(q.Since):
			continue
		case len(found) == q.Most:
			return found, more, nil
		}
		found, more = append(found, a), place
	}
	return found, broker.AttemptPlace{}, nil
}

// TestAttemptPages follows nextLink through the attempts of an event subscription.
func TestAttemptPages(t *testing.T) {
	s := newStack(t)
	s.must("owner", "PUT", wsID+"/providers/Microsoft.EventGrid/eventSubscriptions/es1"+v, hookBody)
	next := wsID + "/providers/Microsoft.EventGrid/eventSubscriptions/es1" + AttemptsPath + v + "&$top=4"
	for _, want := range []string{"9 8 7 6", "5 4 3 2", "1"} {
		var p struct {
			Value    []broker.PastAttempt
			NextLink string
		}
		if err := json.Unmarshal(s.must("owner", "GET", next, "").Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range p.Value {
			got = append(got, fmt.Sprint(a.Start.Minute()))
		}
		if strings.Join(got, " ") != want || (p.NextLink == "") != (want == "1") {
			t.Errorf("a page holds %s and leads on to %q, want %s", got, p.NextLink, want)
		}
		next = strings.TrimPrefix(p.NextLink, "http://localhost:7443")
	}
	for _, bad := range []string{"outcom=Busy", "$filter=x", "since=1h", "$top=0"} {
		if w := s.do("owner", "GET", wsID+"/providers/Microsoft.EventGrid/eventSubscriptions/es1"+AttemptsPath+v+"&"+bad, ""); w.Code != 400 {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
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
