package broker

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
)

const (
	flushAfter     = 25 * time.Millisecond
	flushBytes     = 64 << 10
	flushPatience  = 30 * time.Second // of a stop, for a store that does not answer
	minRestatement = 512              // bytes of old state that each flush states anew at least
	openEntryBytes = 48               // estimate, for the restatement budget
)

// journal keeps what differs from the watermark and writes it every 25 ms or
// 64 KiB, and at once when a caller waits for it. One flush is one message, so the
// watermark and the open deliveries it leaves behind are atomic.
//
// There are no snapshots: each flush also states anew the event subscriptions
// stated longest ago, as many bytes as its own news, and names the oldest message
// that is still needed. A start reads from there.
type journal struct {
	b     *Broker
	store Journal

	mu       sync.Mutex
	w        uint64                     // watermark
	dirty    []*delivery                // changed since the last flush, each once
	news     entryWriter                // attempts, breakers and deletions, in order
	moved    map[*subscription]struct{} // lag changed
	restate  map[*subscription]struct{} // to be stated whole in the next flush
	waiters  []chan struct{}
	urgent   bool
	kick     chan struct{} // wakes the flusher; holds one
	rotation *list.List    // of *subscription, the one stated longest ago first; the flusher's
	place    map[*subscription]*list.Element
	last     uint64 // sequence of the last journal message
	flushed  uint64 // watermark it states
	oldest   uint64 // message it names as the oldest still needed
	credit   int    // bytes of restatement the flusher still owes

	aheadSeq   uint64 // newest frame above the watermark of which a success was noted
	aheadSince uint64 // oldest message that may tell of such successes, 0 = none; the flusher's
}

func newJournal(b *Broker, store Journal) *journal {
	_, last := store.Bounds()
	return &journal{
		b: b, store: store, last: last,
		moved: map[*subscription]struct{}{}, restate: map[*subscription]struct{}{},
		kick: make(chan struct{}, 1), rotation: list.New(), place: map[*subscription]*list.Element{},
	}
}

// wakeFlusher tells the flusher that there is something. The caller holds j.mu.
func (j *journal) wakeFlusher() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// dirtied notes that d changed. The caller holds the lock of d's event subscription.
func (j *journal) dirtied(d *delivery) {
	if d.dirty {
		return
	}
	d.dirty = true
	j.mu.Lock()
	j.dirty = append(j.dirty, d)
	j.wakeFlusher()
	j.mu.Unlock()
}

// advance sets the watermark to a frame whose events are all handed out, together
// with the deliveries that this opened, which the journal did not know until now.
func (j *journal) advance(seq uint64, opened []*delivery) {
	j.mu.Lock()
	j.w = seq
	j.dirty = append(j.dirty, opened...)
	j.wakeFlusher()
	j.mu.Unlock()
}

// watermark is the last frame whose events are all handed out.
func (j *journal) watermark() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.w
}

// attempted adds an attempt to the history. The caller holds s.mu.
func (j *journal) attempted(s *subscription, d *delivery, start, end time.Time, r Response) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.Outcome == Delivered && d.pos.Seq() > j.w {
		j.aheadSeq = max(j.aheadSeq, d.pos.Seq())
	}
	j.news.attempt(attemptEntry{
		uid: s.uid, pos: d.pos, number: int(d.attempts), start: start.UnixMilli(), duration: end.Sub(start).Microseconds(),
		outcome: r.Outcome, status: r.Status, detail: r.Detail[:min(len(r.Detail), 200)],
	})
	j.wakeFlusher()
}

// breakerMoved notes the state of s's breaker. The caller holds s.mu.
func (j *journal) breakerMoved(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.news.breaker(s.breakerEntry())
	j.wakeFlusher()
}

// lagged notes that the position from which s must be read changed.
func (j *journal) lagged(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.moved[s] = struct{}{}
	j.wakeFlusher()
}

// changed asks for a whole statement of s: it is new, or has a new generation.
func (j *journal) changed(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.restate[s] = struct{}{}
	j.wakeFlusher()
}

