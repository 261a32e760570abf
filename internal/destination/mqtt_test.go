package destination

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/mqttpeer"
	"github.com/carillon-events/carillon/internal/resource"
)

func mqttArrivals(t *testing.T, messages []mqttpeer.Message) (out []arrived) {
	t.Helper()
	ids := map[string]bool{}
	for _, m := range messages {
		if id := m.Properties["message-id"]; id == "" || ids[id] {
			t.Errorf("message-id %q", id)
		} else {
			ids[id] = true
		}
		if m.ContentType != "application/json; charset=utf-8" || m.Retain || m.Expiry != 0 {
			t.Errorf("message %+v", m)
		}
		out = append(out, arrived{m.Body, m.Properties})
	}
	return out
}

func TestMQTT(t *testing.T) {
	peer := mqttpeer.Start(t, mqttpeer.Options{
		User: "carillon", Password: suiteSecret, Writable: func(topic string) bool { return topic != "forbidden" },
		Limits: func(c *mqtt.Capabilities) { c.MaximumPacketSize, c.ReceiveMaximum = 100_000, 7 },
	})
	modest := mqttpeer.Start(t, mqttpeer.Options{Limits: func(c *mqtt.Capabilities) { c.MaximumQos, c.RetainAvailable = 1, 0 }})
	simple := mqttpeer.Start(t, mqttpeer.Options{Limits: func(c *mqtt.Capabilities) { c.MaximumQos = 0 }})
	values := map[string]any{"serverUrl": peer.URL(), "topic": "ml/events/{type}", "username": "carillon"}
	secrets := map[string]string{"password": suiteSecret}
	for qos := range 2 {
		at := map[string]any{"topic": fmt.Sprintf("ml/%d/{type}", qos+1), "qos": qos + 1}
		t.Run(fmt.Sprintf("qos %d", qos+1), func(t *testing.T) {
			testTarget(t, "Mqtt", nil, counterpart{
				values: with(values, "topic", at["topic"], "qos", at["qos"]), secrets: secrets, properties: true,
				at: func(_ *testing.T, address string) (map[string]any, *Connections) {
					return with(values, "serverUrl", "mqtt://"+address), nil
				},
				received: func(t *testing.T, _ int) []arrived {
					got := peer.Messages(fmt.Sprintf("ml/%d/T.ModelRegistered", qos+1))
					for _, m := range got {
						if int(m.QoS) != qos+1 {
							t.Errorf("QoS %d", m.QoS)
						}
					}
					return mqttArrivals(t, got)
				},
				cases: []counterCase{
					{name: "wrong password", secrets: map[string]string{"password": suiteSecret + "x"}, want: broker.Unauthorized, again: true, probed: "credentials"},
					{name: "anonymous", values: map[string]any{"serverUrl": peer.URL(), "topic": "a"}, secrets: map[string]string{}, want: broker.Unauthorized, again: true, probed: "credentials"},
					{name: "may not publish", values: with(values, "topic", "forbidden", "qos", qos+1), want: broker.Unauthorized, again: true},
					{name: "larger than the server takes", values: with(values, "topic", "ml", "qos", qos+1), body: `"` + strings.Repeat("x", 100_000) + `"`, want: broker.PayloadTooLarge},
					{name: "not an event", body: "no JSON", want: broker.BadRequest},
					{name: "no acknowledgement", values: with(values, "serverUrl", simple.URL()), want: broker.GenericError, again: true, probed: "QoS 0 alone"},
				},
			})
		})
	}
	testTarget(t, "Mqtt", nil, counterpart{
		at: func(_ *testing.T, address string) (map[string]any, *Connections) {
			return with(values, "serverUrl", "mqtts://"+address), nil
		},
		secrets: secrets,
		cases: []counterCase{
			{name: "less than exactly once", values: with(values, "serverUrl", modest.URL(), "qos", 2), want: broker.GenericError, again: true, probed: "set qos to 1"},
			{name: "nothing is retained", values: with(values, "serverUrl", modest.URL(), "retain", true), want: broker.GenericError, again: true, probed: "set retain to false"},
		},
	})
	t.Run("more at a time than the server takes", func(t *testing.T) {
		var all sync.WaitGroup
		for _, qos := range []int{1, 2} {
			s := targetOf(t, "Mqtt", with(values, "topic", "many", "qos", qos), secrets, nil)
			for n := range 8 {
				all.Go(func() {
					events := make([]string, 100)
					for i := range events {
						events[i] = suiteEvent(i)
					}
					if got := s.Send(t.Context(), later(attemptOf("Mqtt", 10_000*qos+1000*n, events...))); got.Outcome != broker.Delivered {
						t.Errorf("attempt %d: %+v", n, got)
					}
				})
			}
		}
		all.Wait()
		if n := len(mqttArrivals(t, peer.Messages("many"))); n != 1600 {
			t.Errorf("%d messages of 1600 events", n)
		}
	})
	t.Run("each has its own outcome", func(t *testing.T) {
		s := targetOf(t, "Mqtt", with(values, "topic", "some"), secrets, nil)
		r := attemptOf("Mqtt", 1, suiteEvent(1), `"`+strings.Repeat("x", 100_000)+`"`, suiteEvent(3))
		whole := s.Send(t.Context(), r)
		if whole.Outcome != broker.Delivered || r.Parts[0].Outcome != broker.Delivered || r.Parts[1].Outcome != broker.PayloadTooLarge || r.Parts[2].Outcome != broker.Delivered {
			t.Errorf("%+v: %+v", whole, r.Parts)
		}
		if n := len(peer.Messages("some")); n != 2 {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("by TLS", func(t *testing.T) {
		certified := httptest.NewTLSServer(http.NotFoundHandler())
		defer certified.Close()
		roots := x509.NewCertPool()
		roots.AddCert(certified.Certificate())
		secure := mqttpeer.Start(t, mqttpeer.Options{TLS: &tls.Config{Certificates: certified.TLS.Certificates}, User: "carillon", Password: suiteSecret})
		s := targetOf(t, "Mqtt", with(values, "serverUrl", secure.URL()), secrets, nil).(*mqttTarget)
		if got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1))); got.Outcome != broker.SocketError || !strings.Contains(got.Detail, "--destination-ca") {
			t.Errorf("an authority that is not trusted: %+v", got)
		}
		s.guard = egress.New(egress.Options{AllowLoopback: true, RootCAs: roots})
		if got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1))); got.Outcome != broker.Delivered {
			t.Errorf("%+v", got)
		}
		s = targetOf(t, "Mqtt", values, secrets, nil).(*mqttTarget)
		s.guard = egress.New(egress.Options{})
		if got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1))); got.Outcome != broker.SocketError || !strings.Contains(got.Detail, "--allow-destination") {
			t.Errorf("an address that is not allowed: %+v", got)
		}
	})
	t.Run("retained, with an end", func(t *testing.T) {
		s := targetOf(t, "Mqtt", with(values, "topic", "kept", "retain", true, "messageExpiry", 90, "clientId", "carillon-1"), secrets, nil)
		if got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1))); got.Outcome != broker.Delivered {
			t.Fatalf("%+v", got)
		}
		if m := peer.Messages("kept"); len(m) != 1 || !m[0].Retain || m[0].Expiry != 90 {
			t.Errorf("%+v", m)
		}
	})
}

