package destination

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/packets"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// mqttTarget publishes to a topic of an MQTT 5 server: an event is delivered when the
// server has acknowledged its message for good (PUBACK, or PUBCOMP with QoS 2). MQTT drops
// no repeated messages; a user property tells them. Source: OASIS, MQTT Version 5.0;
// cloudevents/spec: cloudevents/bindings/mqtt-protocol-binding.md.
type mqttTarget struct {
	*targetConfig
	server string // host:port
	secure bool   // by TLS
	topic  eventTemplate
	qos    byte
	retain bool
	expiry *uint32 // seconds, nil for none
	binary bool
	beside string // the client's name instead of clientId, "" once that is used
	link[*mqttConn]
}

// How long a server may take to connect, and to read what it is sent.
const (
	mqttConnectTime = 10 * time.Second
	mqttWriteTime   = 10 * time.Second
	mqttLastWords   = time.Second // and to say why it ends a connection
)

// The ports of MQTT, as registered with IANA.
const (
	mqttPort    = "1883"
	mqttTLSPort = "8883"
)

const (
	mqttTurns      = 4         // attempts that have messages under way at a time: more make nothing quicker
	mqttKeepAlive  = 60        // seconds without a packet, unless the server wants less
	mostMQTTPacket = 64 << 10  // bytes of the largest packet that is read
	mostMQTTString = 1<<16 - 1 // bytes
	mqttBuffer     = 64 << 10  // bytes that are written together
)

func checkMQTT(c *targetConfig) error {
	list, err := addresses("serverUrl", c.values.Text("serverUrl"), "mqtts", "mqtt")
	switch {
	case err != nil:
		return err
	case len(list) > 1:
		return fault.Field("serverUrl", "There is more than one address: name one server.")
	case c.values.Text("username") == "" && c.secrets["password"] != "":
		return fault.Field("username", "A password needs a username.")
	}
	for _, field := range []string{"topic", "username", "clientId"} {
		if !isMQTTString(c.values.Text(field)) {
			return fault.Field(field, "The %s has a control character.", field)
		}
	}
	if _, err := parseTopic(c.values.Text("topic")); err != nil {
		return fault.Field("topic", "The topic %.200s is not one that can be published to: %v.", c.values.Text("topic"), err)
	}
	return nil
}

func openMQTT(c *targetConfig) (targetSender, error) {
	u, err := url.Parse(strings.TrimSpace(c.values.Text("serverUrl")))
	if err != nil {
		return nil, unready("the serverUrl cannot be read")
	}
	t := &mqttTarget{
		targetConfig: c, secure: u.Scheme == "mqtts", qos: byte(c.values.Int("qos", 1)), retain: c.values.Bool("retain"),
		binary: c.values.Text("contentMode") == "binary",
	}
	if t.binary && c.schema != event.CloudEventSchemaV1_0 {
		return nil, unready("contentMode binary is for CloudEvents: deliver in CloudEventSchemaV1_0, or use structured")
	}
	port := u.Port()
	switch {
	case port != "":
	case t.secure:
		port = mqttTLSPort
	default:
		port = mqttPort
	}
	t.server = net.JoinHostPort(u.Hostname(), port)
	if seconds := uint32(c.values.Int("messageExpiry", 0)); seconds > 0 {
		t.expiry = &seconds
	}
	if t.topic, err = parseTopic(c.values.Text("topic")); err != nil {
		return nil, err
	}
	if id := c.values.Text("clientId"); id != "" && c.beside {
		t.beside = fmt.Sprintf("%s-%06x", id, rand.Uint32()>>8)
	}
	t.turns = make(chan struct{}, mqttTurns)
	t.dial, t.end, t.gone = t.connect, (*mqttConn).leave, (*mqttConn).ended
	t.by = func() string { return t.beside }
	return t, nil
}

