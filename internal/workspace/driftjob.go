package workspace

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// A drift run that the server computes is a job. Here is decided what may become of
// it; who computes begins it, tells how far it is, and ends it. Every step but the
// progress is stored, so a job that a crash cut short is open at the next start and
// begun again, and its end, with its events, is one write that happens once: it takes
// the run off the monitor's list of open ones.

// DriftJob names a drift run that is open. Without Run it names a monitor, without
// Monitor all of a workspace.
type DriftJob struct {
	Workspace resource.UID
	Monitor   string
	Run       string
}

// DriftTask is what there is to compute.
type DriftTask struct {
	DriftJob
	WorkspaceID resource.ID
	Settings    DriftMonitor // as it was when the job was begun
	Window      Window
	Seed        uint64
}

// DriftOutcome is how a job ended: a result, or why there is none.
type DriftOutcome struct {
	Result  *drift.Result
	Failure string
}

// DriftProgress tells how far a job is.
type DriftProgress struct {
	Phase string // what it does, a few words
	Rows  int64  // read so far
}

const (
	mostOpen  = 64 // drift runs of a monitor that wait or are computed
	mostEmpty = 7  // that a schedule looks for rows in a window
	mostBegun = 5  // that a job is begun; one that stops its process every time must end
)

// driftJobs tells whoever computes what has changed, and keeps how far jobs are.
type driftJobs struct {
	mu       sync.Mutex
	observer func(job DriftJob, ended bool)
	progress map[string]DriftProgress // by run id
}

func (j *driftJobs) tell(job DriftJob, ended bool) {
	j.mu.Lock()
	observer := j.observer
	if ended {
		delete(j.progress, job.Run)
	}
	j.mu.Unlock()
	if observer != nil {
		observer(job, ended)
	}
}

func (j *driftJobs) progressOf(d *DriftRun) {
	if d.Status.Terminal() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if p := j.progress[d.Name]; p.Phase != "" {
		d.Progress = &p
	}
}

// ObserveDrift has f told of every job that is to be computed, of every one that has
// ended, and of every monitor that was changed or deleted. There is one observer; f
// must return at once.
func (s *Service) ObserveDrift(f func(job DriftJob, ended bool)) {
	s.driftJobs.mu.Lock()
	defer s.driftJobs.mu.Unlock()
	s.driftJobs.observer = f
}

// NoteDriftProgress remembers how far a job is that was begun and has not ended. It is
// not stored.
func (s *Service) NoteDriftProgress(job DriftJob, p DriftProgress) {
	s.driftJobs.mu.Lock()
	defer s.driftJobs.mu.Unlock()
	if _, begun := s.driftJobs.progress[job.Run]; begun {
		s.driftJobs.progress[job.Run] = p
	}
}

// begun makes room for the progress of a job.
func (j *driftJobs) begun(job DriftJob) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.progress == nil {
		j.progress = map[string]DriftProgress{}
	}
	j.progress[job.Run] = DriftProgress{}
}

// driftRequest asks for a drift run that the server computes.
type driftRequest struct {
	window func(*DriftMonitor) Window
	field  string // of the request, that names the window
	kind   DriftKind
	force  bool
}

