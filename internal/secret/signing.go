package secret

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Versions of signatures of Standard Webhooks.
// Source: spec/delivery.md section 9.6.
const (
	SignatureV1  = "v1"  // HMAC-SHA256 with a secret that both sides have
	SignatureV1a = "v1a" // ed25519: the receiver has the public key only
)

// Prefixes of keys as they are written.
const (
	symmetricPrefix = "whsec_"
	privatePrefix   = "whsk_"
	publicPrefix    = "whpk_"
)

// Lengths of a symmetric key in bytes; new ones have newSymmetricKey.
const (
	minSymmetricKey = 24
	maxSymmetricKey = 64
	newSymmetricKey = 32
)

// SigningKey signs deliveries the way of Standard Webhooks. It hides itself like a
// [String]. The zero value signs nothing.
type SigningKey struct {
	symmetric  []byte
	asymmetric ed25519.PrivateKey
}

// NewSigningKey makes a key for a version of signatures.
func NewSigningKey(version string) (SigningKey, error) {
	switch version {
	case SignatureV1:
		k := SigningKey{symmetric: make([]byte, newSymmetricKey)}
		_, _ = rand.Read(k.symmetric) // crypto/rand.Read never fails
		return k, nil
	case SignatureV1a:
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return SigningKey{}, fmt.Errorf("make a signing key: %w", err)
		}
		return SigningKey{asymmetric: private}, nil
	}
	return SigningKey{}, fmt.Errorf("signatures of version %q are not known: use %s or %s", version, SignatureV1, SignatureV1a)
}

// ParseSigningKey reads a key as it is written: whsec_ and base64 of 24 to 64 bytes for
// v1; whsk_ and base64 of an ed25519 seed, or of seed and public key, for v1a. Its
// errors do not show the text.
func ParseSigningKey(text string) (SigningKey, error) {
	if encoded, ok := strings.CutPrefix(text, symmetricPrefix); ok {
		raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || len(raw) < minSymmetricKey || len(raw) > maxSymmetricKey {
			return SigningKey{}, fmt.Errorf("a %s key is base64 of %d to %d bytes", symmetricPrefix, minSymmetricKey, maxSymmetricKey)
		}
		return SigningKey{symmetric: raw}, nil
	}
	encoded, ok := strings.CutPrefix(text, privatePrefix)
	if !ok {
		return SigningKey{}, fmt.Errorf("a signing key begins with %s (v1) or %s (v1a)", symmetricPrefix, privatePrefix)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	switch {
	case err == nil && len(raw) == ed25519.SeedSize:
		return SigningKey{asymmetric: ed25519.NewKeyFromSeed(raw)}, nil
	case err == nil && len(raw) == ed25519.PrivateKeySize:
		k := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
		if !k.Equal(ed25519.PrivateKey(raw)) {
			return SigningKey{}, errors.New("the public key in the " + privatePrefix + " key is not that of its seed")
		}
		return SigningKey{asymmetric: k}, nil
	}
	return SigningKey{}, fmt.Errorf("a %s key is base64 of %d or %d bytes", privatePrefix, ed25519.SeedSize, ed25519.PrivateKeySize)
}

// Version returns the version of the signatures that the key makes.
func (k SigningKey) Version() string {
	if k.asymmetric != nil {
		return SignatureV1a
	}
	return SignatureV1
}

// Reveal returns the key as it is written: what [ParseSigningKey] reads.
func (k SigningKey) Reveal() string {
	if k.asymmetric != nil {
		return privatePrefix + base64.StdEncoding.EncodeToString(k.asymmetric)
	}
	return symmetricPrefix + base64.StdEncoding.EncodeToString(k.symmetric)
}

// Public returns the public key of a v1a key as it is written, "" for a v1 key.
func (k SigningKey) Public() string {
	if k.asymmetric == nil {
		return ""
	}
	return publicPrefix + base64.StdEncoding.EncodeToString(k.asymmetric.Public().(ed25519.PublicKey))
}

// AppendSignature appends the signature of a message to dst: version, comma, base64.
// The bytes that are signed are id, timestamp and body, joined by dots.
// Source: spec/delivery.md section 9.6.
func (k SigningKey) AppendSignature(dst []byte, id string, timestamp int64, body []byte) []byte {
	head := make([]byte, 0, 128)
	head = append(append(head, id...), '.')
	head = append(strconv.AppendInt(head, timestamp, 10), '.')
	dst = append(append(dst, k.Version()...), ',')
	if k.asymmetric != nil {
		return base64.StdEncoding.AppendEncode(dst, ed25519.Sign(k.asymmetric, append(head, body...)))
	}
	mac := hmac.New(sha256.New, k.symmetric)
	mac.Write(head)
	mac.Write(body)
	return base64.StdEncoding.AppendEncode(dst, mac.Sum(head[:0]))
}

// String hides the key.
func (k SigningKey) String() string { return Hidden }

// GoString hides the key from %#v.
func (k SigningKey) GoString() string { return Hidden }

// Format hides the key from every verb.
func (k SigningKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Hidden)) }

// MarshalText hides the key from encoders.
func (k SigningKey) MarshalText() ([]byte, error) { return []byte(Hidden), nil }
