package drift

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var trials = flag.Int("trials", 40, "comparisons without drift in which false alarms are counted, for each method")

// sampleOf makes a sample of columns by name; values are numbers or texts, and nil is
// a missing one.
func sampleOf(t testing.TB, columns map[string][]any) *Sample {
	t.Helper()
	s := newSample(ReadOptions{})
	names := []string{}
	rows := 0
	for name, values := range columns {
		names, rows = append(names, name), len(values)
	}
	slices.Sort(names)
	for _, name := range names {
		if _, err := s.column(name); err != nil {
			t.Fatal(err)
		}
	}
	for row := range rows {
		place := s.next()
		for i, name := range names {
			switch v := columns[name][row].(type) {
			case nil:
				s.columns[i].put(place, cell{})
			case float64:
				s.columns[i].put(place, numberCell(v))
			case string:
				s.columns[i].put(place, textCell(v))
			}
		}
	}
	return s
}

// normal makes rows of numbers and texts: "amount" around the shift, "noise" and
// "country" as they are, and "bought" whenever it likes.
func normal(t testing.TB, rows int, shift float64, seed uint64) *Sample {
	r := rand.New(rand.NewPCG(seed, 1))
	columns := map[string][]any{}
	for range rows {
		columns["amount"] = append(columns["amount"], r.NormFloat64()+shift)
		columns["noise"] = append(columns["noise"], r.ExpFloat64())
		columns["country"] = append(columns["country"], []string{"at", "be", "ch", "de", "de", "de"}[r.IntN(6)])
		columns["bought"] = append(columns["bought"], []string{"true", "false"}[r.IntN(2)])
	}
	return sampleOf(t, columns)
}

