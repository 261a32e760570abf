package access

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// body returns the claims of a token as they are written.
func body(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Terraform takes tokens apart by hand and wants whole numbers.
// Source: spec/access.md section 2.1.
func TestTokenClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.principal(t, "ci")
		token := w.token(t, c)
		header, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
		if err != nil {
			t.Fatal(err)
		}
		var h map[string]string
		if err := json.Unmarshal(header, &h); err != nil || len(h) != 3 || h["alg"] != "RS256" || h["typ"] != "JWT" || h["kid"] != testKey().ID() {
			t.Errorf("header %s, %v", header, err)
		}
		got := body(t, token)
		now := float64(time.Now().Unix())
		want := map[string]any{
			"aud": "https://management.azure.com", "iss": testOrigin + "/" + w.owner.TenantID + "/v2.0",
			"iat": now, "nbf": now, "exp": now + 3600, "oid": c.ObjectID, "sub": c.ObjectID, "tid": w.owner.TenantID,
			"appid": c.AppID, "azp": c.AppID, "idtyp": "app", "name": "ci", "ver": "2.0", "uti": got["uti"], "jti": got["uti"],
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("claims %v\nwant   %v", got, want)
		}
		if id, _ := got["uti"].(string); len(id) != 36 {
			t.Errorf("unique id %q", id)
		}
	})
}

