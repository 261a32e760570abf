package filterload

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/carillon-events/carillon/internal/filter"
)

// One workload per operator, and for each of the simple tests: every event
// subscription has one condition of that operator and nothing else.

// stages name the values that filters of Not operators list; which of them an event
// has says how many want it.
var stages = map[int]string{0: "dev", 1: "archived", 10: "sandbox"}

// What comparisons look at: the higher the score and the lower the loss, the more
// event subscriptions want the event.
var (
	scores = map[int]float64{0: 0.30, 1: 0.50, 10: 0.60}
	losses = map[int]float64{0: 0.70, 1: 0.50, 10: 0.40}
	builds = map[int]int{0: 1, 1: 2, 10: 3}
)

func pipelineOf(hits int) string {
	return stages[hits] + "/churn-weekly-training/" + stages[hits]
}

func aucOf(p int) float64 { return 0.5 + float64(p)/100 }

// operatorEvent has something for every operator. Members with the number of the
// event in them are its own.
func operatorEvent(p int, filler string) string {
	hits := hitsOf(p)
	var tags strings.Builder
	for i := range 4 {
		fmt.Fprintf(&tags, `"always%d":"yes",`, i)
	}
	for _, other := range HitCounts {
		if other != hits {
			fmt.Fprintf(&tags, `"unless-%s":"set",`, stages[other])
		}
	}
	var flags strings.Builder
	for i := range 4 {
		fmt.Fprintf(&flags, `"flag%d":%v,`, i, i%2 == 0)
	}
	return envelope(p, fmt.Sprintf("Contoso.Training.Probe%02d", p), fmt.Sprintf("models/probe-%02d:7/runs/run_probe_%02d", p, p),
		filler+fmt.Sprintf(`"experimentName":"probe-%02d/train-nightly","owner":"probe-%02d","artifact":"s3://models/churn/probe-%02d.onnx",`+
			`"message":"step finished on probe-%02d after 1731 s: early stopping","stage":%q,"pipeline":%q,`+
			`"step":%d,"build":%d,"score":%.2f,"loss":%.2f,"auc":%.2f,"tags":{%s"probe-%02d":"x"},"flags":{%s"probe-%02d":true}`,
			p, p, p, p, stages[hits], pipelineOf(hits), 700+p, builds[hits], scores[hits], losses[hits], aucOf(p), tags.String(), p, flags.String(), p))
}

func only(c filter.Condition) filter.Filter {
	return filter.Filter{AdvancedFilters: []filter.Condition{c}}
}

func texts(op filter.Operator, key string, values ...string) filter.Filter {
	return only(filter.Condition{Operator: op, Key: key, Strings: values})
}

func numbers(op filter.Operator, key string, values ...filter.Number) filter.Filter {
	return only(filter.Condition{Operator: op, Key: key, Numbers: values})
}

func ranges(op filter.Operator, key string, values ...[2]filter.Number) filter.Filter {
	return only(filter.Condition{Operator: op, Key: key, Ranges: values})
}

func decimalOf(v float64) filter.Number { return filter.Number(fmt.Sprintf("%.6f", v)) }

// between is a number strictly between low and high.
func between(r *rand.Rand, low, high float64) filter.Number {
	return decimalOf(low + (high-low)*(0.001+0.998*r.Float64()))
}

// some returns one to three values, the first ones given.
func some(r *rand.Rand, first []string, one func() string) []string {
	out := append([]string(nil), first...)
	for range r.IntN(3) {
		out = append(out, one())
	}
	if len(out) == 0 {
		out = append(out, one())
	}
	return out
}

// operatorWorkload is a workload over operatorEvent.
func operatorWorkload(op fmt.Stringer, most int, hits func(*rand.Rand) []wanted, miss func(r *rand.Rand, pool int) filter.Filter) Workload {
	return Workload{Op: op.String(), Most: most, event: operatorEvent, wanted: hits, miss: miss}
}

// test names the tests that are no operators.
type test string

func (t test) String() string { return string(t) }

// positive is a workload of an operator on texts: others list values of their own,
// named by format; whoever wants an event also lists what the event has.
func positive(op filter.Operator, key, format, near, probe string) Workload {
	other := func(r *rand.Rand, pool int) func() string {
		return func() string {
			if r.IntN(10) == 0 { // begins or ends as an event's value does
				return fmt.Sprintf(near, r.IntN(Probes), r.IntN(pool))
			}
			return fmt.Sprintf(format, r.IntN(pool))
		}
	}
	return operatorWorkload(op, 100_000,
		perProbe(func(r *rand.Rand, p int) filter.Filter {
			return texts(op, key, some(r, []string{fmt.Sprintf(probe, p)}, other(r, 1000))...)
		}),
		func(r *rand.Rand, pool int) filter.Filter { return texts(op, key, some(r, nil, other(r, pool))...) })
}

