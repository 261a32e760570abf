package destination

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/go-amqp"
	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// amqpTarget sends messages to a node of an AMQP 1.0 broker: a queue or topic of Service
// Bus, an event hub, or any address of another one. An event is delivered when its
// message is accepted. Source: spec/handlers.md sections 5 and 7.
type amqpTarget struct {
	*targetConfig
	node func() (amqpNode, error) // by what is in force now
	link[*amqpLink]
}

// amqpNode is an address of a broker and how it is reached.
type amqpNode struct {
	broker         string // host:port
	secure         bool   // by TLS
	host           string // that the connection is opened for
	user, password string // user "" = anonymous
	address        string
	capability     string // queue or topic, for brokers that make what is not there; "" says nothing
}

// amqpLink is a link to a node with the connection that it is on.
type amqpLink struct {
	amqpConn
	sender *amqp.Sender
}

// amqpConn is a connection to a broker, and what it is made of.
type amqpConn struct {
	conn *amqp.Conn
	raw  net.Conn
}

// amqpConnectTime is how long a broker may take until a link to an address is there.
const amqpConnectTime = 10 * time.Second

// amqpCloseTime is how long a connection has for what is still to be written when it is
// closed.
const amqpCloseTime = 2 * time.Second

// close closes the connection: whoever waits for an answer on it learns so within
// amqpCloseTime, though the broker may read nothing any more.
func (c amqpConn) close() {
	late := time.AfterFunc(amqpCloseTime, func() { _ = c.raw.Close() })
	defer late.Stop()
	_ = c.conn.Close()
}

// The ports of AMQP. Source: AMQP 1.0, part 5, section 5.2.1, and IANA.
const (
	amqpPort    = "5672"
	amqpTLSPort = "5671"
)

// dial makes a link to the node.
func (n amqpNode) dial(ctx context.Context, guard *egress.Guard) (*amqpLink, error) {
	ctx, cancel := context.WithTimeout(ctx, amqpConnectTime)
	defer cancel()
	dial := guard.DialClear
	if n.secure {
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialTLS(ctx, guard, network, address)
		}
	}
	raw, err := dial(ctx, "tcp", n.broker)
	if err != nil {
		return nil, err
	}
	authentication := amqp.SASLTypeAnonymous()
	if n.user != "" {
		authentication = amqp.SASLTypePlain(n.user, n.password)
	}
	c := gathering(raw) // the client writes every message by itself
	conn, err := amqp.NewConn(ctx, &amqpFrames{Conn: c}, &amqp.ConnOptions{
		ContainerID: "carillon-" + uuid.NewString(), HostName: n.host, SASLType: authentication, MaxFrameSize: mostAMQPFrame,
	})
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	session, err := conn.NewSession(ctx, nil)
	if err == nil {
		options := &amqp.SenderOptions{SettlementMode: amqp.SenderSettleModeUnsettled.Ptr()}
		if n.capability != "" {
			options.TargetCapabilities = []string{n.capability}
		}
		var sender *amqp.Sender
		if sender, err = session.NewSender(ctx, n.address, options); err == nil {
			return &amqpLink{amqpConn{conn, raw}, sender}, nil
		}
	}
	go amqpConn{conn, raw}.close()
	return nil, err
}

// mostAMQPFrame is the largest frame that is read, in bytes.
const mostAMQPFrame = 64 << 10

// amqpFrames is a connection to a broker of which no frame larger than was agreed is
// read: the client would put it together in memory, up to 2 GiB of it.
type amqpFrames struct {
	net.Conn
	head [4]byte // of the next frame, read of it
	read int
	left uint32 // bytes of the present frame
}

func (f *amqpFrames) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if tooLong := f.pass(p[:n]); tooLong != nil {
		return 0, tooLong
	}
	return n, err
}

// pass follows the frames through what was read. Source: AMQP 1.0, part 2, sections 2.2
// and 2.3.
func (f *amqpFrames) pass(b []byte) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(len(b), int(f.left))
			b, f.left = b[n:], f.left-uint32(n)
			continue
		}
		n := copy(f.head[f.read:], b)
		b, f.read = b[n:], f.read+n
		if f.read < len(f.head) {
			return nil
		}
		f.read = 0
		size := binary.BigEndian.Uint32(f.head[:])
		switch {
		case string(f.head[:]) == "AMQP": // a protocol header has four more bytes
			size = 8
		case size < 8 || size > mostAMQPFrame:
			return errNoAMQP
		}
		f.left = size - 4
	}
	return nil
}

