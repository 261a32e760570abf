package broker

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
)

const (
	flushAfter     = 25 * time.Millisecond
	flushBytes     = 64 << 10
	flushPatience  = 30 * time.Second // of a stop, for a store that does not answer
	minRestatement = 512              // bytes of old state that each flush states anew at least
	openEntryBytes = 48               // estimate, of what a changed delivery takes in a flush
)

const (
	// maxMessage is how many bytes of entries a message of the journal holds; a longer
	// entry has one for itself. A MiB is stored soonest in messages of this size: within
	// 3 to 6 ms, sync included, in place of 15 where they have 64 KiB and 7 where they
	// have 8 MiB, the longest that the store takes.
	maxMessage = 1 << 20

	// maxUnflushed is how many bytes may wait for a flush, about, and how many it states
	// anew at most: some 87,000 deliveries, of 80 bytes in memory each. The two take 25
	// to 50 ms to store, so an outcome is stored within a tenth of a second of its answer
	// however much there is. What one frame opens, at most maxOpenNode deliveries, and
	// the outcomes of the attempts under way come on top.
	maxUnflushed = 4 << 20
)

// journal keeps what differs from the watermark and writes it every 25 ms or
// 64 KiB, and at once when a caller waits for it. A flush is one message, or, where it
// is long, several that count only all together: the watermark and the open deliveries
// it leaves behind are atomic, wherever a crash cuts it off. See flushes, which reads
// them.
//
// Whoever hands out deliveries or makes attempts waits while maxUnflushed is to be
// flushed: see room.
//
// There are no snapshots: each flush also states anew the event subscriptions
// stated longest ago, as many bytes as its own news, and names the oldest message
// that is still needed. A start reads from there.
type journal struct {
	b     *Broker
	store Journal

	maxMessage, maxUnflushed int // as the constants, except in tests

	mu       sync.Mutex
	w        uint64                     // watermark
	dirty    []*delivery                // changed since the last flush, each once
	news     entryWriter                // attempts, breakers and deletions, in order
	moved    map[*subscription]struct{} // lag changed
	restate  map[*subscription]struct{} // to be stated whole in the next flush
	waiters  []chan struct{}
	urgent   bool
	kick     chan struct{}                 // wakes the flusher; holds one
	crowd    atomic.Pointer[chan struct{}] // while too much waits: closed when the flusher takes it
	ended    chan struct{}                 // closed when the flusher has
	rotation *list.List                    // of *subscription, the one stated longest ago first; the flusher's
	place    map[*subscription]*list.Element
	last     uint64 // sequence of the last journal message
	flushed  uint64 // watermark it states
	oldest   uint64 // message it names as the oldest still needed
	credit   int    // bytes of restatement the flusher still owes

	spareNews  []byte      // memory of the last flush, which news takes at the next; the flusher's
	spareDirty []*delivery // likewise, for dirty

	aheadSeq   uint64 // newest frame above the watermark of which a success was noted
	aheadSince uint64 // oldest message that may tell of such successes, 0 = none; the flusher's
}

func newJournal(b *Broker, store Journal) *journal {
	_, last := store.Bounds()
	return &journal{
		b: b, store: store, last: last, maxMessage: maxMessage, maxUnflushed: maxUnflushed,
		moved: map[*subscription]struct{}{}, restate: map[*subscription]struct{}{},
		kick: make(chan struct{}, 1), ended: make(chan struct{}), rotation: list.New(), place: map[*subscription]*list.Element{},
	}
}

// noted tells the flusher that there is something. The caller holds j.mu.
func (j *journal) noted() {
	if j.unflushed() >= j.maxUnflushed && j.crowd.Load() == nil {
		taken := make(chan struct{})
		j.crowd.Store(&taken)
	}
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// unflushed is about how many bytes of news wait for the flusher. The caller holds
// j.mu.
func (j *journal) unflushed() int { return len(j.news.buf) + len(j.dirty)*openEntryBytes }

// room lets the flusher take what waits for it, if that is maxUnflushed or more: what a
// slow disk is to be told must not pile up in memory. It returns also when ctx or the
// flusher ends. Dispatcher and elevator ask before each frame, workers before each
// attempt; what they began is noted without waiting, so nobody waits twice for it, and
// an answer is never held up. The caller holds no lock: the flusher takes those of
// event subscriptions.
func (j *journal) room(ctx context.Context) {
	taken := j.crowd.Load()
	if taken == nil {
		return
	}
	select {
	case <-*taken:
	case <-j.ended:
	case <-ctx.Done():
	}
}

// letFlush is journal.room for a worker, which holds s.mu; it is free meanwhile.
func (s *subscription) letFlush() {
	if s.b.journal.crowd.Load() == nil {
		return
	}
	s.mu.Unlock()
	s.b.journal.room(s.ctx)
	s.mu.Lock()
}

// dirtied notes that d changed. The caller holds the lock of d's event subscription.
func (j *journal) dirtied(d *delivery) {
	if d.dirty {
		return
	}
	d.dirty = true
	j.mu.Lock()
	j.dirty = append(j.dirty, d)
	j.noted()
	j.mu.Unlock()
}

// advance sets the watermark to a frame whose events are all handed out, together
// with the deliveries that this opened, which the journal did not know until now.
func (j *journal) advance(seq uint64, opened []*delivery) {
	j.mu.Lock()
	j.w = seq
	j.dirty = append(j.dirty, opened...)
	j.noted()
	j.mu.Unlock()
}

// watermark is the last frame whose events are all handed out.
func (j *journal) watermark() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.w
}

