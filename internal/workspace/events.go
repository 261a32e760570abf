package workspace

import (
	"fmt"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// event adds an event of the workspace about the object whose fact stands at
// place fact of the frame: its etag is that fact's, its sequencer its own.
func (w *write) event(ws resource.Workspace, id string, now time.Time, payload mlevent.Payload, fact int) {
	casing := mlevent.CamelCase
	if ws.PayloadCasing == resource.PayloadDocumented {
		casing = mlevent.Documented
	}
	encoded, err := mlevent.Encode(mlevent.Envelope{Topic: ws.ID.String(), ID: id, Time: now, Casing: casing}, payload)
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("raise event: %w", err)
		}
		return
	}
	own := len(w.records)
	w.add(engine.Record{
		Kind: engine.KindEvent, Schema: uint8(event.EventGridSchema), Topic: uint64(ws.TopicUID), Data: encoded.Raw,
		Holes: []engine.Hole{{Offset: encoded.SequencerAt, Of: own}, {Offset: encoded.ETagAt, Of: fact}},
	}, nil)
	w.raised++
}

func (w *write) runStatusChanged(ws resource.Workspace, r *Run, payload mlevent.RunCompleted, now time.Time, fact int) {
	id := mlevent.RunStatusChangedID(ws.ID.String(), r.Name, r.Generation, r.Status, r.Visits[r.Status])
	w.event(ws, id, now, mlevent.RunStatusChanged{RunCompleted: payload, RunStatus: r.Status}, fact)
}

func (w *write) runCompleted(ws resource.Workspace, r *Run, payload mlevent.RunCompleted, now time.Time, fact int) {
	w.event(ws, mlevent.RunCompletedID(ws.ID.String(), r.Name, r.Generation), now, payload, fact)
}

func (w *write) modelRegistered(ws resource.Workspace, m *ModelVersion, now time.Time, fact int) {
	id := mlevent.ModelRegisteredID(ws.ID.String(), m.Model, m.Name, m.Registered)
	w.event(ws, id, now, mlevent.ModelRegistered{
		ModelName: m.Model, ModelVersion: m.Name, ModelTags: m.Tags, ModelProperties: m.Properties,
	}, fact)
}

func (w *write) modelDeployed(ws resource.Workspace, e *OnlineEndpoint, now time.Time, fact int) {
	id := mlevent.ModelDeployedID(ws.ID.String(), e.Name, e.Revision, e.ModelIDs)
	w.event(ws, id, now, mlevent.ModelDeployed{
		ServiceName: e.Name, ServiceComputeType: e.ComputeType, ModelIDs: e.ModelIDs,
		ServiceTags: e.Tags, ServiceProperties: e.Properties,
	}, fact)
}

func (w *write) driftDetected(ws resource.Workspace, d *DriftRun, now time.Time, fact int) {
	id := mlevent.DatasetDriftDetectedID(ws.ID.String(), d.DataDriftID, d.Name, d.StartTime, d.EndTime)
	w.event(ws, id, now, mlevent.DatasetDriftDetected{
		DataDriftID: d.DataDriftID, DataDriftName: d.Monitor, RunID: d.Name,
		BaseDatasetID: d.BaseDatasetID, TargetDatasetID: d.TargetDatasetID,
		DriftCoefficient: d.Coefficient, StartTime: d.StartTime, EndTime: d.EndTime,
	}, fact)
}
