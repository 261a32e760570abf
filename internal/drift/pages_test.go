package drift

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// chunksOf calls each for the column chunks of a file that do not repeat.
func chunksOf(t testing.TB, raw []byte, each func(name string, c chunk, theirs parquet.ColumnChunk)) {
	t.Helper()
	file, err := parquet.OpenFile(bytes.NewReader(raw), int64(len(raw)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		t.Fatal(err)
	}
	var leaves []*parquet.Column
	var walk func(c *parquet.Column)
	walk = func(c *parquet.Column) {
		for _, child := range c.Columns() {
			walk(child)
		}
		if c.Leaf() && c.MaxRepetitionLevel() == 0 {
			leaves = append(leaves, c)
		}
	}
	walk(file.Root())
	for i, group := range file.RowGroups() {
		for _, leaf := range leaves {
			length := 0
			if leaf.Type().Kind() == parquet.FixedLenByteArray {
				length = leaf.Type().Length()
			}
			name := fmt.Sprintf("%s of row group %d", strings.Join(leaf.Path(), "."), i)
			each(name, chunk{bytes.NewReader(raw), int64(len(raw)), leaf.Type().Kind(), length, leaf.MaxDefinitionLevel(),
				&file.Metadata().RowGroups[i].Columns[leaf.Index()], group.NumRows()}, group.ColumnChunks()[leaf.Index()])
		}
	}
}

// ours are the values of a chunk as texts.
func ours(c chunk) (out []string, err error) {
	err = eachValue(&pageReader{}, c, func(v parquet.Value) string { return v.String() }, func(v string, there bool) error {
		if !there {
			v = "<null>"
		}
		out = append(out, v)
		return nil
	})
	return out, err
}

// theirs are the same by the library.
func theirs(c parquet.ColumnChunk) (out []string, err error) {
	pages := c.Pages()
	defer func() { _ = pages.Close() }()
	var values [100]parquet.Value
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		for reader := page.Values(); ; {
			n, err := reader.ReadValues(values[:])
			for _, v := range values[:n] {
				text := v.String()
				if v.IsNull() {
					text = "<null>"
				}
				out = append(out, text)
			}
			if errors.Is(err, io.EOF) || n == 0 {
				break
			}
			if err != nil {
				return out, err
			}
		}
	}
}

type encoded struct {
	Bool        bool    `parquet:"bool"`
	Int         int32   `parquet:"int,delta"`
	Long        int64   `parquet:"long,delta"`
	LongDict    int64   `parquet:"long_dict,dict"`
	Float       float32 `parquet:"float,split"`
	Double      float64 `parquet:"double,split"`
	DoublePlain float64 `parquet:"double_plain"`
	Text        string  `parquet:"text"`
	TextDict    *string `parquet:"text_dict,dict,optional"`
	TextDelta   string  `parquet:"text_delta,delta"`
	TextLengths []byte  `parquet:"text_lengths,delta"`
	Fixed       [5]byte `parquet:"fixed"`
	Maybe       *int32  `parquet:"maybe,optional"`
	Nested      struct {
		Inner *float64 `parquet:"inner,optional"`
	} `parquet:"nested,optional"`
}

func encodedOf(n int) []encoded {
	out := make([]encoded, n)
	for i := range out {
		x := uint64(i) * 0x9E3779B97F4A7C15
		e := encoded{
			Bool: x%3 == 0, Int: int32(x >> 20), Long: int64(x), LongDict: int64(i % 17), Float: float32(i) / 3, Double: float64(x) / 7, DoublePlain: -float64(i),
			Text: fmt.Sprintf("text %d", x%1000), TextDelta: fmt.Sprintf("prefix/%04d/%d", i/10, x%100), TextLengths: []byte(fmt.Sprint(x)), Fixed: [5]byte{byte(i), byte(i >> 8), 3, 4, 5},
		}
		if i%3 > 0 {
			e.TextDict, e.Maybe, e.Nested.Inner = new(fmt.Sprint("w", i%40)), new(int32(i*i)), new(float64(i))
		}
		out[i] = e
	}
	return out
}

