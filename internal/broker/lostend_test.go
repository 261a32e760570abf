package broker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
)

// loseEnd has the log of a stopped process lose all but its first frames.
func (s *store) loseEnd(left int) { s.frames = s.frames[:left:left] }

// crash ends a process as a kill does.
func (p *process) crash() {
	p.h.killMu.Lock()
	p.h.dead = true
	p.h.killMu.Unlock()
	_ = p.end()
}

// takeOver puts the record of a new owner behind the last frame, as the engine does at a
// start.
func (s *store) takeOver() {
	s.frames = append(s.frames, &engine.Frame{Seq: uint64(len(s.frames) + 1), Generation: s.generation, Time: time.Now(),
		Records: []engine.Record{{Kind: engine.KindTakeover, Data: []byte("carillon")}}, Size: 100})
}

// TestTakeOverInALostPlace: where the log lost its last frame alone, the record of the new
// owner has the place. The delivery that was open is forgotten, not given up as one whose
// event cannot be read.
func TestTakeOverInALostPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": &handler{answer: always(answerFailed)}}, es)
		publish(t, p.Broker, 0, 1, "a")
		publish(t, p.Broker, 1, 1, "a")
		rest(time.Second)
		p.crash()
		store.loseEnd(1)
		hold, h := store.open(-1), &handler{}
		store.takeOver()
		p = startProcess(t, hold, map[string]Sender{"es0": h}, es)
		publish(t, p.Broker, 2, 1, "a")
		settleAll(t, p)
		if st, _ := p.Status(es.UID); st.Dropped != 0 || st.FailedAttempts != 0 {
			t.Errorf("%+v", st)
		}
		if n := h.times(); len(n) != 2 || n["0"] != 1 || n["2"] != 1 {
			t.Errorf("sent %v", n)
		}
		finish(t, p)
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es) // reads the same journal again
		settleAll(t, p)
		if st, _ := p.Status(es.UID); st.Dropped != 0 || len(h.got()) != 2 {
			t.Errorf("%+v, %d sent", st, len(h.got()))
		}
		finish(t, p)
	})
}

// TestHistoryAfterTheLogLostItsEnd: what is told of an event that got the place of one that
// the log lost is its own: attempts, dead letter and filter.
func TestHistoryAfterTheLogLostItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		fine, refusing, changed := testSubscription(0, filter.Filter{}), testSubscription(1, filter.Filter{SubjectBeginsWith: "a"}), testSubscription(2, filter.Filter{})
		senders := map[string]Sender{"es0": &handler{}, "es1": &handler{answer: always(answerBad)}, "es2": &handler{}}
		p := startProcess(t, store.open(-1), senders, fine, refusing, changed)
		publish(t, p.Broker, 0, 1, "a")
		publish(t, p.Broker, 1, 1, "a")
		settleAll(t, p)
		if l := letters(t, p.Broker); len(l) != 2 {
			t.Fatalf("%d dead letters", len(l))
		}
		// The filters that follow are stated above the end that the log will have.
		changed = withFilter(changed, filter.Filter{SubjectBeginsWith: "a"})
		activate(t, p.Broker, changed)
		publish(t, p.Broker, 2, 1, "a")
		settleAll(t, p)
		finish(t, p)

		store.loseEnd(1)
		time.Sleep(time.Hour)
		p = startProcess(t, store.open(-1), senders, fine, refusing, changed)
		publish(t, p.Broker, 3, 1, "b") // where 1 was
		publish(t, p.Broker, 4, 1, "a") // where 2 was
		settleAll(t, p)
		changed = withFilter(changed, filter.Filter{})
		activate(t, p.Broker, changed)
		finish(t, p)

		p = startProcess(t, store.open(-1), senders, fine, refusing, changed)
		if x := explained(t, p, fine, "3"); x.Delivery.line() != "delivered 1:Delivered" || time.Since(x.Delivery.Attempts[0].Start) > time.Minute {
			t.Errorf("%s, attempts %+v", x.Delivery.line(), x.Delivery.Attempts)
		}
		if x := explained(t, p, refusing, "3"); x.Delivery.State != StoryNotMatched || x.Delivery.DeadLetter != nil || len(x.Delivery.Attempts) != 0 {
			t.Errorf("%+v", x.Delivery)
		}
		if x := explained(t, p, refusing, "4"); x.Delivery.State != StoryDeadLettered || len(x.Delivery.Attempts) != 1 {
			t.Errorf("%+v", x.Delivery)
		}
		for id, want := range map[string]StoryState{"3": StoryNotMatched, "4": StoryDelivered} {
			if x := explained(t, p, changed, id); x.Generation != 2 || x.Delivery.State != want {
				t.Errorf("event %s: filter %d, %+v", id, x.Generation, x.Delivery)
			}
		}
		finish(t, p)
	})
}

