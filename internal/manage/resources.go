package manage

import (
	"context"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/resource"
)

// Resources are the tracked resources below a scope that one caller may read.
type Resources struct {
	Topics       []resource.Item[resource.Topic]
	Domains      []resource.Item[resource.Domain]
	SystemTopics []resource.Item[resource.SystemTopic]
	Workspaces   []resource.Item[resource.Workspace]
}

// Resources returns the tracked resources of a subscription or a resource group.
// Whoever may not read them all sees those that are granted one by one.
// Source: spec/access.md section 7, spec/management.md section 12.
func (p *Plane) Resources(ctx context.Context, caller access.Caller, scope resource.ID) (r Resources, err error) {
	if scope.ResourceGroup() == "" {
		_, err = p.GetSubscription(ctx, caller, scope)
	} else {
		_, err = p.Group(ctx, caller, scope)
	}
	if err != nil {
		return r, err
	}
	r.Topics = readable(p, caller, resource.TypeTopic+"/", p.Store.Topics, scope, func(t *resource.Topic) resource.ID { return t.ID })
	r.Domains = readable(p, caller, resource.TypeDomain+"/", p.Store.Domains, scope, func(d *resource.Domain) resource.ID { return d.ID })
	r.SystemTopics = readable(p, caller, actionSystemTopics, p.Store.SystemTopics, scope, func(t *resource.SystemTopic) resource.ID { return t.ID })
	r.Workspaces = readable(p, caller, actionWorkspaces, p.Store.Workspaces, scope, func(w *resource.Workspace) resource.ID { return w.ID })
	return r, nil
}

// readable returns the records below a scope that the caller may read.
func readable[T any](p *Plane, caller access.Caller, actions string, c *resource.Collection[T], scope resource.ID, id func(*T) resource.ID) []resource.Item[T] {
	var out []resource.Item[T]
	for _, item := range c.List("") {
		if at := id(&item.Value); scope.Contains(at) && p.Access.Allowed(caller, actions+"read", at) {
			out = append(out, item)
		}
	}
	return out
}
