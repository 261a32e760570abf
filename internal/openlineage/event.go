package openlineage

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/workspace"
	"github.com/carillon-events/carillon/mlevent"
)

// wireEvent is an event as producers send it, of a run, a job or a dataset: what is of
// use here. Source: OpenLineage/OpenLineage: spec/OpenLineage.json.
type wireEvent struct {
	EventType string            `json:"eventType"`
	EventTime string            `json:"eventTime"`
	Producer  string            `json:"producer"`
	SchemaURL string            `json:"schemaURL"`
	Run       *wireRun          `json:"run"`
	Job       wireJob           `json:"job"`
	Dataset   loose[named]      `json:"dataset"`
	Inputs    loose[few[named]] `json:"inputs"`
	Outputs   loose[few[named]] `json:"outputs"`
}

type wireRun struct {
	RunID  string           `json:"runId"`
	Facets loose[runFacets] `json:"facets"`
}

type wireJob struct {
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	Facets    loose[jobFacets] `json:"facets"`
}

type runFacets struct {
	ErrorMessage loose[struct {
		Message  string `json:"message"`
		Language string `json:"programmingLanguage"`
	}] `json:"errorMessage"`
	Parent loose[struct {
		reference
		Root loose[reference] `json:"root"`
	}] `json:"parent"`
	NominalTime loose[struct {
		Start string `json:"nominalStartTime"`
		End   string `json:"nominalEndTime"`
	}] `json:"nominalTime"`
	ProcessingEngine loose[struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}] `json:"processing_engine"`
	Tags tags `json:"tags"`
}

type jobFacets struct {
	JobType loose[struct {
		ProcessingType string `json:"processingType"`
		Integration    string `json:"integration"`
		JobType        string `json:"jobType"`
	}] `json:"jobType"`
	SourceCodeLocation loose[struct {
		URL     string `json:"url"`
		Version string `json:"version"`
	}] `json:"sourceCodeLocation"`
	Tags tags `json:"tags"`
}

// reference names another run.
type reference struct {
	Run struct {
		RunID string `json:"runId"`
	} `json:"run"`
	Job named `json:"job"`
}

// named is what names a job or a dataset.
type named struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

type tags struct {
	list loose[struct {
		Tags few[loose[struct {
			Key   string `json:"key"`
			Value scalar `json:"value"`
		}]] `json:"tags"`
	}]
}

func (t *tags) UnmarshalJSON(raw []byte) error { return t.list.UnmarshalJSON(raw) }

// each calls f with each tag.
func (t *tags) each(f func(key, value string)) {
	for _, tag := range t.list.value.Tags {
		if tag.value.Key != "" {
			f(tag.value.Key, string(tag.value.Value))
		}
	}
}

// loose is a member that counts for nothing when it is not of the form that it should
// have: facets are anybody's, and a strange one must not cost the run.
type loose[T any] struct{ value T }

// UnmarshalJSON satisfies json.Unmarshaler.
func (l *loose[T]) UnmarshalJSON(raw []byte) error {
	var v T
	if json.Unmarshal(raw, &v) == nil {
		l.value = v
	}
	return nil
}

// mostItems bounds what is read of a list in a facet.
const mostItems = 10_000

// few is a list of which no more than its first items are read: a small body may unpack
// to millions.
type few[T any] []T

// UnmarshalJSON satisfies json.Unmarshaler.
func (f *few[T]) UnmarshalJSON(raw []byte) (err error) {
	*f, _, err = atMost[T](raw, mostItems)
	return err
}

// atMost reads the first items of a list, n at most. more says that there are others.
func atMost[T any](raw []byte, n int) (list []T, more bool, err error) {
	if string(raw) == "null" {
		return nil, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
		return nil, false, errors.New("it is no list")
	}
	for d.More() {
		if len(list) == n {
			return list, true, nil
		}
		var item T
		if err := d.Decode(&item); err != nil {
			return nil, false, err
		}
		list = append(list, item)
	}
	return list, false, nil
}

// scalar is the text of a string, a number or a truth value.
type scalar string

// UnmarshalJSON satisfies json.Unmarshaler.
func (s *scalar) UnmarshalJSON(raw []byte) error {
	var text string
	switch {
	case raw[0] == '"':
		if err := json.Unmarshal(raw, &text); err != nil {
			return err
		}
	case raw[0] != '{' && raw[0] != '[' && string(raw) != "null":
		text = string(raw)
	}
	*s = scalar(text)
	return nil
}

// meanings are the types of events of runs, with the status that each moves a run to, ""
// for none. Source: spec/workspace.md section 6.1.
var meanings = map[string]workspace.RunStatus{
	"START":    mlevent.RunRunning,
	"RUNNING":  "",
	"OTHER":    "",
	"":         "", // it may be left out
	"COMPLETE": workspace.Completed,
	"FAIL":     workspace.Failed,
	"ABORT":    workspace.Canceled,
}

// Bounds of what a name or a property may hold, in bytes.
const (
	longestName    = 2048
	longestText    = 8 << 10
	longestSegment = 64 // of a run type
)

// aside reports whether the event is of a job or a dataset alone: its schemaURL says so,
// or its members where that does not tell. Events of runs that lack their run are not.
func (e *wireEvent) aside() bool {
	if e.Run != nil || e.EventType != "" {
		return false
	}
	switch e.SchemaURL[strings.LastIndexByte(e.SchemaURL, '/')+1:] {
	case "JobEvent", "DatasetEvent":
		return true
	case "RunEvent":
		return false
	}
	return e.Job.Name != "" || e.Dataset.value.Name != ""
}

