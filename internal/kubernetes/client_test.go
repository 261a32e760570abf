package kubernetes

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// What proves whom over TLS: the authority of the cluster, a token, a certificate, or
// what a pod has; and the token goes to nobody else.
func TestConnections(t *testing.T) {
	var seen []string
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, "elsewhere "+r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	moved := false
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := r.Header.Get("Authorization")
		if len(r.TLS.PeerCertificates) > 0 {
			who += " with a certificate"
		}
		seen = append(seen, who)
		if moved {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": []any{}})
	}))
	var connections atomic.Int64
	api.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Add(1)
		case http.StateClosed:
			connections.Add(-1)
		}
	}
	api.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	api.Config.ErrorLog = log.New(discard{}, "", 0)
	api.StartTLS()
	defer api.Close()
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	pod := t.TempDir()
	for name, text := range map[string]string{"ca.crt": authority, "token": "of-the-pod\n"} {
		if err := os.WriteFile(filepath.Join(pod, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var d net.Dialer
	s := New(Config{Store: resource.NewStore(resource.NewMemoryKV()), Dial: d.DialContext, PodServer: api.URL, DialPod: d.DialContext, PodDir: pod})

	der, err := x509.MarshalPKCS8PrivateKey(api.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key := secret.String(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for name, c := range map[string]struct {
		cluster    resource.Cluster
		credential secret.String
		want       string // who was seen, or with '!' what the error holds
	}{
		"token":                   {resource.Cluster{Server: api.URL, Authority: authority}, "s3cret", "Bearer s3cret"},
		"nothing":                 {resource.Cluster{Server: api.URL, Authority: authority}, "", ""},
		"certificate":             {resource.Cluster{Server: api.URL, Authority: authority, Certificate: authority}, key, " with a certificate"},
		"name in the certificate": {resource.Cluster{Server: api.URL, Authority: authority, ServerName: "example.com"}, "s3cret", "Bearer s3cret"},
		"another name":            {resource.Cluster{Server: api.URL, Authority: authority, ServerName: "kube.test"}, "s3cret", "!certificate"},
		"no authority":            {resource.Cluster{Server: api.URL}, "s3cret", "!certificate"},
		"authority of no form":    {resource.Cluster{Server: api.URL, Authority: "-----"}, "s3cret", "!no certificate in PEM"},
		"key of no form":          {resource.Cluster{Server: api.URL, Authority: authority, Certificate: authority}, "s3cret", "!do not fit"},
		"pod":                     {resource.Cluster{InCluster: true}, "", "Bearer of-the-pod"},
	} {
		t.Run(name, func(t *testing.T) {
			seen = nil
			err := s.Check(t.Context(), &c.cluster, c.credential)
			if problem, wrong := strings.CutPrefix(c.want, "!"); wrong {
				if err == nil || !strings.Contains(err.Error(), problem) || strings.Contains(err.Error(), "s3cret") || len(seen) > 0 {
					t.Errorf("error %v, seen %q, want %q", err, seen, problem)
				}
				return
			}
			if err != nil || len(seen) != 2 || seen[0] != c.want {
				t.Errorf("error %v, seen %q, want %q twice", err, seen, c.want)
			}
		})
	}
	moved, seen = true, nil
	if err := s.Check(t.Context(), &resource.Cluster{Server: api.URL, Authority: authority}, "s3cret"); err == nil || len(seen) != 1 {
		t.Errorf("a redirect was followed: error %v, seen %q", err, seen)
	}
	moved, seen = false, nil
	if err := os.Remove(filepath.Join(pod, "token")); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), &resource.Cluster{InCluster: true}, ""); err == nil || len(seen) > 0 {
		t.Errorf("a pod without a token: error %v, seen %q", err, seen)
	}
	for end := time.Now().Add(10 * time.Second); connections.Load() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are left", connections.Load())
		}
	}
}
