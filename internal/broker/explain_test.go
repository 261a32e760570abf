package broker

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// explained asks for the explanation of the event with an id.
func explained(t *testing.T, p *process, es *resource.EventSubscription, id string) *Explanation {
	t.Helper()
	e, err := p.FindEvent(t.Context(), testStream, id)
	if err != nil {
		t.Fatal(err)
	}
	x, active, err := p.Explain(t.Context(), es.UID, &e)
	if err != nil || !active {
		t.Fatalf("explain event %s: active %v, %v", id, active, err)
	}
	if len(x.Clauses) != 3+len(x.Filter.AdvancedFilters) {
		t.Errorf("event %s has %d clauses", id, len(x.Clauses))
	}
	return x
}

// line is a story on one line: state, attempts and what is special.
func (story *Story) line() string {
	out := string(story.State)
	for _, a := range story.Attempts {
		out += fmt.Sprintf(" %d:%s", a.Number, a.Outcome)
	}
	if story.DeadLetter != nil {
		out += " letter:" + string(story.DeadLetter.Reason)
	}
	if story.Replay {
		out += " replay"
	}
	if !story.HistoryComplete {
		out += " incomplete"
	}
	return out
}

func TestExplainStories(t *testing.T) {
	refused := Response{Outcome: BadRequest, Status: 400, Detail: "4xx"}
	blocked := func(ctx context.Context) Response { <-ctx.Done(); return Response{Outcome: Canceled} }
	for _, tt := range []struct {
		name    string
		filter  filter.Filter
		tune    func(es *resource.EventSubscription)
		answer  func(ctx context.Context, n int) Response // to attempt n, from 1
		after   time.Duration
		want    string
		text    string
		explain func(t *testing.T, s *Story, began time.Time)
	}{
		{name: "delivered", answer: func(context.Context, int) Response { return answerOK }, want: "delivered 1:Delivered", text: "with attempt 1",
			explain: func(t *testing.T, s *Story, began time.Time) {
				if a := s.Attempts[0]; a.Status != 200 || a.Start.Sub(began.Truncate(time.Millisecond)) != 0 || a.Detail != "" {
					t.Errorf("attempt %+v", a)
				}
			}},
		{name: "not matched", filter: filter.Filter{SubjectBeginsWith: "b"}, want: "notMatched", text: "the filter does not want the event"},
		{name: "expired", tune: func(es *resource.EventSubscription) { es.Expiration = time.Now().Add(-time.Second) }, want: "expired", text: "after the event subscription's expiration"},
		{name: "waits for a retry", answer: func(context.Context, int) Response { return answerFailed }, after: time.Minute, want: "waitingForRetry 1:GenericError 2:GenericError 3:GenericError", text: "next attempt, number 4",
			explain: func(t *testing.T, s *Story, began time.Time) {
				if wait := s.NextAttempt.Sub(began); wait < 100*time.Second || wait > 110*time.Second {
					t.Errorf("the next attempt comes after %s", wait)
				}
				if a := s.Attempts[1]; a.Status != 500 || a.Detail != "5xx" || a.Start.Sub(began) < 10*time.Second {
					t.Errorf("attempt %+v", a)
				}
			}},
		{name: "is given up between two attempts", tune: func(es *resource.EventSubscription) { es.RetryPolicy.EventTimeToLive = 1 },
			answer: func(context.Context, int) Response { return answerFailed }, after: 45 * time.Second, want: "waitingForRetry 1:GenericError 2:GenericError 3:GenericError", text: "time-to-live ends",
			explain: func(t *testing.T, s *Story, began time.Time) {
				if !s.NextAttempt.IsZero() || s.GivenUpAt.Sub(began) != time.Minute {
					t.Errorf("%+v", s)
				}
			}},
		{name: "delivered at the third attempt", answer: func(_ context.Context, n int) Response {
			if n < 3 {
				return answerFailed
			}
			return answerOK
		}, after: time.Hour, want: "delivered 1:GenericError 2:GenericError 3:Delivered", text: "with attempt 3"},
		{name: "in flight", answer: func(ctx context.Context, _ int) Response { return blocked(ctx) }, after: time.Second, want: "inFlight", text: "Attempt 1 is under way since"},
		{name: "answered late", answer: func(ctx context.Context, _ int) Response { return after(ctx, 35*time.Second, answerOK) }, after: time.Hour, want: "delivered 1:TimedOut 1:Delivered"},
		{name: "dead-lettered", answer: func(context.Context, int) Response { return refused }, want: "deadLettered 1:BadRequest letter:" + string(ReasonBadRequest), text: "after 1 attempts"},
		{name: "rests", answer: func(context.Context, int) Response { return Response{Outcome: NotFound, Status: 404} }, after: time.Minute, want: "waitingForRetry 1:NotFound", text: "rests after failures",
			explain: func(t *testing.T, s *Story, began time.Time) {
				if s.RestsUntil.Sub(began) != 5*time.Minute {
					t.Errorf("rests until %s after the beginning", s.RestsUntil.Sub(began))
				}
			}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			n := atomic.Int32{}
			h := &handler{answer: func(ctx context.Context, _ asked) Response {
				if tt.answer == nil {
					t.Error("it was sent")
					return answerOK
				}
				return tt.answer(ctx, int(n.Add(1)))
			}}
			es := testSubscription(0, tt.filter)
			if tt.tune != nil {
				tt.tune(es)
			}
			p := one(t, h, es)
			began := time.Now()
			publish(t, p.Broker, 0, 1, "a")
			synctest.Wait()
			time.Sleep(tt.after)
			synctest.Wait()
			x := explained(t, p, es, "0")
			if got := x.Delivery.line(); got != tt.want || !strings.Contains(x.Delivery.Text, tt.text) {
				t.Errorf("story %s\n want %s\n text %s", got, tt.want, x.Delivery.Text)
			}
			if x.Generation != 1 || x.Matches == (x.Delivery.State == StoryNotMatched) {
				t.Errorf("generation %d, matches %v", x.Generation, x.Matches)
			}
			if tt.explain != nil {
				tt.explain(t, &x.Delivery, began)
			}
			finish(t, p)
		})
	}
}

