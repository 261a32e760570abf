package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
)

// Record gathers what is to be said of one request. Handlers get it from the
// request's context; its methods may be called on nil, where no middleware ran.
type Record struct {
	requestID, correlationID string

	mu        sync.Mutex
	level     slog.Level
	principal Identity
	http      *http.Request
	attrs     []slog.Attr
	err       error
}

// Identity is who asked, as a credential proved it; never the credential.
type Identity struct {
	ObjectID string
	Type     string
	Name     string
	AppID    string // client id of an application
	TokenID  string // unique id of the token that the request came with
}

// Request is how a request is told from others.
type Request struct {
	ID, CorrelationID, ClientRequestID string
	Remote                             string // address of the peer, without port
	UserAgent                          string
}

type recordKey struct{}

// RecordOf returns the record of the request that ctx belongs to, nil outside of
// one.
func RecordOf(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// RequestID returns the id that this server gave the request, "" outside of one.
func (r *Record) RequestID() string {
	if r == nil {
		return ""
	}
	return r.requestID
}

// CorrelationID returns the id that ties the requests of one operation together,
// "" outside of a request.
func (r *Record) CorrelationID() string {
	if r == nil {
		return ""
	}
	return r.correlationID
}

// SetPrincipal says who asked.
func (r *Record) SetPrincipal(p Identity) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.principal = p
	r.mu.Unlock()
}

// Principal returns who asked, the zero Identity outside of a request and before
// that is known.
func (r *Record) Principal() Identity {
	if r == nil {
		return Identity{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.principal
}

// Request returns how the request is told from others, the zero Request outside of
// one.
func (r *Record) Request() Request {
	if r == nil {
		return Request{}
	}
	q := Request{ID: r.requestID, CorrelationID: r.correlationID}
	if r.http != nil {
		agent := r.http.UserAgent()
		q.Remote, q.UserAgent = host(r.http.RemoteAddr), agent[:min(len(agent), maxAgent)]
		if id := r.http.Header[headerClientRequestID]; len(id) > 0 && plainID(id[0]) {
			q.ClientRequestID = id[0]
		}
	}
	return q
}

// Value returns the text of an attribute, "" when it was not added.
func (r *Record) Value(key string) string {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.attrs {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// SetLevel chooses the level of the request's record, Info unless set. Routes
// served thousands of times a second set Debug; a server error (status 500 and
// above, but not 503) is recorded at Error whatever was set, unless the caller went away.
func (r *Record) SetLevel(level slog.Level) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.level = level
	r.mu.Unlock()
}

// Add adds attributes to the request's record; one that is there already takes the
// new value.
func (r *Record) Add(attrs ...slog.Attr) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range attrs {
		if i := slices.IndexFunc(r.attrs, func(old slog.Attr) bool { return old.Key == a.Key }); i >= 0 {
			r.attrs[i] = a
			continue
		}
		r.attrs = append(r.attrs, a)
	}
}

// SetError adds the cause of a failure, which the caller does not see, to the
// request's record. It is logged there and must not be logged again.
func (r *Record) SetError(err error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
}
