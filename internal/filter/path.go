package filter

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/carillon-events/carillon/event"
)

// The keys of all conditions of an index form a tree of member names. One pass
// over an event goes down where the tree does and passes over the rest; what it
// finds stands in slots, one for each key.

// Slots that every index has: what includedEventTypes and the subject tests look
// at.
const (
	typeSlot uint32 = iota
	subjectSlot
	firstKeySlot
)

// paths is the tree of keys. The zero paths is empty.
type paths struct {
	keys    table[usedKey] // by path, its first name as "data" however that is spelled
	root    *branch        // the names that keys begin with
	data    *branch        // data among them
	texts   []textKey      // keys that may stand for an attribute that an event holds as text
	others  int            // keys that do not begin with data
	strange int            // those of them that are none of texts
	slots   numbering      // of keys, counted behind those that every index has
}

// usedKey is a key and the number of conditions that name it.
type usedKey struct {
	owner *edit
	users int
	slot  uint32
}

// textKey is a key of one name that an attribute may answer.
type textKey struct {
	slot uint32
	key  *key
}

// branch is one place in the tree.
type branch struct {
	owner   *edit
	slot    uint32        // what the walk finds here
	wanted  bool          // a key ends here
	single  bool          // that key is one name
	context bool          // that name is a context attribute of CloudEvents
	names   table[family] // members below, by folded name
	marks   nameMarks     // of their names
}

// family is the spellings of a name in the keys: equal ignoring case.
type family struct {
	owner     *edit
	spellings []spelling
}

type spelling struct {
	name   []byte
	branch *branch
}

// nameMarks tells most names that no key spells by their length, their first and
// their last byte, folded.
type nameMarks [4]uint64

func nameMark(first, last byte, length int) (word, bit uint8) {
	mark := first*5 + last*19 + byte(length)*67
	return mark >> 6, mark & 63
}

func (m *nameMarks) set(folded []byte) {
	if n := len(folded); n > 0 {
		word, bit := nameMark(folded[0], folded[n-1], n)
		m[word] |= 1 << bit
	}
}

// mayBe reports whether a key may spell the name of a member; name holds only
// ASCII and no escapes.
func (m *nameMarks) mayBe(name []byte) bool {
	n := len(name)
	if n == 0 {
		return true
	}
	word, bit := nameMark(foldByte(name[0]), foldByte(name[n-1]), n)
	return m[word]>>bit&1 != 0
}

// canonical is the text that tells keys apart. However its first name is spelled,
// a key that begins with data means the event's data.
func (k *key) canonical(path string) []byte {
	if !k.ofData {
		return []byte(path)
	}
	return append([]byte(dataName), path[len(dataName):]...)
}

// use returns the slot of a key, one more condition naming it.
func (p *paths) use(e *edit, path string, k *key) (slot uint32) {
	text := k.canonical(path)
	p.keys.update(e, hashOf(text), text, func(u *usedKey) *usedKey {
		if u == nil {
			u = &usedKey{owner: e}
			p.root = p.grow(e, p.root, k, k.segments, &u.slot)
			p.count(k, u.slot, 1)
		}
		u = u.own(e)
		u.users++
		slot = u.slot
		return u
	})
	return slot
}

// leave takes one condition's use of a key back.
func (p *paths) leave(e *edit, path string, k *key) {
	text := k.canonical(path)
	p.keys.update(e, hashOf(text), text, func(u *usedKey) *usedKey {
		if u = u.own(e); u.users > 1 {
			u.users--
			return u
		}
		p.root = p.prune(e, p.root, k.segments)
		p.count(k, u.slot, -1)
		return nil
	})
}

// count notes that a key has come or gone.
func (p *paths) count(k *key, slot uint32, n int) {
	if k.ofData {
		p.data = nil
		if f := p.root.family(dataFolded); f != nil {
			p.data = f.spellings[0].branch
		}
		return
	}
	p.others += n
	switch {
	case k.alias == noAttribute:
		p.strange += n
	case n > 0:
		p.texts = append(slices.Clip(p.texts), textKey{slot: slot, key: k})
	default:
		p.texts = slices.DeleteFunc(slices.Clone(p.texts), func(t textKey) bool { return t.slot == slot })
	}
}

func (u *usedKey) own(e *edit) *usedKey {
	if u.owner == e {
		return u
	}
	return &usedKey{owner: e, users: u.users, slot: u.slot}
}

func (b *branch) own(e *edit) *branch {
	if b.owner == e {
		return b
	}
	copied := *b
	copied.owner = e
	return &copied
}

