package filter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
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
		schema := g.schema()
		raw := g.event(schema)
		compareWithReference(t, g.filter(raw), raw, schema)
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
// matching relies on: attributes in canonical spelling, each once. It also keeps
// exponents out that the reference evaluator cannot hold.
func storable(raw []byte) bool {
	seen := map[string]bool{}
	for c := event.Walk(raw); c.Next(); {
		name := refUpper(string(event.AppendUnquoted(nil, c.Key)))
		if seen[name] || c.KeyEscaped {
			return false
		}
		seen[name] = true
	}
	return !longExponent(raw)
}

// longExponent reports whether an e is followed by five digits or more.
func longExponent(raw []byte) bool {
	digits := -1
	for _, c := range raw {
		switch {
		case c == 'e' || c == 'E':
			digits = 0
		case digits >= 0 && c >= '0' && c <= '9':
			if digits++; digits > 4 {
				return true
			}
		case c != '+' && c != '-':
			digits = -1
		}
	}
	return false
}

func compareWithReference(t *testing.T, filter, raw string, schema event.Schema) {
	parsed, err := Parse([]byte(filter), ParseOptions{})
	if err != nil || longExponent([]byte(filter)) {
		return
	}
	var e event.Event
	if err := e.Parse([]byte(raw), schema); err != nil {
		return
	}
	want := refMatch(&parsed, &e)
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

// generator turns bytes into choices; after the last byte it always chooses 0.
type generator struct {
	choices []byte
	found   []refFound // what the event has, for conditions that ask for it
}

// refFound is a value of the event under its path.
type refFound struct {
	key   string
	value any
}

// remember collects every value of the event under a path that may lead to it.
func (g *generator) remember(path string, v any) {
	if path != "" {
		g.found = append(g.found, refFound{path, v})
	}
	object, _ := v.(refObject)
	for _, m := range object {
		g.remember(strings.TrimPrefix(path+"."+m.name, "."), m.value)
	}
}

func (g *generator) choose(n int) int {
	if len(g.choices) == 0 {
		return 0
	}
	c := g.choices[0]
	g.choices = g.choices[1:]
	return int(c) % n
}

func (g *generator) of(options ...string) string { return options[g.choose(len(options))] }

func (g *generator) schema() event.Schema { return event.EventGridSchema + event.Schema(g.choose(3)) }

func (g *generator) name() string {
	return g.of("k", "K", "data", "Data", "key", "KEY", "Key", "ключ", "КЛЮЧ", "straße", "STRASSE", "", "id", "subject", "a b", "ı", "I", "topic", "ς", "Σ")
}

func (g *generator) key() string {
	if g.choose(3) == 0 {
		return g.of("id", "ID", "eventid", "topic", "Source", "type", "EventType", "subject", "Subject", "time", "eventTime", "dataversion",
			"DataVersion", "eventTypeVersion", "dataschema", "specversion", "ext", "EXT", "data", "Data", "metadataVersion")
	}
	key := g.of("data.", "data.", "data.", "DATA.", "") + g.name()
	for range g.choose(3) {
		key += "." + g.name()
	}
	return key
}

func (g *generator) text() string {
	s := ""
	for range g.choose(4) {
		s += g.of("a", "A", "b", "ab", "é", "É", "ß", "ẞ", "ς", "Σ", "ı", "i", "İ", "I", "ſ", "S", "\u212a", "k", "ⱥ", "Ⱥ", "😀", " ", `\n`, `\"`, `\u00e9`, `\ud83d\ude00`, `\ud83d`, "/", ":", "5", "true")
	}
	return `"` + s + `"`
}

func (g *generator) number() string {
	if g.choose(3) == 0 {
		return g.of("0", "-0", "5", "5.0", "5e0", "50e-1", "0.5E1", "-5", "1e3", "1000", "0.1", "0.10000000000000000555", "9007199254740993", "9007199254740992", "1e99", "-1e99", "1e-99")
	}
	n := g.of("", "", "-") + g.of("0", "1", "2", "5", "9", "10", "100", "12345678901234567890")
	if g.choose(2) == 0 {
		n += "." + g.of("0", "00", "5", "05", "50", "000001", "99999999999999999999")
	}
	if g.choose(3) == 0 {
		n += g.of("e", "E") + g.of("", "+", "-") + g.of("0", "1", "2", "01", "20")
	}
	return n
}

func (g *generator) value(depth int) string {
	switch n := g.choose(9); {
	case n < 3:
		return g.text()
	case n < 5:
		return g.number()
	case n == 5:
		return g.of("true", "false", "null")
	case depth == 0:
		return g.of("{}", "[]", "null")
	case n == 6:
		return g.object(depth - 1)
	default:
		var elements []string
		for range g.choose(4) {
			elements = append(elements, g.value(depth-1))
		}
		return "[" + strings.Join(elements, g.of(",", " , ")) + "]"
	}
}

func (g *generator) object(depth int) string {
	var members []string
	for range 1 + g.choose(4) {
		members = append(members, `"`+g.of(g.name(), g.name(), `\u006b`)+`"`+g.of(":", " : ")+g.value(depth))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// event keeps the rules of stored events: attributes are strings in canonical
// spelling, each at most once.
func (g *generator) event(schema event.Schema) string {
	names := []string{"id", "topic", "subject", "eventType", "eventTime", "dataVersion", "metadataVersion"}
	if schema == event.CloudEventSchemaV1_0 {
		names = []string{"specversion", "id", "source", "subject", "type", "time", "dataschema"}
	}
	var members []string
	for _, name := range names {
		switch g.choose(4) {
		case 0:
		case 1:
			members = append(members, `"`+name+`":"#`+strings.TrimPrefix(g.text(), `"`))
		default:
			members = append(members, `"`+name+`":`+g.text())
		}
	}
	if g.choose(5) > 0 {
		members = append(members, `"data":`+g.value(3))
	}
	if schema == event.CloudEventSchemaV1_0 {
		for _, name := range []string{"ext", "topic", "eventtype", "k"} {
			if g.choose(3) == 0 {
				members = append(members, `"`+name+`":`+g.of("5", "-0", "0", "true", "false", "null", "1.5", "5e0", g.text()))
			}
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

func (g *generator) filter(raw string) string {
	g.remember("", refDecode([]byte(raw)))
	f := `{"enableAdvancedFilteringOnArrays":` + g.of("true", "false")
	if g.choose(4) == 0 {
		f += `,"includedEventTypes":["x` + strings.TrimPrefix(g.text(), `"`) + `,"#` + strings.TrimPrefix(g.text(), `"`) + `]`
	}
	if g.choose(4) == 0 {
		f += `,"subjectBeginsWith":` + g.text() + `,"isSubjectCaseSensitive":` + g.of("true", "false")
	}
	if g.choose(4) == 0 {
		f += `,"subjectEndsWith":` + g.text()
	}
	var conditions []string
	for range g.choose(3) + 1 {
		conditions = append(conditions, g.condition())
	}
	return f + `,"advancedFilters":[` + strings.Join(conditions, ",") + `]}`
}

// condition mostly asks for something that the event has, with an operator and
// an operand that may fit.
func (g *generator) condition() string {
	op := NumberIn + Operator(g.choose(int(IsNotNull)))
	key, numbers, texts := g.key(), []string{g.number(), g.number()}, []string{g.text(), g.text()}
	if len(g.found) > 0 && g.choose(5) > 0 {
		found := g.found[g.choose(len(g.found))]
		key = found.key
		if g.choose(3) == 0 {
			key = refUpper(key)
		}
		v := found.value
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[g.choose(len(list))]
		}
		switch v := v.(type) {
		case json.Number:
			numbers[g.choose(2)] = string(v)
			texts[0] = `"` + string(v) + `"`
			op = []Operator{NumberIn, NumberNotIn, NumberLessThan, NumberGreaterThan, NumberLessThanOrEquals,
				NumberGreaterThanOrEquals, NumberInRange, NumberNotInRange, StringIn, op}[g.choose(10)]
		case bool:
			op = []Operator{BoolEquals, BoolEquals, op}[g.choose(3)]
		case string:
			part := []rune(v)
			if len(part) > 0 && g.choose(2) == 0 {
				part = part[g.choose(len(part)):]
			}
			texts[g.choose(2)] = string(event.AppendQuoted(nil, g.of(string(part), refUpper(string(part)))))
			op = []Operator{StringIn, StringNotIn, StringBeginsWith, StringNotBeginsWith, StringEndsWith, StringNotEndsWith,
				StringContains, StringNotContains, op}[g.choose(9)]
		}
	}
	one := `{"operatorType":"` + op.String() + `","key":` + string(event.AppendQuoted(nil, key))
	switch op.Operand() {
	case NumberValue:
		one += `,"value":` + numbers[0]
	case BoolValue:
		one += `,"value":` + g.of("true", "false")
	case NumberValues:
		one += `,"values":[` + numbers[0] + `,` + numbers[1] + `]`
	case RangeValues:
		if refRat(numbers[0]).Cmp(refRat(numbers[1])) > 0 {
			numbers[0], numbers[1] = numbers[1], numbers[0]
		}
		one += `,"values":[[` + numbers[0] + `,` + numbers[1] + `]]`
	case StringValues:
		one += `,"values":[` + texts[0] + `,` + texts[1] + `]`
	}
	return one + "}"
}
