package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/secret"
)

// patience is how long a test waits for what has to happen, on the slowest machine.
const patience = time.Minute

// startServer runs "carillon serve" as a process of its own and returns its data
// directory. It must end with exit code 0 when it is asked to.
func startServer(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	c, err := testProgram(t).start(nil, "serve", "--data", dir, "--listen", "127.0.0.1:0", "--durability", "process")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.stop(patience)
		if code := c.cmd.ProcessState.ExitCode(); code != exitDone {
			t.Errorf("the server ended with %s:\n%s", c.cmd.ProcessState, c.log.text())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, err := c.firstLine(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if url, ok := readyURL(line); !ok || !strings.HasPrefix(url, "https://127.0.0.1:") || !strings.Contains(line, " ca-sha256=") {
		t.Fatalf("the server's first line is %q", line)
	}
	return dir
}

// environment is what "carillon env" exports.
func environment(t *testing.T, dir string) map[string]string {
	t.Helper()
	code, stdout, stderr := run(t, nil, "env", "--data", dir)
	if code != exitDone {
		t.Fatalf("env: %s", stderr)
	}
	env := map[string]string{}
	for line := range strings.Lines(stdout) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		env[name] = strings.Trim(value, "'")
	}
	return env
}

// Every command group once against a server, in the order a user would take.
func TestCommandsAgainstAServer(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	const topics = "/subscriptions/" + defaultSubscription + "/resourceGroups/local/providers/Microsoft.EventGrid/topics/"
	url, events, stop := startListen(t, env, "--subscribe", "everything", "-o", "json")
	type step struct {
		line   string
		code   int
		stdout string // part of it
		stderr string
	}
	for _, s := range []step{
		{"workspace list", 0, "default", ""},
		{"workspace create churn --status-events Failed Canceled --tags team=growth", 0, "Failed, Canceled", ""},
		{"workspace update churn --payload-casing documented", 0, "documented", ""},
		{"workspace delete churn", 0, "Deleted workspace churn.", ""},
		{"run create -e churn -n r1 --status Running --tags team=growth draft=yes", 0, "Running", ""},
		{"run create -e churn -n r1", 1, "", "PreconditionFailed"},
		{"run update -e churn -n r1 --remove-tags draft", 0, "Tags        team=growth\n", ""},
		{"run update -e churn -n r1 --status Failed", 0, "Failed", ""},
		{"run update -e churn -n r1 --status Running", 1, "", "code: Conflict"},
		{"run list", 0, "churn       r1   Failed", ""},
		{"run show -e churn r1 -o json", 0, `"status": "Failed"`, ""},
		{"run delete -e churn r1", 0, "Deleted run r1.", ""},
		{"model register churn --tags stage=production", 0, "Version     1\n", ""},
		{"model register churn --version 7", 0, "Version     7\n", ""},
		{"model update churn --version 7 --tags stage=test", 0, "stage=test", ""},
		{"model list", 0, "churn  7", ""},
		{"endpoint create api --model-ids churn:7 --compute-type AKS --state Transitioning", 0, "Transitioning", ""},
		{"endpoint update api --state Healthy", 0, "Healthy", ""},
		{"endpoint list", 0, "api   Healthy  churn:7  AKS", ""},
		{"endpoint delete api", 0, "Deleted online endpoint api.", ""},
		{"drift monitor create weekly --baseline-dataset-id a --target-dataset-id b --threshold 0.4", 0, "0.4", ""},
		{"drift run create --monitor weekly --start 2026-02-23 --end 2026-03-02 --coefficient 0.41", 0, "Verdict      Drift", ""},
		{"drift run list --monitor weekly -o json", 0, `"driftCoefficient": 0.41`, ""},
		{"drift monitor list", 0, "weekly", ""},
		{"topic create orders", 0, "EventGridSchema", ""},
		{"topic update orders --tags a=b", 0, "a=b", ""},
		{"topic list -g local", 0, "orders", ""},
		{"topic key list orders -o json", 0, `"key1": `, ""},
		{"topic key regenerate orders --key-name key2", 0, "key2", ""},
		{"event publish --topic orders --event-type t --subject s --data {}", 0, "Published 1 event to orders.", ""},
		{"es create --name inbox --topic orders --endpoint-type pull", 0, "Received as topic      orders\n", ""},
		{"event publish --topic orders --event-type t --subject pulled --data {}", 0, "Published 1 event to orders.", ""},
		{"event receive --topic orders --event-subscription inbox --ack", 0, `"subject":"pulled"`, ""},
		{"event acknowledge --topic orders --event-subscription inbox AAAA", 1, "", "BadToken"},
		{"event release --topic orders --event-subscription inbox", 2, "", "A lock token is needed"},
		{"es create --name own --endpoint-type pull", 0, "own", ""}, // on the workspace, which has no keys
		{"event renew-lock --event-subscription own AAAA", 1, "", "BadToken"},
		{"event publish --topic orders --topic-key AAAA --event-type t --subject s", 1, "", "carillon topic key list"},
		{"topic-type list", 0, "Machine Learning Workspaces", ""},
		{"topic-type show microsoft.machinelearningservices.WORKSPACES", 0, "Provider      Microsoft.MachineLearningServices", ""},
		{"topic-type list-event-types -n Microsoft.MachineLearningServices.Workspaces", 0, "RunCompleted          A training run", ""},
		{"topic-type list-event-types -n Microsoft.MachineLearningServices.Workspaces -o json", 0, "/schemas/Microsoft.MachineLearningServices.RunCompleted.json", ""},
		{"topic-type show Microsoft.Nothing", 1, "", "is not known"},
		{"system-topic list", 0, "default", ""},
		{"es show everything --include-full-endpoint-url true", 0, url, ""},
		{"es update everything --event-ttl 60 --labels mine", 0, "Labels                 mine\n", ""},
		{"es update everything --advanced-filter data.n NumberGreaterThan five", 2, "", "five"},
		{"es update everything --advanced-filter data.ModelTags.key1 StringIn ('value1') --subject-begins-with models/", 0, "data.ModelTags.key1 StringIn value1", ""},
		{"es update everything --advanced-filter data.n NumberIn 1 1.0", 1, "", "field: filter.advancedFilters[0].values[1]"},
		{"es update everything --included-event-types Contoso.Placed", 1, "", "field: filter.includedEventTypes[0]"},
		{"es update everything --subject-begins-with= --subject-case-sensitive", 0, "data.ModelTags.key1 StringIn value1", ""},
		{"es update everything --advanced-filter", 0, "Advanced filters       -", ""},
		{"es create for-orders --source-resource-id " + topics + "orders --endpoint " + url, 0, "Succeeded", ""},
		{"topic event-subscription list --topic-name orders", 0, "for-orders", ""},
		{"es list --location local -g local -o json", 0, "for-orders", ""},
		{"es create refused --endpoint http://127.0.0.1:1/", 1, "", "field: properties.destination"},
		{"es show refused", 1, "", "ResourceNotFound"},
		{"topic delete orders", 0, "Deleted topic orders.", ""},
		{"principal create ci -o json", 0, `"password": `, ""},
		{"principal create ci", 1, "", "PrincipalExists"},
		{"principal list", 0, "ci", ""},
		{"role definition list", 0, "AzureML Data Scientist", ""},
		{"role assignment list --scope / --role Owner", 0, "Owner", ""},
		{"deadletter list -o json", 0, "[]", ""},
		{"deadletter show nothing", 1, "", "DeadLetterNotFound"},
	} {
		code, stdout, stderr := run(t, env, strings.Fields(s.line)...)
		if code != s.code || !strings.Contains(stdout, s.stdout) || !strings.Contains(stderr, s.stderr) {
			t.Errorf("carillon %s\nexit %d, want %d\nstdout: %s\nstderr: %s", s.line, code, s.code, stdout, stderr)
		}
	}
	left := map[string]bool{}
	for _, eventType := range machineLearningEventTypes {
		left[eventType] = true // RunCompleted comes of the drift run, which is a run, too
	}
	for deadline := time.After(patience); len(left) > 0; {
		select {
		case line := <-events:
			delete(left, text(line, "event.eventType"))
		case <-deadline:
			t.Fatalf("events that did not arrive: %v", left)
		}
	}
	if code := stop(); code != exitDone {
		t.Errorf("listen ended with %d", code)
	}
}

func TestRolesDecideWhatAPrincipalMayDo(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	_, stdout, _ := run(t, env, "principal", "create", "ci", "-o", "json")
	objectID := text([]byte(stdout), "objectId")
	for range 2 { // the same assignment twice is one
		if code, _, stderr := run(t, env, "role", "assignment", "create", "--assignee", objectID, "--role", "Reader"); code != exitDone {
			t.Fatalf("assign: %s", stderr)
		}
	}
	_, stdout, _ = run(t, env, "role", "assignment", "list", "--assignee", objectID)
	if strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, "Reader") {
		t.Errorf("assignments:\n%s", stdout)
	}
	if code, _, stderr := run(t, env, "role", "assignment", "delete", "--assignee", objectID, "--role", "Reader"); code != exitDone {
		t.Errorf("take away: %s", stderr)
	}
	if code, _, stderr := run(t, env, "role", "assignment", "delete", "--assignee", objectID); code != exitFailed || !strings.Contains(stderr, "no such role assignment") {
		t.Errorf("take away what is not there: %d %s", code, stderr)
	}
	if code, _, stderr := run(t, env, "principal", "delete", "ci"); code != exitDone {
		t.Errorf("delete: %s", stderr)
	}
}

