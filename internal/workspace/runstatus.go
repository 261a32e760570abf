package workspace

import (
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/mlevent"
)

// RunStatus is where a run stands. Who runs it moves it on; the server only
// checks that it moves along the life cycle. Source: spec/workspace.md section 1.2.
type RunStatus = mlevent.RunStatus

// The statuses that this package and its callers name. The last three are
// terminal: a run never leaves them.
const (
	NotStarted = mlevent.RunNotStarted
	Queued     = mlevent.RunQueued
	Running    = mlevent.RunRunning
	Completed  = mlevent.RunFinished
	Failed     = mlevent.RunFailed
	Canceled   = mlevent.RunCanceled
)

// RunStatuses are all statuses: in their normal order, then those outside it.
var RunStatuses = mlevent.RunStatuses()

// ParseRunStatus returns the status of a name, ignoring case.
func ParseRunStatus(name string) (RunStatus, bool) { return mlevent.ParseRunStatus(name) }

// rank is the place in the normal order. The three terminal statuses share the
// last one; 0 is no place.
func rank(s RunStatus) int {
	switch s {
	case mlevent.RunNotResponding, mlevent.RunPaused, mlevent.RunUnknown:
		return 0
	case Failed, Canceled:
		s = Completed
	}
	return 1 + slices.Index(RunStatuses, s)
}

// MayMove reports whether a run may move from one status to another. It may skip
// statuses and never goes back, except that a run which is NotResponding or
// Paused, or whose status was Unknown, goes on anywhere. A terminal status is
// never left.
func MayMove(from, to RunStatus) bool {
	switch {
	case from == to || from.Terminal():
		return false
	case rank(from) == 0 || rank(to) == 0:
		return true
	default:
		return rank(to) > rank(from)
	}
}

// mayNotMove is the fault of an impossible move.
func mayNotMove(run string, from, to RunStatus) error {
	if from.Terminal() {
		return fault.New(fault.Conflict, "Conflict",
			"The run %q is %s and cannot become %s: a run that has ended stays as it ended. Start a new run.", run, from, to)
	}
	var allowed []string
	for _, t := range RunStatuses {
		if MayMove(from, t) {
			allowed = append(allowed, string(t))
		}
	}
	return fault.New(fault.Conflict, "Conflict",
		"The run %q is %s and cannot become %s: a run does not go back. From %s it may become %s.", run, from, to, from, strings.Join(allowed, ", "))
}

func statusProblem(given *string) *fault.Error {
	if given == nil {
		return nil
	}
	if _, ok := ParseRunStatus(*given); ok {
		return nil
	}
	names := make([]string, len(RunStatuses))
	for i, s := range RunStatuses {
		names[i] = string(s)
	}
	return fault.Field("properties.status", "The run status %s is not known: use one of %s.", quote(*given), strings.Join(names, ", "))
}
