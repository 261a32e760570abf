package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/mlevent"
)

// Defaults of a Handler.
const (
	defaultMaxBody   = 2 << 20          // a full batch, or one event of 1 MiB, and room for its envelope
	defaultTimeLimit = 25 * time.Second // of the 30 that a sender waits
	defaultEvents    = 100_000
	defaultAge       = 48 * time.Hour
)

// Waits for an event that is not handled now because of others.
const (
	placeWait = 10 * time.Second // for a place among those of Concurrency
	busyAfter = 30 * time.Second // until a sender comes again
	bodyTime  = 15 * time.Second // for the body of a request; half of what a sender waits
)

// firstRead is what a body gets at first, and twice what has come each time after that.
const firstRead = 16 << 10

// Handler is an http.Handler for the deliveries of event subscriptions, and their
// handshakes. Its Handle method takes events that come by other ways. It is made by [New]
// and may be used by many goroutines.
type Handler struct {
	topics     []string
	anyTopic   bool
	routes     map[string]*route // by event type
	other      *route            // for types that have none
	inbox      Inbox
	checks     []check // those that need no body
	bodyChecks []check
	origins    []string
	agree      func(context.Context, Handshake) error
	deleted    func(context.Context, string)
	maxBody    int64
	bodyTime   time.Duration
	limit      time.Duration
	places     chan struct{} // nil for any number
	log        *slog.Logger
	now        func() time.Time

	flights flights
	stats   counters
}

// route is what becomes of the events of a type.
type route struct {
	eventType string
	stale     bool
	call      func(ctx context.Context, e *Envelope, data []byte) error
}

// Option changes what a Handler does.
type Option func(*Handler) error

// New returns a Handler. It needs [Topics] and at least one function for events: [On],
// [OnType] or [OnOther]. Without [Signed], [BearerToken], [ClientCertificate] or
// [SharedKey] it believes everyone who reaches it; of several, each has to be satisfied.
func New(options ...Option) (*Handler, error) {
	h := &Handler{
		routes: map[string]*route{}, origins: cloudOrigins, maxBody: defaultMaxBody, bodyTime: bodyTime, limit: defaultTimeLimit,
		log: slog.Default(), now: time.Now, flights: flights{now: map[Key]chan struct{}{}},
	}
	var problems []error
	for _, option := range options {
		if err := option(h); err != nil {
			problems = append(problems, err)
		}
	}
	if len(h.topics) == 0 && !h.anyTopic {
		problems = append(problems, errors.New("there are no Topics: name the topics that events are expected of"))
	}
	if len(h.routes) == 0 && h.other == nil {
		problems = append(problems, errors.New("there is no function for events: use On, OnType or OnOther"))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("make a handler of events: %w", errors.Join(problems...))
	}
	if h.inbox == nil {
		h.inbox = NewMemory(defaultEvents, defaultAge)
	}
	if one, ok := h.inbox.(interface{ Attach() error }); ok {
		if err := one.Attach(); err != nil {
			return nil, fmt.Errorf("make a handler of events: %w", err)
		}
	}
	return h, nil
}

// Topics are the topics that events are expected of: resource ids of workspaces and custom
// topics, compared ignoring case, or sources of CloudEvents. An event of another one is
// refused with 400, so that its sender does not try for a day but stores a dead letter that
// shows the mistake. "*" takes every topic: for tools that only look on.
func Topics(topics ...string) Option {
	return func(h *Handler) error {
		for _, topic := range topics {
			switch topic {
			case "":
				return errors.New("Topics: a topic is empty")
			case "*":
				h.anyTopic = true
			default:
				h.topics = append(h.topics, topic)
			}
		}
		return nil
	}
}

