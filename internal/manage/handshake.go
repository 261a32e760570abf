package manage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Handshaker proves that a webhook wants events. Package destination satisfies it.
type Handshaker interface {
	// Validate runs the handshake that the delivery schema asks for. The error is an
	// Invalid fault with code [URLValidation] when the endpoint refused, could not
	// be reached or gave no consent, fit to be shown: it holds no query.
	Validate(ctx context.Context, r ValidationRequest) (ValidationResult, error)
}

// URLValidation is the code of a handshake that failed. It is two words.
// Source: spec/management.md section 4.1.
const URLValidation = "Url validation"

// ValidationRequest is what a handshake needs to know.
type ValidationRequest struct {
	URL           string              // the full endpoint URL; it may hold a secret
	Name          string              // of the event subscription
	TopicID       string              // full resource id of the source, its provider in lower case
	Schema        event.Schema        // the delivery schema; decides which handshake runs
	Code          string              // what the endpoint has to send back
	ValidationURL string              // where consent may be given later
	Origin        string              // who asks, for the CloudEvents handshake
	Rate          int                 // requests per minute that the CloudEvents handshake asks for
	Headers       []Header            // static delivery attributes, which the handshake carries like a delivery
	Signing       []secret.SigningKey // that sign the validation event
	Credentials   Credentials         // as deliveries show them
}

// Header is a header of a request. Its value may be a secret.
type Header struct{ Name, Value string }

// ValidationResult is how a handshake ended that did not fail.
type ValidationResult struct {
	Validated bool   // the endpoint consented; if not, it may still open the link within ManualWindow
	Message   string // for people, when it did not: what it did and what is expected

	AllowedRate string // what the endpoint's WebHook-Allowed-Rate says, "" for nothing
}

// HandshakerFunc is a function as a Handshaker.
type HandshakerFunc func(context.Context, ValidationRequest) (ValidationResult, error)

// Validate calls f.
func (f HandshakerFunc) Validate(ctx context.Context, r ValidationRequest) (ValidationResult, error) {
	return f(ctx, r)
}

// ManualWindow is how long a validation link can be opened.
// Source: spec/delivery.md section 1.3.
const ManualWindow = 10 * time.Minute

// What the CloudEvents handshake asks for. Source: spec/delivery.md section 1.4.
const (
	handshakeOrigin = "eventgrid.azure.net"
	handshakeRate   = 120
)

// handshakes are those that run now: an endpoint may open the link before it
// answers.
type handshakes struct {
	mu      sync.Mutex
	running map[resource.UID]*handshake
}

type handshake struct {
	tokenHash string
	asked     int // requests per minute that it asks for, 0 for any number
	consent   consent
}

// consent is what an endpoint said by opening its link, guarded by handshakes.mu.
type consent struct {
	granted bool
	rate    int // requests per minute that it allowed, 0 for any number
}

// shake runs the handshake of an endpoint. It returns nil and the rate that was
// allowed when the endpoint consented, and otherwise the Validation that waits for the
// link. The link can be opened from the beginning on, also while the endpoint has not
// answered yet; whoever called shake calls finish once the Validation is stored or
// given up.
func (p *Plane) shake(ctx context.Context, es *resource.EventSubscription, topic resource.ID, want *resource.Settings, url string, attributes []Attribute, keys []secret.SigningKey, credentials Credentials) (waits *resource.Validation, allowedRate int, err error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	hash, asked := hashToken(token), askedRate(want)
	p.inFlight.begin(es.UID, hash, asked)
	result, err := p.Handshaker.Validate(ctx, ValidationRequest{
		URL: url, Name: es.Name, TopicID: lowerProvider(topic), Schema: want.DeliverySchema,
		Code:          strings.ToUpper(uuid.NewString()),
		ValidationURL: fmt.Sprintf("%s/eventsubscriptions/%s/validate?token=%s", p.PublicURL, es.UID, token),
		Origin:        handshakeOrigin, Rate: asked, Headers: staticHeaders(attributes), Signing: keys, Credentials: credentials,
	})
	if err == nil && !result.Validated {
		return &resource.Validation{TokenHash: hash, Expires: time.Now().UTC().Add(ManualWindow).Truncate(time.Millisecond), Message: result.Message}, 0, nil
	}
	p.inFlight.finish(es.UID)
	if err != nil && ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	return nil, answeredRate(result.AllowedRate, asked), err
}

// staticHeaders are the delivery attributes that a handshake carries: there is no event
// that a dynamic one could take its value from.
// Source: spec/delivery.md section 1.2.
func staticHeaders(attributes []Attribute) []Header {
	var headers []Header
	for _, a := range attributes {
		if a.Type == resource.AttributeStatic {
			headers = append(headers, Header{a.Name, a.Value})
		}
	}
	return headers
}

// sameEndpoint reports whether an endpoint that consented to what es has would be
// asked about the same: neither the delivery schema, nor what is shown of the
// destination as it came (the least TLS version), nor what the endpoint knows us by
// changed. The full URL and the delivery attributes are sealed; the caller compares
// them.
// Source: spec/delivery.md section 1.7.
func sameEndpoint(want *resource.Settings, es *resource.EventSubscription) bool {
	a, b := want.Destination.WebHook, es.Destination.WebHook
	return want.DeliverySchema == es.DeliverySchema && a != nil && b != nil && bytes.Equal(a.Extra, b.Extra) && sameCredentials(a, b)
}

