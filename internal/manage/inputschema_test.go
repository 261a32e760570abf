package manage

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
)

func mapped(field, fallback string) event.MappedAttribute {
	return event.MappedAttribute{SourceField: field, DefaultValue: fallback}
}

// customMapping is a mapping that nothing is wrong with.
var customMapping = event.Mapping{ID: mapped("trackingId", ""), Type: mapped("kind", "unknown"), Subject: mapped("", "none")}

func TestInputSchemaMapping(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	f.topic(t, "grid", "")
	here := Tracked{Location: "local"}
	put := func(name string, c TopicChange) error {
		c.Tracked.Location = "local"
		_, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+name), c, Precondition{})
		return err
	}
	if err := put("custom", TopicChange{InputSchema: "customeventschema", Mapping: &customMapping}); err != nil {
		t.Fatal(err)
	}
	const prefix = "properties.inputSchemaMapping"
	other := customMapping
	other.ID.SourceField = "anotherId"
	custom := func(m event.Mapping) TopicChange {
		return TopicChange{InputSchema: "CustomEventSchema", Mapping: &m}
	}
	patch := func(name string, c TopicChange) error {
		c.Tracked = here
		_, err := f.PatchTopic(ctx, f.owner, id(topicsPrefix+name), c, Precondition{})
		return err
	}
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"no mapping", put("fresh", TopicChange{InputSchema: "CustomEventSchema"}),
			prefix + ": The input schema CustomEventSchema needs an inputSchemaMapping that gives eventType and subject each a sourceField, a defaultValue or both."},
		{"mapping without the schema", put("fresh", TopicChange{Mapping: &customMapping}),
			prefix + ": An inputSchemaMapping goes with the input schema CustomEventSchema, this one is EventGridSchema. Leave the mapping out, or use that schema."},
		{"mapping with another schema", put("fresh", TopicChange{InputSchema: "CloudEventSchemaV1_0", Mapping: &customMapping}),
			prefix + ": An inputSchemaMapping goes with the input schema CustomEventSchema, this one is CloudEventSchemaV1_0. Leave the mapping out, or use that schema."},
		{"nothing that is needed, and no location", func() error {
			_, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+"fresh"), custom(event.Mapping{DataVersion: mapped("v", "1")}), Precondition{})
			return err
		}(), "location: The location property is required for this definition.\n" +
			prefix + ".properties.eventType: Every event has eventType: give it a sourceField, a defaultValue or both.\n" +
			prefix + ".properties.subject: Every event has subject: give it a sourceField, a defaultValue or both."},
		{"defaults where none can be", put("fresh", custom(event.Mapping{ID: mapped("a", "x"), Topic: mapped("", "x"), Time: mapped("b", "2026-01-01"), Type: mapped("c", ""), Subject: mapped("d", "")})),
			prefix + ".properties.id.defaultValue: id can have no defaultValue, only eventType, subject and dataVersion can. Leave it out: an event without id gets one.\n" +
				prefix + ".properties.topic.defaultValue: topic can have no defaultValue, only eventType, subject and dataVersion can. Leave it out: an event without topic gets one.\n" +
				prefix + ".properties.eventTime.defaultValue: eventTime can have no defaultValue, only eventType, subject and dataVersion can. Leave it out: an event without eventTime gets one."},
		{"blank and long", put("fresh", custom(event.Mapping{Type: mapped("c", " "), Subject: mapped(strings.Repeat("ä", 513), strings.Repeat("ä", 513)), DataVersion: mapped(strings.Repeat("ä", 512), "")})),
			prefix + ".properties.eventType.defaultValue: The defaultValue of eventType is blank. Give it a text, or leave it out.\n" +
				prefix + ".properties.subject.sourceField: The sourceField of subject has 513 characters; at most 512 are allowed.\n" +
				prefix + ".properties.subject.defaultValue: The defaultValue of subject has 513 characters; at most 512 are allowed."},
		{"what could not be read is not missed as well", put("fresh", TopicChange{InputSchema: "CustomEventSchema", Mapping: &event.Mapping{},
			Tracked: Tracked{Problems: []*fault.Error{fault.Field(prefix+".properties.subject.sourceField", "It must be a string.")}}}),
			prefix + ".properties.subject.sourceField: It must be a string."},
		{"another mapping", put("custom", custom(other)),
			prefix + ": The inputSchemaMapping of topic 'custom' cannot be changed. Send the one that it has, leave it out, or make another topic."},
		{"another mapping, schema left out", put("custom", TopicChange{Mapping: &other}),
			prefix + ": The inputSchemaMapping of topic 'custom' cannot be changed. Send the one that it has, leave it out, or make another topic."},
		{"another mapping by PATCH", patch("custom", TopicChange{Mapping: &other}),
			prefix + ": The inputSchemaMapping of topic 'custom' cannot be changed. Send the one that it has, leave it out, or make another topic."},
		{"another schema", put("custom", TopicChange{InputSchema: "EventGridSchema"}),
			"properties.inputSchema: The input schema of topic 'custom' is CustomEventSchema and cannot be changed to EventGridSchema. Make another topic, or delete this one first."},
		{"another schema by PATCH", patch("custom", TopicChange{InputSchema: "CloudEventSchemaV1_0"}),
			"properties.inputSchema: The input schema of topic 'custom' is CustomEventSchema and cannot be changed to CloudEventSchemaV1_0. Make another topic, or delete this one first."},
		{"custom input for a topic that has another", put("grid", custom(customMapping)),
			"properties.inputSchema: The input schema of topic 'grid' is EventGridSchema and cannot be changed to CustomEventSchema. Make another topic, or delete this one first.\n" +
				prefix + ": The topic 'grid' has the input schema EventGridSchema and takes no inputSchemaMapping. Leave it out, or make one of CustomEventSchema."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !fault.Is(tt.err, fault.Invalid) || problems(tt.err) != tt.want {
				t.Errorf("%v\ngot  %s\nwant %s", fault.KindOf(tt.err), problems(tt.err), tt.want)
			}
		})
	}
	for name, err := range map[string]error{
		"the same":               put("custom", custom(customMapping)),
		"both left out":          put("custom", TopicChange{}),
		"schema alone":           put("custom", TopicChange{InputSchema: "CUSTOMEVENTSCHEMA"}),
		"mapping alone by PATCH": patch("custom", TopicChange{Mapping: &customMapping}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	item, err := f.Topic(ctx, f.owner, id(topicsPrefix+"custom"))
	if err != nil || item.Value.InputSchema != event.CustomEventSchema || item.Value.Mapping == nil || *item.Value.Mapping != customMapping {
		t.Errorf("kept %+v, %v", item.Value, err)
	}
	if _, err := f.Topic(ctx, f.owner, id(topicsPrefix+"fresh")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a refused request left a topic: %v", err)
	}
}

// TestDeliverySchemas is the table of spec/delivery.md section 2.3.
func TestDeliverySchemas(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	f.topic(t, "grid", "EventGridSchema")
	f.topic(t, "cloud", "CloudEventSchemaV1_0")
	if _, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+"custom"), TopicChange{Tracked: Tracked{Location: "local"}, InputSchema: "CustomEventSchema", Mapping: &customMapping}, Precondition{}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		topic string
		want  map[string]event.Schema // by the word that is asked for; 0 = refused
	}{
		{"grid", map[string]event.Schema{"": event.EventGridSchema, "EventGridSchema": event.EventGridSchema, "CloudEventSchemaV1_0": event.CloudEventSchemaV1_0, "CustomInputSchema": 0}},
		{"cloud", map[string]event.Schema{"": event.CloudEventSchemaV1_0, "EventGridSchema": 0, "CloudEventSchemaV1_0": event.CloudEventSchemaV1_0, "CustomInputSchema": 0}},
		{"custom", map[string]event.Schema{"": event.EventGridSchema, "EventGridSchema": event.EventGridSchema, "CloudEventSchemaV1_0": event.CloudEventSchemaV1_0,
			"custominputschema": event.CustomEventSchema, "CustomEventSchema": 0}},
	}
	for _, tt := range tests {
		for word, want := range tt.want {
			t.Run(tt.topic+" to "+word, func(t *testing.T) {
				c := hook("https://h.example/in")
				c.DeliverySchema = &word
				es, err := f.PutEventSubscription(ctx, f.owner, id(topicsPrefix+tt.topic+extension+"es1"), c, Precondition{})
				if want == 0 {
					if got := problems(err); !fault.Is(err, fault.Invalid) || !strings.HasPrefix(got, "properties.eventDeliverySchema: ") {
						t.Errorf("error %s", got)
					}
				} else if err != nil || es.Value.DeliverySchema != want {
					t.Errorf("delivers %s, %v, want %s", es.Value.DeliverySchema, err, want)
				}
			})
		}
	}
}

