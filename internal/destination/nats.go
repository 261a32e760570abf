package destination

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// natsTarget publishes to a subject of JetStream: an event is delivered when a stream
// has stored it. Each message has a Nats-Msg-Id, so that a repeated one is dropped by the
// stream within its window. Source: spec/handlers.md section 14.11.
type natsTarget struct {
	*targetConfig
	servers []string
	subject eventTemplate
	link[*natsConn]
}

// natsConn is a connection to NATS. It does not reconnect by itself: the next attempt
// makes another one. Of the library it uses what publishes and listens; a future for each
// message, as the library's JetStream has it, costs more than the message.
type natsConn struct {
	nc    *nats.Conn
	inbox string        // what subjects of answers begin with
	turns chan natsTurn // of attempts that may have messages on their way

	once   sync.Once
	denied chan struct{} // closed when a publish was refused, which NATS tells beside it
	closed chan struct{} // closed when the connection is

	mu      sync.Mutex
	last    uint64 // number of the newest flight
	flights map[uint64]*natsFlight
}

// natsFlight is what an attempt has on its way. Answers to a flight that is over are
// nobody's. The connection's mu guards it, and the responses of its parts.
type natsFlight struct {
	parts []broker.Part
	open  int           // messages without an answer
	done  chan struct{} // closed when there is none
}

// answer notes what became of the message i.
func (f *natsFlight) answer(i int, r broker.Response) {
	if i >= len(f.parts) || f.parts[i].Outcome != broker.NotAttempted {
		return
	}
	f.parts[i].Response = r
	if f.open--; f.open == 0 {
		close(f.done)
	}
}

// How long NATS may take to connect and to answer.
const (
	natsConnectTime = 10 * time.Second
	natsAnswerTime  = 10 * time.Second
)

// natsTurns is how many attempts have messages on their way at a time: some thousand
// messages of 1 KiB. More make nothing quicker, and what the stream cannot take it refuses.
const natsTurns = 6

// While a stream gets another leader, which is soon over, none is there for a moment: what
// nobody took is published again within the attempt.
const (
	natsAgain      = 2
	natsAgainAfter = 250 * time.Millisecond
)

func checkNATS(c *targetConfig) error {
	if _, err := addresses("url", c.values.Text("url"), "nats", "tls"); err != nil {
		return err
	}
	if _, err := parseSubject(c.values.Text("subject")); err != nil {
		return fault.Field("subject", "The subject %.200s is not one that can be published to: %v.", c.values.Text("subject"), err)
	}
	ways := 0
	for _, given := range []bool{c.values.Text("username") != "", c.secrets["token"] != "", c.secrets["credentials"] != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return fault.Field("username", "Give username with password, or token, or credentials: one of them.")
	case c.values.Text("username") == "" && c.secrets["password"] != "":
		return fault.Field("username", "A password needs a username.")
	}
	return nil
}

func openNATS(c *targetConfig) (targetSender, error) {
	servers, err := addresses("url", c.values.Text("url"), "nats", "tls")
	if err != nil {
		return nil, err
	}
	subject, err := parseSubject(c.values.Text("subject"))
	if err != nil {
		return nil, err
	}
	t := &natsTarget{targetConfig: c, servers: servers, subject: subject}
	t.dial, t.end, t.gone = t.connect, func(n *natsConn) { n.nc.Close() }, (*natsConn).isClosed
	return t, nil
}

// natsDialer dials through the guard for as long as ctx lasts.
type natsDialer struct {
	ctx    context.Context //nolint:containedctx // nats.CustomDialer has none
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	failed error // the last failure: the library keeps none to itself
}

func (d *natsDialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.dial(d.ctx, network, address)
	if err != nil {
		d.failed = err
	}
	return c, err
}

// SkipTLSHandshake has the library make the handshake: the server speaks first.
func (*natsDialer) SkipTLSHandshake() bool { return false }

