package mlflow

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
	"github.com/carillon-events/carillon/mlevent"
)

// observer submits to the ledger what is seen of one server. The rounds and whoever
// looks at single objects beside them have one each, with a client of its own, over the
// same known.
type observer struct {
	server resource.MLflowServer
	ws     resource.Workspace
	client *Client
	ledger Ledger
	log    *slog.Logger
	known  *known
}

// known is what is remembered of a server while it is followed. It is safe for
// concurrent use.
type known struct {
	swept atomic.Bool // everything was read once since the server was attached
	due   atomic.Bool // the next round reads everything

	mu          sync.Mutex
	experiments map[string]knownExperiment // by id
	lists       int                        // of experiments that were begun
	large       map[string]*largeRun       // by id
	deployed    string                     // what counted as a deployment when all models were read, a line each
}

// knownExperiment is an experiment, and the last list that it was met in or after.
type knownExperiment struct {
	name string
	list int
}

// largeRun is a run whose answer alone is larger than answers are read. What the server
// says of it is not known, so it is not followed.
type largeRun struct {
	experiment string // "" for not known
	out        bool   // searches leave it out; otherwise they try it once more
}

// mostLarge is how many runs are left out of searches at most, each a condition of them.
const mostLarge = 100

// errManyLarge is more of them: they cannot be named in a search any more.
var errManyLarge = fmt.Errorf("the MLflow server has more than %d runs of more than %d MiB each", mostLarge, answerLimit>>20)

func newKnown() *known {
	return &known{experiments: map[string]knownExperiment{}, large: map[string]*largeRun{}}
}

func (k *known) experiment(id string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.experiments[id].name
}

func (k *known) setExperiment(id, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.experiments[id] = knownExperiment{name, k.lists}
}

// beginList says that all experiments are listed from now on.
func (k *known) beginList() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists++
}

// endList forgets the experiments that were not met since the list was begun.
func (k *known) endList() {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.experiments, func(_ string, e knownExperiment) bool { return e.list < k.lists })
}

// leaveOut has searches leave a run out, and reports whether it is the first time.
func (k *known) leaveOut(id, experiment string) (first bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.large[id]; r != nil {
		r.out = true
		return false, nil
	}
	if len(k.large) == mostLarge {
		return false, errManyLarge
	}
	k.large[id] = &largeRun{experiment, true}
	return true, nil
}

// leftOut returns the runs that a search in some experiments leaves out, sorted.
func (k *known) leftOut(experiments []string) (ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, r := range k.large {
		if r.out && (r.experiment == "" || slices.Contains(experiments, r.experiment)) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (k *known) isLeftOut(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.large[id]
	return r != nil && r.out
}

// tryLarge leaves no run out until it is found too large again.
func (k *known) tryLarge() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.large {
		r.out = false
	}
}

// forgetLarge forgets the runs that were not found too large since tryLarge.
func (k *known) forgetLarge() {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.large, func(_ string, r *largeRun) bool { return !r.out })
}

// largeRuns returns the runs that are not followed, sorted.
func (k *known) largeRuns() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.large))
}

func (k *known) setDeployed(lines string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deployed = lines
}

// readDeployed reports whether all models were read since something counts as a
// deployment.
func (k *known) readDeployed(line string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(strings.Split(k.deployed, "\n"), line)
}

// experimentIDs returns the ids of the experiments, sorted.
func (k *known) experimentIDs() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.experiments))
}

// observeExperiment submits the name of an experiment, unless it has it already.
func (o *observer) observeExperiment(ctx context.Context, e experiment) error {
	if e.ID == "" {
		return nil
	}
	if o.known.experiment(e.ID) == e.Name {
		o.known.setExperiment(e.ID, e.Name) // it is still there
		return nil
	}
	if err := o.skip(ctx, "experiment", e.ID, o.ledger.ObserveExperiment(ctx, o.ws, e.ID, e.Name, stamp)); err != nil {
		return err
	}
	o.known.setExperiment(e.ID, e.Name)
	return nil
}

// nameOf returns the name of an experiment, and asks for one that no round has seen.
func (o *observer) nameOf(ctx context.Context, experimentID string) (string, error) {
	if name := o.known.experiment(experimentID); name != "" {
		return name, nil
	}
	e, err := o.client.experiment(ctx, experimentID)
	switch {
	case absent(err), invalid(err), err == nil && (e.ID != experimentID || e.Name == ""):
		return experimentID, nil
	case err != nil:
		return "", err
	}
	return e.Name, o.observeExperiment(ctx, e)
}

// seenAs is how a run was seen, besides what it is.
type seenAs struct {
	silent        bool // it raises nothing if the ledger does not know it
	labelsUnknown bool // without its tags and parameters
}

// asRead is how a run is seen that was read whole.
func (o *observer) asRead(r *run) seenAs {
	return seenAs{silent: o.silent(int64(max(r.Info.StartTime, r.Info.EndTime)))}
}

