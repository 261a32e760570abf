package arm

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// Page sizes. Source: spec/management.md section 8.5.
const (
	defaultPage = 20
	maxPage     = 100
)

// entry is one resource of a list.
type entry struct {
	key  string     // what lists are ordered by, and pages cut at
	name string     // what $filter looks at
	body func() any // asked of those on the page only
}

// page is the body of a list. nextLink is left out on the last page: an empty one
// sends older clients round in circles.
type page struct {
	Value    []any  `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

// entriesOf makes entries of items.
func entriesOf[T any](items []T, entryOf func(*T) entry) []entry {
	entries := make([]entry, len(items))
	for i := range items {
		entries[i] = entryOf(&items[i])
	}
	return entries
}

// list answers with one page of entries, after $filter by name.
func (a *api) list(r *request, entries []entry) (answer, error) {
	keep, err := r.nameFilter()
	if err != nil {
		return answer{}, err
	}
	if keep != nil {
		entries = slices.DeleteFunc(entries, func(e entry) bool { return !keep(e.name) })
	}
	return a.page(r, entries)
}

// nameFilter reads $filter, nil for none.
func (r *request) nameFilter() (keep func(name string) bool, err error) {
	text := r.query.Get("$filter")
	if text == "" {
		return nil, nil
	}
	return parseNameFilter(text)
}

// page answers with one page of entries.
func (a *api) page(r *request, entries []entry) (answer, error) {
	size, after, err := r.paging()
	if err != nil {
		return answer{}, err
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	at, _ := slices.BinarySearchFunc(entries, after, func(e entry, key string) int {
		if e.key <= key && key != "" {
			return -1
		}
		return 1
	})
	entries = entries[at:]
	out := page{Value: make([]any, 0, min(size, len(entries)))}
	for i, e := range entries {
		if i == size {
			out.NextLink = a.nextLink(r, entries[i-1].key)
			break
		}
		out.Value = append(out.Value, e.body())
	}
	return ok(out), nil
}

// part is what a.list answers with, for lists that are too long to be made whole.
func (r *request) part() (manage.Part, error) {
	size, after, err := r.paging()
	if err != nil {
		return manage.Part{}, err
	}
	keep, err := r.nameFilter()
	return manage.Part{After: after, Most: size + 1, Keep: keep}, err // one more tells that there are more
}

// paging reads $top and $skipToken.
func (r *request) paging() (size int, after string, err error) {
	size = defaultPage
	if text := r.query.Get("$top"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return 0, "", fault.Field("$top", "The value '%.40s' of $top is not valid: use 1 to %d.", text, maxPage)
		}
		size = n
	}
	if text := r.query.Get("$skiptoken"); text != "" {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(raw) == 0 || !utf8.Valid(raw) {
			return 0, "", fault.Field("$skipToken", "The $skipToken is not one that this server made: follow nextLink unchanged.")
		}
		after = string(raw)
	}
	return size, after, nil
}

// only refuses parameters that a list does not know, beside those that all lists have: one
// that is mistyped must not leave everything in.
func (r *request) only(names ...string) *fault.Error {
	known := append([]string{"api-version", "$top", "$skipToken"}, names...)
	for _, key := range slices.Sorted(maps.Keys(r.query)) {
		if !slices.ContainsFunc(known, func(name string) bool { return strings.EqualFold(name, key) }) {
			return fault.Field(key, "The parameter '%.60s' is not known here: use %s.", key, strings.Join(known, ", "))
		}
	}
	return nil
}

// time reads a parameter that is a time, zero when it is not given.
func (r *request) time(name string) (time.Time, *fault.Error) {
	text := r.query.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fault.Field(name, "The value '%.60s' of %s is not a time: write it like 2026-03-02T12:00:00Z.", text, name)
	}
	return at, nil
}

// nextLink is where the page after a key is: this request again, on the same
// origin, with the key in it.
func (a *api) nextLink(r *request, key string) string {
	query := url.Values{}
	for k, v := range r.http.URL.Query() {
		if !strings.EqualFold(k, "$skipToken") {
			query[k] = v
		}
	}
	query.Set("$skipToken", base64.RawURLEncoding.EncodeToString([]byte(key)))
	return a.origin(r.http) + "/" + strings.TrimLeft(r.http.URL.EscapedPath(), "/") + "?" + query.Encode()
}

// parseNameFilter reads the $filter of Event Grid lists: contains(name,'x'), name
// eq 'x', name ne 'x', joined by and, or, not, with brackets. Keywords compare
// ignoring case, names too. Source: spec/management.md section 8.5.
func parseNameFilter(text string) (func(name string) bool, error) {
	p := nameFilter{rest: text}
	keep, err := p.disjunction(0)
	if err == nil && strings.TrimSpace(p.rest) != "" {
		err = fmt.Errorf("nothing is expected at '%.60s'", strings.TrimSpace(p.rest))
	}
	if err != nil {
		return nil, &fault.Error{
			Kind: fault.Invalid, Code: "InvalidFilterInQueryString", Target: "$filter",
			Message: fmt.Sprintf("The $filter cannot be used: %v. It may hold contains(name,'x'), name eq 'x' and name ne 'x', joined by and, or, not.", err),
		}
	}
	return keep, nil
}

// nameFilter is a $filter as it is read.
type nameFilter struct{ rest string }

// maxFilterDepth bounds brackets in brackets.
const maxFilterDepth = 32

func (p *nameFilter) disjunction(depth int) (func(string) bool, error) {
	left, err := p.conjunction(depth)
	for err == nil && p.word("or") {
		var right func(string) bool
		l := left
		right, err = p.conjunction(depth)
		left = func(name string) bool { return l(name) || right(name) }
	}
	return left, err
}

func (p *nameFilter) conjunction(depth int) (func(string) bool, error) {
	left, err := p.term(depth)
	for err == nil && p.word("and") {
		var right func(string) bool
		l := left
		right, err = p.term(depth)
		left = func(name string) bool { return l(name) && right(name) }
	}
	return left, err
}

func (p *nameFilter) term(depth int) (func(string) bool, error) {
	switch {
	case depth > maxFilterDepth:
		return nil, fmt.Errorf("it is nested more than %d deep", maxFilterDepth)
	case p.word("not"):
		inner, err := p.term(depth + 1)
		return func(name string) bool { return !inner(name) }, err
	case p.sign("("):
		inner, err := p.disjunction(depth + 1)
		if err == nil && !p.sign(")") {
			err = fmt.Errorf("a closing bracket is missing")
		}
		return inner, err
	case p.word("contains"):
		if !p.sign("(") || !p.word("name") || !p.sign(",") {
			return nil, fmt.Errorf("contains takes (name,'x')")
		}
		text, err := p.literal()
		if err == nil && !p.sign(")") {
			err = fmt.Errorf("a closing bracket is missing after contains")
		}
		text = strings.ToLower(text)
		return func(name string) bool { return strings.Contains(strings.ToLower(name), text) }, err
	case p.word("name"):
		equal := p.word("eq")
		if !equal && !p.word("ne") {
			return nil, fmt.Errorf("after name comes eq or ne, not '%.60s'", strings.TrimSpace(p.rest))
		}
		text, err := p.literal()
		return func(name string) bool { return strings.EqualFold(name, text) == equal }, err
	}
	return nil, fmt.Errorf("a condition on name is expected at '%.60s'", strings.TrimSpace(p.rest))
}

// word takes a keyword that ends where a word ends.
func (p *nameFilter) word(w string) bool {
	rest := strings.TrimLeft(p.rest, " \t")
	if len(rest) < len(w) || !strings.EqualFold(rest[:len(w)], w) {
		return false
	}
	if len(rest) > len(w) {
		if c := rest[len(w)]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '/' {
			return false
		}
	}
	p.rest = rest[len(w):]
	return true
}

func (p *nameFilter) sign(s string) bool {
	rest, found := strings.CutPrefix(strings.TrimLeft(p.rest, " \t"), s)
	if found {
		p.rest = rest
	}
	return found
}

// literal takes a text in single quotes; a quote in it is doubled.
func (p *nameFilter) literal() (string, error) {
	if !p.sign("'") {
		return "", fmt.Errorf("a text in single quotes is expected at '%.60s'", strings.TrimSpace(p.rest))
	}
	var text strings.Builder
	for {
		before, after, found := strings.Cut(p.rest, "'")
		if !found {
			return "", fmt.Errorf("a closing quote is missing")
		}
		text.WriteString(before)
		p.rest = after
		if !strings.HasPrefix(p.rest, "'") {
			return text.String(), nil
		}
		text.WriteByte('\'')
		p.rest = p.rest[1:]
	}
}

// whole answers with a list that is never paged.
func whole[T any](bodies []T) answer {
	if bodies == nil {
		bodies = []T{}
	}
	return answer{status: http.StatusOK, body: struct {
		Value []T `json:"value"`
	}{bodies}}
}

// listNone answers with an empty list: clients ask for what this server never has.
// Source: spec/management.md section 2.7.
func listNone(*api, *request) (answer, error) { return whole[any](nil), nil }

// listNoneOfTopic is listNone for whoever may read the topic, which has to be there.
func listNoneOfTopic(a *api, r *request) (answer, error) {
	_, err := a.Plane.Topic(r.ctx, r.caller, r.id)
	return whole[any](nil), err
}

// listNoneOfDomain is that of a domain.
func listNoneOfDomain(a *api, r *request) (answer, error) {
	_, err := a.Plane.Domain(r.ctx, r.caller, r.id)
	return whole[any](nil), err
}

// parseTagFilter reads the $filter of resource groups: tagName eq 'x', and
// tagValue eq 'y'. Source: spec/management.md section 12.
func parseTagFilter(text string) (func(tags map[string]string) bool, error) {
	if text == "" {
		return func(map[string]string) bool { return true }, nil
	}
	p := nameFilter{rest: text}
	holds, err := p.tagCondition()
	if err != nil || holds == nil || strings.TrimSpace(p.rest) != "" {
		return nil, &fault.Error{
			Kind: fault.Invalid, Code: "InvalidFilterInQueryString", Target: "$filter",
			Message: "The $filter cannot be used. It may hold tagName eq 'x', and behind it: and tagValue eq 'y'.",
		}
	}
	return holds, nil
}

// tagCondition reads tagName eq 'x' with or without a value behind it; it returns nil
// where something else stands.
func (p *nameFilter) tagCondition() (func(tags map[string]string) bool, error) {
	if !p.word("tagName") {
		return nil, nil
	}
	name, err := p.equals()
	if err != nil {
		return nil, err
	}
	value, before := "", p.rest
	if p.word("and") && p.word("tagValue") {
		if value, err = p.equals(); err != nil {
			return nil, err
		}
	} else {
		p.rest = before // what comes is a condition of its own
	}
	return func(tags map[string]string) bool {
		for k, v := range tags {
			if strings.EqualFold(k, name) && (value == "" || v == value) {
				return true
			}
		}
		return false
	}, nil
}

// equals takes eq and a literal.
func (p *nameFilter) equals() (string, error) {
	if !p.word("eq") {
		return "", fmt.Errorf("eq is expected at '%.60s'", strings.TrimSpace(p.rest))
	}
	return p.literal()
}
