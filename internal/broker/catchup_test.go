package broker

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// exactlyOnce is a handler that counts events and answers when it is free.
type exactlyOnce struct {
	free chan struct{} // closed = answers at once

	mu    sync.Mutex
	times map[string]int
}

func newExactlyOnce() *exactlyOnce {
	return &exactlyOnce{free: make(chan struct{}), times: map[string]int{}}
}

func (*exactlyOnce) Close() {}

func (h *exactlyOnce) Send(ctx context.Context, r *Request) Response {
	select {
	case <-h.free:
	case <-time.After(r.Hold):
		return Response{Outcome: TimedOut}
	case <-ctx.Done():
		return Response{Outcome: Canceled}
	}
	if r.Fill() != nil {
		return Response{Outcome: Canceled}
	}
	id := string(r.Body[len(`[{"id":"`):])
	for i := range id {
		if id[i] == '"' {
			id = id[:i]
			break
		}
	}
	h.mu.Lock()
	h.times[id]++
	h.mu.Unlock()
	return answerOK
}

func (h *exactlyOnce) check(t *testing.T, n int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	wrong := 0
	for i := range n {
		if got := h.times[strconv.Itoa(i)]; got != 1 {
			if wrong++; wrong <= 5 {
				t.Errorf("event %d arrived %d times", i, got)
			}
		}
	}
	if len(h.times) != n {
		t.Errorf("%d events arrived, want %d", len(h.times), n)
	}
}

// readCounter counts the frames that are read in bulk.
type readCounter struct {
	Log
	n *int
}

func (l readCounter) Frames(ctx context.Context, from uint64) iter.Seq2[*engine.Frame, error] {
	return func(yield func(*engine.Frame, error) bool) {
		for f, err := range l.Log.Frames(ctx, from) {
			*l.n++
			if !yield(f, err) {
				return
			}
		}
	}
}

// TestCatchUp: a handler that stands still while 30,000 events arrive harms nobody
// and holds a bounded number of deliveries; then it gets each event once.
func TestCatchUp(t *testing.T) {
	const events = 30_000
	for seed := range uint64(3) {
		bubble(t, fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			stuck, fine := newExactlyOnce(), newExactlyOnce()
			close(fine.free)
			es := testSubscription(0, filter.Filter{})
			hold := newStore().open(-1)
			hold.tune = func(c *Config) { c.Window = 20_000 } // 200 frames
			p := startProcess(t, hold, map[string]Sender{"es0": stuck, "es1": fine}, es, testSubscription(1, filter.Filter{}))
			for n := 0; n < events; {
				size := min(1+rng.IntN(50), events-n)
				publish(t, p.Broker, n, size, "a")
				if n += size; rng.IntN(20) == 0 {
					time.Sleep(time.Millisecond)
				}
				if st, _ := p.Status(es.UID); st.Open > maxOpen {
					t.Fatalf("%d open deliveries", st.Open)
				}
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			fine.check(t, events)
			s := p.lookup(uint64(es.UID))
			s.mu.Lock()
			if s.lag == 0 || len(s.queue.ring) > 2*maxReady || len(s.order) > maxOpen {
				t.Errorf("lag %s, ring %d, order %d", s.lag, len(s.queue.ring), len(s.order))
			}
			s.mu.Unlock()
			close(stuck.free)
			settleAll(t, p)
			stuck.check(t, events)
			finish(t, p)
		})
	}
}

// TestRejoinUnderLoad: those who lag become live again while events keep coming,
// and nothing is lost or repeated where they change over.
func TestRejoinUnderLoad(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			smallBounds(t, 32, 64)
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 4))
				senders := map[string]Sender{}
				var subs []*resource.EventSubscription
				var all []*exactlyOnce
				for i := range 12 {
					h := newExactlyOnce()
					all = append(all, h)
					es := testSubscription(i, filter.Filter{})
					senders[es.Name] = h
					subs = append(subs, es)
				}
				p := startProcess(t, newStore().open(-1), senders, subs...)
				n := 0
				more := func(requests int) {
					for range requests {
						size := 1 + rng.IntN(20)
						publish(t, p.Broker, n, size, "a")
						n += size
						if rng.IntN(4) == 0 {
							time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
						}
					}
				}
				more(50)
				for _, h := range all {
					more(rng.IntN(40))
					close(h.free)
				}
				more(200)
				settleAll(t, p)
				for _, h := range all {
					h.check(t, n)
				}
				for _, s := range p.all() {
					if !s.live() {
						t.Error("still lagging")
					}
				}
				finish(t, p)
			})
		})
	}
}

// TestAllUnderWay: where a few attempts have all that may be open, so that nothing waits in
// the queue behind them, the log is read on as soon as they are settled.
func TestAllUnderWay(t *testing.T) {
	const events, batch, took = 40_000, 256, 10 * time.Millisecond
	smallBounds(t, 4*batch, 4*batch)
	synctest.Test(t, func(t *testing.T) {
		var delivered atomic.Int64
		sender := senderFunc(func(_ context.Context, r *Request) Response {
			time.Sleep(took)
			if r.Fill() != nil {
				return Response{Outcome: Canceled}
			}
			delivered.Add(int64(len(idsIn(r.Body))))
			return answerOK
		})
		es := testSubscription(0, filter.Filter{})
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: batch, PreferredBatchSizeInKilobytes: 1024}}
		paused := *es
		paused.Paused = time.Now()
		p := startProcess(t, newStore().open(-1), map[string]Sender{es.Name: sender}, &paused)
		for n := 0; n < events; n += 100 {
			publish(t, p.Broker, n, 100, "a")
		}
		synctest.Wait()
		if err := p.Activate(t.Context(), es); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for delivered.Load() < events && time.Since(began) < time.Hour {
			time.Sleep(took)
		}
		// four attempts at a time, fewer while their number grows
		if all, most := time.Since(began), 2*events/batch/4*took; all > most {
			t.Errorf("%d events took %s, more than %s", events, all, most)
		}
		settleAll(t, p)
		if n := delivered.Load(); n != events {
			t.Errorf("%d events were delivered, of %d", n, events)
		}
		finish(t, p)
	})
}

