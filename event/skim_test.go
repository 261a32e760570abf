package event

import "testing"

func TestSkim(t *testing.T) {
	for _, text := range []string{
		`"a"`, `""`, `"a\"b"`, `"\\"`, `"\\\\"`, `"\\\""`, `"\u0022\\\\\""`,
		`0`, `-1.5e+3`, `true`, `null`, `{}`, `[]`, `[1,"]",{"a":"}"}]`, `{"a\"":{"b":[[],{}]},"c":"\\"}`, `[ {"x" : [ 1 , 2 ] } ]`,
	} {
		for _, behind := range []string{"", ",1]", "}", "]", " ,", "\n}"} {
			if end := Skim(text + behind).Value(0); end != len(text) {
				t.Errorf("Value of %s ends at %d, want %d", text+behind, end, len(text))
			}
		}
	}
	for _, text := range []string{`"name":1`, `"name" : 1`, "\"name\"\t:\n1", `"na\"me":1`} {
		end, value := Skim(text).Name(0)
		if text[end] != '"' || end == 0 || text[value:] != "1" {
			t.Errorf("Name of %s ends at %d, its value begins at %d", text, end, value)
		}
	}
}

// FuzzSkim holds Skim against the checking scanner.
func FuzzSkim(f *testing.F) {
	f.Add([]byte(`{"a":[1,"\"]",{"b\\":"\\"}],"c":-1e5,"d":{}}`))
	f.Add([]byte(` [ "\\\"" , true ] `))
	f.Fuzz(func(t *testing.T, text []byte) {
		if Check(text) != nil {
			return
		}
		i := skipSpace(text, 0)
		want, _ := scanValue(text, i, 0)
		if end := Skim(text).Value(i); end != want {
			t.Fatalf("Value of %q ends at %d, want %d", text, end, want)
		}
		if KindOf(text[i:]) != Object {
			return
		}
		c := Walk(text)
		at := Skim(text).Space(i + 1)
		for c.Next() {
			end, value := Skim(text).Name(at)
			if string(text[at+1:end]) != string(c.Key) {
				t.Fatalf("in %q the name %q was read, want %q", text, text[at+1:end], c.Key)
			}
			behind := Skim(text).Value(value)
			if string(text[value:behind]) != string(c.Value) {
				t.Fatalf("in %q the value %q was read, want %q", text, text[value:behind], c.Value)
			}
			if at = Skim(text).Space(behind); text[at] == ',' {
				at = Skim(text).Space(at + 1)
			}
		}
	})
}
