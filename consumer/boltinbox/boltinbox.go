// Package boltinbox is an inbox for package consumer that outlives the process: one file, of
// one process at a time. Each event that is handled is one write that is synced to disk,
// which events that are handled at the same time share.
package boltinbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/carillon-events/carillon/consumer"
)

// The buckets.
var (
	byEvent  = []byte("events")  // event key: when it was handled
	byObject = []byte("objects") // object key: when one of its events was handled last, the latest one's sequencer and etag
	byTime   = []byte("times")   // when an event was handled, event key: object key; in the order of forgetting
	counts   = []byte("counts")  // how many entries byTime has
)

const (
	keySize  = len(consumer.Key{})
	timeSize = 8

	lockTime  = 500 * time.Millisecond // for another process to let go of the file
	batchTime = time.Millisecond       // that an event waits for others to share its write
	forgotten = 16                     // entries that one event may have forgotten, to catch up with what became too old
)

// Inbox is an inbox in a file. It is made by [Open].
type Inbox struct {
	db     *bolt.DB
	events int
	age    time.Duration
	now    func() time.Time

	attached atomic.Bool
}

var _ consumer.Inbox = (*Inbox)(nil)

// Open opens the inbox in a file, which is made if it is not there. It remembers the latest
// events, and each for age. What is older than either is forgotten, and with the last event
// of an object how far the object had come: a delivery that comes later still is handled once
// more, and counts as in order. An age of 0 or less is none: the number alone counts. An event
// takes about 400 bytes of the file. All of the file is read once: one that was cut or written
// over is an error, and so is one that another process has.
func Open(path string, events int, age time.Duration) (*Inbox, error) {
	db, err := openWhole(path)
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open inbox %s: another process has the file open: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("open inbox %s: %w", path, err)
	}
	db.MaxBatchDelay = batchTime
	return &Inbox{db: db, events: max(events, 1), age: age, now: time.Now}, nil
}

// openWhole opens a file and reads it from one end to the other. bbolt trusts what it reads: pages
// that are not there, or not what they should be, are faults of memory and panics.
func openWhole(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil && err == nil {
			return
		}
		if p != nil {
			err = fmt.Errorf("the file is damaged (%v): without it, what was handled may be handled again", p)
		}
		if db != nil {
			_ = db.Close()
			db = nil
		}
	}()
	if db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTime}); err != nil {
		return nil, err
	}
	sum := uint32(0)
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				sum = crc32.Update(crc32.Update(sum, crc32.IEEETable, k), crc32.IEEETable, v) // of no use but that each byte is read
				return nil
			})
		})
	})
	if err != nil {
		return db, err
	}
	return db, db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{byEvent, byObject, byTime, counts} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close closes the file, when all of its Handler's requests are answered.
func (i *Inbox) Close() error { return i.db.Close() }

// Attach gives the inbox to the one Handler that it is for. Another one needs a file of its own.
func (i *Inbox) Attach() error {
	if i.attached.Swap(true) {
		return consumer.ErrAttached
	}
	return nil
}

// oldest is the time at or before which events are forgotten.
func (i *Inbox) oldest(now time.Time) time.Time {
	if i.age <= 0 {
		return time.Unix(0, 0)
	}
	return now.Add(-i.age)
}

// Begin judges an event.
func (i *Inbox) Begin(_ context.Context, e consumer.Entry) (v consumer.Verdict, err error) {
	err = i.db.View(func(tx *bolt.Tx) error {
		event, object := e.EventKey(), e.ObjectKey()
		oldest := i.oldest(i.now())
		if when := tx.Bucket(byEvent).Get(event[:]); when != nil && timeOf(when).After(oldest) {
			v = consumer.Seen
		} else if when, sequencer, etag := readMark(tx.Bucket(byObject).Get(object[:])); when.After(oldest) && e.OlderThan(sequencer, etag) {
			v = consumer.Older
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look into the inbox: %w", err)
	}
	return v, nil
}

// End remembers an event that was handled. It returns when that is on disk.
func (i *Inbox) End(_ context.Context, e consumer.Entry, handled bool) error {
	if !handled {
		return nil
	}
	err := i.db.Batch(func(tx *bolt.Tx) error { return i.remember(tx, e) })
	if err != nil {
		return fmt.Errorf("write into the inbox: %w", err)
	}
	return nil
}

func (i *Inbox) remember(tx *bolt.Tx, e consumer.Entry) error {
	event, object := e.EventKey(), e.ObjectKey()
	now, more := i.now(), 1
	when := appendTime(nil, now)
	if before := tx.Bucket(byEvent).Get(event[:]); before != nil { // handled again, as after a crash
		more = 0
		if err := tx.Bucket(byTime).Delete(append(bytes.Clone(before), event[:]...)); err != nil {
			return err
		}
	}
	if err := tx.Bucket(byEvent).Put(event[:], when); err != nil {
		return err
	}
	if e.Sequencer != "" {
		marks := tx.Bucket(byObject)
		_, sequencer, etag := readMark(marks.Get(object[:]))
		if e.Sequencer > sequencer {
			sequencer, etag = e.Sequencer, e.ETag
		}
		if err := marks.Put(object[:], appendMark(when, sequencer, etag)); err != nil {
			return err
		}
	}
	if err := tx.Bucket(byTime).Put(append(when[:timeSize:timeSize], event[:]...), object[:]); err != nil {
		return err
	}
	return i.forget(tx, more, i.oldest(now))
}

// forget removes what is too old or too much, now that there are more events.
func (i *Inbox) forget(tx *bolt.Tx, more int, oldest time.Time) error {
	count := tx.Bucket(counts)
	n := more
	if raw := count.Get(counts); raw != nil {
		n += int(binary.BigEndian.Uint64(raw))
	}
	order := tx.Bucket(byTime).Cursor()
	for range forgotten {
		at, object := order.First()
		if at == nil || n <= i.events && timeOf(at).After(oldest) {
			break
		}
		when, event := at[:timeSize], at[timeSize:]
		if err := tx.Bucket(byEvent).Delete(event); err != nil {
			return err
		}
		if bytes.HasPrefix(tx.Bucket(byObject).Get(object), when) { // else another event of the object is remembered
			if err := tx.Bucket(byObject).Delete(object); err != nil {
				return err
			}
		}
		if err := order.Delete(); err != nil {
			return err
		}
		n--
	}
	return count.Put(counts, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixNano()))
}

func timeOf(raw []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(raw[:timeSize])))
}

// appendMark appends sequencer and etag, behind the time.
func appendMark(when []byte, sequencer, etag string) []byte {
	b := binary.AppendUvarint(when[:timeSize:timeSize], uint64(len(sequencer)))
	return append(append(b, sequencer...), etag...)
}

// readMark reads what appendMark wrote; nil is the mark of an object that nothing is known of.
func readMark(raw []byte) (when time.Time, sequencer, etag string) {
	if len(raw) < timeSize {
		return time.Time{}, "", ""
	}
	n, size := binary.Uvarint(raw[timeSize:])
	rest := raw[timeSize+max(size, 0):]
	if uint64(len(rest)) < n {
		return time.Time{}, "", ""
	}
	return timeOf(raw), string(rest[:n]), string(rest[n:])
}
