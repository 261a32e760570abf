// Package consumertest makes the requests that an event service makes, to test handlers of
// events: deliveries of any event in both schemas, signed or not, in batches, in any order
// and more than once, and the handshakes. It works on any http.Handler and over HTTP.
//
//	source := consumertest.NewSource(workspace)
//	sender := consumertest.Sender{Handler: h, Key: key}
//	answer, err := sender.Send(source.Event(mlevent.RunCompleted{RunID: "r1"}))
package consumertest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// Source raises the events of one topic. Each has an id and a time of its own, and an etag and a
// sequencer that are greater than those before: the same ones in every run of a test.
type Source struct {
	topic  string
	casing mlevent.Casing
	n      int
}

// NewSource returns a source for a topic: the resource id of a workspace, for example.
func NewSource(topic string) *Source { return &Source{topic: topic} }

// Documented has the events that follow spelled as the documentation shows them, and not as
// the SDKs read them.
func (s *Source) Documented() { s.casing = mlevent.Documented }

// Event is an event as it was raised.
type Event struct {
	ID        string
	Type      string
	Subject   string
	Sequencer string
	grid      []byte // in the Event Grid schema
}

// next returns what is the event's own.
func (s *Source) next() (id, sequencer string, at time.Time) {
	s.n++
	sum := sha256.Sum256([]byte(s.topic + strconv.Itoa(s.n)))
	text := hex.EncodeToString(sum[:16])
	id = text[:8] + "-" + text[8:12] + "-5" + text[13:16] + "-8" + text[17:20] + "-" + text[20:]
	return id, fmt.Sprintf("%016x%016x", 1, s.n), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(s.n) * time.Second)
}

// Event raises the event of a payload. ETag and Sequencer of the payload are not used. It
// panics if the payload cannot be written: a number in it that is none.
func (s *Source) Event(p mlevent.Payload) Event { return s.Change(p)[0] }

// Change raises the events of one change of an object, in their order: they have one etag.
// The end of a run is RunStatusChanged and RunCompleted.
func (s *Source) Change(payloads ...mlevent.Payload) []Event {
	events := make([]Event, len(payloads))
	var etag string
	for i, p := range payloads {
		events[i], etag = s.event(p, etag)
	}
	return events
}

// event raises one event, with an etag of its own if it is given none.
func (s *Source) event(p mlevent.Payload, etag string) (Event, string) {
	id, sequencer, at := s.next()
	etag = cmp.Or(etag, sequencer)
	encoded, err := mlevent.Encode(mlevent.Envelope{Topic: s.topic, ID: id, Time: at, Casing: s.casing}, p)
	if err != nil {
		panic(err)
	}
	copy(encoded.Raw[encoded.ETagAt:], etag)
	copy(encoded.Raw[encoded.SequencerAt:], sequencer)
	return Event{ID: id, Type: p.EventType(), Subject: p.Subject(), Sequencer: sequencer, grid: encoded.Raw}, etag
}

// Custom raises an event of any type. It has the etag and the sequencer that its data has, and
// its data is what package encoding/json makes of it. It panics if that is nothing.
func (s *Source) Custom(eventType, subject string, data any) Event {
	id, _, at := s.next()
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	b := event.AppendQuoted([]byte(`{"topic":`), s.topic)
	b = event.AppendQuoted(append(b, `,"subject":`...), subject)
	b = event.AppendQuoted(append(b, `,"eventType":`...), eventType)
	b = event.AppendQuoted(append(b, `,"eventTime":`...), event.FormatTime(at))
	b = event.AppendQuoted(append(b, `,"id":`...), id)
	b = append(append(b, `,"dataVersion":"1","metadataVersion":"1","data":`...), raw...)
	return Event{ID: id, Type: eventType, Subject: subject, grid: append(b, '}')}
}

// JSON returns the event as it is delivered in a schema.
func (e Event) JSON(schema event.Schema) []byte {
	if schema != event.CloudEventSchemaV1_0 {
		return e.grid
	}
	var parsed event.Event
	if err := parsed.Parse(e.grid, event.EventGridSchema); err != nil {
		panic(err)
	}
	return parsed.AppendCloudEvent(nil, e.Sequencer)
}

// Shuffle returns events in the order of chance that a seed stands for, with as many
// deliveries of events again, at any place.
func Shuffle(seed uint64, again int, events ...Event) []Event {
	chance := rand.New(rand.NewPCG(seed, 0))
	all := append([]Event(nil), events...)
	for range again {
		all = append(all, events[chance.IntN(len(events))])
	}
	chance.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Sender makes requests as the sender of one event subscription does.
type Sender struct {
	// Handler gets the requests. If it is nil they go to URL, by Client or a client of
	// its own. With a Handler the URL may be empty, or have a query such as /hook?code=key.
	Handler http.Handler
	URL     string
	Client  *http.Client

	EventSubscription string       // its name; "" for test
	Schema            event.Schema // of deliveries: the Event Grid schema unless it is set
	Batch             bool         // its deliveries are batches: single CloudEvents come in an array, too
	Attempt           int          // 1, or 0, for the first one
	Header            http.Header  // more headers: Authorization, carillon-replay and so on

	// Key signs requests the way of Standard Webhooks: whsec_ and base64 of the shared key, or
	// whsk_ and base64 of an ed25519 seed. "" for none.
	Key string
	// Time is that of the signature: now, unless it is set.
	Time time.Time
}

// Answer is what a handler answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Delivered says that the sender takes the request for delivered.
func (a *Answer) Delivered() bool { return a.Status >= 200 && a.Status <= 204 }

// GivenUp says that the sender does not try again, but makes dead letters of the events.
func (a *Answer) GivenUp() bool {
	switch a.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestEntityTooLarge:
		return true
	}
	return false
}

