package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	ackLimit          = 5 * time.Second // a healthy disk acks within milliseconds
	retryPause        = 100 * time.Millisecond
	wrongLastSequence = 10071 // server error code: expected-last-sequence did not hold
)

// errFenced says that another owner wrote to the stream. What was being written
// is not stored and never will be.
var errFenced = errors.New("another owner has written to the partition")

// fencedWriter stores messages in one stream, one at a time, each under the
// sequence that must follow the last one, so nobody else can write in between
// unnoticed. Bytes 8 to 16 of every message are its nonce. Not for concurrent use.
type fencedWriter struct {
	stream  *stream
	subject string
	acks    *publisher
	limit   time.Duration // ackLimit, shorter in tests
	last    uint64
	stuck   func(error) // told when an ack is overdue, and with nil when writing goes on
}

func newFencedWriter(s *stream, subject string, stuck func(error)) (*fencedWriter, error) {
	acks, err := newPublisher(s.node, 16)
	if err != nil {
		return nil, err
	}
	return &fencedWriter{stream: s, subject: subject, acks: acks, limit: ackLimit, stuck: stuck}, nil
}

// write stores msg under last+1 and returns when it is durable. An error that is
// an *apiError means that the store refused it and nothing is stored; errFenced
// too; any other error leaves it open and comes only when ctx ends, for then the
// writer itself is at its end.
//
// A lost ack is not a lost message: on a time-out, and on a refusal for its
// sequence, the message at last+1 is read and its nonce compared. Ours means
// stored; a stranger's means that we are no longer the owner; none means that it
// must be sent again.
func (w *fencedWriter) write(ctx context.Context, msg []byte) error {
	seq, token := w.last+1, w.acks.next()
	header := nats.Header{"Nats-Expected-Last-Sequence": {strconv.FormatUint(w.last, 10)}}
	overdue := false
	for {
		a, err := w.attempt(ctx, token, header, msg)
		if err == nil && a.Error == nil && a.Seq == seq {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write to stream %s: not known whether stored: %w", w.stream.name, context.Cause(ctx))
		}
		if err != nil && !overdue {
			overdue = true
			w.stuck(fmt.Errorf("stream %s: %w", w.stream.name, err))
		}
		stored, err := w.resolve(ctx, seq, msg, a.Error)
		if err != nil {
			return err
		}
		if stored {
			break
		}
	}
	if overdue {
		w.stuck(nil)
	}
	w.last = seq
	return nil
}

func (w *fencedWriter) attempt(ctx context.Context, token uint64, header nats.Header, msg []byte) (ack, error) {
	if err := w.acks.send(token, w.subject, header, msg); err != nil {
		return ack{}, err
	}
	limit := time.NewTimer(w.limit)
	defer limit.Stop()
	_, a, err := w.acks.wait(ctx, token, limit)
	return a, err
}

// resolve finds out what became of a message without a good ack.
func (w *fencedWriter) resolve(ctx context.Context, seq uint64, msg []byte, refusal *apiError) (stored bool, err error) {
	for {
		look, cancel := context.WithTimeout(ctx, w.limit) // a question that a restart lost is asked again
		found, err := w.stream.get(look, seq)
		cancel()
		switch {
		case err == nil && len(found.data) >= 16 &&
			binary.BigEndian.Uint64(found.data[8:]) == binary.BigEndian.Uint64(msg[8:]):
			return true, nil
		case err == nil:
			return false, fmt.Errorf("%w: message %d of stream %s is not ours", errFenced, seq, w.stream.name)
		case errors.Is(err, errAbsent):
			return false, w.absent(ctx, seq, refusal)
		}
		select { // the store does not answer
		case <-ctx.Done():
			return false, fmt.Errorf("write to stream %s: not known whether stored: %w", w.stream.name, context.Cause(ctx))
		case <-time.After(retryPause):
		}
	}
}

// absent decides when nothing is stored under seq: nil means send again.
func (w *fencedWriter) absent(ctx context.Context, seq uint64, refusal *apiError) error {
	if refusal == nil {
		return nil
	}
	if refusal.ErrCode == 0 { // no store answered: pause, then send again
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
		return nil
	}
	if refusal.ErrCode != wrongLastSequence {
		return refusal
	}
	st, err := w.stream.state(ctx)
	if err != nil {
		return nil //nolint:nilerr // not known: the next attempt tells
	}
	if st.last != seq-1 {
		return fmt.Errorf("%w: stream %s ends at %d, ours at %d", errFenced, w.stream.name, st.last, seq-1)
	}
	return nil
}
