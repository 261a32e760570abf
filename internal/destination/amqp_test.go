package destination

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/amqppeer"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/resource"
)

// startAMQP runs a peer whose addresses do what their names say. Real brokers run in
// interop.
func startAMQP(t *testing.T) *amqppeer.Peer {
	return amqppeer.Start(t, amqppeer.Options{
		User: "carillon", Password: suiteSecret, MaxMessage: 100_000,
		Dry: func(address string) bool { return address == "dry" },
		Attach: func(address string) *amqppeer.Error {
			switch address {
			case "missing":
				return &amqppeer.Error{Condition: "amqp:not-found", Description: suiteSecret}
			case "forbidden":
				return &amqppeer.Error{Condition: "amqp:unauthorized-access", Description: suiteSecret}
			case "disabled":
				return &amqppeer.Error{Condition: "com.microsoft:entity-disabled", Description: suiteSecret}
			}
			return nil
		},
		Settle: func(address string, m amqppeer.Message) amqppeer.State {
			rejected := func(condition, description string) amqppeer.State {
				return amqppeer.Rejected(&amqppeer.Error{Condition: condition, Description: description})
			}
			switch {
			case address == "full":
				return rejected("amqp:resource-limit-exceeded", suiteSecret)
			case address == "busy":
				return rejected("com.microsoft:server-busy", suiteSecret)
			case address == "strict":
				return rejected("amqp:link:message-size-exceeded", suiteSecret)
			case address == "sessions" && m.Properties["group-id"] == nil:
				return rejected("amqp:not-allowed", "The SessionId was not set on a message")
			case address == "odd":
				return rejected(suiteSecret+"!", suiteSecret)
			case address == "rejects":
				return amqppeer.Rejected(nil)
			case address == "releases":
				return amqppeer.Released
			case address == "modifies", address == "some" && strings.Contains(m.Body, `"n":2,`):
				return amqppeer.Modified
			case address == "silent":
				return amqppeer.Never
			}
			return amqppeer.Accepted
		},
	})
}

func amqpArrivals(t *testing.T, messages []amqppeer.Message, withID bool) (out []arrived) {
	ids := map[any]bool{}
	for _, m := range messages {
		a := arrived{body: m.Body, properties: map[string]string{}}
		for name, v := range m.Application {
			a.properties[name] = fmt.Sprint(v)
		}
		if !m.Durable || m.Properties["content-type"] != amqppeer.Symbol("application/json; charset=utf-8") {
			t.Errorf("durable %t, properties %v", m.Durable, m.Properties)
		}
		id := m.Properties["message-id"]
		if withID == (id == nil) || id != nil && ids[id] {
			t.Errorf("message-id %v", id)
		}
		ids[id] = true
		out = append(out, a)
	}
	return out
}

