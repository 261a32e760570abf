package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// Told is what came to pass last with an object: a run came to its status, a version was
// registered, a deployment ended, a drift run was judged. It stays while other things of
// the object change, so that a receiver who missed the events, or for whom there were none,
// can be told later: with the same ids, at the same time, in the same order.
type Told struct {
	At        time.Time   `json:"at"`        // the time of its events
	Sequencer string      `json:"sequencer"` // of the fact that brought it, before those of its events
	Events    []ToldEvent `json:"events,omitempty"`
}

// ToldEvent is an event that was raised.
type ToldEvent struct {
	Type      string `json:"type"`
	Sequencer string `json:"sequencer"`
}

// blank stands for a sequencer until the log knows it.
var blank = strings.Repeat("0", engine.SequencerSize)

// raised names the record of an event in its frame; the zero value is of one that was not
// raised.
type raised struct {
	eventType string
	record    int
}

// came notes with the object of a fact what came to pass with it, and what was raised.
func (w *write) came(fact int, now time.Time, events ...raised) {
	told := &Told{At: now.UTC().Round(0), Sequencer: blank}
	of := []int{fact}
	for _, e := range events {
		if e != (raised{}) {
			told.Events, of = append(told.Events, ToldEvent{e.eventType, blank}), append(of, e.record)
		}
	}
	r := &w.records[fact]
	w.objects[fact].head().Told = told
	r.Data, r.Holes = w.encode(r.Key, w.objects[fact]), nil
	for at, i := 0, 0; i < len(of) && w.err == nil; i++ { // it comes before what users wrote
		at += bytes.Index(r.Data[at:], []byte(blank))
		r.Holes = append(r.Holes, engine.Hole{Offset: at, Of: of[i]})
		at += len(blank)
	}
}

// fill gives what came to pass with the fact of holes the sequencers that it got.
func (t *Told) fill(holes []engine.Hole, receipt engine.Receipt) {
	for i, h := range holes {
		if i == 0 {
			t.Sequencer = receipt.Sequencer(h.Of)
		} else {
			t.Events[i-1].Sequencer = receipt.Sequencer(h.Of)
		}
	}
}

// sequencerOf returns the sequencer of an event of a type, and whether it was raised.
func (t *Told) sequencerOf(eventType string) (string, bool) {
	for _, e := range t.Events {
		if e.Type == eventType {
			return e.Sequencer, true
		}
	}
	return t.Sequencer, false
}

// LifecycleEvent tells what came to pass last with an object.
type LifecycleEvent struct {
	Object resource.ID
	Raised bool   // an event said so; else there was none: the workspace does not raise it
	Event  []byte // in the Event Grid schema: id, time and sequencer as raised, data and etag as they are now
	Change string // the object's etag after the change that the event tells of: that of the event as it was raised
}

// LifecyclePage asks for a part of the lifecycle events.
type LifecyclePage struct {
	Since time.Time // at or after which it came to pass
	From  string    // place after which it came to pass: where an earlier list ended
	After string    // place after which to go on with this list, "" for its beginning
	Most  int       // events; those of one object stay together
}

// One page looks at lookedAt objects at most, lookStep at a time.
const (
	lookedAt = 2_000
	lookStep = 200
)

// LifecycleEvents returns what came to pass last with the runs, model versions, online
// endpoints and drift runs of a workspace: that a run ended, a version was registered, a
// deployment was healthy or failed, drift was judged. They are in the order in which their
// objects changed last. next is the place to go on after with this list; once there is no
// more, it is the place From which to list later what came to pass since. A list that is cut
// short is gone on with, not begun again at its place: what was changed meanwhile is behind.
func (s *Service) LifecycleEvents(ctx context.Context, ws resource.Workspace, p LifecyclePage) (events []LifecycleEvent, next string, more bool, err error) {
	if s.changes == nil {
		return nil, "", false, fault.New(fault.NotFound, "ResourceNotFound", "This server keeps no order of changes.")
	}
	next, more = max(p.From, p.After), true
	for looked := 0; more && looked < lookedAt; {
		var facts []engine.Fact
		facts, more, err = s.changes.FactsAfter(ctx, "*/"+ws.UID.String()+"/", p.Since, next, lookStep)
		if err != nil {
			return nil, "", false, fmt.Errorf("list changes of %s: %w", ws.ID, err)
		}
		looked += len(facts)
		for i, fact := range facts {
			found, err := s.lifecycleOf(ctx, ws, fact, p)
			if err != nil {
				return nil, "", false, err
			}
			if len(events) > 0 && len(events)+len(found) > p.Most {
				return events, next, true, nil
			}
			events, next = append(events, found...), fact.ETag()
			if len(events) >= p.Most {
				return events, next, more || i < len(facts)-1, nil
			}
		}
	}
	return events, next, more, nil
}

