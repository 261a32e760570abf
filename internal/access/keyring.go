package access

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	// MaxTokenLifetime is the longest that a token lives, signed by the server or from
	// the data directory. For so long, a key that was replaced still verifies.
	MaxTokenLifetime = 30 * 24 * time.Hour

	// announceTime is how long a key is published before it signs, when nobody hurries:
	// for verifiers that keep our keys for a day. Source: spec/access.md section 3.2.
	announceTime = 24 * time.Hour

	nextKeyFile   = "signing-next.pem"
	retiredFolder = "retired"
	retiredHeader = "Retired"
)

// KeyState says what a signing key is good for.
type KeyState string

// The states of a signing key, in the order that it goes through them. A rotation
// moves all keys on.
const (
	KeyNext    KeyState = "next"    // published, and signs nothing yet
	KeySigning KeyState = "signing" // signs what is issued
	KeyRetired KeyState = "retired" // verifies what it signed, until that has expired
)

// Key is a signing key as it may be shown.
type Key struct {
	ID      string
	State   KeyState
	Created time.Time // zero for a retired one
	Until   time.Time // of a retired one: verifies until then
}

// KeyRing holds the signing keys of a data directory: the one that signs, at times the
// one that follows it, and those that were replaced, of which only the public half is
// kept. It is safe for concurrent use.
//
// The signing key is always the file of [SigningKeyPath], which commands read that sign
// from the directory. A rotation first stores the old key's public half, then puts the
// new key in the old one's place: wherever it is cut short, one key signs and
// everything that was signed can be verified.
//
// Both files are sealed with the master key.
type KeyRing struct {
	path    string // of the key that signs
	sealer  *secret.Sealer
	mu      sync.Mutex // held while files change
	keys    atomic.Pointer[keys]
	witness func(ctx context.Context, operation, key string) error
	changed []func() // tokens that were found good may not be so any more
}

// keys are a KeyRing's at one moment.
type keys struct {
	signing *SigningKey
	next    *SigningKey // nil for none
	retired []retiredKey
}

type retiredKey struct {
	id     string
	public *rsa.PublicKey
	until  time.Time
}

// OpenKeyRing reads the signing keys of a data directory, and makes the first one. Keys
// that lie there in clear, as a version from before left them, are sealed. The folder
// for keys must exist, and no other process may open it as well.
func OpenKeyRing(dir string, sealer *secret.Sealer) (*KeyRing, error) {
	r := &KeyRing{path: SigningKeyPath(dir), sealer: sealer}
	signing, err := r.load(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		signing, err = makeSigningKey(signingFile(r.path), sealer)
	}
	if err != nil {
		return nil, err
	}
	k := &keys{signing: signing}
	if k.next, err = r.load(r.nextPath()); errors.Is(err, fs.ErrNotExist) {
		k.next = nil
	} else if err != nil {
		return nil, err
	}
	if k.retired, err = r.loadRetired(signing.id); err != nil {
		return nil, err
	}
	r.keys.Store(k)
	return r, nil
}

// load reads a key, and seals it if it lies there in clear.
func (r *KeyRing) load(path string) (*SigningKey, error) {
	file := signingFile(path)
	k, err := loadSigningKey(file, r.sealer)
	if err != nil {
		return nil, err
	}
	if id, err := file.KeyID(); err != nil || id != "" {
		return k, err
	}
	return k, k.store(file, r.sealer)
}

// files are those of the keys that there are.
func (r *KeyRing) files() []secret.File {
	files := []secret.File{signingFile(r.path)}
	if r.keys.Load().next != nil {
		files = append(files, signingFile(r.nextPath()))
	}
	return files
}

