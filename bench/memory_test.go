package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

// residentMB is the resident memory of a process in MiB, 0 where the system does
// not tell.
func residentMB(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kb >> 10
		}
	}
	return 0
}

// BenchmarkIdle reports what an idle server takes, and how long it takes to start
// on a new and on a used directory.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		s := servertest.New(b)
		b.ReportMetric(float64(s.Start.Milliseconds()), "first-start-ms")
		s.Stop()
		s.Restart()
		b.ReportMetric(float64(s.Start.Milliseconds()), "start-ms")
		time.Sleep(2 * time.Second) // idle means: nothing has happened for a while
		b.ReportMetric(float64(residentMB(s.PID())), "idle-MB")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDeadHandler lets 100,000 events wait for a handler that is down, and
// reports the server's memory then, and how long it takes to be ready after a kill.
func BenchmarkDeadHandler(b *testing.B) {
	for b.Loop() {
		s := servertest.New(b)
		up := true
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if up {
				(&sink{done: make(chan struct{}), want: 1 << 60}).ServeHTTP(w, r)
			} else {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		id, publish := s.Topic("bench")
		s.Subscribe(id, "dead", h.URL, nil)
		up = false
		payload := string(body(100))
		for range 1000 {
			if err := publish(payload); err != nil {
				b.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		b.ReportMetric(float64(residentMB(s.PID())), "waiting-MB")
		s.Kill()
		s.Restart()
		b.ReportMetric(float64(s.Start.Milliseconds()), "ready-after-kill-ms")
		s.Kill()
		s.Restart()
		h.Close()
	}
	b.ReportMetric(0, "ns/op")
}
