package destination

import (
	"context"
	"net"
	"sync"
	"time"
)

// idleTime is how long a connection is kept for the next request: common servers
// close theirs after 5 s, and we must be first. Decision 32.
const idleTime = 4 * time.Second

// maxIdle bounds the connections kept for one destination: as many as can be in
// use at a time, held ones included.
const maxIdle = 128

// conn is one connection to a destination, used by one attempt at a time.
type conn struct {
	net.Conn          // TLS where the URL wants it
	raw      net.Conn // below it
	used     bool     // carried an exchange before
	since    time.Time

	// The first bytes of an answer are read into this small buffer, so that an
	// attempt that waits for minutes holds no large one. Most answers fit.
	first        [512]byte
	begin, early int // first[begin:begin+early] is not read yet

	done <-chan struct{} // of the context that closes it
	stop func() bool     // makes that context forget it
}

// await waits until the first bytes of an answer are here.
func (c *conn) await() error {
	if c.early > 0 {
		return nil
	}
	n, err := c.Conn.Read(c.first[:])
	c.begin, c.early = 0, n
	if n > 0 {
		return nil // the error comes again
	}
	return err
}

// Read gives what await read, then what follows.
func (c *conn) Read(p []byte) (int, error) {
	if c.early == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first[c.begin:c.begin+c.early])
	c.begin, c.early = c.begin+n, c.early-n
	return n, nil
}

// closeWith has the connection closed when ctx ends. Attempts of one event
// subscription share their context, so a kept connection is mostly registered
// already, which costs nothing.
func (c *conn) closeWith(ctx context.Context) {
	done := ctx.Done()
	if done == c.done {
		return
	}
	c.forget()
	if done != nil {
		raw := c.raw
		c.done, c.stop = done, context.AfterFunc(ctx, func() { _ = raw.Close() })
	}
}

func (c *conn) forget() {
	if c.stop != nil {
		c.stop()
	}
	c.done, c.stop = nil, nil
}

// discard closes a connection on which an exchange did not end well: at once,
// without a farewell.
func (c *conn) discard() {
	c.forget()
	_ = c.raw.Close()
}

// leave closes an idle connection properly.
func (c *conn) leave() {
	c.forget()
	_ = c.Conn.Close()
}

// pool keeps the idle connections to one destination, the last used one on top.
type pool struct {
	mu     sync.Mutex
	idle   []*conn // oldest first
	timer  *time.Timer
	closed bool
}

// get returns the connection that was used last, nil when none is fresh.
func (p *pool) get() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 || time.Since(p.idle[n-1].since) >= idleTime {
		return nil // the timer closes them
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	return c
}

// put keeps a connection for the next request.
func (p *pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	if p.closed || len(p.idle) >= maxIdle {
		p.mu.Unlock()
		c.leave()
		return
	}
	p.idle = append(p.idle, c)
	if p.timer == nil {
		p.timer = time.AfterFunc(idleTime, p.sweep)
	}
	p.mu.Unlock()
}

// sweep closes connections that are idle for too long and comes again while
// there are others.
func (p *pool) sweep() {
	p.mu.Lock()
	var old []*conn
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].since) >= idleTime {
		n++
	}
	old = append(old, p.idle[:n]...)
	rest := copy(p.idle, p.idle[n:])
	clear(p.idle[rest:])
	p.idle = p.idle[:rest]
	if p.timer = nil; rest > 0 && !p.closed {
		p.timer = time.AfterFunc(idleTime-time.Since(p.idle[0].since), p.sweep)
	}
	p.mu.Unlock()
	for _, c := range old {
		c.leave()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	old := p.idle
	p.idle, p.closed = nil, true
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for _, c := range old {
		c.leave()
	}
}