// noteRefusal shows on an event subscription that an endpoint refused a change of it.
// What it delivers by stays; a change that waited for consent is given up, since this
// one came after it. Source: spec/delivery.md section 1.7.
func (p *Plane) noteRefusal(ctx context.Context, caller access.Caller, old resource.Item[resource.EventSubscription], refused error) {
	f, ok := errors.AsType[*fault.Error](refused)
	if !ok || f.Code != URLValidation {
		return // the request was cut short, or was never a question to the endpoint
	}
	ctx, unlock := p.alterOne(ctx, old.Key)
	defer unlock()
	es := old.Value
	es.State, es.Pending, es.Validation, es.Failure, es.Modified = resource.Failed, nil, nil, f.Message, stamp(caller)
	_, err := p.Store.EventSubscriptions.Update(ctx, old.Key, es, old.Revision)
	if err != nil && !fault.Is(err, fault.PreconditionFailed) && !fault.Is(err, fault.NotFound) {
		p.Log.LogAttrs(ctx, slog.LevelError, "refused change cannot be noted",
			slog.String(telemetry.EventSubscription, es.ID().String()), slog.String(telemetry.Error, err.Error()))
	}
}

// begin notes a handshake. Whoever has the turn of an event subscription runs its only
// one.
func (h *handshakes) begin(uid resource.UID, tokenHash string, asked int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running == nil {
		h.running = map[resource.UID]*handshake{}
	}
	h.running[uid] = &handshake{tokenHash: tokenHash, asked: asked}
}

// grant notes that the link of a running handshake was opened, with a rate; there is
// none when found is false.
func (h *handshakes) grant(uid resource.UID, tokenHash, rate string) (perMinute int, found bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	running := h.running[uid]
	if running == nil || !sameHash(running.tokenHash, tokenHash) {
		return 0, false, nil
	}
	perMinute, err = calledBackRate(rate, running.asked)
	if err == nil {
		running.consent = consent{true, perMinute}
	}
	return perMinute, true, err
}

// finish forgets a handshake and returns what its link was opened with meanwhile.
func (h *handshakes) finish(uid resource.UID) consent {
	h.mu.Lock()
	defer h.mu.Unlock()
	running := h.running[uid]
	delete(h.running, uid)
	if running == nil {
		return consent{}
	}
	return running.consent
}

// hashToken is what is kept of a link's token: 256 random bits need no salt.
func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func sameHash(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// lowerProvider spells the provider of an id in lower case, as Event Grid does in
// the topic of an event subscription. Source: spec/management.md section 5.5.
func lowerProvider(id resource.ID) string {
	segments := strings.Split(id.String(), "/")
	for i := 1; i+1 < len(segments); i += 2 {
		if strings.EqualFold(segments[i], "providers") {
			segments[i+1] = strings.ToLower(segments[i+1])
		}
	}
	return strings.Join(segments, "/")
}

func errLink() error {
	return fault.New(fault.Invalid, "InvalidRequest", "The validation link is not valid or has expired. Create the event subscription again to get a new one.")
}

// Consent takes the token of a validation link: what waited for it becomes live, with
// the rate that the call allows, the value of WebHook-Allowed-Rate or "". It returns
// how many requests per minute that are, 0 for any number. The same link may be opened
// again until it expires; it says the same, or allows another rate. Nobody is
// authenticated here; the token is the proof.
// Source: spec/delivery.md sections 1.3 and 1.4.
func (p *Plane) Consent(ctx context.Context, uid resource.UID, token, rate string) (perMinute int, err error) {
	hash := hashToken(token)
	if perMinute, found, err := p.inFlight.grant(uid, hash, rate); found {
		return perMinute, err
	}
	key, ok := p.watch.key(uid)
	if !ok {
		return 0, errLink()
	}
	ctx, unlock := p.alterOne(ctx, key)
	defer unlock()
	item, ok := p.Store.EventSubscriptions.Get(key)
	if !ok || item.Value.UID != uid {
		return 0, errLink()
	}
	v := item.Value.Validation
	if v == nil || !sameHash(v.TokenHash, hash) || !time.Now().Before(v.Expires) {
		return 0, errLink()
	}
	want := item.Value.Wanted()
	if v.Accepted && rate == "" {
		return want.Destination.WebHook.AllowedRate, nil
	}
	if perMinute, err = calledBackRate(rate, askedRate(&want)); err != nil {
		return 0, err
	}
	_, err = p.accept(ctx, item, perMinute)
	return perMinute, err
}

// accept makes live what waited for consent, with the rate that was allowed. The
// caller holds the stripe.
func (p *Plane) accept(ctx context.Context, item resource.Item[resource.EventSubscription], allowedRate int) (resource.Item[resource.EventSubscription], error) {
	es := item.Value
	es.Validation = &resource.Validation{TokenHash: es.Validation.TokenHash, Expires: es.Validation.Expires, Accepted: true}
	want := es.Wanted()
	want.Destination = withAllowedRate(want.Destination, allowedRate)
	es.Apply(want)
	es.Active, es.State = true, resource.Succeeded
	item, err := p.replace(ctx, item, es)
	if err != nil {
		return item, err
	}
	p.Log.LogAttrs(ctx, slog.LevelInfo, "event subscription validated",
		slog.String(telemetry.EventSubscription, es.ID().String()), slog.String("handshake", "manual"))
	return item, nil
}
