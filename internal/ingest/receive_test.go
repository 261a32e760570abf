package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

const (
	workspacePath   = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/ml"
	systemTopicPath = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/Microsoft.EventGrid/systemTopics/ml-events"
)

// FindQueue knows event subscriptions named inbox, of every source.
func (w *world) FindQueue(_ context.Context, source resource.ID, name string) (resource.UID, bool) {
	w.asked = append(w.asked, "find "+name+" of "+source.String())
	return 77, strings.EqualFold(name, "inbox")
}

func (w *world) Raiser(source resource.ID) resource.ID {
	if source.IsType(resource.TypeSystemTopic) {
		return resource.MustID(workspacePath)
	}
	return source
}

func (w *world) Receive(_ context.Context, es resource.UID, most int, wait time.Duration) (*broker.Reception, error) {
	w.asked = append(w.asked, fmt.Sprintf("receive %d of %d within %v", most, es, wait))
	if w.err != nil {
		return nil, w.err
	}
	return w.reception, nil
}

func (w *world) AnswerReceived(_ context.Context, es resource.UID, a broker.Answer, delay time.Duration, tokens []string) ([]error, error) {
	w.asked = append(w.asked, fmt.Sprintf("answer %d of %d in %v: %s", a, es, delay, strings.Join(tokens, " ")))
	problems := make([]error, len(tokens))
	for i, t := range tokens {
		switch t {
		case "lost":
			problems[i] = broker.ErrTokenLost
		case "b\"d":
			problems[i] = broker.ErrBadToken
		}
	}
	return problems, w.err
}

