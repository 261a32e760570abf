package filter_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/filter/filterload"
)

// TestWorkloads holds every workload to its promise: exactly none, one or ten of a
// population want an event, says the plain loop and says the index.
func TestWorkloads(t *testing.T) {
	for _, w := range append(filterload.All(), filterload.Patterns(), filterload.Equality()) {
		t.Run(w.Op, func(t *testing.T) {
			for _, n := range []int{100, 1000} {
				p := w.Populate(t, n)
				x := filter.NewIndex(p.Entries)
				p.Small.Check(t, func(e *filterload.Probe) []uint64 { return plain(p, e.Parsed, nil) })
				p.Small.Check(t, func(e *filterload.Probe) []uint64 { return x.Match(e.Parsed, new(filter.Scratch)) })
				if n == 100 {
					p.Large.Check(t, func(e *filterload.Probe) []uint64 { return plain(p, e.Parsed, nil) })
				}
				for i := range filterload.Probes {
					if small, large := len(p.Small[i].Raw), len(p.Large[i].Raw); small != 1<<10 || large != 64<<10 {
						t.Errorf("event %d has %d and %d bytes, want 1 and 64 KB", i, small, large)
					}
				}
			}
		})
	}
}

// TestMixedMatchDoesNotAllocate matches events of both sizes with a scratch that has grown.
func TestMixedMatchDoesNotAllocate(t *testing.T) {
	w := filterload.Mixed()
	p := w.Populate(t, 10_000)
	x := filter.NewIndex(p.Entries)
	for _, events := range []*filterload.Events{&p.Small, &p.Large} {
		var s filter.Scratch
		var e event.Event
		got := testing.AllocsPerRun(1, func() {
			for i := range events {
				if err := e.Parse(events[i].Raw, event.EventGridSchema); err != nil {
					t.Fatal(err)
				}
				x.Match(&e, &s)
			}
		})
		if got != 0 {
			t.Errorf("%v allocations for %d events of %d bytes, want 0", got, filterload.Probes, len(events[0].Raw))
		}
	}
}

// sizes are the sizes of the events.
var sizes = []string{"1KB", "64KB"}

func ofSize(p *filterload.Population, size string) *filterload.Events {
	if size == "1KB" {
		return &p.Small
	}
	return &p.Large
}

// each asks for one event after the other and fails if not so many want it.
func each(b *testing.B, p *filterload.Population, hits int, size string, match func(*filterload.Probe) []uint64) {
	b.Run(fmt.Sprintf("hits=%d/event=%s", hits, size), func(b *testing.B) {
		events := ofSize(p, size).With(hits)
		for _, e := range events {
			match(e) // what grows has grown
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if got := len(match(events[i%len(events)])); got != hits {
				b.Fatalf("%d want the event, not %d", got, hits)
			}
			i++
		}
	})
}

// plain is the loop that an index must agree with and beat.
func plain(p *filterload.Population, e *event.Event, ids []uint64) []uint64 {
	ids = ids[:0]
	for i := range p.Entries {
		if p.Entries[i].Matcher.Match(e) {
			ids = append(ids, p.Entries[i].ID)
		}
	}
	return ids
}

// build makes a population and its index, and checks the answers.
func build(b *testing.B, w *filterload.Workload, subs int) (*filterload.Population, *filter.Index) {
	p := w.Populate(b, subs)
	x := filter.NewIndex(p.Entries)
	p.Small.Check(b, func(e *filterload.Probe) []uint64 { return x.Match(e.Parsed, new(filter.Scratch)) })
	p.Large.Check(b, func(e *filterload.Probe) []uint64 { return x.Match(e.Parsed, new(filter.Scratch)) })
	if subs <= 10_000 {
		p.Small.Check(b, func(e *filterload.Probe) []uint64 { return plain(p, e.Parsed, nil) })
	}
	return p, x
}

// BenchmarkMatch asks the index who wants a parsed event.
func BenchmarkMatch(b *testing.B) {
	for _, subs := range []int{100, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			for _, w := range filterload.All() {
				if subs > w.Most {
					continue
				}
				b.Run("op="+w.Op, func(b *testing.B) {
					p, x := build(b, &w, subs)
					var s filter.Scratch
					for _, hits := range filterload.HitCounts {
						for _, size := range sizes {
							if w.Op == "mixed" || hits == 10 && size == "1KB" || subs == 100_000 && (hits == 10 || size == "1KB") {
								each(b, p, hits, size, func(e *filterload.Probe) []uint64 { return x.Match(e.Parsed, &s) })
							}
						}
					}
				})
			}
		})
	}
}

