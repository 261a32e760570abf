package filter

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// placed is an entry as the index holds it: the parts of its filter, all of which
// must hold, in one list.
type placed struct {
	id      uint64
	matcher *Matcher
	clauses []clause
	arrays  bool // conditions look inside arrays
	often   bool // one event may meet it more than once
}

// clause is a condition and the slot of its key. The event type and the two
// subject tests are conditions too: StringIn, StringBeginsWith and StringEndsWith.
type clause struct {
	*condition
	slot   uint32
	letter bool // letters count: the operands are not folded
}

func (x *Index) place(e *edit, entry Entry) *placed {
	m := entry.Matcher
	p := &placed{id: entry.ID, matcher: m, arrays: m.filter.EnableAdvancedFilteringOnArrays}
	p.clauses = make([]clause, 0, len(m.conditions)+3)
	if m.types != nil {
		p.clauses = append(p.clauses, clause{condition: &condition{operator: StringIn, strings: m.types}, slot: typeSlot})
	}
	letter := m.filter.IsSubjectCaseSensitive
	if len(m.begins) > 0 {
		c := &condition{operator: StringBeginsWith, strings: [][]byte{m.begins}}
		p.clauses = append(p.clauses, clause{condition: c, slot: subjectSlot, letter: letter})
	}
	if len(m.ends) > 0 {
		c := &condition{operator: StringEndsWith, strings: [][]byte{m.ends}}
		p.clauses = append(p.clauses, clause{condition: c, slot: subjectSlot, letter: letter})
	}
	for i := range m.conditions {
		c := &m.conditions[i]
		slot := x.paths.use(e, m.filter.AdvancedFilters[i].Key, c.key)
		p.clauses = append(p.clauses, clause{condition: c, slot: slot})
	}
	for i := range p.clauses {
		p.often = p.often || p.clauses[i].often(p.arrays)
	}
	return p
}

// often reports whether one event may come by several spots of the clause, or by
// one spot several times.
func (c *clause) often(arrays bool) bool {
	switch c.operator {
	case StringContains:
		return true
	case StringIn, NumberIn:
		return arrays && c.slot >= firstKeySlot
	default:
		return arrays && c.slot >= firstKeySlot || len(c.strings)+len(c.ranges) > 1
	}
}

// spot is where a clause puts an entry inside the directory of its key: the event
// must come by there for the clause to hold.
type spot struct {
	kind  spotKind
	text  []byte
	span  span
	asked *condition
}

type spotKind uint8

const (
	equalText    spotKind = iota // the folded value is text
	beginsText                   // it begins with text
	endsText                     // it ends with text, which is written backwards
	containsText                 // it contains text
	equalNumber                  // it is a number of which text is the canonical form
	inSpan                       // it is a number in span
	noNumber                     // it is no number and no array, or there is none
	askedOnce                    // asked holds for it; text tells askeds apart
)

// choice is a clause of an entry to place it by: of a negative condition that is
// asked once for all who share an operand, one operand; whether it was the right
// one is asked later.
type choice struct {
	clause  int
	operand int
	number  int // among all choices of the entry
}

// way is the choices that an entry was placed by from the root on, wayBits each, by
// number, the last one lowest; 0 is the root. It tells places apart that two clauses
// with an operand in common lead to.
type way uint64

const (
	wayBits = 6  // up to 63 choices: 25 conditions, 25 operands, the event type, two subject tests
	maxWay  = 10 // choices; what they do not tell apart is asked one by one
)

// has reports whether a choice is on the way.
func (w way) has(number int) bool {
	for ; w != 0; w >>= wayBits {
		if w&(1<<wayBits-1) == way(number)+1 {
			return true
		}
	}
	return false
}

// full reports whether nothing can be placed any further.
func (w way) full() bool { return w>>((maxWay-1)*wayBits) != 0 }

// free reports whether a choice is left to an entry.
func (at located) free() bool {
	for range at.choices {
		return true
	}
	return false
}

// choices yields the choices that are left to an entry.
func (at located) choices(yield func(choice) bool) {
	if at.way.full() {
		return
	}
	number := 0
	for i := range at.entry.clauses {
		for j := range at.entry.shared(i) {
			if !at.way.has(number) && !yield(choice{clause: i, operand: j, number: number}) {
				return
			}
			number++
		}
	}
}

// shared returns how many operands of a clause may be shared with others one by
// one: 1 if it is placed as a whole.
func (p *placed) shared(i int) int {
	c := &p.clauses[i]
	switch c.operator {
	case StringNotIn, StringNotBeginsWith, StringNotEndsWith, StringNotContains:
		return len(c.strings)
	case NumberNotIn, NumberNotInRange:
		if p.arrays {
			return len(c.numbers) + len(c.ranges)
		}
	}
	return 1
}

// after is the entry behind a choice: its clause need not be asked again, unless
// the way there did not settle it.
func (at located) after(c choice) located {
	at.way = at.way<<wayBits | way(c.number+1)
	if at.entry.shared(c.clause) == 1 && !at.entry.clauses[c.clause].letter {
		at.rest &^= 1 << c.clause
	}
	return at
}

