package arm

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
)

// eventBody is an event of the log. This API is Carillon's own.
type eventBody struct {
	EventID   string          `json:"eventId"`
	EventType string          `json:"eventType"`
	Topic     string          `json:"topic"`    // what raised it
	Position  string          `json:"position"` // in the log; names the event like its id or sequencer
	loggedAt                  // where and when it was logged
	Event     json.RawMessage `json:"event,omitempty"` // as it is stored; left out for callers who may not read events
}

// getEvent tells of an event of the log, by its id or its sequencer.
func getEvent(a *api, r *request) (answer, error) {
	e, err := a.Plane.Event(r.ctx, r.caller, r.scope, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(eventBody{
		EventID: e.ID, EventType: e.Type, Topic: e.Topic.String(), Position: e.Position.String(),
		loggedAt: loggedAt{e.PublishTime.UTC(), e.Sequencer, e.SameID}, Event: e.Event,
	}), nil
}

// eventDeliveryBody is what became of an event for one event subscription.
type eventDeliveryBody struct {
	EventSubscription string `json:"eventSubscription"` // full resource id
	Name              string `json:"name"`
	broker.Story
}

// listEventDeliveries tells what became of an event for each event subscription that
// wanted it.
func listEventDeliveries(a *api, r *request) (answer, error) {
	size, after, err := r.paging()
	if err != nil {
		return answer{}, err
	}
	found, next, err := a.Plane.EventDeliveries(r.ctx, r.caller, r.scope, r.names[0], after, size)
	if err != nil {
		return answer{}, err
	}
	out := page{Value: []any{}}
	for _, d := range found {
		out.Value = append(out.Value, eventDeliveryBody{d.EventSubscription.ID.String(), d.EventSubscription.Value.Name, d.Story})
	}
	if next != "" {
		out.NextLink = a.nextLink(r, next)
	}
	return ok(out), nil
}

// listAttempts lists the attempts of one event subscription, the newest first: those
// that the parameters outcome and from leave.
func listAttempts(a *api, r *request) (answer, error) {
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, false)
	if err != nil {
		return answer{}, err
	}
	es, single := d.Single()
	if !single {
		return answer{}, fault.New(fault.NotFound, "ResourceNotFound", "Attempts are listed of one event subscription at a time: '%s' is none.", r.scope)
	}
	q, err := attemptQueryOf(r)
	if err != nil {
		return answer{}, err
	}
	found, more, err := a.Deliveries.Attempts(r.ctx, es.Value.UID, q)
	if err != nil {
		return answer{}, err
	}
	out := page{Value: []any{}}
	for _, attempt := range found {
		out.Value = append(out.Value, attempt)
	}
	if more != (broker.AttemptPlace{}) {
		out.NextLink = a.nextLink(r, fmt.Sprintf("%d-%d", more.Message, more.Index))
	}
	return ok(out), nil
}

func attemptQueryOf(r *request) (q broker.AttemptQuery, err error) {
	var outcome, from *fault.Error
	if text := r.query.Get("outcome"); text != "" {
		known := false
		if q.Outcome, known = broker.ParseOutcome(text); !known {
			outcome = fault.Field("outcome", "The outcome '%.60s' is not known: use one of %s.", text, strings.Join(broker.OutcomeNames(), ", "))
		}
	}
	q.Since, from = r.time("from")
	if err := fault.Join(r.only("outcome", "from"), outcome, from); err != nil {
		return q, err
	}
	size, after, err := r.paging()
	if err != nil {
		return q, err
	}
	q.Most = size
	if after != "" {
		if n, err := fmt.Sscanf(after, "%d-%d", &q.Before.Message, &q.Before.Index); n != 2 || err != nil {
			return q, fault.Field("$skipToken", "The $skipToken is not one that this server made: follow nextLink unchanged.")
		}
	}
	return q, nil
}
