package access

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

func TestCreatePrincipal(t *testing.T) {
	w := newWorld(t)
	p, plain, err := w.directory.CreatePrincipal(t.Context(), "ci", w.ownerCaller(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(plain) < 40 {
		t.Errorf("the secret has %d characters", len(plain))
	}
	if uuid.Validate(p.ObjectID) != nil || uuid.Validate(p.AppID) != nil || p.ObjectID == p.AppID || p.TenantID != w.owner.TenantID ||
		p.Type != ServicePrincipal || !p.Enabled || p.Created.By != w.owner.AppID || p.Created.Kind != "Application" {
		t.Errorf("made %+v", p)
	}
	if !p.HasSecret(plain) || p.HasSecret(plain+"x") || p.HasSecret(plain[1:]) || p.HasSecret("") {
		t.Error("HasSecret does not tell the secret from others")
	}
	for _, id := range []string{p.AppID, strings.ToUpper(p.AppID)} {
		if found, ok := w.directory.PrincipalByApp(id); !ok || found.ObjectID != p.ObjectID {
			t.Errorf("PrincipalByApp(%s) = %+v, %v", id, found, ok)
		}
	}
	if _, ok := w.directory.PrincipalByApp(p.ObjectID); ok {
		t.Error("an object id is taken for a client id")
	}
	var names []string
	for _, p := range w.directory.Principals() {
		names = append(names, p.Name)
	}
	if want := []string{"ci", "owner"}; !slices.Equal(names, want) {
		t.Errorf("principals %q, want %q", names, want)
	}
	_, _, err = w.directory.CreatePrincipal(t.Context(), "CI", Caller{})
	wantFault(t, err, fault.Conflict, "PrincipalExists")
	for _, name := range []string{"", " ", "a\nb", strings.Repeat("x", 121)} {
		_, _, err := w.directory.CreatePrincipal(t.Context(), name, Caller{})
		wantFault(t, err, fault.Invalid, "InvalidRequest")
	}
}

// A secret is shown once and kept nowhere.
func TestSecretIsNotKept(t *testing.T) {
	w := newWorld(t)
	p, plain, err := w.directory.CreatePrincipal(t.Context(), "ci", Caller{})
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, c := range w.kv.entries {
		all.Write(c.Value)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	all.Write(raw)
	fmt.Fprintf(&all, "%v %+v %#v %s", p, p, p, plain)
	for _, form := range []string{plain.Reveal(), plain.Reveal()[4:], base64.StdEncoding.EncodeToString([]byte(plain.Reveal()))} {
		if strings.Contains(all.String(), form) {
			t.Error("the secret is kept or shown")
		}
	}
	if !strings.Contains(all.String(), `"hint":"`+plain.Reveal()[:3]+`"`) {
		t.Error("no hint tells secrets apart")
	}
}

func TestResetSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(2500 * time.Millisecond) // fake time, to a half of a second
		p, old, err := w.directory.CreatePrincipal(t.Context(), "ci", Caller{})
		if err != nil {
			t.Fatal(err)
		}
		token := w.token(t, Caller{ObjectID: p.ObjectID})
		if _, err := w.tokens.Validate(t.Context(), token, w.tokens.Management()); err != nil {
			t.Fatal(err)
		}
		p, fresh, err := w.directory.ResetSecret(t.Context(), p.ObjectID)
		if err != nil {
			t.Fatal(err)
		}
		if p.HasSecret(old) || !p.HasSecret(fresh) {
			t.Error("the old secret holds or the new one does not")
		}
		_, err = w.tokens.Validate(t.Context(), token, w.tokens.Management())
		wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
		// A token made in the same second as the reset, but after it, holds.
		if _, err := w.tokens.Validate(t.Context(), w.token(t, Caller{ObjectID: p.ObjectID}), w.tokens.Management()); err != nil {
			t.Errorf("token made after the reset: %v", err)
		}
	})
}

func TestResetSecretRefuses(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.directory.ResetSecret(t.Context(), uuid.NewString())
	wantFault(t, err, fault.NotFound, "PrincipalNotFound")
	_, _, err = w.directory.ResetSecret(t.Context(), w.group(t, "group").ObjectID)
	wantFault(t, err, fault.Invalid, "InvalidRequest")
}

func TestDisabledPrincipal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.principal(t, "ci")
		token := w.token(t, c)
		valid := func() error {
			_, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
			return err
		}
		if err := valid(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // fake time
		if _, err := w.directory.SetEnabled(t.Context(), c.ObjectID, false); err != nil {
			t.Fatal(err)
		}
		wantFault(t, valid(), fault.Unauthenticated, "InvalidAuthenticationToken")
		if _, err := w.directory.SetEnabled(t.Context(), c.ObjectID, true); err != nil {
			t.Fatal(err)
		}
		wantFault(t, valid(), fault.Unauthenticated, "InvalidAuthenticationToken")
		time.Sleep(time.Second)
		token = w.token(t, c)
		if err := valid(); err != nil {
			t.Errorf("new token after the principal was let in again: %v", err)
		}
	})
}

func TestDeletePrincipal(t *testing.T) {
	w := newWorld(t)
	c := w.principal(t, "ci")
	w.grant(t, c, "Reader", testGroup)
	w.grant(t, c, "Owner", "/")
	token := w.token(t, c)
	if _, err := w.directory.DeletePrincipal(t.Context(), strings.ToUpper(c.ObjectID)); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.directory.Principal(c.ObjectID); ok {
		t.Error("the principal is still there")
	}
	if _, ok := w.directory.PrincipalByApp(c.AppID); ok {
		t.Error("the client id still leads somewhere")
	}
	if left := w.directory.Assignments(resource.Root, AssignmentFilter{PrincipalID: c.ObjectID}); len(left) > 0 {
		t.Errorf("assignments left: %v", left)
	}
	_, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
	wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
	_, err = w.directory.DeletePrincipal(t.Context(), c.ObjectID)
	wantFault(t, err, fault.NotFound, "PrincipalNotFound")
}

func TestCallerStamp(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		name   string
		caller Caller
		want   resource.Stamp
	}{
		{"application", Caller{AppID: "a1", Name: "ci", Type: ServicePrincipal}, resource.Stamp{By: "a1", Kind: "Application", At: at}},
		{"user", Caller{AppID: "a1", Name: "ada@grid.example", Type: User}, resource.Stamp{By: "ada@grid.example", Kind: "User", At: at}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.caller.Stamp(at); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// Tokens that were issued between two revocations of one second end with the second.
func TestRevokeTwiceInASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ci := w.principal(t, "ci")
		time.Sleep(300 * time.Millisecond) // fake time
		for i := range 4 {
			token := w.token(t, ci)
			if _, err := w.tokens.Validate(t.Context(), token, w.tokens.Management()); err != nil {
				t.Fatalf("token %d: %v", i, err)
			}
			if _, err := w.directory.RevokeTokens(t.Context(), ci.ObjectID); err != nil {
				t.Fatal(err)
			}
			_, err := w.tokens.Validate(t.Context(), token, w.tokens.Management())
			wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
			time.Sleep(100 * time.Millisecond) // fake time
		}
	})
}
