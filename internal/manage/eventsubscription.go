package manage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// EventSubscription is an event subscription as one caller sees it: it can be
// reached under two ids, and answers with the one that was asked for.
type EventSubscription struct {
	resource.Item[resource.EventSubscription]
	ID       resource.ID // in the form the caller used
	Topic    string      // id of what raises the events, its provider in lower case
	Location string      // of what raises the events

	IssuedKey string // the signing key that the request made; it is shown this once
}

// source is what an event subscription hangs on.
type source struct {
	id        resource.ID // canonical spelling of the parent: a topic, a domain or one of its topics, a workspace, a system topic
	raises    resource.ID // what raises the events: of a system topic the workspace, else the parent
	stream    resource.Stream
	schema    event.Schema
	mapping   *event.Mapping // of custom input
	location  string
	topicType string
	since     time.Time // of a topic of a domain: when it was made; what was published for its name before is none of its events
}

// parents are the kinds of resources that event subscriptions hang on.
var parents = []string{resource.TypeTopic, resource.TypeDomain, resource.TypeDomainTopic, resource.TypeSystemTopic, resource.TypeWorkspace}

// findSource looks up the parent of an event subscription.
func (p *Plane) findSource(parent resource.ID) (source, error) {
	switch {
	case parent.IsType(resource.TypeTopic):
		t, err := p.topic(parent)
		return topicSource(&t.Value, resource.TopicTypeCustom), err
	case parent.IsType(resource.TypeDomain):
		d, err := p.domain(parent)
		return topicSource(&d.Value.Topic, resource.TopicTypeDomain), err
	case parent.IsType(resource.TypeDomainTopic):
		d, t, err := p.domainTopic(parent)
		return domainTopicSource(&d.Value, t.Value.ID, t.Value.Created.At), err
	case parent.IsType(resource.TypeWorkspace):
		w, err := p.workspace(parent)
		return workspaceSource(w.Value.ID, &w.Value), err
	case parent.IsType(resource.TypeSystemTopic):
		t, err := p.systemTopic(parent)
		if err != nil {
			return source{}, err
		}
		w, err := p.workspace(t.Value.Source)
		return workspaceSource(t.Value.ID, &w.Value), err
	}
	return source{}, notFound("ResourceNotFound", "The resource '%s' raises no events here. Event subscriptions hang on %s.", parent, strings.Join(parents, ", "))
}

func topicSource(t *resource.Topic, topicType string) source {
	return source{t.ID, t.ID, resource.Stream{Topic: t.UID}, t.InputSchema, t.Mapping, t.Location, topicType, time.Time{}}
}

// raiser is what raises the events of a source: of a system topic the workspace behind
// it, of everything else itself. What is not there stands for itself.
func (p *Plane) raiser(source resource.ID) resource.ID {
	if source.IsType(resource.TypeSystemTopic) {
		if t, ok := p.Store.SystemTopics.Get(source.Key()); ok {
			return t.Value.Source
		}
	}
	return source
}

func workspaceSource(id resource.ID, w *resource.Workspace) source {
	return source{id, w.ID, resource.Stream{Topic: w.TopicUID}, event.EventGridSchema, nil, w.Location, resource.TopicTypeWorkspace, time.Time{}}
}

// action returns the action for an event subscription id: the nested form has
// actions of its own. Source: spec/access.md section 9.
func action(id resource.ID, verb string) string {
	return cmp.Or(nestedType(id), resource.TypeEventSubscription) + "/" + verb
}

// nestedType is the type of an event subscription's id in the nested form, "" for any
// other id.
func nestedType(id resource.ID) string {
	for _, parent := range parents {
		if nested := parent + "/eventSubscriptions"; id.IsType(nested) {
			return nested
		}
	}
	return ""
}

// authorizeWrite checks a change of an event subscription. Where the parent is a
// system topic, the workspace behind it counts as well.
func (p *Plane) authorizeWrite(ctx context.Context, caller access.Caller, id resource.ID, verb string) error {
	act := action(id, verb)
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Action, act), slog.String(telemetry.Resource, id.String()))
	raises := p.raiser(id.Parent())
	return p.Access.CheckEventSubscriptionWrite(caller, act, id, raises)
}