// gone notes that s was deleted.
func (j *journal) gone(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.news.plain(tagGone, s.uid)
	delete(j.moved, s)
	delete(j.restate, s)
	j.wakeFlusher()
}

// sync returns when everything noted before the call is durable.
func (j *journal) sync(ctx context.Context) error {
	done := make(chan struct{})
	j.mu.Lock()
	j.waiters = append(j.waiters, done)
	j.urgent = true
	j.wakeFlusher()
	j.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run flushes until ctx ends, and once more then.
func (j *journal) run(ctx context.Context) error {
	timer := time.NewTimer(flushAfter)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return j.flush(ctx)
		case <-j.kick:
		}
		if !j.due() {
			timer.Reset(flushAfter)
			for waiting := true; waiting; {
				select {
				case <-timer.C:
					waiting = false
				case <-j.kick:
					waiting = !j.due()
				case <-ctx.Done():
					waiting = false
				}
			}
			timer.Stop()
		}
		if err := j.flush(ctx); err != nil {
			return err
		}
	}
}

// due reports whether a flush should not wait any longer.
func (j *journal) due() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.urgent || len(j.news.buf)+len(j.dirty)*openEntryBytes >= flushBytes
}

// flush writes one message, if there is anything to say. Only the flusher calls
// it. What it took must reach the disk whatever becomes of ctx; a store that is
// started anew is waited for.
func (j *journal) flush(ctx context.Context) error {
	j.mu.Lock()
	if j.w == j.flushed && len(j.dirty)+len(j.news.buf)+len(j.moved)+len(j.restate)+len(j.waiters) == 0 {
		j.mu.Unlock()
		return nil
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	w, dirty, news, moved, whole, waiters, ahead := j.w, j.dirty, j.news.buf, j.moved, j.restate, j.waiters, j.aheadSeq
	j.dirty, j.news.buf, j.waiters, j.urgent = nil, nil, nil, false
	j.moved, j.restate = map[*subscription]struct{}{}, map[*subscription]struct{}{}
	j.mu.Unlock()

	var out entryWriter
	out.buf = make([]byte, 0, len(news)+len(dirty)*openEntryBytes+minRestatement)
	for _, d := range dirty {
		d.sub.stateDelivery(&out, d)
	}
	for s := range moved {
		if s.stateLag(&out, w) {
			j.lagged(s) // not final yet: the watermark has not reached the place where it rejoined
		}
	}
	if len(dirty)+len(news)+len(moved)+len(whole) > 0 {
		j.credit += max(len(out.buf)+len(news), minRestatement)
	}
	next := j.last + 1
	for s := range whole {
		j.stateWhole(&out, s, w, next)
	}
	for j.credit > 0 {
		front := j.rotation.Front()
		if front == nil || front.Value.(*subscription).statedAt == next {
			j.credit = 0
			break
		}
		before := len(out.buf)
		j.stateWhole(&out, front.Value.(*subscription), w, next)
		j.credit -= len(out.buf) - before + 16
	}
	oldest := next
	if front := j.rotation.Front(); front != nil {
		oldest = front.Value.(*subscription).statedAt
	}
	if ahead <= w {
		j.aheadSince = 0
	} else if j.aheadSince == 0 {
		j.aheadSince = next
	}
	if j.aheadSince != 0 { // only these messages know what must not be sent again
		oldest = min(oldest, j.aheadSince)
	}
	var head entryWriter
	head.buf = append(make([]byte, 0, 32+len(news)+len(out.buf)), journalVersion)
	head.uvarint(w)
	head.uvarint(oldest)
	payload := append(append(head.buf, news...), out.buf...)
	seq, err := j.store.Append(ctx, payload)
	if err != nil {
		return fmt.Errorf("append to the delivery journal: %w", err)
	}
	if seq != next {
		return fmt.Errorf("the delivery journal gave message %d where %d was due: somebody else writes it", seq, next)
	}
	j.mu.Lock()
	j.last, j.flushed, j.oldest = seq, w, oldest
	j.mu.Unlock()
	for _, done := range waiters {
		close(done)
	}
	return nil
}

// patient returns a context that ends flushPatience after ctx.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	flushing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(flushPatience):
			cancel()
		case <-flushing.Done():
		}
	})
	return flushing, func() {
		stop()
		cancel()
	}
}

