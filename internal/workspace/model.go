package workspace

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// ModelVersion is one registered version of a model. Its Name is the version.
type ModelVersion struct {
	Head
	Model      string            `json:"model"` // name as spelled by the model's first version
	Tags       map[string]string `json:"tags"`
	Properties map[string]string `json:"properties"`
	ModelURI   string            `json:"modelUri"`
	RunID      string            `json:"runId"`

	Registered int64 `json:"registered"` // Unix milliseconds; never the same for two versions of one name

	Mirrored bool `json:"mirrored,omitempty"` // another system keeps it; Model is any text then

	Aliased map[string]int `json:"aliased,omitempty"` // how often it got each alias
	Staged  map[string]int `json:"staged,omitempty"`  // how often it came to each stage
}

// The properties that hold where a version stands in its registry, as MLflow spells
// them. Source: spec/workspace.md section 5.2.
const (
	aliasesProperty = "mlflow.aliases" // separated by commas
	stageProperty   = "mlflow.stage"
	noStage         = "None"
)

func (m *ModelVersion) aliases() map[string]bool {
	all := map[string]bool{}
	for alias := range strings.SplitSeq(m.Properties[aliasesProperty], ",") {
		if alias = strings.TrimSpace(alias); alias != "" {
			all[alias] = true
		}
	}
	return all
}

func (m *ModelVersion) stage() string { return cmp.Or(m.Properties[stageProperty], noStage) }

// versionMoves is what became of the aliases and the stage of a version.
type versionMoves struct {
	set, removed []string // aliases, sorted
	from, to     string   // stages
}

// follow compares m with what it was before, and counts.
func (m *ModelVersion) follow(before *ModelVersion) versionMoves {
	had, has := before.aliases(), m.aliases()
	moves := versionMoves{from: before.stage(), to: m.stage()}
	m.Aliased, m.Staged = maps.Clone(m.Aliased), maps.Clone(m.Staged)
	for _, alias := range slices.Sorted(maps.Keys(has)) {
		if !had[alias] {
			moves.set = append(moves.set, alias)
			m.Aliased = counted(m.Aliased, alias)
		}
	}
	for _, alias := range slices.Sorted(maps.Keys(had)) {
		if !has[alias] {
			moves.removed = append(moves.removed, alias)
		}
	}
	if moves.from != moves.to {
		m.Staged = counted(m.Staged, moves.to)
	}
	return moves
}

func counted(times map[string]int, what string) map[string]int {
	if times == nil {
		times = map[string]int{}
	}
	times[what]++
	return times
}

// Model is what the versions of one name share. It outlives them, so a number is
// never given twice.
type Model struct {
	Head
	Highest int64 `json:"highest"` // highest number that a version had, 0 for none
}

// ModelChange is what a request says of a model version. Nil means that it says
// nothing.
type ModelChange struct {
	Tags       Labels
	Properties Labels
	ModelURI   *string
	RunID      *string
}

// Problems returns what is wrong with the change by itself, in field order.
func (c ModelChange) Problems() []*fault.Error {
	problems := labelProblems(c.Tags, c.Properties)
	if c.ModelURI != nil {
		problems = append(problems, textProblem("properties.modelUri", *c.ModelURI))
	}
	if c.RunID != nil && *c.RunID != "" {
		problems = append(problems, runIDProblem("properties.runId", *c.RunID))
	}
	return problems
}

func (c ModelChange) apply(m *ModelVersion, replace bool) {
	m.Tags = c.Tags.apply(m.Tags, replace)
	m.Properties = c.Properties.apply(m.Properties, replace)
	set(&m.ModelURI, c.ModelURI, replace, "")
	m.ModelURI = secret.WithoutUserinfo(m.ModelURI)
	set(&m.RunID, c.RunID, replace, "")
}

func modelKey(ws resource.UID, model string) string { return key(kindModel, ws, model) }

func versionKey(ws resource.UID, model, version string) string {
	return key(kindVersion, ws, model, version)
}

func versionWords(model, version string) string {
	return fmt.Sprintf("The model version \"%s:%s\"", model, version)
}

func modelProblem(name string) *fault.Error { return nameProblem("modelName", "model name", name) }