func TestAMQP(t *testing.T) {
	peer := startAMQP(t)
	values := map[string]any{"url": "amqp://" + peer.Addr(), "address": "/queues/ml-events", "username": "carillon"}
	secrets := map[string]string{"password": suiteSecret}
	at := func(address string) map[string]any { return with(values, "address", address) }
	testTarget(t, "Amqp", nil, counterpart{
		values: values, secrets: secrets, properties: true,
		at: func(_ *testing.T, address string) (map[string]any, *Connections) {
			return with(values, "url", "amqp://"+address), nil
		},
		received: func(t *testing.T, _ int) []arrived {
			return amqpArrivals(t, peer.Messages("/queues/ml-events"), true)
		},
		cases: []counterCase{
			{name: "no address", values: at("missing"), want: broker.NotFound, again: true, probed: "not there"},
			{name: "may not send", values: at("forbidden"), want: broker.Unauthorized, again: true, probed: "may not send"},
			{name: "disabled", values: at("disabled"), want: broker.Disabled, again: true, probed: "disabled"},
			{name: "wrong password", secrets: map[string]string{"password": suiteSecret + "x"}, want: broker.Unauthorized, again: true, probed: "credentials"},
			{name: "anonymous", values: map[string]any{"url": values["url"], "address": "a"}, secrets: map[string]string{}, want: broker.Unauthorized, again: true, probed: "credentials"},
			{name: "full", values: at("full"), want: broker.Full, again: true},
			{name: "busy", values: at("busy"), want: broker.Busy, again: true},
			{name: "rejects", values: at("rejects"), want: broker.GenericError, again: true},
			{name: "odd", values: at("odd"), want: broker.GenericError, again: true},
			{name: "releases", values: at("releases"), want: broker.GenericError, again: true},
			{name: "modifies", values: at("modifies"), want: broker.GenericError, again: true},
			{name: "sessions", values: at("sessions"), want: broker.SessionQueueNotSupported, again: true},
			{name: "larger than a message may be", body: `"` + strings.Repeat("x", 100_000) + `"`, want: broker.PayloadTooLarge},
			{name: "larger than the address takes", values: at("strict"), want: broker.PayloadTooLarge},
		},
	})
	t.Run("a message of several frames", func(t *testing.T) {
		s := targetOf(t, "Amqp", at("large"), secrets, nil)
		body := `"` + strings.Repeat("y", 90_000) + `"`
		if got := s.Send(t.Context(), attemptOf("Amqp", 1, body, suiteEvent(1))); got.Outcome != broker.Delivered {
			t.Fatalf("%+v", got)
		}
		if m := peer.Messages("large"); len(m) != 2 || m[0].Body != body || m[1].Body != suiteEvent(1) {
			t.Errorf("%d messages", len(m))
		}
	})
	t.Run("more at a time than the link lets", func(t *testing.T) {
		s := targetOf(t, "Amqp", at("many"), secrets, nil)
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				events := make([]string, 200)
				for i := range events {
					events[i] = suiteEvent(i)
				}
				if got := s.Send(t.Context(), later(attemptOf("Amqp", 1000*n, events...))); got.Outcome != broker.Delivered {
					t.Errorf("attempt %d: %+v", n, got)
				}
			})
		}
		all.Wait()
		if n := len(amqpArrivals(t, peer.Messages("many"), true)); n != 1600 {
			t.Errorf("%d messages of 1600 events", n)
		}
	})
	t.Run("each has its own outcome", func(t *testing.T) {
		s := targetOf(t, "Amqp", at("some"), secrets, nil)
		r := attemptOf("Amqp", 1, suiteEvent(1), suiteEvent(2), suiteEvent(3))
		whole := s.Send(t.Context(), r)
		if whole.Outcome != broker.GenericError || r.Parts[0].Outcome != broker.Delivered || r.Parts[1].Outcome != broker.GenericError || r.Parts[2].Outcome != broker.Delivered {
			t.Errorf("%+v: %+v", whole, r.Parts)
		}
	})
	for address, want := range map[string]broker.Outcome{"silent": broker.TimedOut, "dry": broker.Busy} {
		t.Run("no answer in time of "+address, func(t *testing.T) {
			s := targetOf(t, "Amqp", at(address), secrets, nil)
			r := attemptOf("Amqp", 1, suiteEvent(1), suiteEvent(2))
			r.Hold = 200 * time.Millisecond
			if got := s.Send(t.Context(), r); got.Outcome != want || got.Verdict != broker.TryAgain {
				t.Errorf("%+v", got)
			}
		})
	}
	t.Run("a broker that was away", func(t *testing.T) {
		peer := startAMQP(t)
		s := targetOf(t, "Amqp", with(values, "url", "amqp://"+peer.Addr()), secrets, nil)
		for i, want := range []broker.Outcome{broker.Delivered, broker.SocketError, broker.Delivered} {
			switch i {
			case 1:
				peer.Down()
			case 2:
				if err := peer.Up(); err != nil {
					t.Fatal(err)
				}
			}
			got := s.Send(t.Context(), attemptOf("Amqp", i, suiteEvent(i)))
			if i == 1 && got.Outcome != want { // the first one after may find the connection closed
				got = s.Send(t.Context(), attemptOf("Amqp", i, suiteEvent(i)))
			}
			if got.Outcome != want {
				t.Errorf("%d: %+v", i, got)
			}
		}
	})
	t.Run("settings", func(t *testing.T) {
		for _, tt := range []struct {
			values map[string]any
			want   string
		}{
			{with(values, "url", "amqp://a:1,amqp://b:1"), "name one broker"},
			{with(values, "url", "http://a"), "is not one"},
			{with(values, "url", "amqp://u:p@a"), "user or password"},
		} {
			if err := checkOf("Amqp", tt.values, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: %v, want %q", tt.values, err, tt.want)
			}
		}
	})
}

