package servertest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// TestFiveEvents drives every lifecycle change through the public API and sees the
// five events arrive, with the subjects and payloads of the contract.
func TestFiveEvents(t *testing.T) {
	s := New(t)
	handler := NewReceiver(t)
	s.Subscribe(Workspace, "everything", handler.URL+"/hook?code=s3cret", nil)

	s.Must("PUT", Workspace+"/experiments/churn/runs/r1", properties("status", "Running", "runType", "script"), nil)
	s.Must("PATCH", Workspace+"/experiments/churn/runs/r1", properties("status", "Completed"), nil)
	s.Must("PUT", Workspace+"/experiments/churn/runs/r2", properties("status", "Failed"), nil)
	s.Must("POST", Workspace+"/models/churn/versions", properties("tags", map[string]string{"stage": "production"}), nil)
	s.Must("PUT", Workspace+"/onlineEndpoints/churn-api", properties("computeType", "AKS", "modelIds", "churn:1", "state", "Transitioning"), nil)
	s.Must("PATCH", Workspace+"/onlineEndpoints/churn-api", properties("state", "Healthy"), nil)
	s.Must("PUT", Workspace+"/driftMonitors/orders", properties("threshold", 0.2), nil)
	s.Must("POST", Workspace+"/driftMonitors/orders/runs",
		properties("startTime", "2026-02-23T00:00:00Z", "endTime", "2026-03-02T00:00:00Z", "driftCoefficient", 0.41), nil)

	want := map[string]string{
		"Microsoft.MachineLearningServices.RunCompleted":         "experiments/",
		"Microsoft.MachineLearningServices.RunStatusChanged":     "experiments/",
		"Microsoft.MachineLearningServices.ModelRegistered":      "models/churn:1",
		"Microsoft.MachineLearningServices.ModelDeployed":        "endpoints/churn-api",
		"Microsoft.MachineLearningServices.DatasetDriftDetected": "datadrift/",
	}
	var got []Received
	handler.Wait(t, patience, func(events []Received) bool { got = events; return len(events) >= 6 })
	for _, e := range got {
		prefix, ok := want[e.Type]
		if !ok || !strings.HasPrefix(e.Subject, prefix) {
			t.Errorf("unexpected event %s about %s", e.Type, e.Subject)
		}
		var data struct{ ETag, Sequencer string }
		if err := json.Unmarshal(e.Data, &data); err != nil || len(data.Sequencer) != 32 || len(data.ETag) != 32 {
			t.Errorf("event %s carries etag %q and sequencer %q", e.Type, data.ETag, data.Sequencer)
		}
	}
	types := map[string]int{}
	for _, e := range got {
		types[e.Type]++
	}
	for name := range want {
		if types[name] == 0 {
			t.Errorf("%s did not arrive", name)
		}
	}
	if types["Microsoft.MachineLearningServices.RunCompleted"] != 2 { // the drift job is a run too
		t.Errorf("RunCompleted arrived %d times, want 2", types["Microsoft.MachineLearningServices.RunCompleted"])
	}
	h := got[0].Header
	if h.Get("aeg-event-type") != "Notification" || h.Get("aeg-subscription-name") != "EVERYTHING" || h.Get("aeg-delivery-count") != "0" {
		t.Errorf("headers of a delivery are %v", h)
	}
	s.Stop()
}

func properties(pairs ...any) map[string]any {
	p := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		p[pairs[i].(string)] = pairs[i+1]
	}
	return map[string]any{"properties": p}
}

// eventBody is a publish body with the ids [from, from+n).
func eventBody(from, n int) string {
	var b strings.Builder
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"%d","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{"n":%d},"dataVersion":"1"}`, from+i, from+i)
	}
	b.WriteByte(']')
	return b.String()
}
