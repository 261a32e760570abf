package manage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	ownTenant = "7a000000-0000-0000-0000-000000000000"
	clientKey = "cl1ent-s3cret"
)

// ownOnly is a CheckToken of a server with one tenant.
func ownOnly(tenant, application string) error {
	if tenant != ownTenant {
		return fault.Field("azureActiveDirectoryTenantId", "Another tenant.")
	}
	if application == "https://management.azure.com" {
		return fault.Field("azureActiveDirectoryApplicationIdOrUri", "This server itself.")
	}
	return nil
}

func hidden(text string) *secret.String { return (*secret.String)(&text) }

// destined is a change that sets a webhook and something of its destination.
func destined(endpoint string, change func(*DestinationChange)) EventSubscriptionChange {
	c := hook(endpoint)
	change(c.Destination)
	return c
}

func withIssuer(endpoint string, issuer TokenIssuerChange) EventSubscriptionChange {
	return destined(endpoint, func(d *DestinationChange) { d.TokenIssuer = &issuer })
}

var someIssuer = TokenIssuerChange{TokenURL: "https://id.example/token", ClientID: "carillon", Scope: "events.write", ClientSecret: hidden(clientKey)}

// shownToken is what the last handshake was to show as a token.
func (f *fixture) shownToken() string {
	r := f.endpoint.last().Credentials.Token
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%s|%s|%s|%s|%s|%s", r.URL, r.ClientID, r.ClientSecret.Reveal(), r.Scope, r.Audience, r.EventSubscription)
}

func TestTokens(t *testing.T) {
	f := newFixture(t)
	f.CheckToken = ownOnly
	at := workspaceID + extension + "es1"
	own := func(d *DestinationChange) { d.TenantID, d.Application = ownTenant, "api://hooks" }
	v := f.put(t, at, destined(hookURL, own))
	if got, want := f.shownToken(), "||||api://hooks|"+v.Value.ID().String(); got != want {
		t.Errorf("own issuer: %s, want %s", got, want)
	}
	entra := func(d *DestinationChange) {
		d.TenantID, d.Application, d.TokenIssuer = "contoso.onmicrosoft.com", "api://hooks", &TokenIssuerChange{ClientID: "carillon", ClientSecret: hidden(clientKey)}
	}
	f.put(t, at, destined(hookURL, entra))
	if got, want := f.shownToken(), "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token|carillon|"+clientKey+"|api://hooks/.default||"; got != want {
		t.Errorf("Entra: %s, want %s", got, want)
	}

	v = f.put(t, at, withIssuer(hookURL, someIssuer))
	want := "https://id.example/token|carillon|" + clientKey + "|events.write||"
	if got := f.shownToken(); got != want {
		t.Errorf("an issuer: %s, want %s", got, want)
	}
	stored, err := json.Marshal(v.Value)
	if err != nil || strings.Contains(string(stored), clientKey) {
		t.Errorf("the client secret lies open, %v", err)
	}
	// Clients that know nothing of it leave it; the secret may be left out.
	f.put(t, at, hook(hookURL+"&more=1"))
	if got := f.shownToken(); got != want {
		t.Errorf("after a PUT without it: %s", got)
	}
	again := someIssuer
	again.ClientSecret, again.Audience = nil, "hooks"
	f.put(t, at, withIssuer(hookURL, again))
	if got := f.shownToken(); got != want[:len(want)-1]+"hooks|" {
		t.Errorf("with the secret left out: %s", got)
	}
	// Whoever may change the endpoint does not get tokens of it that way.
	if _, err := f.PutEventSubscription(context.Background(), f.owner, id(at), hook("https://other.example/"), Precondition{}); !fault.Is(err, fault.Invalid) ||
		!strings.Contains(problems(err), issuerField+".clientSecret: A token issuer needs a clientSecret; it can be left out only while") {
		t.Errorf("to another host: %v", err)
	}
	f.put(t, at, withIssuer(hookURL, TokenIssuerChange{}))
	if got := f.shownToken(); got != "none" {
		t.Errorf("taken away: %s", got)
	}
}

