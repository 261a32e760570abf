package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

var answerBad = Response{Outcome: BadRequest, Status: 400}

// TestLetterBeforeClose: a delivery stays open until its dead letter is stored,
// however often the store refuses. After a crash in between the letter is stored
// without asking the handler again: it was given up.
func TestLetterBeforeClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		hold := store.open(-1)
		var refused atomic.Int32
		hold.failPut = func() bool { return refused.Add(1) <= 10 }
		p := startProcess(t, hold, map[string]Sender{"es0": &handler{t: t, answer: always(answerBad)}}, es)
		publish(t, p.Broker, 0, 1, "a")
		for refused.Load() < 5 {
			time.Sleep(time.Second)
			synctest.Wait()
			if st, _ := p.Status(es.UID); st.Open != 1 || st.DeadLettered != 0 {
				t.Fatalf("after %d refusals: %+v", refused.Load(), st)
			}
		}
		hold.killMu.Lock()
		hold.dead = true
		hold.killMu.Unlock()
		_ = p.end()
		hold = store.open(-1)
		h := &handler{t: t, answer: always(answerBad)}
		p = startProcess(t, hold, map[string]Sender{"es0": h}, es)
		settleAll(t, p)
		if l := letters(t, p.Broker); len(l) != 1 || l[0].DeadLetterReason != ReasonBadRequest || l[0].DeliveryAttempts != 1 || len(h.got()) != 0 {
			t.Errorf("letters %+v, requests %+v", l, h.got())
		}
		finish(t, p)
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		settleAll(t, p)
		if len(h.got()) != 0 {
			t.Errorf("closed, and sent again")
		}
		finish(t, p)
	})
}

// TestReplay: a replay is a new delivery with the sequencer the event always had;
// its letter goes after its success and is renewed by its failure.
func TestReplay(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answer  Response // to the replay
		restart bool     // a crash between the replay's call and its attempt
		letters int
		reason  Reason
	}{
		{"succeeds", answerOK, false, 0, ""},
		{"is refused", Response{Outcome: Forbidden, Status: 403}, false, 1, ReasonForbidden},
		{"succeeds after a crash", answerOK, true, 0, ""},
		{"is refused after a crash", Response{Outcome: Forbidden, Status: 403}, true, 1, ReasonForbidden},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			store := newStore()
			es := testSubscription(0, filter.Filter{})
			var block atomic.Bool
			block.Store(tt.restart)
			answer := func(ctx context.Context, a asked) Response {
				switch {
				case a.Replay == "":
					return answerBad
				case block.Load():
					<-ctx.Done()
					return Response{Outcome: Canceled}
				default:
					return tt.answer
				}
			}
			h := &handler{t: t, answer: answer}
			hold := store.open(-1)
			p := startProcess(t, hold, map[string]Sender{"es0": h}, es)
			began := time.Now()
			publish(t, p.Broker, 0, 1, "a")
			settleAll(t, p)
			first := letters(t, p.Broker)
			if len(first) != 1 {
				t.Fatalf("letters %+v", first)
			}
			time.Sleep(48 * time.Hour) // its time to live is over: a replay has its own
			if err := p.Replay(t.Context(), first[0].ID); err != nil {
				t.Fatal(err)
			}
			if tt.restart {
				if err := p.Replay(t.Context(), first[0].ID); err != nil { // it is on its way already
					t.Fatal(err)
				}
				hold.killMu.Lock()
				hold.dead = true
				hold.killMu.Unlock()
				_ = p.end()
				block.Store(false)
				p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
			}
			settleAll(t, p)
			time.Sleep(time.Second)
			synctest.Wait()
			got := h.got()
			last := got[len(got)-1]
			if last.Replay != first[0].ID || last.Count != 0 || last.Single.OutputID != first[0].Sequencer ||
				first[0].Sequencer != engine.Sequencer(7, engine.At(1, 0)) || string(last.Body) != string(got[0].Body) {
				t.Errorf("replayed as %+v %s", last.Request, last.Body)
			}
			left := letters(t, p.Broker)
			if len(left) != tt.letters {
				t.Errorf("letters %+v", left)
			}
			for _, l := range left {
				if l.DeadLetterReason != tt.reason || l.DeliveryAttempts != 1 || l.ID != first[0].ID || l.Sequencer != first[0].Sequencer ||
					!l.PublishTime.Equal(first[0].PublishTime) || l.PublishTime.Sub(began) > time.Second || l.LastDeliveryAttemptTime.Sub(began) < 48*time.Hour {
					t.Errorf("renewed as %+v", l)
				}
			}
			finish(t, p)
		})
	}
}

