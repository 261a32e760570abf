package drift

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// What is read here is what encoding/json makes of it.
func FuzzMembers(f *testing.F) {
	for _, line := range []string{
		`{}`, ` { "a" : 1 , "b":-0.5e+3,"c":true,"d":null,"e":"x y" } `, `{"a":1,"a":2}`, `{"a":01}`, `{"a":1.}`, `{"a":"\u0041"}`, `{"a":[1]}`, `{"a":{"b":1}}`,
		"{\"a\":\"\xff\"}", "{\"\xff\":1}", "{\"a\":\"\t\"}", `{"é":"ü"}`, `{"a":1}x`, `{"a":truex}`, `{"a":-}`, `{"a":1e}`, `{"a" 1}`, `{"a":1,}`, `{,}`, `null`, `[]`, `{`,
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var m members
		if !m.scan(line) {
			return
		}
		got, want := map[string]string{}, map[string]string{}
		for i, name := range m.names {
			got[name] = m.values[i]
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &object); err != nil || object == nil {
			t.Fatalf("%q is taken: %v", line, err)
		}
		for name, value := range object {
			want[name] = string(value)
			if last := m.last(name); last != string(value) {
				t.Errorf("%q: the last %q is %q, want %q", line, name, last, value)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	})
}

// Lines as programs write them need no help.
func TestMembers(t *testing.T) {
	for line, want := range map[string]bool{
		`{"amount": 1.5, "when": "2026-03-01T10:00:00Z", "ok": true, "no": null, "name": "Zoë", "n": -3e-7}`: true,
		`{"a":1,"b":2}`:    true,
		`{}`:               true,
		`{"a":"\n"}`:       false,
		`{"a":[1]}`:        false,
		"{\"a\":\"\xff\"}": false,
	} {
		var m members
		if m.scan(line) != want {
			t.Errorf("%q is read here: %v, want %v", line, !want, want)
		}
	}
}

// BenchmarkJSONL reads rows of 20 columns: 14 of numbers, 3 of whole numbers, 3 of texts.
func BenchmarkJSONL(b *testing.B) {
	const rows = 20_000
	var text strings.Builder
	r := rand.New(rand.NewPCG(1, 1))
	for range rows {
		text.WriteString("{")
		for i := range 14 {
			fmt.Fprintf(&text, "%q: %v, ", fmt.Sprint("f", i), r.NormFloat64())
		}
		for i := range 3 {
			fmt.Fprintf(&text, "%q: %d, %q: %q", fmt.Sprint("i", i), r.IntN(1000), fmt.Sprint("s", i), fmt.Sprint("value-", r.IntN(100)))
			if i < 2 {
				text.WriteString(", ")
			}
		}
		text.WriteString("}\n")
	}
	b.ReportAllocs()
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, err := Read(strings.NewReader(text.String()), int64(text.Len()), JSONL, ReadOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
