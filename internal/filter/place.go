package filter

import (
	"bytes"
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
		return !c.operator.Negative() && (arrays && c.slot >= firstKeySlot || len(c.strings)+len(c.ranges) > 1)
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
	equalNumber                  // it is a number, which text is
	inNumbers                    // it is a number in span
	inTexts                      // the folded value is in span
	inTails                      // written backwards, it is in span
	noNumber                     // the value is no number and no array, or there is none
	noText                       // it is no text and no array, or there is none
	otherType                    // it is no text and no array, but there is one
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

// whole reports whether a clause is placed as a whole. A negative one is if one
// value must be in one of the gaps between its operands; texts that lack a text
// have no order, and arrays have many values.
func (p *placed) whole(c *clause) bool {
	return !c.operator.Negative() || !p.arrays && c.operator != StringNotContains
}

// shared returns how many operands of a clause may be shared with others one by
// one: 1 if it is placed as a whole.
func (p *placed) shared(i int) int {
	c := &p.clauses[i]
	if p.whole(c) {
		return 1
	}
	return len(c.strings) + len(c.numbers) + len(c.ranges)
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
	c := &p.clauses[at.clause]
	if c.operator.Negative() && p.whole(c) {
		return c.leftOver()
	}
	var all []spot
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
			all = append(all, spot{kind: equalNumber, text: n.appendOrdered(nil)})
		}
	case NumberLessThan, NumberLessThanOrEquals, NumberGreaterThan, NumberGreaterThanOrEquals, NumberInRange:
		for _, s := range c.spans() {
			all = append(all, spot{kind: inNumbers, span: s})
		}
	default:
		return []spot{c.askedOnce(at.operand)}
	}
	for i := 0; i < len(all); i++ {
		rest := slices.DeleteFunc(all[i+1:], all[i].equal)
		all = all[:i+1+len(rest)]
	}
	return all
}

// leftOver returns the spots of a negative condition: what its operands leave of
// the numbers or texts, and the values of other types.
func (c *clause) leftOver() []spot {
	var all []spot
	if c.operator.Operand() != StringValues {
		for _, s := range gaps(c.spans()) {
			all = append(all, spot{kind: inNumbers, span: s})
		}
		return append(all, spot{kind: noNumber})
	}
	kind, others := inTexts, otherType
	var taken []span
	for _, s := range c.strings {
		switch c.operator {
		case StringNotIn:
			others = noText
			taken = append(taken, just(s))
		case StringNotBeginsWith:
			taken = append(taken, startingWith(s))
		default:
			kind = inTails
			taken = append(taken, startingWith(backwards(s)))
		}
	}
	for _, s := range gaps(taken) {
		all = append(all, spot{kind: kind, span: s})
	}
	return append(all, spot{kind: others})
}

func (s spot) equal(o spot) bool {
	return s.kind == o.kind && bytes.Equal(s.text, o.text) && s.span.compare(o.span) == 0
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
		text = c.numbers[operand].appendOrdered(text)
	case RangeValues:
		one.ranges = c.ranges[operand : operand+1 : operand+1]
		low := c.ranges[operand][0].appendOrdered(nil)
		text = append(text, byte(len(low)>>8), byte(len(low)))
		text = c.ranges[operand][1].appendOrdered(append(text, low...))
	case BoolValue:
		text = append(text, byte(c.boolean))
	}
	return spot{kind: askedOnce, text: text, asked: one}
}

// spans returns the intervals of numbers that the condition's operands stand for.
func (c *condition) spans() []span {
	var all []span
	for _, n := range c.numbers {
		s := just(n.appendOrdered(nil))
		switch c.operator {
		case NumberLessThan:
			s = span{everything.low, s.low}
		case NumberLessThanOrEquals:
			s.low = everything.low
		case NumberGreaterThan:
			s = span{s.high, everything.high}
		case NumberGreaterThanOrEquals:
			s.high = everything.high
		}
		all = append(all, s)
	}
	for _, r := range c.ranges {
		all = append(all, span{r[0].appendOrdered(nil), just(r[1].appendOrdered(nil)).high})
	}
	return all
}
