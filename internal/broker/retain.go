package broker

import (
	"context"
	"errors"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	retainEvery  = time.Second
	journalQuota = 512 << 20 // bytes of delivery history
	historyPart  = 0.8       // of the log's quota: beyond it history goes before its time
	purgeSteps   = 16        // in how many steps history above its part is cut
)

// retainer keeps the purge floor and lets history go. The floor is the lowest
// frame that somebody still needs: not yet handed out, open and not parked, or to be
// read by one that lags. Frames below it are history: they stay for the retention time, or
// until the log passes 80 % of its quota, or until the disk runs short: then half of
// it goes every second, and all of it once the engine has given up its reserve.
// Frames above the floor are never purged, whatever their age.
type retainer struct {
	b     *Broker
	first uint64    // a frame whose time is known
	time  time.Time // its ingest time
}

func (r *retainer) run(ctx context.Context) error {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for ; ; r.wait(ctx, tick) {
		if ctx.Err() != nil {
			return nil
		}
		floor, next := r.floors()
		if r.park(ctx, floor, next) {
			floor, _ = r.floors()
		}
		r.b.cfg.Log.SetFloor(floor)
		if err := r.purge(ctx, floor); err != nil && ctx.Err() == nil {
			r.b.log.Error("history cannot be purged", telemetry.Error, err)
		}
		if err := r.purgeJournal(ctx); err != nil && ctx.Err() == nil {
			r.b.log.Error("delivery history cannot be purged", telemetry.Error, err)
		}
		if err := r.b.park.remove(ctx); err != nil && ctx.Err() == nil {
			r.b.log.Error("copies of settled deliveries cannot be removed from the park", telemetry.Error, err)
		}
	}
}

func (r *retainer) wait(ctx context.Context, tick *time.Ticker) {
	select {
	case <-ctx.Done():
	case <-tick.C:
	}
}

// floors returns the lowest log sequence still needed, and the lowest that is needed
// not by open deliveries, which can be parked, but by somebody who lags or by the
// dispatcher. It also calls the elevator for those who lag and have room.
func (r *retainer) floors() (floor, next uint64) {
	next = r.b.journal.watermark() + 1
	floor = next
	for _, s := range r.b.all() {
		s.mu.Lock()
		open, lag := s.floors()
		floor, next = min(floor, open, lag), min(next, lag)
		s.signalRoom()
		s.mu.Unlock()
	}
	return floor, next
}

// park parks the older half of the open deliveries that hold more than a quarter of
// the quota by themselves, and reports whether the floor may have moved. What is left
// gets the same a second later if it is still too much, so what is recent, and mostly
// about to be settled, is not copied.
func (r *retainer) park(ctx context.Context, floor, next uint64) bool {
	quota := r.b.cfg.Log.Usage().Quota
	if r.b.park.store == nil || quota <= 0 {
		return false
	}
	if r.b.cfg.Log.BytesFrom(floor)-r.b.cfg.Log.BytesFrom(next) <= quota/parkFrom {
		r.b.park.tell(nil)
		return false
	}
	err := r.b.park.take(ctx, floor+(next-floor+1)/2, quota/parkPart)
	if ctx.Err() == nil {
		r.b.park.tell(err)
	}
	return true
}

// purge lets frames below the floor go that are older than the retention time, or
// that the quota has no room for.
func (r *retainer) purge(ctx context.Context, floor uint64) (err error) {
	first, last := r.b.cfg.Log.Bounds()
	floor = min(floor, last) // the last frame stays: it tells the next start where the log ends
	if first >= floor {
		return nil
	}
	below := first
	if now := time.Now(); !r.b.clock.rests(now) {
		if below, err = r.firstYoungerThan(ctx, first, floor, r.b.clock.now(now).Add(-r.b.cfg.Retention)); err != nil {
			return err
		}
	}
	usage := r.b.cfg.Log.Usage()
	switch {
	case usage.Space == engine.SpaceOut:
		below = floor
	case usage.Space == engine.SpaceLow:
		below = max(below, first+(floor-first+1)/2)
	case usage.Quota > 0 && float64(usage.Bytes) > historyPart*float64(usage.Quota):
		below = max(below, min(floor, first+max((floor-first)/purgeSteps, 1)))
	}
	if below <= first {
		return nil
	}
	// The floor is as memory has it: a start must not find that the journal needs less.
	if err := r.b.journal.sync(ctx); err != nil {
		return err
	}
	return r.b.cfg.Log.Purge(ctx, below)
}

// firstYoungerThan finds the first frame in [first, end) that is younger than a
// time; ingest times never fall, so it searches by halves.
func (r *retainer) firstYoungerThan(ctx context.Context, first, end uint64, t time.Time) (uint64, error) {
	young := func(seq uint64) (bool, error) {
		f, err := r.b.cfg.Log.Frame(ctx, seq)
		if errors.Is(err, engine.ErrCorrupt) {
			return true, nil // not known: kept until it is the first
		}
		if err != nil {
			return false, err
		}
		return f.Time.After(t), nil
	}
	if r.first != first {
		f, err := r.b.cfg.Log.Frame(ctx, first)
		switch {
		case errors.Is(err, engine.ErrCorrupt): // nobody needs it
			r.first, r.time = first, time.Time{}
		case err != nil:
			return first, err
		default:
			r.first, r.time = first, f.Time
		}
	}
	if r.time.After(t) {
		return first, nil
	}
	low, high := first+1, end
	for low < high {
		mid := low + (high-low)/2
		y, err := young(mid)
		if err != nil {
			return first, err
		}
		if y {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low, nil
}

// purgeJournal lets the oldest delivery history go when the journal passes its
// quota or the disk runs short, never what a start still needs.
func (r *retainer) purgeJournal(ctx context.Context) error {
	if r.b.cfg.Journal.Bytes() <= journalQuota && r.b.cfg.Log.Usage().Space == engine.SpaceAmple {
		return nil
	}
	first, _ := r.b.cfg.Journal.Bounds()
	oldest := r.b.journal.oldestNeeded()
	if oldest <= first {
		return nil
	}
	return r.b.cfg.Journal.Purge(ctx, min(oldest, first+max((oldest-first)/purgeSteps, 1)))
}
