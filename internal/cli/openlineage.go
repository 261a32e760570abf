package cli

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

// lineageReceiver is where a workspace takes OpenLineage events, in the API.
const lineageReceiver = "/providers/Carillon.OpenLineage/receivers/default"

func (a *app) openlineageKind() kind {
	return kind{
		what: "openlineage",
		view: view{
			columns: []column{{"OPENLINEAGE_URL", "properties.url"}, {"OPENLINEAGE_ENDPOINT", "properties.endpoint"}},
			detail:  []column{{"Address", "properties.address"}, {"Address by id", "properties.addressById"}, {"Keys made", "properties.keysTime"}, {"Id", "id"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			cmd.Args = noArguments
			return func([]string) (string, error) { return a.workspaceID() + lineageReceiver, nil }
		},
	}
}

func (a *app) openlineageCommand() *cobra.Command {
	k := a.openlineageKind()
	list := &cobra.Command{Use: "list", Short: "Show both keys of a workspace; the first time makes them", Example: `  carillon openlineage key list
  export OPENLINEAGE_API_KEY=$(carillon openlineage key list -o json | jq -r .key1)`}
	regenerate := &cobra.Command{Use: "regenerate", Short: "Replace one key of a workspace by a new one",
		Example: `  carillon openlineage key regenerate --key-name key1`}
	return group("openlineage", "OpenLineage producers (Airflow, Spark, dbt, …) whose runs raise events",
		`  carillon openlineage show
  carillon openlineage key list`,
		a.openlineageShow(k),
		group("key", "The two keys that producers of a workspace send as API key", `  carillon openlineage key list`,
			a.keyCommand(k, list, "listKeys", func() (any, error) { return nil, nil }),
			a.keyCommand(k, regenerate, "regenerateKey", keyName(regenerate))))
}

func (a *app) openlineageShow(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show where a workspace takes OpenLineage events, and how to tell producers", Example: `  carillon openlineage show
  carillon openlineage show --workspace churn -o json`}
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		receiver, err := s.ask(cmd.Context(), http.MethodGet, path, nil, nil)
		if err != nil {
			return err
		}
		if err := a.show(k.view, receiver); err != nil || a.output == "json" {
			return err
		}
		fmt.Fprintf(a.stdout, "\nSet those two for producers, and OPENLINEAGE_API_KEY to what \"carillon openlineage key list\" shows. Or, in openlineage.yml:\n"+
			"  transport: {type: http, url: %q, endpoint: %q, auth: {type: api_key, apiKey: KEY}}\n",
			text(receiver, "properties.url"), text(receiver, "properties.endpoint"))
		return nil
	})
}
