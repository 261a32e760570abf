package filter

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
)

// full holds every member and an operator of each kind, in stored form.
const full = `{"subjectBeginsWith":"models/","subjectEndsWith":":7","isSubjectCaseSensitive":true,"includedEventTypes":["Contoso.A","contoso.b"],` +
	`"advancedFilters":[{"operatorType":"NumberIn","key":"data.n","values":[5.00,-1E+2]},` +
	`{"operatorType":"NumberGreaterThan","key":"data.n","value":0.30000000000000000000000000000000000001},` +
	`{"operatorType":"NumberInRange","key":"data.n","values":[[0.10,0.2],[3,4e0]]},` +
	`{"operatorType":"BoolEquals","key":"data.b","value":false},` +
	`{"operatorType":"StringContains","key":"data.s","values":["","a\"\\b","é\n"]},` +
	`{"operatorType":"IsNotNull","key":"subject"}],"enableAdvancedFilteringOnArrays":true}`

var fullFilter = Filter{
	IncludedEventTypes: []string{"Contoso.A", "contoso.b"}, SubjectBeginsWith: "models/", SubjectEndsWith: ":7",
	IsSubjectCaseSensitive: true, EnableAdvancedFilteringOnArrays: true,
	AdvancedFilters: []Condition{
		{Operator: NumberIn, Key: "data.n", Numbers: []Number{"5.00", "-1E+2"}},
		{Operator: NumberGreaterThan, Key: "data.n", Numbers: []Number{"0.30000000000000000000000000000000000001"}},
		{Operator: NumberInRange, Key: "data.n", Ranges: [][2]Number{{"0.10", "0.2"}, {"3", "4e0"}}},
		{Operator: BoolEquals, Key: "data.b"},
		{Operator: StringContains, Key: "data.s", Strings: []string{"", `a"\b`, "é\n"}},
		{Operator: IsNotNull, Key: "subject"},
	},
}

func TestParseAndEncode(t *testing.T) {
	const empty = `{"subjectBeginsWith":"","subjectEndsWith":"","enableAdvancedFilteringOnArrays":false}`
	tests := []struct {
		name, in string
		want     Filter
		out      string
	}{
		{"absent", ``, Filter{}, empty},
		{"null", ` null `, Filter{}, empty},
		{"empty object", `{}`, Filter{}, empty},
		{"every member null", `{"includedEventTypes":null,"subjectBeginsWith":null,"subjectEndsWith":null,"isSubjectCaseSensitive":null,"enableAdvancedFilteringOnArrays":null,"advancedFilters":null}`, Filter{}, empty},
		{"empty lists", `{"includedEventTypes":[],"advancedFilters":[]}`, Filter{}, empty},
		{"All", `{"includedEventTypes":["a","ALL"]}`, Filter{}, empty},
		{"unknown members", `{"color":{"key":1},"advancedFilters":[{"operatorType":"IsNotNull","key":"id","note":"x"}]}`,
			Filter{AdvancedFilters: []Condition{{Operator: IsNotNull, Key: "id"}}},
			`{"subjectBeginsWith":"","subjectEndsWith":"","advancedFilters":[{"operatorType":"IsNotNull","key":"id"}],"enableAdvancedFilteringOnArrays":false}`},
		{"any letter case", `{"AdvancedFilters":[{"OperatorType":"stringin","KEY":"Data.k","Values":["V"],"value":null}],"SUBJECTBEGINSWITH":"S"}`,
			Filter{SubjectBeginsWith: "S", AdvancedFilters: []Condition{{Operator: StringIn, Key: "Data.k", Strings: []string{"V"}}}},
			`{"subjectBeginsWith":"S","subjectEndsWith":"","advancedFilters":[{"operatorType":"StringIn","key":"Data.k","values":["V"]}],"enableAdvancedFilteringOnArrays":false}`},
		{"escaped member name", `{"\u0073ubjectEndsWith":"x"}`, Filter{SubjectEndsWith: "x"},
			`{"subjectBeginsWith":"","subjectEndsWith":"x","enableAdvancedFilteringOnArrays":false}`},
		{"null operator with null operands", `{"advancedFilters":[{"operatorType":"IsNullOrUndefined","key":"id","value":null,"values":null}]}`,
			Filter{AdvancedFilters: []Condition{{Operator: IsNullOrUndefined, Key: "id"}}},
			`{"subjectBeginsWith":"","subjectEndsWith":"","advancedFilters":[{"operatorType":"IsNullOrUndefined","key":"id"}],"enableAdvancedFilteringOnArrays":false}`},
		{"everything", full, fullFilter, full},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse([]byte(c.in), ParseOptions{})
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Fatalf("Parse = %+v, %v, want %+v", got, err, c.want)
			}
			out, err := got.MarshalJSON()
			if err != nil || string(out) != c.out {
				t.Fatalf("encoded %s, %v\nwant %s", out, err, c.out)
			}
		})
	}
}

