package filter

import (
	"slices"
	"sort"
)

// located is an entry at one place of the tree, with what the way there has not
// settled.
type located struct {
	entry  *placed
	way    way    // the clauses it was placed by
	rest   uint32 // clauses that must still be asked, by bit
	places uint32 // of the entry, along this way
}

// list holds entries by id in chunks, so that a change copies one chunk and the
// row of chunks. The zero list is empty.
type list struct {
	owner  *edit // of the row
	chunks []*chunk
	n      int
}

type chunk struct {
	owner *edit
	items []located // never empty
}

const maxChunk = 256

// find returns where id is, or would be.
func (l *list) find(id uint64) (c, i int, found bool) {
	c = sort.Search(len(l.chunks), func(c int) bool { return l.chunks[c].items[0].entry.id > id }) - 1
	if c < 0 {
		return 0, 0, false
	}
	items := l.chunks[c].items
	i = sort.Search(len(items), func(i int) bool { return items[i].entry.id >= id })
	return c, i, i < len(items) && items[i].entry.id == id
}

// insert adds an entry whose id the list does not hold.
func (l *list) insert(e *edit, at located) {
	l.n++
	l.ownRow(e)
	if len(l.chunks) == 0 {
		l.chunks = append(l.chunks, &chunk{owner: e, items: []located{at}})
		return
	}
	c, i, _ := l.find(at.entry.id)
	k := l.ownChunk(e, c)
	k.items = slices.Insert(k.items, i, at)
	if n := len(k.items); n > maxChunk {
		half := &chunk{owner: e, items: slices.Clone(k.items[n/2:])}
		k.items = k.items[: n/2 : n/2]
		l.chunks = slices.Insert(l.chunks, c+1, half)
	}
}

// remove takes out the entry of an id that the list holds.
func (l *list) remove(e *edit, id uint64) {
	c, i, _ := l.find(id)
	l.n--
	l.ownRow(e)
	k := l.ownChunk(e, c)
	if k.items = slices.Delete(k.items, i, i+1); len(k.items) == 0 {
		l.chunks = slices.Delete(l.chunks, c, c+1)
	}
}

func (l *list) ownRow(e *edit) {
	if l.owner != e {
		l.owner, l.chunks = e, slices.Clone(l.chunks)
	}
}

func (l *list) ownChunk(e *edit, c int) *chunk {
	k := l.chunks[c]
	if k.owner != e {
		k = &chunk{owner: e, items: slices.Clone(k.items)}
		l.chunks[c] = k
	}
	return k
}

// all yields every entry of the list, by id.
func (l *list) all(yield func(located) bool) {
	for _, c := range l.chunks {
		for _, at := range c.items {
			if !yield(at) {
				return
			}
		}
	}
}