// SealedWith returns the id of the master key that each key is sealed with.
func (r *KeyRing) SealedWith() (ids []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range r.files() {
		id, err := file.KeyID()
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Reseal seals the keys with the current master key.
func (r *KeyRing) Reseal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range r.files() {
		if err := file.Reseal(r.sealer); err != nil {
			return err
		}
	}
	return nil
}

// Observe sets who is told of a rotation before it is made; an error keeps it from
// being made. Call it before the first one.
func (r *KeyRing) Observe(witness func(ctx context.Context, operation, key string) error) {
	r.witness = witness
}

func (r *KeyRing) nextPath() string { return filepath.Join(filepath.Dir(r.path), nextKeyFile) }

func (r *KeyRing) retiredPath(id string) string {
	return filepath.Join(filepath.Dir(r.path), retiredFolder, id+".pem")
}

// loadRetired reads the keys that were replaced. One that still signs was about to be
// replaced when the process ended.
func (r *KeyRing) loadRetired(signing string) ([]retiredKey, error) {
	entries, err := os.ReadDir(filepath.Dir(r.retiredPath("")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read retired signing keys: %w", err)
	}
	var retired []retiredKey
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".pem")
		if !ok || id == signing {
			continue
		}
		text, err := os.ReadFile(r.retiredPath(id))
		if err != nil {
			return nil, fmt.Errorf("read retired signing keys: %w", err)
		}
		damaged := fmt.Errorf("retired signing key %s is damaged: remove it, and what it signed is refused", r.retiredPath(id))
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, damaged
		}
		at, err := time.Parse(time.RFC3339, block.Headers[retiredHeader])
		parsed, parseErr := x509.ParsePKIXPublicKey(block.Bytes)
		public, isRSA := parsed.(*rsa.PublicKey)
		if err != nil || parseErr != nil || !isRSA {
			return nil, damaged
		}
		if named, err := keyID(public); err != nil || named != id {
			return nil, damaged
		}
		retired = append(retired, retiredKey{id: id, public: public, until: at.Add(MaxTokenLifetime)})
	}
	return retired, nil
}

// current returns the key that signs.
func (r *KeyRing) current() *SigningKey { return r.keys.Load().signing }

// verifier returns the public key with an id, nil when there is none that counts.
func (r *KeyRing) verifier(id string) *rsa.PublicKey {
	k := r.keys.Load()
	if id == k.signing.id {
		return &k.signing.private.PublicKey
	}
	if k.next != nil && id == k.next.id {
		return &k.next.private.PublicKey
	}
	for _, old := range k.retired {
		if old.id == id && time.Now().Before(old.until.Add(clockSkew)) {
			return old.public
		}
	}
	return nil
}

// KeySet returns the public keys that tokens may be verified with, the one that signs
// first. Source: spec/access.md section 3.2.
func (r *KeyRing) KeySet() jose.JSONWebKeySet {
	k := r.keys.Load()
	var set jose.JSONWebKeySet
	add := func(id string, public *rsa.PublicKey) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: public, KeyID: id, Algorithm: string(jose.RS256), Use: "sig"})
	}
	add(k.signing.id, &k.signing.private.PublicKey)
	if k.next != nil {
		add(k.next.id, &k.next.private.PublicKey)
	}
	for _, old := range k.retired {
		add(old.id, old.public)
	}
	return set
}

// Keys returns the keys as they may be shown, newest first.
func (r *KeyRing) Keys() []Key {
	k := r.keys.Load()
	var list []Key
	if k.next != nil {
		list = append(list, Key{ID: k.next.id, State: KeyNext, Created: k.next.created})
	}
	list = append(list, Key{ID: k.signing.id, State: KeySigning, Created: k.signing.created})
	old := slices.SortedFunc(slices.Values(k.retired), func(a, b retiredKey) int { return b.until.Compare(a.until) })
	for _, o := range old {
		list = append(list, Key{ID: o.id, State: KeyRetired, Until: o.until})
	}
	return list
}

