package broker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// mostInAnyMinute returns the most of what happened at rising times that lies within
// one minute, its end left out.
func mostInAnyMinute(times []time.Time) (most int) {
	for first, last := 0, 0; last < len(times); last++ {
		for times[last].Sub(times[first]) >= time.Minute {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

func random(rng *rand.Rand, below time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(below)))
}

// TestLimiter lets senders do what a limiter admits: never more than its limit in any
// minute, and nearly as much in the long run.
func TestLimiter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, perMinute := range []int{1, 2, 7, 59, 60, 120, 599, 600, 601, 1000, 1200, 4799, 60_000} {
		for _, sender := range []struct {
			name string
			idle func(sent int) time.Duration // before the next request, after it may start
			all  bool                         // it uses what it is given
		}{
			{"in time", func(int) time.Duration { return 0 }, true},
			{"a little late", func(int) time.Duration {
				return random(rng, min(80*time.Millisecond, time.Minute/time.Duration(perMinute)))
			}, false},
			{"in bursts", func(sent int) time.Duration {
				if sent%(perMinute/2+1) == 0 {
					return random(rng, 3*time.Minute)
				}
				return 0
			}, false},
		} {
			t.Run(fmt.Sprintf("%d/%s", perMinute, sender.name), func(t *testing.T) {
				l, now := newLimiter(perMinute), at(0)
				var sent []time.Time
				for range min(5*perMinute, perMinute+20_000) {
					now = laterOf(now, l.from()).Add(sender.idle(len(sent)))
					if !l.admits(now) {
						t.Fatalf("request %d: not admitted from %s on", len(sent), now.Sub(at(0)))
					}
					if before := l.from().Add(-1); l.admits(before) {
						t.Fatalf("request %d: admitted at %s already", len(sent), before.Sub(at(0)))
					}
					l.take(now)
					sent = append(sent, now)
				}
				if most := mostInAnyMinute(sent); most > perMinute || sender.all && perMinute > 1 && most != perMinute {
					t.Errorf("%d within a minute", most)
				}
				took := sent[len(sent)-1].Sub(sent[0])
				if least := time.Duration(len(sent)) * time.Minute / time.Duration(perMinute); sender.all && took > least+least/500 {
					t.Errorf("%d requests took %s, should be some %s", len(sent), took, least)
				}
			})
		}
	}
}

// What a limiter says is left can be taken at once, and no more.
func TestLimiterLeft(t *testing.T) {
	for _, tt := range []struct {
		perMinute, taken int
		after            time.Duration
		want             int
	}{
		{1, 0, 0, 1}, {1, 1, 0, 0}, {1, 1, time.Minute - 1, 0}, {1, 1, time.Minute, 1}, {1, 1, time.Hour, 1},
		{120, 1, 499 * time.Millisecond, 0}, {120, 1, 500 * time.Millisecond, 1}, {120, 0, time.Hour, 1},
		{1200, 0, 0, 3}, {1200, 2, 0, 1}, {1200, 3, 0, 0}, {1200, 3, 51 * time.Millisecond, 1}, {1200, 3, time.Hour, 3},
		{600_000, 0, 0, 1001}, {600_000, 1001, 0, 0}, {resource.MaxRequestsPerMinute, 10_001, 0, 0}, {resource.MaxRequestsPerMinute, 10_001, 11 * time.Microsecond, 1},
	} {
		t.Run(fmt.Sprintf("%d/%d/%s", tt.perMinute, tt.taken, tt.after), func(t *testing.T) {
			l := newLimiter(tt.perMinute)
			for range tt.taken {
				l.take(at(0))
			}
			now := at(tt.after)
			if got := l.left(now); got != tt.want {
				t.Fatalf("left %d, want %d", got, tt.want)
			}
			for range tt.want {
				l.take(now)
			}
			if l.admits(now) {
				t.Error("one more is admitted")
			}
		})
	}
	var none limiter
	none.take(at(0))
	if !none.admits(at(0)) || none.left(at(0)) < 1<<30 {
		t.Error("no limit limits")
	}
}

