package mlflow

import (
	"maps"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
)

// Each row of the failure table, in its words and its order, with what covers it.
// Source: spec/workspace.md section 5.9.
func TestFailures(t *testing.T) {
	for _, row := range []struct {
		failure string
		test    func(t *testing.T)
	}{
		// TestIntents holds that the run is looked at as soon as Carillon is there again. Here
		// the intent is lost, and the rounds find what was committed, whichever search shows it.
		{"proxy crashes after MLflow committed", func(t *testing.T) {
			b := newBridge(t)
			b.rounds(1)
			seen, gone := b.fake.start(time.Now()), b.fake.start(time.Now())
			b.rounds(1)
			b.want(running, running)
			b.fake.set(seen, "FAILED", time.Now())    // by end time
			b.fake.set(gone, "FINISHED", time.Time{}) // by id, for it has none
			b.fake.ended("KILLED", time.Now(), time.Now())
			b.restart()
			b.rounds(1)
			b.want(failed, finished, completed, canceled)
		}},
		// A look beside the rounds, which webhooks lead to. TestProxyRaces and
		// TestProxyRaisesTheSameIDs hold the same of the proxy.
		{"same transition seen by proxy and poller", func(t *testing.T) {
			b := newBridge(t)
			b.rounds(1)
			look := func(id string) {
				if _, err := b.lookAt(t.Context(), Object{Run: id}); err != nil {
					t.Error(err)
				}
			}
			id := b.fake.start(time.Now())
			look(id)
			b.rounds(1)
			look(id)
			b.want(running)
			b.fake.set(id, "FINISHED", time.Now())
			b.rounds(1)
			look(id)
			b.rounds(widePart)
			b.want(finished, completed)
			v := b.fake.register("churn")
			for range 2 {
				if _, err := b.lookAt(t.Context(), Object{Model: v.Name}); err != nil {
					t.Error(err)
				}
				b.rounds(1)
			}
			b.want(registered)
		}},
		{"client retries runs/update", func(t *testing.T) {
			b := newBridge(t)
			b.rounds(1)
			id := b.fake.ended("FAILED", time.Now(), time.Now())
			b.rounds(1)
			b.want(failed)
			b.fake.set(id, "FAILED", time.Now().Add(time.Second)) // the end time is corrected
			b.rounds(4)
			b.want()
		}},
		{"run resumed and finished again between polls", func(t *testing.T) {
			for _, renews := range []bool{false, true} {
				b := newBridge(t, func(m *resource.MLflowServer) { m.EndTimeRenews = renews })
				b.rounds(1)
				id := b.fake.ended("FINISHED", time.Now(), time.Now())
				b.rounds(1)
				b.want(finished, completed)
				b.fake.set(id, "FINISHED", time.Now().Add(time.Minute))
				b.rounds(2)
				if renews {
					b.want(finished, completed)
				} else {
					b.want()
				}
			}
		}},
		{"back-dated runs (import tools)", func(t *testing.T) {
			b := newBridge(t)
			b.fake.ended("FINISHED", time.Now().Add(-time.Minute), time.Now().Add(-time.Second))
			b.rounds(2)
			b.want()
			b.fake.ended("FAILED", time.Now().Add(-1000*time.Hour), time.Now().Add(-999*time.Hour))
			b.fake.start(time.Now().Add(-1000 * time.Hour))
			b.rounds(widePart)
			b.want(running)
			time.Sleep(sweepEvery)
			b.rounds(1)
			b.want(failed)
		}},
		{"model re-created under the same name", func(t *testing.T) {
			b := newBridge(t)
			b.rounds(1)
			b.fake.register("churn")
			b.rounds(1)
			b.want("ModelRegistered")
			time.Sleep(time.Second)
			b.fake.change(func() { b.fake.versions = nil })
			b.fake.register("churn")
			b.rounds(3)
			b.want("ModelRegistered")
		}},
		{"Carillon restored from backup", func(t *testing.T) {
			b := newBridge(t)
			b.rounds(1)
			id := b.fake.start(time.Now())
			b.rounds(1)
			b.want(running)
			backup := maps.Clone(b.log.facts)
			b.fake.set(id, "FINISHED", time.Now())
			b.fake.register("churn")
			b.rounds(1)
			b.want(finished, completed, registered)
			told := map[string]raised{}
			for _, e := range b.log.events {
				told[e.ID] = e
			}
			time.Sleep(time.Hour)
			b.fake.ended("FAILED", time.Now(), time.Now())

			// The facts are those of before. What was told after is told again, with its ids
			// and later sequencers: who remembers ids sees no new fact.
			b.log.facts, b.log.events, b.taken = backup, nil, 0
			b.restart()
			b.rounds(2)
			b.want(finished, completed, registered, failed)
			for _, e := range b.log.events {
				before, repeated := told[e.ID]
				if repeated != (e.word() != failed) || repeated && (e.Subject != before.Subject || e.Data.Sequencer <= before.Data.Sequencer) {
					t.Errorf("event %+v, before %+v", e, before)
				}
			}
		}},
		{"clock skew", func(t *testing.T) {
			b := newBridge(t)
			b.rounds(2)
			b.fake.ended("FAILED", time.Now().Add(9000*time.Hour), time.Now().Add(9001*time.Hour)) // ahead
			b.rounds(1)
			b.want(failed)
			b.fake.ended("FAILED", time.Now().Add(-50*time.Minute), time.Now().Add(-49*time.Minute)) // behind
			b.rounds(1)
			b.want(failed)
			if limit := time.Now().UnixMilli(); b.place.Started > limit || b.place.Ended > limit {
				t.Errorf("the place %+v is ahead of our clock", b.place)
			}
		}},
	} {
		in(t, row.failure, row.test)
	}
}
