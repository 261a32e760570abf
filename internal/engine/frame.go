package engine

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Position is where a record stands in a partition's log: the sequence of its
// frame in the upper 48 bits, its index in that frame in the lower 16. Positions
// of one partition grow with time and are never reused within a generation.
type Position uint64

// At makes the position of record index of frame seq.
func At(seq uint64, index int) Position { return Position(seq<<16 | uint64(index)) }

// Seq is the sequence of the frame that holds the record.
func (p Position) Seq() uint64 { return uint64(p) >> 16 }

// Index is the record's index in its frame.
func (p Position) Index() int { return int(p & 0xffff) }

// String returns the position as 16 hex digits.
func (p Position) String() string { return fmt.Sprintf("%016x", uint64(p)) }

// Kind tells what a record is.
type Kind uint8

// The kinds of records. A reader passes over kinds it does not know.
const (
	KindEvent    Kind = 1 // an event of a topic; Data is its stored form
	KindFact     Kind = 2 // the full new state of one object; empty Data means the object is gone
	KindTakeover Kind = 3 // a new owner took the partition; Data is its name
)

// Record is one entry of a frame.
type Record struct {
	Kind   Kind
	Schema uint8  // events: the event.Schema of Data
	Flags  uint8  // events: reserved bits, 0 today
	Topic  uint64 // events: uid of the topic they were published to
	Key    string // facts: key of the object, segments separated by "/"
	Data   []byte // facts and events: the stored bytes, never changed after Append
	Holes  []Hole // places in Data that the committer fills; not stored
}

// Hole is a place in a record's Data where the committer writes a sequencer while
// it packs the frame: SequencerSize bytes from Offset. Of names the record, by
// its index in the same Append, whose position the sequencer is made of. That is
// how an event carries its own sequencer and the etag of a fact that is stored
// in the same write, though positions are known only then (fencing makes them
// known before the write).
type Hole struct {
	Offset int
	Of     int
}

// SequencerSize is the length of a sequencer in bytes.
const SequencerSize = 32

// Sequencer returns the sequencer of a position: 16 hex digits of the
// generation, 12 of the log sequence, 4 of the index. Compared as strings,
// sequencers of one workspace order its events.
func Sequencer(generation uint64, p Position) string {
	var b [SequencerSize]byte
	putSequencer(b[:], generation, p)
	return string(b[:])
}

func putSequencer(dst []byte, generation uint64, p Position) {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], generation)
	binary.BigEndian.PutUint64(raw[8:], uint64(p))
	hex.Encode(dst[:SequencerSize], raw[:])
}

// Frame is one message of the event log: the records of one or more requests,
// stored in one durable write. Its Records share memory with the encoded frame
// and must not be changed.
type Frame struct {
	Seq        uint64    // sequence in the partition's log
	Generation uint64    // generation of the owner that wrote it
	Time       time.Time // ingest time of all its records; never falls within a partition
	Nonce      uint64    // tells an owner whether a stored frame is its own
	Records    []Record
	Size       int // encoded size in bytes
}

// Position returns the position of record i.
func (f *Frame) Position(i int) Position { return At(f.Seq, i) }

// Sequencer returns the sequencer of record i.
func (f *Frame) Sequencer(i int) string { return Sequencer(f.Generation, f.Position(i)) }

