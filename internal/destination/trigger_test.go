package destination

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// told is a request that a trigger made.
type told struct {
	method, path string
	header       http.Header
	body         string
}

// triggerServer answers as it is told and keeps what it was asked.
type triggerServer struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []told
	answer func(t told) (status int, header map[string]string, body string)
}

func newTriggerServer(t *testing.T) *triggerServer {
	s := &triggerServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		a := told{r.Method, r.URL.RequestURI(), r.Header, string(raw)}
		s.mu.Lock()
		s.asked = append(s.asked, a)
		answer := s.answer
		s.mu.Unlock()
		status, header, body := answer(a)
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *triggerServer) will(answer func(told) (int, map[string]string, string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.asked = answer, nil
}

func (s *triggerServer) got() []told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]told(nil), s.asked...)
}

const modelRegistered = `{"id":"e1","topic":"/t","subject":"models/churn:3","eventType":"T.ModelRegistered","eventTime":"2026-03-01T10:00:00Z","dataVersion":"2","metadataVersion":"1",` +
	`"data":{"modelName":"churn","modelVersion":"3","n":7,"nested":{"a":[1]},"evil":"\"}],<&> $(rm)"}}`

// Verdicts of a table.
const (
	taken = "taken"
	again = "again"
	never = "never"
)

// triggerCase is one kind: what it sends of modelRegistered, and what answers mean to it.
// Source of the tables: spec/handlers.md sections 14 and 15.
type triggerCase struct {
	kind    string
	values  map[string]any // $ is the address of the server
	secrets map[string]string
	path    string
	header  map[string]string
	body    string // JSON; KEY and RUN are the key and the UUID made of it
	form    string // instead of a JSON body
	answers map[int]string
	ok      string // body of a success
}

