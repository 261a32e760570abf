package filter

import (
	"math"
	"slices"
)

// node holds entries that an event may want once it has come this far. Those that
// are few, or that nothing tells apart any more, are asked one by one. The others
// stand below, in the directories of the keys they were placed by, so that an
// event meets only those that one of its values leads to.
type node struct {
	owner  *edit
	count  int  // entries here and below, and in bars
	open   int  // entries of direct that could be placed
	split  bool // new entries are placed
	direct list
	keys   table[directory] // by slot and arrays
	absent table[directory] // those of keys with entries that want events without a value there

	members *members
	bars    *set // members of the node above: an event that comes here is barred from them
}

// members is entries of a node that have only negative conditions left of which a
// value may hit any operand. What hits one bars the entry, and an event gets those
// that nothing barred. It never changes.
type members struct {
	set     *set
	located table[located] // they themselves, by number
}

func (m *members) get(number uint32) *located {
	if m == nil {
		return nil
	}
	return m.located.get(uint64(number), nil)
}

// maxOpen is how many entries that could be placed a node asks one by one.
const maxOpen = 4

// directory is what a node knows of one key.
type directory struct {
	owner  *edit
	slot   uint32
	arrays bool // its entries look inside arrays
	count  int  // conditions placed here
	absent int  // of them, those with entries that want events without a value

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

	// Entries that bar, and want a value to be there; an array only if they look inside.
	present *node
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
		n.put(e, at)
		return n
	}
	n.ask(e, at)
	if n.open > maxOpen {
		n.split = true
		all := slices.Collect(n.direct.all)
		n.direct, n.open = list{}, 0
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
	fewest := math.Inf(1)
	for c := range at.choices {
		if c == at.entry.last() {
			n.enrol(e, at, 1)
			return
		}
		s := at.entry.spots(c)
		if odds := n.directory(at.entry, c).odds(at.entry, c, s); odds < fewest {
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

// enrol makes an entry a member, or, if more is -1, no longer one.
func (n *node) enrol(e *edit, at located, more int) {
	p := at.entry
	var m members
	if n.members != nil {
		m = *n.members
	}
	if more > 0 {
		m.set = m.set.with(e, p.number)
	} else {
		m.set = m.set.without(e, p.number)
	}
	m.located.update(e, uint64(p.number), nil, func(*located) *located {
		if more < 0 {
			return nil
		}
		next := at.after(p.last())
		return &next
	})
	n.members = &m
	if m.set == nil {
		n.members = nil
	}
	for i := range p.clauses {
		c := choice(i)
		if p.whole(c) {
			continue
		}
		n.update(e, p, c, more, func(d *directory) {
			for _, s := range p.clauses[c].hits() {
				d.update(e, s, func(here *node) *node { return here.bar(e, p.number, more) })
			}
		})
	}
}

// bar returns the node with one member more, or less, of the node above barred.
func (n *node) bar(e *edit, number uint32, more int) *node {
	n = n.own(e)
	if n.count += more; n.count == 0 {
		return nil
	}
	if more > 0 {
		n.bars = n.bars.with(e, number)
	} else {
		n.bars = n.bars.without(e, number)
	}
	return n
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
	if n.asks(at) {
		n.direct.remove(e, at.entry.id)
		if at.free() {
			n.open--
		}
		return n
	}
	c, _ := n.placement(at)
	if c == at.entry.last() {
		n.enrol(e, at, -1)
		return n
	}
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
		if c == at.entry.last() {
			member := n.members.get(at.entry.number)
			return c, member != nil && member.way == at.after(c).way
		}
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
	return n.keys.get(directoryKey(p.clauses[c].slot, p.arrays), nil)
}

// update changes the directory of a choice, n more entries being placed by it.
func (n *node) update(e *edit, p *placed, c choice, more int, change func(*directory)) {
	slot := p.clauses[c].slot
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
		if p.clauses[c].operator.onMissing() && p.whole(c) {
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
	case present:
		return d.present
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
	case present:
		d.present = change(d.present)
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
		if s.kind < noNumber {
			share += float64(d.find(s).size()+1) / float64(all+8)
		}
	}
	if !p.whole(c) {
		return 0.6
	}
	switch p.clauses[c].operator {
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
	return 1 - min(share, 1)/4 // what many exclude is frequent
}
