package faults

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

// TestFanOut publishes one event at a time that 10,000 event subscriptions want, half
// of them with a handler that takes the request and never answers. The others get each
// of the events within a second (p99): the first over connections that are all still to
// be made, later ones also while thousands of attempts time out together and thousands
// more begin.
func TestFanOut(t *testing.T) {
	if !*scale {
		t.Skip("-scale measures; it takes two minutes")
	}
	const every, rounds = 2500 * time.Millisecond, 27 // attempts time out after 30 s and after 60
	w := newWorld(t, rand.New(rand.NewPCG(seed(), 3)), 0)
	well, silent := newCrowd(t, false), newCrowd(t, true)
	began := time.Now()
	w.make(*many, func(n int) (string, map[string]any) { return []string{well.URL, silent.URL}[n%2], nil })
	t.Logf("%d event subscriptions made in %s", *many, time.Since(began).Round(time.Millisecond))
	time.Sleep(5 * time.Second) // what was made for the handshakes goes

	disk := listen(t, nil)
	start := time.Now()
	var published [rounds]time.Time
	for id := range rounds {
		time.Sleep(time.Until(start.Add(time.Duration(id) * every)))
		published[id] = time.Now()
		if err := w.publish(w.body(id, 1)); err != nil {
			t.Fatal(err)
		}
	}
	want := (*many + 1) / 2
	for end, id := time.Now().Add(arrivalBound), 0; id < rounds && time.Now().Before(end); {
		if len(well.arrivals(id)) >= want {
			id++
			continue
		}
		time.Sleep(50 * time.Millisecond)
	}
	noise := disk.end()
	var all []time.Duration
	var each []string
	for id := range rounds {
		at := well.arrivals(id)
		if len(at) != want {
			t.Fatalf("event %d arrived %d times, want %d", id, len(at), want)
		}
		took := make([]time.Duration, len(at))
		for i := range at {
			took[i] = at[i].Sub(published[id])
		}
		slices.Sort(took)
		all = append(all, took...)
		each = append(each, fmt.Sprint(took[len(took)*99/100].Milliseconds()))
	}
	slices.Sort(all)
	p99 := all[len(all)*99/100]
	t.Logf("publish to arrival p50 %s, p99 %s; p99 of each event in ms: %s; a synced write beside it took p99 %s",
		all[len(all)/2].Round(time.Millisecond), p99.Round(time.Millisecond), each, noise.p99.Round(time.Millisecond))
	if bound := latencyBound + noise.p99; p99 > bound {
		t.Errorf("p99 from publish to arrival is %s; allowed is %s and what the disk's own p99 is", p99, latencyBound)
	}
}

// crowd is the handler of very many event subscriptions, as cheap as can be: it shares
// its processors with the server. It is well, or silent.
type crowd struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[int][]time.Time // arrivals of each id
}

func newCrowd(t *testing.T, silent bool) *crowd {
	c := &crowd{seen: map[int][]time.Time{}}
	end := make(chan struct{})
	consent := servertest.NewReceiver(t).Config.Handler
	c.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("aeg-event-type") != "Notification" {
			consent.ServeHTTP(rw, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		if silent {
			select {
			case <-end:
			case <-r.Context().Done(): // a connection that is given up leaves its descriptor
			}
			return
		}
		_, rest, _ := bytes.Cut(body, []byte(`"id":"`))
		digits, _, _ := bytes.Cut(rest, []byte(`"`))
		if id, err := strconv.Atoi(string(digits)); err == nil {
			now := time.Now()
			c.mu.Lock()
			c.seen[id] = append(c.seen[id], now)
			c.mu.Unlock()
		}
	}))
	t.Cleanup(func() {
		close(end)
		c.CloseClientConnections()
		c.Server.Close()
	})
	return c
}

func (c *crowd) arrivals(id int) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen[id])
}