// TestExplainReplay follows a dead letter through its replays.
func TestExplainReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Pointer[Response]
		h := &handler{answer: func(context.Context, asked) Response { return *answer.Load() }}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		answer.Store(&Response{Outcome: Forbidden, Status: 403})
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Second)
		const forbidden = " 1:Forbidden letter:UndeliverableDueToHttpForbidden"
		for i, step := range []struct {
			replay bool
			answer Response
			wait   time.Duration
			want   string
		}{
			{false, answerFailed, 0, "deadLettered" + forbidden},
			{true, answerFailed, 0, "queued" + forbidden + " replay"}, // the destination rests
			{false, answerFailed, 5 * time.Minute, "waitingForRetry 1:Forbidden 1:GenericError letter:UndeliverableDueToHttpForbidden replay"},
			{false, answerOK, time.Hour, "delivered 1:Forbidden 1:GenericError 2:Delivered"},
		} {
			answer.Store(&step.answer)
			if step.replay {
				if err := p.Replay(t.Context(), letters(t, p.Broker)[0].ID); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(step.wait)
			synctest.Wait()
			if got := explained(t, p, es, "0").Delivery.line(); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
		finish(t, p)
	})
}

// TestExplainWhatWaits: queued behind others, lagging, and not matched while it
// lags.
func TestExplainWhatWaits(t *testing.T) {
	smallBounds(t, 4, 8)
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		h := &handler{answer: func(ctx context.Context, _ asked) Response {
			select {
			case <-free:
				return answerOK
			case <-ctx.Done():
				return Response{Outcome: Canceled}
			}
		}}
		es := testSubscription(0, filter.Filter{SubjectBeginsWith: "a"})
		p := one(t, h, es)
		for i := range 20 {
			publish(t, p.Broker, i, 1, "a")
		}
		publish(t, p.Broker, 20, 1, "b")
		synctest.Wait()
		for id, want := range map[string]string{"0": "inFlight", "2": "queued", "19": "notHandedOut", "20": "notMatched"} {
			if x := explained(t, p, es, id); x.Delivery.line() != want {
				t.Errorf("event %s: %s, want %s: %s", id, x.Delivery.line(), want, x.Delivery.Text)
			}
		}
		close(free)
		settleAll(t, p)
		for id, want := range map[string]string{"0": "delivered 1:Delivered", "19": "delivered 1:Delivered", "20": "notMatched"} {
			if x := explained(t, p, es, id); x.Delivery.line() != want {
				t.Errorf("event %s: %s, want %s", id, x.Delivery.line(), want)
			}
		}
		finish(t, p)
	})
}

// countingJournal counts what is read of it, and may have lost its oldest messages.
type countingJournal struct {
	Journal
	read  atomic.Int32
	first atomic.Uint64
}

func (j *countingJournal) Read(ctx context.Context, from uint64) iter.Seq2[engine.JournalEntry, error] {
	return func(yield func(engine.JournalEntry, error) bool) {
		for m, err := range j.Journal.Read(ctx, max(from, j.first.Load())) {
			j.read.Add(1)
			if !yield(m, err) {
				return
			}
		}
	}
}

