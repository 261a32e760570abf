package destination

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
)

// startNATS runs a real server with JetStream and the users carillon, who may publish to
// ml.>, and reader.
func startNATS(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: 64 << 10,
		Users: []*server.User{
			{Username: "reader", Password: "reader"},
			{Username: "carillon", Password: suiteSecret, Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: []string{"ml.>", "nowhere", "$JS.API.>"}}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("reader", "reader"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	for _, c := range []jetstream.StreamConfig{
		{Name: "ML", Subjects: []string{"ml.events.>"}, MaxMsgSize: 32 << 10},
		{Name: "FULL", Subjects: []string{"ml.full"}, MaxMsgs: 1, Discard: jetstream.DiscardNew},
	} {
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	return s.ClientURL(), js
}

func TestNATS(t *testing.T) {
	url, js := startNATS(t)
	values := map[string]any{"url": url, "subject": "ml.events.{type}", "username": "carillon"}
	secrets := map[string]string{"password": suiteSecret}
	testTarget(t, "Nats", nil, counterpart{
		values: values, secrets: secrets, properties: true,
		at: func(_ *testing.T, address string) (map[string]any, *Connections) {
			return with(values, "url", "nats://"+address), nil
		},
		received: func(t *testing.T, n int) (out []arrived) {
			c, err := js.CreateConsumer(t.Context(), "ML", jetstream.ConsumerConfig{FilterSubject: "ml.events.T_ModelRegistered"})
			if err != nil {
				t.Fatal(err)
			}
			batch, err := c.Fetch(n+1, jetstream.FetchMaxWait(300*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				a := arrived{body: string(m.Data()), properties: map[string]string{}}
				for name := range m.Headers() {
					a.properties[name] = m.Headers().Get(name)
				}
				if a.properties["Content-Type"] != "application/json; charset=utf-8" || a.properties["Nats-Msg-Id"] == "" {
					t.Errorf("headers %v", a.properties)
				}
				out = append(out, a)
			}
			return out
		},
		cases: []counterCase{
			{name: "no stream", values: with(values, "subject", "ml.unknown"), want: broker.NotFound, again: true, probed: "no stream"},
			{name: "wrong password", secrets: map[string]string{"password": suiteSecret + "x"}, want: broker.Unauthorized, again: true, probed: "credentials"},
			{name: "may not publish", values: with(values, "subject", "other.events"), want: broker.Unauthorized, again: true, probed: "no stream"},
			{name: "too large for the server", body: `{"id":"` + string(make([]byte, 70<<10)) + `"}`, values: with(values, "subject", "ml.events.x"), want: broker.PayloadTooLarge},
			{name: "too large for the stream", body: `{"id":"` + string(make([]byte, 40<<10)) + `"}`, values: with(values, "subject", "ml.events.x"), want: broker.PayloadTooLarge},
			{name: "full", values: with(values, "subject", "ml.full"), want: broker.Full, again: true, before: func(t *testing.T) {
				if _, err := js.Publish(t.Context(), "ml.full", []byte("{}")); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "not an event", values: with(values, "subject", "ml.events.{type}"), body: "no JSON", want: broker.BadRequest},
		},
	})
	t.Run("a repeated message is stored once", func(t *testing.T) {
		s := targetOf(t, "Nats", with(values, "subject", "ml.events.once"), secrets, nil)
		for range 2 {
			if got := s.Send(t.Context(), attemptOf("Nats", 99, suiteEvent(1))); got.Outcome != broker.Delivered {
				t.Fatalf("%+v", got)
			}
		}
		stream, err := js.Stream(t.Context(), "ML")
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("ml.events.once"))
		if err != nil || info.State.Subjects["ml.events.once"] != 1 {
			t.Errorf("%v, %+v", err, info.State.Subjects)
		}
	})
	t.Run("more attempts at a time than the library takes", func(t *testing.T) {
		s := targetOf(t, "Nats", with(values, "subject", "ml.events.many"), secrets, nil)
		events := make([]string, 256)
		for i := range events {
			events[i] = suiteEvent(i)
		}
		var all sync.WaitGroup
		for n := range 4 * natsTurns {
			all.Go(func() {
				r := attemptOf("Nats", 1000*(n+1), events...)
				r.Hold = time.Hour // however long it waits for its turn
				if got := s.Send(t.Context(), r); got.Outcome != broker.Delivered {
					t.Errorf("attempt %d: %+v", n, got)
				}
			})
		}
		all.Wait()
	})
}

// TestSubject holds what subjects may be and what an event makes of them.
func TestSubject(t *testing.T) {
	for _, tt := range []struct{ template, want string }{
		{"ml.events", "ml.events"},
		{"ml.{type}", "ml.T_ModelRegistered"},
		{"ml.{subject}.{type}", "ml.models_churn:1.T_ModelRegistered"},
		{"{source}", "_t"},
		{"ml.{name}", ""}, {"ml.{type", ""}, {"ml.*", ""}, {"ml.>", ""}, {"ml..x", ""}, {".ml", ""}, {"ml.", ""}, {"a b", ""},
	} {
		s, err := parseSubject(tt.template)
		if (err == nil) != (tt.want != "") {
			t.Errorf("%s: %v", tt.template, err)
		}
		if err != nil {
			continue
		}
		if got, err := s.of([]byte(suiteEvent(1)), event.EventGridSchema, subjectPart); got != tt.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", tt.template, got, err, tt.want)
		}
	}
}
