package destination

import (
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
)

func TestTemplate(t *testing.T) {
	const (
		grid   = `{"topic":"/t","subject":"models\/ä\u00e4","eventType":"T","eventTime":"2026-03-01T10:00:00Z","id":"e1","dataVersion":"","metadataVersion":"1","data":{"subject":"d"}}`
		cloud  = `{"specversion":"1.0","topic":"x","data":{"subject":"d"},"type":"T","id":"e1","source":"/s"}`
		custom = `{"id":7,"what":{"subject":"d"},"subject":"s"}`
	)
	upper := strings.ToUpper
	for _, tt := range []struct {
		name, text, body string
		schema           event.Schema
		clean            func(string) string
		want, problem    string
	}{
		{"Event Grid", "{source}-{type}/{subject}:{id}", grid, event.EventGridSchema, nil, "/t-T/models/ää:e1", ""},
		{"a place twice", "{id}{id}", grid, event.EventGridSchema, nil, "e1e1", ""},
		{"cleaned", "a.{type}.{id}", grid, event.EventGridSchema, upper, "a.T.E1", ""},
		{"CloudEvent without a subject", "{source} {subject}.{type}", cloud, event.CloudEventSchemaV1_0, nil, "/s .T", ""},
		{"nothing is told to who cleans", "{subject}", cloud, event.CloudEventSchemaV1_0, func(s string) string { return "none" + s }, "none", ""},
		{"custom input", "{subject}", custom, event.CustomEventSchema, nil, "s", ""},
		{"no text", "{id}", custom, event.CustomEventSchema, nil, "", "'id' is Number, not String"},
		{"no object", "{id}", `["id"]`, event.CustomEventSchema, nil, "", "no JSON object"},
		{"no JSON", "{id}", `{"type":`, event.CloudEventSchemaV1_0, nil, "", "the text ends"},
		{"without places", "models", "not read", event.EventGridSchema, nil, "models", ""},
		{"empty", "", "not read", event.EventGridSchema, nil, "", ""},
	} {
		template, err := parseTemplate(tt.text)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		got, err := template.of([]byte(tt.body), tt.schema, tt.clean)
		if got != tt.want || (err != nil) != (tt.problem != "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: %q, %v; want %q, %q", tt.name, got, err, tt.want, tt.problem)
		}
	}
	for _, text := range []string{"{data}", "{id", "{}", "a{Type}"} {
		if _, err := parseTemplate(text); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
