package mlevent

// Payload is the data of one of the five events. Only the types of this package
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

// DatasetDriftDetected says that a drift monitor found drift between two datasets.
type DatasetDriftDetected struct {
	DataDriftID      string  `json:"dataDriftId"`
	DataDriftName    string  `json:"dataDriftName"`
	RunID            string  `json:"runId"`
	BaseDatasetID    string  `json:"baseDatasetId"`
	TargetDatasetID  string  `json:"targetDatasetId"`
	DriftCoefficient float64 `json:"driftCoefficient"` // 0 to 1
	StartTime        string  `json:"startTime"`        // date-time at which the target window begins
	EndTime          string  `json:"endTime"`          // date-time before which it ends
	ETag             string  `json:"etag"`             // of the monitor run after the change
	Sequencer        string  `json:"sequencer"`        // orders the events of the monitor, as text
}

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

// Subject returns models/{name}:{version}.
func (p ModelRegistered) Subject() string { return ModelSubject(p.ModelName, p.ModelVersion) }

// Subject returns endpoints/{service}.
func (p ModelDeployed) Subject() string { return EndpointSubject(p.ServiceName) }

// Subject returns experiments/{experimentId}/runs/{runId}; it is that of
// RunStatusChanged, too.
func (p RunCompleted) Subject() string { return RunSubject(p.ExperimentID, p.RunID) }

// Subject returns datadrift/{dataDriftId}/run/{runId}.
func (p DatasetDriftDetected) Subject() string { return DriftSubject(p.DataDriftID, p.RunID) }