func compare(t testing.TB, baseline, target *Sample, o Options) *Result {
	t.Helper()
	r, err := Compare(baseline, target, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Without drift there is at most one alarm in a thousand comparisons. The short form
// runs few; -trials 3000 runs as many as it takes to see the rate. The threshold of
// 0 leaves the decision to the probability alone.
func TestFalseAlarms(t *testing.T) {
	for _, m := range Methods {
		for _, threshold := range []float64{0, DefaultThreshold(m)} {
			t.Run(fmt.Sprintf("%s above %g", m, threshold), func(t *testing.T) {
				t.Parallel()
				rows := 250
				if threshold == 0 {
					rows = 700
				}
				alarms := 0
				var sum, squares float64
				for trial := range *trials {
					seed := uint64(2*trial + 10)
					r := compare(t, normal(t, rows, 0, seed), normal(t, rows, 0, seed+1), Options{Method: m, Threshold: &threshold, Seed: seed})
					if r.HasDrift {
						alarms++
					}
					if m == ByClassifier {
						mcc := r.Metrics[1].Value * math.Sqrt(float64(r.Rows.HeldOut))
						sum, squares = sum+mcc, squares+mcc*mcc
					}
				}
				n := float64(*trials)
				t.Logf("%d alarms in %d comparisons; MCC·√N has mean %.3f and deviation %.3f", alarms, *trials, sum/n, math.Sqrt(squares/n-sum*sum/n/n))
				if most := max(1, *trials/1000); alarms > most {
					t.Errorf("%d alarms in %d comparisons without drift, want at most %d", alarms, *trials, most)
				}
			})
		}
	}
}

// The coefficient of a shifted normal column approaches the total variation distance,
// 2Φ(δ/2)-1, which no classifier can pass; noise about it is 1/√N.
func TestKnownShift(t *testing.T) {
	const rows = 4_000
	for _, shift := range []float64{0.25, 0.5, 1, 2} {
		r := compare(t, normal(t, rows, 0, 3), normal(t, rows, shift, 4), Options{})
		bound := 1 - 2*normalTail(shift/2)
		if r.Coefficient < bound-0.05 || r.Coefficient > bound+0.03 {
			t.Errorf("shift %g: coefficient %.3f, want about %.3f", shift, r.Coefficient, bound)
		}
		if want := bound > 0.2; r.HasDrift != want {
			t.Errorf("shift %g: drift %v, want %v", shift, r.HasDrift, want)
		}
		top := r.Columns[0]
		if top.Name != "amount" || !top.Drifted || top.Metrics[Contribution] < 0.5 {
			t.Errorf("shift %g: what moved most is %+v", shift, top)
		}
		if w := top.Metrics["wasserstein_distance"]; math.Abs(w-shift) > 0.06 {
			t.Errorf("shift %g: Wasserstein distance %.3f", shift, w)
		}
		for _, c := range r.Columns[1:] {
			if c.Drifted {
				t.Errorf("shift %g: %s drifted, p %g", shift, c.Name, c.Chance)
			}
		}
	}
}

// What columns by themselves do not show: both are the same, and their relation is not.
func TestRelationShifts(t *testing.T) {
	make := func(sign float64, seed uint64) *Sample {
		r := rand.New(rand.NewPCG(seed, 2))
		columns := map[string][]any{}
		for range 2_000 {
			x := r.NormFloat64()
			columns["x"] = append(columns["x"], x)
			columns["y"] = append(columns["y"], sign*x+r.NormFloat64()/2)
		}
		return sampleOf(t, columns)
	}
	base, now := make(1, 5), make(-1, 6)
	if r := compare(t, base, now, Options{}); !r.HasDrift || r.Coefficient < 0.5 {
		t.Errorf("classifier: coefficient %.3f, drift %v", r.Coefficient, r.HasDrift)
	}
	for _, m := range []Method{ByShare, ByMaxJS} {
		if r := compare(t, base, now, Options{Method: m}); r.HasDrift {
			t.Errorf("%s sees columns only, and saw %.3f", m, r.Coefficient)
		}
	}
}

func TestDisjoint(t *testing.T) {
	const rows = 1_000
	column := func(of func(r *rand.Rand) any) []any {
		r := rand.New(rand.NewPCG(8, 8))
		out := make([]any, rows)
		for i := range out {
			out[i] = of(r)
		}
		return out
	}
	tests := []struct {
		name         string
		base, target func(r *rand.Rand) any
		least        float64
	}{
		{"numbers", func(r *rand.Rand) any { return r.Float64() }, func(r *rand.Rand) any { return r.Float64() + 1 }, 1},
		{"categories", func(r *rand.Rand) any { return "a" + fmt.Sprint(r.IntN(5)) }, func(r *rand.Rand) any { return "b" + fmt.Sprint(r.IntN(5)) }, 1},
		{"many categories", func(r *rand.Rand) any { return "a" + fmt.Sprint(r.IntN(150)) }, func(r *rand.Rand) any { return "b" + fmt.Sprint(r.IntN(150)) }, 0.99},
		{"missing now", func(r *rand.Rand) any { return r.Float64() }, func(r *rand.Rand) any { return nil }, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base, target := sampleOf(t, map[string][]any{"c": column(tt.base)}), sampleOf(t, map[string][]any{"c": column(tt.target)})
			for _, m := range Methods {
				if m == ByMaxJS && tt.name == "missing now" {
					continue // there are no values to be distant
				}
				r := compare(t, base, target, Options{Method: m})
				if r.Coefficient < tt.least-1e-12 || r.Coefficient > 1 || !r.HasDrift || !r.Columns[0].Drifted {
					t.Errorf("%s: coefficient %g, p %g, drift %v, status %s", m, r.Coefficient, r.Chance, r.HasDrift, r.Status)
				}
			}
		})
	}
}

// A change of scale that keeps the order changes no coefficient.
func TestMonotoneInvariance(t *testing.T) {
	scaled := func(seed uint64, shift float64, scale func(float64) float64) *Sample {
		s := normal(t, 1_000, shift, seed)
		for i, x := range s.byName["amount"].numbers {
			s.byName["amount"].numbers[i] = scale(x)
		}
		return s
	}
	plain := func(x float64) float64 { return x }
	cube := func(x float64) float64 { return x*x*x + 7 }
	for _, m := range Methods {
		if m == ByShare {
			continue // normed Wasserstein distances are of the scale
		}
		a := compare(t, scaled(1, 0, plain), scaled(2, 0.7, plain), Options{Method: m})
		for name, scale := range map[string]func(float64) float64{"exp": math.Exp, "cube": cube} {
			b := compare(t, scaled(1, 0, scale), scaled(2, 0.7, scale), Options{Method: m})
			if a.Coefficient != b.Coefficient || a.Chance != b.Chance {
				t.Errorf("%s: %g becomes %g by %s", m, a.Coefficient, b.Coefficient, name)
			}
		}
	}
}

func TestSameAgain(t *testing.T) {
	for _, m := range Methods {
		a := compare(t, normal(t, 400, 0, 1), normal(t, 500, 0.4, 2), Options{Method: m, Seed: 9})
		b := compare(t, normal(t, 400, 0, 1), normal(t, 500, 0.4, 2), Options{Method: m, Seed: 9})
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %+v\nand then %+v", m, a, b)
		}
	}
	r := compare(t, normal(t, 400, 0, 1), normal(t, 400, 0, 1), Options{})
	if r.Coefficient != 0 || r.HasDrift {
		t.Errorf("a dataset against itself has coefficient %g", r.Coefficient)
	}
}

func TestTooFewRows(t *testing.T) {
	tests := []struct {
		name      string
		rows      int
		threshold float64
		status    Status
		reason    string
	}{
		{"none", 0, 0.2, NoData, "no rows"},
		{"three", 3, 0.9, Insufficient, "each side needs 50 rows; the smaller has 3"},
		{"for the threshold", 172, 0.2, Insufficient, "threshold 0.2 needs 173 rows of each side"},
		{"enough", 173, 0.2, OK, ""},
	}
	for _, tt := range tests {
		r := compare(t, normal(t, 500, 0, 1), normal(t, tt.rows, 3, 2), Options{Threshold: &tt.threshold})
		if r.Status != tt.status || !strings.Contains(r.Reason, tt.reason) || r.HasDrift != (tt.status == OK) {
			t.Errorf("%s: %s, %q, drift %v", tt.name, r.Status, r.Reason, r.HasDrift)
		}
	}
}

