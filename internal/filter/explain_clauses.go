package filter

import (
	"fmt"

	"github.com/carillon-events/carillon/event"
)

// Verdict is what one clause of a filter makes of an event.
type Verdict string

// The verdicts.
const (
	Passed  Verdict = "passed"
	Refused Verdict = "refused"
	NotSet  Verdict = "notSet" // the clause asks nothing: every event passes it
)

// Clause is one clause of a filter and what it makes of one event. An event is
// wanted when no clause refuses it.
type Clause struct {
	Clause   string  `json:"clause"`                 // where it stands in the filter, such as "advancedFilters[1]"
	Key      string  `json:"key,omitempty"`          // of an advanced filter, as written; else the attribute it looks at
	Operator string  `json:"operatorType,omitempty"` // of an advanced filter
	Asks     string  `json:"asks,omitempty"`         // in words, such as data.stage StringIn "production"
	Result   Verdict `json:"result"`
	Found    string  `json:"found"` // JSON type of what the key found: missing, null, boolean, number, string, array, object
	Saw      string  `json:"saw"`   // what the key found, in words, and why it did not do where that is not plain
	Text     string  `json:"text"`  // all of it as one sentence
}

// Clauses gives the verdict of every clause on an event, in the order in which
// Match asks them, also of those that Match would not get to. It is for people:
// it compiles each clause as a filter of its own and costs accordingly.
func (m *Matcher) Clauses(e *event.Event) []Clause {
	f := &m.filter
	out := []Clause{m.typeClause(e), m.subjectClause(e, "subjectBeginsWith", "begin", f.SubjectBeginsWith), m.subjectClause(e, "subjectEndsWith", "end", f.SubjectEndsWith)}
	for i := range f.AdvancedFilters {
		out = append(out, m.conditionClause(e, i))
	}
	return out
}

// judge asks a filter that holds one clause only.
func judge(one Filter, e *event.Event) Verdict {
	if Compile(&one).Match(e) {
		return Passed
	}
	return Refused
}

func (m *Matcher) typeClause(e *event.Event) Clause {
	types := m.filter.IncludedEventTypes
	c := Clause{Clause: "includedEventTypes", Key: "eventType", Result: NotSet}
	c.Found, c.Saw = seenText(e.Type)
	if e.Schema == event.CloudEventSchemaV1_0 {
		c.Key = "type"
	}
	if m.types == nil {
		c.Text = "includedEventTypes is not set: every event type passes"
		return c
	}
	c.Asks = "one of " + enumerate(quoted(types))
	verb := "is"
	if c.Result = judge(Filter{IncludedEventTypes: types}, e); c.Result == Refused {
		verb = "is not"
	}
	c.Text = fmt.Sprintf("includedEventTypes: the event type %s %s %s", quote(string(e.Type)), verb, c.Asks)
	return c
}

func (m *Matcher) subjectClause(e *event.Event, clause, verb, want string) Clause {
	c := Clause{Clause: clause, Key: "subject", Result: NotSet}
	c.Found, c.Saw = seenText(e.Subject)
	if want == "" {
		c.Text = clause + " is not set: every subject passes"
		return c
	}
	one := Filter{IsSubjectCaseSensitive: m.filter.IsSubjectCaseSensitive}
	letters := "ignoring case"
	if one.IsSubjectCaseSensitive {
		letters = "in exactly these letters"
	}
	if verb == "begin" {
		one.SubjectBeginsWith = want
	} else {
		one.SubjectEndsWith = want
	}
	c.Asks = fmt.Sprintf("%ss with %s (%s)", verb, quote(want), letters)
	if c.Result = judge(one, e); c.Result == Passed {
		c.Text = fmt.Sprintf("%s: the subject %s %s", clause, quote(string(e.Subject)), c.Asks)
	} else {
		c.Text = m.explainSubject(e, clause, verb, want)
	}
	return c
}

func (m *Matcher) conditionClause(e *event.Event, i int) Clause {
	f := &m.filter.AdvancedFilters[i]
	v := m.conditions[i].key.find(e)
	c := Clause{
		Clause: fmt.Sprintf("advancedFilters[%d]", i), Key: f.Key, Operator: f.Operator.String(), Asks: shorten(f.Key) + " " + f.Operator.String(),
		Result: judge(Filter{AdvancedFilters: []Condition{*f}, EnableAdvancedFilteringOnArrays: m.filter.EnableAdvancedFilteringOnArrays}, e),
		Found:  typeName(v.kind), Saw: m.explainValue(v, f.Operator.Operand()),
	}
	if operands := f.operands(); len(operands) > 0 {
		c.Asks += " " + enumerate(operands)
	}
	// Which way a missing value goes is the operator's own and surprises: the
	// negative operators are split. Source: spec/filtering.md section 5, rule 2.
	if v.kind <= event.Null && f.Operator.Operand() != NoOperand {
		verb := "does not pass"
		if c.Result == Passed {
			verb = "passes"
		}
		c.Saw += fmt.Sprintf(", which %s %s", verb, f.Operator)
	}
	c.Text = fmt.Sprintf("%s: %s: %s was %s", c.Clause, c.Asks, shorten(f.Key), c.Saw)
	return c
}

// seenText tells of an attribute; nil is one that the event does not have.
func seenText(text []byte) (found, saw string) {
	if text == nil {
		return "missing", "missing"
	}
	return "string", "the string " + quote(string(text))
}

// typeName is the JSON type of a value, as schemas call it.
func typeName(k event.Kind) string {
	switch k {
	case event.None:
		return "missing"
	case event.Null:
		return "null"
	case event.True, event.False:
		return "boolean"
	case event.Number:
		return "number"
	case event.String:
		return "string"
	case event.Array:
		return "array"
	default:
		return "object"
	}
}
