package destination

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// Messenger sends single requests to destinations, with all that a delivery has: its
// headers, attributes and credentials. It satisfies manage.Messenger.
type Messenger struct {
	configOf func(*resource.EventSubscription) (WebhookConfig, error)
	targets  *Targets
}

var _ manage.Messenger = (*Messenger)(nil)

// NewMessenger returns a Messenger for webhooks that configOf tells about, and for other
// destinations by targets.
func NewMessenger(configOf func(*resource.EventSubscription) (WebhookConfig, error), targets *Targets) *Messenger {
	return &Messenger{configOf: configOf, targets: targets}
}

// SendMessage makes one attempt on a connection of its own.
func (m *Messenger) SendMessage(ctx context.Context, es *resource.EventSubscription, msg manage.Message) (manage.Receipt, error) {
	if es.Destination.WebHook == nil {
		return m.sendToTarget(ctx, es, msg)
	}
	c, err := m.configOf(es)
	if err != nil {
		return manage.Receipt{}, err
	}
	c.EventType = msg.EventType
	c.Headers = append(slices.Clone(c.Headers), msg.Headers...)
	w, err := NewWebhook(c)
	if err != nil {
		return manage.Receipt{}, err
	}
	defer w.Close()
	// What was not sent, because there was no connection, is shown all the same.
	receipt := shown(w.appendHead(slices.Clone(w.head), msg.Request, ""), es)
	w.sent = func(head []byte) { receipt = shown(head, es) }
	began := time.Now()
	receipt.Response = w.Send(ctx, msg.Request)
	receipt.Duration = time.Since(began)
	return receipt, nil
}

// Preview says what would be sent, and connects to nobody.
func (m *Messenger) Preview(es *resource.EventSubscription, msg manage.Message) (manage.Receipt, error) {
	if es.Destination.WebHook == nil {
		to, err := m.targets.open(es, true)
		if err != nil {
			return manage.Receipt{}, err
		}
		defer to.Close()
		return to.preview(msg.Request, 0), nil
	}
	c, err := m.configOf(es)
	if err != nil {
		return manage.Receipt{}, err
	}
	w, err := NewWebhook(c)
	if err != nil {
		return manage.Receipt{}, err
	}
	defer w.Close()
	return shown(w.appendHead(slices.Clone(w.head), msg.Request, ""), es), nil
}

func (m *Messenger) sendToTarget(ctx context.Context, es *resource.EventSubscription, msg manage.Message) (manage.Receipt, error) {
	to, err := m.targets.open(es, true)
	if err != nil {
		return manage.Receipt{}, err
	}
	defer to.Close()
	for i := range msg.Parts {
		for _, h := range msg.Headers {
			msg.Parts[i].Attributes = append(msg.Parts[i].Attributes, broker.Attribute{Name: h.Name, Value: h.Value})
		}
	}
	if hook, is := to.(*azureWebhook); is {
		hook.more = msg.Headers
		if msg.EventType != "" {
			hook.eventType = functionGoodbye
		}
	}
	receipt := to.preview(msg.Request, 0)
	began := time.Now()
	receipt.Response = to.Send(ctx, msg.Request)
	receipt.Duration = time.Since(began)
	return receipt, nil
}

// shown takes the head of a request apart and hides what is secret in it: the query,
// the delivery attributes that are, and credentials.
func shown(head []byte, es *resource.EventSubscription) manage.Receipt {
	return shownHead(head, func(name string) bool { return isSecretHeader(name, es) })
}

// isSecretHeader reports whether the value of a header is not for showing.
func isSecretHeader(name string, es *resource.EventSubscription) bool {
	if strings.EqualFold(name, "Authorization") || strings.EqualFold(name, "Cookie") {
		return true
	}
	hook := es.Destination.WebHook
	return hook != nil && slices.ContainsFunc(hook.DeliveryAttributes, func(a resource.DeliveryAttribute) bool {
		return strings.EqualFold(a.Name, name) && a.Secret()
	})
}
