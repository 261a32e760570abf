package filter

import (
	"cmp"
	"math/bits"
	"slices"
)

// set is a set of entries by their numbers. Numbers are handed out from 0 on, so a
// set is blocks of so many numbers each, of which only those with entries are there;
// a change copies one block and the row of blocks. A nil set is empty.
type set struct {
	owner  *edit // of the row
	blocks []block
}

// block is the entries with numbers from index*blockSize on: what is beyond that in
// order if they are few, in bits if they were many once.
type block struct {
	owner *edit // of few and bits
	index uint32
	few   []uint16
	bits  *blockBits
}

const (
	blockSize = 4096
	maxFew    = 64
)

type blockBits [blockSize / 64]uint64

func (b *blockBits) set(n uint16)   { b[n/64] |= 1 << (n % 64) }
func (b *blockBits) clear(n uint16) { b[n/64] &^= 1 << (n % 64) }

// set sets the bits of the entries.
func (b *block) set(to *blockBits) {
	for _, n := range b.few {
		to.set(n)
	}
	if b.bits != nil {
		for i, word := range b.bits {
			to[i] |= word
		}
	}
}

// with returns the set with an entry, which may be in it.
func (s *set) with(e *edit, number uint32) *set {
	switch {
	case s == nil:
		s = &set{owner: e}
	case s.owner != e:
		s = &set{owner: e, blocks: slices.Clone(s.blocks)}
	}
	i, found := s.find(number)
	if !found {
		s.blocks = slices.Insert(s.blocks, i, block{owner: e, index: number / blockSize})
	}
	b := &s.blocks[i]
	b.own(e)
	n := uint16(number % blockSize)
	if b.bits != nil {
		b.bits.set(n)
		return s
	}
	at, found := slices.BinarySearch(b.few, n)
	if found {
		return s
	}
	if b.few = slices.Insert(b.few, at, n); len(b.few) > maxFew {
		many := new(blockBits)
		b.set(many)
		b.few, b.bits = nil, many
	}
	return s
}

// without returns the set without an entry, which need not be in it.
func (s *set) without(e *edit, number uint32) *set {
	i, found := s.find(number)
	if !found {
		return s
	}
	if s.owner != e {
		s = &set{owner: e, blocks: slices.Clone(s.blocks)}
	}
	b := &s.blocks[i]
	b.own(e)
	n := uint16(number % blockSize)
	if b.bits != nil {
		b.bits.clear(n)
	} else if at, found := slices.BinarySearch(b.few, n); found {
		b.few = slices.Delete(b.few, at, at+1)
	}
	if len(b.few) > 0 || b.bits != nil && *b.bits != (blockBits{}) {
		return s
	}
	if s.blocks = slices.Delete(s.blocks, i, i+1); len(s.blocks) == 0 {
		return nil
	}
	return s
}

// find returns where the block of a number is, or would be.
func (s *set) find(number uint32) (i int, found bool) {
	if s == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(s.blocks, number/blockSize, func(b block, index uint32) int { return cmp.Compare(b.index, index) })
}

func (b *block) own(e *edit) {
	if b.owner == e {
		return
	}
	b.owner, b.few = e, slices.Clone(b.few)
	if b.bits != nil {
		bits := *b.bits
		b.bits = &bits
	}
}

// barred is the members of a node that an event is barred from so far.
type barred struct {
	stamp  uint32 // of the present visit of a node
	blocks []barredBlock
}

type barredBlock struct {
	stamp uint32 // valid if equal to that of barred
	bits  blockBits
}

// begin empties it, for entries with numbers below some.
func (b *barred) begin(numbers uint32) {
	if b.stamp++; b.stamp == 0 {
		clear(b.blocks)
		b.stamp = 1
	}
	if n := int(numbers+blockSize-1) / blockSize; n > len(b.blocks) {
		b.blocks = append(b.blocks, make([]barredBlock, n-len(b.blocks))...)
	}
}

// add bars the entries of a set.
func (b *barred) add(s *set) {
	for i := range s.blocks {
		from := &s.blocks[i]
		to := &b.blocks[from.index]
		if to.stamp != b.stamp {
			to.stamp, to.bits = b.stamp, blockBits{}
		}
		from.set(&to.bits)
	}
}

// remaining yields the entries of a set that are not barred.
func (b *barred) remaining(s *set) func(yield func(number uint32) bool) {
	return func(yield func(uint32) bool) {
		for i := range s.blocks {
			from := &s.blocks[i]
			var left blockBits
			from.set(&left)
			if to := &b.blocks[from.index]; to.stamp == b.stamp {
				for i := range left {
					left[i] &^= to.bits[i]
				}
			}
			for i, word := range left {
				for ; word != 0; word &= word - 1 {
					if !yield(from.index*blockSize + uint32(i*64+bits.TrailingZeros64(word))) {
						return
					}
				}
			}
		}
	}
}

// numbering hands out small numbers, those that were given back first.
type numbering struct {
	next uint32 // none from here on was ever in use
	free *freeNumber
}

type freeNumber struct {
	number uint32
	next   *freeNumber
}

func (n *numbering) take() uint32 {
	if f := n.free; f != nil {
		n.free = f.next
		return f.number
	}
	n.next++
	return n.next - 1
}

func (n *numbering) giveBack(number uint32) { n.free = &freeNumber{number, n.free} }
