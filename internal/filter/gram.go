package filter

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
)

// grams finds the patterns that a text contains. Each pattern is filed under one
// of the grams in it, pieces of maxGram bytes (shorter ones only for patterns that
// are shorter): the one that files the fewest others, so that patterns which begin
// alike do not end up together. A text is looked at once, gram by gram; a bitmap
// tells nearly always that no pattern is filed under the gram at hand. Versions
// share what a change leaves alone.
type grams struct {
	lists   table[gramList]  // by the number of the gram and its length
	lengths [maxGram + 1]int // patterns by length of their gram
	owner   *edit            // of bitmap
	bitmap  []uint64         // a bit by hash for each gram with patterns, and for some that had
	added   int              // grams added since the bitmap was made
}

const maxGram = 4

// gramList holds the patterns filed under one gram.
type gramList struct {
	owner    *edit
	patterns []pattern
}

type pattern struct {
	text []byte // folded, not empty
	here *node
}

func (l *gramList) find(text []byte) int {
	if l == nil {
		return -1
	}
	return slices.IndexFunc(l.patterns, func(p pattern) bool { return bytes.Equal(p.text, text) })
}

// piecesOf yields the grams that a pattern may be filed under.
func piecesOf(text []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		n := min(len(text), maxGram)
		for i := 0; i+n <= len(text); i++ {
			if !yield(text[i : i+n : i+n]) {
				return
			}
		}
	}
}

// find returns the node of a pattern, nil if there is none.
func (g *grams) find(text []byte) *node {
	for gram := range piecesOf(text) {
		l := g.lists.get(gramKey(gram), nil)
		if i := l.find(text); i >= 0 {
			return l.patterns[i].here
		}
	}
	return nil
}

// update gives a pattern the node that change makes of its present one, as
// [intervals.update] does.
func (g *grams) update(e *edit, text []byte, change func(*node) *node) {
	var best []byte
	fewest := 0
	for gram := range piecesOf(text) {
		l := g.lists.get(gramKey(gram), nil)
		if l.find(text) >= 0 {
			best = gram
			break
		}
		n := 0
		if l != nil {
			n = len(l.patterns)
		}
		if best == nil || n < fewest {
			best, fewest = gram, n
		}
	}
	g.lists.update(e, gramKey(best), nil, func(l *gramList) *gramList {
		i := l.find(text)
		if i < 0 {
			here := change(nil)
			if l == nil {
				g.mark(e, best)
			}
			l = l.own(e)
			l.patterns = append(l.patterns, pattern{text: text, here: here})
			g.lengths[len(best)]++
			return l
		}
		here := change(l.patterns[i].here)
		if here == l.patterns[i].here {
			return l
		}
		l = l.own(e)
		if here != nil {
			l.patterns[i].here = here
			return l
		}
		g.lengths[len(best)]--
		if l.patterns = slices.Delete(l.patterns, i, i+1); len(l.patterns) == 0 {
			return nil
		}
		return l
	})
}

func (l *gramList) own(e *edit) *gramList {
	switch {
	case l == nil:
		return &gramList{owner: e}
	case l.owner == e:
		return l
	default:
		return &gramList{owner: e, patterns: slices.Clone(l.patterns)}
	}
}

const (
	smallestBitmap = 16      // words
	largestBitmap  = 1 << 12 // words: 32 KiB
	bitsPerGram    = 16      // so that one gram in 16 is looked up in vain, while the bitmap may grow
)

// mark notes that patterns are filed under a gram.
func (g *grams) mark(e *edit, gram []byte) {
	size := len(g.bitmap)
	if g.added++; size == 0 || g.added*bitsPerGram > size*64 && (size < largestBitmap || g.added > 2*g.lists.n) {
		// Made anew, it also forgets grams that have no patterns any more.
		want := (g.lists.n + 1) * bitsPerGram * 2 / 64
		size = min(max(1<<bits.Len(uint(want)), smallestBitmap), largestBitmap)
		g.owner, g.bitmap, g.added = e, make([]uint64, size), g.lists.n+1
		g.lists.root.each(func(l *gramList) {
			for _, p := range l.patterns[:1] {
				for piece := range piecesOf(p.text) { // any of them may be the one
					if g.lists.get(gramKey(piece), nil) == l {
						g.set(piece)
					}
				}
			}
		})
	}
	if g.owner != e {
		g.owner, g.bitmap = e, slices.Clone(g.bitmap)
	}
	g.set(gram)
}

func (g *grams) set(gram []byte) {
	h := hashGram(gramOf(gram), len(g.bitmap))
	g.bitmap[h>>6] |= 1 << (h & 63)
}

// gramOf is a gram of any length as a number; grams of different lengths may share
// one.
func gramOf(gram []byte) uint32 {
	var v uint32
	for i := len(gram) - 1; i >= 0; i-- {
		v = v<<8 | uint32(gram[i])
	}
	return v
}

// gramKey is a gram and its length in one number.
func gramKey(gram []byte) uint64 { return uint64(len(gram))<<32 | uint64(gramOf(gram)) }

// hashGram returns the bit of a gram in a bitmap of so many words.
func hashGram(gram uint32, words int) uint32 {
	return gram * 0x9e3779b1 >> (32 - bits.Len32(uint32(words)*64-1))
}

// gramsSeen remembers grams that were looked up already. What it forgets is only
// looked up again.
type gramsSeen struct {
	stamp uint64 // of the last look over a text
	slots [256]struct {
		stamp uint64
		gram  uint32
	}
}

// first reports whether the gram is new to the look over a text.
func (s *gramsSeen) first(stamp uint64, gram uint32) bool {
	slot := &s.slots[gram*0x9e3779b1>>24]
	if slot.stamp == stamp && slot.gram == gram {
		return false
	}
	slot.stamp, slot.gram = stamp, gram
	return true
}

// contained asks the nodes of all patterns that the folded text contains.
func (r *run) contained(g *grams, text []byte) {
	for n := 1; n <= maxGram; n++ {
		if g.lengths[n] == 0 {
			continue
		}
		r.s.grams.stamp++
		stamp := r.s.grams.stamp
		for i := 0; i+n <= len(text); i++ {
			var gram uint32
			if n == maxGram {
				gram = binary.LittleEndian.Uint32(text[i:])
			} else {
				gram = gramOf(text[i : i+n])
			}
			h := hashGram(gram, len(g.bitmap))
			if g.bitmap[h>>6]>>(h&63)&1 == 0 || !r.s.grams.first(stamp, gram) {
				continue
			}
			if l := g.lists.get(uint64(n)<<32|uint64(gram), nil); l != nil {
				for j := range l.patterns {
					p := &l.patterns[j]
					// Of all places of the gram this is the first: no match begins before it
					// by more than the gram's place in the pattern.
					if bytes.Contains(text[max(0, i-len(p.text)):], p.text) {
						r.once(p.here)
					}
				}
			}
		}
	}
}
