package consumer_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

const workspace = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/default"

var quiet = consumer.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))

// seen remembers what its handlers were given, in order.
type seen struct {
	mu    sync.Mutex
	texts []string
	err   error // what the handlers return
}

func (s *seen) add(e consumer.Envelope, detail string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.texts = append(s.texts, strings.TrimPrefix(e.Type, "Microsoft.MachineLearningServices.")+" "+detail)
	}
	return s.err
}

func (s *seen) completed(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
	return s.add(e.Envelope, e.Data.RunID)
}

func (s *seen) raw(_ context.Context, e consumer.Event[json.RawMessage]) error {
	return s.add(e.Envelope, string(e.Data))
}

// take returns what was seen since it was called last.
func (s *seen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.texts, ", ")
	s.texts = nil
	return all
}

func newHandler(t testing.TB, options ...consumer.Option) *consumer.Handler {
	t.Helper()
	h, err := consumer.New(append([]consumer.Option{consumer.Topics(workspace), quiet}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func send(t testing.TB, s *consumertest.Sender, events ...consumertest.Event) *consumertest.Answer {
	t.Helper()
	a, err := s.Send(events...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func run(id string) mlevent.RunCompleted {
	return mlevent.RunCompleted{ExperimentID: "e", ExperimentName: "churn", RunID: id, RunType: "script"}
}

// TestAnswers sends one event of each kind and holds the answer, the count and what the
// functions saw against what the sender is to do.
func TestAnswers(t *testing.T) {
	source, other := consumertest.NewSource(workspace), consumertest.NewSource(workspace+"-of-somebody-else")
	shouted := consumertest.NewSource(strings.ToUpper(workspace))
	documented := consumertest.NewSource(workspace)
	documented.Documented()
	for _, c := range []struct {
		name   string
		event  consumertest.Event
		fails  error
		status int
		saw    string
		count  func(consumer.Stats) int64
	}{
		{"of an expected type", source.Event(run("r1")), nil, 200, "RunCompleted r1", func(s consumer.Stats) int64 { return s.Handled }},
		{"of the topic in capitals", shouted.Event(run("r1")), nil, 200, "RunCompleted r1", func(s consumer.Stats) int64 { return s.Handled }},
		{"in the spelling of the documentation", documented.Event(mlevent.ModelRegistered{ModelName: "m", ModelVersion: "3"}), nil, 200, "ModelRegistered m:3", func(s consumer.Stats) int64 { return s.Handled }},
		{"of another topic", other.Event(run("r1")), nil, 400, "", func(s consumer.Stats) int64 { return s.Foreign }},
		{"of a type that nobody handles", source.Event(mlevent.ModelDeployed{ServiceName: "s"}), nil, 200, "", func(s consumer.Stats) int64 { return s.Skipped }},
		{"of a type that nobody knows", source.Custom("Contoso.New", "s", 1), nil, 200, "", func(s consumer.Stats) int64 { return s.Skipped }},
		{"of a custom type", source.Custom("Contoso.Order", "s", map[string]any{"n": 7, "unknown": []int{1}}), nil, 200, "Contoso.Order 7", func(s consumer.Stats) int64 { return s.Handled }},
		{"with data of another shape", source.Custom("Contoso.Order", "s", "text"), nil, 400, "", func(s consumer.Stats) int64 { return s.Malformed }},
		{"that fails", source.Event(run("r1")), errors.New("down"), 500, "", func(s consumer.Stats) int64 { return s.Failed }},
		{"that is to wait", source.Event(run("r1")), fmt.Errorf("train: %w", consumer.RetryAfter(90*time.Second, errors.New("busy"))), 503, "", func(s consumer.Stats) int64 { return s.Failed }},
		{"that is given up", source.Event(run("r1")), fmt.Errorf("train: %w", consumer.DeadLetter(errors.New("bad"))), 400, "", func(s consumer.Stats) int64 { return s.DeadLettered }},
	} {
		for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
			t.Run(c.name+" in "+schema.String(), func(t *testing.T) {
				saw := &seen{err: c.fails}
				h := newHandler(t, consumer.On(saw.completed),
					consumer.On(func(_ context.Context, e consumer.Event[mlevent.ModelRegistered]) error {
						return saw.add(e.Envelope, e.Data.ModelName+":"+e.Data.ModelVersion)
					}),
					consumer.OnType("Contoso.Order", func(_ context.Context, e consumer.Event[struct{ N int }]) error {
						return saw.add(e.Envelope, fmt.Sprint(e.Data.N))
					}))
				a := send(t, &consumertest.Sender{Handler: h, Schema: schema}, c.event)
				if a.Status != c.status || saw.take() != c.saw {
					t.Errorf("answered %d", a.Status)
				}
				if wait := a.Header.Get("Retry-After"); (wait == "90") != (c.status == 503) {
					t.Errorf("Retry-After: %q", wait)
				}
				if stats := h.Stats(); c.count(stats) != 1 || stats.Requests != 1 {
					t.Errorf("counted %+v", stats)
				}
			})
		}
	}
}

// TestEnvelope holds what a function is told against what was sent.
func TestEnvelope(t *testing.T) {
	source := consumertest.NewSource(workspace)
	one := source.Event(run("r1"))
	for _, schema := range []event.Schema{event.EventGridSchema, event.CloudEventSchemaV1_0} {
		var got consumer.Envelope
		h := newHandler(t, consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
			got = e.Envelope
			return nil
		}))
		send(t, &consumertest.Sender{Handler: h, Schema: schema, Attempt: 3, EventSubscription: "es1",
			Header: http.Header{"carillon-replay": {"42"}, "carillon-test": {"true"}}}, one)
		want := consumer.Envelope{
			ID: one.ID, Source: workspace, Type: mlevent.RunCompletedType, Subject: "experiments/e/runs/r1", Time: time.Date(2026, 11, 1, 0, 0, 1, 0, time.UTC),
			ETag: one.Sequencer, Sequencer: one.Sequencer, Schema: schema, Raw: one.JSON(schema),
			Delivery: consumer.Delivery{EventSubscription: "ES1", Attempt: 3, Replay: "42", Test: true},
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

// TestUnknownMembers has events with members that nobody knows, before and behind the others,
// in the envelope and in data.
func TestUnknownMembers(t *testing.T) {
	saw := &seen{}
	h := newHandler(t, consumer.On(saw.completed))
	for _, body := range []string{
		`[{"region":{"id":"x"},"id":"1","topic":"` + workspace + `","eventType":"` + mlevent.RunCompletedType + `","subject":"s","metadataVersion":"1","data":{"id":9,"runId":"r1","new":{"runId":"no"}},"behind":[{"id":"y"}]}]`,
		`{"specversion":"1.0","id":"2","source":"` + workspace + `","type":"` + mlevent.RunCompletedType + `","anything":true,"traceparent":"00-0","data":{"runId":"r2","runTags":{"a":1}},"topic":"elsewhere","eventType":"other"}`,
	} {
		sender := consumertest.Sender{Handler: h}
		if a, err := sender.Post("Notification", "application/json", []byte(body)); err != nil || a.Status != 200 {
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
	if got := saw.take(); got != "RunCompleted r1, RunCompleted r2" {
		t.Errorf("saw %s", got)
	}
}

// TestOnce has each event handled once, also when it is delivered many times at once, and
// again where it failed.
func TestOnce(t *testing.T) {
	source := consumertest.NewSource(workspace)
	saw := &seen{}
	h := newHandler(t, consumer.On(saw.completed))
	sender := &consumertest.Sender{Handler: h}
	one := source.Event(run("r1"))
	saw.err = errors.New("down")
	send(t, sender, one)
	saw.err = nil
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if a, err := sender.Send(one); err != nil || a.Status != 200 {
				t.Errorf("answered %+v, %v", a, err)
			}
		})
	}
	all.Wait()
	if got := saw.take(); got != "RunCompleted r1" || h.Stats().Duplicate != 19 {
		t.Errorf("saw %s, counted %+v", got, h.Stats())
	}
	// A dead letter that is replayed is handled unless it was.
	replay := &consumertest.Sender{Handler: h, Header: http.Header{"carillon-replay": {"7"}}}
	send(t, replay, one)
	send(t, replay, source.Event(run("r2")))
	if got := saw.take(); got != "RunCompleted r2" {
		t.Errorf("replays: saw %s", got)
	}
	// The same id of another source is another event.
	saw.take()
	both := newHandler(t, consumer.Topics("other"), consumer.OnOther(saw.raw))
	for _, topic := range []string{workspace, "other", "other"} {
		body := `[{"id":"1","topic":"` + topic + `","eventType":"T","data":1}]`
		if a, err := (&consumertest.Sender{Handler: both}).Post("Notification", "application/json", []byte(body)); err != nil || a.Status != 200 {
			t.Errorf("%+v, %v", a, err)
		}
	}
	if got := saw.take(); got != "T 1, T 1" {
		t.Errorf("two sources: saw %s", got)
	}
}

// TestOrder drops what is older than what was handled, or marks it, by subject.
func TestOrder(t *testing.T) {
	source := consumertest.NewSource(workspace)
	first := source.Event(mlevent.RunStatusChanged{RunCompleted: run("r1"), RunStatus: mlevent.RunFailed})
	second := source.Event(run("r1"))
	other := source.Event(run("r2"))
	status := func(saw *seen) func(context.Context, consumer.Event[mlevent.RunStatusChanged]) error {
		return func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			return saw.add(e.Envelope, fmt.Sprintf("%s stale=%t", e.Data.RunStatus, e.Stale))
		}
	}
	for _, c := range []struct {
		name    string
		options []consumer.RouteOption
		want    string
	}{
		{"dropped", nil, "RunCompleted r2, RunCompleted r1"},
		{"marked", []consumer.RouteOption{consumer.WithStale()}, "RunCompleted r2, RunCompleted r1, RunStatusChanged Failed stale=true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			saw := &seen{}
			h := newHandler(t, consumer.On(saw.completed), consumer.On(status(saw), c.options...))
			send(t, &consumertest.Sender{Handler: h}, other, second, first, first)
			if got := saw.take(); got != c.want {
				t.Errorf("saw %s, want %s", got, c.want)
			}
			if s := h.Stats(); s.Stale+s.Duplicate != 2-int64(len(c.options)) {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// TestSequence orders CloudEvents by the extension sequence: as texts, or as numbers where it
// says so. Without a subject there is no order.
func TestSequence(t *testing.T) {
	for _, c := range []struct{ name, subject, sequenceType, sequences, want string }{
		{"texts", "s", "", "9 10", "9"},
		{"texts of one length", "s", "", "09 10 08", "09 10"},
		{"numbers", "s", "Integer", "8 9 10 11 9.5 2 -1 x", "8 9 10 11 9.5 x"}, // what is no number has no order
		{"negative numbers", "s", "Integer", "-2147483648 -3 -20 -1 0 -1", "-2147483648 -3 -1 0"},
		{"another type", "s", "Other", "9 10", "9"},
		{"without a subject", "", "", "4 3 2", "4 3 2"},
		{"numbers without a subject", "", "Integer", "4 3 2", "4 3 2"},
	} {
		var got []string
		h := newHandler(t, consumer.OnOther(func(_ context.Context, e consumer.Event[json.RawMessage]) error {
			got = append(got, string(e.Data))
			return nil
		}))
		for i, n := range strings.Fields(c.sequences) {
			raw := fmt.Sprintf(`{"specversion":"1.0","source":%q,"type":"T","id":"%d","subject":%q,"sequence":%q,"sequencetype":%q,"data":%q}`, workspace, i, c.subject, n, c.sequenceType, n)
			if err := h.Handle(t.Context(), []byte(raw)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if all := strings.ReplaceAll(strings.Join(got, " "), `"`, ""); all != c.want {
			t.Errorf("%s: handled %s, want %s", c.name, all, c.want)
		}
	}
}

// One change raises several events: in whichever order they come, all are handled, and all
// are older than the next change.
func TestOneChange(t *testing.T) {
	source := consumertest.NewSource(workspace)
	end := source.Change(mlevent.RunStatusChanged{RunCompleted: run("r1"), RunStatus: mlevent.RunFinished}, run("r1"))
	again := source.Event(mlevent.RunStatusChanged{RunCompleted: run("r1"), RunStatus: mlevent.RunRunning})
	for _, c := range []struct {
		order []consumertest.Event
		want  string
	}{
		{[]consumertest.Event{end[0], end[1], again}, "RunStatusChanged Completed, RunCompleted r1, RunStatusChanged Running"},
		{[]consumertest.Event{end[1], end[0], again}, "RunCompleted r1, RunStatusChanged Completed, RunStatusChanged Running"},
		{[]consumertest.Event{end[1], again, end[0]}, "RunCompleted r1, RunStatusChanged Running"},
		{[]consumertest.Event{again, end[1], end[0]}, "RunStatusChanged Running"},
	} {
		saw := &seen{}
		h := newHandler(t, consumer.On(saw.completed), consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			return saw.add(e.Envelope, string(e.Data.RunStatus))
		}))
		send(t, &consumertest.Sender{Handler: h}, c.order...)
		if got := saw.take(); got != c.want {
			t.Errorf("saw %s, want %s", got, c.want)
		}
	}
}

// TestShuffled sends 10,000 events in disorder, some often, many at once, and failing now and
// then, and expects the state that they end in.
func TestShuffled(t *testing.T) {
	source := consumertest.NewSource(workspace)
	var events []consumertest.Event
	const objects = 500
	last := map[string]string{}
	for i := range 8000 {
		id := fmt.Sprint("r", i%objects)
		status := mlevent.RunStatuses()[i%7]
		events = append(events, source.Event(mlevent.RunStatusChanged{RunCompleted: run(id), RunStatus: status}))
		last[id] = string(status)
	}
	for _, seed := range []uint64{1, 2} {
		var mu sync.Mutex
		state, calls, handled := map[string]string{}, 0, map[string]int{}
		h := newHandler(t, consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls%17 == 0 {
				return errors.New("down")
			}
			if handled[e.ID]++; handled[e.ID] > 1 {
				t.Errorf("%s is handled again", e.ID)
			}
			state[e.Data.RunID] = string(e.Data.RunStatus)
			return nil
		}))
		all := consumertest.Shuffle(seed, 2000, events...)
		var work sync.WaitGroup
		for part := range slices.Chunk(all, len(all)/4) {
			work.Go(func() {
				for batch := range slices.Chunk(part, 3) {
					for {
						a, err := (&consumertest.Sender{Handler: h}).Send(batch...)
						if err != nil {
							t.Error(err)
						}
						if a.Delivered() {
							break
						}
					}
				}
			})
		}
		work.Wait()
		for id, want := range last {
			if state[id] != want {
				t.Errorf("seed %d: %s is %s, want %s", seed, id, state[id], want)
			}
		}
		if s := h.Stats(); s.Duplicate == 0 || s.Stale == 0 || s.Failed == 0 || s.Handled != int64(len(handled)) {
			t.Errorf("seed %d: counted %+v", seed, s)
		}
	}
}

// TestBatch answers a batch by what its events need, and handles none of them twice.
func TestBatch(t *testing.T) {
	source, other := consumertest.NewSource(workspace), consumertest.NewSource("other")
	good, bad, down, foreign := source.Event(run("good")), source.Event(run("bad")), source.Event(run("down")), other.Event(run("x"))
	broken := true
	saw := &seen{}
	h := newHandler(t, consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
		switch {
		case e.Data.RunID == "bad":
			return consumer.DeadLetter(nil)
		case e.Data.RunID == "down" && broken:
			return errors.New("down")
		}
		return saw.add(e.Envelope, e.Data.RunID)
	}))
	sender := &consumertest.Sender{Handler: h, Schema: event.CloudEventSchemaV1_0, Batch: true}
	for i, step := range []struct {
		events []consumertest.Event
		status int
		saw    string
	}{
		{nil, 200, ""},
		{[]consumertest.Event{bad, down, good, foreign}, 500, "RunCompleted good"},
		{[]consumertest.Event{bad, down, good, foreign}, 500, ""},
		{[]consumertest.Event{bad, down, good}, 400, "RunCompleted down"}, // it is mended by now
		{[]consumertest.Event{down, good}, 200, ""},
		{[]consumertest.Event{good, foreign}, 400, ""},
		{[]consumertest.Event{good}, 200, ""},
	} {
		if i == 3 {
			broken = false
		}
		if a := send(t, sender, step.events...); a.Status != step.status {
			t.Errorf("step %d: answered %d, want %d", i, a.Status, step.status)
		}
		if got := saw.take(); got != step.saw {
			t.Errorf("step %d: saw %q, want %q", i, got, step.saw)
		}
	}
}

// TestPause ends a batch at the first event that wants one.
func TestPause(t *testing.T) {
	source := consumertest.NewSource(workspace)
	calls := 0
	h := newHandler(t, consumer.On(func(context.Context, consumer.Event[mlevent.RunCompleted]) error {
		calls++
		return consumer.RetryAfter(1500*time.Millisecond, nil)
	}))
	a := send(t, &consumertest.Sender{Handler: h}, source.Event(run("1")), source.Event(run("2")))
	if s := h.Stats(); a.Status != 503 || a.Header.Get("Retry-After") != "2" || calls != 1 || s.Failed != 1 || s.Busy != 1 {
		t.Errorf("answered %+v after %d calls, counted %+v", a, calls, s)
	}
}

// TestLongPause asks for no longer pause than a header can say.
func TestLongPause(t *testing.T) {
	for d, want := range map[time.Duration]string{math.MaxInt64: "86400", math.MinInt64: "", 1: "1", 0: ""} {
		h := newHandler(t, consumer.On(func(context.Context, consumer.Event[mlevent.RunCompleted]) error { return consumer.RetryAfter(d, nil) }))
		if a := send(t, &consumertest.Sender{Handler: h}, consumertest.NewSource(workspace).Event(run("1"))); a.Status != 503 || a.Header.Get("Retry-After") != want {
			t.Errorf("%d: answered %+v", d, a)
		}
	}
}

// TestBatchCutShort has the request end while its first event is handled, as at a shutdown:
// what was not handled comes again, whatever the first one wants.
func TestBatchCutShort(t *testing.T) {
	source := consumertest.NewSource(workspace)
	for name, result := range map[string]error{"handled": nil, "failed": errors.New("down"), "given up": consumer.DeadLetter(nil)} {
		ctx, stop := context.WithCancel(t.Context())
		calls := 0
		h := newHandler(t, consumer.On(func(context.Context, consumer.Event[mlevent.RunCompleted]) error {
			calls++
			stop()
			return result
		}))
		ends := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(ctx)) })
		a := send(t, &consumertest.Sender{Handler: ends}, source.Event(run("1")), source.Event(run("2")), source.Event(run("3")))
		if s := h.Stats(); a.Status != 503 || a.Header.Get("Retry-After") != "30" || calls != 1 || s.Busy != 2 {
			t.Errorf("%s: answered %+v after %d calls, counted %+v", name, a, calls, s)
		}
	}
}

