package manage

import (
	"context"
	"maps"
	"slices"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const actionGroups = "Microsoft.Resources/subscriptions/resourceGroups/"

// Tracked is what a request sets on every tracked resource.
type Tracked struct {
	Location string            // "" is a problem on creation, and "unchanged" after it
	Tags     map[string]string // nil = none on PUT, unchanged on PATCH
	Problems []*fault.Error    // what the wire form got wrong already, in field order
	Unread   error             // why the body could not be read at all
}

// verdict joins what is wrong with a request. A body that could not be read
// has no other problem.
func (t Tracked) verdict(problems []*fault.Error) error {
	if t.Unread != nil {
		return t.Unread
	}
	return joinInOrder(problems, trackedOrder, "")
}

// trackedOrder is the order of the members of tracked resources.
var trackedOrder = []string{"id", "name", "type", "location", "tags", "identity", "properties.inputSchema", "properties.inputSchemaMapping", "properties.source", "properties.topicType", "properties"}

func (t Tracked) check(name resource.NameRule, id resource.ID) []*fault.Error {
	problems := []*fault.Error{name.Check(id.Name())}
	problems = append(problems, t.Problems...)
	if t.Location == "" {
		problems = append(problems, &fault.Error{
			Kind: fault.Invalid, Code: "LocationRequired", Target: "location",
			Message: "The location property is required for this definition.",
		})
	}
	return append(problems, resource.CheckTags(t.Tags)...)
}

// moved returns a Conflict when a PUT changes where an existing resource is.
func (t Tracked) moved(meta resource.Meta) error {
	if resource.NormalizeLocation(t.Location) == meta.Location {
		return nil
	}
	return &fault.Error{Kind: fault.Conflict, Code: "InvalidResourceLocation", Target: "location", Message: "The resource '" + meta.ID.Name() +
		"' already exists in location '" + meta.Location + "'. A resource cannot be moved to '" + resource.NormalizeLocation(t.Location) + "'; delete it first or use another name."}
}

func (t Tracked) meta(id resource.ID, caller access.Caller) resource.Meta {
	now := stamp(caller)
	return resource.Meta{ID: id, Location: resource.NormalizeLocation(t.Location), Tags: t.Tags, Created: now, Modified: now}
}

// Group returns a resource group.
func (p *Plane) Group(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.ResourceGroup], error) {
	if err := p.authorize(ctx, caller, actionGroups+"read", id); err != nil {
		return resource.Item[resource.ResourceGroup]{}, err
	}
	return p.group(id)
}

// Groups returns the resource groups that the caller may read. Whoever may not
// list them all sees those that are granted one by one.
// Source: spec/access.md section 7.
func (p *Plane) Groups(caller access.Caller, subscription resource.ID) ([]resource.Item[resource.ResourceGroup], error) {
	if err := p.checkSubscription(subscription); err != nil {
		return nil, err
	}
	var out []resource.Item[resource.ResourceGroup]
	for _, g := range p.Store.ResourceGroups.List("") {
		if p.Access.Allowed(caller, actionGroups+"read", g.Value.ID) {
			out = append(out, g)
		}
	}
	return out, nil
}

