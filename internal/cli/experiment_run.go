package cli

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

func (a *app) runKind() kind {
	return kind{
		what: "run",
		view: view{
			plural: "runs",
			columns: []column{{"Experiment", "properties.experimentName"}, {"Run", "name"}, {"Name", "?properties.properties.mlflow.runName"}, {"Status", "properties.status"}, {"Type", "properties.runType"},
				{"Started", "properties.startTime"}, {"Ended", "properties.endTime"}, {"Tags", "properties.tags"}},
			detail: []column{{"Properties", "properties.properties"}, {"Etag", "etag"}, {"Id", "id"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			experiment := experimentFlag(cmd)
			id := runIDFlag(cmd)
			return func(args []string) (string, error) {
				run, err := id(args)
				if err != nil {
					return "", err
				}
				if err := required(cmd, "experiment"); err != nil {
					return "", err
				}
				return a.runPath(*experiment, run), segment(cmd, "experiment", *experiment)
			}
		},
	}
}

func experimentFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("experiment", "e", "", "Name of the experiment.")
}

// readExperimentFlag is experimentFlag of commands that take names of other systems, too.
func readExperimentFlag(cmd *cobra.Command) *string {
	name := experimentFlag(cmd)
	cmd.Flag("experiment").Usage = "Name of the experiment; of one that MLflow or OpenLineage has, its id, or its name there if no other has that."
	return name
}

// inExperiment calls read with the path of an experiment: the one of that name or id, or
// else the one that another system calls so.
func (a *app) inExperiment(cmd *cobra.Command, s *remote, name string, read func(path string) error) error {
	err := segment(cmd, "experiment", name)
	if err == nil {
		if err = read(a.experimentsPath() + "/" + name); !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	all, listing := s.all(cmd.Context(), a.experimentsPath(), pageSize())
	if listing != nil {
		return err
	}
	var ids []string
	for _, e := range all {
		if text(e, "properties.displayName") == name {
			ids = append(ids, text(e, "name"))
		}
	}
	switch len(ids) {
	case 0:
		return err
	case 1:
		return read(a.experimentsPath() + "/" + ids[0])
	}
	return usagef(cmd, "Several experiments are called %q: give --experiment the id of one, %s.", name, strings.Join(ids, " or "))
}

// runIDFlag is the name flag of runs, which are also called by --run-id.
func runIDFlag(cmd *cobra.Command) func(args []string) (string, error) {
	name := nameFlag(cmd, "run")
	id := cmd.Flags().String("run-id", "", "The same as --name.")
	return func(args []string) (string, error) {
		if *id != "" {
			if cmd.Flag("name").Changed || len(args) > 0 {
				return "", usagef(cmd, "The run is named twice; give --run-id alone.")
			}
			return *id, segment(cmd, "run", *id)
		}
		return name(args)
	}
}

func (a *app) experimentsPath() string { return a.workspaceID() + "/experiments" }

func (a *app) runPath(experiment, run string) string {
	return a.experimentsPath() + "/" + experiment + "/runs/" + run
}

func (a *app) runCommand() *cobra.Command {
	k := a.runKind()
	return group("run", "Experiment runs; their statuses raise RunCompleted and RunStatusChanged",
		`  carillon run create --experiment churn --run-id r1 --status Running
  carillon run update --experiment churn --run-id r1 --status Completed`,
		a.runCreate(k),
		a.runShow(k),
		a.runList(k),
		a.runUpdate(k),
		a.deleteCommand(k, `  carillon run delete --experiment churn --run-id r1`),
	)
}

// runFlags are the properties of a run that flags can set.
func runFlags(cmd *cobra.Command) func(properties map[string]any) {
	tags, properties := tagsFlag(cmd), propertiesFlag(cmd)
	cmd.Flags().String("status", "", "Status: NotStarted, Starting, Preparing, Queued, Running, Finalizing, Completed, Failed, Canceled, …")
	cmd.Flags().String("start-time", "", "When the run began, RFC 3339.")
	cmd.Flags().String("end-time", "", "When the run ended, RFC 3339.")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions([]string{"NotStarted", "Starting", "Provisioning",
		"Preparing", "Queued", "Running", "Finalizing", "CancelRequested", "Completed", "Failed", "Canceled", "NotResponding",
		"Paused"}, cobra.ShellCompDirectiveNoFileComp))
	return func(body map[string]any) {
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		if properties.given() {
			body["properties"] = properties.pairs()
		}
		setText(cmd, body, map[string]string{"status": "status", "run-type": "runType", "start-time": "startTime", "end-time": "endTime"})
	}
}

func (a *app) runCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Record a new run", Example: `  carillon run create --experiment churn --status Running
  carillon run create --experiment churn --run-id nightly-7 --run-type azureml.PipelineRun --status Completed --tags team=growth`}
	cmd.Flags().String("run-type", "", "Type of the run, any text; e.g. azureml.PipelineRun.")
	fill := runFlags(cmd)
	k.locate = func(cmd *cobra.Command) func([]string) (string, error) {
		experiment := experimentFlag(cmd)
		id := runIDFlag(cmd)
		return func(args []string) (string, error) {
			if err := required(cmd, "experiment"); err != nil {
				return "", err
			}
			if err := segment(cmd, "experiment", *experiment); err != nil {
				return "", err
			}
			if len(args) == 0 && !cmd.Flag("name").Changed && !cmd.Flag("run-id").Changed {
				return a.runPath(*experiment, newRunID(*experiment, time.Now())), nil
			}
			run, err := id(args)
			return a.runPath(*experiment, run), err
		}
	}
	return a.changeCommand(k, cmd, http.MethodPut, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		properties := map[string]any{}
		fill(properties)
		return enveloped(properties), create(), nil
	})
}

// newRunID makes an id of the form that Azure ML gives to runs.
// Source: spec/workspace.md section 1.1.
func newRunID(experiment string, now time.Time) string {
	var tail [4]byte
	_, _ = rand.Read(tail[:]) // never fails, see crypto/rand
	return fmt.Sprintf("%s_%d_%s", experiment, now.Unix(), hex.EncodeToString(tail[:]))
}

func (a *app) runUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Move a run to another status, or change its tags", Example: `  carillon run update --experiment churn --run-id r1 --status Completed
  carillon run update --experiment churn --run-id r1 --tags reviewed=yes --remove-tags draft`}
	fill := runFlags(cmd)
	remove := removeTagsFlag(cmd)
	etag := cmd.Flags().String("if-match", "", "Change only while the run has this etag.")
	return a.changeCommand(k, cmd, http.MethodPatch, func(cmd *cobra.Command, _ *remote, _ string) (any, http.Header, error) {
		properties := map[string]any{}
		fill(properties)
		remove(properties)
		return enveloped(properties), ifMatch(*etag), nil
	})
}

// removeTagsFlag lets a PATCH remove tags: a null removes a key there.
func removeTagsFlag(cmd *cobra.Command) func(properties map[string]any) {
	remove := wordsFlag(cmd, "remove-tags", "KEY...", "Keys of tags to remove.")
	return func(properties map[string]any) {
		if !remove.given() {
			return
		}
		tags := map[string]any{}
		if set, ok := properties["tags"].(map[string]string); ok {
			for k, v := range set {
				tags[k] = v
			}
		}
		for _, key := range remove.all() {
			tags[key] = nil
		}
		properties["tags"] = tags
	}
}

func (a *app) runShow(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show one run", Example: `  carillon run show --experiment churn --run-id r1`}
	experiment, id := readExperimentFlag(cmd), runIDFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := id(args)
		if err != nil {
			return err
		}
		if err := required(cmd, "experiment"); err != nil {
			return err
		}
		s, err := a.connect()
		if err != nil {
			return err
		}
		return a.inExperiment(cmd, s, *experiment, func(path string) error {
			run, err := s.get(cmd.Context(), path+"/runs/"+name)
			if err != nil {
				return err
			}
			return a.show(k.view, run)
		})
	}
	return cmd
}

func (a *app) runList(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List runs of one experiment, or of all", Args: noArguments,
		Example: `  carillon run list --experiment churn
  carillon run list -o json`}
	experiment := readExperimentFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		experiments := []string{*experiment}
		if *experiment == "" {
			if experiments, err = s.names(cmd, a.experimentsPath()); err != nil {
				return err
			}
		}
		runs := []json.RawMessage{}
		for _, e := range experiments {
			err := a.inExperiment(cmd, s, e, func(path string) error {
				of, err := s.all(cmd.Context(), path+"/runs", pageSize())
				runs = append(runs, of...)
				return err
			})
			if err != nil {
				return err
			}
		}
		return a.list(k.view, runs)
	}
	_ = cmd.RegisterFlagCompletionFunc("experiment", a.completeNames(a.experimentsPath))
	return cmd
}

// names returns the names of a list's entries, each once: one of another system may be
// called as one of ours, and both are under the name.
func (s *remote) names(cmd *cobra.Command, path string) ([]string, error) {
	entries, err := s.all(cmd.Context(), path, pageSize())
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, e := range entries {
		if name := text(e, "name"); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, nil
}