func TestPanic(t *testing.T) {
	source := consumertest.NewSource(workspace)
	var log strings.Builder
	h := newHandler(t, consumer.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		consumer.On(func(context.Context, consumer.Event[mlevent.RunCompleted]) error { panic("what now") }))
	sender := &consumertest.Sender{Handler: h}
	one := source.Event(run("1"))
	for range 2 { // it holds nobody up
		if a := send(t, sender, one); a.Status != 500 {
			t.Errorf("answered %d", a.Status)
		}
	}
	if s := h.Stats(); s.Panics != 2 || s.Failed != 2 || s.InFlight != 0 {
		t.Errorf("counted %+v", s)
	}
	if !strings.Contains(log.String(), "what now") || !strings.Contains(log.String(), "TestPanic") {
		t.Errorf("the log has no stack: %s", &log)
	}
}

// TestTimeLimit ends the context of a function, with a reason, and has the event come again.
func TestTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := consumertest.NewSource(workspace)
		var cause error
		h := newHandler(t, consumer.TimeLimit(3*time.Second), consumer.On(func(ctx context.Context, _ consumer.Event[mlevent.RunCompleted]) error {
			sub, cancel := context.WithCancel(ctx)
			defer cancel()
			if at, ok := ctx.Deadline(); !ok || time.Until(at) != 3*time.Second || ctx.Err() != nil {
				t.Errorf("the deadline is in %s, %v", time.Until(at), ctx.Err())
			}
			<-sub.Done()
			cause = context.Cause(sub)
			return ctx.Err()
		}))
		began := time.Now()
		if a := send(t, &consumertest.Sender{Handler: h}, source.Event(run("1"))); a.Status != 500 || time.Since(began) != 3*time.Second {
			t.Errorf("answered %d after %s", a.Status, time.Since(began))
		}
		if cause == nil || !strings.Contains(cause.Error(), "longer than 3s") {
			t.Errorf("cause %v", cause)
		}
	})
}

