package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
)

// The delivery journal is the history of deliveries: attempts are written there as
// they are made and stay until the journal passes its quota. A message says the
// watermark it was written at, so the place where an event's history begins is
// found by halves; from there messages are read in order, and those that do not
// hold the event subscription's uid are passed over unread. A look at a recent event
// costs a few messages. One whose end is not known, because its history is gone or
// is not written yet, costs the journal from there to its end, at most its quota.
//
// The log may have lost its end in a power cut, and new events got the places of lost
// ones. So what an earlier owner of the log wrote than the one that wrote the event is
// of another event at its place.

// past is what the journal tells of one event for one event subscription.
type past struct {
	unheard
	uid   uint64
	pos   engine.Position
	since uint64 // generation of the owner of the log that wrote the event

	attempts []attemptEntry
	inForce  *generationEntry // the filter at pos, nil when no message that was read states it
	earliest *generationEntry // the first filter of all that were read
	purged   bool             // some of it may be purged
}

// delivered reports whether the last attempt was a success.
func (p *past) delivered() bool {
	return len(p.attempts) > 0 && p.attempts[len(p.attempts)-1].outcome == Delivered
}

// ended reports whether an attempt is there that ended at last, which is known to
// the nanosecond; the journal keeps starts in milliseconds.
func (p *past) ended(last time.Time) bool {
	for _, a := range p.attempts {
		if !a.end().Add(time.Millisecond).Before(last) {
			return true
		}
	}
	return false
}

func (e *attemptEntry) end() time.Time {
	return time.UnixMilli(e.start).Add(time.Duration(e.duration) * time.Microsecond)
}

// readFilters reads which filter was in force at the event's position. It was
// stated between the oldest message that the journal needed shortly before the
// event and the first one whose watermark has passed it.
func (b *Broker) readFilters(ctx context.Context, p *past) error {
	begin, err := b.pastBegins(ctx, p)
	if err != nil {
		return err
	}
	first, _ := b.cfg.Journal.Bounds()
	before := begin - min(begin-first, fewMessages)
	m, err := b.messageFrom(ctx, before)
	if err != nil {
		return err
	}
	defer func() { p.attempts = nil }() // some may be of another event
	return b.readPast(ctx, p.uid, 0, max(first, min(m.head.oldest, before)), p, func(m flushedMessage) bool { return m.head.left == 0 && p.passed(m, p.pos.Seq()) })
}

// passed reports whether a message was written after the event, at a watermark that had
// come so far.
func (p *past) passed(m flushedMessage, watermark uint64) bool {
	return m.Generation >= p.since && m.head.watermark >= watermark
}

// readAttempts reads the attempts, up to a success or to one that ended at last,
// zero if that is not known.
func (b *Broker) readAttempts(ctx context.Context, p *past, last time.Time) error {
	begin, err := b.pastBegins(ctx, p)
	if err != nil {
		return err
	}
	if first, _ := b.cfg.Journal.Bounds(); first > 1 && begin == first {
		m, err := b.messageFrom(ctx, first)
		if err != nil {
			return err
		}
		p.purged = p.passed(m, p.pos.Seq()-1)
	}
	return b.readPast(ctx, p.uid, p.since, begin, p, func(flushedMessage) bool { return p.delivered() || !last.IsZero() && p.ended(last) })
}

// readPast reads messages in order until one of them was enough, and hands h those
// that hold the event subscription's uid and that no owner of the log before since wrote.
func (b *Broker) readPast(ctx context.Context, of, since, from uint64, h entryHandler, enough func(flushedMessage) bool) error {
	var uid [8]byte
	binary.BigEndian.PutUint64(uid[:], of)
	for m, err := range flushes(ctx, b.cfg.Journal, from) {
		if errors.Is(err, engine.ErrCorrupt) {
			continue
		}
		if err != nil {
			return err
		}
		if m.Generation >= since && bytes.Contains(m.Payload, uid[:]) {
			if _, err := readEntries(m.Payload, h); err != nil {
				return fmt.Errorf("delivery journal, message %d: %w", m.Seq, err)
			}
		}
		if enough(m) {
			return nil
		}
	}
	return ctx.Err()
}

// fewMessages is how many messages are sooner read than searched by halves.
const fewMessages = 64

// pastBegins returns a journal message before which nothing is told of an event: at
// the latest the first that was written when the dispatcher had come to its frame.
func (b *Broker) pastBegins(ctx context.Context, p *past) (uint64, error) {
	low, last := b.cfg.Journal.Bounds()
	for high := last + 1; high > low+fewMessages; {
		mid := low + (high-low)/2
		m, err := b.messageFrom(ctx, mid)
		if err != nil {
			return 0, err
		}
		if m.Seq == 0 || p.passed(m, p.pos.Seq()-1) {
			high = mid
		} else {
			low = m.Seq + 1
		}
	}
	return low, nil
}

// messageFrom returns the first readable message from one on, with Seq 0 when there is
// none.
func (b *Broker) messageFrom(ctx context.Context, from uint64) (flushedMessage, error) {
	for m, err := range flushes(ctx, b.cfg.Journal, from) {
		if errors.Is(err, engine.ErrCorrupt) {
			continue
		}
		return m, err
	}
	return flushedMessage{}, ctx.Err()
}

func (p *past) attempt(e attemptEntry) {
	if e.uid == p.uid && e.pos == p.pos {
		p.attempts = append(p.attempts, e)
	}
}

func (p *past) generation(e generationEntry) {
	if e.uid != p.uid {
		return
	}
	e.filter = bytes.Clone(e.filter)
	if p.earliest == nil || e.number < p.earliest.number {
		p.earliest = &e
	}
	if e.from <= p.pos.Seq() && (p.inForce == nil || e.number >= p.inForce.number) {
		p.inForce = &e
	}
}

// unheard takes what else the journal says, which is of no interest to history.
type unheard struct{}

func (unheard) open(openEntry)                       {}
func (unheard) closed(uint64, engine.Position, bool) {}
func (unheard) generation(generationEntry)           {}
func (unheard) lag(uint64, engine.Position)          {}
func (unheard) breaker(breakerEntry)                 {}
func (unheard) gone(uint64)                          {}
func (unheard) restate(uint64)                       {}
func (unheard) logEnds(uint64)                       {}
