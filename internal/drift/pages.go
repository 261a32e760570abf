package drift

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// What a Parquet file may claim. The library takes memory as a file says, up to
// 2 GiB for a page of a few bytes; here a page is unpacked and decoded value by value,
// and refused before memory is taken where it claims more than this.
const (
	mostFooter     = 16 << 20
	mostStructs    = 100_000  // of a footer: some 30,000 column chunks
	mostSchema     = 10_000   // elements, groups among them
	mostDepth      = 100      // of groups in groups
	mostThrift     = 32       // of structures in structures
	mostHeader     = 1 << 20  // bytes of a page's header
	mostPage       = 64 << 20 // bytes of a page, packed or not
	mostValues     = 16 << 20 // of a page
	mostDictionary = 2 << 20  // values
	mostShared     = 1 << 30  // bytes of a page's texts that are written as what differs from the one before
)

// plainDictionary is how older files name RLEDictionary.
const plainDictionary format.Encoding = 2

func damaged(format string, args ...any) error {
	return fmt.Errorf("the Parquet file is damaged: "+format, args...)
}

func tooLarge(what string, has, most int64) error {
	return fmt.Errorf("the Parquet file has %s of %d, and %d are read at most: write it with smaller ones", what, has, most)
}

// scanThrift finds the end of a structure in Thrift's compact protocol. It counts down
// the structures in lists, which take more memory than they do bytes.
// Source: github.com/apache/thrift, doc/specs/thrift-compact-protocol.md.
type scanThrift struct {
	b       []byte
	at      int
	structs int
}

var errShort = fmt.Errorf("it ends too early: %w", io.ErrUnexpectedEOF)

func (s *scanThrift) byte() (byte, error) {
	if s.at >= len(s.b) {
		return 0, errShort
	}
	s.at++
	return s.b[s.at-1], nil
}

func (s *scanThrift) uvarint() (uint64, error) {
	x, n := binary.Uvarint(s.b[s.at:])
	if n == 0 {
		return 0, errShort
	}
	if n < 0 {
		return 0, errors.New("a number is too long")
	}
	s.at += n
	return x, nil
}

func (s *scanThrift) skip(n uint64) error {
	if n > uint64(len(s.b)-s.at) {
		return errShort
	}
	s.at += int(n)
	return nil
}

func (s *scanThrift) structure(depth int) error {
	if depth > mostThrift {
		return errors.New("its structures are too deep")
	}
	for {
		head, err := s.byte()
		if err != nil || head == 0 {
			return err
		}
		if head>>4 == 0 { // the field's number follows
			if _, err := s.uvarint(); err != nil {
				return err
			}
		}
		if kind := head & 15; kind > 2 { // true and false are in the head
			if err := s.value(kind, depth); err != nil {
				return err
			}
		}
	}
}

func (s *scanThrift) value(kind byte, depth int) error {
	switch kind {
	case 1, 2, 3: // in a list
		return s.skip(1)
	case 4, 5, 6:
		_, err := s.uvarint()
		return err
	case 7:
		return s.skip(8)
	case 8:
		n, err := s.uvarint()
		if err != nil {
			return err
		}
		return s.skip(n)
	case 9, 10:
		head, err := s.byte()
		if err != nil {
			return err
		}
		size := uint64(head >> 4)
		if size == 15 {
			if size, err = s.uvarint(); err != nil {
				return err
			}
		}
		return s.list(size, depth, head&15)
	case 11:
		size, err := s.uvarint()
		if err != nil || size == 0 {
			return err
		}
		kinds, err := s.byte()
		if err != nil {
			return err
		}
		return s.list(size, depth, kinds>>4, kinds&15)
	case 12:
		return s.structure(depth + 1)
	}
	return fmt.Errorf("it has values of an unknown kind %d", kind)
}

