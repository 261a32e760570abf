package manage

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/mlevent"
)

// TestHeader marks a test event, so that a handler can leave the work out.
const TestHeader = "carillon-test"

// genericTestType is the event type of a test event where nothing names one.
const genericTestType = "Carillon.TestEvent"

// TestEvent says which event to send: one that is given, as it would be published, or
// a sample of a type. The zero value is a sample of the first type that the filter
// names; where it names none, of RunCompleted, or of one of ours for a topic.
type TestEvent struct {
	Invalid   error // why the request could not be read; answered after the caller is authorised
	EventType string
	Event     json.RawMessage
}

// SentTestEvent is what was sent to a handler and what it answered. What was made of the
// event, if anything was, is the Receipt's Body.
type SentTestEvent struct {
	EventSubscription EventSubscription
	Receipt
	Body   []byte        // the event, as it is delivered
	Action broker.Action // what would follow this answer to a first attempt
}

// SendTestEvent sends one event to the destination of an event subscription, by the
// settings that deliveries are made with now, and returns what was sent and answered.
// The event is in no log, counts nowhere and is not tried again; the filter is not
// asked. The caller needs what changing the event subscription needs. One whose
// endpoint never consented is sent nothing.
func (p *Plane) SendTestEvent(ctx context.Context, caller access.Caller, id resource.ID, t TestEvent) (SentTestEvent, error) {
	sent, es, m, err := p.testMessage(ctx, caller, id, t)
	if err != nil {
		return SentTestEvent{}, err
	}
	if !es.Active {
		return SentTestEvent{}, fault.New(fault.Conflict, "EventSubscriptionNotActive",
			"Event subscription '%s' is not active, its state is %s: nothing is sent to an endpoint before it consented.", es.Name, es.State)
	}
	if es.Destination.Type == resource.DestinationPull {
		return SentTestEvent{}, fault.New(fault.Conflict, "NothingToSendTo",
			"Event subscription '%s' sends its events nowhere, for receivers ask for them: publish an event that its filter wants, and receive it.", es.Name)
	}
	m.Headers = []Header{{TestHeader, "true"}}
	if sent.Receipt, err = p.Messenger.SendMessage(ctx, es, m); err != nil {
		return SentTestEvent{}, fmt.Errorf("send a test event to %s: %w", es.ID(), err)
	}
	if ctx.Err() != nil {
		return SentTestEvent{}, context.Cause(ctx)
	}
	now := time.Now()
	sent.Action = p.Rules.Policy(es).Next(1, now, sent.Response, now, 0).Action
	p.Log.LogAttrs(ctx, slog.LevelInfo, "test event sent", slog.String(telemetry.EventSubscription, es.ID().String()),
		slog.String(telemetry.Principal, caller.ObjectID), slog.String(telemetry.Outcome, sent.Response.Outcome.String()), slog.Int(telemetry.Status, sent.Response.Status))
	return sent, nil
}

// RenderEvent says what the destination of an event subscription would be sent of an
// event, or of a sample, and sends nothing. It needs what SendTestEvent needs.
func (p *Plane) RenderEvent(ctx context.Context, caller access.Caller, id resource.ID, t TestEvent) (SentTestEvent, error) {
	made, es, m, err := p.testMessage(ctx, caller, id, t)
	if err != nil {
		return SentTestEvent{}, err
	}
	if made.Receipt, err = p.Messenger.Preview(es, m); err != nil {
		return SentTestEvent{}, fmt.Errorf("render an event for %s: %w", es.ID(), err)
	}
	return made, nil
}