// stateWhole writes everything known of s and moves it to the end of the rotation.
func (j *journal) stateWhole(out *entryWriter, s *subscription, w, seq uint64) {
	if e := j.place[s]; e != nil {
		j.rotation.Remove(e)
		delete(j.place, s)
	}
	if s.state(out, w) {
		s.statedAt = seq
		j.place[s] = j.rotation.PushBack(s)
	}
}

// stateDelivery writes what the journal should know of d: that it is open, or that
// it no longer is.
func (s *subscription) stateDelivery(out *entryWriter, d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.dirty = false
	switch {
	case s.deleted:
	case d.state != closed:
		d.stated = true
		out.open(d.entry())
	case d.stated:
		out.closed(s.uid, d.pos, d.replay)
	}
}

// stateLag writes where s must be read from, with every open delivery that the
// journal does not know yet: it must not learn that s is past an event whose
// delivery it never heard of. It returns true when it must be asked again.
func (s *subscription) stateLag(out *entryWriter, w uint64) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleted {
		return false
	}
	for i := len(s.order) - 1; i >= 0; i-- {
		d := s.order[i]
		if d.state == closed {
			continue
		}
		if d.stated {
			break // they are stated in order of position
		}
		d.stated = true
		out.open(d.entry())
	}
	lag, again := s.lagAt(w)
	out.lag(s.uid, lag)
	return again
}

// lagAt is the position from which s must be read, as of watermark w, 0 when it is
// live. One that rejoined ahead of w still has to be read from there: frames
// between w and that place are matched again after a crash, and those before it
// were handed out already.
func (s *subscription) lagAt(w uint64) (lag engine.Position, ahead bool) {
	if s.lag == 0 && s.rejoined > w+1 {
		return engine.At(s.rejoined, 0), true
	}
	return s.lag, false
}

// state writes everything the journal should know of s as of watermark w, false
// when s is deleted. Deliveries of a live event subscription above w are left out:
// their frames are matched again after a crash.
func (s *subscription) state(out *entryWriter, w uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleted {
		return false
	}
	out.plain(tagRestate, s.uid)
	s.pruneGenerations(w + 1)
	for _, g := range s.filters() {
		out.generation(generationEntry{uid: s.uid, number: g.number, from: g.from, filter: g.raw})
	}
	lag, _ := s.lagAt(w)
	if lag != 0 {
		out.lag(s.uid, lag)
	}
	if s.breaker.failures > 0 {
		out.breaker(s.breakerEntry())
	}
	for d := range s.unsettled() {
		if !d.replay && lag == 0 && d.pos.Seq() > w {
			continue
		}
		d.stated = true
		out.open(d.entry())
	}
	return true
}

func (d *delivery) entry() openEntry {
	e := openEntry{
		uid: d.sub.uid, pos: d.pos, replay: d.replay, logged: d.logged, attempts: int(d.attempts), outcome: d.outcome,
		status: int(d.status), published: millis(d.published), last: millis(d.last), parked: d.parked,
	}
	switch d.state {
	case delayed:
		e.due = millis(d.due)
	case burying:
		e.reason = d.reason.reason()
	}
	return e
}

func (s *subscription) breakerEntry() breakerEntry {
	return breakerEntry{
		uid: s.uid, failures: s.breaker.failures, rest: s.breaker.rest.Milliseconds(),
		until: max(s.breaker.until.UnixMilli(), 0),
	}
}

// durable is the watermark that the journal has.
func (j *journal) durable() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.flushed
}

// oldestNeeded is the oldest journal message that a start would read.
func (j *journal) oldestNeeded() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.oldest
}
