package resource

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
)

func TestNames(t *testing.T) {
	tests := []struct {
		rule NameRule
		name string
		want string // "" = good
	}{
		{TopicName, "orders-1", ""},
		{TopicName, "ab", "The topic name 'ab' is not valid: use 3 to 50 letters, digits or '-'."},
		{TopicName, strings.Repeat("a", 51), "The topic name '" + strings.Repeat("a", 51) + "' is not valid: use 3 to 50 letters, digits or '-'."},
		{TopicName, "or_ders", "The topic name 'or_ders' is not valid: use 3 to 50 letters, digits or '-'."},
		{TopicName, "ördèrs", "The topic name 'ördèrs' is not valid: use 3 to 50 letters, digits or '-'."},
		{SystemTopicName, strings.Repeat("a", 128), ""},
		{EventSubscriptionName, strings.Repeat("a", 65), "The event subscription name '" + strings.Repeat("a", 65) + "' is not valid: use 3 to 64 letters, digits or '-'."},
		{WorkspaceName, "my_ws", ""},
		{ConnectionName, "a.b", ""},
		{ConnectionName, "..", "The connection name '..' is not valid: use 1 to 90 letters, digits or '-' '_' '.', not '.' or '..' alone."},
		{ResourceGroupName, "a", ""},
		{ResourceGroupName, "ml_(x).1", ""},
		{ResourceGroupName, "ml.", "The resource group name 'ml.' is not valid: use 1 to 90 letters, digits or '-' '_' '(' ')' '.', not ending with '.'."},
		{ResourceGroupName, "m l", "The resource group name 'm l' is not valid: use 1 to 90 letters, digits or '-' '_' '(' ')' '.', not ending with '.'."},
	}
	for _, tt := range tests {
		got := ""
		if err := tt.rule.Check(tt.name); err != nil {
			got = err.Message
			if err.Code != "InvalidResourceName" {
				t.Errorf("%s: code %s", tt.name, err.Code)
			}
		}
		if got != tt.want {
			t.Errorf("%s %q:\n got %s\nwant %s", tt.rule.Noun, tt.name, got, tt.want)
		}
	}
}

func TestNormalizeLocation(t *testing.T) {
	for in, want := range map[string]string{"West US 2": "westus2", " local ": "local", "westeurope": "westeurope", "": ""} {
		if got := NormalizeLocation(in); got != want {
			t.Errorf("NormalizeLocation(%q) = %q", in, got)
		}
	}
}

func messages(problems []*fault.Error) string {
	var all []string
	for _, p := range problems {
		all = append(all, p.Target+": "+p.Message)
	}
	return strings.Join(all, "\n")
}

func TestCheckTags(t *testing.T) {
	many := map[string]string{}
	for i := range 51 {
		many[strings.Repeat("k", i+1)] = ""
	}
	tests := []struct {
		name string
		tags map[string]string
		want string
	}{
		{"good", map[string]string{"Team": "ml", "stage": ""}, ""},
		{"too many", many, "tags: A resource may have 50 tags, this one has 51."},
		{"empty name", map[string]string{"": "x"}, "tags['']: A tag's name must have 1 to 512 characters, this one has 0."},
		{"long value", map[string]string{"a": strings.Repeat("v", 257)}, "tags['a']: A tag's value may have 256 characters, this one has 257."},
		{"case", map[string]string{"A": "1", "a": "2"}, "tags['a']: The tags 'A' and 'a' differ in case only; keep one of them."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := messages(CheckTags(tt.tags)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestCheckLabels(t *testing.T) {
	got := messages(CheckLabels("properties.labels", []string{"ok", "", strings.Repeat("x", 513)}))
	want := "properties.labels[1]: A label must have 1 to 512 characters, this one has 0.\n" +
		"properties.labels[2]: A label must have 1 to 512 characters, this one has 513."
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestApplyCountsFilterGenerations(t *testing.T) {
	es := EventSubscription{}
	s := Settings{Destination: Destination{Type: DestinationWebHook}, DeliverySchema: event.EventGridSchema}
	es.Apply(s)
	if es.FilterGeneration != 1 {
		t.Errorf("first generation %d", es.FilterGeneration)
	}
	s.Labels = []string{"x"}
	es.Pending = &s
	if got := es.Wanted(); len(got.Labels) != 1 {
		t.Errorf("wanted %+v", got)
	}
	es.Apply(es.Wanted())
	if es.FilterGeneration != 1 || es.Pending != nil || len(es.Labels) != 1 {
		t.Errorf("same filter: %+v", es)
	}
	s.Filter = filter.Filter{SubjectBeginsWith: "models/"}
	es.Apply(s)
	if es.FilterGeneration != 2 {
		t.Errorf("another filter: generation %d", es.FilterGeneration)
	}
}

func TestEventSubscriptionIsStoredWhole(t *testing.T) {
	es := EventSubscription{
		UID: 7, Scope: MustID(topicID), Name: "es", State: AwaitingManualAction, Active: true,
		Pending:    &Settings{Filter: filter.Filter{SubjectEndsWith: "x"}, DeliverySchema: event.CloudEventSchemaV1_0},
		Validation: &Validation{TokenHash: "h", Message: "m"},
	}
	raw, err := json.Marshal(es)
	if err != nil {
		t.Fatal(err)
	}
	var back EventSubscription
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil || string(again) != string(raw) {
		t.Errorf("stored %s\nread   %s, %v", raw, again, err)
	}
	if back.ID().String() != topicID+"/providers/Microsoft.EventGrid/eventSubscriptions/es" {
		t.Errorf("id %s", back.ID())
	}
}

func TestUID(t *testing.T) {
	u := NewUID()
	text, _ := u.MarshalText()
	var back UID
	if err := back.UnmarshalText(text); err != nil || back != u || len(text) != 16 {
		t.Errorf("%s -> %v, %v", text, back, err)
	}
	if err := back.UnmarshalText([]byte("zz")); err == nil {
		t.Error("zz is a UID")
	}
}
