package mlflow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/workspace"
)

type answers func(*http.Request) (int, string)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	if status == 0 {
		return nil, errors.New("nobody answers")
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// Source: spec/workspace.md sections 4.1 and 4.4.
func TestClientSaysWhoItIs(t *testing.T) {
	for name, c := range map[string]struct {
		connection Connection
		address    string
		header     string
		value      string
	}{
		"plain":     {Connection{URL: "http://m:5000"}, "http://m:5000/api/2.0/mlflow/experiments/search", "Authorization", ""},
		"ingress":   {Connection{URL: "https://m/tools/mlflow/"}, "https://m/tools/mlflow/api/2.0/mlflow/experiments/search", "Authorization", ""},
		"prefix":    {Connection{URL: "https://m", StaticPrefix: "/ui"}, "https://m/ui/ajax-api/2.0/mlflow/experiments/search", "Authorization", ""},
		"basic":     {Connection{URL: "https://m", Username: "kim", Password: "s3cret"}, "https://m/api/2.0/mlflow/experiments/search", "Authorization", "Basic a2ltOnMzY3JldA=="},
		"bearer":    {Connection{URL: "https://m", Token: "t0ken"}, "https://m/api/2.0/mlflow/experiments/search", "Authorization", "Bearer t0ken"},
		"workspace": {Connection{URL: "https://m", Workspace: "team-a"}, "https://m/api/2.0/mlflow/experiments/search", "X-Mlflow-Workspace", "team-a"},
	} {
		t.Run(name, func(t *testing.T) {
			client := NewClient(c.connection, &http.Client{Transport: answers(func(r *http.Request) (int, string) {
				if r.URL.String() != c.address || r.Header.Get(c.header) != c.value {
					t.Errorf("asked %s with %s %q, want %s with %q", r.URL, c.header, r.Header.Get(c.header), c.address, c.value)
				}
				return http.StatusOK, "{}"
			})})
			if err := client.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestErrorsShowNoSecret(t *testing.T) {
	for name, c := range map[string]struct {
		status       int
		body         string
		want         string
		refused, bad bool
	}{
		"echoed":     {401, `{"error_code":"UNAUTHENTICATED","message":"the password s3cret of Bearer t0ken\nis wrong"}`, "answered 401 UNAUTHENTICATED: the password [hidden]", true, false},
		"code":       {400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"no"}`, "answered 400 INVALID_PARAMETER_VALUE: no", false, true},
		"number":     {500, `{"error_code":13,"message":"no"}`, "answered 500: no", false, false},
		"page":       {502, "<html>s3cret", "answered 502", false, false},
		"redirect":   {302, "", "answered 302", false, false},
		"not MLflow": {200, "<html>s3cret", "is not MLflow's", false, false},
		"nobody":     {0, "", "nobody answers", false, false},
		"large":      {200, strings.Repeat(" ", answerLimit+1), "too large", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := NewClient(Connection{URL: "https://m", Username: "kim", Password: "s3cret", Token: "t0ken"}, &http.Client{
				Transport: answers(func(*http.Request) (int, string) { return c.status, c.body }),
			})
			err := client.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "t0ken") {
				t.Errorf("error %q, want %q", err, c.want)
			}
			if Refused(err) != c.refused || invalid(err) != c.bad || absent(err) {
				t.Errorf("refused %v, invalid %v, absent %v", Refused(err), invalid(err), absent(err))
			}
		})
	}
}

// What a server says in few bytes, or goes on saying, takes no memory without bounds.
func TestLongLists(t *testing.T) {
	many := func(one string, n int) string { return "[" + one + strings.Repeat(","+one, n-1) + "]" }
	answer, asked := "", 0
	client := NewClient(Connection{URL: "https://m"}, &http.Client{
		Transport: answers(func(*http.Request) (int, string) {
			asked++
			return 200, strings.Replace(answer, `"more"`, fmt.Sprintf(`"%d"`, asked), 1)
		}),
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	answer = `{"runs":` + many("null", 5_000_000) + `}`
	if _, _, err := client.searchRuns(t.Context(), runQuery{}); err == nil || !strings.Contains(err.Error(), "more than 10000 objects") {
		t.Errorf("runs: %v", err)
	}
	answer = `{"run":{"info":{"run_id":"a"},"data":{"tags":` + many(`{"key":"a]},\"\\"}`, mostLabels+2) + `,"params":` + many("null", 5_000_000) + `}}}`
	if r, err := client.run(t.Context(), "a"); err != nil || len(r.Data.Tags) != mostLabels || r.Data.Tags[mostLabels-1].Key != `a]},"\` || len(r.Data.Params) != mostLabels {
		t.Errorf("%d tags, %d parameters, error %v", len(r.Data.Tags), len(r.Data.Params), err)
	}
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 500 {
		t.Errorf("two answers of 24 MiB took %d MiB", took)
	}
	answer = `{"experiments":` + many(`{"experiment_id":"1","name":"a"}`, mostListed) + `,"next_page_token":"more"}`
	if _, err := client.experiments(t.Context()); !errors.Is(err, errTooMany) {
		t.Errorf("experiments: %v", err)
	}
	for _, n := range []int{0, 1, mostListed} {
		answer = `{"runs":` + strings.Replace(many(`{"info":{"run_id":"a"}}`, max(n, 1)), `{"info":{"run_id":"a"}}`, "", 1-min(n, 1)) + `}`
		if runs, _, err := client.searchRuns(t.Context(), runQuery{}); err != nil || len(runs) != n {
			t.Errorf("%d runs of %d, error %v", len(runs), n, err)
		}
	}
}

// Source: spec/workspace.md section 5.2.
func TestFieldsOfRunsAndVersions(t *testing.T) {
	const given = `{"info":{"run_id":"4f8b","run_name":"quiet-owl","experiment_id":"3","user_id":"kim","status":"KILLED","start_time":"1772442847531","end_time":1772442849000,
		"artifact_uri":"s3://b/3/4f8b","lifecycle_stage":"active"},"data":{"params":[{"key":"lr","value":"0.1"}],
		"tags":[{"key":"team","value":"growth"},{"key":"mlflow.source.type","value":"NOTEBOOK"},{"key":"mlflow.parentRunId","value":"11"}]}}`
	var r run
	if err := json.Unmarshal([]byte(given), &r); err != nil {
		t.Fatal(err)
	}
	o := r.observation("churn", false)
	raw, _ := json.Marshal([]any{o.ID, o.ExperimentID, o.Experiment, o.Status, o.RunType, o.Tags, o.Properties, o.StartTime, o.EndTime})
	if want := `["4f8b","3","churn","Canceled","mlflow.notebook.child",{"team":"growth"},{"mlflow.artifactUri":"s3://b/3/4f8b","mlflow.endTime":"2026-03-02T09:14:09.0000000Z",` +
		`"mlflow.lifecycleStage":"active","mlflow.param.lr":"0.1","mlflow.parentRunId":"11","mlflow.runName":"quiet-owl","mlflow.source.type":"NOTEBOOK",` +
		`"mlflow.startTime":"2026-03-02T09:14:07.5310000Z","mlflow.user":"kim"},"2026-03-02T09:14:07.5310000Z","2026-03-02T09:14:09.0000000Z"]`; string(raw) != want {
		t.Errorf("observation\n%s, want\n%s", raw, want)
	}
	v := modelVersion{Name: "churn", Version: "4", Created: 1772442847531, RunID: "4f8b", Source: "models:/m-7c", Aliases: []string{"new", "champion"}, Tags: []pair{{"stage", "candidate"}}, Stage: "None", ModelID: "m-7c"}
	raw, _ = json.Marshal(v.observation(nil))
	if want := `{"Model":"churn","Version":"4","Created":1772442847531,"RunID":"4f8b","URI":"models:/m-7c","Tags":{"stage":"candidate"},"Properties":{"mlflow.aliases":"champion,new",` +
		`"mlflow.creationTime":"2026-03-02T09:14:07.5310000Z","mlflow.modelId":"m-7c","mlflow.modelUri":"models:/churn/4","mlflow.runId":"4f8b","mlflow.source":"models:/m-7c","mlflow.stage":"None"},` +
		`"RenamedFrom":"","Seen":"","Silent":false}`; string(raw) != want {
		t.Errorf("observation\n%s, want\n%s", raw, want)
	}
}

// Clients report the repository that they ran in, with the token that it was read by.
func TestUserInformationGoes(t *testing.T) {
	const repository = "https://oauth2:s3cret@git.example/churn"
	var r run
	r.Data.Params, r.Data.Tags = []pair{{"repo", repository}}, []pair{{"mlflow.source.git.repoURL", repository}, {"repo", repository}}
	r.Info.ArtifactURI = "ftp://ann:s3cret@files.example/3"
	v := modelVersion{Name: "churn", Version: "4", Source: "ftp://ann:s3cret@files.example/3", Tags: []pair{{"repo", repository}}, Description: "of " + repository}
	o := r.observation("churn", false)
	raw, err := json.Marshal([]any{o.Tags, o.Properties, v.observation([]pair{{"from", repository}})})
	if err != nil || strings.Contains(string(raw), "s3cret") || o.Properties["mlflow.source.git.repoURL"] != "https://git.example/churn" {
		t.Errorf("observations %s, %v", raw, err)
	}
}

func TestLargeRunsAreShortened(t *testing.T) {
	var r run
	for i := range 100 {
		r.Data.Params = append(r.Data.Params, pair{strings.Repeat("k", i+1), strings.Repeat("ü", 3000)})
		r.Data.Tags = append(r.Data.Tags, pair{strings.Repeat("t", 3000+i), "v"})
	}
	r.Data.Tags = append(r.Data.Tags, pair{"team", "growth"})
	o := r.observation("churn", false)
	size := 0
	for _, m := range []map[string]string{o.Tags, o.Properties} {
		for k, v := range m {
			size += len(k) + len(v)
		}
	}
	if size > workspace.MaxLabels || size < workspace.MaxLabels/2 || o.Properties["carillon.truncated"] != "true" || o.Tags["team"] != "growth" {
		t.Errorf("%d bytes, tag team %q", size, o.Tags["team"])
	}
}

// Whatever a server answers: no panic, no secret in an error, and maps that fit.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"runs":[{"info":{"run_id":"a","status":"RUNNING","start_time":1,"end_time":"2","experiment_id":"0"},"data":{"tags":[{"key":"mlflow.a","value":"b"}]}}],"next_page_token":"x"}`,
		`{"model_versions":[{"name":"m","version":"1","creation_timestamp":9223372036854775807,"aliases":null}]}`,
		`{"error_code":1,"message":"s3cret"}`, `{"runs":null}`, `[]`, `{"runs":[null]}`, `{"experiments":[{"experiment_id":1}]}`, `{"runs":[{"info":{"start_time":1e9}}]}`,
	} {
		f.Add(200, []byte(seed))
		f.Add(400, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 100 || status > 599 {
			status = 200
		}
		client := NewClient(Connection{URL: "https://m", Token: secret.String("s3cret")}, &http.Client{
			Transport: answers(func(*http.Request) (int, string) { return status, string(body) }),
		})
		check := func(err error) {
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %q shows the secret", err)
			}
		}
		runs, _, err := client.searchRuns(t.Context(), runQuery{})
		check(err)
		for i := range runs {
			o := runs[i].observation("e", false)
			size := 0
			for _, m := range []map[string]string{o.Tags, o.Properties} {
				for k, v := range m {
					size += len(k) + len(v)
				}
			}
			if size > workspace.MaxLabels || o.RunType == "" || o.Status == "" {
				t.Errorf("observation of %d bytes: %+v", size, o)
			}
		}
		versions, _, err := client.modelVersions(t.Context(), "", "")
		check(err)
		for i := range versions {
			versions[i].observation(nil)
		}
		_, _, err = client.registeredModels(t.Context(), "", 100)
		check(err)
	})
}
