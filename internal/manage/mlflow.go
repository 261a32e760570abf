package manage

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// MLflow follows the servers that are attached. *mlflow.Service satisfies it.
type MLflow interface {
	// Check asks a server something small with the secret that it would be followed
	// with. Its error is shown to the caller and holds no secret.
	Check(ctx context.Context, server *resource.MLflowServer, secret secret.String) error
	// Register has a server call an address when a model version changes, signed with a
	// secret, and returns the id of that. What was registered for the address before goes.
	Register(ctx context.Context, server *resource.MLflowServer, secret secret.String, url string, signing secret.String) (id string, err error)
	// Unregister ends that.
	Unregister(ctx context.Context, server *resource.MLflowServer, secret secret.String) error
	// Registration tells whether it stands: WebhookActive, WebhookDisabled or
	// WebhookMissing.
	Registration(ctx context.Context, server *resource.MLflowServer, secret secret.String) (string, error)
	// Status tells how the following of a server stands, false when it has not begun.
	Status(uid resource.UID) (MLflowStatus, bool)
	// ProxyURL is where clients reach a server through this one, "" where they do not.
	ProxyURL(server *resource.MLflowServer) string
}

// MLflowStatus is how the following of a server stands.
type MLflowStatus struct {
	State     string    // Reading, Following, Failing or Refused
	LastRound time.Time // end of the last whole round; zero for none
	Duration  time.Duration
	Requests  int      // of the last round
	OpenRuns  int      // that have not ended
	LargeRuns []string // that are not followed, by id: the server's answer about one is too large
	Lag       time.Duration
	ProxyURL  string    // where clients reach the server through this one; "" where they do not
	LastError string    // "" once a round was whole again
	ErrorAt   time.Time // of LastError

	Webhook     string    // as Registration tells it, "" until that was asked
	LastWebhook time.Time // when the server called last; zero for not since the start
}

// States of a webhook that was registered.
const (
	WebhookActive   = "Active"
	WebhookDisabled = "Disabled" // by somebody at the server
	WebhookMissing  = "Missing"  // removed or altered at the server
)

// States of MLflowStatus.
const (
	MLflowReading   = "Reading"   // everything is read for the first time since the start
	MLflowFollowing = "Following" // the last round was whole
	MLflowFailing   = "Failing"   // the last round was not
	MLflowRefused   = "Refused"   // the server does not take the credentials
)

// Bounds and default of MLflowServer.Interval, in seconds, and bounds of others.
const (
	minMLflowInterval     = 1
	maxMLflowInterval     = 3600
	DefaultMLflowInterval = 15

	minNotResponding = 60
	maxNotResponding = 30 * 86400
	maxDeployOn      = 20 // aliases, and stages
)

// Forms of the ids of experiments in events. Source: spec/workspace.md section 5.2.
const (
	ExperimentIDVerbatim = "verbatim" // as MLflow has them
	ExperimentIDGUID     = "guid"
)

// mlflowStages are the stages of a model version, but for the one that every version is
// in at first. Source: mlflow/entities/model_registry/model_version_stages.py.
var mlflowStages = []string{"Staging", "Production", "Archived"}

// MLflowChange is what a request says of an attached server. Nil and "" mean the
// default; a secret that is nil stays as it is, while URL and user name stay.
type MLflowChange struct {
	URL, StaticPrefix, Within string

	Username        string
	Password, Token *secret.String
	Interval        *int
	EmitBacklog     bool
	EndTimeRenews   bool

	SynthesizeRunning, Metrics, InheritModelTags bool

	ExperimentIDFormat string // "verbatim" or "guid" in any case
	NotResponding      *int   // seconds
	DeployOn           resource.DeployOn

	Webhook       *bool  // nil has one that is registered stay
	WebhookOrigin string // where the server reaches us; "" for the public URL

	NoProxy, PreserveHost bool

	Unread error // what could not be read of the request
}

// MLflowServerOf returns the server that a workspace follows.
func (p *Plane) MLflowServerOf(ctx context.Context, caller access.Caller, ws resource.ID) (item resource.Item[resource.MLflowServer], status MLflowStatus, err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"read", ws); err != nil {
		return item, status, err
	}
	if _, err := p.workspace(ws); err != nil {
		return item, status, err
	}
	item, ok := p.Store.MLflowServers.Get(ws.Key())
	if !ok {
		return item, status, notAttached(ws)
	}
	return item, p.mlflowStatus(&item.Value), nil
}

