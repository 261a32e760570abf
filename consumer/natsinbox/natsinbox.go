// Package natsinbox is an inbox for package consumer that several processes share: a
// key-value bucket of NATS JetStream. An event that one of them handles is kept from the
// others, and so are the events of the same subject.
package natsinbox

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/consumer"
)

// Config is how the bucket is made, if it is not there.
type Config struct {
	Bucket   string        // carillon-inbox unless it is set
	Age      time.Duration // how long an event is remembered, and an object from its latest one on: two days unless it is set
	Replicas int           // of the bucket: 1 unless it is set
	MaxBytes int64         // 0 for no limit; when it is reached, events fail until some are forgotten

	// Lease is how long an event is kept for the process that handles it: longer than the
	// handler's TimeLimit; a minute unless it is set. When a process dies its events wait for
	// the end of their lease. The clocks of the processes may differ by much less.
	Lease time.Duration
}

// operationTime is how long the bucket may take to write down that an event is done with.
const operationTime = 5 * time.Second

// Inbox is an inbox in a bucket. It is made by [Open].
type Inbox struct {
	kv    jetstream.KeyValue
	lease time.Duration
	now   func() time.Time

	mu   sync.Mutex
	held map[string]uint64 // revision of each record that was claimed here
}

var _ consumer.Inbox = (*Inbox)(nil)

// record is what the bucket has of an event or an object.
type record struct {
	Handled   bool   `json:"handled,omitempty"`   // an event
	Sequencer string `json:"sequencer,omitempty"` // of an object: that of its latest event
	ETag      string `json:"etag,omitempty"`      // likewise
	Claimed   int64  `json:"claimed,omitempty"`   // until then, in Unix milliseconds, is it claimed
}

// Open opens the inbox in a bucket and makes the bucket if it is not there. One that is there
// keeps its settings.
//
// In a bucket with replicas a read may be answered by one that is behind. Nothing is then
// handled by two at once, but a delivery that comes within that moment of the first one's
// end may be handled again.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Inbox, error) {
	if c.Bucket == "" {
		c.Bucket = "carillon-inbox"
	}
	if c.Age == 0 {
		c.Age = 48 * time.Hour
	}
	if c.Lease == 0 {
		c.Lease = time.Minute
	}
	kv, err := js.KeyValue(ctx, c.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: c.Bucket, Description: "events that were handled", TTL: c.Age, Replicas: c.Replicas, MaxBytes: c.MaxBytes,
		})
		if errors.Is(err, jetstream.ErrBucketExists) { // another process was quicker
			kv, err = js.KeyValue(ctx, c.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open inbox in bucket %s: %w", c.Bucket, err)
	}
	return &Inbox{kv: kv, lease: c.Lease, now: time.Now, held: map[string]uint64{}}, nil
}

// keys returns the key of an event, and that of the record by which it is claimed: its
// object's if it has an order, else its own.
func keys(e *consumer.Entry) (event, claim string) {
	key := e.EventKey()
	event = "event." + hex.EncodeToString(key[:])
	if e.Sequencer == "" {
		return event, event
	}
	key = e.ObjectKey()
	return event, "object." + hex.EncodeToString(key[:])
}

// get reads a record; revision 0 is that of none.
func (i *Inbox) get(ctx context.Context, key string) (r record, revision uint64, err error) {
	entry, err := i.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return record{}, 0, nil
	}
	if err != nil {
		return record{}, 0, fmt.Errorf("look into the inbox: %w", err)
	}
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return record{}, 0, fmt.Errorf("look into the inbox: record %s cannot be read: %w", key, err)
	}
	return r, entry.Revision(), nil
}

// put writes a record if it is still at a revision. taken says that it is not.
func (i *Inbox) put(ctx context.Context, key string, r record, revision uint64) (next uint64, taken bool, err error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return 0, false, err
	}
	if revision == 0 {
		next, err = i.kv.Create(ctx, key, raw)
	} else {
		next, err = i.kv.Update(ctx, key, raw, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("write into the inbox: %w", err)
	}
	return next, false, nil
}

// Begin judges an event and claims it.
func (i *Inbox) Begin(ctx context.Context, e consumer.Entry) (consumer.Verdict, error) {
	event, claim := keys(&e)
	own, revision, err := i.get(ctx, event)
	switch {
	case err != nil:
		return 0, err
	case own.Handled:
		return consumer.Seen, nil
	}
	r := own
	if claim != event {
		if r, revision, err = i.get(ctx, claim); err != nil {
			return 0, err
		}
	}
	now := i.now().UnixMilli()
	if r.Claimed > now {
		return consumer.Claimed, nil
	}
	r.Claimed = now + i.lease.Milliseconds()
	next, taken, err := i.put(ctx, claim, r, revision)
	switch {
	case err != nil:
		return 0, err
	case taken:
		return consumer.Claimed, nil
	}
	i.mu.Lock()
	i.held[claim] = next
	i.mu.Unlock()
	if claim != event { // who had the object before may have handled the event
		if own, _, err = i.get(ctx, event); err != nil || own.Handled {
			return consumer.Seen, errors.Join(err, i.End(context.WithoutCancel(ctx), e, false))
		}
	}
	if e.OlderThan(r.Sequencer, r.ETag) {
		return consumer.Older, nil
	}
	return consumer.Unseen, nil
}

// End remembers an event that was handled, and lets go of it. An error says that another
// process may have it by now, or will when the lease is over.
func (i *Inbox) End(ctx context.Context, e consumer.Entry, handled bool) error {
	ctx, cancel := context.WithTimeout(ctx, operationTime)
	defer cancel()
	event, claim := keys(&e)
	i.mu.Lock()
	revision := i.held[claim]
	delete(i.held, claim)
	i.mu.Unlock()
	var r record
	if claim != event {
		if handled {
			raw, _ := json.Marshal(record{Handled: true})
			if _, err := i.kv.Put(ctx, event, raw); err != nil {
				return fmt.Errorf("write into the inbox: %w", err)
			}
		}
		latest, _, err := i.get(ctx, claim)
		if err != nil {
			return err
		}
		r = record{Sequencer: latest.Sequencer, ETag: latest.ETag}
		if handled && e.Sequencer > r.Sequencer {
			r.Sequencer, r.ETag = e.Sequencer, e.ETag
		}
	} else {
		r.Handled = handled
	}
	_, taken, err := i.put(ctx, claim, r, revision)
	if taken {
		return errors.New("write into the inbox: the event took longer than its lease, and another process has it")
	}
	return err
}
