package broker

import (
	"cmp"
	"slices"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
)

// matching names the event subscriptions that want an event, as of a place in the
// log. Each topic has one index, an immutable snapshot; filters that begin at a
// later place wait in boundaries until the walk gets there. So an event meets the
// filter that was in force at its position, whether it is matched live, by the
// elevator, or again after a crash. It has one owner at a time and no lock.
type matching struct {
	indexes    map[uint64]*filter.Index // by topic uid
	boundaries []boundary               // by place
	scratch    filter.Scratch           // reused
	event      event.Event              // reused
}

// boundary is a filter that begins to apply at a log sequence.
type boundary struct {
	from       uint64
	topic, uid uint64
	matcher    *filter.Matcher
}

// newMatching makes the matching of some event subscriptions as of log sequence
// next.
func newMatching(subs []*subscription, next uint64) *matching {
	m := &matching{indexes: map[uint64]*filter.Index{}}
	entries := map[uint64][]filter.Entry{}
	for _, s := range subs {
		generations := s.filters()
		if g := generationAt(generations, next); g != nil {
			entries[s.topic] = append(entries[s.topic], filter.Entry{ID: s.uid, Matcher: g.matcher})
		}
		for _, g := range generations {
			if g.from > next {
				m.boundaries = append(m.boundaries, boundary{from: g.from, topic: s.topic, uid: s.uid, matcher: g.matcher})
			}
		}
	}
	for topic, list := range entries {
		m.indexes[topic] = filter.NewIndex(list)
	}
	slices.SortStableFunc(m.boundaries, func(a, b boundary) int { return cmp.Compare(a.from, b.from) })
	return m
}

// advance puts filters in force that begin at or below seq.
func (m *matching) advance(seq uint64) {
	for len(m.boundaries) > 0 && m.boundaries[0].from <= seq {
		b := m.boundaries[0]
		m.boundaries = m.boundaries[1:]
		m.set(b.topic, b.uid, b.matcher)
	}
}

// set puts an event subscription's filter in force, in place of the one before.
func (m *matching) set(topic, uid uint64, matcher *filter.Matcher) {
	x := m.indexes[topic]
	if x == nil {
		x = filter.NewIndex(nil)
	}
	m.indexes[topic] = x.Without(uid).With(filter.Entry{ID: uid, Matcher: matcher})
}

// drop takes an event subscription out, boundaries included.
func (m *matching) drop(topic, uid uint64) {
	if x := m.indexes[topic]; x != nil {
		if x = x.Without(uid); x.Len() > 0 {
			m.indexes[topic] = x
		} else {
			delete(m.indexes, topic)
		}
	}
	m.boundaries = slices.DeleteFunc(m.boundaries, func(b boundary) bool { return b.uid == uid })
}

// match returns the uids that want a record, valid until the next call. An error
// means that the stored event does not parse.
func (m *matching) match(r *engine.Record) ([]uint64, error) {
	x := m.indexes[r.Topic]
	if x == nil {
		return nil, nil
	}
	if err := m.event.Parse(r.Data, event.Schema(r.Schema)); err != nil {
		return nil, err
	}
	return x.Match(&m.event, &m.scratch), nil
}
