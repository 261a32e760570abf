package workspace

import (
	"context"
	"maps"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/resource"
)

// SourceOpenLineage is the Source of runs that producers of OpenLineage events report.
const SourceOpenLineage = "openlineage"

// RunReport is what another system says of one of its runs by itself, when something
// happened to it. Reports come in any order and more than once; each says no more than
// it knows, so a run is what all of them say together.
type RunReport struct {
	Source       string // of the run
	ID           string
	ExperimentID string
	Experiment   string    // its name
	At           time.Time // when it happened, by the clock of who reports
	// Status is Running for a beginning, a terminal one for an end, "" for neither.
	Status     RunStatus
	RunType    string // "" when the report does not say
	Tags       map[string]string
	Properties map[string]string
}

// afterReport returns what a run is after a report, and what that means for it. Times
// order what one side reports; but an end counts whatever the clock of its reporter
// shows, for the beginning may be told by another machine.
// Source: spec/workspace.md sections 5.4 and 6.1.
func afterReport(old *Run, known bool, o *RunReport) (r Run, to step) {
	r = *old
	r.Head.Name, r.Mirrored, r.Source, r.ExperimentID, r.Experiment = o.ID, true, o.Source, o.ExperimentID, o.Experiment
	at := event.FormatTime(o.At)
	newer := at >= old.Reported
	r.Reported = max(at, old.Reported)
	if byDefault := o.Source + ".run"; o.RunType != "" && (newer || r.RunType == byDefault) {
		r.RunType = o.RunType
	} else if r.RunType == "" {
		r.RunType = byDefault
	}
	r.Tags, r.Properties = joined(old.Tags, o.Tags, newer), joined(old.Properties, o.Properties, newer)
	TidyLabels(r.Tags, r.Properties)
	if !known {
		r.Status, to = NotStarted, begins
	}
	switch {
	case o.Status == "":
	case !o.Status.Terminal():
		to = r.begin(o.Status, at, to)
	default:
		to = r.end(o.Status, at, to)
	}
	return r, to
}

// begin makes a reported beginning. One that is late, or told again, changes nothing.
func (r *Run) begin(status RunStatus, at string, to step) step {
	switch {
	case r.Status == NotStarted:
		to = max(to, moves)
	case r.Status.Terminal() && r.StartTime == "": // the one that belongs to the end, whatever its clock shows
		r.StartTime = at
		return to
	case r.Status.Terminal() && at > max(r.StartTime, r.EndTime):
		to = renews
	default:
		return to
	}
	r.Status, r.StartTime = status, at
	return to
}

// end makes a reported end. Of ends that contradict each other the latest counts.
func (r *Run) end(status RunStatus, at string, to step) step {
	switch {
	case at <= r.EndTime: // told again, or overtaken
		return to
	case r.Status == status:
	case r.Status.Terminal():
		to = renews
	default:
		to = max(to, moves)
	}
	r.Status, r.EndTime = status, at
	return to
}

// joined adds to labels what a report says. What was said by a newer report stays.
func joined(old, said map[string]string, newer bool) map[string]string {
	now := make(map[string]string, len(old)+len(said))
	maps.Copy(now, old)
	for k, v := range said {
		if _, there := now[k]; newer || !there {
			now[k] = v
		}
	}
	return now
}

// ReportRun takes what another system reports of a run. The answer is that it is stored,
// with the events that are due.
func (s *Service) ReportRun(ctx context.Context, ws resource.Workspace, o RunReport, by resource.Stamp) (out Observed, err error) {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return out, err
	}
	defer leave()
	k := mirroredRunKey(ws.UID, o.ExperimentID, o.ID)
	defer s.locks.lock(k)()
	var old Run
	if out.Known, err = s.read(ctx, k, &old); err != nil {
		return out, err
	}
	r, to := afterReport(&old, out.Known, &o)
	raise := raises
	switch {
	case to == stays:
		raise = raisesNothing
	case r.Status == NotStarted: // only heard of
		raise = comesSilently
	}
	return out, s.storeMirrored(ctx, ws, &old, &r, to, raise, by, &out)
}
