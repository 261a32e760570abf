// Package natsinbox is an inbox for package consumer that several processes share: a
// key-value bucket of NATS JetStream. An event that one of them handles is kept from the
// others, and so are the events of the same subject.
package natsinbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/consumer"
)

// Config is whose inbox it is, and how the bucket is made if it is not there.
type Config struct {
	// Handler is the name of the program whose processes share the inbox, of letters, digits,
	// - and _. It must be set: two programs under one name would take each other's events.
	Handler string

	Bucket   string        // carillon-inbox unless it is set; several handlers may share it
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
	kv      jetstream.KeyValue
	handler string
	lease   time.Duration
	now     func() time.Time

	attached atomic.Bool

	mu   sync.Mutex
	held map[string]claimed
}

// claimed is a record that was claimed here, as it was written.
type claimed struct {
	record
	revision uint64
}

var _ consumer.Inbox = (*Inbox)(nil)

// record is what the bucket has of an event or an object.
type record struct {
	Handled   bool   `json:"handled,omitempty"`   // an event
	Sequencer string `json:"sequencer,omitempty"` // of an object: that of its latest event
	ETag      string `json:"etag,omitempty"`      // likewise
	Claimed   int64  `json:"claimed,omitempty"`   // until then, in Unix milliseconds, is it claimed
	By        string `json:"by,omitempty"`        // a text of the claim's own
}

// Open opens the inbox in a bucket and makes the bucket if it is not there. One that is there
// keeps its settings.
//
// In a bucket with replicas a read may be answered by one that is behind. Nothing is then
// handled by two at once, but a delivery that comes within that moment of the first one's
// end may be handled again.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Inbox, error) {
	if c.Handler == "" || strings.ContainsFunc(c.Handler, func(r rune) bool { return !strings.ContainsRune(nameRunes, r) }) {
		return nil, fmt.Errorf("open inbox: Handler %q must be the name of the program, of letters, digits, - and _", c.Handler)
	}
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
	return &Inbox{kv: kv, handler: c.Handler, lease: c.Lease, now: time.Now, held: map[string]claimed{}}, nil
}

const nameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// Attach gives the inbox to the one Handler that it is for.
func (i *Inbox) Attach() error {
	if i.attached.Swap(true) {
		return consumer.ErrAttached
	}
	return nil
}

// keys returns the key of an event, and that of the record by which it is claimed: its
// object's if it has an order, else its own.
func (i *Inbox) keys(e *consumer.Entry) (event, claim string) {
	key := e.EventKey()
	event = i.handler + ".event." + hex.EncodeToString(key[:])
	if e.Sequencer == "" {
		return event, event
	}
	key = e.ObjectKey()
	return event, i.handler + ".object." + hex.EncodeToString(key[:])
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
	event, claim := i.keys(&e)
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
	r.Claimed, r.By = now+i.lease.Milliseconds(), rand.Text()
	next, taken, err := i.put(ctx, claim, r, revision)
	switch {
	case err != nil:
		return 0, err
	case taken:
		return consumer.Claimed, nil
	}
	i.mu.Lock()
	i.held[claim] = claimed{r, next}
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
//
// How far the object has come is written first, and the claim goes last: wherever the process
// dies, no older event is handled afterwards. At worst the event itself is handled again.
func (i *Inbox) End(ctx context.Context, e consumer.Entry, handled bool) error {
	ctx, cancel := context.WithTimeout(ctx, operationTime)
	defer cancel()
	event, claim := i.keys(&e)
	i.mu.Lock()
	own := i.held[claim]
	delete(i.held, claim)
	i.mu.Unlock()
	latest := own
	if handled && claim != event {
		var err error
		latest, err = i.change(ctx, claim, latest, func(r *record) bool {
			moved := e.Sequencer > r.Sequencer
			if moved {
				r.Sequencer, r.ETag = e.Sequencer, e.ETag
			}
			return moved
		})
		if err != nil {
			return err
		}
		raw, _ := json.Marshal(record{Handled: true})
		if _, err := i.kv.Put(ctx, event, raw); err != nil {
			return fmt.Errorf("write into the inbox: %w", err)
		}
	}
	kept := false
	_, err := i.change(ctx, claim, latest, func(r *record) bool {
		if kept = r.By == own.By; kept {
			r.Claimed, r.By = 0, ""
		}
		noted := handled && claim == event && !r.Handled
		if noted {
			r.Handled = true
		}
		return kept || noted
	})
	if err == nil && !kept {
		err = errors.New("write into the inbox: the event took longer than its lease, and another process may have it")
	}
	return err
}

// change changes a record that was last seen as it says, whoever has it claimed, and returns
// it as it is then. with reports whether there is something to change.
func (i *Inbox) change(ctx context.Context, key string, last claimed, with func(*record) bool) (claimed, error) {
	for with(&last.record) {
		next, taken, err := i.put(ctx, key, last.record, last.revision)
		if err != nil {
			return claimed{}, err
		}
		if !taken {
			return claimed{last.record, next}, nil
		}
		if last.record, last.revision, err = i.get(ctx, key); err != nil {
			return claimed{}, err
		}
	}
	return last, nil
}
