package filter

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// The parts of the index by themselves, each against something plain, with changes
// in one edit and in many, and with older versions looked at again.

func TestTrie(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	key := func() []byte {
		k := make([]byte, r.IntN(6))
		for i := range k {
			k[i] = "ab\x00\xff"[r.IntN(4)]
		}
		return k
	}
	var now trie[int]
	want := map[string]int{}
	type version struct {
		trie trie[int]
		want map[string]int
	}
	var versions []version
	e := new(edit)
	for step := range 20_000 {
		k := key()
		now.update(e, k, func(old *int) *int {
			if v, ok := want[string(k)]; ok != (old != nil) || ok && v != *old {
				t.Fatalf("step %d: %q has %v, want %d, %v", step, k, old, v, ok)
			}
			if r.IntN(3) == 0 {
				delete(want, string(k))
				return nil
			}
			want[string(k)] = step
			return &step
		})
		if step%7 == 0 {
			e = new(edit)
		}
		if step%2000 == 0 {
			versions = append(versions, version{now, maps.Clone(want)})
			e = new(edit)
		}
	}
	for i, v := range append(versions, version{now, want}) {
		n := 0
		v.trie.root.each(func(*int) { n++ })
		if v.trie.n != len(v.want) || n != len(v.want) {
			t.Errorf("version %d: %d keys, %d values, want %d", i, v.trie.n, n, len(v.want))
		}
		for range 2000 {
			k := key()
			got := v.trie.get(k)
			if w, ok := v.want[string(k)]; ok != (got != nil) || ok && *got != w {
				t.Fatalf("version %d: %q has %v, want %d, %v", i, k, got, w, ok)
			}
		}
	}
	for k := range want {
		now.update(e, []byte(k), func(*int) *int { return nil })
	}
	if now.n != 0 || now.root != nil {
		t.Errorf("%d keys are left", now.n)
	}
}

func TestList(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var now list
	want := map[uint64]bool{}
	check := func(name string, l list, want map[uint64]bool) {
		t.Helper()
		var got []uint64
		for at := range l.all {
			got = append(got, at.entry.id)
		}
		if !slices.Equal(got, slices.Sorted(maps.Keys(want))) || l.n != len(want) {
			t.Fatalf("%s: %d entries %v, want %d", name, l.n, got, len(want))
		}
		for range now.all {
			break // an early end is taken
		}
	}
	e := new(edit)
	var old list
	var oldWant map[uint64]bool
	for step := range 6000 {
		if step%5 == 0 {
			e = new(edit)
		}
		id := r.Uint64N(2000)
		if _, _, ok := now.find(id); ok != want[id] {
			t.Fatalf("step %d: find(%d) = %v", step, id, ok)
		}
		if want[id] {
			now.remove(e, id)
			delete(want, id)
		} else {
			now.insert(e, located{entry: &placed{id: id}})
			want[id] = true
		}
		if step == 4000 {
			old, oldWant, e = now, maps.Clone(want), new(edit)
		}
	}
	check("now", now, want)
	check("then", old, oldWant)
	for id := range want {
		now.remove(e, id)
	}
	check("emptied", now, nil)
}

// someNumber makes one of few numbers in one of many spellings.
func someNumber(r *rand.Rand) decimal {
	spellings := []string{"-1e400", "-12", "-1.50", "-0.1", "-0.11", "-0.1000000001", "0", "-0", "0.1", "1e-1", "0.10000000000000000001", "1", "1.0", "1.0000000000000000000000001",
		"123456789012345678", "123456789012345678.9", "1234567890123456789", "12345678901234567891", "1e18", "1e400", "1e-400", "1e-999999999999999", "-1e999999999999999"}
	return readDecimal([]byte(spellings[r.IntN(len(spellings))]))
}

func TestOrderedBytesAgreeWithDecimals(t *testing.T) {
	agree := func(a, b decimal) {
		t.Helper()
		if got, want := bytes.Compare(a.appendOrdered(nil), b.appendOrdered(nil)), a.compare(b); got != want {
			t.Fatalf("%+v compares to %+v as %d, want %d", a, b, got, want)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		agree(someNumber(r), someNumber(r))
	}
	// The longest that filters hold, and longer ones next to it.
	nines := strings.Repeat("9", MaxCharacters)
	for _, sign := range []string{"", "-"} {
		operand := readDecimal([]byte(sign + nines))
		for _, value := range []string{nines, nines + ".0", nines + ".01", nines + ".9", nines + "0", nines[1:] + ".9", nines[1:] + "8" + strings.Repeat("9", 50)} {
			d := readDecimal([]byte(sign + value))
			agree(operand, d)
			if n := len(d.appendOrdered(nil)); n > maxOrdered {
				t.Errorf("%d bytes, at most %d are expected", n, maxOrdered)
			}
		}
	}
}

// someText makes one of few folded texts.
func someText(r *rand.Rand) []byte {
	text := []byte{}
	for range r.IntN(5) {
		text = append(text, []string{"A", "B", "\x00", "\x01", "é", "\U0010ffff", "\ufffd"}[r.IntN(7)]...)
	}
	return text
}

// someValue makes a text, or a number as bytes.
func someValue(r *rand.Rand) []byte {
	if r.IntN(2) == 0 {
		return someText(r)
	}
	return someNumber(r).appendOrdered(nil)
}

// holds reports whether a value is in the interval.
func (s span) holds(value []byte) bool {
	return bytes.Compare(s.low, value) <= 0 && bytes.Compare(value, s.high) < 0
}

func TestSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for range 20_000 {
		operand, value := someValue(r), someValue(r)
		if got := just(operand).holds(value); got != bytes.Equal(value, operand) {
			t.Fatalf("%q is in the interval of %q alone: %v", value, operand, got)
		}
		operand, value = someText(r), someText(r)
		if got := startingWith(operand).holds(value); got != bytes.HasPrefix(value, operand) {
			t.Fatalf("%q is in the interval of what starts with %q: %v", value, operand, got)
		}
	}
}

