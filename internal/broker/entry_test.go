package broker

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/engine"
)

// told collects entries in order.
type told struct{ entries []any }

type closedEntry struct {
	uid    uint64
	pos    engine.Position
	replay bool
}
type lagEntry struct {
	uid  uint64
	from engine.Position
}
type plainEntry struct {
	tag tag
	uid uint64
}

func (c *told) open(e openEntry)       { c.entries = append(c.entries, e) }
func (c *told) attempt(e attemptEntry) { c.entries = append(c.entries, e) }
func (c *told) breaker(e breakerEntry) { c.entries = append(c.entries, e) }
func (c *told) generation(e generationEntry) {
	e.filter = append([]byte(nil), e.filter...)
	c.entries = append(c.entries, e)
}
func (c *told) gone(uid uint64)     { c.entries = append(c.entries, plainEntry{tagGone, uid}) }
func (c *told) restate(uid uint64)  { c.entries = append(c.entries, plainEntry{tagRestate, uid}) }
func (c *told) logEnds(last uint64) { c.entries = append(c.entries, plainEntry{tagLogEnds, last}) }
func (c *told) lag(uid uint64, from engine.Position) {
	c.entries = append(c.entries, lagEntry{uid, from})
}
func (c *told) closed(uid uint64, pos engine.Position, replay bool) {
	c.entries = append(c.entries, closedEntry{uid, pos, replay})
}

// write is the way back.
func (w *entryWriter) write(e any) {
	switch e := e.(type) {
	case openEntry:
		w.open(e)
	case attemptEntry:
		w.attempt(e)
	case breakerEntry:
		w.breaker(e)
	case generationEntry:
		w.generation(e)
	case closedEntry:
		w.closed(e.uid, e.pos, e.replay)
	case lagEntry:
		w.lag(e.uid, e.from)
	case plainEntry:
		w.plain(e.tag, e.uid)
	}
}

func message(w, oldest uint64) *entryWriter {
	return &entryWriter{buf: journalHeader{watermark: w, oldest: oldest}.append(nil)}
}

const farUID = 1<<64 - 3

func someEntries() []any {
	return []any{
		openEntry{uid: 1, pos: engine.At(7, 3)},
		openEntry{uid: farUID, pos: engine.At(1<<48-1, 65535), replay: true, attempts: 29, outcome: Full, status: 599,
			published: 1767225600000, due: 1767225660000, last: 1767225650000},
		openEntry{uid: 1, pos: engine.At(7, 4), attempts: 1, outcome: BadRequest, status: 400, reason: ReasonBadRequest},
		openEntry{uid: 1, pos: engine.At(7, 5), attempts: 9, outcome: Busy, status: 503, due: 1767225660000, parked: 1 << 40},
		openEntry{uid: 1, pos: engine.At(7, 6), attempts: 1, outcome: BadRequest, status: 400, reason: ReasonBadRequest, parked: 1},
		openEntry{uid: 1, pos: engine.At(7, 7), attempts: 2, outcome: Aborted, due: 1767225660000, parked: 2, aborts: 2},
		closedEntry{2, engine.At(8, 0), false},
		closedEntry{2, engine.At(8, 0), true},
		attemptEntry{uid: 3, pos: engine.At(9, 1), number: 1, start: 1767225600000, duration: 812, outcome: Delivered, status: 200},
		attemptEntry{uid: 3, pos: engine.At(9, 1), number: 12, start: 1767225600000, duration: 30_000_000, outcome: TimedOut, detail: "no answer"},
		attemptEntry{uid: 3, pos: engine.At(9, 1), number: 1, outcome: SocketError, detail: strings.Repeat("d", 200)},
		lagEntry{4, 0},
		lagEntry{4, engine.At(10, 2)},
		breakerEntry{uid: 5},
		breakerEntry{uid: 5, failures: 11, rest: 3_600_000, until: 1767225600000},
		generationEntry{uid: 6, number: 1, from: 1, filter: []byte(`{}`)},
		generationEntry{uid: 6, number: 2, from: 1 << 40, filter: []byte(`{"s":"` + strings.Repeat("x", 40_000) + `"}`)},
		plainEntry{tagGone, 7},
		plainEntry{tagRestate, 8},
	}
}

func TestEntriesRoundTrip(t *testing.T) {
	m := message(1<<40, 12)
	want := someEntries()
	for _, e := range want {
		m.write(e)
	}
	var got told
	head, err := readEntries(m.buf, &got)
	if err != nil {
		t.Fatal(err)
	}
	if head != (journalHeader{watermark: 1 << 40, oldest: 12}) {
		t.Errorf("header %+v", head)
	}
	if !reflect.DeepEqual(got.entries, want) {
		t.Errorf("got  %+v\nwant %+v", got.entries, want)
	}
}

