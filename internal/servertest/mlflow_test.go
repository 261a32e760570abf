package servertest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	apart := free.Addr().String()
	_ = free.Close()
	s := New(t, func(c *server.Config) {
		c.Listen = []string{"127.0.0.1:0,planes=publish,management,issuer,ops", apart + ",planes=mlflow"}
	})
	at := Workspace + "/providers/Carillon.MLflow/servers/default"
	var shown struct {
		Properties struct{ Status struct{ ProxyURL string } }
	}
	s.Must("PUT", at, map[string]any{"properties": map[string]any{"url": upstream.URL}}, &shown)
	if want := "https://" + apart + "/mlflow/default"; shown.Properties.Status.ProxyURL != want {
		t.Errorf("the proxy is at %s, want %s", shown.Properties.Status.ProxyURL, want)
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
