package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Events are what is received.
type Events interface {
	// FindQueue finds an event subscription by source and name, ignoring case, of
	// destination type Pull.
	FindQueue(ctx context.Context, source resource.ID, name string) (eventSubscription resource.UID, found bool)
	// Raiser is what raises the events of a source: of a system topic the workspace
	// behind it, else the source itself.
	Raiser(source resource.ID) resource.ID
	Receive(ctx context.Context, eventSubscription resource.UID, most int, wait time.Duration) (*broker.Reception, error)
	AnswerReceived(ctx context.Context, eventSubscription resource.UID, a broker.Answer, delay time.Duration, lockTokens []string) (problems []error, err error)
}

// Operations of clients of namespaces. Source: spec/delivery.md section 10.
const (
	opPublish = "publish"
	opReceive = "receive"
)

// answers are the operations that take lock tokens.
var answers = map[string]broker.Answer{
	"acknowledge": broker.Acknowledge, "release": broker.Release, "reject": broker.Reject, "renewlock": broker.Renew,
}

// operation is what a path of the form {path}/topics/{topic}:publish or
// {path}/topics/{topic}/eventsubscriptions/{name}:{verb} asks for.
type operation struct {
	path, topic, eventSubscription string
	verb                           string // in lower case
}

// operationOf takes a path apart, false when it is not of that form. Words are taken in
// any case.
func operationOf(path string) (operation, bool) {
	colon := strings.LastIndexByte(path, ':')
	if colon < 0 {
		return operation{}, false
	}
	op := operation{verb: strings.ToLower(path[colon+1:])}
	segments := strings.Split(path[:colon], "/")
	if n := len(segments); n >= 4 && strings.EqualFold(segments[n-2], "eventsubscriptions") {
		op.eventSubscription, segments = segments[n-1], segments[:n-2]
	} else if op.verb != opPublish {
		return operation{}, false
	}
	n := len(segments)
	if n < 3 || !strings.EqualFold(segments[n-2], "topics") || segments[n-1] == "" {
		return operation{}, false
	}
	op.topic, op.path = segments[n-1], strings.Join(segments[:n-2], "/")
	_, takesTokens := answers[op.verb]
	return op, op.verb == opPublish && op.eventSubscription == "" || op.eventSubscription != "" && (op.verb == opReceive || takesTokens)
}

// serveOperation answers a request of a client of namespaces, or returns what is wrong
// with it. They are checked as those of publishers are.
func (h *Handler) serveOperation(w http.ResponseWriter, r *http.Request, op operation) error {
	if r.Method != http.MethodPost {
		f := fault.New(fault.MethodNotAllowed, "MethodNotAllowed", "Method %s is not allowed here: use POST.", r.Method)
		f.Allow = http.MethodPost
		return f
	}
	source, topic, err := h.sourceOf(r.Context(), op)
	if err != nil {
		return err
	}
	if topic != nil {
		if err := admit(r, topic); err != nil {
			return err
		}
	}
	if op.verb == opPublish {
		return h.publishCloudEvents(w, r, topic)
	}
	id := source.Extension("Microsoft.EventGrid", "eventSubscriptions", op.eventSubscription)
	telemetry.RecordOf(r.Context()).Add(slog.String(telemetry.EventSubscription, id.String()))
	if err := h.authenticateReceiver(r, topic, id, source); err != nil {
		return err
	}
	uid, found := h.events.FindQueue(r.Context(), source, op.eventSubscription)
	if !found {
		return fault.New(fault.NotFound, "ResourceNotFound", "There is no event subscription '%s' of '%s' that events are received from: its destination has to be of type %s.", op.eventSubscription, source, resource.DestinationPull)
	}
	if err := checkReceiveVersion(r); err != nil {
		return err
	}
	if op.verb == opReceive {
		return h.receive(w, r, uid)
	}
	return h.answer(w, r, uid, answers[op.verb])
}

