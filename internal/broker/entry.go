package broker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/carillon-events/carillon/internal/engine"
)

// A journal message: version, uvarint watermark, uvarint oldest message still
// needed, from version 3 on uvarint place in its flush and uvarint how many messages
// of the flush follow, then entries. An entry is a tag, a uvarint length and that many bytes;
// a reader passes over tags it does not know and bytes it does not expect at the
// end of one. Integers are big-endian where fixed, Go's varints where not.
//
// Version 2 came with the copies of the park: who does not know them would look for
// those events in the log and give them up. Version 3 came with flushes of several
// messages, and only those have it: who takes one of them for a flush would move the
// watermark past events that the next one tells of. Earlier ones are read as before.
const (
	wholeVersion   = 2 // a flush of one message
	journalVersion = 3
)

const maxHeader = 1 + 4*binary.MaxVarintLen64 // bytes before the entries

type tag uint8

const (
	tagOpen       tag = 1  // a delivery at or below the watermark that is not settled
	tagClosed     tag = 2  // an open delivery that was settled for good
	tagAttempt    tag = 3  // history: one attempt and what came of it
	tagLag        tag = 4  // where a lagging event subscription must be read from; 0 = it is live
	tagBreaker    tag = 5  // a breaker that moved
	tagGeneration tag = 6  // a filter generation
	tagGone       tag = 7  // an event subscription was deleted; its open deliveries are discarded
	tagRestate    tag = 8  // forget what earlier messages said of this event subscription; its whole state follows
	tagReplayed   tag = 9  // an open replay of a dead letter that was settled for good
	tagLogEnds    tag = 10 // a start found that the log ends at a frame (in place of a uid): what earlier messages say of later ones is of events that are lost
)

// openEntry is the stored form of a delivery that is not settled.
type openEntry struct {
	uid       uint64
	pos       engine.Position
	replay    bool // a new delivery of what was settled before; the body is in the dead letters
	logged    bool // of a replay: the body is in the log
	attempts  int
	outcome   Outcome
	status    int
	published int64  // Unix milliseconds, ingest time
	due       int64  // Unix milliseconds, 0 = at once
	last      int64  // Unix milliseconds of the last attempt, 0 = none
	reason    Reason // not empty: given up, and its dead letter is being stored
	parked    uint64 // copy in the park that has the event, 0 = none
	aborts    int    // attempts that failed inside Carillon
}

// attemptEntry is the stored form of one attempt: the history of an event.
type attemptEntry struct {
	uid      uint64
	pos      engine.Position
	number   int
	start    int64 // Unix milliseconds
	duration int64 // microseconds
	outcome  Outcome
	status   int
	detail   string // of failures only, at most 200 bytes
}

type breakerEntry struct {
	uid      uint64
	failures int
	rest     int64 // milliseconds
	until    int64 // Unix milliseconds
}

type generationEntry struct {
	uid    uint64
	number uint64
	from   uint64 // first log sequence it applies to
	filter []byte // the filter's JSON
}

// entryWriter appends entries to a buffer.
type entryWriter struct {
	buf   []byte
	start int
}

func (w *entryWriter) begin(t tag, uid uint64) {
	w.buf = append(w.buf, byte(t), 0) // the length is one byte for every entry but a long one; see end
	w.start = len(w.buf)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uid)
}

func (w *entryWriter) end() {
	n := len(w.buf) - w.start
	if n < 0x80 {
		w.buf[w.start-1] = byte(n)
		return
	}
	var l [binary.MaxVarintLen64]byte
	k := binary.PutUvarint(l[:], uint64(n))
	w.buf = append(w.buf, l[:k-1]...) // room for the longer length
	copy(w.buf[w.start+k-1:], w.buf[w.start:w.start+n])
	copy(w.buf[w.start-1:], l[:k])
}

func (w *entryWriter) uvarint(n uint64) { w.buf = binary.AppendUvarint(w.buf, n) }

