package faults

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testTornWrite kills the server and puts the beginning of a write behind the last
// one, as a process leaves it that was stopped while it wrote. Nothing was
// acknowledged of it, so nothing is lost.
func testTornWrite(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	w.load()
	t.Logf("%d torn writes", w.during(share, w.tear))
	w.check()
}

func (w *world) tear() {
	w.pause(200*time.Millisecond, 2*time.Second)
	w.down()
	path, raw, records := w.lastBlock()
	w.torn++
	last := records[len(records)-1]
	whole := raw[last.from:last.to]
	w.rewrite(path, append(raw[:last.to:last.to], whole[:1+w.rng.IntN(len(whole)-1)]...))
	w.up()
}

// testFlippedByte kills the server and changes one byte in one of the newest frames
// of the log, never in the very last: those after it show that it was acknowledged.
// The frame's own events are lost where they had not been delivered, the server says
// so, and every other event arrives.
func testFlippedByte(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	w.load()
	t.Logf("%d bytes flipped", w.during(share, w.flip))
	w.check()
}

func (w *world) flip() {
	w.pause(200*time.Millisecond, 2*time.Second)
	w.down()
	path, raw, records := w.lastBlock()
	if len(records) < 3 {
		w.up()
		return
	}
	w.flipped++
	newest := records[max(0, len(records)-40) : len(records)-1]
	hit := newest[w.rng.IntN(len(newest))]
	w.excuse(raw[hit.from:hit.to], "its frame was damaged")
	at := hit.from + w.rng.IntN(hit.to-hit.from)
	raw[at] ^= 1 << w.rng.IntN(8)
	w.t.Logf("byte %d of %s", at, filepath.Base(path))
	w.rewrite(path, raw)
	w.up()
}

var idsInFrame = regexp.MustCompile(`"id":"(\d+)"`)

// excuse takes the events of a frame out of what must arrive.
func (w *world) excuse(frame []byte, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range idsInFrame.FindAllSubmatch(frame, -1) {
		if id, err := strconv.Atoi(string(m[1])); err == nil {
			w.excused[id] = why
		}
	}
}

// span is where a record stands in a file.
type span struct{ from, to int }

// lastBlock reads the file that the log is written to, and finds its records.
func (w *world) lastBlock() (path string, raw []byte, records []span) {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.s.Dir, "jetstream", "$G", "streams", "EV-00", "msgs", "*.blk"))
	if err != nil || len(paths) == 0 {
		w.t.Fatalf("the log has no files: %v", err)
	}
	newest := -1
	for _, p := range paths {
		if n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(p), ".blk")); err == nil && n > newest {
			newest, path = n, p
		}
	}
	if raw, err = os.ReadFile(path); err != nil {
		w.t.Fatal(err)
	}
	for at := 0; at+4 <= len(raw); {
		size := int(binary.LittleEndian.Uint32(raw[at:]) &^ (1 << 31))
		if size <= 0 || at+size > len(raw) {
			break // the kill itself cut a write
		}
		records = append(records, span{at, at + size})
		at += size
	}
	if len(records) == 0 {
		w.t.Fatalf("the log's file %s is empty", path)
	}
	return path, raw, records
}

func (w *world) rewrite(path string, raw []byte) {
	w.t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		w.t.Fatal(err)
	}
}
