package broker

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// elevator brings lagging event subscriptions up again: one reader sweeps the log
// from the lowest place that somebody aboard still needs up to its end and matches
// each frame against those aboard only. One whose queue fills gets off there and
// boards again at the next sweep. So a sweep costs the log once, however many lag.
type elevator struct {
	b        *Broker
	ring     chan struct{} // somebody wants to board; holds one
	throttle throttle
}

// call asks for a sweep.
func (e *elevator) call() {
	select {
	case e.ring <- struct{}{}:
	default:
	}
}

// Patience of the elevator, per frame: one that is alone aboard is read for at its
// own speed, several wait for each other only a little.
const (
	patienceAlone    = time.Second
	patienceTogether = 10 * time.Millisecond // of 128 KiB; see forFrame
)

// restateEvery is how many frames pass before the place of everybody aboard is
// noted, so that those who match nothing do not hold the purge floor.
const restateEvery = 64

func (e *elevator) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.ring:
		}
		if err := e.sweep(ctx); err != nil && ctx.Err() == nil {
			e.b.log.Error("catch-up read failed", telemetry.Error, err)
			select { // the log may be purged or restarting: not at once again
			case <-ctx.Done():
			case <-time.After(time.Second):
				e.call()
			}
		}
	}
}

// board returns those who lag and have room, and the lowest place among them. One
// that is still aboard waits for the dispatcher to let it rejoin.
func (e *elevator) board() (aboard []*subscription, from engine.Position) {
	for _, s := range e.b.all() {
		s.mu.Lock()
		if s.mayBoard() && !s.deleted {
			s.aboard = true
			aboard = append(aboard, s)
			if from == 0 || s.lag < from {
				from = s.lag
			}
		}
		s.mu.Unlock()
	}
	return aboard, from
}

// sweep reads from the lowest place of those who lag up to the watermark, never
// beyond: what lies above it the dispatcher still has to hand out, and filters may
// change there. The dispatcher takes everybody who is still aboard from there.
func (e *elevator) sweep(ctx context.Context) (err error) {
	end := e.b.journal.watermark()
	aboard, from := e.board()
	if len(aboard) == 0 {
		return nil
	}
	byUID := make(map[uint64]*subscription, len(aboard))
	for _, s := range aboard {
		byUID[s.uid] = s
	}
	arrived := false
	defer func() {
		for _, s := range aboard {
			if arrived && byUID[s.uid] != nil {
				continue // until it rejoined
			}
			s.mu.Lock()
			s.aboard = false
			s.mu.Unlock()
		}
	}()
	m := newMatching(aboard, from.Seq())
	frames := 0
	next := from.Seq()
	for f, err := range e.b.frames(ctx, from.Seq()) {
		if errors.Is(err, engine.ErrCorrupt) {
			e.b.log.Error("frame of the log cannot be read", telemetry.Error, err)
			continue
		}
		if err != nil {
			return err
		}
		if f.Seq > end {
			break
		}
		e.b.journal.room(ctx)
		e.frame(ctx, m, f, byUID)
		next = f.Seq + 1
		if frames++; frames%restateEvery == 0 {
			e.note(byUID, next)
		}
		if len(byUID) == 0 {
			return nil
		}
		ready := time.Now()
		runtime.Gosched()
		if rest := e.throttle.rest(f.Size, e.b.dispatcher.handedOut.Load(), time.Since(ready)); rest > 0 {
			select {
			case <-time.After(rest):
			case <-ctx.Done():
				return nil
			}
		}
	}
	e.note(byUID, next)
	arrived = true
	for _, s := range byUID {
		e.b.queue.pushChange(func(uint64) {
			if err := e.b.dispatcher.rejoin(s); err != nil {
				e.call() // too far behind by now: another sweep
			}
		})
	}
	return nil
}

// frame hands one frame to those aboard. Those whose queue stays full get off.
func (e *elevator) frame(ctx context.Context, m *matching, f *engine.Frame, aboard map[uint64]*subscription) {
	patience := forFrame(patienceTogether, f.Size)
	if len(aboard) == 1 && len(e.ring) == 0 {
		patience = patienceAlone // and nobody waits to board
	}
	m.advance(f.Seq)
	for i := range f.Records {
		if f.Records[i].Kind != engine.KindEvent {
			continue
		}
		uids, err := m.match(&f.Records[i])
		if err != nil {
			continue // reported when it was dispatched
		}
		for _, uid := range uids {
			if s := aboard[uid]; s != nil && !s.takeRecord(ctx, f, i, &patience) {
				delete(aboard, uid) // off; the next sweep takes it on
			}
		}
		if len(uids) > 0 {
			e.b.window.keep(f) // its bodies are wanted in a moment
		}
	}
}

// frames reads the log in order from a sequence to its end: in bulk from the log, and
// from the window where it holds the next frame. A bulk read asks for megabytes
// ahead, so one that has begun goes on up to the newest frames: of older ones the window
// may hold every other.
func (b *Broker) frames(ctx context.Context, from uint64) iter.Seq2[*engine.Frame, error] {
	return func(yield func(*engine.Frame, error) bool) {
		for more := true; more; {
			for f := b.window.peek(from); f != nil; f = b.window.peek(from) {
				if ctx.Err() != nil || !yield(f, nil) {
					return
				}
				from++
			}
			more = false
			for f, err := range b.cfg.Log.Frames(ctx, from) {
				if !yield(f, err) {
					return
				}
				if err != nil {
					continue
				}
				more, from = true, f.Seq+1
				if b.window.isNew(from) {
					break
				}
			}
		}
	}
}

// note records that those aboard need nothing below next.
func (e *elevator) note(aboard map[uint64]*subscription, next uint64) {
	for uid, s := range aboard {
		s.mu.Lock()
		if s.deleted {
			delete(aboard, uid)
		} else if at := engine.At(next, 0); s.lag != 0 && s.lag < at {
			s.lag = at
			e.b.journal.lagged(s)
		}
		s.mu.Unlock()
	}
}

// takeRecord hands a matched record to a lagging event subscription and reports
// whether it stays aboard. It waits for a place while patience lasts.
func (s *subscription) takeRecord(ctx context.Context, f *engine.Frame, i int, patience *time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.deleted && !s.hasRoom() && s.waitForRoom(ctx, patience) {
	}
	return s.take(f, i)
}

// takeFrame hands the matching records of a frame to a lagging event subscription
// and reports whether it took all of them. The caller holds s.mu.
func (s *subscription) takeFrame(m *matching, f *engine.Frame) bool {
	m.advance(f.Seq)
	for i := range f.Records {
		if f.Records[i].Kind != engine.KindEvent {
			continue
		}
		if uids, err := m.match(&f.Records[i]); err == nil && len(uids) > 0 && !s.take(f, i) {
			return false
		}
	}
	return true
}

// take is takeRecord with s.mu held.
func (s *subscription) take(f *engine.Frame, i int) bool {
	pos := f.Position(i)
	if s.deleted || s.live() {
		return false
	}
	if pos < s.lag {
		return true // it boarded above
	}
	if s.wants(f, pos) {
		if !s.hasRoom() {
			s.lag = pos
			s.aboard = false
			s.b.journal.lagged(s)
			return false
		}
		s.b.journal.dirtied(s.add(f, pos))
		s.pump(time.Now())
	}
	s.lag = pos + 1
	s.b.journal.lagged(s)
	return true
}
