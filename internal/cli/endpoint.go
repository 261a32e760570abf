package cli

import (
	"net/http"

	"github.com/spf13/cobra"
)

func (a *app) endpointKind() kind {
	return kind{
		what: "online endpoint",
		view: view{
			plural: "online endpoints",
			columns: []column{{"Name", "name"}, {"State", "properties.state"}, {"Models", "properties.modelIds"},
				{"Compute", "properties.computeType"}, {"Tags", "properties.tags"}},
			detail: []column{{"Scoring uri", "properties.scoringUri"}, {"Readiness url", "properties.readiness.url"},
				{"Properties", "properties.properties"}, {"Etag", "etag"}, {"Id", "id"}},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			name := nameFlag(cmd, "online endpoint")
			return func(args []string) (string, error) {
				n, err := name(args)
				return a.endpointsPath() + "/" + n, err
			}
		},
		names: a.endpointsPath,
	}
}

func (a *app) endpointsPath() string { return a.workspaceID() + "/onlineEndpoints" }

func (a *app) endpointCommand() *cobra.Command {
	k := a.endpointKind()
	return group("endpoint", "Online endpoints; reaching Healthy from Transitioning raises ModelDeployed",
		`  carillon endpoint create churn-api --model-ids churn:4 --compute-type AKS --state Transitioning
  carillon endpoint update churn-api --state Healthy`,
		a.endpointCreate(k),
		a.showCommand(k, `  carillon endpoint show churn-api`),
		a.listCommand(k, &cobra.Command{Example: `  carillon endpoint list`}, func(*cobra.Command) (string, error) {
			return a.endpointsPath(), nil
		}),
		a.endpointUpdate(k),
		a.deleteCommand(k, `  carillon endpoint delete churn-api`),
	)
}

func endpointFlags(cmd *cobra.Command) func(properties map[string]any) error {
	tags, properties := tagsFlag(cmd), propertiesFlag(cmd)
	f := cmd.Flags()
	f.String("model-ids", "", "Models that it serves: NAME:VERSION, several separated by commas without spaces.")
	f.String("compute-type", "", "What it runs on, any text; e.g. ACI, AKS, KUBERNETES.")
	f.String("scoring-uri", "", "Where it answers.")
	f.String("state", "", "State: Transitioning, Healthy, Unhealthy, Failed.")
	url := f.String("readiness-url", "", "URL that the server polls until it answers 2xx, then the state becomes Healthy by itself.")
	timeout := f.Int("readiness-timeout", 0, "Seconds until the server gives up polling.")
	interval := f.Int("readiness-interval", 0, "Seconds between two polls.")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"Transitioning", "Healthy", "Unhealthy", "Failed"}, cobra.ShellCompDirectiveNoFileComp))
	return func(body map[string]any) error {
		if tags.given() {
			body["tags"] = tags.pairs()
		}
		if properties.given() {
			body["properties"] = properties.pairs()
		}
		setText(cmd, body, map[string]string{"model-ids": "modelIds", "compute-type": "computeType", "scoring-uri": "scoringUri", "state": "state"})
		if *url == "" {
			if *timeout != 0 || *interval != 0 {
				return usagef(cmd, "--readiness-timeout and --readiness-interval need --readiness-url.")
			}
			return nil
		}
		readiness := map[string]any{"url": *url}
		if *timeout != 0 {
			readiness["timeoutSeconds"] = *timeout
		}
		if *interval != 0 {
			readiness["intervalSeconds"] = *interval
		}
		body["readiness"] = readiness
		return nil
	}
}

func (a *app) endpointCreate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Record an online endpoint, or a new deployment of it", Example: `  carillon endpoint create churn-api --model-ids churn:4,segments:2 --compute-type AKS --state Transitioning
  carillon endpoint create churn-api --model-ids churn:4 --compute-type KUBERNETES --state Transitioning --readiness-url http://127.0.0.1:9000/healthz`}
	fill := endpointFlags(cmd)
	return a.changeCommand(k, cmd, http.MethodPut, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		properties := map[string]any{}
		err := fill(properties)
		return enveloped(properties), nil, err
	})
}

func (a *app) endpointUpdate(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "update", Short: "Move an online endpoint to another state, or change it", Example: `  carillon endpoint update churn-api --state Healthy
  carillon endpoint update churn-api --state Transitioning --model-ids churn:5`}
	fill := endpointFlags(cmd)
	remove := removeTagsFlag(cmd)
	etag := cmd.Flags().String("if-match", "", "Change only while the online endpoint has this etag.")
	return a.changeCommand(k, cmd, http.MethodPatch, func(*cobra.Command, *remote, string) (any, http.Header, error) {
		properties := map[string]any{}
		if err := fill(properties); err != nil {
			return nil, nil, err
		}
		remove(properties)
		return enveloped(properties), ifMatch(*etag), nil
	})
}