// A change of what the endpoint knows us by asks it again, and the same does not.
func TestCredentialsAskAgain(t *testing.T) {
	f := newFixture(t)
	f.CheckToken = ownOnly
	at := workspaceID + extension + "es1"
	patch := func(change func(*DestinationChange)) int {
		t.Helper()
		before := f.endpoint.count()
		if _, err := f.PatchEventSubscription(context.Background(), f.owner, id(at), destined(hookURL, change), Precondition{}); err != nil {
			t.Fatal(err)
		}
		return f.endpoint.count() - before
	}
	chain, key := certificate(t, "carillon", time.Now().Add(time.Hour))
	nothing := func(*DestinationChange) {}
	own := func(d *DestinationChange) { d.TenantID, d.Application = ownTenant, "api://hooks" }
	f.put(t, at, hook(hookURL))
	for _, tt := range []struct {
		name   string
		change func(*DestinationChange)
		asked  int
	}{
		{"nothing", nothing, 0},
		{"an application", own, 1},
		{"the same application", own, 0},
		{"no application", nothing, 1},
		{"an issuer", func(d *DestinationChange) { d.TokenIssuer = &someIssuer }, 1},
		{"the issuer stays", nothing, 0},
		{"a certificate", func(d *DestinationChange) { d.ClientCertificate = &ClientCertificateChange{chain, &key} }, 1},
		{"the certificate stays", nothing, 0},
		{"the same certificate", func(d *DestinationChange) { d.ClientCertificate = &ClientCertificateChange{Chain: chain} }, 0},
	} {
		if n := patch(tt.change); n != tt.asked {
			t.Errorf("%s: asked %d times, want %d", tt.name, n, tt.asked)
		}
	}
}

