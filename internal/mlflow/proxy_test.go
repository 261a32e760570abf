package mlflow

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
)

// proxied is a proxy before what a bridge has. Rounds are an hour apart: what is seen at
// once, the proxy saw.
type proxied struct {
	*bridge
	proxy   *Proxy
	service *Service
	file    string
}

func newProxied(t *testing.T, change ...func(*resource.MLflowServer)) *proxied {
	t.Helper()
	b := newBridge(t, append(change, func(m *resource.MLflowServer) { m.Interval = 3600 })...)
	p := &proxied{bridge: b, file: filepath.Join(t.TempDir(), "intents")}
	p.service, _ = b.following(t, nil)
	b.attach(t, 0)
	p.stand(t, b.fake)
	synctest.Wait()
	time.Sleep(10 * time.Minute)
	return p
}

// stand makes the proxy.
func (p *proxied) stand(t *testing.T, to http.RoundTripper) {
	t.Helper()
	var err error
	p.proxy, err = NewProxy(ProxyConfig{Service: p.service, Transport: to, Intents: p.file, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.proxy.Close)
}

// send sends a request of a client and returns the answer.
func (p *proxied) send(path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://carillon.example/mlflow/bells/api/2.0/mlflow/"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.proxy.ServeHTTP(w, r)
	return w
}

// create creates a run and returns its id.
func (p *proxied) create(t *testing.T) string {
	t.Helper()
	w := p.send("runs/create", fmt.Sprintf(`{"experiment_id":"0","start_time":%d,"tags":[{"key":"team","value":"growth"}]}`, time.Now().UnixMilli()))
	var answer struct{ Run run }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
		t.Fatalf("%d %s, error %v", w.Code, w.Body, err)
	}
	return answer.Run.id()
}

func update(id, status string) string {
	return fmt.Sprintf(`{"run_id":%q,"status":%q,"end_time":%d}`, id, status, time.Now().UnixMilli())
}

// Each change is an event at once, every one of a run that is resumed, with what was
// logged to it; and nothing more when a round sees it again.
func TestProxy(t *testing.T) {
	in(t, "runs", func(t *testing.T) {
		p := newProxied(t)
		id := p.create(t)
		synctest.Wait()
		p.want(running)
		p.fake.change(func() { p.fake.runs[id].Data.Params = []pair{{"lr", "0.1"}} })
		p.send("runs/log-batch", `{"run_id":"`+id+`"}`)
		for range 3 {
			if w := p.send("runs/update", update(id, "FINISHED")); w.Code != 200 || !strings.Contains(w.Body.String(), `"status":"FINISHED"`) {
				t.Errorf("answer %d %s", w.Code, w.Body)
			}
			p.send("runs/update", update(id, "RUNNING"))
		}
		p.send("runs/update", update(id, "FAILED"))
		synctest.Wait()
		p.want(finished, completed, running, finished, completed, running, finished, completed, running, failed)
		for _, e := range p.log.events[1:] {
			if e.Data.RunProperties["mlflow.param.lr"] != "0.1" || e.Data.RunTags["team"] != "growth" || e.Data.ExperimentName != "Default" {
				t.Errorf("event %+v lacks what was logged", e)
			}
		}
		p.send("runs/update", update(id, "FAILED")) // told again
		time.Sleep(2 * time.Hour)
		p.want()
		if n := p.proxy.intents.open(); n != 0 {
			t.Errorf("%d intents are left", n)
		}
	})
	in(t, "models", func(t *testing.T) {
		p := newProxied(t)
		p.send("model-versions/create", `{"name":"churn","tags":[{"key":"ncd","value":"true"}]}`)
		p.send("model-versions/create", `{"name":"churn"}`)
		p.send("model-versions/create", `{"name":"greeting","tags":[{"key":"mlflow.prompt.is_prompt","value":"true"}]}`)
		synctest.Wait()
		p.want("ModelRegistered", "ModelRegistered")
		p.send("registered-models/rename", `{"name":"churn","new_name":"leavers"}`)
		time.Sleep(time.Second)
		p.want()
		p.send("model-versions/create", `{"name":"churn"}`) // another version 1
		p.send("model-versions/create", `{"name":"leavers"}`)
		synctest.Wait()
		p.want("ModelRegistered", "ModelRegistered")
		time.Sleep(2 * time.Hour)
		p.want()
	})
	in(t, "an experiment is renamed", func(t *testing.T) {
		p := newProxied(t)
		p.send("experiments/update", `{"experiment_id":"0","new_name":"Team A"}`)
		synctest.Wait()
		p.create(t)
		synctest.Wait()
		p.want(running)
		if name := p.log.events[0].Data.ExperimentName; name != "Team A" {
			t.Errorf("experiment %q", name)
		}
	})
	in(t, "of before", func(t *testing.T) {
		b := newBridge(t)
		p := &proxied{bridge: b, file: filepath.Join(t.TempDir(), "intents")}
		p.service, _ = b.following(t, nil)
		p.stand(t, b.fake)
		old, going := b.fake.ended("FINISHED", time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)), b.fake.start(time.Now().Add(-2*time.Hour))
		time.Sleep(time.Second)
		b.fake.fail = failing("experiments/search") // nothing is read whole
		b.attach(t, 0)
		synctest.Wait()
		p.send("runs/update", `{"run_id":"`+old+`","run_name":"best"}`)
		p.send("runs/update", `{"run_id":"`+going+`","status":"KILLED","end_time":1}`)
		synctest.Wait()
		p.want(canceled)
	})
	in(t, "legacy names, static prefix, other versions of the API", func(t *testing.T) {
		p := newProxied(t)
		id := p.create(t)
		p.send("runs/update", `{"run_uuid":"`+id+`","status":"FAILED"}`)
		synctest.Wait()
		p.want(running, failed)
	})
}

