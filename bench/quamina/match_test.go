// Package quamina holds the filter index against quamina, a matcher of event
// patterns, on what both can express. It is a module of its own, so that the server
// does not depend on quamina.
package quamina

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"quamina.net/go/quamina/v2"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/filter/filterload"
)

// ask says who wants a stored event. What it returns is good until the next call.
type ask[ID any] func(testing.TB, *filterload.Probe) []ID

// askIndex parses an event and asks the index, as the broker does.
func askIndex(x *filter.Index) ask[uint64] {
	var s filter.Scratch
	var e event.Event
	return func(t testing.TB, p *filterload.Probe) []uint64 {
		if err := e.Parse(p.Raw, event.EventGridSchema); err != nil {
			t.Fatal(err)
		}
		return x.Match(&e, &s)
	}
}

func askQuamina(q *quamina.Quamina) ask[quamina.X] {
	return func(t testing.TB, p *filterload.Probe) []quamina.X {
		ids, err := q.MatchesForEvent(p.Raw)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
}

// index makes an index of stored filters, one after the other, as quamina takes its
// patterns.
func index(t testing.TB, filters []string) *filter.Index {
	x := filter.NewIndex(nil)
	for i, raw := range filters {
		f, err := filter.Parse([]byte(raw), filter.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		x = x.With(filter.Entry{ID: uint64(i + 1), Matcher: filter.Compile(&f)})
	}
	return x
}

// matcher makes a quamina of patterns.
func matcher(t testing.TB, patterns []string) *quamina.Quamina {
	q, err := quamina.New()
	if err != nil {
		t.Fatal(err)
	}
	for i, pattern := range patterns {
		if err := q.AddPattern(uint64(i+1), pattern); err != nil {
			t.Fatalf("pattern %s: %v", pattern, err)
		}
	}
	return q
}

// stored writes each filter of a population in the form of each engine.
func stored(t testing.TB, p *filterload.Population) (filters, patterns []string) {
	for i := range p.Filters {
		raw, err := json.Marshal(p.Filters[i])
		if err != nil {
			t.Fatal(err)
		}
		pattern, err := patternOf(&p.Filters[i])
		if err != nil {
			t.Fatalf("filter %s: %v", raw, err)
		}
		filters, patterns = append(filters, string(raw)), append(patterns, pattern)
	}
	return filters, patterns
}

// patternOf writes a filter as a pattern. A pattern tells cases apart where our
// operators do not, and its anything-but wants the member to be there: the events of
// the workloads have the case that filters name, and the members.
func patternOf(f *filter.Filter) (string, error) {
	if f.SubjectEndsWith != "" || f.EnableAdvancedFilteringOnArrays || f.SubjectBeginsWith != "" && !f.IsSubjectCaseSensitive {
		return "", fmt.Errorf("has no pattern")
	}
	root := map[string]any{}
	if f.IncludedEventTypes != nil {
		root["eventType"] = f.IncludedEventTypes
	}
	if f.SubjectBeginsWith != "" {
		root["subject"] = []any{map[string]string{"prefix": f.SubjectBeginsWith}}
	}
	for _, c := range f.AdvancedFilters {
		test, err := testOf(&c)
		if err != nil {
			return "", err
		}
		at, path := root, strings.Split(c.Key, ".")
		for _, name := range path[:len(path)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		last := path[len(path)-1]
		if at[last] != nil {
			return "", fmt.Errorf("has two conditions on %s", c.Key)
		}
		at[last] = test
	}
	raw, err := json.Marshal(root)
	return string(raw), err
}

// testOf writes a condition as the test of one member.
func testOf(c *filter.Condition) (any, error) {
	switch c.Operator {
	case filter.StringIn:
		return c.Strings, nil
	case filter.StringNotIn:
		return []any{map[string]any{"anything-but": c.Strings}}, nil
	case filter.NumberIn:
		var numbers []json.RawMessage
		for _, n := range c.Numbers {
			numbers = append(numbers, json.RawMessage(n))
		}
		return numbers, nil
	case filter.BoolEquals:
		return []any{c.Bool}, nil
	case filter.IsNotNull:
		return []any{map[string]any{"exists": true}}, nil
	case filter.IsNullOrUndefined:
		return []any{map[string]any{"exists": false}}, nil
	}
	return nil, fmt.Errorf("no pattern has the operator %s", c.Operator)
}

// numbersOf are quamina's answers as ours are.
func numbersOf(ids []quamina.X) []uint64 {
	var out []uint64
	for _, id := range ids {
		out = append(out, id.(uint64))
	}
	return out
}

// shared are the workloads that both can express: two of filters as teams write
// them, and one of a single member with many values.
func shared() []filterload.Workload {
	all := filterload.All()
	single := slices.IndexFunc(all, func(w filterload.Workload) bool { return w.Op == filter.StringIn.String() })
	return []filterload.Workload{filterload.Patterns(), filterload.Equality(), all[single]}
}

// populate makes a population. The operands of StringIn get the case of its events,
// which is the lower one.
func populate(t testing.TB, w *filterload.Workload, n int) *filterload.Population {
	p := w.Populate(t, n)
	if w.Op != filter.StringIn.String() {
		return p
	}
	for i := range p.Filters {
		c := slices.Clone(p.Filters[i].AdvancedFilters)
		c[0].Strings = slices.Clone(c[0].Strings)
		for j, v := range c[0].Strings {
			c[0].Strings[j] = strings.ToLower(v)
		}
		p.Filters[i].AdvancedFilters = c
	}
	return p
}

// TestAnswers holds both to the same answers, for events of both sizes.
func TestAnswers(t *testing.T) {
	for _, w := range shared() {
		t.Run(w.Op, func(t *testing.T) {
			for _, n := range []int{100, 1000} {
				p := populate(t, &w, n)
				filters, patterns := stored(t, p)
				ours, quaminas := askIndex(index(t, filters)), askQuamina(matcher(t, patterns))
				for _, events := range []*filterload.Events{&p.Small, &p.Large} {
					events.Check(t, func(e *filterload.Probe) []uint64 { return ours(t, e) })
					events.Check(t, func(e *filterload.Probe) []uint64 { return numbersOf(quaminas(t, e)) })
				}
			}
		})
	}
}

// BenchmarkMatch asks both who wants a stored event of 1 KB, on one goroutine. All
// answers are checked first.
func BenchmarkMatch(b *testing.B) {
	for _, subs := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			for _, w := range shared() {
				if subs == 100_000 && w.Op == filterload.Patterns().Op {
					continue // tags of 10,000 names: quamina copies all names for each pattern that it takes
				}
				b.Run("op="+w.Op, func(b *testing.B) {
					p := populate(b, &w, subs)
					filters, patterns := stored(b, p)
					ours, quaminas := askIndex(index(b, filters)), askQuamina(matcher(b, patterns))
					p.Small.Check(b, func(e *filterload.Probe) []uint64 { return ours(b, e) })
					p.Small.Check(b, func(e *filterload.Probe) []uint64 { return numbersOf(quaminas(b, e)) })
					for _, hits := range filterload.HitCounts {
						b.Run(fmt.Sprintf("hits=%d/event=1KB", hits), func(b *testing.B) {
							b.Run("engine=carillon", func(b *testing.B) { each(b, p.Small.With(hits), hits, ours) })
							b.Run("engine=quamina", func(b *testing.B) { each(b, p.Small.With(hits), hits, quaminas) })
						})
					}
				})
			}
		})
	}
}