// TestAtOnce keeps apart what must not be handled at once: deliveries of one event, and events
// of one subject.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := consumertest.NewSource(workspace)
		var mu sync.Mutex
		var order []string
		inside := 0
		h := newHandler(t, consumer.OnOther(func(_ context.Context, e consumer.Event[json.RawMessage]) error {
			mu.Lock()
			if inside++; inside > 1 && e.Subject != "free" {
				t.Errorf("two at once")
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			inside--
			order = append(order, e.ID)
			return nil
		}))
		older, newer := source.Custom("T", "s", map[string]string{"sequencer": "1"}), source.Custom("T", "s", map[string]string{"sequencer": "2"})
		unordered := source.Custom("T", "u", nil)
		for _, pair := range [][]consumertest.Event{{newer, older}, {unordered, unordered}} {
			for _, e := range pair {
				go func() { send(t, &consumertest.Sender{Handler: h}, e) }()
				synctest.Wait()
			}
			time.Sleep(5 * time.Second)
		}
		if s := h.Stats(); s.Handled != 2 || s.Stale != 1 || s.Duplicate != 1 || len(order) != 2 {
			t.Errorf("handled %v, counted %+v", order, s)
		}
		// Events of other subjects do not wait.
		began := time.Now()
		var all sync.WaitGroup
		for i := range 5 {
			e := source.Custom("T", "free", map[string]int{"n": i})
			all.Go(func() { send(t, &consumertest.Sender{Handler: h}, e) })
		}
		all.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("five events that have nothing to do with each other took %s", took)
		}
	})
}