// PutGroup creates a resource group or replaces its tags.
func (p *Plane) PutGroup(ctx context.Context, caller access.Caller, id resource.ID, t Tracked, c Precondition) (item resource.Item[resource.ResourceGroup], created bool, err error) {
	if err := p.authorize(ctx, caller, actionGroups+"write", id); err != nil {
		return item, false, err
	}
	if err := p.checkSubscription(id); err != nil {
		return item, false, err
	}
	if err := t.verdict(t.check(resource.ResourceGroupName, id)); err != nil {
		return item, false, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	key := id.Key()
	old, exists := p.Store.ResourceGroups.Get(key)
	if err := c.Check(etagOf(old, exists)); err != nil {
		return item, false, err
	}
	if !exists {
		v := resource.ResourceGroup{Meta: t.meta(p.subscription.Child("resourceGroups", id.Name()), caller)}
		item, err = p.Store.ResourceGroups.Create(ctx, key, v)
	} else {
		if err := t.moved(old.Value.Meta); err != nil {
			return item, false, err
		}
		v := old.Value
		v.Tags, v.Modified = t.Tags, stamp(caller)
		item, err = p.Store.ResourceGroups.Update(ctx, key, v, old.Revision)
	}
	if err == nil {
		p.changed(ctx, caller, "put", item.Value.ID)
	}
	return item, !exists, err
}

// PatchGroup replaces a resource group's tags, when there are any.
func (p *Plane) PatchGroup(ctx context.Context, caller access.Caller, id resource.ID, t Tracked, c Precondition) (item resource.Item[resource.ResourceGroup], err error) {
	if err := p.authorize(ctx, caller, actionGroups+"write", id); err != nil {
		return item, err
	}
	if err := t.verdict(append(t.Problems, resource.CheckTags(t.Tags)...)); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	old, err := p.group(id)
	if err != nil {
		return item, err
	}
	if err := c.Check(old.ETag()); err != nil {
		return item, err
	}
	if t.Tags == nil {
		return old, nil
	}
	v := old.Value
	v.Tags, v.Modified = t.Tags, stamp(caller)
	item, err = p.Store.ResourceGroups.Update(ctx, id.Key(), v, old.Revision)
	if err == nil {
		p.changed(ctx, caller, "patch", v.ID)
	}
	return item, err
}

// DeleteGroup removes a resource group with everything in it and reports whether
// it was there.
func (p *Plane) DeleteGroup(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionGroups+"delete", id); err != nil {
		return false, err
	}
	if err := p.checkSubscription(id); err != nil {
		return false, err
	}
	g, exists := p.Store.ResourceGroups.Get(id.Key())
	if err := c.Check(etagOf(g, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.mayClear(caller, id); err != nil {
		return false, err
	}
	for _, d := range p.Store.Domains.List("") {
		if id.Contains(d.Value.ID) {
			if err := p.clearDomain(ctx, d); err != nil {
				return false, err
			}
		}
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	g, exists = p.Store.ResourceGroups.Get(id.Key())
	if err := c.Check(etagOf(g, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.mayClear(caller, id); err != nil { // something may have come meanwhile
		return false, err
	}
	for _, t := range p.Store.Topics.List("") {
		if id.Contains(t.Value.ID) {
			if err := p.removeTopic(ctx, t); err != nil {
				return false, err
			}
		}
	}
	for _, d := range p.Store.Domains.List("") {
		if id.Contains(d.Value.ID) {
			if err := p.removeDomain(ctx, d); err != nil {
				return false, err
			}
		}
	}
	for _, s := range p.Store.SystemTopics.List("") {
		if id.Contains(s.Value.ID) {
			if err := p.removeSystemTopic(ctx, s); err != nil {
				return false, err
			}
		}
	}
	for _, w := range p.Store.Workspaces.List("") {
		if id.Contains(w.Value.ID) {
			if err := p.removeWorkspace(ctx, w); err != nil {
				return false, err
			}
		}
	}
	for _, c := range p.Store.Connections.List("") {
		if id.Contains(c.Value.ID) {
			if err := p.removeConnection(ctx, c); err != nil {
				return false, err
			}
		}
	}
	if err := p.removeGranted(ctx, func() error { return p.Store.ResourceGroups.Delete(ctx, g.Key, g.Revision) }, g.Value.ID); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", g.Value.ID)
	return true, nil
}

// mayClear returns nil unless a deny assignment keeps the caller from deleting something
// that goes with a resource group.
func (p *Plane) mayClear(caller access.Caller, group resource.ID) error {
	var inside []resource.ID
	for _, t := range p.Store.Topics.List("") {
		inside = append(inside, t.Value.ID)
	}
	for _, d := range p.Store.Domains.List("") {
		inside = append(inside, d.Value.ID)
	}
	for _, s := range p.Store.SystemTopics.List("") {
		inside = append(inside, s.Value.ID)
	}
	for _, w := range p.Store.Workspaces.List("") {
		inside = append(inside, w.Value.ID)
	}
	for _, c := range p.Store.Connections.List("") {
		inside = append(inside, c.Value.ID)
	}
	for _, id := range inside {
		if group.Contains(id) {
			if err := p.Access.CheckNotDenied(caller, id.Type()+"/delete", id); err != nil {
				return err
			}
		}
	}
	return nil
}

func etagOf[T any](item resource.Item[T], exists bool) string {
	if !exists {
		return ""
	}
	return item.ETag()
}

// Subscription returns the one subscription, false when the caller has no role at,
// above or below it. Source: spec/access.md section 7.
func (p *Plane) Subscription(caller access.Caller) (resource.ID, bool) {
	f := access.AssignmentFilter{AssignedTo: caller.ObjectID}
	return p.subscription, caller.ObjectID != "" && len(p.Directory.Assignments(p.subscription, f)) > 0
}

// GetSubscription returns the subscription of an id.
func (p *Plane) GetSubscription(ctx context.Context, caller access.Caller, id resource.ID) (resource.ID, error) {
	if _, visible := p.Subscription(caller); !visible || !id.Equal(p.subscription) {
		if err := p.authorize(ctx, caller, "Microsoft.Resources/subscriptions/read", id); err != nil {
			return resource.ID{}, err
		}
	}
	return p.subscription, p.checkSubscription(id)
}

// Locations returns the regions that something lies in, and the one that the first
// start named.
func (p *Plane) Locations() []string {
	seen := map[string]bool{p.Location: true}
	for _, g := range p.Store.ResourceGroups.List("") {
		seen[g.Value.Location] = true
	}
	return slices.Sorted(maps.Keys(seen))
}