// A changed limit counts from the next request, which comes at most one interval
// later; what was sent before is not forgotten.
func TestLimiterChanges(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to int
		taken    int           // before the change
		after    time.Duration // from the last request to the change
		next     time.Duration // from the change to the next request; -1 = at once
	}{
		{"none before: the bucket is empty", 0, 60, 0, 0, time.Second},
		{"taken away", 60, 0, 1, 0, -1},
		{"the same", 60, 60, 1, 400 * time.Millisecond, 600 * time.Millisecond},
		{"faster", 1, 60, 1, 0, time.Second},
		{"faster, half of the wait is over", 1, 60, 1, 30 * time.Second, 500 * time.Millisecond},
		{"slower", 60, 1, 1, 0, time.Minute},
		{"slower, after a rest", 60, 1, 1, time.Minute, -1},
		{"slower, with a small bucket", 600_000, 1, 1001, 0, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLimiter(tt.from)
			for range tt.taken {
				l.take(at(0))
			}
			now := at(tt.after)
			l.change(tt.to, now)
			next := time.Duration(-1)
			if !l.admits(now) {
				next = l.from().Sub(now)
			}
			if next != tt.next {
				t.Errorf("the next request may start after %s, want %s", next, tt.next)
			}
		})
	}
}

// limitedTo is an event subscription with limits of its own.
func limitedTo(n, perMinute, concurrency int) *resource.EventSubscription {
	es := testSubscription(n, filter.Filter{})
	es.Limits = resource.DeliveryLimits{MaxRequestsPerMinute: perMinute, MaxConcurrency: concurrency}
	return es
}

// allowing is an event subscription whose endpoint allowed a rate.
func allowing(n, rate int) *resource.EventSubscription {
	es := testSubscription(n, filter.Filter{})
	es.Destination = resource.Destination{Type: resource.DestinationWebHook, WebHook: &resource.WebHook{AllowedRate: rate}}
	return es
}

func timesOf(got []asked) []time.Time {
	times := make([]time.Time, len(got))
	for i, a := range got {
		times[i] = a.at
	}
	return times
}

// An endpoint that allowed 120 requests a minute gets so many in each minute, while
// 5,000 events wait, and in the end all of them; nobody else is harmed.
func TestAllowedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, other := &handler{t: t}, &handler{t: t}
		p := startProcess(t, newStore().open(-1), map[string]Sender{"es0": slow, "es1": other}, allowing(0, 120), testSubscription(1, filter.Filter{}))
		began := time.Now()
		for i := range 50 {
			publish(t, p.Broker, 100*i, 100, "a")
		}
		synctest.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("publishers waited %s", took)
		}
		if n := len(other.got()); n != 5000 {
			t.Errorf("the other one got %d", n)
		}
		for minute := range 10 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(slow.got()); n != 120*(minute+1)+1 { // that of the next minute has just begun
				t.Errorf("%d requests after %d minutes", n, minute+1)
			}
		}
		st, _ := p.Status(resource.UID(0x500))
		if st.RequestsPerMinute != 120 || !st.WaitsForLimit || !st.Lagging || st.Open > maxReady || st.LimitWaits < 1199 || st.LimitWaitSeconds < 599 || st.LimitWaitSeconds > 600 {
			t.Errorf("status %+v", st)
		}
		settleAll(t, p)
		if most := mostInAnyMinute(timesOf(slow.got())); most != 120 {
			t.Errorf("%d requests in a minute", most)
		}
		if got := slow.times(); len(got) != 5000 || len(slow.got()) != 5000 {
			t.Errorf("%d events in %d requests", len(got), len(slow.got()))
		}
		if took := slow.got()[4999].at.Sub(began); took != 4999*time.Second/2 {
			t.Errorf("the last one arrived after %s", took)
		}
		if st, _ := p.Status(resource.UID(0x500)); st.WaitsForLimit {
			t.Errorf("at the end: %+v", st)
		}
		finish(t, p)
	})
}

