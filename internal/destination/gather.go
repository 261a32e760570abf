package destination

import (
	"net"
	"runtime"
	"sync"
)

// gather is a connection whose writes are put together: what comes while others run or
// while the last write is under way goes to the system at once. A write that has returned
// is on its way, not sent; one that fails afterwards ends the connection, and every read and
// write from then on says why. It is for protocols whose other side answers for what it
// has.
type gather struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond
	out     []byte // what is not written yet
	idle    bool   // the writer waits for something to write
	closing bool
	failed  error

	done  chan struct{} // closed when the writer has ended
	ended error         // of closing; there when done is closed
}

// mostGathered is how many bytes are waiting to be written until a write waits.
const mostGathered = 64 << 10

// gathering returns a connection that is written to by a goroutine, until it is closed.
func gathering(c net.Conn) *gather {
	g := &gather{Conn: c, done: make(chan struct{})}
	g.changed.L = &g.mu
	go g.write()
	return g
}

func (g *gather) write() {
	var out []byte
	g.mu.Lock()
	for g.failed == nil {
		for g.idle = true; len(g.out) == 0 && !g.closing; {
			g.changed.Wait()
		}
		g.idle = false
		if len(g.out) == 0 {
			break
		}
		g.mu.Unlock()
		runtime.Gosched() // whoever is about to write something does so first
		g.mu.Lock()
		out, g.out = g.out, out[:0]
		g.changed.Broadcast()
		g.mu.Unlock()
		_, err := g.Conn.Write(out)
		g.mu.Lock()
		g.failed = err
	}
	g.closing = true
	g.changed.Broadcast()
	g.mu.Unlock()
	g.ended = g.Conn.Close() // a read that waits ends
	close(g.done)
}

func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.out) >= mostGathered && !g.closing {
		g.changed.Wait()
	}
	switch {
	case g.failed != nil:
		return 0, g.failed
	case g.closing:
		return 0, net.ErrClosed
	}
	if g.out = append(g.out, p...); g.idle {
		g.changed.Broadcast()
	}
	return len(p), nil
}

func (g *gather) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.failed != nil {
			err = g.failed
		}
	}
	return n, err
}

// Close writes what is waiting, for as long as the deadline for writes lets it, and closes
// the connection.
func (g *gather) Close() error {
	g.mu.Lock()
	g.closing = true
	g.changed.Broadcast()
	g.mu.Unlock()
	<-g.done
	return g.ended
}
