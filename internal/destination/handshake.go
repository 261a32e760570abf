package destination

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Times of a handshake. Source: spec/delivery.md section 1.2.
const (
	handshakeTime     = 30 * time.Second // for one complete answer
	handshakePause    = 5 * time.Second  // before the next attempt
	handshakeAttempts = 3                // when there is no answer; every answer is final
)

// endpointField is where a request names the endpoint.
const endpointField = "properties.destination.properties.endpointUrl"

// tokenField is where a request says who makes the bearer token for the endpoint.
const tokenField = "properties.destination.properties.tokenIssuer"

// Handshaker asks endpoints whether they want events. It satisfies
// manage.Handshaker.
type Handshaker struct {
	check   func(*url.URL) error
	client  *http.Client                       // for endpoints that are shown no certificate
	showing func(tls.Certificate) *http.Client // for those that are
	tokens  *Tokens
}

var _ manage.Handshaker = (*Handshaker)(nil)

// asked is the request that a handshake works for.
type asked manage.ValidationRequest

// NewHandshaker returns a Handshaker that dials through guard and sends the bearer
// tokens of tokens.
func NewHandshaker(guard *egress.Guard, tokens *Tokens) *Handshaker {
	return &Handshaker{ // each attempt has its own time limit
		check: guard.CheckURL, client: guard.Client(0), tokens: tokens,
		showing: func(c tls.Certificate) *http.Client { return guard.Client(0, c) },
	}
}

// Validate asks once, and again only where no answer comes. An endpoint that
// refuses, or cannot be reached, is a fault of kind Invalid whose message names
// the URL without its query. Validate can take more than a minute and a half; it
// ends with ctx.
func (h *Handshaker) Validate(ctx context.Context, r manage.ValidationRequest) (manage.ValidationResult, error) {
	v := asked(r)
	u, err := url.Parse(v.URL)
	if err != nil {
		return manage.ValidationResult{}, fault.Field(endpointField, "The endpointUrl is not a URL: use https://host/path.")
	}
	if err := h.check(u); err != nil {
		return manage.ValidationResult{}, fault.Field(endpointField, "The endpointUrl cannot be a destination: %s.", err)
	}
	ask := h.askEventGrid
	if v.Schema == event.CloudEventSchemaV1_0 {
		ask = h.askCloudEvents
	}
	for attempt := 1; ; attempt++ {
		result, err := askOnce(ctx, v, ask)
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return manage.ValidationResult{}, fmt.Errorf("validate endpoint of event subscription %s: %w", v.Name, context.Cause(ctx))
		}
		if failed, ok := errors.AsType[*tokenError](err); ok {
			return manage.ValidationResult{}, fault.Field(tokenField, "The endpoint was asked nothing: %s.", failed.Detail).Because(failed.err)
		}
		if !errors.Is(err, errNoAnswer) {
			return manage.ValidationResult{}, v.fault(err)
		}
		if attempt == handshakeAttempts {
			return manage.ValidationResult{}, v.fault(fmt.Errorf("%w, %d times", errNoAnswer, handshakeAttempts))
		}
		select {
		case <-ctx.Done():
		case <-time.After(handshakePause):
		}
	}
}

var errNoAnswer = fmt.Errorf("there was no complete answer within %s", handshakeTime)

// askOnce makes one attempt within its time.
func askOnce(ctx context.Context, v asked, ask func(context.Context, asked) (manage.ValidationResult, error)) (manage.ValidationResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTime, errNoAnswer)
	defer cancel()
	result, err := ask(ctx, v)
	if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
		return manage.ValidationResult{}, errNoAnswer
	}
	return result, err
}

// refusal is a handshake that failed for good.
type refusal struct {
	status int    // 0 when there was no answer
	reason string // a clause for people
	err    error  // for the operator
}

func (r *refusal) Error() string { return r.reason }
func (r *refusal) Unwrap() error { return r.err }

// fault words a failed handshake as management clients know it.
// Source: spec/delivery.md section 1.6, spec/management.md section 4.1.
func (v asked) fault(err error) error {
	code, reason := "Unknown", err.Error()
	var cause error
	if r, ok := errors.AsType[*refusal](err); ok {
		if r.status != 0 {
			code = statusName(r.status)
		}
		if r.err != nil {
			cause = errors.New(secret.Redact(r.err.Error()))
		}
	}
	f := fault.New(fault.Invalid, manage.URLValidation, "%s Http %s request failed with response code %s. For troubleshooting, visit https://aka.ms/esvalidation. Reason: %s.",
		v.failed(), v.method(), code, reason)
	f.Target = endpointField
	return f.Because(cause)
}

