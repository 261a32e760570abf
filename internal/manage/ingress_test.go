package manage

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/resource"
)

// Who may publish, and from where: a PUT says it anew, a PATCH changes what it names.
// Source: spec/management.md section 5.2.
func TestPublishingSettings(t *testing.T) {
	ctx, at, f := context.Background(), id(topicsPrefix+"orders"), newFixture(t)
	yes, no := true, false
	text := func(s string) *string { return &s }
	rules := func(masks ...string) *[]IPRule {
		list := []IPRule{}
		for _, mask := range masks {
			list = append(list, IPRule{IPMask: mask, Action: "allow"})
		}
		return &list
	}
	for _, step := range []struct {
		name   string
		put    bool
		change TopicChange
		off    bool
		in     string
	}{
		{"created as it is in Azure", true, TopicChange{}, false, "{false []}"},
		{"patched", false, TopicChange{DisableLocalAuth: &yes, InboundIPRules: rules("10.1.2.3/8", "192.0.2.1", "2001:db8::/32")}, true, "{false [10.1.2.3/8 192.0.2.1 2001:db8::/32]}"},
		{"patched otherwise", false, TopicChange{PublicNetworkAccess: text("disabled")}, true, "{true [10.1.2.3/8 192.0.2.1 2001:db8::/32]}"},
		{"opened again", false, TopicChange{PublicNetworkAccess: text("ENABLED"), DisableLocalAuth: &no}, false, "{false [10.1.2.3/8 192.0.2.1 2001:db8::/32]}"},
		{"rules removed", false, TopicChange{InboundIPRules: rules(), DisableLocalAuth: &yes}, true, "{false []}"},
		{"put with all", true, TopicChange{InboundIPRules: rules("::1"), PublicNetworkAccess: text("Disabled"), DisableLocalAuth: &yes}, true, "{true [::1]}"},
		{"put without", true, TopicChange{}, false, "{false []}"},
	} {
		step.change.Location = "local"
		set := f.PatchTopic
		if step.put {
			set = f.PutTopic
		}
		if _, err := set(ctx, f.owner, at, step.change, Precondition{}); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		item, err := f.Topic(ctx, f.owner, at)
		if err != nil || item.Value.DisableLocalAuth != step.off || fmt.Sprint(item.Value.Ingress) != step.in {
			t.Errorf("%s: %v %v, want %v %s; %v", step.name, item.Value.DisableLocalAuth, item.Value.Ingress, step.off, step.in, err)
		}
	}
	for _, c := range []struct {
		change TopicChange
		want   []string
	}{
		{TopicChange{PublicNetworkAccess: text("SecuredByPerimeter")}, []string{"properties.publicNetworkAccess: The value 'SecuredByPerimeter'"}},
		{TopicChange{InboundIPRules: rules("10.0.0.0/8", "10.0.0.0/33", "", "localhost", "10.0.0.1-10.0.0.9")}, []string{
			"properties.inboundIpRules[1].ipMask: The ipMask '10.0.0.0/33'", "properties.inboundIpRules[2].ipMask", "properties.inboundIpRules[3].ipMask", "properties.inboundIpRules[4].ipMask"}},
		{TopicChange{InboundIPRules: &[]IPRule{{IPMask: "10.0.0.0/8"}, {IPMask: "10.0.0.0/8", Action: "Deny"}}}, []string{"properties.inboundIpRules[1].action: The action 'Deny'"}},
		{TopicChange{InboundIPRules: rules(strings.Fields(strings.Repeat("10.0.0.0/8 ", resource.MaxInboundIPRules+1))...)}, []string{"properties.inboundIpRules: There are 129"}},
	} {
		for _, put := range []bool{true, false} {
			set := f.PatchTopic
			if put {
				set = f.PutTopic
			}
			c.change.Location = "local"
			_, err := set(ctx, f.owner, at, c.change, Precondition{})
			got := problems(err)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("problems %q, want %q", got, want)
				}
			}
			if item, err := f.Topic(ctx, f.owner, at); err != nil || fmt.Sprint(item.Value.Ingress) != "{false []}" {
				t.Errorf("a refused change left %v; %v", item.Value.Ingress, err)
			}
		}
	}
}
