package broker

import (
	"container/heap"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Deliver and settle where no destination is asked, but receivers ask: each event that
// is received is an attempt under way, and the answer is the receiver's. There are no
// workers for such an event subscription, no breaker, no schedule and no limit. What
// receivers hold is bounded by what an event subscription may have open: at the bound
// the queue is empty, and a call of Receive waits like any other.
//
// A lock lives in memory alone. An attempt without a stored outcome is not counted, so
// what was received and not answered when the process ends is there again after the
// start, and its lock token is unknown then.

const (
	maxReceivers = 4096             // calls of Receive that wait at a time, on the whole node; each has a connection
	receiverPart = 4                // the part of what is left of them that one event subscription may have
	maxReceived  = 1 << 20          // bytes of events that a call aims at
	answerPart   = 4                // the part of what is left of Config.Window that answers of one event subscription may have
	lateReceipt  = 10 * time.Minute // for which an event can be received whose time was over before anybody could
)

// What is wrong with a lock token.
var (
	ErrBadToken  = errors.New("the lock token is not formatted as those of this server are")
	ErrTokenLost = errors.New("no event is locked by this token: its lock expired, it was answered already, or it is of another event subscription")
)

// lockToken is known to nobody but the receiver that holds the event.
type lockToken [16]byte

func (t lockToken) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

func parseLockToken(text string) (t lockToken, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != len(t) || len(text) != base64.RawURLEncoding.EncodedLen(len(t)) { // it passes over ends of lines
		return t, ErrBadToken
	}
	return lockToken(raw), nil
}

// lock is an event in the hands of a receiver.
type lock struct {
	token   lockToken
	d       *delivery
	count   int // attempts, this one included
	started time.Time
	until   time.Time
	index   int // place in locks.next
}

// locks are those of one event subscription. Its lock guards them.
type locks struct {
	byToken map[lockToken]*lock
	next    lockHeap // the one that expires first is the first
}

func (k *locks) add(l *lock) {
	if k.byToken == nil {
		k.byToken = map[lockToken]*lock{}
	}
	k.byToken[l.token] = l
	heap.Push(&k.next, l)
}

func (k *locks) remove(l *lock) {
	delete(k.byToken, l.token)
	heap.Remove(&k.next, l.index)
	if len(k.next) == 0 {
		*k = locks{} // an idle event subscription keeps no memory
	}
}

// Received is an event in the hands of whoever received it.
type Received struct {
	LockToken     string
	DeliveryCount int    // of this event, this delivery included
	Event         []byte // a CloudEvent
	DataVersion   string // of an event of another schema, where the CloudEvent leaves it out
}

// Reception is what a call of Receive gave.
type Reception struct {
	Events []Received
	s      *subscription
	locks  []*lock
	size   int // bytes that it counts in answers that are being written
}

// Receive takes at most so many events of an event subscription off its queue. Each is
// the receiver's until it is answered (AnswerReceived) or its lock expires. Where there
// is none Receive waits for the first, and returns nothing when the time is over or the
// broker stops. When ctx ends it has taken nothing. The caller says when it is done with
// what it got (Done, Return).
func (b *Broker) Receive(ctx context.Context, uid resource.UID, most int, wait time.Duration) (*Reception, error) {
	s := b.lookup(uint64(uid))
	if s == nil {
		return nil, notReceivable()
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for seated := false; ; {
		b.journal.room(ctx)
		r, turn, err := s.takeLocked(most, time.Now())
		if err != nil || r == nil && turn == nil {
			return &Reception{}, err
		}
		if r != nil {
			if err := r.load(ctx); err != nil {
				return nil, err
			}
			if len(r.Events) > 0 {
				b.metrics.received.Add(float64(len(r.Events)))
				return r, nil
			}
			r.Done()
			continue
		}
		if !seated {
			if err := s.seat(); err != nil {
				s.leave(turn)
				return nil, err
			}
			seated = true
			defer s.unseat()
		}
		select {
		case <-turn:
			continue
		case <-over.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		s.leave(turn)
		return &Reception{}, err
	}
}

// seat counts one more call that waits: as with what is open, the fuller the node, the
// fewer an event subscription may have. Each may always have one.
func (s *subscription) seat() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if share := max(1, (maxReceivers-int(s.b.receivers.Load()))/receiverPart); s.seated >= share {
		return fault.New(fault.TooMany, "TooManyReceivers", "%d requests wait for events of this event subscription already, as many as the server has places for. Try again in a moment.", s.seated).After(5 * time.Second)
	}
	s.seated++
	s.b.receivers.Add(1)
	return nil
}

func (s *subscription) unseat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seated--
	s.b.receivers.Add(-1)
}

func notReceivable() error {
	return fault.New(fault.NotFound, "ResourceNotFound", "The event subscription is not there any more, or is none that events are received from: its destination has to be of type Pull.")
}

// takeLocked takes events off the queue and locks them. Where there are none, it
// returns a turn, which is closed when it is worth to ask again; neither when the
// broker stops.
func (s *subscription) takeLocked(most int, now time.Time) (r *Reception, turn chan struct{}, err error) {
	random := make([]byte, most*len(lockToken{}))
	_, _ = rand.Read(random) // it never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := s.cfg.Load()
	switch {
	case s.deleted || !cfg.pull:
		return nil, nil, notReceivable()
	case s.draining:
		return nil, nil, nil
	}
	r = &Reception{s: s}
	room := s.answerRoom()
	for !s.paused && s.queue.len() > 0 && len(r.locks) < most {
		d := s.queue.at(0)
		if d.state != ready { // settled while it waited
			s.queue.pop()
			continue
		}
		if s.spent(d, cfg, now, false) {
			s.queue.pop()
			s.bury(d, ReasonTimeToLive)
			continue
		}
		size := r.size + max(int(d.size), leastSize)
		if size > maxReceived && len(r.locks) > 0 || size > room && len(r.locks)+s.answering > 0 {
			break
		}
		r.size = size
		s.queue.pop()
		d.state = inFlight
		l := &lock{d: d, count: int(d.attempts) + 1, started: now, until: now.Add(cfg.lock)}
		random = random[copy(l.token[:], random):]
		s.locks.add(l)
		r.locks = append(r.locks, l)
	}
	if len(r.locks) == 0 {
		turn = make(chan struct{})
		s.waiters = append(s.waiters, turn)
		return nil, turn, nil
	}
	s.answering += r.size
	s.b.answering.Add(int64(r.size))
	s.signalRoom()
	s.arm(now)
	return r, nil, nil
}

// answerRoom is how many bytes of events may be taken beside those whose answers are being
// written, some to receivers that do not read. Answers together aim at what frames in
// memory may have; the fuller they are, the less an event subscription may begin, and while
// it has none it may always begin one. The caller holds s.mu.
func (s *subscription) answerRoom() int {
	left := s.b.cfg.Window - int(s.b.answering.Load())
	return max(maxReceived, left/answerPart) - s.answering
}

// Done says that the answer is written, or never will be: its memory is free.
func (r *Reception) Done() { r.takes(0) }

// takes says how many bytes of answers being written are of this one.
func (r *Reception) takes(size int) {
	if r.size == size {
		return
	}
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answering += size - r.size
	s.b.answering.Add(int64(size - r.size))
	if r.size = size; size == 0 {
		s.pump(time.Now())
	}
}

// load reads the events of what is locked. Those that do not fit go back, and so does
// everything when ctx ends.
func (r *Reception) load(ctx context.Context) error {
	cfg := r.s.cfg.Load()
	body := make([]byte, 0, r.size+r.size/4+1024) // most events grow a little
	var ends []int
	var versions []string
	for i := 0; i < len(r.locks); i++ {
		l := r.locks[i]
		if len(ends) > 0 && len(body) >= maxReceived {
			r.s.unlock(r.locks[i:])
			r.locks = r.locks[:i]
			break
		}
		var e event.Event
		sequencer, err := r.s.b.load(ctx, l.d, &e)
		switch {
		case err == nil:
			body = cfg.appendEvent(body, &e, sequencer)
			ends = append(ends, len(body))
			version := ""
			if cfg.rules.OmitDataSchema && e.Schema != event.CloudEventSchemaV1_0 {
				version = string(e.DataVersion)
			}
			versions = append(versions, version)
		case ctx.Err() != nil:
			r.Return()
			return context.Cause(ctx)
		default:
			answer := r.s.unreadable(cfg, err)
			r.s.answerLock(l, answer)
			r.locks = slices.Delete(r.locks, i, i+1)
			i--
		}
	}
	if ctx.Err() != nil {
		r.Return()
		return context.Cause(ctx)
	}
	r.takes(len(body)) // the size of some was not known
	from := 0
	for i, l := range r.locks {
		r.Events = append(r.Events, Received{LockToken: l.token.String(), DeliveryCount: l.count, Event: body[from:ends[i]:ends[i]], DataVersion: versions[i]})
		from = ends[i]
	}
	return nil
}

// Return takes back what the receiver never got: it is there for others at once, and not
// counted as attempted.
func (r *Reception) Return() {
	if r.s != nil {
		r.s.unlock(r.locks)
	}
	r.Done()
	r.Events, r.locks = nil, nil
}

// unlock puts events back where they were taken from, as if nobody had asked.
func (s *subscription) unlock(taken []*lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range slices.Backward(taken) {
		if s.locks.byToken[l.token] != l {
			continue // its lock expired, or all is deleted
		}
		s.locks.remove(l)
		l.d.state = ready
		if s.queue.len() == 0 || l.d.published < s.oldest {
			s.oldest = l.d.published
		}
		s.queue.unpop(l.d)
	}
	s.pump(time.Now())
}

// answerLock is answer for the lock of an event that could not be handed over.
func (s *subscription) answerLock(l *lock, r Response) {
	if r.Outcome == Canceled {
		s.unlock([]*lock{l})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks.byToken[l.token] == l {
		now := time.Now()
		s.answer(l, r, now)
		s.arm(now)
	}
}

// Answer is what a receiver says of an event that it holds.
type Answer uint8

// The answers.
const (
	Acknowledge Answer = iota // it is delivered
	Release                   // it is to be received again, after a delay
	Reject                    // it is given up: a dead letter
	Renew                     // its lock begins anew
)

// AnswerReceived takes the answer of a receiver for events that it holds, by their lock
// tokens, and returns what is wrong with each, nil for nothing: ErrBadToken or
// ErrTokenLost. It returns once the outcomes are stored: from then on what was
// acknowledged is never delivered again. The error says that they may not be.
func (b *Broker) AnswerReceived(ctx context.Context, uid resource.UID, a Answer, delay time.Duration, tokens []string) (problems []error, err error) {
	s := b.lookup(uint64(uid))
	if s == nil {
		return nil, notReceivable()
	}
	problems = s.answerAll(a, delay, tokens, time.Now())
	if a == Renew || !slices.Contains(problems, nil) {
		return problems, nil
	}
	return problems, b.journal.sync(ctx)
}

func (s *subscription) answerAll(a Answer, delay time.Duration, tokens []string, now time.Time) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocks(now) // those for which the timer has not run yet
	cfg := s.cfg.Load()
	problems := make([]error, len(tokens))
	for i, text := range tokens {
		token, err := parseLockToken(text)
		l := s.locks.byToken[token]
		switch {
		case err != nil:
			problems[i] = err
			continue
		case l == nil:
			problems[i] = ErrTokenLost
			continue
		}
		switch a {
		case Acknowledge:
			s.answer(l, Response{Outcome: Delivered}, now)
		case Release:
			s.answer(l, Response{Outcome: Released, RetryAfter: delay, Detail: fmt.Sprintf("for %d s", int(delay.Seconds()))}, now)
		case Reject:
			s.answer(l, Response{Outcome: Rejected}, now)
		case Renew:
			l.until = now.Add(cfg.lock)
			heap.Fix(&s.locks.next, l.index)
		}
	}
	s.signalRoom()
	s.pump(now)
	s.arm(now)
	return problems
}

// answer settles the attempt of a lock. The caller holds s.mu.
func (s *subscription) answer(l *lock, r Response, now time.Time) {
	s.locks.remove(l)
	s.attempted(l.d, l.started, now, r)
	s.apply(l.d, s.cfg.Load(), r, now, 0)
}

// expireLocks takes events back from receivers that did not answer. The caller holds
// s.mu.
func (s *subscription) expireLocks(now time.Time) {
	expired := 0
	for len(s.locks.next) > 0 && !now.Before(s.locks.next[0].until) {
		l := s.locks.next[0]
		s.answer(l, Response{Outcome: LockExpired, Detail: fmt.Sprintf("no answer within %d s", int(l.until.Sub(l.started).Seconds()))}, now)
		expired++
	}
	if expired > 0 {
		s.b.log.Info("receivers did not answer in time", telemetry.EventSubscription, s.cfg.Load().id, telemetry.Events, expired)
		s.pump(now)
	}
}

// callReceivers calls as many of those who wait as there are events. The caller holds
// s.mu.
func (s *subscription) callReceivers() {
	n := min(s.queue.len(), len(s.waiters))
	for _, turn := range s.waiters[:n] {
		close(turn)
	}
	if s.waiters = s.waiters[n:]; len(s.waiters) == 0 {
		s.waiters = nil
	}
}

// callEveryReceiver calls all who wait, though there may be nothing for them. The caller
// holds s.mu.
func (s *subscription) callEveryReceiver() {
	for _, turn := range s.waiters {
		close(turn)
	}
	s.waiters = nil
}

// leave gives a turn up. If it was called meanwhile, another one's turn it is.
func (s *subscription) leave(turn chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiters, turn); i >= 0 {
		s.waiters = slices.Delete(s.waiters, i, i+1)
		return
	}
	s.pump(time.Now())
}

// lockHeap orders locks by their end; container/heap keeps it.
type lockHeap []*lock

func (h lockHeap) Len() int { return len(h) }

// Less puts what ends together in the order of the log.
func (h lockHeap) Less(i, j int) bool {
	if c := h[i].until.Compare(h[j].until); c != 0 {
		return c < 0
	}
	return h[i].d.pos < h[j].d.pos
}

func (h lockHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push takes the lock that heap.Push hands over.
func (h *lockHeap) Push(x any) {
	l := x.(*lock)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop gives the last one back to heap.Pop and heap.Remove.
func (h *lockHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}
