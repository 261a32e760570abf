package arm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// deliveryStatusBody tells how an event subscription's deliveries stand. This API
// is Carillon's own.
type deliveryStatusBody struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"` // of the event subscription
	Type       string                   `json:"type"`
	Properties deliveryStatusProperties `json:"properties"`
}

type deliveryStatusProperties struct {
	ProvisioningState string `json:"provisioningState"`
	Live              bool   `json:"live"` // events are matched and delivered
	broker.Status
}

func (a *api) deliveryStatusOf(v manage.EventSubscription) deliveryStatusBody {
	b := deliveryStatusBody{
		ID:   v.ID.Extension("Carillon.Delivery", "deliveryStatus", "default").String(),
		Name: v.Value.Name, Type: "Carillon.Delivery/deliveryStatus",
		Properties: deliveryStatusProperties{ProvisioningState: string(v.Value.State)},
	}
	b.Properties.Status, b.Properties.Live = a.Deliveries.Status(v.Value.UID)
	b.Properties.EventSubscription = v.ID.String()
	return b
}

// listDeliveryStatus tells of every event subscription at or below the scope.
func listDeliveryStatus(a *api, r *request) (answer, error) {
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, false)
	if err != nil {
		return answer{}, err
	}
	var entries []entry
	for _, v := range d.EventSubscriptions {
		entries = append(entries, entry{v.ID.Key(), v.Value.Name, a.deliveryStatusOf(v)})
	}
	return a.list(r, entries)
}

// getDeliveryStatus tells of one event subscription.
func getDeliveryStatus(a *api, r *request) (answer, error) {
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, false)
	if err != nil {
		return answer{}, err
	}
	if !strings.EqualFold(r.names[0], "default") || len(d.EventSubscriptions) != 1 {
		return answer{}, fault.New(fault.NotFound, "ResourceNotFound", "An event subscription has one delivery status, named default.")
	}
	return ok(a.deliveryStatusOf(d.EventSubscriptions[0])), nil
}