// TestMQTTOfCloudEvents holds both content modes. Source: cloudevents/spec:
// cloudevents/bindings/mqtt-protocol-binding.md, sections 3.1 and 3.2.
func TestMQTTOfCloudEvents(t *testing.T) {
	peer := mqttpeer.Start(t, mqttpeer.Options{})
	const of = "application/cloudevents+json; charset=utf-8"
	cloudEvent := func(more string) string {
		return `{"specversion":"1.0","id":"e1","source":"/t","type":"T.New","subject":"models/churn:1",` + more + `}`
	}
	ours := []string{"message-id", "aeg-subscription-name", "aeg-delivery-count", "aeg-event-type", "aeg-output-event-id", "aeg-metadata-version", "aeg-data-version", "x-team", "x-key", "x-model"}
	for _, tt := range []struct {
		name, mode, event string
		body, contentType string
		attributes        map[string]string
		want              broker.Outcome
	}{
		{name: "structured", mode: "structured", event: cloudEvent(`"data":{"n":1}`), body: cloudEvent(`"data":{"n":1}`), contentType: of},
		{name: "binary", mode: "binary", event: cloudEvent(`"sequence":"7","data":{"n": 1}`), body: `{"n": 1}`, contentType: "application/json",
			attributes: map[string]string{"specversion": "1.0", "id": "e1", "source": "/t", "type": "T.New", "subject": "models/churn:1", "sequence": "7"}},
		{name: "bytes", mode: "binary", event: cloudEvent(`"datacontenttype":"image/png","size":3,"data_base64":"AQID"`), body: "\x01\x02\x03", contentType: "image/png",
			attributes: map[string]string{"specversion": "1.0", "id": "e1", "source": "/t", "type": "T.New", "subject": "models/churn:1", "size": "3"}},
		{name: "no data", mode: "binary", event: cloudEvent(`"note":"ä"`), contentType: "application/json",
			attributes: map[string]string{"specversion": "1.0", "id": "e1", "source": "/t", "type": "T.New", "subject": "models/churn:1", "note": "ä"}},
		{name: "a control character", mode: "binary", event: cloudEvent(`"note":"a\u0000b"`), want: broker.BadRequest},
		{name: "a control character in the content type", mode: "binary", event: cloudEvent(`"datacontenttype":"a\nb"`), want: broker.BadRequest},
		{name: "a control character in the payload", mode: "structured", event: cloudEvent(`"note":"a\u0000b"`), body: cloudEvent(`"note":"a\u0000b"`), contentType: of},
		{name: "a long attribute", mode: "binary", event: cloudEvent(`"note":"` + strings.Repeat("x", 1<<16) + `"`), want: broker.BadRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			topic := "ce/" + strings.ReplaceAll(tt.name, " ", "-")
			s := targetOf(t, "Mqtt", map[string]any{"serverUrl": peer.URL(), "topic": topic}, nil, nil).(*mqttTarget)
			s.schema, s.binary = event.CloudEventSchemaV1_0, tt.mode == "binary"
			r := attemptOf("Mqtt", 1, tt.event)
			r.ContentType = of
			shown := fmt.Sprint(s.preview(r, 0))
			if strings.Contains(shown, suiteSecret) {
				t.Errorf("a secret is shown: %s", shown)
			}
			got := s.Send(t.Context(), r)
			if tt.want != broker.NotAttempted {
				if got.Outcome != tt.want || got.Detail == "" {
					t.Errorf("%+v", got)
				}
				return
			}
			messages := peer.Messages(topic)
			if got.Outcome != broker.Delivered || len(messages) != 1 {
				t.Fatalf("%+v, %d messages", got, len(messages))
			}
			m := messages[0]
			if m.Body != tt.body || m.ContentType != tt.contentType || !strings.Contains(shown, tt.contentType) {
				t.Errorf("body %s of %s, shown %s", m.Body, m.ContentType, shown)
			}
			for _, name := range ours {
				if m.Properties[name] == "" {
					t.Errorf("no %s", name)
				}
				delete(m.Properties, name)
			}
			for name, value := range tt.attributes {
				if m.Properties[name] != value || !strings.Contains(shown, name) {
					t.Errorf("%s is %q, want %q; shown %s", name, m.Properties[name], value, shown)
				}
				delete(m.Properties, name)
			}
			if len(m.Properties) > 0 {
				t.Errorf("more properties: %v", m.Properties)
			}
		})
	}
}

