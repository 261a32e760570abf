package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// EventLog looks back at what was logged and delivered. *broker.Broker satisfies
// it.
type EventLog interface {
	// FindEvent finds an event of a stream by its id or its sequencer.
	FindEvent(ctx context.Context, stream resource.Stream, name string) (broker.LoggedEvent, error)
	// Newest yields the events of a stream, the newest first.
	Newest(ctx context.Context, stream resource.Stream, back *broker.LookBack) iter.Seq2[broker.LoggedEvent, error]
	// Explain tells what an event subscription made of a logged event, false when it
	// is not active.
	Explain(ctx context.Context, uid resource.UID, e *broker.LoggedEvent) (*broker.Explanation, bool, error)
}

// ExplainRequest names an event: one of the log by its id or sequencer, or one that
// is given whole, as it would be published.
type ExplainRequest struct {
	Invalid error // why the request could not be read; answered after the caller is authorised
	EventID string
	Event   json.RawMessage
}

// Explained is what an event subscription makes of an event, and of one from the
// log also what became of its delivery.
type Explained struct {
	EventSubscription EventSubscription
	Event             broker.LoggedEvent // of an event that was given: its stored form, and no place in the log
	Logged            bool
	broker.Explanation
}

// ExplainEvent tells what an event subscription makes of an event, clause by clause:
// one of the log by the filter that was in force at its place, one that is given by
// the present filter. The caller needs to read the event subscription and the events
// of its source.
func (p *Plane) ExplainEvent(ctx context.Context, caller access.Caller, id resource.ID, r ExplainRequest) (Explained, error) {
	s, item, err := p.findForEvents(ctx, caller, id, r.Invalid)
	if err != nil {
		return Explained{}, err
	}
	x := Explained{EventSubscription: s.view(item, isNested(id))}
	switch {
	case (r.EventID == "") == (r.Event == nil):
		return x, fault.Field("eventId", "Name an event of the log in eventId, or send one in event; one of the two.")
	case r.Event != nil:
		parsed, err := s.decode(r.Event)
		if err != nil {
			return x, err
		}
		x.Event = broker.LoggedEvent{Event: parsed.Raw, Schema: parsed.Schema}
		x.Explanation = explainBy(&item.Value, &parsed)
		return x, nil
	}
	x.Logged = true
	if x.Event, err = p.logged(ctx, s, r.EventID); err != nil {
		return x, err
	}
	told, active, err := p.EventLog.Explain(ctx, item.Value.UID, &x.Event)
	if err != nil {
		return x, fmt.Errorf("explain event %s to %s: %w", x.Event.Position, id, err)
	}
	if active {
		x.Explanation = *told
		return x, nil
	}
	var parsed event.Event
	if err := parsed.Parse(x.Event.Event, x.Event.Schema); err != nil {
		return x, fmt.Errorf("event at %s: %w", x.Event.Position, err)
	}
	x.Explanation = explainBy(&item.Value, &parsed)
	x.Delivery = broker.Story{
		State: broker.StoryNotActive, Attempts: []broker.Attempt{}, HistoryComplete: true,
		Text: fmt.Sprintf("Not delivered: the event subscription is not active, its state is %s.", item.Value.State),
	}
	return x, nil
}

// explainBy judges an event by the filter that an event subscription has now.
func explainBy(es *resource.EventSubscription, e *event.Event) broker.Explanation {
	m := filter.Compile(&es.Filter)
	return broker.Explanation{Generation: es.FilterGeneration, Filter: es.Filter, Matches: m.Match(e), Clauses: m.Clauses(e)}
}

// logged finds an event of a source by its id or its sequencer.
func (p *Plane) logged(ctx context.Context, s source, name string) (broker.LoggedEvent, error) {
	e, err := p.EventLog.FindEvent(ctx, s.stream, name)
	if err == nil && e.PublishTime.Before(s.since) {
		return broker.LoggedEvent{}, notFound("EventNotFound", "The event '%.200s' was published before the domain topic '%s' was made, at %s: it is for one of that name before it.", name, s.id.Name(), s.since.Format(time.RFC3339))
	}
	return e, err
}

// findForEvents finds an event subscription for a caller who may read it and the
// events of its source.
func (p *Plane) findForEvents(ctx context.Context, caller access.Caller, id resource.ID, invalid error) (source, resource.Item[resource.EventSubscription], error) {
	none := resource.Item[resource.EventSubscription]{}
	if err := p.authorize(ctx, caller, action(id, "read"), id); err != nil {
		return source{}, none, err
	}
	raises := p.raiser(id.Parent())
	if err := p.Access.CheckEventRead(caller, raises); err != nil {
		return source{}, none, err
	}
	if invalid != nil {
		return source{}, none, invalid
	}
	return p.find(id)
}

