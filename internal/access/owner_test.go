package access

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

func readOwner(t *testing.T, path string) Owner {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var o Owner
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestBootstrap(t *testing.T) {
	dir := t.TempDir()
	kv := &memoryKV{entries: map[string]engine.Change{}}
	first := openWorld(t, kv, dir)
	if got := readOwner(t, OwnerPath(dir)); got != first.owner || got.URL != testOrigin || got.Name != "owner" {
		t.Errorf("owner file %+v, want %+v", got, first.owner)
	}
	info, err := os.Stat(OwnerPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	if first.directory.TenantID() != first.owner.TenantID {
		t.Errorf("tenant %s, want %s", first.directory.TenantID(), first.owner.TenantID)
	}
	owner := first.ownerCaller(t)
	if !first.strict.Allowed(owner, "Microsoft.Authorization/roleAssignments/write", resource.Root) {
		t.Error("the owner may not assign roles")
	}

	revision := kv.revision
	second := openWorld(t, kv, dir)
	if second.owner != first.owner || kv.revision != revision {
		t.Errorf("a second start changed something: owner %+v", second.owner)
	}
	if _, err := second.directory.Bootstrap(t.Context(), OwnerPath(dir), "https://moved.example", secret.Source{}); err != nil {
		t.Fatal(err)
	}
	if got := readOwner(t, OwnerPath(dir)); got.URL != "https://moved.example" || got.ObjectID != first.owner.ObjectID {
		t.Errorf("owner file after a move: %+v", got)
	}
	if err := os.Remove(OwnerPath(dir)); err != nil {
		t.Fatal(err)
	}
	if third := openWorld(t, kv, dir); third.owner != first.owner || readOwner(t, OwnerPath(dir)) != first.owner {
		t.Error("a lost owner file is not written again")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("files left behind: %v", left)
	}
}

// An owner whose role was taken away does not get it back at the next start.
func TestBootstrapMakesTheOwnerOnce(t *testing.T) {
	w := newWorld(t)
	other := w.principal(t, "other")
	w.grant(t, other, "Owner", "/")
	if _, err := w.directory.DeletePrincipal(t.Context(), w.owner.ObjectID); err != nil {
		t.Fatal(err)
	}
	again := openWorld(t, w.kv, t.TempDir())
	if _, ok := again.directory.Principal(w.owner.ObjectID); ok {
		t.Error("the owner came back")
	}
	if left := again.directory.Assignments(resource.Root, AssignmentFilter{PrincipalID: w.owner.ObjectID}); len(left) > 0 {
		t.Errorf("its role came back: %v", left)
	}
}

// A start that is cut short at any write is completed by the next.
func TestBootstrapIsCompleted(t *testing.T) {
	broken := errors.New("the disk is gone")
	for _, at := range []int{1, 2, 3, 4} {
		dir := t.TempDir()
		kv := &memoryKV{entries: map[string]engine.Change{}}
		writes := 0
		kv.fail = func(string) error {
			if writes++; writes >= at {
				return broken
			}
			return nil
		}
		start := func() (*Directory, error) {
			roles, err := NewRoles()
			if err != nil {
				t.Fatal(err)
			}
			store := resource.NewStore(kv)
			d := NewDirectory(store, roles)
			if err := store.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = d.Bootstrap(t.Context(), OwnerPath(dir), testOrigin, secret.Source{})
			return d, err
		}
		if _, err := start(); !errors.Is(err, broken) {
			t.Fatalf("write %d: error %v", at, err)
		}
		if _, err := os.Stat(OwnerPath(dir)); err == nil {
			t.Errorf("write %d: an owner file without an owner", at)
		}
		kv.fail = nil
		w := openWorld(t, kv, dir)
		if all := w.directory.Principals(); len(all) != 1 || all[0].ObjectID != w.owner.ObjectID {
			t.Errorf("write %d: principals %+v", at, all)
		}
		if all := w.directory.Assignments(resource.Root, AssignmentFilter{}); len(all) != 1 || all[0].RoleID != RoleOwner || all[0].PrincipalID != w.owner.ObjectID {
			t.Errorf("write %d: assignments %+v", at, all)
		}
	}
}

func TestBootstrapRefusesAWideOwnerFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("permission bits tell nothing on Windows")
	}
	w := newWorld(t)
	if err := os.Chmod(w.ownerPath, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.directory.Bootstrap(t.Context(), w.ownerPath, testOrigin, secret.Source{}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("error %v", err)
	}
	if _, err := OpenLocal(t.Context(), filepath.Dir(w.ownerPath), secret.Source{}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("error %v", err)
	}
}

// testMaster is the master key of localDir.
var testMaster = secret.Key{7}

func testSealer() *secret.Sealer { return secret.NewSealer(testMaster) }

// localDir is a data directory as a version left it that sealed no signing key.
func localDir(t *testing.T) (string, *world) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(SigningKeyPath(dir), pkcs8(t, testKey().private), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (secret.Source{}.In(dir)).Keep(testMaster); err != nil {
		t.Fatal(err)
	}
	return dir, openWorld(t, &memoryKV{entries: map[string]engine.Change{}}, dir)
}

func TestLocalToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, w := localDir(t)
		local, err := OpenLocal(t.Context(), dir, secret.Source{})
		if err != nil {
			t.Fatal(err)
		}
		if local.Owner != w.owner {
			t.Errorf("owner %+v, want %+v", local.Owner, w.owner)
		}
		issued, err := local.Token(AudienceManagement, LocalTokenLifetime)
		if err != nil {
			t.Fatal(err)
		}
		if got := issued.Expires.Sub(issued.NotBefore); got != 12*time.Hour {
			t.Errorf("lives for %s", got)
		}
		// Also under another address: the token names none.
		moved, err := NewTokens(ringOf(testKey()), w.directory, TokensConfig{TenantID: w.owner.TenantID, Origins: []string{"https://moved.example"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, tokens := range []*Tokens{w.tokens, moved} {
			caller, err := tokens.Validate(context.Background(), issued.Token.Reveal(), tokens.Management())
			if err != nil || caller.ObjectID != w.owner.ObjectID {
				t.Errorf("%+v, %v", caller, err)
			}
		}
		time.Sleep(12*time.Hour + clockSkew) // fake time
		_, err = w.tokens.Validate(t.Context(), issued.Token.Reveal(), w.tokens.Management())
		wantFault(t, err, fault.Unauthenticated, "ExpiredAuthenticationToken")
		for _, lifetime := range []time.Duration{0, -time.Hour, time.Millisecond} {
			if _, err := local.Token(AudienceManagement, lifetime); err == nil {
				t.Errorf("a token for %s was made", lifetime)
			}
		}
	})
}

// A directory that another one's key was copied into is not taken for it.
func TestLocalTokenOfAnotherDirectory(t *testing.T) {
	dir, _ := localDir(t)
	_, other := localDir(t)
	local, err := OpenLocal(t.Context(), dir, secret.Source{})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := local.Token(AudienceManagement, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.tokens.Validate(t.Context(), issued.Token.Reveal(), other.tokens.Management())
	wantFault(t, err, fault.Unauthenticated, "InvalidAuthenticationToken")
}

func TestOpenLocalRefuses(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, dir string) error
		want  string
	}{
		{"no server was started", func(_ *testing.T, dir string) error { return os.Remove(OwnerPath(dir)) }, "carillon serve --data"},
		{"damaged", func(_ *testing.T, dir string) error { return os.WriteFile(OwnerPath(dir), []byte("{"), 0o600) }, "damaged"},
		{"empty", func(_ *testing.T, dir string) error { return os.WriteFile(OwnerPath(dir), []byte("{}"), 0o600) }, "damaged"},
		{"no key", func(_ *testing.T, dir string) error { return os.Remove(SigningKeyPath(dir)) }, "signing.pem"},
		{"wide key", func(t *testing.T, dir string) error {
			if runtime.GOOS == "windows" {
				t.Skip("permission bits tell nothing on Windows")
			}
			return os.Chmod(SigningKeyPath(dir), 0o640)
		}, "chmod 600"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, _ := localDir(t)
			if err := tt.spoil(t, dir); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenLocal(t.Context(), dir, secret.Source{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// Commands find the master key where the server had it, or where they are told.
func TestOpenLocalFindsTheMasterKey(t *testing.T) {
	text := hex.EncodeToString(testMaster[:])
	file := filepath.Join(t.TempDir(), "master")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MASTER", text)
	t.Setenv("WRONG", strings.Repeat("ab", 32))
	command := "cat '" + file + "'"
	if runtime.GOOS == "windows" {
		command = "type " + file
	}
	for _, test := range []struct {
		name          string
		server, given secret.Source
		problem       string
	}{
		{"in the data directory", secret.Source{}, secret.Source{}, ""},
		{"in a file", secret.Source{File: file}, secret.Source{}, ""},
		{"in the environment", secret.Source{Env: "MASTER"}, secret.Source{}, ""},
		{"not in this environment", secret.Source{Env: "MASTER_NOT_SET"}, secret.Source{}, "--master-key-env or --master-key-command as the server was given"},
		{"but here", secret.Source{Env: "MASTER_NOT_SET"}, secret.Source{File: file}, ""},
		{"by a command", secret.Source{Command: command}, secret.Source{}, "--master-key-command '…'"},
		{"by a command that is given", secret.Source{Command: command}, secret.Source{Command: command}, ""},
		{"a file that is gone", secret.Source{File: file + "x"}, secret.Source{}, "no such file"},
		{"another one", secret.Source{File: file}, secret.Source{Env: "WRONG"}, "it is not in --master-key-env"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, w := localDir(t)
			r := openRing(t, dir)
			if _, err := w.directory.Bootstrap(t.Context(), OwnerPath(dir), testOrigin, test.server); err != nil {
				t.Fatal(err)
			}
			if !test.server.Own() {
				if err := os.Remove(test.server.In(dir).Kept); err != nil {
					t.Fatal(err)
				}
			}
			local, err := OpenLocal(t.Context(), dir, test.given)
			if test.problem == "" && (err != nil || local.key.id != r.current().id) || test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("%v, want %q", err, test.problem)
			}
			if err != nil && strings.Contains(err.Error(), text) {
				t.Error("the error shows the master key")
			}
		})
	}
}
