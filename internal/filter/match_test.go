package filter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// operandJSON is a filter's operand for each operator, and values that it hits
// and does not hit.
var operandJSON = map[Operator]struct{ operand, hit, miss, wrong string }{
	NumberIn:                  {`"values":[3,5]`, `5`, `4`, `"5"`},
	NumberNotIn:               {`"values":[3,5]`, `5`, `4`, `"5"`},
	NumberLessThan:            {`"value":5`, `4.99`, `5`, `"4"`},
	NumberGreaterThan:         {`"value":5`, `5.01`, `5`, `"6"`},
	NumberLessThanOrEquals:    {`"value":5`, `5`, `5.01`, `"4"`},
	NumberGreaterThanOrEquals: {`"value":5`, `5`, `4.99`, `"6"`},
	NumberInRange:             {`"values":[[1,2],[4,5]]`, `5`, `3`, `true`},
	NumberNotInRange:          {`"values":[[1,2],[4,5]]`, `1`, `5.5`, `true`},
	BoolEquals:                {`"value":true`, `true`, `false`, `1`},
	StringIn:                  {`"values":["ab","cd"]`, `"CD"`, `"cde"`, `7`},
	StringNotIn:               {`"values":["ab","cd"]`, `"CD"`, `"cde"`, `7`},
	StringBeginsWith:          {`"values":["ab","cd"]`, `"Cdef"`, `"xcd"`, `7`},
	StringNotBeginsWith:       {`"values":["ab","cd"]`, `"Cdef"`, `"xcd"`, `7`},
	StringEndsWith:            {`"values":["ab","cd"]`, `"efCd"`, `"cdx"`, `7`},
	StringNotEndsWith:         {`"values":["ab","cd"]`, `"efCd"`, `"cdx"`, `7`},
	StringContains:            {`"values":["ab","cd"]`, `"xCdy"`, `"c d"`, `7`},
	StringNotContains:         {`"values":["ab","cd"]`, `"xCdy"`, `"c d"`, `7`},
	IsNullOrUndefined:         {``, `5`, `"x"`, `{}`},
	IsNotNull:                 {``, `5`, `"x"`, `{}`},
}

// TestTruth is the truth overview of spec/filtering.md section 5: every operator
// in every state of its key.
func TestTruth(t *testing.T) {
	const (
		positive = iota
		notIn
		notText
		isNull
		isNotNull
	)
	column := map[Operator]int{
		NumberNotIn: notIn, StringNotIn: notIn, NumberNotInRange: notIn,
		StringNotBeginsWith: notText, StringNotEndsWith: notText, StringNotContains: notText,
		IsNullOrUndefined: isNull, IsNotNull: isNotNull,
	}
	rows := []struct {
		state  string
		data   string // %h, %m, %w: a value that hits, misses, has the wrong type
		arrays bool
		want   [5]bool
	}{
		{"no data", ``, false, [5]bool{false, true, false, true, false}},
		{"data null", `null`, false, [5]bool{false, true, false, true, false}},
		{"missing", `{"other":%h}`, false, [5]bool{false, true, false, true, false}},
		{"missing, flag on", `{"other":%h}`, true, [5]bool{false, true, false, true, false}},
		{"null", `{"k":null}`, false, [5]bool{false, true, false, true, false}},
		{"null, flag on", `{"k":null}`, true, [5]bool{false, true, false, true, false}},
		{"hit", `{"k":%h}`, false, [5]bool{true, false, false, false, true}},
		{"hit, flag on", `{"k":%h}`, true, [5]bool{true, false, false, false, true}},
		{"no hit", `{"k":%m}`, false, [5]bool{false, true, true, false, true}},
		{"no hit, flag on", `{"k":%m}`, true, [5]bool{false, true, true, false, true}},
		{"wrong type", `{"k":%w}`, false, [5]bool{false, true, true, false, true}},
		{"object", `{"k":{"k":%h}}`, false, [5]bool{false, true, true, false, true}},
		{"object, flag on", `{"k":{"k":%h}}`, true, [5]bool{false, true, true, false, true}},
		{"array, flag off, hit", `{"k":[%h]}`, false, [5]bool{false, false, false, false, true}},
		{"array, flag off, no hit", `{"k":[%m]}`, false, [5]bool{false, false, false, false, true}},
		{"array, flag off, empty", `{"k":[]}`, false, [5]bool{false, false, false, false, true}},
		{"array, flag on, last element hits", `{"k":[%m,%w,null,%h]}`, true, [5]bool{true, false, false, false, true}},
		{"array, flag on, none hits", `{"k":[%m,%m]}`, true, [5]bool{false, true, true, false, true}},
		{"array, flag on, all of other types", `{"k":[%w,null,{"k":%h}]}`, true, [5]bool{false, true, true, false, true}},
		{"array, flag on, empty", `{"k":[]}`, true, [5]bool{false, true, true, false, true}},
		{"array in array, flag on", `{"k":[[%h]]}`, true, [5]bool{false, true, true, false, true}},
	}
	for _, op := range Operators() {
		example, ok := operandJSON[op]
		if !ok {
			t.Fatalf("%s is not tested", op)
		}
		operand := example.operand
		if operand != "" {
			operand = "," + operand
		}
		for _, r := range rows {
			t.Run(op.String()+"/"+r.state, func(t *testing.T) {
				filter := fmt.Sprintf(`{"enableAdvancedFilteringOnArrays":%v,"advancedFilters":[{"operatorType":%q,"key":"data.k"%s}]}`, r.arrays, op, operand)
				raw := `{}`
				if r.data != "" {
					raw = `{"data":` + strings.NewReplacer("%h", example.hit, "%m", example.miss, "%w", example.wrong).Replace(r.data) + `}`
				}
				want := r.want[column[op]]
				if got := verdict(t, Compile(mustParse(t, filter)), parseEvent(t, raw)); got != want {
					t.Errorf("%s on %s: %v, want %v", filter, raw, got, want)
				}
			})
		}
	}
}