func TestChangeOf(t *testing.T) {
	for path, want := range map[string]change{
		"/api/2.0/mlflow/runs/create":                                            createRun,
		"/api/2.0/preview/mlflow/runs/update":                                    updateRun,
		"/ajax-api/2.0/mlflow/runs/update":                                       updateRun,
		"/ml/prefix/ajax-api/3.0/mlflow/model-versions/create":                   createVersion,
		"/mlflow/api/2.0/mlflow/registered-models/rename":                        renameModel,
		"/api/2.0/mlflow/registered-models/alias":                                moveModel,
		"/ajax-api/2.0/mlflow/model-versions/transition-stage":                   moveModel,
		"/api/2.0/mlflow/experiments/update":                                     renameExperiment,
		"/api/2.0/mlflow/runs/log-batch":                                         nothing,
		"/api/2.0/mlflow/runs/update/":                                           nothing,
		"/api/2.0/mlflow-artifacts/artifacts/runs/update":                        nothing,
		"/xapi/2.0/mlflow/runs/update":                                           nothing,
		"/api/v1/mlflow/runs/update":                                             nothing,
		"/graphql":                                                               nothing,
		"/api/2.0/mlflow-artifacts/artifacts/0/a/api/2.0/mlflow/runs/create.txt": nothing,
	} {
		if got := changeOf("POST", path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
		deleted := nothing
		if strings.HasSuffix(path, "/alias") {
			deleted = moveModel
		}
		if got := changeOf("DELETE", path); got != deleted {
			t.Errorf("DELETE %s: %d, want %d", path, got, deleted)
		}
		if got := changeOf("GET", path); got != nothing {
			t.Errorf("GET %s: %d", path, got)
		}
	}
}

// What an answer does not tell is asked for, and whatever happens, the client has the
// answer of the server. Source: spec/workspace.md section 5.6, rules 2, 3, 5, 7 and 8.
func TestProxyUnclear(t *testing.T) {
	for name, c := range map[string]struct {
		transport func(p *proxied, r *http.Request, res *http.Response) (*http.Response, error)
		prepare   func(p *proxied)
		header    []string
		status    int
		want      []string
		later     []string // after the next round
	}{
		"the server fails after it did it": {
			transport: func(_ *proxied, _ *http.Request, res *http.Response) (*http.Response, error) {
				res.StatusCode = 503
				return res, nil
			}, status: 503, want: []string{failed}},
		"the connection breaks": {
			transport: func(*proxied, *http.Request, *http.Response) (*http.Response, error) {
				return nil, errors.New("connection reset by peer")
			}, status: 502, want: []string{failed}},
		"the answer is compressed": {
			transport: func(_ *proxied, r *http.Request, res *http.Response) (*http.Response, error) {
				if r.Header.Get("Accept-Encoding") != "identity" {
					return nil, errors.New("compression was asked for")
				}
				var zipped bytes.Buffer
				w := gzip.NewWriter(&zipped)
				_, _ = io.Copy(w, res.Body)
				_ = w.Close()
				res.Body, res.ContentLength = io.NopCloser(&zipped), int64(zipped.Len())
				res.Header.Set("Content-Encoding", "gzip")
				return res, nil
			}, header: []string{"Accept-Encoding", "gzip"}, status: 200, want: []string{failed}},
		"the answer is large": {
			transport: func(_ *proxied, _ *http.Request, res *http.Response) (*http.Response, error) {
				res.Body = io.NopCloser(io.MultiReader(res.Body, strings.NewReader(strings.Repeat(" ", watchLimit))))
				return res, nil
			}, status: 200, want: []string{failed}},
		"the answer is another's": {
			transport: func(_ *proxied, _ *http.Request, res *http.Response) (*http.Response, error) {
				res.Body = io.NopCloser(strings.NewReader(`<html>`))
				return res, nil
			}, status: 200, want: []string{failed}},
		"the server says no": {
			transport: func(_ *proxied, _ *http.Request, res *http.Response) (*http.Response, error) {
				res.StatusCode = 403
				return res, nil
			}, status: 403, want: nil, later: []string{failed}},
		"the ledger takes nothing": {
			prepare: func(p *proxied) { p.log.mu.Lock(); p.log.crashAfter = 0; p.log.mu.Unlock() },
			status:  200, want: nil, later: []string{failed}},
		"tags may not be read": {
			prepare: func(p *proxied) { p.fake.change(func() { p.fake.fail = failing("runs/get") }) },
			status:  200, want: []string{failed}},
		"another workspace of the server": {
			header: []string{"X-MLFLOW-WORKSPACE", "other"}, status: 200, want: nil, later: []string{failed}},
		"its default workspace": {
			header: []string{"X-MLFLOW-WORKSPACE", "default"}, status: 200, want: []string{failed}},
	} {
		in(t, name, func(t *testing.T) {
			p := newProxied(t)
			id := p.create(t)
			synctest.Wait()
			p.want(running)
			p.stand(t, roundTripper(func(r *http.Request) (*http.Response, error) {
				res, err := p.fake.RoundTrip(r)
				if err == nil && c.transport != nil {
					return c.transport(p, r, res)
				}
				return res, err
			}))
			if c.prepare != nil {
				c.prepare(p)
			}
			if w := p.send("runs/update", update(id, "FAILED"), c.header...); w.Code != c.status {
				t.Errorf("answer %d %s, want %d", w.Code, w.Body, c.status)
			}
			synctest.Wait()
			p.want(c.want...)
			if n := len(p.log.events); len(c.want) > 0 && p.log.events[n-1].Data.RunTags["team"] != "growth" {
				t.Errorf("event %+v has lost the tags", p.log.events[n-1])
			}
			if n := p.proxy.intents.open(); n != 0 {
				t.Errorf("%d intents are left", n)
			}
			p.log.mu.Lock()
			p.log.crashAfter = -1
			p.log.mu.Unlock()
			time.Sleep(2 * time.Hour)
			p.want(c.later...)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The proxy and the rounds see the same things in any order. Source: spec/workspace.md
// section 5.9 and rule 7 of 5.4.
func TestProxyRaces(t *testing.T) {
	in(t, "a round read the run before it changed", func(t *testing.T) {
		p := newProxied(t)
		id := p.create(t)
		synctest.Wait()
		p.want(running)
		var once atomic.Bool
		p.fake.change(func() {
			p.fake.done = func(path string) {
				if path == "runs/search" && once.CompareAndSwap(false, true) {
					p.send("runs/update", update(id, "FINISHED"))
					time.Sleep(time.Second) // it is recorded before the answer of the search comes
				}
			}
		})
		time.Sleep(time.Hour)
		p.want(finished, completed)
		if !once.Load() {
			t.Error("no round")
		}
		time.Sleep(3 * time.Hour)
		p.want()
	})
	in(t, "a round is first", func(t *testing.T) {
		p := newProxied(t)
		id := p.create(t)
		synctest.Wait()
		p.want(running)
		p.stand(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := p.fake.RoundTrip(r)
			time.Sleep(2 * time.Hour)
			return res, err
		}))
		p.send("runs/update", update(id, "FINISHED"))
		synctest.Wait()
		p.want(finished, completed)
	})
	in(t, "two updates at once", func(t *testing.T) {
		p := newProxied(t)
		id := p.create(t)
		synctest.Wait()
		p.want(running)
		p.stand(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := p.fake.RoundTrip(r)
			if r.Header.Get("X-Late") != "" {
				time.Sleep(time.Minute)
			}
			return res, err
		}))
		go p.send("runs/update", update(id, "FINISHED"), "X-Late", "yes")
		time.Sleep(time.Second)
		p.send("runs/update", update(id, "FAILED"))
		time.Sleep(2 * time.Minute)
		p.want(failed) // FINISHED was answered last, and done first
	})
	in(t, "killed after the server did it", func(t *testing.T) {
		p := newProxied(t)
		id := p.create(t)
		synctest.Wait()
		p.want(running)
		p.service = New(Config{Store: p.store, Ledger: p.ledger}) // whose followers never ran
		p.stand(t, p.fake)
		p.send("runs/update", update(id, "FAILED"))
		p.send("model-versions/create", `{"name":"churn"}`)
		p.proxy.Close()
		p.want()

		q := p.service
		p.service = New(Config{Store: p.store, Ledger: p.ledger})
		p.stand(t, p.fake)
		if n := p.proxy.intents.open(); n != 2 || p.service == q {
			t.Errorf("%d intents are left, want 2", n)
		}
		looks := p.service.looksOf(7)
		for range 2 { // no round
			l, todo := looks.next()
			looks.put(l, looks.lookAt(t.Context(), p.observer, newMetrics(nil, nil), l.object, todo))
		}
		p.want(failed, "ModelRegistered")
		if n := p.proxy.intents.open(); n != 0 {
			t.Errorf("%d intents are left", n)
		}
	})
}

// A workspace whose rounds see everything and one whose proxy does raise the same ids,
// but for states that rounds are not in time to see. Source: spec/workspace.md section 5.5.
func TestProxyRaisesTheSameIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t)
		statuses := []string{"FINISHED", "FAILED", "KILLED"}
		for i := range 9 {
			id := p.create(t)
			time.Sleep(time.Second)
			p.send("runs/update", update(id, statuses[i%3]))
		}
		for range 2 {
			p.send("model-versions/create", `{"name":"churn"}`)
		}
		synctest.Wait()
		ids := func(b *bridge, withRunning bool) map[string]string {
			b.log.mu.Lock()
			defer b.log.mu.Unlock()
			all := map[string]string{}
			for _, e := range b.log.events {
				if withRunning || e.Data.RunStatus != "Running" {
					all[e.ID] = e.word() + " " + e.Subject
				}
			}
			return all
		}
		b := newBridge(t, func(m *resource.MLflowServer) { m.EmitBacklog = true })
		p.fake.change(func() { b.fake.runs, b.fake.models, b.fake.versions = p.fake.runs, p.fake.models, p.fake.versions })
		b.rounds(1)
		if got, want := ids(b, true), ids(p.bridge, false); !maps.Equal(got, want) || len(want) != 14 {
			t.Errorf("rounds raised %v, the proxy %v", got, want)
		}
	})
}

