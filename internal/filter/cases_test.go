package filter

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// parseEvent makes an event of a fragment: a CloudEvent if it has specversion.
func parseEvent(t testing.TB, raw string) *event.Event {
	t.Helper()
	var top map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &top); err != nil {
		t.Fatalf("event %s: %v", raw, err)
	}
	schema := event.EventGridSchema
	if _, ok := top["specversion"]; ok {
		schema = event.CloudEventSchemaV1_0
	}
	return parseEventAs(t, raw, schema)
}

func parseEventAs(t testing.TB, raw string, schema event.Schema) *event.Event {
	t.Helper()
	var e event.Event
	if err := e.Parse([]byte(raw), schema); err != nil {
		t.Fatalf("event %s: %v", raw, err)
	}
	return &e
}

func mustParse(t testing.TB, raw string) *Filter {
	t.Helper()
	f, err := Parse([]byte(raw), ParseOptions{})
	if err != nil {
		t.Fatalf("filter %s: %v", raw, err)
	}
	return &f
}

// verdict asks the matcher and holds it against Explain and the index.
func verdict(t testing.TB, m *Matcher, e *event.Event) bool {
	t.Helper()
	ok := m.Match(e)
	if explained, reason := m.Explain(e); explained != ok || (reason == "") != ok {
		t.Errorf("Match is %v, Explain says %v, %q", ok, explained, reason)
	}
	if indexed := len(NewIndex([]Entry{{ID: 1, Matcher: m}}).Match(e, new(Scratch))) == 1; indexed != ok {
		t.Errorf("Match is %v, the index says %v", ok, indexed)
	}
	return ok
}

// TestConformance runs the cases of spec/filtering.md section 9.
func TestConformance(t *testing.T) {
	raw, err := os.ReadFile("testdata/filter_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name          string
		Filter, Event json.RawMessage
		Match         bool
		Basis         string
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 135 {
		t.Fatalf("%d cases, want 135", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			f := mustParse(t, string(c.Filter))
			if got := verdict(t, Compile(f), parseEvent(t, string(c.Event))); got != c.Match {
				t.Errorf("filter %s on event %s: %v, want %v (%s)", c.Filter, c.Event, got, c.Match, c.Basis)
			}
		})
	}
}
