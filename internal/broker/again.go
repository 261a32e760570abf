package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// LogReplay delivers a past range of the log to one event subscription once more.
// Each event is a new delivery with the id, etag and sequencer it always had. The
// replay is a stored job with a position: a start goes on from there. The position
// is stored, about every second, after the deliveries before it are in the journal,
// so a crash repeats at most those of the last second.
//
// A replay does not hold the log: history that is purged before the replay comes to
// it is passed over and counted as missed, and an event whose history goes before
// its delivery succeeds is given up.
type LogReplay struct {
	ID       string        `json:"id"`
	UID      resource.UID  `json:"uid"` // of the event subscription
	Topic    resource.UID  `json:"topic"`
	From     time.Time     `json:"from"` // by the time of logging, included
	To       time.Time     `json:"to"`   // not included
	Filter   filter.Filter `json:"filter"`
	Rate     float64       `json:"rate"` // events a second, 0 = as fast as the handler takes them
	Created  time.Time     `json:"created"`
	By       string        `json:"by"` // who asked for it
	State    ReplayState   `json:"state"`
	Ended    time.Time     `json:"ended,omitzero"`
	Begin    uint64        `json:"begin"`    // first frame of the range
	End      uint64        `json:"end"`      // the frame behind it
	Next     uint64        `json:"next"`     // position to go on from
	Examined uint64        `json:"examined"` // events of the topic
	Matched  uint64        `json:"matched"`  // of them, wanted by the filter and by the event subscription's own
	Replayed uint64        `json:"replayed"` // of them, delivered or on their way as new deliveries
	Skipped  uint64        `json:"skipped"`  // of them, on their way already
	Missed   uint64        `json:"missed"`   // frames that were purged before
}

// Progress is how much of the range is done, 0 to 1.
func (j *LogReplay) Progress() float64 {
	if j.State == ReplayDone || j.End <= j.Begin {
		return 1
	}
	return min(float64(engine.Position(j.Next).Seq()-j.Begin)/float64(j.End-j.Begin), 1)
}

// ReplayState is where a replay of the log stands.
type ReplayState string

// The states. A running replay ends by itself, by Cancel, or with its event
// subscription.
const (
	ReplayRunning  ReplayState = "running"
	ReplayDone     ReplayState = "done" // every event is on its way
	ReplayCanceled ReplayState = "canceled"
	ReplayEnded    ReplayState = "eventSubscriptionGone"
)

const (
	replayPrefix     = "replays/"
	maxReplaysOpen   = 1000                   // deliveries of a replay that are not settled: live ones keep their room
	replayRest       = 100 * time.Millisecond // until the next look for room
	replayStored     = time.Second            // how often the position is stored
	replayBatch      = 500                    // events after which it is stored at the latest
	maxReplaysListed = 50                     // ended replays of one event subscription that are remembered
)

// replayer runs replays of the log, one goroutine each.
type replayer struct {
	b *Broker

	mu      sync.Mutex
	jobs    map[string]*LogReplay         // the newest state of each, replaced as a whole
	cancels map[string]context.CancelFunc // of those that run
	start   chan string
}

var errCanceled = errors.New("the replay was canceled")

func newReplayer(b *Broker) *replayer {
	return &replayer{b: b, jobs: map[string]*LogReplay{}, cancels: map[string]context.CancelFunc{}, start: make(chan string)}
}

// load reads the stored replays.
func (r *replayer) load(ctx context.Context) error {
	keys, err := r.b.cfg.Work.Keys(ctx, replayPrefix)
	if err != nil {
		return err
	}
	for _, key := range keys {
		raw, found, err := r.b.cfg.Work.Get(ctx, key)
		if err != nil {
			return err
		}
		job := &LogReplay{}
		if !found {
			continue
		}
		if err := json.Unmarshal(raw, job); err != nil {
			return fmt.Errorf("replay %q of the work table: %w", key, err)
		}
		job.End = min(job.End, r.b.startLast+1) // of a log that lost its end: what comes there is not of the range
		r.mu.Lock()
		r.jobs[job.ID] = job
		r.mu.Unlock()
	}
	return nil
}

