package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/carillon-events/carillon/internal/drift"
)

// A tree is a directory that files are opened in, and none outside it.
type tree interface {
	Open(name string) (*os.File, error)
	Stat(name string) (fs.FileInfo, error)
	FS() fs.FS
	Close() error
}

// anywhere is the tree of a reader on their own machine: what the system lets them
// open.
type anywhere struct{}

func (anywhere) Open(name string) (*os.File, error)    { return os.Open(name) }
func (anywhere) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }
func (anywhere) Close() error                          { return nil }
func (anywhere) FS() fs.FS                             { return os.DirFS("/") }

// local returns the files of a path.
func (p *Places) local(ctx context.Context, r Reference, uri string) ([]file, error) {
	name, err := pathOf(uri)
	if err != nil {
		return nil, err
	}
	directory := strings.HasSuffix(name, "/")
	where, name, err := p.tree(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = where.Close() }()
	info, err := where.Stat(name)
	switch {
	case err != nil:
		return nil, bare(err)
	case directory && !info.IsDir():
		return nil, errors.New("it is a file: leave out the / at its end")
	case !info.IsDir():
		return []file{p.localFile(uri, cmp.Or(r.Format, drift.FormatOf(name)))}, nil
	}
	uri = strings.TrimSuffix(uri, "/") + "/"
	return list(r, func(each func(string, int64) error) error {
		return walk(ctx, where, name, each)
	}, func(below string, format drift.Format) file {
		if strings.HasPrefix(uri, "file://") {
			below = (&url.URL{Path: below}).EscapedPath()
		}
		return p.localFile(uri+below, format)
	})
}

// pathOf is the path of a file that is named by it, or by an address.
func pathOf(uri string) (string, error) {
	if !strings.HasPrefix(uri, "file://") {
		return uri, nil
	}
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("it is no address of a file: it begins with file:///, and what is special in it is percent-encoded")
	}
	return u.Path, nil
}

// walk calls each for the files below a directory.
func walk(ctx context.Context, where tree, dir string, each func(name string, size int64) error) error {
	return fs.WalkDir(where.FS(), strings.TrimPrefix(filepath.ToSlash(dir), "/"), func(found string, d fs.DirEntry, err error) error {
		if err != nil {
			return bare(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		below, err := filepath.Rel("/"+strings.TrimPrefix(dir, "/"), "/"+found)
		if err != nil || d.IsDir() {
			return err
		}
		info, err := where.Stat(path.Join(dir, below)) // of what a link leads to
		if err != nil {
			return fmt.Errorf("%s: %w", below, bare(err))
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		return each(filepath.ToSlash(below), info.Size())
	})
}

// tree returns the tree that a path lies in, and its name there.
func (p *Places) tree(name string) (tree, string, error) {
	if p.Everywhere {
		name, err := filepath.Abs(name)
		return anywhere{}, name, err
	}
	root, below, err := p.root(name)
	if err != nil {
		return nil, "", err
	}
	opened, err := os.OpenRoot(root)
	if err != nil {
		return nil, "", bare(err)
	}
	return opened, below, nil
}

// root returns the directory that a path has to lie below, and its name there.
func (p *Places) root(name string) (root, below string, err error) {
	if len(p.Roots) == 0 {
		return "", "", errors.New("the operator of this server lets no files of its machine be read: carillon serve --data-root DIR names where they may lie")
	}
	if filepath.IsAbs(name) {
		for _, root := range p.Roots {
			below, err := filepath.Rel(root, filepath.Clean(name))
			if err != nil || !filepath.IsLocal(below) {
				continue
			}
			return root, below, nil
		}
	}
	return "", "", errors.New("it lies in no directory that the operator of this server lets be read (serve --data-root)")
}

func (p *Places) localFile(uri string, format drift.Format) file {
	return file{uri, format, func(ctx context.Context, _ drift.Format) (*source, error) { return p.openLocal(ctx, uri) }}
}

func (p *Places) openLocal(ctx context.Context, uri string) (*source, error) {
	name := uri
	if strings.HasPrefix(uri, "file://") {
		u, err := url.Parse(uri)
		if err != nil {
			return nil, err
		}
		name = u.Path
	}
	where, name, err := p.tree(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = where.Close() }()
	before, err := where.Stat(name)
	if err != nil {
		return nil, bare(err)
	}
	if !before.Mode().IsRegular() && !p.Everywhere { // a pipe would be waited for
		return nil, errors.New("it is no regular file")
	}
	f, err := where.Open(name)
	if err != nil {
		return nil, bare(err)
	}
	if before, err = f.Stat(); err != nil {
		_ = f.Close()
		return nil, bare(err)
	}
	s := stoppable{f, ctx}
	return &source{Reader: s, ReaderAt: s, size: before.Size(), close: func() error {
		after, err := f.Stat()
		_ = f.Close()
		if err != nil {
			return bare(err)
		}
		if before.Mode().IsRegular() && (after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime())) {
			return errChanged
		}
		return nil
	}}, nil
}

// stoppable is a file that reads no further once its reader has stopped.
type stoppable struct {
	file *os.File
	ctx  context.Context
}

func (s stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.file.Read(p)
	return n, ended(err)
}

func (s stoppable) ReadAt(p []byte, at int64) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.file.ReadAt(p, at)
	return n, ended(err)
}

func ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return bare(err)
}

// bare is an error of a file without its path, which is named already.
func bare(err error) error {
	if pathErr, is := errors.AsType[*fs.PathError](err); is {
		err = pathErr.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fs.ErrNotExist
	case errors.Is(err, fs.ErrPermission):
		return fs.ErrPermission
	}
	return err
}