// observeRun submits one run as it was seen after mark.
func (o *observer) observeRun(ctx context.Context, r *run, mark workspace.Mark, as seenAs) (out workspace.Observed, err error) {
	if r.id() == "" || r.Info.ExperimentID == "" {
		return out, nil
	}
	name, err := o.nameOf(ctx, r.Info.ExperimentID)
	if err != nil {
		return out, err
	}
	seen := r.observation(name, o.server.Metrics)
	seen.Seen, seen.EndRenews, seen.Silent, seen.ThroughRunning = mark, o.server.EndTimeRenews, as.silent, o.server.SynthesizeRunning
	if o.server.ExperimentGUIDs {
		seen.EventExperimentID = mlevent.ExperimentGUID(o.ws.ID.String(), r.Info.ExperimentID)
	}
	if o.server.NotResponding > 0 {
		seen.QuietAfter, seen.Sign = time.Duration(o.server.NotResponding)*time.Second, r.sign()
	}
	seen.LabelsUnknown = as.labelsUnknown
	out, err = o.ledger.ObserveRun(ctx, o.ws, seen, stamp)
	return out, o.skip(ctx, "run", r.id(), err)
}

// observeVersion submits one version as it was seen after mark, with the tags of its
// registered model.
func (o *observer) observeVersion(ctx context.Context, v *modelVersion, inherited []pair, mark workspace.Mark) (workspace.Observed, error) {
	if !v.ready() || isPrompt(v.Tags) || v.Name == "" || v.Version == "" {
		return workspace.Observed{}, nil
	}
	if !o.server.InheritModelTags {
		inherited = nil
	}
	seen := v.observation(inherited)
	seen.Seen, seen.Silent = mark, o.silent(seen.Created)
	if o.known.swept.Load() {
		if err := o.findOldName(ctx, &seen); err != nil {
			return workspace.Observed{}, err
		}
	}
	out, err := o.ledger.ObserveModelVersion(ctx, o.ws, seen, stamp)
	return out, o.skip(ctx, "model version", v.Name+":"+v.Version, err)
}

// findOldName looks whether a version that is not known had another name until now.
// Source: spec/workspace.md section 5.7.
func (o *observer) findOldName(ctx context.Context, seen *workspace.VersionObservation) error {
	known, err := o.ledger.KnowsVersion(ctx, o.ws, *seen)
	if err != nil || known {
		return err
	}
	name, err := o.ledger.NameOfVersion(ctx, o.ws, *seen)
	if err != nil || name == "" {
		return err
	}
	now, err := o.client.modelVersion(ctx, name, seen.Version)
	if absent(err) || err == nil && int64(now.Created) != seen.Created { // another one that was made under the old name
		seen.RenamedFrom = name
	}
	return unlessAbsent(err)
}

// inheritedBy returns the tags that versions have from their registered model.
func (o *observer) inheritedBy(ctx context.Context, model string) ([]pair, error) {
	if !o.server.InheritModelTags {
		return nil, nil
	}
	m, err := o.client.registeredModel(ctx, model)
	return m.Tags, unlessAbsent(err)
}

// versionsOf observes the versions of a model, highest number first, up to the page
// that has the first that the ledger knows. pending says that one is not ready.
func (o *observer) versionsOf(ctx context.Context, model string) (events int, pending bool, err error) {
	mark := o.ledger.Mark()
	m, err := o.client.registeredModel(ctx, model)
	if err != nil && !absent(err) {
		return 0, false, err
	}
	for versions, err := range pages(o.client, "", func(token string) ([]modelVersion, string, error) {
		return o.client.modelVersions(ctx, model, token)
	}) {
		if err != nil {
			return events, pending, err
		}
		known := false
		for i := range versions {
			v := &versions[i]
			v.Aliases = m.aliasesOf(v.Version)
			pending = pending || v.Status == "PENDING_REGISTRATION"
			out, err := o.observeVersion(ctx, v, m.Tags, mark)
			if err != nil {
				return events, pending, err
			}
			events += out.Events
			known = known || out.Known
		}
		if known {
			break
		}
	}
	return events, pending, nil
}

// silent reports whether something that happened last at a moment, and that the ledger
// does not know, is of the time before the server was attached.
func (o *observer) silent(last int64) bool {
	return !o.known.swept.Load() && !o.server.EmitBacklog && last < o.server.Created.At.UnixMilli()
}

// leaveOut passes over a run whose answer is too large, and says so once: it must not
// hold up the rest.
func (o *observer) leaveOut(ctx context.Context, id, experiment string) error {
	first, err := o.known.leaveOut(id, experiment)
	if err == nil && first {
		o.log.LogAttrs(ctx, slog.LevelWarn, "MLflow run is not followed", slog.String("name", cut(id, 200)), slog.String("experiment", cut(experiment, 200)),
			slog.String(telemetry.Error, fmt.Sprintf("the MLflow server's answer about it is larger than %d MiB: remove tags, parameters or metrics of it", answerLimit>>20)))
	}
	return err
}

// skip passes over what the ledger can never take, such as a name that is too long: it
// must not hold up the rest.
func (o *observer) skip(ctx context.Context, what, name string, err error) error {
	if !fault.Is(err, fault.Invalid) {
		return err
	}
	o.log.LogAttrs(ctx, slog.LevelWarn, "MLflow object passed over", slog.String("what", what), slog.String("name", cut(name, 200)), slog.String(telemetry.Error, err.Error()))
	return nil
}
