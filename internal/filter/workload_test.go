package filter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// The workloads of the benchmarks. Each is a population of event subscriptions of
// any size and twelve events; of the whole population exactly none, one or ten
// want an event. Seeds are fixed and a workload keeps its meaning for ever: add,
// do not edit.

// probes is the number of events of a workload. Event p is wanted by hitsOf(p).
const probes = 12

var hitCounts = [...]int{0, 1, 10}

func hitsOf(p int) int { return hitCounts[p%len(hitCounts)] }

// probesOf returns the events that are wanted by one of the counts.
func probesOf(counts ...int) []int {
	var out []int
	for p := range probes {
		if slices.Contains(counts, hitsOf(p)) {
			out = append(out, p)
		}
	}
	return out
}

// workload says how a population is made.
type workload struct {
	op     string
	most   int                                 // the largest population that is measured
	event  func(p int, filler string) string   // event p; filler is put before what filters look at
	wanted func(r *rand.Rand) []wanted         // the filters that some events pass
	miss   func(r *rand.Rand, pool int) Filter // one that no event passes; pool is how many different names there are
	retry  bool                                // wanted and miss may fail their purpose and are asked again
}

// wanted is a filter and the events that pass it.
type wanted struct {
	filter Filter
	by     []int
}

// population is a workload of one size.
type population struct {
	entries []Entry
	small   [probes]probe // about 1 KB
	large   [probes]probe // about 64 KB: the same event with much before the members that filters look at
}

// probe is an event and who wants it.
type probe struct {
	raw    []byte
	parsed *event.Event
	want   []uint64 // ascending
}

func (w *workload) events(t testing.TB, filler string) [probes]probe {
	var out [probes]probe
	for p := range out {
		raw := w.event(p, filler)
		out[p] = probe{raw: []byte(raw), parsed: parseEventAs(t, raw, event.EventGridSchema)}
	}
	return out
}

// populate makes a population of n event subscriptions with ids from 1; those that
// want an event stand anywhere among the others.
func (w *workload) populate(t testing.TB, n int) *population {
	t.Helper()
	r := rand.New(rand.NewPCG(19, uint64(len(w.op))))
	out := &population{entries: make([]Entry, n), small: w.events(t, ""), large: w.events(t, filler())}
	hits := w.wanted(r)
	if w.retry {
		hits = w.search(t, r, &out.small)
	}
	if len(hits) > n {
		t.Fatalf("%s: a population of %d has no room for %d that want an event", w.op, n, len(hits))
	}
	for i, at := range r.Perm(n)[:len(hits)] {
		id := uint64(at + 1)
		out.entries[at] = Entry{ID: id, Matcher: Compile(&hits[i].filter)}
		for _, p := range hits[i].by {
			out.small[p].want = append(out.small[p].want, id)
		}
	}
	for p := range probes {
		slices.Sort(out.small[p].want)
		out.large[p].want = out.small[p].want
	}
	pool := max(n/10, 3*probes)
	for i := range out.entries {
		for out.entries[i].Matcher == nil {
			f := w.miss(r, pool)
			m := Compile(&f)
			if !w.retry || len(matched(m, &out.small)) == 0 {
				out.entries[i] = Entry{ID: uint64(i + 1), Matcher: m}
			}
		}
	}
	return out
}

// search asks for wanted filters until each event has as many of its own as it
// needs.
func (w *workload) search(t testing.TB, r *rand.Rand, events *[probes]probe) []wanted {
	var found []wanted
	var has [probes]int
	for tries := 0; len(found) < len(probesOf(1))+10*len(probesOf(10)); tries++ {
		if tries == 10_000 {
			t.Fatalf("%s: found only %v filters that are wanted", w.op, has)
		}
		for _, h := range w.wanted(r) {
			by := matched(Compile(&h.filter), events)
			if len(by) == 1 && has[by[0]] < hitsOf(by[0]) {
				has[by[0]]++
				found = append(found, wanted{h.filter, by})
			}
		}
	}
	return found
}

func matched(m *Matcher, events *[probes]probe) []int {
	var by []int
	for p := range events {
		if m.Match(events[p].parsed) {
			by = append(by, p)
		}
	}
	return by
}

// check holds an answer for each event against who must want it.
func check(t testing.TB, events *[probes]probe, match func(*event.Event) []uint64) {
	t.Helper()
	for i := range events {
		got := slices.Sorted(slices.Values(match(events[i].parsed)))
		if len(got) != hitsOf(i) || !slices.Equal(got, events[i].want) {
			t.Fatalf("event %d of %d bytes is wanted by %v, want %v", i, len(events[i].raw), got, events[i].want)
		}
	}
}

// plain is the loop that an index must agree with and beat.
func (p *population) plain(e *event.Event, ids []uint64) []uint64 {
	ids = ids[:0]
	for i := range p.entries {
		if p.entries[i].Matcher.Match(e) {
			ids = append(ids, p.entries[i].ID)
		}
	}
	return ids
}

// perProbe makes, for each event, as many filters as want it and no other.
func perProbe(make func(r *rand.Rand, p int) Filter) func(*rand.Rand) []wanted {
	return func(r *rand.Rand) []wanted {
		var out []wanted
		for p := range probes {
			for range hitsOf(p) {
				out = append(out, wanted{make(r, p), []int{p}})
			}
		}
		return out
	}
}

// perCount makes one filter that the events with one hit pass, and ten that those
// with ten pass. It is for operators that hold for most values.
func perCount(make func(r *rand.Rand, hits int) Filter) func(*rand.Rand) []wanted {
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
func nested(make func(r *rand.Rand, hits int) Filter) func(*rand.Rand) []wanted {
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
