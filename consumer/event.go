package consumer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/carillon-events/carillon/event"
)

// Event is one event with its data: a payload of package mlevent for [On], and what
// [OnType] decodes into for other types.
type Event[T any] struct {
	Envelope
	Data T
}

// Envelope is what every event has, whatever its data is and in whichever of the two
// schemas it came.
type Envelope struct {
	ID      string
	Source  string // the topic as [Topics] spells it; of a workspace its resource id
	Type    string
	Subject string
	Time    time.Time // zero if the event has none

	// ETag is that of the object after the change, "" if the event does not say. It is
	// compared for equality alone: if the object has another one now, the event no longer
	// tells its present state.
	ETag string
	// Sequencer orders the events of one subject: the greater text happened later. "" if
	// the event does not say. The sequence of a CloudEvent whose sequencetype is Integer has
	// zeros before it. Without a subject it orders nothing.
	Sequencer string
	// Stale says that a later event of the subject was handled before. Only functions that
	// were given WithStale see such events.
	Stale bool

	Schema   event.Schema // that it came in
	Delivery Delivery
	Raw      json.RawMessage // the whole event as it came
}

// Delivery is how an event came; zero for one that came by [Handler.Handle].
type Delivery struct {
	EventSubscription string // its name, in capitals
	Attempt           int    // 1 for the first
	Replay            string // id of the dead letter that is replayed, "" for none
	Test              bool   // sent by hand to try the handler
}

// deliveryOf reads the headers of a delivery. Source: spec/delivery.md section 2.1.
func deliveryOf(h http.Header) Delivery {
	d := Delivery{EventSubscription: h.Get("Aeg-Subscription-Name"), Attempt: 1, Replay: h.Get("Carillon-Replay"), Test: h.Get("Carillon-Test") != ""}
	if n, err := strconv.Atoi(h.Get("Aeg-Delivery-Count")); err == nil && n > 0 {
		d.Attempt += n
	}
	return d
}

// member is a member of an event as it was found.
type member struct {
	value   []byte
	kind    event.Kind
	escaped bool
}

// text returns the text of a string; anything else has none.
func (m *member) text() string {
	switch {
	case m.kind != event.String:
		return ""
	case m.escaped:
		return string(event.AppendUnquoted(nil, m.value[1:len(m.value)-1]))
	default:
		return string(m.value[1 : len(m.value)-1])
	}
}

// members are those that an envelope is made of.
type members struct {
	id, source, kind, subject, when, sequence, sequenceType member
	topic, eventType, eventTime                             member // of the Event Grid schema, for source, kind, when
	version, data                                           member
}

// at returns the place of a member, nil for one that says nothing to us.
func (m *members) at(name []byte) *member {
	switch string(name) {
	case "id":
		return &m.id
	case "subject":
		return &m.subject
	case "data":
		return &m.data
	case "topic":
		return &m.topic
	case "eventType":
		return &m.eventType
	case "eventTime":
		return &m.eventTime
	case "specversion":
		return &m.version
	case "source":
		return &m.source
	case "type":
		return &m.kind
	case "time":
		return &m.when
	case "sequence":
		return &m.sequence
	case "sequencetype":
		return &m.sequenceType
	}
	return nil
}

// read fills e from one event of either schema and returns its data, raw JSON or nil.
// Members that it does not know are passed over; of two with one name the last counts.
func (e *Envelope) read(raw []byte) (data []byte, err error) {
	var m members
	c := event.Walk(raw)
	for c.Next() {
		if at := m.at(c.Key); at != nil {
			*at = member{c.Value, c.Kind, c.ValueEscaped}
		}
	}
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	e.Raw, e.Schema = raw, event.CloudEventSchemaV1_0
	if m.version.kind == event.None {
		e.Schema = event.EventGridSchema
		m.source, m.kind, m.when, m.sequence = m.topic, m.eventType, m.eventTime, member{}
	}
	e.ID, e.Source, e.Type, e.Subject = m.id.text(), m.source.text(), m.kind.text(), m.subject.text()
	if e.ID == "" || e.Source == "" || e.Type == "" {
		return nil, errors.New("it is no event of the Event Grid schema or CloudEvents: id, topic or source, and eventType or type must be texts")
	}
	if m.when.kind == event.String {
		e.Time, _ = event.ParseTime(m.when.value[1 : len(m.when.value)-1])
	}
	if e.Sequencer = m.sequence.text(); e.Sequencer != "" && m.sequenceType.text() == "Integer" {
		e.Sequencer = orderOf(e.Sequencer)
	}
	e.readState(m.data.value)
	return m.data.value, nil
}

// orderOf returns a text for a number, such that the texts have the order of the numbers, or ""
// for what is none. Source: cloudevents/spec, extensions/sequence.md, "Integer".
func orderOf(number string) string {
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil:
		return ""
	case n < 0:
		return fmt.Sprintf("-%019d", n-math.MinInt64)
	}
	return fmt.Sprintf("%019d", n)
}

// readState finds etag and sequencer in data. They have this spelling whatever casing the
// payload has. Source: spec/workspace.md section 3.2.
func (e *Envelope) readState(data []byte) {
	c := event.Walk(data)
	for c.Next() {
		m := member{c.Value, c.Kind, c.ValueEscaped}
		switch {
		case c.Kind != event.String:
		case string(c.Key) == "etag":
			e.ETag = m.text()
		case string(c.Key) == "sequencer":
			e.Sequencer = m.text()
		}
	}
}
