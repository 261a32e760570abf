package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
)

// logged returns the ids in the log, in order.
func (s *store) logged(t *testing.T) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, f := range s.frames {
		for i := range f.Records {
			var e event.Event
			if err := e.Parse(f.Records[i].Data, event.Schema(f.Records[i].Schema)); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, string(e.ID))
		}
	}
	return ids
}

// once publishes events to the test topic, duplicates left out.
func once(t *testing.T, b *Broker, window time.Duration, ids ...string) {
	t.Helper()
	var events []event.Event
	for _, id := range ids {
		events = append(events, parsed(t, testEvent(id, "a")))
	}
	if err := b.PublishOnce(t.Context(), testTopicUID, window, events); err != nil {
		t.Fatal(err)
	}
}

// parsed is an event as decoding leaves it.
func parsed(t *testing.T, e event.Event) event.Event {
	t.Helper()
	var p event.Event
	if err := p.Parse(e.Raw, e.Schema); err != nil {
		t.Fatal(err)
	}
	return p
}

func cloud(t *testing.T, id, source string) event.Event {
	return parsed(t, event.Event{Schema: event.CloudEventSchemaV1_0, Raw: []byte(`{"specversion":"1.0","id":"` + id + `","source":"` + source + `","type":"t"}`)})
}

func TestPublishOnce(t *testing.T) {
	const window = 10 * time.Minute
	bubble(t, "within the window, and after it", func(t *testing.T) {
		st := newStore()
		p := startProcess(t, st.open(-1), nil)
		once(t, p.Broker, window, "1", "2", "1")
		once(t, p.Broker, window, "2", "3")
		once(t, p.Broker, window, "1")
		if got := fmt.Sprint(st.logged(t)); got != "[1 2 3]" {
			t.Errorf("logged %s", got)
		}
		if n := figure(t, p.metrics.duplicates); n != 3 {
			t.Errorf("%v duplicates counted", n)
		}
		if err := p.PublishOnce(t.Context(), testTopicUID+1, window, []event.Event{parsed(t, testEvent("1", "a"))}); err != nil {
			t.Fatal(err)
		}
		publish(t, p.Broker, 3, 1, "a") // a topic that does not ask for it takes everything
		time.Sleep(window)
		once(t, p.Broker, window, "1")
		if got := fmt.Sprint(st.logged(t)); got != "[1 2 3 1 3 1]" {
			t.Errorf("logged %s", got)
		}
		finish(t, p)
	})

	bubble(t, "CloudEvents by id and source", func(t *testing.T) {
		st := newStore()
		p := startProcess(t, st.open(-1), nil)
		for _, e := range []event.Event{cloud(t, "1", "a"), cloud(t, "1", "b"), cloud(t, "1", "a"), cloud(t, "b1", ""+"x"), cloud(t, "1", "xb")} {
			if err := p.PublishOnce(t.Context(), testTopicUID, window, []event.Event{e}); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(st.logged(t)); got != "[1 1 b1 1]" {
			t.Errorf("logged %s", got)
		}
		finish(t, p)
	})

	bubble(t, "after a restart, from the log", func(t *testing.T) {
		st := newStore()
		p := startProcess(t, st.open(-1), nil)
		once(t, p.Broker, window, "old")
		time.Sleep(8 * time.Minute)
		once(t, p.Broker, window, "new")
		publish(t, p.Broker, 7, 1, "a") // logged while nobody asked for it
		finish(t, p)
		time.Sleep(3 * time.Minute)
		p = startProcess(t, st.open(-1), nil)
		once(t, p.Broker, window, "old", "new", "7")
		if got := fmt.Sprint(st.logged(t)); got != "[old new 7 old]" {
			t.Errorf("logged %s", got)
		}
		once(t, p.Broker, time.Hour, "old", "new") // a longer window: read again
		if got := st.logged(t); len(got) != 4 {
			t.Errorf("logged %v", got)
		}
		time.Sleep(8 * time.Minute)
		once(t, p.Broker, window, "new") // longer ago than the shorter window
		if got := st.logged(t); len(got) != 5 {
			t.Errorf("logged %v", got)
		}
		finish(t, p)
	})

	bubble(t, "bounded", func(t *testing.T) {
		defer func(n int64) { maxKnownIDs = n }(maxKnownIDs)
		maxKnownIDs = 100
		st := newStore()
		p := startProcess(t, st.open(-1), nil)
		for i := range 1000 {
			once(t, p.Broker, window, strconv.Itoa(i))
		}
		k := p.knownIDs(testTopicUID)
		if len(k.keys) != 100 || p.known.Load() != 100 || len(k.order) > 4096 || figure(t, p.metrics.forgotten) != 900 {
			t.Errorf("%d keys, %d counted, %d in order, %v forgotten", len(k.keys), p.known.Load(), len(k.order), figure(t, p.metrics.forgotten))
		}
		once(t, p.Broker, window, "999", "900", "899")
		if got := len(st.logged(t)); got != 1001 {
			t.Errorf("%d logged", got)
		}
		if err := p.PublishOnce(t.Context(), testTopicUID+1, window, []event.Event{parsed(t, testEvent("1", "a"))}); err != nil {
			t.Fatal(err) // no room for it: taken, not remembered
		}
		time.Sleep(2 * window)
		if err := p.PublishOnce(t.Context(), testTopicUID+2, window, nil); err != nil {
			t.Fatal(err)
		}
		if p.known.Load() != 0 || len(p.once) != 1 {
			t.Errorf("%d ids of %d topics are left", p.known.Load(), len(p.once))
		}
		finish(t, p)
	})

	// Many publishers send overlapping requests, some of which fail; each event is
	// logged once, and whoever was answered can rely on it.
	for seed := range uint64(5) {
		bubble(t, fmt.Sprintf("at the same time, seed=%d", seed), func(t *testing.T) {
			st := newStore()
			h := st.open(-1)
			var flaky flakyLog
			h.tune = func(c *Config) { flaky.Log = c.Log; c.Log = &flaky }
			p := startProcess(t, h, nil)
			var wg sync.WaitGroup
			for w := range 20 {
				rng := rand.New(rand.NewPCG(seed, uint64(w)))
				wg.Go(func() {
					for range 50 {
						var events []event.Event
						for range 1 + rng.IntN(5) {
							events = append(events, parsed(t, testEvent(strconv.Itoa(rng.IntN(60)), "a")))
						}
						for p.PublishOnce(t.Context(), testTopicUID, window, events) != nil {
							time.Sleep(time.Millisecond)
						}
						st.mu.Lock()
						have := len(st.frames)
						st.mu.Unlock()
						if have == 0 {
							t.Error("answered before anything was stored")
						}
					}
				})
			}
			wg.Wait()
			times := map[string]int{}
			for _, id := range st.logged(t) {
				times[id]++
			}
			for id, n := range times {
				if n != 1 {
					t.Errorf("event %s is logged %d times", id, n)
				}
			}
			if len(times) != 60 {
				t.Errorf("%d events", len(times))
			}
			finish(t, p)
		})
	}

	// A publisher that leaves takes nothing back and holds nobody up.
	bubble(t, "a client that goes", func(t *testing.T) {
		st := newStore()
		h := st.open(-1)
		slow := slowLog{gate: make(chan struct{})}
		h.tune = func(c *Config) { slow.Log = c.Log; c.Log = &slow }
		p := startProcess(t, h, nil)
		ctx, leave := context.WithCancel(t.Context())
		results := make(chan error, 2)
		events := []event.Event{parsed(t, testEvent("1", "a"))}
		go func() { results <- p.PublishOnce(ctx, testTopicUID, window, events) }()
		synctest.Wait()
		waiting, stop := context.WithCancel(t.Context())
		go func() { results <- p.PublishOnce(waiting, testTopicUID, window, events) }()
		synctest.Wait()
		leave()
		stop()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("who waits for another may go: %v", err)
		}
		close(slow.gate)
		if err := <-results; err != nil {
			t.Errorf("who stores finishes: %v", err)
		}
		once(t, p.Broker, window, "1")
		if got := st.logged(t); len(got) != 1 {
			t.Errorf("logged %v", got)
		}
		finish(t, p)
	})
}

// flakyLog refuses every third frame, after a while.
type flakyLog struct {
	Log
	mu sync.Mutex
	n  int
}

func (l *flakyLog) Append(ctx context.Context, records []engine.Record) (engine.Receipt, error) {
	time.Sleep(time.Millisecond)
	l.mu.Lock()
	l.n++
	fail := l.n%3 == 0
	l.mu.Unlock()
	if fail {
		return engine.Receipt{}, errors.New("refused")
	}
	return l.Log.Append(ctx, records)
}

// slowLog stores when the gate is open.
type slowLog struct {
	Log
	gate chan struct{}
}

func (l *slowLog) Append(ctx context.Context, records []engine.Record) (engine.Receipt, error) {
	select {
	case <-l.gate:
	case <-ctx.Done():
		return engine.Receipt{}, ctx.Err()
	}
	return l.Log.Append(ctx, records)
}
