package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestLateAnswers: after 30 s the attempt has failed; an answer within three
// minutes still counts. Source: spec/delivery.md section 3.2.
func TestLateAnswers(t *testing.T) {
	late := func(n int, d time.Duration, r Response) func(context.Context, asked) Response {
		return func(ctx context.Context, a asked) Response { // the first n attempts are late
			if a.Count < n {
				if d > a.Hold {
					return after(ctx, a.Hold, Response{Outcome: TimedOut})
				}
				return after(ctx, d, r)
			}
			return answerOK
		}
	}
	for _, tt := range []struct {
		name     string
		answer   func(context.Context, asked) Response
		attempts int
		failed   uint64
	}{
		{"in time", late(9, 29*time.Second, answerOK), 1, 0},
		{"success after 35 s cancels the retry", late(9, 35*time.Second, answerOK), 1, 1},
		{"success after the retry began is a duplicate", late(1, 60*time.Second, answerOK), 2, 1},
		{"failure after 35 s changes nothing", late(1, 35*time.Second, answerFailed), 2, 1},
		{"no answer at all", late(1, time.Hour, answerOK), 2, 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{answer: tt.answer}
			es := testSubscription(0, filter.Filter{})
			p := one(t, h, es)
			publish(t, p.Broker, 0, 1, "a")
			time.Sleep(32 * time.Second)
			synctest.Wait()
			if st, _ := p.Status(es.UID); st.FailedAttempts != tt.failed || st.Waiting != int(tt.failed) {
				t.Errorf("after 32 s: %+v", st)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := len(h.got()); n != tt.attempts {
				t.Errorf("%d attempts, want %d", n, tt.attempts)
			}
			if st, _ := p.Status(es.UID); st.Delivered != 1 || st.Open != 0 || st.InFlight != 0 {
				t.Errorf("at the end: %+v", st)
			}
			finish(t, p)
		})
	}
}

// TestHeldAttempts: at most 64 attempts of one event subscription live past 30 s.
func TestHeldAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		held, cut, flying, most := 0, 0, 0, 0
		h := &handler{}
		h.answer = func(ctx context.Context, a asked) Response {
			if !slow.Load() {
				return answerOK
			}
			h.mu.Lock()
			flying++
			most = max(most, flying)
			switch a.Hold {
			case holdTime:
				held++
			case answerTime:
				cut++
			default:
				t.Errorf("hold %s", a.Hold)
			}
			h.mu.Unlock()
			r := after(ctx, a.Hold, Response{Outcome: TimedOut})
			h.mu.Lock()
			flying--
			h.mu.Unlock()
			return r
		}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		publish(t, p.Broker, 0, 200, "a") // concurrency grows
		synctest.Wait()
		slow.Store(true)
		publish(t, p.Broker, 200, 300, "a")
		for range 240 {
			time.Sleep(time.Second)
			synctest.Wait()
			s := p.lookup(uint64(es.UID))
			s.mu.Lock()
			if s.held > maxHeld || s.workers > resource.DefaultConcurrency {
				t.Errorf("%d held, %d workers", s.held, s.workers)
			}
			s.mu.Unlock()
		}
		if held < maxHeld || cut == 0 || most > maxHeld+resource.DefaultConcurrency {
			t.Errorf("%d held, %d cut at 30 s, %d at once", held, cut, most)
		}
		finish(t, p)
	})
}

// TestHeldAttemptsOfTheNode: while the node has as many attempts under way as it may,
// none waits for a late answer: dead handlers would take every descriptor for minutes.
func TestHeldAttemptsOfTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: func(ctx context.Context, a asked) Response {
			return after(ctx, a.Hold, Response{Outcome: TimedOut})
		}}
		p := one(t, h, testSubscription(0, filter.Filter{}))
		p.attempting.Add(maxAttempts) // those of others
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Second)
		p.attempting.Add(-maxAttempts)
		publish(t, p.Broker, 1, 1, "a")
		time.Sleep(31 * time.Second)
		got := h.got()
		if len(got) != 2 || got[0].Hold != answerTime || got[1].Hold != holdTime {
			t.Errorf("requests %+v", got)
		}
		finish(t, p)
	})
}

