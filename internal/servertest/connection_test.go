package servertest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/amqppeer"
)

// TestConnectionRotation gives a namespace other keys while events flow: nothing is lost,
// the link that was open is let go, and from then on everything goes to the new place, also
// after kill -9. The keys lie open nowhere. Without a connection attempts fail and say what
// is missing.
func TestConnectionRotation(t *testing.T) {
	const namespace, queue = Group + "/providers/Microsoft.ServiceBus/namespaces/ns", "q1"
	first, second := amqppeer.Start(t, amqppeer.Options{User: "u", Password: "s3cret-one"}), amqppeer.Start(t, amqppeer.Options{User: "u", Password: "s3cret-two"})
	to := func(p *amqppeer.Peer, password string) string {
		return "Endpoint=amqp://" + p.Addr() + ";Username=u;Password=" + password
	}
	s := New(t)
	topic, publish := s.Topic("orders")
	es := topic + "/providers/Microsoft.EventGrid/eventSubscriptions/to-bus"
	destination := map[string]any{"properties": map[string]any{"destination": map[string]any{"endpointType": "ServiceBusQueue", "properties": map[string]any{"resourceId": namespace + "/queues/" + queue}}}}
	if _, err := s.Do(t.Context(), "PUT", es, nil, destination, nil, nil); err == nil || !strings.Contains(err.Error(), "carillon connection create --resource-id "+namespace) {
		t.Fatalf("without a connection: %v", err)
	}
	s.Connect("bus", namespace, to(first, "s3cret-one"))
	s.Must("PUT", es, destination, nil)

	ids := func(p *amqppeer.Peer) map[string]bool {
		found := map[string]bool{}
		for _, m := range p.Messages(queue) {
			var e struct{ ID string }
			if err := json.Unmarshal([]byte(m.Body), &e); err != nil {
				t.Fatalf("a message is %s", m.Body)
			}
			found[e.ID] = true
		}
		return found
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within a minute", what)
			}
		}
	}
	send := func(from, n int) {
		t.Helper()
		if err := publish(eventBody(from, n)); err != nil {
			t.Fatal(err)
		}
	}
	send(0, 50)
	until("the first events are there", func() bool { return len(ids(first)) > 0 })
	send(50, 50) // some of them are under way meanwhile
	s.Connect("bus", namespace, to(second, "s3cret-two"))
	send(100, 50)
	until("everything is somewhere", func() bool {
		all := ids(first)
		for id := range ids(second) {
			all[id] = true
		}
		return len(all) == 150
	})
	until("the first link is let go", func() bool { return first.Conns() == 0 })
	send(150, 1)
	until("an event is at the second", func() bool { return ids(second)["150"] })

	s.Kill()
	s.Restart()
	send(151, 1)
	until("the connection outlives the process", func() bool { return ids(second)["151"] })
	if before := ids(first); before["150"] || before["151"] {
		t.Error("an event went to the first after its link was let go")
	}

	s.Must("DELETE", Group+"/providers/Carillon.Secrets/connections/bus", nil, nil)
	send(152, 1)
	var attempts struct {
		Value []struct{ Outcome, Detail string }
	}
	until("an attempt without a connection", func() bool {
		s.Must("GET", es+"/providers/Carillon.Delivery/attempts", nil, &attempts)
		return len(attempts.Value) > 0 && attempts.Value[0].Outcome == "Unauthorized"
	})
	if detail := attempts.Value[0].Detail; !strings.Contains(detail, "carillon connection create") {
		t.Errorf("without a connection an attempt says %q", detail)
	}
	s.hides(t, "s3cret-one", "s3cret-two")
}
