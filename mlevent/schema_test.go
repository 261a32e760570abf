package mlevent

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
)

// TestSchemaDescribesEvents validates true events of all types, in both
// envelopes and both casings, and finds each fault that is made in one of them.
func TestSchemaDescribesEvents(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range samples {
		for _, casing := range []Casing{CamelCase, Documented} {
			for envelope, raw := range written(t, s.payload, casing) {
				eventType := s.payload.EventType()
				t.Run(s.name+"/"+casing.String()+"/"+envelope, func(t *testing.T) {
					seen[eventType] = true
					schema := schemaOf(t, eventType)
					if err := schema.check(decode(t, raw)); err != nil {
						t.Fatalf("%v\nevent %s", err, raw)
					}
					whole := decode(t, raw).(map[string]any)
					for _, path := range [][]string{nil, {"data"}} {
						for name := range at(whole, path) {
							if name == "dataschema" || name == "driftDetected" || name == "driftDetails" { // these need not be there
								continue
							}
							broken := decode(t, raw).(map[string]any)
							delete(at(broken, path), name)
							if schema.check(broken) == nil {
								t.Errorf("valid without %v %s", path, name)
							}
							at(broken, path)[name] = []any{}
							if schema.check(broken) == nil {
								t.Errorf("valid with a list as %v %s", path, name)
							}
						}
					}
					other := schemaOf(t, AllTypes()[(slices.Index(AllTypes(), eventType)+1)%len(AllTypes())])
					if other.check(whole) == nil {
						t.Error("valid by the schema of another type")
					}
					whole["extra"], whole["data"].(map[string]any)["extra"] = true, true
					if err := schema.check(whole); err != nil {
						t.Errorf("an unknown member: %v", err)
					}
				})
			}
		}
	}
	if len(seen) != len(AllTypes()) {
		t.Errorf("samples are of %d types", len(seen))
	}
}

// written returns a payload as it is delivered, by envelope.
func written(t *testing.T, p Payload, casing Casing) map[string][]byte {
	t.Helper()
	encoded, err := Encode(Envelope{Topic: testTopic, ID: testID, Time: testTime, Casing: casing}, p)
	if err != nil {
		t.Fatal(err)
	}
	const stamp = "0000000065e6d3e20000000000000007"
	copy(encoded.Raw[encoded.ETagAt:], stamp)
	copy(encoded.Raw[encoded.SequencerAt:], stamp)
	var e event.Event
	if err := e.Parse(encoded.Raw, event.EventGridSchema); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"eventGrid": e.AppendEventGrid(nil), "cloudEvent": e.AppendCloudEvent(nil, stamp)}
}

func at(object map[string]any, path []string) map[string]any {
	for _, name := range path {
		object = object[name].(map[string]any)
	}
	return object
}

