package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/internal/secret"
)

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		status, count int
		after         time.Duration
		want          string
	}{
		{200, 1, 0, "acknowledge 0"}, {204, 9, 0, "acknowledge 0"}, {205, 1, 0, "release 10"}, {302, 1, 0, "release 10"},
		{400, 1, 0, "reject 0"}, {401, 1, 0, "reject 0"}, {403, 1, 0, "reject 0"}, {413, 1, 0, "reject 0"},
		{404, 1, 0, "release 600"}, {408, 1, 0, "release 600"}, {503, 1, 0, "release 60"}, {503, 1, 5 * time.Minute, "release 600"},
		{500, 1, 0, "release 10"}, {500, 2, 0, "release 60"}, {500, 3, 0, "release 60"}, {500, 4, 0, "release 600"}, {500, 6, 0, "release 3600"}, {500, 30, 0, "release 3600"},
		{0, 1, 0, "release 10"}, {429, 1, 2 * time.Second, "release 10"},
	} {
		verb, delay := verdict(tt.status, tt.after, tt.count)
		if got := fmt.Sprintf("%s %d", verb, delay); got != tt.want {
			t.Errorf("status %d in attempt %d, Retry-After %s: %s, want %s", tt.status, tt.count, tt.after, got, tt.want)
		}
	}
}

// The data version of an event is there also where the server leaves dataschema out.
func TestForwardedDataVersion(t *testing.T) {
	for _, tt := range []struct{ event, beside, want string }{
		{`{"id":"1","type":"t","dataschema":"#2"}`, "", "2"},
		{`{"id":"1","type":"t"}`, "2", "2"},
		{`{"id":"1","type":"t"}`, "", ""},
	} {
		e := received{Event: json.RawMessage(tt.event)}
		e.BrokerProperties.DataVersion = tt.beside
		body, header, err := (&forwarder{listened: &listened{name: "near"}, schema: "EventGridSchema"}).delivery(&e)
		if err != nil {
			t.Fatal(err)
		}
		var events []struct{ DataVersion string }
		name := "aeg-data-version" // as spelled
		if err := json.Unmarshal(body, &events); err != nil || len(events) != 1 || events[0].DataVersion != tt.want || !slices.Equal(header[name], []string{tt.want}) {
			t.Errorf("%s with %q beside is forwarded as %s, %v", tt.event, tt.beside, body, header)
		}
	}
}

// taken is a request as a handler gets it.
type taken struct {
	header http.Header
	body   string
}

// handler is a handler that hands on what it gets and answers with a status.
func forwardHandler(t *testing.T) (at string, status *atomic.Int32, got <-chan taken) {
	status = &atomic.Int32{}
	status.Store(http.StatusOK)
	all := make(chan taken, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("aeg-event-type") == "SubscriptionValidation" {
			var v []struct {
				Data struct{ ValidationCode string }
			}
			if json.Unmarshal(body, &v) == nil {
				_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": v[0].Data.ValidationCode})
			}
			return
		}
		if r.Header.Get("aeg-event-type") == "Notification" {
			w.WriteHeader(int(status.Load()))
			all <- taken{r.Header.Clone(), string(body)}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, status, all
}

// forwarding runs "carillon listen --forward" and returns its lines and a stop.
func forwarding(t *testing.T, env map[string]string, args ...string) (lines <-chan []byte, stop func()) {
	t.Helper()
	_, lines, stop = forwardingTold(t, env, args...)
	return lines, stop
}

// forwardingTold is forwarding where it matters what it tells first.
func forwardingTold(t *testing.T, env map[string]string, args ...string) (first []byte, lines <-chan []byte, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, append([]string{"listen", "-o", "json"}, args...), strings.NewReader(""), in, &stderr, func(k string) string { return env[k] })
		_ = in.Close()
	}()
	lines = goRead(bufio.NewReader(out))
	first, ok := <-lines
	if !ok || text(first, "forwarding") == "" {
		t.Fatalf("the first line is %q: %s", first, stderr.String())
	}
	return first, lines, func() {
		t.Helper()
		cancel()
		if got := <-code; got != exitDone {
			t.Errorf("listen ended with %d: %s", got, stderr.String())
		}
	}
}

