package destination

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
)

// The acceptance tests of spec/delivery.md section 11 that are about deliveries, from
// publish to the handler or the dead letter: the real engine, broker and HTTP client,
// in fake time and over net.Pipe. docs/delivery.md lists all fifteen.

// TestMain runs the embedded server's access-time ticker outside of the bubbles.
func TestMain(m *testing.M) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	os.Exit(code)
}

// delivery is a request that a handler got.
type delivery struct {
	at     time.Time
	target string
	header http.Header
	body   string
}

// walk is a broker whose one event subscription has a webhook.
type walk struct {
	*broker.Broker
	t       *testing.T
	es      *resource.EventSubscription
	metrics *prometheus.Registry
	root    string // of directories for dead letters
	begun   time.Time

	mu     sync.Mutex
	dialed []string
	got    []delivery
}

var acceptanceTopic = resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/t")

// newWalk must be called in a bubble. answer answers the n-th request, 1 being the
// first; it may wait, and may close the connection.
func newWalk(t *testing.T, answer func(n int, d delivery, c net.Conn), change ...func(*resource.EventSubscription)) *walk {
	t.Helper()
	dir := t.TempDir()
	e, err := engine.Open(t.Context(), engine.Options{Dir: filepath.Join(dir, "data"), SyncInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{t: t, metrics: prometheus.NewRegistry(), root: filepath.Join(dir, "letters"), begun: time.Now()}
	if err := os.Mkdir(w.root, 0o700); err != nil {
		t.Fatal(err)
	}
	none := newConnected(t).Connections
	w.es = &resource.EventSubscription{
		UID: 0x500, Scope: acceptanceTopic, Name: "Model-registered-to-CI", TopicUID: 0x70, FilterGeneration: 1,
		DeliverySchema: event.EventGridSchema, State: resource.Succeeded,
		RetryPolicy: resource.RetryPolicy{MaxDeliveryAttempts: resource.DefaultMaxDeliveryAttempts, EventTimeToLive: resource.DefaultEventTimeToLive},
	}
	for _, f := range change {
		f(w.es)
	}
	ctx, stop := context.WithCancel(t.Context())
	w.Broker, err = broker.New(ctx, broker.Config{
		Log: e.Partition(), Journal: e.Partition().Journal(), DeadLetters: e.DeadLetters(), Work: e.Work(),
		DeadLetterStore: NewDeadLetterStore(none, w.root, egress.New(egress.Options{})),
		Logger:          slog.New(slog.DiscardHandler), Registerer: w.metrics,
		NewSender: func(es *resource.EventSubscription) (broker.Sender, error) {
			hook, err := NewWebhook(WebhookConfig{URL: "http://hooks.example.org/in?code=s3cret", Name: es.Name, Schema: es.DeliverySchema, Guard: loopback})
			if err == nil {
				hook.dial = w.pipe(answer)
			}
			return hook, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Activate(ctx, w.es); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	if err := w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// pipe dials a handler that keeps what it is sent.
func (w *walk) pipe(answer func(int, delivery, net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, addr string) (net.Conn, error) {
		client, server := net.Pipe()
		w.mu.Lock()
		w.dialed = append(w.dialed, addr)
		w.mu.Unlock()
		go func() {
			defer server.Close()
			for in := bufio.NewReader(server); ; {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				d := delivery{time.Now(), r.RequestURI, r.Header, string(body)}
				w.mu.Lock()
				w.got = append(w.got, d)
				n := len(w.got)
				w.mu.Unlock()
				answer(n, d, server)
			}
		}()
		return client, nil
	}
}

// publish publishes one event for each id, in one request.
func (w *walk) publish(ids ...string) {
	w.t.Helper()
	events := make([]event.Event, len(ids))
	for i, id := range ids {
		events[i] = w.event(id, "")
	}
	w.publishEvents(events...)
}

func (w *walk) publishEvents(events ...event.Event) {
	w.t.Helper()
	if err := w.Publish(w.t.Context(), w.es.TopicUID, events); err != nil {
		w.t.Fatal(err)
	}
}

// event is an event of the topic, a CloudEvent where those are delivered.
func (w *walk) event(id, data string) event.Event {
	if w.es.DeliverySchema == event.CloudEventSchemaV1_0 {
		return event.Event{Schema: event.CloudEventSchemaV1_0, Raw: fmt.Appendf(nil,
			`{"specversion":"1.0","id":%q,"source":"/s","type":"T","time":"2026-03-01T10:00:00.1234567Z","data":{"d":%q}}`, id, data)}
	}
	return event.Event{Schema: event.EventGridSchema, Raw: fmt.Appendf(nil,
		`{"id":%q,"topic":%q,"subject":"s","eventType":"T","eventTime":"2026-03-01T10:00:00.1234567Z","data":{"d":%q},"dataVersion":"2","metadataVersion":"1"}`, id, acceptanceTopic, data)}
}

// rest lets time pass, and everything that is due happen.
func (w *walk) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// requests returns those that the handler got so far, all or those with an event.
func (w *walk) requests(id string) []delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.got), func(d delivery) bool { return id != "" && !slices.Contains(d.ids(), id) })
}

// ids returns the ids of the events of a request.
func (d delivery) ids() []string {
	body := d.body
	if !strings.HasPrefix(body, "[") {
		body = "[" + body + "]"
	}
	var events []struct{ ID string }
	if err := json.Unmarshal([]byte(body), &events); err != nil {
		return nil
	}
	var ids []string
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

// letters returns the dead letters by the id of their event.
func (w *walk) letters() map[string]*broker.Letter {
	w.t.Helper()
	found := map[string]*broker.Letter{}
	for l, err := range w.DeadLetters(w.t.Context(), 0, 0) {
		if err != nil {
			w.t.Fatal(err)
		}
		var e struct{ ID string }
		if err := json.Unmarshal(l.Event, &e); err != nil {
			w.t.Fatal(err)
		}
		found[e.ID] = l
	}
	return found
}

// counted fails the test unless a counter, all its labels together, has a value.
func (w *walk) counted(name string, want float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	if sum != want {
		w.t.Errorf("%s is %v, want %v", name, sum, want)
	}
}

// files returns the dead letters written to directories, by path.
func (w *walk) files() map[string]string {
	w.t.Helper()
	files := map[string]string{}
	if err := fs.WalkDir(os.DirFS(w.root), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(w.root, path))
		files[path] = string(raw)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return files
}

// answering answers always the same.
func answering(status int, headers ...string) func(int, delivery, net.Conn) {
	return func(_ int, _ delivery, c net.Conn) { respond(c, status, "", headers...) }
}

// Only 200 to 204 are a success: 205, 206, 302, 307 and whatever else are not, nor is
// an answer that never comes to its status. A redirect is not followed.
func TestAcceptance01StatusClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := map[string]int{}
		for status := 200; status < 400; status++ {
			attempts[fmt.Sprint(status)] = 2
		}
		for status := 200; status <= 204; status++ {
			attempts[fmt.Sprint(status)] = 1
		}
		attempts["100"], attempts["101"] = 2, 2
		var mu sync.Mutex
		seen := map[string]bool{}
		w := newWalk(t, func(_ int, d delivery, c net.Conn) {
			id := d.ids()[0]
			mu.Lock()
			again := seen[id]
			seen[id] = true
			mu.Unlock()
			switch {
			case again:
				respond(c, 200, "")
			case id == "100": // and nothing after it
				_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
				_ = c.Close()
			default:
				_, _ = fmt.Fprintf(c, "HTTP/1.1 %s x\r\nLocation: http://elsewhere.example.org/moved\r\nContent-Length: 0\r\n\r\n", id)
			}
		})
		for id, want := range attempts {
			w.publish(id)
			w.rest(11 * time.Second)
			if got := len(w.requests(id)); got != want {
				t.Errorf("%s: %d attempts, want %d", id, got, want)
			}
		}
		for _, d := range w.requests("") {
			if d.target != "/in?code=s3cret" {
				t.Errorf("request of %s", d.target)
			}
		}
		for _, addr := range w.dialed {
			if addr != "hooks.example.org:80" {
				t.Errorf("connected to %s", addr)
			}
		}
		w.counted("eventgrid_delivery_success_total", float64(len(attempts)))
		w.counted("eventgrid_delivery_attempt_fail_total", float64(len(attempts)-5))
	})
}

// The first delivery has aeg-delivery-count 0, the retries 1, 2, …, and all are
// notifications that name the same event.
func TestAcceptance02DeliveryCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalk(t, func(n int, _ delivery, c net.Conn) { respond(c, map[int]int{1: 500, 2: 503, 3: 200}[n], "") })
		w.publish("1")
		w.rest(10 * time.Minute)
		got := w.requests("1")
		if len(got) != 3 {
			t.Fatalf("%d attempts", len(got))
		}
		for n, d := range got {
			want := map[string]string{
				"aeg-event-type": "Notification", "aeg-subscription-name": "MODEL-REGISTERED-TO-CI", "aeg-delivery-count": fmt.Sprint(n),
				"aeg-data-version": "2", "aeg-metadata-version": "1", "aeg-output-event-id": got[0].header.Get("aeg-output-event-id"),
			}
			for name, value := range want {
				if d.header.Get(name) != value || value == "" {
					t.Errorf("attempt %d: %s is %q, want %q", n+1, name, d.header.Get(name), value)
				}
			}
		}
	})
}