// testMessage makes the first request of a test event.
func (p *Plane) testMessage(ctx context.Context, caller access.Caller, id resource.ID, t TestEvent) (made SentTestEvent, es *resource.EventSubscription, m Message, err error) {
	if err := p.authorizeWrite(ctx, caller, id, "write"); err != nil {
		return made, nil, m, err
	}
	if t.Invalid != nil {
		return made, nil, m, t.Invalid
	}
	s, item, err := p.find(id)
	if err != nil {
		return made, nil, m, err
	}
	es = &item.Value
	if p.Messenger == nil {
		return made, nil, m, fault.New(fault.Conflict, "NotAvailable", "This server sends no test events.")
	}
	if t.Event != nil && t.EventType != "" {
		return made, nil, m, fault.Field("eventType", "Send an event, or name the eventType of a sample; not both.")
	}
	e, err := p.testEvent(s, es, t)
	if err != nil {
		return made, nil, m, err
	}
	m = Message{Request: p.Rules.FirstRequest(es, &e, strings.Repeat("0", mlevent.StampSize))}
	if m.Single != nil { // receivers may know a repeated message by it
		m.Single.OutputID = strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	for i := range m.Parts {
		m.Parts[i].Single.OutputID = strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	return SentTestEvent{EventSubscription: s.view(item, isNested(id)), Body: m.Body}, es, m, nil
}

// testEvent is the event that is given, or a sample.
func (p *Plane) testEvent(s source, es *resource.EventSubscription, t TestEvent) (event.Event, error) {
	if t.Event != nil {
		return s.decode(t.Event)
	}
	typ := t.EventType
	included := es.Filter.IncludedEventTypes
	workspace := s.topicType == resource.TopicTypeWorkspace
	if all := everyType(included) || workspace && slices.Equal(included, mlevent.Types()); typ == "" && !all {
		typ = included[0]
	}
	if workspace {
		return p.workspaceSample(s, typ)
	}
	if typ == "" {
		typ = genericTestType
	}
	raw, err := json.Marshal(s.sample(typ, event.FormatTime(time.Now())))
	if err != nil {
		return event.Event{}, fmt.Errorf("encode a test event: %w", err)
	}
	return s.decode(raw)
}

// anyDomainTopic is the topic of a domain that a sample is for where the event
// subscription hangs on the domain.
const anyDomainTopic = "carillon-test"

// sample is an event of a custom topic or a domain in its input schema.
func (s source) sample(typ, now string) any {
	const subject = "carillon/test"
	topic := s.raises.String()
	switch {
	case s.stream.DomainTopic != "":
		topic = s.id.Name()
	case s.topicType == resource.TopicTypeDomain:
		topic = anyDomainTopic
	}
	id := uuid.NewString()
	data := map[string]any{"message": "This is a test event that Carillon was asked to send."}
	switch s.schema {
	case event.CloudEventSchemaV1_0:
		return map[string]any{"specversion": "1.0", "id": id, "source": topic, "type": typ, "subject": subject, "time": now, "data": data}
	case event.CustomEventSchema:
		if m := s.mapping; m != nil {
			for field, value := range map[string]string{
				m.ID.SourceField: id, m.Time.SourceField: now, m.Type.SourceField: typ, m.Subject.SourceField: subject, m.DataVersion.SourceField: "1", m.Topic.SourceField: topic,
			} {
				if field != "" {
					put(data, strings.Split(field, "."), value)
				}
			}
		}
		return data
	default:
		return map[string]any{"topic": topic, "id": id, "subject": subject, "eventType": typ, "eventTime": now, "data": data, "dataVersion": "1"}
	}
}

// put puts a value below a path of names.
func put(object map[string]any, path []string, value string) {
	for _, name := range path[:len(path)-1] {
		inner, ok := object[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			object[name] = inner
		}
		object = inner
	}
	object[path[len(path)-1]] = value
}

// workspaceSample is an event of a workspace, spelled as the workspace spells its own.
func (p *Plane) workspaceSample(s source, typ string) (event.Event, error) {
	var e event.Event
	if typ == "" {
		typ = mlevent.RunCompletedType
	}
	at := slices.IndexFunc(samples, func(p mlevent.Payload) bool { return strings.EqualFold(p.EventType(), typ) })
	if at < 0 {
		return e, fault.Field("eventType", "A workspace raises no events of type '%s'; use one of %s.", typ, strings.Join(mlevent.AllTypes(), ", "))
	}
	w, err := p.workspace(s.raises)
	if err != nil {
		return e, err
	}
	casing, err := mlevent.ParseCasing(w.Value.PayloadCasing)
	if err != nil {
		return e, fmt.Errorf("workspace %s: %w", s.raises, err)
	}
	encoded, err := mlevent.Encode(mlevent.Envelope{Topic: s.raises.String(), ID: uuid.NewString(), Time: time.Now().UTC(), Casing: casing}, samples[at])
	if err != nil {
		return e, fmt.Errorf("encode a test event: %w", err)
	}
	if err := e.Parse(encoded.Raw, event.EventGridSchema); err != nil {
		return e, fmt.Errorf("encode a test event: %w", err)
	}
	return e, nil
}

const sampleGUID = "00000000-0000-0000-0000-0000000000aa"

var sampleRun = mlevent.RunCompleted{
	ExperimentID: sampleGUID, ExperimentName: "carillon-test", RunID: "carillon-test", RunType: "carillon.test",
	RunTags: map[string]string{"carillon-test": "true"}, RunProperties: map[string]string{},
}

var sampleModel = mlevent.ModelRegistered{
	ModelName: "carillon-test", ModelVersion: "1", ModelTags: map[string]string{"carillon-test": "true"}, ModelProperties: map[string]string{},
}

var sampleService = mlevent.ModelDeployed{
	ServiceName: "carillon-test", ServiceComputeType: "ACI", ModelIDs: "carillon-test:1",
	ServiceTags: map[string]string{"carillon-test": "true"}, ServiceProperties: map[string]string{},
}

func sampleDrift(coefficient float64) mlevent.DatasetDriftDetected {
	return mlevent.DatasetDriftDetected{
		DataDriftID: sampleGUID, DataDriftName: "carillon-test", RunID: "carillon-test", BaseDatasetID: sampleGUID, TargetDatasetID: sampleGUID,
		DriftCoefficient: coefficient, StartTime: "2026-01-01T00:00:00+00:00", EndTime: "2026-01-02T00:00:00+00:00",
		DriftDetected: new(coefficient > 0),
	}
}

// samples are one event of each type that a workspace raises, of objects that no
// workspace has.
var samples = []mlevent.Payload{
	sampleModel,
	sampleService,
	sampleRun,
	mlevent.RunStatusChanged{RunCompleted: sampleRun, RunStatus: mlevent.RunFailed},
	sampleDrift(0.5),
	mlevent.DeploymentFailed{ModelDeployed: sampleService},
	mlevent.ModelAliasSet{ModelRegistered: sampleModel, Alias: "carillon-test"},
	mlevent.ModelAliasRemoved{ModelRegistered: sampleModel, Alias: "carillon-test"},
	mlevent.ModelStageChanged{ModelRegistered: sampleModel, Stage: "Production", PreviousStage: "None"},
	mlevent.ModelDeleted{ModelRegistered: sampleModel},
	mlevent.DriftCleared{DatasetDriftDetected: sampleDrift(0)},
	mlevent.RunNotRespondingEvent{RunCompleted: sampleRun},
}
