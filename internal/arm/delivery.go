package arm

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
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
	return a.list(r, entriesOf(d.EventSubscriptions, func(v *manage.EventSubscription) entry {
		return entry{v.ID.Key(), v.Value.Name, func() any { return a.deliveryStatusOf(*v) }}
	}))
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
		events, stop := a.Deliveries.Tail(s.Stream)
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
