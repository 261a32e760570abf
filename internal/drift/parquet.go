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
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// readParquet reads column after column of each row group, page by page. The library
// reads the footer, which is looked through first. It panics on some damaged files;
// that is an error here, too.
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
		from *parquet.Column
		cell func(parquet.Value) cell
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
		l := leaf{ours, c, nil}
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
	reader := &pageReader{}
	defer reader.close()
	for i := range file.Metadata().RowGroups {
		group, after := &file.Metadata().RowGroups[i], s.draw
		if group.NumRows < 0 {
			return damaged("it has a row group of a negative size")
		}
		chunkOf := func(c *parquet.Column) chunk {
			kind := c.Type().Kind()
			length := 0
			if kind == parquet.FixedLenByteArray {
				length = c.Type().Length()
			}
			return chunk{source, size, kind, length, c.MaxDefinitionLevel(), &group.Columns[c.Index()], group.NumRows}
		}
		chosen := group.NumRows
		if times != nil {
			c, err := s.period.choose(reader, chunkOf(times), timeOf)
			if err != nil {
				return err
			}
			s.chosen, s.passed, chosen = c, 0, c.count
			after = s.draw
		}
		after.Rows += chosen
		for _, l := range leaves {
			rows := s.draw
			err := eachValue(reader, chunkOf(l.from), l.cell, func(v cell, _ bool) error {
				if !rows.skips() {
					l.put(rows.next(), v)
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("column %q: %w", l.name, err)
			}
			if rows.Rows != after.Rows {
				return damaged("column %q has %d rows in a row group of %d", l.name, rows.Rows-s.Rows, chosen)
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

// checkFooter refuses a footer that would take much memory to read: one that is long,
// or has very many structures, or a schema that is very deep.
// Source: github.com/apache/parquet-format, README.md, "File format".
func checkFooter(source io.ReaderAt, size int64) error {
	var tail [8]byte
	if size < int64(len(tail)) {
		return errors.New("it is no Parquet file: it is too short")
	}
	if _, err := source.ReadAt(tail[:], size-int64(len(tail))); err != nil {
		return err
	}
	if string(tail[4:]) != "PAR1" {
		return fmt.Errorf("it is no Parquet file, or an encrypted one: it ends in %q", tail[4:])
	}
	length := int64(binary.LittleEndian.Uint32(tail[:]))
	if length > size-int64(len(tail)) {
		return fmt.Errorf("it is no Parquet file, or damaged: its footer claims %d bytes", length)
	}
	if length > mostFooter {
		return tooLarge("a footer", length, mostFooter)
	}
	footer := make([]byte, length)
	if _, err := source.ReadAt(footer, size-int64(len(tail))-length); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	scan := scanThrift{b: footer, structs: mostStructs}
	if err := scan.structure(0); err != nil {
		return damaged("its footer: %w", err)
	}
	var schema struct {
		Elements []format.SchemaElement `thrift:"2"`
	}
	if err := thrift.Unmarshal(&thrift.CompactProtocol{}, footer[:scan.at], &schema); err != nil {
		return damaged("its footer: %w", err)
	}
	if n := int64(len(schema.Elements)); n > mostSchema {
		return tooLarge("a schema", n, mostSchema)
	}
	var open []int32 // children that are still to come, of each group
	for _, e := range schema.Elements {
		for len(open) > 0 && open[len(open)-1] == 0 {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			open[len(open)-1]--
		}
		if e.NumChildren.V > 0 {
			if open = append(open, e.NumChildren.V); len(open) > mostDepth {
				return tooLarge("groups in groups to a depth", int64(len(open)), mostDepth)
			}
		}
		if e.TypeLength.V < 0 || e.TypeLength.V > mostPage {
			return damaged("values of %d bytes", e.TypeLength.V)
		}
	}
	return nil
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
		return func(v parquet.Value) cell {
			b := v.ByteArray()
			return textCell(string(b[:min(len(b), mostCell)]))
		}, temporal
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