// list passes over the elements of a list, or the pairs of a map.
func (s *scanThrift) list(size uint64, depth int, kinds ...byte) error {
	if size > uint64(len(s.b)-s.at) { // each takes a byte at least
		return errShort
	}
	for range size {
		for _, kind := range kinds {
			if kind > 8 {
				if s.structs--; s.structs < 0 {
					return errors.New("it has too many structures")
				}
			}
			if kind > 8 && depth >= mostThrift {
				return errors.New("its structures are too deep")
			}
			if err := s.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// A chunk is what one row group has of a column that does not repeat.
type chunk struct {
	source   io.ReaderAt
	size     int64 // of the file
	kind     parquet.Kind
	length   int // of values of a fixed length
	optional int // greatest definition level; a value is there where it is reached
	meta     *format.ColumnChunk
	rows     int64
}

// A pageReader reads chunks, with the buffers of those before.
type pageReader struct {
	in           *bufio.Reader
	packed, page []byte
	zstd         *zstd.Decoder
}

func (r *pageReader) close() {
	if r.zstd != nil {
		r.zstd.Close()
	}
}

// eachValue calls each for the values of a chunk, in order, as of makes them; none is
// the zero value and there is false. A dictionary's values are made once.
func eachValue[T any](r *pageReader, c chunk, of func(parquet.Value) T, each func(v T, there bool) error) error {
	meta := &c.meta.MetaData
	if c.meta.FilePath != "" || c.meta.CryptoMetadata.Value != nil {
		return errors.New("it lies in another file, or is encrypted")
	}
	start := meta.DataPageOffset
	if d := meta.DictionaryPageOffset; d > 0 && d < start {
		start = d
	}
	if start < 0 || start > c.size || meta.TotalCompressedSize < 0 {
		return damaged("its pages lie outside the file")
	}
	section := io.NewSectionReader(c.source, start, min(meta.TotalCompressedSize, c.size-start))
	if r.in == nil {
		r.in = bufio.NewReaderSize(section, 64<<10)
	}
	r.in.Reset(section)
	var dictionary []T
	var none T
	for left := c.rows; left > 0; {
		header, err := r.header(section)
		if err != nil {
			return err
		}
		if header == nil {
			return nil // the caller sees it by the number of values
		}
		body, err := r.body(header)
		if err != nil {
			return err
		}
		switch header.Type {
		case format.DictionaryPage:
			n := int64(header.DictionaryPageHeader.V.NumValues)
			if !header.DictionaryPageHeader.Valid || n < 0 || dictionary != nil {
				return damaged("its dictionary makes no sense")
			}
			if n > mostDictionary {
				return tooLarge("a dictionary", n, mostDictionary)
			}
			data, err := r.unpack(meta.Codec, body, int(header.UncompressedPageSize))
			if err != nil {
				return err
			}
			next, err := c.plain(data, int(n))
			if err != nil {
				return err
			}
			dictionary = make([]T, 0, n)
			for range n {
				v, err := next()
				if err != nil {
					return err
				}
				dictionary = append(dictionary, of(v))
			}
			continue
		case format.DataPage, format.DataPageV2:
		default:
			continue // an index
		}
		n, encoding, levels, data, err := r.dataPage(c, header, body)
		if err != nil {
			return err
		}
		if int64(n) > left {
			return damaged("it has more values than its row group has rows")
		}
		left -= int64(n)
		var value func() (T, error)
		if encoding == plainDictionary || encoding == format.RLEDictionary {
			if len(data) == 0 {
				data = []byte{0}
			}
			indexes, err := newHybrid(data[1:], int(data[0]))
			if err != nil {
				return err
			}
			value = func() (T, error) {
				i, err := indexes.next()
				if err != nil || i >= uint64(len(dictionary)) {
					return none, errors.Join(err, damaged("it has values that its dictionary does not have"))
				}
				return dictionary[i], nil
			}
		} else {
			next, err := c.values(encoding, data, n)
			if err != nil {
				return err
			}
			value = func() (T, error) {
				v, err := next()
				if err != nil {
					return none, err
				}
				return of(v), nil
			}
		}
		for range n {
			v, there := none, true
			if levels != nil {
				level, err := levels.next()
				if err != nil {
					return err
				}
				there = level == uint64(c.optional)
			}
			if there {
				if v, err = value(); err != nil {
					return err
				}
			}
			if err := each(v, there); err != nil {
				return err
			}
		}
	}
	return nil
}

// header reads a page's header; nil is the end.
func (r *pageReader) header(section *io.SectionReader) (*format.PageHeader, error) {
	var scan scanThrift
	var wrong error
	for _, size := range []int{1 << 10, r.in.Size()} {
		head, err := r.in.Peek(size)
		if len(head) == 0 && errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		scan = scanThrift{b: head, structs: 100}
		if wrong = scan.structure(0); !errors.Is(wrong, errShort) || len(head) < size {
			break
		}
	}
	if errors.Is(wrong, errShort) && len(scan.b) == r.in.Size() {
		at, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		long := make([]byte, mostHeader)
		n, err := section.ReadAt(long, at-int64(r.in.Buffered()))
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		scan = scanThrift{b: long[:n], structs: 100}
		wrong = scan.structure(0)
	}
	if wrong != nil {
		return nil, damaged("the header of a page: %w", wrong)
	}
	header := new(format.PageHeader)
	if err := thrift.Unmarshal(&thrift.CompactProtocol{}, scan.b[:scan.at], header); err != nil {
		return nil, damaged("the header of a page: %w", err)
	}
	if _, err := r.in.Discard(scan.at); err != nil {
		return nil, err
	}
	return header, nil
}

// body reads what is packed of a page. It is good until the next one.
func (r *pageReader) body(h *format.PageHeader) ([]byte, error) {
	packed, unpacked := int64(h.CompressedPageSize), int64(h.UncompressedPageSize)
	if packed < 0 || unpacked < 0 {
		return nil, damaged("a page has a negative size")
	}
	if most := max(packed, unpacked); most > mostPage {
		return nil, tooLarge("a page", most, mostPage)
	}
	for read := 0; read < int(packed); { // as it comes: a claim takes no memory
		step := min(int(packed)-read, max(1<<20, read))
		r.packed = grown(r.packed, read+step, read)
		n, err := io.ReadFull(r.in, r.packed[read:read+step])
		read += n
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("a page: %w", err)
		}
	}
	r.packed = grown(r.packed, int(packed), int(packed))
	if h.CRC != 0 && crc32.ChecksumIEEE(r.packed) != uint32(h.CRC) {
		return nil, damaged("the checksum of a page is wrong")
	}
	return r.packed, nil
}

// grown is a buffer of a size, with what it holds up to a place.
func grown(b []byte, size, keep int) []byte {
	if cap(b) >= size {
		return b[:size]
	}
	larger := make([]byte, size)
	copy(larger, b[:keep])
	return larger
}

// dataPage takes a page apart: how many values it has, missing ones among them, how
// they are written, their levels (nil: none is missing) and where they are.
func (r *pageReader) dataPage(c chunk, h *format.PageHeader, body []byte) (n int, encoding format.Encoding, levels *hybrid, data []byte, err error) {
	count, codec := h.DataPageHeader.V.NumValues, c.meta.MetaData.Codec
	two := h.Type == format.DataPageV2
	if two {
		count = h.DataPageHeaderV2.V.NumValues
	}
	switch {
	case count < 0 || two && !h.DataPageHeaderV2.Valid || !two && !h.DataPageHeader.Valid:
		return 0, 0, nil, nil, damaged("the header of a page makes no sense")
	case count > mostValues:
		return 0, 0, nil, nil, tooLarge("a page with values", int64(count), mostValues)
	}
	width := bits.Len(uint(c.optional))
	if two {
		v := &h.DataPageHeaderV2.V
		repeated, defined := int(v.RepetitionLevelsByteLength), int(v.DefinitionLevelsByteLength)
		if repeated < 0 || defined < 0 || repeated > len(body) || defined > len(body)-repeated || repeated+defined > int(h.UncompressedPageSize) {
			return 0, 0, nil, nil, damaged("the levels of a page lie outside it")
		}
		if c.optional > 0 {
			if levels, err = newHybrid(body[repeated:repeated+defined], width); err != nil {
				return 0, 0, nil, nil, err
			}
		}
		body = body[repeated+defined:]
		if v.IsCompressed.Valid && !v.IsCompressed.V {
			codec = format.Uncompressed
		}
		data, err = r.unpack(codec, body, int(h.UncompressedPageSize)-repeated-defined)
		return int(count), v.Encoding, levels, data, err
	}
	v := &h.DataPageHeader.V
	if data, err = r.unpack(codec, body, int(h.UncompressedPageSize)); err != nil {
		return 0, 0, nil, nil, err
	}
	if c.optional > 0 {
		var own []byte
		switch v.DefinitionLevelEncoding {
		case format.BitPacked:
			length := (int(count)*width + 7) / 8
			if length > len(data) {
				return 0, 0, nil, nil, damaged("the levels of a page lie outside it")
			}
			own, data = reversed(data[:length]), data[length:]
			levels = &hybrid{width: width, packed: bitReader{b: own}, left: int(count), highFirst: true}
		default:
			if own, data, err = prefixed(data); err == nil {
				levels, err = newHybrid(own, width)
			}
			if err != nil {
				return 0, 0, nil, nil, err
			}
		}
	}
	return int(count), v.Encoding, levels, data, nil
}

// prefixed splits off bytes whose number stands before them.
func prefixed(data []byte) (own, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, damaged("a page is too short")
	}
	n := binary.LittleEndian.Uint32(data)
	if int64(n) > int64(len(data)-4) {
		return nil, nil, damaged("a page is too short")
	}
	return data[4 : 4+n], data[4+n:], nil
}

// unpack unpacks bytes into as many as are told, and no more.
func (r *pageReader) unpack(codec format.CompressionCodec, packed []byte, size int) ([]byte, error) {
	if codec == format.Uncompressed {
		return packed, nil
	}
	if size == 0 && len(packed) == 0 {
		return nil, nil
	}
	var err error
	switch codec {
	case format.Snappy:
		var told int
		if told, err = snappy.DecodedLen(packed); err == nil && told != size {
			err = errors.New("its size is not that of its header")
		}
		if err == nil {
			r.page = grown(r.page, size, 0)
			_, err = snappy.Decode(r.page, packed)
		}
	case format.Zstd:
		if r.zstd == nil {
			if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(mostPage), zstd.WithDecodeAllCapLimit(true)); err != nil {
				return nil, err
			}
		}
		r.page = grown(r.page, size, 0)
		var out []byte
		if out, err = r.zstd.DecodeAll(packed, r.page[:0:size]); err == nil && len(out) != size {
			err = errors.New("its size is not that of its header")
		}
	case format.Gzip:
		var in io.Reader
		if in, err = gzip.NewReader(bytes.NewReader(packed)); err == nil {
			err = r.fill(in, size)
		}
	case format.Brotli:
		err = r.fill(brotli.NewReader(bytes.NewReader(packed)), size)
	case format.Lz4Raw:
		r.page = grown(r.page, size, 0)
		var n int
		if n, err = lz4.UncompressBlock(packed, r.page); err == nil && n != size {
			err = errors.New("its size is not that of its header")
		}
	default:
		return nil, fmt.Errorf("pages packed by %s cannot be read: write them with snappy, gzip, zstd, lz4_raw, brotli or unpacked", codec)
	}
	if err != nil {
		return nil, damaged("a page cannot be unpacked: %w", err)
	}
	return r.page, nil
}

// fill unpacks a stream, whose claim takes no memory.
func (r *pageReader) fill(in io.Reader, size int) error {
	for read := 0; read < size; {
		step := min(size-read, max(1<<20, read))
		r.page = grown(r.page, read+step, read)
		n, err := io.ReadFull(in, r.page[read:read+step])
		read += n
		if err != nil {
			return err
		}
	}
	r.page = grown(r.page, size, size)
	if n, err := in.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return errors.New("its size is not that of its header")
	}
	return nil
}

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
