package broker

import (
	"container/heap"
	"context"
	"iter"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// Bounds of one event subscription and of the node, variables for tests that need to
// meet them.
var (
	maxReady    = 4096      // deliveries that wait for a worker
	maxOpen     = 10_000    // deliveries that are not settled
	maxOpenNode = 1_000_000 // those of all event subscriptions
)

const (
	fewOpen     = 64 // deliveries that are not settled and that each may have, however full the node is
	maxHeld     = 64 // attempts that timed out and whose answer may still come
	maxBatchers = 4  // attempts at a time while batches are not full
)

// Answer times. Source: spec/delivery.md section 3.2.
const (
	answerTime = 30 * time.Second
	holdTime   = 3 * time.Minute
)

type deliveryState uint8

const (
	ready    deliveryState = iota // waits for a worker
	delayed                       // waits for its due time
	inFlight                      // an attempt is under way
	burying                       // waits for its dead letter to be stored
	closed                        // settled for good
)

// delivery is one event for one event subscription. Its fields are guarded by the
// lock of its event subscription.
type delivery struct {
	sub       *subscription
	pos       engine.Position
	published int64  // Unix nanoseconds, ingest time
	due       int64  // Unix nanoseconds, while delayed
	parked    uint64 // copy in the park that has its event, 0 = the log has it
	last      int64  // Unix nanoseconds, end of the last attempt; 0 = none
	heapIndex int32  // place in sub.delayed
	size      uint32 // bytes of the stored event, 0 = not known
	attempts  uint16
	status    uint16 // of the last attempt
	aborts    uint8
	outcome   Outcome // of the last attempt
	state     deliveryState
	reason    reasonCode // why it is given up, while burying
	alone     bool       // never again in a batch: one with it was refused as bad, or aborted
	replay    bool       // a new delivery of what was settled before; its body is in the dead letters
	logged    bool       // of a replay: its body is in the log
	stated    bool       // the journal has it as open
	dirty     bool       // in the journal's list for the next flush
	tried     bool       // attempted since this process started
}

// config is what an event subscription's record says about delivery, replaced as
// a whole when the record changes.
type config struct {
	id         string // full resource id
	name       string
	topicID    string
	schema     event.Schema
	policy     Policy
	rules      Rules
	expiration time.Time                       // zero = never
	form       resource.Form                   // of what is handed over
	maxBatch   int                             // events per attempt, 1 = no batching
	batchBytes int                             // size that a batch aims at
	sequenced  bool                            // its events carry data.sequencer
	deadLetter *resource.DeadLetterDestination // nil = the local store alone
	sender     Sender
	attributes []dynamicAttribute // delivery attributes whose value the event has

	pull bool          // receivers ask for its events: see receive.go
	lock time.Duration // for how long an event is then its receiver's

	concurrency int       // attempts at a time that it may have, 0 = it says nothing of it
	perMinute   int       // requests in any minute, 0 = no limit
	limit       limitKind // whose limit that is
}

// generation is a filter and the first log sequence it applies to.
type generation struct {
	number  uint64
	from    uint64
	matcher *filter.Matcher
	raw     []byte // the filter's JSON, as the journal states it
}

// counters are an event subscription's own figures: read by API and metrics,
// written on the hot path.
type counters struct {
	matched, delivered, failed, deadLettered, dropped, limitWaits atomic.Uint64
	limitWaited                                                   atomic.Int64 // nanoseconds
}

// subscription is the delivery state of one event subscription.
type subscription struct {
	uid    uint64
	stream resource.Stream
	b      *Broker
	cfg    atomic.Pointer[config]
	counters

	ctx    context.Context // ends with the event subscription or the broker's attempts
	cancel context.CancelFunc

	mu       sync.Mutex
	queue    fifo[*delivery] // ready
	oldest   int64           // nothing in the queue was published earlier, Unix nanoseconds
	delayed  delayHeap       // by due time
	order    []*delivery     // not settled, by position, but see floors; settled ones are dropped lazily, from the other lists too
	parked   []*delivery     // not settled, by position: older than order, they do not hold the log
	replays  []*delivery     // not settled, of dead letters or from the log
	openN    int             // not settled
	flying   []*attempt      // attempts in flight, oldest first
	workers  int             // goroutines that attempt
	starting int             // workers that have not yet taken their first delivery
	limit    int             // of workers; grows while attempts succeed
	held     int             // attempts past the answer time whose answer may still come
	breaker  breaker         // of the destination
	limiter  limiter         // of its requests
	wait     limitWait       // for the limiter
	settled  time.Time       // when something was last settled
	room     chan struct{}   // signalled when a place in the queue is free and the dispatcher waits
	waiting  bool            // the dispatcher waits for room
	timer    *time.Timer     // wakes for due times, probation, expiry and answer times
	wakeAt   int64           // Unix nanoseconds the timer is set to, 0 = not set
	deleted  bool
	draining bool // no new attempts: the broker stops
	paused   bool // no new attempts, by the event subscription's record; see setPaused

	known       []engine.Position // recovered deliveries, open or settled, that matching will meet again, sorted
	removing    []engine.Position // dead letters that are just being removed: nobody replays them
	lag         engine.Position   // first position not handed out; 0 = live
	rejoined    uint64            // log sequence at which it last became live
	aboard      bool              // the elevator reads for it
	patienceEnd time.Time         // no patience before
	penalty     time.Duration     // how long patience is withheld next time

	limitedSince time.Time // what expires later may do so without an attempt; see spent

	generations atomic.Pointer[[]generation] // by from; an immutable snapshot
	statedAt    uint64                       // journal message of the last whole statement
	failures    failureLog

	locks   locks           // events that receivers hold
	waiters []chan struct{} // receivers that wait, the longest first; each is closed when it is called
	seated  int             // calls of Receive that found nothing at first

	answering int // bytes of events in answers to receivers that are being written

	deadLetterWarned, dropWarned, goneWarned warned
	lastWarning                              *Warning
}

func newSubscription(b *Broker, uid uint64, stream resource.Stream) *subscription {
	s := &subscription{uid: uid, stream: stream, b: b, limit: 1, room: make(chan struct{}, 1), limitedSince: time.Now()}
	s.ctx, s.cancel = context.WithCancel(b.attempts)
	return s
}

// live reports whether new events of the live log are handed to it.
func (s *subscription) live() bool { return s.lag == 0 }

// roomAtOnce is how many places a full queue must have, or half of what it may hold, before
// those who wait for one are told: each is worth more than a switch of goroutines.
const roomAtOnce = 128

// share is how many deliveries s may have open: its bound, or a part of what the node
// has left. The fuller the node, the smaller the part, so that however many handlers
// are dead, together they leave places for those that are not.
func (s *subscription) share() int {
	return min(maxOpen, max(fewOpen, (maxOpenNode-int(s.b.open.Load()))/openPart))
}

// releasedBeside is how many times its share an event subscription may have released for
// later, beside its share.
const releasedBeside = 4

// occupied is how much of its share s has taken. What receivers released and is not due yet
// does not count: it is a position, and those who ask meanwhile find what is new. The caller
// holds s.mu.
func (s *subscription) occupied() int {
	if !s.cfg.Load().pull {
		return s.openN
	}
	return s.openN - min(len(s.delayed), releasedBeside*s.share())
}

// hasRoom reports whether one more delivery may be handed out. The caller holds s.mu.
func (s *subscription) hasRoom() bool {
	return s.queue.len() < maxReady && s.occupied() < s.share() && !s.paused
}

// mayBoard reports whether s lags and has so much room that the log is worth reading
// for it. The caller holds s.mu.
func (s *subscription) mayBoard() bool {
	return s.lag != 0 && !s.aboard && !s.paused && s.queue.len() <= maxReady/2 && s.occupied() <= s.share()/2
}

// add takes a new delivery of an event of the log and puts it in the queue. The
// journal has to be told by the caller. The caller holds s.mu.
func (s *subscription) add(f *engine.Frame, pos engine.Position) *delivery {
	d := &delivery{sub: s, pos: pos, published: f.Time.UnixNano(), size: uint32(len(f.Records[pos.Index()].Data))}
	s.openN++
	s.b.open.Add(1)
	s.order = append(s.order, d)
	s.line(d)
	s.matched.Add(1)
	return d
}

// line puts d in the queue. The caller holds s.mu.
func (s *subscription) line(d *delivery) {
	d.state = ready
	if s.queue.len() == 0 || d.published < s.oldest {
		s.oldest = d.published
	}
	s.queue.push(d)
}

// sweep gives up what waits in the queue though its time is over, wherever in it it is.
// It looks only when the oldest may be. The caller holds s.mu.
func (s *subscription) sweep(cfg *config, now time.Time) {
	if s.queue.len() == 0 || s.b.clock.steady(now) < s.expiry(s.oldest, cfg) {
		return
	}
	resting := s.breaker.open()
	s.oldest = math.MaxInt64
	for range s.queue.len() {
		d := s.queue.pop()
		switch {
		case d.state != ready: // settled while it waited
		case s.spent(d, cfg, now, resting):
			s.bury(d, ReasonTimeToLive)
		default:
			s.oldest = min(s.oldest, d.published)
			s.queue.push(d)
		}
	}
}

// knows reports whether the journal already told of a delivery at pos when the
// process started; it forgets positions below. The caller holds s.mu.
func (s *subscription) knows(pos engine.Position) bool {
	for len(s.known) > 0 && s.known[0] < pos {
		s.known = s.known[1:]
	}
	return len(s.known) > 0 && s.known[0] == pos
}

// settledFrom returns what is settled of what matching will meet again from a position
// on. The caller holds s.mu.
func (s *subscription) settledFrom(from engine.Position) []engine.Position {
	first, _ := slices.BinarySearch(s.known, from)
	if first == len(s.known) {
		return nil
	}
	open := make(map[engine.Position]bool, s.openN)
	for d := range s.unsettled() {
		if !d.replay {
			open[d.pos] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(s.known[first:]), func(pos engine.Position) bool { return open[pos] })
}

// close settles d for good. The caller holds s.mu.
func (s *subscription) close(d *delivery) {
	if d.state == closed {
		return
	}
	if d.state == delayed {
		heap.Remove(&s.delayed, int(d.heapIndex))
	}
	d.state = closed
	s.openN--
	s.b.open.Add(-1)
	s.b.journal.dirtied(d)
	s.b.park.leave(d)
	s.trim()
}

// trim drops settled deliveries from the lists when they are the front or the
// better half.
func (s *subscription) trim() {
	for _, list := range [2]*[]*delivery{&s.order, &s.parked} {
		for len(*list) > 0 && (*list)[0].state == closed {
			(*list)[0] = nil
			*list = (*list)[1:]
		}
		if len(*list) > 64 && len(*list) > 2*s.openN {
			kept := make([]*delivery, 0, s.openN)
			for _, d := range *list {
				if d.state != closed {
					kept = append(kept, d)
				}
			}
			*list = kept
		}
	}
	s.replays = slices.DeleteFunc(s.replays, func(d *delivery) bool { return d.state == closed })
}

// unsettled yields every delivery that is not settled. The caller holds s.mu.
func (s *subscription) unsettled() iter.Seq[*delivery] {
	return func(yield func(*delivery) bool) {
		for _, list := range [3][]*delivery{s.parked, s.order, s.replays} {
			for _, d := range list {
				if d.state != closed && !yield(d) {
					return
				}
			}
		}
	}
}

// before returns the beginning of order or parked in which everything before a log sequence
// stands. What the start found in the log stands first, in any order among itself: what is
// matched again comes behind what the journal knew. The rest stands by position.
func (s *subscription) before(list []*delivery, seq uint64) []*delivery {
	seq = max(seq, s.b.startLast+1)
	return list[:sort.Search(len(list), func(i int) bool { return list[i].pos.Seq() >= seq })]
}

// floors are the lowest log sequence of an open delivery that is not parked and the
// one from which a lagging event subscription must be read; none where there is
// none. The caller holds s.mu.
func (s *subscription) floors() (open, lag uint64) {
	s.trim()
	open, lag = none, none
	if len(s.order) > 0 { // none of order is settled in front
		open = s.order[0].pos.Seq()
	}
	for _, d := range s.before(s.order, 0) {
		if d.state != closed {
			open = min(open, d.pos.Seq())
		}
	}
	if s.lag != 0 {
		lag = s.lag.Seq()
	}
	return open, lag
}

// none is a sequence that no frame reaches.
const none = math.MaxUint64

// filters returns the present generations; nothing changes what it returned.
func (s *subscription) filters() []generation {
	if g := s.generations.Load(); g != nil {
		return *g
	}
	return nil
}

// newest returns the newest generation, nil when there is none.
func (s *subscription) newest() *generation {
	if g := s.filters(); len(g) > 0 {
		return &g[len(g)-1]
	}
	return nil
}

// addGeneration puts a generation behind the others. The caller holds s.mu, or is
// the only one who knows s.
func (s *subscription) addGeneration(g generation) {
	next := append(slices.Clone(s.filters()), g)
	s.generations.Store(&next)
}

// generationAt returns the generation that applies at a log sequence, nil before
// the first.
func generationAt(generations []generation, seq uint64) *generation {
	for i := len(generations) - 1; i >= 0; i-- {
		if generations[i].from <= seq {
			return &generations[i]
		}
	}
	return nil
}

// pruneGenerations drops generations that no event can meet any more: those that
// ended at or below the lowest sequence still to be matched, also after a crash:
// next is at most one above the watermark that the journal has. The caller holds
// s.mu.
func (s *subscription) pruneGenerations(next uint64) {
	if s.lag != 0 {
		next = min(next, s.lag.Seq())
	}
	kept := s.filters()
	for len(kept) > 1 && kept[1].from <= next {
		kept = kept[1:]
	}
	s.generations.Store(&kept)
}

// nanos is a stored time in milliseconds as nanoseconds, 0 staying 0.
func nanos(ms int64) int64 { return ms * int64(time.Millisecond) }

// millis is the way back.
func millis(ns int64) int64 { return ns / int64(time.Millisecond) }

// configOf reads an event subscription's record.
func configOf(es *resource.EventSubscription, rules Rules, sender Sender) *config {
	c := &config{
		id: es.ID().String(), name: es.Name, topicID: es.Scope.String(),
		schema:     es.DeliverySchema,
		expiration: es.Expiration,
		policy:     rules.Policy(es),
		rules:      rules,
		maxBatch:   1,
		sequenced:  sequenced(es.Scope),
		deadLetter: es.DeadLetter,
		sender:     sender,
	}
	packing := es.Destination.Packing()
	if kind := resource.KindOf(es.Destination.Type); kind != nil {
		c.form, c.maxBatch, c.batchBytes = kind.Form, kind.Together, kindBytes
	}
	if c.form == resource.FormPull {
		c.pull, c.lock = true, es.Destination.ReceiveLock()
		return c
	}
	if packing.MaxEventsPerBatch > 1 {
		c.maxBatch = packing.MaxEventsPerBatch
		c.batchBytes = max(packing.PreferredBatchSizeInKilobytes, 1) << 10
	}
	c.attributes = dynamicAttributes(packing)
	c.concurrency = es.Limits.MaxConcurrency
	var allowed bool
	if c.perMinute, allowed = es.RequestsPerMinute(); allowed {
		c.limit = limitAllowed
	}
	return c
}

// kindBytes is the size that batches aim at where the event subscription says nothing of
// it: event hubs take a message of 1 MiB, and of 256 KiB in their least tier.
// Source: spec/handlers.md section 5.
const kindBytes = 192 << 10

// sequenced reports whether the events of a source carry data.sequencer: those that a
// workspace raises do.
func sequenced(source resource.ID) bool {
	t := source.Type()
	return strings.EqualFold(t, resource.TypeWorkspace) || strings.EqualFold(t, resource.TypeSystemTopic)
}

// fifo is a queue on a ring.
type fifo[T any] struct {
	ring []T
	head int
	n    int
}

func (q *fifo[T]) len() int { return q.n }

func (q *fifo[T]) push(v T) {
	q.grow()
	q.ring[(q.head+q.n)%len(q.ring)] = v
	q.n++
}

// unpop puts v where pop takes from.
func (q *fifo[T]) unpop(v T) {
	q.grow()
	q.head = (q.head + len(q.ring) - 1) % len(q.ring)
	q.ring[q.head] = v
	q.n++
}

// grow makes room for one more.
func (q *fifo[T]) grow() {
	if q.n < len(q.ring) {
		return
	}
	next := make([]T, max(16, 2*len(q.ring)))
	for i := range q.n {
		next[i] = q.at(i)
	}
	q.ring, q.head = next, 0
}

func (q *fifo[T]) at(i int) T { return q.ring[(q.head+i)%len(q.ring)] }

func (q *fifo[T]) pop() T {
	v := q.ring[q.head]
	clear(q.ring[q.head : q.head+1])
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	if q.n == 0 && len(q.ring) > 64 {
		q.ring, q.head = nil, 0 // what is idle keeps no memory
	}
	return v
}

// delayHeap orders delayed deliveries by due time; container/heap keeps it.
type delayHeap []*delivery

func (h delayHeap) Len() int { return len(h) }

// Less puts what is due together in the order of the log: a batch reads each frame
// once.
func (h delayHeap) Less(i, j int) bool {
	if h[i].due == h[j].due {
		return h[i].pos < h[j].pos
	}
	return h[i].due < h[j].due
}

func (h delayHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = int32(i), int32(j)
}

// Push takes the delivery that heap.Push hands over.
func (h *delayHeap) Push(x any) {
	d := x.(*delivery)
	d.heapIndex = int32(len(*h))
	*h = append(*h, d)
}

// Pop gives the last one back to heap.Pop and heap.Remove.
func (h *delayHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return d
}
