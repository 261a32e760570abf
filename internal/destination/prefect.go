package destination

import ()

// prefect makes a flow run with the key as idempotency key: a repeated request is answered
// with the run that is there. Source: spec/handlers.md section 14.5.
var prefect = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
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