// An Event Grid event travels as an array of one, a CloudEvent as an object, or as
// an array where batching is on; the content types say so to the letter.
func TestAcceptance03Bodies(t *testing.T) {
	for _, tt := range []struct {
		name        string
		schema      event.Schema
		batch       int
		contentType string
		array       bool
	}{
		{"Event Grid", event.EventGridSchema, 0, "application/json; charset=utf-8", true},
		{"Event Grid, batching", event.EventGridSchema, 10, "application/json; charset=utf-8", true},
		{"CloudEvents", event.CloudEventSchemaV1_0, 0, "application/cloudevents+json; charset=utf-8", false},
		{"CloudEvents, batching", event.CloudEventSchemaV1_0, 10, "application/cloudevents-batch+json; charset=utf-8", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWalk(t, answering(200), batches(tt.batch, 64), func(es *resource.EventSubscription) { es.DeliverySchema = tt.schema })
				w.publish("1")
				w.rest(time.Second)
				got := w.requests("")
				if len(got) != 1 || !slices.Equal(got[0].header.Values("Content-Type"), []string{tt.contentType}) {
					t.Fatalf("requests %+v", got)
				}
				one := got[0].body
				if tt.array {
					var all []json.RawMessage
					if err := json.Unmarshal([]byte(one), &all); err != nil || len(all) != 1 {
						t.Fatalf("body %s: %v", one, err)
					}
					one = string(all[0])
				}
				if want := string(w.event("1", "").Raw); !sameJSON(one, want) {
					t.Errorf("event %s, want %s", one, want)
				}
			})
		})
	}
}

