package issuer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// memoryKV keeps nothing but revisions: what a store reads is in its own memory.
type memoryKV struct {
	mu       sync.Mutex
	revision uint64
}

func (m *memoryKV) next() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision++
	return m.revision, nil
}
func (m *memoryKV) Create(context.Context, string, []byte) (uint64, error) { return m.next() }
func (m *memoryKV) Update(context.Context, string, []byte, uint64) (uint64, error) {
	return m.next()
}
func (m *memoryKV) Delete(context.Context, string, uint64) error     { return nil }
func (m *memoryKV) Watch(context.Context, func(engine.Change)) error { return nil }

// signingKey is one key for all tests: making it takes a while.
var signingKey = sync.OnceValues(func() (*access.KeyRing, error) {
	dir, err := os.MkdirTemp("", "issuer")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		return nil, err
	}
	return access.OpenKeyRing(dir, secret.NewSealer(secret.Key{}))
})

const (
	publicOrigin = "https://grid.example:8443"
	localOrigin  = "https://127.0.0.1:7443"
)

// site is a handler with one application.
type site struct {
	http.Handler
	directory *access.Directory
	tokens    *access.Tokens
	app       access.Principal
	secret    string
	log       *bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{directory: access.NewDirectory(resource.NewStore(&memoryKV{}), roles), log: &bytes.Buffer{}}
	owner, err := s.directory.Bootstrap(t.Context(), filepath.Join(t.TempDir(), "owner.json"), publicOrigin, secret.Source{})
	if err != nil {
		t.Fatal(err)
	}
	if s.tokens, err = access.NewTokens(key, s.directory, access.TokensConfig{TenantID: owner.TenantID, Origins: []string{publicOrigin, localOrigin}}); err != nil {
		t.Fatal(err)
	}
	app, plain, err := s.directory.CreatePrincipal(t.Context(), "ci", access.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	s.app, s.secret = app, plain.Reveal()
	logger := slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.Handler = telemetry.NewMiddleware(logger, fault.Write).Wrap(New(s.tokens, s.directory, nil))
	return s
}

// fill puts the site's values in the place of their names.
func (s *site) fill(text string) string {
	basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s.app.AppID) + ":" + url.QueryEscape(s.secret)))
	wrong := base64.StdEncoding.EncodeToString([]byte(s.app.AppID + ":wrong-s3cret"))
	return strings.NewReplacer("{tenant}", s.tokens.TenantID(), "{TENANT}", strings.ToUpper(s.tokens.TenantID()),
		"{app}", s.app.AppID, "{secret}", s.secret, "{basic}", basic, "{wrong}", wrong).Replace(text)
}

var (
	anyToken = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)
	anyGUID  = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	modulus  = regexp.MustCompile(`"n":"[\w-]{342}"`)
)

// clientRequest is the id that one of the fixtures gives its request.
const clientRequest = "5f000000-0000-0000-0000-000000000001"

// name is the way back.
func (s *site) name(text string) string {
	text = anyToken.ReplaceAllString(text, "{token}")
	text = modulus.ReplaceAllString(text, `"n":"{modulus}"`)
	text = strings.NewReplacer(s.tokens.TenantID(), "{tenant}", s.app.AppID, "{app}", s.tokens.Keys().KeySet().Keys[0].KeyID, "{kid}", clientRequest, "{client request}").Replace(text)
	return anyGUID.ReplaceAllString(text, "{guid}")
}

// do sends a request as it is written on the wire.
func (s *site) do(t *testing.T, raw string) *httptest.ResponseRecorder {
	t.Helper()
	head, body, _ := strings.Cut(s.fill(raw), "\n\n")
	body = strings.TrimRight(body, "\n")
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatalf("request: %v", err)
	}
	r.Body, r.ContentLength, r.RemoteAddr, r.TLS = io.NopCloser(strings.NewReader(body)), int64(len(body)), "192.0.2.1:1234", &tls.ConnectionState{}
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, r)
	return rec
}

