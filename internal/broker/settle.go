package broker

import (
	"cmp"
	"container/heap"
	"log/slog"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// statusGone is what a destination answers that will not come back. It is tried again
// all the same, for a mistake on the way says so too, and an operator is warned.
// Source: spec/delivery.md section 3.4.
const statusGone = 410

// settle takes the outcome of an attempt: each of its deliveries is closed, given
// a new due time, or handed to be dead-lettered. It counts as settled once the
// journal is flushed; until then a crash repeats the attempt. The caller holds
// s.mu.
func (s *subscription) settle(a *attempt, r Response, now time.Time) {
	for i, f := range s.flying {
		if f == a {
			s.flying = append(s.flying[:i], s.flying[i+1:]...)
			break
		}
	}
	if s.deleted {
		return // its deliveries are discarded already
	}
	cfg := s.cfg.Load()
	if !cfg.pull && s.breaker.done(r.Outcome, now) { // it was a webhook's when the attempt began
		s.b.journal.breakerMoved(s)
		s.b.log.Info("breaker moved", telemetry.EventSubscription, cfg.id, telemetry.Outcome, r.Outcome.String(),
			"open", s.breaker.open(), "rest", s.breaker.rest)
	}
	switch r.Outcome {
	case Canceled: // cut short by this side: it never happened
		for _, d := range a.deliveries {
			s.unsent(d)
		}
		return
	case Delivered:
		s.limit = min(s.limit+1, cmp.Or(cfg.concurrency, resource.DefaultConcurrency))
		s.settled = now
	case BadRequest, PayloadTooLarge: // says nothing of the destination's load
	default:
		s.limit = max(s.limit/2, 1)
	}
	s.b.metrics.processing.Observe(now.Sub(a.started).Seconds())
	blamed := r.Outcome == BadRequest || r.Outcome == PayloadTooLarge
	jitter := s.b.jitter() // one for all: what failed together is due together, and travels together again
	for i, d := range a.deliveries {
		own := a.of(i, r)
		if own.Outcome == Canceled {
			s.unsent(d)
			continue
		}
		s.attempted(d, a.started, now, own)
		if blamed && len(a.deliveries) > 1 && a.parts == nil {
			// One bad event must not take its batch down: each gets an attempt of its own.
			s.failed.Add(1)
			s.b.metrics.attemptFailed(r.Outcome)
			d.alone = true
			s.line(d)
			s.b.journal.dirtied(d)
			continue
		}
		s.apply(d, cfg, own, now, jitter)
	}
	if r.Status == statusGone {
		s.warn(WarnGone, r.Outcome.String(), len(a.deliveries))
	}
	if r.Outcome != Delivered {
		s.logFailure(cfg, a, r, now)
	}
	s.signalRoom() // nobody may take from the queue next: large batches can have all that is open
	s.arm(now)
}

// attempted counts an attempt and puts it into the history. The caller holds s.mu.
func (s *subscription) attempted(d *delivery, started, now time.Time, r Response) {
	d.attempts++
	d.tried = true
	d.last, d.outcome, d.status = now.UnixNano(), r.Outcome, uint16(r.Status)
	s.b.journal.attempted(s, d, started, now, r)
}

// unsent takes back a delivery whose attempt was cut short by this side. The caller
// holds s.mu.
func (s *subscription) unsent(d *delivery) {
	if d.state == inFlight {
		s.line(d)
	}
}

// apply carries out what the policy decides for one delivery. The caller holds
// s.mu.
func (s *subscription) apply(d *delivery, cfg *config, r Response, now time.Time, jitter float64) {
	decision := cfg.policy.Next(int(d.attempts), s.b.clock.published(d.published, now), r, now, jitter)
	if r.Outcome == Aborted {
		d.alone = true // what one event does to its attempts is not for others to bear
		if d.aborts++; d.aborts >= maxAborts {
			decision = Decision{Action: DeadLetter, Reason: ReasonAborted}
		}
	}
	switch decision.Action {
	case Done:
		s.delivered.Add(1)
		s.b.metrics.delivered.Inc()
		if d.replay {
			if d.state == delayed {
				heap.Remove(&s.delayed, int(d.heapIndex))
			}
			s.bury(d, reasonReplayed) // open until its dead letter is gone
			return
		}
		s.close(d)
	case Retry:
		s.failed.Add(1)
		s.b.metrics.attemptFailed(r.Outcome)
		if decision.Due.After(now) {
			s.delay(d, decision.Due, cfg)
		} else {
			s.line(d)
		}
		s.b.journal.dirtied(d)
	case DeadLetter:
		s.failed.Add(1)
		s.b.metrics.attemptFailed(r.Outcome)
		s.bury(d, decision.Reason)
	}
}

// settleLate takes the answer to an attempt that was judged TimedOut before: a
// success takes the event off the retry queue, anything else changes nothing.
// Source: spec/delivery.md section 3.2. The caller holds s.mu.
func (s *subscription) settleLate(a *attempt, r Response) {
	s.held--
	s.b.attempting.Add(-1)
	now := time.Now()
	defer s.pump(now) // it may have kept a place
	if r.Outcome != Delivered || s.deleted {
		return
	}
	if s.breaker.done(Delivered, now) {
		s.b.journal.breakerMoved(s)
	}
	s.settled = now
	for i, d := range a.deliveries {
		if own := a.of(i, r); own.Outcome == Delivered && (d.state == delayed || d.state == ready) {
			s.b.journal.attempted(s, d, a.started, now, own)
			s.apply(d, s.cfg.Load(), own, now, 0) // a success: nothing waits
		}
	}
	s.signalRoom()
}

// bury gives d up for a reason: it stays open until its dead letter is stored, or
// is gone after the success of its replay. The journal learns of it first, so that
// no start attempts it again. The caller holds s.mu.
func (s *subscription) bury(d *delivery, reason Reason) {
	d.state, d.reason = burying, codeOf(reason)
	s.b.journal.dirtied(d)
	s.b.undertaker.take(d, reason)
}

// buried closes d after its dead letter was stored, or removed.
func (s *subscription) buried(d *delivery, reason Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleted || d.state != burying {
		return
	}
	s.close(d)
	s.signalRoom()
	if reason == reasonReplayed {
		return
	}
	s.deadLettered.Add(1)
	s.b.metrics.deadLettered.WithLabelValues(string(reason)).Inc()
	s.warn(WarnDeadLettered, string(reason), 1)
}

// failureLogRate is how many failed attempts of one event subscription are logged
// in a second; the next record counts what was left out.
const failureLogRate = 10

// failureLog limits the records of one event subscription's failures.
type failureLog struct {
	second  int64
	logged  int
	leftOut int
}

// logFailure writes one wide record of a failed attempt. The caller holds s.mu.
func (s *subscription) logFailure(cfg *config, a *attempt, r Response, now time.Time) {
	l := &s.failures
	if second := now.Unix(); second != l.second {
		l.second, l.logged = second, 0
	}
	if l.logged >= failureLogRate {
		l.leftOut++
		return
	}
	l.logged++
	d := a.deliveries[0]
	attrs := []any{
		telemetry.EventSubscription, cfg.id, telemetry.DeliveryID, d.id(), telemetry.Events, len(a.deliveries),
		telemetry.Attempt, int(d.attempts), telemetry.Outcome, r.Outcome.String(), telemetry.Status, r.Status,
		telemetry.Duration, now.Sub(a.started), telemetry.Error, r.Detail,
	}
	if d.state == delayed {
		attrs = append(attrs, telemetry.NextAttempt, time.Unix(0, d.due))
	}
	if l.leftOut > 0 {
		attrs = append(attrs, telemetry.Left, l.leftOut)
		l.leftOut = 0
	}
	s.b.log.Log(s.ctx, slog.LevelInfo, "delivery attempted", attrs...)
}
