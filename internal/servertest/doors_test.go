package servertest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/server"
)

// TestDoors comes to the one port by every way.
func TestDoors(t *testing.T) {
	s := New(t)
	pem, err := http.Get(s.HTTP() + "/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(pem.Body)
	_ = pem.Body.Close()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		t.Fatalf("/ca.pem is %q", raw)
	}
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	port := s.URL[strings.LastIndexByte(s.URL, ':'):]

	for _, c := range []struct {
		name, url, host string
		client          *http.Client
		status          int
		holds           string
	}{
		{"healthz over http", s.HTTP() + "/healthz", "", http.DefaultClient, 200, "ok"},
		{"readyz over https", s.URL + "/readyz", "", secure, 200, `"parked":{"deliveries":0,"bytes":0},"ready":true`},
		{"https by name", "https://localhost" + port + "/healthz", "", secure, 200, "ok"},
		{"metrics", s.HTTP() + "/metrics", "", http.DefaultClient, 200, "eventgrid_publish_success_total"},
		{"metrics of the engine", s.HTTP() + "/metrics", "", http.DefaultClient, 200, "carillon_open_deliveries"},
		{"management without a token", s.URL + "/subscriptions?api-version=2022-12-01", "", secure, 401, "AuthenticationFailed"},
		{"schema of an event type", s.URL + "/schemas/Microsoft.MachineLearningServices.RunCompleted.json", "", secure, 200,
			`"$id": "` + s.URL + `/schemas/Microsoft.MachineLearningServices.RunCompleted.json"`},
		{"OpenLineage without a key", s.HTTP() + "/openlineage/default/api/v1/lineage", "", http.DefaultClient, 405, "POST"},
		{"discovery", s.URL + "/common/v2.0/.well-known/openid-configuration", "", secure, 200, `"token_endpoint"`},
		{"foreign host", s.HTTP() + "/healthz", "evil.example", http.DefaultClient, 421, "MisdirectedRequest"},
		{"publish host", s.HTTP() + "/api/events", "orders.local-1.eventgrid.localhost", http.DefaultClient, 404, "The topic 'orders' is not found"},
		{"unknown path without a token", s.URL + "/nothing", "", secure, 401, "AuthenticationFailed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest("GET", c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = c.host
			resp, err := c.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || !strings.Contains(string(body), c.holds) {
				t.Errorf("status %d, want %d; body %.300s, want %q in it", resp.StatusCode, c.status, body, c.holds)
			}
			if resp.Header.Get("x-ms-request-id") == "" {
				t.Error("no x-ms-request-id")
			}
		})
	}
}

// TestFullLog fills a small log quota with events for a handler that is down:
// publishing is refused with 503 and Retry-After, and goes on once the handler is
// back. Nothing that was acknowledged is lost.
func TestFullLog(t *testing.T) {
	s := New(t, func(c *server.Config) { c.LogQuota = 1 << 20 })
	handler := NewReceiver(t)
	var up atomic.Bool
	handler.Answer = func(w http.ResponseWriter, _ *http.Request, _ []Received) {
		if !up.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	id, publish := s.Topic("small")
	s.Subscribe(id, "down", handler.URL, nil)
	acked, refusal := 0, ""
	for n := 0; refusal == "" && n < 400; n++ {
		if err := publish(eventBody(n*50, 50)); err != nil {
			refusal = err.Error()
			break
		}
		acked += 50
	}
	if !strings.Contains(refusal, "503") || !strings.Contains(refusal, "quota") {
		t.Fatalf("after %d events of a 1 MiB quota: %q, want a 503 that names the quota", acked, refusal)
	}
	resp, err := http.Get(s.HTTP() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	reason, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 503 || !strings.Contains(string(reason), "eventSubscriptions/down holds it") {
		t.Errorf("readyz answers %d %s, want 503 naming who holds the log", resp.StatusCode, reason)
	}
	up.Store(true)
	// The events come back in their retries' time; a replay of the clock is not
	// needed: what waits for its first attempt comes at once, and room with it.
	deadline := time.Now().Add(patience)
	for publish(eventBody(1_000_000, 1)) != nil {
		if time.Now().After(deadline) {
			t.Fatal("publishing is still refused a minute after the handler came back")
		}
		<-time.After(500 * time.Millisecond)
	}
	handler.Wait(t, 5*patience, func(events []Received) bool { // retries have times of their own
		got := map[int]bool{}
		for _, e := range events {
			n, _ := strconv.Atoi(e.ID)
			got[n] = true
		}
		for n := range acked {
			if !got[n] {
				return false
			}
		}
		return got[1_000_000]
	})
}
