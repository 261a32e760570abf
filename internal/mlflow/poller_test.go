package mlflow

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
)

const (
	completed = "RunCompleted"
	running   = "RunStatusChangedRunning"
	finished  = "RunStatusChangedCompleted"
	failed    = "RunStatusChangedFailed"
	canceled  = "RunStatusChangedCanceled"
)

// in runs f in fake time.
func in(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// Each case is a rule of spec/workspace.md section 5.7. What may fail is in TestFailures.
func TestPoller(t *testing.T) {
	in(t, "a run starts and ends", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		b.want(running)
		b.fake.set(id, "FINISHED", time.Now())
		b.rounds(1)
		b.want(finished, completed)
		e := b.log.events[len(b.log.events)-1]
		if e.Subject != "experiments/0/runs/"+id || e.Data.ExperimentName != "Default" || e.Data.RunType != "mlflow.local" ||
			e.Data.RunTags["team"] != "growth" || e.Data.RunProperties["mlflow.endTime"] == "" {
			t.Errorf("event %+v", e)
		}
		b.rounds(10)
		b.want()
	})
	in(t, "between two rounds", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		b.fake.ended("FAILED", time.Now(), time.Now())
		b.fake.ended("KILLED", time.Now(), time.Now())
		b.rounds(1)
		b.want(failed, canceled)
	})
	in(t, "what was there is silent", func(t *testing.T) {
		b := newBridge(t)
		old := b.fake.start(time.Now().Add(-48 * time.Hour))
		b.fake.ended("FINISHED", time.Now().Add(-48*time.Hour), time.Now().Add(-47*time.Hour))
		b.fake.register("churn").Created -= 10000
		b.rounds(5)
		b.want()
		b.fake.set(old, "FAILED", time.Now())
		b.rounds(1)
		b.want(failed)
	})
	in(t, "what was there raises events when asked for", func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		b.fake.ended("FINISHED", time.Now().Add(-48*time.Hour), time.Now().Add(-47*time.Hour))
		b.fake.register("churn").Created -= 10000
		b.rounds(5)
		b.want(finished, completed, "ModelRegistered")
	})
	in(t, "what begins or ends before the first round is whole is not of before", func(t *testing.T) {
		b := newBridge(t)
		b.fake.ended("FAILED", time.Now().Add(-2*time.Second), time.Now().Add(-time.Second))
		b.fake.ended("FAILED", time.Now(), time.Now())
		b.fake.fail = func(string) int { return http.StatusServiceUnavailable } // the server goes down
		if err := b.round(t.Context()); err == nil {
			t.Error("no error")
		}
		time.Sleep(time.Hour)
		b.fake.fail = nil
		b.fake.ended("KILLED", time.Now().Add(-2*time.Hour), time.Now())
		b.fake.register("churn")
		b.rounds(2)
		b.want(failed, canceled, "ModelRegistered")
	})
	in(t, "resumed", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		id := b.fake.ended("FINISHED", time.Now(), time.Now())
		b.rounds(1)
		b.want(finished, completed)
		time.Sleep(5 * time.Hour)
		b.rounds(1) // a sweep
		b.fake.set(id, "RUNNING", time.Time{})
		b.rounds(widePart)
		b.want(running)
		b.fake.set(id, "FINISHED", time.Now())
		b.rounds(1)
		b.want(finished, completed)
	})
	in(t, "ends without an end time, or with one long gone", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		none, gone := b.fake.start(time.Now()), b.fake.start(time.Now())
		b.rounds(1)
		b.want(running, running)
		time.Sleep(3 * time.Hour)
		b.rounds(1)
		b.fake.set(none, "FAILED", time.Time{})
		b.fake.set(gone, "KILLED", time.Now().Add(-100*time.Hour))
		b.rounds(1)
		b.want(failed, canceled)
	})
	in(t, "model renamed", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		b.fake.register("churn")
		b.fake.register("churn")
		b.rounds(1)
		b.want("ModelRegistered", "ModelRegistered")
		b.fake.rename("churn", "Churn") // soon after
		b.rounds(3)
		b.want()
		time.Sleep(45 * time.Minute)
		b.fake.register("other")
		b.rounds(1)
		b.want("ModelRegistered")
		b.fake.rename("Churn", "leavers")
		b.rounds(3)
		b.want()
		b.fake.register("leavers")
		b.rounds(1)
		b.want("ModelRegistered")
	})
	in(t, "model renamed and made again under its old name", func(t *testing.T) {
		for _, first := range []string{"the old name", "the new name"} { // is read first
			b := newBridge(t)
			b.rounds(1)
			b.fake.register("churn")
			b.rounds(1)
			b.want("ModelRegistered")
			for i, name := range []string{"leavers", "goers"} { // the second time after an hour, by the sweep
				b.fake.rename("churn", name)
				time.Sleep(time.Second)
				b.fake.register("churn")
				if first == "the new name" {
					b.fake.change(func() { b.fake.models[name].LastUpdated = whole(time.Now().Add(time.Second).UnixMilli()) })
				}
				b.rounds(3)
				b.want("ModelRegistered")
				time.Sleep(time.Duration(i) * sweepEvery)
				b.rounds(1)
				b.want()
				if got := b.last().Data.ModelName; got != "churn" {
					t.Errorf("%s first: %q is registered", first, got)
				}
			}
			b.fake.register("leavers")
			b.rounds(1)
			b.want("ModelRegistered")
		}
	})
	in(t, "models that take each other's names", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		b.fake.register("blue")
		time.Sleep(time.Second)
		b.fake.register("green")
		b.rounds(1)
		b.want("ModelRegistered", "ModelRegistered")
		b.fake.rename("blue", "old")
		b.fake.rename("green", "blue")
		b.fake.rename("old", "green")
		b.rounds(6)
		time.Sleep(sweepEvery)
		b.rounds(2)
		b.want()
	})
	in(t, "prompts and versions that are not ready", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		b.fake.register("greeting", pair{promptTag, "true"})
		v := b.fake.register("churn")
		v.Status = "PENDING_REGISTRATION"
		b.fake.register("broken").Status = "FAILED_REGISTRATION"
		b.rounds(4)
		b.want()
		time.Sleep(40 * time.Minute) // the model itself does not change any more
		b.rounds(1)
		b.fake.change(func() { v.Status = "READY" })
		b.rounds(1)
		b.want("ModelRegistered")
		time.Sleep(sweepEvery)
		b.rounds(2)
		b.want()
	})
	in(t, "zombies", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		for range 3 {
			b.fake.start(time.Now())
		}
		b.rounds(1)
		b.want(running, running, running)
		time.Sleep(hotFor)
		b.rounds(1) // a sweep
		b.rounds(widePart)
		for range 2 * widePart {
			b.rounds(1)
			if n := b.requests; (b.poller.rounds-1)%widePart != 0 && n != 3 {
				t.Errorf("%d requests %q, want 3: nobody asks for what does not move", n, b.fake.requests[len(b.fake.requests)-n:])
			}
		}
		b.fake.set(fmt.Sprintf("%032x", 2), "KILLED", time.Time{})
		time.Sleep(sweepEvery)
		b.rounds(1)
		b.want(canceled)
	})
	in(t, "removed for good", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		b.fake.change(func() { b.fake.hide = map[string]bool{id: true} })
		b.rounds(patience)
		if len(b.open) != 0 {
			t.Errorf("open runs %v", b.open)
		}
		b.want(running)
	})
	in(t, "deleted, not removed", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		b.fake.change(func() { b.fake.runs[id].Info.LifecycleStage = "deleted" })
		b.rounds(1)
		if len(b.open) != 0 {
			t.Errorf("open runs %v", b.open)
		}
		b.want(running)
		b.fake.change(func() { b.fake.runs[id].Info.LifecycleStage = "active" })
		b.fake.set(id, "FAILED", time.Now())
		b.rounds(1)
		b.want(failed)
	})
	in(t, "a backend without IN", func(t *testing.T) {
		b := newBridge(t)
		b.fake.noIn = true
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		time.Sleep(3 * time.Hour)
		b.rounds(1)
		b.fake.set(id, "FAILED", time.Time{})
		b.rounds(1)
		b.want(running, failed)
	})
	in(t, "a round that fails is repeated", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		for _, path := range []string{"runs/search", "registered-models/search", "model-versions/search", "experiments/search"} {
			b.fake.ended("FAILED", time.Now(), time.Now())
			b.fake.register("churn")
			b.fake.fail = func(asked string) int {
				if asked == path {
					return http.StatusServiceUnavailable
				}
				return 0
			}
			before := b.place
			for range widePart + 1 {
				if err := b.round(t.Context()); err == nil && path != "experiments/search" {
					t.Errorf("%s: no error", path)
				} else if path != "experiments/search" && b.place != before {
					t.Errorf("%s: the place moved to %+v", path, b.place)
				}
			}
			b.fake.fail = nil
			time.Sleep(2 * time.Hour)
			b.rounds(1)
			b.want(failed, "ModelRegistered")
		}
	})
	in(t, "nothing is learned from a refusal", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		b.fake.start(time.Now())
		b.rounds(1)
		b.want(running)
		b.fake.fail = func(string) int { return http.StatusForbidden }
		for range 3 {
			if err := b.round(t.Context()); !Refused(err) {
				t.Errorf("error %v", err)
			}
		}
		if len(b.open) != 1 {
			t.Errorf("open runs %v", b.open)
		}
	})
	in(t, "attached again, or to another server", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		b.want(running)
		b.fake.ended("FAILED", time.Now(), time.Now()) // while detached
		b.fake.set(id, "FINISHED", time.Now())
		time.Sleep(time.Minute)
		b.record.UID, b.record.Created.At = 8, time.Now()
		b.restart()
		b.rounds(2)
		b.want(finished, completed) // of the run that the ledger knows
	})
}

