package filter

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"slices"
)

// table maps byte strings to values by their hash, or numbers by themselves. It is
// a tree of 64 ways that shares what a change leaves alone with the version before,
// as [trie] does, and reaches a value in fewer steps. The zero table is empty.
type table[V any] struct {
	root *tableNode[V]
	n    int // keys
}

// tableNode has a slot for each of the 64 ways that lead anywhere, in order; below
// the last digit of the hash, one for each key.
type tableNode[V any] struct {
	owner *edit
	ways  uint64
	slots []tableSlot[V]
}

// tableSlot holds one key, or the node of several.
type tableSlot[V any] struct {
	hash  uint64
	key   []byte
	value *V
	below *tableNode[V]
}

const (
	digitBits = 6
	lastShift = 60 // of the last digit, where all that is left of the hash is used
)

var hashSeed = maphash.MakeSeed()

func hashOf(key []byte) uint64 { return maphash.Bytes(hashSeed, key) }

// get returns the value of a key, nil if there is none. The key of a number is nil
// and its hash the number.
func (t *table[V]) get(hash uint64, key []byte) *V {
	n := t.root
	if n == nil {
		return nil
	}
	for shift := 0; shift <= lastShift; shift += digitBits {
		way := uint64(1) << (hash >> shift & 63)
		if n.ways&way == 0 {
			return nil
		}
		s := &n.slots[bits.OnesCount64(n.ways&(way-1))]
		if s.below == nil {
			if s.hash == hash && bytes.Equal(s.key, key) {
				return s.value
			}
			return nil
		}
		n = s.below
	}
	if i := n.find(key); i >= 0 {
		return n.slots[i].value
	}
	return nil
}

// find looks among keys of one hash.
func (n *tableNode[V]) find(key []byte) int {
	return slices.IndexFunc(n.slots, func(s tableSlot[V]) bool { return bytes.Equal(s.key, key) })
}

// update gives a key the value that change makes of its present one, nil standing
// for no value on both sides. The value that change gets belongs to older
// snapshots, unless it carries the same edit.
func (t *table[V]) update(e *edit, hash uint64, key []byte, change func(*V) *V) {
	u := tableUpdate[V]{edit: e, hash: hash, key: key, change: change}
	t.root = u.node(t.root, 0)
	t.n += u.delta
}

// tableUpdate is one change of a table.
type tableUpdate[V any] struct {
	edit   *edit
	hash   uint64
	key    []byte
	change func(*V) *V
	delta  int // keys
}

// node returns what becomes of a node that is reached by the digits below shift,
// nil if nothing is left of it.
func (u *tableUpdate[V]) node(n *tableNode[V], shift int) *tableNode[V] {
	if n == nil {
		n = &tableNode[V]{owner: u.edit}
	}
	way, i, found := uint64(0), 0, false
	if shift > lastShift {
		if i = n.find(u.key); i < 0 {
			i = len(n.slots)
		}
		found = i < len(n.slots)
	} else {
		way = uint64(1) << (u.hash >> shift & 63)
		i = bits.OnesCount64(n.ways & (way - 1))
		found = n.ways&way != 0
	}
	switch {
	case !found:
		v := u.change(nil)
		if v == nil {
			break
		}
		u.delta = 1
		n = n.own(u.edit)
		n.ways |= way
		n.slots = slices.Insert(n.slots, i, tableSlot[V]{hash: u.hash, key: u.key, value: v})
	case n.slots[i].below != nil:
		n = n.own(u.edit)
		s := &n.slots[i]
		below := u.node(s.below, shift+digitBits)
		switch {
		case below == nil:
			n.drop(i, way)
		case len(below.slots) == 1 && below.slots[0].below == nil:
			*s = below.slots[0]
		default:
			s.below = below
		}
	case n.slots[i].hash == u.hash && bytes.Equal(n.slots[i].key, u.key):
		old := n.slots[i].value
		v := u.change(old)
		if v == old {
			break
		}
		n = n.own(u.edit)
		if v == nil {
			u.delta = -1
			n.drop(i, way)
		} else {
			n.slots[i].value = v
		}
	default: // two keys that part further down
		v := u.change(nil)
		if v == nil {
			break
		}
		u.delta = 1
		n = n.own(u.edit)
		n.slots[i] = tableSlot[V]{below: u.part(n.slots[i], tableSlot[V]{hash: u.hash, key: u.key, value: v}, shift+digitBits)}
	}
	if len(n.slots) == 0 {
		return nil
	}
	return n
}

// part returns the node of two keys.
func (u *tableUpdate[V]) part(a, b tableSlot[V], shift int) *tableNode[V] {
	if shift > lastShift {
		return &tableNode[V]{owner: u.edit, slots: []tableSlot[V]{a, b}}
	}
	first, second := a.hash>>shift&63, b.hash>>shift&63
	switch {
	case first == second:
		return &tableNode[V]{owner: u.edit, ways: 1 << first, slots: []tableSlot[V]{{below: u.part(a, b, shift+digitBits)}}}
	case first > second:
		a, b = b, a
	}
	return &tableNode[V]{owner: u.edit, ways: 1<<first | 1<<second, slots: []tableSlot[V]{a, b}}
}

func (n *tableNode[V]) own(e *edit) *tableNode[V] {
	if n.owner == e {
		return n
	}
	return &tableNode[V]{owner: e, ways: n.ways, slots: slices.Clone(n.slots)}
}

func (n *tableNode[V]) drop(i int, way uint64) {
	n.ways &^= way
	n.slots = slices.Delete(n.slots, i, i+1)
}

// each calls visit with every value.
func (n *tableNode[V]) each(visit func(*V)) {
	if n == nil {
		return
	}
	for i := range n.slots {
		if s := &n.slots[i]; s.below != nil {
			s.below.each(visit)
		} else {
			visit(s.value)
		}
	}
}
