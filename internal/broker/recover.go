package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
)

// retrySpread is over how long a start spreads the retries that came due while
// nobody was there.
const retrySpread = 30 * time.Second

// recovered is what the journal says of one event subscription.
type recovered struct {
	open        map[engine.Position]openEntry // of the log
	replays     map[engine.Position]openEntry
	lag         engine.Position
	breaker     breakerEntry
	generations []generationEntry
	statedAt    uint64
}

// recovery reads the journal from the oldest message still needed.
type recovery struct {
	subs    map[uint64]*recovered
	w       uint64
	message uint64 // being read, or the first of its flush
	written uint64 // generation of the owner of the log that wrote the newest message
	entries int
	ahead   map[uint64][]engine.Position // settled already, by uid, though their frames will be matched again

	aheadSince, aheadSeq uint64 // as in journal

	shortened bool     // the log ends before what the journal tells of
	delivered []string // keys of dead letters above the end whose replay had succeeded: they are still to be removed
}

func (r *recovery) of(uid uint64) *recovered {
	s := r.subs[uid]
	if s == nil {
		s = &recovered{open: map[engine.Position]openEntry{}, replays: map[engine.Position]openEntry{}}
		r.subs[uid] = s
	}
	return s
}

func (r *recovery) open(e openEntry) {
	r.entries++
	if e.replay {
		r.of(e.uid).replays[e.pos] = e
	} else {
		r.of(e.uid).open[e.pos] = e
	}
}

func (r *recovery) closed(uid uint64, pos engine.Position, replay bool) {
	r.entries++
	if replay {
		delete(r.of(uid).replays, pos)
		return
	}
	s := r.of(uid)
	delete(s.open, pos)
	if s.meets(pos) {
		r.ahead[uid] = append(r.ahead[uid], pos)
	}
}

// meets reports whether the event subscription lags and has not been read for up to a
// position. What is settled there is met again: it fell behind among what an earlier
// process had handed out.
func (s *recovered) meets(pos engine.Position) bool { return s != nil && s.lag != 0 && pos >= s.lag }

// attempt takes a success: it settles, though the entry that closes the delivery
// may be in the next message, which was never written. Above the watermark the
// success is kept: the frame was not yet handed out whole when the process ended.
func (r *recovery) attempt(e attemptEntry) {
	if e.outcome != Delivered {
		return
	}
	if s := r.subs[e.uid]; s != nil {
		delete(s.open, e.pos)
		if replay, open := s.replays[e.pos]; open { // its dead letter may still be there
			replay.reason = reasonReplayed
			s.replays[e.pos] = replay
		}
	}
	if e.pos.Seq() > r.w {
		r.ahead[e.uid] = append(r.ahead[e.uid], e.pos)
		if r.aheadSeq = max(r.aheadSeq, e.pos.Seq()); r.aheadSince == 0 {
			r.aheadSince = r.message
		}
	}
}

func (r *recovery) lag(uid uint64, from engine.Position) {
	r.of(uid).lag = from
	r.passed(uid)
}

// passed forgets what of ahead will not be matched again.
func (r *recovery) passed(uid uint64) {
	sub := r.subs[uid]
	list := slices.DeleteFunc(r.ahead[uid], func(p engine.Position) bool { return p.Seq() <= r.w && !sub.meets(p) })
	if len(list) == 0 {
		delete(r.ahead, uid)
		return
	}
	r.ahead[uid] = list
}

func (r *recovery) breaker(e breakerEntry) { r.of(e.uid).breaker = e }

func (r *recovery) generation(e generationEntry) {
	e.filter = slices.Clone(e.filter)
	s := r.of(e.uid)
	s.generations = append(slices.DeleteFunc(s.generations, func(g generationEntry) bool { return g.number == e.number }), e)
}

func (r *recovery) gone(uid uint64) { delete(r.subs, uid) }

func (r *recovery) restate(uid uint64) {
	delete(r.subs, uid)
	r.of(uid).statedAt = r.message
}

// logEnds forgets what an earlier start made the journal forget: see cut.
func (r *recovery) logEnds(last uint64) {
	r.cut(last)
	r.delivered = nil // that start removed them before it said so
}

// flushedMessage is a message of a flush that is stored whole.
type flushedMessage struct {
	engine.JournalEntry
	head journalHeader
}

