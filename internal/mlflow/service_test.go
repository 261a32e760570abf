package mlflow

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// following is a Service that runs over what a bridge has.
func (b *bridge) following(t *testing.T, open func(*resource.MLflowServer) (secret.String, error)) (s *Service, metrics func() map[string]float64) {
	t.Helper()
	if open == nil {
		open = func(*resource.MLflowServer) (secret.String, error) { return "t0ken", nil }
	}
	registry := prometheus.NewRegistry()
	s = New(Config{
		Store: b.store, Ledger: b.ledger, Client: &http.Client{Transport: b.fake}, Secret: open,
		WebhookSecret: func(*resource.MLflowServer) (secret.String, error) { return hookSecret, nil },
		Logger:        slog.New(slog.DiscardHandler), Registerer: registry,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s, func() map[string]float64 {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := strings.TrimPrefix(f.GetName(), "carillon_mlflow_")
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return values
	}
}

// attach stores the record; revision 0 is a new one.
func (b *bridge) attach(t *testing.T, revision uint64) uint64 {
	t.Helper()
	var item resource.Item[resource.MLflowServer]
	var err error
	if revision == 0 {
		item, err = b.store.MLflowServers.Create(t.Context(), workspaceID.Key(), b.record)
	} else {
		item, err = b.store.MLflowServers.Update(t.Context(), workspaceID.Key(), b.record, revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	return item.Revision
}

func TestServiceFollowsWhatIsAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		s, metrics := b.following(t, nil)
		time.Sleep(time.Minute)
		if n, _ := b.fake.asked(); n != 0 {
			t.Errorf("asked %d times before anything was attached", n)
		}
		revision := b.attach(t, 0)
		synctest.Wait()
		if st, ok := s.Status(7); !ok || st.State != manage.MLflowFollowing || st.LastRound.IsZero() || st.Lag != 0 {
			t.Errorf("status %+v", st)
		}
		n, got := b.fake.asked()
		if got != "Bearer t0ken" {
			t.Errorf("asked with %q", got)
		}
		b.fake.start(time.Now())
		time.Sleep(16 * time.Second)
		b.want(running)
		if st, _ := s.Status(7); st.OpenRuns != 1 || st.Lag != time.Second {
			t.Errorf("status %+v", st)
		}
		if m := metrics(); m["events_total"] != 1 || m["rounds_total ok"] != 2 || m["requests_total"] <= float64(n) || m["lag_seconds"] != 1 {
			t.Errorf("metrics %v", m)
		}

		b.record.Interval = 60 // a change begins anew and repeats nothing
		revision = b.attach(t, revision)
		time.Sleep(time.Second)
		n, _ = b.fake.asked()
		time.Sleep(58 * time.Second)
		if now, _ := b.fake.asked(); now != n {
			t.Errorf("asked %d times too often", now-n)
		}
		b.want()

		if err := b.store.MLflowServers.Delete(t.Context(), workspaceID.Key(), revision); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		n, _ = b.fake.asked()
		time.Sleep(time.Hour)
		now, _ := b.fake.asked()
		if _, ok := s.Status(7); ok || now != n {
			t.Errorf("%d requests after the server was detached", now-n)
		}
		if m := metrics(); m["lag_seconds"] != 0 {
			t.Errorf("metrics %v", m)
		}
	})
}

func TestServiceGivesServersTime(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		state  string
		most   int // requests in an hour
		least  int
		metric string
	}{
		"down":    {http.StatusBadGateway, manage.MLflowFailing, 25, 10, "rounds_total failed"},
		"refused": {http.StatusUnauthorized, manage.MLflowRefused, 7, 5, "rounds_total refused"},
	} {
		in(t, name, func(t *testing.T) {
			b := newBridge(t)
			s, metrics := b.following(t, nil)
			b.fake.fail = func(string) int { return c.status }
			b.attach(t, 0)
			time.Sleep(time.Hour)
			st, _ := s.Status(7)
			if st.State != c.state || st.LastError == "" || st.ErrorAt.IsZero() || st.Lag != time.Hour {
				t.Errorf("status %+v", st)
			}
			n, _ := b.fake.asked()
			if n > c.most || n < c.least {
				t.Errorf("%d requests in an hour, want %d to %d", n, c.least, c.most)
			}
			if m := metrics(); m[c.metric] != float64(n) || m["lag_seconds"] != 3600 {
				t.Errorf("metrics %v", m)
			}
			b.fake.change(func() { b.fake.fail = nil })
			b.fake.ended("FAILED", time.Now(), time.Now())
			time.Sleep(refusedPause + refusedPause/10)
			if st, _ := s.Status(7); st.State != manage.MLflowFollowing || st.LastError != "" {
				t.Errorf("status %+v", st)
			}
			b.want(failed)
		})
	}
}

func TestServiceWithoutItsSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		s, _ := b.following(t, func(*resource.MLflowServer) (secret.String, error) { return "", errors.New("the key is missing") })
		b.attach(t, 0)
		time.Sleep(time.Minute)
		n, _ := b.fake.asked()
		if st, _ := s.Status(7); st.State != manage.MLflowFailing || st.LastError != "the key is missing" || n != 0 {
			t.Errorf("status %+v, %d requests", st, n)
		}
	})
}

func TestCheck(t *testing.T) {
	b := newBridge(t)
	s := New(Config{Store: b.store, Ledger: b.ledger, Client: &http.Client{Transport: b.fake}, Logger: slog.New(slog.DiscardHandler)})
	if err := s.Check(t.Context(), &b.record, "t0ken"); err != nil {
		t.Error(err)
	}
	b.fake.fail = func(string) int { return http.StatusForbidden }
	if err := s.Check(t.Context(), &b.record, "t0ken"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("error %v", err)
	}
}