// RegisterModel makes the next version of a model: one more than the highest
// number that a version of the name ever had, 1 for the first.
func (s *Service) RegisterModel(ctx context.Context, ws resource.Workspace, model string, c ModelChange, t Terms) (ModelVersion, error) {
	if err := fault.Join(append([]*fault.Error{modelProblem(model)}, c.Problems()...)...); err != nil {
		return ModelVersion{}, err
	}
	m, _, err := s.putVersion(ctx, ws, model, "", c, t)
	return m, err
}

// PutModelVersion makes a version with a name of the caller's choice, or replaces
// what one that exists says. A number that is higher than all before it is what
// RegisterModel goes on from.
func (s *Service) PutModelVersion(ctx context.Context, ws resource.Workspace, model, version string, c ModelChange, t Terms) (m ModelVersion, created bool, err error) {
	if err := fault.Join(append([]*fault.Error{modelProblem(model), nameProblem("version", "model version", version)}, c.Problems()...)...); err != nil {
		return m, false, err
	}
	return s.putVersion(ctx, ws, model, version, c, t)
}

// putVersion makes or replaces a version; "" is the next number.
func (s *Service) putVersion(ctx context.Context, ws resource.Workspace, name, version string, c ModelChange, t Terms) (m ModelVersion, created bool, err error) {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return m, false, err
	}
	defer leave()
	if err := s.notMirrored(ctx, modelKey(ws.UID, name), mirroredModelKey(ws.UID, name), modelWords(name)); err != nil {
		return m, false, err
	}
	defer s.locks.lock(modelKey(ws.UID, name))()
	now := time.Now()
	var model Model
	known, err := s.read(ctx, modelKey(ws.UID, name), &model)
	if err != nil {
		return m, false, err
	}
	if !known {
		model = Model{Head: Head{Name: name}}
	}
	if version == "" {
		if model.Highest == math.MaxInt64 {
			return m, false, fault.New(fault.Conflict, "Conflict", "The model %q has no next version number: version %d exists. Name the version yourself.", model.Name, model.Highest)
		}
		version = strconv.FormatInt(model.Highest+1, 10)
	}
	k := versionKey(ws.UID, name, version)
	defer s.locks.lock(k)()
	var old ModelVersion
	found, err := s.read(ctx, k, &old)
	if err != nil {
		return m, false, err
	}
	if err := t.hold(versionWords(name, version), found, old.ETag); err != nil {
		return m, false, err
	}
	if found {
		m = old
		c.apply(&m, true)
		m, err = s.storeVersion(ctx, ws, old, m, t.By, now)
		return m, false, err
	}

	m = ModelVersion{Head: Head{Name: version}, Model: model.Name}
	c.apply(&m, true)
	if err := labelsFit(m.Tags, m.Properties); err != nil {
		return m, false, err
	}
	first, err := s.firstNumber(ctx, ws.UID, k)
	if err != nil {
		return m, false, err
	}
	m.Registered = max(first, now.UnixMilli())
	m.stamp(t.By, now, true)
	moves := m.follow(&ModelVersion{})
	var w write
	number := versionNumber(version)
	if !known || number > model.Highest {
		model.Highest = max(number, model.Highest)
		model.stamp(t.By, now, !known)
		w.fact(modelKey(ws.UID, name), &model)
	}
	fact := w.fact(k, &m)
	w.modelRegistered(ws, &m, now, fact)
	w.modelMoved(ws, &m, moves, now, fact)
	if _, err := s.record(ctx, &w); err != nil {
		return m, false, err
	}
	s.noteVersion(ctx, ws, m, w.raised)
	return m, true, nil
}

// PatchModelVersion changes what the request gives, tags and properties key by
// key. It raises what a change of aliases or stage raises.
func (s *Service) PatchModelVersion(ctx context.Context, ws resource.Workspace, model, version string, c ModelChange, t Terms) (m ModelVersion, err error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return m, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return m, err
	}
	defer leave()
	if err := s.notMirrored(ctx, versionKey(ws.UID, model, version), mirroredVersionKey(ws.UID, model, version), versionWords(model, version)); err != nil {
		return m, err
	}
	k := versionKey(ws.UID, model, version)
	defer s.locks.lock(k)()
	var old ModelVersion
	if err := s.mustRead(ctx, k, versionWords(model, version), &old); err != nil {
		return m, err
	}
	if err := t.hold(versionWords(model, version), true, old.ETag); err != nil {
		return m, err
	}
	m = old
	c.apply(&m, false)
	return s.storeVersion(ctx, ws, old, m, t.By, time.Now())
}

