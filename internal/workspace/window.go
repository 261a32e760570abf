package workspace

import (
	"fmt"
	"strings"
	"time"
)

// Window is a span of time, in UTC: it begins at Start and ends before End.
type Window struct{ Start, End time.Time }

// windowLayout writes times of windows as captured drift events have them.
// Source: spec/workspace.md section 2.1.
const windowLayout = "2006-01-02T15:04:05.999999999-07:00"

// Texts are the times of the window on the wire.
func (w Window) Texts() (start, end string) {
	return w.Start.UTC().Format(windowLayout), w.End.UTC().Format(windowLayout)
}

func (w Window) String() string {
	start, end := w.Texts()
	return start + " to " + end
}

// key is the name of the window in keys. Names sort as windows begin.
func (w Window) key() string {
	const layout = "20060102t150405.000000000"
	return w.Start.UTC().Format(layout) + "~" + w.End.UTC().Format(layout)
}

// Frequency is how long the windows of a drift monitor are: they follow each other
// without a gap. Source: spec/workspace.md section 7.3.
type Frequency string

// The frequencies.
const (
	Daily   Frequency = "Day"   // a calendar day
	Weekly  Frequency = "Week"  // an ISO week: from Monday
	Monthly Frequency = "Month" // a calendar month
)

// Frequencies are all of them.
var Frequencies = []Frequency{Daily, Weekly, Monthly}

// ParseFrequency returns the frequency of a name, ignoring case.
func ParseFrequency(name string) (Frequency, bool) {
	for _, f := range Frequencies {
		if strings.EqualFold(name, string(f)) {
			return f, true
		}
	}
	return "", false
}

// At returns the window that a time lies in.
func (f Frequency) At(t time.Time) Window {
	year, month, day := t.UTC().Date()
	switch f {
	case Weekly:
		monday := day - (int(t.UTC().Weekday())+6)%7
		return Window{date(year, month, monday), date(year, month, monday+7)}
	case Monthly:
		return Window{date(year, month, 1), date(year, month+1, 1)}
	default:
		return Window{date(year, month, day), date(year, month, day+1)}
	}
}

func date(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// Cut returns the windows of a span, the first one that of from, the last one that
// begins before to; at most one more than most.
func (f Frequency) Cut(from, to time.Time, most int) []Window {
	var windows []Window
	for w := f.At(from); w.Start.Before(to) && len(windows) <= most; w = f.At(w.End) {
		windows = append(windows, w)
	}
	return windows
}

// Schedule says when a drift monitor compares by itself.
type Schedule struct {
	Frequency    Frequency `json:"frequency"`
	LatencyHours int       `json:"latencyHours"` // from the end of a window until its rows are there
	Enabled      bool      `json:"enabled"`
	Since        time.Time `json:"since"` // when it was enabled last: what was due before is not computed by itself
}

func (s Schedule) latency() time.Duration { return time.Duration(s.LatencyHours) * time.Hour }

// DefaultLatencyHours is the latency of a schedule that was given none.
const DefaultLatencyHours = 0

// DueAt is when a window can be compared.
func (s Schedule) DueAt(w Window) time.Time { return w.End.Add(s.latency()) }

// Due returns the windows that became due after since and until now, the oldest first,
// and of more than most the last ones.
func (s Schedule) Due(since, now time.Time, most int) []Window {
	var windows []Window
	for w := s.before(now); len(windows) < most && s.DueAt(w).After(since); w = s.Frequency.At(w.Start.Add(-1)) {
		windows = append([]Window{w}, windows...)
	}
	return windows
}

// before is the last window that is due by now.
func (s Schedule) before(now time.Time) Window {
	running := s.Frequency.At(now.Add(-s.latency()))
	return s.Frequency.At(running.Start.Add(-1))
}

// Next is when the first window after now becomes due.
func (s Schedule) Next(now time.Time) time.Time {
	return s.DueAt(s.Frequency.At(now.Add(-s.latency())))
}

func frequencyWords() string {
	names := make([]string, len(Frequencies))
	for i, f := range Frequencies {
		names[i] = string(f)
	}
	return fmt.Sprintf("%s or %s", strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
}
