package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// beAz makes this test binary a fake az, which notes in a directory how it was run.
const beAz = "CARILLON_TEST_AZ"

// azRun is one run of it.
type azRun struct {
	Args   []string
	Env    map[string]string
	Status int            // of the token endpoint
	Token  map[string]any // what that answered
	Others map[string]int // statuses of other requests for tokens
}

// fakeAz asks for a token as az does, notes everything and exits as its last argument
// says.
func fakeAz(dir string, args []string) int {
	r := azRun{Args: args, Env: map[string]string{}, Others: map[string]int{}}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		r.Env[name] = value
	}
	ask := func(secret, resource, host string) (int, map[string]any) {
		q, _ := http.NewRequest("GET", r.Env["IDENTITY_ENDPOINT"]+"?api-version=2019-08-01&resource="+resource, nil)
		q.Header.Set("X-IDENTITY-HEADER", secret)
		if host != "" {
			q.Host = host
		}
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 0, nil
		}
		defer func() { _ = resp.Body.Close() }()
		var body map[string]any
		_ = json.NewDecoder(resp.Body).Decode(&body)
		return resp.StatusCode, body
	}
	secret, management := r.Env["IDENTITY_HEADER"], "https://management.azure.com/"
	r.Status, r.Token = ask(secret, management, "")
	r.Others["no secret"], _ = ask("", management, "")
	r.Others["wrong secret"], _ = ask("x"+secret, management, "")
	r.Others["another audience"], _ = ask(secret, "https://graph.microsoft.com", "")
	registered := filepath.Join(r.Env["AZURE_CONFIG_DIR"], "graph")
	if i := slices.Index(args, "--endpoint-active-directory-graph-resource-id"); i >= 0 {
		_ = os.WriteFile(registered, []byte(args[i+1]), 0o600)
	}
	graph, _ := os.ReadFile(registered)
	r.Others["Graph of the cloud"], _ = ask(secret, string(graph)+"/", "")
	r.Others["another host"], _ = ask(secret, management, "evil.example")
	if len(args) > 1 && args[0] == "cloud" && args[1] == "register" {
		_ = os.WriteFile(filepath.Join(r.Env["AZURE_CONFIG_DIR"], "clouds.config"), []byte("[carillon]\n"), 0o600)
	}
	raw, _ := json.Marshal(r)
	entries, _ := os.ReadDir(dir)
	_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.json", len(entries))), raw, 0o600)
	if len(args) > 0 && args[0] == "echo" {
		_, _ = io.Copy(os.Stdout, os.Stdin)
		fmt.Fprintln(os.Stderr, "az says so")
	}
	if slices.Contains(args, "--fail") {
		return 3
	}
	return 0
}

// azRuns puts the fake az on the PATH, and returns what runs were noted since the last
// call.
func azRuns(t *testing.T) func() []azRun {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, notes := t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "az")); err != nil {
		t.Skip("links cannot be made here:", err)
	}
	t.Setenv("PATH", bin)
	t.Setenv(beAz, notes)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	seen := 0
	return func() (runs []azRun) {
		t.Helper()
		files, _ := filepath.Glob(filepath.Join(notes, "*.json"))
		for _, file := range files[seen:] {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var r azRun
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatal(err)
			}
			runs = append(runs, r)
		}
		seen = len(files)
		return runs
	}
}

