package destination

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// trigger starts something elsewhere by one request for each event: a run, a build, a
// message to people. What is sent is made of the event by an expression, and has a key
// that is the same each time the event is tried, by which those who can tell start
// nothing twice. Each kind has a table of its own of what an answer means.
// Source: spec/handlers.md sections 12 to 15.
type trigger struct {
	*targetConfig
	adapter
	payload  *expression // nil where the kind has none
	template string      // of payload
	tokens   tokenKeeper

	mu      sync.Mutex
	servers map[string]*httpServer // by scheme, host and port; nil once it is closed
}

// adapter is what one kind of trigger does.
type adapter struct {
	// request makes the request of an event.
	request func(t *trigger, o *occurrence) (outgoing, error)
	// judge tells what an answer means.
	judge func(r answered) broker.Response
	// sign adds the credentials; refresh asks for new ones where they may be old. Optional.
	sign func(ctx context.Context, t *trigger, out *outgoing, refresh bool) error
	// asks makes a request that has no effect, for the probe; whatever answers 404 is not
	// there. Optional.
	asks func(t *trigger) string
	// before looks for what an earlier attempt may have started: true if it did. Optional.
	before func(ctx context.Context, t *trigger, o *occurrence) (bool, error)
}

// occurrence is an event that is about to start something.
type occurrence struct {
	facts
	payload any       // made by the expression, as encoding/json has it
	count   int       // earlier attempts
	until   time.Time // when the attempt ends
}

// outgoing is a request.
type outgoing struct {
	method, url string
	header      []attribute
	body        []byte
	until       time.Time // when it is given up
}

// add adds a header.
func (out *outgoing) add(name, value string) {
	out.header = append(out.header, attribute{name: name, value: value})
}

// basic adds a user and a password.
func (out *outgoing) basic(user, password string) {
	out.add("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// answered is the answer to a request.
type answered struct {
	status     int
	retryAfter string // headers
	remaining  string
	body       []byte // no more of it than mostAnswer
}

// post is a POST of JSON.
func post(address string, body any, header ...attribute) (outgoing, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return outgoing{}, fmt.Errorf("encode the request: %w", err)
	}
	return outgoing{method: http.MethodPost, url: address, header: append([]attribute{{name: "Content-Type", value: "application/json"}}, header...), body: raw}, nil
}

// expressionField is the field of a kind whose value is an expression, "" for none.
func expressionField(k *resource.Kind) string {
	for _, f := range k.Fields {
		if f.Type == resource.FieldExpression {
			return f.Name
		}
	}
	return ""
}

// checkTrigger checks what all triggers have: addresses that may be asked, and an
// expression that can be compiled.
func checkTrigger(more func(c *targetConfig) error) func(c *targetConfig) error {
	return func(c *targetConfig) error {
		for _, f := range c.kind.Fields {
			text := c.values.Text(f.Name)
			if f.Type == resource.FieldSecret {
				text = c.secrets[f.Name]
			}
			if f.URL && text != "" {
				if err := checkBase(c, f.Name, text); err != nil {
					return err
				}
			}
			if f.Type == resource.FieldExpression && text != "" {
				if _, err := compile(text); err != nil {
					return fault.Field(f.Name, "The expression cannot be used: %v.", err)
				}
			}
		}
		if more == nil {
			return nil
		}
		return more(c)
	}
}

func checkBase(c *targetConfig, field, text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fault.Field(field, "The %s is not an absolute URL: write one like https://host.example.", field)
	}
	if u.User != nil {
		return fault.Field(field, "The %s holds a user or password: give them in fields of their own.", field)
	}
	if err := c.guard.CheckURL(u); err != nil {
		return fault.Field(field, "The %s cannot be used: %v.", field, err)
	}
	return nil
}

// openTrigger makes senders of a kind of trigger.
func openTrigger(a adapter) func(c *targetConfig) (targetSender, error) {
	return func(c *targetConfig) (targetSender, error) {
		t := &trigger{targetConfig: c, adapter: a, servers: map[string]*httpServer{}}
		name := expressionField(c.kind)
		if name == "" {
			return t, nil
		}
		if t.template = c.values.Text(name); t.template == "" {
			t.template = c.kind.Field(name).Default
		}
		var err error
		t.payload, err = compile(t.template)
		return t, err
	}
}

