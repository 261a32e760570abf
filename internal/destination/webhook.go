package destination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
)

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
type Webhook struct {
	*httpServer
	head  []byte // request line and the headers that never change
	cloud bool   // deliveries are CloudEvents

	signers []Signer
	token   *manage.TokenRequest // of the bearer token that messages carry; nil for none
	tokens  *Tokens

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
	w := &Webhook{
		httpServer: newHTTPServer(u, c.Guard, c.Pools, c.Credentials.Certificate),
		cloud:      c.Schema == event.CloudEventSchemaV1_0, signers: c.Signers, token: c.Credentials.Token, tokens: c.Tokens,
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
	until := time.Now().Add(hold)
	if w.token == nil {
		return w.post(ctx, &posting{w: w, Request: r}, until, hold)
	}
	for again := false; ; again = true {
		token, err := w.tokens.get(ctx, *w.token)
		if failed, ok := errors.AsType[*tokenError](err); ok {
			return failed.Response
		} else if err != nil {
			return canceled()
		}
		resp := w.post(ctx, &posting{w: w, Request: r, token: token}, until, hold)
		if resp.Status != fasthttp.StatusUnauthorized || again || !w.tokens.refused(*w.token, token) {
			return resp
		}
	}
}

func (w *Webhook) post(ctx context.Context, d *posting, until time.Time, hold time.Duration) broker.Response {
	if err := w.exchange(ctx, d, until); err != nil {
		return noAnswer(ctx, err, hold)
	}
	return d.resp
}

// Close lets go of its connections, of those in use once their attempt ends. They stay
// where others share them.
func (w *Webhook) Close() { w.leave() }

// posting is one request of an attempt.
type posting struct {
	*broker.Request
	w     *Webhook
	token secret.String // "" for none
	resp  broker.Response
}

func (d *posting) write(c *conn) error {
	defer d.Sent()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := append((*buf)[:0], d.w.head...)
	b = d.w.appendHead(b, d.Request, d.token)
	if d.w.sent != nil {
		d.w.sent(b)
	}
	var err error
	*buf, err = c.send(b, d.Body)
	return err
}

func (*posting) again() bool { return true }

func (d *posting) read(a *answer, c *conn) bool {
	h := &a.http.Header
	status := h.StatusCode()
	d.resp = broker.Response{Outcome: OutcomeOf(status), Status: status}
	if d.resp.Outcome != broker.Delivered {
		d.resp.Detail = statusDetail(status)
	}
	if d.resp.Outcome == broker.Busy {
		d.resp.RetryAfter = RetryAfter(h.Peek("Retry-After"), time.Now())
	}
	return a.drain(c)
}

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
