package event

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const gridEnvelope = `"id":"1","subject":"orders/7","eventType":"Orders.Placed","eventTime":"2024-05-01T10:00:00Z"`

// TestLimits puts each limit to the test with one byte or event too few and too many.
func TestLimits(t *testing.T) {
	sized := func(size int) string { // one event of exactly size bytes
		head := `{` + gridEnvelope + `,"data":"`
		return head + strings.Repeat("x", size-len(head)-2) + `"}`
	}
	many := func(n int) string {
		return "[" + strings.Repeat(`{`+gridEnvelope+`},`, n-1) + `{` + gridEnvelope + `}]`
	}
	tests := []struct {
		name, body string
		o          DecodeOptions
		want       string // empty: accepted
		index      int
	}{
		{"event at its limit", "[" + sized(MaxEventBytes) + "]", DecodeOptions{}, "", 0},
		{"event over its limit", "[" + sized(MaxEventBytes+1) + "]", DecodeOptions{},
			"Event 0 has 1049601 bytes as compact JSON; the limit is 1049600 bytes per event. Store the payload elsewhere and publish a reference to it.", 0},
		{"space does not count", "[ " + strings.Replace(sized(300), ",", " ,\n", 1) + " ]", DecodeOptions{MaxEventBytes: 300}, "", 0},
		{"space in strings counts", "[" + strings.Replace(sized(300), "x", "  ", 1) + "]", DecodeOptions{MaxEventBytes: 300},
			"Event 0 has 301 bytes as compact JSON; the limit is 300 bytes per event. Store the payload elsewhere and publish a reference to it.", 0},
		{"second event too large", "[" + sized(200) + "," + sized(301) + "]", DecodeOptions{MaxEventBytes: 300},
			"Event 1 has 301 bytes as compact JSON; the limit is 300 bytes per event. Store the payload elsewhere and publish a reference to it.", 1},
		{"size goes before rules", "[{}," + sized(301) + "]", DecodeOptions{MaxEventBytes: 300},
			"Event 1 has 301 bytes as compact JSON; the limit is 300 bytes per event. Store the payload elsewhere and publish a reference to it.", 1},
		{"request at its limit", "[" + sized(200) + "]" + strings.Repeat(" ", MaxRequestBytes-202), DecodeOptions{}, "", 0},
		{"request over its limit", "[" + sized(200) + "]" + strings.Repeat(" ", MaxRequestBytes-201), DecodeOptions{},
			"The request body is over the limit of 1536000 bytes. Publish fewer events in one request.", -1},
		{"most events", many(MaxRequestEvents), DecodeOptions{}, "", 0},
		{"too many events", many(MaxRequestEvents + 1), DecodeOptions{},
			"The request holds 5001 events; the limit is 5000 events per request. Publish the rest in further requests.", -1},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			c.o.Topic = testTopic
			events, err := DecodeEventGrid([]byte(c.body), c.o)
			if c.want == "" {
				if err != nil || len(events) == 0 {
					t.Fatalf("refused: %v", err)
				}
				for i := range events {
					if !bytes.HasPrefix(events[i].Raw, []byte(`{"topic":"`+testTopic)) || !bytes.Contains(events[i].Raw, []byte(`,"metadataVersion":"1"`)) {
						t.Fatalf("event %d is %.300s", i, events[i].Raw)
					}
				}
				return
			}
			invalid, ok := errors.AsType[*InvalidError](err)
			if !ok || invalid.Code != PayloadTooLarge || invalid.Message != c.want || invalid.Index != c.index {
				t.Fatalf("error %+v, want %s", err, c.want)
			}
		})
	}
}

func TestLimitsOfBinaryMode(t *testing.T) {
	header := http.Header{"Content-Type": {"application/json"}, "Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}}
	o := DecodeOptions{MaxEventBytes: 100}
	if _, err := DecodeCloudEvents([]byte(`"a"`+strings.Repeat(" ", 200)), header, o); err != nil {
		t.Errorf("space behind the data counts: %v", err)
	}
	_, err := DecodeCloudEvents([]byte(`"`+strings.Repeat("a", 98)+`"`), header, o)
	if invalid, ok := errors.AsType[*InvalidError](err); !ok || invalid.Code != PayloadTooLarge {
		t.Errorf("100 bytes of data and four attributes: %v, want %s", err, PayloadTooLarge)
	}
}

// TestManyExtensions covers the second way of finding a name that appears twice.
func TestManyExtensions(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, `"x%d":%d,`, i, i)
	}
	event := `{` + b.String() + `"specversion":"1.0","type":"t","source":"s","id":"1"}`
	header := http.Header{"Content-Type": {MediaTypeCloudEvent}}
	if _, err := DecodeCloudEvents([]byte(event), header, DecodeOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := DecodeCloudEvents([]byte(strings.Replace(event, "x39", "x7", 1)), header, DecodeOptions{})
	if err == nil || err.Error() != "Event 0: property 'x7' of schema CloudEventV10 appears twice." {
		t.Errorf("error %v", err)
	}
}

