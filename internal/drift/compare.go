package drift

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Method is how the coefficient of a whole dataset is made.
type Method string

// The methods. Each is 0 to 1.
const (
	ByClassifier Method = "classifier" // Matthews correlation of the domain classifier, on rows it had not seen
	ByAUC        Method = "auc"        // 2·AUC-1 of the same classifier
	ByShare      Method = "share"      // share of columns that drifted
	ByMaxJS      Method = "maxjs"      // the greatest Jensen-Shannon distance of a column
)

// Methods are all of them, the default first.
var Methods = []Method{ByClassifier, ByAUC, ByShare, ByMaxJS}

// DefaultThreshold is what the coefficient of a method is held against by default.
// Source: spec/workspace.md sections 1.6, 7.2 (NannyML's AUC of 0.65) and 7.4.
func DefaultThreshold(m Method) float64 {
	switch m {
	case ByAUC:
		return 0.3
	case ByShare:
		return 0.5
	case ByMaxJS:
		return 0.1
	default:
		return 0.2
	}
}

// Limits of what is called drift.
const (
	chanceLimit = 0.001 // of a verdict, and so of a false alarm
	// Scores of different folds are not independent: each fold is judged by what the
	// others say. Without drift, MCC·√N was measured to have a deviation of 1.2 to 1.5,
	// not 1 as spec/workspace.md section 7.4 has it, and to pass 1.6 times the normal
	// quantile of 1 in 1,000 less often than that.
	foldNoise = 1.6
	effect    = 0.1   // least normed Wasserstein or Jensen-Shannon distance, or difference of missing rates, of a column with many rows
	manyRows  = 1_000 // from which on a trifle is significant
	fewValues = 20    // numbers of so many different values are categories
	idShare   = 0.95  // texts that differ in more than this share of rows are names of rows
	idRows    = 20    // that it takes to say so
	deciles   = 10
)

// DefaultMinRows is the least that each side needs.
const DefaultMinRows = 50

// Status says whether there was enough to judge.
type Status string

const (
	OK           Status = "ok"
	Insufficient Status = "insufficientData" // chance alone could reach the threshold
	NoData       Status = "noData"           // a side has no rows
)

// Options of a comparison.
type Options struct {
	Method      Method   // "" means ByClassifier
	Threshold   *float64 // nil means the method's default
	Numeric     []string // columns whose numbers are to be taken as such
	Categorical []string // columns to be taken as categories
	MinRows     int      // of each side; 0 means DefaultMinRows
	Seed        uint64

	Processors int          // to use at most; 0 means all
	Pause      func() error // called now and then, also by several goroutines at once; an error ends the comparison; optional
}

func (o Options) pause() error {
	if o.Pause == nil {
		return nil
	}
	return o.Pause()
}

// Result is the outcome of a comparison: the result document of a drift run.
// Source of its form: spec/workspace.md section 7.3.
type Result struct {
	SchemaVersion string `json:"schemaVersion"`
	Window
	Status      Status   `json:"status"`
	Reason      string   `json:"reason,omitempty"` // of another status than OK
	Method      Method   `json:"method"`
	Coefficient float64  `json:"driftCoefficient"`
	Chance      float64  `json:"pValue"`
	Threshold   float64  `json:"driftThreshold"`
	HasDrift    bool     `json:"hasDrift"`
	Rows        Rows     `json:"rows"`
	Metrics     []Metric `json:"datasetMetrics"`
	Columns     []Column `json:"columns"` // what moved most comes first
	Skipped     []Skip   `json:"skipped,omitempty"`
}

// Window says of what a result is, where it is known. Compare leaves it empty.
type Window struct {
	DataDriftID     string `json:"dataDriftId,omitempty"`
	DataDriftName   string `json:"dataDriftName,omitempty"`
	RunID           string `json:"runId,omitempty"`
	BaseDatasetID   string `json:"baseDatasetId,omitempty"`
	TargetDatasetID string `json:"targetDatasetId,omitempty"`
	StartTime       string `json:"startTime,omitempty"`
	EndTime         string `json:"endTime,omitempty"`
}

// Rows counts the rows of the datasets, of the samples, and those that the classifier
// judged.
type Rows struct {
	Baseline        int64 `json:"baseline"`
	Target          int64 `json:"target"`
	SampledBaseline int   `json:"sampledBaseline"`
	SampledTarget   int   `json:"sampledTarget"`
	HeldOut         int   `json:"heldOut"`
}