var triggerCases = []triggerCase{
	{
		kind: "Airflow", values: map[string]any{"url": "$/base/", "dagId": "re/train", "conf": `{"model": data.modelName, "n": data.n}`},
		secrets: map[string]string{"token": suiteSecret}, path: "/base/api/v2/dags/re%2Ftrain/dagRuns",
		header: map[string]string{"Authorization": "Bearer " + suiteSecret}, body: `{"dag_run_id":"carillon__KEY","logical_date":null,"conf":{"model":"churn","n":7}}`,
		answers: map[int]string{200: taken, 409: taken, 400: never, 401: again, 403: never, 404: never, 422: never, 429: again, 500: again},
	},
	{
		kind: "Airflow", values: map[string]any{"url": "$", "dagId": "retrain", "version": "2", "username": "u"},
		secrets: map[string]string{"password": suiteSecret}, path: "/api/v1/dags/retrain/dagRuns",
		header: map[string]string{"Authorization": "Basic " + "dTpzM2NyZXQtb2YtdGhlLXN1aXRl"}, body: `{"dag_run_id":"carillon__KEY","conf":{"event":EVENT}}`,
		answers: map[int]string{200: taken},
	},
	{
		kind: "GitHubRepository", values: map[string]any{"url": "$", "repository": "acme/models", "eventType": "registered {subject}", "payload": `{"event": {"id": id, "evil": data.evil}}`},
		secrets: map[string]string{"token": suiteSecret}, path: "/repos/acme/models/dispatches",
		header:  map[string]string{"Authorization": "Bearer " + suiteSecret, "X-GitHub-Api-Version": "2022-11-28", "Accept": "application/vnd.github+json"},
		body:    `{"event_type":"registered models/churn:3","client_payload":{"event":{"id":"e1","evil":"\"}],<&> $(rm)"}}}`,
		answers: map[int]string{204: taken, 401: never, 403: never, 404: never, 422: never, 500: again},
	},
	{
		kind: "GitHubWorkflow", values: map[string]any{"url": "$", "repository": "acme/models", "workflow": "deploy.yml", "inputs": `{"model": data.modelName, "n": data.n, "nested": data.nested}`},
		secrets: map[string]string{"token": suiteSecret}, path: "/repos/acme/models/actions/workflows/deploy.yml/dispatches",
		body:    `{"ref":"main","inputs":{"model":"churn","n":"7","nested":"{\"a\":[1]}"}}`,
		answers: map[int]string{204: taken, 200: taken, 404: never, 422: never, 502: again},
	},
	{
		kind: "GitLab", values: map[string]any{"url": "$", "project": "acme/models", "variables": `{"MODEL": data.modelName, "EVENT": data.nested}`},
		secrets: map[string]string{"token": suiteSecret}, path: "/api/v4/projects/acme%2Fmodels/trigger/pipeline",
		body:    `{"token":"` + suiteSecret + `","ref":"main","variables":{"MODEL":"churn","EVENT":"{\"a\":[1]}"}}`,
		answers: map[int]string{201: taken, 400: never, 404: never, 429: again, 500: again},
	},
	{
		kind: "ArgoWorkflow", values: map[string]any{"url": "$", "namespace": "ml", "workflowTemplate": "retrain", "parameters": `{"b": data.n, "a": data.modelName}`},
		secrets: map[string]string{"token": suiteSecret}, path: "/api/v1/workflows/ml/submit", header: map[string]string{"Authorization": "Bearer " + suiteSecret},
		body:    `{"namespace":"ml","resourceKind":"WorkflowTemplate","resourceName":"retrain","submitOptions":{"name":"carillon-KEY","labels":"source=carillon","parameters":["a=churn","b=7"]}}`,
		answers: map[int]string{200: taken, 409: taken, 400: never, 403: never, 404: never, 401: again, 500: again},
	},
	{
		kind: "ArgoWorkflowEvent", values: map[string]any{"url": "$", "namespace": "ml"}, path: "/api/v1/events/ml/", header: map[string]string{"X-Carillon-Event-Id": "e1", "X-Carillon-Event-Type": "T.ModelRegistered"},
		body: `EVENT`, answers: map[int]string{200: taken, 401: never, 403: never, 404: never, 503: again, 500: again}, ok: "{}",
	},
	{
		kind: "ArgoEvents", values: map[string]any{"url": "$/models?x=1", "payload": `{"model": data.modelName}`}, secrets: map[string]string{"token": suiteSecret},
		path: "/models?x=1", body: `{"model":"churn"}`, answers: map[int]string{200: taken, 400: again, 404: again, 401: never, 500: again}, ok: "success",
	},
	{
		kind: "Prefect", values: map[string]any{"url": "$/api", "deploymentId": "7f3c1c5e", "parameters": `{"model": data.modelName}`}, secrets: map[string]string{"token": suiteSecret},
		path: "/api/deployments/7f3c1c5e/create_flow_run", header: map[string]string{"Authorization": "Bearer " + suiteSecret},
		body:    `{"parameters":{"model":"churn"},"idempotency_key":"KEY","tags":["carillon"],"state":{"type":"SCHEDULED"},"labels":{"carillon.eventId":"e1"}}`,
		answers: map[int]string{201: taken, 200: taken, 400: never, 404: never, 409: never, 422: never, 401: again, 500: again},
	},
	{
		kind: "Dagster", values: map[string]any{"url": "$", "location": "ml", "job": "retrain", "runConfig": `{"ops": {"train": {"config": {"model": data.modelName}}}}`}, secrets: map[string]string{"token": suiteSecret},
		path: "/graphql", header: map[string]string{"Dagster-Cloud-Api-Token": suiteSecret},
		body: `{"query":QUERY,"variables":{"executionParams":{"selector":{"repositoryLocationName":"ml","repositoryName":"__repository__","jobName":"retrain"},` +
			`"runConfigData":{"ops":{"train":{"config":{"model":"churn"}}}},"executionMetadata":{"runId":"RUN","tags":[{"key":"carillon/event_id","value":"e1"},{"key":"carillon/key","value":"KEY"}]}}}}`,
		answers: map[int]string{200: taken, 400: never, 500: again}, ok: `{"data":{"launchRun":{"__typename":"LaunchRunSuccess"}}}`,
	},
	{
		kind: "Jenkins", values: map[string]any{"url": "$/ci", "job": "ml/re train", "username": "u", "parameters": `{"MODEL": data.modelName, "EVIL": data.evil}`}, secrets: map[string]string{"password": suiteSecret},
		path: "/ci/job/ml/job/re%20train/buildWithParameters", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
		form:    "EVIL=" + url.QueryEscape(`"}],<&> $(rm)`) + "&MODEL=churn",
		answers: map[int]string{201: taken, 400: never, 403: never, 404: never, 409: again, 500: again},
	},
	{
		kind: "Jenkins", values: map[string]any{"url": "$", "job": "retrain"}, path: "/job/retrain/build", form: "", answers: map[int]string{201: taken},
	},
	{
		kind: "KubernetesJob", values: map[string]any{
			"url": "$", "namespace": "ml", "event": `{"id": id}`,
			"job": `{"metadata":{"generateName":"x-","labels":{"team":"ml"}},"spec":{"template":{"spec":{"containers":[{"name":"run","image":"r","env":[{"name":"A","value":"b"}]}]}}}}`,
		},
		secrets: map[string]string{"token": suiteSecret}, path: "/apis/batch/v1/namespaces/ml/jobs", header: map[string]string{"Authorization": "Bearer " + suiteSecret},
		body: `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"carillon-KEY","labels":{"team":"ml","carillon.dev/source":"carillon"},"annotations":{"carillon.dev/event-id":"e1"}},` +
			`"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"run","image":"r","env":[{"name":"A","value":"b"},{"name":"EVENT_JSON","value":"{\"id\":\"e1\"}"},{"name":"EVENT_KEY","value":"KEY"}]}]}}}}`,
		answers: map[int]string{201: taken, 409: taken, 401: never, 403: never, 404: never, 422: never, 429: again, 500: again},
	},
	{
		kind: "Slack", secrets: map[string]string{"url": "$/services/" + suiteSecret}, values: map[string]any{"text": `"Model " + data.modelName + data.evil`}, path: "/services/" + suiteSecret,
		body: `{"text":"Model churn\"}],&lt;&amp;&gt; $(rm)"}`, answers: map[int]string{200: taken, 400: never, 403: never, 404: never, 410: never, 429: again, 500: again}, ok: "ok",
	},
	{
		kind: "Teams", secrets: map[string]string{"url": "$/workflows/" + suiteSecret}, path: "/workflows/" + suiteSecret,
		body: `{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive","contentUrl":null,"content":{"$schema":"http://adaptivecards.io/schemas/adaptive-card.json",` +
			`"type":"AdaptiveCard","version":"1.4","body":[{"type":"TextBlock","text":"T.ModelRegistered models/churn:3","wrap":true}]}}]}`,
		answers: map[int]string{202: taken, 400: never, 404: never, 429: again, 500: again},
	},
}

