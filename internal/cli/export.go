package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

func (a *app) exportCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "export", Short: "Write connections, workspaces, topics, domains, event subscriptions and roles as a file for apply", Args: noArguments,
		Long: `Write connections, workspaces with their drift monitors and the MLflow servers and Kubernetes clusters that they follow, topics, domains,
event subscriptions, custom roles, role assignments and deny assignments of the subscription, or of the resource group that -g names, as YAML (-o json: as JSON) for apply and diff.
Secrets are left out: ${env:NAME} stands in their place, and the names are listed at the
end on standard error. URLs of endpoints are written as they are when they have no query.`,
		Example: `  carillon export > carillon.yaml
  carillon export -g ml-rg -o json`}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.connect()
		if err != nil {
			return err
		}
		scope := a.inScope(cmd, "")
		x := exporter{remote: s, scope: scope}
		resources, err := x.all(cmd.Context())
		if err != nil {
			return err
		}
		raw, err := encodeJSON(map[string]any{"resources": resources})
		if err != nil {
			return err
		}
		if a.output == "json" {
			err = writeJSON(a.stdout, raw)
		} else {
			var text []byte
			if text, err = yaml.JSONToYAML(raw); err == nil {
				_, err = a.stdout.Write(text)
			}
		}
		if err != nil {
			return err
		}
		if len(x.secrets) > 0 {
			fmt.Fprintf(a.stderr, "Set these before apply: %s\n", strings.Join(x.secrets, ", "))
		}
		return nil
	}
	return cmd
}

// exporter turns what is there into what a file says.
type exporter struct {
	*remote
	scope   string
	secrets []string // names of the environment variables that stand for them
}

// all returns the resources in the order in which they can be made.
func (x *exporter) all(ctx context.Context) ([]any, error) {
	topics, err := x.list(ctx, x.scope+"/providers/Microsoft.EventGrid/topics", pageSize())
	if err != nil {
		return nil, err
	}
	roles, err := x.list(ctx, x.scope+roleDefinitions, url.Values{"$filter": {"type eq 'CustomRole'"}})
	if err != nil {
		return nil, err
	}
	workspaces, err := x.list(ctx, x.scope+"/providers/Microsoft.MachineLearningServices/workspaces", pageSize())
	if err != nil {
		return nil, err
	}
	domains, err := x.list(ctx, x.scope+eventGridDomains, pageSize())
	if err != nil {
		return nil, err
	}
	connections, err := x.list(ctx, x.scope+connectionList, pageSize())
	if err != nil {
		return nil, err
	}
	for _, c := range connections {
		x.hideConnectionSecrets(c)
	}
	resources := connections
	for _, ws := range workspaces {
		servers, err := x.list(ctx, plain(ws["id"])+strings.TrimSuffix(mlflowServer, "/default"), nil)
		if err != nil {
			return nil, err
		}
		for _, server := range servers {
			x.hideFollowedSecret(server, plain(ws["name"]), "mlflow")
		}
		clusters, err := x.list(ctx, plain(ws["id"])+clusterList, nil)
		if err != nil {
			return nil, err
		}
		for _, cluster := range clusters {
			x.hideFollowedSecret(cluster, plain(ws["name"]), "kubernetes", plain(cluster["name"]))
		}
		monitors, err := x.list(ctx, plain(ws["id"])+"/driftMonitors", pageSize())
		if err != nil {
			return nil, err
		}
		resources = slices.Concat(resources, []map[string]any{workspaceForm(ws)}, servers, clusters, monitors)
	}
	resources = slices.Concat(resources, topics, domains)
	var lists []string // of event subscriptions
	for _, source := range slices.Concat(workspaces, topics) {
		lists = append(lists, plain(source["id"])+"/providers/Microsoft.EventGrid/eventSubscriptions")
	}
	for _, domain := range domains {
		inDomain, err := x.list(ctx, plain(domain["id"])+"/topics", pageSize())
		if err != nil {
			return nil, err
		}
		resources = append(resources, inDomain...)
		// One list for all domains of a place: they may have very many topics.
		list := x.scope + "/providers/Microsoft.EventGrid/locations/" + plain(domain["location"]) + "/topicTypes/Microsoft.EventGrid.Domains/eventSubscriptions"
		if !slices.Contains(lists, list) {
			lists = append(lists, list)
		}
	}
	resources = append(resources, roles...)
	for _, list := range lists {
		found, err := x.list(ctx, list, pageSize())
		if err != nil {
			return nil, err
		}
		for _, es := range found {
			if err := x.hideSecrets(ctx, es); err != nil {
				return nil, err
			}
		}
		resources = append(resources, found...)
	}
	for _, kind := range []string{roleAssignments, denyAssignments} {
		assignments, err := x.list(ctx, x.scope+kind, pageSize())
		if err != nil {
			return nil, err
		}
		resources = append(resources, slices.DeleteFunc(assignments, func(r map[string]any) bool { return !x.below(r) })...)
	}
	out := []any{}
	for _, r := range resources {
		out = append(out, declaredForm(r))
	}
	return out, nil
}

// list reads a list as values that can be changed.
func (x *exporter) list(ctx context.Context, path string, query url.Values) ([]map[string]any, error) {
	found, err := x.remote.all(ctx, path, query)
	if err != nil {
		return nil, err
	}
	var out []map[string]any
	for _, raw := range found {
		out = append(out, decoded(raw, ""))
	}
	return out, nil
}

