package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/server"
)

func run(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = Run(t.Context(), args, strings.NewReader(""), &out, &err, func(k string) string { return env[k] })
	return code, out.String(), err.String()
}

func TestEveryCommandHelpsWithAnExample(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		if cmd.Short == "" || !strings.Contains(cmd.Example, "carillon") {
			t.Errorf("%s has no description or no example", cmd.CommandPath())
		}
		if cmd.RunE == nil || cmd.Args == nil {
			t.Errorf("%s does not check its arguments", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "carillon ") {
				checkExample(t, line)
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}
	walk(a.root())
}

// checkExample parses an example without running it: its command and all its
// flags must exist.
func checkExample(t *testing.T, line string) {
	line, _, _ = strings.Cut(line, " #")
	words, err := splitWords(strings.TrimSuffix(strings.TrimSuffix(line, `\`), "&"))
	if err != nil {
		t.Errorf("example %q: %v", line, err)
		return
	}
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}
	cmd, rest, err := a.root().Find(joinValues(words[1:]))
	if err != nil || cmd.HasSubCommands() && !cmd.LocalNonPersistentFlags().HasFlags() { // a group that compares, too, has flags
		t.Errorf("example %q names no command", line)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("example %q: %v", line, err)
	}
}

func TestJoinValues(t *testing.T) {
	const s = wordSeparator
	for _, test := range []struct{ name, in, want string }{
		{"several words", "--tags a=1 b=2 -n x", "--tags=a=1" + s + "b=2 -n x"},
		{"no words", "--labels --name x", "--labels="},
		{"at the end", "-n x --labels", "-n x --labels="},
		{"negative numbers", "--advanced-filter k NumberIn -1 -.5 --tags a", "--advanced-filter=k" + s + "NumberIn" + s + "-1" + s + "-.5 --tags=a"},
		{"repeated", "--advanced-filter a IsNotNull --advanced-filter b IsNotNull", "--advanced-filter=a" + s + "IsNotNull --advanced-filter=b" + s + "IsNotNull"},
		{"with equals", "--tags=a=1 b", "--tags=a=1 b"},
		{"after two dashes", "-- --tags a b", "-- --tags a b"},
		{"switch with a value", "--subject-case-sensitive TRUE x", "--subject-case-sensitive=true x"},
		{"switch without", "--subject-case-sensitive --name x", "--subject-case-sensitive --name x"},
		{"switch with what is neither", "--subject-case-sensitive Yes", "--subject-case-sensitive=yes"},
		{"switch before a name", "--include-full-endpoint-url failed-runs", "--include-full-endpoint-url failed-runs"},
		{"az's short name", "--enable-af-arr true --enable-af-arr=false", "--enable-advanced-filtering-on-arrays=true --enable-advanced-filtering-on-arrays=false"},
		{"completion", "__complete topic --tags a b", "__complete topic --tags a" + s + "b"},
		{"completion of a flag", "__complete topic --tags a --na", "__complete topic --tags=a --na"},
		{"completion behind another flag", "__complete es --advanced-filter k IsNotNull --name x", "__complete es --advanced-filter=k" + s + "IsNotNull --name x"},
		{"completion of a negative number", "__complete es --advanced-filter k NumberIn -1", "__complete es --advanced-filter k" + s + "NumberIn" + s + "-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := strings.Join(joinValues(strings.Fields(test.in)), " ")
			want := test.want
			if test.name == "no words" {
				want += " --name x"
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// dataDirectory makes what a server leaves behind for commands on its machine.
func dataDirectory(t *testing.T, url string) string {
	t.Helper()
	dir := t.TempDir()
	owner, err := json.Marshal(access.Owner{TenantID: "7a000000-0000-4000-8000-000000000001", ObjectID: "7a000000-0000-4000-8000-000000000002",
		AppID: "7a000000-0000-4000-8000-000000000003", Name: "owner", URL: url})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(access.OwnerPath(dir), owner, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(access.SigningKeyPath(dir)), 0o700); err != nil {
		t.Fatal(err)
	}
	master, err := secret.LoadOrCreateKey(secret.Source{}.In(dir).Kept)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := access.OpenKeyRing(dir, secret.NewSealer(master)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTokenAndEnv(t *testing.T) {
	dir := dataDirectory(t, "https://localhost:7443")
	code, token, stderr := run(t, nil, "token", "--data", dir, "--ttl", "10m")
	if code != exitDone || strings.Count(token, ".") != 2 || strings.Count(token, "\n") != 1 {
		t.Errorf("token: %d %q %q", code, token, stderr)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, env, stderr := run(t, map[string]string{"CARILLON_DATA": dir}, "env")
	lines := strings.Split(strings.TrimSpace(env), "\n")
	if code != exitDone || len(lines) != 3 || lines[0] != "export CARILLON_URL='https://localhost:7443'" ||
		!strings.HasPrefix(lines[1], "export CARILLON_TOKEN='ey") || lines[2] != "export CARILLON_CA='"+dir+"/ca.pem'" {
		t.Errorf("env: %d %q %q", code, env, stderr)
	}
	if code, _, stderr := run(t, nil, "token", "--data", t.TempDir()); code != exitFailed || !strings.Contains(stderr, "carillon serve --data") {
		t.Errorf("token of an empty directory: %d %q, want 1 and the remedy", code, stderr)
	}
	if code, _, stderr := run(t, nil, "token", "--data", dir, "--master-key-file", "a", "--master-key-env", "B"); code != exitUsage || !strings.Contains(stderr, "exclude each other") {
		t.Errorf("two master keys: %d %q", code, stderr)
	}
	if code, stdout, stderr := run(t, nil, "token", "--data", dir, "--master-key-env", "MASTER_NOT_SET"); code != exitFailed || stdout != "" || !strings.Contains(stderr, "as the server was given") {
		t.Errorf("no master key: %d %q", code, stderr)
	}
	if code, _, stderr := run(t, nil, "env", "--data", dataDirectory(t, "")); code != exitFailed || !strings.Contains(stderr, "No server has taken traffic") {
		t.Errorf("env without a server: %d %q", code, stderr)
	}
}

func TestDataNamesTheServer(t *testing.T) {
	var authorization string
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		_, _ = w.Write([]byte(`{"value":[]}`))
	}))
	defer fake.Close()
	code, stdout, stderr := run(t, nil, "topic", "list", "-o", "json", "--data", dataDirectory(t, fake.URL))
	if code != exitDone || stdout != "[]\n" || !strings.HasPrefix(authorization, "Bearer ey") {
		t.Errorf("%d %q %q, authorization %.12q", code, stdout, stderr, authorization)
	}
}

func TestNoServerSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"nothing is set", nil, `eval "$(carillon env --data DIR)"`},
		{"no token", map[string]string{"CARILLON_URL": "http://127.0.0.1:1"}, "CARILLON_TOKEN is not"},
		{"nobody answers", map[string]string{"CARILLON_URL": "http://127.0.0.1:1", "CARILLON_TOKEN": "t"}, "carillon serve --data DIR"},
		{"no such certificate", map[string]string{"CARILLON_URL": "http://127.0.0.1:1", "CARILLON_TOKEN": "t", "CARILLON_CA": "/nowhere.pem"}, "CARILLON_CA"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := run(t, test.env, "topic", "list")
			if code != exitFailed || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("%d %q %q, want 1 and %q", code, stdout, stderr, test.want)
			}
		})
	}
}

func TestEnvironmentNamesTheScope(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"defaults", nil, nil, "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default"},
		{"environment", map[string]string{"CARILLON_SUBSCRIPTION": "s", "CARILLON_RESOURCE_GROUP": "g", "CARILLON_WORKSPACE": "w"}, nil,
			"/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"},
		{"flags win", map[string]string{"CARILLON_SUBSCRIPTION": "s", "CARILLON_RESOURCE_GROUP": "g", "CARILLON_WORKSPACE": "w"},
			[]string{"--subscription", "s2", "-g", "g2", "-w", "w2"}, "/subscriptions/s2/resourceGroups/g2/providers/Microsoft.MachineLearningServices/workspaces/w2"},
		{"full id", map[string]string{"CARILLON_WORKSPACE": "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"}, nil,
			"/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var path string
			fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				path = r.URL.Path
				_, _ = w.Write([]byte(`{"value":[]}`))
			}))
			defer fake.Close()
			env := map[string]string{"CARILLON_URL": fake.URL, "CARILLON_TOKEN": "t"}
			for k, v := range test.env {
				env[k] = v
			}
			if code, _, stderr := run(t, env, append([]string{"endpoint", "list"}, test.args...)...); code != exitDone {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			if path != test.want+"/onlineEndpoints" {
				t.Errorf("asked %s, want %s/onlineEndpoints", path, test.want)
			}
		})
	}
}

func TestCompletionOffersNames(t *testing.T) {
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"value":[{"name":"orders"},{"name":"clicks"}]}`))
	}))
	defer fake.Close()
	env := map[string]string{"CARILLON_URL": fake.URL, "CARILLON_TOKEN": "t"}
	for _, args := range [][]string{
		{"topic", "show", ""}, {"topic", "show", "--name", ""}, {"es", "delete", "-n", ""}, {"event", "publish", "--topic", ""},
		{"system-topic", "event-subscription", "list", "--system-topic-name", ""}, {"drift", "run", "list", "--monitor", ""},
		{"topic-type", "list-event-types", "--name", ""}, {"topic-type", "show", ""},
	} {
		_, stdout, _ := run(t, env, append([]string{"__completeNoDesc"}, args...)...)
		if !strings.HasPrefix(stdout, "orders\nclicks\n") {
			t.Errorf("completion of %q offers %q", args, stdout)
		}
	}
	_, stdout, _ := run(t, nil, "__completeNoDesc", "topic", "show", "")
	if got := strings.Split(stdout, "\n")[0]; got != ":4" {
		t.Errorf("completion without a server offers %q", stdout)
	}
	if code, stdout, _ := run(t, nil, "completion", "bash"); code != exitDone || !strings.Contains(stdout, "carillon") {
		t.Errorf("completion script: %d", code)
	}
}