// BenchmarkMatchRaw asks who wants a stored event and parses it first, as the
// broker does. Beside mixed filters it takes those that event pattern matchers can
// express too.
func BenchmarkMatchRaw(b *testing.B) {
	for _, subs := range []int{100, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			for _, w := range []filterload.Workload{filterload.Mixed(), filterload.Patterns(), filterload.Equality()} {
				b.Run("op="+w.Op, func(b *testing.B) {
					p, x := build(b, &w, subs)
					for _, hits := range filterload.HitCounts {
						for _, size := range sizes {
							each(b, p, hits, size, rawMatch(b, x))
						}
					}
				})
			}
		})
	}
}

// rawMatch matches stored events.
func rawMatch(b *testing.B, x *filter.Index) func(*filterload.Probe) []uint64 {
	var s filter.Scratch
	var e event.Event
	return func(p *filterload.Probe) []uint64 {
		if err := e.Parse(p.Raw, event.EventGridSchema); err != nil {
			b.Fatal(err)
		}
		return x.Match(&e, &s)
	}
}

// BenchmarkPlain asks every event subscription, as BenchmarkMatch does not.
func BenchmarkPlain(b *testing.B) {
	for _, subs := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("subs=%d/op=mixed", subs), func(b *testing.B) {
			w := filterload.Mixed()
			p := w.Populate(b, subs)
			var ids []uint64
			for _, size := range sizes {
				each(b, p, 10, size, func(e *filterload.Probe) []uint64 {
					ids = plain(p, e.Parsed, ids)
					return ids
				})
			}
		})
	}
}

// BenchmarkBuild makes indexes of mixed filters: all at once, by one With after the
// other, and by changes to one of 100,000. It reports nanoseconds per event
// subscription.
func BenchmarkBuild(b *testing.B) {
	w := filterload.Mixed()
	for _, subs := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("how=NewIndex/subs=%d", subs), func(b *testing.B) {
			p := w.Populate(b, subs)
			perSub(b, subs, func(int) { filter.NewIndex(p.Entries) })
		})
	}
	for _, subs := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("how=With/subs=%d", subs), func(b *testing.B) {
			p := w.Populate(b, subs)
			perSub(b, subs, func(int) {
				x := filter.NewIndex(nil)
				for _, e := range p.Entries {
					x = x.With(e)
				}
				if x.Len() != subs {
					b.Fatalf("the index holds %d, not %d", x.Len(), subs)
				}
			})
		})
	}
	for _, how := range []string{"Replace", "Drop"} {
		b.Run(fmt.Sprintf("how=%s/subs=100000", how), func(b *testing.B) {
			const subs = 100_000
			p := w.Populate(b, subs)
			x := filter.NewIndex(p.Entries)
			perSub(b, 1, func(i int) {
				e := p.Entries[i*7919%subs]
				if how == "Drop" {
					x = x.Without(e.ID)
				}
				// The filter of another comes in its place.
				x = x.With(filter.Entry{ID: e.ID, Matcher: p.Entries[i*104_729%subs].Matcher})
			})
		})
	}
}

// perSub times f and reports the time per event subscription.
func perSub(b *testing.B, subs int, f func(i int)) {
	i := 0
	for b.Loop() {
		f(i)
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(subs), "ns/sub")
}

// BenchmarkMemory reports the bytes that an event subscription takes in an index:
// in the index alone, and with its compiled filter, read from stored form.
func BenchmarkMemory(b *testing.B) {
	for _, subs := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("subs=%d/op=mixed", subs), func(b *testing.B) {
			w := filterload.Mixed()
			p := w.Populate(b, subs)
			stored := make([][]byte, subs)
			for i, f := range p.Filters {
				var err error
				if stored[i], err = f.MarshalJSON(); err != nil {
					b.Fatal(err)
				}
			}
			p = nil
			var matchers, index float64
			for b.Loop() {
				before := heap()
				entries := make([]filter.Entry, subs)
				for i, raw := range stored {
					f, err := filter.Parse(raw, filter.ParseOptions{})
					if err != nil {
						b.Fatal(err)
					}
					entries[i] = filter.Entry{ID: uint64(i + 1), Matcher: filter.Compile(&f)}
				}
				compiled := heap()
				x := filter.NewIndex(entries)
				matchers, index = compiled-before, heap()-compiled
				runtime.KeepAlive(entries)
				runtime.KeepAlive(x)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(index/float64(subs), "index-B/sub")
			b.ReportMetric((matchers+index)/float64(subs), "total-B/sub")
		})
	}
}

// heap is the memory in use after a collection.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