// What a limit means for what is sent: it counts requests, of which batches hold many
// events, and the lesser one counts.
func TestLimits(t *testing.T) {
	batches := allowing(0, 60)
	batches.Destination.WebHook.MaxEventsPerBatch, batches.Destination.WebHook.PreferredBatchSizeInKilobytes = 100, 1024
	both := allowing(0, 600)
	both.Limits.MaxRequestsPerMinute = 60
	lesser := allowing(0, 60)
	lesser.Limits.MaxRequestsPerMinute = 600
	failing := limitedTo(0, 60, 0)
	failing.RetryPolicy.MaxDeliveryAttempts = 2
	for _, tt := range []struct {
		name        string
		es          *resource.EventSubscription
		answer      func(context.Context, asked) Response
		requests    int // until a minute is over
		everything  int // requests in the end
		takes, upTo time.Duration
	}{
		{"of its own", limitedTo(0, 60, 0), nil, 60, 150, 149 * time.Second, 149 * time.Second},
		{"both, its own is less", both, nil, 60, 150, 149 * time.Second, 149 * time.Second},
		{"both, the endpoint's is less", lesser, nil, 60, 150, 149 * time.Second, 149 * time.Second},
		{"more than a handler needs", limitedTo(0, 600_000, 0), nil, 150, 150, 0, 0},
		{"batches count once", batches, nil, 3, 3, 2 * time.Second, 2 * time.Second},
		{"attempts count, also those that fail", failing, func(_ context.Context, a asked) Response {
			if n, _ := strconv.Atoi(a.ids[0]); n%2 == 0 && a.Count == 0 {
				return answerFailed
			}
			return answerOK
		}, 60, 225, 224 * time.Second, 240 * time.Second},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{answer: tt.answer}
			p := one(t, h, tt.es)
			began := time.Now()
			publish(t, p.Broker, 0, 1, "a")
			synctest.Wait()
			publish(t, p.Broker, 1, 149, "a") // all are there when the next may be sent
			time.Sleep(time.Minute - 1)
			synctest.Wait()
			if n := len(h.got()); n != tt.requests {
				t.Errorf("%d requests in the first minute, want %d", n, tt.requests)
			}
			settleAll(t, p)
			got := h.got()
			if len(got) != tt.everything || len(h.times()) != 150 {
				t.Fatalf("%d requests with %d events", len(got), len(h.times()))
			}
			if took := got[len(got)-1].at.Sub(began); took < tt.takes || took > tt.upTo {
				t.Errorf("the last request came after %s", took)
			}
			finish(t, p)
		})
	}
}

// A limit is changed live, and not forgotten by a restart.
func TestLimitChanges(t *testing.T) {
	bubble(t, "live", func(t *testing.T) {
		h := &handler{}
		es := limitedTo(0, 60, 0)
		p := one(t, h, es)
		publish(t, p.Broker, 0, 2000, "a")
		for _, step := range []struct {
			perMinute, requests int // and how many of them come in the minute after the change
		}{{60, 60}, {120, 120}, {1, 1}, {6, 6}, {0, 2000}} {
			before := len(h.got())
			es.Limits.MaxRequestsPerMinute = step.perMinute
			activateAgain(t, p, es)
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(h.got()) - before; n < step.requests && before+n != 2000 || step.perMinute != 0 && n > step.requests+1 {
				t.Errorf("%d requests in a minute at %d", n, step.perMinute)
			}
		}
		if st, _ := p.Status(es.UID); st.Open != 0 || st.RequestsPerMinute != 0 || st.WaitsForLimit {
			t.Errorf("without a limit: %+v", st)
		}
		finish(t, p)
	})
	for _, perMinute := range []int{1, 60, 1200} {
		bubble(t, fmt.Sprintf("over restarts at %d", perMinute), func(t *testing.T) {
			disk, h := newStore(), &handler{t: t}
			es := limitedTo(0, perMinute, 0)
			rng := rand.New(rand.NewPCG(uint64(perMinute), 3))
			for i := range 30 {
				p := startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
				publish(t, p.Broker, 200*i, 200, "a")
				time.Sleep(random(rng, 10*time.Second))
				finish(t, p)
			}
			if most := mostInAnyMinute(timesOf(h.got())); most > perMinute || perMinute > 1 && most < perMinute/4 {
				t.Errorf("%d requests in a minute", most)
			}
		})
	}
}

