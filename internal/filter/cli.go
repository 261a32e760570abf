package filter

import (
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// ParseCLI reads the arguments of one --advanced-filter: KEY OPERATOR VALUE…,
// and returns the advanced filter as the management API takes it. The operator
// compares ignoring case; ranges are written low,high; the null operators take no
// VALUE. A value may stand in quotes, in parentheses, or in both, as guides write
// it, ('value1'); inside quotes nothing more is taken off. The limits are left to
// the server.
// Source: spec/filtering.md section 7.
func ParseCLI(args []string) ([]byte, error) {
	if len(args) < 2 {
		return nil, fault.Field(cliFlag, "%s needs KEY OPERATOR VALUE…, for example: %s data.runStatus StringIn Failed.", cliFlag, cliFlag)
	}
	c := Condition{Key: undecorate(args[0])}
	if c.Key == "" {
		return nil, fault.Field(cliFlag, "%s: the key is empty; name an attribute or a path such as data.runStatus.", cliFlag)
	}
	var err error
	if c.Operator, err = ParseOperator(args[1]); err != nil {
		return nil, fault.Field(cliFlag, "%s %s: %v.", cliFlag, shorten(c.Key), err)
	}
	if err := c.setCLIValues(args[2:]); err != nil {
		return nil, err
	}
	return appendCondition(nil, c), nil
}

const cliFlag = "--advanced-filter"

func (c *Condition) setCLIValues(values []string) error {
	refuse := func(format string, args ...any) error {
		return fault.Field(cliFlag, "%s %s %s: "+format+".", append([]any{cliFlag, shorten(c.Key), c.Operator}, args...)...)
	}
	operand := c.Operator.Operand()
	switch n := len(values); {
	case operand == NoOperand && n > 0:
		return refuse("takes no value, %d given", n)
	case operand.Member() == "value" && n != 1:
		return refuse("takes exactly one value, %d given", n)
	case operand.Member() == "values" && n == 0:
		return refuse("needs at least one value")
	}
	for _, v := range values {
		v = undecorate(v)
		switch operand {
		case StringValues:
			c.Strings = append(c.Strings, v)
		case BoolValue:
			c.Bool = strings.EqualFold(v, "true")
			if !c.Bool && !strings.EqualFold(v, "false") {
				return refuse("%s is neither true nor false", quote(v))
			}
		case RangeValues:
			low, high, _ := strings.Cut(v, ",")
			pair := [2]Number{cliNumber(low), cliNumber(high)}
			if pair[0] == "" || pair[1] == "" {
				return refuse("%s is not a range; write two numbers as low,high, for example 0.1,0.2", quote(v))
			}
			c.Ranges = append(c.Ranges, pair)
		default:
			n := cliNumber(v)
			if n == "" {
				return refuse("%s is not a number; write it like 5, -0.25 or 1e3", quote(v))
			}
			c.Numbers = append(c.Numbers, n)
		}
	}
	return nil
}

// cliNumber returns the JSON form of a number as people type it, which may have
// a plus sign or begin with its point; "" if it is no number.
func cliNumber(text string) Number {
	text = strings.TrimSpace(text)
	sign := ""
	switch {
	case strings.HasPrefix(text, "-"):
		sign, text = "-", text[1:]
	case strings.HasPrefix(text, "+"):
		text = text[1:]
	}
	if strings.HasPrefix(text, ".") {
		text = "0" + text
	}
	if n := Number(sign + text); n.valid() {
		return n
	}
	return ""
}

// undecorate takes parentheses and then quotes off a value.
func undecorate(v string) string {
	if n := len(v); n >= 2 && v[0] == '(' && v[n-1] == ')' {
		v = v[1 : n-1]
	}
	if n := len(v); n >= 2 && (v[0] == '\'' || v[0] == '"') && v[n-1] == v[0] {
		v = v[1 : n-1]
	}
	return v
}
