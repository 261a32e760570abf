package manage

import (
	"context"
	"sync"
)

// turns let the changes of one event subscription, or of something that a workspace
// follows, come one after another, from the first look to the answer: the handshake in
// between may take half a minute, which no lock is held for.
type turns struct {
	mu    sync.Mutex
	taken map[string]*turn
}

type turn struct {
	free  chan struct{} // holds one when nobody has the turn
	users int           // who have it or wait for it; guarded by turns.mu
}

// take waits for the turn of a key, in the order of the calls, or until ctx ends.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	t.mu.Lock()
	mine := t.taken[key]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		if t.taken == nil {
			t.taken = map[string]*turn{}
		}
		t.taken[key] = mine
	}
	mine.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.taken, key)
		}
	}
	select {
	case <-mine.free:
		return func() { mine.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
