package filter

import (
	"testing"

	"github.com/carillon-events/carillon/event"
)

func TestField(t *testing.T) {
	const grid = `{"id":"e1","topic":"/t","subject":"models/churn:3","eventType":"ML.ModelRegistered","eventTime":"2026-03-01T10:00:00Z","dataVersion":"2",` +
		`"data":{"stage":"prod","escaped":"a\"b\u00e9","count":3.50,"on":true,"off":false,"none":null,"list":[1],"deep":{"er":{"est":"x"}},"Empty":""}}`
	tests := []struct {
		path, want string
		ok         bool
	}{
		{"id", "e1", true},
		{"subject", "models/churn:3", true},
		{"eventtype", "ML.ModelRegistered", true},
		{"topic", "/t", true},
		{"dataversion", "2", true},
		{"data.stage", "prod", true},
		{"data.STAGE", "prod", true},
		{"data.escaped", `a"bé`, true},
		{"data.count", "3.50", true},
		{"data.on", "true", true},
		{"data.off", "false", true},
		{"data.empty", "", true},
		{"data.deep.er.est", "x", true},
		{"data.none", "", false},
		{"data.list", "", false},
		{"data.deep", "", false},
		{"data", "", false},
		{"data.absent", "", false},
		{"data.stage.more", "", false},
	}
	var e event.Event
	if err := e.Parse([]byte(grid), event.EventGridSchema); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			got, ok := NewField(tt.path).Append([]byte("> "), &e)
			if string(got) != "> "+tt.want || ok != tt.ok {
				t.Errorf("Append = %q, %t; want %q, %t", got, ok, "> "+tt.want, tt.ok)
			}
		})
	}
	var cloud event.Event
	if err := cloud.Parse([]byte(`{"specversion":"1.0","id":"c1","source":"/s","type":"T","partitionkey":"p","data":{"a":1}}`), event.CloudEventSchemaV1_0); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"source": "/s", "type": "T", "partitionkey": "p", "data.a": "1", "eventType": "T"} {
		if got, ok := NewField(path).Append(nil, &cloud); !ok || string(got) != want {
			t.Errorf("%s of a CloudEvent = %q, %t; want %q", path, got, ok, want)
		}
	}
}