func (p *Plane) mlflowStatus(m *resource.MLflowServer) MLflowStatus {
	status := MLflowStatus{State: MLflowReading, Lag: time.Since(m.Created.At)}
	if p.MLflow != nil {
		if now, ok := p.MLflow.Status(m.UID); ok {
			status = now
		}
		status.ProxyURL = p.MLflow.ProxyURL(m)
	}
	return status
}

// mlflowTurn is the key of the turn that changes of the server that a workspace follows
// take: what is registered at the server belongs to what is stored.
func mlflowTurn(ws resource.ID) string { return "mlflow " + ws.Key() }

func notAttached(ws resource.ID) error {
	return notFound("ResourceNotFound", "The workspace '%s' follows no MLflow server.", ws.Name())
}

// AttachMLflow has a workspace follow an MLflow server, or changes how it follows the
// one that it has. With another URL, or another workspace of the server, it is another
// server: what is there is of the time before.
func (p *Plane) AttachMLflow(ctx context.Context, caller access.Caller, ws resource.ID, c MLflowChange, cond Precondition) (item resource.Item[resource.MLflowServer], status MLflowStatus, created bool, err error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"write", ws); err != nil {
		return item, status, false, err
	}
	if p.MLflow == nil {
		return item, status, false, fault.New(fault.Invalid, "InvalidRequest", "This server follows no MLflow servers.")
	}
	if _, err := p.workspace(ws); err != nil {
		return item, status, false, err
	}
	done, err := p.changes.take(ctx, mlflowTurn(ws))
	if err != nil {
		return item, status, false, err
	}
	defer done()
	present, exists := p.Store.MLflowServers.Get(ws.Key())
	if err := cond.Check(etagOf(present, exists)); err != nil {
		return item, status, false, err
	}
	m, given, err := p.mlflowServer(c, ws, &present.Value, exists)
	if err != nil {
		return item, status, false, err
	}
	kept, err := OpenMLflowSecret(p.Sealer, &m)
	if err != nil {
		return item, status, false, err
	}
	if given == "" {
		given = kept
	}
	if err := p.MLflow.Check(ctx, &m, given); err != nil {
		return item, status, false, fault.Field("properties.url", "The MLflow server cannot be followed: %v. Nothing was changed.", err)
	}
	undo, err := p.settleWebhook(ctx, c, &m, &present.Value, given)
	if err != nil {
		return item, status, false, err
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	if given != "" {
		if m.SealedSecret, err = p.Sealer.Seal([]byte(given.Reveal()), m.SecretOwner()); err != nil {
			return item, status, false, fmt.Errorf("seal the secret of the MLflow server: %w", err)
		}
	}
	m.Modified = stamp(caller)
	ctx, unlock := p.alter(ctx)
	defer unlock()
	w, err := p.workspace(ws) // it may have gone meanwhile
	if err != nil {
		return item, status, false, err
	}
	m.Workspace = w.Value.ID
	if exists {
		if m.UID != present.Value.UID {
			m.Created = m.Modified
		}
		item, err = p.Store.MLflowServers.Update(ctx, ws.Key(), m, present.Revision)
	} else {
		m.Created = m.Modified
		item, err = p.Store.MLflowServers.Create(ctx, ws.Key(), m)
	}
	if fault.Is(err, fault.PreconditionFailed) || fault.Is(err, fault.Conflict) {
		err = overtaken("The MLflow server of workspace '" + ws.Name() + "'")
	}
	if err != nil {
		return item, status, false, err
	}
	p.changed(ctx, caller, "attach MLflow", w.Value.ID)
	return item, p.mlflowStatus(&item.Value), !exists, nil
}

