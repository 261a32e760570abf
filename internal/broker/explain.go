package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// Explanation is why an event of the log was wanted by an event subscription or
// not, and what became of its delivery.
type Explanation struct {
	Generation uint64 // of the filter that the event met; 0 = that filter is not known any more
	Filter     filter.Filter
	Matches    bool
	Clauses    []filter.Clause
	Delivery   Story
}

// Story is what became of the delivery of one event to one event subscription.
type Story struct {
	State           StoryState `json:"state"`
	Text            string     `json:"text"`             // the state as a sentence
	Replay          bool       `json:"replay,omitempty"` // the open delivery is the replay of a dead letter
	NextAttempt     time.Time  `json:"nextAttempt,omitzero"`
	GivenUpAt       time.Time  `json:"givenUpAt,omitzero"`  // when its time-to-live ends, if that comes before a next attempt
	RestsUntil      time.Time  `json:"restsUntil,omitzero"` // the destination rests after failures
	DeadLetter      *StoryEnd  `json:"deadLetter,omitempty"`
	Attempts        []Attempt  `json:"attempts"`
	HistoryComplete bool       `json:"historyComplete"` // false: attempts may be missing, the journal that had them is purged
}

// StoryEnd names a dead letter.
type StoryEnd struct {
	ID     string `json:"id"`
	Reason Reason `json:"deadLetterReason"`
}

