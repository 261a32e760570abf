package destination

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/carillon-events/carillon/event"
)

// fuzzedExpressions ask an event for its values in all ways that there are.
var fuzzedExpressions = []string{
	`event`, `data`, `[event, data]`, `{"event": event, "data": data, "key": key}`, `[id, type, subject, source, time, key]`,
	`data.a`, `data.a.b`, `event.data.a`, `data["a"]["b"]`, `data["a\\u0062"]`, `data[subject]`, `data[data.a]`, `event[data.key]`, `data.a.b.c`,
	`has(data.a)`, `has(data.a.b)`, `has(event.data)`, `has(event.missing)`, `"a" in data`, `"" in data`, `1 in data`, `data.a in data`, `data.a in [1.0, "x", null, data.b]`,
	`size(data)`, `size(event)`, `size(data.a)`, `data.size()`,
	`data == event`, `data == event.data`, `data.a == data.b`, `data.a != data.b`, `data.a < data.b`, `{"a": data.a} == data`, `data == {"a": data.a}`, `[data] == [event.data]`, `data in [event, data.a]`,
	`data.map(k, k)`, `data.map(k, data[k])`, `data.filter(k, k > "a")`, `data.exists(k, data[k] == data.a)`, `data.all(k, k in data)`, `data.exists_one(k, data[k] == 1.0)`, `data.a.map(x, x)`, `data.a.map(x, x.b)`, `data.a.filter(x, x != null)`,
	`data[0]`, `data.a[0]`, `data.a[0].b`, `data.a[size(data.a) - 1]`, `data.a[1.0]`, `data.a[data.b]`,
	`data.a + data.b`, `data.a + "x"`, `[data.a] + [data]`, `data.a + 1.0`, `data.a * 2.0`, `-data.a`, `!data.a`, `data.a && true`, `data.a || true`,
	`string(data.a)`, `int(data.a)`, `double(data.a)`, `uint(data.a)`, `bool(data.a)`, `string(data)`, `dyn(data)`, `type(data) == map`, `type(data.a) == type(data.b)`, `bytes(data.a)`, `timestamp(data.a)`, `type(data)`,
	`data.a == null ? "none" : data.a`, `has(data.a) ? data.a : event`, `data.a ? data.b : data`, `{data.a: data.b}`, `{"a": {1: data}}`, `{data: 1}`, `[[data.a, [data]], {"x": data.b}]`,
	`"%s %s".format([data.a, data.b])`, `"%s".format([data])`, `"%s".format([event])`, `data.a.split("")`, `data.a.upperAscii()`, `data.a.replace("a", data.b)`, `data.a.join("-")`, `data.a.matches(data.b)`, `strings.quote(data.a)`,
}

var fuzzedPrograms = sync.OnceValue(func() []*expression {
	var out []*expression
	for _, text := range fuzzedExpressions {
		e, err := compile(text)
		if err != nil {
			panic(text + ": " + err.Error())
		}
		out = append(out, e)
	}
	return out
})

// plainly is what an expression makes of variables that are all decoded.
func plainly(e *expression, vars map[string]any) (any, bool) {
	value, _, err := e.program.Eval(vars)
	if err != nil {
		return nil, false
	}
	made, err := value.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, false
	}
	raw, err := json.Marshal(made.(*structpb.Value).AsInterface())
	var out any
	return out, err == nil && json.Unmarshal(raw, &out) == nil
}

