package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
)

// The stored form is four fields joined by dots:
//
//	s1.KEYID.WRAPPED.BODY
//
// s1 is the format. KEYID names the master key that wrapped the data key.
// WRAPPED is nonce and ciphertext of the data key, BODY nonce and ciphertext of
// the secret, both AES-256-GCM in unpadded base64url.
const format = "s1"

// ErrSealed is returned by Open for a text that was altered, cut, sealed for
// something else, or is not a sealed text at all. It says no more on purpose.
var ErrSealed = errors.New("sealed text does not open: it was altered or sealed for another field")

// ErrUnknownKey is returned by Open for a text sealed under a master key that
// the Sealer does not have.
var ErrUnknownKey = errors.New("sealed with a master key that is not at hand")

// Sealer seals and opens secrets with a master key. It is safe for concurrent use.
type Sealer struct {
	ring atomic.Pointer[ring]
}

// ring is the master keys at one moment.
type ring struct {
	current string                 // id of the key that seals
	keys    map[string]cipher.AEAD // by id, the current one and retired ones
}

// NewSealer returns a Sealer that seals under current and opens what was sealed
// under current or any of the retired keys.
func NewSealer(current Key, retired ...Key) *Sealer {
	s := &Sealer{}
	s.ring.Store(&ring{keys: map[string]cipher.AEAD{}})
	s.Use(current, retired...)
	return s
}

// Use seals under another key from now on. What was sealed under any key that was ever
// given can still be opened: somebody may have read it before the change.
func (s *Sealer) Use(current Key, retired ...Key) {
	next := &ring{current: current.ID(), keys: maps.Clone(s.ring.Load().keys)}
	for _, k := range append([]Key{current}, retired...) {
		next.keys[k.ID()] = gcm(k[:])
	}
	s.ring.Store(next)
}

// Current is the id of the key that seals.
func (s *Sealer) Current() string { return s.ring.Load().current }

// Knows reports whether texts sealed under a key can be opened.
func (s *Sealer) Knows(id string) bool { return s.ring.Load().keys[id] != nil }

// KeyOf returns the id of the master key that a text is sealed under, "" if it is not
// sealed.
func KeyOf(sealed string) string {
	if !IsSealed(sealed) {
		return ""
	}
	return strings.SplitN(sealed, ".", 3)[1]
}

// BeginningOf is how every text begins that is sealed under a key.
func BeginningOf(keyID string) string { return format + "." + keyID + "." }

// Seal returns the stored form of plaintext. associated says what the secret
// belongs to, for example a resource's uid and the field's name; Open needs the
// same text.
func (s *Sealer) Seal(plaintext []byte, associated string) (string, error) {
	var dataKey [KeySize]byte
	if _, err := rand.Read(dataKey[:]); err != nil {
		return "", fmt.Errorf("make a data key: %w", err)
	}
	defer clear(dataKey[:])
	body := encrypt(gcm(dataKey[:]), plaintext, "body", associated)
	return s.assemble(dataKey[:], associated, body), nil
}

// Open returns the plaintext of a stored form.
func (s *Sealer) Open(sealed, associated string) ([]byte, error) {
	dataKey, body, err := s.unwrap(sealed, associated)
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	return decrypt(gcm(dataKey), body, "body", associated)
}

// IsSealed reports whether a text has the stored form.
func IsSealed(text string) bool {
	return strings.HasPrefix(text, format+".") && strings.Count(text, ".") == 3
}

// Rewrap returns the stored form with its data key wrapped by the current master
// key; the body stays as it is. Rotation calls it for every stored secret.
func (s *Sealer) Rewrap(sealed, associated string) (string, error) {
	dataKey, body, err := s.unwrap(sealed, associated)
	if err != nil {
		return "", err
	}
	defer clear(dataKey)
	return s.assemble(dataKey, associated, body), nil
}

func (s *Sealer) assemble(dataKey []byte, associated, body string) string {
	r := s.ring.Load()
	wrapped := encrypt(r.keys[r.current], dataKey, "key "+r.current, associated)
	return BeginningOf(r.current) + wrapped + "." + body
}

// unwrap returns the data key and the body, still sealed.
func (s *Sealer) unwrap(sealed, associated string) (dataKey []byte, body string, err error) {
	fields := strings.Split(sealed, ".")
	if len(fields) != 4 || fields[0] != format || strings.ContainsAny(sealed, "\r\n") { // which base64 would skip
		return nil, "", ErrSealed
	}
	master, ok := s.ring.Load().keys[fields[1]]
	if !ok {
		return nil, "", ErrUnknownKey
	}
	dataKey, err = decrypt(master, fields[2], "key "+fields[1], associated)
	if err != nil {
		return nil, "", err
	}
	if len(dataKey) != KeySize {
		return nil, "", ErrSealed
	}
	return dataKey, fields[3], nil
}

func encrypt(aead cipher.AEAD, plaintext []byte, purpose, associated string) string {
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, plaintext, additional(purpose, associated)))
}

func decrypt(aead cipher.AEAD, text, purpose, associated string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, ErrSealed
	}
	plaintext, err := aead.Open(nil, nil, raw, additional(purpose, associated))
	if err != nil {
		return nil, ErrSealed
	}
	return plaintext, nil
}

// additional binds a ciphertext to format, purpose and owner. Purposes hold no
// NUL, so no two pairs give the same bytes.
func additional(purpose, associated string) []byte {
	return []byte(format + "\x00" + purpose + "\x00" + associated)
}

// gcm returns AES-256-GCM that puts a random nonce before its ciphertext. Each
// data key seals one text, and a master key wraps far fewer than 2^32 of them.
func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("secret: " + err.Error()) // the length is a constant
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("secret: " + err.Error()) // AES has the block size that GCM wants
	}
	return aead
}

// KeySize is the length of a master key in bytes.
const KeySize = 32

// Key is a master key. It hides itself like a [String].
type Key [KeySize]byte

// ID names the key without telling anything about it.
func (k Key) ID() string {
	sum := sha256.Sum256(append([]byte("carillon master key id\x00"), k[:]...))
	return hex.EncodeToString(sum[:6])
}
