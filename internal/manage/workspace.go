package manage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
	"github.com/carillon-events/carillon/mlevent"
)

const actionWorkspaces = "Microsoft.MachineLearningServices/workspaces/"

// WorkspaceChange is what a request sets on a workspace. Nil and "" mean the
// default on PUT, unchanged on PATCH.
type WorkspaceChange struct {
	Tracked
	StatusEvents  *[]string
	PayloadCasing string
	DriftRaiseOn  string
	ExtraEvents   *[]string       // of mlevent.ExtraTypes, in any case, with or without their prefix
	Extra         json.RawMessage // members that are kept and shown as they came
}

// Workspace returns a workspace.
func (p *Plane) Workspace(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.Workspace], error) {
	return readOne(ctx, p, caller, actionWorkspaces, p.Store.Workspaces, id)
}

// WorkspaceFor returns a workspace to whoever may do some action at target, which
// lies in it.
func (p *Plane) WorkspaceFor(ctx context.Context, caller access.Caller, action string, target, id resource.ID) (resource.Item[resource.Workspace], error) {
	if err := p.authorize(ctx, caller, action, target); err != nil {
		return resource.Item[resource.Workspace]{}, err
	}
	return p.workspace(id)
}

func (p *Plane) workspace(id resource.ID) (resource.Item[resource.Workspace], error) {
	return findOne(p, p.Store.Workspaces, id)
}

// Workspaces returns the workspaces of a subscription or a resource group.
func (p *Plane) Workspaces(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[resource.Workspace], error) {
	return readAll(ctx, p, caller, actionWorkspaces, p.Store.Workspaces, scope, func(w *resource.Workspace) resource.ID { return w.ID })
}

// PutWorkspace creates a workspace with its system topic, or replaces what one
// that exists says.
func (p *Plane) PutWorkspace(ctx context.Context, caller access.Caller, id resource.ID, t WorkspaceChange, c Precondition) (item resource.Item[resource.Workspace], err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"write", id); err != nil {
		return item, err
	}
	group, err := p.group(id)
	if err != nil {
		return item, err
	}
	if err := t.verdict(append(t.check(resource.WorkspaceName, id), t.problems()...)); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	key := id.Key()
	old, exists := p.Store.Workspaces.Get(key)
	if err := c.Check(etagOf(old, exists)); err != nil {
		return item, err
	}
	v := old.Value
	if exists {
		if err := t.moved(v.Meta); err != nil {
			return item, err
		}
		v.Tags, v.Modified = t.Tags, stamp(caller)
	} else {
		if _, err := p.group(id); err != nil { // it may have gone meanwhile
			return item, err
		}
		v = resource.Workspace{
			Meta: t.meta(settle(group.Value.ID, resource.TypeWorkspace, id.Name()), caller),
			UID:  resource.NewUID(), TopicUID: resource.NewUID(), Partition: p.Partition(),
		}
	}
	v.StatusEvents, v.PayloadCasing, v.DriftRaiseOn, v.ExtraEvents = []string{string(workspace.Failed)}, resource.PayloadCamelCase, resource.DriftOnCompleted, nil
	t.apply(&v)
	v.Extra = t.Extra
	if exists {
		item, err = p.Store.Workspaces.Update(ctx, key, v, old.Revision)
	} else {
		item, err = p.Store.Workspaces.Create(ctx, key, v)
	}
	if err != nil {
		return item, err
	}
	if err := p.ensureSystemTopic(ctx, caller, &v); err != nil {
		return item, err
	}
	p.changed(ctx, caller, "put", v.ID)
	return item, nil
}

// PatchWorkspace changes what the request says and leaves the rest.
func (p *Plane) PatchWorkspace(ctx context.Context, caller access.Caller, id resource.ID, t WorkspaceChange, c Precondition) (item resource.Item[resource.Workspace], err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"write", id); err != nil {
		return item, err
	}
	problems := append(t.Problems, resource.CheckTags(t.Tags)...)
	if err := t.verdict(append(problems, t.problems()...)); err != nil {
		return item, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	old, err := p.workspace(id)
	if err != nil {
		return item, err
	}
	if err := c.Check(old.ETag()); err != nil {
		return item, err
	}
	v := old.Value
	if t.Tags != nil {
		v.Tags = t.Tags
	}
	t.apply(&v)
	if v.Extra, err = mergeExtra(v.Extra, t.Extra); err != nil {
		return item, err
	}
	v.Modified = stamp(caller)
	item, err = p.Store.Workspaces.Update(ctx, id.Key(), v, old.Revision)
	if err == nil {
		p.changed(ctx, caller, "patch", v.ID)
	}
	return item, err
}

