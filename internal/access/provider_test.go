package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const foreignIssuer = "https://idp.example/realms/a"

// idp is a foreign OpenID provider in memory.
type idp struct {
	mu       sync.Mutex
	issuer   string // in its discovery document
	keys     []jose.JSONWebKey
	asked    atomic.Int32
	down     bool
	document string // in place of the discovery document
}

func (p *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked.Add(1)
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r}
	body := func(v any) (*http.Response, error) {
		raw, err := json.Marshal(v)
		answer.Body = io.NopCloser(strings.NewReader(string(raw)))
		return answer, err
	}
	switch {
	case p.down:
		answer.StatusCode = http.StatusServiceUnavailable
		return body("down")
	case r.URL.String() == "https://idp.example/realms/a/.well-known/openid-configuration" && p.document != "":
		return body(json.RawMessage(p.document))
	case r.URL.String() == "https://idp.example/realms/a/.well-known/openid-configuration":
		return body(map[string]string{"issuer": p.issuer, "jwks_uri": "https://idp.example/keys"})
	case r.URL.String() == "https://idp.example/keys":
		return body(map[string]any{"keys": p.keys})
	}
	answer.StatusCode = http.StatusNotFound
	return body("nothing here")
}

// foreignKey is one key for all tests.
var foreignKey = sync.OnceValue(makeKey)

func newIDP(t testing.TB, list ...Provider) (*idp, *Providers) {
	t.Helper()
	p := &idp{issuer: foreignIssuer, keys: []jose.JSONWebKey{publicOf(foreignKey())}}
	providers, err := NewProviders(&http.Client{Transport: p}, list...)
	if err != nil {
		t.Fatal(err)
	}
	return p, providers
}

func publicOf(k *SigningKey) jose.JSONWebKey {
	return jose.JSONWebKey{Key: &k.private.PublicKey, KeyID: k.id, Algorithm: "RS256", Use: "sig"}
}

var keycloak = Provider{Issuer: foreignIssuer, Audiences: []string{"carillon"}, GroupPrefix: "kc:"}

// foreignToken signs what a provider says of Anna, with changes; nil takes a claim out.
func foreignToken(t testing.TB, key *SigningKey, change map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{
		"iss": foreignIssuer, "sub": "f:anna", "aud": []string{"account", "carillon"}, "iat": now, "exp": now + 300,
		"preferred_username": "anna", "groups": []string{"ops", "dev"}, "azp": "portal", "jti": "j1",
	}
	maps.Copy(claims, change)
	for name, v := range claims {
		if v == nil {
			delete(claims, name)
		}
	}
	text, err := key.sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return text.Reveal()
}

func TestForeignToken(t *testing.T) {
	w := newWorld(t)
	_, providers := newIDP(t, keycloak)
	tokens := w.over(t, ringOf(testKey()), providers)
	outer := w.group(t, "everybody")
	ops, err := w.directory.CreateGroup(t.Context(), "kc:ops", Caller{})
	if err != nil {
		t.Fatal(err)
	}
	w.group(t, "dev") // another issuer's, or nobody's: it has no prefix
	w.setMembers(t, outer.ObjectID, ops.ObjectID)
	token := foreignToken(t, foreignKey(), nil)
	for _, audiences := range []Audiences{tokens.Management(), tokens.Publishing()} {
		caller, err := tokens.Validate(t.Context(), token, audiences)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{ops.ObjectID, outer.ObjectID}
		slices.Sort(want)
		if caller.ObjectID != ForeignObjectID(foreignIssuer, "f:anna") || caller.Type != User || caller.Name != "anna" || caller.Issuer != foreignIssuer || caller.AppID != "" ||
			caller.TenantID != w.owner.TenantID || !slices.Equal(caller.Groups, want) || caller.TokenID != "j1" {
			t.Errorf("caller %+v", caller)
		}
		if w.strict.Allowed(caller, "Microsoft.EventGrid/topics/read", resource.Root) {
			t.Error("it may read without a role")
		}
	}
	if _, _, err := w.directory.Assign(t.Context(), Assignment{Name: "6c0d5a6e-0000-0000-0000-000000000001", Scope: resource.Root, RoleID: RoleOwner, PrincipalID: ops.ObjectID}, Caller{}); err != nil {
		t.Fatal(err)
	}
	caller, err := tokens.Validate(t.Context(), token, tokens.Management())
	if err != nil || !w.strict.Allowed(caller, "Microsoft.EventGrid/topics/read", resource.Root) {
		t.Errorf("the role of its group does not count: %+v, %v", caller, err)
	}
	if err := providers.list[foreignIssuer].keys.err; err != nil {
		t.Error(err)
	}
}