// TestDeleteAsks: a person at a terminal is asked before something is deleted, and nobody
// else is.
func TestDeleteAsks(t *testing.T) {
	was := atTerminal
	defer func() { atTerminal = was }()
	var deleted int
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			deleted++
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = w.Write([]byte(`{"value":[{"name":"0b5d","id":"/x/0b5d","properties":{"displayName":"ci","scope":"/subscriptions/s"}}]}`))
	}))
	defer fake.Close()
	env := map[string]string{"CARILLON_URL": fake.URL, "CARILLON_TOKEN": "t", "CARILLON_SUBSCRIPTION": "s"}
	for _, line := range []string{
		"workspace delete w1", "topic delete t1", "es delete es1", "model delete m --version 1", "deadletter delete 0123", "principal delete ci",
		"role assignment delete --ids /subscriptions/s/providers/Microsoft.Authorization/roleAssignments/a",
	} {
		for _, test := range []struct {
			terminal    bool
			flag, typed string
			gone        bool
		}{
			{true, "", "y\n", true}, {true, "", "YES\n", true}, {true, "", "n\n", false}, {true, "", "\n", false}, {true, "", "", false}, {true, "", "yesterday\n", false},
			{true, " --yes", "", true}, {false, "", "", true}, {false, " -y", "", true},
		} {
			atTerminal = func(io.Reader, io.Writer) bool { return test.terminal }
			deleted = 0
			var stdout, stderr strings.Builder
			code := Run(t.Context(), strings.Fields(line+test.flag), strings.NewReader(test.typed), &stdout, &stderr, func(k string) string { return env[k] })
			asked := strings.Contains(stderr.String(), "? [y/N] ")
			if (deleted == 1) != test.gone || (code == exitDone) != test.gone || asked != (test.terminal && test.flag == "") {
				t.Errorf("%s%s, typed %q: %d deleted, exit %d, %s%s", line, test.flag, test.typed, deleted, code, stdout.String(), stderr.String())
			}
		}
	}
}

