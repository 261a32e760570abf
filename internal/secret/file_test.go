package secret

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestFile(t *testing.T) {
	first, second := NewSealer(testKey(1)), NewSealer(testKey(2), testKey(1))
	file := File{Path: filepath.Join(t.TempDir(), "key.pem"), Owner: "a key"}
	text := []byte("-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n")
	check := func(what, keyID string, s *Sealer) {
		t.Helper()
		if got, err := file.Read(s); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: read %q, %v", what, got, err)
		}
		if id, err := file.KeyID(); err != nil || id != keyID {
			t.Errorf("%s: sealed with %q, want %q: %v", what, id, keyID, err)
		}
		raw, err := os.ReadFile(file.Path)
		if err != nil || keyID != "" && bytes.Contains(raw, []byte("s3cret")) {
			t.Errorf("%s: the file holds %q, %v", what, raw, err)
		}
		if info, err := os.Stat(file.Path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", what, info.Mode(), err)
		}
	}
	if err := os.WriteFile(file.Path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	check("in clear", "", nil)
	for range 2 { // the second time there is nothing to do
		if err := file.Reseal(first); err != nil {
			t.Fatal(err)
		}
		check("sealed", first.Current(), first)
	}
	if err := file.Reseal(second); err != nil {
		t.Fatal(err)
	}
	check("sealed anew", second.Current(), NewSealer(testKey(2)))
	if err := file.Write(first, text); err != nil {
		t.Fatal(err)
	}
	check("written", first.Current(), first)

	if _, err := file.Read(NewSealer(testKey(3))); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), first.Current()) {
		t.Errorf("with another key: %v", err)
	}
	if err := file.Reseal(NewSealer(testKey(3))); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("sealed anew with another key only: %v", err)
	}
	check("after refusals", first.Current(), first)
	if _, err := (File{Path: file.Path, Owner: "another key"}).Read(first); !errors.Is(err, ErrSealed) {
		t.Errorf("read as another key: %v", err)
	}
	if _, err := (File{Path: file.Path + "x"}).Read(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"master.key", ".new-123", ".key-123", "retired.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "master.key" || entries[1].Name() != "retired.pem" {
		t.Errorf("left are %v, %v", entries, err)
	}
}