// TestHesitantCrew: attempts at destinations that failed last, however many are due at
// once, begin a few at a time, and nobody else waits for them.
func TestHesitantCrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const failing = 5 * hesitantMost / 2
		var mu sync.Mutex
		begun := map[time.Duration]int{}
		started := time.Now()
		silent := senderFunc(func(ctx context.Context, r *Request) Response {
			mu.Lock()
			begun[time.Since(started)]++
			mu.Unlock()
			return after(ctx, r.Hold, Response{Outcome: TimedOut})
		})
		fine := &handler{t: t}
		senders := map[string]Sender{"es0": fine}
		subs := []*resource.EventSubscription{testSubscription(0, filter.Filter{SubjectBeginsWith: "a"})}
		for n := 1; n <= failing; n++ {
			es := testSubscription(n, filter.Filter{SubjectBeginsWith: "b"})
			senders[es.Name], subs = silent, append(subs, es)
		}
		p := startProcess(t, newStore().open(-1), senders, subs...)
		p.prompt.most = 2 * failing // whatever the number of processors
		started = time.Now()
		publish(t, p.Broker, 0, 2, "b")
		time.Sleep(answerTime) // all time out together, and the next event of each is in line
		publish(t, p.Broker, 2, 1, "a")
		synctest.Wait()
		if got := fine.got(); len(got) != 1 || got[0].at.Sub(started) != answerTime {
			t.Errorf("the other got %+v", got)
		}
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		want := map[time.Duration]int{
			0:          failing, // none of them has failed yet
			answerTime: hesitantMost, answerTime + hesitantWhile: hesitantMost, answerTime + 2*hesitantWhile: hesitantMost / 2,
		}
		if !maps.Equal(begun, want) {
			t.Errorf("begun %v, want %v", begun, want)
		}
		finish(t, p)
	})
}

// TestProbation: a destination that fails rests, what waits meanwhile was not
// attempted, one probe goes through at a time, and recovery restores everything.
// Source: spec/delivery.md section 4.4.
func TestProbation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer Response
		before int           // requests until it rests
		rest   time.Duration // the first one
	}{
		{"ten failures", answerFailed, 10, 10 * time.Second},
		{"not found", Response{Outcome: NotFound, Status: 404}, 1, 5 * time.Minute},
		{"name not found", Response{Outcome: ResolutionError}, 1, 5 * time.Minute},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			var working atomic.Bool
			h := &handler{}
			h.answer = func(ctx context.Context, a asked) Response {
				if !working.Load() {
					return after(ctx, time.Millisecond, tt.answer)
				}
				return after(ctx, time.Millisecond, answerOK)
			}
			es := testSubscription(0, filter.Filter{})
			p := one(t, h, es)
			publish(t, p.Broker, 0, 100, "a")
			time.Sleep(time.Second)
			synctest.Wait()
			if n := len(h.got()); n != tt.before {
				t.Errorf("%d requests before it rests, want %d", n, tt.before)
			}
			st, _ := p.Status(es.UID)
			if !st.BreakerOpen || st.BreakerUntil.Sub(h.got()[tt.before-1].at.Add(time.Millisecond)) != tt.rest || st.Open != 100 {
				t.Errorf("resting: %+v", st)
			}
			time.Sleep(tt.rest - 2*time.Second)
			synctest.Wait()
			if n := len(h.got()); n != tt.before {
				t.Errorf("%d requests while it rests", n-tt.before)
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if n := len(h.got()); n != tt.before+1 {
				t.Errorf("%d probes", n-tt.before)
			}
			if st, _ := p.Status(es.UID); st.BreakerUntil.Sub(h.got()[tt.before].at.Add(time.Millisecond)) != 2*tt.rest {
				t.Errorf("after the probe: %+v", st)
			}
			working.Store(true)
			time.Sleep(2*tt.rest + 10*time.Minute)
			synctest.Wait()
			if st, _ := p.Status(es.UID); st.BreakerOpen || st.Open != 0 || st.Delivered != 100 {
				t.Errorf("recovered: %+v", st)
			}
			counts := map[int]int{}
			for _, a := range h.got() {
				counts[a.Count]++
			}
			if counts[0] != 100 { // postponing is no attempt: everybody's first request says so
				t.Errorf("counts %v", counts)
			}
			finish(t, p)
		})
	}
}

