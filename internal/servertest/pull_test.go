package servertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/arm"
)

// queue is an event subscription whose events are received, as its receivers know it.
type queue struct {
	s             *Server
	address       string // behind scheme, host and port
	authorization string
}

// Pull makes an event subscription whose events are received. more is merged into its
// properties.
func (s *Server) pull(t *testing.T, source, authorization string, more map[string]any) queue {
	t.Helper()
	properties := map[string]any{"destination": map[string]any{"endpointType": "Pull", "properties": map[string]any{}}}
	for k, v := range more {
		properties[k] = v
	}
	var shown struct {
		Properties struct {
			Receive struct{ Endpoint, Topic string }
		}
	}
	s.Must("PUT", source+"/providers/Microsoft.EventGrid/eventSubscriptions/inbox", map[string]any{"properties": properties}, &shown)
	r := shown.Properties.Receive
	path, ours := strings.CutPrefix(r.Endpoint, s.URL)
	if !ours || r.Topic == "" {
		t.Fatalf("events are received at %+v, the server is %s", r, s.URL)
	}
	return queue{s, path + "/topics/" + r.Topic + "/eventsubscriptions/inbox:", authorization}
}

// do makes a request of a receiver.
func (q *queue) do(ctx context.Context, verb string, body, out any) error {
	raw := []byte{}
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	verb, query, _ := strings.Cut(verb, "?")
	r, err := http.NewRequestWithContext(ctx, "POST", q.s.HTTP()+q.address+verb+"?api-version=2024-06-01&"+query, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", q.authorization)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", verb, resp.Status, answer)
	}
	return json.Unmarshal(answer, out)
}

type receivedEvents struct {
	Value []struct {
		BrokerProperties struct {
			LockToken     string
			DeliveryCount int
		}
		Event struct {
			SpecVersion, ID, Type, Source, Subject string
			Data                                   json.RawMessage
		}
	}
}

func (r *receivedEvents) tokens() (tokens []string) {
	for _, v := range r.Value {
		tokens = append(tokens, v.BrokerProperties.LockToken)
	}
	return tokens
}

type answeredTokens struct {
	FailedLockTokens []struct {
		LockToken string
		Error     struct{ Code string }
	}
	SucceededLockTokens []string
}

func (s *Server) keyOf(id string) string {
	var keys struct{ Key1 string }
	s.Must("POST", id+"/listKeys", nil, &keys)
	return "SharedAccessKey " + keys.Key1
}

// status is how an event subscription stands.
func (s *Server) status(id string) (st struct{ Receivers, OpenDeliveries int }) {
	body := struct{ Properties any }{&st}
	s.Must("GET", id+arm.DeliveryStatusPath+"/default", nil, &body)
	return st
}

// TestPull has events of each kind of source received, with what opens it.
func TestPull(t *testing.T) {
	s := New(t)
	topic, publish := s.Topic("orders")
	domain, publishDomain := s.Domain("shops", nil)
	worker := s.newPrincipal(t, "worker")
	token := func() string { return "Bearer " + s.tokenOf(t, worker, access.AudiencePublish+"/.default") }
	onTopic := s.pull(t, topic, s.keyOf(topic), nil)
	onDomain := s.pull(t, domain, s.keyOf(domain), nil)
	onTenant := s.pull(t, domain+"/topics/tenant-a", s.keyOf(domain), nil)
	onWorkspace := s.pull(t, Workspace, token(), nil)
	systemTopic := Group + "/providers/Microsoft.EventGrid/systemTopics/ml-events"
	s.Must("PUT", systemTopic, map[string]any{"location": "local", "properties": map[string]any{"source": Workspace, "topicType": "Microsoft.MachineLearningServices.Workspaces"}}, nil)
	onSystemTopic := s.pull(t, systemTopic, token(), nil)

	if err := publish(eventBody(0, 2)); err != nil {
		t.Fatal(err)
	}
	if err := publishDomain(strings.ReplaceAll(eventBody(2, 1), `"subject"`, `"topic":"tenant-a","subject"`)); err != nil {
		t.Fatal(err)
	}
	s.Must("PUT", Workspace+"/experiments/churn/runs/r1", map[string]any{"properties": map[string]any{"status": "Completed"}}, nil)

	var got receivedEvents
	for len(got.Value) < 2 {
		var more receivedEvents
		if err := onTopic.do(t.Context(), "receive?maxEvents=2&maxWaitTime=60", nil, &more); err != nil || len(more.Value) == 0 {
			t.Fatalf("received %+v, %v", more, err)
		}
		got.Value = append(got.Value, more.Value...)
	}
	for i, v := range got.Value {
		if v.Event.ID != strconv.Itoa(i) || v.Event.SpecVersion != "1.0" || !strings.EqualFold(v.Event.Source, topic) || v.BrokerProperties.DeliveryCount != 1 {
			t.Errorf("received %+v", v)
		}
	}
	var answer answeredTokens
	if err := onTopic.do(t.Context(), "acknowledge", map[string]any{"lockTokens": append(got.tokens(), "nonsense")}, &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.SucceededLockTokens) != 2 || len(answer.FailedLockTokens) != 1 || answer.FailedLockTokens[0].Error.Code != "BadToken" {
		t.Errorf("%+v", answer)
	}
	for name, q := range map[string]*queue{"domain": &onDomain, "topic of the domain": &onTenant} {
		var got receivedEvents
		if err := q.do(t.Context(), "receive?maxWaitTime=60", nil, &got); err != nil || len(got.Value) != 1 || got.Value[0].Event.ID != "2" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}

	for _, q := range []*queue{&onWorkspace, &onSystemTopic} {
		if err := q.do(t.Context(), "receive", nil, &got); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("without a role: %v", err)
		}
	}
	grant := func(role string) {
		s.Must("PUT", Group+"/providers/Microsoft.Authorization/roleAssignments/"+uuid.NewString(), map[string]any{"properties": map[string]any{
			"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/" + role, "principalId": worker.ObjectID,
		}}, nil)
	}
	grant("78cbd9e7-9798-4e2e-9b5a-547d9ebb31fb") // EventGrid Data Receiver
	if err := onWorkspace.do(t.Context(), "receive", nil, &got); err == nil || !strings.Contains(err.Error(), "workspaces/write") {
		t.Errorf("without write permission on the workspace: %v", err)
	}
	grant(access.RoleContributor)
	for _, q := range []*queue{&onWorkspace, &onSystemTopic} {
		var got receivedEvents
		if err := q.do(t.Context(), "receive?maxWaitTime=60", nil, &got); err != nil || len(got.Value) != 1 || got.Value[0].Event.Type != "Microsoft.MachineLearningServices.RunCompleted" {
			t.Errorf("%s: %+v, %v", q.address, got, err)
		}
	}

	waits := make(chan error, 1) // a server that stops answers who waits
	go func() {
		var got receivedEvents
		err := onTopic.do(t.Context(), "receive?maxWaitTime=120", nil, &got)
		if err == nil && len(got.Value) != 0 {
			err = fmt.Errorf("received %+v", got)
		}
		waits <- err
	}()
	eventually(t, "somebody waits", func() bool {
		return s.status(topic+"/providers/Microsoft.EventGrid/eventSubscriptions/inbox").Receivers == 1
	})
	s.Stop()
	if err := <-waits; err != nil {
		t.Errorf("when the server stopped: %v", err)
	}
}

