package mlflow

import (
	"context"
	"log/slog"
	"time"

	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// said is what the answer to a request that changed something said of the object: a run,
// or a version of a model. An answer tells a state that nobody may be in time to read:
// a run that is resumed and ended within a second.
type said struct {
	run     *run          // of a run, as far as the answer had it
	tags    bool          // the answer had the tags of the run
	asked   bool          // the request asked for this status, so it is of now
	version *modelVersion // of a version, all of it

	mark  workspace.Mark // taken before the request was sent
	after *said          // told before the request was sent, and not submitted then; nil for none
	at    workspace.Mark // of what the ledger made of it
}

// enrichLimit bounds the reading of the tags and parameters of a run that an answer
// told of.
const enrichLimit = 10 * time.Second

// submit hands the ledger what an answer said. ask says that the server must be asked
// what is true: others learned of the object meanwhile, or it cannot be submitted.
func (o *observer) submit(ctx context.Context, what *said) (events int, ask bool) {
	mark := what.mark
	if what.after != nil { // our own knowledge does not make this old: it is of after that
		mark = max(mark, what.after.at)
		what.after = nil // the chain before it is of no use any more
	}
	var out workspace.Observed
	var err error
	if what.version != nil {
		var inherited []pair
		if inherited, err = o.inheritedBy(ctx, what.version.Name); err == nil {
			out, err = o.observeVersion(ctx, what.version, inherited, mark)
		}
	} else {
		out, err = o.submitRun(ctx, what, mark)
	}
	if !out.Stale {
		what.at = out.At
	}
	if err != nil {
		o.log.LogAttrs(ctx, slog.LevelWarn, "what an MLflow server answered was not recorded, it is asked again", slog.String(telemetry.Error, shown(err).Error()))
	}
	return out.Events, out.Stale || err != nil
}

// submitRun submits a run with the status that an answer told, and the tags and
// parameters that it has: they are not in the answer to an update. What else has changed
// by then is told by an answer of its own, which waits behind this one, or is for a round.
func (o *observer) submitRun(ctx context.Context, what *said, mark workspace.Mark) (workspace.Observed, error) {
	r, whole := *what.run, what.tags
	if !whole {
		inner, cancel := context.WithTimeout(ctx, enrichLimit)
		now, err := o.client.run(inner, r.id())
		cancel()
		if whole = err == nil && now.id() == r.id(); whole {
			r.Data = now.Data
		}
	}
	as := o.asRead(&r)
	as.silent, as.labelsUnknown = as.silent && !what.asked, !whole
	return o.observeRun(ctx, &r, mark, as)
}