// startDriftRun makes a job of a window, or returns the drift run that there is.
func (s *Service) startDriftRun(ctx context.Context, ws resource.Workspace, monitor string, r driftRequest, t Terms) (d DriftRun, created bool, err error) {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return d, false, err
	}
	defer leave()
	defer s.locks.lock(monitorKey(ws.UID, monitor))()
	var m DriftMonitor
	if err := s.mustRead(ctx, monitorKey(ws.UID, monitor), monitorWords(monitor), &m); err != nil {
		return d, false, err
	}
	if field, reason := m.unready(); reason != "" {
		return d, false, fault.Field("properties."+field,
			"The server cannot compare for the drift monitor %q: %s. Change that, or give properties.driftCoefficient, computed elsewhere, for example by carillon drift run.", m.Name, reason)
	}
	window, now := r.window(&m), time.Now()
	early := now.Before(m.dueAt(window))
	if early && !r.force {
		return d, false, fault.Field(r.field, "The window %s of the drift monitor %q has all its rows at %s only (its end, and the latency of the schedule): ask again then, or set properties.force (--force) to compare what is there.",
			window, m.Name, m.dueAt(window).UTC().Format(windowLayout))
	}
	state, err := s.driftState(ctx, ws, m.Name)
	if err != nil {
		return d, false, err
	}
	if there, err := s.driftRunOf(ctx, ws, m.Name, &state, window, r); err != nil || there != "" {
		if err == nil {
			d, err = s.GetDriftRun(ctx, ws, m.Name, there)
		}
		return d, false, err
	}
	if len(state.Open) >= mostOpen {
		return d, false, fault.New(fault.Conflict, "TooManyDriftRuns", "The drift monitor %q has %d drift runs that are not done: wait for them, or cancel some.", m.Name, len(state.Open))
	}
	var w write
	d, run, release, err := s.newDriftRun(ctx, &w, ws, &m, window, t.By, now)
	if err != nil {
		return d, false, err
	}
	defer release()
	d.Kind, d.Early, d.Status, run.Status = r.kind, early, Queued, Queued
	run.Properties["startTime"], run.Properties["endTime"] = d.StartTime, d.EndTime
	state.Open = append(state.Open, openRun{d.Name, window.key()})
	w.fact(driftRunKey(ws.UID, m.Name, d.Name), &d)
	w.fact(driftStateKey(ws.UID, m.Name), &state)
	w.run(ws, &run, t.By, now, true, raises)
	if _, err := s.record(ctx, &w); err != nil {
		return d, false, err
	}
	s.driftJobs.tell(DriftJob{ws.UID, m.Name, d.Name}, false)
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.DriftMonitor, m.Name),
		slog.String(telemetry.Run, d.Name), slog.Int(telemetry.Events, w.raised))
	return d, true, nil
}

// driftRunOf returns the drift run that a window has already, "" for none that counts:
// an open one always does, one that ended unless it is to be forced, or had not the
// rows: it found none, or began before they were all there. A schedule does not repeat
// what failed or was cancelled, and looks for rows mostEmpty times; who asks by hand
// does.
func (s *Service) driftRunOf(ctx context.Context, ws resource.Workspace, monitor string, state *driftState, window Window, r driftRequest) (string, error) {
	for _, o := range state.Open {
		if o.Window == window.key() {
			return o.Run, nil
		}
	}
	if r.force {
		return "", nil
	}
	var c compared
	found, err := s.read(ctx, key(kindCompared, ws.UID, monitor, window.key()), &c)
	scheduled := r.kind == DriftScheduled
	if err != nil || !found || c.Early || c.Status != Completed && !scheduled {
		return "", err
	}
	if c.Status == Completed && !c.Judged && (c.Empty < mostEmpty || !scheduled) {
		var d DriftRun
		if _, err := s.read(ctx, driftRunKey(ws.UID, monitor, c.Run), &d); err != nil || d.Verdict == drift.NoData {
			return "", err
		}
	}
	return c.Run, nil
}

// StartScheduled makes a job of a window that is due, unless it has a drift run.
func (s *Service) StartScheduled(ctx context.Context, uid resource.UID, monitor string, window Window) error {
	ws, ok := s.workspaceOf(uid)
	if !ok {
		return nil
	}
	_, _, err := s.startDriftRun(ctx, ws, monitor, driftRequest{window: func(*DriftMonitor) Window { return window }, field: "properties.window", kind: DriftScheduled}, Terms{By: schedulerStamp})
	return err
}

// schedulerStamp is who starts and ends drift runs that nobody asked for by hand.
var schedulerStamp = resource.Stamp{By: "Carillon drift monitor", Kind: "Application"}

// BackFill is what a batch of windows came to.
type BackFill struct {
	Runs    []DriftRun // one for each window, the oldest first
	Started int        // the others were there
}

// BackFillChange says which windows are to be compared.
type BackFillChange struct {
	StartTime *string // a date or RFC 3339
	EndTime   *string
	Frequency *string // of the windows; nil means that of the schedule
	Force     *bool
}

// Problems returns what is wrong with the request by itself, in field order.
func (c BackFillChange) Problems() []*fault.Error {
	var problems []*fault.Error
	var times [2]time.Time
	for i, f := range []struct {
		target string
		value  *string
	}{{"properties.startTime", c.StartTime}, {"properties.endTime", c.EndTime}} {
		ok := false
		if f.value == nil {
			problems = append(problems, fault.Field(f.target, "A backfill needs %s, a date or a date-time, as in \"2026-03-02\".", f.target))
		} else if times[i], ok = parseDay(*f.value); !ok {
			problems = append(problems, fault.Field(f.target, "The value %s of %s is neither a date nor a date-time: write it as in \"2026-03-02\".", quote(*f.value), f.target))
		}
	}
	if len(problems) == 0 && !times[0].Before(times[1]) {
		problems = append(problems, fault.Field("properties.endTime", "The value %s of properties.endTime must lie after the start time %s.", quote(*c.EndTime), quote(*c.StartTime)))
	}
	if c.Frequency != nil {
		if _, ok := ParseFrequency(*c.Frequency); !ok {
			problems = append(problems, fault.Field("properties.frequency", "The frequency %s is not known: use %s.", quote(*c.Frequency), frequencyWords()))
		}
	}
	return problems
}