// A day of an outage: whatever ends meanwhile is an event exactly once.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		var open []string
		for range 20 {
			open = append(open, b.fake.start(time.Now()))
		}
		b.rounds(2)
		b.taken = len(b.log.events)
		var want []string
		end := func(id, status string, at time.Time, words ...string) {
			b.fake.set(id, status, at)
			want = append(want, words...)
		}
		for i, id := range open[:15] {
			time.Sleep(time.Hour)
			switch i % 3 {
			case 0:
				end(id, "FINISHED", time.Now(), finished, completed)
			case 1:
				end(id, "FAILED", time.Now(), failed)
			case 2:
				end(id, "KILLED", time.Time{}, canceled)
			}
		}
		for range 10 { // not seen running by anybody
			end(b.fake.start(time.Now()), "FINISHED", time.Now(), finished, completed)
		}
		end(b.fake.start(time.Now().Add(-500*time.Hour)), "FAILED", time.Now().Add(-499*time.Hour), failed)
		for range 3 {
			b.fake.register("churn")
			want = append(want, "ModelRegistered")
		}
		b.restart()
		b.rounds(6)
		b.want(want...)
	})
}

// The process is killed after each number of writes, and a process after it goes on:
// the ledger ends with the same events, each once.
func TestKilledAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for stop := 0; ; stop++ {
			b := newBridge(t)
			b.rounds(1)
			id := b.fake.start(time.Now())
			b.rounds(1)
			b.log.crashAfter = stop
			b.fake.set(id, "FINISHED", time.Now())
			b.fake.ended("FAILED", time.Now(), time.Now())
			b.fake.ended("KILLED", time.Now(), time.Now())
			b.fake.change(func() { b.fake.experiments = append(b.fake.experiments, experiment{"1", "New"}) })
			b.fake.register("churn")
			err := b.round(t.Context())
			time.Sleep(time.Minute)
			for range widePart {
				if err == nil {
					err = b.round(t.Context())
				}
			}
			b.restart()
			b.rounds(2)
			b.want(running, finished, completed, failed, canceled, "ModelRegistered")
			if t.Failed() || err == nil {
				if stop < 6 {
					t.Errorf("only %d writes were cut", stop)
				}
				return
			}
		}
	})
}

