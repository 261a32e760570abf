package destination

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// TestKinds holds that what is described has a sender, and that a description can be
// used: each field has help and an example, which its own check takes.
func TestKinds(t *testing.T) {
	for _, k := range resource.Kinds() {
		if targetKinds[k.Name].open == nil {
			t.Errorf("%s has no sender", k.Name)
		}
		if k.Summary == "" || k.Together < 1 || strings.HasSuffix(k.Summary, ".") {
			t.Errorf("%s: summary %q, together %d", k.Name, k.Summary, k.Together)
		}
		if (k.Field("resourceId") != nil) != (len(k.Linked) > 0) {
			t.Errorf("%s: whoever names a resource needs an action there", k.Name)
		}
		for _, f := range k.Fields {
			if f.Help == "" || f.Example == "" || strings.HasSuffix(f.Help, ".") {
				t.Errorf("%s.%s: help %q, example %q", k.Name, f.Name, f.Help, f.Example)
			}
			example, _ := json.Marshal(f.Example)
			if f.Type == resource.FieldInteger || f.Type == resource.FieldBoolean || f.Type == resource.FieldMap { // as JSON
				example = []byte(f.Example)
			}
			if _, _, problems := k.Check("p", map[string]json.RawMessage{f.Name: example}); slices.ContainsFunc(problems, func(p *fault.Error) bool {
				return strings.Contains(p.Error(), f.Example)
			}) {
				t.Errorf("%s.%s: its example is refused: %v", k.Name, f.Name, problems)
			}
		}
	}
	if len(targetKinds) != len(resource.Kinds()) {
		t.Errorf("%d senders of %d kinds", len(targetKinds), len(resource.Kinds()))
	}
}

// The secrets of the suite. None of them may be seen anywhere.
const suiteSecret = "s3cret-of-the-suite"

// counterpart is what a kind of destination speaks to, as real as it can be here.
type counterpart struct {
	values  map[string]any    // of the fields, for a destination that takes everything
	secrets map[string]string // likewise
	// received returns the messages that arrived, n of them, in any order, as an
	// independent client reads them: body and properties.
	received func(t *testing.T, n int) []arrived
	// properties says whether messages have properties.
	properties bool
	// cases are destinations that do not take a message, and why.
	cases []counterCase
	// at describes a destination like it at another address.
	at func(t *testing.T, address string) (values map[string]any, connections *Connections)
	// open makes the sender to such another address instead, where what arrives is held
	// elsewhere.
	open func(t *testing.T, address string) targetSender
}

func (c counterpart) elsewhere(t *testing.T, kind, address string) targetSender {
	t.Helper()
	if c.open != nil {
		return c.open(t, address)
	}
	values, connections := c.at(t, address)
	return targetOf(t, kind, values, c.secrets, connections)
}

type counterCase struct {
	name    string
	values  map[string]any // instead of those of the counterpart
	secrets map[string]string
	before  func(t *testing.T) // what is done to the counterpart
	body    string             // "" for an event
	want    broker.Outcome
	again   bool // it is tried again
	probed  string
}

type arrived struct {
	body       string
	properties map[string]string
}

