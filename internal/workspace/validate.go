package workspace

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/secret"
)

const (
	maxName = 255
	maxText = 2048 // bytes of an address or another single text
)

// MaxLabels bounds the bytes of an object's tags and properties together.
const MaxLabels = 256 << 10

// nameProblem checks the name of an experiment, a model, a model version, an
// online endpoint or a drift monitor. What says which, such as "experiment name".
func nameProblem(target, what, name string) *fault.Error {
	if !validName(name) {
		return fault.Field(target, "The %s %s is not valid: use 1 to %d letters, digits, '_', '.' and '-', beginning with a letter, a digit or '_'.", what, quote(name), maxName)
	}
	return nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxName || name[0] == '.' || name[0] == '-' {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// runIDProblem checks a run id: free text, but it must stand in a path.
// Source: spec/workspace.md section 1.1.
func runIDProblem(target, id string) *fault.Error {
	if id != "" && id != "." && id != ".." && utf8.ValidString(id) && utf8.RuneCountInString(id) <= maxName &&
		!strings.ContainsAny(id, `/\?#`) && !strings.ContainsFunc(id, unicode.IsControl) {
		return nil
	}
	return fault.Field(target, `The run id %s is not valid: use 1 to %d characters without '/', '\', '?', '#' and control characters.`, quote(id), maxName)
}

func textProblem(target, value string) *fault.Error {
	if len(value) > maxText {
		return fault.Field(target, "The value of %s is %d bytes long; at most %d are allowed.", target, len(value), maxText)
	}
	return nil
}

func timeProblem(target string, value *string) *fault.Error {
	if value == nil {
		return nil
	}
	if _, err := time.Parse(time.RFC3339, *value); err != nil {
		return fault.Field(target, "The value %s of %s is not a date-time: write it as in \"2026-03-02T09:14:07Z\".", quote(*value), target)
	}
	return nil
}

// orderProblem checks that one valid date-time lies before another, or at it.
func orderProblem(target string, start, end *string, mayEqual bool) *fault.Error {
	if start == nil || end == nil {
		return nil
	}
	a, errA := time.Parse(time.RFC3339, *start)
	b, errB := time.Parse(time.RFC3339, *end)
	if errA != nil || errB != nil || b.After(a) || mayEqual && b.Equal(a) {
		return nil
	}
	return fault.Field(target, "The value %s of %s must lie after the start time %s.", quote(*end), target, quote(*start))
}

// quote shows a value in a message, cut to a length that people read.
func quote(value string) string {
	const most = 80
	if r := []rune(value); len(r) > most {
		value = string(r[:most]) + "…"
	}
	return strconv.Quote(value)
}

// Labels are changes to a map of tags or properties: a value sets its key, nil
// removes it. A nil Labels is no change.
type Labels map[string]*string

// apply returns old with the changes, or the changes alone when they replace it. User
// information goes from addresses: what is a label is shown to all who read events.
func (l Labels) apply(old map[string]string, replace bool) map[string]string {
	now := map[string]string{}
	if !replace {
		maps.Copy(now, old)
	}
	for k, v := range l {
		if v == nil {
			delete(now, k)
		} else {
			now[k] = secret.WithoutUserinfo(*v)
		}
	}
	return now
}

// labelProblems checks keys and that what a request sets is of a sensible size.
func labelProblems(tags, properties Labels) []*fault.Error {
	var problems []*fault.Error
	size := 0
	for _, m := range []struct {
		target string
		labels Labels
	}{{"properties.tags", tags}, {"properties.properties", properties}} {
		for k, v := range m.labels {
			size += len(k)
			if v != nil {
				size += len(*v)
			}
		}
		if _, ok := m.labels[""]; ok {
			problems = append(problems, fault.Field(m.target, "A key of %s is empty; give it a name.", m.target))
		}
	}
	return append(problems, sizeProblem(size))
}

func sizeProblem(size int) *fault.Error {
	if size > MaxLabels {
		return fault.Field("properties", "Tags and properties take %d bytes together; at most %d are allowed.", size, MaxLabels)
	}
	return nil
}

// labelsFit checks the size of the maps that an object would have.
func labelsFit(tags, properties map[string]string) error {
	size := 0
	for _, m := range []map[string]string{tags, properties} {
		for k, v := range m {
			size += len(k) + len(v)
		}
	}
	return fault.Join(sizeProblem(size))
}

// mostName bounds a name or an address that another system gave, in bytes: several of
// them are in an event.
const mostName = 8 << 10

// namesFit refuses what another system named at such a length that no event could hold it.
func namesFit(names ...string) error {
	for _, name := range names {
		if len(name) > mostName {
			return fault.New(fault.Invalid, "InvalidRequest", "The name or address '%s…' has %d bytes; at most %d are taken.", strings.ToValidUTF8(name[:80], ""), len(name), mostName)
		}
	}
	return nil
}

// set puts the value that a request gives into a field. Without one the field
// keeps its value, or takes its default when the request replaces the object.
func set[T any](field *T, given *T, replace bool, byDefault T) {
	switch {
	case given != nil:
		*field = *given
	case replace:
		*field = byDefault
	}
}

// shortened is how much stays of a value that had to give way.
const shortened = 256

// TidyLabels makes of what a producer says what events may hold. User information goes from
// addresses. Then the longest values are shortened until an event holds both maps, properties
// before tags, and a property says so; in the end whole properties and tags go.
// Source: spec/workspace.md section 5.2, "Cap".
func TidyLabels(tags, properties map[string]string) {
	for _, m := range []map[string]string{tags, properties} {
		for k, v := range m {
			if shown := secret.WithoutUserinfo(v); shown != v {
				m[k] = shown
			}
		}
	}
	size := func() (n int) {
		for _, m := range []map[string]string{tags, properties} {
			for k, v := range m {
				n += len(k) + len(v)
			}
		}
		return n
	}
	const mark = "carillon.truncated"
	over := size() - MaxLabels
	if over <= 0 {
		return
	}
	properties[mark] = "true"
	over += len(mark) + len("true")
	for _, m := range []map[string]string{properties, tags} {
		for _, k := range byLength(m) {
			if v := m[k]; over > 0 && len(v) > shortened {
				m[k] = strings.ToValidUTF8(v[:max(shortened, len(v)-over)], "")
				over -= len(v) - len(m[k])
			}
		}
	}
	for _, m := range []map[string]string{properties, tags} {
		for _, k := range byLength(m) {
			if over > 0 && k != mark {
				over -= len(k) + len(m[k])
				delete(m, k)
			}
		}
	}
}

// byLength returns the keys, those of the longest entries first.
func byLength(m map[string]string) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b)+len(m[b]), len(a)+len(m[a])), strings.Compare(a, b))
	})
}