// TestLimitAndRest: a limit and the rest of a failing destination hold together,
// whichever ends first, and so do a limit and Retry-After.
func TestLimitAndRest(t *testing.T) {
	for _, tt := range []struct {
		name      string
		perMinute int
		answer    Response
		failures  int
		wants     []time.Duration // of the requests, from the first
	}{
		{"the rest is longer", 60, Response{Outcome: NotFound, Status: 404}, 1, []time.Duration{0, 300 * time.Second, 301 * time.Second, 302 * time.Second}},
		{"the limit is longer", 1, Response{Outcome: NotFound, Status: 404}, 1, []time.Duration{0, 300 * time.Second, 360 * time.Second, 420 * time.Second}},
		{"Retry-After", 1, Response{Outcome: Busy, Status: 429, RetryAfter: 90 * time.Second}, 1, []time.Duration{0, 60 * time.Second, 120 * time.Second, 180 * time.Second}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{}
			h.answer = func(context.Context, asked) Response {
				if len(h.got()) <= tt.failures {
					return tt.answer
				}
				return answerOK
			}
			p := one(t, h, limitedTo(0, tt.perMinute, 0))
			began := time.Now()
			publish(t, p.Broker, 0, 3, "a")
			settleAll(t, p)
			var got []time.Duration
			for _, a := range h.got() {
				got = append(got, a.at.Sub(began).Truncate(time.Second))
			}
			last := len(tt.wants) - 1 // is a retry, whose wait is partly random
			if len(got) != len(tt.wants) || !slices.Equal(got[:last], tt.wants[:last]) || got[last] < tt.wants[last] || got[last] > tt.wants[last]+15*time.Second {
				t.Errorf("requests at %v, want %v", got, tt.wants)
			}
			finish(t, p)
		})
	}
	// Retry-After past the next request that the limit would admit.
	bubble(t, "one event, Retry-After", func(t *testing.T) {
		h := &handler{}
		h.answer = func(context.Context, asked) Response {
			if len(h.got()) == 1 {
				return Response{Outcome: Busy, Status: 429, RetryAfter: 5 * time.Minute}
			}
			return answerOK
		}
		p := one(t, h, limitedTo(0, 60, 0))
		publish(t, p.Broker, 0, 1, "a")
		settleAll(t, p)
		if got := h.got(); len(got) != 2 || got[1].at.Sub(got[0].at) < 5*time.Minute {
			t.Errorf("%d requests", len(got))
		}
		finish(t, p)
	})
	// A probe waits for the limit as everybody does: 60 a minute, every probe fails.
	bubble(t, "probes", func(t *testing.T) {
		h := &handler{answer: always(answerFailed)}
		p := one(t, h, limitedTo(0, 1, 0))
		publish(t, p.Broker, 0, 100, "a")
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		if most := mostInAnyMinute(timesOf(h.got())); most != 1 || len(h.got()) < 20 {
			t.Errorf("%d requests, %d in a minute", len(h.got()), most)
		}
		finish(t, p)
	})
}