// errNoAMQP is that what answers says something else.
var errNoAMQP = errors.New("what answers does not speak AMQP 1.0")

func openAMQPTarget(c *targetConfig, node func() (amqpNode, error)) *amqpTarget {
	t := &amqpTarget{targetConfig: c, node: node}
	t.link.dial = func(ctx context.Context) (*amqpLink, error) {
		n, err := node()
		if err != nil {
			return nil, &connectionError{err}
		}
		return n.dial(ctx, c.guard)
	}
	t.end = func(l *amqpLink) { l.close() }
	return t
}

func (t *amqpTarget) Send(ctx context.Context, r *broker.Request) (resp broker.Response) {
	if err := t.use(ctx, func(l *amqpLink) (broken bool) {
		if r.Fill() != nil {
			resp = canceled()
			return false
		}
		defer r.Sent()
		parts := r.Parts // there since Fill
		if t.kind.Form != resource.FormMessages {
			parts = []broker.Part{*wholeOf(r)}
		}
		broken = t.transfer(ctx, l, r, parts)
		resp = broker.Together(parts)
		return broken
	}); err != nil {
		return amqpFailed(ctx, err)
	}
	return resp
}

// transfer sends the messages of an attempt and waits until each is settled. They may be
// under way together. A link on which one was not settled in time is broken: a broker that
// reads or settles nothing any more may give signs of life for ever, and the next attempt
// gets a connection that is new.
func (t *amqpTarget) transfer(ctx context.Context, l *amqpLink, r *broker.Request, parts []broker.Part) (broken bool) {
	within, cancel := context.WithTimeout(ctx, min(r.Hold, answerTime))
	defer cancel()
	receipts := make([]*amqp.SendReceipt, len(parts))
	for i := range parts {
		p := &parts[i]
		receipt, err := l.sender.SendWithReceipt(within, t.message(p, r.ContentType, r.Body[p.From:p.To]), nil)
		if err == nil {
			receipts[i] = &receipt
			continue
		}
		if p.Response = amqpFailed(ctx, err); p.Outcome != broker.PayloadTooLarge {
			each(parts[i+1:], p.Response)
			broken = true
			break
		}
	}
	for i, receipt := range receipts {
		if receipt == nil {
			continue
		}
		state, err := receipt.Wait(within)
		if err != nil {
			parts[i].Response, broken = amqpFailed(ctx, err), true
			continue
		}
		parts[i].Response = amqpSettled(state)
	}
	return broken
}

// amqpSettled tells what the state means that a message was settled with. One that was
// given back is no error to the client library. Source: spec/handlers.md sections 7 and 15.
func amqpSettled(state amqp.DeliveryState) broker.Response {
	again := func(detail string) broker.Response {
		return broker.Response{Outcome: broker.GenericError, Detail: detail, Verdict: broker.TryAgain}
	}
	switch s := state.(type) {
	case *amqp.StateAccepted:
		return broker.Response{Outcome: broker.Delivered}
	case *amqp.StateRejected:
		if s.Error != nil {
			return amqpCondition(s.Error)
		}
		return again("the broker rejected the message and gives no reason")
	case *amqp.StateReleased:
		return again("the broker released the message: nothing there takes it")
	}
	return again("the broker settled the message without accepting it")
}

// amqpConditions are what conditions mean that brokers state.
// Source: spec/handlers.md section 5; AMQP 1.0, part 2, section 2.8.
var amqpConditions = map[amqp.ErrCond]broker.Response{
	amqp.ErrCondNotFound:              {Outcome: broker.NotFound, Detail: "the address is not there"},
	amqp.ErrCondResourceDeleted:       {Outcome: broker.NotFound, Detail: "the address was deleted"},
	"com.microsoft:entity-disabled":   {Outcome: broker.Disabled, Detail: "it is disabled"},
	amqp.ErrCondResourceLimitExceeded: {Outcome: broker.Full, Detail: "it is full"},
	"com.microsoft:server-busy":       {Outcome: broker.Busy, Detail: "the broker is busy"},
	amqp.ErrCondTransferLimitExceeded: {Outcome: broker.Busy, Detail: "the broker takes no more messages at present"},
	amqp.ErrCondResourceLocked:        {Outcome: broker.Busy, Detail: "it is locked"},
	amqp.ErrCondUnauthorizedAccess:    {Outcome: broker.Unauthorized, Detail: "the user may not send to the address"},
	"com.microsoft:auth-failed":       {Outcome: broker.Unauthorized, Detail: "the broker does not take the credentials"},
	amqp.ErrCondMessageSizeExceeded:   {Outcome: broker.PayloadTooLarge, Detail: "the message is larger than the address takes"},
	"com.microsoft:timeout":           {Outcome: broker.TimedOut, Detail: "the broker ran out of time"},
}