// sourceOf finds what an operation names: with its keys, where it is a custom topic, a
// domain or a topic of one.
func (h *Handler) sourceOf(ctx context.Context, op operation) (resource.ID, *Topic, error) {
	name, domain := op.topic, false
	if op.path != "" {
		if id, ok := resource.ReceivedAt(op.path, op.topic); ok && h.events != nil && op.eventSubscription != "" {
			return id, nil, nil
		}
		of, within := cutPrefixFold(op.path, domainsPath)
		if !within || of == "" || strings.Contains(of, "/") {
			return resource.ID{}, nil, fault.New(fault.NotFound, "ResourceNotFound", "The path '%.300s' names no source of events: take the endpoint that carillon event-subscription show tells.", op.path)
		}
		name, domain = of, true
	}
	topic, found, err := h.topics.FindTopic(ctx, name, "")
	if err != nil {
		return resource.ID{}, nil, fmt.Errorf("find topic %s: %w", name, err)
	}
	switch {
	case !found || domain && !topic.Domain || h.events == nil && op.verb != opPublish:
		return resource.ID{}, nil, fault.New(fault.NotFound, "ResourceNotFound", "The topic '%.100s' is not found.", name)
	case domain:
		return topic.ID.Child("topics", op.topic), topic, nil
	}
	return topic.ID, topic, nil
}

