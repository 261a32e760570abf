package broker

import (
	"cmp"
	"slices"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// matching names the event subscriptions that want an event, as of a place in the
// log. Each topic has one index, an immutable snapshot, as have a domain and each of
// its topics that is wanted; filters that begin at a later place wait in boundaries
// until the walk gets there. So an event meets the filter that was in force at its
// position, whether it is matched live, by the elevator, or again after a crash. It has
// one owner at a time and no lock.
type matching struct {
	indexes    map[resource.Stream]*filter.Index
	boundaries []boundary     // by place
	scratch    filter.Scratch // reused
	event      event.Event    // reused
	both       []uint64       // reused: what wants an event of a domain and of one of its topics
}

// boundary is a filter that begins to apply at a log sequence.
type boundary struct {
	from    uint64
	stream  resource.Stream
	uid     uint64
	matcher *filter.Matcher
}

// newMatching makes the matching of some event subscriptions as of log sequence
// next.
func newMatching(subs []*subscription, next uint64) *matching {
	m := &matching{indexes: map[resource.Stream]*filter.Index{}}
	entries := map[resource.Stream][]filter.Entry{}
	for _, s := range subs {
		generations := s.filters()
		if g := generationAt(generations, next); g != nil {
			entries[s.stream] = append(entries[s.stream], filter.Entry{ID: s.uid, Matcher: g.matcher})
		}
		for _, g := range generations {
			if g.from > next {
				m.boundaries = append(m.boundaries, boundary{from: g.from, stream: s.stream, uid: s.uid, matcher: g.matcher})
			}
		}
	}
	for stream, list := range entries {
		m.indexes[stream] = filter.NewIndex(list)
	}
	slices.SortStableFunc(m.boundaries, func(a, b boundary) int { return cmp.Compare(a.from, b.from) })
	return m
}

// advance puts filters in force that begin at or below seq.
func (m *matching) advance(seq uint64) {
	for len(m.boundaries) > 0 && m.boundaries[0].from <= seq {
		b := m.boundaries[0]
		m.boundaries = m.boundaries[1:]
		m.set(b.stream, b.uid, b.matcher)
	}
}

// set puts an event subscription's filter in force, in place of the one before.
func (m *matching) set(stream resource.Stream, uid uint64, matcher *filter.Matcher) {
	x := m.indexes[stream]
	if x == nil {
		x = filter.NewIndex(nil)
	}
	m.indexes[stream] = x.Without(uid).With(filter.Entry{ID: uid, Matcher: matcher})
}

// drop takes an event subscription out, boundaries included.
func (m *matching) drop(stream resource.Stream, uid uint64) {
	if x := m.indexes[stream]; x != nil {
		if x = x.Without(uid); x.Len() > 0 {
			m.indexes[stream] = x
		} else {
			delete(m.indexes, stream)
		}
	}
	m.boundaries = slices.DeleteFunc(m.boundaries, func(b boundary) bool { return b.uid == uid })
}

// match returns the uids that want a record, valid until the next call. The event is read
// only where a filter looks at it; an error means that it does not parse.
func (m *matching) match(r *engine.Record) ([]uint64, error) {
	all := m.indexes[resource.Stream{Topic: resource.UID(r.Topic)}]
	var named *filter.Index
	if r.Key != "" {
		named = m.indexes[resource.Stream{Topic: resource.UID(r.Topic), DomainTopic: r.Key}]
	}
	if all == nil && named == nil {
		return nil, nil
	}
	if all.Looks() || named.Looks() {
		if err := m.event.Parse(r.Data, event.Schema(r.Schema)); err != nil {
			return nil, err
		}
	}
	switch {
	case named == nil:
		return all.Match(&m.event, &m.scratch), nil
	case all == nil:
		return named.Match(&m.event, &m.scratch), nil
	}
	m.both = append(m.both[:0], all.Match(&m.event, &m.scratch)...)
	m.both = append(m.both, named.Match(&m.event, &m.scratch)...)
	return m.both, nil
}