// setting is a text field of the kind, or its default.
func (t *trigger) setting(name string) string {
	if text := t.values.Text(name); text != "" {
		return text
	}
	return t.kind.Field(name).Default
}

// base is an address field without a slash at its end, and further path segments, each
// escaped.
func (t *trigger) base(field string, segments ...string) string {
	address := strings.TrimRight(t.setting(field), "/")
	for _, s := range segments {
		address += "/" + url.PathEscape(s)
	}
	return address
}

// occur makes what is sent of a part of a request.
func (t *trigger) occur(r *broker.Request, i int) (*occurrence, error) {
	p := &r.Parts[i]
	hold := answerTime
	if r.Hold > 0 {
		hold = min(hold, r.Hold)
	}
	o := &occurrence{count: p.Count, until: time.Now().Add(hold)}
	o.read(r.Body[p.From:p.To], t.schema)
	sum := sha256.Sum256([]byte(string(o.ID) + "\n" + p.Single.OutputID + "\n" + t.uid))
	o.key = hex.EncodeToString(sum[:16])
	if t.payload == nil {
		return o, nil
	}
	var err error
	o.payload, err = t.payload.of(&o.facts)
	return o, err
}

// json is the payload as JSON.
func (o *occurrence) json() ([]byte, error) {
	if raw, is := o.payload.(json.RawMessage); is {
		return raw, nil
	}
	return json.Marshal(o.payload)
}

// value is the payload decoded.
func (o *occurrence) value() (any, error) {
	made := o.payload
	if raw, is := made.(json.RawMessage); is && json.Unmarshal(raw, &made) != nil {
		return nil, errNoJSON
	}
	return made, nil
}

// object is the payload as an object.
func (o *occurrence) object() (map[string]any, error) {
	made, err := o.value()
	if err != nil {
		return nil, err
	}
	m, is := made.(map[string]any)
	if !is {
		return nil, errors.New("the expression has to make an object, as in {\"model\": data.modelName}")
	}
	return m, nil
}

var errNoScalar = errors.New("a value is a list or an object; only texts, numbers, true and false can be sent there")

// scalars are the payload's members as texts: those that are texts as they are.
func (o *occurrence) scalars(nested bool) (map[string]string, error) {
	members, err := o.object()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, value := range members {
		switch v := value.(type) {
		case nil:
			continue
		case string:
			out[name] = v
			continue
		case map[string]any, []any, json.RawMessage:
			if !nested {
				return nil, errNoScalar
			}
		}
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, errNoScalar
		}
		out[name] = string(raw)
	}
	return out, nil
}

func (t *trigger) Send(ctx context.Context, r *broker.Request) broker.Response {
	if r.Fill() != nil {
		return canceled()
	}
	defer r.Sent()
	for i := range r.Parts {
		r.Parts[i].Response = t.start(ctx, r, i)
	}
	return broker.Together(r.Parts)
}

// start makes one attempt for one event.
func (t *trigger) start(ctx context.Context, r *broker.Request, i int) broker.Response {
	o, err := t.occur(r, i)
	if err != nil {
		return broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())}
	}
	if t.before != nil && o.count > 0 {
		started, err := t.before(ctx, t, o)
		if err != nil {
			return t.failed(ctx, err)
		}
		if started {
			return broker.Response{Outcome: broker.Delivered, Detail: "an earlier attempt had started it"}
		}
	}
	out, err := t.make(o)
	if err != nil {
		return broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())}
	}
	resp, err := t.do(ctx, out)
	if err != nil {
		return t.failed(ctx, err)
	}
	return resp
}

// make makes the request of an event.
func (t *trigger) make(o *occurrence) (outgoing, error) {
	out, err := t.request(t, o)
	if err == nil && len(out.body) > maxPayload {
		err = fmt.Errorf("the expression makes a request of %d bytes; at most %d are sent", len(out.body), maxPayload)
	}
	out.until = o.until
	return out, err
}