func (t WorkspaceChange) problems() []*fault.Error {
	var problems []*fault.Error
	if t.StatusEvents != nil {
		for i, name := range *t.StatusEvents {
			if _, ok := workspace.ParseRunStatus(name); !ok {
				problems = append(problems, fault.Field(fmt.Sprintf("properties.statusEvents[%d]", i), "The run status '%s' is not known: use %s.", name, strings.Join(runStatusNames(), ", ")))
			}
		}
	}
	if _, ok := oneOf(t.PayloadCasing, resource.PayloadCamelCase, resource.PayloadDocumented); t.PayloadCasing != "" && !ok {
		problems = append(problems, fault.Field("properties.payloadCasing", "The payload casing '%s' is not known: use camelCase or documented.", t.PayloadCasing))
	}
	if _, ok := oneOf(t.DriftRaiseOn, resource.DriftOnCompleted, resource.DriftOnDrift); t.DriftRaiseOn != "" && !ok {
		problems = append(problems, fault.Field("properties.driftRaiseOn", "The value '%s' of driftRaiseOn is not known: use completed or drift.", t.DriftRaiseOn))
	}
	if t.ExtraEvents != nil {
		for i, name := range *t.ExtraEvents {
			if _, ok := extraEvent(name); !ok {
				problems = append(problems, fault.Field(fmt.Sprintf("properties.extraEvents[%d]", i), "The event '%.80s' is not one that can be switched on: use %s.", name, strings.Join(extraEvents(), ", ")))
			}
		}
	}
	return append(problems, checkExtra(t.Extra))
}

// extraEvents are the names of mlevent.ExtraTypes without their prefix.
func extraEvents() []string {
	names := mlevent.ExtraTypes()
	for i, name := range names {
		names[i] = strings.TrimPrefix(name, mlevent.ExtraPrefix)
	}
	return names
}

// extraEvent gives the name of an event type of ours, with or without its prefix, its
// canonical spelling without.
func extraEvent(name string) (string, bool) {
	if n := len(mlevent.ExtraPrefix); len(name) > n && strings.EqualFold(name[:n], mlevent.ExtraPrefix) {
		name = name[n:]
	}
	return oneOf(name, extraEvents()...)
}

// apply sets what the request says. It has been checked.
func (t WorkspaceChange) apply(w *resource.Workspace) {
	if t.StatusEvents != nil {
		w.StatusEvents = []string{}
		for _, name := range *t.StatusEvents {
			status, _ := workspace.ParseRunStatus(name)
			if !slices.Contains(w.StatusEvents, string(status)) {
				w.StatusEvents = append(w.StatusEvents, string(status))
			}
		}
	}
	if casing, ok := oneOf(t.PayloadCasing, resource.PayloadCamelCase, resource.PayloadDocumented); ok {
		w.PayloadCasing = casing
	}
	if on, ok := oneOf(t.DriftRaiseOn, resource.DriftOnCompleted, resource.DriftOnDrift); ok {
		w.DriftRaiseOn = on
	}
	if t.ExtraEvents != nil {
		w.ExtraEvents = nil
		for _, name := range *t.ExtraEvents {
			if name, _ = extraEvent(name); !slices.Contains(w.ExtraEvents, name) {
				w.ExtraEvents = append(w.ExtraEvents, name)
			}
		}
	}
}

// oneOf gives a word its canonical spelling.
func oneOf(word string, known ...string) (string, bool) {
	for _, k := range known {
		if strings.EqualFold(word, k) {
			return k, true
		}
	}
	return "", false
}

func runStatusNames() []string {
	names := make([]string, len(workspace.RunStatuses))
	for i, s := range workspace.RunStatuses {
		names[i] = string(s)
	}
	return names
}

// DeleteWorkspace removes a workspace with everything recorded in it, its system
// topic and its event subscriptions, and reports whether it was there.
func (p *Plane) DeleteWorkspace(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"delete", id); err != nil {
		return false, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	w, exists := p.Store.Workspaces.Get(id.Key())
	if err := c.Check(etagOf(w, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.removeWorkspace(ctx, w); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", w.Value.ID)
	return true, nil
}

// removeWorkspace needs structure to be locked for writing.
func (p *Plane) removeWorkspace(ctx context.Context, w resource.Item[resource.Workspace]) error {
	if err := p.removeEventSubscriptions(ctx, w.Value.ID); err != nil {
		return err
	}
	for _, t := range p.Store.SystemTopics.List("") {
		if t.Value.Source.Equal(w.Value.ID) {
			if err := p.removeSystemTopic(ctx, t); err != nil {
				return err
			}
		}
	}
	if m, ok := p.Store.MLflowServers.Get(w.Key); ok {
		if err := p.Store.MLflowServers.Delete(ctx, m.Key, m.Revision); err != nil {
			return err
		}
	}
	for _, c := range p.Store.Clusters.List(w.Key + "/") {
		if err := p.Store.Clusters.Delete(ctx, c.Key, c.Revision); err != nil {
			return err
		}
	}
	if k, ok := p.Store.LineageKeys.Get(w.Key); ok {
		if err := p.Store.LineageKeys.Delete(ctx, k.Key, k.Revision); err != nil {
			return err
		}
	}
	if err := p.removeGranted(ctx, func() error { return p.Store.Workspaces.Delete(ctx, w.Key, w.Revision) }, w.Value.ID); err != nil {
		return err
	}
	if p.Facts == nil {
		return nil
	}
	return p.Facts.DeleteAll(ctx, w.Value.UID)
}
