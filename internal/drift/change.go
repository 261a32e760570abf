package drift

import (
	"fmt"
	"math"
)

// Change says in a few words what moved most in the column: how many values are
// missing, the mean, or the share of a category.
func (c *Column) Change() string {
	before, now := c.Metrics[MissingBase], c.Metrics[MissingNow]
	if math.Abs(now-before) >= effect {
		return fmt.Sprintf("missing %s to %s", percent(before), percent(now))
	}
	meanBefore, okBefore := c.Profile.Baseline["mean"]
	meanNow, okNow := c.Profile.Target["mean"]
	if okBefore && okNow {
		return fmt.Sprintf("mean %.4g to %.4g", meanBefore, meanNow)
	}
	most := -1
	for i := range c.Plot.Labels {
		if i < len(c.Plot.Baseline) && i < len(c.Plot.Target) && (most < 0 || c.moved(i) > c.moved(most)) {
			most = i
		}
	}
	if most < 0 {
		return ""
	}
	return fmt.Sprintf("share of %s %s to %s", c.Plot.Labels[most], percent(c.Plot.Baseline[most]), percent(c.Plot.Target[most]))
}

// moved is how much the share of a bin moved.
func (c *Column) moved(bin int) float64 { return math.Abs(c.Plot.Target[bin] - c.Plot.Baseline[bin]) }

func percent(x float64) string { return fmt.Sprintf("%.3g %%", 100*x) }