// storeVersion stores a version that exists in its new state, with the events due.
func (s *Service) storeVersion(ctx context.Context, ws resource.Workspace, old, m ModelVersion, by resource.Stamp, now time.Time) (ModelVersion, error) {
	if same(&old, &m) {
		return old, nil
	}
	if err := labelsFit(m.Tags, m.Properties); err != nil {
		return m, err
	}
	m.stamp(by, now, false)
	moves := m.follow(&old)
	var w write
	w.modelMoved(ws, &m, moves, now, w.fact(versionKey(ws.UID, m.Model, m.Name), &m))
	if _, err := s.record(ctx, &w); err != nil {
		return m, err
	}
	s.noteVersion(ctx, ws, m, w.raised)
	return m, nil
}

func (s *Service) noteVersion(ctx context.Context, ws resource.Workspace, m ModelVersion, events int) {
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()),
		slog.String(telemetry.Model, m.Model+":"+m.Name), slog.Int(telemetry.Events, events))
}

// GetModelVersion reads a model version.
func (s *Service) GetModelVersion(ctx context.Context, ws resource.Workspace, model, version string) (m ModelVersion, err error) {
	return m, s.mustFind(ctx, versionWords(model, version), &m, versionKey(ws.UID, model, version), mirroredVersionKey(ws.UID, model, version))
}

// ListModelVersions reads a page of a model's versions: numbers in their order,
// then the others. Those that another system has of a model of the same name are among them.
func (s *Service) ListModelVersions(ctx context.Context, ws resource.Workspace, model string, page Page) ([]ModelVersion, string, error) {
	if _, err := s.GetModel(ctx, ws, model); err != nil {
		return nil, "", err
	}
	return list[ModelVersion](ctx, s, page, compareVersions, key(kindVersion, ws.UID, model), key(kindVersion, ws.UID, mirrored(model)))
}

// GetModel reads what the versions of a model share.
func (s *Service) GetModel(ctx context.Context, ws resource.Workspace, model string) (m Model, err error) {
	return m, s.mustFind(ctx, modelWords(model), &m, modelKey(ws.UID, model), mirroredModelKey(ws.UID, model))
}

func modelWords(name string) string { return fmt.Sprintf("The model %q", name) }

// versionNumber is the number that a version's name is, 0 for a name that is none.
func versionNumber(version string) int64 {
	number, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// ListModels reads a page of the workspace's models.
func (s *Service) ListModels(ctx context.Context, ws resource.Workspace, page Page) ([]Model, string, error) {
	return list[Model](ctx, s, page, strings.Compare, key(kindModel, ws.UID))
}

// compareVersions puts numbers before other names and orders them as numbers, those of
// other systems behind our own.
func compareVersions(a, b string) int {
	x, errX := strconv.ParseInt(strings.TrimPrefix(a, mirrorSign), 10, 64)
	y, errY := strconv.ParseInt(strings.TrimPrefix(b, mirrorSign), 10, 64)
	switch {
	case errX == nil && errY == nil:
		return cmp.Or(cmp.Compare(x, y), strings.Compare(a, b))
	case errX == nil:
		return -1
	case errY == nil:
		return 1
	}
	return strings.Compare(a, b)
}

// DeleteModelVersion forgets a version and raises ModelDeleted where that is wanted;
// its number is not given again. One that is not there is no error.
func (s *Service) DeleteModelVersion(ctx context.Context, ws resource.Workspace, model, version string, t Terms) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.notMirrored(ctx, versionKey(ws.UID, model, version), mirroredVersionKey(ws.UID, model, version), versionWords(model, version)); err != nil {
		return err
	}
	k := versionKey(ws.UID, model, version)
	defer s.locks.lock(k)()
	var m ModelVersion
	found, err := s.read(ctx, k, &m)
	if err != nil {
		return err
	}
	if err := t.hold(versionWords(model, version), found, m.ETag); err != nil || !found {
		return err
	}
	var w write
	gone := w.gone(k)
	w.fact(traceKey(ws.UID, k), &trace{Next: m.Registered + 1})
	w.modelDeleted(ws, &m, time.Now(), gone)
	_, err = s.record(ctx, &w)
	return err
}
