package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Fact is the newest state of one object.
type Fact struct {
	Key        string
	Position   Position  // of the record that holds the state
	Generation uint64    // of the owner that wrote it
	Time       time.Time // ingest time of its frame
	Data       []byte    // the state; must not be changed
}

// ETag is the object's entity tag: the sequencer of its last fact.
func (f Fact) ETag() string { return Sequencer(f.Generation, f.Position) }

const (
	factRoot      = projectionRoot + "f."
	graveRoot     = projectionRoot + "g."
	appliedMark   = projectionRoot + "applied"
	factVersion   = 1
	factHeader    = 25 // version 1, position 8, generation 8, time 8
	markHeader    = 17 // version 1, applied 8, safe 8; the boot follows
	projectBatch  = 1024
	backlogFacts  = 32 << 10
	backlogBytes  = 32 << 20
	markInterval  = 2 * time.Second
	settleSyncs   = 5 // sync intervals until what was written counts as safely on disk
	settleGrain   = time.Second
	projectionTry = 500 * time.Millisecond
)

// projection keeps the newest fact of each key in a stream of its own, written
// behind the log and without a sync per write. The log stays the truth: what is
// not written yet is served from memory, and what a crash takes is replayed.
//
// A mark with two positions is written behind the facts it speaks of. Applied:
// every fact up to there is written. Safe: that was five sync intervals ago (ten
// seconds), so the store's periodic sync has it on disk. The store writes in
// order, so a mark found after a crash of the process alone stands for all before
// it, and a start replays from applied, as after a graceful stop. After a crash of
// the operating system (the mark names its boot) a start replays from safe. The
// log is purged up to safe only.
//
// When the store loses its index it may bring back a value that was overwritten
// before its key was removed, for it logs removals but not overwrites. So each
// deleted object leaves a grave with the position of its deletion, and after an
// unclean stop whatever is older than its grave is removed again. A grave costs
// about 200 bytes of memory and stays.
type projection struct {
	facts *stream
	acks  *publisher
	log   *slog.Logger
	late  func(error)   // told when acks are overdue, and with nil when not
	rest  time.Duration // until what was written counts as safe
	boot  string        // this run of the operating system, "" for not known
	wake  chan struct{}

	writing  sync.Mutex    // held while a batch is written, and while the store is started anew
	restarts atomic.Uint64 // of the store: odd while one is under way, when reads may be stale

	mu      sync.Mutex
	holding bool            // the disk is full: nothing that is written counts as settled
	resumed chan struct{}   // closed at the end of the restart under way
	pending map[string]Fact // newest state of each key in queue
	queue   []Fact          // not yet written, in log order
	bytes   int             // of queue
	full    chan struct{}   // not nil while the backlog is full; closed when there is room
	seen    uint64          // last frame handed over
	young   []settling      // written, not yet safe, oldest first
	closed  bool

	written projected // last stored mark; only the writer's goroutine
	marked  time.Time
}

// settling is the first frame of those whose facts were written at a time.
type settling struct {
	seq uint64
	at  time.Time
}

// projected is what the mark holds.
type projected struct{ applied, safe uint64 }

func newProjection(n *node, facts *stream, o Options) (*projection, error) {
	acks, err := newPublisher(n, projectBatch)
	if err != nil {
		return nil, err
	}
	return &projection{
		facts: facts, acks: acks, log: o.Logger, late: n.lateness.of(projectionStream), rest: settleSyncs*o.SyncInterval + settleGrain, boot: bootID(),
		wake: make(chan struct{}, 1), pending: map[string]Fact{},
	}, nil
}

// add takes the facts of a stored frame. They can be read when it returns.
func (j *projection) add(f *Frame) {
	j.mu.Lock()
	before := len(j.queue)
	j.queue = appendFacts(j.queue, f)
	for _, fact := range j.queue[before:] {
		j.pending[fact.Key] = fact
		j.bytes += len(fact.Data)
	}
	j.seen = f.Seq
	if j.full == nil && (len(j.queue) > backlogFacts || j.bytes > backlogBytes) {
		j.full = make(chan struct{})
	}
	j.mu.Unlock()
	j.signal()
}

