package servertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/fault"
)

// forTopics are events for topics of a domain, one for each name, with ids from first on.
func forTopics(first int, names ...string) string {
	var events []string
	for i, name := range names {
		events = append(events, fmt.Sprintf(`{"id":"%d","topic":%q,"subject":"s/%d","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{"n":%d}}`, first+i, name, first+i, first+i))
	}
	return "[" + strings.Join(events, ",") + "]"
}

// idsOf are the ids of events, each once, in order.
func idsOf(events []Received) string {
	var ids []string
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " ")
}

// TestDomain publishes one request for several topics of a domain and sees each event at
// those who subscribed, its dead letter where a handler refuses, and a replay of it.
func TestDomain(t *testing.T) {
	s := New(t)
	id, publish := s.Domain("shops", nil)
	all, ofA, ofB := NewReceiver(t), NewReceiver(t), newRawHandler(t, func(string) int { return 400 })
	s.Subscribe(id, "all", all.URL, nil)
	s.Subscribe(id+"/topics/tenant-a", "of-a", ofA.URL, nil)
	s.Subscribe(id+"/topics/tenant-b", "of-b", ofB.URL+"/b", nil)
	if err := publish(forTopics(1, "tenant-a", "TENANT-A", "tenant-b", "nobodys")); err != nil {
		t.Fatal(err)
	}
	if err := publish(forTopics(5, "tenant-a", "no name")); err == nil {
		t.Error("an event for what cannot be a topic was taken")
	}
	all.Wait(t, patience, func(events []Received) bool { return idsOf(events) == "1 2 3 4" })
	ofA.Wait(t, patience, func(events []Received) bool { return idsOf(events) == "1 2" })
	for _, e := range all.Events() {
		if want := []string{"tenant-a", "TENANT-A", "tenant-b", "nobodys"}[e.ID[0]-'1']; e.Topic != id+"/topics/"+want {
			t.Errorf("event %s came from %s", e.ID, e.Topic)
		}
	}
	ofB.wait(t, "/b", 1)

	var letters struct {
		Value []struct {
			ID         string `json:"name"`
			Properties struct{ Topic, DeadLetterReason string }
		}
	}
	for deadline := time.Now().Add(patience); len(letters.Value) == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s.Must("GET", id+"/topics/tenant-b/providers/Carillon.Delivery/deadLetters", nil, &letters)
	}
	if len(letters.Value) != 1 {
		t.Fatalf("%d dead letters of the topic", len(letters.Value))
	}
	s.Must("GET", id+"/topics/tenant-a/providers/Carillon.Delivery/deadLetters", nil, &letters)
	if len(letters.Value) != 0 {
		t.Errorf("%d dead letters of another topic", len(letters.Value))
	}
	var attempts struct{ Value []any }
	s.Must("GET", id+"/topics/tenant-b/eventSubscriptions/of-b/providers/Carillon.Delivery/attempts", nil, &attempts)
	if len(attempts.Value) != 1 {
		t.Errorf("%d attempts", len(attempts.Value))
	}
	var shown struct{ Value []any }
	s.Must("GET", id+"/providers/Carillon.Delivery/events/1/deliveries", nil, &shown)
	if len(shown.Value) != 2 {
		t.Errorf("event 1 went to %d event subscriptions", len(shown.Value))
	}
	s.Stop()
}

// TestDomainCredentials: keys, signatures and roles count for the domain and for all of
// its topics, through the lane and through net/http.
func TestDomainCredentials(t *testing.T) {
	s := New(t)
	id, _ := s.Domain("shops", nil)
	p := &publisher{s, "/domains/shops/api/events", forTopics(1, "tenant-a", "tenant-b")}
	var keys struct{ Key1, Key2 string }
	s.Must("POST", id+"/listKeys", nil, &keys)
	const unauthorized = "Unauthorized/Unauthorized"
	later := time.Now().UTC().Add(time.Hour).Format("1/2/2006 3:04:05 PM")
	p.want(t, "nothing", "", 401, unauthorized)
	p.want(t, "key", "aeg-sas-key: "+keys.Key2, 200, "")
	p.want(t, "SAS", "aeg-sas-token: "+sas(s.URL+p.path, later, keys.Key1), 200, "")
	p.want(t, "SAS of a topic of that name", "aeg-sas-token: "+sas(s.URL+"/topics/shops/api/events", later, keys.Key1), 401, unauthorized)
	ci := s.newPrincipal(t, "ci")
	bearer := "Authorization: Bearer " + s.tokenOf(t, ci, "https://eventgrid.azure.net/.default")
	p.want(t, "token without a role", bearer, 403, "Forbidden/Forbidden")
	assign := func(scope string) {
		s.Must("PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+uuid.NewString(), map[string]any{"properties": map[string]any{
			"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/d5a91429-5739-47e2-a06b-3470a27159e7", "principalId": ci.ObjectID,
		}}, nil)
	}
	s.Must("PUT", id+"/topics/tenant-a", nil, nil)
	assign(id + "/topics/tenant-a")
	p.want(t, "token with a role at a topic of the domain", bearer, 403, "Forbidden/Forbidden")
	assign(id)
	p.want(t, "token with a role at the domain", bearer, 200, "")
	s.Must("PATCH", id, map[string]any{"properties": map[string]any{"disableLocalAuth": true}}, nil)
	p.want(t, "key with disableLocalAuth", "aeg-sas-key: "+keys.Key1, 401, unauthorized)
	p.want(t, "token with disableLocalAuth", bearer, 200, "")
	s.Stop()
}

