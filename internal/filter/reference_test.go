package filter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"unicode"

	"github.com/carillon-events/carillon/event"
)

// The reference evaluator: slow, decoding everything, and sharing nothing with
// Matcher but the Filter type. It is written down from spec/filtering.md.

// refObject is a decoded JSON object with its members in document order.
type refObject []refMember

type refMember struct {
	name  string
	value any // nil, bool, json.Number, string, []any, refObject
}

// refDecode reads one JSON value, keeping order and numbers.
func refDecode(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return refNext(d)
}

func refNext(d *json.Decoder) any {
	token, err := d.Token()
	if err != nil {
		panic(err)
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			list = append(list, refNext(d))
		}
		_, _ = d.Token()
		return list
	case json.Delim('{'):
		object := refObject{}
		for d.More() {
			name, _ := d.Token()
			object = append(object, refMember{name.(string), refNext(d)})
		}
		_, _ = d.Token()
		return object
	default:
		return token
	}
}

func refUpper(s string) string { return strings.Map(unicode.ToUpper, s) }

// refMissing is the value of a key that is not there; nil is JSON null.
type refMissing struct{}

func refPath(v any, path []string) any {
	for _, name := range path {
		object, ok := v.(refObject)
		if !ok {
			return refMissing{}
		}
		v = any(refMissing{})
		for i := len(object) - 1; i >= 0; i-- {
			if refUpper(object[i].name) == refUpper(name) {
				v = object[i].value
			}
		}
		for i := len(object) - 1; i >= 0; i-- {
			if object[i].name == name {
				v = object[i].value
			}
		}
	}
	return v
}

// refAliases pairs the attribute names of the Event Grid schema and CloudEvents.
var refAliases = []struct {
	keys        []string
	grid, cloud string
}{
	{[]string{"id", "eventid"}, "id", "id"},
	{[]string{"source", "topic"}, "topic", "source"},
	{[]string{"type", "eventtype"}, "eventType", "type"},
	{[]string{"subject"}, "subject", "subject"},
	{[]string{"time", "eventtime"}, "eventTime", "time"},
	{[]string{"dataversion", "eventtypeversion"}, "dataVersion", "dataschema"},
}

// refText returns an attribute of the event, which stored events spell exactly so.
func refText(top any, name string) (text string, ok bool) {
	for _, m := range top.(refObject) {
		if m.name == name {
			text, ok = m.value.(string)
			return text, ok
		}
	}
	return "", false
}

func refResolve(top any, schema event.Schema, key string) any {
	path := strings.Split(key, ".")
	attribute := func(v any) any {
		if schema != event.CloudEventSchemaV1_0 || len(path) > 1 || refUpper(key) == "DATA" {
			return v
		}
		switch x := v.(type) { // the canonical string form stands beside the value
		case bool:
			return refAttribute{v, map[bool]string{true: "true", false: "false"}[x]}
		case json.Number:
			n, ok := new(big.Int).SetString(string(x), 10)
			if ok {
				return refAttribute{v, n.String()}
			}
		}
		return v
	}
	unset := func(v any) bool { return v == any(refMissing{}) || v == nil && len(path) == 1 }
	v := refPath(top, path)
	if unset(v) && len(path) == 1 {
		for _, a := range refAliases {
			for _, name := range a.keys {
				if refUpper(name) != refUpper(key) {
					continue
				}
				own := a.grid
				if schema == event.CloudEventSchemaV1_0 {
					own = a.cloud
				}
				if text, ok := refText(top, own); ok {
					if own == "dataschema" {
						text = strings.TrimPrefix(text, "#")
					}
					return text
				}
			}
		}
	}
	if unset(v) && schema == event.CustomEventSchema {
		if w := refPath(refPath(top, []string{"data"}), path); w != any(refMissing{}) {
			return w
		}
	}
	return attribute(v)
}

// refAttribute is a context attribute of a CloudEvent that is no string.
type refAttribute struct {
	value any
	text  string
}

// refMatch evaluates a filter on a decoded event.
func refMatch(f *Filter, top any, schema event.Schema) bool {
	name := "eventType"
	if schema == event.CloudEventSchemaV1_0 {
		name = "type"
	}
	eventType, _ := refText(top, name)
	wanted := len(f.IncludedEventTypes) == 0
	for _, t := range f.IncludedEventTypes {
		wanted = wanted || strings.EqualFold(t, "All") || refUpper(t) == refUpper(eventType)
	}
	if !wanted {
		return false
	}
	subject, has := refText(top, "subject")
	begins, ends := f.SubjectBeginsWith, f.SubjectEndsWith
	if !has && begins+ends != "" {
		return false
	}
	if !f.IsSubjectCaseSensitive {
		subject, begins, ends = refUpper(subject), refUpper(begins), refUpper(ends)
	}
	if !strings.HasPrefix(subject, begins) || !strings.HasSuffix(subject, ends) {
		return false
	}
	for i := range f.AdvancedFilters {
		c := &f.AdvancedFilters[i]
		if !refHolds(c, refResolve(top, schema, c.Key), f.EnableAdvancedFilteringOnArrays) {
			return false
		}
	}
	return true
}

