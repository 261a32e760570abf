package resource

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ID is a parsed ARM resource id, also a scope: the root "/", a subscription, a
// resource group, a resource, a nested resource, or an extension resource of any
// of them. It keeps the spelling it was parsed with and compares ignoring case.
// The zero ID is not an id; see IsZero.
// Source: spec/management.md section 8.1, spec/access.md section 7.
type ID struct {
	text string // one leading slash, no trailing slash, no doubled slashes; "/" for the root
}

// Root is the scope that contains everything.
var Root = ID{text: "/"}

// ParseID parses an ARM id. Doubled and trailing slashes are forgiven; a text
// that is not an id is an error that says what is wrong.
func ParseID(text string) (ID, error) {
	segments := split(text)
	if len(segments) == 0 {
		if strings.Trim(text, "/") == "" && text != "" {
			return Root, nil
		}
		return ID{}, fmt.Errorf("resource id %q is empty", text)
	}
	for _, s := range segments {
		if strings.ContainsAny(s, "\x00\n\r\t?#") {
			return ID{}, fmt.Errorf("resource id %q holds a character that no id has", text)
		}
	}
	rest := segments
	if strings.EqualFold(rest[0], "subscriptions") {
		if len(rest) == 1 {
			return ID{}, fmt.Errorf("resource id %q names no subscription", text)
		}
		rest = rest[2:]
		if len(rest) > 0 && strings.EqualFold(rest[0], "resourceGroups") {
			if len(rest) == 1 {
				return ID{}, fmt.Errorf("resource id %q names no resource group", text)
			}
			rest = rest[2:]
		}
	}
	for len(rest) > 0 {
		if !strings.EqualFold(rest[0], "providers") {
			return ID{}, fmt.Errorf("resource id %q: expected \"providers\", found %q", text, rest[0])
		}
		if len(rest) < 4 {
			return ID{}, fmt.Errorf("resource id %q: \"providers\" needs a namespace, a type and a name", text)
		}
		if strings.EqualFold(rest[2], "providers") {
			return ID{}, fmt.Errorf("resource id %q: namespace %q has no type", text, rest[1])
		}
		rest = rest[2:]
		for len(rest) > 0 && !strings.EqualFold(rest[0], "providers") {
			if len(rest) == 1 {
				return ID{}, fmt.Errorf("resource id %q: type %q has no name", text, rest[0])
			}
			rest = rest[2:]
		}
	}
	return ID{text: "/" + strings.Join(segments, "/")}, nil
}

// MustID parses an id known to be right; it panics otherwise.
func MustID(text string) ID {
	id, err := ParseID(text)
	if err != nil {
		panic(err)
	}
	return id
}

// String returns the id as spelled.
func (id ID) String() string { return id.text }

// Key returns the id in lower case: equal ids have equal keys.
func (id ID) Key() string { return strings.ToLower(id.text) }

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id.text == "" }

// Equal reports whether two ids have the same key.
func (id ID) Equal(other ID) bool { return sameKey(id.text, other.text) }

// sameKey reports whether two texts have the same lower case, which is what keys are
// made of. Folding agrees with that in ASCII alone: the lower case of the Kelvin sign is
// k, that of a dotted capital I is i, in one byte. An id that leads to a record must not
// lie elsewhere for roles and deny assignments.
func sameKey(a, b string) bool {
	if isASCII(a) && isASCII(b) {
		return strings.EqualFold(a, b)
	}
	return ID{text: a}.Key() == ID{text: b}.Key()
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Contains reports whether other is id or lies below it. It compares whole
// segments, so …/resourceGroups/ml does not contain …/resourceGroups/ml-prod.
func (id ID) Contains(other ID) bool {
	if id.IsZero() || other.IsZero() {
		return false
	}
	if id.text == "/" {
		return true
	}
	outer, inner := id.text, other.text
	if !isASCII(outer) || !isASCII(inner) { // then lengths can differ
		outer, inner = id.Key(), other.Key()
	}
	n := len(outer)
	return len(inner) >= n && sameKey(inner[:n], outer) && (len(inner) == n || inner[n] == '/')
}

// Subscription returns the subscription's id segment, "" at the root or for a
// tenant-level id.
func (id ID) Subscription() string { return id.after("subscriptions", 0) }

// ResourceGroup returns the resource group's name, "" above resource groups.
func (id ID) ResourceGroup() string { return id.after("resourceGroups", 2) }

func (id ID) after(word string, at int) string {
	s := split(id.text)
	if len(s) > at+1 && strings.EqualFold(s[at], word) {
		return s[at+1]
	}
	return ""
}

// Name returns the last segment: the resource's own name.
func (id ID) Name() string { return id.text[strings.LastIndexByte(id.text, '/')+1:] }

// Type returns the resource type as spelled, e.g. "Microsoft.EventGrid/topics" or
// "Microsoft.EventGrid/topics/eventSubscriptions": the namespace of the last
// provider and every type word after it. Subscriptions and resource groups have
// the types of Microsoft.Resources; the root has none.
func (id ID) Type() string {
	s := split(id.text)
	last := -1
	for i, word := range s {
		if strings.EqualFold(word, "providers") && i+1 < len(s) && i%2 == 0 {
			last = i
		}
	}
	if last < 0 {
		switch len(s) {
		case 2:
			return "Microsoft.Resources/subscriptions"
		case 4:
			return "Microsoft.Resources/resourceGroups"
		}
		return ""
	}
	parts := []string{s[last+1]}
	for i := last + 2; i+1 < len(s); i += 2 {
		parts = append(parts, s[i])
	}
	return strings.Join(parts, "/")
}

// IsType compares the resource type ignoring case.
func (id ID) IsType(t string) bool { return strings.EqualFold(id.Type(), t) }

// Parent returns what contains the resource: for a nested resource the outer
// resource, for an extension resource the resource it extends, for a resource
// its group, for a group its subscription, and the root above.
func (id ID) Parent() ID {
	s := split(id.text)
	if len(s) <= 2 {
		return Root
	}
	s = s[:len(s)-2]
	// what is left may be ".../providers/Namespace" of a first-level resource
	if len(s) >= 2 && strings.EqualFold(s[len(s)-2], "providers") {
		s = s[:len(s)-2]
	}
	if len(s) == 0 {
		return Root
	}
	return ID{text: "/" + strings.Join(s, "/")}
}

// Child returns the id of a nested resource, e.g. Child("eventSubscriptions", "es").
func (id ID) Child(kind, name string) ID { return ID{text: id.text + "/" + kind + "/" + name} }

// Extension returns the id of a resource of another provider on id, e.g.
// Extension("Microsoft.EventGrid", "eventSubscriptions", "es").
func (id ID) Extension(namespace, kind, name string) ID {
	base := id.text
	if base == "/" {
		base = ""
	}
	return ID{text: base + "/providers/" + namespace + "/" + kind + "/" + name}
}

// MarshalText writes the id as spelled.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText parses the id; empty text gives the zero ID.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// split returns the segments of a path without empty ones.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
