package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// Types of the events that speak of event subscriptions.
// Source: spec/delivery.md sections 1.2 and 1.8.
const (
	validationType = "Microsoft.EventGrid.SubscriptionValidationEvent"
	deletedType    = "Microsoft.EventGrid.SubscriptionDeletedEvent"
)

// cloudOrigins are those that Azure's clouds, and Carillon, send from.
// Source: spec/delivery.md section 1.4.
var cloudOrigins = []string{"eventgrid.azure.net", "eventgrid.azure.us", "eventgrid.azure.cn"}

// Handshake is the question whether the handler wants events.
type Handshake struct {
	Topic             string // source of the event subscription; "" in the handshake of CloudEvents
	EventSubscription string // its name, in capitals; "" in the handshake of CloudEvents
	Origin            string // in the handshake of CloudEvents: the system that wants to send
	// URL can be followed by a GET within ten minutes to say yes later. Nobody follows it
	// unless you do: it comes with the request, so only follow one of a host that you know.
	URL string
}

// ErrLater is what a function of OnHandshake returns to say neither yes nor no: the event
// subscription waits until its URL is followed.
var ErrLater = errors.New("consent is given later")

// OnHandshake has f decide about handshakes that the handler would agree to. It returns nil
// for yes, ErrLater, or the reason for no. By it a handler takes only event subscriptions
// whose names it knows.
func OnHandshake(f func(ctx context.Context, h Handshake) error) Option {
	return func(h *Handler) error {
		h.agree = f
		return nil
	}
}

// Origins are the systems that may send CloudEvents, "*" for every one; without it those of
// Azure's clouds, which is what Carillon calls itself, too.
func Origins(origins ...string) Option {
	return func(h *Handler) error {
		h.origins = origins
		return nil
	}
}

// OnDeleted has f told that an event subscription which led here was deleted. It is told at
// most once, and not reliably: nobody repeats it.
func OnDeleted(f func(ctx context.Context, eventSubscription string)) Option {
	return func(h *Handler) error {
		h.deleted = f
		return nil
	}
}

// consent answers the handshake of CloudEvents. No consent is the lack of a header, for
// the specification says that statuses are none; 403 says it to people.
func (h *Handler) consent(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "OPTIONS, POST")
	asked := Handshake{Origin: r.Header.Get("WebHook-Request-Origin"), URL: r.Header.Get("WebHook-Request-Callback")}
	if asked.Origin == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if !h.isOrigin(asked.Origin) {
		h.refuse(w, r, http.StatusForbidden, refusal("its origin may not send to this handler"))
		return
	}
	switch err := h.agrees(r, asked); {
	case errors.Is(err, ErrLater):
	case err != nil:
		h.refuse(w, r, http.StatusForbidden, err)
		return
	default:
		w.Header().Set("WebHook-Allowed-Origin", asked.Origin)
		w.Header().Set("WebHook-Allowed-Rate", "*")
	}
	w.WriteHeader(http.StatusOK)
}

func (h *Handler) isOrigin(asked string) bool {
	for _, origin := range h.origins {
		if origin == "*" || strings.EqualFold(origin, asked) {
			return true
		}
	}
	return false
}

// agrees asks the handler's own function.
func (h *Handler) agrees(r *http.Request, asked Handshake) (err error) {
	if h.agree != nil {
		err = h.agree(r.Context(), asked)
	}
	if err == nil || errors.Is(err, ErrLater) {
		h.stats.handshakes.Add(1)
		h.log.LogAttrs(r.Context(), slog.LevelInfo, "handshake answered", slog.String("topic", asked.Topic),
			slog.String("event_subscription", asked.EventSubscription), slog.String("origin", asked.Origin), slog.Bool("later", err != nil))
	}
	return err
}

// validate answers the handshake of the Event Grid schema with the code.
func (h *Handler) validate(w http.ResponseWriter, r *http.Request, e *Envelope, data []byte) {
	var asked struct {
		Code string `json:"validationCode"`
		URL  string `json:"validationUrl"`
	}
	if err := readNotice(data, &asked); err != nil || asked.Code == "" {
		h.refuse(w, r, http.StatusBadRequest, refusal("it is a validation event without a validationCode"))
		return
	}
	if !h.mayAsk(e.Source) {
		h.stats.foreign.Add(1)
		h.refuse(w, r, http.StatusForbidden, refusal("it is a handshake of a topic that this handler does not expect"))
		return
	}
	switch err := h.agrees(r, Handshake{Topic: e.Source, EventSubscription: r.Header.Get("Aeg-Subscription-Name"), URL: asked.URL}); {
	case errors.Is(err, ErrLater):
		w.WriteHeader(http.StatusOK)
	case err != nil:
		h.refuse(w, r, http.StatusForbidden, err)
	default:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(append(event.AppendQuoted([]byte(`{"validationResponse":`), asked.Code), '}'))
	}
}

// mayAsk reports whether a handshake may be of a topic that is expected. Not every one tells
// it whole: the subscription of Azure alone, or the domain that has the topic.
// Source: spec/delivery.md section 1.2, "topic".
func (h *Handler) mayAsk(asked string) bool {
	if h.anyTopic {
		return true
	}
	for _, topic := range h.topics {
		if len(asked) > 1 && len(topic) >= len(asked) && strings.EqualFold(topic[:len(asked)], asked) && (len(topic) == len(asked) || topic[len(asked)] == '/') {
			return true
		}
	}
	return false
}

// noteDeleted takes the notice that an event subscription is gone.
func (h *Handler) noteDeleted(w http.ResponseWriter, r *http.Request, e *Envelope, data []byte) {
	var gone struct {
		ID string `json:"eventSubscriptionId"`
	}
	if err := readNotice(data, &gone); err != nil || !h.mayAsk(e.Source) {
		h.refuse(w, r, http.StatusBadRequest, refusal("it is a notice of deletion that this handler does not expect"))
		return
	}
	h.log.LogAttrs(r.Context(), slog.LevelInfo, "event subscription deleted", slog.String("event_subscription", gone.ID))
	if h.deleted != nil {
		h.deleted(r.Context(), gone.ID)
	}
	w.WriteHeader(http.StatusOK)
}

// readNotice reads the data of such an event: an object, or, as Azure Functions are sent
// it, a text that holds one. Source: spec/handlers.md section 3.
func readNotice(data []byte, into any) error {
	var text string
	if len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil {
		data = []byte(text)
	}
	return json.Unmarshal(bytes.TrimSpace(data), into)
}
