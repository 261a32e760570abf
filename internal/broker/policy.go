package broker

import (
	"slices"
	"time"
)

// retryDelays is the wait before attempt n+2, counted from the end of attempt
// n+1; the last one repeats.
// Source: spec/delivery.md section 4.1.
var retryDelays = [...]time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute,
	30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
}

// maxJitter is the largest random addition to a wait, as a part of it. Azure does
// not publish its own. Ten percent, as the fact sheet suggests, could push the
// eleventh attempt (22:46:40 after the first) past the day; five cannot.
const maxJitter = 0.05

// maxRetryAfter caps what a destination may ask for.
const maxRetryAfter = time.Hour

// minimumWait is the least wait after an outcome. Source: spec/delivery.md 3.4.
func minimumWait(o Outcome, status int) time.Duration {
	switch o {
	case Unauthorized, NotFound:
		if status == statusGone {
			return 10 * time.Second
		}
		return 5 * time.Minute
	case TimedOut:
		if status == 408 {
			return 2 * time.Minute
		}
		return 0
	case Busy:
		if status == 503 {
			return 30 * time.Second
		}
		return 10 * time.Second
	case GenericError:
		return 10 * time.Second
	default:
		return 0
	}
}

// Policy is the retry policy of one event subscription.
type Policy struct {
	MaxAttempts   int           // the first attempt included
	TimeToLive    time.Duration // from ingest
	DeadLetter404 bool          // a 404 is not tried again
}

// Action is what is to happen to a delivery after an attempt.
type Action uint8

// The actions.
const (
	Done       Action = iota // delivered: close it
	Retry                    // try again at Due
	DeadLetter               // give up for Reason
)

// String returns the action's name.
func (a Action) String() string {
	switch a {
	case Done:
		return "Done"
	case Retry:
		return "Retry"
	default:
		return "DeadLetter"
	}
}

// Decision is what Policy.Next says.
type Decision struct {
	Action Action
	Due    time.Time // Retry: when
	Reason Reason    // DeadLetter: why
}

// Reason is why an event was dead-lettered: the documented deadLetterReason.
// Source: spec/delivery.md section 7.4; the names for 401, 403, 404 and 413 follow the
// pattern of the one observed for 400.
type Reason string

// The reasons.
const (
	ReasonMaxAttempts  Reason = "MaxDeliveryAttemptsExceeded"
	ReasonTimeToLive   Reason = "TimeToLiveExceeded"
	ReasonBadRequest   Reason = "UndeliverableDueToHttpBadRequest"
	ReasonUnauthorized Reason = "UndeliverableDueToHttpUnauthorized"
	ReasonForbidden    Reason = "UndeliverableDueToHttpForbidden"
	ReasonNotFound     Reason = "UndeliverableDueToHttpNotFound" // where the operator wants it, see Rules
	ReasonTooLarge     Reason = "UndeliverableDueToHttpRequestEntityTooLarge"
	ReasonAborted      Reason = "UndeliverableDueToAbortedAttempts"
	ReasonRejected     Reason = "RejectedByReceiver" // Azure publishes no name
)

// reasonReplayed stands in the place of a reason while the dead letter of a replay
// that succeeded is being removed. Nobody else sees it.
const reasonReplayed Reason = "Replayed"

// reasonCode is a Reason in one byte, as deliveries keep it.
type reasonCode uint8

var reasons = [...]Reason{
	ReasonMaxAttempts, ReasonTimeToLive, ReasonBadRequest, ReasonUnauthorized, ReasonForbidden, ReasonNotFound, ReasonTooLarge, ReasonAborted,
	reasonReplayed, ReasonRejected,
}

// ReasonNames are the names of the reasons.
func ReasonNames() []string {
	var names []string
	for _, r := range reasons {
		if r != reasonReplayed {
			names = append(names, string(r))
		}
	}
	return names
}

func codeOf(r Reason) reasonCode {
	return reasonCode(slices.Index(reasons[:], r) + 1)
}

func (c reasonCode) reason() Reason {
	if c == 0 {
		return ""
	}
	return reasons[c-1]
}

// maxAborts is how many panics in its attempts an event may cause.
const maxAborts = 3

// Next decides what follows an attempt. attempts counts it; published is the
// event's ingest time, now the end of the attempt, jitter a random number in
// [0, 1). It is pure.
func (p Policy) Next(attempts int, published time.Time, r Response, now time.Time, jitter float64) Decision {
	if r.Outcome == Delivered {
		return Decision{Action: Done}
	}
	if reason := p.final(r); reason != "" {
		return Decision{Action: DeadLetter, Reason: reason}
	}
	if attempts >= p.MaxAttempts {
		return Decision{Action: DeadLetter, Reason: ReasonMaxAttempts}
	}
	expiry := published.Add(p.TimeToLive)
	if !now.Before(expiry) {
		return Decision{Action: DeadLetter, Reason: ReasonTimeToLive}
	}
	if r.Outcome == Released || r.Outcome == LockExpired {
		return Decision{Action: Retry, Due: now.Add(r.RetryAfter)}
	}
	wait := retryDelays[min(attempts, len(retryDelays))-1]
	wait = max(wait, minimumWait(r.Outcome, r.Status))
	wait = max(wait, min(r.RetryAfter, maxRetryAfter))
	wait += time.Duration(float64(wait) * maxJitter * jitter)
	return Decision{Action: Retry, Due: now.Add(wait)}
}

// final is why an answer ends the attempts of an event, "" when it does not.
func (p Policy) final(r Response) Reason {
	if r.Verdict == TryAgain {
		return ""
	}
	switch r.Outcome {
	case BadRequest:
		return ReasonBadRequest
	case Unauthorized:
		return ReasonUnauthorized
	case Forbidden:
		return ReasonForbidden
	case PayloadTooLarge:
		return ReasonTooLarge
	case Rejected:
		return ReasonRejected
	case NotFound:
		if r.Verdict == GiveUp || p.DeadLetter404 && r.Status == 404 {
			return ReasonNotFound
		}
	}
	return ""
}
