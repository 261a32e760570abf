package event

import (
	"bytes"
	"fmt"
)

// dataLast is what stands between the attributes and the data of a stored Event
// Grid event: its data is the last member.
const dataLast = `,"data":`

// Parse fills e from a stored event in one pass. It keeps raw and allocates
// nothing unless an attribute was written with escapes; e may be used again and
// again. The data of an Event Grid event is found without being read. The error
// tells of an object that no decoder of this package has made.
func (e *Event) Parse(raw []byte, s Schema) error {
	*e = Event{Schema: s, Raw: raw}
	if (s == EventGridSchema || s == CustomEventSchema) && e.parseGrid() {
		return nil
	}
	*e = Event{Schema: s, Raw: raw}
	return e.walk(raw, s)
}

// parseGrid is Parse of an Event Grid event that stands as a decoder stores it: members in
// one order, without space, here without escapes. It reports whether e does; most do, and
// are read a few times as fast.
func (e *Event) parseGrid() bool {
	rest := e.Raw
	for _, m := range [...]struct {
		before string
		text   *[]byte
	}{
		{`{"topic":"`, &e.Source}, {`,"subject":"`, &e.Subject}, {`,"eventType":"`, &e.Type}, {`,"eventTime":"`, &e.Time}, {`,"id":"`, &e.ID}, {`,"dataVersion":"`, &e.DataVersion},
	} {
		if len(rest) < len(m.before) || string(rest[:len(m.before)]) != m.before {
			return false
		}
		rest = rest[len(m.before):]
		end := bytes.IndexByte(rest, '"')
		if end < 0 || bytes.IndexByte(rest[:end], '\\') >= 0 {
			return false
		}
		*m.text, rest = rest[:end], rest[end+1:]
	}
	const version = `,"metadataVersion":"1"`
	rest, found := bytes.CutPrefix(rest, []byte(version))
	switch {
	case !found:
		return false
	case string(rest) == "}":
		return true
	case bytes.HasPrefix(rest, []byte(dataLast)) && rest[len(rest)-1] == '}':
		e.Data = rest[len(dataLast) : len(rest)-1]
		return true
	}
	return false
}

// walk is Parse, member by member.
func (e *Event) walk(raw []byte, s Schema) error {
	c := Walk(raw)
	for c.Next() {
		var at *[]byte
		switch s {
		case EventGridSchema, CustomEventSchema:
			at = e.gridAttribute(c.Key)
		case CloudEventSchemaV1_0:
			at = e.cloudAttribute(c.Key)
		default:
			return fmt.Errorf("parse a stored event: %s is not known", s)
		}
		switch {
		case at == nil:
			// The stored form has nothing but data behind metadataVersion.
			if s != CloudEventSchemaV1_0 && string(c.Key) == gridNames[gridMetadataVersion] &&
				bytes.HasPrefix(raw[c.at:], []byte(dataLast)) && raw[len(raw)-1] == '}' {
				e.Data = raw[c.at+len(dataLast) : len(raw)-1]
				return nil
			}
		case at == &e.Data:
			e.Data = c.Value
		case c.Kind == String:
			*at = text(c.Value, c.ValueEscaped)
		default:
			return fmt.Errorf("parse a stored event: property '%s' is %s, not String", c.Key, c.Kind)
		}
	}
	if err := c.Err(); err != nil {
		return fmt.Errorf("parse a stored event: %w", err)
	}
	if kind := KindOf(raw[skipSpace(raw, 0):]); kind != Object {
		return fmt.Errorf("parse a stored event: it is %s, not StartObject", kind)
	}
	if s == CloudEventSchemaV1_0 {
		e.DataVersion = bytes.TrimPrefix(e.DataVersion, []byte{'#'})
	}
	return nil
}

func (e *Event) gridAttribute(name []byte) *[]byte {
	switch string(name) {
	case "id":
		return &e.ID
	case "topic":
		return &e.Source
	case "eventType":
		return &e.Type
	case "subject":
		return &e.Subject
	case "eventTime":
		return &e.Time
	case "dataVersion":
		return &e.DataVersion
	case "data":
		return &e.Data
	}
	return nil
}

func (e *Event) cloudAttribute(name []byte) *[]byte {
	switch string(name) {
	case "id":
		return &e.ID
	case "source":
		return &e.Source
	case "type":
		return &e.Type
	case "subject":
		return &e.Subject
	case "time":
		return &e.Time
	case "dataschema":
		return &e.DataVersion
	case "data":
		return &e.Data
	}
	return nil
}
