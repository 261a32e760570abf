package access

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"

	"github.com/carillon-events/carillon/internal/secret"
)

// SigningKeyBits is the size of the token signing key. 2048 is made in a tenth of
// a second where 3072 can take most of one.
const SigningKeyBits = 2048

// SigningKey signs the tokens of the built-in issuer. It hides itself from every
// kind of printing.
type SigningKey struct {
	private *rsa.PrivateKey
	id      string
}

// ID returns the key's id: its RFC 7638 thumbprint.
func (k *SigningKey) ID() string { return k.id }

// String says which key this is, and no more.
func (k *SigningKey) String() string { return "signing key " + k.id }

// Format keeps the key out of every fmt verb.
func (k *SigningKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue keeps the key out of slog.
func (k *SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// KeySet returns the public keys that tokens may be verified with.
// Source: spec/access.md section 3.2.
func (k *SigningKey) KeySet() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.private.PublicKey, KeyID: k.id, Algorithm: string(jose.RS256), Use: "sig"}}}
}

// SigningKeyPath is where the signing key of a data directory lies.
func SigningKeyPath(dir string) string { return filepath.Join(dir, "keys", "signing.pem") }

// LoadOrCreateSigningKey returns the key kept at path and makes it, readable by its
// owner only, when there is none. Two processes that start at once end with the
// same key. The folder must exist. It takes about a tenth of a second to make one,
// so a server calls it beside other work.
func LoadOrCreateSigningKey(path string) (*SigningKey, error) {
	k, err := LoadSigningKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	private, err := rsa.GenerateKey(rand.Reader, SigningKeyBits)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := writePrivate(path, text, os.Link); errors.Is(err, fs.ErrExist) {
		return LoadSigningKey(path)
	} else if err != nil {
		return nil, fmt.Errorf("store signing key: %w", err)
	}
	return newSigningKey(private)
}

// LoadSigningKey returns the key kept at path. It refuses a file that others may
// read.
func LoadSigningKey(path string) (*SigningKey, error) {
	if err := secret.CheckPrivate(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("signing key %s is not a PEM file with a PRIVATE KEY", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s cannot be read: it is not in PKCS #8", path)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok || private.N.BitLen() < SigningKeyBits {
		return nil, fmt.Errorf("signing key %s is not an RSA key of at least %d bits", path, SigningKeyBits)
	}
	return newSigningKey(private)
}

func newSigningKey(private *rsa.PrivateKey) (*SigningKey, error) {
	jwk := jose.JSONWebKey{Key: &private.PublicKey}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("name signing key: %w", err)
	}
	return &SigningKey{private: private, id: base64.RawURLEncoding.EncodeToString(thumbprint)}, nil
}

// writePrivate writes a file that only its owner may read, whole or not at all.
// place moves it where it belongs: os.Link fails when something is there already,
// os.Rename replaces it.
func writePrivate(path string, text []byte, place func(from, to string) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when it was renamed
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return place(tmp.Name(), path)
}
