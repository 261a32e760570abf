package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/secret"
)

// A source is an open file: read from its begin to its end, or at any place.
type source struct {
	io.Reader
	io.ReaderAt
	size  int64 // -1 where it is only read in order, and its server does not tell
	close func() error
}

// Close returns an error, too, if the file changed while it was read.
func (s *source) Close() error { return s.close() }

// errChanged says that a file changed while it was read.
var errChanged = errors.New("it changed while it was read: read it again once nobody writes it")

// statusError is an answer that is none of the object.
type statusError struct {
	status int
	code   string // as S3 and Azure name it
	remedy string
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("the server answered %d", e.status)
	if e.code != "" {
		text += " " + e.code
	}
	switch {
	case e.remedy != "":
		text += ": " + e.remedy
	case e.status/100 == 3:
		text += ": redirects are not followed, give the address that it leads to"
	}
	return text
}

// Unwrap tells a file that is not there from other errors.
func (e *statusError) Unwrap() error {
	if (e.status == http.StatusNotFound || e.status == http.StatusGone) && e.code != noBucket && e.code != noContainer {
		return fs.ErrNotExist
	}
	return nil
}

// What there is no answer about, and not a file that is not there.
const (
	noBucket    = "NoSuchBucket"
	noContainer = "ContainerNotFound"
)

// failed is a status as an error.
func failed(status int, code, remedy string) error {
	if status == http.StatusPreconditionFailed {
		return errChanged
	}
	e := &statusError{status: status, code: code}
	if status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusConflict { // as Azure says of what is not public
		e.remedy = remedy
	}
	return e
}

// Requests that fail for a reason that may pass are made again.
var pauses = []time.Duration{300 * time.Millisecond, time.Second, 3 * time.Second}

func passing(err error) bool {
	if answered, is := errors.AsType[*statusError](err); is {
		return answered.status >= 500 && answered.status != http.StatusNotImplemented || answered.status == http.StatusTooManyRequests || answered.status == http.StatusRequestTimeout
	}
	if name, is := errors.AsType[*net.DNSError](err); is && name.IsNotFound {
		return false
	}
	_, is := errors.AsType[*brokenError](err)
	return is
}

// brokenError is an exchange that failed on its way.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

func (e *brokenError) Error() string {
	return "its server cannot be reached: " + secret.Redact(e.error.Error())
}

// broken is the error of an exchange without the address that clients put before it.
func broken(err error) error {
	if refused, is := errors.AsType[*egress.RefusedError](err); is {
		return refused
	}
	if already, is := errors.AsType[*brokenError](err); is {
		return already
	}
	if u, is := errors.AsType[*url.Error](err); is {
		err = u.Err
	}
	return &brokenError{err}
}

// again does something until it works, or fails for good.
func again(ctx context.Context, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if i == len(pauses) || !passing(err) {
			return err
		}
		timer := time.NewTimer(pauses[i])
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// open opens an object of a store, to be read in order or at any place.
func (p *Places) open(ctx context.Context, s store, name string, inOrder bool) (*source, error) {
	if inOrder {
		st := &stream{ctx: ctx, store: s, name: name}
		if err := st.begin(); err != nil {
			return nil, err
		}
		return &source{Reader: st, size: st.size, close: st.close}, nil
	}
	b := &blocks{ctx: ctx, store: s, name: name}
	first, err := b.begin()
	if err != nil {
		return nil, err
	}
	if first == nil {
		return &source{ReaderAt: b, size: b.size, close: func() error { return nil }}, nil
	}
	return p.spool(ctx, s, name, first)
}

// A stream reads an object in order. Where a connection breaks it goes on in a new one,
// if the server can tell that the object is still the same.
type stream struct {
	ctx   context.Context // of the reading: io.Reader has no place for it
	store store
	name  string

	body    io.ReadCloser
	at      int64
	size    int64
	version string
}

func (s *stream) begin() error {
	return again(s.ctx, func() error {
		a, err := s.store.get(s.ctx, s.name, 0, -1, "")
		if err != nil {
			return err
		}
		s.body, s.size, s.version = a.body, a.size, a.version
		return nil
	})
}

func (s *stream) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.body.Read(b)
	s.at += int64(n)
	if err == nil || n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) && (s.size < 0 || s.at == s.size) {
		return 0, io.EOF
	}
	if s.version == "" {
		return 0, fmt.Errorf("the connection ended after %d bytes, and its server cannot tell whether the file is still the same", s.at)
	}
	err = again(s.ctx, func() error {
		_ = s.body.Close()
		a, err := s.store.get(s.ctx, s.name, s.at, -1, s.version)
		if err != nil {
			return err
		}
		if s.body = a.body; a.whole {
			if _, err := io.CopyN(io.Discard, a.body, s.at); err != nil {
				return broken(err)
			}
		}
		n, err = s.body.Read(b)
		s.at += int64(n)
		if n > 0 {
			return nil
		}
		return broken(err)
	})
	return n, err
}

