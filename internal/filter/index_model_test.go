package filter

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/carillon-events/carillon/event"
)

// The model of an index is the list of its entries: what the index answers must
// be what a plain loop over their matchers answers. The loop in its turn is held
// against the reference evaluator.

// candidate is a filter that may be in an index, and what the plain evaluation
// made of it so far: a bit for each event of the world.
type candidate struct {
	filter       *Filter
	matcher      *Matcher
	asked, wants uint64
}

// member is a candidate under an id.
type member struct {
	id uint64
	*candidate
}

// state is an index and what is in it, by id. It never changes.
type state struct {
	index   *Index
	members []member
	story   string // how it came about
}

// world is the events and filters of one comparison.
type world struct {
	g          *generator
	events     []*event.Event
	raws       []string // of the events, to see that nobody writes into them
	decoded    []any
	population []*candidate
	wideIDs    bool // ids from all 64 bits
	reference  int  // every so-many-th verdict is held against the reference evaluator
	verdicts   int
}

// newWorld makes events and a population: each filter written by the generator,
// or, beyond the templates, a variation of an earlier one.
func newWorld(t testing.TB, g *generator, events, templates, filters, reference int) *world {
	g.found = nil
	w := &world{g: g, wideIDs: g.choose(4) == 0, reference: reference}
	for range events {
		raw, schema := g.newEvent()
		w.events = append(w.events, parseEventAs(t, raw, schema))
		w.raws = append(w.raws, raw)
		w.decoded = append(w.decoded, refDecode([]byte(raw)))
	}
	for tries := 0; len(w.population) < filters; tries++ {
		var f *Filter
		if n := len(w.population); n < templates && tries < 2*templates || n == 0 {
			parsed, err := Parse([]byte(g.filter()), ParseOptions{})
			if err != nil { // an exponent that no filter may hold
				parsed = Filter{}
			}
			f = &parsed
		} else {
			// Near the end means a variation of a variation; the first ones are
			// varied most.
			from := w.population[g.choose(n)]
			if g.choose(2) == 0 {
				from = w.population[g.choose(min(n, templates))]
			}
			f = g.vary(from.filter, w.population[g.choose(n)].filter)
		}
		w.population = append(w.population, &candidate{filter: f, matcher: Compile(f)})
	}
	return w
}

// id spreads small numbers over all 64 bits if the world wants that.
func (w *world) id(i int) uint64 {
	if w.wideIDs {
		return uint64(i) * 0x9e3779b97f4a7c15
	}
	return uint64(i)
}

// wanted returns the plain verdict about an event.
func (w *world) wanted(t testing.TB, c *candidate, i int) bool {
	bit := uint64(1) << i
	if c.asked&bit == 0 {
		c.asked |= bit
		c.wants &^= bit
		ok := c.matcher.Match(w.events[i])
		if ok {
			c.wants |= bit
		}
		if w.verdicts++; w.verdicts%w.reference == 0 {
			if want := refMatch(c.filter, w.decoded[i], w.events[i].Schema); ok != want {
				t.Fatalf("filter %s\non %s event %s: Match says %v, the reference %v", show(c.filter), w.events[i].Schema, w.raws[i], ok, want)
			}
		}
	}
	return c.wants&bit != 0
}

func show(f *Filter) string {
	raw, err := json.Marshal(f)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// build makes an index of members at once, given in another order, some of them
// after an entry of the same id that does not count.
func (w *world) build(members []member) state {
	var entries []Entry
	for _, m := range members {
		entries = append(entries, Entry{ID: m.id, Matcher: m.matcher})
	}
	for i := range entries {
		j := w.g.choose(i + 1)
		entries[i], entries[j] = entries[j], entries[i]
	}
	if n := len(entries); n > 0 {
		for range w.g.choose(3) {
			before := Entry{ID: entries[w.g.choose(n)].ID, Matcher: w.some().matcher}
			entries = slices.Insert(entries, 0, before)
		}
	}
	s := state{index: NewIndex(entries), members: members, story: fmt.Sprintf("new with %d", len(members))}
	clear(entries) // the slice remains the caller's
	return s
}

func (w *world) some() *candidate { return w.population[w.g.choose(len(w.population))] }

func find(members []member, id uint64) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(m member, id uint64) int { return cmp.Compare(m.id, id) })
}

func (s state) with(id uint64, c *candidate) state {
	i, there := find(s.members, id)
	members := slices.Clone(s.members)
	if there {
		members[i].candidate = c
	} else {
		members = slices.Insert(members, i, member{id, c})
	}
	return state{s.index.With(Entry{ID: id, Matcher: c.matcher}), members, shortEnd(s.story + fmt.Sprintf(", with %d", id))}
}

func (s state) without(id uint64) state {
	i, there := find(s.members, id)
	members := s.members
	if there {
		members = slices.Delete(slices.Clone(s.members), i, i+1)
	}
	return state{s.index.Without(id), members, shortEnd(s.story + fmt.Sprintf(", without %d", id))}
}

