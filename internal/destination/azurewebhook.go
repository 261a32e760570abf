package destination

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/secret"
)

// azureWebhook delivers as a webhook does to an address that follows from a resource and
// its connection, with the retry class of Azure resources: 401 and 404 are tried again.
// Source: spec/delivery.md section 3.3.
type azureWebhook struct {
	*targetConfig
	config func() (WebhookConfig, error) // its URL and headers, by the connection in force
	life   time.Duration                 // for how long a config is good, 0 for ever

	eventType string          // header aeg-event-type; "" for Notification
	more      []manage.Header // of a single message, none of them secret

	mu   sync.Mutex
	hook *Webhook
	made time.Time
	by   string // the connection string that hook was made of
}

// open returns the webhook of the connection in force.
func (w *azureWebhook) open() (*Webhook, error) {
	by := w.connectionString()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hook != nil && by == w.by && by != "" && (w.life == 0 || time.Since(w.made) < w.life) {
		return w.hook, nil
	}
	c, err := w.config()
	if err != nil {
		return nil, &connectionError{err}
	}
	c.EventType, c.Headers = w.eventType, append(c.Headers, w.more...)
	c.Name, c.Schema, c.Guard, c.Pools = w.name, w.schema, w.guard, w.pools
	for _, a := range w.static {
		c.Headers = append(c.Headers, manage.Header{Name: a.name, Value: a.value})
	}
	hook, err := NewWebhook(c)
	if err != nil {
		return nil, &connectionError{unready("its address cannot be used")}
	}
	if w.hook != nil {
		w.hook.Close()
	}
	w.hook, w.made, w.by = hook, time.Now(), by
	return hook, nil
}

func (w *azureWebhook) Send(ctx context.Context, r *broker.Request) broker.Response {
	hook, err := w.open()
	if err != nil {
		return broker.Response{Outcome: broker.Unauthorized, Detail: short(err.Error()), Verdict: broker.TryAgain}
	}
	resp := hook.Send(ctx, r)
	if resp.Outcome == broker.Unauthorized || resp.Outcome == broker.NotFound {
		resp.Verdict = broker.TryAgain
		w.forget(hook) // its key may have been replaced
	}
	return resp
}

// forget has the next attempt make the webhook anew.
func (w *azureWebhook) forget(hook *Webhook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hook == hook {
		w.hook.Close()
		w.hook = nil
	}
}

func (w *azureWebhook) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hook != nil {
		w.hook.Close()
	}
}

func (w *azureWebhook) probe(context.Context) error { return nil }

func (w *azureWebhook) preview(r *broker.Request, _ int) manage.Receipt {
	hook, err := w.open()
	if err != nil {
		return manage.Receipt{RequestLine: "nothing: " + err.Error()}
	}
	var hidden []string
	for _, a := range w.static {
		if a.secret {
			hidden = append(hidden, a.name)
		}
	}
	shown := shownHead(hook.appendHead(append([]byte(nil), hook.head...), r, ""), func(name string) bool {
		for _, h := range hidden {
			if strings.EqualFold(h, name) {
				return true
			}
		}
		return strings.EqualFold(name, relayHeader) || strings.EqualFold(name, "Authorization")
	})
	return shown
}

// openFunction makes the sender to the event grid trigger of a function: a webhook whose
// address and key are the connection. There is no handshake: who named the
// resource was allowed to. Source: spec/handlers.md section 3.
func openFunction(c *targetConfig) (targetSender, error) {
	return &azureWebhook{targetConfig: c, config: func() (WebhookConfig, error) {
		settings, err := c.inherited()
		if err != nil {
			return WebhookConfig{}, err
		}
		query := url.Values{"functionName": {c.values.ID("resourceId").Name()}}
		if key := settings["systemkey"]; key != "" {
			query.Set("code", key)
		}
		return WebhookConfig{URL: settings["endpoint"] + "/runtime/webhooks/eventgrid?" + query.Encode()}, nil
	}}, nil
}

// functionGoodbye is the aeg-event-type by which the Functions runtime knows that its
// event subscription is gone. Source: spec/handlers.md section 3.
const functionGoodbye = "Unsubscribe"

// relayHeader carries the token of a relay, which takes it out.
// Source: spec/handlers.md section 9.
const relayHeader = "ServiceBusAuthorization"

// relayLife is for how long a relay's token is good; it is made anew at half of it.
const relayLife = time.Hour

// openRelay makes the sender to a hybrid connection: HTTPS with a signed token.
func openRelay(c *targetConfig) (targetSender, error) {
	return &azureWebhook{targetConfig: c, life: relayLife / 2, config: func() (WebhookConfig, error) {
		settings, err := c.inherited()
		if err != nil {
			return WebhookConfig{}, err
		}
		endpoint, err := url.Parse(settings["endpoint"])
		if err != nil {
			return WebhookConfig{}, unready("its Endpoint is no address")
		}
		if endpoint.Scheme == "sb" {
			endpoint.Scheme = "https"
		}
		endpoint.Path = "/" + c.values.ID("resourceId").Name()
		out := WebhookConfig{URL: endpoint.String()}
		if key := settings["sharedaccesskey"]; key != "" {
			resource := (&url.URL{Scheme: "http", Host: endpoint.Host, Path: endpoint.Path}).String()
			out.Headers = []manage.Header{{Name: relayHeader, Value: relayToken(resource, settings["sharedaccesskeyname"], key, time.Now().Add(relayLife))}}
		}
		return out, nil
	}}, nil
}

// relayToken signs for a resource until a time. Source: spec/handlers.md section 9.
func relayToken(resource, policy, key string, until time.Time) string {
	sr, se := url.QueryEscape(resource), fmt.Sprint(until.Unix())
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(sr + "\n" + se))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + se + "&skn=" + url.QueryEscape(policy)
}

// shownHead takes the head of a request apart and hides its query and what is secret.
func shownHead(head []byte, hidden func(name string) bool) manage.Receipt {
	lines := strings.Split(strings.TrimRight(string(head), "\r\n"), "\r\n")
	var r manage.Receipt
	r.RequestLine = lines[0]
	if target, query, ok := strings.Cut(lines[0], "?"); ok {
		_, version, _ := strings.Cut(query, " ")
		r.RequestLine = target + "?" + secret.Hidden + " " + version
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if hidden(name) {
			value = secret.Hidden
		}
		r.Headers = append(r.Headers, manage.Header{Name: name, Value: value})
	}
	return r
}
