package servertest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/secret"
)

// TestKeyFilesAreSealed starts a server on a directory in which the keys of tokens and of
// the certificate authority lie in clear, as a version from before left them, and kills
// it at some moment of the start, again and again: in the end they are sealed, and are
// what they were.
func TestKeyFilesAreSealed(t *testing.T) {
	s := New(t)
	owner, err := access.OpenLocal(t.Context(), s.Dir, secret.Source{})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := owner.Token(access.AudienceManagement, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	master, err := (secret.Source{}.In(s.Dir)).Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, owner := range map[string]string{"signing.pem": "token signing key", "ca-key.pem": "certificate authority key"} {
		file := secret.File{Path: filepath.Join(s.Dir, "keys", name), Owner: owner}
		text, err := file.Read(secret.NewSealer(master[0]))
		if err != nil || !bytes.HasPrefix(text, []byte("-----BEGIN PRIVATE KEY-----")) {
			t.Fatalf("%s: %v", name, err)
		}
		files[file.Path] = text
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 6 {
		for path, text := range files {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := s.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(250)) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s.Restart()
		for path := range files {
			if raw, err := os.ReadFile(path); err != nil || !secret.IsSealed(string(bytes.TrimSpace(raw))) {
				t.Errorf("%s holds %.27q: %v", path, raw, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "keys", ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if now, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem")); err != nil || !bytes.Equal(now, authority) {
			t.Error("there is another authority")
		}
		if _, status := s.whoAmI(t, issued.Token.Reveal()); status != 200 {
			t.Errorf("a token of the key in clear is answered %d", status)
		}
		s.Stop()
	}
	s.Restart()
}