// refHolds is the truth overview of spec/filtering.md section 5, row by row.
func refHolds(c *Condition, v any, arrays bool) bool {
	missing := v == nil || v == any(refMissing{})
	not := strings.Contains(c.Operator.String(), "Not")
	switch c.Operator {
	case IsNullOrUndefined:
		return missing
	case IsNotNull:
		return !missing
	case NumberNotIn, StringNotIn, NumberNotInRange:
		if missing {
			return true
		}
	}
	if missing {
		return false
	}
	list, isList := v.([]any)
	if !isList {
		return refHit(c, v) != not
	}
	if !arrays {
		return false
	}
	hit := false
	for _, element := range list {
		hit = hit || refHit(c, element)
	}
	return hit != not
}

func refHit(c *Condition, v any) bool {
	text, isText := v.(string)
	if a, ok := v.(refAttribute); ok {
		v, text, isText = a.value, a.text, true
	}
	text = refUpper(text)
	for _, s := range c.Strings {
		s = refUpper(s)
		switch {
		case !isText:
		case strings.HasSuffix(c.Operator.String(), "In") && text == s,
			strings.HasSuffix(c.Operator.String(), "BeginsWith") && strings.HasPrefix(text, s),
			strings.HasSuffix(c.Operator.String(), "EndsWith") && strings.HasSuffix(text, s),
			strings.HasSuffix(c.Operator.String(), "Contains") && strings.Contains(text, s):
			return true
		}
	}
	if c.Operator == BoolEquals {
		return v == any(c.Bool)
	}
	number, ok := v.(json.Number)
	if !ok {
		return false
	}
	compare := func(n Number) int { return refCompare(string(number), string(n)) }
	for _, n := range c.Numbers {
		order := compare(n)
		switch {
		case (c.Operator == NumberIn || c.Operator == NumberNotIn) && order == 0,
			c.Operator == NumberLessThan && order < 0,
			c.Operator == NumberGreaterThan && order > 0,
			c.Operator == NumberLessThanOrEquals && order <= 0,
			c.Operator == NumberGreaterThanOrEquals && order >= 0:
			return true
		}
	}
	for _, r := range c.Ranges {
		if compare(r[0]) >= 0 && compare(r[1]) <= 0 {
			return true
		}
	}
	return false
}

// refCompare compares two JSON numbers: as fractions where their exponents allow
// it, else by their digits and where the first one stands.
func refCompare(a, b string) int {
	if !longExponent(a) && !longExponent(b) {
		return refRat(a).Cmp(refRat(b))
	}
	aSign, aDigits, aPlace := refDigits(a)
	bSign, bDigits, bPlace := refDigits(b)
	switch place := aPlace.Cmp(bPlace); {
	case aSign != bSign:
		return cmp.Compare(aSign, bSign)
	case aSign == 0:
		return 0
	case place != 0:
		return aSign * place
	default:
		return aSign * strings.Compare(aDigits, bDigits)
	}
}

func refRat(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		panic("not a number: " + text)
	}
	return r
}

// refDigits returns a number as sign × 0.digits × 10^place.
func refDigits(text string) (sign int, digits string, place *big.Int) {
	text, negative := strings.CutPrefix(text, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	place, ok := new(big.Int).SetString(cmp.Or(exponent, "0"), 10)
	if !ok {
		panic("not a number: " + text)
	}
	significant := strings.TrimLeft(whole+fraction, "0")
	place.Add(place, big.NewInt(int64(len(whole)-(len(whole+fraction)-len(significant)))))
	switch digits = strings.TrimRight(significant, "0"); {
	case digits == "":
		return 0, "", new(big.Int)
	case negative:
		return -1, digits, place
	default:
		return 1, digits, place
	}
}

// longExponent reports whether a number has an exponent of more than three
// digits, which makes for long fractions.
func longExponent(number string) bool {
	i := strings.IndexAny(number, "eE")
	return i >= 0 && len(strings.TrimLeft(number[i+1:], "+-0")) > 3
}

func TestReferenceCompare(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"1e10000", "9e9999", 1}, {"-1e10000", "-9e9999", -1}, {"1e-10000", "9e-10001", 1}, {"0e10000", "-0e-99999", 0},
		{"100e9998", "1e10000", 0}, {"0.001e10003", "1e10000", 0}, {"1.05e10000", "1.5e10000", -1}, {"1.5e10000", "1.50001e10000", -1},
		{"1e10000", "-1e10000", 1}, {"0", "1e-10000", -1}, {"12e1", "1.2e00002", 0},
	}
	for _, c := range tests {
		if got := refCompare(c.a, c.b); got != c.want || refCompare(c.b, c.a) != -c.want {
			t.Errorf("refCompare(%s, %s) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
