package destination

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
)

// Limits of one exchange. Source: spec/delivery.md section 9.5 rule 5.
const (
	maxHead = 16 << 10 // bytes of the answer's head
	maxBody = 64 << 10 // bytes of the answer's body that are read, and discarded
)

// drainTime is how long the rest of an answer may take once its head is here. The
// head decides; the rest is read only so that the connection can be kept.
const drainTime = time.Second

// answerTime is how long an attempt without Hold waits.
// Source: spec/delivery.md section 3.2.
const answerTime = 30 * time.Second

// DefaultOrigin is what CloudEvents deliveries and handshakes name as their
// origin unless the operator says otherwise. Source: spec/delivery.md section 1.4.
const DefaultOrigin = "eventgrid.azure.net"

// UserAgent names us to every receiver. It never changes with the version, so
// that firewalls can match it.
const UserAgent = "Carillon (+https://github.com/carillon-events/carillon)"

// WebhookConfig is what a Webhook needs to know of its event subscription.
type WebhookConfig struct {
	URL    string       // the full URL, query included
	Name   string       // of the event subscription
	Schema event.Schema // that deliveries have
	Guard  *egress.Guard
	Pools  *Pools // of connections; nil for one of its own
	Origin string // "" for DefaultOrigin

	EventType string // header aeg-event-type; "" for Notification

	Headers []manage.Header // static delivery attributes
	Dynamic []string        // names of dynamic ones, whose values come with each request
	Signers []Signer        // nil for deliveries without signatures

	Credentials manage.Credentials
	Tokens      *Tokens // that give the token that Credentials ask for
}

// Webhook posts deliveries to one URL. It satisfies broker.Sender.
//
// It writes and pools its connections itself and reads answers with fasthttp:
// fasthttp's own client knows no context, and hides whether a connection was
// used before, which decides about the one repetition.
type Webhook struct {
	addr  string // host:port
	head  []byte // request line and the headers that never change
	cloud bool   // deliveries are CloudEvents
	tls   *tls.Config
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	idle  *pool

	closed sync.Once

	signers []Signer
	token   *manage.TokenRequest // of the bearer token that messages carry; nil for none
	tokens  *Tokens

	certificateEnds time.Time // of the client certificate; zero for none

	sent func(head []byte) // sees the head of each request as it is written; nil for nobody
}

var _ broker.Sender = (*Webhook)(nil)

// NewWebhook returns a Webhook. It connects to nothing; whether the address may
// be reached is decided when an attempt dials it.
func NewWebhook(c WebhookConfig) (*Webhook, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("webhook of event subscription %s: the endpoint URL is not an http or https URL", c.Name)
	}
	w := &Webhook{cloud: c.Schema == event.CloudEventSchemaV1_0, dial: c.Guard.DialClear, signers: c.Signers, token: c.Credentials.Token, tokens: c.Tokens}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	w.addr = net.JoinHostPort(u.Hostname(), port)
	if c.Pools != nil && c.Credentials.Certificate == nil { // connections with one are its owner's
		w.idle = c.Pools.pool(u.Scheme + "://" + w.addr)
	} else {
		w.idle = newPool()
	}
	if u.Scheme == "https" {
		w.dial = c.Guard.DialContext
		w.tls = c.Guard.TLS()
		if own := c.Credentials.Certificate; own != nil {
			w.tls, w.certificateEnds = c.Guard.TLS(*own), own.Leaf.NotAfter
		}
		w.tls.ServerName = u.Hostname()
		w.tls.NextProtos = []string{"http/1.1"}
		w.tls.ClientSessionCache = w.idle.sessions
	}
	w.head = appendFixedHead(nil, u, &c)
	return w, nil
}