// The frame format, version 1. All integers are big-endian; uvarint is Go's.
//
//	0  2  magic "CF"
//	2  1  format version, 1
//	3  1  codec of what follows the header, 0 = none
//	4  4  CRC-32C of everything from offset 8
//	8  8  nonce
//	16 8  generation
//	24 8  ingest time, Unix nanoseconds
//	32 4  number of records
//	36 …  records: kind 1, schema 1, flags 1, topic 8, uvarint length and key, uvarint length and data
const (
	frameHeader  = 36
	frameVersion = 1
	maxRecords   = 1 << 16 // an index has 16 bits
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is wrapped by every error about a stored frame that does not decode.
var ErrCorrupt = errors.New("frame is corrupt")

// frameEncoder packs records into one frame whose sequence is known beforehand.
type frameEncoder struct {
	buf        []byte
	count      int
	seq        uint64
	generation uint64
}

func (e *frameEncoder) reset(seq, generation, nonce uint64, at time.Time, capacity int) {
	e.buf = make([]byte, frameHeader, frameHeader+capacity)
	e.count, e.seq, e.generation = 0, seq, generation
	copy(e.buf, "CF")
	e.buf[2], e.buf[3] = frameVersion, 0
	binary.BigEndian.PutUint64(e.buf[8:], nonce)
	binary.BigEndian.PutUint64(e.buf[16:], generation)
	binary.BigEndian.PutUint64(e.buf[24:], uint64(at.UnixNano()))
}

// add appends one request's records and fills their holes.
func (e *frameEncoder) add(records []Record) {
	first := e.count
	for i := range records {
		r := &records[i]
		e.buf = append(e.buf, byte(r.Kind), r.Schema, r.Flags)
		e.buf = binary.BigEndian.AppendUint64(e.buf, r.Topic)
		e.buf = binary.AppendUvarint(e.buf, uint64(len(r.Key)))
		e.buf = append(e.buf, r.Key...)
		e.buf = binary.AppendUvarint(e.buf, uint64(len(r.Data)))
		start := len(e.buf)
		e.buf = append(e.buf, r.Data...)
		for _, h := range r.Holes {
			putSequencer(e.buf[start+h.Offset:], e.generation, At(e.seq, first+h.Of))
		}
		e.count++
	}
}

func (e *frameEncoder) finish() []byte {
	binary.BigEndian.PutUint32(e.buf[32:], uint32(e.count))
	binary.BigEndian.PutUint32(e.buf[4:], crc32.Checksum(e.buf[8:], castagnoli))
	return e.buf
}

// encodedSize is the most bytes records take in a frame.
func encodedSize(records []Record) int {
	n := 0
	for i := range records {
		n += 11 + 2*binary.MaxVarintLen32 + len(records[i].Key) + len(records[i].Data)
	}
	return n
}

// decodeFrame reads an encoded frame stored at seq. The frame's records point
// into b.
func decodeFrame(seq uint64, b []byte) (*Frame, error) {
	corrupt := func(what string) error {
		return fmt.Errorf("%w: frame %d of %d bytes: %s", ErrCorrupt, seq, len(b), what)
	}
	if len(b) < frameHeader || b[0] != 'C' || b[1] != 'F' {
		return nil, corrupt("no frame header")
	}
	if b[2] != frameVersion || b[3] != 0 {
		return nil, corrupt(fmt.Sprintf("version %d codec %d is not known", b[2], b[3]))
	}
	if binary.BigEndian.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
		return nil, corrupt("checksum does not match")
	}
	return parseFrame(seq, b)
}

// parseFrame reads a frame whose header and checksum are known to be good.
func parseFrame(seq uint64, b []byte) (*Frame, error) {
	corrupt := func(what string) error {
		return fmt.Errorf("%w: frame %d of %d bytes: %s", ErrCorrupt, seq, len(b), what)
	}
	count := int(binary.BigEndian.Uint32(b[32:]))
	rest := b[frameHeader:]
	if count > maxRecords || count*13 > len(rest) {
		return nil, corrupt("record count does not fit")
	}
	f := &Frame{
		Seq:        seq,
		Nonce:      binary.BigEndian.Uint64(b[8:]),
		Generation: binary.BigEndian.Uint64(b[16:]),
		Time:       time.Unix(0, int64(binary.BigEndian.Uint64(b[24:]))).UTC(),
		Records:    make([]Record, count),
		Size:       len(b),
	}
	for i := range f.Records {
		if len(rest) < 13 {
			return nil, corrupt("record is cut off")
		}
		r := &f.Records[i]
		r.Kind, r.Schema, r.Flags = Kind(rest[0]), rest[1], rest[2]
		r.Topic = binary.BigEndian.Uint64(rest[3:])
		rest = rest[11:]
		key, after, ok := cutBytes(rest)
		if !ok {
			return nil, corrupt("key is cut off")
		}
		data, after, ok := cutBytes(after)
		if !ok {
			return nil, corrupt("data is cut off")
		}
		r.Key, r.Data, rest = string(key), data, after
	}
	if len(rest) != 0 {
		return nil, corrupt("bytes after the last record")
	}
	return f, nil
}

// cutBytes takes a uvarint length and that many bytes off the front of b. A
// length written with more bytes than it needs is refused, so that a frame has
// one encoding only.
func cutBytes(b []byte) (field, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) || (w > 1 && b[w-1] == 0) {
		return nil, nil, false
	}
	end := w + int(n)
	return b[w:end:end], b[end:], true
}