func TestTokenProblems(t *testing.T) {
	f := newFixture(t)
	f.CheckToken = ownOnly
	at := workspaceID + extension + "es1"
	issuer := func(change func(*TokenIssuerChange)) EventSubscriptionChange {
		i := someIssuer
		change(&i)
		return withIssuer(hookURL, i)
	}
	const field = "properties." + issuerField
	for _, tt := range []struct {
		name string
		c    EventSubscriptionChange
		want string
	}{
		{"application alone", destined(hookURL, func(d *DestinationChange) { d.Application = "api://hooks" }),
			"properties." + tenantField + ": A token for an application is one of a tenant: give azureActiveDirectoryTenantId as well."},
		{"tenant alone", destined(hookURL, func(d *DestinationChange) { d.TenantID = ownTenant }),
			"properties." + applicationField + ": A token is for an application: give its id or URI in azureActiveDirectoryApplicationIdOrUri as well."},
		{"another tenant", destined(hookURL, func(d *DestinationChange) { d.TenantID, d.Application = "contoso.com", "api://hooks" }),
			"properties." + tenantField + ": Another tenant."},
		{"no tenant's name", destined(hookURL, func(d *DestinationChange) {
			d.TenantID, d.Application, d.TokenIssuer = "a/../b?", "api://hooks", &someIssuer
		}),
			"properties." + tenantField + ": The tenant 'a/../b?' is neither a GUID nor the name of a domain."},
		{"a token for the server", destined(hookURL, func(d *DestinationChange) { d.TenantID, d.Application = ownTenant, "https://management.azure.com" }),
			"properties." + applicationField + ": This server itself."},
		{"application with blanks", destined(hookURL, func(d *DestinationChange) { d.TenantID, d.Application = ownTenant, "api://a b" }),
			"properties." + applicationField + ": The azureActiveDirectoryApplicationIdOrUri 'api://a b' holds characters other than printable ASCII."},
		{"beside an attribute", destined(hookURL, func(d *DestinationChange) {
			d.TenantID, d.Application = ownTenant, "api://hooks"
			d.Attributes = []AttributeChange{{Name: "authorization", Type: "Static", Value: text("Bearer a")}}
		}), "properties.destination.properties.deliveryAttributeMappings[0].name: Messages to this endpoint carry a bearer token in Authorization, which cannot be a delivery attribute as well: leave one of them out."},
		{"no address", issuer(func(i *TokenIssuerChange) { i.TokenURL = "" }),
			field + ".tokenUrl: A token issuer needs the tokenUrl of its token endpoint, for example https://id.example/oauth2/token. It can be left out with azureActiveDirectoryTenantId, for Microsoft Entra's."},
		{"address that is not allowed", issuer(func(i *TokenIssuerChange) { i.TokenURL = "http://id.example/token" }), field + ".tokenUrl: The tokenUrl cannot be used: the URL must start with https://."},
		{"relative address", issuer(func(i *TokenIssuerChange) { i.TokenURL = "/token" }), field + ".tokenUrl: The tokenUrl is not an absolute URL: write one like https://id.example/oauth2/token."},
		{"address with a query", issuer(func(i *TokenIssuerChange) { i.TokenURL = "https://id.example/token?k=" + clientKey }), field + ".tokenUrl: The tokenUrl has a query; a token endpoint is named without one."},
		{"no client", issuer(func(i *TokenIssuerChange) { i.ClientID = "" }), field + ".clientId: A token issuer needs a clientId: that of the application that asks for tokens."},
		{"client with a line", issuer(func(i *TokenIssuerChange) { i.ClientID = "a\nb" }), field + ".clientId: The clientId 'a\nb' holds characters other than printable ASCII."},
		{"long scope", issuer(func(i *TokenIssuerChange) { i.Scope = strings.Repeat("s ", 2000) }), field + ".scope: The scope has 2000 bytes; at most 1024 are allowed."},
		{"no secret", issuer(func(i *TokenIssuerChange) { i.ClientSecret = nil }),
			field + ".clientSecret: A token issuer needs a clientSecret; it can be left out only while the token endpoint, the clientId and the host of the endpoint stay."},
		{"empty secret", issuer(func(i *TokenIssuerChange) { i.ClientSecret = hidden("") }), field + ".clientSecret: A clientSecret has 1 to 4096 bytes; this one has 0."},
	} {
		_, err := f.PutEventSubscription(context.Background(), f.owner, id(at), tt.c, Precondition{})
		if got := problems(err); got != tt.want || strings.Contains(err.Error(), clientKey) {
			t.Errorf("%s: got %s\nwant %s", tt.name, got, tt.want)
		}
	}
	f.CheckToken = nil
	_, err := f.PutEventSubscription(context.Background(), f.owner, id(at), destined(hookURL, func(d *DestinationChange) { d.TenantID, d.Application = ownTenant, "api://hooks" }), Precondition{})
	if got, want := problems(err), "properties."+tenantField+": This server makes no tokens: give a tokenIssuer."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// A kept secret goes to the token endpoint and client that it was given for.
	f.put(t, at, withIssuer(hookURL, someIssuer))
	for name, change := range map[string]func(*TokenIssuerChange){
		"another endpoint": func(i *TokenIssuerChange) { i.TokenURL = "https://other.example/token" },
		"another client":   func(i *TokenIssuerChange) { i.ClientID = "somebody" },
	} {
		_, err := f.PutEventSubscription(context.Background(), f.owner, id(at), issuer(func(i *TokenIssuerChange) { i.ClientSecret = nil; change(i) }), Precondition{})
		if !strings.Contains(problems(err), ".clientSecret: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// certificate makes a self-signed client certificate.
func certificate(t *testing.T, name string, expires time.Time) (chain, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return certificateOf(t, private, name, expires), string(keyPEM(t, private))
}

func certificateOf(t *testing.T, private *ecdsa.PrivateKey, name string, expires time.Time) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: expires.Add(-365 * 24 * time.Hour), NotAfter: expires}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func keyPEM(t *testing.T, private *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func withCertificate(endpoint, chain string, key *string) EventSubscriptionChange {
	return destined(endpoint, func(d *DestinationChange) { d.ClientCertificate = &ClientCertificateChange{chain, key} })
}

// shownCertificate is the name in the certificate that the last handshake was to show.
func (f *fixture) shownCertificate() string {
	c := f.endpoint.last().Credentials.Certificate
	if c == nil {
		return "none"
	}
	return c.Leaf.Subject.CommonName
}

func TestClientCertificate(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := string(keyPEM(t, private))
	first := certificateOf(t, private, "first", time.Now().Add(time.Hour))
	v := f.put(t, at, withCertificate(hookURL, "a comment\n"+first, &key))
	if got := f.shownCertificate(); got != "first" {
		t.Errorf("the handshake shows %s", got)
	}
	stored, err := json.Marshal(v.Value)
	if lines := strings.Split(key, "\n"); err != nil || strings.Contains(string(stored), lines[1]) {
		t.Errorf("the key lies open, %v", err)
	}
	if c := v.Value.Destination.WebHook.ClientCertificate; c.Chain != first {
		t.Errorf("kept more than the certificate: %q", c.Chain)
	}
	// It stays with a client that does not know it, also on the way to another host.
	f.put(t, at, hook("https://other.example/"))
	if got := f.shownCertificate(); got != "first" {
		t.Errorf("after a PUT without it: %s", got)
	}
	// A certificate that was made anew for the same key needs no key.
	f.put(t, at, withCertificate(hookURL, certificateOf(t, private, "second", time.Now().Add(time.Hour)), nil))
	if got := f.shownCertificate(); got != "second" {
		t.Errorf("made anew: %s", got)
	}
	third, other := certificate(t, "third", time.Now().Add(time.Hour))
	both := other + third
	f.put(t, at, withCertificate(hookURL, third, &both))
	if got := f.shownCertificate(); got != "third" {
		t.Errorf("replaced: %s", got)
	}
	f.put(t, at, withCertificate(hookURL, "", nil))
	if got := f.shownCertificate(); got != "none" || hasCertificate(&f.Store.EventSubscriptions.List("")[0].Value) {
		t.Errorf("taken away: %s", got)
	}
}

func TestClientCertificateProblems(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	good, key := certificate(t, "good", time.Now().Add(time.Hour))
	_, other := certificate(t, "other", time.Now().Add(time.Hour))
	expired, expiredKey := certificate(t, "expired", time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC))
	early, earlyKey := certificate(t, "early", time.Date(2120, 1, 2, 3, 4, 5, 0, time.UTC))
	encrypted := string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("s3cret")}))
	notPEM := "s3cret"
	const field = "properties." + certificateField
	for _, tt := range []struct {
		name string
		c    EventSubscriptionChange
		want string
	}{
		{"not PEM", withCertificate(hookURL, "s3cret", &key), field + ".certificate: The client certificate cannot be used: it is not PEM: it begins with -----BEGIN CERTIFICATE-----."},
		{"no X.509", withCertificate(hookURL, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key), field + ".certificate: The client certificate cannot be used: a CERTIFICATE block in its PEM is not an X.509 certificate."},
		{"key in the chain", withCertificate(hookURL, good+key, &key), field + ".certificate: The client certificate cannot be used: its PEM holds more than certificates: a private key belongs into key."},
		{"too long", withCertificate(hookURL, strings.Repeat("s", maxPEM+1), &key), field + ".certificate: The client certificate cannot be used: it has more than 64 KiB."},
		{"expired", withCertificate(hookURL, expired, &expiredKey), field + ".certificate: The client certificate expired at 2020-01-02T03:04:05Z: give one that is valid."},
		{"too early", withCertificate(hookURL, early, &earlyKey), field + ".certificate: The client certificate is not valid before 2119-01-02T03:04:05Z: give it then."},
		{"no key", withCertificate(hookURL, good, nil), field + ".key: A client certificate needs its private key in PEM; it can be left out only while the present one fits."},
		{"another key", withCertificate(hookURL, good, &other), field + ".key: The private key cannot be used: it is not the key of the certificate, or of a kind that TLS does not know."},
		{"encrypted key", withCertificate(hookURL, good, &encrypted), field + ".key: The private key cannot be used: it is encrypted: decrypt it first, for example with openssl pkey."},
		{"key is not PEM", withCertificate(hookURL, good, &notPEM), field + ".key: The private key cannot be used: it is not PEM: it begins with -----BEGIN PRIVATE KEY-----."},
	} {
		_, err := f.PutEventSubscription(context.Background(), f.owner, id(at), tt.c, Precondition{})
		if got := problems(err); got != tt.want || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %s\nwant %s", tt.name, got, tt.want)
		}
	}
	f.put(t, at, withCertificate(hookURL, good, &key))
	if _, err := f.PutEventSubscription(context.Background(), f.owner, id(at), withCertificate(hookURL, early, nil), Precondition{}); !strings.Contains(problems(err), ".key: A client certificate needs its private key") {
		t.Errorf("another certificate with the present key: %v", err)
	}
	if _, err := f.PutEventSubscription(context.Background(), f.owner, id(at), hook("http://h.example/"), Precondition{}); !strings.Contains(problems(err), field+": A client certificate is shown in TLS") {
		t.Errorf("without TLS: %v", err)
	}
}

