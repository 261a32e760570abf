package manage

import (
	"context"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// PauseEventSubscription stops delivery attempts until the event subscription is
// resumed. Events go on being matched; they wait, none is given up, and attempts in
// flight end as they do. It is no setting: PUT and PATCH neither show it in what they
// take nor change it, so a tool that knows nothing of it cannot resume by accident.
// One that is paused already keeps its time and its etag.
func (p *Plane) PauseEventSubscription(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (EventSubscription, error) {
	return p.setPaused(ctx, caller, id, c, true)
}

// ResumeEventSubscription lets delivery go on. Every event that waited is attempted,
// also one whose time-to-live is over by now.
func (p *Plane) ResumeEventSubscription(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (EventSubscription, error) {
	return p.setPaused(ctx, caller, id, c, false)
}

func (p *Plane) setPaused(ctx context.Context, caller access.Caller, id resource.ID, c Precondition, paused bool) (EventSubscription, error) {
	if err := p.authorizeWrite(ctx, caller, id, "write"); err != nil {
		return EventSubscription{}, err
	}
	s, _, err := p.find(id)
	if err != nil {
		return EventSubscription{}, err
	}
	ctx, unlock := p.alterOne(ctx, resource.EventSubscriptionKey(s.id, id.Name()))
	defer unlock()
	s, item, err := p.find(id) // as it is now
	if err != nil {
		return EventSubscription{}, err
	}
	if err := c.Check(item.ETag()); err != nil {
		return EventSubscription{}, err
	}
	es := item.Value
	if es.Paused.IsZero() == !paused {
		return s.view(item, isNested(id)), nil
	}
	verb := "resume"
	es.Paused, es.Modified = time.Time{}, stamp(caller)
	if paused {
		verb = "pause"
		es.Paused = es.Modified.At
	}
	now, err := p.Store.EventSubscriptions.Update(ctx, item.Key, es, item.Revision)
	if fault.Is(err, fault.PreconditionFailed) {
		return EventSubscription{}, overtaken(es.Name)
	}
	if err != nil {
		return EventSubscription{}, err
	}
	if es.Active {
		if err := p.Activator.Activate(ctx, &now.Value); err != nil {
			return EventSubscription{}, err
		}
	}
	p.changed(ctx, caller, verb, es.ID())
	return s.view(now, isNested(id)), nil
}