// triggerOf makes the sender of a case at a server.
func triggerOf(t *testing.T, c triggerCase, address string) targetSender {
	t.Helper()
	values, secrets := map[string]any{}, map[string]string{}
	for name, v := range c.values {
		if text, ok := v.(string); ok {
			v = strings.Replace(text, "$", address, 1)
		}
		values[name] = v
	}
	for name, text := range c.secrets {
		secrets[name] = strings.Replace(text, "$", address, 1)
	}
	return targetOf(t, c.kind, values, secrets, nil)
}

func TestTriggers(t *testing.T) {
	srv := newTriggerServer(t)
	for _, c := range triggerCases {
		t.Run(c.kind, func(t *testing.T) {
			s := triggerOf(t, c, srv.URL)
			for status, want := range c.answers {
				srv.will(func(told) (int, map[string]string, string) {
					if status/100 == 2 {
						return status, nil, c.ok
					}
					return status, nil, `{"message":"` + suiteSecret + `"}`
				})
				r := attemptOf(c.kind, 1, modelRegistered)
				got := s.Send(t.Context(), r)
				verdict := map[broker.Action]string{broker.Done: taken, broker.Retry: again, broker.DeadLetter: never}[broker.Policy{MaxAttempts: 30, TimeToLive: time.Hour}.Next(1, time.Now(), got, time.Now(), 0).Action]
				if verdict != want || got.Status != status || strings.Contains(got.Detail, suiteSecret) || want != taken && got.Detail == "" {
					t.Errorf("%d: %s (%+v), want %s", status, verdict, got, want)
				}
			}
			asked := srv.got()
			if len(asked) == 0 {
				t.Fatal("nothing was asked")
			}
			a := asked[len(asked)-1]
			if method := a.method; method != "POST" || a.path != c.path {
				t.Errorf("%s %s, want %s", method, a.path, c.path)
			}
			for name, value := range c.header {
				if a.header.Get(name) != value {
					t.Errorf("%s: %q, want %q", name, a.header.Get(name), value)
				}
			}
			r := attemptOf(c.kind, 1, modelRegistered)
			key := ""
			if tr, ok := s.(*trigger); ok {
				o, err := tr.occur(r, 0)
				if err != nil {
					t.Fatal(err)
				}
				key = o.key
			}
			if c.body == "" {
				if a.body != c.form {
					t.Errorf("form %q, want %q", a.body, c.form)
				}
			} else {
				query, _ := json.Marshal(dagsterLaunch)
				want := strings.NewReplacer("KEY\"", key+"\"", "EVENT_KEY", "EVENT_KEY", "RUN", guidOf(key), "QUERY", string(query)).Replace(c.body)
				want = strings.ReplaceAll(want, "EVENT_"+key, "EVENT_KEY")
				want = strings.Replace(want, `"event":EVENT}`, `"event":`+modelRegistered+`}`, 1)
				if want == "EVENT" {
					want = modelRegistered
				}
				if !equalJSON(t, a.body, want) {
					t.Errorf("body\n%s\nwant\n%s", a.body, want)
				}
			}
			shown := s.preview(r, 0)
			if text := fmt.Sprint(shown.RequestLine, shown.Headers, string(shown.Body)); strings.Contains(text, suiteSecret) {
				t.Errorf("the preview shows a secret: %s", text)
			}
		})
		t.Run(c.kind+" in trouble", func(t *testing.T) {
			testTarget(t, c.kind, nil, counterpart{
				values: c.values, secrets: c.secrets,
				open: func(t *testing.T, address string) targetSender { return triggerOf(t, c, "http://"+address) },
			})
		})
	}
}

func equalJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Errorf("%v in %s", err, a)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Errorf("%v in %s", err, b)
	}
	return reflect.DeepEqual(x, y)
}

// TestTriggerKey holds that the key of an event is the same in every attempt, and of no
// other event or event subscription.
func TestTriggerKey(t *testing.T) {
	keyOf := func(uid string, from int, body string, count int) string {
		s := triggerOf(t, triggerCases[0], "https://airflow.example").(*trigger)
		s.uid = uid
		r := attemptOf("Airflow", from, body)
		r.Parts[0].Count = count
		o, err := s.occur(r, 0)
		if err != nil {
			t.Fatal(err)
		}
		return o.key
	}
	first := keyOf("a", 1, modelRegistered, 0)
	if len(first) != 32 || keyOf("a", 1, modelRegistered, 3) != first {
		t.Errorf("key %s, at a later attempt %s", first, keyOf("a", 1, modelRegistered, 3))
	}
	for name, other := range map[string]string{
		"another event subscription": keyOf("b", 1, modelRegistered, 0),
		"another event":              keyOf("a", 2, strings.Replace(modelRegistered, `"e1"`, `"e2"`, 1), 0),
		"the id published again":     keyOf("a", 2, modelRegistered, 0),
	} {
		if other == first {
			t.Errorf("%s has the same key", name)
		}
	}
}