func TestIssuers(t *testing.T) {
	w := newWorld(t)
	p, _ := w.directory.Principal(w.owner.ObjectID)
	for face, want := range map[Face]string{FaceV2: "/" + w.owner.TenantID + "/v2.0", FaceV1: "/" + w.owner.TenantID + "/", FaceADFS: "/adfs"} {
		for _, origin := range w.tokens.Origins() {
			issuer := w.tokens.Issuer(origin, face)
			if issuer != origin+want {
				t.Errorf("issuer %s, want %s", issuer, origin+want)
			}
			issued, err := w.tokens.Issue(Grant{Principal: p, Audience: AudienceManagement, Issuer: issuer, Lifetime: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.tokens.Validate(t.Context(), issued.Token.Reveal(), w.tokens.Management()); err != nil {
				t.Errorf("token of %s: %v", issuer, err)
			}
		}
	}
	if _, err := w.tokens.Issue(Grant{Principal: p, Audience: AudienceManagement, Issuer: "https://evil.example/x/v2.0", Lifetime: time.Hour}); err == nil {
		t.Error("a token of a foreign issuer was made")
	}
	if _, err := NewTokens(ringOf(testKey()), w.directory, TokensConfig{TenantID: w.owner.TenantID}); err == nil {
		t.Error("no origin is no error")
	}
}

func TestAudiences(t *testing.T) {
	w := newWorld(t)
	p, _ := w.directory.Principal(w.owner.ObjectID)
	tests := []struct {
		audience            string
		management, publish bool
	}{
		{"https://management.azure.com", true, false},
		{"https://management.azure.com/", true, false},
		{"https://MANAGEMENT.azure.com/", true, false},
		{"https://management.core.windows.net", true, false},
		{"https://management.core.windows.net/", true, false},
		{"https://management.core.windows.net//", false, false},
		{testOrigin, true, false},
		{testOrigin + "/", true, false},
		{"https://localhost:8443", true, false},
		{testOrigin + "/graph", false, false},
		{"https://grid.example", false, false},
		{"https://eventgrid.azure.net", false, true},
		{"https://eventgrid.azure.net/", false, true},
		{"", false, false},
		{"/", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.audience, func(t *testing.T) {
			issued, err := w.tokens.Issue(Grant{Principal: p, Audience: tt.audience, Issuer: w.tokens.Issuer(testOrigin, FaceV2), Lifetime: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second answer may come from the cache
				for name, c := range map[string]struct {
					set  Audiences
					want bool
				}{"management": {w.tokens.Management(), tt.management}, "publishing": {w.tokens.Publishing(), tt.publish}} {
					_, err := w.tokens.Validate(t.Context(), issued.Token.Reveal(), c.set)
					if c.want && err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if !c.want {
						wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationTokenAudience")
					}
				}
			}
		})
	}
}

// forge signs whatever it is given.
func forge(t *testing.T, key any, algorithm jose.SignatureAlgorithm, kid string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	object, err := signer.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// plainToken joins a header and claims with a signature made of both.
func plainToken(header string, claims map[string]any, sign func(input string) []byte) string {
	raw, _ := json.Marshal(claims)
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(raw)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(input))
}

func TestValidateRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24 * time.Hour) // fake time, so that there is a yesterday
		w := newWorld(t)
		c := w.principal(t, "ci")
		good := w.token(t, c)
		now := time.Now().Unix()
		key := testKey()
		with := func(changes map[string]any) map[string]any {
			m := body(t, good)
			for name, v := range m { // whole numbers again
				if n, ok := v.(float64); ok {
					m[name] = int64(n)
				}
			}
			for name, v := range changes {
				if v == nil {
					delete(m, name)
				} else {
					m[name] = v
				}
			}
			return m
		}
		signed := func(changes map[string]any) string {
			return forge(t, key.private, jose.RS256, key.id, with(changes))
		}
		stranger, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		publicDER, err := x509.MarshalPKIXPublicKey(&key.private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
		hs256 := func(secret []byte) string {
			return plainToken(`{"alg":"HS256","typ":"JWT","kid":"`+key.id+`"}`, with(nil), func(input string) []byte {
				mac := hmac.New(sha256.New, secret)
				mac.Write([]byte(input))
				return mac.Sum(nil)
			})
		}
		parts := strings.Split(good, ".")
		other := strings.Split(w.token(t, w.ownerCaller(t)), ".")
		nothing := func(string) []byte { return nil }
		tests := []struct{ name, token, code string }{
			{"empty", "", "InvalidAuthenticationToken"},
			{"no JWT", "hello", "InvalidAuthenticationToken"},
			{"two parts", parts[0] + "." + parts[1], "InvalidAuthenticationToken"},
			{"four parts", good + ".x", "InvalidAuthenticationToken"},
			{"too long", good + strings.Repeat("A", maxToken), "InvalidAuthenticationToken"},
			{"claims of another token", parts[0] + "." + other[1] + "." + parts[2], "InvalidAuthenticationToken"},
			{"signature of another token", parts[0] + "." + parts[1] + "." + other[2], "InvalidAuthenticationToken"},
			{"no signature", parts[0] + "." + parts[1] + ".", "InvalidAuthenticationToken"},
			{"altered claims", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"oid":"`+w.owner.ObjectID+`"}`)) + "." + parts[2], "InvalidAuthenticationToken"},
			{"alg none", plainToken(`{"alg":"none","typ":"JWT","kid":"`+key.id+`"}`, with(nil), nothing), "InvalidAuthenticationToken"},
			{"alg None", plainToken(`{"alg":"None","kid":"`+key.id+`"}`, with(nil), nothing), "InvalidAuthenticationToken"},
			{"no alg", plainToken(`{"kid":"`+key.id+`"}`, with(nil), nothing), "InvalidAuthenticationToken"},
			{"HS256 with the public key in PEM", hs256(publicPEM), "InvalidAuthenticationToken"},
			{"HS256 with the public key in DER", hs256(publicDER), "InvalidAuthenticationToken"},
			{"PS256", forge(t, key.private, jose.PS256, key.id, with(nil)), "InvalidAuthenticationToken"},
			{"RS512", forge(t, key.private, jose.RS512, key.id, with(nil)), "InvalidAuthenticationToken"},
			{"another key under our key id", forge(t, stranger, jose.RS256, key.id, with(nil)), "InvalidAuthenticationToken"},
			{"unknown key id", forge(t, key.private, jose.RS256, "k2", with(nil)), "InvalidAuthenticationToken"},
			{"no key id", forge(t, key.private, jose.RS256, "", with(nil)), "InvalidAuthenticationToken"},
			{"unknown issuer", signed(map[string]any{"iss": "https://evil.example/" + w.owner.TenantID + "/v2.0"}), "InvalidAuthenticationToken"},
			{"issuer with a slash more", signed(map[string]any{"iss": testOrigin + "/" + w.owner.TenantID + "/v2.0/"}), "InvalidAuthenticationToken"},
			{"no issuer", signed(map[string]any{"iss": nil}), "InvalidAuthenticationToken"},
			{"expired", signed(map[string]any{"exp": now - 301}), "ExpiredAuthenticationToken"},
			{"expired by the skew", signed(map[string]any{"exp": now - 300}), "ExpiredAuthenticationToken"},
			{"no expiry", signed(map[string]any{"exp": nil}), "ExpiredAuthenticationToken"},
			{"of the future", signed(map[string]any{"nbf": now + 301}), "InvalidAuthenticationToken"},
			{"issued in the future", signed(map[string]any{"iat": now + 301}), "InvalidAuthenticationToken"},
			{"issued before the principal", signed(map[string]any{"iat": now - 1}), "InvalidAuthenticationToken"},
			{"never issued", signed(map[string]any{"iat": nil}), "InvalidAuthenticationToken"},
			{"audiences in a list", signed(map[string]any{"aud": []string{AudienceManagement}}), "InvalidAuthenticationToken"},
			{"no audience", signed(map[string]any{"aud": nil}), "InvalidAuthenticationTokenAudience"},
			{"another audience", signed(map[string]any{"aud": "https://graph.microsoft.com"}), "InvalidAuthenticationTokenAudience"},
			{"another tenant", signed(map[string]any{"tid": "00000000-0000-0000-0000-000000000001"}), "InvalidAuthenticationTokenTenant"},
			{"no tenant", signed(map[string]any{"tid": nil}), "InvalidAuthenticationTokenTenant"},
			{"unknown principal", signed(map[string]any{"oid": "00000000-0000-0000-0000-000000000001"}), "InvalidAuthenticationToken"},
			{"no principal", signed(map[string]any{"oid": nil}), "InvalidAuthenticationToken"},
		}
		if _, err := w.tokens.Validate(t.Context(), good, w.tokens.Management()); err != nil {
			t.Fatal(err)
		}
		for _, ok := range []map[string]any{{"exp": now - 299}, {"nbf": now + 299}, {"iat": now + 299}} {
			if _, err := w.tokens.Validate(t.Context(), signed(ok), w.tokens.Management()); err != nil {
				t.Errorf("within the skew, %v: %v", ok, err)
			}
		}
		var log bytes.Buffer
		logger := slog.New(slog.NewJSONHandler(&log, nil))
		for _, tt := range tests {
			for range 2 {
				caller, err := w.tokens.Validate(t.Context(), tt.token, w.tokens.Management())
				f, ok := errors.AsType[*fault.Error](err)
				if !ok || f.Kind != fault.Unauthenticated || f.Code != tt.code || caller.ObjectID != "" {
					t.Errorf("%s: %+v, %v; want code %s", tt.name, caller, err, tt.code)
					continue
				}
				if slices.Contains([]string{"unknown key id", "no key id", "issued before the principal", "never issued"}, tt.name) { // a client that holds it is to fetch another one
					again := regexp.MustCompile(`^Bearer authorization_uri="` + testOrigin + "/" + w.owner.TenantID + `", error="insufficient_claims", error_description="` + f.Message + `", claims="([A-Za-z0-9+/=]+)"$`).FindStringSubmatch(f.Challenge)
					if again == nil {
						t.Errorf("%s: challenge %s", tt.name, f.Challenge)
						continue
					}
					if said, err := base64.StdEncoding.DecodeString(again[1]); err != nil || !strings.HasPrefix(string(said), `{"access_token":{"nbf":{"essential":true,"value":"`) {
						t.Errorf("%s: claims %s, %v", tt.name, said, err)
					}
					continue
				}
				wantChallenge := `Bearer authorization_uri="` + testOrigin + "/" + w.owner.TenantID + `", error="invalid_token", error_description="` + f.Message + `"`
				if f.Challenge != wantChallenge || strings.Count(f.Challenge, `"`) != 6 {
					t.Errorf("%s: challenge %s", tt.name, f.Challenge)
				}
				if strings.Contains(f.Message, "signature") {
					t.Errorf("%s: the message says why: %s", tt.name, f.Message)
				}
				logger.Info("refused", "error", err)
				if len(tt.token) > 20 && strings.Contains(err.Error()+log.String(), tt.token[len(tt.token)-20:]) {
					t.Errorf("%s: the token is in the error", tt.name)
				}
			}
		}
	})
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.principal(t, "ci")
		token := w.token(t, c)
		for age := time.Duration(0); age < TokenLifetime+clockSkew; age += 90 * time.Second {
			got, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
			if err != nil || got.ObjectID != c.ObjectID || got.AppID != c.AppID || got.Name != "ci" || got.Type != ServicePrincipal || got.TokenID == "" {
				t.Fatalf("after %s: %+v, %v", age, got, err)
			}
			time.Sleep(90 * time.Second) // fake time
		}
		_, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
		wantFault(t, err, fault.Unauthenticated, "ExpiredAuthenticationToken")
	})
}