// mqttConn is a connection to a server, with the messages under way on it. Lock order:
// writing, mu.
type mqttConn struct {
	net.Conn
	largest int           // bytes of a packet that the server takes
	first   byte          // packet by which it answers a message: PUBACK or PUBREC
	slots   chan struct{} // of messages under way, as many as the server takes

	writing   sync.Mutex
	out       bytes.Buffer          // what is not written yet
	unwritten atomic.Pointer[error] // why nothing more can be written

	mu      sync.Mutex
	waiting map[uint16]mqttFlight // messages under way, by their packet identifiers
	last    uint16                // identifier that was given last

	once sync.Once
	done chan struct{} // closed when the connection has ended
	err  error         // why; there when done is closed
}

// mqttFlight is a message under way.
type mqttFlight struct {
	part    int
	expects byte // the packet that answers it
	answers chan<- mqttAnswer
}

// mqttAnswer is what a server says of a message.
type mqttAnswer struct {
	part   int
	id     uint16
	packet byte
	code   byte
}

// last reports whether nothing follows for the message.
func (a mqttAnswer) last() bool { return a.packet != packets.PUBREC || a.code >= mqttFailures }

// connect dials and signs in.
func (t *mqttTarget) connect(ctx context.Context) (*mqttConn, error) {
	c, err := t.connectOnce(ctx)
	if refusal, is := errors.AsType[*mqttRefusal](err); is && (refusal.code == packets.ConnackInvalidClientID || refusal.means.Outcome == broker.Unauthorized) && t.ownName() {
		return t.connectOnce(ctx)
	}
	return c, err
}

// ownName has the client go by clientId from now on, after the server has refused the name
// that it had beside it: servers may admit some clients alone, or let them alone publish.
// It reports whether that is a change.
func (t *mqttTarget) ownName() bool {
	if t.beside == "" {
		return false
	}
	t.beside = ""
	return true
}

func (t *mqttTarget) connectOnce(ctx context.Context) (*mqttConn, error) {
	ctx, cancel := context.WithTimeout(ctx, mqttConnectTime)
	defer cancel()
	dial := t.guard.DialClear
	if t.secure {
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialTLS(ctx, t.guard, network, address)
		}
	}
	raw, err := dial(ctx, "tcp", t.server)
	if err != nil {
		return nil, err
	}
	c := &mqttConn{Conn: raw, waiting: map[uint16]mqttFlight{}, first: packets.PUBACK, done: make(chan struct{})}
	if t.qos == 2 {
		c.first = packets.PUBREC
	}
	forget := context.AfterFunc(ctx, func() { _ = raw.Close() })
	r := bufio.NewReader(raw)
	keepAlive, err := t.greet(c, r)
	if !forget() {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	go c.listen(r)
	go c.keep(keepAlive)
	return c, nil
}