// FuzzExpressions holds expressions, which decode what they ask for, against ones whose
// variables are decoded before: of one event both make the same JSON, or nothing.
func FuzzExpressions(f *testing.F) {
	for _, data := range []string{
		`null`, `7`, `"x"`, `[]`, `{}`, `true`, `[{"a":1},{"a":2}]`, `{"a":{"b":{"c":[1,2]}},"b":2}`, `{"a":[1,"x",null,{"b":true}],"b":1}`, `{"a":[{"b":1},{"b":"y"}]}`,
		`{"a":1,"a":2}`, `{"a":{"b":1},"a":{"c":2}}`, `{"\u0061":1,"b":"\u0061"}`, `{"a\\u0062":1,"a\u0062":2}`, `{"a\u0062":1}`, `{"a":"\ud83d\ude00","b":"\ud83d"}`, `{"\ud800":1,"\ufffd":2,"a":"\ufffd"}`,
		`{"a":"\u0000\"\\\/\b","b":"ä€"}`, `{"a":1e999,"b":1}`, `{"a":12345678901234567890,"b":9007199254740993}`, `{"a":-0,"b":0}`, `{"a":1e-400,"b":0.1}`, `{"a":1.0,"b":1}`, `{"a":"1","b":1}`,
		`{"a":null,"b":null}`, `{"a":"2026-01-02T03:04:05Z"}`, `{"a":"a,b","b":"(a"}`, `{"a":["x","y"],"b":[["x"]]}`, ` { "a" : [ 1 , { "b" : 2 } ] , "b" : "<&>" } `, `{"":1,"a":""}`, `{"key":"data","a":"a","b":"key","s":{"s":1}}`,
		`{"id":"x","topic":"/t","subject":"a","metadataVersion":"1","data":{"a":1},"b":2}`, `{"topic":"","subject":"","eventType":"","eventTime":"","id":"","dataVersion":"","metadataVersion":"1","data":1,"data":2}`, `{"id":7,"data":{"a":"b"}}`,
		`{"id":"x","data":{"a":1},"\u0064ata":{"a":2}}`, `{"a":` + nested(120) + `}`,
	} {
		f.Add([]byte(data), "a")
	}
	f.Add([]byte(`{"a\"b":1,"a":2}`), `a"b`)
	f.Fuzz(func(t *testing.T, data []byte, subject string) {
		quoted, _ := json.Marshal(subject)
		grid := `[{"topic":"/t","subject":` + string(quoted) + `,"eventType":"T","eventTime":"2026-03-01T10:00:00Z","id":"e","dataVersion":"","data":` + string(data) + `}]`
		cloud := `{"specversion":"1.0","id":"e","source":"/s","type":"T","subject":` + string(quoted) + `,"ext":"x","data":` + string(data) + `}`
		all := func(events []event.Event, err error) []event.Event { return events } // none where it is refused
		for _, e := range all(event.DecodeEventGrid([]byte(grid), event.DecodeOptions{Topic: "/t"})) {
			sameAsPlain(t, e.AppendEventGrid(nil), event.EventGridSchema)
			sameAsPlain(t, e.AppendCloudEvent(nil, "7"), event.CloudEventSchemaV1_0)
		}
		for _, e := range all(event.DecodeCloudEvents([]byte(cloud), http.Header{"Content-Type": {"application/cloudevents+json"}}, event.DecodeOptions{})) {
			sameAsPlain(t, e.AppendCloudEvent(nil, ""), event.CloudEventSchemaV1_0)
		}
		mapping := &event.Mapping{Type: event.MappedAttribute{DefaultValue: "T"}, Subject: event.MappedAttribute{DefaultValue: "s"}}
		for _, e := range all(event.DecodeCustom(data, mapping, event.DecodeOptions{NewID: func() string { return "e" }})) {
			sameAsPlain(t, e.AppendCustom(nil), event.CustomEventSchema)
			sameAsPlain(t, e.AppendEventGrid(nil), event.EventGridSchema)
		}
	})
}

// ordered sorts a list.
func ordered(v any) {
	list, _ := v.([]any)
	slices.SortFunc(list, func(a, b any) int {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return bytes.Compare(x, y)
	})
}

func nested(depth int) string {
	return string(bytes.Repeat([]byte("["), depth)) + string(bytes.Repeat([]byte("]"), depth))
}

// sameAsPlain compares what all expressions make of an event as it is delivered.
func sameAsPlain(t *testing.T, raw []byte, schema event.Schema) {
	t.Helper()
	var whole map[string]any
	sound := json.Unmarshal(raw, &whole) == nil // but for numbers beyond all
	for i, e := range fuzzedPrograms() {
		f := facts{key: "k"}
		f.read(raw, schema)
		made, err := e.of(&f)
		var got any
		if err == nil {
			text, err := json.Marshal(made)
			if err != nil {
				t.Fatalf("%s of %s: %v", fuzzedExpressions[i], raw, err)
			}
			if err := json.Unmarshal(text, &got); err != nil && sound {
				t.Fatalf("%s of %s makes %s", fuzzedExpressions[i], raw, text)
			}
		}
		if !sound {
			continue
		}
		vars := map[string]any{"event": whole, "data": whole["data"]}
		for _, name := range []string{"id", "type", "subject", "source", "time", "key"} {
			vars[name] = f.text(name)
		}
		want, makes := plainly(e, vars)
		if strings.Contains(fuzzedExpressions[i], "(k, ") { // members have no order
			ordered(got)
			ordered(want)
		}
		if (err == nil) != makes || makes && !reflect.DeepEqual(got, want) {
			t.Errorf("%s of %s: %v, %v; want %v, %v", fuzzedExpressions[i], raw, got, err, want, makes)
		}
	}
}
