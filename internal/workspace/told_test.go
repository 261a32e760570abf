package workspace

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
)

// lifecycleOf lists all lifecycle events since a time, in pages.
func (b *bench) lifecycle(t *testing.T, since time.Time, page int) (all []LifecycleEvent) {
	t.Helper()
	for after, more := "", true; more; {
		var events []LifecycleEvent
		var err error
		events, after, more, err = b.LifecycleEvents(t.Context(), b.ws, LifecyclePage{Since: since, After: after, Most: page})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, events...)
	}
	return all
}

// raisedEvents are the events of the log by id.
func (b *bench) raisedEvents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, frame := range b.log.frames {
		for _, r := range frame {
			if r.Kind == engine.KindEvent {
				all[idOf(t, r.Data)] = string(r.Data)
			}
		}
	}
	return all
}

func idOf(t *testing.T, event []byte) string {
	t.Helper()
	var e struct{ ID string }
	if err := json.Unmarshal(event, &e); err != nil || e.ID == "" {
		t.Fatalf("%s: %v", event, err)
	}
	return e.ID
}

// What is told later is what was raised, to the byte, as long as the object is as it was:
// also with tags that look like a sequencer, and in both spellings.
func TestLifecycleEventsAreThoseRaised(t *testing.T) {
	tricky := Labels{`"sequencer":"`: ptr(blank), blank: ptr(`told","sequencer":"` + blank)}
	for _, casing := range []string{resource.PayloadCamelCase, resource.PayloadDocumented} {
		t.Run(casing, func(t *testing.T) {
			b := newBench(t, everyExtra, func(ws *resource.Workspace) {
				ws.PayloadCasing, ws.StatusEvents = casing, []string{"Failed", "Completed", "Running"}
			})
			run := func(id string, s ...RunStatus) {
				for _, s := range s {
					c := status(s)
					c.Tags = tricky
					if _, _, err := b.PutRun(t.Context(), b.ws, "e", id, c, kim); err != nil {
						t.Fatal(err)
					}
				}
			}
			run("done", Completed)
			run("failed", "Running", Failed)
			run("open", "Running")
			if _, err := b.RegisterModel(t.Context(), b.ws, "churn", ModelChange{Tags: tricky, Properties: Labels{"mlflow.aliases": ptr("a,b")}}, kim); err != nil {
				t.Fatal(err)
			}
			b.endpoint(t, "Transitioning", "Healthy")
			b.drifts(t, 0.5, 0.1)
			b.observe(t, b.seen("Completed", ""))
			events := b.lifecycle(t, time.Time{}, 2)
			raised := b.raisedEvents(t)
			var types []string
			for _, e := range events {
				id := idOf(t, e.Event)
				if !e.Raised || raised[id] != string(e.Event) {
					t.Errorf("told of %s, raised %v:\n%s\nwas raised:\n%s", e.Object, e.Raised, e.Event, raised[id])
				}
				delete(raised, id)
				var head struct {
					EventType string
					Data      struct{ ETag string }
				}
				_ = json.Unmarshal(e.Event, &head)
				if e.Change != head.Data.ETag {
					t.Errorf("told of a change to %s: %s", e.Change, e.Event)
				}
				types = append(types, head.EventType[strings.LastIndexByte(head.EventType, '.')+1:])
			}
			want := "RunStatusChanged RunCompleted RunStatusChanged ModelRegistered ModelDeployed DatasetDriftDetected RunStatusChanged RunCompleted DatasetDriftDetected DriftCleared RunStatusChanged RunCompleted RunStatusChanged RunCompleted"
			if got := strings.Join(types, " "); got != want {
				t.Errorf("told:\n%s\nwant\n%s", got, want)
			}
			for _, left := range raised { // on the way to where the objects are, and of aliases
				if !strings.Contains(left, `"runStatus":"Running"`) && !strings.Contains(left, "ModelAliasSet") {
					t.Errorf("not told: %s", left)
				}
			}
		})
	}
}

