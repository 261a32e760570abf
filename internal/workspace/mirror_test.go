package workspace

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

var bridge = resource.Stamp{By: "bridge", Kind: "Application"}

const (
	noon      = "2026-03-02T12:00:00.0000000Z"
	afternoon = "2026-03-02T15:00:00.0000000Z"
)

func allStatuses(ws *resource.Workspace) {
	for _, s := range RunStatuses {
		ws.StatusEvents = append(ws.StatusEvents, string(s))
	}
}

// seen is an observation of run r1 of experiment 0, taken now.
func (b *bench) seen(status RunStatus, end string) RunObservation {
	return RunObservation{
		ID: "r1", ExperimentID: "0", Experiment: "Default / new", Status: status, RunType: "mlflow.run", EndTime: end,
		Tags: map[string]string{"team": "growth"}, Properties: map[string]string{"mlflow.user": "kim"}, Seen: b.Mark(),
	}
}

func (b *bench) observe(t *testing.T, o RunObservation) Observed {
	t.Helper()
	out, err := b.ObserveRun(t.Context(), b.ws, o, bridge)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Source: spec/workspace.md section 5.4, rules 1 to 6, and 5.9.
func TestObservationsOfRuns(t *testing.T) {
	const renews = "end time renews"
	type look struct {
		status RunStatus
		end    string
		word   string
	}
	for name, c := range map[string]struct {
		looks []look
		want  string // short names of event types with status and generation
	}{
		"first seen running":          {[]look{{mlevent.RunRunning, "", ""}}, "Running/1"},
		"first seen ended":            {[]look{{Completed, noon, ""}}, "Completed/1 RunCompleted/1"},
		"first seen failed":           {[]look{{Failed, noon, ""}}, "Failed/1"},
		"silent, then again":          {[]look{{Completed, noon, "silent"}, {Completed, noon, ""}}, ""},
		"silent, then it ends":        {[]look{{mlevent.RunRunning, "", "silent"}, {Failed, noon, ""}}, "Failed/1"},
		"the same again":              {[]look{{Completed, noon, ""}, {Completed, noon, ""}}, "Completed/1 RunCompleted/1"},
		"end time corrected":          {[]look{{Completed, noon, ""}, {Completed, afternoon, ""}}, "Completed/1 RunCompleted/1"},
		"end time renews":             {[]look{{Completed, noon, ""}, {Completed, afternoon, renews}}, "Completed/1 RunCompleted/1 Completed/2 RunCompleted/2"},
		"end time renews no earlier":  {[]look{{Completed, afternoon, ""}, {Completed, noon, renews}}, "Completed/1 RunCompleted/1"},
		"runs and ends":               {[]look{{mlevent.RunQueued, "", ""}, {mlevent.RunRunning, "", ""}, {Canceled, noon, ""}}, "Queued/1 Running/1 Canceled/1"},
		"goes back without an end":    {[]look{{mlevent.RunRunning, "", ""}, {mlevent.RunQueued, "", ""}, {mlevent.RunRunning, "", ""}}, "Running/1 Queued/1 Running/1/2"},
		"resumed":                     {[]look{{Completed, noon, ""}, {mlevent.RunRunning, noon, ""}, {Completed, afternoon, ""}}, "Completed/1 RunCompleted/1 Running/2 Completed/2 RunCompleted/2"},
		"another end is a correction": {[]look{{Completed, noon, ""}, {Failed, noon, ""}}, "Completed/1 RunCompleted/1 Failed/2"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, allStatuses)
			for _, l := range c.looks {
				o := b.seen(l.status, l.end)
				o.Silent, o.EndRenews = l.word == "silent", l.word == renews
				b.observe(t, o)
			}
			_, events := b.log.since(0)
			topic := workspaceID.String()
			var got []string
			for _, e := range events {
				got = append(got, field(e, "id"))
			}
			var want []string
			for word := range strings.FieldsSeq(c.want) {
				parts := strings.Split(word, "/")
				generation, visit := int64(parts[1][0]-'0'), 1
				if len(parts) == 3 {
					visit = int(parts[2][0] - '0')
				}
				if parts[0] == "RunCompleted" {
					want = append(want, mlevent.RunCompletedID(topic, "r1", generation))
				} else {
					want = append(want, mlevent.RunStatusChangedID(topic, "r1", generation, RunStatus(parts[0]), visit))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("events\n%s\nhave the ids %q, want %q for %q", strings.Join(events, "\n"), got, want, c.want)
			}
		})
	}
}

