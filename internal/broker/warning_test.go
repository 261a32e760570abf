package broker

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/filter"
)

// TestWarnings: the first dead letter of an event subscription is told at Warn at
// once, those of the next ten minutes together with the first after them.
func TestWarnings(t *testing.T) {
	bubble(t, "dead letters", func(t *testing.T) {
		var log bytes.Buffer
		h := newStore().open(-1)
		registry := prometheus.NewRegistry()
		h.tune = func(c *Config) {
			c.Registerer = registry
			c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		}
		bad := &handler{t: t, answer: always(Response{Outcome: BadRequest, Status: 400})}
		es := testSubscription(1, filter.Filter{})
		p := startProcess(t, h, map[string]Sender{"es1": bad, "es2": bad}, es, testSubscription(2, filter.Filter{SubjectBeginsWith: "both"}))
		last := func() Warning {
			if st, _ := p.Status(es.UID); st.Warning != nil {
				return *st.Warning
			}
			return Warning{}
		}
		began := time.Now().UTC()
		if last() != (Warning{}) {
			t.Errorf("warned before anything happened: %+v", last())
		}
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Minute)
		if w := last(); w.Kind != WarnDeadLettered || w.Reason != string(ReasonBadRequest) || w.Events != 1 || w.Time.Sub(began) > 10*time.Second {
			t.Errorf("the first: %+v", w)
		}
		publish(t, p.Broker, 1, 50, "a")
		time.Sleep(time.Minute)
		publish(t, p.Broker, 51, 1, "both") // the other one is warned about by itself
		time.Sleep(10 * time.Minute)
		if w := last(); w.Events != 1 {
			t.Errorf("again within ten minutes: %+v", w)
		}
		publish(t, p.Broker, 52, 2, "a")
		time.Sleep(time.Minute)
		if w := last(); w.Events != 52 {
			t.Errorf("after them: %+v", w)
		}
		finish(t, p)
		if n := strings.Count(log.String(), "level=WARN msg=\"event subscription has dead letters\""); n != 3 {
			t.Errorf("%d records:\n%s", n, log.String())
		}
		if got := figure(t, p.metrics.warnings.WithLabelValues("deadLettered")); got != 3 {
			t.Errorf("metric %v", got)
		}
	})

	bubble(t, "drops", func(t *testing.T) {
		h := newStore().open(-1)
		h.tune = func(c *Config) { c.DeadLetterQuota = 20_000 }
		bad := &handler{t: t, answer: always(Response{Outcome: BadRequest, Status: 400})}
		es := testSubscription(1, filter.Filter{})
		p := startProcess(t, h, map[string]Sender{"es1": bad}, es)
		for i := range 20 {
			publish(t, p.Broker, 10*i, 10, "a")
			time.Sleep(time.Minute)
		}
		if got := figure(t, p.metrics.warnings.WithLabelValues("dropped")); got < 1 || got > 3 {
			t.Errorf("%v warnings of dropped events in 20 minutes", got)
		}
		finish(t, p)
	})

	// 410 is tried again like other failures, and told, for nobody may be there to mend it.
	bubble(t, "an endpoint that is gone", func(t *testing.T) {
		es := testSubscription(1, filter.Filter{})
		p := one(t, &handler{answer: always(Response{Outcome: NotFound, Status: 410})}, es)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Minute)
		if w := p.mustStatus(t, es).Warning; w == nil || *w != (Warning{Time: w.Time, Kind: WarnGone, Reason: "NotFound", Events: 1}) {
			t.Errorf("%+v", w)
		}
		time.Sleep(time.Hour)
		if st := p.mustStatus(t, es); st.FailedAttempts < 2 || st.DeadLettered != 0 {
			t.Errorf("after an hour: %+v", st)
		}
		finish(t, p)
	})

	// An event that cannot be read any more is dropped, counted and told.
	bubble(t, "an event that is gone", func(t *testing.T) {
		bad := &handler{t: t}
		es := testSubscription(1, filter.Filter{})
		p := one(t, bad, es)
		pause(t, p, es)
		s := p.lookup(uint64(es.UID))
		s.mu.Lock()
		d := &delivery{sub: s, pos: 0x10000, state: burying}
		s.openN++
		p.open.Add(1)
		s.mu.Unlock()
		s.drop(d, dropUnreadable)
		st, _ := p.Status(es.UID)
		if st.Dropped != 1 || st.DeadLettered != 0 || st.Open != 0 || st.Warning == nil || st.Warning.Kind != WarnDropped || st.Warning.Reason != "Unreadable" {
			t.Errorf("%+v, %+v", st, st.Warning)
		}
		s.drop(d, dropUnreadable) // once
		if st, _ := p.Status(es.UID); st.Dropped != 1 {
			t.Errorf("%d dropped", st.Dropped)
		}
		finish(t, p)
	})
}