// scripted is a server that does with each packet after the first what a script says.
type scripted struct {
	greeting *packets.Connack
	bytes    []byte                                              // instead of the greeting
	script   func(conn net.Conn, number int, p *packets.Publish) // of a PUBLISH, counted from 0
	released func(conn net.Conn, id uint16)                      // of a PUBREL
}

func (s scripted) talk(conn net.Conn) {
	defer conn.Close()
	for number := 0; ; {
		p, err := packets.ReadPacket(conn)
		if err != nil {
			return
		}
		switch content := p.Content.(type) {
		case *packets.Connect:
			if s.bytes != nil {
				_, _ = conn.Write(s.bytes)
				continue
			}
			greeting := s.greeting
			if greeting == nil {
				greeting = &packets.Connack{Properties: &packets.Properties{}}
			}
			_, _ = greeting.WriteTo(conn)
		case *packets.Publish:
			s.script(conn, number, content)
			number++
		case *packets.Pubrel:
			s.released(conn, content.PacketID)
		}
	}
}

func (s scripted) target(t *testing.T, more ...any) *mqttTarget {
	t.Helper()
	values := with(map[string]any{"serverUrl": "mqtt://" + listenAndTalk(t, s.talk), "topic": "ml", "username": "u"}, more...)
	return targetOf(t, "Mqtt", values, map[string]string{"password": suiteSecret}, nil).(*mqttTarget)
}

// TestMQTTReasons holds what each reason code means, wherever a server says it.
// Source: MQTT 5.0 section 2.4.
func TestMQTTReasons(t *testing.T) {
	for code, want := range map[byte]string{0x01: "does not speak MQTT", 0x7f: "does not speak MQTT", 0x95: "larger", 0x99: "invalid"} {
		s := scripted{greeting: &packets.Connack{ReasonCode: code, Properties: &packets.Properties{}}}.target(t)
		got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1)))
		if got.Outcome != broker.SocketError && got.Outcome != broker.GenericError || !strings.Contains(got.Detail, want) {
			t.Errorf("CONNACK %#x, which blames no message: %+v", code, got)
		}
	}
	for _, tt := range []struct {
		code    byte
		want    broker.Outcome
		again   bool
		connect bool // a CONNACK may have it
		publish bool // a PUBACK or PUBREC may
	}{
		{code: 0x00, want: broker.Delivered, publish: true},
		{code: 0x10, want: broker.Delivered, publish: true},
		{0x80, broker.GenericError, true, true, true},
		{0x81, broker.GenericError, true, true, false},
		{0x82, broker.GenericError, true, true, false},
		{0x83, broker.GenericError, true, true, true},
		{0x84, broker.GenericError, true, true, false},
		{0x85, broker.GenericError, true, true, false},
		{0x86, broker.Unauthorized, true, true, false},
		{0x87, broker.Unauthorized, true, true, true},
		{0x88, broker.Busy, true, true, false},
		{0x89, broker.Busy, true, true, false},
		{0x8a, broker.Unauthorized, true, true, false},
		{0x8c, broker.Unauthorized, true, true, false},
		{0x90, broker.NotFound, true, false, true},
		{0x91, broker.GenericError, true, false, true},
		{0x95, broker.PayloadTooLarge, false, false, true},
		{0x97, broker.Full, true, true, true},
		{0x99, broker.BadRequest, false, false, true},
		{0x9a, broker.GenericError, true, false, true},
		{0x9b, broker.GenericError, true, false, true},
		{0x9c, broker.Busy, true, true, false},
		{0x9d, broker.NotFound, true, true, false},
		{0x9f, broker.Busy, true, true, false},
		{0xff, broker.GenericError, true, true, true},
	} {
		holds := func(t *testing.T, got broker.Response) {
			t.Helper()
			again := broker.Policy{MaxAttempts: 30, TimeToLive: time.Hour}.Next(1, time.Now(), got, time.Now(), 0).Action == broker.Retry
			if got.Outcome != tt.want || again != tt.again || (got.Detail == "") != (tt.want == broker.Delivered) || strings.Contains(got.Detail, suiteSecret) {
				t.Errorf("%+v, again %t", got, again)
			}
		}
		says := &packets.Properties{ReasonString: suiteSecret, ServerReference: suiteSecret}
		if tt.connect {
			t.Run(fmt.Sprintf("CONNACK %#x", tt.code), func(t *testing.T) {
				s := scripted{greeting: &packets.Connack{ReasonCode: tt.code, Properties: says}}.target(t)
				holds(t, s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1), suiteEvent(2))))
				if err := s.probe(t.Context()); err == nil || strings.Contains(err.Error(), suiteSecret) {
					t.Errorf("probe: %v", err)
				}
			})
		}
		for qos := 1; qos <= 2 && tt.publish; qos++ {
			t.Run(fmt.Sprintf("qos %d %#x", qos, tt.code), func(t *testing.T) {
				s := scripted{
					script: func(conn net.Conn, _ int, p *packets.Publish) {
						if qos == 1 {
							_, _ = (&packets.Puback{PacketID: p.PacketID, ReasonCode: tt.code, Properties: says}).WriteTo(conn)
						} else {
							_, _ = (&packets.Pubrec{PacketID: p.PacketID, ReasonCode: tt.code, Properties: says}).WriteTo(conn)
						}
					},
					released: func(conn net.Conn, id uint16) { _, _ = (&packets.Pubcomp{PacketID: id}).WriteTo(conn) },
				}.target(t, "qos", qos)
				r := attemptOf("Mqtt", 1, suiteEvent(1), suiteEvent(2))
				s.Send(t.Context(), r)
				for _, p := range r.Parts {
					holds(t, p.Response)
				}
			})
		}
	}
}

