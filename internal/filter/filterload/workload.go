// Package filterload makes the workloads that filters are measured with, by the
// benchmarks of internal/filter and by those that hold its index against another
// matcher.
//
// Each workload is a population of event subscriptions of any size and twelve
// events; of the whole population exactly none, one or ten want an event. Seeds are
// fixed and a workload keeps its meaning for ever: add, do not edit.
package filterload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
)

// Probes is the number of events of a workload.
const Probes = 12

// HitCounts are how many event subscriptions may want an event: event p is wanted
// by HitCounts[p%3].
var HitCounts = [...]int{0, 1, 10}

func hitsOf(p int) int { return HitCounts[p%len(HitCounts)] }

// probesOf returns the events that are wanted by one of the counts.
func probesOf(counts ...int) []int {
	var out []int
	for p := range Probes {
		if slices.Contains(counts, hitsOf(p)) {
			out = append(out, p)
		}
	}
	return out
}

// Workload says how a population is made.
type Workload struct {
	Op     string                                     // the workload's name
	Most   int                                        // the largest population that is measured
	event  func(p int, filler string) string          // event p; filler is put before what filters look at
	wanted func(r *rand.Rand) []wanted                // the filters that some events pass
	miss   func(r *rand.Rand, pool int) filter.Filter // one that no event passes; pool is how many different names there are
	retry  bool                                       // wanted and miss may fail their purpose and are asked again
}

// wanted is a filter and the events that pass it.
type wanted struct {
	filter filter.Filter
	by     []int
}

// Population is a workload of one size.
type Population struct {
	Filters []filter.Filter // those of the entries, in their order
	Entries []filter.Entry  // with ids from 1
	Small   Events          // of exactly 1 KB
	Large   Events          // of exactly 64 KB: the same event with much before the members that filters look at
}

// Probe is an event and who wants it.
type Probe struct {
	Raw    []byte // as stored, in the Event Grid schema
	Parsed *event.Event
	Want   []uint64 // ascending
}

// Events are the events of a population.
type Events [Probes]Probe

func (w *Workload) events(t testing.TB, filler string) Events {
	var out Events
	for p := range out {
		raw := []byte(w.event(p, filler))
		parsed := new(event.Event)
		if err := parsed.Parse(raw, event.EventGridSchema); err != nil {
			t.Fatalf("event %s: %v", raw, err)
		}
		out[p] = Probe{Raw: raw, Parsed: parsed}
	}
	return out
}

// Populate makes a population of n event subscriptions; those that want an event
// stand anywhere among the others.
func (w *Workload) Populate(t testing.TB, n int) *Population {
	t.Helper()
	r := rand.New(rand.NewPCG(19, uint64(len(w.Op))))
	out := &Population{
		Filters: make([]filter.Filter, n), Entries: make([]filter.Entry, n),
		Small: w.events(t, ""), Large: w.events(t, filler()),
	}
	hits := w.wanted(r)
	if w.retry {
		hits = w.search(t, r, &out.Small)
	}
	if len(hits) > n {
		t.Fatalf("%s: a population of %d has no room for %d that want an event", w.Op, n, len(hits))
	}
	for i, at := range r.Perm(n)[:len(hits)] {
		id := uint64(at + 1)
		out.Filters[at] = hits[i].filter
		out.Entries[at] = filter.Entry{ID: id, Matcher: filter.Compile(&hits[i].filter)}
		for _, p := range hits[i].by {
			out.Small[p].Want = append(out.Small[p].Want, id)
		}
	}
	for p := range Probes {
		slices.Sort(out.Small[p].Want)
		out.Large[p].Want = out.Small[p].Want
	}
	pool := max(n/10, 3*Probes)
	for i := range out.Entries {
		for out.Entries[i].Matcher == nil {
			f := w.miss(r, pool)
			m := filter.Compile(&f)
			if !w.retry || len(matched(m, &out.Small)) == 0 {
				out.Filters[i], out.Entries[i] = f, filter.Entry{ID: uint64(i + 1), Matcher: m}
			}
		}
	}
	return out
}

// search asks for wanted filters until each event has as many of its own as it
// needs.
func (w *Workload) search(t testing.TB, r *rand.Rand, events *Events) []wanted {
	var found []wanted
	var has [Probes]int
	for tries := 0; len(found) < len(probesOf(1))+10*len(probesOf(10)); tries++ {
		if tries == 10_000 {
			t.Fatalf("%s: found only %v filters that are wanted", w.Op, has)
		}
		for _, h := range w.wanted(r) {
			by := matched(filter.Compile(&h.filter), events)
			if len(by) == 1 && has[by[0]] < hitsOf(by[0]) {
				has[by[0]]++
				found = append(found, wanted{h.filter, by})
			}
		}
	}
	return found
}

