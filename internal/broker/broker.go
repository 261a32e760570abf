package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Log is the partition's event log. engine.Partition satisfies it.
type Log interface {
	Append(ctx context.Context, records []engine.Record) (engine.Receipt, error)
	OnCommit(func(*engine.Frame))
	Frame(ctx context.Context, seq uint64) (*engine.Frame, error)
	Frames(ctx context.Context, from uint64) iter.Seq2[*engine.Frame, error]
	Bounds() (first, last uint64)
	Purge(ctx context.Context, below uint64) error
	SetFloor(seq uint64)
	BytesFrom(seq uint64) int64
	Usage() engine.Usage
}

// Journal is the partition's delivery journal. engine.Journal satisfies it.
type Journal interface {
	Append(ctx context.Context, payload []byte) (seq uint64, err error)
	Read(ctx context.Context, from uint64) iter.Seq2[engine.JournalEntry, error]
	Bounds() (first, last uint64)
	Purge(ctx context.Context, below uint64) error
	Bytes() int64
}

// Park keeps copies of frames, with some of their records, under numbers that are
// never used again. engine.Park satisfies it.
type Park interface {
	Put(ctx context.Context, f *engine.Frame, keep []int) (seq uint64, err error)
	Frame(ctx context.Context, seq, frame uint64) (*engine.Frame, error)
	Remove(ctx context.Context, seqs ...uint64) error
	All(ctx context.Context) iter.Seq2[uint64, error]
	Len() int
	Bytes() int64
}

// Table keeps one value per key. engine.Table satisfies it.
type Table interface {
	Put(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) (value []byte, found bool, err error)
	Delete(ctx context.Context, key string) error
	Keys(ctx context.Context, prefix string) ([]string, error)
}

// LetterTable is a Table that is also read, and purged, in the order of storing.
// engine.Table satisfies it.
type LetterTable interface {
	Table
	Since(ctx context.Context, prefix string, after uint64) iter.Seq2[engine.TableEntry, error]
	Last(ctx context.Context) (uint64, error)
	Purge(ctx context.Context, below uint64) error
	Bytes() int64
}

// DeadLetterStore writes dead letters where their event subscription wants them. A
// destination satisfies it; calls come from several goroutines at once.
type DeadLetterStore interface {
	// Write stores one blob, in the place of one of that name. Its error is shown to
	// whoever asks for the delivery status, so it holds no secret.
	Write(ctx context.Context, to *resource.DeadLetterDestination, name string, content []byte) error
}

// Config is what a Broker is made of.
type Config struct {
	Log         Log
	Journal     Journal
	Park        Park // nil = open deliveries hold the log, however long they wait
	DeadLetters LetterTable
	Work        Table // what goes on after a start: how far dead letters are written, replays of the log
	// DeadLetterStore takes the dead letters of event subscriptions that have a
	// destination for them; nil = they stay in DeadLetters alone.
	DeadLetterStore DeadLetterStore
	// NewSender makes the sender of an event subscription's destination, once for
	// each time its record changes.
	NewSender  func(*resource.EventSubscription) (Sender, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil = no metrics
	metrics    *metrics              // of a test that starts brokers by the thousand; nil = its own

	MetricsEventSubscriptions int // how many event subscriptions have series of their own

	Wall      func() time.Time // the wall clock; nil = the system's
	Retention time.Duration    // how long history is kept; 0 = 7 days
	Window    int              // bytes of frames kept in memory; 0 = 64 MiB
	Grace     time.Duration    // how long a stop waits for attempts in flight; 0 = 5 s

	Rules Rules

	DeadLetterQuota int64         // bytes of dead letters kept, the oldest go; 0 = no limit
	DeadLetterDelay time.Duration // how long dead letters are gathered before they are written to their store; 0 = 2 s
}

// Broker is the walk of one partition: it takes what is published, and brings it
// to every event subscription that wants it.
type Broker struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	clock   *clock

	startW    uint64 // watermark found at the start
	startLast uint64 // last frame found at the start
	recovery  *recovery

	queue      dispatchQueue
	window     *window
	park       *park
	journal    *journal
	dispatcher *dispatcher
	elevator   *elevator
	undertaker *undertaker
	exporter   *exporter
	replayer   *replayer
	tails      tails
	open       atomic.Int64 // deliveries that are not settled, of all event subscriptions
	prompt     *crew        // makes attempts
	hesitant   *crew        // makes those at destinations that failed last
	receivers  atomic.Int64 // calls of Receive that wait
	answering  atomic.Int64 // bytes of events in answers to receivers that are being written
	attempting atomic.Int64 // workers of all event subscriptions, and attempts whose late answer is waited for

	onceMu sync.Mutex
	once   map[resource.UID]*knownIDs // of topics that leave out duplicates
	known  atomic.Int64               // ids that they remember

	attempts     context.Context // of every attempt; ends when a stop has waited long enough
	stopAttempts context.CancelFunc
	workers      sync.WaitGroup
	running      atomic.Bool
	started      chan struct{} // closed when Run has taken over what was recovered

	mu   sync.RWMutex
	subs map[uint64]*subscription
}

