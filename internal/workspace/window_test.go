package workspace

import (
	"slices"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if parsed, err := time.Parse(layout, text); err == nil {
			return parsed
		}
	}
	t.Fatalf("%q is no time", text)
	return time.Time{}
}

func TestWindows(t *testing.T) {
	tests := []struct {
		name       string
		frequency  Frequency
		at         string
		start, end string
	}{
		{"day", Daily, "2026-03-02T09:14:07Z", "2026-03-02", "2026-03-03"},
		{"day, its first moment", Daily, "2026-03-02T00:00:00Z", "2026-03-02", "2026-03-03"},
		{"day, its last moment", Daily, "2026-03-02T23:59:59.999999999Z", "2026-03-02", "2026-03-03"},
		{"day of UTC, not of the zone", Daily, "2026-03-02T23:30:00-05:00", "2026-03-03", "2026-03-04"},
		{"leap day", Daily, "2028-02-29T12:00:00Z", "2028-02-29", "2028-03-01"},
		{"week, a Monday", Weekly, "2026-02-23T00:00:00Z", "2026-02-23", "2026-03-02"},
		{"week, a Sunday", Weekly, "2026-03-01T23:59:59Z", "2026-02-23", "2026-03-02"},
		{"week over a year's end", Weekly, "2027-01-01T00:00:00Z", "2026-12-28", "2027-01-04"},
		{"month", Monthly, "2026-12-31T23:59:59Z", "2026-12-01", "2027-01-01"},
		{"February of a leap year", Monthly, "2028-02-29T00:00:00Z", "2028-02-01", "2028-03-01"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := tt.frequency.At(at(t, tt.at)), (Window{at(t, tt.start), at(t, tt.end)}); got != want {
				t.Errorf("window of %s is %s, want %s", tt.at, got, want)
			}
		})
	}
}

// Windows of a frequency follow each other without gap and overlap, over years.
func TestWindowsFollowEachOther(t *testing.T) {
	for _, f := range Frequencies {
		windows := f.Cut(at(t, "2023-12-30"), at(t, "2029-01-02"), 5000)
		for i, w := range windows {
			if !w.Start.Before(w.End) || i > 0 && (w.Start != windows[i-1].End || w.key() <= windows[i-1].key()) {
				t.Fatalf("%s: %s does not follow %s", f, w, windows[i-1])
			}
		}
		if n := len(windows); n < 60 {
			t.Errorf("%s: only %d windows", f, n)
		}
	}
}

func starts(windows []Window) []string {
	out := []string{}
	for _, w := range windows {
		out = append(out, w.Start.Format(time.DateOnly))
	}
	return out
}

func TestCut(t *testing.T) {
	tests := []struct {
		name      string
		frequency Frequency
		from, to  string
		most      int
		want      []string
	}{
		{"days", Daily, "2026-02-27", "2026-03-02", 30, []string{"2026-02-27", "2026-02-28", "2026-03-01"}},
		{"a part of a week is that week", Weekly, "2026-02-25", "2026-03-03", 30, []string{"2026-02-23", "2026-03-02"}},
		{"months", Monthly, "2025-12-31", "2026-02-01", 30, []string{"2025-12-01", "2026-01-01"}},
		{"one more than asked for tells that there are more", Daily, "2026-01-01", "2026-12-01", 2, []string{"2026-01-01", "2026-01-02", "2026-01-03"}},
		{"nothing", Daily, "2026-03-02", "2026-03-02", 30, []string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := starts(tt.frequency.Cut(at(t, tt.from), at(t, tt.to), tt.most)); !slices.Equal(got, tt.want) {
				t.Errorf("windows begin %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDue(t *testing.T) {
	tests := []struct {
		name       string
		schedule   Schedule
		since, now string
		want       []string
		next       string
	}{
		{"a day is due at its end", Schedule{Frequency: Daily}, "2026-03-01T12:00:00Z", "2026-03-02T00:00:00Z", []string{"2026-03-01"}, "2026-03-03"},
		{"and not a moment before", Schedule{Frequency: Daily}, "2026-03-01T12:00:00Z", "2026-03-01T23:59:59Z", []string{}, "2026-03-02"},
		{"what was due at since was due before", Schedule{Frequency: Daily}, "2026-03-02T00:00:00Z", "2026-03-02T00:00:00Z", []string{}, "2026-03-03"},
		{"latency", Schedule{Frequency: Daily, LatencyHours: 72}, "2026-03-03T00:00:00Z", "2026-03-05T11:00:00Z", []string{"2026-02-28", "2026-03-01"}, "2026-03-06"},
		{"latency that is not whole days", Schedule{Frequency: Daily, LatencyHours: 6}, "2026-03-01T00:00:00Z", "2026-03-02T05:59:59Z", []string{"2026-02-28"}, "2026-03-02T06:00:00Z"},
		{"week", Schedule{Frequency: Weekly, LatencyHours: 24}, "2026-02-24T00:00:00Z", "2026-03-10T01:00:00Z", []string{"2026-02-23", "2026-03-02"}, "2026-03-17"},
		{"month", Schedule{Frequency: Monthly}, "2025-12-15T00:00:00Z", "2026-03-10T01:00:00Z", []string{"2025-12-01", "2026-01-01", "2026-02-01"}, "2026-04-01"},
		{"the last ones of many", Schedule{Frequency: Daily}, "2020-01-01T00:00:00Z", "2026-03-04T01:00:00Z", []string{"2026-03-01", "2026-03-02", "2026-03-03"}, "2026-03-05"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := starts(tt.schedule.Due(at(t, tt.since), at(t, tt.now), 3)); !slices.Equal(got, tt.want) {
				t.Errorf("due are %q, want %q", got, tt.want)
			}
			if got := tt.schedule.Next(at(t, tt.now)); !got.Equal(at(t, tt.next)) {
				t.Errorf("next is %s, want %s", got, tt.next)
			}
		})
	}
}
