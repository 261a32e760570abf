package broker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// logged publishes an event a minute, n of them from the present time on: subject a
// and b in turn. It returns when the first was.
func logged(t *testing.T, p *process, n int) (begin time.Time) {
	t.Helper()
	begin = time.Now()
	for i := range n {
		publish(t, p.Broker, i, 1, []string{"a", "b"}[i%2])
		rest(time.Minute)
	}
	return begin
}

// replays are the requests of replays.
func (h *handler) replays() (out []asked) {
	for _, a := range h.got() {
		if a.Replay != "" {
			out = append(out, a)
		}
	}
	return out
}

func (p *process) mustReplay(t *testing.T, job LogReplay) LogReplay {
	t.Helper()
	job, err := p.ReplayLog(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func (p *process) job(t *testing.T, uid resource.UID) LogReplay {
	t.Helper()
	jobs := p.LogReplays(uid)
	if len(jobs) == 0 {
		t.Fatal("no replay is known")
	}
	return jobs[len(jobs)-1]
}

// TestReplayLog: which events of a range are delivered again, and what stays what it
// was.
func TestReplayLog(t *testing.T) {
	for _, tt := range []struct {
		name     string
		own      filter.Filter // of the event subscription
		from, to time.Duration // from the first event
		filter   filter.Filter
		want     string
		examined int
	}{
		{"everything", filter.Filter{}, -time.Hour, time.Hour, filter.Filter{}, "[0 1 2 3 4 5]", 6},
		{"a range, its end not in it", filter.Filter{}, time.Minute, 4 * time.Minute, filter.Filter{}, "[1 2 3]", 3},
		{"a filter", filter.Filter{}, -time.Hour, time.Hour, filter.Filter{SubjectBeginsWith: "b"}, "[1 3 5]", 6},
		{"no more than the event subscription wants", filter.Filter{SubjectBeginsWith: "a"}, 0, time.Hour, filter.Filter{}, "[0 2 4]", 6},
		{"nothing", filter.Filter{}, time.Hour, 2 * time.Hour, filter.Filter{}, "[]", 0},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{t: t}
			es := testSubscription(0, tt.own)
			p := one(t, h, es)
			begin := logged(t, p, 6)
			settleAll(t, p)
			first := map[string]asked{}
			for _, a := range h.got() {
				first[a.ids[0]] = a
			}
			time.Sleep(30 * time.Hour) // their time to live is over: a replay has its own
			job := LogReplay{UID: es.UID, From: begin.Add(tt.from), To: begin.Add(tt.to), Filter: tt.filter}
			counted, err := p.CountLog(t.Context(), job)
			if err != nil || len(h.replays()) != 0 {
				t.Fatalf("%v; a count sent %d", err, len(h.replays()))
			}
			p.mustReplay(t, job)
			rest(time.Minute)
			ids := []string{}
			for _, a := range h.replays() {
				ids = append(ids, a.ids[0])
				was := first[a.ids[0]]
				if a.Count != 0 || string(a.Body) != string(was.Body) || a.Single.OutputID != was.Single.OutputID {
					t.Errorf("replayed as %+v, was %+v", a.Request, was.Request)
				}
			}
			slices.Sort(ids) // attempts run side by side
			same(t, "replayed", ids, tt.want)
			done := p.job(t, es.UID)
			if done.State != ReplayDone || int(done.Replayed) != len(ids) || int(done.Examined) != tt.examined || done.Matched != done.Replayed || done.Skipped+done.Missed != 0 {
				t.Errorf("ended as %+v", done)
			}
			if counted.Matched != done.Matched || counted.Examined != done.Examined {
				t.Errorf("counted %+v", counted)
			}
			if st := p.mustStatus(t, es); st.Open != 0 {
				t.Errorf("status %+v", st)
			}
			finish(t, p)
		})
	}
}

