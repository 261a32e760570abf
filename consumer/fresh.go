package consumer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

// Errors of [Workspace.Fresh].
var (
	// ErrGone says that the object of an event was deleted.
	ErrGone = errors.New("the object of the event is gone")
	// ErrNoState says that an event is not of an object of this workspace, or has no etag.
	ErrNoState = errors.New("the event tells no state of an object of this workspace")
)

// Fresh reports whether the object of an event still is as the event says: whether its etag
// is that of the event. False means that it has changed since, be it a tag: read it, and act
// on what you read. ErrGone means that it is not there any more; that is the state that an
// event of type ModelDeleted tells.
func (w *Workspace) Fresh(ctx context.Context, e Envelope) (bool, error) {
	if e.ETag == "" || !strings.EqualFold(e.Source, w.ID) {
		return false, fmt.Errorf("%w: %s of type %s", ErrNoState, e.ID, e.Type)
	}
	paths, err := w.pathsOf(ctx, e)
	if err != nil {
		return false, err
	}
	gone := true
	for _, path := range paths {
		etag, err := w.do(ctx, http.MethodHead, path, nil, nil)
		if f, ok := errors.AsType[*ServerError](err); ok && f.Status == http.StatusNotFound {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("ask for the state of %s: %w", e.Subject, err)
		}
		if etag == e.ETag {
			return true, nil
		}
		gone = false
	}
	switch {
	case !gone:
		return false, nil
	case e.Type == mlevent.ModelDeletedType:
		return true, nil
	}
	return false, fmt.Errorf("%w: %s", ErrGone, e.Subject)
}

// pathsOf returns the paths that the object of an event may have. Objects that another
// system keeps have its names in events, and in paths what fits there.
func (w *Workspace) pathsOf(ctx context.Context, e Envelope) ([]string, error) {
	var data []byte
	for c := event.Walk(e.Raw); c.Next(); {
		if string(c.Key) == "data" {
			data = c.Value
		}
	}
	switch kind, rest, _ := strings.Cut(e.Subject, "/"); kind {
	case "models":
		i := strings.LastIndexByte(rest, ':') // versions have none
		if i < 0 {
			break
		}
		return []string{pathTo("models", rest[:i], "versions", rest[i+1:])}, nil
	case "endpoints":
		return []string{pathTo("onlineEndpoints", strings.ReplaceAll(rest, "/", "."))}, nil
	case "datadrift":
		d, err := mlevent.Parse[mlevent.DatasetDriftDetected](data)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoState, err)
		}
		return []string{pathTo("driftMonitors", d.DataDriftName, "runs", d.RunID)}, nil
	case "experiments":
		r, err := mlevent.Parse[mlevent.RunCompleted](data)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoState, err)
		}
		id, err := w.experiment(ctx, r.ExperimentID)
		if err != nil {
			return nil, err
		}
		var paths []string
		for _, name := range []string{r.ExperimentName, id} {
			if path := pathTo("experiments", name, "runs", r.RunID); name != "" && !strings.Contains(name, "/") && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
		return paths, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNoState, e.Subject)
}

// pathTo joins segments of a path.
func pathTo(segments ...string) string {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

// experiment returns what an experiment is called in paths that events call id. They differ
// for experiments of an MLflow server whose ids events give as GUIDs.
func (w *Workspace) experiment(ctx context.Context, id string) (string, error) {
	const namedByHash = '5' // version of a GUID that is made of a name
	if len(id) != 36 || id[14] != namedByHash {
		return id, nil
	}
	if known, ok := w.experiments.Load(id); ok {
		return known.(string), nil
	}
	for after, more := "", true; more; {
		var page struct {
			Value    []struct{ Name string }
			NextLink string
		}
		query := url.Values{}
		if after != "" {
			query.Set("$skipToken", after)
		}
		if _, err := w.do(ctx, http.MethodGet, "experiments", query, &page); err != nil {
			return "", fmt.Errorf("look for the experiment %s: %w", id, err)
		}
		for _, x := range page.Value {
			if mlevent.ExperimentGUID(w.ID, x.Name) == id {
				w.experiments.Store(id, x.Name)
				return x.Name, nil
			}
		}
		next, err := url.Parse(page.NextLink)
		if err != nil {
			return "", fmt.Errorf("look for the experiment %s: %w", id, err)
		}
		after = next.Query().Get("$skipToken")
		more = after != ""
	}
	return id, nil
}
