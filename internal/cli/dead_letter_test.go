package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestDeadLettersOfATopicAreNamedByID replays a dead letter of a custom topic by
// its id alone, which does not say where it is.
func TestDeadLettersOfATopicAreNamedByID(t *testing.T) {
	env := map[string]string{"CARILLON_DATA": startServer(t)}
	url, _, _ := startListen(t, env, "--status", "400", "-o", "json")
	_, topic, _ := run(t, env, "topic", "create", "orders", "-o", "json")
	source := text([]byte(topic), "id")
	if code, _, stderr := run(t, env, "es", "create", "-n", "refusing", "--source-resource-id", source, "--endpoint", url); code != exitDone {
		t.Fatalf("es create: %s", stderr)
	}
	if code, _, stderr := run(t, env, "event", "publish", "--topic", "orders", "--event-type", "t", "--subject", "s"); code != exitDone {
		t.Fatalf("publish: %s", stderr)
	}
	var letters []json.RawMessage
	waitFor(t, "the dead letter", func() bool {
		_, stdout, _ := run(t, env, "deadletter", "list", "--source-resource-id", source, "-o", "json")
		return json.Unmarshal([]byte(stdout), &letters) == nil && len(letters) == 1
	})
	id := text(letters[0], "id")
	if code, stdout, stderr := run(t, env, "deadletter", "show", id, "-o", "json"); code != exitDone || text([]byte(stdout), "id") != id {
		t.Errorf("show: %d %s%s", code, stdout, stderr)
	}
	if code, _, _ := run(t, env, "deadletter", "show", id, "--workspace", "default"); code == exitDone {
		t.Error("show finds it in a workspace that does not have it")
	}
	if code, stdout, stderr := run(t, env, "deadletter", "replay", id, "-o", "json"); code != exitDone || text([]byte(stdout), "replayed") != "1" {
		t.Errorf("replay: %d %s%s", code, stdout, stderr)
	}
}