func (r *replayer) run(ctx context.Context) error {
	if r.b.cfg.Work == nil {
		<-ctx.Done()
		return nil
	}
	if err := r.load(ctx); err != nil && ctx.Err() == nil {
		r.b.log.Error("replays cannot be read; they go on after the next start", telemetry.Error, err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	begin := func(id string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		job := r.jobs[id]
		if job == nil || job.State != ReplayRunning || r.cancels[id] != nil {
			return
		}
		working, cancel := context.WithCancel(ctx)
		r.cancels[id] = cancel
		running.Go(func() {
			defer cancel()
			r.work(ctx, working, *job)
			r.mu.Lock()
			delete(r.cancels, id)
			r.mu.Unlock()
		})
	}
	r.mu.Lock()
	var ids []string
	for id := range r.jobs {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	for _, id := range ids {
		begin(id)
	}
	for {
		select {
		case id := <-r.start:
			begin(id)
		case <-ctx.Done():
			return nil
		}
	}
}

// store keeps the state of a replay, durably and for whoever asks.
func (r *replayer) store(ctx context.Context, job LogReplay) error {
	raw, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("encode replay %s: %w", job.ID, err)
	}
	if err := r.b.cfg.Work.Put(ctx, replayPrefix+job.ID, raw); err != nil {
		return err
	}
	r.mu.Lock()
	r.jobs[job.ID] = &job
	r.mu.Unlock()
	return nil
}

// ReplayLog begins to deliver a range of the log once more. The caller has made the
// range, the filter and the rate of job; the rest is filled in. An event
// subscription has one replay at a time.
func (b *Broker) ReplayLog(ctx context.Context, job LogReplay) (LogReplay, error) {
	s := b.lookup(uint64(job.UID))
	if s == nil {
		return job, fault.New(fault.Conflict, "EventSubscriptionNotActive", "The event subscription is not active: it gets no events, and no replay of any.")
	}
	var err error
	if job.Begin, job.End, err = b.frameRange(ctx, job.From, job.To); err != nil {
		return job, err
	}
	job.ID, job.Created, job.State = uuid.NewString(), time.Now().UTC(), ReplayRunning
	job.Next = uint64(engine.At(job.Begin, 0))
	r := b.replayer
	r.mu.Lock()
	for _, other := range r.jobs {
		if other.UID == job.UID && other.State == ReplayRunning {
			r.mu.Unlock()
			return job, fault.New(fault.Conflict, "ReplayInProgress",
				"Replay %s to this event subscription is still running. Wait until it is done, or cancel it.", other.ID)
		}
	}
	r.jobs[job.ID] = &job // so that no other begins meanwhile
	r.mu.Unlock()
	if err := r.store(ctx, job); err != nil {
		r.mu.Lock()
		delete(r.jobs, job.ID)
		r.mu.Unlock()
		return job, fmt.Errorf("store the replay: %w", err)
	}
	b.log.Info("replay of the log began", telemetry.EventSubscription, s.cfg.Load().id, "replay", job.ID, "from", job.From, "to", job.To, "rate", job.Rate, "by", job.By)
	r.forgetOld(ctx, job.UID)
	select {
	case r.start <- job.ID:
	case <-ctx.Done(): // it begins at the next start
	}
	return job, nil
}

// forgetOld lets the oldest ended replays of an event subscription go.
func (r *replayer) forgetOld(ctx context.Context, uid resource.UID) {
	ended := slices.DeleteFunc(r.list(uid), func(j LogReplay) bool { return j.State == ReplayRunning })
	for len(ended) > maxReplaysListed {
		id := ended[0].ID
		ended = ended[1:]
		if r.b.cfg.Work.Delete(ctx, replayPrefix+id) == nil {
			r.mu.Lock()
			delete(r.jobs, id)
			r.mu.Unlock()
		}
	}
}

// list returns the replays to an event subscription, the oldest first.
func (r *replayer) list(uid resource.UID) []LogReplay {
	r.mu.Lock()
	defer r.mu.Unlock()
	var jobs []LogReplay
	for _, j := range r.jobs {
		if j.UID == uid {
			jobs = append(jobs, *j)
		}
	}
	slices.SortFunc(jobs, func(x, y LogReplay) int { return x.Created.Compare(y.Created) })
	return jobs
}

// LogReplays returns the replays to an event subscription, the oldest first.
func (b *Broker) LogReplays(uid resource.UID) []LogReplay { return b.replayer.list(uid) }

// CancelLogReplay ends a replay: what is on its way stays on its way. One that has
// ended stays as it is; false when there is none of this id.
func (b *Broker) CancelLogReplay(ctx context.Context, uid resource.UID, id string) (LogReplay, bool, error) {
	r := b.replayer
	r.mu.Lock()
	job := r.jobs[id]
	if job == nil || job.UID != uid {
		r.mu.Unlock()
		return LogReplay{}, false, nil
	}
	now := *job
	if now.State != ReplayRunning {
		r.mu.Unlock()
		return now, true, nil
	}
	now.State, now.Ended = ReplayCanceled, time.Now().UTC()
	if cancel := r.cancels[id]; cancel != nil {
		cancel()
	}
	r.mu.Unlock()
	return now, true, r.store(ctx, now)
}

// CountLog counts what a replay of a range would deliver, and delivers nothing.
func (b *Broker) CountLog(ctx context.Context, job LogReplay) (LogReplay, error) {
	s := b.lookup(uint64(job.UID))
	if s == nil {
		return job, fault.New(fault.Conflict, "EventSubscriptionNotActive", "The event subscription is not active: it gets no events, and no replay of any.")
	}
	var err error
	if job.Begin, job.End, err = b.frameRange(ctx, job.From, job.To); err != nil {
		return job, err
	}
	job.Next = uint64(engine.At(job.Begin, 0))
	err = b.walkLog(ctx, s, &job, func(*engine.Frame, int) error { return nil })
	return job, err
}

// frameRange finds the frames that were logged in [from, to).
func (b *Broker) frameRange(ctx context.Context, from, to time.Time) (begin, end uint64, err error) {
	first, last := b.cfg.Log.Bounds()
	find := func(at time.Time) uint64 {
		n := sort.Search(int(last+1-min(first, last+1)), func(i int) bool {
			if err != nil {
				return true
			}
			f, problem := b.cfg.Log.Frame(ctx, first+uint64(i))
			if errors.Is(problem, engine.ErrPurged) || errors.Is(problem, engine.ErrCorrupt) {
				return false // gone meanwhile, so old; a broken one is passed over later
			}
			if problem != nil {
				err = problem
				return true
			}
			return !f.Time.Before(at)
		})
		return first + uint64(n)
	}
	begin, end = find(from), find(to)
	if err != nil {
		return 0, 0, fmt.Errorf("find a range of the log: %w", err)
	}
	return begin, end, nil
}

// walkLog goes through what is left of a job's range and calls do for each event
// that the job's filter and the event subscription's own want. It moves job.Next on.
func (b *Broker) walkLog(ctx context.Context, s *subscription, job *LogReplay, do func(f *engine.Frame, i int) error) error {
	wanted, own := filter.Compile(&job.Filter), s.newest().matcher
	next := engine.Position(job.Next)
	for f, err := range b.frames(ctx, next.Seq()) {
		if errors.Is(err, engine.ErrCorrupt) {
			continue // counted with the next frame
		}
		if err != nil {
			return fmt.Errorf("read the log from frame %d: %w", next.Seq(), err)
		}
		if f.Seq >= job.End {
			break
		}
		if at := engine.Position(job.Next).Seq(); f.Seq > at {
			job.Missed += f.Seq - at
			next = f.Position(0)
		}
		for i := range f.Records {
			pos := f.Position(i)
			if pos < next || !isOf(&f.Records[i], s.stream) {
				continue
			}
			var e event.Event
			if err := e.Parse(f.Records[i].Data, event.Schema(f.Records[i].Schema)); err != nil {
				continue // reported when it was dispatched
			}
			matched := wanted.Match(&e) && own.Match(&e)
			if matched {
				if err := do(f, i); err != nil {
					return err
				}
				job.Matched++
			}
			job.Examined++
			job.Next = uint64(pos + 1)
		}
		job.Next = uint64(engine.At(f.Seq+1, 0))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if at := engine.Position(job.Next).Seq(); at < job.End {
		job.Missed += job.End - at
		job.Next = uint64(engine.At(job.End, 0))
	}
	return nil
}

// work runs one replay until it is done or ctx ends. working also ends when it is
// canceled.
func (r *replayer) work(ctx, working context.Context, job LogReplay) {
	s := r.b.lookup(uint64(job.UID))
	if s != nil {
		pace := pace{next: time.Now(), stored: time.Now()}
		err := r.b.walkLog(working, s, &job, func(f *engine.Frame, i int) error {
			if err := pace.wait(working, job.Rate); err != nil {
				return err
			}
			queued, err := r.queue(working, s, f, i)
			if err != nil {
				return err
			}
			if queued {
				job.Replayed++
			} else {
				job.Skipped++
			}
			// The event at i itself is behind job.Next once walkLog goes on.
			if pace.count++; pace.count < replayBatch && time.Since(pace.stored) < replayStored {
				return nil
			}
			pace.count, pace.stored = 0, time.Now()
			state := job
			state.Matched, state.Examined, state.Next = job.Matched+1, job.Examined+1, uint64(f.Position(i)+1)
			return r.keep(working, state)
		})
		switch {
		case errors.Is(err, errGone):
			s = nil
		case ctx.Err() != nil || working.Err() != nil:
			return // goes on after the next start, or was canceled
		case err != nil:
			r.b.log.Error("replay of the log failed; it goes on after the next start", "replay", job.ID, telemetry.Error, err)
			return
		}
	}
	job.State, job.Ended = ReplayDone, time.Now().UTC()
	if s == nil {
		job.State = ReplayEnded
	}
	if err := r.keep(working, job); err != nil && ctx.Err() == nil && working.Err() == nil {
		r.b.log.Error("the end of a replay cannot be stored", "replay", job.ID, telemetry.Error, err)
		return
	}
	r.b.log.Info("replay of the log ended", "replay", job.ID, "state", string(job.State), "replayed", job.Replayed, "skipped", job.Skipped, "missed", job.Missed)
}

// keep stores how far a replay is, after its deliveries are in the journal.
func (r *replayer) keep(ctx context.Context, job LogReplay) error {
	if err := r.b.journal.sync(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	canceled := r.jobs[job.ID] == nil || r.jobs[job.ID].State != ReplayRunning
	r.mu.Unlock()
	if canceled {
		return errCanceled
	}
	return r.store(ctx, job)
}

var errGone = errors.New("the event subscription is gone")

// queue puts an event of the log into the queue as a replay, when there is room; it
// returns false when the event is on its way already.
func (r *replayer) queue(ctx context.Context, s *subscription, f *engine.Frame, i int) (queued bool, err error) {
	pos := f.Position(i)
	for {
		s.mu.Lock()
		switch {
		case s.deleted:
			s.mu.Unlock()
			return false, errGone
		case s.openAt(pos) != nil || s.lag != 0 && pos >= s.lag || pos.Seq() > r.b.journal.watermark():
			s.mu.Unlock()
			return false, nil
		case len(s.replays) < maxReplaysOpen && s.openN < maxOpen && s.queue.len() < maxReady && !slices.Contains(s.removing, pos):
			d := &delivery{sub: s, pos: pos, published: time.Now().UnixNano(), size: uint32(len(f.Records[i].Data)), replay: true, logged: true}
			s.openN++
			r.b.open.Add(1)
			s.replays = append(s.replays, d)
			s.line(d)
			r.b.journal.dirtied(d)
			r.b.window.keep(f) // its body is wanted in a moment
			s.pump(time.Now())
			s.mu.Unlock()
			return true, nil
		}
		s.mu.Unlock()
		select {
		case <-time.After(replayRest):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// pace keeps a rate, and knows when the position was last stored.
type pace struct {
	next   time.Time
	stored time.Time
	count  int
}

// minPause is the shortest wait: at high rates several events go at once.
const minPause = 10 * time.Millisecond

func (p *pace) wait(ctx context.Context, rate float64) error {
	if rate <= 0 {
		return nil
	}
	now := time.Now()
	if now.After(p.next) {
		p.next = now // time that went by unused is not made up for
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(time.Second) / rate))
	if wait < minPause {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
