package filter

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
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

// someBound makes one of few numbers in one of many spellings.
func someBound(r *rand.Rand) bound {
	spellings := []string{"-1e400", "-12", "-1.50", "-0.1", "0", "-0", "0.1", "1e-1", "0.10000000000000000001", "1", "1.0", "1.0000000000000000000000001",
		"123456789012345678", "123456789012345678.9", "1234567890123456789", "12345678901234567891", "1e18", "1e400"}
	b := makeBound(readDecimal([]byte(spellings[r.IntN(len(spellings))])))
	b.side = int8(r.IntN(3) - 1)
	if r.IntN(12) == 0 {
		b = bound{infinite: int8(1 - 2*r.IntN(2))}
	}
	return b
}

func TestBoundsAgreeWithDecimals(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		a, b := someBound(r), someBound(r)
		if a.infinite != 0 || b.infinite != 0 {
			if got := a.compare(&b); got < 0 != (a.infinite < b.infinite) || got == 0 != (a.infinite == b.infinite) {
				t.Fatalf("%+v compares to %+v as %d", a, b, got)
			}
			continue
		}
		want := a.decimal.compare(b.decimal)
		if want == 0 {
			want = int(a.side) - int(b.side)
		}
		if got := a.compare(&b); got < 0 != (want < 0) || got == 0 != (want == 0) {
			t.Fatalf("%+v compares to %+v as %d, want %d", a, b, got, want)
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
	stab := func(tree intervals, number *bound) []uint64 {
		run := run{s: &Scratch{}}
		run.stab(tree.root, number)
		return slices.Sorted(slices.Values(run.s.ids))
	}
	compare := func(name string, tree intervals, want []kept) {
		t.Helper()
		for range 50 {
			number := someBound(r)
			number.side, number.infinite = 0, 0
			if number.digits == nil {
				number.sign = 0
			}
			var ids []uint64
			for _, k := range want {
				if k.span.low.compare(&number) <= 0 && number.compare(k.span.high) <= 0 {
					ids = append(ids, k.id)
				}
			}
			slices.Sort(ids)
			if got := stab(tree, &number); !slices.Equal(got, ids) {
				t.Fatalf("%s: %+v is in %v, want %v", name, number, got, ids)
			}
		}
	}
	var old intervals
	var oldWant []kept
	for step := range 3000 {
		if step%4 == 0 {
			e = new(edit)
		}
		low, high := someBound(r), someBound(r)
		if low.compare(&high) > 0 {
			low, high = high, low
		}
		s := span{&low, &high}
		i := slices.IndexFunc(want, func(k kept) bool { return k.span.low.compare(&low) == 0 && k.span.high.compare(&high) == 0 })
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

func TestGaps(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 5000 {
		var taken []span
		for range 1 + r.IntN(4) {
			low, high := someBound(r), someBound(r)
			low.side, low.infinite, high.side, high.infinite = 0, 0, 0, 0
			if low.compare(&high) > 0 {
				low, high = high, low
			}
			taken = append(taken, span{&low, &high})
		}
		number := someBound(r)
		number.side, number.infinite = 0, 0
		in := func(all []span) (n int) {
			for _, s := range all {
				if s.low.compare(&number) <= 0 && number.compare(s.high) <= 0 {
					n++
				}
			}
			return n
		}
		if inside, outside := in(taken) > 0, in(gaps(slices.Clone(taken))); inside == (outside == 1) || outside > 1 {
			t.Fatalf("%+v is inside: %v, and in %d gaps", number, inside, outside)
		}
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
