package engine

import (
	"fmt"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
)

// Keys are any UTF-8 text with "/" between segments. In a subject each segment
// is one token: letters, digits, "-" and "_" stay, every other byte is written as
// "=" and two hex digits, and an empty segment is "=". So a key and its subject
// name each other, and keys with one prefix share a subject prefix.

// maxKeySubject bounds an escaped key: the server takes protocol lines of up to
// maxControlLine bytes, which hold the subject and a reply subject.
const maxKeySubject = 16 << 10

const hexDigits = "0123456789ABCDEF"

// escapeKey returns the tokens of a key.
func escapeKey(key string) (string, error) {
	if key == "" {
		return "", fault.New(fault.Invalid, "InvalidRequest", "A key of the store must not be empty.")
	}
	var b strings.Builder
	b.Grow(len(key) + 8)
	appendEscaped(&b, key)
	if b.Len() > maxKeySubject {
		return "", fault.New(fault.Invalid, "InvalidRequest", "A key of %d bytes is too long for the store; its escaped form may have %d.", len(key), maxKeySubject)
	}
	return b.String(), nil
}

func appendEscaped(b *strings.Builder, key string) {
	empty := true
	for i := 0; i < len(key); i++ {
		c := key[i]
		if c == '/' {
			if empty {
				b.WriteByte('=')
			}
			b.WriteByte('.')
			empty = true
			continue
		}
		empty = false
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('=')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	if empty {
		b.WriteByte('=')
	}
}

// unescapeKey is the way back from tokens to the key.
func unescapeKey(tokens string) (string, error) {
	var b strings.Builder
	b.Grow(len(tokens))
	for i := 0; i < len(tokens); i++ {
		switch c := tokens[i]; c {
		case '.':
			b.WriteByte('/')
		case '=':
			if i+1 == len(tokens) || tokens[i+1] == '.' {
				continue // an empty segment
			}
			if i+2 >= len(tokens) {
				return "", fmt.Errorf("key tokens %q end inside an escape", tokens)
			}
			hi, lo := strings.IndexByte(hexDigits, tokens[i+1]), strings.IndexByte(hexDigits, tokens[i+2])
			if hi < 0 || lo < 0 {
				return "", fmt.Errorf("key tokens %q hold a bad escape", tokens)
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

// prefixFilter returns a subject filter below root that matches at least every
// key with the prefix: all whole segments of the prefix are matched exactly.
func prefixFilter(root, prefix string) string {
	whole := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if whole == "" {
		return root + ">"
	}
	var b strings.Builder
	b.WriteString(root)
	appendEscaped(&b, whole[:len(whole)-1])
	b.WriteString(".>")
	return b.String()
}

// patternFilter is the filter for all keys that begin with prefix, which ends in "/" and of
// which a segment may be "*". No key is escaped to that token.
func patternFilter(prefix string) string {
	segments := strings.Split(strings.TrimSuffix(prefix, "/"), "/")
	for i, segment := range segments {
		if segment != "*" {
			var b strings.Builder
			appendEscaped(&b, segment)
			segments[i] = b.String()
		}
	}
	return strings.Join(segments, ".") + ".>"
}