// TestMQTTEnds holds what becomes of messages whose connection ends before they are
// acknowledged.
func TestMQTTEnds(t *testing.T) {
	puback := func(conn net.Conn, p *packets.Publish) { _, _ = (&packets.Puback{PacketID: p.PacketID}).WriteTo(conn) }
	pubrec := func(conn net.Conn, p *packets.Publish) { _, _ = (&packets.Pubrec{PacketID: p.PacketID}).WriteTo(conn) }
	leaves := func(code byte) func(net.Conn, int, *packets.Publish) {
		return func(conn net.Conn, _ int, _ *packets.Publish) {
			_, _ = (&packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{ReasonString: suiteSecret}}).WriteTo(conn)
		}
	}
	one := &packets.Connack{Properties: &packets.Properties{ReceiveMaximum: new(uint16(1))}}
	for _, tt := range []struct {
		name   string
		qos    int
		server scripted
		want   []broker.Outcome
		again  bool // the last one
		detail string
	}{
		{name: "after the first", qos: 1, server: scripted{greeting: one, script: func(conn net.Conn, n int, p *packets.Publish) {
			if n == 1 {
				_ = conn.Close()
				return
			}
			puback(conn, p)
		}}, want: []broker.Outcome{broker.Delivered, broker.SocketError, broker.SocketError}, again: true, detail: "closed"},
		{name: "before a message is released", qos: 2, server: scripted{script: func(conn net.Conn, _ int, p *packets.Publish) { pubrec(conn, p) }, released: func(conn net.Conn, _ uint16) { _ = conn.Close() }},
			want: []broker.Outcome{broker.SocketError, broker.SocketError}, again: true},
		{name: "the message of a release is not known", qos: 2, server: scripted{script: func(conn net.Conn, _ int, p *packets.Publish) { pubrec(conn, p) }, released: func(conn net.Conn, id uint16) {
			_, _ = (&packets.Pubcomp{PacketID: id, ReasonCode: packets.PubcompPacketIdentifierNotFound}).WriteTo(conn)
		}}, want: []broker.Outcome{broker.GenericError}, again: true, detail: "0x92"},
		{name: "the server leaves", qos: 1, server: scripted{script: leaves(0)}, want: []broker.Outcome{broker.GenericError}, again: true, detail: "ended the connection"},
		{name: "the server shuts down", qos: 1, server: scripted{script: leaves(0x8b)}, want: []broker.Outcome{broker.Busy, broker.Busy}, again: true, detail: "shutting down"},
		{name: "another client of the name", qos: 1, server: scripted{script: leaves(0x8e)}, want: []broker.Outcome{broker.GenericError}, again: true, detail: "same clientId"},
		{name: "too fast", qos: 1, server: scripted{script: leaves(0x96)}, want: []broker.Outcome{broker.Busy}, again: true},
		{name: "one that is too large", qos: 1, server: scripted{script: leaves(0x95)}, want: []broker.Outcome{broker.PayloadTooLarge}},
		{name: "one of two that is too large", qos: 1, server: scripted{greeting: one, script: leaves(0x95)}, want: []broker.Outcome{broker.PayloadTooLarge, broker.GenericError}, again: true, detail: "larger"},
		{name: "an answer to nothing", qos: 1, server: scripted{script: func(conn net.Conn, _ int, p *packets.Publish) {
			puback(conn, &packets.Publish{PacketID: p.PacketID + 100})
		}},
			want: []broker.Outcome{broker.SocketError}, again: true, detail: "does not speak MQTT"},
		{name: "an answer of another kind", qos: 2, server: scripted{script: func(conn net.Conn, _ int, p *packets.Publish) { puback(conn, p) }},
			want: []broker.Outcome{broker.SocketError}, again: true, detail: "does not speak MQTT"},
		{name: "a packet that no client gets", qos: 1, server: scripted{script: func(conn net.Conn, _ int, _ *packets.Publish) {
			_, _ = (&packets.Subscribe{Properties: &packets.Properties{}}).WriteTo(conn)
		}}, want: []broker.Outcome{broker.SocketError}, again: true, detail: "does not speak MQTT"},
		{name: "a packet that is too long", qos: 1, server: scripted{script: func(conn net.Conn, _ int, _ *packets.Publish) {
			_, _ = conn.Write([]byte{packets.PUBACK << 4, 0xff, 0xff, 0xff, 0x7f})
		}}, want: []broker.Outcome{broker.SocketError}, again: true, detail: "does not speak MQTT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.server.target(t, "qos", tt.qos)
			var events []string
			for i := range tt.want {
				events = append(events, suiteEvent(i))
			}
			r := attemptOf("Mqtt", 1, events...)
			got := s.Send(t.Context(), r)
			if strings.Contains(got.Detail, suiteSecret) || !strings.Contains(got.Detail, tt.detail) {
				t.Errorf("detail %q", got.Detail)
			}
			for i, p := range r.Parts {
				if p.Outcome != tt.want[i] {
					t.Errorf("part %d: %+v, want %s", i, p.Response, tt.want[i])
				}
			}
			last := r.Parts[len(r.Parts)-1].Response
			if again := (broker.Policy{MaxAttempts: 30, TimeToLive: time.Hour}).Next(1, time.Now(), last, time.Now(), 0).Action == broker.Retry; again != tt.again {
				t.Errorf("again %t", again)
			}
		})
	}
}

