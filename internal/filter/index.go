package filter

import (
	"cmp"
	"slices"

	"github.com/carillon-events/carillon/event"
)

// Entry is one event subscription in an [Index].
type Entry struct {
	ID      uint64 // any number that the caller tells its event subscriptions apart by
	Matcher *Matcher
}

// Index answers which of many event subscriptions want an event. It is an
// immutable snapshot: Match may be called by any number of goroutines, and a
// change makes the next snapshot and leaves this one as it is. The caller keeps
// the newest behind an atomic pointer, with one writer at a time.
//
// An index must answer exactly what asking every entry's matcher would answer.
// This one does ask them, after a first cut by event type.
type Index struct {
	entries []Entry            // all of them, by id
	every   []Entry            // those that want every event type
	byType  map[string][]Entry // the others, by folded event type
}

// NewIndex returns the index of the entries. Of several entries with one id the
// last one counts.
func NewIndex(entries []Entry) *Index {
	sorted := slices.Clone(entries)
	slices.Reverse(sorted)
	slices.SortStableFunc(sorted, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	sorted = slices.CompactFunc(sorted, func(a, b Entry) bool { return a.ID == b.ID })
	x := &Index{entries: sorted, byType: map[string][]Entry{}}
	for _, e := range sorted {
		if e.Matcher.types == nil {
			x.every = append(x.every, e)
		}
		for i, t := range e.Matcher.types {
			if !containsBytes(e.Matcher.types[:i], t) {
				x.byType[string(t)] = append(x.byType[string(t)], e)
			}
		}
	}
	return x
}

func containsBytes(all [][]byte, one []byte) bool {
	return slices.ContainsFunc(all, func(b []byte) bool { return string(b) == string(one) })
}

// With returns an index that also holds e, in place of an entry with its id.
func (x *Index) With(e Entry) *Index { return NewIndex(append(slices.Clone(x.entries), e)) }

// Without returns an index without the entry of that id; it is x if there is none.
func (x *Index) Without(id uint64) *Index {
	i := slices.IndexFunc(x.entries, func(e Entry) bool { return e.ID == id })
	if i < 0 {
		return x
	}
	return NewIndex(slices.Delete(slices.Clone(x.entries), i, i+1))
}

// Len returns the number of entries.
func (x *Index) Len() int { return len(x.entries) }

// Scratch is the memory that matching works in. The zero Scratch is ready; one
// serves any number of indexes, one call at a time.
type Scratch struct {
	ids []uint64
}

// Match returns the ids of the entries that want the event, each once, in no
// particular order. They stand in s and are valid until s is used again. Match
// allocates only while s still grows.
func (x *Index) Match(e *event.Event, s *Scratch) []uint64 {
	s.ids = matching(x.every, e, s.ids[:0])
	if len(x.byType) > 0 {
		var buf [128]byte
		s.ids = matching(x.byType[string(appendFolded(buf[:0], e.Type))], e, s.ids)
	}
	return s.ids
}

func matching(entries []Entry, e *event.Event, dst []uint64) []uint64 {
	for i := range entries {
		if entries[i].Matcher.Match(e) {
			dst = append(dst, entries[i].ID)
		}
	}
	return dst
}