// greet makes the server's acquaintance: who we are, what it takes, and after how long a
// silence it wants to hear of us.
func (t *mqttTarget) greet(c *mqttConn, r *bufio.Reader) (keepAlive time.Duration, err error) {
	id, user, password := cmp.Or(t.beside, t.values.Text("clientId")), t.values.Text("username"), t.secrets["password"]
	if id == "" {
		id = fmt.Sprintf("carillon%015x", rand.Uint64()>>4) // 23 letters and digits, which every server takes
	}
	hello := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: id, CleanStart: true, KeepAlive: mqttKeepAlive,
		UsernameFlag: user != "", Username: user, PasswordFlag: password != "", Password: []byte(password),
		Properties: &packets.Properties{MaximumPacketSize: new(uint32(mostMQTTPacket)), RequestProblemInfo: new(byte(0))},
	}
	if _, err := hello.WriteTo(&c.out); err != nil {
		return 0, err
	}
	_, err = c.Write(c.out.Bytes())
	c.out = bytes.Buffer{} // a password was in it
	if err != nil {
		return 0, err
	}
	kind, body, err := readMQTT(r, nil)
	switch {
	case err != nil:
		return 0, err
	case kind != packets.CONNACK || len(body) < 2:
		return 0, errNoMQTT
	case len(body) == 2: // versions before had no properties
		return 0, &mqttRefusal{means: broker.Response{Outcome: broker.GenericError, Detail: "the server does not speak MQTT 5", Verdict: broker.TryAgain}}
	}
	answer := packets.Connack{Properties: &packets.Properties{}}
	err = answer.Unpack(bytes.NewBuffer(body))
	switch code := answer.ReasonCode; {
	case err != nil || code > 0 && code < mqttFailures: // no CONNACK has those
		return 0, errNoMQTT
	case code > 0:
		return 0, &mqttRefusal{code, ofConnection(mqttReason(code))}
	}
	says := answer.Properties
	misfit := func(detail string) error {
		return &mqttRefusal{means: broker.Response{Outcome: broker.GenericError, Detail: detail, Verdict: broker.TryAgain}}
	}
	underWay := mqttTurns * t.kind.Together
	if says.ReceiveMaximum != nil {
		underWay = min(underWay, int(*says.ReceiveMaximum))
	}
	switch {
	case underWay == 0:
		return 0, errNoMQTT
	case says.MaximumQOS != nil && *says.MaximumQOS == 0:
		return 0, misfit("the server takes QoS 0 alone, which acknowledges nothing")
	case says.MaximumQOS != nil && *says.MaximumQOS < t.qos:
		return 0, misfit("the server takes QoS 1 at most: set qos to 1")
	case t.retain && says.RetainAvailable != nil && *says.RetainAvailable == 0:
		return 0, misfit("the server retains no messages: set retain to false")
	}
	c.slots, c.largest = make(chan struct{}, underWay), 256<<20
	if says.MaximumPacketSize != nil {
		c.largest = int(*says.MaximumPacketSize)
	}
	keepAlive = mqttKeepAlive * time.Second
	if says.ServerKeepAlive != nil {
		keepAlive = time.Duration(*says.ServerKeepAlive) * time.Second
	}
	return keepAlive, nil
}

// readMQTT reads a packet into buffer, or another one if it does not fit. One of another
// length than we said we take is read no further. Source: MQTT 5.0 section 2.1.
func readMQTT(r *bufio.Reader, buffer []byte) (kind byte, body []byte, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	length := 0
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		if length |= int(b&0x7f) << shift; length > mostMQTTPacket || shift > 21 {
			return 0, nil, errNoMQTT
		}
		if b < 0x80 {
			break
		}
	}
	body = slices.Grow(buffer[:0], length)[:length]
	_, err = io.ReadFull(r, body)
	return first >> 4, body, err
}

// errNoMQTT is that what answers says something else.
var errNoMQTT = errors.New("what answers does not speak MQTT")

// errMQTTLeft is that we ended the connection ourselves.
var errMQTTLeft = errors.New("the connection was left")

// listen reads until the connection ends, and says why it did: what the server says of it
// counts before what was noticed of it.
func (c *mqttConn) listen(r *bufio.Reader) {
	err := c.read(r)
	if _, said := errors.AsType[*mqttRefusal](err); !said {
		if unwritten := c.unwritten.Load(); unwritten != nil {
			err = *unwritten
		}
	}
	c.close(err)
}

// read hands what the server says to whoever waits for it, until the connection ends.
func (c *mqttConn) read(r *bufio.Reader) error {
	var buffer []byte
	for {
		kind, body, err := readMQTT(r, buffer)
		if err != nil {
			return err
		}
		buffer = body
		switch kind {
		case packets.PINGRESP:
		case packets.PUBACK, packets.PUBREC, packets.PUBCOMP:
			if !c.answered(kind, body) {
				return errNoMQTT
			}
		case packets.DISCONNECT:
			code := byte(0)
			if len(body) > 0 {
				code = body[0]
			}
			return &mqttRefusal{code, c.goodbye(code)}
		default:
			return errNoMQTT
		}
	}
}