// batches turns batching on, 0 leaves it off.
func batches(events, kilobytes int) func(*resource.EventSubscription) {
	return func(es *resource.EventSubscription) {
		if events > 0 {
			es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: events, PreferredBatchSizeInKilobytes: kilobytes}}
		}
	}
}

func sameJSON(a, b string) bool {
	var x, y map[string]any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	left, _ := json.Marshal(x)
	right, _ := json.Marshal(y)
	return string(left) == string(right)
}

// 400, 413, 403 and 401 of a webhook: one attempt, and a dead letter. Azure drops the
// event where it has no dead-letter destination; here it is kept, so nothing is
// counted as dropped.
func TestAcceptance04NotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reasons := map[string]broker.Reason{
			"400": "UndeliverableDueToHttpBadRequest", "413": "UndeliverableDueToHttpRequestEntityTooLarge",
			"403": "UndeliverableDueToHttpForbidden", "401": "UndeliverableDueToHttpUnauthorized",
		}
		outcomes := map[string]string{"400": "BadRequest", "413": "PayloadTooLarge", "403": "Forbidden", "401": "Unauthorized"}
		w := newWalk(t, func(_ int, d delivery, c net.Conn) {
			_, _ = fmt.Fprintf(c, "HTTP/1.1 %s x\r\nContent-Length: 0\r\n\r\n", d.ids()[0])
		})
		for _, id := range []string{"400", "413", "403", "401"} {
			w.publish(id)
			w.rest(20 * time.Minute) // the destination rests after 401 and 403
		}
		w.rest(2 * time.Hour)
		letters := w.letters()
		for id, reason := range reasons {
			if n := len(w.requests(id)); n != 1 {
				t.Errorf("%s: %d attempts", id, n)
			}
			l := letters[id]
			if l == nil {
				t.Errorf("%s: no dead letter", id)
				continue
			}
			if l.DeadLetterReason != reason || l.DeliveryAttempts != 1 || l.LastDeliveryOutcome != outcomes[id] || fmt.Sprint(l.LastHTTPStatusCode) != id {
				t.Errorf("%s: dead letter %+v", id, l)
			}
			if after := l.DeadLetterTime.Sub(l.LastDeliveryAttemptTime); after > time.Second {
				t.Errorf("%s: given up %s after the attempt", id, after)
			}
		}
		w.counted("eventgrid_dead_lettered_events_total", 4)
		w.counted("eventgrid_dropped_events_total", 0)
	})
}

