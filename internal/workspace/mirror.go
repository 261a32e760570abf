package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/mlevent"
)

// A mirrored object is one that another system keeps, such as an MLflow server.
// Who watches that system submits what was seen, as often as it likes and from as
// many places as it likes; here is decided, with the object locked, whether it is
// news, and the answer is one write with the events that are due. So the fact of
// an object is the ledger of what was raised for it.
//
// Mirrored objects lie beside the others under keys of their own, for names of
// other systems are any text and differ in case. The API reads both and changes
// only the others. Source: spec/workspace.md sections 5.3 and 5.4.

// Mark is a point in the ledger's time. What was read from elsewhere since a mark
// was taken does not override what the ledger learned after it.
type Mark string

// Mark returns the present point: take it before asking the other system.
func (s *Service) Mark() Mark {
	if newest := s.newest.Load(); newest != nil {
		return *newest
	}
	return Mark(engine.Sequencer(s.facts.Generation(), 0))
}

// advance notes the sequencer of a fact that was stored.
func advance(newest *atomic.Pointer[Mark], to Mark) {
	for {
		old := newest.Load()
		if old != nil && *old >= to || newest.CompareAndSwap(old, &to) {
			return
		}
	}
}

// RunObservation is how a run was seen in another system.
type RunObservation struct {
	ID           string
	ExperimentID string // of the other system, as it is
	Experiment   string // its name there
	Status       RunStatus
	RunType      string
	Tags         map[string]string
	Properties   map[string]string
	StartTime    string // event time, "" for none
	EndTime      string // event time, "" for none

	// LabelsUnknown: of a run that is known its tags and type stay, and those of its
	// properties that are not given.
	LabelsUnknown bool

	Seen   Mark // taken before the run was asked for
	Silent bool // a run that the ledger does not know raises nothing: it is of the time before
	// EndRenews has a run that ended at another time in the same way count as one that
	// went on and ended again.
	EndRenews bool
	// ThroughRunning has a run that ended without having been seen Running come to
	// Running first.
	ThroughRunning bool

	EventExperimentID string // what events call the experiment, "" for ExperimentID
	// QuietAfter has a run that is Running and gives no sign of life for so long count as
	// NotResponding; 0 for never. Sign is what it gave last: it differs from any before.
	QuietAfter time.Duration
	Sign       string
}

// Observed is what became of an observation.
type Observed struct {
	Known   bool // the ledger had the object before
	Changed bool // something was stored
	Events  int
	Stale   bool      // the ledger learned of something newer since the observation was begun
	Since   time.Time // when the ledger last learned something of the object
	At      Mark      // of what it learned then
}

// step is what an observation of a run means.
type step uint8

const (
	stays  step = iota // no other status
	moves              // another status of the same generation
	renews             // a terminal status was left: a new generation
	begins             // not known before
)

// stepOf decides what the observation o means for a run in the status of old.
// Source: spec/workspace.md section 5.4, rules 1 to 6.
func stepOf(old *Run, known bool, o *RunObservation) step {
	switch {
	case !known:
		return begins
	case o.Status == old.Status:
		if o.EndRenews && o.Status.Terminal() && o.EndTime > old.EndTime && old.EndTime != "" {
			return renews
		}
		return stays
	case old.Status.Terminal():
		return renews
	}
	return moves
}

// ObserveRun takes what was seen of a run. Its experiment has been observed before.
func (s *Service) ObserveRun(ctx context.Context, ws resource.Workspace, o RunObservation, by resource.Stamp) (out Observed, err error) {
	if err := namesFit(o.ID, o.ExperimentID, o.Experiment, o.EventExperimentID, o.RunType); err != nil {
		return out, err
	}
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
	out.Since, out.At = old.Modified.At, Mark(old.ETag)
	if out.Known && Mark(old.ETag) > o.Seen {
		out.Stale = true
		return out, nil
	}
	r := old
	r.Head.Name, r.Mirrored, r.ExperimentID, r.Experiment = o.ID, true, o.ExperimentID, o.Experiment
	r.RunType, r.StartTime, r.EndTime = o.RunType, o.StartTime, o.EndTime
	r.Tags, r.Properties, r.EventExperimentID = o.Tags, o.Properties, o.EventExperimentID
	o.Status = r.listen(&o, time.Now())
	if out.Known && o.LabelsUnknown {
		r.RunType, r.Tags, r.Properties = old.RunType, joined(old.Tags, nil, true), joined(old.Properties, o.Properties, true)
		TidyLabels(r.Tags, r.Properties)
	}
	to := stepOf(&old, out.Known, &o)
	r.Status = o.Status
	raise := raises
	switch {
	case to == stays:
		raise = raisesNothing
	case to == begins && o.Silent:
		raise = comesSilently
	case o.ThroughRunning && r.Status.Terminal() && (to == renews || old.Visits[mlevent.RunRunning] == 0):
		raise = raisesRunning
	}
	err = s.storeMirrored(ctx, ws, &old, &r, to, raise, by, &out)
	return out, err
}

