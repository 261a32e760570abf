package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const manifestFile = `# what the team has
id: {topic}
location: local
tags: {team: ml}
properties:
  duplicateDetectionWindowInMinutes: 10
---
resources:
  - type: Microsoft.Authorization/roleAssignments
    properties:
      scope: {topic}
      roleDefinitionId: /providers/Microsoft.Authorization/roleDefinitions/0a000000-0000-4000-8000-000000000001
      principalId: c1000000-0000-4000-8000-000000000000
      principalType: User
  - id: {topic}/providers/Microsoft.EventGrid/eventSubscriptions/es1
    properties:
      destination:
        endpointType: webhook
        properties:
          endpointUrl: "{url}?code=${env:HOOK_CODE}"
          deliveryAttributeMappings:
            - {name: X-Key, type: Static, properties: {value: "${env:HOOK_KEY}", isSecret: true}}
      filter: {subjectBeginsWith: orders/}
      retryPolicy: {maxDeliveryAttempts: 5, eventTimeToLiveInMinutes: 60}
  - type: Microsoft.Authorization/denyAssignments
    properties:
      scope: {topic}
      denyAssignmentName: No deleting
      permissions: [{actions: [Microsoft.EventGrid/topics/delete], notActions: []}]
      principals: [{id: C2000000-0000-4000-8000-000000000000, type: User}]
  - id: {topic}/providers/Microsoft.EventGrid/eventSubscriptions/inbox
    properties: {destination: {endpointType: Pull, properties: {receiveLockDurationInSeconds: 120}}}
  - id: {sub}/providers/Microsoft.Authorization/roleDefinitions/0a000000-0000-4000-8000-000000000001
    properties:
      roleName: Topic Reader
      assignableScopes: ["{sub}"]
      permissions:
        - actions: [Microsoft.EventGrid/topics/read]
`

// onFile returns what writes a file, and what runs commands on it, by the name FILE: they
// have to end with a code, say some texts, and show no secret.
func onFile(t *testing.T, env map[string]string) (write func(text string), does func(line string, code int, want ...string) (stdout string)) {
	file := filepath.Join(t.TempDir(), "team.yaml")
	write = func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	does = func(line string, code int, want ...string) string {
		t.Helper()
		got, stdout, stderr := run(t, env, strings.Fields(strings.ReplaceAll(line, "FILE", file))...)
		if got != code {
			t.Fatalf("%s: exit code %d, want %d\n%s%s", line, got, code, stdout, stderr)
		}
		for _, text := range want {
			if !strings.Contains(stdout+stderr, text) {
				t.Errorf("%s: no %q in\n%s%s", line, text, stdout, stderr)
			}
		}
		if strings.Contains(stdout+stderr, "s3cret") {
			t.Errorf("%s shows a secret:\n%s%s", line, stdout, stderr)
		}
		return stdout
	}
	return write, does
}