// On has f handle the events of a type that package mlevent knows, which is told by the data
// that f takes: with Event[mlevent.RunCompleted], events of type RunCompleted. Every
// published spelling of a payload is read, and members that are not known are passed over.
//
// By default f sees no event that tells an older state than one of the same subject that was
// handled, of whichever type: an old state must not undo a newer one. Events of one change
// have one etag: none of them is older than the others. Where each event counts for itself,
// and not the state that it tells of, use WithStale. Events of one subject are never handled
// at once. An event is handled again if f returns an error, or does not return.
func On[P mlevent.Payload](f func(ctx context.Context, e Event[P]) error, options ...RouteOption) Option {
	return func(h *Handler) error {
		eventType, ok := typeOf[P]()
		if !ok {
			return fmt.Errorf("On: %T is not a payload: use a struct of package mlevent", *new(P))
		}
		return h.route(newRoute(eventType, f, mlevent.Parse[P], options))
	}
}

// typeOf returns the event type of a payload. Pointers to payloads have none, nor has the
// interface.
func typeOf[P mlevent.Payload]() (string, bool) {
	p, err := mlevent.Parse[P]([]byte("{}"))
	if err != nil {
		return "", false
	}
	return p.EventType(), true
}

// OnType is [On] for other event types: data is decoded into T as package encoding/json does
// it, or not at all if T is json.RawMessage. An event has an order if it has
// a subject and its data a sequencer, or a CloudEvent the extension sequence: texts, or numbers
// if its sequencetype is Integer.
func OnType[T any](eventType string, f func(ctx context.Context, e Event[T]) error, options ...RouteOption) Option {
	return func(h *Handler) error {
		if eventType == "" {
			return errors.New("OnType: the event type is empty")
		}
		return h.route(newRoute(eventType, f, parseJSON[T], options))
	}
}

// OnOther has f handle the events of all types that have no function of their own. Without
// it they are skipped: an event subscription may send more types one day than it does now.
func OnOther(f func(ctx context.Context, e Event[json.RawMessage]) error, options ...RouteOption) Option {
	return func(h *Handler) error {
		if h.other != nil {
			return errors.New("OnOther: there is one already")
		}
		h.other = newRoute("", f, parseJSON[json.RawMessage], options)
		return nil
	}
}

// RouteOption changes how the events of one function are handled.
type RouteOption func(*route)

// WithStale passes events that are older than one of the same subject that was handled, with
// Stale set, in place of dropping them. Each event still comes once.
func WithStale() RouteOption { return func(r *route) { r.stale = true } }

func newRoute[T any](eventType string, f func(context.Context, Event[T]) error, parse func([]byte) (T, error), options []RouteOption) *route {
	r := &route{eventType: eventType, call: func(ctx context.Context, e *Envelope, data []byte) error {
		value, err := parse(data)
		if err != nil {
			return &malformed{err}
		}
		return f(ctx, Event[T]{Envelope: *e, Data: value})
	}}
	for _, option := range options {
		option(r)
	}
	return r
}

func (h *Handler) route(r *route) error {
	for known := range h.routes {
		if strings.EqualFold(known, r.eventType) {
			return fmt.Errorf("there are two functions for events of type %s", r.eventType)
		}
	}
	h.routes[r.eventType] = r
	return nil
}

func parseJSON[T any](data []byte) (value T, err error) {
	if raw, ok := any(&value).(*json.RawMessage); ok {
		*raw = data
		return value, nil
	}
	if data == nil {
		return value, nil
	}
	return value, json.Unmarshal(data, &value)
}

// malformed is an event that cannot be read, however often it comes.
type malformed struct{ err error }

func (e *malformed) Error() string { return "the event cannot be read: " + e.err.Error() }
func (e *malformed) Unwrap() error { return &deadLetter{e.err} }

// WithInbox has the handler remember in inbox what it has handled. The default is a [Memory]
// of 100,000 events and two days. An inbox is that of one Handler: what one has handled, another
// would drop.
func WithInbox(inbox Inbox) Option {
	return func(h *Handler) error {
		h.inbox = inbox
		return nil
	}
}