// step makes the next state: mostly an entry added, replaced or removed.
func (w *world) step(s state, ids int) state {
	n := len(s.members)
	switch w.g.choose(9) {
	case 0, 1, 2:
		return s.with(w.id(w.g.choose(ids)), w.some())
	case 3:
		if n > 0 {
			return s.with(s.members[w.g.choose(n)].id, w.some())
		}
	case 4: // replaced by its equal
		if n > 0 {
			m := s.members[w.g.choose(n)]
			return s.with(m.id, m.candidate)
		}
	case 5, 6, 7:
		if n > 0 {
			return s.without(s.members[w.g.choose(n)].id)
		}
	}
	return s.without(w.id(ids + w.g.choose(5))) // never there
}

// check matches one event on a state and compares.
func (w *world) check(t testing.TB, s state, i int, scratch *Scratch) {
	t.Helper()
	if s.index.Len() != len(s.members) {
		t.Fatalf("%s: Len is %d, want %d", s.story, s.index.Len(), len(s.members))
	}
	if complaint := w.compare(t, s.index, s.members, i, scratch); complaint != "" {
		t.Fatalf("%s event %s\n%s\nhistory: %s\n%s", w.events[i].Schema, w.raws[i], complaint, s.story, w.reduce(t, s.members, i))
	}
}

// compare returns what is wrong with the answer of an index, "" for nothing.
func (w *world) compare(t testing.TB, x *Index, members []member, i int, scratch *Scratch) string {
	got := slices.Clone(x.Match(w.events[i], scratch))
	slices.Sort(got)
	var wrong []string
	for k := 1; k < len(got); k++ {
		if got[k] == got[k-1] {
			wrong = append(wrong, fmt.Sprintf("id %d is named twice", got[k]))
		}
	}
	k := 0
	for _, m := range members {
		for k < len(got) && got[k] < m.id {
			if k == 0 || got[k] != got[k-1] {
				wrong = append(wrong, fmt.Sprintf("id %d is named and not there", got[k]))
			}
			k++
		}
		named := k < len(got) && got[k] == m.id
		for k < len(got) && got[k] == m.id {
			k++
		}
		if want := w.wanted(t, m.candidate, i); named != want && len(wrong) < 4 {
			wrong = append(wrong, fmt.Sprintf("id %d is named: %v, want %v: %s", m.id, named, want, show(m.filter)))
		}
	}
	if k < len(got) {
		wrong = append(wrong, fmt.Sprintf("ids %v are named and not there", got[k:]))
	}
	if string(w.events[i].Raw) != w.raws[i] {
		wrong = append(wrong, "the event was written into")
	}
	return strings.Join(wrong, "\n")
}

// reduce finds few entries whose fresh index answers wrong too, so that a failure
// can be read.
func (w *world) reduce(t testing.TB, members []member, i int) string {
	fails := func(members []member) bool {
		var entries []Entry
		for _, m := range members {
			entries = append(entries, Entry{ID: m.id, Matcher: m.matcher})
		}
		return w.compare(t, NewIndex(entries), members, i, new(Scratch)) != ""
	}
	if !fails(members) {
		return "A fresh index of the same entries is right: it takes the history, or the scratch."
	}
	for size := len(members); size > 0; size /= 2 {
		for at := 0; at < len(members); {
			fewer := slices.Delete(slices.Clone(members), at, min(at+size, len(members)))
			if fails(fewer) {
				members = fewer
			} else {
				at += size
			}
		}
	}
	var b strings.Builder
	b.WriteString("A fresh index of these entries is wrong:\n")
	for _, m := range members {
		fmt.Fprintf(&b, "%d (wanted: %v) %s\n", m.id, w.wanted(t, m.candidate, i), show(m.filter))
	}
	return b.String()
}

func shortEnd(story string) string {
	if n := len(story) - 400; n > 0 {
		return "…" + story[n:]
	}
	return story
}

// TestIndexModel compares large indexes with the model through hundreds of
// changes, keeps old snapshots, goes on from some of them, and empties the index
// at the end.
func TestIndexModel(t *testing.T) {
	sizes := []struct{ filters, templates, events, steps int }{
		{2000, 2000, 16, 250}, // every filter its own
		{2000, 30, 16, 250},   // many variations of few
		{400, 1, 32, 400},     // all alike
		{60, 30, 64, 600},
	}
	if testing.Short() {
		sizes = sizes[2:]
	}
	for seed, size := range sizes {
		t.Run(fmt.Sprintf("filters=%d/templates=%d", size.filters, size.templates), func(t *testing.T) {
			t.Parallel()
			g := &generator{random: rand.New(rand.NewPCG(7, uint64(seed)))}
			w := newWorld(t, g, size.events, size.templates, size.filters, 7)
			for _, c := range w.population {
				raw := show(c.filter)
				if back, err := Parse([]byte(raw), ParseOptions{}); err != nil || !reflect.DeepEqual(&back, c.filter) {
					t.Fatalf("the generator made a filter that Parse cannot return: %s (%v)", raw, err)
				}
			}
			var members []member
			for i, c := range w.population {
				members = append(members, member{w.id(i), c})
			}
			slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.id, b.id) })
			var scratch Scratch
			present := w.build(members)
			first := present
			old := []state{present}
			check := func(s state) {
				t.Helper()
				w.check(t, s, g.choose(size.events), &scratch)
			}
			for i := range size.events {
				w.check(t, present, i, &scratch)
			}
			for range size.steps {
				present = w.step(present, size.filters*11/10)
				check(present)
				check(old[g.choose(len(old))])
				switch g.choose(40) {
				case 0:
					old = append(old, present)
				case 1:
					present = old[g.choose(len(old))] // what came after it stays as it is
				}
			}
			for len(present.members) > 0 {
				present = present.without(present.members[g.choose(len(present.members))].id)
				if n := len(present.members); n < 50 || n%16 == 0 {
					check(present)
				}
			}
			for i := range size.events {
				w.check(t, present, i, &scratch)
				w.check(t, first, i, &scratch)
			}
			check(present.with(1, w.some()))
			w.checkVariety(t)
		})
	}
}

