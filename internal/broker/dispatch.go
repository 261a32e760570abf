package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	maxUnmatched = 32 << 20 // bytes of frames that may wait for the dispatcher
	openPart     = 64       // the part of what is left of maxOpenNode that one event subscription may have
)

// Patience: how long the dispatcher waits for a place in a full queue. An event
// subscription that is merely slower than the log slows the publishers a little;
// one that stands still is left behind at once and harms nobody. 128 KiB are
// some 130 events of 1 KiB, which a handler that takes 10,000 a second needs 13 ms
// for: 10 ms, as first decided, left such handlers behind under load, and reading
// the log for them cost more than the wait.
const (
	patiencePerFrame = 25 * time.Millisecond  // of 128 KiB; see forFrame
	patienceFor      = 100 * time.Millisecond // only those that settled something this recently
	firstPenalty     = 10 * time.Second       // without patience, after it was used up; doubles
	lastPenalty      = 5 * time.Minute
)

// forFrame returns d for a frame of up to 128 KiB, and as much more for a larger one.
func forFrame(d time.Duration, size int) time.Duration {
	return max(d, d*time.Duration(size)/(128<<10))
}

// dispatchQueue holds committed frames, and changes of event subscriptions at
// their exact place between two frames.
type dispatchQueue struct {
	bytes atomic.Int64

	mu    sync.Mutex
	items []dispatchItem
	last  uint64        // sequence of the last frame pushed
	some  chan struct{} // wakes the dispatcher; holds one
	room  chan struct{} // closed when bytes fell below the limit; nil when nobody waits
}

// dispatchItem is a frame, or a change with the first log sequence it applies to.
type dispatchItem struct {
	frame  *engine.Frame
	change func(next uint64)
	next   uint64
}

func (q *dispatchQueue) pushFrame(f *engine.Frame) {
	q.bytes.Add(int64(f.Size))
	q.mu.Lock()
	q.last = f.Seq
	q.items = append(q.items, dispatchItem{frame: f})
	q.mu.Unlock()
	q.wake()
}

// pushChange puts a change behind every frame committed so far: events
// acknowledged before the call do not see it, events published after it do.
func (q *dispatchQueue) pushChange(change func(next uint64)) {
	q.mu.Lock()
	q.items = append(q.items, dispatchItem{change: change, next: q.last + 1})
	q.mu.Unlock()
	q.wake()
}

func (q *dispatchQueue) wake() {
	select {
	case q.some <- struct{}{}:
	default:
	}
}

