package drift

import (
	"cmp"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sort"
	"sync"
)

// The domain classifier: gradient-boosted trees on histograms, which learn to tell
// rows of the target from rows of the baseline. Each row is scored by trees that have
// not seen it. Source: spec/workspace.md section 7.4.
const (
	folds      = 5
	trees      = 60
	depth      = 4
	learning   = 0.1
	leafRows   = 20 // at least, in a leaf
	ridge      = 1.0
	numberBins = 62 // even, so that one cut parts the halves
	categories = 48 // with a bin of their own; rarer ones share those that are left
	rareBins   = 8
	bins       = 64 // at most, of a feature; bin 0 is "no value"
	missingBin = 0
	firstRare  = categories + 1
	rarePrior  = 6 // weight of the prior in the rate of a rare category
)

// A feature is one column of both sides, as the classifier takes it: rows of the
// baseline, then as many of the target.
type feature struct {
	numbers    []float64 // of a numeric column; NaN is missing
	categories []int32   // of a categorical one: its rank by rows, most first; -1 is missing
}

// judgement is what the classifier found.
type judgement struct {
	scores       []float64 // of all rows, by trees that had not seen them; above 0 says target
	contribution []float64 // share of each feature in the gain, sum 1 or all 0
}

// classify judges 2k rows, k of the baseline first.
func classify(features []feature, k int, o Options) (judgement, error) {
	seed := o.Seed
	chance := rand.New(rand.NewPCG(seed, 0x666f_6c64))
	fold := make([]uint8, 2*k)
	for side := range 2 {
		for position, row := range chance.Perm(k) {
			fold[side*k+row] = uint8(position * folds / k)
		}
	}
	base := make([][]uint8, len(features)) // bins that need no labels
	for i, f := range features {
		if f.numbers != nil {
			base[i] = binNumbers(f.numbers)
		}
	}
	j := judgement{scores: make([]float64, 2*k), contribution: make([]float64, len(features))}
	gains := make([][]float64, folds)
	processors := o.Processors
	if processors <= 0 {
		processors = runtime.GOMAXPROCS(0)
	}
	var wait sync.WaitGroup
	var failed [folds]error
	room := make(chan struct{}, processors)
	for out := range folds {
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			gains[out], failed[out] = (&forest{features: features, fold: fold, out: uint8(out), k: k}).judge(base, j.scores, o.pause)
		})
	}
	wait.Wait()
	for _, err := range failed {
		if err != nil {
			return j, err
		}
	}
	var sum float64
	for _, g := range gains {
		for i := range g {
			j.contribution[i] += g[i]
			sum += g[i]
		}
	}
	for i := range j.contribution {
		if sum > 0 {
			j.contribution[i] /= sum
		}
	}
	return j, nil
}

// binNumbers cuts a column at quantiles of both sides together. Only the order of
// values counts, so a monotone change of scale changes nothing.
func binNumbers(values []float64) []uint8 {
	sorted := make([]float64, 0, len(values))
	for _, v := range values {
		if !math.IsNaN(v) {
			sorted = append(sorted, v)
		}
	}
	slices.Sort(sorted)
	var cuts []float64 // the greatest value of each bin but the last
	for i := 1; i < numberBins; i++ {
		if at := i * len(sorted) / numberBins; at > 0 {
			if cut := sorted[at-1]; len(cuts) == 0 || cut > cuts[len(cuts)-1] {
				cuts = append(cuts, cut)
			}
		}
	}
	out := make([]uint8, len(values))
	for i, v := range values {
		if !math.IsNaN(v) {
			out[i] = uint8(1 + sort.SearchFloat64s(cuts, v))
		}
	}
	return out
}

// A forest is the trees of one fold.
type forest struct {
	features []feature
	fold     []uint8
	out      uint8 // the fold that is judged and not learned from
	k        int

	width   int     // features
	bins    []uint8 // row by row
	score   []float64
	slope   []float64 // first derivative of the loss, by row
	bend    []float64 // second
	gain    []float64 // by feature
	rows    []int32   // learned from, parted by leaves
	spare   []int32
	nodes   []node
	buffers [][]slot // histograms that are free
}

