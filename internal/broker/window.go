package broker

import (
	"context"
	"sync"

	"github.com/carillon-events/carillon/internal/engine"
)

// window keeps the newest frames in memory, by bytes, so that deliveries find
// their bodies without reading the log; queues hold positions only and pin
// nothing. A frame that has left the window is read again and stays for a while.
type window struct {
	log   Log
	limit int

	mu     sync.RWMutex
	frames map[uint64]*engine.Frame
	oldest []uint64 // sequences in the order they came
	bytes  int
}

func newWindow(log Log, limit int) *window {
	return &window{log: log, limit: limit, frames: map[uint64]*engine.Frame{}}
}

func (w *window) put(f *engine.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.frames[f.Seq]; there {
		return
	}
	w.frames[f.Seq] = f
	w.oldest = append(w.oldest, f.Seq)
	w.bytes += f.Size
	for w.bytes > w.limit && len(w.oldest) > 1 {
		gone := w.oldest[0]
		w.oldest = w.oldest[1:]
		w.bytes -= w.frames[gone].Size
		delete(w.frames, gone)
	}
}

// peek returns a frame that is in the window, nil otherwise.
func (w *window) peek(seq uint64) *engine.Frame {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.frames[seq]
}

// frame returns a frame from the window or the log.
func (w *window) frame(ctx context.Context, seq uint64) (*engine.Frame, error) {
	if f := w.peek(seq); f != nil {
		return f, nil
	}
	f, err := w.log.Frame(ctx, seq)
	if err != nil {
		return nil, err
	}
	w.put(f)
	return f, nil
}

// size is the size of a record in the window, 0 when it is not there.
func (w *window) size(p engine.Position) int {
	if f := w.peek(p.Seq()); f != nil {
		return len(f.Records[p.Index()].Data)
	}
	return 0
}
