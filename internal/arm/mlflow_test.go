package arm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// fakeMLflow notes what servers are checked with.
type fakeMLflow struct {
	checked string
	refuse  error

	webhooks     []string // what became of them
	signing      string
	registration string

	status map[resource.UID]manage.MLflowStatus
}

func (f *fakeMLflow) Check(_ context.Context, m *resource.MLflowServer, s secret.String) error {
	f.checked = m.URL + " " + m.Username + " " + s.Reveal()
	return f.refuse
}

func (f *fakeMLflow) Register(_ context.Context, m *resource.MLflowServer, s secret.String, url string, signing secret.String) (string, error) {
	f.webhooks = append(f.webhooks, "register "+m.URL+" "+s.Reveal()+" "+url)
	f.signing = signing.Reveal()
	return fmt.Sprintf("w%d", len(f.webhooks)), f.refuse
}

func (f *fakeMLflow) Unregister(_ context.Context, m *resource.MLflowServer, s secret.String) error {
	f.webhooks = append(f.webhooks, "unregister "+m.URL+" "+s.Reveal()+" "+m.Webhook.ID)
	return f.refuse
}

func (f *fakeMLflow) Registration(context.Context, *resource.MLflowServer, secret.String) (string, error) {
	return f.registration, nil
}

func (f *fakeMLflow) Status(uid resource.UID) (manage.MLflowStatus, bool) {
	s, ok := f.status[uid]
	return s, ok
}

func (f *fakeMLflow) ProxyURL(m *resource.MLflowServer) string {
	if m.NoProxy {
		return ""
	}
	return "https://carillon.example/mlflow/" + m.Workspace.Name()
}

const mlflowID = wsID + "/providers/Carillon.MLflow/servers/default"