// do sends a request and judges the answer. Credentials that are refused are renewed once.
func (t *trigger) do(ctx context.Context, out outgoing) (broker.Response, error) {
	for refresh := false; ; refresh = true {
		r, err := t.exchange(ctx, out, refresh)
		if err != nil {
			return broker.Response{}, err
		}
		if r.status == http.StatusUnauthorized && t.sign != nil && t.tokens.renews() && !refresh {
			continue
		}
		resp := t.judge(r)
		if resp.Status = r.status; resp.Detail == "" && resp.Outcome != broker.Delivered {
			resp.Detail = statusDetail(r.status)
		}
		if resp.Outcome == broker.Busy && resp.RetryAfter == 0 {
			resp.RetryAfter = RetryAfter([]byte(r.retryAfter), time.Now())
		}
		return resp, nil
	}
}

// exchange signs a request, sends it and reads the answer.
func (t *trigger) exchange(ctx context.Context, out outgoing, refresh bool) (answered, error) {
	if t.sign != nil {
		out.header = slices.Clip(out.header) // it may be signed once more
		if err := t.sign(ctx, t, &out, refresh); err != nil {
			return answered{}, err
		}
	}
	return t.ask(ctx, out)
}

// ask sends a request as it is and reads the answer.
func (t *trigger) ask(ctx context.Context, out outgoing) (answered, error) {
	u, err := url.Parse(out.url)
	if err != nil || u.Host == "" {
		return answered{}, errors.New("the address cannot be used")
	}
	to, err := t.server(u)
	if err != nil {
		return answered{}, err
	}
	d := &call{outgoing: out, to: u, once: t.before != nil && out.method == http.MethodPost}
	if err := to.exchange(ctx, d, out.until); err != nil {
		return answered{}, err
	}
	if d.cut != nil && (isTimeout(d.cut) || ctx.Err() != nil) {
		return answered{}, d.cut
	}
	return d.answered, nil
}

// server returns the server of an address.
func (t *trigger) server(u *url.URL) (*httpServer, error) {
	name := u.Scheme + "://" + u.Host
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.servers[name]; s != nil {
		return s, nil
	}
	if err := t.guard.CheckURL(u); err != nil {
		return nil, err
	}
	if t.servers == nil {
		return newHTTPServer(u, t.guard, nil, nil), nil
	}
	s := newHTTPServer(u, t.guard, t.pools, nil)
	t.servers[name] = s
	return s, nil
}

// call is the dialogue of a trigger.
type call struct {
	outgoing
	to   *url.URL
	once bool // it is not sent again, whatever happens
	answered
	cut error // that ended the answer early
}

// Fill satisfies dialogue.
func (*call) Fill() error { return nil }

func (c *call) again() bool { return !c.once }

func (c *call) write(on *conn) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := append((*buf)[:0], c.method...)
	b = append(b, ' ')
	b = append(b, target(c.to)...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendHeader(b, "Host", c.to.Host)
	b = appendHeader(b, "User-Agent", UserAgent)
	for _, h := range c.header {
		b = appendHeader(b, h.name, h.value)
	}
	if c.method != http.MethodGet {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(c.outgoing.body)), 10)
		b = append(b, "\r\n"...)
	}
	var err error
	*buf, err = on.send(append(b, "\r\n"...), c.outgoing.body)
	return err
}

func (c *call) read(a *answer, _ *conn) (all bool) {
	h := &a.http.Header
	c.answered = answered{status: h.StatusCode(), retryAfter: string(h.Peek("Retry-After")), remaining: string(h.Peek("X-Ratelimit-Remaining"))}
	c.answered.body, all, c.cut = a.body()
	if string(h.ContentEncoding()) == "gzip" {
		c.answered.body = unzipped(c.answered.body)
	}
	return all
}

