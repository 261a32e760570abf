package servertest

import (
	"encoding/json"
	"testing"
)

// TestExtraEvents switches events beyond Azure's on and has them arrive where they are
// named and filtered by their data; an event subscription that names no types gets
// Azure's alone.
func TestExtraEvents(t *testing.T) {
	s := New(t)
	named, plain := NewReceiver(t), NewReceiver(t)
	s.Subscribe(Workspace, "named", named.URL, map[string]any{"filter": map[string]any{
		"includedEventTypes": []string{"Carillon.MachineLearning.ModelAliasSet", "Carillon.MachineLearning.DeploymentFailed"},
		"advancedFilters":    []any{map[string]any{"operatorType": "StringNotIn", "key": "data.alias", "values": []string{"shadow"}}},
	}})
	s.Subscribe(Workspace, "plain", plain.URL, nil)
	alias := func(version string, aliases any) {
		s.Must("PUT", Workspace+"/models/churn/versions/"+version, properties("properties", map[string]any{"mlflow.aliases": aliases}), nil)
	}
	alias("1", "before")
	s.Must("PATCH", Workspace, properties("extraEvents", []string{"ModelAliasSet", "DeploymentFailed"}), nil)
	alias("2", "shadow,champion")
	s.Must("PUT", Workspace+"/onlineEndpoints/churn-api", properties("modelIds", "churn:2", "state", "Transitioning"), nil)
	s.Must("PATCH", Workspace+"/onlineEndpoints/churn-api", properties("state", "Failed"), nil)
	s.Must("PATCH", Workspace, properties("extraEvents", nil), nil)
	alias("3", "after")

	named.Wait(t, patience, func(events []Received) bool { return len(events) >= 2 })
	plain.Wait(t, patience, func(events []Received) bool { return len(events) >= 3 })
	s.Stop() // what is on its way has come
	subjects := map[string]string{"Carillon.MachineLearning.ModelAliasSet": "models/churn:2", "Carillon.MachineLearning.DeploymentFailed": "endpoints/churn-api"}
	for _, e := range named.Events() {
		var data struct{ ETag, Sequencer, Alias string }
		if err := json.Unmarshal(e.Data, &data); err != nil || len(data.Sequencer) != 32 || len(data.ETag) != 32 || data.Alias == "shadow" {
			t.Errorf("%s has %+v, error %v", e.Type, data, err)
		}
		if subjects[e.Type] != e.Subject {
			t.Errorf("%s is about %s", e.Type, e.Subject)
		}
	}
	if n := len(named.Events()); n != 2 {
		t.Errorf("%d events came to the one that names them", n)
	}
	for _, e := range plain.Events() {
		if e.Type != "Microsoft.MachineLearningServices.ModelRegistered" {
			t.Errorf("%s came to the one that names none", e.Type)
		}
	}
}
