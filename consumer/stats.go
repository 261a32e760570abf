package consumer

import "sync/atomic"

// Stats are counts since the Handler was made. To have them in expvar:
//
//	expvar.Publish("consumer", expvar.Func(func() any { return h.Stats() }))
//
// Every event is in one of Handled, Skipped, Duplicate, Stale, Foreign, Malformed, Failed,
// DeadLettered and Busy each time that it comes.
type Stats struct {
	Requests   int64 `json:"requests"`   // of all kinds
	Refused    int64 `json:"refused"`    // requests: not verified, too large, or of another kind than deliveries are
	Handshakes int64 `json:"handshakes"` // agreed to

	Handled      int64 `json:"handled"`      // by a function, with success
	Skipped      int64 `json:"skipped"`      // of a type that no function is for: 200
	Duplicate    int64 `json:"duplicate"`    // handled before: 200
	Stale        int64 `json:"stale"`        // a later one of the subject was handled before: 200
	Foreign      int64 `json:"foreign"`      // of a topic that is not expected: 400
	Malformed    int64 `json:"malformed"`    // cannot be read: 400
	Failed       int64 `json:"failed"`       // wanted again: 500 or 503
	DeadLettered int64 `json:"deadLettered"` // not wanted again: 400
	Busy         int64 `json:"busy"`         // told to come again: it is being handled, there was no place or no inbox, or its batch ended before it: 429 or 503

	Panics     int64 `json:"panics"`     // of functions; they count as Failed, too
	Unrecorded int64 `json:"unrecorded"` // handled, but the inbox could not remember it: they may be handled again
	InFlight   int64 `json:"inFlight"`   // being handled now
}

type counters struct {
	requests, refused, handshakes                                                              atomic.Int64
	handled, skipped, duplicate, stale, foreign, malformed, failed, deadLettered, busy, panics atomic.Int64
	unrecorded, inFlight                                                                       atomic.Int64
}

// Stats returns the counts.
func (h *Handler) Stats() Stats {
	c := &h.stats
	return Stats{
		Requests: c.requests.Load(), Refused: c.refused.Load(), Handshakes: c.handshakes.Load(),
		Handled: c.handled.Load(), Skipped: c.skipped.Load(), Duplicate: c.duplicate.Load(), Stale: c.stale.Load(), Foreign: c.foreign.Load(),
		Malformed: c.malformed.Load(), Failed: c.failed.Load(), DeadLettered: c.deadLettered.Load(), Busy: c.busy.Load(),
		Panics: c.panics.Load(), Unrecorded: c.unrecorded.Load(), InFlight: c.inFlight.Load(),
	}
}