// TestBusy tells a delivery to come again when its subject is occupied for too long, and a
// request when there is no place.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := consumertest.NewSource(workspace)
		free := make(chan struct{})
		h := newHandler(t, consumer.Concurrency(2), consumer.OnOther(func(context.Context, consumer.Event[json.RawMessage]) error {
			<-free
			return nil
		}))
		one, two := source.Custom("T", "s", nil), source.Custom("T", "t", nil)
		var answers sync.WaitGroup
		status := make([]int, 3)
		for i, e := range []consumertest.Event{one, one, two} {
			answers.Go(func() { status[i] = send(t, &consumertest.Sender{Handler: h}, e).Status })
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		close(free)
		answers.Wait()
		if status[0] != 200 || status[1] != 503 || status[2] != 429 || h.Stats().Busy != 2 {
			t.Errorf("answered %v, counted %+v", status, h.Stats())
		}
	})
}

// brokenInbox is an inbox that can be away.
type brokenInbox struct {
	consumer.Inbox
	begin, end error
	verdict    consumer.Verdict
}

func (b *brokenInbox) Begin(context.Context, consumer.Entry) (consumer.Verdict, error) {
	return b.verdict, b.begin
}
func (b *brokenInbox) End(context.Context, consumer.Entry, bool) error { return b.end }

