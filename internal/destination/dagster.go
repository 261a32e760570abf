package destination

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/broker"
)

// dagster launches a run with an id of its own: a repeated request meets the run that is
// there. Its answers are 200 also where nothing was started.
// Source: spec/handlers.md section 14.6.
var dagster = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		config, err := o.object()
		if err != nil {
			return outgoing{}, err
		}
		return post(t.base("url", "graphql"), map[string]any{"query": dagsterLaunch, "variables": map[string]any{"executionParams": map[string]any{
			"selector":      map[string]string{"repositoryLocationName": t.values.Text("location"), "repositoryName": t.setting("repository"), "jobName": t.values.Text("job")},
			"runConfigData": config,
			"executionMetadata": map[string]any{
				"runId": guidOf(o.key),
				"tags":  []map[string]string{{"key": "carillon/event_id", "value": o.text("id")}, {"key": "carillon/key", "value": o.key}},
			},
		}}})
	},
	judge: judgeDagster,
	sign: func(_ context.Context, t *trigger, out *outgoing, _ bool) error {
		if token := t.secrets["token"]; token != "" {
			out.add("Dagster-Cloud-Api-Token", token)
		}
		return nil
	},
}

const dagsterLaunch = `mutation Launch($executionParams: ExecutionParams!) { launchRun(executionParams: $executionParams) { __typename
 ... on LaunchRunSuccess { run { runId } } ... on RunConflict { message } ... on PythonError { message } } }`

func judgeDagster(r answered) broker.Response {
	if r.status != http.StatusOK {
		return byTable(nil, []int{400, 401, 403, 404, 422})(r)
	}
	var answer struct {
		Data struct {
			LaunchRun struct {
				Typename string `json:"__typename"`
				Message  string `json:"message"`
			} `json:"launchRun"`
		} `json:"data"`
		Errors []json.RawMessage `json:"errors"`
	}
	if json.Unmarshal(r.body, &answer) != nil {
		return broker.Response{Outcome: broker.GenericError, Detail: "the answer is not of GraphQL", Verdict: broker.TryAgain}
	}
	switch kind := answer.Data.LaunchRun.Typename; {
	case kind == "LaunchRunSuccess", kind == "RunConflict", kind == "PythonError" && strings.Contains(answer.Data.LaunchRun.Message, "DagsterRunAlreadyExists"):
		return broker.Response{Outcome: broker.Delivered}
	case kind == "PythonError", kind == "" && len(answer.Errors) == 0:
		return broker.Response{Outcome: broker.GenericError, Detail: "Dagster failed", Verdict: broker.TryAgain}
	case kind == "UnauthorizedError":
		return broker.Response{Outcome: broker.Unauthorized, Detail: "Dagster does not allow the run", Verdict: broker.GiveUp}
	case kind == "":
		return broker.Response{Outcome: broker.BadRequest, Detail: "Dagster does not understand the request", Verdict: broker.GiveUp}
	default:
		return broker.Response{Outcome: broker.BadRequest, Detail: short("Dagster answered " + kind), Verdict: broker.GiveUp}
	}
}

// guidOf writes a key as a UUID. Source: RFC 9562, version 8.
func guidOf(key string) string {
	return key[:8] + "-" + key[8:12] + "-8" + key[13:16] + "-8" + key[17:20] + "-" + key[20:32]
}