// TestReplayKeepsBytes: what is replayed is the event as it was published, to the
// byte.
func TestReplayKeepsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := `{"id":"0","topic":"\"event\":null","subject":"<a>","eventType":"T","eventTime":"2026-01-01T00:00:00Z",` +
			`"data":{ "n" : 1.00, "s":"<&>\u2028 " },"dataVersion":"1","metadataVersion":"1"}`
		h := &handler{answer: always(answerBad)}
		p := one(t, h, testSubscription(0, filter.Filter{}))
		if err := p.Publish(t.Context(), testTopicUID, []event.Event{{Schema: event.EventGridSchema, Raw: []byte(raw)}}); err != nil {
			t.Fatal(err)
		}
		settleAll(t, p)
		l := letters(t, p.Broker)[0]
		if string(l.Event) != raw {
			t.Errorf("the letter holds %s", l.Event)
		}
		if err := p.Replay(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
		settleAll(t, p)
		if got := h.got(); len(got) != 2 || string(got[1].Body) != "["+raw+"]" {
			t.Errorf("replayed %s", got[1].Body)
		}
		finish(t, p)
	})
}

// TestReplayRefused: what cannot be replayed is said, and nothing is sent.
func TestReplayRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: always(answerBad)}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		publish(t, p.Broker, 0, 1, "a")
		settleAll(t, p)
		id := letters(t, p.Broker)[0].ID
		if err := p.Deactivate(t.Context(), es.UID); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, id string
			kind     fault.Kind
		}{
			{"no id", "", fault.NotFound},
			{"not an id", "letter", fault.NotFound},
			{"path", "../../0123456789abcdef-0123456789abcdef", fault.NotFound},
			{"signs", "+123456789abcdef-0123456789abcdef", fault.NotFound},
			{"unknown", "0123456789abcdef-0123456789abcdef", fault.NotFound},
			{"its event subscription was deleted", id, fault.Conflict},
		} {
			f, is := errors.AsType[*fault.Error](p.Replay(t.Context(), tt.id))
			if !is || f.Kind != tt.kind {
				t.Errorf("%s: %v", tt.name, f)
			}
			if _, err := p.DeadLetter(t.Context(), tt.id); (err == nil) != (tt.id == id) {
				t.Errorf("%s: shown: %v", tt.name, err)
			}
		}
		if len(h.got()) != 1 {
			t.Errorf("requests %+v", h.got())
		}
		finish(t, p)
	})
}

// TestDeadLettersOfOne lists by event subscription, in the order of giving up, and
// from a place on.
func TestDeadLettersOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testSubscription(0, filter.Filter{}), testSubscription(1, filter.Filter{SubjectBeginsWith: "b"})
		bad := &handler{t: t, answer: always(answerBad)}
		p := startProcess(t, newStore().open(-1), map[string]Sender{"es0": bad, "es1": bad}, a, b)
		publish(t, p.Broker, 0, 2, "a")
		publish(t, p.Broker, 2, 2, "b")
		settleAll(t, p)
		list := func(uid resource.UID, after uint64) (ids []string) {
			last := after
			for l, err := range p.DeadLetters(t.Context(), uid, after) {
				if err != nil || l.Place <= last {
					t.Fatalf("%+v behind %d, %v", l, last, err)
				}
				last = l.Place
				ids = append(ids, l.ID)
			}
			return ids
		}
		for uid, want := range map[resource.UID]int{a.UID: 4, b.UID: 2, 0: 6, 77: 0} {
			if ids := list(uid, 0); len(ids) != want {
				t.Errorf("%x: letters %v, want %d", uint64(uid), ids, want)
			}
		}
		all := list(0, 0)
		third := letters(t, p.Broker)[2].Place
		if got := list(0, third); fmt.Sprint(got) != fmt.Sprint(all[3:]) {
			t.Errorf("behind the third %v, want %v", got, all[3:])
		}
		finish(t, p)
	})
}

// lateTable answers its first Get only after a while: by then the letter that it found may
// be gone. Its first Delete comes as late.
type lateTable struct {
	LetterTable
	late, lateDelete atomic.Bool
}

func (l *lateTable) Delete(ctx context.Context, key string) error {
	if l.lateDelete.CompareAndSwap(true, false) {
		time.Sleep(time.Minute)
	}
	return l.LetterTable.Delete(ctx, key)
}

func (l *lateTable) Get(ctx context.Context, key string) ([]byte, bool, error) {
	value, found, err := l.LetterTable.Get(ctx, key)
	if l.late.CompareAndSwap(true, false) {
		time.Sleep(time.Minute)
	}
	return value, found, err
}