// BackFillDrift has the server compare the windows of a span that are over.
func (s *Service) BackFillDrift(ctx context.Context, ws resource.Workspace, monitor string, c BackFillChange, t Terms) (b BackFill, err error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return b, err
	}
	m, err := s.GetMonitor(ctx, ws, monitor)
	if err != nil {
		return b, err
	}
	var f Frequency
	switch {
	case c.Frequency != nil:
		f, _ = ParseFrequency(*c.Frequency)
	case m.Schedule != nil:
		f = m.Schedule.Frequency
	default:
		return b, fault.Field("properties.frequency", "The drift monitor %q has no schedule that says how long its windows are: give properties.frequency, %s.", m.Name, frequencyWords())
	}
	from, _ := parseDay(*c.StartTime)
	to, _ := parseDay(*c.EndTime)
	now, force := time.Now(), c.Force != nil && *c.Force
	if to.After(now) {
		to = now
	}
	windows := f.Cut(from, to, MostWindows)
	for n := len(windows); n > 0 && !force && m.dueAt(windows[n-1]).After(now); n-- {
		windows = windows[:n-1] // its rows are not all there
	}
	switch {
	case len(windows) > MostWindows:
		return b, fault.Field("properties.endTime", "From %s to %s there are more than %d windows of a %s: end at %s and go on from there.",
			*c.StartTime, *c.EndTime, MostWindows, strings.ToLower(string(f)), windows[MostWindows-1].End.Format(time.DateOnly))
	case len(windows) == 0:
		return b, fault.Field("properties.endTime", "From %s to %s no window of a %s is over yet, with the latency of the schedule: name an earlier span, or set properties.force (--force) to compare what is there.", *c.StartTime, *c.EndTime, strings.ToLower(string(f)))
	}
	for _, w := range windows {
		d, created, err := s.startDriftRun(ctx, ws, monitor, driftRequest{func(*DriftMonitor) Window { return w }, "properties.endTime", DriftBackFill, force}, t)
		if err != nil {
			return b, err
		}
		if created {
			b.Started++
		}
		d.Document = nil
		b.Runs = append(b.Runs, d)
	}
	return b, nil
}

// CancelDriftRun ends a job before it is done; on one that is Canceled it does
// nothing.
func (s *Service) CancelDriftRun(ctx context.Context, ws resource.Workspace, monitor, id string, status *string, t Terms) (d DriftRun, err error) {
	if status != nil && !strings.EqualFold(*status, string(Canceled)) {
		return d, fault.Field("properties.status", "The status %s cannot be set: a drift run can be cancelled, by \"Canceled\".", quote(*status))
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return d, err
	}
	defer leave()
	defer s.locks.lock(monitorKey(ws.UID, monitor))()
	if err := s.mustRead(ctx, driftRunKey(ws.UID, monitor, id), driftRunWords(id), &d); err != nil {
		return d, err
	}
	if err := t.hold(driftRunWords(id), true, d.ETag); err != nil || status == nil || d.Status == Canceled {
		return d, err
	}
	if d.Status.Terminal() {
		return d, mayNotMove(d.Name, d.Status, Canceled)
	}
	var m DriftMonitor
	if err := s.mustRead(ctx, monitorKey(ws.UID, monitor), monitorWords(monitor), &m); err != nil {
		return d, err
	}
	d.Status = Canceled
	_, err = s.endDriftRun(ctx, ws, &m, &d, nil, t.By)
	return d, err
}

