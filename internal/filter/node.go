package filter

import (
	"encoding/binary"
	"slices"
)

// node holds entries that an event may want once it has come this far. Those that
// are few, or that nothing tells apart any more, are asked one by one. The others
// stand below, in the directories of the keys they were placed by, so that an
// event meets only those that one of its values leads to.
type node struct {
	owner  *edit
	count  int  // entries here and below
	open   int  // entries of direct that could be placed
	split  bool // new entries are placed
	direct list
	keys   table[directory] // by slot and arrays
	absent table[directory] // those of keys with entries that want events without a value there

	// How many entries here and below name an operand of a negative condition that has
	// several, once the node is split: an entry is placed by one that others name too.
	// Those that name the value of an event are passed over together then.
	named table[naming]
}

type naming struct {
	owner *edit
	n     int
}

// maxOpen is how many entries that could be placed a node asks one by one.
const maxOpen = 4

// directory is what a node knows of one key.
type directory struct {
	owner  *edit
	slot   uint32
	arrays bool // its entries look inside arrays
	count  int  // entries placed by the key
	absent int  // of them, those that want events without a value there

	texts   table[node]  // folded texts: those equal to it
	heads   trie[node]   // those that begin with it
	tails   trie[node]   // those that end with it; it is written backwards
	pieces  grams        // those that contain it
	numbers table[node]  // numbers in canonical form: those equal to it
	asked   table[asked] // conditions that are asked once for all their entries

	// Those in an interval: of numbers, of folded texts, of texts written backwards.
	inNumbers, inTexts, inTails intervals
	// And of intervals that negative conditions leave over, what is in none.
	noNumber, noText, otherType *node
}

// asked is a condition and the entries of which it is a part.
type asked struct {
	owner     *edit
	condition *condition
	here      *node
}

func (n *node) own(e *edit) *node {
	switch {
	case n == nil:
		return &node{owner: e}
	case n.owner == e:
		return n
	default:
		copied := *n
		copied.owner = e
		return &copied
	}
}

func (n *node) size() int {
	if n == nil {
		return 0
	}
	return n.count
}

// insert returns the node with one more entry.
func (n *node) insert(e *edit, at located) *node {
	n = n.own(e)
	n.count++
	if n.split {
		n.name(e, at, 1)
		n.put(e, at)
		return n
	}
	n.ask(e, at)
	if n.open > maxOpen {
		n.split = true
		all := slices.Collect(n.direct.all)
		n.direct, n.open = list{}, 0
		for _, at := range all {
			n.name(e, at, 1)
		}
		for _, at := range all {
			n.put(e, at)
		}
	}
	return n
}

// put places an entry by the choice that the fewest events are likely to meet.
func (n *node) put(e *edit, at located) {
	var best choice
	var spots []spot
	fewest := 2.0
	for c := range at.choices {
		s := at.entry.spots(c)
		var odds float64
		if at.entry.shared(c.clause) == 1 {
			odds = n.directory(at.entry, c).odds(at.entry, c, s)
		} else {
			k := n.named.get(namedKey(at.entry, c))
			if k.n == 1 {
				continue
			}
			odds = oddsOfNot(float64(k.n) / float64(n.count+8))
		}
		if odds < fewest {
			best, spots, fewest = c, s, odds
		}
	}
	if spots == nil {
		n.ask(e, at)
		return
	}
	next := at.after(best)
	n.update(e, at.entry, best, 1, func(d *directory) {
		for _, s := range spots {
			d.update(e, s, func(here *node) *node { return here.insert(e, next) })
		}
	})
}

// name counts the operands that an entry could share with others.
func (n *node) name(e *edit, at located, more int) {
	for c := range at.choices {
		if at.entry.shared(c.clause) == 1 {
			continue
		}
		hash, key := namedKey(at.entry, c)
		n.named.update(e, hash, key, func(k *naming) *naming {
			switch {
			case k == nil:
				k = &naming{owner: e}
			case k.owner != e:
				k = &naming{owner: e, n: k.n}
			}
			if k.n += more; k.n == 0 {
				return nil
			}
			return k
		})
	}
}

// namedKey is where a node counts who names the operand of a choice.
func namedKey(p *placed, c choice) (hash uint64, key []byte) {
	key = binary.BigEndian.AppendUint64(nil, directoryKey(p.clauses[c.clause].slot, p.arrays))
	key = append(key, p.clauses[c.clause].askedOnce(c.operand).text...)
	return hashOf(key), key
}

func (n *node) ask(e *edit, at located) {
	n.direct.insert(e, at)
	if at.free() {
		n.open++
	}
}

// remove returns the node without an entry that it holds, nil if it was the last.
func (n *node) remove(e *edit, at located) *node {
	n = n.own(e)
	if n.count--; n.count == 0 {
		return nil
	}
	if n.split {
		n.name(e, at, -1)
	}
	if n.asks(at) {
		n.direct.remove(e, at.entry.id)
		if at.free() {
			n.open--
		}
		return n
	}
	c, _ := n.placement(at)
	next := at.after(c)
	n.update(e, at.entry, c, -1, func(d *directory) {
		for _, s := range at.entry.spots(c) {
			d.update(e, s, func(here *node) *node { return here.remove(e, next) })
		}
	})
	return n
}

