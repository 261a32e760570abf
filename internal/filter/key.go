package filter

import (
	"bytes"
	"runtime"
	"strings"
	"sync"
	"weak"

	"github.com/carillon-events/carillon/event"
)

// key is the path of a condition, ready to be walked.
// Source: spec/filtering.md section 4.
type key struct {
	segments []segment
	// What single-segment keys may mean besides a member of that name.
	grid  attribute // the attribute if the key is exactly its name in Event Grid events
	cloud attribute // the same for CloudEvents
	alias attribute // the attribute that the key stands for on any event without such a member
	// Whether a member found is a context attribute if the event is a CloudEvent.
	context bool
	ofData  bool // the first name is data, however it is spelled
}

const dataName = "data"

var dataFolded = fold(dataName)

// segment is one step of a path: a member name, exact and folded.
type segment struct {
	name   []byte
	folded []byte
}

// attribute is one that [event.Event] holds as text.
type attribute uint8

const (
	noAttribute attribute = iota
	idAttribute
	sourceAttribute
	typeAttribute
	subjectAttribute
	timeAttribute
	dataVersionAttribute
)

func gridAttribute(name string) attribute {
	switch name {
	case "id":
		return idAttribute
	case "topic":
		return sourceAttribute
	case "eventType":
		return typeAttribute
	case "subject":
		return subjectAttribute
	case "eventTime":
		return timeAttribute
	case "dataVersion":
		return dataVersionAttribute
	default:
		return noAttribute
	}
}

// cloudAttribute leaves dataschema out: the event holds it without its '#'.
func cloudAttribute(name string) attribute {
	switch name {
	case "id":
		return idAttribute
	case "source":
		return sourceAttribute
	case "type":
		return typeAttribute
	case "subject":
		return subjectAttribute
	case "time":
		return timeAttribute
	default:
		return noAttribute
	}
}

// aliasAttribute makes the spellings of both schemas work on events of either.
func aliasAttribute(folded string) attribute {
	switch folded {
	case "ID", "EVENTID":
		return idAttribute
	case "SOURCE", "TOPIC":
		return sourceAttribute
	case "TYPE", "EVENTTYPE":
		return typeAttribute
	case "SUBJECT":
		return subjectAttribute
	case "TIME", "EVENTTIME":
		return timeAttribute
	case "DATAVERSION", "EVENTTYPEVERSION":
		return dataVersionAttribute
	default:
		return noAttribute
	}
}

func (a attribute) of(e *event.Event) []byte {
	switch a {
	case idAttribute:
		return e.ID
	case sourceAttribute:
		return e.Source
	case typeAttribute:
		return e.Type
	case subjectAttribute:
		return e.Subject
	case timeAttribute:
		return e.Time
	case dataVersionAttribute:
		return e.DataVersion
	default:
		return nil
	}
}

// keys holds the compiled keys in use by path: many conditions name the same few.
var keys sync.Map // of weak.Pointer[key]

// keyOf returns the key of a path, the same one as long as anybody uses it.
func keyOf(path string) *key {
	if w, ok := keys.Load(path); ok {
		if k := w.(weak.Pointer[key]).Value(); k != nil {
			return k
		}
	}
	k := compileKey(path)
	w := weak.Make(k)
	keys.Store(path, w)
	runtime.AddCleanup(k, func(path string) { keys.CompareAndDelete(path, w) }, path)
	return k
}

func compileKey(path string) *key {
	k := &key{}
	for name := range strings.SplitSeq(path, ".") {
		k.segments = append(k.segments, segment{name: []byte(name), folded: fold(name)})
	}
	if first := &k.segments[0]; bytes.Equal(first.folded, dataFolded) {
		k.ofData, first.name = true, []byte(dataName)
	}
	if len(k.segments) == 1 {
		k.grid = gridAttribute(path)
		k.cloud = cloudAttribute(path)
		k.alias = aliasAttribute(string(k.segments[0].folded))
		k.context = !k.ofData
	}
	return k
}

