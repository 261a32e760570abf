package event

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// MaxDepth is how many objects and arrays may stand inside each other in one
// JSON text. It bounds the stack that a hostile body can take.
const MaxDepth = 128

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds. Object and Array are the ones that [Walk] goes into.
const (
	None Kind = iota // no value: end of the text, or a byte that starts none
	Null
	False
	True
	Number
	String
	Array
	Object
)

// String names the kind by its first token, as publish errors do.
func (k Kind) String() string {
	switch k {
	case Null:
		return "Null"
	case False, True:
		return "Boolean"
	case Number:
		return "Number"
	case String:
		return "String"
	case Array:
		return "StartArray"
	case Object:
		return "StartObject"
	default:
		return "None"
	}
}

// KindOf returns the kind of a value from its first byte, without checking the rest.
func KindOf(value []byte) Kind {
	if len(value) == 0 {
		return None
	}
	switch c := value[0]; c {
	case '"':
		return String
	case '{':
		return Object
	case '[':
		return Array
	case 't':
		return True
	case 'f':
		return False
	case 'n':
		return Null
	default:
		if c == '-' || c-'0' <= 9 {
			return Number
		}
		return None
	}
}

// SyntaxError says where a text stops being JSON, and why.
type SyntaxError struct {
	Offset int // of the byte that cannot stand there; the length of a text that ends too early
	Reason string
}

// Error returns reason and offset.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset)
}

// Check reports whether raw is one JSON text in UTF-8: nil, or a *[SyntaxError].
// It accepts what encoding/json accepts, except texts that are not UTF-8 or nest
// deeper than [MaxDepth].
func Check(raw []byte) error {
	i, err := scanValue(raw, skipSpace(raw, 0), 0)
	if err == nil {
		if i = skipSpace(raw, i); i < len(raw) {
			err = unexpected(raw, i, "the end of the text")
		}
	}
	if err != nil {
		return err // not returned directly: a nil *SyntaxError must not become an error
	}
	return nil
}

// Cursor goes over the members of a JSON object or the elements of an array in
// document order, without allocation:
//
//	c := event.Walk(data)
//	for c.Next() {
//		… c.Key, c.Value …
//	}
//
// It checks everything it passes, so a caller that must not trust the text looks
// at Err afterwards; one that walks a part of a stored event need not. Its slices
// point into the walked text. A value whose Kind is Object or Array can be walked
// in turn with Walk(c.Value).
type Cursor struct {
	Key          []byte // name between its quotes, as written; nil in an array
	KeyEscaped   bool   // Key holds escapes: its text is AppendUnquoted(nil, Key)
	Value        []byte // the value as written, a string with its quotes
	ValueEscaped bool   // Value is a string that holds escapes
	Kind         Kind   // kind of Value

	text   []byte
	at     int  // next byte to read; after the walk the first byte behind the container
	depth  int  // containers open around and including this one
	closer byte // '}' or ']'; 0 before the first step and after the last
	inner  bool // the container is part of a larger text: something may follow it
	err    *SyntaxError
}

// Walk returns a cursor over raw, which should be one object or array; over
// anything else Next returns false, and Err says what is wrong.
func Walk(raw []byte) Cursor {
	return Cursor{text: raw, at: skipSpace(raw, 0), depth: 1}
}

// walkAt returns a cursor over the container at text[i], inside depth-1 others.
func walkAt(text []byte, i, depth int) Cursor {
	return Cursor{text: text, at: i, depth: depth, inner: true}
}

// Err returns nil or the *[SyntaxError] that ended the walk early.
func (c *Cursor) Err() error {
	if c.err != nil {
		return c.err
	}
	return nil
}

