package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestShare: what one event subscription may have open and under way shrinks as the
// node fills, and never below a few.
func TestShare(t *testing.T) {
	b := &Broker{}
	s := &subscription{b: b}
	for _, c := range []struct{ open, attempting, held, share, attempts int }{
		{0, 0, 0, 10_000, 256},
		{360_000, 0, 0, 10_000, 256},
		{936_000, 2048, 0, 1000, 128},
		{990_000, 4000, 0, 156, 6},
		{1_000_000, 4090, 0, 64, 1},
		{2_000_000, 9000, 0, 64, 1},
		{0, 2048, 100, 10_000, 28},
		{0, 2048, 200, 10_000, 1},
	} {
		b.open.Store(int64(c.open))
		b.attempting.Store(int64(c.attempting))
		s.held = c.held
		if got := s.share(); got != c.share {
			t.Errorf("share with %d open is %d, want %d", c.open, got, c.share)
		}
		if got := s.attemptShare(); got != c.attempts {
			t.Errorf("attempts with %d under way, %d held: %d, want %d", c.attempting, c.held, got, c.attempts)
		}
	}
}

// mortal is a handler that answers 503 until it is revived.
type mortal struct {
	revived *atomic.Bool
	got     atomic.Int64
}

func (m *mortal) Close() {}

func (m *mortal) Send(context.Context, *Request) Response {
	if !m.revived.Load() {
		return Response{Outcome: Busy, Status: 503}
	}
	m.got.Add(1)
	return answerOK
}

// TestDeadLeaveRoom: dead handlers that could fill the node leave room for a living
// one, and neither keep reading the log nor lose anything.
func TestDeadLeaveRoom(t *testing.T) {
	was := maxOpenNode
	t.Cleanup(func() { maxOpenNode = was })
	maxOpenNode = 20_000
	synctest.Test(t, func(t *testing.T) {
		const dead, events = 100, 5000 // 500,000 deliveries
		fine := newExactlyOnce()
		close(fine.free)
		senders := map[string]Sender{"es0": fine}
		subs := []*resource.EventSubscription{testSubscription(0, filter.Filter{})}
		var revived atomic.Bool
		var all []*mortal
		for i := 1; i <= dead; i++ {
			h := &mortal{revived: &revived}
			all = append(all, h)
			es := testSubscription(i, filter.Filter{})
			senders[es.Name], subs = h, append(subs, es)
		}
		read := 0
		hold := newStore().open(-1)
		hold.tune = func(c *Config) {
			c.Window = 20_000 // 200 frames
			c.Log = readCounter{c.Log, &read}
		}
		p := startProcess(t, hold, senders, subs...)
		for n := 0; n < events; n += 10 {
			publish(t, p.Broker, n, 10, "a")
			time.Sleep(10 * time.Millisecond)
			if n%1000 == 0 {
				synctest.Wait()
				if st, _ := p.Status(subs[0].UID); st.Lagging || st.Open > 0 {
					t.Fatalf("the living one after %d events: %+v", n, st)
				}
				if open := p.open.Load(); open > int64(maxOpenNode) {
					t.Fatalf("%d open deliveries", open)
				}
			}
		}
		synctest.Wait()
		fine.check(t, events)
		if read > 20*events/10 {
			t.Errorf("%d frames were read again while %d were published", read, events/10)
		}
		revived.Store(true)
		settleAll(t, p)
		for i, h := range all {
			if n := h.got.Load(); n != events {
				t.Errorf("handler %d got %d events", i+1, n)
			}
		}
		finish(t, p)
	})
}

// slowReads reads frames one at a time, slowly, and counts.
type slowReads struct {
	Log
	mu          sync.Mutex
	reads, most int
	now         int
}

func (l *slowReads) Frame(ctx context.Context, seq uint64) (*engine.Frame, error) {
	l.mu.Lock()
	l.reads++
	l.now++
	l.most = max(l.most, l.now)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.now--
		l.mu.Unlock()
	}()
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return &engine.Frame{Seq: seq, Size: 100}, nil
}