func (t *natsTarget) connect(ctx context.Context) (*natsConn, error) {
	ctx, cancel := context.WithTimeout(ctx, natsConnectTime)
	defer cancel()
	secured := strings.HasPrefix(t.servers[0], "tls:")
	n := &natsConn{denied: make(chan struct{}), closed: make(chan struct{}), turns: make(chan natsTurn, natsTurns), flights: map[uint64]*natsFlight{}}
	for range natsTurns {
		n.turns <- natsTurn{msg: &nats.Msg{}}
	}
	dialer := &natsDialer{ctx: ctx, dial: t.guard.DialContext}
	if !secured {
		dialer.dial = t.guard.DialClear
	}
	options := []nats.Option{
		nats.Name("carillon"), nats.NoReconnect(), nats.IgnoreDiscoveredServers(), nats.SkipHostLookup(), nats.DontRandomize(), nats.Timeout(natsConnectTime), nats.FlusherTimeout(natsAnswerTime),
		nats.SetCustomDialer(dialer), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { n.refused(err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(n.closed) }),
	}
	if secured {
		options = append(options, nats.Secure(t.guard.TLS()))
	}
	switch {
	case t.values.Text("username") != "":
		options = append(options, nats.UserInfo(t.values.Text("username"), t.secrets["password"]))
	case t.secrets["token"] != "":
		options = append(options, nats.Token(t.secrets["token"]))
	case t.secrets["credentials"] != "":
		options = append(options, nats.UserCredentialBytes([]byte(t.secrets["credentials"])))
	}
	type result struct{ err error }
	done := make(chan result, 1)
	go func() {
		var err error
		if n.nc, err = nats.Connect(strings.Join(t.servers, ","), options...); err == nil {
			n.inbox = n.nc.NewInbox() + "."
			if _, err = n.nc.Subscribe(n.inbox+"*.*", n.answered); err != nil {
				n.nc.Close()
			}
		} else if errors.Is(err, nats.ErrNoServers) && dialer.failed != nil {
			err = dialer.failed
		}
		done <- result{err}
	}()
	select {
	case r := <-done:
		return n, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				n.nc.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func (n *natsConn) refused(err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		n.once.Do(func() { close(n.denied) })
	}
}

func (n *natsConn) isClosed() bool {
	select {
	case <-n.closed:
		return true
	default:
		return false
	}
}

func (t *natsTarget) Send(ctx context.Context, r *broker.Request) broker.Response {
	timer := time.NewTimer(r.Hold)
	defer timer.Stop()
	if err := t.use(ctx, func(n *natsConn) (broken bool) {
		var turn natsTurn
		select {
		case turn = <-n.turns:
			defer func() { n.turns <- turn }()
		case <-ctx.Done():
			each(r.Parts, canceled())
			return false
		case <-timer.C: // nothing was sent
			each(r.Parts, canceled())
			return false
		}
		if r.Fill() != nil {
			each(r.Parts, canceled())
			return false
		}
		timer.Reset(min(r.Hold, natsAnswerTime))
		for again := 0; ; again++ {
			broken = t.publish(ctx, n, r, &turn, timer.C)
			if broken || again == natsAgain || !n.untaken(ctx, r.Parts) {
				break
			}
		}
		r.Sent()
		return broken
	}); err != nil {
		return natsFailed(ctx, err)
	}
	return broker.Together(r.Parts)
}

// untaken waits, if no stream took some messages, until they may be published again, and
// makes them messages without an answer.
func (n *natsConn) untaken(ctx context.Context, parts []broker.Part) bool {
	none := func(p broker.Part) bool { return p.Outcome == broker.NotFound }
	if !slices.ContainsFunc(parts, none) {
		return false
	}
	select {
	case <-time.After(natsAgainAfter):
	case <-n.closed:
		return false
	case <-ctx.Done():
		return false
	}
	for i := range parts {
		if none(parts[i]) {
			parts[i].Response = broker.Response{}
		}
	}
	return true
}

// publish sends the messages of an attempt that have no answer and waits for the stream's
// answers. The library has no need of a message any more once it has published it.
func (t *natsTarget) publish(ctx context.Context, n *natsConn, r *broker.Request, turn *natsTurn, limit <-chan time.Time) (broken bool) {
	number, f, open := n.begin(r.Parts)
	for _, i := range open {
		m, err := t.message(turn, r, i)
		if err != nil {
			n.answer(f, i, broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())})
			continue
		}
		m.Reply = turn.replyTo(n.inbox, number, i)
		if err := n.nc.PublishMsg(m); err != nil {
			n.answer(f, i, natsFailed(ctx, err))
		}
	}
	var rest broker.Response // of what has no answer
	select {
	case <-f.done:
		broken = n.nc.IsClosed() // n.closed may come later
	case <-ctx.Done():
		rest = canceled()
	case <-n.denied:
		rest, broken = broker.Response{Outcome: broker.Unauthorized, Detail: "the user may not publish to the subject", Verdict: broker.TryAgain}, true
	case <-n.closed:
		rest, broken = natsFailed(ctx, cmp.Or(n.nc.LastError(), nats.ErrConnectionClosed)), true
	case <-limit:
		rest, broken = timedOut(natsAnswerTime), true
	}
	n.end(number)
	turn.msg.Data = nil
	each(r.Parts, rest)
	return broken
}

