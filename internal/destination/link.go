package destination

import (
	"context"
	"sync"
	"time"
)

// link is one connection to a destination: made by the first attempt that needs it, used
// by all, let go when it fails or nobody has used it for a while. The zero link with dial
// and end is ready.
type link[C comparable] struct {
	dial func(ctx context.Context) (C, error) // returns when ctx ends
	end  func(C)
	gone func(C) bool // whether the other side has ended it; nil = only use shows

	mu     sync.Mutex
	made   chan struct{} // closed when the dial that runs has ended, nil when none runs
	conn   C
	open   bool
	using  int
	idle   *time.Timer
	closed bool
}

// linkIdle is for how long nobody has to use a connection until it is closed.
const linkIdle = time.Minute

// use calls f with the connection. Where f says that it is broken, the next one gets
// another.
func (l *link[C]) use(ctx context.Context, f func(C) (broken bool)) error {
	c, err := l.get(ctx)
	if err != nil {
		return err
	}
	broken := true // unless f returns
	defer func() { l.release(c, broken) }()
	broken = f(c)
	return nil
}

func (l *link[C]) release(c C, broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != c || !l.open { // another one took its place already
		return
	}
	l.using--
	switch {
	case broken || l.closed:
		l.dropLocked()
	case l.using == 0:
		l.idle = time.AfterFunc(linkIdle, l.expire)
	}
}

func (l *link[C]) get(ctx context.Context) (c C, err error) {
	for {
		l.mu.Lock()
		if l.open && l.gone != nil && l.gone(l.conn) {
			l.dropLocked()
		}
		if l.open {
			if l.idle != nil {
				l.idle.Stop()
				l.idle = nil
			}
			l.using++
			c = l.conn
			l.mu.Unlock()
			return c, nil
		}
		if made := l.made; made != nil {
			l.mu.Unlock()
			select {
			case <-made: // by another attempt; if it failed, this one tries
				continue
			case <-ctx.Done():
				return c, ctx.Err()
			}
		}
		made := make(chan struct{})
		l.made = made
		l.mu.Unlock()
		c, err = l.dial(ctx)
		l.mu.Lock()
		l.made = nil
		if err == nil {
			l.conn, l.open, l.using = c, true, 1
		}
		close(made)
		l.mu.Unlock()
		return c, err
	}
}

func (l *link[C]) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open && l.using == 0 {
		l.dropLocked()
	}
}

// dropLocked lets go of the connection. The caller holds l.mu.
func (l *link[C]) dropLocked() {
	var none C
	c := l.conn
	l.conn, l.open, l.using = none, false, 0
	if l.idle != nil {
		l.idle.Stop()
		l.idle = nil
	}
	go l.end(c) // it may wait for the other side
}

// Close lets go of the connection once nobody uses it.
func (l *link[C]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed = true; l.open && l.using == 0 {
		l.dropLocked()
	}
}
