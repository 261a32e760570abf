package filter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
	write  func(c choices) Filter
}

func types(kind ...int) []string {
	var out []string
	for _, k := range kind {
		out = append(out, kindNames[k])
	}
	return out
}

func in(key string, values ...string) Condition {
	return Condition{Operator: StringIn, Key: key, Strings: values}
}

func compare(op Operator, key string, v float64) Condition {
	return Condition{Operator: op, Key: key, Numbers: []Number{Number(fmt.Sprintf("%.3f", v))}}
}

// tagsOf is the path of the tags in events of a kind.
func tagsOf(kind int) string {
	return [kinds]string{"data.runTags.", "data.runTags.", "data.modelTags.", "data.serviceTags.", "data.tags."}[kind]
}

// patterns are the filters that patterns of equality, prefix, anything-but and
// exists can express too, the first five even those of equality and prefix alone.
// Prefixes of subjects are case-sensitive here.
var patterns = []template{
	{18, func(c choices) Filter { // every version of one model
		return Filter{IncludedEventTypes: types(modelRegistered), SubjectBeginsWith: "models/" + modelName(c.number()) + ":", IsSubjectCaseSensitive: true}
	}},
	{6, func(c choices) Filter { // one service comes up
		return Filter{IncludedEventTypes: types(modelDeployed), SubjectBeginsWith: "endpoints/" + serviceName(c.number()), IsSubjectCaseSensitive: true}
	}},
	{10, func(c choices) Filter { // promotion of a model
		return Filter{IncludedEventTypes: types(modelRegistered), AdvancedFilters: []Condition{
			in("data.modelTags.stage", stageNames[:1+c.IntN(4)]...), in("data.modelName", modelName(c.number()))}}
	}},
	{9, func(c choices) Filter { // runs of certain types of one person or team
		kind := c.IntN(2)
		conditions := []Condition{in("data.runType", runTypes[:2+c.IntN(3)]...), in("data.runTags.owner", ownerName(c.number()))}
		if c.oneIn(2) {
			conditions[1] = in("data.runTags.team", teamName(c.number()))
		}
		return Filter{IncludedEventTypes: types(kind), AdvancedFilters: conditions}
	}},
	{8, func(c choices) Filter { // whatever a team does
		kind := c.IntN(kinds)
		return Filter{IncludedEventTypes: types(kind), AdvancedFilters: []Condition{in(tagsOf(kind)+"team", teamName(c.number()), teamName(c.IntN(c.pool)))}}
	}},
	{6, func(c choices) Filter { // a team's models, but not the archived ones
		kind := c.IntN(kinds)
		return Filter{IncludedEventTypes: types(kind), AdvancedFilters: []Condition{
			{Operator: StringNotIn, Key: tagsOf(kind) + "stage", Strings: []string{"archived", "dev"}}, in(tagsOf(kind)+"team", teamName(c.number()))}}
	}},
	{6, func(c choices) Filter { // a tag that only one automation sets
		kind := c.IntN(kinds)
		return Filter{IncludedEventTypes: types(kind), AdvancedFilters: []Condition{{Operator: IsNotNull, Key: tagsOf(kind) + tagName(c.number())}}}
	}},
	{3, func(c choices) Filter { // top-level runs of an experiment with a number of epochs
		n := c.number()
		return Filter{IncludedEventTypes: types(runCompleted), AdvancedFilters: []Condition{
			in("data.experimentName", experimentName(n)),
			{Operator: NumberIn, Key: "data.metrics.epochs", Numbers: []Number{Number(fmt.Sprint(20 + n%60)), "200"}},
			{Operator: BoolEquals, Key: "data.early", Bool: n%2 == 0},
			{Operator: IsNullOrUndefined, Key: "data.sweepId"}}}
	}},
}

