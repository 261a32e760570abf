package secret

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// NewKey returns a fresh master key.
func NewKey() (Key, error) {
	var k Key
	if _, err := rand.Read(k[:]); err != nil {
		return Key{}, fmt.Errorf("make a master key: %w", err)
	}
	return k, nil
}

// ParseKey reads a key from its text, 64 hexadecimal digits; white space around
// it is ignored. Its errors do not show the text.
func ParseKey(text string) (Key, error) {
	var k Key
	raw, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != KeySize {
		return Key{}, fmt.Errorf("a master key is %d hexadecimal digits", 2*KeySize)
	}
	copy(k[:], raw)
	return k, nil
}

// LoadOrCreateKey returns the master key kept in the file at path, and makes the
// file with a fresh key, readable by its owner only, when it does not exist. Two
// processes that start at once end with the same key. The folder must exist.
func LoadOrCreateKey(path string) (Key, error) {
	k, err := loadFirst(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = NewKey(); err != nil {
		return Key{}, err
	}
	if err := write(path, []byte(hex.EncodeToString(k[:])+"\n"), os.Link); errors.Is(err, fs.ErrExist) {
		return loadFirst(path)
	} else if err != nil {
		return Key{}, fmt.Errorf("store master key: %w", err)
	}
	return k, nil
}

// loadFirst returns the key of a file that seals.
func loadFirst(path string) (Key, error) {
	keys, err := loadKeys(path)
	if err != nil {
		return Key{}, err
	}
	return keys[0], nil
}

// CheckPrivate returns an error that names the remedy when the file at path is
// not a regular file that only its owner may read and write. On Windows, where
// permission bits tell nothing, it checks the kind of file only.
func CheckPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("key file %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return fmt.Errorf("key file %s may be read by others (mode %04o): run chmod 600 %s", path, mode, path)
	}
	return nil
}

// SyncDir makes what was placed in a folder or renamed there outlast a power cut.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" { // folders cannot be synced there
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