// targetOf makes the sender of a kind.
func targetOf(t *testing.T, kind string, values map[string]any, secrets map[string]string, connections *Connections) targetSender {
	t.Helper()
	members := map[string]json.RawMessage{}
	for name, v := range values {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		members[name] = raw
	}
	k := resource.KindOf(kind)
	checked, _, problems := k.Check("properties", members)
	for _, p := range problems {
		t.Fatal(p)
	}
	c := &targetConfig{
		kind: k, uid: "00f1", name: "ES1", schema: event.EventGridSchema, values: checked, secrets: secrets, guard: loopback, connections: connections,
		static: []attribute{{"x-team", "mlops", false}, {"x-key", suiteSecret, true}},
	}
	if check := targetKinds[kind].check; check != nil {
		if err := check(c); err != nil {
			t.Fatalf("check: %v", err)
		}
	}
	s, err := targetKinds[kind].open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// attemptOf is an attempt with these events, from that number on, in the form that a kind
// takes.
func attemptOf(kind string, from int, events ...string) *broker.Request {
	r := &broker.Request{ContentType: "application/json; charset=utf-8", Hold: 30 * time.Second}
	single := func(i int) broker.SingleEvent {
		return broker.SingleEvent{OutputID: fmt.Sprintf("%032d", from+i), MetadataVersion: "1", DataVersion: "2"}
	}
	attributes := []broker.Attribute{{Name: "x-model", Value: fmt.Sprint("churn-", from)}}
	if resource.KindOf(kind).Form == resource.FormArray {
		r.Body, r.Attributes = []byte("["+strings.Join(events, ",")+"]"), attributes
		if len(events) == 1 {
			one := single(0)
			r.Single = &one
		}
		return r
	}
	for i, e := range events {
		at := len(r.Body)
		r.Body = append(r.Body, e...)
		r.Parts = append(r.Parts, broker.Part{From: at, To: len(r.Body), Count: i, Attributes: attributes, Single: single(i)})
	}
	return r
}

// later is an attempt whose body and parts are made when they are asked for, as the
// broker's are.
func later(made *broker.Request) *broker.Request {
	r := *made
	r.Body, r.Parts, r.Source = nil, nil, laterSource{made}
	return &r
}

type laterSource struct{ made *broker.Request }

func (s laterSource) Encode(r *broker.Request, dst []byte) ([]byte, error) {
	r.Parts = append(r.Parts[:0], s.made.Parts...)
	return append(dst, s.made.Body...), nil
}

// bodiesOf are the messages that an attempt makes.
func bodiesOf(r *broker.Request) (bodies []string) {
	for _, p := range r.Parts {
		bodies = append(bodies, string(r.Body[p.From:p.To]))
	}
	if r.Parts == nil {
		bodies = []string{string(r.Body)}
	}
	return bodies
}

func suiteEvent(n int) string {
	return fmt.Sprintf(`{"id":"e%d","topic":"/t","subject":"models/churn:%d","eventType":"T.ModelRegistered","eventTime":"2026-03-01T10:00:00Z","data":{"n":%d,"text":"ä\u00e4","modelName":"churn","evil":"e","nested":{}},"dataVersion":"2","metadataVersion":"1"}`, n, n, n)
}

// testTarget is the suite that every kind of destination passes.
func testTarget(t *testing.T, kind string, connections *Connections, c counterpart) {
	shows := func(t *testing.T, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if strings.Contains(text, suiteSecret) {
				t.Errorf("a secret is shown: %s", text)
			}
		}
	}
	t.Run("delivers", func(t *testing.T) {
		if c.received == nil {
			return
		}
		s := targetOf(t, kind, c.values, c.secrets, connections)
		if err := s.probe(t.Context()); err != nil {
			t.Fatalf("probe: %v", err)
		}
		want := map[string]bool{}
		for round := range 3 {
			var events []string
			for i := range min(1+2*round, resource.KindOf(kind).Together) {
				events = append(events, suiteEvent(10*round+i))
			}
			r := attemptOf(kind, 10*round, events...)
			for _, body := range bodiesOf(r) {
				want[body] = true
			}
			shown := s.preview(r, 0)
			shows(t, shown.RequestLine, fmt.Sprint(shown.Headers))
			sent := len(r.Parts)
			r = later(r)
			if got := s.Send(t.Context(), r); got.Outcome != broker.Delivered {
				t.Fatalf("sent: %+v", got)
			}
			if len(r.Parts) != sent {
				t.Errorf("%d messages are answered for, of %d", len(r.Parts), sent)
			}
			for i, p := range r.Parts {
				if p.Outcome != broker.Delivered {
					t.Errorf("part %d: %+v", i, p.Response)
				}
			}
		}
		for _, a := range c.received(t, len(want)) {
			if !want[a.body] {
				t.Errorf("arrived %s", a.body)
			}
			delete(want, a.body)
			if !c.properties {
				continue
			}
			for name, value := range map[string]string{
				"aeg-subscription-name": "ES1", "aeg-event-type": "Notification", "x-team": "mlops", "x-key": suiteSecret,
			} {
				if a.properties[name] != value {
					t.Errorf("property %s is %q, want %q", name, a.properties[name], value)
				}
			}
			if !strings.HasPrefix(a.properties["x-model"], "churn-") || a.properties["aeg-delivery-count"] == "" {
				t.Errorf("properties %v", a.properties)
			}
			if of := a.properties; !strings.HasPrefix(a.body, "[{") && (len(of["aeg-output-event-id"]) != 32 || of["aeg-metadata-version"] != "1" || of["aeg-data-version"] != "2") {
				t.Errorf("properties %v", a.properties)
			}
		}
		for body := range want {
			t.Errorf("did not arrive: %s", body)
		}
	})
	for _, tt := range c.cases {
		t.Run(tt.name, func(t *testing.T) {
			values, secrets := tt.values, tt.secrets
			if values == nil {
				values = c.values
			}
			if secrets == nil {
				secrets = c.secrets
			}
			if tt.before != nil {
				tt.before(t)
			}
			s := targetOf(t, kind, values, secrets, connections)
			body := tt.body
			if body == "" {
				body = suiteEvent(1)
			}
			r := attemptOf(kind, 90, body)
			got := s.Send(t.Context(), r)
			if got.Outcome == broker.Canceled || len(got.Detail) > 200 || got.Detail == "" {
				t.Errorf("detail %q", got.Detail)
			}
			shows(t, got.Detail)
			again := broker.Policy{MaxAttempts: 30, TimeToLive: time.Hour}.Next(1, time.Now(), got, time.Now(), 0).Action == broker.Retry
			if got.Outcome != tt.want || again != tt.again {
				t.Errorf("outcome %s (%s), again %t; want %s, %t", got.Outcome, got.Detail, again, tt.want, tt.again)
			}
			err := s.probe(t.Context())
			if (err != nil) != (tt.probed != "") || err != nil && !strings.Contains(err.Error(), tt.probed) {
				t.Errorf("probe: %v, want %q", err, tt.probed)
			}
			if err != nil {
				shows(t, err.Error())
			}
		})
	}
	for name, tt := range map[string]struct{ address, want string }{
		"refused":           {freeAddress(t), "the connection was refused"},
		"out of our bounds": {"10.1.2.3:9", "it is in the private network 10.0.0.0/8; serve --allow-destination 10.0.0.0/8 allows it"},
	} {
		if name != "refused" && c.open != nil {
			continue // a URL is refused before there is a sender
		}
		t.Run(name, func(t *testing.T) {
			s := c.elsewhere(t, kind, tt.address)
			got := s.Send(t.Context(), attemptOf(kind, 91, suiteEvent(1), suiteEvent(2)))
			if got.Outcome != broker.SocketError || !strings.Contains(got.Detail, tt.address) || !strings.Contains(got.Detail, tt.want) {
				t.Errorf("outcome %+v", got)
			}
			shows(t, got.Detail)
			if err := s.probe(t.Context()); err != nil {
				if shows(t, err.Error()); !strings.Contains(err.Error(), tt.address) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("probe: %v", err)
				}
			}
		})
	}
	for name, talk := range map[string]func(net.Conn){
		"silent":      func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"without end": func(conn net.Conn) { talkWithoutEnd(conn) },
	} {
		t.Run(name, func(t *testing.T) {
			s := c.elsewhere(t, kind, listenAndTalk(t, talk))
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(300*time.Millisecond, func() { cancel(errors.New("shutdown")) })
			began := time.Now()
			got := s.Send(ctx, attemptOf(kind, 93, suiteEvent(1)))
			if took := time.Since(began); took > 20*time.Second { // it has 30 s
				t.Errorf("it took %s to end", took)
			}
			if name == "silent" && got.Outcome != broker.Canceled || got.Outcome == broker.Delivered {
				t.Errorf("outcome %+v", got)
			}
			shows(t, got.Detail)
		})
	}
}

// with returns values with some of them others.
func with(values map[string]any, others ...any) map[string]any {
	out := maps.Clone(values)
	for i := 0; i < len(others); i += 2 {
		out[others[i].(string)] = others[i+1]
	}
	return out
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// listenAndTalk accepts connections for the test and has each of them talk.
func listenAndTalk(t *testing.T, talk func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go talk(c)
		}
	}()
	return l.Addr().String()
}

func talkWithoutEnd(c net.Conn) {
	_, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\nContent-Type: application/xml\r\n\r\n")
	chunk := []byte(strings.Repeat("x", 64<<10))
	for {
		if _, err := c.Write(chunk); err != nil {
			return
		}
	}
}

// checkOf checks values by the kind's own rules.
func checkOf(kind string, values map[string]any, connections *Connections) error {
	v := resource.Values{}
	for name, value := range values {
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		v[name] = raw
	}
	return targetKinds[kind].check(&targetConfig{kind: resource.KindOf(kind), values: v, guard: loopback, connections: connections})
}