// TestBlocksDoNotMove decodes events that grow, so that the room kept for them is
// too small again and again.
func TestBlocksDoNotMove(t *testing.T) {
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, `,{"id":"%d","subject":"s","eventType":"t","eventTime":"2024-05-01","data":"%s"}`, i, strings.Repeat("d", i*i/4))
	}
	events, err := DecodeEventGrid([]byte("["+b.String()[1:]+"]"), DecodeOptions{Topic: testTopic})
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if string(events[i].ID) != fmt.Sprint(i) || len(events[i].Data) != i*i/4+2 {
			t.Fatalf("event %d has id %s and %d bytes of data", i, events[i].ID, len(events[i].Data))
		}
		checkStored(t, &events[i])
	}
}

func TestParseSchema(t *testing.T) {
	for _, s := range []Schema{EventGridSchema, CloudEventSchemaV1_0, CustomEventSchema} {
		if got, err := ParseSchema(strings.ToUpper(s.String())); got != s || err != nil {
			t.Errorf("ParseSchema(%s) = %v, %v", strings.ToUpper(s.String()), got, err)
		}
	}
	if _, err := ParseSchema("CloudEventV10"); err == nil {
		t.Error("the data plane's name is taken for a schema of the management API")
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name, raw string
		schema    Schema
	}{
		{"nothing", "", EventGridSchema},
		{"array", `[{"id":"1"}]`, EventGridSchema},
		{"scalar", `1`, CloudEventSchemaV1_0},
		{"cut", `{"id":"1"`, EventGridSchema},
		{"broken data", `{"id":"1","data":{"a":tru}}`, CloudEventSchemaV1_0},
		{"attribute that is no text", `{"id":1}`, EventGridSchema},
		{"schema 0", `{"id":"1"}`, 0},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var e Event
			if err := e.Parse([]byte(c.raw), c.schema); err == nil {
				t.Errorf("Parse(%s) gives no error", c.raw)
			}
		})
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	var e Event
	dst := make([]byte, 0, 4096)
	allocs := testing.AllocsPerRun(100, func() {
		if err := e.Parse(benchmarkEvent, EventGridSchema); err != nil {
			t.Error(err)
		}
		dst = e.AppendEventGrid(dst[:0])
		dst = e.AppendCloudEvent(dst[:0], "00000000668a1f0000000000002a0001")
	})
	if allocs != 0 {
		t.Errorf("%v allocations to parse and encode an event, want 0", allocs)
	}
}

func TestSequence(t *testing.T) {
	var e Event
	if err := e.Parse([]byte(`{"topic":"/t","subject":"s","eventType":"a","eventTime":"2024-05-01","id":"1","data":{},"dataVersion":"2","metadataVersion":"1"}`), EventGridSchema); err != nil {
		t.Fatal(err)
	}
	want := `{"specversion":"1.0","type":"a","source":"/t","subject":"s","time":"2024-05-01","id":"1","dataschema":"#2","sequence":"00ff","data":{}}`
	if got := string(e.AppendCloudEvent(nil, "00ff")); got != want {
		t.Errorf("with a sequence %s, want %s", got, want)
	}
	cloud := `{"specversion":"1.0","type":"a","source":"/t","id":"1","sequence":"mine"}`
	if err := e.Parse([]byte(cloud), CloudEventSchemaV1_0); err != nil {
		t.Fatal(err)
	}
	if got := string(e.AppendCloudEvent(nil, "00ff")); got != cloud {
		t.Errorf("a published CloudEvent becomes %s", got)
	}
}

