package amqppeer

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Symbol is a symbolic value.
type Symbol string

// described is a value with a numeric descriptor.
type described struct {
	code  uint64
	value any
}

// appendValue encodes a value in the widest form of its type, descriptors in the smallest.
// Source: AMQP 1.0, part 1, section 1.6.
func appendValue(b []byte, value any) []byte {
	variable := func(constructor byte, text []byte) []byte {
		b = binary.BigEndian.AppendUint32(append(b, constructor), uint32(len(text)))
		return append(b, text...)
	}
	switch v := value.(type) {
	case nil:
		return append(b, 0x40)
	case bool:
		if v {
			return append(b, 0x41)
		}
		return append(b, 0x42)
	case uint8:
		return append(b, 0x50, v)
	case uint16:
		return binary.BigEndian.AppendUint16(append(b, 0x60), v)
	case uint32:
		return binary.BigEndian.AppendUint32(append(b, 0x70), v)
	case uint64:
		return binary.BigEndian.AppendUint64(append(b, 0x80), v)
	case []byte:
		return variable(0xb0, v)
	case string:
		return variable(0xb1, []byte(v))
	case Symbol:
		return variable(0xb3, []byte(v))
	case described:
		return appendValue(append(b, 0, 0x53, byte(v.code)), v.value) // client libraries read no other form of descriptors
	case []any:
		var items []byte
		for _, item := range v {
			items = appendValue(items, item)
		}
		b = binary.BigEndian.AppendUint32(append(b, 0xd0), uint32(len(items)+4))
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		return append(b, items...)
	}
	panic(fmt.Sprintf("amqppeer cannot encode %T", value))
}

// reader decodes values. What it cannot read ends it with a panic of wireError.
type reader struct{ b []byte }

type wireError struct{ text string }

func (e wireError) Error() string { return e.text }

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		panic(wireError{fmt.Sprintf("%d bytes are wanted of %d", n, len(r.b))})
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) number(width int) (n uint64) {
	for _, b := range r.take(width) {
		n = n<<8 | uint64(b)
	}
	return n
}

// value reads the next value.
func (r *reader) value() any {
	constructor := r.take(1)[0]
	if constructor == 0 {
		code, ok := r.value().(uint64)
		if !ok {
			panic(wireError{"a descriptor is no number"})
		}
		return described{code, r.value()}
	}
	return r.of(constructor)
}

// of reads the value that follows a constructor.
func (r *reader) of(constructor byte) any {
	switch constructor {
	case 0x40:
		return nil
	case 0x41:
		return true
	case 0x42:
		return false
	case 0x56:
		return r.number(1) != 0
	case 0x50:
		return uint8(r.number(1))
	case 0x60:
		return uint16(r.number(2))
	case 0x43:
		return uint32(0)
	case 0x52:
		return uint32(r.number(1))
	case 0x70:
		return uint32(r.number(4))
	case 0x44:
		return uint64(0)
	case 0x53:
		return r.number(1)
	case 0x80:
		return r.number(8)
	case 0x51:
		return int8(r.number(1))
	case 0x61:
		return int16(r.number(2))
	case 0x54:
		return int32(int8(r.number(1)))
	case 0x71:
		return int32(r.number(4))
	case 0x55:
		return int64(int8(r.number(1)))
	case 0x81, 0x83:
		return int64(r.number(8))
	case 0x82:
		return math.Float64frombits(r.number(8))
	case 0xa0:
		return r.take(int(r.number(1)))
	case 0xb0:
		return r.take(int(r.number(4)))
	case 0xa1:
		return string(r.take(int(r.number(1))))
	case 0xb1:
		return string(r.take(int(r.number(4))))
	case 0xa3:
		return Symbol(r.take(int(r.number(1))))
	case 0xb3:
		return Symbol(r.take(int(r.number(4))))
	case 0x45:
		return []any{}
	case 0xc0:
		return r.list(1)
	case 0xd0:
		return r.list(4)
	case 0xc1:
		return pairs(r.list(1))
	case 0xd1:
		return pairs(r.list(4))
	case 0xe0:
		return r.array(1)
	case 0xf0:
		return r.array(4)
	}
	panic(wireError{fmt.Sprintf("constructor %#x is not known", constructor)})
}

func (r *reader) list(width int) []any {
	in := reader{r.take(int(r.number(width)))}
	out := []any{}
	for range in.number(width) {
		out = append(out, in.value())
	}
	return out
}

func (r *reader) array(width int) []any {
	in := reader{r.take(int(r.number(width)))}
	n, constructor := in.number(width), in.take(1)[0]
	out := []any{}
	for range n {
		out = append(out, in.of(constructor))
	}
	return out
}

func pairs(list []any) map[any]any {
	if len(list)%2 != 0 {
		panic(wireError{"a map has a key without a value"})
	}
	m := map[any]any{}
	for i := 0; i < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}