// TestSweepsAreShared: many who lag cost a few readings of the log, not one each.
func TestSweepsAreShared(t *testing.T) {
	smallBounds(t, 32, 64)
	synctest.Test(t, func(t *testing.T) {
		const lagging, frames = 40, 400
		senders := map[string]Sender{}
		var subs []*resource.EventSubscription
		var all []*exactlyOnce
		for i := range lagging {
			h := newExactlyOnce()
			all = append(all, h)
			es := testSubscription(i, filter.Filter{})
			senders[es.Name], subs = h, append(subs, es)
		}
		read := 0
		hold := newStore().open(-1)
		hold.tune = func(c *Config) {
			c.Window = 500
			c.Log = readCounter{c.Log, &read}
		}
		p := startProcess(t, hold, senders, subs...)
		for i := range frames {
			publish(t, p.Broker, i, 1, "a")
		}
		for _, h := range all {
			close(h.free)
		}
		settleAll(t, p)
		for _, h := range all {
			h.check(t, frames)
		}
		if read > lagging*frames/2 {
			t.Errorf("%d frames were read for %d that lag over %d frames", read, lagging, frames)
		}
		finish(t, p)
	})
}

// scanCounter counts bulk reads.
type scanCounter struct {
	Log
	n *int
}

func (l scanCounter) Frames(ctx context.Context, from uint64) iter.Seq2[*engine.Frame, error] {
	*l.n++
	return l.Log.Frames(ctx, from)
}

// TestScanReadsOn: each bulk read has the store send megabytes ahead, so old frames that
// the window happens to hold, here and there, do not end it.
func TestScanReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const frames = 200
		scans := 0
		hold := newStore().open(-1)
		hold.tune = func(c *Config) {
			c.Window = 20_000
			c.Log = scanCounter{c.Log, &scans}
		}
		p := startProcess(t, hold, nil)
		for i := range frames {
			publish(t, p.Broker, i, 1, "a")
		}
		held := 0
		for seq := uint64(1); seq < frames/4; seq += 2 {
			if _, err := p.window.frame(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
		}
		for seq := uint64(1); seq < frames/4; seq++ {
			if p.window.peek(seq) != nil {
				held++
			}
		}
		if held < 3 || p.window.isNew(frames/4) {
			t.Fatalf("%d old frames are held", held)
		}
		scans = 0
		next := uint64(1)
		for f, err := range p.frames(t.Context(), next) {
			if err != nil || f.Seq != next {
				t.Fatalf("frame %v, %v, want %d", f, err, next)
			}
			next++
		}
		if next != frames+1 || scans > 2 {
			t.Errorf("%d bulk reads for %d frames", scans, next-1)
		}
		finish(t, p)
	})
}

// TestExpiryWhileLagging: events that a lagging event subscription could not get
// in their time to live, because its destination rests, are dead-lettered.
func TestExpiryWhileLagging(t *testing.T) {
	smallBounds(t, 8, 16)
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: always(Response{Outcome: NotFound, Status: 404})}
		es := testSubscription(0, filter.Filter{})
		es.RetryPolicy.EventTimeToLive = 2
		p := one(t, h, es)
		for i := range 100 {
			publish(t, p.Broker, i, 1, "a")
		}
		synctest.Wait()
		if st, _ := p.Status(es.UID); !st.Lagging || st.Open > 16 {
			t.Errorf("status %+v", st)
		}
		settleAll(t, p)
		all := letters(t, p.Broker)
		for _, l := range all {
			if l.DeadLetterReason != ReasonTimeToLive {
				t.Errorf("letter %+v", l)
			}
		}
		if len(all) != 100 {
			t.Errorf("%d letters", len(all))
		}
		finish(t, p)
	})
}

// TestPublishersWait: publishers are slowed by what is not matched yet, and told
// when their context ends first.
func TestPublishersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := dispatchQueue{some: make(chan struct{}, 1)}
		f := &engine.Frame{Seq: 1, Size: maxUnmatched}
		q.pushFrame(f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.wait(ctx); err == nil {
			t.Error("it did not wait")
		}
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- q.wait(t.Context()) }()
		}
		synctest.Wait()
		q.done(f)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestTail: a watcher sees the events of its topic, and how many it missed.
func TestTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := one(t, &handler{}, testSubscription(0, filter.Filter{}))
		tail, stop := p.Tail(testStream)
		other, stopOther := p.Tail(resource.Stream{Topic: 0x71})
		publish(t, p.Broker, 0, tailBuffer+10, "a")
		synctest.Wait()
		first := <-tail
		if first.Sequencer != engine.Sequencer(7, engine.At(1, 0)) || first.Schema != event.EventGridSchema || first.Missed != 0 {
			t.Errorf("first %+v", first)
		}
		publish(t, p.Broker, 5000, 1, "a")
		synctest.Wait()
		stop()
		stop()
		stopOther()
		n, missed := 1, uint64(0)
		for e := range tail {
			n++
			missed += e.Missed
		}
		if n != tailBuffer+1 || missed != 10 {
			t.Errorf("%d events, %d missed", n, missed)
		}
		if e, open := <-other; open {
			t.Errorf("of another topic: %+v", e)
		}
		finish(t, p)
	})
}