// negative is a workload of a Not operator on texts: nearly all list what every
// event has, sometimes with values of their own; part cuts a value as the operator
// compares it.
func negative(op filter.Operator, key string, value func(hits int) string, part func(r *rand.Rand, value string) string) Workload {
	list := func(r *rand.Rand, pool int, except int) filter.Filter {
		var values []string
		for _, hits := range HitCounts {
			if hits != except {
				values = append(values, part(r, value(hits)))
			}
		}
		return texts(op, key, some(r, values, func() string { return fmt.Sprintf("team-%d", r.IntN(pool)) })...)
	}
	return operatorWorkload(op, 100_000,
		perCount(func(r *rand.Rand, hits int) filter.Filter { return list(r, 1000, hits) }),
		func(r *rand.Rand, pool int) filter.Filter { return list(r, pool, -1) })
}

// comparison is a workload of an operator that compares with one number.
func comparison(op filter.Operator, key string, hit func(r *rand.Rand, hits int) filter.Number, miss func(r *rand.Rand) filter.Number) Workload {
	return operatorWorkload(op, 100_000,
		nested(func(r *rand.Rand, hits int) filter.Filter { return numbers(op, key, hit(r, hits)) }),
		func(r *rand.Rand, _ int) filter.Filter { return numbers(op, key, miss(r)) })
}

func above(op filter.Operator) Workload {
	return comparison(op, "data.score", func(r *rand.Rand, hits int) filter.Number {
		if hits == 1 {
			return between(r, scores[0], scores[1])
		}
		return between(r, scores[1], scores[10])
	}, func(r *rand.Rand) filter.Number { return between(r, scores[10], 1) })
}

func below(op filter.Operator) Workload {
	return comparison(op, "data.loss", func(r *rand.Rand, hits int) filter.Number {
		if hits == 1 {
			return between(r, losses[1], losses[0])
		}
		return between(r, losses[10], losses[1])
	}, func(r *rand.Rand) filter.Number { return between(r, 0, losses[10]) })
}

func whole(_ *rand.Rand, value string) string { return value }

func beginning(r *rand.Rand, value string) string { return value[:4+r.IntN(len(value)-4)] }

func ending(r *rand.Rand, value string) string { return value[r.IntN(len(value)-4):] }

