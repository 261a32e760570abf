package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the expected part of the golden files")

const testTopic = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.EventGrid/topics/orders"

// golden is one file of testdata: the first line names the source of the expected
// bytes, then sections follow, each headed by "-- name --".
type golden struct {
	source   string
	names    []string
	sections map[string]string
}

const testDomain = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.EventGrid/domains/shops"

func readGolden(t *testing.T, path string) *golden {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(raw), "\n")
	g := &golden{source: first, sections: map[string]string{}}
	if !strings.HasPrefix(first, "# Source: ") {
		t.Fatalf("%s: the first line does not name the source", path)
	}
	name := ""
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "-- ") && strings.HasSuffix(line, " --\n") {
			name = line[3 : len(line)-4]
			g.set(name, "")
			continue
		}
		g.sections[name] += line
	}
	return g
}

func (g *golden) set(name, text string) {
	if _, ok := g.sections[name]; !ok {
		g.names = append(g.names, name)
	}
	g.sections[name] = text
}

func (g *golden) write(t *testing.T, path string) {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(g.source + "\n")
	for _, name := range g.names {
		fmt.Fprintf(&b, "-- %s --\n%s", name, g.sections[name])
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// header reads the section "header", one field a line.
func (g *golden) header() http.Header {
	h := http.Header{}
	for line := range strings.Lines(g.sections["header"]) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		h.Add(name, value)
	}
	return h
}

// testArrival is when custom input arrives.
var testArrival = time.Date(2026, 11, 24, 13, 0, 0, 123456789, time.FixedZone("", 3600))

// mapping reads the section "mapping", the member properties of an inputSchemaMapping.
func (g *golden) mapping(t *testing.T) *Mapping {
	t.Helper()
	m := new(Mapping)
	if err := json.Unmarshal([]byte(g.sections["mapping"]), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGolden follows each request of testdata from its published bytes to the
// stored form and its delivery forms, or to its error. A case lies in a folder
// named after the schema of the topic; "-- lenient --" makes the topic lenient, "-- domain --" a domain.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(path, "testdata/"), ".txt"), func(t *testing.T) {
			g := readGolden(t, path)
			_, lenient := g.sections["lenient"]
			_, domain := g.sections["domain"]
			topic := testTopic
			if domain {
				topic = testDomain
			}
			o := DecodeOptions{Topic: topic, Domain: domain, Lenient: lenient, Received: testArrival, NewID: func() string { return "made-up-id" }}
			body := []byte(strings.TrimSuffix(g.sections["body"], "\n"))
			var events []Event
			var err error
			switch filepath.Base(filepath.Dir(path)) {
			case "eventgrid":
				events, err = DecodeEventGrid(body, o)
			case "custom":
				events, err = DecodeCustom(body, g.mapping(t), o)
			default:
				events, err = DecodeCloudEvents(body, g.header(), o)
			}
			got := &golden{source: g.source, sections: map[string]string{}}
			for _, name := range g.names {
				if name == "lenient" || name == "domain" || name == "header" || name == "mapping" || name == "body" {
					got.set(name, g.sections[name])
				}
			}
			clear(body) // the events must own their memory
			if err != nil {
				var invalid *InvalidError
				if !errors.As(err, &invalid) || events != nil {
					t.Fatalf("error %v with %d events", err, len(events))
				}
				got.set("error", fmt.Sprintf("%s, index %d\n%s\n", invalid.Code, invalid.Index, invalid.Message))
			}
			for i := range events {
				e := &events[i]
				checkStored(t, e)
				if domain {
					got.set("topics of the domain", got.sections["topics of the domain"]+string(e.DomainTopic)+"\n")
				} else if e.DomainTopic != nil {
					t.Errorf("an event of a topic names the domain topic %s", e.DomainTopic)
				}
				got.set("stored", got.sections["stored"]+string(e.Raw)+"\n")
				if e.Schema != CloudEventSchemaV1_0 {
					got.set("EventGridSchema", got.sections["EventGridSchema"]+string(e.AppendEventGrid(nil))+"\n")
				}
				if e.Schema == CustomEventSchema {
					got.set("CustomInputSchema", got.sections["CustomInputSchema"]+string(e.AppendCustom(nil))+"\n")
				}
				got.set("CloudEventSchemaV1_0", got.sections["CloudEventSchemaV1_0"]+string(e.AppendCloudEvent(nil, ""))+"\n")
			}
			if *update {
				got.write(t, path)
				return
			}
			for _, name := range got.names {
				if got.sections[name] != g.sections[name] {
					t.Errorf("%s is\n%swant\n%s", name, got.sections[name], g.sections[name])
				}
			}
			if len(got.names) != len(g.names) {
				t.Errorf("sections %q, want %q", got.names, g.names)
			}
		})
	}
}

// checkStored holds what must be true of every decoded event.
func checkStored(t *testing.T, e *Event) {
	t.Helper()
	var again Event
	if err := again.Parse(e.Raw, e.Schema); err != nil {
		t.Fatalf("the stored form %s does not parse: %v", e.Raw, err)
	}
	walked := Event{Schema: e.Schema, Raw: e.Raw}
	if err := walked.walk(e.Raw, e.Schema); err != nil || !reflect.DeepEqual(walked, again) {
		t.Errorf("parsed %+v, member by member %+v, %v", again, walked, err)
	}
	if grid := (Event{Raw: e.Raw}); e.Schema != CloudEventSchemaV1_0 && !grid.parseGrid() && bytes.IndexByte(e.Raw, '\\') < 0 {
		t.Errorf("the stored form %s is not the plain one", e.Raw)
	}
	for _, part := range []struct {
		name      string
		got, want []byte
	}{
		{"ID", again.ID, e.ID}, {"Source", again.Source, e.Source}, {"Type", again.Type, e.Type}, {"Subject", again.Subject, e.Subject},
		{"Time", again.Time, e.Time}, {"DataVersion", again.DataVersion, e.DataVersion}, {"Data", again.Data, e.Data},
	} {
		if !bytes.Equal(part.got, part.want) || (part.got == nil) != (part.want == nil) {
			t.Errorf("%s is %q when decoded and %q when parsed from %s", part.name, part.want, part.got, e.Raw)
		}
	}
	deliveries := [][]byte{e.AppendCloudEvent(nil, ""), e.AppendCloudEvent(nil, "00ff"), e.AppendEventGrid(nil)}
	if e.Schema == CustomEventSchema {
		deliveries = append(deliveries, e.AppendCustom(nil))
	}
	for _, delivery := range deliveries {
		if err := Check(delivery); err != nil {
			t.Errorf("delivery %s is not JSON: %v", delivery, err)
		}
	}
	if e.Schema != CloudEventSchemaV1_0 {
		var cloud Event
		if err := cloud.Parse(e.AppendCloudEvent(nil, ""), CloudEventSchemaV1_0); err != nil {
			t.Fatalf("the CloudEvents form of %s does not parse: %v", e.Raw, err)
		}
		if !bytes.Equal(cloud.ID, e.ID) || !bytes.Equal(cloud.Source, e.Source) || !bytes.Equal(cloud.Type, e.Type) || !bytes.Equal(cloud.Subject, e.Subject) ||
			!bytes.Equal(cloud.Time, e.Time) || !bytes.Equal(cloud.DataVersion, e.DataVersion) || !bytes.Equal(cloud.Data, e.Data) {
			t.Errorf("conversion of %s changes an attribute: %s", e.Raw, cloud.Raw)
		}
	}
}
