package manage

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// How often the sweep looks without being poked: at what it could not finish, and
// at clocks that jumped.
const (
	sweepRest  = time.Minute
	sweepAgain = 5 * time.Second // while an expired event subscription has open deliveries
)

// Run ends what has an end: handshakes that nobody completed, and event
// subscriptions past their expiration time once their open deliveries are gone. It
// warns of client certificates that end soon.
// It tells the handlers of event subscriptions that were deleted, and seals secrets anew
// after the master key was changed. It returns when ctx
// ends. Call it after the store is loaded.
func (p *Plane) Run(ctx context.Context) error {
	var hands sync.WaitGroup
	defer hands.Wait()
	for range noticeHands {
		hands.Go(func() { p.sendNotices(ctx) })
	}
	hands.Go(func() { p.keepResealing(ctx) })
	hands.Go(func() { p.tidyDomainTopics(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-p.poke:
		}
		timer.Reset(p.sweep(ctx, time.Now()))
	}
}

// sweep does what is due and returns how long nothing else is.
func (p *Plane) sweep(ctx context.Context, now time.Time) time.Duration {
	rest := sweepRest
	due := func(at time.Time) bool {
		if at.After(now) {
			rest = min(rest, at.Sub(now))
			return false
		}
		return true
	}
	for _, key := range p.watch.keys() {
		item, ok := p.Store.EventSubscriptions.Get(key)
		if !ok {
			continue
		}
		es := item.Value
		if v := es.Validation; v != nil && !v.Accepted && due(v.Expires) {
			p.lapse(ctx, key, now)
		}
		if !es.Expiration.IsZero() && due(es.Expiration) && (p.ClockRests != nil && p.ClockRests() || !p.retire(ctx, key, now)) {
			rest = min(rest, sweepAgain)
		}
		if hasCertificate(&es) {
			due(p.warnCertificate(ctx, &es, now))
		}
	}
	maps.DeleteFunc(p.warned, func(uid resource.UID, _ certificateWarning) bool {
		_, watched := p.watch.key(uid)
		return !watched
	})
	return rest
}

// lapse ends a manual handshake whose time is over: what waited for it is given
// up, and an event subscription that was live goes on as it was.
func (p *Plane) lapse(ctx context.Context, key string, now time.Time) {
	ctx, unlock := p.alterOne(ctx, key)
	defer unlock()
	item, ok := p.Store.EventSubscriptions.Get(key)
	if !ok || item.Value.Validation == nil || item.Value.Validation.Accepted || item.Value.Validation.Expires.After(now) {
		return
	}
	es := item.Value
	es.State, es.Pending, es.Validation = resource.Failed, nil, nil
	es.Failure = "Nobody opened the validation link within " + ManualWindow.String() + "."
	if _, err := p.Store.EventSubscriptions.Update(ctx, key, es, item.Revision); err != nil {
		p.Log.LogAttrs(ctx, slog.LevelError, "manual handshake cannot be ended",
			slog.String(telemetry.EventSubscription, es.ID().String()), slog.String(telemetry.Error, err.Error()))
		return
	}
	p.Log.LogAttrs(ctx, slog.LevelInfo, "event subscription not validated",
		slog.String(telemetry.EventSubscription, es.ID().String()), slog.Bool("active", es.Active))
}

// retire removes an event subscription that expired. It reports false when open
// deliveries hold it; by its expiration time nothing new matches it.
func (p *Plane) retire(ctx context.Context, key string, now time.Time) bool {
	var scope resource.ID // of what is removed
	defer func() {
		if err := p.leaveDomainTopic(ctx, scope); err != nil {
			p.Log.LogAttrs(ctx, slog.LevelError, "domain topic without event subscriptions cannot be removed",
				slog.String(telemetry.Resource, scope.String()), slog.String(telemetry.Error, err.Error()))
		}
	}()
	ctx, unlock := p.alterOne(ctx, key)
	defer unlock()
	item, ok := p.Store.EventSubscriptions.Get(key)
	if !ok || item.Value.Expiration.IsZero() || item.Value.Expiration.After(now) {
		return true
	}
	es := &item.Value
	if es.Active && p.Activator.Open(es.UID) > 0 {
		return false
	}
	if err := p.removeEventSubscription(ctx, item); err != nil {
		if !fault.Is(err, fault.PreconditionFailed) {
			p.Log.LogAttrs(ctx, slog.LevelError, "expired event subscription cannot be removed",
				slog.String(telemetry.EventSubscription, es.ID().String()), slog.String(telemetry.Error, err.Error()))
		}
		return false
	}
	scope = es.Scope
	p.Log.LogAttrs(ctx, slog.LevelInfo, "event subscription expired", slog.String(telemetry.EventSubscription, es.ID().String()))
	return true
}

// watchlist holds the event subscriptions that something is going to happen to: a
// link to be opened, an end to come, of itself or of its client certificate. All others cost the sweep nothing.
type watchlist struct {
	mu    sync.Mutex
	byUID map[resource.UID]string
	byKey map[string]resource.UID
}

// key finds the event subscription of a validation link without a search.
func (w *watchlist) key(uid resource.UID) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key, ok := w.byUID[uid]
	return key, ok
}

func (w *watchlist) keys() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.byKey))
}

// note says which uid is watched under a key, 0 for none.
func (w *watchlist) note(key string, uid resource.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.byKey[key]; ok {
		delete(w.byUID, old)
		delete(w.byKey, key)
	}
	if uid == 0 {
		return
	}
	if w.byUID == nil {
		w.byUID, w.byKey = map[resource.UID]string{}, map[string]resource.UID{}
	}
	w.byUID[uid], w.byKey[key] = key, uid
}

// eventSubscriptionChanged keeps the watchlist and wakes the sweep for what is new
// on it.
func (p *Plane) eventSubscriptionChanged(key string) {
	item, ok := p.Store.EventSubscriptions.Get(key)
	if !ok || item.Value.Validation == nil && item.Value.Expiration.IsZero() && !hasCertificate(&item.Value) {
		p.watch.note(key, 0)
		return
	}
	p.watch.note(key, item.Value.UID)
	select {
	case p.poke <- struct{}{}:
	default:
	}
}