// TestWindowReads: frames that are wanted by many are read once, a few at a time, and
// do not push out the newest.
func TestWindowReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowReads{}
		w := newWindow(log, 4000) // 30 new frames, 10 old ones
		for seq := range uint64(30) {
			w.put(&engine.Frame{Seq: 1000 + seq, Size: 100})
		}
		var wg sync.WaitGroup
		for range 50 {
			for seq := range uint64(20) {
				wg.Go(func() {
					if f, err := w.frame(t.Context(), seq); err != nil || f.Seq != seq {
						t.Errorf("frame %d: %v, %v", seq, f, err)
					}
				})
			}
		}
		wg.Wait()
		if log.reads != 20 || log.most != maxReadings {
			t.Errorf("%d reads, %d at a time, want 20 and %d", log.reads, log.most, maxReadings)
		}
		for seq := range uint64(30) {
			if w.peek(1000+seq) == nil {
				t.Errorf("frame %d has left the window", 1000+seq)
			}
		}
		if len(w.again.frames) != 10 || w.again.bytes != 1000 {
			t.Errorf("%d old frames of %d bytes", len(w.again.frames), w.again.bytes)
		}
	})
}

// TestWindowReadFails: who waits for another's reading does not fail with it.
func TestWindowReadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &slowReads{}
		w := newWindow(log, 4000)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("deleted")
		first := make(chan error, 1)
		go func() {
			_, err := w.frame(ctx, 1)
			first <- err
		}()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			_, err := w.frame(t.Context(), 1)
			second <- err
		}()
		synctest.Wait()
		cancel(gone)
		if err := <-first; !errors.Is(err, gone) {
			t.Errorf("the reader: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("who waited: %v", err)
		}
		if len(w.underway) != 0 {
			t.Errorf("still under way: %v", w.underway)
		}
	})
}

// brokenLog is a log of which single frames may not be readable.
type brokenLog struct {
	Log
	fail func() error
}

func (l brokenLog) Frame(ctx context.Context, seq uint64) (*engine.Frame, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	return l.Log.Frame(ctx, seq)
}

// TestBusyStore: an event that cannot be read for a while is not given up for it; one
// that is lost is.
func TestBusyStore(t *testing.T) {
	lost := fmt.Errorf("frame 1: %w", engine.ErrCorrupt)
	for _, c := range []struct {
		name     string
		err      error
		lasts    time.Duration
		attempts int // that an event may have

		asked, dropped, letters int
	}{
		{"busy at a retry", context.DeadlineExceeded, 10 * time.Minute, 30, 2, 0, 0},
		{"busy when it is given up", context.DeadlineExceeded, 10 * time.Minute, 1, 1, 0, 1},
		{"lost at a retry", lost, 2 * time.Hour, 30, 1, 1, 0},
		{"lost when it is given up", lost, 2 * time.Hour, 1, 1, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p *process
				h := &handler{t: t, answer: func(_ context.Context, a asked) Response {
					if a.Count > 0 {
						return answerOK
					}
					p.window.mu.Lock()
					p.window.newest = newWindow(nil, 1).newest
					p.window.mu.Unlock()
					return Response{Outcome: Busy, Status: 503}
				}}
				until := time.Now().Add(c.lasts)
				hold := newStore().open(-1)
				hold.tune = func(cfg *Config) {
					cfg.Log = brokenLog{cfg.Log, func() error {
						if time.Now().Before(until) {
							return c.err
						}
						return nil
					}}
				}
				es := testSubscription(0, filter.Filter{})
				es.RetryPolicy.MaxDeliveryAttempts = c.attempts
				p = startProcess(t, hold, map[string]Sender{"es0": h}, es)
				publish(t, p.Broker, 0, 1, "a")
				settleAll(t, p)
				st, _ := p.Status(es.UID)
				if asked := len(h.got()); asked != c.asked || int(st.Dropped) != c.dropped || len(letters(t, p.Broker)) != c.letters {
					t.Errorf("the handler was asked %d times, %d events were dropped, %d became dead letters", asked, st.Dropped, len(letters(t, p.Broker)))
				}
				finish(t, p)
			})
		})
	}
}

// TestRoomIsTold: a dispatcher that waits is told once a queue has so many places that it
// is worth it, also where the queue is short.
func TestRoomIsTold(t *testing.T) {
	for _, tt := range []struct {
		ready, open, waits int
		told               bool
	}{
		{8, 24, 5, false}, {8, 24, 4, true}, {8, 6, 4, false},
		{4096, 10_000, 3969, false}, {4096, 10_000, 3968, true},
	} {
		smallBounds(t, tt.ready, tt.open)
		s := newSubscription(&Broker{attempts: t.Context()}, 5, resource.Stream{Topic: 6})
		s.cfg.Store(&config{})
		for range tt.waits {
			s.queue.push(&delivery{sub: s})
		}
		s.openN, s.waiting = tt.waits, true
		s.signalRoom()
		if told := len(s.room) > 0; told != tt.told {
			t.Errorf("%d of %d wait, %d may be open: told is %t", tt.waits, tt.ready, tt.open, told)
		}
	}
}
