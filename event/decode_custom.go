package event

import (
	"bytes"
	"strings"
	"time"

	"github.com/google/uuid"
)

// DecodeCustom decodes the body of a publish request to a topic of custom input: an
// array of JSON objects, or one object. Each becomes an Event Grid event whose
// attributes are what the mapping finds and whose data is the whole object, byte for
// byte as it was published. The mapping of topic counts for a domain alone. What the mapping finds must be text; numbers and booleans
// are taken as they are written, except for a time. An object without its eventType
// or subject, where the mapping has no default, is refused; a missing id is made, a
// missing time is that of arrival, a missing dataVersion is empty.
//
// The error is an *[InvalidError]. Source: spec/events.md sections 3 and 8.6.
func DecodeCustom(body []byte, m *Mapping, o DecodeOptions) ([]Event, error) {
	d := newDecoder(CustomEventSchema, body, o)
	defer d.free()
	if d.NewID == nil {
		d.NewID = uuid.NewString
	}
	if d.Received.IsZero() {
		d.Received = time.Now()
	}
	d.mapped = [...]mappedMember{
		{attribute: gridTopic},
		newMappedMember(gridSubject, m.Subject), newMappedMember(gridType, m.Type), newMappedMember(gridTime, m.Time),
		newMappedMember(gridID, m.ID), newMappedMember(gridDataVersion, m.DataVersion),
	}
	if o.Domain {
		d.mapped[0] = newMappedMember(gridTopic, m.Topic)
	}
	return d.request(true, true)
}

// mappedMember is a [MappedAttribute], ready to be looked for.
type mappedMember struct {
	attribute int      // gridSubject, …
	name      string   // of the member, "" for none
	path      []string // of a member in objects, nil if name has no dots
	fallback  member   // the default
}

func newMappedMember(attribute int, a MappedAttribute) mappedMember {
	m := mappedMember{attribute: attribute, name: a.SourceField}
	if strings.Contains(m.name, ".") {
		m.path = strings.Split(m.name, ".")
	}
	if a.DefaultValue != "" {
		quoted := AppendQuoted(nil, a.DefaultValue)
		m.fallback = member{quoted, String, bytes.IndexByte(quoted, '\\') >= 0}
	}
	return m
}

// readCustom collects the members of one object that the mapping names. Like
// everything in data the others are nobody's business; but one that the mapping reads
// must not be there twice.
func (d *decoder) readCustom(c *Cursor) {
	clear(d.members[:])
	var inner [gridMembers]member // found by path
	for c.Next() {
		key := c.Key
		if c.KeyEscaped {
			key = AppendUnquoted(nil, key)
		}
		for i := range d.mapped {
			m := &d.mapped[i]
			switch {
			case m.name != "" && string(key) == m.name:
				d.collect(m, &d.members[m.attribute], member{c.Value, c.Kind, c.ValueEscaped})
			case m.path != nil && string(key) == m.path[0]:
				d.collect(m, &inner[m.attribute], d.within(m, c.Value, c.Kind))
			}
		}
	}
	for k := range d.members[:gridMembers] {
		if m := &d.members[k]; m.kind <= Null {
			*m = inner[k]
			if m.kind == Null {
				m.kind = None
			}
		}
	}
}

// collect keeps what was found for m; nothing at all is not a find.
func (d *decoder) collect(m *mappedMember, at *member, found member) {
	if at.kind != None && found.kind != None {
		d.property(m.name, "appears twice, and the topic's mapping takes %s from it.", gridNames[m.attribute])
		return
	}
	if found.kind != None {
		*at = found
	}
}

// within follows the path of m below its first name.
func (d *decoder) within(m *mappedMember, value []byte, kind Kind) (found member) {
	found = member{value: value, kind: kind}
	for _, name := range m.path[1:] {
		if found.kind != Object {
			return member{}
		}
		c := Walk(found.value) // a part of what the scanner has passed
		found = member{}
		for c.Next() {
			key := c.Key
			if c.KeyEscaped {
				key = AppendUnquoted(nil, key)
			}
			if string(key) == name {
				d.collect(m, &found, member{c.Value, c.Kind, c.ValueEscaped})
			}
		}
	}
	return found
}

// storeCustom validates what was collected from the object that ends at end in the
// body, and appends its event.
func (d *decoder) storeCustom(object []byte, end int) {
	size := len(object)
	for i := range d.mapped {
		m := &d.mapped[i]
		if m.attribute == gridTopic && !d.Domain {
			continue // the one that the request is addressed to
		}
		if d.resolve(m, &d.members[m.attribute]); d.broken != nil {
			return
		}
		size += len(d.members[m.attribute].value)
	}
	d.reserve(size, end)
	start := len(d.block)
	e := Event{Schema: CustomEventSchema}
	d.putSource(&e)
	e.Subject = d.putText(`,"subject":`, &d.members[gridSubject])
	e.Type = d.putText(`,"eventType":`, &d.members[gridType])
	e.Time = d.putText(`,"eventTime":`, &d.members[gridTime])
	e.ID = d.putText(`,"id":`, &d.members[gridID])
	e.DataVersion = d.putText(`,"dataVersion":`, &d.members[gridDataVersion])
	d.block = append(d.block, `,"metadataVersion":"1","data":`...)
	d.block = append(d.block, object...)
	e.Data = d.block[len(d.block)-len(object) : len(d.block) : len(d.block)]
	d.block = append(d.block, '}')
	e.Raw = d.block[start:len(d.block):len(d.block)]
	d.events = append(d.events, e)
}

// resolve makes what the mapping found for an attribute its value, or reports why
// there is none.
func (d *decoder) resolve(m *mappedMember, value *member) {
	attribute := gridNames[m.attribute]
	if value.kind >= Array || m.attribute == gridTime && value.kind != None && value.kind != String {
		d.property(m.name, "has the wrong type: the topic's mapping takes %s from it, expected JSON token String, received %s.", attribute, value.kind)
		return
	}
	if value.blank() {
		*value = m.fallback
	}
	switch {
	case m.attribute == gridTopic && m.name != "":
		d.readDomainTopic(m.name, value)
	case value.kind != None:
		if m.attribute == gridTime && !isTime(value.text()) {
			d.property(m.name, "is not a date-time, and the topic's mapping takes eventTime from it: received '%s', expected text like 2024-05-01T10:00:00Z.", shorten(value.text()))
		}
	case m.attribute == gridDataVersion:
		*value = noText
	case m.attribute == gridID:
		*value = member{value: AppendQuoted(nil, d.NewID()), kind: String}
	case m.attribute == gridTime:
		*value = member{value: []byte(`"` + FormatTime(d.Received) + `"`), kind: String}
	case m.name == "":
		d.report("Event %d: the topic's mapping gives %s of schema %s neither a sourceField nor a defaultValue.", d.count, attribute, d.schema.InputName())
	default:
		d.property(m.name, "is required and is missing or blank: the topic's mapping takes %s from it and has no default.", attribute)
	}
}
