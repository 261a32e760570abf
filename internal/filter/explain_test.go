package filter

import (
	"strings"
	"testing"
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