// TestAMQPMessage holds what becomes of named delivery attributes, and that a message is
// the same each time. Source: spec/handlers.md section 7.
func TestAMQPMessage(t *testing.T) {
	peer := startAMQP(t)
	c := &targetConfig{
		kind: resource.KindOf("Amqp"), name: "ES1", uid: "1", schema: event.CloudEventSchemaV1_0, guard: loopback, secrets: map[string]string{"password": suiteSecret},
		values: resource.Values{"url": []byte(`"amqp://` + peer.Addr() + `"`), "address": []byte(`"a"`), "username": []byte(`"carillon"`)},
		static: []attribute{{"label", "L", false}, {"To", "T", false}, {"replyto", "R", false}, {"ReplyToSessionId", "RS", false}, {"CorrelationId", "C", false}, {"SessionId", "S", false}, {"x-team", "mlops", false}},
	}
	s, err := openAMQP(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	send := func(attributes ...broker.Attribute) {
		r := attemptOf("Amqp", 7, suiteEvent(1))
		r.ContentType, r.Parts[0].Attributes, r.Parts[0].Replay = "application/cloudevents+json; charset=utf-8", attributes, "dl1"
		if got := s.Send(t.Context(), r); got.Outcome != broker.Delivered {
			t.Fatalf("%+v", got)
		}
	}
	send(broker.Attribute{Name: "PartitionKey", Value: "P"}, broker.Attribute{Name: "viaPartitionKey", Value: "V"})
	send()
	send(broker.Attribute{Name: "MessageId", Value: "M"})
	all := peer.Messages("a")
	if len(all) != 3 {
		t.Fatalf("%d messages", len(all))
	}
	m := all[0]
	for name, want := range map[string]any{
		"message-id": fmt.Sprintf("%032d-1-dl1", 7), "content-type": amqppeer.Symbol("application/cloudevents+json; charset=utf-8"),
		"subject": "L", "to": "T", "reply-to": "R", "reply-to-group-id": "RS", "correlation-id": "C", "group-id": "S",
	} {
		if m.Properties[name] != want {
			t.Errorf("%s is %v, want %v", name, m.Properties[name], want)
		}
	}
	if fmt.Sprint(m.Annotations) != "map[x-opt-partition-key:P x-opt-via-partition-key:V]" {
		t.Errorf("annotations %v", m.Annotations)
	}
	if m.Application["x-team"] != "mlops" || m.Application["carillon-replay"] != "dl1" || m.Application["SessionId"] != nil || len(m.Application) != 8 {
		t.Errorf("application properties %v", m.Application)
	}
	if all[1].Properties["message-id"] != m.Properties["message-id"] || all[2].Properties["message-id"] != "M" {
		t.Errorf("message ids %v, %v", all[1].Properties, all[2].Properties)
	}
}

func serviceBusID(collection, name string) resource.ID {
	return resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/ns/" + collection + "/" + name)
}

func TestServiceBus(t *testing.T) {
	for kind, collection := range map[string]string{"ServiceBusQueue": "queues", "ServiceBusTopic": "topics"} {
		t.Run(kind, func(t *testing.T) {
			peer := startAMQP(t)
			emulator := func(address string) string {
				return "Endpoint=sb://" + address + ";SharedAccessKeyName=carillon;SharedAccessKey=" + suiteSecret + ";UseDevelopmentEmulator=true;"
			}
			id := serviceBusID(collection, "events")
			values := map[string]any{"resourceId": id.String()}
			at := func(name string) map[string]any {
				return map[string]any{"resourceId": serviceBusID(collection, name).String()}
			}
			testTarget(t, kind, connectionsTo(t, id.Parent(), emulator(peer.Addr())), counterpart{
				values: values, properties: true,
				at: func(t *testing.T, address string) (map[string]any, *Connections) {
					return values, connectionsTo(t, id, emulator(address))
				},
				received: func(t *testing.T, _ int) []arrived {
					return amqpArrivals(t, peer.Messages("events"), true)
				},
				cases: []counterCase{
					{name: "no entity", values: at("missing"), want: broker.NotFound, again: true, probed: "not there"},
					{name: "may not send", values: at("forbidden"), want: broker.Unauthorized, again: true, probed: "may not send"},
					{name: "too large", body: `"` + strings.Repeat("x", 100_000) + `"`, want: broker.PayloadTooLarge},
				},
			})
			t.Run("no connection", func(t *testing.T) {
				if err := checkOf(kind, values, newConnected(t).Connections); err == nil || !strings.Contains(err.Error(), "carillon connection create") {
					t.Error(err)
				}
			})
		})
	}
}

func TestEventHubByAMQP(t *testing.T) {
	peer := startAMQP(t)
	id := resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventHub/namespaces/ns/eventhubs/hub")
	values := map[string]any{"resourceId": id.String()}
	text := func(address string) string {
		return "Endpoint=sb://" + address + ";SharedAccessKeyName=carillon;SharedAccessKey=" + suiteSecret + ";UseDevelopmentEmulator=true;TransportType=Amqp"
	}
	connections := connectionsTo(t, id.Parent(), text(peer.Addr()))
	testTarget(t, "EventHub", connections, counterpart{
		values: values, properties: true,
		at: func(t *testing.T, address string) (map[string]any, *Connections) {
			return values, connectionsTo(t, id, text(address))
		},
		received: func(t *testing.T, _ int) []arrived { return amqpArrivals(t, peer.Messages("hub"), false) },
		cases: []counterCase{
			{name: "no hub", values: map[string]any{"resourceId": id.Parent().Child("eventhubs", "missing").String()}, want: broker.NotFound, again: true, probed: "not there"},
			{name: "too large", body: `"` + strings.Repeat("x", 100_000) + `"`, want: broker.PayloadTooLarge},
		},
	})
	r := attemptOf("EventHub", 1, suiteEvent(1))
	r.Attributes = []broker.Attribute{{Name: "partitionKey", Value: "churn"}}
	if got := targetOf(t, "EventHub", values, nil, connections).Send(t.Context(), r); got.Outcome != broker.Delivered {
		t.Fatalf("%+v", got)
	}
	all := peer.Messages("hub")
	if m := all[len(all)-1]; m.Annotations["x-opt-partition-key"] != "churn" || m.Application["partitionKey"] != nil {
		t.Errorf("annotations %v, properties %v", m.Annotations, m.Application)
	}
}

// TestAMQPConnection holds which connection strings are read, and how.
func TestAMQPConnection(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=" + suiteSecret + "=;EntityPath=q", "ns.servicebus.windows.net:5671 true ns.servicebus.windows.net Root q"},
		{"Endpoint=sb://localhost;SharedAccessKeyName=Root;SharedAccessKey=" + suiteSecret + ";UseDevelopmentEmulator=true;", "localhost:5672 false localhost Root q"},
		{"Endpoint=amqps://b.example;Username=u;Password=" + suiteSecret + ";Address=/queues/{name};Hostname=vhost:ml", "b.example:5671 true vhost:ml u /queues/q"},
		{"endpoint=amqp://b:1234", "b:1234 false b  q"},
		{"Endpoint=sb://ns;SharedAccessKeyName=Root", ""}, {"Endpoint=http://ns;Password=" + suiteSecret, ""}, {suiteSecret, ""}, {"Endpoint=::", ""},
	} {
		n, azure, err := amqpConnection(tt.text, "q")
		if got := fmt.Sprint(n.broker, " ", n.secure, " ", n.host, " ", n.user, " ", n.address); (err == nil) != (tt.want != "") || err == nil && (got != tt.want || azure != strings.Contains(tt.text, "sb:")) {
			t.Errorf("%s: %s %t, %v", tt.text, got, azure, err)
		}
		if err != nil && strings.Contains(err.Error(), suiteSecret) {
			t.Errorf("a secret is shown: %v", err)
		}
	}
}

