package broker

import (
	"context"
	"sync"

	"github.com/carillon-events/carillon/internal/engine"
)

// window keeps frames in memory, by bytes, so that deliveries find their bodies
// without reading the log; queues hold positions only and pin nothing. The newest
// frames have three quarters of it. A frame that has left them is read again, once
// for all who want it now, and stays for a while in the last quarter: many retries
// of old events do not push out what everybody needs.
type window struct {
	log Log

	mu       sync.RWMutex
	newest   shelf
	again    shelf
	underway map[uint64]*reading
	places   chan struct{} // of those who read
}

// maxReadings is how many frames are read at a time: more make the store no faster,
// and the last ones wait too long.
const maxReadings = 8

// reading is a frame that is being read.
type reading struct {
	done chan struct{}
	f    *engine.Frame
	err  error
}

func newWindow(log Log, limit int) *window {
	return &window{
		log:    log,
		newest: shelf{limit: limit - limit/4, frames: map[uint64]*engine.Frame{}},
		again:  shelf{limit: limit / 4, frames: map[uint64]*engine.Frame{}},

		underway: map[uint64]*reading{}, places: make(chan struct{}, maxReadings),
	}
}

// put takes a new frame of the log.
func (w *window) put(f *engine.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest.put(f)
}

// keep takes an old frame that is wanted in a moment.
func (w *window) keep(f *engine.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.newest.frames[f.Seq] == nil {
		w.again.put(f)
	}
}

// peek returns a frame that is in the window, nil otherwise.
func (w *window) peek(seq uint64) *engine.Frame {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if f := w.newest.frames[seq]; f != nil {
		return f
	}
	return w.again.frames[seq]
}

// isNew reports whether a frame is one of the newest, behind which the window has all.
func (w *window) isNew(seq uint64) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.newest.frames[seq] != nil
}

// frame returns a frame from the window or the log.
func (w *window) frame(ctx context.Context, seq uint64) (*engine.Frame, error) {
	for {
		if f := w.peek(seq); f != nil {
			return f, nil
		}
		w.mu.Lock()
		r, others := w.underway[seq]
		if !others {
			r = &reading{done: make(chan struct{})}
			w.underway[seq] = r
		}
		w.mu.Unlock()
		if !others {
			w.read(ctx, seq, r)
			return r.f, r.err
		}
		select {
		case <-r.done:
			if r.err == nil {
				return r.f, nil
			}
			// It may have failed for a reason of the reader's own.
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// read reads a frame for all who wait for it.
func (w *window) read(ctx context.Context, seq uint64, r *reading) {
	select {
	case w.places <- struct{}{}:
		r.f, r.err = w.log.Frame(ctx, seq)
		<-w.places
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	if r.err == nil {
		w.keep(r.f)
	}
	w.mu.Lock()
	delete(w.underway, seq)
	w.mu.Unlock()
	close(r.done)
}

// size is the size of a record in the window, 0 when it is not there.
func (w *window) size(p engine.Position) int {
	if f := w.peek(p.Seq()); f != nil {
		return len(f.Records[p.Index()].Data)
	}
	return 0
}

// shelf holds frames up to a number of bytes, at least one.
type shelf struct {
	limit  int
	frames map[uint64]*engine.Frame
	oldest []uint64 // sequences in the order they came
	bytes  int
}

func (s *shelf) put(f *engine.Frame) {
	if _, there := s.frames[f.Seq]; there {
		return
	}
	s.frames[f.Seq] = f
	s.oldest = append(s.oldest, f.Seq)
	s.bytes += f.Size
	for s.bytes > s.limit && len(s.oldest) > 1 {
		gone := s.oldest[0]
		s.oldest = s.oldest[1:]
		s.bytes -= s.frames[gone].Size
		delete(s.frames, gone)
	}
}
