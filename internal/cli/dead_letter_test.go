package cli

import (
	"encoding/json"
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