// decode reads one event as it would be published to the source.
func (s source) decode(raw json.RawMessage) (event.Event, error) {
	var events []event.Event
	var err error
	o := event.DecodeOptions{Topic: s.raises.String(), Domain: s.topicType == resource.TopicTypeDomain}
	if s.stream.DomainTopic != "" {
		o.Topic = s.raises.Parent().String()
	}
	switch s.schema {
	case event.EventGridSchema:
		events, err = event.DecodeEventGrid(raw, o)
	case event.CloudEventSchemaV1_0:
		events, err = event.DecodeCloudEvents(raw, http.Header{"Content-Type": {event.MediaTypeCloudEvent}}, o)
	case event.CustomEventSchema:
		events, err = event.DecodeCustom(raw, s.mapping, o)
	default:
		err = fmt.Errorf("source %s has input schema %s, of which no decoder is known", s.raises, s.schema)
	}
	if invalid, ok := errors.AsType[*event.InvalidError](err); ok {
		return event.Event{}, fault.Field("event", "The event is not one that the source takes (%s): %s", s.schema, invalid.Message)
	}
	if err != nil {
		return event.Event{}, err
	}
	if len(events) != 1 {
		return event.Event{}, fault.Field("event", "One event is explained at a time, not %d: send an object.", len(events))
	}
	if topic := s.stream.DomainTopic; topic != "" && !strings.EqualFold(topic, string(events[0].DomainTopic)) {
		return event.Event{}, fault.Field("event", "The event is for the topic '%s' of the domain, and the event subscription hangs on '%s': it never meets it.", events[0].DomainTopic, s.id.Name())
	}
	return events[0], nil
}

// Bounds of how many logged events a filter is tried on.
const (
	defaultLast = 100
	maxLast     = 10_000
)

// FilterTest asks what a filter would have made of the last logged events.
type FilterTest struct {
	Invalid error           // as in ExplainRequest
	Filter  json.RawMessage // in the management API's form; nil for the one that the event subscription has
	Last    *int            // how many events; nil for 100
}

// TestedFilter is what a filter makes of the last logged events of a source, the
// newest first.
type TestedFilter struct {
	EventSubscription EventSubscription
	Filter            filter.Filter
	Matched, Refused  int
	Events            []TestedEvent
	Back              broker.LookBack // what was read for it
}

// TestedEvent is one of them.
type TestedEvent struct {
	ID, EventType, Subject, Time string // as the event has them, long ones cut
	PublishTime                  time.Time
	Sequencer                    string
	Matches                      bool
	RefusedBy                    string // the first clause that refused it, and why
	Reason                       string
}

// TestFilter tries a filter on the last logged events of an event subscription's
// source, and changes nothing. The caller needs what ExplainEvent needs.
func (p *Plane) TestFilter(ctx context.Context, caller access.Caller, id resource.ID, t FilterTest) (TestedFilter, error) {
	s, item, err := p.findForEvents(ctx, caller, id, t.Invalid)
	if err != nil {
		return TestedFilter{}, err
	}
	out := TestedFilter{EventSubscription: s.view(item, isNested(id)), Filter: item.Value.Filter, Events: []TestedEvent{}}
	var v checker
	if t.Filter != nil {
		out.Filter = v.filter(t.Filter, s)
	}
	last := defaultLast
	if t.Last != nil {
		if last = *t.Last; last < 1 || last > maxLast {
			v.field("last", "The value %d of last is out of range: use 1 to %d.", last, maxLast)
		}
	}
	if err := fault.Join(v.problems...); err != nil {
		return out, err
	}
	m := filter.Compile(&out.Filter)
	for logged, err := range p.EventLog.Newest(ctx, s.stream, &out.Back) {
		if err != nil {
			return out, err
		}
		if logged.PublishTime.Before(s.since) {
			break
		}
		var e event.Event
		if err := e.Parse(logged.Event, logged.Schema); err != nil {
			return out, fmt.Errorf("event at %s: %w", logged.Position, err)
		}
		one := testedEvent(m, &e, &logged)
		if one.Matches {
			out.Matched++
		} else {
			out.Refused++
		}
		if out.Events = append(out.Events, one); len(out.Events) == last {
			break
		}
	}
	return out, nil
}

func testedEvent(m *filter.Matcher, e *event.Event, logged *broker.LoggedEvent) TestedEvent {
	one := TestedEvent{
		ID: cut(e.ID), EventType: cut(e.Type), Subject: cut(e.Subject), Time: cut(e.Time),
		PublishTime: logged.PublishTime.UTC(), Sequencer: logged.Sequencer, Matches: m.Match(e),
	}
	_, one.Reason = m.Explain(e)
	one.RefusedBy, _, _ = strings.Cut(one.Reason, ":")
	return one
}

// cut bounds what an event may put into a list: an event's texts have no limit but
// that of the event.
func cut(text []byte) string {
	const most = 1024
	if len(text) <= most {
		return string(text)
	}
	return strings.ToValidUTF8(string(text[:most]), "") + "…"
}
