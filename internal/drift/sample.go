package drift

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a sample holds.
const (
	DefaultRows = 50_000     // rows kept of each side
	mostColumns = 1_000      // of a dataset
	mostName    = 4 << 10    // bytes of a column's name
	mostCells   = 10_000_000 // rows times columns kept; 12 bytes each and the texts
	mostText    = 256        // bytes of a text that tell it from others
	mostCell    = 4 << 10    // bytes of a value that are looked at
	mostTexts   = 256 << 20  // bytes of all texts that differ, with what keeping one takes
	textCost    = 64         // bytes that keeping a text takes beside its own
)

// Sample is a dataset, read: all rows counted, some of them kept. Which ones is the
// seed's choice, each row with equal chance.
type Sample struct {
	draw
	columns []*column
	byName  map[string]*column
	wanted  map[string]bool // nil: all
	texts   *int            // bytes that texts take
	period  *Period         // rows to take; nil: all
	exclude map[string]bool // columns that are not compared
}

// A draw chooses the rows to keep. A copy draws the same again, which is how columns
// that are read one after the other keep the same rows.
type draw struct {
	Rows   int64 // of the dataset, so far
	kept   int
	most   int // rows to keep
	chance rand.PCG

	chosen *choice // rows of the Parquet row group that is read; nil: all
	passed int64   // rows of it, so far
}

// skips passes the next row of the row group by, if it is not chosen.
func (d *draw) skips() bool {
	if d.chosen == nil {
		return false
	}
	d.passed++
	return !d.chosen.holds(d.passed - 1)
}

// ReadOptions say what to keep of a dataset.
type ReadOptions struct {
	Features []string // columns to read; nil means all
	Exclude  []string // columns not to compare
	Rows     int      // rows to keep; 0 means DefaultRows
	Seed     uint64
	Period   *Period // rows to read; nil means all

	// Pause is called now and then while a dataset is read, with the rows read so far;
	// an error ends the reading. Optional.
	Pause func(rows int64) error
}

func newSample(o ReadOptions) *Sample {
	s := &Sample{byName: map[string]*column{}, texts: new(int), period: o.Period, exclude: map[string]bool{}, draw: draw{most: o.Rows, chance: *rand.NewPCG(o.Seed, 0x6d70_6c65)}}
	if s.most <= 0 {
		s.most = DefaultRows
	}
	for _, e := range o.Exclude {
		s.exclude[e] = true
	}
	if o.Features != nil {
		s.wanted = map[string]bool{}
		for _, f := range o.Features {
			s.wanted[f] = true
		}
	}
	return s
}

// column adds a column, or returns nil if nobody wants it. Rows that went by before
// it was seen have no value for it.
func (s *Sample) column(name string) (*column, error) {
	if s.wanted != nil && !s.wanted[name] {
		return nil, nil
	}
	if len(s.columns) == mostColumns {
		return nil, fmt.Errorf("it has more than %d columns: name those to compare", mostColumns)
	}
	if len(name) > mostName {
		return nil, fmt.Errorf("a column's name has %d bytes; at most %d are taken", len(name), mostName)
	}
	c := &column{name: name, at: len(s.columns), taken: s.texts, missing: s.Rows, min: math.Inf(1), max: math.Inf(-1), last: math.Inf(-1), whole: true, rising: true, index: pandasIndex.MatchString(name)}
	if s.exclude[name] {
		c.unfit = excluded
	}
	if s.period != nil && name == s.period.Column {
		c.unfit = chosenBy
	}
	s.columns, s.byName[name] = append(s.columns, c), c
	s.narrow()
	for range s.kept {
		c.numbers, c.texts = append(c.numbers, math.NaN()), append(c.texts, 0)
	}
	return c, nil
}

