package broker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
)

// TestNoStaleLetter kills the process at every arrow of a refusal and the replay of
// its letter. At the end there is a letter of an event that nobody took, and none
// of one that somebody did.
func TestNoStaleLetter(t *testing.T) {
	for left := 1; ; left++ {
		ended := false
		bubble(t, fmt.Sprintf("arrow %d", left), func(t *testing.T) {
			store := newStore()
			es := testSubscription(0, filter.Filter{})
			replaying := false
			first := &handler{t: t, answer: func(_ context.Context, a asked) Response {
				if a.Replay == "" {
					return answerBad
				}
				return answerOK
			}}
			h := store.open(left)
			p := startProcess(t, h, map[string]Sender{"es0": first}, es)
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{testEvent("0", "a")}); err == nil {
				rest(time.Minute)
				for l := range p.DeadLetters(t.Context(), 0, 0) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					replaying = p.Replay(ctx, l.ID) == nil
					cancel()
				}
				rest(time.Minute)
			}
			ended = !h.isDead()
			_ = p.end()

			again := &handler{t: t, answer: always(answerOK)}
			p = startProcess(t, store.open(-1), map[string]Sender{"es0": again}, es)
			settleAll(t, p)
			rest(time.Second)
			takenNow, takenBefore := len(again.got()) > 0, false
			for _, a := range first.got() {
				takenBefore = takenBefore || a.Replay != ""
			}
			left, stored := letters(t, p.Broker), len(store.frames) > 0
			switch {
			case len(left) > 0 && (takenNow || takenBefore && replaying): // without an answer to the replay it may be unknown to the journal
				t.Errorf("a stale letter: %+v", left[0])
			case len(left) == 0 && stored && !takenNow && !takenBefore:
				t.Error("lost")
			}
			finish(t, p)
			p = startProcess(t, store.open(-1), map[string]Sender{"es0": again}, es)
			before := len(again.got())
			settleAll(t, p)
			if len(again.got()) != before {
				t.Errorf("sent again after it was settled")
			}
			finish(t, p)
		})
		if ended || t.Failed() {
			if left < 15 {
				t.Errorf("only %d arrows", left)
			}
			return
		}
	}
}

// TestOneLetterThatCannotBeStored keeps no other waiting, and is stored when it can
// be.
func TestOneLetterThatCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es := testSubscription(0, filter.Filter{})
		h := newStore().open(-1)
		h.failKey = letterKey((&delivery{sub: &subscription{uid: uint64(es.UID)}, pos: engine.At(1, 1)}).id())
		p := startProcess(t, h, map[string]Sender{"es0": &handler{t: t, answer: always(answerBad)}}, es)
		publish(t, p.Broker, 0, 5, "a")
		rest(time.Second)
		if l := letters(t, p.Broker); len(l) != 4 {
			t.Errorf("%d letters, want the other four", len(l))
		}
		if st := p.mustStatus(t, es); st.Open != 1 || st.DeadLettered != 4 {
			t.Errorf("status %+v", st)
		}
		rest(time.Hour)
		h.mu.Lock()
		h.failKey = ""
		h.mu.Unlock()
		rest(maxBurialWait)
		if l := letters(t, p.Broker); len(l) != 5 {
			t.Errorf("%d letters", len(l))
		}
		finish(t, p)
	})
}

// TestDeadLetterQuota: the oldest go, whoever's they are, and are counted.
func TestDeadLetterQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, es := newArchive(), newStore(), withStore(0, directory("a"))
		a.failing(down)
		h := s.open(-1)
		h.tune = func(c *Config) { c.DeadLetterStore, c.DeadLetterQuota = a, 20_000 }
		p := startProcess(t, h, map[string]Sender{"es0": &handler{t: t, answer: always(answerBad)}}, es)
		publish(t, p.Broker, 0, 100, "a")
		rest(time.Second)
		publish(t, p.Broker, 100, 1, "a")
		rest(2 * quotaCheck)
		publish(t, p.Broker, 101, 1, "a")
		rest(2 * quotaCheck)
		left := letters(t, p.Broker)
		if size := (fakeTable{handle: h}).Bytes(); size > 20_000 || size < 17_000 {
			t.Errorf("%d bytes are left", size)
		}
		if n := int(figure(t, p.metrics.evicted)); n == 0 || n+len(left) != 102 {
			t.Errorf("%d letters left and %d counted", len(left), n)
		}
		if last := left[len(left)-1]; last.Place != 102 || last.Place-left[0].Place != uint64(len(left)-1) {
			t.Errorf("left are %d to %d", left[0].Place, last.Place)
		}
		a.failing(nil)
		rest(10 * time.Minute)
		n := 0
		for _, ids := range a.ids(t, inA) {
			n += len(ids)
		}
		if n != len(left) {
			t.Errorf("%d letters written, want the %d that are left", n, len(left))
		}
		finish(t, p)
	})
}
