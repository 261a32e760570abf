package broker

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// parkWorld is a broker of a test that is stopped and started again.
type parkWorld interface {
	start(subs ...*resource.EventSubscription) *Broker
	stop()
}

// fakeWorld is killed instead of stopped.
type fakeWorld struct {
	t       *testing.T
	store   *store
	senders map[string]Sender
	p       *process
}

func (w *fakeWorld) start(subs ...*resource.EventSubscription) *Broker {
	h := w.store.open(-1)
	h.tune = func(c *Config) { c.Window = 1000 }
	w.p = startProcess(w.t, h, w.senders, subs...)
	return w.p.Broker
}

func (w *fakeWorld) stop() {
	w.p.h.killMu.Lock()
	w.p.h.dead = true
	w.p.h.killMu.Unlock()
	_ = w.p.end() // a killed process cannot say anything of use
}

// engineWorld is on the real engine.
type engineWorld struct {
	t       *testing.T
	dir     string
	quota   int64
	senders map[string]Sender
	engine  *engine.Engine
	cancel  context.CancelFunc
	done    chan error
}

func (w *engineWorld) start(subs ...*resource.EventSubscription) *Broker {
	var err error
	if w.engine, err = engine.Open(w.t.Context(), engine.Options{Dir: w.dir, LogQuota: w.quota, SyncInterval: time.Minute}); err != nil {
		w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(w.t.Context())
	log := w.engine.Partition()
	b, err := New(ctx, Config{
		Log: log, Journal: log.Journal(), Park: log.Park(), DeadLetters: w.engine.DeadLetters(), Logger: slog.New(slog.DiscardHandler), Window: 64 << 10,
		NewSender: func(es *resource.EventSubscription) (Sender, error) { return w.senders[es.Name], nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, es := range subs {
		if err := b.Activate(ctx, es); err != nil {
			w.t.Fatal(err)
		}
	}
	w.done = make(chan error, 1)
	go func() { w.done <- b.Run(ctx) }()
	if err := b.Ready(ctx); err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *engineWorld) stop() {
	w.cancel()
	if err := <-w.done; err != nil {
		w.t.Error(err)
	}
	if err := w.engine.Close(); err != nil {
		w.t.Error(err)
	}
}

// TestParkDay: a topic at a high rate, with one handler that fails with some events
// for a day. They are parked: what holds the log stays far below the quota, each is
// attempted and dead-lettered at its times with its own body, also after stops and
// kills, and found by its sequencer and its id when the log has long let go of it.
func TestParkDay(t *testing.T) {
	const hours = 8
	dir := t.TempDir()
	for _, tt := range []struct {
		name  string
		quota int64
		every int // minutes between requests
		world func(t *testing.T, senders map[string]Sender) parkWorld
	}{
		{"in memory, killed", 2000, 5, func(t *testing.T, senders map[string]Sender) parkWorld { // a frame takes 100
			w := &fakeWorld{t: t, store: newStore(), senders: senders}
			w.store.quota = 2000
			return w
		}},
		{"on the engine, stopped", 256 << 10, 30, func(t *testing.T, senders map[string]Sender) parkWorld {
			return &engineWorld{t: t, dir: dir, quota: 256 << 10, senders: senders}
		}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			failing := &handler{t: t, answer: func(_ context.Context, a asked) Response {
				if bytes.Contains(a.Body, []byte(`"subject":"bad"`)) {
					return answerFailed
				}
				return answerOK // so its breaker stays shut
			}}
			fine := &handler{t: t}
			world := tt.world(t, map[string]Sender{"es0": failing, "es1": fine})
			bad, all := testSubscription(0, filter.Filter{SubjectBeginsWith: "b"}), testSubscription(1, filter.Filter{})
			b := world.start(bad, all)
			began := time.Now()
			padding := strings.Repeat("x", 32<<10)
			most, id := int64(0), 0
			sequencers, oldest := map[int]string{}, 3*30/tt.every+1
			work := func(minute int) {
				switch {
				case minute >= hours*60:
					publish(t, b, id, 3, "better")
				case minute%60 == 30: // a failing one in the middle of its frame
					if err := b.Publish(t.Context(), testTopicUID, []event.Event{
						testEvent(strconv.Itoa(id), "fine"), testEvent(strconv.Itoa(id+1), "bad"), testEvent(strconv.Itoa(id+2), "fine"),
					}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
					for e, err := range b.Newest(t.Context(), testStream, nil) {
						if err != nil {
							t.Fatal(err)
						}
						if hasID(&e, []byte(strconv.Itoa(id+1))) {
							sequencers[id+1] = e.Sequencer
							break
						}
					}
				default:
					publish(t, b, id, 2, "fine"+padding)
					publish(t, b, id+2, 1, "better")
				}
				id += 3
				if minute == 3*60 || minute == 6*60 {
					time.Sleep(time.Second) // what was delivered is flushed by then
					world.stop()
					b = world.start(bad, all)
				}
				time.Sleep(time.Until(began.Add(time.Duration(minute+tt.every) * time.Minute)))
				most = max(most, b.cfg.Log.Usage().AboveFloor)
			}
			for minute := 0; minute < hours*60; minute += tt.every {
				work(minute)
			}
			if most > tt.quota/2 {
				t.Errorf("up to %d bytes of %d were held", most, tt.quota)
			}
			first, _ := b.cfg.Log.Bounds()
			if parked := b.Parked(); parked.Deliveries < hours-3 || parked.Bytes == 0 || parked.Problem != "" {
				t.Errorf("parked %+v", parked)
			}
			for id, sequencer := range sequencers {
				for _, name := range []string{sequencer, strconv.Itoa(id)} {
					e, err := b.FindEvent(t.Context(), testStream, name)
					if err != nil {
						t.Fatalf("event %d by %s: %v", id, name, err)
					}
					if e.Sequencer != sequencer || !bytes.Contains(e.Event, []byte(`{"id":"`+strconv.Itoa(id)+`"`)) {
						t.Errorf("event %d by %s: %s %.80s", id, name, e.Sequencer, e.Event)
					}
					x, _, err := b.Explain(t.Context(), bad.UID, &e)
					if err != nil {
						t.Fatal(err)
					}
					if x.Delivery.State != StoryWaitingForRetry && x.Delivery.State != StoryInFlight || len(x.Delivery.Attempts) == 0 {
						t.Errorf("event %d: %+v", id, x.Delivery)
					}
				}
			}
			if e, err := b.FindEvent(t.Context(), testStream, sequencers[oldest]); err != nil || e.Position.Seq() >= first {
				t.Errorf("event %d is at %s, and the log begins at %d (%v): nothing was shown", oldest, e.Position, first, err)
			}
			for minute := hours * 60; minute <= (hours+24)*60; minute += tt.every {
				work(minute)
			}
			synctest.Wait()

			attempts := map[string][]asked{}
			for _, a := range failing.got() {
				if len(a.ids) != 1 {
					t.Fatalf("%d events in a body", len(a.ids))
				}
				if bytes.Contains(a.Body, []byte(`"subject":"bad"`)) {
					attempts[a.ids[0]] = append(attempts[a.ids[0]], a)
				}
			}
			for id, got := range attempts {
				if len(got) != 11 {
					t.Errorf("event %s was attempted %d times", id, len(got))
				}
				for i := 1; i < len(got); i++ {
					wait, least := got[i].at.Sub(got[i-1].at), retryDelays[i-1]
					if wait < least || wait > least+least/20+time.Millisecond {
						t.Errorf("event %s: attempt %d came after %s, want %s", id, i+1, wait, least)
					}
					if !bytes.Equal(got[i].Body, got[0].Body) {
						t.Errorf("event %s: attempt %d had the body %s, the first %s", id, i+1, got[i].Body, got[0].Body)
					}
				}
			}
			if len(attempts) != hours {
				t.Errorf("%d events failed, want %d", len(attempts), hours)
			}
			buried := letters(t, b)
			for _, l := range buried {
				n, _ := strconv.Atoi(idsIn(l.Event)[0])
				if l.DeadLetterReason != ReasonTimeToLive || l.DeliveryAttempts != 11 || l.Sequencer != sequencers[n] {
					t.Errorf("letter of event %d: %s after %d attempts, sequencer %s of %s", n, l.DeadLetterReason, l.DeliveryAttempts, l.Sequencer, sequencers[n])
				}
			}
			if len(buried) != hours {
				t.Errorf("%d dead letters, want %d", len(buried), hours)
			}
			for i, times := range fine.times() {
				if n, _ := strconv.Atoi(i); times != 1 || n >= id {
					t.Errorf("event %s reached the other handler %d times", i, times)
				}
			}
			if got := len(fine.times()); got != id {
				t.Errorf("%d of %d events reached the other handler", got, id)
			}
			if parked := b.Parked(); parked != (Parked{}) {
				t.Errorf("in the end %+v is parked", parked)
			}
			world.stop()
		})
	}
}

// answerUntil fails until the handler is mended.
func answerUntil(mended *atomic.Bool) func(context.Context, asked) Response {
	return func(context.Context, asked) Response {
		if mended.Load() {
			return answerOK
		}
		return answerFailed
	}
}

// TestParkTrouble: while the park is full, fails or is missing, what would be parked
// holds the log, and whoever asks is told; nothing is lost.
func TestParkTrouble(t *testing.T) {
	for _, tt := range []struct {
		name    string
		failing bool
		quota   int64 // of the log
		open    int   // deliveries that wait for a retry
		missing bool
		problem string
		held    uint64 // frame that holds the log
	}{
		{"room", false, 4000, 3, false, "", 0},
		{"full", false, 400, 6, false, "the park is full: it holds 40 bytes, and its quota is 40", 5},
		{"failing", true, 4000, 3, false, "the park refused", 1},
		{"missing", false, 4000, 3, true, "", 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			disk := newStore()
			disk.quota = tt.quota
			hold := disk.open(-1)
			var refuses, mended atomic.Bool
			refuses.Store(tt.failing)
			hold.failPark = refuses.Load
			hold.tune = func(c *Config) {
				c.Window = 100
				if tt.missing {
					c.Park = nil
				}
			}
			bad := &handler{t: t, answer: answerUntil(&mended)}
			p := startProcess(t, hold, map[string]Sender{"es0": bad, "es1": &handler{t: t}},
				testSubscription(0, filter.Filter{SubjectBeginsWith: "bad"}), testSubscription(1, filter.Filter{}))
			for i := range tt.open {
				publish(t, p.Broker, i, 1, "bad")
			}
			for i := range 60 {
				publish(t, p.Broker, 100+i, 1, "fine")
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if got := p.Parked(); !strings.Contains(got.Problem, tt.problem) || (got.Problem == "") != (tt.problem == "") {
				t.Errorf("parked %+v, want the problem %q", got, tt.problem)
			}
			if name, seq, held := p.Held(); held != (tt.held != 0) || seq != tt.held || held && !strings.HasSuffix(name, "/es0") {
				t.Errorf("held by %q at %d (%v), want at %d", name, seq, held, tt.held)
			}
			first, _ := p.cfg.Log.Bounds()
			if tt.held != 0 && first > tt.held {
				t.Errorf("the log begins at %d and is held at %d", first, tt.held)
			}
			if tt.held == 0 && first <= uint64(tt.open) {
				t.Errorf("the log begins at %d, though nothing holds it", first)
			}
			refuses.Store(false)
			time.Sleep(5 * time.Second)
			if _, _, held := p.Held(); tt.failing && (held || p.Parked().Problem != "") {
				t.Errorf("the park works again: parked %+v, held %v", p.Parked(), held)
			}
			mended.Store(true)
			time.Sleep(time.Hour)
			synctest.Wait()
			for i := range tt.open {
				if n := bad.times()[strconv.Itoa(i)]; n < 2 {
					t.Errorf("event %d was sent %d times", i, n)
				}
			}
			if st, _ := p.Status(0x500); st.Open != 0 || st.Delivered != uint64(tt.open) || st.Dropped != 0 {
				t.Errorf("status %+v", st)
			}
			if got := p.Parked(); got != (Parked{}) || len(disk.park) != 0 {
				t.Errorf("in the end %+v is parked, in %d copies", got, len(disk.park))
			}
			finish(t, p)
		})
	}
}

// TestParkOfADamagedFrame: an open delivery whose event the disk damaged cannot be
// parked. It is given up, told of, and holds nobody's log; the others are parked, and
// a copy serves where the log is damaged later.
func TestParkOfADamagedFrame(t *testing.T) {
	bubble(t, "damaged", func(t *testing.T) {
		disk := newStore()
		disk.quota = 4000
		hold := disk.open(-1)
		hold.tune = func(c *Config) { c.Window = 100 }
		var mended atomic.Bool
		bad := &handler{t: t, answer: answerUntil(&mended)}
		p := startProcess(t, hold, map[string]Sender{"es0": bad, "es1": &handler{t: t}},
			testSubscription(0, filter.Filter{SubjectBeginsWith: "bad"}), testSubscription(1, filter.Filter{}))
		for i := range 3 {
			publish(t, p.Broker, i, 1, "bad")
		}
		synctest.Wait()
		disk.mu.Lock()
		disk.damaged = map[uint64]bool{2: true}
		disk.mu.Unlock()
		for i := range 20 { // too few for the log to be purged
			publish(t, p.Broker, 100+i, 1, "fine")
		}
		time.Sleep(8 * time.Second) // before the first retry
		synctest.Wait()
		if name, seq, held := p.Held(); held || p.Parked().Deliveries != 2 || p.Parked().Problem != "" {
			t.Errorf("held by %q at %d (%v), parked %+v", name, seq, held, p.Parked())
		}
		if st, _ := p.Status(0x500); st.Open != 2 || st.Dropped != 1 || st.Warning == nil {
			t.Errorf("status %+v", st)
		}
		disk.mu.Lock()
		for seq := range uint64(4) {
			disk.damaged[seq] = true
		}
		disk.mu.Unlock()
		mended.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if st, _ := p.Status(0x500); st.Open != 0 || st.Delivered != 2 {
			t.Errorf("in the end: %+v", st)
		}
		finish(t, p)
	})
}

// TestWhatIsParked: open deliveries are, also those of a paused event subscription;
// what waits in the log for one that lags, or is paused, holds it; a deleted one
// leaves nothing.
func TestWhatIsParked(t *testing.T) {
	for _, tt := range []struct {
		name    string
		act     func(t *testing.T, p *process, es *resource.EventSubscription)
		parked  int
		heldBy  string
		anyCopy bool
	}{
		{"waits for a retry", func(*testing.T, *process, *resource.EventSubscription) {}, 3, "", true},
		{"paused", func(t *testing.T, p *process, es *resource.EventSubscription) {
			paused := *es
			paused.Paused = time.Now()
			activate(t, p.Broker, &paused)
		}, 3, "", true},
		{"paused, and more comes", func(t *testing.T, p *process, es *resource.EventSubscription) {
			paused := *es
			paused.Paused = time.Now()
			activate(t, p.Broker, &paused)
			publish(t, p.Broker, 10, 1, "bad")
		}, 3, "es0", true},
		{"deleted", func(t *testing.T, p *process, es *resource.EventSubscription) {
			time.Sleep(5 * time.Second) // it is parked by now
			if p.Parked().Deliveries != 3 {
				t.Errorf("parked %+v", p.Parked())
			}
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Fatal(err)
			}
		}, 0, "", false},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			disk := newStore()
			disk.quota = 2000
			es := testSubscription(0, filter.Filter{SubjectBeginsWith: "bad"})
			p := startProcess(t, disk.open(-1), map[string]Sender{"es0": &handler{t: t, answer: always(answerFailed)}, "es1": &handler{t: t}},
				es, testSubscription(1, filter.Filter{}))
			publish(t, p.Broker, 0, 3, "bad")
			more := func() {
				for i := range 20 {
					publish(t, p.Broker, 100+i, 1, "fine")
				}
				synctest.Wait()
			}
			more()
			tt.act(t, p, es)
			more()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if got := p.Parked(); got.Deliveries != tt.parked || len(disk.park) > 0 != tt.anyCopy {
				t.Errorf("parked %+v in %d copies, want %d", got, len(disk.park), tt.parked)
			}
			if name, seq, held := p.Held(); held != (tt.heldBy != "") || !strings.HasSuffix(name, tt.heldBy) {
				t.Errorf("held by %q at %d, want by %q", name, seq, tt.heldBy)
			}
			finish(t, p)
		})
	}
}

// gatedJournal becomes slow when it is told to.
type gatedJournal struct {
	Journal
	slow atomic.Pointer[slowJournal]
}

func (j *gatedJournal) Append(ctx context.Context, payload []byte) (uint64, error) {
	if slow := j.slow.Load(); slow != nil {
		return slow.Append(ctx, payload)
	}
	return j.Journal.Append(ctx, payload)
}

// TestCopyStaysUntilJournaled: a copy is removed when the journal has stored that its
// delivery is settled, not earlier: a start may need it.
func TestCopyStaysUntilJournaled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newStore()
		disk.quota = 2000
		hold := disk.open(-1)
		gate := &gatedJournal{}
		hold.tune = func(c *Config) {
			gate.Journal = c.Journal
			c.Journal = gate
		}
		var mended atomic.Bool
		h := &handler{t: t, answer: answerUntil(&mended)}
		p := startProcess(t, hold, map[string]Sender{"es0": h}, testSubscription(0, filter.Filter{SubjectBeginsWith: "bad"}))
		publish(t, p.Broker, 0, 1, "bad")
		for i := range 30 {
			publish(t, p.Broker, 100+i, 1, "fine")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if p.Parked().Deliveries != 1 {
			t.Fatalf("parked %+v", p.Parked())
		}
		open := make(chan struct{})
		gate.slow.Store(&slowJournal{gate.Journal, open})
		mended.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st, _ := p.Status(0x500); st.Delivered != 1 || p.Parked().Deliveries != 0 {
			t.Errorf("status %+v, parked %+v", st, p.Parked())
		}
		if len(disk.park) != 1 {
			t.Errorf("%d copies while the journal waits", len(disk.park))
		}
		close(open)
		time.Sleep(2 * retainEvery)
		synctest.Wait()
		if len(disk.park) != 0 {
			t.Errorf("%d copies when the journal has been written", len(disk.park))
		}
		finish(t, p)
	})
}