// A file is applied once, differs in nothing afterwards, and what is exported from the
// server is the same again.
func TestApplyAgainstAServer(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	const sub = "/subscriptions/" + defaultSubscription
	const topic = sub + "/resourceGroups/local/providers/Microsoft.EventGrid/topics/orders"
	url, _, stop := startListen(t, env, "--subscribe", "everything", "-o", "json")
	defer stop()
	writeAsIs, does := onFile(t, env)
	write := func(text string) {
		t.Helper()
		writeAsIs(strings.NewReplacer("{topic}", topic, "{sub}", sub, "{url}", url).Replace(text))
	}
	write(manifestFile)
	does("diff -f FILE", exitDiffFailed, "HOOK_KEY, which is not set")
	env["HOOK_CODE"], env["HOOK_KEY"] = "s3cret-code", "s3cret-key"
	does("diff -f FILE", 1, "+ "+topic+" would be created")
	does("apply -f FILE --dry-run", 0, "+ "+topic+" would be created")
	does("topic show orders", 1, "ResourceNotFound")
	made := does("apply -f FILE", 0, "created", "endpointUrl: \"(secret)\"")
	at := -1
	for _, name := range []string{"/topics/orders created", "/roleDefinitions/", "/eventSubscriptions/es1 created", "/roleAssignments/", "/denyAssignments/"} {
		next := strings.Index(made, name)
		if next <= at {
			t.Errorf("%s is not where it should be in\n%s", name, made)
		}
		at = next
	}
	does("diff -f FILE", 0)
	if again := does("apply -f FILE", 0); strings.Contains(again, "created") || strings.Contains(again, "changed\n") && !strings.Contains(again, "unchanged") {
		t.Errorf("applied again:\n%s", again)
	}
	does("es update es1 --source-resource-id "+topic+" --labels kept --event-ttl 60", 0)
	write(strings.Replace(strings.Replace(manifestFile, "team: ml", "team: ops", 1), "maxDeliveryAttempts: 5", "maxDeliveryAttempts: 6", 1))
	does("diff -f FILE", 1, `tags.team: "ml" → "ops"`, "properties.retryPolicy.maxDeliveryAttempts: 5 → 6")
	does("apply -f FILE", 0, "~ "+topic+" changed")
	does("diff -f FILE", 0)
	does("es show es1 --source-resource-id "+topic, 0, "kept", "orders/")
	does("role deny-assignment list --scope "+topic, 0, "No deleting")
	write(strings.Replace(manifestFile, "topics/delete], notActions", "*], notActions", 1))
	does("apply -f FILE", 0, "properties.permissions: ")
	does("diff -f FILE", 0)
	env["HOOK_KEY"] = "s3cret-other"
	does("diff -f FILE", 1, "deliveryAttributeMappings")
	does("apply -f FILE", 0)
	does("diff -f FILE -o json", 0, `"action": "unchanged"`)

	exported := does("export", 0, "Set these before apply: ES1_ENDPOINT_URL, ES1_X_KEY", "${env:ES1_ENDPOINT_URL}", "denyAssignmentName: No deleting")
	writeAsIs(exported)
	env["ES1_ENDPOINT_URL"], env["ES1_X_KEY"] = url+"?code=s3cret-code", "s3cret-other"
	does("diff -f FILE", 0)
	does("topic delete orders --yes", 0)
	does("apply -f FILE", 0, "created")
	does("diff -f FILE", 0)

	write("id: {topic}/providers/Microsoft.EventGrid/eventSubscriptions/es2\nproperties: {destination: {endpointType: WebHook, properties: {endpointUrl: 'http://127.0.0.1:1/'}}}\n")
	does("apply -f FILE", 1, "es2: ")
	write("id: {topic}\nproperties: {disableLocalAth: true}\n")
	does("apply -f FILE", 1, "does not know properties.disableLocalAth", "UnknownMember")
	write("id: {topic}-2\nlocation: local\nproperties: {disableLocalAth: true, disableLocalAuth: true}\n")
	does("apply -f FILE", 1, "does not know properties.disableLocalAth and")
	write("id: {sub}/providers/Microsoft.Authorization/roleDefinitions/0a000000-0000-4000-8000-000000000002\nproperties: {roleName: Half, assignableScopes: ['{sub}'], permissions: [{actions: ['*/read'], notAction: ['*/write']}]}\n")
	does("apply -f FILE", 1, "The member notaction is not known here")
	write("type: Microsoft.Authorization/roleAssignments\nproperties: {scope: {sub}, roleDefinitionId: /providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7, principalId: c1000000-0000-4000-8000-000000000001, condition: 'true'}\n")
	does("apply -f FILE", 1, "Conditions on role assignments are not supported")
	write("id: /subscriptions/x/resourceGroups/y/providers/Microsoft.Web/sites/z\n")
	does("apply -f FILE", 1, "cannot be declared")
	does("diff", 2, "--filename is needed")
}

