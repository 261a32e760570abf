package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"sync/atomic"

	"github.com/carillon-events/carillon/internal/fault"
)

// JournalEntry is one stored entry of the journal.
type JournalEntry struct {
	Seq        uint64
	Generation uint64 // of the owner that wrote it
	Payload    []byte
}

// The journal message format, version 1. All integers are big-endian.
//
//	0  2  magic "CJ"
//	2  1  format version, 1
//	3  1  kind: 1 entry, 2 take-over (payload: name of the owner)
//	4  4  CRC-32C of everything from offset 8
//	8  8  nonce
//	16 8  generation
//	24 …  payload
const (
	journalHeader   = 24
	journalVersion  = 1
	journalEntry    = 1
	journalTakeOver = 2
)

// Journal is the partition's delivery journal: opaque entries in order, synced
// like the log, written by the partition's owner only.
type Journal struct {
	p      *Partition
	stream *stream
	writer *fencedWriter
	writes chan journalWrite
	closed chan struct{}

	generation uint64
	first      atomic.Uint64
	last       atomic.Uint64
	bytes      atomic.Int64
}

// journalWrite is one waiting Append; done holds one result.
type journalWrite struct {
	message []byte
	done    chan journalResult
}

type journalResult struct {
	seq uint64
	err error
}

func openJournal(p *Partition, s *stream) (*Journal, error) {
	w, err := newFencedWriter(s, journalSubject, p.engine.lateness.of(journalStream))
	if err != nil {
		return nil, err
	}
	return &Journal{p: p, stream: s, writer: w, writes: make(chan journalWrite), closed: make(chan struct{})}, nil
}

// load reads where the journal ends and the generation of its last message.
func (j *Journal) load(ctx context.Context) (generation uint64, err error) {
	st, err := j.stream.state(ctx)
	if err != nil {
		return 0, err
	}
	if st.messages == 0 {
		st.first = st.last + 1
	}
	j.writer.last = st.last
	j.first.Store(st.first)
	j.last.Store(st.last)
	j.bytes.Store(st.bytes)
	if st.messages == 0 {
		return 0, nil
	}
	m, err := j.stream.get(ctx, st.last)
	if errors.Is(err, errAbsent) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	_, generation, _, err = decodeJournal(m.seq, m.data)
	if err != nil {
		j.p.engine.opts.Logger.Error("the last message of the journal cannot be read", "error", err)
		return 0, nil
	}
	return generation, nil
}

// takeOver writes the take-over record of a new generation.
func (j *Journal) takeOver(ctx context.Context, generation uint64, name string) error {
	j.generation = generation
	_, err := j.store(ctx, encodeJournal(journalTakeOver, generation, []byte(name)))
	return err
}

// Append stores one entry and returns when it is durable. When ctx ends first its
// error is returned, and the entry may or may not be stored.
func (j *Journal) Append(ctx context.Context, payload []byte) (seq uint64, err error) {
	if len(payload) > maxRequest {
		return 0, fault.New(fault.TooLarge, "RequestEntityTooLarge", "A journal entry of %d bytes is too large; at most %d fit.", len(payload), maxRequest)
	}
	w := journalWrite{encodeJournal(journalEntry, j.generation, payload), make(chan journalResult, 1)}
	select {
	case j.writes <- w:
	case <-j.closed:
		return 0, unavailable(errors.New("engine is closed"))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case r := <-w.done:
		return r.seq, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run stores entries until close. When ctx ends it gives up on the store.
func (j *Journal) run(ctx context.Context) {
	for {
		select {
		case w := <-j.writes:
			seq, err := j.store(ctx, w.message)
			w.done <- journalResult{seq, err}
		case <-j.closed:
			return
		}
	}
}

func (j *Journal) store(ctx context.Context, message []byte) (uint64, error) {
	if err := j.p.stopped.Load(); err != nil {
		return 0, unavailable(*err)
	}
	err := j.writer.write(ctx, message)
	if errors.Is(err, errFenced) && j.p.generation != 0 {
		j.p.stop(err)
		return 0, unavailable(err)
	}
	if err != nil {
		return 0, fmt.Errorf("append to journal: %w", err)
	}
	j.last.Store(j.writer.last)
	j.bytes.Add(storedSize(j.writer.last, len(message)))
	return j.writer.last, nil
}

func (j *Journal) close() { close(j.closed) }

// Read reads entries in order, from the first kept one at or above from up to the
// last one stored when the call was made. Take-over records are passed over. A
// message that does not decode, with its Seq, or several that are lost, yield an error
// wrapping ErrCorrupt, and the next one follows; any other error ends the sequence.
func (j *Journal) Read(ctx context.Context, from uint64) iter.Seq2[JournalEntry, error] {
	last := j.last.Load()
	return func(yield func(JournalEntry, error) bool) {
		for m, err := range j.stream.messages(ctx, from, last) {
			if errors.Is(err, errDamaged) {
				if !yield(JournalEntry{}, fmt.Errorf("%w: %w", ErrCorrupt, err)) {
					return
				}
				continue
			}
			if err != nil {
				yield(JournalEntry{}, err)
				return
			}
			kind, generation, payload, err := decodeJournal(m.seq, m.data)
			if err == nil && kind != journalEntry {
				continue
			}
			if !yield(JournalEntry{m.seq, generation, payload}, err) {
				return
			}
		}
	}
}

// Bounds returns the first kept and the last stored message.
func (j *Journal) Bounds() (first, last uint64) { return j.first.Load(), j.last.Load() }

// Bytes is what the journal holds.
func (j *Journal) Bytes() int64 { return j.bytes.Load() }

// Quota is the size up to which the journal is kept as history. The caller
// purges; the journal itself never drops anything.
func (j *Journal) Quota() int64 { return j.p.engine.opts.JournalQuota }

// Purge removes every message below the given one. The newest message stays: it
// carries the generation over a restart.
func (j *Journal) Purge(ctx context.Context, below uint64) error {
	below = min(below, j.last.Load())
	if below <= j.first.Load() {
		return nil
	}
	if err := j.stream.purge(ctx, below); err != nil {
		return fmt.Errorf("purge journal below %d: %w", below, err)
	}
	st, err := j.stream.state(ctx)
	if err != nil {
		return err
	}
	j.first.Store(max(below, st.first))
	j.bytes.Store(st.bytes)
	return nil
}

func encodeJournal(kind byte, generation uint64, payload []byte) []byte {
	b := make([]byte, journalHeader, journalHeader+len(payload))
	copy(b, "CJ")
	b[2], b[3] = journalVersion, kind
	binary.BigEndian.PutUint64(b[8:], rand.Uint64())
	binary.BigEndian.PutUint64(b[16:], generation)
	b = append(b, payload...)
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

func decodeJournal(seq uint64, b []byte) (kind byte, generation uint64, payload []byte, err error) {
	if len(b) < journalHeader || b[0] != 'C' || b[1] != 'J' || b[2] != journalVersion ||
		binary.BigEndian.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
		return 0, 0, nil, fmt.Errorf("journal message %d of %d bytes: %w", seq, len(b), ErrCorrupt)
	}
	return b[3], binary.BigEndian.Uint64(b[16:]), b[journalHeader:], nil
}