// view shapes an event subscription for whoever asked under an id.
func (s source) view(item resource.Item[resource.EventSubscription], nested bool) EventSubscription {
	v := EventSubscription{Item: item, Topic: lowerProvider(s.raises), Location: s.location}
	if nested {
		v.ID, v.Topic = s.id.Child("eventSubscriptions", item.Value.Name), s.raises.String()
	} else {
		v.ID = item.Value.ID()
	}
	return v
}

// isNested tells the nested form of an id from the scope form.
func isNested(id resource.ID) bool { return !id.IsType(resource.TypeEventSubscription) }

func (p *Plane) find(id resource.ID) (source, resource.Item[resource.EventSubscription], error) {
	s, err := p.findSource(id.Parent())
	if err != nil {
		return s, resource.Item[resource.EventSubscription]{}, err
	}
	item, ok := p.Store.EventSubscriptions.Get(resource.EventSubscriptionKey(s.id, id.Name()))
	if !ok {
		return s, item, resourceNotFound(id)
	}
	return s, item, nil
}

// EventSubscription returns an event subscription.
func (p *Plane) EventSubscription(ctx context.Context, caller access.Caller, id resource.ID) (EventSubscription, error) {
	if err := p.authorize(ctx, caller, action(id, "read"), id); err != nil {
		return EventSubscription{}, err
	}
	s, item, err := p.find(id)
	if err != nil {
		return EventSubscription{}, err
	}
	return s.view(item, isNested(id)), nil
}

// FullURL returns the whole endpoint URL of a webhook, secrets included.
func (p *Plane) FullURL(ctx context.Context, caller access.Caller, id resource.ID) (string, error) {
	if err := p.authorize(ctx, caller, action(id, "getFullUrl/action"), id); err != nil {
		return "", err
	}
	_, item, err := p.find(id)
	if err != nil {
		return "", err
	}
	d := item.Value.Wanted().Destination
	if d.WebHook == nil {
		return "", fault.New(fault.Invalid, "InvalidRequest", "The destination type %s does not support a full URL; only WebHook does.", d.Type)
	}
	if err := p.secretRead(ctx, caller, id, "endpoint URL"); err != nil {
		return "", err
	}
	return p.openURL(&item.Value, d)
}

func (p *Plane) openURL(es *resource.EventSubscription, d resource.Destination) (string, error) {
	if d.WebHook == nil {
		return "", nil
	}
	plain, err := p.Sealer.Open(d.WebHook.SealedURL, es.URLOwner())
	if err != nil {
		return "", fmt.Errorf("open the endpoint URL of %s: %w", es.ID(), err)
	}
	return string(plain), nil
}

// PutEventSubscription creates an event subscription or replaces it with the
// request. The endpoint is asked for consent each time, unless the operator set
// ValidateOnChangeOnly. For a filter it promises what PatchEventSubscription does.
// Changes of one event subscription come one after another: the last one wins.
func (p *Plane) PutEventSubscription(ctx context.Context, caller access.Caller, id resource.ID, c EventSubscriptionChange, pre Precondition) (EventSubscription, error) {
	return p.change(ctx, caller, id, c, pre, true)
}

// PatchEventSubscription changes what the request says and leaves the rest. The
// endpoint is asked for consent when something changed that it was asked about, see
// sameEndpoint, or when it has not consented to what is there.
//
// An event meets exactly one filter, decided by its place in the log: what was
// acknowledged before the call meets the old filter, what is published after it has
// returned meets the new one, and of what is published in between, everything before
// one place in the log meets the old one and everything from there on the new one;
// the events of one request are on the same side. Where the endpoint has to consent
// by link, that place is taken when it has. A change that is refused changes nothing;
// where it was the endpoint that refused, the event subscription shows that, in state
// Failed, and goes on as it was.
func (p *Plane) PatchEventSubscription(ctx context.Context, caller access.Caller, id resource.ID, c EventSubscriptionChange, pre Precondition) (EventSubscription, error) {
	return p.change(ctx, caller, id, c, pre, false)
}