// TestMQTTAnew holds that a connection that ended while nobody used it costs no attempt.
func TestMQTTAnew(t *testing.T) {
	conns := make(chan net.Conn, 2)
	s := scripted{script: func(conn net.Conn, _ int, p *packets.Publish) {
		conns <- conn
		_, _ = (&packets.Puback{PacketID: p.PacketID}).WriteTo(conn)
	}}.target(t)
	for n := range 2 {
		if got := s.Send(t.Context(), attemptOf("Mqtt", n, suiteEvent(n))); got.Outcome != broker.Delivered {
			t.Fatalf("attempt %d: %+v", n, got)
		}
		used := s.now.conn
		_ = (<-conns).Close()
		<-used.done
	}
}

// TestMQTTGoesOn holds that an attempt that waits on a connection which ends is made on the
// next one, if it has sent nothing; what was under way is not sent again by its attempt.
func TestMQTTGoesOn(t *testing.T) {
	arrived, cut := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var bodies []string
	s := scripted{greeting: &packets.Connack{Properties: &packets.Properties{ReceiveMaximum: new(uint16(1))}}, script: func(conn net.Conn, _ int, p *packets.Publish) {
		mu.Lock()
		bodies = append(bodies, string(p.Payload))
		first := len(bodies) == 1
		mu.Unlock()
		if first {
			close(arrived)
			<-cut
			_ = conn.Close()
			return
		}
		_, _ = (&packets.Puback{PacketID: p.PacketID}).WriteTo(conn)
	}}.target(t)
	send := func(n int) <-chan broker.Response {
		answer := make(chan broker.Response, 1)
		go func() { answer <- s.Send(t.Context(), attemptOf("Mqtt", n, suiteEvent(n))) }()
		return answer
	}
	first := send(0)
	<-arrived
	var others []<-chan broker.Response
	for n := range 2 * mqttTurns {
		others = append(others, send(1+n))
	}
	for len(s.turns) < mqttTurns {
		time.Sleep(time.Millisecond)
	}
	close(cut)
	if got := <-first; got.Outcome != broker.SocketError {
		t.Errorf("what was under way: %+v", got)
	}
	for n, answer := range others {
		if got := <-answer; got.Outcome != broker.Delivered {
			t.Errorf("attempt %d, which waited: %+v", n, got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(bodies)
	if n := len(slices.Compact(bodies)); n != 1+len(others) || len(bodies) != n {
		t.Errorf("%d messages, %d of them different; want %d", len(bodies), n, 1+len(others))
	}
}

// TestMQTTBeside holds by what name a client that is there for a question goes beside the
// one that delivers, and that it takes the name clientId where the server admits no other.
func TestMQTTBeside(t *testing.T) {
	const fixed = "carillon-ml"
	for _, tt := range []struct {
		name, clientID string
		connect        byte // the answer to a client by another name
		publish        byte // and to what it publishes
		names          int  // under which it comes
		outcome        broker.Outcome
	}{
		{name: "all are admitted", clientID: fixed, names: 1, outcome: broker.Delivered},
		{name: "no other name", clientID: fixed, connect: packets.ConnackInvalidClientID, names: 2, outcome: broker.Delivered},
		{name: "no other client", clientID: fixed, connect: packets.ConnackNotAuthorized, names: 2, outcome: broker.Delivered},
		{name: "no other user", clientID: fixed, connect: packets.ConnackBadUsernameOrPassword, names: 2, outcome: broker.Delivered},
		{name: "no other may publish", clientID: fixed, publish: packets.PubackNotAuthorized, names: 2, outcome: broker.Delivered},
		{name: "busy", clientID: fixed, connect: packets.ConnackServerBusy, names: 1, outcome: broker.Busy},
		{name: "no clientId", connect: packets.ConnackNotAuthorized, names: 1, outcome: broker.Unauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var names []string
			address := listenAndTalk(t, func(conn net.Conn) {
				defer conn.Close()
				hello, err := packets.ReadPacket(conn)
				if err != nil {
					return
				}
				name := hello.Content.(*packets.Connect).ClientID
				mu.Lock()
				names = append(names, name)
				mu.Unlock()
				greeting, puback := packets.Connack{Properties: &packets.Properties{}}, packets.Puback{Properties: &packets.Properties{}}
				if name != fixed {
					greeting.ReasonCode, puback.ReasonCode = tt.connect, tt.publish
				}
				_, _ = greeting.WriteTo(conn)
				if p, err := packets.ReadPacket(conn); err == nil && p.Type == packets.PUBLISH {
					puback.PacketID = p.PacketID()
					_, _ = puback.WriteTo(conn)
					_, _ = io.Copy(io.Discard, conn)
				}
			})
			values := resource.Values{"serverUrl": []byte(`"mqtt://` + address + `"`), "topic": []byte(`"ml"`)}
			if tt.clientID != "" {
				values["clientId"] = []byte(`"` + tt.clientID + `"`)
			}
			es := &resource.EventSubscription{Destination: resource.Destination{Type: "Mqtt", Target: &resource.Target{Values: values}}, DeliverySchema: event.EventGridSchema}
			targets := NewTargets(nil, loopback, NewPools(nil), nil)
			seen := func() []string {
				mu.Lock()
				defer mu.Unlock()
				out := names
				names = nil
				return out
			}
			check := func(what string, got []string, want int) {
				t.Helper()
				if len(got) != want || got[0] == fixed || tt.clientID != "" && !strings.HasPrefix(got[0], fixed+"-") || want == 2 && got[1] != fixed {
					t.Errorf("%s under the names %q", what, got)
				}
			}
			receipt, err := NewMessenger(nil, targets).SendMessage(t.Context(), es, manage.Message{Request: attemptOf("Mqtt", 1, suiteEvent(1))})
			if err != nil || receipt.Response.Outcome != tt.outcome {
				t.Errorf("%+v, %v; want %s", receipt.Response, err, tt.outcome)
			}
			check("sent", seen(), tt.names)
			if tt.publish != 0 {
				return // a probe publishes nothing
			}
			if err := targets.Probe(t.Context(), es); (err == nil) != (tt.outcome == broker.Delivered) {
				t.Errorf("probe: %v", err)
			}
			check("probed", seen(), tt.names)
			s, err := targets.Sender(es)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1)))
			if got := seen(); tt.clientID != "" && !slices.Equal(got, []string{fixed}) {
				t.Errorf("delivered under the names %q", got)
			}
		})
	}
}

