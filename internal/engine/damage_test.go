package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// blockFile is the first file of a stream.
func blockFile(dir, stream string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs", "1.blk")
}

// change rewrites a file.
func change(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip changes one bit near a text.
func flip(text string, offset int) func([]byte) []byte {
	return func(raw []byte) []byte {
		raw[bytes.Index(raw, []byte(text))+offset] ^= 4
		return raw
	}
}

// readable returns what the log gives out, and "?" for each error about damage.
func readable(t *testing.T, p *Partition) string {
	t.Helper()
	var got []string
	for f, err := range p.Frames(t.Context(), 2) {
		if errors.Is(err, ErrCorrupt) {
			got = append(got, "?")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Records {
			if r.Kind == KindEvent {
				got = append(got, string(r.Data))
			}
		}
	}
	return strings.Join(got, " ")
}

// TestDamagedLog opens logs of eight frames, e1 to e8, that a disk changed after they
// were stored. What is whole is there, under its old positions, and what is not is
// told of.
func TestDamagedLog(t *testing.T) {
	whole := open(t, Options{})
	for i := 1; i <= 8; i++ {
		mustAppend(t, whole.Partition(), eventRecord(fmt.Sprintf("e%d", i)))
	}
	record := func(raw []byte, n int) int { // where the record of en begins
		var at int
		for range n {
			at += int(binary.LittleEndian.Uint32(raw[at:]) &^ blockHeaders)
		}
		return at
	}
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   string
		says   string
	}{
		{"untouched", func(raw []byte) []byte { return raw }, "e1 e2 e3 e4 e5 e6 e7 e8", ""},
		{"a bit of an event", flip("e4", 0), "e1 e2 e3 ? e5 e6 e7 e8", "sequences=5 "},
		{"two events", func(raw []byte) []byte { return flip("e2", 1)(flip("e7", 1)(raw)) }, "e1 ? e3 e4 e5 e6 ? e8", "sequences=8 "},
		{"neighbours", func(raw []byte) []byte { return flip("e4", 0)(flip("e5", 0)(raw)) }, "e1 e2 e3 ? e6 e7 e8", `sequences="5 to 6"`},
		{"the length of a record grows", func(raw []byte) []byte { raw[record(raw, 3)+1] ^= 0x40; return raw }, "e1 e2 ? e4 e5 e6 e7 e8", "sequences=4 "},
		{"the length of a record shrinks", func(raw []byte) []byte { raw[record(raw, 3)] = 30; return raw }, "e1 e2 ? e4 e5 e6 e7 e8", "sequences=4 "},
		{"a sequence", func(raw []byte) []byte { raw[record(raw, 3)+9] ^= 1; return raw }, "e1 e2 ? e4 e5 e6 e7 e8", "sequences=4 "},
		{"the length of headers", func(raw []byte) []byte {
			at := record(raw, 3)
			raw[at+blockHeader+len(logSubject)] ^= 8
			return raw
		}, "e1 e2 ? e4 e5 e6 e7 e8", "sequences=4 "},
		{"a stretch of zeros", func(raw []byte) []byte {
			clear(raw[record(raw, 3)+5 : record(raw, 6)+5])
			return raw
		}, "e1 e2 ? e7 e8", `sequences="4 to 7"`},
		{"the first record", func(raw []byte) []byte { raw[40] ^= 1; return raw }, "e1 e2 e3 e4 e5 e6 e7 e8", "taken out"},
		{"the last event", flip("e8", 0), "e1 e2 e3 e4 e5 e6 e7", "what followed 8"},
		{"a torn last write", func(raw []byte) []byte { return raw[:len(raw)-9] }, "e1 e2 e3 e4 e5 e6 e7", "cut short"},
		{"a torn last write and a bit", func(raw []byte) []byte { return flip("e4", 0)(raw)[:len(raw)-9] }, "e1 e2 e3 ? e5 e6 e7", "cut short"},
		{"a torn header", func(raw []byte) []byte { return raw[:record(raw, 8)+7] }, "e1 e2 e3 e4 e5 e6 e7", "cut short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, whole.opts.Dir)
			var before []byte
			change(t, blockFile(dir, logStream), func(raw []byte) []byte {
				before = c.change(raw)
				return bytes.Clone(before)
			})
			var log bytes.Buffer
			e := open(t, Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if got := readable(t, e.Partition()); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if !strings.Contains(log.String(), c.says) || c.says == "" && strings.Contains(log.String(), "damaged") {
				t.Errorf("the log should say %q: %s", c.says, log.String())
			}
			mustAppend(t, e.Partition(), eventRecord("e9"))
			if got := readable(t, e.Partition()); got != c.want+" e9" {
				t.Errorf("then got %s", got)
			}
			kept, err := filepath.Glob(filepath.Join(dir, "damaged", "*"))
			if err != nil {
				t.Fatal(err)
			}
			if loud := strings.Contains(log.String(), "level=ERROR"); loud != (len(kept) > 0) {
				t.Errorf("kept %v, log %s", kept, log.String())
			}
			if n := e.dir.damagedPieces(); n != int64(len(kept)) {
				t.Errorf("%d pieces are counted, %d kept", n, len(kept))
			}
			for _, path := range kept {
				if raw, err := os.ReadFile(path); err != nil || !bytes.Contains(before, raw) {
					t.Errorf("%s does not hold what was damaged: %v", path, err)
				}
			}
		})
	}
}

// TestDamageAfterGracefulStop: the log is not read at such a start, so its readers
// find the damage, and lose nothing behind it.
func TestDamageAfterGracefulStop(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 8; i++ {
		mustAppend(t, e.Partition(), eventRecord(fmt.Sprintf("e%d", i)))
		if _, err := e.Partition().Journal().Append(t.Context(), fmt.Appendf(nil, "entry %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, blockFile(dir, logStream), func(raw []byte) []byte { return flip("e1", 0)(flip("e4", 0)(raw)) })
	change(t, blockFile(dir, journalStream), flip("entry 3", 0))
	e = open(t, Options{Dir: dir})
	p := e.Partition()
	if got := readable(t, p); got != "? e2 e3 ? e5 e6 e7 e8" {
		t.Errorf("got %s", got)
	}
	if _, err := p.Frame(t.Context(), 5); !errors.Is(err, ErrCorrupt) {
		t.Errorf("frame 5: %v", err)
	}
	var got []string
	for m, err := range p.Journal().Read(t.Context(), 0) {
		if errors.Is(err, ErrCorrupt) {
			m.Payload, err = []byte("?"), nil
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(string(m.Payload), "entry "))
	}
	if s := strings.Join(got, " "); s != "1 2 ? 4 5 6 7 8" {
		t.Errorf("journal: %s", s)
	}
}

// TestDamagedControlPlane: a start is refused, before anything is changed, after a
// graceful stop, too.
func TestDamagedControlPlane(t *testing.T) {
	for _, graceful := range []bool{false, true} {
		dir := t.TempDir()
		e, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if _, err := e.KV().Create(t.Context(), fmt.Sprintf("t/topic-%d", i), fmt.Appendf(nil, "value-%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		crashed := copyDir(t, dir)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if !graceful {
			dir = crashed
		}
		path := blockFile(dir, "KV_CP")
		change(t, path, flip("value-1", 0))
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "topic-1") || !strings.Contains(err.Error(), "backup") {
			t.Errorf("graceful %v: %v", graceful, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("the file was changed: %v", err)
		}
	}
}

// FuzzHoles: whatever a file holds, its records are found and nothing else.
func FuzzHoles(f *testing.F) {
	e := open(f, Options{})
	for i := range 5 {
		mustAppend(f, e.Partition(), eventRecord(fmt.Sprintf("e%d", i)), fact("a/b", "c"))
	}
	raw, err := os.ReadFile(blockFile(e.opts.Dir, logStream))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, byte(1), len(raw))
	f.Add(200, byte(255), len(raw)-3)
	f.Fuzz(func(t *testing.T, at int, mask byte, length int) {
		if at < 0 || at >= len(raw) || length < 0 || length > len(raw) {
			t.Skip()
		}
		b, changed := block{stream: logStream, index: 1, last: true}, bytes.Clone(raw[:length])
		if at < length {
			changed[at] ^= mask
		}
		end, bytesOut := 0, 0
		for _, h := range b.holes(changed) {
			if h.from < end || h.to <= h.from || h.to > len(changed) {
				t.Fatalf("hole %d to %d after %d of %d", h.from, h.to, end, len(changed))
			}
			end, bytesOut = h.to, bytesOut+h.to-h.from
		}
		if length == len(raw) && bytesOut > 300 {
			t.Errorf("one byte cost %d", bytesOut)
		}
	})
}