// answered passes an answer on. It returns false for one that nobody can be waiting for.
func (c *mqttConn) answered(kind byte, body []byte) bool {
	if len(body) < 2 {
		return false
	}
	a := mqttAnswer{id: binary.BigEndian.Uint16(body), packet: kind}
	if len(body) > 2 {
		a.code = body[2]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f, there := c.waiting[a.id]
	if !there || f.expects != kind {
		return false
	}
	if a.last() {
		delete(c.waiting, a.id)
		<-c.slots
	} else {
		f.expects = packets.PUBCOMP
		c.waiting[a.id] = f
	}
	a.part = f.part
	f.answers <- a // it has room
	return true
}

// goodbye is what it means that the server ends the connection. It is taken for what a
// message is to blame for only where no other is under way.
func (c *mqttConn) goodbye(code byte) broker.Response {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := mqttReason(code)
	switch {
	case r.Outcome == broker.Delivered: // what it is of a message
		return broker.Response{Outcome: broker.GenericError, Detail: "the server ended the connection", Verdict: broker.TryAgain}
	case len(c.waiting) != 1:
		return ofConnection(r)
	}
	return r
}

// put makes a message ready to be written, for a slot that the caller holds. It returns
// false for one that is larger than the server takes, and the slot is free again.
func (c *mqttConn) put(m *packets.Publish, part int, answers chan<- mqttAnswer) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	for taken := true; taken; _, taken = c.waiting[c.last] {
		c.last = max(c.last+1, 1)
	}
	m.PacketID = c.last
	c.waiting[m.PacketID] = mqttFlight{part, c.first, answers}
	c.mu.Unlock()
	before := c.out.Len()
	_, _ = m.WriteTo(&c.out) // it takes everything
	if c.out.Len()-before > c.largest {
		c.out.Truncate(before)
		c.mu.Lock()
		delete(c.waiting, m.PacketID)
		<-c.slots
		c.mu.Unlock()
		return false
	}
	if c.out.Len() >= mqttBuffer {
		c.writeLocked()
	}
	return true
}

// release says that we know that the server has a message of QoS 2.
func (c *mqttConn) release(id uint16) {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, _ = (&packets.Pubrel{PacketID: id}).WriteTo(&c.out)
}

// flush writes what is ready. Where that fails the connection ends soon.
func (c *mqttConn) flush() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.writeLocked()
}

// writeLocked is flush. The caller holds c.writing.
func (c *mqttConn) writeLocked() {
	if c.out.Len() == 0 {
		return
	}
	if c.unwritten.Load() == nil {
		_ = c.SetWriteDeadline(time.Now().Add(mqttWriteTime))
		if _, err := c.Write(c.out.Bytes()); err != nil {
			c.unwritten.Store(&err)
			_ = c.SetReadDeadline(time.Now().Add(mqttLastWords))
		}
	}
	if c.out.Reset(); c.out.Cap() > 2*mqttBuffer {
		c.out = bytes.Buffer{}
	}
}

// keep tells the server from time to time that we are there.
func (c *mqttConn) keep(every time.Duration) {
	if every == 0 {
		return
	}
	tick := time.NewTicker(every * 3 / 4)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
			c.writing.Lock()
			_, _ = (&packets.Pingreq{}).WriteTo(&c.out)
			c.writeLocked()
			c.writing.Unlock()
		}
	}
}

// close ends the connection because of err.
func (c *mqttConn) close(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.done)
	})
	_ = c.Conn.Close()
}

// leave ends the connection with a farewell.
func (c *mqttConn) leave() {
	c.writing.Lock()
	if !c.ended() {
		_, _ = (&packets.Disconnect{}).WriteTo(&c.out)
		c.writeLocked()
	}
	c.writing.Unlock()
	c.close(errMQTTLeft)
}