func TestManifestsAreRefused(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no YAML", "a: [", "read document 1"},
		{"a member twice", "id: a\nid: b", "already set"},
		{"a text", "hello", "is not an object"},
		{"no id", "properties: {}", "has no id"},
		{"an id that is none", "id: orders", "cannot be read"},
		{"another type", "id: /subscriptions/s/resourceGroups/g\ntype: Microsoft.EventGrid/topics", "says that its type"},
		{"twice", "- id: /subscriptions/s/resourceGroups/g\n- id: /SUBSCRIPTIONS/s/resourceGroups/G", "are both"},
		{"a variable in a list", "id: /subscriptions/s/resourceGroups/g\ntags: {a: ['x', '${env:NONE}']}", "tags.a[1] refers to the environment variable NONE"},
		{"second document", "---\n---\nid: x", "document 3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &app{stdin: strings.NewReader(tt.text), getenv: func(string) string { return "" }}
			if _, err := a.readManifests("-"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDifferences(t *testing.T) {
	tests := []struct{ name, there, said, want string }{
		{"nothing said", `{"a":1}`, `{}`, ``},
		{"null is not said", `{"a":1}`, `{"a":null}`, ``},
		{"same number", `{"a":1.0}`, `{"a":1}`, ``},
		{"same moment", `{"a":"2026-03-02T12:00:00.0000000Z"}`, `{"a":"2026-03-02T13:00:00+01:00"}`, ``},
		{"id in another case", `{"a":"/subscriptions/S/resourceGroups/g"}`, `{"a":"/Subscriptions/s/resourcegroups/G/"}`, ``},
		{"word of a closed set", `{"endpointType":"WebHook"}`, `{"endpointType":"webhook"}`, ``},
		{"another text", `{"a":"x"}`, `{"a":"X"}`, `[{"field":"a","before":"x","after":"X"}]`},
		{"role id", `{"roleDefinitionId":"/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions/0A"}`, `{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/0a"}`, ``},
		{"absent", `{}`, `{"a":{"b":[1]}}`, `[{"field":"a.b","after":[1]}]`},
		{"list", `{"a":[1,2]}`, `{"a":[2,1]}`, `[{"field":"a","before":[1,2],"after":[2,1]}]`},
		{"objects in a list", `{"a":[{"x":1,"y":2}]}`, `{"a":[{"x":1}]}`, ``},
		{"an emptied list", `{"a":[1]}`, `{"a":[]}`, `[{"field":"a","before":[1],"after":[]}]`},
		{"secret that is never shown", `{"t":{"clientSecret":null}}`, `{"t":{"clientSecret":"s"}}`, ``},
		{"masked", `{"endpointUrl":"https://h/a?x=1"}`, `{"endpointUrl":"https://h/b?x=2"}`, `[{"field":"endpointUrl","before":"https://h/a (and a secret)","after":"https://h/b (and a secret)"}]`},
	}
	decode := func(t *testing.T, text string) any {
		t.Helper()
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := differences("", decode(t, tt.there), decode(t, tt.said))
			raw, err := encodeJSON(got)
			if err != nil {
				t.Fatal(err)
			}
			if text := string(bytes.TrimSpace(raw)); text != tt.want && (tt.want != "" || len(got) > 0) {
				t.Errorf("differences %s, want %s", text, tt.want)
			}
		})
	}
}

func TestLeftOut(t *testing.T) {
	read := func(text string) any {
		t.Helper()
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct{ there, said, want string }{
		{`{"a": 1}`, `{"a": 2}`, ""},
		{`{}`, `{"a": 0, "b": {"c": true}}`, "a b.c"},
		{`{}`, `{"a": null, "b": false, "c": "", "d": {}, "e": []}`, ""},
		{`{"a": null}`, `{"a": [1]}`, "a"},
		{`{"a": [{"b": 1}, {}]}`, `{"a": [{"b": 1, "c": 2}, {"d": 3}]}`, "a[0].c a[1].d"},
		{`{"a": []}`, `{"a": [{"b": 1}]}`, ""},
		{`{"endpointUrl": null}`, `{"endpointUrl": "https://a.example/", "clientSecret": "x", "key": "y"}`, ""},
		{`{"isSecret": true, "value": null}`, `{"isSecret": true, "value": "x"}`, ""},
		{`{"isSecret": false}`, `{"isSecret": false, "value": "x"}`, "value"},
	} {
		if got := strings.Join(leftOut("", read(tt.there), read(tt.said)), " "); got != tt.want {
			t.Errorf("%s of %s: %q, want %q", tt.said, tt.there, got, tt.want)
		}
	}
}

// A workspace and what it follows, an MLflow server and a Kubernetes cluster, are made
// from a file, and exported without the secrets.
func TestApplyOfWhatIsFollowed(t *testing.T) {
	followed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if password != "s3cret" && r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/apis/") {
			_, _ = io.WriteString(w, `{"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}`)
			return
		}
		_, _ = io.WriteString(w, "{}")
	}))
	defer followed.Close()
	env := environment(t, startServer(t))
	const ws = "/subscriptions/" + defaultSubscription + "/resourceGroups/local" + learningWorkspaces + "/churn"
	const cluster = ws + clusterList + "/prod"
	write, does := onFile(t, env)
	group, _, _ := strings.Cut(ws, "/providers/")
	bus, data := group+connectionList+"/bus", group+connectionList+"/data"
	text := strings.NewReplacer("{ws}", ws, "{url}", followed.URL, "{group}", group, "{bus}", bus, "{data}", data).Replace(`id: {bus}
properties: {resourceId: "{group}/providers/Microsoft.ServiceBus/namespaces/ns", connectionString: "${env:BUS}"}
---
id: {data}
properties: {bucket: data, accessKeyId: id, secretAccessKey: "${env:KEY}"}
---
id: {ws}` + mlflowServer + `
properties: {url: "{url}", username: carillon, password: "${env:PASSWORD}", pollIntervalSeconds: 5}
---
id: {ws}/providers/Carillon.Kubernetes/clusters/prod
properties: {server: "{url}/", token: "${env:TOKEN}", selector: team=growth, namespaces: [ml]}
---
id: {ws}
location: local
properties: {statusEvents: [Failed, Canceled], extraEvents: [ModelAliasSet]}
`)
	write(text)
	env["PASSWORD"], env["TOKEN"], env["BUS"], env["KEY"] = "s3cret", "s3cret", "Endpoint=sb://ns;SharedAccessKeyName=send;SharedAccessKey=s3cret", "s3cret"
	does("diff -f FILE", 1, "+ "+ws+" would be created", "+ "+ws+mlflowServer+" would be created", cluster+" would be created")
	does("apply -f FILE", 0, mlflowServer+" created", cluster+" created", bus+" created", data+" created")
	does("diff -f FILE", 0)
	does("connection show bus", 0, "ns:5671", "send")
	does("mlflow show --workspace churn", 0, "Basic", "carillon")
	does("kubernetes show prod --workspace churn", 0, "Token", followed.URL, "team=growth")
	does("workspace show churn", 0, "Failed, Canceled", "ModelAliasSet")

	write(strings.NewReplacer("Seconds: 5", "Seconds: 6", "[ModelAliasSet]", "[]", `token: "${env:TOKEN}", selector: team=growth, `, "").Replace(text))
	does("apply -f FILE", 0, "properties.pollIntervalSeconds: 5 → 6", `properties.extraEvents: ["ModelAliasSet"] → []`)
	does("diff -f FILE", 0)
	does("mlflow show --workspace churn", 0, "Basic", "carillon") // what the file does not say stays
	does("kubernetes show prod --workspace churn", 0, "Token", "team=growth")
	write(strings.Replace(text, "team=growth", "team=risk", 1))
	does("apply -f FILE", 0, cluster+" changed", `properties.selector: "team=growth" → "team=risk"`)

	exported := does("export", 0, "Set these before apply: BUS_CONNECTION_STRING, DATA_SECRET_ACCESS_KEY, CHURN_MLFLOW_PASSWORD, CHURN_KUBERNETES_PROD_TOKEN", "connectionString: ${env:BUS_CONNECTION_STRING}", "${env:CHURN_MLFLOW_PASSWORD}", "${env:CHURN_KUBERNETES_PROD_TOKEN}", "statusEvents:", ws+mlflowServer, cluster)
	for _, own := range []string{"workspaceId", "tenantId", "status:", "authentication", "lagSeconds", "hbiWorkspace", "keyName", "host:"} {
		if strings.Contains(exported, own) {
			t.Errorf("%s is exported:\n%s", own, exported)
		}
	}
	write(exported)
	env["CHURN_MLFLOW_PASSWORD"], env["CHURN_KUBERNETES_PROD_TOKEN"], env["BUS_CONNECTION_STRING"], env["DATA_SECRET_ACCESS_KEY"] = "s3cret", "s3cret", env["BUS"], "s3cret"
	does("diff -f FILE", 0)
	does("workspace delete churn --yes", 0)
	does("connection delete data --yes", 0)
	does("apply -f FILE", 0, data+" created", ws+" created", ws+mlflowServer+" created", cluster+" created")
	does("diff -f FILE", 0)
	env["CHURN_MLFLOW_PASSWORD"] = "wrong"
	does("workspace delete churn --yes", 0)
	does("apply -f FILE", 1, mlflowServer+": ", "cannot be followed")
}

