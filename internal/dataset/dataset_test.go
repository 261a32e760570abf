package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/egress"
)

func places(t *testing.T, c Config) *Places {
	t.Helper()
	c.Guard, c.Spool = egress.New(egress.Options{AllowLoopback: true}), filepath.Join(t.TempDir(), "spool")
	return New(c)
}

// rowsOf compares a dataset with itself, which tells the rows.
func rowsOf(t *testing.T, p *Places, r Reference) (int64, error) {
	t.Helper()
	s, err := p.Read(t.Context(), r, drift.ReadOptions{})
	if err != nil {
		return 0, err
	}
	return s.Rows, nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// parquetOf is a file of rows that do not compress.
func parquetOf(t *testing.T, rows int) string {
	t.Helper()
	type row struct {
		A int64   `parquet:"a"`
		B float64 `parquet:"b"`
	}
	list := make([]row, rows)
	for i := range list {
		list[i] = row{int64(i), float64(uint64(i) * 0x9E3779B97F4A7C15 >> 11)}
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b, parquet.MaxRowsPerRowGroup(100_000))
	if _, err := w.Write(list); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLocal(t *testing.T) {
	root, outside := filepath.Join(t.TempDir(), "data"), t.TempDir()
	write(t, filepath.Join(root, "a.csv"), "a\n1\n2\n")
	write(t, filepath.Join(root, "with space.csv"), "a\n1\n")
	write(t, filepath.Join(root, "plain"), "a\n1\n2\n3\n")
	write(t, filepath.Join(root, "note.txt"), "a")
	write(t, filepath.Join(root, "empty", "readme.txt"), "none")
	write(t, filepath.Join(outside, "secret.csv"), "a\n1\n")
	for name, text := range map[string]string{
		"day=2/part-1.csv": "a\n1\n2\n3\n", "day=1/part-0.csv": "a\n1\n", "day=1/part-1.jsonl": `{"a":1,"b":2}`, "_SUCCESS": "", "_tmp/x.csv": "a\n1\n",
		"day=1/.part-0.csv": "a\n1\n", "day=1/nothing.csv": "", "day=1/part-9": "a\n1\n1\n1\n1\n", "day=1/t.parquet": parquetOf(t, 10),
	} {
		write(t, filepath.Join(root, "table", name), text)
	}
	for d, rows := range map[string]int{"2026/02/27": 1, "2026/03/01": 2, "2026/03/02": 4} {
		write(t, filepath.Join(root, "days", d, "x.csv"), "a\n"+strings.Repeat("1\n", rows))
	}
	for from, to := range map[string]string{
		"out.csv": filepath.Join(outside, "secret.csv"), "dir": outside, "up.csv": "../../outside.csv", "in.csv": "a.csv", "links/out.csv": filepath.Join(outside, "secret.csv")} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, from)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(root, from)); err != nil {
			t.Fatal(err)
		}
	}
	day := func(text string) time.Time {
		at, err := time.Parse(time.DateOnly, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	tests := []struct {
		name string
		r    Reference
		rows int64
		want string // of the error
	}{
		{"a file", Reference{URI: root + "/a.csv"}, 2, ""},
		{"by its address", Reference{URI: "file://" + root + "/with%20space.csv"}, 1, ""},
		{"a link inside", Reference{URI: root + "/in.csv"}, 2, ""},
		{"a format that is given", Reference{URI: root + "/plain", Format: drift.CSV}, 3, ""},
		{"a directory", Reference{URI: root + "/table/"}, 15, ""},
		{"a directory by its address", Reference{URI: "file://" + root + "/table"}, 15, ""},
		{"a directory of one format", Reference{URI: root + "/table/", Format: drift.CSV}, 8, ""},
		{"days", Reference{URI: root + "/days/{yyyy}/{MM}/{dd}/x.csv", From: day("2026-02-27"), To: day("2026-03-02")}, 3, ""},
		{"days of directories", Reference{URI: root + "/days/{yyyy}/{MM}/{dd}/", From: day("2026-02-27"), To: day("2026-03-03")}, 7, ""},
		{"months", Reference{URI: root + "/days/{yyyy}/{MM}/", From: day("2026-03-01"), To: day("2026-04-01")}, 6, ""},

		{"nothing", Reference{URI: root + "/b.csv"}, 0, "/b.csv: file does not exist"},
		{"no format", Reference{URI: root + "/note.txt"}, 0, "its name does not tell its format"},
		{"no files", Reference{URI: root + "/empty/"}, 0, "it has no files whose names tell a format"},
		{"no days", Reference{URI: root + "/days/{yyyy}/{MM}/{dd}/x.csv", From: day("2025-03-02"), To: day("2025-03-03")}, 0, "it has no files"},
		{"no window", Reference{URI: root + "/days/{yyyy}/{MM}/{dd}/x.csv"}, 0, "its dates need a window"},
		{"no directory", Reference{URI: root + "/a.csv/"}, 0, "it is a file: leave out the /"},
		{"a link that leads out", Reference{URI: root + "/out.csv"}, 0, "path escapes from parent"},
		{"a link up", Reference{URI: root + "/up.csv"}, 0, "path escapes from parent"},
		{"below a link that leads out", Reference{URI: root + "/dir/secret.csv"}, 0, "path escapes from parent"},
		{"a directory behind a link", Reference{URI: root + "/dir/"}, 0, "path escapes from parent"},
		{"a link that leads out of a list", Reference{URI: root + "/links/"}, 0, "out.csv: path escapes from parent"},
		{"dots", Reference{URI: root + "/../outside.csv"}, 0, "it lies in no directory"},
		{"dots in an address", Reference{URI: "file://" + root + "/%2e%2e/outside.csv"}, 0, "it lies in no directory"},
		{"elsewhere", Reference{URI: outside + "/secret.csv"}, 0, "it lies in no directory"},
		{"another machine", Reference{URI: "file://host" + root + "/a.csv"}, 0, "no address of a file"},
		{"no path", Reference{URI: "a.csv"}, 0, "it lies in no directory"},
		{"another scheme", Reference{URI: "ftp://host/a.csv"}, 0, "addresses of ftp://"},
	}
	p := places(t, Config{Roots: []string{t.TempDir(), root}})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rows, err := rowsOf(t, p, tt.r)
			if rows != tt.rows || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%d rows, error %v", rows, err)
			}
		})
	}
	if _, err := rowsOf(t, p, Reference{URI: root + "/b.csv"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := rowsOf(t, p, Reference{URI: root + "/days/{yyyy}.csv", From: day("2026-02-27"), To: day("2026-03-03")}); !errors.Is(err, ErrNoFiles) {
		t.Errorf("a pattern of no files: %v", err)
	}
	if _, err := rowsOf(t, places(t, Config{}), Reference{URI: root + "/a.csv"}); err == nil || !strings.Contains(err.Error(), "--data-root") {
		t.Errorf("without roots: %v", err)
	}
	t.Chdir(root)
	if rows, err := rowsOf(t, places(t, Config{Everywhere: true}), Reference{URI: "out.csv"}); rows != 1 || err != nil {
		t.Errorf("everywhere: %d rows, error %v", rows, err)
	}
}

// A file that is written while it is read is an error.
func TestLocalChanges(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.csv")
	write(t, name, "a\n1\n")
	p := places(t, Config{Everywhere: true})
	s, err := p.openLocal(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, "a\n1\n2\n")
	if _, err := io.ReadAll(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, errChanged) {
		t.Errorf("a file that grew: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if s, err = p.openLocal(ctx, name); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	cancel(enough)
	if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, enough) {
		t.Errorf("after it was stopped: %v", err)
	}
	_ = s.Close()
}

func TestPatterns(t *testing.T) {
	at := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	tests := []struct {
		uri, from, to string
		want          []string
		fault         string
	}{
		{"/a/{yyyy}-{MM}-{dd}.csv", "2026-02-27T12:00:00Z", "2026-03-01T00:00:00Z", []string{"/a/2026-02-27.csv", "/a/2026-02-28.csv"}, ""},
		{"/{yyyy}/{MM}/", "2026-11-30T23:00:00Z", "2027-01-01T00:00:01Z", []string{"/2026/11/", "/2026/12/", "/2027/01/"}, ""},
		{"/{yyyy}.csv", "2026-11-30T23:00:00Z", "2027-01-01T00:00:00Z", []string{"/2026.csv"}, ""},
		{"/{yyyy}{MM}{dd}{HH}", "2026-03-01T22:30:00Z", "2026-03-02T01:00:00Z", []string{"/2026030122", "/2026030123", "/2026030200"}, ""},
		{"/{yyyy}/{MM}/{dd}", "2026-03-01T01:00:00+02:00", "2026-03-01T02:00:00+02:00", []string{"/2026/02/28"}, ""},
		{"/a.csv", "2026-03-01T22:30:00Z", "2026-03-02T01:00:00Z", []string{"/a.csv"}, ""},
		{"/{YYYY}.csv", "2026-03-01T22:30:00Z", "2026-03-02T01:00:00Z", nil, "{YYYY} is no part of a date"},
		{"/{yyyy}/{dd}.csv", "2026-03-01T22:30:00Z", "2026-03-02T01:00:00Z", nil, "needs {MM}, too"},
		{"/{yyyy}{MM}{dd}{HH}", "2020-03-01T22:30:00Z", "2026-03-02T01:00:00Z", nil, "more than 10000"},
	}
	for _, tt := range tests {
		got, err := Reference{URI: tt.uri, From: at(tt.from), To: at(tt.to)}.expand()
		if !reflect.DeepEqual(got, tt.want) || (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %q, error %v", tt.uri, got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for uri, want := range map[string]string{
		"/data/a.csv": "", "/data/{yyyy}/{MM}/": "", "file:///data/a.csv": "", "https://h.example/a.csv?version=3": "", "s3://bucket/{yyyy}.csv": "",
		"a.csv":                                          "no absolute path and no address",
		"gs://bucket/a.csv":                              "addresses of gs:// cannot be read",
		"https://u:s3cret@h.example/a.csv":               "holds a user name",
		"https://h.example/a.csv?sig=s3cret":             "holds a credential (sig)",
		"https://h.example/a.csv?X-Amz-Signature=s3cret": "holds a credential (X-Amz-Signature)",
		"https://h.example/a.csv?user=a&password=s3cret": "holds a credential (password)",
		"https://h.example/a.csv?api_key=s3cret":         "holds a credential (api_key)",
		"https://h.example/a.csv?private-token=s3cret":   "holds a credential (private-token)",
		"https://h.example/%zz?sig=s3cret":               "percent-encode",
		"/data/{day}.csv":                                "{day} is no part of a date",
	} {
		err := Check(uri)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
}

// An object is served by a handler, which is told how often it was asked.
func served(t *testing.T, handler func(w http.ResponseWriter, r *http.Request, asked int)) string {
	t.Helper()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		handler(w, r, asked)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

var changed = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// ranged answers ranges and conditions, as net/http does.
func ranged(w http.ResponseWriter, r *http.Request, etag, text string) {
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(w, r, "x", changed, strings.NewReader(text))
}

func TestWeb(t *testing.T) {
	quick(t)
	const rows = 400_000
	table, lines := parquetOf(t, rows), "a\n"+strings.Repeat("12345678\n", rows)
	if len(table) < blockSize+blockSize/4 {
		t.Fatalf("the file has only %d bytes", len(table))
	}
	tests := []struct {
		name    string
		file    string
		handler func(w http.ResponseWriter, r *http.Request, asked int)
		want    string
	}{
		{"csv", "a.csv", func(w http.ResponseWriter, r *http.Request, _ int) { ranged(w, r, `"1"`, lines) }, ""},
		{"parquet", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) { ranged(w, r, `"1"`, table) }, ""},
		{"parquet with dates", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) { ranged(w, r, `W/"1"`, table) }, ""},
		{"parquet without ranges", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = io.WriteString(w, table) }, ""},
		{"parquet without versions", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) {
			http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(table))
		}, ""},
		{"csv of unknown size", "a.csv", func(w http.ResponseWriter, r *http.Request, _ int) {
			for part := range strings.SplitAfterSeq(lines, "5") {
				_, _ = io.WriteString(w, part)
			}
		}, ""},
		{"a connection that breaks", "a.csv", func(w http.ResponseWriter, r *http.Request, asked int) {
			if asked < 3 {
				ranged(&broken10{w, 100_000}, r, `"1"`, lines)
				return
			}
			ranged(w, r, `"1"`, lines)
		}, ""},
		{"pieces that break", "a.parquet", func(w http.ResponseWriter, r *http.Request, asked int) {
			if asked%2 == 1 {
				ranged(&broken10{w, 100_000}, r, `"1"`, table)
				return
			}
			ranged(w, r, `"1"`, table)
		}, ""},
		{"a whole file that breaks", "a.parquet", func(w http.ResponseWriter, r *http.Request, asked int) {
			r.Header.Del("Range")
			if asked == 1 {
				ranged(&broken10{w, 100_000}, r, `"1"`, table)
				return
			}
			ranged(w, r, `"1"`, table)
		}, ""},
		{"a server that is overloaded", "a.csv", func(w http.ResponseWriter, r *http.Request, asked int) {
			if asked < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			ranged(w, r, `"1"`, lines)
		}, ""},

		{"a file that changes", "a.parquet", func(w http.ResponseWriter, r *http.Request, asked int) {
			ranged(w, r, fmt.Sprintf(`"%d"`, asked), table)
		}, "it changed while it was read"},
		{"a file that changes by its date", "a.parquet", func(w http.ResponseWriter, r *http.Request, asked int) {
			r.Header.Del("If-Unmodified-Since") // a server that does not know it
			http.ServeContent(w, r, "x", changed.Add(time.Duration(asked)*time.Second), strings.NewReader(table))
		}, "it changed while it was read"},
		{"a file that grows", "a.parquet", func(w http.ResponseWriter, r *http.Request, asked int) {
			ranged(w, r, `"1"`, table+strings.Repeat("x", asked))
		}, "it changed while it was read"},
		{"a file that changes before it goes on", "a.csv", func(w http.ResponseWriter, r *http.Request, asked int) {
			ranged(&broken10{w, 100_000}, r, fmt.Sprintf(`"%d"`, asked), lines)
		}, "it changed while it was read"},
		{"a break without a version", "a.csv", func(w http.ResponseWriter, r *http.Request, asked int) {
			http.ServeContent(&broken10{w, 100_000}, r, "x", time.Time{}, strings.NewReader(lines))
		}, "cannot tell whether the file is still the same"},
		{"a file that is too large", "a.parquet", func(w http.ResponseWriter, r *http.Request, asked int) {
			_, _ = io.WriteString(w, table+strings.Repeat("x", 8<<20))
		}, "have it served by one that answers range requests"},
		{"not there", "a.csv", func(w http.ResponseWriter, r *http.Request, _ int) { http.NotFound(w, r) }, "the server answered 404"},
		{"forbidden", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) { w.WriteHeader(http.StatusForbidden) }, "the server answered 403: it wants credentials"},
		{"elsewhere", "a.csv", func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, "/other?sig=s3cret", http.StatusFound)
		}, "redirects are not followed"},
		{"overloaded for good", "a.csv", func(w http.ResponseWriter, r *http.Request, _ int) { w.WriteHeader(http.StatusServiceUnavailable) }, "the server answered 503"},
		{"empty parquet", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) { ranged(w, r, `"1"`, "") }, "too short"},
		{"another range", "a.parquet", func(w http.ResponseWriter, r *http.Request, _ int) {
			r.Header.Set("Range", "bytes=7-9")
			ranged(w, r, `"1"`, table)
		}, "another range"},
		{"packed", "a.csv", func(w http.ResponseWriter, r *http.Request, _ int) { w.Header().Set("Content-Encoding", "gzip") }, "packs the file"},
		{"a list", "days/", func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = io.WriteString(w, "<html>") }, "web servers have no lists"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := places(t, Config{SpoolLimit: 8 << 20})
			got, err := rowsOf(t, p, Reference{URI: served(t, tt.handler) + "/" + tt.file + "?sig=s3cret"})
			if (err == nil) != (tt.want == "") || err == nil && got != rows {
				t.Errorf("%d rows, error %v", got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), tt.file)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if left, err := filepath.Glob(filepath.Join(p.Spool, "*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// quick makes the pauses short.
func quick(t *testing.T) {
	before := pauses
	pauses = []time.Duration{time.Millisecond, time.Millisecond}
	t.Cleanup(func() { pauses = before })
}

// broken10 ends the connection after some bytes.
type broken10 struct {
	http.ResponseWriter
	left int
}

func (b *broken10) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	if b.left -= n; b.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// What may not be reached is not, and no request is made again for it.
func TestWebRefused(t *testing.T) {
	p := New(Config{Guard: egress.New(egress.Options{})})
	began := time.Now()
	_, err := rowsOf(t, p, Reference{URI: served(t, func(w http.ResponseWriter, r *http.Request, _ int) { t.Error("it was asked") }) + "/a.csv"})
	if _, is := errors.AsType[*egress.RefusedError](err); !is || time.Since(began) > pauses[0] {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	p = New(Config{Guard: egress.New(egress.Options{AllowLoopback: true})})
	if _, err := rowsOf(t, p, Reference{URI: "https://u:s3cret@127.0.0.1/a.csv"}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("user information: %v", err)
	}
}

// A server that falls silent is given up, in the middle of an answer, too.
func TestStall(t *testing.T) {
	for name, before := range map[string]string{"at once": "", "in the middle": "a\n1\n"} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			url := served(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				if before != "" {
					_, _ = io.WriteString(w, before)
					w.(http.Flusher).Flush()
				}
				<-release
			})
			defer close(release)
			client := egress.New(egress.Options{AllowLoopback: true}).Client(0)
			client.Transport = &waiting{client.Transport, 50 * time.Millisecond}
			response, err := client.Get(url)
			if err == nil {
				var got []byte
				got, err = io.ReadAll(response.Body)
				_ = response.Body.Close()
				if string(got) != before {
					t.Errorf("read %q", got)
				}
			}
			if !errors.Is(err, errStalled) {
				t.Errorf("error %v", err)
			}
		})
	}
}
