package access

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

// ringDir is a data directory with testKey.
func ringDir(t *testing.T) string {
	t.Helper()
	dir, _ := localDir(t)
	return dir
}

func openRing(t *testing.T, dir string) *KeyRing {
	t.Helper()
	r, err := OpenKeyRing(dir, testSealer())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func statesOf(r *KeyRing) []KeyState {
	var states []KeyState
	for _, k := range r.Keys() {
		states = append(states, k.State)
	}
	return states
}

// over makes the tokens of a world over a ring.
func (w *world) over(t *testing.T, r *KeyRing, providers *Providers) *Tokens {
	t.Helper()
	tokens, err := NewTokens(r, w.directory, TokensConfig{TenantID: w.owner.TenantID, Origins: []string{testOrigin}, Providers: providers})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func (t *Tokens) forTest(tb testing.TB, p Principal) string {
	tb.Helper()
	issued, err := t.Issue(Grant{Principal: p, Audience: AudienceManagement, Issuer: t.Issuer(testOrigin, FaceV2), Lifetime: TokenLifetime})
	if err != nil {
		tb.Fatal(err)
	}
	return issued.Token.Reveal()
}

// A new key signs, what the old one signed still holds, and so it is after a start.
func TestRotate(t *testing.T) {
	dir, w := localDir(t)
	r := openRing(t, dir)
	tokens := w.over(t, r, nil)
	owner, _ := w.directory.Principal(w.owner.ObjectID)
	local, err := OpenLocal(t.Context(), dir, secret.Source{})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := local.Token(AudienceManagement, MaxTokenLifetime)
	if err != nil {
		t.Fatal(err)
	}
	before := []string{tokens.forTest(t, owner), issued.Token.Reveal()}
	old := r.current().id
	if err := r.Rotate(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if r.current().id == old || !slices.Equal(statesOf(r), []KeyState{KeySigning, KeyRetired}) {
		t.Fatalf("keys %+v", r.Keys())
	}
	if set := r.KeySet(); len(set.Keys) != 2 || set.Keys[0].KeyID != r.current().id || set.Keys[1].KeyID != old {
		t.Errorf("published %+v", set)
	}
	after := tokens.forTest(t, owner)
	local, err = OpenLocal(t.Context(), dir, secret.Source{})
	if err != nil || local.key.id != r.current().id {
		t.Errorf("commands sign with another key: %v", err)
	}
	for _, ring := range []*KeyRing{r, openRing(t, dir)} {
		if ring.current().id != r.current().id {
			t.Error("another key signs after a start")
		}
		tokens := w.over(t, ring, nil)
		for _, token := range append(before, after) {
			if _, err := tokens.Validate(t.Context(), token, tokens.Management()); err != nil {
				t.Error(err)
			}
		}
	}
}

// A revoked key verifies nothing, from the next request on.
func TestRotateAndRevoke(t *testing.T) {
	dir, w := localDir(t)
	r := openRing(t, dir)
	tokens := w.over(t, r, nil)
	owner, _ := w.directory.Principal(w.owner.ObjectID)
	first := tokens.forTest(t, owner)
	if err := r.Rotate(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	second := tokens.forTest(t, owner)
	for _, token := range []string{first, second} {
		if _, err := tokens.Validate(t.Context(), token, tokens.Management()); err != nil { // and it is remembered
			t.Fatal(err)
		}
	}
	if err := r.Rotate(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(statesOf(r), []KeyState{KeySigning}) {
		t.Errorf("keys %+v", r.Keys())
	}
	for _, ring := range []*KeyRing{r, openRing(t, dir)} {
		tokens := tokens
		if ring != r {
			tokens = w.over(t, ring, nil)
		}
		for _, token := range []string{first, second} {
			_, err := tokens.Validate(t.Context(), token, tokens.Management())
			wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
		}
		if _, err := tokens.Validate(t.Context(), tokens.forTest(t, owner), tokens.Management()); err != nil {
			t.Error(err)
		}
	}
}

// Wherever a rotation is cut short, one key signs and what was signed can be verified.
func TestRotateCutShort(t *testing.T) {
	cuts := map[string]func(t *testing.T, r *KeyRing){
		"next key made": func(t *testing.T, r *KeyRing) {
			if err := r.announce(); err != nil {
				t.Fatal(err)
			}
		},
		"old key kept": func(t *testing.T, r *KeyRing) {
			if err := r.announce(); err != nil {
				t.Fatal(err)
			}
			if err := r.retire(r.current(), time.Now()); err != nil {
				t.Fatal(err)
			}
		},
		"replaced, nothing else": func(t *testing.T, r *KeyRing) {
			if err := r.announce(); err != nil {
				t.Fatal(err)
			}
			if err := r.retire(r.current(), time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(r.nextPath(), r.path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			dir, w := localDir(t)
			r := openRing(t, dir)
			owner, _ := w.directory.Principal(w.owner.ObjectID)
			before := w.over(t, r, nil).forTest(t, owner)
			cut(t, r)
			again := openRing(t, dir)
			tokens := w.over(t, again, nil)
			for _, token := range []string{before, tokens.forTest(t, owner)} {
				if _, err := tokens.Validate(t.Context(), token, tokens.Management()); err != nil {
					t.Error(err)
				}
			}
			ids := map[string]bool{}
			for _, k := range again.KeySet().Keys {
				if ids[k.KeyID] {
					t.Errorf("key %s is published twice", k.KeyID)
				}
				ids[k.KeyID] = true
			}
			if err := again.Rotate(t.Context(), false); err != nil {
				t.Error(err)
			}
			if _, err := tokens.Validate(t.Context(), before, tokens.Management()); err != nil {
				t.Error(err)
			}
		})
	}
}

// By age: published a day before, signing after that, gone when its tokens are.
func TestRotateByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := ringDir(t)
		if err := os.Chtimes(SigningKeyPath(dir), time.Now(), time.Now()); err != nil { // of a version that did not write when
			t.Fatal(err)
		}
		r := openRing(t, dir)
		const age = 90 * 24 * time.Hour
		began := time.Now()
		wait := func(until time.Duration) {
			t.Helper()
			time.Sleep(time.Until(began.Add(until))) // fake time
			if err := r.Tend(t.Context(), age); err != nil {
				t.Fatal(err)
			}
		}
		first := r.current().id
		for _, step := range []struct {
			at   time.Duration
			want []KeyState
		}{
			{0, []KeyState{KeySigning}},
			{age - announceTime - time.Minute, []KeyState{KeySigning}},
			{age - announceTime, []KeyState{KeyNext, KeySigning}},
			{age - time.Minute, []KeyState{KeyNext, KeySigning}},
			{age, []KeyState{KeySigning, KeyRetired}},
			{age + MaxTokenLifetime, []KeyState{KeySigning, KeyRetired}},
			{age + MaxTokenLifetime + clockSkew + time.Second, []KeyState{KeySigning}},
		} {
			wait(step.at)
			if got := statesOf(r); !slices.Equal(got, step.want) {
				t.Errorf("after %s: %v, want %v", step.at, got, step.want)
			}
			if (r.verifier(first) != nil) != (step.at <= age+MaxTokenLifetime) {
				t.Errorf("after %s: the first key verifies: %v", step.at, r.verifier(first) != nil)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "keys", retiredFolder, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if err := r.Tend(t.Context(), 0); err != nil || len(r.Keys()) != 1 {
			t.Errorf("%v, %+v", err, r.Keys())
		}
	})
}

// A rotation that cannot be recorded is not made.
func TestRotateIsWitnessed(t *testing.T) {
	r := openRing(t, ringDir(t))
	before := r.current().id
	var told []string
	refuse := errors.New("full")
	r.Observe(func(_ context.Context, operation, key string) error {
		told = append(told, operation+" "+key)
		return refuse
	})
	if err := r.Rotate(t.Context(), false); !errors.Is(err, refuse) || r.current().id != before {
		t.Errorf("%v; key %s", err, r.current().id)
	}
	refuse = nil
	if err := r.Rotate(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if want := []string{"rotate " + before, "rotate and revoke " + before}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

func TestDamagedRetiredKey(t *testing.T) {
	dir := ringDir(t)
	r := openRing(t, dir)
	id := r.current().id
	if err := r.Rotate(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.retiredPath(id), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyRing(dir, testSealer()); err == nil {
		t.Error("a damaged key is passed over in silence")
	}
}

// Keys in clear are sealed by the first start, whatever it was in the middle of, and
// sign and verify as before.
func TestKeysAreSealed(t *testing.T) {
	dir, w := localDir(t)
	old, err := OpenLocal(t.Context(), dir, secret.Source{}) // before the first start
	if err != nil {
		t.Fatal(err)
	}
	issued, err := old.Token(AudienceManagement, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	next := signingFile(filepath.Join(dir, "keys", nextKeyFile))
	clear, err := os.ReadFile(SigningKeyPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(next.Path, clear, 0o600); err != nil {
		t.Fatal(err)
	}
	r := openRing(t, dir)
	created := r.current().created
	for range 2 { // and so a start finds them
		for _, path := range []string{SigningKeyPath(dir), next.Path} {
			raw, err := os.ReadFile(path)
			if err != nil || !secret.IsSealed(strings.TrimSpace(string(raw))) {
				t.Errorf("%s holds %.20q, %v", path, raw, err)
			}
		}
		tokens := w.over(t, r, nil)
		if _, err := tokens.Validate(t.Context(), issued.Token.Reveal(), tokens.Management()); err != nil {
			t.Error(err)
		}
		if local, err := OpenLocal(t.Context(), dir, secret.Source{}); err != nil || local.key.id != r.current().id {
			t.Errorf("commands have %v: %v", local, err)
		}
		r = openRing(t, dir)
	}
	if !r.current().created.Equal(created) {
		t.Errorf("the key was made at %s, and says %s", created, r.current().created)
	}
}

func TestKeysAreSealedAnew(t *testing.T) {
	dir := ringDir(t)
	sealer := testSealer()
	r, err := OpenKeyRing(dir, sealer)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.announce(); err != nil {
		t.Fatal(err)
	}
	before := sealer.Current()
	sealer.Use(secret.Key{8}, testMaster)
	if ids, err := r.SealedWith(); err != nil || !slices.Equal(ids, []string{before, before}) {
		t.Errorf("sealed with %s, %v", ids, err)
	}
	if err := r.Reseal(); err != nil {
		t.Fatal(err)
	}
	if ids, err := r.SealedWith(); err != nil || !slices.Equal(ids, []string{sealer.Current(), sealer.Current()}) {
		t.Errorf("sealed with %s, %v", ids, err)
	}
	if _, err := OpenKeyRing(dir, secret.NewSealer(secret.Key{8})); err != nil {
		t.Error(err)
	}
	if _, err := OpenKeyRing(dir, testSealer()); !errors.Is(err, secret.ErrUnknownKey) {
		t.Errorf("with the master key from before: %v", err)
	}
}