// TestMQTTRevoked holds that credentials that are revoked cost one connection an attempt,
// and five minutes until the next.
func TestMQTTRevoked(t *testing.T) {
	var hellos atomic.Int64
	revoked := make(chan struct{})
	address := listenAndTalk(t, func(conn net.Conn) {
		defer conn.Close()
		if _, err := packets.ReadPacket(conn); err != nil {
			return
		}
		if hellos.Add(1) > 1 {
			_, _ = (&packets.Connack{ReasonCode: packets.ConnackBadUsernameOrPassword, Properties: &packets.Properties{}}).WriteTo(conn)
			return
		}
		_, _ = (&packets.Connack{Properties: &packets.Properties{}}).WriteTo(conn)
		if p, err := packets.ReadPacket(conn); err == nil {
			_, _ = (&packets.Puback{PacketID: p.PacketID()}).WriteTo(conn)
		}
		<-revoked
		_, _ = (&packets.Disconnect{ReasonCode: packets.DisconnectNotAuthorized}).WriteTo(conn)
	})
	s := targetOf(t, "Mqtt", map[string]any{"serverUrl": "mqtt://" + address, "topic": "ml", "username": "u"}, map[string]string{"password": suiteSecret}, nil).(*mqttTarget)
	if got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1))); got.Outcome != broker.Delivered {
		t.Fatalf("%+v", got)
	}
	used := s.now.conn
	close(revoked)
	<-used.done
	for n := range int64(3) {
		got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1), suiteEvent(2)))
		now := time.Now()
		next := broker.Policy{MaxAttempts: 30, TimeToLive: time.Hour}.Next(1, now, got, now, 0)
		if got.Outcome != broker.Unauthorized || next.Action != broker.Retry || next.Due.Sub(now) < 5*time.Minute {
			t.Errorf("%+v, next %+v", got, next)
		}
		if hellos.Load() != 2+n {
			t.Errorf("%d connections after %d attempts", hellos.Load(), 2+n)
		}
	}
}