// A topic that takes tokens alone, and the owner, who publishes with the role only.
func TestPublishWithAToken(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	owner, err := access.OpenLocal(t.Context(), dir, secret.Source{})
	if err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := run(t, env, "topic", "create", "guarded", "--disable-local-auth"); code != exitDone || !strings.Contains(stdout, "Local auth disabled  true") {
		t.Fatalf("create: %d %s%s", code, stdout, stderr)
	}
	_, token, _ := run(t, nil, "token", "--data", dir, "--resource", "https://EventGrid.azure.net/")
	publish := []string{"event", "publish", "--topic", "guarded", "--event-type", "t", "--subject", "s"}
	withToken := append(publish, "--topic-token", strings.TrimSpace(token))
	if code, _, stderr := run(t, env, publish...); code != exitFailed || !strings.Contains(stderr, "disableLocalAuth") || !strings.Contains(stderr, "--topic-token") {
		t.Errorf("with a key: %d %s", code, stderr)
	}
	if code, _, stderr := run(t, env, withToken...); code != exitFailed || !strings.Contains(stderr, "EventGrid Data Sender") {
		t.Errorf("without the role: %d %s", code, stderr)
	}
	if code, _, stderr := run(t, env, "role", "assignment", "create", "--assignee", owner.Owner.ObjectID, "--role", "EventGrid Data Sender", "--scope", "/"); code != exitDone {
		t.Fatalf("assign: %s", stderr)
	}
	if code, stdout, stderr := run(t, env, withToken...); code != exitDone || !strings.Contains(stdout, "Published 1 event") {
		t.Errorf("with the role: %d %s", code, stderr)
	}
	if code, _, stderr := run(t, env, append(publish, "--topic-token", env["CARILLON_TOKEN"])...); code != exitFailed || !strings.Contains(stderr, "https://eventgrid.azure.net") {
		t.Errorf("with a token for the management API: %d %s", code, stderr)
	}
	if code, _, stderr := run(t, nil, "token", "--data", dir, "--resource", "https://storage.azure.com"); code != exitUsage || !strings.Contains(stderr, "https://eventgrid.azure.net") {
		t.Errorf("token for something else: %d %s", code, stderr)
	}
}