func (w *entryWriter) open(e openEntry) {
	w.begin(tagOpen, e.uid)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(e.pos))
	flags := byte(0)
	if e.replay {
		flags |= openReplay
	}
	if e.logged {
		flags |= openLogged
	}
	if e.reason != "" {
		flags |= openBurying
	}
	if e.parked != 0 {
		flags |= openParked
	}
	if e.aborts > 0 {
		flags |= openAborted
	}
	w.buf = append(w.buf, flags, byte(e.outcome))
	w.uvarint(uint64(e.attempts))
	w.uvarint(uint64(e.status))
	w.uvarint(uint64(e.published))
	w.uvarint(uint64(e.due))
	w.uvarint(uint64(e.last))
	if e.reason != "" {
		w.uvarint(uint64(len(e.reason)))
		w.buf = append(w.buf, e.reason...)
	}
	if e.parked != 0 {
		w.uvarint(e.parked)
	}
	if e.aborts > 0 {
		w.uvarint(uint64(e.aborts))
	}
	w.end()
}

// Flags of an open entry.
const (
	openReplay  = 1
	openBurying = 2 // a reason follows the last field
	openLogged  = 4
	openParked  = 8  // the copy's sequence in the park follows the reason
	openAborted = 16 // how many attempts failed inside Carillon follows that
)

func (w *entryWriter) closed(uid uint64, pos engine.Position, replay bool) {
	t := tagClosed
	if replay {
		t = tagReplayed
	}
	w.begin(t, uid)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(pos))
	w.end()
}

func (w *entryWriter) attempt(e attemptEntry) {
	w.begin(tagAttempt, e.uid)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(e.pos))
	w.buf = append(w.buf, byte(e.outcome))
	w.uvarint(uint64(e.number))
	w.uvarint(uint64(e.status))
	w.uvarint(uint64(e.start))
	w.uvarint(uint64(e.duration))
	if e.outcome != Delivered {
		w.uvarint(uint64(len(e.detail)))
		w.buf = append(w.buf, e.detail...)
	}
	w.end()
}

func (w *entryWriter) lag(uid uint64, from engine.Position) {
	w.begin(tagLag, uid)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(from))
	w.end()
}

func (w *entryWriter) breaker(e breakerEntry) {
	w.begin(tagBreaker, e.uid)
	w.uvarint(uint64(e.failures))
	w.uvarint(uint64(e.rest))
	w.uvarint(uint64(e.until))
	w.end()
}

func (w *entryWriter) generation(e generationEntry) {
	w.begin(tagGeneration, e.uid)
	w.uvarint(e.number)
	w.uvarint(e.from)
	w.uvarint(uint64(len(e.filter)))
	w.buf = append(w.buf, e.filter...)
	w.end()
}

func (w *entryWriter) plain(t tag, uid uint64) { w.begin(t, uid); w.end() }

var errEntry = errors.New("journal entry is malformed")

// fields reads an entry's bytes; the first short read makes all later ones fail.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) u64() uint64 {
	if len(f.b) < 8 {
		f.bad = true
		return 0
	}
	v := binary.BigEndian.Uint64(f.b)
	f.b = f.b[8:]
	return v
}

