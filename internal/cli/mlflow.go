package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/fault"
)

// mlflowServer is where the MLflow server of a workspace is in the API.
const mlflowServer = "/providers/Carillon.MLflow/servers/default"

func (a *app) mlflowKind() kind {
	return kind{
		what: "MLflow server",
		view: view{
			plural: "MLflow servers",
			columns: []column{{"Workspace", "workspace"}, {"Url", "properties.url"}, {"State", "properties.status.state"},
				{"Last round", "properties.status.lastRound"}, {"Lag (s)", "properties.status.lagSeconds"}},
			detail: []column{
				{"Proxy", "?properties.status.proxyUrl"}, {"Authentication", "properties.authentication"}, {"Username", "?properties.username"}, {"MLflow workspace", "?properties.mlflowWorkspace"},
				{"Static prefix", "?properties.staticPrefix"}, {"Poll interval (s)", "properties.pollIntervalSeconds"}, {"Backlog raises events", "properties.emitBacklog"},
				{"End time change renews", "properties.endTimeChangeIsNewGeneration"},
				{"Running is made up", "properties.synthesizeRunning"}, {"Experiment id format", "properties.experimentIdFormat"}, {"Metrics", "properties.metrics"},
				{"Model tags inherited", "properties.inheritModelTags"}, {"Not responding after (s)", "?properties.notRespondingAfterSeconds"},
				{"Deployed by alias", "properties.deployOn.alias"}, {"Deployed by stage", "properties.deployOn.stage"}, {"Webhook", "?properties.webhookUrl"}, {"Webhook state", "?properties.status.webhook"}, {"Last webhook", "?properties.status.lastWebhook"}, {"Open runs", "properties.status.openRuns"}, {"Runs not followed", "?properties.status.runsNotFollowed"},
				{"Requests of last round", "properties.status.lastRoundRequests"}, {"Last error", "?properties.status.lastError"},
				{"Last error at", "?properties.status.lastErrorTime"}, {"Attached", "systemData.createdAt"}, {"Etag", "etag"}, {"Id", "id"},
			},
		},
		locate: func(cmd *cobra.Command) func([]string) (string, error) {
			cmd.Args = noArguments
			return func([]string) (string, error) { return a.workspaceID() + mlflowServer, nil }
		},
	}
}

func (a *app) mlflowCommand() *cobra.Command {
	k := a.mlflowKind()
	return group("mlflow", "MLflow servers whose runs and model versions raise events",
		`  carillon mlflow attach http://127.0.0.1:5000
  carillon mlflow show`,
		a.mlflowAttach(k), a.mlflowList(k), a.mlflowShow(k), a.mlflowDetach(k))
}

// withWorkspace adds the name of the workspace to a server, for tables.
func withWorkspace(server json.RawMessage) json.RawMessage {
	id := text(server, "id")
	id = id[:max(0, len(id)-len(mlflowServer))]
	object := decoded(server, "")
	object["workspace"] = id[strings.LastIndexByte(id, '/')+1:]
	raw, _ := json.Marshal(object) // it came from JSON
	return raw
}

func (a *app) showMLflow(k kind, server json.RawMessage) error {
	if a.output != "json" {
		server = withWorkspace(server)
	}
	return a.show(k.view, server)
}

