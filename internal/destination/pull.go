package destination

import (
	"context"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/manage"
)

// pulled stands for receivers, who ask for events themselves: nothing is sent.
type pulled struct{}

func openPull(*targetConfig) (targetSender, error) { return pulled{}, nil }

func (pulled) Send(context.Context, *broker.Request) broker.Response {
	return broker.Response{Outcome: broker.Canceled, Detail: "events are received, not sent"}
}

func (pulled) Close()                      {}
func (pulled) probe(context.Context) error { return nil }

func (pulled) preview(*broker.Request, int) manage.Receipt {
	return manage.Receipt{RequestLine: "received, as the event of an entry of value"}
}
