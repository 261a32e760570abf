package broker

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestMain runs the embedded server's access-time ticker outside of the bubbles.
func TestMain(m *testing.M) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	os.Exit(code)
}

// asked is one request that a handler got.
type asked struct {
	Request
	at  time.Time
	ids []string
}

// handler is a Sender that keeps what it was asked and answers as told.
type handler struct {
	t      *testing.T
	answer func(ctx context.Context, a asked) Response // nil = Delivered

	mu     sync.Mutex
	asked  []asked
	closed int
}

var (
	answerOK     = Response{Outcome: Delivered, Status: 200}
	answerFailed = Response{Outcome: GenericError, Status: 500, Detail: "5xx"}
)

func always(r Response) func(context.Context, asked) Response {
	return func(context.Context, asked) Response { return r }
}

func (h *handler) Send(ctx context.Context, r *Request) Response {
	if r.Fill() != nil {
		return Response{Outcome: Canceled}
	}
	a := asked{Request: *r, at: time.Now(), ids: idsIn(r.Body)}
	a.Body = bytes.Clone(r.Body)
	h.mu.Lock()
	h.asked = append(h.asked, a)
	h.mu.Unlock()
	if h.answer == nil {
		return answerOK
	}
	return h.answer(ctx, a)
}

func (h *handler) Close() {
	h.mu.Lock()
	h.closed++
	h.mu.Unlock()
}

// got is what it was asked so far.
func (h *handler) got() []asked {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]asked(nil), h.asked...)
}

// times counts how often each event was sent.
func (h *handler) times() map[string]int {
	n := map[string]int{}
	for _, a := range h.got() {
		for _, id := range a.ids {
			n[id]++
		}
	}
	return n
}

// after waits as long as an answer takes, or until the attempt ends.
func after(ctx context.Context, d time.Duration, r Response) Response {
	select {
	case <-time.After(d):
		return r
	case <-ctx.Done():
		return Response{Outcome: Canceled}
	}
}

// bubble runs a test in fake time.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// publish publishes events with ids from first on, one request, and fails the test
// when it cannot.
func publish(t *testing.T, b *Broker, first, n int, subject string) {
	t.Helper()
	events := make([]event.Event, n)
	for i := range events {
		events[i] = testEvent(strconv.Itoa(first+i), subject)
	}
	if err := b.Publish(t.Context(), testTopicUID, events); err != nil {
		t.Fatal(err)
	}
}

// letters returns every dead letter.
func letters(t *testing.T, b *Broker) []*Letter {
	t.Helper()
	var all []*Letter
	for l, err := range b.DeadLetters(t.Context(), 0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// one starts a process with one event subscription and its handler.
func one(t *testing.T, h *handler, es *resource.EventSubscription) *process {
	t.Helper()
	h.t = t
	return startProcess(t, newStore().open(-1), map[string]Sender{es.Name: h}, es)
}

// finish stops a process.
func finish(t *testing.T, p *process) {
	t.Helper()
	if err := p.end(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// timedTable tells when something was stored.
type timedTable struct {
	LetterTable
	stored chan time.Time
}

func (t timedTable) Put(ctx context.Context, key string, value []byte) error {
	err := t.LetterTable.Put(ctx, key, value)
	t.stored <- time.Now()
	return err
}

// TestDay delivers to a handler that always fails, on the real engine and in fake
// time. Source: spec/delivery.md sections 4.1, 4.2, 3.3 and 11.
func TestDay(t *testing.T) {
	for _, tt := range []struct {
		name         string
		answer       Response
		max, minutes int
		attempts     int
		reason       Reason
		outcome      string
		ends         time.Duration
	}{
		{"six attempts in half an hour", answerFailed, 30, 30, 6, ReasonTimeToLive, "GenericError", 30 * time.Minute},
		{"eleven attempts in a day", answerFailed, 30, 1440, 11, ReasonTimeToLive, "GenericError", day},
		{"one attempt allowed", answerFailed, 1, 1440, 1, ReasonMaxAttempts, "GenericError", 0},
		{"bad request", Response{Outcome: BadRequest, Status: 400}, 30, 1440, 1, ReasonBadRequest, "BadRequest", 0},
		{"unauthorized", Response{Outcome: Unauthorized, Status: 401}, 30, 1440, 1, ReasonUnauthorized, "Unauthorized", 0},
		{"forbidden", Response{Outcome: Forbidden, Status: 403}, 30, 1440, 1, ReasonForbidden, "Forbidden", 0},
		{"too large", Response{Outcome: PayloadTooLarge, Status: 413}, 30, 1440, 1, ReasonTooLarge, "PayloadTooLarge", 0},
	} {
		dir := t.TempDir()
		bubble(t, tt.name, func(t *testing.T) {
			e, err := engine.Open(t.Context(), engine.Options{Dir: dir, SyncInterval: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			h := &handler{t: t, answer: always(tt.answer)}
			table := timedTable{e.DeadLetters(), make(chan time.Time, 1)}
			ctx, stop := context.WithCancel(t.Context())
			b, err := New(ctx, Config{
				Log: e.Partition(), Journal: e.Partition().Journal(), DeadLetters: table, Logger: slog.New(slog.DiscardHandler),
				NewSender: func(*resource.EventSubscription) (Sender, error) { return h, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			es := testSubscription(0, filter.Filter{})
			es.RetryPolicy = resource.RetryPolicy{MaxDeliveryAttempts: tt.max, EventTimeToLive: tt.minutes}
			if err := b.Activate(ctx, es); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- b.Run(ctx) }()
			if err := b.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			publish(t, b, 0, 1, "a")
			if ended := (<-table.stored).Sub(began); ended < tt.ends || ended > tt.ends+time.Second {
				t.Errorf("dead-lettered after %s, want %s", ended, tt.ends)
			}
			got := h.got()
			if len(got) != tt.attempts {
				t.Errorf("%d attempts, want %d", len(got), tt.attempts)
			}
			for i, a := range got {
				if a.Count != i {
					t.Errorf("attempt %d has count %d", i+1, a.Count)
				}
				if i > 0 {
					wait, least := a.at.Sub(got[i-1].at), retryDelays[i-1]
					if wait < least || wait > least+least/20+time.Millisecond {
						t.Errorf("attempt %d came after %s, want %s", i+1, wait, least)
					}
				}
			}
			synctest.Wait()
			for _, l := range letters(t, b) {
				if l.DeadLetterReason != tt.reason || l.DeliveryAttempts != tt.attempts || l.LastDeliveryOutcome != tt.outcome ||
					l.LastHTTPStatusCode != tt.answer.Status || !l.LastDeliveryAttemptTime.Equal(got[len(got)-1].at) ||
					l.PublishTime.Sub(began).Abs() > time.Second || l.EventSubscription != es.ID().String() || l.Topic != testTopic.String() {
					t.Errorf("letter %+v", l)
				}
			}
			if st, _ := b.Status(es.UID); st.Open != 0 || st.DeadLettered != 1 || st.FailedAttempts != uint64(tt.attempts) || st.Delivered != 0 {
				t.Errorf("status %+v", st)
			}
			stop()
			if err := <-done; err != nil {
				t.Errorf("stop: %v", err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
