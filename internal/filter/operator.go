package filter

import (
	"fmt"
	"strings"
)

// Operator is one of the 19 operators.
type Operator uint8

// The operators. Positive ones hold when the value of the key hits one of the
// operands; each Not operator holds when it hits none.
// Source: spec/filtering.md section 2.
const (
	NumberIn Operator = 1 + iota
	NumberNotIn
	NumberLessThan
	NumberGreaterThan
	NumberLessThanOrEquals
	NumberGreaterThanOrEquals
	NumberInRange
	NumberNotInRange
	BoolEquals
	StringIn
	StringNotIn
	StringBeginsWith
	StringNotBeginsWith
	StringEndsWith
	StringNotEndsWith
	StringContains
	StringNotContains
	IsNullOrUndefined
	IsNotNull
)

var operatorNames = [...]string{
	NumberIn:                  "NumberIn",
	NumberNotIn:               "NumberNotIn",
	NumberLessThan:            "NumberLessThan",
	NumberGreaterThan:         "NumberGreaterThan",
	NumberLessThanOrEquals:    "NumberLessThanOrEquals",
	NumberGreaterThanOrEquals: "NumberGreaterThanOrEquals",
	NumberInRange:             "NumberInRange",
	NumberNotInRange:          "NumberNotInRange",
	BoolEquals:                "BoolEquals",
	StringIn:                  "StringIn",
	StringNotIn:               "StringNotIn",
	StringBeginsWith:          "StringBeginsWith",
	StringNotBeginsWith:       "StringNotBeginsWith",
	StringEndsWith:            "StringEndsWith",
	StringNotEndsWith:         "StringNotEndsWith",
	StringContains:            "StringContains",
	StringNotContains:         "StringNotContains",
	IsNullOrUndefined:         "IsNullOrUndefined",
	IsNotNull:                 "IsNotNull",
}

// Operators returns all operators in the order of their constants.
func Operators() []Operator {
	all := make([]Operator, 0, IsNotNull)
	for op := NumberIn; op <= IsNotNull; op++ {
		all = append(all, op)
	}
	return all
}

// String returns the operatorType as the management API spells it.
func (op Operator) String() string {
	if op < NumberIn || op > IsNotNull {
		return fmt.Sprintf("Operator(%d)", uint8(op))
	}
	return operatorNames[op]
}

// ParseOperator returns the operator of a name, ignoring case. The error lists
// all of them.
func ParseOperator(name string) (Operator, error) {
	for op := NumberIn; op <= IsNotNull; op++ {
		if strings.EqualFold(name, operatorNames[op]) {
			return op, nil
		}
	}
	return 0, fmt.Errorf("operator %s is not known: use one of %s", quote(name), operatorList())
}

func operatorList() string { return strings.Join(operatorNames[NumberIn:], ", ") }

// Operand is what an operator compares with: the JSON member that holds it and
// the type of its values.
type Operand uint8

// The operands.
const (
	NoOperand    Operand = iota // the null operators
	NumberValue                 // value: a number
	BoolValue                   // value: true or false
	NumberValues                // values: numbers
	RangeValues                 // values: pairs [low, high]
	StringValues                // values: strings
)

// Operand returns what op compares with.
func (op Operator) Operand() Operand {
	switch op {
	case NumberIn, NumberNotIn:
		return NumberValues
	case NumberLessThan, NumberGreaterThan, NumberLessThanOrEquals, NumberGreaterThanOrEquals:
		return NumberValue
	case NumberInRange, NumberNotInRange:
		return RangeValues
	case BoolEquals:
		return BoolValue
	case StringIn, StringNotIn, StringBeginsWith, StringNotBeginsWith,
		StringEndsWith, StringNotEndsWith, StringContains, StringNotContains:
		return StringValues
	default:
		return NoOperand
	}
}

// Member returns the JSON member that holds the operand: "value", "values", or
// "" for the null operators.
func (o Operand) Member() string {
	switch o {
	case NumberValue, BoolValue:
		return "value"
	case NumberValues, RangeValues, StringValues:
		return "values"
	default:
		return ""
	}
}

// String says in words what the values of the operand are.
func (o Operand) String() string {
	switch o {
	case NumberValue:
		return "a number"
	case BoolValue:
		return "true or false"
	case NumberValues:
		return "numbers"
	case RangeValues:
		return "pairs of numbers [low, high]"
	case StringValues:
		return "strings"
	default:
		return "nothing"
	}
}

// Negative reports whether op holds when no operand is hit.
func (op Operator) Negative() bool {
	switch op {
	case NumberNotIn, NumberNotInRange, StringNotIn, StringNotBeginsWith, StringNotEndsWith, StringNotContains:
		return true
	default:
		return false
	}
}

// onMissing is op's verdict when the key is missing or null. The negative
// operators are split: that is documented, not an oversight.
// Source: spec/filtering.md section 5, rule 2.
func (op Operator) onMissing() bool {
	switch op {
	case NumberNotIn, NumberNotInRange, StringNotIn, IsNullOrUndefined:
		return true
	default:
		return false
	}
}