// What clients of namespaces ask for, and what they get. Source: spec/delivery.md
// section 10.
func TestOperations(t *testing.T) {
	const (
		inbox = "/topics/orders/eventsubscriptions/inbox:"
		key   = "SharedAccessKey " + key1
		lost  = `{"lockToken":"lost","error":{"code":"TokenLost","message":"No event is locked by this token: its lock expired, it was answered already, or it is of another event subscription."}}`
	)
	for _, tt := range []struct {
		name, method, target, authorization, contentType, body string
		err                                                    error
		status                                                 int
		want                                                   string // of the answer: the whole of 200, a part of others
		asked                                                  string // last
	}{
		{name: "receive", target: inbox + "receive?maxEvents=2&maxWaitTime=10&api-version=2024-06-01", authorization: key, status: 200, asked: "receive 2 of 77 within 10s",
			want: `{"value":[{"brokerProperties":{"lockToken":"t1","deliveryCount":1},"event":{"id":"1"}},{"brokerProperties":{"lockToken":"t2","deliveryCount":4,"dataVersion":"\"2"},"event":{"id":"2"}}]}`},
		{name: "defaults", target: inbox + "receive", authorization: key, status: 200, asked: "receive 1 of 77 within 1m0s", want: "{"},
		{name: "first version", target: inbox + "receive?api-version=2023-11-01", authorization: key, status: 200, want: "{"},
		{name: "later version", target: inbox + "receive?api-version=2025-12-01-preview", authorization: key, status: 200, want: "{"},
		{name: "any case", target: "/Topics/ORDERS/EventSubscriptions/Inbox:Receive?MAXEVENTS=100", authorization: key, status: 200, asked: "receive 100 of 77 within 1m0s", want: "{"},
		{name: "domain", target: "/topics/shops/eventsubscriptions/inbox:receive", authorization: key, status: 200, want: "{"},
		{name: "topic of a domain", target: "/domains/shops/topics/tenant-a/eventsubscriptions/inbox:receive", authorization: key, status: 200, want: "{"},
		{name: "token", target: inbox + "receive", authorization: "bearer " + tokenOfSender, status: 200, want: "{"},
		{name: "workspace", target: "/receive" + workspacePath + "/topics/ml/eventsubscriptions/inbox:receive", authorization: "Bearer " + tokenOfSender, status: 200, want: "{"},
		{name: "system topic", target: "/receive" + systemTopicPath + "/topics/ML-events/eventsubscriptions/inbox:receive", authorization: "Bearer " + tokenOfSender, status: 200, want: "{"},
		{name: "acknowledge", target: inbox + "acknowledge?api-version=2024-06-01", authorization: key, body: `{"lockTokens":["a","lost","a","b\"d"]}`, status: 200, asked: `answer 0 of 77 in 0s: a lost b"d`,
			want: `{"failedLockTokens":[` + lost + `,{"lockToken":"b\"d","error":{"code":"BadToken","message":"The lock token is not formatted as those of this server are."}}],"succeededLockTokens":["a"]}`},
		{name: "release", target: inbox + "release", authorization: key, body: `{"lockTokens":["a"]}`, status: 200, asked: "answer 1 of 77 in 0s: a", want: `{"failedLockTokens":[],"succeededLockTokens":["a"]}`},
		{name: "release later", target: inbox + "release?releaseDelayInSeconds=600", authorization: key, body: `{"lockTokens":["a"]}`, status: 200, asked: "answer 1 of 77 in 10m0s: a", want: "{"},
		{name: "reject", target: inbox + "reject", authorization: key, body: `{"lockTokens":["lost"]}`, status: 200, asked: "answer 2 of 77 in 0s: lost", want: `{"failedLockTokens":[` + lost + `],"succeededLockTokens":[]}`},
		{name: "renew", target: inbox + "renewLock", authorization: key, body: `{"lockTokens":["a"]}`, status: 200, asked: "answer 3 of 77 in 0s: a", want: "{"},
		{name: "publish", target: "/topics/shop:publish?api-version=2024-06-01", authorization: key, contentType: "application/cloudevents+json; charset=utf-8", body: cloudEvent, status: 200, want: `{}`},
		{name: "publish several", target: "/topics/shop:publish", authorization: key, contentType: "application/cloudevents-batch+json", body: "[" + cloudEvent + "," + cloudEvent + "]", status: 200, want: `{}`},

		{name: "no events", target: inbox + "receive?maxEvents=0", authorization: key, status: 400, want: "The value '0' of maxEvents is not a whole number from 1 to 100."},
		{name: "too many events", target: inbox + "receive?maxEvents=101", authorization: key, status: 400, want: "'101' of maxEvents"},
		{name: "no number", target: inbox + "receive?maxEvents=one", authorization: key, status: 400, want: "'one' of maxEvents"},
		{name: "too short", target: inbox + "receive?maxWaitTime=9", authorization: key, status: 400, want: "The value '9' of maxWaitTime is not a whole number from 10 to 120."},
		{name: "too long", target: inbox + "receive?maxWaitTime=121", authorization: key, status: 400, want: "'121' of maxWaitTime"},
		{name: "a sign", target: inbox + "receive?maxEvents=%2B1", authorization: key, status: 400, want: "'+1' of maxEvents"},
		{name: "a zero before", target: inbox + "receive?maxWaitTime=010", authorization: key, status: 400, want: "'010' of maxWaitTime"},
		{name: "no value", target: inbox + "receive?maxEvents=", authorization: key, status: 400, want: "'' of maxEvents"},
		{name: "a semicolon", target: inbox + "receive?maxEvents=1;maxWaitTime=10", authorization: key, status: 400, want: "The query of the request cannot be read"},
		{name: "minus nothing", target: inbox + "release?releaseDelayInSeconds=-0", authorization: key, body: `{"lockTokens":["a"]}`, status: 400, want: "'-0' of releaseDelayInSeconds"},
		{name: "two zeros", target: inbox + "release?releaseDelayInSeconds=00", authorization: key, body: `{"lockTokens":["a"]}`, status: 400, want: "'00' of releaseDelayInSeconds"},
		{name: "tokens twice", target: inbox + "acknowledge", authorization: key, body: `{"lockTokens":["a"],"LockTokens":["b"]}`, status: 400, want: "more than once"},
		{name: "empty version", target: inbox + "receive?api-version=", authorization: key, status: 400, want: "InvalidApiVersion"},
		{name: "old version", target: inbox + "receive?api-version=2018-01-01", authorization: key, status: 400, want: "InvalidApiVersion"},
		{name: "no version", target: inbox + "receive?api-version=latest", authorization: key, status: 400, want: "InvalidApiVersion"},
		{name: "another delay", target: inbox + "release?releaseDelayInSeconds=30", authorization: key, body: `{"lockTokens":["a"]}`, status: 400, want: "is not 0, 10, 60, 600 or 3600"},
		{name: "no delay", target: inbox + "release?releaseDelayInSeconds=-1", authorization: key, body: `{"lockTokens":["a"]}`, status: 400, want: "is not 0, 10, 60, 600 or 3600"},
		{name: "no tokens", target: inbox + "acknowledge", authorization: key, body: `{"lockTokens":[]}`, status: 400, want: "names no lockTokens"},
		{name: "no body", target: inbox + "acknowledge", authorization: key, status: 400, want: "InputJsonInvalid"},
		{name: "not tokens", target: inbox + "acknowledge", authorization: key, body: `{"lockTokens":[1]}`, status: 400, want: "InputJsonInvalid"},
		{name: "too many tokens", target: inbox + "acknowledge", authorization: key, body: `{"lockTokens":["` + strings.Repeat(`a","`, 1000) + `a"]}`, status: 400, want: "1001 lockTokens"},
		{name: "long body", target: inbox + "acknowledge", authorization: key, body: `{"lockTokens":["` + strings.Repeat("a", 300<<10) + `"]}`, status: 413, want: "RequestEntityTooLarge"},
		{name: "another method", method: "GET", target: inbox + "receive", authorization: key, status: 405, want: "MethodNotAllowed"},
		{name: "unknown verb", target: inbox + "peek", authorization: key, status: 404, want: "ResourceNotFound"},
		{name: "unknown topic", target: "/topics/nobody/eventsubscriptions/inbox:receive", authorization: key, status: 404, want: "'nobody' is not found"},
		{name: "unknown event subscription", target: "/topics/orders/eventsubscriptions/outbox:receive", authorization: key, status: 404, want: "There is no event subscription 'outbox'"},
		{name: "misspelt operation", target: "/topics/orders/eventsubscriptions/inbox:acknowlege", authorization: key, status: 404, want: "use receive, acknowledge, release, reject or renewLock"},
		{name: "topic as domain", target: "/domains/orders/topics/x/eventsubscriptions/inbox:receive", authorization: key, status: 404, want: "'orders' is not found"},
		{name: "another path", target: "/queues/x/topics/orders/eventsubscriptions/inbox:receive", authorization: key, status: 404, want: "names no source of events"},
		{name: "topic by its id", target: "/receive" + prefix + "orders/topics/orders/eventsubscriptions/inbox:receive", authorization: key, status: 404, want: "names no source of events"},
		{name: "another name of the workspace", target: "/receive" + workspacePath + "/topics/other/eventsubscriptions/inbox:receive", authorization: "Bearer " + tokenOfSender, status: 404, want: "names no source of events"},
		{name: "key of a workspace", target: "/receive" + workspacePath + "/topics/ml/eventsubscriptions/inbox:receive", authorization: key, status: 401, want: "use Bearer."},
		{name: "another scheme", target: inbox + "receive", authorization: "Basic eDp5", status: 401, want: "use Bearer or SharedAccessKey."},
		{name: "no credential", target: inbox + "receive", status: 401, want: "send 'SharedAccessKey' and one of the topic's access keys"},
		{name: "no credential of a workspace", target: "/receive" + workspacePath + "/topics/ml/eventsubscriptions/inbox:receive", status: 401, want: "EventGrid Data Receiver"},
		{name: "wrong key", target: inbox + "receive", authorization: "SharedAccessKey x", status: 401, want: "What follows SharedAccessKey is not an access key of this topic."},
		{name: "keys off", target: "/topics/keys-off/eventsubscriptions/inbox:receive", authorization: key, status: 401, want: "(disableLocalAuth): receiving takes a bearer token for https://eventgrid.azure.net of a principal with the role EventGrid Data Receiver."},
		{name: "no role", target: inbox + "receive", authorization: "Bearer " + tokenOfReader, status: 403, want: "Forbidden"},
		{name: "signature", target: inbox + "receive", authorization: "SharedAccessSignature " + signed("http://127.0.0.1:7443/topics/orders", "2099-12-31T18:20:15Z", key1), status: 401, want: "Unauthorized"},
		{name: "another network", target: "/topics/inside/eventsubscriptions/inbox:receive", authorization: key, status: 403, want: "takes no events from the address"},
		{name: "it is deleted meanwhile", target: inbox + "receive", authorization: key, err: fault.New(fault.NotFound, "ResourceNotFound", "gone"), status: 404, want: "gone"},
		{name: "publish to an Event Grid topic", target: "/topics/orders:publish", authorization: key, contentType: "application/cloudevents+json", body: cloudEvent, status: 400, want: "takes events of the schema"},
		{name: "publish to a domain", target: "/topics/cloud-shops:publish", authorization: key, contentType: "application/cloudevents+json", body: cloudEvent, status: 400, want: "api/events"},
		{name: "publish without key", target: "/topics/shop:publish", contentType: "application/cloudevents+json", body: cloudEvent, status: 401, want: "no credential"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.err = tt.err
			w.reception = &broker.Reception{Events: []broker.Received{
				{LockToken: "t1", DeliveryCount: 1, Event: []byte(`{"id":"1"}`)}, {LockToken: "t2", DeliveryCount: 4, Event: []byte(`{"id":"2"}`), DataVersion: `"2`},
			}}
			inside := w.topics["inside"]
			inside.From = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			w.topics["inside"] = inside
			method := tt.method
			if method == "" {
				method = "POST"
			}
			r := httptest.NewRequest(method, "http://127.0.0.1:7443"+tt.target, strings.NewReader(tt.body))
			if tt.authorization != "" {
				r.Header.Set("Authorization", tt.authorization)
			}
			if tt.contentType != "" {
				r.Header.Set("Content-Type", tt.contentType)
			}
			rec := httptest.NewRecorder()
			w.handler().ServeHTTP(rec, r)
			got := rec.Body.String()
			if rec.Code != tt.status || rec.Code == 200 && !strings.HasPrefix(got, tt.want) || !strings.Contains(got, tt.want) {
				t.Errorf("answered %d %s, want %d %s", rec.Code, got, tt.status, tt.want)
			}
			if rec.Code == 200 && tt.want != "{" && got != tt.want {
				t.Errorf("answered\n%s, want\n%s", got, tt.want)
			}
			if !json.Valid(rec.Body.Bytes()) || !Serves(r) && tt.name != "another path" {
				t.Errorf("%s, serves %v", got, Serves(r))
			}
			if tt.asked != "" && (len(w.asked) == 0 || w.asked[len(w.asked)-1] != tt.asked) {
				t.Errorf("asked %q, want %q", w.asked, tt.asked)
			}
		})
	}
}

