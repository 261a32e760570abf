package destination

import ()

// gitLab starts a pipeline by a trigger token. Source: spec/handlers.md section 14.3.
var gitLab = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		variables, err := o.scalars(true)
		if err != nil {
			return outgoing{}, err
		}
		return post(t.base("url", "api", "v4", "projects", t.values.Text("project"), "trigger", "pipeline"),
			map[string]any{"token": t.secrets["token"], "ref": t.setting("ref"), "variables": variables})
	},
	judge: byTable([]int{201}, []int{400, 401, 403, 404, 422}),
}
