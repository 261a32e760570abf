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
	"time"

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
	created time.Time
}

// ID returns the key's id: its RFC 7638 thumbprint.
func (k *SigningKey) ID() string { return k.id }

// String says which key this is, and no more.
func (k *SigningKey) String() string { return "signing key " + k.id }

// Format keeps the key out of every fmt verb.
func (k *SigningKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue keeps the key out of slog.
func (k *SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

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
	if k, err = makeSigningKey(path, os.Link); errors.Is(err, fs.ErrExist) {
		return LoadSigningKey(path)
	}
	return k, err
}

// createdHeader of a key's PEM block says when the key was made.
const createdHeader = "Created"

// makeSigningKey makes a key and places its file at path.
func makeSigningKey(path string, place func(from, to string) error) (*SigningKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, SigningKeyBits)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{createdHeader: now.Format(time.RFC3339)}, Bytes: der})
	if err := writePrivate(path, text, place); err != nil {
		return nil, fmt.Errorf("store signing key: %w", err)
	}
	return newSigningKey(private, now)
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
	created, err := time.Parse(time.RFC3339, block.Headers[createdHeader])
	if err != nil { // of a version that did not say
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read signing key: %w", err)
		}
		created = info.ModTime().UTC()
	}
	return newSigningKey(private, created)
}

func newSigningKey(private *rsa.PrivateKey, created time.Time) (*SigningKey, error) {
	id, err := keyID(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	return &SigningKey{private: private, id: id, created: created}, nil
}

// keyID returns the id of a key: its RFC 7638 thumbprint.
func keyID(public *rsa.PublicKey) (string, error) {
	jwk := jose.JSONWebKey{Key: public}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("name signing key: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(thumbprint), nil
}

// writePrivate writes a file that only its owner may read, whole or not at all, and
// so that it is there after a power cut.
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
	if err := place(tmp.Name(), path); err != nil {
		return err
	}
	return secret.SyncDir(filepath.Dir(path))
}
