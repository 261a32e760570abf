package broker

import (
	"context"
	"slices"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
)

// Bounds of reading attempts backwards, variables for tests that need to meet them.
var (
	maxAttemptBytes   = int64(64 << 20) // of journal messages that one call reads, about
	attemptChunkBytes = uint64(4 << 20) // of messages that are read forwards at a time
)

// PastAttempt is one attempt of an event subscription and the event it was made for.
type PastAttempt struct {
	Position string `json:"position"` // of the event in the log; FindEvent takes it for a name
	Attempt
}

// AttemptPlace is a place in the history of attempts; zero lies behind the newest.
type AttemptPlace struct {
	Message uint64 // of the delivery journal
	Index   int    // among the attempts that the message tells of
}

// AttemptQuery says which attempts of an event subscription are wanted.
type AttemptQuery struct {
	Before  AttemptPlace
	Since   time.Time // those that began then or later; zero = all that are kept
	Outcome Outcome   // NotAttempted = any
	Most    int       // at least 1
}

// Attempts returns attempts of an event subscription, the newest first, in the order
// they ended. It reads the delivery journal backwards, at most some 64 MiB of it, and may
// find fewer than were asked for though there are more. more is where to go on, zero
// when everything that is kept was looked at.
func (b *Broker) Attempts(ctx context.Context, uid resource.UID, q AttemptQuery) (found []PastAttempt, more AttemptPlace, err error) {
	if q.Before == (AttemptPlace{}) {
		if err := b.journal.sync(ctx); err != nil {
			return nil, more, err
		}
		_, last := b.cfg.Journal.Bounds()
		q.Before.Message = last + 1
	}
	found = []PastAttempt{}
	first, _ := b.cfg.Journal.Bounds()
	whole := int64(0)
	size := uint64(fewMessages)
	for end := q.Before.Message + 1; end > first; {
		from := max(first, end-min(end, size))
		r := &recentAttempts{uid: uint64(uid), query: &q, end: end}
		messages, bytes := uint64(0), uint64(0)
		err := b.readPast(ctx, uint64(uid), 0, from, r, func(m flushedMessage) bool {
			r.place(m.Seq)
			messages, bytes = messages+1, bytes+uint64(len(m.Payload))
			return m.Seq+1 >= end
		})
		if err != nil {
			return nil, more, err
		}
		for _, a := range slices.Backward(r.wanted) {
			found = append(found, a.PastAttempt)
			if len(found) == q.Most {
				return found, a.AttemptPlace, nil
			}
		}
		if r.tooOld {
			break
		}
		end = from
		if whole += int64(bytes); whole >= maxAttemptBytes {
			return found, AttemptPlace{Message: end}, nil
		}
		if messages > 0 {
			size = max(1, min(attemptChunkBytes/max(bytes/messages, 1), size*chunkGrowth, largeChunk))
		}
	}
	return found, AttemptPlace{}, nil
}

// recentAttempts takes the attempts of one event subscription out of some messages.
type recentAttempts struct {
	unheard
	uid    uint64
	query  *AttemptQuery
	end    uint64          // of the messages
	wanted []placedAttempt // the oldest first
	placed int             // how many of them have their message
	index  int             // of the next attempt of the message
	tooOld bool            // one ended before what is asked for, so what was written before it did, too
}

type placedAttempt struct {
	AttemptPlace
	PastAttempt
}

func (r *recentAttempts) attempt(e attemptEntry) {
	if e.uid != r.uid {
		return
	}
	at := AttemptPlace{Index: r.index}
	r.index++
	switch {
	case !r.query.Since.IsZero() && e.end().Before(r.query.Since):
		r.tooOld = true
	case r.query.Outcome != NotAttempted && e.outcome != r.query.Outcome, time.UnixMilli(e.start).Before(r.query.Since):
	default:
		r.wanted = append(r.wanted, placedAttempt{at, PastAttempt{e.pos.String(), e.told()}})
	}
}

// place says which message told of the attempts since the last call. Those at or
// behind the place that is asked from are not wanted.
func (r *recentAttempts) place(message uint64) {
	for i := r.placed; i < len(r.wanted); i++ {
		r.wanted[i].Message = message
	}
	before := r.query.Before
	r.wanted = r.wanted[:r.placed+len(slices.DeleteFunc(r.wanted[r.placed:], func(a placedAttempt) bool {
		return a.Message >= r.end || a.Message == before.Message && a.Index >= before.Index
	}))]
	r.placed, r.index = len(r.wanted), 0
	if over := r.placed - 2*r.query.Most; over > r.query.Most { // the oldest are not reached
		r.wanted = slices.Delete(r.wanted, 0, over)
		r.placed = len(r.wanted)
	}
}
