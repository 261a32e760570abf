package servertest

import (
	"fmt"
	"testing"
)

// TestDuplicatesAreLeftOut publishes the same events again, also after a kill -9: each
// request is acknowledged, each event delivered once.
func TestDuplicatesAreLeftOut(t *testing.T) {
	s := New(t)
	handler := NewReceiver(t)
	topic, publish := s.Topic("orders")
	s.Must("PATCH", topic, map[string]any{"properties": map[string]any{"duplicateDetectionWindowInMinutes": 10}}, nil)
	s.Subscribe(topic, "es1", handler.URL, nil)
	send := func(ids ...int) {
		t.Helper()
		for _, id := range ids {
			if err := publish(fmt.Sprintf(`[{"id":"%d","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{},"dataVersion":"1"}]`, id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(1, 2, 1)
	s.Kill()
	s.Restart()
	send(2, 1, 3)
	handler.Wait(t, patience, func(events []Received) bool {
		seen := map[string]bool{}
		for _, e := range events {
			seen[e.ID] = true
		}
		return len(seen) == 3
	})
	s.Stop() // whatever was stored has been tried
	byOutput := map[string]map[string]bool{}
	for _, e := range handler.Events() {
		if byOutput[e.ID] == nil {
			byOutput[e.ID] = map[string]bool{}
		}
		byOutput[e.ID][e.Header.Get("aeg-output-event-id")] = true // of a delivery that the kill repeats it is the same
	}
	for id, outputs := range byOutput {
		if len(outputs) != 1 {
			t.Errorf("event %s was stored %d times", id, len(outputs))
		}
	}
}