// goneWriter is the answer to a receiver that goes away before it is written, or once it
// has read all of it.
type goneWriter struct {
	*httptest.ResponseRecorder
	goes context.CancelFunc
	err  error // of writing
}

func (w *goneWriter) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	return w.ResponseRecorder.Write(b)
}

func (w *goneWriter) FlushError() error {
	w.goes()
	return nil
}

// Events go back to the queue when it is known that the receiver has not read them, not
// when it went away after it could: it may have acted on them, and answers.
func TestReceiverGoesAway(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first bool // before anything is written
		err   error
		back  bool
	}{
		{name: "before the answer", first: true, back: true},
		{name: "amid the answer", err: net.ErrClosed, back: true},
		{name: "after the answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.reception = &broker.Reception{Events: []broker.Received{{LockToken: "t1", DeliveryCount: 1, Event: []byte(`{"id":"1"}`)}}}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.first {
				cancel()
			}
			answer := &goneWriter{httptest.NewRecorder(), cancel, tt.err}
			r := httptest.NewRequest("POST", "http://127.0.0.1:7443/topics/orders/eventsubscriptions/inbox:receive", nil).WithContext(ctx)
			r.Header.Set("Authorization", "SharedAccessKey "+key1)
			w.handler().ServeHTTP(answer, r)
			if back := w.reception.Events == nil; back != tt.back {
				t.Errorf("taken back: %v, want %v", back, tt.back)
			}
			if wrote := answer.Body.Len() > 0; wrote == tt.back {
				t.Errorf("written: %v", wrote)
			}
		})
	}
}

