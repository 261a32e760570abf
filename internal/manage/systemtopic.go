package manage

import (
	"context"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const actionSystemTopics = "Microsoft.EventGrid/systemTopics/"

// SystemTopicChange is what a request sets on a system topic.
type SystemTopicChange struct {
	Tracked
	Source    string
	TopicType string
}

// SystemTopic returns a system topic.
func (p *Plane) SystemTopic(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.SystemTopic], error) {
	return readOne(ctx, p, caller, actionSystemTopics, p.Store.SystemTopics, id)
}

func (p *Plane) systemTopic(id resource.ID) (resource.Item[resource.SystemTopic], error) {
	return findOne(p, p.Store.SystemTopics, id)
}

// SystemTopics returns the system topics of a subscription or a resource group.
func (p *Plane) SystemTopics(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[resource.SystemTopic], error) {
	return readAll(ctx, p, caller, actionSystemTopics, p.Store.SystemTopics, scope, func(t *resource.SystemTopic) resource.ID { return t.ID })
}

// SystemTopicOf returns the system topic of a source, when it has one. The caller
// needs the right to read extension topics there.
func (p *Plane) SystemTopicOf(ctx context.Context, caller access.Caller, source resource.ID) (resource.Item[resource.SystemTopic], error) {
	if err := p.authorize(ctx, caller, "Microsoft.EventGrid/extensionTopics/read", source); err != nil {
		return resource.Item[resource.SystemTopic]{}, err
	}
	item, ok := p.systemTopicOf(source)
	if !ok {
		return item, notFound("ResourceNotFound", "The source '%s' has no system topic.", source)
	}
	return item, nil
}

func (p *Plane) systemTopicOf(source resource.ID) (resource.Item[resource.SystemTopic], bool) {
	for _, item := range p.Store.SystemTopics.List("") {
		if item.Value.Source.Equal(source) {
			return item, true
		}
	}
	return resource.Item[resource.SystemTopic]{}, false
}

// PutSystemTopic creates a system topic for a workspace or replaces its tags. A
// source has one system topic: the one made with the workspace gives way as long
// as no event subscription hangs on it.
func (p *Plane) PutSystemTopic(ctx context.Context, caller access.Caller, id resource.ID, t SystemTopicChange, c Precondition) (item resource.Item[resource.SystemTopic], err error) {
	if err := p.authorize(ctx, caller, actionSystemTopics+"write", id); err != nil {
		return item, err
	}
	source, problems := t.source()
	if !source.IsZero() {
		if err := p.checkSource(caller, id, source); err != nil {
			return item, err
		}
	}
	group, err := p.group(id)
	if err != nil {
		return item, err
	}
	if err := t.verdict(append(t.check(resource.SystemTopicName, id), problems...)); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	key := id.Key()
	old, exists := p.Store.SystemTopics.Get(key)
	if err := c.Check(etagOf(old, exists)); err != nil {
		return item, err
	}
	if exists {
		if err := t.moved(old.Value.Meta); err != nil {
			return item, err
		}
		if !old.Value.Source.Equal(source) {
			return item, fault.Field("properties.source", "The source of system topic '%s' is '%s' and cannot be changed. Delete the system topic first.", id.Name(), old.Value.Source)
		}
		v := old.Value
		v.Tags, v.Automatic, v.Modified = t.Tags, false, stamp(caller)
		item, err = p.Store.SystemTopics.Update(ctx, key, v, old.Revision)
	} else {
		item, err = p.createSystemTopic(ctx, caller, group.Value.ID, id, source, t)
	}
	if err == nil {
		p.changed(ctx, caller, "put", item.Value.ID)
	}
	return item, err
}

func (p *Plane) createSystemTopic(ctx context.Context, caller access.Caller, group, id, source resource.ID, t SystemTopicChange) (item resource.Item[resource.SystemTopic], err error) {
	workspace, ok := p.Store.Workspaces.Get(source.Key())
	if !ok {
		return item, notFound("ResourceNotFound", "The source '%s' was not found. Create the workspace first.", source)
	}
	if got := resource.NormalizeLocation(t.Location); got != workspace.Value.Location {
		return item, fault.Field("location", "The location '%s' is not the source's: a system topic lives where its source is, in '%s'.", got, workspace.Value.Location)
	}
	if _, err := p.group(id); err != nil { // it may have gone meanwhile
		return item, err
	}
	if other, ok := p.systemTopicOf(source); ok {
		if !other.Value.Automatic || len(p.eventSubscriptionsAt(other.Value.ID)) > 0 {
			return item, fault.New(fault.Conflict, "Conflict", "The source '%s' has the system topic '%s' already; a source has one. Use that one, or delete it first.", source, other.Value.ID)
		}
		if err := p.removeSystemTopic(ctx, other); err != nil {
			return item, err
		}
	}
	v := resource.SystemTopic{
		Meta:   t.meta(settle(group, resource.TypeSystemTopic, id.Name()), caller),
		Source: workspace.Value.ID, TopicType: resource.TopicTypeWorkspace,
	}
	return p.Store.SystemTopics.Create(ctx, id.Key(), v)
}

