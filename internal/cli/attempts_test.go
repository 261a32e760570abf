package cli

import (
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestAgo(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct {
		text string
		want time.Duration // before now; negative is refused
	}{
		{"90m", 90 * time.Minute}, {"2h", 2 * time.Hour}, {"1d", day}, {"30d", 30 * day}, {"0d", 0},
		{"-1d", -1}, {"d", -1}, {"1.5d", -1}, {"99999999999999999999d", -1}, {"-2h", -1}, {"30", -1}, {"lately", -1},
	} {
		got, err := ago(&cobra.Command{}, "since", tt.text)
		if tt.want < 0 {
			if err == nil {
				t.Errorf("%s is taken as %s", tt.text, got)
			}
			continue
		}
		at, parseErr := time.Parse(time.RFC3339Nano, got)
		if off := time.Since(at) - tt.want; err != nil || parseErr != nil || off < -time.Minute || off > time.Minute {
			t.Errorf("%s: %q, %v, %v off", tt.text, got, err, off)
		}
	}
}
