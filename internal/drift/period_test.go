package drift

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
)

// march is the second of March 2026, a Monday.
var march = &Period{Column: "at", From: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)}

func TestTimesOfRows(t *testing.T) {
	tests := []struct {
		text   string
		holds  bool
		broken bool
	}{
		{"2026-03-02", true, false},
		{"2026-03-03", false, false},
		{"2026-03-01T23:59:59.999Z", false, false},
		{"2026-03-02T00:00:00Z", true, false},
		{"2026-03-03T00:00:00Z", false, false},
		{"2026-03-02T09:14:07", true, false},
		{"2026-03-02 09:14:07", true, false},
		{"2026-03-02 09:14:07.123456", true, false},
		{"2026-03-02 09:14:07+00:00", true, false},
		{"2026-03-02 09:14:07 UTC", true, false},
		{"2026-03-03T01:30:00+02:00", true, false},
		{"2026-03-02T23:30:00-01:00", false, false},
		{"2026-03-02T09:14", true, false},
		{"1772442847", true, false},          // seconds
		{"1772442847.5", true, false},        // with a fraction
		{"1772442847531", true, false},       // milliseconds
		{"1772442847531000", true, false},    // microseconds
		{"1772442847531000000", true, false}, // nanoseconds
		{"1772442847000.0", true, false},
		{"1772496000", false, false}, // the third, midnight
		{"0", false, false},
		{"1e300", false, false},
		{"", false, false},
		{"NaN", false, false},
		{"null", false, false},
		{"yesterday", false, true},
		{"02.03.2026", false, true},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			if got, err := march.holdsCell(textCell(tt.text)); got != tt.holds || (err != nil) != tt.broken {
				t.Errorf("holds %v, error %v", got, err)
			}
		})
	}
}

// dated is one row of each of the ways in which Parquet writes times, by hours from
// the first of March.
type dated struct {
	Milli int64            `parquet:"milli,timestamp(millisecond)"`
	Micro int64            `parquet:"micro,timestamp(microsecond)"`
	Nano  int64            `parquet:"nano,timestamp(nanosecond)"`
	Date  int32            `parquet:"date,date"`
	Old   deprecated.Int96 `parquet:"old"`
	Text  string           `parquet:"text"`
	Epoch int64            `parquet:"epoch"`
	None  *int64           `parquet:"none,optional"`
	Value float64          `parquet:"value"`
}

func datedRows(hours int) []dated {
	rows := make([]dated, hours)
	for i := range rows {
		at := time.Date(2026, 3, 1, i, 0, 0, 0, time.UTC)
		ofDay := at.UnixNano() % (24 * 3600 * 1e9)
		rows[i] = dated{
			at.UnixMilli(), at.UnixMicro(), at.UnixNano(), int32(at.Unix() / 86400),
			deprecated.Int96{uint32(ofDay), uint32(ofDay >> 32), uint32(at.Unix()/86400 + 2440588)},
			at.Format(time.RFC3339), at.Unix(), nil, float64(i),
		}
	}
	return rows
}

func TestPeriodOfParquet(t *testing.T) {
	var file bytes.Buffer
	w := parquet.NewGenericWriter[dated](&file, parquet.MaxRowsPerRowGroup(10), parquet.PageBufferSize(64))
	if _, err := w.Write(datedRows(72)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, column := range []string{"milli", "micro", "nano", "date", "old", "text", "epoch", "none"} {
		t.Run(column, func(t *testing.T) {
			p := *march
			p.Column = column
			s, err := Read(bytes.NewReader(file.Bytes()), int64(file.Len()), Parquet, ReadOptions{Period: &p})
			if err != nil {
				t.Fatal(err)
			}
			if column == "none" {
				if s.Rows != 0 {
					t.Errorf("%d rows have no time", s.Rows)
				}
				return
			}
			if c := s.byName["value"]; s.Rows != 24 || c.min != 24 || c.max != 47 || len(c.numbers) != 24 || c.numeric != 24 {
				t.Errorf("%d rows from %g to %g", s.Rows, c.min, c.max)
			}
			if c := s.byName[column]; c.unfit == "" {
				t.Error("the column of times is compared")
			}
		})
	}
	for column, want := range map[string]string{"missing": "it has no column", "value": ""} {
		p := *march
		p.Column = column
		_, err := Read(bytes.NewReader(file.Bytes()), int64(file.Len()), Parquet, ReadOptions{Period: &p})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("times of %s: %v", column, err)
		}
	}
}

// The rows of a window are the same ones in each format, and are chosen though nobody
// compares the column of times.
func TestPeriodOfText(t *testing.T) {
	var csv, jsonl strings.Builder
	csv.WriteString("value,at\n")
	for i, row := range datedRows(72) {
		fmt.Fprintf(&csv, "%d,%s\n", i, row.Text)
		fmt.Fprintf(&jsonl, `{"value":%d,"at":%q}`+"\n", i, row.Text)
	}
	jsonl.WriteString(`{"value":100}` + "\n" + `{"value":100,"at":null}` + "\n")
	for _, features := range [][]string{nil, {"value"}} {
		for format, text := range map[Format]string{CSV: csv.String(), JSONL: jsonl.String()} {
			s, err := Read(strings.NewReader(text), int64(len(text)), format, ReadOptions{Period: march, Features: features})
			if err != nil {
				t.Fatal(err)
			}
			if c := s.byName["value"]; s.Rows != 24 || c.min != 24 || c.max != 47 {
				t.Errorf("%s, features %v: %d rows from %g to %g", format, features, s.Rows, c.min, c.max)
			}
		}
	}
	for text, want := range map[string]string{
		"value\n1\n":                               "csv: it has no column",
		"value,at\n1,2026-03-02\n2,soon\n":         "csv: line 3",
		`{"at":"2026-03-02"}` + "\n" + `{"at":[]}`: "jsonl: line 2",
	} {
		format, part, _ := strings.Cut(want, ": ")
		if _, err := Read(strings.NewReader(text), int64(len(text)), Format(format), ReadOptions{Period: march}); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Who is asked to stop does.
func TestPauseEndsWork(t *testing.T) {
	enough := errors.New("enough")
	text := "a\n" + strings.Repeat("1\n", 100_000)
	rows := int64(-1)
	_, err := Read(strings.NewReader(text), int64(len(text)), CSV, ReadOptions{Pause: func(n int64) error {
		if rows = n; n > 1000 {
			return enough
		}
		return nil
	}})
	if !errors.Is(err, enough) || rows > 50_000 {
		t.Errorf("after %d rows: %v", rows, err)
	}
	side := func(shift int) *Sample {
		var b strings.Builder
		b.WriteString("a\n")
		for i := range 1000 {
			fmt.Fprintf(&b, "%d\n", i*7919%1000+shift)
		}
		s, err := Read(strings.NewReader(b.String()), int64(b.Len()), CSV, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for after := range 3 {
		asked := 0
		_, err := Compare(side(0), side(500), Options{Processors: 1, Pause: func() error {
			if asked++; asked > after {
				return enough
			}
			return nil
		}})
		if !errors.Is(err, enough) {
			t.Errorf("after %d: %v", after, err)
		}
	}
}
