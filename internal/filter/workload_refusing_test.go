package filter

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// One more workload per Not operator: every filter lists what refuses the event in
// words of its own, after four names out of fifty that no event has and that many
// filters list. To pass over what many list is no help there.

// refusing makes the filters of such a workload; condition lists an operand for
// each of the hit counts, and the names with these numbers, one of them its own.
func refusing(op Operator, condition func(r *rand.Rand, counts, names []int) Condition) workload {
	filter := func(r *rand.Rand, pool, except int) Filter {
		var counts []int
		for _, hits := range hitCounts {
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
		perCount(func(r *rand.Rand, hits int) Filter { return filter(r, 1000, hits) }),
		func(r *rand.Rand, pool int) Filter { return filter(r, pool, -1) })
}

// refusingTexts lists parts of the values that events have.
func refusingTexts(op Operator, key string, value func(hits int) string, part func(r *rand.Rand, value string) string) workload {
	return refusing(op, func(r *rand.Rand, counts, names []int) Condition {
		c := Condition{Key: key}
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

func refusingWorkloads() []workload {
	return []workload{
		refusing(NumberNotIn, func(_ *rand.Rand, counts, names []int) Condition {
			c := Condition{Key: "data.build"}
			for _, n := range names {
				c.Numbers = append(c.Numbers, Number(fmt.Sprint(100+n)))
			}
			for _, hits := range counts {
				c.Numbers = append(c.Numbers, Number(fmt.Sprint(builds[hits])))
			}
			return c
		}),
		refusing(NumberNotInRange, func(r *rand.Rand, counts, names []int) Condition {
			c := Condition{Key: "data.score"}
			for _, n := range names {
				c.Ranges = append(c.Ranges, [2]Number{Number(fmt.Sprint(n + 2)), Number(fmt.Sprintf("%d.5", n+2))})
			}
			for _, hits := range counts {
				v := scores[hits]
				c.Ranges = append(c.Ranges, [2]Number{between(r, v-0.04, v), between(r, v, v+0.04)})
			}
			return c
		}),
		refusingTexts(StringNotIn, "data.stage", func(hits int) string { return stages[hits] }, whole),
		refusingTexts(StringNotBeginsWith, "data.pipeline", pipelineOf, beginning),
		refusingTexts(StringNotEndsWith, "data.pipeline", pipelineOf, ending),
		refusingTexts(StringNotContains, "data.pipeline", pipelineOf, inside),
	}
}
