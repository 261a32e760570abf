package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/carillon-events/carillon/internal/secret"
)

// Bounds on what is asked of a foreign issuer, and how often.
// Source: spec/access.md sections 2.2 and 14.3.
const (
	keysFresh   = time.Hour        // after which keys are fetched anew when they are needed
	keysUsable  = 24 * time.Hour   // for which they count while the issuer does not answer
	keysAgain   = time.Minute      // between two requests to one issuer
	keysTime    = 10 * time.Second // for one exchange
	maxKeysBody = 1 << 20
	maxKeys     = 100
)

// foreignAlgorithms are those that a foreign token may be signed with when its provider
// says nothing else; allAlgorithms are all that it may name. None of them is symmetric.
var (
	foreignAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256}
	allAlgorithms     = []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
)

// issuerKeys are the public keys of a foreign issuer: fetched when they are needed, kept
// for an hour, and fetched anew for a key id that is not among them, at most once a
// minute. A token whose key is known never waits for a request that another one caused.
type issuerKeys struct {
	issuer string
	uri    string // of the keys; "" finds it by discovery
	client *http.Client

	known atomic.Pointer[fetchedKeys]

	mu    sync.Mutex // held while they are fetched
	asked time.Time
	err   error // of the last request
}

type fetchedKeys struct {
	keys []jose.JSONWebKey
	at   time.Time
}

// find returns the key with an id; a token without one is verified with the only key.
func (k *issuerKeys) find(ctx context.Context, id string) (jose.JSONWebKey, error) {
	known := k.known.Load()
	if key, ok := known.find(id); ok {
		switch age := time.Since(known.at); {
		case age < keysFresh:
			return key, nil
		case age < keysUsable && !k.mu.TryLock(): // somebody is asking
			return key, nil
		case age < keysUsable:
			k.fetch(ctx)
			failed := k.err
			k.mu.Unlock()
			anew, ok := k.known.Load().find(id)
			switch {
			case ok:
				return anew, nil
			case failed != nil:
				return key, nil
			}
			return jose.JSONWebKey{}, fmt.Errorf("issuer %s has withdrawn the key with id %.100q", k.issuer, id)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fetch(ctx)
	known = k.known.Load()
	if key, ok := known.find(id); ok && time.Since(known.at) < keysUsable {
		return key, nil
	}
	if k.err != nil {
		return jose.JSONWebKey{}, k.err
	}
	return jose.JSONWebKey{}, fmt.Errorf("issuer %s has no key with id %.100q", k.issuer, id)
}

func (f *fetchedKeys) find(id string) (jose.JSONWebKey, bool) {
	if f == nil {
		return jose.JSONWebKey{}, false
	}
	if id == "" && len(f.keys) == 1 {
		return f.keys[0], true
	}
	i := slices.IndexFunc(f.keys, func(key jose.JSONWebKey) bool { return id != "" && key.KeyID == id })
	if i < 0 {
		return jose.JSONWebKey{}, false
	}
	return f.keys[i], true
}

// fetch asks the issuer for its keys, unless it was asked a moment ago. It needs mu. What
// was begun is finished, also when the request that caused it ends.
func (k *issuerKeys) fetch(ctx context.Context) {
	if !k.asked.IsZero() && time.Since(k.asked) < keysAgain {
		return
	}
	k.asked = time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTime)
	defer cancel()
	keys, err := k.ask(ctx)
	if k.err = err; err == nil {
		k.known.Store(&fetchedKeys{keys, time.Now()})
	}
}

func (k *issuerKeys) ask(ctx context.Context) ([]jose.JSONWebKey, error) {
	uri := k.uri
	if uri == "" {
		var d struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &d); err != nil {
			return nil, err
		}
		if d.Issuer != k.issuer {
			return nil, fmt.Errorf("the discovery document of issuer %s is of issuer %.200q", k.issuer, d.Issuer)
		}
		if !strings.HasPrefix(d.JWKSURI, "https://") {
			return nil, fmt.Errorf("the jwks_uri of issuer %s is no https URL", k.issuer)
		}
		uri = d.JWKSURI
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, uri, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) == nil && verifies(key) { // others are for other uses
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("issuer %s publishes no key that verifies signatures", k.issuer)
	}
	return keys, nil
}

