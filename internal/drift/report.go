package drift

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
)

// report is the page of a result. It loads nothing: plots are SVG in it.
//
//go:embed report.html
var reportText string

var report = template.Must(template.New("report").Funcs(template.FuncMap{
	"bars": bars, "number": number3, "metrics": shownMetrics, "percent": func(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) },
}).Parse(reportText))

// WriteHTML writes the result as a page of its own, titled with the names of what was
// compared. It needs nothing else, also no network.
func (r *Result) WriteHTML(w io.Writer, baseline, target string) error {
	return report.Execute(w, struct {
		*Result
		BaselineName, TargetName string
	}{r, baseline, target})
}

// number3 is a number of three digits, for people.
func number3(x float64) string { return fmt.Sprintf("%.3g", x) }

// shownMetrics are the metrics of a column that the page shows, by name.
func shownMetrics(c Column) []Metric {
	var out []Metric
	for _, name := range []string{Contribution, JS, "psi", Normed, "wasserstein_distance", "energy_distance", "ks", "ks_pvalue",
		"chi2", "chi2_pvalue", "cramers_v", "euclidean_distance", "total_variation", "hellinger", MissingBase, MissingNow, "missing_pvalue"} {
		if value, ok := c.Metrics[name]; ok {
			out = append(out, Metric{name, value})
		}
	}
	return out
}

// A bar is one bin of a plot, both sides, in the units of its box.
type bar struct {
	X, Width         float64
	BaseY, BaseTall  float64
	NowX, NowY, Tall float64
	Title            string
}

// The box of a plot.
const boxWidth, boxHeight = 480.0, 140.0

func bars(h Histogram) []bar {
	most := 0.0
	for i := range h.Baseline {
		most = math.Max(most, math.Max(h.Baseline[i], h.Target[i]))
	}
	if most == 0 {
		return nil
	}
	step := boxWidth / float64(len(h.Labels))
	out := make([]bar, len(h.Labels))
	for i, label := range h.Labels {
		base, now := boxHeight*h.Baseline[i]/most, boxHeight*h.Target[i]/most
		x, width := step*float64(i), step*0.42
		out[i] = bar{
			X: x + step*0.06, Width: width, BaseY: boxHeight - base, BaseTall: base,
			NowX: x + step*0.06 + width, NowY: boxHeight - now, Tall: now,
			Title: fmt.Sprintf("%s: baseline %.2f %%, target %.2f %%", label, 100*h.Baseline[i], 100*h.Target[i]),
		}
	}
	return out
}
