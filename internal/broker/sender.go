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
	// (Canceled). It retains nothing of r, calls r.Fill when all is there to write the
	// body, and r.Sent once it is written, or r.Abandon.
	Send(ctx context.Context, r *Request) Response
	// Close lets go of idle connections. Attempts in flight end by their ctx.
	Close()
}

// Request is the body of one attempt and what its headers say.
type Request struct {
	Body        []byte // nil until Fill and from Sent on, unless it is the caller's own
	ContentType string
	Count       int           // earlier attempts: header aeg-delivery-count
	Single      *SingleEvent  // nil for a batch
	Hold        time.Duration // how long the connection may live while waiting for an answer
	Replay      string        // id of the replayed dead letter: header carillon-replay; "" for a first delivery
	Attributes  []Attribute   // dynamic delivery attributes, the same for every event of a batch; fit for headers
	Parts       []Part        // of resource.FormMessages: the messages, whose bodies follow each other in Body; nil otherwise
	Source      Source        // that Fill takes the body from; nil where Body is the caller's own

	buffer *[]byte // that holds Body and is used again after Sent
}

// Part is one message of an attempt that hands over several, as Request is of all. Who
// sends it says what became of it; where nothing is said, what is said of the whole is so.
type Part struct {
	Response
	From, To   int // of its body in Request.Body
	Count      int
	Single     SingleEvent
	Attributes []Attribute
	Replay     string
}

// Source makes the body of a request, the same each time, and fills in what its headers
// say.
type Source interface {
	// Encode appends the body to dst.
	Encode(r *Request, dst []byte) ([]byte, error)
}

var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// maxKept bounds the buffers of bodies that are used again.
const maxKept = 1 << 20

// Fill makes Body, unless it is there. An attempt that waits for a token or a connection
// has none: thousands of them would hold gigabytes. After an error, which the source
// keeps, there is nothing to send.
func (r *Request) Fill() (err error) {
	if r.Source == nil || r.buffer != nil {
		return nil
	}
	buffer := bodies.Get().(*[]byte)
	*buffer, err = r.Source.Encode(r, (*buffer)[:0])
	r.Body, r.buffer = *buffer, buffer
	if err != nil {
		r.Sent()
	}
	return err
}

// Sent lets go of Body: it was written. A handler that answers late, or never, would keep
// it in memory for minutes. Should it have to be written once more, Fill makes it anew. A
// second call does nothing, nor does one where Body is the caller's own.
func (r *Request) Sent() {
	if r.buffer == nil {
		return
	}
	if cap(*r.buffer) <= maxKept {
		bodies.Put(r.buffer)
	}
	r.Body, r.buffer = nil, nil
}

// Abandon lets go of Body where somebody may still read it: its memory is nobody's again.
// Otherwise it is as Sent.
func (r *Request) Abandon() {
	if r.buffer != nil {
		r.Body, r.buffer = nil, nil
	}
}

// Attribute is a dynamic delivery attribute with the value that the event has for it.
type Attribute struct{ Name, Value string }

// SingleEvent holds what the headers say of the event of an unbatched request.
type SingleEvent struct {
	OutputID        string // internal id, stable across attempts: header aeg-output-event-id
	DataVersion     string // header aeg-data-version; not sent with CloudEvents
	MetadataVersion string // header aeg-metadata-version
}
