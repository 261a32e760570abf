package event

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// Limits of one publish request. Source: spec/events.md section 1, "Sizes".
const (
	MaxEventBytes    = 1_049_600 // one event as compact JSON
	MaxRequestBytes  = 1_536_000 // the whole body
	MaxRequestEvents = 5_000
)

// DecodeOptions say what a request is decoded for. Limits of zero are the
// service's own.
type DecodeOptions struct {
	Topic   string // ARM id of the addressed topic: stamped into Event Grid events, and the only topic they may name
	Domain  bool   // Topic is the id of a domain: each event names the one of its topics that it is for
	Lenient bool   // takes CloudEvents without source or specversion and with numbers and booleans as text

	// What custom input gets that has none of its own. Unset, the present time and
	// random UUIDs.
	Received time.Time
	NewID    func() string

	MaxEventBytes   int
	MaxRequestBytes int
	MaxEvents       int
}

// Codes of an InvalidError. Source: spec/events.md section 8.6.
const (
	InputJSONInvalid        = "InputJsonInvalid"
	InvalidCloudEventHeader = "InvalidCloudEventHeader"
	InvalidContentType      = "InvalidContentType"
	PayloadTooLarge         = "PayloadTooLarge"
	Unauthorized            = "Unauthorized"
)

// InvalidError is the first problem of a publish request. Nothing of the request
// may be stored then.
type InvalidError struct {
	Code    string // one of the codes above, shown to the publisher
	Message string // full sentences: event, property, schema, what was expected and received
	Index   int    // of the event in the request, -1 if the problem is not in one event
}

// Error returns the message.
func (e *InvalidError) Error() string { return e.Message }

// decoder turns one request body into stored events. The problems are kept apart
// because they have an order: JSON syntax anywhere in the body goes first, then
// the size of any event, then the rules. Source: spec/events.md section 8.6,
// "Check order".
type decoder struct {
	DecodeOptions
	schema   Schema
	body     []byte
	topic    []byte // Topic as a JSON string
	events   []Event
	count    int           // events seen, decoded or not
	tooLarge *InvalidError // of the first event over its limit
	broken   *InvalidError // of the first event that breaks a rule

	source []byte // of the event being read, where that is a topic of a domain, as a JSON string

	// Stored forms of one request stand one behind the other in few blocks of
	// memory. Attributes point into them, so a block never moves: one that is
	// full is left to its events and the next is begun.
	block []byte

	members    [maxMembers]member // known members of the event being read
	extensions []extension        // extension attributes of the CloudEvent being read
	mapped     [6]mappedMember    // what is looked for in custom input
}

// member is one property as it was published; kind None means absent.
type member struct {
	value   []byte
	kind    Kind
	escaped bool
}

// text is the text of a member whose value is a string.
func (m *member) text() []byte { return text(m.value, m.escaped) }

// blank reports whether a member is absent or a string of nothing but space.
func (m *member) blank() bool {
	return m.kind == None || m.kind == String && len(bytes.TrimSpace(m.text())) == 0
}

func newDecoder(schema Schema, body []byte, o DecodeOptions) *decoder {
	if o.MaxEventBytes == 0 {
		o.MaxEventBytes = MaxEventBytes
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = MaxRequestBytes
	}
	if o.MaxEvents == 0 {
		o.MaxEvents = MaxRequestEvents
	}
	d := decoders.Get().(*decoder)
	d.DecodeOptions, d.schema, d.body, d.topic = o, schema, body, AppendQuoted(d.topic, o.Topic)
	return d
}

// decoders are reset ones: they are large, and a request needs one for a moment.
var decoders = sync.Pool{New: func() any { return new(decoder) }}

// free gives d to the next request. Events own their memory and hold nothing of it.
func (d *decoder) free() {
	clear(d.extensions)
	*d = decoder{topic: d.topic[:0], source: d.source[:0], extensions: d.extensions[:0]}
	decoders.Put(d)
}

