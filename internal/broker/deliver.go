package broker

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// attempt is one request to a destination, with one delivery or a batch.
type attempt struct {
	deliveries []*delivery
	one        [1]*delivery // holds them where they are one
	count      int          // earlier attempts, the least of its deliveries
	started    time.Time
	hold       time.Duration
	late       bool    // judged TimedOut; its answer, if one comes, is late
	unsized    bool    // the sizes of some deliveries are not known yet
	cfg        *config // that its batch was made for; nil for the present one
	sub        *subscription
	unread     error  // why its body could not be made
	parts      []Part // what became of each, nil where the attempt was one request
}

// of returns what became of the delivery i, where r is what became of the whole.
func (a *attempt) of(i int, r Response) Response {
	if i < len(a.parts) && a.parts[i].Outcome != NotAttempted {
		return a.parts[i].Response
	}
	return r
}

// pump starts workers for what waits. The caller holds s.mu.
func (s *subscription) pump(now time.Time) {
	if s.deleted || s.draining || s.paused {
		return
	}
	cfg := s.cfg.Load()
	if cfg.pull {
		s.callReceivers()
		s.arm(now)
		return
	}
	switch { // nothing else may be there to wake it when its time has come
	case !s.breaker.admits(now):
		s.unlimited(now)
		s.arm(now)
		return
	case !s.limiter.admits(now):
		s.limited(now)
		s.arm(now)
		return
	}
	limit, batch, left := s.limit, cfg.maxBatch, s.limiter.left(now)
	if s.breaker.open() {
		limit = s.workers + 1 - s.starting // the probe
	} else if batch > 1 && s.queue.len() < batch {
		limit = min(limit, maxBatchers)
	}
	limit = min(limit, s.places(cfg), s.attemptShare())
	for s.workers < limit && s.starting < left && s.starting*batch < s.queue.len() {
		s.workers++
		s.starting++
		s.b.attempting.Add(1)
		s.crew().start(s, now)
	}
}

// places is how many attempts its record lets be under way. One whose answer is
// waited for past its time keeps its place: the handler may still be at work on it.
// The caller holds s.mu.
func (s *subscription) places(cfg *config) int {
	if cfg.concurrency == 0 {
		return math.MaxInt
	}
	return cfg.concurrency - s.held
}

// The attempts that may be under way at a time on the whole node, each with a
// connection, and the part of what is left of them that one event subscription may
// have. Each may always have one.
const (
	maxAttempts = 4096
	attemptPart = 16
)

// attemptShare is how many workers s may have: as with what is open, the fuller the
// node, the fewer. The caller holds s.mu.
func (s *subscription) attemptShare() int {
	return max(1, (maxAttempts-int(s.b.attempting.Load()))/attemptPart-s.held)
}

// work makes one attempt, if there is something to attempt now. It returns which crew goes
// on with the event subscription, nil when the worker is done with it, and the time.
func (s *subscription) work() (on *crew, now time.Time) {
	a := s.begin()
	if a == nil {
		return nil, time.Now()
	}
	s.fit(a)
	r, parts := s.send(a)
	return s.judge(a, r, parts)
}

// begin returns the next attempt, nil when the worker is done.
func (s *subscription) begin() *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting--
	s.letFlush()
	now := time.Now()
	a := s.next(now)
	if a == nil {
		s.quit(now)
	}
	return a
}

// judge settles an attempt, and returns what work does.
func (s *subscription) judge(a *attempt, r Response, parts []Part) (on *crew, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = time.Now()
	a.parts = parts // not before: the timer may have judged it meanwhile
	if a.late {     // the worker's place was given up when the attempt was judged
		s.settleLate(a, r)
		return nil, now
	}
	s.settle(a, r, now)
	s.pump(now) // a success may have raised the limit
	if s.queue.len() == 0 {
		s.quit(now)
		return nil, now
	}
	s.starting++
	return s.crew(), now
}

