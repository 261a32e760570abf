package consumer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
)

// issuer is an issuer of tokens.
type issuer struct {
	*httptest.Server
	mu    sync.Mutex
	keys  map[string]*ecdsa.PrivateKey // that are published
	asked int
	down  bool
	says  string // in place of its name; "" for that
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{keys: map[string]*ecdsa.PrivateKey{}}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		switch {
		case i.down:
			http.Error(w, "down", http.StatusServiceUnavailable)
		case r.URL.Path == "/t/.well-known/openid-configuration":
			name := i.says
			if name == "" {
				name = i.URL + "/t"
			}
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, name, i.URL+"/keys")
		case r.URL.Path == "/keys":
			i.asked++
			set := map[string]any{}
			keys := []any{map[string]any{"kty": "of the future"}}
			for id, key := range i.keys {
				keys = append(keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
			}
			set["keys"] = keys
			_ = json.NewEncoder(w).Encode(set)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// token makes a token that is good but for the changes; a nil value removes a claim.
func (i *issuer) token(t *testing.T, id string, key *ecdsa.PrivateKey, now time.Time, change map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": i.URL + "/t", "aud": "api://hook", "exp": now.Add(time.Hour).Unix(), "nbf": now.Unix(), "appid": "sender"}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id))
	if err != nil {
		t.Fatal(err)
	}
	return serialized(t, signer, claims)
}

func serialized(t *testing.T, signer jose.Signer, claims map[string]any) string {
	t.Helper()
	raw, _ := json.Marshal(claims)
	signed, err := signer.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBearerToken(t *testing.T) {
	i, now := newIssuer(t), time.Now()
	key, stranger := newKey(t), newKey(t)
	i.keys["k1"] = key
	token := func(change map[string]any) string { return i.token(t, "k1", key, now, change) }
	shared, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, authorization string
		status              int
	}{
		{"good", "Bearer " + token(nil), 200},
		{"scheme in small letters", "bearer " + token(nil), 200},
		{"one of several audiences", "Bearer " + token(map[string]any{"aud": []string{"x", "api://hook"}}), 200},
		{"caller in azp", "Bearer " + token(map[string]any{"appid": nil, "azp": "Sender"}), 200},
		{"none", "", 401},
		{"another scheme", "Basic " + token(nil), 401},
		{"no token", "Bearer x", 401},
		{"another issuer", "Bearer " + token(map[string]any{"iss": "https://other"}), 401},
		{"another audience", "Bearer " + token(map[string]any{"aud": "api://other"}), 401},
		{"no audience", "Bearer " + token(map[string]any{"aud": nil}), 401},
		{"over", "Bearer " + token(map[string]any{"exp": now.Add(-2 * time.Minute).Unix()}), 401},
		{"without an end", "Bearer " + token(map[string]any{"exp": nil}), 401},
		{"not yet good", "Bearer " + token(map[string]any{"nbf": now.Add(2 * time.Minute).Unix()}), 401},
		{"another caller", "Bearer " + token(map[string]any{"appid": "other"}), 401},
		{"another caller, the right one in azp", "Bearer " + token(map[string]any{"appid": "other", "azp": "sender"}), 401},
		{"no caller", "Bearer " + token(map[string]any{"appid": nil}), 401},
		{"another key", "Bearer " + i.token(t, "k1", stranger, now, nil), 401},
		{"a shared key", "Bearer " + serialized(t, shared, map[string]any{"iss": i.URL + "/t", "aud": "api://hook", "exp": now.Add(time.Hour).Unix(), "appid": "sender"}), 401},
		{"not signed", "Bearer eyJhbGciOiJub25lIn0.e30.", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			option := consumer.BearerToken(consumer.Token{Issuer: i.URL + "/t", Audience: []string{"api://hook"}, Callers: []string{"sender"}, Client: i.Client()})
			d, v, o := checked(t, option, func(s *consumertest.Sender) { s.Header.Set("Authorization", c.authorization) })
			if d != c.status || v != c.status || o != c.status {
				t.Errorf("answered %d, %d, %d", d, v, o)
			}
		})
	}
}

// TestIssuerKeys keeps keys, asks again for those it does not know, not too often, and loses
// nothing while the issuer is away.
func TestIssuerKeys(t *testing.T) {
	i := newIssuer(t)
	k1, k2, k3 := newKey(t), newKey(t), newKey(t)
	i.keys["k1"] = k1
	now := time.Now()
	h := newHandler(t, consumer.On((&seen{}).completed), consumer.BearerToken(consumer.Token{Issuer: i.URL + "/t", Audience: []string{"api://hook"}, Client: i.Client()}))
	consumer.SetNow(h, func() time.Time { return now })
	source := consumertest.NewSource(workspace)
	for n, step := range []struct {
		after  time.Duration
		change func()
		kid    string
		key    *ecdsa.PrivateKey
		status int
		asked  int
	}{
		{0, func() { i.down = true }, "k1", k1, 503, 0},
		{time.Second, func() { i.down = false }, "k1", k1, 503, 0}, // not asked again at once
		{time.Minute, func() {}, "k1", k1, 200, 1},
		{time.Second, func() { i.keys["k2"] = k2 }, "k2", k2, 503, 1}, // it was asked a moment ago, and not for this one
		{time.Minute, func() {}, "k2", k2, 200, 2},
		{time.Second, func() {}, "k1", k1, 200, 2},
		{time.Minute, func() {}, "made up", k3, 401, 3}, // a stranger
		{time.Second, func() { i.keys["k3"] = k3 }, "k3", k3, 503, 3},
		{time.Second, func() {}, "made up", k3, 503, 3},
		{time.Minute, func() {}, "k3", k3, 200, 4},
		{2 * time.Hour, func() { delete(i.keys, "k1") }, "k1", k1, 401, 5},
		{2 * time.Hour, func() { i.down = true }, "k2", k2, 200, 5}, // it is away, and its keys are good for a day
		{time.Second, func() {}, "k4", k1, 503, 5},                  // perhaps it has this one now
		{25 * time.Hour, func() {}, "k2", k2, 503, 5},
		{2 * time.Minute, func() { i.down, i.says = false, "https://other" }, "k2", k2, 503, 5},
		{2 * time.Minute, func() { i.says = "" }, "k2", k2, 200, 6},
	} {
		now = now.Add(step.after)
		i.set(step.change)
		a := send(t, &consumertest.Sender{Handler: h, Header: http.Header{"Authorization": {"Bearer " + i.token(t, step.kid, step.key, now, nil)}}}, source.Event(run(fmt.Sprint(n))))
		if i.set(func() {}); a.Status != step.status || i.asked != step.asked {
			t.Errorf("step %d: answered %d, asked %d times", n, a.Status, i.asked)
		}
	}
	// Many at once ask once.
	fresh := newHandler(t, consumer.On((&seen{}).completed), consumer.BearerToken(consumer.Token{Issuer: "a name", KeysURL: i.URL + "/keys", Audience: []string{"api://hook"}, Client: i.Client()}))
	var all sync.WaitGroup
	for n := range 20 {
		one := source.Event(run(fmt.Sprint("many", n)))
		authorization := "Bearer " + i.token(t, "k2", k2, time.Now(), map[string]any{"iss": "a name"})
		all.Go(func() {
			if a := send(t, &consumertest.Sender{Handler: fresh, Header: http.Header{"Authorization": {authorization}}}, one); a.Status != 200 {
				t.Errorf("answered %d", a.Status)
			}
		})
	}
	all.Wait()
	if i.asked != 7 {
		t.Errorf("20 requests asked for the keys %d times", i.asked-6)
	}
}

// TestKeysInClear follows a redirect over TLS and none to clear HTTP, whatever the client does.
func TestKeysInClear(t *testing.T) {
	i := newIssuer(t)
	key := newKey(t)
	i.keys["k1"] = key
	clear := httptest.NewServer(i.Config.Handler)
	defer clear.Close()
	for _, c := range []struct {
		to     string
		status int
	}{{i.URL, 200}, {clear.URL, 503}} {
		redirects := httptest.NewUnstartedServer(http.RedirectHandler(c.to+"/keys", http.StatusFound))
		redirects.StartTLS()
		defer redirects.Close()
		follows := *i.Client()
		follows.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
		for _, client := range []*http.Client{i.Client(), &follows} {
			h := newHandler(t, consumer.On((&seen{}).completed),
				consumer.BearerToken(consumer.Token{Issuer: i.URL + "/t", KeysURL: redirects.URL, Audience: []string{"api://hook"}, Client: client}))
			authorization := "Bearer " + i.token(t, "k1", key, time.Now(), nil)
			if a := send(t, &consumertest.Sender{Handler: h, Header: http.Header{"Authorization": {authorization}}}, consumertest.NewSource(workspace).Event(run("1"))); a.Status != c.status {
				t.Errorf("redirected to %s: answered %d", c.to, a.Status)
			}
		}
	}
	if i.asked != 2 {
		t.Errorf("the keys were read %d times", i.asked)
	}
}
