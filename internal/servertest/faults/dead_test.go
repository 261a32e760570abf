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
	numbers := make(chan int)
	var makers sync.WaitGroup
	for range 8 {
		makers.Go(func() {
			for n := range numbers {
				url := live.URL
				if n%2 == 1 {
					url = dead.URL
				}
				name := "many-" + strconv.Itoa(n)
				body := map[string]any{"properties": map[string]any{
					"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": url}},
					"filter":      map[string]any{"subjectBeginsWith": fmt.Sprintf("k%d/", n)},
				}}
				if _, err := w.s.Do(w.t.Context(), "PUT", w.topic+"/providers/Microsoft.EventGrid/eventSubscriptions/"+name, nil, body, nil, nil); err != nil {
					w.t.Error(err)
				}
			}
		})
	}
	began := time.Now()
	for n := range count {
		numbers <- n
	}
	close(numbers)
	makers.Wait()
	w.t.Logf("%d event subscriptions made in %s", count, time.Since(began).Round(time.Millisecond))
	dead.Close()
	return (count + 1) / 2
}
