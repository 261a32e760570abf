package workspace

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/mlevent"
)

// Run is one execution of an experiment. Its Name is the run id.
type Run struct {
	Head
	Experiment   string            `json:"experiment"` // name as spelled by the experiment
	ExperimentID string            `json:"experimentId"`
	Status       RunStatus         `json:"status"`
	RunType      string            `json:"runType"`
	Tags         map[string]string `json:"tags"`
	Properties   map[string]string `json:"properties"`
	StartTime    string            `json:"startTime,omitempty"` // RFC 3339, as given
	EndTime      string            `json:"endTime,omitempty"`   // RFC 3339, as given, else when the server heard of the end

	// Generation is 1, and one more each time the run is made again, or, of a mirrored
	// run, leaves a terminal status.
	Generation int64             `json:"generation"`
	Visits     map[RunStatus]int `json:"visits"` // how often the run came to each status

	Mirrored bool   `json:"mirrored,omitempty"` // another system keeps it; Experiment is any text then
	Source   string `json:"source,omitempty"`   // of a mirrored run: what reports it, "" for an MLflow server
	Reported string `json:"reported,omitempty"` // time of the newest report of it, "" for a run that is observed

	// EventExperimentID is what events call the experiment, "" for ExperimentID.
	EventExperimentID string `json:"eventExperimentId,omitempty"`
	// Sign and Heard are the last sign of life that was taken down of a mirrored run,
	// and when. Source: signs in mirror.go.
	Sign  string    `json:"sign,omitempty"`
	Heard time.Time `json:"heard,omitzero"`
}

// Parent is the name of its experiment in paths and keys.
func (r *Run) Parent() string {
	if r.Mirrored {
		return r.ExperimentID
	}
	return r.Experiment
}

func (r *Run) key(ws resource.UID) string {
	if r.Mirrored {
		return mirroredRunKey(ws, r.ExperimentID, r.Name)
	}
	return runKey(ws, r.Experiment, r.Name)
}

// DefaultRunType is the type of runs that were given none. It is not empty, for
// receivers filter on it. Source: spec/workspace.md section 2.1.
const DefaultRunType = "carillon.run"

// RunChange is what a request says of a run. Nil means that it says nothing.
type RunChange struct {
	Status     *string // a RunStatus in any case
	RunType    *string
	Tags       Labels
	Properties Labels
	StartTime  *string // RFC 3339
	EndTime    *string // RFC 3339
}

// Problems returns what is wrong with the change by itself, in field order.
func (c RunChange) Problems() []*fault.Error {
	problems := []*fault.Error{statusProblem(c.Status)}
	if c.RunType != nil {
		problems = append(problems, textProblem("properties.runType", *c.RunType))
	}
	problems = append(problems, labelProblems(c.Tags, c.Properties)...)
	return append(problems,
		timeProblem("properties.startTime", c.StartTime),
		timeProblem("properties.endTime", c.EndTime),
		orderProblem("properties.endTime", c.StartTime, c.EndTime, true))
}

// apply makes the change. Status and times that are not given stay as they are,
// also when the change replaces the run: a repeated request changes nothing.
func (c RunChange) apply(r *Run, replace bool) {
	set(&r.RunType, c.RunType, replace, DefaultRunType)
	r.Tags = c.Tags.apply(r.Tags, replace)
	r.Properties = c.Properties.apply(r.Properties, replace)
	set(&r.StartTime, c.StartTime, false, "")
	set(&r.EndTime, c.EndTime, false, "")
	if c.Status != nil {
		r.Status, _ = ParseRunStatus(*c.Status)
	}
}

// timesFit checks times that a request gives against those that the run has.
func timesFit(old, r *Run) error {
	if r.StartTime == old.StartTime && r.EndTime == old.EndTime || r.StartTime == "" || r.EndTime == "" {
		return nil
	}
	problem := orderProblem("properties.endTime", &r.StartTime, &r.EndTime, true)
	if problem != nil && r.EndTime == old.EndTime {
		problem = fault.Field("properties.startTime", "The value %s of properties.startTime must lie before the end time %s that the run has: give properties.endTime, too.", quote(r.StartTime), quote(r.EndTime))
	}
	return fault.Join(problem)
}

