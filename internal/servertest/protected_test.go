package servertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/server"
)

// tokenClaims are what a protected handler looks at.
type tokenClaims struct {
	jwt.Claims
	Tenant            string `json:"tid"`
	Caller            string `json:"appid"`
	EventSubscription string `json:"event_subscription"`
}

// claimsOf verifies a bearer token by the discovery and the keys of a server, as any
// OpenID library does.
func (s *Server) claimsOf(t testing.TB, authorization string) (c tokenClaims, ok bool) {
	t.Helper()
	raw, isBearer := strings.CutPrefix(authorization, "Bearer ")
	if !isBearer {
		return c, false
	}
	read := func(url string, into any) {
		resp, err := s.Client.HTTP.Get(url)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	read(s.URL+"/"+s.tenant(t)+"/v2.0/.well-known/openid-configuration", &discovery)
	var keys jose.JSONWebKeySet
	read(discovery.Keys, &keys)
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Errorf("token: %v", err)
		return c, false
	}
	if err := token.Claims(keys, &c); err != nil {
		t.Errorf("token: %v", err)
		return c, false
	}
	if err := c.Validate(jwt.Expected{Issuer: discovery.Issuer, Time: time.Now()}); err != nil {
		t.Errorf("token: %v", err)
		return c, false
	}
	return c, true
}

func (s *Server) tenant(t testing.TB) string {
	t.Helper()
	local, err := access.OpenLocal(t.Context(), s.Dir, secret.Source{})
	if err != nil {
		t.Fatal(err)
	}
	return local.Owner.TenantID
}

// protected is a handler that takes messages with a good token only. It remembers the
// kinds of those that had one.
type protected struct {
	*httptest.Server
	mu    sync.Mutex
	kinds []string
	more  chan struct{} // one entry for each message
}

func newProtected(t testing.TB, good func(authorization string) bool) *protected {
	p := &protected{more: make(chan struct{}, 64)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !good(r.Header.Get("Authorization")) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(r.Body)
		var v []struct {
			Data struct{ ValidationCode string }
		}
		if json.Unmarshal(body, &v) == nil && len(v) == 1 {
			_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": v[0].Data.ValidationCode})
		}
		p.mu.Lock()
		p.kinds = append(p.kinds, r.Header.Get("aeg-event-type"))
		p.mu.Unlock()
		p.more <- struct{}{}
	}))
	t.Cleanup(p.Close)
	return p
}

// wait waits for n messages and returns the kinds of all.
func (p *protected) wait(t testing.TB, n int) string {
	t.Helper()
	for range n {
		select {
		case <-p.more:
		case <-time.After(patience):
			t.Fatalf("only %v had arrived after 10 s", p.kinds)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.kinds, " ")
}

func hookOf(members map[string]any) map[string]any {
	return map[string]any{"properties": map[string]any{"destination": map[string]any{"endpointType": "WebHook", "properties": members}}}
}

// TestTokenOfTheServer has a handler verify the tokens of the built-in issuer, at
// validation, delivery, test and deletion. Source: spec/delivery.md section 9.2.
func TestTokenOfTheServer(t *testing.T) {
	s := New(t)
	topic, publish := s.Topic("orders")
	es := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	var lastToken string
	handler := newProtected(t, func(authorization string) bool {
		c, ok := s.claimsOf(t, authorization)
		lastToken = strings.TrimPrefix(authorization, "Bearer ")
		return ok && c.Audience.Contains("api://orders-hook") && c.Tenant == s.tenant(t) && c.Caller == access.DeliveryAppID && c.EventSubscription == es
	})
	s.Must("PUT", es, hookOf(map[string]any{
		"endpointUrl":                  handler.URL,
		"azureActiveDirectoryTenantId": s.tenant(t), "azureActiveDirectoryApplicationIdOrUri": "api://orders-hook",
	}), nil)
	if err := publish(eventBody(1, 1)); err != nil {
		t.Fatal(err)
	}
	handler.wait(t, 2)
	var raw json.RawMessage
	s.Must("POST", es+"/sendTestEvent", nil, &raw)
	if strings.Contains(string(raw), lastToken) || !strings.Contains(string(raw), `"Authorization"`) {
		t.Errorf("the test event shows the token, or not that there is one: %s", raw)
	}
	handler.wait(t, 1)
	s.Must("DELETE", es, nil, nil)
	if got, want := handler.wait(t, 1), "SubscriptionValidation Notification Notification SubscriptionDeletion"; got != want {
		t.Errorf("the handler took %s, want %s", got, want)
	}
	// The token is good for the handler alone.
	stranger := arm.NewClient(s.URL, lastToken, nil)
	stranger.HTTP = s.Client.HTTP
	if _, err := stranger.Do(t.Context(), "GET", topic, nil, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "audience") {
		t.Errorf("the management API takes the token of a webhook: %v", err)
	}
	for _, application := range []string{"https://management.azure.com/", s.URL} {
		_, err := s.Do(t.Context(), "PUT", es, nil, hookOf(map[string]any{
			"endpointUrl":                  handler.URL,
			"azureActiveDirectoryTenantId": s.tenant(t), "azureActiveDirectoryApplicationIdOrUri": application,
		}), nil, nil)
		if err == nil || !strings.Contains(err.Error(), "would be good for this server itself") {
			t.Errorf("a token for %s: %v", application, err)
		}
	}
}

// TestTokenOfAnotherIssuer has tokens made by a second server, which checks the
// client's secret. The secret lies nowhere in the open.
func TestTokenOfAnotherIssuer(t *testing.T) {
	other := New(t)
	var client struct{ AppID, Password string }
	other.Must("POST", arm.PrincipalsPath, map[string]any{"name": "webhooks"}, &client)
	s := New(t, func(c *server.Config) { c.DestinationCA = filepath.Join(other.Dir, "ca.pem") })
	topic, publish := s.Topic("orders")
	es := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	handler := newProtected(t, func(authorization string) bool {
		c, ok := other.claimsOf(t, authorization)
		return ok && c.Audience.Contains(access.AudienceManagement) && c.Caller == client.AppID
	})
	issuer := map[string]any{
		"tokenUrl": other.URL + "/" + other.tenant(t) + "/oauth2/v2.0/token", "clientId": client.AppID, "clientSecret": "s3cret",
		"scope": access.AudienceManagement + "/.default",
	}
	members := map[string]any{"endpointUrl": handler.URL, "tokenIssuer": issuer}
	_, err := s.Do(t.Context(), "PUT", es, nil, hookOf(members), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "the issuer answered 401 (invalid_client)") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("with a wrong secret: %v", err)
	}
	issuer["clientSecret"] = client.Password
	var raw json.RawMessage
	s.Must("PUT", es, hookOf(members), &raw)
	if strings.Contains(string(raw), client.Password) {
		t.Errorf("the answer shows the secret: %s", raw)
	}
	if err := publish(eventBody(1, 1)); err != nil {
		t.Fatal(err)
	}
	if got := handler.wait(t, 2); got != "SubscriptionValidation Notification" {
		t.Errorf("the handler took %s", got)
	}
	s.hides(t, "s3cret", client.Password)
	// After a restart the secret is opened again.
	s.Stop()
	s.Restart()
	if err := publish(eventBody(2, 1)); err != nil {
		t.Fatal(err)
	}
	handler.wait(t, 1)
}