func TestMLflowServer(t *testing.T) {
	s := newStack(t)
	fake := &fakeMLflow{status: map[resource.UID]manage.MLflowStatus{}}
	s.plane.MLflow = fake
	at := mlflowID + "?api-version=2026-11-01"
	const body = `{"properties":{"url":"https://m.example/","username":"kim","password":"s3cret","pollIntervalSeconds":30}}`
	check := func(caller, method, target, body string, status int, want ...string) string {
		t.Helper()
		w := s.do(caller, method, target, body)
		if w.Code != status {
			t.Errorf("%s %s: %d %s, want %d", method, body, w.Code, w.Body, status)
		}
		for _, part := range want {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s %s: %s does not hold %q", method, body, w.Body, part)
			}
		}
		if strings.Contains(w.Body.String(), "s3cret") {
			t.Errorf("%s %s shows a secret: %s", method, body, w.Body)
		}
		return w.Body.String()
	}
	list := wsID + "/providers/Carillon.MLflow/servers?api-version=2026-11-01"
	check("owner", "GET", at, "", 404, "follows no MLflow server")
	check("reader", "GET", list, "", 200, `"value":[]`)
	check("reader", "PUT", at, body, 403)
	check("grid", "PUT", at, body, 403)
	check("owner", "PUT", at, body, 201, `"authentication":"Basic"`, `"username":"kim"`, `"pollIntervalSeconds":30`, `"state":"Reading"`, `"url":"https://m.example"`, `"proxy":true`, `"status":{"proxyUrl":"https://carillon.example/mlflow/`, `"preserveHost":false`)
	if fake.checked != "https://m.example kim s3cret" {
		t.Errorf("checked with %q", fake.checked)
	}
	for key, value := range s.kv.Dump() {
		if strings.Contains(value, "s3cret") {
			t.Errorf("%s holds the secret: %s", key, value)
		}
	}
	first, _ := s.plane.Store.MLflowServers.Get(resource.MustID(wsID).Key())

	for problem, c := range map[string][2]string{
		"no url":            {`{"properties":{}}`, "properties.url"},
		"credentials in it": {`{"properties":{"url":"https://a:b@m.example"}}`, "give username and password"},
		"a query":           {`{"properties":{"url":"https://m.example?x=1"}}`, "a query"},
		"not allowed":       {`{"properties":{"url":"http://m.example"}}`, "must start with https"},
		"not a url":         {`{"properties":{"url":"m.example"}}`, "absolute"},
		"both":              {`{"properties":{"url":"https://m.example","username":"a","password":"b","token":"c"}}`, "not both"},
		"token and name":    {`{"properties":{"url":"https://m.example","username":"a","token":"c"}}`, "without a username"},
		"password alone":    {`{"properties":{"url":"https://m.example","password":"c"}}`, "needs a username"},
		"no password":       {`{"properties":{"url":"https://other.example","username":"kim"}}`, "needs a password"},
		"another name":      {`{"properties":{"url":"https://m.example","username":"lee"}}`, "needs a password"},
		"too often":         {`{"properties":{"url":"https://m.example","pollIntervalSeconds":0}}`, "use 1 to 3600"},
		"a word":            {`{"properties":{"url":"https://m.example","emitBacklog":"yes"}}`, "true or false"},
		"an id format":      {`{"properties":{"url":"https://m.example","experimentIdFormat":"uuid"}}`, "verbatim or guid"},
		"soon silent":       {`{"properties":{"url":"https://m.example","notRespondingAfterSeconds":59}}`, "use 60 to"},
		"a stage":           {`{"properties":{"url":"https://m.example","deployOn":{"stage":["Production","Prod"]}}}`, "deployOn.stage[1]"},
		"an alias":          {`{"properties":{"url":"https://m.example","deployOn":{"alias":["a b"]}}}`, "deployOn.alias[0]"},
		"both of a name":    {`{"properties":{"url":"https://m.example","deployOn":{"alias":["production"],"stage":["Production"]}}}`, "name one of them"},
		"prefix":            {`{"properties":{"url":"https://m.example","staticPrefix":"a?b"}}`, "staticPrefix"},
		"control":           {`{"properties":{"url":"https://m.example","token":"a\nb"}}`, "control characters"},
	} {
		t.Run(problem, func(t *testing.T) { check("owner", "PUT", at, c[0], 400, c[1]) })
	}
	if now, _ := s.plane.Store.MLflowServers.Get(first.Key); now.Revision != first.Revision {
		t.Error("a refused request changed something")
	}
	check("owner", "PUT", strings.Replace(at, "/default?", "/other?", 1), body, 404)

	fake.refuse = errors.New("the MLflow server answered 401 UNAUTHENTICATED")
	check("owner", "PUT", at, body, 400, "cannot be followed: the MLflow server answered 401", "properties.url")
	fake.refuse = nil

	// The secret stays while URL and user name do; with another URL it is another server.
	check("owner", "PUT", at, `{"properties":{"url":"https://m.example","username":"kim","emitBacklog":true,"proxy":false,"preserveHost":true}}`, 200, `"emitBacklog":true`, `"pollIntervalSeconds":15`, `"proxy":false,"preserveHost":true`)
	if fake.checked != "https://m.example kim s3cret" {
		t.Errorf("checked with %q", fake.checked)
	}
	if now, _ := s.plane.Store.MLflowServers.Get(first.Key); now.Value.UID != first.Value.UID || !now.Value.Created.At.Equal(first.Value.Created.At) {
		t.Error("the same server was attached anew")
	}
	check("owner", "PUT", at, `{"properties":{"url":"https://m.example","username":"kim","synthesizeRunning":true,"experimentIdFormat":"GUID","metrics":true,"inheritModelTags":true,"notRespondingAfterSeconds":3600,"deployOn":{"alias":["champion","a","a"],"stage":["production"]}}}`, 200,
		`"synthesizeRunning":true,"experimentIdFormat":"guid","metrics":true,"inheritModelTags":true,"notRespondingAfterSeconds":3600,"deployOn":{"alias":["a","champion"],"stage":["Production"]}`)
	check("owner", "PUT", at, `{"properties":{"url":"https://m.example","username":"kim"}}`, 200,
		`"synthesizeRunning":false,"experimentIdFormat":"verbatim","metrics":false,"inheritModelTags":false,"notRespondingAfterSeconds":null,"deployOn":{"alias":[],"stage":[]}`)
	check("owner", "PUT", at, `{"properties":{"url":"https://n.example","token":"s3cret-2"}}`, 200, `"authentication":"Bearer"`)
	now, _ := s.plane.Store.MLflowServers.Get(first.Key)
	if now.Value.UID == first.Value.UID {
		t.Error("another server has the uid of the one before")
	}
	fake.status[now.Value.UID] = manage.MLflowStatus{State: manage.MLflowFailing, Requests: 6, LargeRuns: []string{"r1", "r2"}, LastError: "nobody answers"}
	var shown mlflowBody
	if err := json.Unmarshal([]byte(check("reader", "GET", at, "", 200, `"lastError":"nobody answers"`)), &shown); err != nil || shown.ID != mlflowID || shown.Properties.Status.LastRoundRequests != 6 || !slices.Equal(shown.Properties.Status.LargeRuns, []string{"r1", "r2"}) {
		t.Errorf("%+v, error %v", shown, err)
	}
	check("reader", "GET", list, "", 200, mlflowID)
	check("reader", "DELETE", at, "", 403)
	check("owner", "DELETE", at, "", 204)
	check("owner", "DELETE", at, "", 204)
	check("owner", "PUT", at, body, 201)
	check("owner", "DELETE", wsID+"?api-version=2024-04-01", "", 204)
	if _, there := s.plane.Store.MLflowServers.Get(first.Key); there {
		t.Error("the server outlived its workspace")
	}
}

