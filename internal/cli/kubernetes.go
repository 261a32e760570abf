package cli

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

// clusterList is where the Kubernetes clusters of a workspace are in the API.
const clusterList = "/providers/Carillon.Kubernetes/clusters"

// clustersPath begins the paths of the clusters of a workspace.
func (a *app) clustersPath() string { return a.workspaceID() + clusterList }

func (a *app) clusterKind() kind {
	return kind{
		what: "Kubernetes cluster",
		view: view{
			plural: "Kubernetes clusters",
			columns: []column{{"Name", "name"}, {"Server", "properties.server"}, {"State", "properties.status.state"}, {"Objects", "properties.status.objects"},
				{"Last list", "properties.status.lastList"}},
			detail: []column{
				{"In cluster", "properties.inCluster"}, {"Authentication", "properties.authentication"}, {"TLS server name", "?properties.tlsServerName"},
				{"Namespaces", "properties.namespaces"}, {"Selector", "?properties.selector"}, {"KServe", "properties.status.kserve"},
				{"Backlog raises events", "properties.emitBacklog"}, {"Names without namespace", "properties.nameOnly"},
				{"Last error", "?properties.status.lastError"}, {"Last error at", "?properties.status.lastErrorTime"},
				{"Attached", "systemData.createdAt"}, {"Etag", "etag"}, {"Id", "id"},
			},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			cmd.Use += " NAME"
			cmd.Args = func(cmd *cobra.Command, args []string) error {
				if len(args) != 1 {
					return usagef(cmd, "%q needs the name of one Kubernetes cluster.", cmd.CommandPath())
				}
				return segment(cmd, "Kubernetes cluster", args[0])
			}
			return func(args []string) (string, error) { return a.clustersPath() + "/" + args[0], nil }
		},
		names: a.clustersPath,
	}
}

func (a *app) kubernetesCommand() *cobra.Command {
	k := a.clusterKind()
	return group("kubernetes", "Kubernetes clusters whose model services raise events",
		`  carillon kubernetes attach prod --kubeconfig prod.yaml --context carillon@prod
  carillon kubernetes show prod`,
		a.clusterAttach(k),
		a.listCommand(k, &cobra.Command{Example: `  carillon kubernetes list`}, func(*cobra.Command) (string, error) { return a.clustersPath(), nil }),
		a.showCommand(k, `  carillon kubernetes show prod
  carillon kubernetes show prod --workspace churn -o json`),
		a.clusterDetach(k))
}

func (a *app) clusterAttach(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "attach", Short: "Follow a Kubernetes cluster, or change how it is followed",
		Long: "Have a workspace follow a Kubernetes cluster: KServe's InferenceServices, and Deployments with the label\ncarillon.dev/model-service=true, become its online endpoints, and a rollout that succeeds is ModelDeployed.\nAddress and credentials are read from a kubeconfig here and sealed by the server. What is there already is\nrecorded without events, unless --emit-backlog is given. Settings that are not given take their defaults.",
		Example: `  carillon kubernetes attach prod --kubeconfig prod.yaml --context carillon@prod
  carillon kubernetes attach prod --kubeconfig prod.yaml --namespace models --namespace staging --selector team=growth
  carillon kubernetes attach here --in-cluster`}
	f := cmd.Flags()
	file := f.String("kubeconfig", "", "File that says how to reach the cluster; $KUBECONFIG or ~/.kube/config by default.")
	context := f.String("context", "", "Context of the kubeconfig; its current one by default.")
	inCluster := f.Bool("in-cluster", false, "Follow the cluster that the server runs in, as the pod's own service account.")
	namespaces := f.StringArray("namespace", nil, "Namespace to follow, all by default; may be repeated.")
	selector := f.String("selector", "", "Labels that services must have, as for kubectl.")
	backlog := f.Bool("emit-backlog", false, "Raise events also for what is there already.")
	nameOnly := f.Bool("name-only", false, "Call services by their name, without the namespace before it.")
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		properties := map[string]any{"inCluster": true}
		if !*inCluster {
			home, _ := os.UserHomeDir() // without one the file is named
			own, err := kubeProperties(firstOf(*file, filepath.SplitList(a.getenv("KUBECONFIG") + string(filepath.ListSeparator))[0], filepath.Join(home, ".kube", "config")), *context)
			if err != nil {
				return err
			}
			properties = own
		} else if *file != "" || *context != "" {
			return usagef(cmd, "--in-cluster needs no --kubeconfig and no --context: the pod has its own.")
		}
		if len(*namespaces) > 0 {
			properties["namespaces"] = *namespaces
		}
		if *selector != "" {
			properties["selector"] = *selector
		}
		properties["emitBacklog"], properties["nameOnly"] = *backlog, *nameOnly
		cluster, err := s.ask(cmd.Context(), http.MethodPut, path, enveloped(properties), nil)
		if err != nil {
			return err
		}
		return a.show(k.view, cluster)
	})
}

func (a *app) clusterDetach(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "detach", Short: "Follow a Kubernetes cluster no more; its online endpoints are forgotten", Example: `  carillon kubernetes detach prod
  carillon kubernetes detach prod --workspace churn --yes`}
	confirmed := a.confirmation(cmd)
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		if _, err := s.get(cmd.Context(), path); fault.Is(err, fault.NotFound) {
			fmt.Fprintln(a.stderr, "The workspace follows no such cluster: nothing was changed.")
			return nil
		}
		if err := confirmed("Follow the Kubernetes cluster no more?"); err != nil {
			return err
		}
		_, err := s.ask(cmd.Context(), http.MethodDelete, path, nil, nil)
		return err
	})
}
