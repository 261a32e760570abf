package drift

import "encoding/json"

// Within returns the result with as many plots as let its document take so many bytes,
// those of the columns that moved most. The result itself stays as it is.
func (r *Result) Within(bytes int) *Result {
	size := func() int {
		raw, _ := json.Marshal(r) // what cannot be written is found out by who writes it
		return len(raw)
	}
	for keep := len(r.Columns); keep > 0 && size() > bytes; {
		keep /= 2
		shorter := *r
		shorter.Columns = append([]Column{}, r.Columns...)
		for i := keep; i < len(shorter.Columns); i++ {
			shorter.Columns[i].Plot = Histogram{Labels: []string{}, Baseline: []float64{}, Target: []float64{}}
		}
		r = &shorter
	}
	return r
}
