package destination

import (
	"bytes"
	"context"
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
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Times of a handshake. Source: spec/delivery.md section 1.2.
const (
	handshakeTime     = 30 * time.Second // for one complete answer
	handshakePause    = 5 * time.Second  // before the next attempt
	handshakeAttempts = 3                // when there is no answer; every answer is final
)

// ManualWindow is how long a validation link can be used.
// Source: spec/delivery.md section 1.3.
const ManualWindow = 10 * time.Minute

// ValidationRequest says which endpoint is asked, on whose behalf, and how it may
// answer.
type ValidationRequest struct {
	URL           string       // the full endpoint URL, query included
	Name          string       // of the event subscription
	TopicID       string       // full resource id of the topic or source
	Schema        event.Schema // that deliveries will have; it chooses the handshake
	Code          string       // that the endpoint sends back (Event Grid form)
	ValidationURL string       // link that validates later; "" when that is not offered
	Origin        string       // who asks (CloudEvents form); "" for DefaultOrigin
	Rate          int          // deliveries per minute to ask for (CloudEvents form); 0 asks for none
}

// ValidationState is how a handshake ended that did not fail.
type ValidationState uint8

// The states.
const (
	Validated            ValidationState = iota + 1 // the endpoint wants the events
	AwaitingManualAction                            // it took the request and may follow the link within ManualWindow
)

// String returns the state's name.
func (s ValidationState) String() string {
	switch s {
	case Validated:
		return "Validated"
	case AwaitingManualAction:
		return "AwaitingManualAction"
	}
	return "Unknown"
}

// ValidationResult is what a handshake that did not fail brought.
type ValidationResult struct {
	State   ValidationState
	Rate    int    // deliveries per minute that the endpoint allows; 0 for no limit told
	Message string // for the operator, while AwaitingManualAction: what the endpoint did and what is expected
}

// Handshaker asks endpoints whether they want events.
type Handshaker struct {
	check  func(*url.URL) error
	client *http.Client
}

// NewHandshaker returns a Handshaker that dials through guard.
func NewHandshaker(guard *egress.Guard) *Handshaker {
	return &Handshaker{check: guard.CheckURL, client: guard.Client(0)} // each attempt has its own time limit
}

// Validate asks once, and again only where no answer comes. An endpoint that
// refuses, or cannot be reached, is a fault of kind Invalid whose message names
// the URL without its query. Validate can take more than a minute and a half; it
// ends with ctx.
func (h *Handshaker) Validate(ctx context.Context, v ValidationRequest) (ValidationResult, error) {
	u, err := url.Parse(v.URL)
	if err != nil {
		return ValidationResult{}, fault.Field(endpointField, "The endpointUrl is not a URL: use https://host/path.")
	}
	if err := h.check(u); err != nil {
		return ValidationResult{}, fault.Field(endpointField, "The endpointUrl cannot be a destination: %s.", err)
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
			return ValidationResult{}, fmt.Errorf("validate endpoint of event subscription %s: %w", v.Name, context.Cause(ctx))
		}
		if !errors.Is(err, errNoAnswer) {
			return ValidationResult{}, v.fault(err)
		}
		if attempt == handshakeAttempts {
			return ValidationResult{}, v.fault(fmt.Errorf("%w, %d times", errNoAnswer, handshakeAttempts))
		}
		select {
		case <-ctx.Done():
		case <-time.After(handshakePause):
		}
	}
}

// endpointField is where a request names the endpoint.
const endpointField = "properties.destination.properties.endpointUrl"

var errNoAnswer = fmt.Errorf("there was no complete answer within %s", handshakeTime)

// askOnce makes one attempt within its time.
func askOnce(ctx context.Context, v ValidationRequest, ask func(context.Context, ValidationRequest) (ValidationResult, error)) (ValidationResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTime, errNoAnswer)
	defer cancel()
	result, err := ask(ctx, v)
	if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
		return ValidationResult{}, errNoAnswer
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
func (v ValidationRequest) fault(err error) error {
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
	f := fault.New(fault.Invalid, "Url validation", "%s Http %s request failed with response code %s: %s. For troubleshooting, visit https://aka.ms/esvalidation.",
		v.failed(), v.method(), code, reason)
	f.Target = endpointField
	return f.Because(cause)
}

// awaiting words a handshake that goes on by hand.
func (v ValidationRequest) awaiting(status int, what, hint string) ValidationResult {
	message := fmt.Sprintf("%s Http %s request was answered with %s, but %s. GET is expected on the validation url within %d minutes.%s",
		v.failed(), v.method(), statusName(status), what, int(ManualWindow.Minutes()), hint)
	return ValidationResult{State: AwaitingManualAction, Message: message}
}

func (v ValidationRequest) failed() string {
	return "Webhook validation handshake failed for " + secret.MaskURL(v.URL) + "."
}

