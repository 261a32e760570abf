// Package fault is Carillon's one error type, its kinds, and their one mapping
// to HTTP and back.
//
// A fault says four things to four readers: Kind to the program, Code and
// Message to the caller, Target names the field, Err is for the operator and
// never leaves the process. Anything that is not a fault is answered as a plain
// 500 with the correlation id, so an unexpected error can never leak its text.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what a fault means to the program. Each kind has one HTTP status.
type Kind uint8

// The kinds. Their statuses are in statusOf.
const (
	Internal           Kind = iota // a defect or a broken machine; the caller can do nothing
	Invalid                        // the request breaks a rule; Target names the field
	Unauthenticated                // no credential, or one that does not hold
	Forbidden                      // the caller is known and may not
	NotFound                       // looked for and not there; a failed look-up is Internal
	MethodNotAllowed               // the path exists, the method does not
	Conflict                       // the present state does not allow it
	PreconditionFailed             // If-Match or If-None-Match did not hold
	TooLarge                       // body or event over its limit
	UnsupportedMedia               // a content type that is not taken here
	Misdirected                    // a Host that is not ours
	TooMany                        // a rate limit; RetryAfter says when
	Unavailable                    // cannot take it now, safe to repeat; RetryAfter says when
	BadGateway                     // a server behind this one did not answer; whether it did what it was asked is not known
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Unauthenticated:
		return "unauthenticated"
	case Forbidden:
		return "forbidden"
	case NotFound:
		return "not found"
	case MethodNotAllowed:
		return "method not allowed"
	case Conflict:
		return "conflict"
	case PreconditionFailed:
		return "precondition failed"
	case TooLarge:
		return "too large"
	case UnsupportedMedia:
		return "unsupported media type"
	case Misdirected:
		return "misdirected"
	case TooMany:
		return "too many requests"
	case Unavailable:
		return "unavailable"
	case BadGateway:
		return "bad gateway"
	default:
		return "internal"
	}
}

// Error is a fault. Code and Message are shown to the caller, so they never hold
// a secret; Err is for the log.
type Error struct {
	Kind       Kind
	Code       string        // ARM or Event Grid error code, e.g. "InvalidRequest"
	Message    string        // a full sentence: field, value, remedy
	Target     string        // JSON path of the field, e.g. "properties.filter.advancedFilters[2].values"
	Details    []*Error      // further problems of the same request, in field order
	Info       []Info        // typed extras, shown as additionalInfo
	RetryAfter time.Duration // for TooMany and Unavailable; rounded up to whole seconds
	Challenge  string        // WWW-Authenticate value of a 401
	Allow      string        // Allow value of a 405
	Err        error         // cause, for the operator only
}

// Info is one entry of additionalInfo in an ARM error body.
type Info struct {
	Type string `json:"type"`
	Info any    `json:"info"`
}

// Error returns code, message and cause, for logs.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Code != "" {
		b.WriteString(e.Code)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Target != "" {
		fmt.Fprintf(&b, " (%s)", e.Target)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes a fault of a kind with a code and a formatted message.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Field makes an Invalid fault with code InvalidRequest about one field.
func Field(target, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Code: "InvalidRequest", Target: target, Message: fmt.Sprintf(format, args...)}
}

// Because sets the cause and returns the fault.
func (e *Error) Because(err error) *Error { e.Err = err; return e }

// After sets RetryAfter and returns the fault.
func (e *Error) After(d time.Duration) *Error { e.RetryAfter = d; return e }

// KindOf returns the kind of the first fault in err's chain, and Internal for
// any other error. It must not be called with nil.
func KindOf(err error) Kind {
	if f, ok := errors.AsType[*Error](err); ok {
		return f.Kind
	}
	return Internal
}

// Is reports whether err is a fault of kind k.
func Is(err error, k Kind) bool {
	return err != nil && KindOf(err) == k && (k != Internal || isFault(err))
}

func isFault(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// MaxJoined is the most problems of one request that are told.
const MaxJoined = 100

// Join makes one fault of the problems found in one request: nil for none, the
// fault itself for one; for several the first one's kind, code and target, a
// message that holds all of them, and all of them as details. Of more than MaxJoined
// the first are told, and how many there are besides.
func Join(problems ...*Error) error {
	var all []*Error
	for _, p := range problems {
		if p != nil {
			all = append(all, p)
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	more := len(all) - MaxJoined
	all = all[:min(len(all), MaxJoined)]
	messages := make([]string, len(all))
	for i, p := range all {
		messages[i] = p.Message
	}
	if more > 0 {
		messages = append(messages, fmt.Sprintf("There are %d problems more.", more))
	}
	first := all[0]
	return &Error{Kind: first.Kind, Code: first.Code, Target: first.Target, Message: strings.Join(messages, " "), Details: all}
}