// Pages are read as the library reads them where they are not packed, in each encoding,
// version and compression. (Packed by LZ4 it reads some of its own pages wrongly.)
func TestPages(t *testing.T) {
	wanted := map[string][]string{}
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd, &parquet.Brotli, &parquet.Lz4Raw} {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprint(codec, " version ", version), func(t *testing.T) {
				var b bytes.Buffer
				w := parquet.NewGenericWriter[encoded](&b, parquet.Compression(codec), parquet.DataPageVersion(version), parquet.PageBufferSize(4000), parquet.MaxRowsPerRowGroup(1500))
				if _, err := w.Write(encodedOf(4_000)); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				chunks := 0
				chunksOf(t, b.Bytes(), func(name string, c chunk, library parquet.ColumnChunk) {
					chunks++
					got, err := ours(c)
					if version == 1 && codec == compress.Codec(&parquet.Uncompressed) {
						want, err := theirs(library)
						if err != nil {
							t.Fatal(err)
						}
						wanted[name] = want
					}
					if want := wanted[name]; err != nil || !reflect.DeepEqual(got, want) {
						t.Errorf("%s: %v; %d values, want %d", name, err, len(got), len(want))
					}
				})
				if chunks != 3*14 {
					t.Errorf("%d column chunks", chunks)
				}
			})
		}
	}
}

// Files that other programs wrote, which come with the library.
func TestPagesOfOthers(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/parquet-go/parquet-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "*.parquet"))
	if err != nil || len(names) < 40 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	values := 0
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkFooter(bytes.NewReader(raw), int64(len(raw))); err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
		chunksOf(t, raw, func(of string, c chunk, library parquet.ColumnChunk) {
			got, err := ours(c)
			want, wantErr := theirs(library)
			values += len(got)
			if strings.HasPrefix(filepath.Base(name), "lz4_raw_compressed_larger") && len(got) == 10_000 {
				if got[0] != "c7ce6bef-d5b0-4863-b199-8ea8c7fb117b" || got[9999] != "85440778-460a-41ac-aa2e-ac3ee41696bf" {
					t.Errorf("LZ4: the first is %s, the last %s", got[0], got[9999])
				}
				return // as apache/parquet-testing says; the library reads it wrongly
			}
			if (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: %v; the library %v; %d and %d values", filepath.Base(name), of, err, wantErr, len(got), len(want))
			}
		})
	}
	t.Logf("%d files, %d values", len(names), values)
}

// forged is a file of one column "a" whose pages and claims are as given.
type forged struct {
	kind     format.Type
	optional bool
	codec    format.CompressionCodec
	rows     int64
	pages    []page
}