// begin begins a flight of the messages that have no answer.
func (n *natsConn) begin(parts []broker.Part) (number uint64, f *natsFlight, open []int) {
	open = make([]int, 0, len(parts))
	for i := range parts {
		if parts[i].Outcome == broker.NotAttempted {
			open = append(open, i)
		}
	}
	f = &natsFlight{parts: parts, open: len(open), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	n.flights[n.last] = f
	return n.last, f, open
}

// end ends a flight: its parts are the caller's again.
func (n *natsConn) end(number uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.flights, number)
}

func (n *natsConn) answer(f *natsFlight, i int, r broker.Response) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f.answer(i, r)
}

// answered takes what the stream, or a server in its place, says of a message.
func (n *natsConn) answered(m *nats.Msg) {
	flight, message, _ := strings.Cut(strings.TrimPrefix(m.Subject, n.inbox), ".")
	number, err := strconv.ParseUint(flight, 10, 64)
	if err != nil {
		return
	}
	i, err := strconv.ParseUint(message, 10, 31)
	if err != nil {
		return
	}
	r := broker.Response{Outcome: broker.Delivered}
	if err := natsAnswer(m); err != nil {
		r = natsFailed(context.Background(), err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.flights[number]; f != nil {
		f.answer(int(i), r)
	}
}

// natsAnswer reads an answer: nil when the message is stored, now or before.
// Source: nats-server, server/stream.go, JSPubAckResponse.
func natsAnswer(m *nats.Msg) error {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return jetstream.ErrNoStreamResponse
	}
	var stream, sequence, refused bool
	c := event.Walk(m.Data)
	for c.Next() {
		key := c.Key
		if c.KeyEscaped {
			key = event.AppendUnquoted(nil, key)
		}
		switch string(key) {
		case "stream":
			stream = c.Kind == event.String && len(c.Value) > len(`""`)
		case "seq":
			sequence = c.Kind == event.Number
		case "error":
			refused = c.Kind == event.Object
		}
	}
	switch {
	case c.Err() != nil:
	case refused:
		var answer struct {
			Error *jetstream.APIError `json:"error"`
		}
		if json.Unmarshal(m.Data, &answer) == nil && answer.Error != nil {
			return answer.Error
		}
	case stream && sequence:
		return nil
	}
	return jetstream.ErrInvalidJSAck
}

// natsTurn is what an attempt makes its messages in, one after the other: their headers
// mostly have the same names, so that only the values change.
type natsTurn struct {
	msg     *nats.Msg
	headers []attribute // of the message
	names   []string    // that msg has
	values  []string    // of those names, which msg refers to
	reply   []byte
}

// message is the message of a part, whose body it holds. It is good until the next one.
func (t *natsTarget) message(turn *natsTurn, r *broker.Request, i int) (*nats.Msg, error) {
	p := &r.Parts[i]
	body := r.Body[p.From:p.To:p.To]
	subject, err := t.subject.of(body, t.schema, subjectPart)
	if err != nil {
		return nil, err
	}
	turn.headers = t.appendProperties(append(turn.headers[:0], attribute{name: "Content-Type", value: r.ContentType}), p)
	turn.headers = append(turn.headers, attribute{name: jetstream.MsgIDHeader, value: t.messageID(p)})
	turn.setHeaders()
	turn.msg.Subject, turn.msg.Data = subject, body
	return turn.msg, nil
}

func (t *natsTurn) setHeaders() {
	if !slices.EqualFunc(t.names, t.headers, func(name string, a attribute) bool { return name == a.name }) {
		t.names, t.values = t.names[:0], make([]string, len(t.headers))
		t.msg.Header = make(nats.Header, len(t.headers))
		for i, a := range t.headers {
			t.names = append(t.names, a.name)
			t.msg.Header[a.name] = t.values[i : i+1 : i+1]
		}
	}
	for i, a := range t.headers {
		t.values[i] = a.value
	}
}

// replyTo is the subject of the answer to a message.
func (t *natsTurn) replyTo(inbox string, flight uint64, message int) string {
	t.reply = strconv.AppendUint(append(t.reply[:0], inbox...), flight, 10)
	t.reply = strconv.AppendUint(append(t.reply, '.'), uint64(message), 10)
	return string(t.reply)
}

// natsFailed tells what a failure of NATS means. Source: spec/handlers.md section 15; error
// codes: nats-server, server/errors.json.
func natsFailed(ctx context.Context, err error) broker.Response {
	answer := func(o broker.Outcome, detail string) broker.Response {
		return broker.Response{Outcome: o, Detail: detail, Verdict: broker.TryAgain}
	}
	var api *jetstream.APIError
	switch {
	case ctx.Err() != nil:
		return canceled()
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		return broker.Response{Outcome: broker.PayloadTooLarge, Detail: "the message is larger than the server or the stream takes"}
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrNoStreamResponse):
		return answer(broker.NotFound, "no stream has the subject")
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrPermissionViolation):
		return answer(broker.Unauthorized, "the server does not take the credentials")
	case errors.Is(err, jetstream.ErrInvalidJSAck):
		return answer(broker.GenericError, "the answer is not a stream's")
	case errors.As(err, &api):
		switch api.ErrorCode {
		case 10077, 10023, 10047: // maximum messages, bytes, storage exceeded
			return answer(broker.Full, "the stream is full")
		case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
			return answer(broker.Disabled, "JetStream is not enabled there")
		}
		return answer(broker.GenericError, fmt.Sprintf("the stream answered %d (error %d)", api.Code, api.ErrorCode))
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrDisconnected):
		return answer(broker.SocketError, "there is no connection to the server")
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return answer(broker.TimedOut, "the server did not answer in time")
	}
	return unconnected(err)
}

