package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"time"
)

// Middleware numbers requests and records each once it is answered.
type Middleware struct {
	log  *slog.Logger
	fail func(w http.ResponseWriter, r *http.Request, err error)
}

// NewMiddleware returns a Middleware that writes to log. A handler that panics
// before it answered is answered by fail, which is given an error that tells the
// caller nothing (fault.Write fits).
func NewMiddleware(log *slog.Logger, fail func(w http.ResponseWriter, r *http.Request, err error)) *Middleware {
	return &Middleware{log: log, fail: fail}
}

// Header names in the form that http.Header stores them.
const (
	headerRequestID       = "X-Ms-Request-Id"
	headerCorrelationID   = "X-Ms-Correlation-Request-Id"
	headerClientRequestID = "X-Ms-Client-Request-Id"
)

// maxAgent is how much of a User-Agent is kept.
const maxAgent = 200

// Wrap returns next with ids on every answer and one record per request:
//
//   - x-ms-request-id: a fresh GUID
//   - x-ms-correlation-request-id: the caller's, or a fresh GUID
//   - x-ms-client-request-id: the caller's, when there is one
//
// Source: spec/management.md sections 8.2 and 8.3.
func (m *Middleware) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s := &served{ResponseWriter: w}
		s.number(r, w.Header())
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, &s.record))
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it too
				m.recovered(s, r, p)
			}
			m.write(s, r, time.Since(start))
			if p != nil && (p == http.ErrAbortHandler || s.cut) { //nolint:errorlint // as above
				panic(http.ErrAbortHandler) // net/http drops the connection without a word
			}
		}()
		next.ServeHTTP(s, r)
	})
}

// Management returns next with the headers that every management answer has.
// Source: spec/management.md section 8.3.
func Management(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"] = []string{"no-cache"}
		h["Pragma"] = []string{"no-cache"}
		h["Expires"] = []string{"-1"}
		h["X-Content-Type-Options"] = []string{"nosniff"}
		if r.TLS != nil {
			h["Strict-Transport-Security"] = []string{"max-age=31536000; includeSubDomains"}
		}
		next.ServeHTTP(w, r)
	})
}

// recovered records a panic and answers for the handler when it has not answered.
func (m *Middleware) recovered(s *served, r *http.Request, p any) {
	err, ok := p.(error)
	if !ok {
		err = fmt.Errorf("%v", p)
	}
	s.record.SetError(fmt.Errorf("handler panicked: %w", err))
	s.record.Add(slog.String(Stack, string(debug.Stack())))
	s.panicked = true
	if s.status != 0 {
		s.cut = true
		return
	}
	m.fail(s, r, errPanic)
}

var errPanic = fmt.Errorf("handler panicked")

// write writes the request's record.
func (m *Middleware) write(s *served, r *http.Request, took time.Duration) {
	rec := &s.record
	rec.mu.Lock()
	defer rec.mu.Unlock()
	status := s.status
	if status == 0 {
		status = http.StatusOK // net/http sends it for a handler that wrote nothing
	}
	level := rec.level
	ctx := r.Context()
	gone := ctx.Err() != nil && errors.Is(rec.err, context.Canceled) // the caller; nobody reads the answer
	if s.panicked || status >= 500 && status != http.StatusServiceUnavailable && !gone {
		level = slog.LevelError
	}
	if !m.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12+len(rec.attrs))
	attrs = append(attrs,
		slog.String(Method, r.Method),
		slog.String(Path, r.URL.Path),
		slog.Int(Status, status),
		slog.Duration(Duration, took),
		slog.Int64(Bytes, s.bytes),
		slog.String(RequestID, rec.requestID),
		slog.String(CorrelationID, rec.correlationID),
		slog.String(Remote, host(r.RemoteAddr)),
	)
	if rec.principal.ObjectID != "" {
		attrs = append(attrs, slog.String(Principal, rec.principal.ObjectID))
	}
	if id := s.Header()[headerClientRequestID]; len(id) > 0 {
		attrs = append(attrs, slog.String(ClientRequestID, id[0]))
	}
	if agent := r.UserAgent(); agent != "" {
		attrs = append(attrs, slog.String(UserAgent, agent[:min(len(agent), maxAgent)]))
	}
	attrs = append(attrs, rec.attrs...)
	if rec.err != nil {
		attrs = append(attrs, slog.String(Error, rec.err.Error()))
	}
	m.log.LogAttrs(ctx, level, "request served", attrs...)
}

func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}

// served is the answer of one request as it is written. It counts, and holds the
// request's record, so that a request costs one allocation for both.
type served struct {
	http.ResponseWriter
	status   int
	bytes    int64
	panicked bool
	cut      bool // the answer had begun when the handler panicked
	record   Record
	ids      [3]string // backs the header values
}

// number gives the request its ids and puts them on the answer.
func (s *served) number(r *http.Request, h http.Header) {
	s.ids[0] = NewID()
	h[headerRequestID] = s.ids[0:1:1]
	if id := r.Header[headerCorrelationID]; len(id) > 0 && plainID(id[0]) {
		s.ids[1] = id[0]
	} else {
		s.ids[1] = NewID()
	}
	h[headerCorrelationID] = s.ids[1:2:2]
	if id := r.Header[headerClientRequestID]; len(id) > 0 && plainID(id[0]) {
		s.ids[2] = id[0]
		h[headerClientRequestID] = s.ids[2:3:3]
	}
	s.record.requestID, s.record.correlationID, s.record.http = s.ids[0], s.ids[1], r
}

// WriteHeader notes the status. Informational ones are not the answer.
func (s *served) WriteHeader(status int) {
	if s.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Write counts the body.
func (s *served) Write(p []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	n, err := s.ResponseWriter.Write(p)
	s.bytes += int64(n)
	return n, err
}

// Flush sends what was written. It does nothing where the server cannot.
func (s *served) Flush() {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	_ = http.NewResponseController(s.ResponseWriter).Flush() // the only error is "cannot"
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (s *served) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// plainID tells whether a caller's id is fit to be sent back and logged.
func plainID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// NewID returns a random GUID (version 4) for things that need a name and no
// protection: it must not be used where guessing it would give access.
func NewID() string {
	var raw [16]byte
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		raw[i], raw[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], raw[0:4])
	hex.Encode(out[9:13], raw[4:6])
	hex.Encode(out[14:18], raw[6:8])
	hex.Encode(out[19:23], raw[8:10])
	hex.Encode(out[24:36], raw[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}
