package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/resource"
)

// maxKnownIDs is how many ids all topics that leave out duplicates remember together,
// some 60 bytes each. Above it a topic forgets its oldest ones before their time. A
// variable for tests.
var maxKnownIDs = int64(500_000)

// eventKey names an event of a topic or a domain: a digest of its source, in the Event
// Grid schema the topic, and its id. Two that are equal are taken for one event, so it
// must not be guessable how to make them so.
type eventKey [16]byte

func keyOf(e *event.Event) eventKey {
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, uint64(len(e.Source)))
	b = append(b, e.Source...)
	sum := sha256.Sum256(append(b, e.ID...))
	return eventKey(sum[:16])
}

// knownIDs are the events that one topic took within its window. The log is the
// truth: they are read from it when the topic is first published to, and again when
// the window changes.
type knownIDs struct {
	b       *Broker
	topic   resource.UID
	loading chan struct{} // holds one: whoever reads the log

	mu      sync.Mutex
	window  time.Duration // they were read for; 0 = not yet
	keys    map[eventKey]struct{}
	order   []knownID // oldest first; those before head are forgotten
	head    int
	pending map[eventKey]*claim
}

type knownID struct {
	key eventKey
	at  int64 // when it was stored, Unix nanoseconds
}

// claim is what one request is about to store.
type claim struct {
	done   chan struct{} // closed when it is known what became of it
	stored bool
}

// unsettled is an event that another request is about to store.
type unsettled struct {
	event event.Event
	by    *claim
}

// PublishOnce is Publish for a topic that leaves out duplicates: an event that the
// topic took within the window, also in this very request, is acknowledged and not
// stored again. Two requests with one event at the same time store it once, and both
// are answered when it is durable.
//
// What a restart remembers is what the log holds of the window. When it fails, a part
// of the request may be stored; sending the whole request again stores the rest.
func (b *Broker) PublishOnce(ctx context.Context, topic resource.UID, window time.Duration, events []event.Event) error {
	k := b.knownIDs(topic)
	if err := k.load(ctx, window); err != nil {
		return fmt.Errorf("read the ids of topic %s from the log: %w", topic, err)
	}
	if err := b.queue.wait(ctx); err != nil {
		return fmt.Errorf("wait for the dispatcher: %w", err)
	}
	for len(events) > 0 {
		mine, own, others := k.claim(events)
		if len(mine) > 0 {
			// Whoever gives up waiting must not leave it unknown whether it was stored.
			err := b.Publish(context.WithoutCancel(ctx), topic, mine)
			k.settle(mine, own, err == nil)
			if err != nil {
				return err
			}
		}
		events = nil
		for _, o := range others {
			select {
			case <-o.by.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if o.by.stored {
				b.metrics.duplicates.Inc()
			} else {
				events = append(events, o.event)
			}
		}
	}
	return nil
}

func (b *Broker) knownIDs(topic resource.UID) *knownIDs {
	b.onceMu.Lock()
	defer b.onceMu.Unlock()
	k := b.once[topic]
	if k == nil {
		for other, idle := range b.once { // of topics that are gone, or left it off
			if idle.idle() {
				delete(b.once, other)
			}
		}
		k = &knownIDs{b: b, topic: topic, loading: make(chan struct{}, 1), keys: map[eventKey]struct{}{}, pending: map[eventKey]*claim{}}
		if b.once == nil {
			b.once = map[resource.UID]*knownIDs{}
		}
		b.once[topic] = k
	}
	return k
}

// idle reports whether k holds nothing that still counts.
func (k *knownIDs) idle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetBefore(time.Now().Add(-k.window).UnixNano())
	return k.window > 0 && len(k.keys)+len(k.pending) == 0
}

// load reads what the log holds of the window, once for each window.
func (k *knownIDs) load(ctx context.Context, window time.Duration) error {
	if k.loaded(window) {
		return nil
	}
	select {
	case k.loading <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-k.loading }()
	if k.loaded(window) {
		return nil
	}
	since := time.Now().Add(-window)
	var found []knownID
	for e, err := range k.b.Newest(ctx, resource.Stream{Topic: k.topic}, nil) {
		if err != nil {
			return err
		}
		if !e.PublishTime.After(since) || int64(len(found)) >= maxKnownIDs {
			break
		}
		var parsed event.Event
		if parsed.Parse(e.Event, e.Schema) == nil {
			found = append(found, knownID{keyOf(&parsed), e.PublishTime.UnixNano()})
		}
	}
	slices.Reverse(found)
	k.mu.Lock()
	defer k.mu.Unlock()
	newer := slices.Clone(k.order[k.head:]) // stored while the log was read, or known before
	k.b.known.Add(-int64(len(newer)))
	k.order, k.head = nil, 0
	clear(k.keys)
	present := map[eventKey]bool{}
	for _, id := range newer {
		present[id.key] = true
	}
	for _, id := range found {
		if !present[id.key] {
			k.remember(id)
		}
	}
	for _, id := range newer {
		k.remember(id)
	}
	k.window = window
	return nil
}

func (k *knownIDs) loaded(window time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.window == window
}

// claim takes the events that nobody stored or is about to store, and tells of those
// that others are about to.
func (k *knownIDs) claim(events []event.Event) (mine []event.Event, own *claim, others []unsettled) {
	own = &claim{done: make(chan struct{})}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetBefore(time.Now().Add(-k.window).UnixNano())
	for i := range events {
		key := keyOf(&events[i])
		if _, known := k.keys[key]; known {
			k.b.metrics.duplicates.Inc()
			continue
		}
		switch by := k.pending[key]; by {
		case nil:
			k.pending[key] = own
			mine = append(mine, events[i])
		case own: // twice in one request
			k.b.metrics.duplicates.Inc()
		default:
			others = append(others, unsettled{events[i], by})
		}
	}
	return mine, own, others
}

// settle says what became of a claim.
func (k *knownIDs) settle(mine []event.Event, own *claim, stored bool) {
	now := time.Now().UnixNano()
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range mine {
		key := keyOf(&mine[i])
		delete(k.pending, key)
		if stored {
			k.remember(knownID{key, now})
		}
	}
	own.stored = stored
	close(own.done)
}

// remember adds an id, and forgets the oldest where there are too many. The caller
// holds k.mu.
func (k *knownIDs) remember(id knownID) {
	if _, known := k.keys[id.key]; known {
		return
	}
	if k.b.known.Load() >= maxKnownIDs {
		k.b.metrics.forgotten.Inc()
		if len(k.keys) == 0 {
			return
		}
		k.forgetOldest()
	}
	k.b.known.Add(1)
	k.keys[id.key] = struct{}{}
	k.order = append(k.order, id)
}

// forgetBefore forgets what was stored at or before a time. The caller holds k.mu.
func (k *knownIDs) forgetBefore(at int64) {
	for k.head < len(k.order) && k.order[k.head].at <= at {
		k.forgetOldest()
	}
}

func (k *knownIDs) forgetOldest() {
	delete(k.keys, k.order[k.head].key)
	k.b.known.Add(-1)
	k.head++
	switch {
	case k.head == len(k.order):
		k.order, k.head = nil, 0
		k.keys = map[eventKey]struct{}{} // a map does not shrink
	case k.head > 1024 && k.head > len(k.order)/2:
		k.order, k.head = slices.Clone(k.order[k.head:]), 0
	}
}
