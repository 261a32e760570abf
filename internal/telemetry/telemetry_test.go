package telemetry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

var guid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func answer500(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(500) }

// serve sends one request through the middleware and returns answer and records.
func serve(t *testing.T, level slog.Level, r *http.Request, h http.HandlerFunc) (*http.Response, []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	m := NewMiddleware(NewLogger(&out, level, FormatJSON), answer500)
	w := httptest.NewRecorder()
	m.Wrap(h).ServeHTTP(w, r)
	return w.Result(), records(t, &out)
}

func records(t *testing.T, out *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(out.String()) {
		var rec map[string]any
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		all = append(all, rec)
	}
	return all
}

func TestIDs(t *testing.T) {
	tests := []struct {
		name, correlation, client string
		echoCorrelation           bool
		wantClient                string
	}{
		{"none given", "", "", false, ""},
		{"both given", "11111111-2222-3333-4444-555555555555", "az-1", true, "az-1"},
		{"spaces", "a b", "c d", false, ""},
		{"too long", strings.Repeat("x", 129), strings.Repeat("x", 129), false, ""},
		{"not ASCII", "é", "é", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/x", nil)
			if tt.correlation != "" {
				r.Header.Set("x-ms-correlation-request-id", tt.correlation)
			}
			if tt.client != "" {
				r.Header.Set("x-ms-client-request-id", tt.client)
			}
			var seen *Record
			resp, _ := serve(t, slog.LevelInfo, r, func(_ http.ResponseWriter, r *http.Request) { seen = RecordOf(r.Context()) })
			id, correlation := resp.Header.Get("x-ms-request-id"), resp.Header.Get("x-ms-correlation-request-id")
			if !guid.MatchString(id) {
				t.Errorf("request id %q is not a GUID", id)
			}
			if tt.echoCorrelation && correlation != tt.correlation || !tt.echoCorrelation && !guid.MatchString(correlation) {
				t.Errorf("correlation id %q for %q", correlation, tt.correlation)
			}
			if got := resp.Header.Get("x-ms-client-request-id"); got != tt.wantClient {
				t.Errorf("client request id %q, want %q", got, tt.wantClient)
			}
			if seen.RequestID() != id || seen.CorrelationID() != correlation {
				t.Errorf("record has ids %s and %s", seen.RequestID(), seen.CorrelationID())
			}
		})
	}
}

// A caller that goes away is no error of the server's; a request of its own that was
// cancelled while the caller waits is one.
func TestCallerGone(t *testing.T) {
	for _, tt := range []struct {
		name string
		gone bool
		err  error
		want string
	}{
		{"gone", true, fmt.Errorf("publish: %w", context.Canceled), "INFO"},
		{"gone, and something broke", true, errors.New("disk is slow"), "ERROR"},
		{"there", false, fmt.Errorf("publish: %w", context.Canceled), "ERROR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, recs := serve(t, slog.LevelInfo, httptest.NewRequestWithContext(ctx, "POST", "/x", nil), func(w http.ResponseWriter, r *http.Request) {
				if tt.gone {
					cancel()
				}
				RecordOf(r.Context()).SetError(tt.err)
				w.WriteHeader(500)
			})
			if len(recs) != 1 || recs[0]["level"] != tt.want {
				t.Errorf("records %v, want one at %s", recs, tt.want)
			}
		})
	}
}

func TestOneWideRecord(t *testing.T) {
	r := httptest.NewRequest("PUT", "/subscriptions/1?api-version=1&code=s3cret", nil)
	r.Header.Set("User-Agent", "AZURECLI/2")
	_, recs := serve(t, slog.LevelInfo, r, func(w http.ResponseWriter, r *http.Request) {
		rec := RecordOf(r.Context())
		rec.SetPrincipal(Identity{ObjectID: "oid-1"})
		rec.Add(slog.String(Resource, "/subscriptions/1"))
		rec.SetError(errors.New("disk is slow"))
		w.WriteHeader(201)
		_, _ = io.WriteString(w, "12345")
	})
	if len(recs) != 1 {
		t.Fatalf("%d records, want 1", len(recs))
	}
	rec := recs[0]
	for key, want := range map[string]any{
		"msg": "request served", "level": "INFO", Method: "PUT", Path: "/subscriptions/1", Status: 201.0, Bytes: 5.0,
		Principal: "oid-1", Resource: "/subscriptions/1", Error: "disk is slow", UserAgent: "AZURECLI/2", Remote: "192.0.2.1",
	} {
		if rec[key] != want {
			t.Errorf("%s = %v, want %v", key, rec[key], want)
		}
	}
	if d, err := time.ParseDuration(rec[Duration].(string)); err != nil || d < 0 {
		t.Errorf("duration %v: %v", rec[Duration], err)
	}
	if strings.Contains(rec[Path].(string), "s3cret") {
		t.Error("the record has the query")
	}
}

