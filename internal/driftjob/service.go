package driftjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// Ledger keeps what becomes of jobs. workspace.Service satisfies it.
type Ledger interface {
	ObserveDrift(func(job workspace.DriftJob, ended bool))
	OpenDriftJobs(context.Context) ([]workspace.DriftJob, error)
	BeginDriftJob(context.Context, workspace.DriftJob) (task workspace.DriftTask, open bool, err error)
	NoteDriftProgress(workspace.DriftJob, workspace.DriftProgress)
	EndDriftJob(context.Context, workspace.DriftJob, workspace.DriftOutcome) error

	ScheduledMonitors(context.Context) ([]workspace.DriftJob, error)
	ScheduleOf(ctx context.Context, ws resource.UID, monitor string) (workspace.Schedule, bool, error)
	StartScheduled(ctx context.Context, ws resource.UID, monitor string, w workspace.Window) error
}

// Datasets reads datasets. dataset.Places satisfies it.
type Datasets interface {
	Read(context.Context, dataset.Reference, drift.ReadOptions) (*drift.Sample, error)
}

// Config holds what a Service needs. Every field is needed unless it says so.
type Config struct {
	Ledger     Ledger
	Datasets   Datasets
	Logger     *slog.Logger
	Registerer prometheus.Registerer // optional
	// Processors that jobs may use together; 0 means half of them, at least one.
	Processors int
}

// mostJobs bounds the jobs that are computed at a time.
const mostJobs = 2

// Service computes drift runs. It is safe for concurrent use.
type Service struct {
	cfg     Config
	metrics *metrics
	jobs    int // at a time
	each    int // processors of each
	wake    chan struct{}

	mu      sync.Mutex
	waiting []job // the oldest first
	running map[job]context.CancelCauseFunc
	changed map[monitor]bool // their schedules are to be read
	plans   map[monitor]*plan
}

// monitor names a drift monitor; names compare ignoring case.
type monitor struct {
	workspace resource.UID
	name      string
}

// job names a drift run of a monitor.
type job struct {
	monitor
	run string
}

func (j job) named() workspace.DriftJob {
	return workspace.DriftJob{Workspace: j.workspace, Monitor: j.name, Run: j.run}
}

func monitorOf(j workspace.DriftJob) monitor {
	return monitor{j.Workspace, strings.ToLower(j.Monitor)}
}

// plan is the schedule of a monitor.
type plan struct {
	workspace.Schedule
	seen time.Time // windows that were due by then have their jobs
}

// New makes a Service. Nothing is computed until Run.
func New(c Config) *Service {
	processors := c.Processors
	if processors <= 0 {
		processors = max(1, runtime.GOMAXPROCS(0)/2)
	}
	jobs := min(mostJobs, processors)
	s := &Service{
		cfg: c, jobs: jobs, each: processors / jobs, wake: make(chan struct{}, 1),
		running: map[job]context.CancelCauseFunc{}, changed: map[monitor]bool{}, plans: map[monitor]*plan{},
	}
	s.metrics = newMetrics(c.Registerer, func() float64 { return s.count(func() int { return len(s.waiting) }) }, func() float64 { return s.count(func() int { return len(s.running) }) })
	c.Ledger.ObserveDrift(s.observe)
	return s
}

func (s *Service) count(of func() int) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(of())
}

// errEnded tells a job that is computed to stop: it was cancelled, or its monitor is gone.
var errEnded = errors.New("the drift run has ended")

// observe hears of jobs and monitors from the ledger.
func (s *Service) observe(j workspace.DriftJob, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := monitorOf(j)
	switch {
	case j.Run != "" && !ended:
		s.waiting = append(s.waiting, job{of, j.Run})
	case j.Run == "" && j.Monitor != "" && !ended:
		s.changed[of] = true
	default: // a job, a monitor or a whole workspace is gone
		gone := func(m monitor, run string) bool {
			return m.workspace == j.Workspace && (j.Monitor == "" || m == of) && (j.Run == "" || run == j.Run)
		}
		s.waiting = slices.DeleteFunc(s.waiting, func(w job) bool { return gone(w.monitor, w.run) })
		for r, cancel := range s.running {
			if gone(r.monitor, r.run) {
				cancel(errEnded)
			}
		}
		if j.Run == "" {
			for m := range s.plans {
				if gone(m, "") {
					delete(s.plans, m)
				}
			}
		}
	}
	s.signal()
}

