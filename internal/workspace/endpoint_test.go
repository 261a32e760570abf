package workspace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

func state(s string) EndpointChange { return EndpointChange{State: &s} }

func TestModelDeployedOnTransitioningToHealthyOnly(t *testing.T) {
	states := []string{"Transitioning", "Healthy", "Unhealthy", "Failed"}
	for _, from := range states {
		for _, to := range states {
			t.Run(from+" to "+to, func(t *testing.T) {
				b := newBench(t)
				before, _, err := b.PutEndpoint(t.Context(), b.ws, "svc", state(from), kim)
				if err != nil {
					t.Fatal(err)
				}
				if _, events := b.log.since(0); len(events) != 0 {
					t.Fatalf("creation raised %q", events)
				}
				after, err := b.PatchEndpoint(t.Context(), b.ws, "svc", state(strings.ToLower(to)), kim)
				if err != nil || string(after.State) != to {
					t.Fatalf("endpoint is %+v, error %v", after, err)
				}
				if (from == to) != (after.ETag == before.ETag) {
					t.Errorf("etag %s after %s", after.ETag, before.ETag)
				}
				want := 0
				if from == "Transitioning" && to == "Healthy" {
					want = 1
				}
				if _, events := b.log.since(0); len(events) != want {
					t.Errorf("%d events, want %d", len(events), want)
				}
			})
		}
	}
}

func TestEachDeploymentHasItsID(t *testing.T) {
	b := newBench(t)
	ids := map[string]bool{}
	deploy := func() {
		t.Helper()
		if _, _, err := b.PutEndpoint(t.Context(), b.ws, "svc", state("Transitioning"), kim); err != nil {
			t.Fatal(err)
		}
		n := b.log.count()
		if _, err := b.PatchEndpoint(t.Context(), b.ws, "svc", state("Healthy"), kim); err != nil {
			t.Fatal(err)
		}
		_, events := b.log.since(n)
		_, rest, _ := strings.Cut(events[0], `"id":"`)
		ids[rest[:36]] = true
	}
	deploy()
	deploy()
	if err := b.DeleteEndpoint(t.Context(), b.ws, "svc", kim); err != nil {
		t.Fatal(err)
	}
	deploy()
	if len(ids) != 3 {
		t.Errorf("3 deployments have %d ids", len(ids))
	}
}

func TestEndpointProblems(t *testing.T) {
	b := newBench(t)
	_, _, err := b.PutEndpoint(t.Context(), b.ws, "a/b", EndpointChange{
		ModelIDs: ptr("churn:1, scaler:2"), State: ptr("Dead"),
		Readiness: &ReadinessChange{URL: ptr("ftp://x"), TimeoutSeconds: ptr(0), IntervalSeconds: ptr(9999)},
	}, kim)
	wantFault(t, err, fault.Invalid, []string{"serviceName", "properties.modelIds", "properties.state",
		"properties.readiness.url", "properties.readiness.timeoutSeconds", "properties.readiness.intervalSeconds"}, "without spaces")
	for _, u := range []string{"", "/ready", "http://", "http://user:secret@host/", "mailto:a@b"} {
		_, _, err := b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{Readiness: &ReadinessChange{URL: &u}}, kim)
		wantFault(t, err, fault.Invalid, []string{"properties.readiness.url"}, "absolute http")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the message shows the address: %v", err)
		}
	}
	_, _, err = b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{Readiness: &ReadinessChange{}}, kim)
	wantFault(t, err, fault.Invalid, []string{"properties.readiness.url"}, "needs url")
	for _, ids := range []string{"churn", "churn:", ":1", "a:1,,b:2", "a:1,"} {
		if modelIDsProblem(ids) == nil {
			t.Errorf("modelIds %q pass", ids)
		}
	}
	for _, ids := range []string{"", "churn:1", "churn:1,scaler:2"} {
		if p := modelIDsProblem(ids); p != nil {
			t.Error(p)
		}
	}
	b.checkURL = func(u *url.URL) error { return fmt.Errorf("%s is a private address", u.Hostname()) }
	_, _, err = b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{Readiness: &ReadinessChange{URL: ptr("http://10.0.0.1/")}}, kim)
	wantFault(t, err, fault.Invalid, []string{"properties.readiness.url"}, "10.0.0.1 is a private address")
}