// FollowMLflow has the first workspace follow the MLflow server that the operator named at
// the start. The server is not asked, for it may start later. One that is followed already
// gets the credentials that are given and keeps its other settings; that the workspace
// follows another one is an error. Call it after Bootstrap.
func (p *Plane) FollowMLflow(ctx context.Context, by access.Caller, c MLflowChange) error {
	ctx, unlock := p.alter(ctx)
	defer unlock()
	ws := settle(p.subscription.Child("resourceGroups", FirstGroup), resource.TypeWorkspace, FirstWorkspace)
	w, err := p.workspace(ws)
	if err != nil {
		return fmt.Errorf("follow the MLflow server of --mlflow: %w", err)
	}
	present, exists := p.Store.MLflowServers.Get(ws.Key())
	m, given, err := p.mlflowServer(c, w.Value.ID, &present.Value, exists)
	if err != nil {
		return fmt.Errorf("follow the MLflow server of --mlflow: %w", err)
	}
	switch {
	case exists && present.Value.URL != m.URL:
		return fmt.Errorf("--mlflow is %s, but the workspace '%s' follows %s: detach that one with carillon mlflow detach, or leave --mlflow out", m.URL, FirstWorkspace, present.Value.URL)
	case exists:
		kept, err := OpenMLflowSecret(p.Sealer, &present.Value)
		if err == nil && (given == "" || given == kept && m.Username == present.Value.Username) {
			return nil
		}
		username := m.Username
		m = present.Value
		m.Username = username
	}
	if given != "" {
		if m.SealedSecret, err = p.Sealer.Seal([]byte(given.Reveal()), m.SecretOwner()); err != nil {
			return fmt.Errorf("seal the secret of the MLflow server: %w", err)
		}
	}
	m.Modified = stamp(by)
	if exists {
		_, err = p.Store.MLflowServers.Update(ctx, ws.Key(), m, present.Revision)
	} else {
		m.Created = m.Modified
		_, err = p.Store.MLflowServers.Create(ctx, ws.Key(), m)
	}
	if err != nil {
		return fmt.Errorf("follow the MLflow server of --mlflow: %w", err)
	}
	p.changed(ctx, by, "attach MLflow", w.Value.ID)
	return nil
}

