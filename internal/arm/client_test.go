package arm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
)

func TestClientDo(t *testing.T) {
	var got *http.Request
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		got, body = r, string(raw)
		w.Header().Set("ETag", `"1"`)
		_, _ = io.WriteString(w, `{"name":"t"}`)
	}))
	defer srv.Close()
	c := NewClient(srv.URL+"/", "tok", nil)
	var out struct{ Name string }
	h, err := c.Do(context.Background(), http.MethodPut, "//subscriptions/s/resourceGroups/a b/providers/microsoft.eventgrid/topics/t",
		nil, map[string]any{"location": "local"}, &out, http.Header{"if-match": {"*"}})
	if err != nil {
		t.Fatal(err)
	}
	if out.Name != "t" || h.Get("ETag") != `"1"` {
		t.Errorf("answer %+v, header %v", out, h)
	}
	if got.URL.EscapedPath() != "/subscriptions/s/resourceGroups/a%20b/providers/microsoft.eventgrid/topics/t" {
		t.Errorf("path %s", got.URL.EscapedPath())
	}
	for name, want := range map[string]string{"Authorization": "Bearer tok", "If-Match": "*", "Content-Type": "application/json; charset=utf-8"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s = %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if body != `{"location":"local"}` || got.URL.Query().Get("api-version") != "2025-02-15" {
		t.Errorf("body %s, query %s", body, got.URL.RawQuery)
	}
}

func TestClientReadsFaults(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
			return
		}
		fault.Write(w, r, fault.New(fault.PreconditionFailed, "PreconditionFailed", "It changed."))
	}))
	defer srv.Close()
	c := NewClient(srv.URL, "tok", nil)
	err := c.Get(context.Background(), "/x", nil)
	if !fault.Is(err, fault.PreconditionFailed) || !strings.Contains(err.Error(), "It changed.") {
		t.Errorf("error %v", err)
	}
	if err := c.Get(context.Background(), "/moved", nil); err == nil {
		t.Error("a redirect is no error")
	}
	srv.Close()
	if err := c.Get(context.Background(), "/x", nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a server that is gone: %v", err)
	}
}

func TestClientList(t *testing.T) {
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("page") {
		case "":
			_, _ = fmt.Fprintf(w, `{"value":[{"n":1},{"n":2}],"nextLink":"%s/l?page=2"}`, srv.URL)
		case "2":
			_, _ = fmt.Fprintf(w, `{"value":[{"n":3}],"nextLink":"%s"}`, r.URL.Query().Get("then"))
		case "away":
			_, _ = io.WriteString(w, `{"value":[],"nextLink":"http://127.0.0.2:1/l"}`)
		case "itself":
			_, _ = fmt.Fprintf(w, `{"value":[],"nextLink":"%s/l?page=itself"}`, srv.URL)
		case "there":
			_, _ = fmt.Fprintf(w, `{"value":[],"nextLink":"%s/l?page=back"}`, srv.URL)
		case "back":
			_, _ = fmt.Fprintf(w, `{"value":[],"nextLink":"%s/l?page=there"}`, srv.URL)
		}
	}))
	defer srv.Close()
	c := NewClient(srv.URL, "tok", nil)
	var all []string
	for raw, err := range c.List(context.Background(), "/l", nil) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(raw))
	}
	if strings.Join(all, "") != `{"n":1}{"n":2}{"n":3}` {
		t.Errorf("entries %v", all)
	}
	for page, want := range map[string]string{"away": "127.0.0.2:1", "itself": "has no end", "there": "has no end"} {
		var last error
		for _, err := range c.List(context.Background(), "/l", url.Values{"page": {page}}) {
			last = err
		}
		if last == nil || !strings.Contains(last.Error(), want) {
			t.Errorf("page %s: %v", page, last)
		}
	}
}

func TestClientKeepsTokenFromPlainHTTP(t *testing.T) {
	c := NewClient("http://grid.example:8080", "tok", nil)
	if err := c.Get(context.Background(), "/x", nil); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "https") {
		t.Errorf("error %v", err)
	}
}

func TestDefaultVersion(t *testing.T) {
	for path, want := range map[string]string{
		"/subscriptions":                                                       "2022-12-01",
		"/subscriptions/s/resourceGroups":                                      "2022-12-01",
		"/subscriptions/s/providers/Microsoft.EventGrid/topics":                "2025-02-15",
		"/s/providers/Microsoft.MachineLearningServices/workspaces/w/models/m": Version,
		"/s/providers/Microsoft.MachineLearningServices/workspaces/w/providers/microsoft.eventgrid/eventSubscriptions/e": "2025-02-15",
		"/providers/Microsoft.Authorization/roleDefinitions":                                                             "2022-04-01",
		"/providers/Carillon.Identity/principals":                                                                        Version,
		"/s/providers/Microsoft.EventGrid/topics/t/providers/Carillon.Delivery/deadLetters":                              Version,
	} {
		if got := defaultVersion(path); got != want {
			t.Errorf("defaultVersion(%s) = %s, want %s", path, got, want)
		}
	}
	if !json.Valid([]byte(`"`+Version+`"`)) || Version != "2026-11-01" {
		t.Errorf("Version = %s", Version)
	}
}
