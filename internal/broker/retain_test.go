package broker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
)

// fullLog is a log at a part of its quota.
type fullLog struct {
	Log
	bytes int64
	space engine.Space
}

func (l fullLog) Usage() engine.Usage {
	return engine.Usage{Bytes: l.bytes, Quota: 100, Space: l.space}
}

// TestRetention: history goes when it is old or room is short; what somebody needs
// never goes.
func TestRetention(t *testing.T) {
	for _, tt := range []struct {
		name  string
		used  int64 // of a quota of 100
		stuck bool  // one handler has not answered for the fifth frame
		after time.Duration
		space engine.Space
		first uint64
	}{
		{"young", 10, false, time.Minute, engine.SpaceAmple, 1},
		{"old", 10, false, 2 * time.Hour, engine.SpaceAmple, 10},
		{"old and needed", 10, true, 2 * time.Hour, engine.SpaceAmple, 5},
		{"young, and little room", 90, false, time.Minute, engine.SpaceAmple, 10},
		{"needed, and little room", 90, true, time.Minute, engine.SpaceAmple, 5},
		{"young, and a disk that runs short", 10, false, time.Second, engine.SpaceLow, 6},
		{"young, and a disk that stays short", 10, false, time.Minute, engine.SpaceLow, 10},
		{"young, and a full disk", 10, false, time.Second, engine.SpaceOut, 10},
		{"needed, and a full disk", 10, true, time.Minute, engine.SpaceOut, 5},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			hold := newStore().open(-1)
			hold.tune = func(c *Config) {
				c.Retention, c.Park = time.Hour, nil
				c.Log = fullLog{c.Log, tt.used, tt.space}
			}
			stuck := newExactlyOnce()
			if !tt.stuck {
				close(stuck.free)
			}
			p := startProcess(t, hold, map[string]Sender{"es0": stuck, "es1": &handler{t: t}},
				testSubscription(0, filter.Filter{SubjectBeginsWith: "b"}), testSubscription(1, filter.Filter{}))
			time.Sleep(retainEvery / 2) // the log is judged once a second, and not while it is filled
			for i := range 10 {
				publish(t, p.Broker, i, 1, []string{"a", "b"}[i/4%2])
			}
			time.Sleep(tt.after)
			synctest.Wait()
			if first, last := p.cfg.Log.Bounds(); first != tt.first || last != 10 {
				t.Errorf("the log holds %d to %d, want from %d", first, last, tt.first)
			}
			name, seq, held := p.Held()
			if held != tt.stuck || held && (seq != 5 || !strings.HasSuffix(name, "/es0")) {
				t.Errorf("held by %q at %d", name, seq)
			}
			finish(t, p)
		})
	}
}

// TestMetrics holds the figures after some deliveries.
// Source: spec/delivery.md section 8.1.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		hold := newStore().open(-1)
		hold.tune = func(c *Config) { c.Registerer, c.MetricsEventSubscriptions = registry, 3 }
		bad, stuck := &handler{t: t, answer: always(answerBad)}, newExactlyOnce()
		p := startProcess(t, hold, map[string]Sender{"es0": &handler{t: t}, "es1": bad, "es2": stuck}, testSubscription(0, filter.Filter{SubjectBeginsWith: "a"}),
			testSubscription(1, filter.Filter{SubjectBeginsWith: "a"}), testSubscription(2, filter.Filter{SubjectBeginsWith: "b"}))
		if err := p.Err(); err != nil {
			t.Error(err)
		}
		publish(t, p.Broker, 0, 3, "a")
		publish(t, p.Broker, 3, 2, "b")
		publish(t, p.Broker, 5, 4, "c")
		time.Sleep(time.Second)
		synctest.Wait()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				key := f.GetName()
				for _, l := range m.Label {
					key += " " + l.GetValue()[strings.LastIndex(l.GetValue(), "/")+1:]
				}
				switch {
				case m.Counter != nil:
					got[key] = m.Counter.GetValue()
				case m.Gauge != nil:
					got[key] = m.Gauge.GetValue()
				default:
					got[key] = float64(m.Histogram.GetSampleCount())
				}
			}
		}
		for key, want := range map[string]float64{
			"eventgrid_publish_success_total":                                  9,
			"eventgrid_matched_events_total":                                   8,
			"eventgrid_unmatched_events_total":                                 4,
			"eventgrid_delivery_success_total":                                 3,
			"eventgrid_delivery_attempt_fail_total BadRequest":                 3,
			"eventgrid_dead_lettered_events_total " + string(ReasonBadRequest): 3,
			"eventgrid_publish_success_latency_seconds":                        3,
			"carillon_open_deliveries":                                         2,
			"carillon_dispatch_backlog_bytes":                                  0,
			"carillon_parked_deliveries":                                       0,
			"carillon_event_subscription_open_deliveries es2":                  2,
			"carillon_event_subscription_lagging es2":                          0,
			"carillon_event_subscription_delivered_events_total es0":           3,
			"carillon_event_subscription_failed_attempts_total es1":            3,
			"carillon_event_subscription_dead_lettered_events_total es1":       3,
			"carillon_event_subscription_matched_events_total es2":             2,
		} {
			if v, there := got[key]; !there || v != want {
				t.Errorf("%s is %v (%v), want %v", key, v, there, want)
			}
		}
		finish(t, p)
	})
}
