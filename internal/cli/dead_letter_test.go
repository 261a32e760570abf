package cli

import (
	"encoding/json"
	"strings"
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
