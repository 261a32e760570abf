package mlflow

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// An MLflow server that knows webhooks calls us when a version was registered, tagged or
// given an alias. That is a hint and no more: the model is looked at, and what is read
// there is the fact. So a call that is lost costs the wait for a round, and one that
// somebody repeats costs a request.
// Source: spec/workspace.md sections 4.5 and 5.8; mlflow/webhooks/delivery.py.

const (
	webhookSkew   = 5 * time.Minute // most that the time of a call may differ from ours
	webhookBody   = 1 << 20         // largest call
	webhookMemory = 24 * time.Hour  // for how long a delivery is remembered
	mostRemember  = 10_000          // deliveries of one server that are
)

// webhookEvents are what a server is asked to call for, in the words of its REST API.
var webhookEvents = []map[string]string{
	{"entity": "MODEL_VERSION", "action": "CREATED"},
	{"entity": "MODEL_VERSION_TAG", "action": "SET"},
	{"entity": "MODEL_VERSION_TAG", "action": "DELETED"},
	{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"},
	{"entity": "MODEL_VERSION_ALIAS", "action": "DELETED"},
}

// calls remembers the deliveries of one server. It is safe for concurrent use.
type calls struct {
	mu   sync.Mutex
	ids  map[string]bool
	told []call // oldest first
	last time.Time
}

type call struct {
	id string
	at time.Time
}

// take notes a delivery and reports whether it is not known.
func (c *calls) take(id string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = now
	for len(c.told) > 0 && (len(c.told) >= mostRemember || now.Sub(c.told[0].at) >= webhookMemory) {
		delete(c.ids, c.told[0].id)
		c.told = c.told[1:]
	}
	if c.ids[id] {
		return false
	}
	if c.ids == nil {
		c.ids = map[string]bool{}
	}
	c.ids[id] = true
	c.told = append(c.told, call{id, now})
	return true
}

func (c *calls) lastAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// callsOf returns what is remembered of a server that is attached.
func (s *Service) callsOf(uid resource.UID) *calls {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[uid]
	if c == nil {
		c = &calls{}
		s.calls[uid] = c
	}
	return c
}

// ServesWebhook reports whether a path is that of the webhook of a workspace,
// /mlflow/{workspace}/webhook. MLflow itself has no such path.
func ServesWebhook(path string) bool {
	_, ok := webhookWorkspace(path)
	return ok
}

func webhookWorkspace(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, "/mlflow/")
	if !ok {
		return "", false
	}
	workspace, ok := strings.CutSuffix(rest, "/webhook")
	return workspace, ok && workspace != "" && !strings.Contains(workspace, "/")
}

