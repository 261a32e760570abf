package servertest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/server"
)

// TestPlanes serves publishers at one address and everything else at another: over
// clear connections, which begin in the lane, and over TLS.
func TestPlanes(t *testing.T) {
	s := New(t, func(c *server.Config) {
		c.Listen = []string{"127.0.0.1:0,planes=management,issuer,ops", "127.0.0.1:0,planes=publish"}
	})
	handler := NewReceiver(t)
	id, publish := s.Topic("orders")
	s.Subscribe(id, "all", handler.URL, nil)
	var topic struct{ Properties struct{ Endpoint string } }
	s.Must("GET", id, nil, &topic)
	publishing, ok := strings.CutSuffix(topic.Properties.Endpoint, "/topics/orders/api/events")
	if publishing = strings.TrimPrefix(publishing, "https://"); !ok || !strings.HasPrefix(publishing, "127.0.0.1:") || strings.HasSuffix(s.URL, publishing) {
		t.Fatalf("the topic's endpoint is %s, management is at %s", topic.Properties.Endpoint, s.URL)
	}
	if err := publish(eventBody(1, 1)); err == nil || !strings.Contains(err.Error(), "421") {
		t.Errorf("publishing at the address of management: %v, want 421", err)
	}
	var keys struct{ Key1 string }
	s.Must("POST", id+"/listKeys", nil, &keys)
	pem, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	for _, where := range []string{topic.Properties.Endpoint, "http://" + publishing + "/topics/orders/api/events"} {
		r, _ := http.NewRequest("POST", where+"?api-version=2018-01-01", strings.NewReader(eventBody(2, 1)))
		r.Header.Set("aeg-sas-key", keys.Key1)
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s answers %d, want 200", where, resp.StatusCode)
		}
	}
	handler.Wait(t, patience, func(events []Received) bool { return len(events) == 2 })
	for _, path := range []string{id + "?api-version=2025-02-15", "/common/oauth2/v2.0/token", "/metrics"} {
		resp, err := http.Post("http://"+publishing+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(string(body), "PlaneNotServed") {
			t.Errorf("%s where publishers are served: %d %s, want 421", path, resp.StatusCode, body)
		}
	}
}