// TestAirflowToken: Airflow 3 takes tokens that a user and password get; one that is
// refused is renewed once.
func TestAirflowToken(t *testing.T) {
	srv := newTriggerServer(t)
	issued := 0
	srv.will(func(a told) (int, map[string]string, string) {
		if a.path == "/auth/token" {
			if !strings.Contains(a.body, suiteSecret) {
				return 401, nil, ""
			}
			issued++
			return 201, nil, fmt.Sprintf(`{"access_token":"t%d"}`, issued)
		}
		if a.header.Get("Authorization") != "Bearer t2" {
			return 401, nil, ""
		}
		return 200, nil, "{}"
	})
	c := triggerCase{kind: "Airflow", values: map[string]any{"url": "$", "dagId": "d", "username": "u"}, secrets: map[string]string{"password": suiteSecret}}
	s := triggerOf(t, c, srv.URL)
	for range 2 {
		if got := s.Send(t.Context(), attemptOf("Airflow", 1, modelRegistered)); got.Outcome != broker.Delivered {
			t.Fatalf("%+v", got)
		}
	}
	if issued != 2 || len(srv.got()) != 5 { // token, refused, token, taken; taken
		t.Errorf("%d tokens, %d requests", issued, len(srv.got()))
	}
	c.secrets = map[string]string{"password": "wrong"}
	if got := triggerOf(t, c, srv.URL).Send(t.Context(), attemptOf("Airflow", 1, modelRegistered)); got.Outcome != broker.Unauthorized || got.Verdict != broker.TryAgain {
		t.Errorf("wrong password: %+v", got)
	}
}

// TestJudges holds answers whose meaning is not in the status alone.
func TestJudges(t *testing.T) {
	for _, tt := range []struct {
		name    string
		judge   func(answered) broker.Response
		status  int
		headers answered
		body    string
		outcome broker.Outcome
		verdict broker.Verdict
	}{
		{"GitHub's limit", judgeGitHub, 403, answered{remaining: "0"}, "", broker.Busy, broker.TryAgain},
		{"GitHub's second limit", judgeGitHub, 429, answered{retryAfter: "60"}, "", broker.Busy, broker.TryAgain},
		{"a token that may not", judgeGitHub, 403, answered{remaining: "4999"}, "", broker.Forbidden, broker.GiveUp},
		{"Dagster has the run", judgeDagster, 200, answered{}, `{"data":{"launchRun":{"__typename":"RunConflict"}}}`, broker.Delivered, broker.ByOutcome},
		{"Dagster fails", judgeDagster, 200, answered{}, `{"data":{"launchRun":{"__typename":"PythonError","message":"boom"}}}`, broker.GenericError, broker.TryAgain},
		{"Dagster refuses the config", judgeDagster, 200, answered{}, `{"data":{"launchRun":{"__typename":"RunConfigValidationInvalid"}}}`, broker.BadRequest, broker.GiveUp},
		{"Dagster does not understand", judgeDagster, 200, answered{}, `{"errors":[{"message":"no such field"}]}`, broker.BadRequest, broker.GiveUp},
		{"no GraphQL", judgeDagster, 200, answered{}, `<html>`, broker.GenericError, broker.TryAgain},
		{"a quota of Kubernetes", kubernetesJob.judge, 403, answered{}, `{"message":"pods \"x\" is forbidden: exceeded quota: q"}`, broker.Full, broker.TryAgain},
		{"a role of Kubernetes", kubernetesJob.judge, 403, answered{}, `{"message":"cannot create resource"}`, broker.Forbidden, broker.GiveUp},
		{"a redirect", airflow.judge, 302, answered{}, ``, broker.GenericError, broker.TryAgain},
		{"another success", airflow.judge, 204, answered{}, ``, broker.GenericError, broker.TryAgain},
	} {
		tt.headers.status, tt.headers.body = tt.status, []byte(tt.body)
		if got := tt.judge(tt.headers); got.Outcome != tt.outcome || got.Verdict != tt.verdict {
			t.Errorf("%s: %s %d, want %s %d", tt.name, got.Outcome, got.Verdict, tt.outcome, tt.verdict)
		}
	}
}

