package fault

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Status returns the HTTP status of a kind.
func (k Kind) Status() int {
	switch k {
	case Invalid:
		return http.StatusBadRequest
	case Unauthenticated:
		return http.StatusUnauthorized
	case Forbidden:
		return http.StatusForbidden
	case NotFound:
		return http.StatusNotFound
	case MethodNotAllowed:
		return http.StatusMethodNotAllowed
	case Conflict:
		return http.StatusConflict
	case PreconditionFailed:
		return http.StatusPreconditionFailed
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case UnsupportedMedia:
		return http.StatusUnsupportedMediaType
	case Misdirected:
		return http.StatusMisdirectedRequest
	case TooMany:
		return http.StatusTooManyRequests
	case Unavailable:
		return http.StatusServiceUnavailable
	case BadGateway:
		return http.StatusBadGateway
	default:
		return http.StatusInternalServerError
	}
}

// kindOf is the way back from a status; statuses without a kind of their own
// take the kind of their class.
func kindOf(status int) Kind {
	for k := Internal; k <= BadGateway; k++ {
		if k.Status() == status {
			return k
		}
	}
	if status >= 400 && status < 500 {
		return Invalid
	}
	return Internal
}

type body struct {
	Error bodyError `json:"error"`
}

type bodyError struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Target  string      `json:"target,omitempty"`
	Details []bodyError `json:"details,omitempty"`
	Info    []Info      `json:"additionalInfo,omitempty"`
}

// Write answers a management or workspace request with err in ARM's error shape.
// It is the only place that chooses a status for an error there.
// Source: spec/management.md section 7.
func Write(w http.ResponseWriter, _ *http.Request, err error) {
	f := asFault(w, err)
	writeBody(w, f, toBody(f))
}

// WritePublish answers a publish request with err in the data plane's shape: the
// outer code is the status name, the fine code is details[0].code, both messages
// are the same text. Source: spec/events.md section 8.6.
func WritePublish(w http.ResponseWriter, _ *http.Request, err error) {
	f := asFault(w, err)
	outer := bodyError{Code: statusName(f.Kind), Message: f.Message}
	if f.Code != "" {
		outer.Details = []bodyError{{Code: f.Code, Message: f.Message}}
	}
	writeBody(w, f, outer)
}

// asFault returns err as a fault that may be shown; an error that is not a fault
// becomes a 500 that names the correlation id and nothing else.
func asFault(w http.ResponseWriter, err error) *Error {
	if f, ok := errors.AsType[*Error](err); ok {
		return f
	}
	message := "The server met an unexpected condition."
	if id := w.Header().Get("x-ms-correlation-request-id"); id != "" {
		message += " Correlation id: " + id + "."
	}
	return &Error{Kind: Internal, Code: "InternalServerError", Message: message, Err: err}
}

func toBody(f *Error) bodyError {
	b := bodyError{Code: f.Code, Message: f.Message, Target: f.Target, Info: f.Info}
	if b.Code == "" {
		b.Code = statusName(f.Kind)
	}
	for _, d := range f.Details {
		b.Details = append(b.Details, toBody(d))
	}
	return b
}

// statusName is the data plane's outer error code.
func statusName(k Kind) string {
	switch k {
	case Invalid:
		return "BadRequest"
	case Unauthenticated:
		return "Unauthorized"
	case Forbidden:
		return "Forbidden"
	case NotFound:
		return "NotFound"
	case MethodNotAllowed:
		return "MethodNotAllowed"
	case Conflict:
		return "Conflict"
	case PreconditionFailed:
		return "PreconditionFailed"
	case TooLarge:
		return "RequestEntityTooLarge"
	case UnsupportedMedia:
		return "UnsupportedMediaType"
	case Misdirected:
		return "MisdirectedRequest"
	case TooMany:
		return "TooManyRequests"
	case Unavailable:
		return "ServiceUnavailable"
	case BadGateway:
		return "BadGateway"
	default:
		return "InternalServerError"
	}
}

func writeBody(w http.ResponseWriter, f *Error, b bodyError) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("x-ms-error-code", b.Code)
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	if f.Challenge != "" {
		h.Set("WWW-Authenticate", f.Challenge)
	}
	if f.Allow != "" {
		h.Set("Allow", f.Allow)
	}
	w.WriteHeader(f.Kind.Status())
	_ = json.NewEncoder(w).Encode(body{Error: b}) // the client has gone if this fails
}

// Read turns an error answer of a Carillon or Azure server back into a fault.
// It reads and closes the body; call it for statuses of 400 and above.
func Read(resp *http.Response) *Error {
	defer func() { _ = resp.Body.Close() }()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	f := &Error{Kind: kindOf(resp.StatusCode), Code: resp.Header.Get("x-ms-error-code")}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		f.RetryAfter = time.Duration(s) * time.Second
	}
	var b body
	if json.Unmarshal(raw, &b) == nil && b.Error.Message != "" {
		fromBody(f, b.Error)
		return f
	}
	f.Message = "The server answered " + resp.Status + "."
	if f.Code == "" {
		f.Code = statusName(f.Kind)
	}
	return f
}

func fromBody(f *Error, b bodyError) {
	f.Code, f.Message, f.Target, f.Info = b.Code, b.Message, b.Target, b.Info
	for _, d := range b.Details {
		inner := &Error{Kind: f.Kind}
		fromBody(inner, d)
		f.Details = append(f.Details, inner)
	}
}