// columnOfFile is the column of that name, which another file may have had; here is
// what this one had so far.
func (s *Sample) columnOfFile(name string, here map[*column]bool) (*column, error) {
	c := s.byName[name]
	if here[c] {
		return nil, fmt.Errorf("column %q stands there twice", name)
	}
	var err error
	if c == nil {
		if c, err = s.column(name); c == nil {
			return nil, err
		}
	}
	here[c] = true
	return c, nil
}

// newFile is called before each file: what counts the rows begins anew in each.
func (s *Sample) newFile() {
	for _, c := range s.columns {
		c.last = math.Inf(-1)
	}
}

// pandasIndex is how pandas names an index that has no name: Parquet's, and that of CSV
// that was read and written again. In CSV its name is empty.
var pandasIndex = regexp.MustCompile(`^(__index_level_[0-9]+__|Unnamed: [0-9]+)$`)

// without returns the columns that a file does not have.
func (s *Sample) without(here map[*column]bool) (absent []*column) {
	for _, c := range s.columns {
		if !here[c] {
			absent = append(absent, c)
		}
	}
	return absent
}

// narrow keeps fewer rows where more columns came. Once there are rows, it keeps half
// of them, drawn by chance, as often as it takes: columns that come one by one do not
// each cost a look at all of them.
func (s *Sample) narrow() {
	columns := len(s.columns)
	if s.kept == 0 {
		s.most = max(1, min(s.most, mostCells/columns))
		return
	}
	for s.most > 1 && s.most > mostCells/columns {
		s.most /= 2
	}
	if s.kept <= s.most {
		return
	}
	for place := range s.most {
		from := place + int(s.below(uint64(s.kept-place)))
		for _, c := range s.columns {
			if from < len(c.numbers) { // it has values
				c.numbers[place], c.numbers[from] = c.numbers[from], c.numbers[place]
				c.texts[place], c.texts[from] = c.texts[from], c.texts[place]
			}
		}
	}
	s.kept = s.most
	for _, c := range s.columns {
		if s.kept < len(c.numbers) {
			c.numbers, c.texts = slices.Clone(c.numbers[:s.kept]), slices.Clone(c.texts[:s.kept])
		}
	}
}

// checkTexts refuses a dataset whose texts take too much memory.
func (s *Sample) checkTexts() error {
	if *s.texts > mostTexts {
		return fmt.Errorf("its texts that differ take more than %d MiB: keep fewer rows, or name the columns to compare", mostTexts>>20)
	}
	return nil
}

// next tells where the next row goes: to a place of its own, to that of an earlier
// row, or nowhere (-1). It is Vitter's algorithm R.
func (d *draw) next() int {
	d.Rows++
	if d.kept < d.most {
		d.kept++
		return d.kept - 1
	}
	if place := d.below(uint64(d.Rows)); place < uint64(d.most) {
		return int(place)
	}
	return -1
}

// below draws a number from 0 to n-1.
func (d *draw) below(n uint64) uint64 {
	drawn, _ := bits.Mul64(d.chance.Uint64(), n)
	return drawn
}

// A column holds the values of the rows kept, and what is known of all.
type column struct {
	name    string
	at      int       // among the columns of its sample
	numbers []float64 // NaN where there is none
	texts   []uint32  // index into words plus 1, or 0
	words   []string
	places  map[string]uint32
	taken   *int // by texts of all columns

	missing, numeric, textual int64 // rows of each sort
	min, max, mean            float64
	last                      float64 // number of the file that is read; -Inf: none yet
	whole                     bool    // every number is
	rising                    bool    // every number is above the one before it in its file
	risen                     int64   // numbers that have one before them
	index                     bool    // named as an index that pandas writes
	dated                     int     // texts that are times; -1: one was not
	temporal                  bool    // its type says so
	unfit                     string  // why its values cannot be compared, or ""
}

// excluded is why columns that were named so are not compared.
const excluded = "it was excluded"

// listed is why columns of nested values are not compared.
const listed = "its values are lists or objects"

// A cell is a value: a number, a text, or missing.
type cell struct {
	number float64
	text   string
	sort   cellSort
}

type cellSort uint8

