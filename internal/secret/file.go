package secret

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is a private file with one secret in it, sealed: a private key that has to lie
// outside of the control plane. A program from before files were sealed left its text in
// clear, which [File.Read] takes and [File.Reseal] ends.
type File struct {
	Path  string
	Owner string // what the text is sealed for
}

// Read returns the text. It refuses a file that others may read. s may be nil where
// the text is in clear.
func (f File) Read(s *Sealer) ([]byte, error) {
	stored, err := f.stored()
	if err != nil || !IsSealed(string(stored)) {
		return stored, err
	}
	text, err := s.Open(string(stored), f.Owner)
	if errors.Is(err, ErrUnknownKey) {
		return nil, fmt.Errorf("%s is %w: %s", f.Path, err, KeyOf(string(stored)))
	} else if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", f.Path, err)
	}
	return text, nil
}

// Write seals a text and puts it in the place of what was there.
func (f File) Write(s *Sealer, text []byte) error {
	sealed, err := s.Seal(text, f.Owner)
	if err != nil {
		return err
	}
	return WritePrivate(f.Path, []byte(sealed+"\n"))
}

// KeyID returns the id of the master key that the file is sealed with, "" for a text in
// clear.
func (f File) KeyID() (string, error) {
	stored, err := f.stored()
	return KeyOf(string(stored)), err
}

// Reseal seals a text that is in clear, or sealed with a master key from before, with
// the current one. What was there goes only when its successor is on the disk.
func (f File) Reseal(s *Sealer) error {
	stored, err := f.stored()
	switch {
	case err != nil:
		return err
	case KeyOf(string(stored)) == s.Current():
		return nil
	case !IsSealed(string(stored)):
		return f.Write(s, stored)
	}
	sealed, err := s.Rewrap(string(stored), f.Owner)
	if err != nil {
		return fmt.Errorf("seal %s anew: %w", f.Path, err)
	}
	return WritePrivate(f.Path, []byte(sealed+"\n"))
}

func (f File) stored() ([]byte, error) {
	if err := CheckPrivate(f.Path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if line := bytes.TrimSuffix(text, []byte("\n")); IsSealed(string(line)) {
		return line, nil
	}
	return text, nil
}

// temporary is how the names of files begin that [WritePrivate] has not placed yet.
const temporary = ".new-"

// WritePrivate makes a file that only its owner may read hold the text, or what it held
// before, whenever the process or the power ends.
func WritePrivate(path string, text []byte) error { return write(path, text, os.Rename) }

// write writes a file that only its owner may read, and has place put it where it
// belongs: os.Rename replaces what is there, os.Link fails with fs.ErrExist.
func write(path string, text []byte, place func(from, to string) error) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, temporary+"*") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when it was renamed
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := place(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// Sweep removes from a folder what writers that were killed left in it: the text may be
// a key. Nobody else may write there meanwhile.
func Sweep(dir string) error {
	var left []string
	for _, pattern := range []string{temporary + "*", ".key-*"} { // the second of a version from before
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return fmt.Errorf("look for files left behind: %w", err)
		}
		left = append(left, found...)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove a file that was left behind: %w", err)
		}
	}
	return nil
}
