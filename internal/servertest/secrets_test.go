package servertest

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestAcceptance12Secrets: the query of an endpoint and the value of a secret delivery
// attribute go to the handler, and to who asks for them with getFullUrl and
// getDeliveryAttributes; everything else that the server shows is without them, also
// after a delivery failed. Source: spec/delivery.md sections 6, 9.3 and 11.
func TestAcceptance12Secrets(t *testing.T) {
	s := New(t)
	const query, key = "?code=s3cret-of-the-url", "Bearer s3cret-of-the-header"
	handler := NewReceiver(t)
	handler.Answer = func(w http.ResponseWriter, r *http.Request, _ []Received) {
		if r.URL.RawQuery != query[1:] || r.Header.Get("Authorization") != key {
			t.Errorf("the handler was asked for %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		w.WriteHeader(http.StatusBadRequest)
	}
	topic, publish := s.Topic("orders")
	es := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
	status := es + "/providers/Carillon.Delivery/deliveryStatus/default"
	attributes := []map[string]any{
		{"name": "Authorization", "type": "Static", "properties": map[string]any{"value": key, "isSecret": true}},
		{"name": "X-Team", "type": "Static", "properties": map[string]any{"value": "mlops", "isSecret": false}},
	}
	body := map[string]any{"properties": map[string]any{"destination": map[string]any{
		"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": handler.URL + "/in" + query, "deliveryAttributeMappings": attributes},
	}}}
	// ask does a request and fails the test when its answer shows a secret.
	ask := func(method, path string, body any) string {
		t.Helper()
		var raw json.RawMessage
		s.Must(method, path, body, &raw)
		if strings.Contains(string(raw), "s3cret") {
			t.Errorf("%s %s answers %s", method, path, raw)
		}
		return string(raw)
	}
	ask("PUT", es, body)
	ask("PATCH", es, map[string]any{"labels": []string{"a"}})
	if err := publish(eventBody(1, 1)); err != nil {
		t.Fatal(err)
	}
	letters := func() string { return ask("GET", es+"/providers/Carillon.Delivery/deadLetters", nil) }
	for deadline := time.Now().Add(patience); !strings.Contains(letters(), "UndeliverableDueToHttpBadRequest"); {
		if time.Now().After(deadline) {
			t.Fatal("the event was not dead-lettered")
		}
		time.Sleep(10 * time.Millisecond)
	}

	var shown struct {
		Properties struct {
			Destination struct {
				Properties struct {
					EndpointURL               *string
					EndpointBaseURL           string
					DeliveryAttributeMappings []struct {
						Name       string
						Properties struct {
							Value    *string
							IsSecret bool
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(ask("GET", es, nil)), &shown); err != nil {
		t.Fatal(err)
	}
	p := shown.Properties.Destination.Properties
	if p.EndpointURL != nil || p.EndpointBaseURL != handler.URL+"/in" {
		t.Errorf("endpoint shown as %+v", p)
	}
	if m := p.DeliveryAttributeMappings; len(m) != 2 || m[0].Properties.Value != nil || !m[0].Properties.IsSecret || m[1].Properties.Value == nil || *m[1].Properties.Value != "mlops" {
		t.Errorf("delivery attributes shown as %+v", m)
	}
	for _, path := range []string{topic + "/providers/Microsoft.EventGrid/eventSubscriptions", status} {
		ask("GET", path, nil)
	}
	ask("POST", es+"/sendTestEvent", nil)
	ask("POST", es+"/explain", map[string]any{"eventId": "1"})

	var full struct{ EndpointURL string }
	if s.Must("POST", es+"/getFullUrl", nil, &full); full.EndpointURL != handler.URL+"/in"+query {
		t.Errorf("getFullUrl answers %s", full.EndpointURL)
	}
	var open struct {
		Value []struct{ Properties struct{ Value string } }
	}
	if s.Must("POST", es+"/getDeliveryAttributes", nil, &open); len(open.Value) != 2 || open.Value[0].Properties.Value != key {
		t.Errorf("getDeliveryAttributes answers %+v", open)
	}

	metrics, err := http.Get(s.HTTP() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	counted, _ := io.ReadAll(metrics.Body)
	_ = metrics.Body.Close()
	log, err := os.ReadFile(s.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "event dead-lettered") {
		t.Errorf("the log does not tell of the dead letter")
	}
	for name, text := range map[string]string{"the log": string(log), "/metrics": string(counted)} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("%s shows a secret", name)
		}
	}
}