// Send makes one attempt. A bearer token that the receiver refuses is replaced once
// within it. Source: spec/delivery.md section 9.2.
func (w *Webhook) Send(ctx context.Context, r *broker.Request) broker.Response {
	hold := r.Hold
	if hold <= 0 {
		hold = answerTime
	}
	deadline := time.Now().Add(hold)
	if w.token == nil {
		return w.request(ctx, r, "", deadline, hold)
	}
	for again := false; ; again = true {
		token, err := w.tokens.get(ctx, *w.token)
		if failed, ok := errors.AsType[*tokenError](err); ok {
			return failed.Response
		} else if err != nil {
			return canceled()
		}
		resp := w.request(ctx, r, token, deadline, hold)
		if resp.Status != fasthttp.StatusUnauthorized || again || !w.tokens.refused(*w.token, token) {
			return resp
		}
	}
}

// request sends one request, with a bearer token unless it is "".
func (w *Webhook) request(ctx context.Context, r *broker.Request, token secret.String, deadline time.Time, hold time.Duration) broker.Response {
	if ctx.Err() != nil {
		return canceled()
	}
	if c := w.idle.get(ctx); c != nil {
		if resp, stale := w.exchange(ctx, c, r, token, deadline, hold); !stale {
			return resp
		}
	}
	c, err := w.connect(ctx, deadline)
	if err != nil {
		if ctx.Err() != nil {
			return canceled()
		}
		return unconnected(err)
	}
	c.closeWith(ctx)
	resp, _ := w.exchange(ctx, c, r, token, deadline, hold)
	return resp
}

// Close lets go of its connections, of those in use once their attempt ends. They stay
// where others share them.
func (w *Webhook) Close() { w.closed.Do(w.idle.leave) }

// connect opens a connection, with TLS where the URL wants it.
func (w *Webhook) connect(ctx context.Context, deadline time.Time) (*conn, error) {
	if limit := time.Now().Add(egress.DialTimeout); limit.Before(deadline) {
		deadline = limit
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	raw, err := w.dial(ctx, "tcp", w.addr)
	if err != nil {
		return nil, err
	}
	if w.tls == nil {
		return &conn{Conn: raw, raw: raw}, nil
	}
	secured := tls.Client(raw, w.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, &tlsError{w.blame(err)}
	}
	return &conn{Conn: secured, raw: raw}, nil
}

// exchange sends the request on c and reads the answer; then it keeps c or closes
// it. stale means that c was used before and the receiver had closed it without
// reading anything that mattered: the attempt goes on with a new connection.
// Decision 32.
func (w *Webhook) exchange(ctx context.Context, c *conn, r *broker.Request, token secret.String, deadline time.Time, hold time.Duration) (resp broker.Response, stale bool) {
	used := c.used
	c.used = true
	keep := false
	defer func() {
		if keep {
			w.idle.put(c)
		} else {
			w.idle.drop(c)
		}
	}()
	if r.Fill() != nil {
		keep = true
		return canceled(), false
	}
	_ = c.raw.SetDeadline(deadline) // a closed connection shows itself below
	err := w.write(c, r, token)
	r.Sent()
	if err != nil && !isTimeout(err) {
		// A receiver may refuse a body before it read all of it, and close.
		_ = c.raw.SetReadDeadline(time.Now().Add(drainTime))
		if c.await() == nil {
			err = nil
		}
	} else if err == nil {
		err = c.await()
	}
	if err != nil {
		return interrupted(ctx, w.blame(err), hold), used && ctx.Err() == nil && !isTimeout(err)
	}
	a := answers.Get().(*answer)
	defer answers.Put(a)
	resp, keep, err = a.read(c)
	if err != nil {
		return interrupted(ctx, err, hold), false
	}
	return resp, false
}

// blame says of an endpoint that refuses our client certificate that ours has expired,
// if it has. In TLS 1.3 the refusal comes after the handshake.
func (w *Webhook) blame(err error) error {
	if !w.certificateEnds.IsZero() && refusesCertificate(err) && time.Now().After(w.certificateEnds) {
		return &expiredError{w.certificateEnds, err}
	}
	return err
}

// write sends the whole request.
func (w *Webhook) write(c *conn, r *broker.Request, token secret.String) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := append((*buf)[:0], w.head...)
	b = w.appendHead(b, r, token)
	if w.sent != nil {
		w.sent(b)
	}
	if len(r.Body) > maxCopied {
		*buf = b
		parts := net.Buffers{b, r.Body}
		_, err := parts.WriteTo(c.Conn)
		return err
	}
	b = append(b, r.Body...) // one write: one packet, one TLS record
	*buf = b
	_, err := c.Conn.Write(b)
	return err
}

