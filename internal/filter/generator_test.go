package filter

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-events/carillon/event"
)

// generator makes events, and filters that nearly or just meet them, out of
// choices. The choices are the fuzzer's bytes; when they are used up, those of
// random, and without it always 0.
type generator struct {
	choices []byte
	random  *rand.Rand
	found   []refFound // what the events made so far have, for conditions that ask for it
}

// refFound is a value of an event under a path that leads to it, or seems to.
type refFound struct {
	key   string
	value any
}

func (g *generator) choose(n int) int {
	if len(g.choices) > 0 {
		c := g.choices[0]
		g.choices = g.choices[1:]
		return int(c) % n
	}
	if g.random != nil {
		return g.random.IntN(n)
	}
	return 0
}

func (g *generator) of(options ...string) string { return options[g.choose(len(options))] }

func (g *generator) schema() event.Schema { return event.EventGridSchema + event.Schema(g.choose(3)) }

// remember collects every value of the event under its path, and the members of
// objects in arrays under the path that must not lead to them.
func (g *generator) remember(path string, v any) {
	if path != "" {
		g.found = append(g.found, refFound{path, v})
	}
	switch v := v.(type) {
	case refObject:
		for _, m := range v {
			g.remember(strings.TrimPrefix(path+"."+m.name, "."), m.value)
		}
	case []any:
		for _, element := range v {
			if object, ok := element.(refObject); ok {
				g.remember(path, object)
			}
		}
	}
}

// foundText returns a text that some event has under one of the names.
func (g *generator) foundText(names ...string) (string, bool) {
	var texts []string
	for _, f := range g.found {
		if text, ok := f.value.(string); ok && slices.Contains(names, f.key) {
			texts = append(texts, text)
		}
	}
	if len(texts) == 0 {
		return "", false
	}
	return g.of(texts...), true
}

func (g *generator) name() string {
	return g.of("k", "K", "data", "Data", "key", "KEY", "Key", "ключ", "КЛЮЧ", "straße", "STRASSE", "", "id", "subject", "a b", "ı", "I", "topic", "ς", "Σ",
		"k", "key", "kex", "ke", "ȺK", "ⱥk", "\u212a", "eventType", "time")
}

func (g *generator) key() string {
	if g.choose(3) == 0 {
		return g.of("id", "ID", "eventid", "topic", "Source", "type", "EventType", "subject", "Subject", "time", "eventTime", "dataversion",
			"DataVersion", "eventTypeVersion", "dataschema", "specversion", "ext", "EXT", "data", "Data", "metadataVersion")
	}
	key := g.of("data.", "data.", "data.", "DATA.", "") + g.name()
	for range g.choose(3) {
		key += "." + g.name()
	}
	return key
}

// text returns a JSON string. Many are equal, or the beginning of another.
func (g *generator) text() string {
	s := ""
	for range g.choose(5) {
		s += g.of("a", "A", "b", "ab", "é", "É", "ß", "ẞ", "ς", "Σ", "ı", "i", "İ", "I", "ſ", "S", "\u212a", "k", "ⱥ", "Ⱥ", "😀", " ", `\n`, `\"`, `\u00e9`, `\ud83d\ude00`, `\ud83d`, "/", ":", "5", "true",
			"aab", "aba", "models/", "models/churn", "runs/", "σ", "\u2c65b", `\ude00`, `\ud83dx`, `\u0131`, `\u017F`, `\u0000`, "\ufffd", strings.Repeat("ab", 70))
	}
	return `"` + s + `"`
}

func (g *generator) number() string {
	if g.choose(3) == 0 {
		return g.of("0", "-0", "5", "5.0", "5e0", "50e-1", "0.5E1", "-5", "1e3", "1000", "0.1", "0.10000000000000000555", "9007199254740993", "9007199254740992", "1e99", "-1e99", "1e-99",
			"1e999999999", "-1E+999999999", "1e-999999999", "9e-999999999", "1e99999999999", "0e99999999999", "-1e-99999999999", "1"+strings.Repeat("0", 40)+".5", "3.141592653589793238462643383279")
	}
	n := g.of("", "", "-") + g.of("0", "1", "2", "5", "9", "10", "100", "12345678901234567890")
	if g.choose(2) == 0 {
		n += "." + g.of("0", "00", "5", "05", "50", "000001", "99999999999999999999")
	}
	if g.choose(3) == 0 {
		n += g.of("e", "E") + g.of("", "+", "-") + g.of("0", "1", "2", "01", "20")
	}
	return n
}

