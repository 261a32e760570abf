package broker

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// gather returns the labels of each series of a registry, by name.
func gather(t *testing.T, r *prometheus.Registry) map[string][]string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string][]string{}
	for _, f := range families {
		for _, m := range f.Metric {
			labels := ""
			for _, l := range m.Label {
				labels += l.GetValue()
			}
			series[f.GetName()] = append(series[f.GetName()], labels)
		}
	}
	return series
}

// TestSeriesPerEventSubscription wants no more series than were asked for, and the
// same ones at each scrape.
func TestSeriesPerEventSubscription(t *testing.T) {
	for _, tt := range []struct {
		name               string
		most, active, want int
	}{
		{"none", 0, 5, 0},
		{"fewer than allowed", 10, 5, 5},
		{"more than allowed", 3, 20, 3},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			hold := newStore().open(-1)
			hold.tune = func(c *Config) { c.Registerer, c.MetricsEventSubscriptions = registry, tt.most }
			senders := map[string]Sender{}
			var subs []*resource.EventSubscription
			for i := range tt.active {
				es := testSubscription(i, filter.Filter{})
				senders[es.Name] = &handler{t: t}
				subs = append(subs, es)
			}
			p := startProcess(t, hold, senders, subs...)
			const name = "carillon_event_subscription_open_deliveries"
			first := gather(t, registry)
			for range 10 {
				if got := gather(t, registry)[name]; len(got) != tt.want || !slices.Equal(got, first[name]) {
					t.Fatalf("series of %v, before of %v; want %d", got, first[name], tt.want)
				}
			}
			for family, labels := range first {
				if len(labels) > max(tt.want, len(outcomeNames)) {
					t.Errorf("%s has %d series", family, len(labels))
				}
			}
			if tt.want > 0 && tt.active > tt.want { // one goes, another takes its place, the others stay
				if err := p.Deactivate(t.Context(), subs[0].UID); err != nil {
					t.Fatal(err)
				}
				gone := fmt.Sprint(subs[0].ID())
				after := gather(t, registry)[name]
				kept := 0
				for _, id := range first[name] {
					if slices.Contains(after, id) {
						kept++
					}
				}
				if len(after) != tt.want || slices.Contains(after, gone) || kept != tt.want-1 {
					t.Errorf("series of %v, before of %v, %s is gone", after, first[name], gone)
				}
			}
			finish(t, p)
		})
	}
}

// TestCountersExistFromTheStart wants every series of the closed label sets before
// anything happened.
func TestCountersExistFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		hold := newStore().open(-1)
		hold.tune = func(c *Config) { c.Registerer, c.MetricsEventSubscriptions = registry, 1 }
		p := startProcess(t, hold, map[string]Sender{"es0": &handler{t: t}}, testSubscription(0, filter.Filter{}))
		series := gather(t, registry)
		for name, want := range map[string][]string{
			"eventgrid_publish_success_total":      {""},
			"eventgrid_publish_fail_total":         {""},
			"eventgrid_unmatched_events_total":     {""},
			"eventgrid_delivery_success_total":     {""},
			"eventgrid_dropped_events_total":       {dropUnreadable},
			"carillon_delivery_warnings_total":     {string(WarnDeadLettered), string(WarnDropped), string(WarnGone)},
			"carillon_clock_jumps_total":           {""},
			"eventgrid_dead_lettered_events_total": {string(ReasonMaxAttempts), string(ReasonTimeToLive), string(ReasonBadRequest), string(ReasonTooLarge), string(ReasonAborted)},
			"eventgrid_delivery_attempt_fail_total": {
				"BadRequest", "Unauthorized", "Forbidden", "NotFound", "TimedOut", "PayloadTooLarge", "Busy", "GenericError", "SocketError", "ResolutionError", "Aborted", "Disabled", "Full",
			},
			"carillon_event_subscription_dropped_events_total":       {testSubscription(0, filter.Filter{}).ID().String()},
			"carillon_event_subscription_dead_lettered_events_total": {testSubscription(0, filter.Filter{}).ID().String()},
		} {
			for _, label := range want {
				if !slices.Contains(series[name], label) {
					t.Errorf("%s{%s} is not there before it counts: %v", name, label, series[name])
				}
			}
		}
		finish(t, p)
	})
}
