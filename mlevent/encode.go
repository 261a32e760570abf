package mlevent

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
)

// Casing is the spelling of payloads. Source: spec/events.md section 4.3.
type Casing uint8

// The casings.
const (
	CamelCase  Casing = iota // what the SDKs read: camelCase, modelVersion a string, dataVersion "2"
	Documented               // what the documentation page shows: PascalCase in model and drift events, a numeric ModelVersion where it is one, dataVersion ""
)

// String returns the casing as the workspace property payloadCasing spells it.
func (c Casing) String() string {
	if c == Documented {
		return "documented"
	}
	return "camelCase"
}

// ParseCasing returns the casing that name spells in any case.
func ParseCasing(name string) (Casing, error) {
	for _, c := range []Casing{CamelCase, Documented} {
		if strings.EqualFold(name, c.String()) {
			return c, nil
		}
	}
	return 0, fmt.Errorf("payload casing %q is not known: use camelCase or documented", name)
}

// Envelope is what an event needs besides its payload.
type Envelope struct {
	Topic  string    // ARM id of the workspace
	ID     string    // from one of the ID functions
	Time   time.Time // when the happening was accepted
	Casing Casing
}

// StampSize is the length of the room for etag and for sequencer, in bytes.
const StampSize = 32

// Encoded is the stored form of an event whose etag and sequencer are still
// missing: StampSize zeros stand at each offset, to be written over with as many
// characters that need no escape.
type Encoded struct {
	Raw         []byte
	ETagAt      int
	SequencerAt int
}

// Encode writes the event of a payload in the stored form of the Event Grid
// schema. ETag and Sequencer of the payload are not used. The error tells of a
// payload that JSON cannot hold or that lacks what every event needs.
func Encode(env Envelope, p Payload) (Encoded, error) {
	if env.Topic == "" || env.ID == "" || env.Time.IsZero() {
		return Encoded{}, fmt.Errorf("encode %s: topic, id and time must be set", p.EventType())
	}
	w := writer{casing: env.Casing}
	w.text(`{"topic":`, env.Topic)
	w.text(`,"subject":`, p.Subject())
	w.text(`,"eventType":`, p.EventType())
	w.text(`,"eventTime":`, event.FormatTime(env.Time))
	w.text(`,"id":`, env.ID)
	w.text(`,"dataVersion":`, env.Casing.dataVersion())
	w.raw = append(w.raw, `,"metadataVersion":"1","data":{`...)
	p.appendMembers(&w)
	if w.bad != "" {
		return Encoded{}, fmt.Errorf("encode %s: property %s is not a finite number", p.EventType(), w.bad)
	}
	encoded := Encoded{}
	encoded.ETagAt = w.hole(`"etag":"`)
	encoded.SequencerAt = w.hole(`,"sequencer":"`)
	encoded.Raw = append(w.raw, `}}`...)
	return encoded, nil
}

func (c Casing) dataVersion() string {
	if c == Documented {
		return ""
	}
	return "2"
}

func (p ModelRegistered) appendMembers(w *writer) {
	w.pascal = w.casing == Documented
	w.member("modelName", p.ModelName)
	if w.pascal && isInteger(p.ModelVersion) {
		w.name("modelVersion")
		w.raw = append(w.raw, p.ModelVersion...)
		w.raw = append(w.raw, ',')
	} else {
		w.member("modelVersion", p.ModelVersion)
	}
	w.table("modelTags", p.ModelTags)
	w.table("modelProperties", p.ModelProperties)
}

func (p ModelDeployed) appendMembers(w *writer) {
	w.pascal = w.casing == Documented
	w.member("serviceName", p.ServiceName)
	w.member("serviceComputeType", p.ServiceComputeType)
	w.member("modelIds", p.ModelIDs)
	w.table("serviceTags", p.ServiceTags)
	w.table("serviceProperties", p.ServiceProperties)
}

func (p RunCompleted) appendMembers(w *writer) {
	w.member("experimentId", p.ExperimentID)
	w.member("experimentName", p.ExperimentName)
	w.member("runId", p.RunID)
	w.member("runType", p.RunType)
	w.table("runTags", p.RunTags)
	w.table("runProperties", p.RunProperties)
}

