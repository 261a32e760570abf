package drift

import (
	"math"
	"testing"
)

// Every reference value of spec/workspace.md section 7.5, in its order.
func TestReferenceValues(t *testing.T) {
	w := func(u, uw, v, vw []float64) Distances { return Between(u, uw, v, vw) }
	repeat := func(at []float64, times ...int) (out []float64) {
		for i, n := range times {
			for range n {
				out = append(out, at[i])
			}
		}
		return out
	}
	line := func(n int, from, to float64) []float64 {
		out := make([]float64, n)
		for i := range out {
			out[i] = from + (to-from)*float64(i)/float64(n-1)
		}
		return out
	}
	ks := func(a, b []float64) float64 { return w(a, nil, b, nil).KS }
	a16, b16 := repeat([]float64{2, 3, 5, 6}, 3, 4, 5, 4), repeat([]float64{3, 4, 6, 7}, 3, 4, 5, 4)
	a100, b110 := line(100, 1, 100), line(110, 21.1, 120.1)
	// The sheet has 0.0189312693 for the limit; its series, 2(e^-2λ²-e^-8λ²+…) with
	// λ² = (232/1100)²·11000/210, is 0.0189312696044, and so it is by scipy (kstwobign.sf).
	root := math.Sqrt(100 * 110 / 210.0)
	fit := ChiSquareFit([]float64{16, 18, 16, 14, 12, 12}, []float64{88. / 6, 88. / 6, 88. / 6, 88. / 6, 88. / 6, 88. / 6})
	fit2 := ChiSquareFit([]float64{16, 18, 16, 14, 12, 12}, []float64{16, 16, 16, 16, 16, 8})
	table := ChiSquareTable([]float64{10, 10, 20}, []float64{20, 20, 20})
	reference, current := []float64{16, 18, 16, 14, 12, 12}, []float64{16, 16, 16, 16, 16, 8}
	evidently, contingency := ChiSquareFit(current, reference), ChiSquareTable(reference, current)
	p, q := []float64{.5, .3, .2}, []float64{.2, .3, .5}
	ten := repeat([]float64{.1}, 10)
	tenQ := []float64{.05, .06, .08, .09, .1, .1, .11, .12, .13, .16}
	ln := math.Sqrt(math.Ln2) // from base 2 to natural logarithms

	tests := []struct {
		name      string
		got, want float64
		digits    float64 // as many as the sheet gives
	}{
		{"W1 plain", w([]float64{0, 1, 3}, nil, []float64{5, 6, 8}, nil).Wasserstein, 5, 1e-14},
		{"W1 weighted", w([]float64{0, 1}, []float64{3, 1}, []float64{0, 1}, []float64{2, 2}).Wasserstein, 0.25, 1e-15},
		{"W1 uneven", w([]float64{3.4, 3.9, 7.5, 7.8}, []float64{1.4, 0.9, 3.1, 7.2}, []float64{4.5, 1.4}, []float64{3.2, 3.5}).Wasserstein, 4.078133143804786, 1e-14},
		{"energy of two points", w([]float64{0}, nil, []float64{2}, nil).Energy, 2, 1e-15},
		{"energy weighted", w([]float64{0, 8}, []float64{3, 1}, []float64{0, 8}, []float64{2, 2}).Energy, 1, 1e-15},
		{"JS of disjoint", JensenShannon([]float64{1, 0, 0}, []float64{0, 1, 0}), 1, 0},
		{"JS natural", JensenShannon([]float64{1, 0}, []float64{.5, .5}) * ln, 0.46450140402245893, 1e-15},
		{"JS base 2", JensenShannon([]float64{1, 0}, []float64{.5, .5}), 0.5579230452841438, 1e-15},
		{"chi-square fit, uniform", fit.Statistic, 2, 1e-14},
		{"its p", fit.Chance, 0.8491450360846097, 1e-14},
		{"chi-square fit, given", fit2.Statistic, 3.5, 1e-15},
		{"its p", fit2.Chance, 0.6233876277495822, 1e-14},
		{"chi-square table", table.Statistic, 2.7777777777777777, 1e-14},
		{"its freedom", float64(table.Freedom), 2, 0},
		{"its p", table.Chance, 0.24935220877729616, 1e-14},
		{"Cramér's V", table.CramersV, 0.16666666666666666, 1e-15},
		{"KS a D", ks([]float64{1.01, 2.01}, []float64{1, 2, 3}), 1. / 3, 1e-15},
		{"KS a p", KSChance(1./3, 2, 3), 1, 1e-15},
		{"KS b D", ks([]float64{.99, 1.99}, []float64{1, 2, 3}), 2. / 3, 1e-15},
		{"KS b p", KSChance(2./3, 2, 3), 0.6, 1e-15},
		{"KS c D", ks([]float64{1.01, 2.01}, []float64{1, 2, 3, 4}), 0.5, 1e-15},
		{"KS c p", KSChance(0.5, 2, 4), 14. / 15, 1e-15},
		{"KS d D", ks([]float64{.99, 1.99}, []float64{1, 2, 3, 4}), 0.75, 1e-15},
		{"KS d p", KSChance(0.75, 2, 4), 0.4, 1e-15},
		{"KS ties D", ks(a16, b16), 5. / 16, 1e-15},
		{"KS ties p", KSChance(5./16, 16, 16), 0.4262934613454949, 1e-14},
		{"KS 100 and 110 D", ks(a100, b110), 232. / 1100, 1e-14},
		{"KS 100 and 110 p", KSChance(232./1100, 100, 110), 0.0157391838656, 5e-14},
		{"KS 100 and 110 limit", kolmogorov(root * 232 / 1100), 0.0189312696044, 5e-14},
		{"KS 100 and 110 Stephens", ksStephens(232./1100, 100, 110), 0.0158803867, 5e-11},
		{"Evidently statistic", evidently.Statistic, 3.1746031746, 5e-11},
		{"Evidently p", evidently.Chance, 0.67309, 5e-6},
		{"Evidently Hellinger", GapsBetween(shares(reference), shares(current)).Hellinger, 0.0681277437, 5e-11},
		{"contingency statistic", contingency.Statistic, 1.6224089636, 5e-11},
		{"contingency freedom", float64(contingency.Freedom), 5, 0},
		{"contingency p", contingency.Chance, 0.8985262394, 5e-11},
		{"NannyML aabbccd", GapsBetween(shares([]float64{2, 2, 2, 0}), shares([]float64{2, 2, 2, 1})).Greatest, 1. / 7, 1e-15},
		{"NannyML bbbbb", GapsBetween(shares([]float64{2, 2, 2}), shares([]float64{0, 5, 0})).Greatest, 2. / 3, 1e-15},
		{"PSI", PSI(p, q), 0.549774439124493, 1e-15},
		{"TV", GapsBetween(p, q).TotalVariation, 0.3, 1e-15},
		{"Hellinger", GapsBetween(p, q).Hellinger, 0.25989318568658965, 1e-15},
		{"L2", GapsBetween(p, q).Euclidean, 0.4242640687119285, 1e-15},
		{"L∞", GapsBetween(p, q).Greatest, 0.3, 1e-15},
		{"JS natural, three", JensenShannon(p, q) * ln, 0.257709748326061, 1e-15},
		{"JS base 2, three", JensenShannon(p, q), 0.30954095367714807, 1e-15},
		{"PSI, ten bins", PSI(ten, tenQ), 0.10127753878419057, 1e-15},
		{"JS base 2, ten bins", JensenShannon(ten, tenQ), 0.13434752262993474, 1e-15},
		{"TV, ten bins", GapsBetween(ten, tenQ).TotalVariation, 0.12, 1e-15},
		{"MCC 90", Confusion{90, 10, 10, 90}.MCC(), 0.8, 1e-15},
		{"MCC 70", Confusion{70, 30, 30, 70}.MCC(), 0.4, 1e-15},
		{"MCC uneven", Confusion{60, 20, 40, 80}.MCC(), 0.4082482904638631, 1e-15},
		{"MCC uneven 95", Confusion{95, 35, 5, 65}.MCC(), 0.628970902033151, 1e-15},
		{"MCC chance", Confusion{50, 50, 50, 50}.MCC(), 0, 0},
		{"MCC of one answer", Confusion{100, 100, 0, 0}.MCC(), 0, 0},
	}
	for _, tt := range tests {
		if !(math.Abs(tt.got-tt.want) <= tt.digits) {
			t.Errorf("%s is %.17g, want %.17g", tt.name, tt.got, tt.want)
		}
	}
}