// TestExpressions holds what expressions can do, and that they end.
func TestExpressions(t *testing.T) {
	const odd = `{"specversion":"1.0","id":"e2","source":"/s","type":"T","subject":"a\"b","data":{"k\u0061":"v\n","twice":1,"twice":2,"no":null,"list":[1,{"x":"y"}],"empty":{},"big":12345678901234567890}}`
	for _, tt := range []struct{ text, want string }{
		{`{"model": data.modelName, "n": data.n + 1.0}`, `{"model":"churn","n":8}`},
		{`data.evil`, `"\"}],<&> $(rm)"`},
		{`subject.split("/")[1].split(":")`, `["churn","3"]`},
		{`has(data.missing) ? data.missing : "none"`, `"none"`},
		{`event.data.nested.a.map(x, x * 2.0)`, `[2]`},
		{`null`, `null`},
		{`data.missing`, ``},
		{`event`, modelRegistered},
		{`{"event": event, "again": [data, data.nested]}`, `{"event":` + modelRegistered + `,"again":[{"modelName":"churn","modelVersion":"3","n":7,"nested":{"a":[1]},"evil":"\"}],<&> $(rm)"},{"a":[1]}]}`},
		{`"modelName" in data && !("x" in data) && !(1 in data) && has(event.data.nested.a) && !has(data.nested.b)`, `true`},
		{`[size(data), size(data.nested)]`, `[5,1]`},
		{`data == event.data && data != data.nested && data.nested == {"a": [1.0]} && {"a": [1.0]} == data.nested`, `true`},
		{`data.exists(k, k == "n") && data.nested.map(k, data.nested[k][0]) == [1.0]`, `true`},
		{`type(data) == map && dyn(data.nested) == dyn(data["nested"])`, `true`},
		{`data.n > 3.0 ? data.nested : data`, `{"a":[1]}`},
		{`[subject, source, time, type, key]`, `["models/churn:3","/t","2026-03-01T10:00:00Z","T.ModelRegistered","k"]`},
		{`data["n" + "one"]`, ``},
		{`[9007199254740991, 9007199254740993, -9007199254740993, 7u]`, `[9007199254740991,"9007199254740993","-9007199254740993",7]`},
		{`[b"x", timestamp("2026-01-02T03:04:05Z"), duration("90s")]`, `["eA==","2026-01-02T03:04:05Z","90s"]`},
		{`{1: "one"}`, ``},
		{`[1.0 / 0.0]`, `["Infinity"]`},
		{`odd: data.ka`, `"v\n"`},
		{`odd: [data.twice, data.no, data.list[1].x, data.empty, subject]`, `[2,null,"y",{},"a\"b"]`},
		{`odd: data.big`, `12345678901234567000`},
		{`odd: data.list`, `[1,{"x":"y"}]`},
		{`bad: event.n`, ``},
		{`bad: event.list`, ``},
		{`bad: size(event)`, ``},
		{`bad: event.fine`, `1`},
		{`own: [data.a, id, event.b]`, `[1,"",{"c":true}]`},
		{`own: event`, `{"b":{"c":true},"data":{"a":1}}`},
		{`none: [data, event]`, `[null,{"id":"e3","topic":"/t","subject":"s","eventType":"T","eventTime":"2026-03-01T10:00:00Z","dataVersion":""}]`},
		{`[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, [1,2,3,4,5,6,7,8,9,10].map(d, [1,2,3,4,5,6,7,8,9,10].map(e, a*b*c*d*e)))))`, ``},
	} {
		of, text, special := strings.Cut(tt.text, ": ")
		raw, schema := modelRegistered, event.EventGridSchema
		switch of {
		case "odd":
			raw, schema = odd, event.CloudEventSchemaV1_0
		case "bad": // a number that is none to anybody
			raw, schema = `{"n":1e999,"fine":1,"list":[1e999]}`, event.CustomEventSchema
		case "own":
			raw, schema = `{"b":{"c":true},"data":{"a":1}}`, event.CustomEventSchema
		case "none":
			raw = `{"id":"e3","topic":"/t","subject":"s","eventType":"T","eventTime":"2026-03-01T10:00:00Z","dataVersion":""}`
		default:
			special = false
		}
		if !special {
			text = tt.text
		}
		e, err := compile(text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		f := facts{key: "k"}
		f.read([]byte(raw), schema)
		made, err := e.of(&f)
		got, _ := json.Marshal(made)
		if (err == nil) != (tt.want != "") || err == nil && !equalJSON(t, string(got), tt.want) {
			t.Errorf("%s: %s, %v; want %s", tt.text, got, err, tt.want)
		}
	}
	for _, bad := range []string{``, `{"model": }`, `unknown.name`, `"x" * 3`, strings.Repeat("(", 100) + strings.Repeat(")", 100), `"` + strings.Repeat("x", 5<<10) + `"`} {
		if _, err := compile(bad); err == nil {
			t.Errorf("%.40s is an expression", bad)
		}
	}
}

// TestDataFactory runs a pipeline as Azure's API is documented: a token, createRun, and
// before a second attempt a look at the runs. Source: spec/handlers.md section 6.
func TestDataFactory(t *testing.T) {
	const pipeline = "/subscriptions/s/resourceGroups/g/providers/Microsoft.DataFactory/factories/f/pipelines/retrain"
	srv := newTriggerServer(t)
	var runs []string
	fail := false
	srv.will(func(a told) (int, map[string]string, string) {
		switch {
		case a.path == "/tenant/oauth2/v2.0/token":
			form, _ := url.ParseQuery(a.body)
			if form.Get("client_secret") != suiteSecret || form.Get("scope") != srv.URL+"/.default" {
				return 401, nil, `{"error":"invalid_client"}`
			}
			return 200, nil, `{"access_token":"bearer-text","expires_in":3600}`
		case a.header.Get("Authorization") != "Bearer bearer-text":
			return 401, nil, ""
		case a.path == pipeline+"/createRun?api-version=2018-06-01":
			runs = append(runs, a.body)
			if fail {
				return 500, nil, "" // it had started all the same
			}
			return 200, nil, `{"runId":"r"}`
		case strings.HasSuffix(a.path, "/factories/f/queryPipelineRuns?api-version=2018-06-01"):
			var value []string
			for _, r := range runs {
				value = append(value, `{"pipelineName":"retrain","parameters":`+r+`}`)
			}
			return 200, nil, `{"value":[` + strings.Join(value, ",") + `]}`
		}
		return 404, nil, ""
	})
	connect := func(text string) *Connections { // the factory's holds for its pipelines
		return connectionsTo(t, resource.MustID(pipeline).Parent(), text)
	}
	text := "TenantId=tenant;ClientId=app;ClientSecret=" + suiteSecret + ";Authority=" + srv.URL + ";Endpoint=" + srv.URL
	factory := newConnected(t)
	factory.set(resource.MustID(pipeline).Parent(), text)
	s := targetOf(t, "DataFactoryPipeline", map[string]any{"resourceId": pipeline, "parameters": `{"model": data.modelName}`}, nil, factory.Connections)
	fail = true
	r := attemptOf("DataFactoryPipeline", 1, modelRegistered)
	if got := s.Send(t.Context(), r); got.Outcome != broker.GenericError || got.Verdict != broker.TryAgain {
		t.Fatalf("first attempt: %+v", got)
	}
	fail = false
	r = attemptOf("DataFactoryPipeline", 1, modelRegistered)
	r.Parts[0].Count = 1
	if got := s.Send(t.Context(), r); got.Outcome != broker.Delivered || len(runs) != 1 || !equalJSON(t, runs[0], `{"model":"churn","eventId":"e1"}`) {
		t.Errorf("second attempt: %+v, runs %s", got, runs)
	}
	other := strings.Replace(modelRegistered, `"e1"`, `"e2"`, 1)
	r = attemptOf("DataFactoryPipeline", 2, other)
	r.Parts[0].Count = 1
	if got := s.Send(t.Context(), r); got.Outcome != broker.Delivered || len(runs) != 2 {
		t.Errorf("another event: %+v, %d runs", got, len(runs))
	}
	factory.set(resource.MustID(pipeline).Parent(), strings.Replace(text, suiteSecret, "revoked", 1))
	if got := s.Send(t.Context(), attemptOf("DataFactoryPipeline", 3, other)); got.Outcome != broker.Unauthorized || got.Verdict != broker.TryAgain {
		t.Errorf("with another connection the token of the one before is used: %+v", got)
	}
	wrong := targetOf(t, "DataFactoryPipeline", map[string]any{"resourceId": pipeline}, nil, connect(strings.Replace(text, suiteSecret, "wrong", 1)))
	if got := wrong.Send(t.Context(), attemptOf("DataFactoryPipeline", 1, modelRegistered)); got.Outcome != broker.Unauthorized || got.Verdict != broker.TryAgain {
		t.Errorf("wrong secret: %+v", got)
	}
	for _, bad := range []string{"TenantId=t;ClientId=c", "x"} {
		if err := checkOf("DataFactoryPipeline", map[string]any{"resourceId": pipeline}, connect(bad)); err == nil {
			t.Errorf("%s is a connection", bad)
		}
	}
}

// TestAzureWebhooks delivers to a function and to a relay as their pages say.
// Source: spec/handlers.md sections 3 and 9.
func TestAzureWebhooks(t *testing.T) {
	srv := newTriggerServer(t)
	for _, tt := range []struct {
		kind, id, connection, path string
		header                     string // that has to be there
		statuses                   map[int]string
	}{
		{
			"AzureFunction", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/app/functions/retrain", "Endpoint=$/;SystemKey=" + suiteSecret,
			"/runtime/webhooks/eventgrid?code=" + suiteSecret + "&functionName=retrain", "Aeg-Event-Type",
			map[int]string{202: taken, 200: taken, 400: never, 403: never, 413: never, 401: again, 404: again, 500: again},
		},
		{
			"HybridConnection", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Relay/namespaces/ns/hybridConnections/hc",
			"Endpoint=$;SharedAccessKeyName=send;SharedAccessKey=" + suiteSecret, "/hc", "Servicebusauthorization",
			map[int]string{200: taken, 400: never, 403: never, 401: again, 404: again, 502: again, 504: again},
		},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			app, connection := resource.MustID(tt.id).Parent(), strings.Replace(tt.connection, "$", srv.URL, 1)
			connections := newConnected(t)
			connections.set(app, strings.Replace(connection, suiteSecret, "first", 1))
			s := targetOf(t, tt.kind, map[string]any{"resourceId": tt.id}, nil, connections.Connections)
			srv.will(func(told) (int, map[string]string, string) { return 200, nil, "" })
			send := func() (path, token string) {
				if got := s.Send(t.Context(), &broker.Request{Body: []byte("[]"), ContentType: "application/json", Hold: 30 * time.Second}); got.Outcome != broker.Delivered {
					t.Errorf("%+v", got)
				}
				asked := srv.got()
				last := asked[len(asked)-1]
				return last.path, last.header.Get(relayHeader)
			}
			path, token := send()
			if again, same := send(); again != path || same != token {
				t.Error("the keys are looked for, and nothing changed")
			}
			connections.set(app, connection) // the next attempt has the new key
			if newPath, newToken := send(); newPath == path && newToken == token {
				t.Errorf("%s with %s is asked after the key was changed", newPath, newToken)
			}
			for status, want := range tt.statuses {
				srv.will(func(told) (int, map[string]string, string) { return status, nil, suiteSecret })
				r := &broker.Request{Body: []byte("[" + modelRegistered + "]"), ContentType: "application/json; charset=utf-8", Hold: 30 * time.Second, Single: &broker.SingleEvent{OutputID: "o", MetadataVersion: "1", DataVersion: "2"}}
				got := s.Send(t.Context(), r)
				verdict := map[broker.Action]string{broker.Done: taken, broker.Retry: again, broker.DeadLetter: never}[broker.Policy{MaxAttempts: 30, TimeToLive: time.Hour}.Next(1, time.Now(), got, time.Now(), 0).Action]
				if verdict != want || strings.Contains(got.Detail, suiteSecret) {
					t.Errorf("%d: %s (%+v), want %s", status, verdict, got, want)
				}
				shown := s.preview(r, 0)
				if text := fmt.Sprint(shown); strings.Contains(text, suiteSecret) || strings.Contains(text, "sig=") {
					t.Errorf("the preview shows a secret: %s", text)
				}
			}
			asked := srv.got()
			a := asked[len(asked)-1]
			if a.path != tt.path || a.header.Get(tt.header) == "" || a.body != "["+modelRegistered+"]" || a.header.Get("x-key") != suiteSecret {
				t.Errorf("asked %s with %v: %s", a.path, a.header, a.body)
			}
			if token := a.header.Get(relayHeader); tt.kind == "HybridConnection" {
				values, err := url.ParseQuery(strings.TrimPrefix(token, "SharedAccessSignature "))
				if err != nil || values.Get("skn") != "send" || !strings.HasSuffix(values.Get("sr"), "/hc") || values.Get("sig") == "" {
					t.Errorf("token %q", token)
				}
			}
			if err := checkOf(tt.kind, map[string]any{"resourceId": tt.id}, connectionsTo(t, resource.MustID(tt.id), "x=y")); err == nil {
				t.Error("a connection without an address is taken")
			}
		})
	}
}