// The cache holds no result for longer than five minutes or past a change.
func TestTokenCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		token := w.token(t, w.ownerCaller(t))
		validate := func() {
			t.Helper()
			if _, err := w.tokens.Validate(t.Context(), token, w.tokens.Management()); err != nil {
				t.Fatal(err)
			}
		}
		validate()
		if len(w.tokens.cache) != 1 {
			t.Fatalf("%d results in the cache", len(w.tokens.cache))
		}
		for _, c := range w.tokens.cache {
			if got := time.Until(c.until); got != cacheTime {
				t.Errorf("kept for %s", got)
			}
		}
		time.Sleep(58 * time.Minute) // fake time
		validate()
		for _, c := range w.tokens.cache {
			if got := time.Until(c.until); got != 2*time.Minute {
				t.Errorf("kept for %s, the token lives for 2m", got)
			}
		}
		w.principal(t, "other")
		if len(w.tokens.cache) != 0 {
			t.Error("a change of a principal leaves results in the cache")
		}
		// A result found before a change does not enter the cache after it.
		w.tokens.remember([32]byte{1}, w.tokens.generation-1, cached{})
		if len(w.tokens.cache) != 0 {
			t.Error("an old result entered the cache")
		}
		for i := range cacheEntries + 1 {
			w.tokens.remember([32]byte{byte(i), byte(i >> 8), 1}, w.tokens.generation, cached{})
		}
		if n := len(w.tokens.cache); n == 0 || n > cacheEntries {
			t.Errorf("%d results in the cache", n)
		}
	})
}