// The least wait before the second attempt depends on the answer; Retry-After of 429
// and 503 is honoured up to an hour. That 401 of an Azure resource is tried again
// after 5 minutes has no test yet: webhooks are the only handlers.
func TestAcceptance05Waits(t *testing.T) {
	const second, minute = time.Second, time.Minute
	tests := []struct {
		id         string
		status     int
		retryAfter string
		least      time.Duration
	}{
		{"404", 404, "", 5 * minute},
		{"408", 408, "", 2 * minute},
		{"410", 410, "", 5 * minute}, // 10 s by itself, but the destination rests
		{"429", 429, "", 10 * second},
		{"429 that asks for more", 429, "90", 90 * second},
		{"500", 500, "", 10 * second},
		{"500 that asks for more", 500, "90", 10 * second},
		{"502", 502, "", 10 * second},
		{"503", 503, "", 30 * second},
		{"503 that asks for less", 503, "5", 30 * second},
		{"503 that asks for a day", 503, "86400", time.Hour},
		{"504", 504, "", 10 * second},
		{"no answer", 0, "", 10 * second},
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWalk(t, func(_ int, d delivery, c net.Conn) {
			if d.header.Get("aeg-delivery-count") != "0" {
				respond(c, 200, "")
				return
			}
			for _, tt := range tests {
				if tt.id != d.ids()[0] {
					continue
				}
				if tt.status == 0 {
					hang(c)
					return
				}
				respond(c, tt.status, "", "Retry-After", tt.retryAfter)
			}
		})
		for _, tt := range tests {
			w.publish(tt.id)
			w.rest(2 * time.Hour)
			got := w.requests(tt.id)
			if len(got) != 2 {
				t.Errorf("%s: %d attempts", tt.id, len(got))
				continue
			}
			wait := got[1].at.Sub(got[0].at)
			if tt.status == 0 {
				wait -= 30 * time.Second // until it was judged
			}
			if wait < tt.least || wait > tt.least+tt.least/20 {
				t.Errorf("%s: tried again after %s, want %s and at most a twentieth more", tt.id, wait, tt.least)
			}
		}
		w.counted("eventgrid_delivery_success_total", float64(len(tests)))
	})
}