func (v ValidationRequest) method() string {
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
func (h *Handshaker) askEventGrid(ctx context.Context, v ValidationRequest) (ValidationResult, error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // the link holds '&'
	if err := enc.Encode([]validationEvent{{
		ID:              telemetry.NewID(),
		Topic:           v.TopicID,
		Data:            validationData{Code: v.Code, URL: v.ValidationURL},
		EventType:       "Microsoft.EventGrid.SubscriptionValidationEvent",
		EventTime:       time.Now().UTC().Format("2006-01-02T15:04:05.0000000Z"),
		MetadataVersion: "1",
		DataVersion:     "2",
	}}); err != nil {
		return ValidationResult{}, fmt.Errorf("encode validation event: %w", err)
	}
	body.Truncate(body.Len() - 1) // the encoder's line end
	resp, answer, err := h.exchange(ctx, v, &body, http.Header{
		"Content-Type":          {"application/json; charset=utf-8"},
		"aeg-event-type":        {"SubscriptionValidation"},
		"aeg-subscription-name": {strings.ToUpper(v.Name)},
		"aeg-delivery-count":    {"0"},
		"aeg-data-version":      {"2"},
		"aeg-metadata-version":  {"1"},
	})
	if err != nil {
		return ValidationResult{}, err
	}
	return v.judgeEventGrid(resp.StatusCode, answer)
}

// judgeEventGrid reads the answer to the validation event. Only 200 with the
// exact code validates; 200 to 204 without it leaves the link to be followed.
// Source: spec/delivery.md section 1.2.
func (v ValidationRequest) judgeEventGrid(status int, answer []byte) (ValidationResult, error) {
	if status < 200 || status > 204 {
		return ValidationResult{}, refused(status)
	}
	code, hint := validationResponse(answer)
	if status == http.StatusOK && code != "" && code == v.Code {
		return ValidationResult{State: Validated}, nil
	}
	what := "without the validation code"
	switch {
	case code != "" && code != v.Code:
		what = "with another validation code"
	case code != "":
		what = "not with 200 and the validation code"
	}
	if v.ValidationURL == "" {
		return ValidationResult{}, &refusal{status: status, reason: "the endpoint answered " + what + hint}
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
func (h *Handshaker) askCloudEvents(ctx context.Context, v ValidationRequest) (ValidationResult, error) {
	header := http.Header{"WebHook-Request-Origin": {v.origin()}}
	if v.ValidationURL != "" {
		header["WebHook-Request-Callback"] = []string{v.ValidationURL}
	}
	if v.Rate > 0 {
		header["WebHook-Request-Rate"] = []string{strconv.Itoa(v.Rate)}
	}
	resp, _, err := h.exchange(ctx, v, nil, header)
	if err != nil {
		return ValidationResult{}, err
	}
	return v.judgeCloudEvents(resp.StatusCode, resp.Header)
}

func (v ValidationRequest) origin() string {
	if v.Origin == "" {
		return DefaultOrigin
	}
	return v.Origin
}

// judgeCloudEvents reads the answer to OPTIONS: consent is a 2xx with our origin
// or "*" allowed. An endpoint that says nothing about origins may still follow
// the callback; one that names others has refused.
func (v ValidationRequest) judgeCloudEvents(status int, header http.Header) (ValidationResult, error) {
	if status < 200 || status > 299 {
		return ValidationResult{}, refused(status)
	}
	told := false
	for _, value := range header.Values("WebHook-Allowed-Origin") {
		for origin := range strings.SplitSeq(value, ",") {
			origin = strings.TrimSpace(origin)
			if origin == "*" || strings.EqualFold(origin, v.origin()) {
				return ValidationResult{State: Validated, Rate: AllowedRate(header)}, nil
			}
			told = told || origin != ""
		}
	}
	switch {
	case told:
		return ValidationResult{}, &refusal{status: status, reason: "the endpoint allows other origins than " + v.origin() + " in WebHook-Allowed-Origin"}
	case v.ValidationURL == "":
		return ValidationResult{}, &refusal{status: status, reason: "the endpoint did not answer with WebHook-Allowed-Origin: " + v.origin()}
	}
	return v.awaiting(status, "without WebHook-Allowed-Origin", ""), nil
}

// AllowedRate returns the deliveries per minute that a WebHook-Allowed-Rate header
// grants, 0 for no limit told. A callback may carry the header too.
func AllowedRate(header http.Header) int {
	rate, err := strconv.Atoi(strings.TrimSpace(header.Get("WebHook-Allowed-Rate")))
	if err != nil || rate < 0 {
		return 0
	}
	return rate
}

func refused(status int) error {
	reason := "the endpoint answered " + strconv.Itoa(status)
	if status >= 300 && status < 400 {
		reason += " and redirects are not followed"
	}
	return &refusal{status: status, reason: reason}
}

// exchange sends one handshake request and reads its answer whole.
func (h *Handshaker) exchange(ctx context.Context, v ValidationRequest, body io.Reader, header http.Header) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, v.method(), v.URL, body)
	if err != nil {
		return nil, nil, &refusal{reason: "the endpoint URL cannot be read"}
	}
	r.Close = true // nothing follows soon
	r.Header = header
	r.Header["User-Agent"] = []string{UserAgent}
	resp, err := h.client.Do(r)
	if err != nil {
		return nil, nil, &refusal{reason: handshakeClass(err), err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
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
