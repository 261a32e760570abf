package destination

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
)

// contextT shortens the signature of sign.
type contextT = context.Context

// argoEvent hands events to the event endpoint of Argo Workflows, where a
// WorkflowEventBinding chooses. Source: spec/handlers.md section 14.4.
var argoEvent = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
		return outgoing{
			method: http.MethodPost, url: t.base("url", "api", "v1", "events", t.values.Text("namespace")) + "/" + url.PathEscape(t.values.Text("discriminator")),
			header: append([]attribute{{name: "Content-Type", value: "application/json"}}, xHeaders(o)...), body: o.payload,
		}, nil
	},
	judge: byTable([]int{200}, []int{400, 401, 403, 404}),
	sign:  bearer("token"),
}

// argoWorkflow submits a WorkflowTemplate under a name made of the key: a repeated request
// meets the workflow that is there. Source: spec/handlers.md section 14.4.
var argoWorkflow = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
		values, err := o.scalars(true)
		if err != nil {
			return outgoing{}, err
		}
		var parameters []string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			parameters = append(parameters, name+"="+values[name])
		}
		namespace := t.values.Text("namespace")
		return post(t.base("url", "api", "v1", "workflows", namespace, "submit"), map[string]any{
			"namespace": namespace, "resourceKind": "WorkflowTemplate", "resourceName": t.values.Text("workflowTemplate"),
			"submitOptions": map[string]any{"name": "carillon-" + o.key, "labels": "source=carillon", "parameters": parameters},
		})
	},
	judge: byTable([]int{200, 409}, []int{400, 403, 404, 422}),
	sign:  bearer("token"),
	asks: func(t *trigger) string {
		return t.base("url", "api", "v1", "workflow-templates", t.values.Text("namespace"), t.values.Text("workflowTemplate"))
	},
}

// argoEvents posts to a webhook event source of Argo Events, which answers 400 also while
// it starts. Source: spec/handlers.md section 14.4.
var argoEvents = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
		return outgoing{method: http.MethodPost, url: t.setting("url"), header: append([]attribute{{name: "Content-Type", value: "application/json"}}, xHeaders(o)...), body: o.payload}, nil
	},
	judge: byTable([]int{200}, []int{401, 403}),
	sign:  bearer("token"),
}

// xHeaders say of an event what the headers of a webhook do, by names that Argo passes on.
func xHeaders(o occurrence) (out []attribute) {
	for name, of := range map[string]string{"x-carillon-event-id": "id", "x-carillon-event-type": "type", "x-carillon-subject": "subject", "x-carillon-key": "key"} {
		if text := o.text(of); text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			out = append(out, attribute{name: name, value: text})
		}
	}
	slices.SortFunc(out, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
	return out
}

// prefect makes a flow run with the key as idempotency key: a repeated request is answered
// with the run that is there. Source: spec/handlers.md section 14.5.
var prefect = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
		parameters, err := o.object()
		if err != nil {
			return outgoing{}, err
		}
		return post(prefectDeployment(t)+"/create_flow_run", map[string]any{
			"parameters": parameters, "idempotency_key": o.key, "tags": []string{"carillon"}, "state": map[string]string{"type": "SCHEDULED"},
			"labels": map[string]string{"carillon.eventId": o.text("id")},
		})
	},
	judge: byTable([]int{200, 201}, []int{400, 403, 404, 409, 422}),
	sign:  basicOrBearer,
	asks:  prefectDeployment,
}

func prefectDeployment(t *trigger) string {
	return t.base("url", "deployments", t.values.Text("deploymentId"))
}

// jenkins starts a build. Jenkins knows no key: who is told twice builds twice.
// Source: spec/handlers.md section 14.7.
var jenkins = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
		parameters, err := o.scalars(true)
		if err != nil {
			return outgoing{}, err
		}
		action, form := "build", url.Values{}
		if len(parameters) > 0 {
			action = "buildWithParameters"
		}
		for name, value := range parameters {
			form.Set(name, value)
		}
		return outgoing{
			method: http.MethodPost, url: jenkinsJob(t) + "/" + action,
			header: []attribute{{name: "Content-Type", value: "application/x-www-form-urlencoded"}}, body: []byte(form.Encode()),
		}, nil
	},
	judge: byTable([]int{200, 201}, []int{400, 401, 403, 404}),
	sign:  basicOrBearer,
	asks:  func(t *trigger) string { return jenkinsJob(t) + "/api/json" },
}

// jenkinsJob is the address of a job; folders are divided by '/'.
func jenkinsJob(t *trigger) string {
	var segments []string
	for part := range strings.SplitSeq(strings.Trim(t.values.Text("job"), "/"), "/") {
		segments = append(segments, "job", part)
	}
	return t.base("url", segments...)
}

// kubernetesJob makes a Job of a template that whoever made the event subscription gave;
// the event is in environment variables of its containers. Its name is made of the key: a
// repeated request meets the Job that is there. Source: spec/handlers.md section 14.8.
var kubernetesJob = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
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
		containers, _ := pod["containers"].([]any)
		for _, c := range containers {
			container, _ := c.(map[string]any)
			env, _ := container["env"].([]any)
			container["env"] = append(env, map[string]string{"name": "EVENT_JSON", "value": string(o.payload)}, map[string]string{"name": "EVENT_KEY", "value": o.key})
		}
		return post(t.base("url", "apis", "batch", "v1", "namespaces", t.values.Text("namespace"), "jobs"), job)
	},
	judge: func(status int, header http.Header, body []byte) broker.Response {
		if status == http.StatusForbidden && strings.Contains(string(body), "exceeded quota") {
			return broker.Response{Outcome: broker.Full, Detail: "the namespace is over its quota", Verdict: broker.TryAgain}
		}
		return byTable([]int{200, 201, 202, 409}, []int{400, 401, 403, 404, 422})(status, header, body)
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

func pathSegment(text string) string { return url.PathEscape(text) }

// guidOf writes a key as a UUID. Source: RFC 9562, version 8.
func guidOf(key string) string {
	return key[:8] + "-" + key[8:12] + "-8" + key[13:16] + "-8" + key[17:20] + "-" + key[20:32]
}
