package broker

import (
	"slices"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// dynamicAttribute is a delivery attribute whose value is a field of the event.
type dynamicAttribute struct {
	name  string
	field filter.Field
}

// dynamicAttributes returns those of a webhook, nil for none.
func dynamicAttributes(w *resource.WebHook) []dynamicAttribute {
	if w == nil {
		return nil
	}
	var out []dynamicAttribute
	for _, a := range w.DeliveryAttributes {
		if a.Type == resource.AttributeDynamic {
			out = append(out, dynamicAttribute{a.Name, filter.NewField(a.SourceField)})
		}
	}
	return out
}

// valuesOf returns the dynamic attributes that the event has a value for. One whose
// field is missing, no text, number or boolean, too long, or unfit for a header is
// left out: an event is not held back for want of a header. Event Grid documents the
// types and says nothing of the rest. Source: spec/delivery.md section 6.
func (c *config) valuesOf(e *event.Event) []Attribute {
	out := make([]Attribute, 0, len(c.attributes))
	for _, a := range c.attributes {
		text, ok := a.field.Append(nil, e)
		if ok && len(text) <= resource.MaxDeliveryAttributeValue && resource.HeaderValue(string(text)) {
			out = append(out, Attribute{a.name, string(text)})
		}
	}
	return out
}

// attributesOf is valuesOf for a request that is about to be sent.
func (s *subscription) attributesOf(cfg *config, e *event.Event) []Attribute {
	values := cfg.valuesOf(e)
	s.b.metrics.attributesOmitted.Add(float64(len(cfg.attributes) - len(values)))
	return values
}

// keepAlike leaves in a batch only the deliveries that have the dynamic attributes of
// the first one, for a request has each header once; the others go back to the queue.
// Source: spec/delivery.md section 5.
func (s *subscription) keepAlike(a *attempt) {
	if len(a.deliveries) == 1 {
		return
	}
	cfg := s.cfg.Load()
	if len(cfg.attributes) == 0 {
		return
	}
	var first []Attribute
	var alike, others []*delivery
	for i, d := range a.deliveries {
		var e event.Event
		if _, err := s.b.load(s.ctx, d, &e); err != nil {
			return // the attempt meets it again and tells
		}
		values := cfg.valuesOf(&e)
		if i == 0 {
			first = values
		}
		if slices.Equal(values, first) {
			alike = append(alike, d)
		} else {
			others = append(others, d)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.late || s.deleted {
		return // it is judged as a whole
	}
	a.cfg, a.deliveries = cfg, alike
	a.count = int(alike[0].attempts)
	for _, d := range alike {
		a.count = min(a.count, int(d.attempts))
	}
	for _, d := range others {
		d.state, d.tried = ready, false
		s.queue.push(d)
	}
	if len(others) > 0 {
		s.pump(time.Now())
	}
}
