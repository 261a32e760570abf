package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/internal/fault"
)

// KV is the control plane's key-value store. Every change of a key gives it a
// new revision, which serves as its etag. Durable like the log.
//
// While the disk is nearly full keys are neither created nor changed: the answer is
// a fault Unavailable. Deleting goes on, for it may make room.
type KV struct {
	bucket   jetstream.KeyValue
	disk     *diskWatch
	lateness *lateness
}

// Entry is one key with its value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Change is what Watch reports: a key's value now, or that it was deleted.
type Change struct {
	Key      string
	Value    []byte
	Revision uint64
	Deleted  bool
}

func openKV(ctx context.Context, n *node, bucket string) (*KV, error) {
	js, err := jetstream.New(n.write) // its acks must not wait for bulk reads
	if err != nil {
		return nil, err
	}
	b, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, History: 1, Storage: jetstream.FileStorage, MaxBytes: -1})
	if err != nil {
		return nil, fmt.Errorf("open key-value store: %w", err)
	}
	return &KV{bucket: b, lateness: n.lateness}, nil
}

// Get reads a key. A key that is not there is a fault NotFound.
func (k *KV) Get(ctx context.Context, key string) (Entry, error) {
	tokens, err := escapeKey(key)
	if err != nil {
		return Entry{}, err
	}
	e, err := k.bucket.Get(ctx, tokens)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, fault.New(fault.NotFound, "NotFound", "There is no %s.", key)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	return Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

// Create stores a key that is not there yet. One that is there is a fault
// Conflict.
func (k *KV) Create(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	tokens, err := escapeKey(key)
	if err != nil {
		return 0, err
	}
	if err := k.disk.refusal(); err != nil {
		return 0, err
	}
	end := k.lateness.watch("KV")
	revision, err = k.bucket.Create(ctx, tokens, value)
	end(err)
	if wrongRevision(err) {
		return 0, fault.New(fault.Conflict, "Conflict", "There is a %s already.", key)
	}
	if err != nil {
		return 0, fmt.Errorf("create %s: %w", key, err)
	}
	return revision, nil
}

// Update replaces the value that has the given revision. Another revision, or no
// key, is a fault PreconditionFailed.
func (k *KV) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	tokens, err := escapeKey(key)
	if err != nil {
		return 0, err
	}
	if err := k.disk.refusal(); err != nil {
		return 0, err
	}
	end := k.lateness.watch("KV")
	next, err := k.bucket.Update(ctx, tokens, value, revision)
	end(err)
	if wrongRevision(err) {
		return 0, changed(key, revision)
	}
	if err != nil {
		return 0, fmt.Errorf("update %s: %w", key, err)
	}
	return next, nil
}

// Delete removes a key that has the given revision, or whatever it has if
// revision is 0; then a key that is not there is no error. A wrong revision is a
// fault PreconditionFailed.
func (k *KV) Delete(ctx context.Context, key string, revision uint64) error {
	tokens, err := escapeKey(key)
	if err != nil {
		return err
	}
	var opts []jetstream.KVDeleteOpt
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	end := k.lateness.watch("KV")
	err = k.bucket.Delete(ctx, tokens, opts...)
	end(err)
	if wrongRevision(err) {
		return changed(key, revision)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func changed(key string, revision uint64) error {
	return fault.New(fault.PreconditionFailed, "PreconditionFailed", "%s has changed: it does not have revision %d any more. Read it again.", key, revision)
}

// wrongRevision reports whether the store refused a write for its expected
// revision.
func wrongRevision(err error) bool {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return true
	}
	return errors.Is(err, jetstream.ErrKeyExists)
}

// Watch calls f for every key that is there and returns; from then on it calls f
// for each change, in order, until ctx ends or the engine closes. Calls of f
// never overlap.
func (k *KV) Watch(ctx context.Context, f func(Change)) error {
	w, err := k.bucket.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch key-value store: %w", err)
	}
	for {
		select {
		case e, open := <-w.Updates():
			if !open {
				return errors.New("watch key-value store: engine is closed")
			}
			if e == nil { // everything that was there has been reported
				go follow(ctx, w, f)
				return nil
			}
			if e.Operation() == jetstream.KeyValuePut {
				report(e, f)
			}
		case <-ctx.Done():
			_ = w.Stop()
			return context.Cause(ctx)
		}
	}
}

func follow(ctx context.Context, w jetstream.KeyWatcher, f func(Change)) {
	for {
		select {
		case e, open := <-w.Updates():
			if !open {
				return
			}
			if e != nil {
				report(e, f)
			}
		case <-ctx.Done():
			_ = w.Stop()
			return
		}
	}
}

func report(e jetstream.KeyValueEntry, f func(Change)) {
	key, err := unescapeKey(e.Key())
	if err != nil {
		return // not written by this package
	}
	f(Change{Key: key, Value: e.Value(), Revision: e.Revision(), Deleted: e.Operation() != jetstream.KeyValuePut})
}