// maxCopied bounds the body that is copied behind its head to be one write.
const maxCopied = 16 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// appendFixedHead appends request line and headers that are the same for every
// attempt of an event subscription. Source: spec/delivery.md section 2.1.
func appendFixedHead(b []byte, u *url.URL, c *WebhookConfig) []byte {
	b = append(b, "POST "...)
	b = append(b, target(u)...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendHeader(b, "Host", u.Host)
	for _, ours := range []manage.Header{{Name: "User-Agent", Value: UserAgent}, {Name: "Accept", Value: "*/*"}} {
		if !c.hasAttribute(ours.Name) {
			b = appendHeader(b, ours.Name, ours.Value)
		}
	}
	b = appendHeader(b, "aeg-event-type", cmp.Or(c.EventType, "Notification"))
	b = appendHeader(b, "aeg-subscription-name", strings.ToUpper(c.Name))
	if c.Schema == event.CloudEventSchemaV1_0 {
		origin := c.Origin
		if origin == "" {
			origin = DefaultOrigin
		}
		b = appendHeader(b, "Origin", origin)
		b = appendHeader(b, "WebHook-Request-Origin", origin)
	}
	for _, own := range c.Headers {
		b = appendHeader(b, own.Name, own.Value)
	}
	return b
}

// hasAttribute reports whether a delivery attribute stands in place of a header of
// ours.
func (c *WebhookConfig) hasAttribute(name string) bool {
	return slices.ContainsFunc(c.Headers, func(h manage.Header) bool { return strings.EqualFold(h.Name, name) }) ||
		slices.ContainsFunc(c.Dynamic, func(d string) bool { return strings.EqualFold(d, name) })
}

// appendHead appends the headers of one attempt and ends the head.
func (w *Webhook) appendHead(b []byte, r *broker.Request, token secret.String) []byte {
	if token != "" {
		b = appendHeader(b, "Authorization", "Bearer "+token.Reveal())
	}
	b = appendHeader(b, "Content-Type", r.ContentType)
	b = append(b, "aeg-delivery-count: "...)
	b = strconv.AppendInt(b, int64(r.Count), 10)
	b = append(b, "\r\n"...)
	metadata := "1"
	if w.cloud {
		metadata = "1.0"
	}
	if s := r.Single; s != nil {
		if !w.cloud {
			b = appendHeader(b, "aeg-data-version", s.DataVersion)
		}
		if s.MetadataVersion != "" {
			metadata = s.MetadataVersion
		}
		b = appendHeader(b, "aeg-output-event-id", s.OutputID)
	}
	b = appendHeader(b, "aeg-metadata-version", metadata)
	for _, own := range r.Attributes {
		b = appendHeader(b, own.Name, own.Value)
	}
	if len(w.signers) > 0 {
		b = appendSignature(b, w.signers, messageID(r), r.Body, time.Now())
	}
	if r.Replay != "" {
		b = appendHeader(b, "carillon-replay", r.Replay)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(r.Body)), 10)
	return append(b, "\r\n\r\n"...)
}

// appendHeader appends one header. Publishers choose some values, so everything
// that could end the header or is not printable ASCII is left out.
func appendHeader(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	for i := range len(value) {
		if c := value[i]; c >= ' ' && c <= '~' {
			b = append(b, c)
		}
	}
	return append(b, "\r\n"...)
}

