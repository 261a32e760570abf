package workspace

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

func extras(names ...string) func(*resource.Workspace) {
	return func(ws *resource.Workspace) { ws.ExtraEvents = names }
}

func everyExtra(ws *resource.Workspace) {
	for _, t := range mlevent.ExtraTypes() {
		ws.ExtraEvents = append(ws.ExtraEvents, strings.TrimPrefix(t, mlevent.ExtraPrefix))
	}
}

// extraStories are what may happen, and which events of our own it raises: short types
// with what is special about each.
var extraStories = map[string]struct {
	tell func(*testing.T, *bench)
	want string
}{
	"a deployment fails": {func(t *testing.T, b *bench) {
		b.endpoint(t, "Transitioning", "Failed")
	}, "DeploymentFailed"},
	"a deployment fails twice": {func(t *testing.T, b *bench) {
		b.endpoint(t, "Transitioning", "Failed", "Transitioning", "Failed")
	}, "DeploymentFailed DeploymentFailed"},
	"what was deployed crashes": {func(t *testing.T, b *bench) {
		b.endpoint(t, "Transitioning", "Healthy", "Failed", "Unhealthy", "Failed")
	}, ""},
	"made as failed": {func(t *testing.T, b *bench) { b.endpoint(t, "Failed") }, ""},
	"a run falls silent, twice": {func(t *testing.T, b *bench) {
		for _, s := range []RunStatus{"Running", "NotResponding", "Running", "NotResponding", "Completed"} {
			b.observe(t, b.seen(s, ""))
		}
	}, "RunNotResponding RunNotResponding"},
	"an alias comes, moves and goes": {func(t *testing.T, b *bench) {
		b.version(t, "1", "", "None")
		b.version(t, "1", "champion", "None")
		b.version(t, "1", "champion,eu", "None")
		b.version(t, "2", "champion", "None")
		b.version(t, "1", "eu", "None")
		b.version(t, "1", "champion, eu", "None")
	}, "ModelAliasSet:champion ModelAliasSet:eu ModelAliasSet:champion ModelAliasRemoved:champion ModelAliasSet:champion"},
	"a new version has a stage and aliases": {func(t *testing.T, b *bench) {
		b.version(t, "1", "b,a,a", "Production")
		b.version(t, "1", "a,b", "Production")
	}, "ModelAliasSet:a ModelAliasSet:b ModelStageChanged:Production"},
	"stages": {func(t *testing.T, b *bench) {
		b.version(t, "1", "", "")
		b.version(t, "1", "", "None")
		b.version(t, "1", "", "Staging")
		b.version(t, "1", "", "Archived")
		b.version(t, "1", "", "Staging")
		b.version(t, "1", "", "None")
	}, "ModelStageChanged:Staging ModelStageChanged:Archived ModelStageChanged:Staging ModelStageChanged:None"},
	"what was there before is silent": {func(t *testing.T, b *bench) {
		o := b.versionSeen("1", "champion", "Production")
		o.Silent = true
		b.observeVersion(t, o)
		b.version(t, "1", "champion", "Production")
		b.version(t, "1", "", "Production")
	}, "ModelAliasRemoved:champion"},
	"a renamed model keeps its aliases": {func(t *testing.T, b *bench) {
		b.version(t, "1", "champion", "Production")
		o := b.versionSeen("1", "champion", "Archived")
		o.Model, o.RenamedFrom = "churn2", "churn"
		b.observeVersion(t, o)
	}, "ModelAliasSet:champion ModelStageChanged:Production ModelStageChanged:Archived"},
	"a model is made again": {func(t *testing.T, b *bench) {
		b.version(t, "1", "champion", "None")
		o := b.versionSeen("1", "champion", "None")
		o.Created = 200
		b.observeVersion(t, o)
	}, "ModelAliasSet:champion ModelAliasSet:champion"},
	"drift clears": {func(t *testing.T, b *bench) {
		b.drifts(t, 0.1, 0.6, 0.7, 0.2, 0.1, 0.3, 0)
	}, "DriftCleared DriftCleared"},
	"an older window clears nothing": {func(t *testing.T, b *bench) {
		b.drifts(t, 0.6)
		c := window(0.1)
		c.StartTime, c.EndTime = ptr("2020-01-01T00:00:00Z"), ptr("2020-01-08T00:00:00Z")
		if _, _, err := b.PostDriftRun(t.Context(), b.ws, "weekly", c, kim); err != nil {
			t.Fatal(err)
		}
	}, ""},
	"our own versions": {func(t *testing.T, b *bench) {
		if _, err := b.RegisterModel(t.Context(), b.ws, "own", ModelChange{Properties: Labels{aliasesProperty: ptr("champion")}}, kim); err != nil {
			t.Fatal(err)
		}
		for _, c := range []ModelChange{
			{Tags: Labels{"team": ptr("growth")}},
			{Properties: Labels{stageProperty: ptr("Production")}},
			{Properties: Labels{aliasesProperty: nil}},
		} {
			if _, err := b.PatchModelVersion(t.Context(), b.ws, "own", "1", c, kim); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := b.DeleteModelVersion(t.Context(), b.ws, "own", "1", kim); err != nil {
				t.Fatal(err)
			}
		}
	}, "ModelAliasSet:champion ModelStageChanged:Production ModelAliasRemoved:champion ModelDeleted"},
}