// TestAMQPFailures holds what is made of conditions that the peer of the other tests does
// not state.
func TestAMQPFailures(t *testing.T) {
	for _, tt := range []struct {
		err     error
		outcome broker.Outcome
		again   broker.Verdict
	}{
		{&amqp.Error{Condition: amqp.ErrCondResourceDeleted}, broker.NotFound, broker.TryAgain},
		{&amqp.LinkError{RemoteErr: &amqp.Error{Condition: amqp.ErrCondDetachForced}}, broker.GenericError, broker.TryAgain},
		{&amqp.ConnError{RemoteErr: &amqp.Error{Condition: amqp.ErrCondConnectionForced}}, broker.GenericError, broker.TryAgain},
		{&amqp.SessionError{RemoteErr: &amqp.Error{Condition: "com.microsoft:timeout"}}, broker.TimedOut, broker.TryAgain},
		{&amqp.LinkError{RemoteErr: &amqp.Error{Condition: amqp.ErrCondMessageSizeExceeded}}, broker.PayloadTooLarge, broker.ByOutcome},
		{&amqp.ConnError{}, broker.SocketError, broker.ByOutcome},
		{&amqp.LinkError{}, broker.SocketError, broker.ByOutcome},
		{errors.New("no supported auth mechanism ([EXTERNAL])"), broker.Unauthorized, broker.TryAgain},
		{errors.New(`unexpected protocol "HTTP"`), broker.SocketError, broker.TryAgain},
	} {
		if got := amqpFailed(t.Context(), tt.err); got.Outcome != tt.outcome || got.Verdict != tt.again || got.Detail == "" {
			t.Errorf("%v: %+v", tt.err, got)
		}
	}
}

