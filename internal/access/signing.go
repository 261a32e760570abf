package access

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
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

// signingFile is a file with a signing key. All are sealed for the same: the next key
// is moved to where the key lies that signs.
func signingFile(path string) secret.File { return secret.File{Path: path, Owner: "token signing key"} }

// createdHeader of a key's PEM block says when the key was made.
const createdHeader = "Created"

// makeSigningKey makes a key and puts it in the place of what the file holds. It takes
// about a tenth of a second.
func makeSigningKey(file secret.File, sealer *secret.Sealer) (*SigningKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, SigningKeyBits)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	k, err := newSigningKey(private, time.Now().UTC().Truncate(time.Second))
	if err != nil {
		return nil, err
	}
	return k, k.store(file, sealer)
}

// store seals the key into a file.
func (k *SigningKey) store(file secret.File, sealer *secret.Sealer) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return fmt.Errorf("encode signing key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{createdHeader: k.created.Format(time.RFC3339)}, Bytes: der})
	if err := file.Write(sealer, text); err != nil {
		return fmt.Errorf("store signing key: %w", err)
	}
	return nil
}

// loadSigningKey returns the key of a file. It refuses one that others may read.
func loadSigningKey(file secret.File, sealer *secret.Sealer) (*SigningKey, error) {
	text, err := file.Read(sealer)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("signing key %s is not a PEM file with a PRIVATE KEY", file.Path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s cannot be read: it is not in PKCS #8", file.Path)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok || private.N.BitLen() < SigningKeyBits {
		return nil, fmt.Errorf("signing key %s is not an RSA key of at least %d bits", file.Path, SigningKeyBits)
	}
	created, err := time.Parse(time.RFC3339, block.Headers[createdHeader])
	if err != nil { // of a version that did not say
		info, err := os.Stat(file.Path)
		if err != nil {
			return nil, fmt.Errorf("read signing key: %w", err)
		}
		created = info.ModTime().UTC().Truncate(time.Second)
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
