package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// pullSubscription is an event subscription whose events are received.
func pullSubscription(n int) *resource.EventSubscription {
	es := testSubscription(n, filter.Filter{})
	es.Destination = resource.Destination{Type: resource.DestinationPull, Target: &resource.Target{}}
	es.DeliverySchema = event.CloudEventSchemaV1_0
	return es
}

// pulling starts a process with event subscriptions whose events are received.
func pulling(t *testing.T, h *handle, subs ...*resource.EventSubscription) *process {
	t.Helper()
	senders := map[string]Sender{}
	for _, es := range subs {
		senders[es.Name] = &handler{t: t, answer: func(context.Context, asked) Response {
			t.Error("something was sent")
			return answerOK
		}}
	}
	return startProcess(t, h, senders, subs...)
}

// receive receives and fails the test when it cannot.
func receive(t *testing.T, p *process, es *resource.EventSubscription, most int, wait time.Duration) []Received {
	t.Helper()
	r, err := p.Receive(t.Context(), es.UID, most, wait)
	if err != nil {
		t.Fatal(err)
	}
	r.Done()
	return r.Events
}

// answered answers and returns what is wrong with each token, as text.
func answered(t *testing.T, p *process, es *resource.EventSubscription, a Answer, delay time.Duration, tokens ...string) []string {
	t.Helper()
	problems, err := p.AnswerReceived(t.Context(), es.UID, a, delay, tokens)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, problem := range problems {
		switch {
		case problem == nil:
			texts = append(texts, "ok")
		case errors.Is(problem, ErrBadToken):
			texts = append(texts, "bad")
		case errors.Is(problem, ErrTokenLost):
			texts = append(texts, "lost")
		default:
			texts = append(texts, problem.Error())
		}
	}
	return texts
}