// Metric is a number with a name.
type Metric struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Column is the comparison of one column.
type Column struct {
	Name     string             `json:"name"`
	Type     string             `json:"type"` // numeric or categorical
	Drifted  bool               `json:"drifted"`
	Chance   float64            `json:"pValue"` // of values and missing rate together
	Metrics  map[string]float64 `json:"metrics"`
	Profile  Profiles           `json:"profile"`
	Plot     Histogram          `json:"histogram"`
	effected bool
}

// Profiles are what the sides of a column look like.
type Profiles struct {
	Baseline map[string]float64 `json:"baseline"`
	Target   map[string]float64 `json:"target"`
}

// Histogram holds the shares of both sides, by bins of equal width or by category.
type Histogram struct {
	Labels   []string  `json:"labels"`
	Baseline []float64 `json:"baseline"`
	Target   []float64 `json:"target"`
}

// Skip is a column that was not compared.
type Skip struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Names of metrics that others look for. Source: spec/workspace.md sections 1.6, 7.3.
const (
	Contribution = "datadrift_contribution"
	Normed       = "wasserstein_normed"
	JS           = "js2"
	MissingBase  = "missing_rate_baseline"
	MissingNow   = "missing_rate_target"
)

// leastRows is the number of held-out rows below which chance alone reaches the
// threshold more often than once in 10,000. Below a threshold of 0.1 no more are
// asked for: there the probability decides. Source: spec/workspace.md section 7.4.
func leastRows(m Method, threshold float64) int {
	const z = 3.71901648545568 // normalTail(z) = 1e-4
	need := math.Pow(z/max(threshold, 0.1), 2)
	switch m {
	case ByClassifier:
		return int(math.Ceil(need))
	case ByAUC:
		return int(math.Ceil(need * 4 / 3)) // the variance of 2·AUC-1 is 4/3 of 1/N
	default:
		return 0
	}
}

// Compare compares a target with a baseline.
func Compare(baseline, target *Sample, o Options) (*Result, error) {
	if o.Method == "" {
		o.Method = ByClassifier
	}
	if !slices.Contains(Methods, o.Method) {
		return nil, fmt.Errorf("there is no method %q", o.Method)
	}
	r := &Result{
		SchemaVersion: "1.0", Status: OK, Method: o.Method, Threshold: DefaultThreshold(o.Method), Chance: 1,
		Rows: Rows{Baseline: baseline.Rows, Target: target.Rows, SampledBaseline: baseline.kept, SampledTarget: target.kept}, Metrics: []Metric{}, Columns: []Column{},
	}
	if o.Threshold != nil {
		r.Threshold = *o.Threshold
	}
	if !(r.Threshold >= 0 && r.Threshold <= 1) {
		return nil, fmt.Errorf("the threshold is %g and has to be from 0 to 1", r.Threshold)
	}
	if err := o.unknown(baseline, target); err != nil {
		return nil, err
	}
	if baseline.Rows == 0 || target.Rows == 0 {
		r.Status, r.Reason = NoData, "the target has no rows"
		if baseline.Rows == 0 {
			r.Reason = "the baseline has no rows"
		}
		return r, nil
	}
	pairs, skipped := pair(baseline, target, o)
	r.Skipped = skipped
	if len(pairs) == 0 {
		return nil, errors.New("no column can be compared" + why(skipped))
	}
	chances := make([]float64, len(pairs))
	for i, p := range pairs {
		if err := o.pause(); err != nil {
			return nil, err
		}
		c := p.compare()
		chances[i] = c.Chance
		r.Columns = append(r.Columns, c)
	}
	for i, found := range discoveries(chances) {
		r.Columns[i].Drifted = found && r.Columns[i].effected
	}
	if err := r.conclude(pairs, chances, o); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.Columns, func(a, b Column) int {
		return cmp.Or(cmp.Compare(b.Metrics[Contribution], a.Metrics[Contribution]), cmp.Compare(b.Metrics[JS], a.Metrics[JS]))
	})
	return r, nil
}

