package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// smallBounds makes event subscriptions lag soon, for one test.
func smallBounds(t *testing.T, ready, open int) {
	t.Helper()
	r, o := maxReady, maxOpen
	maxReady, maxOpen = ready, open
	t.Cleanup(func() { maxReady, maxOpen = r, o })
}

// withFilter is es with its next filter.
func withFilter(es *resource.EventSubscription, f filter.Filter) *resource.EventSubscription {
	next := *es
	next.Filter = f
	next.FilterGeneration++
	return &next
}

func activate(t *testing.T, b *Broker, es *resource.EventSubscription) {
	t.Helper()
	if err := b.Activate(t.Context(), es); err != nil {
		t.Fatal(err)
	}
}

// TestGenerations: an event meets the filter that was in force when it was
// acknowledged, whenever it is matched.
func TestGenerations(t *testing.T) {
	onlyA, onlyB := filter.Filter{SubjectBeginsWith: "a"}, filter.Filter{SubjectBeginsWith: "b"}
	for _, tt := range []struct {
		name  string
		lags  bool // the handler blocks until all is published
		crash bool // before anything of it is journaled as delivered
	}{
		{"live", false, false}, {"lagging", true, false}, {"after a crash", false, true}, {"lagging and after a crash", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.lags {
				smallBounds(t, 8, 16)
			}
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				free := make(chan struct{})
				h := &handler{t: t, answer: func(ctx context.Context, _ asked) Response {
					select {
					case <-free:
						return answerOK
					case <-ctx.Done():
						return Response{Outcome: Canceled}
					}
				}}
				if !tt.lags && !tt.crash {
					close(free)
				}
				es := testSubscription(0, onlyA)
				hold := store.open(-1)
				p := startProcess(t, hold, map[string]Sender{"es0": h}, es)
				for i := range 60 { // 0-59: a is wanted
					publish(t, p.Broker, i, 1, []string{"a", "b"}[i%2])
				}
				es = withFilter(es, onlyB)
				activate(t, p.Broker, es)
				for i := 60; i < 120; i++ { // 60-119: b
					publish(t, p.Broker, i, 1, []string{"a", "b"}[i%2])
				}
				es = withFilter(es, filter.Filter{})
				activate(t, p.Broker, es)
				for i := 120; i < 140; i++ { // everything
					publish(t, p.Broker, i, 1, []string{"a", "b"}[i%2])
				}
				synctest.Wait()
				if st, _ := p.Status(es.UID); st.Lagging != tt.lags {
					t.Errorf("lagging: %+v", st)
				}
				if tt.crash {
					hold.killMu.Lock()
					hold.dead = true
					hold.killMu.Unlock()
					_ = p.end()
					h = &handler{t: t}
					p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
				} else if tt.lags {
					close(free)
				}
				settleAll(t, p)
				got := h.times()
				for i := range 140 {
					want := 0
					if i < 60 && i%2 == 0 || i >= 60 && i < 120 && i%2 == 1 || i >= 120 {
						want = 1
					}
					if got[strconv.Itoa(i)] != want {
						t.Errorf("event %d was sent %d times, want %d", i, got[strconv.Itoa(i)], want)
					}
				}
				if tt.lags && !tt.crash { // old filters go when nothing needs them any more
					publish(t, p.Broker, 200, 1, "a")
					time.Sleep(time.Second)
					synctest.Wait()
					if n := len(p.lookup(uint64(es.UID)).filters()); n != 1 {
						t.Errorf("%d filters are kept", n)
					}
				}
				finish(t, p)
			})
		})
	}
}

// TestFilterAfterUnansweredChange: a filter that was stored and never activated
// before a crash does not come back over one that followed it.
func TestFilterAfterUnansweredChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{SubjectBeginsWith: "a"})
		hold := store.open(-1)
		p := startProcess(t, hold, map[string]Sender{"es0": &handler{t: t}}, es)
		hold.killMu.Lock()
		hold.dead = true // the journal says nothing of what follows
		hold.killMu.Unlock()
		_ = p.end()
		free := store.open(-1)
		free.onCommit = func(*engine.Frame) {}
		if _, err := (fakeLog{free}).Append(t.Context(), []engine.Record{{Kind: engine.KindEvent, Schema: uint8(event.EventGridSchema), Topic: uint64(testTopicUID), Data: testEvent("0", "a").Raw}}); err != nil { // a backlog: the watermark is below the end
			t.Fatal(err)
		}
		es = withFilter(es, filter.Filter{SubjectBeginsWith: "b"})
		h := &handler{t: t}
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		synctest.Wait()
		es = withFilter(es, filter.Filter{SubjectBeginsWith: "c"})
		activate(t, p.Broker, es)
		publish(t, p.Broker, 1, 1, "b")
		publish(t, p.Broker, 2, 1, "c")
		settleAll(t, p)
		if got := fmt.Sprint(h.times()); got != "map[0:1 2:1]" {
			t.Errorf("sent %s", got)
		}
		finish(t, p)
	})
}