func TestLevels(t *testing.T) {
	tests := []struct {
		name    string
		logger  slog.Level
		set     slog.Level
		status  int
		records int
		want    string
	}{
		{"a request", slog.LevelInfo, slog.LevelInfo, 200, 1, "INFO"},
		{"a quiet request", slog.LevelInfo, slog.LevelDebug, 200, 0, ""},
		{"a quiet request, debugging", slog.LevelDebug, slog.LevelDebug, 200, 1, "DEBUG"},
		{"a quiet request that breaks", slog.LevelInfo, slog.LevelDebug, 500, 1, "ERROR"},
		{"busy is no error", slog.LevelInfo, slog.LevelDebug, 503, 0, ""},
		{"the caller's fault is no error", slog.LevelInfo, slog.LevelInfo, 404, 1, "INFO"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, recs := serve(t, tt.logger, httptest.NewRequest("POST", "/api/events", nil), func(w http.ResponseWriter, r *http.Request) {
				RecordOf(r.Context()).SetLevel(tt.set)
				w.WriteHeader(tt.status)
			})
			if len(recs) != tt.records {
				t.Fatalf("%d records, want %d", len(recs), tt.records)
			}
			if len(recs) > 0 && recs[0]["level"] != tt.want {
				t.Errorf("level %v, want %s", recs[0]["level"], tt.want)
			}
		})
	}
}

func TestPanicBeforeTheAnswer(t *testing.T) {
	for name, value := range map[string]any{"text": "boom", "error": errors.New("boom")} {
		resp, recs := serve(t, slog.LevelInfo, httptest.NewRequest("GET", "/x", nil), func(http.ResponseWriter, *http.Request) { panic(value) })
		if resp.StatusCode != 500 {
			t.Errorf("%s: status %d, want 500", name, resp.StatusCode)
		}
		if len(recs) != 1 || recs[0]["level"] != "ERROR" || recs[0][Error] != "handler panicked: boom" ||
			!strings.Contains(recs[0][Stack].(string), "TestPanicBeforeTheAnswer") {
			t.Errorf("%s: records %v", name, recs)
		}
	}
}

func TestPanicAfterTheAnswerBegan(t *testing.T) {
	var out bytes.Buffer
	m := NewMiddleware(NewLogger(&out, slog.LevelInfo, FormatJSON), answer500)
	h := m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("boom")
	}))
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it too
				t.Errorf("panic %v, want ErrAbortHandler", p)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil))
	}()
	if recs := records(t, &out); len(recs) != 1 || recs[0][Status] != 200.0 || recs[0][Error] != "handler panicked: boom" {
		t.Errorf("records %v", recs)
	}
}

func TestStreamingThroughTheMiddleware(t *testing.T) {
	next := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		<-next
		_, _ = io.WriteString(w, "two\n")
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Errorf("ResponseController: %v", err)
		}
	})
	m := NewMiddleware(slog.New(slog.DiscardHandler), answer500)
	srv := httptest.NewServer(m.Wrap(h))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "one" {
		t.Fatalf("first line %q", lines.Text())
	}
	close(next)
	if !lines.Scan() || lines.Text() != "two" {
		t.Fatalf("second line %q", lines.Text())
	}
}

func TestManagementHeaders(t *testing.T) {
	w := httptest.NewRecorder()
	Management(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })).ServeHTTP(w, httptest.NewRequest("GET", "https://x/", nil))
	for name, want := range map[string]string{
		"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1", "X-Content-Type-Options": "nosniff",
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	w = httptest.NewRecorder()
	Management(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "http://x/", nil))
	if w.Header().Get("Strict-Transport-Security") != "" {
		t.Error("Strict-Transport-Security on plain http")
	}
}

func TestRecordOutsideARequest(t *testing.T) {
	rec := RecordOf(context.Background())
	rec.SetPrincipal(Identity{ObjectID: "x"})
	rec.SetLevel(slog.LevelDebug)
	rec.Add(slog.String("a", "b"))
	rec.SetError(io.EOF)
	if rec.RequestID() != "" || rec.CorrelationID() != "" {
		t.Error("a record outside a request has ids")
	}
}

func TestLoggerFormats(t *testing.T) {
	for _, tt := range []struct {
		format Format
		want   string
	}{
		{FormatAuto, `{"level":"INFO","msg":"m","duration":"1.23ms"}`}, // a buffer is no terminal
		{FormatJSON, `{"level":"INFO","msg":"m","duration":"1.23ms"}`},
		{FormatText, `level=INFO msg=m duration=1.234567ms`},
	} {
		var out bytes.Buffer
		NewLogger(&out, slog.LevelInfo, tt.format).Info("m", Duration, 1234567*time.Nanosecond)
		got := regexp.MustCompile(`"?time"?[=:]"?[^ ,"]+"?[, ]`).ReplaceAllString(strings.TrimSpace(out.String()), "")
		if got != tt.want {
			t.Errorf("%q: %s, want %s", tt.format, got, tt.want)
		}
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]slog.Level{"": slog.LevelInfo, "DEBUG": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError} {
		if got, err := ParseLevel(in); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v", in, got, err)
		}
	}
	if _, err := ParseLevel("loud"); err == nil || !strings.Contains(err.Error(), `"loud"`) {
		t.Errorf("ParseLevel(loud): %v", err)
	}
	for in, want := range map[string]Format{"": FormatAuto, "auto": FormatAuto, "JSON": FormatJSON, "text": FormatText} {
		if got, err := ParseFormat(in); err != nil || got != want {
			t.Errorf("ParseFormat(%q) = %v, %v", in, got, err)
		}
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("ParseFormat(xml) is no error")
	}
}

func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewID()
		if !guid.MatchString(id) || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

func BenchmarkMiddleware(b *testing.B) {
	m := NewMiddleware(slog.New(slog.DiscardHandler), answer500)
	h := m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		RecordOf(r.Context()).SetLevel(slog.LevelDebug)
		w.WriteHeader(200)
	}))
	r := httptest.NewRequest("POST", "/api/events", nil)
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