// The end of a certificate is told of once a day, from 30 days before it on.
func TestCertificateWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		var log bytes.Buffer
		f.Log = slog.New(slog.NewTextHandler(&log, nil))
		at := workspaceID + extension + "es1"
		ctx, now := context.Background(), time.Now()
		ends := now.Add(40 * 24 * time.Hour)
		chain, key := certificate(t, "carillon", ends)
		f.put(t, at, withCertificate(hookURL, chain, &key))
		warnings := func() string {
			defer log.Reset()
			return fmt.Sprint(strings.Count(log.String(), "expires soon"), strings.Count(log.String(), "has expired"))
		}
		day := 24 * time.Hour
		for _, tt := range []struct {
			name string
			at   time.Time
			want string
		}{
			{"long before", now, "0 0"},
			{"30 days before", ends.Add(-30 * day), "1 0"},
			{"an hour later", ends.Add(-30*day + time.Hour), "0 0"},
			{"a day later", ends.Add(-29 * day), "1 0"},
			{"at its end", ends.Add(time.Second), "0 1"},
		} {
			f.sweep(ctx, tt.at)
			if got := warnings(); got != tt.want {
				t.Errorf("%s: %s warnings, want %s", tt.name, got, tt.want)
			}
		}
		if strings.Contains(log.String(), "PRIVATE") {
			t.Error("the log shows a key")
		}
		f.put(t, at, withCertificate(hookURL, "", nil))
		if f.sweep(ctx, ends); len(f.warned) != 0 || warnings() != "0 0" {
			t.Errorf("%d event subscriptions are remembered", len(f.warned))
		}
	})
}

// What waits for consent keeps its own credentials.
func TestCredentialsWaitForConsent(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.put(t, at, hook(hookURL))
	f.endpoint.will(silent)
	v := f.put(t, at, withIssuer(hookURL, someIssuer))
	if v.Value.State != resource.AwaitingManualAction || v.Value.Destination.WebHook.TokenIssuer != nil || v.Value.Wanted().Destination.WebHook.TokenIssuer == nil {
		t.Errorf("state %s", v.Value.State)
	}
}

// Whatever is given as a certificate, what is kept of it to be shown is certificates.
func FuzzReadChain(f *testing.F) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, private.Public(), private)
	if err != nil {
		f.Fatal(err)
	}
	good := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"s3cret": "s3cret"}, Bytes: der}))
	for _, text := range []string{good, "s3cret\n" + good + "s3cret", good + good, good[:len(good)/2], "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		chain, leaf, err := readChain(text)
		if err != nil {
			if chain != "" {
				t.Errorf("%q is refused and kept", text)
			}
			return
		}
		again, same, err := readChain(chain)
		if err != nil || again != chain || !same.Equal(leaf) || strings.Contains(chain, "s3cret") {
			t.Errorf("%q is kept as %q, %v", text, chain, err)
		}
	})
}
