package filter

import "encoding/binary"

// decimal is a JSON number taken apart in place: sign × 0.d₁d₂d₃… × 10^exponent,
// where d₁ and the last digit are not 0. It points into the text it was read
// from, so it costs the same whatever the number's length or exponent.
type decimal struct {
	sign     int8   // -1, 0, 1
	exponent int64  // no longer exact beyond ±exponentLimit, far outside what a filter may hold
	digits   []byte // from the first to the last digit that is not 0; may hold the point
}

// exponentLimit is where reading the exponent of an event's value stops. Filters
// hold none beyond maxExponent, so such a value still compares as it should.
const exponentLimit = 1 << 40

// maxExponent is the largest exponent that a number in a filter may be written
// with, in either direction.
const maxExponent = 999_999_999

// readDecimal takes a number apart. The text must be a JSON number.
func readDecimal(text []byte) decimal {
	d := decimal{sign: 1}
	if text[0] == '-' {
		d.sign = -1
		text = text[1:]
	}
	text, exponent := cutExponent(text)
	point, first, last := len(text), -1, -1
	for i, c := range text {
		switch {
		case c == '.':
			point = i
		case c != '0':
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if first < 0 {
		return decimal{}
	}
	d.digits = text[first : last+1]
	d.exponent = exponent + int64(point-first)
	if first > point {
		d.exponent++ // the point itself is no digit
	}
	return d
}

// cutExponent parts a number without sign into its digits and its exponent.
func cutExponent(text []byte) (mantissa []byte, exponent int64) {
	for i, c := range text {
		if c != 'e' && c != 'E' {
			continue
		}
		negative := text[i+1] == '-'
		for _, c := range text[i+1:] {
			if c >= '0' && exponent < exponentLimit {
				exponent = exponent*10 + int64(c-'0')
			}
		}
		if negative {
			exponent = -exponent
		}
		return text[:i], exponent
	}
	return text, 0
}

// compare returns -1, 0 or 1 as d is below, equal to or above o.
func (d decimal) compare(o decimal) int {
	switch {
	case d.sign != o.sign:
		if d.sign < o.sign {
			return -1
		}
		return 1
	case d.sign == 0:
		return 0
	case d.exponent != o.exponent:
		if d.exponent < o.exponent {
			return -int(d.sign)
		}
		return int(d.sign)
	default:
		return int(d.sign) * compareDigits(d.digits, o.digits)
	}
}

// compareDigits compares two digit strings as fractions, leaving out points.
// Neither ends with 0, so one that continues is the larger.
func compareDigits(a, b []byte) int {
	for i, j := 0, 0; ; i, j = i+1, j+1 {
		if i < len(a) && a[i] == '.' {
			i++
		}
		if j < len(b) && b[j] == '.' {
			j++
		}
		switch {
		case i == len(a) && j == len(b):
			return 0
		case i == len(a):
			return -1
		case j == len(b):
			return 1
		case a[i] < b[j]:
			return -1
		case a[i] > b[j]:
			return 1
		}
	}
}

// appendOrdered appends the number as bytes that are the same for all spellings of
// one number and have the order of numbers. Filters have at most [MaxCharacters]
// digits; what a longer number has beyond them only says that it is longer.
func (d decimal) appendOrdered(dst []byte) []byte {
	dst = append(dst, byte(2+d.sign))
	if d.sign == 0 {
		return dst
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.exponent)^1<<63)
	most := len(dst) + MaxCharacters + 1
	for _, c := range d.digits {
		if c != '.' {
			if len(dst) == most {
				break
			}
			dst = append(dst, c)
		}
	}
	if d.sign < 0 { // the other way round, and one that goes on is the smaller
		for i := range dst[start:] {
			dst[start+i] ^= 0xFF
		}
		dst = append(dst, 0xFF)
	}
	return dst
}

// maxOrdered is the most that appendOrdered appends.
const maxOrdered = 1 + 8 + MaxCharacters + 1 + 1
