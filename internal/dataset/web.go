package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// web is a web server. The version of a file is its strong ETag, or else the time of
// its last change with the weak one.
// Source: RFC 9110, sections 8.8 (validators), 13.1 (preconditions) and 14 (ranges).
type web struct {
	client *http.Client
	url    url.URL
	remedy string
}

func (w *web) get(ctx context.Context, _ string, from, to int64, version string) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "identity") // what is unpacked on the way has no size and no ranges
	if ranged := from > 0 || to >= 0; ranged {
		end := ""
		if to >= 0 {
			end = strconv.FormatInt(to-1, 10)
		}
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", from, end))
	}
	if etag, date, _ := strings.Cut(version, " "); strings.HasPrefix(etag, `"`) {
		request.Header.Set("If-Match", version)
	} else if version != "" {
		request.Header.Set("If-Unmodified-Since", date)
	}
	response, err := w.client.Do(request)
	if err != nil {
		return nil, broken(err)
	}
	a := &answer{body: response.Body, size: response.ContentLength, version: versionOf(response.Header)}
	switch response.StatusCode {
	case http.StatusOK:
		a.whole = true
	case http.StatusPartialContent:
		first, size, ok := contentRange(response.Header.Get("Content-Range"))
		if !ok || first != from {
			_ = response.Body.Close()
			return nil, errors.New("the server answered another range than it was asked for")
		}
		a.size = size
	case http.StatusRequestedRangeNotSatisfiable:
		_ = response.Body.Close()
		if _, size, ok := contentRange(response.Header.Get("Content-Range")); ok && size == 0 && from == 0 {
			return &answer{body: http.NoBody, version: a.version}, nil
		}
		return nil, errChanged // it was longer
	default:
		_ = response.Body.Close()
		if code := response.Header.Get("X-Ms-Error-Code"); code != "" { // a storage account that there is no connection for
			return nil, failed(response.StatusCode, code, w.remedy)
		}
		return nil, failed(response.StatusCode, "", "it wants credentials, which an address has no place for")
	}
	if response.Header.Get("Content-Encoding") != "" {
		_ = response.Body.Close()
		return nil, errors.New("the server packs the file on the way although it was told not to")
	}
	if version != "" && a.version != version {
		_ = response.Body.Close()
		return nil, errChanged
	}
	return a, nil
}

// versionOf is a strong ETag, or a weak one (or -) and a date.
func versionOf(h http.Header) string {
	etag, date := h.Get("ETag"), h.Get("Last-Modified")
	if strings.HasPrefix(etag, `"`) {
		return etag
	}
	if _, err := http.ParseTime(date); err != nil {
		return ""
	}
	if etag == "" || strings.Contains(etag, " ") {
		etag = "-"
	}
	return etag + " " + date
}

// contentRange reads "bytes 0-9/100" and "bytes */100".
func contentRange(text string) (first, size int64, ok bool) {
	text, ok = strings.CutPrefix(text, "bytes ")
	span, total, slash := strings.Cut(text, "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if !ok || !slash || err != nil || size < 0 {
		return 0, 0, false
	}
	if span == "*" {
		return 0, size, true
	}
	begin, _, _ := strings.Cut(span, "-")
	first, err = strconv.ParseInt(begin, 10, 64)
	return first, size, err == nil
}

func (w *web) list(context.Context, string, func(string, int64) error) error {
	return errors.New("web servers have no lists of files: name a file, or a pattern of dates such as {yyyy}/{MM}/{dd}.csv")
}

// stall is how long a server may be silent.
const stall = time.Minute

var errStalled = fmt.Errorf("the server was silent for %v", stall)

// patient makes a client of one without a limit of its own that ends an exchange once
// the server is silent, however long the whole takes.
func patient(c *http.Client) *http.Client {
	c.Transport = &waiting{c.Transport, stall}
	return c
}

type waiting struct {
	http.RoundTripper
	stall time.Duration
}

// RoundTrip sends a request whose answer may be waited for, piece by piece.
func (w *waiting) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(w.stall, func() { cancel(errStalled) })
	response, err := w.RoundTripper.RoundTrip(r.WithContext(ctx))
	timer.Stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	response.Body = &awaited{response.Body, ctx, cancel, timer, w.stall}
	return response, nil
}

// awaited is the body of such an answer.
type awaited struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (a *awaited) Read(p []byte) (int, error) {
	a.timer.Reset(a.stall)
	n, err := a.ReadCloser.Read(p)
	a.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(a.ctx); cause != nil {
			err = cause
		}
		err = broken(err)
	}
	return n, err
}

func (a *awaited) Close() error {
	a.timer.Stop()
	err := a.ReadCloser.Close()
	a.cancel(nil)
	return err
}