// TestCompletionAsksTheSource: names of event subscriptions are those of the source that
// the line names so far.
func TestCompletionAsksTheSource(t *testing.T) {
	const topic = "/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/orders"
	const group = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/"
	var asked string
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		_, _ = w.Write([]byte(`{"value":[{"name":"es1"}]}`))
	}))
	defer fake.Close()
	env := map[string]string{"CARILLON_URL": fake.URL, "CARILLON_TOKEN": "t"}
	for _, test := range []struct {
		line, asks string // "" = nothing
	}{
		{"es show", group + "Microsoft.MachineLearningServices/workspaces/default" + eventSubscriptions},
		{"es show --source-resource-id " + topic, topic + eventSubscriptions},
		{"es delete --source-resource-id " + topic + " --name", topic + eventSubscriptions},
		{"es attempts --source-resource-id " + topic, topic + eventSubscriptions},
		{"es show --source-resource-id orders", ""},
		{"topic es show --topic-name orders", group + "Microsoft.EventGrid/topics/orders/eventSubscriptions"},
		{"topic es show", ""},
		{"event explain --topic orders --event-subscription", group + "Microsoft.EventGrid/topics/orders" + eventSubscriptions},
		{"event replay --source-resource-id " + topic + " --event-subscription", topic + eventSubscriptions},
		{"deadletter list --source-resource-id " + topic + " --event-subscription", topic + eventSubscriptions},
	} {
		asked = ""
		args := append(append([]string{"__completeNoDesc"}, strings.Fields(test.line)...), "")
		_, stdout, _ := run(t, env, args...)
		if asked != test.asks || strings.HasPrefix(stdout, "es1\n") != (test.asks != "") {
			t.Errorf("%s: asked %q and offers %q, want %q", test.line, asked, stdout, test.asks)
		}
	}
}

func TestCompletionOfFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		line []string
		want string // the offers and the directive
	}{
		{"attributes", []string{"es", "create", "--advanced-filter", "event"}, "eventType eventTime :4"},
		{"members in any case", []string{"es", "update", "-n", "x", "--advanced-filter", "DATA.DRIFT"}, "data.driftCoefficient data.driftDetected data.driftDetails :4"},
		{"a table wants a name", []string{"topic", "event-subscription", "create", "--advanced-filter", "data.modelT"}, "data.modelTags. :6"},
		{"operators", []string{"system-topic", "event-subscription", "update", "--advanced-filter", "data.x", "numbernot"}, "NumberNotIn NumberNotInRange :4"},
		{"operators of the second", []string{"es", "create", "--advanced-filter", "id", "IsNotNull", "--advanced-filter", "data.x", "Is"}, "IsNullOrUndefined IsNotNull :4"},
		{"booleans", []string{"es", "create", "--advanced-filter", "data.x", "boolequals", ""}, "true false :4"},
		{"statuses", []string{"es", "create", "--advanced-filter", "data.runStatus", "StringIn", "Failed", "Cancel"}, "CancelRequested Canceled :4"},
		{"kinds of destination", []string{"es", "create", "--endpoint-type", ""}, strings.Join(endpointTypes(), " ") + " :4"},
		{"values of one's own", []string{"es", "create", "--advanced-filter", "data.x", "StringIn", ""}, ":4"},
		{"the second event type", []string{"es", "create", "--included-event-types", machineLearningEventTypes[0], ""}, strings.Join(eventTypesToName(), " ") + " :4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, stdout, _ := run(t, nil, append([]string{"__completeNoDesc"}, test.line...)...)
			if got := strings.Join(strings.Fields(stdout), " "); got != test.want {
				t.Errorf("offers %q, want %q", got, test.want)
			}
		})
	}
}

