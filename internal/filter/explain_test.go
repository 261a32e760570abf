package filter

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
)

func TestExplain(t *testing.T) {
	grid := `{"eventType":"Contoso.Done","subject":"models/churn:1","data":{"n":0.10,"s":"te\u0078t","b":true,"list":["a",1],"o":{"x":1},"z":null,"long":"` + strings.Repeat("é", 200) + `"}}`
	tests := []struct {
		name, filter, event, want string
	}{
		{"wanted", `{}`, grid, ""},
		{"type", `{"includedEventTypes":["A","B"],"subjectBeginsWith":"nor this"}`, grid, `includedEventTypes: the event type "Contoso.Done" is none of "A", "B"`},
		{"many types", `{"includedEventTypes":[` + strings.Repeat(`"A",`, 29) + `"B"]}`, grid,
			`includedEventTypes: the event type "Contoso.Done" is none of ` + strings.Repeat(`"A", `, 24) + `"A" and 5 more`},
		{"subject begins", `{"subjectBeginsWith":"runs/"}`, grid, `subjectBeginsWith: the subject "models/churn:1" does not begin with "runs/" (ignoring case)`},
		{"subject ends", `{"subjectEndsWith":"CHURN:1","isSubjectCaseSensitive":true}`, grid, `subjectEndsWith: the subject "models/churn:1" does not end with "CHURN:1" (in exactly these letters)`},
		{"no subject", `{"subjectEndsWith":"x"}`, `{}`, `subjectEndsWith: the event has no subject, it should end with "x"`},
		{"missing", `{"advancedFilters":[{"operatorType":"StringIn","key":"data.modelTags.stage","values":["production","staging"]}]}`, grid,
			`advancedFilters[0]: data.modelTags.stage StringIn "production", "staging": data.modelTags.stage was missing`},
		{"second condition", `{"advancedFilters":[{"operatorType":"IsNotNull","key":"data.n"},{"operatorType":"NumberGreaterThan","key":"data.n","value":0.4}]}`, grid,
			`advancedFilters[1]: data.n NumberGreaterThan 0.4: data.n was the number 0.10`},
		{"null", `{"advancedFilters":[{"operatorType":"IsNotNull","key":"data.z"}]}`, grid, `advancedFilters[0]: data.z IsNotNull: data.z was null`},
		{"there", `{"advancedFilters":[{"operatorType":"IsNullOrUndefined","key":"data.list"}]}`, grid, `advancedFilters[0]: data.list IsNullOrUndefined: data.list was the list ["a",1]`},
		{"hit by a negative operator", `{"advancedFilters":[{"operatorType":"StringNotContains","key":"data.s","values":["EX"]}]}`, grid,
			`advancedFilters[0]: data.s StringNotContains "EX": data.s was the string "text"`},
		{"range", `{"advancedFilters":[{"operatorType":"NumberInRange","key":"data.n","values":[[1,2],[3,4]]}]}`, grid,
			`advancedFilters[0]: data.n NumberInRange [1, 2], [3, 4]: data.n was the number 0.10`},
		{"boolean", `{"advancedFilters":[{"operatorType":"BoolEquals","key":"data.b","value":false}]}`, grid, `advancedFilters[0]: data.b BoolEquals false: data.b was true`},
		{"wrong type", `{"advancedFilters":[{"operatorType":"NumberIn","key":"data.s","values":[1]}]}`, grid,
			`advancedFilters[0]: data.s NumberIn 1: data.s was the string "text", and the operator takes numbers without conversion`},
		{"object", `{"advancedFilters":[{"operatorType":"StringIn","key":"data.o","values":["x"]}]}`, grid,
			`advancedFilters[0]: data.o StringIn "x": data.o was an object, and the operator takes strings without conversion`},
		{"array, flag off", `{"advancedFilters":[{"operatorType":"StringNotIn","key":"data.list","values":["z"]}]}`, grid,
			`advancedFilters[0]: data.list StringNotIn "z": data.list was a list, and enableAdvancedFilteringOnArrays is off`},
		{"array, flag on", `{"enableAdvancedFilteringOnArrays":true,"advancedFilters":[{"operatorType":"StringIn","key":"data.list","values":["z"]}]}`, grid,
			`advancedFilters[0]: data.list StringIn "z": data.list was the list ["a",1]`},
		{"long values are cut", `{"advancedFilters":[{"operatorType":"StringIn","key":"data.long","values":["x"]}]}`, grid,
			`advancedFilters[0]: data.long StringIn "x": data.long was the string "` + strings.Repeat("é", 80) + `…"`},
		{"attribute of a CloudEvent", `{"advancedFilters":[{"operatorType":"StringIn","key":"n","values":["6"]}]}`, `{"specversion":"1.0","n":5}`,
			`advancedFilters[0]: n StringIn "6": n was the number 5`},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			ok, reason := Compile(mustParse(t, c.filter)).Explain(parseEvent(t, c.event))
			if ok != (c.want == "") || reason != c.want {
				t.Errorf("%v, %s\nwant %s", ok, reason, c.want)
			}
		})
	}
}

