package arm

import (
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// mlflowBody is the MLflow server that a workspace follows; this API is Carillon's own.
type mlflowBody struct {
	ID         string           `json:"id"`
	Name       string           `json:"name"`
	Type       string           `json:"type"`
	ETag       string           `json:"etag"`
	SystemData systemData       `json:"systemData"`
	Properties mlflowProperties `json:"properties"`
}

// mlflowProperties shows of a secret only that it is there.
type mlflowProperties struct {
	URL             string `json:"url"`
	StaticPrefix    string `json:"staticPrefix,omitempty"`
	MLflowWorkspace string `json:"mlflowWorkspace,omitempty"`
	Authentication  string `json:"authentication"` // None, Basic or Bearer
	Username        string `json:"username,omitempty"`
	Interval        int    `json:"pollIntervalSeconds"`
	EmitBacklog     bool   `json:"emitBacklog"`
	EndTimeRenews   bool   `json:"endTimeChangeIsNewGeneration"`

	SynthesizeRunning  bool           `json:"synthesizeRunning"`
	ExperimentIDFormat string         `json:"experimentIdFormat"` // verbatim or guid
	Metrics            bool           `json:"metrics"`
	InheritModelTags   bool           `json:"inheritModelTags"`
	NotResponding      *int           `json:"notRespondingAfterSeconds"`
	DeployOn           mlflowDeployOn `json:"deployOn"`
	Webhook            bool           `json:"webhook"`
	WebhookURL         string         `json:"webhookUrl,omitempty"`
	WebhookOrigin      string         `json:"webhookOrigin,omitempty"`

	Proxy        bool `json:"proxy"`
	PreserveHost bool `json:"preserveHost"`

	Status mlflowStatus `json:"status"`
}

type mlflowDeployOn struct {
	Alias []string `json:"alias"`
	Stage []string `json:"stage"`
}

type mlflowStatus struct {
	ProxyURL          string   `json:"proxyUrl,omitempty"`
	State             string   `json:"state"` // Reading, Following, Failing or Refused
	LastRound         *string  `json:"lastRound"`
	LastRoundMillis   int64    `json:"lastRoundMilliseconds"`
	LastRoundRequests int      `json:"lastRoundRequests"`
	LagSeconds        int64    `json:"lagSeconds"`
	OpenRuns          int      `json:"openRuns"`
	LargeRuns         []string `json:"runsNotFollowed,omitempty"` // ids of those that the server says too much of
	LastError         *string  `json:"lastError"`
	LastErrorTime     *string  `json:"lastErrorTime"`
	Webhook           *string  `json:"webhook"` // Active, Disabled or Missing; null for none, or not known yet
	LastWebhook       *string  `json:"lastWebhook"`
}

const mlflowType = "Carillon.MLflow/servers"

func mlflowOf(item resource.Item[resource.MLflowServer], s manage.MLflowStatus) mlflowBody {
	m := item.Value
	authentication := "None"
	switch {
	case m.Username != "":
		authentication = "Basic"
	case m.SealedSecret != "":
		authentication = "Bearer"
	}
	b := mlflowBody{
		ID: m.Workspace.Extension("Carillon.MLflow", "servers", onlyName).String(), Name: onlyName, Type: mlflowType, ETag: item.ETag(),
		SystemData: systemDataOf(m.Created, m.Modified),
		Properties: mlflowProperties{
			URL: m.URL, StaticPrefix: m.StaticPrefix, MLflowWorkspace: m.Within, Authentication: authentication, Username: m.Username,
			Interval: m.Interval, EmitBacklog: m.EmitBacklog, EndTimeRenews: m.EndTimeRenews,
			Proxy: !m.NoProxy, PreserveHost: m.PreserveHost,
			Status: mlflowStatus{
				ProxyURL: s.ProxyURL,
				State:    s.State, LastRoundMillis: s.Duration.Milliseconds(), LastRoundRequests: s.Requests, LagSeconds: int64(s.Lag.Seconds()),
				OpenRuns: s.OpenRuns, LargeRuns: s.LargeRuns, LastError: orNull(s.LastError),
			},
		},
	}
	p := &b.Properties
	p.SynthesizeRunning, p.Metrics, p.InheritModelTags = m.SynthesizeRunning, m.Metrics, m.InheritModelTags
	if p.ExperimentIDFormat = manage.ExperimentIDVerbatim; m.ExperimentGUIDs {
		p.ExperimentIDFormat = manage.ExperimentIDGUID
	}
	if m.NotResponding > 0 {
		p.NotResponding = &m.NotResponding
	}
	p.DeployOn = mlflowDeployOn{append([]string{}, m.DeployOn.Alias...), append([]string{}, m.DeployOn.Stage...)}
	if p.Webhook = m.Webhook.Registered(); p.Webhook {
		p.WebhookURL, p.WebhookOrigin, p.Status.Webhook = m.Webhook.URL, m.Webhook.Origin, orNull(s.Webhook)
	}
	if !s.LastWebhook.IsZero() {
		p.Status.LastWebhook = orNull(armTime(s.LastWebhook))
	}
	if !s.LastRound.IsZero() {
		b.Properties.Status.LastRound = orNull(armTime(s.LastRound))
	}
	if !s.ErrorAt.IsZero() {
		b.Properties.Status.LastErrorTime = orNull(armTime(s.ErrorAt))
	}
	return b
}

// onlyName is the name of what there is one of.
const onlyName = "default"

// onlyServer refuses every name but the one that there is.
func onlyServer(r *request) error {
	if !strings.EqualFold(r.names[0], onlyName) {
		return fault.New(fault.NotFound, "ResourceNotFound", "A workspace follows one MLflow server, and its name is '%s', not '%.80s'.", onlyName, r.names[0])
	}
	return nil
}

func getMLflow(a *api, r *request) (answer, error) {
	item, status, err := a.Plane.MLflowServerOf(r.ctx, r.caller, r.scope)
	if err == nil {
		err = onlyServer(r)
	}
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, etag: item.ETag(), body: mlflowOf(item, status)}, nil
}