type page struct {
	header format.PageHeader
	body   []byte
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := thrift.Marshal(&thrift.CompactProtocol{}, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func withFooter(pages, footer []byte) string {
	return "PAR1" + string(pages) + string(footer) + string(binary.LittleEndian.AppendUint32(nil, uint32(len(footer)))) + "PAR1"
}

func (f forged) file(t testing.TB) string {
	t.Helper()
	var pages []byte
	for _, p := range f.pages {
		pages = append(append(pages, marshal(t, &p.header)...), p.body...)
	}
	leaf := format.SchemaElement{Name: "a", Type: thrift.New(f.kind), RepetitionType: thrift.New(format.Required)}
	if f.optional {
		leaf.RepetitionType = thrift.New(format.Optional)
	}
	return withFooter(pages, marshal(t, &format.FileMetaData{
		Version: 1, NumRows: f.rows, Schema: thrift.Slice[format.SchemaElement]{{Name: "root", NumChildren: thrift.New(int32(1))}, leaf},
		RowGroups: thrift.Slice[format.RowGroup]{{NumRows: f.rows, Columns: thrift.Slice[format.ColumnChunk]{{MetaData: format.ColumnMetaData{
			Type: f.kind, Encoding: thrift.Slice[format.Encoding]{format.Plain}, PathInSchema: thrift.Slice[string]{"a"}, Codec: f.codec,
			NumValues: f.rows, TotalCompressedSize: int64(len(pages)), DataPageOffset: 4,
		}}}}},
	}))
}

// data is a page of values; size is what it claims to be when unpacked.
func data(encoding format.Encoding, values, size int32, body []byte) page {
	return page{format.PageHeader{Type: format.DataPage, UncompressedPageSize: size, CompressedPageSize: int32(len(body)), DataPageHeader: thrift.New(
		format.DataPageHeader{NumValues: values, Encoding: encoding, DefinitionLevelEncoding: format.RLE, RepetitionLevelEncoding: format.RLE})}, body}
}

func dictionary(values, size int32, body []byte) page {
	return page{format.PageHeader{Type: format.DictionaryPage, UncompressedPageSize: size, CompressedPageSize: int32(len(body)), DictionaryPageHeader: thrift.New(
		format.DictionaryPageHeader{NumValues: values, Encoding: format.Plain})}, body}
}

func uvarints(numbers ...uint64) (b []byte) {
	for _, x := range numbers {
		b = binary.AppendUvarint(b, x)
	}
	return b
}

// allocated is how much memory something took in all, which is more than it held at once.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Small files that claim much, or unpack to much, are refused before memory is taken.
func TestHostileParquet(t *testing.T) {
	packed := func(codec compress.Codec, b []byte) []byte {
		out, err := codec.Encode(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	zeros := make([]byte, 16<<20)
	huge := int32(math.MaxInt32)
	deep := func(n int, open, shut string) []byte {
		return []byte(strings.Repeat(open, n) + strings.Repeat(shut, n))
	}
	var nested thrift.Slice[format.SchemaElement]
	for range 5_000 {
		nested = append(nested, format.SchemaElement{Name: "a", NumChildren: thrift.New(int32(1))})
	}
	// Each text is the one before: 8 MiB, a million times.
	shared := func() []byte {
		const texts = 1 << 20
		block := func(first, delta int64, widths string) []byte {
			b := uvarints(1<<20, 1, texts)
			b = binary.AppendVarint(b, first)
			return append(binary.AppendVarint(b, delta), widths...)
		}
		b := block(0, 0, "\x20") // the first shares nothing, the second 8 MiB, and so do the others
		b = append(binary.LittleEndian.AppendUint32(b, 8<<20), make([]byte, 4<<20-4)...)
		b = append(b, block(8<<20, -8<<20, "\x20\x00\x00\x00\x00")...) // the first adds 8 MiB, the others nothing
		for range texts - 1 {
			b = binary.LittleEndian.AppendUint32(b, 8<<20)
		}
		return append(b, zeros[:8<<20]...)
	}()
	whole := func(kind format.Type, optional bool, codec format.CompressionCodec, rows int64, pages ...page) string {
		return forged{kind, optional, codec, rows, pages}.file(t)
	}
	tests := []struct {
		name string
		file string
		most uint64 // MiB
		want string
	}{
		{"a page of 2 GiB", whole(format.Int64, false, format.Snappy, 1, data(format.Plain, 1, huge, []byte("\xff\xff\xff\xff\x07"))), 1, "a page of 2147483647"},
		{"a packed page of 2 GiB", whole(format.Int64, false, format.Snappy, 1, page{format.PageHeader{CompressedPageSize: huge, DataPageHeader: thrift.New(format.DataPageHeader{NumValues: 1})}, nil}), 1, "a page of 2147483647"},
		{"a page that is not there", whole(format.Int64, false, format.Uncompressed, 1, page{format.PageHeader{CompressedPageSize: 60 << 20, UncompressedPageSize: 60 << 20, DataPageHeader: thrift.New(format.DataPageHeader{NumValues: 1})}, nil}), 4, "unexpected EOF"},
		{"another size in snappy", whole(format.Int64, false, format.Snappy, 1, data(format.Plain, 1, 8, []byte("\xff\xff\xff\xff\x07"))), 1, "its size is not that of its header"},
		{"a gzip bomb", whole(format.Int64, false, format.Gzip, 1, data(format.Plain, 1, 8, packed(&parquet.Gzip, zeros))), 4, "its size is not that of its header"},
		{"a zstd bomb", whole(format.Int64, false, format.Zstd, 1, data(format.Plain, 1, 8, packed(&parquet.Zstd, zeros))), 4, "a page cannot be unpacked"},
		{"a brotli bomb", whole(format.Int64, false, format.Brotli, 1, data(format.Plain, 1, 8, packed(&parquet.Brotli, zeros))), 16, "its size is not that of its header"},
		{"an lz4 bomb", whole(format.Int64, false, format.Lz4Raw, 1, data(format.Plain, 1, 8, packed(&parquet.Lz4Raw, zeros))), 4, "a page cannot be unpacked"},
		{"gzip that claims more than it is", whole(format.Int64, false, format.Gzip, 1, data(format.Plain, 1, 64<<20, packed(&parquet.Gzip, zeros[:8]))), 4, "unexpected EOF"},
		{"a page of many values", whole(format.Int64, true, format.Uncompressed, 1<<40, data(format.Plain, huge, 9, append([]byte{5, 0, 0, 0}, "\xfe\xff\xff\xff\x0f"...))), 1, "a page with values of 2147483647"},
		{"a long run of levels", whole(format.Int64, true, format.Uncompressed, 1<<24, data(format.Plain, 1<<24, 10, append([]byte{6, 0, 0, 0}, "\xfe\xff\xff\xff\x0f\x00"...))), 1, "a run of 2147483647 values"},
		{"missing values without end", whole(format.Int64, true, format.Uncompressed, 1<<23, data(format.Plain, 1<<23, 9, append([]byte{5, 0, 0, 0}, append(uvarints(1<<24), 0)...))), 8, ""},
		{"a large dictionary", whole(format.ByteArray, false, format.Uncompressed, 1, dictionary(huge, 0, nil)), 1, "a dictionary of 2147483647"},
		{"a dictionary that is not there", whole(format.ByteArray, false, format.Uncompressed, 1, dictionary(2<<20, 0, nil)), 128, "a page is too short"},
		{"a value that the dictionary does not have", whole(format.ByteArray, false, format.Uncompressed, 1, dictionary(0, 0, nil), data(format.RLEDictionary, 1, 3, []byte{1, 2, 1})), 1, "its dictionary does not have"},
		{"many deltas", whole(format.Int64, false, format.Uncompressed, 1, data(format.DeltaBinaryPacked, 1, 0, uvarints(128, 4, 1<<31, 0))), 1, "make no sense"},
		{"a block of deltas", whole(format.Int64, false, format.Uncompressed, 1<<20, data(format.DeltaBinaryPacked, 1<<20, 0, uvarints(1<<40, 4, 1<<20, 0))), 1, "make no sense"},
		{"texts that share", whole(format.ByteArray, false, format.Uncompressed, 1<<20, data(format.DeltaByteArray, 1<<20, 0, shared)), 200, "a page with texts of 1082130432"},
		{"more values than rows", whole(format.Int64, false, format.Uncompressed, 1, data(format.Plain, 2, 16, make([]byte, 16))), 1, "more values than its row group has rows"},
		{"fewer values than rows", whole(format.Int64, false, format.Uncompressed, 1<<50, data(format.Plain, 2, 16, make([]byte, 16))), 1, "has 2 rows in a row group of"},
		{"rows less than none", whole(format.Int64, false, format.Uncompressed, -5, data(format.Plain, 2, 16, make([]byte, 16))), 1, "is negative"},

		{"a long list in the footer", withFooter(nil, []byte("\x15\x02\x19\xfc\xff\xff\xff\xff\x07")), 1, "it ends too early"},
		{"a long text in the footer", withFooter(nil, []byte("\x18\xff\xff\xff\xff\x07")), 1, "it ends too early"},
		{"many structures in the footer", withFooter(nil, append([]byte("\x15\x02\x19\x0c\x16\x00\x19\xfc\x80\xc0\x3d"), make([]byte, 1_100_000)...)), 4, "too many structures"},
		{"structures in structures", withFooter(nil, deep(1_000_000, "\x1c", "\x00")), 4, "too deep"},
		{"lists in lists", withFooter(nil, append([]byte("\xf9"), deep(1_000_000, "\x19", "\x00")...)), 4, "too deep"},
		{"groups in groups", withFooter(nil, marshal(t, &format.FileMetaData{Schema: nested})), 8, "groups in groups to a depth of 101"},
		{"a long footer", withFooter(nil, make([]byte, mostFooter+1)), 1, "a footer of 16777217"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			taken := allocated(func() { _, err = Read(strings.NewReader(tt.file), int64(len(tt.file)), Parquet, ReadOptions{Rows: 1}) })
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if taken > tt.most<<20 {
				t.Errorf("it took %d MiB of memory, want at most %d", taken>>20, tt.most)
			}
		})
	}
}

// As many structures as a footer may have, of the largest kind, take bounded memory.
func TestLargeFooter(t *testing.T) {
	columns := make(thrift.Slice[format.ColumnChunk], 1_000)
	schema := thrift.Slice[format.SchemaElement]{{Name: "root", NumChildren: thrift.New(int32(len(columns)))}}
	for i := range columns {
		name := fmt.Sprint(i)
		schema = append(schema, format.SchemaElement{Name: name, Type: thrift.New(format.Int64), RepetitionType: thrift.New(format.Required)})
		columns[i].MetaData = format.ColumnMetaData{Type: format.Int64, PathInSchema: thrift.Slice[string]{name}, DataPageOffset: 4}
	}
	groups := make(thrift.Slice[format.RowGroup], 90)
	for i := range groups {
		groups[i].Columns = columns
	}
	file := withFooter(nil, marshal(t, &format.FileMetaData{Version: 1, Schema: schema, RowGroups: groups}))
	var err error
	taken := allocated(func() { _, err = Read(strings.NewReader(file), int64(len(file)), Parquet, ReadOptions{}) })
	t.Logf("a footer of %d bytes took %d MiB", len(file), taken>>20)
	if err != nil || taken > 400<<20 {
		t.Errorf("%d MiB, error %v", taken>>20, err)
	}
}

// FuzzParquet reads any bytes: no panic, and bounded memory.
func FuzzParquet(f *testing.F) {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[encoded](&b, parquet.Compression(&parquet.Zstd))
	if _, err := w.Write(encodedOf(20)); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(parquetOf(f, []record{{Amount: 1, Code: new("x"), Tags: []string{"y"}}, {}})))
	f.Add([]byte(withFooter(nil, []byte("\x15\x02\x19\xfc\xff\xff\xff\xff\x07"))))
	f.Fuzz(func(t *testing.T, raw []byte) { bounded(t, string(raw)) })
}

// FuzzParquetPage reads a page of any claims and bytes behind a footer that is well.
func FuzzParquetPage(f *testing.F) {
	f.Add(int32(2), int32(0), int32(8), int32(16), uint8(0), make([]byte, 16))
	f.Add(int32(6), int32(8), int32(100), int32(50), uint8(3), []byte{4, 0, 0, 0, 200, 1, 1, 2, 3})
	f.Add(int32(6), int32(7), int32(2), int32(50), uint8(4), append(uvarints(128, 4, 2, 0), uvarints(128, 4, 2, 0)...))
	f.Fuzz(func(t *testing.T, kind, encoding, values, size int32, how uint8, body []byte) {
		codec := []format.CompressionCodec{format.Uncompressed, format.Snappy, format.Gzip, format.Zstd, format.Lz4Raw, format.Brotli}[how>>1%6]
		p := data(format.Encoding(encoding), values, size, body)
		if how&64 > 0 {
			p = page{format.PageHeader{Type: format.DataPageV2, UncompressedPageSize: size, CompressedPageSize: int32(len(body)), DataPageHeaderV2: thrift.New(
				format.DataPageHeaderV2{NumValues: values, Encoding: format.Encoding(encoding), DefinitionLevelsByteLength: int32(how & 7)})}, body}
		}
		pages := []page{p}
		if half := len(body) / 2; how&128 > 0 {
			pages = []page{dictionary(values%32, int32(half), body[:half]), p}
		}
		bounded(t, forged{format.Type(kind & 7), how&1 > 0, codec, int64(values), pages}.file(t))
	})
}

// bounded reads a small file in bounded memory.
func bounded(t *testing.T, file string) {
	taken := allocated(func() {
		if s, err := Read(strings.NewReader(file), int64(len(file)), Parquet, ReadOptions{Rows: 10}); err == nil {
			for _, c := range s.columns {
				if n := c.missing + c.numeric + c.textual; c.unfit == "" && n != s.Rows {
					t.Errorf("column %q has %d values of %d rows", c.name, n, s.Rows)
				}
			}
		}
	})
	if most := uint64(256<<20 + 1000*len(file)); taken > most {
		t.Errorf("a file of %d bytes took %d MiB", len(file), taken>>20)
	}
}
