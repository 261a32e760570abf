package broker

import "time"

// probation is how long a destination rests after an outcome that opened its
// breaker. Source: spec/delivery.md section 4.4; outcomes that the table does not
// name rest as briefly as a busy one.
func probation(o Outcome) time.Duration {
	switch o {
	case SocketError:
		return 30 * time.Second
	case NotFound, ResolutionError, Disabled, Full, Unauthorized, Forbidden:
		return 5 * time.Minute
	default:
		return 10 * time.Second
	}
}

const (
	breakerFailures = 10        // consecutive failures that open it
	maxProbation    = time.Hour // doubling ends here
)

// breaker keeps a destination that fails from being asked again and again. Closed,
// it lets everything through. Open, nothing until `until`; then one attempt, the
// probe: its success closes the breaker, its failure doubles the rest. Deliveries
// that wait meanwhile have not been attempted. The zero breaker is closed.
type breaker struct {
	failures int           // consecutive
	rest     time.Duration // of the present probation, 0 = closed
	until    time.Time     // end of the present probation
	probing  bool          // the probe is in flight
}

// open reports whether the breaker is open, a probe in flight included.
func (b *breaker) open() bool { return b.rest > 0 }

// admits reports whether an attempt may start now.
func (b *breaker) admits(now time.Time) bool {
	return b.rest == 0 || (!b.probing && !now.Before(b.until))
}

// start notes that an attempt starts.
func (b *breaker) start() {
	if b.rest > 0 {
		b.probing = true
	}
}

// done takes the outcome of an attempt and reports whether the breaker moved. An
// answer that blames the event and not the destination (400, 413) is a sign of
// life; Canceled and Aborted say nothing of the destination.
func (b *breaker) done(o Outcome, now time.Time) (moved bool) {
	switch o {
	case Canceled, Aborted:
		b.probing = false
		return false
	case Delivered, BadRequest, PayloadTooLarge:
		moved = b.rest > 0
		*b = breaker{}
		return moved
	}
	b.failures++
	if b.rest > 0 {
		if !b.probing {
			return false // an attempt from before it opened
		}
		b.probing = false
		b.rest = min(2*b.rest, maxProbation)
		b.until = now.Add(b.rest)
		return true
	}
	switch o {
	case NotFound, ResolutionError, Disabled, Unauthorized, Forbidden:
	default:
		if b.failures < breakerFailures {
			return false
		}
	}
	b.rest = probation(o)
	b.until = now.Add(b.rest)
	return true
}
