package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/secret"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 90 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
)

// authority is the server's own certificate authority: made at the first start,
// its certificate is DIR/ca.pem and served at /ca.pem, its key never leaves DIR/keys.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	names       []string

	mu   sync.Mutex
	leaf *tls.Certificate
}

// openAuthority reads or makes the authority of a data directory. names are the
// host names and addresses that its server certificates are for.
func openAuthority(dir string, names []string) (*authority, error) {
	keyPath, certPath := filepath.Join(dir, "keys", "ca-key.pem"), filepath.Join(dir, "ca.pem")
	a := &authority{names: names}
	keyPEM, err := os.ReadFile(keyPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := a.make(keyPath, certPath); err != nil {
			return nil, fmt.Errorf("make the certificate authority: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("read the certificate authority's key: %w", err)
	default:
		if err := secret.CheckPrivate(keyPath); err != nil {
			return nil, err
		}
		certPEM, err := os.ReadFile(certPath)
		if err != nil {
			return nil, fmt.Errorf("read the certificate authority: %w", err)
		}
		if err := a.parse(keyPEM, certPEM); err != nil {
			return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
		}
	}
	return a, nil
}

func (a *authority) make(keyPath, certPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Carillon local CA " + hex.EncodeToString(serial().Bytes()[:4])},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	// The certificate first: a key without one is made anew, a certificate without a
	// key is replaced.
	if err := os.WriteFile(certPath, certPEM, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(keyPath, keyPEM, 0o600); err != nil {
		return err
	}
	return a.parse(keyPEM, certPEM)
}

func (a *authority) parse(keyPEM, certPEM []byte) error {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the key is not an ECDSA key")
	}
	a.certificate, a.key, a.pem = pair.Leaf, key, certPEM
	return nil
}

// fingerprint is the SHA-256 of the authority's certificate in hex: what proves
// that a downloaded ca.pem is the right one.
func (a *authority) fingerprint() string {
	sum := sha256.Sum256(a.certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// getCertificate returns the server's certificate and makes a new one in time.
func (a *authority) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaf != nil && time.Now().Before(a.leaf.Leaf.NotAfter.Add(-renewBefore)) {
		return a.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the server's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: a.names[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range a.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("make the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate: %w", err)
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}
	return a.leaf, nil
}

// certificateNames are the names a server's certificate is for.
func certificateNames(more ...string) []string {
	names := []string{"localhost", "127.0.0.1", "::1", "*.eventgrid.localhost", "*.local-1.eventgrid.localhost"}
	for _, n := range more {
		if n != "" && n != "0.0.0.0" && n != "::" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n.Add(n, new(big.Int).Lsh(big.NewInt(1), 120))
}