// TestExpiryWhileResting: what was never attempted is dead-lettered for its time to
// live only because the destination rests.
func TestExpiryWhileResting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: always(Response{Outcome: NotFound, Status: 404})}
		es := testSubscription(0, filter.Filter{})
		es.RetryPolicy.EventTimeToLive = 4
		p := one(t, h, es)
		publish(t, p.Broker, 0, 3, "a")
		time.Sleep(4*time.Minute + time.Second)
		synctest.Wait()
		outcomes := map[string]int{}
		for _, l := range letters(t, p.Broker) {
			if l.DeadLetterReason != ReasonTimeToLive || (l.DeliveryAttempts == 0) != l.LastDeliveryAttemptTime.IsZero() {
				t.Errorf("letter %+v", l)
			}
			outcomes[fmt.Sprintf("%s %d", l.LastDeliveryOutcome, l.DeliveryAttempts)]++
		}
		if want := map[string]int{"NotFound 1": 1, "Probation 0": 2}; !maps.Equal(outcomes, want) {
			t.Errorf("letters %v, want %v", outcomes, want)
		}
		finish(t, p)
	})
}

// TestRestWithNothingToRetry: an event that comes while the destination rests, and
// nothing waits for a retry, is sent when the rest is over.
func TestRestWithNothingToRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: func(_ context.Context, a asked) Response {
			if a.ids[0] == "0" {
				return Response{Outcome: Forbidden, Status: 403}
			}
			return answerOK
		}}
		p := one(t, h, testSubscription(0, filter.Filter{}))
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(time.Minute)
		publish(t, p.Broker, 1, 1, "a")
		time.Sleep(4*time.Minute + time.Second)
		synctest.Wait()
		if got := h.times(); got["1"] != 1 {
			t.Errorf("requests %v", got)
		}
		finish(t, p)
	})
}

// TestPanics: three panics in its attempts dead-letter an event and harm no other.
func TestPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{answer: func(_ context.Context, a asked) Response {
			if a.ids[0] == "1" {
				panic("poison")
			}
			return answerOK
		}}
		p := one(t, h, testSubscription(0, filter.Filter{}))
		publish(t, p.Broker, 0, 3, "a")
		settleAll(t, p)
		if got := h.times(); got["0"] != 1 || got["1"] != 3 || got["2"] != 1 {
			t.Errorf("attempts %v", got)
		}
		if l := letters(t, p.Broker); len(l) != 1 || l[0].DeadLetterReason != ReasonAborted || l[0].LastDeliveryOutcome != "Aborted" {
			t.Errorf("letters %+v", l)
		}
		finish(t, p)
	})
}

// TestPanicsOverRestarts: panics are counted over restarts, so an event that is poison
// does not live as long as nobody waits for the third.
func TestPanicsOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		h := &handler{t: t, answer: func(context.Context, asked) Response { panic("poison") }}
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		publish(t, p.Broker, 0, 1, "a")
		for range 2 { // one panic in each process
			time.Sleep(time.Second)
			finish(t, p)
			time.Sleep(time.Minute)
			p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
			time.Sleep(31 * time.Second) // what came due is tried within 30 s
		}
		settleAll(t, p)
		if got := len(h.got()); got != maxAborts {
			t.Errorf("%d attempts", got)
		}
		if l := letters(t, p.Broker); len(l) != 1 || l[0].DeadLetterReason != ReasonAborted {
			t.Errorf("letters %+v", l)
		}
		finish(t, p)
	})
}