func (p RunStatusChanged) appendMembers(w *writer) {
	p.RunCompleted.appendMembers(w)
	w.member("runStatus", string(p.RunStatus))
}

func (p DatasetDriftDetected) appendMembers(w *writer) {
	w.pascal = w.casing == Documented
	w.member("dataDriftId", p.DataDriftID)
	w.member("dataDriftName", p.DataDriftName)
	w.member("runId", p.RunID)
	w.member("baseDatasetId", p.BaseDatasetID)
	w.member("targetDatasetId", p.TargetDatasetID)
	w.number("driftCoefficient", p.DriftCoefficient)
	w.member("startTime", p.StartTime)
	w.member("endTime", p.EndTime)
	w.verdict(p.DriftDetected)
	w.details(p.DriftDetails)
}

func (p ModelAliasSet) appendMembers(w *writer) {
	p.ModelRegistered.appendMembers(w)
	w.member("alias", p.Alias)
}

func (p ModelAliasRemoved) appendMembers(w *writer) {
	p.ModelRegistered.appendMembers(w)
	w.member("alias", p.Alias)
}

func (p ModelStageChanged) appendMembers(w *writer) {
	p.ModelRegistered.appendMembers(w)
	w.member("stage", p.Stage)
	w.member("previousStage", p.PreviousStage)
}

// isInteger reports whether text is an integer as JSON writes it.
func isInteger(text string) bool {
	n, err := strconv.ParseUint(text, 10, 63)
	return err == nil && strconv.FormatUint(n, 10) == text
}

// writer appends members of data, each with a comma behind it: etag and sequencer
// always follow.
type writer struct {
	raw    []byte
	casing Casing
	pascal bool   // member names begin with a capital
	bad    string // name of a number that JSON cannot hold
}

func (w *writer) text(name, value string) {
	w.raw = append(w.raw, name...)
	w.raw = event.AppendQuoted(w.raw, value)
}

func (w *writer) name(name string) {
	w.raw = append(w.raw, '"')
	if w.pascal {
		w.raw = append(w.raw, name[0]-'a'+'A')
		name = name[1:]
	}
	w.raw = append(w.raw, name...)
	w.raw = append(w.raw, '"', ':')
}

func (w *writer) member(name, value string) {
	w.name(name)
	w.raw = append(event.AppendQuoted(w.raw, value), ',')
}

// table appends a map in the order of its keys.
func (w *writer) table(name string, m map[string]string) {
	w.name(name)
	w.raw = append(w.raw, '{')
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			w.raw = append(w.raw, ',')
		}
		w.raw = event.AppendQuoted(w.raw, key)
		w.raw = append(w.raw, ':')
		w.raw = event.AppendQuoted(w.raw, m[key])
	}
	w.raw = append(w.raw, '}', ',')
}

func (w *writer) number(name string, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		w.bad = name
		return
	}
	w.name(name)
	w.raw = append(strconv.AppendFloat(w.raw, v, 'g', -1, 64), ',')
}

// verdict appends whether there is drift, if that is known. It keeps its spelling.
func (w *writer) verdict(drifted *bool) {
	if drifted != nil {
		w.raw = append(strconv.AppendBool(append(w.raw, `"driftDetected":`...), *drifted), ',')
	}
}

// details appends what is known of columns, if anything is. Extra members keep
// their spelling. Source: design.md, "Interfaces that acceptance checks rely on".
func (w *writer) details(list []DriftDetail) {
	if len(list) == 0 {
		return
	}
	raw, err := json.Marshal(list)
	if err != nil { // nothing but a number that is not finite
		w.bad = "driftDetails"
		return
	}
	w.raw = append(append(append(w.raw, `"driftDetails":`...), raw...), ',')
}

// hole appends name, StampSize zeros and a quote, and returns where the zeros begin.
func (w *writer) hole(name string) int {
	w.raw = append(w.raw, name...)
	at := len(w.raw)
	w.raw = append(w.raw, strings.Repeat("0", StampSize)...)
	w.raw = append(w.raw, '"')
	return at
}
