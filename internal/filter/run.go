package filter

import (
	"bytes"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/carillon-events/carillon/event"
)

// run is one event on its way through an index.
type run struct {
	s        *Scratch
	paths    *paths
	numbers  uint32 // of entries, from 0 on
	event    *event.Event
	resolved bool    // keys are looked up
	elements bool    // values are elements of arrays
	barred   *barred // members of the innermost node on the way that has any
	depth    int     // nodes on the way that have members
}

// value returns what a key finds.
func (r *run) value(slot uint32) *seen {
	if slot >= firstKeySlot && !r.resolved {
		r.resolve()
	}
	return r.s.found.at(slot)
}

func (r *run) resolve() {
	r.resolved = true
	r.s.resolve(r.paths, r.event)
}

// node takes the event to a node.
func (r *run) node(n *node) {
	if n.bars != nil {
		r.barred.add(n.bars)
	}
	for _, c := range n.direct.chunks {
		for i := range c.items {
			if at := &c.items[i]; at.rest == 0 || r.ask(at) {
				r.hit(at.entry)
			}
		}
	}
	if n.members == nil {
		r.below(n)
		return
	}
	above := r.barred
	r.barred = r.s.bar(r.depth)
	r.barred.begin(r.numbers)
	r.depth++
	r.below(n)
	r.remaining(n)
	r.depth--
	r.barred = above
}

// lead takes the event to a node that its value, or an element of it, leads to.
func (r *run) lead(n *node) {
	if r.elements {
		r.once(n)
	} else {
		r.node(n)
	}
}

// once takes the event to a node that it may have been taken to before. To go there
// again would multiply from node to node.
func (r *run) once(n *node) {
	if _, ok := r.s.met[n]; ok {
		return
	}
	if r.s.met == nil {
		r.s.met = make(map[*node]struct{})
	}
	r.s.met[n] = struct{}{}
	r.node(n)
}

// bar returns the memory for the members of a node so deep.
func (s *Scratch) bar(depth int) *barred {
	if depth == len(s.barred) {
		s.barred = append(s.barred, new(barred))
	}
	return s.barred[depth]
}

// remaining takes the members of a node that nothing barred.
func (r *run) remaining(n *node) {
	for number := range r.barred.remaining(n.members.set) {
		if at := n.members.get(number); at.rest == 0 || r.ask(at) {
			r.hit(at.entry)
		}
	}
}

// below takes the event to the directories of a node.
func (r *run) below(n *node) {
	if n.keys.n > 4 && !r.resolved {
		r.resolve()
	}
	if n.keys.n <= 2*len(r.s.found.slots) {
		r.directories(n.keys.root)
		return
	}
	for _, slot := range r.s.found.slots {
		v := r.value(slot)
		if v.kind <= event.Null {
			continue
		}
		if d := n.keys.get(directoryKey(slot, false), nil); d != nil {
			r.directory(d, v)
		}
		if d := n.keys.get(directoryKey(slot, true), nil); d != nil {
			r.directory(d, v)
		}
	}
	r.absentees(n.absent.root)
}

// directories goes through all directories of a node.
func (r *run) directories(n *tableNode[directory]) {
	if n == nil {
		return
	}
	for i := range n.slots {
		s := &n.slots[i]
		if s.below != nil {
			r.directories(s.below)
			continue
		}
		switch d, v := s.value, r.value(uint32(s.hash>>1)); {
		case v.kind > event.Null:
			r.directory(d, v)
		case d.absent > 0:
			r.absentee(d, v)
		}
	}
}

// absentees goes through the directories with entries that want events without a
// value, and stops at those whose value there is.
func (r *run) absentees(n *tableNode[directory]) {
	if n == nil {
		return
	}
	for i := range n.slots {
		s := &n.slots[i]
		if s.below != nil {
			r.absentees(s.below)
		} else if v := r.value(uint32(s.hash >> 1)); v.kind <= event.Null {
			r.absentee(s.value, v)
		}
	}
}

func (r *run) absentee(d *directory, v *seen) {
	if d.noNumber != nil {
		r.node(d.noNumber)
	}
	if d.noText != nil {
		r.node(d.noText)
	}
	r.askeds(d.asked.root, v, d.arrays)
}

// directory takes the event to the entries that its value leads to.
func (r *run) directory(d *directory, v *seen) {
	r.askeds(d.asked.root, v, d.arrays)
	if d.present != nil && (d.arrays || v.kind != event.Array) {
		r.node(d.present)
	}
	if v.kind != event.Array {
		r.scalar(d, v)
		return
	}
	if d.arrays {
		outside := r.elements
		r.elements = true
		for c := event.Walk(v.raw); c.Next(); {
			element := seen{value: cursorValue(&c)}
			r.scalar(d, &element)
		}
		r.elements = outside
	}
}

// askeds asks the conditions that are asked once for all.
func (r *run) askeds(n *tableNode[asked], v *seen, arrays bool) {
	if n == nil {
		return
	}
	for i := range n.slots {
		s := &n.slots[i]
		if s.below != nil {
			r.askeds(s.below, v, arrays)
		} else if r.holds(s.value.condition, v, arrays) {
			r.node(s.value.here)
		}
	}
}

// scalar takes the event to the entries that a value outside any array leads to.
func (r *run) scalar(d *directory, v *seen) {
	if d.wantsText() {
		r.text(d, v)
	}
	switch {
	case v.kind != event.Number:
		if d.noNumber != nil {
			r.lead(d.noNumber)
		}
	case d.numbers.n > 0 || d.inNumbers.root != nil:
		var buf [maxOrdered]byte
		number := readDecimal(v.raw).appendOrdered(buf[:0])
		if d.numbers.n > 0 {
			if here := d.numbers.get(hashOf(number), number); here != nil {
				r.lead(here)
			}
		}
		r.stab(d.inNumbers.root, number)
	}
}

