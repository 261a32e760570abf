package drift

import "testing"

func TestChange(t *testing.T) {
	profile := func(before, now float64) Profiles {
		return Profiles{Baseline: map[string]float64{"mean": before}, Target: map[string]float64{"mean": now}}
	}
	tests := []struct {
		name   string
		column Column
		want   string
	}{
		{"numeric", Column{Profile: profile(38.1, 41.29)}, "mean 38.1 to 41.29"},
		{"missing counts before the mean", Column{Profile: profile(1, 2), Metrics: map[string]float64{MissingBase: 0, MissingNow: 0.34}}, "missing 0 % to 34 %"},
		{"a few missing do not", Column{Profile: profile(1, 2), Metrics: map[string]float64{MissingBase: 0.01, MissingNow: 0.02}}, "mean 1 to 2"},
		{"the category that moved most", Column{Plot: Histogram{Labels: []string{"AT", "DE", "CH"}, Baseline: []float64{0.3, 0.5, 0.2}, Target: []float64{0.25, 0.2, 0.55}}}, "share of CH 20 % to 55 %"},
		{"a plot that is cut off", Column{Plot: Histogram{Labels: []string{"AT", "DE"}, Baseline: []float64{0.3}}}, ""},
		{"nothing is known", Column{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.column.Change(); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