// others are the filters that only the operators of an event grid can express.
var others = []template{
	{5, func(c choices) Filter { // one exact version
		n := c.number()
		return Filter{SubjectBeginsWith: "models/" + modelName(n) + ":", SubjectEndsWith: ":" + versionOf(n%40)}
	}},
	{12, func(c choices) Filter { // failed runs of an experiment
		return Filter{IncludedEventTypes: types(runStatusChanged), AdvancedFilters: []Condition{
			in("data.runStatus", statusNames[:1+c.IntN(2)]...),
			{Operator: StringBeginsWith, Key: "data.experimentName", Strings: []string{experimentName(c.number())}}}}
	}},
	{4, func(c choices) Filter { // drift of anything above a bound
		return Filter{IncludedEventTypes: types(driftDetected), AdvancedFilters: []Condition{compare(NumberGreaterThan, "data.driftCoefficient", 0.25+0.7*c.Float64())}}
	}},
	{6, func(c choices) Filter { // drift of one dataset above a bound
		op := [...]Operator{NumberGreaterThan, NumberGreaterThanOrEquals}[c.IntN(2)]
		return Filter{IncludedEventTypes: types(driftDetected), AdvancedFilters: []Condition{
			in("data.dataDriftName", datasetName(c.number())), compare(op, "data.driftCoefficient", 0.1+0.3*c.Float64())}}
	}},
	{5, func(c choices) Filter { // a metric within a band, for a team
		low := 0.75 + 0.2*c.Float64()
		return Filter{IncludedEventTypes: types(runCompleted, modelRegistered), AdvancedFilters: []Condition{
			{Operator: NumberInRange, Key: "data.metrics.auc", Ranges: [][2]Number{{Number(fmt.Sprintf("%.3f", low)), Number(fmt.Sprintf("%.3f", low+0.1))}}},
			in(tagsOf(c.of2(runCompleted, modelRegistered))+"team", teamName(c.number()))}}
	}},
	{2, func(c choices) Filter { // a metric that became bad
		return Filter{IncludedEventTypes: types(runCompleted), AdvancedFilters: []Condition{
			compare(NumberGreaterThan, "data.metrics.rmse", 1.0+3*c.Float64()), compare(NumberLessThanOrEquals, "data.metrics.auc", 0.85),
			{Operator: NumberNotInRange, Key: "data.metrics.epochs", Ranges: [][2]Number{{"0", "5"}}},
			in("data.runTags.owner", ownerName(c.number()))}}
	}},
	{4, func(c choices) Filter { // a word in a text
		if c.oneIn(2) {
			return Filter{IncludedEventTypes: types(modelDeployed), AdvancedFilters: []Condition{
				{Operator: StringContains, Key: "data.modelIds", Strings: []string{modelName(c.number()) + ":"}}}}
		}
		return Filter{AdvancedFilters: []Condition{
			{Operator: StringContains, Key: "data.runProperties.note", Strings: []string{fmt.Sprintf("incident %d ", c.number()), "out of memory"}}}}
	}},
	{3, func(c choices) Filter { // not the sandbox
		return Filter{AdvancedFilters: []Condition{
			{Operator: [...]Operator{StringNotContains, StringNotBeginsWith, StringNotEndsWith}[c.IntN(3)], Key: "subject", Strings: []string{"sandbox", "scratch"}},
			in(tagsOf(c.IntN(kinds))+"owner", ownerName(c.number()))}}
	}},
	{4, func(c choices) Filter { // one of the labels
		kind := c.IntN(kinds)
		return Filter{IncludedEventTypes: types(kind), EnableAdvancedFilteringOnArrays: true, AdvancedFilters: []Condition{
			in("data.labels", fmt.Sprintf("label-%d", c.number()), fmt.Sprintf("label-%d", c.IntN(c.pool)))}}
	}},
	{2, func(c choices) Filter { // the end of a subject
		return Filter{SubjectEndsWith: fmt.Sprintf("/run_%d", c.number())}
	}},
	{3, func(c choices) Filter { // everything at once
		kind := c.IntN(2)
		return Filter{IncludedEventTypes: types(kind), SubjectBeginsWith: "Experiments/" + strings.ToUpper(domains[c.number()%len(domains)]), AdvancedFilters: []Condition{
			in("data.runTags.region", "westeurope", "northeurope"),
			in("Data.RunTags.Stage", stageNames[:2+c.IntN(3)]...),
			{Operator: StringNotIn, Key: "data.runType", Strings: []string{"hyperdrive.sweep"}},
			{Operator: IsNullOrUndefined, Key: "data.parentRunId"},
			{Operator: NumberNotIn, Key: "data.metrics.epochs", Numbers: []Number{"0", "1"}},
			compare(NumberLessThan, "data.metrics.rmse", 1.0+3*c.Float64()),
			in("data.runTags.owner", ownerName(c.number()), ownerName(c.IntN(c.pool)))}}
	}},
}

func (c choices) of2(a, b int) int { return [...]int{a, b}[c.IntN(2)] }

// mixedWorkload draws filters from templates by weight.
func mixedWorkload(op string, most int, templates []template) workload {
	total := 0
	for _, t := range templates {
		total += t.weight
	}
	draw := func(c choices) Filter {
		left := c.IntN(total)
		for _, t := range templates {
			if left -= t.weight; left < 0 {
				return t.write(c)
			}
		}
		panic("unreachable")
	}
	return workload{op: op, most: most, event: mixedEvent, retry: true,
		wanted: func(r *rand.Rand) []wanted {
			return []wanted{{filter: draw(choices{Rand: r, pool: 1000, own: r.IntN(probes)})}}
		},
		miss: func(r *rand.Rand, pool int) Filter { return draw(choices{Rand: r, pool: pool, own: -1}) },
	}
}

// mixed is the workload that the bars are about.
func mixed() workload {
	return mixedWorkload("mixed", 1_000_000, append(append([]template(nil), patterns...), others...))
}

// expressible holds only what equality, prefix, anything-but and exists can say: the
// subset of filters that event pattern matchers share.
func expressible() workload { return mixedWorkload("patterns", 100_000, patterns) }

// equality holds only what equality and prefix can say, which pattern matchers do best.
func equality() workload { return mixedWorkload("equality", 100_000, patterns[:5]) }

func workloads() []workload {
	return slices.Concat([]workload{mixed()}, operatorWorkloads(), refusingWorkloads())
}
