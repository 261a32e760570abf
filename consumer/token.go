package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Token says which bearer tokens are good: those of Entra ID, of Carillon's own issuer or
// of any other issuer that publishes its keys. Source: spec/delivery.md section 9.2.
type Token struct {
	// Issuer is what tokens must name, such as
	// https://login.microsoftonline.com/TENANT/v2.0 or https://CARILLON/TENANT/v2.0.
	Issuer string
	// Audience is the application of the handler: the id or URI that its event
	// subscription has as azureActiveDirectoryApplicationIdOrUri. One of several will do.
	Audience []string
	// Callers are the application ids, appid or azp, that may call. Without one, everybody
	// may who gets a token for the audience.
	Callers []string
	// KeysURL is where the issuer's keys are, https alone. If it is empty they are looked up:
	// Issuer + /.well-known/openid-configuration names them.
	KeysURL string
	// Client gets the keys; nil is one that trusts the system's certificates.
	Client *http.Client
}

// Bounds of what is asked of an issuer.
const (
	keysFresh   = time.Hour      // then keys are asked for again
	keysKept    = 24 * time.Hour // as long are they good if the issuer does not answer
	keysPause   = time.Minute    // between two questions, also for keys that nobody knows
	keysTime    = 10 * time.Second
	maxKeysSize = 1 << 20
	tokenLeeway = time.Minute

	mostRedirects = 5
	maxToken      = 16 << 10
)

// algorithms are those whose keys can be published.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// BearerToken has every request carry a token in the header Authorization. While the keys of
// the issuer cannot be had the answer is 503, so that nothing is lost to it; so it is for a key
// that is not known as long as the issuer is not asked again, a minute at most.
func BearerToken(t Token) Option {
	return func(h *Handler) error {
		if t.Issuer == "" || len(t.Audience) == 0 {
			return errors.New("BearerToken: Issuer and Audience must be set")
		}
		if slices.Contains(t.Audience, "") || slices.Contains(t.Callers, "") {
			return errors.New("BearerToken: an Audience or one of the Callers is empty")
		}
		for _, address := range []string{t.KeysURL, t.Issuer} {
			if u, err := url.Parse(address); address != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
				if address == t.Issuer && t.KeysURL != "" {
					continue // a name only
				}
				return errors.New("BearerToken: the keys of the issuer must be at an https URL")
			}
		}
		k := &issuerKeys{issuer: t.Issuer, url: t.KeysURL, client: overTLS(t.Client), now: func() time.Time { return h.now() }}
		h.checks = append(h.checks, func(r *http.Request, _ []byte) error {
			scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if !strings.EqualFold(scheme, "Bearer") || len(raw) > maxToken {
				return refusal("it has no bearer token")
			}
			return t.verify(r.Context(), raw, k, h.now())
		})
		return nil
	}
}

// overTLS returns a client that follows no redirect to clear HTTP: who is on the way there would
// say by which keys tokens are good.
func overTLS(c *http.Client) *http.Client {
	secure := *client(c)
	follow := secure.CheckRedirect
	secure.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case r.URL.Scheme != "https":
			return errors.New("it redirects to what is not https")
		case follow != nil:
			return follow(r, via)
		case len(via) >= mostRedirects:
			return errors.New("it redirects too often")
		}
		return nil
	}
	return &secure
}