func TestInboxAway(t *testing.T) {
	source := consumertest.NewSource(workspace)
	for _, c := range []struct {
		name   string
		inbox  brokenInbox
		status int
		saw    string
	}{
		{"it cannot tell", brokenInbox{begin: errors.New("away")}, 503, ""},
		{"another process has the event", brokenInbox{verdict: consumer.Claimed}, 503, ""},
		{"it cannot remember", brokenInbox{end: errors.New("away")}, 200, "RunCompleted 1"},
	} {
		saw := &seen{}
		h := newHandler(t, consumer.WithInbox(&c.inbox), consumer.On(saw.completed))
		a := send(t, &consumertest.Sender{Handler: h}, source.Event(run("1")))
		if s := h.Stats(); a.Status != c.status || saw.take() != c.saw || s.Unrecorded != s.Handled || s.Busy+s.Handled != 1 {
			t.Errorf("%s: answered %d, counted %+v", c.name, a.Status, s)
		}
	}
}

// TestHandle takes events that come by other ways.
func TestHandle(t *testing.T) {
	source := consumertest.NewSource(workspace)
	saw := &seen{}
	h := newHandler(t, consumer.On(saw.completed))
	one := source.Event(run("1"))
	for i, c := range []struct {
		raw    []byte
		status int
	}{
		{one.JSON(event.CloudEventSchemaV1_0), 200}, {one.JSON(event.EventGridSchema), 200},
		{consumertest.NewSource("other").Event(run("1")).JSON(event.EventGridSchema), 400}, {[]byte(`{"id":`), 400}, {[]byte(`[]`), 400}, {nil, 400},
	} {
		if status, _ := consumer.Answer(h.Handle(t.Context(), c.raw)); status != c.status {
			t.Errorf("%d: %d, want %d", i, status, c.status)
		}
	}
	if got := saw.take(); got != "RunCompleted 1" {
		t.Errorf("saw %s", got)
	}
}

