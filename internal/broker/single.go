package broker

import (
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/resource"
)

// FirstRequest is the request that an event subscription's destination would be sent
// for an event at the first attempt, for what is sent outside the walk: nothing is
// logged, journaled, counted or tried again.
func (rules Rules) FirstRequest(es *resource.EventSubscription, e *event.Event, sequencer string) *Request {
	c := configOf(es, rules, nil)
	r := &Request{ContentType: c.contentType(), Hold: answerTime, Attributes: c.valuesOf(e)}
	body := c.appendEvent(nil, e, sequencer)
	if c.array() {
		body = append(append([]byte{'['}, body...), ']')
	}
	r.Body = body
	switch {
	case c.form == resource.FormMessages:
		r.Parts = []Part{{To: len(body), Single: *c.single(e, sequencer), Attributes: r.Attributes}}
	case c.maxBatch == 1, c.form == resource.FormArray:
		r.Single = c.single(e, sequencer)
	}
	return r
}