func (a *app) mlflowAttach(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "attach URL", Short: "Follow an MLflow server, or change how it is followed",
		Long: "Have a workspace follow an MLflow server: its runs and model versions become events of the workspace,\nwith nothing changed at the server or its clients. What is there already is recorded without events,\nunless --emit-backlog is given. Settings that are not given take their defaults; a secret stays while\nURL and user name stay.",
		Example: `  carillon mlflow attach http://127.0.0.1:5000
  carillon mlflow attach https://mlflow.example --username carillon --password-file secret.txt --workspace churn
  pass show mlflow | carillon mlflow attach https://mlflow.example --token-file -`}
	f := cmd.Flags()
	f.String("username", "", "User name for Basic authentication.")
	password := f.String("password-file", "", "File with the password; - for standard input.")
	token := f.String("token-file", "", "File with a bearer token; - for standard input.")
	f.String("static-prefix", "", "What mlflow server was given as --static-prefix.")
	f.String("mlflow-workspace", "", "Workspace of the MLflow server; its default one by default.")
	interval := f.Int("poll-interval", 0, "Seconds between two looks, 1 to 3600; 15 by default.")
	backlog := f.Bool("emit-backlog", false, "Raise events also for what is there already.")
	renews := f.Bool("end-time-change-is-new-generation", false, "Take a run that ended at another time for one that went on and ended again.")
	synthesize := f.Bool("synthesize-running", false, "Raise Running first for a run that was seen only when it had ended.")
	metrics := f.Bool("metrics", false, "Put the newest value of each metric into the properties of runs, as mlflow.metric.NAME.")
	inherit := f.Bool("inherit-model-tags", false, "Give versions the tags of their registered model beneath their own.")
	f.String("experiment-id-format", "", "What events call experiments: verbatim, MLflow's own ids, or guid. verbatim by default.")
	silence := f.String("not-responding-after", "", "Call a run NotResponding that shows nothing new for so long, as 30m, 2h or 1d; never by default.")
	aliases := f.StringArray("deploy-on-alias", nil, "Take a model version for deployed when it is given this alias; may be repeated.")
	stages := f.StringArray("deploy-on-stage", nil, "Take a model version for deployed when it comes to this stage; may be repeated.")
	webhook := f.Bool("webhook", false, "Have the server call when a model version changes (MLflow 3.3 or newer); what was registered stays when this is not given.")
	noWebhook := f.Bool("no-webhook", false, "Have the server call no more.")
	f.String("webhook-origin", "", "What the server reaches Carillon by, as https://carillon.example:7443; the public URL by default.")
	cmd.MarkFlagsMutuallyExclusive("webhook", "no-webhook")
	noProxy := f.Bool("no-proxy", false, "Do not pass requests on to the server: without, whoever reaches this server at /mlflow/WORKSPACE reaches MLflow.")
	preserveHost := f.Bool("preserve-host", false, "Pass the Host header of clients on, and not that of URL.")
	given := ""
	k.locate = func(cmd *cobra.Command) func([]string) (string, error) {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef(cmd, "%q needs the URL of one MLflow server.", cmd.CommandPath())
			}
			given = args[0]
			return nil
		}
		return func([]string) (string, error) { return a.workspaceID() + mlflowServer, nil }
	}
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		properties := map[string]any{"url": given}
		setText(cmd, properties, map[string]string{"username": "username", "static-prefix": "staticPrefix", "mlflow-workspace": "mlflowWorkspace", "experiment-id-format": "experimentIdFormat", "webhook-origin": "webhookOrigin"})
		for member, file := range map[string]string{"password": *password, "token": *token} {
			if file == "" {
				continue
			}
			raw, err := a.readAll(file)
			if err != nil {
				return err
			}
			properties[member] = strings.TrimRight(string(raw), "\r\n")
		}
		if cmd.Flag("poll-interval").Changed {
			properties["pollIntervalSeconds"] = *interval
		}
		if *silence != "" {
			d, err := length(*silence)
			if err != nil || d < time.Second {
				return usagef(cmd, "--not-responding-after %q is not a length of time: write 30m, 2h or 1d.", *silence)
			}
			properties["notRespondingAfterSeconds"] = int(d / time.Second)
		}
		if len(*aliases)+len(*stages) > 0 {
			properties["deployOn"] = map[string]any{"alias": append([]string{}, *aliases...), "stage": append([]string{}, *stages...)}
		}
		properties["emitBacklog"], properties["endTimeChangeIsNewGeneration"] = *backlog, *renews
		if *webhook || *noWebhook {
			properties["webhook"] = *webhook
		}
		properties["synthesizeRunning"], properties["metrics"], properties["inheritModelTags"] = *synthesize, *metrics, *inherit
		properties["proxy"], properties["preserveHost"] = !*noProxy, *preserveHost
		server, err := s.ask(cmd.Context(), http.MethodPut, path, enveloped(properties), nil)
		if err != nil {
			return err
		}
		if *webhook || cmd.Flag("webhook-origin").Changed {
			a.warnOfWebhook(server)
		}
		return a.showMLflow(k, server)
	})
}

// warnOfWebhook says so when MLflow will not call the webhook of a server: it trusts
// public certificate authorities alone.
func (a *app) warnOfWebhook(server json.RawMessage) {
	u, err := url.Parse(text(server, "properties.webhookUrl"))
	if err != nil || u.Scheme != "https" {
		return
	}
	ip := net.ParseIP(u.Hostname())
	private := u.Hostname() == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified())
	if at, err := a.address(); err == nil && at.ca != "" && !private {
		ours, err := url.Parse(at.url)
		private = err == nil && ours.Host == u.Host // we need an authority of its own to call it
	}
	if private {
		fmt.Fprintf(a.stderr, "MLflow cannot call %s unless the certificate there is of a public authority, so events wait for the next round. Give Carillon a certificate of your own with --public-url; where all is on one machine, attach again with --webhook-origin http://ADDRESS, and see docs/mlflow.md for what mlflow server needs then.\n", u.Redacted())
	}
}

// mlflowList asks every workspace that may be read.
func (a *app) mlflowList(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the MLflow servers of all workspaces", Args: noArguments, Example: `  carillon mlflow list
  carillon mlflow list -o json`}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		workspaces, err := s.all(cmd.Context(), a.inScope(cmd, learningWorkspaces), pageSize())
		if err != nil {
			return err
		}
		servers := []json.RawMessage{}
		for _, ws := range workspaces {
			server, err := s.get(cmd.Context(), text(ws, "id")+mlflowServer)
			switch {
			case fault.Is(err, fault.NotFound):
			case err != nil:
				return err
			case a.output == "json":
				servers = append(servers, server)
			default:
				servers = append(servers, withWorkspace(server))
			}
		}
		return a.list(k.view, servers)
	}
	return cmd
}

func (a *app) mlflowShow(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show the MLflow server that the workspace follows, and how that goes", Example: `  carillon mlflow show
  carillon mlflow show --workspace churn -o json`}
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		server, err := s.get(cmd.Context(), path)
		if err != nil {
			return err
		}
		return a.showMLflow(k, server)
	})
}

func (a *app) mlflowDetach(k kind) *cobra.Command {
	cmd := &cobra.Command{Use: "detach", Short: "Follow the MLflow server no more; what was recorded stays", Example: `  carillon mlflow detach
  carillon mlflow detach --workspace churn --yes`}
	confirmed := a.confirmation(cmd)
	return a.onResource(k, cmd, func(cmd *cobra.Command, s *remote, path string) error {
		if _, err := s.get(cmd.Context(), path); fault.Is(err, fault.NotFound) {
			fmt.Fprintln(a.stderr, "The workspace follows no MLflow server: nothing was changed.")
			return nil
		}
		if err := confirmed("Follow the MLflow server no more?"); err != nil {
			return err
		}
		_, err := s.ask(cmd.Context(), http.MethodDelete, path, nil, nil)
		return err
	})
}