// TestStop: attempts in flight get the grace time; one that outlasts it is cut,
// not counted, and made again by the next process.
func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration
		again int
	}{
		{"answers within the grace time", 4 * time.Second, 0},
		{"outlasts the grace time", time.Minute, 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			store := newStore()
			es := testSubscription(0, filter.Filter{})
			first := &handler{t: t, answer: func(ctx context.Context, _ asked) Response { return after(ctx, tt.takes, answerOK) }}
			p := startProcess(t, store.open(-1), map[string]Sender{"es0": first}, es)
			publish(t, p.Broker, 0, 2, "a")
			synctest.Wait()
			began := time.Now()
			finish(t, p)
			if d := time.Since(began); d != min(tt.takes, 5*time.Second) {
				t.Errorf("the stop took %s", d)
			}
			if n := len(first.got()); n != 1 { // concurrency starts at one, and nothing starts while it stops
				t.Errorf("%d requests of the first process", n)
			}
			if first.closed != 1 {
				t.Errorf("closed %d times", first.closed)
			}
			second := &handler{t: t}
			p = startProcess(t, store.open(-1), map[string]Sender{"es0": second}, es)
			settleAll(t, p)
			if got := second.times(); len(got) != 1+tt.again {
				t.Errorf("the second process sent %v", got)
			}
			for _, a := range second.got() {
				if a.Count != 0 {
					t.Errorf("count %d: an attempt cut short was counted", a.Count)
				}
			}
			finish(t, p)
		})
	}
}

// workspaceSubscription is testSubscription at a workspace.
func workspaceSubscription(n int) *resource.EventSubscription {
	es := testSubscription(n, filter.Filter{})
	es.Scope = resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w")
	return es
}

// TestLateAttemptSendsNothing holds that an attempt that was judged before it had written
// anything does not send what the next one may have delivered.
func TestLateAttemptSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts, late atomic.Int32
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, newStore().open(-1), map[string]Sender{es.Name: senderFunc(func(ctx context.Context, r *Request) Response {
			if attempts.Add(1) == 1 {
				time.Sleep(answerTime + 5*time.Second) // for its token
			}
			if r.Fill() != nil {
				late.Add(1)
				return Response{Outcome: Canceled}
			}
			return answerOK
		})}, es)
		publish(t, p.Broker, 0, 1, "a")
		time.Sleep(answerTime + 4*time.Minute)
		settleAll(t, p)
		if attempts.Load() != 2 || late.Load() != 1 {
			t.Errorf("%d attempts, of which %d had nothing to send, want 2 and 1", attempts.Load(), late.Load())
		}
	})
}

// TestSentBody holds that the buffer of a body is used again once that was sent, and
// never by two attempts at a time.
func TestSentBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 500
		var mu sync.Mutex
		got := map[string]int{}
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, newStore().open(-1), map[string]Sender{es.Name: senderFunc(func(ctx context.Context, r *Request) Response {
			if r.Body != nil {
				t.Error("the body is there before it is wanted")
			}
			fill := func() {
				if err := r.Fill(); err != nil {
					t.Error(err)
				}
			}
			fill()
			body := string(r.Body)
			time.Sleep(time.Millisecond) // others encode theirs
			if string(r.Body) != body {
				t.Errorf("the body became %s, was %s", r.Body, body)
			}
			r.Sent()
			if r.Body != nil {
				t.Error("the body is still there")
			}
			r.Sent() // changes nothing
			if fill(); string(r.Body) != body {
				t.Errorf("made anew the body is %s, was %s", r.Body, body)
			}
			mu.Lock()
			got[body]++
			mu.Unlock()
			return after(ctx, 10*time.Millisecond, answerOK)
		})}, es)
		publish(t, p.Broker, 0, events, "a")
		settleAll(t, p)
		if len(got) != events {
			t.Errorf("%d events came, want %d", len(got), events)
		}
		finish(t, p)
	})
}

