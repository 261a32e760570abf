package ingest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Senders knows who may publish, or receive, with a bearer token.
type Senders interface {
	// AuthorizeSender returns the object id of the principal that a token belongs
	// to, if it holds. An Unauthenticated fault says that it does not, a Forbidden one
	// that the principal may not send events to the topic.
	AuthorizeSender(ctx context.Context, token string, topic resource.ID) (principal string, err error)
	// AuthorizeReceiver is AuthorizeSender for whoever receives the events of an event
	// subscription, which source raises.
	AuthorizeReceiver(ctx context.Context, token string, eventSubscription, source resource.ID) (principal string, err error)
	// Challenge returns the WWW-Authenticate value of a 401.
	Challenge() string
}

const (
	headerKey   = "Aeg-Sas-Key"
	headerToken = "Aeg-Sas-Token"
)

// check looks for a credential of a request that holds for the topic. Bearer
// tokens are tried first, then access keys, then shared access signatures; any valid
// one suffices. Source: spec/events.md section 8.4.
type check struct {
	*Handler
	r      *http.Request
	topic  *Topic // nil where there are no keys
	bearer func(ctx context.Context, token string) (principal string, err error)
	takes  bool  // events are received, not published
	first  error // what is wrong with the first credential that does not hold
}

// authenticate returns nil if the request carries a credential that holds for the
// topic, and otherwise what is wrong with the first one.
func (h *Handler) authenticate(r *http.Request, topic *Topic) error {
	c := check{Handler: h, r: r, topic: topic, bearer: func(ctx context.Context, token string) (string, error) {
		return h.senders.AuthorizeSender(ctx, token, topic.ID)
	}}
	switch {
	case c.authorization() || c.accessKey() || c.sharedAccessSignature():
		return nil
	case c.first != nil:
		return c.first
	case topic.KeysOff:
		return refuse("The request carries no credential: send a bearer token in the header Authorization. " + topic.keysOff())
	default:
		return refuse("The request carries no credential: send one of the " + topic.noun() + "'s access keys in the header aeg-sas-key, a shared access signature in the header aeg-sas-token, or a bearer token in the header Authorization.")
	}
}

// note keeps the first problem, and returns false.
func (c *check) note(problem error) bool {
	if c.first == nil {
		c.first = problem
	}
	return false
}

const (
	schemeBearer    = "Bearer"
	schemeKey       = "SharedAccessKey"
	schemeSignature = "SharedAccessSignature"
)

// authorization looks for a bearer token, or an access key as clients of namespaces send
// it. Source: spec/delivery.md section 10.
func (c *check) authorization() bool {
	for _, authorization := range c.r.Header["Authorization"] {
		scheme, text, _ := strings.Cut(authorization, " ")
		switch {
		case strings.EqualFold(scheme, schemeSignature):
		case strings.EqualFold(scheme, schemeBearer):
			principal, err := c.bearer(c.r.Context(), strings.TrimSpace(text))
			telemetry.RecordOf(c.r.Context()).SetPrincipal(telemetry.Identity{ObjectID: principal})
			if err == nil {
				return true
			}
			c.note(publishFault(err))
		case strings.EqualFold(scheme, schemeKey) && c.topic != nil:
			if c.isKey(text) {
				return true
			}
		default:
			c.note(refuse("The scheme of the header Authorization is not accepted here: use " + c.schemes() + "."))
		}
	}
	return false
}

// schemes are those of the header Authorization that the topic takes.
func (c *check) schemes() string {
	switch {
	case !c.takes:
		return schemeBearer + " or " + schemeSignature
	case c.topic == nil:
		return schemeBearer
	}
	return schemeBearer + " or " + schemeKey
}

// publishFault gives what is wrong with a bearer token the data plane's code.
// Source: spec/events.md section 8.6.
func publishFault(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	own := *f
	switch f.Kind {
	case fault.Unauthenticated:
		own.Code = codeUnauthorized
	case fault.Forbidden:
		own.Code = codeForbidden
	}
	return &own
}

