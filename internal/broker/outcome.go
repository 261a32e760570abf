package broker

import (
	"slices"
	"strings"
	"time"
)

// Outcome is what became of one delivery attempt. Its names are the documented
// vocabulary of lastDeliveryOutcome. Source: spec/delivery.md section 3.5.
type Outcome uint8

// The outcomes. The zero value means no attempt was made yet.
const (
	NotAttempted Outcome = iota
	Delivered
	BadRequest      // 400
	Unauthorized    // 401
	Forbidden       // 403
	NotFound        // 404, 410
	TimedOut        // 408, or no answer in time
	PayloadTooLarge // 413
	Busy            // 429, 503
	GenericError    // every other status
	SocketError     // TCP or TLS failure
	ResolutionError // DNS failure
	Probation       // not attempted: the destination's breaker was open
	Aborted         // given up by this side: a panic in the attempt
	Canceled        // cut short by this side: shutdown or deletion
	Disabled        // entity disabled
	Full            // entity over its quota

	SessionQueueNotSupported // entity with sessions, message without one

	Released    // a receiver gave the event back; RetryAfter says for when
	Rejected    // a receiver does not want the event
	LockExpired // a receiver did not answer while the event was its own
)

var outcomeNames = [...]string{
	NotAttempted: "NotAttempted", Delivered: "Delivered", BadRequest: "BadRequest", Unauthorized: "Unauthorized",
	Forbidden: "Forbidden", NotFound: "NotFound", TimedOut: "TimedOut", PayloadTooLarge: "PayloadTooLarge",
	Busy: "Busy", GenericError: "GenericError", SocketError: "SocketError", ResolutionError: "ResolutionError",
	Probation: "Probation", Aborted: "Aborted", Canceled: "Canceled", Disabled: "Disabled", Full: "Full",
	SessionQueueNotSupported: "SessionQueueNotSupported",
	Released:                 "Released", Rejected: "Rejected", LockExpired: "LockExpired",
}

// String returns the documented name.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "Unknown"
}

// OutcomeNames are the names of what an attempt can come to.
func OutcomeNames() []string { return slices.Clone(outcomeNames[Delivered:]) }

// ParseOutcome returns what an attempt came to by its name, in any case.
func ParseOutcome(name string) (Outcome, bool) {
	i := slices.IndexFunc(outcomeNames[Delivered:], func(known string) bool { return strings.EqualFold(name, known) })
	return Delivered + Outcome(max(i, 0)), i >= 0
}

// Response is what a destination said to one attempt.
type Response struct {
	Outcome    Outcome
	Status     int           // HTTP status, 0 when none was received
	RetryAfter time.Duration // what the destination asked for, 0 when nothing
	Detail     string        // at most 200 bytes for people: status class or error class, never a secret, never a body
	Verdict    Verdict       // of the destination's own table, where it differs from that of webhooks
}

// Verdict says whether what a destination answered can change.
type Verdict uint8

// The verdicts.
const (
	ByOutcome Verdict = iota // as for webhooks
	TryAgain                 // it can
	GiveUp                   // it cannot
)

// Together returns the response to an attempt whose messages had these: what speaks
// against the destination counts for the whole, and next what was delivered.
func Together(parts []Part) Response {
	rank := func(r Response) int {
		switch r.Outcome {
		case NotAttempted, Canceled:
			return 0
		case BadRequest, PayloadTooLarge: // say nothing of the destination
			return 1
		case Delivered:
			return 2
		}
		return 3
	}
	whole := Response{Outcome: Canceled}
	for _, p := range parts {
		if rank(p.Response) > rank(whole) {
			whole = p.Response
		}
	}
	return whole
}