// storeMirrored stores what a mirrored run became, unless nothing did, with the events
// that are due. The caller holds the run's lock.
func (s *Service) storeMirrored(ctx context.Context, ws resource.Workspace, old, r *Run, to step, raise raising, by resource.Stamp, out *Observed) error {
	switch to {
	case begins:
		r.Generation = 1
	case renews:
		r.Generation, r.Visits = old.Generation+1, nil
	}
	if out.Known && to == stays && same(old, r) {
		return nil
	}
	if err := labelsFit(r.Tags, r.Properties); err != nil {
		return err
	}
	now := time.Now()
	var w write
	w.run(ws, r, by, now, !out.Known, raise)
	release, err := s.indexRun(ctx, &w, ws.UID, r.key(ws.UID), out.Known && old.asked(), r.asked())
	if err != nil {
		return err
	}
	defer release()
	if _, err := s.record(ctx, &w); err != nil {
		return err
	}
	out.Changed, out.Events, out.Since, out.At = true, w.raised, now, Mark(r.ETag)
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Run, r.Name), slog.Int(telemetry.Events, w.raised))
	return nil
}

// signsInQuiet is how many signs of life are taken down, at most, in the time after
// which a run counts as NotResponding: each costs a write.
const signsInQuiet = 4

// listen takes down the sign of life that o brings of the run and returns its status:
// NotResponding instead of Running when the last sign is older than o.QuietAfter. What
// follows a sign closely is taken down with the next, so a run counts as NotResponding
// after one to one and a quarter of the time. Source: spec/workspace.md section 5.7,
// "Zombies".
func (r *Run) listen(o *RunObservation, now time.Time) RunStatus {
	switch quiet := now.Sub(r.Heard); {
	case o.QuietAfter == 0 || o.Status != mlevent.RunRunning:
		r.Sign, r.Heard = "", time.Time{}
	case r.Heard.IsZero(), o.Sign != r.Sign && (quiet >= o.QuietAfter/signsInQuiet || r.Status == mlevent.RunNotResponding):
		r.Sign, r.Heard = o.Sign, now.UTC()
	case o.Sign == r.Sign && quiet >= o.QuietAfter:
		return mlevent.RunNotResponding
	}
	return o.Status
}

// VersionObservation is how a model version was seen in another system.
type VersionObservation struct {
	Model, Version string
	Created        int64 // Unix milliseconds; tells the version from one of its number before it
	RunID          string
	URI            string
	Tags           map[string]string
	Properties     map[string]string

	// RenamedFrom is the name that the model had, "" when it was not renamed. The
	// version that the ledger knows by it takes the new one and is not registered again.
	// Where a version that was made since has the name already, what this one had last is
	// not known any more, and nothing is raised of it.
	RenamedFrom string

	Seen   Mark
	Silent bool
}