func (s *stream) close() error {
	_ = s.body.Close() // what was read is read
	return nil
}

// blocks read an object at any place, by pieces of which the last few stay.
type blocks struct {
	ctx   context.Context // of the reading: io.ReaderAt has no place for it
	store store
	name  string

	size    int64
	version string
	kept    []block // the last used one at the end
}

type block struct {
	number int64
	bytes  []byte
}

const (
	blockSize  = 4 << 20
	keptBlocks = 4
)

// begin reads the first block, and returns the answer instead if the object cannot be
// read by pieces.
func (b *blocks) begin() (whole *answer, err error) {
	err = again(b.ctx, func() error {
		a, err := b.store.get(b.ctx, b.name, 0, blockSize, "")
		if err != nil {
			return err
		}
		if a.whole || a.size < 0 || a.version == "" && a.size > blockSize {
			whole = a
			return nil
		}
		b.size, b.version = a.size, a.version
		return b.keep(0, a)
	})
	return whole, err
}

// keep reads a block.
func (b *blocks) keep(number int64, a *answer) error {
	defer func() { _ = a.body.Close() }()
	if a.size != b.size || a.version != b.version {
		return errChanged
	}
	length := min(blockSize, b.size-number*blockSize)
	var buffer []byte
	if len(b.kept) == keptBlocks {
		buffer, b.kept = b.kept[0].bytes, slices.Delete(b.kept, 0, 1)
	}
	if int64(cap(buffer)) < length {
		buffer = make([]byte, length)
	}
	buffer = buffer[:length]
	if _, err := io.ReadFull(a.body, buffer); err != nil {
		return broken(err)
	}
	b.kept = append(b.kept, block{number, buffer})
	return nil
}

// block returns a block; it is good until the next call.
func (b *blocks) block(number int64) ([]byte, error) {
	for i := len(b.kept) - 1; i >= 0; i-- {
		if found := b.kept[i]; found.number == number {
			b.kept = append(slices.Delete(b.kept, i, i+1), found)
			return found.bytes, nil
		}
	}
	err := again(b.ctx, func() error {
		from := number * blockSize
		a, err := b.store.get(b.ctx, b.name, from, min(from+blockSize, b.size), b.version)
		if err != nil {
			return err
		}
		if a.whole {
			_ = a.body.Close()
			return errChanged // it had ranges before
		}
		return b.keep(number, a)
	})
	if err != nil {
		return nil, err
	}
	return b.kept[len(b.kept)-1].bytes, nil
}

// ReadAt is not for concurrent use.
func (b *blocks) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) {
		if at < 0 || at >= b.size {
			return n, io.EOF
		}
		bytes, err := b.block(at / blockSize)
		if err != nil {
			return n, err
		}
		copied := copy(p[n:], bytes[at%blockSize:])
		n, at = n+copied, at+int64(copied)
	}
	return n, nil
}

var errSpoolFull = errors.New("it is too large")

// spool keeps an object in a temporary file. a is an answer that may have all of it.
func (p *Places) spool(ctx context.Context, s store, name string, a *answer) (_ *source, err error) {
	if p.Spool != "" {
		if err := os.MkdirAll(p.Spool, 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(p.Spool, "dataset-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name()) // it goes with the process; where that cannot be, Close removes it
	clean := func() error {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil
	}
	defer func() {
		if err != nil {
			_ = clean()
		}
	}()
	var size int64
	err = again(ctx, func() error {
		if a == nil || !a.whole {
			if a != nil {
				_ = a.body.Close()
			}
			if a, err = s.get(ctx, name, 0, -1, ""); err != nil {
				a = nil
				return err
			}
		}
		body, told := a.body, a.size
		a = nil
		defer func() { _ = body.Close() }()
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if size, err = io.Copy(f, io.LimitReader(body, p.SpoolLimit+1)); err != nil {
			return err
		}
		switch {
		case size > p.SpoolLimit:
			return fmt.Errorf("%w: its server does not read files by pieces, and of such a file %d MiB are kept: have it served by one that answers range requests", errSpoolFull, p.SpoolLimit>>20)
		case told >= 0 && size != told:
			return broken(io.ErrUnexpectedEOF)
		}
		return f.Truncate(size)
	})
	if err != nil {
		return nil, err
	}
	return &source{ReaderAt: f, size: size, close: clean}, nil
}