// awaiting words a handshake that goes on by hand.
func (v asked) awaiting(status int, what, hint string) manage.ValidationResult {
	message := fmt.Sprintf("%s Http %s request was answered with %s, but %s. GET is expected on the validation url within %d minutes.%s",
		v.failed(), v.method(), statusName(status), what, int(manage.ManualWindow.Minutes()), hint)
	return manage.ValidationResult{Message: message}
}

func (v asked) failed() string {
	return "Webhook validation handshake failed for " + secret.MaskURL(v.URL) + "."
}

func (v asked) method() string {
	if v.Schema == event.CloudEventSchemaV1_0 {
		return http.MethodOptions
	}
	return http.MethodPost
}

// statusName names a status the way the service's texts do: in one word.
func statusName(status int) string {
	name := strings.NewReplacer(" ", "", "-", "", "'", "").Replace(http.StatusText(status))
	if name == "" {
		return strconv.Itoa(status)
	}
	return name
}

// validationEvent is the one event of the Event Grid form.
// Source: spec/delivery.md section 1.2.
type validationEvent struct {
	ID              string         `json:"id"`
	Topic           string         `json:"topic"`
	Subject         string         `json:"subject"`
	Data            validationData `json:"data"`
	EventType       string         `json:"eventType"`
	EventTime       string         `json:"eventTime"`
	MetadataVersion string         `json:"metadataVersion"`
	DataVersion     string         `json:"dataVersion"`
}

type validationData struct {
	Code string `json:"validationCode"`
	URL  string `json:"validationUrl,omitempty"`
}

// askEventGrid posts the validation event.
func (h *Handshaker) askEventGrid(ctx context.Context, v asked) (manage.ValidationResult, error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // the link holds '&'
	if err := enc.Encode([]validationEvent{{
		ID:              telemetry.NewID(),
		Topic:           v.TopicID,
		Data:            validationData{Code: v.Code, URL: v.ValidationURL},
		EventType:       "Microsoft.EventGrid.SubscriptionValidationEvent",
		EventTime:       event.FormatTime(time.Now()),
		MetadataVersion: "1",
		DataVersion:     "2",
	}}); err != nil {
		return manage.ValidationResult{}, fmt.Errorf("encode validation event: %w", err)
	}
	body.Truncate(body.Len() - 1) // the encoder's line end
	header := http.Header{
		"Content-Type":          {"application/json; charset=utf-8"},
		"aeg-event-type":        {"SubscriptionValidation"},
		"aeg-subscription-name": {strings.ToUpper(v.Name)},
		"aeg-delivery-count":    {"0"},
		"aeg-data-version":      {"2"},
		"aeg-metadata-version":  {"1"},
	}
	Sign(header, "", v.Signing, body.Bytes(), time.Now())
	resp, answer, err := h.exchange(ctx, v, &body, header)
	if err != nil {
		return manage.ValidationResult{}, err
	}
	return v.judgeEventGrid(resp.StatusCode, answer)
}

// judgeEventGrid reads the answer to the validation event. Only 200 with the
// exact code validates; 200 to 204 without it leaves the link to be followed.
// Source: spec/delivery.md section 1.2.
func (v asked) judgeEventGrid(status int, answer []byte) (manage.ValidationResult, error) {
	if status < 200 || status > 204 {
		return manage.ValidationResult{}, refused(status)
	}
	code, hint := validationResponse(answer)
	if status == http.StatusOK && code != "" && code == v.Code {
		return manage.ValidationResult{Validated: true}, nil
	}
	what := "without the validation code"
	switch {
	case code != "" && code != v.Code:
		what = "with another validation code"
	case code != "":
		what = "not with 200 and the validation code"
	}
	if v.ValidationURL == "" {
		return manage.ValidationResult{}, &refusal{status: status, reason: "the endpoint answered " + what + hint}
	}
	return v.awaiting(status, what, hint), nil
}