// maxDeliveryAttempts counts the first attempt.
func TestAcceptance06OneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalk(t, answering(500), func(es *resource.EventSubscription) { es.RetryPolicy.MaxDeliveryAttempts = 1 })
		w.publish("1")
		w.rest(2 * time.Hour)
		if n := len(w.requests("")); n != 1 {
			t.Errorf("%d attempts", n)
		}
		if l := w.letters()["1"]; l == nil || l.DeliveryAttempts != 1 || l.DeadLetterReason != "MaxDeliveryAttemptsExceeded" || l.LastDeliveryOutcome != "GenericError" || l.LastHTTPStatusCode != 500 {
			t.Errorf("dead letter %+v", l)
		}
	})
}

// A handler that always fails is asked six times within half an hour, and the event
// is given up when that is over.
func TestAcceptance07TimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalk(t, answering(500), func(es *resource.EventSubscription) { es.RetryPolicy.EventTimeToLive = 30 })
		w.publish("1")
		w.rest(2 * time.Hour)
		if n := len(w.requests("")); n != 6 {
			t.Errorf("%d attempts, want 6", n)
		}
		l := w.letters()["1"]
		if l == nil || l.DeliveryAttempts != 6 || l.DeadLetterReason != "TimeToLiveExceeded" {
			t.Fatalf("dead letter %+v", l)
		}
		if after := l.DeadLetterTime.Sub(w.begun); after < 30*time.Minute || after > 30*time.Minute+time.Second {
			t.Errorf("given up after %s", after)
		}
	})
}

// A success after 40 s: the attempt counts as timed out, its retry is cancelled, and
// the event is delivered once.
func TestAcceptance08LateSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalk(t, func(_ int, _ delivery, c net.Conn) {
			time.Sleep(40 * time.Second)
			respond(c, 200, "")
		})
		w.publish("1")
		w.rest(35 * time.Second)
		if st, _ := w.Status(w.es.UID); st.FailedAttempts != 1 || st.Delivered != 0 || st.Open != 1 {
			t.Errorf("after 35 s: %+v", st)
		}
		w.rest(2 * time.Hour)
		if n := len(w.requests("")); n != 1 {
			t.Errorf("%d requests", n)
		}
		if st, _ := w.Status(w.es.UID); st.Open != 0 || st.DeadLettered != 0 {
			t.Errorf("in the end: %+v", st)
		}
		w.counted("eventgrid_delivery_success_total", 1)
		w.counted("eventgrid_delivery_attempt_fail_total", 1)
	})
}

// A batch that fails is tried again whole, each of its events with one attempt more.
// An event that is larger than the size of a batch is sent, alone.
func TestAcceptance09Batches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWalk(t, func(n int, d delivery, c net.Conn) {
			switch {
			case n == 1: // the others gather behind the first
				time.Sleep(time.Second)
				respond(c, 200, "")
			case len(d.ids()) == 3 && d.header.Get("aeg-delivery-count") == "0":
				respond(c, 500, "")
			default:
				respond(c, 200, "")
			}
		}, batches(4, 1))
		w.publish("first")
		synctest.Wait()
		w.publish("1", "2", "3")
		w.publishEvents(w.event("large", strings.Repeat("x", 3000)))
		w.rest(time.Minute)
		var got []string
		for _, d := range w.requests("") {
			got = append(got, strings.Join(d.ids(), ",")+" "+d.header.Get("aeg-delivery-count"))
		}
		slices.Sort(got)
		if want := []string{"1,2,3 0", "1,2,3 1", "first 0", "large 0"}; !slices.Equal(got, want) {
			t.Errorf("requests %q, want %q", got, want)
		}
		w.counted("eventgrid_delivery_attempt_fail_total", 3)
		w.counted("eventgrid_delivery_success_total", 5)
	})
}

