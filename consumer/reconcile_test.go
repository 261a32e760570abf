package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/mlevent"
)

const bells = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab/providers/Microsoft.MachineLearningServices/workspaces/bells"

// fakeServer answers requests below the workspace by path and query, without the api-version,
// and remembers what it was asked.
type fakeServer struct {
	*httptest.Server
	answers map[string]string // "" is 404; a number is a status
	etags   map[string]string
	asked   []string
}

func newFakeServer(t *testing.T) (*fakeServer, *consumer.Workspace) {
	s := &fakeServer{answers: map[string]string{}, etags: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		query.Del("api-version")
		what := strings.TrimPrefix(r.URL.EscapedPath(), bells+"/")
		if text := query.Encode(); text != "" {
			what += "?" + text
		}
		s.asked = append(s.asked, what)
		switch answer := s.answers[what]; {
		case r.Header.Get("Authorization") != "Bearer token" || r.URL.Query().Get("api-version") == "":
			w.WriteHeader(http.StatusUnauthorized)
		case s.etags[what] != "":
			w.Header().Set("ETag", s.etags[what])
		case answer == "":
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":{"code":"ResourceNotFound","message":"It was not found."}}`)
		case answer == "503":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			fmt.Fprint(w, answer)
		}
	}))
	t.Cleanup(s.Close)
	return s, &consumer.Workspace{Server: s.URL + "/", ID: bells, Client: s.Client(), Token: func(context.Context) (string, error) { return "token", nil }}
}

// told is a happening as the server tells it; its etag is its number, and so is its id.
func told(n int, object string) string {
	return fmt.Sprintf(`{"object":%q,"raised":true,"event":{"topic":%q,"id":"%d","eventType":"Contoso.Thing","subject":%q,"data":{"etag":"%032x","sequencer":"%032x"}}}`, object, bells, n, object, n, n)
}

func happenings(next string, place int, list ...string) string {
	return fmt.Sprintf(`{"value":[%s],"place":"%032x","nextLink":%q}`, strings.Join(list, ","), place, next)
}

// A catch-up goes page by page, and wherever it is cut short, the place that it returned
// leads on without leaving anything out. What is told of one object has one place.
func TestCatchUpGoesOn(t *testing.T) {
	s, ws := newFakeServer(t)
	at := func(n int) string { return fmt.Sprintf("%032x", n) }
	s.answers["lifecycleEvents?since=2026-03-02T12%3A00%3A00Z"] = happenings("more", 3, told(1, "a"), told(2, "b"), told(3, "b"))
	const since = "since=2026-03-02T12%3A00%3A00Z"
	s.answers["lifecycleEvents?after="+at(3)+"&"+since] = happenings("more", 40) // empty, and more follow
	s.answers["lifecycleEvents?after="+at(40)+"&"+since] = happenings("", 60, told(50, "c"))
	s.answers["lifecycleEvents?after="+at(50)+"&"+since] = happenings("", 60)
	s.answers["lifecycleEvents?after="+at(1)+"&"+since] = happenings("more", 3, told(2, "b"), told(3, "b"))
	s.answers["lifecycleEvents?since="+at(60)] = happenings("", 60)
	from := consumer.Since(time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC))
	var whole []string
	for h, err := range ws.Happenings(t.Context(), from) {
		if err != nil {
			t.Fatal(err)
		}
		whole = append(whole, h.Object)
	}
	if fmt.Sprint(whole) != "[a b b c]" {
		t.Errorf("listed %v", whole)
	}
	for cut := 1; cut <= 5; cut++ { // the handler fails at this event, and then no more
		var handled []string
		n := 0
		h, err := consumer.New(consumer.Topics(bells), consumer.OnType("Contoso.Thing", func(_ context.Context, e consumer.Event[json.RawMessage]) error {
			if n++; n == cut {
				return errors.New("down")
			}
			handled = append(handled, e.ID)
			return nil
		}, consumer.WithStale()))
		if err != nil {
			t.Fatal(err)
		}
		place, err := ws.CatchUp(t.Context(), h, from, nil)
		if (err == nil) != (cut == 5) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		for range 2 { // the second time there is nothing left
			if place, err = ws.CatchUp(t.Context(), h, place, nil); err != nil {
				t.Fatalf("cut at %d, going on: %v", cut, err)
			}
		}
		if fmt.Sprint(handled) != "[1 2 3 50]" || string(place) != at(60) {
			t.Errorf("cut at %d: handled %v, place %s", cut, handled, place)
		}
	}
}