func TestForeignTokenRefused(t *testing.T) {
	w := newWorld(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	restricted := keycloak
	restricted.AllowedSubjects = []string{"f:anna", "repo:org/*"}
	p, providers := newIDP(t, restricted)
	p.keys = append(p.keys, jose.JSONWebKey{Key: &curve.PublicKey, KeyID: "ec", Use: "enc"})
	tokens := w.over(t, ringOf(testKey()), providers)
	now := time.Now()
	signed := func(change map[string]any) string { return foreignToken(t, foreignKey(), change) }
	sign := func(alg jose.SignatureAlgorithm, key any, kid string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
		if err != nil {
			t.Fatal(err)
		}
		text, err := jwt.Signed(signer).Claims(map[string]any{"iss": foreignIssuer, "sub": "f:anna", "aud": "carillon", "exp": now.Unix() + 300}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := signed(nil)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	own := *testKey()
	own.id = foreignKey().id
	tests := []struct{ name, token, code string }{
		{"wrong audience", signed(map[string]any{"aud": "account"}), "InvalidAuthenticationTokenAudience"},
		{"audience that begins like ours", signed(map[string]any{"aud": "carillon/"}), "InvalidAuthenticationTokenAudience"},
		{"no audience", signed(map[string]any{"aud": nil}), "InvalidAuthenticationTokenAudience"},
		{"issuer with a slash", signed(map[string]any{"iss": foreignIssuer + "/"}), "InvalidAuthenticationToken"},
		{"expired", signed(map[string]any{"exp": now.Add(-clockSkew - time.Second).Unix()}), "ExpiredAuthenticationToken"},
		{"never expires", signed(map[string]any{"exp": nil}), "InvalidAuthenticationToken"},
		{"of the future", signed(map[string]any{"nbf": now.Add(time.Hour).Unix()}), "InvalidAuthenticationToken"},
		{"no subject", signed(map[string]any{"sub": nil}), "InvalidAuthenticationToken"},
		{"subject is a number", signed(map[string]any{"sub": 1}), "InvalidAuthenticationToken"},
		{"subject not allowed", signed(map[string]any{"sub": "f:anna2"}), "InvalidAuthenticationToken"},
		{"none", none, "InvalidAuthenticationToken"},
		{"shared secret", sign(jose.HS256, []byte(strings.Repeat("k", 64)), foreignKey().id), "InvalidAuthenticationToken"},
		{"key of another algorithm", sign(jose.PS256, foreignKey().private, foreignKey().id), "InvalidAuthenticationToken"},
		{"key for encryption", sign(jose.ES256, curve, "ec"), "InvalidAuthenticationToken"},
		{"unknown key", sign(jose.RS256, testKey().private, "k2"), "InvalidAuthenticationToken"},
		{"our key under their id", foreignToken(t, &own, nil), "InvalidAuthenticationToken"},
		{"their key, our issuer", foreignToken(t, foreignKey(), map[string]any{"iss": tokens.Issuer(testOrigin, FaceV2), "oid": w.owner.ObjectID, "tid": w.owner.TenantID, "aud": AudienceManagement}), "InvalidAuthenticationToken"},
		{"tampered", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+foreignIssuer+`","sub":"f:ben","aud":"carillon","exp":99999999999}`)) + "." + parts[2], "InvalidAuthenticationToken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tokens.Validate(t.Context(), tt.token, tokens.Management())
			f := wantFault(t, err, fault.Unauthenticated, tt.code)
			if strings.Contains(f.Message, "subject") || strings.Contains(f.Message, "signature") {
				t.Errorf("the answer says why: %s", f.Message)
			}
		})
	}
	for _, subject := range []string{"f:anna", "repo:org/x"} {
		if _, err := tokens.Validate(t.Context(), signed(map[string]any{"sub": subject}), tokens.Management()); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
	}
	if n := p.asked.Load(); n > 2 {
		t.Errorf("the issuer was asked %d times within a minute", n)
	}
}