// one is the verdict of a single advanced filter.
func one(t *testing.T, condition string, e *event.Event) bool {
	t.Helper()
	return verdict(t, Compile(mustParse(t, `{"advancedFilters":[`+condition+`]}`)), e)
}

func TestFolding(t *testing.T) {
	tests := []struct {
		name, text, operand string
		want                bool // whether the two are equal ignoring case
	}{
		{"ASCII", "Failed", "fAILED", true},
		{"brackets are no letters", "[", "{", false},
		{"at sign and back quote", "@", "`", false},
		{"umlaut", "MÜNCHEN", "münchen", true},
		{"Cyrillic", "МОСКВА", "москва", true},
		{"Deseret, four bytes", "𐐀", "𐐨", true},
		{"no expansion of ß", "STRASSE", "straße", false},
		{"ß is itself", "straße", "STRAßE", true},
		{"capital ẞ is not ß", "ẞ", "ß", false},
		{"final and medial sigma", "ΟΔΟΣ", "οδος", true},
		{"final against medial sigma", "ς", "σ", true},
		{"Turkish dotted İ is not i", "İ", "i", false},
		{"Turkish dotless ı upper-cases to I", "ı", "i", true},
		{"long s upper-cases to S", "ſ", "s", true},
		{"micro sign and mu", "µ", "μ", true},
		{"Kelvin sign is not k", "\u212a", "k", false},
		{"title case Dž", "ǅ", "ǆ", true},
		{"ligature ﬁ stays one character", "ﬁ", "fi", false},
		{"no normalisation", "é", "e\u0301", false},
		{"no trimming", "a ", "a", false},
		{"folding that shrinks", "ıııx", "IIIX", true},
		{"folding that grows", "ⱥx", "ȺX", true},
		{"zero bytes", "a\x00B", "A\x00b", true},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			quoted := func(s string) string { return string(event.AppendQuoted(nil, s)) }
			for _, op := range []struct {
				operator, text string
			}{
				{"StringIn", c.text}, {"StringBeginsWith", c.text + "…"}, {"StringEndsWith", "…" + c.text}, {"StringContains", "…" + c.text + "…"},
			} {
				want := c.want
				if c.name == "no trimming" && op.operator != "StringIn" {
					want = op.operator != "StringEndsWith" // it is a prefix and contained
				}
				e := parseEvent(t, `{"data":`+quoted(op.text)+`}`)
				if got := one(t, fmt.Sprintf(`{"operatorType":%q,"key":"data","values":["never",%s]}`, op.operator, quoted(c.operand)), e); got != want {
					t.Errorf("%s %q on %q: %v, want %v", op.operator, c.operand, op.text, got, want)
				}
			}
		})
	}
}