// service is a fake deployment behind a readiness address.
type service struct {
	status atomic.Int32 // 0 does not answer
	asked  atomic.Int32
}

func (s *service) answer(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	time.Sleep(time.Millisecond) // in fake time: whatever the test says at this moment is said
	status := int(s.status.Load())
	if status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: r}, nil
}

func readiness(timeout, interval int) *ReadinessChange {
	return &ReadinessChange{URL: ptr("http://svc.example/ready"), TimeoutSeconds: &timeout, IntervalSeconds: &interval}
}

// running runs the service until the returned function is called.
func running(t *testing.T, s *Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel(errors.New("stopped by the test"))
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	}
}

func TestReadiness(t *testing.T) {
	tests := []struct {
		name   string
		play   func(t *testing.T, b *bench, s *service)
		state  EndpointState // "" is gone
		events int
		after  time.Duration // from the beginning to the last write
	}{
		{"healthy at the fourth look", func(t *testing.T, b *bench, s *service) {
			s.status.Store(503)
			time.Sleep(12 * time.Second)
			s.status.Store(204)
			time.Sleep(time.Minute)
			if n := s.asked.Load(); n != 4 {
				t.Errorf("asked %d times", n)
			}
		}, Healthy, 1, 15 * time.Second},
		{"redirects do not count", func(t *testing.T, b *bench, s *service) {
			s.status.Store(302)
			time.Sleep(10 * time.Minute)
		}, EndpointFailed, 0, time.Minute},
		{"deadline with refusals", func(t *testing.T, b *bench, s *service) {
			s.status.Store(500)
			time.Sleep(10 * time.Minute)
			if n := s.asked.Load(); n != 13 { // 0, 5, … 55 and 60 seconds
				t.Errorf("asked %d times", n)
			}
		}, EndpointFailed, 0, time.Minute},
		{"deadline in silence", func(t *testing.T, b *bench, s *service) {
			time.Sleep(10 * time.Minute)
		}, EndpointFailed, 0, time.Minute},
		{"deleted while asked", func(t *testing.T, b *bench, s *service) {
			time.Sleep(time.Second)
			if err := b.DeleteEndpoint(t.Context(), b.ws, "svc", kim); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			s.status.Store(200)
			time.Sleep(10 * time.Minute)
			if n := s.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		}, "", 0, time.Second},
		{"failed by its owner while asked", func(t *testing.T, b *bench, s *service) {
			s.status.Store(500)
			time.Sleep(6 * time.Second)
			if _, err := b.PatchEndpoint(t.Context(), b.ws, "svc", state("Failed"), kim); err != nil {
				t.Fatal(err)
			}
			s.status.Store(200)
			time.Sleep(10 * time.Minute)
		}, EndpointFailed, 0, 6 * time.Second},
		{"deployed again after the failure", func(t *testing.T, b *bench, s *service) {
			s.status.Store(500)
			time.Sleep(2 * time.Minute)
			s.status.Store(200)
			if _, err := b.PatchEndpoint(t.Context(), b.ws, "svc", state("Transitioning"), kim); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		}, Healthy, 1, 2 * time.Minute},
		{"more time while asked", func(t *testing.T, b *bench, s *service) {
			s.status.Store(500)
			time.Sleep(30 * time.Second)
			if _, err := b.PatchEndpoint(t.Context(), b.ws, "svc", EndpointChange{Readiness: readiness(120, 5)}, kim); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		}, EndpointFailed, 0, 150 * time.Second},
		{"readiness taken away", func(t *testing.T, b *bench, s *service) {
			s.status.Store(500)
			time.Sleep(3 * time.Second)
			if _, err := b.PatchEndpoint(t.Context(), b.ws, "svc", EndpointChange{NoReadiness: true}, kim); err != nil {
				t.Fatal(err)
			}
			s.status.Store(200)
			time.Sleep(10 * time.Minute)
		}, Transitioning, 0, 3 * time.Second},
		{"the log is full for a while", func(t *testing.T, b *bench, s *service) {
			b.log.mu.Lock()
			b.log.fail = fault.New(fault.Unavailable, "ServiceUnavailable", "The log is full.")
			b.log.mu.Unlock()
			s.status.Store(200)
			time.Sleep(7 * time.Second)
			b.log.mu.Lock()
			b.log.fail = nil
			b.log.mu.Unlock()
			time.Sleep(10 * time.Minute)
		}, Healthy, 1, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBench(t), &service{}
				b.Service = b.restart(s.answer)
				stop := running(t, b.Service)
				began := time.Now()
				if _, _, err := b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{ModelIDs: ptr("churn:1"), Readiness: readiness(60, 5)}, kim); err != nil {
					t.Fatal(err)
				}
				tt.play(t, b, s)
				stop()
				e, err := b.GetEndpoint(t.Context(), b.ws, "svc")
				if tt.state == "" {
					if !fault.Is(err, fault.NotFound) {
						t.Errorf("endpoint is %+v, error %v", e, err)
					}
				} else if err != nil || e.State != tt.state {
					t.Errorf("endpoint is %+v, error %v", e, err)
				} else if got := e.Modified.At.Sub(began); got < tt.after || got > tt.after+2*time.Second {
					t.Errorf("last write after %v, want %v", got, tt.after)
				}
				if e.State != Transitioning && !e.Deadline.IsZero() {
					t.Errorf("deadline is still %v", e.Deadline)
				}
				if _, events := b.log.since(0); len(events) != tt.events {
					t.Errorf("%d events, want %d", len(events), tt.events)
				}
			})
		})
	}
}