// ObserveModelVersion takes what was seen of a model version.
func (s *Service) ObserveModelVersion(ctx context.Context, ws resource.Workspace, o VersionObservation, by resource.Stamp) (out Observed, err error) {
	if err := namesFit(o.Model, o.Version, o.RunID, o.URI); err != nil {
		return out, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return out, err
	}
	defer leave()
	mk, k := mirroredModelKey(ws.UID, o.Model), mirroredVersionKey(ws.UID, o.Model, o.Version)
	from := k
	if o.RenamedFrom != "" {
		from = mirroredVersionKey(ws.UID, o.RenamedFrom, o.Version)
	}
	defer s.locks.lock(mk)()
	defer s.locks.lock(min(k, from))()
	if from != k {
		defer s.locks.lock(max(k, from))()
	}
	var old ModelVersion
	if out.Known, err = s.read(ctx, k, &old); err != nil {
		return out, err
	}
	out.Since = old.Modified.At
	if out.Known && (Mark(old.ETag) > o.Seen || o.Created < old.Registered) {
		out.Stale = true
		return out, nil
	}
	out.Known = out.Known && old.Registered == o.Created
	now := time.Now()
	var w write
	m := old
	silent := o.Silent
	if !out.Known {
		m = ModelVersion{}
		if from != k {
			found, err := s.read(ctx, from, &m)
			if err != nil {
				return out, err
			}
			if found && m.Registered == o.Created {
				w.gone(from)
			} else {
				m, silent = ModelVersion{}, true
			}
		}
	}
	isNew, before := m.Model == "", m
	m.Head.Name, m.Model, m.Mirrored, m.Registered = o.Version, o.Model, true, o.Created
	m.RunID, m.ModelURI, m.Tags, m.Properties = o.RunID, o.URI, o.Tags, o.Properties
	if out.Known && same(&old, &m) {
		return out, nil
	}
	if err := labelsFit(m.Tags, m.Properties); err != nil {
		return out, err
	}
	m.stamp(by, now, isNew)
	moves := m.follow(&before)
	if err := s.mirrorModel(ctx, &w, mk, o, by, now); err != nil {
		return out, err
	}
	fact := w.fact(k, &m)
	w.indexVersion(ws.UID, &before, &m)
	if isNew && !silent {
		w.modelRegistered(ws, &m, now, fact)
	}
	if !isNew || !silent {
		w.modelMoved(ws, &m, moves, now, fact)
	}
	if _, err := s.record(ctx, &w); err != nil {
		return out, err
	}
	out.Changed, out.Events, out.Since = true, w.raised, now
	return out, nil
}

// DeploymentObservation is which model version another system has under the name of a
// service.
type DeploymentObservation struct {
	Service     string
	ComputeType string
	ModelIDs    string // "name:version"; "" when there is none any more
	Tags        map[string]string
	Properties  map[string]string

	Seen   Mark
	Silent bool // a service that the ledger does not know raises nothing: it is of the time before
}

// ObserveDeployment takes what was seen of a service that is deployed as soon as it is
// there: it is an online endpoint that is Healthy, with a new revision whenever its
// models change.
func (s *Service) ObserveDeployment(ctx context.Context, ws resource.Workspace, o DeploymentObservation, by resource.Stamp) (out Observed, err error) {
	if err := namesFit(o.Service, o.ModelIDs); err != nil {
		return out, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return out, err
	}
	defer leave()
	k := mirroredEndpointKey(ws.UID, o.Service)
	defer s.locks.lock(k)()
	var old OnlineEndpoint
	if out.Known, err = s.read(ctx, k, &old); err != nil {
		return out, err
	}
	out.Since = old.Modified.At
	if out.Known && Mark(old.ETag) > o.Seen {
		out.Stale = true
		return out, nil
	}
	var w write
	now := time.Now()
	if o.ModelIDs == "" {
		if !out.Known {
			return out, nil
		}
		w.gone(k)
		w.fact(traceKey(ws.UID, k), &trace{Next: old.Revision + 1})
	} else {
		e := old
		e.Head.Name, e.Mirrored, e.State = o.Service, true, Healthy
		e.ComputeType, e.ModelIDs, e.Tags, e.Properties = o.ComputeType, o.ModelIDs, o.Tags, o.Properties
		if out.Known && same(&old, &e) {
			return out, nil
		}
		if err := labelsFit(e.Tags, e.Properties); err != nil {
			return out, err
		}
		deployed := e.ModelIDs != old.ModelIDs
		switch {
		case !out.Known:
			if e.Revision, err = s.firstNumber(ctx, ws.UID, k); err != nil {
				return out, err
			}
			e.Revision = max(e.Revision, 1)
		case deployed:
			e.Revision++
		}
		e.stamp(by, now, !out.Known)
		fact := w.fact(k, &e)
		if deployed && (out.Known || !o.Silent) {
			w.modelDeployed(ws, &e, now, fact)
		}
	}
	if _, err := s.record(ctx, &w); err != nil {
		return out, err
	}
	out.Changed, out.Events, out.Since = true, w.raised, now
	return out, nil
}

// mirrorModel adds what the versions of a mirrored model share, if it changes.
func (s *Service) mirrorModel(ctx context.Context, w *write, key string, o VersionObservation, by resource.Stamp, now time.Time) error {
	var model Model
	known, err := s.read(ctx, key, &model)
	if err != nil {
		return err
	}
	number := versionNumber(o.Version)
	if known && number <= model.Highest {
		return nil
	}
	model.Head.Name, model.Highest = o.Model, max(number, model.Highest)
	model.stamp(by, now, !known)
	w.fact(key, &model)
	return nil
}