// New reads the delivery journal and makes a Broker. Activate every event
// subscription that is stored, then call Run.
func New(ctx context.Context, cfg Config) (*Broker, error) {
	if cfg.Retention == 0 {
		cfg.Retention = 7 * 24 * time.Hour
	}
	if cfg.Window == 0 {
		cfg.Window = 64 << 20
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.DeadLetterDelay == 0 {
		cfg.DeadLetterDelay = 2 * time.Second
	}
	if cfg.metrics == nil {
		cfg.metrics = newMetrics(cfg.Registerer)
	}
	recovery, err := recoverJournal(ctx, cfg.Journal)
	if err != nil {
		return nil, err
	}
	_, last := cfg.Log.Bounds()
	end, err := recovery.endOf(ctx, cfg.Log)
	if err != nil {
		return nil, err
	}
	told := recovery.w
	if recovery.shortened = recovery.cut(end); recovery.shortened {
		cfg.Logger.Error("the event log ends before what the delivery journal tells of: events after its end are lost", "log_end", end, "journal_watermark", told)
		for _, key := range recovery.delivered {
			if err := deleteLetter(ctx, cfg.DeadLetters, key); err != nil {
				cfg.Logger.Error("a dead letter that was delivered cannot be removed", telemetry.DeadLetterID, idOfKey(key), telemetry.Error, err)
			}
		}
	}
	b := &Broker{
		cfg: cfg, log: cfg.Logger, metrics: cfg.metrics, clock: newClock(cfg.Wall),
		startW: recovery.w, recovery: recovery,
		window: newWindow(cfg.Log, cfg.Window), subs: map[uint64]*subscription{},
		queue: dispatchQueue{some: make(chan struct{}, 1)},
		tails: tails{watchers: map[*watcher]struct{}{}}, started: make(chan struct{}),
	}
	b.prompt, b.hesitant = newCrew(b, promptPerProcessor*runtime.GOMAXPROCS(0), promptWhile, promptBusy), newCrew(b, hesitantMost, hesitantWhile, hesitantWhile)
	b.startLast, b.queue.last = last, last
	b.attempts, b.stopAttempts = context.WithCancel(context.WithoutCancel(ctx))
	b.park = &park{b: b, store: cfg.Park, copies: map[uint64]int{}}
	b.journal = newJournal(b, cfg.Journal)
	b.journal.w, b.journal.flushed = recovery.w, recovery.w
	b.journal.aheadSince, b.journal.aheadSeq = recovery.aheadSince, recovery.aheadSeq
	if recovery.shortened {
		b.journal.news.plain(tagLogEnds, end)
	}
	b.dispatcher = &dispatcher{b: b, next: recovery.w + 1}
	b.elevator = &elevator{b: b, ring: make(chan struct{}, 1)}
	b.undertaker = &undertaker{b: b, some: make(chan struct{}, 1)}
	b.exporter = newExporter(b)
	b.replayer = newReplayer(b)
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(newCollector(b))
	}
	cfg.Log.OnCommit(b.committed)
	return b, nil
}