// TestStringsAsWritten covers escapes on either side and the empty operand.
func TestStringsAsWritten(t *testing.T) {
	tests := []struct {
		name, condition, event string
		want                   bool
	}{
		{"escaped value", `{"operatorType":"StringIn","key":"data.k","values":["a/b"]}`, `{"data":{"k":"\u0061\/B"}}`, true},
		{"escaped operand", `{"operatorType":"StringIn","key":"data.k","values":["\u0061\/b"]}`, `{"data":{"k":"a/b"}}`, true},
		{"escaped member name", `{"operatorType":"StringIn","key":"data.k","values":["x"]}`, `{"data":{"\u006b":"x"}}`, true},
		{"escaped key", `{"operatorType":"StringIn","key":"data.\u006b","values":["x"]}`, `{"data":{"k":"x"}}`, true},
		{"surrogate pair", `{"operatorType":"StringContains","key":"data.k","values":["😀"]}`, `{"data":{"k":"a\ud83d\ude00b"}}`, true},
		{"value longer than the buffers", `{"operatorType":"StringContains","key":"data.k","values":["needle"]}`,
			`{"data":{"k":"` + strings.Repeat(`\n`, 400) + strings.Repeat("x", 400) + `NEEDLE"}}`, true},
		{"empty operand equals the empty string", `{"operatorType":"StringIn","key":"data.k","values":[""]}`, `{"data":{"k":""}}`, true},
		{"empty operand equals nothing else", `{"operatorType":"StringIn","key":"data.k","values":[""]}`, `{"data":{"k":"x"}}`, false},
		{"everything contains the empty operand", `{"operatorType":"StringContains","key":"data.k","values":[""]}`, `{"data":{"k":"x"}}`, true},
		{"bare data with an escape", `{"operatorType":"StringIn","key":"data","values":["ab"]}`, `{"data":"\u0061b"}`, true},
		{"an escaped attribute", `{"operatorType":"StringBeginsWith","key":"subject","values":["models/"]}`, `{"subject":"\u006dodels/a"}`, true},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if got := one(t, c.condition, parseEvent(t, c.event)); got != c.want {
				t.Errorf("%s on %s: %v, want %v", c.condition, c.event, got, c.want)
			}
		})
	}
}

func TestSubjectAndTypes(t *testing.T) {
	tests := []struct {
		name, filter, event string
		want                bool
	}{
		{"type ignoring case", `{"includedEventTypes":["Contoso.Done"]}`, `{"eventType":"contoso.DONE"}`, true},
		{"second type", `{"includedEventTypes":["a","b"]}`, `{"eventType":"b"}`, true},
		{"no type", `{"includedEventTypes":["a"]}`, `{}`, false},
		{"All among others", `{"includedEventTypes":["a","all"]}`, `{"eventType":"b"}`, true},
		{"subject begins, other letters", `{"subjectBeginsWith":"ΜΟΔΕΛ"}`, `{"subject":"μοδελs"}`, true},
		{"subject ends, other letters", `{"subjectEndsWith":"É"}`, `{"subject":"caf\u00e9"}`, true},
		{"subject ends case-sensitive miss", `{"subjectEndsWith":"É","isSubjectCaseSensitive":true}`, `{"subject":"café"}`, false},
		{"subject shorter than the prefix", `{"subjectBeginsWith":"models/"}`, `{"subject":"mod"}`, false},
		{"subject shorter than the suffix", `{"subjectEndsWith":"models/"}`, `{"subject":"ls/"}`, false},
		{"prefix and suffix may overlap", `{"subjectBeginsWith":"aba","subjectEndsWith":"ba"}`, `{"subject":"aba"}`, true},
		{"case-sensitive subject leaves conditions alone",
			`{"isSubjectCaseSensitive":true,"advancedFilters":[{"operatorType":"StringIn","key":"subject","values":["ABC"]}]}`, `{"subject":"abc"}`, true},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(t, Compile(mustParse(t, c.filter)), parseEvent(t, c.event)); got != c.want {
				t.Errorf("%s on %s: %v, want %v", c.filter, c.event, got, c.want)
			}
		})
	}
}

// TestAllAmongTypes covers filters that the program made itself.
func TestAllAmongTypes(t *testing.T) {
	e := parseEvent(t, `{"eventType":"b"}`)
	if !verdict(t, Compile(&Filter{IncludedEventTypes: []string{"a", "All"}}), e) {
		t.Error("All among the types does not match every type")
	}
	if !verdict(t, Compile(&Filter{IncludedEventTypes: []string{}}), e) {
		t.Error("an empty list of types does not match every type")
	}
}