// A handler that the server cannot reach gets what a webhook gets, in every schema; the
// server may be killed meanwhile. What the handler does not take stays with the server.
func TestListenForwards(t *testing.T) {
	dir := t.TempDir()
	serve := func(listen string) (*child, string) {
		t.Helper()
		c, err := testProgram(t).start(nil, "serve", "--data", dir, "--listen", listen, "--durability", "process")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.stop(patience) })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		line, err := c.firstLine(ctx)
		if err != nil {
			t.Fatal(err)
		}
		at, _ := readyURL(line)
		return c, at
	}
	server, at := serve("127.0.0.1:0")
	env := environment(t, dir)
	must := func(args ...string) string {
		t.Helper()
		code, stdout, stderr := run(t, env, args...)
		if code != exitDone {
			t.Fatalf("%v: %s", args, stderr)
		}
		return stdout
	}
	hook, _, hooked := forwardHandler(t)
	cloudHook, _, cloudHooked := forwardHandler(t)
	key, err := secret.NewSigningKey(secret.SignatureV1)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(key.Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must("event-subscription", "create", "--name", "HOOK", "--endpoint", hook, "--signing", "v1", "--signing-key", "@"+keyFile)
	must("event-subscription", "create", "--name", "CLOUD", "--endpoint", cloudHook, "--event-delivery-schema", "CloudEventSchemaV1_0")
	handler, status, got := forwardHandler(t)
	cloudHandler, _, cloudGot := forwardHandler(t)
	lines, stop := forwarding(t, env, "--forward", handler+"/x?code=hunter2", "--subscribe", "near", "--signing-key", "@"+keyFile)
	cloudLines, stopCloud := forwarding(t, env, "--forward", cloudHandler, "--event-delivery-schema", "CloudEventSchemaV1_0")
	go func() {
		for range cloudLines {
		}
	}()
	defer stopCloud()

	same := func(what string, webhook, forwarded taken) {
		t.Helper()
		for _, d := range []taken{webhook, forwarded} {
			h := d.header
			if signed := h.Get("Webhook-Signature"); signed != "" {
				at, _ := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
				if want := string(key.AppendSignature(nil, h.Get("Webhook-Id"), at, []byte(d.body))); signed != want || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
					t.Errorf("signed at %d as %s, want %s", at, signed, want)
				}
				h["Webhook-Signature"], h["Webhook-Timestamp"] = []string{"it has one"}, nil
			}
			for _, name := range []string{"Aeg-Subscription-Name", "Content-Length", "Date", "Connection", "Accept-Encoding"} {
				h.Del(name)
			}
		}
		if !maps.EqualFunc(webhook.header, forwarded.header, slices.Equal) || webhook.body != forwarded.body {
			t.Errorf("%s: the webhook got\n%v\n%s\nforwarded was\n%v\n%s", what, webhook.header, webhook.body, forwarded.header, forwarded.body)
		}
	}
	must("model", "register", "--name", "churn", "--tags", "a=<b>&é")
	same("Event Grid", <-hooked, <-got)
	same("CloudEvents", <-cloudHooked, <-cloudGot)
	if line := <-lines; text(line, "answer") != "acknowledge" || text(line, "subject") != "models/churn:1" || strings.Contains(string(line), "hunter2") {
		t.Errorf("line %s", line)
	}

	if err := server.kill(); err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(at)
	serve(u.Host)
	must("model", "register", "--name", "churn")
	if e := <-got; !strings.Contains(e.body, "models/churn:2") {
		t.Errorf("after a restart: %s", e.body)
	}
	<-lines
	forwarded := func(subject string) (e taken) {
		for e = <-got; !strings.Contains(e.body, subject); e = <-got {
		}
		return e
	}

	status.Store(http.StatusInternalServerError)
	must("model", "register", "--name", "churn")
	<-got
	if line := <-lines; text(line, "answer") != "release" || text(line, "releaseDelayInSeconds") != "10" || text(line, "status") != "500" {
		t.Errorf("line of what is not taken %s", line)
	}
	waitFor(t, "an event that waits", func() bool {
		return text([]byte(must("event-subscription", "status", "near", "-o", "json")), "properties.openDeliveries") == "1"
	})
	status.Store(http.StatusBadRequest)
	must("model", "register", "--name", "churn")
	forwarded("models/churn:4") // the one that was released may come again before it
	var line []byte
	for line = range lines {
		if text(line, "subject") == "models/churn:4" {
			break
		}
	}
	if text(line, "answer") != "reject" {
		t.Errorf("line of what is refused %s", line)
	}
	waitFor(t, "a dead letter", func() bool {
		return strings.Contains(must("deadletter", "list", "--event-subscription", "near", "-o", "json"), "models/churn:4")
	})
	stop()
	if code, _, _ := run(t, env, "event-subscription", "show", "--name", "near"); code == exitDone {
		t.Error("the event subscription is still there")
	}
	if code, _, stderr := run(t, env, "listen", "--forward", handler, "--subscribe", "HOOK"); code == exitDone || !strings.Contains(stderr, "another name") {
		t.Errorf("with the event subscription of a webhook: %d %s", code, stderr)
	}
	must("event-subscription", "create", "--name", "mine", "--endpoint-type", "pull", "--included-event-types", "Microsoft.MachineLearningServices.ModelRegistered", "--max-delivery-attempts", "3")
	before := must("event-subscription", "show", "--name", "mine", "-o", "json")
	if code, _, stderr := run(t, env, "listen", "--forward", handler, "--subscribe", "mine", "--subject-begins-with", "x"); code == exitDone || !strings.Contains(stderr, "mine is there already") || !strings.Contains(stderr, "--subscribe") {
		t.Errorf("with another filter: %d %s", code, stderr)
	}
	status.Store(http.StatusOK)
	_, stopMaker := forwarding(t, env, "--forward", handler, "--subscribe", "far")
	for _, name := range []string{"mine", "far"} { // the second of two does not end it for the first
		_, leave := forwarding(t, env, "--forward", handler, "--subscribe", name)
		leave()
		must("event-subscription", "show", "--name", name)
	}
	if after := must("event-subscription", "show", "--name", "mine", "-o", "json"); after != before {
		t.Errorf("joining it made of\n%s\n%s", before, after)
	}
	stopMaker()
	if code, _, _ := run(t, env, "event-subscription", "show", "--name", "far"); code == exitDone {
		t.Error("what it made is still there")
	}
	other := testProgram(t)
	for name, value := range env {
		other.env = append(other.env, name+"="+value)
	}
	killed, err := other.start(nil, "listen", "--forward", handler, "--subscribe", "left", "--subject-begins-with", "models/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { killed.stop(patience) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if line, err := killed.firstLine(ctx); err != nil || !strings.Contains(line, "left") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := killed.kill(); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, env, "listen", "--forward", handler, "--subscribe", "left", "--subject-begins-with", "x"); code == exitDone || !strings.Contains(stderr, "goes by itself") || !strings.Contains(stderr, "event-subscription delete") {
		t.Errorf("what a killed one left, with another filter: %d %s", code, stderr)
	}
	made := must("event-subscription", "show", "--name", "left", "-o", "json")
	told, _, stopHeir := forwardingTold(t, env, "--forward", handler, "--subscribe", "left", "--subject-begins-with", "models/", "--signing", "v1a")
	must("model", "register", "--name", "left")
	consumed, err := consumer.New(consumer.Signed(text(told, "verifyWith")), consumer.Topics("*"), consumer.OnOther(func(context.Context, consumer.Event[json.RawMessage]) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	e := forwarded("models/left:1")
	answer, request := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(e.body))
	request.Header = e.header
	if consumed.ServeHTTP(answer, request); answer.Code != http.StatusOK {
		t.Errorf("with the key that was told the handler answers %d %s", answer.Code, answer.Body)
	}
	stopHeir()
	left := must("event-subscription", "show", "--name", "left", "-o", "json")
	if text([]byte(left), "properties.expirationTimeUtc") < text([]byte(made), "properties.expirationTimeUtc") || text([]byte(made), "properties.expirationTimeUtc") == "" {
		t.Errorf("joined, it ends at\n%s\nbefore\n%s", left, made)
	}
	if code, _, stderr := run(t, env, "listen", "--signing", "v1"); code != exitUsage || !strings.Contains(stderr, "--forward") {
		t.Errorf("signing by itself: %d %s", code, stderr)
	}
	if code, _, stderr := run(t, env, "listen", "--forward", handler, "--signing", "v1a", "--signing-key", key.Reveal()); code != exitUsage || strings.Contains(stderr, key.Reveal()) {
		t.Errorf("a key of another version: %d %s", code, stderr)
	}
	if code, stdout, _ := run(t, env, "__completeNoDesc", "listen", "--subscribe", ""); code != exitDone || !strings.Contains(stdout, "left\n") {
		t.Errorf("completion of --subscribe: %s", stdout)
	}
	if _, stdout, _ := run(t, env, "__completeNoDesc", "listen", "--event-delivery-schema", ""); !strings.HasPrefix(stdout, "EventGridSchema\nCloudEventSchemaV1_0\nCustomInputSchema\n") {
		t.Errorf("completion of --event-delivery-schema: %s", stdout)
	}
	if code, _, stderr := run(t, env, "listen", "--forward", "localhost:3000"); code != exitUsage || !strings.Contains(stderr, "http://localhost:3000") {
		t.Errorf("with no URL: %d %s", code, stderr)
	}
	if code, _, _ := run(t, env, "listen", "--forward", handler, "--port", "1"); code != exitUsage {
		t.Errorf("with a port: %d", code)
	}
}
