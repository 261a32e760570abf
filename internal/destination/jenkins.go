package destination

import (
	"net/http"
	"net/url"
	"strings"
)

// jenkins starts a build. Jenkins knows no key: who is told twice builds twice.
// Source: spec/handlers.md section 14.7.
var jenkins = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
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
