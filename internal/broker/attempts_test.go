package broker

import (
	"context"
	"iter"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// journaled reads the attempts of an event subscription forwards.
type journaled struct {
	unheard
	uid resource.UID
	all []PastAttempt
}

func (j *journaled) attempt(e attemptEntry) {
	if e.uid == uint64(j.uid) {
		j.all = append(j.all, PastAttempt{e.pos.String(), e.told()})
	}
}

func (p *process) journaled(t *testing.T, uid resource.UID) []PastAttempt {
	t.Helper()
	if err := p.journal.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	j := &journaled{uid: uid}
	for m, err := range p.cfg.Journal.Read(t.Context(), 1) {
		if err == nil {
			_, err = readEntries(m.Payload, j)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return j.all
}

// TestAttempts reads the attempts of one of two event subscriptions backwards, in
// pages and with every bound met, and compares them with the journal read forwards.
func TestAttempts(t *testing.T) {
	bytes, chunk := maxAttemptBytes, attemptChunkBytes
	t.Cleanup(func() { maxAttemptBytes, attemptChunkBytes = bytes, chunk })
	maxAttemptBytes, attemptChunkBytes = 20_000, 2_000
	synctest.Test(t, func(t *testing.T) {
		es, other := testSubscription(0, filter.Filter{SubjectBeginsWith: "a"}), testSubscription(1, filter.Filter{})
		failing := &handler{t: t, answer: func(_ context.Context, a asked) Response {
			if n, _ := strconv.Atoi(a.ids[0]); n%5 == 0 && a.Count == 0 {
				return Response{Outcome: Busy, Status: 503, Detail: "503"}
			}
			return answerOK
		}}
		hold := newStore().open(-1)
		hold.made = func(b *Broker) { b.journal.maxMessage = 800 } // a flush may take several
		p := startProcess(t, hold, map[string]Sender{"es0": failing, "es1": &handler{t: t}}, es, other)
		began := time.Now()
		for i := range 300 {
			publish(t, p.Broker, 10*i, 1+i%7, []string{"a", "b"}[i%2])
			time.Sleep(time.Duration(i%3) * 20 * time.Millisecond) // so that some messages tell of many
		}
		settleAll(t, p)
		settled := time.Now()
		for i := range 200 { // messages without any attempt of es
			publish(t, p.Broker, 10_000+i, 1, "b")
			time.Sleep(30 * time.Millisecond)
		}
		forwards := p.journaled(t, es.UID)
		if len(forwards) < 600 {
			t.Fatalf("%d attempts", len(forwards))
		}
		for _, tt := range []struct {
			name  string
			query AttemptQuery
			want  func(a PastAttempt) bool
		}{
			{"all", AttemptQuery{Most: 7}, func(PastAttempt) bool { return true }},
			{"one by one", AttemptQuery{Most: 1}, func(PastAttempt) bool { return true }},
			{"in one page", AttemptQuery{Most: 10_000}, func(PastAttempt) bool { return true }},
			{"of an outcome", AttemptQuery{Most: 5, Outcome: Busy}, func(a PastAttempt) bool { return a.Outcome == "Busy" }},
			{"of an outcome that none had", AttemptQuery{Most: 5, Outcome: TimedOut}, func(PastAttempt) bool { return false }},
			{"since", AttemptQuery{Most: 20, Since: began.Add(3 * time.Second)}, func(a PastAttempt) bool { return !a.Start.Before(began.Add(3 * time.Second)) }},
			{"since the end", AttemptQuery{Most: 20, Since: settled.Add(time.Second)}, func(PastAttempt) bool { return false }},
		} {
			var want []PastAttempt
			for _, a := range slices.Backward(forwards) {
				if tt.want(a) {
					want = append(want, a)
				}
			}
			var got []PastAttempt
			for q, pages := tt.query, 0; ; pages++ {
				page, more, err := p.Attempts(t.Context(), es.UID, q)
				if err != nil || len(page) > q.Most || pages > 10_000 {
					t.Fatalf("%s: %d attempts, page %d, %v", tt.name, len(page), pages, err)
				}
				got = append(got, page...)
				if more == (AttemptPlace{}) {
					break
				}
				q.Before = more
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %d attempts, want %d", tt.name, len(got), len(want))
			}
		}
		if a := forwards[0]; a.Outcome != "Busy" || a.Status != 503 || a.Detail != "503" || a.Number != 1 || a.Position != engine.At(1, 0).String() {
			t.Errorf("the first attempt is %+v", a)
		}
		finish(t, p)
	})
}

// brokenJournal cannot read one message.
type brokenJournal struct {
	Journal
	broken uint64
}

func (j *brokenJournal) Read(ctx context.Context, from uint64) iter.Seq2[engine.JournalEntry, error] {
	return func(yield func(engine.JournalEntry, error) bool) {
		for m, err := range j.Journal.Read(ctx, from) {
			if m.Seq == j.broken {
				m.Payload, err = nil, engine.ErrCorrupt
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// TestAttemptsPastABrokenMessage: every attempt but those in it is told once, also
// where the broken message is the last of those that are read together.
func TestAttemptsPastABrokenMessage(t *testing.T) {
	chunk := attemptChunkBytes
	t.Cleanup(func() { attemptChunkBytes = chunk })
	attemptChunkBytes = 1 // one message at a time
	synctest.Test(t, func(t *testing.T) {
		es := testSubscription(0, filter.Filter{})
		hold := newStore().open(-1)
		journal := &brokenJournal{}
		hold.tune = func(c *Config) { journal.Journal = c.Journal; c.Journal = journal }
		p := startProcess(t, hold, map[string]Sender{"es0": &handler{t: t}}, es)
		for i := range 100 {
			publish(t, p.Broker, i, 1, "a")
			time.Sleep(30 * time.Millisecond)
		}
		_, journal.broken = journal.Bounds()
		journal.broken -= 90
		got, more, err := p.Attempts(t.Context(), es.UID, AttemptQuery{Most: 1000})
		if err != nil || more != (AttemptPlace{}) {
			t.Fatalf("%+v, %v", more, err)
		}
		seen := map[string]int{}
		for _, a := range got {
			seen[a.Position]++
		}
		if len(got) != len(seen) || len(got) != 99 {
			t.Errorf("%d attempts of %d events, want 99", len(got), len(seen))
		}
		finish(t, p)
	})
}