func matched(m *filter.Matcher, events *Events) []int {
	var by []int
	for p := range events {
		if m.Match(events[p].Parsed) {
			by = append(by, p)
		}
	}
	return by
}

// Check holds an answer for each event against who must want it.
func (events *Events) Check(t testing.TB, match func(*Probe) []uint64) {
	t.Helper()
	for i := range events {
		got := slices.Sorted(slices.Values(match(&events[i])))
		if len(got) != hitsOf(i) || !slices.Equal(got, events[i].Want) {
			t.Fatalf("event %d of %d bytes is wanted by %v, want %v", i, len(events[i].Raw), got, events[i].Want)
		}
	}
}

// With returns the events that so many want.
func (events *Events) With(hits int) []*Probe {
	var out []*Probe
	for _, i := range probesOf(hits) {
		out = append(out, &events[i])
	}
	return out
}

// perProbe makes, for each event, as many filters as want it and no other.
func perProbe(make func(r *rand.Rand, p int) filter.Filter) func(*rand.Rand) []wanted {
	return func(r *rand.Rand) []wanted {
		var out []wanted
		for p := range Probes {
			for range hitsOf(p) {
				out = append(out, wanted{make(r, p), []int{p}})
			}
		}
		return out
	}
}

// perCount makes one filter that the events with one hit pass, and ten that those
// with ten pass. It is for operators that hold for most values.
func perCount(make func(r *rand.Rand, hits int) filter.Filter) func(*rand.Rand) []wanted {
	return func(r *rand.Rand) []wanted {
		out := []wanted{{make(r, 1), probesOf(1)}}
		for range 10 {
			out = append(out, wanted{make(r, 10), probesOf(10)})
		}
		return out
	}
}

// nested makes one filter that events with one and with ten hits pass, and nine
// that only those with ten pass. It is for comparisons.
func nested(make func(r *rand.Rand, hits int) filter.Filter) func(*rand.Rand) []wanted {
	return func(r *rand.Rand) []wanted {
		out := []wanted{{make(r, 1), probesOf(1, 10)}}
		for range 9 {
			out = append(out, wanted{make(r, 10), probesOf(10)})
		}
		return out
	}
}

// envelope is an Event Grid event in stored form around its data, of exactly 1 KB
// or, if it is larger, 64 KB.
func envelope(p int, eventType, subject, data string) string {
	head := fmt.Sprintf(`{"topic":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default",`+
		`"subject":%q,"eventType":%q,"eventTime":"2026-03-05T08:15:30.1234567Z","id":"5f0c7a52-91d4-5b1e-8a3c-0000000000%02d","dataVersion":"2","metadataVersion":"1",`+
		`"data":{%s,"comment":"`, subject, eventType, p, data)
	const tail = `","etag":"00000000668a1f0000000000002a0000","sequencer":"00000000668a1f0000000000002a0001"}}`
	left := 1<<10 - len(head) - len(tail)
	if left < 0 {
		left += 63 << 10
	}
	return head + strings.Repeat("-", left) + tail
}

// filler is what makes an event large: properties as trackers record them, series
// of a metric, the end of a log. It ends in a comma.
func filler() string {
	r := rand.New(rand.NewPCG(64, 1024))
	var out strings.Builder
	out.WriteString(`"params":{`)
	for i := range 500 {
		fmt.Fprintf(&out, `"azureml.param.%03d":"%016x-%016x-%016x",`, i, r.Uint64(), r.Uint64(), r.Uint64())
	}
	out.WriteString(`"last":""},"lossByStep":[`)
	for range 2400 {
		fmt.Fprintf(&out, `%.5f,`, r.Float64())
	}
	out.WriteString(`0],"confusion":[`)
	for range 40 {
		fmt.Fprintf(&out, `{"row":[%d,%d,%d,%d],"class":"c%d"},`, r.IntN(999), r.IntN(999), r.IntN(999), r.IntN(999), r.IntN(40))
	}
	out.WriteString(`null],"logTail":"`)
	for range 250 {
		fmt.Fprintf(&out, `epoch %d: loss %.4f\n`, r.IntN(100), r.Float64())
	}
	out.WriteString(`",`)
	return out.String()
}
