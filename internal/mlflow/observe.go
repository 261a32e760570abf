package mlflow

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/workspace"
	"github.com/carillon-events/carillon/mlevent"
)

// statuses are MLflow's run statuses in the words of events.
// Source: spec/workspace.md section 5.1.
var statuses = map[string]workspace.RunStatus{
	"SCHEDULED": mlevent.RunQueued,
	"RUNNING":   mlevent.RunRunning,
	"FINISHED":  workspace.Completed,
	"FAILED":    workspace.Failed,
	"KILLED":    workspace.Canceled,
}

// Tags of MLflow that mean something here.
const (
	systemTag     = "mlflow." // begins the names of all of them
	sourceTypeTag = "mlflow.source.type"
	parentTag     = "mlflow.parentRunId"
	promptTag     = "mlflow.prompt.is_prompt"
)

// observation says in the words of events how a run was seen, with its metrics or
// without. A status that is not known is Unknown. Source: spec/workspace.md section 5.2.
func (r *run) observation(experimentName string, metrics bool) workspace.RunObservation {
	tags, properties := map[string]string{}, map[string]string{}
	if metrics {
		for _, m := range r.Data.Metrics {
			properties["mlflow.metric."+m.Key] = strings.Trim(string(m.Value), `"`)
		}
	}
	for _, p := range r.Data.Params {
		properties["mlflow.param."+p.Key] = p.Value
	}
	for _, t := range r.Data.Tags {
		switch {
		case t.Key == "":
		case strings.HasPrefix(t.Key, systemTag):
			properties[t.Key] = t.Value
		default:
			tags[t.Key] = t.Value
		}
	}
	for name, value := range map[string]string{
		"mlflow.runName": r.Info.RunName, "mlflow.user": r.Info.UserID, "mlflow.artifactUri": r.Info.ArtifactURI,
		"mlflow.startTime": timeText(r.Info.StartTime), "mlflow.endTime": timeText(r.Info.EndTime), "mlflow.lifecycleStage": r.Info.LifecycleStage,
	} {
		if value != "" {
			properties[name] = value
		}
	}
	runType := "mlflow.run"
	if source := properties[sourceTypeTag]; source != "" {
		runType = "mlflow." + cut(strings.ToLower(source), 64)
	}
	if properties[parentTag] != "" {
		runType += ".child"
	}
	workspace.TidyLabels(tags, properties)
	status, ok := statuses[r.Info.Status]
	if !ok {
		status = mlevent.RunUnknown
	}
	return workspace.RunObservation{
		ID: r.id(), ExperimentID: r.Info.ExperimentID, Experiment: experimentName, Status: status, RunType: runType,
		Tags: tags, Properties: properties, StartTime: timeText(r.Info.StartTime), EndTime: timeText(r.Info.EndTime),
	}
}

// sign is a sign of life: it is another one after anything of the run has changed that
// one look shows.
func (r *run) sign() string {
	// Each part is in an order of its own: what is asked for twice comes in any.
	part := func(n int, line func(i int) string) string {
		lines := make([]string, n)
		for i := range lines {
			lines[i] = line(i)
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	d := &r.Data
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q",
		part(len(d.Tags), func(i int) string { return fmt.Sprintf("%q", d.Tags[i]) }),
		part(len(d.Params), func(i int) string { return fmt.Sprintf("%q", d.Params[i]) }),
		part(len(d.Metrics), func(i int) string {
			m := &d.Metrics[i]
			return fmt.Sprintf("%q %s %d %d", m.Key, m.Value, m.Timestamp, m.Step)
		}),
		r.Info.RunName))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// observation says in the words of events how a model version was seen. Inherited tags
// stand beneath its own. Source: spec/workspace.md section 5.2.
func (v *modelVersion) observation(inherited []pair) workspace.VersionObservation {
	tags, properties := map[string]string{}, map[string]string{"mlflow.modelUri": "models:/" + v.Name + "/" + v.Version}
	for _, t := range slices.Concat(inherited, v.Tags) {
		if t.Key != "" {
			tags[t.Key] = t.Value
		}
	}
	for name, value := range map[string]string{
		"mlflow.runId": v.RunID, "mlflow.source": v.Source, "mlflow.modelId": v.ModelID, "mlflow.description": v.Description,
		"mlflow.aliases": strings.Join(slices.Sorted(slices.Values(v.Aliases)), ","), "mlflow.stage": v.Stage,
		"mlflow.creationTime": timeText(v.Created), "mlflow.user": v.UserID,
	} {
		if value != "" {
			properties[name] = value
		}
	}
	workspace.TidyLabels(tags, properties)
	return workspace.VersionObservation{
		Model: v.Name, Version: v.Version, Created: int64(v.Created), RunID: v.RunID, URI: secret.WithoutUserinfo(v.Source), Tags: tags, Properties: properties,
	}
}

// aliasesOf returns the aliases of a version. They are the model's: searches for versions
// leave them out. Source: mlflow/mlflow: mlflow/store/model_registry/sqlalchemy_store.py
// (search_model_versions), 3.17.
func (m *registeredModel) aliasesOf(version string) (aliases []string) {
	for _, a := range m.Aliases {
		if a.Version == version {
			aliases = append(aliases, a.Alias)
		}
	}
	return aliases
}

// ready reports whether a version is one to tell of: neither on its way, nor failed,
// nor a prompt. Servers that know no status leave it out.
func (v *modelVersion) ready() bool { return v.Status == "" || v.Status == "READY" }

func isPrompt(tags []pair) bool {
	return slices.ContainsFunc(tags, func(t pair) bool { return t.Key == promptTag && strings.EqualFold(t.Value, "true") })
}

// timeText writes Unix milliseconds, "" for none.
func timeText(ms whole) string {
	if ms <= 0 || ms > latest {
		return ""
	}
	return event.FormatTime(time.UnixMilli(int64(ms)))
}

// latest is the last moment that has four digits for its year.
var latest = whole(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).UnixMilli())
