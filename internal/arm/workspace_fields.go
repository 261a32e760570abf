package arm

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// fields reads the members of one JSON object by name, ignoring case, and notes
// every member that has the wrong type. A member that is null counts as absent,
// and members that nobody reads are ignored.
type fields struct {
	path     string // of the object in the body, such as "properties"; "" for the body
	members  map[string]json.RawMessage
	problems *[]*fault.Error
}

// readProperties reads the body of a request for id and returns the members of
// its properties. No body at all is one without properties.
func readProperties(w http.ResponseWriter, r *http.Request, id resource.ID) (fields, error) {
	req := &request{http: r, w: w, id: id}
	body, err := req.readBody()
	if err != nil {
		return fields{}, err
	}
	if r.Method == http.MethodPut {
		req.sameResource(body)
	}
	return body.sub("properties"), nil
}

// fill takes the members of a valid JSON object. Of names that differ only in
// case the one that sorts last counts.
func (f *fields) fill(object json.RawMessage) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(object, &members) // it is a valid object
	if len(members) > maxList {
		f.note(fault.Field(cmp.Or(f.path, "body"), "The object has %d members, more than %d.", len(members), maxList))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		f.members[strings.ToLower(name)] = members[name]
	}
}

func (f fields) member(name string) (json.RawMessage, bool) {
	raw, ok := f.members[strings.ToLower(name)]
	return raw, ok && !isNull(raw)
}

// null reports whether a member is there and null.
func (f fields) null(name string) bool {
	raw, ok := f.members[strings.ToLower(name)]
	return ok && isNull(raw)
}

func (f fields) target(name string) string { return strings.TrimPrefix(f.path+"."+name, ".") }

// note adds a problem. Of very many the first are told: a body of nothing else would
// take hundreds of times its size.
func (f fields) note(problem *fault.Error) {
	if len(*f.problems) < fault.MaxJoined {
		*f.problems = append(*f.problems, problem)
	}
}

// wrong notes that a member has the wrong type.
func (f fields) wrong(target string, raw json.RawMessage, want string) {
	f.note(&fault.Error{Kind: fault.Invalid, Code: "InvalidRequestContent", Target: target,
		Message: fmt.Sprintf("The member %s is %s; it must be %s.", target, jsonType(raw), want)})
}

// value reads a member into a new T, nil when it is absent or wrong.
func value[T any](f fields, name, want string) *T {
	raw, ok := f.member(name)
	if !ok {
		return nil
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		f.wrong(f.target(name), raw, want)
		return nil
	}
	return &v
}

func (f fields) text(name string) *string    { return value[string](f, name, "a string") }
func (f fields) number(name string) *float64 { return value[float64](f, name, "a number") }
func (f fields) integer(name string) *int    { return value[int](f, name, "a whole number") }

// maxList is the most entries of a list, and members of an object, that are read. Nothing
// takes so many.
const maxList = 10_000

// list reads the entries of an array, nil when it is absent or wrong.
func (f fields) list(name, want string) []json.RawMessage {
	list := value[[]json.RawMessage](f, name, want)
	switch {
	case list == nil:
		return nil
	case len(*list) > maxList:
		f.refuse(name, "The member %s has %d entries, more than %d.", f.target(name), len(*list), maxList)
		return nil
	}
	return *list
}

// objects reads an array of objects of a kind, nil when it is absent or wrong.
func (f fields) objects(name, kind string) []fields {
	list := f.list(name, "an array of objects")
	if list == nil {
		return nil
	}
	objects := []fields{}
	for i, raw := range list {
		o := fields{path: fmt.Sprintf("%s[%d]", f.target(name), i), members: map[string]json.RawMessage{}, problems: f.problems}
		if firstByte(raw) != '{' {
			o.wrong(o.path, raw, kind)
			continue
		}
		o.fill(raw)
		objects = append(objects, o)
	}
	return objects
}

// texts reads an array of strings, nil when it is absent or wrong.
func (f fields) texts(name string) []string {
	list := f.list(name, "an array of strings")
	if list == nil {
		return nil
	}
	texts := make([]string, len(list))
	for i, raw := range list {
		if firstByte(raw) != '"' || json.Unmarshal(raw, &texts[i]) != nil {
			f.wrong(fmt.Sprintf("%s[%d]", f.target(name), i), raw, "a string")
		}
	}
	return texts
}

// labels reads an object of strings in which null removes a key.
func (f fields) labels(name string) workspace.Labels {
	raw, ok := f.member(name)
	if !ok {
		return nil
	}
	if firstByte(raw) != '{' {
		f.wrong(f.target(name), raw, "an object whose values are strings")
		return nil
	}
	labels, members := workspace.Labels{}, map[string]json.RawMessage{}
	_ = json.Unmarshal(raw, &members) // it is a valid object
	for _, k := range slices.Sorted(maps.Keys(members)) {
		switch v := members[k]; {
		case isNull(v):
			labels[k] = nil
		case firstByte(v) == '"':
			var text string
			_ = json.Unmarshal(v, &text) // it is a valid string
			labels[k] = &text
		default:
			f.wrong(f.target(name)+"."+k, v, "a string, or null to remove it")
		}
	}
	return labels
}

// object reads a nested object, false when it is absent or wrong.
func (f fields) object(name string) (fields, bool) {
	raw, ok := f.member(name)
	if !ok {
		return fields{}, false
	}
	if firstByte(raw) != '{' {
		f.wrong(f.target(name), raw, "an object")
		return fields{}, false
	}
	inner := fields{path: f.target(name), members: map[string]json.RawMessage{}, problems: f.problems}
	inner.fill(raw)
	return inner, true
}

// raw returns a member as it stands.
func (f fields) raw(name string) json.RawMessage {
	if raw, ok := f.member(name); ok {
		return raw
	}
	return nil
}

// failed returns the wrong types that were met, together with what is wrong with
// the change itself, one problem for each field; nil when all types were right.
func (f fields) failed(problems []*fault.Error) error {
	if len(*f.problems) == 0 {
		return nil
	}
	all := *f.problems
	seen := map[string]bool{}
	for _, p := range all {
		seen[p.Target] = true
	}
	for _, p := range problems {
		if p != nil && !seen[p.Target] {
			all = append(all, p)
		}
	}
	return fault.Join(all...)
}

func firstByte(raw []byte) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || firstByte(raw) == 'n' }

// jsonType names the type of a valid JSON value with its article.
func jsonType(raw json.RawMessage) string {
	switch firstByte(raw) {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