// TestEventReplay replays what was delivered before the event subscription's handler
// asked for it once more, over the true server.
func TestEventReplay(t *testing.T) {
	env := map[string]string{"CARILLON_DATA": startServer(t)}
	url, events, _ := startListen(t, env, "-o", "json")
	if code, _, stderr := run(t, env, "topic", "create", "orders"); code != exitDone {
		t.Fatalf("topic create: %s", stderr)
	}
	if code, _, stderr := run(t, env, "topic", "event-subscription", "create", "-n", "shop", "--topic-name", "orders", "--endpoint", url); code != exitDone {
		t.Fatalf("es create: %s", stderr)
	}
	if line := <-events; text(line, "handshake") == "" {
		t.Fatalf("the first line is %s, not the handshake", line)
	}
	for _, subject := range []string{"a/1", "b/1", "a/2"} {
		if code, _, stderr := run(t, env, "event", "publish", "--topic", "orders", "--event-type", "t", "--subject", subject); code != exitDone {
			t.Fatalf("publish: %s", stderr)
		}
	}
	first := map[string]string{}
	for range 3 {
		line := <-events
		first[text(line, "event.subject")] = text(line, "event.id")
	}
	to := []string{"--event-subscription", "shop", "--topic", "orders", "--from", "2020-01-01", "--subject-begins-with", "a/", "-o", "json"}
	code, stdout, stderr := run(t, env, append([]string{"event", "replay", "--dry-run"}, to...)...)
	if code != exitDone || text([]byte(stdout), "properties.matchedEvents") != "2" || text([]byte(stdout), "properties.examinedEvents") != "3" {
		t.Fatalf("dry run: %d %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, env, append([]string{"event", "replay"}, to...)...)
	if code != exitDone || text([]byte(stdout), "properties.state") != "done" || text([]byte(stdout), "properties.replayedEvents") != "2" {
		t.Fatalf("replay: %d %s%s", code, stdout, stderr)
	}
	again := map[string]bool{}
	for range 2 {
		line := <-events
		subject := text(line, "event.subject")
		again[subject] = true
		if text(line, "headers.carillon-replay") == "" || text(line, "event.id") != first[subject] {
			t.Errorf("replayed as %s", line)
		}
	}
	if !again["a/1"] || !again["a/2"] {
		t.Errorf("replayed %v", again)
	}
	id := text([]byte(stdout), "name")
	if code, stdout, _ := run(t, env, "event", "replays", "list", "--event-subscription", "shop", "--topic", "orders"); code != exitDone || !strings.Contains(stdout, id) {
		t.Errorf("list: %d %s", code, stdout)
	}
}

// TestDeadLetterReplayIsWaitedFor replays to a handler that refuses some, all, and none,
// and once to one that does not answer while the command is interrupted.
func TestDeadLetterReplayIsWaitedFor(t *testing.T) {
	env := map[string]string{"CARILLON_DATA": startServer(t)}
	var refuses atomic.Value // what the body holds of what is refused
	refuses.Store("subject")
	hang, asked := make(chan struct{}), make(chan struct{}, 10)
	handler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("aeg-event-type") == "SubscriptionValidation" {
			var events []struct {
				Data struct{ ValidationCode string }
			}
			if json.Unmarshal(body, &events) == nil && len(events) == 1 {
				_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
			}
			return
		}
		switch part := refuses.Load().(string); {
		case part == "hang":
			asked <- struct{}{}
			<-hang
		case strings.Contains(string(body), part):
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(handler.Close)
	t.Cleanup(sync.OnceFunc(func() { close(hang) }))
	must := func(args ...string) {
		t.Helper()
		if code, _, stderr := run(t, env, args...); code != exitDone {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	must("topic", "create", "orders")
	must("topic", "event-subscription", "create", "-n", "shop", "--topic-name", "orders", "--endpoint", handler.URL)
	for _, subject := range []string{"a/1", "b/1", "a/2"} {
		must("event", "publish", "--topic", "orders", "--event-type", "t", "--subject", subject)
	}
	of := []string{"--topic", "orders", "--event-subscription", "shop"}
	list := func() (letters []json.RawMessage) {
		_, stdout, _ := run(t, env, append([]string{"deadletter", "list", "-o", "json"}, of...)...)
		_ = json.Unmarshal([]byte(stdout), &letters)
		return letters
	}
	waitFor(t, "the dead letters", func() bool { return len(list()) == 3 })
	ids := []string{text(list()[0], "id"), text(list()[1], "id")}

	for _, test := range []struct {
		name, refuses     string
		which             []string
		replayed, to, not string // counts
		code              int
	}{
		{"all refused, by id", "subject", ids, "2", "0", "2", exitFailed},
		{"some refused", `"a/`, append([]string{"--rate", "200"}, of...), "3", "1", "2", exitFailed},
		{"none refused", "nothing", of, "2", "2", "0", exitDone},
	} {
		refuses.Store(test.refuses)
		code, stdout, stderr := run(t, env, append([]string{"deadletter", "replay", "--wait", "-o", "json"}, test.which...)...)
		got := []byte(stdout)
		if code != test.code || text(got, "replayed") != test.replayed || text(got, "delivered") != test.to || text(got, "deadLetteredAgain") != test.not {
			t.Errorf("%s: exit code %d, %s%s", test.name, code, stdout, stderr)
		}
	}

	refuses.Store("subject")
	must("event", "publish", "--topic", "orders", "--event-type", "t", "--subject", "c/1")
	waitFor(t, "another dead letter", func() bool { return len(list()) == 1 })
	refuses.Store("hang")
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		<-asked
		interrupt()
	}()
	var stdout, stderr bytes.Buffer
	code := Run(ctx, append([]string{"deadletter", "replay", "--wait"}, of...), strings.NewReader(""), &stdout, &stderr, func(k string) string { return env[k] })
	if want := "carillon deadletter list --event-subscription shop --topic orders\n"; code == exitDone || !strings.Contains(stderr.String(), want) {
		t.Errorf("interrupted: exit code %d, %s, want %q in it", code, stderr.String(), want)
	}
	must("topic", "event-subscription", "delete", "-n", "shop", "--topic-name", "orders", "--yes")
	code, listed, told := run(t, env, append([]string{"deadletter", "list"}, of...)...)
	if code != exitDone || !strings.Contains(listed, "shop") || !strings.Contains(told, "was deleted") {
		t.Errorf("list of what was deleted: %d %s%s", code, listed, told)
	}
	must("topic", "delete", "orders", "--yes")
	code, listed, told = run(t, env, append([]string{"deadletter", "list"}, of...)...)
	if code != exitDone || !strings.Contains(listed, "shop") || !strings.Contains(told, "was deleted") {
		t.Errorf("list of what was deleted with its topic: %d %s%s", code, listed, told)
	}
	if code, _, told := run(t, env, "deadletter", "list", "--topic", "orders", "--event-subscription", "never"); code == exitDone || !strings.Contains(told, "orders") {
		t.Errorf("list of what never was: %d %s", code, told)
	}
}