// ended reports whether the connection is over.
func (c *mqttConn) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (t *mqttTarget) Send(ctx context.Context, r *broker.Request) broker.Response {
	answer := t.send(ctx, r)
	if answer.Outcome == broker.Unauthorized && t.ownName() {
		for i := range r.Parts {
			r.Parts[i].Response = broker.Response{}
		}
		return t.send(ctx, r)
	}
	return answer
}

func (t *mqttTarget) send(ctx context.Context, r *broker.Request) broker.Response {
	limit := time.NewTimer(min(r.Hold, answerTime))
	defer limit.Stop()
	for again := false; ; again = true {
		unsent := false
		if err := t.inTurn(ctx, limit.C, func(c *mqttConn) (broken bool) {
			if r.Fill() != nil {
				each(r.Parts, canceled())
				return false
			}
			defer r.Sent()
			unsent, broken = t.publish(ctx, c, r, limit.C, !again)
			return broken
		}); err != nil {
			return mqttFailed(ctx, err)
		}
		if !unsent {
			return broker.Together(r.Parts)
		}
	}
}

// publish sends the messages of an attempt, as many at a time as the server takes, and
// waits for its answers. What is under way when it gives up takes the connection with it.
// Where the connection ends before anything was sent, and another one may be tried, nothing
// is said of the messages: they are unsent.
func (t *mqttTarget) publish(ctx context.Context, c *mqttConn, r *broker.Request, limit <-chan time.Time, another bool) (unsent, broken bool) {
	defer context.AfterFunc(ctx, func() { c.close(ctx.Err()) })() // also a write that blocks
	answers := make(chan mqttAnswer, 2*len(r.Parts))
	next, underWay := 0, 0
	take := func(a mqttAnswer) {
		if a.last() {
			underWay--
			r.Parts[a.part].Response = mqttReason(a.code)
			return
		}
		c.release(a.id)
	}
	for next < len(r.Parts) || underWay > 0 {
		var slots chan<- struct{}
		if next < len(r.Parts) {
			slots = c.slots
		} else {
			r.Sent()
		}
		if len(answers) == 0 && len(slots) == cap(slots) { // there is nothing to do but wait
			c.flush()
		}
		select {
		case a := <-answers:
			take(a)
		case slots <- struct{}{}:
			switch m, err := t.message(r, next); {
			case err != nil:
				<-c.slots
				r.Parts[next].Response = broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())}
			case !c.put(m, next, answers):
				r.Parts[next].Response = broker.Response{Outcome: broker.PayloadTooLarge, Detail: "the message is larger than the server takes"}
			default:
				underWay++
			}
			next++
		case <-c.done:
			if next == 0 && another && ctx.Err() == nil {
				return true, true
			}
			for len(answers) > 0 {
				take(<-answers)
			}
			why := mqttFailed(ctx, c.err)
			each(r.Parts[:next], why)
			each(r.Parts, ofConnection(why))
			return false, true
		case <-limit:
			each(r.Parts, timedOut(min(r.Hold, answerTime)))
			return false, next > 0
		}
	}
	return false, c.ended()
}

// message is the message of a part.
func (t *mqttTarget) message(r *broker.Request, i int) (*packets.Publish, error) {
	p := &r.Parts[i]
	body := r.Body[p.From:p.To]
	topic, err := t.topic.of(body, t.schema, topicLevel)
	if err != nil {
		return nil, err
	}
	says := &packets.Properties{ContentType: r.ContentType, MessageExpiry: t.expiry}
	m := &packets.Publish{Topic: topic, QoS: t.qos, Retain: t.retain, Payload: body, Properties: says}
	if len(topic) > mostMQTTString {
		return nil, errors.New("the topic that the event makes is too long")
	}
	unfit := ""
	property := func(name, value string) {
		if !isMQTTString(name) || !isMQTTString(value) {
			unfit = name
		}
		says.User = append(says.User, packets.User{Key: name, Value: value})
	}
	if t.binary {
		if m.Payload, err = cloudEventParts(body, func(name, value string) {
			if name == "datacontenttype" {
				says.ContentType = value
			} else {
				property(name, value)
			}
		}); err != nil {
			return nil, err
		}
		if !isMQTTString(says.ContentType) {
			unfit = "datacontenttype"
		}
	}
	property("message-id", t.messageID(p))
	for _, a := range t.properties(p) {
		property(a.name, a.value)
	}
	if unfit != "" {
		return nil, fmt.Errorf("%.60q of the event has a control character, or is longer than 64 KiB", unfit)
	}
	return m, nil
}

