package drift

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

func (s *Sample) readJSONL(r io.Reader) error {
	lines := bufio.NewScanner(withoutMark(r))
	lines.Buffer(make([]byte, 0, 64<<10), mostRecord)
	var object members
	var row []string // of each column, its value as it is written; "" is none
	line := 0
	for lines.Scan() {
		line++
		raw := bytes.TrimSpace(lines.Bytes())
		if len(raw) == 0 {
			continue
		}
		if err := object.read(string(raw)); err != nil {
			return fmt.Errorf("line %d is no JSON object%w", line, err)
		}
		if s.period != nil {
			if chosen, err := s.period.holdsJSON(json.RawMessage(object.last(s.period.Column))); err != nil {
				return fmt.Errorf("line %d: %w", line, err)
			} else if !chosen {
				continue
			}
		}
		if err := s.newColumns(object.names); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		row = append(row[:0], make([]string, len(s.columns))...)
		for i, name := range object.names {
			if c := s.byName[name]; c != nil {
				row[c.at] = object.values[i] // the last one of a name counts
			}
		}
		place := s.next()
		for i, c := range s.columns {
			v, err := c.jsonCell(row[i])
			if err != nil {
				return fmt.Errorf("line %d, %q: %w", line, c.name, err)
			}
			c.put(place, v)
		}
		if err := s.checkTexts(); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d MiB", line+1, mostRecord>>20)
	}
	return lines.Err()
}

// newColumns adds those that no line had before, by name: an object has no order.
func (s *Sample) newColumns(names []string) error {
	var fresh []string
	for _, name := range names {
		if s.byName[name] == nil && (s.wanted == nil || s.wanted[name]) {
			fresh = append(fresh, name)
		}
	}
	slices.Sort(fresh)
	for _, name := range slices.Compact(fresh) {
		if _, err := s.column(strings.Clone(name)); err != nil { // not the whole line
			return err
		}
	}
	return nil
}

func (c *column) jsonCell(raw string) (cell, error) {
	if raw == "" {
		return cell{}, nil
	}
	switch raw[0] {
	case '{', '[':
		c.unfit = listed
		return cell{}, nil
	case '"':
		if plain := raw[1 : len(raw)-1]; strings.IndexByte(plain, '\\') < 0 && utf8.ValidString(plain) {
			return textCell(plain), nil
		}
		var text string
		if err := json.Unmarshal([]byte(raw), &text); err != nil {
			return cell{}, err
		}
		return textCell(text), nil
	}
	return textCell(raw), nil // a number, true, false or null
}

// members are the names of an object and its values, as they are written.
type members struct{ names, values []string }

// last is the value of a name, or "".
func (m *members) last(name string) string {
	for i, n := range slices.Backward(m.names) {
		if n == name {
			return m.values[i]
		}
	}
	return ""
}

// read reads an object. What is of the plainest form is read here, which takes a quarter
// of the time; the rest is for encoding/json. A fuzz test holds both against each other.
func (m *members) read(line string) error {
	if m.scan(line) {
		return nil
	}
	var object map[string]json.RawMessage
	err := json.Unmarshal([]byte(line), &object)
	if err != nil {
		return fmt.Errorf(": %w", err)
	}
	if object == nil {
		return errors.New("")
	}
	m.names, m.values = m.names[:0], m.values[:0]
	for name, value := range object {
		m.names, m.values = append(m.names, name), append(m.values, string(value))
	}
	return nil
}

// scan reads an object of numbers, true, false, null, and texts without escapes, and
// reports whether it is one.
func (m *members) scan(line string) bool {
	m.names, m.values = m.names[:0], m.values[:0]
	at := blank(line, 0)
	if at >= len(line) || line[at] != '{' {
		return false
	}
	if at = blank(line, at+1); at < len(line) && line[at] == '}' {
		return blank(line, at+1) == len(line)
	}
	for {
		end := quoted(line, at)
		if end < 0 {
			return false
		}
		name := line[at+1 : end-1]
		if at = blank(line, end); at >= len(line) || line[at] != ':' {
			return false
		}
		at = blank(line, at+1)
		if end = scalar(line, at); end < 0 {
			return false
		}
		m.names, m.values = append(m.names, name), append(m.values, line[at:end])
		if at = blank(line, end); at >= len(line) {
			return false
		}
		switch line[at] {
		case '}':
			return blank(line, at+1) == len(line)
		case ',':
			at = blank(line, at+1)
		default:
			return false
		}
	}
}

// blank is the place behind blanks.
func blank(line string, at int) int {
	for at < len(line) && (line[at] == ' ' || line[at] == '\t' || line[at] == '\n' || line[at] == '\r') {
		at++
	}
	return at
}

// quoted is the place behind a text without escapes that begins here, or -1.
func quoted(line string, at int) int {
	if at >= len(line) || line[at] != '"' {
		return -1
	}
	for end, wide := at+1, false; end < len(line); end++ {
		switch c := line[end]; {
		case c == '"':
			if wide && !utf8.ValidString(line[at+1:end]) {
				return -1
			}
			return end + 1
		case c == '\\' || c < ' ':
			return -1
		case c >= utf8.RuneSelf:
			wide = true
		}
	}
	return -1
}

// scalar is the place behind a value that has no others in it, or -1.
func scalar(line string, at int) int {
	if at >= len(line) {
		return -1
	}
	for _, word := range []string{"true", "false", "null"} {
		if strings.HasPrefix(line[at:], word) {
			return at + len(word)
		}
	}
	if line[at] == '"' {
		return quoted(line, at)
	}
	digits := func() bool {
		from := at
		for at < len(line) && line[at] >= '0' && line[at] <= '9' {
			at++
		}
		return at > from
	}
	if line[at] == '-' {
		at++
	}
	if from := at; !digits() || line[from] == '0' && at > from+1 {
		return -1
	}
	if at < len(line) && line[at] == '.' {
		if at++; !digits() {
			return -1
		}
	}
	if at < len(line) && (line[at] == 'e' || line[at] == 'E') {
		if at++; at < len(line) && (line[at] == '+' || line[at] == '-') {
			at++
		}
		if !digits() {
			return -1
		}
	}
	return at
}
