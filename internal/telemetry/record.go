package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// Record gathers what is to be said of one request. Handlers get it from the
// request's context; its methods may be called on nil, where no middleware ran.
type Record struct {
	requestID, correlationID string

	mu        sync.Mutex
	level     slog.Level
	principal string
	attrs     []slog.Attr
	err       error
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

// SetPrincipal says who asked: an object id, never a credential.
func (r *Record) SetPrincipal(id string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.principal = id
	r.mu.Unlock()
}

// SetLevel chooses the level of the request's record, Info unless set. Routes
// served thousands of times a second set Debug; a server error (status 500 and
// above, but not 503) is recorded at Error whatever was set.
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