// mlflowServer checks a request and returns the server that it asks for, with the
// secret that it gives.
func (p *Plane) mlflowServer(c MLflowChange, ws resource.ID, present *resource.MLflowServer, exists bool) (m resource.MLflowServer, given secret.String, err error) {
	var problems []*fault.Error
	wrong := func(field, format string, args ...any) {
		problems = append(problems, fault.Field("properties."+field, format, args...))
	}
	c.URL = strings.TrimRight(c.URL, "/")
	switch u, err := url.Parse(c.URL); {
	case c.URL == "":
		wrong("url", "An MLflow server needs its url: what clients set MLFLOW_TRACKING_URI to, for example https://mlflow.example:5000.")
	case len(c.URL) > maxURL:
		wrong("url", "The url has %d bytes; at most %d are allowed.", len(c.URL), maxURL)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsFunc(c.URL, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		wrong("url", "The url is not an absolute http or https address: write one like https://mlflow.example:5000.")
	case u.User != nil:
		wrong("url", "The url holds credentials, and a url is shown: give username and password by themselves.")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		wrong("url", "The url has a query or a fragment; an MLflow server is named without.")
	default:
		if err := p.CheckURL(u); err != nil {
			wrong("url", "The url cannot be used: %v.", err)
		}
	}
	if strings.ContainsFunc(c.StaticPrefix, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`?#\%`, r) }) || len(c.StaticPrefix) > 255 {
		wrong("staticPrefix", "The staticPrefix '%.80s' is not a path: write it as in mlflow server --static-prefix /mlflow.", c.StaticPrefix)
	}
	for _, word := range []struct{ name, text string }{{"mlflowWorkspace", c.Within}, {"username", c.Username}} {
		if len(word.text) > 255 || strings.ContainsFunc(word.text, func(r rune) bool { return r < ' ' || r > '~' }) {
			wrong(word.name, "The %s '%.80s' is not valid: use at most 255 printable ASCII characters.", word.name, word.text)
		}
	}
	if strings.Contains(c.Username, ":") {
		wrong("username", "The username holds a colon, which Basic authentication cannot send.")
	}
	m = resource.MLflowServer{
		UID: present.UID, Workspace: ws, URL: c.URL, StaticPrefix: c.StaticPrefix, Within: c.Within, Username: c.Username,
		Interval: DefaultMLflowInterval, EmitBacklog: c.EmitBacklog, EndTimeRenews: c.EndTimeRenews, Created: present.Created,
		SynthesizeRunning: c.SynthesizeRunning, Metrics: c.Metrics, InheritModelTags: c.InheritModelTags,
		NoProxy: c.NoProxy, PreserveHost: c.PreserveHost,
	}
	another := !exists || present.URL != m.URL || present.Within != m.Within
	if another {
		m.UID = resource.NewUID()
	}
	secretField := "password"
	switch {
	case c.Password != nil && c.Token != nil:
		wrong("token", "Give a password for Basic authentication or a token for Bearer authentication, not both.")
	case c.Username != "" && c.Token != nil:
		wrong("username", "A token goes without a username.")
	case c.Password != nil && c.Username == "":
		wrong("username", "A password needs a username.")
	case c.Password != nil:
		given = *c.Password
	case c.Token != nil:
		given, secretField = *c.Token, "token"
	case !another && present.Username == m.Username:
		m.SealedSecret = present.SealedSecret
	case c.Username != "":
		wrong("password", "A username needs a password; it can be left out only while url and username stay.")
	}
	if len(given) > maxClientSecret || strings.ContainsFunc(given.Reveal(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		wrong(secretField, "The %s is not valid: use at most %d bytes without control characters.", secretField, maxClientSecret)
	}
	if c.Interval != nil {
		if m.Interval = *c.Interval; m.Interval < minMLflowInterval || m.Interval > maxMLflowInterval {
			wrong("pollIntervalSeconds", "The value %d of pollIntervalSeconds is out of range: use %d to %d.", m.Interval, minMLflowInterval, maxMLflowInterval)
		}
	}
	if c.WebhookOrigin != "" {
		if u, err := url.Parse(c.WebhookOrigin); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || len(c.WebhookOrigin) > 255 {
			wrong("webhookOrigin", "The webhookOrigin '%.80s' is not an http or https address without a path: write what the MLflow server reaches this server by, such as https://carillon.example:7443.", c.WebhookOrigin)
		} else if c.Webhook != nil && !*c.Webhook || c.Webhook == nil && (another || !present.Webhook.Registered()) {
			wrong("webhookOrigin", "The webhookOrigin '%.80s' is of no use without a webhook: register one with webhook true (carillon mlflow attach --webhook).", c.WebhookOrigin)
		}
	}
	switch strings.ToLower(c.ExperimentIDFormat) {
	case "", ExperimentIDVerbatim:
	case ExperimentIDGUID:
		m.ExperimentGUIDs = true
	default:
		wrong("experimentIdFormat", "The experimentIdFormat '%.80s' is not known: use %s or %s.", c.ExperimentIDFormat, ExperimentIDVerbatim, ExperimentIDGUID)
	}
	if c.NotResponding != nil {
		if m.NotResponding = *c.NotResponding; m.NotResponding < minNotResponding || m.NotResponding > maxNotResponding {
			wrong("notRespondingAfterSeconds", "The value %d of notRespondingAfterSeconds is out of range: use %d to %d, or leave it out.", m.NotResponding, minNotResponding, maxNotResponding)
		}
	}
	if len(c.DeployOn.Alias) > maxDeployOn {
		wrong("deployOn.alias", "deployOn.alias holds %d names; at most %d are allowed.", len(c.DeployOn.Alias), maxDeployOn)
	}
	for i, alias := range c.DeployOn.Alias {
		if alias == "" || len(alias) > 255 || strings.ContainsFunc(alias, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			wrong(fmt.Sprintf("deployOn.alias[%d]", i), "The alias '%.80s' is not one that MLflow gives: use a name without spaces of at most 255 bytes, such as champion.", alias)
		}
		if slices.ContainsFunc(c.DeployOn.Stage, func(stage string) bool { return strings.EqualFold(stage, alias) }) {
			wrong(fmt.Sprintf("deployOn.alias[%d]", i), "The alias '%.80s' is also a stage in deployOn.stage, and both would be the endpoint MODEL@%.80s: name one of them.", alias, alias)
		}
	}
	m.DeployOn.Alias = slices.Compact(slices.Sorted(slices.Values(c.DeployOn.Alias)))
	for i, stage := range c.DeployOn.Stage {
		at := slices.IndexFunc(mlflowStages, func(known string) bool { return strings.EqualFold(known, stage) })
		if at < 0 {
			wrong(fmt.Sprintf("deployOn.stage[%d]", i), "The stage '%.80s' is not one of MLflow's: use %s.", stage, strings.Join(mlflowStages, ", "))
		} else {
			m.DeployOn.Stage = append(m.DeployOn.Stage, mlflowStages[at])
		}
	}
	slices.Sort(m.DeployOn.Stage)
	m.DeployOn.Stage = slices.Compact(m.DeployOn.Stage)
	return m, given, errors.Join(c.Unread, fault.Join(problems...))
}

