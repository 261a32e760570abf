package filter

import (
	"bytes"
	"math/rand/v2"
	"slices"
)

// span is an interval of byte strings in their order: from low up to high, without
// high. Folded texts have that order, backwards or forwards, and so have numbers as
// [decimal.appendOrdered] writes them. None of them holds a byte 0xFF at its end or
// where another one ends: folding makes UTF-8 of every text.
type span struct{ low, high []byte }

// everything is the interval of all texts, and of all numbers.
var everything = startingWith(nil)

// just is the interval of one text or number.
func just(text []byte) span { return span{text, behind(text, 0)} }

// startingWith is the interval of the texts that begin with one.
func startingWith(text []byte) span { return span{text, behind(text, 0xFF)} }

func behind(text []byte, next byte) []byte { return append(slices.Clip(text), next) }

// compare orders intervals by low end, then high end.
func (s span) compare(o span) int {
	if c := bytes.Compare(s.low, o.low); c != 0 {
		return c
	}
	return bytes.Compare(s.high, o.high)
}

// gaps returns what intervals leave of everything. It sorts them.
func gaps(taken []span) []span {
	slices.SortFunc(taken, span.compare)
	var all []span
	left := everything
	for _, s := range taken {
		if bytes.Compare(left.low, s.low) < 0 {
			all = append(all, span{left.low, s.low})
		}
		if bytes.Compare(left.low, s.high) < 0 {
			left.low = s.high
		}
	}
	if bytes.Compare(left.low, left.high) < 0 {
		all = append(all, left)
	}
	return all
}

// intervals finds the intervals that hold a text or number in a time that grows
// with their number, not with the number of the others. It is a treap by low end,
// then high end, in which each node knows the highest end below it; versions share
// nodes as those of [trie] do.
type intervals struct{ root *interval }

type interval struct {
	owner *edit
	span
	top         []byte // the highest high end here and below
	priority    uint32 // above those of the children
	left, right *interval
	here        *node
}

// find returns the node of an interval, nil if there is none.
func (t *intervals) find(s span) *node {
	for n := t.root; n != nil; {
		c := n.span.compare(s)
		if c == 0 {
			return n.here
		}
		if c > 0 {
			n = n.left
		} else {
			n = n.right
		}
	}
	return nil
}

// update gives an interval the node that change makes of its present one, nil if
// it has none; nil from change takes it out, which only an interval that is there
// can be.
func (t *intervals) update(e *edit, s span, change func(*node) *node) {
	t.root = t.root.update(e, s, change)
}

func (n *interval) update(e *edit, s span, change func(*node) *node) *interval {
	if n == nil {
		return &interval{owner: e, span: s, top: s.high, priority: rand.Uint32(), here: change(nil)}
	}
	switch c := n.span.compare(s); {
	case c == 0:
		here := change(n.here)
		if here == nil {
			return merge(e, n.left, n.right)
		}
		n = n.own(e)
		n.here = here
		return n
	case c > 0:
		left := n.left.update(e, s, change)
		n = n.own(e)
		n.left = left
		if left != nil && left.priority > n.priority {
			n.left = left.right // the new node above, order kept
			n.raise()
			left.right = n
			n = left
		}
	default:
		right := n.right.update(e, s, change)
		n = n.own(e)
		n.right = right
		if right != nil && right.priority > n.priority {
			n.right = right.left
			n.raise()
			right.left = n
			n = right
		}
	}
	n.raise()
	return n
}

// merge joins two trees, everything in a before everything in b.
func merge(e *edit, a, b *interval) *interval {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a = a.own(e)
		a.right = merge(e, a.right, b)
		a.raise()
		return a
	default:
		b = b.own(e)
		b.left = merge(e, a, b.left)
		b.raise()
		return b
	}
}

func (n *interval) own(e *edit) *interval {
	if n.owner == e {
		return n
	}
	copied := *n
	copied.owner = e
	return &copied
}

// raise takes the highest end from the children.
func (n *interval) raise() {
	n.top = n.high
	if n.left != nil && bytes.Compare(n.left.top, n.top) > 0 {
		n.top = n.left.top
	}
	if n.right != nil && bytes.Compare(n.right.top, n.top) > 0 {
		n.top = n.right.top
	}
}