func (b *bench) endpoint(t *testing.T, states ...string) {
	t.Helper()
	for i, s := range states {
		var err error
		if i == 0 {
			_, _, err = b.PutEndpoint(t.Context(), b.ws, "svc", EndpointChange{ModelIDs: ptr("churn:1"), State: &s}, kim)
		} else {
			_, err = b.PatchEndpoint(t.Context(), b.ws, "svc", state(s), kim)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// drifts has a monitor of threshold 0.2 come to coefficients, week after week.
func (b *bench) drifts(t *testing.T, coefficients ...float64) {
	t.Helper()
	_, _, err := b.PutMonitor(t.Context(), b.ws, "weekly", MonitorChange{}, kim)
	for i, x := range coefficients {
		c := window(x)
		day := time.Date(2026, 3, 2+7*i, 0, 0, 0, 0, time.UTC)
		c.StartTime, c.EndTime = ptr(day.Format(time.RFC3339)), ptr(day.AddDate(0, 0, 7).Format(time.RFC3339))
		if err == nil {
			_, _, err = b.PostDriftRun(t.Context(), b.ws, "weekly", c, kim)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) versionSeen(version, aliases, stage string) VersionObservation {
	return VersionObservation{Model: "churn", Version: version, Created: 100, Tags: map[string]string{},
		Properties: map[string]string{aliasesProperty: aliases, stageProperty: stage}, Seen: b.Mark()}
}

func (b *bench) version(t *testing.T, version, aliases, stage string) {
	t.Helper()
	b.observeVersion(t, b.versionSeen(version, aliases, stage))
}

func (b *bench) observeVersion(t *testing.T, o VersionObservation) {
	t.Helper()
	if _, err := b.ObserveModelVersion(t.Context(), b.ws, o, bridge); err != nil {
		t.Fatal(err)
	}
}

// Source: spec/workspace.md section 9, "Beyond Azure".
func TestExtraEvents(t *testing.T) {
	for name, story := range extraStories {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, everyExtra)
			story.tell(t, b)
			var got []string
			ids := map[string]bool{}
			for _, frame := range b.log.frames {
				for i, r := range frame {
					var e struct {
						ID, EventType string
						Data          struct{ Alias, Stage string }
					}
					if r.Kind != engine.KindEvent {
						continue
					}
					if err := json.Unmarshal(r.Data, &e); err != nil {
						t.Fatal(err)
					}
					short, extra := strings.CutPrefix(e.EventType, mlevent.ExtraPrefix)
					if !extra {
						continue
					}
					if what := e.Data.Alias + e.Data.Stage; what != "" {
						short += ":" + what
					}
					got = append(got, short)
					if ids[e.ID] {
						t.Errorf("the id %s is there twice", e.ID)
					}
					ids[e.ID] = true
					// The etag is that of a fact of the same frame: the change and what it
					// raises are one write.
					at := r.Holes[1].Of
					if at >= i || frame[at].Kind != engine.KindFact {
						t.Errorf("the etag of %s is of record %d, which is no fact before it", short, at)
					}
				}
			}
			if strings.Join(got, " ") != story.want {
				t.Errorf("raised %q, want %q", strings.Join(got, " "), story.want)
			}
		})
	}
}

// A workspace raises those alone that it was told to, and an event says the same
// whichever others there are.
func TestExtraEventsAreChosen(t *testing.T) {
	for name, story := range extraStories {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			story.tell(t, b)
			_, events := b.log.since(0)
			if i := slices.IndexFunc(events, func(e string) bool { return strings.Contains(e, mlevent.ExtraPrefix) }); i >= 0 {
				t.Errorf("raised unasked: %s", events[i])
			}
		})
	}
	b := newBench(t, extras("ModelAliasRemoved", "DeploymentFailed"))
	extraStories["an alias comes, moves and goes"].tell(t, b)
	_, events := b.log.since(0)
	events = slices.DeleteFunc(events, func(e string) bool { return !strings.Contains(e, mlevent.ExtraPrefix) })
	id := mlevent.ModelAliasRemovedID(workspaceID.String(), "churn", "1", 100, "champion", 1)
	if len(events) != 1 || field(events[0], "id") != id || field(events[0], "subject") != "models/churn:1" {
		t.Errorf("raised %q, want one with the id %s", events, id)
	}
}
