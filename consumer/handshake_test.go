package consumer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
)

// TestValidation answers the handshake of the Event Grid schema for topics that are expected.
func TestValidation(t *testing.T) {
	no := errors.New("no")
	for _, c := range []struct {
		topic  string
		agree  error
		yes    bool
		status int
	}{
		{workspace, nil, true, 200},
		{strings.ToUpper(workspace), nil, true, 200},
		{"/subscriptions/00000000-0000-0000-0000-000000000001", nil, true, 200}, // all that Azure's documentation shows
		{workspace + "-2", nil, false, 403},
		{workspace[:len(workspace)-3], nil, false, 403},
		{"/subscriptions/00000000-0000-0000-0000-000000000002", nil, false, 403},
		{"/", nil, false, 403},
		{workspace, no, false, 403},
		{workspace, consumer.ErrLater, false, 200},
	} {
		var asked []consumer.Handshake
		saw := &seen{}
		h := newHandler(t, consumer.On(saw.completed), consumer.OnHandshake(func(_ context.Context, q consumer.Handshake) error {
			asked = append(asked, q)
			return c.agree
		}))
		yes, a, err := (&consumertest.Sender{Handler: h, EventSubscription: "es1"}).Validate(c.topic)
		if err != nil || yes != c.yes || a.Status != c.status {
			t.Errorf("%s: %t, %+v, %v", c.topic, yes, a, err)
		}
		if (c.yes || c.agree != nil) != (len(asked) == 1 && asked[0].EventSubscription == "ES1" && asked[0].Topic == c.topic && strings.HasPrefix(asked[0].URL, "https://")) {
			t.Errorf("%s: asked %+v", c.topic, asked)
		}
		if s := h.Stats(); s.Handshakes != s.Requests-s.Refused || (s.Refused == 1) != (c.status == 403) {
			t.Errorf("%s: counted %+v", c.topic, s)
		}
	}
	h := newHandler(t, consumer.On((&seen{}).completed))
	sender := &consumertest.Sender{Handler: h}
	// The way of Azure Functions: one object, whose data is a text.
	body := `{"id":"1","source":"` + workspace + `","type":"Microsoft.EventGrid.SubscriptionValidationEvent","specversion":"1.0","data":"{\"validationCode\":\"a\\\"b\"}"}`
	if a, err := sender.Post("SubscriptionValidation", "application/json", []byte(body)); err != nil || string(a.Body) != `{"validationResponse":"a\"b"}` {
		t.Errorf("%s, %v", a.Body, err)
	}
	for _, body := range []string{`[]`, `[{"id":"1","topic":"` + workspace + `","eventType":"T"}]`, "[" + body + "," + body + "]", strings.Replace(body, "validationCode", "code", 1)} {
		if a, err := sender.Post("SubscriptionValidation", "application/json", []byte(body)); err != nil || a.Status != 400 {
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
	// One that is delivered is no handshake, but what somebody published.
	for _, body := range []string{body, "[" + body + "]"} {
		if a, err := sender.Post("Notification", "application/json", []byte(body)); err != nil || a.Status != 200 || len(a.Body) > 0 {
			t.Errorf("%+v, %v", a, err)
		}
	}
	if s := h.Stats(); s.Skipped != 2 || s.Handshakes != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestConsent answers the handshake of CloudEvents for origins that may send.
func TestConsent(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		origin  string
		agree   error
		yes     bool
		status  int
	}{
		{nil, "eventgrid.azure.net", nil, true, 200},
		{nil, "EventGrid.azure.net", nil, true, 200},
		{nil, "eventgrid.azure.net.example", nil, false, 403},
		{nil, "", nil, false, 204},
		{[]string{"events.example"}, "events.example", nil, true, 200},
		{[]string{"events.example"}, "eventgrid.azure.net", nil, false, 403},
		{[]string{"*"}, "anybody", nil, true, 200},
		{nil, "eventgrid.azure.net", errors.New("no"), false, 403},
		{nil, "eventgrid.azure.net", consumer.ErrLater, false, 200},
	} {
		options := []consumer.Option{consumer.On((&seen{}).completed), consumer.OnHandshake(func(context.Context, consumer.Handshake) error { return c.agree })}
		if c.allowed != nil {
			options = append(options, consumer.Origins(c.allowed...))
		}
		yes, a, err := (&consumertest.Sender{Handler: newHandler(t, options...)}).Ask(c.origin)
		if err != nil || yes != c.yes || a.Status != c.status || !strings.Contains(a.Header.Get("Allow"), "POST") {
			t.Errorf("%v, %q: %t, %+v, %v", c.allowed, c.origin, yes, a, err)
		}
		if told := a.Header.Get("WebHook-Allowed-Rate") != "" && a.Header.Get("WebHook-Allowed-Origin") != ""; told != c.yes {
			t.Errorf("%v, %q: told %v", c.allowed, c.origin, a.Header)
		}
	}
}

// TestDeleted tells of an event subscription that is gone, of expected topics alone.
func TestDeleted(t *testing.T) {
	var gone []string
	h := newHandler(t, consumer.On((&seen{}).completed), consumer.OnDeleted(func(_ context.Context, id string) { gone = append(gone, id) }))
	sender := &consumertest.Sender{Handler: h}
	for _, c := range []struct {
		topic  string
		status int
	}{{workspace, 200}, {"other", 400}} {
		if a, err := sender.Deleted(c.topic, c.topic+"/es"); err != nil || a.Status != c.status {
			t.Errorf("%s: %+v, %v", c.topic, a, err)
		}
	}
	body := `{"specversion":"1.0","id":"1","source":"` + workspace + `","type":"Microsoft.EventGrid.SubscriptionDeletedEvent","data":{"eventSubscriptionId":"cloud"}}`
	for _, kind := range []string{"SubscriptionDeletion", "Unsubscribe"} {
		if a, err := sender.Post(kind, "application/cloudevents+json", []byte(body)); err != nil || a.Status != 200 {
			t.Errorf("%s: %+v, %v", kind, a, err)
		}
	}
	// One that is delivered is an event that somebody published.
	if a, err := sender.Post("Notification", "application/cloudevents+json", []byte(body)); err != nil || a.Status != 200 || h.Stats().Skipped != 1 {
		t.Errorf("%+v, %v, counted %+v", a, err, h.Stats())
	}
	if want := []string{workspace + "/es", "cloud", "cloud"}; !slices.Equal(gone, want) {
		t.Errorf("told of %v", gone)
	}
}
