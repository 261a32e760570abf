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
	for _, tt := range []struct {
		method, rate string
		perMinute    int
	}{
		{http.MethodGet, "", 120}, // what was asked for
		{http.MethodGet, "*", 0},
		{http.MethodPost, "", 120},
		{http.MethodPost, "30", 30},
	} {
		t.Run(tt.method+tt.rate, func(t *testing.T) {
			callbacks := make(chan string, 1)
			handler := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				callbacks <- r.Header.Get("WebHook-Request-Callback")
			}))
			defer handler.Close()
			name := "by-" + strings.ToLower(tt.method) + strings.ReplaceAll(tt.rate, "*", "any")
			s.Subscribe(Workspace, name, handler.URL, map[string]any{"eventDeliverySchema": "CloudEventSchemaV1_0"})
			callback := <-callbacks
			path := Workspace + "/providers/Microsoft.EventGrid/eventSubscriptions/" + name
			if state, _ := provisioning(s, path); state != "AwaitingManualAction" {
				t.Fatalf("before the callback: %s", state)
			}
			_, target, ok := strings.Cut(callback, s.URL)
			if !ok {
				t.Fatalf("callback %q does not lead to the server", callback)
			}
			r, err := http.NewRequest(tt.method, s.HTTP()+target, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.rate != "" {
				r.Header.Set("WebHook-Allowed-Rate", tt.rate)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if state, perMinute := provisioning(s, path); resp.StatusCode != http.StatusOK || state != "Succeeded" || perMinute != tt.perMinute {
				t.Errorf("callback: %d, then %s, %d requests a minute", resp.StatusCode, state, perMinute)
			}
		})
	}
}

// provisioning returns the state of an event subscription and the requests a minute
// that its endpoint allowed, 0 for any number.
func provisioning(s *Server, path string) (state string, perMinute int) {
	s.t.Helper()
	var es struct {
		Properties struct {
			ProvisioningState string
			DeliveryLimits    struct{ AllowedRequestsPerMinute int }
		}
	}
	s.Must("GET", path, nil, &es)
	return es.Properties.ProvisioningState, es.Properties.DeliveryLimits.AllowedRequestsPerMinute
}