func TestDeadLettersAreListedAndReplayed(t *testing.T) {
	dir := startServer(t)
	env := map[string]string{"CARILLON_DATA": dir}
	_, events, _ := startListen(t, env, "--subscribe", "refusing", "--status", "400", "-o", "json")
	if line := <-events; text(line, "handshake") == "" {
		t.Fatalf("the first line is %s, not the handshake", line)
	}
	waitFor(t, "the event subscription", func() bool {
		_, stdout, _ := run(t, env, "es", "list", "-o", "json")
		return strings.Contains(stdout, `"Succeeded"`)
	})
	if code, _, stderr := run(t, env, "model", "register", "churn"); code != exitDone {
		t.Fatalf("register: %s", stderr)
	}
	if line := <-events; text(line, "event.subject") != "models/churn:1" {
		t.Errorf("delivered %s", line)
	}
	var letters []json.RawMessage
	waitFor(t, "the dead letter", func() bool {
		_, stdout, _ := run(t, env, "deadletter", "list", "-o", "json")
		return json.Unmarshal([]byte(stdout), &letters) == nil && len(letters) == 1
	})
	for _, member := range []string{"id", "eventSubscription", "event.id", "deadLetterReason", "deliveryAttempts", "lastDeliveryOutcome", "publishTime", "lastDeliveryAttemptTime"} {
		if text(letters[0], member) == "" {
			t.Errorf("the dead letter has no %s: %s", member, letters[0])
		}
	}
	id := text(letters[0], "id")
	if code, stdout, _ := run(t, env, "deadletter", "show", id); code != exitDone || !strings.Contains(stdout, "models/churn:1") {
		t.Errorf("show: %d %s", code, stdout)
	}
	if code, stdout, stderr := run(t, env, "deadletter", "replay", id, "-o", "json"); code != exitDone || text([]byte(stdout), "replayed") != "1" {
		t.Errorf("replay: %d %s%s", code, stdout, stderr)
	}
	if line := <-events; text(line, "headers.carillon-replay") != id || text(line, "event.id") != text(letters[0], "event.id") {
		t.Errorf("replayed as %s", line)
	}
}

