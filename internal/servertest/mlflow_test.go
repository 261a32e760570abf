package servertest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/server"
)

// TestMLflowProxy reaches an MLflow server through Carillon without a token, with
// nothing of Carillon's in the answer, at listeners that have the plane and at no other.
func TestMLflowProxy(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"path":"`+r.URL.Path+`"}`)
	}))
	t.Cleanup(upstream.Close)
	s := New(t, func(c *server.Config) {
		c.Listen = []string{"127.0.0.1:0,planes=publish,management,issuer,ops", "127.0.0.1:0,planes=mlflow"}
	})
	at := Workspace + "/providers/Carillon.MLflow/servers/default"
	var shown struct {
		Properties struct{ Status struct{ ProxyURL string } }
	}
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": upstream.URL}}, &shown)
	apart, ok := strings.CutSuffix(shown.Properties.Status.ProxyURL, "/mlflow/default")
	if apart = strings.TrimPrefix(apart, "https://"); !ok || !strings.HasPrefix(apart, "127.0.0.1:") || strings.HasSuffix(s.URL, apart) {
		t.Fatalf("the proxy is at %s, management at %s", shown.Properties.Status.ProxyURL, s.URL)
	}
	get := func(url string) (int, string, http.Header) {
		t.Helper()
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		raw, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(raw), res.Header
	}
	status, body, header := get("http://" + apart + "/mlflow/default/api/2.0/mlflow/runs/get?run_id=1")
	if status != 200 || body != `{"path":"/api/2.0/mlflow/runs/get"}` || header.Get("X-Ms-Request-Id") != "" {
		t.Errorf("%d %s %v", status, body, header)
	}
	if status, body, _ := get(s.HTTP() + "/mlflow/default/health"); status != 421 || !strings.Contains(body, "PlaneNotServed") {
		t.Errorf("%d %s, want 421", status, body)
	}
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": upstream.URL, "proxy": false}}, nil)
	if status, body, _ := get("http://" + apart + "/mlflow/default/health"); status != 404 || !strings.Contains(body, "--no-proxy") {
		t.Errorf("%d %s, want 404", status, body)
	}
}

// TestMLflowProxyFromElsewhere holds that an MLflow server without authentication of its
// own is not open to other networks: whoever comes from one shows that they may write
// runs, and their token stays here. Source: decisions.md 25.
func TestMLflowProxyFromElsewhere(t *testing.T) {
	var seen []string
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/mine") {
			seen = append(seen, r.Header.Get("Authorization"))
		}
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(upstream.Close)
	s := New(t, func(c *server.Config) { c.TrustedProxy = []string{"127.0.0.0/8"} })
	at := Workspace + "/providers/Carillon.MLflow/servers/default"
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": upstream.URL}}, nil)
	local, err := access.OpenLocal(t.Context(), s.Dir, s.cfg.MasterKey)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := local.Token(access.AudienceManagement, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(from, authorization string) int {
		t.Helper()
		r, err := http.NewRequest("GET", s.HTTP()+"/mlflow/default/mine", nil)
		if err != nil {
			t.Fatal(err)
		}
		if from != "" {
			r.Header.Set("X-Forwarded-For", from)
			r.Header.Set("X-Forwarded-Proto", "https")
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	const elsewhere = "203.0.113.7"
	for _, tt := range []struct {
		name, from, authorization string
		want                      int
		passed                    string
	}{
		{"this machine", "", "Basic bWU6aXQ=", 200, "Basic bWU6aXQ="},
		{"this machine, with a token", "", "Bearer " + issued.Token.Reveal(), 200, ""},
		{"this machine, with a token of MLflow's", "", "Bearer bWU6aXQ", 200, "Bearer bWU6aXQ"},
		{"elsewhere", elsewhere, "", 401, ""},
		{"elsewhere, with what MLflow is told", elsewhere, "Basic bWU6aXQ=", 401, ""},
		{"elsewhere, with a token", elsewhere, "Bearer " + issued.Token.Reveal(), 200, ""},
	} {
		seen = nil
		got := ask(tt.from, tt.authorization)
		if got != tt.want || (len(seen) > 0) != (tt.want == 200) || len(seen) > 0 && seen[0] != tt.passed {
			t.Errorf("%s: %d, passed on %q; want %d, %q", tt.name, got, seen, tt.want, tt.passed)
		}
	}
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": upstream.URL, "username": "u", "password": "p"}}, nil)
	for authorization, want := range map[string]string{"Basic bWU6aXQ=": "Basic bWU6aXQ=", "Bearer " + issued.Token.Reveal(): ""} {
		seen = nil
		if got := ask(elsewhere, authorization); got != 200 || len(seen) != 1 || seen[0] != want {
			t.Errorf("a server with authentication decides itself: %d, passed on %q", got, seen)
		}
	}
}

// TestMLflowAtStart has the first workspace follow a server from the start on, also one
// that is not there yet; what is attached by hand to another one is left alone.
func TestMLflowAtStart(t *testing.T) {
	var told atomic.Value
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told.Store(r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(upstream.Close)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(t, func(c *server.Config) {
		c.MLflow, c.MLflowUsername, c.MLflowPasswordFile = upstream.URL+"/", "carillon", password
	})
	at := Workspace + "/providers/Carillon.MLflow/servers/default"
	var shown struct {
		Properties struct {
			URL, Authentication string
			PollIntervalSeconds int
			Status              struct{ State string }
		}
	}
	for deadline := time.Now().Add(patience); told.Load() == nil && time.Now().Before(deadline); {
		s.Must("GET", at, nil, &shown) // a request each, so this is no busy loop
	}
	s.Must("GET", at, nil, &shown)
	if shown.Properties.URL != upstream.URL || shown.Properties.Authentication != "Basic" || told.Load() != "Basic Y2FyaWxsb246czNjcmV0" {
		t.Errorf("%+v, told %v", shown.Properties, told.Load())
	}
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": upstream.URL, "username": "carillon", "pollIntervalSeconds": 60}}, nil)
	s.Kill()
	s.Restart()
	s.Must("GET", at, nil, &shown)
	if shown.Properties.PollIntervalSeconds != 60 || shown.Properties.Authentication != "Basic" {
		t.Errorf("after a restart: %+v", shown.Properties)
	}
	s.Must("DELETE", at, nil, nil)
	other := httptest.NewServer(upstream.Config.Handler)
	t.Cleanup(other.Close)
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": other.URL}}, nil)
	s.Stop()
	if said, err := s.run(); err == nil || !strings.Contains(said, "carillon mlflow detach") || strings.Contains(said, "s3cret") {
		t.Errorf("another server is attached: %v, %s", err, said)
	}
}