// TestAMQPFrames holds that frames of any size up to the agreed one pass, however they are
// cut, and none larger.
func TestAMQPFrames(t *testing.T) {
	head := func(size uint32) string { return string(binary.BigEndian.AppendUint32(nil, size)) }
	frame := func(size int) string { return head(uint32(size)) + "\x02\x00\x00\x00" + strings.Repeat("z", size-8) }
	good := "AMQP\x03\x01\x00\x00" + frame(20) + "AMQP\x00\x01\x00\x00" + frame(8) + frame(mostAMQPFrame) + frame(9)
	for _, step := range []int{1, 3, 4, 7, 4096, len(good)} {
		f := &amqpFrames{}
		for from := 0; from < len(good); from += step {
			if err := f.pass([]byte(good[from:min(from+step, len(good))])); err != nil {
				t.Fatalf("in steps of %d, at %d: %v", step, from, err)
			}
		}
		for _, bad := range []uint32{0, 7, mostAMQPFrame + 1, 1 << 31} {
			after := *f
			if err := after.pass([]byte(head(bad))); err == nil {
				t.Errorf("a frame of %d bytes passes", bad)
			}
		}
	}
}

// TestAMQPHostile has the broker announce frames without end after it was let in.
func TestAMQPHostile(t *testing.T) {
	var written atomic.Int64
	address := listenAndTalk(t, func(c net.Conn) {
		n, _ := c.Write([]byte("AMQP\x03\x01\x00\x00\x7f\xff\xff\xff\x02\x01\x00\x00"))
		for chunk := make([]byte, 64<<10); n > 0; {
			var err error
			if n, err = c.Write(chunk); err != nil {
				return
			}
			written.Add(int64(n))
		}
	})
	s := targetOf(t, "Amqp", map[string]any{"url": "amqp://" + address, "address": "a"}, nil, nil)
	if got := s.Send(t.Context(), attemptOf("Amqp", 1, suiteEvent(1))); got.Outcome != broker.SocketError || got.Detail != errNoAMQP.Error() {
		t.Errorf("%+v", got)
	}
	if most := int64(16 << 20); written.Load() > most {
		t.Errorf("%d bytes were taken of it", written.Load())
	}
}

