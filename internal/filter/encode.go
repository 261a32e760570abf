package filter

import (
	"fmt"
	"strconv"

	"github.com/carillon-events/carillon/event"
)

// MarshalJSON writes the filter as the management API answers it, which is also
// how it is stored: the subject tests and enableAdvancedFilteringOnArrays always, the
// others only when set. Terraform reads an advancedFilters that is null as a filter
// that is there and empty, and wants to remove it each time.
// Source: spec/management.md section 5.5.
func (f Filter) MarshalJSON() ([]byte, error) {
	b := append([]byte(nil), `{"subjectBeginsWith":`...)
	b = event.AppendQuoted(b, f.SubjectBeginsWith)
	b = append(b, `,"subjectEndsWith":`...)
	b = event.AppendQuoted(b, f.SubjectEndsWith)
	if f.IsSubjectCaseSensitive {
		b = append(b, `,"isSubjectCaseSensitive":true`...)
	}
	if len(f.IncludedEventTypes) > 0 {
		b = append(b, `,"includedEventTypes":`...)
		b = appendList(b, f.IncludedEventTypes, event.AppendQuoted[string])
	}
	if len(f.AdvancedFilters) > 0 {
		for i := range f.AdvancedFilters {
			if err := f.AdvancedFilters[i].check(); err != nil {
				return nil, fmt.Errorf("encode advancedFilters[%d]: %w", i, err)
			}
		}
		b = append(b, `,"advancedFilters":`...)
		b = appendList(b, f.AdvancedFilters, appendCondition)
	}
	b = append(b, `,"enableAdvancedFilteringOnArrays":`...)
	b = strconv.AppendBool(b, f.EnableAdvancedFilteringOnArrays)
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON writes, and every other filter that Parse
// takes.
func (f *Filter) UnmarshalJSON(raw []byte) error {
	parsed, err := Parse(raw, ParseOptions{Target: "filter"})
	if err != nil {
		return err
	}
	*f = parsed
	return nil
}

// check refuses a condition that has no JSON form.
func (c *Condition) check() error {
	if c.Operator < NumberIn || c.Operator > IsNotNull {
		return fmt.Errorf("%s is not an operator", c.Operator)
	}
	if c.Operator.Operand() == NumberValue && len(c.Numbers) != 1 {
		return fmt.Errorf("%s has %d values, not one", c.Operator, len(c.Numbers))
	}
	numbers := c.Numbers
	for _, r := range c.Ranges {
		numbers = append(numbers[:len(numbers):len(numbers)], r[0], r[1])
	}
	for _, n := range numbers {
		if !n.valid() {
			return fmt.Errorf("%q is not a JSON number", string(n))
		}
	}
	return nil
}

// valid reports whether n is the text of one JSON number and nothing else.
func (n Number) valid() bool {
	return event.KindOf([]byte(n)) == event.Number && event.Check([]byte(n)) == nil && n[len(n)-1] > ' '
}

func appendCondition(b []byte, c Condition) []byte {
	b = append(b, `{"operatorType":"`...)
	b = append(b, c.Operator.String()...)
	b = append(b, `","key":`...)
	b = event.AppendQuoted(b, c.Key)
	if member := c.Operator.Operand().Member(); member != "" {
		b = append(b, `,"`...)
		b = append(b, member...)
		b = append(b, `":`...)
	}
	switch c.Operator.Operand() {
	case NumberValue:
		b = appendNumber(b, c.Numbers[0])
	case BoolValue:
		b = strconv.AppendBool(b, c.Bool)
	case NumberValues:
		b = appendList(b, c.Numbers, appendNumber)
	case RangeValues:
		b = appendList(b, c.Ranges, func(b []byte, r [2]Number) []byte { return appendList(b, r[:], appendNumber) })
	case StringValues:
		b = appendList(b, c.Strings, event.AppendQuoted[string])
	}
	return append(b, '}')
}

func appendNumber(b []byte, n Number) []byte { return append(b, n...) }

func appendList[T any](b []byte, list []T, one func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(b, v)
	}
	return append(b, ']')
}
