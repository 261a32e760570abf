package driftjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// compute does one job, and tells whether it is to be done again: the ledger did not
// take that it was begun.
func (s *Service) compute(ctx context.Context, j job) (again bool) {
	began := time.Now()
	task, open, err := s.cfg.Ledger.BeginDriftJob(ctx, j.named())
	if err != nil {
		s.failed(ctx, j.monitor, "drift run not begun", err)
		return !s.stopped(ctx, retryPause)
	}
	if !open {
		return false
	}
	o := s.outcome(ctx, task)
	if ctx.Err() != nil { // cancelled, which is stored; or cut short, and begun again at the next start
		return false
	}
	for {
		err := s.cfg.Ledger.EndDriftJob(ctx, j.named(), o)
		if err == nil {
			break
		}
		s.failed(ctx, j.monitor, "end of drift run not recorded", err)
		if s.stopped(ctx, retryPause) {
			return false
		}
	}
	s.metrics.ended.WithLabelValues(label(o)).Inc()
	s.metrics.duration.Observe(time.Since(began).Seconds())
	return false
}

// stopped waits, and tells whether ctx ended meanwhile.
func (s *Service) stopped(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-timer.C:
		return false
	}
}

func label(o workspace.DriftOutcome) string {
	switch {
	case o.Result == nil:
		return outcomeFailed
	case o.Result.Status != drift.OK:
		return outcomeUntold
	case o.Result.HasDrift:
		return outcomeDrift
	}
	return outcomeNoDrift
}

// longest bounds a job: a server that sends a file byte by byte, or one without an end,
// must not keep others from their turn for ever.
const longest = 6 * time.Hour

var errTooLong = fmt.Errorf("it took more than %d hours, the most that a drift run may: have it read fewer rows, or from a server that is quicker", int(longest.Hours()))

// outcome compares, whatever happens on the way.
func (s *Service) outcome(ctx context.Context, task workspace.DriftTask) (o workspace.DriftOutcome) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "drift run failed by a fault of the server", slog.String(telemetry.Run, task.Run),
				slog.Any(telemetry.Error, p), slog.String("stack", string(debug.Stack())))
			o = workspace.DriftOutcome{Failure: "The server made a mistake; its log says more."}
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, longest, errTooLong)
	defer cancel()
	result, err := s.compare(ctx, task)
	if err != nil {
		return workspace.DriftOutcome{Failure: secret.Redact(err.Error())}
	}
	return workspace.DriftOutcome{Result: result}
}

// compare reads both datasets and compares them. The target comes first: without rows
// there is nothing to compare.
func (s *Service) compare(ctx context.Context, task workspace.DriftTask) (*drift.Result, error) {
	m := &task.Settings
	p := &pace{ctx: ctx, tell: func(progress workspace.DriftProgress) { s.cfg.Ledger.NoteDriftProgress(task.DriftJob, progress) }}
	read := func(which string, d workspace.Dataset, r dataset.Reference, period *drift.Period) (*drift.Sample, error) {
		p.enter("reading the " + which)
		r.URI, r.Format = d.URI, drift.Format(d.Format)
		o := drift.ReadOptions{Seed: task.Seed, Period: period, Pause: p.rows}
		if len(m.Features) > 0 {
			o.Features = m.Features
		}
		sample, err := s.cfg.Datasets.Read(ctx, r, o)
		if err != nil {
			return nil, fmt.Errorf("the %s cannot be read: %w", which, err)
		}
		return sample, nil
	}
	var period *drift.Period
	if column := m.Target.TimestampColumn; column != "" {
		period = &drift.Period{Column: column, From: task.Window.Start, To: task.Window.End}
	}
	target, err := read("target", m.Target, dataset.Reference{From: task.Window.Start, To: task.Window.End}, period)
	if errors.Is(err, dataset.ErrNoFiles) && dataset.Patterned(m.Target.URI) {
		target, err = drift.NewReader(drift.ReadOptions{}).Sample() // nothing was written in the window
	}
	if err != nil {
		return nil, err
	}
	var baseline *drift.Sample
	if target.Rows > 0 {
		baseline, err = read("baseline", m.Baseline, dataset.Reference{}, nil)
	} else {
		baseline, err = drift.NewReader(drift.ReadOptions{}).Sample()
	}
	if err != nil {
		return nil, err
	}
	p.enter("comparing")
	o := drift.Options{Method: m.Method, Threshold: &m.Threshold, MinRows: m.MinRows, Seed: task.Seed, Processors: s.each, Pause: p.again}
	result, err := drift.Compare(baseline, target, o)
	if err != nil {
		return nil, err
	}
	if target.Rows == 0 {
		result.Reason = "the target has no rows in the window"
	}
	return result, nil
}

// pace lets others run, ends the work when it is to end, and tells how far it is.
type pace struct {
	ctx   context.Context
	tell  func(workspace.DriftProgress)
	phase string
	told  time.Time
	read  int64 // of the phases before
	last  int64 // of this one
}

// tellEvery is the time between two notes of progress.
const tellEvery = 250 * time.Millisecond

func (p *pace) enter(phase string) {
	p.read, p.last, p.phase, p.told = p.read+p.last, 0, phase, time.Now()
	p.tell(workspace.DriftProgress{Phase: phase, Rows: p.read})
}

// rows is called while a dataset is read, by one goroutine.
func (p *pace) rows(n int64) error {
	if now := time.Now(); now.Sub(p.told) >= tellEvery {
		p.told = now
		p.tell(workspace.DriftProgress{Phase: p.phase, Rows: p.read + n})
	}
	p.last = n
	return p.again()
}

// again lets others run, and tells whether to go on.
func (p *pace) again() error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	runtime.Gosched()
	return nil
}