// request decodes a body that is an array of events, or one event if object is
// set; array says whether an array is accepted.
func (d *decoder) request(array, object bool) ([]Event, error) {
	if err := d.checkSize(); err != nil {
		return nil, err
	}
	expected := Array
	if !array {
		expected = Object
	}
	i := skipSpace(d.body, 0)
	if i == len(d.body) {
		return nil, d.invalid(-1, "The body is empty: expected JSON token %s of schema %s, received None.", expected, d.schema.InputName())
	}
	kind := KindOf(d.body[i:])
	var syntax *SyntaxError
	switch {
	case kind == Array && array:
		i, syntax = d.array(i)
	case kind == Object && object:
		i, syntax = d.object(i, 0)
	default:
		i, syntax = scanValue(d.body, i, 0)
		d.broken = d.invalid(-1, "The body does not fit schema %s: expected JSON token %s, received %s.", d.schema.InputName(), expected, kind)
	}
	index := d.count // of the event in which the syntax ends
	if syntax == nil || kind != Array {
		index = -1
	}
	if syntax == nil {
		if i = skipSpace(d.body, i); i < len(d.body) {
			syntax = unexpected(d.body, i, "the end of the text")
		}
	}
	switch {
	case syntax != nil:
		return nil, d.malformed(index, syntax)
	case d.count > d.MaxEvents:
		return nil, &InvalidError{Code: PayloadTooLarge, Index: -1, Message: fmt.Sprintf(
			"The request holds %d events; the limit is %d events per request. Publish the rest in further requests.", d.count, d.MaxEvents)}
	case d.tooLarge != nil:
		return nil, d.tooLarge
	case d.broken != nil:
		return nil, d.broken
	case d.count == 0:
		return nil, d.invalid(-1, "The array is empty: expected JSON token StartObject of schema %s, received EndArray.", d.schema.InputName())
	}
	return d.events, nil
}

func (d *decoder) checkSize() error {
	if len(d.body) > d.MaxRequestBytes {
		return TooLargeRequest(d.MaxRequestBytes)
	}
	return nil
}

// TooLargeRequest is the problem of a body over limit bytes, for a server that
// stops reading there.
func TooLargeRequest(limit int) *InvalidError {
	return &InvalidError{Code: PayloadTooLarge, Index: -1, Message: fmt.Sprintf(
		"The request body is over the limit of %d bytes. Publish fewer events in one request.", limit)}
}

// array decodes the events of the array at i.
func (d *decoder) array(i int) (int, *SyntaxError) {
	if i = skipSpace(d.body, i+1); i < len(d.body) && d.body[i] == ']' {
		return i + 1, nil
	}
	for {
		var syntax *SyntaxError
		if i < len(d.body) && d.body[i] == '{' {
			i, syntax = d.object(i, 1)
		} else {
			kind := KindOf(d.body[i:])
			if i, syntax = scanValue(d.body, i, 1); syntax == nil {
				d.report("Event %d does not fit schema %s: expected JSON token StartObject, received %s.", d.count, d.schema.InputName(), kind)
				d.count++
			}
		}
		if syntax != nil {
			return i, syntax
		}
		i = skipSpace(d.body, i)
		if i < len(d.body) && d.body[i] == ',' {
			i = skipSpace(d.body, i+1)
			continue
		}
		if i < len(d.body) && d.body[i] == ']' {
			return i + 1, nil
		}
		return i, unexpected(d.body, i, "',' or ']'")
	}
}