func FuzzDecodeEventGrid(f *testing.F) {
	for _, s := range []string{"[]", "[{" + gridEnvelope + `,"data":{"a":[1.0]},"dataVersion":"\u0031","topic":"` + testTopic + `"}]`, "[{" + gridEnvelope + `,"topic":"tenant-\u0061"}]`, `{"id":1,"Subject":"\"","eventTYPE":"t","eventTime":"2024-05-01"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkDecoded(t, body, func(body []byte) ([]Event, error) {
			return DecodeEventGrid(body, DecodeOptions{Topic: testTopic})
		})
		checkDecoded(t, body, func(body []byte) ([]Event, error) {
			return DecodeEventGrid(body, DecodeOptions{Topic: testDomain, Domain: true})
		})
	})
}

func FuzzDecodeCloudEvents(f *testing.F) {
	const attributes = `"specversion":"1.0","type":"t","source":"s","id":"1"`
	f.Add([]byte(`[{`+attributes+`,"data":{"a":1},"dataschema":"#2","x":1},{`+attributes+`}]`), uint8(0), false, "a%20b")
	f.Add([]byte(`{`+attributes+`,"data_base64":"aGk=","time":"2024-05-01"}`), uint8(1), false, `"q\""`)
	f.Add([]byte(`{"type":1,"id":true}`), uint8(2), true, "")
	f.Add([]byte(`{"a":[1]}`), uint8(3), true, "%e2%82%ac")
	f.Fuzz(func(t *testing.T, body []byte, mode uint8, lenient bool, value string) {
		header := http.Header{}
		switch mode % 4 {
		case 0:
			header.Set("Content-Type", MediaTypeCloudEvents)
		case 1:
			header.Set("Content-Type", MediaTypeCloudEvent+"; charset=utf-8")
		case 2:
			header.Set("Content-Type", "application/json")
		case 3:
			header.Set("Content-Type", "application/json")
			for _, name := range []string{"ce-specversion", "ce-type", "ce-source"} {
				header.Set(name, "1.0")
			}
			header.Set("ce-id", value)
			header.Set("ce-ext", value)
		}
		checkDecoded(t, body, func(body []byte) ([]Event, error) {
			return DecodeCloudEvents(body, header, DecodeOptions{Topic: testTopic, Lenient: lenient})
		})
		checkDecoded(t, body, func(body []byte) ([]Event, error) {
			return DecodeCloudEvents(body, header, DecodeOptions{Topic: testDomain, Domain: true, Lenient: lenient})
		})
	})
}

// checkDecoded decodes body and holds what must be true of every result.
func checkDecoded(t *testing.T, body []byte, decode func([]byte) ([]Event, error)) {
	t.Helper()
	scratch := bytes.Clone(body)
	events, err := decode(scratch)
	if err != nil {
		invalid, ok := errors.AsType[*InvalidError](err)
		if !ok || invalid.Code == "" || invalid.Message == "" || events != nil {
			t.Fatalf("error %#v with %d events", err, len(events))
		}
		return
	}
	if len(events) == 0 {
		t.Fatal("no events and no error")
	}
	clear(scratch)
	for i := range events {
		e := &events[i]
		checkStored(t, e)
		if e.ID == nil || e.Type == nil || e.Source == nil {
			t.Fatalf("stored without a required attribute: %s", e.Raw)
		}
		if e.Data != nil && !bytes.Contains(body, e.Data) {
			t.Fatalf("data %s is not what was published", e.Data)
		}
	}
}

// benchmarkTopic is that of benchmarkEvent.
const benchmarkTopic = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default"

func BenchmarkParse(b *testing.B) {
	var e Event
	b.SetBytes(int64(len(benchmarkEvent)))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Parse(benchmarkEvent, EventGridSchema); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseStored parses an event as it stands in the log.
func BenchmarkParseStored(b *testing.B) {
	stored, err := DecodeEventGrid(benchmarkEvent, DecodeOptions{Topic: benchmarkTopic})
	if err != nil {
		b.Fatal(err)
	}
	var e Event
	b.SetBytes(int64(len(stored[0].Raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Parse(stored[0].Raw, EventGridSchema); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeEventGrid(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			body := []byte("[" + strings.Repeat(string(benchmarkEvent)+",", n-1) + string(benchmarkEvent) + "]")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeEventGrid(body, DecodeOptions{Topic: benchmarkTopic}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendCloudEvent(b *testing.B) {
	var e Event
	if err := e.Parse(benchmarkEvent, EventGridSchema); err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.SetBytes(int64(len(benchmarkEvent)))
	b.ReportAllocs()
	for b.Loop() {
		dst = e.AppendCloudEvent(dst[:0], "00000000668a1f0000000000002a0001")
	}
}