// flushes yields the messages of whole flushes in order, those of one flush once its
// last was read; of a flush that begins before a message, from that on. Nobody reads
// the journal otherwise: a flush that a crash cut off between two messages did not
// happen, and is passed over. A message that is damaged yields an error that wraps
// engine.ErrCorrupt and the next one follows; it costs itself alone, so what stands
// before it is told. Any other error ends the sequence.
func flushes(ctx context.Context, j Journal, from uint64) iter.Seq2[flushedMessage, error] {
	return func(yield func(flushedMessage, error) bool) {
		var flush []flushedMessage // as far as it was read
		tell := func() bool {
			for _, m := range flush {
				if !yield(m, nil) {
					return false
				}
			}
			clear(flush)
			flush = flush[:0]
			return true
		}
		for m, err := range j.Read(ctx, from) {
			if err != nil {
				if errors.Is(err, engine.ErrCorrupt) && !tell() ||
					!yield(flushedMessage{}, fmt.Errorf("read the delivery journal: %w", err)) {
					return
				}
				continue
			}
			head, _, err := readHeader(m.Payload)
			if err != nil {
				yield(flushedMessage{}, fmt.Errorf("delivery journal, message %d: %w", m.Seq, err))
				return
			}
			next := flushedMessage{m, head}
			if len(flush) > 0 && flush[0].first() != next.first() {
				clear(flush)
				flush = flush[:0] // cut off
			}
			if flush = append(flush, next); head.left == 0 && !tell() {
				return
			}
		}
	}
}

// first is the first message of m's flush.
func (m *flushedMessage) first() uint64 { return m.Seq - m.head.part }

// lookBack is how many messages before the last one are searched first for the last
// flush, and how many times as many next: take-over records may stand behind it, and the
// beginning of a flush that was cut off.
const lookBack = 16

// recoverJournal reads what a start needs.
func recoverJournal(ctx context.Context, j Journal) (r *recovery, err error) {
	defer func() {
		if errors.Is(err, engine.ErrCorrupt) {
			err = fmt.Errorf("%w. Without it nobody knows which events still have to be delivered: restore the data directory from a backup", err)
		}
	}()

	r = &recovery{subs: map[uint64]*recovered{}, ahead: map[uint64][]engine.Position{}}
	first, last := j.Bounds()
	var head journalHeader
	found := false
	for back := uint64(lookBack); !found; back *= lookBack {
		from := max(first, last-min(last, back))
		for m, err := range flushes(ctx, j, from) {
			if errors.Is(err, engine.ErrCorrupt) {
				continue // it may be history; if not, it is met again below
			}
			if err != nil {
				return nil, err
			}
			head, found = m.head, true
		}
		if from <= first && !found {
			return r, nil // nothing was ever delivered
		}
	}
	for m, err := range flushes(ctx, j, max(head.oldest, first)) {
		if err != nil {
			return nil, err
		}
		r.reach(m.first(), m.head.watermark)
		r.written = m.Generation
		if _, err := readEntries(m.Payload, r); err != nil {
			return nil, fmt.Errorf("delivery journal, message %d: %w", m.Seq, err)
		}
	}
	return r, nil
}

// reach goes on to a message of a flush, which has a first one and a watermark.
func (r *recovery) reach(first, w uint64) {
	r.message, r.w = first, w
	if r.aheadSeq <= w {
		r.aheadSince = 0
	}
	for uid := range r.ahead {
		r.passed(uid)
	}
}

// endOf is where the log ends that the journal tells of: before what owners wrote who have
// said nothing in the journal yet. Their frames, their own records of taking over first of
// all, may have the places of some that are lost.
func (r *recovery) endOf(ctx context.Context, log Log) (uint64, error) {
	first, end := log.Bounds()
	for ; end >= first && end > 0; end-- {
		f, err := log.Frame(ctx, end)
		switch {
		case errors.Is(err, engine.ErrPurged), errors.Is(err, engine.ErrCorrupt):
			return end, nil
		case err != nil:
			return 0, fmt.Errorf("read the end of the event log, frame %d: %w", end, err)
		case f.Generation <= r.written:
			return end, nil
		}
	}
	return end, nil
}

