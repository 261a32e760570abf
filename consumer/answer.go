package consumer

import (
	"errors"
	"net/http"
	"time"
)

// retry is an error that says when the event may come again.
type retry struct {
	after time.Duration
	err   error
}

func (e *retry) Error() string { return e.err.Error() }
func (e *retry) Unwrap() error { return e.err }

// deadLetter is an error that no further attempt can mend.
type deadLetter struct{ err error }

func (e *deadLetter) Error() string { return e.err.Error() }
func (e *deadLetter) Unwrap() error { return e.err }

// RetryAfter wraps err for a handler that wants the event again, but not before d has
// passed: what it needs is down, or busy. The answer is 503 with Retry-After. A sender waits
// 30 seconds at least and Carillon an hour at most; Azure's own service ignores d. More than a
// day is a day.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		err = errors.New("not now")
	}
	return &retry{min(max(d, 0), longestWait), err}
}

// longestWait is as long as any sender waits, and a header can say.
const longestWait = 24 * time.Hour

// DeadLetter wraps err for a handler that will never be able to handle the event. The
// answer is 400: the sender does not try again but stores the event as a dead letter, or
// drops it where its event subscription has no place for dead letters.
func DeadLetter(err error) error {
	if err == nil {
		err = errors.New("the event cannot be handled")
	}
	return &deadLetter{err}
}

// Answer returns the status that tells a sender what an error of [Handler.Handle], or of a
// handler's function, asks for, and how long the sender is to wait:
//
//	nil                  200  the event is done with
//	DeadLetter           400  never again
//	RetryAfter           503  again, after the time
//	any other            500  again, as soon as the sender's schedule has it (10 s or more)
//
// One who receives events by another way than HTTP acknowledges, rejects or releases by it.
// Source: spec/delivery.md section 3.4.
func Answer(err error) (status int, after time.Duration) {
	if err == nil {
		return http.StatusOK, 0
	}
	if _, ok := errors.AsType[*deadLetter](err); ok {
		return http.StatusBadRequest, 0
	}
	if r, ok := errors.AsType[*retry](err); ok {
		return http.StatusServiceUnavailable, r.after
	}
	return http.StatusInternalServerError, 0
}

// worse returns which of two errors the answer to a batch goes by: what wants the batch
// again before what does not, the longer wait before the shorter one.
func worse(a, b error) error {
	if rank(b) > rank(a) {
		return b
	}
	return a
}

func rank(err error) time.Duration {
	switch status, after := Answer(err); status {
	case http.StatusOK:
		return -3
	case http.StatusBadRequest:
		return -2
	case http.StatusInternalServerError:
		return -1
	default:
		return after
	}
}
