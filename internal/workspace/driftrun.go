package workspace

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// DriftRun is one comparison that a drift monitor made, for one window of the
// target. Its Name is the run id. It never changes.
type DriftRun struct {
	Head
	Monitor         string    `json:"monitor"` // name as spelled by the monitor
	DataDriftID     string    `json:"dataDriftId"`
	BaseDatasetID   string    `json:"baseDatasetId"`
	TargetDatasetID string    `json:"targetDatasetId"`
	Status          RunStatus `json:"status"`
	StartTime       string    `json:"startTime"` // of the window, RFC 3339 as given; the window begins there
	EndTime         string    `json:"endTime"`   // of the window, which ends before it
	Coefficient     float64   `json:"driftCoefficient"`
	Threshold       float64   `json:"threshold"` // of the monitor at the time
}

// Drifted reports whether the coefficient is above the threshold, strictly.
// Source: spec/workspace.md section 1.6.
func (r *DriftRun) Drifted() bool { return r.Coefficient > r.Threshold }

// DriftRunType is the type of the experiment's run that a drift run also is.
const DriftRunType = "azureml.datadrift"

// DriftRunChange is what a request says of a new drift run.
type DriftRunChange struct {
	StartTime   *string // RFC 3339
	EndTime     *string // RFC 3339
	Coefficient *float64
}

// Problems returns what is wrong with the request by itself, in field order.
func (c DriftRunChange) Problems() []*fault.Error {
	var problems []*fault.Error
	for _, f := range []struct {
		target string
		value  *string
	}{{"properties.startTime", c.StartTime}, {"properties.endTime", c.EndTime}} {
		if f.value == nil {
			problems = append(problems, fault.Field(f.target, "A drift run needs %s: the target's window, as in \"2026-03-02T00:00:00Z\".", f.target))
		} else {
			problems = append(problems, timeProblem(f.target, f.value))
		}
	}
	problems = append(problems, orderProblem("properties.endTime", c.StartTime, c.EndTime, false))
	if c.Coefficient == nil {
		return append(problems, fault.Field("properties.driftCoefficient",
			"A drift run needs properties.driftCoefficient, a number from 0 to 1 that was computed elsewhere, for example by carillon drift run: this version of the server does not compute drift."))
	}
	return append(problems, shareProblem("properties.driftCoefficient", *c.Coefficient))
}

func driftRunKey(ws resource.UID, monitor, id string) string {
	return key(kindDriftRun, ws, monitor, id)
}

// PostDriftRun records a comparison of a drift monitor that was computed
// elsewhere. It is also a completed run of the experiment named like the monitor;
// the result, that run, the experiment if it is new, and the events of both are
// one write.
func (s *Service) PostDriftRun(ctx context.Context, ws resource.Workspace, monitor string, c DriftRunChange, t Terms) (d DriftRun, err error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return d, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return d, err
	}
	defer leave()
	defer s.locks.lock(monitorKey(ws.UID, monitor))()
	var m DriftMonitor
	if err := s.mustRead(ctx, monitorKey(ws.UID, monitor), monitorWords(monitor), &m); err != nil {
		return d, err
	}
	now := time.Now()
	e, isNew, release, err := s.holdExperiment(ctx, ws, m.Name, t.By, now)
	if err != nil {
		return d, err
	}
	defer release()
	id, unlock, err := s.freeDriftRunID(ctx, ws, m, now)
	if err != nil {
		return d, err
	}
	defer unlock()

	d = DriftRun{
		Head: Head{Name: id}, Monitor: m.Name, DataDriftID: m.DataDriftID, Status: Completed,
		BaseDatasetID: m.Baseline.DatasetID, TargetDatasetID: m.Target.DatasetID,
		StartTime: *c.StartTime, EndTime: *c.EndTime, Coefficient: *c.Coefficient, Threshold: m.Threshold,
	}
	d.stamp(t.By, now, true)
	run := Run{
		Head: Head{Name: id}, Experiment: e.Name, ExperimentID: e.ExperimentID, Status: Completed, RunType: DriftRunType,
		Tags: map[string]string{}, Properties: map[string]string{"dataDriftId": m.DataDriftID, "dataDriftName": m.Name},
		StartTime: event.FormatTime(now), EndTime: event.FormatTime(now), Generation: 1,
	}
	var w write
	if isNew {
		w.fact(experimentKey(ws.UID, e.Name), &e)
	}
	result := w.fact(driftRunKey(ws.UID, m.Name, id), &d)
	if ws.DriftRaiseOn != resource.DriftOnDrift || d.Drifted() {
		w.driftDetected(ws, &d, now, result)
	}
	w.run(ws, &run, t.By, now, true, raises)
	if _, err := s.record(ctx, &w); err != nil {
		return d, err
	}
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.DriftMonitor, m.Name),
		slog.String(telemetry.Run, id), slog.Int(telemetry.Events, w.raised))
	return d, nil
}

// freeDriftRunID returns the first id from now on that no run has, and keeps it
// until unlock is called. Source of its form: spec/workspace.md section 1.1.
func (s *Service) freeDriftRunID(ctx context.Context, ws resource.Workspace, m DriftMonitor, now time.Time) (id string, unlock func(), err error) {
	for ms := now.UnixMilli(); ; ms++ {
		id = fmt.Sprintf("%s_%d", m.DataDriftID, ms)
		k := runKey(ws.UID, m.Name, id)
		unlock = s.locks.lock(k)
		result, err := s.read(ctx, driftRunKey(ws.UID, m.Name, id), &DriftRun{})
		var run bool
		if err == nil {
			run, err = s.read(ctx, k, &Run{})
		}
		var before int64
		if err == nil {
			before, err = s.firstNumber(ctx, ws.UID, k)
		}
		if err == nil && !result && !run && before == 0 {
			return id, unlock, nil
		}
		unlock()
		if err != nil {
			return "", nil, err
		}
	}
}

func driftRunWords(id string) string { return fmt.Sprintf("The drift run %q", id) }

// GetDriftRun reads a drift run.
func (s *Service) GetDriftRun(ctx context.Context, ws resource.Workspace, monitor, id string) (d DriftRun, err error) {
	return d, s.mustRead(ctx, driftRunKey(ws.UID, monitor, id), driftRunWords(id), &d)
}

// ListDriftRuns reads a page of a monitor's runs, the oldest first.
func (s *Service) ListDriftRuns(ctx context.Context, ws resource.Workspace, monitor string, page Page) ([]DriftRun, string, error) {
	if _, err := s.GetMonitor(ctx, ws, monitor); err != nil {
		return nil, "", err
	}
	return list[DriftRun](ctx, s, key(kindDriftRun, ws.UID, monitor), page, strings.Compare)
}