func TestIntervals(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	// Each interval holds one entry, whose id says which it is.
	type kept struct {
		span span
		id   uint64
	}
	var now intervals
	var want []kept
	e := new(edit)
	compare := func(name string, tree intervals, want []kept) {
		t.Helper()
		for range 50 {
			value := someValue(r)
			var ids []uint64
			for _, k := range want {
				if k.span.holds(value) {
					ids = append(ids, k.id)
				}
			}
			slices.Sort(ids)
			run := run{s: &Scratch{}}
			run.stab(tree.root, value)
			if got := slices.Sorted(slices.Values(run.s.ids)); !slices.Equal(got, ids) {
				t.Fatalf("%s: %q is in %v, want %v", name, value, got, ids)
			}
		}
	}
	var old intervals
	var oldWant []kept
	for step := range 3000 {
		if step%4 == 0 {
			e = new(edit)
		}
		s := span{someValue(r), someValue(r)}
		switch r.IntN(4) {
		case 0:
			s.low = just(s.low).high
		case 1:
			s.high = startingWith(s.high).high
		}
		if bytes.Compare(s.low, s.high) > 0 {
			s.low, s.high = s.high, s.low
		}
		i := slices.IndexFunc(want, func(k kept) bool { return k.span.compare(s) == 0 })
		if here := now.find(s); (here != nil) != (i >= 0) {
			t.Fatalf("step %d: find says %v, want %v", step, here != nil, i >= 0)
		}
		now.update(e, s, func(here *node) *node {
			if i >= 0 {
				return nil
			}
			return here.insert(e, located{entry: &placed{id: uint64(step)}})
		})
		if i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else {
			want = append(want, kept{s, uint64(step)})
		}
		if step == 1500 {
			old, oldWant, e = now, slices.Clone(want), new(edit)
		}
		if step%100 == 0 {
			compare(fmt.Sprint("step ", step), now, want)
		}
	}
	compare("then", old, oldWant)
}

func TestGrams(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	text := func(most int) []byte {
		b := make([]byte, 1+r.IntN(most))
		for i := range b {
			b[i] = "abcdeFGH"[r.IntN(8)]
		}
		return b
	}
	var now grams
	want := map[string]uint64{}
	e := new(edit)
	compare := func(name string, g grams, want map[string]uint64) {
		t.Helper()
		for range 20 {
			s := text(60)
			var ids []uint64
			for p, id := range want {
				if bytes.Contains(s, []byte(p)) {
					ids = append(ids, id)
				}
			}
			slices.Sort(ids)
			run := run{s: &Scratch{}}
			run.contained(&g, s)
			slices.Sort(run.s.ids)
			if got := slices.Compact(run.s.ids); !slices.Equal(got, ids) {
				t.Fatalf("%s: %q contains %v, want %v", name, s, got, ids)
			}
		}
	}
	var old grams
	var oldWant map[string]uint64
	for step := range 30_000 {
		if step%4 == 0 {
			e = new(edit)
		}
		p := text(9)
		_, known := want[string(p)]
		if here := now.find(p); (here != nil) != known {
			t.Fatalf("step %d: find(%q) says %v", step, p, here != nil)
		}
		now.update(e, p, func(here *node) *node {
			if known {
				return nil
			}
			return here.insert(e, located{entry: &placed{id: uint64(step)}})
		})
		if known {
			delete(want, string(p))
		} else {
			want[string(p)] = uint64(step)
		}
		if step == 20_000 {
			old, oldWant, e = now, maps.Clone(want), new(edit)
		}
		if step%1000 == 0 {
			compare(fmt.Sprint("step ", step), now, want)
		}
	}
	compare("then", old, oldWant)
	for p := range want {
		now.update(e, []byte(p), func(*node) *node { return nil })
	}
	if now.lists.n != 0 || now.lengths != [maxGram + 1]int{} {
		t.Errorf("%d grams are left, by length %v", now.lists.n, now.lengths)
	}
}

