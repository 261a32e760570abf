package filter

import (
	"encoding/binary"
	"unicode"
	"unicode/utf8"
)

// Folding is upper-casing each character by itself. The filter's side is folded
// once, by appendFolded; the event's side is folded on the way.
// Source: spec/filtering.md section 5, rule 5.

// appendFolded appends the folded text.
func appendFolded(dst, text []byte) []byte {
	for len(text) > 0 {
		if len(text) >= 8 {
			if w := binary.LittleEndian.Uint64(text); w&highBits == 0 {
				dst = binary.LittleEndian.AppendUint64(dst, foldWord(w))
				text = text[8:]
				continue
			}
		}
		if text[0] < utf8.RuneSelf {
			dst = append(dst, foldByte(text[0]))
			text = text[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		dst = utf8.AppendRune(dst, unicode.ToUpper(r))
		text = text[n:]
	}
	return dst
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x80 * everyByte
)

// foldWord folds eight characters of ASCII at once.
func foldWord(w uint64) uint64 {
	fromA := w + (0x80-'a')*everyByte
	beyondZ := w + (0x7f-'z')*everyByte
	return w ^ (fromA^beyondZ)&highBits>>2
}

func foldByte(c byte) byte {
	if c-'a' <= 'z'-'a' {
		c -= 'a' - 'A'
	}
	return c
}

// fold returns the folded text, never nil.
func fold(text string) []byte { return appendFolded(make([]byte, 0, len(text)), []byte(text)) }

// equalFold reports whether text folds to folded.
func equalFold(text, folded []byte) bool {
	rest, ok := cutFold(text, folded)
	return ok && len(rest) == 0
}

// prefixFold reports whether the beginning of text folds to folded.
func prefixFold(text, folded []byte) bool {
	_, ok := cutFold(text, folded)
	return ok
}

// cutFold returns what follows the beginning of text that folds to folded.
func cutFold(text, folded []byte) (rest []byte, ok bool) {
	for len(folded) > 0 {
		if len(text) == 0 {
			return nil, false
		}
		if c := text[0]; c < utf8.RuneSelf {
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			if c != folded[0] {
				return nil, false
			}
			text, folded = text[1:], folded[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		f, m := utf8.DecodeRune(folded)
		if unicode.ToUpper(r) != f {
			return nil, false
		}
		text, folded = text[n:], folded[m:]
	}
	return text, true
}

// suffixFold reports whether the end of text folds to folded.
func suffixFold(text, folded []byte) bool {
	for len(folded) > 0 {
		if len(text) == 0 {
			return false
		}
		r, n := utf8.DecodeLastRune(text)
		f, m := utf8.DecodeLastRune(folded)
		if unicode.ToUpper(r) != f {
			return false
		}
		text, folded = text[:len(text)-n], folded[:len(folded)-m]
	}
	return true
}