// quit ends a worker. The caller holds s.mu.
func (s *subscription) quit(now time.Time) {
	s.workers--
	s.b.attempting.Add(-1)
	s.arm(now)
}

// crew is who makes the attempts of s. The caller holds s.mu.
func (s *subscription) crew() *crew {
	if s.breaker.failures > 0 {
		return s.b.hesitant
	}
	return s.b.prompt
}

// next takes what the next attempt sends off the queue, nil when nothing may be
// sent now. The caller holds s.mu.
func (s *subscription) next(now time.Time) *attempt {
	cfg := s.cfg.Load()
	if s.deleted || s.draining || s.paused || cfg.pull || !s.breaker.admits(now) {
		return nil
	}
	if s.workers > s.places(cfg) || s.workers > min(s.limit, s.attemptShare()) && !s.breaker.open() {
		return nil // fewer than there were
	}
	if !s.limiter.admits(now) {
		s.limited(now)
		return nil
	}
	most, size := cfg.maxBatch, 0
	if s.breaker.open() {
		most = 1
	}
	var a *attempt
	for s.queue.len() > 0 {
		d := s.queue.at(0)
		if d.state != ready {
			s.queue.pop() // settled while it waited
			continue
		}
		if s.spent(d, cfg, now, false) {
			s.queue.pop()
			s.bury(d, ReasonTimeToLive)
			continue
		}
		if a != nil {
			if d.alone || d.replay || len(a.deliveries) == most {
				break
			}
			// The size is a target: an event that would pass it waits for the next batch.
			if size += s.sizeOf(d, a); size > cfg.batchBytes {
				break
			}
		} else {
			a = &attempt{started: now, hold: answerTime, sub: s}
			a.deliveries = a.one[:0]
			if most > 1 {
				a.deliveries = make([]*delivery, 0, min(most, s.queue.len()))
			}
			if most > 1 && !d.alone && !d.replay {
				size = s.sizeOf(d, a)
			} else {
				most = 1
			}
		}
		s.queue.pop()
		d.state = inFlight
		if len(a.deliveries) == 0 || int(d.attempts) < a.count {
			a.count = int(d.attempts)
		}
		a.deliveries = append(a.deliveries, d)
		if len(a.deliveries) == most {
			break
		}
	}
	if a == nil {
		return nil
	}
	if s.held+len(s.flying) < maxHeld && s.b.attempting.Load() < maxAttempts {
		a.hold = holdTime
		s.wakeBy(now.Add(answerTime))
	}
	s.breaker.start()
	s.unlimited(now)
	s.limiter.take(now)
	s.flying = append(s.flying, a)
	s.signalRoom()
	return a
}

// leastSize is what an event is taken to have at least: so many are taken off the queue
// whose sizes are not known.
const leastSize = 256

// sizeOf is what d adds to the batch a. That of a delivery from before the start is
// known only while its frame is in the window; otherwise fit sees to the size.
func (s *subscription) sizeOf(d *delivery, a *attempt) int {
	if d.size > 0 {
		return int(d.size)
	}
	if n := s.b.window.size(d.pos); n > 0 {
		return n
	}
	a.unsized = true
	return leastSize
}

