package drift

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// writeTable writes rows of 20 columns: 14 of numbers, 3 of whole numbers, 3 of texts.
func writeTable(b *testing.B, path string, rows int, seed uint64) {
	b.Helper()
	var fields []reflect.StructField
	add := func(name string, of any) {
		fields = append(fields, reflect.StructField{Name: name, Type: reflect.TypeOf(of), Tag: reflect.StructTag(`parquet:"` + name + `"`)})
	}
	for i := range 14 {
		add("F"+strconv.Itoa(i), 0.0)
	}
	for i := range 3 {
		add("I"+strconv.Itoa(i), int64(0))
		add("S"+strconv.Itoa(i), "")
	}
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	buffered := bufio.NewWriter(file)
	row := reflect.StructOf(fields)
	w := parquet.NewWriter(buffered, parquet.SchemaOf(reflect.New(row).Interface()), parquet.MaxRowsPerRowGroup(250_000))
	r := rand.New(rand.NewPCG(seed, seed))
	v := reflect.New(row).Elem()
	for range rows {
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.Float64:
				f.SetFloat(r.NormFloat64() * float64(i+1))
			case reflect.Int64:
				f.SetInt(int64(r.IntN(1000)))
			default:
				f.SetString("value-" + strconv.Itoa(r.IntN(10*(i+1))))
			}
		}
		if err := w.Write(v.Addr().Interface()); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := buffered.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFiles reads two Parquet files of one distribution and different rows, and
// compares them with the domain classifier.
func BenchmarkFiles(b *testing.B) {
	for _, rows := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("rows=%d/columns=20/format=parquet", rows), func(b *testing.B) {
			dir := b.TempDir()
			paths := []string{filepath.Join(dir, "base.parquet"), filepath.Join(dir, "now.parquet")}
			for i, path := range paths {
				writeTable(b, path, rows, uint64(i+1))
			}
			runtime.GC()
			b.ReportAllocs()
			for b.Loop() {
				var samples []*Sample
				for _, path := range paths {
					samples = append(samples, readFile(b, path))
				}
				r, err := Compare(samples[0], samples[1], Options{})
				if err != nil || r.HasDrift || len(r.Columns) != 20 {
					b.Fatalf("%+v, error %v", r, err)
				}
			}
		})
	}
}

func readFile(b *testing.B, path string) *Sample {
	b.Helper()
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	s, err := Read(file, info.Size(), Parquet, ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return s
}
