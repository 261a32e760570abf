package cli

import (
	"encoding/json"
	"testing"

	"github.com/carillon-events/carillon/internal/filter"
)

// TestShownFilters: an advanced filter is shown as the words that --advanced-filter
// takes; the shell's quotes are taken off here by hand.
func TestShownFilters(t *testing.T) {
	for _, tt := range []struct {
		condition string
		want      string
		words     []string // what a shell makes of want
	}{
		{`{"operatorType":"StringIn","key":"data.x","values":["a, b","c"]}`, `data.x StringIn 'a, b' c`, []string{"data.x", "StringIn", "a, b", "c"}},
		{`{"operatorType":"StringIn","key":"data.x","values":["","-5","(x)","it's"]}`, `data.x StringIn '""' '"-5"' '"(x)"' 'it'\''s'`, []string{"data.x", "StringIn", `""`, `"-5"`, `"(x)"`, "it's"}},
		{`{"operatorType":"NumberInRange","key":"data.x","values":[[-1.50,1e2],[3,4]]}`, `data.x NumberInRange -1.50,1e2 3,4`, []string{"data.x", "NumberInRange", "-1.50,1e2", "3,4"}},
		{`{"operatorType":"NumberLessThan","key":"data.x","value":0.10}`, `data.x NumberLessThan 0.10`, []string{"data.x", "NumberLessThan", "0.10"}},
		{`{"operatorType":"BoolEquals","key":"data.x","value":false}`, `data.x BoolEquals false`, []string{"data.x", "BoolEquals", "false"}},
		{`{"operatorType":"IsNotNull","key":"data.a b"}`, `'data.a b' IsNotNull`, []string{"data.a b", "IsNotNull"}},
	} {
		if got := plain(member(json.RawMessage(tt.condition), "")); got != tt.want {
			t.Errorf("shown as %s, want %s", got, tt.want)
		}
		back, err := filter.ParseCLI(tt.words)
		if err != nil {
			t.Errorf("%s: %v", tt.want, err)
			continue
		}
		var a, b any
		_ = json.Unmarshal(back, &a)
		_ = json.Unmarshal([]byte(tt.condition), &b)
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if string(x) != string(y) {
			t.Errorf("%s means %s when it is typed again, want %s", tt.want, x, y)
		}
	}
}
