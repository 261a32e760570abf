package servertest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMissingMasterKey starts a server on a directory whose master key was left
// behind, as after a restore: it must say so, and make no other key in its place.
func TestMissingMasterKey(t *testing.T) {
	s := New(t)
	s.Stop()
	key := filepath.Join(s.Dir, "keys", "master.key")
	kept := filepath.Join(t.TempDir(), "master.key")
	if err := os.Rename(key, kept); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := s.command()
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	giveUp := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	giveUp.Stop()
	if err == nil || !strings.Contains(out.String(), key) || !strings.Contains(out.String(), "put the file back") {
		t.Errorf("without its master key the server said %q (%v); want a refusal that names %s and the remedy", out.String(), err, key)
	}
	if _, err := os.Stat(key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a master key again (%v); no fresh one may hide that the file is missing", err)
	}
	if err := os.Rename(kept, key); err != nil {
		t.Fatal(err)
	}
	s.Restart()
}
