package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

const testDomainUID = resource.UID(0xd0)

var testDomain = resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/domains/d")

// domainSubscription is an event subscription of the test domain, or of one of its
// topics.
func domainSubscription(n int, topic string, f filter.Filter) *resource.EventSubscription {
	es := testSubscription(n, f)
	es.Scope, es.TopicUID = testDomain, testDomainUID
	if topic != "" {
		es.Scope, es.DomainTopic = testDomain.Child("topics", topic), topic
	}
	return es
}

// domainEvent is an event for one topic of the test domain, as decoding leaves it.
func domainEvent(t *testing.T, id, topic string) event.Event {
	t.Helper()
	e := testEvent(id, topic)
	e.Raw = []byte(strings.Replace(string(e.Raw), testTopic.String(), testDomain.String()+"/topics/"+topic, 1))
	e = parsed(t, e)
	e.DomainTopic = []byte(topic)
	return e
}

func publishToDomain(t *testing.T, b *Broker, events ...event.Event) {
	t.Helper()
	if err := b.Publish(t.Context(), testDomainUID, events); err != nil {
		t.Fatal(err)
	}
}

// ids are all that a handler got, in order.
func (h *handler) ids() []string {
	var all []string
	for _, a := range h.got() {
		all = append(all, a.ids...)
	}
	slices.Sort(all)
	return all
}

// TestDomain: who gets the events of a domain, live, lagging and after a crash.
func TestDomain(t *testing.T) {
	for _, tt := range []struct {
		name        string
		lags, crash bool
	}{{"live", false, false}, {"lagging", true, false}, {"after a crash", false, true}, {"lagging and after a crash", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.lags {
				smallBounds(t, 2, 4)
			}
			synctest.Test(t, func(t *testing.T) {
				free := make(chan struct{})
				wait := func(ctx context.Context, _ asked) Response {
					select {
					case <-free:
						return answerOK
					case <-ctx.Done():
						return Response{Outcome: Canceled}
					}
				}
				subs := []*resource.EventSubscription{
					domainSubscription(0, "", filter.Filter{}),
					domainSubscription(1, "tenant-a", filter.Filter{}),
					domainSubscription(2, "tenant-b", filter.Filter{}),
					domainSubscription(3, "", filter.Filter{SubjectBeginsWith: "Tenant-A", IsSubjectCaseSensitive: true}),
					domainSubscription(4, "tenant-a", filter.Filter{SubjectEndsWith: "none"}),
					testSubscription(5, filter.Filter{}),
				}
				handlers, senders := make([]*handler, len(subs)), map[string]Sender{}
				for i, es := range subs {
					handlers[i] = &handler{t: t, answer: wait}
					senders[es.Name] = handlers[i]
				}
				st := newStore()
				p := startProcess(t, st.open(-1), senders, subs...)
				for i := range 4 { // requests, each for several topics
					publishToDomain(t, p.Broker, domainEvent(t, fmt.Sprint(i, "a"), "tenant-a"), domainEvent(t, fmt.Sprint(i, "A"), "Tenant-A"),
						domainEvent(t, fmt.Sprint(i, "b"), "tenant-b"), domainEvent(t, fmt.Sprint(i, "c"), "nobodys"))
				}
				synctest.Wait()
				if tt.crash {
					p.h.killMu.Lock()
					p.h.dead = true
					p.h.killMu.Unlock()
					_ = p.end()
					for i := range handlers {
						handlers[i].mu.Lock()
						handlers[i].asked = nil
						handlers[i].mu.Unlock()
					}
					p = startProcess(t, st.open(-1), senders, subs...)
				}
				close(free)
				time.Sleep(5 * time.Minute)
				for i, want := range []string{
					"[0A 0a 0b 0c 1A 1a 1b 1c 2A 2a 2b 2c 3A 3a 3b 3c]", "[0A 0a 1A 1a 2A 2a 3A 3a]", "[0b 1b 2b 3b]", "[0A 1A 2A 3A]", "[]", "[]",
				} {
					if got := fmt.Sprint(slices.Compact(handlers[i].ids())); got != want {
						t.Errorf("event subscription %d at %q got %s, want %s", i, subs[i].Scope, got, want)
					}
				}
				finish(t, p)
			})
		})
	}
}

// TestDomainTopicAgain: an event subscription of a topic that was made again gets
// nothing that was published before.
func TestDomainTopicAgain(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		h := &handler{t: t}
		es := domainSubscription(0, "tenant-a", filter.Filter{})
		p := one(t, h, es)
		publishToDomain(t, p.Broker, domainEvent(t, "1", "tenant-a"))
		time.Sleep(time.Second)
		if err := p.Deactivate(t.Context(), es.UID); err != nil {
			t.Fatal(err)
		}
		publishToDomain(t, p.Broker, domainEvent(t, "2", "tenant-a"))
		again := *es
		again.UID++
		activate(t, p.Broker, &again)
		publishToDomain(t, p.Broker, domainEvent(t, "3", "tenant-a"))
		time.Sleep(time.Second)
		if got := fmt.Sprint(h.ids()); got != "[1 3]" {
			t.Errorf("got %s", got)
		}
		if n := len(p.dispatcher.matching.indexes); n != 1 {
			t.Errorf("%d indexes for one event subscription", n)
		}
		finish(t, p)
	})
}

// TestDomainStreams: tails, looks back, searches, replays and the memory of duplicates
// tell the topics of a domain apart.
func TestDomainStreams(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		h := &handler{t: t}
		es := domainSubscription(0, "tenant-a", filter.Filter{})
		p := one(t, h, es)
		begin := time.Now()
		tenant, whole := es.Stream(), resource.Stream{Topic: testDomainUID}
		tailed, stop := p.Tail(tenant)
		all, stopAll := p.Tail(whole)
		publishToDomain(t, p.Broker, domainEvent(t, "1", "tenant-a"), domainEvent(t, "1", "tenant-b"), domainEvent(t, "2", "TENANT-A"))
		time.Sleep(time.Second)
		stop()
		stopAll()
		count := func(events <-chan TailEvent) (n int) {
			for range events {
				n++
			}
			return n
		}
		if a, b := count(tailed), count(all); a != 2 || b != 3 {
			t.Errorf("tails saw %d and %d events", a, b)
		}
		if got := fmt.Sprint(storedIDs(t, newest(t, p.Broker, tenant, 0, nil))); got != "[2 1]" {
			t.Errorf("the topic holds %s", got)
		}
		if got := fmt.Sprint(storedIDs(t, newest(t, p.Broker, whole, 0, nil))); got != "[2 1 1]" {
			t.Errorf("the domain holds %s", got)
		}
		if e, err := p.FindEvent(t.Context(), tenant, "1"); err != nil || e.Position.Index() != 0 || e.SameID != 1 {
			t.Errorf("found %+v, %v", e, err)
		}
		job, err := p.CountLog(t.Context(), LogReplay{UID: es.UID, From: begin, To: time.Now().Add(time.Second)})
		if err != nil || job.Examined != 2 || job.Matched != 2 {
			t.Errorf("a replay examines %d events and delivers %d, %v", job.Examined, job.Matched, err)
		}

		again := []event.Event{domainEvent(t, "1", "tenant-b"), domainEvent(t, "1", "tenant-c"), domainEvent(t, "1", "tenant-c")}
		if err := p.PublishOnce(t.Context(), testDomainUID, time.Hour, again); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(storedIDs(t, newest(t, p.Broker, whole, 0, nil))); got != "[1 2 1 1]" {
			t.Errorf("with duplicates left out the domain holds %s", got)
		}
		finish(t, p)
	})
}
