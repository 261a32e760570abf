package drift

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// readParquet reads column after column of each row group, page by page. The library
// panics on some damaged files; that is an error here, too.
func (s *Sample) readParquet(source io.ReaderAt, size int64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the Parquet file is damaged: %v", p)
		}
	}()
	if err := checkFooter(source, size); err != nil {
		return err
	}
	file, err := parquet.OpenFile(source, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	type leaf struct {
		*column
		index int
		cell  func(parquet.Value) cell
	}
	var leaves []leaf
	var times *parquet.Column // with a period, the column that chooses
	var timeOf func(parquet.Value) (cell, time.Time)
	here := map[*column]bool{}
	var walk func(*parquet.Column) error
	walk = func(c *parquet.Column) error {
		for _, child := range c.Columns() {
			if err := walk(child); err != nil {
				return err
			}
		}
		if !c.Leaf() {
			return nil
		}
		if s.period != nil && strings.Join(c.Path(), ".") == s.period.Column {
			if times, timeOf = c, timesOf(c.Type()); timeOf == nil || c.MaxRepetitionLevel() > 0 {
				return fmt.Errorf("column %q holds no times", s.period.Column)
			}
		}
		ours, err := s.columnOfFile(strings.Join(c.Path(), "."), here)
		if err != nil || ours == nil {
			return err
		}
		l := leaf{ours, c.Index(), nil}
		var temporal bool
		l.cell, temporal = cellOf(c.Type())
		ours.temporal = ours.temporal || temporal
		switch {
		case c.MaxRepetitionLevel() > 0:
			ours.unfit = listed
		case l.cell == nil:
			ours.unfit = "its values are bytes of an unknown meaning"
		}
		leaves = append(leaves, l)
		return nil
	}
	if err := walk(file.Root()); err != nil {
		return err
	}
	if s.period != nil && times == nil {
		return fmt.Errorf("it has no column %q, whose times are to say which rows are of the window", s.period.Column)
	}
	leaves = slices.DeleteFunc(leaves, func(l leaf) bool { return l.unfit != "" })
	absent := s.without(here)
	if len(leaves) == 0 && len(absent) > 0 {
		return errors.New("it has none of the columns that the files before it have")
	}
	for _, group := range file.RowGroups() {
		chunks, after := group.ColumnChunks(), s.draw
		if group.NumRows() < 0 {
			return errors.New("the Parquet file is damaged: it has a row group of a negative size")
		}
		chosen := group.NumRows()
		if times != nil {
			c, err := s.period.choose(chunks[times.Index()], timeOf, chosen)
			if err != nil {
				return err
			}
			s.chosen, s.passed, chosen = c, 0, c.count
			after = s.draw
		}
		after.Rows += chosen
		for _, l := range leaves {
			rows := s.draw
			if err := l.readChunk(chunks[l.index], &rows, l.cell); err != nil {
				return fmt.Errorf("column %q: %w", l.name, err)
			}
			if rows.Rows != after.Rows {
				return fmt.Errorf("the Parquet file is damaged: column %q has %d rows in a row group of %d", l.name, rows.Rows-s.Rows, chosen)
			}
			if err := s.checkTexts(); err != nil {
				return err
			}
			after = rows // each column draws the same
		}
		for _, c := range absent {
			for rows := s.draw; rows.Rows < after.Rows; {
				c.put(rows.next(), cell{})
			}
		}
		s.draw = after
		s.chosen = nil
	}
	return nil
}

// checkFooter refuses a footer longer than the file: the library would ask for as much
// memory first. Source: github.com/apache/parquet-format, README.md, "File format".
func checkFooter(source io.ReaderAt, size int64) error {
	var tail [8]byte
	if size < int64(len(tail)) {
		return errors.New("it is no Parquet file: it is too short")
	}
	if _, err := source.ReadAt(tail[:], size-int64(len(tail))); err != nil {
		return err
	}
	if length := int64(binary.LittleEndian.Uint32(tail[:])); length > size-int64(len(tail)) {
		return fmt.Errorf("it is no Parquet file, or damaged: its footer claims %d bytes", length)
	}
	return nil
}

// readChunk keeps what is drawn of a row group's column.
func (c *column) readChunk(chunk parquet.ColumnChunk, rows *draw, cellOf func(parquet.Value) cell) (err error) {
	pages := chunk.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	var values [512]parquet.Value
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for reader := page.Values(); ; {
			n, err := reader.ReadValues(values[:])
			for _, v := range values[:n] {
				var w cell
				if !v.IsNull() {
					w = cellOf(v)
				}
				if !rows.skips() {
					c.put(rows.next(), w)
				}
			}
			if errors.Is(err, io.EOF) || err == nil && n == 0 {
				break
			}
			if err != nil {
				return err
			}
		}
		parquet.Release(page)
	}
}

// cellOf says how values of a type become cells, nil if not at all, and whether they
// are times.
// Source: github.com/apache/parquet-format, LogicalTypes.md.
func cellOf(t parquet.Type) (of func(parquet.Value) cell, temporal bool) {
	scale, decimal, signed := 0, false, true
	if logical := t.LogicalType(); logical != nil {
		switch l := logical.Value.(type) {
		case *format.TimestampType, *format.DateType, *format.TimeType:
			temporal = true
		case *format.DecimalType:
			scale, decimal = int(l.Scale), true
		case *format.IntType:
			signed = l.IsSigned
		case *format.UUIDType:
			return func(v parquet.Value) cell { return textCell("uuid " + hex.EncodeToString(v.ByteArray())) }, false
		}
	}
	unit := math.Pow10(scale)
	switch t.Kind() {
	case parquet.Boolean:
		return func(v parquet.Value) cell {
			if v.Boolean() {
				return cell{text: "true", sort: words}
			}
			return cell{text: "false", sort: words}
		}, temporal
	case parquet.Int32:
		if !signed {
			return func(v parquet.Value) cell { return numberCell(float64(v.Uint32())) }, temporal
		}
		return func(v parquet.Value) cell { return numberCell(float64(v.Int32()) / unit) }, temporal
	case parquet.Int64:
		if !signed {
			return func(v parquet.Value) cell { return numberCell(float64(v.Uint64())) }, temporal
		}
		return func(v parquet.Value) cell { return numberCell(float64(v.Int64()) / unit) }, temporal
	case parquet.Int96: // nothing but timestamps was ever written so
		return func(parquet.Value) cell { return cell{} }, true
	case parquet.Float:
		return func(v parquet.Value) cell { return numberCell(float64(v.Float())) }, temporal
	case parquet.Double:
		return func(v parquet.Value) cell { return numberCell(v.Double()) }, temporal
	default:
		if decimal {
			return func(v parquet.Value) cell { return numberCell(bigEndian(v.ByteArray()) / unit) }, temporal
		}
		if t.Kind() == parquet.FixedLenByteArray {
			return nil, temporal
		}
		return func(v parquet.Value) cell { return textCell(string(v.ByteArray())) }, temporal
	}
}

// bigEndian is the number of two's complement bytes, as decimals have them.
func bigEndian(b []byte) float64 {
	if len(b) == 0 {
		return math.NaN()
	}
	x := float64(int8(b[0]))
	for _, next := range b[1:] {
		x = x*256 + float64(next)
	}
	return x
}