func cutPrefixFold(s, prefix string) (rest string, found bool) {
	if !hasPrefixFold(s, prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// authenticateReceiver returns nil if the request carries a credential that opens an
// event subscription: a bearer token, or an access key of its topic or domain.
func (h *Handler) authenticateReceiver(r *http.Request, topic *Topic, id, source resource.ID) error {
	raises := h.events.Raiser(source)
	c := check{Handler: h, r: r, topic: topic, takes: true, bearer: func(ctx context.Context, token string) (string, error) {
		return h.senders.AuthorizeReceiver(ctx, token, id, raises)
	}}
	switch {
	case c.authorization():
		return nil
	case c.first != nil:
		return c.first
	case topic == nil || topic.KeysOff:
		return refuse("The request carries no credential: send a bearer token for https://eventgrid.azure.net in the header Authorization, of a principal with the role EventGrid Data Receiver.")
	default:
		return refuse("The request carries no credential: send 'SharedAccessKey' and one of the " + topic.noun() + "'s access keys, or a bearer token for https://eventgrid.azure.net, in the header Authorization.")
	}
}

// firstReceiveVersion is the first version of the API. Those that came later add to it.
const firstReceiveVersion = "2023-11-01"

// receiveVersions is the value of a header that names those we know.
var receiveVersions = []string{firstReceiveVersion + ", 2024-06-01"}

var versionForm = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-preview)?$`)

// checkReceiveVersion refuses a query that cannot be read as a whole, and a version that is
// none of ours. No version is the newest one.
func checkReceiveVersion(r *http.Request) error {
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return fault.New(fault.Invalid, "InvalidRequest", "The query of the request cannot be read: parameters are parted by '&', and what is no letter or digit in them is escaped.").Because(err)
	}
	if v, given := query(r, "api-version"); given && (!versionForm.MatchString(v) || v < firstReceiveVersion) {
		return fault.New(fault.Invalid, "InvalidApiVersion", "The api-version '%.40s' is not supported: use 2024-06-01.", v)
	}
	return nil
}

// query returns a parameter by its name in any case.
func query(r *http.Request, name string) (value string, given bool) {
	for given, values := range r.URL.Query() {
		if strings.EqualFold(given, name) {
			return values[0], true
		}
	}
	return "", false
}

// number reads a parameter that is a whole number, as such are written.
func number(r *http.Request, name string, least, most, otherwise int) (int, error) {
	text, given := query(r, name)
	if !given {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most || strconv.Itoa(n) != text {
		return 0, fault.New(fault.Invalid, "InvalidRequest", "The value '%.40s' of %s is not a whole number from %d to %d.", text, name, least, most)
	}
	return n, nil
}

const (
	receiveSlack = time.Minute // that a request may take beside its wait
	maxTokens    = 1000        // lock tokens of a request
	maxAnswer    = 256 << 10   // bytes of its body
)

// receive gives events to a receiver, and waits for the first one.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, uid resource.UID) error {
	most, err := number(r, "maxEvents", 1, 100, 1)
	if err != nil {
		return err
	}
	seconds, err := number(r, "maxWaitTime", 10, 120, 60)
	if err != nil {
		return err
	}
	wait := time.Duration(seconds) * time.Second
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(wait + receiveSlack)) // one that cannot is none of net/http's
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxAnswer))                  // whoever goes away is noticed from here on
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-h.done:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	got, err := h.events.Receive(ctx, uid, most, wait)
	switch {
	case errors.Is(err, errStopping): // whoever waits is answered that there was nothing
		got = &broker.Reception{}
	case err != nil:
		return err
	}
	defer got.Done()
	telemetry.RecordOf(r.Context()).Add(slog.Int(telemetry.Events, len(got.Events)))
	if r.Context().Err() != nil {
		got.Return()
		return nil
	}
	if err := write(w, receivedBody(got.Events)...); err != nil {
		got.Return() // of one that was written, whoever goes away may have read all
	}
	return nil
}

// errStopping is why a request does not wait any longer.
var errStopping = errors.New("the server stops")

// receivedBody shows events with their locks, in parts: the events are not copied.
func receivedBody(events []broker.Received) (parts [][]byte) {
	between := `{"value":[`
	for i := range events {
		head := append(make([]byte, 0, 120), between...)
		head = append(head, `{"brokerProperties":{"lockToken":"`...)
		head = append(head, events[i].LockToken...) // of letters that need no escape
		head = append(head, `","deliveryCount":`...)
		head = strconv.AppendInt(head, int64(events[i].DeliveryCount), 10)
		if version := events[i].DataVersion; version != "" {
			quoted, _ := json.Marshal(version) // of text it never fails
			head = append(append(head, `,"dataVersion":`...), quoted...)
		}
		head = append(head, `},"event":`...)
		parts = append(parts, head, events[i].Event)
		between = `},`
	}
	if len(events) == 0 {
		return [][]byte{[]byte(`{"value":[]}`)}
	}
	return append(parts, []byte(`}]}`))
}

// write answers 200 with JSON, and returns an error when it knows that nobody reads it.
func write(w http.ResponseWriter, parts ...[]byte) error {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	w.Header()["Content-Type"] = []string{"application/json; charset=utf-8"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(size)}
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	if err := http.NewResponseController(w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// answersBody is the answer to a receiver's answers.
type answersBody struct {
	Failed    []failedToken `json:"failedLockTokens"`
	Succeeded []string      `json:"succeededLockTokens"`
}

type failedToken struct {
	LockToken string     `json:"lockToken"`
	Error     tokenError `json:"error"`
}

type tokenError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// ReleaseDelays are the delays that an event may be released for, in seconds, the least
// first. Source: spec/delivery.md section 10.
var ReleaseDelays = []int{0, 10, 60, 600, 3600}

// answer takes a receiver's answer for events that it holds.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, uid resource.UID, a broker.Answer) error {
	delay := 0
	if a == broker.Release {
		var err error
		if delay, err = number(r, "releaseDelayInSeconds", 0, slices.Max(ReleaseDelays), 0); err != nil || !slices.Contains(ReleaseDelays, delay) {
			text, _ := query(r, "releaseDelayInSeconds")
			return fault.New(fault.Invalid, "InvalidRequest", "The value '%.40s' of releaseDelayInSeconds is not 0, 10, 60, 600 or 3600.", text)
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
	if err != nil {
		if _, long := errors.AsType[*http.MaxBytesError](err); long {
			return fault.New(fault.TooLarge, "RequestEntityTooLarge", "The body has more than %d bytes. Answer fewer events at a time.", maxAnswer)
		}
		return fault.New(fault.Invalid, event.InputJSONInvalid, "The request body ended after %d bytes, before its end.", len(raw)).Because(err)
	}
	tokens, err := lockTokens(raw)
	if err != nil {
		return err
	}
	problems, err := h.events.AnswerReceived(r.Context(), uid, a, time.Duration(delay)*time.Second, tokens)
	if err != nil {
		return err
	}
	body := answersBody{Failed: []failedToken{}, Succeeded: []string{}}
	for i, token := range tokens {
		if problems[i] == nil {
			body.Succeeded = append(body.Succeeded, token)
			continue
		}
		body.Failed = append(body.Failed, failedToken{token, tokenErrorOf(problems[i])})
	}
	telemetry.RecordOf(r.Context()).Add(slog.Int(telemetry.Events, len(body.Succeeded)))
	answered, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	_ = write(w, answered) // what is stored is stored
	return nil
}

// tokenErrorOf gives what is wrong with a lock token the code that clients know.
// Source: Azure/azure-sdk-for-js, sdk/eventgrid/eventgrid-namespaces, "FailedLockToken".
func tokenErrorOf(err error) tokenError {
	code := "TokenLost"
	if errors.Is(err, broker.ErrBadToken) {
		code = "BadToken"
	}
	text := err.Error()
	return tokenError{code, strings.ToUpper(text[:1]) + text[1:] + "."}
}

// tokenList is the lockTokens of a body, and how often it has them.
type tokenList struct {
	texts []string
	times int
}

// UnmarshalJSON is called for each.
func (l *tokenList) UnmarshalJSON(raw []byte) error {
	l.times++
	return json.Unmarshal(raw, &l.texts)
}

// lockTokens reads the body of an answer: each token once, in order.
func lockTokens(raw []byte) ([]string, error) {
	var body struct {
		LockTokens tokenList `json:"lockTokens"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, fault.New(fault.Invalid, event.InputJSONInvalid, `The body is not an object with lockTokens, texts: {"lockTokens":["…"]}.`)
	}
	tokens := body.LockTokens.texts
	switch n := len(tokens); {
	case body.LockTokens.times > 1:
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The body has lockTokens more than once: one list holds all.")
	case n == 0:
		return nil, fault.New(fault.Invalid, "InvalidRequest", `The body names no lockTokens: {"lockTokens":["…"]}.`)
	case n > maxTokens:
		return nil, fault.New(fault.Invalid, "InvalidRequest", "The body has %d lockTokens; at most %d are taken at a time.", n, maxTokens)
	}
	seen := make(map[string]bool, len(tokens))
	return slices.DeleteFunc(tokens, func(token string) bool {
		again := seen[token]
		seen[token] = true
		return again
	}), nil
}

// publishCloudEvents takes what clients of namespaces publish, to a custom topic of
// CloudEvents.
func (h *Handler) publishCloudEvents(w http.ResponseWriter, r *http.Request, topic *Topic) error {
	telemetry.RecordOf(r.Context()).Add(slog.String(telemetry.Topic, topic.ID.String()))
	if topic.Domain {
		return fault.New(fault.Invalid, "InvalidRequest", "Nothing is published to a domain in this form: its events go to /api/events.")
	}
	if err := h.authenticate(r, topic); err != nil {
		return err
	}
	if err := checkReceiveVersion(r); err != nil {
		return err
	}
	if topic.Schema != event.CloudEventSchemaV1_0 {
		return fault.New(fault.Invalid, "InvalidRequest", "The topic '%s' takes events of the schema %s, which go to /api/events: CloudEvents alone are published in this form.", topic.ID.Name(), cmp.Or(topic.Schema.InputName(), "it was made with"))
	}
	if err := h.store(r, topic); err != nil {
		return err
	}
	_ = write(w, []byte(`{}`)) // what is stored is stored
	return nil
}