// TestTriggerAnswers holds what is read of answers, and whether the connection is used again:
// by the number of the connection that the next request comes on.
func TestTriggerAnswers(t *testing.T) {
	long := strings.Repeat("x", mostAnswer)
	gzipped := func(text string) string {
		var b strings.Builder
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, text)
		_ = z.Close()
		return b.String()
	}
	compressed, bomb := gzipped("ok"), gzipped(strings.Repeat("x", 8<<20))
	for _, tt := range []struct {
		name, answer string
		body         string
		next         int
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 1},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX: y\r\n\r\n", "ok", 1},
		{"to the end of the connection", "HTTP/1.1 200 OK\r\n\r\nok", "ok", 2},
		{"closing", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", 2},
		{"none", "HTTP/1.1 204 No\r\n\r\n", "", 1},
		{"informational heads before it", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 1},
		{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "ok", 2},
		{"the most", "HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(long)) + "\r\n\r\n" + long, long, 1},
		{"more than that", "HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(long)+1) + "\r\n\r\n" + long + "y", long, 2},
		{"compressed unasked", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + fmt.Sprint(len(compressed)) + "\r\n\r\n" + compressed, "ok", 1},
		{"much that was compressed", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + fmt.Sprint(len(bomb)) + "\r\n\r\n" + bomb, long, 1},
		{"compressed, not as it says", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", "", 1},
		{"more than its length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok?", "ok", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on := make(chan int, 2)
			address := rawServer(t, func(number int, c net.Conn) {
				for {
					if _, err := readRequest(c); err != nil {
						return
					}
					on <- number
					_, _ = io.WriteString(c, tt.answer)
					if tt.next == 2 {
						if tt.name == "cut short" || tt.name == "to the end of the connection" {
							return
						}
						_, _ = io.Copy(io.Discard, c)
						return
					}
				}
			})
			s := targetOf(t, "ArgoEvents", map[string]any{"url": address}, nil, nil).(*trigger)
			for _, want := range []int{1, tt.next} {
				got, err := s.exchange(t.Context(), outgoing{method: "POST", url: address, until: time.Now().Add(10 * time.Second)}, false)
				if err != nil || string(got.body) != tt.body {
					t.Fatalf("%d %.50q %v, want %.50q", got.status, got.body, err, tt.body)
				}
				if number := <-on; number != want {
					t.Errorf("on connection %d, want %d", number, want)
				}
			}
		})
	}
}

// TestTriggerOnClosedConnection: a server reads a request on a connection that was used
// before, and closes it. Whether it started something nobody knows: the request is sent once
// more, but for those who look first for what it started.
func TestTriggerOnClosedConnection(t *testing.T) {
	const pipeline = "/subscriptions/s/resourceGroups/g/providers/Microsoft.DataFactory/factories/f/pipelines/retrain"
	for _, tt := range []struct {
		kind  string
		runs  int
		first broker.Outcome // of the event after one that went well
	}{
		{"ArgoEvents", 2, broker.Delivered},
		{"DataFactoryPipeline", 1, broker.SocketError},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			runs := make(chan string, 10) // of the second event
			var served atomic.Int64
			address := rawServer(t, func(_ int, c net.Conn) {
				for {
					raw, err := readRequest(c)
					if err != nil {
						return
					}
					answer := `{"access_token":"t","expires_in":3600}`
					if !strings.Contains(raw, "oauth2") {
						n := served.Add(1)
						if n > 1 {
							runs <- raw
						}
						if n == 2 {
							return
						}
					}
					_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
				}
			})
			address, _, _ = strings.Cut(address, "/in")
			values, connections := map[string]any{"url": address}, (*Connections)(nil)
			if tt.kind == "DataFactoryPipeline" {
				values = map[string]any{"resourceId": pipeline}
				connections = connectionsTo(t, resource.MustID(pipeline).Parent(), "TenantId=t;ClientId=c;ClientSecret=s;Authority="+address+";Endpoint="+address)
			}
			s := targetOf(t, tt.kind, values, nil, connections)
			if got := s.Send(t.Context(), attemptOf(tt.kind, 1, modelRegistered)); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
			if got := s.Send(t.Context(), attemptOf(tt.kind, 2, modelRegistered)); got.Outcome != tt.first || len(runs) != tt.runs {
				t.Errorf("%+v after %d requests, want %s after %d", got, len(runs), tt.first, tt.runs)
			}
		})
	}
}

