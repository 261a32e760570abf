package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// undertaker stores dead letters behind everybody's back, and removes those whose
// replay succeeded. Either way the delivery stays open until that is done.
//
// It acts on a delivery once the journal durably says that it is given up and the
// durable watermark has passed it. So a crash at any moment finds the delivery
// given up, not open, and the step is repeated: no letter is left of an event that
// a second attempt then delivers, and none of a replay that succeeded.
type undertaker struct {
	b *Broker

	mu    sync.Mutex
	queue []burial
	some  chan struct{}
}

// burial is a delivery to be dead-lettered, or a replay whose letter is to be
// removed.
type burial struct {
	d        *delivery
	reason   Reason
	failures int
	due      time.Time
}

const (
	buriers        = 16              // letters that are stored at a time
	maxBurialWait  = time.Minute     // between two tries to store one letter
	burialWait     = time.Second     // before the second; it doubles
	quotaTolerance = 20              // one part in so many is freed beyond the quota
	quotaCheck     = 5 * time.Second // at most so often
)

func (u *undertaker) take(d *delivery, reason Reason) {
	u.mu.Lock()
	u.queue = append(u.queue, burial{d: d, reason: reason})
	u.mu.Unlock()
	select {
	case u.some <- struct{}{}:
	default:
	}
}