func TestAuthenticate(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.ownerCaller(t))
	tests := []struct {
		name    string
		headers []string
		code    string
		message string
	}{
		{"good", []string{"Bearer " + token}, "", ""},
		{"scheme in another case", []string{"bearer  " + token + " "}, "", ""},
		{"missing", nil, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."},
		{"twice", []string{"Bearer " + token, "Bearer " + token}, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is given more than once."},
		{"basic", []string{"Basic " + token}, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is not of the scheme 'Bearer'."},
		{"no scheme", []string{token}, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is not of the scheme 'Bearer'."},
		{"only the scheme", []string{"Bearer"}, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is not of the scheme 'Bearer'."},
		{"empty", []string{""}, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is not of the scheme 'Bearer'."},
		{"too long", []string{"Bearer " + strings.Repeat("a", maxToken+1)}, "InvalidAuthenticationToken", "The access token is too long."},
		{"list", []string{"Bearer " + token + ", Bearer " + token}, "InvalidAuthenticationToken", "The access token is invalid."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/subscriptions", nil)
			r.AddCookie(&http.Cookie{Name: "session", Value: token})
			r.Header["Authorization"] = tt.headers
			caller, err := w.tokens.Authenticate(r)
			if tt.code == "" {
				if err != nil || caller.ObjectID != w.owner.ObjectID {
					t.Errorf("%+v, %v", caller, err)
				}
				return
			}
			if f := wantFault(t, err, fault.Unauthenticated, tt.code); f.Message != tt.message {
				t.Errorf("message %q, want %q", f.Message, tt.message)
			}
		})
	}
}

// The whole answer to a request without a token. Source: spec/access.md section 5.
func TestUnauthenticatedAnswer(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	m := telemetry.NewMiddleware(slog.New(slog.NewJSONHandler(&log, nil)), fault.Write)
	h := m.Wrap(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, err := w.tokens.Authenticate(r); err != nil {
			fault.Write(rw, r, err)
		}
	}))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/subscriptions", nil))
	const want = `{"error":{"code":"AuthenticationFailed","message":"Authentication failed. The 'Authorization' header is missing."}}`
	if rec.Code != http.StatusUnauthorized || strings.TrimSpace(rec.Body.String()) != want {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if got, want := rec.Header().Get("WWW-Authenticate"), `Bearer authorization_uri="`+testOrigin+"/"+w.owner.TenantID+`", error="invalid_token", error_description="Authentication failed. The 'Authorization' header is missing."`; got != want {
		t.Errorf("WWW-Authenticate %s\nwant             %s", got, want)
	}
	r := httptest.NewRequest(http.MethodGet, "/subscriptions", nil)
	r.Header.Set("Authorization", "Bearer "+w.token(t, w.ownerCaller(t)))
	h.ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), `"principal":"`+w.owner.ObjectID+`"`) {
		t.Errorf("the record does not name the caller: %s", log.String())
	}
}

// Nothing but a token that was issued is let in, and it stays its owner's.
func FuzzValidate(f *testing.F) {
	w := newWorld(f)
	good := w.token(f, w.ownerCaller(f))
	f.Add("", 0, byte(0))
	f.Add("eyJhbGciOiJub25lIn0.e30.", 10, byte('A'))
	f.Add("0", strings.IndexByte(good, '.')-1, byte('Y')) // the header's last character, in bits that decode to nothing
	f.Fuzz(func(t *testing.T, text string, at int, with byte) {
		altered := []byte(good)
		altered[uint(at)%uint(len(altered))] = with
		for _, token := range []string{text, string(altered)} {
			caller, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
			if err == nil && (caller.ObjectID != w.owner.ObjectID || token != good) {
				t.Errorf("let in %+v by %q", caller, token)
			}
		}
	})
}