// TestStoredForm stores a filter as part of a record, as resources do.
func TestStoredForm(t *testing.T) {
	type record struct {
		Filter Filter `json:"filter"`
	}
	raw, err := json.Marshal(record{fullFilter})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"filter":` + full + `}`; string(raw) != want {
		t.Errorf("stored %s\nwant %s", raw, want)
	}
	var back record
	if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(back.Filter, fullFilter) {
		t.Errorf("read back %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"filter":null}`), &back); err != nil || !reflect.DeepEqual(back.Filter, Filter{}) {
		t.Errorf("null read back as %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"filter":{"advancedFilters":[{}]}}`), &back); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a broken record gives %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	tests := []struct {
		name string
		c    Condition
		want string
	}{
		{"no operator", Condition{Key: "k"}, "encode advancedFilters[0]: Operator(0) is not an operator"},
		{"no number", Condition{Operator: NumberIn, Key: "k", Numbers: []Number{"x"}}, `encode advancedFilters[0]: "x" is not a JSON number`},
		{"more than a number", Condition{Operator: NumberIn, Key: "k", Numbers: []Number{"5 "}}, `encode advancedFilters[0]: "5 " is not a JSON number`},
		{"no number in a range", Condition{Operator: NumberInRange, Key: "k", Ranges: [][2]Number{{"1", ""}}}, `encode advancedFilters[0]: "" is not a JSON number`},
		{"two values", Condition{Operator: NumberLessThan, Key: "k", Numbers: []Number{"1", "2"}}, "encode advancedFilters[0]: NumberLessThan has 2 values, not one"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if _, err := (Filter{AdvancedFilters: []Condition{c.c}}).MarshalJSON(); err == nil || err.Error() != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

const all19 = "NumberIn, NumberNotIn, NumberLessThan, NumberGreaterThan, NumberLessThanOrEquals, NumberGreaterThanOrEquals, NumberInRange, NumberNotInRange, " +
	"BoolEquals, StringIn, StringNotIn, StringBeginsWith, StringNotBeginsWith, StringEndsWith, StringNotEndsWith, StringContains, StringNotContains, IsNullOrUndefined, IsNotNull"

func TestParseRefuses(t *testing.T) {
	long := strings.Repeat("é", 513)
	list := func(n int, one string) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }
	condition := func(c string) string { return `{"advancedFilters":[` + c + `]}` }
	first := func(path, message string) []string {
		return []string{"advancedFilters[0]" + path, "advancedFilters[0]" + path + " " + message}
	}
	tests := []struct {
		name, in string
		want     []string // target, message, target, message, …
	}{
		{"not JSON", `{"a":}`, []string{"", "filter is not JSON: '}' stands where a value is expected at byte 5."}},
		{"not an object", `["x"]`, []string{"", "filter is a list: send an object or null."}},
		{"member twice", `{"subjectEndsWith":"a","SubjectEndsWith":"b"}`, []string{"subjectEndsWith", "subjectEndsWith is given twice: send it once."}},
		{"subject is a number", `{"subjectBeginsWith":5}`, []string{"subjectBeginsWith", "subjectBeginsWith is the number 5: send a string."}},
		{"subject too long", `{"subjectEndsWith":"` + long + `"}`, []string{"subjectEndsWith", "subjectEndsWith has 513 characters: at most 512 are allowed."}},
		{"flag is a string", `{"isSubjectCaseSensitive":"true"}`, []string{"isSubjectCaseSensitive", `isSubjectCaseSensitive is the string "true": send true or false.`}},
		{"flag is a number", `{"enableAdvancedFilteringOnArrays":1}`, []string{"enableAdvancedFilteringOnArrays", "enableAdvancedFilteringOnArrays is the number 1: send true or false."}},
		{"types are a string", `{"includedEventTypes":"All"}`, []string{"includedEventTypes", `includedEventTypes is the string "All": send a list.`}},
		{"type is a number", `{"includedEventTypes":["a",5]}`, []string{"includedEventTypes[1]", "includedEventTypes[1] is the number 5: send a string."}},
		{"type is null", `{"includedEventTypes":[null]}`, []string{"includedEventTypes[0]", "includedEventTypes[0] is null: send a string."}},
		{"type is empty", `{"includedEventTypes":[""]}`, []string{"includedEventTypes[0]", "includedEventTypes[0] is empty: name an event type."}},
		{"advanced filters are an object", `{"advancedFilters":{}}`, []string{"advancedFilters", "advancedFilters is an object: send a list."}},
		{"advanced filter is null", `{"advancedFilters":[null]}`, first("", "is null: send an object with operatorType, key, and value or values.")},
		{"26 filters", `{"advancedFilters":` + list(26, `{"operatorType":"IsNotNull","key":"id"}`) + `}`,
			[]string{"advancedFilters", "advancedFilters holds 26 advanced filters: at most 25 are allowed, so advancedFilters[25] and what follows it must go."}},
		{"operator missing", condition(`{"key":"id","operator":"StringIn"}`), first(".operatorType", "is missing: use one of "+all19+".")},
		{"operator unknown", condition(`{"key":"id","operatorType":"StringLike"}`), first(".operatorType", `is "StringLike", which is no operator: use one of `+all19+".")},
		{"operator is a number", condition(`{"key":"id","operatorType":3}`), first(".operatorType", "is the number 3: use one of "+all19+".")},
		{"key missing", condition(`{"operatorType":"IsNotNull"}`), first(".key", `is missing or empty: name an attribute, or a path into data such as "data.key1".`)},
		{"key empty", condition(`{"operatorType":"IsNotNull","key":""}`), first(".key", `is missing or empty: name an attribute, or a path into data such as "data.key1".`)},
		{"key is a list", condition(`{"operatorType":"IsNotNull","key":["a"]}`), first(".key", "is a list: send a string.")},
		{"key too long", condition(`{"operatorType":"IsNotNull","key":"` + long + `"}`), first(".key", "has 513 characters: at most 512 are allowed.")},
		{"key twice", condition(`{"operatorType":"IsNotNull","key":"a","Key":"b"}`), first(".key", "is given twice: send it once.")},
		{"values for a comparison", condition(`{"operatorType":"NumberLessThan","key":"k","values":[1]}`), first(".values", "does not go with NumberLessThan: send value (a number).")},
		{"value for a list operator", condition(`{"operatorType":"StringIn","key":"k","value":"a"}`), first(".value", "does not go with StringIn: send values (strings).")},
		{"value beside values", condition(`{"operatorType":"StringIn","key":"k","value":"a","values":["a"]}`), first(".value", "does not go with StringIn: send values (strings).")},
		{"value for a null operator", condition(`{"operatorType":"IsNotNull","key":"k","value":true}`), first(".value", "does not go with IsNotNull, which takes neither value nor values: leave it out.")},
		{"values for a null operator", condition(`{"operatorType":"IsNullOrUndefined","key":"k","values":[]}`), first(".values", "does not go with IsNullOrUndefined, which takes neither value nor values: leave it out.")},
		{"value missing", condition(`{"operatorType":"BoolEquals","key":"k"}`), first(".value", "is missing or null: BoolEquals takes true or false.")},
		{"value null", condition(`{"operatorType":"NumberGreaterThan","key":"k","value":null}`), first(".value", "is missing or null: NumberGreaterThan takes a number.")},
		{"boolean as text", condition(`{"operatorType":"BoolEquals","key":"k","value":"true"}`), first(".value", `is the string "true": BoolEquals takes true or false.`)},
		{"number as text", condition(`{"operatorType":"NumberGreaterThan","key":"k","value":"5"}`), first(".value", `is the string "5": NumberGreaterThan takes a number.`)},
		{"values missing", condition(`{"operatorType":"StringIn","key":"k"}`), first(".values", "is missing or null: StringIn takes a list of strings.")},
		{"values not a list", condition(`{"operatorType":"StringIn","key":"k","values":"a"}`), first(".values", `is the string "a": send a list.`)},
		{"values empty", condition(`{"operatorType":"NumberNotIn","key":"k","values":[]}`), first(".values", "is empty: NumberNotIn needs at least one value.")},
		{"number among strings", condition(`{"operatorType":"StringContains","key":"k","values":["a",5]}`), first(".values[1]", "is the number 5: StringContains takes strings.")},
		{"null among strings", condition(`{"operatorType":"StringContains","key":"k","values":[null]}`), first(".values[0]", "is null: StringContains takes strings.")},
		{"string among numbers", condition(`{"operatorType":"NumberIn","key":"k","values":["5"]}`), first(".values[0]", `is the string "5": NumberIn takes numbers.`)},
		{"value too long", condition(`{"operatorType":"StringIn","key":"k","values":["` + long + `"]}`), first(".values[0]", "has 513 characters: at most 512 are allowed.")},
		{"number too long", condition(`{"operatorType":"NumberIn","key":"k","values":[0.` + strings.Repeat("1", 511) + `]}`), first(".values[0]", "has 513 characters: at most 512 are allowed.")},
		{"exponent too large", condition(`{"operatorType":"NumberLessThan","key":"k","value":-1e1000000000}`), first(".value", "is the number -1e1000000000: exponents beyond ±999999999 are not taken.")},
		{"exponent too small", condition(`{"operatorType":"NumberLessThan","key":"k","value":1e-99999999999999999999}`), first(".value", "is the number 1e-99999999999999999999: exponents beyond ±999999999 are not taken.")},
		{"range without pairs", condition(`{"operatorType":"NumberInRange","key":"k","values":[1,2]}`), []string{
			"advancedFilters[0].values[0]", "advancedFilters[0].values[0] is the number 1: NumberInRange takes pairs of numbers [low, high].",
			"advancedFilters[0].values[1]", "advancedFilters[0].values[1] is the number 2: NumberInRange takes pairs of numbers [low, high]."}},
		{"range of three", condition(`{"operatorType":"NumberInRange","key":"k","values":[[1,2,3]]}`), first(".values[0]", "is a list of 3: NumberInRange takes pairs of numbers [low, high].")},
		{"range of one", condition(`{"operatorType":"NumberNotInRange","key":"k","values":[[1]]}`), first(".values[0]", "is a list of 1: NumberNotInRange takes pairs of numbers [low, high].")},
		{"range of strings", condition(`{"operatorType":"NumberInRange","key":"k","values":[[1,"2"]]}`), first(".values[0][1]", `is the string "2": the ends of a range are numbers.`)},
		{"range upside down", condition(`{"operatorType":"NumberInRange","key":"k","values":[[1,2],[5,4.9]]}`), first(".values[1]", "has its low end 5 above its high end 4.9: swap them.")},
		{"26 values in two filters", condition(`{"operatorType":"StringIn","key":"k","values":` + list(13, `"a"`) + `},{"operatorType":"NumberInRange","key":"k","values":` + list(13, `[1,2]`) + `}`),
			[]string{"advancedFilters[1].values", "advancedFilters[1].values goes over the limit: all advanced filters together hold 26 values, at most 25 are allowed, a range counting as one."}},
		{"26th value alone", condition(`{"operatorType":"StringIn","key":"k","values":` + list(25, `"a"`) + `},{"operatorType":"BoolEquals","key":"k","value":true},{"operatorType":"BoolEquals","key":"k","value":true}`),
			[]string{"advancedFilters[1].value", "advancedFilters[1].value goes over the limit: all advanced filters together hold 27 values, at most 25 are allowed, a range counting as one."}},
		{"every problem, in field order", `{"advancedFilters":[{"operatorType":"IsNotNull","key":""},{"operatorType":"StringIn","key":"k","values":[1]}],"subjectBeginsWith":1,"includedEventTypes":[2]}`, []string{
			"includedEventTypes[0]", "includedEventTypes[0] is the number 2: send a string.",
			"subjectBeginsWith", "subjectBeginsWith is the number 1: send a string.",
			"advancedFilters[0].key", `advancedFilters[0].key is missing or empty: name an attribute, or a path into data such as "data.key1".`,
			"advancedFilters[1].values[0]", "advancedFilters[1].values[0] is the number 1: StringIn takes strings."}},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			for _, target := range []string{"", "properties.filter"} {
				f, err := Parse([]byte(c.in), ParseOptions{Target: target})
				if err == nil || fault.KindOf(err) != fault.Invalid || !reflect.DeepEqual(f, Filter{}) {
					t.Fatalf("Parse = %+v, %v, want an Invalid fault", f, err)
				}
				var want []string
				for i := 0; i < len(c.want); i += 2 {
					path := c.want[i]
					if target != "" {
						path = strings.TrimSuffix(target+"."+path, ".")
					}
					want = append(want, path, c.want[i+1])
				}
				if got := problems(t, err); !reflect.DeepEqual(got, want) {
					t.Errorf("problems\n%q, want\n%q", got, want)
				}
			}
		})
	}
}