// Next steps to the next member or element and reports whether there is one.
func (c *Cursor) Next() bool {
	b, i := c.text, c.at
	switch c.closer {
	case 0:
		if c.err != nil || c.depth == 0 {
			return false
		}
		if i >= len(b) || b[i] != '{' && b[i] != '[' {
			return c.fail(unexpected(b, i, "an object or an array"))
		}
		c.closer = b[i] + 2 // '{' and '}', '[' and ']' are two apart
		if i = skipSpace(b, i+1); i < len(b) && b[i] == c.closer {
			return c.finish(i + 1)
		}
	default:
		i = skipSpace(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == c.closer:
			return c.finish(i + 1)
		default:
			return c.fail(unexpected(b, i, "',' or '"+string(rune(c.closer))+"'"))
		}
	}
	var err *SyntaxError
	if c.closer == '}' {
		start := i + 1
		if i, c.KeyEscaped, err = scanKey(b, i); err != nil {
			return c.fail(err)
		}
		c.Key = b[start : i-1]
		if i, err = scanColon(b, i); err != nil {
			return c.fail(err)
		}
	}
	start := i
	c.ValueEscaped = false
	if i < len(b) && b[i] == '"' {
		i, c.ValueEscaped, err = scanString(b, i+1)
	} else {
		i, err = scanValue(b, i, c.depth)
	}
	if err != nil {
		return c.fail(err)
	}
	c.Value, c.Kind, c.at = b[start:i], KindOf(b[start:i]), i
	return true
}

// finish ends the walk behind the container's last byte.
func (c *Cursor) finish(i int) bool {
	c.at, c.closer, c.depth = i, 0, 0
	if !c.inner {
		if i = skipSpace(c.text, i); i < len(c.text) {
			return c.fail(unexpected(c.text, i, "the end of the text"))
		}
	}
	return false
}

func (c *Cursor) fail(err *SyntaxError) bool {
	c.err, c.closer = err, 0
	return false
}

// The scanner. Each function takes the text and the place to read at and returns
// the first place behind what it read.

func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// scanValue reads one value that stands inside depth containers.
func scanValue(b []byte, i, depth int) (int, *SyntaxError) {
	if i >= len(b) {
		return i, unexpected(b, i, "a value")
	}
	switch b[i] {
	case '"':
		i, _, err := scanString(b, i+1)
		return i, err
	case '{':
		return scanObject(b, i, depth+1)
	case '[':
		return scanArray(b, i, depth+1)
	case 't':
		return scanWord(b, i, "true")
	case 'f':
		return scanWord(b, i, "false")
	case 'n':
		return scanWord(b, i, "null")
	default:
		return scanNumber(b, i)
	}
}

func scanObject(b []byte, i, depth int) (int, *SyntaxError) {
	if depth > MaxDepth {
		return i, tooDeep(i)
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		var err *SyntaxError
		if i, _, err = scanKey(b, i); err != nil {
			return i, err
		}
		if i, err = scanColon(b, i); err != nil {
			return i, err
		}
		if i, err = scanValue(b, i, depth); err != nil {
			return i, err
		}
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == '}' {
			return i + 1, nil
		}
		return i, unexpected(b, i, "',' or '}'")
	}
}

func scanArray(b []byte, i, depth int) (int, *SyntaxError) {
	if depth > MaxDepth {
		return i, tooDeep(i)
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		var err *SyntaxError
		if i, err = scanValue(b, i, depth); err != nil {
			return i, err
		}
		i = skipSpace(b, i)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			continue
		}
		if i < len(b) && b[i] == ']' {
			return i + 1, nil
		}
		return i, unexpected(b, i, "',' or ']'")
	}
}

// scanKey reads a member name with its quotes.
func scanKey(b []byte, i int) (end int, escaped bool, err *SyntaxError) {
	if i >= len(b) || b[i] != '"' {
		return i, false, unexpected(b, i, "a property name")
	}
	return scanString(b, i+1)
}

// scanColon reads the colon behind a member name and the space around it.
func scanColon(b []byte, i int) (int, *SyntaxError) {
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return i, unexpected(b, i, "':'")
	}
	return skipSpace(b, i+1), nil
}

func scanWord(b []byte, i int, word string) (int, *SyntaxError) {
	for k := range len(word) {
		if i+k >= len(b) || b[i+k] != word[k] {
			return i + k, unexpected(b, i+k, "'"+word+"'")
		}
	}
	return i + len(word), nil
}

