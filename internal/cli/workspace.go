package cli

import (
	"net/http"

	"github.com/spf13/cobra"
)

const learningWorkspaces = "/providers/Microsoft.MachineLearningServices/workspaces"

func (a *app) workspaceKind() kind {
	return kind{
		what:  "workspace",
		takes: "all that is recorded in it, its event subscriptions and the events that wait for them",
		view: view{
			plural:  "workspaces",
			columns: []column{{"Name", "name"}, {"Location", "location"}, {"State", "properties.provisioningState"}, {"Id", "id"}},
			detail: []column{{"Run statuses that raise events", "properties.statusEvents"}, {"Payload casing", "properties.payloadCasing"},
				{"Drift raises on", "properties.driftRaiseOn"}, {"Extra events", "?properties.extraEvents"}, {"Tags", "tags"}, {"Etag", "etag"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "workspace")
			return func(args []string) (string, error) {
				if len(args) == 0 && !cmd.Flag("name").Changed && a.workspace != "" {
					return a.workspaceID(), nil
				}
				n, err := name(args)
				return a.workspaceNamed(n), err
			}
		},
		names: func() string { return a.groupID() + learningWorkspaces },
	}
}

func (a *app) workspaceCommand() *cobra.Command {
	k := a.workspaceKind()
	return group("workspace", "Workspaces: where runs, models, endpoints and drift monitors are recorded",
		`  carillon workspace create churn --status-events Failed Canceled
  carillon workspace show default`,
		a.workspaceCreate(k),
		a.showCommand(k, `  carillon workspace show default
  carillon workspace show default -o json`),
		a.listCommand(k, &cobra.Command{Example: `  carillon workspace list
  carillon workspace list -g local`}, func(cmd *cobra.Command) (string, error) {
			return a.inScope(cmd, learningWorkspaces), nil
		}),
		a.workspaceUpdate(k),
		a.deleteCommand(k, `  carillon workspace delete churn`),
	)
}

// workspaceFlags are the properties of a workspace. Source: design of the
// workspace sub-resources; spec/workspace.md sections 1.3 and 2.2.
func workspaceFlags(cmd *cobra.Command) func(body map[string]any) error {
	tags := tagsFlag(cmd)
	statuses := wordsFlag(cmd, "status-events", "STATUS...", "Run statuses that raise RunStatusChanged.")
	casing := cmd.Flags().String("payload-casing", "", "Spelling of event data: camelCase or documented.")
	drift := cmd.Flags().String("drift-raise-on", "", "When a drift run raises DatasetDriftDetected: completed or drift.")
	extra := wordsFlag(cmd, "extra-events", "EVENT...", "Events beyond Azure's that are raised: DeploymentFailed, ModelAliasSet, ModelAliasRemoved,\nModelStageChanged, ModelDeleted, DriftCleared, RunNotResponding; nothing after the flag is none.")
	return func(body map[string]any) error {
		properties := map[string]any{}
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		if statuses.given() {
			properties["statusEvents"] = statuses.list()
		}
		if extra.given() {
			properties["extraEvents"] = extra.list()
		}
		if *casing != "" {
			word, err := oneOf(cmd, "payload-casing", *casing, "camelCase", "documented")
			if err != nil {
				return err
			}
			properties["payloadCasing"] = word
		}
		if *drift != "" {
			word, err := oneOf(cmd, "drift-raise-on", *drift, "completed", "drift")
			if err != nil {
				return err
			}
			properties["driftRaiseOn"] = word
		}
		body["properties"] = properties
		return nil
	}
}

func (a *app) workspaceCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a workspace, or replace its settings", Example: `  carillon workspace create churn
  carillon workspace create churn --status-events Failed Canceled --tags team=growth`}
	location := cmd.Flags().StringP("location", "l", "", "Location; the resource group's by default.")
	fill := workspaceFlags(cmd)
	return a.changeCommand(k, cmd, http.MethodPut, func(cmd *cobra.Command, s *remote, _ string) (any, http.Header, error) {
		body := map[string]any{"location": *location}
		if err := fill(body); err != nil {
			return nil, nil, err
		}
		if *location == "" {
			at, err := s.groupLocation(cmd, a.groupID())
			if err != nil {
				return nil, nil, err
			}
			body["location"] = at
		}
		return body, nil, nil
	})
}

func (a *app) workspaceUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Change settings of a workspace", Example: `  carillon workspace update default --status-events Failed Canceled
  carillon workspace update default --extra-events DeploymentFailed ModelAliasSet
  carillon workspace update default --payload-casing documented`}
	fill := workspaceFlags(cmd)
	etag := cmd.Flags().String("if-match", "", "Change only while the workspace has this etag.")
	return a.changeCommand(k, cmd, http.MethodPatch, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		body := map[string]any{}
		err := fill(body)
		return body, ifMatch(*etag), err
	})
}
