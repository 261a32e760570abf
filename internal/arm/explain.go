package arm

import (
	"encoding/json"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/manage"
)

// Actions below the id of an event subscription, each with POST.
const (
	ExplainPath    = "/explain"    // what it makes of an event, and what became of the delivery
	TestFilterPath = "/testFilter" // which of the last logged events a filter matches
)

// explainBody is the answer to explain. This API is Carillon's own.
type explainBody struct {
	EventSubscription string          `json:"eventSubscription"` // full resource id
	Event             json.RawMessage `json:"event"`             // as it is stored, or would be
	*loggedAt                         // of an event from the log
	FilterGeneration  uint64          `json:"filterGeneration"` // 0 = the filter that the event met is not known any more; the present one judged
	Filter            filter.Filter   `json:"filter"`
	Matches           bool            `json:"matches"`
	Clauses           []filter.Clause `json:"clauses"`
	Delivery          *broker.Story   `json:"delivery,omitempty"` // of an event from the log
}

type loggedAt struct {
	PublishTime time.Time `json:"publishTime"`
	Sequencer   string    `json:"sequencer"`
	SameID      int       `json:"eventsWithSameId,omitempty"` // this newest one included; those further back in the log are not counted
}

// explainEvent tells what an event subscription makes of an event and what became
// of it: of eventId, an event of the log by its id or sequencer, or of event, as it
// would be published.
func explainEvent(a *api, r *request) (answer, error) {
	f, err := r.readBody()
	req := manage.ExplainRequest{EventID: f.str("eventId"), Event: f.raw("event")}
	req.Invalid = f.verdict(err)
	x, err := a.Plane.ExplainEvent(r.ctx, r.caller, r.id, req)
	if err != nil {
		return answer{}, err
	}
	body := explainBody{
		EventSubscription: x.EventSubscription.ID.String(), Event: x.Event.Event, FilterGeneration: x.Generation, Filter: x.Filter,
		Matches: x.Matches, Clauses: x.Clauses,
	}
	if x.Logged {
		body.loggedAt = &loggedAt{x.Event.PublishTime.UTC(), x.Event.Sequencer, x.Event.SameID}
		body.Delivery = &x.Delivery
	}
	return ok(body), nil
}

// testFilterBody is the answer to testFilter. This API is Carillon's own.
type testFilterBody struct {
	EventSubscription string        `json:"eventSubscription"` // full resource id
	Filter            filter.Filter `json:"filter"`            // that was tried
	Tested            int           `json:"tested"`
	Matched           int           `json:"matched"`
	Refused           int           `json:"refused"`
	Events            []testedBody  `json:"events"`      // the newest first
	Searched          searchedBody  `json:"searchedLog"` // what was read for it
}

type testedBody struct {
	ID          string    `json:"id"`
	EventType   string    `json:"eventType"`
	Subject     string    `json:"subject,omitempty"`
	Time        string    `json:"time,omitempty"`
	PublishTime time.Time `json:"publishTime"`
	Sequencer   string    `json:"sequencer"`
	Matches     bool      `json:"matches"`
	RefusedBy   string    `json:"refusedBy,omitempty"` // the first clause that refused it
	Reason      string    `json:"reason,omitempty"`
}

type searchedBody struct {
	Frames int       `json:"frames"`
	Bytes  int64     `json:"bytes"`
	Oldest time.Time `json:"oldest,omitzero"`
	Cut    bool      `json:"cut"` // the log holds more, further back than is read
}

// testFilter tries a filter, or the present one, on the last logged events of the
// source and changes nothing.
func testFilter(a *api, r *request) (answer, error) {
	f, err := r.readBody()
	t := manage.FilterTest{Filter: f.raw("filter"), Last: f.integer("last")}
	t.Invalid = f.verdict(err)
	got, err := a.Plane.TestFilter(r.ctx, r.caller, r.id, t)
	if err != nil {
		return answer{}, err
	}
	body := testFilterBody{
		EventSubscription: got.EventSubscription.ID.String(), Filter: got.Filter, Tested: len(got.Events), Matched: got.Matched, Refused: got.Refused,
		Events: make([]testedBody, 0, len(got.Events)), Searched: searchedBody{got.Back.Frames, got.Back.Bytes, got.Back.Oldest.UTC(), got.Back.Cut},
	}
	for _, e := range got.Events {
		body.Events = append(body.Events, testedBody(e))
	}
	return ok(body), nil
}
