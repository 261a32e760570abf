package destination

import (
	"context"
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
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
)

// Times of bearer tokens.
const (
	tokenTime    = 10 * time.Second // for one request to an issuer
	renewBefore  = 5 * time.Minute  // its end a token is replaced. Source: spec/delivery.md section 9.2
	failureTime  = 10 * time.Second // for which an issuer that failed is not asked again, unless it says longer
	maxFailure   = 5 * time.Minute  // at most, whatever it says
	refusedTime  = time.Minute      // for which a new token is kept although a handler refused it
	defaultLife  = 5 * time.Minute  // of a token whose issuer does not say. RFC 6749 section 5.1 leaves it open
	maxLife      = 24 * time.Hour
	forgetTokens = time.Minute // how often tokens are looked through for those that ended
)

// Limits of an issuer's answer.
const (
	maxTokenAnswer = 64 << 10
	maxToken       = 12 << 10 // a head of 16 KiB is what many servers take
)

// Token is a bearer token.
type Token struct {
	Text    secret.String
	Expires time.Time
}

// Tokens gets the bearer tokens of webhooks and keeps each until shortly before it
// ends, for everybody who asks for the same. One request at a time goes to an issuer
// for one token; while a token is being replaced, the old one serves. It is safe for
// concurrent use.
type Tokens struct {
	client *http.Client
	own    func(application, eventSubscription string) (Token, error)

	mu    sync.Mutex
	held  map[manage.TokenRequest]*heldToken
	swept time.Time
}

// heldToken is a token, or why there is none.
type heldToken struct {
	text                  secret.String // "" = there is none
	since, renew, expires time.Time

	asking chan struct{} // closed when the request that is under way ends; nil = there is none
	failed *tokenError   // of the last request
	again  time.Time     // when an issuer that failed may be asked again
}

// NewTokens returns Tokens that ask issuers through guard. own makes the tokens of
// this server's own issuer.
func NewTokens(guard *egress.Guard, own func(application, eventSubscription string) (Token, error)) *Tokens {
	return &Tokens{client: guard.Client(tokenTime), own: own, held: map[manage.TokenRequest]*heldToken{}}
}

// ForgetOwn forgets the tokens of this server's own issuer: what signed them may count no
// longer.
func (t *Tokens) ForgetOwn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r, h := range t.held {
		if r.URL == "" && h.asking == nil {
			delete(t.held, r)
		}
	}
}

// tokenError is why there is no token, as the attempt that needs it tells it. It
// shows nothing that an issuer wrote.
type tokenError struct {
	broker.Response
	err error // for the operator; nil when Detail says it all
}

func (e *tokenError) Error() string { return e.Detail }
func (e *tokenError) Unwrap() error { return e.err }

func noToken(o broker.Outcome, format string, args ...any) *tokenError {
	return &tokenError{Response: broker.Response{Outcome: o, Detail: short("no bearer token: " + fmt.Sprintf(format, args...))}}
}