// grow returns the tree with a key that ends at path, and tells its slot.
func (p *paths) grow(e *edit, b *branch, k *key, path []segment, slot *uint32) *branch {
	if b == nil {
		b = &branch{owner: e, slot: firstKeySlot + p.slots.take()}
	}
	b = b.own(e)
	if len(path) == 0 {
		b.wanted, b.single, b.context = true, len(k.segments) == 1, k.context
		*slot = b.slot
		return b
	}
	s := &path[0]
	b.marks.set(s.folded)
	b.names.update(e, hashOf(s.folded), s.folded, func(f *family) *family {
		f = f.own(e)
		i := f.find(s.name)
		if i < 0 {
			i = len(f.spellings)
			f.spellings = append(f.spellings, spelling{name: s.name})
		}
		f.spellings[i].branch = p.grow(e, f.spellings[i].branch, k, path[1:], slot)
		return f
	})
	return b
}

// prune returns the tree without the key that ends at path, nil if none is left.
func (p *paths) prune(e *edit, b *branch, path []segment) *branch {
	b = b.own(e)
	if len(path) == 0 {
		b.wanted = false
	} else {
		b.names.update(e, hashOf(path[0].folded), path[0].folded, func(f *family) *family {
			f = f.own(e)
			i := f.find(path[0].name)
			if f.spellings[i].branch = p.prune(e, f.spellings[i].branch, path[1:]); f.spellings[i].branch == nil {
				f.spellings = slices.Delete(f.spellings, i, i+1)
			}
			if len(f.spellings) == 0 {
				return nil
			}
			return f
		})
	}
	if b.wanted || b.names.n > 0 {
		return b
	}
	p.slots.giveBack(b.slot - firstKeySlot)
	return nil
}

// family returns the members below b of a folded name.
func (b *branch) family(folded []byte) *family {
	if b == nil {
		return nil
	}
	return b.names.get(hashOf(folded), folded)
}

func (f *family) own(e *edit) *family {
	switch {
	case f == nil:
		return &family{owner: e}
	case f.owner == e:
		return f
	default:
		return &family{owner: e, spellings: slices.Clone(f.spellings)}
	}
}

func (f *family) find(name []byte) int {
	return slices.IndexFunc(f.spellings, func(m spelling) bool { return bytes.Equal(m.name, name) })
}

// layer is what walks over one event found, by slot.
type layer struct {
	stamp   uint32 // of the present event
	seen    []seen
	slots   []uint32 // of wanted values found, each once; some may be gone again
	forgot  bool     // something found is gone again
	closed  *branch  // where walks do not go
	context bool     // the event is a CloudEvent and walks begin at its top
}

// seen is a value as conditions look at it.
type seen struct {
	value
	stamp   uint32 // valid if equal to the layer's
	single  bool   // the key is one name
	exact   bool   // the last name on the way was spelled as in the key
	judged  bool   // isText and folded are made
	isText  bool   // string operators see a text
	hasHash bool
	hash    uint64 // of folded
	folded  []byte // that text, folded
	turned  []byte // and backwards, once made
}

// missingValue is what a key finds that finds nothing.
var missingValue seen

// begin forgets what was found in the last event.
func (l *layer) begin(slots uint32) {
	if l.stamp++; l.stamp == 0 {
		clear(l.seen)
		l.stamp = 1
	}
	if n := int(slots); n > len(l.seen) {
		l.seen = append(l.seen, make([]seen, n-len(l.seen))...)
	}
	l.slots, l.forgot = l.slots[:0], false
}

// at returns what a slot holds.
func (l *layer) at(slot uint32) *seen {
	if v := &l.seen[slot]; v.stamp == l.stamp {
		return v
	}
	return &missingValue
}

func (l *layer) set(slot uint32, v seen) {
	if l.seen[slot].stamp != l.stamp && !(l.forgot && slices.Contains(l.slots, slot)) {
		l.slots = append(l.slots, slot)
	}
	v.stamp = l.stamp
	l.seen[slot] = v
}

// walk looks at a JSON value for the keys of a tree.
func (l *layer) walk(raw []byte, b *branch) {
	if len(raw) > 0 && b != nil {
		l.visit(raw, event.Skim(raw).Space(0), b)
	}
}

// visit takes the value at text[i] as what stands at b, and returns the first
// place behind it.
func (l *layer) visit(text []byte, i int, b *branch) int {
	var end int
	kind := event.KindOf(text[i:])
	if kind == event.Object && b.names.n > 0 {
		end = l.object(text, i, b)
	} else {
		end = event.Skim(text).Value(i)
	}
	if b.wanted {
		v := value{kind: kind, raw: text[i:end], attribute: b.context && l.context}
		if kind == event.String {
			v.raw = text[i+1 : end-1]
			v.escaped = bytes.IndexByte(v.raw, '\\') >= 0
		}
		l.set(b.slot, seen{value: v, single: b.single})
	}
	return end
}