func TestClauses(t *testing.T) {
	const grid = `{"eventType":"Contoso.Done","subject":"models/churn:1","data":{"n":0.10,"s":"text","list":["a",1],"z":null}}`
	condition := func(operator, key, operands string) string {
		return `{"operatorType":"` + operator + `","key":"` + key + `"` + operands + `}`
	}
	type want struct {
		result           Verdict
		asks, found, saw string
	}
	const notMissing = "missing, which "
	for _, tt := range []struct {
		name, filter, event string
		clauses             []want // the three plain clauses, then the advanced filters
	}{
		{"nothing set", `{"includedEventTypes":["All"]}`, grid, []want{
			{NotSet, "", "string", `the string "Contoso.Done"`}, {NotSet, "", "string", `the string "models/churn:1"`}, {NotSet, "", "string", `the string "models/churn:1"`}}},
		{"every clause is asked, also behind a refusal", `{"includedEventTypes":["A"],"subjectBeginsWith":"MODELS/","subjectEndsWith":":2","isSubjectCaseSensitive":false,"advancedFilters":[` +
			condition("NumberGreaterThan", "data.n", `,"value":0.4`) + "," + condition("StringIn", "data.s", `,"values":["TEXT","x"]`) + "," + condition("StringContains", "data.n", `,"values":["0"]`) + `]}`, grid, []want{
			{Refused, `one of "A"`, "string", `the string "Contoso.Done"`},
			{Passed, `begins with "MODELS/" (ignoring case)`, "string", `the string "models/churn:1"`},
			{Refused, `ends with ":2" (ignoring case)`, "string", `the string "models/churn:1"`},
			{Refused, "data.n NumberGreaterThan 0.4", "number", "the number 0.10"},
			{Passed, `data.s StringIn "TEXT", "x"`, "string", `the string "text"`},
			{Refused, `data.n StringContains "0"`, "number", "the number 0.10, and the operator takes strings without conversion"}}},
		{"by case", `{"subjectBeginsWith":"Models","isSubjectCaseSensitive":true}`, grid, []want{
			{NotSet, "", "string", `the string "Contoso.Done"`}, {Refused, `begins with "Models" (in exactly these letters)`, "string", `the string "models/churn:1"`},
			{NotSet, "", "string", `the string "models/churn:1"`}}},
		{"no subject", `{"subjectEndsWith":"x"}`, `{"eventType":"t"}`, []want{
			{NotSet, "", "string", `the string "t"`}, {NotSet, "", "missing", "missing"}, {Refused, `ends with "x" (ignoring case)`, "missing", "missing"}}},
		{"missing goes both ways", `{"advancedFilters":[` + condition("StringNotIn", "data.x", `,"values":["a"]`) + "," + condition("StringNotContains", "data.x", `,"values":["a"]`) + "," +
			condition("IsNullOrUndefined", "data.z", "") + "," + condition("NumberNotIn", "data.z", `,"values":[1]`) + `]}`, grid, []want{
			{NotSet, "", "string", `the string "Contoso.Done"`}, {NotSet, "", "string", `the string "models/churn:1"`}, {NotSet, "", "string", `the string "models/churn:1"`},
			{Passed, `data.x StringNotIn "a"`, "missing", notMissing + "passes StringNotIn"}, {Refused, `data.x StringNotContains "a"`, "missing", notMissing + "does not pass StringNotContains"},
			{Passed, "data.z IsNullOrUndefined", "null", "null"}, {Passed, "data.z NumberNotIn 1", "null", "null, which passes NumberNotIn"}}},
		{"lists", `{"advancedFilters":[` + condition("StringIn", "data.list", `,"values":["a"]`) + `]}`, grid, []want{
			{NotSet, "", "string", `the string "Contoso.Done"`}, {NotSet, "", "string", `the string "models/churn:1"`}, {NotSet, "", "string", `the string "models/churn:1"`},
			{Refused, `data.list StringIn "a"`, "array", "a list, and enableAdvancedFilteringOnArrays is off"}}},
		{"lists, flag on", `{"enableAdvancedFilteringOnArrays":true,"advancedFilters":[` + condition("StringIn", "data.list", `,"values":["a"]`) + `]}`, grid, []want{
			{NotSet, "", "string", `the string "Contoso.Done"`}, {NotSet, "", "string", `the string "models/churn:1"`}, {NotSet, "", "string", `the string "models/churn:1"`},
			{Passed, `data.list StringIn "a"`, "array", `the list ["a",1]`}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := Compile(mustParse(t, tt.filter))
			e := parseEvent(t, tt.event)
			got := m.Clauses(e)
			if len(got) != len(tt.clauses) {
				t.Fatalf("%d clauses, want %d", len(got), len(tt.clauses))
			}
			for i, c := range got {
				if w := tt.clauses[i]; c.Result != w.result || c.Asks != w.asks || c.Found != w.found || c.Saw != w.saw {
					t.Errorf("%s\n got %s, %q, %s, %q\nwant %s, %q, %s, %q", c.Clause, c.Result, c.Asks, c.Found, c.Saw, w.result, w.asks, w.found, w.saw)
				}
			}
			holdClauses(t, m, e)
		})
	}
	var cloud event.Event
	if err := cloud.Parse([]byte(`{"specversion":"1.0","type":"t"}`), event.CloudEventSchemaV1_0); err != nil {
		t.Fatal(err)
	}
	if c := Compile(&Filter{}).Clauses(&cloud)[0]; c.Key != "type" {
		t.Errorf("a CloudEvent's type is called %s", c.Key)
	}
}