// source reads source and topic type.
func (t SystemTopicChange) source() (resource.ID, []*fault.Error) {
	var problems []*fault.Error
	var source resource.ID
	switch parsed, err := resource.ParseID(t.Source); {
	case t.Source == "":
		problems = append(problems, fault.Field("properties.source", "A system topic needs a source: the resource id of a workspace."))
	case err != nil:
		problems = append(problems, fault.Field("properties.source", "The source is not a resource id: %v.", err))
	case !parsed.IsType(resource.TypeWorkspace):
		problems = append(problems, fault.Field("properties.source", "The source '%s' raises no events here: use the id of a %s.", t.Source, resource.TypeWorkspace))
	default:
		source = parsed
	}
	switch {
	case t.TopicType == "":
		problems = append(problems, fault.Field("properties.topicType", "A system topic needs a topic type: %s.", resource.TopicTypeWorkspace))
	case !strings.EqualFold(t.TopicType, resource.TopicTypeWorkspace):
		problems = append(problems, fault.Field("properties.topicType", "The topic type '%s' is not one that this server raises events of: use %s.", t.TopicType, resource.TopicTypeWorkspace))
	}
	return source, problems
}

// checkSource checks what making a system topic needs at its source: reading it,
// and the right to write event subscriptions there, for whoever owns a system
// topic can listen. Source: spec/access.md section 10, rules 3 and 4.
func (p *Plane) checkSource(caller access.Caller, id, source resource.ID) error {
	for _, action := range []string{actionWorkspaces + "read", "Microsoft.EventGrid/eventSubscriptions/write"} {
		if err := p.Access.Check(caller, action, source); err != nil {
			return err
		}
	}
	return p.Access.CheckEventSubscriptionWrite(caller, actionSystemTopics+"write", id, source)
}

// PatchSystemTopic replaces a system topic's tags, when there are any.
func (p *Plane) PatchSystemTopic(ctx context.Context, caller access.Caller, id resource.ID, t Tracked, c Precondition) (item resource.Item[resource.SystemTopic], err error) {
	if err := p.authorize(ctx, caller, actionSystemTopics+"write", id); err != nil {
		return item, err
	}
	if err := t.verdict(append(t.Problems, resource.CheckTags(t.Tags)...)); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	old, err := p.systemTopic(id)
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
	item, err = p.Store.SystemTopics.Update(ctx, id.Key(), v, old.Revision)
	if err == nil {
		p.changed(ctx, caller, "patch", v.ID)
	}
	return item, err
}

// DeleteSystemTopic removes a system topic with the event subscriptions made
// under it, and reports whether it was there. Those made on its source stay.
func (p *Plane) DeleteSystemTopic(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionSystemTopics+"delete", id); err != nil {
		return false, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	t, exists := p.Store.SystemTopics.Get(id.Key())
	if err := c.Check(etagOf(t, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.removeSystemTopic(ctx, t); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", t.Value.ID)
	return true, nil
}

// removeSystemTopic needs structure to be locked for writing.
func (p *Plane) removeSystemTopic(ctx context.Context, t resource.Item[resource.SystemTopic]) error {
	if err := p.removeEventSubscriptions(ctx, t.Value.ID); err != nil {
		return err
	}
	return p.removeGranted(ctx, func() error { return p.Store.SystemTopics.Delete(ctx, t.Key, t.Revision) }, t.Value.ID)
}

// ensureSystemTopic makes the system topic that a workspace shows when nobody
// made one, named like the workspace. structure must be locked for writing.
func (p *Plane) ensureSystemTopic(ctx context.Context, caller access.Caller, w *resource.Workspace) error {
	if _, ok := p.systemTopicOf(w.ID); ok {
		return nil
	}
	name := w.ID.Name()
	id := settle(w.ID.Parent(), resource.TypeSystemTopic, name)
	if _, taken := p.Store.SystemTopics.Get(id.Key()); taken {
		id = settle(w.ID.Parent(), resource.TypeSystemTopic, name+"-"+w.UID.String())
	}
	now := stamp(caller)
	_, err := p.Store.SystemTopics.Create(ctx, id.Key(), resource.SystemTopic{
		Meta:   resource.Meta{ID: id, Location: w.Location, Created: now, Modified: now},
		Source: w.ID, TopicType: resource.TopicTypeWorkspace, Automatic: true,
	})
	return err
}
