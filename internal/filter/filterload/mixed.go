package filterload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/filter"
)

// The mixed workload: a platform's machine learning teams, each watching its own
// models, experiments, endpoints and drift monitors. Names are drawn from pools
// that grow with the population, about ten event subscriptions to a name, and the
// names of the events are among them: many filters agree with an event in all but
// one condition. What has few values (event types, stages, statuses, run types) is
// named by thousands of filters at once.

// The kinds of events.
const (
	runCompleted = iota
	runStatusChanged
	modelRegistered
	modelDeployed
	driftDetected
	kinds
)

var kindNames = [kinds]string{
	"Microsoft.MachineLearningServices.RunCompleted",
	"Microsoft.MachineLearningServices.RunStatusChanged",
	"Microsoft.MachineLearningServices.ModelRegistered",
	"Microsoft.MachineLearningServices.ModelDeployed",
	"Microsoft.MachineLearningServices.DatasetDriftDetected",
}

// choices draws names for one filter. The names of event p are those with number p.
type choices struct {
	*rand.Rand
	pool int
	own  int // -1, or the event that the filter is to be for
}

func (c choices) number() int {
	if c.own >= 0 {
		return c.own
	}
	return c.IntN(c.pool)
}

func (c choices) oneIn(n int) bool { return c.IntN(n) == 0 }

// named is a name in the series of its kind.
func named(format string, bases []string, n int) string {
	return fmt.Sprintf(format, bases[n%len(bases)], n)
}

var domains = []string{"churn", "fraud", "ranking", "eta", "pricing", "vision-qa", "forecast"}

func modelName(n int) string      { return named("%s-xgb-%d", domains, n) }
func experimentName(n int) string { return named("%s-train-%d", domains, n) }
func serviceName(n int) string    { return named("%s-online-%d", domains, n) }
func datasetName(n int) string    { return named("%s-features-%d", domains, n) }
func teamName(n int) string       { return named("team-%s-%d", domains, n) }
func ownerName(n int) string      { return fmt.Sprintf("user%d@example.com", n) }
func tagName(n int) string        { return fmt.Sprintf("hook-%d", n) }
func versionOf(p int) string      { return fmt.Sprint(3 + p) }

var (
	stageNames  = []string{"production", "staging", "candidate", "archived"}
	statusNames = []string{"Failed", "Canceled", "Completed", "Running"}
	runTypes    = []string{"azureml.scriptrun", "automl", "azureml.PipelineRun", "hyperdrive"}
)

func kindOf(p int) int { return p % kinds }

// mixedEvent is an event of about 1 KB; its names have number p.
func mixedEvent(p int, filler string) string {
	kind := kindOf(p)
	tags := fmt.Sprintf(`{"owner":%q,"team":%q,"stage":%q,"region":"westeurope",%q:"on"}`, ownerName(p), teamName(p), stageNames[p%len(stageNames)], tagName(p))
	labels := fmt.Sprintf(`"labels":["nightly","gpu",%q]`, "label-"+fmt.Sprint(p))
	run := filler + fmt.Sprintf(`"experimentId":"7d1c3f4e-90ab-4cde-8f01-2345678900%02d","experimentName":%q,"runId":"run_%d","runType":%q,"runTags":%s,`+
		`"runProperties":{"iteration":"5","git.commit":"4f5a9a3c7d1e","note":"retrained after incident %d on gpu-a100"},%s,`+
		`"metrics":{"auc":%.2f,"rmse":%.2f,"epochs":%d},"early":%v,"parentRunId":null`,
		p, experimentName(p), p, runTypes[p%len(runTypes)], tags, p, labels, 0.80+float64(p)/100, 2.5-float64(p)/10, 20+p, p%2 == 0)
	experiment := fmt.Sprintf("experiments/%s/runs/run_%d", experimentName(p), p)
	var subject, data string
	switch kind {
	case runCompleted:
		subject, data = experiment, run
	case runStatusChanged:
		subject, data = experiment, run+`,"runStatus":"Failed"`
	case modelRegistered:
		subject = "models/" + modelName(p) + ":" + versionOf(p)
		data = filler + fmt.Sprintf(`"modelName":%q,"modelVersion":%q,"modelTags":%s,"modelProperties":{"framework":"xgboost","frameworkVersion":"2.1.0","sizeBytes":"48211023","signature":"double[31] -> double","source":"runs:/run_%d/model"},%s,"metrics":{"auc":%.2f}`,
			modelName(p), versionOf(p), tags, p, labels, 0.80+float64(p)/100)
	case modelDeployed:
		subject = "endpoints/" + serviceName(p)
		data = filler + fmt.Sprintf(`"serviceName":%q,"serviceComputeType":"AKS","modelIds":"%s:%s,%s:1","serviceTags":%s,"serviceProperties":{"replicas":"3","traffic":"blue=90,green=10","image":"registry.example.com/serving/xgboost:2.1.0"},%s`,
			serviceName(p), modelName(p), versionOf(p), modelName(p+1), tags, labels)
	default:
		subject = fmt.Sprintf("datadrift/%s/run_%d", datasetName(p), p)
		data = filler + fmt.Sprintf(`"dataDriftId":"01d29aa4-e6a4-470a-9ef3-66660d21f8%02d","dataDriftName":%q,"runId":"run_%d","baseDatasetId":"3c56d136-0f64-4657-a0e8-5162089a88a3","targetDatasetId":"d7e74d2e-c972-4266-b5fb-6c9c182d2a74","driftCoefficient":%.2f,"startTime":"2026-03-04T00:00:00Z","endTime":"2026-03-05T00:00:00Z","tags":%s,%s`,
			p, datasetName(p), p, 0.30+float64(p)/100, tags, labels)
	}
	return envelope(p, kindNames[kind], subject, data)
}

