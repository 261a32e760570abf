package engine

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/highwayhash"
	"golang.org/x/sync/errgroup"
)

// Damage is what a disk did to bytes that were stored: a flipped bit, a page of
// zeros. The store meets it only when it reads its files anew, after a stop that
// was not graceful, and then cuts a file off at the first record that does not hold,
// whole records behind it included. So the files are read before the store is
// started. What does not hold is kept in DIR/damaged and taken out, the rest stays,
// and the loss is logged: frames, journal messages, dead letters and projected facts
// are read one by one, and whoever reads them is told what is missing. Where
// everything is read as one, in the control plane, a start is refused.
//
// A record that ends before its time at the end of the last file is no damage: the
// process was stopped while it wrote, and nobody was told that it is stored.

// refusedStreams are streams in which a record that is lost changes the meaning of
// those around it: who may do what, who gets which events.
var refusedStreams = []string{"KV_CP", "WK"}

// sparedStreams are not read before the start that follows a graceful stop, for
// they are large and the store does not read them anew then. Their readers find out.
var sparedStreams = []string{logStream, journalStream, parkStream}

// The records of a block file, as the store writes them. All integers are
// little-endian; a record is
//
//	0  4  length of the record; the highest bit says that it has headers
//	4  8  sequence; bit 63: erased, bit 62: tells that the sequence was removed
//	12 8  time
//	20 2  length of the subject
//	22 …  subject, then with headers their length (4), then headers and message
//	…  8  HighwayHash-64 of sequence, time, subject, headers and message
//
// Source: nats-server 2.15.2, server/filestore.go, rebuildStateFromBufLocked.
const (
	blockHeader   = 22
	blockHash     = 8
	blockHeaders  = 1 << 31
	blockFlags    = 3 << 62
	farthestAhead = 1 << 24 // sequences between two records in a file
)

// block is one file of a stream's records.
type block struct {
	path   string
	stream string
	index  int
	last   bool // of its stream: the one that is written to
}

// hole is a stretch of a block that holds no whole record. after is the sequence of
// the whole record before it and before that of the one behind it, 0 for none.
type hole struct {
	from, to      int
	after, before uint64
	subject       string // of the record that began there, as far as it can be read
	short         bool   // to the end of the file, which is too short for the record that began there
}

// mend reads the store's files and takes out what is damaged, after it has seen that
// nothing refuses the start. The store must not be running. spare says whether large
// streams are passed over.
func (d *directory) mend(log *slog.Logger, spare bool) error {
	blocks, err := d.blocks()
	if err != nil {
		return fmt.Errorf("look for damage: %w", err)
	}
	var strict, others []block
	for _, b := range blocks {
		switch {
		case slices.Contains(refusedStreams, b.stream):
			strict = append(strict, b)
		case !spare || !slices.Contains(sparedStreams, b.stream):
			others = append(others, b)
		}
	}
	err = examine(strict, func(b block, raw []byte, holes []hole) error {
		for _, h := range holes {
			if !b.torn(h) {
				return b.refusal(h)
			}
		}
		return d.takeOut(log, b, raw, holes)
	})
	if err != nil {
		return err
	}
	return examine(others, func(b block, raw []byte, holes []hole) error { return d.takeOut(log, b, raw, holes) })
}