// TestGaps shows that a value is either in a taken interval or in one gap.
func TestGaps(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var seen [2]int
	for range 5000 {
		var taken []span
		for range 1 + r.IntN(4) {
			s := span{someNumber(r).appendOrdered(nil), just(someNumber(r).appendOrdered(nil)).high}
			switch r.IntN(4) {
			case 0:
				s = just(someText(r))
			case 1:
				s = startingWith(someText(r))
			}
			if bytes.Compare(s.low, s.high) < 0 {
				taken = append(taken, s)
			}
		}
		value := someValue(r)
		in := func(spans []span) (n int) {
			for _, s := range spans {
				if s.holds(value) {
					n++
				}
			}
			return n
		}
		inside, outside := in(taken) > 0, in(gaps(slices.Clone(taken)))
		if inside == (outside == 1) || outside > 1 {
			t.Fatalf("%q is inside: %v, and in %d gaps", value, inside, outside)
		}
		seen[outside]++
	}
	if seen[0] < 500 || seen[1] < 500 {
		t.Errorf("%v values were inside and outside", seen)
	}
}

func TestSet(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	// Few numbers far apart, many close together.
	number := func() uint32 {
		if r.IntN(3) == 0 {
			return r.Uint32N(20 * blockSize)
		}
		return 3*blockSize + r.Uint32N(3*maxFew)
	}
	of := func(s *set) []uint32 {
		var b barred
		b.begin(20 * blockSize)
		if s == nil {
			return nil
		}
		return slices.Collect(b.remaining(s))
	}
	var now, old *set
	want := map[uint32]bool{}
	var oldWant []uint32
	e := new(edit)
	for step := range 6000 {
		if step%5 == 0 {
			e = new(edit)
		}
		n := number()
		if r.IntN(5) < 3 {
			now = now.with(e, n)
			want[n] = true
		} else {
			now = now.without(e, n)
			delete(want, n)
		}
		if step == 3000 {
			old, oldWant, e = now, slices.Sorted(maps.Keys(want)), new(edit)
		}
		if step%100 == 0 && !slices.Equal(of(now), slices.Sorted(maps.Keys(want))) {
			t.Fatalf("step %d: %v, want %d numbers", step, of(now), len(want))
		}
	}
	if !slices.Equal(of(old), oldWant) {
		t.Errorf("then: %v, want %v", of(old), oldWant)
	}
	var b barred
	for range 2 { // what barred the first time does not the second time
		b.begin(20 * blockSize)
		b.add(old)
		var left []uint32
		for n := range want {
			if !slices.Contains(oldWant, n) {
				left = append(left, n)
			}
		}
		slices.Sort(left)
		if got := slices.Collect(b.remaining(now)); !slices.Equal(got, left) {
			t.Errorf("barred from %d: %v, want %v", len(oldWant), got, left)
		}
		b.stamp = ^uint32(0)
	}
	for n := range want {
		now = now.without(e, n)
	}
	if now != nil {
		t.Errorf("%d blocks are left", len(now.blocks))
	}
}

// TestScratchWrapsAround: what an old event left does not come back when the
// stamps begin anew, and one long event's memory is given back.
func TestScratchWrapsAround(t *testing.T) {
	x := NewIndex([]Entry{{ID: 1, Matcher: Compile(mustParse(t, `{"advancedFilters":[{"operatorType":"StringContains","key":"data.k","values":["v"]}]}`))}})
	var s Scratch
	with, without := parseEvent(t, `{"data":{"k":"v"}}`), parseEvent(t, `{"data":{}}`)
	if got := x.Match(with, &s); len(got) != 1 {
		t.Fatalf("before: %v", got)
	}
	s.found.stamp = ^uint32(0)
	for range 3 {
		if got := x.Match(without, &s); len(got) != 0 {
			t.Fatalf("after: %v", got)
		}
	}
	long := parseEvent(t, `{"data":{"k":"`+string(bytes.Repeat([]byte("x"), maxScratch+1))+`v"}}`)
	if got := x.Match(long, &s); len(got) != 1 || s.text != nil {
		t.Errorf("a long text: %v, %d bytes are kept", got, cap(s.text))
	}
}

// TestFoldInWords: eight bytes at a time fold as one character at a time.
func TestFoldInWords(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	pieces := []string{"a", "z", "A", "Z", "@", "[", "`", "{", "\x7f", "\x00", "5", "\\", "é", "ı", "ⱥ", "ſ", "😀", "mlflow", "STAGE-production"}
	for range 20_000 {
		var text, want []byte
		for range r.IntN(12) {
			piece := pieces[r.IntN(len(pieces))]
			text = append(text, piece...)
			for _, c := range piece {
				want = utf8.AppendRune(want, unicode.ToUpper(c))
			}
		}
		if got := appendFolded(nil, text); !bytes.Equal(got, want) {
			t.Fatalf("%q folds to %q, want %q", text, got, want)
		}
		plain := !bytes.ContainsFunc(text, func(c rune) bool { return c >= utf8.RuneSelf || c == '\\' })
		if isPlain(text) != plain {
			t.Fatalf("isPlain(%q) = %v", text, !plain)
		}
	}
}
