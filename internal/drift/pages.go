package drift

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
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
