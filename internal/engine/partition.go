package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/internal/fault"
)

// Names of the streams and subjects of partition 0. The subjects of the log,
// the journal and the park take one message each at a time; the projection has a
// subject per fact below its root.
const (
	logStream        = "EV-00"
	logSubject       = "ev.00"
	journalStream    = "DJ-00"
	journalSubject   = "dj.00"
	parkStream       = "PK-00"
	parkSubject      = "pk.00"
	projectionStream = "WS-00"
	projectionRoot   = "ws.00."
)

// ErrPurged is wrapped by an error about a frame that the log no longer holds.
var ErrPurged = errors.New("frame is purged")

// purgeStep bounds what one request removes from the log: a large sweep makes
// the disk's syncs slow for everybody.
const purgeStep = 256 << 20

// Partition is one ordered part of the event log with its journal and its
// projection of facts. It has one writer, this process: every write is fenced by
// the sequence before it.
type Partition struct {
	engine     *Engine
	log        *stream
	writer     *fencedWriter
	journal    *Journal
	park       *Park
	projection *projection
	committer  *committer
	generation uint64
	onCommit   func(*Frame)

	first   atomic.Uint64
	last    atomic.Uint64
	stopped atomic.Pointer[error] // why nothing can be written any more

	purging sync.Mutex
	mu      sync.Mutex // guards what follows
	ledger  *ledger
	bytes   int64  // of all frames kept
	floor   uint64 // lowest frame still needed
	quota   int64
}

// Usage is what the log holds, in bytes.
type Usage struct {
	Bytes      int64 // of all kept frames
	AboveFloor int64 // of the frames at or above the floor
	Quota      int64 // most that may lie above the floor
	Space      Space // what the disk has left: unless ample, history should go
}

// openPartition opens the streams and takes the partition over: from its return
// no earlier owner can write. The projection is not yet brought up to date.
func openPartition(ctx context.Context, e *Engine) (*Partition, error) {
	p := &Partition{engine: e}
	var err error
	if p.log, err = e.node.ensure(ctx, jetstream.StreamConfig{Name: logStream, Subjects: []string{logSubject}}); err != nil {
		return nil, err
	}
	journal, err := e.node.ensure(ctx, jetstream.StreamConfig{Name: journalStream, Subjects: []string{journalSubject}})
	if err != nil {
		return nil, err
	}
	facts, err := e.node.ensure(ctx, jetstream.StreamConfig{
		Name: projectionStream, Subjects: []string{projectionRoot + ">"},
		MaxMsgsPerSubject: 1, PersistMode: jetstream.AsyncPersistMode,
	})
	if err != nil {
		return nil, err
	}
	if p.writer, err = newFencedWriter(p.log, logSubject, e.lateness.of(logStream)); err != nil {
		return nil, err
	}
	if p.journal, err = openJournal(p, journal); err != nil {
		return nil, err
	}
	if p.park, err = openPark(ctx, e); err != nil {
		return nil, err
	}
	if p.projection, err = newProjection(e.node, facts, e.opts); err != nil {
		return nil, err
	}
	return p, p.takeOver(ctx)
}

