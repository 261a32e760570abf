package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
)

// ServeHTTP takes the requests of event subscriptions. A request is answered when all of its
// events are done with, by the answer that its worst event asks for: a batch is accepted
// whole or comes again whole, and the inbox knows those of its events that were handled.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.stats.requests.Add(1)
	switch r.Method {
	case http.MethodPost:
		h.post(w, r)
	case http.MethodOptions:
		if err := verify(h.checks, r, nil); err != nil {
			h.unverified(w, r, err)
			return
		}
		h.consent(w, r)
	default:
		w.Header().Set("Allow", "OPTIONS, POST")
		h.refuse(w, r, http.StatusMethodNotAllowed, refusal("events are posted here"))
	}
}

// post takes deliveries, the handshake of the Event Grid schema and notices.
func (h *Handler) post(w http.ResponseWriter, r *http.Request) {
	lift := h.limitBody(w, r)
	if !isTaken(r.Header) {
		h.refuse(w, r, http.StatusUnsupportedMediaType, refusal("its body must be "+event.MediaTypeCloudEvent+", "+event.MediaTypeCloudEvents+" or application/json in UTF-8, not compressed"))
		return
	}
	if err := verify(h.checks, r, nil); err != nil { // before a stranger's body takes room
		h.unverified(w, r, err)
		return
	}
	body, err := h.readBody(w, r)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		h.refuse(w, r, http.StatusRequestEntityTooLarge, refusal(fmt.Sprintf("its body has more than %d bytes", tooLarge.Limit)))
		return
	} else if err != nil {
		h.refuse(w, r, http.StatusInternalServerError, errors.New("its body broke off"))
		return
	}
	lift()
	if err := verify(h.bodyChecks, r, body); err != nil {
		h.unverified(w, r, err)
		return
	}
	if !h.enter(r.Context()) {
		h.stats.busy.Add(1)
		w.Header().Set("Retry-After", strconv.Itoa(int(placeWait.Seconds())))
		http.Error(w, "too many requests are being handled", http.StatusTooManyRequests)
		return
	}
	defer h.leave()
	if err := event.Check(body); err != nil {
		h.stats.malformed.Add(1)
		h.refuse(w, r, http.StatusBadRequest, refusal("its body is not JSON: "+err.Error()))
		return
	}
	switch kind := r.Header.Get("Aeg-Event-Type"); {
	case kind == "" || strings.EqualFold(kind, "Notification"):
		h.deliver(w, r, body)
	case strings.EqualFold(kind, "SubscriptionValidation"):
		h.special(w, r, body, validationType)
	case strings.EqualFold(kind, "SubscriptionDeletion") || strings.EqualFold(kind, "Unsubscribe"):
		h.special(w, r, body, deletedType)
	default:
		h.refuse(w, r, http.StatusBadRequest, refusal("its aeg-event-type is not known"))
	}
}

// isTaken reports whether a body is of a kind that deliveries have. Source: spec/delivery.md
// section 2.1. The binary form of CloudEvents, which no event service of this kind sends,
// would be taken for an event without an envelope.
func isTaken(h http.Header) bool {
	if h.Get("Content-Encoding") != "" || h.Get("Ce-Specversion") != "" {
		return false
	}
	switch h.Get("Content-Type") { // what senders write
	case "application/json; charset=utf-8", event.MediaTypeCloudEvent + "; charset=utf-8", event.MediaTypeCloudEvents + "; charset=utf-8":
		return true
	}
	kind, parameters, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return false
	}
	charset, ok := parameters["charset"]
	return (kind == "application/json" || kind == event.MediaTypeCloudEvent || kind == event.MediaTypeCloudEvents) && (!ok || strings.EqualFold(charset, "utf-8"))
}

// limitBody sets a deadline for the body, where the server has none and the connection can have
// one. lift takes it away, once the body is read: what is still to be read of a request that is
// answered before has the deadline, too.
func (h *Handler) limitBody(w http.ResponseWriter, r *http.Request) (lift func()) {
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.ReadTimeout <= 0 {
		control := http.NewResponseController(w)
		if control.SetReadDeadline(time.Now().Add(h.bodyTime)) == nil {
			return func() { _ = control.SetReadDeadline(time.Time{}) }
		}
	}
	return func() {}
}

