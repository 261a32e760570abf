package server

import (
	"bytes"
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
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/secret"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 90 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
)

// authority is the server's own certificate authority: made at the first start,
// its certificate is the first in DIR/ca.pem, its key never leaves DIR/keys and is
// sealed with the master key there.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	names       []string

	file   secret.File // of the key
	sealer *secret.Sealer

	mu   sync.Mutex
	leaf *tls.Certificate
}

// openAuthority reads or makes the authority of a data directory. names are the
// host names and addresses that its server certificates are for. A key in clear, as a
// version from before left it, is sealed.
func openAuthority(dir string, names []string, sealer *secret.Sealer) (*authority, error) {
	certPath := filepath.Join(dir, "ca.pem")
	a := &authority{names: names, sealer: sealer,
		file: secret.File{Path: filepath.Join(dir, "keys", "ca-key.pem"), Owner: "certificate authority key"}}
	keyPEM, err := a.file.Read(sealer)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := a.make(certPath); err != nil {
			return nil, fmt.Errorf("make the certificate authority: %w", err)
		}
		return a, nil
	case err != nil:
		return nil, fmt.Errorf("read the certificate authority's key: %w", err)
	}
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	if err := a.parse(keyPEM, certPEM); err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	return a, a.Reseal()
}

// SealedWith returns the id of the master key that the key is sealed with.
func (a *authority) SealedWith() ([]string, error) {
	id, err := a.file.KeyID()
	return []string{id}, err
}

// Reseal seals the key with the current master key.
func (a *authority) Reseal() error { return a.file.Reseal(a.sealer) }

func (a *authority) make(certPath string) error {
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
	if err := a.file.Write(a.sealer, keyPEM); err != nil {
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
	a.certificate, a.key = pair.Leaf, key
	return nil
}

// pem is the authority's certificate.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// fingerprint is the SHA-256 of the authority's certificate in hex: what proves
// that a downloaded ca.pem is the right one.
func (a *authority) fingerprint() string {
	sum := sha256.Sum256(a.certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// server returns the server's certificate and makes a new one in time.
func (a *authority) server() (*tls.Certificate, error) {
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
		NotBefore: time.Now().Add(-time.Hour), NotAfter: earlier(time.Now().Add(certificateLife), a.certificate.NotAfter),
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

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// certificates are what the server shows: the operator's pair, if there is one, and
// the authority's certificate.
type certificates struct {
	path   string // of the bundle that clients trust
	ca     *authority
	own    *pair // nil for none
	bundle atomic.Pointer[[]byte]
}

// openCertificates opens the authority of a data directory and the operator's pair.
func openCertificates(cfg *Config, names []string, sealer *secret.Sealer, log *slog.Logger, failed func()) (*certificates, error) {
	ca, err := openAuthority(cfg.Data, names, sealer)
	if err != nil {
		return nil, err
	}
	c := &certificates{path: filepath.Join(cfg.Data, "ca.pem"), ca: ca}
	if cfg.TLSCertificate == "" {
		return c, c.publish(nil)
	}
	c.own, err = openPair(cfg.TLSCertificate, cfg.TLSKey, log, c.publish, failed)
	return c, err
}

// publish makes the bundle of what clients have to trust: the authority, and what the
// operator's chain ends in. It is DIR/ca.pem and /ca.pem.
func (c *certificates) publish(own *tls.Certificate) error {
	bundle := c.ca.pem()
	if own != nil {
		bundle = append(bundle, roots(own)...)
	}
	if there, err := os.ReadFile(c.path); err != nil || !bytes.Equal(there, bundle) {
		next := c.path + ".new"
		if err := errors.Join(os.WriteFile(next, bundle, 0o644), os.Rename(next, c.path)); err != nil { //nolint:gosec // certificates are public
			return fmt.Errorf("write the certificates that clients trust: %w", err)
		}
	}
	c.bundle.Store(&bundle)
	return nil
}

// get returns the certificate for a connection: the operator's, unless the client asks
// for a name of this machine that only the authority's certificate has. So commands on
// this machine go on working.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	local, err := c.ca.server()
	if c.own == nil {
		return local, err
	}
	own, name := c.own.current.Load(), hello.ServerName
	if name == "" && hello.Conn != nil { // addresses are not sent
		name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
	}
	if err == nil && own.Leaf.VerifyHostname(name) != nil && local.Leaf.VerifyHostname(name) == nil {
		return local, nil
	}
	return own, nil
}

// covers reports whether the operator's certificate is for a host.
func (c *certificates) covers(host string) bool {
	return c.own != nil && c.own.current.Load().Leaf.VerifyHostname(host) == nil
}

// ends tells when what is shown to most clients ends, and when the authority does.
func (c *certificates) ends() (server, authority time.Time) {
	authority = c.ca.certificate.NotAfter
	if c.own != nil {
		return c.own.current.Load().Leaf.NotAfter, authority
	}
	if leaf, err := c.ca.server(); err == nil {
		server = leaf.Leaf.NotAfter
	}
	return server, authority
}

// How long before its end a certificate is warned of: the operator's is somebody's to
// renew, and a new authority has to reach every client.
const (
	warnOwn       = 14 * 24 * time.Hour
	warnAuthority = 180 * 24 * time.Hour
)

// warnings says what somebody has to do about certificates. host is what clients
// call the server by.
func (c *certificates) warnings(now time.Time, host string) []string {
	var out []string
	server, authority := c.ends()
	if c.own != nil {
		if problem := c.own.warning(); problem != "" {
			out = append(out, problem)
		}
		if server.Sub(now) < warnOwn {
			out = append(out, "the certificate of --tls-certificate ends at "+server.UTC().Format(time.RFC3339))
		}
		if ip := net.ParseIP(host); !c.covers(host) && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			out = append(out, "the certificate of --tls-certificate is not for "+host+", which clients of --public-url look for")
		}
	}
	if authority.Sub(now) < warnAuthority {
		out = append(out, "the server's own certificate authority ends at "+authority.UTC().Format(time.RFC3339)+": stop the server, remove DIR/keys/ca-key.pem, start it, and give the new ca.pem to its clients")
	}
	return out
}