// holdClauses compares the clauses' verdicts with Match and Explain: the event is
// wanted if none refuses it, and the first that does is the one Explain names.
func holdClauses(t *testing.T, m *Matcher, e *event.Event) {
	t.Helper()
	first := ""
	for _, c := range m.Clauses(e) {
		if c.Result == Refused && first == "" {
			first = c.Clause
		}
		if !strings.HasPrefix(c.Text, c.Clause) || c.Saw == "" || c.Found == "" || (c.Asks == "") != (c.Result == NotSet) {
			t.Errorf("clause %+v", c)
		}
	}
	_, reason := m.Explain(e)
	clause, _, _ := strings.Cut(reason, ":")
	if m.Match(e) != (first == "") || first != clause {
		t.Errorf("%s on %s: Match says %v, the first clause to refuse is %q, Explain says %q", filterText(m), e.Raw, m.Match(e), first, reason)
	}
}

func filterText(m *Matcher) string {
	raw, err := m.filter.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// FuzzClauses holds the clauses against Match.
func FuzzClauses(f *testing.F) {
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
		f.Add([]byte(c.Filter), []byte(cases[(i+1)%len(cases)].Event), uint8(i))
	}
	f.Fuzz(func(t *testing.T, filter, raw []byte, schema uint8) {
		parsed, err := Parse(filter, ParseOptions{})
		if err != nil || event.Check(raw) != nil || event.KindOf(raw) != event.Object {
			return
		}
		var e event.Event
		if e.Parse(raw, event.EventGridSchema+event.Schema(schema%3)) == nil {
			holdClauses(t, Compile(&parsed), &e)
		}
	})
}
