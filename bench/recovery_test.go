package bench

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

const (
	recoverySubs     = 10_000
	recoveryRequests = 10_000 // of 100 events
)

// BenchmarkRecovery lets 1,000,000 events wait, 100 for each of 10,000 event
// subscriptions whose handlers are down, kills the server and reports how long it takes
// until it is ready again, and its memory before and after. The workload has a size of
// its own: -benchtime 1x.
func BenchmarkRecovery(b *testing.B) {
	for b.Loop() {
		s := servertest.New(b)
		t := newTopic(b, s)
		down, _ := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !consents(w, r) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}), nil)
		for i := range recoverySubs {
			t.subscribe(fmt.Sprintf("down-%d", i), map[string]any{"endpointUrl": fmt.Sprintf("http://%s/%d", down, i)},
				map[string]any{"advancedFilters": []any{map[string]any{"operatorType": "NumberIn", "key": "data.n", "values": []int{i}}}})
		}
		for i := range recoverySubs / 100 {
			t.post(numbered(100*i, 100), 16, recoveryRequests*100/recoverySubs)
		}
		open := 0.0
		for deadline := time.Now().Add(time.Minute); open < recoveryRequests*100 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			open = metric(b, s, "carillon_open_deliveries")
		}
		b.ReportMetric(open, "waiting")
		b.ReportMetric(float64(residentMB(s.PID())), "rss-before-MB")
		s.Kill()
		s.Restart()
		b.ReportMetric(float64(s.Start.Milliseconds()), "ready-after-kill-ms")
		b.ReportMetric(float64(residentMB(s.PID())), "rss-after-MB")
		b.ReportMetric(3000, "bar")
		if again := metric(b, s, "carillon_open_deliveries"); again < open {
			b.Errorf("%.0f deliveries are open after the kill, %.0f were before", again, open)
		}
	}
	b.ReportMetric(0, "ns/op")
}
