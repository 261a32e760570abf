package filter

import (
	"strings"
	"testing"
)

func TestOperatorNames(t *testing.T) {
	if n := len(Operators()); n != 19 {
		t.Fatalf("%d operators, want 19", n)
	}
	for _, op := range Operators() {
		for _, name := range []string{op.String(), strings.ToLower(op.String()), strings.ToUpper(op.String())} {
			if got, err := ParseOperator(name); err != nil || got != op {
				t.Errorf("ParseOperator(%q) = %v, %v", name, got, err)
			}
		}
		if negative := strings.Contains(op.String(), "Not") && op != IsNotNull; op.Negative() != negative {
			t.Errorf("%s negative: %v", op, op.Negative())
		}
	}
	_, err := ParseOperator("StringLike")
	const want = `operator "StringLike" is not known: use one of NumberIn, NumberNotIn, NumberLessThan, NumberGreaterThan, NumberLessThanOrEquals, ` +
		`NumberGreaterThanOrEquals, NumberInRange, NumberNotInRange, BoolEquals, StringIn, StringNotIn, StringBeginsWith, StringNotBeginsWith, ` +
		`StringEndsWith, StringNotEndsWith, StringContains, StringNotContains, IsNullOrUndefined, IsNotNull`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if got := Operator(0).String(); got != "Operator(0)" {
		t.Errorf("the zero operator is called %s", got)
	}
}
