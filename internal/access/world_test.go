package access

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// memoryKV is a key-value store in memory that tells its watchers of a change
// before the call that made it returns.
type memoryKV struct {
	mu       sync.Mutex
	revision uint64
	entries  map[string]engine.Change
	watchers []func(engine.Change)
	fail     func(key string) error // asked before each write
}

func (m *memoryKV) put(key string, value []byte, allowed func(old engine.Change, ok bool) error) (uint64, error) {
	m.mu.Lock()
	if m.fail != nil {
		if err := m.fail(key); err != nil {
			m.mu.Unlock()
			return 0, err
		}
	}
	old, ok := m.entries[key]
	if err := allowed(old, ok); err != nil {
		m.mu.Unlock()
		return 0, err
	}
	m.revision++
	c := engine.Change{Key: key, Value: value, Revision: m.revision, Deleted: value == nil}
	if c.Deleted {
		delete(m.entries, key)
	} else {
		m.entries[key] = c
	}
	watchers := slices.Clone(m.watchers)
	m.mu.Unlock()
	for _, f := range watchers {
		f(c)
	}
	return c.Revision, nil
}

func (m *memoryKV) Create(_ context.Context, key string, value []byte) (uint64, error) {
	return m.put(key, value, func(_ engine.Change, ok bool) error {
		if ok {
			return fault.New(fault.Conflict, "Conflict", "There is a %s already.", key)
		}
		return nil
	})
}

func (m *memoryKV) Update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return m.put(key, value, atRevision(revision))
}

func (m *memoryKV) Delete(_ context.Context, key string, revision uint64) error {
	_, err := m.put(key, nil, atRevision(revision))
	return err
}

func atRevision(want uint64) func(engine.Change, bool) error {
	return func(old engine.Change, _ bool) error {
		if want != 0 && old.Revision != want {
			return fault.New(fault.PreconditionFailed, "PreconditionFailed", "changed")
		}
		return nil
	}
}

func (m *memoryKV) Watch(_ context.Context, f func(engine.Change)) error {
	m.mu.Lock()
	there := slices.Collect(maps.Values(m.entries))
	m.watchers = append(m.watchers, f)
	m.mu.Unlock()
	for _, c := range there {
		f(c)
	}
	return nil
}

// world is a directory with an owner and all that is made over it.
type world struct {
	kv        *memoryKV
	owner     Owner
	ownerPath string
	directory *Directory
	strict    *Authorizer
	actions   *Authorizer
	tokens    *Tokens
}

const testOrigin = "https://grid.example:8443"

// testKey is one key for all tests: making it takes a while.
var testKey = sync.OnceValue(makeKey)

func makeKey() *SigningKey {
	private, err := rsa.GenerateKey(rand.Reader, SigningKeyBits)
	if err != nil {
		panic(err)
	}
	k, err := newSigningKey(private, time.Now())
	if err != nil {
		panic(err)
	}
	return k
}

// ringOf is a ring with one key.
func ringOf(k *SigningKey) *KeyRing {
	r := &KeyRing{}
	r.keys.Store(&keys{signing: k})
	return r
}

func newWorld(t testing.TB) *world {
	return openWorld(t, &memoryKV{entries: map[string]engine.Change{}}, t.TempDir())
}

// openWorld is a start of the server on what kv holds.
func openWorld(t testing.TB, kv *memoryKV, dir string, custom ...Role) *world {
	t.Helper()
	roles, err := NewRoles(custom...)
	if err != nil {
		t.Fatal(err)
	}
	store := resource.NewStore(kv)
	w := &world{kv: kv, directory: NewDirectory(store, roles), ownerPath: OwnerPath(dir)}
	if err := store.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.owner, err = w.directory.Bootstrap(t.Context(), w.ownerPath, testOrigin, secret.Source{}); err != nil {
		t.Fatal(err)
	}
	if w.strict, err = NewAuthorizer(w.directory, ""); err != nil {
		t.Fatal(err)
	}
	if w.actions, err = NewAuthorizer(w.directory, Actions); err != nil {
		t.Fatal(err)
	}
	w.tokens, err = NewTokens(ringOf(testKey()), w.directory, TokensConfig{TenantID: w.owner.TenantID, Origins: []string{testOrigin, "https://localhost:8443"}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// principal makes a principal and returns it as a caller.
func (w *world) principal(t testing.TB, name string) Caller {
	t.Helper()
	p, _, err := w.directory.CreatePrincipal(t.Context(), name, Caller{})
	if err != nil {
		t.Fatal(err)
	}
	return Caller{ObjectID: p.ObjectID, TenantID: p.TenantID, AppID: p.AppID, Name: p.Name, Type: p.Type}
}

// grant assigns a role by name.
func (w *world) grant(t testing.TB, to Caller, role, scope string) Assignment {
	t.Helper()
	r, ok := w.directory.Roles().Named(role)
	if !ok {
		t.Fatalf("no role %q", role)
	}
	a, _, err := w.directory.Assign(t.Context(), Assignment{
		Name: uuid.NewString(), Scope: resource.MustID(scope), RoleID: r.ID, PrincipalID: to.ObjectID,
	}, Caller{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) ownerCaller(t testing.TB) Caller {
	t.Helper()
	p, ok := w.directory.Principal(w.owner.ObjectID)
	if !ok {
		t.Fatal("the owner is not there")
	}
	return Caller{ObjectID: p.ObjectID, TenantID: p.TenantID, AppID: p.AppID, Name: p.Name, Type: p.Type}
}

// group stores a group.
func (w *world) group(t testing.TB, name string, members ...string) Principal {
	t.Helper()
	p := Principal{ObjectID: uuid.NewString(), TenantID: w.owner.TenantID, Name: name, Type: Group, Enabled: true, Members: members}
	if _, err := w.directory.principals.Create(t.Context(), p.ObjectID, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) setMembers(t testing.TB, group string, members ...string) {
	t.Helper()
	if _, err := w.directory.changePrincipal(t.Context(), group, func(p *Principal) error {
		p.Members = members
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// token issues a management token.
func (w *world) token(t testing.TB, to Caller) string {
	t.Helper()
	p, ok := w.directory.Principal(to.ObjectID)
	if !ok {
		t.Fatalf("no principal %s", to.ObjectID)
	}
	issued, err := w.tokens.Issue(Grant{Principal: p, Audience: AudienceManagement, Issuer: w.tokens.Issuer(testOrigin, FaceV2), Lifetime: TokenLifetime})
	if err != nil {
		t.Fatal(err)
	}
	return issued.Token.Reveal()
}

// wantFault fails unless err is a fault of the kind and code.
func wantFault(t testing.TB, err error, kind fault.Kind, code string) *fault.Error {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != kind || f.Code != code {
		t.Fatalf("error %v, want a fault %s with code %s", err, kind, code)
	}
	return f
}