// TestMQTTWaits holds that an attempt ends when its time is over or it is cut short, also
// while a message of another one is under way.
func TestMQTTWaits(t *testing.T) {
	silent := func(arrived chan<- struct{}) scripted {
		return scripted{greeting: &packets.Connack{Properties: &packets.Properties{ReceiveMaximum: new(uint16(1))}}, script: func(net.Conn, int, *packets.Publish) { arrived <- struct{}{} }}
	}
	t.Run("no answer in time", func(t *testing.T) {
		s := silent(make(chan struct{}, 2)).target(t)
		r := attemptOf("Mqtt", 1, suiteEvent(1), suiteEvent(2))
		r.Hold = 50 * time.Millisecond
		if got := s.Send(t.Context(), r); got.Outcome != broker.TimedOut || r.Parts[1].Outcome != broker.TimedOut {
			t.Errorf("%+v, %+v", got, r.Parts)
		}
	})
	t.Run("cut short", func(t *testing.T) {
		arrived := make(chan struct{}, 2*mqttTurns)
		s := silent(arrived).target(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		answers := make(chan broker.Response)
		for n := range 2 * mqttTurns {
			go func() { answers <- s.Send(ctx, attemptOf("Mqtt", n, suiteEvent(1))) }()
		}
		<-arrived
		cancel(errors.New("shutdown"))
		for range 2 * mqttTurns {
			if got := <-answers; got.Outcome != broker.Canceled {
				t.Errorf("%+v", got)
			}
		}
	})
	t.Run("a server that reads nothing", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := packets.ReadPacket(conn); err == nil {
				_, _ = (&packets.Connack{Properties: &packets.Properties{}}).WriteTo(conn)
			}
			_, _ = io.ReadFull(conn, make([]byte, 1)) // the messages have begun, and will fill every buffer
			cancel(errors.New("shutdown"))
		}()
		s := targetOf(t, "Mqtt", map[string]any{"serverUrl": "mqtt://" + l.Addr().String(), "topic": "ml"}, nil, nil)
		large := `"` + strings.Repeat("x", 1<<20) + `"`
		if got := s.Send(ctx, attemptOf("Mqtt", 1, large, large, large, large, large, large, large, large, large, large)); got.Outcome != broker.Canceled {
			t.Errorf("%+v", got)
		}
	})
}

