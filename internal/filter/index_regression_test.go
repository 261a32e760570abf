package filter

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestIndexRegressions keeps what fuzzing found, one named case each: filters
// that an index held many times over, in a shape that it answered wrongly, and
// events to ask it with.
func TestIndexRegressions(t *testing.T) {
	tests := []struct {
		name    string
		filters []string
		events  []string
	}{
		{"two conditions with an operand in common",
			[]string{`{"advancedFilters":[{"operatorType":"StringIn","key":"data.k","values":["a","b"]},{"operatorType":"StringIn","key":"data.k","values":["A"]}]}`},
			[]string{`{"data":{"k":"a"}}`, `{"data":{"k":"b"}}`, `{}`}},
		{"an array that leads to the same nodes with each element", // one more condition made it take 50 times as long
			[]string{`{"enableAdvancedFilteringOnArrays":true,"advancedFilters":[{"operatorType":"StringContains","key":"data.k","values":["a","abc"]},` +
				`{"operatorType":"StringBeginsWith","key":"data.k","values":["a"]},{"operatorType":"StringIn","key":"data.k","values":["ab","b"]},` +
				`{"operatorType":"StringEndsWith","key":"data.k","values":["B"]},{"operatorType":"StringContains","key":"data.k","values":["b"]},` +
				`{"operatorType":"StringNotIn","key":"data.k","values":["q"]}]}`},
			[]string{`{"data":{"k":[` + strings.Repeat(`"ab",`, 50) + `"c"]}}`, `{"data":{"k":[` + strings.Repeat(`"ab",`, 50) + `"q"]}}`}},
		{"many operands in many conditions", // the places of one entry are their product
			[]string{`{"advancedFilters":[` + strings.Repeat(`{"operatorType":"StringNotIn","key":"data.k","values":["a","b","c"]},`, 6) +
				`{"operatorType":"StringNotContains","key":"data.k","values":["d","e"]}]}`},
			[]string{`{"data":{"k":"ab"}}`, `{"data":{"k":"a"}}`, `{"data":{"k":"e"}}`, `{}`}},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) { comeAndGo(t, c.filters, c.events) })
	}
}

// TestTwinConditions gives every operator to two conditions of one filter, with
// operands that are the same, or partly so.
func TestTwinConditions(t *testing.T) {
	operands := map[Operand][]string{
		NumberValue:  {`,"value":5`, `,"value":5.0`, `,"value":6`},
		BoolValue:    {`,"value":true`, `,"value":true`, `,"value":false`},
		NumberValues: {`,"values":[5,6]`, `,"values":[6.0]`, `,"values":[5,7,5]`},
		RangeValues:  {`,"values":[[1,5],[7,9]]`, `,"values":[[7,9.0]]`, `,"values":[[5,7],[1,5]]`},
		StringValues: {`,"values":["ab","abc"]`, `,"values":["AB"]`, `,"values":["b","AB",""]`},
		NoOperand:    {``, ``, ``},
	}
	events := []string{`{}`, `{"data":{"k":null}}`, `{"data":{"k":{}}}`, `{"data":{"k":[]}}`}
	for _, v := range []string{`5`, `6`, `7`, `10`, `true`, `false`, `"ab"`, `"abc"`, `"xab"`, `"b"`, `""`, `"q"`} {
		events = append(events, `{"data":{"k":`+v+`}}`, `{"data":{"K":[`+v+`,`+v+`,"ab"]}}`)
	}
	for _, op := range Operators() {
		for _, arrays := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/arrays=%v", op, arrays), func(t *testing.T) {
				var filters []string
				for _, keys := range [][2]string{{"data.k", "data.k"}, {"data.k", "Data.K"}} {
					for _, pair := range [][2]int{{0, 0}, {0, 1}, {1, 0}, {0, 2}, {2, 1}} {
						one := func(i int) string {
							return fmt.Sprintf(`{"operatorType":%q,"key":%q%s}`, op, keys[i], operands[op.Operand()][pair[i]])
						}
						filters = append(filters, fmt.Sprintf(`{"enableAdvancedFilteringOnArrays":%v,"advancedFilters":[%s,%s]}`, arrays, one(0), one(1)))
					}
				}
				comeAndGo(t, filters, events)
			})
		}
	}
}

// comeAndGo adds each filter a dozen times, with three that want everything among
// them, takes all away again, and compares on the way.
func comeAndGo(t *testing.T, filters, events []string) {
	t.Helper()
	g := &generator{random: rand.New(rand.NewPCG(uint64(len(filters)), 9))}
	w := &world{g: g, reference: 1}
	for _, raw := range events {
		w.events = append(w.events, parseEvent(t, raw))
		w.raws = append(w.raws, raw)
		w.decoded = append(w.decoded, refDecode([]byte(raw)))
	}
	for _, raw := range append([]string{`{}`, `{"subjectBeginsWith":""}`, `{"advancedFilters":[]}`}, strings.Split(strings.Repeat(strings.Join(filters, "\n")+"\n", 12), "\n")...) {
		if raw != "" {
			f := mustParse(t, raw)
			w.population = append(w.population, &candidate{filter: f, matcher: Compile(f)})
		}
	}
	var scratch Scratch
	check := func(s state) {
		t.Helper()
		for i := range w.events {
			w.check(t, s, i, &scratch)
		}
	}
	grown := w.build(nil)
	for i, c := range w.population {
		grown = grown.with(uint64(i), c)
	}
	check(grown)
	check(w.build(grown.members))
	shrunk := grown
	for n := len(shrunk.members); n > 0; n-- {
		shrunk = shrunk.without(shrunk.members[g.choose(n)].id)
		if n%8 == 0 {
			check(shrunk)
		}
	}
	check(shrunk)
	check(grown)
}
