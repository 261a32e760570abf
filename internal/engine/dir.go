package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// formatVersion is the layout of a data directory: streams, frames, journal
// messages and facts as this package writes them, and what others keep in it. It grows when an older program
// could not read what a newer one wrote; a start raises that of an older directory.
//
//	1  the first
//	2  the park, and journal messages that name its copies
//	3  sealed key files, domains (an older program would give an event subscription of
//	   a domain's topic the whole domain)
const formatVersion = 3

// directory is a locked data directory.
//
//	LOCK       held by the process that uses the directory
//	FORMAT     its format version
//	CLEAN      there only between a graceful stop and the next start
//	RESERVE    space kept for a full disk, see disk.go
//	damaged    bytes that a disk changed, see damage.go
//	jetstream  the store
type directory struct {
	path  string
	lock  *os.File
	fresh bool // nothing was there before
	clean bool // the last stop was graceful
}

// openDirectory makes the directory if needed, locks it, and checks its format.
func openDirectory(path string) (*directory, error) {
	if path == "" {
		return nil, errors.New("open engine: no data directory given")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // a directory needs its x bit
		return nil, fmt.Errorf("make data directory private: %w", err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	d := &directory{path: path, lock: lock}
	if err := d.checkFormat(); err != nil {
		d.unlock()
		return nil, err
	}
	return d, nil
}

func (d *directory) checkFormat() error {
	path := filepath.Join(d.path, "FORMAT")
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.fresh = true
		return d.writeFormat(path)
	case err != nil:
		return fmt.Errorf("read format of data directory: %w", err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("data directory %s has no valid format version: %s holds %q", d.path, path, raw)
	}
	if version > formatVersion {
		return fmt.Errorf("data directory %s has format %d, this program knows formats up to %d: use the newer program that wrote it, or restore a backup", d.path, version, formatVersion)
	}
	if version < formatVersion {
		return d.writeFormat(path)
	}
	return nil
}

// writeFormat states the present format; a crash leaves the old statement or this.
func (d *directory) writeFormat(path string) error {
	if err := writeSynced(path+".new", strconv.Itoa(formatVersion)+"\n"); err != nil {
		return fmt.Errorf("write format of data directory: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write format of data directory: %w", err)
	}
	return syncPath(d.path)
}

// takeCleanMark reads and removes the mark of a graceful stop; from here on a
// stop counts as unclean until leaveCleanMark. Without the mark projection and park
// are synced first, so that the log may be purged below what a killed process left.
func (d *directory) takeCleanMark() error {
	err := os.Remove(filepath.Join(d.path, "CLEAN"))
	if errors.Is(err, fs.ErrNotExist) {
		return d.syncCopies()
	}
	if err != nil {
		return fmt.Errorf("remove mark of the last stop: %w", err)
	}
	d.clean = true
	return syncPath(d.path)
}

// leaveCleanMark says that everything was written.
func (d *directory) leaveCleanMark() error {
	if err := d.syncCopies(); err != nil {
		return err
	}
	return writeSynced(filepath.Join(d.path, "CLEAN"), "")
}

// syncCopies puts on disk what the streams of the projection and the park have handed
// to the operating system, for the former is not synced with each write, nor the
// latter at level process. The server must not be running.
func (d *directory) syncCopies() error {
	err := filepath.WalkDir(filepath.Join(d.path, "jetstream"), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !strings.Contains(path, projectionStream) && !strings.Contains(path, parkStream) {
			return err
		}
		return syncPath(path)
	})
	if err != nil {
		return fmt.Errorf("sync projection and park: %w", err)
	}
	return nil
}

func (d *directory) unlock() { _ = d.lock.Close() } // closing drops the lock

func writeSynced(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if err := syncPath(path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// used is the bytes the store takes on the disk.
func (d *directory) used() (bytes int64, err error) {
	err = filepath.WalkDir(filepath.Join(d.path, "jetstream"), func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		bytes += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure store: %w", err)
	}
	return bytes, nil
}

// defaultQuota is what the log may hold where nothing was said: a fifth of the
// space there is for it, at most maxLogQuota.
func (e *Engine) defaultQuota() (int64, error) {
	used, err := e.dir.used()
	if err != nil {
		return 0, err
	}
	return min(maxLogQuota, (e.disk.free.Load()+used)/5), nil
}