// TestReplaysAfterTheLogLostItsEnd: the replay of a dead letter whose event the log lost is
// forgotten, the letter stays, and neither it nor what gets its place harms the other. A
// letter that was delivered already goes.
func TestReplaysAfterTheLogLostItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		hang := atomic.Bool{}
		h := &handler{answer: func(ctx context.Context, a asked) Response {
			switch {
			case a.Replay == "":
				return answerBad
			case a.ids[0] == "2":
				<-ctx.Done()
				return Response{Outcome: Canceled}
			default:
				return answerOK
			}
		}}
		hold := store.open(-1)
		hold.beforeDelete = func() {
			if hang.Load() {
				time.Sleep(time.Hour)
			}
		}
		p := startProcess(t, hold, map[string]Sender{"es0": h}, es)
		for id := range 3 {
			publish(t, p.Broker, id, 1, "a")
		}
		settleAll(t, p)
		all := letters(t, p.Broker)
		slices.SortFunc(all, func(x, y *Letter) int { return idOf(x.Event) - idOf(y.Event) })
		hang.Store(true)
		for _, l := range all[1:] { // 1 is delivered and its letter stays, 2 is under way
			if err := p.Replay(t.Context(), l.ID); err != nil {
				t.Fatal(err)
			}
		}
		rest(time.Minute)
		p.crash()

		store.loseEnd(1)
		var answer atomic.Pointer[Response]
		answer.Store(&answerFailed)
		h = &handler{answer: func(context.Context, asked) Response { return *answer.Load() }}
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		rest(time.Minute)
		if left := letters(t, p.Broker); len(left) != 2 || len(h.got()) != 0 || p.Open(es.UID) != 0 {
			t.Fatalf("%d dead letters, %d sent, %d open", len(left), len(h.got()), p.Open(es.UID))
		}
		lost := all[2].ID
		refused := func(when string) {
			t.Helper()
			if f, is := errors.AsType[*fault.Error](p.Replay(t.Context(), lost)); !is || f.Code != "DeadLetterEventLost" {
				t.Errorf("%s: %v", when, f)
			}
		}
		refused("where the log ends before it")
		began := time.Now()
		publish(t, p.Broker, 3, 1, "a")
		publish(t, p.Broker, 4, 1, "a")
		rest(time.Minute)
		refused("where another waits for a retry")
		p.crash()
		h.asked = nil
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		answer.Store(&answerOK)
		settleAll(t, p)
		refused("where another was delivered")
		p.mustReplay(t, LogReplay{UID: es.UID, From: began, To: time.Now()})
		rest(time.Minute)
		if n := h.times(); n["3"] < 2 || n["4"] < 2 || len(n) != 2 {
			t.Errorf("sent %v", n)
		}
		if left := letters(t, p.Broker); len(left) != 2 {
			t.Errorf("%d dead letters", len(left))
		}
		if st, _ := p.Status(es.UID); st.Dropped != 0 || st.Open != 0 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
}

// TestLogReplayAfterTheLogLostItsEnd: a replay of the log takes nothing that came after its
// range, where that lost its end.
func TestLogReplayAfterTheLogLostItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, h := newStore(), &handler{}
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		begin := logged(t, p, 20)
		settleAll(t, p)
		p.mustReplay(t, LogReplay{UID: es.UID, From: begin, To: time.Now(), Rate: 1})
		rest(5 * time.Second)
		p.crash()
		store.loseEnd(10)
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		for id := 100; id < 110; id++ {
			publish(t, p.Broker, id, 1, "a")
		}
		rest(time.Minute)
		if job := p.job(t, es.UID); job.State != ReplayDone || job.Missed != 0 {
			t.Errorf("ended as %+v", job)
		}
		times := map[string]int{}
		for _, a := range h.replays() {
			times[a.ids[0]]++
			if id, _ := strconv.Atoi(a.ids[0]); id >= 10 {
				t.Errorf("event %d was replayed", id)
			}
		}
		if len(times) != 10 {
			t.Errorf("replayed %v", times)
		}
		finish(t, p)
	})
}

// TestRecoveryOfReplaysAboveTheEnd: a success of the event that got the place of a lost one
// says nothing of the replay of that one's dead letter, nor the other way round.
func TestRecoveryOfReplaysAboveTheEnd(t *testing.T) {
	const uid = 5
	pos := engine.At(7, 1)
	replay := openEntry{uid: uid, pos: pos, replay: true, published: 3}
	delivered := replay
	delivered.reason = reasonReplayed
	logged := delivered
	logged.logged = true
	r := &recovery{subs: map[uint64]*recovered{}, ahead: map[uint64][]engine.Position{}, w: 9}
	for _, tt := range []struct {
		name string
		e    openEntry
		want []string
	}{
		{"under way", replay, nil},
		{"delivered", delivered, []string{letterKey(deliveryID(uid, pos))}},
		{"delivered, from the log", logged, nil},
	} {
		r.w = 9
		r.open(tt.e)
		r.logEnds(7)
		if len(r.of(uid).replays) != 1 {
			t.Errorf("%s: below the end it is forgotten", tt.name)
		}
		if was := r.cut(6); !was || len(r.of(uid).replays) != 0 || !slices.Equal(r.delivered, tt.want) {
			t.Errorf("%s: forgotten %v, %d left, letters %v", tt.name, was, len(r.of(uid).replays), r.delivered)
		}
		r.open(tt.e)
		r.logEnds(6)
		if len(r.of(uid).replays) != 0 || len(r.delivered) != 0 {
			t.Errorf("%s, read again: %d left, letters %v", tt.name, len(r.of(uid).replays), r.delivered)
		}
	}
}
