package drift

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

func read(t testing.TB, format Format, text string, o ReadOptions) (*Sample, error) {
	t.Helper()
	return Read(strings.NewReader(text), int64(len(text)), format, o)
}

// values are the kept values of a column, as texts.
func (c *column) values() []string {
	out := make([]string, len(c.numbers))
	for row := range out {
		v, ok := c.category(row)
		if !ok {
			v = "-"
		}
		out[row] = v
	}
	return out
}

type record struct {
	Amount float64  `parquet:"amount"`
	Code   *string  `parquet:"code,optional"`
	Count  *int32   `parquet:"count,optional"`
	Big    uint64   `parquet:"big"`
	Paid   bool     `parquet:"paid"`
	Price  int64    `parquet:"price,decimal(2:18)"`
	Day    int32    `parquet:"day,date"`
	Tags   []string `parquet:"tags,list"`
	Half   [2]byte  `parquet:"half"`
}

func parquetOf(t testing.TB, records []record, options ...parquet.WriterOption) string {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[record](&b, options...)
	if _, err := w.Write(records); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRead(t *testing.T) {
	records := []record{
		{Amount: 1.5, Code: new("007"), Count: new(int32(-3)), Big: math.MaxUint64, Paid: true, Price: 1999, Tags: []string{"a", "b"}},
		{Amount: math.Inf(1), Code: new("NaN"), Big: 2, Price: -5},
	}
	tests := []struct {
		name   string
		format Format
		text   string
		want   map[string][]string
	}{
		{"csv", CSV, "\xef\xbb\xbfamount,code,,when\n1.5,007,x,2026-03-01\n,\"a,\nb\",1e3,2026-03-02 10:00:00\n", map[string][]string{
			"amount": {"1.5", "-"}, "code": {"007", "a,\nb"}, "column 3": {"x", "1000"}, "when": {"2026-03-01", "2026-03-02 10:00:00"}}},
		{"csv without rows", CSV, "a,b\n", map[string][]string{"a": {}, "b": {}}},
		{"what is missing", CSV, "a\nNaN\nnull\n-inf\nNULL\nnone\n1e999\n--1\n+2\n0x10\n1_0\n", map[string][]string{
			"a": {"-", "-", "-", "-", "none", "-", "--1", "2", "0x10", "1_0"}}},
		{"jsonl", JSONL, "{\"b\":1,\"a\":\"x\"}\n\n{\"b\":true,\"late\":2.5,\"a\":null}\n{\"b\":\"7\"}", map[string][]string{
			"a": {"x", "-", "-"}, "b": {"1", "true", "7"}, "late": {"-", "2.5", "-"}}},
		{"parquet", Parquet, parquetOf(t, records), map[string][]string{
			"amount": {"1.5", "-"}, "code": {"007", "-"}, "count": {"-3", "-"}, "big": {"1.8446744073709552e+19", "2"},
			"paid": {"true", "false"}, "price": {"19.99", "-0.05"}, "day": {"0", "0"}, "tags.list.element": {}, "half": {}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := read(t, tt.format, tt.text, ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][]string{}
			for _, c := range s.columns {
				got[c.name] = c.values()
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	s, err := read(t, Parquet, parquetOf(t, records), ReadOptions{Features: []string{"day", "code"}})
	if err != nil || len(s.columns) != 2 || !s.byName["day"].temporal || s.byName["code"].missing != 1 {
		t.Errorf("two columns: %v, %+v", err, s)
	}
}

func TestReadRefuses(t *testing.T) {
	var wide strings.Builder
	for i := range mostColumns + 1 {
		fmt.Fprintf(&wide, "c%d,", i)
	}
	tests := []struct {
		name   string
		format Format
		text   string
		want   string
	}{
		{"separated by semicolons", CSV, "a;b\n1,5;2\n", `its header is one column, "a;b": it seems to be separated by semicolons`},
		{"separated by tabs", CSV, "a\tb\n1\t2\n", "it seems to be separated by tabs"},
		{"nothing", CSV, "", "it is empty"},
		{"one name twice", CSV, "a,b,a\n", `column "a" stands there twice`},
		{"a short row", CSV, "a,b\n1,2\n3\n", "record on line 3: wrong number of fields"},
		{"an open quote", CSV, "a,b\n1,\"" + strings.Repeat("x", mostRecord+4096), "a row is longer than 16 MiB"},
		{"too wide", CSV, wide.String() + "\n", "more than 1000 columns"},
		{"nothing but commas", CSV, "a,b\n" + strings.Repeat(",", mostFields+8192), "more than 1048576 commas"},
		{"a long name", CSV, strings.Repeat("a", mostName+1) + ",b\n", "a column's name has 4097 bytes"},
		{"a long name in JSON", JSONL, "{\"a\":1}\n{\"" + strings.Repeat("a", mostName+1) + "\":1}\n", "a column's name has 4097 bytes"},
		{"no object", JSONL, "{\"a\":1}\n[1]\n", "line 2 is no JSON object"},
		{"null", JSONL, "null\n", "line 1 is no JSON object"},
		{"a long line", JSONL, "{\"a\":1}\n{\"a\":\"" + strings.Repeat("x", mostRecord) + "\"}", "line 2 is longer than 16 MiB"},
		{"no Parquet", Parquet, "PAR1 and no more", `it ends in "more"`},
		{"a footer longer than the file", Parquet, "PAR1\xff\x00\x00\x00PAR1", "its footer claims 255 bytes"},
		{"no Parquet at all", Parquet, "PAR1", "it is too short"},
		{"another magic", Parquet, "PAR1\x00\x00\x00\x00PAR2", `it ends in "PAR2"`},
		{"format", "xml", "", `there is no format "xml"`},
	}
	for _, tt := range tests {
		if _, err := read(t, tt.format, tt.text, ReadOptions{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := read(t, CSV, "a\n1\n", ReadOptions{Features: []string{"b"}}); err == nil || !strings.Contains(err.Error(), `no column "b"`) {
		t.Errorf("a column that is not there: %v", err)
	}
}

// Formats agree on what is kept, whatever the size of row groups, and each row has
// the same chance.
func TestSampling(t *testing.T) {
	const rows, keep = 3_000, 100
	var csv, jsonl strings.Builder
	csv.WriteString("amount,code\n")
	records := make([]record, rows)
	for i := range rows {
		code := fmt.Sprint("c", i)
		records[i] = record{Amount: float64(i), Code: &code}
		fmt.Fprintf(&csv, "%d,%s\n", i, code)
		fmt.Fprintf(&jsonl, "{\"amount\":%d,\"code\":%q}\n", i, code)
	}
	sum := 0.0
	for seed := range uint64(40) {
		o := ReadOptions{Rows: keep, Seed: seed, Features: []string{"amount", "code"}}
		var first *Sample
		for _, in := range []struct {
			format Format
			text   string
		}{{CSV, csv.String()}, {JSONL, jsonl.String()}, {Parquet, parquetOf(t, records)}, {Parquet, parquetOf(t, records, parquet.MaxRowsPerRowGroup(700))}} {
			s, err := read(t, in.format, in.text, o)
			if err != nil {
				t.Fatal(err)
			}
			a, c := s.byName["amount"], s.byName["code"]
			if s.Rows != rows || s.kept != keep || a.max != rows-1 || math.Abs(a.mean-(rows-1)/2.) > 1e-9 {
				t.Fatalf("%s: %d rows, %d kept, profile %v", in.format, s.Rows, s.kept, a.profile())
			}
			for i, x := range a.values() {
				if c.values()[i] != "c"+x {
					t.Fatalf("%s: row %d is torn: %s and %s", in.format, i, x, c.values()[i])
				}
			}
			if first == nil {
				first = s
			} else if !reflect.DeepEqual(a.numbers, first.byName["amount"].numbers) {
				t.Fatalf("%s keeps other rows than %s", in.format, CSV)
			}
		}
		for _, x := range first.byName["amount"].numbers {
			sum += x
		}
	}
	// The mean of 4,000 uniform values has a deviation of rows/√(12·4000).
	if mean := sum / 40 / keep; math.Abs(mean-rows/2) > 4*rows/math.Sqrt(12*4000) {
		t.Errorf("rows kept have the mean index %g of %d", mean, rows)
	}
}

// Files of one dataset are one: the rows kept do not depend on where it was cut, and
// columns may come and go.
func TestReadFiles(t *testing.T) {
	var whole strings.Builder
	whole.WriteString("a,b\n")
	rows := make([]string, 500)
	for i := range rows {
		rows[i] = fmt.Sprintf("%d,x%d\n", i, i%7)
		whole.WriteString(rows[i])
	}
	o := ReadOptions{Rows: 50, Seed: 3}
	want, err := read(t, CSV, whole.String(), o)
	if err != nil {
		t.Fatal(err)
	}
	type file struct {
		format Format
		text   string
	}
	join := func(o ReadOptions, files ...file) (*Sample, error) {
		r := NewReader(o)
		for _, f := range files {
			if err := r.Add(strings.NewReader(f.text), int64(len(f.text)), f.format); err != nil {
				return nil, err
			}
		}
		return r.Sample()
	}
	got, err := join(o, file{CSV, "a,b\n" + strings.Join(rows[:20], "")}, file{CSV, "a,b\n"}, file{CSV, "a,b\n" + strings.Join(rows[20:], "")})
	if err != nil || got.Rows != want.Rows {
		t.Fatalf("%v, error %v", got, err)
	}
	for i, c := range want.columns {
		if !reflect.DeepEqual(got.columns[i].values(), c.values()) || !reflect.DeepEqual(got.columns[i].profile(), c.profile()) {
			t.Errorf("column %q differs where the dataset is cut", c.name)
		}
	}

	amounts := parquetOf(t, []record{{Amount: 5, Code: new("c")}, {Amount: 6, Code: new("d")}})
	got, err = join(ReadOptions{Features: []string{"amount", "code", "late"}}, file{CSV, "code,other,amount\na,1,1\n"}, file{Parquet, amounts}, file{JSONL, `{"late":true,"amount":7}`}, file{Parquet, amounts})
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string][]string{
		"amount": {"1", "5", "6", "7", "5", "6"}, "code": {"a", "c", "d", "-", "c", "d"}, "late": {"-", "-", "-", "true", "-", "-"}} {
		c := got.byName[name]
		if !reflect.DeepEqual(c.values(), values) || c.missing+c.numeric+c.textual != 6 {
			t.Errorf("column %q is %q, want %q", name, c.values(), values)
		}
	}
	if _, err := join(ReadOptions{}, file{CSV, "tags.list.element\na\n"}, file{Parquet, amounts}); err != nil {
		t.Errorf("a column that becomes a list: %v", err)
	}
	if _, err := join(ReadOptions{Features: []string{"b"}}, file{CSV, "b\n1\n"}, file{Parquet, amounts}); err == nil || !strings.Contains(err.Error(), "none of the columns") {
		t.Errorf("a file without any column of the others: %v", err)
	}
}

// Columns that come when many rows are kept leave fewer of them, by chance.
func TestNarrow(t *testing.T) {
	s := newSample(ReadOptions{Seed: 1})
	a, _ := s.column("a")
	for i := range DefaultRows {
		a.put(s.next(), numberCell(float64(i)))
	}
	for i := range mostColumns - 1 {
		if _, err := s.column(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s.most*mostColumns > mostCells || s.kept != s.most || s.kept < mostCells/mostColumns/2 {
		t.Fatalf("%d rows of %d columns are kept", s.kept, mostColumns)
	}
	sum, seen := 0.0, map[float64]bool{}
	for _, x := range a.numbers {
		sum, seen[x] = sum+x, true
	}
	// Without replacement the mean varies a little less than this.
	if n := float64(s.kept); len(seen) != s.kept || math.Abs(sum/n-DefaultRows/2) > 4*DefaultRows/math.Sqrt(12*n) {
		t.Errorf("%d rows that differ, of mean %g", len(seen), sum/n)
	}
}

// Texts that differ have a bound of their own; texts that were seen cost nothing.
func TestManyTexts(t *testing.T) {
	for format, lines := range map[Format][2]string{
		CSV: {"a\nx\nx\n", "a\nyz\n"}, JSONL: {`{"a":"x"}`, `{"a":"yz"}`},
		Parquet: {parquetOf(t, []record{{Code: new("x")}}), parquetOf(t, []record{{Code: new("yz")}})},
	} {
		r := NewReader(ReadOptions{})
		*r.sample.texts = mostTexts - 1 - textCost
		for i, text := range lines {
			err := r.Add(strings.NewReader(text), int64(len(text)), format)
			if full := i == 1 && format != Parquet || format == Parquet; full != (err != nil && strings.Contains(err.Error(), "name the columns to compare")) {
				t.Errorf("%s, file %d: %v", format, i, err)
			}
			if err != nil {
				break
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("csv", "a,b\n1,x\n2,\"y\"\n")
	f.Add("jsonl", `{"a":1,"b":"x","c":[1]}`)
	f.Add("parquet", parquetOf(f, []record{{Amount: 1, Code: new("x"), Tags: []string{"y"}}, {}}))
	f.Fuzz(func(t *testing.T, format, text string) {
		s, err := read(t, Format(format), text, ReadOptions{Rows: 10})
		if err != nil {
			return
		}
		for _, c := range s.columns {
			if n := c.missing + c.numeric + c.textual; c.unfit == "" && n != s.Rows || format != "parquet" && n != s.Rows {
				t.Fatalf("column %q has %d values of %d rows", c.name, n, s.Rows)
			}
			if c.unfit == "" && (len(c.numbers) != s.kept || len(c.texts) != s.kept || s.kept > 10) {
				t.Fatalf("column %q kept %d of %d", c.name, len(c.numbers), s.kept)
			}
		}
		o := Options{MinRows: 1}
		if r, err := Compare(s, s, o); err == nil {
			if r.HasDrift || r.Coefficient != 0 && r.Method != ByClassifier {
				t.Fatalf("a dataset against itself: %+v", r)
			}
			if err := r.WriteHTML(&bytes.Buffer{}, "a", "b"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	base := sampleOf(t, map[string][]any{"<script>alert(1)</script>": {"a", "b", "c"}, "x": {1., 2., 3.}})
	if err := compare(t, base, base, Options{}).WriteHTML(&b, "train.csv", "live<b>.csv"); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"<script", "http://", "https://", "live<b>", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	for _, good := range []string{"No verdict: each side needs 50 rows", "<svg", "train.csv", "&lt;script&gt;", "default-src &#39;none&#39;"} {
		if !strings.Contains(page, good) && !strings.Contains(page, strings.ReplaceAll(good, "&#39;", "'")) {
			t.Errorf("the page has no %q", good)
		}
	}
}