// hides fails when a text lies open in the server's data directory or log.
func (s *Server) hides(t testing.TB, texts ...string) {
	t.Helper()
	look := func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		for _, text := range texts {
			if strings.Contains(string(raw), text) {
				t.Errorf("%s holds a secret", path)
			}
		}
	}
	look(s.log.Name())
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "RESERVE" {
			look(path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// identity makes a self-signed certificate and its key, in PEM, of a client or of the
// server at 127.0.0.1.
func identity(t testing.TB, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// TestClientCertificates delivers to a handler that wants client certificates, also
// after the certificate is replaced.
func TestClientCertificates(t *testing.T) {
	var seen sync.Map // common names by event
	handler := NewReceiver(t)
	first, firstKey := identity(t, "first")
	second, secondKey := identity(t, "second")
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM([]byte(first + second))
	strict := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.TLS.PeerCertificates[0].Subject.CommonName+" "+r.Header.Get("aeg-event-type"), true)
		handler.Config.Handler.ServeHTTP(w, r)
	}))
	strict.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	strict.Config.ErrorLog = log.New(io.Discard, "", 0)
	strict.StartTLS()
	defer strict.Close()
	ca := filepath.Join(t.TempDir(), "handler.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strict.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(t, func(c *server.Config) { c.DestinationCA = ca })
	topic, publish := s.Topic("orders")
	es := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	_, err := s.Do(t.Context(), "PUT", es, nil, hookOf(map[string]any{"endpointUrl": strict.URL}), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "refused the client certificate, or wants one") {
		t.Errorf("without a certificate: %v", err)
	}
	for i, c := range []struct{ name, certificate, key string }{{"first", first, firstKey}, {"second", second, secondKey}} {
		var raw json.RawMessage
		s.Must("PUT", es, hookOf(map[string]any{"endpointUrl": strict.URL, "clientCertificate": map[string]any{"certificate": c.certificate, "key": c.key}}), &raw)
		if !strings.Contains(string(raw), "CN="+c.name) || strings.Contains(string(raw), "PRIVATE") {
			t.Errorf("answer %s", raw)
		}
		if err := publish(eventBody(i+1, 1)); err != nil {
			t.Fatal(err)
		}
		handler.Wait(t, patience, func(events []Received) bool { return len(events) > i })
		for _, kind := range []string{" SubscriptionValidation", " Notification"} {
			if _, ok := seen.Load(c.name + kind); !ok {
				t.Errorf("the handler saw no%s of %s", kind, c.name)
			}
		}
	}
	s.hides(t, strings.Split(firstKey, "\n")[1], strings.Split(secondKey, "\n")[1])
}