func (p *Plane) change(ctx context.Context, caller access.Caller, id resource.ID, c EventSubscriptionChange, pre Precondition, put bool) (EventSubscription, error) {
	if err := p.authorizeWrite(ctx, caller, id, "write"); err != nil {
		return EventSubscription{}, err
	}
	if !slices.ContainsFunc(parents, id.Parent().IsType) {
		return EventSubscription{}, fault.New(fault.Invalid, "InvalidRequest", "'%s' raises no events on this server. Event subscriptions hang on a %s.", id.Parent(), strings.Join(parents, ", a "))
	}
	if err := p.authorizeDestination(caller, id, c.Destination); err != nil {
		return EventSubscription{}, err
	}
	if err := p.authorizeDeadLetter(caller, id, c.DeadLetter); err != nil {
		return EventSubscription{}, err
	}
	done, err := p.changes.take(ctx, resource.EventSubscriptionKey(id.Parent(), id.Name()))
	if err != nil {
		return EventSubscription{}, err
	}
	defer done()
	s, err := p.findSourceFor(id.Parent(), put)
	if err != nil {
		return EventSubscription{}, err
	}
	old, exists := p.Store.EventSubscriptions.Get(resource.EventSubscriptionKey(s.id, id.Name()))
	if !exists && !put {
		return EventSubscription{}, resourceNotFound(id)
	}
	if err := pre.Check(etagOf(old, exists)); err != nil {
		return EventSubscription{}, err
	}

	es := old.Value
	if !exists {
		es = resource.EventSubscription{UID: resource.NewUID(), Scope: s.id, Name: id.Name(), TopicUID: s.stream.Topic, DomainTopic: s.stream.DomainTopic, Created: stamp(caller)}
	}
	es.Modified, es.Failure = stamp(caller), ""
	url := ""
	if exists {
		if url, err = p.openURL(&es, es.Wanted().Destination); err != nil {
			return EventSubscription{}, err
		}
	}
	wanted, wantedURL, err := p.settings(&es, s, c, url, exists, put)
	if err != nil {
		return EventSubscription{}, err
	}

	attributes, err := p.openAttributes(&es, wanted.Destination)
	if err != nil {
		return EventSubscription{}, err
	}
	keys, err := p.signingKeys(&es, wanted.Destination)
	if err != nil {
		return EventSubscription{}, err
	}
	credentials, err := OpenCredentials(p.Sealer, &es, wanted.Destination)
	if err != nil {
		return EventSubscription{}, err
	}
	issued, err := p.issuedKey(&es, es.Wanted().Destination, wanted.Destination, c.Destination)
	if err != nil {
		return EventSubscription{}, err
	}
	consented := false // to exactly this, some time before
	if es.Active && es.State == resource.Succeeded && (!put || p.ValidateOnChangeOnly) {
		before, err := p.openAttributes(&es, es.Destination)
		if err != nil {
			return EventSubscription{}, err
		}
		consented = wantedURL == url && sameEndpoint(&wanted, &es) && slices.Equal(attributes, before)
	}
	var waits *resource.Validation
	var allowedRate int
	if wanted.Destination.WebHook == nil {
		if err := p.probe(ctx, es, &wanted); err != nil {
			return EventSubscription{}, err
		}
	} else if consented {
		allowedRate = es.Destination.WebHook.AllowedRate
	} else if waits, allowedRate, err = p.shake(ctx, &es, s.raises, &wanted, wantedURL, attributes, keys, credentials); err != nil {
		if exists {
			p.noteRefusal(ctx, caller, old, err)
		}
		return EventSubscription{}, err
	}
	wanted.Destination = withAllowedRate(wanted.Destination, allowedRate)
	switch {
	case waits == nil:
		es.Apply(wanted)
		es.Active, es.State, es.Validation = true, resource.Succeeded, nil
	case es.Active:
		es.Pending, es.State, es.Validation = &wanted, resource.AwaitingManualAction, waits
	default:
		es.Apply(wanted)
		es.FilterGeneration, es.State, es.Validation = 0, resource.AwaitingManualAction, waits
	}
	item, err := p.commit(ctx, s, old, es, exists, pre)
	if err != nil {
		if problem := p.leaveDomainTopic(ctx, s.id); problem != nil { // made for this one
			err = errors.Join(err, problem)
		}
		return EventSubscription{}, err
	}
	verb := "patch"
	if put {
		verb = "put"
	}
	p.changed(ctx, caller, verb, item.Value.ID(), slog.String("state", string(item.Value.State)))
	v := s.view(item, isNested(id))
	v.IssuedKey = issued
	return v, nil
}

