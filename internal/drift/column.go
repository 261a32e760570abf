package drift

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// A columnPair is a column of both sides, ready to be compared.
type columnPair struct {
	sides      [2]*column
	numeric    bool
	categories []string   // of both, those of most rows first
	ranks      [2][]int32 // of each kept row in categories; -1 is missing
	counts     [2][]float64
	boolean    bool // True, TRUE and true are one
}

// pair finds the columns to compare, in the order of the baseline, and says of the
// others why not. Source: spec/workspace.md section 7.3, "Column typing".
func pair(baseline, target *Sample, o Options) (pairs []*columnPair, skipped []Skip) {
	for _, b := range baseline.columns {
		t := target.byName[b.name]
		if t == nil {
			skipped = append(skipped, Skip{b.name, "only the baseline has it"})
			continue
		}
		p := &columnPair{sides: [2]*column{b, t}}
		if reason := p.typed(slices.Contains(o.Numeric, b.name), slices.Contains(o.Categorical, b.name)); reason != "" {
			skipped = append(skipped, Skip{b.name, reason})
			continue
		}
		pairs = append(pairs, p)
	}
	for _, t := range target.columns {
		if baseline.byName[t.name] == nil {
			skipped = append(skipped, Skip{t.name, "only the target has it"})
		}
	}
	return pairs, skipped
}

// typed decides what the column is, and returns why it cannot be compared, or "".
func (p *columnPair) typed(numeric, categorical bool) string {
	b, t := p.sides[0], p.sides[1]
	declared := numeric || categorical
	valued := func(c *column) int64 { return c.numeric + c.textual }
	numbers := func(c *column) bool { return c.numeric > 0 && c.textual == 0 && !c.temporal }
	dated := func(c *column) bool { return c.temporal || c.textual > 0 && c.numeric == 0 && c.dated > 0 }
	switch {
	case b.unfit+t.unfit != "":
		return cmp.Or(b.unfit, t.unfit)
	case valued(b)+valued(t) == 0:
		return "it has no values"
	case !declared && (dated(b) || dated(t)) && (dated(b) || valued(b) == 0) && (dated(t) || valued(t) == 0):
		return "it holds times"
	case !declared && (dated(b) && numbers(t) || dated(t) && numbers(b)):
		return "one side has times, the other numbers"
	case b.temporal != t.temporal:
		return "one side has times, the other not"
	}
	if b.textual+t.textual == 0 {
		distinct := map[float64]bool{}
		for _, c := range p.sides {
			for _, x := range c.numbers {
				if !math.IsNaN(x) && len(distinct) <= fewValues {
					distinct[x] = true
				}
			}
		}
		switch {
		case declared:
		case b.counts() && t.counts():
			return "it counts the rows: whole numbers that rise from row to row"
		case (b.index || t.index) && b.whole && t.whole:
			return "it is an index: whole numbers under a name that pandas gives"
		}
		p.numeric = numeric || !categorical && len(distinct) > fewValues
	}
	if p.numeric {
		return ""
	}
	p.boolean = b.boolean() && t.boolean()
	p.categorise()
	if len(p.categories) == 1 && b.missing+t.missing == 0 {
		return fmt.Sprintf("it is %q in all rows of both sides", p.categories[0])
	}
	if !declared && b.textual+t.textual > 0 {
		for side, counts := range p.counts {
			var rows, distinct float64
			for _, n := range counts {
				rows += n
				if n > 0 {
					distinct++
				}
			}
			if rows >= idRows && distinct > idShare*rows {
				return fmt.Sprintf("it names rows: %d %% of its texts in the %s differ", int(100*distinct/rows), [2]string{"baseline", "target"}[side])
			}
		}
	}
	return ""
}

