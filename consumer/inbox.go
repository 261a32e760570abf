package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Inbox remembers which events were handled, so that none is handled twice, and how far
// the handler has come with each subject, so that no older event undoes a later one.
//
// A Handler calls Begin before it handles an event and, if the verdict was Unseen or Older,
// End once afterwards. Within one Handler no two events of one subject, and no two
// deliveries of one event, are between Begin and End at once; an inbox that several
// processes share keeps them apart by answering Claimed. What one Handler has stored with
// End, each later Begin sees.
//
// An event is remembered after it was handled. A process that dies in between has not
// remembered it, and the event is handled again: at least once, never less.
//
// An inbox may have a method Attach() error. New calls it, and fails if it does: those of this
// module say ErrAttached the second time.
type Inbox interface {
	// Begin says what is known of an event. Where it returns an error the event is not
	// handled, and the sender asked to come again.
	Begin(ctx context.Context, e Entry) (Verdict, error)
	// End ends what Begin began: the event was handled, or it was not and may come again.
	End(ctx context.Context, e Entry, handled bool) error
}

// ErrAttached is what the method Attach of an inbox returns when it has a Handler already: two
// would take each other's events, and drop them as handled.
var ErrAttached = errors.New("the inbox is that of another Handler: give each its own")

// Entry is what an inbox needs to know of an event.
type Entry struct {
	Source    string
	ID        string
	Subject   string
	Sequencer string // "" if the event says nothing of its order
	ETag      string // of the object after the change, "" if the event does not say
}

// OlderThan reports whether e tells an older state of its object than the event did that
// had the sequencer and the etag, both of the latest that was handled. One change may raise
// several events, as the end of a run raises RunCompleted and RunStatusChanged: they have
// one etag, and none is older than the others.
func (e *Entry) OlderThan(sequencer, etag string) bool {
	return e.Sequencer != "" && e.Sequencer <= sequencer && (e.ETag == "" || e.ETag != etag)
}

// Key is a digest by which an inbox may keep events and objects.
type Key [16]byte

// EventKey is the key of the event: of its source and id.
func (e *Entry) EventKey() Key { return digest('e', e.Source, e.ID) }

// ObjectKey is the key of the object that the sequencer orders the events of: of source
// and subject.
func (e *Entry) ObjectKey() Key { return digest('o', e.Source, e.Subject) }

// digest has no collisions that anyone has to fear: it is half of a SHA-256.
func digest(kind byte, source, name string) Key {
	var room [256]byte
	b := append(room[:0], kind)
	b = binary.AppendUvarint(b, uint64(len(source))) // no text moves from one to the other
	b = append(b, source...)
	b = append(b, name...)
	sum := sha256.Sum256(b)
	return Key(sum[:len(Key{})])
}

// Verdict is what an inbox knows of an event.
type Verdict uint8

// The verdicts.
const (
	Unseen  Verdict = iota // to be handled
	Older                  // not handled itself, but one that tells a later state of its subject was
	Seen                   // handled before
	Claimed                // being handled by another process just now
)

// String returns the verdict in one word.
func (v Verdict) String() string { return [...]string{"unseen", "older", "seen", "claimed"}[v] }

// Memory is an inbox in memory, the one that a Handler has unless it is told otherwise. A
// process that starts again has forgotten all of it.
//
// What is older than the age, or than the number of events, may be forgotten, oldest first:
// a delivery that comes later still is handled once more, and counts as in order. So the age
// should not be less than the time-to-live of event subscriptions, a day unless they say
// otherwise, and whoever replays dead letters of last week needs a longer one.
type Memory struct {
	events int
	age    time.Duration
	now    func() time.Time

	attached atomic.Bool

	mu       sync.Mutex
	new, old generation // each has up to events events; new is the one that grows
}

type generation struct {
	began  time.Time
	events map[Key]struct{}
	marks  map[Key]mark // of each object
}

// mark is the latest event of an object that was handled.
type mark struct{ sequencer, etag string }

// NewMemory returns an inbox that remembers the latest events, and each for age, if both
// are not more than it may hold: at most twice as many, for at most twice as long. An age
// of 0 or less is none: the number alone counts. An event takes up to 160 bytes.
func NewMemory(events int, age time.Duration) *Memory {
	m := &Memory{events: max(events, 1), age: age, now: time.Now}
	m.new = m.generation()
	return m
}

func (m *Memory) generation() generation {
	return generation{m.now(), map[Key]struct{}{}, map[Key]mark{}}
}

// Attach gives the inbox to the one Handler that it is for.
func (m *Memory) Attach() error {
	if m.attached.Swap(true) {
		return ErrAttached
	}
	return nil
}

// Begin judges an event.
func (m *Memory) Begin(_ context.Context, e Entry) (Verdict, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	key := e.EventKey()
	if _, ok := m.new.events[key]; ok {
		return Seen, nil
	}
	if _, ok := m.old.events[key]; ok {
		return Seen, nil
	}
	if latest := m.mark(e.ObjectKey()); e.OlderThan(latest.sequencer, latest.etag) {
		return Older, nil
	}
	return Unseen, nil
}

// End remembers an event that was handled.
func (m *Memory) End(_ context.Context, e Entry, handled bool) error {
	if !handled {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	m.new.events[e.EventKey()] = struct{}{}
	if e.Sequencer != "" {
		key := e.ObjectKey()
		latest := m.mark(key)
		if e.Sequencer > latest.sequencer {
			latest = mark{e.Sequencer, e.ETag}
		}
		m.new.marks[key] = latest
	}
	return nil
}

func (m *Memory) mark(object Key) mark {
	if latest, ok := m.new.marks[object]; ok {
		return latest
	}
	return m.old.marks[object]
}

// turn begins a new generation when the present one is full or old, and forgets the one
// before it.
func (m *Memory) turn() {
	now := m.now()
	if len(m.new.events) < m.events && (m.age <= 0 || now.Sub(m.new.began) < m.age) {
		return
	}
	if m.age > 0 && now.Sub(m.new.began) >= 2*m.age { // nobody came by for so long
		m.new = m.generation()
	}
	m.old = m.new
	m.new = m.generation()
}
