package broker

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Bounds of reading the log backwards, variables for tests that need to meet them.
// The log keeps no index of event ids: a look back costs the reading of every frame
// on the way, some hundred megabytes a second.
var (
	maxLookBack = int64(2 << 30)  // bytes of frames after which a look back ends
	countOn     = int64(32 << 20) // bytes that a search goes on after a find, to count others of that id
)

const (
	chunkBytes  = 16 << 20 // of frames that a look back holds at a time, about
	firstChunk  = 64       // frames, while their size is not known
	largeChunk  = 4096
	chunkGrowth = 4 // at most, from one chunk to the next
)

// LoggedEvent is an event as it stands in the log.
type LoggedEvent struct {
	Event       json.RawMessage // the stored bytes
	Schema      event.Schema
	PublishTime time.Time
	Sequencer   string
	Generation  uint64 // of the log's owner that wrote it: with the position, which event it is
	Position    engine.Position
	DomainTopic string // in lower case, of one that was published to a domain
	SameID      int    // events with this id that a search by id met, this newest one included; 0 = not searched by id
}

// LookBack tells how far a look back went.
type LookBack struct {
	Frames int
	Bytes  int64
	Oldest time.Time // ingest time of the oldest frame read
	Cut    bool      // it ended at its bound, before the beginning of the log
}

// Newest yields events of the log, the newest first. It reads the log in
// chunks, from its end as of the call, and ends at the beginning of the log or
// after 2 GiB of frames; back, if not nil, tells how far it came.
func (b *Broker) Newest(ctx context.Context, stream resource.Stream, back *LookBack) iter.Seq2[LoggedEvent, error] {
	return func(yield func(LoggedEvent, error) bool) {
		if back == nil {
			back = &LookBack{}
		}
		first, last := b.cfg.Log.Bounds()
		size := uint64(firstChunk)
		for end := last + 1; end > first; {
			if back.Bytes >= maxLookBack {
				back.Cut = true
				return
			}
			from := max(first, end-min(end, size))
			frames, err := b.chunk(ctx, from, end, stream, back)
			if err != nil {
				yield(LoggedEvent{}, fmt.Errorf("read the log from frame %d: %w", from, err))
				return
			}
			for i := len(frames) - 1; i >= 0; i-- {
				f := frames[i]
				for r := len(f.Records) - 1; r >= 0; r-- {
					if isOf(&f.Records[r], stream) && !yield(loggedEvent(f, r), nil) {
						return
					}
				}
			}
			end = from
			if back.Frames > 0 {
				fit := uint64(chunkBytes / max(back.Bytes/int64(back.Frames), 1))
				size = max(1, min(fit, size*chunkGrowth, largeChunk))
			}
		}
	}
}