// verifies reports whether a key is a public one, strong enough, and for signatures.
func verifies(key jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" || !key.Valid() {
		return false
	}
	switch public := key.Key.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= SigningKeyBits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

func (k *issuerKeys) get(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask issuer %s for its keys: the address is not a URL", k.issuer)
	}
	r.Header.Set("Accept", "application/json")
	answer, err := k.client.Do(r)
	if err != nil {
		return fmt.Errorf("ask issuer %s for its keys: %s", k.issuer, secret.Redact(err.Error()))
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask issuer %s for its keys: it answered %d at %s", k.issuer, answer.StatusCode, secret.MaskURL(url))
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxKeysBody+1))
	if err != nil {
		return fmt.Errorf("ask issuer %s for its keys: %w", k.issuer, err)
	}
	if len(raw) > maxKeysBody || json.Unmarshal(raw, into) != nil {
		return fmt.Errorf("ask issuer %s for its keys: the answer at %s is not JSON of at most 1 MiB", k.issuer, secret.MaskURL(url))
	}
	return nil
}

// errForeign says that a foreign token has another spelling than the one that was
// signed.
var errForeign = errors.New("the token is not base64url")

// said returns what a token says of itself before anybody has verified it.
func said(raw string) (jwt.Claims, bool) {
	var c jwt.Claims
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(raw) > maxToken {
		return c, false
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return c, false
	}
	return c, json.Unmarshal(body, &c) == nil
}

// parseForeign reads a token of one of some algorithms.
func parseForeign(raw string, algorithms []jose.SignatureAlgorithm) (*jwt.JSONWebToken, error) {
	for part := range strings.SplitSeq(raw, ".") {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return nil, errForeign
		}
	}
	token, err := jwt.ParseSigned(raw, algorithms)
	if err != nil {
		return nil, fmt.Errorf("parse token: %w", err)
	}
	if len(token.Headers) != 1 {
		return nil, errors.New("the token has more than one signature")
	}
	return token, nil
}

// verify checks the signature of a token of the issuer, its issuer and its times, and
// fills in what it says.
func (k *issuerKeys) verify(ctx context.Context, raw string, algorithms []jose.SignatureAlgorithm, into ...any) (jwt.Claims, error) {
	var c jwt.Claims
	token, err := parseForeign(raw, algorithms)
	if err != nil {
		return c, err
	}
	header := token.Headers[0]
	key, err := k.find(ctx, header.KeyID)
	if err != nil {
		return c, err
	}
	if key.Algorithm != "" && key.Algorithm != header.Algorithm {
		return c, fmt.Errorf("the key is for %s, and the token is signed with %s", key.Algorithm, header.Algorithm)
	}
	if err := token.Claims(key.Key, append(into, &c)...); err != nil {
		return c, fmt.Errorf("verify signature: %w", err)
	}
	if c.Issuer != k.issuer {
		return c, fmt.Errorf("the issuer is %.200q", c.Issuer)
	}
	return c, checkTimes(c)
}

var errExpired = errors.New("the token has expired")

// checkTimes checks the times of a foreign token. One that does not expire does not
// count.
func checkTimes(c jwt.Claims) error {
	now := time.Now()
	switch {
	case c.Expiry == nil:
		return errors.New("the token does not expire")
	case !now.Add(-clockSkew).Before(c.Expiry.Time()):
		return errExpired
	case c.NotBefore != nil && now.Add(clockSkew).Before(c.NotBefore.Time()), c.IssuedAt != nil && now.Add(clockSkew).Before(c.IssuedAt.Time()):
		return errors.New("the token is of the future")
	}
	return nil
}