// A slot of a histogram sums the rows of one bin.
type slot struct {
	slope, bend float64
	rows        int32
}

// A node asks whether a row's bin of a feature is at most cut; a leaf has no feature.
type node struct {
	feature     int32 // -1: leaf
	cut         uint8
	left, right int32
	value       float64
}

func (f *forest) judge(base [][]uint8, scores []float64, pause func() error) ([]float64, error) {
	n := len(f.fold)
	f.width = len(f.features)
	f.bins = make([]uint8, n*f.width)
	for i := range f.features {
		column := base[i]
		if column == nil {
			column = f.binCategories(f.features[i].categories)
		}
		for row, b := range column {
			f.bins[row*f.width+i] = b
		}
	}
	f.score, f.slope, f.bend = make([]float64, n), make([]float64, n), make([]float64, n)
	f.gain = make([]float64, f.width)
	var judged []int
	for row := range n {
		if f.fold[row] == f.out {
			judged = append(judged, row)
		} else {
			f.rows = append(f.rows, int32(row))
		}
	}
	f.spare = make([]int32, len(f.rows))
	for range trees {
		if err := pause(); err != nil {
			return nil, err
		}
		for _, row := range f.rows {
			p := 1 / (1 + math.Exp(-f.score[row]))
			f.slope[row], f.bend[row] = p, p*(1-p)
			if int(row) >= f.k {
				f.slope[row]--
			}
		}
		f.nodes = f.nodes[:0]
		whole := f.histogram(f.rows)
		root := f.grow(f.rows, whole, depth)
		for _, row := range judged {
			at := root
			for f.nodes[at].feature >= 0 {
				if f.bins[row*f.width+int(f.nodes[at].feature)] <= f.nodes[at].cut {
					at = f.nodes[at].left
				} else {
					at = f.nodes[at].right
				}
			}
			f.score[row] += f.nodes[at].value
		}
	}
	for _, row := range judged {
		scores[row] = f.score[row]
	}
	return f.gain, nil
}

// binCategories orders the most frequent categories by their rate of target rows, so
// that a cut parts them as well as any grouping would. Rarer ones share bins by
// their rate; a row that is learned from has a rate that leaves its own fold out, or
// the trees would believe in labels that they were told.
func (f *forest) binCategories(values []int32) []uint8 {
	most := int32(-1)
	for _, v := range values {
		most = max(most, v)
	}
	type count struct{ rows, targets [folds]float64 }
	counts := make([]count, most+1)
	for row, v := range values {
		if v >= 0 {
			counts[v].rows[f.fold[row]]++
			if row >= f.k {
				counts[v].targets[f.fold[row]]++
			}
		}
	}
	rate := func(v int32, without uint8, prior float64) float64 {
		rows, targets := prior, prior/2
		for i := range counts[v].rows {
			if uint8(i) != f.out && uint8(i) != without {
				rows, targets = rows+counts[v].rows[i], targets+counts[v].targets[i]
			}
		}
		return targets / rows
	}
	frequent := make([]int32, min(len(counts), categories))
	rates := make([]float64, len(frequent))
	for i := range frequent {
		frequent[i], rates[i] = int32(i), rate(int32(i), f.out, 1)
	}
	slices.SortStableFunc(frequent, func(a, b int32) int { return cmp.Compare(rates[a], rates[b]) })
	bin := make([]uint8, len(frequent))
	for i, v := range frequent {
		bin[v] = uint8(1 + i)
	}
	out := make([]uint8, len(values))
	for row, v := range values {
		switch {
		case v < 0:
			out[row] = missingBin
		case int(v) < len(bin):
			out[row] = bin[v]
		default:
			out[row] = firstRare + uint8(min(rate(v, f.fold[row], rarePrior)*rareBins, rareBins-1))
		}
	}
	return out
}

