package drift

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// Format is how a dataset is written.
type Format string

// The formats.
const (
	CSV     Format = "csv"     // comma separated, with a header
	JSONL   Format = "jsonl"   // an object a line
	Parquet Format = "parquet" // columns that repeat are not compared
)

// Formats are all of them.
var Formats = []Format{CSV, JSONL, Parquet}

// FormatOf tells the format of a file from the end of its name, or "".
func FormatOf(name string) Format {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return CSV
	case ".jsonl", ".ndjson":
		return JSONL
	case ".parquet", ".pq":
		return Parquet
	}
	return ""
}

// Source is a dataset in bytes; a file is one.
type Source interface {
	io.Reader
	io.ReaderAt
}

// mostRecord bounds a row of a text format, in bytes.
const mostRecord = 16 << 20

// Read reads a dataset of one file.
func Read(source Source, size int64, format Format, o ReadOptions) (*Sample, error) {
	r := NewReader(o)
	if err := r.Add(source, size, format); err != nil {
		return nil, err
	}
	return r.Sample()
}

// A Reader reads the files of a dataset, one after the other, into one sample. Each
// is read once and row by row: what that needs of memory does not depend on how many
// rows there are. Files may differ in their columns: rows of a file that does not have
// one have no value for it.
type Reader struct {
	sample *Sample
	wanted []string
	pause  func(rows int64) error
}

// NewReader makes a Reader that keeps what o says.
func NewReader(o ReadOptions) *Reader { return &Reader{newSample(o), o.Features, o.Pause} }

// Add reads a file. After an error nothing more can be added.
func (r *Reader) Add(source Source, size int64, format Format) error {
	if r.pause != nil {
		source = paused{source, func() error { return r.pause(r.sample.Rows) }}
	}
	r.sample.newFile()
	switch format {
	case CSV:
		return r.sample.readCSV(source)
	case JSONL:
		return r.sample.readJSONL(source)
	case Parquet:
		return r.sample.readParquet(source, size)
	}
	return fmt.Errorf("there is no format %q", format)
}

// Sample returns what was read. It is an error if a column that was named is in no
// file; without rows that may be so, for rows of JSON lines alone tell their columns.
func (r *Reader) Sample() (*Sample, error) {
	for _, f := range r.wanted {
		if r.sample.Rows > 0 && r.sample.byName[f] == nil {
			return nil, fmt.Errorf("it has no column %q", f)
		}
	}
	return r.sample, nil
}

// mostFields bounds the commas of a row, each of which may make a column: what reads them
// needs ten times the memory of their bytes.
const mostFields = 1 << 20

// A ration lets one record have so many bytes and commas.
type ration struct {
	from         io.Reader
	left, commas int
}

// renew begins the next record.
func (r *ration) renew() { r.left, r.commas = mostRecord, mostFields }

func (r *ration) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, fmt.Errorf("a row is longer than %d MiB", mostRecord>>20)
	}
	if r.commas <= 0 {
		return 0, fmt.Errorf("a row has more than %d commas", mostFields)
	}
	n, err := r.from.Read(p[:min(len(p), r.left)])
	r.left -= n
	r.commas -= bytes.Count(p[:n], []byte{','})
	return n, err
}

var byteOrderMark = []byte("\xef\xbb\xbf")

func withoutMark(r io.Reader) io.Reader {
	b := bufio.NewReader(r)
	if head, _ := b.Peek(len(byteOrderMark)); bytes.Equal(head, byteOrderMark) {
		_, _ = b.Discard(len(byteOrderMark))
	}
	return b
}

func (s *Sample) readCSV(r io.Reader) error {
	limited := &ration{from: withoutMark(r)}
	limited.renew()
	records := csv.NewReader(limited)
	records.ReuseRecord = true
	header, err := records.Read()
	if errors.Is(err, io.EOF) {
		return errors.New("it is empty: a CSV file begins with the names of its columns")
	}
	if err != nil {
		return err
	}
	if len(header) == 1 {
		for _, separator := range []struct{ sign, name string }{{";", "semicolons"}, {"\t", "tabs"}} {
			if strings.Contains(header[0], separator.sign) {
				return fmt.Errorf("its header is one column, %q: it seems to be separated by %s; write it with commas", header[0][:min(len(header[0]), mostText)], separator.name)
			}
		}
	}
	columns, here := make([]*column, len(header)), map[*column]bool{}
	for i, name := range header {
		nameless := name == ""
		if nameless {
			name = fmt.Sprintf("column %d", i+1)
		}
		if columns[i], err = s.columnOfFile(strings.Clone(name), here); err != nil {
			return err
		}
		if nameless && columns[i] != nil {
			columns[i].index = true
		}
	}
	absent, times := s.without(here), -1
	if s.period != nil {
		if times = slices.Index(header, s.period.Column); times < 0 {
			return fmt.Errorf("it has no column %q, whose times are to say which rows are of the window", s.period.Column)
		}
	}
	for {
		limited.renew()
		record, err := records.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if times >= 0 {
			if chosen, err := s.period.holdsCell(textCell(record[times])); err != nil {
				line, _ := records.FieldPos(times)
				return fmt.Errorf("line %d: %w", line, err)
			} else if !chosen {
				continue
			}
		}
		place := s.next()
		for i, c := range columns {
			if c != nil {
				c.put(place, textCell(record[i]))
			}
		}
		for _, c := range absent {
			c.put(place, cell{})
		}
		if err := s.checkTexts(); err != nil {
			return err
		}
	}
}