// TestCopyOfSeveral: a copy that several event subscriptions name stays until the last of
// them has settled, also where the first has before the next one names it. And who has
// a delivery that the journal never heard of does not park it.
func TestCopyOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		failing := &handler{t: t, answer: func(context.Context, asked) Response { return answerFailed }}
		first, second := testSubscription(0, filter.Filter{}), testSubscription(1, filter.Filter{})
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": failing, "es1": failing}, first, second)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Second) // now it waits for its second attempt
		a, b := p.lookup(uint64(first.UID)), p.lookup(uint64(second.UID))
		seq, err := p.park.copy(t.Context(), 1, []int{0}, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		names := map[engine.Position]uint64{engine.At(1, 0): seq}

		b.mu.Lock()
		b.order[0].stated = false
		b.mu.Unlock()
		if n := b.park(names, 2); n != 0 {
			t.Fatalf("%d deliveries are parked that the journal does not know", n)
		}
		b.mu.Lock()
		b.order[0].stated = true
		done := make(chan int)
		go func() { done <- p.park.name([]*subscription{a, b}, names, []uint64{seq}, 2) }()
		settled := false
		for !settled { // b is asked when its lock is free
			a.mu.Lock()
			if len(a.parked) == 1 {
				a.close(a.parked[0])
				settled = true
			}
			a.mu.Unlock()
			runtime.Gosched()
		}
		b.mu.Unlock()
		if n := <-done; n != 2 {
			t.Errorf("%d deliveries were parked, want 2", n)
		}
		time.Sleep(2 * retainEvery)
		synctest.Wait()
		if store.park[seq] == nil {
			t.Error("the copy is gone, and one who named it has not settled")
		}
		b.mu.Lock()
		b.close(b.parked[0])
		b.mu.Unlock()
		time.Sleep(2 * retainEvery)
		synctest.Wait()
		if n := len(store.park); n != 0 {
			t.Errorf("%d copies stay in the park", n)
		}
		finish(t, p)
	})
}