// TestExplainCustomInput judges an object that is not in the log as its topic would
// log it.
func TestExplainCustomInput(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	if _, err := f.PutTopic(ctx, f.owner, id(topicsPrefix+"custom"), TopicChange{Tracked: Tracked{Location: "local"}, InputSchema: "CustomEventSchema", Mapping: &customMapping}, Precondition{}); err != nil {
		t.Fatal(err)
	}
	c := hook("https://h.example/in")
	c.Filter = json.RawMessage(`{"includedEventTypes":["Orders.Placed"],"advancedFilters":[{"operatorType":"NumberGreaterThan","key":"total","value":10}]}`)
	es := id(topicsPrefix + "custom" + extension + "es1")
	if _, err := f.PutEventSubscription(ctx, f.owner, es, c, Precondition{}); err != nil {
		t.Fatal(err)
	}
	for object, want := range map[string]bool{
		`{"kind":"Orders.Placed","total":12}`: true, `{"kind":"Orders.Placed","total":9}`: false, `{"total":12}`: false,
	} {
		x, err := f.ExplainEvent(ctx, f.owner, es, ExplainRequest{Event: json.RawMessage(object)})
		if err != nil || x.Matches != want {
			t.Errorf("%s: matches %v, %v, want %v", object, x.Matches, err, want)
		}
	}
	_, err := f.ExplainEvent(ctx, f.owner, es, ExplainRequest{Event: json.RawMessage(`{"kind":{}}`)})
	if got := problems(err); got != "event: The event is not one that the source takes (CustomEventSchema): Event 0: property 'kind' of schema CustomInputEvent has the wrong type: the topic's mapping takes eventType from it, expected JSON token String, received StartObject." {
		t.Errorf("error %s", got)
	}
}
