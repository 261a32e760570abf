package mlevent

import "strings"

// TopicType is the type of the system topic of a workspace.
const TopicType = "Microsoft.MachineLearningServices.Workspaces"

// The event types. Source: spec/events.md section 4.2.
const (
	ModelRegisteredType      = "Microsoft.MachineLearningServices.ModelRegistered"
	ModelDeployedType        = "Microsoft.MachineLearningServices.ModelDeployed"
	RunCompletedType         = "Microsoft.MachineLearningServices.RunCompleted"
	RunStatusChangedType     = "Microsoft.MachineLearningServices.RunStatusChanged"
	DatasetDriftDetectedType = "Microsoft.MachineLearningServices.DatasetDriftDetected"
)

// Types returns the event types that every workspace raises.
func Types() []string {
	return []string{ModelRegisteredType, ModelDeployedType, RunCompletedType, RunStatusChangedType, DatasetDriftDetectedType}
}

// ExtraPrefix begins the event types that Carillon has beyond Azure's. A workspace
// raises those of them that it is told to.
const ExtraPrefix = "Carillon.MachineLearning."

// The event types beyond Azure's.
const (
	DeploymentFailedType  = ExtraPrefix + "DeploymentFailed"
	ModelAliasSetType     = ExtraPrefix + "ModelAliasSet"
	ModelAliasRemovedType = ExtraPrefix + "ModelAliasRemoved"
	ModelStageChangedType = ExtraPrefix + "ModelStageChanged"
	ModelDeletedType      = ExtraPrefix + "ModelDeleted"
	DriftClearedType      = ExtraPrefix + "DriftCleared"
	RunNotRespondingType  = ExtraPrefix + "RunNotResponding"
)

// ExtraTypes returns the event types that a workspace raises only if it is told to.
func ExtraTypes() []string {
	return []string{DeploymentFailedType, ModelAliasSetType, ModelAliasRemovedType, ModelStageChangedType, ModelDeletedType, DriftClearedType, RunNotRespondingType}
}

// AllTypes returns Types and ExtraTypes.
func AllTypes() []string { return append(Types(), ExtraTypes()...) }

// ModelSubject is the subject of events about a model version.
func ModelSubject(name, version string) string { return "models/" + name + ":" + version }

// EndpointSubject is the subject of events about an online endpoint.
func EndpointSubject(service string) string { return "endpoints/" + service }

// RunSubject is the subject of events about a run.
func RunSubject(experimentID, runID string) string {
	return "experiments/" + experimentID + "/runs/" + runID
}

// DriftSubject is the subject of events about a run of a drift monitor. A page of
// the documentation shows datadrifts/…/runs/…; captured events have this form.
// Source: spec/events.md section 4.2.
func DriftSubject(dataDriftID, runID string) string {
	return "datadrift/" + dataDriftID + "/run/" + runID
}

// RunStatus is the status of a run. Consumers compare it ignoring case.
// Source: spec/workspace.md section 1.2.
type RunStatus string

// The run statuses in their normal order, then those outside it.
const (
	RunNotStarted      RunStatus = "NotStarted"      // known to the client only
	RunStarting        RunStatus = "Starting"        // accepted, has an id
	RunProvisioning    RunStatus = "Provisioning"    // compute is being made
	RunPreparing       RunStatus = "Preparing"       // environment is being built
	RunQueued          RunStatus = "Queued"          // waits in the compute target
	RunRunning         RunStatus = "Running"         // user code executes
	RunFinalizing      RunStatus = "Finalizing"      // user code is done, outputs are collected
	RunCancelRequested RunStatus = "CancelRequested" // cancelling, not yet effective
	RunFinished        RunStatus = "Completed"       // user code and post-processing succeeded; terminal
	RunFailed          RunStatus = "Failed"          // terminal
	RunCanceled        RunStatus = "Canceled"        // terminal
	RunNotResponding   RunStatus = "NotResponding"   // heartbeats stay away; may come back to any earlier status
	RunPaused          RunStatus = "Paused"          // by the user; may come back
	RunUnknown         RunStatus = "Unknown"         // of a source whose status is not known here
)

// RunStatuses returns all run statuses in the order of the constants.
func RunStatuses() []RunStatus {
	return []RunStatus{RunNotStarted, RunStarting, RunProvisioning, RunPreparing, RunQueued, RunRunning, RunFinalizing,
		RunCancelRequested, RunFinished, RunFailed, RunCanceled, RunNotResponding, RunPaused, RunUnknown}
}

// ParseRunStatus returns the status that name spells in any case.
func ParseRunStatus(name string) (RunStatus, bool) { return parseName(name, RunStatuses()) }

// Terminal reports whether a run stays in s for good.
func (s RunStatus) Terminal() bool {
	return s == RunFinished || s == RunFailed || s == RunCanceled
}

// EndpointState is the state of an online endpoint.
// Source: spec/workspace.md section 1.5.
type EndpointState string

// The endpoint states. ModelDeployed is raised on coming from Transitioning to Healthy.
const (
	EndpointTransitioning EndpointState = "Transitioning" // a deployment is in progress
	EndpointHealthy       EndpointState = "Healthy"       // deployed and available
	EndpointUnhealthy     EndpointState = "Unhealthy"     // deployed, not reachable now
	EndpointFailed        EndpointState = "Failed"        // the deployment failed or crashed
)

// EndpointStates returns all endpoint states.
func EndpointStates() []EndpointState {
	return []EndpointState{EndpointTransitioning, EndpointHealthy, EndpointUnhealthy, EndpointFailed}
}

// ParseEndpointState returns the state that name spells in any case.
func ParseEndpointState(name string) (EndpointState, bool) { return parseName(name, EndpointStates()) }

func parseName[T ~string](name string, all []T) (T, bool) {
	for _, one := range all {
		if strings.EqualFold(name, string(one)) {
			return one, true
		}
	}
	return "", false
}
