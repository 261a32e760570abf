package servertest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestPauseAndTestEvent pauses an event subscription over a kill -9, sends it a test
// event meanwhile, resumes and deletes it.
func TestPauseAndTestEvent(t *testing.T) {
	s := New(t)
	deletions := make(chan string, 1)
	handler := NewReceiver(t)
	seen := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("aeg-event-type") == "SubscriptionDeletion" {
			deletions <- r.Header.Get("aeg-subscription-name")
		}
		handler.serve(w, r)
	}))
	t.Cleanup(seen.Close)
	topic, publish := s.Topic("orders")
	s.Subscribe(topic, "es1", seen.URL, nil)
	at := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	event := func(id string) string {
		return `[{"id":"` + id + `","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{},"dataVersion":"1"}]`
	}
	s.Must("POST", at+"/pause", nil, nil)
	for _, id := range []string{"1", "2", "3"} {
		if err := publish(event(id)); err != nil {
			t.Fatal(err)
		}
	}
	s.Kill()
	s.Restart()

	var sent struct {
		Request  struct{ Line string }
		Response struct {
			Outcome   string
			Status    int
			Delivered bool
		}
	}
	s.Must("POST", at+"/sendTestEvent", nil, &sent)
	if sent.Response.Outcome != "Delivered" || sent.Response.Status != 200 || !sent.Response.Delivered || sent.Request.Line != "POST / HTTP/1.1" {
		t.Errorf("test event: %+v", sent)
	}
	got := handler.Events()
	if len(got) != 1 || got[0].Type != "Carillon.TestEvent" || got[0].Header.Get("carillon-test") != "true" {
		t.Fatalf("while paused the handler got %+v", got)
	}
	var shown struct {
		Properties struct{ DeliveryState string }
	}
	if s.Must("GET", at, nil, &shown); shown.Properties.DeliveryState != "Paused" {
		t.Errorf("after the restart: %+v", shown)
	}
	s.Must("POST", at+"/resume", nil, nil)
	handler.Wait(t, patience, func(events []Received) bool { return len(events) == 4 })
	var ids []string
	for _, e := range handler.Events()[1:] {
		ids = append(ids, e.ID)
	}
	for _, id := range []string{"1", "2", "3"} {
		if !strings.Contains(strings.Join(ids, ","), id) {
			t.Errorf("events %v after the pause", ids)
		}
	}
	s.Must("DELETE", at, nil, nil)
	select {
	case name := <-deletions:
		if name != "ES1" {
			t.Errorf("told of the deletion of %s", name)
		}
	case <-time.After(patience):
		t.Error("not told of the deletion")
	}
}
