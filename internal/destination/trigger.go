package destination

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
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
	client   *http.Client
	payload  *expression // nil where the kind has none
	template string      // of payload
	tokens   tokenKeeper
}

// adapter is what one kind of trigger does.
type adapter struct {
	// request makes the request of an event.
	request func(t *trigger, o occurrence) (outgoing, error)
	// judge tells what an answer means.
	judge func(status int, header http.Header, body []byte) broker.Response
	// sign adds the credentials; refresh asks for new ones where they may be old. Optional.
	sign func(ctx context.Context, t *trigger, r *http.Request, refresh bool) error
	// asks makes a request that has no effect, for the probe; whatever answers 404 is not
	// there. Optional.
	asks func(t *trigger) string
	// before looks for what an earlier attempt may have started: true if it did. Optional.
	before func(ctx context.Context, t *trigger, o occurrence) (bool, error)
}

// occurrence is an event that is about to start something.
type occurrence struct {
	event   []byte          // as it is delivered
	payload json.RawMessage // made by the expression
	key     string          // 32 hex digits, the same in every attempt
	values  map[string]any  // variables of expressions
	count   int             // earlier attempts
}

// text is a variable as text.
func (o occurrence) text(name string) string {
	s, _ := o.values[name].(string)
	return s
}

// outgoing is a request before its credentials.
type outgoing struct {
	method, url string
	header      []attribute
	body        []byte
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
		t := &trigger{targetConfig: c, adapter: a, client: c.guard.Client(answerTime)}
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
func (t *trigger) occur(r *broker.Request, i int) (o occurrence, err error) {
	p := &r.Parts[i]
	o.event, o.count = r.Body[p.From:p.To], p.Count
	var whole any
	if err := json.Unmarshal(o.event, &whole); err != nil {
		return o, errors.New("the event is not JSON")
	}
	o.values = map[string]any{"event": whole, "data": nil}
	if members, ok := whole.(map[string]any); ok {
		o.values["data"] = members["data"]
	}
	var e event.Event
	if e.Parse(o.event, t.schema) == nil {
		for name, text := range map[string][]byte{"id": e.ID, "type": e.Type, "subject": e.Subject, "source": e.Source, "time": e.Time} {
			o.values[name] = string(text)
		}
	}
	sum := sha256.Sum256([]byte(o.text("id") + "\n" + p.Single.OutputID + "\n" + t.uid))
	o.key = hex.EncodeToString(sum[:16])
	o.values["key"] = o.key
	for _, name := range variables { // custom input has none of them
		if _, ok := o.values[name]; !ok {
			o.values[name] = ""
		}
	}
	if t.payload != nil {
		o.payload, err = t.payload.of(o.values)
	}
	return o, err
}

// object is the payload as an object.
func (o occurrence) object() (map[string]any, error) {
	var m map[string]any
	if err := json.Unmarshal(o.payload, &m); err != nil || m == nil {
		return nil, errors.New("the expression has to make an object, as in {\"model\": data.modelName}")
	}
	return m, nil
}

var errNoScalar = errors.New("a value is a list or an object; only texts, numbers, true and false can be sent there")

// scalars are the payload's members as texts: those that are texts as they are.
func (o occurrence) scalars(nested bool) (map[string]string, error) {
	members, err := o.object()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, value := range members {
		switch v := value.(type) {
		case string:
			out[name] = v
		case nil:
		case map[string]any, []any:
			if !nested {
				return nil, errNoScalar
			}
			raw, err := json.Marshal(v)
			if err != nil {
				return nil, errNoScalar
			}
			out[name] = string(raw)
		default:
			raw, err := json.Marshal(v)
			if err != nil {
				return nil, errNoScalar
			}
			out[name] = string(raw)
		}
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
	within, cancel := context.WithTimeout(ctx, min(r.Hold, answerTime))
	defer cancel()
	if t.before != nil && o.count > 0 {
		started, err := t.before(within, t, o)
		if err != nil {
			return t.failed(ctx, err)
		}
		if started {
			return broker.Response{Outcome: broker.Delivered, Detail: "an earlier attempt had started it"}
		}
	}
	out, err := t.request(t, o)
	if err != nil {
		return broker.Response{Outcome: broker.BadRequest, Detail: short(err.Error())}
	}
	resp, err := t.do(within, out)
	if err != nil {
		return t.failed(ctx, err)
	}
	return resp
}

// do sends a request and judges the answer. Credentials that are refused are renewed once.
func (t *trigger) do(ctx context.Context, out outgoing) (broker.Response, error) {
	for refresh := false; ; refresh = true {
		status, header, body, err := t.exchange(ctx, out, refresh)
		if err != nil {
			return broker.Response{}, err
		}
		if status == http.StatusUnauthorized && t.sign != nil && t.tokens.renews() && !refresh {
			continue
		}
		resp := t.judge(status, header, body)
		if resp.Status = status; resp.Detail == "" && resp.Outcome != broker.Delivered {
			resp.Detail = statusDetail(status)
		}
		if resp.Outcome == broker.Busy && resp.RetryAfter == 0 {
			resp.RetryAfter = RetryAfter([]byte(header.Get("Retry-After")), time.Now())
		}
		return resp, nil
	}
}

// exchange sends a request and reads the answer, of which no more than mostAnswer.
func (t *trigger) exchange(ctx context.Context, out outgoing, refresh bool) (status int, header http.Header, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, out.method, out.url, bytes.NewReader(out.body))
	if err != nil {
		return 0, nil, nil, errors.New("the address cannot be used")
	}
	req.Header.Set("User-Agent", "carillon")
	for _, a := range out.header {
		req.Header.Set(a.name, a.value)
	}
	if t.sign != nil {
		if err := t.sign(ctx, t, req, refresh); err != nil {
			return 0, nil, nil, err
		}
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil && ctx.Err() != nil {
		return 0, nil, nil, err
	}
	return resp.StatusCode, resp.Header, body, nil
}

// failed tells why there is no answer.
func (t *trigger) failed(ctx context.Context, err error) broker.Response {
	refused, is := errors.AsType[*credentialError](err)
	switch {
	case ctx.Err() != nil:
		return canceled()
	case is:
		return broker.Response{Outcome: broker.Unauthorized, Detail: short(refused.Error()), Verdict: broker.TryAgain}
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return timedOut(answerTime)
	}
	return unconnected(err)
}

// credentialError is that no credentials can be had. It shows nothing of them.
type credentialError struct{ reason string }

func (e *credentialError) Error() string { return e.reason }

// Close satisfies broker.Sender.
func (t *trigger) Close() { t.client.CloseIdleConnections() }

func (t *trigger) probe(ctx context.Context) error {
	if t.asks == nil {
		return nil
	}
	status, _, _, err := t.exchange(ctx, outgoing{method: http.MethodGet, url: t.asks(t)}, false)
	switch {
	case err != nil:
		return unready("%s", t.failed(ctx, err).Detail)
	case status == http.StatusNotFound:
		return unready("%s: it is not there, or these credentials may not see it", shownAddress(t.asks(t)))
	case status == http.StatusUnauthorized:
		return unready("%s: the credentials are not taken", shownAddress(t.asks(t)))
	}
	return nil
}

func shownAddress(address string) string { return secret.MaskURL(address) }

func (t *trigger) preview(r *broker.Request, i int) manage.Receipt {
	o, err := t.occur(r, i)
	var out outgoing
	if err == nil {
		out, err = t.request(t, o)
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

// hide replaces the secrets of the fields in what is shown.
func (t *trigger) hide(body []byte) []byte {
	for _, text := range t.secrets {
		if len(text) > 3 {
			body = bytes.ReplaceAll(body, []byte(text), []byte(secret.Hidden))
		}
	}
	return body
}

// byTable judges statuses: those of success, and those that never change. All others are
// tried again.
func byTable(success, final []int) func(int, http.Header, []byte) broker.Response {
	return func(status int, _ http.Header, _ []byte) broker.Response {
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
