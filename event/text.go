package event

import (
	"unicode/utf16"
	"unicode/utf8"
)

// AppendQuoted appends text as a JSON string. It escapes what JSON demands and
// nothing else; bytes that are not UTF-8 become U+FFFD.
func AppendQuoted[T string | []byte](dst []byte, text T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for start, i := 0, 0; ; {
		for i < len(text) && text[i] >= ' ' && text[i] != '"' && text[i] != '\\' && text[i] < utf8.RuneSelf {
			i++
		}
		if i == len(text) {
			dst = append(dst, text[start:]...)
			return append(dst, '"')
		}
		c := text[i]
		if c >= utf8.RuneSelf {
			var window [utf8.UTFMax]byte
			n := copy(window[:], text[i:])
			if r, size := utf8.DecodeRune(window[:n]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, text[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			dst = append(dst, "\uFFFD"...)
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
}

// AppendUnquoted appends the text of a JSON string. quoted is what stands between
// its quotes and must come from the scanner, which has checked it. Surrogate
// pairs become one character, a surrogate without its partner U+FFFD.
func AppendUnquoted(dst, quoted []byte) []byte {
	for i := 0; i < len(quoted); {
		if quoted[i] != '\\' {
			start := i
			for i < len(quoted) && quoted[i] != '\\' {
				i++
			}
			dst = append(dst, quoted[start:i]...)
			continue
		}
		switch c := quoted[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(quoted[i+2:])
			i += 6
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if i+6 <= len(quoted) && quoted[i] == '\\' && quoted[i+1] == 'u' {
					pair = utf16.DecodeRune(r, hex4(quoted[i+2:]))
				}
				if r = pair; r != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
			continue
		default: // quote, backslash, slash
			dst = append(dst, c)
		}
		i += 2
	}
	return dst
}

func hex4(b []byte) (r rune) {
	for _, c := range b[:4] {
		r = r<<4 | rune(hexDigit[c])
	}
	return r
}

// text returns the text of a string value as the scanner found it: a part of
// value, or a copy if it holds escapes.
func text(value []byte, escaped bool) []byte {
	inner := value[1 : len(value)-1]
	if !escaped {
		return inner
	}
	return AppendUnquoted(make([]byte, 0, len(inner)), inner)
}
