package broker

import (
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/resource"
)

// Rules are what the operator decides for every event subscription, where the contract
// leaves it open. The zero value is the default.
type Rules struct {
	// DeadLetter404 gives an event up when its webhook answers 404, as 401 and 403 do.
	// It is tried again otherwise. Source: spec/delivery.md section 3.4.
	DeadLetter404 bool
	// OmitDataSchema leaves dataschema out of CloudEvents that are made of events in
	// another schema. Source: spec/delivery.md section 2.3.
	OmitDataSchema bool
}

// Policy returns the retry policy of an event subscription.
func (rules Rules) Policy(es *resource.EventSubscription) Policy {
	return Policy{
		MaxAttempts:   es.RetryPolicy.MaxDeliveryAttempts,
		TimeToLive:    time.Duration(es.RetryPolicy.EventTimeToLive) * time.Minute,
		DeadLetter404: rules.DeadLetter404 && es.Destination.WebHook != nil,
	}
}

// appendCloudEvent appends an event as a CloudEvent.
func (rules Rules) appendCloudEvent(dst []byte, e *event.Event, sequence string) []byte {
	if rules.OmitDataSchema && len(e.DataVersion) > 0 {
		plain := *e
		plain.DataVersion = nil
		e = &plain
	}
	return e.AppendCloudEvent(dst, sequence)
}
