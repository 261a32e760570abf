package workspace

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/mlevent"
)

// event adds an event of the workspace about the object whose fact stands at
// place fact of the frame: its etag is that fact's, its sequencer its own.
func (w *write) event(ws resource.Workspace, id string, now time.Time, payload mlevent.Payload, fact int) raised {
	encoded, err := mlevent.Encode(mlevent.Envelope{Topic: ws.ID.String(), ID: id, Time: now, Casing: casingOf(ws)}, payload)
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("raise event: %w", err)
		}
		return raised{}
	}
	own := len(w.records)
	w.add(engine.Record{
		Kind: engine.KindEvent, Schema: uint8(event.EventGridSchema), Topic: uint64(ws.TopicUID), Data: encoded.Raw,
		Holes: []engine.Hole{{Offset: encoded.SequencerAt, Of: own}, {Offset: encoded.ETagAt, Of: fact}},
	}, nil)
	w.raised++
	return raised{payload.EventType(), own}
}

// casingOf returns how the events of a workspace are spelled.
func casingOf(ws resource.Workspace) mlevent.Casing {
	if ws.PayloadCasing == resource.PayloadDocumented {
		return mlevent.Documented
	}
	return mlevent.CamelCase
}

// extra adds an event of a type beyond Azure's, if the workspace raises it.
func (w *write) extra(ws resource.Workspace, id string, now time.Time, payload mlevent.Payload, fact int) raised {
	if slices.Contains(ws.ExtraEvents, strings.TrimPrefix(payload.EventType(), mlevent.ExtraPrefix)) {
		return w.event(ws, id, now, payload, fact)
	}
	return raised{}
}

func (r *Run) payload() mlevent.RunCompleted {
	return mlevent.RunCompleted{
		ExperimentID: cmp.Or(r.EventExperimentID, r.ExperimentID), ExperimentName: r.Experiment, RunID: r.Name,
		RunType: r.RunType, RunTags: r.Tags, RunProperties: r.Properties,
	}
}

func (w *write) runStatusChanged(ws resource.Workspace, r *Run, status RunStatus, payload mlevent.RunCompleted, now time.Time, fact int) raised {
	id := mlevent.RunStatusChangedID(ws.ID.String(), r.Name, r.Generation, status, r.Visits[status])
	return w.event(ws, id, now, mlevent.RunStatusChanged{RunCompleted: payload, RunStatus: status}, fact)
}

func (w *write) runCompleted(ws resource.Workspace, r *Run, payload mlevent.RunCompleted, now time.Time, fact int) raised {
	return w.event(ws, mlevent.RunCompletedID(ws.ID.String(), r.Name, r.Generation), now, payload, fact)
}

func (w *write) runNotResponding(ws resource.Workspace, r *Run, payload mlevent.RunCompleted, now time.Time, fact int) {
	id := mlevent.RunNotRespondingID(ws.ID.String(), r.Name, r.Generation, r.Visits[r.Status])
	w.extra(ws, id, now, mlevent.RunNotRespondingEvent{RunCompleted: payload}, fact)
}

func (m *ModelVersion) payload() mlevent.ModelRegistered {
	return mlevent.ModelRegistered{ModelName: m.Model, ModelVersion: m.Name, ModelTags: m.Tags, ModelProperties: m.Properties}
}

func (w *write) modelRegistered(ws resource.Workspace, m *ModelVersion, now time.Time, fact int) {
	w.came(fact, now, w.event(ws, mlevent.ModelRegisteredID(ws.ID.String(), m.Model, m.Name, m.Registered), now, m.payload(), fact))
}

