package servertest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/server"
)

// parked reads what /readyz says of the park.
func (s *Server) parked(t *testing.T) broker.Parked {
	t.Helper()
	resp, err := http.Get(s.HTTP() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ Parked broker.Parked }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/readyz answers %d (%v)", resp.StatusCode, err)
	}
	return answer.Parked
}

// TestParkedEventSurvivesKill: one event waits for its answer while more than the
// log's quota passes; nothing is refused, and after a kill -9 it is sent again.
func TestParkedEventSurvivesKill(t *testing.T) {
	s := New(t, func(c *server.Config) { c.LogQuota = 1 << 20 })
	once, fine := NewReceiver(t), NewReceiver(t)
	asked := make(chan struct{})
	once.Answer = func(_ http.ResponseWriter, r *http.Request, _ []Received) {
		select {
		case <-asked:
		default:
			close(asked)
			<-r.Context().Done() // until the server is killed
		}
	}
	fine.Forget, fine.Answer = true, func(http.ResponseWriter, *http.Request, []Received) {}
	id, publish := s.Topic("busy")
	s.Subscribe(id, "once", once.URL, map[string]any{"filter": map[string]any{"subjectBeginsWith": "late"}})
	s.Subscribe(id, "fine", fine.URL, nil)
	body := func(n int, subject, data string) string {
		return fmt.Sprintf(`[{"id":"%d","subject":"%s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":%q,"dataVersion":"1"}]`, n, subject, data)
	}
	if err := publish(body(0, "late", "the one")); err != nil {
		t.Fatal(err)
	}
	<-asked
	padding := strings.Repeat("x", 60<<10)
	for n := range 30 {
		if err := publish(body(1+n, "other", padding)); err != nil {
			t.Fatalf("after %d events of 60 KiB: %v", n, err)
		}
		for log := s.gauge(t, "carillon_engine_log_above_floor_bytes"); log > 600<<10; log = s.gauge(t, "carillon_engine_log_above_floor_bytes") {
			<-time.After(50 * time.Millisecond) // what holds the log is parked within a second
		}
	}
	eventually(t, "the one that waits is parked alone", func() bool { // and none of those that were slow
		p := s.parked(t)
		return p.Deliveries == 1 && p.Bytes > 0 && p.Problem == "" && s.gauge(t, "carillon_parked_deliveries") == 1
	})
	s.Kill()
	s.Restart()
	once.Wait(t, patience, func(events []Received) bool { return len(events) == 2 })
	for _, e := range once.Events() {
		if e.ID != "0" || string(e.Data) != `"the one"` {
			t.Errorf("got event %s with %.40s", e.ID, e.Data)
		}
	}
	eventually(t, "nothing is parked after its delivery", func() bool { return s.parked(t) == (broker.Parked{}) })
}

// gauge reads one metric without labels.
func (s *Server) gauge(t *testing.T, name string) (v float64) {
	t.Helper()
	resp, err := http.Get(s.HTTP() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