// FuzzOperation reads paths as anybody may send them, and what it reads is what a client
// would have written.
func FuzzOperation(f *testing.F) {
	f.Add("/topics/orders/eventsubscriptions/inbox:receive")
	f.Add("/domains/d/topics/x/eventsubscriptions/inbox:renewLock")
	f.Add("/receive" + workspacePath + "/topics/ml/eventsubscriptions/i:release")
	f.Add("/topics/shop:publish")
	f.Add("/topics//eventsubscriptions/:receive")
	f.Fuzz(func(t *testing.T, path string) {
		op, ok := operationOf(path)
		if !ok {
			return
		}
		written := op.path + "/topics/" + op.topic
		if op.eventSubscription != "" {
			written += "/eventsubscriptions/" + op.eventSubscription
		}
		if written += ":" + op.verb; !strings.EqualFold(written, path) || op.topic == "" || strings.Contains(op.topic+op.eventSubscription, "/") {
			t.Errorf("%q is read as %+v", path, op)
		}
		if source, ok := resource.ReceivedAt(op.path, op.topic); ok {
			if path, topic := resource.ReceiveAddress(source); !strings.EqualFold(topic, op.topic) || resource.MustID(strings.TrimPrefix(path, resource.ReceiveRoot)).Key() != source.Key() {
				t.Errorf("%q is the source %s, which is at %s", op.path, source, path)
			}
		}
	})
}

// FuzzLockTokens reads bodies as anybody may send them.
func FuzzLockTokens(f *testing.F) {
	f.Add([]byte(`{"lockTokens":["a","b","a"]}`))
	f.Add([]byte(`{"lockTokens":[null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tokens, err := lockTokens(raw)
		if err != nil {
			return
		}
		if len(tokens) == 0 || len(tokens) > maxTokens {
			t.Errorf("%d tokens", len(tokens))
		}
		if slices.Sort(tokens); len(slices.Compact(slices.Clone(tokens))) != len(tokens) {
			t.Errorf("tokens %q", tokens)
		}
	})
}
