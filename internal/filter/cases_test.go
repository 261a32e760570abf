package filter

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
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

// conformanceCase is one of a file of cases: the verdict of a filter on an event
// fragment. Without a schema an event with specversion is a CloudEvent, any other
// an Event Grid event.
type conformanceCase struct {
	Name          string
	Filter, Event json.RawMessage
	Schema        string
	Match         bool
	Basis         string
}

func (c *conformanceCase) event(t testing.TB) *event.Event {
	t.Helper()
	if c.Schema == "" {
		return parseEvent(t, string(c.Event))
	}
	schema, err := event.ParseSchema(c.Schema)
	if err != nil {
		t.Fatal(err)
	}
	return parseEventAs(t, string(c.Event), schema)
}

func readCases(t testing.TB, file string) []conformanceCase {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var cases []conformanceCase
	if err := d.Decode(&cases); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return cases
}

// TestConformance runs the cases of spec/filtering.md section 9, and those of any
// other file testdata/*_cases.json. Each case is asked of its matcher, of the
// reference evaluator, of an index of its filter alone, and of one that holds the
// filters of all cases besides.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob("testdata/*_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []conformanceCase
	for _, file := range files {
		cases = append(cases, readCases(t, file)...)
	}
	if len(cases) < 135 {
		t.Fatalf("%d cases, the specification alone has 135", len(cases))
	}
	var all []member
	var entries []Entry
	for i, c := range cases {
		f := mustParse(t, string(c.Filter))
		all = append(all, member{uint64(i), &candidate{filter: f, matcher: Compile(f)}})
		entries = append(entries, Entry{ID: uint64(i), Matcher: all[i].matcher})
	}
	const tested = 1 << 40 // the id of the filter under test
	index := NewIndex(entries)
	var scratch Scratch
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			e := c.event(t)
			if got := verdict(t, all[i].matcher, e); got != c.Match {
				t.Errorf("filter %s on event %s: %v, want %v (%s)", c.Filter, c.Event, got, c.Match, c.Basis)
			}
			if got := refMatch(all[i].filter, refDecode(c.Event), e.Schema); got != c.Match {
				t.Errorf("filter %s on event %s: the reference says %v, want %v (%s)", c.Filter, c.Event, got, c.Match, c.Basis)
			}
			ids := slices.Clone(index.With(Entry{ID: tested, Matcher: all[i].matcher}).Match(e, &scratch))
			if got := slices.Contains(ids, tested); got != c.Match {
				t.Errorf("filter %s on event %s among others: %v, want %v (%s)", c.Filter, c.Event, got, c.Match, c.Basis)
			}
			w := &world{events: []*event.Event{e}, raws: []string{string(c.Event)}, decoded: []any{refDecode(c.Event)}, reference: 1}
			for i := range all {
				all[i].asked = 0 // about this event
			}
			if complaint := w.compare(t, index, all, 0, &scratch); complaint != "" {
				t.Errorf("all cases on event %s: %s", c.Event, complaint)
			}
		})
	}
}
