package destination

import (
	"context"
	"strings"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// eventHubTarget sends arrays of events to an event hub, by the protocol that its
// connection names at the time: Kafka's, or AMQP. Source: spec/handlers.md section 5.
type eventHubTarget struct {
	*targetConfig
	kafka *kafkaHub
	amqp  *amqpTarget
}

// partitionKey is the delivery attribute that says which events stay in order.
// Source: spec/delivery.md section 6.
const partitionKey = "PartitionKey"

func checkEventHub(c *targetConfig) (err error) {
	if c.speaksAMQP() {
		_, err = c.entity()
	} else {
		_, err = c.hub()
	}
	if err != nil {
		return fault.Field("resourceId", "The event hub cannot be used: %v.", err)
	}
	return nil
}

// speaksAMQP reports whether the connection of the event hub is by AMQP.
func (c *targetConfig) speaksAMQP() bool {
	return byAMQP(connectionValues(c.connectionString()))
}

func byAMQP(values map[string]string) bool {
	return strings.EqualFold(values["transporttype"], "amqp") || strings.HasPrefix(values["endpoint"], "amqp")
}

func openEventHub(c *targetConfig) (targetSender, error) {
	return &eventHubTarget{c, openKafkaHub(c), openEntity(c)}, nil
}

func (t *eventHubTarget) way() targetSender {
	if t.speaksAMQP() {
		return t.amqp
	}
	return t.kafka
}

func (t *eventHubTarget) Send(ctx context.Context, r *broker.Request) broker.Response {
	return t.way().Send(ctx, r)
}

func (t *eventHubTarget) probe(ctx context.Context) error { return t.way().probe(ctx) }

func (t *eventHubTarget) preview(r *broker.Request, i int) manage.Receipt {
	return t.way().preview(r, i)
}

func (t *eventHubTarget) Close() {
	t.kafka.Close()
	t.amqp.Close()
}