func TestColumnTypes(t *testing.T) {
	const rows = 60
	column := func(of func(i int) any) []any {
		out := make([]any, rows)
		for i := range out {
			out[i] = of(i)
		}
		return out
	}
	number := func(i int) any { return math.Sin(float64(i)) }
	few := func(i int) any { return float64(i % 20) }
	name := func(i int) any { return fmt.Sprintf("row-%d", i) }
	tests := []struct {
		name         string
		base, target func(i int) any
		options      Options
		want         string // type, or reason
	}{
		{"numbers", number, number, Options{}, "numeric"},
		{"twenty numbers", few, few, Options{}, "categorical"},
		{"twenty, declared", few, few, Options{Numeric: []string{"c"}}, "numeric"},
		{"numbers, declared", number, number, Options{Categorical: []string{"c"}}, "categorical"},
		{"texts of one side", number, func(i int) any { return "n/a" }, Options{}, "it names rows: 100 % of its texts in the baseline differ"},
		{"row numbers", func(i int) any { return float64(i) }, func(i int) any { return float64(i + 1000) }, Options{}, "it counts the rows: whole numbers that rise from row to row"},
		{"row names", name, name, Options{}, "it names rows: 100 % of its texts in the baseline differ"},
		{"row names, declared", name, name, Options{Categorical: []string{"c"}}, "categorical"},
		{"dates", func(i int) any { return fmt.Sprintf("2026-01-%02d", i%28+1) }, func(i int) any { return "2026-03-01T10:00:00Z" }, Options{}, "it holds times"},
		{"constant", func(i int) any { return "a" }, func(i int) any { return "a" }, Options{}, `it is "a" in all rows of both sides`},
		{"constants that differ", func(i int) any { return "a" }, func(i int) any { return "b" }, Options{}, "categorical"},
		{"nothing", func(i int) any { return nil }, func(i int) any { return nil }, Options{}, "it has no values"},
		{"zip codes", func(i int) any { return fmt.Sprintf("0%d", 1000+i%9) }, func(i int) any { return "01000" }, Options{}, "categorical"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := sampleOf(t, map[string][]any{"c": column(tt.base), "other": column(number), "old": column(number)})
			target := sampleOf(t, map[string][]any{"c": column(tt.target), "other": column(number), "new": column(number)})
			r := compare(t, base, target, tt.options)
			got := ""
			for _, c := range r.Columns {
				if c.Name == "c" {
					got = c.Type
				}
			}
			for _, s := range r.Skipped {
				if s.Name == "c" {
					got = s.Reason
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !slices.Contains(r.Skipped, Skip{"old", "only the baseline has it"}) || !slices.Contains(r.Skipped, Skip{"new", "only the target has it"}) {
				t.Errorf("skipped are %v", r.Skipped)
			}
		})
	}
}

func TestOptionsRefused(t *testing.T) {
	base := sampleOf(t, map[string][]any{"a": {"x", "y"}})
	for _, tt := range []struct {
		options Options
		want    string
	}{
		{Options{Method: "psi"}, `no method "psi"`},
		{Options{Threshold: new(1.5)}, "1.5 and has to be from 0 to 1"},
		{Options{Threshold: new(math.NaN())}, "from 0 to 1"},
		{Options{Numeric: []string{"b"}}, `neither side has a column "b"`},
		{Options{Numeric: []string{"a"}}, `cannot be numeric: it has texts, such as "x"`},
		{Options{Numeric: []string{"a"}, Categorical: []string{"a"}}, "both numeric and categorical"},
	} {
		if _, err := Compare(base, base, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.options, err, tt.want)
		}
	}
}

func TestMissingRate(t *testing.T) {
	make := func(every int) *Sample {
		r := rand.New(rand.NewPCG(uint64(every), 3))
		values := []any{}
		for i := range 2_000 {
			if i%every == 0 {
				values = append(values, nil)
			} else {
				values = append(values, r.NormFloat64())
			}
		}
		return sampleOf(t, map[string][]any{"c": values})
	}
	c := compare(t, make(100), make(4), Options{}).Columns[0]
	if !c.Drifted || c.Metrics[MissingBase] != 0.01 || c.Metrics[MissingNow] != 0.25 || c.Metrics["ks_pvalue"] < 0.01 {
		t.Errorf("a column that is missing more often: %+v", c)
	}
	if c := compare(t, make(100), make(50), Options{}).Columns[0]; c.Drifted {
		t.Errorf("one more row in a hundred is a trifle: %+v", c)
	}
}