const (
	missing cellSort = iota
	number
	words
)

// numberCell is a number; what is not finite is missing.
func numberCell(x float64) cell {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return cell{}
	}
	return cell{number: x, sort: number}
}

// textCell is what a text says. "", NaN, null and the infinities are missing. A
// number is what JSON calls so, with a sign at will: 007 is a text, because codes are
// written like that.
func textCell(text string) cell {
	text = strings.TrimSpace(text[:min(len(text), mostCell)])
	if text == "" {
		return cell{}
	}
	switch first := text[0]; {
	case first >= '0' && first <= '9', first == '-', first == '+', first == '.':
		digits := strings.TrimLeft(text, "+-")
		if len(text)-len(digits) > 1 || !isNumeral(digits) ||
			len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
			break
		}
		if x, err := strconv.ParseFloat(text, 64); err == nil || math.IsInf(x, 0) {
			return numberCell(x)
		}
	}
	switch strings.ToLower(strings.TrimLeft(text, "+-")) {
	case "nan", "null", "inf", "infinity":
		return cell{}
	}
	if len(text) > mostText {
		text = text[:mostText]
	}
	return cell{text: text, sort: words}
}

// isNumeral tells whether a text has no letters but those of a number.
func isNumeral(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-' {
			return false
		}
	}
	return true
}

// put counts the value of a row and keeps it at its place, if it has one.
func (c *column) put(place int, v cell) {
	switch v.sort {
	case missing:
		c.missing++
		v.number = math.NaN()
	case number:
		c.numeric++
		c.min, c.max = min(c.min, v.number), max(c.max, v.number)
		c.mean += (v.number - c.mean) / float64(c.numeric)
		c.whole = c.whole && v.number == math.Trunc(v.number)
		c.rising = c.rising && v.number > c.last
		if !math.IsInf(c.last, 0) {
			c.risen++
		}
		c.last = v.number
	case words:
		c.textual++
		v.number = math.NaN()
		if c.dated >= 0 && isTime(v.text) {
			c.dated++
		} else {
			c.dated = -1
		}
	}
	if place < 0 || c.unfit != "" {
		return
	}
	var word uint32
	if v.sort == words {
		word = c.intern(v.text)
	}
	if place == len(c.numbers) {
		c.numbers, c.texts = append(c.numbers, v.number), append(c.texts, word)
		return
	}
	c.numbers[place], c.texts[place] = v.number, word
}

// intern keeps a text once. Texts of rows that gave way stay; they grow with the
// logarithm of the rows only, as the rows kept do.
func (c *column) intern(text string) uint32 {
	if i, ok := c.places[text]; ok {
		return i
	}
	if c.places == nil {
		c.places = map[string]uint32{}
	}
	text = strings.Clone(text) // not the whole line
	*c.taken += len(text) + textCost
	c.words = append(c.words, text)
	i := uint32(len(c.words))
	c.places[text] = i
	return i
}

// counts reports whether the column counts the rows of each file.
func (c *column) counts() bool { return c.whole && c.rising && c.risen >= idRows }

// boolean reports whether every value is one; without values it is.
func (c *column) boolean() bool {
	return c.numeric == 0 && !slices.ContainsFunc(c.words, func(word string) bool {
		return !strings.EqualFold(word, "true") && !strings.EqualFold(word, "false")
	})
}

// category is the value of a kept row as a text, and whether it has one.
func (c *column) category(row int) (string, bool) {
	if w := c.texts[row]; w > 0 {
		return c.words[w-1], true
	}
	if x := c.numbers[row]; !math.IsNaN(x) {
		return strconv.FormatFloat(x, 'g', -1, 64), true
	}
	return "", false
}

// isTime reports whether a text is a date or a time as ISO 8601 writes them.
func isTime(text string) bool {
	if len(text) < 10 || text[4] != '-' || text[7] != '-' {
		return false
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00"} {
		if _, err := time.Parse(layout, text); err == nil {
			return true
		}
	}
	return false
}
