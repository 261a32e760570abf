package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// archive is a DeadLetterStore that outlives brokers.
type archive struct {
	mu    sync.Mutex
	fails func(to *resource.DeadLetterDestination) error
	blobs map[string]string // by store and name
	tries []time.Time
	wrote int
}

func newArchive() *archive { return &archive{blobs: map[string]string{}} }

func (a *archive) Write(ctx context.Context, to *resource.DeadLetterDestination, name string, content []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tries = append(a.tries, time.Now())
	if a.fails != nil {
		if err := a.fails(to); err != nil {
			return err
		}
	}
	a.wrote++
	a.blobs[to.Store()+" "+name] = string(content)
	return ctx.Err()
}

func (a *archive) failing(fails func(to *resource.DeadLetterDestination) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fails = fails
}

// ids returns the ids of the events in each blob of a store, by folder.
func (a *archive) ids(t *testing.T, store string) map[string][]string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string][]string{}
	for name, content := range a.blobs {
		rest, here := strings.CutPrefix(name, store+" ")
		if !here {
			continue
		}
		var events []struct{ ID, DeadLetterReason string }
		if err := json.Unmarshal([]byte(content), &events); err != nil || len(events) == 0 {
			t.Fatalf("%s: %v: %s", name, err, content)
		}
		folder := path.Dir(rest)
		for _, e := range events {
			out[folder] = append(out[folder], e.ID)
		}
		slices.Sort(out[folder])
	}
	return out
}

func (a *archive) count() (blobs, tries int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.blobs), len(a.tries)
}

var errStoreDown = errors.New("the store is down")

func down(*resource.DeadLetterDestination) error { return errStoreDown }

func directory(name string) *resource.DeadLetterDestination {
	return &resource.DeadLetterDestination{Type: resource.DeadLetterLocalDirectory, Directory: name}
}

const inA, inB = "LocalDirectory a", "LocalDirectory b"

// withStore is an event subscription with a dead-letter destination.
func withStore(n int, to *resource.DeadLetterDestination) *resource.EventSubscription {
	es := testSubscription(n, filter.Filter{})
	es.DeadLetter = to
	return es
}

// exporting starts a process whose handlers refuse everything.
func exporting(t *testing.T, s *store, a *archive, subs ...*resource.EventSubscription) *process {
	t.Helper()
	senders := map[string]Sender{}
	for _, es := range subs {
		senders[es.Name] = &handler{t: t, answer: always(answerBad)}
	}
	h := s.open(-1)
	h.tune = func(c *Config) { c.DeadLetterStore = a }
	return startProcess(t, h, senders, subs...)
}

// places is how many event subscriptions have a stored place.
func (s *store) placesStored() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.work)
}

func rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func hourOf(at time.Time) string {
	at = at.UTC()
	return fmt.Sprintf("%d/%d/%d/%d", at.Year(), int(at.Month()), at.Day(), at.Hour())
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

// figure is the present value of a counter.
func figure(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// TestDeadLettersAreWritten: letters are gathered for a moment, an hour has blobs of
// its own, and what has no destination, or had none at the time, is not written.
func TestDeadLettersAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive()
		first, plain := withStore(0, directory("a")), testSubscription(1, filter.Filter{})
		p := exporting(t, newStore(), a, first, plain)
		begin := time.Now()
		publish(t, p.Broker, 0, 3, "s")
		rest(time.Second)
		if blobs, _ := a.count(); blobs != 0 {
			t.Errorf("%d blobs at once: letters are gathered first", blobs)
		}
		rest(2 * time.Second)
		same(t, "one blob", a.ids(t, inA), map[string][]string{"ES0/" + hourOf(begin): {"0", "1", "2"}})
		rest(time.Hour)
		publish(t, p.Broker, 3, 1, "s")
		rest(10 * time.Second)
		same(t, "an hour later", a.ids(t, inA), map[string][]string{
			"ES0/" + hourOf(begin): {"0", "1", "2"}, "ES0/" + hourOf(begin.Add(time.Hour)): {"3"}})
		if blobs, tries := a.count(); blobs != 2 || tries != 2 {
			t.Errorf("%d blobs, %d tries", blobs, tries)
		}

		changed := *plain
		changed.DeadLetter = directory("b")
		if err := p.Activate(t.Context(), &changed); err != nil {
			t.Fatal(err)
		}
		publish(t, p.Broker, 4, 1, "s")
		rest(10 * time.Second)
		same(t, "from then on", a.ids(t, inB), map[string][]string{"ES1/" + hourOf(begin.Add(time.Hour)): {"4"}})

		without := *first
		if without.DeadLetter = nil; p.Activate(t.Context(), &without) != nil {
			t.Fatal("cannot change it")
		}
		publish(t, p.Broker, 5, 1, "s")
		rest(10 * time.Second)
		again := *first
		if p.Activate(t.Context(), &again) != nil {
			t.Fatal("cannot change it back")
		}
		publish(t, p.Broker, 6, 1, "s")
		rest(10 * time.Second)
		same(t, "not while there was no destination", a.ids(t, inA)["ES0/"+hourOf(begin.Add(time.Hour))], []string{"3", "4", "6"})
		if got := figure(t, p.metrics.written); got != 9 {
			t.Errorf("%v counted as written", got)
		}
		if l := letters(t, p.Broker); len(l) != 14 {
			t.Errorf("%d letters are kept, want all of them", len(l))
		}
		finish(t, p)
	})
}