// TestAbandonedBody holds that nobody writes to a body again that may still be read.
func TestAbandonedBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 100
		var mu sync.Mutex
		got := map[string][]byte{}
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, newStore().open(-1), map[string]Sender{es.Name: senderFunc(func(ctx context.Context, r *Request) Response {
			if err := r.Fill(); err != nil {
				t.Error(err)
			}
			mu.Lock()
			got[string(r.Body)] = r.Body
			mu.Unlock()
			if r.Abandon(); r.Body != nil {
				t.Error("the body is still there")
			}
			return answerOK
		})}, es)
		publish(t, p.Broker, 0, events, "a")
		settleAll(t, p)
		for was, body := range got {
			if string(body) != was {
				t.Errorf("the body became %s, was %s", body, was)
			}
		}
		if len(got) != events {
			t.Errorf("%d events came, want %d", len(got), events)
		}
		finish(t, p)
	})
}

// TestRequests holds bodies, content types and header values of all schemas.
// Source: spec/delivery.md sections 2.1, 2.2 and 5.
func TestRequests(t *testing.T) {
	grid := event.Event{Schema: event.EventGridSchema, Raw: []byte(`{"id":"0","topic":"/t","subject":"s","eventType":"T","eventTime":"2026-01-01T00:00:00Z","data":{"n":1.0},"dataVersion":"2","metadataVersion":"1"}`)}
	cloud := event.Event{Schema: event.CloudEventSchemaV1_0, Raw: []byte(`{"id":"0","source":"/t","type":"T","specversion":"1.0","data":{"n":1.0}}`)}
	custom := event.Event{Schema: event.CustomEventSchema, Raw: []byte(`{"topic":"/t","subject":"s","eventType":"T","eventTime":"2026-01-01T00:00:00Z","id":"0","dataVersion":"2","metadataVersion":"1","data":{"kind":"T","data":{"n":1.0}}}`)}
	const converted = `"type":"T"`
	for _, tt := range []struct {
		name        string
		workspace   bool
		schema      event.Schema
		batch       int
		event       event.Event
		contentType string
		begins      string
		sequence    bool
		data, meta  string // header values; meta "" = a batch
	}{
		{"grid", false, event.EventGridSchema, 1, grid, contentEvents, `[{`, false, "2", "1"},
		{"grid of a workspace", true, event.EventGridSchema, 1, grid, contentEvents, `[{`, false, "2", "1"},
		{"grid in batches", false, event.EventGridSchema, 10, grid, contentEvents, `[{`, false, "", ""},
		{"cloud event", false, event.CloudEventSchemaV1_0, 1, cloud, contentCloudEvent, `{`, false, "", "1.0"},
		{"cloud event in batches", false, event.CloudEventSchemaV1_0, 10, cloud, contentCloudEventBatch, `[{`, false, "", ""},
		{"grid as cloud event", false, event.CloudEventSchemaV1_0, 1, grid, contentCloudEvent, `{`, false, "", "1.0"},
		{"grid of a workspace as cloud event", true, event.CloudEventSchemaV1_0, 1, grid, contentCloudEvent, `{`, true, "", "1.0"},
		{"grid of a workspace as cloud events in batches", true, event.CloudEventSchemaV1_0, 10, grid, contentCloudEventBatch, `[{`, true, "", ""},
		{"custom input as it was published", false, event.CustomEventSchema, 1, custom, contentEvents, `[{"kind":"T","data":{"n":1.0}}]`, false, "2", "1"},
		{"custom input in batches", false, event.CustomEventSchema, 10, custom, contentEvents, `[{"kind":"T","data":{"n":1.0}}]`, false, "", ""},
		{"custom input mapped", false, event.EventGridSchema, 1, custom, contentEvents, `[{"topic":"/t","subject":"s","eventType":"T",`, false, "2", "1"},
		{"custom input as cloud event", false, event.CloudEventSchemaV1_0, 1, custom, contentCloudEvent, `{"specversion":"1.0","type":"T",`, false, "", "1.0"},
		{"custom input as cloud events in batches", false, event.CloudEventSchemaV1_0, 10, custom, contentCloudEventBatch, `[{"specversion":"1.0","type":"T",`, false, "", ""},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &handler{}
			es := testSubscription(0, filter.Filter{})
			if tt.workspace {
				es = workspaceSubscription(0)
			}
			es.DeliverySchema = tt.schema
			if tt.batch > 1 {
				es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: tt.batch, PreferredBatchSizeInKilobytes: 64}}
			}
			p := one(t, h, es)
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{tt.event}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			got := h.got()
			if len(got) != 1 {
				t.Fatalf("%d requests", len(got))
			}
			a, body := got[0], string(got[0].Body)
			if a.ContentType != tt.contentType || a.Count != 0 || a.Replay != "" || a.Hold != holdTime {
				t.Errorf("request %+v", a.Request)
			}
			if !strings.HasPrefix(body, tt.begins) || strings.HasPrefix(body, "[") != strings.HasSuffix(body, "]") || !strings.Contains(body, `"data":{"n":1.0}`) {
				t.Errorf("body %s", body)
			}
			if tt.schema == event.CloudEventSchemaV1_0 && !strings.Contains(strings.ReplaceAll(body, " ", ""), converted) {
				t.Errorf("body %s", body)
			}
			sequencer := engine.Sequencer(7, engine.At(1, 0))
			if strings.Contains(body, fmt.Sprintf(`"sequence":%q`, sequencer)) != tt.sequence || strings.Contains(body, "sequence") != tt.sequence {
				t.Errorf("sequence in %s", body)
			}
			switch {
			case tt.meta == "" && a.Single != nil:
				t.Errorf("a batch has %+v", a.Single)
			case tt.meta != "" && (a.Single == nil || *a.Single != SingleEvent{OutputID: sequencer, DataVersion: tt.data, MetadataVersion: tt.meta}):
				t.Errorf("single %+v", a.Single)
			}
			finish(t, p)
		})
	}
}