// chunk reads the frames [from, end) and keeps those that hold events of a stream.
func (b *Broker) chunk(ctx context.Context, from, end uint64, stream resource.Stream, back *LookBack) ([]*engine.Frame, error) {
	var frames []*engine.Frame
	first := true
	for f, err := range b.frames(ctx, from) {
		if errors.Is(err, engine.ErrCorrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f.Seq >= end {
			break
		}
		if first {
			back.Oldest, first = f.Time, false
		}
		back.Frames++
		back.Bytes += int64(f.Size)
		for i := range f.Records {
			if isOf(&f.Records[i], stream) {
				frames = append(frames, f)
				break
			}
		}
	}
	return frames, ctx.Err()
}

func isOf(r *engine.Record, stream resource.Stream) bool {
	return r.Kind == engine.KindEvent && r.Topic == uint64(stream.Topic) && (stream.DomainTopic == "" || stream.DomainTopic == r.Key)
}

func loggedEvent(f *engine.Frame, i int) LoggedEvent {
	r := &f.Records[i]
	return LoggedEvent{Event: r.Data, Schema: event.Schema(r.Schema), PublishTime: f.Time, Sequencer: f.Sequencer(i), Generation: f.Generation, Position: f.Position(i), DomainTopic: r.Key}
}

// FindEvent finds an event of a stream by its sequencer (32 hex digits) or its
// position (16), which costs one read, or by its id, which costs a look back and, when
// the log does not have it, a look at what is parked; of several events with one id it
// takes the newest and counts the others near it.
func (b *Broker) FindEvent(ctx context.Context, stream resource.Stream, name string) (LoggedEvent, error) {
	if e, found, err := b.eventAt(ctx, stream, name); found || err != nil {
		return e, err
	}
	var back LookBack
	var newest LoggedEvent
	var until int64
	seen, id := 0, []byte(name)
	for e, err := range b.Newest(ctx, stream, &back) {
		if err != nil {
			return LoggedEvent{}, err
		}
		if newest.SameID > 0 && back.Bytes > until {
			break
		}
		seen++
		if !hasID(&e, id) {
			continue
		}
		if newest.SameID == 0 {
			newest, until = e, back.Bytes+countOn
		}
		newest.SameID++
	}
	if newest.SameID > 0 {
		return newest, nil
	}
	for e, err := range b.parkedEvents(ctx, stream) {
		if err != nil {
			return LoggedEvent{}, err
		}
		if hasID(&e, id) {
			e.SameID = 1
			return e, nil
		}
	}
	where := fmt.Sprintf("among the %d events of the topic that the log keeps", seen)
	remedy := "History is kept for the retention time; carillon event tail shows ids as events pass."
	if back.Cut {
		where = fmt.Sprintf("among the newest %d events of the topic, back to %s", seen, back.Oldest.UTC().Format(time.RFC3339))
		remedy = "Name an older one by its sequencer: data.sequencer, or the header aeg-output-event-id of its delivery."
	}
	return LoggedEvent{}, fault.New(fault.NotFound, "EventNotFound", "No event with the id '%.200s' was found %s. %s", name, where, remedy)
}

// hasID reports whether an event has an id. Most are told apart without parsing.
func hasID(e *LoggedEvent, id []byte) bool {
	if !bytes.Contains(e.Event, id) && bytes.IndexByte(e.Event, '\\') < 0 {
		return false
	}
	var parsed event.Event
	return parsed.Parse(e.Event, e.Schema) == nil && bytes.Equal(parsed.ID, id)
}

// eventAt finds an event of a stream by its sequencer or its position.
func (b *Broker) eventAt(ctx context.Context, stream resource.Stream, name string) (e LoggedEvent, found bool, err error) {
	whole := len(name) == engine.SequencerSize
	if _, err := hex.DecodeString(name); err != nil || !whole && len(name) != engine.SequencerSize/2 {
		return e, false, nil
	}
	at, err := strconv.ParseUint(name[len(name)-engine.SequencerSize/2:], 16, 64)
	if err != nil {
		return e, false, nil
	}
	pos := engine.Position(at)
	if _, last := b.cfg.Log.Bounds(); pos.Seq() == 0 || pos.Seq() > last {
		return e, false, nil
	}
	f := b.window.peek(pos.Seq())
	if f == nil {
		f, err = b.cfg.Log.Frame(ctx, pos.Seq())
	}
	if errors.Is(err, engine.ErrPurged) {
		f, err = b.parkedFrame(ctx, pos)
	}
	switch {
	case errors.Is(err, engine.ErrPurged), errors.Is(err, engine.ErrCorrupt), fault.Is(err, fault.NotFound):
		return e, false, nil
	case err != nil:
		return e, false, fmt.Errorf("read frame %d: %w", pos.Seq(), err)
	}
	i := pos.Index()
	if i >= len(f.Records) || !isOf(&f.Records[i], stream) || whole && f.Sequencer(i) != strings.ToLower(name) {
		return e, false, nil
	}
	return loggedEvent(f, i), true, nil
}
