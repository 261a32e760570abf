package broker

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

const (
	parkFrom   = 4    // parking begins when one part in so many of the log's quota is held by open deliveries alone
	parkPart   = 10   // the park may take one part in so many of the log's quota
	parkFrames = 4096 // frames parked at a time; the rest follows a second later
)

// park keeps single deliveries that wait for long from holding everybody's log: their
// events are copied, the journal states where to, and the log moves on. It goes
// these steps, each of which can be repeated:
//
//   - copy: a copy that nobody names is removed after the next start;
//   - journal: the delivery names its copy from now on, and no longer counts for the
//     purge floor; the log is purged only after a flush, so the one or the other
//     holds the event;
//   - settle: the copy is removed after the flush that closes its last delivery;
//     one that a crash leaves behind is removed after the next start.
//
// What the journal has as open at or below a watermark is never matched again, so a
// parked delivery needs nothing of the log any more. Parking costs the park's quota:
// a tenth of the log's, enough for the million deliveries of 1 KiB that may be open
// where the log has 10 GiB. When it is full, or cannot be written, the log is held as
// if there were no park.
//
// The retainer's goroutine parks and removes. The lock is a leaf.
type park struct {
	b      *Broker
	store  Park // nil = nothing is parked
	newest atomic.Pointer[copied]

	mu         sync.Mutex
	copies     map[uint64]int // open deliveries of each copy, and one while it is being named
	leaving    []uint64       // copies whose last delivery is closed
	deliveries int
	trouble    error // why what holds the log is not parked

	pause    func() // of a test: others settle between two who name copies
	searched bool   // for copies that nobody names; the retainer's
}

// copied is a copy that was read; deliveries of one frame are often read in turn.
type copied struct {
	seq   uint64
	frame *engine.Frame
}

// Parked is what the park holds.
type Parked struct {
	Deliveries int    `json:"deliveries"`
	Bytes      int64  `json:"bytes"`
	Problem    string `json:"problem,omitempty"` // why open deliveries hold the log all the same
}

