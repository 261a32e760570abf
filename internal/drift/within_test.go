package drift

import (
	"encoding/json"
	"fmt"
	"testing"
)

// A result may have a thousand columns: its document keeps the plots of those that
// moved most.
func TestWithin(t *testing.T) {
	const most = 2 << 20
	r := &Result{Columns: make([]Column, 1000)}
	for i := range r.Columns {
		r.Columns[i].Name = fmt.Sprintf("column %d", i)
		for range 200 {
			r.Columns[i].Plot.Labels = append(r.Columns[i].Plot.Labels, "0.123456789012345")
			r.Columns[i].Plot.Baseline = append(r.Columns[i].Plot.Baseline, 0.123456789012345)
			r.Columns[i].Plot.Target = append(r.Columns[i].Plot.Target, 0.123456789012345)
		}
	}
	got := r.Within(most)
	raw, err := json.Marshal(got)
	if err != nil || len(raw) > most || len(got.Columns) != 1000 || len(got.Columns[0].Plot.Labels) == 0 || len(got.Columns[999].Plot.Labels) != 0 {
		t.Errorf("%d bytes, %d columns, error %v", len(raw), len(got.Columns), err)
	}
	if len(r.Columns[999].Plot.Labels) == 0 {
		t.Error("the result itself was changed")
	}
	if small := (&Result{Columns: r.Columns[:2]}).Within(most); len(small.Columns[1].Plot.Labels) == 0 {
		t.Error("a small one lost its plots")
	}
}