// lateLetters opens a store whose dead letters are in a lateTable.
func lateLetters(store *store) (*lateTable, *handle) {
	table, h := &lateTable{}, store.open(-1)
	h.tune = func(c *Config) {
		table.LetterTable = c.DeadLetters
		c.DeadLetters = table
	}
	return table, h
}

// TestReplayOfWhatGoes: whoever asks for the replay of a letter that a replay is about to
// take with it gets none, and no event is dropped for want of its letter.
func TestReplayOfWhatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := Response{Outcome: BadRequest, Status: 400}
		h := &handler{t: t, answer: func(context.Context, asked) Response { return answer }}
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		table, first := lateLetters(store)
		p := startProcess(t, first, map[string]Sender{"es0": h}, es)
		publish(t, p.Broker, 0, 1, "a")
		settleAll(t, p)
		answer = answerOK
		all := letters(t, p.Broker)
		if len(all) != 1 {
			t.Fatalf("%d dead letters", len(all))
		}
		table.late.Store(true)
		late := make(chan error)
		go func() { late <- p.Replay(t.Context(), all[0].ID) }()
		synctest.Wait()
		if err := p.Replay(t.Context(), all[0].ID); err != nil {
			t.Error(err)
		}
		if err := <-late; !fault.Is(err, fault.NotFound) {
			t.Errorf("the replay of a letter that is gone: %v", err)
		}
		settleAll(t, p)
		time.Sleep(time.Minute)
		if st, _ := p.Status(es.UID); st.Dropped != 0 || st.Open != 0 || len(letters(t, p.Broker)) != 0 {
			t.Errorf("%d dropped, %d open, %d dead letters", st.Dropped, st.Open, len(letters(t, p.Broker)))
		}
		finish(t, p)
	})
}

// TestRemovalAndReplay: of the removal of a dead letter and its replay the second is
// refused, and what was accepted is done: no event is dropped for want of its letter. A
// replay of the log waits for the removal.
func TestRemovalAndReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := answerBad
		h := &handler{t: t, answer: func(ctx context.Context, _ asked) Response { return after(ctx, time.Second, answer) }}
		es := testSubscription(0, filter.Filter{})
		table, first := lateLetters(newStore())
		p := startProcess(t, first, map[string]Sender{"es0": h}, es)
		began := time.Now()
		publish(t, p.Broker, 0, 2, "a")
		settleAll(t, p)
		answer = answerOK
		all := letters(t, p.Broker)
		if len(all) != 2 {
			t.Fatalf("%d dead letters", len(all))
		}
		removed, replayed := all[0].ID, all[1].ID

		table.lateDelete.Store(true)
		removal := make(chan error)
		go func() { removal <- p.RemoveDeadLetter(t.Context(), removed) }()
		synctest.Wait()
		if err := p.Replay(t.Context(), removed); !fault.Is(err, fault.Conflict) {
			t.Errorf("the replay of a letter that is being removed: %v", err)
		}
		if err := p.RemoveDeadLetter(t.Context(), removed); !fault.Is(err, fault.Conflict) {
			t.Errorf("a second removal: %v", err)
		}
		if err := p.Replay(t.Context(), replayed); err != nil {
			t.Errorf("the replay of another: %v", err)
		}
		if err := p.RemoveDeadLetter(t.Context(), replayed); !fault.Is(err, fault.Conflict) {
			t.Errorf("the removal of a letter that is being replayed: %v", err)
		}
		p.mustReplay(t, LogReplay{UID: es.UID, From: began, To: began.Add(time.Second)})
		time.Sleep(30 * time.Second)
		for _, a := range h.got() {
			if a.Replay == removed {
				t.Error("a replay of the log met a letter that was being removed")
			}
		}
		if err := <-removal; err != nil {
			t.Error(err)
		}
		if err := p.Replay(t.Context(), removed); !fault.Is(err, fault.NotFound) {
			t.Errorf("the replay of a letter that was removed: %v", err)
		}
		settleAll(t, p)
		rest(time.Minute)
		if job := p.job(t, es.UID); job.State != ReplayDone || job.Replayed != 2 {
			t.Errorf("the replay of the log: %+v", job)
		}
		if st, _ := p.Status(es.UID); st.Dropped != 0 || st.Open != 0 || st.Delivered != 3 || len(letters(t, p.Broker)) != 0 {
			t.Errorf("%+v, %d dead letters", st, len(letters(t, p.Broker)))
		}
		finish(t, p)
	})
}