// Keys are fetched when they are needed, not with each token, and anew for an unknown id.
func TestForeignKeys(t *testing.T) {
	second := makeKey()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p, providers := newIDP(t, keycloak)
		tokens := w.over(t, ringOf(testKey()), providers)
		validate := func(key *SigningKey, good bool) {
			t.Helper()
			token := foreignToken(t, key, map[string]any{"jti": rand.Text()})
			if _, err := tokens.Validate(t.Context(), token, tokens.Management()); (err == nil) != good {
				t.Errorf("%v, want good %v", err, good)
			}
		}
		asked := func(want int32) {
			t.Helper()
			if n := p.asked.Load(); n != want {
				t.Errorf("asked %d times, want %d", n, want)
			}
		}
		asked(0)
		for range 3 {
			validate(foreignKey(), true)
		}
		asked(2) // document and keys
		for range 3 {
			validate(second, false)
		}
		asked(2) // not again within a minute
		time.Sleep(keysAgain)
		p.keys = append(p.keys, publicOf(second))
		validate(second, true)
		asked(4)
		p.down = true
		time.Sleep(keysFresh)
		validate(foreignKey(), true) // the ones that are known count while it does not answer
		asked(5)
		validate(second, true)
		asked(5)
		time.Sleep(keysUsable)
		validate(foreignKey(), false)
		p.down = false
		time.Sleep(keysAgain)
		validate(foreignKey(), true)
		p.keys = p.keys[1:]
		time.Sleep(keysFresh)
		validate(foreignKey(), false) // withdrawn
		validate(second, true)
		p.document = `{"issuer":"https://other.example","jwks_uri":"https://idp.example/keys"}`
		time.Sleep(keysUsable)
		validate(second, false)
	})
}

func TestNewProvidersRefuses(t *testing.T) {
	for name, change := range map[string]func(*Provider){
		"http":             func(p *Provider) { p.Issuer = "http://idp.example" },
		"query":            func(p *Provider) { p.Issuer += "?x" },
		"no audience":      func(p *Provider) { p.Audiences = nil },
		"empty audience":   func(p *Provider) { p.Audiences = []string{""} },
		"shared secret":    func(p *Provider) { p.Algorithms = []string{"HS256"} },
		"none":             func(p *Provider) { p.Algorithms = []string{"none"} },
		"keys over http":   func(p *Provider) { p.JWKSURI = "http://idp.example/keys" },
		"group":            func(p *Provider) { p.PrincipalType = Group },
		"star in a middle": func(p *Provider) { p.AllowedSubjects = []string{"a*b"} },
	} {
		t.Run(name, func(t *testing.T) {
			p := keycloak
			change(&p)
			if _, err := NewProviders(nil, p); err == nil {
				t.Error("taken")
			}
		})
	}
	if _, err := NewProviders(nil, keycloak, keycloak); err == nil {
		t.Error("one issuer is taken twice")
	}
	w := newWorld(t)
	_, providers := newIDP(t, Provider{Issuer: w.tokens.Issuer(testOrigin, FaceV2), Audiences: []string{"x"}})
	if _, err := NewTokens(ringOf(testKey()), w.directory, TokensConfig{TenantID: w.owner.TenantID, Origins: []string{testOrigin}, Providers: providers}); err == nil {
		t.Error("our own issuer is taken for a foreign one")
	}
}

func TestOpenProviders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "providers.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("providers:\n- issuer: https://idp.example/realms/a\n  audiences: [carillon]\n  claims: {subject: oid}\n- issuer: https://token.actions.githubusercontent.com\n  audiences: [carillon]\n  principalType: ServicePrincipal\n  allowedSubjects: ['repo:org/app:*']\n")
	p, err := OpenProviders(path, nil)
	if err != nil || !slices.Equal(p.Issuers(), []string{foreignIssuer, "https://token.actions.githubusercontent.com"}) {
		t.Errorf("%v, %v", p, err)
	}
	write("providers:\n- issuer: https://idp.example\n  audience: carillon\n")
	if _, err := OpenProviders(path, nil); err == nil || !strings.Contains(err.Error(), "audience") {
		t.Errorf("mistyped member: %v", err)
	}
	if p, err := OpenProviders("", nil); err != nil || len(p.Issuers()) != 0 {
		t.Errorf("none: %v, %v", p, err)
	}
}

