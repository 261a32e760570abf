package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// Space says how much room the disk under a data directory has left. The disk
// watch moves it on.
type Space uint8

// The states of the disk.
const (
	SpaceAmple Space = iota // everything goes on
	SpaceLow                // publishing and changes are refused; settling, dead letters and purging go on
	SpaceOut                // as low, and the reserve file is given up for them
)

// String returns the state's name.
func (s Space) String() string {
	switch s {
	case SpaceAmple:
		return "ample"
	case SpaceLow:
		return "low"
	default:
		return "out"
	}
}

// diskMarks are the free bytes at which the disk's state changes. A volume that
// is truly full stops the store's purging too, so publishing ends long before.
type diskMarks struct {
	low     int64 // below it publishing is refused
	resume  int64 // at or above it publishing goes on
	reserve int64 // size of the reserve file; below so many free bytes it is given up
}

// marksOf returns 1 GiB, or 2 % of a volume where that is less, but on the
// smallest volumes 64 MiB or an eighth; and a quarter of it as the reserve.
func marksOf(total int64) diskMarks {
	low := min(max(total/50, min(64<<20, total/8)), 1<<30)
	return diskMarks{low: low, resume: low + low/4, reserve: low / 4}
}

// next decides the state that follows from the bytes free. It is pure. Once the
// reserve is given up there must be room to make it again.
func (m diskMarks) next(now Space, free int64) Space {
	switch {
	case free < m.reserve, now == SpaceOut && free < m.resume+m.reserve:
		return SpaceOut
	case free < m.low, now == SpaceLow && free < m.resume:
		return SpaceLow
	default:
		return SpaceAmple
	}
}

// diskWatch reads the free space again and again, keeps the reserve file, and
// holds the answer for those who would write.
type diskWatch struct {
	dir     string
	read    func(dir string) (total, free int64, err error)
	log     *slog.Logger
	refused atomic.Pointer[error] // what a publisher is told, nil = go on
	state   atomic.Uint32         // a Space
	free    atomic.Int64          // bytes, as last read

	// The watch's goroutine alone uses what follows.
	marks   diskMarks // for the volume as last read
	failing bool      // the last reading failed
}

// newDiskWatch takes the first reading. It gives the reserve up at once where the
// store would not start without it, and makes it where there is room.
func newDiskWatch(o Options) (*diskWatch, error) {
	w := &diskWatch{dir: o.Dir, read: o.FreeSpace, log: o.Logger}
	total, free, err := w.read(w.dir)
	if err != nil {
		return nil, err
	}
	marks := marksOf(total)
	if info, err := os.Stat(w.path()); err != nil || info.Size() != marks.reserve {
		_ = os.Remove(w.path()) // of another size, or half made
		w.state.Store(uint32(SpaceOut))
		if total, free, err = w.read(w.dir); err != nil {
			return nil, err
		}
	}
	if w.judge(total, free); w.space() != SpaceAmple {
		w.tell(SpaceAmple)
	}
	return w, nil
}

// path is the reserve file.
func (w *diskWatch) path() string { return filepath.Join(w.dir, "RESERVE") }

// space is the present state.
func (w *diskWatch) space() Space { return Space(w.state.Load()) }

// refusal is what whoever wants to add something is told, nil when there is room.
func (w *diskWatch) refusal() error {
	if err := w.refused.Load(); err != nil {
		return *err
	}
	return nil
}

// look reads the free space once and acts on it. It reports whether space came
// back.
func (w *diskWatch) look() (back bool) {
	total, free, err := w.read(w.dir)
	if err != nil {
		if !w.failing {
			w.log.Error("free space of the data directory cannot be read", "error", err)
		}
		w.failing = true
		return false
	}
	w.failing = false
	was := w.space()
	if w.judge(total, free); w.space() != was {
		w.tell(was)
	}
	return was != SpaceAmple && w.space() == SpaceAmple
}

// tell logs that the state changed.
func (w *diskWatch) tell(was Space) {
	say := w.log.Info
	if w.space() > was {
		say = w.log.Error
	}
	say("disk space changed", "dir", w.dir, "space", w.space().String(), "free", w.free.Load(),
		"refuses_below", w.marks.low, "resumes_at", w.marks.resume, "reserve", w.marks.reserve)
}

// judge moves the state on.
func (w *diskWatch) judge(total, free int64) {
	w.free.Store(free)
	marks, was := marksOf(total), w.space()
	w.marks = marks
	is := marks.next(was, free)
	if is != was && is == SpaceOut {
		if err := os.Remove(w.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.log.Error("reserve file cannot be given up", "error", err)
		}
	}
	if is != was && was == SpaceOut {
		if err := makeReserve(w.path(), marks.reserve); err != nil {
			w.log.Error("reserve file cannot be made; it is tried again", "error", err)
			is = SpaceOut
		}
	}
	if is == SpaceAmple {
		w.refused.Store(nil)
	} else {
		err := error(fault.New(fault.Unavailable, "ServiceUnavailable",
			"The disk of this server has %d MiB free and publishing and changes need %d MiB. Nothing was stored; try again later. The operator has to free space or enlarge the volume.",
			free>>20, (marks.resume+1<<20-1)>>20).After(30 * time.Second))
		w.refused.Store(&err)
	}
	w.state.Store(uint32(is))
}

// makeReserve makes a file that holds its whole size on the disk. What is left of
// a failed try goes.
func makeReserve(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = allocate(f, size)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("make %s of %d bytes: %w", path, size, err)
	}
	return nil
}

// writeZeros is allocate where the system has no call for it.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for size > 0 {
		n, err := f.Write(zeros[:min(size, int64(len(zeros)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}