func runKey(ws resource.UID, experiment, id string) string { return key(kindRun, ws, experiment, id) }

func runWords(id string) string { return fmt.Sprintf("The run %q", id) }

// PutRun makes a run, or replaces type, tags and properties of one that exists
// and moves its status. A new run is NotStarted unless told otherwise. An
// experiment that does not exist is made on the way, in the same write.
func (s *Service) PutRun(ctx context.Context, ws resource.Workspace, experiment, id string, c RunChange, t Terms) (r Run, created bool, err error) {
	if err := fault.Join(append([]*fault.Error{experimentProblem(experiment), runIDProblem("runId", id)}, c.Problems()...)...); err != nil {
		return r, false, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return r, false, err
	}
	defer leave()
	if err := s.notMirrored(ctx, runKey(ws.UID, experiment, id), mirroredRunKey(ws.UID, experiment, id), runWords(id)); err != nil {
		return r, false, err
	}
	now := time.Now()
	e, isNew, release, err := s.holdExperiment(ctx, ws, experiment, t.By, now)
	if err != nil {
		return r, false, err
	}
	defer release()
	k := runKey(ws.UID, experiment, id)
	defer s.locks.lock(k)()

	var old Run
	found, err := s.read(ctx, k, &old)
	if err != nil {
		return r, false, err
	}
	if err := t.hold(runWords(id), found, old.ETag); err != nil {
		return r, false, err
	}
	r = old
	if !found {
		r = Run{Head: Head{Name: id}, Experiment: e.Name, ExperimentID: e.ExperimentID, Status: NotStarted}
		if r.Generation, err = s.firstNumber(ctx, ws.UID, k); err != nil {
			return r, false, err
		}
		r.Generation = max(r.Generation, 1)
	}
	c.apply(&r, true)
	var w write
	if isNew {
		w.fact(experimentKey(ws.UID, experiment), &e)
	}
	return s.storeRun(ctx, ws, &w, old, r, found, t.By, now)
}

// PatchRun changes what the request gives, tags and properties key by key, and
// moves the status.
func (s *Service) PatchRun(ctx context.Context, ws resource.Workspace, experiment, id string, c RunChange, t Terms) (r Run, err error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return r, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return r, err
	}
	defer leave()
	if err := s.notMirrored(ctx, runKey(ws.UID, experiment, id), mirroredRunKey(ws.UID, experiment, id), runWords(id)); err != nil {
		return r, err
	}
	k := runKey(ws.UID, experiment, id)
	defer s.locks.lock(k)()
	var old Run
	if err := s.mustRead(ctx, k, runWords(id), &old); err != nil {
		return r, err
	}
	if err := t.hold(runWords(id), true, old.ETag); err != nil {
		return r, err
	}
	r = old
	c.apply(&r, false)
	r, _, err = s.storeRun(ctx, ws, &write{}, old, r, true, t.By, time.Now())
	return r, err
}

// storeRun checks the move from old to r and stores it with the events due.
// found says whether old exists. The caller holds the run's lock.
func (s *Service) storeRun(ctx context.Context, ws resource.Workspace, w *write, old, r Run, found bool, by resource.Stamp, now time.Time) (Run, bool, error) {
	if found && same(&old, &r) {
		return old, false, nil
	}
	if err := labelsFit(r.Tags, r.Properties); err != nil {
		return r, false, err
	}
	if err := timesFit(&old, &r); err != nil {
		return r, false, err
	}
	if found && r.Status != old.Status && !MayMove(old.Status, r.Status) {
		return r, false, mayNotMove(r.Name, old.Status, r.Status)
	}
	raise := raisesNothing
	if !found || old.Status != r.Status {
		raise = raises
	}
	w.run(ws, &r, by, now, !found, raise)
	if _, err := s.record(ctx, w); err != nil {
		return r, false, err
	}
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.Experiment, r.Experiment),
		slog.String(telemetry.Run, r.Name), slog.String("run_status", string(r.Status)), slog.Int(telemetry.Events, w.raised))
	return r, !found, nil
}

// raising says what the storing of a run raises.
type raising uint8

