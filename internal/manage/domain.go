package manage

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// DomainChange is what a request sets on a domain.
type DomainChange struct {
	TopicChange
	AutoCreate, AutoDelete *bool // nil = true on PUT, unchanged on PATCH
}

func (c *DomainChange) set(d *resource.Domain) {
	if c.AutoCreate != nil {
		d.AutoCreate = *c.AutoCreate
	}
	if c.AutoDelete != nil {
		d.AutoDelete = *c.AutoDelete
	}
}

func (p *Plane) domains() inlet[resource.Domain] {
	return inlet[resource.Domain]{p, resource.TypeDomain, p.Store.Domains, resource.DomainName, func(d *resource.Domain) *resource.Topic { return &d.Topic }, p.removeDomain, p.clearDomain}
}

// Domain returns a domain.
func (p *Plane) Domain(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.Domain], error) {
	return p.domains().get(ctx, caller, id)
}

func (p *Plane) domain(id resource.ID) (resource.Item[resource.Domain], error) {
	return p.domains().find(id)
}

// Domains returns the domains of a subscription or a resource group.
func (p *Plane) Domains(ctx context.Context, caller access.Caller, scope resource.ID) ([]resource.Item[resource.Domain], error) {
	return p.domains().list(ctx, caller, scope)
}

// PutDomain creates a domain or replaces it. Its keys, its input schema with the
// mapping, its endpoint and its topics stay.
func (p *Plane) PutDomain(ctx context.Context, caller access.Caller, id resource.ID, d DomainChange, c Precondition) (resource.Item[resource.Domain], error) {
	return p.domains().put(ctx, caller, id, d.TopicChange, func(v *resource.Domain) {
		v.AutoCreate, v.AutoDelete = true, true
		d.set(v)
	}, c)
}

// PatchDomain changes tags and settings of a domain.
func (p *Plane) PatchDomain(ctx context.Context, caller access.Caller, id resource.ID, d DomainChange, c Precondition) (resource.Item[resource.Domain], error) {
	return p.domains().patch(ctx, caller, id, d.TopicChange, d.set, c)
}

// DeleteDomain removes a domain with its topics and all event subscriptions, and reports
// whether it was there. One that is cut short has removed some of the event subscriptions;
// repeated, it goes on.
func (p *Plane) DeleteDomain(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	return p.domains().drop(ctx, caller, id, c)
}

// DomainKeys returns the two access keys of a domain.
func (p *Plane) DomainKeys(ctx context.Context, caller access.Caller, id resource.ID) ([2]string, error) {
	return p.domains().keys(ctx, caller, id)
}

// RegenerateDomainKey replaces one access key, as RegenerateTopicKey does.
func (p *Plane) RegenerateDomainKey(ctx context.Context, caller access.Caller, id resource.ID, name string, unread error) ([2]string, error) {
	return p.domains().regenerate(ctx, caller, id, name, unread)
}