// below keeps assignments at and below the scope: those above it are another's.
func (x *exporter) below(r map[string]any) bool {
	properties, _ := r["properties"].(map[string]any)
	at, _ := properties["scope"].(string)
	return len(at) >= len(x.scope) && strings.EqualFold(at[:len(x.scope)], x.scope) && (len(at) == len(x.scope) || at[len(x.scope)] == '/')
}

// answered are members that the server alone says, by their path.
var answered = []string{
	"name", "type", "etag", "systemData", "kind", "sku", "identity",
	"properties.provisioningState", "properties.endpoint", "properties.metricResourceId", "properties.privateEndpointConnections",
	"properties.topic", "properties.validation", "properties.deliveryState", "properties.pausedTime", "properties.receive", "properties.type",
	"properties.createdOn", "properties.updatedOn", "properties.createdBy", "properties.updatedBy", "properties.isSystemProtected",
	"properties.deliveryLimits.allowedRequestsPerMinute", "properties.destination.properties.endpointBaseUrl",
	"properties.destination.properties.signing.keys",
	"properties.workspaceId", "properties.tenantId", "properties.publicNetworkAccess", // of a workspace
	"properties.host", "properties.keyName", // of a connection
	"properties.authentication", "properties.status", "properties.webhookUrl", // of what a workspace follows
	"properties.dataDriftId", "properties.scheduleState", "properties.scheduleReason", // of a drift monitor
	"properties.destination.properties.clientCertificate.subject", "properties.destination.properties.clientCertificate.issuer",
	"properties.destination.properties.clientCertificate.thumbprint", "properties.destination.properties.clientCertificate.notBefore",
	"properties.destination.properties.clientCertificate.expires",
}

// workspaceForm leaves out what a workspace says though nobody said it.
func workspaceForm(ws map[string]any) map[string]any {
	properties, _ := ws["properties"].(map[string]any)
	for name, unsaid := range map[string]any{"friendlyName": ws["name"], "description": "", "hbiWorkspace": false, "v1LegacyMode": false} {
		if properties[name] == unsaid {
			delete(properties, name)
		}
	}
	return ws
}

// declaredForm leaves out what the server alone says, and what is nothing.
func declaredForm(r map[string]any) map[string]any {
	out, _ := pruned("", r).(map[string]any)
	return out
}

func pruned(path string, value any) any {
	object, ok := value.(map[string]any)
	if !ok {
		return value
	}
	out := map[string]any{}
	for name, inner := range object {
		at := strings.TrimPrefix(path+"."+name, ".")
		if inner == nil || slices.Contains(answered, at) {
			continue
		}
		if kept := pruned(at, inner); kept != nil {
			out[name] = kept
		}
	}
	if len(out) == 0 && path != "" {
		return nil
	}
	return out
}

// hideFollowedSecret puts a reference in the place of the secret that a workspace proves
// itself with to an MLflow server or a Kubernetes cluster.
func (x *exporter) hideFollowedSecret(r map[string]any, of ...string) {
	properties, _ := r["properties"].(map[string]any)
	member := map[any]string{"Basic": "password", "Bearer": "token", "Token": "token", "ClientCertificate": "clientKey"}[properties["authentication"]]
	if member != "" {
		properties[member] = x.reference(append(of, member)...)
	}
}

// hideConnectionSecrets puts references in the place of a connection's secrets: null says
// that there is one.
func (x *exporter) hideConnectionSecrets(r map[string]any) {
	properties, _ := r["properties"].(map[string]any)
	for member, words := range map[string]string{"connectionString": "connection string", "secretAccessKey": "secret access key", "sessionToken": "session token"} {
		if value, there := properties[member]; there && value == nil {
			properties[member] = x.reference(plain(r["name"]), words)
		}
	}
}

// hideSecrets puts references in the place of an event subscription's secrets.
func (x *exporter) hideSecrets(ctx context.Context, r map[string]any) error {
	properties, _ := r["properties"].(map[string]any)
	destination, _ := properties["destination"].(map[string]any)
	webhook, _ := destination["properties"].(map[string]any)
	name, _ := r["name"].(string)
	id, _ := r["id"].(string)
	if destination["endpointType"] == "WebHook" {
		answer, err := x.ask(ctx, http.MethodPost, id+"/getFullUrl", nil, nil)
		base, _ := webhook["endpointBaseUrl"].(string)
		switch full := text(answer, "endpointUrl"); {
		case err != nil && !fault.Is(err, fault.Forbidden):
			return err
		case err == nil && full == base:
			webhook["endpointUrl"] = base
		default:
			webhook["endpointUrl"] = x.reference(name, "endpoint url")
		}
	}
	attributes, _ := webhook["deliveryAttributeMappings"].([]any)
	for _, entry := range attributes {
		attribute, _ := entry.(map[string]any)
		of, _ := attribute["properties"].(map[string]any)
		if of["isSecret"] == true {
			of["value"] = x.reference(name, plain(attribute["name"]))
		}
	}
	for member, within := range map[string]string{"tokenIssuer": "clientSecret", "clientCertificate": "key"} {
		if object, ok := webhook[member].(map[string]any); ok {
			object[within] = x.reference(name, member+" "+within)
		}
	}
	if kind := resource.KindOf(plain(destination["endpointType"])); kind != nil {
		for _, f := range kind.Fields {
			if value, there := webhook[f.Name]; there && value == nil {
				webhook[f.Name] = x.reference(name, f.Name)
			}
		}
	}
	return nil
}

// reference is a reference to an environment variable that is named after what it
// stands for.
func (x *exporter) reference(words ...string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, strings.Join(words, "_"))
	if !slices.Contains(x.secrets, name) {
		x.secrets = append(x.secrets, name)
	}
	return "${env:" + name + "}"
}