// spots returns where a choice puts an entry, each place once.
func (p *placed) spots(at choice) []spot {
	var all []spot
	c := &p.clauses[at.clause]
	texts := func(kind spotKind, form func([]byte) []byte) {
		for _, s := range c.strings {
			if c.letter {
				s = appendFolded(nil, s)
			}
			all = append(all, spot{kind: kind, text: form(s)})
		}
	}
	switch c.operator {
	case StringIn:
		texts(equalText, same)
	case StringBeginsWith:
		texts(beginsText, same)
	case StringEndsWith:
		texts(endsText, backwards)
	case StringContains:
		texts(containsText, same)
		for i := range all {
			if len(all[i].text) == 0 {
				all[i].kind = beginsText // every text contains nothing, and begins with it
			}
		}
	case NumberIn:
		for _, n := range c.numbers {
			all = append(all, spot{kind: equalNumber, text: n.appendCanonical(nil)})
		}
	case NumberLessThan, NumberLessThanOrEquals, NumberGreaterThan, NumberGreaterThanOrEquals, NumberInRange:
		for _, s := range c.spans() {
			all = append(all, spot{kind: inSpan, span: s})
		}
	case NumberNotIn, NumberNotInRange:
		if p.arrays {
			return []spot{c.askedOnce(at.operand)}
		}
		for _, s := range gaps(c.spans()) {
			all = append(all, spot{kind: inSpan, span: s})
		}
		all = append(all, spot{kind: noNumber})
	default:
		return []spot{c.askedOnce(at.operand)}
	}
	for i := 0; i < len(all); i++ {
		rest := slices.DeleteFunc(all[i+1:], all[i].equal)
		all = all[:i+1+len(rest)]
	}
	return all
}

func (s spot) equal(o spot) bool {
	if s.kind != o.kind || !bytes.Equal(s.text, o.text) {
		return false
	}
	return s.kind != inSpan || s.span.low.compare(o.span.low) == 0 && s.span.high.compare(o.span.high) == 0
}

func same(text []byte) []byte { return text }

func backwards(text []byte) []byte {
	text = bytes.Clone(text)
	slices.Reverse(text)
	return text
}

// askedOnce returns the spot of a condition, or of one operand of a negative one.
func (c *clause) askedOnce(operand int) spot {
	one := &condition{operator: c.operator, boolean: c.boolean}
	text := []byte{byte(c.operator)}
	switch c.operator.Operand() {
	case StringValues:
		one.strings = c.strings[operand : operand+1 : operand+1]
		text = append(text, c.strings[operand]...)
	case NumberValues:
		one.numbers = c.numbers[operand : operand+1 : operand+1]
		text = c.numbers[operand].appendCanonical(text)
	case RangeValues:
		one.ranges = c.ranges[operand : operand+1 : operand+1]
		low := c.ranges[operand][0].appendCanonical(nil)
		text = append(text, byte(len(low)>>8), byte(len(low)))
		text = c.ranges[operand][1].appendCanonical(append(text, low...))
	case BoolValue:
		text = append(text, byte(c.boolean))
	}
	return spot{kind: askedOnce, text: text, asked: one}
}

// appendCanonical appends what all spellings of one number have in common.
func (d decimal) appendCanonical(dst []byte) []byte {
	dst = append(dst, byte(d.sign))
	if d.sign == 0 {
		return dst
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.exponent))
	for _, c := range d.digits {
		if c != '.' {
			dst = append(dst, c)
		}
	}
	return dst
}

// spans returns the intervals that the condition's operands stand for.
func (c *condition) spans() []span {
	var all []span
	add := func(low, high bound) { all = append(all, span{&low, &high}) }
	below, above := bound{infinite: -1}, bound{infinite: 1}
	for _, n := range c.numbers {
		b := makeBound(n)
		switch c.operator {
		case NumberLessThan:
			b.side = -1
			add(below, b)
		case NumberLessThanOrEquals:
			add(below, b)
		case NumberGreaterThan:
			b.side = 1
			add(b, above)
		case NumberGreaterThanOrEquals:
			add(b, above)
		default:
			add(b, b)
		}
	}
	for _, r := range c.ranges {
		add(makeBound(r[0]), makeBound(r[1]))
	}
	return all
}

// gaps returns what closed intervals leave of the number line.
func gaps(taken []span) []span {
	slices.SortFunc(taken, func(a, b span) int { return a.low.compare(b.low) })
	var all []span
	low := &bound{infinite: -1}
	for _, s := range taken {
		if low.compare(s.low) < 0 {
			high := *s.low
			high.side = -1
			all = append(all, span{low, &high})
		}
		if next := *s.high; next.compare(low) >= 0 {
			next.side = 1
			low = &next
		}
	}
	return append(all, span{low, &bound{infinite: 1}})
}