// problems lists target and message of each problem.
func problems(t *testing.T, err error) (out []string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		t.Fatalf("%v is not a fault", err)
	}
	all := f.Details
	if all == nil {
		all = []*fault.Error{f}
	}
	for _, p := range all {
		if p.Code != "InvalidRequest" {
			t.Errorf("code %s, want InvalidRequest", p.Code)
		}
		out = append(out, p.Target, p.Message)
	}
	return out
}

func TestParseLimitsAreInclusive(t *testing.T) {
	text := strings.Repeat("é", 512)
	filters := `{"operatorType":"StringIn","key":"` + text + `","values":["` + text + `"]}` +
		strings.Repeat(`,{"operatorType":"NumberInRange","key":"k","values":[[5,5.0]]}`, 24)
	f, err := Parse([]byte(`{"subjectBeginsWith":"`+text+`","advancedFilters":[`+filters+`]}`), ParseOptions{})
	if err != nil || len(f.AdvancedFilters) != 25 {
		t.Errorf("25 filters with 25 values of 512 characters: %v", err)
	}
	if _, err := Parse([]byte(`{"advancedFilters":[{"operatorType":"NumberIn","key":"k","values":[1e999999999,-1e-999999999]}]}`), ParseOptions{}); err != nil {
		t.Errorf("largest exponents: %v", err)
	}
}