// TestMQTTGreetings holds that a connection is made with those alone that speak MQTT 5.
func TestMQTTGreetings(t *testing.T) {
	for name, greeting := range map[string][]byte{
		"of MQTT 3":                     {packets.CONNACK << 4, 2, 0, 1},
		"of MQTT 3 that takes it":       {packets.CONNACK << 4, 2, 0, 0},
		"with an end that never comes":  {packets.CONNACK << 4, 3, 0, 0, 200},
		"with properties that are none": {packets.CONNACK << 4, 5, 0, 0, 2, 99, 1},
		"of nothing":                    {packets.CONNACK << 4, 0},
		"too long":                      {packets.CONNACK << 4, 0xff, 0xff, 0xff, 0xff, 1},
		"of one who asks":               {packets.AUTH << 4, 2, 0x18, 0},
		"that takes no message at all":  {packets.CONNACK << 4, 6, 0, 0, 3, packets.PropReceiveMaximum, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := scripted{bytes: greeting}.target(t)
			got := s.Send(t.Context(), attemptOf("Mqtt", 1, suiteEvent(1)))
			want := "does not speak MQTT"
			if len(greeting) == 4 && greeting[0] == packets.CONNACK<<4 {
				want = "does not speak MQTT 5"
			}
			if got.Outcome == broker.Delivered || !strings.Contains(got.Detail, want) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestMQTTKeepAlive holds that a server hears of a client as often as it wants.
func TestMQTTKeepAlive(t *testing.T) {
	pings := make(chan struct{}, 1)
	address := listenAndTalk(t, func(conn net.Conn) {
		for {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			switch p.Content.(type) {
			case *packets.Connect:
				_, _ = (&packets.Connack{Properties: &packets.Properties{ServerKeepAlive: new(uint16(1))}}).WriteTo(conn)
			case *packets.Pingreq:
				_, _ = packets.NewControlPacket(packets.PINGRESP).WriteTo(conn)
				select {
				case pings <- struct{}{}:
				default:
				}
			}
		}
	})
	s := targetOf(t, "Mqtt", map[string]any{"serverUrl": "mqtt://" + address, "topic": "ml"}, nil, nil).(*mqttTarget)
	if err := s.probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-pings
	if s.now.conn.ended() {
		t.Errorf("the connection ended: %v", s.now.conn.err)
	}
}

// TestMQTTHello holds what a server is told first.
func TestMQTTHello(t *testing.T) {
	hellos := make(chan *packets.Connect, 1)
	address := listenAndTalk(t, func(conn net.Conn) {
		if p, err := packets.ReadPacket(conn); err == nil {
			hellos <- p.Content.(*packets.Connect)
			_, _ = (&packets.Connack{Properties: &packets.Properties{}}).WriteTo(conn)
		}
	})
	for _, id := range []string{"", "carillon-ml"} {
		s := targetOf(t, "Mqtt", map[string]any{"serverUrl": "mqtt://" + address, "topic": "ml", "username": "u", "clientId": id}, map[string]string{"password": "p"}, nil)
		if err := s.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := <-hellos
		if h.ClientID == "" || len(h.ClientID) > 23 || id != "" && h.ClientID != id || h.Username != "u" || string(h.Password) != "p" || !h.CleanStart || h.WillFlag ||
			h.ProtocolVersion != 5 || *h.Properties.MaximumPacketSize != mostMQTTPacket || h.Properties.SessionExpiryInterval != nil {
			t.Errorf("%s", h)
		}
	}
}

// TestMQTTTopic holds what topics may be and what an event makes of them.
func TestMQTTTopic(t *testing.T) {
	for _, tt := range []struct{ template, want string }{
		{"ml/events", "ml/events"},
		{"ml/{type}", "ml/T.ModelRegistered"},
		{"ml/{subject}/{type}", "ml/models_churn:1/T.ModelRegistered"},
		{"{source}", "_t"},
		{"$aws/rules/x", "$aws/rules/x"},
		{"ml/{name}", ""}, {"ml/{type", ""}, {"ml/#", ""}, {"+/ml", ""},
	} {
		s, err := parseTopic(tt.template)
		if (err == nil) != (tt.want != "") {
			t.Errorf("%s: %v", tt.template, err)
		}
		if err != nil {
			continue
		}
		if got, err := s.of([]byte(suiteEvent(1)), event.EventGridSchema, topicLevel); got != tt.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", tt.template, got, err, tt.want)
		}
	}
	for text, want := range map[string]string{"": "none", "a/b": "a_b", "+#": "__", "$SYS": "_SYS", "ä b": "ä b", "a\x00\x1f\x7f\u0085b": "a____b", "\ufffe\U0001ffff\ufdd0": "___"} {
		if got := topicLevel(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestMQTTCheck(t *testing.T) {
	good := map[string]any{"serverUrl": "mqtts://broker.example:8883", "topic": "ml"}
	for _, tt := range []struct {
		name, field string
		values      map[string]any
	}{
		{"good", "", good},
		{"another scheme", "serverUrl", with(good, "serverUrl", "https://broker.example")},
		{"two", "serverUrl", with(good, "serverUrl", "mqtt://a,mqtt://b")},
		{"a password in it", "serverUrl", with(good, "serverUrl", "mqtt://u:s3cret@a")},
		{"wildcards", "topic", with(good, "topic", "ml/#")},
		{"a control character", "topic", with(good, "topic", "ml/\x00")},
		{"a control character in the id", "clientId", with(good, "clientId", "\n")},
	} {
		err := checkOf("Mqtt", tt.values, nil)
		if problem, is := errors.AsType[*fault.Error](err); (err != nil) != (tt.field != "") || is && problem.Target != tt.field || err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	raw, _ := json.Marshal("u")
	c := &targetConfig{kind: nil, values: map[string]json.RawMessage{"serverUrl": json.RawMessage(`"mqtt://a"`), "topic": json.RawMessage(`"t"`)}, secrets: map[string]string{"password": "p"}}
	if err := checkMQTT(c); err == nil || !strings.Contains(err.Error(), "username") {
		t.Errorf("a password alone: %v", err)
	}
	c.values["username"] = raw
	if err := checkMQTT(c); err != nil {
		t.Error(err)
	}
}

// FuzzMQTTAnswers has whatever bytes come after the greeting read, and as the greeting.
func FuzzMQTTAnswers(f *testing.F) {
	var answers bytes.Buffer
	_, _ = (&packets.Puback{PacketID: 1, ReasonCode: 0x10}).WriteTo(&answers)
	_, _ = (&packets.Pubrec{PacketID: 2}).WriteTo(&answers)
	_, _ = (&packets.Pubcomp{PacketID: 2}).WriteTo(&answers)
	_, _ = (&packets.Disconnect{ReasonCode: 0x8b}).WriteTo(&answers)
	f.Add(answers.Bytes())
	f.Add([]byte{packets.CONNACK << 4, 6, 0, 0, 3, packets.PropReceiveMaximum, 0, 9})
	f.Add([]byte{packets.PINGRESP << 4, 0, packets.PUBACK << 4, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, qos := range []byte{packets.PUBACK, packets.PUBREC} {
			c := &mqttConn{first: qos, slots: make(chan struct{}, 2), waiting: map[uint16]mqttFlight{}}
			answers := make(chan mqttAnswer, 4)
			for part := range 2 {
				c.slots <- struct{}{}
				c.waiting[uint16(part+1)] = mqttFlight{part, qos, answers}
			}
			if err := c.read(bufio.NewReader(bytes.NewReader(raw))); err == nil {
				t.Error("reading ended without a reason")
			}
			done := 0
			for len(answers) > 0 {
				if a := <-answers; a.last() {
					done++
				} else if qos == packets.PUBACK {
					t.Errorf("%+v", a)
				}
			}
			if len(c.waiting) != 2-done || len(c.slots) != 2-done {
				t.Errorf("%d done, %d waiting, %d slots", done, len(c.waiting), len(c.slots))
			}
		}
		kind, body, err := readMQTT(bufio.NewReader(bytes.NewReader(raw)), nil)
		if err == nil && kind == packets.CONNACK {
			_ = (&packets.Connack{Properties: &packets.Properties{}}).Unpack(bytes.NewBuffer(body))
		}
	})
}