// TestStoreOutage: a store that is down for five hours loses nothing, is asked ever
// more seldom, is shown in the status, and harms no other.
// Source: spec/delivery.md sections 7.2 and 11 (15); decisions.md 14.
func TestStoreOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive()
		isA := func(to *resource.DeadLetterDestination) error {
			if to.Directory == "a" {
				return errStoreDown
			}
			return nil
		}
		a.failing(isA)
		store, one, two := newStore(), withStore(0, directory("a")), withStore(1, directory("b"))
		p := exporting(t, store, a, one, two)
		begin := time.Now()
		publish(t, p.Broker, 0, 2, "s")
		rest(30 * time.Second)
		same(t, "the other store", a.ids(t, inB), map[string][]string{"ES1/" + hourOf(begin): {"0", "1"}})
		trouble := p.mustStatus(t, one).DeadLetterStore
		if trouble == nil || trouble.Problem != errStoreDown.Error() || trouble.Store != "directory a" || trouble.FailingSince.Sub(begin) > 5*time.Second || !trouble.NextAttempt.After(time.Now()) {
			t.Errorf("status %+v", trouble)
		}
		if other := p.mustStatus(t, two).DeadLetterStore; other != nil {
			t.Errorf("the other has %+v", other)
		}
		rest(2 * time.Hour)
		finish(t, p)
		p = exporting(t, store, a, one, two) // a restart in the middle
		rest(3 * time.Hour)
		publish(t, p.Broker, 2, 1, "s")
		rest(time.Minute)
		if _, tries := a.count(); tries < 50 || tries > 90 {
			t.Errorf("%d tries in five hours", tries)
		}
		if len(a.ids(t, inA)) != 0 {
			t.Errorf("written %v", a.ids(t, inA))
		}
		a.failing(nil)
		rest(6 * time.Minute)
		later := begin.Add(5 * time.Hour)
		same(t, "everything", a.ids(t, inA), map[string][]string{"ES0/" + hourOf(begin): {"0", "1"}, "ES0/" + hourOf(later): {"2"}})
		if late := figure(t, p.metrics.writtenLate); late != 2 {
			t.Errorf("%v counted as later than Azure would keep them, want 2", late)
		}
		if st := p.mustStatus(t, one); st.DeadLetterStore != nil {
			t.Errorf("still %+v", st.DeadLetterStore)
		}
		finish(t, p)
	})
}

func (p *process) mustStatus(t *testing.T, es *resource.EventSubscription) Status {
	t.Helper()
	st, live := p.Status(es.UID)
	if !live {
		t.Fatalf("%s is not live", es.Name)
	}
	return st
}

// TestStoreTries: the waits between the tries double from 5 s to 5 min, with a tenth
// at random on top.
func TestStoreTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive()
		a.failing(down)
		p := exporting(t, newStore(), a, withStore(0, directory("a")))
		publish(t, p.Broker, 0, 1, "s")
		rest(time.Hour)
		want := storeRest
		for i := 1; i < len(a.tries); i++ {
			if got := a.tries[i].Sub(a.tries[i-1]); got < want || got > want+want/10+time.Millisecond {
				t.Errorf("try %d came after %s, want %s", i+1, got, want)
			}
			want = min(2*want, maxStoreRest)
		}
		if len(a.tries) < 12 {
			t.Errorf("%d tries in an hour", len(a.tries))
		}
		finish(t, p)
	})
}