// placement finds the choice that an entry was placed by.
func (n *node) placement(at located) (c choice, ok bool) {
	for c := range at.choices {
		if here := n.directory(at.entry, c).find(at.entry.spots(c)[0]); here != nil && here.holds(at.after(c)) {
			return c, true
		}
	}
	return c, false
}

// holds reports whether the entry came here by its way, or further.
func (n *node) holds(at located) bool {
	if n.asks(at) {
		return true
	}
	_, ok := n.placement(at)
	return ok
}

// asks reports whether the entry came here by its way and no further.
func (n *node) asks(at located) bool {
	c, i, ok := n.direct.find(at.entry.id)
	return ok && n.direct.chunks[c].items[i].way == at.way
}

// directoryKey is where a node keeps the directory of a slot.
func directoryKey(slot uint32, arrays bool) uint64 {
	if arrays {
		return uint64(slot)<<1 | 1
	}
	return uint64(slot) << 1
}

// directory returns the directory of a choice, nil if there is none.
func (n *node) directory(p *placed, c choice) *directory {
	return n.keys.get(directoryKey(p.clauses[c.clause].slot, p.arrays), nil)
}

// update changes the directory of a choice, n more entries being placed by it.
func (n *node) update(e *edit, p *placed, c choice, more int, change func(*directory)) {
	slot := p.clauses[c.clause].slot
	key := directoryKey(slot, p.arrays)
	var now *directory
	n.keys.update(e, key, nil, func(d *directory) *directory {
		switch {
		case d == nil:
			d = &directory{owner: e, slot: slot, arrays: p.arrays}
		case d.owner != e:
			copied := *d
			copied.owner = e
			d = &copied
		}
		change(d)
		d.count += more
		if p.clauses[c.clause].operator.onMissing() {
			d.absent += more
		}
		if d.count == 0 {
			return nil
		}
		now = d
		return d
	})
	n.absent.update(e, key, nil, func(*directory) *directory {
		if now == nil || now.absent == 0 {
			return nil
		}
		return now
	})
}

// find returns the node of a spot, nil if there is none.
func (d *directory) find(s spot) *node {
	if d == nil {
		return nil
	}
	switch s.kind {
	case equalText:
		return d.texts.get(hashOf(s.text), s.text)
	case beginsText:
		return d.heads.get(s.text)
	case endsText:
		return d.tails.get(s.text)
	case containsText:
		return d.pieces.find(s.text)
	case equalNumber:
		return d.numbers.get(hashOf(s.text), s.text)
	case inNumbers:
		return d.inNumbers.find(s.span)
	case inTexts:
		return d.inTexts.find(s.span)
	case inTails:
		return d.inTails.find(s.span)
	case noNumber:
		return d.noNumber
	case noText:
		return d.noText
	case otherType:
		return d.otherType
	default:
		if a := d.asked.get(hashOf(s.text), s.text); a != nil {
			return a.here
		}
		return nil
	}
}

// update gives a spot the node that change makes of its present one.
func (d *directory) update(e *edit, s spot, change func(*node) *node) {
	switch s.kind {
	case equalText:
		d.texts.update(e, hashOf(s.text), s.text, change)
	case beginsText:
		d.heads.update(e, s.text, change)
	case endsText:
		d.tails.update(e, s.text, change)
	case containsText:
		d.pieces.update(e, s.text, change)
	case equalNumber:
		d.numbers.update(e, hashOf(s.text), s.text, change)
	case inNumbers:
		d.inNumbers.update(e, s.span, change)
	case inTexts:
		d.inTexts.update(e, s.span, change)
	case inTails:
		d.inTails.update(e, s.span, change)
	case noNumber:
		d.noNumber = change(d.noNumber)
	case noText:
		d.noText = change(d.noText)
	case otherType:
		d.otherType = change(d.otherType)
	default:
		d.asked.update(e, hashOf(s.text), s.text, func(a *asked) *asked {
			switch {
			case a == nil:
				a = &asked{owner: e, condition: s.asked}
			case a.owner != e:
				a = &asked{owner: e, condition: a.condition, here: a.here}
			}
			if a.here = change(a.here); a.here == nil {
				return nil
			}
			return a
		})
	}
}

// odds guesses which part of the events that come to a node a choice would let
// through to an entry. Where the operands are values, it takes events to be spread
// over them as the entries are: what few ask for is rare. The rest are constants
// that only need to be in the right order.
func (d *directory) odds(p *placed, c choice, spots []spot) float64 {
	all := 0
	if d != nil {
		all = d.count
	}
	share := 0.0
	for _, s := range spots {
		if s.kind < noNumber || s.kind == askedOnce {
			share += float64(d.find(s).size()+1) / float64(all+8)
		}
	}
	op := p.clauses[c.clause].operator
	switch op {
	case StringIn, NumberIn:
		return share
	case StringBeginsWith, StringEndsWith:
		return share + 0.02
	case StringContains:
		return share + 0.04
	case IsNullOrUndefined, NumberInRange:
		return 0.3
	case BoolEquals:
		return 0.5
	case NumberLessThan, NumberLessThanOrEquals, NumberGreaterThan, NumberGreaterThanOrEquals, IsNotNull:
		return 0.6
	}
	return oddsOfNot(share)
}

// oddsOfNot is odds for a negative operator: what many exclude is frequent.
func oddsOfNot(share float64) float64 { return 1 - min(share, 1)/4 }
