package filter

import (
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// TestCorners holds corner cases of spec/filtering.md sections 4 and 5 against the
// matcher, the index, Explain and the reference evaluator.
func TestCorners(t *testing.T) {
	const (
		grid   = event.EventGridSchema
		cloud  = event.CloudEventSchemaV1_0
		custom = event.CustomEventSchema
	)
	on := func(operator, key, rest string) string {
		return `{"operatorType":"` + operator + `","key":"` + key + `"` + rest + `}`
	}
	filter := func(conditions ...string) string {
		return `{"advancedFilters":[` + strings.Join(conditions, ",") + `]}`
	}
	inArrays := func(conditions ...string) string {
		return `{"enableAdvancedFilteringOnArrays":true,"advancedFilters":[` + strings.Join(conditions, ",") + `]}`
	}
	const (
		bare   = `{"specversion":"1.0","id":"i","source":"/t","type":"y"}` // a CloudEvent with what it must have
		mapped = `{"id":"outer","topic":"/t","subject":"s","eventType":"y","eventTime":"2026-01-01T00:00:00Z","dataVersion":"","metadataVersion":"1","data":` +
			`{"id":"inner","topic":"inner","subject":"inner","eventType":"inner","type":"inner","dataVersion":"inner","specversion":"inner","data":{"k":"d"},"null":null}}`
		partly = `{"subject":"s","eventType":"y","data":{"id":"inner","topic":"inner","source":"other","eventTime":"inner"}}` // attributes left unmapped
	)
	tests := []struct {
		name   string
		schema event.Schema
		filter string
		event  string
		want   bool
	}{
		// Aliases.
		{"alias of an absent attribute is missing", grid, filter(on("IsNullOrUndefined", "source", "")), `{"id":"i"}`, true},
		{"alias in any letters", grid, filter(on("StringIn", "eVeNtId", `,"values":["I"]`)), `{"id":"i"}`, true},
		{"alias folds by single characters", grid, filter(on("StringIn", "ıd", `,"values":["i"]`)), `{"id":"i"}`, true},
		{"Kelvin sign is no k in a key", grid, filter(on("IsNotNull", "data.\u212aey", "")), `{"data":{"key":1}}`, false},
		{"long s is an s in a key", grid, filter(on("StringIn", "ſubject", `,"values":["s"]`)), `{"subject":"s"}`, true},
		{"alias with a dot behind it is a path", grid, filter(on("IsNullOrUndefined", "eventid.", "")), `{"id":"i"}`, true},
		{"dataschema is no alias on a grid event", grid, filter(on("IsNullOrUndefined", "dataschema", "")), `{"dataVersion":"2"}`, true},
		{"eventTypeVersion of a CloudEvent", cloud, filter(on("StringIn", "eventTypeVersion", `,"values":["2"]`)), `{"specversion":"1.0","dataschema":"#2"}`, true},
		{"only one fragment sign is dropped", cloud, filter(on("StringIn", "dataVersion", `,"values":["#2"]`)), `{"specversion":"1.0","dataschema":"##2"}`, true},
		{"extension called eventtype wins over the alias", cloud, filter(on("StringIn", "eventType", `,"values":["y"]`)), `{"specversion":"1.0","type":"y","eventtype":"mine"}`, false},
		{"extension wins in its own type", cloud, filter(on("NumberIn", "EventTime", `,"values":[7]`)), `{"specversion":"1.0","time":"t","eventtime":7}`, true},
		{"null extension leaves it to the alias", cloud, filter(on("StringIn", "eventid", `,"values":["i"]`)), `{"specversion":"1.0","id":"i","eventid":null}`, true},
		{"data of a CloudEvent holds no alias", cloud, filter(on("IsNullOrUndefined", "data.eventid", "")), `{"specversion":"1.0","id":"i","data":{}}`, true},

		// Null and missing.
		{"null data is null", grid, filter(on("IsNullOrUndefined", "data", "")), `{"data":null}`, true},
		{"a member of null data is missing", grid, filter(on("NumberNotInRange", "data.k", `,"values":[[1,2]]`)), `{"data":null}`, true},
		{"null extension for a NotIn", cloud, filter(on("StringNotIn", "ext", `,"values":["x"]`)), `{"specversion":"1.0","ext":null}`, true},
		{"null extension for a NotContains", cloud, filter(on("StringNotContains", "ext", `,"values":["x"]`)), `{"specversion":"1.0","ext":null}`, false},
		{"a path through a null is missing", grid, filter(on("StringNotBeginsWith", "data.a.b", `,"values":["x"]`)), `{"data":{"a":null}}`, false},
		{"a path through a boolean is missing", grid, filter(on("NumberNotIn", "data.a.b", `,"values":[1]`)), `{"data":{"a":true}}`, true},
		{"a path through an array is missing, flag on", grid, inArrays(on("StringNotEndsWith", "data.a.b", `,"values":["x"]`)), `{"data":{"a":[{"b":"y"}]}}`, false},
		{"an exact null hides another spelling", grid, filter(on("IsNullOrUndefined", "data.k", "")), `{"data":{"K":"x","k":null}}`, true},
		{"a null spelled otherwise hides what follows", grid, filter(on("IsNullOrUndefined", "data.key", "")), `{"data":{"KEY":null,"Key":"x"}}`, true},
		{"an empty object is a value", grid, filter(on("IsNullOrUndefined", "data.k", "")), `{"data":{"k":{}}}`, false},
		{"an array of nulls is a value", grid, inArrays(on("IsNotNull", "data.k", "")), `{"data":{"k":[null]}}`, true},
		{"nulls in an array are passed over by NotContains", grid, inArrays(on("StringNotContains", "data.k", `,"values":["x"]`)), `{"data":{"k":[null]}}`, true},

		// Arrays in arrays, and several values that hit.
		{"an inner array is passed over", grid, inArrays(on("NumberIn", "data.k", `,"values":[5]`)), `{"data":{"k":[[5],4]}}`, false},
		{"an element beside an inner array", grid, inArrays(on("NumberIn", "data.k", `,"values":[5]`)), `{"data":{"k":[[4],5]}}`, true},
		{"a negative operator does not look into an inner array", grid, inArrays(on("NumberNotIn", "data.k", `,"values":[5]`)), `{"data":{"k":[[[5]]]}}`, true},
		{"an object in an array is passed over", grid, inArrays(on("StringNotIn", "data.k", `,"values":["x"]`)), `{"data":{"k":[{"k":"x"}]}}`, true},
		{"several elements hit several values", grid, inArrays(on("StringBeginsWith", "data.k", `,"values":["a","ab"]`)), `{"data":{"k":["ab","abc","a"]}}`, true},
		{"two conditions hit by different elements", grid, inArrays(on("NumberLessThan", "data.k", `,"value":2`), on("NumberGreaterThan", "data.k", `,"value":8`)), `{"data":{"k":[1,9]}}`, true},
		{"bare array data", grid, inArrays(on("StringIn", "data", `,"values":["b"]`)), `{"data":["a","B"]}`, true},
		{"bare array data, flag off", grid, filter(on("StringNotIn", "data", `,"values":["z"]`)), `{"data":["a"]}`, false},
		{"an integer in an array of a CloudEvent is no text", cloud, inArrays(on("StringIn", "data", `,"values":["5"]`)), `{"specversion":"1.0","data":[5]}`, false},

		// Exact decimals.
		{"a tenth is not its binary neighbour", grid, filter(on("NumberIn", "data.k", `,"values":[0.1]`)), `{"data":{"k":0.1000000000000000055511151231257827}}`, false},
		{"beyond 2^53 by one", grid, filter(on("NumberGreaterThan", "data.k", `,"value":9007199254740992`)), `{"data":{"k":9007199254740993}}`, true},
		{"high end of a range in another spelling", grid, filter(on("NumberInRange", "data.k", `,"values":[[0.2,50e-2]]`)), `{"data":{"k":0.500}}`, true},
		{"just above the high end", grid, filter(on("NumberInRange", "data.k", `,"values":[[0.2,0.5]]`)), `{"data":{"k":0.50000000000000000000000000000000000001}}`, false},
		{"just below the low end", grid, filter(on("NumberNotInRange", "data.k", `,"values":[[-5,-5]]`)), `{"data":{"k":-5.0000000000000000000000000000000000001}}`, true},
		{"minus zero is zero", grid, filter(on("NumberNotIn", "data.k", `,"values":[-0.0e5]`)), `{"data":{"k":0}}`, false},
		{"zero is not below minus zero", grid, filter(on("NumberLessThan", "data.k", `,"value":-0`)), `{"data":{"k":0E+7}}`, false},
		{"beyond the range of a float", grid, filter(on("NumberIn", "data.k", `,"values":[1e400]`)), `{"data":{"k":10e399}}`, true},
		{"two numbers that a float calls infinite", grid, filter(on("NumberIn", "data.k", `,"values":[1e400]`)), `{"data":{"k":1e401}}`, false},
		{"two numbers that a float calls zero", grid, filter(on("NumberGreaterThan", "data.k", `,"value":1e-401`)), `{"data":{"k":1e-400}}`, true},
		{"an exponent beyond every filter", grid, filter(on("NumberGreaterThan", "data.k", `,"value":9.9e999999999`)), `{"data":{"k":1e99999999999999999999}}`, true},
		{"a negative one beyond every filter", grid, filter(on("NumberLessThanOrEquals", "data.k", `,"value":-9.9e999999999`)), `{"data":{"k":-1e99999999999999999999}}`, true},

		// The empty operand.
		{"empty begins a text", grid, filter(on("StringBeginsWith", "data.k", `,"values":[""]`)), `{"data":{"k":"x"}}`, true},
		{"empty begins the empty text", grid, filter(on("StringBeginsWith", "data.k", `,"values":[""]`)), `{"data":{"k":""}}`, true},
		{"empty ends a text", grid, filter(on("StringEndsWith", "data.k", `,"values":["q",""]`)), `{"data":{"k":"x"}}`, true},
		{"the empty text contains empty", grid, filter(on("StringContains", "data.k", `,"values":[""]`)), `{"data":{"k":""}}`, true},
		{"empty begins no number", grid, filter(on("StringBeginsWith", "data.k", `,"values":[""]`)), `{"data":{"k":5}}`, false},
		{"empty begins nothing missing", grid, filter(on("StringBeginsWith", "data.k", `,"values":[""]`)), `{"data":{}}`, false},
		{"no text is without empty", grid, filter(on("StringNotContains", "data.k", `,"values":[""]`)), `{"data":{"k":"x"}}`, false},
		{"no text begins otherwise than empty", grid, filter(on("StringNotBeginsWith", "data.k", `,"values":["q",""]`)), `{"data":{"k":""}}`, false},
		{"a number ends otherwise than empty", grid, filter(on("StringNotEndsWith", "data.k", `,"values":[""]`)), `{"data":{"k":5}}`, true},
		{"the empty text is among empty", grid, filter(on("StringNotIn", "data.k", `,"values":[""]`)), `{"data":{"k":""}}`, false},
		{"empty begins an element", grid, inArrays(on("StringBeginsWith", "data.k", `,"values":[""]`)), `{"data":{"k":[5,"x"]}}`, true},
		{"empty begins no element of an empty array", grid, inArrays(on("StringBeginsWith", "data.k", `,"values":[""]`)), `{"data":{"k":[]}}`, false},
		{"empty begins an integer attribute", cloud, filter(on("StringBeginsWith", "ext", `,"values":[""]`)), `{"specversion":"1.0","ext":5}`, true},

		// The subject.
		{"case-sensitive, the same letters", grid, `{"subjectBeginsWith":"Ü/","isSubjectCaseSensitive":true}`, `{"subject":"Ü/x"}`, true},
		{"case-sensitive, other letters", grid, `{"subjectBeginsWith":"Ü/","isSubjectCaseSensitive":true}`, `{"subject":"ü/x"}`, false},
		{"case-sensitive, written with an escape", grid, `{"subjectEndsWith":"ü","isSubjectCaseSensitive":true}`, `{"subject":"x\u00fc"}`, true},
		{"case-sensitive, dotless i", grid, `{"subjectEndsWith":"I","isSubjectCaseSensitive":true}`, `{"subject":"xı"}`, false},
		{"ignoring case, dotless i, which shrinks", grid, `{"subjectEndsWith":"AIB"}`, `{"subject":"xaıb"}`, true},
		{"ignoring case, ⱥ, which shrinks the other way", grid, `{"subjectBeginsWith":"ⱥⱥ/","subjectEndsWith":"/ⱥ"}`, `{"subject":"ȺȺ/Ⱥ"}`, true},
		{"ignoring case, no expansion", grid, `{"subjectBeginsWith":"strasse"}`, `{"subject":"straße"}`, false},
		{"a suffix does not begin within a character", grid, `{"subjectEndsWith":"\ufffd"}`, `{"subject":"é"}`, false},
		{"a lone surrogate reads as U+FFFD", grid, `{"subjectEndsWith":"\ufffd"}`, `{"subject":"x\ud800"}`, true},
		{"a CloudEvent without subject, prefix", cloud, `{"subjectBeginsWith":"m"}`, bare, false},
		{"a CloudEvent without subject, suffix", cloud, `{"subjectEndsWith":"m","isSubjectCaseSensitive":true}`, bare, false},
		{"a CloudEvent without subject, empty tests", cloud, `{"subjectBeginsWith":"","subjectEndsWith":""}`, bare, true},
		{"a CloudEvent without subject, NotIn", cloud, filter(on("StringNotIn", "subject", `,"values":["m"]`)), bare, true},
		{"a CloudEvent without subject, NotBeginsWith", cloud, filter(on("StringNotBeginsWith", "Subject", `,"values":["m"]`)), bare, false},
		{"a CloudEvent without subject is undefined there", cloud, filter(on("IsNullOrUndefined", "subject", "")), bare, true},
		{"an empty subject is a value", grid, filter(on("IsNotNull", "subject", "")), `{"subject":""}`, true},

		// Custom input whose members are named like attributes.
		{"mapped attribute before the member", custom, filter(on("StringIn", "id", `,"values":["outer"]`)), mapped, true},
		{"mapped attribute in other letters", custom, filter(on("StringIn", "ID", `,"values":["inner"]`)), mapped, false},
		{"alias of a mapped attribute before the member", custom, filter(on("StringIn", "type", `,"values":["y"]`)), mapped, true},
		{"an empty mapped attribute is there", custom, filter(on("StringIn", "dataVersion", `,"values":[""]`)), mapped, true},
		{"the member by its path in data", custom, filter(on("StringIn", "data.id", `,"values":["inner"]`)), mapped, true},
		{"a member that no attribute is named like", custom, filter(on("StringIn", "specversion", `,"values":["inner"]`)), mapped, true},
		{"the member data of the object", custom, filter(on("StringIn", "data.k", `,"values":["d"]`)), mapped, true},
		{"a null member", custom, filter(on("IsNullOrUndefined", "null", "")), mapped, true},
		{"an unmapped attribute leaves it to the member", custom, filter(on("StringIn", "id", `,"values":["inner"]`)), partly, true},
		{"a member of that name before one of the alias", custom, filter(on("StringIn", "source", `,"values":["other"]`)), partly, true},
		{"no alias among members", custom, filter(on("IsNullOrUndefined", "time", "")), partly, true},
		{"included types look at the mapped type", custom, `{"includedEventTypes":["inner"]}`, mapped, false},
		{"subject tests look at the mapped subject", custom, `{"subjectBeginsWith":"inner"}`, mapped, false},
		{"grid members of data need their path", grid, filter(on("IsNotNull", "specversion", "")), mapped, false},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			f := mustParse(t, c.filter)
			e := parseEventAs(t, c.event, c.schema)
			if got := verdict(t, Compile(f), e); got != c.want {
				t.Errorf("%s on %s: %v, want %v", c.filter, c.event, got, c.want)
			}
			if got := refMatch(f, refDecode([]byte(c.event)), c.schema); got != c.want {
				t.Errorf("%s on %s: the reference says %v, want %v", c.filter, c.event, got, c.want)
			}
		})
	}
}
