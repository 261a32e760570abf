package manage

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Limits are set, changed one by one and taken away; a request that says nothing of
// them, PUT or PATCH, leaves them.
func TestLimits(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	limited := func(c *LimitsChange) EventSubscriptionChange {
		change := hook(hookURL)
		change.Limits = c
		return change
	}
	for _, tt := range []struct {
		name  string
		put   bool
		asked *LimitsChange
		want  resource.DeliveryLimits
	}{
		{"none", true, nil, resource.DeliveryLimits{}},
		{"both", true, &LimitsChange{number(600), number(4)}, resource.DeliveryLimits{MaxRequestsPerMinute: 600, MaxConcurrency: 4}},
		{"one of them", false, &LimitsChange{number(60), nil}, resource.DeliveryLimits{MaxRequestsPerMinute: 60, MaxConcurrency: 4}},
		{"nothing said, by PATCH", false, nil, resource.DeliveryLimits{MaxRequestsPerMinute: 60, MaxConcurrency: 4}},
		{"nothing said, by PUT", true, nil, resource.DeliveryLimits{MaxRequestsPerMinute: 60, MaxConcurrency: 4}},
		{"an empty object", true, &LimitsChange{}, resource.DeliveryLimits{MaxRequestsPerMinute: 60, MaxConcurrency: 4}},
		{"no rate any more", false, &LimitsChange{number(0), nil}, resource.DeliveryLimits{MaxConcurrency: 4}},
		{"the most", false, &LimitsChange{number(6_000_000), number(128)}, resource.DeliveryLimits{MaxRequestsPerMinute: 6_000_000, MaxConcurrency: 128}},
		{"nothing any more", true, &LimitsChange{number(0), number(0)}, resource.DeliveryLimits{}},
	} {
		change := f.PatchEventSubscription
		if tt.put {
			change = f.PutEventSubscription
		}
		v, err := change(t.Context(), f.owner, id(at), limited(tt.asked), Precondition{})
		if err != nil || v.Value.Limits != tt.want || f.broker.live[v.Value.UID].Limits != tt.want {
			t.Errorf("%s: %+v, the broker has %+v, %v", tt.name, v.Value.Limits, f.broker.live[v.Value.UID].Limits, err)
		}
	}
	before := f.get(t, at)
	for name, tt := range map[string]struct {
		asked LimitsChange
		want  string
	}{
		"less than none": {LimitsChange{number(-1), nil}, "properties.deliveryLimits.maxRequestsPerMinute: The value -1 of maxRequestsPerMinute is out of range: use 1 to 6000000, or 0 for no limit."},
		"too much":       {LimitsChange{nil, number(129)}, "properties.deliveryLimits.maxConcurrency: The value 129 of maxConcurrency is out of range: use 1 to 128, or 0 for the default, 64."},
		"both":           {LimitsChange{number(6_000_001), number(-2)}, "properties.deliveryLimits.maxRequestsPerMinute: The value 6000001 of maxRequestsPerMinute is out of range: use 1 to 6000000, or 0 for no limit.\nproperties.deliveryLimits.maxConcurrency: The value -2 of maxConcurrency is out of range: use 1 to 128, or 0 for the default, 64."},
	} {
		_, err := f.PatchEventSubscription(t.Context(), f.owner, id(at), limited(&tt.asked), Precondition{})
		if !fault.Is(err, fault.Invalid) || problems(err) != tt.want {
			t.Errorf("%s: %s", name, problems(err))
		}
	}
	if after := f.get(t, at); after.ETag() != before.ETag() {
		t.Error("a refused request changed something")
	}
}

// cloud is a change that sets a webhook of CloudEvents.
func cloud() EventSubscriptionChange {
	c := hook(hookURL)
	c.DeliverySchema = text("CloudEventSchemaV1_0")
	return c
}

func allowing(rate string) func(context.Context, ValidationRequest) (ValidationResult, error) {
	return func(context.Context, ValidationRequest) (ValidationResult, error) {
		return ValidationResult{Validated: true, AllowedRate: rate}, nil
	}
}