// readBody reads the body, within the limit, once. What it takes grows with
// what has come: a length is only announced.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > h.maxBody {
		return nil, &http.MaxBytesError{Limit: h.maxBody}
	}
	if r.ContentLength < 0 {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBody))
	}
	body := make([]byte, min(r.ContentLength, firstRead))
	for at := 0; ; {
		n, err := io.ReadFull(r.Body, body[at:])
		if at += n; err != nil {
			return nil, err
		}
		if at == int(r.ContentLength) {
			return body, nil
		}
		body = append(make([]byte, 0, min(2*at, int(r.ContentLength))), body...)
		body = body[:cap(body)]
	}
}

func verify(checks []check, r *http.Request, body []byte) error {
	for _, check := range checks {
		if err := check(r, body); err != nil {
			return err
		}
	}
	return nil
}

// unverified answers a request that is not known to come from who it should. One that does
// not is told 401, and its sender not to try again; if that could not be found out, 503.
func (h *Handler) unverified(w http.ResponseWriter, r *http.Request, err error) {
	if _, ok := errors.AsType[refusal](err); ok {
		h.refuse(w, r, http.StatusUnauthorized, err)
		return
	}
	h.stats.busy.Add(1)
	h.log.LogAttrs(r.Context(), slog.LevelError, "request not verified", slog.String("error", err.Error()))
	w.Header().Set("Retry-After", strconv.Itoa(int(busyAfter.Seconds())))
	http.Error(w, "the request cannot be verified at present", http.StatusServiceUnavailable)
}

// refuse answers a request that is no delivery for this handler. What is wrong is for the log;
// a stranger is told no more than the status says.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	h.stats.refused.Add(1)
	h.log.LogAttrs(r.Context(), slog.LevelWarn, "request refused", slog.Int("status", status), slog.String("reason", err.Error()),
		slog.String("event_subscription", r.Header.Get("Aeg-Subscription-Name")), slog.String("remote", r.RemoteAddr))
	http.Error(w, strings.ToLower(http.StatusText(status)), status)
}

// enter waits for a place among those of Concurrency.
func (h *Handler) enter(ctx context.Context) bool {
	if h.places == nil {
		return true
	}
	select {
	case h.places <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(placeWait)
	defer timer.Stop()
	select {
	case h.places <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (h *Handler) leave() {
	if h.places != nil {
		<-h.places
	}
}

// special takes a request whose header says that it is of the one event of a type. The header
// alone says so: an event of that type among deliveries is what a publisher made up.
func (h *Handler) special(w http.ResponseWriter, r *http.Request, body []byte, eventType string) {
	raw, n := body, 1
	if isArray(body) {
		n = 0
		for c := event.Walk(body); c.Next() && n < 2; n++ {
			raw = c.Value
		}
	}
	var e Envelope
	data, err := e.read(raw)
	switch {
	case n != 1 || err != nil || !strings.EqualFold(e.Type, eventType):
		h.refuse(w, r, http.StatusBadRequest, refusal("its one event is not of type "+eventType))
	case eventType == validationType:
		h.validate(w, r, &e, data)
	default:
		h.noteDeleted(w, r, &e, data)
	}
}

func isArray(body []byte) bool {
	return event.KindOf(bytes.TrimLeft(body, " \t\r\n")) == event.Array
}

// deliver handles the events of a request one after the other, all of them unless one wants
// a pause or the request ends: then those that are left come again with the others.
func (h *Handler) deliver(w http.ResponseWriter, r *http.Request, body []byte) {
	var worst error
	delivery := deliveryOf(r.Header)
	if !isArray(body) {
		worst = h.take(r.Context(), body, "", delivery)
	} else {
		left := int64(0)
		for c := event.Walk(body); c.Next(); {
			status, _ := Answer(worst)
			if status != http.StatusServiceUnavailable && r.Context().Err() != nil {
				worst, status = RetryAfter(busyAfter, context.Cause(r.Context())), http.StatusServiceUnavailable
			}
			if status == http.StatusServiceUnavailable {
				left++
				continue
			}
			worst = worse(worst, h.take(r.Context(), c.Value, "", delivery))
		}
		if left > 0 {
			h.stats.busy.Add(left)
			h.log.LogAttrs(r.Context(), slog.LevelWarn, "events of a batch not handled yet", slog.Int64("events", left), slog.String("error", worst.Error()))
		}
	}
	status, after := Answer(worst)
	if status == http.StatusOK {
		w.WriteHeader(status)
		return
	}
	if after > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10))
	}
	http.Error(w, strings.ToLower(http.StatusText(status)), status)
}
