package mlevent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/carillon-events/carillon/event"
)

// The readers accept data in every published spelling: names in any case (an
// exact one wins), modelVersion as string or number, null for anything. They
// ignore members they do not know and never leave a map nil.
// Source: spec/events.md section 4.3, "Accept every spelling on input".

// Parse reads the data of the event whose payload is P, which is one of the structs of
// this package.
func Parse[P Payload](data []byte) (payload P, err error) {
	switch p := any(&payload).(type) {
	case *ModelRegistered:
		*p, err = ParseModelRegistered(data)
	case *ModelDeployed:
		*p, err = ParseModelDeployed(data)
	case *RunCompleted:
		*p, err = ParseRunCompleted(data)
	case *RunStatusChanged:
		*p, err = ParseRunStatusChanged(data)
	case *DatasetDriftDetected:
		*p, err = ParseDatasetDriftDetected(data)
	case *DeploymentFailed:
		*p, err = ParseDeploymentFailed(data)
	case *ModelAliasSet:
		*p, err = ParseModelAliasSet(data)
	case *ModelAliasRemoved:
		*p, err = ParseModelAliasRemoved(data)
	case *ModelStageChanged:
		*p, err = ParseModelStageChanged(data)
	case *ModelDeleted:
		*p, err = ParseModelDeleted(data)
	case *DriftCleared:
		*p, err = ParseDriftCleared(data)
	case *RunNotRespondingEvent:
		*p, err = ParseRunNotResponding(data)
	default:
		err = fmt.Errorf("%T is not the payload of an event: use a struct of package mlevent", payload)
	}
	return payload, err
}

// ParseModelRegistered reads the data of a ModelRegistered event.
func ParseModelRegistered(data []byte) (ModelRegistered, error) {
	var p ModelRegistered
	err := parse(data, ModelRegisteredType, p.properties())
	return p, err
}

// ParseModelDeployed reads the data of a ModelDeployed event.
func ParseModelDeployed(data []byte) (ModelDeployed, error) {
	var p ModelDeployed
	err := parse(data, ModelDeployedType, p.properties())
	return p, err
}

// ParseRunCompleted reads the data of a RunCompleted event.
func ParseRunCompleted(data []byte) (RunCompleted, error) {
	var p RunCompleted
	err := parse(data, RunCompletedType, p.properties())
	return p, err
}

// ParseRunStatusChanged reads the data of a RunStatusChanged event. The status is
// given in the spelling of this package if it is one of RunStatuses.
func ParseRunStatusChanged(data []byte) (RunStatusChanged, error) {
	var p RunStatusChanged
	var status string
	err := parse(data, RunStatusChangedType, append(p.properties(), property{"runStatus", &status}))
	known := false
	if p.RunStatus, known = ParseRunStatus(status); !known {
		p.RunStatus = RunStatus(status)
	}
	return p, err
}

// ParseDatasetDriftDetected reads the data of a DatasetDriftDetected event.
func ParseDatasetDriftDetected(data []byte) (DatasetDriftDetected, error) {
	var p DatasetDriftDetected
	err := parse(data, DatasetDriftDetectedType, p.properties())
	return p, err
}

// ParseDeploymentFailed reads the data of a DeploymentFailed event.
func ParseDeploymentFailed(data []byte) (DeploymentFailed, error) {
	var p DeploymentFailed
	err := parse(data, DeploymentFailedType, p.properties())
	return p, err
}

// ParseModelAliasSet reads the data of a ModelAliasSet event.
func ParseModelAliasSet(data []byte) (ModelAliasSet, error) {
	var p ModelAliasSet
	err := parse(data, ModelAliasSetType, append(p.properties(), property{"alias", &p.Alias}))
	return p, err
}

// ParseModelAliasRemoved reads the data of a ModelAliasRemoved event.
func ParseModelAliasRemoved(data []byte) (ModelAliasRemoved, error) {
	var p ModelAliasRemoved
	err := parse(data, ModelAliasRemovedType, append(p.properties(), property{"alias", &p.Alias}))
	return p, err
}

// ParseModelStageChanged reads the data of a ModelStageChanged event.
func ParseModelStageChanged(data []byte) (ModelStageChanged, error) {
	var p ModelStageChanged
	err := parse(data, ModelStageChangedType, append(p.properties(), property{"stage", &p.Stage}, property{"previousStage", &p.PreviousStage}))
	return p, err
}

// ParseModelDeleted reads the data of a ModelDeleted event.
func ParseModelDeleted(data []byte) (ModelDeleted, error) {
	var p ModelDeleted
	err := parse(data, ModelDeletedType, p.properties())
	return p, err
}

// ParseDriftCleared reads the data of a DriftCleared event.
func ParseDriftCleared(data []byte) (DriftCleared, error) {
	var p DriftCleared
	err := parse(data, DriftClearedType, p.properties())
	return p, err
}