// template is one way in which users write filters.
type template struct {
	weight int
	write  func(c choices) filter.Filter
}

func types(kind ...int) []string {
	var out []string
	for _, k := range kind {
		out = append(out, kindNames[k])
	}
	return out
}

func in(key string, values ...string) filter.Condition {
	return filter.Condition{Operator: filter.StringIn, Key: key, Strings: values}
}

func compare(op filter.Operator, key string, v float64) filter.Condition {
	return filter.Condition{Operator: op, Key: key, Numbers: []filter.Number{filter.Number(fmt.Sprintf("%.3f", v))}}
}

// tagsOf is the path of the tags in events of a kind.
func tagsOf(kind int) string {
	return [kinds]string{"data.runTags.", "data.runTags.", "data.modelTags.", "data.serviceTags.", "data.tags."}[kind]
}

// patterns are the filters that patterns of equality, prefix, anything-but and
// exists can express too, the first five even those of equality and prefix alone.
// Prefixes of subjects are case-sensitive here.
var patterns = []template{
	{18, func(c choices) filter.Filter { // every version of one model
		return filter.Filter{IncludedEventTypes: types(modelRegistered), SubjectBeginsWith: "models/" + modelName(c.number()) + ":", IsSubjectCaseSensitive: true}
	}},
	{6, func(c choices) filter.Filter { // one service comes up
		return filter.Filter{IncludedEventTypes: types(modelDeployed), SubjectBeginsWith: "endpoints/" + serviceName(c.number()), IsSubjectCaseSensitive: true}
	}},
	{10, func(c choices) filter.Filter { // promotion of a model
		return filter.Filter{IncludedEventTypes: types(modelRegistered), AdvancedFilters: []filter.Condition{
			in("data.modelTags.stage", stageNames[:1+c.IntN(4)]...), in("data.modelName", modelName(c.number()))}}
	}},
	{9, func(c choices) filter.Filter { // runs of certain types of one person or team
		kind := c.IntN(2)
		conditions := []filter.Condition{in("data.runType", runTypes[:2+c.IntN(3)]...), in("data.runTags.owner", ownerName(c.number()))}
		if c.oneIn(2) {
			conditions[1] = in("data.runTags.team", teamName(c.number()))
		}
		return filter.Filter{IncludedEventTypes: types(kind), AdvancedFilters: conditions}
	}},
	{8, func(c choices) filter.Filter { // whatever a team does
		kind := c.IntN(kinds)
		return filter.Filter{IncludedEventTypes: types(kind), AdvancedFilters: []filter.Condition{in(tagsOf(kind)+"team", teamName(c.number()), teamName(c.IntN(c.pool)))}}
	}},
	{6, func(c choices) filter.Filter { // a team's models, but not the archived ones
		kind := c.IntN(kinds)
		return filter.Filter{IncludedEventTypes: types(kind), AdvancedFilters: []filter.Condition{
			{Operator: filter.StringNotIn, Key: tagsOf(kind) + "stage", Strings: []string{"archived", "dev"}}, in(tagsOf(kind)+"team", teamName(c.number()))}}
	}},
	{6, func(c choices) filter.Filter { // a tag that only one automation sets
		kind := c.IntN(kinds)
		return filter.Filter{IncludedEventTypes: types(kind), AdvancedFilters: []filter.Condition{{Operator: filter.IsNotNull, Key: tagsOf(kind) + tagName(c.number())}}}
	}},
	{3, func(c choices) filter.Filter { // top-level runs of an experiment with a number of epochs
		n := c.number()
		return filter.Filter{IncludedEventTypes: types(runCompleted), AdvancedFilters: []filter.Condition{
			in("data.experimentName", experimentName(n)),
			{Operator: filter.NumberIn, Key: "data.metrics.epochs", Numbers: []filter.Number{filter.Number(fmt.Sprint(20 + n%60)), "200"}},
			{Operator: filter.BoolEquals, Key: "data.early", Bool: n%2 == 0},
			{Operator: filter.IsNullOrUndefined, Key: "data.sweepId"}}}
	}},
}

