package mlflow

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

const hookSecret = "hook-s3cret"

// called makes a call as MLflow does. Source: mlflow/webhooks/delivery.py.
func called(id string, at time.Time, body string, change ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/mlflow/bells/webhook", strings.NewReader(body))
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write([]byte(id + "." + timestamp + "." + body))
	r.Header.Set("X-MLflow-Delivery-Id", id)
	r.Header.Set("X-MLflow-Timestamp", timestamp)
	r.Header.Set("X-MLflow-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, f := range change {
		f(r)
	}
	return r
}

const created = `{"entity": "model_version", "action": "created", "timestamp": "2026-03-02T09:14:07.531002+00:00", "data": {"name": "churn", "version": "9", "source": "models:/x", "run_id": null, "tags": {}, "description": null}}`

// hooked is a service whose server has a webhook here, followed and read.
func hooked(t *testing.T, change ...func(*resource.MLflowServer)) (*bridge, *Service, func() map[string]float64) {
	b := newBridge(t, append(change, func(m *resource.MLflowServer) {
		m.Webhook = resource.MLflowWebhook{ID: "w/1", URL: "https://c.example/mlflow/lab~bells/webhook", Sealed: "x"}
	})...)
	b.fake.webhooks = []webhook{{ID: "w/1", URL: b.record.Webhook.URL, Status: "ACTIVE"}}
	s, metrics := b.following(t, nil)
	b.attach(t, 0)
	synctest.Wait()
	time.Sleep(time.Second)
	return b, s, metrics
}

func TestWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, metrics := hooked(t, deployOn(resource.DeployOn{Alias: []string{"champion"}}))
		tell := func(r *http.Request, status int, what ...string) {
			t.Helper()
			w := httptest.NewRecorder()
			s.ServeWebhook(w, r)
			if w.Code != status || strings.Contains(w.Body.String(), hookSecret) {
				t.Errorf("%s: %d %s, want %d", what, w.Code, w.Body, status)
			}
			synctest.Wait()
		}
		header := func(name, value string) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set(name, value) }
		}
		now := time.Now()
		b.fake.register("churn")
		for name, r := range map[string]*http.Request{
			"another body":    called("1", now, created, func(r *http.Request) { r.Body = http.NoBody }),
			"another id":      called("1", now, created, header("X-MLflow-Delivery-Id", "2")),
			"no id":           called("", now, created),
			"another time":    called("1", now, created, header("X-MLflow-Timestamp", strconv.FormatInt(now.Unix()+1, 10))),
			"no time":         called("1", now, created, header("X-MLflow-Timestamp", "")),
			"too late":        called("1", now.Add(-webhookSkew-time.Second), created),
			"too early":       called("1", now.Add(webhookSkew+2*time.Second), created),
			"another version": called("1", now, created, func(r *http.Request) { r.Header.Set("X-MLflow-Signature", "v2"+r.Header.Get("X-MLflow-Signature")[2:]) }),
			"no signature":    called("1", now, created, header("X-MLflow-Signature", "")),
			"not base64":      called("1", now, created, header("X-MLflow-Signature", "v1,!")),
			"empty":           called("1", now, created, header("X-MLflow-Signature", "v1,")),
		} {
			tell(r, http.StatusUnauthorized, name)
		}
		b.want()

		// What it says is a hint: the version that there is counts.
		tell(called("1", now.Add(-4*time.Minute), created), http.StatusNoContent)
		b.want(registered)
		if e := b.last(); e.Data.ModelVersion != "1" {
			t.Errorf("event %+v", e)
		}
		n, _ := b.fake.asked()
		tell(called("1", now.Add(-4*time.Minute), created), http.StatusNoContent) // its retry
		tell(called("2", now, strings.Replace(created, "model_version", "prompt_version", 1)), http.StatusNoContent)
		tell(called("3", now, strings.Replace(created, `"data"`, `"workspace": "other", "data"`, 1)), http.StatusNoContent)
		if after, _ := b.fake.asked(); after != n {
			t.Errorf("%d requests for what is no news", after-n)
		}
		b.fake.setAlias("churn", "champion", "1")
		tell(called("4", now, `{"entity": "model_version_alias", "action": "created", "workspace": "default", "data": {"name": "churn", "alias": "champion", "version": "1"}}`), http.StatusNoContent)
		b.want(deployed)
		tell(called("5", now, "[1]"), http.StatusBadRequest)
		tell(called("6", now, strings.Repeat("x", webhookBody+1)), http.StatusRequestEntityTooLarge)
		tell(called("7", now, created, func(r *http.Request) { r.Method = http.MethodGet }), http.StatusMethodNotAllowed)
		tell(called("8", now, created, func(r *http.Request) { r.URL.Path = "/mlflow/gongs/webhook" }), http.StatusNotFound)
		if st, _ := s.Status(7); !st.LastWebhook.Equal(now) || st.Webhook != manage.WebhookActive {
			t.Errorf("status %+v", st)
		}
		if m := metrics(); m["webhooks_total taken"] != 2 || m["webhooks_total repeated"] != 1 || m["webhooks_total ignored"] != 2 || m["webhooks_total refused"] != 15 {
			t.Errorf("metrics %v", m)
		}
	})
}

func TestWebhookOfAServerWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		s, _ := b.following(t, nil)
		b.attach(t, 0)
		w := httptest.NewRecorder()
		s.ServeWebhook(w, called("1", time.Now(), created))
		if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "--webhook") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func TestServesWebhook(t *testing.T) {
	for path, want := range map[string]bool{
		"/mlflow/default/webhook": true, "/mlflow/lab~default/webhook": true, "/mlflow/default/webhook/": false, "/mlflow//webhook": false,
		"/mlflow/webhook": false, "/mlflow/default/api/2.0/mlflow/webhooks": false, "/mlflow/a/b/webhook": false, "/mlflow/default": false, "/webhook": false,
	} {
		if got := ServesWebhook(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// Deliveries are remembered for a day, and never more than a number of them.
func TestCalls(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	var c calls
	if !c.take("a", now) || c.take("a", now.Add(webhookMemory-1)) || !c.take("a", now.Add(webhookMemory)) {
		t.Error("a delivery is remembered for another time")
	}
	for i := range 3 * mostRemember {
		c.take(fmt.Sprint(i), now)
	}
	if len(c.told) != mostRemember || len(c.ids) != mostRemember {
		t.Errorf("%d deliveries in order, %d by id", len(c.told), len(c.ids))
	}
	if c.take(fmt.Sprint(3*mostRemember-1), now) || !c.take("0", now) {
		t.Error("the oldest do not go first")
	}
}

func TestRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, _ := hooked(t)
		ctx, at := t.Context(), "https://c.example/mlflow/lab~bells/webhook"
		b.fake.webhooks = append(b.fake.webhooks, webhook{ID: "other", URL: "https://elsewhere.example", Status: "ACTIVE"})
		id, err := s.Register(ctx, &b.record, "t0ken", at, hookSecret)
		if err != nil || len(b.fake.webhooks) != 2 || b.fake.webhooks[0].ID != "other" || b.fake.webhooks[1] != (webhook{id, at, "ACTIVE"}) {
			t.Fatalf("%q, error %v: webhooks %+v", id, err, b.fake.webhooks) // that of before is gone
		}
		state := func(want string) {
			t.Helper()
			if got, err := s.Registration(ctx, &b.record, "t0ken"); err != nil || got != want {
				t.Errorf("%q, error %v, want %q", got, err, want)
			}
		}
		b.record.Webhook.ID = id
		state(manage.WebhookActive)
		b.fake.webhooks[1].Status = "DISABLED"
		state(manage.WebhookDisabled)
		b.fake.webhooks[1] = webhook{id, "https://elsewhere.example", "ACTIVE"}
		state(manage.WebhookMissing)
		for range 2 { // also when it is gone
			if err := s.Unregister(ctx, &b.record, "t0ken"); err != nil {
				t.Error(err)
			}
		}
		state(manage.WebhookMissing)
		b.fake.refuseWebhooks = true
		if _, err := s.Register(ctx, &b.record, "t0ken", at, hookSecret); err == nil || !strings.Contains(err.Error(), "Invalid webhook URL scheme") || strings.Contains(err.Error(), hookSecret) {
			t.Errorf("error %v", err)
		}
	})
}

// Somebody removes the webhook at the server: that is seen within an hour, and fails no
// round.
func TestWebhookIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, _ := hooked(t)
		if st, _ := s.Status(7); st.Webhook != manage.WebhookActive {
			t.Errorf("status %+v", st)
		}
		b.fake.change(func() { b.fake.webhooks = nil })
		time.Sleep(sweepEvery)
		if st, _ := s.Status(7); st.Webhook != manage.WebhookMissing || st.State != manage.MLflowFollowing {
			t.Errorf("status %+v", st)
		}
		b.fake.change(func() { b.fake.fail = failing("webhooks/w/1") })
		time.Sleep(sweepEvery)
		if st, _ := s.Status(7); st.State != manage.MLflowFollowing {
			t.Errorf("status %+v", st)
		}
	})
}
