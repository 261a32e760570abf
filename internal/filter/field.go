package filter

import (
	"github.com/carillon-events/carillon/event"
)

// Field reads one field of events, named as the key of a condition names it.
type Field struct{ key *key }

// NewField returns the Field of a path.
func NewField(path string) Field { return Field{keyOf(path)} }

// Append appends the text of the field to dst: a string's characters, a number or a
// boolean as it is written. ok is false, and dst as it was, when the event has no such
// field or it is null, an array or an object. The text is a publisher's and may hold
// anything.
func (f Field) Append(dst []byte, e *event.Event) (text []byte, ok bool) {
	v := f.key.find(e)
	switch v.kind {
	case event.String:
		if v.escaped {
			return event.AppendUnquoted(dst, v.raw), true
		}
		return append(dst, v.raw...), true
	case event.Number, event.True, event.False:
		return append(dst, v.raw...), true
	default:
		return dst, false
	}
}
