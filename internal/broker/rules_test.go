package broker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestRules holds both forms of each rule from publish to the request, the dead letter
// and the request that is sent outside the walk.
func TestRules(t *testing.T) {
	const with, without = `{"specversion":"1.0","type":"t","source":"/t","subject":"s","time":"2026-03-01T10:00:00Z","id":"a","dataschema":"#2","data":{"n":1}}`,
		`{"specversion":"1.0","type":"t","source":"/t","subject":"s","time":"2026-03-01T10:00:00Z","id":"a","data":{"n":1}}`
	for _, tt := range []struct {
		name   string
		rules  Rules
		status int
		body   string
		reason Reason // "" = it is tried again
	}{
		{"by default", Rules{}, 404, with, ""},
		{"404 is given up", Rules{DeadLetter404: true}, 404, with, ReasonNotFound},
		{"410 is not", Rules{DeadLetter404: true}, 410, with, ""},
		{"no dataschema", Rules{OmitDataSchema: true}, 404, without, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore().open(-1)
				store.tune = func(c *Config) { c.Rules = tt.rules }
				es := testSubscription(0, filter.Filter{})
				es.DeliverySchema, es.Destination.WebHook = event.CloudEventSchemaV1_0, &resource.WebHook{}
				h := &handler{t: t, answer: always(Response{Outcome: NotFound, Status: tt.status})}
				p := startProcess(t, store, map[string]Sender{es.Name: h}, es)
				e := event.Event{}
				if err := e.Parse([]byte(`{"id":"a","topic":"/t","subject":"s","eventType":"t","eventTime":"2026-03-01T10:00:00Z","dataVersion":"2","metadataVersion":"1","data":{"n":1}}`), event.EventGridSchema); err != nil {
					t.Fatal(err)
				}
				if err := p.Publish(t.Context(), testTopicUID, []event.Event{e}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second) // the dead letter is stored
				synctest.Wait()
				got := h.got()
				if len(got) != 1 || string(got[0].Body) != tt.body {
					t.Errorf("%d requests, got %s, want %s", len(got), got[0].Body, tt.body)
				}
				var reason Reason
				for _, l := range letters(t, p.Broker) {
					reason = l.DeadLetterReason
				}
				if reason != tt.reason {
					t.Errorf("dead-lettered %q, want %q", reason, tt.reason)
				}
				if r := tt.rules.FirstRequest(es, &e, ""); string(r.Body) != tt.body {
					t.Errorf("outside the walk %s, want %s", r.Body, tt.body)
				}
			})
		})
	}
}