// conclude makes the coefficient and the verdict.
func (r *Result) conclude(pairs []*columnPair, chances []float64, o Options) error {
	k := min(r.Rows.SampledBaseline, r.Rows.SampledTarget)
	r.Rows.HeldOut = 2 * k
	least := DefaultMinRows
	if o.MinRows > 0 {
		least = o.MinRows
	}
	var share, widest float64
	for _, c := range r.Columns {
		if c.Drifted {
			share += 1 / float64(len(r.Columns))
		}
		widest = max(widest, c.Metrics[JS])
	}
	share = min(share, 1)
	add := func(name string, value float64) { r.Metrics = append(r.Metrics, Metric{name, value}) }
	switch r.Method {
	case ByShare:
		r.Coefficient, r.Chance = share, simes(chances)
	case ByMaxJS:
		r.Coefficient, r.Chance = widest, simes(chances)
	default:
		if k < folds { // there is nothing to hold out
			break
		}
		mcc, auc, err := r.judge(pairs, k, o)
		if err != nil {
			return err
		}
		if n := float64(2 * k); r.Method == ByClassifier {
			r.Coefficient, r.Chance = max(0, mcc), normalTail(mcc*math.Sqrt(n)/foldNoise)
		} else {
			r.Coefficient = max(0, 2*auc-1)
			r.Chance = normalTail((auc - 0.5) / math.Sqrt((n+1)/(12*float64(k)*float64(k))) / foldNoise)
		}
		add("domain_mcc", mcc)
		add("domain_auc", auc)
	}
	r.Metrics = slices.Insert(r.Metrics, 0, Metric{"datadrift_coefficient", r.Coefficient})
	add("drifted_share", share)
	add("max_js2", widest)
	above := r.Coefficient > r.Threshold // strictly: spec/workspace.md section 1.6
	switch need := leastRows(r.Method, r.Threshold); {
	case k < least:
		r.Status, r.Reason = Insufficient, fmt.Sprintf("each side needs %d rows; the smaller has %d", least, k)
	case 2*k < need:
		r.Status, r.Reason = Insufficient, fmt.Sprintf("threshold %g needs %d rows of each side, or chance alone could reach it; the smaller has %d", r.Threshold, (need+1)/2, k)
	case above && r.Chance >= chanceLimit:
		r.Status, r.Reason = Insufficient, fmt.Sprintf("chance alone reaches a coefficient of %.3g with probability %.2g, and %g is the limit", r.Coefficient, r.Chance, chanceLimit)
	default:
		r.HasDrift = above
	}
	return nil
}

// judge runs the domain classifier over k rows of each side.
func (r *Result) judge(pairs []*columnPair, k int, o Options) (mcc, auc float64, err error) {
	chance := rand.New(rand.NewPCG(o.Seed, 0x7369_6465))
	choose := func(n int) []int {
		rows := chance.Perm(n)[:k]
		slices.Sort(rows)
		return rows
	}
	base, now := choose(r.Rows.SampledBaseline), choose(r.Rows.SampledTarget)
	features := make([]feature, len(pairs))
	for i, p := range pairs {
		features[i] = p.feature(base, now)
	}
	j, err := classify(features, k, o)
	if err != nil {
		return 0, 0, err
	}
	var c Confusion
	for row, score := range j.scores {
		switch {
		case row >= k && score > 0:
			c.TP++
		case row >= k:
			c.FN++
		case score > 0:
			c.FP++
		default:
			c.TN++
		}
	}
	for i, share := range j.contribution {
		r.Columns[i].Metrics[Contribution] = share
	}
	return c.MCC(), AUC(j.scores[:k], j.scores[k:]), nil
}

// unknown refuses names of columns that no side has.
func (o Options) unknown(baseline, target *Sample) error {
	for _, name := range slices.Concat(o.Numeric, o.Categorical) {
		if baseline.byName[name] == nil && target.byName[name] == nil {
			return fmt.Errorf("neither side has a column %q", name)
		}
	}
	for _, s := range []*Sample{baseline, target} {
		for name := range s.exclude {
			if baseline.byName[name] == nil && target.byName[name] == nil && baseline.Rows > 0 && target.Rows > 0 {
				return fmt.Errorf("neither side has a column %q", name)
			}
		}
	}
	for _, name := range o.Numeric {
		if slices.Contains(o.Categorical, name) {
			return fmt.Errorf("column %q cannot be both numeric and categorical", name)
		}
		for _, s := range []*Sample{baseline, target} {
			if c := s.byName[name]; c != nil && c.textual > 0 {
				return fmt.Errorf("column %q cannot be numeric: it has texts, such as %q", name, slices.Min(append(c.words, "~")))
			}
		}
	}
	return nil
}

func why(skipped []Skip) string {
	if len(skipped) == 0 {
		return ""
	}
	reasons := []string{}
	for _, s := range skipped[:min(len(skipped), 5)] {
		reasons = append(reasons, fmt.Sprintf("%s: %s", s.Name, s.Reason))
	}
	return " (" + strings.Join(reasons, "; ") + ")"
}