// WithLogger has the handler write to log: by default to slog.Default(). It writes no data of
// events and no secrets.
func WithLogger(log *slog.Logger) Option {
	return func(h *Handler) error {
		if log == nil {
			return errors.New("WithLogger: there is no logger; slog.New(slog.DiscardHandler) is a silent one")
		}
		h.log = log
		return nil
	}
}

// TimeLimit is how long one event may take: then the context of its function ends. The
// default is 25 seconds; a sender waits 30 for the answer to a request. What a function
// cannot do in that time it should only begin: put it into a queue of its own, or start it
// under an id that is made from the event's.
func TimeLimit(d time.Duration) Option {
	return func(h *Handler) error {
		if d <= 0 {
			return errors.New("TimeLimit: it must be more than 0")
		}
		h.limit = d
		return nil
	}
}

// MaxBody is how many bytes a request may have, 2 MiB by default. A larger one is answered
// 413, and its events become dead letters.
func MaxBody(bytes int64) Option {
	return func(h *Handler) error {
		if bytes <= 0 {
			return errors.New("MaxBody: it must be more than 0")
		}
		h.maxBody = bytes
		return nil
	}
}

// Concurrency is how many requests are handled at once; by default all that come. Others
// wait up to ten seconds and are then answered 429: come again.
func Concurrency(n int) Option {
	return func(h *Handler) error {
		if n <= 0 {
			return errors.New("Concurrency: it must be more than 0")
		}
		h.places = make(chan struct{}, n)
		return nil
	}
}

// Handle takes one event, JSON of the Event Grid schema or a CloudEvent, that came by another
// way than a request: by pull delivery, out of a queue, or from a list. It does all that is
// done for a delivery but the verification of its sender. nil says that the event is done
// with, now or before; [Answer] says what an error asks for.
func (h *Handler) Handle(ctx context.Context, event []byte) error {
	return h.take(ctx, event, "", Delivery{})
}

// under is an event that is under way: what it is, and the context of its function.
type under struct {
	limited
	e Envelope
}

// take reads an event and handles it. change is the etag by which its order is judged, if that is
// not the one that it tells.
func (h *Handler) take(ctx context.Context, raw []byte, change string, d Delivery) error {
	u := &under{limited: limited{Context: ctx, limit: h.limit, deadline: time.Now().Add(h.limit)}, e: Envelope{Delivery: d}}
	defer u.end()
	data, err := u.e.read(raw)
	if err != nil {
		h.stats.malformed.Add(1)
		h.note(ctx, slog.LevelError, "event refused: it cannot be read", &u.e, err)
		return &malformed{err}
	}
	return h.handle(ctx, &u.limited, &u.e, cmp.Or(change, u.e.ETag), data)
}

// errForeign is what is wrong with an event of a topic that is not expected.
var errForeign = DeadLetter(errors.New("the event is of a topic that this handler does not expect"))