// target returns the request target of a URL: its path and query as they were
// registered, with bytes escaped that must not stand in a request line.
func target(u *url.URL) string {
	text := u.EscapedPath()
	if !strings.HasPrefix(text, "/") {
		text = "/" + text
	}
	if u.RawQuery != "" || u.ForceQuery {
		text += "?" + u.RawQuery
	}
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c > ' ' && c <= '~' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// answer reads one answer. It is pooled, for it holds the buffers.
type answer struct {
	r    *bufio.Reader
	http fasthttp.Response
}

var answers = sync.Pool{New: func() any { return &answer{r: bufio.NewReaderSize(nil, maxHead)} }}

// read reads an answer whose first byte is here. keep tells whether the
// connection is ready for the next request.
func (a *answer) read(c *conn) (resp broker.Response, keep bool, err error) {
	a.r.Reset(c)
	defer a.r.Reset(nil)
	h := &a.http.Header
	for interim := 0; ; interim++ {
		if err := h.Read(a.r); err != nil {
			return resp, false, &headError{err}
		}
		// Informational heads come before the answer; 101 is one by itself.
		if s := h.StatusCode(); s >= 200 || s == fasthttp.StatusSwitchingProtocols {
			break
		}
		if interim == 8 {
			return resp, false, &headError{errors.New("too many informational heads")}
		}
	}
	status := h.StatusCode()
	resp = broker.Response{Outcome: OutcomeOf(status), Status: status}
	if resp.Outcome != broker.Delivered {
		resp.Detail = statusDetail(status)
	}
	if resp.Outcome == broker.Busy {
		resp.RetryAfter = RetryAfter(h.Peek("Retry-After"), time.Now())
	}
	keep = !h.ConnectionClose() && status >= 200 && a.drain(c)
	if keep && (a.r.Buffered() > 0 || c.early > 0) {
		keep, c.unasked = false, true
	}
	return resp, keep, nil
}

// drain reads the body and reports whether all of it was read.
func (a *answer) drain(c *conn) bool {
	h := &a.http.Header
	status, length := h.StatusCode(), h.ContentLength()
	if status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified {
		return true
	}
	if length > maxBody || length < -1 { // longer than we read, or up to the end of the connection
		return false
	}
	if length < 0 || length > a.r.Buffered() {
		_ = c.raw.SetReadDeadline(time.Now().Add(drainTime)) // a closed connection shows itself below
	}
	if length >= 0 {
		_, err := a.r.Discard(length)
		return err == nil
	}
	defer a.http.ResetBody()
	return a.http.ReadBody(a.r, maxBody) == nil && h.ReadTrailer(a.r) == nil
}

// OutcomeOf tells what a status of a webhook means.
// Source: spec/delivery.md sections 3.1 and 3.4.
func OutcomeOf(status int) broker.Outcome {
	switch status {
	case 200, 201, 202, 203, 204:
		return broker.Delivered
	case 400:
		return broker.BadRequest
	case 401:
		return broker.Unauthorized
	case 403:
		return broker.Forbidden
	case 404, 410:
		return broker.NotFound
	case 408:
		return broker.TimedOut
	case 413:
		return broker.PayloadTooLarge
	case 429, 503:
		return broker.Busy
	default:
		return broker.GenericError
	}
}

// maxRetryAfter bounds what a destination can ask for before policy does.
const maxRetryAfter = 24 * time.Hour

// RetryAfter reads a Retry-After header, seconds or a date. What cannot be read
// or lies in the past asks for nothing. Source: spec/delivery.md section 4.3.
func RetryAfter(value []byte, now time.Time) time.Duration {
	text := strings.TrimSpace(string(value))
	if text == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := fasthttp.ParseHTTPDate([]byte(text))
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// statusDetail says in words what a status is.
func statusDetail(status int) string {
	text := "the handler answered " + strconv.Itoa(status)
	if name := fasthttp.StatusMessage(status); name != "Unknown Status Code" {
		text += " " + name
	}
	if status >= 300 && status < 400 {
		text += ": redirects are not followed"
	}
	return text
}