// categorise counts the categories of both sides together.
func (p *columnPair) categorise() {
	seen := map[string]int32{}
	var counts []float64
	for side, c := range p.sides {
		p.ranks[side] = make([]int32, len(c.numbers))
		for row := range c.numbers {
			v, ok := c.category(row)
			if !ok {
				p.ranks[side][row] = -1
				continue
			}
			if p.boolean {
				v = strings.ToLower(v)
			}
			i, known := seen[v]
			if !known {
				i = int32(len(seen))
				seen[v] = i
				p.categories, counts = append(p.categories, v), append(counts, 0)
			}
			counts[i]++
			p.ranks[side][row] = i
		}
	}
	order := make([]int32, len(counts))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(p.categories[a], p.categories[b]))
	})
	names, rank := make([]string, len(order)), make([]int32, len(order))
	for i, old := range order {
		names[i], rank[old] = p.categories[old], int32(i)
	}
	p.categories = names
	for side := range p.sides {
		p.counts[side] = make([]float64, len(names))
		for row, old := range p.ranks[side] {
			if old >= 0 {
				p.ranks[side][row] = rank[old]
				p.counts[side][rank[old]]++
			}
		}
	}
}

// compare makes the metrics of the column.
func (p *columnPair) compare() Column {
	b, t := p.sides[0], p.sides[1]
	c := Column{Name: b.name, Type: "categorical", Metrics: map[string]float64{}}
	set := func(name string, value float64) {
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			c.Metrics[name] = value
		}
	}
	baseRows, nowRows := float64(b.numeric+b.textual+b.missing), float64(t.numeric+t.textual+t.missing)
	baseRate, nowRate := float64(b.missing)/baseRows, float64(t.missing)/nowRows
	set(MissingBase, baseRate)
	set(MissingNow, nowRate)
	missingChance := shareChance(float64(b.missing), baseRows, float64(t.missing), nowRows)
	set("missing_pvalue", missingChance)

	valueChance, many := 1.0, len(b.numbers) > manyRows && len(t.numbers) > manyRows
	if p.numeric {
		c.Type = "numeric"
		valueChance = p.compareNumbers(&c, set)
	} else {
		valueChance = p.compareCategories(&c, set)
	}
	c.Chance = min(1, 2*min(valueChance, missingChance))
	c.effected = !many || c.Metrics[Normed] >= effect || c.Metrics[JS] >= effect || math.Abs(baseRate-nowRate) >= effect
	return c
}

func (p *columnPair) compareNumbers(c *Column, set func(string, float64)) float64 {
	b, t := present(p.sides[0].numbers), present(p.sides[1].numbers)
	c.Profile = Profiles{p.sides[0].profile(), p.sides[1].profile()}
	c.Plot = plotNumbers(b, t)
	if len(b) == 0 || len(t) == 0 {
		return 1
	}
	d := Between(b, nil, t, nil)
	set("wasserstein_distance", d.Wasserstein)
	set("energy_distance", d.Energy)
	deviation := spread(b)
	if deviation == 0 { // a constant baseline has no unit of its own
		deviation = spread(slices.Concat(b, t))
	}
	set(Normed, d.Wasserstein/deviation)
	set("ks", d.KS)
	chance := KSChance(d.KS, len(b), len(t))
	set("ks_pvalue", chance)
	cuts := decilesOf(b)
	x, y := shares(binned(b, cuts)), shares(binned(t, cuts))
	set(JS, JensenShannon(x, y))
	set("psi", PSI(x, y))
	return chance
}

func (p *columnPair) compareCategories(c *Column, set func(string, float64)) float64 {
	c.Profile = Profiles{different(p.counts[0]), different(p.counts[1])}
	c.Plot = p.plotCategories()
	x, y := shares(p.counts[0]), shares(p.counts[1])
	if total(p.counts[0]) == 0 || total(p.counts[1]) == 0 {
		return 1
	}
	gaps := GapsBetween(x, y)
	set("euclidean_distance", gaps.Euclidean)
	set("hellinger", gaps.Hellinger)
	set("total_variation", gaps.TotalVariation)
	set("linf", gaps.Greatest)
	set(JS, JensenShannon(x, y))
	set("psi", PSI(x, y))
	test := ChiSquareTable(pooled(p.counts[0], p.counts[1]))
	set("chi2", test.Statistic)
	set("chi2_pvalue", test.Chance)
	set("cramers_v", test.CramersV)
	return test.Chance
}

// pooled puts categories of which either side expects fewer than five rows together:
// the test needs as many.
func pooled(baseline, target []float64) (b, t []float64) {
	n, m := total(baseline), total(target)
	var rest [2]float64
	for i := range baseline {
		if (baseline[i]+target[i])*min(n, m)/(n+m) < 5 {
			rest[0], rest[1] = rest[0]+baseline[i], rest[1]+target[i]
			continue
		}
		b, t = append(b, baseline[i]), append(t, target[i])
	}
	return append(b, rest[0]), append(t, rest[1])
}

