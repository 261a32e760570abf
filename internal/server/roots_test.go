package server

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDestinationCA(t *testing.T) {
	endpoint := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	endpoint.Config.ErrorLog = log.New(io.Discard, "", 0)
	endpoint.StartTLS()
	defer endpoint.Close()
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: endpoint.Certificate().Raw}))
	for _, tt := range []struct {
		name, path, start, reach string
	}{
		{"trusted", good, "", ""},
		{"the system's alone", "", "", "certificate signed by unknown authority"},
		{"no file", filepath.Join(dir, "missing"), "read --destination-ca: open ", ""},
		{"no certificate", file("empty.pem", []byte("nothing")), "hold no PEM block of a certificate", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &server{cfg: Config{DestinationCA: tt.path}, listeners: []opened{{Listener: own}}}
			guard, err := s.guard()
			if tt.start != "" {
				if err == nil || !strings.Contains(err.Error(), tt.start) || !strings.Contains(err.Error(), "--destination-ca") {
					t.Errorf("error %v, want %q", err, tt.start)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			resp, err := guard.Client(10 * time.Second).Get(endpoint.URL)
			if err == nil {
				_ = resp.Body.Close()
			}
			if (err == nil) != (tt.reach == "") || err != nil && !strings.Contains(err.Error(), tt.reach) {
				t.Errorf("error %v, want %q", err, tt.reach)
			}
		})
	}
}
