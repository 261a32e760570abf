package filter

import (
	"bytes"
	"slices"
)

// placed is an entry as the index holds it: the parts of its filter, all of which
// must hold, in one list.
type placed struct {
	id      uint64
	number  uint32 // among the entries of the index
	matcher *Matcher
	clauses []clause
	barring int  // spots of all clauses that bar
	arrays  bool // conditions look inside arrays
	often   bool // one event may meet it more than once
}

// clause is a condition and the slot of its key. The event type and the two
// subject tests are conditions too: StringIn, StringBeginsWith and StringEndsWith.
type clause struct {
	*condition
	slot   uint32
	letter bool // letters count: the operands are not folded
	spots  int  // where it puts an entry
}

func (x *Index) place(e *edit, entry Entry) *placed {
	m := entry.Matcher
	p := &placed{id: entry.ID, number: x.numbers.take(), matcher: m, arrays: m.filter.EnableAdvancedFilteringOnArrays}
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
		c := &p.clauses[i]
		c.spots = len(p.spots(choice(i)))
		if !p.whole(choice(i)) {
			p.barring += len(c.hits())
		}
		p.often = p.often || c.often(p.arrays)
	}
	return p
}

// often reports whether one event may come by several spots of the clause.
func (c *clause) often(arrays bool) bool {
	switch c.operator {
	case StringIn, NumberIn:
		return c.spots > 1 && arrays && c.slot >= firstKeySlot
	default:
		return c.spots > 1 && !c.operator.Negative()
	}
}

// spot is where a clause puts an entry inside the directory of its key: the event
// must come by there for the clause to hold, or, if the clause bars, must not.
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
	present                      // there is one, and no array unless arrays are looked into
	askedOnce                    // asked holds for it; text tells askeds apart
)

// choice is a clause of an entry to place it by, or barring. A clause that is not
// placed as a whole only sees to it that there is a value; barring settles it.
type choice int

// last is the choice of barring: of all clauses that are not placed as a whole.
func (p *placed) last() choice { return choice(len(p.clauses)) }

// spread returns how many spots a choice has.
func (p *placed) spread(c choice) int {
	if c == p.last() {
		return p.barring
	}
	return p.clauses[c].spots
}

// maxPlaces is how many places an entry may have at the same time. One more clause
// multiplies them by its spots; what would make them more is asked one by one. One
// clause alone may have more.
const maxPlaces = 128

// fits reports whether there are few enough places behind a choice.
func (at located) fits(c choice) bool {
	return at.places == 1 || int(at.places)*at.entry.spread(c) <= maxPlaces
}

// whole reports whether a clause is placed as a whole. A negative one is if a value
// has to be in one of the gaps between its operands; texts that lack a text have no
// order, and an array has many values.
func (p *placed) whole(c choice) bool {
	op := p.clauses[c].operator
	return !op.Negative() || !p.arrays && op != StringNotContains
}

// way is the choices that an entry was placed by from the root on, wayBits each, the
// last one lowest; 0 is the root. It tells places apart that two clauses with an
// operand in common lead to.
type way uint64

const (
	wayBits = 5  // up to 31 choices: 25 conditions, the event type, two subject tests, barring
	maxWay  = 12 // choices; what they do not tell apart is asked one by one
)

// has reports whether a choice is on the way.
func (w way) has(c choice) bool {
	for ; w != 0; w >>= wayBits {
		if w&(1<<wayBits-1) == way(c)+1 {
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

// choices yields the choices that are left to an entry: the clauses one by one, and
// barring when they are through.
func (at located) choices(yield func(choice) bool) {
	if at.way.full() {
		return
	}
	through, barring := true, false
	for i := range at.entry.clauses {
		c := choice(i)
		if !at.entry.whole(c) {
			barring = true
			if at.entry.clauses[c].operator.onMissing() {
				continue
			}
		}
		if !at.way.has(c) && at.fits(c) {
			through = false
			if !yield(c) {
				return
			}
		}
	}
	if through && barring && at.fits(at.entry.last()) {
		yield(at.entry.last())
	}
}

// after is the entry behind a choice: its clauses need not be asked again, unless
// the way there did not settle them.
func (at located) after(c choice) located {
	at.way = at.way<<wayBits | way(c+1)
	at.places *= uint32(at.entry.spread(c))
	if c < at.entry.last() {
		if at.entry.whole(c) && !at.entry.clauses[c].letter {
			at.rest &^= 1 << c
		}
		return at
	}
	for i := range at.entry.clauses {
		if !at.entry.whole(choice(i)) {
			at.rest &^= 1 << i
		}
	}
	return at
}

// spots returns where a clause puts an entry, each place once.
func (p *placed) spots(at choice) []spot {
	c := &p.clauses[at]
	switch {
	case !p.whole(at):
		return []spot{{kind: present}}
	case c.operator.Negative():
		return c.leftOver()
	default:
		return c.hits()
	}
}

// hits returns the spots of values that hit an operand, each once.
func (c *clause) hits() []spot {
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
	case StringIn, StringNotIn:
		texts(equalText, same)
	case StringBeginsWith, StringNotBeginsWith:
		texts(beginsText, same)
	case StringEndsWith, StringNotEndsWith:
		texts(endsText, backwards)
	case StringContains, StringNotContains:
		texts(containsText, same)
		for i := range all {
			if len(all[i].text) == 0 {
				all[i].kind = beginsText // every text contains nothing, and begins with it
			}
		}
	case NumberIn, NumberNotIn:
		for _, n := range c.numbers {
			all = append(all, spot{kind: equalNumber, text: n.appendOrdered(nil)})
		}
	case BoolEquals, IsNullOrUndefined, IsNotNull:
		all = append(all, spot{kind: askedOnce, text: []byte{byte(c.operator), byte(c.boolean)}, asked: c.condition})
	default:
		for _, s := range c.spans() {
			all = append(all, spot{kind: inNumbers, span: s})
		}
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
