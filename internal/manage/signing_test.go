package manage

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

const givenKey = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func signed(version string, key *string) EventSubscriptionChange {
	c := hook(hookURL)
	c.Destination.Signing = &SigningChange{Version: version, Key: key}
	return c
}

// keysOf returns the keys that sign now, as they are written.
func (f *fixture) keysOf(t *testing.T, at string) []string {
	t.Helper()
	es := f.get(t, at).Value
	keys, err := f.signingKeys(&es, es.Destination)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range keys {
		out = append(out, k.Reveal())
	}
	return out
}

func TestSigning(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	if v := f.put(t, at, hook(hookURL)); v.Value.Destination.WebHook.Signing != nil || v.IssuedKey != "" || f.endpoint.last().Signing != nil {
		t.Fatalf("signed without being asked for: %+v", v.Value.Destination.WebHook.Signing)
	}
	v := f.put(t, at, signed("V1", nil))
	first := f.keysOf(t, at)
	if len(first) != 1 || v.IssuedKey != first[0] || len(f.endpoint.last().Signing) != 1 || f.endpoint.last().Signing[0].Reveal() != first[0] {
		t.Fatalf("issued a key: %t; keys %d; handshake signed by %d", v.IssuedKey != "", len(first), len(f.endpoint.last().Signing))
	}
	stored, err := json.Marshal(v.Value)
	if err != nil || strings.Contains(string(stored), first[0][6:]) {
		t.Errorf("the key lies open, %v", err)
	}
	// Clients that know nothing of signatures leave them, and a key is shown once.
	for name, c := range map[string]EventSubscriptionChange{"without signing": hook(hookURL), "the same version": signed("v1", nil), "the same key": signed("v1", &first[0])} {
		if v := f.put(t, at, c); v.IssuedKey != "" || f.keysOf(t, at)[0] != first[0] {
			t.Errorf("PUT %s: issued %t, changed %t", name, v.IssuedKey != "", f.keysOf(t, at)[0] != first[0])
		}
	}
	if f.get(t, at).IssuedKey != "" {
		t.Error("a GET shows the key")
	}

	v = f.put(t, at, signed("v1a", nil))
	if s := v.Value.Destination.WebHook.Signing; s.Version != secret.SignatureV1a || !strings.HasPrefix(s.Keys[0].Public, "whpk_") || v.IssuedKey != "" {
		t.Errorf("v1a: %+v; issued %t", s, v.IssuedKey != "")
	}
	given := givenKey
	if v = f.put(t, at, signed("v1", &given)); v.IssuedKey != "" || f.keysOf(t, at)[0] != givenKey {
		t.Errorf("a given key: issued %t, kept %t", v.IssuedKey != "", f.keysOf(t, at)[0] == givenKey)
	}
	f.put(t, at, signed("none", nil))
	if keys := f.keysOf(t, at); keys != nil {
		t.Errorf("turned off: %d keys", len(keys))
	}
}

func TestSigningProblems(t *testing.T) {
	const field = "properties.destination.properties.signing"
	given, short, private := givenKey, "whsec_s3cret", "whsk_"+strings.Repeat("A", 43)+"="
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	f.put(t, at, signed("v1", nil))
	for _, tt := range []struct {
		name string
		c    EventSubscriptionChange
		want string
	}{
		{"version", signed("v2", nil), field + ".version: The signature version 'v2' is not known: use v1 (HMAC-SHA256), v1a (ed25519) or none."},
		{"no key", signed("v1", &short), field + ".key: The signing key cannot be used: a whsec_ key is base64 of 24 to 64 bytes."},
		{"key of another version", signed("v1", &private), field + ".key: The signing key is one for version v1a, not v1: leave it out to have one made."},
		{"another key", signed("v1", &given), field + ".key: Deliveries are signed already, with another key: replace it with the action rotateSigningKey, which lets both be valid for a while."},
	} {
		_, err := f.PutEventSubscription(context.Background(), f.owner, id(at), tt.c, Precondition{})
		if got := problems(err); got != tt.want || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRotateSigningKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx, at := context.Background(), workspaceID+extension+"es1"
		rotate := func(r SigningRotation) (RotatedKey, error) { return f.RotateSigningKey(ctx, f.owner, id(at), r) }
		f.put(t, at, hook(hookURL))
		if _, err := rotate(SigningRotation{}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "are not signed") {
			t.Errorf("without signatures: %v", err)
		}
		f.put(t, at, signed("v1", nil))
		first := f.keysOf(t, at)[0]
		before := f.get(t, at).Value.Destination.WebHook
		f.broker.took()
		second, err := rotate(SigningRotation{})
		if err != nil || second.Version != "v1" || !second.PreviousExpires.Equal(time.Now().Add(24*time.Hour)) {
			t.Fatalf("%v; %s, until %s", err, second.Version, second.PreviousExpires)
		}
		if keys := f.keysOf(t, at); len(keys) != 2 || keys[0] != second.Key || keys[1] != first {
			t.Errorf("%d keys after a rotation", len(keys))
		}
		if got := f.broker.took(); got != "activate es1" {
			t.Errorf("broker saw: %s", got)
		}
		if len(before.Signing.Keys) != 1 {
			t.Error("a rotation changed what readers hold")
		}
		time.Sleep(24 * time.Hour)
		if keys := f.keysOf(t, at); len(keys) != 1 || keys[0] != second.Key {
			t.Errorf("%d keys after a day", len(keys))
		}
		given := givenKey
		if third, err := rotate(SigningRotation{OverlapInHours: number(0), Key: &given}); err != nil || third.Key != "" || !third.PreviousExpires.IsZero() {
			t.Errorf("a given key at once: %v, until %s", err, third.PreviousExpires)
		}
		if keys := f.keysOf(t, at); len(keys) != 1 || keys[0] != givenKey {
			t.Errorf("%d keys, want the given one", len(keys))
		}
		private := "whsk_" + strings.Repeat("A", 43) + "="
		_, err = rotate(SigningRotation{OverlapInHours: number(721), Key: &private})
		if got, want := problems(err), "overlapInHours: The value 721 of overlapInHours is out of range: use 0 to 720.\n"+
			"key: The signing key cannot be used: it is one for version v1a, and deliveries are signed with v1."; got != want {
			t.Errorf("got %s", got)
		}
		if _, err := f.RotateSigningKey(ctx, f.user(t, access.RoleReader, "/"), id(at), SigningRotation{}); !fault.Is(err, fault.Forbidden) {
			t.Errorf("a reader: %v", err)
		}

		f.endpoint.will(silent)
		f.put(t, at, hook("https://other.example/"))
		if _, err := rotate(SigningRotation{}); !fault.Is(err, fault.Conflict) {
			t.Errorf("while a change waits: %v", err)
		}
		if f.get(t, at).Value.State != resource.AwaitingManualAction {
			t.Error("the change does not wait any more")
		}
	})
}
