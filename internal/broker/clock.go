package broker

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	clockJump = time.Minute      // a larger step of the wall clock is a jump
	clockRest = 10 * time.Minute // how long nothing expires after one
)

// clock keeps the decisions of time apart from a wall clock that jumps: set by
// hand, corrected from far off, or a machine that slept. Due times are steady: they
// count from the start of the process and no jump moves them. What expires (times
// to live, event subscriptions, history) goes by the wall clock, as looked at every
// second, and rests for a while after a jump, so that destinations get their
// attempts before anything is given up and an operator can set the clock right.
type clock struct {
	wall func() time.Time
	base time.Time // the start, with a monotonic reading

	offset    atomic.Int64 // wall clock minus steady time, nanoseconds, as last seen
	restUntil atomic.Int64 // steady time up to which nothing expires
	resting   bool         // as last seen; the watcher's goroutine only
}

func newClock(wall func() time.Time) *clock {
	c := &clock{wall: wall, base: time.Now()}
	if c.wall == nil {
		c.wall = time.Now
	}
	c.offset.Store(c.wall().UnixNano() - c.steady(time.Now()))
	return c
}

// steady is t in nanoseconds of steady time: Unix time as if the wall clock had not
// moved since the start but by the passing of time.
func (c *clock) steady(t time.Time) int64 { return c.base.UnixNano() + int64(t.Sub(c.base)) }

// at is the way back from steady time.
func (c *clock) at(steady int64) time.Time {
	return c.base.Add(time.Duration(steady - c.base.UnixNano()))
}

// rests reports whether the wall clock jumped lately, so that nothing expires.
func (c *clock) rests(now time.Time) bool { return c.steady(now) < c.restUntil.Load() }

// now is the wall clock's time as of now, as last looked at.
func (c *clock) now(now time.Time) time.Time {
	return time.Unix(0, c.steady(now)+c.offset.Load()).UTC()
}

// expiry is the steady time at which what was published at a wall time has lived
// for ttl, never before the end of a rest.
func (c *clock) expiry(published int64, ttl time.Duration) int64 {
	return max(published+int64(ttl)-c.offset.Load(), c.restUntil.Load())
}

// published is the time before now at which an event counts as published: by its
// age, which during a rest is none.
func (c *clock) published(published int64, now time.Time) time.Time {
	age := time.Duration(c.now(now).UnixNano() - published)
	if c.rests(now) { // asked last: a rest begins before its offset is seen
		return now
	}
	return now.Add(-age)
}

// look compares the clocks. It returns the jump of the wall clock since the last
// look, 0 for none, and whether a rest is over since then.
func (c *clock) look() (jump time.Duration, over bool) {
	now := time.Now()
	steady := c.steady(now)
	offset := c.wall().UnixNano() - steady
	jump = time.Duration(offset - c.offset.Load())
	if jump.Abs() > clockJump {
		c.restUntil.Store(steady + int64(clockRest))
	} else {
		jump = 0
	}
	c.offset.Store(offset) // after the rest has begun: nobody sees the one without the other
	was := c.resting
	c.resting = c.rests(now)
	return jump, was && !c.resting
}

// watchClock looks at the clocks every second until ctx ends.
func (b *Broker) watchClock(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		jump, over := b.clock.look()
		if jump != 0 {
			b.metrics.clockJumps.Inc()
			b.log.Error("the wall clock jumped: nothing expires for a while", "by", jump, "until", b.clock.at(b.clock.restUntil.Load()).UTC())
		}
		if over {
			b.log.Info("expiry goes on after the jump of the wall clock", "time_now", b.clock.now(time.Now()))
			b.expireAnew()
		}
	}
}

// expireAnew gives every delivery that waits the time of its expiry by the present
// clock.
func (b *Broker) expireAnew() {
	now := time.Now()
	for _, s := range b.all() {
		s.mu.Lock()
		s.capDelays(now)
		s.arm(now)
		s.mu.Unlock()
	}
}

// ClockRests reports whether nothing expires at present, because the wall clock
// jumped.
func (b *Broker) ClockRests() bool { return b.clock.rests(time.Now()) }