// TestAMQPStuck has brokers that give signs of life, and neither settle nor, some of them,
// read anything from some moment on: an attempt that times out so takes the connection
// with it, and others on it do not wait for its end. The next one goes over a new one.
func TestAMQPStuck(t *testing.T) {
	t.Parallel() // it waits for amqpCloseTime
	for name, reads := range map[string]bool{"it reads": true, "it reads nothing": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := startAMQP(t)
			var conns atomic.Int64
			stuck, closed := make(chan struct{}), make(chan struct{})
			address := listenAndTalk(t, func(c net.Conn) {
				to, err := net.Dial("tcp", peer.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				defer to.Close()
				defer c.Close()
				if conns.Add(1) > 1 {
					go io.Copy(c, to)
					_, _ = io.Copy(to, c)
					return
				}
				go func() { // what the peer says, until it is stuck; then signs of life alone
					answers := make(chan []byte)
					go func() {
						for {
							b := make([]byte, 4096)
							n, err := to.Read(b)
							if err != nil {
								return
							}
							answers <- b[:n]
						}
					}()
					for {
						select {
						case b := <-answers:
							_, _ = c.Write(b)
							continue
						case <-stuck:
						}
						if _, err := c.Write([]byte{0, 0, 0, 8, 2, 0, 0, 0}); err != nil {
							close(closed)
							return
						}
						time.Sleep(5 * time.Millisecond)
					}
				}()
				for b := make([]byte, 4096); ; {
					_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
					n, _ := c.Read(b)
					select {
					case <-stuck:
						_ = c.SetReadDeadline(time.Time{})
						if reads {
							_, _ = io.Copy(io.Discard, c)
						}
						<-closed
						return
					default:
					}
					if _, err := to.Write(b[:n]); err != nil {
						return
					}
				}
			})
			s := targetOf(t, "Amqp", map[string]any{"url": "amqp://" + address, "address": "a", "username": "carillon"}, map[string]string{"password": suiteSecret}, nil)
			if got := s.Send(t.Context(), attemptOf("Amqp", 1, suiteEvent(1))); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
			close(stuck)
			beside := make(chan broker.Response, 1)
			sent := make(chan struct{})
			go func() { // more than buffers hold
				large := make([]string, 300)
				for i := range large {
					large[i] = `"` + strings.Repeat("x", 90_000) + `"`
				}
				r := attemptOf("Amqp", 1000, large...)
				close(sent)
				beside <- s.Send(t.Context(), r)
			}()
			<-sent
			r := attemptOf("Amqp", 2, suiteEvent(2))
			r.Hold = 300 * time.Millisecond
			if got := s.Send(t.Context(), r); got.Outcome != broker.TimedOut && got.Outcome != broker.Busy || got.Verdict != broker.TryAgain {
				t.Errorf("%+v", got)
			}
			for what, done := range map[string]<-chan struct{}{"the connection is closed": closed, "who used it beside learns of it": endOf(beside)} {
				select {
				case <-done:
				case <-time.After(10 * time.Second):
					t.Fatalf("it takes long until %s", what)
				}
			}
			if got := s.Send(t.Context(), attemptOf("Amqp", 3, suiteEvent(3))); got.Outcome != broker.Delivered || conns.Load() != 2 {
				t.Errorf("%+v over connection %d", got, conns.Load())
			}
		})
	}
}

// endOf is closed when something comes.
func endOf[T any](c <-chan T) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		<-c
		close(done)
	}()
	return done
}