func (l *layer) object(text []byte, i int, b *branch) int {
	t := event.Skim(text)
	if i = t.Space(i + 1); t[i] == '}' {
		return i + 1
	}
	for {
		end, value := t.Name(i)
		behind := l.member(text, text[i+1:end], value, b)
		if i = t.Space(behind); t[i] == '}' {
			return i + 1
		}
		i = t.Space(i + 1)
	}
}

// member takes a member of the object at b: its name as written, and where its
// value begins.
func (l *layer) member(text, name []byte, i int, b *branch) int {
	if f := b.named(name); f != nil {
		var buf [128]byte
		if bytes.IndexByte(name, '\\') >= 0 {
			name = event.AppendUnquoted(buf[:0], name)
		}
		end := 0
		for m := range f.spellings {
			end = max(end, l.relative(text, name, i, &f.spellings[m]))
		}
		if end > 0 {
			return end
		}
	}
	return event.Skim(text).Value(i)
}

// named returns the keys' spellings of the name of a member, as written.
func (b *branch) named(name []byte) *family {
	var buf, unquoted [128]byte
	var folded []byte
	switch {
	case !isPlain(name):
		folded = appendFolded(buf[:0], event.AppendUnquoted(unquoted[:0], name))
	case !b.marks.mayBe(name):
		return nil
	default:
		folded = appendFolded(buf[:0], name)
	}
	return b.names.get(hashOf(folded), folded)
}

// isPlain reports whether a name as written holds only ASCII and no escapes.
func isPlain(name []byte) bool {
	for ; len(name) >= 8; name = name[8:] {
		w := binary.LittleEndian.Uint64(name)
		slash := w ^ '\\'*everyByte
		if (w|(slash-everyByte)&^slash)&highBits != 0 {
			return false
		}
	}
	for _, c := range name {
		if c >= utf8.RuneSelf || c == '\\' {
			return false
		}
	}
	return true
}

// relative takes a member for one of the keys that its name may mean: the first
// one spelled like the key counts, else the first one at all. It returns 0 if this
// one does not count.
func (l *layer) relative(text, name []byte, i int, m *spelling) int {
	if m.branch == l.closed {
		return 0
	}
	exact := bytes.Equal(name, m.name)
	mark := &l.seen[m.branch.slot]
	if mark.stamp == l.stamp {
		if mark.exact || !exact {
			return 0
		}
		l.forget(m.branch)
	}
	end := l.visit(text, i, m.branch)
	mark.stamp, mark.exact = l.stamp, exact
	return end
}

// forget takes back what was found at b and below.
func (l *layer) forget(b *branch) {
	l.forgot = true
	l.seen[b.slot] = seen{}
	b.names.root.each(func(f *family) {
		for i := range f.spellings {
			l.forget(f.spellings[i].branch)
		}
	})
}

// resolve finds what every key of the tree finds in the event: what [key.find]
// says key by key, in one pass.
func (s *Scratch) resolve(p *paths, e *event.Event) {
	if e.Schema == event.CustomEventSchema {
		s.resolveCustom(p, e)
		return
	}
	l := &s.found
	cloud := e.Schema == event.CloudEventSchemaV1_0
	if e.Data != nil {
		l.walk(e.Data, p.data)
	}
	if e.Data == nil || p.strange > 0 || cloud && p.others > 0 {
		l.context = cloud
		if l.closed = nil; e.Data != nil {
			l.closed = p.data
		}
		l.walk(e.Raw, p.root)
		l.context, l.closed = false, nil
	}
	for i := range p.texts {
		t := &p.texts[i]
		text := t.key.own(e)
		if text == nil && l.at(t.slot).kind <= event.Null {
			text = t.key.alias.of(e)
		}
		if text != nil {
			l.set(t.slot, seen{value: textValue(text), single: true})
		}
	}
}

// resolveCustom resolves the keys of an event of custom input: in its envelope,
// and where that has nothing, in the object that was published.
func (s *Scratch) resolveCustom(p *paths, e *event.Event) {
	l, envelope := &s.found, &s.envelope
	envelope.begin(firstKeySlot + p.slots.next)
	envelope.walk(e.Data, p.data)
	if e.Data == nil || p.strange > 0 {
		if envelope.closed = nil; e.Data != nil {
			envelope.closed = p.data
		}
		envelope.walk(e.Raw, p.root)
		envelope.closed = nil
	}
	l.walk(e.Data, p.root)
	for _, slot := range envelope.slots {
		v := envelope.at(slot)
		if v.kind > event.Null || v.kind == event.Null && !v.single || l.at(slot).kind == event.None {
			l.set(slot, *v)
		}
	}
	for i := range p.texts {
		t := &p.texts[i]
		text := t.key.own(e)
		if text == nil && envelope.at(t.slot).kind <= event.Null {
			text = t.key.alias.of(e)
		}
		if text != nil {
			l.set(t.slot, seen{value: textValue(text), single: true})
		}
	}
}