// others are the filters that only the operators of an event grid can express.
var others = []template{
	{5, func(c choices) filter.Filter { // one exact version
		n := c.number()
		return filter.Filter{SubjectBeginsWith: "models/" + modelName(n) + ":", SubjectEndsWith: ":" + versionOf(n%40)}
	}},
	{12, func(c choices) filter.Filter { // failed runs of an experiment
		return filter.Filter{IncludedEventTypes: types(runStatusChanged), AdvancedFilters: []filter.Condition{
			in("data.runStatus", statusNames[:1+c.IntN(2)]...),
			{Operator: filter.StringBeginsWith, Key: "data.experimentName", Strings: []string{experimentName(c.number())}}}}
	}},
	{4, func(c choices) filter.Filter { // drift of anything above a bound
		return filter.Filter{IncludedEventTypes: types(driftDetected), AdvancedFilters: []filter.Condition{compare(filter.NumberGreaterThan, "data.driftCoefficient", 0.25+0.7*c.Float64())}}
	}},
	{6, func(c choices) filter.Filter { // drift of one dataset above a bound
		op := [...]filter.Operator{filter.NumberGreaterThan, filter.NumberGreaterThanOrEquals}[c.IntN(2)]
		return filter.Filter{IncludedEventTypes: types(driftDetected), AdvancedFilters: []filter.Condition{
			in("data.dataDriftName", datasetName(c.number())), compare(op, "data.driftCoefficient", 0.1+0.3*c.Float64())}}
	}},
	{5, func(c choices) filter.Filter { // a metric within a band, for a team
		low := 0.75 + 0.2*c.Float64()
		return filter.Filter{IncludedEventTypes: types(runCompleted, modelRegistered), AdvancedFilters: []filter.Condition{
			{Operator: filter.NumberInRange, Key: "data.metrics.auc", Ranges: [][2]filter.Number{{filter.Number(fmt.Sprintf("%.3f", low)), filter.Number(fmt.Sprintf("%.3f", low+0.1))}}},
			in(tagsOf(c.of2(runCompleted, modelRegistered))+"team", teamName(c.number()))}}
	}},
	{2, func(c choices) filter.Filter { // a metric that became bad
		return filter.Filter{IncludedEventTypes: types(runCompleted), AdvancedFilters: []filter.Condition{
			compare(filter.NumberGreaterThan, "data.metrics.rmse", 1.0+3*c.Float64()), compare(filter.NumberLessThanOrEquals, "data.metrics.auc", 0.85),
			{Operator: filter.NumberNotInRange, Key: "data.metrics.epochs", Ranges: [][2]filter.Number{{"0", "5"}}},
			in("data.runTags.owner", ownerName(c.number()))}}
	}},
	{4, func(c choices) filter.Filter { // a word in a text
		if c.oneIn(2) {
			return filter.Filter{IncludedEventTypes: types(modelDeployed), AdvancedFilters: []filter.Condition{
				{Operator: filter.StringContains, Key: "data.modelIds", Strings: []string{modelName(c.number()) + ":"}}}}
		}
		return filter.Filter{AdvancedFilters: []filter.Condition{
			{Operator: filter.StringContains, Key: "data.runProperties.note", Strings: []string{fmt.Sprintf("incident %d ", c.number()), "out of memory"}}}}
	}},
	{3, func(c choices) filter.Filter { // not the sandbox
		return filter.Filter{AdvancedFilters: []filter.Condition{
			{Operator: [...]filter.Operator{filter.StringNotContains, filter.StringNotBeginsWith, filter.StringNotEndsWith}[c.IntN(3)], Key: "subject", Strings: []string{"sandbox", "scratch"}},
			in(tagsOf(c.IntN(kinds))+"owner", ownerName(c.number()))}}
	}},
	{4, func(c choices) filter.Filter { // one of the labels
		kind := c.IntN(kinds)
		return filter.Filter{IncludedEventTypes: types(kind), EnableAdvancedFilteringOnArrays: true, AdvancedFilters: []filter.Condition{
			in("data.labels", fmt.Sprintf("label-%d", c.number()), fmt.Sprintf("label-%d", c.IntN(c.pool)))}}
	}},
	{2, func(c choices) filter.Filter { // the end of a subject
		return filter.Filter{SubjectEndsWith: fmt.Sprintf("/run_%d", c.number())}
	}},
	{3, func(c choices) filter.Filter { // everything at once
		kind := c.IntN(2)
		return filter.Filter{IncludedEventTypes: types(kind), SubjectBeginsWith: "Experiments/" + strings.ToUpper(domains[c.number()%len(domains)]), AdvancedFilters: []filter.Condition{
			in("data.runTags.region", "westeurope", "northeurope"),
			in("Data.RunTags.Stage", stageNames[:2+c.IntN(3)]...),
			{Operator: filter.StringNotIn, Key: "data.runType", Strings: []string{"hyperdrive.sweep"}},
			{Operator: filter.IsNullOrUndefined, Key: "data.parentRunId"},
			{Operator: filter.NumberNotIn, Key: "data.metrics.epochs", Numbers: []filter.Number{"0", "1"}},
			compare(filter.NumberLessThan, "data.metrics.rmse", 1.0+3*c.Float64()),
			in("data.runTags.owner", ownerName(c.number()), ownerName(c.IntN(c.pool)))}}
	}},
}

