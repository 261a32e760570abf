package drift

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"
)

// Period chooses the rows whose time lies in a span: From belongs to it, To does not.
// A row without a time lies in none; a text that is no time is an error.
//
// A time is a date or date-time as ISO 8601 writes it (in UTC where there is no zone),
// or a number: seconds since 1970, milliseconds from 10^11 on, microseconds from 10^14
// on, nanoseconds from 10^17 on. Parquet's own dates and timestamps say what they are.
type Period struct {
	Column   string
	From, To time.Time
}

// chosenBy is why the column of times is not compared.
const chosenBy = "its times say which rows are of the window"

func (p *Period) holds(t time.Time) bool { return !t.Before(p.From) && t.Before(p.To) }

// holdsCell tells whether a row with that time is chosen.
func (p *Period) holdsCell(c cell) (bool, error) {
	switch c.sort {
	case number:
		return p.holds(epoch(c.number)), nil
	case words:
		t, ok := parseTime(c.text)
		if !ok {
			return false, fmt.Errorf("column %q holds %q, which is no time: give a date, a date-time, or seconds or milliseconds since 1970", p.Column, c.text)
		}
		return p.holds(t), nil
	}
	return false, nil
}

// holdsJSON is holdsCell for a value in JSON.
func (p *Period) holdsJSON(raw json.RawMessage) (bool, error) {
	if len(raw) == 0 {
		return false, nil
	}
	text := string(raw)
	switch raw[0] {
	case '{', '[':
		return false, fmt.Errorf("column %q holds lists or objects, which are no times", p.Column)
	case '"':
		if err := json.Unmarshal(raw, &text); err != nil {
			return false, err
		}
	}
	return p.holdsCell(textCell(text))
}

// epoch is the time of a number.
func epoch(x float64) time.Time {
	switch size := math.Abs(x); {
	case size < 1e11:
		whole, part := math.Modf(x)
		return time.Unix(int64(whole), int64(part*1e9))
	case size < 1e14:
		return time.UnixMilli(int64(x))
	case size < 1e17:
		return time.UnixMicro(int64(x))
	case size < 9e18:
		return time.Unix(0, int64(x))
	}
	return time.Time{}
}

var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", time.DateOnly,
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02 15:04:05.999999999 -0700", "2006-01-02 15:04:05.999999999 -0700 MST",
}

func parseTime(text string) (time.Time, bool) {
	text = strings.TrimSuffix(text, " UTC")
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// timesOf says how values of a Parquet type tell times; the result is in no zone but
// UTC. Numbers without a meaning of their own are taken as elsewhere.
func timesOf(t parquet.Type) func(parquet.Value) (cell, time.Time) {
	var unit time.Duration
	if logical := t.LogicalType(); logical != nil {
		switch l := logical.Value.(type) {
		case *format.TimestampType:
			if l.Unit.Value != nil {
				unit = l.Unit.Value.Duration()
			}
		case *format.DateType:
			unit = 24 * time.Hour
		}
	}
	if converted := t.ConvertedType(); unit == 0 && converted != nil {
		switch *converted {
		case deprecated.TimestampMillis:
			unit = time.Millisecond
		case deprecated.TimestampMicros:
			unit = time.Microsecond
		case deprecated.Date:
			unit = 24 * time.Hour
		}
	}
	switch kind := t.Kind(); {
	case kind == parquet.Int96: // nanoseconds of a day, and its Julian number
		return func(v parquet.Value) (cell, time.Time) {
			parts := v.Int96()
			const unixEpoch = 2440588
			return cell{}, time.Unix((int64(parts[2])-unixEpoch)*86400, int64(uint64(parts[1])<<32|uint64(parts[0])))
		}
	case unit > 0 && (kind == parquet.Int32 || kind == parquet.Int64):
		return func(v parquet.Value) (cell, time.Time) {
			n := v.Int64()
			if kind == parquet.Int32 {
				n = int64(v.Int32())
			}
			if unit >= time.Second {
				return cell{}, time.Unix(n*int64(unit/time.Second), 0)
			}
			per := int64(time.Second / unit)
			return cell{}, time.Unix(n/per, n%per*int64(unit))
		}
	}
	of, _ := cellOf(t)
	if of == nil {
		return nil
	}
	return func(v parquet.Value) (cell, time.Time) { return of(v), time.Time{} }
}

// A choice says which rows of a row group are chosen.
type choice struct {
	bits  []uint64
	rows  int64 // all
	count int64 // chosen
}

// mostGroup bounds the rows of a row group that are chosen from.
const mostGroup = 1 << 26

func (c *choice) add(chosen bool) {
	if c.rows%64 == 0 {
		c.bits = append(c.bits, 0)
	}
	if chosen {
		c.bits[c.rows/64] |= 1 << (c.rows % 64)
		c.count++
	}
	c.rows++
}

func (c *choice) holds(row int64) bool {
	return row/64 < int64(len(c.bits)) && c.bits[row/64]&(1<<(row%64)) != 0
}

// choose reads the times of a row group.
func (p *Period) choose(reader *pageReader, times chunk, of func(parquet.Value) (cell, time.Time)) (*choice, error) {
	if times.rows > mostGroup {
		return nil, tooLarge("a row group to choose from", times.rows, mostGroup)
	}
	type moment struct {
		cell
		at time.Time
	}
	c := &choice{}
	err := eachValue(reader, times, func(v parquet.Value) moment {
		value, at := of(v)
		return moment{value, at}
	}, func(m moment, there bool) (err error) {
		chosen := false
		switch {
		case !there:
		case m.at.IsZero():
			chosen, err = p.holdsCell(m.cell)
		default:
			chosen = p.holds(m.at)
		}
		c.add(chosen)
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.rows != times.rows {
		return nil, damaged("column %q has %d rows in a row group of %d", p.Column, c.rows, times.rows)
	}
	return c, nil
}

// paused is a source whose reader is asked, before each read, whether to go on.
type paused struct {
	Source
	ask func() error
}

func (p paused) Read(b []byte) (int, error) {
	if err := p.ask(); err != nil {
		return 0, err
	}
	return p.Source.Read(b)
}

func (p paused) ReadAt(b []byte, at int64) (int, error) {
	if err := p.ask(); err != nil {
		return 0, err
	}
	return p.Source.ReadAt(b, at)
}
