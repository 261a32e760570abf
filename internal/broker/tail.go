package broker

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
)

// TailEvent is one event as a live tail sees it, just after it was logged.
type TailEvent struct {
	Event       json.RawMessage `json:"event"`
	Schema      event.Schema    `json:"-"`
	PublishTime time.Time       `json:"publishTime"`
	Sequencer   string          `json:"sequencer"`
	Missed      uint64          `json:"missed,omitempty"` // events before this one that a slow reader did not get
}

// tails hands logged events to whoever watches. A watcher that does not keep up
// misses events and is told how many; it never slows the walk.
type tails struct {
	mu       sync.RWMutex
	watchers map[*watcher]struct{}
}

type watcher struct {
	stream resource.Stream
	events chan TailEvent
	missed uint64
}

// tailBuffer is how many events a watcher may be behind.
const tailBuffer = 1024

// Tail returns the events of a stream from now on. Call stop when done; the channel
// is closed then.
func (b *Broker) Tail(stream resource.Stream) (events <-chan TailEvent, stop func()) {
	w := &watcher{stream: stream, events: make(chan TailEvent, tailBuffer)}
	b.tails.mu.Lock()
	b.tails.watchers[w] = struct{}{}
	b.tails.mu.Unlock()
	return w.events, sync.OnceFunc(func() {
		b.tails.mu.Lock()
		delete(b.tails.watchers, w)
		b.tails.mu.Unlock()
		close(w.events)
	})
}

// offer shows record i of a frame to its watchers. Only the dispatcher calls it.
func (t *tails) offer(f *engine.Frame, i int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := &f.Records[i]
	for w := range t.watchers {
		if !isOf(r, w.stream) {
			continue
		}
		e := TailEvent{
			Event: r.Data, Schema: event.Schema(r.Schema), PublishTime: f.Time, Sequencer: f.Sequencer(i), Missed: w.missed,
		}
		select {
		case w.events <- e:
			w.missed = 0
		default:
			w.missed++
		}
	}
}
