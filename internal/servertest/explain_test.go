package servertest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// explained is the answer to explain, as far as this test reads it.
type explained struct {
	Event struct {
		ID    string
		Topic string
	}
	Sequencer        string
	EventsWithSameID int
	FilterGeneration int
	Matches          bool
	Clauses          []struct{ Clause, Result, Saw, Text string }
	Delivery         *struct {
		State, Text string
		NextAttempt time.Time
		DeadLetter  *struct{ ID, DeadLetterReason string }
		Attempts    []struct {
			Number         int
			Start          time.Time
			Outcome        string
			HTTPStatusCode int
			Detail         string
		}
	}
}

// outcomes are the attempts as text.
func (x *explained) outcomes() string {
	var out []string
	for _, a := range x.Delivery.Attempts {
		out = append(out, fmt.Sprintf("%d %s %d", a.Number, a.Outcome, a.HTTPStatusCode))
	}
	return strings.Join(out, ", ")
}

// TestExplain tells of a delivered, a refused, a retrying and a dead-lettered event
// what became of them, and of their filter, also after it changed and after a kill.
func TestExplain(t *testing.T) {
	s := New(t)
	topic, publish := s.Topic("orders")
	handler := NewReceiver(t)
	handler.Answer = func(w http.ResponseWriter, _ *http.Request, events []Received) {
		switch events[0].Subject {
		case "orders/bad":
			w.WriteHeader(http.StatusBadRequest)
		case "orders/busy":
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	condition := map[string]any{"operatorType": "StringIn", "key": "data.stage", "values": []string{"production"}}
	s.Subscribe(topic, "erp-orders", handler.URL, map[string]any{"filter": map[string]any{"subjectBeginsWith": "orders/", "advancedFilters": []any{condition}}})
	es := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/erp-orders"
	one := func(id, subject, data string) {
		t.Helper()
		body := fmt.Sprintf(`[{"id":%q,"subject":%q,"eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":%s,"dataVersion":"1"}]`, id, subject, data)
		if err := publish(body); err != nil {
			t.Fatal(err)
		}
	}
	const production = `{"stage":"Production"}`
	one("taken", "orders/1", production)
	one("other", "orders/2", `{"stage":"staging"}`)
	one("without", "orders/3", `{}`)
	one("bad", "orders/bad", production)
	one("busy", "orders/busy", production)
	// The second of two events with one id is the one that is explained.
	one("taken", "orders/4", production)

	check := func(when string) {
		for _, tt := range []struct {
			id, state, outcomes string
			clause              string // text of the last clause ends so
		}{
			{"taken", "delivered", "1 Delivered 200", `the string "Production"`},
			{"other", "notMatched", "", `the string "staging"`},
			{"without", "notMatched", "", "data.stage was missing, which does not pass StringIn"},
			{"bad", "deadLettered", "1 BadRequest 400", `the string "Production"`},
			{"busy", "waitingForRetry", "1 GenericError 500", `the string "Production"`},
		} {
			x := s.explainUntil(t, es, tt.id, tt.state)
			last := x.Clauses[len(x.Clauses)-1]
			if !strings.HasPrefix(x.outcomes(), tt.outcomes) || x.Event.ID != tt.id || x.Event.Topic != topic || x.FilterGeneration != 1 || len(x.Clauses) != 4 || !strings.HasSuffix(last.Text, tt.clause) ||
				x.Matches == (tt.state == "notMatched") || (last.Result == "passed") != x.Matches {
				t.Errorf("%s, event %s: %+v", when, tt.id, x)
			}
			switch tt.id {
			case "taken":
				if x.EventsWithSameID != 2 {
					t.Errorf("%d events have one id, want 2", x.EventsWithSameID)
				}
			case "bad":
				var letter struct{ Event struct{ ID string } }
				s.Must("GET", es+"/providers/Carillon.Delivery/deadLetters/"+x.Delivery.DeadLetter.ID, nil, &letter)
				if letter.Event.ID != "bad" || x.Delivery.DeadLetter.DeadLetterReason != "UndeliverableDueToHttpBadRequest" {
					t.Errorf("dead letter %+v, %+v", x.Delivery.DeadLetter, letter)
				}
			case "busy":
				if last := x.Delivery.Attempts[len(x.Delivery.Attempts)-1]; x.Delivery.NextAttempt.Sub(last.Start) < 10*time.Second {
					t.Errorf("the next attempt comes %s after the last", x.Delivery.NextAttempt.Sub(last.Start))
				}
			}
			// The sequencer names the same event.
			if again := s.explainUntil(t, es, x.Sequencer, tt.state); again.Sequencer != x.Sequencer {
				t.Errorf("%s named by its sequencer is %+v", tt.id, again)
			}
		}
	}
	check("at first")

	s.checkHistory(t, topic, es)

	var tested struct {
		Tested, Matched int
		Events          []struct {
			ID, RefusedBy string
			Matches       bool
		}
	}
	s.Must("POST", es+"/testFilter", map[string]any{"last": 5, "filter": map[string]any{"subjectEndsWith": "/2"}}, &tested)
	if tested.Tested != 5 || tested.Matched != 1 || tested.Events[4].ID != "other" || !tested.Events[4].Matches {
		t.Errorf("another filter: %+v", tested)
	}
	s.Must("POST", es+"/testFilter", map[string]any{}, &tested)
	if tested.Tested != 6 || tested.Matched != 4 || tested.Events[5].ID != "taken" || tested.Events[4].RefusedBy != "advancedFilters[0]" {
		t.Errorf("the present filter: %+v", tested)
	}

	// The filter changes; events are explained by the one they met.
	s.Must("PATCH", es, map[string]any{"filter": map[string]any{"subjectBeginsWith": "nothing"}}, nil)
	check("after a change of the filter")
	one("late", "orders/9", production)
	if x := s.explainUntil(t, es, "late", "notMatched"); x.FilterGeneration != 2 {
		t.Errorf("generation %d", x.FilterGeneration)
	}
	s.Kill()
	s.Restart()
	check("after a kill")

	// What is given and not logged is judged by the present filter.
	var x explained
	s.Must("POST", es+"/explain", map[string]any{"event": map[string]any{"id": "mine", "subject": "nothing/1", "eventType": "t", "eventTime": "2026-01-01T00:00:00Z", "data": nil}}, &x)
	if !x.Matches || x.FilterGeneration != 2 || x.Delivery != nil {
		t.Errorf("a given event: %+v", x)
	}
}

// checkHistory reads the events of TestExplain by themselves, and the attempts of their
// event subscription.
func (s *Server) checkHistory(t *testing.T, topic, es string) {
	t.Helper()
	events := topic + "/providers/Carillon.Delivery/events/"
	for id, want := range map[string]string{"taken": "delivered", "bad": "deadLettered", "other": ""} {
		var e struct{ EventID, Topic, Position string }
		s.Must("GET", events+id, nil, &e)
		var list struct {
			Value []struct {
				EventSubscription, State string
				Attempts                 []struct{ Outcome string }
			}
		}
		s.Must("GET", events+e.Position+"/deliveries", nil, &list)
		if e.EventID != id || e.Topic != topic || want == "" && len(list.Value) != 0 || want != "" && (len(list.Value) != 1 || list.Value[0].State != want || len(list.Value[0].Attempts) != 1) {
			t.Errorf("event %s is %+v, its deliveries %+v", id, e, list)
		}
	}
	var attempts struct {
		Value []struct{ Position, Outcome string }
	}
	s.Must("GET", es+"/providers/Carillon.Delivery/attempts", nil, &attempts)
	var got []string
	for _, a := range attempts.Value {
		var e struct{ EventID string }
		s.Must("GET", events+a.Position, nil, &e)
		got = append(got, e.EventID+" "+a.Outcome)
	}
	slices.Sort(got)
	got = slices.Compact(got)
	if want := []string{"bad BadRequest", "busy GenericError", "taken Delivered"}; !slices.Equal(got, want) {
		t.Errorf("attempts %q, want %q", got, want)
	}
}

// explainUntil explains an event until its delivery is in a state.
func (s *Server) explainUntil(t *testing.T, es, event, state string) (x explained) {
	t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		x = explained{}
		s.Must("POST", es+"/explain", map[string]any{"eventId": event}, &x)
		if x.Delivery != nil && x.Delivery.State == state {
			return x
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("event %s is %+v, want %s", event, x.Delivery, state)
		}
	}
}
