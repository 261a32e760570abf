package cli

import (
	"github.com/spf13/cobra"
)

const topicTypesPath = "/providers/Microsoft.EventGrid/topicTypes"

var eventTypeView = view{plural: "event types", columns: []column{{"Name", "name"}, {"Description", "properties.description"}}}

func (a *app) topicTypeKind() kind {
	return kind{
		what: "topic type",
		view: view{
			plural:  "topic types",
			columns: []column{{"Name", "name"}, {"Display name", "properties.displayName"}, {"Description", "properties.description"}},
			detail: []column{{"Provider", "properties.provider"}, {"Source", "properties.sourceResourceFormat"},
				{"Locations", "properties.supportedLocations"}, {"State", "properties.provisioningState"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "topic type")
			return func(args []string) (string, error) {
				n, err := name(args)
				return topicTypesPath + "/" + n, err
			}
		},
		names: func() string { return topicTypesPath },
	}
}

// topicTypeCommand shows the catalogue of sources, as az eventgrid topic-type does.
// Source: spec/management.md sections 3 and 9.
func (a *app) topicTypeCommand() *cobra.Command {
	k := a.topicTypeKind()
	return group("topic-type", "Topic types: what kinds of sources there are, and which events they raise",
		`  carillon topic-type list
  carillon topic-type list-event-types --name Microsoft.MachineLearningServices.Workspaces`,
		a.listCommand(k, &cobra.Command{Example: `  carillon topic-type list
  carillon topic-type list -o json`}, func(*cobra.Command) (string, error) { return topicTypesPath, nil }),
		a.showCommand(k, `  carillon topic-type show --name Microsoft.MachineLearningServices.Workspaces`),
		a.topicTypeEventTypes(k),
	)
}

// topicTypeEventTypes lists event types; -o json shows where their schemas are.
func (a *app) topicTypeEventTypes(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "list-event-types", Short: "List the event types that sources of a topic type raise",
		Example: `  carillon topic-type list-event-types --name Microsoft.MachineLearningServices.Workspaces
  carillon topic-type list-event-types Microsoft.MachineLearningServices.Workspaces -o json   # with schemaUrl`}
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, p string) error {
		types, err := s.all(cmd.Context(), p+"/eventTypes", pageSize())
		if err != nil {
			return err
		}
		return a.list(eventTypeView, types)
	})
}
