package filter

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
)

// Limits of one filter. Source: spec/filtering.md section 3; spec/management.md
// section 6.
const (
	MaxConditions = 25  // advanced filters
	MaxValues     = 25  // values of all advanced filters together; a range is one
	MaxCharacters = 512 // characters of any string, and of any number as written
)

// maxProblems bounds the answer to a body that is wrong all over.
const maxProblems = 100

// ParseOptions say what a filter is parsed for.
type ParseOptions struct {
	Target     string   // JSON path of the filter, e.g. "properties.filter": put before the targets of problems
	EventTypes []string // the only event types that the topic raises; nil = it may raise any

	// Strict refuses an operand that its advanced filter already holds, and an
	// advanced filter that is there already: each costs one of the 25 places, says
	// nothing, and is in practice a slip of the pen for another value or key. It is for
	// requests; what is stored already is read without.
	//
	// Numbers are the same when their decimals are equal, ranges when both ends are,
	// strings only when they are the same to the letter. Strings that differ in case
	// alone are the same to every operator and are taken nevertheless: people who do
	// not know that list both, .jpg and .JPG, and Event Grid documents no rule against
	// it. Event types named twice are taken for the same reason; they cost nothing.
	//
	// It also refuses keys with an empty name in their path, which are slips of the pen
	// too, and members that a filter does not have. Elsewhere unknown members are
	// passed over, as Azure does; a filter in which one was mistyped would let every
	// event through.
	Strict bool
}

// Parse reads a filter in the management API's form. Member names compare
// ignoring case and unknown ones are passed over; null, an empty text and absent
// members mean the default. The error is an Invalid fault that names every
// problem.
// Source: spec/filtering.md sections 1 to 3.
func Parse(raw []byte, o ParseOptions) (Filter, error) {
	if raw = bytes.Trim(raw, " \t\r\n"); len(raw) == 0 || string(raw) == "null" {
		return Filter{}, nil
	}
	p := parser{target: o.Target, strict: o.Strict}
	if err := event.Check(raw); err != nil {
		p.refuse("", "is not JSON: %v.", err)
		return Filter{}, fault.Join(p.problems...)
	}
	if event.KindOf(raw) != event.Object {
		p.refuse("", "is %s: send an object or null.", describe(raw))
		return Filter{}, fault.Join(p.problems...)
	}
	in := p.members(raw, "", "includedEventTypes", "subjectBeginsWith", "subjectEndsWith",
		"isSubjectCaseSensitive", "enableAdvancedFilteringOnArrays", "advancedFilters")
	f := Filter{
		IncludedEventTypes:              p.eventTypes(in[0], "includedEventTypes", o.EventTypes),
		SubjectBeginsWith:               p.text(in[1], "subjectBeginsWith"),
		SubjectEndsWith:                 p.text(in[2], "subjectEndsWith"),
		IsSubjectCaseSensitive:          p.flag(in[3], "isSubjectCaseSensitive"),
		EnableAdvancedFilteringOnArrays: p.flag(in[4], "enableAdvancedFilteringOnArrays"),
		AdvancedFilters:                 p.conditions(in[5], "advancedFilters"),
	}
	if err := fault.Join(p.problems...); err != nil {
		return Filter{}, err
	}
	return f, nil
}

// parser collects the problems of one filter. Its methods read a value at a path
// inside the filter; a nil value is absent and gives the zero result.
type parser struct {
	target   string
	strict   bool
	problems []*fault.Error
	values   int          // operands seen in all conditions
	tooMany  *fault.Error // where they became too many
}

// refuse records a problem. The message begins with the path.
func (p *parser) refuse(path, format string, args ...any) {
	if len(p.problems) == maxProblems {
		return
	}
	target, name := p.target, path
	switch {
	case path == "":
		name = "filter"
	case target == "":
		target = path
	default:
		target += "." + path
	}
	p.problems = append(p.problems, fault.Field(target, "%s "+format, append([]any{name}, args...)...))
}