// operatorWorkloads are all 19 operators, then the simple tests.
func operatorWorkloads() []Workload {
	stringIn := positive(filter.StringIn, "data.owner", "user-%d", "probe-%02d-%d", "Probe-%02d")
	stringIn.Most = 1_000_000
	return []Workload{
		operatorWorkload(filter.NumberIn, 100_000,
			perProbe(func(r *rand.Rand, p int) filter.Filter {
				return numbers(filter.NumberIn, "data.step", filter.Number(fmt.Sprint(1000+r.IntN(1000))), filter.Number(fmt.Sprintf("%d.0", 700+p)))
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				return numbers(filter.NumberIn, "data.step", filter.Number(fmt.Sprint(1000+r.IntN(pool))), filter.Number(fmt.Sprint(1000+r.IntN(pool))))
			}),
		operatorWorkload(filter.NumberNotIn, 100_000,
			perCount(func(r *rand.Rand, hits int) filter.Filter {
				return numbers(filter.NumberNotIn, "data.build", buildsBut(r, 1000, hits)...)
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				return numbers(filter.NumberNotIn, "data.build", buildsBut(r, pool, -1)...)
			}),
		below(filter.NumberLessThan),
		above(filter.NumberGreaterThan),
		below(filter.NumberLessThanOrEquals),
		above(filter.NumberGreaterThanOrEquals),
		operatorWorkload(filter.NumberInRange, 100_000,
			perProbe(func(r *rand.Rand, p int) filter.Filter {
				v := aucOf(p)
				return ranges(filter.NumberInRange, "data.auc", [2]filter.Number{between(r, v-0.004, v-0.001), between(r, v+0.001, v+0.004)})
			}),
			func(r *rand.Rand, _ int) filter.Filter {
				v := [...]float64{0.40 * r.Float64(), 0.66 + 0.30*r.Float64(), aucOf(r.IntN(Probes)) + 0.001}[r.IntN(3)]
				return ranges(filter.NumberInRange, "data.auc", [2]filter.Number{decimalOf(v), between(r, v+0.001, v+0.008)})
			}),
		operatorWorkload(filter.NumberNotInRange, 100_000,
			perCount(func(r *rand.Rand, hits int) filter.Filter {
				if hits == 1 {
					return ranges(filter.NumberNotInRange, "data.score", [2]filter.Number{between(r, 0, 0.3), between(r, 0.3, 0.5)}, [2]filter.Number{between(r, 0.5, 0.6), between(r, 0.6, 1)})
				}
				return ranges(filter.NumberNotInRange, "data.score", [2]filter.Number{between(r, 0, 0.3), between(r, 0.5, 0.6)})
			}),
			func(r *rand.Rand, _ int) filter.Filter {
				return ranges(filter.NumberNotInRange, "data.score", [2]filter.Number{between(r, 0, 0.3), between(r, 0.6, 1)})
			}),
		operatorWorkload(filter.BoolEquals, 100_000,
			perProbe(func(_ *rand.Rand, p int) filter.Filter {
				return only(filter.Condition{Operator: filter.BoolEquals, Key: fmt.Sprintf("data.flags.probe-%02d", p), Bool: true})
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				if i := r.IntN(8); i < 4 { // a flag that every event has, the other way round
					return only(filter.Condition{Operator: filter.BoolEquals, Key: fmt.Sprintf("data.flags.flag%d", i), Bool: i%2 != 0})
				}
				return only(filter.Condition{Operator: filter.BoolEquals, Key: fmt.Sprintf("data.flags.team-%d", r.IntN(pool)), Bool: r.IntN(2) == 0})
			}),
		stringIn,
		negative(filter.StringNotIn, "data.stage", func(hits int) string { return stages[hits] }, whole),
		positive(filter.StringBeginsWith, "data.experimentName", "team-%d/train-", "probe-%02d/train-nightly-%d", "Probe-%02d/train"),
		negative(filter.StringNotBeginsWith, "data.pipeline", pipelineOf, beginning),
		positive(filter.StringEndsWith, "data.artifact", "/team-%d.onnx", "x/churn/probe-%02d.onnx.%d", "/probe-%02d.ONNX"),
		negative(filter.StringNotEndsWith, "data.pipeline", pipelineOf, ending),
		positive(filter.StringContains, "data.message", "killed on gpu-%d", "on probe-%02d after %d00 s", "on Probe-%02d after"),
		negative(filter.StringNotContains, "data.pipeline", pipelineOf, beginning),
		operatorWorkload(filter.IsNullOrUndefined, 100_000,
			perCount(func(_ *rand.Rand, hits int) filter.Filter {
				return only(filter.Condition{Operator: filter.IsNullOrUndefined, Key: "data.tags.unless-" + stages[hits]})
			}),
			func(r *rand.Rand, _ int) filter.Filter {
				return only(filter.Condition{Operator: filter.IsNullOrUndefined, Key: fmt.Sprintf("data.tags.always%d", r.IntN(4))})
			}),
		operatorWorkload(filter.IsNotNull, 100_000,
			perProbe(func(_ *rand.Rand, p int) filter.Filter {
				return only(filter.Condition{Operator: filter.IsNotNull, Key: fmt.Sprintf("data.tags.probe-%02d", p)})
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				return only(filter.Condition{Operator: filter.IsNotNull, Key: fmt.Sprintf("data.tags.team-%d", r.IntN(pool))})
			}),
		operatorWorkload(test("eventTypes"), 100_000,
			perProbe(func(r *rand.Rand, p int) filter.Filter {
				return filter.Filter{IncludedEventTypes: some(r, []string{fmt.Sprintf("contoso.training.probe%02d", p)}, contosoType(r, 1000))}
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				return filter.Filter{IncludedEventTypes: some(r, nil, contosoType(r, pool))}
			}),
		operatorWorkload(test("subjectBeginsWith"), 100_000,
			perProbe(func(r *rand.Rand, p int) filter.Filter {
				return filter.Filter{SubjectBeginsWith: fmt.Sprintf("models/probe-%02d:", p), IsSubjectCaseSensitive: r.IntN(4) == 0}
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				return filter.Filter{SubjectBeginsWith: fmt.Sprintf([]string{"models/churn-%d:", "models/probe-07:7/runs/%d"}[r.IntN(10)/9], r.IntN(pool)), IsSubjectCaseSensitive: r.IntN(4) == 0}
			}),
		operatorWorkload(test("subjectEndsWith"), 100_000,
			perProbe(func(r *rand.Rand, p int) filter.Filter {
				return filter.Filter{SubjectEndsWith: fmt.Sprintf("_probe_%02d", p), IsSubjectCaseSensitive: r.IntN(4) == 0}
			}),
			func(r *rand.Rand, pool int) filter.Filter {
				return filter.Filter{SubjectEndsWith: fmt.Sprintf([]string{"/run_team_%d", "%d/run_probe_07"}[r.IntN(10)/9], r.IntN(pool)), IsSubjectCaseSensitive: r.IntN(4) == 0}
			}),
	}
}

func contosoType(r *rand.Rand, pool int) func() string {
	return func() string { return fmt.Sprintf("Contoso.Team%d.Trained", r.IntN(pool)) }
}

// buildsBut lists the builds that events have, without that of some, and one that
// no event has.
func buildsBut(r *rand.Rand, pool, except int) []filter.Number {
	var out []filter.Number
	for _, hits := range HitCounts {
		if hits != except {
			out = append(out, filter.Number(fmt.Sprint(builds[hits])))
		}
	}
	return append(out, filter.Number(fmt.Sprint(100+r.IntN(pool))))
}