// ServeWebhook answers a call of an MLflow server.
func (s *Service) ServeWebhook(w http.ResponseWriter, r *http.Request) {
	outcome, err := s.hear(w, r)
	s.metrics.webhooks.WithLabelValues(outcome).Inc()
	if err != nil {
		fault.Write(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Outcomes of a call.
const (
	callTaken    = "taken"
	callRepeated = "repeated"
	callIgnored  = "ignored" // of something that raises no event
	callRefused  = "refused"
)

func (s *Service) hear(w http.ResponseWriter, r *http.Request) (outcome string, err error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return callRefused, fault.New(fault.MethodNotAllowed, "HttpMethodNotSupported", "MLflow's webhooks come as POST.")
	}
	name, _ := webhookWorkspace(r.URL.Path)
	server, err := s.Attached(name)
	if err != nil {
		return callRefused, err
	}
	if !server.Webhook.Registered() {
		return callRefused, fault.New(fault.NotFound, "ResourceNotFound", "The MLflow server of the workspace '%s' has no webhook here: register one with carillon mlflow attach URL --webhook.", server.Workspace.Name())
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, webhookBody))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return callRefused, fault.New(fault.TooLarge, "RequestTooLarge", "A webhook's body has more than %d bytes.", webhookBody)
		}
		return callRefused, fault.New(fault.Invalid, "InvalidRequest", "The body of the webhook could not be read.")
	}
	signing, err := s.cfg.WebhookSecret(server)
	if err != nil {
		return callRefused, err
	}
	now := time.Now()
	id := r.Header.Get("X-MLflow-Delivery-Id")
	if !verified(signing, id, r.Header.Get("X-MLflow-Timestamp"), r.Header.Get("X-MLflow-Signature"), body, now) {
		return callRefused, fault.New(fault.Unauthenticated, "InvalidSignature",
			"The webhook is not signed with the secret that it was registered with, or its time is more than 5 minutes off.")
	}
	if !s.callsOf(server.UID).take(id, now) {
		return callRepeated, nil
	}
	var said struct {
		Entity    string `json:"entity"`
		Workspace string `json:"workspace"`
		Data      struct {
			Name string `json:"name"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return callRefused, fault.New(fault.Invalid, "InvalidRequestContent", "The body of the webhook is not a JSON object as MLflow sends it.")
	}
	if !strings.HasPrefix(said.Entity, "model_version") || said.Data.Name == "" || !within(server, said.Workspace) {
		return callIgnored, nil
	}
	s.Look(server.UID, Object{Model: said.Data.Name}, nil)
	return callTaken, nil
}

// within reports whether a call is of the workspace of the server that we follow. Without
// workspaces it names none.
func within(server *resource.MLflowServer, workspace string) bool {
	const byDefault = "default"
	named := func(name string) string {
		if name == "" {
			return byDefault
		}
		return name
	}
	return named(workspace) == named(server.Within)
}

// verified reports whether a call is the server's own and new.
func verified(signing secret.String, id, timestamp, signature string, body []byte, now time.Time) bool {
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" || len(id) > 255 || signing == "" || now.Sub(time.Unix(seconds, 0)).Abs() > webhookSkew {
		return false
	}
	version, encoded, _ := strings.Cut(signature, ",")
	given, err := base64.StdEncoding.DecodeString(encoded)
	if version != "v1" || err != nil {
		return false
	}
	mac := hmac.New(sha256.New, []byte(signing.Reveal()))
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	_, _ = mac.Write(body)
	return hmac.Equal(given, mac.Sum(nil))
}

// webhook is a registration at an MLflow server.
type webhook struct {
	ID     string `json:"webhook_id"`
	URL    string `json:"url"`
	Status string `json:"status"`
}

// Register satisfies manage.MLflow. What was registered for the address before goes: the
// process may have ended before it was stored.
func (s *Service) Register(ctx context.Context, server *resource.MLflowServer, password secret.String, at string, signing secret.String) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	c := s.client(server, password)
	id, err := c.register(ctx, "carillon-"+server.UID.String(), at, signing)
	if err != nil {
		return "", errors.New(strings.ReplaceAll(shown(err).Error(), signing.Reveal(), secret.Hidden))
	}
	return id, nil
}

// Unregister satisfies manage.MLflow. One that is gone is no error.
func (s *Service) Unregister(ctx context.Context, server *resource.MLflowServer, password secret.String) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	return shown(s.client(server, password).unregister(ctx, server.Webhook.ID))
}

// Registration satisfies manage.MLflow.
func (s *Service) Registration(ctx context.Context, server *resource.MLflowServer, password secret.String) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	state, err := s.client(server, password).registration(ctx, server.Webhook)
	return state, shown(err)
}

func (c *Client) register(ctx context.Context, name, at string, signing secret.String) (string, error) {
	for part, err := range pages(c, "", func(token string) ([]webhook, string, error) {
		var answer struct {
			Webhooks page[webhook] `json:"webhooks"`
			Next     string        `json:"next_page_token"`
		}
		err := c.call(ctx, "/mlflow/webhooks", paged(token, 100, url.Values{}), nil, &answer)
		return answer.Webhooks, answer.Next, err
	}) {
		if err != nil {
			return "", err
		}
		for _, w := range part {
			if w.URL == at {
				if err := c.unregister(ctx, w.ID); err != nil {
					return "", err
				}
			}
		}
	}
	var answer struct {
		Webhook webhook `json:"webhook"`
	}
	err := c.call(ctx, "/mlflow/webhooks", nil, map[string]any{
		"name": name, "description": "Carillon looks at a model when it hears of it.", "url": at, "events": webhookEvents, "secret": signing.Reveal(), "status": "ACTIVE",
	}, &answer)
	if err == nil && answer.Webhook.ID == "" {
		err = errors.New("the MLflow server registered a webhook and did not name it")
	}
	return answer.Webhook.ID, err
}

func (c *Client) unregister(ctx context.Context, id string) error {
	var answer struct{}
	return unlessAbsent(c.send(ctx, http.MethodDelete, "/mlflow/webhooks/"+url.PathEscape(id), nil, nil, &answer))
}

// registration tells whether a webhook stands as it was registered.
func (c *Client) registration(ctx context.Context, w resource.MLflowWebhook) (state string, err error) {
	var answer struct {
		Webhook webhook `json:"webhook"`
	}
	switch err := c.call(ctx, "/mlflow/webhooks/"+url.PathEscape(w.ID), nil, nil, &answer); {
	case absent(err):
		return manage.WebhookMissing, nil
	case err != nil:
		return "", err
	case answer.Webhook.Status == "DISABLED":
		return manage.WebhookDisabled, nil
	case answer.Webhook.URL != w.URL:
		return manage.WebhookMissing, nil
	}
	return manage.WebhookActive, nil
}
