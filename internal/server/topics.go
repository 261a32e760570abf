package server

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/carillon-events/carillon/internal/ingest"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// publishTopics answers the data plane's look-ups from an immutable snapshot with
// opened keys, made anew after a topic changed.
type publishTopics struct {
	store  *resource.Store
	sealer *secret.Sealer
	log    *slog.Logger

	mu       sync.Mutex // one builder at a time
	snapshot atomic.Pointer[map[string]publishTopic]
}

type publishTopic struct {
	ingest.Topic
	location string
}

func newPublishTopics(store *resource.Store, sealer *secret.Sealer, log *slog.Logger) *publishTopics {
	t := &publishTopics{store: store, sealer: sealer, log: log}
	store.Topics.OnChange(func(string) { t.snapshot.Store(nil) })
	return t
}

// FindTopic satisfies ingest.Topics.
func (t *publishTopics) FindTopic(_ context.Context, name, region string) (ingest.Topic, bool, error) {
	topics := t.snapshot.Load()
	if topics == nil {
		topics = t.build()
	}
	topic, ok := (*topics)[strings.ToLower(name)]
	if !ok || region != "" && !strings.EqualFold(region, topic.location) {
		return ingest.Topic{}, false, nil
	}
	return topic.Topic, true, nil
}

func (t *publishTopics) build() *map[string]publishTopic {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		topics := map[string]publishTopic{}
		pending := new(map[string]publishTopic) // a change from here on takes it away again
		t.snapshot.Store(pending)
		for _, item := range t.store.Topics.List("") {
			v := &item.Value
			topic := publishTopic{
				location: v.Location,
				Topic:    ingest.Topic{UID: v.UID, ID: v.ID.String(), Schema: v.InputSchema},
			}
			for i, sealed := range v.SealedKeys {
				plain, err := t.sealer.Open(sealed, v.KeyOwner())
				if err != nil { // an empty key is never valid
					t.log.Error("key of a topic cannot be opened", telemetry.Topic, v.ID.String(), telemetry.Error, err)
				}
				topic.Keys[i] = string(plain)
			}
			topics[strings.ToLower(v.ID.Name())] = topic
		}
		if t.snapshot.CompareAndSwap(pending, &topics) {
			return &topics
		}
	}
}