// modelMoved adds what a version's aliases and stage raise.
func (w *write) modelMoved(ws resource.Workspace, m *ModelVersion, moves versionMoves, now time.Time, fact int) {
	topic := ws.ID.String()
	for _, alias := range moves.removed {
		id := mlevent.ModelAliasRemovedID(topic, m.Model, m.Name, m.Registered, alias, m.Aliased[alias])
		w.extra(ws, id, now, mlevent.ModelAliasRemoved{ModelRegistered: m.payload(), Alias: alias}, fact)
	}
	for _, alias := range moves.set {
		id := mlevent.ModelAliasSetID(topic, m.Model, m.Name, m.Registered, alias, m.Aliased[alias])
		w.extra(ws, id, now, mlevent.ModelAliasSet{ModelRegistered: m.payload(), Alias: alias}, fact)
	}
	if moves.from != moves.to {
		id := mlevent.ModelStageChangedID(topic, m.Model, m.Name, m.Registered, moves.to, m.Staged[moves.to])
		w.extra(ws, id, now, mlevent.ModelStageChanged{ModelRegistered: m.payload(), Stage: moves.to, PreviousStage: moves.from}, fact)
	}
}

func (w *write) modelDeleted(ws resource.Workspace, m *ModelVersion, now time.Time, fact int) {
	id := mlevent.ModelDeletedID(ws.ID.String(), m.Model, m.Name, m.Registered)
	w.extra(ws, id, now, mlevent.ModelDeleted{ModelRegistered: m.payload()}, fact)
}

// service is the endpoint's name in events.
func (e *OnlineEndpoint) service() string {
	if e.Rollout != nil {
		return e.Rollout.Service
	}
	return e.Name
}

func (e *OnlineEndpoint) payload() mlevent.ModelDeployed {
	return mlevent.ModelDeployed{
		ServiceName: e.service(), ServiceComputeType: e.ComputeType, ModelIDs: e.ModelIDs,
		ServiceTags: e.Tags, ServiceProperties: e.Properties,
	}
}

func (w *write) modelDeployed(ws resource.Workspace, e *OnlineEndpoint, now time.Time, fact int) {
	e.Ended = &Deployment{Revision: e.Revision, ModelIDs: e.ModelIDs}
	w.came(fact, now, w.event(ws, mlevent.ModelDeployedID(ws.ID.String(), e.service(), e.Revision, e.ModelIDs), now, e.payload(), fact))
}

func (w *write) deploymentFailed(ws resource.Workspace, e *OnlineEndpoint, now time.Time, fact int) {
	id := mlevent.DeploymentFailedID(ws.ID.String(), e.service(), e.Revision, e.ModelIDs)
	e.Ended = &Deployment{Revision: e.Revision, ModelIDs: e.ModelIDs, Failed: true}
	w.came(fact, now, w.extra(ws, id, now, mlevent.DeploymentFailed{ModelDeployed: e.payload()}, fact))
}

func (r *DriftRun) payload(columns []mlevent.DriftDetail) mlevent.DatasetDriftDetected {
	return mlevent.DatasetDriftDetected{
		DataDriftID: r.DataDriftID, DataDriftName: r.Monitor, RunID: r.Name,
		BaseDatasetID: r.BaseDatasetID, TargetDatasetID: r.TargetDatasetID,
		DriftCoefficient: r.Coefficient, StartTime: r.StartTime, EndTime: r.EndTime, DriftDetected: new(r.Drifted()), DriftDetails: columns,
	}
}

func (w *write) driftDetected(ws resource.Workspace, d *DriftRun, columns []mlevent.DriftDetail, now time.Time, fact int) raised {
	id := mlevent.DatasetDriftDetectedID(ws.ID.String(), d.DataDriftID, d.Name, d.StartTime, d.EndTime)
	return w.event(ws, id, now, d.payload(columns), fact)
}

func (w *write) driftCleared(ws resource.Workspace, d *DriftRun, columns []mlevent.DriftDetail, now time.Time, fact int) raised {
	id := mlevent.DriftClearedID(ws.ID.String(), d.DataDriftID, d.Name, d.StartTime, d.EndTime)
	return w.extra(ws, id, now, mlevent.DriftCleared{DatasetDriftDetected: d.payload(columns)}, fact)
}
