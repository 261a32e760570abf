package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkCases are texts on both sides of every rule of the grammar.
var checkCases = []struct {
	name   string
	text   string
	reason string // empty: valid
	offset int
}{
	{"empty", "", "the text ends where a value is expected", 0},
	{"only space", " \n", "the text ends where a value is expected", 2},
	{"null", "null", "", 0},
	{"null cut", "nul", "the text ends where 'null' is expected", 3},
	{"true in space", "\t true\r\n", "", 0},
	{"misspelled", "trve", "'v' stands where 'true' is expected", 2},
	{"capital", "True", "'T' stands where a value is expected", 0},
	{"two texts", "1 2", "'2' stands where the end of the text is expected", 2},
	{"zero", "0", "", 0},
	{"minus zero", "-0", "", 0},
	{"leading zero", "01", "'1' stands where the end of the text is expected", 1},
	{"minus alone", "-", "the text ends where a digit is expected", 1},
	{"plus", "+1", "'+' stands where a value is expected", 0},
	{"fraction", "1.50", "", 0},
	{"fraction without digits", "1.", "the text ends where a digit is expected", 2},
	{"fraction without integer", ".5", "'.' stands where a value is expected", 0},
	{"exponent", "1e+09", "", 0},
	{"exponent without digits", "1E-", "the text ends where a digit is expected", 3},
	{"huge integer", "123456789012345678901234567890", "", 0},
	{"string", `"plain text that is longer than eight bytes"`, "", 0},
	{"string cut", `"abc`, "the text ends inside a string", 4},
	{"string cut after backslash", `"abc\`, "the text ends inside a string", 5},
	{"escapes", `"\"\\\/\b\f\n\r\t\u00e9"`, "", 0},
	{"unknown escape", `"\x"`, `'x' stands where one of "\/bfnrtu after a backslash is expected`, 2},
	{"short unicode escape", `"\u12"`, `'"' stands where a hexadecimal digit is expected`, 5},
	{"surrogate pair", `"\ud83d\ude00"`, "", 0},
	{"lone surrogate", `"\ud83d"`, "", 0},
	{"newline in string", "\"a\nb\"", "control character U+000A must be escaped in a string", 2},
	{"unit separator late in string", "\"0123456789\x1f\"", "control character U+001F must be escaped in a string", 11},
	{"delete is plain", "\"\x7f\"", "", 0},
	{"two byte letters", `"éééééééé"`, "", 0},
	{"astral letters", `"😀"`, "", 0},
	{"not UTF-8", "\"abc\xff\"", "byte 0xFF is not UTF-8", 4},
	{"cut UTF-8", "\"\xc3\"", "byte 0xC3 is not UTF-8", 1},
	{"overlong UTF-8", "\"\xc0\xaf\"", "byte 0xC0 is not UTF-8", 1},
	{"surrogate in UTF-8", "\"\xed\xa0\x80\"", "byte 0xED is not UTF-8", 1},
	{"not UTF-8 outside a string", "\xff", "'�' stands where a value is expected", 0},
	{"byte order mark", "\uFEFF1", `'\ufeff' stands where a value is expected`, 0},
	{"empty object", "{}", "", 0},
	{"empty array", "[ ]", "", 0},
	{"object", `{"a":1,"b":[true,false,null]}`, "", 0},
	{"duplicate names inside a text", `{"a":1,"a":2}`, "", 0},
	{"trailing comma in object", `{"a":1,}`, "'}' stands where a property name is expected", 7},
	{"trailing comma in array", `[1,]`, "']' stands where a value is expected", 3},
	{"missing colon", `{"a" 1}`, "'1' stands where ':' is expected", 5},
	{"missing comma", `[1 2]`, "'2' stands where ',' or ']' is expected", 3},
	{"name not a string", `{a:1}`, "'a' stands where a property name is expected", 1},
	{"wrong closer", `[1}`, "'}' stands where ',' or ']' is expected", 2},
	{"object cut", `{"a":1`, "the text ends where ',' or '}' is expected", 6},
	{"comment", "/**/1", "'/' stands where a value is expected", 0},
	{"single quotes", `'a'`, `'\'' stands where a value is expected`, 0},
	{"vertical tab is no space", "\v1", `'\v' stands where a value is expected`, 0},
	{"deepest", strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), "", 0},
	{"too deep", strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), "objects and arrays nest deeper than 128", MaxDepth},
	{"too deep in objects", strings.Repeat(`{"a":`, MaxDepth+1), "objects and arrays nest deeper than 128", 5 * MaxDepth},
}

