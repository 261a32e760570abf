package consumer

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// flights keeps events apart that must not be handled at once: those of one object, and
// deliveries of the same event.
type flights struct {
	mu  sync.Mutex
	now map[Key]chan struct{} // closed when the event has landed; nil as long as nobody waits
}

// take waits until no other flight has the key, or ctx ends.
func (f *flights) take(ctx context.Context, key Key) error {
	for {
		f.mu.Lock()
		landed, taken := f.now[key]
		if !taken {
			f.now[key] = nil
			f.mu.Unlock()
			return nil
		}
		if landed == nil {
			landed = make(chan struct{})
			f.now[key] = landed
		}
		f.mu.Unlock()
		select {
		case <-landed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// land lets the next one have the key.
func (f *flights) land(key Key) {
	f.mu.Lock()
	landed := f.now[key]
	delete(f.now, key)
	f.mu.Unlock()
	if landed != nil {
		close(landed)
	}
}

// limited is a context with a deadline that costs nothing until somebody waits for it: most
// events are handled in less time than a timer is worth.
type limited struct {
	context.Context
	limit    time.Duration
	deadline time.Time

	mu     sync.Mutex
	timed  context.Context // made by the first Done
	cancel context.CancelFunc
	over   bool
}

// Deadline returns the earlier deadline of the two.
func (l *limited) Deadline() (time.Time, bool) {
	if at, ok := l.Context.Deadline(); ok && at.Before(l.deadline) {
		return at, true
	}
	return l.deadline, true
}

// Done is closed at the deadline, and when the handler has returned.
func (l *limited) Done() <-chan struct{} { return l.make().Done() }

// Err says whether and why Done is closed.
func (l *limited) Err() error {
	l.mu.Lock()
	idle := l.timed == nil && !l.over
	l.mu.Unlock()
	if idle && l.Context.Err() == nil && time.Now().Before(l.deadline) {
		return nil
	}
	return l.make().Err()
}

// Value looks into the timed context once there is one, for that is how the contexts that
// are derived from this one find whom to wait for.
func (l *limited) Value(key any) any {
	if timed := l.made(); timed != nil {
		return timed.Value(key)
	}
	return l.Context.Value(key)
}

func (l *limited) made() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.timed
}

func (l *limited) make() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timed == nil {
		l.timed, l.cancel = context.WithDeadlineCause(l.Context, l.deadline, fmt.Errorf("the event took longer than %s", l.limit))
		if l.over {
			l.cancel()
		}
	}
	return l.timed
}

// end cancels what waits, as after the end of a handler.
func (l *limited) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.cancel != nil {
		l.cancel()
	}
}
