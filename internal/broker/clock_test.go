package broker

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/filter"
)

// skewed makes brokers whose wall clock differs from the passing of time by skew.
func skewed(h *handle, skew *atomic.Int64) *handle {
	h.tune = func(c *Config) {
		c.Wall = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	}
	return h
}

// TestClockJumps moves the wall clock five minutes after an event with an hour to
// live was published to a handler that always fails.
func TestClockJumps(t *testing.T) {
	for _, tt := range []struct {
		name  string
		jump  time.Duration
		jumps float64
		ends  time.Duration // after publishing
	}{
		{"none", 0, 0, time.Hour},
		{"a small step", 50 * time.Second, 0, time.Hour - 50*time.Second},
		{"forward, within the time to live", 30 * time.Minute, 1, 30 * time.Minute},
		{"forward, past the time to live", 5 * time.Hour, 1, 15 * time.Minute}, // ten minutes are given
		{"backward", -5 * time.Hour, 1, 6 * time.Hour},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			var skew atomic.Int64
			h := &handler{t: t, answer: always(answerFailed)}
			es := testSubscription(0, filter.Filter{})
			es.RetryPolicy.EventTimeToLive = 60
			registry := prometheus.NewRegistry()
			hold := skewed(newStore().open(-1), &skew)
			tune := hold.tune
			hold.tune = func(c *Config) { tune(c); c.Registerer = registry }
			p := startProcess(t, hold, map[string]Sender{"es0": h}, es)
			began := time.Now()
			publish(t, p.Broker, 0, 1, "a")
			time.Sleep(5 * time.Minute)
			skew.Store(int64(tt.jump))
			time.Sleep(2 * time.Second)
			if rests := p.ClockRests(); rests != (tt.jumps > 0) {
				t.Errorf("rests: %v", rests)
			}
			var ends time.Duration
			for ends = time.Since(began); len(letters(t, p.Broker)) == 0 && ends < 8*time.Hour; ends = time.Since(began) {
				time.Sleep(time.Second)
			}
			if late := ends - tt.ends; late < 0 || late > 5*time.Second {
				t.Errorf("dead-lettered after %s, want %s", ends, tt.ends)
			}
			if l := letters(t, p.Broker); len(l) == 1 && l[0].DeadLetterReason != ReasonTimeToLive {
				t.Errorf("reason %s", l[0].DeadLetterReason)
			}
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == "carillon_clock_jumps_total" && f.Metric[0].Counter.GetValue() != tt.jumps {
					t.Errorf("%v jumps counted, want %v", f.Metric[0].Counter.GetValue(), tt.jumps)
				}
			}
			// The schedule is not the clock's: no wait is shorter or longer for a jump.
			asked := h.got()
			for i := 1; i < len(asked); i++ {
				least := retryDelays[i-1]
				if wait := asked[i].at.Sub(asked[i-1].at); wait < least || wait > least+least/10 {
					t.Errorf("attempt %d after %s, want %s", i+1, wait, least)
				}
			}
			if len(asked) < 4 {
				t.Errorf("%d attempts", len(asked))
			}
			finish(t, p)
		})
	}
}

// TestClockJumpKeepsHistory wants no history to go for its age while the clock rests.
func TestClockJumpKeepsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skew atomic.Int64
		hold := skewed(newStore().open(-1), &skew)
		p := startProcess(t, hold, map[string]Sender{"es0": &handler{t: t}}, testSubscription(0, filter.Filter{}))
		for i := range 5 {
			publish(t, p.Broker, i, 1, "a")
		}
		skew.Store(int64(30 * 24 * time.Hour))
		time.Sleep(9 * time.Minute)
		if first, _ := p.cfg.Log.Bounds(); first != 1 {
			t.Errorf("history begins at frame %d while the clock rests", first)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if first, last := p.cfg.Log.Bounds(); first != last {
			t.Errorf("history begins at frame %d after the rest", first)
		}
		finish(t, p)
	})
}

// TestExpiredAtStart starts a process with an event whose time to live ends before
// its next attempt, or has ended already.
func TestExpiredAtStart(t *testing.T) {
	for _, tt := range []struct {
		name     string
		stopped  time.Duration // how long no process ran
		resting  bool          // the breaker is open
		attempts int           // of the second process
		ends     time.Duration // at the latest after its start
	}{
		{"still alive at the start", time.Minute, false, 1, 19 * time.Minute},
		{"over at the start", time.Hour, false, 1, retrySpread},
		{"over at the start, and the destination rests", time.Hour, true, 0, retrySpread},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			disk := newStore()
			h := &handler{t: t, answer: always(answerFailed)}
			es := testSubscription(0, filter.Filter{})
			es.RetryPolicy.EventTimeToLive = 40 // the seventh attempt would come after 46 minutes
			p := startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
			publish(t, p.Broker, 0, 1, "a")
			time.Sleep(20 * time.Minute)
			finish(t, p)
			before := len(h.got())
			time.Sleep(tt.stopped)

			p = startProcess(t, disk.open(-1), map[string]Sender{"es0": h}, es)
			if tt.resting {
				s := p.lookup(uint64(es.UID))
				s.mu.Lock()
				s.breaker = breaker{failures: 10, rest: time.Hour, until: time.Now().Add(time.Hour)}
				s.mu.Unlock()
			}
			time.Sleep(tt.ends + 2*time.Second)
			synctest.Wait()
			if got := len(h.got()) - before; got != tt.attempts {
				t.Errorf("%d attempts after the start, want %d", got, tt.attempts)
			}
			if l := letters(t, p.Broker); len(l) != 1 || l[0].DeadLetterReason != ReasonTimeToLive {
				t.Errorf("dead letters %+v", l)
			}
			finish(t, p)
		})
	}
}
