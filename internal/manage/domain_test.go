package manage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const domainID = local + "/providers/Microsoft.EventGrid/domains/shops"

func (f *fixture) domain(t *testing.T, c DomainChange) resource.Item[resource.Domain] {
	t.Helper()
	c.Location = FirstLocation
	d, err := f.PutDomain(t.Context(), f.owner, id(domainID), c, Precondition{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// topicsOfShops are the topics of the domain, in order.
func (f *fixture) topicsOfShops(t *testing.T) string {
	t.Helper()
	topics, err := f.DomainTopics(t.Context(), f.owner, id(domainID), Part{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, topic := range topics {
		names = append(names, topic.Value.ID.Name())
	}
	return strings.Join(names, " ")
}

func (f *fixture) deleteEventSubscription(t *testing.T, at string) {
	t.Helper()
	if existed, err := f.DeleteEventSubscription(t.Context(), f.owner, id(at), Precondition{}); err != nil || !existed {
		t.Fatalf("delete %s: %v, %v", at, existed, err)
	}
}

// TestDomainTopicsComeAndGo: which topics a domain makes and removes by itself.
// Source: spec/events.md section 8.7.
func TestDomainTopicsComeAndGo(t *testing.T) {
	no := false
	for _, tt := range []struct {
		name        string
		domain      DomainChange
		explicit    bool // the topic is made before its first event subscription
		refused     bool // the first event subscription is
		after, gone string
	}{
		{"by themselves", DomainChange{}, false, false, "tenant-a", ""},
		{"an explicit one goes too", DomainChange{}, true, false, "tenant-a", ""},
		{"made by itself, kept", DomainChange{AutoDelete: &no}, false, false, "tenant-a", "tenant-a"},
		{"not made", DomainChange{AutoCreate: &no}, false, true, "", ""},
		{"explicit only, goes", DomainChange{AutoCreate: &no}, true, false, "tenant-a", ""},
		{"explicit only, kept", DomainChange{AutoCreate: &no, AutoDelete: &no}, true, false, "tenant-a", "tenant-a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.domain(t, tt.domain)
			topic := domainID + "/topics/tenant-a"
			if tt.explicit {
				if _, err := f.PutDomainTopic(t.Context(), f.owner, id(topic), Tracked{}, Precondition{}); err != nil {
					t.Fatal(err)
				}
			}
			at, second := topic+extension+"es1", topic+"/eventSubscriptions/es2"
			_, err := f.PutEventSubscription(t.Context(), f.owner, id(at), hook(hookURL), Precondition{})
			if tt.refused {
				if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "autoCreateTopicWithFirstSubscription") {
					t.Errorf("refused with %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			f.put(t, second, hook(hookURL))
			if got := f.topicsOfShops(t); got != tt.after {
				t.Errorf("with event subscriptions there is %q", got)
			}
			f.deleteEventSubscription(t, at)
			if got := f.topicsOfShops(t); got != tt.after {
				t.Errorf("with one left there is %q", got)
			}
			f.deleteEventSubscription(t, second)
			if got := f.topicsOfShops(t); got != tt.gone {
				t.Errorf("without event subscriptions there is %q, want %q", got, tt.gone)
			}
		})
	}
}

// TestDomainTopicGoesWithItsExpiredEventSubscription: an end that came by itself counts.
func TestDomainTopicGoesWithItsExpiredEventSubscription(t *testing.T) {
	f := newFixture(t)
	f.domain(t, DomainChange{})
	c := hook(hookURL)
	end := time.Now().Add(time.Hour)
	text := end.UTC().Format(time.RFC3339)
	c.Expiration = &text
	f.put(t, domainID+"/topics/tenant-a"+extension+"es1", c)
	f.sweep(t.Context(), end.Add(time.Second))
	if got := f.topicsOfShops(t); got != "" {
		t.Errorf("there is %q", got)
	}
}

// TestDomainTopicOfARefusedEventSubscription: what refuses the first event subscription
// leaves no topic behind.
func TestDomainTopicOfARefusedEventSubscription(t *testing.T) {
	f := newFixture(t)
	f.domain(t, DomainChange{})
	at := domainID + "/topics/tenant-a" + extension + "es1"
	f.endpoint.will(refusing)
	if _, err := f.PutEventSubscription(t.Context(), f.owner, id(at), hook(hookURL), Precondition{}); err == nil {
		t.Error("the endpoint refused")
	}
	f.endpoint.will(nil)
	f.broker.refuse = fault.New(fault.Conflict, "Conflict", "no")
	if _, err := f.PutEventSubscription(t.Context(), f.owner, id(at), hook(hookURL), Precondition{}); !fault.Is(err, fault.Conflict) {
		t.Errorf("not activated: %v", err)
	}
	if got := f.topicsOfShops(t); got != "" {
		t.Errorf("there is %q", got)
	}
}

// TestDomainTopicsAfterACrash: a start finishes what stood between the record of a topic
// and those of its event subscriptions, and leaves alone what somebody made.
func TestDomainTopicsAfterACrash(t *testing.T) {
	f := newFixture(t)
	d := f.domain(t, DomainChange{})
	ctx := t.Context()
	for _, name := range []string{"explicit", "subscribed", "first-never-came", "last-went"} {
		if name == "explicit" || name == "last-went" {
			if _, err := f.PutDomainTopic(ctx, f.owner, id(domainID+"/topics/"+name), Tracked{}, Precondition{}); err != nil {
				t.Fatal(err)
			}
		}
		if name == "subscribed" || name == "last-went" {
			f.put(t, domainID+"/topics/"+name+extension+"es1", hook(hookURL))
		}
	}
	if _, err := f.createDomainTopic(ctx, &d.Value, "first-never-came", resource.Stamp{}, true); err != nil {
		t.Fatal(err)
	}
	if err := f.Store.EventSubscriptions.Delete(ctx, resource.EventSubscriptionKey(id(domainID+"/topics/last-went"), "es1"), 0); err != nil {
		t.Fatal(err)
	}
	f.tidy(ctx, true)
	if got := f.topicsOfShops(t); got != "explicit subscribed" {
		t.Errorf("there is %q", got)
	}
}

// TestDomainTopicsInTurn: whoever comes and goes at the same time, a topic is there while
// it has event subscriptions, and only then.
func TestDomainTopicsInTurn(t *testing.T) {
	f := newFixture(t)
	f.domain(t, DomainChange{})
	var hands sync.WaitGroup
	for h := range 8 {
		hands.Go(func() {
			at := fmt.Sprintf("%s/topics/tenant-a%ses%d", domainID, extension, h)
			for range 20 {
				if _, err := f.PutEventSubscription(context.Background(), f.owner, id(at), hook(hookURL), Precondition{}); err != nil {
					t.Errorf("put: %v", err)
				}
				if _, err := f.EventSubscription(context.Background(), f.owner, id(at)); err != nil {
					t.Errorf("an event subscription without its topic: %v", err)
				}
				if _, err := f.DeleteEventSubscription(context.Background(), f.owner, id(at), Precondition{}); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	hands.Wait()
	if got := f.topicsOfShops(t); got != "" {
		t.Errorf("there is %q", got)
	}
	if n := len(f.broker.live); n != 0 {
		t.Errorf("%d event subscriptions are live", n)
	}
}

// TestDeleteDomain takes everything that hangs on it along: topics, event subscriptions
// and grants.
func TestDeleteDomain(t *testing.T) {
	for _, group := range []bool{false, true} {
		f := newFixture(t)
		f.domain(t, DomainChange{})
		f.user(t, access.RoleReader, domainID+"/topics/tenant-a")
		before := len(f.kv.Dump())
		f.put(t, domainID+extension+"all", hook(hookURL))
		for _, tenant := range []string{"tenant-a", "tenant-b", "tenant-c"} {
			f.put(t, domainID+"/topics/"+tenant+extension+"es1", hook(hookURL))
		}
		var err error
		if group {
			_, err = f.DeleteGroup(t.Context(), f.owner, id(local), Precondition{})
		} else {
			_, err = f.DeleteDomain(t.Context(), f.owner, id(domainID), Precondition{})
		}
		if err != nil {
			t.Fatal(err)
		}
		f.tidy(t.Context(), false)
		for key := range f.kv.Dump() {
			if strings.Contains(key, "/domains/shops") {
				t.Errorf("left: %s", key)
			}
		}
		if n := len(f.broker.live); n != 0 || len(f.kv.Dump()) >= before {
			t.Errorf("%d event subscriptions are live, %d records of %d are left", n, len(f.kv.Dump()), before)
		}
	}
}

// TestDomainMadeAgain: a domain begins without the topics that one of its name left
// behind, makes its own in their place, and keeps them when those records go.
func TestDomainMadeAgain(t *testing.T) {
	f := newFixture(t)
	f.domain(t, DomainChange{})
	for _, name := range []string{"tenant-a", "tenant-b", "tenant-c"} {
		if _, err := f.PutDomainTopic(t.Context(), f.owner, id(domainID+"/topics/"+name), Tracked{}, Precondition{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.DeleteDomain(t.Context(), f.owner, id(domainID), Precondition{}); err != nil {
		t.Fatal(err)
	}
	f.domain(t, DomainChange{})
	if got := f.topicsOfShops(t); got != "" {
		t.Errorf("the new domain has %q", got)
	}
	if _, err := f.DomainTopic(t.Context(), f.owner, id(domainID+"/topics/tenant-a")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a topic of the domain before: %v", err)
	}
	if existed, err := f.DeleteDomainTopic(t.Context(), f.owner, id(domainID+"/topics/tenant-a"), Precondition{}); existed || err != nil {
		t.Errorf("deleted a topic of the domain before: %v, %v", existed, err)
	}
	if _, err := f.PutDomainTopic(t.Context(), f.owner, id(domainID+"/topics/tenant-a"), Tracked{}, Precondition{IfNoneMatch: "*"}); err != nil {
		t.Fatal(err)
	}
	f.put(t, domainID+"/topics/tenant-b"+extension+"es1", hook(hookURL))
	f.tidy(t.Context(), true)
	if got := f.topicsOfShops(t); got != "tenant-a tenant-b" {
		t.Errorf("there is %q", got)
	}
	if n := len(f.Store.DomainTopics.List("")); n != 2 {
		t.Errorf("%d records are left", n)
	}
}

// TestDomainTopicMadeAgain: events that were published for its name before are not those
// of a topic, nor do they reach it by a replay.
func TestDomainTopicMadeAgain(t *testing.T) {
	f := newFixture(t)
	f.domain(t, DomainChange{})
	log := f.withLog(3) // of 2026-11-24
	replayer := &fakeReplayer{}
	f.Replayer = replayer
	at := domainID + "/topics/tenant-a" + extension + "es1"
	v := f.put(t, at, hook(hookURL))
	if v.Value.TopicUID == 0 || v.Value.DomainTopic != "tenant-a" {
		t.Errorf("it picks from %+v", v.Value.Stream())
	}
	topic, err := f.DomainTopic(t.Context(), f.owner, id(domainID+"/topics/tenant-a"))
	if err != nil {
		t.Fatal(err)
	}
	topic.Value.Created.At = log.at(2).PublishTime
	if _, err := f.Store.DomainTopics.Update(t.Context(), topic.Key, topic.Value, topic.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ExplainEvent(t.Context(), f.owner, id(at), ExplainRequest{EventID: "1"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("explained an event of the topic before: %v", err)
	}
	if _, err := f.Event(t.Context(), f.owner, id(domainID), "1"); err != nil || log.stream.DomainTopic != "" {
		t.Errorf("the domain has it still: %v", err)
	}
	tested, err := f.TestFilter(t.Context(), f.owner, id(at), FilterTest{})
	if err != nil || len(tested.Events) != 2 {
		t.Errorf("a filter was tried on %d events, %v", len(tested.Events), err)
	}
	job, err := f.ReplayEvents(t.Context(), f.owner, id(at), ReplayChange{From: "2026-01-01T00:00:00Z", DryRun: true})
	if err != nil || !job.From.Equal(log.at(2).PublishTime) {
		t.Errorf("a replay begins at %s, %v", job.From, err)
	}
}

// TestDomainSamples: test events and given events are for the topic that the event
// subscription hangs on.
func TestDomainSamples(t *testing.T) {
	f := newFixture(t)
	f.domain(t, DomainChange{})
	for scope, want := range map[string]string{domainID: anyDomainTopic, domainID + "/topics/Tenant-A": "Tenant-A"} {
		f.put(t, scope+extension+"es1", hook(hookURL))
		s, _, err := f.find(id(scope + extension + "es1"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := f.testEvent(s, &resource.EventSubscription{}, TestEvent{})
		if err != nil || string(e.DomainTopic) != want || !strings.HasSuffix(string(e.Source), "/domains/shops/topics/"+want) {
			t.Errorf("%s: a sample for %q of %s, %v", scope, e.DomainTopic, e.Source, err)
		}
		_, err = s.decode([]byte(`{"id":"1","topic":"tenant-b","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z"}`))
		if (scope == domainID) != (err == nil) {
			t.Errorf("%s takes an event for tenant-b: %v", scope, err)
		}
	}
}

// TestDomainDeliveries: what a scope in a domain shows, to be tailed or listed.
func TestDomainDeliveries(t *testing.T) {
	f := newFixture(t)
	d := f.domain(t, DomainChange{})
	f.put(t, domainID+extension+"all", hook(hookURL))
	f.put(t, domainID+"/topics/tenant-a/eventSubscriptions/es1", hook(hookURL))
	whole, tenant := resource.Stream{Topic: d.Value.UID}, resource.Stream{Topic: d.Value.UID, DomainTopic: "tenant-a"}
	for scope, want := range map[string]struct {
		subscriptions int
		stream        resource.Stream
	}{
		domainID:                      {2, whole},
		domainID + extension + "all":  {1, whole},
		domainID + "/topics/tenant-a": {1, tenant},
		domainID + "/topics/tenant-a/eventSubscriptions/es1": {1, tenant},
	} {
		got, err := f.Deliveries(t.Context(), f.owner, id(scope), true)
		if err != nil || len(got.EventSubscriptions) != want.subscriptions || len(got.Sources) != 1 || got.Sources[0].Stream != want.stream {
			t.Errorf("%s: %d event subscriptions, %+v, %v", scope, len(got.EventSubscriptions), got.Sources, err)
		}
	}
	if _, err := f.Deliveries(t.Context(), f.user(t, access.RoleReader, domainID+"/topics/tenant-b"), id(domainID+"/topics/tenant-a"), false); !fault.Is(err, fault.Forbidden) {
		t.Errorf("another tenant sees it: %v", err)
	}
}
