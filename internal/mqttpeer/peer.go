// Package mqttpeer is an MQTT 5 server for tests: mochi-mqtt in this process, which keeps
// all that it takes. Real servers run in interop.
package mqttpeer

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Options say what a Peer takes.
type Options struct {
	User, Password string                   // that clients need; "" for none
	Writable       func(topic string) bool  // whether it may be published to; nil = all may
	Limits         func(*mqtt.Capabilities) // changes them; optional
	TLS            *tls.Config              // nil for none
}

// Message is one that was published.
type Message struct {
	Topic, Body, ContentType string
	QoS                      byte
	Retain                   bool
	Expiry                   uint32
	Properties               map[string]string
}

// Peer is a server on a loopback port.
type Peer struct {
	options Options
	addr    string
	server  *mqtt.Server

	taken    atomic.Int64
	mu       sync.Mutex
	messages []Message
}

// Start runs a Peer until the test has ended.
func Start(t testing.TB, o Options) *Peer {
	t.Helper()
	p := &Peer{options: o, addr: "127.0.0.1:0"}
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Down)
	return p
}

// Addr is its host and port.
func (p *Peer) Addr() string { return p.addr }

// URL is its address as a destination has it.
func (p *Peer) URL() string {
	if p.options.TLS != nil {
		return "mqtts://" + p.addr
	}
	return "mqtt://" + p.addr
}

// Up starts it where it was before, with what it had.
func (p *Peer) Up() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.addr = l.Addr().String()
	if p.options.TLS != nil {
		l = tls.NewListener(l, p.options.TLS)
	}
	limits := mqtt.NewDefaultServerCapabilities()
	if p.options.Limits != nil {
		p.options.Limits(limits)
	}
	s := mqtt.New(&mqtt.Options{Capabilities: limits, Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(&hook{peer: p}, nil); err != nil {
		return err
	}
	if err := s.AddListener(listeners.NewNet("tcp", l)); err != nil {
		return err
	}
	if err := s.Serve(); err != nil {
		return err
	}
	p.server = s
	return nil
}

// Down ends every connection and lets nobody in.
func (p *Peer) Down() {
	if p.server != nil {
		_ = p.server.Close()
		p.server = nil
	}
}

// Taken is how many messages there are.
func (p *Peer) Taken() int64 { return p.taken.Load() }

// Messages are those that were published to a topic, in their order; "" for all.
func (p *Peer) Messages(topic string) []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.messages), func(m Message) bool { return topic != "" && m.Topic != topic })
}

// hook is what a server asks.
type hook struct {
	mqtt.HookBase
	peer *Peer
}

func (h *hook) ID() string { return "peer" }

func (h *hook) Provides(what byte) bool {
	return what == mqtt.OnConnectAuthenticate || what == mqtt.OnACLCheck || what == mqtt.OnPublish || what == mqtt.OnPacketEncode
}

// OnPacketEncode says in a CONNACK what the server would enforce in silence.
func (h *hook) OnPacketEncode(_ *mqtt.Client, p packets.Packet) packets.Packet {
	if limits := h.Opts.Capabilities; p.FixedHeader.Type == packets.Connack {
		p.Properties.MaximumPacketSize = limits.MaximumPacketSize
		p.Properties.RetainAvailable, p.Properties.RetainAvailableFlag = limits.RetainAvailable, limits.RetainAvailable == 0
	}
	return p
}

func (h *hook) OnConnectAuthenticate(_ *mqtt.Client, p packets.Packet) bool {
	o := h.peer.options
	return o.User == "" || string(p.Connect.Username) == o.User && string(p.Connect.Password) == o.Password
}

func (h *hook) OnACLCheck(_ *mqtt.Client, topic string, write bool) bool {
	return !write || h.peer.options.Writable == nil || h.peer.options.Writable(topic)
}

func (h *hook) OnPublish(_ *mqtt.Client, p packets.Packet) (packets.Packet, error) {
	m := Message{
		Topic: p.TopicName, Body: string(p.Payload), ContentType: p.Properties.ContentType, QoS: p.FixedHeader.Qos, Retain: p.FixedHeader.Retain,
		Expiry: p.Properties.MessageExpiryInterval, Properties: make(map[string]string, len(p.Properties.User)),
	}
	for _, u := range p.Properties.User {
		if _, twice := m.Properties[u.Key]; twice {
			return p, fmt.Errorf("the user property %q is there twice", u.Key)
		}
		m.Properties[u.Key] = u.Val
	}
	h.peer.mu.Lock()
	defer h.peer.mu.Unlock()
	h.peer.messages = append(h.peer.messages, m)
	h.peer.taken.Add(1)
	return p, nil
}