// Send delivers events in one request.
func (s *Sender) Send(events ...Event) (*Answer, error) {
	kind, array := "application/json", true
	if s.Schema == event.CloudEventSchemaV1_0 {
		kind = event.MediaTypeCloudEvents
		if array = s.Batch || len(events) != 1; !array {
			kind = event.MediaTypeCloudEvent
		}
	}
	var body []byte
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.JSON(s.Schema)...)
	}
	if array {
		body = append(append([]byte{'['}, body...), ']')
	}
	return s.Post("Notification", kind+"; charset=utf-8", body)
}

// Validate asks by the handshake of the Event Grid schema whether the handler wants the events
// of a topic, and reports whether it said yes.
func (s *Sender) Validate(topic string) (bool, *Answer, error) {
	const code = "7F1C0A55-5B0E-4F0B-9C55-0D2A2F6F7A11"
	a, err := s.notice(topic, "SubscriptionValidation", "Microsoft.EventGrid.SubscriptionValidationEvent",
		map[string]string{"validationCode": code, "validationUrl": "https://sender.invalid/validate?id=" + code})
	if err != nil {
		return false, nil, err
	}
	var said struct{ ValidationResponse string }
	_ = json.Unmarshal(a.Body, &said)
	return a.Status == http.StatusOK && said.ValidationResponse == code, a, nil
}

// Deleted tells the handler that an event subscription is gone.
func (s *Sender) Deleted(topic, eventSubscription string) (*Answer, error) {
	return s.notice(topic, "SubscriptionDeletion", "Microsoft.EventGrid.SubscriptionDeletedEvent", map[string]string{"eventSubscriptionId": eventSubscription})
}

func (s *Sender) notice(topic, header, eventType string, data map[string]string) (*Answer, error) {
	source := Source{topic: topic}
	e := source.Custom(eventType, "", data)
	return s.Post(header, "application/json; charset=utf-8", append(append([]byte{'['}, e.grid...), ']'))
}

// Ask asks by the handshake of CloudEvents whether an origin may send, and reports whether it
// may.
func (s *Sender) Ask(origin string) (bool, *Answer, error) {
	r, err := s.request(http.MethodOptions, nil)
	if err != nil {
		return false, nil, err
	}
	r.Header.Set("WebHook-Request-Origin", origin)
	r.Header.Set("WebHook-Request-Rate", "120")
	a, err := s.do(r)
	if err != nil {
		return false, nil, err
	}
	allowed := a.Header.Get("WebHook-Allowed-Origin")
	return a.Status == http.StatusOK && (allowed == "*" || strings.EqualFold(allowed, origin)), a, nil
}

// Post sends any body, with the headers of a delivery; eventType is the header
// aeg-event-type.
func (s *Sender) Post(eventType, contentType string, body []byte) (*Answer, error) {
	r, err := s.request(http.MethodPost, body)
	if err != nil {
		return nil, err
	}
	set := func(name, value string) {
		if r.Header.Get(name) == "" {
			r.Header.Set(name, value)
		}
	}
	name := s.EventSubscription
	if name == "" {
		name = "test"
	}
	set("aeg-event-type", eventType)
	set("aeg-subscription-name", strings.ToUpper(name))
	set("aeg-delivery-count", strconv.Itoa(max(s.Attempt-1, 0)))
	set("aeg-metadata-version", "1")
	set("Content-Type", contentType)
	if s.Key != "" {
		if err := s.sign(r.Header, body); err != nil {
			return nil, err
		}
	}
	return s.do(r)
}

func (s *Sender) request(method string, body []byte) (*http.Request, error) {
	target := s.URL
	if target == "" {
		target = "/"
	}
	r, err := http.NewRequestWithContext(context.Background(), method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range s.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	return r, nil
}

func (s *Sender) do(r *http.Request) (*Answer, error) {
	if s.Handler != nil {
		r.RemoteAddr, r.RequestURI = "192.0.2.1:1234", r.URL.RequestURI()
		w := httptest.NewRecorder()
		s.Handler.ServeHTTP(w, r)
		return &Answer{w.Code, w.Header(), w.Body.Bytes()}, nil
	}
	client := s.Client
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return &Answer{resp.StatusCode, resp.Header, body}, err
}

// sign puts the headers of a signature into a request. Source: spec/delivery.md section 9.6.
func (s *Sender) sign(header http.Header, body []byte) error {
	at := s.Time
	if at.IsZero() {
		at = time.Now()
	}
	sum := sha256.Sum256(body)
	id, stamp := hex.EncodeToString(sum[:16]), strconv.FormatInt(at.Unix(), 10)
	signed := append([]byte(id+"."+stamp+"."), body...)
	var signature string
	if encoded, ok := strings.CutPrefix(s.Key, "whsec_"); ok {
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return errors.New("the signing key is not base64")
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(signed)
		signature = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	} else {
		seed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.Key, "whsk_"))
		if err != nil || len(seed) < ed25519.SeedSize {
			return errors.New("the signing key is neither whsec_ nor whsk_ and base64 of an ed25519 seed")
		}
		signature = "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(seed[:ed25519.SeedSize]), signed))
	}
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", stamp)
	header.Set("webhook-signature", signature)
	return nil
}