// members returns the values of the named members, nil for those absent or null.
func (p *parser) members(object []byte, path string, names ...string) [][]byte {
	values := make([][]byte, len(names))
	seen := make([]bool, len(names))
	for c := event.Walk(object); c.Next(); {
		key := string(event.AppendUnquoted(nil, c.Key))
		i := slices.IndexFunc(names, func(name string) bool { return strings.EqualFold(name, key) })
		switch {
		case i < 0 && p.strict:
			p.refuse(join(path, shorten(key)), "is not known here: use %s.", strings.Join(names, ", "))
		case i < 0:
		case seen[i]:
			p.refuse(join(path, names[i]), "is given twice: send it once.")
		default:
			seen[i] = true
			if c.Kind != event.Null {
				values[i] = c.Value
			}
		}
	}
	return values
}

func join(path, member string) string {
	if path == "" {
		return member
	}
	return path + "." + member
}

func (p *parser) flag(raw []byte, path string) bool {
	switch event.KindOf(raw) {
	case event.None, event.False:
	case event.True:
		return true
	default:
		p.refuse(path, "is %s: send true or false.", describe(raw))
	}
	return false
}

func (p *parser) text(raw []byte, path string) string {
	if raw == nil {
		return ""
	}
	if event.KindOf(raw) != event.String {
		p.refuse(path, "is %s: send a string.", describe(raw))
		return ""
	}
	text := unquote(raw)
	if n := utf8.RuneCountInString(text); n > MaxCharacters {
		p.refuse(path, "has %d characters: at most %d are allowed.", n, MaxCharacters)
	}
	return text
}

// list calls each for every element of a list.
func (p *parser) list(raw []byte, path string, each func(i int, element []byte)) {
	if event.KindOf(raw) != event.Array {
		p.refuse(path, "is %s: send a list.", describe(raw))
		return
	}
	i := 0
	for c := event.Walk(raw); c.Next(); i++ {
		each(i, c.Value)
	}
}

// eventTypes reads the included event types; nil stands for all of them.
func (p *parser) eventTypes(raw []byte, path string, known []string) []string {
	if raw == nil {
		return nil
	}
	var types []string
	all := false
	p.list(raw, path, func(i int, element []byte) {
		at := fmt.Sprintf("%s[%d]", path, i)
		before := len(p.problems)
		name := p.text(element, at)
		switch {
		case len(p.problems) > before:
		case name == "":
			p.refuse(at, "is empty: name an event type.")
		case strings.EqualFold(name, everyType):
			all = true
		case known != nil && !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }):
			p.refuse(at, "is %s, an event type that this topic does not raise: use %q, or some of %s.",
				quote(name), everyType, strings.Join(known, ", "))
		default:
			types = append(types, name)
		}
	})
	if all {
		return nil
	}
	return types
}

func (p *parser) conditions(raw []byte, path string) []Condition {
	if raw == nil {
		return nil
	}
	var out []Condition
	count := 0
	p.list(raw, path, func(i int, element []byte) {
		if count++; i < MaxConditions {
			at, before := fmt.Sprintf("%s[%d]", path, i), len(p.problems)
			c := p.condition(element, at)
			if len(p.problems) > before {
				c = Condition{} // it holds a place, and is the same as none
			} else if first := slices.IndexFunc(out, c.same); p.strict && first >= 0 {
				p.refuse(at, "is the same advanced filter as %s[%d]: leave one of them out.", path, first)
			}
			out = append(out, c)
		}
	})
	p.counted()
	if count > MaxConditions {
		p.refuse(path, "holds %d advanced filters: at most %d are allowed, so %s[%d] and what follows it must go.",
			count, MaxConditions, path, MaxConditions)
	}
	return out
}

func (p *parser) condition(raw []byte, path string) Condition {
	if event.KindOf(raw) != event.Object {
		p.refuse(path, "is %s: send an object with operatorType, key, and value or values.", describe(raw))
		return Condition{}
	}
	in := p.members(raw, path, "operatorType", "key", "value", "values")
	c := Condition{Operator: p.operator(in[0], path+".operatorType"), Key: p.key(in[1], path+".key")}
	if c.Operator == 0 {
		return c // what its operands should be is unknown
	}
	operand := c.Operator.Operand()
	value, values := in[2], in[3]
	switch member := operand.Member(); {
	case member != "value" && value != nil:
		p.wrongMember(path, "value", c.Operator)
	case member != "values" && values != nil:
		p.wrongMember(path, "values", c.Operator)
	case member == "value":
		p.value(value, path+".value", &c)
	case member == "values":
		p.valueList(values, path+".values", &c)
	}
	return c
}

