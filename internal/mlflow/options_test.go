package mlflow

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

const (
	registered    = "ModelRegistered"
	deployed      = "ModelDeployed"
	notResponding = "RunStatusChangedNotResponding"
)

// silenceIs has runs without a sign of life for so long count as NotResponding.
func silenceIs(d time.Duration) func(*resource.MLflowServer) {
	return func(m *resource.MLflowServer) { m.NotResponding = int(d / time.Second) }
}

func deployOn(on resource.DeployOn) func(*resource.MLflowServer) {
	return func(m *resource.MLflowServer) { m.DeployOn = on }
}

// last returns the newest event.
func (b *bridge) last() raised {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	return b.log.events[len(b.log.events)-1]
}

// What a server is attached with decides what is told of it.
// Source: spec/workspace.md sections 5.2, 5.4 and 5.7.
func TestOptions(t *testing.T) {
	in(t, "Running is made up for what was seen only ended", func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.SynthesizeRunning = true })
		b.fake.ended("FINISHED", time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)) // of before
		b.rounds(1)
		b.want()
		b.fake.ended("FINISHED", time.Now(), time.Now())
		id := b.fake.start(time.Now())
		b.rounds(1)
		b.want(running, finished, completed, running)
		if first := b.log.events[0]; first.word() != running && first.word() != finished {
			t.Errorf("first event %+v", first)
		}
		b.fake.set(id, "FAILED", time.Now())
		b.rounds(1)
		b.want(failed)
		b.fake.set(id, "FINISHED", time.Now()) // resumed and ended between two rounds
		b.rounds(1)
		b.want(running, finished, completed)
	})
	in(t, "Running that is made up has the id of one that is seen", func(t *testing.T) {
		ids := map[string]bool{}
		for _, seen := range []bool{true, false} {
			b := newBridge(t, func(m *resource.MLflowServer) { m.SynthesizeRunning = true })
			b.rounds(1)
			id := b.fake.start(time.Now())
			if seen {
				b.rounds(1)
			}
			b.fake.set(id, "FAILED", time.Now())
			b.rounds(1)
			b.want(running, failed)
			for _, e := range b.log.events {
				ids[e.ID] = true
			}
		}
		if len(ids) != 2 {
			t.Errorf("ids %v, want the same two", ids)
		}
	})
	in(t, "GUIDs of experiments", func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.ExperimentGUIDs = true })
		b.rounds(1)
		id := b.fake.ended("FAILED", time.Now(), time.Now())
		b.rounds(1)
		b.want(failed)
		want := mlevent.ExperimentGUID(workspaceID.String(), "0")
		if e := b.last(); e.Data.ExperimentID != want || e.Subject != "experiments/"+want+"/runs/"+id || e.Data.ExperimentName != "Default" {
			t.Errorf("event %+v", e)
		}
	})
	in(t, "metrics", func(t *testing.T) {
		for _, wanted := range []bool{false, true} {
			b := newBridge(t, func(m *resource.MLflowServer) { m.Metrics = wanted })
			b.rounds(1)
			id := b.fake.start(time.Now())
			b.fake.log(id, "auc", "0.5")
			b.rounds(2)
			before := b.log.records
			b.fake.log(id, "auc", `"NaN"`)
			b.rounds(1)
			if stored := b.log.records != before; stored != wanted {
				t.Errorf("metrics %v: a change was stored: %v", wanted, stored)
			}
			b.fake.log(id, "auc", "0.75")
			b.fake.set(id, "FINISHED", time.Now())
			b.rounds(1)
			b.want(running, finished, completed)
			if value, there := b.last().Data.RunProperties["mlflow.metric.auc"]; there != wanted || there && value != "0.75" {
				t.Errorf("metrics %v: %q", wanted, value)
			}
		}
	})
	in(t, "tags of the model", func(t *testing.T) {
		b := newBridge(t, func(m *resource.MLflowServer) { m.InheritModelTags = true })
		b.rounds(1)
		v := b.fake.register("churn", pair{"team", "growth"}, pair{"stage", "none"})
		b.fake.change(func() { v.Tags = []pair{{"stage", "candidate"}} })
		b.rounds(1)
		b.want(registered)
		if tags := fmt.Sprint(b.last().Data.ModelTags); tags != "map[stage:candidate team:growth]" {
			t.Errorf("tags %s", tags)
		}
		before := b.log.records
		time.Sleep(sweepEvery) // a sweep sees the same
		b.rounds(1)
		b.want()
		if b.log.records > before+1 { // the place
			t.Error("a sweep stored other tags")
		}
	})
}

