package workspace

import (
	"fmt"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/mlevent"
)

// recorded is a Service over the real engine in which many did the same.
func recorded(b *testing.B, n int, do func(s *bench, i int) error) *bench {
	b.Helper()
	e, err := engine.Open(b.Context(), engine.Options{Dir: b.TempDir(), Durability: engine.DurabilityProcess})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	s := newBench(b)
	s.Service = New(Config{Recorder: appender{e.Partition()}, Facts: e.Partition(), Workspaces: s.store.Workspaces})
	const writers = 16
	var group sync.WaitGroup
	for from := range writers {
		group.Go(func() {
			for i := from; i < n; i += writers {
				if err := do(s, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return s
}

// What a start asks of the ledger: which runs have not ended, of all that were recorded.
func BenchmarkOpenMirrored(b *testing.B) {
	const open = 50
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("recorded=%d/open=%d", n, open), func(b *testing.B) {
			s := recorded(b, n, func(s *bench, i int) error {
				o := s.seen(Completed, noon)
				if o.ID = fmt.Sprintf("%032x", i*2654435761); i%(n/open) == 0 {
					o.Status = mlevent.RunRunning
				}
				_, err := s.ObserveRun(b.Context(), s.ws, o, bridge)
				return err
			})
			for b.Loop() {
				if runs, err := s.OpenMirrored(b.Context(), s.ws); err != nil || len(runs) != open {
					b.Fatalf("%d runs, error %v", len(runs), err)
				}
			}
		})
	}
}

// Whether a version that is not known had another name, of as many models.
func BenchmarkNameOfVersion(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("models=%d", n), func(b *testing.B) {
			version := func(s *bench, i int) VersionObservation {
				return VersionObservation{Model: fmt.Sprintf("model %d", i), Version: "1", Created: int64(i), RunID: fmt.Sprint("r", i), Seen: s.Mark()}
			}
			s := recorded(b, n, func(s *bench, i int) error {
				_, err := s.ObserveModelVersion(b.Context(), s.ws, version(s, i), bridge)
				return err
			})
			o := version(s, n/2)
			o.Model = "renamed"
			for b.Loop() {
				if name, err := s.NameOfVersion(b.Context(), s.ws, o); err != nil || name != fmt.Sprintf("model %d", n/2) {
					b.Fatalf("name %q, error %v", name, err)
				}
			}
		})
	}
}

// A run that is seen to begin and to end, with as many open beside it.
func BenchmarkObserveRun(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("open=%d", n), func(b *testing.B) {
			s := recorded(b, n, func(s *bench, i int) error {
				o := s.seen(mlevent.RunRunning, "")
				o.ID = fmt.Sprintf("%032x", i*2654435761)
				_, err := s.ObserveRun(b.Context(), s.ws, o, bridge)
				return err
			})
			i := 0
			for b.Loop() {
				i++
				for _, status := range []RunStatus{mlevent.RunRunning, Completed} {
					o := s.seen(status, "")
					o.ID = fmt.Sprintf("%032x", -i)
					if _, err := s.ObserveRun(b.Context(), s.ws, o, bridge); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