// attempted adds an attempt to the history, and notes that d changes: a flush in between
// would store a success and leave its delivery open. The caller holds s.mu until d has
// changed.
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
	if !d.dirty {
		d.dirty = true
		j.dirty = append(j.dirty, d)
	}
	j.noted()
}

// breakerMoved notes the state of s's breaker. The caller holds s.mu.
func (j *journal) breakerMoved(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.news.breaker(s.breakerEntry())
	j.noted()
}

// lagged notes that the position from which s must be read changed.
func (j *journal) lagged(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.moved[s] = struct{}{}
	j.noted()
}

// changed asks for a whole statement of s: it is new, or has a new generation.
func (j *journal) changed(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.restate[s] = struct{}{}
	j.noted()
}

// gone notes that s was deleted.
func (j *journal) gone(s *subscription) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.news.plain(tagGone, s.uid)
	delete(j.moved, s)
	delete(j.restate, s)
	j.noted()
}

// sync returns when everything noted before the call is durable.
func (j *journal) sync(ctx context.Context) error {
	done := make(chan struct{})
	j.mu.Lock()
	j.waiters = append(j.waiters, done)
	j.urgent = true
	j.noted()
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
	defer close(j.ended)
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
	return j.urgent || j.unflushed() >= flushBytes
}

// flush writes what there is to say, if anything. Only the flusher calls it. What it
// took must reach the disk whatever becomes of ctx; a store that is started anew is
// waited for.
func (j *journal) flush(ctx context.Context) error {
	j.mu.Lock()
	if j.w == j.flushed && len(j.dirty)+len(j.news.buf)+len(j.moved)+len(j.restate)+len(j.waiters) == 0 {
		j.mu.Unlock()
		return nil
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	w, dirty, news, moved, whole, waiters, ahead := j.w, j.dirty, j.news.buf, j.moved, j.restate, j.waiters, j.aheadSeq
	j.dirty, j.news.buf, j.waiters, j.urgent = j.spareDirty, j.spareNews, nil, false
	j.spareDirty, j.spareNews = nil, nil
	j.moved, j.restate = map[*subscription]struct{}{}, map[*subscription]struct{}{}
	if taken := j.crowd.Swap(nil); taken != nil {
		close(*taken)
	}
	j.mu.Unlock()

	out := entryWriter{buf: slices.Grow(news, len(dirty)*openEntryBytes+minRestatement)}
	for _, d := range dirty {
		d.sub.stateDelivery(&out, d)
	}
	for s := range moved {
		if s.stateLag(&out, w) {
			j.lagged(s) // not final yet: the watermark has not reached the place where it rejoined
		}
	}
	if len(out.buf)+len(dirty)+len(whole) > 0 {
		j.credit = min(j.credit+max(len(out.buf), minRestatement), j.maxUnflushed)
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
	head := journalHeader{watermark: w, oldest: next}
	if front := j.rotation.Front(); front != nil {
		head.oldest = front.Value.(*subscription).statedAt
	}
	if ahead <= w {
		j.aheadSince = 0
	} else if j.aheadSince == 0 {
		j.aheadSince = next
	}
	if j.aheadSince != 0 { // only these messages know what must not be sent again
		head.oldest = min(head.oldest, j.aheadSince)
	}
	if err := j.append(ctx, head, out.buf); err != nil {
		return err
	}
	if cap(out.buf) <= maxMessage {
		clear(dirty)
		j.spareNews, j.spareDirty = out.buf[:0], dirty[:0]
	}
	j.mu.Lock()
	j.flushed, j.oldest = w, head.oldest
	j.mu.Unlock()
	for _, done := range waiters {
		close(done)
	}
	return nil
}

// append stores the entries of a flush, in as many messages as they need.
func (j *journal) append(ctx context.Context, head journalHeader, entries []byte) error {
	parts := cutEntries(entries, j.maxMessage)
	for i, part := range parts {
		head.part, head.left = uint64(i), uint64(len(parts)-1-i)
		seq, err := j.store.Append(ctx, append(head.append(make([]byte, 0, maxHeader+len(part))), part...))
		if err != nil {
			return fmt.Errorf("append to the delivery journal: %w", err)
		}
		if due := j.last + 1; seq != due {
			return fmt.Errorf("the delivery journal gave message %d where %d was due: somebody else writes it", seq, due)
		}
		j.last = seq
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
	lag, again := s.lagAt(w)
	for i := len(s.order) - 1; i >= 0; i-- {
		d := s.order[i]
		if d.state == closed || lag == 0 && d.pos.Seq() > w { // the journal learns of it with its watermark
			continue
		}
		if d.stated {
			break // they are stated in the order in which they came
		}
		d.stated = true
		out.open(d.entry())
	}
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
// when s is deleted. Deliveries of a live event subscription above w that the journal
// never heard of are left out: their frames are matched again after a crash. What it did
// hear of is not: once a start knew it, nothing else tells of it when w passes.
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
	if lag != 0 {
		for _, pos := range s.settledFrom(lag) {
			out.closed(s.uid, pos, false)
		}
	}
	for d := range s.unsettled() {
		if !d.stated && !d.replay && lag == 0 && d.pos.Seq() > w {
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
		status: int(d.status), published: millis(d.published), last: millis(d.last), parked: d.parked, aborts: int(d.aborts),
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