// Dead letters are written below the name in capitals and the UTC date without leading
// zeros, as an array, with members in lower case in a CloudEvent.
func TestAcceptance13DeadLetterFiles(t *testing.T) {
	grid := []string{"deadLetterReason", "deliveryAttempts", "lastDeliveryOutcome", "lastHttpStatusCode", "publishTime", "lastDeliveryAttemptTime"}
	var cloud []string
	for _, name := range grid {
		cloud = append(cloud, strings.ToLower(name))
	}
	for _, tt := range []struct {
		schema  event.Schema
		members []string
	}{{event.EventGridSchema, grid}, {event.CloudEventSchemaV1_0, cloud}} {
		t.Run(tt.schema.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWalk(t, answering(400), writesTo("team"), func(es *resource.EventSubscription) { es.DeliverySchema = tt.schema })
				w.publish("1", "2")
				w.rest(time.Minute)
				files := w.files()
				if len(files) != 1 {
					t.Fatalf("files %v", files)
				}
				for path, content := range files {
					// A bubble's time begins at midnight UTC of 2000-01-01.
					name, ok := strings.CutPrefix(path, "team/MODEL-REGISTERED-TO-CI/2000/1/1/0/")
					if guid, json := strings.CutSuffix(name, ".json"); !ok || !json || len(guid) != 36 {
						t.Errorf("path %s", path)
					}
					var events []map[string]any
					if err := json.Unmarshal([]byte(content), &events); err != nil || len(events) != 2 {
						t.Fatalf("content %s: %v", content, err)
					}
					for _, e := range events {
						id, _ := e["id"].(string)
						want := []any{"UndeliverableDueToHttpBadRequest", 1.0, "BadRequest", 400.0, nil, nil}
						for j, member := range tt.members {
							value, there := e[member]
							if !there || want[j] != nil && value != want[j] {
								t.Errorf("event %s: %s is %v", id, member, value)
							}
							if want[j] == nil && !strings.HasPrefix(fmt.Sprint(value), "2000-01-01T00:00:0") {
								t.Errorf("event %s: %s is %v", id, member, value)
							}
							delete(e, member)
						}
						rest, _ := json.Marshal(e)
						if original := string(w.event(id, "").Raw); !sameJSON(string(rest), original) {
							t.Errorf("event %s: besides there is %s, want %s", id, rest, original)
						}
					}
				}
			})
		})
	}
}

// writesTo gives an event subscription a directory for its dead letters.
func writesTo(directory string) func(*resource.EventSubscription) {
	return func(es *resource.EventSubscription) {
		es.DeadLetter = &resource.DeadLetterDestination{Type: resource.DeadLetterLocalDirectory, Directory: directory}
	}
}

// A dead-letter store that is down for less than 4 hours gets everything when it is
// back. After 4 hours Azure drops the event and counts it; here it is written all the
// same, counted as late, and the dead letter is kept by the server in any case.
func TestAcceptance15DeadLetterStoreDown(t *testing.T) {
	for _, tt := range []struct {
		name string
		down time.Duration
		late float64
	}{{"3 hours", 3 * time.Hour, 0}, {"5 hours", 5 * time.Hour, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWalk(t, answering(400), writesTo("team"))
				away := w.root + ".away"
				if err := os.Rename(w.root, away); err != nil {
					t.Fatal(err)
				}
				w.publish("1")
				w.rest(tt.down)
				if st, _ := w.Status(w.es.UID); st.Open != 0 || st.DeadLetterStore == nil || st.DeadLetterStore.FailingSince.Sub(w.begun) > 10*time.Second {
					t.Errorf("while the store is down: %+v", st)
				}
				if len(w.letters()) != 1 {
					t.Error("the server keeps no dead letter")
				}
				if err := os.Rename(away, w.root); err != nil {
					t.Fatal(err)
				}
				w.rest(6 * time.Minute)
				if files := w.files(); len(files) != 1 {
					t.Errorf("files %v", files)
				}
				if st, _ := w.Status(w.es.UID); st.DeadLetterStore != nil {
					t.Errorf("the store still has %+v", st.DeadLetterStore)
				}
				if len(w.letters()) != 1 {
					t.Error("the server keeps no dead letter")
				}
				w.counted("carillon_dead_letters_written_total", 1)
				w.counted("carillon_dead_letters_written_late_total", tt.late)
				w.counted("eventgrid_dropped_events_total", 0)
			})
		})
	}
}
