package event

import "bytes"

// Skim reads along a JSON text that is known to be one, such as the data of a
// stored event, and passes over what its caller does not want as fast as it can:
// it checks nothing. On a text that [Check] has not passed it may panic.
//
// Each method takes a place in the text and returns the first place behind what it
// read.
type Skim []byte

// Space passes over white space.
func (t Skim) Space(i int) int { return skipSpace(t, i) }

// String passes over the string whose opening quote is at i.
func (t Skim) String(i int) int {
	for i++; ; i++ {
		i += bytes.IndexByte(t[i:], '"')
		if t[i-1] != '\\' || !t.escapes(i-1) {
			return i + 1
		}
	}
}

// escapes reports whether the backslash at i escapes what follows it, and is not
// itself escaped.
func (t Skim) escapes(i int) bool {
	odd := true
	for i--; t[i] == '\\'; i-- {
		odd = !odd
	}
	return odd
}

// Name passes over the name of a member, whose opening quote is at i, and over the
// colon behind it and the space around that. The name stands between i+1 and end.
func (t Skim) Name(i int) (end, value int) {
	behind := t.String(i)
	value = behind
	if t[value] != ':' {
		value = t.Space(value)
	}
	return behind - 1, t.Space(value + 1)
}

// Value passes over the value that begins at i.
func (t Skim) Value(i int) int {
	switch t[i] {
	case '"':
		return t.String(i)
	case '{', '[':
		return t.container(i)
	default:
		for i++; i < len(t) && t[i] > ' ' && t[i] != ',' && t[i] != '}' && t[i] != ']'; i++ {
		}
		return i
	}
}

// container passes over the object or array that opens at i. Only brackets and
// strings matter to where it ends.
func (t Skim) container(i int) int {
	depth := 0
	for {
		switch t[i] {
		case '"':
			i = t.String(i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
}
