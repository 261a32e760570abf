package drift

import (
	"cmp"
	"math"
	"slices"
)

// exactPairs bounds the pairs of rows for which the exact probability of a
// Kolmogorov-Smirnov statistic is computed: its cost is their number.
const exactPairs = 1 << 20

// KSChance returns the probability that two samples of n and m rows of one
// distribution have a Kolmogorov-Smirnov statistic of at least d. For few rows it
// is exact (and an upper bound where values are tied), for many the limit with
// Stephens' correction. Source: spec/workspace.md section 7.1.
func KSChance(d float64, n, m int) float64 {
	if n == 0 || m == 0 {
		return 1
	}
	if int64(n)*int64(m) <= exactPairs {
		return ksExact(d, n, m)
	}
	return ksStephens(d, n, m)
}

// ksExact is one less the share of lattice paths from (0, 0) to (n, m) that stay
// strictly nearer to the diagonal than d. Paths are counted as shares of all, row by
// row, so that nothing overflows.
func ksExact(d float64, n, m int) float64 {
	bound := int(math.Round(d * float64(n) * float64(m)))
	inside := func(i, j int) bool { return max(i*m-j*n, j*n-i*m) < bound }
	share := make([]float64, m+1)
	for j := range share {
		if !inside(0, j) {
			break
		}
		share[j] = 1
	}
	for i := 1; i <= n; i++ {
		weight := float64(i) / float64(i+m)
		if inside(i, 0) {
			share[0] *= weight
		} else {
			share[0] = 0
		}
		for j := 1; j <= m; j++ {
			if inside(i, j) {
				share[j] = weight*share[j] + share[j-1]
			} else {
				share[j] = 0
			}
		}
	}
	return min(max(1-share[m], 0), 1)
}

func ksStephens(d float64, n, m int) float64 {
	root := math.Sqrt(float64(n) / float64(n+m) * float64(m))
	return kolmogorov((root + 0.12 + 0.11/root) * d)
}

// kolmogorov is the upper tail of the Kolmogorov distribution.
func kolmogorov(x float64) float64 {
	if x < 0.2 {
		return 1 // to sixteen digits; the series needs ever more terms here
	}
	var sum float64
	for k, sign := 1.0, 1.0; k <= 100; k, sign = k+1, -sign {
		term := math.Exp(-2 * k * k * x * x)
		sum += sign * term
		if term < 1e-18 {
			break
		}
	}
	return min(max(2*sum, 0), 1)
}

// ChiSquare is the outcome of Pearson's test.
type ChiSquare struct {
	Statistic float64
	Freedom   int     // degrees of freedom
	Chance    float64 // p-value
	CramersV  float64 // 0 to 1; of a table of two rows
}

// ChiSquareFit tests counts against expected ones. The sums of both should be equal;
// spec/workspace.md section 7.1 calls it the Evidently form.
func ChiSquareFit(observed, expected []float64) ChiSquare {
	c := ChiSquare{Freedom: len(observed) - 1}
	for i, o := range observed {
		d := o - expected[i]
		c.Statistic += d * d / expected[i]
	}
	c.Chance = chiSquareTail(c.Statistic, c.Freedom)
	return c
}

// ChiSquareTable tests whether two rows of counts are of one distribution. It treats
// both as random. Categories without any count do not count.
func ChiSquareTable(baseline, target []float64) ChiSquare {
	var n, m float64
	for i := range baseline {
		n, m = n+baseline[i], m+target[i]
	}
	c := ChiSquare{Freedom: -1}
	if n == 0 || m == 0 {
		return ChiSquare{Chance: 1}
	}
	for i := range baseline {
		sum := baseline[i] + target[i]
		if sum == 0 {
			continue
		}
		c.Freedom++
		e, f := sum*n/(n+m), sum*m/(n+m)
		c.Statistic += (baseline[i]-e)*(baseline[i]-e)/e + (target[i]-f)*(target[i]-f)/f
	}
	c.Chance = chiSquareTail(c.Statistic, c.Freedom)
	c.CramersV = math.Sqrt(c.Statistic / (n + m))
	return c
}

func chiSquareTail(x float64, freedom int) float64 {
	if freedom <= 0 || x <= 0 {
		return 1
	}
	return gammaTail(float64(freedom)/2, x/2)
}

// gammaTail is the regularised upper incomplete gamma function Q(a, x): the series
// of its complement below a+1, Lentz's continued fraction above.
func gammaTail(a, x float64) float64 {
	lg, _ := math.Lgamma(a)
	front := math.Exp(a*math.Log(x) - x - lg)
	const enough, most = 1e-16, 100_000
	if x < a+1 {
		sum, term := 1/a, 1/a
		for k := a + 1; k < a+most && term > sum*enough; k++ {
			term *= x / k
			sum += term
		}
		return min(max(1-front*sum, 0), 1)
	}
	const tiny = 1e-300
	b := x + 1 - a
	c, d := 1/tiny, 1/b
	h := d
	for i := 1.0; i < most; i++ {
		an := -i * (i - a)
		b += 2
		d = an*d + b
		if math.Abs(d) < tiny {
			d = tiny
		}
		c = b + an/c
		if math.Abs(c) < tiny {
			c = tiny
		}
		d = 1 / d
		step := c * d
		h *= step
		if math.Abs(step-1) < enough {
			break
		}
	}
	return min(front*h, 1)
}

// normalTail is the probability that a standard normal value is above z.
func normalTail(z float64) float64 { return math.Erfc(z/math.Sqrt2) / 2 }

// shareChance is the probability that two shares of one truth, a of n and b of m, lie
// as far apart as these: the two-sided test of two proportions.
func shareChance(a, n, b, m float64) float64 {
	if n == 0 || m == 0 {
		return 1
	}
	pooled := (a + b) / (n + m)
	deviation := math.Sqrt(pooled * (1 - pooled) * (1/n + 1/m))
	if deviation == 0 {
		return 1
	}
	return min(1, 2*normalTail(math.Abs(a/n-b/m)/deviation))
}

// falseDiscovery is the share of columns called drifted that may be so by chance.
const falseDiscovery = 0.05

// discoveries marks, by Benjamini and Hochberg, the tests that count among many.
func discoveries(chances []float64) []bool {
	order := ascending(chances)
	last := -1
	for rank, i := range order {
		if chances[i] <= falseDiscovery*float64(rank+1)/float64(len(chances)) {
			last = rank
		}
	}
	marked := make([]bool, len(chances))
	for _, i := range order[:last+1] {
		marked[i] = true
	}
	return marked
}

// simes is the probability that chance alone made the best of many tests look as they
// do: one number for a family.
func simes(chances []float64) float64 {
	p := 1.0
	for rank, i := range ascending(chances) {
		p = min(p, chances[i]*float64(len(chances))/float64(rank+1))
	}
	return p
}

func ascending(values []float64) []int {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	return order
}