// feature is the column as the classifier takes it, of the chosen rows.
func (p *columnPair) feature(base, now []int) feature {
	if p.numeric {
		return feature{numbers: slices.Concat(chosen(p.sides[0].numbers, base), chosen(p.sides[1].numbers, now))}
	}
	return feature{categories: slices.Concat(chosen(p.ranks[0], base), chosen(p.ranks[1], now))}
}

func chosen[T any](values []T, rows []int) []T {
	out := make([]T, len(rows))
	for i, row := range rows {
		out[i] = values[row]
	}
	return out
}

func present(values []float64) []float64 {
	out := make([]float64, 0, len(values))
	for _, v := range values {
		if !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

// profile is of all rows, not of those kept.
func (c *column) profile() map[string]float64 {
	if c.numeric == 0 {
		return map[string]float64{}
	}
	return map[string]float64{"min": c.min, "max": c.max, "mean": c.mean}
}

func different(counts []float64) map[string]float64 {
	var n float64
	for _, c := range counts {
		if c > 0 {
			n++
		}
	}
	return map[string]float64{"unique": n}
}

func total(counts []float64) (sum float64) {
	for _, c := range counts {
		sum += c
	}
	return sum
}

// shares are counts over their sum.
func shares(counts []float64) []float64 {
	sum := total(counts)
	out := make([]float64, len(counts))
	for i, c := range counts {
		if sum > 0 {
			out[i] = c / sum
		}
	}
	return out
}

// spread is the standard deviation of the values themselves.
func spread(values []float64) float64 {
	var mean, sum float64
	for i, v := range values {
		d := v - mean
		mean += d / float64(i+1)
		sum += d * (v - mean)
	}
	return math.Sqrt(sum / float64(len(values)))
}

// decilesOf are the upper ends of the bins that distances are taken over: deciles of
// the baseline, which no change of scale moves, between its ends. What lies outside
// of these has a bin on either side.
func decilesOf(baseline []float64) []float64 {
	sorted := slices.Sorted(slices.Values(baseline))
	cuts := []float64{math.Nextafter(sorted[0], math.Inf(-1))}
	for i := 1; i <= deciles; i++ {
		if cut := sorted[max(0, i*len(sorted)/deciles-1)]; cut > cuts[len(cuts)-1] {
			cuts = append(cuts, cut)
		}
	}
	return cuts
}

// binned counts the values up to each cut, and above the last.
func binned(values, cuts []float64) []float64 {
	counts := make([]float64, len(cuts)+1)
	for _, v := range values {
		counts[sort.SearchFloat64s(cuts, v)]++
	}
	return counts
}

// What a plot shows at most.
const (
	plotBins       = 20
	plotCategories = 12
	plotTail       = 200 // the outermost 1 in so many are drawn at the edge
)

func plotNumbers(b, t []float64) Histogram {
	all := slices.Sorted(slices.Values(slices.Concat(b, t)))
	if len(all) == 0 {
		return Histogram{}
	}
	low, high := all[len(all)/plotTail], all[len(all)-1-len(all)/plotTail]
	cuts := make([]float64, 0, plotBins-1)
	var h Histogram
	for i := range plotBins {
		from, to := low+(high-low)*float64(i)/plotBins, low+(high-low)*float64(i+1)/plotBins
		if i < plotBins-1 {
			cuts = append(cuts, to)
		}
		h.Labels = append(h.Labels, fmt.Sprintf("%.4g to %.4g", from, to))
	}
	h.Baseline, h.Target = shares(binned(b, cuts)), shares(binned(t, cuts))
	return h
}

func (p *columnPair) plotCategories() Histogram {
	n := min(len(p.categories), plotCategories)
	h := Histogram{Labels: slices.Clone(p.categories[:n])}
	b, t := shares(p.counts[0]), shares(p.counts[1])
	h.Baseline, h.Target = slices.Clone(b[:n]), slices.Clone(t[:n])
	if n < len(p.categories) {
		h.Labels = append(h.Labels, fmt.Sprintf("%d others", len(p.categories)-n))
		h.Baseline, h.Target = append(h.Baseline, total(b[n:])), append(h.Target, total(t[n:]))
	}
	return h
}