func (p *parser) operator(raw []byte, path string) Operator {
	switch event.KindOf(raw) {
	case event.None:
		p.refuse(path, "is missing: use one of %s.", operatorList())
	case event.String:
		op, err := ParseOperator(unquote(raw))
		if err == nil {
			return op
		}
		p.refuse(path, "is %s, which is no operator: use one of %s.", quote(unquote(raw)), operatorList())
	default:
		p.refuse(path, "is %s: use one of %s.", describe(raw), operatorList())
	}
	return 0
}

func (p *parser) key(raw []byte, path string) string {
	before := len(p.problems)
	key := p.text(raw, path)
	switch {
	case len(p.problems) > before:
	case key == "":
		p.refuse(path, `is missing or empty: name an attribute, or a path into data such as "data.key1".`)
	case p.strict && slices.Contains(strings.Split(key, "."), ""):
		p.refuse(path, `is %s, where a name before, behind or between dots is empty: write a path such as "data.key1".`, quote(key))
	}
	return key
}

func (p *parser) wrongMember(path, given string, op Operator) {
	if member := op.Operand().Member(); member != "" {
		p.refuse(path+"."+given, "does not go with %s: send %s (%s).", op, member, op.Operand())
	} else {
		p.refuse(path+"."+given, "does not go with %s, which takes neither value nor values: leave it out.", op)
	}
}

// value reads the operand of a single-value operator.
func (p *parser) value(raw []byte, path string, c *Condition) {
	kind := event.KindOf(raw)
	switch {
	case kind == event.None:
		p.refuse(path, "is missing or null: %s takes %s.", c.Operator, c.Operator.Operand())
		return
	case c.Operator == BoolEquals && (kind == event.True || kind == event.False):
		c.Bool = kind == event.True
	case c.Operator != BoolEquals && kind == event.Number:
		c.Numbers = []Number{p.number(raw, path)}
	default:
		p.refuse(path, "is %s: %s takes %s.", describe(raw), c.Operator, c.Operator.Operand())
	}
	p.count(1, path)
}

// valueList reads the operands of an operator that takes several.
func (p *parser) valueList(raw []byte, path string, c *Condition) {
	if raw == nil {
		p.refuse(path, "is missing or null: %s takes a list of %s.", c.Operator, c.Operator.Operand())
		return
	}
	n := 0
	before := len(p.problems)
	p.list(raw, path, func(i int, element []byte) {
		n++
		at := fmt.Sprintf("%s[%d]", path, i)
		kind := event.KindOf(element)
		switch operand := c.Operator.Operand(); {
		case operand == StringValues && kind == event.String:
			c.Strings = append(c.Strings, p.text(element, at))
		case operand == NumberValues && kind == event.Number:
			c.Numbers = append(c.Numbers, p.number(element, at))
		case operand == RangeValues && kind == event.Array:
			c.Ranges = append(c.Ranges, p.pair(element, at, c.Operator))
		default:
			p.refuse(at, "is %s: %s takes %s.", describe(element), c.Operator, operand)
		}
	})
	if n == 0 && len(p.problems) == before {
		p.refuse(path, "is empty: %s needs at least one value.", c.Operator)
	}
	if len(p.problems) == before && p.strict {
		p.repeats(c, path)
	}
	p.count(n, path)
}

// repeats refuses operands that stand further up in their list.
func (p *parser) repeats(c *Condition, path string) {
	for i := range max(len(c.Strings), len(c.Numbers), len(c.Ranges)) {
		if first := c.firstLike(i); first < i {
			p.refuse(fmt.Sprintf("%s[%d]", path, i), "is the same value as %s[%d]: %s takes each value once.", path, first, c.Operator)
		}
	}
}