func TestAz(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	runs := azRuns(t)
	t.Setenv("MSI_ENDPOINT", "http://elsewhere") // would lead az elsewhere
	getenv := func(more map[string]string) func(string) string {
		return func(name string) string { return more[name] }
	}
	az := func(env map[string]string, stdin string, args ...string) (code int, stdout, stderr string) {
		t.Helper()
		var out, err strings.Builder
		code = Run(t.Context(), append([]string{"az"}, args...), strings.NewReader(stdin), &out, &err, getenv(env))
		return code, out.String(), err.String()
	}

	code, stdout, stderr := az(nil, "in", "--data", dir, "echo", "--advanced-filter", "a", "StringIn", "b", "--name=x y", "--enable-af-arr")
	if code != exitDone || stdout != "in" || stderr != "az says so\n" {
		t.Fatalf("exit %d, standard output %q, standard error %q", code, stdout, stderr)
	}
	var said []string
	made := runs()
	for _, r := range made {
		said = append(said, strings.Join(r.Args, " "))
	}
	at := env["CARILLON_URL"]
	want := []string{
		"cloud register --name carillon --endpoint-resource-manager " + at + " --endpoint-active-directory " + at +
			" --endpoint-active-directory-resource-id https://management.azure.com --endpoint-active-directory-graph-resource-id " + at + "/graph --only-show-errors",
		"cloud set --name carillon --only-show-errors",
		"login --identity --allow-no-subscriptions --output none --only-show-errors",
		"echo --advanced-filter a StringIn b --name=x y --enable-af-arr",
	}
	if !slices.Equal(said, want) {
		t.Fatalf("az was run as\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	last := made[3]
	token, _ := last.Token["access_token"].(string)
	if c, err := readClaims(token); err != nil || last.Status != 200 || last.Token["token_type"] != "Bearer" || last.Token["expires_on"] != fmt.Sprint(c.Expires) {
		t.Errorf("the token endpoint answers %d %v", last.Status, last.Token)
	}
	for name, status := range map[string]int{"no secret": 401, "wrong secret": 401, "another audience": 400, "Graph of the cloud": 200, "another host": 401} {
		if last.Others[name] != status {
			t.Errorf("a token with %s: %d, want %d", name, last.Others[name], status)
		}
	}
	config := last.Env["AZURE_CONFIG_DIR"]
	bundle, err := os.ReadFile(last.Env["REQUESTS_CA_BUNDLE"])
	ca, _ := os.ReadFile(env["CARILLON_CA"])
	if err != nil || len(ca) == 0 || !strings.HasSuffix(string(bundle), string(ca)) {
		t.Errorf("the bundle %s does not end with the server's certificate: %v", last.Env["REQUESTS_CA_BUNDLE"], err)
	}
	for name, value := range map[string]string{"MSI_ENDPOINT": "", "CARILLON_TOKEN": "", "AZURE_CORE_INSTANCE_DISCOVERY": "false", "AZURE_CORE_COLLECT_TELEMETRY": "0", "NO_PROXY": "127.0.0.1,localhost"} {
		if last.Env[name] != value {
			t.Errorf("az has %s=%q, want %q", name, last.Env[name], value)
		}
	}
	if info, err := os.Stat(config); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("az's configuration: %v %v", info, err)
	}
	_ = filepath.WalkDir(config, func(path string, _ os.DirEntry, _ error) error {
		if raw, err := os.ReadFile(path); err == nil && strings.Contains(string(raw), token) {
			t.Errorf("%s holds the token", path)
		}
		return nil
	})

	// Once set up, az is run alone, and its exit code is ours.
	if code, _, stderr := az(env, "", "group", "list", "--fail"); code != 3 || stderr != "" {
		t.Errorf("az ended with 3, carillon with %d %q", code, stderr)
	}
	made = runs()
	if len(made) != 1 || made[0].Token["access_token"] != env["CARILLON_TOKEN"] || made[0].Env["AZURE_CONFIG_DIR"] != config {
		t.Errorf("with the environment of carillon env: %+v", made)
	}

	// Somebody else signs in, in the same place.
	code, out, errs := run(t, env, "principal", "create", "worker", "-o", "json")
	if code != exitDone {
		t.Fatal(errs)
	}
	other := map[string]string{"CARILLON_URL": at, "CARILLON_CA": env["CARILLON_CA"], "CARILLON_TOKEN": tokenOf(t, env, out)}
	if code, _, stderr := az(other, "", "group", "list"); code != exitDone {
		t.Fatal(stderr)
	}
	if made = runs(); len(made) != 2 || made[0].Args[0] != "login" || made[1].Token["access_token"] != other["CARILLON_TOKEN"] {
		t.Errorf("as somebody else: %+v", made)
	}

	// A set-up that was cut short is done again.
	if err := os.Remove(filepath.Join(config, "carillon.json")); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := az(env, "", "group", "list"); code != exitDone {
		t.Fatal(stderr)
	}
	if made = runs(); len(made) != 4 || made[0].Args[1] != "update" {
		t.Errorf("after a set-up that was cut short: %+v", made)
	}
}

func TestAzRefuses(t *testing.T) {
	runs := azRuns(t)
	for _, test := range []struct {
		name string
		env  map[string]string
		args []string
		code int
		says string
	}{
		{"help", nil, []string{"--help"}, exitDone, "Run the real az"},
		{"a flag without a value", nil, []string{"--data"}, exitUsage, "--data needs a value"},
		{"no server", nil, []string{"group", "list"}, exitFailed, "No server is named"},
		{"no directory of a server", nil, []string{"--data=/nowhere", "group", "list"}, exitFailed, "/nowhere"},
		{"clear http", map[string]string{"CARILLON_URL": "http://127.0.0.1:1", "CARILLON_TOKEN": "e30.eyJvaWQiOiJhIn0.x"}, []string{"group", "list"}, exitFailed, "az speaks https only"},
		{"no token", map[string]string{"CARILLON_URL": "https://127.0.0.1:1", "CARILLON_TOKEN": "s3cret"}, []string{"group", "list"}, exitFailed, "is not one of a server"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := run(t, test.env, append([]string{"az"}, test.args...)...)
			if code != test.code || !strings.Contains(stdout+stderr, test.says) || strings.Contains(stdout+stderr, "s3cret") {
				t.Errorf("exit %d, %q %q; want %d and %q", code, stdout, stderr, test.code, test.says)
			}
		})
	}
	if made := runs(); len(made) != 0 {
		t.Errorf("az was run: %+v", made)
	}
	t.Setenv("PATH", t.TempDir())
	if code, _, stderr := run(t, nil, "az", "group", "list"); code != exitFailed || !strings.Contains(stderr, "he Azure CLI is not on the PATH") {
		t.Errorf("without az: %d %q", code, stderr)
	}
}

// tokenOf signs a new principal in.
func tokenOf(t *testing.T, env map[string]string, principal string) string {
	t.Helper()
	var p struct{ AppID, Password, Tenant string }
	if err := json.Unmarshal([]byte(principal), &p); err != nil {
		t.Fatal(err)
	}
	roots, err := trust(env["CARILLON_CA"])
	if err != nil {
		t.Fatal(err)
	}
	return signIn(t, roots, env["CARILLON_URL"]+"/"+p.Tenant+"/oauth2/v2.0/token", p.AppID, p.Password)
}

func signIn(t *testing.T, roots *x509.CertPool, where, id, password string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := client.PostForm(where, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {password}, "scope": {"https://management.azure.com/.default"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("%d: %v", resp.StatusCode, err)
	}
	return answer.Token
}