func TestServePrintsOneLineAndEndsWithItsContext(t *testing.T) {
	before := runServer
	defer func() { runServer = before }()
	var got server.Config
	runServer = func(ctx context.Context, cfg server.Config, ready func(server.Ready)) error {
		got = cfg
		ready(server.Ready{URL: "https://127.0.0.1:7443", CAFingerprint: "ab12"})
		return nil
	}
	code, stdout, stderr := run(t, nil, "serve", "--data", "d", "--listen", "127.0.0.1:0", "--durability", "PROCESS", "--allow-destination", "10.0.0.0/8",
		"--allow-destination", "fd00::/8", "--insecure-http", "--workspace-rule", "actions", "--log-level", "debug", "--log-quota", "1GiB", "--memory", "64MiB",
		"--retention", "24h", "--public-url", "https://carillon.example", "--metrics-event-subscriptions", "10", "--webhook-404", "DeadLetter", "--dataschema=false")
	if code != exitDone || stdout != "ready url=https://127.0.0.1:7443 ca-sha256=ab12\n" || stderr != "" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	got.LogOutput = nil
	want := server.DefaultConfig()
	want.Data, want.Listen, want.PublicURL, want.Durability = "d", []string{"127.0.0.1:0"}, "https://carillon.example", engine.DurabilityProcess
	want.LogQuota, want.Memory, want.Retention, want.AllowDestination = 1<<30, 64<<20, 24*time.Hour, []string{"10.0.0.0/8", "fd00::/8"}
	want.MetricsEventSubscriptions, want.DeadLetter404, want.DataSchema = 10, true, false
	want.InsecureHTTP, want.WorkspaceRule, want.LogLevel = true, access.Actions, slog.LevelDebug
	if !reflect.DeepEqual(got, want) {
		t.Errorf("configuration\n got %+v\nwant %+v", got, want)
	}
	if code, _, stderr := run(t, nil, "serve", "--data", "d"); code != exitDone || stderr != "" {
		t.Errorf("the defaults are refused: %d %q", code, stderr)
	}
	runServer = func(context.Context, server.Config, func(server.Ready)) error {
		return errors.New("data directory d is in use")
	}
	if code, stdout, stderr := run(t, nil, "serve", "--data", "d"); code != exitFailed || stdout != "" || stderr != "error: Data directory d is in use.\n" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

func TestSize(t *testing.T) {
	for _, test := range []struct {
		text, shown string
		bytes       int64
	}{
		{"1024", "1KiB", 1 << 10}, {"256MiB", "256MiB", 256 << 20}, {"1.5 GiB", "1536MiB", 3 << 29}, {"10GB", "9765625KiB", 1e10}, {"7b", "7", 7},
		{"", "", -1}, {"-1", "", -1}, {"1EiB", "", -1}, {"NaN", "", -1}, {"Inf", "", -1}, {"1e300TiB", "", -1},
	} {
		var s size
		err := s.Set(test.text)
		if test.bytes < 0 {
			if err == nil {
				t.Errorf("%q was read as %d", test.text, int64(s))
			}
			continue
		}
		if err != nil || int64(s) != test.bytes || s.String() != test.shown {
			t.Errorf("%q is %d, shown as %q, %v; want %d and %q", test.text, int64(s), s.String(), err, test.bytes, test.shown)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, stdout, _ := run(t, nil, "version"); code != exitDone || !strings.HasPrefix(stdout, "carillon ") || !strings.Contains(stdout, "go1.") {
		t.Errorf("%d %q", code, stdout)
	}
}

func TestNewRunID(t *testing.T) {
	got := newRunID("churn", time.Unix(1760000000, 0))
	if !strings.HasPrefix(got, "churn_1760000000_") || len(got) != len("churn_1760000000_9af31c22") || got == newRunID("churn", time.Unix(1760000000, 0)) {
		t.Errorf("run id %q", got)
	}
}

func TestFollowShowsEventsUntilTheLimit(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}
	stream := `{"event":{"id":"1","metadataVersion":"1","eventType":"A","data":{"x":1}},"publishTime":"2026-03-01T10:00:00Z"}` + "\n\n" +
		`{"event":{"id":"2","metadataVersion":"1","eventType":"B"},"publishTime":"2026-03-01T10:00:00Z"}` + "\n" +
		`{"event":{"id":"3","metadataVersion":"1","eventType":"a"},"publishTime":"2026-03-01T10:00:00Z"}` + "\n"
	if err := a.follow(t.Context(), strings.NewReader(stream), []string{"a"}, 2); err != nil {
		t.Fatal(err)
	}
	if shown := out.String(); !strings.Contains(shown, "id       1") || strings.Contains(shown, "id       2") || !strings.Contains(shown, "id       3") {
		t.Errorf("shown:\n%s", shown)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.follow(ended, strings.NewReader(""), nil, 0); err != nil {
		t.Errorf("ending it oneself is an error: %v", err)
	}
	if err := a.follow(t.Context(), strings.NewReader("no json\n"), nil, 0); err == nil {
		t.Error("a broken stream is no error")
	}
}