func (t *Token) verify(ctx context.Context, raw string, keys *issuerKeys, now time.Time) error {
	token, err := jwt.ParseSigned(strings.TrimSpace(raw), algorithms)
	if err != nil || len(token.Headers) != 1 {
		return refusal("its bearer token cannot be read")
	}
	key, err := keys.find(ctx, token.Headers[0].KeyID)
	if err != nil {
		return err
	}
	var c struct {
		jwt.Claims
		AppID string `json:"appid"`
		Party string `json:"azp"`
	}
	if err := token.Claims(key, &c); err != nil {
		return refusal("its bearer token is not signed by the issuer")
	}
	if c.Expiry == nil {
		return refusal("its bearer token has no end")
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Issuer: t.Issuer, AnyAudience: t.Audience, Time: now}, tokenLeeway); err != nil {
		return refusal("its bearer token is not good: " + err.Error())
	}
	caller := c.AppID
	if caller == "" {
		caller = c.Party
	}
	if len(t.Callers) > 0 && !slices.ContainsFunc(t.Callers, func(id string) bool { return strings.EqualFold(id, caller) }) {
		return refusal("its bearer token is of another application")
	}
	return nil
}

// issuerKeys are the keys of an issuer as they were last published. One request at a time
// asks for them.
type issuerKeys struct {
	issuer, url string
	client      *http.Client
	now         func() time.Time

	asking chan struct{} // made by the first who waits for it; guarded by mu

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	got    time.Time // when keys were had
	asked  time.Time // when they were last asked for
	failed error     // what came of that
}

// errUnknownKey is no refusal: whoever was here last had the issuer asked, perhaps for a key of
// his own invention, and since then it may sign by a new one.
var errUnknownKey = errors.New("its bearer token is signed by a key that is not known, and the issuer was asked a moment ago")

// find returns the key of an id. The error is a refusal if the issuer was asked for this token
// and does not have it.
func (k *issuerKeys) find(ctx context.Context, id string) (any, error) {
	own := false // the issuer was asked by us
	for again := false; ; again = true {
		k.mu.Lock()
		now := k.now()
		i := slices.IndexFunc(k.keys, func(key jose.JSONWebKey) bool { return key.KeyID == id && id != "" || id == "" && len(k.keys) == 1 })
		fresh := now.Sub(k.got) < keysFresh
		may := !again && now.Sub(k.asked) >= keysPause
		switch {
		case i >= 0 && (fresh || !may && now.Sub(k.got) < keysKept):
			key := k.keys[i].Key
			k.mu.Unlock()
			return key, nil
		case !may && k.failed != nil:
			err := k.failed
			k.mu.Unlock()
			return nil, fmt.Errorf("get the keys of the issuer: %w", err)
		case !may && !own:
			k.mu.Unlock()
			return nil, errUnknownKey
		case !may:
			k.mu.Unlock()
			return nil, refusal("its bearer token is signed by a key that the issuer does not have")
		}
		wait := k.asking
		if wait == nil {
			wait = make(chan struct{})
			k.asking, own = wait, true
			go k.ask(wait)
		}
		k.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("get the keys of the issuer: %w", context.Cause(ctx))
		}
	}
}

// ask gets the keys for all who wait.
func (k *issuerKeys) ask(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), keysTime)
	defer cancel()
	keys, err := k.get(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked, k.failed, k.asking = k.now(), err, nil
	if err == nil {
		k.keys, k.got = keys, k.asked
	}
	close(done)
}

func (k *issuerKeys) get(ctx context.Context) ([]jose.JSONWebKey, error) {
	address := k.url
	if address == "" {
		var discovery struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := k.read(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &discovery); err != nil {
			return nil, err
		}
		if discovery.Issuer != k.issuer || !strings.HasPrefix(discovery.Keys, "https://") {
			return nil, errors.New("the issuer's discovery document is of another issuer, or has no https jwks_uri")
		}
		address = discovery.Keys
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.read(ctx, address, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && key.IsPublic() && key.Use != "enc" { // of others we know nothing
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the issuer has no keys")
	}
	return keys, nil
}

func (k *issuerKeys) read(ctx context.Context, address string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := k.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", r.URL.Host, resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysSize+1))
	if err != nil {
		return err
	}
	if len(raw) > maxKeysSize {
		return fmt.Errorf("%s answered more than %d bytes", r.URL.Host, maxKeysSize)
	}
	return json.Unmarshal(raw, into)
}