// checkVariety shows that the comparison was about something: filters met events
// and missed them, and neither was rare.
func (w *world) checkVariety(t *testing.T) {
	asked, wants := 0, 0
	for _, c := range w.population {
		for i := range w.events {
			asked++
			if w.wanted(t, c, i) {
				wants++
			}
		}
	}
	if wants*100 < asked*3 || wants*100 > asked*80 {
		t.Errorf("%d of %d verdicts are yes: the generator makes dull filters", wants, asked)
	}
	t.Logf("%d of %d verdicts are yes", wants, asked)
}

// TestGeneratorReachesEveryOperator shows that each operator decides both ways on
// keys in every state, so that the comparisons with generated filters mean much.
func TestGeneratorReachesEveryOperator(t *testing.T) {
	g := &generator{random: rand.New(rand.NewPCG(3, 4))}
	type cell struct {
		op     Operator
		kind   event.Kind
		arrays bool
		holds  bool
	}
	seen := map[cell]int{}
	for range 1500 {
		w := newWorld(t, g, 1, 10, 30, 3)
		for _, c := range w.population {
			w.wanted(t, c, 0)
			for k := range c.matcher.conditions {
				condition := &c.matcher.conditions[k]
				v := condition.key.find(w.events[0])
				ok := refHolds(&c.filter.AdvancedFilters[k], refResolve(w.decoded[0], w.events[0].Schema, c.filter.AdvancedFilters[k].Key), c.filter.EnableAdvancedFilteringOnArrays)
				seen[cell{condition.operator, v.kind, v.kind == event.Array && c.filter.EnableAdvancedFilteringOnArrays, ok}]++
			}
		}
	}
	fits := map[Operand]event.Kind{NumberValue: event.Number, NumberValues: event.Number, RangeValues: event.Number, BoolValue: event.True, StringValues: event.String}
	for _, op := range Operators() {
		var wanted []cell
		for _, kind := range []event.Kind{event.None, event.Null} {
			wanted = append(wanted, cell{op, kind, false, op.onMissing()})
		}
		if kind, ok := fits[op.Operand()]; ok {
			wanted = append(wanted, cell{op, kind, false, true}, cell{op, kind, false, false}, cell{op, event.Array, true, true},
				cell{op, event.Array, true, false}, cell{op, event.Array, false, false}, cell{op, event.Object, false, op.Negative()})
		}
		for _, c := range wanted {
			if seen[c] < 3 {
				t.Errorf("%s on %s (arrays %v) holding %v: seen %d times", c.op, c.kind, c.arrays, c.holds, seen[c])
			}
		}
	}
}

// TestIndexConcurrent has readers match on whatever snapshot is newest while one
// writer changes it. Each answer must be right for the snapshot it came from.
func TestIndexConcurrent(t *testing.T) {
	const (
		filters = 120
		steps   = 1500
		readers = 3
		matches = 800 // of each reader at least
	)
	g := &generator{random: rand.New(rand.NewPCG(5, 6))}
	w := newWorld(t, g, 12, 60, filters, 50)
	for _, c := range w.population {
		for i := range w.events {
			w.wanted(t, c, i) // from here on verdicts are only read
		}
	}
	var newest atomic.Pointer[state]
	start := w.build(nil)
	for i, c := range w.population[:filters/2] {
		start = start.with(w.id(i), c)
	}
	newest.Store(&start)

	var (
		group sync.WaitGroup
		busy  atomic.Int64 // readers that have not matched enough
		done  atomic.Bool
	)
	busy.Store(readers)
	for r := range readers {
		group.Go(func() {
			var scratch Scratch
			for n := 0; n < matches || !done.Load(); n++ {
				s := newest.Load()
				i := (n + r) % len(w.events)
				if complaint := w.compare(t, s.index, s.members, i, &scratch); complaint != "" {
					t.Errorf("reader %d, %s: %s", r, s.story, complaint)
					busy.Add(-1)
					return
				}
				if n == matches {
					busy.Add(-1)
				}
				runtime.Gosched()
			}
		})
	}
	for n := 0; n < steps || busy.Load() > 0; n++ {
		next := w.step(*newest.Load(), filters)
		newest.Store(&next)
		runtime.Gosched()
	}
	done.Store(true)
	group.Wait()
}