// lettersAt returns the ids of the dead letters at or below a scope. Letters of
// event subscriptions that are gone count where they were.
func (a *api) lettersAt(ctx context.Context, d manage.Deliveries) ([]string, error) {
	if len(d.EventSubscriptions) == 1 && d.EventSubscriptions[0].ID.Equal(d.Scope) {
		return a.Deliveries.DeadLetters(ctx, d.EventSubscriptions[0].Value.UID)
	}
	all, err := a.Deliveries.DeadLetters(ctx, 0)
	if err != nil {
		return nil, err
	}
	here := map[string]bool{}
	for _, v := range d.EventSubscriptions {
		here[v.Value.UID.String()] = true
	}
	var ids []string
	for _, id := range all {
		uid, _, _ := strings.Cut(id, "-")
		in, known := here[uid]
		if !known {
			if in, err = a.letterIn(ctx, id, d.Scope); err != nil {
				return nil, err
			}
			here[uid] = in
		}
		if in {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// letterIn reports whether a dead letter belongs to a scope, judged by what the
// letter says of itself.
func (a *api) letterIn(ctx context.Context, id string, scope resource.ID) (bool, error) {
	letter, err := a.Deliveries.DeadLetter(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return inScope(scope, letter), nil
}

func inScope(scope resource.ID, letter *broker.Letter) bool {
	for _, text := range []string{letter.EventSubscription, letter.Topic} {
		if id, err := resource.ParseID(text); err == nil && scope.Contains(id) {
			return true
		}
	}
	return false
}

var letterFilter = regexp.MustCompile(`(?i)^\s*eventSubscription\s+eq\s+'([^']*)'\s*$`)

// listDeadLetters lists dead letters, the events in them included. $filter takes
// eventSubscription eq '{name or id}'.
func listDeadLetters(a *api, r *request) (answer, error) {
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true)
	if err != nil {
		return answer{}, err
	}
	if text := r.query.Get("$filter"); text != "" {
		m := letterFilter.FindStringSubmatch(text)
		if m == nil {
			return answer{}, &fault.Error{
				Kind: fault.Invalid, Code: "InvalidFilterInQueryString", Target: "$filter",
				Message: "The $filter cannot be used. It may hold eventSubscription eq '{name or id}'.",
			}
		}
		d.EventSubscriptions = slices.DeleteFunc(d.EventSubscriptions, func(v manage.EventSubscription) bool {
			return !strings.EqualFold(v.Value.Name, m[1]) && !strings.EqualFold(v.ID.String(), m[1]) && !strings.EqualFold(v.Value.ID().String(), m[1])
		})
	}
	ids, err := a.filteredLetters(r, d)
	if err != nil {
		return answer{}, err
	}
	entries := make([]entry, len(ids))
	for i, id := range ids {
		entries[i] = entry{key: id, body: id}
	}
	got, err := a.page(r, entries)
	if err != nil {
		return answer{}, err
	}
	out := got.body.(page)
	letters := make([]any, 0, len(out.Value))
	for _, id := range out.Value {
		letter, err := a.Deliveries.DeadLetter(r.ctx, id.(string))
		if fault.Is(err, fault.NotFound) {
			continue // it was replayed meanwhile
		}
		if err != nil {
			return answer{}, err
		}
		letters = append(letters, letter)
	}
	out.Value = letters
	return ok(out), nil
}

// filteredLetters is lettersAt, or with $filter the letters of the event
// subscriptions that are left.
func (a *api) filteredLetters(r *request, d manage.Deliveries) ([]string, error) {
	if r.query.Get("$filter") == "" {
		return a.lettersAt(r.ctx, d)
	}
	var ids []string
	for _, v := range d.EventSubscriptions {
		of, err := a.Deliveries.DeadLetters(r.ctx, v.Value.UID)
		if err != nil {
			return nil, err
		}
		ids = append(ids, of...)
	}
	return ids, nil
}

func getDeadLetter(a *api, r *request) (answer, error) {
	if _, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true); err != nil {
		return answer{}, err
	}
	letter, err := a.letter(r, r.names[0])
	if err != nil {
		return answer{}, err
	}
	return ok(letter), nil
}

// letter reads a dead letter that belongs to the request's scope.
func (a *api) letter(r *request, id string) (*broker.Letter, error) {
	letter, err := a.Deliveries.DeadLetter(r.ctx, id)
	if err != nil {
		return nil, err
	}
	if !inScope(r.scope, letter) {
		return nil, fault.New(fault.NotFound, "DeadLetterNotFound", "Dead letter '%.80s' is not one of '%s'.", id, r.scope)
	}
	return letter, nil
}

// replayBody tells what became of a replay.
type replayBody struct {
	Replayed int            `json:"replayed"`
	Failed   []replayFailed `json:"failed,omitempty"`
}

type replayFailed struct {
	ID      string `json:"id"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// maxReplay bounds the ids of one request.
const maxReplay = 10_000

// replayDeadLetters delivers dead letters once more: those of ids, or all of the
// event subscription that the path names.
func replayDeadLetters(a *api, r *request) (answer, error) {
	if !strings.EqualFold(r.names[0], "replay") {
		return answer{}, fault.New(fault.NotFound, "InvalidResourceType", "Dead letters have the action replay, not '%.80s'.", r.names[0])
	}
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true)
	if err != nil {
		return answer{}, err
	}
	f, err := r.readBody()
	ids := f.texts("ids")
	if err := f.verdict(err); err != nil {
		return answer{}, err
	}
	single := len(d.EventSubscriptions) == 1 && d.EventSubscriptions[0].ID.Equal(d.Scope)
	switch {
	case len(ids) > maxReplay:
		return answer{}, fault.Field("ids", "At most %d dead letters can be replayed by one request, not %d.", maxReplay, len(ids))
	case len(ids) == 0 && !single:
		return answer{}, fault.Field("ids", "Name the dead letters to replay in ids, or call replay below one event subscription for all of its own.")
	case len(ids) == 0:
		if ids, err = a.Deliveries.DeadLetters(r.ctx, d.EventSubscriptions[0].Value.UID); err != nil {
			return answer{}, err
		}
	}
	var out replayBody
	var first error
	for _, id := range ids {
		_, err := a.letter(r, id)
		if err == nil {
			err = a.Deliveries.Replay(r.ctx, id)
		}
		switch {
		case err == nil:
			out.Replayed++
			continue
		case fault.KindOf(err) == fault.Internal:
			return answer{}, fmt.Errorf("replay dead letter %s: %w", id, err)
		case first == nil:
			first = err
		}
		out.Failed = append(out.Failed, replayFailedOf(id, err))
	}
	if out.Replayed == 0 && first != nil {
		return answer{}, first
	}
	return ok(out), nil
}

func replayFailedOf(id string, err error) replayFailed {
	f, _ := errors.AsType[*fault.Error](err) // the caller knows that it is one
	return replayFailed{id, f.Code, f.Message}
}

// A live tail says something at least this often, so that proxies and readers see
// that it lives.
const tailRest = 15 * time.Second

// tailEvents streams the events of a scope's sources from now on, one JSON object
// a line, an empty line when nothing happens. It ends when the reader leaves or
// the server stops.
func tailEvents(a *api, r *request) (answer, error) {
	d, err := a.Plane.Deliveries(r.ctx, r.caller, r.scope, true)
	if err != nil {
		return answer{}, err
	}
	if len(d.Sources) == 0 {
		return answer{}, fault.New(fault.NotFound, "ResourceNotFound", "Nothing at '%s' raises events.", r.scope)
	}
	if r.http.Method == http.MethodHead {
		return ok(struct{}{}), nil
	}
	return answer{stream: func(w http.ResponseWriter) { a.tail(r.ctx, w, d.Sources) }}, nil
}

func (a *api) tail(ctx context.Context, w http.ResponseWriter, sources []manage.Source) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the request is read; the answer has no end
	ctx, cancel := context.WithCancel(ctx)
	lines := make(chan broker.TailEvent)
	var readers sync.WaitGroup
	for _, s := range sources {
		events, stop := a.Deliveries.Tail(s.TopicUID)
		readers.Go(func() {
			defer stop()
			for {
				select {
				case e, more := <-events:
					if !more {
						return
					}
					select {
					case lines <- e:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	defer readers.Wait()
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	_ = out.SetWriteDeadline(time.Time{}) // a server's limit is for answers that end
	beat := time.NewTicker(tailRest)
	defer beat.Stop()
	for {
		if out.Flush() != nil {
			return
		}
		select {
		case e := <-lines:
			line, err := json.Marshal(e)
			if err != nil {
				return
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return
			}
		case <-beat.C:
			if _, err := w.Write([]byte("\n")); err != nil {
				return
			}
		case <-ctx.Done():
			return
		case <-a.Done:
			return
		}
	}
}