func (j *countingJournal) Bounds() (first, last uint64) {
	_, last = j.Journal.Bounds()
	return max(j.first.Load(), 1), last
}

// TestExplainThePast looks at old events of a long journal: the filter of their
// time is told though it changed since, also after a restart, at the cost of a few
// messages; and what is purged is not made up.
func TestExplainThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		journal := &countingJournal{}
		open := func() *handle {
			hold := store.open(-1)
			hold.tune = func(c *Config) { journal.Journal = c.Journal; c.Journal = journal }
			return hold
		}
		const second = 2000 // messages, more or less
		es := testSubscription(0, filter.Filter{SubjectBeginsWith: "a"})
		senders := map[string]Sender{"es0": &handler{t: t}, "es1": &handler{t: t}}
		p := startProcess(t, open(), senders, es)
		at := func(from, n int, subject string) {
			for i := range n {
				publish(t, p.Broker, from+i, 1, subject)
				time.Sleep(30 * time.Millisecond) // a flush each
			}
		}
		at(0, second, "a")
		es = withFilter(es, filter.Filter{SubjectBeginsWith: "b"})
		activate(t, p.Broker, es)
		at(second, second, "a")
		es = withFilter(es, filter.Filter{})
		activate(t, p.Broker, es)
		at(2*second, second, "a")
		late := testSubscription(1, filter.Filter{})
		activate(t, p.Broker, late)
		publish(t, p.Broker, 3*second, 1, "a")
		settleAll(t, p)
		check := func(when string) {
			t.Helper()
			for _, tt := range []struct {
				es         *resource.EventSubscription
				event      int
				generation uint64
				want       string
				most       int32 // messages read
			}{
				{es, 0, 1, "delivered 1:Delivered", 400}, {es, 700, 1, "delivered 1:Delivered", 400}, {es, second - 1, 1, "delivered 1:Delivered", 400},
				{es, second, 2, "notMatched", 400}, {es, 2*second - 1, 2, "notMatched", second + 400}, // nothing but the watermark was written since its filter was stated

				{es, 2 * second, 3, "delivered 1:Delivered", 400}, {es, 3 * second, 3, "delivered 1:Delivered", 400},
				{late, 0, 1, "beforeEventSubscription", 0}, {late, 3*second - 1, 1, "beforeEventSubscription", 0}, {late, 3 * second, 1, "delivered 1:Delivered", 400},
			} {
				before := journal.read.Load()
				x := explained(t, p, tt.es, strconv.Itoa(tt.event))
				if read := journal.read.Load() - before; x.Delivery.line() != tt.want || x.Generation != tt.generation || read > tt.most {
					t.Errorf("%s, %s, event %d: %s, generation %d, %d messages read; want %s, %d", when, tt.es.Name, tt.event, x.Delivery.line(), x.Generation, read, tt.want, tt.generation)
				}
			}
		}
		check("in the same process")
		finish(t, p)
		p = startProcess(t, open(), senders, es, late)
		check("after a restart")

		first, err := p.pastBegins(t.Context(), &past{pos: engine.At(second+1000, 0)}) // in the time of the second filter
		if err != nil {
			t.Fatal(err)
		}
		journal.first.Store(first)
		for _, tt := range []struct {
			event      int
			generation uint64
			want       string
		}{
			{0, 0, "unknown incomplete"}, {second + 1, 0, "unknown incomplete"}, {2*second - 1, 0, "unknown"}, {2*second + 1, 3, "delivered 1:Delivered"},
		} {
			x := explained(t, p, es, strconv.Itoa(tt.event))
			if x.Delivery.line() != tt.want || x.Generation != tt.generation {
				t.Errorf("purged, event %d: %s, generation %d: %s", tt.event, x.Delivery.line(), x.Generation, x.Delivery.Text)
			}
		}
		finish(t, p)
	})
}

func TestExplainNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es := testSubscription(0, filter.Filter{})
		p := one(t, &handler{}, es)
		publish(t, p.Broker, 0, 1, "a")
		e, err := p.FindEvent(t.Context(), testStream, "0")
		if err != nil {
			t.Fatal(err)
		}
		if x, active, err := p.Explain(t.Context(), 99, &e); x != nil || active || err != nil {
			t.Errorf("an event subscription that nobody knows: %+v %v %v", x, active, err)
		}
		if _, active, err := p.Explain(t.Context(), es.UID, &LoggedEvent{Event: []byte("{"), Schema: event.EventGridSchema}); !active || err == nil {
			t.Error("an event that is none is explained")
		}
		finish(t, p)
	})
}