func scanNumber(b []byte, i int) (int, *SyntaxError) {
	start := i
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && b[i]-'1' <= 8:
		i = skipDigits(b, i+1)
	case i == start:
		return i, unexpected(b, i, "a value")
	default:
		return i, unexpected(b, i, "a digit")
	}
	if i < len(b) && b[i] == '.' {
		if i++; i >= len(b) || b[i]-'0' > 9 {
			return i, unexpected(b, i, "a digit")
		}
		i = skipDigits(b, i+1)
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if i >= len(b) || b[i]-'0' > 9 {
			return i, unexpected(b, i, "a digit")
		}
		i = skipDigits(b, i+1)
	}
	return i, nil
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// scanString reads the rest of a string whose opening quote is just behind it.
// It looks at eight bytes at a time; bytes outside ASCII are only noticed on the
// way and checked together at the end.
func scanString(b []byte, i int) (end int, escaped bool, err *SyntaxError) {
	start := i
	var seen uint64
	for {
		var m uint64
		for i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			seen |= w
			if m = stops(w); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if m == 0 { // fewer than eight bytes are left
			for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
				seen |= uint64(b[i])
				i++
			}
			if i >= len(b) {
				return i, escaped, &SyntaxError{Offset: i, Reason: "the text ends inside a string"}
			}
		}
		switch b[i] {
		case '"':
			if seen&highBits != 0 && !utf8.Valid(b[start:i]) {
				return i, escaped, badUTF8(b, start)
			}
			return i + 1, escaped, nil
		case '\\':
			escaped = true
			if i, err = scanEscape(b, i+1); err != nil {
				return i, escaped, err
			}
		default:
			return i, escaped, &SyntaxError{Offset: i, Reason: fmt.Sprintf("control character U+%04X must be escaped in a string", b[i])}
		}
	}
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// stops marks the bytes of w that end a run of plain string text: quote,
// backslash and control characters. Only the lowest mark is exact.
func stops(w uint64) uint64 {
	quote := w ^ lowBits*'"'
	slash := w ^ lowBits*'\\'
	return ((quote-lowBits)&^quote | (slash-lowBits)&^slash | (w-lowBits*' ')&^w) & highBits
}

// scanEscape reads what follows a backslash. Like encoding/json it accepts a
// surrogate without its partner; AppendUnquoted makes U+FFFD of it.
func scanEscape(b []byte, i int) (int, *SyntaxError) {
	if i >= len(b) {
		return i, &SyntaxError{Offset: i, Reason: "the text ends inside a string"}
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1, nil
	case 'u':
		for k := 1; k <= 4; k++ {
			if i+k >= len(b) || hexDigit[b[i+k]] < 0 {
				return i + k, unexpected(b, i+k, "a hexadecimal digit")
			}
		}
		return i + 5, nil
	default:
		return i, unexpected(b, i, `one of "\/bfnrtu after a backslash`)
	}
}

// hexDigit gives the value of a hexadecimal digit and -1 for other bytes.
var hexDigit = func() (t [256]int8) {
	for c := range t {
		t[c] = -1
	}
	for v, c := range "0123456789abcdef" {
		t[c] = int8(v)
	}
	for v, c := range "ABCDEF" {
		t[c] = int8(10 + v)
	}
	return t
}()

func unexpected(b []byte, i int, expected string) *SyntaxError {
	if i >= len(b) {
		return &SyntaxError{Offset: len(b), Reason: "the text ends where " + expected + " is expected"}
	}
	r, _ := utf8.DecodeRune(b[i:])
	return &SyntaxError{Offset: i, Reason: fmt.Sprintf("%q stands where %s is expected", r, expected)}
}

func tooDeep(i int) *SyntaxError {
	return &SyntaxError{Offset: i, Reason: fmt.Sprintf("objects and arrays nest deeper than %d", MaxDepth)}
}

// badUTF8 finds the first byte from start on that is not UTF-8.
func badUTF8(b []byte, start int) *SyntaxError {
	for i := start; ; {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			return &SyntaxError{Offset: i, Reason: fmt.Sprintf("byte 0x%02X is not UTF-8", b[i])}
		}
		i += n
	}
}
