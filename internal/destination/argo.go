package destination

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// argoEvent hands events to the event endpoint of Argo Workflows, where a
// WorkflowEventBinding chooses. Source: spec/handlers.md section 14.4.
var argoEvent = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		return argoCall(t.base("url", "api", "v1", "events", t.values.Text("namespace"))+"/"+url.PathEscape(t.values.Text("discriminator")), o)
	},
	judge: byTable([]int{200}, []int{400, 401, 403, 404}),
	sign:  bearer("token"),
}

// argoWorkflow submits a WorkflowTemplate under a name made of the key: a repeated request
// meets the workflow that is there. Source: spec/handlers.md section 14.4.
var argoWorkflow = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
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
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		return argoCall(t.setting("url"), o)
	},
	judge: byTable([]int{200}, []int{401, 403}),
	sign:  bearer("token"),
}

// argoCall is the event's payload for something that hears of it by headers too.
func argoCall(address string, o *occurrence) (outgoing, error) {
	body, err := o.json()
	return outgoing{method: http.MethodPost, url: address, header: append([]attribute{{name: "Content-Type", value: "application/json"}}, xHeaders(o)...), body: body}, err
}

// xHeaders say of an event what the headers of a webhook do, by names that Argo passes on.
func xHeaders(o *occurrence) (out []attribute) {
	for _, h := range [...][2]string{{"x-carillon-event-id", "id"}, {"x-carillon-event-type", "type"}, {"x-carillon-key", "key"}, {"x-carillon-subject", "subject"}} {
		if text := o.text(h[1]); text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			out = append(out, attribute{name: h[0], value: text})
		}
	}
	return out
}
