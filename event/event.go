package event

import (
	"fmt"
	"strings"
)

// Schema is the envelope of an event. Its number is stored in the log and never
// changes its meaning.
type Schema uint8

// The schemas. The stored form of a CustomEventSchema event is the Event Grid
// event that the topic's mapping makes of it; its data is the whole object that
// was published.
const (
	EventGridSchema      Schema = 1
	CloudEventSchemaV1_0 Schema = 2
	CustomEventSchema    Schema = 3
)

// String returns the management API's spelling of the input schema.
func (s Schema) String() string {
	switch s {
	case EventGridSchema:
		return "EventGridSchema"
	case CloudEventSchemaV1_0:
		return "CloudEventSchemaV1_0"
	case CustomEventSchema:
		return "CustomEventSchema"
	default:
		return fmt.Sprintf("Schema(%d)", uint8(s))
	}
}

// InputName returns the data plane's spelling, as the header
// aeg-input-event-schema and publish errors show it.
// Source: spec/events.md section 8.3.
func (s Schema) InputName() string {
	switch s {
	case EventGridSchema:
		return "EventGridEvent"
	case CloudEventSchemaV1_0:
		return "CloudEventV10"
	case CustomEventSchema:
		return "CustomInputEvent"
	default:
		return s.String()
	}
}

// ParseSchema returns the schema that the management API calls name, ignoring case.
func ParseSchema(name string) (Schema, error) {
	for s := EventGridSchema; s <= CustomEventSchema; s++ {
		if strings.EqualFold(name, s.String()) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("input schema %q is not known: use EventGridSchema, CloudEventSchemaV1_0 or CustomEventSchema", name)
}

// Event is one event in its stored form: a JSON object and where its attributes
// are. The attributes point into Raw unless they were written with escapes.
type Event struct {
	Schema Schema
	Raw    []byte // the whole JSON object, as stored in the log and spliced into deliveries

	// Decoded text, nil when absent.
	ID          []byte
	Source      []byte // topic of an Event Grid event
	Type        []byte // eventType of an Event Grid event
	Subject     []byte
	Time        []byte // eventTime of an Event Grid event
	DataVersion []byte // of a CloudEvent: dataschema without a leading '#'

	Data []byte // raw JSON of data, nil when absent

	// DomainTopic is the topic of a domain that the event was published to, as the
	// publisher spells it; nil if it was published to a topic. The stored form has it
	// as part of Source, and Parse does not look for it.
	DomainTopic []byte
}