func TestParseBoundsItsAnswer(t *testing.T) {
	in := `{"includedEventTypes":[` + strings.TrimSuffix(strings.Repeat(`1,`, 5000), ",") + `]}`
	_, err := Parse([]byte(in), ParseOptions{})
	if got := problems(t, err); len(got) != 2*maxProblems {
		t.Errorf("%d problems, want %d", len(got)/2, maxProblems)
	}
}

func TestParseStrict(t *testing.T) {
	tests := []struct {
		name, conditions string
		want             []string // target, message, …; none: accepted
	}{
		{"the same string", `{"operatorType":"StringIn","key":"k","values":["a","b","a","b"]}`, []string{
			"advancedFilters[0].values[2]", "advancedFilters[0].values[2] is the same value as advancedFilters[0].values[0]: StringIn takes each value once.",
			"advancedFilters[0].values[3]", "advancedFilters[0].values[3] is the same value as advancedFilters[0].values[1]: StringIn takes each value once."}},
		{"the same string, escaped", `{"operatorType":"StringNotContains","key":"k","values":["a","\u0061"]}`, []string{
			"advancedFilters[0].values[1]", "advancedFilters[0].values[1] is the same value as advancedFilters[0].values[0]: StringNotContains takes each value once."}},
		{"a mistyped member", `{"operatorType":"NumberIn","key":"k","valuess":[1],"values":[1]}`, []string{
			"advancedFilters[0].valuess", "advancedFilters[0].valuess is not known here: use operatorType, key, value, values."}},
		{"keys with an empty name", `{"operatorType":"IsNotNull","key":"data."},{"operatorType":"IsNotNull","key":".x"},{"operatorType":"IsNotNull","key":"data..x"},{"operatorType":"IsNotNull","key":"data. .x"}`, []string{
			"advancedFilters[0].key", `advancedFilters[0].key is "data.", where a name before, behind or between dots is empty: write a path such as "data.key1".`,
			"advancedFilters[1].key", `advancedFilters[1].key is ".x", where a name before, behind or between dots is empty: write a path such as "data.key1".`,
			"advancedFilters[2].key", `advancedFilters[2].key is "data..x", where a name before, behind or between dots is empty: write a path such as "data.key1".`}},
		{"strings that differ in case", `{"operatorType":"StringEndsWith","key":"subject","values":[".jpg",".JPG"]}`, nil},
		{"the same decimal", `{"operatorType":"NumberIn","key":"k","values":[5,-5,0,5.00,50e-1,-0.0]}`, []string{
			"advancedFilters[0].values[3]", "advancedFilters[0].values[3] is the same value as advancedFilters[0].values[0]: NumberIn takes each value once.",
			"advancedFilters[0].values[4]", "advancedFilters[0].values[4] is the same value as advancedFilters[0].values[0]: NumberIn takes each value once.",
			"advancedFilters[0].values[5]", "advancedFilters[0].values[5] is the same value as advancedFilters[0].values[2]: NumberIn takes each value once."}},
		{"the same range", `{"operatorType":"NumberNotInRange","key":"k","values":[[1,2],[1,2.5],[1.0,2]]}`, []string{
			"advancedFilters[0].values[2]", "advancedFilters[0].values[2] is the same value as advancedFilters[0].values[0]: NumberNotInRange takes each value once."}},
		{"the same advanced filter", `{"operatorType":"IsNotNull","key":"k"},{"operatorType":"NumberIn","key":"k","values":[1,2]},{"operatorType":"NUMBERIN","key":"k","values":[1.0,2]},{"operatorType":"isnotnull","key":"k"}`, []string{
			"advancedFilters[2]", "advancedFilters[2] is the same advanced filter as advancedFilters[1]: leave one of them out.",
			"advancedFilters[3]", "advancedFilters[3] is the same advanced filter as advancedFilters[0]: leave one of them out."}},
		{"the same boolean", `{"operatorType":"BoolEquals","key":"k","value":true},{"operatorType":"BoolEquals","key":"k","value":true}`, []string{
			"advancedFilters[1]", "advancedFilters[1] is the same advanced filter as advancedFilters[0]: leave one of them out."}},
		{"another value, key or operator", `{"operatorType":"BoolEquals","key":"k","value":true},{"operatorType":"BoolEquals","key":"k","value":false},{"operatorType":"BoolEquals","key":"K","value":true},` +
			`{"operatorType":"NumberLessThan","key":"k","value":1},{"operatorType":"NumberLessThan","key":"k","value":2},{"operatorType":"NumberGreaterThan","key":"k","value":1},` +
			`{"operatorType":"StringIn","key":"k","values":["a","b"]},{"operatorType":"StringIn","key":"k","values":["b","a"]}`, nil},
		{"a refused one beside another", `{"operatorType":"NumberInRange","key":"k","values":[["x",1]]},{"operatorType":"NumberInRange","key":"k","values":[[0,1]]},{"operatorType":"NumberInRange","key":"k"}`, []string{
			"advancedFilters[0].values[0][0]", `advancedFilters[0].values[0][0] is the string "x": the ends of a range are numbers.`,
			"advancedFilters[2].values", "advancedFilters[2].values is missing or null: NumberInRange takes a list of pairs of numbers [low, high]."}},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			raw := []byte(`{"advancedFilters":[` + c.conditions + `]}`)
			_, err := Parse(raw, ParseOptions{Strict: true})
			switch {
			case c.want == nil && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != nil && err == nil:
				t.Error("accepted")
			case c.want != nil:
				if got := problems(t, err); !reflect.DeepEqual(got, c.want) {
					t.Errorf("problems\n%q, want\n%q", got, c.want)
				}
			}
			var stored Filter
			if err := json.Unmarshal(raw, &stored); err != nil && !strings.HasPrefix(c.name, "a refused") {
				t.Errorf("it cannot be read when it is stored: %v", err)
			}
		})
	}
}

