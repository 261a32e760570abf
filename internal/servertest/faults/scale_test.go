package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

var (
	scale      = flag.Bool("scale", false, "TestScale measures memory and start with a million waiting events")
	events     = flag.Int("events", 1_000_000, "waiting events of TestScale")
	eventBytes = flag.Int("event-bytes", 1024, "size of each event that TestScale publishes, about")
	many       = flag.Int("event-subscriptions", 10_000, "event subscriptions of TestScale")
)

// Bounds of TestScale.
const (
	flatWithin = 48 << 20        // bytes that memory may grow by from the first quarter of the events to the last
	readyBound = 3 * time.Second // from the start of the process to taking traffic
)

// TestScale lets a million events wait for one dead handler, beside 10,000 event
// subscriptions that want others. Memory does not grow with what waits, and after
// kill -9 the server is ready at once.
func TestScale(t *testing.T) {
	if !*scale {
		t.Skip("-scale measures; it takes some minutes")
	}
	w := newWorld(t, rand.New(rand.NewPCG(seed(), 2)), 0)
	began := time.Now()
	w.subscribeMany(*many)
	dead := servertest.NewReceiver(t)
	w.s.Subscribe(w.topic, "dead", dead.URL, nil)
	dead.Close()
	t.Logf("%d event subscriptions made in %s; the server takes %d MiB", *many+1, time.Since(began).Round(time.Millisecond), resident(w.s.PID())>>20)

	began = time.Now()
	quarters := w.backlog(*events)
	waited := time.Since(began)
	s := w.status("dead")
	t.Logf("%d events of some %d bytes waiting, published in %s; the dead handler's event subscription: %+v", *events, *eventBytes, waited.Round(time.Millisecond), s)
	var told []string
	for _, q := range quarters {
		told = append(told, fmt.Sprintf("%d", q>>20))
	}
	t.Logf("resident MiB after each quarter of the events: %s", strings.Join(told, ", "))
	if grown := quarters[3] - quarters[0]; grown > flatWithin {
		t.Errorf("memory grew by %d MiB from the first quarter to the last; %d MiB are allowed", grown>>20, flatWithin>>20)
	}
	if !s.Lagging || s.Delivered > 0 {
		t.Errorf("the dead handler's event subscription does not lag: %+v", s)
	}
	for range 3 {
		disk := listen(t, nil)
		w.s.Kill()
		w.s.Restart()
		noise := disk.end()
		t.Logf("ready %s after the start that followed kill -9; resident %d MiB; a synced write beside it took p99 %s",
			w.s.Start.Round(time.Millisecond), resident(w.s.PID())>>20, noise.p99)
		if bound := readyBound + noise.most; w.s.Start > bound {
			t.Errorf("ready after %s; allowed is %s and the slowest synced write of the time, %s", w.s.Start, readyBound, noise.most)
		}
		if s := w.status("dead"); s.Open == 0 {
			t.Errorf("nothing waits any more: %+v", s)
		}
	}
}

// backlog publishes events that only the dead handler wants, and returns the memory
// of the server after each quarter of them.
func (w *world) backlog(total int) (quarters [4]int64) {
	w.t.Helper()
	const size = 500
	rest := strings.Repeat("x", max(0, *eventBytes-125)) // the other members take some 125
	for q := range quarters {
		var publishers sync.WaitGroup
		requests := make(chan int)
		for range 4 {
			publishers.Go(func() {
				for first := range requests {
					var b strings.Builder
					for i := range size {
						b.WriteString([]string{"[", ","}[min(i, 1)])
						fmt.Fprintf(&b, `{"id":"%d","subject":"other","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{"n":%d,"rest":"%s"},"dataVersion":"1"}`, first+i, first+i, rest)
					}
					if err := w.publish(b.String() + "]"); err != nil {
						w.t.Error(err)
					}
				}
			})
		}
		for first := q * total / 4; first < (q+1)*total/4; first += size {
			requests <- first
		}
		close(requests)
		publishers.Wait()
		time.Sleep(2 * time.Second) // what was freed is given back
		quarters[q] = resident(w.s.PID())
	}
	return quarters
}