// TestRequests has requests that are no deliveries, or not for us.
func TestRequests(t *testing.T) {
	good := string(consumertest.NewSource(workspace).Event(run("1")).JSON(event.EventGridSchema))
	for _, c := range []struct {
		name, kind, contentType, body string
		status                        int
	}{
		{"an object of the Event Grid schema", "Notification", "application/json", good, 200},
		{"another content type", "Notification", "text/plain", good, 415},
		{"no content type", "Notification", ";", good, 415},
		{"another charset", "Notification", "application/json; charset=latin1", good, 415},
		{"another kind", "Surprise", "application/json", good, 400},
		{"no JSON", "Notification", "application/json", good + "}", 400},
		{"an empty body", "Notification", "application/json", "", 400},
		{"a text", "Notification", "application/json", `"text"`, 400},
		{"an event without an envelope", "Notification", "application/json", `[{"order":7}]`, 400},
		{"an event whose id is a number", "Notification", "application/json", `[{"id":7,"topic":"` + workspace + `","eventType":"T"}]`, 400},
		{"too many bytes", "Notification", "application/json", `"` + strings.Repeat("x", 2000) + `"`, 413},
	} {
		saw := &seen{}
		h := newHandler(t, consumer.MaxBody(1000), consumer.On(saw.completed))
		sender := consumertest.Sender{Handler: h}
		a, err := sender.Post(c.kind, c.contentType, []byte(c.body))
		if err != nil || a.Status != c.status || (saw.take() != "") != (c.status == 200) {
			t.Errorf("%s: answered %+v, %v", c.name, a, err)
		}
	}
	h := newHandler(t, consumer.On((&seen{}).completed))
	for _, c := range []struct {
		method, header string
		status         int
	}{{"POST", "x-of-another-sender", 200}, {"GET", "", 405}, {"PUT", "", 405}, {"POST", "Content-Encoding", 415}, {"POST", "Ce-Specversion", 415}} {
		r, _ := http.NewRequest(c.method, "/", strings.NewReader(good))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(c.header, "x")
		if w := record(h, r); w.Code != c.status {
			t.Errorf("%s with %s: answered %d", c.method, c.header, w.Code)
		}
	}
	// One that only claims to be long takes no memory.
	long, _ := http.NewRequest("POST", "/", strings.NewReader(good))
	long.Header.Set("Content-Type", "application/json")
	long.ContentLength = 1 << 50
	if w := record(h, long); w.Code != 413 {
		t.Errorf("a body that claims to be long: answered %d", w.Code)
	}
	// A body of unknown length is bounded as well.
	r, _ := http.NewRequest("POST", "/", io.MultiReader(strings.NewReader(strings.Repeat(" ", 3<<20)), strings.NewReader(good)))
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = -1
	if w := record(h, r); w.Code != 413 {
		t.Errorf("a body without an end: answered %d", w.Code)
	}
}

