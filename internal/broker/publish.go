package broker

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
)

var recordPool = sync.Pool{New: func() any { return new([]engine.Record) }}

// domainTopic is the name of a domain's topic as records and event subscriptions have it.
func domainTopic(name []byte) string { return string(bytes.ToLower(name)) }

// Publish stores the events of one request to a topic or a domain and returns when they are durable.
// They are decoded and validated already, and the publisher is authorised. It is
// all or nothing: an error means that no event of the request will be delivered,
// unless ctx ended while it waited, when nobody can tell.
func (b *Broker) Publish(ctx context.Context, topic resource.UID, events []event.Event) error {
	start := time.Now()
	pooled := recordPool.Get().(*[]engine.Record)
	records := (*pooled)[:0]
	for i := range events {
		records = append(records, engine.Record{
			Kind: engine.KindEvent, Schema: uint8(events[i].Schema), Topic: uint64(topic), Key: domainTopic(events[i].DomainTopic), Data: events[i].Raw,
		})
	}
	_, err := b.Record(ctx, records)
	if err != nil {
		b.metrics.publishFailed.Add(float64(len(events)))
		return err // the log may still hold the records: they are not pooled again
	}
	b.metrics.published.Add(float64(len(events)))
	b.metrics.publishLatency.Observe(time.Since(start).Seconds())
	clear(records)
	*pooled = records
	recordPool.Put(pooled)
	return nil
}