// The rate that an endpoint allowed holds until it is asked again, and only then.
func TestAllowedRateIsKept(t *testing.T) {
	f := newFixture(t)
	at := workspaceID + extension + "es1"
	rate := func() int {
		live := f.broker.live[f.get(t, at).Value.UID]
		if n := f.get(t, at).Value.Destination.WebHook.AllowedRate; live.Destination.WebHook.AllowedRate != n {
			t.Errorf("stored %d, live %d", n, live.Destination.WebHook.AllowedRate)
		}
		return live.Destination.WebHook.AllowedRate
	}
	f.endpoint.will(allowing("60"))
	f.put(t, at, cloud())
	if r := f.endpoint.last(); rate() != 60 || r.Rate != 120 {
		t.Errorf("allowed %d, asked for %d", rate(), r.Rate)
	}
	f.endpoint.will(allowing("30"))
	for _, c := range []EventSubscriptionChange{{Labels: &[]string{"a"}}, hook(hookURL)} { // nothing to ask about
		if _, err := f.PatchEventSubscription(t.Context(), f.owner, id(at), c, Precondition{}); err != nil || rate() != 60 {
			t.Errorf("after a PATCH: allowed %d, %v", rate(), err)
		}
	}
	f.ValidateOnChangeOnly = true
	if f.put(t, at, cloud()); rate() != 60 {
		t.Errorf("after a PUT that asks nobody: allowed %d", rate())
	}
	f.ValidateOnChangeOnly = false
	if _, err := f.PauseEventSubscription(t.Context(), f.owner, id(at), Precondition{}); err != nil || rate() != 60 {
		t.Errorf("paused: allowed %d, %v", rate(), err)
	}
	f.start(t)
	if live := f.Live(); len(live) != 1 || live[0].Destination.WebHook.AllowedRate != 60 {
		t.Errorf("after a restart: %+v", live)
	}
	c := cloud()
	c.Limits = &LimitsChange{number(500), nil}
	if f.put(t, at, c); rate() != 30 || f.endpoint.last().Rate != 500 {
		t.Errorf("asked again: allowed %d, asked for %d", rate(), f.endpoint.last().Rate)
	}
	f.endpoint.will(refusing)
	if _, err := f.PutEventSubscription(t.Context(), f.owner, id(at), cloud(), Precondition{}); !fault.Is(err, fault.Invalid) || rate() != 30 {
		t.Errorf("refused: allowed %d, %v", rate(), err)
	}
	f.endpoint.will(allowing("*"))
	if f.put(t, at, cloud()); rate() != 0 {
		t.Errorf("any number: %d", rate())
	}
	f.endpoint.will(allowing("30")) // which no Event Grid handshake asks for
	grid := hook(hookURL)
	grid.DeliverySchema = text("EventGridSchema")
	if f.put(t, at, grid); f.endpoint.last().Rate != 0 {
		t.Errorf("asked for %d", f.endpoint.last().Rate)
	}
}

// The link is opened with a rate, or without one for that which was asked for, and
// may be opened again to allow another one.
func TestLinkAllowsRate(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	at := workspaceID + extension + "es1"
	f.endpoint.will(allowing("60"))
	f.put(t, at, cloud())
	f.endpoint.will(silent)
	c := cloud()
	c.Destination.EndpointURL = text("https://h.example/other")
	v := f.put(t, at, c)
	link, uid := token(t, f.endpoint.last()), v.Value.UID
	live := func() *resource.WebHook { return f.broker.live[uid].Destination.WebHook }
	for _, rate := range []string{"0", "-3", "1.5", "2/s", "ten"} {
		_, err := f.Consent(ctx, uid, link, rate)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fmt.Sprint(err), "'"+rate+"'") || f.get(t, at).Value.State != resource.AwaitingManualAction {
			t.Errorf("rate %s: %v", rate, err)
		}
	}
	if live().AllowedRate != 60 || live().BaseURL != "https://h.example/in" {
		t.Errorf("before consent: %+v", live())
	}
	for _, step := range []struct {
		rate string
		want int
	}{{"", 120}, {"", 120}, {"10", 10}, {"", 10}, {"*", 0}, {"", 0}, {"99999999999999999999999", resource.MaxRequestsPerMinute}} {
		n, err := f.Consent(ctx, uid, link, step.rate)
		if err != nil || n != step.want || live().AllowedRate != step.want || live().BaseURL != "https://h.example/other" {
			t.Errorf("opened with %q: %d, live %+v, %v", step.rate, n, live(), err)
		}
	}
	c.Limits = &LimitsChange{number(9000), nil}
	f.put(t, at, c)
	if n, err := f.Consent(ctx, uid, token(t, f.endpoint.last()), ""); err != nil || n != 9000 {
		t.Errorf("what was asked for is %d, %v", n, err)
	}
	if _, err := f.Consent(ctx, uid, link, "5"); !fault.Is(err, fault.Invalid) || live().AllowedRate != 9000 {
		t.Errorf("a link of before: %v, live %+v", err, live())
	}
	grid := hook("https://h.example/grid")
	grid.DeliverySchema = text("EventGridSchema")
	f.put(t, at, grid)
	if n, err := f.Consent(ctx, uid, token(t, f.endpoint.last()), ""); err != nil || n != 0 {
		t.Errorf("an Event Grid handshake allows %d, %v", n, err)
	}
}