// TestReplayLogRate: a rate is kept, a second replay has to wait, a cancel ends one.
func TestReplayLogRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{t: t}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		begin := logged(t, p, 30)
		job := LogReplay{UID: es.UID, From: begin, To: time.Now(), Rate: 2}
		started := p.mustReplay(t, job)
		rest(5 * time.Second)
		if n := len(h.replays()); n < 9 || n > 11 {
			t.Errorf("%d in 5 s at 2 a second", n)
		}
		if _, err := p.ReplayLog(t.Context(), job); !fault.Is(err, fault.Conflict) {
			t.Errorf("a second one: %v", err)
		}
		if _, found, err := p.CancelLogReplay(t.Context(), es.UID+1, started.ID); found || err != nil {
			t.Errorf("another's: %v %v", found, err)
		}
		canceled, found, err := p.CancelLogReplay(t.Context(), es.UID, started.ID)
		if err != nil || !found || canceled.State != ReplayCanceled {
			t.Errorf("%+v %v %v", canceled, found, err)
		}
		before := len(h.replays())
		rest(time.Minute)
		if n := len(h.replays()); n != before {
			t.Errorf("%d more after the cancel", n-before)
		}
		if job := p.job(t, es.UID); job.State != ReplayCanceled {
			t.Errorf("it is %s", job.State)
		}
		p.mustReplay(t, LogReplay{UID: es.UID, From: begin, To: time.Now()})
		if err := p.Deactivate(t.Context(), es.UID); err != nil {
			t.Fatal(err)
		}
		rest(time.Second)
		finish(t, p)
	})
}

// TestReplayLogAfterCrash: a replay goes on where it was, and repeats at most what
// it did in the last second.
func TestReplayLogAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, h := newStore(), &handler{t: t}
		es := testSubscription(0, filter.Filter{})
		hold := store.open(-1)
		p := startProcess(t, hold, map[string]Sender{"es0": h}, es)
		begin := logged(t, p, 40)
		p.mustReplay(t, LogReplay{UID: es.UID, From: begin, To: time.Now(), Rate: 4})
		rest(5100 * time.Millisecond)
		hold.killMu.Lock()
		hold.dead = true
		hold.killMu.Unlock()
		_ = p.end()
		before := len(h.replays())
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		rest(time.Minute)
		if job := p.job(t, es.UID); job.State != ReplayDone || job.Missed != 0 {
			t.Errorf("ended as %+v", job)
		}
		times := map[string]int{}
		for _, a := range h.replays() {
			times[a.ids[0]]++
		}
		again := len(h.replays()) - len(times)
		if len(times) != 40 || before == 0 || again > 6 {
			t.Errorf("%d of 40 events, %d before the crash, %d twice", len(times), before, again)
		}
		finish(t, p)
	})
}

// TestReplayLogToOneThatFails: what a replay cannot deliver is dead-lettered like
// anything else, with the time it was published at; its success removes the letter.
func TestReplayLogToOneThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := answerOK
		h := &handler{t: t, answer: func(context.Context, asked) Response { return answer }}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		begin := logged(t, p, 2)
		settleAll(t, p)
		answer = answerBad
		job := LogReplay{UID: es.UID, From: begin, To: time.Now()}
		p.mustReplay(t, job)
		rest(time.Minute)
		left := letters(t, p.Broker)
		slices.SortFunc(left, func(x, y *Letter) int { return strings.Compare(x.ID, y.ID) })
		if len(left) != 2 || !left[0].PublishTime.Equal(begin) || left[0].Sequencer != engine.Sequencer(7, engine.At(1, 0)) || left[0].DeliveryAttempts != 1 {
			t.Errorf("letters %+v", left)
		}
		answer = answerOK
		p.mustReplay(t, job)
		rest(time.Minute)
		if left := letters(t, p.Broker); len(left) != 0 {
			t.Errorf("letters %+v after the success", left)
		}
		finish(t, p)
	})
}

// TestReplayLogOfPurgedHistory: what is gone is counted.
func TestReplayLogOfPurgedHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{t: t}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		begin := logged(t, p, 6)
		settleAll(t, p)
		job := LogReplay{UID: es.UID, From: begin, To: time.Now(), Begin: 1, End: 7, Next: uint64(engine.At(1, 0))}
		if err := (fakeLog{p.h}).Purge(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		p.window.mu.Lock()
		p.window.newest, p.window.again = newWindow(nil, 1<<20).newest, newWindow(nil, 1<<20).again
		p.window.mu.Unlock()
		replayed := 0
		err := p.walkLog(t.Context(), p.lookup(uint64(es.UID)), &job, func(*engine.Frame, int) error { replayed++; return nil })
		if err != nil || replayed != 2 || job.Missed != 4 || job.Examined != 2 || job.Next != uint64(engine.At(7, 0)) {
			t.Errorf("%d replayed, %+v, %v", replayed, job, err)
		}
		finish(t, p)
	})
}
