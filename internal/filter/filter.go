// Package filter decides which events an event subscription wants.
//
// It hides the rules of event filtering: the JSON form of a filter and its
// limits, how a key finds its value in an event, what each of the 19 operators
// makes of each state of that value, exact decimals, and case folding. A caller
// parses a [Filter], compiles it into a [Matcher], and asks an [Index] of
// matchers which event subscriptions want an event.
//
// Rules:
//   - A filter is refused as a whole and every problem is named; what [Parse]
//     accepted is written back exactly, numbers in their own spelling.
//   - Matchers and indexes never change and may be used by any number of
//     goroutines. Matching touches no clock, disk or socket and cannot fail.
//   - Events are read as stored bytes; only members on the path of a key are
//     looked at and nothing is decoded that no operator asks for.
//   - Ignoring case always means upper-casing character by character with
//     [unicode.ToUpper]: no culture, no normalisation, no expansion.
//   - Numbers are compared as decimals of any length, never as floats.
//
// It does not know topics, event subscriptions, generations of filters, or when
// an event subscription expires.
package filter

// Filter is the filter of one event subscription. The zero Filter wants every
// event.
type Filter struct {
	IncludedEventTypes              []string    // nil or "All" among them = every type; compared ignoring case
	SubjectBeginsWith               string      // "" = no test
	SubjectEndsWith                 string      // "" = no test
	IsSubjectCaseSensitive          bool        // for the two subject tests only
	EnableAdvancedFilteringOnArrays bool        // lets conditions look inside array values
	AdvancedFilters                 []Condition // all of them must hold
}

// Condition is one advanced filter: an operator, the key it looks at, and the
// operands its operator takes (one of the fields; none for the null operators).
type Condition struct {
	Operator Operator
	Key      string
	Strings  []string    // String… operators
	Numbers  []Number    // NumberIn, NumberNotIn; the comparisons take exactly one
	Ranges   [][2]Number // NumberInRange, NumberNotInRange: low, high, both inclusive
	Bool     bool        // BoolEquals
}

// Number is the JSON text of a number, kept as written and compared as an exact
// decimal.
type Number string

// everyType is the included event type that stands for all of them.
const everyType = "All"
