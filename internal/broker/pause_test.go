package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// pause and resume change the record as management does.
func pause(t *testing.T, p *process, es *resource.EventSubscription) {
	t.Helper()
	es.Paused = time.Now()
	activateAgain(t, p, es)
}

func resume(t *testing.T, p *process, es *resource.EventSubscription) {
	t.Helper()
	es.Paused = time.Time{}
	activateAgain(t, p, es)
}

func activateAgain(t *testing.T, p *process, es *resource.EventSubscription) {
	t.Helper()
	if err := p.Activate(t.Context(), es); err != nil {
		t.Fatal(err)
	}
}

// A paused event subscription attempts nothing and loses nothing, over a restart as
// well, and what waits for it costs no memory.
func TestPause(t *testing.T) {
	bubble(t, "lags in the log", func(t *testing.T) {
		h := &handler{t: t}
		other := &handler{t: t}
		st := newStore()
		es := testSubscription(1, filter.Filter{})
		senders := map[string]Sender{"es1": h, "es2": other}
		p := startProcess(t, st.open(-1), senders, es, testSubscription(2, filter.Filter{}))
		publish(t, p.Broker, 0, 10, "a")
		settleAll(t, p)
		pause(t, p, es)
		began := time.Now()
		for i := range 200 {
			publish(t, p.Broker, 10+10*i, 10, "a")
		}
		synctest.Wait()
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("publishers waited %v for a paused one", took)
		}
		status, _ := p.Status(es.UID)
		if n := len(h.got()); n != 10 || status.Open != 0 || !status.Paused || !status.Lagging {
			t.Errorf("%d attempts, status %+v", n, status)
		}
		if n := len(other.got()); n != 2010 {
			t.Errorf("the other one got %d", n)
		}
		time.Sleep(48 * time.Hour) // longer than the time-to-live
		finish(t, p)

		p = startProcess(t, st.open(-1), senders, es, testSubscription(2, filter.Filter{}))
		publish(t, p.Broker, 2010, 1, "a")
		time.Sleep(time.Hour)
		if status, _ := p.Status(es.UID); len(h.got()) != 10 || !status.Paused || status.Open != 0 {
			t.Errorf("after a restart: %d attempts, %+v", len(h.got()), status)
		}
		resume(t, p, es)
		time.Sleep(time.Minute)
		times := h.times()
		for i := range 2011 {
			if n := times[fmt.Sprint(i)]; n != 1 {
				t.Fatalf("event %d was sent %d times", i, n)
			}
		}
		if status, _ := p.Status(es.UID); status.Paused || status.Lagging || status.Open != 0 || len(letters(t, p.Broker)) != 0 {
			t.Errorf("after the pause: %+v, %d dead letters", status, len(letters(t, p.Broker)))
		}
		finish(t, p)
	})

	bubble(t, "retries and times to live wait", func(t *testing.T) {
		up := false
		h := &handler{answer: func(context.Context, asked) Response {
			if up {
				return answerOK
			}
			return answerFailed
		}}
		es := testSubscription(1, filter.Filter{})
		es.RetryPolicy.EventTimeToLive = 30
		p := one(t, h, es)
		publish(t, p.Broker, 0, 20, "a") // enough to open the breaker
		time.Sleep(15 * time.Second)
		pause(t, p, es)
		n := len(h.got())
		time.Sleep(2 * time.Hour)
		status, _ := p.Status(es.UID)
		if len(h.got()) != n || status.Open != 20 || len(letters(t, p.Broker)) != 0 {
			t.Errorf("%d attempts while paused, %+v, %d dead letters", len(h.got())-n, status, len(letters(t, p.Broker)))
		}
		up = true
		resume(t, p, es)
		synctest.Wait()
		time.Sleep(time.Second)
		if status, _ := p.Status(es.UID); status.Open != 0 || status.Delivered != 20 || status.BreakerOpen {
			t.Errorf("after the pause: %+v", status)
		}
		finish(t, p)
	})

	bubble(t, "a time to live that is over is over after one more attempt", func(t *testing.T) {
		h := &handler{answer: always(answerFailed)}
		es := testSubscription(1, filter.Filter{})
		es.RetryPolicy.EventTimeToLive = 30
		p := one(t, h, es)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Second)
		pause(t, p, es)
		time.Sleep(2 * time.Hour)
		n := len(h.got())
		resume(t, p, es)
		time.Sleep(time.Minute)
		all := letters(t, p.Broker)
		if len(h.got()) != n+1 || len(all) != 1 || all[0].DeadLetterReason != ReasonTimeToLive {
			t.Errorf("%d attempts after the pause, dead letters %+v", len(h.got())-n, all)
		}
		finish(t, p)
	})

	bubble(t, "explain tells of it", func(t *testing.T) {
		es := testSubscription(1, filter.Filter{})
		p := one(t, &handler{answer: always(answerFailed)}, es)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Second)
		pause(t, p, es)
		publish(t, p.Broker, 1, 1, "a")
		time.Sleep(time.Second)
		for id, want := range map[string]StoryState{"0": StoryWaitingForRetry, "1": StoryNotHandedOut} {
			if x := explained(t, p, es, id); x.Delivery.State != want || !strings.Contains(x.Delivery.Text, "is paused") {
				t.Errorf("event %s: %s, %s", id, x.Delivery.State, x.Delivery.Text)
			}
		}
		finish(t, p)
	})

	bubble(t, "an attempt in flight ends as it does", func(t *testing.T) {
		h := &handler{answer: func(ctx context.Context, _ asked) Response { return after(ctx, 20*time.Second, answerOK) }}
		es := testSubscription(1, filter.Filter{})
		p := one(t, h, es)
		publish(t, p.Broker, 0, 2, "a")
		time.Sleep(time.Second)
		pause(t, p, es)
		time.Sleep(time.Minute)
		if status, _ := p.Status(es.UID); status.Delivered != 1 || status.Open != 1 || status.InFlight != 0 {
			t.Errorf("%+v", status)
		}
		resume(t, p, es)
		time.Sleep(time.Minute)
		if status, _ := p.Status(es.UID); status.Delivered != 2 {
			t.Errorf("%+v", status)
		}
		finish(t, p)
	})
}

// Pausing and resuming at any moment loses and repeats nothing.
func TestPauseUnderLoad(t *testing.T) {
	changeUnderLoad(t, 9, testSubscription(0, filter.Filter{}), func(t *testing.T, rng *rand.Rand, p *process, es *resource.EventSubscription) {
		switch rng.IntN(8) {
		case 0:
			pause(t, p, es)
		case 1:
			resume(t, p, es)
		case 2:
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
	})
}

// changeUnderLoad calls change between 300 requests, with small bounds and several
// seeds, and wants each event delivered once.
func changeUnderLoad(t *testing.T, salt uint64, es *resource.EventSubscription, change func(*testing.T, *rand.Rand, *process, *resource.EventSubscription)) {
	t.Helper()
	for seed := range uint64(5) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			smallBounds(t, 32, 64)
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, salt))
				h := newExactlyOnce()
				close(h.free)
				es := *es
				p := startProcess(t, newStore().open(-1), map[string]Sender{"es0": h}, &es)
				n := 0
				for range 300 {
					size := 1 + rng.IntN(30)
					publish(t, p.Broker, n, size, "a")
					n += size
					change(t, rng, p, &es)
				}
				resume(t, p, &es)
				settleAll(t, p)
				h.check(t, n)
				finish(t, p)
			})
		})
	}
}