func TestKeys(t *testing.T) {
	const (
		grid   = event.EventGridSchema
		cloud  = event.CloudEventSchemaV1_0
		custom = event.CustomEventSchema
	)
	const (
		gridEvent  = `{"id":"i","topic":"/t","subject":"s","eventType":"y","eventTime":"2026-01-01T00:00:00Z","dataVersion":"2","metadataVersion":"1","data":{"a":{"b":"x"}}}`
		cloudEvent = `{"specversion":"1.0","id":"i","source":"/t","subject":"s","type":"y","time":"2026-01-01T00:00:00Z","dataschema":"#2","n":5,"z":-0,"f":1.5,"e":5e0,"t":true,"data":{"a":{"b":"x"}}}`
		mapped     = `{"id":"i","topic":"/t","subject":"s","eventType":"y","eventTime":"2026-01-01T00:00:00Z","dataVersion":"","data":{"kind":"raw","id":"inner","data":{"deep":"d"},"n":5,"k":null}}`
	)
	tests := []struct {
		name   string
		schema event.Schema
		event  string
		key    string
		want   string // text that the key finds; "-" = missing or null, "?" = a value that is no text
	}{
		{"grid id", grid, gridEvent, "id", "i"},
		{"grid ID", grid, gridEvent, "ID", "i"},
		{"grid eventid", grid, gridEvent, "EventId", "i"},
		{"grid topic", grid, gridEvent, "Topic", "/t"},
		{"grid source", grid, gridEvent, "source", "/t"},
		{"grid type", grid, gridEvent, "type", "y"},
		{"grid time", grid, gridEvent, "time", "2026-01-01T00:00:00Z"},
		{"grid eventTypeVersion", grid, gridEvent, "eventtypeversion", "2"},
		{"grid metadataVersion", grid, gridEvent, "metadataversion", "1"},
		{"grid specversion", grid, gridEvent, "specversion", "-"},
		{"grid data is an object", grid, gridEvent, "data", "?"},
		{"grid nested", grid, gridEvent, "data.a.b", "x"},
		{"grid nested, other letters", grid, gridEvent, "DATA.A.B", "x"},
		{"attribute has no members", grid, gridEvent, "subject.s", "-"},
		{"alias has no members", grid, gridEvent, "source.s", "-"},
		{"data need not be named", grid, gridEvent, "a.b", "-"},
		{"no array index", grid, `{"data":{"a":["x"]}}`, "data.a.0", "-"},
		{"no bracket index", grid, `{"data":{"a":["x"]}}`, "data.a[0]", "-"},
		{"empty segment names the empty member", grid, `{"data":{"":{"k":"x"}}}`, "data..k", "x"},
		{"space is not trimmed", grid, `{"data":{"k":"x"}}`, "data. k", "-"},
		{"exact before other letters", grid, `{"data":{"K":"upper","k":"lower"}}`, "data.k", "lower"},
		{"first of two in other letters", grid, `{"data":{"KEY":"first","Key":"second"}}`, "data.key", "first"},
		{"first of two in the same letters", grid, `{"data":{"k":"first","k":"second"}}`, "data.k", "first"},
		{"exact one does not give way", grid, `{"data":{"K":{"x":"upper"},"k":"text"}}`, "data.k.x", "-"},
		{"null member is null", grid, `{"data":{"k":null,"K":"x"}}`, "data.k", "-"},
		{"other letters in Greek", grid, `{"data":{"ΣΤΑΔΙΟ":"x"}}`, "data.στάδιο", "-"},
		{"other letters in Cyrillic", grid, `{"data":{"СТАДИЯ":"x"}}`, "data.стадия", "x"},
		{"text data has no members", grid, `{"data":"text"}`, "data.k", "-"},
		{"bare text data", grid, `{"data":"text"}`, "Data", "text"},
		{"space around tokens", grid, ` { "data" : { "a" : { "b" : "x" } } } `, "data.a.b", "x"},

		{"cloud source", cloud, cloudEvent, "source", "/t"},
		{"cloud Topic", cloud, cloudEvent, "Topic", "/t"},
		{"cloud eventType", cloud, cloudEvent, "eventType", "y"},
		{"cloud eventTime", cloud, cloudEvent, "eventTime", "2026-01-01T00:00:00Z"},
		{"cloud DataVersion drops the fragment sign", cloud, cloudEvent, "DataVersion", "2"},
		{"cloud dataschema keeps it", cloud, cloudEvent, "dataschema", "#2"},
		{"cloud specversion", cloud, cloudEvent, "SpecVersion", "1.0"},
		{"cloud integer attribute", cloud, cloudEvent, "n", "5"},
		{"cloud minus zero", cloud, cloudEvent, "z", "0"},
		{"cloud fraction is no attribute type", cloud, cloudEvent, "f", "?"},
		{"cloud exponent is no integer", cloud, cloudEvent, "e", "?"},
		{"cloud boolean attribute", cloud, cloudEvent, "T", "true"},
		{"attribute wins over alias", cloud, `{"specversion":"1.0","source":"/t","topic":"mine"}`, "topic", "mine"},
		{"null attribute leaves it to the alias", cloud, `{"specversion":"1.0","source":"/t","topic":null}`, "topic", "/t"},
		{"number data is no attribute", cloud, `{"specversion":"1.0","data":5}`, "data", "?"},
		{"number data in other letters is no attribute", cloud, `{"specversion":"1.0","data":5}`, "Data", "?"},
		{"numbers in data are no text", cloud, `{"specversion":"1.0","data":{"n":5}}`, "data.n", "?"},
		{"grid numbers are no text", grid, `{"extra":5}`, "extra", "?"},

		{"custom mapped attribute first", custom, mapped, "id", "i"},
		{"custom alias before the object", custom, mapped, "type", "y"},
		{"custom data is the object", custom, mapped, "data.kind", "raw"},
		{"custom root key", custom, mapped, "kind", "raw"},
		{"custom root key, other letters", custom, mapped, "KIND", "raw"},
		{"custom member called data", custom, mapped, "data.deep", "d"},
		{"custom numbers are no text", custom, mapped, "n", "?"},
		{"custom null", custom, mapped, "data.k", "-"},
		{"custom missing", custom, mapped, "data.none", "-"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			e := parseEventAs(t, c.event, c.schema)
			key := string(event.AppendQuoted(nil, c.key))
			there := one(t, `{"operatorType":"IsNotNull","key":`+key+`}`, e)
			if there != (c.want != "-") {
				t.Fatalf("%s is not null: %v", c.key, there)
			}
			isText := one(t, `{"operatorType":"StringContains","key":`+key+`,"values":[""]}`, e)
			if isText != (c.want != "-" && c.want != "?") {
				t.Fatalf("%s is a text: %v", c.key, isText)
			}
			if isText && !one(t, `{"operatorType":"StringIn","key":`+key+`,"values":[`+string(event.AppendQuoted(nil, c.want))+`]}`, e) {
				t.Errorf("%s is not %q", c.key, c.want)
			}
		})
	}
}