// A change that raises nothing leaves id, time and sequencer and shows itself in data and
// etag. What was raised for nobody is told all the same; what was not to be told is not.
func TestLifecycleEventsOfWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		type told struct {
			EventTime, Subject string
			Data               struct {
				RunStatus, ModelIDs, ETag, Sequencer string
				ModelTags                            map[string]string
			}
			change string
		}
		list := func(since time.Time) map[string]told {
			all := map[string]told{}
			for _, e := range b.lifecycle(t, since, 100) {
				var v told
				if err := json.Unmarshal(e.Event, &v); err != nil {
					t.Fatal(err)
				}
				v.change = e.Change
				all[fmt.Sprintf("%s raised=%v", strings.TrimPrefix(e.Object.String(), workspaceID.String()), e.Raised)] = v
			}
			return all
		}
		names := func(all map[string]told) []string {
			var s []string
			for k := range all {
				s = append(s, k)
			}
			slices.Sort(s)
			return s
		}
		m, err := b.RegisterModel(t.Context(), b.ws, "churn", ModelChange{}, kim)
		if err != nil {
			t.Fatal(err)
		}
		b.endpoint(t, "Transitioning", "Healthy")
		if _, _, err := b.PutRun(t.Context(), b.ws, "e", "stopped", status("Canceled"), kim); err != nil {
			t.Fatal(err)
		}
		old := b.seen("Completed", "")
		old.Silent = true
		b.observe(t, old)
		b.drifts(t, 0.5)
		before := list(time.Time{})
		const version, endpoint, stopped = "/models/churn/versions/1 raised=true", "/onlineEndpoints/svc raised=true", "/experiments/e/runs/stopped raised=false"
		if got := names(before); len(got) != 5 || !slices.Contains(got, version) || !slices.Contains(got, endpoint) || before[stopped].Data.RunStatus != "Canceled" {
			t.Fatalf("told: %q", got)
		}
		time.Sleep(time.Hour)
		later := time.Now()
		changed, err := b.PatchModelVersion(t.Context(), b.ws, "churn", "1", ModelChange{Tags: Labels{"stage": ptr("production")}}, kim)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.PatchEndpoint(t.Context(), b.ws, "svc", EndpointChange{ModelIDs: ptr("churn:9"), State: ptr("Unhealthy")}, kim); err != nil {
			t.Fatal(err)
		}
		after := list(time.Time{})
		was, is := before[version], after[version]
		if is.EventTime != was.EventTime || is.Data.Sequencer != was.Data.Sequencer || is.Data.ETag != changed.ETag || was.Data.ETag != m.ETag || is.Data.ModelTags["stage"] != "production" || is.change != m.ETag {
			t.Errorf("after the change %+v, before %+v", is, was)
		}
		if is := after[endpoint]; is.Data.ModelIDs != "churn:1" || is.Data.Sequencer != before[endpoint].Data.Sequencer {
			t.Errorf("the deployment after a change: %+v", is)
		}
		if got := list(later); len(got) != 0 {
			t.Errorf("told since then, though it came to pass before: %q", names(got))
		}
		b.endpoint(t, "Transitioning", "Failed")
		if got := names(list(later)); !slices.Equal(got, []string{"/onlineEndpoints/svc raised=false"}) {
			t.Errorf("told since: %q", got)
		}
	})
}

// Objects of a version that noted nothing are told with the same ids.
func TestLifecycleEventsOfOldFacts(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.PutRun(t.Context(), b.ws, "e", "done", status(Completed), kim); err != nil {
		t.Fatal(err)
	}
	if _, err := b.RegisterModel(t.Context(), b.ws, "churn", ModelChange{}, kim); err != nil {
		t.Fatal(err)
	}
	b.observe(t, b.seen("Completed", "")) // it is not known whether it was to be told
	for k, f := range b.log.facts {
		var envelope map[string]json.RawMessage
		if err := json.Unmarshal(f.Data, &envelope); err != nil {
			t.Fatal(err)
		}
		delete(envelope, "told")
		f.Data, _ = json.Marshal(envelope)
		b.log.facts[k] = f
	}
	raised := b.raisedEvents(t)
	events := b.lifecycle(t, time.Time{}, 1)
	for _, e := range events {
		if raised[idOf(t, e.Event)] == "" || e.Raised {
			t.Errorf("told of %s: %s", e.Object, e.Event)
		}
	}
	if len(events) != 2 {
		t.Errorf("%d events are told, want 2", len(events))
	}
}
