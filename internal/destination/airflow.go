package destination

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
)

// airflow starts a DAG run whose id is made of the key: a repeated request meets the run
// that is there, 409, which is what was wanted. Source: spec/handlers.md section 14.1.
var airflow = adapter{
	request: func(t *trigger, o occurrence) (outgoing, error) {
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
	sign: func(ctx context.Context, t *trigger, r *http.Request, refresh bool) error {
		user, token := t.values.Text("username"), t.secrets["token"]
		switch {
		case token != "":
			r.Header.Set("Authorization", "Bearer "+token)
		case user != "" && t.setting("version") == "2":
			r.SetBasicAuth(user, t.secrets["password"])
		case user != "":
			text, err := t.tokens.get(ctx, refresh, func(ctx context.Context) (string, time.Time, error) { return airflowToken(ctx, t, user) })
			if err != nil {
				return err
			}
			r.Header.Set("Authorization", "Bearer "+text)
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
func airflowToken(ctx context.Context, t *trigger, user string) (string, time.Time, error) {
	out, err := post(t.base("url", "auth", "token"), map[string]string{"username": user, "password": t.secrets["password"]})
	if err != nil {
		return "", time.Time{}, err
	}
	status, body, err := t.plain(ctx, out)
	if err != nil {
		return "", time.Time{}, err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if status/100 != 2 || json.Unmarshal(body, &answer) != nil || answer.AccessToken == "" {
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

// tokenKeeper keeps a token that is fetched, until it ends or is refused.
type tokenKeeper struct {
	mu    sync.Mutex
	text  string
	until time.Time
}

// get returns the token. Only one fetch runs at a time.
func (k *tokenKeeper) get(ctx context.Context, refresh bool, fetch func(context.Context) (string, time.Time, error)) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.text != "" && !refresh && time.Now().Before(k.until) {
		return k.text, nil
	}
	text, until, err := fetch(ctx)
	if err != nil {
		return "", err
	}
	k.text, k.until = text, until
	return text, nil
}

// renews reports whether there is a token that can be fetched anew.
func (k *tokenKeeper) renews() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text != ""
}

// plain sends a request without the trigger's credentials.
func (t *trigger) plain(ctx context.Context, out outgoing) (status int, body []byte, err error) {
	bare := *t.targetConfig
	u := &trigger{targetConfig: &bare, client: t.client}
	status, _, body, err = u.exchange(ctx, out, false)
	return status, body, err
}

var errNoScalar = errors.New("a value is a list or an object; only texts, numbers, true and false can be sent there")

// scalars are the payload's members as texts: those that are texts as they are.
func (o occurrence) scalars(nested bool) (map[string]string, error) {
	members, err := o.object()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, value := range members {
		switch v := value.(type) {
		case string:
			out[name] = v
		case nil:
		case map[string]any, []any:
			if !nested {
				return nil, errNoScalar
			}
			raw, err := json.Marshal(v)
			if err != nil {
				return nil, errNoScalar
			}
			out[name] = string(raw)
		default:
			raw, err := json.Marshal(v)
			if err != nil {
				return nil, errNoScalar
			}
			out[name] = string(raw)
		}
	}
	return out, nil
}

// bearer is a sign by a token in a field.
func bearer(field string) func(context.Context, *trigger, *http.Request, bool) error {
	return func(_ context.Context, t *trigger, r *http.Request, _ bool) error {
		if token := t.secrets[field]; token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return nil
	}
}

// basicOrBearer is a sign by a user and password, or by a token.
func basicOrBearer(ctx context.Context, t *trigger, r *http.Request, refresh bool) error {
	if user := t.values.Text("username"); user != "" {
		r.SetBasicAuth(user, t.secrets["password"])
		return nil
	}
	return bearer("token")(ctx, t, r, refresh)
}

// delivered is a success.
var delivered = broker.Response{Outcome: broker.Delivered}