// TestStoreChanges: what waits follows the destination of its event subscription,
// and outlives it for as long as Azure would try.
func TestStoreChanges(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(t *testing.T, p *process, es *resource.EventSubscription)
		restart bool
		after   time.Duration // until the store takes them
		inA     int
		inB     int
		places  int // that are left
	}{
		{"another store", func(t *testing.T, p *process, es *resource.EventSubscription) {
			changed := *es
			if changed.DeadLetter = directory("b"); p.Activate(t.Context(), &changed) != nil {
				t.Fatal("cannot change it")
			}
			*es = changed
		}, false, time.Minute, 0, 2, 1},
		{"no store", func(t *testing.T, p *process, es *resource.EventSubscription) {
			changed := *es
			if changed.DeadLetter = nil; p.Activate(t.Context(), &changed) != nil {
				t.Fatal("cannot change it")
			}
			*es = changed
		}, false, time.Minute, 0, 0, 0},
		{"deleted, and the store comes back", func(t *testing.T, p *process, es *resource.EventSubscription) {
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Fatal(err)
			}
			es.UID = 0
		}, false, 3 * time.Hour, 2, 0, 0},
		{"deleted, restarted, and the store comes back", func(t *testing.T, p *process, es *resource.EventSubscription) {
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Fatal(err)
			}
			es.UID = 0
		}, true, 3 * time.Hour, 2, 0, 0},
		{"deleted, and the store comes back too late", func(t *testing.T, p *process, es *resource.EventSubscription) {
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Fatal(err)
			}
			es.UID = 0
		}, false, 5 * time.Hour, 0, 0, 0},
		{"restarted", func(*testing.T, *process, *resource.EventSubscription) {}, true, time.Minute, 2, 0, 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			a := newArchive()
			a.failing(func(to *resource.DeadLetterDestination) error {
				if to.Directory == "a" {
					return errStoreDown
				}
				return nil
			})
			s, es := newStore(), withStore(0, directory("a"))
			p := exporting(t, s, a, es)
			publish(t, p.Broker, 0, 2, "s")
			rest(time.Minute)
			tt.change(t, p, es)
			if tt.restart {
				finish(t, p)
				var subs []*resource.EventSubscription
				if es.UID != 0 {
					subs = append(subs, es)
				}
				p = exporting(t, s, a, subs...)
			}
			rest(tt.after)
			a.failing(nil)
			rest(10 * time.Minute)
			for store, want := range map[string]int{inA: tt.inA, inB: tt.inB} {
				n := 0
				for _, ids := range a.ids(t, store) {
					n += len(ids)
				}
				if n != want {
					t.Errorf("%d letters in %s, want %d", n, store, want)
				}
			}
			if n := s.placesStored(); n != tt.places {
				t.Errorf("%d places are stored, want %d", n, tt.places)
			}
			if l := letters(t, p.Broker); len(l) != 2 {
				t.Errorf("%d letters are kept", len(l))
			}
			finish(t, p)
		})
	}
}

// TestBlobAfterCrash: a blob whose place was not stored is written again under the
// name it had.
func TestBlobAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, es := newArchive(), newStore(), withStore(0, directory("a"))
		p := exporting(t, s, a, es)
		a.failing(func(*resource.DeadLetterDestination) error { // the process ends while the store answers
			p.h.killMu.Lock()
			defer p.h.killMu.Unlock()
			p.h.dead = true
			return nil
		})
		publish(t, p.Broker, 0, 2, "s")
		rest(10 * time.Second)
		_ = p.end()
		if blobs, _ := a.count(); blobs != 1 {
			t.Fatalf("%d blobs", blobs)
		}
		a.failing(nil)
		before := a.wrote
		p = exporting(t, s, a, es)
		rest(10 * time.Second)
		if blobs, _ := a.count(); blobs != 1 || a.wrote != before+1 {
			t.Errorf("%d blobs after %d more writes, want the same one once more", blobs, a.wrote-before)
		}
		publish(t, p.Broker, 2, 1, "s")
		rest(10 * time.Second)
		if blobs, _ := a.count(); blobs != 2 || a.wrote != before+2 {
			t.Errorf("%d blobs after %d more writes", blobs, a.wrote-before)
		}
		finish(t, p)
	})
}

// twice yields each letter of a list once more at the end, as a list does that is read
// while a start stores letters again.
type twice struct{ LetterTable }

func (t twice) Since(ctx context.Context, prefix string, after uint64) iter.Seq2[engine.TableEntry, error] {
	return func(yield func(engine.TableEntry, error) bool) {
		var all []engine.TableEntry
		for e, err := range t.LetterTable.Since(ctx, prefix, after) {
			if !yield(e, err) {
				return
			}
			all = append(all, e)
		}
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// TestBlobHoldsALetterOnce: a letter that is stored again while a blob is made stands
// in it once.
func TestBlobHoldsALetterOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, es := newArchive(), withStore(0, directory("a"))
		hold := newStore().open(-1)
		hold.tune = func(c *Config) { c.DeadLetterStore, c.DeadLetters = a, twice{c.DeadLetters} }
		p := startProcess(t, hold, map[string]Sender{es.Name: &handler{t: t, answer: always(answerBad)}}, es)
		publish(t, p.Broker, 0, 3, "s")
		rest(10 * time.Second)
		for folder, ids := range a.ids(t, directory("a").Store()) {
			if slices.Sort(ids); !slices.Equal(ids, []string{"0", "1", "2"}) {
				t.Errorf("%s holds %v", folder, ids)
			}
		}
		finish(t, p)
	})
}

// TestBlobSizes: a blob has at most a thousand letters.
func TestBlobSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive()
		p := exporting(t, newStore(), a, withStore(0, directory("a")))
		publish(t, p.Broker, 0, maxBlobLetters+1, "s")
		settleAll(t, p)
		rest(time.Minute)
		if blobs, _ := a.count(); blobs != 2 {
			t.Errorf("%d blobs", blobs)
		}
		for _, ids := range a.ids(t, inA) {
			if len(ids) != maxBlobLetters+1 {
				t.Errorf("%d letters", len(ids))
			}
		}
		finish(t, p)
	})
}