// unzipped is a body that is compressed although nobody asked for that, as far as it can be
// read: without a wish any form is right. Source: RFC 9110 section 12.5.3.
func unzipped(body []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil
	}
	body, _ = io.ReadAll(io.LimitReader(z, mostAnswer)) // the status counts in any case
	return body
}

// failed tells why there is no answer.
func (t *trigger) failed(ctx context.Context, err error) broker.Response {
	if refused, is := errors.AsType[*credentialError](err); is && ctx.Err() == nil {
		return broker.Response{Outcome: broker.Unauthorized, Detail: short(refused.Error()), Verdict: broker.TryAgain}
	}
	return noAnswer(ctx, err, answerTime)
}

// credentialError is that no credentials can be had. It shows nothing of them.
type credentialError struct{ reason string }

func (e *credentialError) Error() string { return e.reason }

// Close satisfies broker.Sender.
func (t *trigger) Close() {
	t.mu.Lock()
	servers := t.servers
	t.servers = nil
	t.mu.Unlock()
	for _, s := range servers {
		s.leave()
	}
}

func (t *trigger) probe(ctx context.Context) error {
	if t.asks == nil {
		return nil
	}
	r, err := t.exchange(ctx, outgoing{method: http.MethodGet, url: t.asks(t), until: time.Now().Add(probeTime)}, false)
	switch {
	case err != nil && (isTimeout(err) || errors.Is(ctx.Err(), context.DeadlineExceeded)):
		return unready("%s: no answer within %s", shownAddress(t.asks(t)), probeTime)
	case err != nil:
		return unready("%s", t.failed(ctx, err).Detail)
	case r.status == http.StatusNotFound:
		return unready("%s: it is not there, or these credentials may not see it", shownAddress(t.asks(t)))
	case r.status == http.StatusUnauthorized:
		return unready("%s: the credentials are not taken", shownAddress(t.asks(t)))
	}
	return nil
}

func shownAddress(address string) string { return secret.MaskURL(address) }

func (t *trigger) preview(r *broker.Request, i int) manage.Receipt {
	o, err := t.occur(r, i)
	var out outgoing
	if err == nil {
		out, err = t.make(o)
	}
	if err != nil {
		return manage.Receipt{RequestLine: "nothing: " + err.Error()}
	}
	address := shownAddress(out.url)
	for _, f := range t.kind.Fields { // an address may be a secret as a whole
		if f.Type == resource.FieldSecret && f.URL {
			address = secret.Hidden
		}
	}
	shown := receipt(out.method+" "+address, out.header)
	shown.Body = t.hide(out.body)
	return shown
}

// hide replaces the secrets of the fields in what is shown, also where JSON has them with
// escapes.
func (t *trigger) hide(body []byte) []byte {
	for _, text := range t.secrets {
		quoted, err := json.Marshal(text)
		if err == nil && len(text) > 3 {
			body = bytes.ReplaceAll(body, []byte(text), []byte(secret.Hidden))
			body = bytes.ReplaceAll(body, quoted[1:len(quoted)-1], []byte(secret.Hidden))
		}
	}
	return body
}

// byTable judges statuses: those of success, and those that never change. All others are
// tried again.
func byTable(success, final []int) func(answered) broker.Response {
	return func(answer answered) broker.Response {
		status := answer.status
		for _, s := range success {
			if s == status {
				return broker.Response{Outcome: broker.Delivered}
			}
		}
		for _, s := range final {
			if s == status {
				return finally(status)
			}
		}
		r := broker.Response{Outcome: OutcomeOf(status), Verdict: broker.TryAgain}
		if r.Outcome == broker.Delivered { // a 2xx that is none of those
			r.Outcome = broker.GenericError
		}
		return r
	}
}

// finally is a refusal that no attempt changes.
func finally(status int) broker.Response {
	switch o := OutcomeOf(status); o {
	case broker.Unauthorized, broker.Forbidden, broker.NotFound, broker.PayloadTooLarge:
		return broker.Response{Outcome: o, Verdict: broker.GiveUp}
	}
	return broker.Response{Outcome: broker.BadRequest, Verdict: broker.GiveUp}
}
