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
)

var outcomeNames = [...]string{
	NotAttempted: "NotAttempted", Delivered: "Delivered", BadRequest: "BadRequest", Unauthorized: "Unauthorized",
	Forbidden: "Forbidden", NotFound: "NotFound", TimedOut: "TimedOut", PayloadTooLarge: "PayloadTooLarge",
	Busy: "Busy", GenericError: "GenericError", SocketError: "SocketError", ResolutionError: "ResolutionError",
	Probation: "Probation", Aborted: "Aborted", Canceled: "Canceled", Disabled: "Disabled", Full: "Full",
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
}