// cut makes the journal forget what lies above the end of the log, and reports
// whether there was anything: after a power cut at durability "process" the log may
// have lost more of its end than the journal, and new frames take those places. The
// first flush says so, too: a later start may still read the messages before it. Open
// replays are forgotten as well: what is told of one would be taken for a delivery of
// the new event at its place. Its dead letter stays.
func (r *recovery) cut(last uint64) (was bool) {
	end := engine.At(last+1, 0)
	above := func(p engine.Position) bool { return p >= end }
	was = r.w > last
	r.w = min(r.w, last)
	for uid, s := range r.subs {
		for _, pos := range slices.Collect(maps.Keys(s.open)) {
			if above(pos) {
				delete(s.open, pos)
				was = true
			}
		}
		for pos, e := range s.replays {
			if above(pos) {
				delete(s.replays, pos)
				was = true
				if e.reason == reasonReplayed && !e.logged {
					r.delivered = append(r.delivered, letterKey(deliveryID(uid, pos)))
				}
			}
		}
		if above(s.lag) {
			was = was || s.lag > end
			s.lag = end
		}
		for i := range s.generations {
			if g := &s.generations[i]; g.from > last+1 {
				g.from, was = last+1, true
			}
		}
	}
	for uid, list := range r.ahead {
		kept := slices.DeleteFunc(list, above)
		was = was || len(kept) < len(list)
		r.ahead[uid] = kept
	}
	if r.aheadSeq = min(r.aheadSeq, last); r.aheadSeq <= r.w {
		r.aheadSince = 0
	}
	return was
}

// adopt gives s the state that the journal has of it, where newest is the filter of its
// record: mostly the journal's, too. It runs before anything else can see s.
func (s *subscription) adopt(r *recovered, newest generation, now time.Time) error {
	slices.SortFunc(r.generations, func(a, b generationEntry) int { return cmp.Compare(a.number, b.number) })
	for _, g := range r.generations {
		matcher := newest.matcher
		if g.number != newest.number || !bytes.Equal(g.filter, newest.raw) {
			var f filter.Filter
			if err := json.Unmarshal(g.filter, &f); err != nil {
				return fmt.Errorf("filter generation %d of event subscription %016x: %w", g.number, s.uid, err)
			}
			matcher = filter.Compile(&f)
		}
		s.addGeneration(generation{number: g.number, from: g.from, matcher: matcher, raw: g.filter})
	}
	s.lag = r.lag
	s.statedAt = r.statedAt
	s.breaker = breaker{failures: r.breaker.failures, rest: time.Duration(r.breaker.rest) * time.Millisecond}
	if s.breaker.rest > 0 {
		s.breaker.until = time.UnixMilli(r.breaker.until)
	}
	entries := make([]openEntry, 0, len(r.open)+len(r.replays))
	for _, e := range r.open {
		entries = append(entries, e)
	}
	for _, e := range r.replays {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b openEntry) int { return cmp.Compare(a.pos, b.pos) })
	cfg := s.cfg.Load()
	if cfg.pull {
		s.breaker = breaker{} // of the destination before
	}
	for _, e := range entries {
		d := &delivery{
			sub: s, pos: e.pos, replay: e.replay, logged: e.logged, published: nanos(e.published), last: nanos(e.last),
			attempts: uint16(e.attempts), outcome: e.outcome, status: uint16(e.status), parked: e.parked, stated: true,
			aborts: uint8(min(e.aborts, maxAborts)), alone: e.aborts > 0,
		}
		s.openN++
		s.b.open.Add(1)
		switch {
		case e.replay:
			s.replays = append(s.replays, d)
		case e.parked != 0:
			s.parked = append(s.parked, d)
			s.b.park.hold(d)
		default:
			s.order = append(s.order, d)
		}
		if !e.replay && (e.pos.Seq() > s.b.startW || r.meets(e.pos)) {
			s.known = append(s.known, e.pos)
		}
		if e.reason != "" {
			d.state, d.reason = burying, codeOf(e.reason)
			s.b.undertaker.take(d, e.reason)
			continue
		}
		if e.due == 0 {
			s.line(d)
			continue
		}
		due := time.UnixMilli(e.due)
		if due.Before(now) && !cfg.pull {
			due = now.Add(rand.N(retrySpread))
		}
		s.delay(d, due, cfg)
	}
	s.known = append(s.known, s.b.recovery.ahead[s.uid]...)
	slices.Sort(s.known)
	return nil
}