// Each file is a request and its whole answer. Time stands still at the beginning
// of the year 2000.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.http")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".http"), func(t *testing.T) {
			if _, err := signingKey(); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source, rest, _ := strings.Cut(string(raw), "\n")
			if !strings.HasPrefix(source, "# Source: ") {
				t.Fatalf("first line %q names no source", source)
			}
			request, want, _ := strings.Cut(rest, "\n----\n")
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				rec := s.do(t, request)
				var b strings.Builder
				fmt.Fprintf(&b, "%d\n", rec.Code)
				for _, h := range []string{"Allow", "Cache-Control", "Content-Type", "Pragma", "Retry-After", "WWW-Authenticate"} {
					if v := rec.Header().Get(h); v != "" {
						fmt.Fprintf(&b, "%s: %s\n", h, v)
					}
				}
				got := s.name(b.String() + "\n" + rec.Body.String())
				if *update {
					if err := os.WriteFile(file, []byte(source+"\n"+request+"\n----\n"+got), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if got != want {
					t.Errorf("answer\n%s\nwant\n%s", got, want)
				}
				for where, text := range map[string]string{"answer": rec.Body.String(), "log": s.log.String()} {
					if strings.Contains(text, s.secret) || strings.Contains(text, "wrong-s3cret") {
						t.Errorf("the %s shows the secret: %s", where, text)
					}
				}
				if anyToken.MatchString(s.log.String()) {
					t.Errorf("the log shows the token: %s", s.log)
				}
			})
		})
	}
}

// What the token endpoint gives opens the plane it was asked for and no other.
func TestTokensOpenTheirPlane(t *testing.T) {
	s := newSite(t)
	tests := []struct {
		name, path, field, value string
		audience                 string
		management, publishing   bool
	}{
		{"Go SDK", "/{tenant}/oauth2/v2.0/token", "scope", "https://management.azure.com/.default openid offline_access profile", "https://management.azure.com", true, false},
		{"Terraform", "/{tenant}/oauth2/v2.0/token", "scope", publicOrigin + "/.default", publicOrigin, true, false},
		{"Terraform's Graph token", "/{tenant}/oauth2/v2.0/token", "scope", publicOrigin + "/graph/.default", publicOrigin + "/graph", false, false},
		{"az CLI with its slash", "/organizations/oauth2/v2.0/token", "scope", "https://management.core.windows.net//.default", "https://management.core.windows.net/", true, false},
		{"az CLI as AD FS", "/adfs/oauth2/token", "scope", "https://management.core.windows.net//.default", "https://management.core.windows.net/", true, false},
		{"publisher", "/{tenant}/oauth2/v2.0/token", "scope", "https://eventgrid.azure.net/.default", "https://eventgrid.azure.net", false, true},
		{"v1", "/{tenant}/oauth2/token", "resource", "https://management.azure.com/", "https://management.azure.com/", true, false},
		{"v1 at another origin", "/common/oauth2/token", "resource", localOrigin, localOrigin, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {s.app.AppID}, "client_secret": {s.secret}, tt.field: {tt.value},
				"client_info": {"1"}, "claims": {`{"access_token":{"xms_cc":{"values":["CP1"]}}}`}}
			rec := s.do(t, "POST "+tt.path+" HTTP/1.1\nHost: grid.example:8443\nContent-Type: application/x-www-form-urlencoded\n\n"+form.Encode())
			var answer struct {
				AccessToken string `json:"access_token"`
			}
			if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil || rec.Code != http.StatusOK {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
			claims, err := base64.RawURLEncoding.DecodeString(strings.Split(answer.AccessToken, ".")[1])
			if err != nil || !strings.Contains(string(claims), `"aud":"`+tt.audience+`"`) {
				t.Errorf("claims %s, want audience %s", claims, tt.audience)
			}
			for _, c := range []struct {
				set  access.Audiences
				want bool
			}{{s.tokens.Management(), tt.management}, {s.tokens.Publishing(), tt.publishing}} {
				caller, err := s.tokens.Validate(t.Context(), answer.AccessToken, c.set)
				if c.want != (err == nil) || c.want && caller.ObjectID != s.app.ObjectID {
					t.Errorf("%+v: %+v, %v", c.set, caller, err)
				}
			}
		})
	}
}