// TestLimitedTimeToLive: times to live go on while events wait for the limit. What
// was over before, by a stop or a pause, gets its attempt all the same.
func TestLimitedTimeToLive(t *testing.T) {
	reasons := func(t *testing.T, p *process) map[string]int {
		got := map[string]int{}
		for _, l := range letters(t, p.Broker) {
			got[fmt.Sprintf("%s %s %d", l.DeadLetterReason, l.LastDeliveryOutcome, l.DeliveryAttempts)]++
		}
		return got
	}
	bubble(t, "goes on", func(t *testing.T) {
		h := &handler{}
		es := limitedTo(0, 1, 0)
		es.RetryPolicy.EventTimeToLive = 10
		p := one(t, h, es)
		publish(t, p.Broker, 0, 30, "a")
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if got, want := reasons(t, p), map[string]int{"TimeToLiveExceeded Probation 0": 20}; !maps.Equal(got, want) {
			t.Errorf("dead letters %v, want %v", got, want)
		}
		if st, _ := p.Status(es.UID); st.Delivered != 10 || st.Open != 0 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
	t.Run("and bounds what lags", func(t *testing.T) {
		smallBounds(t, 32, 64)
		synctest.Test(t, func(t *testing.T) {
			h := &handler{}
			es := limitedTo(0, 6, 0)
			es.RetryPolicy.EventTimeToLive = 10
			p := one(t, h, es)
			for i := range 120 { // an hour, at twice the limit
				publish(t, p.Broker, 6*i, 6, "a")
				time.Sleep(30 * time.Second)
				if st, _ := p.Status(es.UID); st.Open > 64 {
					t.Fatalf("%+v", st)
				}
			}
			settleAll(t, p)
			st, _ := p.Status(es.UID)
			if st.Delivered+st.DeadLettered != 720 || st.Delivered < 350 || st.DeadLettered < 250 {
				t.Errorf("%+v", st)
			}
			if took := h.got()[len(h.got())-1].at.Sub(h.got()[0].at); took > 71*time.Minute {
				t.Errorf("the last attempt came after %s", took)
			}
			finish(t, p)
		})
	})
	bubble(t, "over before the start", func(t *testing.T) {
		disk, h := newStore(), &handler{t: t}
		es := limitedTo(0, 1, 0)
		es.RetryPolicy.EventTimeToLive = 10
		p := startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
		publish(t, p.Broker, 0, 5, "a")
		time.Sleep(time.Second)
		finish(t, p)
		time.Sleep(time.Hour)
		p = startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
		settleAll(t, p)
		if st, _ := p.Status(es.UID); st.Delivered != 4 || len(letters(t, p.Broker)) != 0 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
	bubble(t, "over before the end of a pause", func(t *testing.T) {
		h := &handler{}
		es := limitedTo(0, 1, 0)
		es.RetryPolicy.EventTimeToLive = 10
		p := one(t, h, es)
		publish(t, p.Broker, 0, 5, "a")
		time.Sleep(time.Second)
		pause(t, p, es)
		st, _ := p.Status(es.UID)
		time.Sleep(time.Hour)
		if now, _ := p.Status(es.UID); now.WaitsForLimit || now.LimitWaitSeconds != st.LimitWaitSeconds {
			t.Errorf("a pause counts as a wait for the limit: %+v", now)
		}
		resume(t, p, es)
		settleAll(t, p)
		if st, _ := p.Status(es.UID); st.Delivered != 5 || len(letters(t, p.Broker)) != 0 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
}

// TestConcurrency: an event subscription has no more requests under way than its
// record allows, those that are answered late included.
func TestConcurrency(t *testing.T) {
	for _, tt := range []struct {
		name        string
		concurrency int
		takes       time.Duration
		most        int
		want        time.Duration // until everything is delivered
	}{
		{"one at a time", 1, time.Second, 1, 500 * time.Second},
		{"four", 4, time.Second, 4, 127 * time.Second},
		{"more than usual", 128, time.Second, 128, 10 * time.Second},
		{"not set", 0, time.Second, 64, 14 * time.Second},
		{"one at a time, each late", 1, 70 * time.Second, 1, 500 * 70 * time.Second},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			flying, most := 0, 0
			h := &handler{}
			h.answer = func(ctx context.Context, a asked) Response {
				h.mu.Lock()
				flying++
				most = max(most, flying)
				h.mu.Unlock()
				r := after(ctx, min(tt.takes, a.Hold), answerOK)
				h.mu.Lock()
				flying--
				h.mu.Unlock()
				return r
			}
			es := limitedTo(0, 0, tt.concurrency)
			p := one(t, h, es)
			publish(t, p.Broker, 0, 500, "a")
			time.Sleep(tt.want + 10*promptWhile) // those beyond the turns of the crew begin with the next ones
			synctest.Wait()
			if st, _ := p.Status(es.UID); st.Delivered != 500 || len(h.got()) != 500 {
				t.Errorf("after %s: %+v, %d requests", tt.want, st, len(h.got()))
			}
			if most != tt.most {
				t.Errorf("%d at once, want %d", most, tt.most)
			}
			finish(t, p)
		})
	}
	bubble(t, "one at a time, and no answer at all", func(t *testing.T) {
		h := &handler{answer: func(ctx context.Context, a asked) Response { return after(ctx, a.Hold, Response{Outcome: TimedOut}) }}
		p := one(t, h, limitedTo(0, 0, 1))
		publish(t, p.Broker, 0, 5, "a")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		got := h.got()
		for i := 1; i < len(got); i++ {
			if apart := got[i].at.Sub(got[i-1].at); apart < holdTime {
				t.Errorf("request %d came %s after the one before", i, apart)
			}
		}
		if len(got) < 10 {
			t.Errorf("%d requests", len(got))
		}
		finish(t, p)
	})
	bubble(t, "changed live", func(t *testing.T) {
		h := &handler{answer: func(ctx context.Context, _ asked) Response { return after(ctx, time.Second, answerOK) }}
		es := limitedTo(0, 0, 8)
		p := one(t, h, es)
		publish(t, p.Broker, 0, 1000, "a")
		for _, n := range []int{8, 2, 16, 1} {
			es.Limits.MaxConcurrency = n
			activateAgain(t, p, es)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if st, _ := p.Status(es.UID); st.InFlight != n {
				t.Errorf("%d in flight, want %d", st.InFlight, n)
			}
		}
		finish(t, p)
	})
	bubble(t, "halves with each failure", func(t *testing.T) {
		var failing atomic.Bool
		h := &handler{answer: func(ctx context.Context, _ asked) Response {
			if failing.Load() {
				return after(ctx, time.Second, answerFailed)
			}
			return after(ctx, time.Second, answerOK)
		}}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		publish(t, p.Broker, 0, 4000, "a")
		time.Sleep(10*time.Second + time.Millisecond)
		before := len(h.got())
		failing.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		failing.Store(false)
		if st, _ := p.Status(es.UID); before < 64 || !st.BreakerOpen || st.InFlight != 0 {
			t.Errorf("%d requests, then %+v", before, st)
		}
		time.Sleep(10*time.Second + 500*time.Millisecond)
		synctest.Wait()
		if st, _ := p.Status(es.UID); st.InFlight != 1 {
			t.Errorf("the probe: %+v", st)
		}
		finish(t, p)
	})
}

// A handler that fails now and then gets less at a time than one that never does.
func TestFailuresLessenConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most, flying, n := 0, 0, 0
		h := &handler{}
		h.answer = func(ctx context.Context, _ asked) Response {
			h.mu.Lock()
			flying++
			if n++; n > 500 {
				most = max(most, flying)
			}
			fails := n > 300 && n%4 == 0
			h.mu.Unlock()
			r := after(ctx, time.Second, answerOK)
			h.mu.Lock()
			flying--
			h.mu.Unlock()
			if fails && r.Outcome == Delivered {
				return answerFailed
			}
			return r
		}
		p := one(t, h, testSubscription(0, filter.Filter{}))
		publish(t, p.Broker, 0, 1000, "a")
		settleAll(t, p)
		if most == 0 || most > 32 {
			t.Errorf("%d at a time while every fourth request fails", most)
		}
		finish(t, p)
	})
}

// Limits that change at any moment lose and repeat nothing.
func TestLimitsUnderLoad(t *testing.T) {
	changeUnderLoad(t, 11, limitedTo(0, 6000, 0), func(t *testing.T, rng *rand.Rand, p *process, es *resource.EventSubscription) {
		switch rng.IntN(6) {
		case 0:
			es.Limits.MaxRequestsPerMinute = []int{0, 60, 600, 60_000}[rng.IntN(4)]
			es.Limits.MaxConcurrency = rng.IntN(4)
			activateAgain(t, p, es)
		case 1:
			time.Sleep(random(rng, 500*time.Millisecond))
		}
	})
}

// TestLimitMetrics counts waits by what limits, and for each event subscription.
func TestLimitMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		hold := newStore().open(-1)
		hold.tune = func(c *Config) { c.Registerer, c.MetricsEventSubscriptions = registry, 10 }
		senders := map[string]Sender{"es0": &handler{t: t}, "es1": &handler{t: t}, "es2": &handler{t: t}}
		p := startProcess(t, hold, senders, limitedTo(0, 60, 0), allowing(1, 30), testSubscription(2, filter.Filter{}))
		publish(t, p.Broker, 0, 11, "a")
		settleAll(t, p)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				if m.Counter != nil && len(m.Label) == 1 {
					got[f.GetName()+" "+m.Label[0].GetValue()] = m.Counter.GetValue()
				}
			}
		}
		id := func(n int) string { return testSubscription(n, filter.Filter{}).ID().String() }
		for name, want := range map[string]float64{
			"carillon_delivery_limit_waits_total maxRequestsPerMinute":        10,
			"carillon_delivery_limit_wait_seconds_total maxRequestsPerMinute": 10,
			"carillon_delivery_limit_waits_total allowedRate":                 10,
			"carillon_delivery_limit_wait_seconds_total allowedRate":          20,
			"carillon_event_subscription_limit_wait_seconds_total " + id(0):   10,
			"carillon_event_subscription_limit_wait_seconds_total " + id(1):   20,
			"carillon_event_subscription_limit_wait_seconds_total " + id(2):   0,
			"carillon_event_subscription_delivered_events_total " + id(2):     11,
		} {
			if value, there := got[name]; !there || value != want {
				t.Errorf("%s is %v, want %v", name, value, want)
			}
		}
		finish(t, p)
	})
}