func TestProxyRefuses(t *testing.T) {
	b := newBridge(t)
	service := New(Config{Store: b.store, Ledger: b.ledger, Secret: func(*resource.MLflowServer) (secret.String, error) { return "", nil }, ProxyOrigin: "https://c.example"})
	p := &proxied{bridge: b, service: service, file: filepath.Join(t.TempDir(), "intents")}
	sent := 0
	p.stand(t, roundTripper(func(*http.Request) (*http.Response, error) {
		sent++
		return nil, errors.New("token=s3cret at https://mlflow.example/?sig=s3cret")
	}))
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.proxy.ServeHTTP(w, httptest.NewRequest("GET", "http://c.example"+path, nil))
		return w
	}
	check := func(path string, status int, want string) {
		t.Helper()
		if w := get(path); w.Code != status || !strings.Contains(w.Body.String(), want) || strings.Contains(w.Body.String(), "s3cret") {
			t.Errorf("%s: %d %s, want %d with %q", path, w.Code, w.Body, status, want)
		}
	}
	check("/mlflow/bells/", 404, "follows no MLflow server")
	check("/mlflow/", 404, "There is no workspace")
	revision := b.attach(t, 0)
	check("/mlflow/gongs/", 404, "There is no workspace 'gongs'")
	check("/mlflow/bells/a/../../b", 400, "leaves that of the MLflow server")
	check("/mlflow/bells/a/%2e%2E/b", 400, "leaves that of the MLflow server")
	check("/mlflow/bells/a%2F..%2fb", 400, "leaves that of the MLflow server")
	check("/mlflow/bells/a%5C..%5cb", 400, "leaves that of the MLflow server")
	if sent != 0 {
		t.Errorf("%d requests went on", sent)
	}
	check("/mlflow/lab~bells/?token=s3cret", 502, "did not answer")
	if w := get("/mlflow/bells?x=1"); w.Code != 308 || w.Header().Get("Location") != "./bells/?x=1" {
		t.Errorf("%d, to %s", w.Code, w.Header().Get("Location"))
	}
	if url := service.ProxyURL(&b.record); url != "https://c.example/mlflow/bells" {
		t.Errorf("the proxy is at %s", url)
	}
	twin := resource.Workspace{Meta: resource.Meta{ID: resource.MustID(strings.Replace(workspaceID.String(), "/lab/", "/tower/", 1))}, UID: 0xcc, TopicUID: 0xdd}
	if _, err := b.store.Workspaces.Create(t.Context(), twin.ID.Key(), twin); err != nil {
		t.Fatal(err)
	}
	check("/mlflow/bells/", 404, "lab~bells or tower~bells")
	check("/mlflow/lab~bells/", 502, "did not answer")
	if url := service.ProxyURL(&b.record); url != "https://c.example/mlflow/lab~bells" {
		t.Errorf("the proxy is at %s", url)
	}
	b.record.NoProxy = true
	b.attach(t, revision)
	check("/mlflow/lab~bells/", 404, "--no-proxy")
	if url := service.ProxyURL(&b.record); url != "" {
		t.Errorf("the proxy is at %s", url)
	}
}

func TestOwnCookies(t *testing.T) {
	for in, want := range map[string][]string{
		"":             nil,
		"a=1; b=2":     {"a=1; b=2"},
		"a=carillon-x": {"a=carillon-x"},
		"__Host-carillon-form=x; a=1; carillon-session=y; b=2": {"a=1; b=2"},
		"__Host-carillon-form=x":                               nil,
	} {
		h := http.Header{}
		if in != "" {
			h.Set("Cookie", in)
		}
		ownCookies(h)
		if !slices.Equal(h["Cookie"], want) {
			t.Errorf("%q: %q, want %q", in, h["Cookie"], want)
		}
	}
}
