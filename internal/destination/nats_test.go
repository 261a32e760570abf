package destination

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
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
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("reader", "reader"), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute)); err != nil {
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
			c, err := js.CreateConsumer(t.Context(), "ML", jetstream.ConsumerConfig{FilterSubject: "ml.events.T_ModelRegistered", AckPolicy: jetstream.AckNonePolicy})
			if err != nil {
				t.Fatal(err)
			}
			if waiting := c.CachedInfo().NumPending; waiting != uint64(n) {
				t.Errorf("the stream has %d messages, want %d", waiting, n)
			}
			batch, err := c.Fetch(n, jetstream.FetchMaxWait(time.Minute))
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
	t.Run("more attempts at a time than there are turns", func(t *testing.T) {
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

// stored is what a stream answers.
const stored = `{"stream":"ML","seq":1}`

// answersBy has a test answer what is published to a subject, in the place of a stream.
func answersBy(t *testing.T, js jetstream.JetStream, subject string) <-chan *nats.Msg {
	t.Helper()
	asked := make(chan *nats.Msg, 16)
	s, err := js.Conn().ChanSubscribe(subject, asked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Unsubscribe() })
	if err := js.Conn().Flush(); err != nil { // the server knows of it
		t.Fatal(err)
	}
	return asked
}

// TestNATSAnswers holds that each answer counts for its own message of its own attempt,
// once, whenever it comes.
func TestNATSAnswers(t *testing.T) {
	url, js := startNATS(t)
	values := map[string]any{"url": url, "subject": "ml.answers", "username": "carillon"}
	secrets := map[string]string{"password": suiteSecret}
	answer := func(t *testing.T, m *nats.Msg, text string) {
		t.Helper()
		if err := m.Respond([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send := func(ctx context.Context, s broker.Sender, r *broker.Request) <-chan broker.Response {
		out := make(chan broker.Response, 1)
		go func() { out <- s.Send(ctx, r) }()
		return out
	}
	t.Run("each its own", func(t *testing.T) {
		asked := answersBy(t, js, "ml.answers")
		r := attemptOf("Nats", 10, suiteEvent(0), suiteEvent(1), suiteEvent(2), suiteEvent(3))
		got := send(t.Context(), targetOf(t, "Nats", values, secrets, nil), r)
		var messages []*nats.Msg
		for range r.Parts {
			messages = append(messages, <-asked)
		}
		answer(t, messages[3], `{"stream":"ML","seq":9,"duplicate":true}`)
		answer(t, messages[1], `{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"ML","seq":0}`)
		answer(t, messages[1], stored) // it has its answer
		answer(t, messages[0], stored)
		beside := *messages[2]
		for _, wrong := range []string{".x", "x", ".999", ".-1"} {
			beside.Reply = messages[2].Reply + wrong
			answer(t, &beside, stored)
		}
		answer(t, messages[2], `[]`)
		if whole := <-got; whole.Outcome != broker.Full {
			t.Errorf("the whole: %+v", whole)
		}
		for i, want := range []broker.Outcome{broker.Delivered, broker.Full, broker.GenericError, broker.Delivered} {
			if r.Parts[i].Outcome != want {
				t.Errorf("message %d: %+v, want %s", i, r.Parts[i].Response, want)
			}
		}
	})
	t.Run("too late", func(t *testing.T) {
		asked := answersBy(t, js, "ml.answers")
		s := targetOf(t, "Nats", values, secrets, nil)
		ctx, cancel := context.WithCancel(t.Context())
		first := send(ctx, s, attemptOf("Nats", 20, suiteEvent(0)))
		late := <-asked
		cancel()
		if got := <-first; got.Outcome != broker.Canceled {
			t.Fatalf("cut short: %+v", got)
		}
		second := send(t.Context(), s, attemptOf("Nats", 20, suiteEvent(0)))
		again := <-asked
		answer(t, late, `{"error":{"code":503,"err_code":10077},"stream":"ML","seq":0}`)
		answer(t, again, stored)
		if got := <-second; got.Outcome != broker.Delivered {
			t.Errorf("the next attempt: %+v", got)
		}
	})
	t.Run("no stream for a moment", func(t *testing.T) {
		asked := answersBy(t, js, "ml.answers")
		r := attemptOf("Nats", 30, suiteEvent(0), suiteEvent(1))
		got := send(t.Context(), targetOf(t, "Nats", values, secrets, nil), r)
		first, second := <-asked, <-asked
		answer(t, second, stored)
		if err := first.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"503"}}}); err != nil {
			t.Fatal(err)
		}
		again := <-asked
		if a, b := first.Header.Get(jetstream.MsgIDHeader), again.Header.Get(jetstream.MsgIDHeader); a != b {
			t.Errorf("message %s was sent again as %s", a, b)
		}
		answer(t, first, `{}`) // of the flight before
		answer(t, again, stored)
		if whole := <-got; whole.Outcome != broker.Delivered || r.Parts[0].Outcome != broker.Delivered {
			t.Errorf("%+v, %+v", whole, r.Parts[0].Response)
		}
	})
	t.Run("the connection ends", func(t *testing.T) {
		asked := answersBy(t, js, "ml.answers")
		s := targetOf(t, "Nats", values, secrets, nil)
		r := attemptOf("Nats", 40, suiteEvent(0), suiteEvent(1))
		got := send(t.Context(), s, r)
		answer(t, <-asked, stored)
		<-asked
		n := s.(*natsTarget).now.conn
		for open := 0; open != 1; time.Sleep(time.Millisecond) { // until the answer is here
			n.mu.Lock()
			open = n.flights[n.last].open
			n.mu.Unlock()
		}
		n.nc.Close()
		if whole := <-got; whole.Outcome != broker.SocketError || r.Parts[0].Outcome != broker.Delivered || r.Parts[1].Outcome != broker.SocketError {
			t.Errorf("%+v, %+v, %+v", whole, r.Parts[0].Response, r.Parts[1].Response)
		}
		next := send(t.Context(), s, attemptOf("Nats", 40, suiteEvent(1)))
		answer(t, <-asked, stored)
		if got := <-next; got.Outcome != broker.Delivered {
			t.Errorf("the next attempt: %+v", got)
		}
	})
}

// TestNATSHeaders holds that messages of one turn have their own headers, whatever the one
// before had.
func TestNATSHeaders(t *testing.T) {
	var turn natsTurn
	turn.msg = &nats.Msg{}
	for _, want := range []map[string]string{
		{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"a": "5"}, {"c": "6", "a": "7"}, {"b": "8", "a": "9", "c": ""}, {},
	} {
		turn.headers = turn.headers[:0]
		for _, name := range slices.Sorted(maps.Keys(want)) {
			turn.headers = append(turn.headers, attribute{name: name, value: want[name]})
		}
		turn.setHeaders()
		got := map[string]string{}
		for name, values := range turn.msg.Header {
			got[name] = strings.Join(values, "|")
		}
		if !maps.Equal(got, want) {
			t.Errorf("headers %v, want %v", got, want)
		}
	}
}

// FuzzNATSAnswer holds that a message counts as stored where its answer names the stream
// and the place in it, and no error.
func FuzzNATSAnswer(f *testing.F) {
	for _, text := range []string{
		stored, `{"stream":"ML","domain":"hub","seq":17,"duplicate":true}`, `{"stream":"error","seq":1}`, `{"stream":"","seq":1}`, `{"stream":"ML"}`, `{"seq":1}`,
		`{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"},"stream":"ML","seq":0}`, `{"error":null,"stream":"ML","seq":1}`, `{"error":{}}`, `{"\u0065rror":{"code":1},"stream":"ML","seq":1}`,
		`{"type":"x","error":"no"}`, `{}`, `[]`, ``, `-ERR`, stored + "x",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := natsAnswer(&nats.Msg{Data: text})
		var answer map[string]json.RawMessage
		if json.Unmarshal(text, &answer) != nil || event.Check(text) != nil {
			if err == nil {
				t.Errorf("%q is no answer", text)
			}
			return
		}
		var stream string
		want := event.KindOf(answer["error"]) != event.Object && event.KindOf(answer["seq"]) == event.Number && json.Unmarshal(answer["stream"], &stream) == nil && stream != ""
		if want != (err == nil) {
			t.Errorf("%q: %v", text, err)
		}
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
