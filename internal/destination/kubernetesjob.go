package destination

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
)

// kubernetesJob makes a Job of a template that whoever made the event subscription gave;
// the event is in environment variables of its containers. Its name is made of the key: a
// repeated request meets the Job that is there. Source: spec/handlers.md section 14.8.
var kubernetesJob = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		job, err := jobOf(t.values.Text("job"))
		if err != nil {
			return outgoing{}, err
		}
		meta := member(job, "metadata")
		delete(meta, "generateName")
		meta["name"] = "carillon-" + o.key
		member(meta, "labels")["carillon.dev/source"] = "carillon"
		member(meta, "annotations")["carillon.dev/event-id"] = o.text("id")
		job["apiVersion"], job["kind"] = "batch/v1", "Job"
		pod := member(member(member(job, "spec"), "template"), "spec")
		if pod["restartPolicy"] == nil {
			pod["restartPolicy"] = "Never"
		}
		payload, err := o.json()
		if err != nil {
			return outgoing{}, err
		}
		containers, _ := pod["containers"].([]any)
		for _, c := range containers {
			container, _ := c.(map[string]any)
			env, _ := container["env"].([]any)
			container["env"] = append(env, map[string]string{"name": "EVENT_JSON", "value": string(payload)}, map[string]string{"name": "EVENT_KEY", "value": o.key})
		}
		return post(t.base("url", "apis", "batch", "v1", "namespaces", t.values.Text("namespace"), "jobs"), job)
	},
	judge: func(r answered) broker.Response {
		if r.status == http.StatusForbidden && strings.Contains(string(r.body), "exceeded quota") {
			return broker.Response{Outcome: broker.Full, Detail: "the namespace is over its quota", Verdict: broker.TryAgain}
		}
		return byTable([]int{200, 201, 202, 409}, []int{400, 401, 403, 404, 422})(r)
	},
	sign: bearer("token"),
}

// member is an object below an object, made if it is not there.
func member(m map[string]any, name string) map[string]any {
	inner, ok := m[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		m[name] = inner
	}
	return inner
}

func jobOf(text string) (map[string]any, error) {
	var job map[string]any
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return nil, fmt.Errorf("the job is not a JSON object")
	}
	containers, _ := member(member(member(job, "spec"), "template"), "spec")["containers"].([]any)
	if len(containers) == 0 {
		return nil, fmt.Errorf("the job has no spec.template.spec.containers")
	}
	for _, c := range containers {
		if _, ok := c.(map[string]any); !ok {
			return nil, fmt.Errorf("a container of the job is not an object")
		}
	}
	return job, nil
}

func checkKubernetesJob(c *targetConfig) error {
	if _, err := jobOf(c.values.Text("job")); err != nil {
		return fault.Field("job", "The job cannot be used: %v.", err)
	}
	return nil
}
