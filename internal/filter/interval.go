package filter

import "math/rand/v2"

// bound is one end of an interval of numbers, or a number itself.
type bound struct {
	infinite int8   // -1 below and 1 above every number
	side     int8   // -1 just below the number, 1 just above it, 0 at it: open ends and closed ones
	head     uint64 // the first headDigits digits, filled up with zeros
	decimal
}

// headDigits is how many digits decide a comparison before the text has to be
// looked at.
const headDigits = 18

func makeBound(d decimal) bound {
	b := bound{decimal: d}
	n := 0
	for _, c := range d.digits {
		if c == '.' {
			continue
		}
		if n == headDigits {
			break
		}
		b.head = b.head*10 + uint64(c-'0')
		n++
	}
	for ; n < headDigits; n++ {
		b.head *= 10
	}
	return b
}

// compare orders bounds on the number line.
func (b *bound) compare(o *bound) int {
	switch {
	case b.infinite != o.infinite:
		return int(b.infinite) - int(o.infinite)
	case b.infinite != 0:
		return 0
	case b.sign != o.sign:
		return int(b.sign) - int(o.sign)
	}
	if b.sign != 0 {
		c := 0
		switch {
		case b.exponent < o.exponent:
			c = -1
		case b.exponent > o.exponent:
			c = 1
		case b.head < o.head:
			c = -1
		case b.head > o.head:
			c = 1
		case len(b.digits) > headDigits || len(o.digits) > headDigits:
			c = compareDigits(b.digits, o.digits)
		}
		if c != 0 {
			return c * int(b.sign)
		}
	}
	return int(b.side) - int(o.side)
}

// span is an interval: everything from low to high.
type span struct{ low, high *bound }

// intervals finds the intervals that hold a number in a time that grows with their
// number, not with the number of the others. It is a treap by low end, then high
// end, in which each node knows the highest end below it; versions share nodes as
// those of [trie] do.
type intervals struct{ root *interval }

type interval struct {
	owner       *edit
	span               // the nodes of all versions share the bounds
	top         *bound // the highest high end here and below
	priority    uint32 // above those of the children
	left, right *interval
	here        *node
}

// find returns the node of an interval, nil if there is none.
func (t *intervals) find(s span) *node {
	for n := t.root; n != nil; {
		c := n.order(s)
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

func (n *interval) order(s span) int {
	if c := n.low.compare(s.low); c != 0 {
		return c
	}
	return n.high.compare(s.high)
}

func (n *interval) update(e *edit, s span, change func(*node) *node) *interval {
	if n == nil {
		return &interval{owner: e, span: s, top: s.high, priority: rand.Uint32(), here: change(nil)}
	}
	switch c := n.order(s); {
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
	if n.left != nil && n.left.top.compare(n.top) > 0 {
		n.top = n.left.top
	}
	if n.right != nil && n.right.top.compare(n.top) > 0 {
		n.top = n.right.top
	}
}
