package workspace

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	"github.com/carillon-events/carillon/internal/resource"
)

// Two questions about mirrored objects would be answered by reading all that was ever
// recorded: which runs have not ended, and whether a version is known by another name.
// So the frame that changes the answer also holds a small fact of the index.

// openRuns are the mirrored runs of one part of the index that have not ended. There
// are several parts, for the whole of one is written each time that a run of it begins
// or ends.
type openRuns struct {
	own  Head
	Keys []string `json:"keys"` // sorted
}

func (o *openRuns) head() *Head { return &o.own }

const openParts = 256

func openRunsKey(ws resource.UID, run string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(run))
	return key(kindOpen, ws, fmt.Sprintf("%02x", h.Sum32()%openParts))
}

// asked reports whether a mirrored run has not ended and somebody has to ask after it:
// those that report themselves need it not.
func (r *Run) asked() bool { return !r.Status.Terminal() && r.Source == "" }

// indexRun adds to w whether the run of key k is open, if that was not so before, and
// keeps others from its part of the index until release is called.
func (s *Service) indexRun(ctx context.Context, w *write, ws resource.UID, k string, was, is bool) (release func(), err error) {
	if was == is {
		return func() {}, nil
	}
	at := openRunsKey(ws, k)
	release = s.locks.lock(at)
	var part openRuns
	if _, err := s.read(ctx, at, &part); err != nil {
		release()
		return nil, err
	}
	i, there := slices.BinarySearch(part.Keys, k)
	switch {
	case is && !there:
		part.Keys = slices.Insert(part.Keys, i, k)
	case !is && there:
		part.Keys = slices.Delete(part.Keys, i, i+1)
	}
	w.fact(at, &part)
	return release, nil
}

// OpenMirrored returns the mirrored runs of a workspace that have not ended and that
// somebody has to ask after.
func (s *Service) OpenMirrored(ctx context.Context, ws resource.Workspace) ([]Run, error) {
	parts, err := s.facts.FactKeys(ctx, key(kindOpen, ws.UID)+"/")
	if err != nil {
		return nil, fmt.Errorf("list open runs of %s: %w", ws.ID, err)
	}
	var open []Run
	for _, at := range parts {
		var part openRuns
		if _, err := s.read(ctx, at, &part); err != nil {
			return nil, err
		}
		for _, k := range part.Keys {
			var r Run
			if found, err := s.read(ctx, k, &r); err != nil {
				return nil, err
			} else if found && r.asked() { // it has ended since the part was read otherwise
				open = append(open, r)
			}
		}
	}
	return open, nil
}

// origin tells the name of the mirrored model that has a version of a number that was
// made at a time, of a run and files.
type origin struct {
	own   Head
	Model string `json:"model"`
}

func (o *origin) head() *Head { return &o.own }

// originKey is the key of a mirrored version's origin, whatever its model is called.
func (m *ModelVersion) originKey(ws resource.UID) string {
	sum := sha256.Sum256([]byte(m.Name + "\n" + strconv.FormatInt(m.Registered, 10) + "\n" + m.RunID + "\n" + m.ModelURI))
	return key(kindOrigin, ws, fmt.Sprintf("%x", sum[:16]))
}

// indexVersion adds to w which model the mirrored version m is of, if that was not so
// before.
func (w *write) indexVersion(ws resource.UID, before, m *ModelVersion) {
	if k := m.originKey(ws); before.Model != m.Model || before.originKey(ws) != k {
		w.fact(k, &origin{Model: m.Model})
	}
}

// NameOfVersion returns the name of the mirrored model, other than o's, under which the
// version of o was recorded last: the same number, made at the same time, of the same run
// and files. It is "" when there is none. Another version may have the name by now.
func (s *Service) NameOfVersion(ctx context.Context, ws resource.Workspace, o VersionObservation) (string, error) {
	looked := ModelVersion{Head: Head{Name: o.Version}, Registered: o.Created, RunID: o.RunID, ModelURI: o.URI}
	var at origin
	if found, err := s.read(ctx, looked.originKey(ws.UID), &at); err != nil || !found || at.Model == o.Model {
		return "", err
	}
	return at.Model, nil
}
