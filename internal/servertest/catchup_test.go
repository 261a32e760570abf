package servertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/mlevent"
)

// ledger is what a handler handled.
type ledger struct {
	mu   sync.Mutex
	done map[string]int
	more chan struct{}
	fail string // subject that cannot be handled now
}

func (l *ledger) add(what, subject string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != "" && strings.HasSuffix(subject, l.fail) {
		return errors.New("what it needs is down")
	}
	l.done[what]++
	close(l.more)
	l.more = make(chan struct{})
	return nil
}

func (l *ledger) all() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for what, times := range l.done {
		list = append(list, fmt.Sprintf("%s ×%d", what, times))
	}
	slices.Sort(list)
	return list
}

// TestCatchUp has a handler be down while things happen. It learns all of it at its next
// start, of what raises nothing, too, and handles each once, though the deliveries come as
// well. What came to pass later is known by the place alone.
func TestCatchUp(t *testing.T) {
	s := New(t)
	ws := workspaceOf(s)
	l := &ledger{done: map[string]int{}, more: make(chan struct{})}
	h, err := consumer.New(consumer.Topics(ws.ID),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunCompleted]) error {
			return l.add("completed "+e.Data.RunID, e.Subject)
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			return l.add(string(e.Data.RunStatus)+" "+e.Data.RunID, e.Subject)
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.ModelRegistered]) error {
			return l.add("registered "+e.Data.ModelName+":"+e.Data.ModelVersion, e.Subject)
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.ModelDeployed]) error {
			return l.add("deployed "+e.Data.ServiceName, e.Subject)
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.DeploymentFailed]) error {
			return l.add("not deployed "+e.Data.ServiceName, e.Subject)
		}),
		consumer.On(func(_ context.Context, e consumer.Event[mlevent.DatasetDriftDetected]) error {
			return l.add("drift of "+e.Data.DataDriftName, e.Subject)
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	var down atomic.Bool
	refused := make(chan *http.Request, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !down.Load() {
			h.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		again := r.Clone(context.WithoutCancel(r.Context()))
		again.Body = io.NopCloser(bytes.NewReader(body))
		refused <- again
		http.Error(w, "down", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	s.Subscribe(ws.ID, "all", server.URL, nil)
	put := func(path string, properties map[string]any) {
		t.Helper()
		s.Must("PUT", ws.ID+"/"+path, map[string]any{"properties": properties}, nil)
	}
	run := func(id, status string) { t.Helper(); put("experiments/e/runs/"+id, map[string]any{"status": status}) }
	run("before", "Completed")
	for len(l.all()) == 0 { // its delivery
		l.mu.Lock()
		more := l.more
		l.mu.Unlock()
		if len(l.all()) == 0 {
			<-more
		}
	}
	place, err := ws.CatchUp(t.Context(), h, "", nil)
	if err != nil {
		t.Fatal(err)
	}

	down.Store(true)
	run("good", "Completed")
	run("bad", "Failed")
	run("stopped", "Canceled")
	run("open", "Running")
	s.Must("POST", ws.ID+"/models/churn/versions", nil, nil)
	for _, state := range []string{"Transitioning", "Healthy"} {
		put("onlineEndpoints/up", map[string]any{"modelIds": "churn:1", "state": state})
	}
	for _, state := range []string{"Transitioning", "Failed"} {
		put("onlineEndpoints/lost", map[string]any{"modelIds": "churn:1", "state": state})
	}
	put("driftMonitors/orders", map[string]any{"baseline": map[string]any{"datasetId": "a"}, "target": map[string]any{"datasetId": "b"}})
	s.Must("POST", ws.ID+"/driftMonitors/orders/runs", map[string]any{"properties": map[string]any{"startTime": "2026-03-02T00:00:00Z", "endTime": "2026-03-09T00:00:00Z", "driftCoefficient": 0.5}}, nil)
	put("experiments/e/runs/good", map[string]any{"tags": map[string]any{"late": "yes"}}) // raises nothing
	late := []*http.Request{<-refused}
	s.Kill()
	s.Restart()
	ws = workspaceOf(s)
	down.Store(false)

	l.mu.Lock()
	l.fail = "/stopped"
	l.mu.Unlock()
	halfway, err := ws.CatchUp(t.Context(), h, place, nil)
	if err == nil || halfway == place || !strings.Contains(err.Error(), "what it needs is down") {
		t.Fatalf("catch up to what cannot be handled: %v, from %s to %s", err, place, halfway)
	}
	l.mu.Lock()
	l.fail = ""
	l.mu.Unlock()
	var seen consumer.Progress
	end, err := ws.CatchUp(t.Context(), h, halfway, func(p consumer.Progress) { seen = p })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Canceled stopped ×1", "Failed bad ×1", "completed before ×1", "completed good ×1", "deployed up ×1", "drift of orders ×1", "not deployed lost ×1", "registered churn:1 ×1",
	}
	of := func(list []string) []string { // the run of the drift run has a name of its own
		return slices.DeleteFunc(list, func(s string) bool { return strings.HasPrefix(s, "completed ") && !slices.Contains(want, s) })
	}
	if got := of(l.all()); !slices.Equal(got, want) || seen.Seen == 0 || seen.GivenUp != 0 {
		t.Errorf("handled %q after %+v, want %q", got, seen, want)
	}
	again, err := ws.CatchUp(t.Context(), h, end, func(p consumer.Progress) { t.Errorf("told again: %+v", p) })
	if err != nil || again < end {
		t.Errorf("nothing new: %v, place %s after %s", err, again, end)
	}
	// The deliveries that were refused come again, and are dropped.
	for more := true; more; {
		select {
		case r := <-refused:
			late = append(late, r)
		default:
			more = false
		}
	}
	for _, r := range late {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK {
			t.Errorf("a late delivery is answered %d", w.Code)
		}
	}
	run("last", "Completed")
	wait := func(what string) {
		t.Helper()
		for !slices.Contains(l.all(), what) {
			l.mu.Lock()
			more := l.more
			l.mu.Unlock()
			if !slices.Contains(l.all(), what) {
				<-more
			}
		}
	}
	wait("completed last ×1")
	want = append(want, "completed last ×1")
	slices.Sort(want)
	if got := of(l.all()); !slices.Equal(got, want) {
		t.Errorf("handled %q with the deliveries, want %q", got, want)
	}
}

// workspaceOf is the workspace of a first start, for its owner.
func workspaceOf(s *Server) *consumer.Workspace {
	return &consumer.Workspace{Server: s.URL, ID: Workspace, Client: s.Client.HTTP, Token: func(context.Context) (string, error) { return s.Client.Token, nil }}
}

// TestFresh asks whether events still tell how their objects are, as a principal that may
// read.
func TestFresh(t *testing.T) {
	s := New(t)
	ws := workspaceOf(s)
	watcher := s.newPrincipal(t, "watcher")
	s.Must("PUT", ws.ID+"/providers/Microsoft.Authorization/roleAssignments/"+uuid.NewString(), map[string]any{"properties": map[string]any{
		"roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7", "principalId": watcher.ObjectID, // Reader
	}}, nil)
	issuer := s.URL + "/" + watcher.Tenant + "/oauth2/v2.0/token"
	ws.Token = consumer.ClientCredentials{TokenURL: issuer, ClientID: watcher.AppID, Secret: watcher.Password, Client: s.Client.HTTP}.Source()
	r := NewReceiver(t)
	s.Must("PATCH", ws.ID, map[string]any{"properties": map[string]any{"extraEvents": []string{"ModelDeleted"}}}, nil)
	s.Subscribe(ws.ID, "all", r.URL, map[string]any{"filter": map[string]any{"includedEventTypes": append(mlevent.Types(), mlevent.ModelDeletedType)}})
	s.Must("PUT", ws.ID+"/experiments/e/runs/r", map[string]any{"properties": map[string]any{"status": "Completed"}}, nil)
	s.Must("POST", ws.ID+"/models/churn/versions", nil, nil)
	for _, state := range []string{"Transitioning", "Healthy"} {
		s.Must("PUT", ws.ID+"/onlineEndpoints/up", map[string]any{"properties": map[string]any{"modelIds": "churn:1", "state": state}}, nil)
	}
	s.Must("PUT", ws.ID+"/driftMonitors/orders", map[string]any{"properties": map[string]any{"baseline": map[string]any{"datasetId": "a"}, "target": map[string]any{"datasetId": "b"}}}, nil)
	s.Must("POST", ws.ID+"/driftMonitors/orders/runs", map[string]any{"properties": map[string]any{"startTime": "2026-03-02T00:00:00Z", "endTime": "2026-03-09T00:00:00Z", "driftCoefficient": 0.5}}, nil)
	raised := func(n int) map[string]consumer.Envelope {
		t.Helper()
		r.Wait(t, patience, func(e []Received) bool { return len(e) >= n })
		all := map[string]consumer.Envelope{}
		take, err := consumer.New(consumer.Topics("*"), consumer.OnOther(func(_ context.Context, e consumer.Event[json.RawMessage]) error {
			all[e.Type[strings.LastIndexByte(e.Type, '.')+1:]] = e.Envelope
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events() {
			raw, err := json.Marshal(e)
			if err == nil {
				err = take.Handle(t.Context(), raw)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	events := raised(5) // the drift run is a run as well
	check := func(name string, want bool, wantErr error) {
		t.Helper()
		if fresh, err := ws.Fresh(t.Context(), events[name]); fresh != want || !errors.Is(err, wantErr) {
			t.Errorf("%s is fresh: %v, %v; want %v, %v", name, fresh, err, want, wantErr)
		}
	}
	for _, name := range []string{"RunCompleted", "ModelRegistered", "ModelDeployed", "DatasetDriftDetected"} {
		check(name, true, nil)
	}
	s.Must("PATCH", ws.ID+"/onlineEndpoints/up", map[string]any{"properties": map[string]any{"tags": map[string]any{"a": "b"}}}, nil)
	check("ModelDeployed", false, nil)
	s.Must("DELETE", ws.ID+"/models/churn/versions/1", nil, nil)
	check("ModelRegistered", false, consumer.ErrGone)
	events = raised(6)
	check("ModelDeleted", true, nil)

	foreign := events["RunCompleted"]
	foreign.Source = "/subscriptions/other"
	events["foreign"] = foreign
	check("foreign", false, consumer.ErrNoState)
	ws.Token = consumer.ClientCredentials{TokenURL: issuer, ClientID: watcher.AppID, Secret: "wrong", Client: s.Client.HTTP}.Source()
	_, err := ws.Fresh(t.Context(), events["ModelDeployed"])
	if f, ok := errors.AsType[*consumer.ServerError](err); !ok || f.Status != http.StatusUnauthorized && f.Status != http.StatusBadRequest || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v", err)
	}
}