// clearDomain removes the event subscriptions of a domain's topics one by one, so that
// nobody waits while very many go.
func (p *Plane) clearDomain(ctx context.Context, d resource.Item[resource.Domain]) error {
	for _, es := range p.Store.EventSubscriptions.List(topicsOf(d.Value.ID)) {
		ctx, unlock := p.alter(ctx)
		now, ok := p.Store.EventSubscriptions.Get(es.Key)
		var err error
		if ok {
			err = p.removeEventSubscription(ctx, now)
		}
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// removeDomain needs structure to be locked for writing. The records of the topics stay
// behind: without their domain they are nothing.
func (p *Plane) removeDomain(ctx context.Context, d resource.Item[resource.Domain]) error {
	for _, es := range p.Store.EventSubscriptions.List(topicsOf(d.Value.ID)) {
		if err := p.removeEventSubscription(ctx, es); err != nil {
			return err
		}
	}
	if err := p.removeEventSubscriptions(ctx, d.Value.ID); err != nil {
		return err
	}
	return p.removeGranted(ctx, func() error {
		if err := p.Store.Domains.Delete(ctx, d.Key, d.Revision); err != nil {
			return err
		}
		select {
		case p.orphans <- struct{}{}:
		default:
		}
		return nil
	}, d.Value.ID)
}

// removeDomainTopic needs structure to be locked for writing.
func (p *Plane) removeDomainTopic(ctx context.Context, t resource.Item[resource.DomainTopic]) error {
	if err := p.removeEventSubscriptions(ctx, t.Value.ID); err != nil {
		return err
	}
	return p.removeGranted(ctx, func() error { return p.Store.DomainTopics.Delete(ctx, t.Key, t.Revision) }, t.Value.ID)
}

// topicsOf begins the keys of a domain's topics.
func topicsOf(domain resource.ID) string { return domain.Child("topics", "").Key() }

const actionDomainTopics = resource.TypeDomainTopic + "/"

// DomainTopic returns a topic of a domain.
func (p *Plane) DomainTopic(ctx context.Context, caller access.Caller, id resource.ID) (resource.Item[resource.DomainTopic], error) {
	if err := p.authorize(ctx, caller, actionDomainTopics+"read", id); err != nil {
		return resource.Item[resource.DomainTopic]{}, err
	}
	_, t, err := p.domainTopic(id)
	return t, err
}

func (p *Plane) domainTopic(id resource.ID) (resource.Item[resource.Domain], resource.Item[resource.DomainTopic], error) {
	d, err := p.domain(id.Parent())
	if err != nil {
		return d, resource.Item[resource.DomainTopic]{}, err
	}
	t, ok := p.Store.DomainTopics.Get(id.Key())
	if !ok || t.Value.Domain != d.Value.UID {
		return d, resource.Item[resource.DomainTopic]{}, resourceNotFound(id)
	}
	return d, t, nil
}

// DomainTopics returns topics of a domain, in the order of their keys: those whose names
// keep accepts, nil for all, from behind a key on, at most a number of them. more says
// that there are others.
func (p *Plane) DomainTopics(ctx context.Context, caller access.Caller, domain resource.ID, part Part) ([]resource.Item[resource.DomainTopic], error) {
	if err := p.authorize(ctx, caller, actionDomainTopics+"read", domain); err != nil {
		return nil, err
	}
	d, err := p.domain(domain)
	if err != nil {
		return nil, err
	}
	return gather(p.Store.DomainTopics, topicsOf(d.Value.ID), part, func(t *resource.DomainTopic) string { return t.ID.Name() },
		func(t *resource.DomainTopic) bool { return t.Domain == d.Value.UID }, nil), nil
}

// PutDomainTopic makes a topic of a domain; one that is there stays as it is.
func (p *Plane) PutDomainTopic(ctx context.Context, caller access.Caller, id resource.ID, t Tracked, c Precondition) (item resource.Item[resource.DomainTopic], err error) {
	if err := p.authorize(ctx, caller, actionDomainTopics+"write", id); err != nil {
		return item, err
	}
	if _, err := p.domain(id.Parent()); err != nil {
		return item, err
	}
	if err := t.verdict(append(t.Problems, resource.DomainTopicName.Check(id.Name()))); err != nil {
		return item, err
	}
	ctx, unlock := p.alterOne(ctx, id.Key())
	defer unlock()
	d, item, err := p.domainTopic(id)
	exists := err == nil
	if err != nil && d.Key == "" {
		return item, err // the domain went meanwhile
	}
	if err := c.Check(etagOf(item, exists)); err != nil || exists {
		return item, err
	}
	item, err = p.createDomainTopic(ctx, &d.Value, id.Name(), stamp(caller), false)
	if fault.Is(err, fault.Conflict) || fault.Is(err, fault.PreconditionFailed) { // its first event subscription was faster
		_, item, err = p.domainTopic(id)
		return item, err
	}
	if err == nil {
		p.changed(ctx, caller, "put", item.Value.ID)
	}
	return item, err
}

// createDomainTopic stores a topic that is not there. It takes the place of what an
// earlier domain of the name left behind.
func (p *Plane) createDomainTopic(ctx context.Context, d *resource.Domain, name string, by resource.Stamp, subscribed bool) (resource.Item[resource.DomainTopic], error) {
	t := resource.DomainTopic{ID: d.ID.Child("topics", name), UID: resource.NewUID(), Domain: d.UID, Created: by, Subscribed: subscribed}
	key := t.ID.Key()
	if left, ok := p.Store.DomainTopics.Get(key); ok && left.Value.Domain != d.UID {
		return p.Store.DomainTopics.Update(ctx, key, t, left.Revision)
	}
	return p.Store.DomainTopics.Create(ctx, key, t)
}

// DeleteDomainTopic removes a topic of a domain with its event subscriptions and reports
// whether it was there.
func (p *Plane) DeleteDomainTopic(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionDomainTopics+"delete", id); err != nil {
		return false, err
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	_, t, err := p.domainTopic(id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return false, err
	}
	exists := err == nil
	if err := c.Check(etagOf(t, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.removeDomainTopic(ctx, t); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", t.Value.ID)
	return true, nil
}

// domainTopicSource is the topic of a domain as what event subscriptions hang on.
func domainTopicSource(d *resource.Domain, id resource.ID, made time.Time) source {
	s := topicSource(&d.Topic, resource.TopicTypeDomain)
	s.id, s.raises, s.since, s.stream.DomainTopic = id, id, made, strings.ToLower(id.Name())
	return s
}

// findSourceFor is findSource for a request that puts an event subscription there: a
// topic of a domain may not be there yet. Source: spec/events.md section 8.7.
func (p *Plane) findSourceFor(parent resource.ID, put bool) (source, error) {
	s, err := p.findSource(parent)
	if !put || !fault.Is(err, fault.NotFound) || !parent.IsType(resource.TypeDomainTopic) {
		return s, err
	}
	d, err := p.domain(parent.Parent())
	if err != nil {
		return s, err
	}
	if !d.Value.AutoCreate {
		return s, notFound("ResourceNotFound", "The domain '%s' has no topic '%s', and makes none for an event subscription: its autoCreateTopicWithFirstSubscription is false. Create the topic first.", d.Value.ID.Name(), parent.Name())
	}
	if problem := resource.DomainTopicName.Check(parent.Name()); problem != nil {
		return s, problem
	}
	return domainTopicSource(&d.Value, d.Value.ID.Child("topics", parent.Name()), time.Now()), nil
}

// joinDomainTopic notes that an event subscription is about to hang on a topic of a
// domain, which it makes if need be. It needs structure to be locked for reading, and
// does nothing for other sources.
func (p *Plane) joinDomainTopic(ctx context.Context, s source, by resource.Stamp) error {
	for s.stream.DomainTopic != "" {
		d, t, err := p.domainTopic(s.id)
		switch {
		case err == nil && t.Value.Subscribed:
			return nil
		case err == nil:
			t.Value.Subscribed = true
			_, err = p.Store.DomainTopics.Update(ctx, t.Key, t.Value, t.Revision)
		case d.Key != "":
			_, err = p.createDomainTopic(ctx, &d.Value, s.id.Name(), by, true)
		}
		if !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.PreconditionFailed) {
			return err
		} // another event subscription was faster
	}
	return nil
}

// leaveDomainTopic follows the removal of an event subscription: where it was the last of
// a topic of a domain, the topic goes, if the domain says so. The caller holds no lock.
func (p *Plane) leaveDomainTopic(ctx context.Context, scope resource.ID) error {
	if scope.IsZero() || !scope.IsType(resource.TypeDomainTopic) {
		return nil
	}
	ctx, unlock := p.alter(ctx)
	defer unlock()
	d, t, err := p.domainTopic(scope)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil || !t.Value.Subscribed || len(p.eventSubscriptionsAt(t.Value.ID)) > 0 {
		return err
	}
	if d.Value.AutoDelete {
		return p.removeDomainTopic(ctx, t)
	}
	t.Value.Subscribed = false
	_, err = p.Store.DomainTopics.Update(ctx, t.Key, t.Value, t.Revision)
	return err
}

// tidyDomainTopics removes the records of topics whose domains are gone, as soon as there
// are some. At the start it also finishes what a crash cut short: topics whose last event
// subscription went, or whose first never came. It returns when ctx ends.
func (p *Plane) tidyDomainTopics(ctx context.Context) {
	p.tidy(ctx, true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.orphans:
			p.tidy(ctx, false)
		}
	}
}

func (p *Plane) tidy(ctx context.Context, start bool) {
	var left []resource.Item[resource.DomainTopic]
	p.Store.DomainTopics.Scan("", "", func(t resource.Item[resource.DomainTopic]) bool {
		if p.orphaned(&t.Value) || start && t.Value.Subscribed {
			left = append(left, t)
		}
		return true
	})
	for _, t := range left {
		if ctx.Err() != nil {
			return
		}
		var err error
		if p.orphaned(&t.Value) {
			err = p.Store.DomainTopics.Delete(ctx, t.Key, t.Revision)
		} else {
			err = p.leaveDomainTopic(ctx, t.Value.ID)
		}
		if err != nil && !fault.Is(err, fault.PreconditionFailed) { // a new one took its place
			p.Log.LogAttrs(ctx, slog.LevelError, "record of a domain topic cannot be removed",
				slog.String(telemetry.Resource, t.Value.ID.String()), slog.String(telemetry.Error, err.Error()))
			return
		}
	}
}

// orphaned reports whether the domain that a topic was in is gone.
func (p *Plane) orphaned(t *resource.DomainTopic) bool {
	d, ok := p.Store.Domains.Get(t.ID.Parent().Key())
	return !ok || d.Value.UID != t.Domain
}