// Parked returns what the park holds.
func (b *Broker) Parked() Parked {
	k := b.park
	if k.store == nil {
		return Parked{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := Parked{Deliveries: k.deliveries, Bytes: k.store.Bytes()}
	if k.trouble != nil {
		p.Problem = k.trouble.Error()
	}
	return p
}

// hold notes that d names its copy. The caller holds the lock of d's event
// subscription, or is alone.
func (k *park) hold(d *delivery) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.copies[d.parked]++
	k.deliveries++
}

// release takes back one of what holds a copy, which leaves with the last. The caller holds
// k.mu.
func (k *park) release(seq uint64) {
	if k.copies[seq]--; k.copies[seq] == 0 {
		delete(k.copies, seq)
		k.leaving = append(k.leaving, seq)
	}
}

// leave notes that d is closed, after the journal was told. The caller holds the lock
// of d's event subscription.
func (k *park) leave(d *delivery) {
	if d.parked == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deliveries--
	k.release(d.parked)
}

// take parks open deliveries whose frames lie below one, the oldest first, as many as
// there is room for.
func (k *park) take(ctx context.Context, below uint64, quota int64) error {
	subs := k.b.all()
	var open []engine.Position
	for _, s := range subs {
		open = s.appendOpen(open, below)
	}
	slices.Sort(open)
	open = slices.Compact(open)
	names := map[engine.Position]uint64{}
	var made []uint64
	var err error
	for i := 0; i < len(open) && len(made) < parkFrames; {
		frame := open[i].Seq()
		var keep []int
		for ; i < len(open) && open[i].Seq() == frame; i++ {
			keep = append(keep, open[i].Index())
		}
		var seq uint64
		if seq, err = k.copy(ctx, frame, keep, quota); errors.Is(err, engine.ErrCorrupt) {
			for _, s := range subs {
				s.giveUpFrame(frame)
			}
			err = nil
			continue
		}
		if err != nil {
			break
		}
		made = append(made, seq)
		for _, index := range keep {
			names[engine.At(frame, index)] = seq
		}
	}
	if len(made) == 0 {
		return err
	}
	parked := k.name(subs, names, made, below)
	k.b.log.Info("open deliveries parked: the log moves on without them", telemetry.Events, parked, "frames", len(made), "below", below)
	return err
}

// name lets the open deliveries of all event subscriptions name the copies that were made,
// and returns how many did. No copy leaves before everybody was asked: the first to name
// it may have settled its delivery when the next one does.
func (k *park) name(subs []*subscription, names map[engine.Position]uint64, made []uint64, below uint64) (parked int) {
	k.mu.Lock()
	for _, seq := range made {
		k.copies[seq]++
	}
	k.mu.Unlock()
	for _, s := range subs {
		parked += s.park(names, below)
		if k.pause != nil {
			k.pause()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, seq := range made {
		k.release(seq)
	}
	return parked
}

// giveUpFrame gives up what is open of a frame that the disk damaged: there is nothing
// to deliver, and it would hold the log until its attempts are over.
func (s *subscription) giveUpFrame(frame uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.order {
		if d.pos.Seq() != frame || d.state != delayed && d.state != ready {
			continue
		}
		if d.state == delayed {
			heap.Remove(&s.delayed, int(d.heapIndex))
		}
		s.bury(d, ReasonAborted)
	}
}

// copy stores a copy of some records of a frame.
func (k *park) copy(ctx context.Context, frame uint64, keep []int, quota int64) (seq uint64, err error) {
	if used := k.store.Bytes(); used >= quota {
		return 0, fmt.Errorf("the park is full: it holds %d bytes, and its quota is %d, a tenth of the log's", used, quota)
	}
	f, err := k.b.window.frame(ctx, frame)
	if err != nil {
		return 0, err
	}
	return k.store.Put(ctx, f, keep)
}

// tell keeps why parking fails, nil when it does not, and logs that once.
func (k *park) tell(err error) {
	k.mu.Lock()
	was := k.trouble
	k.trouble = err
	k.mu.Unlock()
	switch {
	case err != nil && was == nil:
		k.b.log.Error("open deliveries hold the log and cannot be parked; it is tried again", telemetry.Error, err)
	case err == nil && was != nil:
		k.b.log.Info("open deliveries hold the log no longer")
	}
}

// remove removes the copies that nobody needs any more.
func (k *park) remove(ctx context.Context) error {
	if k.store == nil {
		return nil
	}
	if !k.searched {
		if err := k.search(ctx); err != nil {
			return fmt.Errorf("look for copies that nobody names: %w", err)
		}
		k.searched = true
	}
	k.mu.Lock()
	leaving := k.leaving
	k.leaving = nil
	k.mu.Unlock()
	if len(leaving) == 0 {
		return nil
	}
	err := k.b.journal.sync(ctx) // their deliveries are closed for the next start, too
	if err == nil {
		err = k.store.Remove(ctx, leaving...)
	}
	if err != nil {
		k.mu.Lock()
		k.leaving = append(k.leaving, leaving...)
		k.mu.Unlock()
	}
	return err
}

// search lets the copies go that a crash left behind: made and not journaled, or
// closed and not removed. One that is leaving by itself just now does so twice.
func (k *park) search(ctx context.Context) error {
	k.mu.Lock()
	named := maps.Clone(k.copies)
	k.mu.Unlock()
	if k.store.Len() == len(named) {
		return nil
	}
	var stray []uint64
	for seq, err := range k.store.All(ctx) {
		if err != nil {
			return err
		}
		if named[seq] == 0 {
			stray = append(stray, seq)
		}
	}
	k.mu.Lock()
	k.leaving = append(k.leaving, stray...)
	k.mu.Unlock()
	return nil
}

// frame reads a copy of the frame that has the event at a position.
func (k *park) frame(ctx context.Context, seq uint64, pos engine.Position) (*engine.Frame, error) {
	if c := k.newest.Load(); c != nil && c.seq == seq && has(c.frame, pos) {
		return c.frame, nil
	}
	if k.store == nil {
		return nil, errors.New("the event is parked, and there is no park")
	}
	f, err := k.store.Frame(ctx, seq, pos.Seq())
	if err != nil {
		return nil, err
	}
	if !has(f, pos) {
		return nil, fmt.Errorf("%w: copy %d in the park has no event at %s", engine.ErrCorrupt, seq, pos)
	}
	k.newest.Store(&copied{seq, f})
	return f, nil
}

func has(f *engine.Frame, pos engine.Position) bool {
	return f.Seq == pos.Seq() && pos.Index() < len(f.Records) && f.Records[pos.Index()].Kind == engine.KindEvent
}

// appendOpen appends the positions of open deliveries that hold the log below a
// frame.
func (s *subscription) appendOpen(open []engine.Position, below uint64) []engine.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.before(s.order, below) {
		if d.pos.Seq() < below && d.state != closed {
			open = append(open, d.pos)
		}
	}
	return open
}

// park lets the deliveries below a frame that have copies now name them, and returns
// how many did. One that the journal never heard of stays where stateLag looks for it.
func (s *subscription) park(names map[engine.Position]uint64, below uint64) (parked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older := s.before(s.order, below)
	var kept []*delivery
	for _, d := range older {
		switch name, named := names[d.pos]; {
		case d.state == closed:
		case named && d.stated:
			d.parked = name
			s.parked = append(s.parked, d)
			s.b.park.hold(d)
			s.b.journal.dirtied(d)
			parked++
		default:
			kept = append(kept, d)
		}
	}
	s.order = append(kept, s.order[len(older):]...)
	return parked
}

// frameOf reads the frame of a delivery, or its copy where the log has it no more, or
// not intact.
func (b *Broker) frameOf(ctx context.Context, d *delivery) (*engine.Frame, error) {
	f, err := b.window.frame(ctx, d.pos.Seq())
	if !errors.Is(err, engine.ErrPurged) && !errors.Is(err, engine.ErrCorrupt) {
		return f, err
	}
	d.sub.mu.Lock()
	seq := d.parked
	d.sub.mu.Unlock()
	if seq == 0 {
		return nil, err
	}
	return b.park.frame(ctx, seq, d.pos)
}

// parkedFrame reads a copy that has the event at a position, and returns NotFound
// when there is none.
func (b *Broker) parkedFrame(ctx context.Context, pos engine.Position) (*engine.Frame, error) {
	for _, s := range b.all() {
		s.mu.Lock()
		seq := uint64(0)
		if d := s.openAt(pos); d != nil {
			seq = d.parked
		}
		s.mu.Unlock()
		if seq != 0 {
			return b.park.frame(ctx, seq, pos)
		}
	}
	return nil, fault.New(fault.NotFound, "NotFound", "The park has no event at %s.", pos)
}

// parkedEvents yields the parked events of a stream, the newest first.
func (b *Broker) parkedEvents(ctx context.Context, stream resource.Stream) iter.Seq2[LoggedEvent, error] {
	names := map[engine.Position]uint64{}
	for _, s := range b.all() {
		if s.stream.Topic != stream.Topic {
			continue
		}
		s.mu.Lock()
		for _, d := range s.parked {
			if d.state != closed {
				names[d.pos] = d.parked
			}
		}
		s.mu.Unlock()
	}
	return func(yield func(LoggedEvent, error) bool) {
		newest := slices.Sorted(maps.Keys(names))
		slices.Reverse(newest)
		for _, pos := range newest {
			f, err := b.park.frame(ctx, names[pos], pos)
			if errors.Is(err, engine.ErrPurged) {
				continue // settled meanwhile
			}
			if err != nil {
				yield(LoggedEvent{}, err)
				return
			}
			if !yield(loggedEvent(f, pos.Index()), nil) {
				return
			}
		}
	}
}