// TestCreatedAgain: an event subscription inherits nothing from one that had its
// name, also when the old one's deliveries are open.
func TestCreatedAgain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		bubble(t, fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			store := newStore()
			stuck := &handler{t: t, answer: func(ctx context.Context, a asked) Response { return after(ctx, a.Hold, Response{Outcome: TimedOut}) }}
			senders := map[string]Sender{"es0": stuck}
			es := testSubscription(0, filter.Filter{})
			p := startProcess(t, store.open(-1), senders, es)
			publish(t, p.Broker, 0, 50, "a")
			synctest.Wait()
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Fatal(err)
			}
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Errorf("once more: %v", err)
			}
			publish(t, p.Broker, 50, 5, "a")
			h := &handler{t: t}
			senders["es0"] = h
			again := testSubscription(0, filter.Filter{})
			again.UID = 0x9999
			if restart {
				finish(t, p)
				p = startProcess(t, store.open(-1), senders, again)
			} else {
				activate(t, p.Broker, again)
			}
			publish(t, p.Broker, 55, 1, "a")
			settleAll(t, p)
			if got := fmt.Sprint(h.times()); got != "map[55:1]" {
				t.Errorf("the new one got %s", got)
			}
			if st, there := p.Status(es.UID); there || p.Broker.open.Load() != 0 {
				t.Errorf("the old one: %+v, %d open", st, p.Broker.open.Load())
			}
			if !restart && stuck.closed != 1 {
				t.Errorf("its sender was closed %d times", stuck.closed)
			}
			finish(t, p)
		})
	}
}

// TestExpiration: an event matches iff it was logged before the expiration.
func TestExpiration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{}
		es := testSubscription(0, filter.Filter{})
		es.Expiration = time.Now().Add(time.Minute)
		p := one(t, h, es)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Minute - time.Nanosecond)
		publish(t, p.Broker, 1, 1, "a")
		time.Sleep(time.Nanosecond)
		publish(t, p.Broker, 2, 1, "a")
		settleAll(t, p)
		if got := fmt.Sprint(h.times()); got != "map[0:1 1:1]" {
			t.Errorf("sent %s", got)
		}
		finish(t, p)
	})
}

// TestTooManyFilters: filters that still wait for events of the backlog are
// bounded; the refused change changes nothing.
func TestTooManyFilters(t *testing.T) {
	smallBounds(t, 4, 8)
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		h := &handler{answer: func(ctx context.Context, _ asked) Response {
			select {
			case <-free:
				return answerOK
			case <-ctx.Done():
				return Response{Outcome: Canceled}
			}
		}}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		next := 0
		for range 20 {
			publish(t, p.Broker, next, 1, "a")
			next++
		}
		var err error
		changes := 0
		for changes < 2*maxGenerations {
			changed := withFilter(es, filter.Filter{SubjectEndsWith: "a"})
			if err = p.Activate(t.Context(), changed); err != nil {
				break
			}
			es = changed
			changes++
			publish(t, p.Broker, next, 1, "a")
			next++
		}
		f, is := errors.AsType[*fault.Error](err)
		if !is || f.Kind != fault.Conflict || changes != maxGenerations-1 {
			t.Fatalf("after %d changes: %v", changes, err)
		}
		close(free)
		settleAll(t, p)
		if got := h.times(); len(got) != next {
			t.Errorf("%d events arrived, want %d", len(got), next)
		}
		publish(t, p.Broker, next, 1, "a")
		time.Sleep(time.Second)
		activate(t, p.Broker, withFilter(es, filter.Filter{SubjectEndsWith: "b"}))
		finish(t, p)
	})
}
