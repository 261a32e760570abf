package filter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
)

// FuzzParse reads any bytes as a filter: no panic, a refusal is always an Invalid
// fault, and what is accepted comes back the same, also when matching.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"advancedFilters":[{"operatorType":"NumberNotInRange","key":"data..k","values":[[-0,0e5],[1,2,3],["x"]]}]}`))
	f.Add([]byte(`{"includedEventTypes":["All","\ud800"],"subjectEndsWith":"\ud83d\ude00"}`))
	for _, op := range Operators() {
		for _, operand := range []string{`"value":1`, `"value":true`, `"values":[1,-2.50E+3]`, `"values":[[1,2]]`, `"values":["é\u0000"]`, `"values":null`} {
			f.Add(fmt.Appendf(nil, `{"advancedFilters":[{"operatorType":%q,"key":"Data.K",%s}]}`, op, operand))
		}
	}
	var e event.Event
	if err := e.Parse([]byte(`{"subject":"s","eventType":"t","data":{"k":[1,"é",true,null]}}`), event.EventGridSchema); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Parse(raw, ParseOptions{Target: "properties.filter", EventTypes: []string{"t"}})
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("Parse(%q) = %v, not an Invalid fault", raw, err)
			}
			if got, err = Parse(raw, ParseOptions{}); err != nil {
				return
			}
		}
		out, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("encode %+v: %v", got, err)
		}
		var back Filter
		if err := json.Unmarshal(out, &back); err != nil || !reflect.DeepEqual(back, got) {
			t.Fatalf("%q became %+v,\nthen %s,\nthen %+v (%v)", raw, got, out, back, err)
		}
		m := Compile(&got)
		if ok, reason := m.Explain(&e); ok != m.Match(&e) || ok != (reason == "") {
			t.Fatalf("%s: Explain says %v, %q", out, ok, reason)
		}
	})
}

// FuzzMatch makes a filter and an event out of the fuzzer's bytes, both from a
// small vocabulary so that they often meet, and compares Match with the
// reference evaluator.
func FuzzMatch(f *testing.F) {
	for i := range 64 {
		f.Add(bytes.Repeat([]byte{byte(i), byte(i * 37), byte(i * 101), byte(255 - i), byte(i * i)}, 40))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		g := &generator{choices: choices}
		raw, schema := g.newEvent()
		compareWithReference(t, g.filter(), raw, schema)
	})
}

// FuzzMatchJSON lets the fuzzer write filter and event by itself.
func FuzzMatchJSON(f *testing.F) {
	raw, err := os.ReadFile("testdata/filter_cases.json")
	if err != nil {
		f.Fatal(err)
	}
	var cases []struct{ Filter, Event json.RawMessage }
	if err := json.Unmarshal(raw, &cases); err != nil {
		f.Fatal(err)
	}
	for i, c := range cases {
		f.Add([]byte(c.Filter), []byte(c.Event), uint8(i))
	}
	// An attribute that is not in its canonical spelling is none.
	f.Add([]byte(`{"subjectBeginsWith":"m"}`), []byte(`{"suBjeCt":"m"}`), uint8(2))
	f.Fuzz(func(t *testing.T, filter, raw []byte, schema uint8) {
		if event.Check(raw) == nil && event.KindOf(raw) == event.Object && storable(raw) {
			compareWithReference(t, string(filter), string(raw), event.EventGridSchema+event.Schema(schema%3))
		}
	})
}

// storable reports whether an object keeps the rules of stored events that
// matching relies on: attributes in canonical spelling, each once, and of an
// Event Grid event nothing but data behind metadataVersion.
func storable(raw []byte) bool {
	seen := map[string]bool{}
	last := ""
	for c := event.Walk(raw); c.Next(); {
		last = refUpper(string(event.AppendUnquoted(nil, c.Key)))
		if seen[last] || c.KeyEscaped {
			return false
		}
		seen[last] = true
	}
	return !seen["METADATAVERSION"] || !seen["DATA"] || last == "DATA"
}

func compareWithReference(t *testing.T, filter, raw string, schema event.Schema) {
	parsed, err := Parse([]byte(filter), ParseOptions{})
	if err != nil {
		return
	}
	var e event.Event
	if err := e.Parse([]byte(raw), schema); err != nil {
		return
	}
	want := refMatch(&parsed, refDecode(e.Raw), e.Schema)
	m := Compile(&parsed)
	if got := m.Match(&e); got != want {
		_, reason := m.Explain(&e)
		t.Fatalf("filter %s\non %s event %s: %v, the reference says %v (%s)", filter, schema, raw, got, want, reason)
	}
	if ok, reason := m.Explain(&e); ok != want || (reason == "") != want {
		t.Fatalf("filter %s\non %s event %s: Explain says %v, %s", filter, schema, raw, ok, reason)
	}
	if ids := NewIndex([]Entry{{ID: 1, Matcher: m}}).Match(&e, new(Scratch)); (len(ids) == 1) != want {
		t.Fatalf("filter %s\non %s event %s: the index says %v", filter, schema, raw, ids)
	}
}