// TestBatches holds what a batch may be made of and what follows its outcome.
// Source: spec/delivery.md section 5.
func TestBatches(t *testing.T) {
	const big = 3000
	sized := func(id, size int) event.Event {
		return testEvent(fmt.Sprint(id), strings.Repeat("s", size))
	}
	batching := func(most, kilobytes int) *resource.EventSubscription {
		es := testSubscription(0, filter.Filter{})
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: most, PreferredBatchSizeInKilobytes: kilobytes}}
		return es
	}
	for _, tt := range []struct {
		name   string
		es     *resource.EventSubscription
		sizes  []int // of the subjects
		answer func(context.Context, asked) Response
		want   []string // requests: "count:ids", in any order
		letter int
		failed uint64 // attempts, counted in events
	}{
		{"never more than the most", batching(3, 1024), make([]int, 7), nil, []string{"0:0,1,2", "0:3,4,5", "0:6"}, 0, 0},
		{"the size is a target", batching(100, 8), []int{big, big, big, big}, nil, []string{"0:0,1", "0:2,3"}, 0, 0},
		{"one that is bigger goes alone", batching(100, 2), []int{big, 1, big, 1, 1}, nil, []string{"0:0", "0:1", "0:2", "0:3,4"}, 0, 0},
		{"no batching", testSubscription(0, filter.Filter{}), make([]int, 2), nil, []string{"0:0", "0:1"}, 0, 0},
		{"a failure is everybody's", batching(3, 64), make([]int, 3), func(_ context.Context, a asked) Response {
			if a.Count == 0 {
				return answerFailed
			}
			return answerOK
		}, []string{"0:0,1,2", "1:0,1,2"}, 0, 3},
		{"a bad request is tried one by one", batching(3, 64), make([]int, 3), func(_ context.Context, a asked) Response {
			if slices.Contains(a.ids, "1") {
				return Response{Outcome: BadRequest, Status: 400}
			}
			return answerOK
		}, []string{"0:0,1,2", "1:0", "1:1", "1:2"}, 1, 4},
		{"one too large is tried one by one", batching(3, 64), make([]int, 2), func(_ context.Context, a asked) Response {
			if len(a.ids) > 1 {
				return Response{Outcome: PayloadTooLarge, Status: 413}
			}
			return answerOK
		}, []string{"0:0,1", "1:0", "1:1"}, 0, 2},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			queued := make(chan struct{}) // the first request is under way until everything waits behind it
			h := &handler{answer: func(ctx context.Context, a asked) Response {
				if a.ids[0] == "first" {
					<-queued
				} else if tt.answer != nil {
					return tt.answer(ctx, a)
				}
				return answerOK
			}}
			p := one(t, h, tt.es)
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{testEvent("first", "a")}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			var events []event.Event
			for id, size := range tt.sizes {
				events = append(events, sized(id, size))
			}
			if err := p.Publish(t.Context(), testTopicUID, events); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			close(queued)
			settleAll(t, p)
			var got []string
			for _, a := range h.got()[1:] {
				got = append(got, fmt.Sprintf("%d:%s", a.Count, strings.Join(a.ids, ",")))
			}
			if slices.Sort(got); !slices.Equal(got, tt.want) {
				t.Errorf("requests %v, want %v", got, tt.want)
			}
			if st, _ := p.Status(tt.es.UID); st.FailedAttempts != tt.failed {
				t.Errorf("%d failed attempts, want %d", st.FailedAttempts, tt.failed)
			}
			if n := len(letters(t, p.Broker)); n != tt.letter {
				t.Errorf("%d dead letters", n)
			}
			finish(t, p)
		})
	}
}