// commit stores what a request made of an event subscription, unless its source or
// itself changed while the handshake ran, and activates it. A link that was opened
// meanwhile counts at once.
func (p *Plane) commit(ctx context.Context, s source, old resource.Item[resource.EventSubscription], es resource.EventSubscription, exists bool, pre Precondition) (item resource.Item[resource.EventSubscription], err error) {
	waits := es.State == resource.AwaitingManualAction
	if waits {
		defer p.inFlight.finish(es.UID)
	}
	ctx, unlock := p.alterOne(ctx, es.Key())
	defer unlock()
	if now, err := p.findSourceFor(s.id, !exists); err != nil {
		return item, err
	} else if now.stream != s.stream {
		return item, overtaken("Event subscription '" + es.Name + "' or its source")
	}
	if exists {
		item, err = p.replace(ctx, old, es)
	} else {
		item, err = p.create(ctx, s, es)
	}
	if fault.Is(err, fault.PreconditionFailed) && pre == (Precondition{}) {
		return item, overtaken("Event subscription '" + es.Name + "' or its source")
	}
	if err == nil && waits {
		if c := p.inFlight.finish(es.UID); c.granted {
			return p.accept(ctx, item, c.rate)
		}
	}
	return item, err
}

func overtaken(what string) error {
	return fault.New(fault.Conflict, "Conflict", "%s was changed by another request meanwhile. Read it again and repeat the change.", what)
}

// create stores a new event subscription and activates it; before it the topic of a
// domain, if it is the first one of that. The caller holds the stripe.
func (p *Plane) create(ctx context.Context, s source, es resource.EventSubscription) (resource.Item[resource.EventSubscription], error) {
	if err := p.joinDomainTopic(ctx, s, es.Created); err != nil {
		return resource.Item[resource.EventSubscription]{}, err
	}
	item, err := p.Store.EventSubscriptions.Create(ctx, es.Key(), es)
	if fault.Is(err, fault.Conflict) {
		return item, overtaken(es.Name)
	}
	if err != nil || !es.Active {
		return item, err
	}
	if err := p.Activator.Activate(ctx, &item.Value); err != nil {
		if fault.Is(err, fault.Conflict) { // nothing was taken
			_ = p.Store.EventSubscriptions.Delete(ctx, item.Key, item.Revision)
		}
		return item, err
	}
	return item, nil
}

// replace stores a changed event subscription and activates it. The caller holds
// the stripe.
func (p *Plane) replace(ctx context.Context, old resource.Item[resource.EventSubscription], es resource.EventSubscription) (resource.Item[resource.EventSubscription], error) {
	item, err := p.Store.EventSubscriptions.Update(ctx, old.Key, es, old.Revision)
	if err != nil || !es.Active || es.Pending != nil {
		return item, err
	}
	if err := p.Activator.Activate(ctx, &item.Value); err != nil {
		if fault.Is(err, fault.Conflict) { // nothing was taken
			_, _ = p.Store.EventSubscriptions.Update(ctx, item.Key, old.Value, item.Revision)
		}
		return item, err
	}
	return item, nil
}