func (s *Service) lifecycleOf(ctx context.Context, ws resource.Workspace, fact engine.Fact, p LifecyclePage) ([]LifecycleEvent, error) {
	l := lifecycle{ws: ws, page: p}
	kind, _, _ := strings.Cut(fact.Key, "/")
	switch kind {
	case kindRun:
		var r Run
		if err := decode(fact, &r); err != nil {
			return nil, err
		}
		l.run(&r)
	case kindVersion:
		var m ModelVersion
		if err := decode(fact, &m); err != nil {
			return nil, err
		}
		l.version(&m)
	case kindEndpoint:
		var e OnlineEndpoint
		if err := decode(fact, &e); err != nil {
			return nil, err
		}
		l.endpoint(&e)
	case kindDriftRun:
		var d DriftRun
		if err := decode(fact, &d); err != nil {
			return nil, err
		}
		if d.Told == nil || l.before(d.Told) {
			break // its document need not be read
		}
		doc := document{}
		if _, err := s.read(ctx, key(kindDocument, ws.UID, d.Monitor, d.Name), &doc); err != nil {
			return nil, err
		}
		var result *drift.Result
		if len(doc.Raw) > 0 {
			if err := json.Unmarshal(doc.Raw, &result); err != nil {
				return nil, fmt.Errorf("read the result document of %s: %w", d.Name, err)
			}
		}
		l.driftRun(&d, details(result))
	}
	return l.events, l.err
}

// lifecycle collects the lifecycle events of one object.
type lifecycle struct {
	ws     resource.Workspace
	page   LifecyclePage
	events []LifecycleEvent
	err    error
}

// before reports whether it came to pass before what was asked for.
func (l *lifecycle) before(told *Told) bool {
	return told.At.Before(l.page.Since) || told.Sequencer <= l.page.From
}

// add adds an event, unless it came to pass before what was asked for. etag is the
// object's.
func (l *lifecycle) add(object resource.ID, etag string, told *Told, id string, payload mlevent.Payload) {
	if l.before(told) || l.err != nil {
		return
	}
	encoded, err := mlevent.Encode(mlevent.Envelope{Topic: l.ws.ID.String(), ID: id, Time: told.At, Casing: casingOf(l.ws)}, payload)
	if err != nil {
		l.err = fmt.Errorf("tell of %s: %w", object, err)
		return
	}
	sequencer, raised := told.sequencerOf(payload.EventType())
	copy(encoded.Raw[encoded.SequencerAt:], sequencer)
	copy(encoded.Raw[encoded.ETagAt:], etag)
	l.events = append(l.events, LifecycleEvent{object, raised, encoded.Raw, told.Sequencer})
}

// known is what is known of an object of our own that an earlier version stored, which noted
// nothing. Of one of another system it is not even known whether it was to be told.
func known(told *Told, mirrored bool, at time.Time, etag string) *Told {
	if told == nil && !mirrored {
		told = &Told{At: at, Sequencer: etag}
	}
	return told
}

func (l *lifecycle) run(r *Run) {
	told := known(r.Told, r.Mirrored, r.Modified.At, r.ETag)
	if !r.Status.Terminal() || told == nil {
		return
	}
	topic, object := l.ws.ID.String(), l.ws.ID.Child("experiments", r.Parent()).Child("runs", r.Name)
	completed := r.payload()
	changed := mlevent.RunStatusChanged{RunCompleted: completed, RunStatus: r.Status}
	if _, raised := told.sequencerOf(changed.EventType()); raised || r.Status != Completed { // else RunCompleted says it
		l.add(object, r.ETag, told, mlevent.RunStatusChangedID(topic, r.Name, r.Generation, r.Status, r.Visits[r.Status]), changed)
	}
	if r.Status == Completed {
		l.add(object, r.ETag, told, mlevent.RunCompletedID(topic, r.Name, r.Generation), completed)
	}
}

func (l *lifecycle) version(m *ModelVersion) {
	told := known(m.Told, m.Mirrored, m.Created.At, m.ETag)
	if told == nil {
		return
	}
	object := l.ws.ID.Child("models", m.Model).Child("versions", m.Name)
	l.add(object, m.ETag, told, mlevent.ModelRegisteredID(l.ws.ID.String(), m.Model, m.Name, m.Registered), m.payload())
}

func (l *lifecycle) endpoint(e *OnlineEndpoint) {
	if e.Told == nil || e.Ended == nil {
		return
	}
	topic, object := l.ws.ID.String(), l.ws.ID.Child("onlineEndpoints", e.Name)
	deployed := e.payload()
	deployed.ModelIDs = e.Ended.ModelIDs
	if e.Ended.Failed {
		l.add(object, e.ETag, e.Told, mlevent.DeploymentFailedID(topic, e.service(), e.Ended.Revision, e.Ended.ModelIDs), mlevent.DeploymentFailed{ModelDeployed: deployed})
	} else {
		l.add(object, e.ETag, e.Told, mlevent.ModelDeployedID(topic, e.service(), e.Ended.Revision, e.Ended.ModelIDs), deployed)
	}
}

// driftRun tells of one whose event was raised: what is not to be told of a drift run is for
// its monitor and the workspace to say.
func (l *lifecycle) driftRun(d *DriftRun, columns []mlevent.DriftDetail) {
	topic, object := l.ws.ID.String(), l.ws.ID.Child("driftMonitors", d.Monitor).Child("runs", d.Name)
	for _, e := range d.Told.Events {
		switch e.Type {
		case mlevent.DatasetDriftDetectedType:
			l.add(object, d.ETag, d.Told, mlevent.DatasetDriftDetectedID(topic, d.DataDriftID, d.Name, d.StartTime, d.EndTime), d.payload(columns))
		case mlevent.DriftClearedType:
			l.add(object, d.ETag, d.Told, mlevent.DriftClearedID(topic, d.DataDriftID, d.Name, d.StartTime, d.EndTime), mlevent.DriftCleared{DatasetDriftDetected: d.payload(columns)})
		}
	}
}