// Source: spec/workspace.md section 5.7, "Zombies".
func TestNotResponding(t *testing.T) {
	const quiet = time.Hour
	for name, c := range map[string]struct {
		alive func(b *bridge, id string)
	}{
		"a metric":             {func(b *bridge, id string) { b.fake.log(id, "loss", fmt.Sprint(time.Now().Unix())) }},
		"the same value again": {func(b *bridge, id string) { b.fake.log(id, "loss", "1") }},
		"a tag": {func(b *bridge, id string) {
			b.fake.change(func() { b.fake.runs[id].Data.Tags = []pair{{"epoch", fmt.Sprint(time.Now().Unix())}} })
		}},
		"a parameter": {func(b *bridge, id string) {
			b.fake.change(func() {
				d := &b.fake.runs[id].Data
				d.Params = append(d.Params, pair{fmt.Sprint(len(d.Params)), "x"})
			})
		}},
	} {
		in(t, name, func(t *testing.T) {
			b := newBridge(t, silenceIs(quiet))
			b.rounds(1)
			id := b.fake.start(time.Now())
			b.rounds(1)
			b.want(running)
			for range 10 { // it goes on, now and then
				time.Sleep(quiet * 2 / 3)
				c.alive(b, id)
				b.rounds(widePart)
			}
			b.want()
			time.Sleep(quiet/2 - 2*widePart*15*time.Second)
			b.rounds(widePart)
			b.want() // too early
			time.Sleep(quiet * 3 / 4)
			b.rounds(widePart)
			b.want(notResponding)
			before := b.log.records
			b.restart() // nothing is forgotten
			b.rounds(2 * widePart)
			b.want()
			if b.log.records > before+1 {
				t.Errorf("%d records of a run that is not responding", b.log.records-before)
			}
			c.alive(b, id)
			b.rounds(widePart)
			b.want(running)
			if e := b.last(); e.ID != mlevent.RunStatusChangedID(workspaceID.String(), id, 1, mlevent.RunRunning, 2) {
				t.Errorf("id %s", e.ID)
			}
			time.Sleep(2 * quiet)
			b.rounds(widePart)
			b.want(notResponding)
			b.fake.set(id, "KILLED", time.Now())
			b.rounds(1)
			b.want(canceled)
		})
	}
	in(t, "a sign costs few writes", func(t *testing.T) {
		b := newBridge(t, silenceIs(quiet))
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		before := b.log.records
		for range int(quiet / (15 * time.Second)) {
			b.fake.log(id, "loss", fmt.Sprint(time.Now().Unix()))
			b.rounds(1)
		}
		if n := b.log.records - before; n > 6 {
			t.Errorf("%d records in an hour of signs", n)
		}
		b.want(running)
	})
	in(t, "one that waits is not silent", func(t *testing.T) {
		b := newBridge(t, silenceIs(quiet))
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.fake.set(id, "SCHEDULED", time.Time{})
		b.rounds(1)
		b.want("RunStatusChangedQueued")
		time.Sleep(5 * quiet)
		b.rounds(widePart)
		b.want()
		b.fake.set(id, "RUNNING", time.Time{})
		b.rounds(widePart)
		b.want(running)
	})
	in(t, "not asked for", func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		b.fake.start(time.Now())
		b.rounds(1)
		time.Sleep(100 * quiet)
		b.rounds(widePart)
		b.want(running)
	})
}

// Source: spec/workspace.md section 5.2, "ModelDeployed".
func TestDeployments(t *testing.T) {
	on := deployOn(resource.DeployOn{Alias: []string{"champion"}, Stage: []string{"Production"}})
	in(t, "an alias is set, moved, taken away and set again", func(t *testing.T) {
		b := newBridge(t, on)
		b.rounds(1)
		b.fake.register("churn")
		b.fake.register("churn")
		b.rounds(1)
		b.want(registered, registered)
		ids := map[string]bool{}
		for i, version := range []string{"1", "2", "1"} {
			time.Sleep(sweepEvery / 2) // the model itself does not change
			b.fake.setAlias("churn", "champion", version)
			b.rounds(widePart)
			b.want(deployed)
			e := b.last()
			if d := e.Data; e.Subject != "endpoints/churn@champion" || d.ServiceName != "churn@champion" || d.ServiceComputeType != "MLFLOW" ||
				d.ModelIDs != "churn:"+version || d.ServiceProperties["mlflow.alias"] != "champion" ||
				e.ID != mlevent.ModelDeployedID(workspaceID.String(), "churn@champion", int64(i+1), d.ModelIDs) {
				t.Errorf("event %+v", e)
			}
			ids[e.ID] = true
		}
		b.fake.setAlias("churn", "challenger", "2") // of which nothing is wanted; champion is gone
		b.rounds(widePart)
		b.want()
		b.restart()
		b.fake.setAlias("churn", "champion", "1")
		b.rounds(widePart)
		b.want(deployed)
		ids[b.last().ID] = true
		if len(ids) != 4 {
			t.Errorf("ids %v", ids)
		}
		b.restart() // and nothing twice
		b.rounds(2 * widePart)
		b.want()
	})
	in(t, "a stage", func(t *testing.T) {
		b := newBridge(t, on)
		b.rounds(1)
		b.fake.register("churn")
		b.rounds(1)
		b.fake.setStage("churn", "1", "Production")
		b.rounds(1)
		b.want(registered, deployed)
		if e := b.last(); e.Subject != "endpoints/churn@Production" || e.Data.ServiceProperties["mlflow.stage"] != "Production" {
			t.Errorf("event %+v", e)
		}
		b.fake.setStage("churn", "1", "Archived")
		b.rounds(1)
		b.want()
	})
	in(t, "what was there is silent, also for an alias that is asked for later", func(t *testing.T) {
		b := newBridge(t)
		b.fake.register("churn").Created -= 1000
		b.fake.setAlias("churn", "champion", "1")
		b.rounds(1)
		on(&b.record)
		b.restart()
		b.rounds(1)
		b.want()
		b.fake.register("churn")
		b.fake.setAlias("churn", "champion", "2")
		b.rounds(widePart)
		b.want(registered, deployed)
	})
	in(t, "what was there, when asked for", func(t *testing.T) {
		b := newBridge(t, on, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		b.fake.register("churn")
		b.fake.setAlias("churn", "champion", "1")
		b.rounds(1)
		b.want(registered, deployed)
	})
	in(t, "not for prompts", func(t *testing.T) {
		b := newBridge(t, on)
		b.rounds(1)
		b.fake.register("greeting", pair{promptTag, "true"})
		b.fake.setAlias("greeting", "champion", "1")
		b.rounds(widePart)
		b.want()
	})
}
