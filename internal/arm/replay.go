package arm

import (
	"net/http"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// replayOfLog is a replay of a range of the log. This API is Carillon's own.
type replayOfLog struct {
	ID         string             `json:"id"`
	Name       string             `json:"name"`
	Type       string             `json:"type"`
	Properties replayOfLogDetails `json:"properties"`
}

type replayOfLogDetails struct {
	State    broker.ReplayState `json:"state"`
	From     time.Time          `json:"from"`
	To       time.Time          `json:"to"`
	Filter   filter.Filter      `json:"filter"`
	Rate     float64            `json:"rate,omitempty"`
	DryRun   bool               `json:"dryRun,omitempty"`
	Created  time.Time          `json:"created,omitzero"`
	By       string             `json:"by,omitempty"`
	Ended    time.Time          `json:"ended,omitzero"`
	Progress float64            `json:"progress"` // part of the range that is done, 0 to 1
	Examined uint64             `json:"examinedEvents"`
	Matched  uint64             `json:"matchedEvents"`
	Replayed uint64             `json:"replayedEvents"`
	Skipped  uint64             `json:"skippedEvents"` // on their way already
	Missed   uint64             `json:"missedFrames"`  // of the log, purged before the replay came to them
}

func replayOf(es resource.ID, j broker.LogReplay) replayOfLog {
	id := es.Extension("Carillon.Delivery", "replays", j.ID)
	b := replayOfLog{ID: id.String(), Name: j.ID, Type: "Carillon.Delivery/replays", Properties: replayOfLogDetails{
		State: j.State, From: j.From, To: j.To, Filter: j.Filter, Rate: j.Rate, Created: j.Created, By: j.By, Ended: j.Ended, Progress: j.Progress(),
		Examined: j.Examined, Matched: j.Matched, Replayed: j.Replayed, Skipped: j.Skipped, Missed: j.Missed,
	}}
	return b
}

// createReplay begins a replay of the log to the event subscription before the
// provider, or with dryRun counts what it would deliver.
func createReplay(a *api, r *request) (answer, error) {
	f, err := r.readBody()
	c := manage.ReplayChange{From: f.str("from"), To: f.str("to"), Filter: f.raw("filter"), Rate: f.number("rate")}
	if raw, given := f.member("dryRun"); given {
		if c.DryRun = string(raw) == "true"; !c.DryRun && string(raw) != "false" {
			f.wrong("dryRun", raw, "true or false")
		}
	}
	c.Invalid = f.verdict(err)
	job, err := a.Plane.ReplayEvents(r.ctx, r.caller, r.scope, c)
	if err != nil {
		return answer{}, err
	}
	body := replayOf(r.scope, job)
	if c.DryRun {
		body.ID, body.Properties.DryRun, body.Properties.State, body.Properties.Progress = "", true, broker.ReplayDone, 1
		return ok(body), nil
	}
	return answer{status: http.StatusCreated, body: body}, nil
}

func listReplays(a *api, r *request) (answer, error) {
	jobs, err := a.Plane.Replays(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	return a.list(r, entriesOf(jobs, func(j *broker.LogReplay) entry {
		return entry{j.Created.Format(time.RFC3339Nano) + j.ID, j.ID, func() any { return replayOf(r.scope, *j) }}
	}))
}

func getReplay(a *api, r *request) (answer, error) {
	jobs, err := a.Plane.Replays(r.ctx, r.caller, r.scope)
	if err != nil {
		return answer{}, err
	}
	for _, j := range jobs {
		if j.ID == r.names[0] {
			return ok(replayOf(r.scope, j)), nil
		}
	}
	return answer{}, fault.New(fault.NotFound, "ResourceNotFound", "There is no replay '%.80s' to '%s'.", r.names[0], r.scope)
}

// cancelReplay ends a replay; it stays in the list.
func cancelReplay(a *api, r *request) (answer, error) {
	return deleted(true, a.Plane.CancelReplay(r.ctx, r.caller, r.scope, r.names[0]))
}
