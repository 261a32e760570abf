package workspace

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	askLimit    = 10 * time.Second // for one answer
	shortestAsk = time.Second      // also when the deadline is nearer: the last look is a real one
)

// proberStamp is who moves an endpoint that answered, or did not.
var proberStamp = resource.Stamp{By: "Carillon readiness probe", Kind: "Application"}

// probe is the asking after one deployment: one revision of one endpoint. It is
// made from the endpoint's fact, so it goes on after a restart.
type probe struct {
	key       string // of the endpoint's fact
	service   string
	workspace resource.UID
	revision  int64
	readiness Readiness
	deadline  time.Time
}

// probes starts and ends probes. Operations on endpoints say what should run; the
// goroutines belong to Service.Run.
type probes struct {
	client *http.Client
	wake   chan struct{} // one signal: waiting has grown

	mu      sync.Mutex
	waiting map[string]probe         // to be started by Run, by key
	running map[string]*runningProbe // by key
}

type runningProbe struct{ cancel context.CancelFunc }

// begin makes p the probe of its endpoint, in place of any other.
func (ps *probes) begin(p probe) {
	ps.end(p.key)
	ps.mu.Lock()
	ps.waiting[p.key] = p
	ps.mu.Unlock()
	select {
	case ps.wake <- struct{}{}:
	default:
	}
}

// end stops the probe of an endpoint, if there is one.
func (ps *probes) end(key string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.waiting, key)
	if r := ps.running[key]; r != nil {
		r.cancel()
		delete(ps.running, key)
	}
}

// Run asks readiness addresses until ctx ends, beginning with the endpoints that
// an earlier process left Transitioning. It returns after its last goroutine.
func (s *Service) Run(ctx context.Context) error {
	if err := s.resume(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop before it began
		}
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	for {
		s.start(ctx, &group)
		select {
		case <-ctx.Done():
			return nil
		case <-s.probes.wake:
		}
	}
}

// resume begins the probes that the facts ask for.
func (s *Service) resume(ctx context.Context) error {
	keys, err := s.facts.FactKeys(ctx, kindEndpoint+"/")
	if err != nil {
		return fmt.Errorf("list online endpoints: %w", err)
	}
	for _, k := range keys {
		if err := s.resumeOne(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) resumeOne(ctx context.Context, k string) error {
	defer s.locks.lock(k)()
	var e OnlineEndpoint
	found, err := s.read(ctx, k, &e)
	if err != nil {
		return err
	}
	if found && !e.Deadline.IsZero() {
		uid, err := workspaceIn(k)
		if err != nil {
			return err
		}
		s.probes.begin(probe{key: k, service: e.Name, workspace: uid, revision: e.Revision, readiness: *e.Readiness, deadline: e.Deadline})
	}
	return nil
}

// start starts the probes that wait.
func (s *Service) start(ctx context.Context, group *sync.WaitGroup) {
	ps := &s.probes
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for k, p := range ps.waiting {
		delete(ps.waiting, k)
		ctx, cancel := context.WithCancel(ctx)
		r := &runningProbe{cancel: cancel}
		ps.running[k] = r
		group.Go(func() {
			defer ps.forget(k, r)
			s.probe(ctx, p)
		})
	}
}

func (ps *probes) forget(key string, r *runningProbe) {
	r.cancel()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.running[key] == r {
		delete(ps.running, key)
	}
}

// probe asks until the endpoint is ready, its deadline has passed, or ctx ends.
// A deadline that passed while no process ran still gets one look.
func (s *Service) probe(ctx context.Context, p probe) {
	began, asked := time.Now(), 0
	ws, _ := s.workspaceOf(p.workspace)
	log := s.log.With(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.OnlineEndpoint, p.service))
	for {
		state := Transitioning
		asked++
		if s.probes.ask(ctx, p) {
			state = Healthy
		} else if !time.Now().Before(p.deadline) {
			state = EndpointFailed
		}
		if ctx.Err() != nil {
			return
		}
		pause := time.Duration(p.readiness.IntervalSeconds) * time.Second
		if state == Transitioning {
			pause = min(pause, time.Until(p.deadline))
		} else {
			err := s.settle(ctx, p, state)
			if err == nil {
				log.LogAttrs(ctx, slog.LevelInfo, "readiness probe ended", slog.String("endpoint_state", string(state)),
					slog.Int(telemetry.Attempt, asked), slog.Duration(telemetry.Duration, time.Since(began)))
				return
			}
			log.LogAttrs(ctx, slog.LevelError, "readiness probe could not record", slog.Any(telemetry.Error, err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// ask makes one request and reports whether the answer was 2xx.
func (ps *probes) ask(ctx context.Context, p probe) bool {
	ctx, cancel := context.WithTimeout(ctx, max(shortestAsk, min(askLimit, time.Until(p.deadline))))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.readiness.URL, nil)
	if err != nil {
		return false
	}
	request.Header.Set("User-Agent", "carillon-readiness")
	response, err := ps.client.Do(request)
	if err != nil {
		return false
	}
	_, _ = io.CopyN(io.Discard, response.Body, 4<<10) // so that the connection can be used again
	_ = response.Body.Close()
	return response.StatusCode >= 200 && response.StatusCode <= 299
}

// settle moves the endpoint to where the probe found it, unless somebody else
// moved it, changed its readiness or deleted it meanwhile.
func (s *Service) settle(ctx context.Context, p probe, state EndpointState) error {
	ws, ok := s.workspaceOf(p.workspace)
	if !ok {
		return nil
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return nil // deleted between the two lines
	}
	defer leave()
	defer s.locks.lock(p.key)()
	var old OnlineEndpoint
	found, err := s.read(ctx, p.key, &old)
	if err != nil {
		return err
	}
	if !found || old.State != Transitioning || old.Revision != p.revision || !old.Deadline.Equal(p.deadline) {
		return nil
	}
	e := old
	e.State = state
	_, _, err = s.storeEndpoint(ctx, ws, old, e, true, proberStamp)
	return err
}
