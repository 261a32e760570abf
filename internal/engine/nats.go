package engine

import (
	"context"
	"fmt"
	"log/slog"
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
// one must not delay acks on the other.
type node struct {
	server *server.Server
	write  *nats.Conn // publishes and their acks
	bulk   *nats.Conn // reads, look-ups, purges
	js     jetstream.JetStream
}

// startNode starts the server in this process without a listener.
func startNode(o Options, maxStore int64) (*node, error) {
	s, err := server.NewServer(&server.Options{
		ServerName:             o.Name,
		DontListen:             true,
		NoSigs:                 true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               o.Dir, // the server adds "jetstream"
		SyncAlways:             o.Durability == DurabilityDisk,
		SyncInterval:           o.SyncInterval,
		JetStreamMaxStore:      maxStore,
		JetStreamMaxMemory:     64 << 20,
		MaxPayload:             maxPayload,
		MaxControlLine:         maxControlLine,
		MaxPending:             128 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("configure embedded server: %w", err)
	}
	s.SetLoggerV2(serverLog{o.Logger}, false, false, false)
	s.Start()
	n := &node{server: s}
	if !s.ReadyForConnections(startLimit) || !s.JetStreamEnabled() {
		n.stop()
		return nil, fmt.Errorf("the store in %s did not start within %s; its log lines tell why", o.Dir, startLimit)
	}
	for _, c := range []struct {
		conn **nats.Conn
		use  string
	}{{&n.write, "write"}, {&n.bulk, "bulk"}} {
		if *c.conn, err = nats.Connect("",
			nats.InProcessServer(s),
			nats.Name("carillon engine "+c.use),
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
	if n.js, err = jetstream.New(n.bulk); err != nil {
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

// stop closes the connections and waits until the server has written what it
// holds.
func (n *node) stop() {
	for _, c := range []*nats.Conn{n.write, n.bulk} {
		if c != nil {
			c.Close()
		}
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
	time.Sleep(flusherRest)
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
