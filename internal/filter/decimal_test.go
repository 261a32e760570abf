package filter

import (
	"strings"
	"testing"
)

func TestDecimalCompare(t *testing.T) {
	zeros := strings.Repeat("0", 300)
	tests := []struct {
		name, a, b string
		want       int
	}{
		{"same", "5", "5", 0},
		{"trailing zero", "5", "5.0", 0},
		{"exponent zero", "5", "5e0", 0},
		{"capital exponent with plus", "500", "5E+2", 0},
		{"negative exponent", "0.05", "5e-2", 0},
		{"point moved", "123.45", "1.2345e2", 0},
		{"long way to write one", "0.00001e5", "1", 0},
		{"digits with a point against digits without", "1.5e1", "15", 0},
		{"leading zeros in the exponent", "5e0001", "50", 0},
		{"zero and minus zero", "0", "-0.0e7", 0},
		{"zero with a huge exponent", "0e99999999999999999999", "0", 0},
		{"zero below one", "0", "1e-300", -1},
		{"zero above minus one", "0", "-1e-300", 1},
		{"sign decides", "-1000", "1", -1},
		{"negative order", "-2", "-1.5", -1},
		{"negative with more digits", "-0.55", "-0.5", -1},
		{"magnitude", "9.99", "10", -1},
		{"same digits, other place", "12", "1.2", 1},
		{"longer fraction", "0.3", "0.30000000000000004", -1},
		{"beyond 2^53", "9007199254740993", "9007199254740992", 1},
		{"17 digits", "0.12345678901234567", "0.12345678901234568", -1},
		{"beyond 29 digits", "1." + zeros + "1", "1." + zeros + "2", -1},
		{"long and equal", "1" + zeros, "1e300", 0},
		{"huge exponents", "1e999999999", "9e999999998", 1},
		{"tiny exponents", "1e-999999999", "9e-999999999", -1},
		{"beyond every limit", "1e99999999999999999999", "9e999999999", 1},
		{"below every limit", "1e-99999999999999999999", "9e-999999999", -1},
		{"negative beyond every limit", "-1e99999999999999999999", "-9e999999999", -1},
		{"fraction below one", "0.5", "0.49999", 1},
		{"tenth against fifth", "0.1", "0.2", -1},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			a, b := readDecimal([]byte(c.a)), readDecimal([]byte(c.b))
			if got := a.compare(b); got != c.want {
				t.Errorf("compare(%s, %s) = %d, want %d", c.a, c.b, got, c.want)
			}
			if got := b.compare(a); got != -c.want {
				t.Errorf("compare(%s, %s) = %d, want %d", c.b, c.a, got, -c.want)
			}
		})
	}
}