// Run walks events until ctx ends. It stops in order: no new attempts, attempts in
// flight get the grace time and are then cut short (they are not counted), and the
// journal is flushed last.
func (b *Broker) Run(ctx context.Context) error {
	b.start()
	g, running := errgroup.WithContext(ctx)
	flushing, stopFlushing := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return b.journal.run(flushing) })
	g.Go(func() error { return b.dispatcher.run(running) })
	g.Go(func() error { return b.elevator.run(running) })
	g.Go(func() error { return b.undertaker.run(running) })
	g.Go(func() error { return b.exporter.run(running) })
	g.Go(func() error { return b.replayer.run(running) })
	g.Go(func() error { return (&retainer{b: b}).run(running) })
	g.Go(func() error { return b.watchClock(running) })
	b.elevator.call()
	<-running.Done() // told to stop, or the journal cannot be written
	b.drain()
	stopFlushing()
	return g.Wait()
}

// start takes the recovered event subscriptions into the walk. What the journal
// knows of event subscriptions that are not there any more is dropped.
func (b *Broker) start() {
	subs := b.all()
	b.dispatcher.matching = newMatching(subs, b.dispatcher.next)
	slices.SortFunc(subs, func(x, y *subscription) int { return cmp.Compare(x.statedAt, y.statedAt) })
	open := 0
	for _, s := range subs {
		if s.statedAt != 0 {
			b.journal.place[s] = b.journal.rotation.PushBack(s)
		}
		open += s.openN
	}
	b.log.Info("delivery state recovered", "watermark", b.startW, "log_end", b.startLast, "event_subscriptions", len(subs),
		"open_deliveries", open, "journal_entries", b.recovery.entries)
	b.recovery = nil
	b.running.Store(true)
	now := time.Now()
	for _, s := range subs {
		s.mu.Lock()
		s.pump(now)
		s.arm(now)
		s.mu.Unlock()
	}
	close(b.started)
}