// mqttFailures is the first reason code that stands for a failure.
// Source: MQTT 5.0 section 2.4.
const mqttFailures = 0x80

// mqttReasons are what reason codes mean, which are the same in every packet.
// Source: MQTT 5.0 section 2.4.
var mqttReasons = map[byte]broker.Response{
	packets.PubackTopicNameInvalid:            {Outcome: broker.NotFound, Detail: "the server does not take the topic", Verdict: broker.TryAgain},
	packets.PubackQuotaExceeded:               {Outcome: broker.Full, Detail: "a quota of the server is used up", Verdict: broker.TryAgain},
	packets.PubackPayloadFormatInvalid:        {Outcome: broker.BadRequest, Detail: "the server finds the payload invalid"},
	packets.DisconnectPacketTooLarge:          {Outcome: broker.PayloadTooLarge, Detail: "the message is larger than the server takes"},
	packets.ConnackUnsupportedProtocolVersion: {Outcome: broker.GenericError, Detail: "the server does not speak MQTT 5", Verdict: broker.TryAgain},
	packets.ConnackInvalidClientID:            {Outcome: broker.GenericError, Detail: "the server does not take the clientId", Verdict: broker.TryAgain},
	packets.ConnackBadUsernameOrPassword:      {Outcome: broker.Unauthorized, Detail: "the server does not take the credentials", Verdict: broker.TryAgain},
	packets.ConnackNotAuthorized:              {Outcome: broker.Unauthorized, Detail: "the user may not connect, or not publish to the topic", Verdict: broker.TryAgain},
	packets.ConnackBanned:                     {Outcome: broker.Unauthorized, Detail: "the server has banned the client", Verdict: broker.TryAgain},
	packets.ConnackBadAuthenticationMethod:    {Outcome: broker.Unauthorized, Detail: "the server wants another way of authentication than by password", Verdict: broker.TryAgain},
	packets.ConnackServerUnavailable:          {Outcome: broker.Busy, Detail: "the server is not available", Verdict: broker.TryAgain},
	packets.ConnackServerBusy:                 {Outcome: broker.Busy, Detail: "the server is busy", Verdict: broker.TryAgain},
	packets.ConnackUseAnotherServer:           {Outcome: broker.Busy, Detail: "the server sends clients to another one for a while", Verdict: broker.TryAgain},
	packets.ConnackServerMoved:                {Outcome: broker.NotFound, Detail: "the server has moved: name the new one as serverUrl", Verdict: broker.TryAgain},
	packets.ConnackConnectionRateExceeded:     {Outcome: broker.Busy, Detail: "the server takes no more connections at present", Verdict: broker.TryAgain},
	packets.DisconnectServerShuttingDown:      {Outcome: broker.Busy, Detail: "the server is shutting down", Verdict: broker.TryAgain},
	packets.DisconnectSessionTakenOver:        {Outcome: broker.GenericError, Detail: "another client has the same clientId", Verdict: broker.TryAgain},
	packets.DisconnectMessageRateTooHigh:      {Outcome: broker.Busy, Detail: "the server wants fewer messages", Verdict: broker.TryAgain},
	packets.DisconnectRetainNotSupported:      {Outcome: broker.GenericError, Detail: "the server retains no messages: set retain to false", Verdict: broker.TryAgain},
	packets.DisconnectQoSNotSupported:         {Outcome: broker.GenericError, Detail: "the server takes QoS 1 at most: set qos to 1", Verdict: broker.TryAgain},
}