// wantsText reports whether it matters what string operators see.
func (d *directory) wantsText() bool {
	return d.texts.n+d.heads.n+d.tails.n+d.pieces.lists.n > 0 ||
		d.inTexts.root != nil || d.inTails.root != nil || d.noText != nil || d.otherType != nil
}

// text takes the event to the entries that its value leads to as string operators
// see it.
func (r *run) text(d *directory, v *seen) {
	text, ok := r.s.folded(v)
	if !ok {
		if d.noText != nil {
			r.lead(d.noText)
		}
		if d.otherType != nil {
			r.lead(d.otherType)
		}
		return
	}
	if d.texts.n > 0 {
		if here := d.texts.get(v.hashed(), text); here != nil {
			r.lead(here)
		}
	}
	if d.heads.n > 0 {
		r.beginnings(d.heads.root, text)
	}
	r.stab(d.inTexts.root, text)
	if d.tails.n > 0 {
		r.beginnings(d.tails.root, r.s.backwards(v))
	}
	if d.inTails.root != nil {
		r.stab(d.inTails.root, r.s.backwards(v))
	}
	if d.pieces.lists.n > 0 {
		r.contained(&d.pieces, text)
	}
}

// beginnings takes the event to the entries of all keys that the text begins with.
func (r *run) beginnings(n *trieNode[node], text []byte) {
	for n != nil && bytes.HasPrefix(text, n.prefix) {
		if n.value != nil {
			r.lead(n.value)
		}
		if text = text[len(n.prefix):]; len(text) == 0 {
			return
		}
		n = n.child(text[0])
	}
}

// stab takes the event to the entries of all intervals that hold a text or number.
func (r *run) stab(n *interval, at []byte) {
	for n != nil && bytes.Compare(at, n.top) < 0 {
		r.stab(n.left, at)
		if bytes.Compare(at, n.low) < 0 {
			return
		}
		if bytes.Compare(at, n.high) < 0 {
			r.lead(n.here)
		}
		n = n.right
	}
}

// hit notes an entry that wants the event.
func (r *run) hit(p *placed) {
	if p.often {
		r.s.often = append(r.s.often, p.id)
	} else {
		r.s.ids = append(r.s.ids, p.id)
	}
}

// ask asks an entry what the way to it has not settled.
func (r *run) ask(at *located) bool {
	for rest := at.rest; rest != 0; rest &= rest - 1 {
		c := &at.entry.clauses[bits.TrailingZeros32(rest)]
		v := r.value(c.slot)
		if c.letter {
			if !c.holdsForLetters(v) {
				return false
			}
		} else if !r.holds(c.condition, v, at.entry.arrays) {
			return false
		}
	}
	return true
}

// holdsForLetters is a subject test in which letters count.
func (c *clause) holdsForLetters(v *seen) bool {
	if c.operator == StringBeginsWith {
		return bytes.HasPrefix(v.raw, c.strings[0])
	}
	return bytes.HasSuffix(v.raw, c.strings[0])
}

// holds is condition.holds for a value that was found before.
func (r *run) holds(c *condition, v *seen, arrays bool) bool {
	switch {
	case c.operator == IsNotNull:
		return v.kind > event.Null
	case v.kind <= event.Null || c.operator == IsNullOrUndefined:
		return v.kind <= event.Null && c.operator.onMissing()
	case v.kind != event.Array:
		return r.hits(c, v) != c.operator.Negative()
	case !arrays:
		return false
	}
	for e := event.Walk(v.raw); e.Next(); {
		element := seen{value: cursorValue(&e)}
		if r.hits(c, &element) {
			return !c.operator.Negative()
		}
	}
	return c.operator.Negative()
}

// hits reports whether the positive relation of the operator holds between the
// value and any operand.
func (r *run) hits(c *condition, v *seen) bool {
	switch c.operator.Operand() {
	case StringValues:
		text, ok := r.s.folded(v)
		return ok && c.hitsFolded(text)
	case BoolValue:
		return v.kind == c.boolean
	default:
		return v.kind == event.Number && c.hitNumber(readDecimal(v.raw))
	}
}

func (c *condition) hitsFolded(text []byte) bool {
	relation := bytes.Equal
	switch c.operator {
	case StringBeginsWith, StringNotBeginsWith:
		relation = bytes.HasPrefix
	case StringEndsWith, StringNotEndsWith:
		relation = bytes.HasSuffix
	case StringContains, StringNotContains:
		relation = bytes.Contains
	}
	for _, s := range c.strings {
		if relation(text, s) {
			return true
		}
	}
	return false
}

// folded returns the value as string operators see it, folded.
func (s *Scratch) folded(v *seen) (folded []byte, ok bool) {
	if !v.judged {
		v.judged = true
		var buf [256]byte
		text, isText := v.text(buf[:0])
		if isText {
			start := len(s.text)
			s.text = appendFolded(s.text, text)
			v.isText, v.folded = true, s.text[start:len(s.text):len(s.text)]
		}
	}
	return v.folded, v.isText
}

// hashed returns the hash of a folded text.
func (v *seen) hashed() uint64 {
	if !v.hasHash {
		v.hash, v.hasHash = hashOf(v.folded), true
	}
	return v.hash
}

// backwards returns the end of a folded text, backwards: as much of it as the
// longest operand may have.
func (s *Scratch) backwards(v *seen) []byte {
	if v.turned == nil {
		start := len(s.text)
		s.text = append(s.text, v.folded[max(0, len(v.folded)-MaxCharacters*utf8.UTFMax):]...)
		v.turned = s.text[start:len(s.text):len(s.text)]
		slices.Reverse(v.turned)
	}
	return v.turned
}