// Drift monitors of a workspace are made from a file, changed, and exported without what
// the server alone says.
func TestApplyOfDriftMonitors(t *testing.T) {
	env := environment(t, startServer(t))
	const ws = "/subscriptions/" + defaultSubscription + "/resourceGroups/local" + learningWorkspaces + "/churn"
	const monitor = ws + "/driftMonitors/orders"
	write, does := onFile(t, env)
	const text = `id: ` + monitor + `
properties:
  baseline: {uri: "https://lake.example/Train.csv"}
  target: {uri: "https://lake.example/live/{yyyy}/{MM}/{dd}.csv"}
  features: [/amount, country]
  schedule: {frequency: Week, latencyHours: 24}
  threshold: 0.3
---
id: ` + monitor + `-by-hand
properties: {baseline: {datasetId: a1}, target: {datasetId: b2}}
---
id: ` + ws + `
location: local
`
	write(text)
	does("diff -f FILE", 1, "+ "+monitor+" would be created")
	made := does("apply -f FILE", 0, monitor+" created", monitor+"-by-hand created")
	if strings.Index(made, ws+" created") > strings.Index(made, monitor+" created") {
		t.Errorf("the workspace comes last:\n%s", made)
	}
	does("diff -f FILE", 0)
	does("drift monitor show orders --workspace churn", 0, "Train.csv", "/amount, country", "Week")
	write(strings.NewReplacer("0.3", "0.4", "/amount", "/Amount", "Train.csv", "train.csv", "latencyHours: 24", "enabled: false").Replace(text))
	does("diff -f FILE", 1, "properties.threshold: 0.3 → 0.4", `["/amount","country"] → ["/Amount","country"]`, "train.csv", "properties.schedule.enabled: true → false")
	does("apply -f FILE", 0, monitor+" changed", monitor+"-by-hand unchanged")
	does("diff -f FILE", 0)
	does("drift monitor show orders --workspace churn -o json", 0, `"latencyHours": 24`, `"scheduleState": "Disabled"`) // what the file does not say stays

	exported := does("export", 0, monitor, "latencyHours: 24", "uri: https://lake.example/train.csv")
	for _, own := range []string{"dataDriftId", "scheduleState", "provisioningState"} {
		if strings.Contains(exported, own) {
			t.Errorf("%s is exported:\n%s", own, exported)
		}
	}
	write(exported)
	does("diff -f FILE", 0)
	does("workspace delete churn --yes", 0)
	does("apply -f FILE", 0, ws+" created", monitor+" created", monitor+"-by-hand created")
	does("diff -f FILE", 0)
}

