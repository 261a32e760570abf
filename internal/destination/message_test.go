package destination

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

var messageRequest = broker.Request{
	Body: []byte(`[{"id":"1"}]`), ContentType: "application/json; charset=utf-8",
	Single:     &broker.SingleEvent{OutputID: "0a", MetadataVersion: "1", DataVersion: "2"},
	Attributes: []broker.Attribute{{Name: "x-subject", Value: "runs/1"}},
}

// messengerTo returns a Messenger to a URL, and an event subscription with one secret
// header and one that is none.
func messengerTo(url string) (*Messenger, *resource.EventSubscription) {
	es := &resource.EventSubscription{Name: "es1", Destination: resource.Destination{WebHook: &resource.WebHook{Packing: resource.Packing{DeliveryAttributes: []resource.DeliveryAttribute{
		{Name: "X-Key", Type: resource.AttributeStatic, SealedValue: "sealed"}, {Name: "x-team", Type: resource.AttributeStatic, Value: "mlops"},
	}}}}}
	return NewMessenger(func(es *resource.EventSubscription) (WebhookConfig, error) {
		return WebhookConfig{URL: url, Name: es.Name, Schema: event.EventGridSchema, Guard: loopback, Headers: []manage.Header{
			{Name: "x-key", Value: "s3cret"}, {Name: "x-team", Value: "mlops"}, {Name: "authorization", Value: "Bearer s3cret"},
		}}, nil
	}, nil), es
}

func TestMessage(t *testing.T) {
	got := make(chan string, 1)
	url := rawServer(t, func(_ int, c net.Conn) {
		raw, err := readRequest(c)
		if err != nil {
			t.Error(err)
		}
		got <- raw
		_, _ = io.WriteString(c, "HTTP/1.1 503 x\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n")
	})
	m, es := messengerTo(url)
	request := messageRequest
	receipt, err := m.SendMessage(t.Context(), es, manage.Message{
		Request: &request, EventType: "SubscriptionDeletion", Headers: []manage.Header{{Name: "carillon-test", Value: "true"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(strings.TrimSuffix(url, "/in?code=s3cret"), "http://")
	golden(t, "message.http", "spec/delivery.md sections 1.8 and 2.1", strings.ReplaceAll(<-got, host, "hooks.example.org"))
	var shown strings.Builder
	fmt.Fprintln(&shown, receipt.RequestLine)
	for _, h := range receipt.Headers {
		fmt.Fprintf(&shown, "%s: %s\n", h.Name, h.Value)
	}
	golden(t, "message.shown", "the request of message.http as it is shown", strings.ReplaceAll(shown.String(), host, "hooks.example.org"))
	if r := receipt.Response; r.Outcome != broker.Busy || r.Status != 503 || r.RetryAfter == 0 || receipt.Duration <= 0 {
		t.Errorf("receipt %+v", receipt)
	}
}

// What could not be sent is shown as it would have been.
func TestMessageWithoutConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	m, es := messengerTo("http://" + closed + "/in")
	request := messageRequest
	receipt, err := m.SendMessage(t.Context(), es, manage.Message{Request: &request})
	if err != nil || receipt.Response.Outcome != broker.SocketError || receipt.Response.Detail != closed+": the connection was refused" {
		t.Errorf("%+v, %v", receipt.Response, err)
	}
	if receipt.RequestLine != "POST /in HTTP/1.1" || len(receipt.Headers) < 10 || strings.Contains(fmt.Sprint(receipt), "s3cret") {
		t.Errorf("shown %q %v", receipt.RequestLine, receipt.Headers)
	}
}
