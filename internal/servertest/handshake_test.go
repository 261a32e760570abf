package servertest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAcceptance11Callback grants a CloudEvents handshake afterwards, by GET and by
// POST on the callback. Source: spec/delivery.md sections 1.4 and 11.
func TestAcceptance11Callback(t *testing.T) {
	s := New(t)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			callbacks := make(chan string, 1)
			handler := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				callbacks <- r.Header.Get("WebHook-Request-Callback")
			}))
			defer handler.Close()
			name := "by-" + strings.ToLower(method)
			s.Subscribe(Workspace, name, handler.URL, map[string]any{"eventDeliverySchema": "CloudEventSchemaV1_0"})
			callback := <-callbacks
			path := Workspace + "/providers/Microsoft.EventGrid/eventSubscriptions/" + name
			if state := provisioningState(s, path); state != "AwaitingManualAction" {
				t.Fatalf("before the callback: %s", state)
			}
			_, target, ok := strings.Cut(callback, s.URL)
			if !ok {
				t.Fatalf("callback %q does not lead to the server", callback)
			}
			r, err := http.NewRequest(method, s.HTTP()+target, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if state := provisioningState(s, path); resp.StatusCode != http.StatusOK || state != "Succeeded" {
				t.Errorf("callback: %d, then %s", resp.StatusCode, state)
			}
		})
	}
}

func provisioningState(s *Server, path string) string {
	s.t.Helper()
	var es struct {
		Properties struct{ ProvisioningState string }
	}
	s.Must("GET", path, nil, &es)
	return es.Properties.ProvisioningState
}
