package drift

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"
)

// values makes the reader of a page's values, which gives them one by one. The bytes of
// a value are good until the next one.
func (c chunk) values(encoding format.Encoding, data []byte, n int) (func() (parquet.Value, error), error) {
	switch encoding {
	case format.Plain:
		return c.plain(data, n)
	case format.RLE:
		if c.kind != parquet.Boolean {
			break
		}
		own, _, err := prefixed(data)
		if err != nil {
			return nil, err
		}
		levels, err := newHybrid(own, 1)
		return func() (parquet.Value, error) {
			x, err := levels.next()
			return parquet.BooleanValue(x != 0), err
		}, err
	case format.DeltaBinaryPacked:
		deltas, err := newDelta(data, n)
		switch c.kind {
		case parquet.Int32:
			return func() (parquet.Value, error) {
				x, err := deltas.next()
				return parquet.Int32Value(int32(x)), err
			}, err
		case parquet.Int64:
			return func() (parquet.Value, error) {
				x, err := deltas.next()
				return parquet.Int64Value(x), err
			}, err
		}
	case format.DeltaLengthByteArray:
		if c.kind == parquet.ByteArray {
			next, err := deltaLengths(data, n)
			return func() (parquet.Value, error) {
				b, err := next()
				return parquet.ByteArrayValue(b), err
			}, err
		}
	case format.DeltaByteArray:
		if c.kind == parquet.ByteArray || c.kind == parquet.FixedLenByteArray {
			return c.shared(data, n)
		}
	case format.ByteStreamSplit:
		return c.split(data)
	}
	return nil, fmt.Errorf("values of type %s in the encoding %s cannot be read", c.kind, encoding)
}

// width is the size of a value in bytes, or 0.
func (c chunk) width() int {
	switch c.kind {
	case parquet.Int32, parquet.Float:
		return 4
	case parquet.Int64, parquet.Double:
		return 8
	case parquet.Int96:
		return 12
	case parquet.FixedLenByteArray:
		return c.length
	}
	return 0
}

// fixed is a value of so many bytes.
func (c chunk) fixed(b []byte) parquet.Value {
	switch c.kind {
	case parquet.Int32:
		return parquet.Int32Value(int32(binary.LittleEndian.Uint32(b)))
	case parquet.Int64:
		return parquet.Int64Value(int64(binary.LittleEndian.Uint64(b)))
	case parquet.Float:
		return parquet.FloatValue(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case parquet.Double:
		return parquet.DoubleValue(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case parquet.Int96:
		return parquet.Int96Value(deprecated.Int96{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])})
	}
	return parquet.FixedLenByteArrayValue(b)
}

func (c chunk) plain(data []byte, n int) (func() (parquet.Value, error), error) {
	switch c.kind {
	case parquet.Boolean:
		in := bitReader{b: data}
		return func() (parquet.Value, error) {
			x, err := in.read(1)
			return parquet.BooleanValue(x != 0), err
		}, nil
	case parquet.ByteArray:
		return func() (parquet.Value, error) {
			own, rest, err := prefixed(data)
			if err != nil {
				return parquet.Value{}, err
			}
			data = rest
			return parquet.ByteArrayValue(own), nil
		}, nil
	}
	width := c.width()
	return func() (parquet.Value, error) {
		if len(data) < width {
			return parquet.Value{}, damaged("a page is too short")
		}
		v := c.fixed(data[:width])
		data = data[width:]
		return v, nil
	}, nil
}

// split reads values whose first bytes stand together, and whose second ones, and so on.
func (c chunk) split(data []byte) (func() (parquet.Value, error), error) {
	width := c.width()
	if width == 0 {
		return nil, fmt.Errorf("values of type %s in the encoding BYTE_STREAM_SPLIT cannot be read", c.kind)
	}
	n, i, b := len(data)/width, 0, make([]byte, min(width, len(data)))
	return func() (parquet.Value, error) {
		if i >= n {
			return parquet.Value{}, damaged("a page is too short")
		}
		for j := range b {
			b[j] = data[j*n+i]
		}
		i++
		return c.fixed(b), nil
	}, nil
}

// deltaLengths reads texts whose lengths stand before them.
func deltaLengths(data []byte, n int) (func() ([]byte, error), error) {
	lengths, err := newDelta(data, n)
	if err != nil {
		return nil, err
	}
	end, err := lengths.end()
	if err != nil {
		return nil, err
	}
	data = data[end:]
	return func() ([]byte, error) {
		x, err := lengths.next()
		if err != nil {
			return nil, err
		}
		if x < 0 || x > int64(len(data)) {
			return nil, damaged("a page is too short")
		}
		own := data[:x]
		data = data[x:]
		return own, nil
	}, nil
}

// shared reads texts that are written as what differs from the one before.
func (c chunk) shared(data []byte, n int) (func() (parquet.Value, error), error) {
	prefixes, err := newDelta(data, n)
	if err != nil {
		return nil, err
	}
	end, err := prefixes.end()
	if err != nil {
		return nil, err
	}
	suffix, err := deltaLengths(data[end:], n)
	if err != nil {
		return nil, err
	}
	var last []byte
	total := int64(0)
	return func() (parquet.Value, error) {
		keep, err := prefixes.next()
		if err != nil {
			return parquet.Value{}, err
		}
		more, err := suffix()
		if err != nil {
			return parquet.Value{}, err
		}
		if keep < 0 || keep > int64(len(last)) {
			return parquet.Value{}, damaged("a text has more of the one before than there is")
		}
		if total += keep + int64(len(more)); total > mostShared {
			return parquet.Value{}, tooLarge("a page with texts", total, mostShared)
		}
		last = append(last[:keep], more...)
		if c.kind == parquet.FixedLenByteArray {
			return parquet.FixedLenByteArrayValue(last), nil
		}
		return parquet.ByteArrayValue(last), nil
	}, nil
}

