package ingest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
)

// bodies are buffers of at most one byte more than a request may have.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// decode reads and decodes the body of a request.
func decode(r *http.Request, topic *Topic) ([]event.Event, error) {
	pooled := bodies.Get().(*[]byte)
	defer bodies.Put(pooled)
	body, err := read(r, (*pooled)[:0])
	*pooled = body[:0]
	if err != nil {
		return nil, err
	}
	var events []event.Event
	o := event.DecodeOptions{Topic: topic.ID.String(), Domain: topic.Domain, Lenient: topic.Lenient}
	switch topic.Schema {
	case event.EventGridSchema:
		events, err = event.DecodeEventGrid(body, o)
	case event.CloudEventSchemaV1_0:
		events, err = event.DecodeCloudEvents(body, r.Header, o)
	case event.CustomEventSchema:
		events, err = event.DecodeCustom(body, topic.Mapping, o)
	default:
		return nil, fmt.Errorf("topic %s has input schema %s, of which no decoder is known", topic.ID, topic.Schema)
	}
	if invalid, ok := errors.AsType[*event.InvalidError](err); ok {
		return nil, faultOf(invalid)
	}
	return events, err
}

// read reads a body into buf, which grows as needed.
func read(r *http.Request, buf []byte) ([]byte, error) {
	if r.ContentLength > event.MaxRequestBytes {
		return buf, faultOf(event.TooLargeRequest(event.MaxRequestBytes))
	}
	const atLeast = 4096 // for a body of unknown length
	// One byte more than there should be, so that the end shows without growing.
	if need := max(int(r.ContentLength)+1, atLeast); cap(buf) < need {
		buf = make([]byte, 0, need)
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Body.Read(buf[len(buf):min(cap(buf), event.MaxRequestBytes+1)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > event.MaxRequestBytes:
			return buf, faultOf(event.TooLargeRequest(event.MaxRequestBytes))
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return buf, fault.New(fault.Invalid, event.InputJSONInvalid, "The request body ended after %d bytes, before its end.", len(buf)).Because(err)
		}
	}
}

// faultOf gives a problem of the events its status.
func faultOf(invalid *event.InvalidError) *fault.Error {
	kind := fault.Invalid
	switch invalid.Code {
	case event.InvalidContentType:
		kind = fault.UnsupportedMedia
	case event.PayloadTooLarge:
		kind = fault.TooLarge
	case event.Unauthorized:
		kind = fault.Unauthenticated
	}
	return fault.New(kind, invalid.Code, "%s", invalid.Message)
}
