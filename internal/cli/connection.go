package cli

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/spf13/cobra"
)

// What a client command assumes when neither a flag nor the environment says
// otherwise: what a server makes at its first start.
const (
	defaultSubscription = "00000000-0000-0000-0000-000000000001"
	defaultGroup        = "local"
	defaultWorkspace    = "default"
)

// client adds the flags that name a server, a scope and an output to a command
// and all below it.
func (a *app) client(cmd *cobra.Command) *cobra.Command {
	f := cmd.PersistentFlags()
	f.StringVar(&a.data, "data", "", "Data directory of a server that runs on this machine; instead of CARILLON_URL, _TOKEN and _CA.")
	f.StringVar(&a.url, "url", "", "Address of the server (CARILLON_URL).")
	f.StringVar(&a.subscription, "subscription", "", "Subscription id (CARILLON_SUBSCRIPTION, or the one made at first start).")
	f.StringVarP(&a.group, "resource-group", "g", "", `Resource group (CARILLON_RESOURCE_GROUP, or "local").`)
	f.StringVarP(&a.workspace, "workspace", "w", "", `Workspace, by name or full id (CARILLON_WORKSPACE, or "default").`)
	f.StringVarP(&a.output, "output", "o", "table", "Output: table or json.")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func (a *app) subscriptionID() string {
	return "/subscriptions/" + firstOf(a.subscription, a.getenv("CARILLON_SUBSCRIPTION"), defaultSubscription)
}

func (a *app) groupID() string {
	return a.subscriptionID() + "/resourceGroups/" + firstOf(a.group, a.getenv("CARILLON_RESOURCE_GROUP"), defaultGroup)
}

// workspaceID is the workspace the command is about.
func (a *app) workspaceID() string {
	return a.workspaceNamed(firstOf(a.workspace, a.getenv("CARILLON_WORKSPACE"), defaultWorkspace))
}

func (a *app) workspaceNamed(name string) string {
	if strings.HasPrefix(name, "/") {
		return strings.TrimRight(name, "/")
	}
	return a.groupID() + "/providers/Microsoft.MachineLearningServices/workspaces/" + name
}

func (a *app) topicID(name string) string { return a.eventGrid("topics", name) }

func (a *app) domainID(name string) string { return a.eventGrid("domains", name) }

func (a *app) domainTopicID(domain, name string) string {
	return a.domainID(domain) + "/topics/" + name
}

func (a *app) systemTopicID(name string) string { return a.eventGrid("systemTopics", name) }

func (a *app) eventGrid(kind, name string) string {
	if strings.HasPrefix(name, "/") {
		return strings.TrimRight(name, "/")
	}
	return a.groupID() + "/providers/Microsoft.EventGrid/" + kind + "/" + name
}

// remote is a server as the client commands know it.
type remote struct {
	*arm.Client
}

// knownOutput refuses an --output that is none.
func (a *app) knownOutput() error {
	switch a.output {
	case "table", "json":
		return nil
	default:
		return &usageError{message: fmt.Sprintf("--output %q is not known. Use table or json.", a.output), command: "carillon"}
	}
}

// connect finds the server: --url or --data, then the environment.
func (a *app) connect() (*remote, error) {
	if err := a.knownOutput(); err != nil {
		return nil, err
	}
	at, err := a.address()
	if err != nil {
		return nil, err
	}
	roots, err := trust(at.ca)
	if err != nil {
		return nil, err
	}
	return &remote{arm.NewClient(at.url, at.token, roots)}, nil
}

// address is where a server is and how one gets in.
type address struct {
	url   string
	token string
	ca    string // path of a PEM file, "" = the system's certificates
}

func (a *app) address() (address, error) {
	fromEnv := address{url: firstOf(a.url, a.getenv("CARILLON_URL")), token: a.getenv("CARILLON_TOKEN"), ca: a.getenv("CARILLON_CA")}
	dir := a.data
	if dir == "" && fromEnv.url == "" {
		dir = a.getenv("CARILLON_DATA")
	}
	if dir != "" {
		at, err := localAddress(dir, defaultTokenLife)
		if err == nil && a.url != "" {
			at.url = a.url
		}
		return at, err
	}
	if fromEnv.url == "" {
		return address{}, fault.New(fault.Invalid, "", `No server is named. Run eval "$(carillon env --data DIR)" first, or give --data DIR.`)
	}
	if fromEnv.token == "" {
		return address{}, fault.New(fault.Unauthenticated, "", "CARILLON_URL is set but CARILLON_TOKEN is not.")
	}
	return fromEnv, nil
}

// trust reads the certificates of a PEM file beside those of the system.
func trust(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the certificates of CARILLON_CA: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CARILLON_CA names %s, which holds no certificate in PEM form", path)
	}
	return pool, nil
}

// get reads a resource.
func (s *remote) get(ctx context.Context, path string) (json.RawMessage, error) {
	return s.ask(ctx, http.MethodGet, path, nil, nil)
}

// ask makes one request and returns the answer's body.
func (s *remote) ask(ctx context.Context, method, path string, body any, header http.Header) (json.RawMessage, error) {
	var out json.RawMessage
	_, err := s.Do(ctx, method, path, nil, body, &out, header)
	return out, err
}

// all reads every page of a list.
func (s *remote) all(ctx context.Context, path string, query url.Values) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	for entry, err := range s.List(ctx, path, query) {
		if err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

// pageSize is how many entries a list asks for at a time, as az does.
func pageSize() url.Values { return url.Values{"$top": {"100"}} }

// create is the header of a PUT that must not replace anything.
func create() http.Header { return http.Header{"If-None-Match": {"*"}} }

// ifMatch is the header of a change that holds for one etag only; nil for none.
func ifMatch(etag string) http.Header {
	if etag == "" {
		return nil
	}
	if etag != "*" && !strings.HasPrefix(etag, `"`) {
		etag = `"` + etag + `"`
	}
	return http.Header{"If-Match": {etag}}
}

// offered is the path of a list that flags decide on; "" while they name none.
func offered(list func() (string, error)) func() string {
	return func() string {
		path, err := list()
		if err != nil {
			return ""
		}
		return path
	}
}

// completeNames offers the names of a list to the shell. A server that does not
// answer at once offers nothing.
func (a *app) completeNames(path func() string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		list := path()
		if len(args) > 0 || list == "" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		s, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for entry, err := range s.List(ctx, list, pageSize()) {
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names = append(names, text(entry, "name"))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// complete lets the shell complete names of a list, as argument and as --name.
func (a *app) complete(cmd *cobra.Command, path func() string) {
	names := a.completeNames(path)
	cmd.ValidArgsFunction = names
	_ = cmd.RegisterFlagCompletionFunc("name", names)
}