// waitFor asks again until something is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !so() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("%s did not come", what)
		}
	}
}

func TestTailShowsWhatIsLogged(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	tail, err := testProgram(t, "CARILLON_DATA="+dir).start(nil, "event", "tail", "-o", "json", "--count", "1", "--included-event-types", machineLearningEventTypes[2])
	if err != nil {
		t.Fatal(err)
	}
	defer tail.stop(patience)
	// A tail begins when the server has its request, which nobody hears of: so
	// something happens until it is seen.
	waitFor(t, "the event", func() bool {
		if code, _, stderr := run(t, env, "model", "register", "churn"); code != exitDone {
			t.Fatalf("register: %s", stderr)
		}
		select {
		case line := <-tail.lines:
			if text([]byte(line), "event.eventType") != machineLearningEventTypes[2] {
				t.Errorf("the tail shows %s", line)
			}
			return true
		default:
			return false
		}
	})
}

func TestSecondServerOnADirectoryIsRefused(t *testing.T) {
	dir := startServer(t)
	code, stdout, stderr := run(t, nil, "serve", "--data", dir, "--listen", "127.0.0.1:0", "--log-level", "error")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, dir) {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

func TestDemoOnTheRealServer(t *testing.T) {
	d, stdout, stderr := newDemo(t)
	d.address = localAddress
	if err := d.run(t.Context()); err != nil {
		t.Fatalf("demo: %v\n%s%s", err, stdout, stderr)
	}
	for _, eventType := range machineLearningEventTypes {
		if !strings.Contains(stdout.String(), "✓ "+eventType) {
			t.Errorf("the story does not show %s:\n%s", eventType, stdout)
		}
	}
}

// TestExplainOnTheRealServer follows an event of a workspace from the tail to its
// explanation, with one event subscription and with all.
func TestExplainOnTheRealServer(t *testing.T) {
	env := map[string]string{"CARILLON_DATA": startServer(t)}
	url, events, _ := startListen(t, env, "--subscribe", "everything", "-o", "json")
	if line := <-events; text(line, "handshake") == "" {
		t.Fatalf("the first line is %s, not the handshake", line)
	}
	if code, _, stderr := run(t, env, "es", "create", "-n", "production", "--endpoint", url, "--advanced-filter", "data.modelTags.stage", "StringIn", "production"); code != exitDone {
		t.Fatalf("es create: %s", stderr)
	}
	waitFor(t, "the event subscription", func() bool {
		_, stdout, _ := run(t, env, "es", "show", "everything", "-o", "json")
		return strings.Contains(stdout, `"Succeeded"`)
	})
	if code, _, stderr := run(t, env, "model", "register", "churn", "--tags", "stage=staging"); code != exitDone {
		t.Fatalf("register: %s", stderr)
	}
	var id string
	for line := range events {
		if id = text(line, "event.id"); id != "" && text(line, "event.subject") == "models/churn:1" {
			break
		}
	}
	waitFor(t, "the delivery", func() bool {
		code, stdout, stderr := run(t, env, "event", "explain", id)
		if code != exitDone {
			t.Fatalf("explain: %s", stderr)
		}
		return strings.Contains(stdout, "everything          yes     delivered") &&
			strings.Contains(stdout, `production          no      notMatched  advancedFilters[0]: data.modelTags.stage StringIn "production": data.modelTags.stage was the string "staging"`)
	})
	code, stdout, stderr := run(t, env, "event", "explain", id, "--event-subscription", "everything")
	if code != exitDone || !strings.Contains(stdout, "Delivery: delivered.") || !strings.Contains(stdout, "1        ") || !strings.Contains(stdout, "Delivered  200") {
		t.Errorf("explain: %d %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, env, "es", "test-filter", "production", "--advanced-filter", "data.modelTags.stage", "StringIn", "staging")
	if code != exitDone || !strings.Contains(stdout, "Of the last 1 event, 1 would match this filter, which is not saved.") {
		t.Errorf("test-filter: %d %s%s", code, stdout, stderr)
	}
	if code, _, stderr = run(t, env, "event", "explain", "nowhere"); code != exitFailed || !strings.Contains(stderr, "code: EventNotFound") {
		t.Errorf("an event that is not there: %d %s", code, stderr)
	}
}

// TestUpdatesAtOnce: what several updates of one event subscription change at once
// is all changed in the end.
func TestUpdatesAtOnce(t *testing.T) {
	env := environment(t, startServer(t))
	url, _, stop := startListen(t, env, "-o", "json")
	if code, _, stderr := run(t, env, "es", "create", "everything", "--endpoint", url); code != exitDone {
		t.Fatal(stderr)
	}
	for round := range 5 {
		var updates sync.WaitGroup
		for _, change := range []string{"--subject-begins-with b%d/", "--subject-ends-with /e%d", "--advanced-filter data.n NumberIn %d"} {
			updates.Go(func() {
				line := "es update everything " + fmt.Sprintf(change, round)
				if code, _, stderr := run(t, env, strings.Fields(line)...); code != exitDone {
					t.Errorf("carillon %s: %s", line, stderr)
				}
			})
		}
		updates.Wait()
		_, shown, _ := run(t, env, "es", "show", "everything")
		for _, want := range []string{fmt.Sprintf("b%d/", round), fmt.Sprintf("/e%d", round), fmt.Sprintf("data.n NumberIn %d", round)} {
			if !strings.Contains(shown, want) {
				t.Errorf("round %d: %s is lost:\n%s", round, want, shown)
			}
		}
	}
	stop()
}
