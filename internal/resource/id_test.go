package resource

import (
	"encoding/json"
	"strings"
	"testing"
)

const topicID = "/subscriptions/s1/resourceGroups/ml/providers/Microsoft.EventGrid/topics/orders"

func TestParseID(t *testing.T) {
	tests := []struct {
		name, in, out, kind, last, parent string
	}{
		{"root", "/", "/", "", "", "/"},
		{"subscription", "/subscriptions/s1", "/subscriptions/s1", "Microsoft.Resources/subscriptions", "s1", "/"},
		{"group", "/subscriptions/s1/resourceGroups/ml", "/subscriptions/s1/resourceGroups/ml", "Microsoft.Resources/resourceGroups", "ml", "/subscriptions/s1"},
		{"group named providers", "/subscriptions/s1/resourceGroups/providers/providers/A.B/c/providers", "/subscriptions/s1/resourceGroups/providers/providers/A.B/c/providers", "A.B/c", "providers", "/subscriptions/s1/resourceGroups/providers"},
		{"resource", topicID, topicID, "Microsoft.EventGrid/topics", "orders", "/subscriptions/s1/resourceGroups/ml"},
		{"slashes", "//subscriptions//s1/resourceGroups/ml/providers/Microsoft.EventGrid/topics/orders/", topicID, "Microsoft.EventGrid/topics", "orders", "/subscriptions/s1/resourceGroups/ml"},
		{"nested", topicID + "/eventSubscriptions/es", topicID + "/eventSubscriptions/es", "Microsoft.EventGrid/topics/eventSubscriptions", "es", topicID},
		{"extension", topicID + "/providers/Microsoft.EventGrid/eventSubscriptions/es", topicID + "/providers/Microsoft.EventGrid/eventSubscriptions/es", "Microsoft.EventGrid/eventSubscriptions", "es", topicID},
		{"tenant extension", "/providers/Microsoft.Authorization/roleAssignments/r", "/providers/Microsoft.Authorization/roleAssignments/r", "Microsoft.Authorization/roleAssignments", "r", "/"},
		{"extension of a subscription", "/subscriptions/s1/providers/A.B/c/d", "/subscriptions/s1/providers/A.B/c/d", "A.B/c", "d", "/subscriptions/s1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, err := ParseID(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if id.String() != tt.out || id.Type() != tt.kind || id.Name() != tt.last || id.Parent().String() != tt.parent {
				t.Errorf("got %q, type %q, name %q, parent %q", id, id.Type(), id.Name(), id.Parent())
			}
		})
	}
}

func TestParseIDRefuses(t *testing.T) {
	for _, in := range []string{
		"", "nonsense", "/subscriptions", "/subscriptions/s/resourceGroups", "/subscriptions/s/topics/t",
		"/subscriptions/s/providers/A.B", "/subscriptions/s/providers/A.B/c", "/subscriptions/s/providers/A.B/c/d/e",
		"/subscriptions/s\nx", "/subscriptions/s?x", "/subscriptions/s#x", "/providers/A.B/providers/c",
	} {
		if id, err := ParseID(in); err == nil {
			t.Errorf("ParseID(%q) = %q", in, id)
		}
	}
}

func TestIDContains(t *testing.T) {
	tests := []struct {
		outer, inner string
		want         bool
	}{
		{"/", topicID, true},
		{"/subscriptions/S1", topicID, true},
		{"/subscriptions/s1/resourcegroups/ML", topicID, true},
		{"/subscriptions/s1/resourceGroups/m", topicID, false},
		{"/subscriptions/s1/resourceGroups/ml", "/subscriptions/s1/resourceGroups/ml-prod", false},
		{topicID, topicID, true},
		{topicID, "/subscriptions/s1/resourceGroups/ml", false},
		{"/subscriptions/s2", topicID, false},
		{"/subscriptions/s1/resourceGroups/kit", "/subscriptions/s1/resourceGroups/\u212Ait", true},
		{"/subscriptions/s1/resourceGroups/kit", "/subscriptions/s1/resourceGroups/K\u0130T/providers/A.B/c/d", true},
		{"/subscriptions/s1/resourceGroups/\u212A\u0130t", "/subscriptions/s1/resourceGroups/kit/providers/A.B/c/d", true},
		{"/subscriptions/s1/resourceGroups/mls", "/subscriptions/s1/resourceGroups/ml\u017F", false},
		{"/subscriptions/s1/resourceGroups/\u017Fs", "/subscriptions/s1/resourceGroups/s\u017F", false},
		{"/subscriptions/s1/resourceGroups/\u00C4", "/subscriptions/s1/resourceGroups/\u00E4/providers/A.B/c/d", true},
	}
	for _, tt := range tests {
		if got := MustID(tt.outer).Contains(MustID(tt.inner)); got != tt.want {
			t.Errorf("%s contains %s: %t", tt.outer, tt.inner, got)
		}
		if a, b := MustID(tt.outer), MustID(tt.inner); a.Equal(b) != (a.Key() == b.Key()) || b.Equal(a) != a.Equal(b) {
			t.Errorf("%s equals %s: %t, keys %s and %s", a, b, a.Equal(b), a.Key(), b.Key())
		}
	}
	if (ID{}).Contains(Root) || Root.Contains(ID{}) {
		t.Error("the zero ID contains or is contained")
	}
}

func TestIDSegments(t *testing.T) {
	id := MustID(topicID)
	if id.Subscription() != "s1" || id.ResourceGroup() != "ml" {
		t.Errorf("subscription %q, group %q", id.Subscription(), id.ResourceGroup())
	}
	if Root.Subscription() != "" || MustID("/subscriptions/s1").ResourceGroup() != "" {
		t.Error("a segment that is not there")
	}
	if got := Root.Extension("A.B", "c", "d").String(); got != "/providers/A.B/c/d" {
		t.Errorf("extension of the root: %s", got)
	}
}

func TestIDText(t *testing.T) {
	var v struct{ ID ID }
	if err := json.Unmarshal([]byte(`{"ID":"`+topicID+`"}`), &v); err != nil || !v.ID.Equal(MustID(strings.ToUpper(topicID))) {
		t.Errorf("%v, %v", v, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":"x"}`), &v); err == nil {
		t.Error("a text that is no id decodes")
	}
	raw, err := json.Marshal(v)
	if err != nil || !strings.Contains(string(raw), topicID) {
		t.Errorf("%s, %v", raw, err)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(topicID)
	f.Add("//providers/A.B/c/d/e/f/providers/g/h/i")
	f.Add("/subscriptions/s/resourceGroups/providers/providers/providers/providers/x")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		again, err := ParseID(id.String())
		if err != nil || again != id {
			t.Fatalf("%q parses to %q, which parses to %q, %v", text, id, again, err)
		}
		if !id.Parent().Contains(id) || !Root.Contains(id) {
			t.Errorf("parent %q does not contain %q", id.Parent(), id)
		}
		if id.Parent() != Root {
			if _, err := ParseID(id.Parent().String()); err != nil {
				t.Errorf("parent of %q: %v", id, err)
			}
		}
	})
}
