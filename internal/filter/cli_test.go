package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
)

func TestParseCLI(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string // JSON, or the error's message
	}{
		{"strings", []string{"data.color", "stringin", "blue", "red"}, `{"operatorType":"StringIn","key":"data.color","values":["blue","red"]}`},
		{"the guide's own line", []string{"data.ModelTags.key1", "StringIn", "('value1')"}, `{"operatorType":"StringIn","key":"data.ModelTags.key1","values":["value1"]}`},
		{"its quotes taken by the shell", []string{"data.ModelTags.key1", "StringIn", "(value1)"}, `{"operatorType":"StringIn","key":"data.ModelTags.key1","values":["value1"]}`},
		{"its parentheses taken by the shell", []string{"data.ModelTags.key1", "StringIn", `"value1"`}, `{"operatorType":"StringIn","key":"data.ModelTags.key1","values":["value1"]}`},
		{"quotes keep parentheses", []string{"k", "StringIn", "'(beta)'"}, `{"operatorType":"StringIn","key":"k","values":["(beta)"]}`},
		{"its parentheses taken by PowerShell", []string{"data.ModelTags.key1", "StringIn", "value1"}, `{"operatorType":"StringIn","key":"data.ModelTags.key1","values":["value1"]}`},
		{"double quotes in parentheses", []string{"data.ModelTags.key1", "StringIn", `("value1")`}, `{"operatorType":"StringIn","key":"data.ModelTags.key1","values":["value1"]}`},
		{"a list as one word", []string{"k", "StringIn", "('a','b, c' , \"d\")"}, `{"operatorType":"StringIn","key":"k","values":["a","b, c","d"]}`},
		{"a list as one word without parentheses", []string{"k", "StringIn", "'a','b'"}, `{"operatorType":"StringIn","key":"k","values":["a","b"]}`},
		{"a list parted at blanks, as cmd does", []string{"k", "StringIn", "('a", "b',", "'c')"}, `{"operatorType":"StringIn","key":"k","values":["a b","c"]}`},
		{"a list parted at blanks, its quotes taken by the shell", []string{"k", "StringIn", "(a,", "b,", "c)"}, `{"operatorType":"StringIn","key":"k","values":["a","b","c"]}`},
		{"numbers in parentheses", []string{"k", "NumberIn", "(1,", "-2)"}, `{"operatorType":"NumberIn","key":"k","values":[1,-2]}`},
		{"a value each in parentheses", []string{"k", "StringIn", "(a)", "('b')"}, `{"operatorType":"StringIn","key":"k","values":["a","b"]}`},
		{"a comma and blanks in one value", []string{"k", "StringIn", "Hello, world", "(x, y)"}, `{"operatorType":"StringIn","key":"k","values":["Hello, world","x, y"]}`},
		{"a value that would pass for a flag", []string{"k", "StringIn", "'--name'"}, `{"operatorType":"StringIn","key":"k","values":["--name"]}`},
		{"an empty value", []string{"k", "StringIn", ""}, `{"operatorType":"StringIn","key":"k","values":[""]}`},
		{"an empty value in quotes", []string{"k", "StringIn", "('')"}, `{"operatorType":"StringIn","key":"k","values":[""]}`},
		{"range in parentheses", []string{"k", "NumberInRange", "(-1,-0.5)"}, `{"operatorType":"NumberInRange","key":"k","values":[[-1,-0.5]]}`},
		{"boolean in parentheses", []string{"k", "BoolEquals", "('true')"}, `{"operatorType":"BoolEquals","key":"k","value":true}`},
		{"a quote within stays", []string{"k", "StringIn", "it's", "'"}, `{"operatorType":"StringIn","key":"k","values":["it's","'"]}`},
		{"text with a comma and escapes", []string{"k", "StringContains", "a,b\"\n"}, `{"operatorType":"StringContains","key":"k","values":["a,b\"\n"]}`},
		{"comparison", []string{"data.n", "NumberGreaterThan", "0.40"}, `{"operatorType":"NumberGreaterThan","key":"data.n","value":0.40}`},
		{"numbers as people type them", []string{"k", "NUMBERIN", "+5", ".5", "-.5", "-1e3", " 7 ", "(8)"}, `{"operatorType":"NumberIn","key":"k","values":[5,0.5,-0.5,-1e3,7,8]}`},
		{"ranges", []string{"data.score", "NumberInRange", "0.1,0.2", ".8, 1"}, `{"operatorType":"NumberInRange","key":"data.score","values":[[0.1,0.2],[0.8,1]]}`},
		{"ranges as JSON has them", []string{"data.score", "NumberInRange", "[0.1,0.2]", "[-2, -1]"}, `{"operatorType":"NumberInRange","key":"data.score","values":[[0.1,0.2],[-2,-1]]}`},
		{"false is false", []string{"k", "BoolEquals", "False"}, `{"operatorType":"BoolEquals","key":"k","value":false}`},
		{"true", []string{"k", "boolequals", "TRUE"}, `{"operatorType":"BoolEquals","key":"k","value":true}`},
		{"null operator", []string{"k", "isnotnull"}, `{"operatorType":"IsNotNull","key":"k"}`},

		{"nothing", nil, "--advanced-filter needs KEY OPERATOR VALUE…. For example: --advanced-filter data.runStatus StringIn Failed."},
		{"key alone", []string{"k"}, `--advanced-filter needs KEY OPERATOR VALUE…, found "k" only. For example: --advanced-filter data.runStatus StringIn Failed.`},
		{"empty key", []string{"", "IsNotNull"}, "--advanced-filter: the key is empty; name an attribute or a path such as data.runStatus."},
		{"unknown operator", []string{"k", "Equals", "x"}, `--advanced-filter k: operator "Equals" is not known: use one of ` + all19 + "."},
		{"value for a null operator", []string{"k", "IsNotNull", "x"}, `--advanced-filter k IsNotNull: takes no value, 1 given: leave out "x".`},
		{"two values for one", []string{"k", "NumberLessThan", "1", "2"}, `--advanced-filter k NumberLessThan: takes one value, 2 given: leave out all but one of "1 2".`},
		{"no boolean", []string{"k", "BoolEquals"}, "--advanced-filter k BoolEquals: needs a value: write true or false behind the operator."},
		{"no strings", []string{"k", "StringIn"}, "--advanced-filter k StringIn: needs a value: write strings behind the operator."},
		{"not a boolean", []string{"k", "BoolEquals", "yes"}, `--advanced-filter k BoolEquals: "yes" is neither true nor false: write one of them.`},
		{"not a number", []string{"k", "NumberIn", "0x10"}, `--advanced-filter k NumberIn: "0x10" is not a number; write it like 5, -0.25 or 1e3.`},
		{"two signs", []string{"k", "NumberIn", "--5"}, `--advanced-filter k NumberIn: "--5" is not a number; write it like 5, -0.25 or 1e3.`},
		{"range without comma", []string{"k", "NumberInRange", "1-2"}, `--advanced-filter k NumberInRange: "1-2" is not a range; write two numbers as low,high, for example 0.1,0.2.`},
		{"range of three", []string{"k", "NumberInRange", "1,2,3"}, `--advanced-filter k NumberInRange: "1,2,3" is not a range; write two numbers as low,high, for example 0.1,0.2.`},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			raw, err := ParseCLI(c.args)
			if err != nil {
				if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.Invalid || f.Message != c.want {
					t.Errorf("error %v, want %s", err, c.want)
				}
				return
			}
			if string(raw) != c.want {
				t.Fatalf("got %s, want %s", raw, c.want)
			}
			if _, err := Parse([]byte(fmt.Sprintf(`{"advancedFilters":[%s]}`, raw)), ParseOptions{}); err != nil {
				t.Errorf("the server refuses it: %v", err)
			}
		})
	}
}

// FuzzParseCLI reads any words: no panic, a refusal is an Invalid fault, and what is
// accepted is a filter to the server, the limits aside.
func FuzzParseCLI(f *testing.F) {
	for _, line := range []string{"k|StringIn|('a',|'b')", "k|NumberIn|(1,|-.5)", "k|NumberInRange|(1,2)|3,4", "k|BoolEquals|(true)", "(k)|isnotnull", "k|StringIn|(|)|'|\"", "k|NumberIn|+", "|", "k|StringIn|''"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		raw, err := ParseCLI(strings.Split(line, "|"))
		if err == nil {
			_, err = Parse(fmt.Appendf(nil, `{"advancedFilters":[%s]}`, raw), ParseOptions{})
		}
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatalf("%q: %v", line, err)
		}
		if err == nil && !json.Valid(raw) {
			t.Fatalf("%q became %s", line, raw)
		}
	})
}
