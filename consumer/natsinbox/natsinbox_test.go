package natsinbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/mlevent"
)

// newJetStream starts a NATS server without a listener.
func newJetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	ns, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(time.Minute) {
		t.Fatal("the NATS server does not start")
	}
	c, err := nats.Connect("", nats.InProcessServer(ns), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	js, err := jetstream.New(c, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func open(t *testing.T, js jetstream.JetStream, c Config) *Inbox {
	t.Helper()
	if c.Handler == "" {
		c.Handler = "promoter"
	}
	i, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestInbox(t *testing.T) {
	js, n := newJetStream(t), 0
	consumertest.TestInbox(t, func(t *testing.T) consumer.Inbox {
		n++
		return open(t, js, Config{Bucket: fmt.Sprint("inbox", n)})
	})
}

// TestClaims keeps an event, and an object, for the process that has it, until it lets go or
// its lease is over.
func TestClaims(t *testing.T) {
	js := newJetStream(t)
	for _, c := range []struct{ name, sequencer, next string }{{"objects", "5", "6"}, {"events", "", ""}} {
		t.Run(c.name, func(t *testing.T) {
			a, b := open(t, js, Config{Bucket: c.name}), open(t, js, Config{Bucket: c.name})
			now := time.Now()
			b.now = func() time.Time { return now }
			begin := func(i *Inbox, id, sequencer string) consumer.Verdict {
				t.Helper()
				v, err := i.Begin(t.Context(), consumer.Entry{Source: "s", ID: id, Subject: "o", Sequencer: sequencer})
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			end := func(i *Inbox, id, sequencer string, handled bool) error {
				return i.End(t.Context(), consumer.Entry{Source: "s", ID: id, Subject: "o", Sequencer: sequencer}, handled)
			}
			one := consumer.Unseen
			if v := begin(a, "1", c.sequencer); v != one {
				t.Fatal(v)
			}
			if v := begin(b, "1", c.sequencer); v != consumer.Claimed {
				t.Errorf("an event that another process has is %s", v)
			}
			want := consumer.Claimed // for it is of the same object
			if c.sequencer == "" {
				want = consumer.Unseen
			}
			if v := begin(b, "2", c.next); v != want {
				t.Errorf("another event is %s", v)
			} else if v == consumer.Unseen {
				if err := end(b, "2", c.next, true); err != nil {
					t.Error(err)
				}
			}
			if err := end(a, "1", c.sequencer, false); err != nil {
				t.Error(err)
			}
			if v := begin(b, "1", c.sequencer); v != consumer.Unseen {
				t.Errorf("an event that another process could not handle is %s", v)
			}
			if err := end(b, "1", c.sequencer, true); err != nil {
				t.Error(err)
			}
			if v := begin(a, "1", c.sequencer); v != consumer.Seen {
				t.Errorf("an event that another process has handled is %s", v)
			}
			// A process that dies has its events until the lease is over.
			if v := begin(a, "9", c.next); v != consumer.Unseen {
				t.Fatal(v)
			}
			if v := begin(b, "9", c.next); v != consumer.Claimed {
				t.Errorf("within the lease it is %s", v)
			}
			now = now.Add(2 * time.Minute)
			if v := begin(b, "9", c.next); v != consumer.Unseen {
				t.Errorf("after the lease it is %s", v)
			}
			if err := end(a, "9", c.next, true); err == nil {
				t.Error("the first process does not hear that it was too slow")
			}
			if err := end(b, "9", c.next, true); err != nil {
				t.Error(err)
			}
		})
	}
}

// dying is a bucket that is away after some writes, as when the process dies.
type dying struct {
	jetstream.KeyValue
	writes int
}

var errDead = errors.New("dead")

func (d *dying) live(err *error) bool {
	if d.writes--; d.writes < 0 {
		*err = errDead
	}
	return *err == nil
}

func (d *dying) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if d.writes <= 0 {
		return nil, errDead
	}
	return d.KeyValue.Get(ctx, key)
}

func (d *dying) Put(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	if d.live(&err) {
		return d.KeyValue.Put(ctx, key, value)
	}
	return 0, err
}

func (d *dying) Update(ctx context.Context, key string, value []byte, last uint64) (revision uint64, err error) {
	if d.live(&err) {
		return d.KeyValue.Update(ctx, key, value, last)
	}
	return 0, err
}

// TestDies has a process die after each write of an event's end: what it wrote first is how far
// the object has come, so that no older event undoes it.
func TestDies(t *testing.T) {
	js := newJetStream(t)
	for writes, want := range map[int]consumer.Verdict{1: consumer.Unseen, 2: consumer.Seen, 3: consumer.Seen} {
		t.Run(fmt.Sprint(writes), func(t *testing.T) {
			bucket := fmt.Sprint("dies", writes)
			a, b := open(t, js, Config{Bucket: bucket}), open(t, js, Config{Bucket: bucket})
			newer := consumer.Entry{Source: "s", ID: "2", Subject: "o", Sequencer: "2", ETag: "2"}
			if v, err := a.Begin(t.Context(), newer); v != consumer.Unseen || err != nil {
				t.Fatal(v, err)
			}
			a.kv = &dying{a.kv, writes}
			if err := a.End(t.Context(), newer, true); (err == nil) != (writes == 3) {
				t.Fatal(err)
			}
			b.now = func() time.Time { return time.Now().Add(time.Hour) }
			older := consumer.Entry{Source: "s", ID: "1", Subject: "o", Sequencer: "1", ETag: "1"}
			if v, err := b.Begin(t.Context(), older); v != consumer.Older || err != nil {
				t.Errorf("an older event is %s, %v", v, err)
			} else if err := b.End(t.Context(), older, false); err != nil {
				t.Error(err)
			}
			if v, err := b.Begin(t.Context(), newer); v != want || err != nil {
				t.Errorf("the event itself is %s, %v", v, err)
			}
		})
	}
}

// TestTooSlow has a process end an event when its lease is over and another process has the
// object: what it knows is written all the same.
func TestTooSlow(t *testing.T) {
	js := newJetStream(t)
	a, b := open(t, js, Config{}), open(t, js, Config{})
	newer := consumer.Entry{Source: "s", ID: "2", Subject: "o", Sequencer: "2", ETag: "2"}
	middle := consumer.Entry{Source: "s", ID: "1", Subject: "o", Sequencer: "1", ETag: "1"}
	older := consumer.Entry{Source: "s", ID: "0", Subject: "o", Sequencer: "0", ETag: "0"}
	for _, step := range []struct {
		inbox *Inbox
		entry consumer.Entry
	}{{a, newer}, {b, middle}} {
		if v, err := step.inbox.Begin(t.Context(), step.entry); v != consumer.Unseen || err != nil {
			t.Fatal(v, err)
		}
		b.now = func() time.Time { return time.Now().Add(time.Hour) }
	}
	if err := a.End(t.Context(), newer, true); err == nil {
		t.Error("it does not hear that it was too slow")
	}
	if v, err := a.Begin(t.Context(), older); v != consumer.Claimed || err != nil {
		t.Errorf("the object that the other one has is %s, %v", v, err)
	}
	if err := b.End(t.Context(), middle, true); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		entry consumer.Entry
		want  consumer.Verdict
	}{{newer, consumer.Seen}, {middle, consumer.Seen}, {older, consumer.Older}} {
		if v, err := b.Begin(t.Context(), c.entry); v != c.want || err != nil {
			t.Errorf("%s is %s, %v", c.entry.ID, v, err)
		}
	}
}

// TestTwoHandlers has two programs share a bucket: each handles every event. A name has to be
// given, and an inbox to one Handler only.
func TestTwoHandlers(t *testing.T) {
	js := newJetStream(t)
	source := consumertest.NewSource("/workspace")
	events := []consumertest.Event{source.Event(mlevent.ModelDeployed{ServiceName: "s"}), source.Event(mlevent.ModelDeployed{ServiceName: "s"}), source.Custom("T", "s", nil)}
	for _, name := range []string{"promoter", "pager"} {
		n := 0
		options := []consumer.Option{consumer.Topics("/workspace"), consumer.WithInbox(open(t, js, Config{Handler: name})),
			consumer.OnOther(func(context.Context, consumer.Event[json.RawMessage]) error { n++; return nil })}
		h, err := consumer.New(options...)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if a, err := (&consumertest.Sender{Handler: h}).Send(e); err != nil || a.Status != 200 {
				t.Errorf("%+v, %v", a, err)
			}
		}
		if n != len(events) {
			t.Errorf("%s handled %d events of %d", name, n, len(events))
		}
		if _, err := consumer.New(options...); !errors.Is(err, consumer.ErrAttached) {
			t.Errorf("the inbox goes to two handlers: %v", err)
		}
	}
	for _, name := range []string{"", "a.b", "a b", "é"} {
		if _, err := Open(t.Context(), js, Config{Handler: name}); err == nil || !strings.Contains(err.Error(), "Handler") {
			t.Errorf("a handler called %q: %v", name, err)
		}
	}
}

// TestTwoProcesses has two handlers share the deliveries of some events.
func TestTwoProcesses(t *testing.T) {
	js := newJetStream(t)
	source := consumertest.NewSource("/workspace")
	var events []consumertest.Event
	for n := range 60 {
		events = append(events, source.Event(mlevent.ModelDeployed{ServiceName: fmt.Sprint("s", n%20), ServiceComputeType: fmt.Sprint(n)}))
	}
	var mu sync.Mutex
	state, times, failed := map[string]string{}, map[string]int{}, map[string]bool{}
	var busy [20]atomic.Int32
	var work sync.WaitGroup
	all := consumertest.Shuffle(3, 60, events...)
	for part := range slices.Chunk(all, 60) {
		h, err := consumer.New(consumer.Topics("/workspace"), consumer.WithInbox(open(t, js, Config{})), consumer.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
			consumer.On(func(_ context.Context, e consumer.Event[mlevent.ModelDeployed]) error {
				var n int
				_, _ = fmt.Sscanf(e.Data.ServiceName, "s%d", &n)
				if busy[n].Add(1) != 1 {
					t.Errorf("two processes handle %s", e.Subject)
				}
				defer busy[n].Add(-1)
				mu.Lock()
				defer mu.Unlock()
				if n%7 == 0 && !failed[e.ID] {
					failed[e.ID] = true
					return errors.New("down")
				}
				times[e.ID]++
				state[e.Data.ServiceName] = e.Data.ServiceComputeType
				return nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		for half := range slices.Chunk(part, 30) {
			work.Go(func() {
				for _, e := range half {
					for {
						a, err := (&consumertest.Sender{Handler: h}).Send(e)
						if err != nil || a.Delivered() {
							break
						}
					}
				}
			})
		}
	}
	work.Wait()
	for id, n := range times {
		if n > 1 {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
	for n := range 20 {
		if got := state[fmt.Sprint("s", n)]; got != fmt.Sprint(40+n) {
			t.Errorf("s%d is %s", n, got)
		}
	}
}

// TestAway has the inbox away: nothing is handled without it.
func TestAway(t *testing.T) {
	i := open(t, newJetStream(t), Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if v, err := i.Begin(ctx, consumer.Entry{Source: "s", ID: "1", Sequencer: "1"}); err == nil {
		t.Errorf("it is %s", v)
	}
}
