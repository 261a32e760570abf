package arm

import (
	"encoding/json"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/manage"
)

// More actions below the id of an event subscription, each with POST.
const (
	PausePath     = "/pause"         // no more delivery attempts until it is resumed
	ResumePath    = "/resume"        // the way back
	TestEventPath = "/sendTestEvent" // one event to the handler, outside the log
	RenderPath    = "/renderEvent"   // what the handler would be sent of one
)

func pauseEventSubscription(a *api, r *request) (answer, error) {
	v, err := a.Plane.PauseEventSubscription(r.ctx, r.caller, r.id, r.precondition())
	return a.eventSubscriptionAnswer(v, err)
}

func resumeEventSubscription(a *api, r *request) (answer, error) {
	v, err := a.Plane.ResumeEventSubscription(r.ctx, r.caller, r.id, r.precondition())
	return a.eventSubscriptionAnswer(v, err)
}

// pausedBody is what a paused event subscription shows more, and PUT and PATCH do not
// read: a tool that sends back what it got resumes nothing.
type pausedBody struct {
	DeliveryState string `json:"deliveryState"` // "Paused"
	PausedTime    string `json:"pausedTime"`    // since when
}

func pausedOf(v manage.EventSubscription) *pausedBody {
	if v.Value.Paused.IsZero() {
		return nil
	}
	return &pausedBody{"Paused", armTime(v.Value.Paused)}
}

// testEventBody is the answer to sendTestEvent. This API is Carillon's own.
type testEventBody struct {
	EventSubscription string            `json:"eventSubscription"` // full resource id
	Request           testRequestBody   `json:"request"`
	Response          *testResponseBody `json:"response,omitempty"` // none where nothing was sent
}

type testRequestBody struct {
	Line    string          `json:"line"`
	Headers []headerBody    `json:"headers"` // in the order sent; secrets are hidden
	Body    json.RawMessage `json:"body"`
}

type headerBody struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type testResponseBody struct {
	Outcome   string  `json:"outcome"`
	Status    int     `json:"status,omitempty"` // none when nothing was answered
	Duration  float64 `json:"durationInMilliseconds"`
	Detail    string  `json:"detail,omitempty"`
	Delivered bool    `json:"delivered"`
	WouldBe   string  `json:"wouldBe"` // what follows such an answer to a first attempt: Done, Retry or DeadLetter
}

// sendTestEvent sends one event to the handler: event, as it would be published, or a
// sample of eventType.
func sendTestEvent(a *api, r *request) (answer, error) {
	sent, err := a.Plane.SendTestEvent(r.ctx, r.caller, r.id, r.testEvent())
	if err != nil {
		return answer{}, err
	}
	body := testEventOf(&sent)
	body.Response = &testResponseBody{
		Outcome: sent.Response.Outcome.String(), Status: sent.Response.Status, Detail: sent.Response.Detail,
		Duration: float64(sent.Duration.Microseconds()) / 1000, Delivered: sent.Action == broker.Done, WouldBe: sent.Action.String(),
	}
	return ok(body), nil
}

// renderEvent says what the handler would be sent, of the same body.
func renderEvent(a *api, r *request) (answer, error) {
	made, err := a.Plane.RenderEvent(r.ctx, r.caller, r.id, r.testEvent())
	if err != nil {
		return answer{}, err
	}
	return ok(testEventOf(&made)), nil
}

func (r *request) testEvent() manage.TestEvent {
	f, err := r.readBody()
	t := manage.TestEvent{EventType: f.str("eventType"), Event: f.raw("event")}
	t.Invalid = f.verdict(err)
	return t
}

func testEventOf(sent *manage.SentTestEvent) testEventBody {
	body := testEventBody{
		EventSubscription: sent.EventSubscription.ID.String(),
		Request:           testRequestBody{Line: sent.RequestLine, Headers: []headerBody{}, Body: sent.Body},
	}
	if made := sent.Receipt.Body; json.Valid(made) {
		body.Request.Body = made
	} else if made != nil {
		body.Request.Body = quoted(string(made)) // a form
	}
	for _, h := range sent.Headers {
		body.Request.Headers = append(body.Request.Headers, headerBody(h))
	}
	return body
}