// TestExpressionsOfLargeEvents: what an expression asks of an event of a megabyte costs no
// more than some readings of it, however often it asks.
func TestExpressionsOfLargeEvents(t *testing.T) {
	var members strings.Builder
	for i := range 20_000 {
		_, _ = fmt.Fprintf(&members, `"m%d":%d,`, i, i)
	}
	raw := strings.Replace(modelRegistered, `"data":{`, `"data":{"list":[0`+strings.Repeat(",1", 15_000)+`],"big":{`+members.String()+`"a":1},`+members.String(), 1)
	for _, text := range []string{
		`data.m9`, `data.map(k, data[k])`, `data.map(k, event.data[k])`, `data.big.map(k, data.big[k])`, `data == event.data`, `"%s".format([data])`,
		`data.list.exists(x, size(event.data.big) == 0)`, `data.list.exists(x, data.big == event.data)`, `data.list.exists(x, x == data.big.m9)`,
	} {
		e, err := compile(text)
		if err != nil {
			t.Fatal(err)
		}
		f := facts{key: "k"}
		f.read([]byte(raw), event.EventGridSchema)
		_, _ = e.of(&f) // some cost more than expressions may
		if most := 4 * mostLooks * len(raw); f.looked > most {
			t.Errorf("%s reads %d bytes of %d", text, f.looked, len(raw))
		}
	}
}

