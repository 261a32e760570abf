package manage

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

func withAttributes(endpoint string, attributes ...AttributeChange) EventSubscriptionChange {
	c := hook(endpoint)
	c.Destination.Attributes = attributes
	return c
}

func static(name, value string, secret bool) AttributeChange {
	return AttributeChange{Name: name, Type: "static", Value: &value, IsSecret: secret}
}

func TestAttributeProblems(t *testing.T) {
	const mappings = "properties.destination.properties.deliveryAttributeMappings"
	names := make([]AttributeChange, 11)
	for i := range names {
		names[i] = static(fmt.Sprint("X-", i), "v", false)
	}
	tests := []struct {
		name string
		with []AttributeChange
		want string
	}{
		{"eleven", names, mappings + ": An event subscription can have 10 delivery attributes, this one has 11."},
		{"longest value", []AttributeChange{static("X-A", strings.Repeat("v", 4096), true)}, ""},
		{"longer value", []AttributeChange{static("X-A", strings.Repeat("v", 4097), true)}, mappings + "[0].properties.value: The value of delivery attribute 'X-A' has 4097 bytes; at most 4096 are allowed."},
		{"longest name", []AttributeChange{static(strings.Repeat("n", 256), "v", false)}, ""},
		{"longer name", []AttributeChange{static(strings.Repeat("n", 257), "v", false)}, mappings + "[0].name: The name of a delivery attribute has 257 bytes; at most 256 are allowed."},
		{"every sign of a token", []AttributeChange{static("aZ09!#$%&'*+-.^_`|~", "v", false)}, ""},
		{"empty value", []AttributeChange{static("X-A", "", false)}, mappings + "[0].properties.value: A Static delivery attribute needs a value; that of a secret one can be left out while one of that name is there and the host of the endpoint stays."},
		{"value not ASCII", []AttributeChange{static("X-A", "s3cret é", true)}, mappings + "[0].properties.value: The value of delivery attribute 'X-A' cannot stand in a header: use printable ASCII characters, without a blank at either end."},
		{"value that begins with a blank", []AttributeChange{static("X-A", " s3cret", true)}, mappings + "[0].properties.value: The value of delivery attribute 'X-A' cannot stand in a header: use printable ASCII characters, without a blank at either end."},
		{"inner blank", []AttributeChange{static("X-A", "a b", false)}, ""},
		{"other type", []AttributeChange{{Name: "X-A", Type: "Other"}}, mappings + "[0].type: The type 'Other' of a delivery attribute is not known: use Static with a value, or Dynamic with a sourceField."},
		{"no source field", []AttributeChange{{Name: "X-A", Type: "dynamic"}}, mappings + "[0].properties.sourceField: A Dynamic delivery attribute needs a sourceField: an attribute of the event such as subject, or a path into its data such as data.key1."},
		{"empty step", []AttributeChange{{Name: "X-A", Type: "dynamic", SourceField: "data."}}, mappings + "[0].properties.sourceField: The sourceField 'data.' has an empty step: write a path such as data.key1.key2."},
		{"twice", []AttributeChange{static("X-A", "v", false), static("x-a", "v", false)}, mappings + "[1].name: There is more than one delivery attribute named 'x-a': names of headers are the same in any case. Give each once."},
		{"system's", []AttributeChange{static("AEG-x", "v", false)}, mappings + "[0].name: The name 'AEG-x' of a delivery attribute begins with aeg-, which is kept for the system: use another one, for example X-x."},
		{"ours", []AttributeChange{static("carillon-replay", "v", false)}, mappings + "[0].name: The name 'carillon-replay' of a delivery attribute begins with carillon-, which is kept for the system: use another one."},
		{"no name, no token", []AttributeChange{static("", "v", false), static("a:b", "v", false)},
			mappings + "[0].name: A delivery attribute needs a name: that of the header, for example X-Team.\n" +
				mappings + "[1].name: The name 'a:b' of a delivery attribute is not one of a header: use letters, digits and '-'."},
	}
	for _, name := range []string{"Host", "Content-Length", "content-type", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer",
		"Upgrade", "Expect", "Proxy-Authorization", "Cookie", "Origin", "WebHook-Request-Origin", "webhook-id", "webhook-signature"} {
		tests = append(tests, struct {
			name string
			with []AttributeChange
			want string
		}{name, []AttributeChange{static(name, "v", false)}, mappings + "[0].name: The header " + name + " belongs to the request itself and cannot be a delivery attribute: use a name of your own, for example X-" + name + "."})
	}
	f := newFixture(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.PutEventSubscription(context.Background(), f.owner, id(workspaceID+extension+"es1"), withAttributes(hookURL, tt.with...), Precondition{})
			if tt.want == "" {
				if err != nil {
					t.Error(problems(err))
				}
				return
			}
			if got := problems(err); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// A secret value lies sealed, moves to nothing else, and stays when a request leaves it
// out, as long as it goes to the same host.
func TestSecretAttributes(t *testing.T) {
	f := newFixture(t)
	ctx, at := context.Background(), workspaceID+extension+"es1"
	put := withAttributes(hookURL, static("X-Team", "mlops", false), static("Authorization", "Bearer s3cret", true))
	es := f.put(t, at, put).Value
	stored, err := json.Marshal(es)
	if err != nil || strings.Contains(string(stored), "s3cret") || !strings.Contains(string(stored), "mlops") {
		t.Errorf("stored %s, %v", stored, err)
	}
	value := func() string {
		t.Helper()
		all, err := f.DeliveryAttributes(ctx, f.owner, id(at))
		if err != nil || len(all) == 0 {
			t.Fatalf("%v, %v", all, err)
		}
		return all[len(all)-1].Value
	}
	if got := value(); got != "Bearer s3cret" {
		t.Errorf("value %q", got)
	}
	moved := es
	moved.UID++
	if _, err := OpenAttribute(f.Sealer, &moved, &es.Destination.WebHook.DeliveryAttributes[1]); err == nil {
		t.Error("the secret opens for another event subscription")
	}

	kept := AttributeChange{Name: "authorization", Type: "Static", IsSecret: true}
	f.put(t, at, withAttributes("https://H.example/other", kept))
	if got := value(); got != "Bearer s3cret" {
		t.Errorf("after a PUT without it: %q", got)
	}
	for name, c := range map[string]EventSubscriptionChange{
		"another host":   withAttributes("https://elsewhere.example/", kept),
		"another port":   withAttributes("https://h.example:8443/", kept),
		"not secret now": withAttributes(hookURL, AttributeChange{Name: "authorization", Type: "Static"}),
		"another name":   withAttributes(hookURL, AttributeChange{Name: "X-Other", Type: "Static", IsSecret: true}),
	} {
		if _, err := f.PutEventSubscription(ctx, f.owner, id(at), c, Precondition{}); !fault.Is(err, fault.Invalid) || !strings.Contains(problems(err), "[0].properties.value: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.put(t, at, hook(hookURL))
	if got := f.get(t, at).Value.Destination.WebHook.DeliveryAttributes; got != nil {
		t.Errorf("after a PUT without any: %v", got)
	}
}

// The handshake carries the static ones, and a change of any needs consent anew.
// Source: spec/delivery.md sections 1.2 and 1.7.
func TestAttributesInHandshakes(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	dynamic := AttributeChange{Name: "X-Stage", Type: "Dynamic", SourceField: "data.stage"}
	f.put(t, at, withAttributes(hookURL, static("X-Team", "mlops", false), dynamic, static("Authorization", "Bearer s3cret", true)))
	if got, want := fmt.Sprint(f.endpoint.last().Headers), "[{X-Team mlops} {Authorization Bearer s3cret}]"; got != want {
		t.Errorf("headers %s, want %s", got, want)
	}
	patch := func(c EventSubscriptionChange) {
		t.Helper()
		c.Target = ""
		if _, err := f.PatchEventSubscription(context.Background(), f.owner, id(at), c, Precondition{}); err != nil {
			t.Fatal(err)
		}
	}
	same := AttributeChange{Name: "Authorization", Type: resource.AttributeStatic, IsSecret: true}
	for _, tt := range []struct {
		name       string
		c          EventSubscriptionChange
		handshakes int
	}{
		{"labels", EventSubscriptionChange{Labels: &[]string{"a"}}, 0},
		{"the same", withAttributes(hookURL, static("X-Team", "mlops", false), dynamic, same), 0},
		{"the same secret", withAttributes(hookURL, static("X-Team", "mlops", false), dynamic, static("Authorization", "Bearer s3cret", true)), 0},
		{"another secret", withAttributes(hookURL, static("X-Team", "mlops", false), dynamic, static("Authorization", "Bearer other", true)), 1},
		{"another field", withAttributes(hookURL, static("X-Team", "mlops", false), AttributeChange{Name: "X-Stage", Type: "Dynamic", SourceField: "subject"}, same), 1},
		{"one less", withAttributes(hookURL, static("X-Team", "mlops", false)), 1},
		{"now secret", withAttributes(hookURL, static("X-Team", "mlops", true)), 1},
	} {
		before := f.endpoint.count()
		patch(tt.c)
		if got := f.endpoint.count() - before; got != tt.handshakes {
			t.Errorf("%s: %d handshakes, want %d", tt.name, got, tt.handshakes)
		}
	}
}