func (c *check) accessKey() bool {
	for _, text := range c.r.Header[headerKey] {
		if c.isKey(text) {
			return true
		}
	}
	if !strings.Contains(strings.ToLower(c.r.URL.RawQuery), "aeg-sas-key") {
		return false
	}
	for name, values := range c.r.URL.Query() {
		if !strings.EqualFold(name, headerKey) {
			continue
		}
		for _, text := range values {
			if c.isKey(text) {
				return true
			}
		}
	}
	return false
}

func (c *check) isKey(text string) bool {
	switch {
	case c.topic.KeysOff:
		return c.note(refuse(c.keysOff()))
	case c.takes && !matchKey(text, &c.topic.Keys):
		return c.note(refuse("What follows SharedAccessKey is not an access key of this " + c.topic.noun() + "."))
	case strings.TrimSpace(text) == "":
		return c.note(fault.New(fault.Invalid, codeInvalidSAS, "The aeg-sas-key is empty: it must hold one of the %s's access keys, aeg-sas-key: {key}.", c.topic.noun()))
	case !matchKey(text, &c.topic.Keys):
		return c.note(refuse("The aeg-sas-key is not an access key of this " + c.topic.noun() + "."))
	}
	return true
}

func (c *check) sharedAccessSignature() bool {
	for _, authorization := range c.r.Header["Authorization"] {
		if scheme, text, _ := strings.Cut(authorization, " "); strings.EqualFold(scheme, schemeSignature) && c.isSigned(strings.TrimSpace(text)) {
			return true
		}
	}
	for _, text := range c.r.Header[headerToken] {
		if c.isSigned(text) {
			return true
		}
	}
	return false
}

func (c *check) isSigned(text string) bool {
	if c.topic.KeysOff {
		return c.note(refuse(c.keysOff()))
	}
	at := [2]address{addressOf(c.r), {c.origin, c.r.URL.Path}}
	if problem := c.signatures.check(text, &c.topic.Keys, at[:], time.Now()); problem != nil {
		return c.note(problem)
	}
	return true
}

// keysOff is said where a topic has disableLocalAuth set.
func (t *Topic) keysOff() string {
	return "Access keys and shared access signatures are turned off for this " + t.noun() + " (disableLocalAuth): publishing takes a bearer token for https://eventgrid.azure.net of a principal with the role EventGrid Data Sender."
}

// keysOff is said to whoever shows a key where they are turned off.
func (c *check) keysOff() string {
	if c.takes {
		return "Access keys are turned off for this " + c.topic.noun() + " (disableLocalAuth): receiving takes a bearer token for https://eventgrid.azure.net of a principal with the role EventGrid Data Receiver."
	}
	return c.topic.keysOff()
}

// noun is what messages call it.
func (t *Topic) noun() string {
	if t.Domain {
		return kindDomain
	}
	return kindTopic
}

// Codes of what is wrong with a credential. Source: spec/events.md section 8.6.
const (
	codeUnauthorized = "Unauthorized"
	codeForbidden    = "Forbidden"
	codeInvalidSAS   = "InvalidSas"
)

func refuse(message string) *fault.Error {
	return fault.New(fault.Unauthenticated, codeUnauthorized, "%s", message)
}

// AccessKey is an access key of a topic. The zero one opens nothing.
type AccessKey struct {
	set    bool
	digest [sha256.Size]byte // of the text
	secret string            // the bytes that the text stands for, which sign; "" for none
}

// NewAccessKey returns a key; an empty one opens nothing, and one that is not base64
// signs nothing.
func NewAccessKey(text string) AccessKey {
	secret, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		secret = nil
	}
	return AccessKey{set: text != "", digest: sha256.Sum256([]byte(text)), secret: string(secret)}
}

// matchKey compares with both keys in a time that depends on neither: digests have
// one length.
func matchKey(text string, keys *[2]AccessKey) bool {
	shown := sha256.Sum256([]byte(text))
	match := 0
	for i := range keys {
		if keys[i].set {
			match |= subtle.ConstantTimeCompare(shown[:], keys[i].digest[:])
		}
	}
	return match == 1
}
