package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

var everythingMapped = Mapping{
	ID: MappedAttribute{SourceField: "trackingId"}, Time: MappedAttribute{SourceField: "at"}, Type: MappedAttribute{SourceField: "kind"},
	Subject: MappedAttribute{SourceField: "path"}, DataVersion: MappedAttribute{SourceField: "version", DefaultValue: "1"},
}

const customObject = `{"trackingId":"1","at":"2024-05-01T10:00:00Z","kind":"Orders.Placed","path":"orders/7","items":[{"id":"x","n":2},{"id":"y","n":1}],"total":12.50}`

// TestCustomFillsIn shows what an object gets that has neither id nor time, from a
// caller that sets neither option.
func TestCustomFillsIn(t *testing.T) {
	events, err := DecodeCustom([]byte(`[{"kind":"a","path":"b"},{"kind":"a","path":"b"}]`), &everythingMapped, DecodeOptions{Topic: testTopic})
	if err != nil {
		t.Fatal(err)
	}
	if len(events[0].ID) != 36 || bytes.Equal(events[0].ID, events[1].ID) {
		t.Errorf("ids %s and %s, want two UUIDs", events[0].ID, events[1].ID)
	}
	if !bytes.Equal(events[0].Time, events[1].Time) || !isTime(events[0].Time) {
		t.Errorf("times %s and %s, want one time of arrival", events[0].Time, events[1].Time)
	}
}

// TestCustomLimits: what counts is what was published, not what the envelope adds.
func TestCustomLimits(t *testing.T) {
	sized := func(size int) string {
		head := `{"kind":"a","path":"b","note":"`
		return head + strings.Repeat("x", size-len(head)-2) + `"}`
	}
	nested := func(depth int) string {
		return `{"kind":"a","path":"b","deep":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
	}
	many := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"kind":"a","path":"b"},`, n), ",") + "]"
	}
	tests := []struct {
		name, body, code string
	}{
		{"event at its limit", "[" + sized(MaxEventBytes) + "]", ""},
		{"event over its limit", "[" + sized(MaxEventBytes+1) + "]", PayloadTooLarge},
		{"most events", many(MaxRequestEvents), ""},
		{"too many events", many(MaxRequestEvents + 1), PayloadTooLarge},
		{"deepest object", nested(MaxDepth - 1), ""},
		{"deepest object in an array", "[" + nested(MaxDepth-1) + "]", ""},
		{"object too deep for its envelope", nested(MaxDepth), InputJSONInvalid},
		{"long values in every attribute", strings.ReplaceAll(customObject, "orders/7", strings.Repeat("é", 1<<18)), ""},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			events, err := DecodeCustom([]byte(c.body), &everythingMapped, DecodeOptions{Topic: testTopic})
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				for i := range events[:min(len(events), 3)] {
					checkStored(t, &events[i])
				}
				return
			}
			if invalid, ok := errors.AsType[*InvalidError](err); !ok || invalid.Code != c.code {
				t.Fatalf("error %v, want %s", err, c.code)
			}
		})
	}
}

// FuzzDecodeCustom compares what the mapping finds with what encoding/json finds.
func FuzzDecodeCustom(f *testing.F) {
	f.Add([]byte(customObject), "kind", "path", "none")
	f.Add([]byte(`[{"a":{"b":1,"c":null}},{"a.b":true,"a":{"c":"x"}}]`), "a.b", "a.c", "")
	f.Add([]byte(`[{"k\u00efnd":"\ud800","p":" "}]`), "kïnd", "p", `"`)
	f.Add([]byte(`{"":-0.0e1,"a":{"":{"":"x"}}}`), "", "a..", "d")
	f.Fuzz(func(t *testing.T, body []byte, typeField, subjectField, subjectDefault string) {
		m := Mapping{
			ID: MappedAttribute{SourceField: subjectField}, Type: MappedAttribute{SourceField: typeField, DefaultValue: "t"},
			Subject: MappedAttribute{SourceField: subjectField, DefaultValue: strings.ToValidUTF8(subjectDefault, "")},
		}
		o := DecodeOptions{Topic: testTopic, Received: testArrival, NewID: func() string { return "new" }}
		var events []Event
		checkDecoded(t, body, func(body []byte) (_ []Event, err error) {
			events, err = DecodeCustom(body, &m, o)
			return events, err
		})
		for i := range events {
			e := &events[i]
			for _, c := range []struct {
				name, field, fallback string
				got                   []byte
			}{
				{"type", typeField, m.Type.DefaultValue, e.Type}, {"subject", subjectField, m.Subject.DefaultValue, e.Subject}, {"id", subjectField, "new", e.ID},
			} {
				if want := plainlyMapped(t, e.Data, c.field, c.fallback); string(c.got) != want {
					t.Errorf("%s of %s by %q is %q, want %q", c.name, e.Data, c.field, c.got, want)
				}
			}
		}
	})
}

// plainlyMapped is the text at a field of an object, or the default.
func plainlyMapped(t *testing.T, object []byte, field, fallback string) string {
	t.Helper()
	find := func(object []byte, name string) json.RawMessage {
		var members map[string]json.RawMessage
		if bytes.HasPrefix(object, []byte("{")) && json.Unmarshal(object, &members) != nil {
			t.Fatalf("%s is stored and not JSON", object)
		}
		return members[name]
	}
	if field == "" {
		return fallback
	}
	raw := find(object, field)
	if raw == nil || string(raw) == "null" {
		raw = object
		for name := range strings.SplitSeq(field, ".") {
			raw = find(raw, name)
		}
	}
	text := string(raw)
	if strings.HasPrefix(text, `"`) && json.Unmarshal(raw, &text) != nil {
		t.Fatalf("%s is not a string", raw)
	}
	if text == "null" && raw[0] == 'n' || strings.TrimSpace(text) == "" {
		return fallback
	}
	return text
}

func BenchmarkDecodeCustom(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			body := []byte("[" + strings.Repeat(customObject+",", n-1) + customObject + "]")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeCustom(body, &everythingMapped, DecodeOptions{Topic: testTopic}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