// take returns everything that waits.
func (q *dispatchQueue) take() []dispatchItem {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

// done notes that a frame was handed out.
func (q *dispatchQueue) done(f *engine.Frame) {
	if q.bytes.Add(-int64(f.Size)) >= maxUnmatched {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// wait returns when a publisher may go on.
func (q *dispatchQueue) wait(ctx context.Context) error {
	for q.bytes.Load() >= maxUnmatched {
		q.mu.Lock()
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		if q.bytes.Load() < maxUnmatched {
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// dispatcher hands committed events out, frame by frame. Its goroutine owns the
// live matching and the generations of filters.
type dispatcher struct {
	b         *Broker
	matching  *matching
	next      uint64       // first log sequence not handed out
	handedOut atomic.Int64 // bytes of frames, ever
	opened    []*delivery
	patience  time.Duration // left for the present frame
}

// run hands out what the log holds above the watermark and then what is committed,
// until ctx ends.
func (d *dispatcher) run(ctx context.Context) error {
	for d.next <= d.b.startLast {
		err := d.backlog(ctx, d.b.startLast)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			break
		}
		d.b.log.Error("the log cannot be read", telemetry.Error, err)
		select { // nothing of it may be passed over
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	d.next = max(d.next, d.b.startLast+1)
	for {
		for _, item := range d.b.queue.take() {
			if ctx.Err() != nil {
				return nil
			}
			if item.change != nil {
				item.change(item.next)
				continue
			}
			d.frame(ctx, item.frame)
			d.b.queue.done(item.frame)
		}
		select {
		case <-d.b.queue.some:
		case <-ctx.Done():
			return nil
		}
	}
}

// backlog hands out what the log holds up to a frame. A frame that does not decode
// is passed over; any other error ends it.
func (d *dispatcher) backlog(ctx context.Context, end uint64) error {
	for f, err := range d.b.cfg.Log.Frames(ctx, d.next) {
		if errors.Is(err, engine.ErrCorrupt) {
			d.b.log.Error("frame of the log cannot be read", telemetry.Error, err)
			continue
		}
		if err != nil {
			return err
		}
		if f.Seq > end {
			return nil // committed since the start: it is in the queue
		}
		if ctx.Err() != nil {
			return nil
		}
		d.frame(ctx, f)
	}
	return nil
}

// frame hands out one frame. The watermark passes it when each of its deliveries
// has a place in a queue or an event subscription that lags for it.
func (d *dispatcher) frame(ctx context.Context, f *engine.Frame) {
	d.b.journal.room(ctx) // for what this opens
	d.matching.advance(f.Seq)
	d.opened, d.patience = d.opened[:0], forFrame(patiencePerFrame, f.Size)
	for i := range f.Records {
		r := &f.Records[i]
		if r.Kind != engine.KindEvent {
			continue
		}
		d.b.tails.offer(f, i)
		uids, err := d.matching.match(r)
		if err != nil {
			d.b.log.Error("stored event cannot be matched", telemetry.Position, f.Position(i).String(), telemetry.Error, err)
			continue
		}
		if len(uids) == 0 {
			d.b.metrics.unmatched.Inc()
			continue
		}
		d.b.metrics.matched.Add(float64(len(uids)))
		for _, uid := range uids {
			if s := d.b.lookup(uid); s != nil {
				d.offer(ctx, s, f, i)
			}
		}
	}
	d.b.journal.advance(f.Seq, d.opened)
	d.next = f.Seq + 1
	d.handedOut.Add(int64(f.Size))
}

// offer puts one event in one queue, or leaves the event subscription behind.
func (d *dispatcher) offer(ctx context.Context, s *subscription, f *engine.Frame, i int) {
	pos := f.Position(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live() || !s.wants(f, pos) {
		return
	}
	for !s.hasRoom() {
		if time.Now().Before(s.patienceEnd) || !s.waitForRoom(ctx, &d.patience) {
			s.fallBehind(pos, time.Now(), d.patience <= 0)
			return
		}
		if !s.live() || s.deleted {
			return
		}
	}
	delivery := s.add(f, pos)
	delivery.dirty = true // the journal learns of it with the watermark
	d.opened = append(d.opened, delivery)
	s.pump(time.Now())
}

// wants reports whether a matched event is to be delivered at all. The caller
// holds s.mu.
func (s *subscription) wants(f *engine.Frame, pos engine.Position) bool {
	if s.deleted || s.knows(pos) {
		return false
	}
	expiration := s.cfg.Load().expiration
	return expiration.IsZero() || f.Time.Before(expiration)
}

// waitForRoom waits for a place in s's queue while s makes progress and patience
// lasts, which the wait uses up, and reports whether there may be one. Nobody waits
// for one that is limited, or for receivers. The caller holds s.mu, which is free meanwhile.
func (s *subscription) waitForRoom(ctx context.Context, patience *time.Duration) bool {
	now := time.Now()
	if *patience <= 0 || s.paused || s.limiter.on() || s.cfg.Load().pull || now.Sub(s.settled) > patienceFor {
		return false
	}
	select { // a signal from an earlier wait says nothing now
	case <-s.room:
	default:
	}
	s.waiting = true
	s.mu.Unlock()
	timer := time.NewTimer(*patience)
	select {
	case <-s.room:
	case <-timer.C:
	case <-ctx.Done():
	}
	timer.Stop()
	*patience -= time.Since(now)
	s.mu.Lock()
	s.waiting = false
	return ctx.Err() == nil && s.hasRoom()
}

// fallBehind makes s lag from pos: the elevator brings the rest. One that used up
// the patience it had gets none for a while. The caller holds s.mu.
func (s *subscription) fallBehind(pos engine.Position, now time.Time, usedUp bool) {
	if usedUp && !now.Before(s.patienceEnd) {
		if now.Sub(s.patienceEnd) > lastPenalty {
			s.penalty = 0
		}
		s.penalty = min(max(2*s.penalty, firstPenalty), lastPenalty)
		s.patienceEnd = now.Add(s.penalty)
	}
	s.lag = pos
	s.b.journal.lagged(s)
	if len(s.known) > 0 { // the watermark may pass them now before the elevator does
		s.b.journal.changed(s)
	}
	s.b.log.Debug("event subscription lags", telemetry.EventSubscription, s.cfg.Load().id, telemetry.Position, pos.String())
}

// rejoin makes s live again if the elevator brought it close enough: the few
// frames that are left are handed out from the window. It runs in the dispatcher.
func (d *dispatcher) rejoin(s *subscription) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aboard = false
	if s.deleted || s.live() {
		return nil
	}
	if s.lag > engine.At(d.next, 0) {
		return fmt.Errorf("the dispatcher is only at frame %d", d.next)
	}
	single := newMatching([]*subscription{s}, s.lag.Seq())
	for seq := s.lag.Seq(); seq < d.next; seq++ {
		f := d.b.window.peek(seq)
		if f == nil {
			return fmt.Errorf("frame %d has left the window", seq)
		}
		if !s.takeFrame(single, f) {
			return nil // its queue is full: it lags from there
		}
	}
	s.lag, s.rejoined = 0, d.next
	s.b.journal.lagged(s)
	s.pump(time.Now())
	return nil
}
