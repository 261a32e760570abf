package event

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestQuoteAndUnquote(t *testing.T) {
	tests := []struct{ name, text, quoted string }{
		{"empty", "", `""`},
		{"plain", "models/churn:3", `"models/churn:3"`},
		{"quote and backslash", `a"b\c`, `"a\"b\\c"`},
		{"white space", "a\nb\rc\td", `"a\nb\rc\td"`},
		{"control", "\x00\x1f\x7f", "\"\\u0000\\u001f\x7f\""},
		{"letters beyond ASCII", "né😀 <&>\u2028", "\"né😀 <&>\u2028\""},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got := AppendQuoted(nil, c.text)
			if string(got) != c.quoted {
				t.Fatalf("AppendQuoted(%q) = %s, want %s", c.text, got, c.quoted)
			}
			if back := AppendUnquoted(nil, got[1:len(got)-1]); string(back) != c.text {
				t.Errorf("AppendUnquoted(%s) = %q, want %q", got, back, c.text)
			}
		})
	}
	if got := string(AppendQuoted(nil, "a\xffb\xc3")); got != "\"a\uFFFDb\uFFFD\"" {
		t.Errorf("quoting bytes that are not UTF-8 gives %q", got)
	}
}

// FuzzUnquote compares both directions with encoding/json.
func FuzzUnquote(f *testing.F) {
	for _, s := range []string{`"a\u00e9\ud83d\ude00"`, `"\ud83d"`, `"\ud83d\n"`, `"\ud83dA"`, `"\ude00\ud83d\ude00"`, `"\"\\\/\b\f\n\r\t"`, "\"\xff\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var want string
		if KindOf(value) != String || Check(value) != nil || json.Unmarshal(value, &want) != nil {
			if quoted := AppendQuoted(nil, value); Check(quoted) != nil {
				t.Fatalf("AppendQuoted(%q) = %q, which is not JSON", value, quoted)
			}
			return
		}
		c := Walk(append(append([]byte{'['}, value...), ']'))
		if !c.Next() {
			t.Fatal(c.Err())
		}
		got := text(c.Value, c.ValueEscaped)
		if string(got) != want {
			t.Fatalf("text of %s is %q, want %q", value, got, want)
		}
		if !utf8.Valid(got) {
			t.Fatalf("text of %s is not UTF-8: %q", value, got)
		}
		var again string
		if err := json.Unmarshal(AppendQuoted(nil, got), &again); err != nil || again != want {
			t.Fatalf("quoting %q and reading it back gives %q, %v", got, again, err)
		}
	})
}
