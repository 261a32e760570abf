package server

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// firstByteTime is how long a connection may take to say its first byte.
const firstByteTime = 5 * time.Second

// firstOfTLS is the first byte of a TLS connection: a handshake record.
const firstOfTLS = 0x16

// split serves http and https on one listener: the first byte of each connection
// tells which, read in a goroutine of the connection's own so that a silent peer
// holds up nobody. Clear connections begin in the lane.
type split struct {
	net.Listener
	clear, secure *branch
	once          sync.Once
	lane          *lane
}

func newSplit(l net.Listener, lane *lane) *split {
	s := &split{Listener: l, lane: lane}
	s.clear = &branch{of: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	s.secure = &branch{of: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	return s
}

// run accepts until the listener is closed.
func (s *split) run() error {
	for {
		c, err := s.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			var wait interface{ Temporary() bool }
			if errors.As(err, &wait) && wait.Temporary() { // too many open files, for one
				<-time.After(10 * time.Millisecond)
				continue
			}
			return err
		}
		go s.sort(&impatient{Conn: c})
	}
}

func (s *split) sort(c net.Conn) {
	first := make([]byte, 1)
	_ = c.SetReadDeadline(time.Now().Add(firstByteTime))
	if n, err := c.Read(first); err != nil || n == 0 {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	to, next := s.secure, net.Conn(&begun{Conn: c, first: first})
	if first[0] != firstOfTLS {
		if to, next = s.clear, s.lane.serve(c, first); next == nil {
			return
		}
	}
	select {
	case to.conns <- next:
	case <-to.closed:
		_ = c.Close()
	}
}

// branch is one of the two listeners behind a split.
type branch struct {
	of     *split
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept returns the next connection of this kind.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Close closes both branches: one socket is behind them.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.closed) })
	var err error
	b.of.once.Do(func() { err = b.of.Listener.Close() })
	return err
}

// Addr is the listener's address.
func (b *branch) Addr() net.Addr { return b.of.Listener.Addr() }

// begun is a connection whose first byte was read already.
type begun struct {
	net.Conn
	first []byte
}

// Read gives the first byte and then the connection.
func (c *begun) Read(p []byte) (int, error) {
	if len(c.first) > 0 && len(p) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// impatient is a connection whose peer has to take what is written to it: a write that
// is not done within writeTime fails, and the connection with it. A peer that reads
// none of its answers would hold a goroutine and the answer for ever.
type impatient struct {
	net.Conn
	until atomic.Int64 // write deadline that is set, Unix nanoseconds
}

// writeTime is how long a write may take at most. Half of it is certain: a new deadline
// for every write would be a good part of its cost.
const writeTime = 2 * time.Minute

// Write writes within writeTime.
func (c *impatient) Write(p []byte) (int, error) {
	if now := time.Now(); now.Add(writeTime/2).UnixNano() > c.until.Load() {
		until := now.Add(writeTime)
		if err := c.SetWriteDeadline(until); err != nil {
			return 0, err
		}
		c.until.Store(until.UnixNano())
	}
	return c.Conn.Write(p)
}