func (g *generator) value(depth int) string {
	switch n := g.choose(9); {
	case n < 3:
		return g.text()
	case n < 5:
		return g.number()
	case n == 5:
		return g.of("true", "false", "null")
	case depth == 0:
		return g.of("{}", "[]", "null")
	case n == 6:
		return g.object(depth - 1)
	default:
		var elements []string
		for range g.choose(4) {
			elements = append(elements, g.value(depth-1))
		}
		return "[" + strings.Join(elements, g.of(",", " , ")) + "]"
	}
}

func (g *generator) object(depth int) string {
	var members []string
	for range 1 + g.choose(4) {
		members = append(members, `"`+g.of(g.name(), g.name(), `\u006b`)+`"`+g.of(":", " : ")+g.value(depth))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// event keeps the rules of stored events: attributes are strings in canonical
// spelling, each at most once.
func (g *generator) event(schema event.Schema) string {
	names := []string{"id", "topic", "subject", "eventType", "eventTime", "dataVersion", "metadataVersion"}
	if schema == event.CloudEventSchemaV1_0 {
		names = []string{"specversion", "id", "source", "subject", "type", "time", "dataschema"}
	}
	var members []string
	for _, name := range names {
		switch g.choose(4) {
		case 0:
		case 1:
			members = append(members, `"`+name+`":"#`+strings.TrimPrefix(g.text(), `"`))
		default:
			members = append(members, `"`+name+`":`+g.text())
		}
	}
	switch g.choose(8) {
	case 0:
	case 1, 2:
		members = append(members, `"data":`+g.value(3))
	default:
		members = append(members, `"data":`+g.object(3))
	}
	if schema == event.CloudEventSchemaV1_0 {
		for _, name := range []string{"ext", "topic", "eventtype", "k"} {
			if g.choose(3) == 0 {
				members = append(members, `"`+name+`":`+g.of("5", "-0", "0", "true", "false", "null", "1.5", "5e0", "55", "-5", g.text()))
			}
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// newEvent makes an event and remembers what it has.
func (g *generator) newEvent() (string, event.Schema) {
	schema := g.schema()
	raw := g.event(schema)
	g.remember("", refDecode([]byte(raw)))
	return raw, schema
}

// filter makes a filter that mostly asks for what the events have.
func (g *generator) filter() string {
	f := `{"enableAdvancedFilteringOnArrays":` + g.of("true", "false")
	if g.choose(4) == 0 {
		f += `,"includedEventTypes":[` + g.eventType() + `,` + g.eventType() + `]`
	}
	if g.choose(4) == 0 {
		f += `,"subjectBeginsWith":` + g.subject() + `,"isSubjectCaseSensitive":` + g.of("true", "false")
	}
	if g.choose(4) == 0 {
		f += `,"subjectEndsWith":` + g.subject()
	}
	var conditions []string
	for range [...]int{1, 1, 1, 1, 2, 2, 3, 0}[g.choose(8)] {
		conditions = append(conditions, g.condition())
	}
	return f + `,"advancedFilters":[` + strings.Join(conditions, ",") + `]}`
}

func (g *generator) eventType() string {
	if text, ok := g.foundText("eventType", "type"); ok && text != "" && g.choose(3) > 0 {
		return quoteJSON(g.of(text, refUpper(text)))
	}
	return `"` + g.of("x", "#") + strings.TrimPrefix(g.text(), `"`)
}

func (g *generator) subject() string {
	if text, ok := g.foundText("subject"); ok && g.choose(4) > 0 {
		return quoteJSON(g.nearText(text))
	}
	return g.text()
}

func quoteJSON(text string) string { return string(event.AppendQuoted(nil, text)) }

// condition mostly asks for something that an event has, with an operator and
// operands that may fit.
func (g *generator) condition() string {
	op := NumberIn + Operator(g.choose(int(IsNotNull)))
	key, number, text := g.key(), g.number(), g.text()
	if len(g.found) > 0 && g.choose(6) > 0 {
		found := g.found[g.choose(len(g.found))]
		for range 3 {
			if strings.HasPrefix(found.key, "data.") {
				break
			}
			found = g.found[g.choose(len(g.found))]
		}
		key = g.nearKey(found.key)
		v := found.value
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[g.choose(len(list))]
		}
		switch v := v.(type) {
		case json.Number:
			number = string(v)
			text = quoteJSON(number)
			op = []Operator{NumberIn, NumberNotIn, NumberLessThan, NumberGreaterThan, NumberLessThanOrEquals,
				NumberGreaterThanOrEquals, NumberInRange, NumberNotInRange, StringIn, op}[g.choose(10)]
		case bool:
			op = []Operator{BoolEquals, BoolEquals, op}[g.choose(3)]
		case string:
			text = quoteJSON(v)
			op = []Operator{StringIn, StringNotIn, StringBeginsWith, StringNotBeginsWith, StringEndsWith, StringNotEndsWith,
				StringContains, StringNotContains, op}[g.choose(9)]
		}
	}
	one := `{"operatorType":"` + op.String() + `","key":` + quoteJSON(key)
	switch op.Operand() {
	case NumberValue:
		return one + `,"value":` + g.nearNumber(number) + "}"
	case BoolValue:
		return one + `,"value":` + g.of("true", "false") + "}"
	case NoOperand:
		return one + "}"
	}
	decoded := refDecode([]byte(text)).(string)
	var values []string
	for range 1 + g.choose(3) {
		switch op.Operand() {
		case NumberValues:
			values = append(values, g.nearNumber(number))
		case RangeValues:
			low, high := g.nearNumber(number), g.of(g.nearNumber(number), g.number())
			if refCompare(low, high) > 0 {
				low, high = high, low
			}
			values = append(values, `[`+low+`,`+high+`]`)
		default:
			values = append(values, quoteJSON(g.nearText(decoded)))
		}
	}
	return one + `,"values":[` + strings.Join(values, ",") + "]}"
}

// nearKey returns the key in one of its spellings, or one close to it.
func (g *generator) nearKey(key string) string {
	switch g.choose(12) {
	case 0:
		return refUpper(key)
	case 1:
		return strings.ToLower(key)
	case 2:
		return strings.ToUpper(key[:len(key)/2]) + key[len(key)/2:]
	case 3:
		return key + "." + g.name()
	case 4:
		return key + g.of("x", "K", " ", ".")
	case 5:
		if before, _, ok := cutLast(key, "."); ok && before != "" {
			return before
		}
	case 6:
		if rest, ok := strings.CutPrefix(key, "data."); ok && rest != "" {
			return rest
		}
	case 7:
		return "data." + key
	}
	if key == "" {
		return "data"
	}
	return key
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// siblings are characters that are easily taken for one another: some pairs fold
// to the same, some do not, and some change their length in bytes.
var siblings = map[rune]rune{
	'k': '\u212a', 'K': 'k', '\u212a': 'k', 's': 'ſ', 'S': 'ſ', 'ſ': 's', 'i': 'ı', 'I': 'ı', 'ı': 'i', 'İ': 'i', 'σ': 'ς', 'ς': 'Σ', 'Σ': 'σ',
	'ß': 'ẞ', 'ẞ': 'ß', 'ⱥ': 'Ⱥ', 'Ⱥ': 'ⱥ', 'é': 'É', 'É': 'e', 'a': 'A', 'A': 'a', 'b': 'B', 'B': 'b', '/': ':', 'm': 'M', 'n': 'N', 'r': 'R',
}

// nearText returns the text, a part of it, or one that differs in a character.
func (g *generator) nearText(text string) string {
	runes := []rune(text)
	if len(runes) > MaxCharacters-1 {
		runes = runes[:MaxCharacters-1]
	}
	n := len(runes)
	switch g.choose(14) {
	case 0:
		return refUpper(string(runes))
	case 1:
		return strings.Map(unicode.ToLower, string(runes))
	case 2:
		return string(runes) + g.of("a", "K", "ß", "İ", "/", "x")
	case 3:
		return g.of("a", "K", "ß", "İ", "/", "x") + string(runes)
	case 4, 5:
		return string(runes[:n-min(n, 1+g.choose(3))])
	case 6, 7:
		return string(runes[min(n, 1+g.choose(3)):])
	case 8, 9:
		if n > 0 {
			start := g.choose(n)
			return string(runes[start : start+g.choose(n-start+1)])
		}
	case 10, 11:
		if n > 0 {
			i := g.choose(n)
			if r, ok := siblings[runes[i]]; ok {
				runes[i] = r
			} else {
				runes[i]++
			}
			if !utf8.ValidRune(runes[i]) {
				runes[i] = 'x'
			}
		}
	}
	return string(runes)
}

// nearNumber returns the number, in another spelling perhaps, or one close to it.
func (g *generator) nearNumber(number string) string {
	mantissa, exponent := number, ""
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		mantissa, exponent = number[:i], number[i:]
	}
	switch g.choose(12) {
	case 0, 1:
		return mantissa[:len(mantissa)-1] + g.of("0", "1", "4", "5", "6", "9") + exponent
	case 2, 3:
		if !strings.Contains(mantissa, ".") {
			mantissa += "."
		}
		return mantissa + g.of("0", "1", "9", "000", "00000000000000000000000000001") + exponent
	case 4:
		if exponent == "" && !strings.Contains(mantissa, ".") && strings.Trim(mantissa, "-0") != "" {
			return mantissa + "0e-1"
		}
	case 5:
		if exponent == "" {
			return mantissa + g.of("e0", "E+00", "e1", "e-1")
		}
	case 6:
		if rest, ok := strings.CutPrefix(number, "-"); ok {
			return rest
		}
		return "-" + number
	}
	return number
}

// vary returns a filter that differs from f in one thing; both can stand behind
// Parse. The other filter lends what f lacks.
func (g *generator) vary(f, other *Filter) *Filter {
	v := *f
	v.AdvancedFilters = slices.Clone(f.AdvancedFilters)
	if n := len(v.AdvancedFilters); n > 0 && g.choose(4) > 0 {
		c := &v.AdvancedFilters[g.choose(n)]
		if g.choose(4) > 0 {
			g.varyOperand(c)
		} else {
			g.varyCondition(c)
		}
		return &v
	}
	switch g.choose(10) {
	case 0:
		v.EnableAdvancedFilteringOnArrays = !v.EnableAdvancedFilteringOnArrays
	case 1:
		v.IsSubjectCaseSensitive = !v.IsSubjectCaseSensitive
	case 2:
		v.SubjectBeginsWith = g.nearText(v.SubjectBeginsWith)
	case 3:
		v.SubjectEndsWith = g.nearText(v.SubjectEndsWith)
	case 4:
		v.IncludedEventTypes = other.IncludedEventTypes
	case 5:
		v.SubjectBeginsWith, v.SubjectEndsWith = other.SubjectBeginsWith, other.SubjectEndsWith
	case 6:
		if n := len(v.AdvancedFilters); n > 0 {
			i := g.choose(n)
			v.AdvancedFilters = slices.Delete(v.AdvancedFilters, i, i+1)
		}
	case 7: // two conditions that may lead to the same place
		if n := len(v.AdvancedFilters); n > 0 && n < 4 {
			twin := v.AdvancedFilters[g.choose(n)]
			g.varyOperand(&twin)
			v.AdvancedFilters = append(v.AdvancedFilters, twin)
		}
	default:
		if n := len(other.AdvancedFilters); n > 0 && len(v.AdvancedFilters) < 4 {
			v.AdvancedFilters = append(v.AdvancedFilters, other.AdvancedFilters[g.choose(n)])
		}
	}
	if len(v.AdvancedFilters) == 0 {
		v.AdvancedFilters = nil
	}
	return &v
}

// varyCondition changes the key or the operator of a condition.
func (g *generator) varyCondition(c *Condition) {
	if g.choose(2) == 0 {
		if key := g.nearKey(c.Key); utf8.RuneCountInString(key) <= MaxCharacters {
			c.Key = key
		}
		return
	}
	var alike []Operator
	for _, op := range Operators() {
		if op.Operand() == c.Operator.Operand() {
			alike = append(alike, op)
		}
	}
	c.Operator = alike[g.choose(len(alike))]
}

// varyOperand changes an operand of a condition, or adds one to a list.
func (g *generator) varyOperand(c *Condition) {
	add := g.choose(4) == 0 && len(c.Strings)+len(c.Numbers)+len(c.Ranges) < 5
	switch c.Operator.Operand() {
	case StringValues:
		c.Strings = slices.Clone(c.Strings)
		i := g.choose(len(c.Strings))
		if text := g.nearText(c.Strings[i]); add {
			c.Strings = append(c.Strings, text)
		} else {
			c.Strings[i] = text
		}
	case NumberValue, NumberValues:
		c.Numbers = slices.Clone(c.Numbers)
		i := g.choose(len(c.Numbers))
		if n := Number(g.nearNumber(string(c.Numbers[i]))); add && c.Operator.Operand() == NumberValues {
			c.Numbers = append(c.Numbers, n)
		} else {
			c.Numbers[i] = n
		}
	case RangeValues:
		c.Ranges = slices.Clone(c.Ranges)
		i := g.choose(len(c.Ranges))
		pair := c.Ranges[i]
		end := g.choose(2)
		pair[end] = Number(g.nearNumber(string(pair[end])))
		if refCompare(string(pair[0]), string(pair[1])) > 0 {
			pair[0], pair[1] = pair[1], pair[0]
		}
		if add {
			c.Ranges = append(c.Ranges, pair)
		} else {
			c.Ranges[i] = pair
		}
	case BoolValue:
		c.Bool = !c.Bool
	}
}