// TestTriggerPreviewHides: what is shown of a request has no secret, also where it is written
// with escapes.
func TestTriggerPreviewHides(t *testing.T) {
	const token = `gl<pt>&"s3cret"`
	s := targetOf(t, "GitLab", map[string]any{"url": "https://gitlab.example", "project": "p"}, map[string]string{"token": token}, nil)
	shown := s.preview(attemptOf("GitLab", 1, modelRegistered), 0)
	if body := string(shown.Body); strings.Contains(body, "s3cret") || !strings.Contains(body, secret.Hidden) {
		t.Error(body)
	}
}

// TestTriggerProbeEnds: of a server that does not answer, whoever makes an event subscription
// hears that, and not that somebody gave up.
func TestTriggerProbeEnds(t *testing.T) {
	address := rawServer(t, func(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	address, _, _ = strings.Cut(address, "/in")
	s := targetOf(t, "Prefect", map[string]any{"url": address, "deploymentId": "d"}, nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.probe(ctx); err == nil || !strings.Contains(err.Error(), "no answer within") {
		t.Error(err)
	}
}

// TestTriggerToHTTP2: of a server that speaks another protocol alone, HTTP/2 mostly, the error says so.
func TestTriggerToHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	srv.TLS.NextProtos = []string{"grpc-exp"} // with h2, crypto/tls speaks HTTP/1.1 as well
	t.Cleanup(srv.Close)
	s := targetOf(t, "ArgoEvents", map[string]any{"url": srv.URL}, nil, nil).(*trigger)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	s.guard = egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})
	if got := s.Send(t.Context(), attemptOf("ArgoEvents", 1, modelRegistered)); got.Outcome != broker.SocketError || !strings.Contains(got.Detail, "does not speak HTTP/1.1") {
		t.Errorf("%+v", got)
	}
}
