package server

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/internal/ingest"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// publishTopics answers the data plane's look-ups from an immutable snapshot with
// opened keys, made anew after a topic or a domain changed. The topics of domains are not
// in it: whether one is there is no matter to publishers.
type publishTopics struct {
	store  *resource.Store
	sealer *secret.Sealer
	log    *slog.Logger

	changes  atomic.Uint64 // of topics, so far
	mu       sync.Mutex    // one builder at a time
	snapshot atomic.Pointer[topicSnapshot]
}

// topicSnapshot is every topic and domain by lower-case name, as of a number of changes.
type topicSnapshot struct {
	changes uint64
	topics  map[string]*publishTopic
}

type publishTopic struct {
	ingest.Topic
	location string
}

func newPublishTopics(store *resource.Store, sealer *secret.Sealer, log *slog.Logger) *publishTopics {
	t := &publishTopics{store: store, sealer: sealer, log: log}
	store.Topics.OnChange(func(string) { t.changes.Add(1) })
	store.Domains.OnChange(func(string) { t.changes.Add(1) })
	return t
}

// FindTopic satisfies ingest.Topics.
func (t *publishTopics) FindTopic(_ context.Context, name, region string) (*ingest.Topic, bool, error) {
	current := t.snapshot.Load()
	if current == nil || current.changes != t.changes.Load() {
		current = t.build()
	}
	topic, ok := current.topics[strings.ToLower(name)]
	if !ok || region != "" && !strings.EqualFold(region, topic.location) {
		return nil, false, nil
	}
	return &topic.Topic, true, nil
}

func (t *publishTopics) build() *topicSnapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	changes := t.changes.Load() // before the read: a change during it makes the snapshot old at once
	if current := t.snapshot.Load(); current != nil && current.changes == changes {
		return current
	}
	topics := map[string]*publishTopic{}
	for _, item := range t.store.Topics.List("") {
		topics[strings.ToLower(item.Value.ID.Name())] = t.open(&item.Value, false)
	}
	for _, item := range t.store.Domains.List("") {
		topics[strings.ToLower(item.Value.ID.Name())] = t.open(&item.Value.Topic, true)
	}
	current := &topicSnapshot{changes: changes, topics: topics}
	t.snapshot.Store(current)
	return current
}

// open makes what publishing needs of a record.
func (t *publishTopics) open(v *resource.Topic, domain bool) *publishTopic {
	topic := &publishTopic{
		location: v.Location,
		Topic: ingest.Topic{
			UID: v.UID, Domain: domain, ID: v.ID, Schema: v.InputSchema, Mapping: v.Mapping, KeysOff: v.DisableLocalAuth, From: v.Ingress.Networks(),
			DuplicateWindow: time.Duration(v.DuplicateWindow) * time.Minute,
		},
	}
	for i, sealed := range v.SealedKeys {
		plain, err := t.sealer.Open(sealed, v.KeyOwner())
		if err != nil { // an empty key is never valid
			t.log.Error("key of a topic cannot be opened", telemetry.Topic, v.ID.String(), telemetry.Error, err)
		}
		topic.Keys[i] = ingest.NewAccessKey(string(plain))
	}
	return topic
}