func TestCheck(t *testing.T) {
	for _, c := range checkCases {
		t.Run(c.name, func(t *testing.T) {
			err := Check([]byte(c.text))
			if c.reason == "" {
				if err != nil {
					t.Fatalf("Check(%q) = %v, want nil", c.text, err)
				}
				return
			}
			se, ok := err.(*SyntaxError)
			if !ok || se.Reason != c.reason || se.Offset != c.offset {
				t.Fatalf("Check(%q) = %v, want %s at byte %d", c.text, err, c.reason, c.offset)
			}
		})
	}
}

// TestCheckAtEveryAlignment puts each interesting byte at each distance from the
// ends of a string, so that the eight-byte loop and its tail agree.
func TestCheckAtEveryAlignment(t *testing.T) {
	for _, piece := range []string{`\n`, `\u0041`, "é", "\x01", "\xff", `\q`, "x", "\x7f", "~"} {
		for before := range 18 {
			for after := range 18 {
				text := `{"k":"` + strings.Repeat("a", before) + piece + strings.Repeat("b", after) + `"}`
				want := json.Valid([]byte(text)) && utf8.ValidString(text)
				if got := Check([]byte(text)) == nil; got != want {
					t.Fatalf("Check(%q) is %v, want %v", text, got, want)
				}
			}
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, c := range checkCases {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		want := json.Valid(text) && utf8.Valid(text) && depth(text) <= MaxDepth
		if got := Check(text); (got == nil) != want {
			t.Fatalf("Check(%q) = %v, want valid %v", text, got, want)
		}
		if !want || len(bytes.TrimSpace(text)) == 0 {
			return
		}
		c := Walk(text)
		n := 0
		for c.Next() {
			n++
			if !json.Valid(c.Value) || bytes.TrimSpace(c.Value)[0] != c.Value[0] {
				t.Fatalf("value %q of %q", c.Value, text)
			}
		}
		switch first := bytes.TrimLeft(text, " \t\r\n")[0]; first {
		case '[':
			var all []json.RawMessage
			if err := json.Unmarshal(text, &all); err != nil || len(all) != n || c.Err() != nil {
				t.Fatalf("walked %d elements of %q (%v), want %d", n, text, c.Err(), len(all))
			}
		case '{':
			if c.Err() != nil {
				t.Fatalf("walk over %q: %v", text, c.Err())
			}
		default:
			if c.Err() == nil {
				t.Fatalf("walk over the scalar %q gives no error", text)
			}
		}
	})
}

// depth is the nesting of a valid text, counted without the scanner.
func depth(text []byte) int {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	open, deepest := 0, 0
	for {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		if delim, ok := token.(json.Delim); ok {
			if delim == '{' || delim == '[' {
				open++
				deepest = max(deepest, open)
			} else {
				open--
			}
		}
	}
}

func TestWalk(t *testing.T) {
	type step struct {
		key        string
		keyEscaped bool
		value      string
		escaped    bool
		kind       Kind
	}
	tests := []struct {
		name, text string
		want       []step
		err        string
	}{
		{"every kind", ` { "n" : null , "f":false,"t":true,"d":-1.5e3,"s":"x","a":[1, 2],"o":{"p": {}} } `, []step{
			{"n", false, "null", false, Null}, {"f", false, "false", false, False}, {"t", false, "true", false, True},
			{"d", false, "-1.5e3", false, Number}, {"s", false, `"x"`, false, String}, {"a", false, "[1, 2]", false, Array},
			{"o", false, `{"p": {}}`, false, Object}}, ""},
		{"escapes", `{"\u0061":"\n"}`, []step{{`\u0061`, true, `"\n"`, true, String}}, ""},
		{"array", `[1,"a",[]]`, []step{{"", false, "1", false, Number}, {"", false, `"a"`, false, String}, {"", false, "[]", false, Array}}, ""},
		{"empty object", `{}`, nil, ""},
		{"scalar", `12`, nil, "'1' stands where an object or an array is expected at byte 0"},
		{"nothing", ``, nil, "the text ends where an object or an array is expected at byte 0"},
		{"broken after a member", `{"a":1,"b"}`, []step{{"a", false, "1", false, Number}}, "'}' stands where ':' is expected at byte 10"},
		{"more behind", `[1] x`, []step{{"", false, "1", false, Number}}, "'x' stands where the end of the text is expected at byte 4"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var got []step
			w := Walk([]byte(c.text))
			for w.Next() {
				got = append(got, step{string(w.Key), w.KeyEscaped, string(w.Value), w.ValueEscaped, w.Kind})
			}
			if len(got) != len(c.want) {
				t.Fatalf("steps %+v, want %+v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("step %d is %+v, want %+v", i, got[i], c.want[i])
				}
			}
			message := ""
			if err := w.Err(); err != nil {
				message = err.Error()
			}
			if message != c.err {
				t.Errorf("error %q, want %q", message, c.err)
			}
			if w.Next() {
				t.Error("Next is true after the end")
			}
		})
	}
}