// DeleteEventSubscription removes an event subscription, discards its open
// deliveries, and reports whether it was there.
func (p *Plane) DeleteEventSubscription(ctx context.Context, caller access.Caller, id resource.ID, c Precondition) (existed bool, err error) {
	if err := p.authorizeWrite(ctx, caller, id, "delete"); err != nil {
		return false, err
	}
	s, err := p.findSource(id.Parent())
	if fault.Is(err, fault.NotFound) {
		return false, c.Check("")
	}
	if err != nil {
		return false, err
	}
	defer func() {
		if err == nil {
			err = p.leaveDomainTopic(ctx, s.id)
		}
	}()
	key := resource.EventSubscriptionKey(s.id, id.Name())
	ctx, unlock := p.alterOne(ctx, key)
	defer unlock()
	item, exists := p.Store.EventSubscriptions.Get(key)
	if err := c.Check(etagOf(item, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.removeEventSubscription(ctx, item); err != nil {
		return false, err
	}
	p.changed(ctx, caller, "delete", item.Value.ID())
	return true, nil
}

// removeEventSubscription needs the stripe. The record goes first: what is left in
// the journal of a uid that no record has is dropped at the next start.
func (p *Plane) removeEventSubscription(ctx context.Context, item resource.Item[resource.EventSubscription]) error {
	es := &item.Value
	remove := func() error { return p.Store.EventSubscriptions.Delete(ctx, item.Key, item.Revision) }
	if err := p.removeGranted(ctx, remove, es.ID(), es.Scope.Child("eventSubscriptions", es.Name)); err != nil {
		return err
	}
	defer p.noteDeletion(item.Value)
	if !item.Value.Active {
		return nil
	}
	return p.Activator.Deactivate(ctx, item.Value.UID)
}

// removeEventSubscriptions removes those that hang on a parent. It needs structure
// to be locked for writing, so nobody adds one.
func (p *Plane) removeEventSubscriptions(ctx context.Context, parent resource.ID) error {
	for _, item := range p.eventSubscriptionsAt(parent) {
		lock := p.stripe(item.Key)
		lock.Lock()
		now, ok := p.Store.EventSubscriptions.Get(item.Key)
		var err error
		if ok {
			err = p.removeEventSubscription(ctx, now)
		}
		lock.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// eventSubscriptionsAt returns those whose parent is exactly id.
func (p *Plane) eventSubscriptionsAt(parent resource.ID) []resource.Item[resource.EventSubscription] {
	return p.Store.EventSubscriptions.List(resource.EventSubscriptionKey(parent, ""))
}

// EventSubscriptions returns the event subscriptions of one source, in the nested
// form or in the scope form, in the order of their store keys. A workspace shows also
// those that hang on its system topic; they keep their own ids.
func (p *Plane) EventSubscriptions(ctx context.Context, caller access.Caller, parent resource.ID, nested bool, part Part) ([]EventSubscription, error) {
	act := resource.TypeEventSubscription + "/read"
	if nested {
		act = parent.Type() + "/eventSubscriptions/read"
	}
	if err := p.authorize(ctx, caller, act, parent); err != nil {
		return nil, err
	}
	s, err := p.findSource(parent)
	if err != nil {
		return nil, err
	}
	sources := []source{s}
	if parent.IsType(resource.TypeWorkspace) {
		for _, t := range p.Store.SystemTopics.List("") {
			if t.Value.Source.Equal(s.id) {
				under := s
				under.id = t.Value.ID
				sources = append(sources, under)
			}
		}
		slices.SortFunc(sources, func(a, b source) int { return strings.Compare(a.id.Key(), b.id.Key()) })
	}
	var found []resource.Item[resource.EventSubscription]
	var out []EventSubscription
	for _, under := range sources {
		found = gather(p.Store.EventSubscriptions, resource.EventSubscriptionKey(under.id, ""), part, eventSubscriptionName, nil, found)
		for _, item := range found[len(out):] {
			out = append(out, under.view(item, nested || !under.id.Equal(s.id)))
		}
	}
	return out, nil
}

func eventSubscriptionName(es *resource.EventSubscription) string { return es.Name }

// Listing says which event subscriptions of a subscription or resource group a
// list holds.
type Listing struct {
	Location  string // "" = those of global sources
	TopicType string // "" = every type
}

// ListEventSubscriptions returns the event subscriptions below a subscription or a
// resource group. Every source here lies in a region, so a list of global sources
// is empty. Source: spec/management.md section 2.4.
func (p *Plane) ListEventSubscriptions(ctx context.Context, caller access.Caller, scope resource.ID, l Listing, part Part) ([]EventSubscription, error) {
	act := "Microsoft.EventGrid/"
	if l.Location != "" {
		act += "locations/"
	}
	if l.TopicType != "" {
		act += "topictypes/"
	}
	if err := p.authorize(ctx, caller, act+"eventSubscriptions/read", scope); err != nil {
		return nil, err
	}
	if l.TopicType != "" && !slices.ContainsFunc(TopicTypes(), func(t TopicType) bool { return strings.EqualFold(t.Name, l.TopicType) }) {
		return nil, notFound("ResourceNotFound", "The topic type '%s' is not known.", l.TopicType)
	}
	if err := p.checkScope(scope); err != nil {
		return nil, err
	}
	var sources []source // of those found
	found := gather(p.Store.EventSubscriptions, scope.Key()+"/", part, eventSubscriptionName, func(es *resource.EventSubscription) bool {
		s, err := p.findSource(es.Scope)
		listed := err == nil && l.Location != "" && resource.NormalizeLocation(l.Location) == s.location &&
			(l.TopicType == "" || strings.EqualFold(l.TopicType, s.topicType))
		if listed {
			sources = append(sources, s)
		}
		return listed
	}, nil)
	var out []EventSubscription
	for i, item := range found {
		out = append(out, sources[i].view(item, sources[i].id.IsType(resource.TypeSystemTopic)))
	}
	return out, nil
}
