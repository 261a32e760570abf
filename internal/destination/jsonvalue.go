package destination

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/carillon-events/carillon/event"
)

// jsonValue is JSON of the event as a value of an expression; nil is null.
func (f *facts) jsonValue(raw []byte) ref.Val {
	switch event.KindOf(raw) {
	case event.Object:
		return &jsonObject{of: f, raw: raw}
	case event.None:
		return types.NullValue
	case event.String:
		if text := raw[1 : len(raw)-1]; bytes.IndexByte(text, '\\') < 0 {
			return types.String(text)
		}
	case event.Number:
		if n, err := strconv.ParseFloat(string(raw), 64); err == nil {
			return types.Double(n)
		}
	}
	var v any
	if json.Unmarshal(raw, &v) != nil { // a number beyond all, or no event of ours
		f.err = errNoEvent
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

var errNoEvent = errors.New("the event is not JSON, or has a number that is too large")

// mostLooks is how many times the length of the event is read in search of members, before
// whatever is asked is decoded as a whole: then a look costs the same in all objects. To
// decode one counts as that many.
const mostLooks = 16

// jsonObject is an object of the event. A member is looked for where it stands, and only what
// needs all of them decodes them: most expressions take a few values of an event, or pass an
// object on as it is. It satisfies traits.Mapper.
type jsonObject struct {
	of      *facts
	raw     []byte
	members traits.Mapper // decoded, nil until that was needed
}

var _ traits.Mapper = (*jsonObject)(nil)

// all is the object as a map.
func (o *jsonObject) all() traits.Mapper {
	if o.members == nil {
		o.of.looked += mostLooks * len(o.raw)
		m := map[string]any{}
		if json.Unmarshal(o.raw, &m) != nil {
			o.of.err = errNoEvent
		}
		o.members = types.NewStringInterfaceMap(types.DefaultTypeAdapter, m)
	}
	return o.members
}

// Find satisfies traits.Mapper. Of members of one name the last counts, as everywhere.
func (o *jsonObject) Find(key ref.Val) (ref.Val, bool) {
	name, is := key.(types.String)
	if !is {
		return nil, false
	}
	if o.members != nil || o.of.looked > mostLooks*len(o.of.raw) {
		return o.all().Find(key)
	}
	o.of.looked += len(o.raw)
	var value []byte
	for c := event.Walk(o.raw); c.Next(); {
		if c.KeyEscaped && string(event.AppendUnquoted(nil, c.Key)) == string(name) || !c.KeyEscaped && string(c.Key) == string(name) {
			value = c.Value
		}
	}
	if value == nil {
		return nil, false
	}
	return o.of.jsonValue(value), true
}

// Get satisfies traits.Mapper.
func (o *jsonObject) Get(key ref.Val) ref.Val {
	if v, found := o.Find(key); found {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

// Contains satisfies traits.Mapper.
func (o *jsonObject) Contains(key ref.Val) ref.Val {
	_, found := o.Find(key)
	return types.Bool(found)
}

// Iterator satisfies traits.Mapper.
func (o *jsonObject) Iterator() traits.Iterator { return o.all().Iterator() }

// Size satisfies traits.Mapper.
func (o *jsonObject) Size() ref.Val { return o.all().Size() }

// ConvertToNative satisfies ref.Val.
func (o *jsonObject) ConvertToNative(to reflect.Type) (any, error) {
	return o.all().ConvertToNative(to)
}

// ConvertToType satisfies ref.Val.
func (o *jsonObject) ConvertToType(to ref.Type) ref.Val { return o.all().ConvertToType(to) }

// Equal satisfies ref.Val.
func (o *jsonObject) Equal(other ref.Val) ref.Val { return o.all().Equal(other) }

// Type satisfies ref.Val.
func (o *jsonObject) Type() ref.Type { return types.MapType }

// Value satisfies ref.Val.
func (o *jsonObject) Value() any { return o.all().Value() }
