package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Park holds copies of events for which somebody waits so long that the log should
// not wait with him. A copy has the form and the place of the frame that it was made
// of: its records keep their index, and those that nobody waits for are left empty.
// So a copy is never larger than its frame.
//
// A message of the park is the sequence of the frame in the log, 8 bytes big-endian,
// followed by the copy as frame.go describes it. Copies are named by the sequence of
// their message. A write that is repeated leaves a second copy, which All finds and
// nobody names.
type Park struct {
	stream *stream
	rest   time.Duration // until a copy counts as safely on disk; 0 = at once

	mu    sync.Mutex
	state streamState
	young []settling // frames whose copies are not yet safe, oldest copy first
}

const (
	parkPrefix  = 8  // bytes before the frame
	parkMessage = 40 // bytes that the store adds, about
)

// kindLeftOut is the kind of a copy's empty records.
const kindLeftOut Kind = 0

func openPark(ctx context.Context, e *Engine) (*Park, error) {
	s, err := e.node.ensure(ctx, jetstream.StreamConfig{Name: parkStream, Subjects: []string{parkSubject}})
	if err != nil {
		return nil, err
	}
	k := &Park{stream: s}
	if e.opts.Durability == DurabilityProcess {
		k.rest = settleSyncs*e.opts.SyncInterval + settleGrain
	}
	return k, k.count(ctx)
}

// count takes over what the store says.
func (k *Park) count(ctx context.Context) error {
	st, err := k.stream.state(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.state = st
	k.mu.Unlock()
	return nil
}

// Put stores a copy of a frame with the records of the given indexes, in rising
// order, as durably as Append does. Where that leaves up to two seconds to a power
// cut, the partition keeps the frame until the copy is safe.
func (k *Park) Put(ctx context.Context, f *Frame, keep []int) (seq uint64, err error) {
	records := make([]Record, keep[len(keep)-1]+1)
	for i := range records {
		records[i].Kind = kindLeftOut
	}
	for _, i := range keep {
		records[i] = f.Records[i]
	}
	var enc frameEncoder
	enc.reset(f.Seq, f.Generation, f.Nonce, f.Time, encodedSize(records))
	enc.add(records)
	message := append(binary.BigEndian.AppendUint64(make([]byte, 0, parkPrefix+len(enc.buf)), f.Seq), enc.finish()...)
	if seq, err = k.stream.store(ctx, parkSubject, message); err != nil {
		return 0, fmt.Errorf("park frame %d: %w", f.Seq, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.messages++
	k.state.bytes += int64(len(message) + parkMessage)
	if k.rest > 0 {
		k.young = append(k.young, settling{f.Seq, time.Now()})
	}
	return seq, nil
}

// Frame reads a copy, which must be one of the given frame. What the copy leaves out
// is not of KindEvent. The error wraps ErrPurged when it is not there and ErrCorrupt
// when it does not decode or is a copy of another frame.
func (k *Park) Frame(ctx context.Context, seq, frame uint64) (*Frame, error) {
	m, err := k.stream.get(ctx, seq)
	if errors.Is(err, errAbsent) {
		return nil, fmt.Errorf("copy %d of frame %d in the park: %w", seq, frame, ErrPurged)
	}
	if err != nil {
		return nil, fmt.Errorf("read copy %d of frame %d: %w", seq, frame, err)
	}
	if len(m.data) < parkPrefix || binary.BigEndian.Uint64(m.data) != frame {
		return nil, fmt.Errorf("%w: message %d of the park is no copy of frame %d", ErrCorrupt, seq, frame)
	}
	return decodeFrame(frame, m.data[parkPrefix:])
}

// Remove removes copies; those that are not there are no error.
func (k *Park) Remove(ctx context.Context, seqs ...uint64) error {
	for _, seq := range seqs {
		if err := k.stream.drop(ctx, seq); err != nil {
			return fmt.Errorf("remove copy %d from the park: %w", seq, err)
		}
	}
	return k.count(ctx)
}

// All yields the copies that were stored before the call, oldest first. It reads
// them.
func (k *Park) All(ctx context.Context) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		st, err := k.stream.state(ctx)
		if err != nil {
			yield(0, err)
			return
		}
		for m, err := range k.stream.messagesOf(ctx, "", st.first, st.last) {
			if !yield(m.seq, err) || err != nil {
				return
			}
		}
	}
}

// Len is the number of copies.
func (k *Park) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.messages
}

// Bytes is what they take.
func (k *Park) Bytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.bytes
}

// unsettled is the lowest frame whose copy may not be on disk yet.
func (k *Park) unsettled() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for len(k.young) > 0 && now.Sub(k.young[0].at) > k.rest {
		k.young = k.young[1:]
	}
	lowest := uint64(math.MaxUint64)
	for _, y := range k.young {
		lowest = min(lowest, y.seq)
	}
	return lowest
}