// examine reads files, several at a time, and calls do for each that has holes.
func examine(blocks []block, do func(b block, raw []byte, holes []hole) error) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	files := sync.Pool{New: func() any { return new(bytes.Buffer) }}
	for _, b := range blocks {
		g.Go(func() error {
			buf := files.Get().(*bytes.Buffer)
			defer files.Put(buf)
			raw, err := b.read(buf)
			if err != nil {
				return fmt.Errorf("look for damage: %w", err)
			}
			if holes := b.holes(raw); len(holes) > 0 {
				if err := do(b, raw, holes); err != nil {
					return fmt.Errorf("damage in the store: %w", err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// blocks lists the block files of every stream.
func (d *directory) blocks() ([]block, error) {
	var all []block
	root := filepath.Join(d.path, "jetstream")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name, isBlock := strings.CutSuffix(filepath.Base(path), ".blk")
		if err != nil || !isBlock || entry.IsDir() {
			return err
		}
		index, err := strconv.Atoi(name)
		if err != nil {
			return nil //nolint:nilerr // not one of the store's
		}
		stream := filepath.Base(filepath.Dir(filepath.Dir(path))) // STREAM/msgs/1.blk
		all = append(all, block{path: path, stream: stream, index: index})
		return nil
	})
	slices.SortFunc(all, func(a, b block) int {
		return cmp.Or(strings.Compare(a.stream, b.stream), a.index-b.index)
	})
	for i := range all {
		all[i].last = i+1 == len(all) || all[i+1].stream != all[i].stream
	}
	return all, err
}

// read reads the file into a buffer that was used before.
func (b block) read(buf *bytes.Buffer) ([]byte, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buf.Reset()
	buf.Grow(int(info.Size()) + bytes.MinRead)
	_, err = buf.ReadFrom(f)
	return buf.Bytes(), err
}

// hash makes the hash that the store puts behind each record of the block.
func (b block) hash() hash.Hash64 {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", b.stream, b.index))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		panic(err) // the key has the wrong length: not with SHA-256
	}
	return h
}

// record returns size and sequence of the record at an offset, 0 when there is no
// whole one.
func record(raw []byte, at int, h hash.Hash64) (size int, seq uint64) {
	if len(raw)-at < blockHeader+blockHash {
		return 0, 0
	}
	head := raw[at:]
	length := binary.LittleEndian.Uint32(head)
	size, subject := int(length&^blockHeaders), int(binary.LittleEndian.Uint16(head[20:]))
	if size > len(head) || size < blockHeader+subject+blockHash {
		return 0, 0
	}
	body := head[blockHeader : size-blockHash]
	h.Reset()
	_, _ = h.Write(head[4:20])
	_, _ = h.Write(body[:subject])
	if length&blockHeaders != 0 {
		if len(body) < subject+4 {
			return 0, 0
		}
		end := uint64(subject) + 4 + uint64(binary.LittleEndian.Uint32(body[subject:])) // of the headers; not hashed itself
		if end > uint64(len(body)) || !bytes.HasSuffix(body[subject+4:end], []byte("\r\n\r\n")) {
			return 0, 0
		}
		subject += 4
	}
	_, _ = h.Write(body[subject:])
	var sum [blockHash]byte
	if !bytes.Equal(h.Sum(sum[:0]), head[size-blockHash:size]) {
		return 0, 0
	}
	return size, binary.LittleEndian.Uint64(head[4:]) &^ blockFlags
}

// holes finds what is not a whole record.
func (b block) holes(raw []byte) (holes []hole) {
	h := b.hash()
	last := uint64(0) // sequence
	for at := 0; at < len(raw); {
		if size, seq := record(raw, at, h); size > 0 {
			at, last = at+size, max(last, seq)
			continue
		}
		gap := hole{from: at, to: len(raw), after: last}
		gap.subject, gap.short = beginning(raw[at:])
		for next := at + 1; next < len(raw)-blockHeader; next++ {
			seq := binary.LittleEndian.Uint64(raw[next+4:]) &^ blockFlags
			if last > 0 && (seq > last+farthestAhead || seq+farthestAhead < last) {
				continue
			}
			if size, seq := record(raw, next, h); size > 0 {
				gap.to, gap.before, gap.short = next, seq, false
				break
			}
		}
		holes = append(holes, gap)
		at = gap.to
	}
	return holes
}

// beginning reads what can be read of a record that is not whole.
func beginning(raw []byte) (subject string, short bool) {
	if len(raw) < blockHeader {
		return "", true
	}
	short = int(binary.LittleEndian.Uint32(raw)&^blockHeaders) > len(raw)
	end := blockHeader + int(binary.LittleEndian.Uint16(raw[20:]))
	if end > len(raw) || end > blockHeader+maxSubjectShown {
		return "", short
	}
	return string(raw[blockHeader:end]), short
}

const maxSubjectShown = 256

// torn reports whether a hole is a last write that was cut short.
func (b block) torn(h hole) bool { return b.last && h.short }

// lost says which sequences stood in a hole.
func (h hole) lost() string {
	switch {
	case h.before == 0:
		return fmt.Sprintf("what followed %d", h.after)
	case h.before == h.after+2:
		return strconv.FormatUint(h.after+1, 10)
	case h.before > h.after+2:
		return fmt.Sprintf("%d to %d", h.after+1, h.before-1)
	}
	return fmt.Sprintf("unknown, near %d", h.after) // a mark that something was removed
}

// refusal is why a start is refused.
func (b block) refusal(h hole) error {
	return fmt.Errorf("%s is damaged: bytes %d to %d hold no whole record (sequence %s, subject %q). Nothing was changed. The control plane is not started without it, for events would be acknowledged that nobody gets: restore the data directory from a backup, or this file if only it is damaged",
		b.path, h.from, h.to, h.lost(), h.subject)
}

// damagedPieces counts what is kept aside.
func (d *directory) damagedPieces() int64 {
	pieces, err := os.ReadDir(d.aside())
	if err != nil {
		return 0
	}
	return int64(len(pieces))
}

// aside is where damaged bytes are kept.
func (d *directory) aside() string { return filepath.Join(d.path, "damaged") }

// keep puts damaged bytes aside, under a name that was never used.
func (d *directory) keep(b block, h hole, damaged []byte) (path string, err error) {
	if err := os.MkdirAll(d.aside(), 0o700); err != nil {
		return "", err
	}
	path = filepath.Join(d.aside(), fmt.Sprintf("%s-%d-%d-%s", b.stream, b.index, h.from, time.Now().UTC().Format("20060102T150405.000000000")))
	return path, writeSynced(path, string(damaged))
}

// takeOut keeps the damaged bytes aside and leaves the whole records in the file.
func (d *directory) takeOut(log *slog.Logger, b block, raw []byte, holes []hole) error {
	rest, at := make([]byte, 0, len(raw)), 0
	for _, h := range holes {
		if b.torn(h) {
			log.Warn("the last write was cut short and is removed; it was not acknowledged",
				"stream", b.stream, "file", b.path, "bytes", h.to-h.from, "after", h.after)
		} else {
			kept, err := d.keep(b, h, raw[h.from:h.to])
			if err != nil {
				return err
			}
			log.Error("stored data is damaged and was taken out: what it held is lost",
				"stream", b.stream, "file", b.path, "offset", h.from, "bytes", h.to-h.from, "sequences", h.lost(), "subject", h.subject, "kept_in", kept)
		}
		rest = append(rest, raw[at:h.from]...)
		at = h.to
	}
	rest = append(rest, raw[at:]...)
	// The index is about the file as it was: without it the store reads the file.
	if err := os.Remove(filepath.Join(filepath.Dir(b.path), "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if at == len(raw) && len(holes) == 1 { // nothing is moved: no space is needed
		if err := os.Truncate(b.path, int64(len(rest))); err != nil {
			return err
		}
		return syncPath(b.path)
	}
	if err := writeSynced(b.path+".whole", string(rest)); err != nil {
		return err
	}
	if err := os.Rename(b.path+".whole", b.path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(b.path))
}
