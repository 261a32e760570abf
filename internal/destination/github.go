package destination

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
)

// gitHubHeader is what every request to GitHub has.
var gitHubHeader = []attribute{{name: "Accept", value: "application/vnd.github+json"}, {name: "X-GitHub-Api-Version", value: "2022-11-28"}}

// Limits of dispatches. Source: spec/handlers.md section 14.2.
const (
	gitHubTypeLength = 100
	gitHubMembers    = 10
	gitHubPayload    = 64 << 10
	gitHubInputs     = 25
)

// gitHubRepository raises repository_dispatch. GitHub knows no key: who is told twice runs
// twice. Source: spec/handlers.md section 14.2.
var gitHubRepository = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		payload, err := o.object()
		if err != nil {
			return outgoing{}, err
		}
		raw, err := o.json()
		if err != nil {
			return outgoing{}, err
		}
		if len(payload) > gitHubMembers || len(raw) > gitHubPayload {
			return outgoing{}, errors.New("the payload has more than 10 members or 64 KiB: put the event below one member")
		}
		name, err := parseTemplate(t.setting("eventType"))
		if err != nil {
			return outgoing{}, err
		}
		eventType := name.fill(o.text)
		return post(gitHubAddress(t)+"/dispatches", map[string]any{"event_type": eventType[:min(len(eventType), gitHubTypeLength)], "client_payload": payload}, gitHubHeader...)
	},
	judge: judgeGitHub,
	sign:  bearer("token"),
	asks:  gitHubAddress,
}

// gitHubWorkflow raises workflow_dispatch. Source: spec/handlers.md section 14.2.
var gitHubWorkflow = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		inputs, err := o.scalars(true)
		if err != nil {
			return outgoing{}, err
		}
		if len(inputs) > gitHubInputs {
			return outgoing{}, errors.New("a workflow takes 25 inputs at most")
		}
		return post(gitHubAddress(t)+"/actions/workflows/"+url.PathEscape(t.values.Text("workflow"))+"/dispatches", map[string]any{"ref": t.setting("ref"), "inputs": inputs}, gitHubHeader...)
	},
	judge: judgeGitHub,
	sign:  bearer("token"),
	asks: func(t *trigger) string {
		return gitHubAddress(t) + "/actions/workflows/" + url.PathEscape(t.values.Text("workflow"))
	},
}

var gitHubName = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`)

func checkGitHub(c *targetConfig) error {
	if !gitHubName.MatchString(c.values.Text("repository")) {
		return fault.Field("repository", "The repository '%.120s' is not one: write OWNER/NAME.", c.values.Text("repository"))
	}
	if _, err := parseTemplate(c.values.Text("eventType")); err != nil {
		return fault.Field("eventType", "The eventType cannot be used: %v.", err)
	}
	return nil
}

func gitHubAddress(t *trigger) string {
	owner, name, _ := strings.Cut(t.values.Text("repository"), "/")
	return t.base("url", "repos", owner, name)
}

// judgeGitHub: a 403 is a limit on requests where it says so, and otherwise final.
func judgeGitHub(r answered) broker.Response {
	limited := r.retryAfter != "" || r.remaining == "0"
	if (r.status == http.StatusForbidden || r.status == http.StatusTooManyRequests) && limited {
		return broker.Response{Outcome: broker.Busy, Verdict: broker.TryAgain}
	}
	return byTable([]int{200, 204}, []int{400, 401, 403, 404, 422})(r)
}