// probe looks for a stream that has the subject.
func (t *natsTarget) probe(ctx context.Context) error {
	var problem error
	err := t.use(ctx, func(n *natsConn) bool {
		subject := t.subject.any()
		js, err := jetstream.New(n.nc)
		if err != nil {
			problem = err
			return false
		}
		_, problem = js.StreamNameBySubject(ctx, subject)
		switch {
		case errors.Is(problem, jetstream.ErrStreamNotFound):
			problem = unready("no stream of %s has the subject %s: make one", t.servers[0], subject)
		case problem != nil && ctx.Err() == nil:
			problem = nil // it may publish and not list
		}
		return false
	})
	if err != nil {
		_, server, _ := strings.Cut(t.servers[0], "://")
		return unready("%s", at(server, natsFailed(ctx, err).Detail))
	}
	return problem
}

func (t *natsTarget) preview(r *broker.Request, i int) manage.Receipt {
	p := &r.Parts[i]
	subject, err := t.subject.of(r.Body[p.From:p.To], t.schema, subjectPart)
	if err != nil {
		subject = t.subject.any()
	}
	return receipt("PUB "+subject, append([]attribute{{name: "Content-Type", value: r.ContentType}, {name: "Nats-Msg-Id", value: t.messageID(p)}}, t.properties(p)...))
}

// parseSubject reads the subject of a field.
func parseSubject(text string) (eventTemplate, error) {
	s, err := parseTemplate(text)
	if err != nil {
		return nil, err
	}
	sample := s.fill(func(string) string { return "x" })
	if strings.ContainsAny(sample, " \t\r\n*>") || strings.HasPrefix(sample, ".") || strings.HasSuffix(sample, ".") || strings.Contains(sample, "..") {
		return nil, errors.New("it has blanks, wildcards or an empty part between dots")
	}
	return s, nil
}

// subjectPart makes one part of a subject of what an event says: whatever divides parts
// or stands for others is replaced. Source: spec/handlers.md section 14.11.
func subjectPart(text string) string {
	if text == "" {
		return "none"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || strings.ContainsRune(".*>/", r) || r == 0x7f {
			return '_'
		}
		return r
	}, text)
}