// Source: spec/workspace.md section 5.8.
func TestMLflowWebhook(t *testing.T) {
	s := newStack(t)
	fake := &fakeMLflow{status: map[resource.UID]manage.MLflowStatus{}, registration: manage.WebhookActive}
	s.plane.MLflow = fake
	at := mlflowID + "?api-version=2026-11-01"
	const address = "/mlflow/local~default/webhook"
	put := func(properties string, status int, want ...string) {
		t.Helper()
		w := s.do("owner", "PUT", at, `{"properties":{"url":"https://m.example","token":"s3cret"`+properties+`}}`)
		for _, part := range want {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s: %s does not hold %q", properties, w.Body, part)
			}
		}
		if w.Code != status || fake.signing != "" && strings.Contains(w.Body.String(), fake.signing) {
			t.Errorf("%s: %d %s", properties, w.Code, w.Body)
		}
	}
	did := func(want ...string) {
		t.Helper()
		if !slices.Equal(fake.webhooks, want) {
			t.Errorf("at the server: %q, want %q", fake.webhooks, want)
		}
		fake.webhooks = nil
	}
	origin := s.plane.PublicURL
	register := "register https://m.example s3cret " + origin + address
	put("", 201, `"webhook":false`)
	did()
	put(`,"webhookOrigin":"https://c.example"`, 400, "properties.webhookOrigin")
	put(`,"webhook":true,"webhookOrigin":"https://c.example/x"`, 400, "properties.webhookOrigin")
	put(`,"webhook":1`, 400, "true or false")
	did()
	put(`,"webhook":true`, 200, `"webhook":true,"webhookUrl":"`+origin+address+`"`)
	did(register)
	for key, value := range s.kv.Dump() {
		if strings.Contains(value, fake.signing) {
			t.Errorf("%s holds the secret of the webhook", key)
		}
	}
	put("", 200, `"webhook":true`) // it stays
	put(`,"webhook":true`, 200)
	did()
	fake.registration = manage.WebhookMissing
	put(`,"webhook":true`, 200) // and is mended
	did(register)
	put(`,"webhook":true,"webhookOrigin":"http://127.0.0.1:7443"`, 200, `"webhookUrl":"http://127.0.0.1:7443`+address+`","webhookOrigin":"http://127.0.0.1:7443"`)
	did("register https://m.example s3cret http://127.0.0.1:7443"+address, "unregister https://m.example s3cret w1")
	put("", 200, `"webhookOrigin":"http://127.0.0.1:7443"`)
	did()
	put(`,"webhookOrigin":"http://127.0.0.1:7444"`, 200, `"webhook":true`, `"webhookOrigin":"http://127.0.0.1:7444"`)
	did("register https://m.example s3cret http://127.0.0.1:7444"+address, "unregister https://m.example s3cret w1")
	put(`,"webhook":false,"webhookOrigin":"http://127.0.0.1:7444"`, 400, "properties.webhookOrigin")
	did()
	item, _ := s.plane.Store.MLflowServers.Get(resource.MustID(wsID).Key())
	fake.status[item.Value.UID] = manage.MLflowStatus{Webhook: manage.WebhookDisabled, LastWebhook: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
	if body := s.do("reader", "GET", at, "").Body.String(); !strings.Contains(body, `"webhook":"Disabled","lastWebhook":"2026-03-02T12:00:00`) {
		t.Errorf("GET: %s", body)
	}
	put(`,"webhook":false`, 200, `"webhook":false`)
	did("unregister https://m.example s3cret w1")
	put(`,"webhook":true`, 200)
	did(register)
	if w := s.do("owner", "PUT", at, `{"properties":{"url":"https://n.example"}}`); w.Code != 200 || !strings.Contains(w.Body.String(), `"webhook":false`) {
		t.Errorf("another server: %d %s", w.Code, w.Body)
	}
	did("unregister https://m.example s3cret w1") // of the server that is left
	put(`,"webhook":true`, 200)
	did(register)
	if w := s.do("owner", "DELETE", at, ""); w.Code != 204 {
		t.Errorf("DELETE: %d %s", w.Code, w.Body)
	}
	did("unregister https://m.example s3cret w1")
}

// Requests at once come one after another, so that what stands at the server is what is
// stored.
func TestMLflowAttachedAtOnce(t *testing.T) {
	s := newStack(t)
	fake := &fakeMLflow{registration: manage.WebhookActive}
	s.plane.MLflow = fake
	const body = `{"properties":{"url":"https://m.example","token":"t","webhook":true}}`
	codes := make([]int, 8)
	var group sync.WaitGroup
	for i := range codes {
		group.Go(func() { codes[i] = s.do("owner", "PUT", mlflowID+"?api-version=2026-11-01", body).Code })
	}
	group.Wait()
	slices.Sort(codes)
	if codes[0] != 200 || codes[len(codes)-2] != 200 || codes[len(codes)-1] != 201 {
		t.Errorf("answers are %v", codes)
	}
	item, _ := s.plane.Store.MLflowServers.Get(resource.MustID(wsID).Key())
	if len(fake.webhooks) != 1 || item.Value.Webhook.ID != "w1" {
		t.Errorf("at the server: %q; stored: %+v", fake.webhooks, item.Value.Webhook)
	}
}
