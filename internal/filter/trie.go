package filter

import "bytes"

// edit is the identity of one change of an index. What carries it was made by that
// change and may be changed in place until the next snapshot is handed out;
// anything else is shared with older snapshots and copied first.
type edit struct{ _ byte }

// trie maps byte strings to values. It is a radix tree that shares what a change
// leaves alone with the version before, so that a change copies one path from the
// root. The zero trie is empty. Keys must not change afterwards: nodes point into
// them.
type trie[V any] struct {
	root *trieNode[V]
	n    int // keys
}

// trieNode stands for the key made of the prefixes on the way to it.
type trieNode[V any] struct {
	owner    *edit
	prefix   []byte
	value    *V     // nil if no key ends here
	edges    []byte // first byte of each child's prefix
	children []*trieNode[V]
}

func (n *trieNode[V]) child(c byte) *trieNode[V] {
	if i := bytes.IndexByte(n.edges, c); i >= 0 {
		return n.children[i]
	}
	return nil
}

// get returns the value of a key, nil if there is none.
func (t *trie[V]) get(key []byte) *V {
	for n := t.root; n != nil; n = n.child(key[0]) {
		if !bytes.HasPrefix(key, n.prefix) {
			return nil
		}
		if key = key[len(n.prefix):]; len(key) == 0 {
			return n.value
		}
	}
	return nil
}

// update gives the key the value that change makes of its present one, nil
// standing for no value on both sides. The value that change gets belongs to older
// snapshots, unless it carries the same edit.
func (t *trie[V]) update(e *edit, key []byte, change func(*V) *V) {
	var delta int
	t.root, delta = t.root.update(e, key, change)
	t.n += delta
}

func (n *trieNode[V]) update(e *edit, key []byte, change func(*V) *V) (_ *trieNode[V], delta int) {
	if n == nil {
		if v := change(nil); v != nil {
			return &trieNode[V]{owner: e, prefix: key, value: v}, 1
		}
		return nil, 0
	}
	same := commonPrefix(key, n.prefix)
	if same < len(n.prefix) {
		v := change(nil)
		if v == nil {
			return n, 0
		}
		below := n.own(e)
		below.prefix = n.prefix[same:]
		at := &trieNode[V]{owner: e, prefix: key[:same]}
		at.add(below)
		if key = key[same:]; len(key) == 0 {
			at.value = v
		} else {
			at.add(&trieNode[V]{owner: e, prefix: key, value: v})
		}
		return at, 1
	}
	if key = key[same:]; len(key) == 0 {
		v := change(n.value)
		switch {
		case v == n.value:
			return n, 0
		case v == nil:
			delta = -1
		case n.value == nil:
			delta = 1
		}
		n = n.own(e)
		n.value = v
		return n.tidy(e), delta
	}
	i := bytes.IndexByte(n.edges, key[0])
	if i < 0 {
		v := change(nil)
		if v == nil {
			return n, 0
		}
		n = n.own(e)
		n.add(&trieNode[V]{owner: e, prefix: key, value: v})
		return n, 1
	}
	child, delta := n.children[i].update(e, key, change)
	if child == n.children[i] {
		return n, delta
	}
	n = n.own(e)
	if child != nil {
		n.children[i] = child
		return n, delta
	}
	last := len(n.edges) - 1
	n.edges[i], n.children[i] = n.edges[last], n.children[last]
	n.children[last] = nil
	n.edges, n.children = n.edges[:last], n.children[:last]
	return n.tidy(e), delta
}

// own returns a node that this edit may change.
func (n *trieNode[V]) own(e *edit) *trieNode[V] {
	if n.owner == e {
		return n
	}
	return &trieNode[V]{
		owner: e, prefix: n.prefix, value: n.value,
		edges: bytes.Clone(n.edges), children: append([]*trieNode[V](nil), n.children...),
	}
}

func (n *trieNode[V]) add(child *trieNode[V]) {
	n.edges = append(n.edges, child.prefix[0])
	n.children = append(n.children, child)
}

// tidy drops a node that nothing needs any more.
func (n *trieNode[V]) tidy(e *edit) *trieNode[V] {
	switch {
	case n.value != nil || len(n.children) > 1:
		return n
	case len(n.children) == 0:
		return nil
	default:
		child := n.children[0].own(e)
		child.prefix = bytes.Join([][]byte{n.prefix, child.prefix}, nil)
		return child
	}
}

// each calls visit with every value.
func (n *trieNode[V]) each(visit func(*V)) {
	if n == nil {
		return
	}
	if n.value != nil {
		visit(n.value)
	}
	for _, child := range n.children {
		child.each(visit)
	}
}

func commonPrefix(a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}
