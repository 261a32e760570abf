package consumer

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Place is a place in what came to pass in a workspace. It is a text that may be stored and
// gone on from at any time; "" is the beginning.
type Place string

// Since is the place of a time. A clock may differ from the server's: take a time with an
// overlap, for the inbox drops what was handled.
func Since(t time.Time) Place { return Place(t.UTC().Format(time.RFC3339Nano)) }

// Happening is what came to pass last with an object of a workspace: a run ended, a model
// version was registered, a deployment became healthy or failed, a drift run was judged.
type Happening struct {
	// Event tells it, in the Event Grid schema. Its id, time and sequencer are those of the
	// event that was raised; data and etag are the object's now.
	Event json.RawMessage
	// Raised says whether there was such an event. If not, as for a run that was cancelled in
	// a workspace that tells of failures only, this is the one way to learn of it.
	Raised bool
	// Change is the etag that the object had after the change that Event tells of, "" if the
	// server does not say. Events that one change raised have it in common, whatever became of
	// the object since.
	Change string
	Object string // resource id
	// Place is where to go on once this one is handled, and all before it.
	Place Place
}

// Happenings lists what came to pass since a place, in the order in which the objects
// changed last, a page at a time. It costs the server what changed since then, not what
// there is. An error ends it.
//
// Only the last state of an object is told, and nothing of deleted ones. Silence after it is
// no success either: a run that is still open is not among them.
func (w *Workspace) Happenings(ctx context.Context, from Place) iter.Seq2[Happening, error] {
	return func(yield func(Happening, error) bool) {
		stopped := false
		end, err := w.walk(ctx, from, func(h Happening) bool {
			stopped = !yield(h, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(Happening{Place: end}, err)
		}
	}
}

// walk calls take with each happening since a place, until it says no, and returns the place
// that it came to.
func (w *Workspace) walk(ctx context.Context, from Place, take func(Happening) bool) (Place, error) {
	since, after, _ := strings.Cut(string(from), placeSign)
	for more := true; more; {
		var page struct {
			Value []struct {
				Object, Change string
				Raised         bool
				Event          json.RawMessage
			}
			Place    string
			NextLink string
		}
		query := url.Values{}
		if since != "" {
			query.Set("since", since)
		}
		if after != "" {
			query.Set("after", after)
		}
		if _, err := w.do(ctx, http.MethodGet, "lifecycleEvents", query, &page); err != nil {
			return from, fmt.Errorf("list what came to pass in %s: %w", w.ID, err)
		}
		more = page.NextLink != ""
		for i, v := range page.Value {
			if i == len(page.Value)-1 || page.Value[i+1].Object != v.Object { // what is told of one object has one place
				from = Place(since + placeSign + stateOf(v.Event))
			}
			if !take(Happening{Event: v.Event, Raised: v.Raised, Change: v.Change, Object: v.Object, Place: from}) {
				return from, nil
			}
		}
		switch after = page.Place; {
		case more:
			from = Place(since + placeSign + after)
		case after != "":
			from = Place(after) // all of it was taken: what comes to pass from here on is new
		}
	}
	return from, nil
}

// placeSign parts where a list began from how far it has come.
const placeSign = ","

// stateOf is the etag of the object of an event.
func stateOf(event []byte) string {
	var e Envelope
	_, _ = e.read(event) // what cannot be read is not gone on after
	return e.ETag
}

// Progress is how far a catch-up has come.
type Progress struct {
	Seen    int   // happenings that were listed
	GivenUp int   // of those, what can never be handled
	Place   Place // where to go on
}

// CatchUp has a handler handle what came to pass in a workspace since a place, as if it had
// been delivered: what the handler's inbox knows is dropped, and so is what is older than that,
// but no event of a change of which another one was handled; late deliveries of the same events
// are dropped afterwards. So a handler that was down, or has no event for what it
// waits for, comes to know it. Call it at a start, and now and then:
//
//	place, err := workspace.CatchUp(ctx, h, stored, nil)
//
// It returns the place to go on from, also with an error: that of the first event that could
// not be handled now. One that can never be handled ([DeadLetter]) is written to the log of
// the handler and passed over. note, if it is not nil, is told of the progress after each
// event.
func (w *Workspace) CatchUp(ctx context.Context, h *Handler, from Place, note func(Progress)) (Place, error) {
	p := Progress{Place: from}
	var failed error
	end, err := w.walk(ctx, from, func(happening Happening) bool {
		p.Seen++
		if err := h.take(ctx, happening.Event, happening.Change, Delivery{}); err != nil {
			if status, _ := Answer(err); status != http.StatusBadRequest {
				failed = fmt.Errorf("catch up with %s: %w", happening.Object, err)
				return false
			}
			p.GivenUp++
			h.log.LogAttrs(ctx, slog.LevelError, "event passed over: it can never be handled", slog.String("object", happening.Object), slog.String("error", err.Error()))
		}
		p.Place = happening.Place
		if note != nil {
			note(p)
		}
		return true
	})
	switch {
	case failed != nil:
		return p.Place, failed
	case err != nil:
		return p.Place, err
	}
	return end, nil
}