// bitReader reads numbers of so many bits, the lowest first.
type bitReader struct {
	b  []byte
	at int // bit
}

func (r *bitReader) read(width int) (uint64, error) {
	if width > len(r.b)*8-r.at {
		return 0, damaged("a page is too short")
	}
	at, shift := r.at/8, r.at%8
	r.at += width
	var x uint64
	if len(r.b)-at >= 8 {
		x = binary.LittleEndian.Uint64(r.b[at:])
	} else {
		var tail [8]byte
		copy(tail[:], r.b[at:])
		x = binary.LittleEndian.Uint64(tail[:])
	}
	x >>= shift
	if over := shift + width - 64; over > 0 {
		x |= uint64(r.b[at+8]) << (64 - shift)
	}
	return x & (1<<width - 1), nil // 1<<64 is 0
}

// hybrid reads runs of equal numbers and groups of packed ones.
// Source: github.com/apache/parquet-format, Encodings.md, "RLE/Bit-Packing Hybrid".
type hybrid struct {
	b         []byte
	width     int
	left      int // of the run or the groups
	run       bool
	value     uint64
	packed    bitReader
	highFirst bool // as the deprecated packing has it
}

func newHybrid(b []byte, width int) (*hybrid, error) {
	if width > 32 {
		return nil, damaged("numbers of %d bits", width)
	}
	return &hybrid{b: b, width: width}, nil
}

func (h *hybrid) next() (uint64, error) {
	for h.left == 0 {
		head, n := binary.Uvarint(h.b)
		if n <= 0 {
			if h.width == 0 && len(h.b) == 0 {
				return 0, nil // all are 0, and some leave it at that
			}
			return 0, damaged("a page is too short")
		}
		h.b = h.b[n:]
		if head>>1 > mostValues {
			return 0, damaged("a run of %d values", head>>1)
		}
		h.left = int(head >> 1)
		if h.run = head&1 == 0; h.run {
			size := (h.width + 7) / 8
			if size > len(h.b) {
				return 0, damaged("a page is too short")
			}
			h.value = 0
			for i, b := range h.b[:size] {
				h.value |= uint64(b) << (8 * i)
			}
			h.b = h.b[size:]
			continue
		}
		size := min(h.left*h.width, len(h.b)) // the last group may be cut
		h.left *= 8
		h.packed = bitReader{b: h.b[:size]}
		h.b = h.b[size:]
	}
	h.left--
	if h.run {
		return h.value, nil
	}
	if h.highFirst {
		x, err := h.packed.read(h.width)
		return bits.Reverse64(x) >> (64 - h.width), err
	}
	return h.packed.read(h.width)
}

// reversed has the bits of each byte in the other order.
func reversed(b []byte) []byte {
	out := make([]byte, len(b))
	for i, x := range b {
		out[i] = bits.Reverse8(x)
	}
	return out
}

// delta reads numbers as what they differ by from the one before.
// Source: github.com/apache/parquet-format, Encodings.md, "Delta Encoding".
type delta struct {
	b      []byte
	at     int
	parts  int // of a block
	size   int // of a part, in values
	left   int // values, with the first
	first  bool
	last   int64
	least  int64
	widths []byte // of the block's parts, those that follow
	packed bitReader
	width  int
	inPart int // values left of it
}

func newDelta(b []byte, n int) (*delta, error) {
	d := &delta{b: b, first: true}
	block, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	parts, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	count, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	if block > 1<<20 || parts == 0 || parts > block || block%parts != 0 || block/parts%8 != 0 || count > uint64(n) {
		return nil, damaged("the numbers of a page make no sense")
	}
	d.parts, d.size, d.left = int(parts), int(block/parts), int(count)
	d.last, err = d.varint()
	return d, err
}

func (d *delta) uvarint() (uint64, error) {
	x, n := binary.Uvarint(d.b[d.at:])
	if n <= 0 {
		return 0, damaged("a page is too short")
	}
	d.at += n
	return x, nil
}

func (d *delta) varint() (int64, error) {
	x, err := d.uvarint()
	return int64(x>>1) ^ -int64(x&1), err
}

func (d *delta) next() (int64, error) {
	if d.left == 0 {
		return 0, damaged("a page is too short")
	}
	d.left--
	if d.first {
		d.first = false
		return d.last, nil
	}
	if d.inPart == 0 {
		if err := d.part(); err != nil {
			return 0, err
		}
	}
	d.inPart--
	x, err := d.packed.read(d.width)
	d.last += d.least + int64(x)
	return d.last, err
}

// part goes on to the next part that has values.
func (d *delta) part() (err error) {
	if len(d.widths) == 0 {
		if d.least, err = d.varint(); err != nil {
			return err
		}
		if d.parts > len(d.b)-d.at {
			return damaged("a page is too short")
		}
		d.widths = d.b[d.at : d.at+d.parts]
		d.at += d.parts
	}
	d.width, d.widths = int(d.widths[0]), d.widths[1:]
	if d.width > 64 {
		return damaged("numbers of %d bits", d.width)
	}
	size := min(d.size*d.width/8, len(d.b)-d.at) // the last one may be cut
	d.packed = bitReader{b: d.b[d.at : d.at+size]}
	d.at, d.inPart = d.at+size, d.size
	return nil
}

// end is where the numbers end.
func (d *delta) end() (int, error) {
	ahead := *d
	for ahead.left--; ahead.left > 0; ahead.left -= ahead.size {
		if err := ahead.part(); err != nil {
			return 0, err
		}
	}
	return ahead.at, nil
}
