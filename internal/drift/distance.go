package drift

import (
	"cmp"
	"math"
	"slices"
)

// A mass is a weight at a place on the line, of one of two samples.
type mass struct {
	at     float64
	weight float64
	target bool
}

// Distances are what lies between two distributions on the line.
type Distances struct {
	Wasserstein float64 // area between the distribution functions, in the unit of the data
	Energy      float64 // square root of twice the area between them, squared
	KS          float64 // the greatest difference between them, 0 to 1
}

// Between returns the distances of two samples in any order. Weights may be nil:
// then all values weigh the same. The result of an empty sample is not a number.
func Between(baseline, baselineWeights, target, targetWeights []float64) Distances {
	if len(baseline) == 0 || len(target) == 0 {
		return Distances{math.NaN(), math.NaN(), math.NaN()}
	}
	all := make([]mass, 0, len(baseline)+len(target))
	var sums [2]float64
	for side, sample := range [2]struct{ values, weights []float64 }{{baseline, baselineWeights}, {target, targetWeights}} {
		for i, v := range sample.values {
			w := 1.0
			if sample.weights != nil {
				w = sample.weights[i]
			}
			sums[side] += w
			all = append(all, mass{v, w, side == 1})
		}
	}
	slices.SortFunc(all, func(a, b mass) int { return cmp.Compare(a.at, b.at) })
	var d Distances
	var below [2]float64 // weight at or below the place
	for i, m := range all {
		if m.target {
			below[1] += m.weight
		} else {
			below[0] += m.weight
		}
		if i+1 == len(all) || all[i+1].at == m.at {
			continue // ties count together
		}
		gap := math.Abs(below[0]/sums[0] - below[1]/sums[1])
		width := all[i+1].at - m.at
		d.Wasserstein += gap * width
		d.Energy += gap * gap * width
		d.KS = max(d.KS, gap)
	}
	d.Energy = math.Sqrt(2 * d.Energy)
	return d
}

// JensenShannon returns the Jensen-Shannon distance, the square root of the
// divergence, with logarithms to base 2: 0 for equal, 1 for disjoint distributions.
func JensenShannon(p, q []float64) float64 {
	var sum float64
	for i := range p {
		m := (p[i] + q[i]) / 2
		if p[i] > 0 {
			sum += p[i] * math.Log2(p[i]/m)
		}
		if q[i] > 0 {
			sum += q[i] * math.Log2(q[i]/m)
		}
	}
	return math.Sqrt(min(max(sum/2, 0), 1))
}

// emptyCell stands for a share of nothing where a logarithm needs one.
// Source: spec/workspace.md section 7.2, Evidently.
const emptyCell = 0.0001

// PSI returns the population stability index.
func PSI(p, q []float64) float64 {
	var sum float64
	for i := range p {
		a, b := p[i], q[i]
		if a == 0 && b == 0 {
			continue
		}
		if a == 0 {
			a = emptyCell
		}
		if b == 0 {
			b = emptyCell
		}
		sum += (a - b) * math.Log(a/b)
	}
	return sum
}

// Gaps are distances of two distributions over the same categories that need no
// logarithm.
type Gaps struct {
	TotalVariation float64 // half the sum of the differences, 0 to 1
	Hellinger      float64 // 0 to 1
	Euclidean      float64 // 0 to √2; what Azure reports for categories
	Greatest       float64 // the greatest difference, L∞
}

// GapsBetween returns them.
func GapsBetween(p, q []float64) Gaps {
	var g Gaps
	for i := range p {
		d := math.Abs(p[i] - q[i])
		g.TotalVariation += d / 2
		g.Euclidean += d * d
		g.Greatest = max(g.Greatest, d)
		r := math.Sqrt(p[i]) - math.Sqrt(q[i])
		g.Hellinger += r * r / 2
	}
	g.Euclidean, g.Hellinger = math.Sqrt(g.Euclidean), math.Sqrt(g.Hellinger)
	return g
}

// Confusion counts what a classifier said of rows of the target (positive) and of
// the baseline (negative).
type Confusion struct{ TP, FP, FN, TN float64 }

// MCC returns the Matthews correlation coefficient, -1 to 1, and 0 where a margin is
// empty.
func (c Confusion) MCC() float64 {
	d := (c.TP + c.FP) * (c.TP + c.FN) * (c.TN + c.FP) * (c.TN + c.FN)
	if d == 0 {
		return 0
	}
	return (c.TP*c.TN - c.FP*c.FN) / math.Sqrt(d)
}

// AUC returns the probability that a row of the target scores above one of the
// baseline, ties counted half.
func AUC(baseline, target []float64) float64 {
	all := make([]mass, 0, len(baseline)+len(target))
	for _, s := range baseline {
		all = append(all, mass{at: s})
	}
	for _, s := range target {
		all = append(all, mass{at: s, target: true})
	}
	slices.SortFunc(all, func(a, b mass) int { return cmp.Compare(a.at, b.at) })
	var above, below float64 // pairs won, and rows of the baseline that lie below
	for i := 0; i < len(all); {
		var targets, baselines float64
		j := i
		for ; j < len(all) && all[j].at == all[i].at; j++ {
			if all[j].target {
				targets++
			} else {
				baselines++
			}
		}
		above += targets * (below + baselines/2)
		below += baselines
		i = j
	}
	return above / float64(len(baseline)) / float64(len(target))
}
