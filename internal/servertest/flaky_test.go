package servertest

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
)

var toTheEnd = flag.Bool("to-the-end", false, "TestKillWithRefusals waits for every retry, some minutes")

// TestKillWithRefusals kills the server several times while a handler refuses every
// fifth event with 503. Whatever was acknowledged and not taken by the handler must
// be an open delivery. That compares counts, so some dozens could hide behind
// deliveries that are open though their event was taken (repeats) or never
// acknowledged; with -to-the-end the handler then takes everything, and each id is
// waited for.
func TestKillWithRefusals(t *testing.T) {
	s := New(t)
	handler := NewReceiver(t)
	var mu sync.Mutex
	taken := map[string]bool{}
	var willing atomic.Bool
	var refused atomic.Int64
	handler.Answer = func(w http.ResponseWriter, _ *http.Request, events []Received) {
		if !willing.Load() && rand.IntN(5) == 0 {
			refused.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			taken[e.ID] = true
		}
	}
	id, publish := s.Topic("refused")
	s.Subscribe(id, "flaky", handler.URL, nil)
	acked := map[string]bool{}
	next := 0
	for range 4 {
		stop := time.Now().Add(300 * time.Millisecond)
		for n := 0; n < 20 || time.Now().Before(stop); n++ { // however slow the machine is
			if publish(eventBody(next, 5)) == nil {
				for i := range 5 {
					acked[strconv.Itoa(next+i)] = true
				}
			}
			next += 5
		}
		s.Kill()
		s.Restart()
	}
	var missing, open int
	settled := false
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && !settled; {
		<-time.After(500 * time.Millisecond)
		missing, open = 0, 0
		mu.Lock()
		for n := range acked {
			if !taken[n] {
				missing++
			}
		}
		mu.Unlock()
		for raw, err := range s.List(t.Context(), id+arm.DeliveryStatusPath, nil) {
			if err != nil {
				t.Fatal(err)
			}
			var st struct {
				Open     int  `json:"openDeliveries"`
				InFlight int  `json:"inFlight"`
				Lagging  bool `json:"lagging"`
			}
			var wrapped struct{ Properties json.RawMessage }
			if json.Unmarshal(raw, &wrapped) == nil && wrapped.Properties != nil {
				raw = wrapped.Properties
			}
			if err := json.Unmarshal(raw, &st); err != nil {
				t.Fatal(err)
			}
			open += st.Open
			settled = st.InFlight == 0 && !st.Lagging && missing <= open
		}
	}
	t.Logf("%d acknowledged, %d not taken yet, %d open", len(acked), missing, open)
	if missing > open {
		t.Errorf("%d acknowledged events are neither taken nor open", missing-open)
	}
	if len(acked) == 0 || refused.Load() == 0 {
		t.Error("nothing was refused: the test showed nothing")
	}
	if !*toTheEnd {
		return
	}
	// An event may have been refused once in each life of the server: its next retry
	// comes five minutes after the fourth at the latest.
	willing.Store(true)
	for deadline := time.Now().Add(7 * time.Minute); missing > 0 && time.Now().Before(deadline); {
		<-time.After(time.Second)
		missing = 0
		mu.Lock()
		for n := range acked {
			if !taken[n] {
				missing++
			}
		}
		mu.Unlock()
	}
	if missing > 0 {
		t.Errorf("%d acknowledged events were never taken", missing)
	}
}