// each asks for one event after the other and fails if not so many want it. Beside
// the time it reports the processor time of the process, which other work on the
// machine moves less.
func each[ID any](b *testing.B, events []*filterload.Probe, hits int, match ask[ID]) {
	b.ReportAllocs()
	began, i := cpu(b), 0
	for b.Loop() {
		if got := len(match(b, events[i%len(events)])); got != hits {
			b.Fatalf("%d want the event, not %d", got, hits)
		}
		i++
	}
	b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/1000/float64(b.N), "cpu-µs")
}

// cpu is the processor time that this process has used so far.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBuild gives both the same filters in their stored form, one after the
// other.
func BenchmarkBuild(b *testing.B) {
	for _, subs := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			for _, w := range shared() {
				b.Run("op="+w.Op, func(b *testing.B) {
					filters, patterns := stored(b, populate(b, &w, subs))
					b.Run("engine=carillon", func(b *testing.B) { perSub(b, subs, func() { index(b, filters) }) })
					b.Run("engine=quamina", func(b *testing.B) { perSub(b, subs, func() { matcher(b, patterns) }) })
				})
			}
		})
	}
}

// perSub times f and reports the processor time per event subscription.
func perSub(b *testing.B, subs int, f func()) {
	began := cpu(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/1000/float64(b.N)/float64(subs), "cpu-µs/sub")
}