// A round costs at most ten requests, however much lies behind.
// Source: spec/workspace.md section 5.7, "Cost".
func TestRequestsOfRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t, deployOn(resource.DeployOn{Alias: []string{"champion"}})) // which reads all models in wide rounds
		start := time.Now().Add(-100 * time.Hour)
		for i := range 10_000 {
			at := start.Add(time.Duration(i) * 36 * time.Second)
			b.fake.ended("FINISHED", at, at.Add(time.Minute))
		}
		for range 50 {
			b.fake.start(time.Now().Add(-2 * time.Hour))
		}
		b.fake.register("churn")
		b.rounds(1)
		if b.requests > 10 {
			t.Errorf("the sweep took %d requests", b.requests)
		}
		t.Logf("the sweep took %d requests", b.requests)
		most := 0
		for range 3 * widePart {
			b.rounds(1)
			most = max(most, b.requests)
		}
		t.Logf("a round took at most %d requests", most)
		if most > 10 {
			t.Errorf("a round took %d requests", most)
		}
	})
}

// Pages go on from the last time, also when a whole page has the same one, and get
// smaller when answers are too large.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		at := time.Now().Add(-time.Hour)
		for i := range 2*pageOfRuns + 10 { // one millisecond, more than a page
			b.fake.ended("FAILED", at, at.Add(time.Duration(i)))
		}
		for i := range pageOfRuns {
			b.fake.ended("FAILED", at.Add(time.Duration(i%7)*time.Second), at.Add(time.Minute))
		}
		b.rounds(1)
		b.want(slices.Repeat([]string{failed}, 3*pageOfRuns+10)...)
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		b.fake.padding = strings.Repeat("x", answerLimit/300)
		for range 400 {
			b.fake.ended("FAILED", time.Now().Add(-rand.N(time.Hour)), time.Now())
		}
		b.rounds(1)
		b.want(slices.Repeat([]string{failed}, 400)...)
	})
}

// A poller looks at every experiment, a hundred in a request.
func TestManyExperiments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		for i := range 2500 {
			b.fake.experiments = append(b.fake.experiments, experiment{fmt.Sprint(i + 1), fmt.Sprintf("e%d", i+1)})
		}
		b.rounds(1)
		id := b.fake.ended("FAILED", time.Now(), time.Now())
		b.fake.change(func() { b.fake.runs[id].Info.ExperimentID = "2500" })
		b.rounds(1)
		b.want(failed)
		if name := b.log.events[0].Data.ExperimentName; name != "e2500" {
			t.Errorf("experiment %q", name)
		}
	})
}
