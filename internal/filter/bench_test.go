package filter

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// TestWorkloads holds every workload to its promise: exactly none, one or ten of a
// population want an event, says the plain loop and says the index.
func TestWorkloads(t *testing.T) {
	for _, w := range append(workloads(), expressible(), equality()) {
		t.Run(w.op, func(t *testing.T) {
			for _, n := range []int{100, 1000} {
				p := w.populate(t, n)
				x := NewIndex(p.entries)
				check(t, &p.small, func(e *event.Event) []uint64 { return p.plain(e, nil) })
				check(t, &p.small, func(e *event.Event) []uint64 { return x.Match(e, new(Scratch)) })
				if n == 100 {
					check(t, &p.large, func(e *event.Event) []uint64 { return p.plain(e, nil) })
				}
				for i := range probes {
					if small, large := len(p.small[i].raw), len(p.large[i].raw); small != 1<<10 || large != 64<<10 {
						t.Errorf("event %d has %d and %d bytes, want 1 and 64 KB", i, small, large)
					}
				}
			}
		})
	}
}

// TestMixedMatchDoesNotAllocate matches events of both sizes with a scratch that has grown.
func TestMixedMatchDoesNotAllocate(t *testing.T) {
	w := mixed()
	p := w.populate(t, 10_000)
	x := NewIndex(p.entries)
	for _, events := range []*[probes]probe{&p.small, &p.large} {
		var s Scratch
		var e event.Event
		got := testing.AllocsPerRun(1, func() {
			for i := range events {
				if err := e.Parse(events[i].raw, event.EventGridSchema); err != nil {
					t.Fatal(err)
				}
				x.Match(&e, &s)
			}
		})
		if got != 0 {
			t.Errorf("%v allocations for %d events of %d bytes, want 0", got, probes, len(events[0].raw))
		}
	}
}

// sizes are the sizes of the events.
var sizes = []string{"1KB", "64KB"}

func (p *population) of(size string) *[probes]probe {
	if size == "1KB" {
		return &p.small
	}
	return &p.large
}

// with returns the events that so many want.
func with(events *[probes]probe, hits int) []*probe {
	var out []*probe
	for _, i := range probesOf(hits) {
		out = append(out, &events[i])
	}
	return out
}

// each asks for one event after the other and fails if not so many want it.
func each(b *testing.B, p *population, hits int, size string, match func(*probe) []uint64) {
	b.Run(fmt.Sprintf("hits=%d/event=%s", hits, size), func(b *testing.B) {
		events := with(p.of(size), hits)
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

// build makes a population and its index, and checks the answers.
func build(b *testing.B, w *workload, subs int) (*population, *Index) {
	p := w.populate(b, subs)
	x := NewIndex(p.entries)
	check(b, &p.small, func(e *event.Event) []uint64 { return x.Match(e, new(Scratch)) })
	check(b, &p.large, func(e *event.Event) []uint64 { return x.Match(e, new(Scratch)) })
	if subs <= 10_000 {
		check(b, &p.small, func(e *event.Event) []uint64 { return p.plain(e, nil) })
	}
	return p, x
}

// BenchmarkMatch asks the index who wants a parsed event.
func BenchmarkMatch(b *testing.B) {
	for _, subs := range []int{100, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			for _, w := range workloads() {
				if subs > w.most {
					continue
				}
				b.Run("op="+w.op, func(b *testing.B) {
					p, x := build(b, &w, subs)
					var s Scratch
					for _, hits := range hitCounts {
						for _, size := range sizes {
							if w.op == "mixed" || hits == 10 && size == "1KB" || subs == 100_000 && (hits == 10 || size == "1KB") {
								each(b, p, hits, size, func(e *probe) []uint64 { return x.Match(e.parsed, &s) })
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
			for _, w := range []workload{mixed(), expressible(), equality()} {
				b.Run("op="+w.op, func(b *testing.B) {
					p, x := build(b, &w, subs)
					for _, hits := range hitCounts {
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
func rawMatch(b *testing.B, x *Index) func(*probe) []uint64 {
	var s Scratch
	var e event.Event
	return func(p *probe) []uint64 {
		if err := e.Parse(p.raw, event.EventGridSchema); err != nil {
			b.Fatal(err)
		}
		return x.Match(&e, &s)
	}
}

// BenchmarkPlain asks every event subscription, as BenchmarkMatch does not.
func BenchmarkPlain(b *testing.B) {
	for _, subs := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("subs=%d/op=mixed", subs), func(b *testing.B) {
			w := mixed()
			p := w.populate(b, subs)
			var ids []uint64
			for _, size := range sizes {
				each(b, p, 10, size, func(e *probe) []uint64 {
					ids = p.plain(e.parsed, ids)
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
	w := mixed()
	for _, subs := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("how=NewIndex/subs=%d", subs), func(b *testing.B) {
			p := w.populate(b, subs)
			perSub(b, subs, func(int) { NewIndex(p.entries) })
		})
	}
	for _, subs := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("how=With/subs=%d", subs), func(b *testing.B) {
			p := w.populate(b, subs)
			perSub(b, subs, func(int) {
				x := NewIndex(nil)
				for _, e := range p.entries {
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
			p := w.populate(b, subs)
			x := NewIndex(p.entries)
			perSub(b, 1, func(i int) {
				e := p.entries[i*7919%subs]
				if how == "Drop" {
					x = x.Without(e.ID)
				}
				// The filter of another comes in its place.
				x = x.With(Entry{ID: e.ID, Matcher: p.entries[i*104_729%subs].Matcher})
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
			w := mixed()
			p := w.populate(b, subs)
			stored := make([][]byte, subs)
			for i, e := range p.entries {
				var err error
				if stored[i], err = e.Matcher.filter.MarshalJSON(); err != nil {
					b.Fatal(err)
				}
			}
			p = nil
			var matchers, index float64
			for b.Loop() {
				before := heap()
				entries := make([]Entry, subs)
				for i, raw := range stored {
					f, err := Parse(raw, ParseOptions{})
					if err != nil {
						b.Fatal(err)
					}
					entries[i] = Entry{ID: uint64(i + 1), Matcher: Compile(&f)}
				}
				compiled := heap()
				x := NewIndex(entries)
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