// The rows that a threshold needs, as section 7.4 has them.
func TestLeastRows(t *testing.T) {
	for threshold, want := range map[float64]int{0.10: 1384, 0.15: 615, 0.20: 346, 0.25: 222, 0.30: 154, 0.50: 56} {
		if got := leastRows(ByClassifier, threshold); got != want {
			t.Errorf("threshold %g needs %d rows, want %d", threshold, got, want)
		}
	}
}

func TestChances(t *testing.T) {
	if p := shareChance(0, 100, 0, 100); p != 1 {
		t.Errorf("equal shares: p %g", p)
	}
	// z = (0.1-0.2)/sqrt(0.15·0.85·2/100) = -1.980…, two-sided 0.0477….
	if p := shareChance(10, 100, 20, 100); math.Abs(p-2*normalTail(0.1/math.Sqrt(0.15*0.85*0.02))) > 1e-15 || p > 0.05 || p < 0.045 {
		t.Errorf("10 and 20 of 100: p %g", p)
	}
	got := discoveries([]float64{0.9, 0.01, 0.02, 0.04}) // limits 0.0125, 0.025, 0.0375, 0.05
	if got[0] || !got[1] || !got[2] || got[3] {
		t.Errorf("discoveries are %v", got)
	}
	if p := simes([]float64{0.9, 0.01, 0.02, 0.04}); math.Abs(p-0.04) > 1e-15 {
		t.Errorf("Simes of four is %g", p)
	}
	if a := AUC([]float64{1, 2, 3}, []float64{2, 4}); math.Abs(a-4.5/6) > 1e-15 {
		t.Errorf("AUC is %g", a)
	}
}