// An event that was never delivered is handled, also where another one of its change was and the
// object has changed since; one of a change before that is not.
func TestCatchUpOneChange(t *testing.T) {
	source := consumertest.NewSource(bells)
	before := source.Event(mlevent.RunStatusChanged{RunCompleted: run("r1"), RunStatus: mlevent.RunRunning})
	both := source.Change(mlevent.RunStatusChanged{RunCompleted: run("r1"), RunStatus: mlevent.RunFinished}, run("r1"))
	for _, c := range []struct {
		name      string
		delivered []consumertest.Event
		listed    []consumertest.Event
		late      []consumertest.Event
		want      string
	}{
		{"one was delivered", both[1:], both, both, "RunCompleted r1, RunStatusChanged Completed"},
		{"the other one was", both[:1], both, both, "RunStatusChanged Completed, RunCompleted r1"},
		{"none was, and one comes late", nil, both[1:], both, "RunCompleted r1, RunStatusChanged Completed"},
		{"a state before", both[1:], []consumertest.Event{before}, nil, "RunCompleted r1"},
	} {
		s, ws := newFakeServer(t)
		saw := &seen{}
		h := newHandler(t, consumer.Topics(bells), consumer.On(saw.completed), consumer.On(func(_ context.Context, e consumer.Event[mlevent.RunStatusChanged]) error {
			return saw.add(e.Envelope, string(e.Data.RunStatus))
		}))
		send(t, &consumertest.Sender{Handler: h}, c.delivered...)
		var list []string
		for _, e := range c.listed {
			raw := string(e.JSON(event.EventGridSchema))
			_, tail, _ := strings.Cut(raw, `"etag":"`)
			change := tail[:32]
			tagged := strings.Replace(raw, `"etag":"`+change, `"etag":"`+strings.Repeat("9", 32), 1)
			list = append(list, fmt.Sprintf(`{"object":"o","raised":true,"change":%q,"event":%s}`, change, tagged))
		}
		s.answers["lifecycleEvents"] = happenings("", 60, list...)
		if _, err := ws.CatchUp(t.Context(), h, "", nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		send(t, &consumertest.Sender{Handler: h}, c.late...)
		if got := saw.take(); got != c.want {
			t.Errorf("%s: handled %s, want %s", c.name, got, c.want)
		}
	}
}

// What can never be handled does not hold up the rest; what the server says is an error of
// its own type.
func TestCatchUpPassesOver(t *testing.T) {
	s, ws := newFakeServer(t)
	s.answers["lifecycleEvents"] = happenings("more", 2, told(1, "a"), told(2, "b"))
	s.answers["lifecycleEvents?after="+fmt.Sprintf("%032x", 2)] = "503"
	h, err := consumer.New(consumer.Topics(bells), consumer.OnType("Contoso.Thing", func(_ context.Context, e consumer.Event[json.RawMessage]) error {
		if e.ID == "1" {
			return consumer.DeadLetter(nil)
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	var progress []consumer.Progress
	place, err := ws.CatchUp(t.Context(), h, "", func(p consumer.Progress) { progress = append(progress, p) })
	f, ok := errors.AsType[*consumer.ServerError](err)
	if !ok || f.Status != 503 || f.RetryAfter != 7*time.Second || len(progress) != 2 || progress[1].GivenUp != 1 || progress[1].Place != place {
		t.Errorf("%v at %s after %+v", err, place, progress)
	}
}

// The object of an event is looked for where its path may be: under the name of its
// experiment, its id, and the id that a GUID stands for.
func TestFreshLooksForObjects(t *testing.T) {
	guid := mlevent.ExperimentGUID(bells, "17")
	for _, tt := range []struct {
		name, subject, data, at string
		asked                   []string
	}{
		{"version", "models/a b:7", `{}`, "models/a%20b/versions/7", []string{"models/a%20b/versions/7"}},
		{"endpoint of a cluster", "endpoints/ns/svc", `{}`, "onlineEndpoints/ns.svc", []string{"onlineEndpoints/ns.svc"}},
		{"drift run", "datadrift/d/run/d_1", `{"DataDriftName":"orders","RunId":"d_1"}`, "driftMonitors/orders/runs/d_1", []string{"driftMonitors/orders/runs/d_1"}},
		{"run", "experiments/x/runs/r", `{"experimentId":"x","experimentName":"churn","runId":"r"}`, "experiments/churn/runs/r", []string{"experiments/churn/runs/r"}},
		{"run of another system", "experiments/0/runs/r", `{"experimentId":"0","experimentName":"Default","runId":"r"}`, "experiments/0/runs/r", []string{"experiments/Default/runs/r", "experiments/0/runs/r"}},
		{"run of another system with a GUID", "experiments/" + guid + "/runs/r", `{"experimentId":"` + guid + `","experimentName":"a/b","runId":"r"}`, "experiments/17/runs/r",
			[]string{"experiments", "experiments?%24skipToken=t", "experiments/17/runs/r"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, ws := newFakeServer(t)
			s.answers["experiments"] = `{"value":[{"name":"churn"}],"nextLink":"http://elsewhere/x?$skipToken=t"}`
			s.answers["experiments?%24skipToken=t"] = `{"value":[{"name":"17"}]}`
			s.etags[tt.at] = `W/"e1"`
			data := strings.TrimSuffix(tt.data, "}")
			if data != "{" {
				data += ","
			}
			e := consumer.Envelope{ID: "1", Source: bells, Type: "any", Subject: tt.subject, ETag: "e1", Raw: json.RawMessage(`{"data":` + data + `"etag":"e1"}}`)}
			if fresh, err := ws.Fresh(t.Context(), e); !fresh || err != nil || !slices.Equal(s.asked, tt.asked) {
				t.Errorf("%v, %v after %q, want %q", fresh, err, s.asked, tt.asked)
			}
			e.ETag = "e0"
			if fresh, err := ws.Fresh(t.Context(), e); fresh || err != nil {
				t.Errorf("an older state: %v, %v", fresh, err)
			}
			delete(s.etags, tt.at)
			if fresh, err := ws.Fresh(t.Context(), e); fresh || !errors.Is(err, consumer.ErrGone) {
				t.Errorf("deleted: %v, %v", fresh, err)
			}
			s.answers[tt.at] = "503"
			if _, err := ws.Fresh(t.Context(), e); err == nil || errors.Is(err, consumer.ErrGone) {
				t.Errorf("unavailable: %v", err)
			}
		})
	}
}

// A token is kept until shortly before it ends.
func TestClientCredentials(t *testing.T) {
	var lasts atomic.Int64
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_secret") != "hunter2" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") == "" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client","error_description":"The password is wrong."}`)
			return
		}
		asked++
		fmt.Fprintf(w, `{"access_token":"token %d","expires_in":"%d"}`, asked, lasts.Load())
	}))
	defer s.Close()
	for _, tt := range []struct{ lasts, want int64 }{{3600, 1}, {0, 2}} {
		lasts.Store(tt.lasts)
		asked = 0
		token := consumer.ClientCredentials{TokenURL: s.URL, ClientID: "a", Secret: "hunter2", Client: s.Client()}.Source()
		for i := range 2 {
			if got, err := token(t.Context()); err != nil || got == "" {
				t.Fatalf("%d: %q, %v", i, got, err)
			}
		}
		if int64(asked) != tt.want {
			t.Errorf("of a token of %d s %d were asked for, want %d", tt.lasts, asked, tt.want)
		}
	}
	_, err := consumer.ClientCredentials{TokenURL: s.URL, ClientID: "a", Secret: "secret", Client: s.Client()}.Source()(t.Context())
	if f, ok := errors.AsType[*consumer.ServerError](err); !ok || f.Code != "invalid_client" || strings.Contains(err.Error(), "secret") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// Nobody waits longer for a token than he has time, also while another one asks for it.
func TestClientCredentialsWait(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		fmt.Fprint(w, `{"access_token":"token","expires_in":"3600"}`)
	}))
	defer s.Close()
	token := consumer.ClientCredentials{TokenURL: s.URL, ClientID: "a", Secret: "b", Client: s.Client()}.Source()
	first := make(chan error, 1)
	go func() {
		_, err := token(context.Background())
		first <- err
	}()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := token(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