// mqttReason tells what a reason code means. Below 0x80 a message was taken, also where
// nobody gets it (0x10).
func mqttReason(code byte) broker.Response {
	if code < mqttFailures {
		return broker.Response{Outcome: broker.Delivered}
	}
	if r, known := mqttReasons[code]; known {
		return r
	}
	return broker.Response{Outcome: broker.GenericError, Detail: fmt.Sprintf("the server answered 0x%02x", code), Verdict: broker.TryAgain}
}

// ofConnection is what a response means for messages that it says nothing of themselves.
func ofConnection(r broker.Response) broker.Response {
	if r.Outcome == broker.BadRequest || r.Outcome == broker.PayloadTooLarge {
		r.Outcome, r.Verdict = broker.GenericError, broker.TryAgain
	}
	return r
}

// mqttRefusal is that a server ended, or did not begin, a connection, or that it does not
// take what is wanted of it.
type mqttRefusal struct {
	code  byte // the reason, 0 where there is none
	means broker.Response
}

func (e *mqttRefusal) Error() string { return e.means.Detail }

// mqttFailed tells what a failure of a connection means.
func mqttFailed(ctx context.Context, err error) broker.Response {
	refusal, isRefusal := errors.AsType[*mqttRefusal](err)
	switch {
	case ctx.Err() != nil:
		return canceled()
	case errors.Is(err, errNoTurn):
		return timedOut(answerTime)
	case isRefusal:
		return refusal.means
	case errors.Is(err, errNoMQTT), errors.Is(err, errMQTTLeft):
		return broker.Response{Outcome: broker.SocketError, Detail: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return broker.Response{Outcome: broker.TimedOut, Detail: "the server did not answer in time", Verdict: broker.TryAgain}
	}
	return unconnected(err)
}

// probe signs in. Whether the topic may be published to can only be tried.
func (t *mqttTarget) probe(ctx context.Context) error {
	if err := t.use(ctx, func(*mqttConn) bool { return false }); err != nil {
		return unready("%s", at(t.server, mqttFailed(ctx, err).Detail))
	}
	return nil
}

func (t *mqttTarget) preview(r *broker.Request, i int) manage.Receipt {
	topic, properties := t.topic.any(), t.properties(&r.Parts[i])
	own := []attribute{{name: "content-type", value: r.ContentType}, {name: "message-id", value: t.messageID(&r.Parts[i])}}
	if m, err := t.message(r, i); err == nil {
		topic, own = m.Topic, []attribute{{name: "content-type", value: m.Properties.ContentType}}
		for _, p := range m.Properties.User[:len(m.Properties.User)-len(properties)] {
			own = append(own, attribute{name: p.Key, value: p.Value})
		}
	}
	return receipt("PUBLISH "+topic, append(own, properties...))
}

// parseTopic reads the topic of a field.
func parseTopic(text string) (eventTemplate, error) {
	t, err := parseTemplate(text)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(t.any(), "+#") {
		return nil, errors.New("it has wildcards")
	}
	return t, nil
}

// topicLevel makes one level of a topic of what an event says: whatever divides levels,
// stands for others or means something to servers at the beginning is replaced.
// Source: MQTT 5.0 section 4.7.
func topicLevel(text string) string {
	if text == "" {
		return "none"
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("/+#$", r) || !isMQTTRune(r) {
			return '_'
		}
		return r
	}, text)
}

// isMQTTString reports whether a text can stand in a packet as it is: for other ones a
// server may end the connection. Source: MQTT 5.0 section 1.5.4.
func isMQTTString(text string) bool {
	return len(text) <= mostMQTTString && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !isMQTTRune(r) })
}

func isMQTTRune(r rune) bool {
	control := r < 0x20 || r >= 0x7f && r < 0xa0
	return !control && (r < 0xfdd0 || r > 0xfdef) && r&0xfffe != 0xfffe // which stand for no character
}