func TestReadinessSurvivesRestart(t *testing.T) {
	tests := []struct {
		name   string
		down   time.Duration
		status int32
		want   EndpointState
		events int
	}{
		{"healthy within the deadline", 20 * time.Second, 200, Healthy, 1},
		{"not healthy: the old deadline holds", 20 * time.Second, 500, EndpointFailed, 0},
		{"healthy, the deadline passed meanwhile", time.Hour, 200, Healthy, 1},
		{"not healthy, the deadline passed meanwhile", time.Hour, 500, EndpointFailed, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBench(t), &service{}
				s.status.Store(500)
				b.Service = b.restart(s.answer)
				stop := running(t, b.Service)
				began := time.Now()
				if _, _, err := b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{Readiness: readiness(60, 5)}, kim); err != nil {
					t.Fatal(err)
				}
				time.Sleep(12 * time.Second)
				stop()

				asked := s.asked.Load()
				time.Sleep(tt.down)
				if s.asked.Load() != asked {
					t.Error("asked after Run returned")
				}
				s.status.Store(tt.status)
				up := time.Now()
				b.Service = b.restart(s.answer)
				stop = running(t, b.Service)
				time.Sleep(5 * time.Minute)
				stop()
				e, err := b.GetEndpoint(t.Context(), b.ws, "svc")
				if err != nil || e.State != tt.want || e.Modified.By != proberStamp.By {
					t.Errorf("endpoint is %+v, error %v", e, err)
				}
				latest := began.Add(61 * time.Second)
				if up.After(latest) {
					latest = up.Add(time.Second)
				}
				if e.Modified.At.After(latest) {
					t.Errorf("moved %v after it began", e.Modified.At.Sub(began))
				}
				if _, events := b.log.since(0); len(events) != tt.events {
					t.Errorf("%d events, want %d", len(events), tt.events)
				}
			})
		})
	}
}

func TestProbesEndWithTheirWorkspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBench(t), &service{}
		s.status.Store(500)
		b.Service = b.restart(s.answer)
		defer running(t, b.Service)()
		if _, _, err := b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{Readiness: readiness(600, 5)}, kim); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second)
		if err := b.store.Workspaces.Delete(t.Context(), b.ws.ID.Key(), 0); err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteAll(t.Context(), b.ws.UID); err != nil {
			t.Fatal(err)
		}
		asked := s.asked.Load()
		time.Sleep(time.Hour)
		if s.asked.Load() != asked {
			t.Errorf("asked %d times after the deletion", s.asked.Load()-asked)
		}
		if keys := slices.Sorted(func(yield func(string) bool) {
			for k := range b.log.facts {
				if !yield(k) {
					return
				}
			}
		}); len(keys) != 0 {
			t.Errorf("facts left: %q", keys)
		}
	})
}
