package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// Each row is a status, each column a status it is asked to become: y moves, n is
// refused, = is the same. Source: spec/workspace.md section 1.2.
const lifeCycle = `
                NotStarted Starting Provisioning Preparing Queued Running Finalizing CancelRequested Completed Failed Canceled NotResponding Paused Unknown
NotStarted      =          y        y            y         y      y       y          y               y         y      y        y             y      y
Starting        n          =        y            y         y      y       y          y               y         y      y        y             y      y
Provisioning    n          n        =            y         y      y       y          y               y         y      y        y             y      y
Preparing       n          n        n            =         y      y       y          y               y         y      y        y             y      y
Queued          n          n        n            n         =      y       y          y               y         y      y        y             y      y
Running         n          n        n            n         n      =       y          y               y         y      y        y             y      y
Finalizing      n          n        n            n         n      n       =          y               y         y      y        y             y      y
CancelRequested n          n        n            n         n      n       n          =               y         y      y        y             y      y
Completed       n          n        n            n         n      n       n          n               =         n      n        n             n      n
Failed          n          n        n            n         n      n       n          n               n         =      n        n             n      n
Canceled        n          n        n            n         n      n       n          n               n         n      =        n             n      n
NotResponding   y          y        y            y         y      y       y          y               y         y      y        =             y      y
Paused          y          y        y            y         y      y       y          y               y         y      y        y             =      y
Unknown         y          y        y            y         y      y       y          y               y         y      y        y             y      =
`

func TestRunLifeCycle(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(lifeCycle), "\n")
	columns := strings.Fields(lines[0])
	if len(columns) != len(RunStatuses) || len(lines) != len(RunStatuses)+1 {
		t.Fatalf("the table has %d columns and %d rows for %d statuses", len(columns), len(lines)-1, len(RunStatuses))
	}
	b := newBench(t, func(ws *resource.Workspace) { ws.StatusEvents = columns })
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		for i, want := range row[1:] {
			from, to := RunStatus(row[0]), RunStatus(columns[i])
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				id := fmt.Sprintf("%s-%s", from, to)
				before, _, err := b.PutRun(t.Context(), b.ws, "churn", id, status(from), kim)
				if err != nil {
					t.Fatal(err)
				}
				n := b.log.count()
				after, err := b.PatchRun(t.Context(), b.ws, "churn", id, status(to), kim)
				_, events := b.log.since(n)
				switch want {
				case "n":
					wantFault(t, err, fault.Conflict, nil, fmt.Sprintf("is %s and cannot become %s", from, to))
					fallthrough
				case "=":
					if want == "=" && (err != nil || after.ETag != before.ETag) {
						t.Errorf("same status: etag %s after %s, error %v", after.ETag, before.ETag, err)
					}
					now, err := b.GetRun(t.Context(), b.ws, "churn", id)
					if err != nil || now.Status != from || now.ETag != before.ETag || b.log.count() != n {
						t.Errorf("run is %+v, %d frames more, error %v; nothing should have changed", now, b.log.count()-n, err)
					}
				case "y":
					if err != nil || after.Status != to || after.ETag == before.ETag {
						t.Fatalf("run is %+v, error %v", after, err)
					}
					wanted := 1
					if to == Completed {
						wanted = 2
					}
					if len(events) != wanted || b.log.count() != n+1 {
						t.Errorf("%d events in %d frames, want %d in 1", len(events), b.log.count()-n, wanted)
					}
					if to.Terminal() == (after.EndTime == "") {
						t.Errorf("end time is %q", after.EndTime)
					}
				}
			})
		}
	}
}

func TestRunConflictNamesWhatIsAllowed(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.PutRun(t.Context(), b.ws, "churn", "r1", status(mlevent.RunFinalizing), kim); err != nil {
		t.Fatal(err)
	}
	_, err := b.PatchRun(t.Context(), b.ws, "churn", "r1", RunChange{Status: ptr("running"), Tags: Labels{"a": ptr("b")}}, kim)
	wantFault(t, err, fault.Conflict, nil, "From Finalizing it may become CancelRequested, Completed, Failed, Canceled, NotResponding, Paused, Unknown.")
}