// firstLike returns where the first operand stands that is the same as the one at i.
func (c *Condition) firstLike(i int) int {
	switch c.Operator.Operand() {
	case StringValues:
		return slices.Index(c.Strings, c.Strings[i])
	case NumberValues:
		return slices.IndexFunc(c.Numbers, c.Numbers[i].equal)
	default:
		return slices.IndexFunc(c.Ranges, func(r [2]Number) bool { return equalRanges(r, c.Ranges[i]) })
	}
}

// same reports whether two advanced filters are one: the operator, the key to the
// letter, since members that differ in case are different members, and the operands
// in order.
func (c *Condition) same(o Condition) bool {
	return c.Operator == o.Operator && c.Key == o.Key && c.Bool == o.Bool &&
		slices.Equal(c.Strings, o.Strings) && slices.EqualFunc(c.Numbers, o.Numbers, Number.equal) && slices.EqualFunc(c.Ranges, o.Ranges, equalRanges)
}

func (n Number) equal(o Number) bool {
	return readDecimal([]byte(n)).compare(readDecimal([]byte(o))) == 0
}

func equalRanges(a, b [2]Number) bool { return a[0].equal(b[0]) && a[1].equal(b[1]) }

// count adds operands and refuses those that make them too many, once.
func (p *parser) count(n int, path string) {
	before := p.values
	p.values += n
	if before <= MaxValues && p.values > MaxValues && len(p.problems) < maxProblems {
		p.refuse(path, "goes over the limit: ")
		p.tooMany = p.problems[len(p.problems)-1]
	}
}

// counted says how many operands there are, if they are too many and all counted.
func (p *parser) counted() {
	if p.tooMany != nil {
		p.tooMany.Message += fmt.Sprintf("all advanced filters together hold %d values, at most %d are allowed, a range counting as one.", p.values, MaxValues)
	}
}

func (p *parser) number(raw []byte, path string) Number {
	text := raw
	if text[0] == '-' {
		text = text[1:]
	}
	if _, exponent := cutExponent(text); exponent > maxExponent || exponent < -maxExponent {
		p.refuse(path, "is %s: exponents beyond ±%d are not taken.", describe(raw), maxExponent)
	} else if len(raw) > MaxCharacters {
		p.refuse(path, "has %d characters: at most %d are allowed.", len(raw), MaxCharacters)
	}
	return Number(raw)
}

func (p *parser) pair(raw []byte, path string, op Operator) (pair [2]Number) {
	before := len(p.problems)
	n := 0
	p.list(raw, path, func(i int, element []byte) {
		switch n++; {
		case i >= len(pair):
		case event.KindOf(element) == event.Number:
			pair[i] = p.number(element, fmt.Sprintf("%s[%d]", path, i))
		default:
			p.refuse(fmt.Sprintf("%s[%d]", path, i), "is %s: the ends of a range are numbers.", describe(element))
		}
	})
	switch {
	case n != len(pair):
		p.refuse(path, "is a list of %d: %s takes %s.", n, op, op.Operand())
	case len(p.problems) > before:
	case readDecimal([]byte(pair[0])).compare(readDecimal([]byte(pair[1]))) > 0:
		p.refuse(path, "has its low end %s above its high end %s: swap them.", shorten(string(pair[0])), shorten(string(pair[1])))
	}
	return pair
}

func unquote(raw []byte) string { return string(event.AppendUnquoted(nil, raw[1:len(raw)-1])) }

// describe names a JSON value for an error message or an explanation.
func describe(raw []byte) string {
	switch event.KindOf(raw) {
	case event.Null:
		return "null"
	case event.True, event.False:
		return string(raw)
	case event.Number:
		return "the number " + shorten(string(raw))
	case event.String:
		return "the string " + quote(unquote(raw))
	case event.Array:
		return "a list"
	default:
		return "an object"
	}
}

// quote returns text in quotes, cut to a length that fits into a message.
func quote(text string) string { return fmt.Sprintf("%q", shorten(text)) }

// shownCharacters is how much of a value a message shows.
const shownCharacters = 80

func shorten(text string) string {
	n := 0
	for i := range text {
		if n == shownCharacters {
			return text[:i] + "…"
		}
		n++
	}
	return text
}