// shown is ids and delivery counts of what was received.
func shown(events []Received) string {
	var b strings.Builder
	for _, e := range events {
		_, rest, _ := strings.Cut(string(e.Event), `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		fmt.Fprintf(&b, "%s/%d ", id, e.DeliveryCount)
	}
	return strings.TrimSpace(b.String())
}

func tokensOf(events []Received) (tokens []string) {
	for _, e := range events {
		tokens = append(tokens, e.LockToken)
	}
	return tokens
}

// What is received is the receiver's until it is answered or its lock is over, and each
// answer does what it says.
func TestReceive(t *testing.T) {
	const wait = 10 * time.Second
	for _, tt := range []struct {
		name   string
		policy resource.RetryPolicy
		do     func(t *testing.T, p *process, es *resource.EventSubscription)
		reason Reason // of the dead letter of event 0, "" for none
		last   string // its last outcome
	}{
		{name: "acknowledged", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			got := receive(t, p, es, 2, wait)
			if s := shown(got); s != "0/1 1/1" {
				t.Errorf("received %s", s)
			}
			if s := shown(receive(t, p, es, 5, wait)); s != "2/1" {
				t.Errorf("another one received %s", s)
			}
			tokens := tokensOf(got)
			if s := answered(t, p, es, Acknowledge, 0, tokens[1], "a*b", tokens[0][1:], tokens[0]+"\n", lockToken{}.String(), tokens[0]); !slices.Equal(s, []string{"ok", "bad", "bad", "bad", "lost", "ok"}) {
				t.Errorf("answers %v", s)
			}
			for _, a := range []Answer{Acknowledge, Release, Reject, Renew} {
				if s := answered(t, p, es, a, 0, tokens...); !slices.Equal(s, []string{"lost", "lost"}) {
					t.Errorf("answers to what was acknowledged: %v", s)
				}
			}
			if st, _ := p.Status(es.UID); st.Delivered != 2 || st.Open != 1 || st.InFlight != 1 || st.FailedAttempts != 0 {
				t.Errorf("%+v", st)
			}
		}},
		{name: "the lock is over", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			first := receive(t, p, es, 1, wait)
			receive(t, p, es, 2, wait)
			began := time.Now()
			again := receive(t, p, es, 1, 2*time.Minute)
			if s, took := shown(again), time.Since(began); s != "0/2" || took != time.Minute {
				t.Errorf("received %s after %v", s, took)
			}
			if s := answered(t, p, es, Acknowledge, 0, first[0].LockToken, again[0].LockToken); !slices.Equal(s, []string{"lost", "ok"}) {
				t.Errorf("answers %v", s)
			}
		}},
		{name: "the lock is renewed", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			got := receive(t, p, es, 3, wait)
			for range 5 {
				time.Sleep(59 * time.Second)
				if s := answered(t, p, es, Renew, 0, got[0].LockToken); s[0] != "ok" {
					t.Fatalf("renewed: %v", s)
				}
			}
			if s := shown(receive(t, p, es, 9, wait)); s != "1/2 2/2" {
				t.Errorf("received %s", s)
			}
			if s := answered(t, p, es, Acknowledge, 0, got[0].LockToken); s[0] != "ok" {
				t.Errorf("acknowledged: %v", s)
			}
		}},
		{name: "released", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			receive(t, p, es, 3, wait)
			n := 1
			for _, delay := range []time.Duration{0, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour} {
				var token string
				for l := range p.lookup(uint64(es.UID)).locks.byToken {
					if p.lookup(uint64(es.UID)).locks.byToken[l].d.pos.Index() == 0 {
						token = l.String()
					}
				}
				began := time.Now()
				if s := answered(t, p, es, Release, delay, token); s[0] != "ok" {
					t.Fatalf("released: %v", s)
				}
				n++
				for {
					got := receive(t, p, es, 1, 2*time.Hour) // the others come as their locks end
					if !strings.HasPrefix(shown(got), "0/") {
						answered(t, p, es, Acknowledge, 0, got[0].LockToken)
						continue
					}
					if s, took := shown(got), time.Since(began); s != fmt.Sprintf("0/%d", n) || took != delay {
						t.Errorf("received %s after %v, want after %v", s, took, delay)
					}
					break
				}
			}
		}},
		{name: "rejected", reason: ReasonRejected, last: "Rejected", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			if s := answered(t, p, es, Reject, 0, receive(t, p, es, 1, wait)[0].LockToken); s[0] != "ok" {
				t.Errorf("rejected: %v", s)
			}
		}},
		{name: "released too often", policy: resource.RetryPolicy{MaxDeliveryAttempts: 2, EventTimeToLive: 1440}, reason: ReasonMaxAttempts, last: "LockExpired", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			answered(t, p, es, Release, 0, receive(t, p, es, 1, wait)[0].LockToken)
			for range 2 { // the others were before it in the queue
				answered(t, p, es, Acknowledge, 0, receive(t, p, es, 1, wait)[0].LockToken)
			}
			if s := shown(receive(t, p, es, 1, wait)); s != "0/2" {
				t.Errorf("received %s", s)
			}
			time.Sleep(time.Minute)
		}},
		{name: "its time is over in the queue", policy: resource.RetryPolicy{MaxDeliveryAttempts: 9, EventTimeToLive: 5}, reason: ReasonTimeToLive, last: "Probation", do: func(t *testing.T, _ *process, _ *resource.EventSubscription) {
			time.Sleep(5*time.Minute + time.Second)
		}},
		{name: "its time is over while it is locked", policy: resource.RetryPolicy{MaxDeliveryAttempts: 9, EventTimeToLive: 1}, do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			time.Sleep(30 * time.Second)
			got := receive(t, p, es, 1, wait)
			time.Sleep(45 * time.Second)
			if s := answered(t, p, es, Acknowledge, 0, got[0].LockToken); s[0] != "ok" {
				t.Errorf("acknowledged: %v", s)
			}
		}},
		{name: "its time ends before it is due again", policy: resource.RetryPolicy{MaxDeliveryAttempts: 9, EventTimeToLive: 5}, reason: ReasonTimeToLive, last: "Released", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			answered(t, p, es, Release, time.Hour, receive(t, p, es, 1, wait)[0].LockToken)
			time.Sleep(5 * time.Minute)
		}},
		{name: "nothing was taken by who left", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := p.Receive(ctx, es.UID, 2, wait); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			r, err := p.Receive(t.Context(), es.UID, 2, wait)
			if err != nil {
				t.Fatal(err)
			}
			tokens := tokensOf(r.Events)
			r.Return()
			if s := answered(t, p, es, Acknowledge, 0, tokens...); !slices.Equal(s, []string{"lost", "lost"}) {
				t.Errorf("answers %v", s)
			}
			if s := shown(receive(t, p, es, 9, wait)); s != "0/1 1/1 2/1" {
				t.Errorf("received %s", s)
			}
		}},
		{name: "a token is of one event subscription", do: func(t *testing.T, p *process, es *resource.EventSubscription) {
			other := pullSubscription(1)
			got := receive(t, p, es, 1, wait)
			if s := answered(t, p, other, Acknowledge, 0, got[0].LockToken); s[0] != "lost" {
				t.Errorf("acknowledged for another one: %v", s)
			}
			if s := answered(t, p, es, Acknowledge, 0, got[0].LockToken); s[0] != "ok" {
				t.Errorf("acknowledged: %v", s)
			}
		}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			es := pullSubscription(0)
			if tt.policy != (resource.RetryPolicy{}) {
				es.RetryPolicy = tt.policy
			}
			p := pulling(t, newStore().open(-1), es, pullSubscription(1))
			publish(t, p.Broker, 0, 3, "a")
			synctest.Wait()
			tt.do(t, p, es)
			time.Sleep(time.Second)
			synctest.Wait()
			var first *Letter
			for _, l := range letters(t, p.Broker) {
				if strings.Contains(string(l.Event), `{"id":"0"`) && strings.HasPrefix(l.ID, es.UID.String()) {
					first = l
				}
			}
			switch {
			case first == nil && tt.reason != "", first != nil && (first.DeadLetterReason != tt.reason || first.LastDeliveryOutcome != tt.last):
				t.Errorf("dead letter %+v, want %s after %s", first, tt.reason, tt.last)
			}
			finish(t, p)
		})
	}
}

// later does something after a while; what it returns is closed then.
func later(d time.Duration, do func()) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(d)
		do()
	}()
	return done
}

// Whoever receives where there is nothing waits for the first event, and no longer than
// he said. One event is the turn of one of those who wait.
func TestReceiveWaits(t *testing.T) {
	bubble(t, "for the first event", func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		began := time.Now()
		if got := receive(t, p, es, 5, 20*time.Second); len(got) != 0 || time.Since(began) != 20*time.Second {
			t.Errorf("received %s after %v", shown(got), time.Since(began))
		}
		done := later(7*time.Second, func() { publish(t, p.Broker, 0, 1, "a") })
		began = time.Now()
		if got := receive(t, p, es, 5, 20*time.Second); shown(got) != "0/1" || time.Since(began) > 8*time.Second {
			t.Errorf("received %s after %v", shown(got), time.Since(began))
		}
		<-done
		finish(t, p)
	})
	bubble(t, "in turn", func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		ctx, leave := context.WithCancel(t.Context())
		for n := range 3 {
			all.Go(func() {
				if n == 0 { // goes away
					if _, err := p.Receive(ctx, es.UID, 1, time.Minute); !errors.Is(err, context.Canceled) {
						t.Errorf("error %v", err)
					}
					return
				}
				if got := receive(t, p, es, 1, time.Minute); len(got) == 1 {
					mu.Lock()
					order = append(order, n)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		if st, _ := p.Status(es.UID); st.Receivers != 3 {
			t.Errorf("%d receivers", st.Receivers)
		}
		leave()
		synctest.Wait()
		publish(t, p.Broker, 0, 1, "a")
		synctest.Wait()
		publish(t, p.Broker, 1, 1, "a")
		all.Wait()
		if !slices.Equal(order, []int{1, 2}) {
			t.Errorf("received in the order %v", order)
		}
		finish(t, p)
	})
	bubble(t, "until it is resumed", func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		publish(t, p.Broker, 0, 2, "a")
		synctest.Wait()
		held := receive(t, p, es, 1, time.Second)
		pause(t, p, es)
		if got := receive(t, p, es, 5, time.Minute); len(got) != 0 {
			t.Errorf("received %s while paused", shown(got))
		}
		if s := answered(t, p, es, Acknowledge, 0, held[0].LockToken); s[0] != "lost" {
			t.Errorf("its lock goes on after its time: %v", s)
		}
		done := later(time.Second, func() { resume(t, p, es) })
		began := time.Now()
		if got := receive(t, p, es, 5, time.Minute); shown(got) != "1/1 0/2" || time.Since(began) > 2*time.Second {
			t.Errorf("received %s after %v", shown(got), time.Since(began))
		}
		<-done
		finish(t, p)
	})
	bubble(t, "not for what is gone", func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		done := later(time.Second, func() {
			if err := p.Deactivate(t.Context(), es.UID); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		if _, err := p.Receive(t.Context(), es.UID, 1, time.Minute); !fault.Is(err, fault.NotFound) || time.Since(began) > 2*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		<-done
		if _, err := p.AnswerReceived(t.Context(), es.UID, Acknowledge, 0, []string{"x"}); !fault.Is(err, fault.NotFound) {
			t.Errorf("error %v", err)
		}
		finish(t, p)
	})
	bubble(t, "not for a broker that stops", func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		waits := make(chan []Received)
		go func() { waits <- receive(t, p, es, 1, time.Hour) }()
		synctest.Wait()
		began := time.Now()
		finish(t, p)
		if got := <-waits; len(got) != 0 || time.Since(began) > time.Second {
			t.Errorf("received %s after %v", shown(got), time.Since(began))
		}
	})
}

// However many wait for events of one event subscription, others have places, and where
// something is there nobody needs one.
func TestReceiversShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crowded, quiet := pullSubscription(0), pullSubscription(1)
		p := pulling(t, newStore().open(-1), crowded, quiet)
		publish(t, p.Broker, 0, 1, "a")
		synctest.Wait()
		held := receive(t, p, crowded, 1, time.Second)
		receive(t, p, quiet, 1, time.Second)
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var refused atomic.Int32
		wait := func(es *resource.EventSubscription) {
			all.Go(func() {
				_, err := p.Receive(ctx, es.UID, 1, 50*time.Second)
				switch {
				case fault.Is(err, fault.TooMany):
					refused.Add(1)
				case !errors.Is(err, context.Canceled):
					t.Errorf("error %v", err)
				}
			})
		}
		for range maxReceivers {
			wait(crowded)
		}
		synctest.Wait()
		st, _ := p.Status(crowded.UID)
		if share := maxReceivers / (receiverPart + 1); st.Receivers < share || st.Receivers > share+1 || st.Receivers+int(refused.Load()) != maxReceivers {
			t.Errorf("%d wait, %d are refused, want a share of %d", st.Receivers, refused.Load(), share)
		}
		wait(quiet)
		synctest.Wait()
		if st, _ := p.Status(quiet.UID); st.Receivers != 1 {
			t.Errorf("%d wait for the other one", st.Receivers)
		}
		pause(t, p, crowded) // so that what comes back is there when it goes on
		answered(t, p, crowded, Release, 0, held[0].LockToken)
		leave()
		all.Wait()
		if n := p.receivers.Load(); n != 0 {
			t.Errorf("%d places are taken when all are gone", n)
		}
		resume(t, p, crowded)
		p.receivers.Add(maxReceivers) // of others
		if got := receive(t, p, crowded, 1, time.Second); shown(got) != "0/2" {
			t.Errorf("on a full node received %s", shown(got))
		}
		if got := receive(t, p, crowded, 1, time.Second); len(got) != 0 { // one may wait
			t.Errorf("received %s", shown(got))
		}
		p.receivers.Add(-maxReceivers)
		finish(t, p)
	})
}

// Receivers that do not read what they got keep their own event subscription waiting, not
// others, and not for longer than that.
func TestReceiversThatDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := pullSubscription(0), pullSubscription(1)
		hold := newStore().open(-1)
		hold.tune = func(c *Config) { c.Window = answerPart * maxReceived }
		p := pulling(t, hold, slow, quick)
		for i, size := range []int{maxReceived / 2, maxReceived / 3, maxReceived / 2} {
			e := testEvent(strconv.Itoa(i), "a")
			e.Raw = []byte(strings.Replace(string(e.Raw), `"data":{}`, `"data":"`+strings.Repeat("x", size)+`"`, 1))
			if err := p.Publish(t.Context(), testTopicUID, []event.Event{e}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		take := func(es *resource.EventSubscription, want string) *Reception {
			t.Helper()
			r, err := p.Receive(t.Context(), es.UID, 1, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(r.Events); got != want {
				t.Errorf("received %q, want %q", got, want)
			}
			return r
		}
		first, second := take(slow, "0/1"), take(slow, "1/1")
		take(slow, "").Done()
		take(quick, "0/1").Return()
		take(quick, "0/1").Done()
		done := later(time.Second, first.Done)
		began := time.Now()
		take(slow, "2/1").Done()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it waited %v", took)
		}
		<-done
		first.Done() // once more
		second.Done()
		if n := p.answering.Load(); n != 0 {
			t.Errorf("%d bytes of answers when all are written", n)
		}
		finish(t, p)
	})
}

// Twenty receivers at once never have one event at the same time, and together they get
// all, each as often as its locks ended.
func TestReceiversAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 500
		es := pullSubscription(0)
		es.RetryPolicy.MaxDeliveryAttempts = 30
		p := pulling(t, newStore().open(-1), es)
		var mu sync.Mutex
		holder, done := map[string]int{}, map[string]bool{}
		var all sync.WaitGroup
		for n := range 20 {
			all.Go(func() {
				for range 1000 {
					got := receive(t, p, es, 1+n%7, 3*time.Minute)
					mu.Lock()
					if len(got) == 0 && len(done) == events {
						mu.Unlock()
						return
					}
					var keep []string
					for i, e := range got {
						id, _, _ := strings.Cut(shown(got[i:i+1]), "/")
						if by, held := holder[id]; held || done[id] {
							t.Errorf("event %s is held by %d, done %v, and was received by %d", id, by, done[id], n)
						}
						if holder[id] = n; (n+i)%5 == 0 && e.DeliveryCount < 3 {
							time.AfterFunc(59*time.Second, func() { // its lock ends unanswered
								mu.Lock()
								delete(holder, id)
								mu.Unlock()
							})
							continue
						}
						delete(holder, id)
						done[id] = true
						keep = append(keep, e.LockToken)
					}
					mu.Unlock()
					if s := answered(t, p, es, Acknowledge, 0, keep...); slices.ContainsFunc(s, func(s string) bool { return s != "ok" }) {
						t.Errorf("answers %v", s)
					}
				}
			})
		}
		for i := range 50 {
			publish(t, p.Broker, 10*i, 10, "a")
		}
		all.Wait()
		if st, _ := p.Status(es.UID); st.Delivered != events || st.Open != 0 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
}

// What is locked when the process ends is there again after the start, not counted, and
// nothing of it is held by the tokens of before. What was acknowledged is not.
func TestReceiveOverRestart(t *testing.T) {
	for _, killed := range []bool{false, true} {
		bubble(t, "killed="+strconv.FormatBool(killed), func(t *testing.T) {
			st, es := newStore(), pullSubscription(0)
			h := st.open(-1)
			p := pulling(t, h, es)
			publish(t, p.Broker, 0, 6, "a")
			synctest.Wait()
			got := receive(t, p, es, 6, time.Second)
			answered(t, p, es, Acknowledge, 0, got[0].LockToken)
			answered(t, p, es, Release, time.Minute, got[1].LockToken)
			answered(t, p, es, Reject, 0, got[2].LockToken)
			if killed {
				h.killMu.Lock()
				h.dead = true
				h.killMu.Unlock()
				_ = p.end()
			} else {
				finish(t, p)
			}

			p = pulling(t, st.open(-1), es)
			if s := answered(t, p, es, Acknowledge, 0, tokensOf(got)...); slices.Contains(s, "ok") {
				t.Errorf("tokens of before the start: %v", s)
			}
			if s := shown(receive(t, p, es, 9, time.Second)); s != "3/1 4/1 5/1" {
				t.Errorf("received %s", s)
			}
			var then []string // the locks end, and the one that was released is due
			for range 4 {
				then = append(then, shown(receive(t, p, es, 1, 2*time.Minute)))
			}
			if slices.Sort(then); !slices.Equal(then, []string{"1/2", "3/2", "4/2", "5/2"}) {
				t.Errorf("then received %s", then)
			}
			synctest.Wait()
			if all := letters(t, p.Broker); len(all) != 1 || all[0].DeadLetterReason != ReasonRejected {
				t.Errorf("dead letters %+v", all)
			}
			finish(t, p)
		})
	}
}

// Events whose time was over while the server was down can be received for a while.
func TestReceiveLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, es := newStore(), pullSubscription(0)
		es.RetryPolicy.EventTimeToLive = 5
		p := pulling(t, st.open(-1), es)
		publish(t, p.Broker, 0, 2, "a")
		finish(t, p)
		time.Sleep(time.Hour)
		p = pulling(t, st.open(-1), es)
		time.Sleep(lateReceipt - time.Second)
		got := receive(t, p, es, 1, time.Second)
		if s := shown(got); s != "0/1" {
			t.Errorf("received %s", s)
		}
		time.Sleep(2 * time.Second)
		if s := answered(t, p, es, Acknowledge, 0, got[0].LockToken); s[0] != "ok" {
			t.Errorf("acknowledged: %v", s)
		}
		synctest.Wait()
		if all := letters(t, p.Broker); len(all) != 1 || all[0].DeadLetterReason != ReasonTimeToLive {
			t.Errorf("dead letters %+v", all)
		}
		finish(t, p)
	})
}

// An event subscription that expired gets nothing new, and what it has goes on: to a handler
// that is asked again, or to receivers. When the last of it is settled, or its time is over,
// nothing is open, which is when the event subscription goes (manage's sweep).
func TestReceiveAfterExpiration(t *testing.T) {
	for _, kind := range []string{"pushed", "received"} {
		bubble(t, kind, func(t *testing.T) {
			es := testSubscription(0, filter.Filter{})
			if kind == "received" {
				es = pullSubscription(0)
			}
			es.Expiration = time.Now().Add(time.Minute)
			es.RetryPolicy = resource.RetryPolicy{MaxDeliveryAttempts: 30, EventTimeToLive: 5}
			h := &handler{answer: func(_ context.Context, a asked) Response {
				if a.ids[0] == "0" && !time.Now().Before(es.Expiration) {
					return answerOK
				}
				return Response{Outcome: GenericError, Status: 500}
			}}
			p := startProcess(t, newStore().open(-1), map[string]Sender{es.Name: h}, es)
			publish(t, p.Broker, 0, 2, "a")
			time.Sleep(time.Minute)
			publish(t, p.Broker, 2, 1, "a")
			synctest.Wait()
			if n := p.Open(es.UID); n != 2 {
				t.Fatalf("%d open at the expiration, want those of before", n)
			}
			if kind == "received" {
				got := receive(t, p, es, 9, 10*time.Second)
				if s := shown(got); s != "0/1 1/1" {
					t.Errorf("received %s", s)
				}
				if s := answered(t, p, es, Acknowledge, 0, got[0].LockToken); s[0] != "ok" {
					t.Errorf("acknowledged: %v", s)
				}
			}
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			if n := p.Open(es.UID); n != 1 {
				t.Errorf("%d open, want that which nobody took", n)
			}
			time.Sleep(time.Minute + time.Second)
			synctest.Wait()
			if n := p.Open(es.UID); n != 0 {
				t.Errorf("%d open when the time of all is over", n)
			}
			if l := letters(t, p.Broker); len(l) != 1 || l[0].DeadLetterReason != ReasonTimeToLive || !strings.Contains(string(l[0].Event), `{"id":"1"`) {
				t.Errorf("dead letters %+v", l)
			}
			finish(t, p)
		})
	}
}

// Where the operator leaves dataschema out, receivers learn the data version beside the
// event.
func TestReceiveDataVersion(t *testing.T) {
	for _, omit := range []bool{false, true} {
		bubble(t, fmt.Sprintf("omitted %v", omit), func(t *testing.T) {
			es := pullSubscription(0)
			hold := newStore().open(-1)
			hold.tune = func(c *Config) { c.Rules.OmitDataSchema = omit }
			p := pulling(t, hold, es)
			publish(t, p.Broker, 0, 1, "a")
			got := receive(t, p, es, 1, time.Minute)
			if len(got) != 1 || strings.Contains(string(got[0].Event), `"dataschema":"#1"`) == omit || (got[0].DataVersion == "1") != omit {
				t.Errorf("received %+v", got)
			}
			finish(t, p)
		})
	}
}

// Receivers hold no more than an event subscription may have open; the rest waits in the
// log, publishers do not wait for it, and answers make room.
func TestReceiveBound(t *testing.T) {
	ready, open := maxReady, maxOpen
	maxReady, maxOpen = 40, 100
	defer func() { maxReady, maxOpen = ready, open }()
	synctest.Test(t, func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		began := time.Now()
		for i := range 100 {
			publish(t, p.Broker, 10*i, 10, "a")
		}
		synctest.Wait()
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("publishers waited %v", took)
		}
		var held []string
		for {
			got := receive(t, p, es, 30, 10*time.Second)
			if len(got) == 0 {
				break
			}
			held = append(held, tokensOf(got)...)
			answered(t, p, es, Renew, 0, held...)
		}
		if len(held) < 50 || len(held) > 100 {
			t.Errorf("receivers hold %d events, want at most 100", len(held))
		}
		answered(t, p, es, Acknowledge, 0, held...)
		n := len(held)
		for n < 1000 {
			got := receive(t, p, es, 30, time.Minute)
			if len(got) == 0 {
				t.Fatalf("nothing more after %d events", n)
			}
			answered(t, p, es, Acknowledge, 0, tokensOf(got)...)
			n += len(got)
		}
		if st, _ := p.Status(es.UID); st.Delivered != 1000 || st.Open != 0 || n != 1000 {
			t.Errorf("%d events, %+v", n, st)
		}
		finish(t, p)
	})
}

// What is released for an hour does not keep what is new from receivers, up to a bound.
func TestReceiveBesideReleased(t *testing.T) {
	ready, open := maxReady, maxOpen
	maxReady, maxOpen = 40, 100
	defer func() { maxReady, maxOpen = ready, open }()
	synctest.Test(t, func(t *testing.T) {
		es := pullSubscription(0)
		p := pulling(t, newStore().open(-1), es)
		for i := range 100 {
			publish(t, p.Broker, 10*i, 10, "a")
		}
		began := time.Now()
		released := 0
		for {
			got := receive(t, p, es, 30, 10*time.Second)
			if len(got) == 0 {
				break
			}
			answered(t, p, es, Release, time.Hour, tokensOf(got)...)
			released += len(got)
		}
		if most := (1 + releasedBeside) * maxOpen; released < most-maxOpen || released > most || time.Since(began) > time.Minute {
			t.Errorf("%d events could be released within %v, want about %d", released, time.Since(began), most)
		}
		time.Sleep(time.Hour)
		seen := map[string]bool{}
		for len(seen) < 1000 {
			got := receive(t, p, es, 30, time.Minute)
			if len(got) == 0 {
				t.Fatalf("nothing more after %d events", len(seen))
			}
			for _, id := range strings.Fields(shown(got)) {
				seen[id] = true
			}
			answered(t, p, es, Acknowledge, 0, tokensOf(got)...)
		}
		if st, _ := p.Status(es.UID); st.Delivered != 1000 || st.Open != 0 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
}

// The destination may become another one: what waits goes on there.
func TestReceiveInPlaceOfWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{t: t, answer: always(Response{Outcome: NotFound, Status: 404})}
		es := testSubscription(0, filter.Filter{})
		p := one(t, h, es)
		publish(t, p.Broker, 0, 3, "a")
		synctest.Wait()
		if st, _ := p.Status(es.UID); !st.BreakerOpen || st.Open != 3 {
			t.Fatalf("%+v", st)
		}
		received := pullSubscription(0)
		activateAgain(t, p, received)
		publish(t, p.Broker, 3, 1, "a")
		synctest.Wait()
		if s := shown(receive(t, p, received, 9, time.Second)); s != "1/1 2/1 3/1" {
			t.Errorf("received %s", s)
		}
		got := receive(t, p, received, 9, 10*time.Minute) // the one that the webhook was asked with is due, or the locks end
		if st, _ := p.Status(es.UID); len(got) == 0 || st.BreakerOpen {
			t.Errorf("received %s, %+v", shown(got), st)
		}
		h.mu.Lock()
		h.answer = nil
		h.mu.Unlock()
		waits := make(chan error)
		go func() {
			for {
				if _, err := p.Receive(t.Context(), es.UID, 9, time.Hour); err != nil {
					waits <- err
					return
				}
			}
		}()
		synctest.Wait()
		activateAgain(t, p, es)
		if err := <-waits; !fault.Is(err, fault.NotFound) {
			t.Errorf("error %v", err)
		}
		settleAll(t, p) // when the locks are over
		if n := h.times(); len(n) != 4 {
			t.Errorf("the webhook got %v", n)
		}
		finish(t, p)
	})
}

// An event whose frame is damaged is given up as with every destination, and the others
// are received.
func TestReceiveUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, es := newStore(), pullSubscription(0)
		p := pulling(t, st.open(-1), es)
		for i := range 3 {
			publish(t, p.Broker, i, 1, "a")
		}
		synctest.Wait()
		p.window.newest.frames = map[uint64]*engine.Frame{}
		st.mu.Lock()
		st.damaged = map[uint64]bool{1: true}
		st.mu.Unlock()
		if s := shown(receive(t, p, es, 9, time.Second)); s != "1/1 2/1" {
			t.Errorf("received %s", s)
		}
		if st, _ := p.Status(es.UID); st.FailedAttempts != 1 || st.Open != 3 {
			t.Errorf("%+v", st)
		}
		finish(t, p)
	})
}
