package destination

import (
	"context"
	"encoding/json"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// airflow starts a DAG run whose id is made of the key: a repeated request meets the run
// that is there, 409, which is what was wanted. Source: spec/handlers.md section 14.1.
var airflow = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		conf, err := o.object()
		if err != nil {
			return outgoing{}, err
		}
		body := map[string]any{"dag_run_id": "carillon__" + o.key, "conf": conf}
		if t.setting("version") == "3" {
			body["logical_date"] = nil // some servers of 3.0 want to see it
		}
		return post(airflowDAG(t)+"/dagRuns", body)
	},
	judge: byTable([]int{200, 201, 409}, []int{400, 403, 404, 422}),
	asks:  airflowDAG,
	sign: func(ctx context.Context, t *trigger, out *outgoing, refresh bool) error {
		user, token := t.values.Text("username"), t.secrets["token"]
		switch {
		case token != "":
			out.add("Authorization", "Bearer "+token)
		case user != "" && t.setting("version") == "2":
			out.basic(user, t.secrets["password"])
		case user != "":
			text, err := t.tokens.get(ctx, "", refresh, func(ctx context.Context) (string, time.Time, error) { return airflowToken(ctx, t, user, out.until) })
			if err != nil {
				return err
			}
			out.add("Authorization", "Bearer "+text)
		}
		return nil
	},
}

func airflowDAG(t *trigger) string {
	api := "v2"
	if t.setting("version") == "2" {
		api = "v1"
	}
	return t.base("url", "api", api, "dags", t.values.Text("dagId"))
}

// airflowToken signs in at Airflow 3. Its token is renewed well before its day ends.
func airflowToken(ctx context.Context, t *trigger, user string, until time.Time) (string, time.Time, error) {
	out, err := post(t.base("url", "auth", "token"), map[string]string{"username": user, "password": t.secrets["password"]})
	if err != nil {
		return "", time.Time{}, err
	}
	out.until = until
	r, err := t.ask(ctx, out)
	if err != nil {
		return "", time.Time{}, err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if r.status/100 != 2 || json.Unmarshal(r.body, &answer) != nil || answer.AccessToken == "" {
		return "", time.Time{}, &credentialError{"Airflow does not take the user and password"}
	}
	return answer.AccessToken, time.Now().Add(time.Hour), nil
}

func checkAirflow(c *targetConfig) error {
	if c.values.Text("username") != "" && c.secrets["token"] != "" {
		return fault.Field("token", "Give a token, or a username and password: one of them.")
	}
	return nil
}