// appendFacts appends the facts of a frame.
func appendFacts(to []Fact, f *Frame) []Fact {
	for i := range f.Records {
		if r := &f.Records[i]; r.Kind == KindFact {
			to = append(to, Fact{Key: r.Key, Position: f.Position(i), Generation: f.Generation, Time: f.Time, Data: r.Data})
		}
	}
	return to
}

func (j *projection) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// room waits while the projection is far behind the log.
func (j *projection) room(ctx context.Context) error {
	j.mu.Lock()
	full := j.full
	j.mu.Unlock()
	if full == nil {
		return nil
	}
	select {
	case <-full:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// steady runs a read of the store, and again if the store was started anew
// meanwhile: until that is over it may lack what was written last.
func (j *projection) steady(ctx context.Context, read func() error) error {
	for {
		before := j.restarts.Load()
		if before%2 == 1 {
			j.mu.Lock()
			resumed := j.resumed
			j.mu.Unlock()
			if resumed != nil {
				select {
				case <-resumed:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			continue
		}
		err := read()
		if j.restarts.Load() == before {
			return err
		}
	}
}

// suspend keeps everybody from the store while it is started anew; what it returns
// lets them on again.
func (j *projection) suspend() (resume func()) {
	resumed := make(chan struct{})
	j.mu.Lock()
	j.resumed = resumed
	j.mu.Unlock()
	j.restarts.Add(1)
	j.writing.Lock()
	return func() {
		j.writing.Unlock()
		j.restarts.Add(1)
		close(resumed)
	}
}

// rewind writes again what is written but not safe: the store that was stopped may
// have had it in memory only. Its caller has suspended everybody else.
func (j *projection) rewind(ctx context.Context, p *Partition) error {
	j.mu.Lock()
	at := j.positions()
	if at.safe < at.applied {
		j.young = []settling{{at.safe + 1, time.Now()}}
	}
	j.mu.Unlock()
	var batch []Fact
	for f, err := range p.Frames(ctx, at.safe+1) {
		if errors.Is(err, ErrCorrupt) {
			j.log.Error("frame left out of the projection", "error", err)
			continue
		}
		if err != nil {
			return err
		}
		if f.Seq > at.applied {
			break
		}
		batch = appendFacts(batch, f)
		if len(batch) >= projectBatch {
			if err := j.write(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := j.write(ctx, batch); err != nil {
		return err
	}
	return j.buryAgain(ctx)
}

// hold says whether the disk is full. While it is, the store's periodic sync may
// fail, so the time until something counts as safe begins anew.
func (j *projection) hold(full bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.holding = full
}

// fact reads the newest state of a key.
func (j *projection) fact(ctx context.Context, key string) (f Fact, found bool, err error) {
	err = j.steady(ctx, func() error {
		f, found, err = j.present(ctx, key)
		return err
	})
	return f, found, err
}

func (j *projection) present(ctx context.Context, key string) (Fact, bool, error) {
	j.mu.Lock()
	f, ok := j.pending[key]
	j.mu.Unlock()
	if ok {
		return f, len(f.Data) > 0, nil
	}
	tokens, err := escapeKey(key)
	if err != nil {
		return Fact{}, false, err
	}
	f, err = j.stored(ctx, factRoot+tokens)
	if errors.Is(err, errAbsent) {
		return Fact{}, false, nil
	}
	if err != nil {
		return Fact{}, false, fmt.Errorf("read fact %s: %w", key, err)
	}
	f.Key = key
	return f, true, nil
}

// keys lists the keys of live objects below a prefix, sorted.
func (j *projection) keys(ctx context.Context, prefix string) (keys []string, err error) {
	err = j.steady(ctx, func() error {
		keys, err = j.presentKeys(ctx, prefix)
		return err
	})
	return keys, err
}

func (j *projection) presentKeys(ctx context.Context, prefix string) ([]string, error) {
	pending := map[string]bool{} // false: gone
	j.mu.Lock()
	for k, f := range j.pending {
		if strings.HasPrefix(k, prefix) {
			pending[k] = len(f.Data) > 0
		}
	}
	j.mu.Unlock()
	keys, err := j.facts.keys(ctx, factRoot, prefix)
	if err != nil {
		return nil, fmt.Errorf("list facts: %w", err)
	}
	keys = slices.DeleteFunc(keys, func(k string) bool { _, ok := pending[k]; return ok })
	for k, live := range pending {
		if live {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// keys lists the keys stored below root, sorted.
func (s *stream) keys(ctx context.Context, root, prefix string) ([]string, error) {
	subjects, err := s.subjects(ctx, prefixFilter(root, prefix))
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(subjects))
	for subject := range subjects {
		key, err := unescapeKey(strings.TrimPrefix(subject, root))
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// after lists facts in the order in which they were written.
func (j *projection) after(ctx context.Context, prefix string, since time.Time, after string, most int) (facts []Fact, more bool, err error) {
	behind := func(f Fact) bool { return !f.Time.Before(since) && f.ETag() > after }
	err = j.steady(ctx, func() error {
		facts, err = j.presentAfter(ctx, prefix, behind, most+1)
		return err
	})
	if more = len(facts) > most; more {
		facts = facts[:most]
	}
	return facts, more, err
}

// presentAfter returns the facts for which behind holds: those from one place of the log on.
// The store keeps them in that order, for they are written behind the log, so the place is
// found by halving.
func (j *projection) presentAfter(ctx context.Context, prefix string, behind func(Fact) bool, most int) (facts []Fact, err error) {
	var pending []Fact // before the store is read: what leaves the queue meanwhile is in the store
	j.mu.Lock()
	for _, f := range j.pending {
		if len(f.Data) > 0 && keyMatches(prefix, f.Key) && behind(f) {
			pending = append(pending, f)
		}
	}
	j.mu.Unlock()
	slices.SortFunc(pending, func(a, b Fact) int { return strings.Compare(a.ETag(), b.ETag()) })

	filter := factRoot + patternFilter(prefix)
	state, err := j.facts.state(ctx)
	if err != nil {
		return nil, fmt.Errorf("list facts: %w", err)
	}
	from, beyond := max(state.first, 1), state.last+1
	for from < beyond {
		middle := from + (beyond-from)/2
		m, err := j.facts.nextOf(ctx, filter, middle)
		if errors.Is(err, errAbsent) {
			beyond = middle
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list facts: %w", err)
		}
		f, err := decodeFact(m.data)
		if err != nil {
			return nil, fmt.Errorf("list facts: %w", err)
		}
		if behind(f) {
			beyond = middle
		} else {
			from = m.seq + 1
		}
	}
	last := ""
	for m, err := range j.facts.messagesIn(ctx, filter, from, state.last, uint64(most)) {
		var f Fact
		if err == nil {
			f, err = decodeFact(m.data)
		}
		if err == nil {
			f.Key, err = unescapeKey(strings.TrimPrefix(m.subject, factRoot))
		}
		if err != nil {
			return nil, fmt.Errorf("list facts: %w", err)
		}
		if !behind(f) { // the store writes again after it was started anew
			continue
		}
		facts, last = append(facts, f), f.ETag()
		if len(facts) == most {
			return facts, nil
		}
	}
	for _, f := range pending {
		if f.ETag() > last && len(facts) < most {
			facts = append(facts, f)
		}
	}
	return facts, nil
}

// keyMatches reports whether a key begins with prefix, of which a segment may be "*".
func keyMatches(prefix, key string) bool {
	for segment := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
		own, rest, more := strings.Cut(key, "/")
		if segment != "*" && segment != own || !more {
			return false
		}
		key = rest
	}
	return true
}

// safe is the last frame such that every fact up to it is safely projected.
func (j *projection) safe() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.positions().safe
}

// positions needs j.mu.
func (j *projection) positions() projected {
	p := projected{applied: j.seen, safe: j.seen}
	if len(j.queue) > 0 {
		p.applied = j.queue[0].Position.Seq() - 1
		p.safe = p.applied
	}
	now := time.Now()
	if j.holding && len(j.young) > 0 {
		j.young = append(j.young[:0], settling{j.young[0].seq, now})
	}
	for len(j.young) > 0 && now.Sub(j.young[0].at) > j.rest {
		j.young = j.young[1:]
	}
	if len(j.young) > 0 {
		p.safe = min(p.safe, j.young[0].seq-1)
	}
	return p
}

// run writes facts and marks until close, then what is left, and returns. When
// ctx ends it gives up on the store.
func (j *projection) run(ctx context.Context) {
	for {
		j.drain(ctx)
		j.mu.Lock()
		at, closed := j.positions(), j.closed
		j.mu.Unlock()
		if closed || ctx.Err() != nil {
			j.mark(ctx, at)
			return
		}
		if at == j.written && at.safe == at.applied {
			select {
			case <-j.wake:
			case <-ctx.Done():
			}
			continue
		}
		rest := markInterval - time.Since(j.marked)
		if rest <= 0 {
			j.mark(ctx, at)
			continue
		}
		due := time.NewTimer(rest)
		select {
		case <-j.wake:
		case <-due.C:
		case <-ctx.Done():
		}
		due.Stop()
	}
}

// drain writes everything that waits.
func (j *projection) drain(ctx context.Context) {
	warned := false
	for ctx.Err() == nil {
		more, err := j.drainBatch(ctx)
		if err == nil && !more {
			return
		}
		if err != nil {
			if !warned && ctx.Err() == nil {
				j.log.Error("projection cannot be written; it is tried again", "error", err)
				warned = true
			}
			select {
			case <-time.After(projectionTry):
			case <-ctx.Done():
			}
		}
	}
}

// drainBatch writes one batch of what waits, and reports whether there was any.
func (j *projection) drainBatch(ctx context.Context) (any bool, err error) {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	batch := j.queue[:min(len(j.queue), projectBatch)]
	j.mu.Unlock()
	if len(batch) == 0 {
		return false, nil
	}
	err = j.write(ctx, batch)
	if err == nil {
		j.done(batch)
	}
	if errors.Is(err, errNoAck) || errors.Is(err, nats.ErrNoResponders) {
		j.late(err)
	} else {
		j.late(nil)
	}
	return true, err
}

// done takes written facts off the queue.
func (j *projection) done(batch []Fact) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	if n := len(j.young); n == 0 || now.Sub(j.young[n-1].at) > settleGrain {
		j.young = append(j.young, settling{batch[0].Position.Seq(), now})
	}
	for i := range batch {
		if j.pending[batch[i].Key].Position == batch[i].Position {
			delete(j.pending, batch[i].Key)
		}
		j.bytes -= len(batch[i].Data)
	}
	rest := j.queue[len(batch):]
	clear(batch)
	j.queue = rest
	if len(rest) == 0 {
		j.queue = nil
	}
	if j.full != nil && len(j.queue) < backlogFacts/2 && j.bytes < backlogBytes/2 {
		close(j.full)
		j.full = nil
	}
}

// write stores the newest state of each key of a batch; repeating it is harmless.
func (j *projection) write(ctx context.Context, batch []Fact) error {
	newest := make(map[string]int, len(batch))
	for i := range batch {
		newest[batch[i].Key] = i
	}
	from, sent := j.acks.token+1, 0
	var gone []string
	for i := range batch {
		if newest[batch[i].Key] != i {
			continue
		}
		tokens, err := escapeKey(batch[i].Key)
		if err != nil {
			j.log.Error("fact with a key that cannot be stored is left out", "position", batch[i].Position, "error", err)
			continue
		}
		if len(batch[i].Data) == 0 {
			gone = append(gone, factRoot+tokens)
			err = j.acks.send(j.acks.next(), graveRoot+tokens, nil, encodeFact(batch[i]))
		} else {
			err = j.acks.send(j.acks.next(), factRoot+tokens, nil, encodeFact(batch[i]))
		}
		if err != nil {
			return err
		}
		sent++
	}
	limit := time.NewTimer(ackLimit)
	defer limit.Stop()
	for range sent {
		_, a, err := j.acks.wait(ctx, from, limit)
		if err != nil {
			return err
		}
		if a.Error != nil {
			return a.Error
		}
	}
	for _, subject := range gone {
		if err := j.facts.remove(ctx, subject); err != nil {
			return err
		}
	}
	return nil
}

// mark stores the positions behind the facts they speak of.
func (j *projection) mark(ctx context.Context, at projected) {
	j.marked = time.Now()
	if at == j.written {
		return
	}
	b := []byte{factVersion}
	b = binary.BigEndian.AppendUint64(b, at.applied)
	b = binary.BigEndian.AppendUint64(b, at.safe)
	b = append(b, j.boot...)
	if _, err := j.facts.store(ctx, appliedMark, b); err != nil {
		j.log.Warn("position of the projection cannot be written; a start replays more", "error", err)
		return
	}
	j.written = at
}

// replay brings the projection up to the end of the log and returns how many
// facts it took. Nothing else uses the projection yet.
func (j *projection) replay(ctx context.Context, p *Partition, clean bool) (facts int, err error) {
	m, err := j.facts.newest(ctx, appliedMark)
	switch {
	case errors.Is(err, errAbsent):
	case err != nil:
		return 0, fmt.Errorf("read position of the projection: %w", err)
	case len(m.data) < markHeader || m.data[0] != factVersion:
		return 0, fmt.Errorf("position of the projection: %w: %d bytes", ErrCorrupt, len(m.data))
	default:
		j.written = projected{binary.BigEndian.Uint64(m.data[1:]), binary.BigEndian.Uint64(m.data[9:])}
	}
	_, last := p.Bounds()
	if j.written.applied > last {
		j.log.Error("the log ends before the projection: the log lost its newest frames", "last_frame", last, "projected", j.written.applied)
	}
	from := j.written.safe
	if clean || j.boot != "" && len(m.data) > markHeader && string(m.data[markHeader:]) == j.boot {
		from = j.written.applied
	}
	j.seen = min(from, last)
	for f, err := range p.Frames(ctx, from+1) {
		if errors.Is(err, ErrCorrupt) {
			j.log.Error("frame left out of the projection", "error", err)
			continue
		}
		if err != nil {
			return facts, err
		}
		before := len(j.queue)
		j.add(f)
		facts += len(j.queue) - before
		if len(j.queue) >= projectBatch {
			j.drain(ctx)
		}
	}
	j.drain(ctx)
	j.seen = last
	if ctx.Err() != nil {
		return facts, context.Cause(ctx)
	}
	if clean {
		return facts, nil
	}
	return facts, j.buryAgain(ctx)
}

// buryAgain removes what came back though it was deleted.
func (j *projection) buryAgain(ctx context.Context) error {
	graves, err := j.facts.subjects(ctx, graveRoot+">")
	if err != nil {
		return fmt.Errorf("read deleted objects: %w", err)
	}
	for subject := range graves {
		tokens := strings.TrimPrefix(subject, graveRoot)
		alive, err := j.stored(ctx, factRoot+tokens)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return err
		}
		grave, err := j.stored(ctx, subject)
		if err != nil {
			return err
		}
		if alive.Position < grave.Position {
			if err := j.facts.remove(ctx, factRoot+tokens); err != nil {
				return err
			}
		}
	}
	return nil
}

// stored reads a fact as it is in the store.
func (j *projection) stored(ctx context.Context, subject string) (Fact, error) {
	m, err := j.facts.newest(ctx, subject)
	if err != nil {
		return Fact{}, err
	}
	return decodeFact(m.data)
}

// close makes run end when everything is written.
func (j *projection) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.signal()
}

func encodeFact(f Fact) []byte {
	b := make([]byte, 0, factHeader+len(f.Data))
	b = append(b, factVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(f.Position))
	b = binary.BigEndian.AppendUint64(b, f.Generation)
	b = binary.BigEndian.AppendUint64(b, uint64(f.Time.UnixNano()))
	return append(b, f.Data...)
}

// decodeFact reads a stored fact; its key is in its subject.
func decodeFact(b []byte) (Fact, error) {
	if len(b) < factHeader || b[0] != factVersion {
		return Fact{}, fmt.Errorf("stored fact of %d bytes: %w", len(b), ErrCorrupt)
	}
	return Fact{
		Position:   Position(binary.BigEndian.Uint64(b[1:])),
		Generation: binary.BigEndian.Uint64(b[9:]),
		Time:       time.Unix(0, int64(binary.BigEndian.Uint64(b[17:]))).UTC(),
		Data:       b[factHeader:],
	}, nil
}
