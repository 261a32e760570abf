package filterload

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/carillon-events/carillon/internal/filter"
)

// One more workload per Not operator: every filter lists what refuses the event in
// words of its own, after four names out of fifty that no event has and that many
// filters list. To pass over what many list is no help there.

// refusing makes the filters of such a workload; condition lists an operand for
// each of the hit counts, and the names with these numbers, one of them its own.
func refusing(op filter.Operator, condition func(r *rand.Rand, counts, names []int) filter.Condition) Workload {
	write := func(r *rand.Rand, pool, except int) filter.Filter {
		var counts []int
		for _, hits := range HitCounts {
			if hits != except {
				counts = append(counts, hits)
			}
		}
		names := append(r.Perm(50)[:4], 50+r.IntN(pool))
		c := condition(r, counts, names)
		c.Operator = op
		return only(c)
	}
	return operatorWorkload(test(op.String()+"-refusing"), 100_000,
		perCount(func(r *rand.Rand, hits int) filter.Filter { return write(r, 1000, hits) }),
		func(r *rand.Rand, pool int) filter.Filter { return write(r, pool, -1) })
}

// refusingTexts lists parts of the values that events have.
func refusingTexts(op filter.Operator, key string, value func(hits int) string, part func(r *rand.Rand, value string) string) Workload {
	return refusing(op, func(r *rand.Rand, counts, names []int) filter.Condition {
		c := filter.Condition{Key: key}
		for _, n := range names {
			c.Strings = append(c.Strings, fmt.Sprintf("team-%d", n))
		}
		for _, hits := range counts {
			c.Strings = append(c.Strings, part(r, value(hits)))
		}
		return c
	})
}

// inside cuts a piece that only this pipeline has.
func inside(r *rand.Rand, value string) string {
	stage := strings.IndexByte(value, '/')
	return value[r.IntN(stage) : stage+2+r.IntN(len(value)-stage-2)]
}

func refusingWorkloads() []Workload {
	return []Workload{
		refusing(filter.NumberNotIn, func(_ *rand.Rand, counts, names []int) filter.Condition {
			c := filter.Condition{Key: "data.build"}
			for _, n := range names {
				c.Numbers = append(c.Numbers, filter.Number(fmt.Sprint(100+n)))
			}
			for _, hits := range counts {
				c.Numbers = append(c.Numbers, filter.Number(fmt.Sprint(builds[hits])))
			}
			return c
		}),
		refusing(filter.NumberNotInRange, func(r *rand.Rand, counts, names []int) filter.Condition {
			c := filter.Condition{Key: "data.score"}
			for _, n := range names {
				c.Ranges = append(c.Ranges, [2]filter.Number{filter.Number(fmt.Sprint(n + 2)), filter.Number(fmt.Sprintf("%d.5", n+2))})
			}
			for _, hits := range counts {
				v := scores[hits]
				c.Ranges = append(c.Ranges, [2]filter.Number{between(r, v-0.04, v), between(r, v, v+0.04)})
			}
			return c
		}),
		refusingTexts(filter.StringNotIn, "data.stage", func(hits int) string { return stages[hits] }, whole),
		refusingTexts(filter.StringNotBeginsWith, "data.pipeline", pipelineOf, beginning),
		refusingTexts(filter.StringNotEndsWith, "data.pipeline", pipelineOf, ending),
		refusingTexts(filter.StringNotContains, "data.pipeline", pipelineOf, inside),
	}
}
