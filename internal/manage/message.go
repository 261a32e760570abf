package manage

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Messenger sends single requests to the destination of an event subscription,
// outside the walk of events. Package destination satisfies it.
type Messenger interface {
	// SendMessage makes one attempt. What the destination answered is in the Receipt,
	// as is that there was no answer; an error says that nothing could be tried.
	SendMessage(ctx context.Context, es *resource.EventSubscription, m Message) (Receipt, error)
	// Preview says what SendMessage would send, and asks nobody.
	Preview(es *resource.EventSubscription, m Message) (Receipt, error)
}

// Message is one request.
type Message struct {
	*broker.Request
	EventType string   // header aeg-event-type; "" for Notification
	Headers   []Header // more headers, none of them secret
}

// Receipt is what was sent and what came of it. It holds no secret.
type Receipt struct {
	RequestLine string   // the query is hidden
	Headers     []Header // in the order sent; secrets are hidden
	Body        []byte   // what was made of the event, nil where that is the event itself
	Response    broker.Response
	Duration    time.Duration
}

// deletionType is the event type of the notice. Source: spec/delivery.md section 1.8.
const deletionType = "Microsoft.EventGrid.SubscriptionDeletedEvent"

// deletionHeader is the aeg-event-type of the notice: what the documentation lists.
// The Functions runtime looks for "Unsubscribe" instead and answers 400 to this one,
// which is as good as any other answer: nobody reads it.
// Source: spec/delivery.md section 1.8.
const deletionHeader = "SubscriptionDeletion"

// Notices of deletion: how many may wait, and how many are sent at a time.
const (
	maxNotices  = 1024
	noticeHands = 4
)

// noteDeletion has the destination of a deleted event subscription told, once and as
// far as that is possible: nobody waits for it, it is not tried again, and what waits
// when the process ends is not sent. One that never consented hears nothing.
func (p *Plane) noteDeletion(es resource.EventSubscription) {
	if p.Messenger == nil || !es.Active || es.Destination.WebHook == nil && es.Destination.Type != "AzureFunction" {
		return
	}
	select {
	case p.notices <- es:
	default:
		p.noticeLog(&es, "too many wait", 0)
	}
}

// sendNotices sends notices of deletion until ctx ends.
func (p *Plane) sendNotices(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case es := <-p.notices:
			m, err := p.deletionNotice(&es)
			var receipt Receipt
			if err == nil {
				receipt, err = p.Messenger.SendMessage(ctx, &es, m)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				p.noticeLog(&es, err.Error(), 0)
			case receipt.Response.Outcome != broker.Delivered:
				p.noticeLog(&es, receipt.Response.Detail, receipt.Response.Status)
			}
		}
	}
}

func (p *Plane) noticeLog(es *resource.EventSubscription, why string, status int) {
	p.Log.LogAttrs(context.Background(), slog.LevelInfo, "handler not told of the deletion of its event subscription",
		slog.String(telemetry.EventSubscription, es.ID().String()), slog.Int(telemetry.Status, status), slog.String(telemetry.Error, why))
}

// deletionNotice is the request that tells of a deletion, in the delivery schema; where
// that is custom input, which has no form for it, in the Event Grid schema.
func (p *Plane) deletionNotice(es *resource.EventSubscription) (Message, error) {
	told := *es
	if told.DeliverySchema == event.CustomEventSchema {
		told.DeliverySchema = event.EventGridSchema
	}
	raises := told.Scope
	if s, err := p.findSource(told.Scope); err == nil { // it may be gone as well
		raises = s.raises
	}
	id := told.ID().String()
	raw, err := json.Marshal(map[string]any{
		"id": uuid.NewString(), "topic": raises.String(), "subject": id, "eventType": deletionType,
		"eventTime": event.FormatTime(time.Now()), "data": map[string]string{"eventSubscriptionId": id},
		"dataVersion": "1", "metadataVersion": "1",
	})
	if err != nil {
		return Message{}, fmt.Errorf("encode the notice of deletion: %w", err)
	}
	var e event.Event
	if err := e.Parse(raw, event.EventGridSchema); err != nil {
		return Message{}, fmt.Errorf("encode the notice of deletion: %w", err)
	}
	m := Message{Request: p.Rules.FirstRequest(&told, &e, ""), EventType: deletionHeader}
	if m.Single != nil {
		m.Single.OutputID = strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	return m, nil
}