// get returns a token. The error is ctx's, or a *tokenError.
func (t *Tokens) get(ctx context.Context, r manage.TokenRequest) (secret.String, error) {
	for {
		t.mu.Lock()
		now := time.Now()
		h := t.entry(r, now)
		valid := h.text != "" && now.Before(h.expires)
		switch {
		case valid && (now.Before(h.renew) || h.asking != nil || now.Before(h.again)):
			defer t.mu.Unlock()
			return h.text, nil
		case h.asking == nil && now.Before(h.again):
			defer t.mu.Unlock()
			return "", h.failed
		case h.asking == nil:
			h.asking = make(chan struct{})
			t.mu.Unlock()
			return t.renew(ctx, r, h)
		}
		asking := h.asking
		t.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// entry returns what is held of a token. The caller holds t.mu.
func (t *Tokens) entry(r manage.TokenRequest, now time.Time) *heldToken {
	h := t.held[r]
	if h != nil {
		return h
	}
	if now.Sub(t.swept) > forgetTokens {
		t.swept = now
		for key, old := range t.held {
			if old.asking == nil && !now.Before(old.expires) && !now.Before(old.again) {
				delete(t.held, key)
			}
		}
	}
	h = &heldToken{}
	t.held[r] = h
	return h
}

// renew asks the issuer for all who wait for h. A request that ends because the
// attempt it belongs to does says nothing of the issuer: the next in line asks again.
func (t *Tokens) renew(ctx context.Context, r manage.TokenRequest, h *heldToken) (secret.String, error) {
	asked := time.Now()
	token, err := t.ask(ctx, r, asked)
	t.mu.Lock()
	defer t.mu.Unlock()
	close(h.asking)
	h.asking = nil
	now := time.Now()
	switch {
	case err == nil:
		life := token.Expires.Sub(asked)
		*h = heldToken{text: token.Text, since: now, expires: token.Expires, renew: token.Expires.Add(-min(renewBefore, life/2))}
		return h.text, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	}
	h.failed, h.again = err, now.Add(max(failureTime, min(err.RetryAfter, maxFailure)))
	if h.text != "" && now.Before(h.expires) {
		return h.text, nil
	}
	return "", err
}

// refused is told that a handler answered 401 to a token. It reports whether another
// one may be had: this one may have been revoked, or its issuer may have new keys. A
// token that is new is kept, for a handler that refuses everybody must not send us to
// the issuer with each event.
func (t *Tokens) refused(r manage.TokenRequest, text secret.String) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.held[r]
	if h == nil || h.text != text {
		return true // it was replaced meanwhile
	}
	if time.Since(h.since) < refusedTime {
		return false
	}
	h.text = ""
	return true
}

// ask makes one request to an issuer. A token lives from when it was asked for.
func (t *Tokens) ask(ctx context.Context, r manage.TokenRequest, asked time.Time) (Token, *tokenError) {
	if r.URL == "" {
		token, err := t.own(r.Audience, r.EventSubscription)
		if err != nil {
			return token, &tokenError{Response: noToken(broker.GenericError, "this server could not make one").Response, err: err}
		}
		return token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {r.ClientID}, "client_secret": {r.ClientSecret.Reveal()}}
	for name, value := range map[string]string{"scope": r.Scope, "audience": r.Audience} {
		if value != "" {
			form.Set(name, value)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return Token{}, noToken(broker.GenericError, "the address of the token endpoint cannot be read")
	}
	req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}, "User-Agent": {UserAgent}}
	resp, err := t.client.Do(req)
	if err != nil {
		return Token{}, unanswered(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return Token{}, unanswered(err)
	}
	if resp.StatusCode != http.StatusOK {
		return Token{}, refusedBy(resp, answer)
	}
	return readToken(answer, asked)
}

// unanswered tells why an issuer gave no answer.
func unanswered(err error) *tokenError {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if isTimeout(err) {
		return noToken(broker.TimedOut, "the issuer did not answer within %s", tokenTime)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return noToken(broker.SocketError, "the issuer does not speak TLS")
	}
	r := unconnected(err)
	return noToken(r.Outcome, "the issuer: %s", r.Detail)
}

// errorCodes are the codes of errors that are shown: those that the standards have.
// Source: RFC 6749 section 5.2, RFC 8707 section 2, spec/access.md section 3.5.
var errorCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"invalid_target", "invalid_resource", "access_denied", "temporarily_unavailable", "server_error",
}

// refusedBy tells what an issuer answered instead of a token. It is not an answer of
// the handler: whatever its status, the event is tried again.
func refusedBy(resp *http.Response, answer []byte) *tokenError {
	var said struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(answer, &said) // many answers are no JSON
	text := "the issuer answered " + strconv.Itoa(resp.StatusCode)
	if slices.Contains(errorCodes, said.Error) {
		text += " (" + said.Error + ")"
	}
	outcome := broker.GenericError
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		outcome = broker.Busy
	}
	e := noToken(outcome, "%s", text)
	if outcome == broker.Busy {
		e.RetryAfter = RetryAfter([]byte(resp.Header.Get("Retry-After")), time.Now())
	}
	return e
}

// readToken reads the answer of an issuer. Some write the token's life as a string.
// Source: RFC 6749 section 5.1, spec/access.md section 3.3.
func readToken(answer []byte, asked time.Time) (Token, *tokenError) {
	var said struct {
		Token   string          `json:"access_token"`
		Type    string          `json:"token_type"`
		Expires json.RawMessage `json:"expires_in"`
	}
	switch err := json.Unmarshal(answer, &said); {
	case err != nil:
		return Token{}, noToken(broker.GenericError, "the issuer's answer is not the JSON of a token")
	case said.Token == "" || len(said.Token) > maxToken || strings.ContainsFunc(said.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return Token{}, noToken(broker.GenericError, "the issuer's answer has no access_token that fits a header")
	case said.Type != "" && !strings.EqualFold(said.Type, "Bearer"):
		return Token{}, noToken(broker.GenericError, "the issuer's token is not of the type Bearer")
	}
	life := defaultLife
	if text := strings.Trim(string(said.Expires), `"`); text != "" && text != "null" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || !(seconds > 0) {
			return Token{}, noToken(broker.GenericError, "the issuer's expires_in is not a number of seconds")
		}
		life = time.Duration(max(1, min(seconds, maxLife.Seconds())) * float64(time.Second))
	}
	return Token{Text: secret.String(said.Token), Expires: asked.Add(life)}, nil
}
