package manage

import (
	"context"
	"log/slog"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Deliveries is what a caller may see of deliveries at a scope: of one event
// subscription, of a source, or of everything below a group or a subscription.
type Deliveries struct {
	Scope              resource.ID // as asked for; for a system topic its source
	EventSubscriptions []EventSubscription
	Sources            []Source // that raise events
}

// Single returns the event subscription that the scope is, false when it is something
// else.
func (d *Deliveries) Single() (EventSubscription, bool) {
	if len(d.EventSubscriptions) == 1 && d.EventSubscriptions[0].ID.Equal(d.Scope) {
		return d.EventSubscriptions[0], true
	}
	return EventSubscription{}, false
}

// Source is something that raises events.
type Source struct {
	ID     resource.ID
	Stream resource.Stream
}

// Deliveries returns what there is at a scope to whoever may read event
// subscriptions there. With events, the caller also needs the right to read the
// bodies of events. Source: decisions.md 25.
func (p *Plane) Deliveries(ctx context.Context, caller access.Caller, scope resource.ID, events bool) (Deliveries, error) {
	single := scope.IsType(resource.TypeEventSubscription) || nestedType(scope) != ""
	raises := p.raiser(scope)
	if single {
		raises = p.raiser(scope.Parent())
	}
	if events {
		telemetry.RecordOf(ctx).Add(slog.String(telemetry.Action, access.ActionReceive), slog.String(telemetry.Resource, scope.String()))
		if err := p.Access.CheckEventRead(caller, raises); err != nil {
			return Deliveries{}, err
		}
	} else if err := p.authorize(ctx, caller, resource.TypeEventSubscription+"/read", scope); err != nil {
		return Deliveries{}, err
	}
	d := Deliveries{Scope: scope}
	if single {
		s, item, err := p.find(scope)
		if err != nil {
			return d, err
		}
		d.EventSubscriptions = []EventSubscription{s.view(item, isNested(scope))}
		d.Sources = []Source{{s.raises, s.stream}}
		return d, nil
	}
	if err := p.exists(scope); err != nil {
		return d, err
	}
	d.EventSubscriptions = p.below(scope)
	for _, t := range p.Store.Topics.List("") {
		if raises.Contains(t.Value.ID) {
			d.Sources = append(d.Sources, Source{t.Value.ID, resource.Stream{Topic: t.Value.UID}})
		}
	}
	for _, t := range p.Store.Domains.List("") {
		if raises.Contains(t.Value.ID) {
			d.Sources = append(d.Sources, Source{t.Value.ID, resource.Stream{Topic: t.Value.UID}})
		}
	}
	if scope.IsType(resource.TypeDomainTopic) {
		s, err := p.findSource(scope)
		if err != nil {
			return d, err
		}
		d.Sources = append(d.Sources, Source{s.raises, s.stream})
	}
	for _, w := range p.Store.Workspaces.List("") {
		if raises.Contains(w.Value.ID) {
			d.Sources = append(d.Sources, Source{w.Value.ID, resource.Stream{Topic: w.Value.TopicUID}})
		}
	}
	return d, nil
}

// exists returns the NotFound of a scope that is not there.
func (p *Plane) exists(scope resource.ID) error {
	switch {
	case scope.Equal(resource.Root):
		return nil
	case scope.IsType(resource.TypeResourceGroup):
		_, err := p.group(scope)
		return err
	case scope.Parent().Equal(resource.Root):
		return p.checkSubscription(scope)
	}
	_, err := p.findSource(scope)
	return err
}

// below returns every event subscription at or below a scope, those of a workspace
// also where they hang on its system topic.
func (p *Plane) below(scope resource.ID) []EventSubscription {
	var out []EventSubscription
	for _, item := range p.Store.EventSubscriptions.List("") {
		s, err := p.findSource(item.Value.Scope)
		if err == nil && (scope.Contains(item.Value.Scope) || scope.Contains(s.raises)) {
			out = append(out, s.view(item, s.id.IsType(resource.TypeSystemTopic)))
		}
	}
	return out
}

// DeadLetterRemoval checks that a caller may remove dead letters at a scope: it
// needs what changing event subscriptions there needs.
func (p *Plane) DeadLetterRemoval(ctx context.Context, caller access.Caller, scope resource.ID) error {
	return p.authorize(ctx, caller, resource.TypeEventSubscription+"/write", scope)
}
