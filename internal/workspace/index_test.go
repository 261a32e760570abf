package workspace

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/mlevent"
)

// The index of open runs says what reading every run would, however runs begin, end and
// go on, many at once; a Service that is made anew knows the same.
func TestOpenRunsAreIndexed(t *testing.T) {
	b := newBench(t)
	var group sync.WaitGroup
	for writer := range 8 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(writer), 1))
			for range 300 {
				o := b.seen([]RunStatus{mlevent.RunRunning, mlevent.RunNotResponding, Completed, Failed}[random.IntN(4)], "")
				// Runs of two writers have parts of the index in common, none has two writers.
				o.ID, o.ExperimentID, o.Silent = fmt.Sprint("run ", writer, " ", random.IntN(100)), fmt.Sprint(random.IntN(2)), random.IntN(5) == 0
				if _, err := b.ObserveRun(t.Context(), b.ws, o, bridge); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	var want []string
	keys, err := b.log.FactKeys(t.Context(), key(kindRun, b.ws.UID)+"/")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		var r Run
		if _, err := b.read(t.Context(), k, &r); err != nil {
			t.Fatal(err)
		}
		if !r.Status.Terminal() {
			want = append(want, r.ExperimentID+"/"+r.Name)
		}
	}
	slices.Sort(want)
	if len(want) < 100 || len(want) == len(keys) {
		t.Fatalf("%d of %d runs are open: the test tests nothing", len(want), len(keys))
	}
	runs, err := b.restart(nil).OpenMirrored(t.Context(), b.ws)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range runs {
		got = append(got, r.ExperimentID+"/"+r.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("open are\n%q, want\n%q", got, want)
	}
}

// A run that begins or ends is one frame with its place in the index; what changes
// neither leaves the index alone.
func TestIndexIsWrittenWithTheRun(t *testing.T) {
	b := newBench(t)
	for _, step := range []struct {
		status RunStatus
		end    string
		index  int
	}{{mlevent.RunRunning, "", 1}, {mlevent.RunNotResponding, "", 0}, {mlevent.RunRunning, "", 0}, {Completed, noon, 1}, {Failed, noon, 0}} {
		frames := b.log.count()
		b.observe(t, b.seen(step.status, step.end))
		facts, _ := b.log.since(frames)
		n := 0
		for _, k := range facts {
			if strings.HasPrefix(k, kindOpen+"/") {
				n++
			}
		}
		if b.log.count() != frames+1 || n != step.index {
			t.Errorf("%s: %d frames with the facts %q", step.status, b.log.count()-frames, facts)
		}
	}
	b.log.fail = fmt.Errorf("the disk is full")
	if _, err := b.ObserveRun(t.Context(), b.ws, b.seen(mlevent.RunRunning, ""), bridge); err == nil {
		t.Fatal("no error")
	}
	b.log.fail = nil
	b.observe(t, b.seen(mlevent.RunRunning, "")) // the part is free again
}