// TestNew refuses what cannot be meant.
func TestNew(t *testing.T) {
	taken := consumer.NewMemory(1, time.Hour)
	newHandler(t, consumer.WithInbox(taken), consumer.On((&seen{}).completed))
	on := consumer.OnOther(func(context.Context, consumer.Event[json.RawMessage]) error { return nil })
	completed := consumer.On((&seen{}).completed)
	pointer := consumer.On(func(context.Context, consumer.Event[*mlevent.RunCompleted]) error { return nil })
	topics := consumer.Topics(workspace)
	for want, options := range map[string][]consumer.Option{
		"there are no Topics":        {on},
		"a topic is empty":           {consumer.Topics(""), on},
		"there is no function":       {topics},
		"two functions for events":   {topics, completed, completed},
		"there is one already":       {topics, on, on},
		"is not a payload":           {topics, pointer},
		"Signed: key 1: a key begin": {topics, on, consumer.Signed("s3cret")},
		"Signed: key 2: a whsec_":    {topics, on, consumer.Signed("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "whsec_s3cret")},
		"Signed: key 1: a whpk_":     {topics, on, consumer.Signed("whpk_s3cret")},
		"Signed: there is no key":    {topics, on, consumer.Signed()},
		"SharedKey":                  {topics, on, consumer.SharedKey("")},
		"ClientCertificate":          {topics, on, consumer.ClientCertificate(nil)},
		"Issuer and Audience":        {topics, on, consumer.BearerToken(consumer.Token{Issuer: "https://x"})},
		"https URL":                  {topics, on, consumer.BearerToken(consumer.Token{Issuer: "http://x", Audience: []string{"a"}})},
		"a name is empty":            {topics, on, consumer.ClientCertificate(x509.NewCertPool(), "a", "")},
		"one of the Callers is":      {topics, on, consumer.BearerToken(consumer.Token{Issuer: "https://x", Audience: []string{"a"}, Callers: []string{""}})},
		"an Audience or":             {topics, on, consumer.BearerToken(consumer.Token{Issuer: "https://x", Audience: []string{"a", ""}})},
		"WithLogger":                 {topics, on, consumer.WithLogger(nil)},
		"TimeLimit":                  {topics, on, consumer.TimeLimit(0)},
		"MaxBody":                    {topics, on, consumer.MaxBody(0)},
		"Concurrency":                {topics, on, consumer.Concurrency(0)},
		"that of another Handler":    {topics, on, consumer.WithInbox(taken)},
	} {
		if _, err := consumer.New(options...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}
