package secret

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Source is where master keys come from: a file that the server keeps itself, or what
// the operator named instead. Either holds one key or several, parted by white space:
// the first seals, the others still open what was sealed before.
type Source struct {
	Kept string // the server's own file; with another source it is read as well, for keys from before

	File    string // a file of the operator's
	Env     string // a variable of the environment
	Command string // what a command line prints, run by the shell
}

// In returns the source with the server's own file in a data directory.
func (s Source) In(dir string) Source {
	s.Kept = filepath.Join(dir, "keys", "master.key")
	return s
}

// commandTime is how long a command may take to print the keys.
const commandTime = 30 * time.Second

// Own reports whether the server keeps its keys itself, and may change them.
func (s Source) Own() bool { return s.File == "" && s.Env == "" && s.Command == "" }

// Check refuses more than one place of the operator's.
func (s Source) Check() error {
	named := 0
	for _, text := range []string{s.File, s.Env, s.Command} {
		if text != "" {
			named++
		}
	}
	if named > 1 {
		return errors.New("--master-key-file, --master-key-env and --master-key-command exclude each other: give one")
	}
	return nil
}

// Name says where the keys are, as the operator named it.
func (s Source) Name() string {
	switch {
	case s.File != "":
		return "--master-key-file"
	case s.Env != "":
		return "--master-key-env"
	case s.Command != "":
		return "--master-key-command"
	}
	return "the data directory"
}

// Load returns the keys, at least one. Its errors show nothing of them.
func (s Source) Load(ctx context.Context) ([]Key, error) {
	if s.Own() {
		return loadKeys(s.Kept)
	}
	keys, err := s.named(ctx)
	if err != nil {
		return nil, err
	}
	before, err := loadKeys(s.Kept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return distinct(append(keys, before...)), nil
}

func (s Source) named(ctx context.Context) ([]Key, error) {
	text := os.Getenv(s.Env)
	switch {
	case s.File != "":
		return loadKeys(s.File)
	case s.Command != "":
		ctx, cancel := context.WithTimeout(ctx, commandTime)
		defer cancel()
		shell := []string{"/bin/sh", "-c", s.Command}
		if runtime.GOOS == "windows" {
			shell = []string{"cmd", "/C", s.Command}
		}
		cmd := exec.CommandContext(ctx, shell[0], shell[1:]...)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("run %s: %w", s.Name(), err)
		}
		text = out.String()
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.Name(), err)
	}
	return keys, nil
}

// Keep replaces the keys of the server's own file, or, when they are kept elsewhere,
// removes it. It is whole at any moment.
func (s Source) Keep(keys ...Key) error {
	if !s.Own() {
		if err := os.Remove(s.Kept); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("remove the master keys of before: %w", err)
		}
		return SyncDir(filepath.Dir(s.Kept))
	}
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(hex.EncodeToString(k[:]) + "\n")
	}
	if err := WritePrivate(s.Kept, []byte(text.String())); err != nil {
		return fmt.Errorf("store master keys: %w", err)
	}
	return nil
}

// ParseKeys reads keys from their text, each 64 hexadecimal digits, with white space
// between. Its errors do not show the text.
func ParseKeys(text string) ([]Key, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, errors.New("there is no master key in it, which is 64 hexadecimal digits; make one with: openssl rand -hex 32")
	}
	var keys []Key
	for _, word := range words {
		k, err := ParseKey(word)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return distinct(keys), nil
}

func distinct(keys []Key) (out []Key) {
	for _, k := range keys {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func loadKeys(path string) ([]Key, error) {
	if err := CheckPrivate(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	keys, err := ParseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("read master key %s: %w", path, err)
	}
	return keys, nil
}