// TestBatchesOfRecoveredEvents: sizes that are not known after a start make batches
// neither larger nor smaller than they are before it.
func TestBatchesOfRecoveredEvents(t *testing.T) {
	const kilobytes, size = 64, 2000
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: 5000, PreferredBatchSizeInKilobytes: kilobytes}}
		silent := func(ctx context.Context, _ asked) Response { return after(ctx, time.Hour, answerOK) }
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": &handler{t: t, answer: silent}}, es)
		for id := range 100 { // all are in line at the start that follows
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{testEvent(fmt.Sprint(id), strings.Repeat("s", size))}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		finish(t, p)
		h := &handler{t: t}
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, es)
		settleAll(t, p)
		if got := h.times(); len(got) != 100 {
			t.Errorf("%d events arrived", len(got))
		}
		most := 0
		for _, a := range h.got() {
			most = max(most, len(a.ids))
		}
		if most > kilobytes<<10/size || most < kilobytes<<10/(size+400) {
			t.Errorf("the largest batch has %d events", most)
		}
		finish(t, p)
	})
}

// TestCustomInput takes raw custom input through a batch, a refusal, its dead letter and
// a replay: the letter holds the event as its mapping made it, the handler gets the
// object both times. Source: spec/delivery.md section 7.
func TestCustomInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		object := func(n int) string { return fmt.Sprintf(`{ "n" : %d.0, "kind":"T" }`, n) }
		events := make([]event.Event, 3)
		for i := range events {
			events[i] = event.Event{Schema: event.CustomEventSchema, Raw: fmt.Appendf(nil,
				`{"topic":"/t","subject":"s","eventType":"T","eventTime":"2026-01-01T00:00:00Z","id":"%d","dataVersion":"","metadataVersion":"1","data":%s}`, i, object(i))}
		}
		h := &handler{answer: func(_ context.Context, a asked) Response {
			if strings.Contains(string(a.Body), `"n" : 1.0`) && a.Replay == "" {
				return answerBad
			}
			return answerOK
		}}
		es := testSubscription(0, filter.Filter{})
		es.DeliverySchema = event.CustomEventSchema
		es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: 10, PreferredBatchSizeInKilobytes: 64}}
		p := one(t, h, es)
		if err := p.Publish(t.Context(), testTopicUID, events); err != nil {
			t.Fatal(err)
		}
		settleAll(t, p)
		found := letters(t, p.Broker)
		if len(found) != 1 || string(found[0].Event) != string(events[1].Raw) {
			t.Fatalf("letters %+v", found)
		}
		if err := p.Replay(t.Context(), found[0].ID); err != nil {
			t.Fatal(err)
		}
		settleAll(t, p)
		// How many of the three a batch holds depends on when it is made. Whatever it holds is
		// as it was published; the one that is refused is tried alone, given up and replayed.
		alone, taken := 0, map[string]int{}
		for _, a := range h.got() {
			body := string(a.Body)
			inner := strings.TrimSuffix(strings.TrimPrefix(body, "["), "]")
			var sent []string
			for o := range strings.SplitSeq(inner, "},{") {
				sent = append(sent, "{"+strings.Trim(o, "{}")+"}")
			}
			if "["+strings.Join(sent, ",")+"]" != body {
				t.Errorf("request %s is no array of what was published", body)
			}
			if inner == object(1) {
				alone++
			}
			for _, o := range sent {
				if a.Replay != "" || !strings.Contains(body, `"n" : 1.0`) {
					taken[o]++
				}
			}
		}
		if want := map[string]int{object(0): 1, object(1): 1, object(2): 1}; alone != 2 || !maps.Equal(taken, want) {
			t.Errorf("%d requests with the refused one alone, want 2; taken %v, want %v", alone, taken, want)
		}
		finish(t, p)
	})
}