func (u *undertaker) run(ctx context.Context) error {
	select {
	case <-u.b.exporter.loaded:
	case <-ctx.Done():
		return nil
	}
	timer := time.NewTimer(0) // what was left at the last stop may pass the quota already
	defer timer.Stop()
	var later []burial
	var checked time.Time
	for {
		select {
		case <-u.some:
		case <-timer.C:
		case <-ctx.Done():
			return nil // what is left is open in the journal
		}
		now := time.Now()
		u.mu.Lock()
		batch := u.queue
		u.queue = nil
		u.mu.Unlock()
		waiting := later
		later = nil
		for _, x := range waiting {
			if x.due.After(now) {
				later = append(later, x)
			} else {
				batch = append(batch, x)
			}
		}
		if len(batch) > 0 {
			later = append(later, u.round(ctx, batch)...)
		}
		if u.b.cfg.DeadLetterQuota > 0 && now.Sub(checked) >= quotaCheck {
			checked = now
			if err := u.evict(ctx); err != nil && ctx.Err() == nil {
				u.b.log.Error("dead letters above their quota cannot be removed", telemetry.Error, err)
			}
		}
		next := now.Add(maxBurialWait)
		for _, x := range later {
			if x.due.Before(next) {
				next = x.due
			}
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// round buries a batch, several at a time, and returns what is to be tried again:
// one that cannot be stored does not keep the others waiting.
func (u *undertaker) round(ctx context.Context, batch []burial) (again []burial) {
	if u.b.journal.sync(ctx) != nil {
		return nil // the broker stops
	}
	watermark := u.b.journal.durable()
	var mu sync.Mutex
	var first error
	failed := 0
	var g errgroup.Group
	g.SetLimit(buriers)
	for _, x := range batch {
		if !x.d.replay && x.d.pos.Seq() > watermark {
			x.due = time.Now().Add(flushAfter) // its frame would be matched again after a crash
			mu.Lock()
			again = append(again, x)
			mu.Unlock()
			continue
		}
		g.Go(func() error {
			err := u.bury(ctx, x)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if failed++; first == nil {
				first = fmt.Errorf("delivery %s: %w", x.d.id(), err)
			}
			x.due = time.Now().Add(min(burialWait<<min(x.failures, 10), maxBurialWait))
			x.failures++
			again = append(again, x)
			return nil
		})
	}
	_ = g.Wait() // they return no errors
	if failed > 0 {
		u.b.log.Error("dead letters cannot be stored or removed; they are tried again", "failed", failed, telemetry.Error, first)
	}
	return again
}

func (u *undertaker) bury(ctx context.Context, x burial) error {
	if x.reason == reasonReplayed {
		return u.forget(ctx, x.d)
	}
	return u.store(ctx, x.d, x.reason)
}

// forget removes the letter of a replay that succeeded. A replay from the log may
// have none, or find that of an event that the log lost, whose place its own got.
func (u *undertaker) forget(ctx context.Context, d *delivery) error {
	if d.logged {
		own, err := u.b.hasLetter(ctx, d)
		if err != nil {
			return err
		}
		if !own {
			d.sub.buried(d, reasonReplayed)
			return nil
		}
	}
	if err := deleteLetter(ctx, u.b.cfg.DeadLetters, letterKey(d.letterID())); err != nil {
		return err
	}
	d.sub.buried(d, reasonReplayed)
	return nil
}

// store stores one dead letter and then closes its delivery.
func (u *undertaker) store(ctx context.Context, d *delivery, reason Reason) error {
	s := d.sub
	cfg := s.cfg.Load()
	s.mu.Lock()
	l := Letter{
		Version: 1, ID: d.letterID(), EventSubscription: cfg.id, Topic: cfg.topicID, DeadLetterReason: reason,
		DeliveryAttempts: int(d.attempts), LastDeliveryOutcome: d.outcome.String(), LastHTTPStatusCode: int(d.status),
		PublishTime: time.Unix(0, d.published).UTC(), DeadLetterTime: time.Now().UTC(), DeliverySchema: uint8(cfg.schema),
	}
	if d.attempts == 0 {
		l.LastDeliveryOutcome = Probation.String() // it waited for a destination that rested, or for the limit
	}
	if d.last != 0 {
		l.LastDeliveryAttemptTime = time.Unix(0, d.last).UTC()
	}
	gone := s.deleted
	s.mu.Unlock()
	if gone {
		return nil
	}
	var e event.Event
	sequencer, err := u.b.load(ctx, d, &e)
	if err != nil {
		if ctx.Err() != nil || !lost(err) {
			return err
		}
		u.b.log.Error("event dropped: it cannot be read any more", telemetry.DeliveryID, d.id(), telemetry.Error, err)
		s.drop(d, dropUnreadable)
		return nil
	}
	if d.replay {
		l.PublishTime = u.b.firstPublished(ctx, d, l.PublishTime)
	}
	l.InputSchema, l.Event, l.Sequencer = uint8(e.Schema), e.Raw, sequencer
	raw, err := l.encode()
	if err != nil {
		return err
	}
	if cfg.deadLetter != nil {
		if err := u.b.exporter.begin(ctx, s.uid, cfg.deadLetter); err != nil {
			return err
		}
	}
	if err := u.b.cfg.DeadLetters.Put(ctx, letterKey(l.ID), raw); err != nil {
		return err
	}
	s.buried(d, reason)
	u.b.exporter.stored(s.uid)
	u.b.log.Info("event dead-lettered", telemetry.EventSubscription, cfg.id, telemetry.DeadLetterID, l.ID,
		telemetry.EventID, string(e.ID), telemetry.DeadLetterReason, string(reason), telemetry.Attempt, l.DeliveryAttempts,
		telemetry.Outcome, l.LastDeliveryOutcome, telemetry.Status, l.LastHTTPStatusCode)
	return nil
}

// firstPublished is when the event of a replay was published: what its letter or
// its frame says. The delivery itself counts from the replay.
func (b *Broker) firstPublished(ctx context.Context, d *delivery, otherwise time.Time) time.Time {
	if d.logged {
		if f, err := b.frameOf(ctx, d); err == nil {
			return f.Time.UTC()
		}
		return otherwise
	}
	if first, err := b.letter(ctx, d.letterID()); err == nil {
		return first.PublishTime
	}
	return otherwise
}

// evict removes the oldest dead letters when all of them pass their quota.
func (u *undertaker) evict(ctx context.Context) error {
	quota := u.b.cfg.DeadLetterQuota
	over := u.b.cfg.DeadLetters.Bytes() - quota
	if over <= 0 {
		return nil
	}
	over += quota / quotaTolerance
	var below uint64
	removed, unwritten := 0, 0
	of := map[uint64]int{}
	for entry, err := range u.b.cfg.DeadLetters.Since(ctx, "", 0) {
		if err != nil {
			return err
		}
		if over <= 0 {
			break
		}
		over -= entrySize(entry)
		below = entry.Seq + 1
		removed++
		if uid, _, err := parseLetterID(idOfKey(entry.Key)); err == nil {
			of[uid]++
			if u.b.exporter.owes(uid, entry.Seq) {
				unwritten++
			}
		}
	}
	if below == 0 {
		return nil
	}
	if err := u.b.cfg.DeadLetters.Purge(ctx, below); err != nil {
		return err
	}
	u.b.metrics.evicted.Add(float64(removed))
	for uid, n := range of {
		if s := u.b.lookup(uid); s != nil {
			s.evicted(n)
		}
	}
	u.b.log.Warn("dead letters are above their quota: the oldest are removed", "removed", removed,
		"not_written_to_their_store", unwritten, "quota", quota)
	return nil
}

// entrySize is about what a letter takes in the store.
func entrySize(e engine.TableEntry) int64 { return int64(len(e.Key)+len(e.Value)) + 64 }
