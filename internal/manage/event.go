package manage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/resource"
)

// Event is a logged event as one caller sees it: without its bytes where the caller
// may not read the bodies of events.
type Event struct {
	broker.LoggedEvent
	Topic    resource.ID // what raised it
	ID, Type string      // long ones cut
}

// Event returns an event of a source, by its id or its sequencer. The caller needs to
// read event subscriptions there. Source: decisions.md 25.
func (p *Plane) Event(ctx context.Context, caller access.Caller, scope resource.ID, name string) (Event, error) {
	s, logged, err := p.findEvent(ctx, caller, scope, name)
	if err != nil {
		return Event{}, err
	}
	var parsed event.Event
	if err := parsed.Parse(logged.Event, logged.Schema); err != nil {
		return Event{}, fmt.Errorf("event at %s: %w", logged.Position, err)
	}
	e := Event{LoggedEvent: logged, Topic: s.raises, ID: cut(parsed.ID), Type: cut(parsed.Type)}
	if p.Access.CheckEventRead(caller, s.raises) != nil {
		e.Event = nil
	}
	return e, nil
}

func (p *Plane) findEvent(ctx context.Context, caller access.Caller, scope resource.ID, name string) (source, broker.LoggedEvent, error) {
	if err := p.authorize(ctx, caller, resource.TypeEventSubscription+"/read", scope); err != nil {
		return source{}, broker.LoggedEvent{}, err
	}
	s, err := p.findSource(scope)
	if err != nil {
		return s, broker.LoggedEvent{}, err
	}
	logged, err := p.logged(ctx, s, name)
	return s, logged, err
}

// EventDelivery is what became of an event for one event subscription.
type EventDelivery struct {
	EventSubscription EventSubscription
	broker.Story
}

// EventDeliveries returns what became of an event of a source for each event
// subscription that wanted it or got it all the same: at most a number of them, in the
// order of their keys, from behind a key on. next is the key to go on behind, "" at the
// end. The caller needs what Event needs.
func (p *Plane) EventDeliveries(ctx context.Context, caller access.Caller, scope resource.ID, name, after string, most int) (out []EventDelivery, next string, err error) {
	_, logged, err := p.findEvent(ctx, caller, scope, name)
	if err != nil {
		return nil, "", err
	}
	all := p.below(scope)
	slices.SortFunc(all, func(a, b EventSubscription) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
	for _, v := range all {
		if after != "" && v.ID.Key() <= after {
			continue
		}
		if len(out) == most {
			return out, out[most-1].EventSubscription.ID.Key(), nil
		}
		if d := v.Value.DomainTopic; d != "" && d != logged.DomainTopic {
			continue // it is for another topic of the domain
		}
		told, active, err := p.EventLog.Explain(ctx, v.Value.UID, &logged)
		if err != nil {
			return nil, "", fmt.Errorf("explain event %s to %s: %w", logged.Position, v.ID, err)
		}
		if !active || told.Delivery.State == broker.StoryNotMatched || told.Delivery.State == broker.StoryTooEarly {
			continue
		}
		out = append(out, EventDelivery{v, told.Delivery})
	}
	return out, "", nil
}