// takeOver writes a take-over record with a new generation to the log and to the
// journal. Once both are stored, an earlier owner's expected sequence no longer
// holds, so it is refused. The generation is greater than every one written
// before; wall-clock seconds keep it growing even where both streams were lost.
func (p *Partition) takeOver(ctx context.Context) error {
	for try := 0; ; try++ {
		st, err := p.log.state(ctx)
		if err != nil {
			return err
		}
		generation, at, err := p.lastFrame(ctx, st.last)
		if err != nil {
			return err
		}
		journaled, err := p.journal.load(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		generation = max(generation+1, journaled+1, uint64(max(now.Unix(), 0)))
		if at.Before(now) {
			at = now
		}
		p.writer.last = st.last
		var enc frameEncoder
		enc.reset(st.last+1, generation, rand.Uint64(), at, 256)
		enc.add([]Record{{Kind: KindTakeover, Data: []byte(p.engine.opts.Name)}})
		frame := enc.finish()
		err = p.writer.write(ctx, frame)
		if err == nil {
			err = p.journal.takeOver(ctx, generation, p.engine.opts.Name)
		}
		if errors.Is(err, errFenced) && try < 10 {
			continue // an old owner got one more write in
		}
		if err != nil {
			return fmt.Errorf("take over partition: %w", err)
		}
		p.generation = generation
		p.installLog(st, frame)
		p.committer = newCommitter(p, at)
		return nil
	}
}

// installLog sets up what is counted about the log.
func (p *Partition) installLog(st streamState, takeOver []byte) {
	if st.messages == 0 {
		st.first = st.last + 1
	}
	p.ledger = newLedger(st.first, st.last, st.bytes, p.engine.opts.LogQuota)
	p.bytes = st.bytes
	p.floor, p.quota = st.first, p.engine.opts.LogQuota
	p.first.Store(st.first)
	p.count(st.last+1, len(takeOver))
}

// lastFrame returns generation and time of the last frame, zero for none. The
// newest frame is never purged, so they are known also after a long rest.
func (p *Partition) lastFrame(ctx context.Context, last uint64) (uint64, time.Time, error) {
	if last == 0 {
		return 0, time.Time{}, nil
	}
	m, err := p.log.get(ctx, last)
	if errors.Is(err, errAbsent) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, err
	}
	f, err := decodeFrame(m.seq, m.data)
	if err != nil {
		p.engine.opts.Logger.Error("the last frame of the log cannot be read; generation and time are taken from the journal and the store", "error", err)
		return 0, m.time, nil
	}
	return f.Generation, f.Time, nil
}

// storedSize is what a fenced message of a size takes in the store: record
// header, subject, header with the expected sequence, and checksum come on top.
func storedSize(seq uint64, size int) int64 {
	return int64(size + 82 + len(strconv.FormatUint(seq-1, 10)))
}

// count takes a stored frame into account.
func (p *Partition) count(seq uint64, size int) {
	bytes := storedSize(seq, size)
	p.mu.Lock()
	p.ledger.add(seq, bytes)
	p.bytes += bytes
	p.mu.Unlock()
	p.last.Store(seq)
}

// OnCommit sets the function that gets every stored frame in order, in the
// committer's goroutine, after the frame is durable and before the Appends that
// wait for it return. Set it before the first Append; it must not block. The
// take-over frame written by Open is not handed over: Frames has it.
func (p *Partition) OnCommit(f func(*Frame)) { p.onCommit = f }

// Generation is the generation of this owner.
func (p *Partition) Generation() uint64 { return p.generation }

// Bounds returns the first kept and the last stored frame; last is exact.
func (p *Partition) Bounds() (first, last uint64) { return p.first.Load(), p.last.Load() }

// Journal returns the partition's delivery journal.
func (p *Partition) Journal() *Journal { return p.journal }

// Park returns the partition's park.
func (p *Partition) Park() *Park { return p.park }

// Err tells why the partition cannot be written: it was taken over by another
// owner, or the store has not acked a write for some seconds and is started anew.
// Nil means healthy.
func (p *Partition) Err() error {
	if err := p.stopped.Load(); err != nil {
		return *err
	}
	return p.engine.lateness.err()
}

// stop ends all writing to the partition.
func (p *Partition) stop(err error) {
	if p.stopped.CompareAndSwap(nil, &err) {
		p.engine.opts.Logger.Error("partition stopped", "error", err)
	}
}

// Refuses tells why events, facts and changes of keys are refused for want of disk
// space, nil while there is enough.
func (p *Partition) Refuses() error { return p.engine.disk.refusal() }

// unavailable is the answer while the partition takes no writes.
func unavailable(err error) error {
	return fault.New(fault.Unavailable, "ServiceUnavailable", "The event log takes no writes at the moment. Nothing was stored; try again later.").
		After(30 * time.Second).Because(err)
}

// Frame reads one frame. The error wraps ErrPurged when the log no longer holds
// it, and ErrCorrupt when it is damaged or lost.
func (p *Partition) Frame(ctx context.Context, seq uint64) (*Frame, error) {
	m, err := p.log.get(ctx, seq)
	switch {
	case errors.Is(err, errAbsent) && seq < p.first.Load():
		return nil, fmt.Errorf("frame %d: %w", seq, ErrPurged)
	case errors.Is(err, errAbsent) && seq > p.last.Load():
		return nil, fault.New(fault.NotFound, "NotFound", "The log has no frame %d.", seq)
	case errors.Is(err, errAbsent):
		return nil, fmt.Errorf("frame %d: %w: the log lost it", seq, ErrCorrupt)
	case err != nil:
		return nil, fmt.Errorf("read frame %d: %w", seq, err)
	}
	return decodeFrame(m.seq, m.data)
}

