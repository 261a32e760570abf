package drift

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// table makes a CSV file of rows: what counts them in each column, an amount, and
// whether it was paid in the given spelling.
func table(header string, rows int, seed uint64, cells func(row int, r *rand.Rand) string) string {
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	b.WriteString(header + "\n")
	for row := range rows {
		b.WriteString(cells(row, r) + "\n")
	}
	return b.String()
}

// join reads files into one sample.
func join(t *testing.T, o ReadOptions, format Format, files ...string) *Sample {
	t.Helper()
	r := NewReader(o)
	for _, text := range files {
		if err := r.Add(strings.NewReader(text), int64(len(text)), format); err != nil {
			t.Fatal(err)
		}
	}
	s, err := r.Sample()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func skipOf(r *Result, column string) string {
	for _, s := range r.Skipped {
		if s.Name == column {
			return s.Reason
		}
	}
	return ""
}

// What counts the rows begins anew in each file, and is no reason to see drift.
func TestCountersOfFiles(t *testing.T) {
	of := func(seed uint64) string {
		return table("row,,Unnamed: 0,amount", 300, seed, func(row int, r *rand.Rand) string {
			return fmt.Sprintf("%d,%d,%d,%d", row, r.IntN(1_000_000), r.IntN(1_000_000), r.IntN(500))
		})
	}
	long := table("row,,Unnamed: 0,amount", 900, 9, func(row int, r *rand.Rand) string {
		return fmt.Sprintf("%d,%d,%d,%d", row, row%300, row%300, r.IntN(500))
	})
	target := join(t, ReadOptions{}, CSV, of(1), of(2), of(3))
	result := compare(t, join(t, ReadOptions{}, CSV, long), target, Options{})
	for column, want := range map[string]string{"row": "it counts the rows", "column 2": "it is an index", "Unnamed: 0": "it is an index"} {
		if got := skipOf(result, column); !strings.HasPrefix(got, want) {
			t.Errorf("%s is left out because %q, want %q", column, got, want)
		}
	}
	if result.HasDrift || len(result.Columns) != 1 {
		t.Errorf("%d columns, coefficient %.3f, drift %v", len(result.Columns), result.Coefficient, result.HasDrift)
	}
	result = compare(t, join(t, ReadOptions{}, CSV, long), target, Options{Numeric: []string{"row", "column 2"}})
	if skipOf(result, "row")+skipOf(result, "column 2") != "" || !result.HasDrift {
		t.Errorf("named columns are left out: %v", result.Skipped)
	}
	// What falls within a file counts nothing, and a row or two of each file do not tell.
	falling := table("row,amount", 300, 4, func(row int, r *rand.Rand) string { return fmt.Sprintf("%d,%d", 300-row, r.IntN(500)) })
	var single []string
	for i := range 60 {
		single = append(single, fmt.Sprintf("row,amount\n%d,%d\n", 60-i, i%7))
	}
	for name, files := range map[string][]string{"falls": {falling}, "one row each": single} {
		s := join(t, ReadOptions{}, CSV, files...)
		if s.byName["row"].counts() {
			t.Errorf("%s: it is taken for what counts the rows", name)
		}
	}
}

func TestExclude(t *testing.T) {
	rows := func(shift int) string {
		return table("id,amount", 300, 1, func(row int, r *rand.Rand) string { return fmt.Sprintf("%d,%d", (row*7919+shift)%90_000, r.IntN(500)) })
	}
	o := ReadOptions{Exclude: []string{"id"}}
	result := compare(t, join(t, o, CSV, rows(0)), join(t, o, CSV, rows(500_000)), Options{})
	if result.HasDrift || len(result.Columns) != 1 || skipOf(result, "id") != "it was excluded" {
		t.Errorf("drift %v, columns %d, left out %v", result.HasDrift, len(result.Columns), result.Skipped)
	}
	o.Exclude = []string{"no"}
	if _, err := Compare(join(t, o, CSV, rows(0)), join(t, o, CSV, rows(0)), Options{}); err == nil || err.Error() != `neither side has a column "no"` {
		t.Errorf("an unknown column: %v", err)
	}
}

// The same data is the same in each format, whatever writes it.
func TestSameInEachFormat(t *testing.T) {
	cells := func(yes, no string, date func(int) string, row string) func(int, *rand.Rand) string {
		return func(_ int, r *rand.Rand) string {
			paid := no
			if r.IntN(2) == 0 {
				paid = yes
			}
			return fmt.Sprintf(row, r.IntN(500), paid, date(r.IntN(25)))
		}
	}
	iso := func(d int) string { return fmt.Sprintf("2026-03-%02d", d+1) }
	epoch := func(d int) string { return fmt.Sprint(1772323200000 + int64(d)*86_400_000) }
	csv := join(t, ReadOptions{}, CSV, table("amount,paid,day", 400, 1, cells("True", "False", iso, "%d,%s,%s")))
	json := join(t, ReadOptions{}, JSONL, table("", 400, 1, cells("true", "false", epoch, `{"amount":%d,"paid":%s,"day":%s}`)))
	for _, sides := range [][2]*Sample{{csv, json}, {json, csv}} {
		result := compare(t, sides[0], sides[1], Options{})
		if result.HasDrift || result.Coefficient != 0 || len(result.Columns) != 2 {
			t.Errorf("coefficient %.3f of %d columns, left out %v", result.Coefficient, len(result.Columns), result.Skipped)
		}
		if got := skipOf(result, "day"); got != "one side has times, the other numbers" {
			t.Errorf("day is left out because %q", got)
		}
		at := slices.IndexFunc(result.Columns, func(c Column) bool { return c.Name == "paid" })
		if labels := result.Columns[at].Plot.Labels; !slices.Contains(labels, "true") || len(labels) != 2 {
			t.Errorf("categories %q", labels)
		}
	}
	// Where other texts stand among them, they are texts.
	words := join(t, ReadOptions{}, CSV, table("amount,paid,day", 400, 1, cells("True", "maybe", iso, "%d,%s,%s")))
	result := compare(t, words, json, Options{})
	at := slices.IndexFunc(result.Columns, func(c Column) bool { return c.Name == "paid" })
	if labels := result.Columns[at].Plot.Labels; !slices.Contains(labels, "True") || !slices.Contains(labels, "true") {
		t.Errorf("categories %q", labels)
	}
}