// TestWakeDoesNotSpin: when the rest of a destination is over, one probe is started.
// While that waits for a processor, and while the attempts of a full node let it not
// start, the timer stays still: it would run again at once, and again.
func TestWakeDoesNotSpin(t *testing.T) {
	for _, tt := range []struct {
		name              string
		workers, starting int
		rest              time.Duration // that is left
		wakes             bool
	}{
		{"nobody is at work", 0, 0, 0, true},
		{"the probe is about to start", 1, 1, 0, false},
		{"an attempt from before the rest is under way", 1, 0, 0, false},
		{"it still rests", 0, 0, time.Minute, true},
		{"it still rests, and an attempt is under way", 1, 0, time.Minute, true},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			hold := newStore().open(-1)
			bad := &handler{t: t, answer: func(context.Context, asked) Response { return answerFailed }}
			p := startProcess(t, hold, map[string]Sender{"es0": bad}, testSubscription(0, filter.Filter{}))
			synctest.Wait()
			s := p.lookup(0x500)
			s.mu.Lock()
			now := time.Now()
			s.breaker = breaker{failures: 10, rest: time.Minute, until: now.Add(tt.rest)}
			s.line(&delivery{sub: s, published: now.UnixNano(), tried: true})
			s.workers, s.starting = tt.workers, tt.starting
			s.wakeAt = 0
			s.arm(now)
			at := s.wakeAt
			s.workers, s.starting, s.queue = 0, 0, fifo[*delivery]{}
			s.mu.Unlock()
			if soon := at != 0 && !p.clock.at(at).After(now.Add(tt.rest)); soon != tt.wakes {
				t.Errorf("it wakes at %s, %s from now", p.clock.at(at), p.clock.at(at).Sub(now))
			}
			finish(t, p)
		})
	}
}

// TestPromptTimeToLive: what waits in line behind younger events is given up when its
// own time is over.
func TestPromptTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{t: t, answer: func(_ context.Context, a asked) Response {
			if a.ids[0] == "0" {
				return answerFailed
			}
			return Response{Outcome: NotFound, Status: 404} // rests for 5 minutes, 10, 20, …
		}}
		es := testSubscription(0, filter.Filter{})
		es.RetryPolicy.EventTimeToLive = 20
		p := one(t, h, es)
		began := time.Now()
		publish(t, p.Broker, 0, 1, "a")
		synctest.Wait()
		time.Sleep(4 * time.Second)
		publish(t, p.Broker, 1, 10, "a") // the destination rests from now on, and event 0 gets in line behind these
		time.Sleep(20*time.Minute - 5*time.Second)
		synctest.Wait()
		s := p.lookup(uint64(es.UID))
		s.mu.Lock()
		behind := s.queue.len() > 1 && s.queue.at(0).published > s.oldest
		s.mu.Unlock()
		if !behind {
			t.Fatal("the oldest is not in line behind younger ones: the test shows nothing")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		all := letters(t, p.Broker)
		if len(all) != 1 || all[0].DeadLetterReason != ReasonTimeToLive || all[0].PublishTime.Sub(began) > time.Second {
			t.Errorf("after %s: %+v", time.Since(began), all)
		}
		settleAll(t, p)
		finish(t, p)
	})
}