// Frames reads frames in order, from the first kept one at or above from up to
// the last one stored when the call was made, take-over frames included. A frame
// that is damaged, or several that are lost, yield an error wrapping ErrCorrupt, and
// the next one follows; any other error ends the sequence. At most some megabytes are in
// flight, however slow the loop body is.
func (p *Partition) Frames(ctx context.Context, from uint64) iter.Seq2[*Frame, error] {
	last := p.last.Load()
	return func(yield func(*Frame, error) bool) {
		for m, err := range p.log.messages(ctx, from, last) {
			if errors.Is(err, errDamaged) {
				if !yield(nil, fmt.Errorf("%w: %w", ErrCorrupt, err)) {
					return
				}
				continue
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(decodeFrame(m.seq, m.data)) {
				return
			}
		}
	}
}

// Purge removes every frame below the given one, in steps, oldest first. Three
// things stay: the newest frame, which carries generation and time over a
// restart, and frames with facts whose projection, or with events whose copy in the
// park, is not safely on disk yet (some seconds old). Calling it again later removes
// those too.
func (p *Partition) Purge(ctx context.Context, below uint64) error {
	p.purging.Lock()
	defer p.purging.Unlock()
	below = min(below, p.last.Load(), p.projection.safe()+1, p.park.unsettled())
	for p.first.Load() < below {
		p.mu.Lock()
		step := p.ledger.after(p.ledger.upTo(p.first.Load()-1) + purgeStep)
		p.mu.Unlock()
		step = min(below, max(step, p.first.Load()+1))
		if err := p.log.purge(ctx, step); err != nil {
			return fmt.Errorf("purge log below %d: %w", step, err)
		}
		if err := p.recount(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// recount takes over what the store says after a purge below seq.
func (p *Partition) recount(ctx context.Context, seq uint64) error {
	st, err := p.log.state(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first.Store(max(seq, st.first))
	p.bytes = st.bytes
	p.ledger.forget(max(min(p.floor, seq), 1) - 1)
	return nil
}

// SetFloor sets the lowest frame that someone still needs. What lies at or above
// it counts against the quota; what lies below is history. Until it is set, all
// of the log counts.
func (p *Partition) SetFloor(seq uint64) {
	p.mu.Lock()
	p.floor = seq
	p.mu.Unlock()
}

// Usage returns what the log holds.
func (p *Partition) Usage() Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Usage{Bytes: p.bytes, AboveFloor: p.aboveFloor(), Quota: p.quota, Space: p.engine.disk.space()}
}

// BytesFrom is about what the frames at or above one take; it is exact for frames of
// this process that lie above the floor.
func (p *Partition) BytesFrom(seq uint64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytesFrom(seq)
}

// aboveFloor needs p.mu.
func (p *Partition) aboveFloor() int64 { return p.bytesFrom(p.floor) }

// bytesFrom needs p.mu.
func (p *Partition) bytesFrom(seq uint64) int64 {
	from := max(seq, p.first.Load())
	if from == 0 {
		return p.ledger.total
	}
	return p.ledger.total - p.ledger.upTo(from-1)
}

// Fact reads the newest state of an object, false for none.
func (p *Partition) Fact(ctx context.Context, key string) (Fact, bool, error) {
	return p.projection.fact(ctx, key)
}

// FactKeys returns the keys of all objects whose key begins with prefix, which
// ends at a segment boundary, sorted.
func (p *Partition) FactKeys(ctx context.Context, prefix string) ([]string, error) {
	return p.projection.keys(ctx, prefix)
}

// FactsAfter returns, in the order in which they were written, the facts whose key begins
// with prefix, of which a segment may be "*", that were written at or after a time and
// behind the sequencer after: most of them at most, and whether there are more. It costs
// what it returns, not what is stored. What is written meanwhile may be among them; what
// is gone is not.
func (p *Partition) FactsAfter(ctx context.Context, prefix string, since time.Time, after string, most int) ([]Fact, bool, error) {
	return p.projection.after(ctx, prefix, since, after, most)
}
