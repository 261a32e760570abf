package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/secret"
)

// made is a certificate with its key in PEM form; it signed itself.
type made struct{ cert, key []byte }

func makePair(t *testing.T, ends time.Time, names ...string) made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return made{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
}

func newCertificates(t *testing.T, own made, failed func()) (*certificates, *Config) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := &Config{Data: dir, TLSCertificate: filepath.Join(dir, "own.pem"), TLSKey: filepath.Join(dir, "own.key")}
	writePair(t, cfg, own)
	c, err := openCertificates(cfg, certificateNames(), secret.NewSealer(secret.Key{}), slog.New(slog.DiscardHandler), failed)
	if err != nil {
		t.Fatal(err)
	}
	return c, cfg
}

func writePair(t *testing.T, cfg *Config, m made) {
	t.Helper()
	for path, text := range map[string][]byte{cfg.TLSCertificate: m.cert, cfg.TLSKey: m.key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func certificateEnd() time.Time { return time.Now().Add(90 * 24 * time.Hour) }

func TestPairIsReadAgain(t *testing.T) {
	year, past := time.Now().Add(365*24*time.Hour), time.Now().Add(-time.Minute)
	first, second, expired := makePair(t, year, "one.example"), makePair(t, year, "two.example"), makePair(t, past, "late.example")
	refused := 0
	c, cfg := newCertificates(t, first, func() { refused++ })
	for _, step := range []struct {
		name           string
		files          made
		serves, warned string
		refused        int
	}{
		{"nothing new", first, "one.example", "", 0},
		{"a certificate without its key", made{second.cert, first.key}, "one.example", "no pair", 1},
		{"the same again is not counted again", made{second.cert, first.key}, "one.example", "no pair", 1},
		{"no PEM at all", made{[]byte("hello"), []byte("s3cret")}, "one.example", "no pair", 2},
		{"one that has ended", expired, "one.example", "ended at", 3},
		{"a good one", second, "two.example", "", 3},
		{"back", first, "one.example", "", 3},
	} {
		writePair(t, cfg, step.files)
		c.own.check(false)
		if got := c.own.current.Load().Leaf.DNSNames[0]; got != step.serves {
			t.Errorf("%s: serves %s, want %s", step.name, got, step.serves)
		}
		warning := c.own.warning()
		if !strings.Contains(warning, step.warned) || step.warned == "" && warning != "" || strings.Contains(warning, "s3cret") {
			t.Errorf("%s: warns %q, want %q", step.name, warning, step.warned)
		}
		if refused != step.refused {
			t.Errorf("%s: %d refused, want %d", step.name, refused, step.refused)
		}
	}
	if err := os.Remove(cfg.TLSKey); err != nil {
		t.Fatal(err)
	}
	c.own.check(false)
	if warning := c.own.warning(); !strings.Contains(warning, "--tls-key cannot be read") || strings.Contains(warning, cfg.Data) {
		t.Errorf("without the key's file it warns %q", warning)
	}
	bundle, err := os.ReadFile(filepath.Join(cfg.Data, "ca.pem"))
	if err != nil || string(bundle) != string(*c.bundle.Load()) || !strings.HasPrefix(string(bundle), string(c.ca.pem())) || !strings.HasSuffix(string(bundle), string(first.cert)) {
		t.Errorf("ca.pem is not the authority and what the chain ends in: %v %s", err, bundle)
	}
	if again, err := openAuthority(cfg.Data, certificateNames(), secret.NewSealer(secret.Key{})); err != nil || again.fingerprint() != c.ca.fingerprint() {
		t.Errorf("the authority beside the bundle is read as another: %v", err)
	}
}

func TestWhichCertificate(t *testing.T) {
	c, _ := newCertificates(t, makePair(t, time.Now().Add(10*24*time.Hour), "carillon.example"), func() {})
	for name, own := range map[string]bool{
		"carillon.example": true, "other.example": true, "": true, // no connection tells an address
		"localhost": false, "orders.eventgrid.localhost": false,
	} {
		got, err := c.get(&tls.ClientHelloInfo{ServerName: name})
		if err != nil || (got == c.own.current.Load()) != own {
			t.Errorf("for %q the operator's certificate: %t, want %t (%v)", name, !own, own, err)
		}
	}
	for host, want := range map[string][]string{"carillon.example": {"ends at"}, "localhost": {"ends at"}, "other.example": {"ends at", "is not for other.example"}} {
		got := c.warnings(time.Now(), host)
		if len(got) != len(want) {
			t.Errorf("warnings for %s: %q, want %q", host, got, want)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("warnings for %s: %q, want %q", host, got, want)
			}
		}
	}
	if got := c.warnings(c.ca.certificate.NotAfter.Add(-24*time.Hour), "carillon.example"); !strings.Contains(strings.Join(got, "\n"), "authority ends at") {
		t.Errorf("a day before the end of the authority: %q", got)
	}
}

// TestAuthorityRenews lets the certificate come to its last month.
func TestAuthorityRenews(t *testing.T) {
	c, _ := newCertificates(t, makePair(t, time.Now().Add(time.Hour), "x.example"), func() {})
	first, err := c.ca.server()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.ca.server(); again != first {
		t.Error("a fresh certificate is made anew")
	}
	first.Leaf.NotAfter = time.Now().Add(renewBefore - time.Minute)
	if next, err := c.ca.server(); err != nil || next == first || next.Leaf.NotAfter.Before(time.Now().Add(certificateLife-time.Hour)) {
		t.Errorf("a month before its end the certificate is not renewed: %v", err)
	}
}

func TestBehindProxies(t *testing.T) {
	for _, test := range []struct {
		name, peer string
		forwarded  []string
		proto      string
		from       string
		secure     bool
	}{
		{"a stranger's word counts for nothing", "192.0.2.9:40", []string{"10.9.9.9"}, "https", "192.0.2.9:40", false},
		{"one proxy", "10.0.0.1:40", []string{"192.0.2.9"}, "https", "192.0.2.9:0", true},
		{"a proxy that forwarded clear http", "10.0.0.1:40", []string{"192.0.2.9"}, "http", "192.0.2.9:0", false},
		{"a proxy that does not say", "10.0.0.1:40", []string{"192.0.2.9"}, "", "192.0.2.9:0", true},
		{"two proxies", "10.0.0.1:40", []string{"192.0.2.9", "10.0.0.2"}, "https", "192.0.2.9:0", true},
		{"what the client claims itself", "10.0.0.1:40", []string{"127.0.0.1, 192.0.2.9"}, "https", "192.0.2.9:0", true},
		{"no address at all", "10.0.0.1:40", nil, "https", "10.0.0.1:0", true},
		{"nonsense", "10.0.0.1:40", []string{"192.0.2.9, unknown"}, "https", "10.0.0.1:0", true},
		{"with a port", "10.0.0.1:40", []string{"192.0.2.9:1234"}, "https", "192.0.2.9:0", true},
		{"IPv6", "10.0.0.1:40", []string{"[2001:db8::1]:443"}, "https", "[2001:db8::1]:0", true},
		{"a mapped peer", "[::ffff:10.0.0.1]:40", []string{"192.0.2.9"}, "https", "192.0.2.9:0", true},
		{"the last proto counts", "10.0.0.1:40", []string{"192.0.2.9"}, "https, http", "192.0.2.9:0", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = test.peer
			for _, f := range test.forwarded {
				r.Header.Add("X-Forwarded-For", f)
			}
			if test.proto != "" {
				r.Header.Set("X-Forwarded-Proto", test.proto)
			}
			throughProxies([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.RemoteAddr != test.from || (r.TLS != nil) != test.secure {
					t.Errorf("comes from %s, over TLS %t; want %s, %t", r.RemoteAddr, r.TLS != nil, test.from, test.secure)
				}
			})).ServeHTTP(nil, r)
		})
	}
}