// settleWebhook has the server m call us, or no more, as the change and what is present
// say. undo takes back what was registered.
func (p *Plane) settleWebhook(ctx context.Context, c MLflowChange, m, present *resource.MLflowServer, password secret.String) (undo func(), err error) {
	undo = func() {}
	same := present.Webhook.Registered() && present.UID == m.UID
	wanted := same
	if c.Webhook != nil {
		wanted = *c.Webhook
	}
	if present.Webhook.Registered() && !same { // of a server that is left
		p.forgetWebhook(ctx, present)
	}
	if !wanted {
		if same {
			if err := p.MLflow.Unregister(ctx, present, password); err != nil {
				return undo, fault.Field("properties.webhook", "The webhook cannot be removed from the MLflow server: %v. Nothing was changed.", err)
			}
		}
		return undo, nil
	}
	origin := strings.TrimRight(c.WebhookOrigin, "/")
	if c.Webhook == nil && origin == "" {
		origin = present.Webhook.Origin
	}
	at := cmp.Or(origin, p.PublishURL, p.PublicURL) + "/mlflow/" + url.PathEscape(m.Workspace.ResourceGroup()+"~"+m.Workspace.Name()) + "/webhook"
	if same && present.Webhook.URL == at {
		if c.Webhook == nil {
			m.Webhook = present.Webhook
			return undo, nil
		}
		if state, err := p.MLflow.Registration(ctx, present, password); err == nil && state == WebhookActive {
			m.Webhook = present.Webhook
			return undo, nil
		}
	}
	signing := secret.String(rand.Text())
	sealed, err := p.Sealer.Seal([]byte(signing.Reveal()), m.WebhookOwner())
	if err != nil {
		return undo, fmt.Errorf("seal the secret of the webhook: %w", err)
	}
	id, err := p.MLflow.Register(ctx, m, password, at, signing)
	if err != nil {
		return undo, fault.Field("properties.webhook", "The MLflow server takes no webhook to %s: %v. It must be MLflow 3.3 or newer with a database, and calls addresses that are not public, or are plain http, only with MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true and MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http. Nothing was changed.", at, err)
	}
	m.Webhook = resource.MLflowWebhook{ID: id, Origin: origin, URL: at, Sealed: sealed}
	if same && present.Webhook.URL != at {
		p.forgetWebhook(ctx, present)
	}
	registered := *m
	return func() { _ = p.MLflow.Unregister(context.WithoutCancel(ctx), &registered, password) }, nil
}

// forgetWebhook removes a webhook from a server that is followed no more, if that is still
// there.
func (p *Plane) forgetWebhook(ctx context.Context, m *resource.MLflowServer) {
	if p.MLflow == nil || !m.Webhook.Registered() {
		return
	}
	password, err := OpenMLflowSecret(p.Sealer, m)
	if err == nil {
		err = p.MLflow.Unregister(ctx, m, password)
	}
	if err != nil {
		p.Log.LogAttrs(ctx, slog.LevelWarn, "the webhook stays at an MLflow server that is left", slog.String(telemetry.Workspace, m.Workspace.String()), slog.String(telemetry.Error, err.Error()))
	}
}

// DetachMLflow has a workspace follow its MLflow server no more, and reports whether it
// did. What was recorded stays.
func (p *Plane) DetachMLflow(ctx context.Context, caller access.Caller, ws resource.ID, c Precondition) (bool, error) {
	if err := p.authorize(ctx, caller, actionWorkspaces+"write", ws); err != nil {
		return false, err
	}
	done, err := p.changes.take(ctx, mlflowTurn(ws))
	if err != nil {
		return false, err
	}
	defer done()
	ctx, unlock := p.alter(ctx)
	var left resource.MLflowServer
	defer func() { unlock(); p.forgetWebhook(ctx, &left) }()
	item, exists := p.Store.MLflowServers.Get(ws.Key())
	if err := c.Check(etagOf(item, exists)); err != nil || !exists {
		return false, err
	}
	if err := p.Store.MLflowServers.Delete(ctx, item.Key, item.Revision); err != nil {
		return false, err
	}
	left = item.Value
	p.changed(ctx, caller, "detach MLflow", item.Value.Workspace)
	return true, nil
}

// OpenMLflowWebhook returns what the calls of a server are signed with.
func OpenMLflowWebhook(sealer *secret.Sealer, m *resource.MLflowServer) (secret.String, error) {
	plain, err := sealer.Open(m.Webhook.Sealed, m.WebhookOwner())
	if err != nil {
		return "", fmt.Errorf("open the secret of the MLflow server's webhook: %w", err)
	}
	return secret.String(plain), nil
}

// OpenMLflowSecret returns the secret of a server, "" for none.
func OpenMLflowSecret(sealer *secret.Sealer, m *resource.MLflowServer) (secret.String, error) {
	if m.SealedSecret == "" {
		return "", nil
	}
	plain, err := sealer.Open(m.SealedSecret, m.SecretOwner())
	if err != nil {
		return "", fmt.Errorf("open the secret of the MLflow server: %w", err)
	}
	return secret.String(plain), nil
}
