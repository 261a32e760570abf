package mlevent

// Payload is the data of an event. Only the types of this package
// are payloads.
type Payload interface {
	EventType() string
	Subject() string
	appendMembers(w *writer)
}

// ModelRegistered says that a model or a new version of it was registered.
type ModelRegistered struct {
	ModelName       string            `json:"modelName"`
	ModelVersion    string            `json:"modelVersion"`
	ModelTags       map[string]string `json:"modelTags"`
	ModelProperties map[string]string `json:"modelProperties"`
	ETag            string            `json:"etag"`      // of the model version after the change
	Sequencer       string            `json:"sequencer"` // orders the events of the model version, as text
}

// ModelDeployed says that models were deployed to an online endpoint with success.
type ModelDeployed struct {
	ServiceName        string            `json:"serviceName"`
	ServiceComputeType string            `json:"serviceComputeType"` // for example ACI or AKS
	ModelIDs           string            `json:"modelIds"`           // name:version, comma-separated, no spaces
	ServiceTags        map[string]string `json:"serviceTags"`
	ServiceProperties  map[string]string `json:"serviceProperties"`
	ETag               string            `json:"etag"`      // of the endpoint after the change
	Sequencer          string            `json:"sequencer"` // orders the events of the endpoint, as text
}

// RunCompleted says that a run completed with success.
type RunCompleted struct {
	ExperimentID   string            `json:"experimentId"`
	ExperimentName string            `json:"experimentName"`
	RunID          string            `json:"runId"`
	RunType        string            `json:"runType"`
	RunTags        map[string]string `json:"runTags"`
	RunProperties  map[string]string `json:"runProperties"`
	ETag           string            `json:"etag"`      // of the run after the change
	Sequencer      string            `json:"sequencer"` // orders the events of the run, as text
}

// RunStatusChanged says that a run came to a status: the properties of
// RunCompleted and the status.
type RunStatusChanged struct {
	RunCompleted
	RunStatus RunStatus `json:"runStatus"`
}

// DatasetDriftDetected says that a drift monitor has compared two datasets. Despite its name
// it does not say that they drifted: a workspace raises it for every comparison with a verdict,
// as Azure does, unless it is told to raise it on drift alone. Look at DriftDetected.
type DatasetDriftDetected struct {
	DataDriftID      string  `json:"dataDriftId"`
	DataDriftName    string  `json:"dataDriftName"`
	RunID            string  `json:"runId"`
	BaseDatasetID    string  `json:"baseDatasetId"`
	TargetDatasetID  string  `json:"targetDatasetId"`
	DriftCoefficient float64 `json:"driftCoefficient"` // 0 to 1
	StartTime        string  `json:"startTime"`        // date-time at which the target window begins
	EndTime          string  `json:"endTime"`          // date-time before which it ends
	// DriftDetected is the verdict: whether the coefficient is above the monitor's threshold.
	// It is nil where the sender does not tell, as Azure.
	DriftDetected *bool `json:"driftDetected,omitempty"`
	// DriftDetails are the columns that moved most, the first one most; none where the
	// comparison was made elsewhere and its columns were not told.
	DriftDetails []DriftDetail `json:"driftDetails,omitempty"`
	ETag         string        `json:"etag"`      // of the monitor run after the change
	Sequencer    string        `json:"sequencer"` // orders the events of the monitor, as text
}

// DriftDetail says how one column moved. It is beyond what Azure sends: its members
// keep their spelling in every casing.
type DriftDetail struct {
	Column       string  `json:"column"`
	Type         string  `json:"type"`                   // numeric or categorical
	Drifted      bool    `json:"drifted"`                // by its own test
	Contribution float64 `json:"contribution,omitempty"` // share in what tells the datasets apart, where a classifier told it
	Distance     float64 `json:"distance"`               // Jensen-Shannon, base 2: 0 to 1
	Change       string  `json:"change"`                 // what moved, for people
}

// DeploymentFailed says that a deployment to an online endpoint failed: the properties
// of ModelDeployed, with the models that were to be deployed.
type DeploymentFailed struct{ ModelDeployed }

// ModelAliasSet says that a model version got an alias: the properties of
// ModelRegistered and the alias.
type ModelAliasSet struct {
	ModelRegistered
	Alias string `json:"alias"`
}

// ModelAliasRemoved says that a model version has an alias no more, also because
// another version got it.
type ModelAliasRemoved struct {
	ModelRegistered
	Alias string `json:"alias"`
}

// ModelStageChanged says that a model version came to another stage.
type ModelStageChanged struct {
	ModelRegistered
	Stage         string `json:"stage"`         // for example Production; None for no stage
	PreviousStage string `json:"previousStage"` // likewise
}

// ModelDeleted says that a model version was deleted: its properties as they were.
type ModelDeleted struct{ ModelRegistered }

// DriftCleared says that a drift monitor found no drift, and its comparison before did:
// the properties of DatasetDriftDetected, of the comparison that found none.
type DriftCleared struct{ DatasetDriftDetected }

// RunNotRespondingEvent says that a run gives no sign of life: the properties of
// RunCompleted. RunNotResponding by itself is the status.
type RunNotRespondingEvent struct{ RunCompleted }

// EventType returns ModelRegisteredType.
func (ModelRegistered) EventType() string { return ModelRegisteredType }

// EventType returns ModelDeployedType.
func (ModelDeployed) EventType() string { return ModelDeployedType }

// EventType returns RunCompletedType.
func (RunCompleted) EventType() string { return RunCompletedType }

// EventType returns RunStatusChangedType.
func (RunStatusChanged) EventType() string { return RunStatusChangedType }

// EventType returns DatasetDriftDetectedType.
func (DatasetDriftDetected) EventType() string { return DatasetDriftDetectedType }

// EventType returns DeploymentFailedType.
func (DeploymentFailed) EventType() string { return DeploymentFailedType }

// EventType returns ModelAliasSetType.
func (ModelAliasSet) EventType() string { return ModelAliasSetType }

// EventType returns ModelAliasRemovedType.
func (ModelAliasRemoved) EventType() string { return ModelAliasRemovedType }

// EventType returns ModelStageChangedType.
func (ModelStageChanged) EventType() string { return ModelStageChangedType }

// EventType returns ModelDeletedType.
func (ModelDeleted) EventType() string { return ModelDeletedType }

// EventType returns DriftClearedType.
func (DriftCleared) EventType() string { return DriftClearedType }

// EventType returns RunNotRespondingType.
func (RunNotRespondingEvent) EventType() string { return RunNotRespondingType }

// Subject returns models/{name}:{version}.
func (p ModelRegistered) Subject() string { return ModelSubject(p.ModelName, p.ModelVersion) }

// Subject returns endpoints/{service}.
func (p ModelDeployed) Subject() string { return EndpointSubject(p.ServiceName) }

// Subject returns experiments/{experimentId}/runs/{runId}; it is that of
// RunStatusChanged, too.
func (p RunCompleted) Subject() string { return RunSubject(p.ExperimentID, p.RunID) }

// Subject returns datadrift/{dataDriftId}/run/{runId}.
func (p DatasetDriftDetected) Subject() string { return DriftSubject(p.DataDriftID, p.RunID) }
