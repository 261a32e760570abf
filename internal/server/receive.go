package server

import (
	"context"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/resource"
)

// queues answers the look-ups of receivers. It satisfies ingest.Events.
type queues struct {
	*broker.Broker
	store *resource.Store
}

// FindQueue satisfies ingest.Events. What counts is what deliveries are made by: a change
// that waits for consent is none yet.
func (q queues) FindQueue(_ context.Context, source resource.ID, name string) (resource.UID, bool) {
	item, found := q.store.EventSubscriptions.Get(resource.EventSubscriptionKey(source, name))
	es := &item.Value
	return es.UID, found && es.Active && es.Destination.Type == resource.DestinationPull
}

// Raiser satisfies ingest.Events.
func (q queues) Raiser(source resource.ID) resource.ID {
	if t, found := q.store.SystemTopics.Get(source.Key()); found && source.IsType(resource.TypeSystemTopic) {
		return t.Value.Source
	}
	return source
}
