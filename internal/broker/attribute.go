package broker

import (
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// dynamicAttribute is a delivery attribute whose value is a field of the event.
type dynamicAttribute struct {
	name  string
	field filter.Field
}

// dynamicAttributes returns those of a destination, nil for none.
func dynamicAttributes(p *resource.Packing) []dynamicAttribute {
	var out []dynamicAttribute
	for _, a := range p.DeliveryAttributes {
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
