package destination

import (
	"context"
	"errors"
	"sync"
	"time"
)

// link is one connection to a destination: made by the first attempt that needs it, used
// by all, let go when it fails or nobody has used it for a while. The zero link with dial
// and end is ready.
type link[C any] struct {
	dial func(ctx context.Context) (C, error) // returns when ctx ends
	end  func(C)
	gone func(C) bool // whether the other side has ended it; nil = only use shows
	// by says what a connection would be made by now, such as its keys. One that was made
	// by something else is used no more. Nil: that never changes.
	by func() string
	// turns has room for as many attempts as use the connection at a time; nil is any number.
	turns chan struct{}

	mu     sync.Mutex
	made   chan struct{} // closed when the dial that runs has ended, nil when none runs
	now    *linked[C]    // nil when there is none
	idle   *time.Timer
	closed bool
}

// linked is a connection that was made.
type linked[C any] struct {
	conn  C
	by    string
	using int
	ended bool
}

// linkIdle is for how long nobody has to use a connection until it is closed.
const linkIdle = time.Minute

// errNoTurn is that an attempt that waited for its turn waits no longer: it has sent
// nothing.
var errNoTurn = errors.New("others were sent until the time was over")

// inTurn is use for an attempt whose turn it has to be. It waits without a connection, so
// that one that breaks meanwhile is nothing to it, until over.
func (l *link[C]) inTurn(ctx context.Context, over <-chan time.Time, f func(C) (broken bool)) error {
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns }()
	case <-ctx.Done():
		return ctx.Err()
	case <-over:
		return errNoTurn
	}
	return l.use(ctx, f)
}

// use calls f with the connection. Where f says that it is broken, the next one gets
// another.
func (l *link[C]) use(ctx context.Context, f func(C) (broken bool)) error {
	c, err := l.get(ctx)
	if err != nil {
		return err
	}
	broken := true // unless f returns
	defer func() { l.release(c, broken) }()
	broken = f(c.conn)
	return nil
}

func (l *link[C]) release(c *linked[C], broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.using--
	switch {
	case l.now != c: // another one took its place already, or will
		l.endUnused(c)
	case broken || l.closed:
		l.dropLocked()
	case c.using == 0:
		l.idle = time.AfterFunc(linkIdle, l.expire)
	}
}

func (l *link[C]) get(ctx context.Context) (*linked[C], error) {
	for {
		by := ""
		if l.by != nil {
			by = l.by()
		}
		l.mu.Lock()
		switch {
		case l.now == nil:
		case l.gone != nil && l.gone(l.now.conn):
			l.dropLocked()
		case l.now.by != by:
			l.leaveLocked()
		}
		if c := l.now; c != nil {
			l.restLocked()
			c.using++
			l.mu.Unlock()
			return c, nil
		}
		if made := l.made; made != nil {
			l.mu.Unlock()
			select {
			case <-made: // by another attempt; if it failed, this one tries
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		made := make(chan struct{})
		l.made = made
		l.mu.Unlock()
		conn, err := l.dial(ctx)
		l.mu.Lock()
		l.made = nil
		var c *linked[C]
		if err == nil {
			c = &linked[C]{conn: conn, by: by, using: 1}
			l.now = c
		}
		close(made)
		l.mu.Unlock()
		return c, err
	}
}

func (l *link[C]) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil && l.now.using == 0 {
		l.dropLocked()
	}
}

// restLocked ends the wait for somebody to use the connection.
func (l *link[C]) restLocked() {
	if l.idle != nil {
		l.idle.Stop()
		l.idle = nil
	}
}

// leaveLocked has nobody begin to use the connection any more; who uses it goes on.
func (l *link[C]) leaveLocked() {
	c := l.now
	l.now = nil
	l.restLocked()
	l.endUnused(c)
}

func (l *link[C]) endUnused(c *linked[C]) {
	if c.using == 0 && !c.ended {
		c.ended = true
		go l.end(c.conn) // it may wait for the other side
	}
}

// dropLocked lets go of the connection at once, whoever uses it: it is broken.
func (l *link[C]) dropLocked() {
	c := l.now
	l.now, c.ended = nil, true
	l.restLocked()
	go l.end(c.conn)
}

// Close lets go of the connection once nobody uses it.
func (l *link[C]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed = true; l.now != nil && l.now.using == 0 {
		l.dropLocked()
	}
}
