package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxPayload     = 8 << 20
	maxControlLine = 64 << 10
	flusherRest    = 20 * time.Millisecond // the server's flushers may sleep for 8 ms before they see that their stream is closed
	startLimit     = 5 * time.Minute       // recovery of a large store reads it whole when its index is lost
)

// node is the embedded server and the two connections to it: a slow reader on
// one must not delay acks on the other. The connections outlive the server: when
// it is started anew they connect again, and their subscriptions go on.
type node struct {
	opts     Options
	lateness *lateness
	server   atomic.Pointer[server.Server] // nil while there is none
	life     atomic.Pointer[life]          // of the present server, or of the next
	write    *nats.Conn                    // publishes and their acks
	bulk     *nats.Conn                    // reads, look-ups, purges
	js       jetstream.JetStream
}

// InProcessConn connects to the present server. The connections call it.
func (n *node) InProcessConn() (net.Conn, error) {
	s := n.server.Load()
	if s == nil {
		return nil, errors.New("the store is being restarted")
	}
	return s.InProcessConn()
}

// boot starts a server in this process without a listener.
func (n *node) boot() error {
	o := n.opts
	total, _, err := o.FreeSpace(o.Dir)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName:             o.Name,
		DontListen:             true,
		NoSigs:                 true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               o.Dir, // the server adds "jetstream"
		SyncAlways:             o.Durability == DurabilityDisk,
		SyncInterval:           o.SyncInterval,
		JetStreamMaxStore:      total, // quota and disk watch refuse earlier, and not everybody
		JetStreamMaxMemory:     64 << 20,
		MaxPayload:             maxPayload,
		MaxControlLine:         maxControlLine,
		MaxPending:             128 << 20,
	})
	if err != nil {
		return fmt.Errorf("configure embedded server: %w", err)
	}
	s.SetLoggerV2(serverLog{o.Logger}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startLimit) || !s.JetStreamEnabled() {
		halt(s)
		return fmt.Errorf("the store in %s did not start within %s; its log lines tell why", o.Dir, startLimit)
	}
	n.server.Store(s)
	return nil
}

// halt stops a server and waits until it has written what it holds.
func halt(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
	time.Sleep(flusherRest)
}

// startNode starts the server and connects to it.
func startNode(o Options, l *lateness) (*node, error) {
	n := &node{opts: o, lateness: l}
	n.life.Store(newLife())
	err := n.boot()
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		conn **nats.Conn
		use  string
	}{{&n.write, "write"}, {&n.bulk, "bulk"}} {
		if *c.conn, err = nats.Connect("",
			nats.InProcessServer(n),
			nats.Name("carillon engine "+c.use),
			nats.Timeout(requestLimit),
			nats.MaxReconnects(-1),
			nats.ReconnectWait(100*time.Millisecond),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				o.Logger.Warn("store connection", "connection", c.use, "error", err)
			}),
		); err != nil {
			n.stop()
			return nil, fmt.Errorf("connect to embedded server: %w", err)
		}
	}
	if n.js, err = jetstream.New(n.bulk, jetstream.WithDefaultTimeout(requestLimit)); err != nil {
		n.stop()
		return nil, fmt.Errorf("use embedded server: %w", err)
	}
	return n, nil
}

// ensure creates a stream or brings its configuration up to date.
func (n *node) ensure(ctx context.Context, c jetstream.StreamConfig) (*stream, error) {
	c.Storage, c.Replicas, c.AllowDirect = jetstream.FileStorage, 1, true
	c.MaxBytes, c.MaxMsgs, c.Duplicates = -1, -1, 100*time.Millisecond
	if _, err := n.js.CreateOrUpdateStream(ctx, c); err != nil {
		return nil, fmt.Errorf("open stream %s: %w", c.Name, err)
	}
	return &stream{node: n, name: c.Name}, nil
}

// life ends when its server is stopped: what was asked of it is lost.
type life struct {
	ctx context.Context
	end context.CancelFunc
}

func newLife() *life {
	ctx, end := context.WithCancel(context.Background())
	return &life{ctx, end}
}

// within returns ctx ending with the life, too.
func (l *life) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// errRestarted says that the server was stopped before it answered.
var errRestarted = errors.New("the store was restarted")

// during runs one question to the present server, for requestLimit at most.
func (n *node) during(ctx context.Context, ask func(context.Context) (*nats.Msg, error)) (*nats.Msg, error) {
	l := n.life.Load()
	within, leave := l.within(ctx)
	defer leave()
	bound, cancel := context.WithTimeout(within, requestLimit)
	defer cancel()
	m, err := ask(bound)
	if err != nil && ctx.Err() == nil && l.ctx.Err() != nil {
		return nil, errRestarted
	}
	return m, err
}

// request asks the server and asks again the one that follows it, so what it asks
// for may be done twice. While there is none it waits for it.
func (n *node) request(ctx context.Context, c *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	for {
		m, err := n.during(ctx, func(ctx context.Context) (*nats.Msg, error) { return c.RequestWithContext(ctx, subject, body) })
		if !errors.Is(err, errRestarted) {
			return m, err
		}
	}
}

// reconnect returns when both connections are with the present server.
func (n *node) reconnect(ctx context.Context) {
	for !n.write.IsConnected() || !n.bulk.IsConnected() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop closes the connections and waits until the server has written what it
// holds.
func (n *node) stop() {
	for _, c := range []*nats.Conn{n.write, n.bulk} {
		if c != nil {
			c.Close()
		}
	}
	n.down()
}

// down stops the server, if there is one; the connections wait for the next.
func (n *node) down() {
	if s := n.server.Swap(nil); s != nil {
		halt(s)
		n.life.Swap(newLife()).end()
	}
}

// serverLog hands the server's own log lines on: notices are of no interest to
// an operator, warnings and errors are.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) {
	l.log.Debug("store: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Warnf(format string, v ...any)  { l.log.Warn("store: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any) { l.log.Warn("store: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Fatalf(format string, v ...any) {
	l.log.Error("store: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Debugf(string, ...any) {}
func (l serverLog) Tracef(string, ...any) {}