func TestRunEventsDue(t *testing.T) {
	tests := []struct {
		name         string
		statusEvents []string
		steps        []RunChange // the first is a PUT, the others are PATCHes
		want         []string    // event types, and the status of RunStatusChanged
	}{
		{"failure", []string{"Failed"}, []RunChange{status("Running"), status("Failed")}, []string{"RunStatusChanged Failed"}},
		{"success", []string{"Failed"}, []RunChange{status("Running"), status("Completed")}, []string{"RunCompleted"}},
		{"cancelled", []string{"Failed"}, []RunChange{status("Running"), status("CancelRequested"), status("Canceled")}, nil},
		{"default of a workspace that was told nothing", nil, []RunChange{status("Running"), status("Failed")}, []string{"RunStatusChanged Failed"}},
		{"no status raises", []string{}, []RunChange{status("Running"), status("Failed")}, nil},
		{"completed twice over", []string{"completed", "FAILED"}, []RunChange{status("Completed")}, []string{"RunStatusChanged Completed", "RunCompleted"}},
		{"made failed", []string{"Failed"}, []RunChange{status("Failed")}, []string{"RunStatusChanged Failed"}},
		{"made completed", []string{"Failed"}, []RunChange{status("Completed")}, []string{"RunCompleted"}},
		{"made running", []string{"Running"}, []RunChange{status("Running")}, []string{"RunStatusChanged Running"}},
		{"tags after the end", []string{"Failed"}, []RunChange{status("Failed"), {Tags: Labels{"seen": ptr("yes")}}}, []string{"RunStatusChanged Failed"}},
		{"same status with new tags", []string{"Running"}, []RunChange{status("Running"), {Status: ptr("Running"), Tags: Labels{"a": ptr("b")}}}, []string{"RunStatusChanged Running"}},
		{"back from silence", []string{"Running"}, []RunChange{status("Running"), status("NotResponding"), status("Running")},
			[]string{"RunStatusChanged Running", "RunStatusChanged Running"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(ws *resource.Workspace) { ws.StatusEvents = tt.statusEvents })
			for i, c := range tt.steps {
				var err error
				if i == 0 {
					_, _, err = b.PutRun(t.Context(), b.ws, "churn", "r1", c, kim)
				} else {
					_, err = b.PatchRun(t.Context(), b.ws, "churn", "r1", c, kim)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			_, events := b.log.since(0)
			var got []string
			ids := map[string]bool{}
			for _, raw := range events {
				var e struct {
					EventType, ID string
					Data          struct{ RunStatus, ETag, Sequencer string }
				}
				if err := json.Unmarshal([]byte(raw), &e); err != nil {
					t.Fatal(err)
				}
				got = append(got, strings.TrimSpace(strings.TrimPrefix(e.EventType, "Microsoft.MachineLearningServices.")+" "+e.Data.RunStatus))
				ids[e.ID] = true
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("events are %q, want %q", got, tt.want)
			}
			if len(ids) != len(got) {
				t.Errorf("%d events have %d ids", len(got), len(ids))
			}
		})
	}
}

func TestRunMakesItsExperimentInTheSameFrame(t *testing.T) {
	b := newBench(t)
	r, created, err := b.PutRun(t.Context(), b.ws, "Churn", "r1", status(Completed), kim)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	facts, events := b.log.since(0)
	if want := []string{"exp/00000000000000aa/churn", "run/00000000000000aa/churn/r1"}; !slices.Equal(facts, want) || len(events) != 1 || b.log.count() != 1 {
		t.Errorf("facts %q, %d events, %d frames", facts, len(events), b.log.count())
	}
	e, err := b.GetExperiment(t.Context(), b.ws, "CHURN")
	if err != nil || e.Name != "Churn" || e.ExperimentID != r.ExperimentID || r.Experiment != "Churn" {
		t.Errorf("experiment %+v, run %+v, error %v", e, r, err)
	}
	again, created, err := b.PutRun(t.Context(), b.ws, "cHURN", "R1", status(Completed), kim)
	if err != nil || created || again.ETag != r.ETag || again.Name != "r1" || b.log.count() != 1 {
		t.Errorf("the same request again gave %+v, created %v, error %v, %d frames", again, created, err, b.log.count())
	}
}

func TestRunPutReplacesAndPatchMerges(t *testing.T) {
	b := newBench(t)
	labels := func(kv ...string) Labels {
		l := Labels{}
		for i := 0; i < len(kv); i += 2 {
			l[kv[i]] = ptr(kv[i+1])
		}
		return l
	}
	put := func(c RunChange) Run {
		t.Helper()
		r, _, err := b.PutRun(t.Context(), b.ws, "e", "r", c, kim)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := put(RunChange{RunType: ptr("automl"), Tags: labels("a", "1", "b", "2"), Properties: labels("p", "1"), StartTime: ptr("2026-03-02T09:14:07+01:00")})
	if r.Status != NotStarted || r.RunType != "automl" {
		t.Errorf("new run is %+v", r)
	}
	r, err := b.PatchRun(t.Context(), b.ws, "e", "r", RunChange{Tags: Labels{"a": nil, "c": ptr("3"), "none": nil}}, kim)
	if err != nil || fmt.Sprintf("%v %v %v", r.Tags, r.Properties, r.RunType) != "map[b:2 c:3] map[p:1] automl" {
		t.Errorf("after the patch: %+v, %v", r, err)
	}
	r = put(RunChange{Tags: labels("z", "9")})
	if fmt.Sprintf("%v %v %v %v", r.Tags, r.Properties, r.RunType, r.StartTime) != "map[z:9] map[] carillon.run 2026-03-02T09:14:07+01:00" {
		t.Errorf("after the replacement: %+v", r)
	}
}

func TestRunMadeAgainRaisesNewIDs(t *testing.T) {
	b := newBench(t)
	for range 3 {
		if _, _, err := b.PutRun(t.Context(), b.ws, "e", "r", status(Completed), kim); err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteRun(t.Context(), b.ws, "e", "r", kim); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.GetRun(t.Context(), b.ws, "e", "r"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a deleted run reads as %v", err)
	}
	_, events := b.log.since(0)
	ids := map[string]bool{}
	for _, e := range events {
		var v struct{ ID string }
		_ = json.Unmarshal([]byte(e), &v)
		ids[v.ID] = true
	}
	if len(events) != 3 || len(ids) != 3 {
		t.Errorf("%d events with %d ids, want 3 with 3", len(events), len(ids))
	}
}

func TestConditions(t *testing.T) {
	b := newBench(t)
	r, _, err := b.PutRun(t.Context(), b.ws, "e", "there", status("Running"), kim)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		id      string
		match   []string
		none    []string
		refused bool
	}{
		{"no condition, there", "there", nil, nil, false},
		{"no condition, new", "new1", nil, nil, false},
		{"etag holds", "there", []string{"x", r.ETag}, nil, false},
		{"etag is stale", "there", []string{"0000"}, nil, true},
		{"any, there", "there", []string{"*"}, nil, false},
		{"any, new", "new2", []string{"*"}, nil, true},
		{"etag, new", "new3", []string{r.ETag}, nil, true},
		{"only new, there", "there", nil, []string{"*"}, true},
		{"only new, new", "new4", nil, []string{"*"}, false},
		{"not this etag, there", "there", nil, []string{r.ETag}, true},
		{"not that etag, there", "there", nil, []string{"0000"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := b.log.count()
			_, _, err := b.PutRun(t.Context(), b.ws, "e", tt.id, RunChange{Status: ptr("Running")}, Terms{By: kim.By, IfMatch: tt.match, IfNoneMatch: tt.none})
			if tt.refused {
				wantFault(t, err, fault.PreconditionFailed, nil, "The run")
				if b.log.count() != n {
					t.Error("a refused request wrote")
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	stale := Terms{By: kim.By, IfMatch: []string{"0000"}}
	if _, err := b.PatchRun(t.Context(), b.ws, "e", "there", RunChange{Tags: Labels{"a": ptr("b")}}, stale); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("stale patch: %v", err)
	}
	if err := b.DeleteRun(t.Context(), b.ws, "e", "there", stale); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("stale delete: %v", err)
	}
	if err := b.DeleteRun(t.Context(), b.ws, "e", "never", Terms{}); err != nil {
		t.Errorf("deleting nothing: %v", err)
	}
	if _, err := b.PatchRun(t.Context(), b.ws, "e", "never", RunChange{}, kim); !fault.Is(err, fault.NotFound) {
		t.Errorf("patching nothing: %v", err)
	}
}

func TestRunProblemsAreAllReported(t *testing.T) {
	b := newBench(t)
	_, _, err := b.PutRun(t.Context(), b.ws, "bad name", "a/b", RunChange{
		Status: ptr("done"), Tags: Labels{"": ptr("x")}, StartTime: ptr("yesterday"), EndTime: ptr("2026-03-02"),
	}, kim)
	wantFault(t, err, fault.Invalid,
		[]string{"experimentName", "runId", "properties.status", "properties.tags", "properties.startTime", "properties.endTime"}, `"done"`)
	_, _, err = b.PutRun(t.Context(), b.ws, "e", "r", RunChange{StartTime: ptr("2026-03-02T00:00:00Z"), EndTime: ptr("2026-03-01T00:00:00Z")}, kim)
	wantFault(t, err, fault.Invalid, []string{"properties.endTime"}, "must lie after")
	big := strings.Repeat("x", MaxLabels-10)
	_, _, err = b.PutRun(t.Context(), b.ws, "e", "r", RunChange{Tags: Labels{"k": &big}}, kim)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.PatchRun(t.Context(), b.ws, "e", "r", RunChange{Tags: Labels{"l": ptr(strings.Repeat("y", 20))}}, kim)
	wantFault(t, err, fault.Invalid, []string{"properties"}, "at most")
}

// TestRunTimesFit: a time that is given alone is held against the one that is there, and
// what is refused changes nothing.
func TestRunTimesFit(t *testing.T) {
	const first, second, third = "2026-03-01T00:00:00Z", "2026-03-02T00:00:00+01:00", "2026-03-03T00:00:00Z"
	for _, tt := range []struct {
		name       string
		start, end string // that the run has
		change     RunChange
		problem    string // target
	}{
		{"end before the start", second, "", RunChange{EndTime: ptr(first)}, "properties.endTime"},
		{"end at the start, in another zone", second, "", RunChange{EndTime: ptr("2026-03-01T23:00:00Z")}, ""},
		{"end after the start", second, "", RunChange{EndTime: ptr(third)}, ""},
		{"start after the end", first, second, RunChange{StartTime: ptr(third)}, "properties.startTime"},
		{"both later", first, second, RunChange{StartTime: ptr(second), EndTime: ptr(third)}, ""},
		{"first start after the end", "", second, RunChange{StartTime: ptr(third)}, "properties.startTime"},
		{"neither", first, second, RunChange{Tags: Labels{"a": ptr("b")}}, ""},
	} {
		for verb, change := range map[string]func(*bench, RunChange) error{
			"PATCH": func(b *bench, c RunChange) error {
				_, err := b.PatchRun(t.Context(), b.ws, "e", "r", c, kim)
				return err
			},
			"PUT": func(b *bench, c RunChange) error {
				_, _, err := b.PutRun(t.Context(), b.ws, "e", "r", c, kim)
				return err
			},
		} {
			t.Run(verb+" "+tt.name, func(t *testing.T) {
				b := newBench(t)
				var made RunChange
				if tt.start != "" {
					made.StartTime = &tt.start
				}
				if tt.end != "" {
					made.EndTime = &tt.end
				}
				before, _, err := b.PutRun(t.Context(), b.ws, "e", "r", made, kim)
				if err != nil {
					t.Fatal(err)
				}
				err = change(b, tt.change)
				if tt.problem == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				wantFault(t, err, fault.Invalid, []string{tt.problem}, "must lie")
				if now, err := b.GetRun(t.Context(), b.ws, "e", "r"); err != nil || now.ETag != before.ETag {
					t.Errorf("the run is %+v, %v", now, err)
				}
			})
		}
	}
}

func TestRunIDs(t *testing.T) {
	good := []string{"7d0c2f7e-5f0b-4a34-9c0e-2f8f6a1b0c11", "AutoML_1_2", "with space", "ünï", "a.b", "*>", "%41", strings.Repeat("é", maxName)}
	bad := []string{"", ".", "..", "a/b", `a\b`, "a?b", "a#b", "a\nb", "a\x7fb", "\xff", strings.Repeat("é", maxName+1)}
	for _, id := range good {
		if p := runIDProblem("runId", id); p != nil {
			t.Errorf("%q: %v", id, p)
		}
	}
	for _, id := range bad {
		if runIDProblem("runId", id) == nil {
			t.Errorf("%q passes", id)
		}
	}
	for _, name := range []string{"", ".", "-a", "a b", "a:b", "a,b", "a/b", "é", strings.Repeat("a", maxName+1)} {
		if validName(name) {
			t.Errorf("the name %q passes", name)
		}
	}
	for _, name := range []string{"a", "0", "_a", "A-b.c_9", strings.Repeat("a", maxName)} {
		if !validName(name) {
			t.Errorf("the name %q does not pass", name)
		}
	}
}

func TestConcurrentPatchesLoseNothing(t *testing.T) {
	b := newBench(t)
	const writers = 32
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			// The first of them make experiment and run, each whole.
			if _, _, err := b.PutRun(t.Context(), b.ws, "e", "r", RunChange{}, Terms{By: kim.By, IfNoneMatch: []string{"*"}}); err != nil && !fault.Is(err, fault.PreconditionFailed) {
				t.Error(err)
			}
			if _, err := b.PatchRun(t.Context(), b.ws, "e", "r", RunChange{Tags: Labels{fmt.Sprint(i): ptr("x")}}, kim); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	r, err := b.GetRun(t.Context(), b.ws, "e", "r")
	if err != nil || len(r.Tags) != writers {
		t.Errorf("%d tags of %d are there, error %v", len(r.Tags), writers, err)
	}
	facts, _ := b.log.since(0)
	if n := slices.Index(facts[1:], facts[0]); facts[0] != "exp/00000000000000aa/e" || n >= 0 {
		t.Errorf("the experiment was made again: %q", facts)
	}
	if len(b.locks.held) != 0 {
		t.Errorf("%d locks are still held", len(b.locks.held))
	}
}

// A caller that goes away must not free the object before its write is decided.
func TestWriteOutlivesItsCaller(t *testing.T) {
	b := newBench(t)
	b.log.held = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := b.PutRun(ctx, b.ws, "e", "r", status(Completed), kim)
		done <- err
	}()
	cancel()
	close(b.log.held)
	if err := <-done; err != nil {
		t.Errorf("the write ended with %v", err)
	}
	if _, events := b.log.since(0); len(events) != 1 {
		t.Errorf("%d events", len(events))
	}
}

func TestFailedWriteChangesNothing(t *testing.T) {
	b := newBench(t)
	b.log.fail = fault.New(fault.Unavailable, "ServiceUnavailable", "The log is full.")
	if _, _, err := b.PutRun(t.Context(), b.ws, "e", "r", status(Completed), kim); !fault.Is(err, fault.Unavailable) {
		t.Errorf("error is %v", err)
	}
	b.log.fail = nil
	if _, err := b.GetRun(t.Context(), b.ws, "e", "r"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the run reads as %v", err)
	}
	if _, created, err := b.PutRun(t.Context(), b.ws, "e", "r", status(Completed), kim); err != nil || !created {
		t.Errorf("the repeated request: created %v, error %v", created, err)
	}
}

func TestListsGoOnWhereTheyStopped(t *testing.T) {
	b := newBench(t)
	for i := range 7 {
		if _, _, err := b.PutRun(t.Context(), b.ws, "e", fmt.Sprintf("R%d", i), RunChange{}, kim); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	pages := 0
	for after := ""; ; pages++ {
		runs, next, err := b.ListRuns(t.Context(), b.ws, "E", Page{After: after, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range runs {
			got = append(got, r.Name)
		}
		if after = next; next == "" {
			break
		}
	}
	if want := []string{"R0", "R1", "R2", "R3", "R4", "R5", "R6"}; !slices.Equal(got, want) || pages != 2 {
		t.Errorf("%q in %d pages", got, pages+1)
	}
	if _, _, err := b.ListRuns(t.Context(), b.ws, "none", Page{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("runs of an unknown experiment: %v", err)
	}
	experiments, next, err := b.ListExperiments(t.Context(), b.ws, Page{})
	if err != nil || len(experiments) != 1 || next != "" {
		t.Errorf("experiments %v, next %q, error %v", experiments, next, err)
	}
}

func TestDeletedWorkspaceTakesNothing(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.PutRun(t.Context(), b.ws, "e", "r", RunChange{}, kim); err != nil {
		t.Fatal(err)
	}
	if _, err := b.RegisterModel(t.Context(), b.ws, "m", ModelChange{}, kim); err != nil {
		t.Fatal(err)
	}
	other := b.ws
	other.ID, other.UID = resource.MustID(workspaceID.String()+"2"), 0xcc
	if _, err := b.store.Workspaces.Create(t.Context(), other.ID.Key(), other); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.PutRun(t.Context(), other, "e", "r", RunChange{}, kim); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Workspaces.Delete(t.Context(), b.ws.ID.Key(), 0); err != nil {
		t.Fatal(err)
	}
	n := b.log.count()
	if _, _, err := b.PutRun(t.Context(), b.ws, "e", "r2", RunChange{}, kim); !fault.Is(err, fault.NotFound) {
		t.Errorf("write into a deleted workspace: %v", err)
	}
	if err := b.DeleteAll(t.Context(), b.ws.UID); err != nil {
		t.Fatal(err)
	}
	if _, events := b.log.since(n); len(events) != 0 {
		t.Errorf("deletion raised %q", events)
	}
	for k := range b.log.facts {
		if !strings.Contains(k, other.UID.String()) {
			t.Errorf("%s is still there", k)
		}
	}
	if _, err := b.GetRun(t.Context(), other, "e", "r"); err != nil {
		t.Errorf("the other workspace's run: %v", err)
	}
}

func TestDeleteExperimentTakesItsRuns(t *testing.T) {
	b := newBench(t)
	for _, id := range []string{"r1", "r2"} {
		if _, _, err := b.PutRun(t.Context(), b.ws, "e", id, RunChange{}, kim); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.DeleteExperiment(t.Context(), b.ws, "E", kim); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetRun(t.Context(), b.ws, "e", "r1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("run: %v", err)
	}
	if _, err := b.GetExperiment(t.Context(), b.ws, "e"); !fault.Is(err, fault.NotFound) {
		t.Errorf("experiment: %v", err)
	}
}

func TestNewerFactsAreNotGuessed(t *testing.T) {
	b := newBench(t)
	f := b.log.facts
	f["run/00000000000000aa/e/r"] = engineFact(`{"v":2,"state":{}}`)
	f["run/00000000000000aa/e/s"] = engineFact(`{`)
	for _, id := range []string{"r", "s"} {
		if _, err := b.GetRun(t.Context(), b.ws, "e", id); err == nil || fault.KindOf(err) != fault.Internal {
			t.Errorf("fact of run %s: %v", id, err)
		}
	}
}

// What events show has no user information of addresses, whichever way it came.
func TestUserInformationGoes(t *testing.T) {
	const address, shown = "https://ann:s3cret@git.example/churn", "https://git.example/churn"
	b := newBench(t)
	labels := func() Labels { return Labels{"repo": ptr(address)} }
	maps := func() map[string]string { return map[string]string{"repo": address} }
	is := func(door string, err error, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if err != nil || text != shown {
				t.Errorf("%s: %q, %v", door, text, err)
			}
		}
	}
	r, _, err := b.PutRun(t.Context(), b.ws, "e", "r", RunChange{Tags: labels(), Properties: labels()}, kim)
	is("run", err, r.Tags["repo"], r.Properties["repo"])
	m, _, err := b.PutModelVersion(t.Context(), b.ws, "m", "1", ModelChange{Tags: labels(), Properties: labels(), ModelURI: ptr(address)}, kim)
	is("model version", err, m.Tags["repo"], m.Properties["repo"], m.ModelURI)
	e, _, err := b.PutEndpoint(t.Context(), b.ws, "s", EndpointChange{Tags: labels(), Properties: labels(), ScoringURI: ptr(address)}, kim)
	is("endpoint", err, e.Tags["repo"], e.Properties["repo"], e.ScoringURI)
	told := report(t, "Running@1")
	told.Tags, told.Properties = maps(), maps()
	reported, _ := afterReport(&Run{}, false, &told)
	is("report", nil, reported.Tags["repo"], reported.Properties["repo"])
	if _, err := b.ReportRun(t.Context(), b.ws, told, bridge); err != nil {
		t.Fatal(err)
	}
	seen := sighting("Healthy a/1")
	seen.Tags, seen.Properties, seen.ScoringURI = maps(), maps(), address
	if _, err := b.ObserveService(t.Context(), b.ws, seen, bridge); err != nil {
		t.Fatal(err)
	}
	facts, events := b.log.since(0)
	if text := fmt.Sprint(facts, events); strings.Contains(text, "s3cret") {
		t.Errorf("stored is %s", text)
	}
}
