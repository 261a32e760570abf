package broker

import (
	"log/slog"
	"time"

	"github.com/carillon-events/carillon/internal/telemetry"
)

// WarningKind says what an operator should look at.
type WarningKind string

// The kinds.
const (
	WarnDeadLettered WarningKind = "deadLettered" // events were given up; they are kept and can be replayed
	WarnDropped      WarningKind = "dropped"      // events are gone for good
	WarnGone         WarningKind = "endpointGone" // the destination says that it is: 410
)

// Warning is the last one about an event subscription. It is for whoever shows how
// things stand; the log has all of them.
type Warning struct {
	Time   time.Time   `json:"time"`
	Kind   WarningKind `json:"kind"`
	Reason string      `json:"reason"` // of the newest event: a deadLetterReason, why it was dropped, or the outcome
	Events int         `json:"events"` // since the warning of this kind before it
}

// warnEvery is how long an event subscription is not warned about again. The next
// warning counts what happened meanwhile.
const warnEvery = 10 * time.Minute

// warned is what an event subscription was warned about in one kind.
type warned struct {
	at     time.Time // the last warning; zero = none since the process started
	events int       // not yet told of
}

// Reasons of drops.
const (
	dropUnreadable = "Unreadable"      // the log does not hold the event any more, or not intact
	dropQuota      = "DeadLetterQuota" // its dead letter was among the oldest above the quota
)

// warn tells of n events that an operator should know of: in the log at level Warn, in
// a metric, in the status. The first is told at once. The caller holds s.mu.
func (s *subscription) warn(kind WarningKind, reason string, n int) {
	w := &s.deadLetterWarned
	text := "event subscription has dead letters"
	switch kind {
	case WarnDropped:
		w, text = &s.dropWarned, "events of an event subscription are lost"
	case WarnGone:
		w, text = &s.goneWarned, "the endpoint of an event subscription answers that it is gone"
	}
	w.events += n
	now := time.Now()
	if !w.at.IsZero() && now.Sub(w.at) < warnEvery {
		return
	}
	s.lastWarning = &Warning{Time: now.UTC(), Kind: kind, Reason: reason, Events: w.events}
	s.b.metrics.warnings.WithLabelValues(string(kind)).Inc()
	s.b.log.Log(s.ctx, slog.LevelWarn, text, telemetry.EventSubscription, s.cfg.Load().id,
		telemetry.Events, w.events, telemetry.DeadLetterReason, reason)
	*w = warned{at: now}
}

// drop closes a delivery whose event is lost. There is no dead letter of it.
func (s *subscription) drop(d *delivery, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleted || d.state != burying {
		return
	}
	s.close(d)
	s.signalRoom()
	s.dropped.Add(1)
	s.b.metrics.dropped.WithLabelValues(reason).Inc()
	s.warn(WarnDropped, reason, 1)
}

// evicted tells of dead letters of s that were removed for room.
func (s *subscription) evicted(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.deleted {
		s.warn(WarnDropped, dropQuota, n)
	}
}
