package resource

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
)

// Settings is what a caller decides about an event subscription. It waits apart
// from the live settings while a changed endpoint has not consented yet.
type Settings struct {
	Destination    Destination   `json:"destination"`
	Filter         filter.Filter `json:"filter"`
	Labels         []string      `json:"labels,omitempty"`
	DeliverySchema event.Schema  `json:"deliverySchema"`
	RetryPolicy    RetryPolicy   `json:"retryPolicy"`
	Expiration     time.Time     `json:"expiration,omitzero"`

	DeadLetter *DeadLetterDestination `json:"deadLetter,omitempty"`
	Limits     DeliveryLimits         `json:"limits,omitzero"`
}

// Settings returns the settings that deliveries follow.
func (es *EventSubscription) Settings() Settings {
	return Settings{
		Destination: es.Destination, Filter: es.Filter, Labels: es.Labels,
		DeliverySchema: es.DeliverySchema, RetryPolicy: es.RetryPolicy, Expiration: es.Expiration,
		DeadLetter: es.DeadLetter, Limits: es.Limits,
	}
}

// Wanted returns the settings that the last accepted request asked for: those
// that wait for consent, or else the live ones.
func (es *EventSubscription) Wanted() Settings {
	if es.Pending != nil {
		return *es.Pending
	}
	return es.Settings()
}

// Apply makes s the live settings. The filter gets a new generation if it changed
// or is the first.
func (es *EventSubscription) Apply(s Settings) {
	if es.FilterGeneration == 0 || !SameFilter(es.Filter, s.Filter) {
		es.FilterGeneration++
	}
	es.Destination, es.Filter, es.Labels = s.Destination, s.Filter, s.Labels
	es.DeliverySchema, es.RetryPolicy, es.Expiration = s.DeliverySchema, s.RetryPolicy, s.Expiration
	es.DeadLetter, es.Limits = s.DeadLetter, s.Limits
	es.Pending = nil
}

// SameFilter reports whether two filters are written alike.
func SameFilter(a, b filter.Filter) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