// handle takes one event: topic, type, order and duplicates, and then the function for it. etag
// is that of its change.
func (h *Handler) handle(ctx context.Context, limit *limited, e *Envelope, etag string, data []byte) error {
	if !h.expects(e) {
		h.stats.foreign.Add(1)
		h.note(ctx, slog.LevelWarn, "event refused: its topic is not expected", e, nil)
		return errForeign
	}
	r := h.routeOf(e)
	if r == nil {
		h.stats.skipped.Add(1)
		h.note(ctx, slog.LevelDebug, "event skipped: no function is for its type", e, nil)
		return nil
	}
	entry := Entry{Source: e.Source, ID: e.ID, Subject: e.Subject, Sequencer: e.Sequencer, ETag: etag}
	if e.Subject == "" {
		entry.Sequencer = "" // there is no object whose states could be in order
	}
	key := entry.EventKey()
	if entry.Sequencer != "" {
		key = entry.ObjectKey()
	}
	if err := h.flights.take(limit, key); err != nil {
		return h.later(ctx, e, fmt.Errorf("another event of its subject is being handled: %w", err))
	}
	defer h.flights.land(key)
	verdict, err := h.inbox.Begin(limit, entry)
	switch {
	case err != nil:
		return h.later(ctx, e, fmt.Errorf("the inbox cannot tell whether it was handled: %w", err))
	case verdict == Claimed:
		return h.later(ctx, e, errors.New("another process is handling it, or an event of its subject"))
	case verdict == Seen:
		h.stats.duplicate.Add(1)
		h.note(ctx, slog.LevelDebug, "event dropped: it was handled before", e, nil)
		return nil
	}
	e.Stale = verdict == Older
	drop := e.Stale && !r.stale
	if !drop {
		err = h.call(limit, r, e, data)
	}
	if ending := h.inbox.End(context.WithoutCancel(ctx), entry, err == nil && !drop); ending != nil {
		h.stats.unrecorded.Add(1)
		h.note(ctx, slog.LevelError, "the inbox did not take note of an event", e, ending)
	}
	h.count(ctx, e, drop, err)
	return err
}

// later is the error for an event that is not handled now, through no fault of its function.
func (h *Handler) later(ctx context.Context, e *Envelope, err error) error {
	h.stats.busy.Add(1)
	h.note(ctx, slog.LevelWarn, "event not handled yet", e, err)
	return RetryAfter(busyAfter, err)
}

// count notes how an event went.
func (h *Handler) count(ctx context.Context, e *Envelope, dropped bool, err error) {
	switch status, _ := Answer(err); {
	case dropped:
		h.stats.stale.Add(1)
		h.note(ctx, slog.LevelDebug, "event dropped: a later one of its subject was handled", e, nil)
	case err == nil:
		h.stats.handled.Add(1)
	case status != http.StatusBadRequest:
		h.stats.failed.Add(1)
		h.note(ctx, slog.LevelWarn, "event failed: it may come again", e, err)
	default:
		if _, bad := errors.AsType[*malformed](err); bad {
			h.stats.malformed.Add(1)
		} else {
			h.stats.deadLettered.Add(1)
		}
		h.note(ctx, slog.LevelError, "event failed for good", e, err)
	}
}

// call runs a function. One that panics has failed, and the event comes again.
func (h *Handler) call(ctx context.Context, r *route, e *Envelope, data []byte) (err error) {
	h.stats.inFlight.Add(1)
	defer h.stats.inFlight.Add(-1)
	defer func() {
		if p := recover(); p != nil {
			h.stats.panics.Add(1)
			h.log.LogAttrs(ctx, slog.LevelError, "panic while an event was handled", slog.String("event_id", e.ID), slog.String("event_type", e.Type),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = errors.New("the handler panicked")
		}
	}()
	return r.call(ctx, e, data)
}

// expects reports whether an event is of an expected topic, whose spelling it gets.
func (h *Handler) expects(e *Envelope) bool {
	i := slices.IndexFunc(h.topics, func(topic string) bool { return strings.EqualFold(topic, e.Source) })
	if i >= 0 {
		e.Source = h.topics[i]
	}
	return i >= 0 || h.anyTopic
}

func (h *Handler) routeOf(e *Envelope) *route {
	if r, ok := h.routes[e.Type]; ok {
		return r
	}
	for _, r := range h.routes {
		if strings.EqualFold(r.eventType, e.Type) {
			e.Type = r.eventType
			return r
		}
	}
	return h.other
}

// note logs what became of an event. Its data stays out of the log.
func (h *Handler) note(ctx context.Context, level slog.Level, message string, e *Envelope, err error) {
	if !h.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("event_id", e.ID), slog.String("event_type", e.Type), slog.String("topic", e.Source), slog.String("subject", e.Subject)}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	h.log.LogAttrs(ctx, level, message, attrs...)
}