// certificateOf is a certificate of a key.
func certificateOf(t *testing.T, key *SigningKey, until time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ci"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.private.PublicKey, key.private)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateAssertion(t *testing.T) {
	w := newWorld(t)
	ci, _, err := w.directory.CreatePrincipal(t.Context(), "ci", Caller{})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := testOrigin + "/" + w.owner.TenantID + "/oauth2/v2.0/token"
	assertion := func(key *SigningKey, change map[string]any) string {
		all := map[string]any{"iss": ci.AppID, "sub": ci.AppID, "aud": endpoint}
		maps.Copy(all, change)
		return foreignToken(t, key, all)
	}
	if err := w.tokens.VerifyAssertion(t.Context(), ci, assertion(foreignKey(), nil)); err == nil {
		t.Fatal("an assertion counts without a certificate")
	}
	if ci, err = w.directory.AddCertificate(t.Context(), ci.ObjectID, certificateOf(t, foreignKey(), time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"good": assertion(foreignKey(), nil), "common": assertion(foreignKey(), map[string]any{"aud": testOrigin + "/common/oauth2/v2.0/token"}),
		"issuer as audience": assertion(foreignKey(), map[string]any{"aud": w.tokens.Issuer(testOrigin, FaceV2)}),
	} {
		if err := w.tokens.VerifyAssertion(t.Context(), ci, raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, raw := range map[string]string{
		"another key":       assertion(testKey(), nil),
		"another subject":   assertion(foreignKey(), map[string]any{"sub": w.owner.AppID}),
		"another server":    assertion(foreignKey(), map[string]any{"aud": "https://login.microsoftonline.com/x/oauth2/v2.0/token"}),
		"expired":           assertion(foreignKey(), map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}),
		"lives long":        assertion(foreignKey(), map[string]any{"exp": time.Now().Add(48 * time.Hour).Unix()}),
		"no token":          "x",
		"another principal": foreignToken(t, foreignKey(), map[string]any{"iss": w.owner.AppID, "sub": w.owner.AppID, "aud": endpoint}),
	} {
		if err := w.tokens.VerifyAssertion(t.Context(), ci, raw); err == nil {
			t.Errorf("%s counts", name)
		}
	}
	token := w.tokens.forTest(t, ci)
	if ci, err = w.directory.RemoveCredential(t.Context(), ci.ObjectID, ci.Certificates[0].ID()); err != nil {
		t.Fatal(err)
	}
	if err := w.tokens.VerifyAssertion(t.Context(), ci, assertion(foreignKey(), nil)); err == nil {
		t.Error("a certificate that was removed counts")
	}
	if _, err := w.tokens.Validate(t.Context(), token, w.tokens.Management()); err == nil {
		t.Error("its tokens hold")
	}
	if _, err := w.directory.AddCertificate(t.Context(), ci.ObjectID, certificateOf(t, foreignKey(), time.Now().Add(-time.Minute))); err == nil {
		t.Error("an expired certificate is taken")
	}
}

func TestFederatedCredential(t *testing.T) {
	w := newWorld(t)
	p, providers := newIDP(t)
	tokens := w.over(t, ringOf(testKey()), providers)
	ci, _, err := w.directory.CreatePrincipal(t.Context(), "ci", Caller{})
	if err != nil {
		t.Fatal(err)
	}
	assertion := func(change map[string]any) string {
		all := map[string]any{"sub": "system:serviceaccount:prod:trainer", "aud": FederatedAudience}
		maps.Copy(all, change)
		return foreignToken(t, foreignKey(), all)
	}
	if err := tokens.VerifyAssertion(t.Context(), ci, assertion(nil)); err == nil || p.asked.Load() != 0 {
		t.Fatalf("%v; asked %d times on the word of a stranger", err, p.asked.Load())
	}
	ci, err = w.directory.PutFederated(t.Context(), ci.ObjectID, FederatedCredential{Name: "prod", Issuer: foreignIssuer, Subject: "system:serviceaccount:prod:trainer"})
	if err != nil {
		t.Fatal(err)
	}
	if err := tokens.VerifyAssertion(t.Context(), ci, assertion(nil)); err != nil {
		t.Error(err)
	}
	for name, raw := range map[string]string{
		"subject":  assertion(map[string]any{"sub": "system:serviceaccount:prod:trainer2"}),
		"audience": assertion(map[string]any{"aud": "carillon"}),
		"issuer":   assertion(map[string]any{"iss": foreignIssuer + "/"}),
		"expired":  assertion(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}),
		"key":      foreignToken(t, testKey(), map[string]any{"sub": "system:serviceaccount:prod:trainer", "aud": FederatedAudience}),
	} {
		err := tokens.VerifyAssertion(t.Context(), ci, raw)
		if err == nil || !err.(*AssertionProblem).Federated {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tokens.Validate(t.Context(), assertion(nil), tokens.Management()); err == nil {
		t.Error("the token of the workload opens the management plane itself")
	}
	if ci, err = w.directory.RemoveFederated(t.Context(), ci.ObjectID, "PROD"); err != nil {
		t.Fatal(err)
	}
	if err := tokens.VerifyAssertion(t.Context(), ci, assertion(nil)); err == nil {
		t.Error("a credential that was removed counts")
	}
	for name, c := range map[string]FederatedCredential{
		"name": {Name: "a/b", Issuer: foreignIssuer, Subject: "s"}, "http": {Name: "a", Issuer: "http://idp.example", Subject: "s"}, "no subject": {Name: "a", Issuer: foreignIssuer},
	} {
		if _, err := w.directory.PutFederated(t.Context(), ci.ObjectID, c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Two client secrets overlap; the one that is removed or has expired counts no more.
func TestSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWorld(t, &memoryKV{entries: map[string]engine.Change{}}, t.TempDir())
		ci, first, err := w.directory.CreatePrincipal(t.Context(), "ci", Caller{})
		if err != nil {
			t.Fatal(err)
		}
		ci, second, err := w.directory.AddSecret(t.Context(), ci.ObjectID, time.Now().Add(time.Hour))
		if err != nil || !ci.HasSecret(first) || !ci.HasSecret(second) {
			t.Fatalf("%v", err)
		}
		_, _, err = w.directory.AddSecret(t.Context(), ci.ObjectID, time.Time{})
		wantFault(t, err, fault.Conflict, "TooManyCredentials")
		if ci, err = w.directory.RemoveCredential(t.Context(), ci.ObjectID, ci.Secrets[0].ID()); err != nil || ci.HasSecret(first) || !ci.HasSecret(second) {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Hour) // fake time
		if ci.HasSecret(second) {
			t.Error("an expired secret counts")
		}
		if ci, _, err = w.directory.AddSecret(t.Context(), ci.ObjectID, time.Time{}); err != nil || len(ci.Secrets) != 1 {
			t.Errorf("%d secrets, %v", len(ci.Secrets), err)
		}
		_, err = w.directory.RemoveCredential(t.Context(), ci.ObjectID, "x")
		wantFault(t, err, fault.NotFound, "CredentialNotFound")
	})
}

// Whatever a foreign token holds, nobody gets in by it who is not signed for.
func FuzzForeignToken(f *testing.F) {
	w := newWorld(f)
	_, providers := newIDP(f, keycloak)
	tokens, err := NewTokens(ringOf(testKey()), w.directory, TokensConfig{TenantID: w.owner.TenantID, Origins: []string{testOrigin}, Providers: providers})
	if err != nil {
		f.Fatal(err)
	}
	good := foreignToken(f, foreignKey(), map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
	ci, _, err := w.directory.CreatePrincipal(f.Context(), "ci", Caller{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"RS256","jwk":{}}`, `{"alg":"RS256","crit":["x"],"x":1}`, `{"alg":"RS256","x5c":["AA=="]}`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(header)) + good[strings.Index(good, "."):])
	}
	issued := tokens.forTest(f, ci)
	f.Add(issued)
	f.Fuzz(func(t *testing.T, raw string) {
		caller, err := tokens.Validate(t.Context(), raw, tokens.Management())
		if err == nil && raw != good && raw != issued {
			t.Errorf("%q is taken for %+v", raw, caller)
		}
		if err := tokens.VerifyAssertion(t.Context(), ci, raw); err == nil {
			t.Errorf("%q is taken for an assertion", raw)
		}
	})
}