// The file that help shows can be applied.
func TestApplyOfTheFileInHelp(t *testing.T) {
	env := environment(t, startServer(t))
	write, does := onFile(t, env)
	_, file, found := strings.Cut(does("apply --help", 0, "driftMonitors/orders"), "such as\n\n")
	file, _, ended := strings.Cut(file, "\n\n")
	if !found || !ended {
		t.Fatalf("help has no file in it: %s", file)
	}
	write(file)
	does("apply -f FILE", 0, "/driftMonitors/orders created")
	does("diff -f FILE", 0)
	does("drift monitor show orders", 0, "train.parquet", "amount, country", "Week", "0.3")
}

func TestHideFollowedSecret(t *testing.T) {
	for authentication, want := range map[string]string{
		"None": "", "Pod": "", "Basic": "password", "Bearer": "token", "Token": "token", "ClientCertificate": "clientKey",
	} {
		properties, x := map[string]any{"authentication": authentication}, exporter{}
		x.hideFollowedSecret(map[string]any{"properties": properties}, "churn", "kubernetes", "prod-1")
		delete(properties, "authentication")
		wanted := map[string]any{}
		if want != "" {
			wanted[want] = "${env:CHURN_KUBERNETES_PROD_1_" + strings.ToUpper(want) + "}"
		}
		if !maps.Equal(properties, wanted) || len(x.secrets) != len(wanted) {
			t.Errorf("%s: %v, variables %q", authentication, properties, x.secrets)
		}
	}
}