// TestKillPull kills the server with kill -9 in the midst of receiving. No acknowledged
// publication is lost, and what was acknowledged by its receiver never comes again.
func TestKillPull(t *testing.T) {
	s := New(t)
	topic, publish := s.Topic("load")
	q := s.pull(t, topic, s.keyOf(topic), nil)
	var mu sync.Mutex
	published, done, held := map[string]bool{}, map[string]bool{}, map[string]int{}
	var next, rounds atomic.Int64
	kill := make(chan struct{}, 64)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				from := int(next.Add(10)) - 10
				if publish(eventBody(from, 10)) == nil {
					mu.Lock()
					for i := range 10 {
						published[strconv.Itoa(from+i)] = true
					}
					mu.Unlock()
				}
			}
		})
	}
	receiver := func(ctx context.Context) {
		for ctx.Err() == nil {
			var got receivedEvents
			round := int(rounds.Load())
			if q.do(ctx, "receive?maxEvents=20&maxWaitTime=120", nil, &got) != nil {
				continue // it is being killed
			}
			if round != int(rounds.Load()) { // one process or the next gave them
				round = -1
			}
			mu.Lock()
			for _, v := range got.Value {
				id := v.Event.ID
				if done[id] {
					t.Errorf("event %s came again, though its acknowledgement was answered", id)
				}
				if at, has := held[id]; has && at == round && round >= 0 && v.BrokerProperties.DeliveryCount == 1 {
					t.Errorf("event %s was received twice by round %d", id, round)
				}
				held[id] = round
			}
			mu.Unlock()
			var answer answeredTokens
			if len(got.Value) == 0 || q.do(ctx, "acknowledge", map[string]any{"lockTokens": got.tokens()}, &answer) != nil {
				continue
			}
			ok := map[string]bool{}
			for _, token := range answer.SucceededLockTokens {
				ok[token] = true
			}
			n := 0
			mu.Lock()
			for _, v := range got.Value {
				if ok[v.BrokerProperties.LockToken] {
					done[v.Event.ID] = true
					n++
				}
			}
			mu.Unlock()
			select {
			case kill <- struct{}{}:
			default:
			}
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	var receivers sync.WaitGroup
	for range 4 {
		receivers.Go(func() { receiver(ctx) })
	}
	for range 4 {
		for range 3 { // in the midst of receiving
			<-kill
		}
		s.Kill()
		rounds.Add(1)
		s.Restart()
	}
	close(stop)
	all.Wait()
	// What was received and whose answer got lost may be done, though nobody heard it.
	eventually(t, "everything is answered", func() bool {
		st := s.status(topic + "/providers/Microsoft.EventGrid/eventSubscriptions/inbox")
		mu.Lock()
		defer mu.Unlock()
		for id := range published {
			if _, got := held[id]; !got {
				return false
			}
		}
		return st.OpenDeliveries == 0
	})
	leave()
	receivers.Wait()
	lost, unheard := 0, 0
	mu.Lock()
	for id := range published {
		if _, got := held[id]; !got {
			lost++
		}
		if !done[id] {
			unheard++
		}
	}
	t.Logf("%d events published, %d acknowledged, %d whose acknowledgement was not answered, %d lost", len(published), len(done), unheard, lost)
	mu.Unlock()
	if lost > 0 {
		t.Errorf("%d events are lost", lost)
	}
	s.Stop()
}
