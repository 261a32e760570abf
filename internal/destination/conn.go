package destination

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// idleTime is how long a connection is kept for the next request: common servers
// close theirs after 5 s, and we must be first. Decision 32.
const idleTime = 4 * time.Second

// maxIdle bounds the connections that are kept to one server, for all event subscriptions
// that share them.
const maxIdle = 512

// distrustTime is how long no connection is kept to a server that sent something unasked.
const distrustTime = time.Hour

// conn is one connection to a destination, used by one attempt at a time.
type conn struct {
	net.Conn          // TLS where the URL wants it
	raw      net.Conn // below it
	used     bool     // carried an exchange before
	since    time.Time
	ear      ear
	unasked  bool // something came that no request had asked for

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

// ear listens on a connection without taking anything from it.
type ear struct {
	raw    syscall.RawConn // nil where there is none
	listen func(fd uintptr)
	silent bool
}

// silent reports whether nothing came on a connection that was idle, not even its end. What
// a receiver sends there answers none of our requests, a second answer to the last one, say,
// or the body of one that has none: it must not be taken for the answer to the next.
func (c *conn) silent() bool {
	quiet := c.nothingToRead()
	if c.Conn == c.raw && quiet {
		return true
	}
	// TLS may have read more than it gave, and reads what is of no request.
	until := time.Unix(0, 1)
	if !quiet {
		until = time.Now().Add(10 * time.Millisecond)
	}
	_ = c.raw.SetReadDeadline(until)
	n, err := c.Conn.Read(c.first[:1])
	c.unasked = n > 0
	return n == 0 && isTimeout(err)
}

// nothingToRead reports whether neither bytes nor an end came that were not read yet.
func (c *conn) nothingToRead() bool {
	e := &c.ear
	if e.listen == nil {
		e.listen = func(fd uintptr) {
			var b [1]byte
			_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			e.silent = errors.Is(err, unix.EAGAIN)
		}
		if system, is := c.raw.(syscall.Conn); is {
			e.raw, _ = system.SyscallConn()
		}
	}
	if e.raw == nil {
		return true
	}
	e.silent = false
	return e.raw.Control(e.listen) == nil && e.silent
}

// closeWith has the connection closed when ctx ends, and reports whether it can be used:
// the context before may have ended just now. Attempts of one event subscription share
// theirs, so a kept connection is mostly registered already, which costs nothing.
func (c *conn) closeWith(ctx context.Context) bool {
	done := ctx.Done()
	if done == c.done {
		return true
	}
	if !c.forget() {
		return false
	}
	if done != nil {
		raw := c.raw
		c.done, c.stop = done, context.AfterFunc(ctx, func() { _ = raw.Close() })
	}
	return true
}

// forget makes the context forget the connection, unless it ended and closes it.
func (c *conn) forget() bool {
	forgot := c.stop == nil || c.stop()
	c.done, c.stop = nil, nil
	return forgot
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

// Pools keeps idle connections for event subscriptions that deliver to the same server:
// whoever sends next takes the one that was used last. What is sent to some of them by
// turns so needs no more connections than there are attempts at a time.
type Pools struct {
	distrusted func(server string)

	mu       sync.Mutex
	byServer map[string]*pool // scheme, host and port
}

// NewPools returns Pools. distrusted, unless nil, hears of each server to which none is kept
// from now on, for an hour, because it sent something that no request had asked for.
func NewPools(distrusted func(server string)) *Pools {
	return &Pools{distrusted: distrusted, byServer: map[string]*pool{}}
}

// alone returns a pool of a server for one user. Pools may be nil.
func (ps *Pools) alone(server string) *pool {
	p := newPool()
	if ps != nil {
		p.server, p.distrusted = server, ps.distrusted
	}
	return p
}

// pool returns that of a server, for one user more.
func (ps *Pools) pool(server string) *pool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byServer[server]
	if p == nil {
		p = ps.alone(server)
		p.shared = ps
		ps.byServer[server] = p
	}
	p.users++
	return p
}

// leave is called by a user that needs p no more; the last one closes it.
func (p *pool) leave() {
	if ps := p.shared; ps != nil {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if p.users--; p.users > 0 {
			return
		}
		delete(ps.byServer, p.server)
	}
	p.close()
}

// newPool returns a pool for one user.
func newPool() *pool { return &pool{sessions: tls.NewLRUClientSessionCache(4)} }

// pool keeps the idle connections to one server, the last used one on top.
type pool struct {
	sessions tls.ClientSessionCache

	shared     *Pools // nil where it has one user
	server     string
	distrusted func(server string) // see NewPools
	users      int                 // guarded by the mutex of shared

	mu       sync.Mutex
	idle     []*conn // oldest first
	timer    *time.Timer
	closed   bool
	distrust time.Time // until when none is kept
}

// get returns the connection that was used last, which ctx closes from now on; nil when
// none is fresh. Those on which something came meanwhile it closes.
func (p *pool) get(ctx context.Context) *conn {
	for {
		c := p.last()
		if c == nil || c.silent() && c.closeWith(ctx) {
			return c
		}
		p.drop(c)
	}
}

// drop closes a connection that cannot be used again. Where something came unasked, it may
// come on others as well, and too late to be told from an answer: none is kept for a while.
func (p *pool) drop(c *conn) {
	c.discard()
	if !c.unasked {
		return
	}
	p.mu.Lock()
	old, first := p.idle, !time.Now().Before(p.distrust)
	p.idle, p.distrust = nil, time.Now().Add(distrustTime)
	p.mu.Unlock()
	if first && p.distrusted != nil {
		p.distrusted(p.server)
	}
	for _, c := range old {
		c.discard()
	}
}

func (p *pool) last() *conn {
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
	if p.closed || len(p.idle) >= maxIdle || c.since.Before(p.distrust) {
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
