package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

// testHalfDead has very many event subscriptions, half of them with a destination
// that nobody listens at any more. 10,000 take some time to be made, so a short run
// has 1,000.
func testHalfDead(t *testing.T, rng *rand.Rand, share time.Duration) {
	count := 1000
	if share >= time.Minute {
		count = 10_000
	}
	w := newWorld(t, rng, 0)
	w.key = func(id int) string { return fmt.Sprintf("k%d/", id*7919%count) }
	alive := w.subscribeMany(count)
	w.load()
	w.during(share, func() { time.Sleep(100 * time.Millisecond) })
	w.check()
	t.Logf("%d event subscriptions, %d of them dead", count, count-alive)
}

// subscribeMany makes event subscriptions of one subject each; those of odd numbers
// are dead at the end of it. It returns how many are not.
func (w *world) subscribeMany(count int) (alive int) {
	w.t.Helper()
	h := &handler{name: "alive", wants: func(id int) bool { return id*7919%count%2 == 0 }}
	w.well = append(w.well, h)
	live, dead := servertest.NewReceiver(w.t), servertest.NewReceiver(w.t)
	live.Forget, dead.Forget = true, true
	live.Answer = func(_ http.ResponseWriter, _ *http.Request, events []servertest.Received) { h.take(events) }
	began := time.Now()
	w.make(count, func(n int) (string, map[string]any) {
		return []string{live.URL, dead.URL}[n%2], map[string]any{"subjectBeginsWith": fmt.Sprintf("k%d/", n)}
	})
	w.t.Logf("%d event subscriptions made in %s", count, time.Since(began).Round(time.Millisecond))
	dead.Close()
	return (count + 1) / 2
}

// make makes event subscriptions, each with the URL and the filter that of tells.
func (w *world) make(count int, of func(n int) (url string, filter map[string]any)) {
	w.t.Helper()
	numbers := make(chan int)
	var makers sync.WaitGroup
	for range 8 {
		makers.Go(func() {
			for n := range numbers {
				url, filter := of(n)
				properties := map[string]any{"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": url}}}
				if filter != nil {
					properties["filter"] = filter
				}
				path := w.topic + "/providers/Microsoft.EventGrid/eventSubscriptions/many-" + strconv.Itoa(n)
				if _, err := w.s.Do(w.t.Context(), "PUT", path, nil, map[string]any{"properties": properties}, nil, nil); err != nil {
					w.t.Error(err)
				}
			}
		})
	}
	for n := range count {
		numbers <- n
	}
	close(numbers)
	makers.Wait()
}