func decode(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func schemaOf(t *testing.T, eventType string) schemaDocument {
	t.Helper()
	raw, ok := Schema(eventType, "https://localhost/schemas/x.json")
	if !ok {
		t.Fatalf("%s has no schema", eventType)
	}
	root := decode(t, raw).(map[string]any)
	if root["$id"] != "https://localhost/schemas/x.json" || root["title"] != eventType {
		t.Errorf("$id %v, title %v", root["$id"], root["title"])
	}
	return schemaDocument{root}
}

// schemaDocument evaluates the keywords that the schemas use, and fails at any other.
type schemaDocument struct{ root map[string]any }

func (s schemaDocument) check(v any) error { return s.node(s.root, v, "event") }

func (s schemaDocument) node(schema map[string]any, v any, path string) error {
	object, _ := v.(map[string]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	for _, keyword := range slices.Sorted(maps.Keys(schema)) {
		rule := schema[keyword]
		var bad bool
		switch keyword {
		case "$schema", "$id", "$defs", "title", "description":
		case "$ref":
			name, ok := strings.CutPrefix(rule.(string), "#/$defs/")
			target, defined := s.root["$defs"].(map[string]any)[name].(map[string]any)
			if !ok || !defined {
				return fmt.Errorf("%s: %v leads nowhere", path, rule)
			}
			if err := s.node(target, v, path); err != nil {
				return err
			}
		case "anyOf":
			var all []string
			for _, one := range rule.([]any) {
				err := s.node(one.(map[string]any), v, path)
				if err == nil {
					all = nil
					break
				}
				all = append(all, err.Error())
			}
			if all != nil {
				return fmt.Errorf("%s is none of: %s", path, strings.Join(all, "; "))
			}
		case "type":
			names, several := rule.([]any)
			if !several {
				names = []any{rule}
			}
			bad = !slices.Contains(names, any(typeOf(v))) && !(number == float64(int64(number)) && isNumber && slices.Contains(names, any("integer")))
		case "const":
			bad = v != rule
		case "pattern":
			bad = isText && !regexp.MustCompile(rule.(string)).MatchString(text)
		case "format":
			_, err := time.Parse(time.RFC3339Nano, text)
			bad = rule != "date-time" || isText && err != nil
		case "minimum":
			bad = isNumber && number < rule.(float64)
		case "maximum":
			bad = isNumber && number > rule.(float64)
		case "required":
			for _, name := range rule.([]any) {
				if _, there := object[name.(string)]; !there {
					return fmt.Errorf("%s has no %s", path, name)
				}
			}
		case "properties":
			for name, one := range rule.(map[string]any) {
				if member, there := object[name]; there {
					if err := s.node(one.(map[string]any), member, path+"."+name); err != nil {
						return err
					}
				}
			}
		case "items":
			list, _ := v.([]any)
			for i, one := range list {
				if err := s.node(rule.(map[string]any), one, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
		case "additionalProperties":
			if _, named := schema["properties"]; named {
				return fmt.Errorf("%s: additionalProperties beside properties", path)
			}
			for name, member := range object {
				if err := s.node(rule.(map[string]any), member, path+"."+name); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("%s: keyword %s is not known", path, keyword)
		}
		if bad {
			return fmt.Errorf("%s is %v: %s is %v", path, v, keyword, rule)
		}
	}
	return nil
}

func typeOf(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case float64:
		return "number"
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case bool:
		return "boolean"
	}
	return "null"
}

// TestMembersAreThePayloads compares what is said of payloads with their structs.
func TestMembersAreThePayloads(t *testing.T) {
	for i, p := range []Payload{ModelRegistered{}, ModelDeployed{}, RunCompleted{}, RunStatusChanged{}, DatasetDriftDetected{},
		DeploymentFailed{}, ModelAliasSet{}, ModelAliasRemoved{}, ModelStageChanged{}, ModelDeleted{}, DriftCleared{}, RunNotRespondingEvent{}} {
		if AllTypes()[i] != p.EventType() || descriptions[i].eventType != p.EventType() {
			t.Errorf("%d is %s in AllTypes and %s in descriptions", i, Types()[i], descriptions[i].eventType)
		}
		want := map[string]bool{} // by name, whether it is a table
		for _, f := range reflect.VisibleFields(reflect.TypeOf(p)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				want[name] = f.Type.Kind() == reflect.Map
			}
		}
		got := map[string]bool{}
		for _, m := range Members(p.EventType()) {
			got[m.Name] = m.Table
			if m.Description == "" {
				t.Errorf("%s of %s is not described", m.Name, p.EventType())
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s has %v, the struct %v", p.EventType(), got, want)
		}
		if title, says := Describe(strings.ToUpper(p.EventType())); title == "" || says == "" {
			t.Errorf("%s is not described", p.EventType())
		}
	}
	if _, ok := Schema("Contoso.Placed", ""); ok || Members("Contoso.Placed") != nil {
		t.Error("an unknown type is described")
	}
}
