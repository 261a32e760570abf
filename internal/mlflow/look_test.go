package mlflow

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// What is asked for by itself is seen at once, and a round later raises nothing more.
func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		s, metrics := b.following(t, nil)
		b.attach(t, 0)
		synctest.Wait()
		time.Sleep(time.Second)

		b.fake.change(func() { b.fake.experiments = append(b.fake.experiments, experiment{"1", "Team A"}) })
		id := b.fake.ended("FINISHED", time.Now(), time.Now())
		b.fake.change(func() { b.fake.runs[id].Info.ExperimentID = "1" })
		b.fake.register("churn")
		var done atomic.Int32
		for range 3 {
			s.Look(7, Object{Run: id}, func() { done.Add(1) })
			s.Look(7, Object{Model: "churn"}, func() { done.Add(1) })
		}
		s.Look(7, Object{Run: "nobody"}, func() { done.Add(1) })
		s.Look(8, Object{Run: id}, func() { done.Add(1) }) // not attached
		s.Look(7, Object{Model: "churn"}, nil)
		synctest.Wait()
		b.want(finished, completed, "ModelRegistered")
		if !slices.ContainsFunc(b.log.events, func(e raised) bool { return e.Data.ExperimentName == "Team A" }) {
			t.Errorf("events %+v do not have the name of an experiment that no round has seen", b.log.events)
		}
		if done.Load() != 8 {
			t.Errorf("%d looks are done, want 8", done.Load())
		}
		if m := metrics(); m["looks_total ok"] != 3 || m["looks_total failed"] != 0 || m["events_total"] != 3 {
			t.Errorf("metrics %v: each object is looked at once", m)
		}
		b.fake.change(func() { b.fake.experiments[1].Name = "Team B" })
		s.Look(7, Object{Experiment: "1"}, nil)
		synctest.Wait()
		id = b.fake.ended("FAILED", time.Now(), time.Now())
		b.fake.change(func() { b.fake.runs[id].Info.ExperimentID = "1" })
		s.Look(7, Object{Run: id}, nil)
		synctest.Wait()
		if e := b.log.events[len(b.log.events)-1]; e.Data.ExperimentName != "Team B" {
			t.Errorf("event %+v", e)
		}
		b.want(failed)
		time.Sleep(2 * time.Hour)
		b.want()
	})
}

// What cannot be looked at, and what is too much, is left to a round that reads all.
func TestLookFails(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(b *bridge)
		looks   int
	}{
		"refused":  {func(b *bridge) { b.fake.fail = failing("runs/get") }, 1},
		"too many": {func(*bridge) {}, mostLooks + 10},
	} {
		in(t, name, func(t *testing.T) {
			b := newBridge(t)
			s, _ := b.following(t, nil)
			b.attach(t, 0)
			synctest.Wait()
			b.fake.ended("KILLED", time.Now(), time.Now())
			time.Sleep(time.Minute)
			b.want(canceled)
			b.fake.ended("FAILED", time.Now().Add(-1000*time.Hour), time.Now().Add(-999*time.Hour)) // seen by a sweep alone
			time.Sleep(5 * time.Minute)
			b.want()
			var done atomic.Int32
			b.fake.change(func() { // nobody is answered meanwhile
				c.prepare(b)
				for i := range c.looks {
					s.Look(7, Object{Run: fmt.Sprint(i)}, func() { done.Add(1) })
				}
			})
			time.Sleep(16 * time.Second)
			b.want(failed)
			if int(done.Load()) != c.looks {
				t.Errorf("%d looks are done, want %d", done.Load(), c.looks)
			}
		})
	}
}

func failing(path string) func(string) int {
	return func(asked string) int {
		if asked == path {
			return http.StatusServiceUnavailable
		}
		return 0
	}
}

// A look waits for a server that cannot be followed yet, and over a change of settings.
// With the server it goes.
func TestLookWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		var missing atomic.Bool
		missing.Store(true)
		s, _ := b.following(t, func(*resource.MLflowServer) (secret.String, error) {
			if missing.Load() {
				return "", errors.New("the key is missing")
			}
			return "t0ken", nil
		})
		revision := b.attach(t, 0)
		var done atomic.Int32
		s.Look(7, Object{Run: "1"}, func() { done.Add(1) })
		time.Sleep(time.Minute)
		if n, _ := b.fake.asked(); n != 0 || done.Load() != 0 {
			t.Errorf("%d requests, %d looks are done", n, done.Load())
		}
		missing.Store(false)
		b.record.Interval = 60
		revision = b.attach(t, revision)
		synctest.Wait()
		if done.Load() != 1 {
			t.Error("the look went with the change of settings")
		}
		missing.Store(true)
		revision = b.attach(t, revision)
		synctest.Wait()
		s.Look(7, Object{Run: "1"}, func() { done.Add(1) })
		if err := b.store.MLflowServers.Delete(t.Context(), workspaceID.Key(), revision); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if done.Load() != 2 || len(s.looks) != 0 {
			t.Errorf("%d looks are done, %d servers are remembered", done.Load(), len(s.looks))
		}
	})
}

// A look that is overtaken by a newer fact is repeated.
func TestLookIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		b.rounds(1)
		id := b.fake.start(time.Now())
		b.rounds(1)
		b.want(running)
		b.fake.set(id, "FINISHED", time.Now())
		asked := 0
		b.fake.fail = func(path string) int {
			if asked++; asked == 1 { // another one learns of a tag while the answer is on its way
				r := *b.fake.runs[id]
				r.Info.Status, r.Data.Tags = "RUNNING", nil
				if out, err := b.observeRun(t.Context(), &r, b.ledger.Mark(), seenAs{}); err != nil || !out.Changed {
					t.Errorf("observed %+v, error %v", out, err)
				}
			}
			return 0
		}
		if _, err := b.lookAt(t.Context(), Object{Run: id}); err != nil || asked != 2 {
			t.Errorf("%d requests, error %v", asked, err)
		}
		b.want(finished, completed)
	})
}

func TestAttached(t *testing.T) {
	b := newBridge(t)
	s := New(Config{Store: b.store, Ledger: b.ledger})
	if _, err := s.Attached("bells"); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "carillon mlflow attach URL --workspace bells") {
		t.Errorf("error %v", err)
	}
	revision := b.attach(t, 0)
	for range 2 { // the second time it is remembered
		if server, err := s.Attached("Bells"); err != nil || server.UID != 7 || server.NoProxy {
			t.Errorf("%+v, error %v", server, err)
		}
	}
	if _, err := s.Attached("gongs"); !fault.Is(err, fault.NotFound) {
		t.Errorf("error %v", err)
	}
	b.record.NoProxy = true
	revision = b.attach(t, revision)
	if server, err := s.Attached("bells"); err != nil || !server.NoProxy {
		t.Errorf("%+v, error %v", server, err)
	}
	if err := b.store.MLflowServers.Delete(t.Context(), workspaceID.Key(), revision); err != nil {
		t.Fatal(err)
	}
	if server, err := s.Attached("bells"); err == nil {
		t.Errorf("%+v is detached", server)
	}
}