func (c choices) of2(a, b int) int { return [...]int{a, b}[c.IntN(2)] }

// mixedWorkload draws filters from templates by weight.
func mixedWorkload(op string, most int, templates []template) Workload {
	total := 0
	for _, t := range templates {
		total += t.weight
	}
	draw := func(c choices) filter.Filter {
		left := c.IntN(total)
		for _, t := range templates {
			if left -= t.weight; left < 0 {
				return t.write(c)
			}
		}
		panic("unreachable")
	}
	return Workload{Op: op, Most: most, event: mixedEvent, retry: true,
		wanted: func(r *rand.Rand) []wanted {
			return []wanted{{filter: draw(choices{Rand: r, pool: 1000, own: r.IntN(Probes)})}}
		},
		miss: func(r *rand.Rand, pool int) filter.Filter { return draw(choices{Rand: r, pool: pool, own: -1}) },
	}
}

// Mixed is the workload that the bars are about.
func Mixed() Workload {
	return mixedWorkload("mixed", 1_000_000, append(append([]template(nil), patterns...), others...))
}

// Patterns holds only what equality, prefix, anything-but and exists can say: the
// subset of filters that event pattern matchers share.
func Patterns() Workload { return mixedWorkload("patterns", 100_000, patterns) }

// Equality holds only what equality and prefix can say, which pattern matchers do best.
func Equality() Workload { return mixedWorkload("equality", 100_000, patterns[:5]) }

// All are Mixed, one or more for every operator, and one for each simple test.
// Patterns and Equality, which are parts of Mixed, stand apart.
func All() []Workload {
	return slices.Concat([]Workload{Mixed()}, operatorWorkloads(), refusingWorkloads())
}