func (f *fields) u8() byte {
	if len(f.b) < 1 {
		f.bad = true
		return 0
	}
	v := f.b[0]
	f.b = f.b[1:]
	return v
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad = true
		f.b = nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) bytes() []byte {
	n := f.uvarint()
	if n > uint64(len(f.b)) {
		f.bad = true
		return nil
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

// journalHeader is the head of a journal message.
type journalHeader struct {
	watermark uint64 // W: every frame up to it is matched and handed out
	oldest    uint64 // the oldest journal message still needed to start
	part      uint64 // place in its flush, from 0
	left      uint64 // messages of the flush that follow
}

func (h journalHeader) append(buf []byte) []byte {
	version := byte(wholeVersion)
	if h.part+h.left > 0 {
		version = journalVersion
	}
	buf = append(buf, version)
	buf = binary.AppendUvarint(buf, h.watermark)
	buf = binary.AppendUvarint(buf, h.oldest)
	if version >= 3 {
		buf = binary.AppendUvarint(buf, h.part)
		buf = binary.AppendUvarint(buf, h.left)
	}
	return buf
}

// entryHandler takes the entries of journal messages in order.
type entryHandler interface {
	open(openEntry)
	closed(uid uint64, pos engine.Position, replay bool)
	attempt(attemptEntry)
	lag(uid uint64, from engine.Position)
	breaker(breakerEntry)
	generation(generationEntry)
	gone(uid uint64)
	restate(uid uint64)
	logEnds(last uint64)
}

func readHeader(payload []byte) (journalHeader, []byte, error) {
	f := fields{b: payload}
	v := f.u8()
	if v == 0 || v > journalVersion {
		return journalHeader{}, nil, fmt.Errorf("journal message has version %d, this binary knows versions up to %d", v, journalVersion)
	}
	h := journalHeader{watermark: f.uvarint(), oldest: f.uvarint()}
	if v >= 3 {
		h.part, h.left = f.uvarint(), f.uvarint()
	}
	if f.bad {
		return journalHeader{}, nil, fmt.Errorf("journal header: %w", errEntry)
	}
	return h, f.b, nil
}

// cutEntries cuts entries into parts of at most so many bytes, and of at least one
// entry. Of none there is one part.
func cutEntries(entries []byte, most int) (parts [][]byte) {
	for len(entries) > most {
		n := 0
		for f := (fields{b: entries}); len(f.b) > 0; n = len(entries) - len(f.b) {
			f.u8()
			f.bytes()
			if n > 0 && len(entries)-len(f.b) > most {
				break
			}
		}
		parts = append(parts, entries[:n])
		entries = entries[n:]
	}
	if len(entries) > 0 || len(parts) == 0 {
		parts = append(parts, entries)
	}
	return parts
}

// readEntries decodes one journal message into h.
func readEntries(payload []byte, h entryHandler) (journalHeader, error) {
	head, rest, err := readHeader(payload)
	if err != nil {
		return head, err
	}
	f := fields{b: rest}
	for len(f.b) > 0 {
		t := tag(f.u8())
		e := fields{b: f.bytes()}
		if f.bad {
			return head, fmt.Errorf("journal: %w", errEntry)
		}
		uid := e.u64()
		switch t {
		case tagOpen:
			o := openEntry{uid: uid, pos: engine.Position(e.u64())}
			flags := e.u8()
			o.replay, o.logged, o.outcome = flags&openReplay != 0, flags&openLogged != 0, Outcome(e.u8())
			o.attempts, o.status = int(e.uvarint()), int(e.uvarint())
			o.published, o.due, o.last = int64(e.uvarint()), int64(e.uvarint()), int64(e.uvarint())
			if flags&openBurying != 0 {
				o.reason = Reason(e.bytes())
			}
			if flags&openParked != 0 {
				o.parked = e.uvarint()
			}
			if flags&openAborted != 0 {
				o.aborts = int(e.uvarint())
			}
			if !e.bad {
				h.open(o)
			}
		case tagClosed, tagReplayed:
			if pos := engine.Position(e.u64()); !e.bad {
				h.closed(uid, pos, t == tagReplayed)
			}
		case tagAttempt:
			a := attemptEntry{uid: uid, pos: engine.Position(e.u64()), outcome: Outcome(e.u8())}
			a.number, a.status = int(e.uvarint()), int(e.uvarint())
			a.start, a.duration = int64(e.uvarint()), int64(e.uvarint())
			if a.outcome != Delivered {
				a.detail = string(e.bytes())
			}
			if !e.bad {
				h.attempt(a)
			}
		case tagLag:
			if pos := engine.Position(e.u64()); !e.bad {
				h.lag(uid, pos)
			}
		case tagBreaker:
			b := breakerEntry{uid: uid, failures: int(e.uvarint()), rest: int64(e.uvarint()), until: int64(e.uvarint())}
			if !e.bad {
				h.breaker(b)
			}
		case tagGeneration:
			g := generationEntry{uid: uid, number: e.uvarint(), from: e.uvarint(), filter: e.bytes()}
			if !e.bad {
				h.generation(g)
			}
		case tagGone:
			if !e.bad {
				h.gone(uid)
			}
		case tagRestate:
			if !e.bad {
				h.restate(uid)
			}
		case tagLogEnds:
			if !e.bad {
				h.logEnds(uid)
			}
		}
		if e.bad {
			return head, fmt.Errorf("journal entry of kind %d: %w", t, errEntry)
		}
	}
	return head, nil
}
