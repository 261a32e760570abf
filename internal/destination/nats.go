package destination

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
// makes another one.
type natsConn struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	turns chan struct{} // of attempts that have messages on their way

	once   sync.Once
	denied chan struct{} // closed when a publish was refused, which NATS tells beside it
}

// How long NATS may take to connect and to answer.
const (
	natsConnectTime = 10 * time.Second
	natsAnswerTime  = 10 * time.Second
)

// natsTurns is how many attempts have messages on their way at a time. More make nothing
// quicker, and what the library or the stream cannot take it refuses.
const natsTurns = 4

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
	t.dial, t.end = t.connect, func(n *natsConn) { n.nc.Close() }
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
	n := &natsConn{denied: make(chan struct{}), turns: make(chan struct{}, natsTurns)}
	dialer := &natsDialer{ctx: ctx, dial: t.guard.DialContext}
	if !secured {
		dialer.dial = t.guard.DialClear
	}
	options := []nats.Option{
		nats.Name("carillon"), nats.NoReconnect(), nats.IgnoreDiscoveredServers(), nats.SkipHostLookup(), nats.DontRandomize(), nats.Timeout(natsConnectTime),
		nats.SetCustomDialer(dialer), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { n.refused(err) }),
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
			if n.js, err = jetstream.New(n.nc, jetstream.WithPublishAsyncMaxPending(natsTurns*t.kind.Together)); err != nil {
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

func (t *natsTarget) Send(ctx context.Context, r *broker.Request) broker.Response {
	turn := time.NewTimer(r.Hold)
	defer turn.Stop()
	if err := t.use(ctx, func(n *natsConn) (broken bool) {
		select {
		case n.turns <- struct{}{}:
			defer func() { <-n.turns }()
		case <-ctx.Done():
			each(r.Parts, canceled())
			return false
		case <-turn.C: // nothing was sent
			each(r.Parts, canceled())
			return false
		}
		if r.Fill() != nil {
			each(r.Parts, canceled())
			return false
		}
		limit := time.NewTimer(min(r.Hold, natsAnswerTime))
		defer limit.Stop()
		broken = t.publish(ctx, n, r, limit.C)
		letGo(r, broken)
		return broken
	}); err != nil {
		return natsFailed(ctx, err)
	}
	return broker.Together(r.Parts)
}

// publish sends the messages of an attempt and waits for the stream's answers.
func (t *natsTarget) publish(ctx context.Context, n *natsConn, r *broker.Request, limit <-chan time.Time) (broken bool) {
	futures := make([]jetstream.PubAckFuture, len(r.Parts))
	for i := range r.Parts {
		m, err := t.message(r, i)
		if err != nil {
			r.Parts[i].Response = broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())}
			continue
		}
		if futures[i], err = n.js.PublishMsgAsync(m); err != nil {
			r.Parts[i].Response = natsFailed(ctx, err)
		}
	}
	for i, f := range futures {
		if f == nil {
			continue
		}
		p := &r.Parts[i]
		select {
		case <-f.Ok():
			p.Response = broker.Response{Outcome: broker.Delivered}
		case err := <-f.Err():
			p.Response = natsFailed(ctx, err)
		case <-ctx.Done():
			each(r.Parts, canceled())
			return true // what is on its way must not meet the next attempt's answers
		case <-n.denied:
			each(r.Parts, broker.Response{Outcome: broker.Unauthorized, Detail: "the user may not publish to the subject", Verdict: broker.TryAgain})
			return true
		case <-limit:
			each(r.Parts, timedOut(natsAnswerTime))
			return true
		}
	}
	return n.nc.IsClosed()
}

// message is the message of a part, whose body it holds: NATS may read it until the stream
// has answered.
func (t *natsTarget) message(r *broker.Request, i int) (*nats.Msg, error) {
	p := &r.Parts[i]
	body := r.Body[p.From:p.To:p.To]
	subject, err := t.subject.of(body, t.schema, subjectPart)
	if err != nil {
		return nil, err
	}
	properties := t.properties(p)
	m := &nats.Msg{Subject: subject, Data: body, Header: make(nats.Header, len(properties)+2)}
	values := make([]string, 0, len(properties)+2)
	header := func(name, value string) {
		values = append(values, value)
		m.Header[name] = values[len(values)-1 : len(values) : len(values)]
	}
	header("Content-Type", r.ContentType)
	for _, a := range properties {
		header(a.name, a.value)
	}
	header(jetstream.MsgIDHeader, t.messageID(p))
	return m, nil
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
	case errors.Is(err, jetstream.ErrTooManyStalledMsgs):
		return answer(broker.Busy, "the stream does not keep up")
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
		_, problem = n.js.StreamNameBySubject(ctx, subject)
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
