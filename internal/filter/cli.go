package filter

import (
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// ParseCLI reads the arguments of one --advanced-filter: KEY OPERATOR VALUE…,
// and returns the advanced filter as the management API takes it. The operator
// compares ignoring case; ranges are written low,high; the null operators take no
// VALUE. The limits are left to the server.
//
// Values may be written as guides do, ('value1') or ('value1', 'value2'), and come
// here as the shell left them: whole, without the quotes, without the parentheses,
// parted at the blanks. Parentheses around all values or around one are taken off,
// then quotes around each; inside quotes nothing more is. So '(beta)' with its
// quotes is how a value that has parentheses is written, and '-5' one that would
// pass for a flag.
// Source: spec/filtering.md section 7.
func ParseCLI(args []string) ([]byte, error) {
	if len(args) < 2 {
		found := ""
		if len(args) == 1 {
			found = ", found " + quote(args[0]) + " only"
		}
		return nil, fault.Field(cliFlag, "%s needs KEY OPERATOR VALUE…%s. For example: %s data.runStatus StringIn Failed.", cliFlag, found, cliFlag)
	}
	c := Condition{Key: unquoteCLI(unwrap(args[0]))}
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
	values = valuesCLI(values)
	switch n := len(values); {
	case operand == NoOperand && n > 0:
		return refuse("takes no value, %d given: leave out %s", n, quote(strings.Join(values, " ")))
	case operand.Member() == "value" && n > 1:
		return refuse("takes one value, %d given: leave out all but one of %s", n, quote(strings.Join(values, " ")))
	case operand != NoOperand && n == 0:
		return refuse("needs a value: write %s behind the operator", operand)
	}
	for _, v := range values {
		switch operand {
		case StringValues:
			c.Strings = append(c.Strings, v)
		case BoolValue:
			c.Bool = strings.EqualFold(v, "true")
			if !c.Bool && !strings.EqualFold(v, "false") {
				return refuse("%s is neither true nor false: write one of them", quote(v))
			}
		case RangeValues:
			low, high, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v, "["), "]"), ",") // [low,high] is how JSON has it
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

// valuesCLI returns the values that the words of a command line stand for.
func valuesCLI(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	first, last := words[0], words[len(words)-1]
	if len(words) > 1 && strings.HasPrefix(first, "(") && !strings.HasSuffix(first, ")") && strings.HasSuffix(last, ")") {
		// One list in parentheses, which the shell parted at the blanks.
		if list := quotedList(unwrap(strings.Join(words, " "))); list != nil {
			return list
		}
		parted := append([]string(nil), words...)
		parted[0], parted[len(parted)-1] = first[1:], last[:len(last)-1]
		for i, w := range parted {
			parted[i] = unquoteCLI(strings.TrimSuffix(w, ","))
		}
		return parted
	}
	var values []string
	for _, w := range words {
		w = unwrap(w)
		if list := quotedList(w); list != nil {
			values = append(values, list...)
		} else {
			values = append(values, unquoteCLI(w))
		}
	}
	return values
}

// quotedList reads values in quotes, parted by commas; nil if text is not that.
func quotedList(text string) (list []string) {
	for {
		text = strings.TrimSpace(text)
		if len(text) < 2 || text[0] != '\'' && text[0] != '"' {
			return nil
		}
		end := strings.IndexByte(text[1:], text[0])
		if end < 0 {
			return nil
		}
		list = append(list, text[1:1+end])
		if text = strings.TrimSpace(text[end+2:]); text == "" {
			return list
		}
		if text[0] != ',' {
			return nil
		}
		text = text[1:]
	}
}

// unwrap takes parentheses off.
func unwrap(text string) string {
	if n := len(text); n >= 2 && text[0] == '(' && text[n-1] == ')' {
		return text[1 : n-1]
	}
	return text
}

// unquoteCLI takes quotes off.
func unquoteCLI(text string) string {
	if n := len(text); n >= 2 && (text[0] == '\'' || text[0] == '"') && text[n-1] == text[0] {
		return text[1 : n-1]
	}
	return text
}