// amqpCondition tells what an error that a broker states means.
func amqpCondition(err *amqp.Error) broker.Response {
	r, known := amqpConditions[err.Condition]
	switch {
	case known:
	case err.Condition == amqp.ErrCondNotAllowed && strings.Contains(err.Description, "SessionId"):
		// Source: learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-exceptions.
		r = broker.Response{Outcome: broker.SessionQueueNotSupported, Detail: "it has sessions: say of which a message is by the delivery attribute SessionId"}
	default:
		r = broker.Response{Outcome: broker.GenericError, Detail: "the broker answered " + conditionName(err.Condition)}
	}
	if r.Outcome != broker.PayloadTooLarge {
		r.Verdict = broker.TryAgain
	}
	return r
}

// conditionName is a condition as it may be shown: what is spelled like one.
func conditionName(c amqp.ErrCond) string {
	if len(c) > 80 || strings.Trim(strings.ToLower(string(c)), "abcdefghijklmnopqrstuvwxyz0123456789:.-_") != "" {
		return "a condition that is none"
	}
	return string(c)
}

// amqpFailed tells what a failure of a connection, a link or a message means.
func amqpFailed(ctx context.Context, err error) broker.Response {
	answer := func(o broker.Outcome, detail string) broker.Response {
		return broker.Response{Outcome: o, Detail: detail, Verdict: broker.TryAgain}
	}
	stated, isStated := errors.AsType[*amqp.Error](err)
	noConnection, isConnection := errors.AsType[*connectionError](err)
	switch text := err.Error(); {
	case ctx.Err() != nil:
		return canceled()
	case isConnection:
		return answer(broker.Unauthorized, short(noConnection.Error()))
	case isStated:
		return amqpCondition(stated)
	case strings.HasPrefix(text, "SASL "), strings.HasPrefix(text, "no supported auth mechanism"): // the library has no other sign
		return answer(broker.Unauthorized, "the broker does not take the credentials")
	case errors.Is(err, errNoAMQP), strings.HasPrefix(text, "unexpected protocol"):
		return answer(broker.SocketError, errNoAMQP.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return answer(broker.TimedOut, "the broker did not answer in time")
	}
	return unconnected(err)
}

func (t *amqpTarget) probe(ctx context.Context) error {
	n, err := t.node()
	if err != nil {
		return err
	}
	if err := t.use(ctx, func(*amqpLink) bool { return false }); err != nil {
		return unready("%s at %s", n.address, at(n.broker, amqpFailed(ctx, err).Detail))
	}
	return nil
}

func (t *amqpTarget) preview(r *broker.Request, i int) manage.Receipt {
	p := wholeOf(r)
	if t.kind.Form == resource.FormMessages {
		p = &r.Parts[i]
	}
	line := "TRANSFER"
	if n, err := t.node(); err == nil {
		line += " " + n.address
	}
	own := []attribute{{name: "content-type", value: r.ContentType}}
	if t.kind.Form == resource.FormMessages {
		own = append(own, attribute{name: "message-id", value: t.messageID(p)})
	}
	return receipt(line, append(own, t.properties(p)...))
}

// message is the message of a part. Delivery attributes that the kind names are fields of
// the message itself. Source: spec/handlers.md section 7.
func (t *amqpTarget) message(p *broker.Part, contentType string, body []byte) *amqp.Message {
	properties := &amqp.MessageProperties{ContentType: &contentType}
	if t.kind.Form == resource.FormMessages {
		properties.MessageID = t.messageID(p)
	}
	m := &amqp.Message{
		Header: &amqp.MessageHeader{Durable: true}, Properties: properties, Data: [][]byte{body},
		Annotations: amqp.Annotations{}, ApplicationProperties: map[string]any{},
	}
	for _, a := range t.properties(p) {
		named := t.kind.NamedAttribute(a.name)
		if named == nil {
			m.ApplicationProperties[a.name] = a.value
			continue
		}
		switch named.Name {
		case "MessageId":
			properties.MessageID = a.value
		case "SessionId":
			properties.GroupID = &a.value
		case "CorrelationId":
			properties.CorrelationID = a.value
		case "Label":
			properties.Subject = &a.value
		case "ReplyTo":
			properties.ReplyTo = &a.value
		case "ReplyToSessionId":
			properties.ReplyToGroupID = &a.value
		case "To":
			properties.To = &a.value
		case partitionKey:
			m.Annotations["x-opt-partition-key"] = a.value
		case "ViaPartitionKey":
			m.Annotations["x-opt-via-partition-key"] = a.value
		}
	}
	return m
}

func checkServiceBus(c *targetConfig) error {
	if _, err := c.entity(); err != nil {
		return fault.Field("resourceId", "The entity cannot be used: %v.", err)
	}
	return nil
}

func openServiceBus(c *targetConfig) (targetSender, error) { return openEntity(c), nil }

// openEntity makes the sender to the resource that the destination names, by the
// connection in force.
func openEntity(c *targetConfig) *amqpTarget {
	t := openAMQPTarget(c, c.entity)
	t.link.by = c.connectionString
	return t
}

// connectionString is the connection of the resource that the destination names, ""
// without one.
func (c *targetConfig) connectionString() string {
	text, _ := c.connections.ofEntity(c.values.ID("resourceId")) // that there is none is said by whoever needs it
	return text
}

// entity is the node of the resource that the destination names, by its connection.
func (c *targetConfig) entity() (amqpNode, error) {
	id := c.values.ID("resourceId")
	text, err := c.connections.ofEntity(id)
	if err != nil {
		return amqpNode{}, err
	}
	n, azure, err := amqpConnection(text, id.Name())
	if err != nil {
		return n, fmt.Errorf("the connection string of %s %w", id, err)
	}
	if !azure { // Artemis would make a topic of either, which drops what nobody reads at the time
		n.capability = "queue"
		if c.kind.Name == "ServiceBusTopic" {
			n.capability = "topic"
		}
	}
	return n, nil
}

// amqpConnection reads a connection string: one of Service Bus or Event Hubs, or one of a
// broker that stands for them: azure says which. Its errors show nothing of it.
func amqpConnection(text, entity string) (n amqpNode, azure bool, err error) {
	values := connectionValues(text)
	endpoint, err := url.Parse(values["endpoint"])
	if err != nil || endpoint.Hostname() == "" {
		return n, false, errors.New("cannot be used: it needs Endpoint, SharedAccessKeyName and SharedAccessKey, or an Endpoint=amqps://host:port with Username, Password and Address")
	}
	n.address = entity
	switch endpoint.Scheme {
	case "amqp", "amqps":
		n.secure, n.user, n.password = endpoint.Scheme == "amqps", values["username"], values["password"]
		if address := values["address"]; address != "" {
			n.address = strings.ReplaceAll(address, "{name}", entity)
		}
	case "sb":
		n.secure, n.user, n.password = !strings.EqualFold(values["usedevelopmentemulator"], "true"), values["sharedaccesskeyname"], values["sharedaccesskey"]
		if n.user == "" || n.password == "" {
			return n, false, errors.New("has no SharedAccessKeyName and SharedAccessKey")
		}
	default:
		return n, false, errors.New("has an Endpoint that is none of sb://, amqp:// and amqps://")
	}
	n.broker, n.host = withPort(endpoint, n.secure), endpoint.Hostname()
	if host := values["hostname"]; host != "" {
		n.host = host
	}
	return n, endpoint.Scheme == "sb", nil
}

func withPort(u *url.URL, secure bool) string {
	port := u.Port()
	switch {
	case port != "":
	case secure:
		port = amqpTLSPort
	default:
		port = amqpPort
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func checkAMQP(c *targetConfig) error {
	list, err := addresses("url", c.values.Text("url"), "amqps", "amqp")
	switch {
	case err != nil:
		return err
	case len(list) > 1:
		return fault.Field("url", "There is more than one address: name one broker.")
	case c.values.Text("username") == "" && c.secrets["password"] != "":
		return fault.Field("username", "A password needs a username.")
	}
	return nil
}

func openAMQP(c *targetConfig) (targetSender, error) {
	u, err := url.Parse(strings.TrimSpace(c.values.Text("url")))
	if err != nil {
		return nil, unready("the url cannot be read")
	}
	n := amqpNode{secure: u.Scheme == "amqps", host: u.Hostname(), user: c.values.Text("username"), password: c.secrets["password"], address: c.values.Text("address")}
	n.broker = withPort(u, n.secure)
	if host := c.values.Text("hostname"); host != "" {
		n.host = host
	}
	return openAMQPTarget(c, func() (amqpNode, error) { return n, nil }), nil
}
