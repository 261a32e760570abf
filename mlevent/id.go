package mlevent

import (
	"crypto/sha1"
	"encoding/hex"
	"strconv"
	"strings"
)

// Event ids are version 5 UUIDs: made of a namespace per workspace and a name per
// happening, so an event that is raised again after a crash, or noticed by two
// observers, has the same id. topic is the ARM id of the workspace.
// Source: spec/workspace.md section 5.5.

// RunStatusChangedID is the id of the event that a run came to a status.
// generation counts how often a run of that id was made, visit how often it came
// to the status, both from 1.
func RunStatusChangedID(topic, runID string, generation int64, status RunStatus, visit int) string {
	name := []string{"run-status/1", runID, strconv.FormatInt(generation, 10), string(status)}
	if visit > 1 {
		name = append(name, strconv.Itoa(visit))
	}
	return eventID(topic, name...)
}

// RunCompletedID is the id of the event that a run completed.
func RunCompletedID(topic, runID string, generation int64) string {
	return eventID(topic, "run-completed/1", runID, strconv.FormatInt(generation, 10))
}

// ModelRegisteredID is the id of the event that a model version was registered.
// created tells a version from one of the same number that was deleted: a
// creation timestamp or a count.
func ModelRegisteredID(topic, model, version string, created int64) string {
	return eventID(topic, "model-version/1", model, version, strconv.FormatInt(created, 10))
}

// ModelDeployedID is the id of the event that a revision of an online endpoint
// became healthy with the models of modelIDs.
func ModelDeployedID(topic, service string, revision int64, modelIDs string) string {
	return eventID(topic, "service/1", service, strconv.FormatInt(revision, 10), modelIDs)
}

// ExperimentGUID is what events call an experiment of another system whose id is no
// GUID, for receivers that parse one.
func ExperimentGUID(topic, id string) string { return eventID(topic, id) }

// DatasetDriftDetectedID is the id of the event that a monitor run found drift in
// the window from start to end.
func DatasetDriftDetectedID(topic, dataDriftID, runID, start, end string) string {
	return eventID(topic, "drift/1", dataDriftID, runID, start, end)
}

// DeploymentFailedID is the id of the event that a revision of an online endpoint
// failed with the models of modelIDs.
func DeploymentFailedID(topic, service string, revision int64, modelIDs string) string {
	return eventID(topic, "service-failed/1", service, strconv.FormatInt(revision, 10), modelIDs)
}

// ModelAliasSetID is the id of the event that a model version got an alias for the
// times-th time.
func ModelAliasSetID(topic, model, version string, created int64, alias string, times int) string {
	return eventID(topic, "alias-set/1", model, version, strconv.FormatInt(created, 10), alias, strconv.Itoa(times))
}

// ModelAliasRemovedID is the id of the event that a model version lost an alias that
// it had got for the times-th time.
func ModelAliasRemovedID(topic, model, version string, created int64, alias string, times int) string {
	return eventID(topic, "alias-removed/1", model, version, strconv.FormatInt(created, 10), alias, strconv.Itoa(times))
}

// ModelStageChangedID is the id of the event that a model version came to a stage for
// the times-th time.
func ModelStageChangedID(topic, model, version string, created int64, stage string, times int) string {
	return eventID(topic, "stage/1", model, version, strconv.FormatInt(created, 10), stage, strconv.Itoa(times))
}

// ModelDeletedID is the id of the event that a model version was deleted.
func ModelDeletedID(topic, model, version string, created int64) string {
	return eventID(topic, "model-deleted/1", model, version, strconv.FormatInt(created, 10))
}

// DriftClearedID is the id of the event that a monitor run found no drift any more in
// the window from start to end.
func DriftClearedID(topic, dataDriftID, runID, start, end string) string {
	return eventID(topic, "drift-cleared/1", dataDriftID, runID, start, end)
}

// RunNotRespondingID is the id of the event that a run came to NotResponding for the
// visit-th time in its generation.
func RunNotRespondingID(topic, runID string, generation int64, visit int) string {
	return eventID(topic, "run-not-responding/1", runID, strconv.FormatInt(generation, 10), strconv.Itoa(visit))
}

// urlNamespace is the name space ID of URLs. Source: RFC 9562 section 6.6.
var urlNamespace = [16]byte{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}

func eventID(topic string, name ...string) string {
	id := uuid5(uuid5(urlNamespace, topic), strings.Join(name, "\n"))
	var text [36]byte
	hex.Encode(text[:], id[:4])
	hex.Encode(text[9:], id[4:6])
	hex.Encode(text[14:], id[6:8])
	hex.Encode(text[19:], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// uuid5 makes a name-based UUID. Source: RFC 9562 section 5.5.
func uuid5(namespace [16]byte, name string) (id [16]byte) {
	sum := sha1.Sum(append(namespace[:], name...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}