// report says what an event of a run means, or what is wrong with it.
func (e *wireEvent) report(ws resource.ID) (o workspace.RunReport, err error) {
	var problems []*fault.Error
	wrong := func(field, format string, args ...any) {
		problems = append(problems, fault.Field(field, format, args...))
	}
	status, known := meanings[strings.ToUpper(e.EventType)]
	if !known {
		wrong("eventType", "The eventType '%.40s' is not known: use START, RUNNING, COMPLETE, FAIL, ABORT or OTHER.", e.EventType)
	}
	at, ok := parseTime(e.EventTime)
	if !ok {
		wrong("eventTime", "The eventTime '%.40s' is not a date-time: write it as in \"2026-03-02T09:14:07Z\".", e.EventTime)
	}
	if e.Run == nil {
		wrong("run", "The event has no run, with its runId: events of runs need one, and those of jobs and datasets have no eventType.")
	} else if len(e.Run.RunID) != len(uuid.UUID{}.String()) || uuid.Validate(e.Run.RunID) != nil {
		wrong("run.runId", "The runId '%.40s' is not a UUID.", e.Run.RunID)
	}
	for _, name := range []struct{ field, text string }{{"job.namespace", e.Job.Namespace}, {"job.name", e.Job.Name}} {
		if name.text == "" || len(name.text) > longestName {
			wrong(name.field, "The %s has %d bytes: use 1 to %d.", name.field, len(name.text), longestName)
		}
	}
	if err := fault.Join(problems...); err != nil {
		return o, err
	}
	id := uuid.MustParse(e.Run.RunID)
	job := secret.WithoutUserinfo(jobName(e.Job.Namespace, e.Job.Name))
	return workspace.RunReport{
		Source: workspace.SourceOpenLineage, ID: id.String(), ExperimentID: experimentID(ws, job), Experiment: job, At: at, Status: status,
		RunType: e.runType(), Tags: e.runTags(), Properties: e.properties(),
	}, nil
}

// parseTime reads a date-time; one without a zone is in UTC.
func parseTime(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			t = t.UTC()
			return t, t.Year() > 0 && t.Year() <= 9999
		}
	}
	return time.Time{}, false
}

func jobName(namespace, name string) string { return namespace + "/" + name }

// experimentID is the same for a job of a workspace wherever it is seen.
// Source: spec/workspace.md sections 5.5 and 6.1.
func experimentID(ws resource.ID, job string) string {
	return uuid.NewSHA1(uuid.NewSHA1(uuid.NameSpaceURL, []byte(ws.String())), []byte(job)).String()
}

// runType is "" when the event does not say.
func (e *wireEvent) runType() string {
	t := e.Job.Facets.value.JobType.value
	name := workspace.SourceOpenLineage
	for _, segment := range []string{t.Integration, t.JobType} {
		if segment != "" {
			name += "." + cut(strings.ToLower(segment), longestSegment)
		}
	}
	if name == workspace.SourceOpenLineage {
		return ""
	}
	return name
}

func (e *wireEvent) runTags() map[string]string {
	list := map[string]string{}
	e.Run.Facets.value.Tags.each(func(key, value string) { list[key] = value })
	return list
}

// properties are what the facets say. Those that are empty are left out.
func (e *wireEvent) properties() map[string]string {
	list := map[string]string{}
	set := func(name, value string) {
		if value != "" {
			list["openlineage."+name] = cut(secret.WithoutUserinfo(value), longestText)
		}
	}
	run, job := e.Run.Facets.value, e.Job.Facets.value
	set("namespace", e.Job.Namespace)
	set("job", e.Job.Name)
	set("producer", e.Producer)
	set("errorMessage", run.ErrorMessage.value.Message)
	set("errorLanguage", run.ErrorMessage.value.Language)
	set("parentRunId", run.Parent.value.Run.RunID)
	set("parentJob", run.Parent.value.job())
	set("rootRunId", run.Parent.value.Root.value.Run.RunID)
	set("rootJob", run.Parent.value.Root.value.job())
	set("nominalStartTime", run.NominalTime.value.Start)
	set("nominalEndTime", run.NominalTime.value.End)
	set("engine", run.ProcessingEngine.value.Name)
	set("engineVersion", run.ProcessingEngine.value.Version)
	set("processingType", job.JobType.value.ProcessingType)
	set("integration", job.JobType.value.Integration)
	set("jobType", job.JobType.value.JobType)
	set("sourceUrl", job.SourceCodeLocation.value.URL)
	set("sourceVersion", job.SourceCodeLocation.value.Version)
	set("inputs", datasets(e.Inputs.value))
	set("outputs", datasets(e.Outputs.value))
	job.Tags.each(func(key, value string) { set("jobTag."+key, value) })
	return list
}

func (r *reference) job() string {
	if r.Job.Name == "" {
		return ""
	}
	return jobName(r.Job.Namespace, r.Job.Name)
}

// datasets names what a run reads or writes, with commas between.
func datasets(list []named) string {
	var b strings.Builder
	for _, d := range list {
		if d.Name == "" || b.Len() > longestText {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(jobName(d.Namespace, d.Name))
	}
	return b.String()
}

// cut shortens a text to at most so many bytes.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}
