// Package amqppeer is a small AMQP 1.0 broker in this process: it takes messages, keeps
// them, and refuses what a test says. It speaks the protocol by itself, so that what a
// client library sends is read by somebody else. It is for tests alone.
package amqppeer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Options are how a peer answers.
type Options struct {
	User, Password string // that PLAIN has to show; without a user, everybody is let in as ANONYMOUS
	// Attach tells why nobody may send to an address, nil for that anybody may.
	Attach func(address string) *Error
	// Settle tells what becomes of a message; nil takes all.
	Settle func(address string, m Message) State
	// MaxMessage is the largest message in bytes, 0 for any.
	MaxMessage uint64
	// Dry addresses have no room for any message.
	Dry func(address string) bool
	// Count keeps no messages: it is only counted what was taken.
	Count bool
}

// Error is a condition that the peer states, with a description.
type Error struct{ Condition, Description string }

// State is what becomes of a message.
type State struct {
	code  uint64
	err   *Error
	never bool
}

// The states. Source: AMQP 1.0, part 3, section 3.4.
var (
	Accepted = State{code: 0x24}
	Released = State{code: 0x26}
	Modified = State{code: 0x27}
	Never    = State{never: true} // it is kept and never settled
)

// Rejected is the state of a message that is refused; nil for no reason.
func Rejected(err *Error) State { return State{code: 0x25, err: err} }

// Message is a message as it arrived.
type Message struct {
	Durable     bool
	Annotations map[string]any
	Properties  map[string]any // those that are there, by their names in the standard
	Application map[string]any
	Body        string // the data sections
}

// Peer is a broker on one address, which it keeps when it is stopped and started.
type Peer struct {
	address string
	options Options

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	messages map[string][]Message // by address, those that were taken
	running  sync.WaitGroup

	taken atomic.Int64
}

// Start runs a peer on a free port until the test ends.
func Start(t testing.TB, o Options) *Peer {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Down)
	return p
}

// Open runs a peer on a free port until it is taken down.
func Open(o Options) (*Peer, error) {
	p := &Peer{address: "127.0.0.1:0", options: o, messages: map[string][]Message{}}
	if err := p.Up(); err != nil {
		return nil, err
	}
	p.address = p.listener.Addr().String()
	return p, nil
}

// Addr is where the peer listens.
func (p *Peer) Addr() string { return p.address }

// Messages are those that were taken for an address, in their order.
func (p *Peer) Messages(address string) []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.messages[address]...)
}

// Taken is how many messages were taken.
func (p *Peer) Taken() int64 { return p.taken.Load() }

// Up listens.
func (p *Peer) Up() error {
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener, p.conns = l, map[net.Conn]bool{}
	p.mu.Unlock()
	p.running.Go(func() { p.accept(l) })
	return nil
}

// Down closes all connections and listens no more. What was taken is kept.
func (p *Peer) Down() {
	p.mu.Lock()
	_ = p.listener.Close()
	for c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Peer) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.conns == nil {
			_ = c.Close()
		} else {
			p.conns[c] = true
			p.running.Go(func() {
				defer p.closed(c)
				(&conn{Conn: c, peer: p, links: map[uint32]*link{}}).serve()
			})
		}
		p.mu.Unlock()
	}
}

