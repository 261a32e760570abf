package broker

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestStartSpreadsRetries: what came due while no process ran is no storm at the
// start: it is spread over 30 s, and concurrency begins at 1.
func TestStartSpreadsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 300
		disk := newStore()
		first := &handler{t: t, answer: func(ctx context.Context, _ asked) Response { // no ten failures in a row
			return after(ctx, time.Millisecond, Response{Outcome: Aborted})
		}}
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, disk.open(-1), map[string]Sender{"es0": first}, es)
		publish(t, p.Broker, 0, events, "a")
		time.Sleep(2 * time.Second)
		finish(t, p)
		if n := len(first.got()); n != events {
			t.Fatalf("%d attempts before the stop", n)
		}
		time.Sleep(time.Hour)

		second := &handler{t: t, answer: func(ctx context.Context, _ asked) Response { return after(ctx, 10*time.Millisecond, answerOK) }}
		p = startProcess(t, disk.open(-1), map[string]Sender{"es0": second}, es)
		began := time.Now()
		settleAll(t, p)
		got := second.got()
		perSecond := make([]int, 31)
		for _, a := range got {
			perSecond[int(a.at.Sub(began)/time.Second)]++
		}
		if len(got) != events || slices.Max(perSecond) > 2*events/10 || got[len(got)-1].at.Sub(began) < 20*time.Second {
			t.Errorf("%d attempts, by second %v", len(got), perSecond)
		}
		finish(t, p)
	})
	bubble(t, "what was never attempted begins with one at a time", func(t *testing.T) {
		disk, es := newStore(), testSubscription(0, filter.Filter{})
		p := startProcess(t, disk.open(-1), map[string]Sender{"es0": &handler{t: t}}, es)
		pause(t, p, es)
		publish(t, p.Broker, 0, 300, "a")
		synctest.Wait()
		finish(t, p)
		es.Paused = time.Time{}
		h := &handler{t: t, answer: func(ctx context.Context, _ asked) Response { return after(ctx, time.Second, answerOK) }}
		p = startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
		for _, want := range []int{1, 3, 7, 15, 31, 63, 127} { // it grows with each success
			synctest.Wait()
			if n := len(h.got()); n != want {
				t.Errorf("%d attempts so far, want %d", n, want)
			}
			time.Sleep(time.Second)
		}
		finish(t, p)
	})
}

// TestRestSurvivesRestart: a destination that rests goes on resting in the next
// process, and is then probed by one request.
func TestRestSurvivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, es := newStore(), testSubscription(0, filter.Filter{})
		h := &handler{t: t, answer: always(Response{Outcome: NotFound, Status: 404})}
		p := startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
		publish(t, p.Broker, 0, 50, "a")
		time.Sleep(time.Minute)
		before, _ := p.Status(es.UID)
		finish(t, p)

		h = &handler{t: t, answer: func(ctx context.Context, _ asked) Response {
			return after(ctx, time.Minute, Response{Outcome: NotFound, Status: 404})
		}}
		p = startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
		if st, _ := p.Status(es.UID); !st.BreakerOpen || st.BreakerUntil.Sub(before.BreakerUntil).Abs() > time.Millisecond {
			t.Errorf("rests until %s, before the restart until %s", st.BreakerUntil, before.BreakerUntil)
		}
		time.Sleep(time.Until(before.BreakerUntil) - time.Second)
		if n := len(h.got()); n != 0 {
			t.Errorf("%d requests while it rests", n)
		}
		time.Sleep(30 * time.Second) // the probe is under way
		if n := len(h.got()); n != 1 {
			t.Errorf("%d probes", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if st, _ := p.Status(es.UID); len(h.got()) != 1 || time.Until(st.BreakerUntil) < 9*time.Minute {
			t.Errorf("%d requests, rests until %s", len(h.got()), st.BreakerUntil)
		}
		finish(t, p)
	})
}

// TestPanicsInBatches: an event that makes its attempts panic takes no other with it.
func TestPanicsInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: func(_ context.Context, a asked) Response {
			if slices.Contains(a.ids, "3") {
				panic("poison")
			}
			return answerOK
		}}
		es := testSubscription(0, filter.Filter{})
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: 10, PreferredBatchSizeInKilobytes: 64}}
		p := one(t, h, es)
		publish(t, p.Broker, 0, 8, "a")
		settleAll(t, p)
		if st, _ := p.Status(es.UID); st.Delivered != 7 || st.DeadLettered != 1 {
			t.Errorf("%+v", st)
		}
		if l := letters(t, p.Broker); len(l) != 1 || l[0].DeadLetterReason != ReasonAborted || l[0].DeliveryAttempts != 3 {
			t.Errorf("dead letters %+v", l)
		}
		finish(t, p)
	})
}
