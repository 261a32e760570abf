package workspace

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Experiment is a named group of runs.
type Experiment struct {
	Head
	ExperimentID string `json:"experimentId"`          // GUID given by the server, or the id that another system gave
	DisplayName  string `json:"displayName,omitempty"` // of a mirrored experiment, whose Name is its id
}

// Mirrored reports whether another system keeps the experiment.
func (e *Experiment) Mirrored() bool { return e.DisplayName != "" }

func experimentKey(ws resource.UID, name string) string { return key(kindExperiment, ws, name) }

func experimentWords(name string) string { return fmt.Sprintf("The experiment %q", name) }

func experimentProblem(name string) *fault.Error {
	return nameProblem("experimentName", "experiment name", name)
}

// PutExperiment makes an experiment; one that exists stays as it is.
func (s *Service) PutExperiment(ctx context.Context, ws resource.Workspace, name string, t Terms) (e Experiment, created bool, err error) {
	if err := fault.Join(experimentProblem(name)); err != nil {
		return e, false, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return e, false, err
	}
	defer leave()
	now := time.Now()
	e, isNew, release, err := s.holdExperiment(ctx, ws, name, t.By, now)
	if err != nil {
		return e, false, err
	}
	defer release()
	if err := t.hold(experimentWords(name), !isNew, e.ETag); err != nil || !isNew {
		return e, false, err
	}
	var w write
	w.fact(experimentKey(ws.UID, name), &e)
	_, err = s.record(ctx, &w)
	return e, err == nil, err
}

// PatchExperiment changes nothing, for an experiment has nothing to change; it
// says whether it exists and the terms hold.
func (s *Service) PatchExperiment(ctx context.Context, ws resource.Workspace, name string, t Terms) (Experiment, error) {
	e, err := s.GetExperiment(ctx, ws, name)
	if err == nil {
		err = t.hold(experimentWords(name), true, e.ETag)
	}
	return e, err
}

// GetExperiment reads an experiment.
func (s *Service) GetExperiment(ctx context.Context, ws resource.Workspace, name string) (e Experiment, err error) {
	return e, s.mustFind(ctx, experimentWords(name), &e, experimentKey(ws.UID, name), mirroredExperimentKey(ws.UID, name))
}

// ListExperiments reads a page of the workspace's experiments.
func (s *Service) ListExperiments(ctx context.Context, ws resource.Workspace, page Page) ([]Experiment, string, error) {
	return list[Experiment](ctx, s, page, strings.Compare, key(kindExperiment, ws.UID))
}

// DeleteExperiment forgets an experiment and its runs. One that is not there is
// no error.
func (s *Service) DeleteExperiment(ctx context.Context, ws resource.Workspace, name string, t Terms) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.notMirrored(ctx, experimentKey(ws.UID, name), mirroredExperimentKey(ws.UID, name), experimentWords(name)); err != nil {
		return err
	}
	k := experimentKey(ws.UID, name)
	defer s.locks.lock(k)()
	var e Experiment
	found, err := s.read(ctx, k, &e)
	if err != nil {
		return err
	}
	if err := t.hold(experimentWords(name), found, e.ETag); err != nil || !found {
		return err
	}
	runs, err := s.facts.FactKeys(ctx, key(kindRun, ws.UID, name)+"/")
	if err != nil {
		return fmt.Errorf("list runs of experiment %s: %w", name, err)
	}
	for _, run := range runs {
		if err := s.deleteRun(ctx, ws, run, "", Terms{}); err != nil {
			return err
		}
	}
	return s.forget(ctx, []string{k})
}

// holdExperiment returns an experiment of our own, a new one if there is none, and keeps it
// from being made or deleted by others until release is called. A new one is not
// recorded: the caller's frame has to hold it.
func (s *Service) holdExperiment(ctx context.Context, ws resource.Workspace, name string, by resource.Stamp, now time.Time) (e Experiment, isNew bool, release func(), err error) {
	k := experimentKey(ws.UID, name)
	release = s.locks.share(k)
	found, err := s.read(ctx, k, &e)
	if err == nil && found {
		return e, false, release, nil
	}
	release()
	if err != nil {
		return e, false, nil, err
	}
	release = s.locks.lock(k)
	found, err = s.read(ctx, k, &e) // somebody may have made it meanwhile
	if err == nil && !found {
		err = s.notMirrored(ctx, k, mirroredExperimentKey(ws.UID, name), experimentWords(name))
	}
	if err != nil {
		release()
		return e, false, nil, err
	}
	if !found {
		e = Experiment{Head: Head{Name: name}, ExperimentID: s.newID()}
		e.stamp(by, now, true)
	}
	return e, !found, release, nil
}