func (s *Service) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// longestSleep bounds how long a jump of the clock goes unnoticed.
const longestSleep = 10 * time.Minute

// Run computes jobs until ctx ends, beginning with those that an earlier process left
// open. It returns after its last goroutine.
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
		next := s.schedule(ctx, time.Now())
		s.start(ctx, &group)
		timer := time.NewTimer(min(time.Until(next), longestSleep))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// resume finds what the ledger has open.
func (s *Service) resume(ctx context.Context) error {
	open, err := s.cfg.Ledger.OpenDriftJobs(ctx)
	if err != nil {
		return fmt.Errorf("find open drift runs: %w", err)
	}
	monitors, err := s.cfg.Ledger.ScheduledMonitors(ctx)
	if err != nil {
		return fmt.Errorf("find scheduled drift monitors: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range open {
		if left := (job{monitorOf(j), j.Run}); !slices.Contains(s.waiting, left) {
			s.waiting = append(s.waiting, left)
		}
	}
	for _, m := range monitors {
		s.changed[monitorOf(m)] = true
	}
	return nil
}

// retryPause is the time until what the ledger did not take is tried again.
const retryPause = 30 * time.Second

// schedule makes jobs of the windows that are due, and tells when the next one is.
func (s *Service) schedule(ctx context.Context, now time.Time) (next time.Time) {
	next = now.Add(longestSleep)
	s.mu.Lock()
	changed := s.changed
	s.changed = map[monitor]bool{}
	s.mu.Unlock()
	for m := range changed {
		schedule, on, err := s.cfg.Ledger.ScheduleOf(ctx, m.workspace, m.name)
		s.mu.Lock()
		switch {
		case err != nil:
			s.changed[m] = true
			next = earlier(next, now.Add(retryPause))
			s.failed(ctx, m, "schedule of drift monitor not read", err)
		case !on:
			delete(s.plans, m)
		case s.plans[m] == nil || s.plans[m].Schedule != schedule:
			s.plans[m] = &plan{Schedule: schedule}
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	plans := make(map[monitor]*plan, len(s.plans))
	for m, p := range s.plans {
		plans[m] = p
	}
	s.mu.Unlock()
	for m, p := range plans {
		if err := s.startDue(ctx, m, p, now); err != nil {
			s.failed(ctx, m, "drift run that is due not started", err)
			next = earlier(next, now.Add(retryPause))
			continue
		}
		next = earlier(next, p.Next(now))
	}
	return next
}

// startDue makes jobs of the windows of a plan that are due. With a new one, those before
// it are looked at again: one may have had no rows yet. Plans are the business of the
// goroutine of Run alone.
func (s *Service) startDue(ctx context.Context, m monitor, p *plan, now time.Time) error {
	if p.seen.After(p.Since) && len(p.Due(p.seen, now, 1)) == 0 {
		p.seen = now
		return nil
	}
	for _, w := range p.Due(p.Since, now, workspace.MostWindows) {
		if err := s.cfg.Ledger.StartScheduled(ctx, m.workspace, m.name, w); err != nil {
			return fmt.Errorf("window %s: %w", w, err)
		}
	}
	p.seen = now
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (s *Service) failed(ctx context.Context, m monitor, what string, err error) {
	if ctx.Err() == nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelError, what, slog.String(telemetry.DriftMonitor, m.name), slog.String(telemetry.Error, err.Error()))
	}
}

// start begins jobs while there is room, the one that waits longest first, and none of
// a monitor that has one under way.
func (s *Service) start(ctx context.Context, group *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(s.waiting) && len(s.running) < s.jobs; {
		j := s.waiting[i]
		if s.busy(j.monitor) {
			i++
			continue
		}
		s.waiting = slices.Delete(s.waiting, i, i+1)
		computing, cancel := context.WithCancelCause(ctx)
		s.running[j] = cancel
		group.Go(func() {
			again := s.compute(computing, j)
			cancel(errEnded)
			s.mu.Lock()
			delete(s.running, j)
			if again {
				s.waiting = append(s.waiting, j)
			}
			s.mu.Unlock()
			s.signal()
		})
	}
}

func (s *Service) busy(m monitor) bool {
	for r := range s.running {
		if r.monitor == m {
			return true
		}
	}
	return false
}
