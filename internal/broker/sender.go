package broker

import (
	"context"
	"sync"
	"time"
)

// Sender delivers to one destination of one event subscription. A destination
// satisfies it; calls come from several goroutines at once.
type Sender interface {
	// Send makes one attempt and returns what came of it. It returns when the
	// destination answered, when r.Hold is over (TimedOut), or when ctx ends
	// (Canceled). It retains nothing of r, and calls r.Sent as soon as it can.
	Send(ctx context.Context, r *Request) Response
	// Close lets go of idle connections. Attempts in flight end by their ctx.
	Close()
}

// Request is the body of one attempt and what its headers say.
type Request struct {
	Body        []byte // nil once Sent was called
	ContentType string
	Count       int           // earlier attempts: header aeg-delivery-count
	Single      *SingleEvent  // nil for a batch
	Hold        time.Duration // how long the connection may live while waiting for an answer
	Replay      string        // id of the replayed dead letter: header carillon-replay; "" for a first delivery
	Attributes  []Attribute   // dynamic delivery attributes, the same for every event of a batch; fit for headers
	Buffer      *[]byte       // that holds Body and is used again after Sent; nil where Body is the caller's own
}

var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// maxKept bounds the buffers of bodies that are used again.
const maxKept = 1 << 20

// Sent lets go of Body: it was written, and whatever comes of the attempt it is not
// sent again. A handler that answers late, or never, would keep it in memory for
// minutes. A second call does nothing, nor does one where Body is the caller's own.
func (r *Request) Sent() {
	if r.Buffer == nil {
		return
	}
	if cap(*r.Buffer) <= maxKept {
		bodies.Put(r.Buffer)
	}
	r.Body, r.Buffer = nil, nil
}

// Attribute is a dynamic delivery attribute with the value that the event has for it.
type Attribute struct{ Name, Value string }

// SingleEvent holds what the headers say of the event of an unbatched request.
type SingleEvent struct {
	OutputID        string // internal id, stable across attempts: header aeg-output-event-id
	DataVersion     string // header aeg-data-version; not sent with CloudEvents
	MetadataVersion string // header aeg-metadata-version
}