// Attempt is one attempt as the journal keeps it. A replay begins to count at 1
// again.
type Attempt struct {
	Number   int       `json:"number"`
	Start    time.Time `json:"start"`
	Duration float64   `json:"durationMilliseconds"`
	Outcome  string    `json:"outcome"`
	Status   int       `json:"httpStatusCode,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

func (e *attemptEntry) told() Attempt {
	return Attempt{
		Number: e.number, Start: time.UnixMilli(e.start).UTC(), Duration: float64(e.duration) / 1000,
		Outcome: e.outcome.String(), Status: e.status, Detail: e.detail,
	}
}

// StoryState is where a delivery stands.
type StoryState string

// The states. Queued, InFlight, WaitingForRetry and DeadLettering are those of open
// deliveries.
const (
	StoryNotMatched      StoryState = "notMatched"              // a clause of the filter refused the event
	StoryNotActive       StoryState = "notActive"               // its endpoint has not consented: it gets nothing
	StoryTooEarly        StoryState = "beforeEventSubscription" // it was logged before the event subscription began
	StoryExpired         StoryState = "expired"                 // it was logged after the event subscription's expiration
	StoryNotHandedOut    StoryState = "notHandedOut"            // the event subscription lags, or the dispatcher has not come to it
	StoryQueued          StoryState = "queued"                  // it waits for an attempt
	StoryInFlight        StoryState = "inFlight"
	StoryWaitingForRetry StoryState = "waitingForRetry"
	StoryDeadLettering   StoryState = "deadLettering" // given up; the dead letter is being stored
	StoryDeadLettered    StoryState = "deadLettered"
	StoryDelivered       StoryState = "delivered"
	StoryUnknown         StoryState = "unknown" // the history that told of it is purged
)

// standing is what memory holds of one delivery at one moment. Two that are equal
// say that nothing happened between them.
type standing struct {
	open, replay bool
	state        deliveryState
	attempts     uint16
	due, last    int64
	expiry       int64 // when the time-to-live ends, Unix nanoseconds
	started      int64 // of the attempt in flight, Unix nanoseconds
	until        int64 // the receiver in whose hands it is has so long, Unix nanoseconds; 0 = there is none
	pull         bool  // receivers ask for it
	reason       reasonCode
	tried        bool
	lagging      bool // the event subscription is read from the log, and not yet to there
	handedOut    bool // the watermark has passed it
	restsUntil   int64
	paused       bool
	perMinute    int // requests that it is limited to, 0 = it is not
}

// standing looks a position up among the open deliveries.
func (s *subscription) standing(pos engine.Position) standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := standing{paused: s.paused, pull: s.cfg.Load().pull, perMinute: s.limiter.perMinute, lagging: s.lag != 0 && pos >= s.lag, handedOut: pos.Seq() <= s.b.journal.watermark()}
	if s.breaker.open() {
		st.restsUntil = s.breaker.until.UnixNano()
	}
	d := s.openAt(pos)
	if d == nil {
		return st
	}
	if d.state == burying && d.reason.reason() == reasonReplayed {
		st.last = d.last // delivered; its dead letter is on its way out
		return st
	}
	st.open, st.replay, st.state, st.attempts, st.due, st.last = true, d.replay, d.state, d.attempts, d.due, d.last
	st.reason, st.tried = d.reason, d.tried
	st.expiry = d.published + int64(s.cfg.Load().policy.TimeToLive)
	if d.state == inFlight {
		for _, a := range s.flying {
			if slices.Contains(a.deliveries, d) {
				st.started = a.started.UnixNano()
			}
		}
		for _, l := range s.locks.next {
			if l.d == d {
				st.started, st.until = l.started.UnixNano(), l.until.UnixNano()
			}
		}
	}
	return st
}

// openAt returns the open delivery at a position, nil when there is none. The
// caller holds s.mu.
func (s *subscription) openAt(pos engine.Position) *delivery {
	for _, d := range s.replays {
		if d.pos == pos && d.state != closed {
			return d
		}
	}
	for _, list := range [2][]*delivery{s.order, s.parked} {
		from := 0
		if pos.Seq() > s.b.startLast {
			from = len(s.before(list, pos.Seq()))
		}
		for _, d := range s.before(list, pos.Seq()+1)[from:] {
			if d.pos == pos && d.state != closed {
				return d
			}
		}
	}
	return nil
}

// Explain tells why a logged event is wanted by an event subscription or not, by
// the filter that was in force at its position, and what became of it. It returns
// false when the event subscription is not active. What it costs past.go says; it
// flushes the journal once where attempts may be found, and takes the lock of the
// event subscription as the figures do.
func (b *Broker) Explain(ctx context.Context, uid resource.UID, e *LoggedEvent) (*Explanation, bool, error) {
	s := b.lookup(uint64(uid))
	if s == nil {
		return nil, false, nil
	}
	var parsed event.Event
	if err := parsed.Parse(e.Event, e.Schema); err != nil {
		return nil, true, fmt.Errorf("event at %s: %w", e.Position, err)
	}
	// Memory and journal are read one after the other: again, when something happened
	// meanwhile.
	for try := 0; ; try++ {
		before := s.standing(e.Position)
		x, err := b.explain(ctx, s, e, &parsed, before)
		if err != nil {
			return nil, true, err
		}
		if try == 3 || s.standing(e.Position) == before {
			return x, true, nil
		}
	}
}

func (b *Broker) explain(ctx context.Context, s *subscription, e *LoggedEvent, parsed *event.Event, st standing) (*Explanation, error) {
	letter, err := b.letter(ctx, (&delivery{sub: s, pos: e.Position}).letterID())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if letter != nil && letter.Sequencer != e.Sequencer {
		letter = nil // of the event that was here before: the log lost it
	}
	x := &Explanation{}
	p := &past{uid: s.uid, pos: e.Position, since: e.Generation}
	tooEarly, err := b.filterAt(ctx, s, p, x)
	if err != nil {
		return nil, err
	}
	m := filter.Compile(&x.Filter)
	x.Matches, x.Clauses = m.Match(parsed), m.Clauses(parsed)
	last := time.Time{}
	switch {
	case st.last != 0:
		last = time.Unix(0, st.last)
	case letter != nil && !st.open:
		last = letter.LastDeliveryAttemptTime
	}
	untried := st.open && st.attempts == 0 && !st.replay
	unwanted := !st.open && letter == nil && (tooEarly || x.Generation != 0 && !x.Matches)
	if !untried && !unwanted {
		// What happened before st was taken is in the journal after this.
		if err := b.journal.sync(ctx); err != nil {
			return nil, err
		}
		if err := b.readAttempts(ctx, p, last); err != nil {
			return nil, err
		}
	}
	x.Delivery = storyOf(st, p, letter)
	if x.Delivery.State == "" {
		x.Delivery.State, x.Delivery.Text = withoutTrace(x, st, tooEarly, s.cfg.Load().expiration, e.PublishTime)
	}
	return x, nil
}

// filterAt puts the filter in force at the event's position into x: from memory, or
// from the journal when it has changed since and nothing waits for it any more. It
// returns true when there was none yet.
func (b *Broker) filterAt(ctx context.Context, s *subscription, p *past, x *Explanation) (tooEarly bool, err error) {
	filters := s.filters()
	number, raw := uint64(0), filters[len(filters)-1].raw
	if g := generationAt(filters, p.pos.Seq()); g != nil {
		number, raw = g.number, g.raw
	} else if g := &filters[0]; g.number <= 1 {
		tooEarly, number, raw = true, g.number, g.raw
	} else {
		if err := b.readFilters(ctx, p); err != nil {
			return false, err
		}
		if g := p.inForce; g != nil {
			number, raw = g.number, g.filter
		} else if g := p.earliest; g != nil && g.number <= 1 {
			tooEarly, number, raw = true, g.number, g.filter
		}
	}
	x.Generation = number
	if err := json.Unmarshal(raw, &x.Filter); err != nil {
		return false, fmt.Errorf("filter of event subscription %016x: %w", s.uid, err)
	}
	return tooEarly, nil
}

// storyOf tells what memory, journal and dead letters say; without a state when
// none of them knows the delivery.
func storyOf(st standing, p *past, letter *Letter) Story {
	story := Story{Attempts: []Attempt{}, HistoryComplete: !p.purged}
	for i := range p.attempts {
		story.Attempts = append(story.Attempts, p.attempts[i].told())
	}
	if letter != nil {
		story.DeadLetter = &StoryEnd{ID: letter.ID, Reason: letter.DeadLetterReason}
	}
	switch {
	case st.open:
		story.Replay = st.replay
		story.tellOpen(st)
	case p.delivered():
		last := story.Attempts[len(story.Attempts)-1]
		story.State, story.DeadLetter = StoryDelivered, nil
		story.Text = fmt.Sprintf("Delivered at %s, with attempt %d.", p.attempts[len(p.attempts)-1].end().UTC().Format(time.RFC3339), last.Number)
	case letter != nil:
		story.State = StoryDeadLettered
		story.Text = fmt.Sprintf("Dead-lettered after %d attempts: %s.", letter.DeliveryAttempts, letter.DeadLetterReason)
	}
	return story
}

// tellOpen tells of an open delivery.
func (story *Story) tellOpen(st standing) {
	rest := ""
	if st.paused && st.state != inFlight && st.state != burying {
		rest = " The event subscription is paused: nothing is attempted, and nothing given up, until it is resumed."
	} else if st.restsUntil != 0 && st.state != inFlight && st.state != burying {
		story.RestsUntil = time.Unix(0, st.restsUntil).UTC()
		rest = fmt.Sprintf(" The destination rests after failures, until %s.", story.RestsUntil.Format(time.RFC3339))
	}
	switch st.state {
	case delayed:
		story.State = StoryWaitingForRetry
		due := time.Unix(0, st.due).UTC()
		if st.tried && st.due >= st.expiry {
			story.GivenUpAt = due
			story.Text = fmt.Sprintf("Waits after %d attempts, and is dead-lettered at %s, when its time-to-live ends before a next attempt is due.", st.attempts, due.Format(time.RFC3339))
		} else {
			story.NextAttempt = due
			story.Text = fmt.Sprintf("Waits for its next attempt, number %d, at %s.", st.attempts+1, due.Format(time.RFC3339))
		}
	case inFlight:
		story.State = StoryInFlight
		story.Text = fmt.Sprintf("Attempt %d is under way since %s.", st.attempts+1, time.Unix(0, st.started).UTC().Format(time.RFC3339))
		if st.until != 0 {
			story.Text = fmt.Sprintf("Received at %s, attempt %d: its receiver has until %s to answer.",
				time.Unix(0, st.started).UTC().Format(time.RFC3339), st.attempts+1, time.Unix(0, st.until).UTC().Format(time.RFC3339))
		}
	case burying:
		story.State = StoryDeadLettering
		story.Text = fmt.Sprintf("Given up, %s: its dead letter is being stored.", st.reason.reason())
	default:
		story.State = StoryQueued
		story.Text = fmt.Sprintf("Waits in the queue for attempt %d.", st.attempts+1)
		if st.pull {
			story.Text = fmt.Sprintf("Waits for somebody to receive it, attempt %d.", st.attempts+1)
		}
		if st.perMinute != 0 && rest == "" {
			rest = fmt.Sprintf(" The event subscription is limited to %d requests a minute.", st.perMinute)
		}
	}
	if story.Replay {
		story.Text = "Replay of a dead letter. " + story.Text
	}
	story.Text += rest
}

// withoutTrace tells why neither memory nor journal nor dead letters know a
// delivery.
func withoutTrace(x *Explanation, st standing, tooEarly bool, expiration, published time.Time) (StoryState, string) {
	switch {
	case tooEarly:
		return StoryTooEarly, "Not delivered: the event was logged before this event subscription began."
	case x.Generation == 0 && x.Delivery.HistoryComplete:
		return StoryUnknown, "No attempt was made. Why is not known any more: the filter of that time is purged, and the clauses are judged by the present one."
	case x.Generation == 0:
		return StoryUnknown, "Not known any more: the filter of that time and the attempts are purged. The clauses are judged by the present filter."
	case !x.Matches:
		return StoryNotMatched, "Not delivered: the filter does not want the event."
	case !expiration.IsZero() && !published.Before(expiration):
		return StoryExpired, fmt.Sprintf("Not delivered: the event was logged after the event subscription's expiration, %s.", expiration.UTC().Format(time.RFC3339))
	case st.lagging && st.paused:
		return StoryNotHandedOut, "Not handed out yet: the event subscription is paused and will read the event from the log when it is resumed."
	case st.lagging:
		return StoryNotHandedOut, "Not handed out yet: the event subscription lags and will read the event from the log."
	case !st.handedOut:
		return StoryNotHandedOut, "Not handed out yet: the dispatcher has not come to it."
	default:
		return StoryUnknown, "Not known any more: the delivery is settled, and the history that told how is purged."
	}
}