func (p *Peer) closed(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// Conns is how many connections are open.
func (p *Peer) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Performatives and others. Source: AMQP 1.0, part 2, section 2.7; part 5, section 5.3.3.
const (
	codeOpen, codeBegin, codeAttach, codeFlow, codeTransfer, codeDisposition, codeDetach, codeEnd, codeClose = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18
	codeError, codeSource, codeTarget                                                                        = 0x1d, 0x28, 0x29
	codeMechanisms, codeInit, codeOutcome                                                                    = 0x40, 0x41, 0x44
)

// credit is how many messages a link may send ahead.
const credit = 500

// conn is a connection of a client.
type conn struct {
	net.Conn
	in    *bufio.Reader
	out   *bufio.Writer
	peer  *Peer
	links map[uint32]*link // by handle
	body  []byte           // of the frame that was read last

	settled struct { // messages in a row that were accepted, and are not answered yet
		any         bool
		channel     uint16
		first, last uint32
	}
}

// link is a link by which a client sends.
type link struct {
	address  string
	payload  []byte // of the message that arrives
	delivery uint32 // its number
	count    uint32 // messages that have arrived
}

// Read reads from the client, which has all answers first.
func (c *conn) Read(p []byte) (int, error) {
	c.answerSettled()
	if err := c.out.Flush(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *conn) serve() {
	c.in, c.out = bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c.Conn)
	defer func() { _ = c.out.Flush() }()
	defer func() {
		if v := recover(); v != nil {
			if _, foreign := v.(wireError); !foreign {
				panic(v)
			}
		}
	}()
	if !c.header(3) {
		return
	}
	mechanism := Symbol("PLAIN")
	if c.peer.options.User == "" {
		mechanism = "ANONYMOUS"
	}
	c.send(1, 0, described{codeMechanisms, []any{mechanism}})
	_, init, ok := c.frame()
	if !ok || init.code != codeInit {
		return
	}
	answer, _ := at(init, 1).([]byte)
	if o := c.peer.options; o.User != "" && !bytes.Equal(answer, []byte("\x00"+o.User+"\x00"+o.Password)) {
		c.send(1, 0, described{codeOutcome, []any{uint8(1)}})
		return
	}
	c.send(1, 0, described{codeOutcome, []any{uint8(0)}})
	if !c.header(0) {
		return
	}
	for {
		channel, p, ok := c.frame()
		if !ok || !c.handle(channel, p) {
			return
		}
	}
}

// header reads the protocol header of the client and answers with the same.
func (c *conn) header(protocol byte) bool {
	want := [8]byte{'A', 'M', 'Q', 'P', protocol, 1, 0, 0}
	var got [8]byte
	if _, err := io.ReadFull(c.in, got[:]); err != nil || got != want {
		return false
	}
	_, err := c.out.Write(want[:])
	return err == nil
}

// frame reads the next frame that says something. It is valid until the next one is read.
func (c *conn) frame() (channel uint16, performative described, ok bool) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return 0, described{}, false
		}
		size := binary.BigEndian.Uint32(head[:])
		if size < 8 || size > 1<<20 || head[4] != 2 {
			return 0, described{}, false
		}
		c.body = slices.Grow(c.body[:0], int(size-8))[:size-8]
		body := c.body
		if _, err := io.ReadFull(c.in, body); err != nil {
			return 0, described{}, false
		}
		if len(body) == 0 {
			continue // only to say that it is there
		}
		r := reader{body}
		performative, ok = r.value().(described)
		if performative.code == codeTransfer {
			performative = described{codeTransfer, append(pad(performative, 11), r.b)}
		}
		return binary.BigEndian.Uint16(head[6:]), performative, ok
	}
}

func (c *conn) send(kind byte, channel uint16, performative described) {
	body := appendValue(nil, performative)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)+8))
	frame = binary.BigEndian.AppendUint16(append(frame, 2, kind), channel)
	_, _ = c.out.Write(append(frame, body...)) // a client that is gone is noticed by the next read
}

// at is a field of a performative, nil when it is left out.
func at(d described, i int) any {
	if fields, ok := d.value.([]any); ok && i < len(fields) {
		return fields[i]
	}
	return nil
}

// pad returns the fields of a performative, n of them.
func pad(d described, n int) []any {
	fields, _ := d.value.([]any)
	for len(fields) < n {
		fields = append(fields, nil)
	}
	return fields[:n]
}

func failure(err *Error) any {
	if err == nil {
		return nil
	}
	return described{codeError, []any{Symbol(err.Condition), err.Description}}
}

func (c *conn) handle(channel uint16, p described) bool {
	switch p.code {
	case codeOpen:
		c.send(0, 0, described{codeOpen, []any{"peer", nil, uint32(16 << 10), uint16(100)}})
	case codeBegin:
		c.send(0, channel, described{codeBegin, []any{channel, uint32(0), uint32(1 << 30), uint32(1 << 30)}})
	case codeAttach:
		c.attach(channel, p)
	case codeTransfer:
		c.transfer(channel, p)
	case codeDetach:
		handle, _ := at(p, 0).(uint32)
		if c.links[handle] != nil { // of one that was refused it is the answer, which nobody answers
			delete(c.links, handle)
			c.send(0, channel, described{codeDetach, []any{handle, true}})
		}
	case codeEnd:
		c.send(0, channel, described{codeEnd, []any{}})
	case codeClose:
		c.send(0, 0, described{codeClose, []any{}})
		return false
	}
	return true
}

func (c *conn) attach(channel uint16, p described) {
	handle, _ := at(p, 1).(uint32)
	target, _ := at(p, 6).(described)
	address, _ := at(target, 0).(string)
	var refused *Error
	if c.peer.options.Attach != nil {
		refused = c.peer.options.Attach(address)
	}
	answer := []any{at(p, 0), handle, true, uint8(0), uint8(0), described{codeSource, []any{}}, described{codeTarget, []any{address}}, nil, nil, nil, c.peer.options.MaxMessage}
	if refused != nil { // a link without a target, which is closed at once
		answer[6] = nil
		c.send(0, channel, described{codeAttach, answer})
		c.send(0, channel, described{codeDetach, []any{handle, true, failure(refused)}})
		return
	}
	l := &link{address: address}
	c.links[handle] = l
	c.send(0, channel, described{codeAttach, answer})
	if c.peer.options.Dry == nil || !c.peer.options.Dry(address) {
		c.flow(channel, handle, l)
	}
}