// BeginDriftJob says what a job has to compute, and that it is being computed; false
// for one that is not open any more.
func (s *Service) BeginDriftJob(ctx context.Context, job DriftJob) (task DriftTask, ok bool, err error) {
	err = s.onDriftJob(ctx, job, func(ws resource.Workspace, m *DriftMonitor, d *DriftRun) error {
		if d.Begun == mostBegun {
			d.Status, d.Reason = Failed, fmt.Sprintf("It was begun %d times, and the server stopped each time before it was done.", d.Begun)
			_, err := s.endDriftRun(ctx, ws, m, d, nil, schedulerStamp)
			return err
		}
		unlock := s.locks.lock(runKey(ws.UID, m.Name, d.Name))
		run, found, err := s.runOfDrift(ctx, ws, m, d)
		if err == nil && found && run.Status == Canceled { // while it waited
			unlock()
			_, err := s.endDriftRun(ctx, ws, m, d, nil, schedulerStamp)
			return err
		}
		defer unlock()
		if err != nil {
			return err
		}
		now := time.Now()
		d.Begun++
		d.Threshold, d.BaseDatasetID, d.TargetDatasetID = m.Threshold, m.Baseline.DatasetID, m.Target.DatasetID
		var w write
		moves := d.Status != Running
		d.Status = Running
		d.stamp(schedulerStamp, now, false)
		w.fact(driftRunKey(ws.UID, m.Name, d.Name), d)
		if found && moves && MayMove(run.Status, Running) {
			run.Status = Running
			w.run(ws, &run, schedulerStamp, now, false, raises)
		}
		if _, err := s.record(ctx, &w); err != nil {
			return err
		}
		s.driftJobs.begun(job)
		window := d.span()
		task, ok = DriftTask{DriftJob{job.Workspace, m.Name, d.Name}, ws.ID, *m, window, seedOf(m, window)}, true
		return nil
	})
	return task, ok, err
}

// seedOf is the seed of a comparison. Source: spec/workspace.md section 7.4.
func seedOf(m *DriftMonitor, w Window) uint64 {
	if m.Seed != nil {
		return *m.Seed
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %s", m.DataDriftID, w.Start.UTC().Format(time.RFC3339))
	return h.Sum64()
}

// runOfDrift reads the experiment's run that a drift run also is, false if it was
// deleted. The caller holds the lock of that run.
func (s *Service) runOfDrift(ctx context.Context, ws resource.Workspace, m *DriftMonitor, d *DriftRun) (r Run, found bool, err error) {
	found, err = s.read(ctx, runKey(ws.UID, m.Name, d.Name), &r)
	return r, found, err
}

// EndDriftJob records how a job ended, with the events that are due. A job that is not
// open any more stays as it is.
func (s *Service) EndDriftJob(ctx context.Context, job DriftJob, o DriftOutcome) error {
	return s.onDriftJob(ctx, job, func(ws resource.Workspace, m *DriftMonitor, d *DriftRun) error {
		var result *drift.Result
		if r := o.Result; r != nil {
			result = r.Within(MaxDocument)
			d.Status, d.Coefficient, d.Verdict, d.Reason = Completed, r.Coefficient, r.Status, r.Reason
		} else {
			d.Status, d.Reason = Failed, clipped(o.Failure)
		}
		raised, err := s.endDriftRun(ctx, ws, m, d, result, schedulerStamp)
		if err == nil {
			s.log.LogAttrs(ctx, slog.LevelInfo, "drift run ended", slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.DriftMonitor, m.Name),
				slog.String(telemetry.Run, d.Name), slog.String("run_status", string(d.Status)), slog.String("verdict", string(d.Verdict)),
				slog.Float64("drift_coefficient", d.Coefficient), slog.Int(telemetry.Events, raised))
		}
		return err
	})
}

// onDriftJob does something with a job that is open.
func (s *Service) onDriftJob(ctx context.Context, job DriftJob, do func(ws resource.Workspace, m *DriftMonitor, d *DriftRun) error) error {
	ws, ok := s.workspaceOf(job.Workspace)
	if !ok {
		return nil
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return nil //nolint:nilerr // deleted between the two lines
	}
	defer leave()
	defer s.locks.lock(monitorKey(ws.UID, job.Monitor))()
	var m DriftMonitor
	found, err := s.read(ctx, monitorKey(ws.UID, job.Monitor), &m)
	if err != nil || !found {
		return err
	}
	var d DriftRun
	found, err = s.read(ctx, driftRunKey(ws.UID, job.Monitor, job.Run), &d)
	if err != nil || !found || d.Status.Terminal() {
		return err
	}
	return do(ws, &m, &d)
}

