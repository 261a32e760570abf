package filter

import (
	"fmt"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// Explain says whether the event is wanted and, if it is not, which clause was
// the first to refuse it: the clause, what it asks for, and what the event had.
func (m *Matcher) Explain(e *event.Event) (ok bool, reason string) {
	f := &m.filter
	switch clause := m.refusal(e); clause {
	case nothingRefuses:
		return true, ""
	case typeRefuses:
		return false, fmt.Sprintf("includedEventTypes: the event type %s is none of %s",
			quote(string(e.Type)), enumerate(quoted(f.IncludedEventTypes)))
	case beginsRefuses:
		return false, m.explainSubject(e, "subjectBeginsWith", "begin", f.SubjectBeginsWith)
	case endsRefuses:
		return false, m.explainSubject(e, "subjectEndsWith", "end", f.SubjectEndsWith)
	default:
		i := clause - firstCondition
		return false, m.explainCondition(e, i)
	}
}

func (m *Matcher) explainSubject(e *event.Event, clause, verb, want string) string {
	if e.Subject == nil {
		return fmt.Sprintf("%s: the event has no subject, it should %s with %s", clause, verb, quote(want))
	}
	letters := "ignoring case"
	if m.filter.IsSubjectCaseSensitive {
		letters = "in exactly these letters"
	}
	return fmt.Sprintf("%s: the subject %s does not %s with %s (%s)", clause, quote(string(e.Subject)), verb, quote(want), letters)
}

// explainCondition reads like
// "advancedFilters[1]: data.runType StringIn "automl": data.runType was missing".
func (m *Matcher) explainCondition(e *event.Event, i int) string {
	c := &m.filter.AdvancedFilters[i]
	key := shorten(c.Key)
	clause := fmt.Sprintf("advancedFilters[%d]: %s %s", i, key, c.Operator)
	if operands := c.operands(); len(operands) > 0 {
		clause += " " + enumerate(operands)
	}
	v := m.conditions[i].key.find(e)
	return fmt.Sprintf("%s: %s was %s", clause, key, m.explainValue(v, c.Operator.Operand()))
}

// explainValue says what a refused key held and, where that is not plain, why it
// did not do.
func (m *Matcher) explainValue(v value, operand Operand) string {
	_, isText := v.text(nil)
	fits := operand == NoOperand ||
		operand == StringValues && isText ||
		operand == BoolValue && (v.kind == event.True || v.kind == event.False) ||
		operand != StringValues && operand != BoolValue && v.kind == event.Number
	switch {
	case v.kind == event.None:
		return "missing"
	case v.kind == event.Null:
		return "null"
	case v.kind == event.Array && operand != NoOperand && !m.filter.EnableAdvancedFilteringOnArrays:
		return "a list, and enableAdvancedFilteringOnArrays is off"
	case v.kind == event.Array:
		return "the list " + shorten(string(v.raw))
	case fits:
		return v.describe()
	default:
		return fmt.Sprintf("%s, and the operator takes %s without conversion", v.describe(), operand)
	}
}

// describe names the value; unlike the function describe it knows strings
// without their quotes.
func (v value) describe() string {
	if text, ok := v.text(nil); ok && v.kind == event.String {
		return "the string " + quote(string(text))
	}
	return describe(v.raw)
}

// operands returns the condition's operands as they are shown.
func (c *Condition) operands() []string {
	switch c.Operator.Operand() {
	case StringValues:
		return quoted(c.Strings)
	case BoolValue:
		return []string{fmt.Sprint(c.Bool)}
	case NumberValue, NumberValues:
		var out []string
		for _, n := range c.Numbers {
			out = append(out, shorten(string(n)))
		}
		return out
	case RangeValues:
		var out []string
		for _, r := range c.Ranges {
			out = append(out, "["+shorten(string(r[0]))+", "+shorten(string(r[1]))+"]")
		}
		return out
	default:
		return nil
	}
}

func quoted(texts []string) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = quote(t)
	}
	return out
}

// shownItems is how many items of a list an explanation shows.
const shownItems = 25

func enumerate(items []string) string {
	if more := len(items) - shownItems; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(items[:shownItems], ", "), more)
	}
	return strings.Join(items, ", ")
}
