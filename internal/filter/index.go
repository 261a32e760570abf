package filter

import (
	"slices"

	"github.com/carillon-events/carillon/event"
)

// Entry is one event subscription in an [Index].
type Entry struct {
	ID      uint64 // any number that the caller tells its event subscriptions apart by
	Matcher *Matcher
}

// Index answers which of many event subscriptions want an event, in a time that
// depends on those that do and hardly on the others. It is an immutable snapshot:
// Match may be called by any number of goroutines, and a change makes the next
// snapshot, which shares nearly everything with this one, and leaves this one as
// it is. The caller keeps the newest behind an atomic pointer, with one writer at
// a time.
//
// An index answers exactly what asking every entry's matcher would answer. It is a
// tree of nodes: an entry goes down by the clause of its filter that the fewest
// events are likely to satisfy, then by the next one, until a node has so few
// entries that they are asked one by one. An event goes down wherever a value of
// its leads: texts through radix trees, forwards for equality and beginnings and
// backwards for ends; pieces of texts through a table of four bytes at a time;
// numbers through a tree of intervals, into which negative operators go as what they
// leave over, of numbers as of texts. What leaves nothing in order (StringNotContains,
// and every negative operator on arrays) goes the other way round: what an event hits
// bars entries, and those that nothing barred are left. Other conditions are asked
// once for all entries that share them. The keys of all entries are looked up
// together, in one pass over the event, and only when a node first asks for one.
type Index struct {
	entries list
	root    *node
	paths   paths
	numbers numbering // of entries
	asking  int       // entries that do not want every event
}

// NewIndex returns the index of the entries. Of several entries with one id the
// last one counts.
func NewIndex(entries []Entry) *Index {
	x, e := &Index{}, new(edit)
	for _, entry := range entries {
		x.remove(e, entry.ID)
		x.insert(e, entry)
	}
	return x
}

// With returns an index that also holds entry, in place of one with its id.
func (x *Index) With(entry Entry) *Index {
	next, e := *x, new(edit)
	next.remove(e, entry.ID)
	next.insert(e, entry)
	return &next
}

// Without returns an index without the entry of that id; it is x if there is none.
func (x *Index) Without(id uint64) *Index {
	next := *x
	if !next.remove(new(edit), id) {
		return x
	}
	return &next
}

// Len returns the number of entries.
func (x *Index) Len() int { return x.entries.n }

// Looks reports whether Match looks at the event: it does unless every entry wants every
// event.
func (x *Index) Looks() bool { return x != nil && x.asking > 0 }

func (x *Index) insert(e *edit, entry Entry) {
	p := x.place(e, entry)
	at := located{entry: p, rest: 1<<len(p.clauses) - 1, places: 1}
	x.entries.insert(e, at)
	x.root = x.root.insert(e, at)
	if !entry.Matcher.wantsAll() {
		x.asking++
	}
}

func (x *Index) remove(e *edit, id uint64) bool {
	c, i, ok := x.entries.find(id)
	if !ok {
		return false
	}
	at := x.entries.chunks[c].items[i]
	x.entries.remove(e, id)
	x.root = x.root.remove(e, at)
	x.numbers.giveBack(at.entry.number)
	m := at.entry.matcher
	if !m.wantsAll() {
		x.asking--
	}
	for i := range m.conditions {
		x.paths.leave(e, m.filter.AdvancedFilters[i].Key, m.conditions[i].key)
	}
	return true
}

// Scratch is the memory that matching works in. The zero Scratch is ready; one
// serves any number of indexes, one call at a time.
type Scratch struct {
	ids      []uint64
	often    []uint64 // ids that may have been met before
	found    layer    // what the keys find in the event
	envelope layer    // of it, what those of custom input find outside the data
	text     []byte   // folded texts of the event
	grams    gramsSeen
	barred   []*barred          // one for each node on the way that has members
	met      map[*node]struct{} // nodes that the event may be led to again
}

// maxScratch is how much text a Scratch keeps room for between events, in bytes.
const maxScratch = 1 << 20

// maxMet is how many nodes it keeps room for.
const maxMet = 1 << 10

// Match returns the ids of the entries that want the event, each once, in no
// particular order. They stand in s and are valid until s is used again. Match
// allocates only while s still grows.
func (x *Index) Match(e *event.Event, s *Scratch) []uint64 {
	s.ids, s.often, s.text = s.ids[:0], s.often[:0], s.text[:0]
	if x.root == nil {
		return s.ids
	}
	s.found.begin(firstKeySlot + x.paths.slots.next)
	s.found.set(typeSlot, attributeValue(e.Type))
	s.found.set(subjectSlot, attributeValue(e.Subject))
	r := run{s: s, paths: &x.paths, numbers: x.numbers.next, event: e}
	r.node(x.root)
	if len(s.often) > 0 {
		slices.Sort(s.often)
		s.ids = append(s.ids, slices.Compact(s.often)...)
	}
	if cap(s.text) > maxScratch {
		s.text = nil
	}
	if len(s.met) > maxMet {
		s.met = nil
	}
	clear(s.met)
	return s.ids
}

func attributeValue(text []byte) seen {
	if text == nil {
		return seen{single: true}
	}
	return seen{value: textValue(text), single: true}
}