// TestExplainWhileItHappens asks for events on their way, from publish to success:
// no moment of it looks like another story.
func TestExplainWhileItHappens(t *testing.T) {
	var n atomic.Int64
	h := &handler{answer: func(ctx context.Context, _ asked) Response {
		took := time.Duration(n.Add(1)%8) * time.Millisecond
		if took == 0 {
			return Response{Outcome: BadRequest, Status: 400}
		}
		return after(ctx, took, answerOK)
	}}
	es := testSubscription(0, filter.Filter{})
	p := one(t, h, es)
	const events = 400
	published := make(chan int, events)
	go func() {
		defer close(published)
		for i := range events {
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{testEvent(strconv.Itoa(i), "a")}); err != nil {
				t.Error(err)
				return
			}
			published <- i
		}
	}()
	seen := map[StoryState]int{}
	ask := func(i int) {
		x := explained(t, p, es, fmt.Sprintf("%012x%04x", i+1, 0))
		seen[x.Delivery.State]++
		switch x.Delivery.State {
		case StoryNotHandedOut, StoryQueued, StoryInFlight, StoryDeadLettering:
		case StoryDelivered, StoryDeadLettered:
			if len(x.Delivery.Attempts) != 1 {
				t.Errorf("event %d: %s", i, x.Delivery.line())
			}
		default:
			t.Errorf("event %d: %s: %s", i, x.Delivery.line(), x.Delivery.Text)
		}
	}
	for i := range published {
		ask(i)
	}
	for i := 0; p.Open(es.UID) > 0; i++ {
		ask(i % events)
	}
	t.Logf("states seen: %v", seen)
	finish(t, p)
}

// TestExplainOnTheEngine reads a day of attempts back from the real journal, in
// which other deliveries and many flushes stand between them, and after a restart.
func TestExplainOnTheEngine(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		failing := &handler{t: t, answer: always(answerFailed)}
		es, other := testSubscription(0, filter.Filter{SubjectBeginsWith: "first"}), testSubscription(1, filter.Filter{})
		senders := map[string]Sender{"es0": failing, "es1": &handler{t: t}}
		start := func() (b *Broker, stop func()) {
			e, err := engine.Open(t.Context(), engine.Options{Dir: dir, SyncInterval: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			b, err = New(ctx, Config{
				Log: e.Partition(), Journal: e.Partition().Journal(), DeadLetters: e.DeadLetters(), Logger: slog.New(slog.DiscardHandler),
				NewSender: func(es *resource.EventSubscription) (Sender, error) { return senders[es.Name], nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, es := range []*resource.EventSubscription{es, other} {
				if err := b.Activate(ctx, es); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() { done <- b.Run(ctx) }()
			if err := b.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			return b, func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		check := func(b *Broker, id, want string) {
			t.Helper()
			e, err := b.FindEvent(t.Context(), testStream, id)
			if err != nil {
				t.Fatal(err)
			}
			x, _, err := b.Explain(t.Context(), es.UID, &e)
			if err != nil {
				t.Fatal(err)
			}
			if got := x.Delivery.line(); got != want {
				t.Errorf("event %s: %s, want %s", id, got, want)
			}
		}
		b, stop := start()
		publish(t, b, 0, 1, "first")
		for i := range 310 {
			publish(t, b, 1+i, 1, "other")
			time.Sleep(time.Minute)
		}
		want := "waitingForRetry"
		for i := range 9 {
			want += fmt.Sprintf(" %d:GenericError", i+1)
		}
		check(b, "0", want)
		check(b, "250", "notMatched")
		stop()
		b, stop = start()
		check(b, "0", want)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		check(b, "0", "deadLettered"+strings.TrimPrefix(want, "waitingForRetry")+" 10:GenericError 11:GenericError letter:TimeToLiveExceeded")
		stop()
	})
}

// TestExplainRetriedUnderAnotherFilter: an attempt that was made before the filter
// changed is told once, though the journal is read for the filter first.
func TestExplainRetriedUnderAnotherFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es := testSubscription(0, filter.Filter{})
		failing := &handler{t: t, answer: func(context.Context, asked) Response { return answerFailed }}
		p := startProcess(t, newStore().open(-1), map[string]Sender{"es0": failing}, es)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Second)
		for range 3 { // so that nothing in memory tells of the first filter
			es = withFilter(es, filter.Filter{SubjectBeginsWith: "b"})
			activate(t, p.Broker, es)
			publish(t, p.Broker, 1, 1, "a")
			time.Sleep(time.Second)
		}
		time.Sleep(20 * time.Second)
		x := explained(t, p, es, "0")
		if got := x.Delivery.line(); got != "waitingForRetry 1:GenericError 2:GenericError" || x.Generation != 1 {
			t.Errorf("%s, generation %d", got, x.Generation)
		}
		finish(t, p)
	})
}