// MSAL wants issuer and authority to agree, and no Host but ours is repeated.
func TestDiscoveryFollowsTheOrigin(t *testing.T) {
	s := newSite(t)
	tests := []struct{ name, host, origin string }{
		{"public", "grid.example:8443", publicOrigin},
		{"local", "127.0.0.1:7443", localOrigin},
		{"other case", "GRID.example:8443", publicOrigin},
		{"foreign", "evil.example", publicOrigin},
		{"another port", "127.0.0.1:1", publicOrigin},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := s.do(t, "GET /common/v2.0/.well-known/openid-configuration HTTP/1.1\nHost: "+tt.host+"\n\n")
			var d document
			if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil {
				t.Fatal(err)
			}
			if want := tt.origin + "/" + s.tokens.TenantID() + "/v2.0"; d.Issuer != want {
				t.Errorf("issuer %s, want %s", d.Issuer, want)
			}
			for _, u := range []string{d.TokenEndpoint, d.AuthorizationEndpoint, d.DeviceEndpoint, d.JWKSURI} {
				if !strings.HasPrefix(u, tt.origin+"/"+s.tokens.TenantID()+"/") {
					t.Errorf("%s does not lie below the origin %s and the tenant", u, tt.origin)
				}
			}
			for _, endpoint := range []string{d.TokenEndpoint, d.AuthorizationEndpoint, d.DeviceEndpoint, d.JWKSURI} {
				if !Serves(strings.TrimPrefix(endpoint, tt.origin)) {
					t.Errorf("%s is named and not served", endpoint)
				}
			}
		})
	}
}

func TestServes(t *testing.T) {
	tests := []struct {
		path string
		want bool
	}{
		{"/common/v2.0/.well-known/openid-configuration", true},
		{"/adfs/.well-known/openid-configuration", true},
		{"/ADFS/OAuth2/Token", true},
		{"/7a/discovery/v2.0/keys", true},
		{"/7a/discovery/keys", true},
		{"/7a/oauth2/v2.0/token", true},
		{"/7a/oauth2/v2.0/token/", false},
		{"/7a/oauth2/v2.0/devicecode", true},
		{"/7a/oauth2/v2.0/authorize", true},
		{"/7a/oauth2/authorize", true},
		{"/common/Discovery/Instance", true},
		{"/devicelogin", true},
		{"/setpassword", true},
		{"/7a/devicelogin", false},
		{"/7a/oauth2/v2.0/logout", false},
		{"//oauth2/v2.0/token", false},
		{"/oauth2/v2.0/token", false},
		{"/subscriptions/s/resourceGroups/g", false},
		{"/", false},
		{"", false},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			if got := Serves(tt.path); got != tt.want {
				t.Errorf("Serves = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFailuresAreBraked(t *testing.T) {
	if _, err := signingKey(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		try := func(from, plain string) int {
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {s.app.AppID}, "client_secret": {plain}, "scope": {"https://management.azure.com/.default"}}
			r := httptest.NewRequest(http.MethodPost, s.fill("/{tenant}/oauth2/v2.0/token"), strings.NewReader(form.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.RemoteAddr = from
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			if rec.Code == http.StatusTooManyRequests && (rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), `"error":"temporarily_unavailable"`)) {
				t.Errorf("answer %v %s", rec.Header(), rec.Body)
			}
			return rec.Code
		}
		want := func(got, want int) {
			t.Helper()
			if got != want {
				t.Fatalf("status %d, want %d", got, want)
			}
		}
		for range 9 {
			want(try("192.0.2.1:1", "wrong"), http.StatusUnauthorized)
		}
		want(try("192.0.2.1:1", s.secret), http.StatusOK)
		want(try("192.0.2.1:2", "wrong"), http.StatusUnauthorized)
		want(try("192.0.2.1:3", s.secret), http.StatusTooManyRequests)
		want(try("192.0.2.2:1", s.secret), http.StatusOK) // a stranger's guesses lock nobody out elsewhere
		time.Sleep(failureWindow)                         // fake time
		want(try("192.0.2.1:1", s.secret), http.StatusOK)
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := failures{perClient: failuresPerClient, perAddress: failuresPerAddress}
		address := addressOf("192.0.2.1:1")
		for i := range failuresPerAddress {
			if wait := f.wait(address, "x"); wait != 0 {
				t.Fatalf("braked for %s after %d failures of different clients", wait, i)
			}
			f.add(address, fmt.Sprint(i))
		}
		if wait := f.wait(address, "x"); wait != failureWindow {
			t.Errorf("braked for %s after %d failures of one address", wait, failuresPerAddress)
		}
		time.Sleep(failureWindow) // fake time
		for i := range 3 * failuresRemembered {
			f.add(addressOf(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)), "x")
		}
		if n := len(f.counts); n > failuresRemembered+2 {
			t.Errorf("%d counts are kept", n)
		}
	})
}