// fit leaves in a batch what can travel in one request: up to the size that it aims
// at, and only events that have the dynamic attributes of the first one, for a request
// has each header once. The others go back to the queue. Source: spec/delivery.md
// section 5.
func (s *subscription) fit(a *attempt) {
	cfg := s.cfg.Load()
	alike := len(cfg.attributes) > 0 && cfg.form != resource.FormMessages // attributes are of the request
	if len(a.deliveries) == 1 || !a.unsized && !alike {
		return
	}
	var first []Attribute
	var kept, others []*delivery
	size := 0
	for i, d := range a.deliveries {
		values, n, err := s.measure(d, cfg)
		switch {
		case i == 0:
			first, size = values, n
			kept = append(kept, d)
			if err != nil { // its attempt tells, and takes nobody with it
				others = a.deliveries[1:]
			}
		case err != nil || size+n > cfg.batchBytes:
			others = append(others, a.deliveries[i:]...)
		case !alike || slices.Equal(values, first):
			size += n
			kept = append(kept, d)
		default:
			others = append(others, d)
		}
		if len(kept)+len(others) == len(a.deliveries) {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.late || s.deleted {
		return // it is judged as a whole
	}
	a.cfg, a.deliveries = cfg, kept
	a.count = int(kept[0].attempts)
	for _, d := range kept {
		a.count = min(a.count, int(d.attempts))
	}
	for _, d := range others {
		s.line(d)
	}
	if len(others) > 0 {
		s.pump(time.Now())
	}
}

// measure returns the dynamic attributes of an event of a batch, and its size.
func (s *subscription) measure(d *delivery, cfg *config) (values []Attribute, size int, err error) {
	f, err := s.b.frameOf(s.ctx, d)
	if err != nil {
		return nil, 0, err
	}
	r := &f.Records[d.pos.Index()]
	if len(cfg.attributes) > 0 {
		var e event.Event
		if err := parse(&e, r.Data, event.Schema(r.Schema)); err != nil {
			return nil, 0, err
		}
		values = cfg.valuesOf(&e)
	}
	return values, len(r.Data), nil
}

// spent reports whether an event's time to live is over and it is given up. One that
// was never attempted since the process started gets its attempt all the same, unless
// the destination is known to be down (resting), or its time ended while it waited for
// the limit: a clock that jumped, a long stop or a pause must not drop what was never
// tried, but what a limit holds back, or nobody receives, must not grow for ever. Nothing
// expires while the clock rests after a jump.
func (s *subscription) spent(d *delivery, cfg *config, now time.Time, resting bool) bool {
	expiry := s.expiry(d.published, cfg)
	return s.b.clock.steady(now) >= expiry && (d.tried || resting || cfg.pull || s.expiresUntried(expiry))
}

// expiry is when the time to live of what was published then is over, in steady time.
// Receivers get a while for what was over before they could ask for it.
func (s *subscription) expiry(published int64, cfg *config) int64 {
	expiry := s.b.clock.expiry(published, cfg.policy.TimeToLive)
	if cfg.pull {
		if unasked := max(s.b.clock.steady(s.limitedSince), s.b.clock.restUntil.Load()); expiry <= unasked {
			expiry = unasked + int64(lateReceipt)
		}
	}
	return expiry
}

// expiresUntried reports whether an event whose time ends then is given up though it
// was never attempted, because it waits for the limit. The caller holds s.mu.
func (s *subscription) expiresUntried(expiry int64) bool {
	return s.limiter.on() && expiry > max(s.b.clock.steady(s.limitedSince), s.b.clock.restUntil.Load())
}

// send makes the attempt, and returns what came of the whole and of each message. A panic
// in it is the attempt's outcome, not the process's end.
func (s *subscription) send(a *attempt) (r Response, parts []Part) {
	req := Request{Hold: a.hold, Count: a.count, Source: a}
	defer func() {
		if p := recover(); p != nil {
			s.b.log.Error("delivery attempt panicked", telemetry.EventSubscription, s.cfg.Load().id,
				telemetry.Error, fmt.Sprint(p), telemetry.Stack, string(debug.Stack()))
			r, parts = Response{Outcome: Aborted, Detail: "the attempt panicked"}, nil
			return // the buffer may still be in use: let it go
		}
		req.Sent()
	}()
	if a.cfg == nil {
		a.cfg = s.cfg.Load()
	}
	r = a.cfg.sender.Send(s.ctx, &req)
	if a.unread != nil {
		r = s.unreadable(a.cfg, a.unread)
	}
	return r, req.Parts
}

// unreadable is the outcome of an attempt whose body could not be made.
func (s *subscription) unreadable(cfg *config, err error) Response {
	if s.ctx.Err() != nil || errors.Is(err, errLate) {
		return Response{Outcome: Canceled}
	}
	if !lost(err) {
		s.b.log.Debug("event cannot be read for delivery just now", telemetry.EventSubscription, cfg.id, telemetry.Error, err)
		select { // the store is busy, or starts anew: that is not the event's fault
		case <-time.After(readAgain):
		case <-s.ctx.Done():
		}
		return Response{Outcome: Canceled}
	}
	s.b.log.Error("event cannot be read for delivery", telemetry.EventSubscription, cfg.id, telemetry.Error, err)
	return Response{Outcome: Aborted, Detail: "the event could not be read"}
}

// readAgain is how long an attempt rests whose event could not be read just now.
const readAgain = time.Second

// lost reports whether an event will not be readable later either, as it will when the
// store was only busy.
func lost(err error) bool {
	return errors.Is(err, engine.ErrCorrupt) || errors.Is(err, engine.ErrPurged) || fault.Is(err, fault.NotFound)
}

// Content types by delivery schema. Source: spec/delivery.md section 2.1.
const (
	contentEvents          = "application/json; charset=utf-8"
	contentCloudEvent      = "application/cloudevents+json; charset=utf-8"
	contentCloudEventBatch = "application/cloudevents-batch+json; charset=utf-8"
)

// errLate is why an attempt has no body that was judged TimedOut before it was sent: its
// events wait for another one, or had it already.
var errLate = errors.New("the attempt is over")

// Encode makes the body of the attempt. It satisfies Source.
func (a *attempt) Encode(r *Request, dst []byte) (body []byte, err error) {
	a.sub.mu.Lock()
	late := a.late
	a.sub.mu.Unlock()
	if late {
		a.unread = errLate
		return dst, errLate
	}
	body, a.unread = a.sub.encode(a.cfg, a, r, dst)
	return body, a.unread
}

// encode appends the request's body to dst and fills in what its headers say:
// Event Grid events and custom input travel as an array, a CloudEvent as an object
// unless batching is on. Source: spec/delivery.md section 2.2. What takes messages gets
// each event as an object, one behind the other.
func (s *subscription) encode(cfg *config, a *attempt, req *Request, dst []byte) ([]byte, error) {
	array := cfg.array()
	size := 2 // of the body, about
	for _, d := range a.deliveries {
		size += int(d.size) + 1
	}
	dst = slices.Grow(dst, size)
	if cfg.form == resource.FormMessages {
		req.Parts = slices.Grow(req.Parts[:0], len(a.deliveries)) // it may be made a second time
	}
	if array {
		dst = append(dst, '[')
	}
	for i, d := range a.deliveries {
		if i > 0 && array {
			dst = append(dst, ',')
		}
		var e event.Event
		sequencer, err := s.b.load(s.ctx, d, &e)
		if err != nil {
			return dst, err
		}
		from := len(dst)
		dst = cfg.appendEvent(dst, &e, sequencer)
		if cfg.form == resource.FormMessages {
			req.Parts = append(req.Parts, s.part(cfg, d, &e, sequencer, from, len(dst)))
			continue
		}
		if d.replay {
			req.Replay = d.letterID()
		}
		if i == 0 && len(cfg.attributes) > 0 {
			req.Attributes = s.attributesOf(cfg, &e)
		}
		if cfg.maxBatch == 1 || cfg.form == resource.FormArray && len(a.deliveries) == 1 {
			req.Single = cfg.single(&e, sequencer)
		}
	}
	if array {
		dst = append(dst, ']')
	}
	req.ContentType = cfg.contentType()
	return dst, nil
}

// part is the message of one delivery, whose body is from there to there.
func (s *subscription) part(cfg *config, d *delivery, e *event.Event, sequencer string, from, to int) Part {
	p := Part{From: from, To: to, Count: int(d.attempts), Single: *cfg.single(e, sequencer)}
	if len(cfg.attributes) > 0 {
		p.Attributes = s.attributesOf(cfg, e)
	}
	if d.replay {
		p.Replay = d.letterID()
	}
	return p
}

func (c *config) cloud() bool { return c.schema == event.CloudEventSchemaV1_0 }

// array reports whether a body is an array of events.
func (c *config) array() bool {
	switch c.form {
	case resource.FormArray:
		return true
	case resource.FormMessages:
		return false
	default:
		return !c.cloud() || c.maxBatch > 1
	}
}

func (c *config) contentType() string {
	switch {
	case !c.cloud():
		return contentEvents
	case c.array():
		return contentCloudEventBatch
	default:
		return contentCloudEvent
	}
}

// appendEvent appends an event in the delivery schema.
func (c *config) appendEvent(dst []byte, e *event.Event, sequencer string) []byte {
	switch c.schema {
	case event.CloudEventSchemaV1_0:
		if !c.sequenced {
			sequencer = ""
		}
		return c.rules.appendCloudEvent(dst, e, sequencer)
	case event.CustomEventSchema:
		return e.AppendCustom(dst)
	default:
		return e.AppendEventGrid(dst)
	}
}

// single is what the headers of a request without batching say of its event.
func (c *config) single(e *event.Event, sequencer string) *SingleEvent {
	if c.cloud() {
		return &SingleEvent{OutputID: sequencer, MetadataVersion: "1.0"}
	}
	return &SingleEvent{OutputID: sequencer, MetadataVersion: "1", DataVersion: string(e.DataVersion)}
}

// load reads the event of a delivery and returns its sequencer.
func (b *Broker) load(ctx context.Context, d *delivery, e *event.Event) (sequencer string, err error) {
	if d.replay && !d.logged {
		letter, err := b.letter(ctx, d.letterID())
		if err != nil {
			return "", err
		}
		return letter.Sequencer, parse(e, letter.Event, letter.schema())
	}
	f, err := b.frameOf(ctx, d)
	if err != nil {
		return "", err
	}
	r := &f.Records[d.pos.Index()]
	return f.Sequencer(d.pos.Index()), parse(e, r.Data, event.Schema(r.Schema))
}

// parse reads a stored event.
func parse(e *event.Event, raw []byte, schema event.Schema) error {
	if err := e.Parse(raw, schema); err != nil {
		return fmt.Errorf("%w: %w", engine.ErrCorrupt, err)
	}
	return nil
}

// wake runs when the timer does: it judges attempts that passed the answer time,
// moves what is due to the queue, and starts workers.
func (s *subscription) wake() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAt = 0
	if s.deleted {
		return
	}
	for i := 0; i < len(s.flying); {
		if a := s.flying[i]; a.hold > answerTime && now.Sub(a.started) >= answerTime {
			a.late = true
			s.workers--
			s.held++
			s.settle(a, Response{Outcome: TimedOut, Detail: "no answer within 30 s"}, now) // takes it out of flying
			continue
		}
		i++
	}
	s.expireLocks(now)
	if s.paused { // what is due stays where it is
		s.arm(now)
		return
	}
	cfg := s.cfg.Load()
	for len(s.delayed) > 0 && s.delayed[0].due <= s.b.clock.steady(now) {
		d := heap.Pop(&s.delayed).(*delivery)
		switch resting := s.breaker.open() && !s.breaker.admits(now); {
		case s.spent(d, cfg, now, resting):
			s.bury(d, ReasonTimeToLive)
		case resting:
			s.delay(d, laterOf(s.breaker.until, now.Add(time.Second)), cfg)
		default:
			s.line(d)
		}
	}
	s.sweep(cfg, now)
	if s.queue.len() == 0 {
		s.unlimited(now)
	}
	s.signalRoom()
	s.pump(now)
	s.arm(now)
}

// delay puts d aside until due, or until its time to live is over, whichever is
// earlier. The caller holds s.mu.
func (s *subscription) delay(d *delivery, due time.Time, cfg *config) {
	d.state = delayed
	d.due = s.capped(d, s.b.clock.steady(due), cfg, s.b.clock.steady(time.Now()))
	heap.Push(&s.delayed, d)
}

// capped is due, or when the time to live ends if that is earlier: then d is given
// up, or gets its one attempt since the start. What is over already and still has
// that attempt to come gets it within retrySpread. All times are steady.
func (s *subscription) capped(d *delivery, due int64, cfg *config, now int64) int64 {
	expiry := s.expiry(d.published, cfg)
	if expiry <= now {
		expiry = now
		if !d.tried {
			expiry += int64(rand.N(retrySpread))
		}
	}
	return min(due, expiry)
}

// capDelays caps everything that is delayed anew: the clock has changed. The caller
// holds s.mu.
func (s *subscription) capDelays(now time.Time) {
	cfg, steady := s.cfg.Load(), s.b.clock.steady(now)
	for _, d := range s.delayed {
		d.due = s.capped(d, d.due, cfg, steady)
	}
	heap.Init(&s.delayed)
}

// arm sets the timer to the next time something is to be done. The caller holds
// s.mu.
func (s *subscription) arm(now time.Time) {
	if len(s.delayed) > 0 && !s.paused {
		s.wakeBy(s.b.clock.at(s.delayed[0].due))
	}
	if s.queue.len() > 0 && !s.paused {
		s.armNext(now)
	}
	if len(s.locks.next) > 0 {
		s.wakeBy(s.locks.next[0].until)
	}
	for _, a := range s.flying {
		if a.hold > answerTime {
			s.wakeBy(a.started.Add(answerTime))
			break // oldest first
		}
	}
}

// armNext sets the timer to when what waits in the queue may go on, where breaker or
// limit hold it, or to when the time of the oldest ends. The caller holds s.mu.
func (s *subscription) armNext(now time.Time) {
	if cfg := s.cfg.Load(); cfg.pull {
		s.wakeBy(s.b.clock.at(s.expiry(s.oldest, cfg)))
		return
	}
	resting, limited := s.breaker.open() && !s.breaker.probing, !s.limiter.admits(now)
	if !resting && (!limited || s.breaker.open()) {
		return // whoever is at work goes on with it
	}
	cfg, next := s.cfg.Load(), s.breaker.until
	if limited {
		next = laterOf(next, s.limiter.wake())
	}
	// Whoever is at work, or about to be, goes on when its time has come: waking for
	// what is over already would do nothing but wake again, until a processor is free
	// for it, which the waking of thousands would take.
	if s.workers < s.places(cfg) && (s.workers == 0 || now.Before(next)) {
		s.wakeBy(next)
	}
	// What is over and not given up yet gets its attempt, unless the destination rests.
	if expiry := s.expiry(s.oldest, cfg); resting || expiry > s.b.clock.steady(now) {
		s.wakeBy(s.b.clock.at(expiry))
	}
}

// wakeBy makes the timer run at the latest at a time. The caller holds s.mu.
func (s *subscription) wakeBy(at time.Time) {
	steady := s.b.clock.steady(at)
	if s.wakeAt != 0 && s.wakeAt <= steady || s.deleted || s.draining {
		return
	}
	s.wakeAt = steady
	d := max(time.Until(at), 0)
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.wake)
	} else {
		s.timer.Reset(d)
	}
}

// signalRoom tells a dispatcher that waits that there is a place. The caller holds
// s.mu.
func (s *subscription) signalRoom() {
	if share := s.share(); s.waiting && s.queue.len() <= maxReady-min(roomAtOnce, maxReady/2) && s.occupied() <= share-min(roomAtOnce, share/2) {
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
	if s.mayBoard() {
		s.b.elevator.call()
	}
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