func (c *conn) flow(channel uint16, handle uint32, l *link) {
	c.send(0, channel, described{codeFlow, []any{uint32(0), uint32(1 << 30), uint32(0), uint32(1 << 30), handle, l.count, uint32(credit)}})
}

func (c *conn) transfer(channel uint16, p described) {
	handle, _ := at(p, 0).(uint32)
	l := c.links[handle]
	if l == nil {
		return
	}
	if id, is := at(p, 1).(uint32); is {
		l.delivery, l.payload = id, nil
	}
	if part, _ := at(p, 11).([]byte); !c.peer.options.Count {
		l.payload = append(l.payload, part...)
	}
	if more, _ := at(p, 5).(bool); more {
		return
	}
	if l.count++; l.count%(credit/2) == 0 {
		c.flow(channel, handle, l)
	}
	switch state := c.take(l); {
	case state.never:
	case state.code == Accepted.code:
		c.accepted(channel, l.delivery)
	default:
		fields := []any{}
		if state.err != nil {
			fields = []any{failure(state.err)}
		}
		c.disposition(channel, l.delivery, l.delivery, described{state.code, fields})
	}
}

// take decides on the message that has arrived by a link.
func (c *conn) take(l *link) State {
	if c.peer.options.Count {
		c.peer.taken.Add(1)
		return Accepted
	}
	m, err := parseMessage(l.payload)
	if err != nil {
		return Rejected(&Error{"amqp:decode-error", err.Error()})
	}
	state := Accepted
	if c.peer.options.Settle != nil {
		state = c.peer.options.Settle(l.address, m)
	}
	if state.code == Accepted.code || state.never {
		c.peer.mu.Lock()
		c.peer.messages[l.address] = append(c.peer.messages[l.address], m)
		c.peer.mu.Unlock()
		c.peer.taken.Add(1)
	}
	return state
}

// accepted has a message answered together with those before it.
func (c *conn) accepted(channel uint16, delivery uint32) {
	if s := &c.settled; s.any && s.channel == channel && s.last+1 == delivery {
		s.last = delivery
		return
	}
	c.answerSettled()
	c.settled.any, c.settled.channel, c.settled.first, c.settled.last = true, channel, delivery, delivery
}

func (c *conn) answerSettled() {
	if s := &c.settled; s.any {
		s.any = false
		c.disposition(s.channel, s.first, s.last, described{Accepted.code, []any{}})
	}
}

func (c *conn) disposition(channel uint16, first, last uint32, state described) {
	c.send(0, channel, described{codeDisposition, []any{true, first, last, true, state}})
}

// propertyNames are the fields of the section properties.
// Source: AMQP 1.0, part 3, section 3.2.4.
var propertyNames = []string{
	"message-id", "user-id", "to", "subject", "reply-to", "correlation-id", "content-type", "content-encoding", "absolute-expiry-time", "creation-time",
	"group-id", "group-sequence", "reply-to-group-id",
}

// parseMessage reads the sections of a message.
func parseMessage(payload []byte) (m Message, err error) {
	defer func() {
		if v := recover(); v != nil {
			foreign, is := v.(wireError)
			if !is {
				panic(v)
			}
			err = foreign
		}
	}()
	m.Properties = map[string]any{}
	for r := (reader{payload}); len(r.b) > 0; {
		section, ok := r.value().(described)
		if !ok {
			return m, errors.New("a section has no descriptor")
		}
		switch section.code {
		case 0x70:
			m.Durable, _ = at(section, 0).(bool)
		case 0x72:
			m.Annotations = texts(section.value)
		case 0x73:
			for i, name := range propertyNames {
				if v := at(section, i); v != nil {
					m.Properties[name] = v
				}
			}
		case 0x74:
			m.Application = texts(section.value)
		case 0x75:
			data, _ := section.value.([]byte)
			m.Body += string(data)
		default:
			return m, fmt.Errorf("section %#x is not expected", section.code)
		}
	}
	return m, nil
}

// texts is a map by the texts of its keys.
func texts(value any) map[string]any {
	out := map[string]any{}
	pairs, _ := value.(map[any]any)
	for k, v := range pairs {
		out[fmt.Sprint(k)] = v
	}
	return out
}