// validationResponse returns the code in an answer, and a hint where the answer
// nearly holds one. Member names are exact.
func validationResponse(answer []byte) (code, hint string) {
	answer = bytes.TrimSpace(answer)
	if len(answer) > 0 && answer[0] == '[' {
		return "", " (the answer must be one JSON object, not an array)"
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(answer, &members) != nil {
		return "", ""
	}
	for name, value := range members {
		switch {
		case name == "validationResponse":
			if json.Unmarshal(value, &code) != nil {
				return "", " (validationResponse must be a string)"
			}
			return code, ""
		case strings.EqualFold(name, "validationResponse"):
			hint = " (the member must be spelled validationResponse, in exactly these letters)"
		}
	}
	return "", hint
}

// askCloudEvents asks for consent by OPTIONS.
// Source: spec/delivery.md section 1.4.
func (h *Handshaker) askCloudEvents(ctx context.Context, v asked) (manage.ValidationResult, error) {
	header := http.Header{"WebHook-Request-Origin": {v.origin()}}
	if v.ValidationURL != "" {
		header["WebHook-Request-Callback"] = []string{v.ValidationURL}
	}
	if v.Rate > 0 {
		header["WebHook-Request-Rate"] = []string{strconv.Itoa(v.Rate)}
	}
	resp, _, err := h.exchange(ctx, v, nil, header)
	if err != nil {
		return manage.ValidationResult{}, err
	}
	return v.judgeCloudEvents(resp.StatusCode, resp.Header)
}

func (v asked) origin() string {
	if v.Origin == "" {
		return DefaultOrigin
	}
	return v.Origin
}

// judgeCloudEvents reads the answer to OPTIONS: consent is a 2xx with our origin
// or "*" allowed, and may name a rate. An endpoint that says nothing about origins may
// still follow the callback; one that names others has refused.
func (v asked) judgeCloudEvents(status int, header http.Header) (manage.ValidationResult, error) {
	if status < 200 || status > 299 {
		return manage.ValidationResult{}, refused(status)
	}
	told := false
	for _, value := range header.Values("WebHook-Allowed-Origin") {
		for origin := range strings.SplitSeq(value, ",") {
			origin = strings.TrimSpace(origin)
			if origin == "*" || strings.EqualFold(origin, v.origin()) {
				return manage.ValidationResult{Validated: true, AllowedRate: header.Get("WebHook-Allowed-Rate")}, nil
			}
			told = told || origin != ""
		}
	}
	switch {
	case told:
		return manage.ValidationResult{}, &refusal{status: status, reason: "the endpoint allows other origins than " + v.origin() + " in WebHook-Allowed-Origin"}
	case v.ValidationURL == "":
		return manage.ValidationResult{}, &refusal{status: status, reason: "the endpoint did not answer with WebHook-Allowed-Origin: " + v.origin()}
	}
	return v.awaiting(status, "without WebHook-Allowed-Origin", ""), nil
}

func refused(status int) error {
	reason := "the endpoint answered " + strconv.Itoa(status)
	if status >= 300 && status < 400 {
		reason += " and redirects are not followed"
	}
	return &refusal{status: status, reason: reason}
}

// exchange sends one handshake request and reads its answer whole.
func (h *Handshaker) exchange(ctx context.Context, v asked, body io.Reader, header http.Header) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, v.method(), v.URL, body)
	if err != nil {
		return nil, nil, &refusal{reason: "the endpoint URL cannot be read"}
	}
	r.Close = true // nothing follows soon
	r.Header = header
	r.Header.Set("User-Agent", UserAgent)
	for _, own := range v.Headers {
		r.Header.Set(own.Name, own.Value)
	}
	client := h.client
	if own := v.Credentials.Certificate; own != nil {
		client = h.showing(*own)
	}
	var token secret.String
	if v.Credentials.Token != nil {
		if token, err = h.tokens.get(ctx, *v.Credentials.Token); err != nil {
			return nil, nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, nil, &refusal{reason: handshakeClass(err), err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	if v.Credentials.Token != nil && resp.StatusCode == http.StatusUnauthorized {
		h.tokens.refused(*v.Credentials.Token, token) // who repeats the request gets a fresh one
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return nil, nil, &refusal{status: resp.StatusCode, reason: "the answer broke off", err: err}
	}
	return resp, answer, nil
}

// handshakeClass names the class of a failed exchange without showing the URL,
// which net/http puts into its errors.
func handshakeClass(err error) string {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return unconnected(err).Detail
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "the endpoint does not speak TLS"
	}
	return classOf(err)
}
