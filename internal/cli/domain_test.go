package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A domain from its making to its end: its topics come and go with their event
// subscriptions, events find their way, and a file brings it back.
func TestDomainAgainstAServer(t *testing.T) {
	dir := startServer(t)
	env := environment(t, dir)
	url, events, stop := startListen(t, env, "--subscribe", "everything", "-o", "json")
	defer stop()
	does := func(line string, code int, want ...string) string {
		t.Helper()
		got, stdout, stderr := run(t, env, strings.Fields(line)...)
		if got != code {
			t.Fatalf("carillon %s: exit code %d, want %d\n%s%s", line, got, code, stdout, stderr)
		}
		for _, text := range want {
			if !strings.Contains(stdout+stderr, text) {
				t.Errorf("carillon %s: no %q in\n%s%s", line, text, stdout, stderr)
			}
		}
		return stdout
	}
	does("domain create shops --tags team=ml", 0, "EventGridSchema", "/domains/shops/api/events")
	does("domain topic create --domain-name shops --name tenant-a", 0, "Succeeded")
	does("domain event-subscription create --domain-name shops -n all --endpoint "+url+" --subject-begins-with orders/", 0, "Succeeded")
	does("domain topic event-subscription create --domain-name shops --domain-topic-name tenant-b -n of-b --endpoint "+url, 0, "Succeeded")
	does("domain topic list --domain-name shops", 0, "tenant-a", "tenant-b")
	does("es list --domain shops --domain-topic tenant-b", 0, "of-b  Succeeded")
	does("es update of-b --domain shops --domain-topic tenant-b --labels mine", 0, "mine")

	does("event publish --domain shops --domain-topic tenant-a --event-type t --subject orders/1 --id e-a --data {}", 0, "Published 1 event to shops.")
	does("event publish --domain shops --domain-topic tenant-b --event-type t --subject other --id e-b --data {}", 0)
	does("event publish --domain shops --event-type t --subject s", 2, "Give --domain-topic")
	does("event publish --domain shops --topic-key AAAA --domain-topic tenant-a --event-type t --subject s", 1, "Unauthorized")
	left := map[string]string{"e-a": "/domains/shops/topics/tenant-a", "e-b": "/domains/shops/topics/tenant-b"}
	for deadline := time.After(patience); len(left) > 0; {
		select {
		case line := <-events:
			if id := text(line, "event.id"); left[id] != "" {
				if topic := text(line, "event.topic"); !strings.HasSuffix(topic, left[id]) {
					t.Errorf("%s came from %s", id, topic)
				}
				delete(left, id)
			}
		case <-deadline:
			t.Fatalf("events that did not arrive: %v", left)
		}
	}
	comes := func(line, want string) { // what a handler answered is told once it is stored
		t.Helper()
		waitFor(t, line+": "+want, func() bool { return strings.Contains(does(line, 0), want) })
	}
	comes("event explain e-a --event-subscription all --domain shops", "delivered")
	does("event explain e-b --event-subscription all --domain shops", 0, "subjectBeginsWith")
	comes("event explain e-b --event-subscription of-b --domain shops --domain-topic tenant-b", "delivered")
	does("event explain e-a --event-subscription of-b --domain shops --domain-topic tenant-b", 1, "EventNotFound")
	comes("event show e-a --domain shops", "all                 delivered")
	does("event show e-b --domain shops --domain-topic tenant-b", 0)
	does("event replay --event-subscription of-b --domain shops --domain-topic tenant-b --from 2026-01-01 --dry-run", 0, "Would be replayed      1")
	does("es attempts of-b --domain shops --domain-topic tenant-b", 0, "Delivered")
	does("deadletter list --domain shops -o json", 0, "[]")
	does("es status all --domain shops", 0)
	does("es test all --domain shops", 0)

	exported := does("export", 0, "/domains/shops", "/topics/tenant-a", "/eventSubscriptions/all", "autoCreateTopicWithFirstSubscription: true")
	file := filepath.Join(t.TempDir(), "shops.yaml")
	if err := os.WriteFile(file, []byte(exported), 0o600); err != nil {
		t.Fatal(err)
	}
	does("diff -f "+file, 0)
	does("domain delete shops --yes", 0, "Deleted domain shops.")
	does("domain topic list --domain-name shops", 1, "ResourceNotFound")
	made := does("apply -f "+file, 0, "created")
	at := -1
	for _, name := range []string{"/domains/shops created", "/topics/tenant-a created", "/eventSubscriptions/of-b created"} {
		next := strings.Index(made, name)
		if next <= at {
			t.Errorf("%s is not where it should be in\n%s", name, made)
		}
		at = next
	}
	does("diff -f "+file, 0)
	if err := os.WriteFile(file, []byte(strings.Replace(exported, "autoDeleteTopicWithLastSubscription: true", "autoDeleteTopicWithLastSubscription: false", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	does("apply -f "+file, 0, "/domains/shops changed")
	does("domain show shops", 0, "Removes topics by itself  false")
	does("domain topic event-subscription delete --domain-name shops --domain-topic-name tenant-b -n of-b --yes", 0, "Deleted")
	does("domain topic show --domain-name shops --name tenant-b", 0)
	does("domain topic delete --domain-name shops --name tenant-b --yes", 0)
	does("domain topic show --domain-name shops --name tenant-b", 1, "ResourceNotFound")
}