// listMLflow answers with the one server, or with none.
func listMLflow(a *api, r *request) (answer, error) {
	item, status, err := a.Plane.MLflowServerOf(r.ctx, r.caller, r.scope)
	out := page{Value: []any{}}
	switch {
	case err == nil:
		out.Value = append(out.Value, mlflowOf(item, status))
	case !fault.Is(err, fault.NotFound):
		return answer{}, err
	}
	return ok(out), nil
}

func putMLflow(a *api, r *request) (answer, error) {
	f, unread := r.readBody()
	r.sameResource(f)
	p := f.sub("properties")
	c := manage.MLflowChange{
		URL: p.str("url"), StaticPrefix: p.str("staticPrefix"), Within: p.str("mlflowWorkspace"), Username: p.str("username"),
		Password: (*secret.String)(p.text("password")), Token: (*secret.String)(p.text("token")), Interval: p.integer("pollIntervalSeconds"),
	}
	c.Webhook, c.WebhookOrigin = value[bool](p, "webhook", "true or false"), p.str("webhookOrigin")
	c.ExperimentIDFormat, c.NotResponding = p.str("experimentIdFormat"), p.integer("notRespondingAfterSeconds")
	if on, ok := p.object("deployOn"); ok {
		c.DeployOn = resource.DeployOn{Alias: on.texts("alias"), Stage: on.texts("stage")}
	}
	proxy := true
	for name, into := range map[string]*bool{
		"emitBacklog": &c.EmitBacklog, "endTimeChangeIsNewGeneration": &c.EndTimeRenews, "synthesizeRunning": &c.SynthesizeRunning,
		"metrics": &c.Metrics, "inheritModelTags": &c.InheritModelTags, "proxy": &proxy, "preserveHost": &c.PreserveHost,
	} {
		if given := value[bool](p, name, "true or false"); given != nil {
			*into = *given
		}
	}
	c.NoProxy = !proxy
	if c.Unread = f.verdict(unread); c.Unread == nil {
		c.Unread = onlyServer(r)
	}
	item, status, created, err := a.Plane.AttachMLflow(r.ctx, r.caller, r.scope, c, r.precondition())
	if err != nil {
		return answer{}, err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return answer{status: code, etag: item.ETag(), body: mlflowOf(item, status)}, nil
}

func deleteMLflow(a *api, r *request) (answer, error) {
	return deleted(a.Plane.DetachMLflow(r.ctx, r.caller, r.scope, r.precondition()))
}