// TestKillDomain publishes to a domain while event subscriptions come and go, and kills
// the server with kill -9: no acknowledged event is lost to the domain or to a topic, and
// after each start a topic is there if and only if somebody subscribes to it.
func TestKillDomain(t *testing.T) {
	s := New(t)
	id, publish := s.Domain("load", nil)
	all := NewReceiver(t)
	s.Subscribe(id, "all", all.URL, nil)
	tenants := make([]*Receiver, 4)
	names := make([]string, len(tenants))
	for i := range tenants {
		tenants[i], names[i] = NewReceiver(t), "tenant-"+strconv.Itoa(i)
		s.Subscribe(id+"/topics/"+names[i], "own", tenants[i].URL, nil)
	}
	passing := NewReceiver(t)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 5))
	var next atomic.Int64
	var mu sync.Mutex
	acked := map[int]bool{}
	size := len(names)
	for range *rounds / 2 {
		ctx, stop := context.WithCancel(t.Context())
		var hands sync.WaitGroup
		for range 2 {
			hands.Go(func() {
				for ctx.Err() == nil {
					from := int(next.Add(int64(size))) - size
					if publish(forTopics(from, names...)) == nil {
						mu.Lock()
						for i := range size {
							acked[from+i] = true
						}
						mu.Unlock()
					}
				}
			})
		}
		for i := range 2 { // each on topics of its own
			hands.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					at := fmt.Sprintf("%s/topics/passing-%d-%d/eventSubscriptions/own", id, i, n%3)
					body := map[string]any{"properties": map[string]any{"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": passing.URL}}}}
					_, _ = s.Do(ctx, "PUT", at, nil, body, nil, nil)
					_, _ = s.Do(ctx, "DELETE", at, nil, nil, nil, nil)
				}
			})
		}
		timer := time.NewTimer(time.Duration(100+rng.IntN(400)) * time.Millisecond)
		<-timer.C
		s.Kill()
		stop()
		hands.Wait()
		s.Restart()
		checkTopics(t, s, id)
	}
	want := len(acked)
	all.Wait(t, patience, func(events []Received) bool { return holds(events, acked, func(int) bool { return true }) })
	for i, tenant := range tenants {
		tenant.Wait(t, patience, func(events []Received) bool { return holds(events, acked, func(n int) bool { return n%size == i }) })
		for _, e := range tenant.Events() {
			if !strings.HasSuffix(e.Topic, "/topics/"+names[i]) {
				t.Fatalf("%s got an event of %s", names[i], e.Topic)
			}
		}
	}
	t.Logf("%d events acknowledged", want)
	s.Stop()
}

// holds reports whether every event of acked that counts is among events.
func holds(events []Received, acked map[int]bool, counts func(int) bool) bool {
	got := map[int]bool{}
	for _, e := range events {
		n, _ := strconv.Atoi(e.ID)
		got[n] = true
	}
	for n := range acked {
		if counts(n) && !got[n] {
			return false
		}
	}
	return true
}

// checkTopics waits until the topics of a domain are those that are subscribed to: a
// start finishes what a kill cut short right after it is ready.
func checkTopics(t *testing.T, s *Server, id string) {
	t.Helper()
	var off []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		off = nil
		var topics struct{ Value []struct{ ID string } }
		if _, err := s.Do(t.Context(), "GET", id+"/topics", url.Values{"$top": {"100"}}, nil, &topics, nil); err != nil {
			t.Fatal(err)
		}
		for _, topic := range topics.Value {
			var own struct{ Value []any }
			_, err := s.Do(t.Context(), "GET", topic.ID+"/eventSubscriptions", nil, nil, &own, nil)
			if err != nil && !fault.Is(err, fault.NotFound) { // not found: deleted since it was listed
				t.Fatal(err)
			}
			if len(own.Value) == 0 {
				off = append(off, topic.ID)
			}
		}
		for i := range 6 {
			at := fmt.Sprintf("%s/topics/passing-%d-%d", id, i/3, i%3)
			_, esErr := s.Do(t.Context(), "GET", at+"/eventSubscriptions/own", nil, nil, nil, nil)
			_, topicErr := s.Do(t.Context(), "GET", at, nil, nil, nil, nil)
			if fault.Is(esErr, fault.NotFound) != fault.Is(topicErr, fault.NotFound) {
				off = append(off, at)
			}
		}
		if len(off) == 0 {
			return
		}
	}
	t.Fatalf("after the start these topics have no event subscriptions, or the reverse: %v", off)
}