// Rotate makes a new key sign. The one before goes on verifying what it signed, unless
// all earlier keys are revoked: then every token that is out there ends.
func (r *KeyRing) Rotate(ctx context.Context, revoke bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	operation := "rotate"
	if revoke {
		operation = "rotate and revoke"
	}
	old := r.keys.Load()
	if err := r.tell(ctx, operation, old.signing.id); err != nil {
		return err
	}
	next := old.next
	if next == nil || revoke { // whoever has seen the directory has the next key as well
		var err error
		if next, err = makeSigningKey(signingFile(r.nextPath()), r.sealer); err != nil {
			return err
		}
		announced := *old
		announced.next = next // commands that sign from the directory have it a moment before us
		r.keys.Store(&announced)
	}
	now := time.Now().UTC().Truncate(time.Second)
	k := &keys{signing: next}
	if revoke {
		for _, o := range old.retired {
			if err := os.Remove(r.retiredPath(o.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove a retired signing key: %w", err)
			}
		}
		if len(old.retired) > 0 { // or a power cut brings them back, and what they signed
			if err := secret.SyncDir(filepath.Dir(r.retiredPath(""))); err != nil {
				return fmt.Errorf("remove the retired signing keys: %w", err)
			}
		}
	} else {
		if err := r.retire(old.signing, now); err != nil {
			return err
		}
		k.retired = append(slices.Clone(old.retired), retiredKey{id: old.signing.id, public: &old.signing.private.PublicKey, until: now.Add(MaxTokenLifetime)})
	}
	if err := os.Rename(r.nextPath(), r.path); err != nil {
		return fmt.Errorf("replace the signing key: %w", err)
	}
	r.install(k)
	if err := secret.SyncDir(filepath.Dir(r.path)); err != nil {
		return fmt.Errorf("replace the signing key: %w", err)
	}
	return nil
}

// tell tells the witness, if there is one.
func (r *KeyRing) tell(ctx context.Context, operation, key string) error {
	if r.witness == nil {
		return nil
	}
	return r.witness(ctx, operation, key)
}

// OnChange registers f, called when a key signs or verifies no longer. Call it before
// the first rotation.
func (r *KeyRing) OnChange(f func()) { r.changed = append(r.changed, f) }

func (r *KeyRing) install(k *keys) {
	r.keys.Store(k)
	for _, f := range r.changed {
		f()
	}
}

// retire stores the public half of a key that is about to be replaced.
func (r *KeyRing) retire(k *SigningKey, at time.Time) error {
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		return fmt.Errorf("encode a retired signing key: %w", err)
	}
	path := r.retiredPath(k.id)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store a retired signing key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{retiredHeader: at.Format(time.RFC3339)}, Bytes: der})
	if err := secret.WritePrivate(path, text); err != nil {
		return fmt.Errorf("store a retired signing key: %w", err)
	}
	return nil
}

// Tend does what is due: it announces a key a day before the one that signs reaches
// age, rotates when it has, and forgets keys whose tokens have expired. Age 0 never
// rotates.
func (r *KeyRing) Tend(ctx context.Context, age time.Duration) error {
	if err := r.forget(); err != nil {
		return err
	}
	if age <= 0 {
		return nil
	}
	lead := min(announceTime, age/2)
	k := r.keys.Load()
	old := time.Since(k.signing.created)
	switch {
	case k.next == nil && old >= age-lead:
		return r.announce()
	case k.next != nil && old >= age && time.Since(k.next.created) >= lead:
		return r.Rotate(ctx, false)
	}
	return nil
}

// announce makes the key that will sign next and publishes it.
func (r *KeyRing) announce() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := *r.keys.Load()
	if k.next != nil {
		return nil
	}
	next, err := makeSigningKey(signingFile(r.nextPath()), r.sealer)
	if err != nil {
		return err
	}
	k.next = next
	r.keys.Store(&k)
	return nil
}

// forget drops retired keys whose tokens have all expired.
func (r *KeyRing) forget() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := *r.keys.Load()
	gone := func(o retiredKey) bool { return time.Now().After(o.until.Add(clockSkew)) }
	if !slices.ContainsFunc(k.retired, gone) {
		return nil
	}
	var left []retiredKey
	for _, o := range k.retired {
		if !gone(o) {
			left = append(left, o)
			continue
		}
		if err := os.Remove(r.retiredPath(o.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a retired signing key: %w", err)
		}
	}
	k.retired = left
	r.install(&k)
	return nil
}

// errTokenLife is the refusal of a life that no token has.
func errTokenLife(life time.Duration) error {
	return fault.Field("ttl", "A token lives for at least a second and at most %s, not %s.", MaxTokenLifetime, life)
}