// value is what a key finds in an event.
type value struct {
	kind      event.Kind // None: the key is missing
	raw       []byte     // the JSON text; of a string what stands between its quotes
	escaped   bool       // raw is a string that holds escapes
	attribute bool       // a context attribute of a CloudEvent
}

func textValue(text []byte) value { return value{kind: event.String, raw: text} }

// find resolves the key: in the event as its input schema shows it, then, for
// custom input, in the object that was published.
// Source: spec/filtering.md section 4; spec/events.md section 3, "Filters".
func (k *key) find(e *event.Event) value {
	v := k.findInEnvelope(e)
	if e.Schema == event.CustomEventSchema && k.missing(v) {
		if w := lookUp(e.Data, k.segments); w.kind != event.None {
			return w
		}
	}
	return v
}

// own returns the attribute that the key is exactly the name of in the event's
// schema, nil if there is none.
func (k *key) own(e *event.Event) []byte {
	if e.Schema == event.CloudEventSchemaV1_0 {
		return k.cloud.of(e)
	}
	return k.grid.of(e)
}

func (k *key) findInEnvelope(e *event.Event) value {
	cloud := e.Schema == event.CloudEventSchemaV1_0
	if text := k.own(e); text != nil {
		return textValue(text)
	}
	if e.Data != nil && k.ofData {
		return lookUp(e.Data, k.segments[1:])
	}
	v := lookUp(e.Raw, k.segments)
	if k.missing(v) {
		if text := k.alias.of(e); text != nil {
			return textValue(text)
		}
	}
	v.attribute = cloud && k.context
	return v
}

// missing reports whether v leaves room for another meaning of the key. A null
// attribute equals an absent one; a null deeper inside is what the key means.
func (k *key) missing(v value) bool {
	return v.kind == event.None || v.kind == event.Null && len(k.segments) == 1
}

// lookUp walks from a JSON value along the path. A step into anything but an
// object ends at no value.
func lookUp(raw []byte, path []segment) value {
	v := value{kind: event.KindOf(raw), raw: raw}
	if v.kind == event.String {
		v.raw = raw[1 : len(raw)-1]
		v.escaped = bytes.IndexByte(v.raw, '\\') >= 0
	}
	for i := range path {
		if v.kind != event.Object {
			return value{}
		}
		v = path[i].member(v.raw)
	}
	return v
}

// member returns the member that the segment names: the first one spelled
// exactly so, else the first one that is equal ignoring case.
func (s *segment) member(object []byte) value {
	var buf [128]byte
	var found value
	for c := event.Walk(object); c.Next(); {
		name := c.Key
		if c.KeyEscaped {
			name = event.AppendUnquoted(buf[:0], name)
		}
		if bytes.Equal(name, s.name) {
			return cursorValue(&c)
		}
		if found.kind == event.None && equalFold(name, s.folded) {
			found = cursorValue(&c)
		}
	}
	return found
}

// cursorValue is the value under a cursor.
func cursorValue(c *event.Cursor) value {
	v := value{kind: c.Kind, raw: c.Value, escaped: c.ValueEscaped}
	if v.kind == event.String {
		v.raw = v.raw[1 : len(v.raw)-1]
	}
	return v
}

// text returns the value as string operators see it, decoded into buf if it must
// be. Integers and booleans are strings only as context attributes of CloudEvents,
// which have a canonical string form.
// Source: spec/filtering.md section 5, rule 4; cloudevents/spec v1.0.2, "Type System".
func (v value) text(buf []byte) (text []byte, ok bool) {
	switch v.kind {
	case event.String:
		if v.escaped {
			return event.AppendUnquoted(buf, v.raw), true
		}
		return v.raw, true
	case event.True, event.False:
		return v.raw, v.attribute
	case event.Number:
		if !v.attribute || bytes.ContainsAny(v.raw, ".eE") {
			return nil, false
		}
		if string(v.raw) == "-0" {
			return v.raw[1:], true
		}
		return v.raw, true
	default:
		return nil, false
	}
}