func TestWalkDoesNotAllocate(t *testing.T) {
	data := []byte(`{"modelTags":{"stage":"prod","n":[1,2,3]},"x":1}`)
	allocs := testing.AllocsPerRun(100, func() {
		c := Walk(data)
		for c.Next() {
			if c.Kind != Object {
				continue
			}
			inner := Walk(c.Value)
			for inner.Next() {
				if string(inner.Key) == "absent" {
					t.Error("found what is not there")
				}
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per walk, want 0", allocs)
	}
}

// benchmarkEvent is an event of about 1 KiB such as a training pipeline publishes.
var benchmarkEvent = []byte(`{"topic":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default",` +
	`"subject":"experiments/7d1c3f4e-90ab-4cde-8f01-23456789abcd/runs/churn_1709_a1","eventType":"Microsoft.MachineLearningServices.RunCompleted",` +
	`"eventTime":"2026-03-05T08:15:30.1234567Z","id":"0b0f4a52-2c53-4c0e-9d1b-6f4f6a0f1c01","data":{"experimentId":"7d1c3f4e-90ab-4cde-8f01-23456789abcd",` +
	`"experimentName":"churn-train","runId":"churn_1709_a1","runType":"azureml.scriptrun","runTags":{"owner":"kim","stage":"candidate"},` +
	`"runProperties":{"iteration":"5","azureml.runsource":"azureml.PipelineRun","ContentSnapshotId":"11112222-3333-4444-5555-666677778888",` +
	`"azureml.git.repository_uri":"https://git.example.com/ml/churn.git","mlflow.source.git.commit":"4f5a9a3c7d1e0b2c4f5a9a3c7d1e0b2c4f5a9a3c",` +
	`"score":0.9134,"epochs":40,"lossByEpoch":[0.61,0.44,0.37,0.33,0.312],"early":false},` +
	`"etag":"00000000668a1f0000000000002a0000","sequencer":"00000000668a1f0000000000002a0001"},"dataVersion":"2","metadataVersion":"1"}`)

func BenchmarkScan(b *testing.B) {
	b.SetBytes(int64(len(benchmarkEvent)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(benchmarkEvent); err != nil {
			b.Fatal(err)
		}
	}
}