// endDriftRun stores that a drift run, and the experiment's run that it also is, came
// to a terminal status. A run that somebody else has ended or deleted stays as it is;
// if it was cancelled, so is the drift run. The caller holds the monitor's lock.
func (s *Service) endDriftRun(ctx context.Context, ws resource.Workspace, m *DriftMonitor, d *DriftRun, result *drift.Result, by resource.Stamp) (raised int, err error) {
	defer s.locks.lock(runKey(ws.UID, m.Name, d.Name))()
	run, found, err := s.runOfDrift(ctx, ws, m, d)
	if err != nil {
		return 0, err
	}
	state, err := s.driftState(ctx, ws, m.Name)
	if err != nil {
		return 0, err
	}
	state.Open = slices.DeleteFunc(state.Open, func(o openRun) bool { return o.Run == d.Name })
	if found && run.Status == Canceled {
		d.Status, d.Coefficient, d.Verdict, d.Reason, result = Canceled, 0, "", "", nil
	}
	now := time.Now()
	d.stamp(by, now, false)
	var w write
	if err := s.concludeDrift(ctx, &w, ws, m, d, &state, result, by, now); err != nil {
		return 0, err
	}
	if found && MayMove(run.Status, d.Status) {
		run.Status = d.Status
		d.note(&run)
		w.run(ws, &run, by, now, false, raises)
	}
	if _, err := s.record(ctx, &w); err != nil {
		return 0, err
	}
	s.driftJobs.tell(DriftJob{ws.UID, m.Name, d.Name}, true)
	return w.raised, nil
}

// endDriftRuns cancels every open drift run of a monitor that is about to go. The
// caller holds the monitor's lock.
func (s *Service) endDriftRuns(ctx context.Context, ws resource.Workspace, m *DriftMonitor, by resource.Stamp) error {
	state, err := s.driftState(ctx, ws, m.Name)
	if err != nil {
		return err
	}
	for _, o := range state.Open {
		var d DriftRun
		if err := s.mustRead(ctx, driftRunKey(ws.UID, m.Name, o.Run), driftRunWords(o.Run), &d); err != nil {
			return err
		}
		d.Status = Canceled
		if _, err := s.endDriftRun(ctx, ws, m, &d, nil, by); err != nil {
			return err
		}
	}
	return nil
}

// OpenDriftJobs returns the jobs that wait or were being computed when the process
// before ended, those of a monitor in their order.
func (s *Service) OpenDriftJobs(ctx context.Context) ([]DriftJob, error) {
	var jobs []DriftJob
	err := s.eachOf(ctx, kindDriftState, func(uid resource.UID, k string) error {
		var state driftState
		if _, err := s.read(ctx, k, &state); err != nil {
			return err
		}
		for _, o := range state.Open {
			jobs = append(jobs, DriftJob{uid, k[strings.LastIndexByte(k, '/')+1:], o.Run})
		}
		return nil
	})
	return jobs, err
}

// ScheduledMonitors returns the monitors that compare by themselves.
func (s *Service) ScheduledMonitors(ctx context.Context) ([]DriftJob, error) {
	var monitors []DriftJob
	err := s.eachOf(ctx, kindMonitor, func(uid resource.UID, k string) error {
		var m DriftMonitor
		if _, err := s.read(ctx, k, &m); err != nil {
			return err
		}
		if on, _ := m.Scheduled(); on {
			monitors = append(monitors, DriftJob{Workspace: uid, Monitor: m.Name})
		}
		return nil
	})
	return monitors, err
}

// ScheduleOf returns the schedule of a monitor, false if it does not compare by
// itself.
func (s *Service) ScheduleOf(ctx context.Context, uid resource.UID, monitor string) (schedule Schedule, ok bool, err error) {
	var m DriftMonitor
	found, err := s.read(ctx, monitorKey(uid, monitor), &m)
	if err != nil || !found {
		return schedule, false, err
	}
	if on, _ := m.Scheduled(); !on {
		return schedule, false, nil
	}
	return *m.Schedule, true, nil
}

// eachOf does something with each fact of a kind, of workspaces that are there.
func (s *Service) eachOf(ctx context.Context, kind string, do func(uid resource.UID, key string) error) error {
	keys, err := s.facts.FactKeys(ctx, kind+"/")
	if err != nil {
		return fmt.Errorf("list %s: %w", kind, err)
	}
	for _, k := range keys {
		uid, err := workspaceIn(k)
		if err != nil {
			return err
		}
		if _, ok := s.workspaceOf(uid); !ok {
			continue
		}
		if err := do(uid, k); err != nil {
			return err
		}
	}
	return nil
}