// TestCloudAttributeTypes shows that number and boolean operators see the
// attributes of a CloudEvent as what they are.
func TestCloudAttributeTypes(t *testing.T) {
	e := parseEvent(t, `{"specversion":"1.0","n":5,"b":false}`)
	for _, condition := range []string{
		`{"operatorType":"NumberIn","key":"n","values":[5]}`,
		`{"operatorType":"StringNotIn","key":"n","values":["6"]}`,
		`{"operatorType":"BoolEquals","key":"b","value":false}`,
		`{"operatorType":"StringIn","key":"b","values":["FALSE"]}`,
	} {
		if !one(t, condition, e) {
			t.Errorf("%s does not match", condition)
		}
	}
	if one(t, `{"operatorType":"StringNotIn","key":"n","values":["5"]}`, e) {
		t.Error("StringNotIn does not see the integer's text")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	m := Compile(mustParse(t, `{"includedEventTypes":["Microsoft.MachineLearningServices.RunCompleted"],"subjectBeginsWith":"models/","advancedFilters":[
		{"operatorType":"StringContains","key":"data.a.b","values":["É"]},
		{"operatorType":"StringContains","key":"data.text","values":["NEEDLE"]},
		{"operatorType":"StringNotIn","key":"data.escaped","values":["y"]},
		{"operatorType":"StringBeginsWith","key":"Source","values":["/sub"]},
		{"operatorType":"NumberInRange","key":"data.n","values":[[1,2.5]]},
		{"operatorType":"IsNotNull","key":"data.\u006cist"}]}`))
	x := NewIndex([]Entry{{ID: 7, Matcher: m}})
	e := parseEvent(t, `{"eventType":"microsoft.machinelearningservices.runcompleted","subject":"MODELS/x","topic":"/SUB/1","data":{"text":"`+strings.Repeat("hay ", 50)+`needle","a":{"b":"caf\u00e9"},"escaped":"\n","n":2.50,"list":[]}}`)
	var s Scratch
	var ids []uint64
	if allocs := testing.AllocsPerRun(100, func() { ids = x.Match(e, &s) }); allocs != 0 || len(ids) != 1 {
		t.Errorf("%v allocations, matches %v", allocs, ids)
	}
}