// ObserveExperiment takes the name that an experiment has in another system.
func (s *Service) ObserveExperiment(ctx context.Context, ws resource.Workspace, id, name string, by resource.Stamp) error {
	if err := namesFit(id, name); err != nil {
		return err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	k := mirroredExperimentKey(ws.UID, id)
	defer s.locks.lock(k)()
	var e Experiment
	known, err := s.read(ctx, k, &e)
	if err != nil || known && e.DisplayName == name {
		return err
	}
	e.Head.Name, e.ExperimentID, e.DisplayName = id, id, name
	e.stamp(by, time.Now(), !known)
	var w write
	w.fact(k, &e)
	_, err = s.record(ctx, &w)
	return err
}

// KnowsVersion reports whether the ledger has the version of o under its name.
func (s *Service) KnowsVersion(ctx context.Context, ws resource.Workspace, o VersionObservation) (bool, error) {
	var m ModelVersion
	found, err := s.read(ctx, mirroredVersionKey(ws.UID, o.Model, o.Version), &m)
	return found && m.Registered == o.Created, err
}

// note is something small that a watcher of another system remembers.
type note struct {
	own  Head
	Text json.RawMessage `json:"text"`
}

func (n *note) head() *Head { return &n.own }

// Note reads what a watcher remembered of a workspace into it, false for nothing.
func (s *Service) Note(ctx context.Context, ws resource.Workspace, watcher string, into any) (bool, error) {
	var n note
	found, err := s.read(ctx, key(kindNote, ws.UID, watcher), &n)
	if err == nil && found {
		if err = json.Unmarshal(n.Text, into); err != nil {
			err = fmt.Errorf("decode the note of %s: %w", watcher, err)
		}
	}
	return found, err
}

// SetNote stores what a watcher remembers of a workspace, until the workspace goes.
func (s *Service) SetNote(ctx context.Context, ws resource.Workspace, watcher string, value any) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode the note of %s: %w", watcher, err)
	}
	var w write
	w.fact(key(kindNote, ws.UID, watcher), &note{Text: text})
	_, err = s.record(ctx, &w)
	return err
}

// mirrorSign begins the segments of keys that other systems named; names of our own
// objects do not begin with it.
const mirrorSign = "~"

// mostMirrored bounds the segment of a key for a name of another system; longer ones
// are told apart by their hash.
const mostMirrored = 160

// mirrored is the segment of a key for a name that another system gave. Keys ignore
// case, end names at '/' and have a length; such a name is any text.
func mirrored(name string) string {
	const hex = "0123456789abcdef"
	var b strings.Builder
	b.WriteString(mirrorSign)
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	if b.Len() > mostMirrored {
		sum := sha256.Sum256([]byte(name))
		return fmt.Sprintf("%s%s%x", b.String()[:mostMirrored-2*len(sum)], mirrorSign, sum)
	}
	return b.String()
}

func mirroredExperimentKey(ws resource.UID, id string) string {
	return key(kindExperiment, ws, mirrored(id))
}

func mirroredRunKey(ws resource.UID, experimentID, id string) string {
	return key(kindRun, ws, mirrored(experimentID), mirrored(id))
}

func mirroredModelKey(ws resource.UID, model string) string {
	return key(kindModel, ws, mirrored(model))
}

func mirroredVersionKey(ws resource.UID, model, version string) string {
	return key(kindVersion, ws, mirrored(model), mirrored(version))
}

func mirroredEndpointKey(ws resource.UID, service string) string {
	return key(kindEndpoint, ws, mirrored(service))
}

// notMirrored refuses a change of an object that another system keeps, and so also the
// making of one of our own by its name. One of our own that was there before the other
// system was followed goes on beside it.
func (s *Service) notMirrored(ctx context.Context, own, mirrored, what string) error {
	for _, k := range []string{own, mirrored} {
		_, found, err := s.facts.Fact(ctx, k)
		switch {
		case err != nil:
			return fmt.Errorf("read fact %s: %w", k, err)
		case found && k == own:
			return nil
		case found:
			return fault.New(fault.Conflict, "Conflict", "%s is mirrored from another system (an MLflow server, OpenLineage events or a Kubernetes cluster): change it there, or take another name here.", what)
		}
	}
	return nil
}

// mustFind reads the first object that one of the keys has: our own, or the mirrored
// one of the same name.
func (s *Service) mustFind(ctx context.Context, what string, into object, keys ...string) error {
	for _, k := range keys {
		if found, err := s.read(ctx, k, into); err != nil || found {
			return err
		}
	}
	return missing(what)
}