func TestParseEventTypes(t *testing.T) {
	o := ParseOptions{Target: "filter", EventTypes: []string{"Contoso.A", "Contoso.B"}}
	f, err := Parse([]byte(`{"includedEventTypes":["contoso.a"]}`), o)
	if err != nil || !reflect.DeepEqual(f.IncludedEventTypes, []string{"contoso.a"}) {
		t.Errorf("a known type in other letters: %v, %v", f.IncludedEventTypes, err)
	}
	for i, in := range []string{`["Contoso.A","Contoso.C"]`, `["All","Contoso.C"]`} {
		_, err = Parse([]byte(`{"includedEventTypes":`+in+`}`), o)
		want := []string{"filter.includedEventTypes[1]",
			`includedEventTypes[1] is "Contoso.C", an event type that this topic does not raise: use "All", or some of Contoso.A, Contoso.B.`}
		if err == nil || !reflect.DeepEqual(problems(t, err), want) {
			t.Errorf("unknown type %d: %v", i, err)
		}
	}
	if f, err = Parse([]byte(`{"includedEventTypes":["all"]}`), o); err != nil || f.IncludedEventTypes != nil {
		t.Errorf("All: %v, %v", f.IncludedEventTypes, err)
	}
}

// TestParseMistypedMember: a filter in which a member is mistyped would let every
// event through.
func TestParseMistypedMember(t *testing.T) {
	_, err := Parse([]byte(`{"advancedfilters":[],"subjectBegins":"a","Include\u0064Events":[]}`), ParseOptions{Target: "properties.filter", Strict: true})
	const known = "use includedEventTypes, subjectBeginsWith, subjectEndsWith, isSubjectCaseSensitive, enableAdvancedFilteringOnArrays, advancedFilters."
	want := []string{
		"properties.filter.subjectBegins", "subjectBegins is not known here: " + known,
		"properties.filter.IncludedEvents", "IncludedEvents is not known here: " + known,
	}
	if got := problems(t, err); !reflect.DeepEqual(got, want) {
		t.Errorf("problems\n%q, want\n%q", got, want)
	}
	if _, err := Parse([]byte(`{"subjectBegins":"a"}`), ParseOptions{}); err != nil {
		t.Errorf("what is stored is read without the rule: %v", err)
	}
}