func TestAddressOf(t *testing.T) {
	tests := []struct{ name, remote, want string }{
		{"IPv4", "192.0.2.1:80", "192.0.2.1"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:80", "192.0.2.1"},
		{"IPv6 network", "[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::"},
		{"zone", "[fe80::1%eth0]:80", "fe80::"},
		{"loopback", "[::1]:80", "::"},
		{"in process", "pipe", "invalid IP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := addressOf(tt.remote).String(); got != tt.want {
				t.Errorf("addressOf(%s) = %s, want %s", tt.remote, got, tt.want)
			}
		})
	}
}

// newHandler is a handler without anybody in its directory.
func newHandler(t testing.TB, keys *access.KeyRing) (*Handler, *access.Directory) {
	t.Helper()
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	directory := access.NewDirectory(resource.NewStore(&memoryKV{}), roles)
	if _, err := directory.Bootstrap(context.Background(), filepath.Join(t.TempDir(), "owner.json"), publicOrigin, secret.Source{}); err != nil {
		t.Fatal(err)
	}
	tokens, err := access.NewTokens(keys, directory, access.TokensConfig{TenantID: directory.TenantID(), Origins: []string{publicOrigin}})
	if err != nil {
		t.Fatal(err)
	}
	return New(tokens, directory, nil), directory
}

// Whatever is sent, there is an OAuth answer and no token.
func FuzzToken(f *testing.F) {
	f.Add("application/x-www-form-urlencoded", "grant_type=client_credentials&client_id=x&client_secret=y&scope=z", "")
	f.Add("application/x-www-form-urlencoded", "%zz", "Basic eDp5")
	f.Add("", "", "Basic %")
	keys, err := signingKey()
	if err != nil {
		f.Fatal(err)
	}
	h, _ := newHandler(f, keys)
	f.Fuzz(func(t *testing.T, kind, body, authorization string) {
		r := httptest.NewRequest(http.MethodPost, "/common/oauth2/v2.0/token", strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Authorization", authorization)
		rec := httptest.NewRecorder()
		h.failures.counts = nil // nobody is braked
		h.ServeHTTP(rec, r)
		var answer refusalBody
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil || answer.Error == "" || rec.Code < 400 || rec.Code >= 500 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}

// A disabled application looks like one that does not exist; the log tells.
func TestDisabledApplication(t *testing.T) {
	s := newSite(t)
	if _, err := s.directory.SetEnabled(t.Context(), s.app.ObjectID, false); err != nil {
		t.Fatal(err)
	}
	rec := s.do(t, "POST /common/oauth2/v2.0/token HTTP/1.1\nHost: grid.example:8443\nContent-Type: application/x-www-form-urlencoded\n\n"+
		"grant_type=client_credentials&client_id={app}&client_secret={secret}&scope=https://management.azure.com/.default")
	if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), "AADSTS700016") || strings.Contains(rec.Body.String(), "disabled") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if !strings.Contains(s.log.String(), "principal "+s.app.ObjectID+" is disabled") {
		t.Errorf("the log does not say why: %s", s.log)
	}
}
