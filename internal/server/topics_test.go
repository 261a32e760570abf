package server

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/ingest"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// TestTopicsWhileOthersChange looks a topic up from several goroutines while
// another one changes again and again: it is found every time, and a change is
// seen at once.
func TestTopicsWhileOthersChange(t *testing.T) {
	store := resource.NewStore(resource.NewMemoryKV())
	key, err := secret.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer := secret.NewSealer(key)
	topics := newPublishTopics(store, sealer, slog.New(slog.DiscardHandler))
	put := func(name string) {
		topic := resource.Topic{UID: resource.NewUID(), InputSchema: event.EventGridSchema}
		topic.ID = resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/" + name)
		for i := range topic.SealedKeys {
			sealed, err := sealer.Seal([]byte("key of "+name), topic.KeyOwner())
			if err != nil {
				t.Fatal(err)
			}
			topic.SealedKeys[i] = sealed
		}
		if _, err := store.Topics.Create(t.Context(), topic.ID.Key(), topic); err != nil {
			t.Fatal(err)
		}
	}
	put("Steady")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				topic, found, err := topics.FindTopic(t.Context(), "steady", "")
				if err != nil || !found || topic.Keys[0] != ingest.NewAccessKey("key of Steady") {
					t.Errorf("found %v: %v", found, err)
					return
				}
			}
		})
	}
	id := resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/fleeting")
	for range 200 {
		put("fleeting")
		if _, found, _ := topics.FindTopic(t.Context(), "FLEETING", ""); !found {
			t.Error("a topic that was made is not found")
		}
		if err := store.Topics.Delete(t.Context(), id.Key(), 0); err != nil {
			t.Fatal(err)
		}
		if _, found, _ := topics.FindTopic(t.Context(), "fleeting", ""); found {
			t.Error("a topic that was deleted is found")
		}
	}
	close(stop)
	readers.Wait()
}