func (f *forest) buffer() []slot {
	if n := len(f.buffers); n > 0 {
		b := f.buffers[n-1]
		f.buffers = f.buffers[:n-1]
		clear(b)
		return b
	}
	return make([]slot, f.width*bins)
}

func (f *forest) histogram(rows []int32) []slot {
	h := f.buffer()
	for _, row := range rows {
		slope, bend := f.slope[row], f.bend[row]
		for i, b := range f.bins[int(row)*f.width : (int(row)+1)*f.width] {
			s := &h[i*bins+int(b)]
			s.slope += slope
			s.bend += bend
			s.rows++
		}
	}
	return h
}

// grow makes the tree of rows and returns its root. It owns the histogram.
func (f *forest) grow(rows []int32, h []slot, levels int) int32 {
	defer func() { f.buffers = append(f.buffers, h) }()
	var all slot
	for _, s := range h[:min(bins, len(h))] { // any feature has all rows
		all.slope, all.bend, all.rows = all.slope+s.slope, all.bend+s.bend, all.rows+s.rows
	}
	at := int32(len(f.nodes))
	f.nodes = append(f.nodes, node{feature: -1})
	best, gain, cut := -1, 1e-9, 0
	worth := func(slope, bend float64) float64 { return slope * slope / (bend + ridge) }
	if levels > 0 && len(rows) >= 2*leafRows {
		for i := range f.width {
			var left slot
			for b, s := range h[i*bins : i*bins+bins-1] {
				if s.rows == 0 {
					continue
				}
				left.slope, left.bend, left.rows = left.slope+s.slope, left.bend+s.bend, left.rows+s.rows
				if left.rows < leafRows {
					continue
				}
				if all.rows-left.rows < leafRows {
					break
				}
				g := worth(left.slope, left.bend) + worth(all.slope-left.slope, all.bend-left.bend) - worth(all.slope, all.bend)
				if g > gain {
					best, gain, cut = i, g, b
				}
			}
		}
	}
	if best < 0 {
		value := -learning * all.slope / (all.bend + ridge)
		f.nodes[at].value = value
		for _, row := range rows {
			f.score[row] += value
		}
		return at
	}
	f.gain[best] += gain
	left, right := f.part(rows, best, uint8(cut))
	small, large := left, right
	if len(left) > len(right) {
		small, large = right, left
	}
	var of, rest []slot
	if levels > 1 {
		of = f.histogram(small)
		rest = f.buffer()
		for i := range rest {
			rest[i] = slot{h[i].slope - of[i].slope, h[i].bend - of[i].bend, h[i].rows - of[i].rows}
		}
	} else {
		of, rest = f.sums(small), f.sums(large)
	}
	if len(left) > len(right) {
		of, rest = rest, of
	}
	l := f.grow(left, of, levels-1)
	r := f.grow(right, rest, levels-1)
	f.nodes[at].feature, f.nodes[at].cut, f.nodes[at].left, f.nodes[at].right = int32(best), uint8(cut), l, r
	return at
}

// sums is all that a leaf needs of a histogram: the rows of one feature in one bin.
func (f *forest) sums(rows []int32) []slot {
	h := f.buffer()
	for _, row := range rows {
		h[0].slope += f.slope[row]
		h[0].bend += f.bend[row]
	}
	h[0].rows = int32(len(rows))
	return h
}

// part puts the rows of the left branch first, each branch in the order it had.
func (f *forest) part(rows []int32, feature int, cut uint8) (left, right []int32) {
	n, spare := 0, f.spare[:0]
	for _, row := range rows {
		if f.bins[int(row)*f.width+feature] <= cut {
			rows[n] = row
			n++
		} else {
			spare = append(spare, row)
		}
	}
	copy(rows[n:], spare)
	return rows[:n], rows[n:]
}
