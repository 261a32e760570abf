package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Table holds one value per key; a newer value replaces the older one. Each Put
// is as durable as an Append. It is written one value at a time, so it is for
// what is rare: dead letters, not events.
//
// The replaced value is removed by its sequence after the new one is stored, not
// by a limit of the store: a removal is logged there and an overwrite is not, so
// after a crash a deleted key could come back with an older value. A crash between
// the two leaves both values: the next start removes the older one, before anybody
// reads the table.
type Table struct {
	stream *stream
	root   string
}

func openTable(ctx context.Context, n *node, name, root string) (*Table, error) {
	s, err := n.ensure(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{root + ">"}})
	if err != nil {
		return nil, err
	}
	t := &Table{stream: s, root: root}
	if err := t.unify(ctx); err != nil {
		return nil, fmt.Errorf("remove replaced values of stream %s: %w", name, err)
	}
	return t, nil
}

// unify leaves each key its newest value.
func (t *Table) unify(ctx context.Context) error {
	st, err := t.stream.state(ctx)
	if err != nil || st.messages == st.subjects {
		return err
	}
	held, err := t.stream.subjects(ctx, t.root+">")
	if err != nil {
		return err
	}
	for subject, n := range held {
		if n == 1 {
			continue
		}
		m, err := t.stream.newest(ctx, subject)
		if err != nil {
			return err
		}
		if err := t.dropOlder(ctx, subject, m.seq); err != nil {
			return err
		}
	}
	return nil
}

// dropOlder removes what was stored under a subject before a sequence. It may be more
// than one value, where an earlier removal failed.
func (t *Table) dropOlder(ctx context.Context, subject string, seq uint64) error {
	for {
		old, err := t.stream.nextOf(ctx, subject, 1)
		if errors.Is(err, errAbsent) || err == nil && old.seq >= seq {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.stream.drop(ctx, old.seq); err != nil {
			return err
		}
	}
}

// Put stores a value; repeating it is harmless.
func (t *Table) Put(ctx context.Context, key string, value []byte) error {
	tokens, err := escapeKey(key)
	if err != nil {
		return err
	}
	subject := t.root + tokens
	old, err := t.stream.newest(ctx, subject)
	if err != nil && !errors.Is(err, errAbsent) {
		return fmt.Errorf("put %s: %w", key, err)
	}
	seq, err := t.stream.store(ctx, subject, value)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if old.seq != 0 {
		if err := t.dropOlder(ctx, subject, seq); err != nil {
			return fmt.Errorf("put %s: remove the old value: %w", key, err)
		}
	}
	return nil
}

// Get reads a value, false for none.
func (t *Table) Get(ctx context.Context, key string) ([]byte, bool, error) {
	tokens, err := escapeKey(key)
	if err != nil {
		return nil, false, err
	}
	m, err := t.stream.newest(ctx, t.root+tokens)
	if errors.Is(err, errAbsent) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("get %s: %w", key, err)
	}
	return m.data, true, nil
}

// Delete removes a value; a key that is not there is no error.
func (t *Table) Delete(ctx context.Context, key string) error {
	tokens, err := escapeKey(key)
	if err != nil {
		return err
	}
	if err := t.stream.remove(ctx, t.root+tokens); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// Keys lists the keys that begin with prefix, sorted.
func (t *Table) Keys(ctx context.Context, prefix string) ([]string, error) {
	return t.stream.keys(ctx, t.root, prefix)
}

// TableEntry is a stored value in the order of storing.
type TableEntry struct {
	Seq   uint64 // grows with each Put
	Key   string
	Value []byte
}

// Since yields what was stored behind a sequence under keys that begin with
// prefix, as of the call, in the order it was stored. A value that is replaced
// meanwhile may be yielded in both its forms, the newer one later.
func (t *Table) Since(ctx context.Context, prefix string, after uint64) iter.Seq2[TableEntry, error] {
	return func(yield func(TableEntry, error) bool) {
		last, err := t.Last(ctx)
		if err != nil {
			yield(TableEntry{}, err)
			return
		}
		for m, err := range t.stream.messagesOf(ctx, prefixFilter(t.root, prefix), after+1, last) {
			if err != nil {
				yield(TableEntry{}, fmt.Errorf("read in order: %w", err))
				return
			}
			key, err := unescapeKey(strings.TrimPrefix(m.subject, t.root))
			if err != nil {
				yield(TableEntry{}, fmt.Errorf("read in order: %w", err))
				return
			}
			if strings.HasPrefix(key, prefix) && !yield(TableEntry{m.seq, key, m.data}, nil) {
				return
			}
		}
	}
}

// Last is the sequence of the newest Put, 0 when there was none.
func (t *Table) Last(ctx context.Context) (uint64, error) {
	st, err := t.stream.state(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the table's end: %w", err)
	}
	return st.last, nil
}

// Purge removes everything that was stored below a sequence.
func (t *Table) Purge(ctx context.Context, below uint64) error {
	if err := t.stream.purge(ctx, below); err != nil {
		return fmt.Errorf("purge the table: %w", err)
	}
	return nil
}

// Bytes is what the table holds; 0 when the store does not answer.
func (t *Table) Bytes() int64 { return t.now().bytes }

// Len is the number of keys; 0 when the store does not answer.
func (t *Table) Len() int { return t.now().messages }

func (t *Table) now() streamState {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := t.stream.state(ctx)
	if err != nil {
		return streamState{}
	}
	return st
}
