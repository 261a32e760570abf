package broker

import (
	"math"
	"time"
)

// limiter keeps the requests of one event subscription to so many in any minute. It
// is a bucket that fills evenly and holds what comes in a tenth of a second, at least
// one request: that much may be late and still be sent. What goes out in a minute is
// what is in the bucket and what comes into it, and together that is the limit, so it
// fills a little slower than the limit says. It touches no clock. The zero limiter
// lets everything through.
type limiter struct {
	perMinute int           // 0 = no limit
	interval  time.Duration // in which one request comes into the bucket
	slack     time.Duration // in which all but one that it holds do
	full      time.Time     // when the bucket is full again; past = it is
}

// newLimiter returns a limiter whose bucket is full: nothing was ever sent.
func newLimiter(perMinute int) limiter {
	if perMinute == 0 {
		return limiter{}
	}
	spare := perMinute / 600 // what the bucket holds beside one
	rate := time.Duration(perMinute - spare)
	interval := (time.Minute + rate - 1) / rate // rounded up: never one more
	return limiter{perMinute: perMinute, interval: interval, slack: time.Duration(spare) * interval}
}

// on reports whether there is a limit.
func (l *limiter) on() bool { return l.perMinute != 0 }

// drain empties the bucket: nobody knows what was sent before.
func (l *limiter) drain(now time.Time) { l.full = now.Add(l.slack + l.interval) }

// change sets another limit. What was sent before counts, and the next request is
// due at most one interval later.
func (l *limiter) change(perMinute int, now time.Time) {
	if perMinute == l.perMinute {
		return
	}
	was := *l
	*l = newLimiter(perMinute)
	l.drain(now)
	if was.on() && l.on() {
		missing := float64(max(was.full.Sub(now), 0)) / float64(was.interval) // requests
		l.full = now.Add(min(l.slack+l.interval, time.Duration(missing*float64(l.interval))))
	}
}

// from is the time from which on the next request may start.
func (l *limiter) from() time.Time { return l.full.Add(-l.slack) }

// admits reports whether a request may start now.
func (l *limiter) admits(now time.Time) bool { return !l.on() || !now.Before(l.from()) }

// left is how many requests may start now.
func (l *limiter) left(now time.Time) int {
	switch {
	case !l.on():
		return math.MaxInt
	case !l.admits(now):
		return 0
	}
	return 1 + int((l.slack-max(l.full.Sub(now), 0))/l.interval)
}

// take notes that a request starts.
func (l *limiter) take(now time.Time) {
	if l.on() {
		l.full = laterOf(l.full, now).Add(l.interval)
	}
}

// maxOversleep bounds how long a limited event subscription sleeps past the time of
// its next request, so that it wakes for several at once.
const maxOversleep = 5 * time.Millisecond

// wake is when to look again, once nothing is admitted: the next request may start,
// and, where the bucket holds more than one, as many as come in a few milliseconds.
func (l *limiter) wake() time.Time { return l.from().Add(min(l.slack/2, maxOversleep)) }

// limitKind names a limit, as a label of metrics.
type limitKind uint8

const (
	limitOwn     limitKind = iota // of the event subscription's record
	limitAllowed                  // that the endpoint allowed in its handshake
)

var limitNames = [...]string{limitOwn: "maxRequestsPerMinute", limitAllowed: "allowedRate"}

// limitWait is a wait for the limit by an event subscription that has something to
// send.
type limitWait struct {
	since time.Time // zero = it does not wait
	limit limitKind
}

// limited notes that nothing but the limit keeps s from sending. The caller holds
// s.mu.
func (s *subscription) limited(now time.Time) {
	if !s.wait.since.IsZero() || s.queue.len() == 0 {
		return
	}
	s.wait = limitWait{now, s.cfg.Load().limit}
	s.limitWaits.Add(1)
	s.b.metrics.limitWaits[s.wait.limit].Inc()
}

// unlimited notes that s does not wait for the limit any more. The caller holds s.mu.
func (s *subscription) unlimited(now time.Time) {
	if s.wait.since.IsZero() {
		return
	}
	waited := now.Sub(s.wait.since)
	s.limitWaited.Add(int64(waited))
	s.b.metrics.limitWaited[s.wait.limit].Add(waited.Seconds())
	s.wait = limitWait{}
}

// setLimit makes the limit of the present record that of the next request. The caller
// holds s.mu.
func (s *subscription) setLimit(now time.Time) {
	if !s.limiter.on() {
		s.limitedSince = now
	}
	s.unlimited(now)
	s.limiter.change(s.cfg.Load().perMinute, now)
}
