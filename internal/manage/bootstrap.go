package manage

import (
	"context"
	"fmt"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// What the first start makes.
const (
	FirstSubscription = "00000000-0000-0000-0000-000000000001"
	FirstGroup        = "local"
	FirstWorkspace    = "default"
	FirstLocation     = "local"
)

// Bootstrap makes a resource group and a workspace with its system topic where
// there is no resource group yet. It repeats what a start that was cut short left
// out. by signs for it. Call it after the store is loaded.
func (p *Plane) Bootstrap(ctx context.Context, by access.Caller) error {
	ctx, unlock := p.alter(ctx)
	defer unlock()
	group := p.subscription.Child("resourceGroups", FirstGroup)
	id := settle(group, resource.TypeWorkspace, FirstWorkspace)
	now := stamp(by)
	if _, ok := p.Store.ResourceGroups.Get(group.Key()); !ok {
		if len(p.Store.ResourceGroups.List("")) > 0 {
			return nil
		}
		// The group comes last: while it is missing, the start is not done.
		w, ok := p.Store.Workspaces.Get(id.Key())
		if !ok {
			var err error
			w, err = p.Store.Workspaces.Create(ctx, id.Key(), resource.Workspace{
				Meta: resource.Meta{ID: id, Location: p.Location, Created: now, Modified: now},
				UID:  resource.NewUID(), TopicUID: resource.NewUID(), Partition: p.Partition(),
				StatusEvents: []string{string(workspace.Failed)}, PayloadCasing: resource.PayloadCamelCase, DriftRaiseOn: resource.DriftOnCompleted,
			})
			if err != nil {
				return fmt.Errorf("make the first workspace: %w", err)
			}
		}
		if err := p.ensureSystemTopic(ctx, by, &w.Value); err != nil {
			return fmt.Errorf("make the first system topic: %w", err)
		}
		_, err := p.Store.ResourceGroups.Create(ctx, group.Key(), resource.ResourceGroup{
			Meta: resource.Meta{ID: group, Location: p.Location, Created: now, Modified: now},
		})
		if err != nil && !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("make the first resource group: %w", err)
		}
	}
	return nil
}

// Live returns the event subscriptions that events are matched and delivered by.
// The broker needs all of them before it runs.
func (p *Plane) Live() []*resource.EventSubscription {
	var live []*resource.EventSubscription
	for _, item := range p.Store.EventSubscriptions.List("") {
		if item.Value.Active {
			live = append(live, &item.Value)
		}
	}
	return live
}

// Restore activates every live event subscription. Call it at the start, after
// the store is loaded and before the broker runs.
func (p *Plane) Restore(ctx context.Context) error {
	for _, es := range p.Live() {
		if err := p.Activator.Activate(ctx, es); err != nil {
			return fmt.Errorf("activate %s: %w", es.ID(), err)
		}
	}
	return nil
}