// Ready returns when the walk has begun and the journal knows every event
// subscription that was activated before it: from then on whatever is published
// meets them, also after a crash. Take no traffic earlier.
func (b *Broker) Ready(ctx context.Context) error {
	select {
	case <-b.started:
		return b.journal.sync(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drain lets no attempt start, waits for those in flight, and cuts short what is
// left.
func (b *Broker) drain() {
	subs := b.all()
	for _, s := range subs {
		s.mu.Lock()
		s.draining = true
		s.callEveryReceiver()
		if s.timer != nil {
			s.timer.Stop()
		}
		s.mu.Unlock()
	}
	b.prompt.close()
	b.hesitant.close()
	idle := make(chan struct{})
	go func() {
		b.workers.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(b.cfg.Grace):
	}
	b.stopAttempts()
	<-idle // a Sender returns when its context ends
	for _, s := range subs {
		s.cfg.Load().sender.Close()
	}
}

// Activate makes a stored event subscription live, or its changed record take
// effect. A filter, new or changed, applies from the first frame that is committed
// after the call; everything else applies to the next attempt of everything. It
// returns when that is durable.
func (b *Broker) Activate(ctx context.Context, es *resource.EventSubscription) error {
	sender, err := b.cfg.NewSender(es)
	if err != nil {
		return fmt.Errorf("make the sender of %s: %w", es.ID(), err)
	}
	raw, err := json.Marshal(es.Filter)
	if err != nil {
		return fmt.Errorf("encode the filter of %s: %w", es.ID(), err)
	}
	g := generation{number: es.FilterGeneration, matcher: filter.Compile(&es.Filter), raw: raw}
	cfg := configOf(es, b.cfg.Rules, sender)
	if !b.running.Load() {
		return b.adopt(es, cfg, g)
	}
	done := make(chan error, 1)
	b.queue.pushChange(func(next uint64) { done <- b.activate(es, cfg, g, next) })
	select {
	case err := <-done:
		if err != nil {
			sender.Close()
			return err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return b.journal.sync(ctx)
}

// adopt takes an event subscription before the start: with the state the journal
// has of it, or at the end of the log when it has none or not this filter (its PUT
// was never answered).
func (b *Broker) adopt(es *resource.EventSubscription, cfg *config, g generation) error {
	s := newSubscription(b, uint64(es.UID), es.Stream())
	s.cfg.Store(cfg)
	s.limiter = newLimiter(cfg.perMinute)
	s.setPaused(!es.Paused.IsZero())
	if r := b.recovery.subs[s.uid]; r != nil {
		s.limiter.drain(time.Now()) // the process before may have sent what it could
		if err := s.adopt(r, g, time.Now()); err != nil {
			return err
		}
		if b.recovery.shortened || s.lag != 0 && len(s.known) > 0 {
			b.journal.changed(s) // the old statement must not come back; what the watermark passes before the elevator does must be in it
		}
	}
	if newest := s.newest(); newest == nil || newest.number < g.number {
		g.from = b.startLast + 1
		s.addGeneration(g)
		b.journal.changed(s)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[s.uid] = s
	return nil
}

// maxGenerations is how many filters of one event subscription may wait for events
// that still have to meet them.
const maxGenerations = 16

// activate runs in the dispatcher, between two frames.
func (b *Broker) activate(es *resource.EventSubscription, cfg *config, g generation, next uint64) error {
	g.from = next
	b.dispatcher.matching.advance(next) // an earlier filter that begins here must not come after this one
	s := b.lookup(uint64(es.UID))
	if s == nil {
		s = newSubscription(b, uint64(es.UID), es.Stream())
		s.cfg.Store(cfg)
		s.limiter = newLimiter(cfg.perMinute)
		s.setPaused(!es.Paused.IsZero())
		s.addGeneration(g)
		b.dispatcher.matching.set(s.stream, s.uid, g.matcher)
		b.mu.Lock()
		b.subs[s.uid] = s
		b.mu.Unlock()
		b.journal.changed(s)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.number > s.newest().number {
		s.pruneGenerations(b.journal.durable() + 1)
		if pending := len(s.filters()); pending >= maxGenerations {
			return fault.New(fault.Conflict, "TooManyFilterChanges",
				"The filter cannot change again yet: %d earlier filters still wait for events of the backlog, which begins at position %s. Try again when the event subscription has caught up.",
				pending, s.lag)
		}
		s.addGeneration(g)
		b.dispatcher.matching.set(s.stream, s.uid, g.matcher)
		b.journal.changed(s)
	}
	old := s.cfg.Swap(cfg)
	old.sender.Close()
	if cfg.pull && s.breaker != (breaker{}) {
		s.breaker = breaker{}
		b.journal.breakerMoved(s)
	}
	if old.pull && !cfg.pull {
		s.callEveryReceiver()
	}
	b.exporter.changed(s.uid, cfg.deadLetter)
	now := time.Now()
	s.setLimit(now)
	s.setPaused(!es.Paused.IsZero())
	s.pump(now)
	s.arm(now)
	return nil
}

// Deactivate ends an event subscription: its open deliveries are discarded. It
// returns when that is durable; one that is not there is no error.
func (b *Broker) Deactivate(ctx context.Context, uid resource.UID) error {
	if !b.running.Load() {
		return errors.New("broker is not running")
	}
	done := make(chan struct{})
	b.queue.pushChange(func(uint64) {
		defer close(done)
		s := b.lookup(uint64(uid))
		if s == nil {
			return
		}
		b.mu.Lock()
		delete(b.subs, s.uid)
		b.mu.Unlock()
		b.dispatcher.matching.drop(s.stream, s.uid)
		s.end()
		b.journal.gone(s)
		b.exporter.ended(s.uid)
	})
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return b.journal.sync(ctx)
}

// end discards everything of s.
func (s *subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted = true
	s.cancel()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.b.open.Add(int64(-s.openN))
	s.openN = 0
	for d := range s.unsettled() {
		d.state = closed
		s.b.park.leave(d)
	}
	s.order, s.parked, s.replays, s.delayed, s.queue, s.locks = nil, nil, nil, nil, fifo[*delivery]{}, locks{}
	s.callEveryReceiver()
	s.cfg.Load().sender.Close()
}

// Status is how an event subscription stands.
type Status struct {
	EventSubscription string    `json:"eventSubscription"`   // full resource id
	Open              int       `json:"openDeliveries"`      // not settled
	Waiting           int       `json:"waitingForRetry"`     // of them, with a due time
	InFlight          int       `json:"inFlight"`            // attempts; events that receivers hold
	Receivers         int       `json:"receivers,omitempty"` // that wait for an event
	Paused            bool      `json:"paused"`              // nothing is attempted
	Lagging           bool      `json:"lagging"`             // further events are read from the log
	LagPosition       string    `json:"lagPosition,omitempty"`
	BreakerOpen       bool      `json:"breakerOpen"` // the destination rests
	BreakerUntil      time.Time `json:"breakerUntil,omitzero"`
	RequestsPerMinute int       `json:"requestsPerMinute,omitempty"` // the limit that is in force
	WaitsForLimit     bool      `json:"waitsForLimit,omitempty"`     // it has something to send, and may not yet
	LimitWaits        uint64    `json:"limitWaits,omitempty"`        // how often it had to; since this process started, as are the following
	LimitWaitSeconds  float64   `json:"limitWaitSeconds,omitempty"`
	Matched           uint64    `json:"matchedEvents"`
	Delivered         uint64    `json:"deliveredEvents"`
	FailedAttempts    uint64    `json:"failedAttempts"`
	DeadLettered      uint64    `json:"deadLetteredEvents"`
	Dropped           uint64    `json:"droppedEvents"`

	Warning         *Warning      `json:"lastWarning,omitempty"`     // since the process started
	DeadLetterStore *StoreTrouble `json:"deadLetterStore,omitempty"` // while the dead letters of the event subscription cannot be written
}

func (s *subscription) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		EventSubscription: s.cfg.Load().id, Open: s.openN, Waiting: len(s.delayed), InFlight: len(s.flying) + len(s.locks.next), Receivers: len(s.waiters),
		Paused: s.paused, Lagging: s.lag != 0, BreakerOpen: s.breaker.open(), BreakerUntil: s.breaker.until,
		Matched: s.matched.Load(), Delivered: s.delivered.Load(), FailedAttempts: s.failed.Load(),
		DeadLettered: s.deadLettered.Load(), Dropped: s.dropped.Load(), Warning: s.lastWarning,
		RequestsPerMinute: s.limiter.perMinute, WaitsForLimit: !s.wait.since.IsZero(),
		LimitWaits: s.limitWaits.Load(), LimitWaitSeconds: time.Duration(s.limitWaited.Load()).Seconds(),
	}
	if st.Lagging {
		st.LagPosition = s.lag.String()
	}
	st.DeadLetterStore = s.b.exporter.trouble(s.cfg.Load().deadLetter)
	return st
}

// Status returns how an event subscription stands, false when it is not active.
func (b *Broker) Status(uid resource.UID) (Status, bool) {
	s := b.lookup(uint64(uid))
	if s == nil {
		return Status{}, false
	}
	return s.status(), true
}

// Open is how many events an event subscription still has to settle; one that lags
// has at least one more.
func (b *Broker) Open(uid resource.UID) int {
	st, _ := b.Status(uid)
	if st.Lagging {
		st.Open++
	}
	return st.Open
}

// Held names the event subscription that holds the purge floor, and the lowest
// frame it needs; ok is false when nobody holds it.
func (b *Broker) Held() (eventSubscription string, seq uint64, ok bool) {
	for _, s := range b.all() {
		s.mu.Lock()
		if f := min(s.floors()); f != none && (!ok || f < seq) {
			eventSubscription, seq, ok = s.cfg.Load().id, f, true
		}
		s.mu.Unlock()
	}
	return eventSubscription, seq, ok
}

func (b *Broker) lookup(uid uint64) *subscription {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.subs[uid]
}

// all returns every active event subscription.
func (b *Broker) all() []*subscription {
	b.mu.RLock()
	defer b.mu.RUnlock()
	subs := make([]*subscription, 0, len(b.subs))
	for _, s := range b.subs {
		subs = append(subs, s)
	}
	return subs
}

func (b *Broker) jitter() float64 { return rand.Float64() }

// Err tells why the broker cannot work, nil while it can.
func (b *Broker) Err() error {
	if !b.running.Load() {
		return errors.New("delivery has not started")
	}
	return nil
}
