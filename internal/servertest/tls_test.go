package servertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/server"
)

// writeCertificate writes a certificate that signed itself, and its key.
func writeCertificate(t *testing.T, certFile, keyFile, name string, number int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCertificateOfOnesOwn serves one, changes it under the running server with SIGHUP,
// and breaks it: what works stays.
func TestCertificateOfOnesOwn(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, "carillon.example", 1)
	s := New(t, func(c *server.Config) { c.TLSCertificate, c.TLSKey = certFile, keyFile })
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get(s.HTTP() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	// serial is the number of the certificate that a client which trusts /ca.pem gets.
	serial := func(name string) int64 {
		t.Helper()
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM([]byte(get("/ca.pem")))
		c, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), &tls.Config{ServerName: name, RootCAs: trusted})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer func() { _ = c.Close() }()
		n := c.ConnectionState().PeerCertificates[0].SerialNumber
		if !n.IsInt64() {
			return 0 // the authority's are longer
		}
		return n.Int64()
	}
	hangup := func(until string) {
		t.Helper()
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); !strings.Contains(get("/readyz"), until); {
			if time.Now().After(deadline) {
				t.Fatalf("/readyz is %s, want %s in it", get("/readyz"), until)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if own, local := serial("carillon.example"), serial("localhost"); own != 1 || local != 0 {
		t.Errorf("the certificates have numbers %d and %d, want 1 and one of the authority", own, local)
	}
	s.Must("GET", "/subscriptions", nil, nil) // by address, with what DIR/ca.pem says

	if err := os.WriteFile(keyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup("the new certificate is refused and the one from before is served")
	if own := serial("carillon.example"); own != 1 {
		t.Errorf("with a broken key the certificate has number %d, want 1", own)
	}
	if m := get("/metrics"); !strings.Contains(m, "\ncarillon_certificate_refused_total 1") || !strings.Contains(m, `carillon_certificate_expiry_timestamp_seconds{certificate="server"}`) {
		t.Errorf("the metrics do not tell of it")
	}
	writeCertificate(t, certFile, keyFile, "carillon.example", 2)
	hangup(`"warnings":[]`)
	if own := serial("carillon.example"); own != 2 {
		t.Errorf("after the change the certificate has number %d, want 2", own)
	}
}