const (
	raisesNothing raising = iota // the run has the status that it had
	comesSilently                // it came to its status, and nobody is told
	raises                       // it came to its status
	raisesRunning                // it came to its status by way of Running, which nobody saw
)

// run adds the fact of a run and, if it raises, the events that are due:
// RunStatusChanged on coming to one of the workspace's statusEvents, RunCompleted on
// coming to Completed, RunNotResponding where it is wanted. Source: design.md, "Workspace sub-resources".
func (w *write) run(ws resource.Workspace, r *Run, by resource.Stamp, now time.Time, isNew bool, raise raising) {
	r.stamp(by, now, isNew)
	if raise != raisesNothing {
		visits := map[RunStatus]int{r.Status: 1}
		if raise == raisesRunning {
			visits[mlevent.RunRunning] = 1
		}
		for status, n := range r.Visits {
			visits[status] += n
		}
		r.Visits = visits
		if r.Status.Terminal() && r.EndTime == "" && !r.Mirrored {
			r.EndTime = event.FormatTime(now)
		}
	}
	if raise == comesSilently {
		r.Told = nil
	}
	fact := w.fact(r.key(ws.UID), r)
	if raise < raises {
		return
	}
	payload := r.payload()
	var changed, completed raised
	if raise == raisesRunning && raisesStatus(ws, mlevent.RunRunning) {
		w.runStatusChanged(ws, r, mlevent.RunRunning, payload, now, fact)
	}
	if raisesStatus(ws, r.Status) {
		changed = w.runStatusChanged(ws, r, r.Status, payload, now, fact)
	}
	if r.Status == Completed {
		completed = w.runCompleted(ws, r, payload, now, fact)
	}
	if r.Status == mlevent.RunNotResponding {
		w.runNotResponding(ws, r, payload, now, fact)
	}
	w.came(fact, now, changed, completed)
}

// raisesStatus reports whether coming to a status raises RunStatusChanged in a
// workspace. One that was never told which do raises it for failed runs.
func raisesStatus(ws resource.Workspace, status RunStatus) bool {
	if ws.StatusEvents == nil {
		return status == Failed
	}
	return slices.ContainsFunc(ws.StatusEvents, func(s string) bool { return strings.EqualFold(s, string(status)) })
}

// GetRun reads a run.
func (s *Service) GetRun(ctx context.Context, ws resource.Workspace, experiment, id string) (r Run, err error) {
	return r, s.mustFind(ctx, runWords(id), &r, runKey(ws.UID, experiment, id), mirroredRunKey(ws.UID, experiment, id))
}

// ListRuns reads a page of an experiment's runs: our own, then those that another system
// has of an experiment of the same name.
func (s *Service) ListRuns(ctx context.Context, ws resource.Workspace, experiment string, page Page) ([]Run, string, error) {
	if _, err := s.GetExperiment(ctx, ws, experiment); err != nil {
		return nil, "", err
	}
	return list[Run](ctx, s, page, strings.Compare, key(kindRun, ws.UID, experiment), key(kindRun, ws.UID, mirrored(experiment)))
}

// DeleteRun forgets a run and raises nothing. One that is not there is no error.
func (s *Service) DeleteRun(ctx context.Context, ws resource.Workspace, experiment, id string, t Terms) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.notMirrored(ctx, runKey(ws.UID, experiment, id), mirroredRunKey(ws.UID, experiment, id), runWords(id)); err != nil {
		return err
	}
	return s.deleteRun(ctx, ws, runKey(ws.UID, experiment, id), id, t)
}

// deleteRun forgets the run of a key and leaves its generation behind.
func (s *Service) deleteRun(ctx context.Context, ws resource.Workspace, k, id string, t Terms) error {
	defer s.locks.lock(k)()
	var r Run
	found, err := s.read(ctx, k, &r)
	if err != nil {
		return err
	}
	if err := t.hold(runWords(id), found, r.ETag); err != nil || !found {
		return err
	}
	var w write
	w.gone(k)
	w.fact(traceKey(ws.UID, k), &trace{Next: r.Generation + 1})
	_, err = s.record(ctx, &w)
	return err
}