// TestCutEntries: the parts are the entries in order, none cut in two, each as long as
// it may be.
func TestCutEntries(t *testing.T) {
	var all, long entryWriter
	want := someEntries()
	for _, e := range want {
		all.write(e)
	}
	long.write(want[len(want)-3]) // 40 KB
	for _, most := range []int{1, 10, 50, 100, 1000, len(long.buf), len(all.buf) - 1, len(all.buf), 1 << 20} {
		var got told
		var before int
		for i, part := range cutEntries(all.buf, most) {
			first := told{}
			if _, err := readEntries(append(journalHeader{}.append(nil), part...), &first); err != nil {
				t.Fatalf("at most %d bytes, part %d: %v", most, i, err)
			}
			if len(part) > most && len(first.entries) > 1 {
				t.Errorf("at most %d bytes: part %d has %d bytes in %d entries", most, i, len(part), len(first.entries))
			}
			var w entryWriter
			if w.write(first.entries[0]); i > 0 && before+len(w.buf) <= most {
				t.Errorf("at most %d bytes: part %d has %d bytes, and the next entry %d", most, i-1, before, len(w.buf))
			}
			before = len(part)
			got.entries = append(got.entries, first.entries...)
		}
		if !reflect.DeepEqual(got.entries, want) {
			t.Errorf("at most %d bytes: got %+v", most, got.entries)
		}
	}
	if parts := cutEntries(nil, 10); len(parts) != 1 || len(parts[0]) != 0 {
		t.Errorf("nothing is %d parts", len(parts))
	}
}

// TestEntriesOfALaterVersion: unknown tags are passed over, and so are bytes that
// an entry has more than this binary expects.
func TestEntriesOfALaterVersion(t *testing.T) {
	m := message(1, 1)
	m.begin(200, 9)
	m.buf = append(m.buf, "something new, longer than one byte can count: "+strings.Repeat(".", 300)...)
	m.end()
	m.begin(tagClosed, 2)
	m.buf = binary.BigEndian.AppendUint64(m.buf, uint64(engine.At(8, 0)))
	m.buf = append(m.buf, "more"...)
	m.end()
	m.write(lagEntry{4, 5})
	var got told
	if _, err := readEntries(m.buf, &got); err != nil {
		t.Fatal(err)
	}
	if want := []any{closedEntry{2, engine.At(8, 0), false}, lagEntry{4, 5}}; !reflect.DeepEqual(got.entries, want) {
		t.Errorf("got %+v", got.entries)
	}
}

// TestEntriesOfVersion1: a message from before the park reads as it did.
func TestEntriesOfVersion1(t *testing.T) {
	m := message(1, 1)
	m.buf[0] = 1
	want := openEntry{uid: 1, pos: engine.At(7, 4), attempts: 1, outcome: BadRequest, status: 400, reason: ReasonBadRequest}
	m.write(want)
	var got told
	if _, err := readEntries(m.buf, &got); err != nil || !reflect.DeepEqual(got.entries, []any{want}) {
		t.Errorf("got %+v %v", got.entries, err)
	}
}

func TestEntriesRefuseDamage(t *testing.T) {
	for name, payload := range map[string][]byte{
		"empty":               {},
		"a later format":      {journalVersion + 1, 1, 1},
		"no format":           {0, 1, 1},
		"no watermark":        {wholeVersion},
		"no oldest":           {wholeVersion, 1},
		"no place in a flush": {journalVersion, 1, 1},
		"no end of a flush":   {journalVersion, 1, 1, 0},
		"entry without bytes": {wholeVersion, 1, 1, byte(tagGone)},
		"entry cut short":     {wholeVersion, 1, 1, byte(tagGone), 8, 1, 2},
		"uid cut short":       {wholeVersion, 1, 1, byte(tagGone), 2, 1, 2},
		"position missing":    {wholeVersion, 1, 1, byte(tagClosed), 8, 1, 2, 3, 4, 5, 6, 7, 8},
		"endless length":      append([]byte{wholeVersion, 1, 1, byte(tagGone)}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"huge length":         append([]byte{wholeVersion, 1, 1, byte(tagGone)}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		t.Run(name, func(t *testing.T) {
			var got told
			_, err := readEntries(payload, &got)
			if err == nil {
				t.Errorf("no error; it told of %+v", got.entries)
			}
			if len(payload) > 0 && payload[0] != 0 && payload[0] <= journalVersion && !errors.Is(err, errEntry) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzReadEntries: foreign bytes never panic, and what is read reads the same when
// it is written again.
func FuzzReadEntries(f *testing.F) {
	m := message(5, 2)
	for _, e := range someEntries()[:10] {
		m.write(e)
	}
	f.Add(m.buf)
	f.Add([]byte{wholeVersion, 1, 1, byte(tagGone), 0xff, 0xff, 3})
	f.Add(append([]byte{journalVersion, 1, 1, 2, 3}, m.buf[3:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second told
		head, err := readEntries(b, &first)
		if err != nil {
			return
		}
		m := &entryWriter{buf: head.append(nil)}
		for _, e := range first.entries {
			m.write(e)
		}
		again, err := readEntries(m.buf, &second)
		if err != nil || again != head || !reflect.DeepEqual(first, second) {
			t.Errorf("%v: %+v %+v\n%+v %+v", err, head, first, again, second)
		}
	})
}
