package filter

import (
	"bytes"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// Matcher is a compiled filter. It never changes.
type Matcher struct {
	filter     Filter   // as given, for Explain
	types      [][]byte // folded; nil = every type
	begins     []byte   // folded unless the subject is case-sensitive
	ends       []byte
	conditions []condition
}

// wantsAll reports whether the matcher wants every event.
func (m *Matcher) wantsAll() bool {
	return m.types == nil && len(m.begins)+len(m.ends)+len(m.conditions) == 0
}

// condition is a compiled [Condition].
type condition struct {
	operator Operator
	key      *key
	strings  [][]byte // folded
	numbers  []decimal
	ranges   [][2]decimal
	boolean  event.Kind // True or False
}

// Compile prepares a filter for matching. The filter must be one that Parse could
// return: its numbers are JSON numbers, and each operator has its operands.
func Compile(f *Filter) *Matcher {
	m := &Matcher{filter: *f, begins: []byte(f.SubjectBeginsWith), ends: []byte(f.SubjectEndsWith)}
	if !f.IsSubjectCaseSensitive {
		m.begins, m.ends = fold(f.SubjectBeginsWith), fold(f.SubjectEndsWith)
	}
	for _, t := range f.IncludedEventTypes {
		if strings.EqualFold(t, everyType) {
			m.types = nil
			break
		}
		m.types = append(m.types, fold(t))
	}
	for i := range f.AdvancedFilters {
		m.conditions = append(m.conditions, compileCondition(&f.AdvancedFilters[i]))
	}
	return m
}

func compileCondition(c *Condition) condition {
	out := condition{operator: c.Operator, key: keyOf(c.Key), boolean: event.False}
	if c.Bool {
		out.boolean = event.True
	}
	for _, s := range c.Strings {
		out.strings = append(out.strings, fold(s))
	}
	for _, n := range c.Numbers {
		out.numbers = append(out.numbers, readDecimal([]byte(n)))
	}
	for _, r := range c.Ranges {
		out.ranges = append(out.ranges, [2]decimal{readDecimal([]byte(r[0])), readDecimal([]byte(r[1]))})
	}
	return out
}

// Match reports whether the event subscription wants the event: its type, its
// subject and every advanced filter agree. It allocates only for long texts: with
// escapes over 256 bytes, or under StringContains over 512.
// Source: spec/filtering.md section 5.
func (m *Matcher) Match(e *event.Event) bool { return m.refusal(e) == nothingRefuses }

// The clauses that can refuse an event, in the order in which they are asked:
// cheap ones first. A condition refuses as firstCondition plus its index.
const (
	nothingRefuses = iota - 1
	typeRefuses
	beginsRefuses
	endsRefuses
	firstCondition
)

// refusal returns the first clause that says no.
func (m *Matcher) refusal(e *event.Event) int {
	if !m.wantsType(e.Type) {
		return typeRefuses
	}
	if !m.subjectTest(e.Subject, m.begins, bytes.HasPrefix, prefixFold) {
		return beginsRefuses
	}
	if !m.subjectTest(e.Subject, m.ends, bytes.HasSuffix, suffixFold) {
		return endsRefuses
	}
	for i := range m.conditions {
		if !m.conditions[i].holds(e, m.filter.EnableAdvancedFilteringOnArrays) {
			return firstCondition + i
		}
	}
	return nothingRefuses
}

func (m *Matcher) wantsType(eventType []byte) bool {
	if m.types == nil {
		return true
	}
	for _, t := range m.types {
		if equalFold(eventType, t) {
			return true
		}
	}
	return false
}

// subjectTest compares one end of the subject. An event without subject fails
// every test there is.
func (m *Matcher) subjectTest(subject, want []byte, exact, folding func(subject, want []byte) bool) bool {
	switch {
	case len(want) == 0:
		return true
	case m.filter.IsSubjectCaseSensitive:
		return exact(subject, want)
	default:
		return folding(subject, want)
	}
}

// holds reports whether the condition lets the event through.
func (c *condition) holds(e *event.Event, arrays bool) bool {
	v := c.key.find(e)
	switch {
	case c.operator == IsNotNull:
		return v.kind > event.Null
	case v.kind <= event.Null || c.operator == IsNullOrUndefined:
		return v.kind <= event.Null && c.operator.onMissing()
	case v.kind != event.Array:
		return c.hit(v) != c.operator.Negative()
	case !arrays:
		return false
	default:
		return c.hitsElement(v.raw) != c.operator.Negative()
	}
}

// hitsElement reports whether any element of the array is hit. Elements of
// another type than the operator's, null and arrays among them, are passed over.
func (c *condition) hitsElement(array []byte) bool {
	for elements := event.Walk(array); elements.Next(); {
		if c.hit(cursorValue(&elements)) {
			return true
		}
	}
	return false
}

// hit reports whether the positive relation of the operator holds between the
// value and any operand. A value of the wrong type is never hit.
func (c *condition) hit(v value) bool {
	switch c.operator.Operand() {
	case StringValues:
		var buf [256]byte
		text, ok := v.text(buf[:0])
		return ok && c.hitText(text)
	case BoolValue:
		return v.kind == c.boolean
	default:
		return v.kind == event.Number && c.hitNumber(readDecimal(v.raw))
	}
}

func (c *condition) hitText(text []byte) bool {
	switch c.operator {
	case StringContains, StringNotContains:
		var buf [512]byte
		folded := appendFolded(buf[:0], text)
		for _, s := range c.strings {
			if bytes.Contains(folded, s) {
				return true
			}
		}
		return false
	case StringBeginsWith, StringNotBeginsWith:
		for _, s := range c.strings {
			if prefixFold(text, s) {
				return true
			}
		}
		return false
	case StringEndsWith, StringNotEndsWith:
		for _, s := range c.strings {
			if suffixFold(text, s) {
				return true
			}
		}
		return false
	default:
		for _, s := range c.strings {
			if equalFold(text, s) {
				return true
			}
		}
		return false
	}
}

func (c *condition) hitNumber(d decimal) bool {
	switch c.operator {
	case NumberLessThan:
		return d.compare(c.numbers[0]) < 0
	case NumberGreaterThan:
		return d.compare(c.numbers[0]) > 0
	case NumberLessThanOrEquals:
		return d.compare(c.numbers[0]) <= 0
	case NumberGreaterThanOrEquals:
		return d.compare(c.numbers[0]) >= 0
	case NumberInRange, NumberNotInRange:
		for i := range c.ranges {
			if d.compare(c.ranges[i][0]) >= 0 && d.compare(c.ranges[i][1]) <= 0 {
				return true
			}
		}
		return false
	default:
		for _, n := range c.numbers {
			if d.compare(n) == 0 {
				return true
			}
		}
		return false
	}
}