// field cuts a string member out of JSON text.
func field(text, name string) string {
	_, rest, _ := strings.Cut(text, `"`+name+`":"`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// Rule 7: what was read before the ledger learned of something newer changes nothing,
// whatever it says. Source: spec/workspace.md section 5.4.
func TestLateObservationChangesNothing(t *testing.T) {
	b := newBench(t, allStatuses)
	early := b.seen(mlevent.RunRunning, "")
	b.observe(t, b.seen(mlevent.RunRunning, ""))
	b.observe(t, b.seen(Completed, noon))
	before := b.log.count()
	if out := b.observe(t, early); !out.Stale || out.Changed || b.log.count() != before {
		t.Errorf("a late observation was taken: %+v", out)
	}
}

func TestObservedContentIsKeptWithoutEvents(t *testing.T) {
	b := newBench(t, allStatuses)
	b.observe(t, b.seen(mlevent.RunRunning, ""))
	n := b.log.count()
	o := b.seen(mlevent.RunRunning, "")
	o.Tags = map[string]string{"team": "risk"}
	if out := b.observe(t, o); !out.Changed || out.Events != 0 {
		t.Errorf("%+v", out)
	}
	if facts, events := b.log.since(n); len(facts) != 1 || len(events) != 0 {
		t.Errorf("stored %q and %q", facts, events)
	}
}

// Mirrored objects are read like all others, under the names that they have elsewhere,
// and nobody changes them here.
func TestMirroredObjectsAreReadOnly(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	if err := b.ObserveExperiment(ctx, b.ws, "0", "Default / new", bridge); err != nil {
		t.Fatal(err)
	}
	b.observe(t, b.seen(Completed, noon))
	for _, model := range []string{"Churn", "churn", "a b/ü", strings.Repeat("ü", 400)} {
		if _, err := b.ObserveModelVersion(ctx, b.ws, VersionObservation{Model: model, Version: "1", Created: 5, Seen: b.Mark()}, bridge); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := b.GetRun(ctx, b.ws, "0", "r1"); err != nil || r.Experiment != "Default / new" || r.Parent() != "0" {
		t.Errorf("run %+v, error %v", r, err)
	}
	if runs, _, err := b.ListRuns(ctx, b.ws, "0", Page{}); err != nil || len(runs) != 1 {
		t.Errorf("runs %+v, error %v", runs, err)
	}
	models, next, err := b.ListModels(ctx, b.ws, Page{Limit: 2})
	if err != nil || len(models) != 2 || next == "" {
		t.Fatalf("models %+v, error %v", models, err)
	}
	if models, _, err = b.ListModels(ctx, b.ws, Page{After: next}); err != nil || len(models) != 2 {
		t.Errorf("models %+v, error %v", models, err)
	}
	for _, model := range []string{"Churn", "churn", "a b/ü", strings.Repeat("ü", 400)} {
		if vs, _, err := b.ListModelVersions(ctx, b.ws, model, Page{}); err != nil || len(vs) != 1 || vs[0].Model != model {
			t.Errorf("versions of %s: %+v, error %v", model, vs, err)
		}
	}
	for name, change := range map[string]func() error{
		"PutExperiment":    func() error { _, _, err := b.PutExperiment(ctx, b.ws, "0", kim); return err },
		"DeleteExperiment": func() error { return b.DeleteExperiment(ctx, b.ws, "0", kim) },
		"PutRun":           func() error { _, _, err := b.PutRun(ctx, b.ws, "0", "r1", status(Failed), kim); return err },
		"PutAnotherRun":    func() error { _, _, err := b.PutRun(ctx, b.ws, "0", "mine", status(Failed), kim); return err },
		"PatchRun":         func() error { _, err := b.PatchRun(ctx, b.ws, "0", "r1", status(Failed), kim); return err },
		"DeleteRun":        func() error { return b.DeleteRun(ctx, b.ws, "0", "r1", kim) },
		"RegisterModel":    func() error { _, err := b.RegisterModel(ctx, b.ws, "churn", ModelChange{}, kim); return err },
		"PatchVersion":     func() error { _, err := b.PatchModelVersion(ctx, b.ws, "churn", "1", ModelChange{}, kim); return err },
		"DeleteVersion":    func() error { return b.DeleteModelVersion(ctx, b.ws, "churn", "1", kim) },
	} {
		t.Run(name, func(t *testing.T) {
			n := b.log.count()
			wantFault(t, change(), fault.Conflict, nil, "is mirrored from another system")
			if b.log.count() != n {
				t.Error("something was stored")
			}
		})
	}
	if err := b.store.Workspaces.Delete(ctx, b.ws.ID.Key(), 1); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteAll(ctx, b.ws.UID); err != nil || len(b.log.facts) != 0 {
		t.Errorf("left over: %v, error %v", b.log.facts, err)
	}
}

// What was ours before another system was followed goes on beside what that one has of
// the same name, and lists hold both.
func TestOwnObjectsBesideMirroredOnes(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	put := func(run string) {
		t.Helper()
		if _, _, err := b.PutRun(ctx, b.ws, "0", run, status(mlevent.RunRunning), kim); err != nil {
			t.Fatal(err)
		}
	}
	register := func(want string) {
		t.Helper()
		if m, err := b.RegisterModel(ctx, b.ws, "churn", ModelChange{}, kim); err != nil || m.Name != want {
			t.Fatalf("version %+v, error %v", m, err)
		}
	}
	put("mine")
	register("1")
	if err := b.ObserveExperiment(ctx, b.ws, "0", "Default / new", bridge); err != nil {
		t.Fatal(err)
	}
	b.observe(t, b.seen(Completed, noon))
	for _, version := range []string{"2", "10"} {
		if _, err := b.ObserveModelVersion(ctx, b.ws, VersionObservation{Model: "churn", Version: version, Created: 5, Seen: b.Mark()}, bridge); err != nil {
			t.Fatal(err)
		}
	}
	put("mine too")
	register("2")
	if _, err := b.PatchRun(ctx, b.ws, "0", "mine", status(Failed), kim); err != nil {
		t.Error(err)
	}
	wantFault(t, func() error { _, _, err := b.PutRun(ctx, b.ws, "0", "r1", status(Failed), kim); return err }(), fault.Conflict, nil, "is mirrored")

	var runs, versions []string
	for page := (Page{Limit: 1}); ; {
		list, next, err := b.ListRuns(ctx, b.ws, "0", page)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			runs = append(runs, r.Name+" of "+r.Experiment)
		}
		if page.After = next; next == "" {
			break
		}
	}
	if want := []string{"mine of 0", "mine too of 0", "r1 of Default / new"}; !slices.Equal(runs, want) {
		t.Errorf("runs %q, want %q", runs, want)
	}
	for page := (Page{Limit: 1}); ; {
		list, next, err := b.ListModelVersions(ctx, b.ws, "churn", page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			versions = append(versions, m.Name)
		}
		if page.After = next; next == "" {
			break
		}
	}
	if want := []string{"1", "2", "2", "10"}; !slices.Equal(versions, want) {
		t.Errorf("versions %q, want %q", versions, want)
	}
	experiments, _, err := b.ListExperiments(ctx, b.ws, Page{})
	if err != nil || len(experiments) != 2 || experiments[0].Mirrored() || !experiments[1].Mirrored() {
		t.Errorf("experiments %+v, error %v", experiments, err)
	}
	if err := b.DeleteExperiment(ctx, b.ws, "0", kim); err != nil {
		t.Error(err)
	}
	if list, _, err := b.ListRuns(ctx, b.ws, "0", Page{}); err != nil || len(list) != 1 || list[0].Name != "r1" {
		t.Errorf("runs %+v, error %v", list, err)
	}
}

// Source: spec/workspace.md sections 5.5 and 5.7.
func TestObservationsOfModelVersions(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	first := VersionObservation{Model: "churn", Version: "1", Created: 100, RunID: "r1", URI: "models:/m-1", Tags: map[string]string{}, Properties: map[string]string{}}
	observe := func(o VersionObservation, known bool, events int) {
		t.Helper()
		o.Seen = b.Mark()
		n := b.log.count()
		out, err := b.ObserveModelVersion(ctx, b.ws, o, bridge)
		if err != nil || out.Known != known || out.Events != events {
			t.Errorf("%+v, error %v; want known %v and %d events", out, err, known, events)
		}
		_, raised := b.log.since(n)
		for _, e := range raised {
			if id := mlevent.ModelRegisteredID(workspaceID.String(), o.Model, o.Version, o.Created); field(e, "id") != id {
				t.Errorf("event %s has not the id %s", e, id)
			}
		}
	}
	observe(first, false, 1)
	observe(first, true, 0)
	again := first
	again.Created = 200 // the model was deleted and made again
	observe(again, false, 1)
	observe(first, true, 0) // late: that one is gone
	silent := first
	silent.Version, silent.Silent = "2", true
	observe(silent, false, 0)
	silent.Silent = false
	observe(silent, true, 0)

	renamed := again
	renamed.Model = "Kündigung"
	name, err := b.NameOfVersion(ctx, b.ws, renamed)
	if err != nil || name != "churn" {
		t.Fatalf("the name before is %q, error %v", name, err)
	}
	renamed.RenamedFrom = name
	observe(renamed, false, 0)
	if _, err := b.GetModelVersion(ctx, b.ws, "churn", "1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old name still has the version: %v", err)
	}
	if m, err := b.GetModelVersion(ctx, b.ws, "Kündigung", "1"); err != nil || m.Registered != 200 {
		t.Errorf("%+v, error %v", m, err)
	}

	made := renamed // under the name that the other one had until then, and seen first
	made.RenamedFrom, made.Created = "", 300
	observe(made, false, 1)
	moved := renamed
	moved.Model, moved.RenamedFrom = "leavers", "Kündigung"
	observe(moved, false, 0)
	observe(moved, true, 0)
	observe(made, true, 0)
}

// After a restart of the real engine whatever is read is newer than what is known.
func TestObservationAfterRestartIsNews(t *testing.T) {
	b, dir := newBench(t, allStatuses), t.TempDir()
	for _, status := range []RunStatus{mlevent.RunRunning, Completed} {
		e, err := engine.Open(t.Context(), engine.Options{Dir: dir, Durability: engine.DurabilityProcess})
		if err != nil {
			t.Fatal(err)
		}
		b.Service = New(Config{Recorder: appender{e.Partition()}, Facts: e.Partition(), Workspaces: b.store.Workspaces})
		if out := b.observe(t, b.seen(status, "")); !out.Changed || out.Stale {
			t.Errorf("%s: %+v", status, out)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What another system names at great length is refused and not stored: it would outgrow
// events, and what is too large for the log would be tried for ever.
func TestLongNames(t *testing.T) {
	b, ctx := newBench(t, allStatuses), t.Context()
	for _, n := range []int{mostName, mostName + 1} {
		long, frames := strings.Repeat("ü", n/2)+strings.Repeat("x", n%2), b.log.count()
		run := b.seen(mlevent.RunRunning, "")
		run.ID = long
		_, errRun := b.ObserveRun(ctx, b.ws, run, bridge)
		_, errVersion := b.ObserveModelVersion(ctx, b.ws, VersionObservation{Model: "m", Version: "1", Created: 1, URI: long}, bridge)
		_, errDeployment := b.ObserveDeployment(ctx, b.ws, DeploymentObservation{Service: long, ModelIDs: "m:1"}, bridge)
		_, errService := b.ObserveService(ctx, b.ws, Sighting{Origin: "k/a", Name: "a", Service: "a", ModelIDs: long, State: Healthy, Spec: "1", Deployment: "1"}, bridge)
		for what, err := range map[string]error{"run": errRun, "version": errVersion, "deployment": errDeployment, "service": errService, "experiment": b.ObserveExperiment(ctx, b.ws, "7", long, bridge)} {
			if fault.Is(err, fault.Invalid) != (n > mostName) || err != nil && len(err.Error()) > 300 {
				t.Errorf("%s of %d bytes: %v", what, n, err)
			}
		}
		if stored := b.log.count() > frames; stored != (n <= mostName) {
			t.Errorf("%d bytes: stored %v", n, stored)
		}
	}
}

func TestNotesOfWatchers(t *testing.T) {
	b := newBench(t)
	var n int
	if found, err := b.Note(t.Context(), b.ws, "mlflow", &n); found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
	if err := b.SetNote(t.Context(), b.ws, "mlflow", 7); err != nil {
		t.Fatal(err)
	}
	if found, err := b.restart(nil).Note(t.Context(), b.ws, "mlflow", &n); !found || err != nil || n != 7 {
		t.Errorf("found %v, %d, error %v", found, n, err)
	}
}

// A run that gives no sign of life is NotResponding after the time that was asked for,
// and the first sign is Running again. Source: spec/workspace.md section 5.7, "Zombies".
func TestListen(t *testing.T) {
	at := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	type look struct {
		after time.Duration // the first one
		sign  string
		quiet time.Duration
		seen  RunStatus
		want  RunStatus
	}
	const run, silent = mlevent.RunRunning, mlevent.RunNotResponding
	for name, looks := range map[string][]look{
		"never asked for":               {{0, "a", 0, run, run}, {100 * time.Hour, "a", 0, run, run}},
		"in time":                       {{0, "a", time.Hour, run, run}, {59 * time.Minute, "a", time.Hour, run, run}},
		"late":                          {{0, "a", time.Hour, run, run}, {time.Hour, "a", time.Hour, run, silent}, {2 * time.Hour, "a", time.Hour, run, silent}},
		"a sign is taken down":          {{0, "a", time.Hour, run, run}, {50 * time.Minute, "b", time.Hour, run, run}, {100 * time.Minute, "b", time.Hour, run, run}, {110 * time.Minute, "b", time.Hour, run, silent}},
		"a close one with the next":     {{0, "a", time.Hour, run, run}, {5 * time.Minute, "b", time.Hour, run, run}, {15 * time.Minute, "b", time.Hour, run, run}, {74 * time.Minute, "b", time.Hour, run, run}, {75 * time.Minute, "b", time.Hour, run, silent}},
		"back, and silent again":        {{0, "a", time.Hour, run, run}, {time.Hour, "a", time.Hour, run, silent}, {61 * time.Minute, "b", time.Hour, run, run}, {62 * time.Minute, "b", time.Hour, run, run}, {121 * time.Minute, "b", time.Hour, run, silent}},
		"ends":                          {{0, "a", time.Hour, run, run}, {time.Hour, "a", time.Hour, run, silent}, {61 * time.Minute, "a", time.Hour, Failed, Failed}},
		"waits":                         {{0, "a", time.Hour, mlevent.RunQueued, mlevent.RunQueued}, {5 * time.Hour, "a", time.Hour, mlevent.RunQueued, mlevent.RunQueued}, {6 * time.Hour, "a", time.Hour, run, run}},
		"is not asked for any more":     {{0, "a", time.Hour, run, run}, {time.Hour, "a", time.Hour, run, silent}, {2 * time.Hour, "a", 0, run, run}, {9 * time.Hour, "a", 0, run, run}},
		"nobody looked for a long time": {{0, "a", time.Hour, run, run}, {90 * time.Hour, "b", time.Hour, run, run}, {90*time.Hour + 59*time.Minute, "b", time.Hour, run, run}},
	} {
		t.Run(name, func(t *testing.T) {
			var r Run
			for _, l := range looks {
				if r.Status = r.listen(&RunObservation{Status: l.seen, Sign: l.sign, QuietAfter: l.quiet}, at.Add(l.after)); r.Status != l.want {
					t.Errorf("after %v: %s, want %s", l.after, r.Status, l.want)
				}
			}
		})
	}
}

func TestObservationsOfDeployments(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	observe := func(models string, silent bool) Observed {
		t.Helper()
		out, err := b.ObserveDeployment(ctx, b.ws, DeploymentObservation{
			Service: "Team A/churn@champion", ComputeType: "MLFLOW", ModelIDs: models, Tags: map[string]string{}, Properties: map[string]string{}, Seen: b.Mark(), Silent: silent,
		}, bridge)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	late := b.Mark()
	for i, c := range []struct {
		models string
		silent bool
		events int
		change bool
	}{
		{"", false, 0, false}, // never was
		{"churn:1", true, 0, true},
		{"churn:1", false, 0, false},
		{"churn:2", true, 1, true}, // what is known and changes is never of before
		{"", false, 0, true},
		{"", false, 0, false},
		{"churn:2", false, 1, true},
	} {
		if out := observe(c.models, c.silent); out.Events != c.events || out.Changed != c.change {
			t.Errorf("look %d at %q: %+v", i, c.models, out)
		}
	}
	if out, err := b.ObserveDeployment(ctx, b.ws, DeploymentObservation{Service: "Team A/churn@champion", ModelIDs: "churn:9", Seen: late}, bridge); err != nil || !out.Stale {
		t.Errorf("a late observation was taken: %+v, error %v", out, err)
	}
	_, events := b.log.since(0)
	var ids []string
	for _, e := range events {
		ids = append(ids, field(e, "id"))
	}
	topic := workspaceID.String()
	if want := []string{mlevent.ModelDeployedID(topic, "Team A/churn@champion", 2, "churn:2"), mlevent.ModelDeployedID(topic, "Team A/churn@champion", 3, "churn:2")}; !slices.Equal(ids, want) {
		t.Errorf("ids %q, want %q", ids, want)
	}
	e, err := b.GetEndpoint(ctx, b.ws, "Team A/churn@champion")
	if err != nil || e.State != Healthy || e.ModelIDs != "churn:2" || e.Revision != 3 {
		t.Errorf("endpoint %+v, error %v", e, err)
	}
	page, _, err := b.ListEndpoints(ctx, b.ws, Page{})
	if err != nil || len(page) != 1 {
		t.Errorf("endpoints %v, error %v", page, err)
	}
	// A name that endpoints of our own may have is refused as well.
	if _, err := b.ObserveDeployment(ctx, b.ws, DeploymentObservation{Service: "churn", ModelIDs: "churn:1", Seen: b.Mark()}, bridge); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.PutEndpoint(ctx, b.ws, "churn", EndpointChange{}, Terms{})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("PutEndpoint: %v", err)
	}
	if _, err = b.PatchEndpoint(ctx, b.ws, "churn", EndpointChange{}, Terms{}); !fault.Is(err, fault.Conflict) {
		t.Errorf("PatchEndpoint: %v", err)
	}
	if err = b.DeleteEndpoint(ctx, b.ws, "churn", Terms{}); !fault.Is(err, fault.Conflict) {
		t.Errorf("DeleteEndpoint: %v", err)
	}
}

// Who saw no more than the status of a run takes none of its labels away.
func TestObservationWithoutLabels(t *testing.T) {
	b := newBench(t, allStatuses)
	first := b.observe(t, b.seen(mlevent.RunRunning, ""))
	o := b.seen(Failed, noon)
	o.LabelsUnknown, o.Tags, o.RunType, o.Properties = true, nil, "mlflow.other", map[string]string{"mlflow.endTime": noon}
	out := b.observe(t, o)
	if !out.Changed || out.At <= first.At || first.At == "" {
		t.Errorf("observed %+v after %+v", out, first)
	}
	var r Run
	if found, err := b.read(t.Context(), mirroredRunKey(b.ws.UID, "0", "r1"), &r); err != nil || !found {
		t.Fatal(found, err)
	}
	if r.Status != Failed || r.RunType != "mlflow.run" || r.Tags["team"] != "growth" || r.Properties["mlflow.user"] != "kim" || r.Properties["mlflow.endTime"] != noon {
		t.Errorf("run %+v", r)
	}
	if again := b.observe(t, b.seen(Failed, noon)); again.At < out.At {
		t.Errorf("observed %+v after %+v", again, out)
	}
}