// ParseRunNotResponding reads the data of a RunNotResponding event.
func ParseRunNotResponding(data []byte) (RunNotRespondingEvent, error) {
	var p RunNotRespondingEvent
	err := parse(data, RunNotRespondingType, p.properties())
	return p, err
}

func (p *ModelRegistered) properties() []property {
	return []property{
		{"modelName", &p.ModelName}, {"modelVersion", &p.ModelVersion}, {"modelTags", &p.ModelTags},
		{"modelProperties", &p.ModelProperties}, {"etag", &p.ETag}, {"sequencer", &p.Sequencer},
	}
}

func (p *ModelDeployed) properties() []property {
	return []property{
		{"serviceName", &p.ServiceName}, {"serviceComputeType", &p.ServiceComputeType}, {"modelIds", &p.ModelIDs},
		{"serviceTags", &p.ServiceTags}, {"serviceProperties", &p.ServiceProperties}, {"etag", &p.ETag}, {"sequencer", &p.Sequencer},
	}
}

func (p *RunCompleted) properties() []property {
	return []property{
		{"experimentId", &p.ExperimentID}, {"experimentName", &p.ExperimentName}, {"runId", &p.RunID}, {"runType", &p.RunType},
		{"runTags", &p.RunTags}, {"runProperties", &p.RunProperties}, {"etag", &p.ETag}, {"sequencer", &p.Sequencer},
	}
}

func (p *DatasetDriftDetected) properties() []property {
	return []property{
		{"dataDriftId", &p.DataDriftID}, {"dataDriftName", &p.DataDriftName}, {"runId", &p.RunID},
		{"baseDatasetId", &p.BaseDatasetID}, {"targetDatasetId", &p.TargetDatasetID}, {"driftCoefficient", &p.DriftCoefficient},
		{"startTime", &p.StartTime}, {"endTime", &p.EndTime}, {"driftDetected", &p.DriftDetected}, {"driftDetails", &p.DriftDetails}, {"etag", &p.ETag}, {"sequencer", &p.Sequencer},
	}
}

// property is a member to read and the place for it: *string, *float64,
// *map[string]string, **bool or *[]DriftDetail.
type property struct {
	name string
	into any
}

func parse(data []byte, eventType string, properties []property) error {
	for _, p := range properties {
		if m, ok := p.into.(*map[string]string); ok {
			*m = map[string]string{}
		}
	}
	if kind := event.KindOf(bytes.TrimLeft(data, " \t\r\n")); kind != event.Object {
		return fmt.Errorf("data of %s: expected StartObject, received %s", eventType, kind)
	}
	exact := make([]bool, len(properties))
	c := event.Walk(data)
	for c.Next() {
		name := c.Key
		if c.KeyEscaped {
			name = event.AppendUnquoted(nil, name)
		}
		for i, p := range properties {
			same := string(name) == p.name
			if exact[i] && !same || !same && !strings.EqualFold(string(name), p.name) {
				continue
			}
			exact[i] = exact[i] || same
			if err := read(p.into, &c); err != nil {
				return fmt.Errorf("data of %s: property %s: %w", eventType, p.name, err)
			}
		}
	}
	if err := c.Err(); err != nil {
		return fmt.Errorf("data of %s: %w", eventType, err)
	}
	return nil
}

// read puts the value at the cursor into its place.
func read(into any, c *event.Cursor) error {
	if c.Kind == event.Null {
		return nil
	}
	switch into := into.(type) {
	case *string:
		text, ok := scalar(c)
		if !ok {
			return fmt.Errorf("expected String, received %s", c.Kind)
		}
		*into = text
	case *float64:
		text, _ := scalar(c)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("expected Number, received %s", c.Kind)
		}
		*into = v
	case **bool:
		if c.Kind != event.True && c.Kind != event.False {
			return fmt.Errorf("expected Boolean, received %s", c.Kind)
		}
		*into = new(c.Kind == event.True)
	case *[]DriftDetail:
		*into = nil
		if err := json.Unmarshal(c.Value, into); err != nil {
			return fmt.Errorf("expected an array of columns: %w", err)
		}
	case *map[string]string:
		if c.Kind != event.Object {
			return fmt.Errorf("expected StartObject, received %s", c.Kind)
		}
		inner := event.Walk(c.Value)
		for inner.Next() {
			text, ok := scalar(&inner)
			if !ok {
				text = string(inner.Value) // not foreseen, yet not worth losing the event for
			}
			(*into)[string(event.AppendUnquoted(nil, inner.Key))] = text
		}
	}
	return nil
}

// scalar returns the text of a string, a number or a boolean; null is "".
func scalar(c *event.Cursor) (string, bool) {
	switch c.Kind {
	case event.String:
		return string(event.AppendUnquoted(nil, c.Value[1:len(c.Value)-1])), true
	case event.Number, event.True, event.False:
		return string(c.Value), true
	case event.Null:
		return "", true
	default:
		return "", false
	}
}
