package arm

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// messengerFunc is a function as a manage.Messenger.
type messengerFunc func(*resource.EventSubscription, manage.Message) manage.Receipt

func (f messengerFunc) SendMessage(_ context.Context, es *resource.EventSubscription, m manage.Message) (manage.Receipt, error) {
	return f(es, m), nil
}

// answerBusy is a handler that has no time.
func answerBusy(_ *resource.EventSubscription, m manage.Message) manage.Receipt {
	return manage.Receipt{
		RequestLine: "POST /in?[hidden] HTTP/1.1", Headers: m.Headers, Duration: 1500 * time.Microsecond,
		Response: broker.Response{Outcome: broker.Busy, Status: 503, Detail: "the handler answered 503 Service Unavailable"},
	}
}

// A tool that sends back what it got resumes nothing, however it asks.
func TestPutOfWhatWasShownKeepsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStack(t)
		at := wsID + "/providers/Microsoft.EventGrid/eventSubscriptions/es1"
		version := "?api-version=2022-06-15"
		plain := `{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://h.example/in"}}}}`
		s.do("owner", "PUT", at+version, plain)
		if w := s.do("owner", "POST", at+PausePath+version, ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"deliveryState":"Paused"`) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		shown := s.do("owner", "GET", at+version, "").Body.String()
		shown = strings.Replace(shown, `"endpointUrl":null`, `"endpointUrl":"https://h.example/in"`, 1)
		for name, body := range map[string]string{
			"as shown": shown, "without the member": plain,
			"with another state": strings.Replace(shown, `"Paused"`, `"Active"`, 1),
		} {
			if w := s.do("owner", "PUT", at+version, body); w.Code != 201 || !strings.Contains(w.Body.String(), `"deliveryState":"Paused"`) {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		if w := s.do("owner", "POST", at+ResumePath+version, ""); w.Code != 200 || strings.Contains(w.Body.String(), "deliveryState") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func (f messengerFunc) Preview(_ *resource.EventSubscription, m manage.Message) (manage.Receipt, error) {
	return manage.Receipt{RequestLine: "POST /jobs", Headers: []manage.Header{{Name: "Content-Type", Value: m.ContentType}}, Body: []byte("a=b")}, nil
}
