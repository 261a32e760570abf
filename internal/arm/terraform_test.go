package arm

import (
	"encoding/json"
	"strings"
	"testing"
)

// What the azurerm provider 5.2.0 sends for each resource, in its order: it looks that
// there is nothing, puts it, follows the operation, reads it back with its keys or its
// URL, changes it, deletes it, and asks until it is gone. interop/test_terraform.py
// runs the provider itself.
// Source: spec/management.md sections 3 and 10.2.
func TestTerraformSequence(t *testing.T) {
	const (
		hook     = `"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/in?code=s3cret"}}`
		creation = `{"properties":{"deadLetterDestination":null,"eventDeliverySchema":"EventGridSchema","expirationTimeUtc":"","filter":{"advancedFilters":[],"enableAdvancedFilteringOnArrays":false},"labels":null,"retryPolicy":null,` + hook + `}}`
		relabel  = `{"properties":{"eventDeliverySchema":"EventGridSchema","expirationTimeUtc":"","filter":{"enableAdvancedFilteringOnArrays":false},"labels":["crm"],"retryPolicy":{"eventTimeToLiveInMinutes":1440,"maxDeliveryAttempts":30},` + hook + `}}`
	)
	tests := []struct {
		name       string
		id         string
		create     string
		read       string // the POST behind each GET
		update     string // method and body
		updateBody string
	}{
		{"topic", grids + "/topics/orders", `{"location":"local","properties":{"disableLocalAuth":false,"inputSchema":"EventGridSchema","publicNetworkAccess":"Enabled"},"tags":{}}`,
			"listKeys", "PATCH", `{"properties":{"inboundIpRules":[],"publicNetworkAccess":"Enabled"},"tags":{"team":"crm"}}`},
		{"domain", grids + "/domains/shops", `{"location":"local","properties":{"autoCreateTopicWithFirstSubscription":true,"autoDeleteTopicWithLastSubscription":true,"inputSchema":"EventGridSchema"},"tags":{}}`,
			"listKeys", "PATCH", `{"properties":{"publicNetworkAccess":"Enabled"},"tags":{"team":"crm"}}`},
		{"domain topic", grids + "/domains/keeps/topics/berlin", ``, "", "", ""},
		{"system topic", grids + "/systemTopics/runs", `{"location":"local","properties":{"source":"` + wsID + `","topicType":"Microsoft.MachineLearningServices.Workspaces"},"tags":{}}`,
			"", "PUT", `{"location":"local","properties":{"source":"` + wsID + `","topicType":"Microsoft.MachineLearningServices.Workspaces"},"tags":{"team":"crm"}}`},
		{"event subscription", grids + "/topics/kept/providers/Microsoft.EventGrid/eventSubscriptions/es1", creation, "getFullUrl", "PUT", relabel},
		{"event subscription of a domain topic", grids + "/domains/keeps/topics/rome/providers/Microsoft.EventGrid/eventSubscriptions/es1", creation, "getFullUrl", "PUT", relabel},
		{"event subscription of a system topic", grids + "/systemTopics/default/eventSubscriptions/es1", creation, "getFullUrl", "PUT", relabel},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			s := newStack(t)
			s.must("owner", "PUT", grids+"/topics/kept"+v, `{"location":"local"}`)
			s.must("owner", "PUT", grids+"/domains/keeps"+v, `{"location":"local"}`)
			send := func(method, target, body string, want int) (answer map[string]any) {
				t.Helper()
				w := s.do("owner", method, target+v, body)
				if w.Code != want {
					t.Fatalf("%s %s: %d %s, want %d", method, target, w.Code, w.Body, want)
				}
				if method != "GET" && w.Header().Get("X-Go-Azure-Sdk-Skip-Polling-Delay") != "true" {
					t.Errorf("after %s the provider waits ten seconds", method)
				}
				if w.Body.Len() == 0 {
					return nil
				}
				if w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
					t.Errorf("%s %s: the provider does not read %q", method, target, w.Header().Get("Content-Type"))
				}
				if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
					t.Fatal(err)
				}
				if address := w.Header().Get("Azure-AsyncOperation"); address != "" {
					if polled, status := s.follow("owner", address); status.Status != "Succeeded" {
						t.Errorf("the operation of %s: %d %s", method, polled.Code, polled.Body)
					}
				}
				return answer
			}
			read := func() map[string]any {
				t.Helper()
				got := send("GET", c.id, "", 200)
				if c.read != "" {
					send("POST", c.id+"/"+c.read, "", 200)
				}
				if id, _ := got["id"].(string); !strings.EqualFold(id, c.id) {
					t.Errorf("id %v", got["id"])
				}
				return got
			}
			send("GET", c.id, "", 404)
			if made := send("PUT", c.id, c.create, 201); made["properties"].(map[string]any)["provisioningState"] != "Succeeded" {
				t.Errorf("made %v", made)
			}
			got := read()
			if filter, ok := got["properties"].(map[string]any)["filter"].(map[string]any); ok {
				if list, there := filter["advancedFilters"]; there {
					t.Errorf("advancedFilters is %v where there are none: the provider takes it for a difference", list)
				}
			}
			if c.update != "" {
				send(c.update, c.id, c.updateBody, 201)
				if changed, _ := json.Marshal(read()); !strings.Contains(string(changed), "crm") {
					t.Errorf("after the change %s", changed)
				}
			}
			send("DELETE", c.id, "", 204)
			send("GET", c.id, "", 404)
		})
	}
}
