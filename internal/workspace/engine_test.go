package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/internal/engine"
)

// appender records straight into a partition.
type appender struct{ *engine.Partition }

func (a appender) Record(ctx context.Context, records []engine.Record) (engine.Receipt, error) {
	return a.Append(ctx, records)
}

// On the real engine, and after a restart of it, every object reads as it was
// answered, and the etag of its last event is the one it still has.
func TestStateSurvivesRestart(t *testing.T) {
	b, dir := newBench(t), t.TempDir()
	open := func() (*engine.Engine, *Service) {
		t.Helper()
		e, err := engine.Open(t.Context(), engine.Options{Dir: dir, Durability: engine.DurabilityProcess})
		if err != nil {
			t.Fatal(err)
		}
		return e, New(Config{Recorder: appender{e.Partition()}, Facts: e.Partition(), Workspaces: b.store.Workspaces})
	}
	e, s := open()
	const writers, each = 8, 10
	var mu sync.Mutex
	answered := map[string]Run{}
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for j := range each {
				id := fmt.Sprintf("run %d.%d *>%%", i, j)
				if _, _, err := s.PutRun(t.Context(), b.ws, fmt.Sprintf("exp.%d", j%3), id, status("Running"), kim); err != nil {
					t.Error(err)
					return
				}
				r, err := s.PatchRun(t.Context(), b.ws, fmt.Sprintf("exp.%d", j%3), id, status(Completed), kim)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				answered[id] = r
				mu.Unlock()
			}
		})
	}
	group.Wait()

	check := func(s *Service) {
		t.Helper()
		n := 0
		experiments, _, err := s.ListExperiments(t.Context(), b.ws, Page{})
		if err != nil || len(experiments) != 3 {
			t.Fatalf("%d experiments, error %v", len(experiments), err)
		}
		for _, x := range experiments {
			runs, _, err := s.ListRuns(t.Context(), b.ws, x.Name, Page{})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range runs {
				want := answered[r.Name]
				want.Created.At, want.Modified.At = want.Created.At.Round(0), want.Modified.At.Round(0)
				if n++; !reflect.DeepEqual(r, want) {
					t.Errorf("run reads as %+v, answered was %+v", r, want)
				}
			}
		}
		if n != writers*each {
			t.Errorf("%d runs of %d are there", n, writers*each)
		}
	}
	check(s)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e, s = open()
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	check(s)

	events := 0
	for f, err := range e.Partition().Frames(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range f.Records {
			if r.Kind != engine.KindEvent {
				continue
			}
			var v struct {
				Data struct{ RunID, ETag, Sequencer string }
			}
			if err := json.Unmarshal(r.Data, &v); err != nil {
				t.Fatal(err)
			}
			if events++; v.Data.ETag != answered[v.Data.RunID].ETag || v.Data.Sequencer != f.Sequencer(i) {
				t.Errorf("event of %q has etag %s and sequencer %s, want %s and %s", v.Data.RunID, v.Data.ETag, v.Data.Sequencer, answered[v.Data.RunID].ETag, f.Sequencer(i))
			}
		}
	}
	if events != writers*each {
		t.Errorf("%d events, want %d", events, writers*each)
	}
}