// object decodes the event at i, which stands inside depth arrays.
func (d *decoder) object(i, depth int) (int, *SyntaxError) {
	if d.schema == CustomEventSchema {
		depth = 1 // it will stand in its envelope
	}
	c := walkAt(d.body, i, depth+1)
	switch d.schema {
	case CloudEventSchemaV1_0:
		d.readCloud(&c)
	case CustomEventSchema:
		d.readCustom(&c)
	default:
		d.readGrid(&c)
	}
	if c.err != nil {
		return c.at, c.err
	}
	if size := c.at - i; size > d.MaxEventBytes && d.tooLarge == nil {
		if size = compactSize(d.body[i:c.at]); size > d.MaxEventBytes {
			d.tooLarge = tooLargeEvent(d.count, size, d.MaxEventBytes)
		}
	}
	if d.broken == nil && d.tooLarge == nil && d.count < d.MaxEvents {
		switch d.schema {
		case CloudEventSchemaV1_0:
			d.reserve(c.at-i, c.at)
			d.storeCloud()
		case CustomEventSchema:
			d.storeCustom(d.body[i:c.at], c.at)
		default:
			d.reserve(c.at-i, c.at)
			d.storeGrid()
		}
	}
	d.count++
	return c.at, nil
}

func tooLargeEvent(index, size, limit int) *InvalidError {
	return &InvalidError{Code: PayloadTooLarge, Index: index, Message: fmt.Sprintf(
		"Event %d has %d bytes as compact JSON; the limit is %d bytes per event. Store the payload elsewhere and publish a reference to it.", index, size, limit)}
}

// compactSize counts the bytes of valid JSON without the space between tokens.
func compactSize(raw []byte) (n int) {
	for i := 0; i < len(raw); {
		switch raw[i] {
		case ' ', '\t', '\r', '\n':
			i++
		case '"':
			end, _, _ := scanString(raw, i+1)
			n += end - i
			i = end
		default:
			n++
			i++
		}
	}
	return n
}

// reserve makes room for the stored form of the event that stands in the first
// end bytes of the body and has size of them, and for followers like it.
func (d *decoder) reserve(size, end int) {
	const names = 192 // more than the names and constants of a stored form
	need := size + len(d.topic) + names
	if cap(d.block)-len(d.block) >= need {
		return
	}
	followers := min((len(d.body)-end)/size, d.MaxEvents-d.count)
	d.block = make([]byte, 0, need*(1+followers))
	if d.events == nil {
		d.events = make([]Event, 0, 1+followers)
	}
}

// put appends a member to the stored form, a name such as `,"id":` and the value
// as it was published, and returns the text of a string.
func (d *decoder) put(name string, m *member) []byte {
	d.block = append(d.block, name...)
	start := len(d.block)
	d.block = append(d.block, m.value...)
	if m.kind != String {
		return nil
	}
	return text(d.block[start:], m.escaped)
}

// putText appends a member whose value is a string made of a string, a number or
// a boolean, and returns its text.
func (d *decoder) putText(name string, m *member) []byte {
	if m.kind == String {
		return d.put(name, m)
	}
	d.block = append(d.block, name...)
	start := len(d.block)
	d.block = AppendQuoted(d.block, m.value)
	return text(d.block[start:], false)
}

// report keeps the first problem of the request, which is in the event being read.
func (d *decoder) report(format string, args ...any) {
	if d.broken == nil {
		d.broken = d.invalid(d.count, format, args...)
	}
}

func (d *decoder) invalid(index int, format string, args ...any) *InvalidError {
	return &InvalidError{Code: InputJSONInvalid, Index: index, Message: fmt.Sprintf(format, args...)}
}

// property reports a problem of one property of the event being read.
func (d *decoder) property(name, problem string, args ...any) {
	if d.broken == nil {
		d.report("Event %d: property '%s' of schema %s %s", d.count, shorten(name), d.schema.InputName(), fmt.Sprintf(problem, args...))
	}
}

func (d *decoder) malformed(index int, syntax *SyntaxError) *InvalidError {
	where := ""
	if index >= 0 {
		where = fmt.Sprintf(" (event %d)", index)
	}
	return d.invalid(index, "The body is not JSON of schema %s: %s at byte %d%s.", d.schema.InputName(), syntax.Reason, syntax.Offset, where)
}

// shorten cuts published text down to what a message should show.
func shorten[T string | []byte](text T) string {
	const most = 256
	if len(text) <= most {
		return string(text)
	}
	return string(bytes.ToValidUTF8([]byte(text[:most]), nil)) + "…"
}
