package mlflow

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// fakeServer is an MLflow server in memory, as far as the client asks: searches with
// filters, orders and offsets as tokens. Source: spec/workspace.md section 4.3.
type fakeServer struct {
	t           *testing.T
	mu          sync.Mutex
	experiments []experiment
	runs        map[string]*run
	models      map[string]*registeredModel
	versions    []*modelVersion
	next        int

	fail           func(path string) int // status to answer instead, 0 for none
	lie            func(path string) any // what to answer instead, nil for the truth
	most           int                   // objects of a page at most, 0 for as many as are asked for
	done           func(path string)     // called without the lock when an answer is made and not yet sent
	noIn           bool                  // IN is not understood
	noUnequal      bool                  // != of an id excludes nothing
	hide           map[string]bool       // runs that were removed for good
	requests       []string
	last           http.Header
	webhooks       []webhook
	refuseWebhooks bool
	padding        string // of each run, to make answers large
}

func newFakeServer(t *testing.T) *fakeServer {
	return &fakeServer{t: t, experiments: []experiment{{"0", "Default"}}, runs: map[string]*run{}, models: map[string]*registeredModel{}}
}

// RoundTrip satisfies http.RoundTripper.
func (f *fakeServer) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := f.answer(r)
	if err == nil {
		res.Request = r
	}
	return res, err
}

func (f *fakeServer) answer(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	path := strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/")
	f.mu.Lock()
	defer func() {
		done := f.done
		f.mu.Unlock()
		if done != nil {
			done(path)
		}
	}()
	f.requests = append(f.requests, path)
	f.last = r.Header
	w := httptest.NewRecorder()
	if f.fail != nil {
		if status := f.fail(path); status != 0 {
			http.Error(w, `{"error_code":"SOME_ERROR","message":"no"}`, status)
			return w.Result(), nil
		}
	}
	var body struct {
		runQuery
		Max    int    `json:"max_results"`
		URL    string `json:"url"`
		Secret string `json:"secret"`
		Status string `json:"status"`
	}
	if r.Body != nil {
		raw, _ := io.ReadAll(r.Body)
		if answered := f.alter(w, path, raw); answered {
			return w.Result(), nil
		}
		if err := json.Unmarshal(raw, &body); err != nil {
			f.t.Errorf("body of %s: %v", path, err)
		}
	}
	query := r.URL.Query()
	if most := query.Get("max_results"); most != "" {
		body.Max, _ = strconv.Atoi(most)
		body.Token = query.Get("page_token")
	}
	if f.most > 0 {
		body.Max = min(body.Max, f.most)
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	if f.lie != nil {
		if v := f.lie(path); v != nil {
			answer(v)
			return w.Result(), nil
		}
	}
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		answer(map[string]string{"error_code": code, "message": "it is so"})
	}
	switch path {
	case "experiments/search":
		part, next := cutPage(f.experiments, body.Max, body.Token)
		answer(map[string]any{"experiments": part, "next_page_token": next})
	case "experiments/get":
		at := slices.IndexFunc(f.experiments, func(e experiment) bool { return e.ID == query.Get("experiment_id") })
		if at < 0 {
			refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
		} else {
			answer(map[string]any{"experiment": f.experiments[at]})
		}
	case "runs/search":
		if f.noIn && strings.Contains(body.Filter, " IN (") {
			refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE")
			break
		}
		part, next := cutPage(f.find(body.runQuery), body.Max, body.Token)
		answer(map[string]any{"runs": part, "next_page_token": next})
	case "runs/get":
		if found := f.runs[query.Get("run_id")]; found != nil && !f.hide[query.Get("run_id")] {
			answer(map[string]any{"run": found})
		} else {
			refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
		}
	case "registered-models/search":
		var all []*registeredModel
		for _, m := range f.models {
			all = append(all, m)
		}
		slices.SortFunc(all, func(a, b *registeredModel) int {
			return cmp.Or(cmp.Compare(b.LastUpdated, a.LastUpdated), strings.Compare(a.Name, b.Name))
		})
		part, next := cutPage(all, body.Max, body.Token)
		answer(map[string]any{"registered_models": part, "next_page_token": next})
	case "registered-models/get":
		if m := f.models[query.Get("name")]; m != nil {
			answer(map[string]any{"registered_model": m})
		} else {
			refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
		}
	case "webhooks":
		if r.Method == http.MethodGet {
			answer(map[string]any{"webhooks": f.webhooks})
			break
		}
		if f.refuseWebhooks {
			w.WriteHeader(http.StatusBadRequest)
			answer(map[string]string{"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid webhook URL scheme, with " + body.Secret})
			break
		}
		f.next++
		made := webhook{ID: fmt.Sprintf("w/%d", f.next), URL: body.URL, Status: body.Status}
		f.webhooks = append(f.webhooks, made)
		answer(map[string]any{"webhook": made})
	case "model-versions/search":
		var all []*modelVersion
		for _, v := range f.versions {
			if filter := query.Get("filter"); filter == "" || filter == "name='"+v.Name+"'" {
				all = append(all, v)
			}
		}
		slices.SortStableFunc(all, func(a, b *modelVersion) int {
			x, _ := strconv.Atoi(a.Version)
			y, _ := strconv.Atoi(b.Version)
			return y - x
		})
		part, next := cutPage(all, body.Max, body.Token)
		answer(map[string]any{"model_versions": part, "next_page_token": next})
	case "model-versions/get":
		at := slices.IndexFunc(f.versions, func(v *modelVersion) bool {
			return v.Name == query.Get("name") && v.Version == query.Get("version")
		})
		if at < 0 {
			refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
		} else {
			v := *f.versions[at]
			v.Aliases = f.models[v.Name].aliasesOf(v.Version)
			answer(map[string]any{"model_version": v})
		}
	default:
		if id, ok := strings.CutPrefix(path, "webhooks/"); ok {
			at := slices.IndexFunc(f.webhooks, func(w webhook) bool { return w.ID == id })
			switch {
			case at < 0:
				refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
			case r.Method == http.MethodDelete:
				f.webhooks = slices.Delete(f.webhooks, at, at+1)
				answer(struct{}{})
			default:
				answer(map[string]any{"webhook": f.webhooks[at]})
			}
			break
		}
		f.t.Errorf("the client asked for %s", r.URL)
		refuse(http.StatusNotFound, "ENDPOINT_NOT_FOUND")
	}
	return w.Result(), nil
}

// alter answers the requests that change something, as MLflow does: an update of a run
// has none of its tags in its answer.
func (f *fakeServer) alter(w http.ResponseWriter, path string, raw []byte) bool {
	var body struct {
		RunID        string `json:"run_id"`
		RunUUID      string `json:"run_uuid"`
		Status       string `json:"status"`
		EndTime      whole  `json:"end_time"`
		ExperimentID string `json:"experiment_id"`
		StartTime    whole  `json:"start_time"`
		Tags         []pair `json:"tags"`
		Name         string `json:"name"`
		NewName      string `json:"new_name"`
	}
	_ = json.Unmarshal(raw, &body)
	var answer any = struct{}{}
	switch path {
	case "runs/create":
		f.next++
		r := &run{}
		r.Info = runInfo{RunID: fmt.Sprintf("%032x", f.next), ExperimentID: body.ExperimentID, Status: "RUNNING", StartTime: body.StartTime, LifecycleStage: "active"}
		r.Data.Tags = body.Tags
		f.runs[r.id()] = r
		answer = map[string]any{"run": r}
	case "runs/update":
		r := f.runs[cmp.Or(body.RunID, body.RunUUID)]
		if r == nil {
			w.WriteHeader(http.StatusNotFound)
			answer = map[string]string{"error_code": "RESOURCE_DOES_NOT_EXIST"}
			break
		}
		r.Info.Status, r.Info.EndTime = cmp.Or(body.Status, r.Info.Status), max(body.EndTime, r.Info.EndTime)
		answer = map[string]any{"run_info": r.Info}
	case "model-versions/create":
		now := whole(time.Now().UnixMilli())
		number := 1
		for _, v := range f.versions {
			if v.Name == body.Name {
				number++
			}
		}
		v := &modelVersion{Name: body.Name, Version: strconv.Itoa(number), Created: now, Status: "READY", Source: "models:/m-1", Tags: body.Tags}
		f.versions = append(f.versions, v)
		f.models[v.Name] = &registeredModel{Name: v.Name, LastUpdated: now}
		answer = map[string]any{"model_version": v}
	case "registered-models/rename":
		f.renamed(body.Name, body.NewName)
		answer = map[string]any{"registered_model": f.models[body.NewName]}
	case "experiments/update":
		for i := range f.experiments {
			if f.experiments[i].ID == body.ExperimentID {
				f.experiments[i].Name = body.NewName
			}
		}
	case "runs/log-batch":
	default:
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
	return true
}

func cutPage[T any](all []T, most int, token string) ([]T, string) {
	offset, _ := strconv.Atoi(token)
	all = all[min(offset, len(all)):]
	if len(all) >= most && most > 0 { // also when the page is just full
		return all[:most], strconv.Itoa(offset + most)
	}
	return all, ""
}

func (f *fakeServer) find(q runQuery) []*run {
	var found []*run
	for id, r := range f.runs {
		if slices.Contains(q.ExperimentIDs, r.Info.ExperimentID) && !f.hide[id] && (q.View == "ALL" || !r.deleted()) && f.matches(r, q.Filter) {
			found = append(found, r)
		}
	}
	by := func(r *run) int64 { return int64(r.Info.StartTime) }
	if len(q.OrderBy) == 1 && strings.Contains(q.OrderBy[0], "end_time") {
		by = func(r *run) int64 { return int64(r.Info.EndTime) }
	}
	slices.SortFunc(found, func(a, b *run) int {
		return cmp.Or(cmp.Compare(by(a), by(b)), strings.Compare(a.id(), b.id()))
	})
	return found
}

func (f *fakeServer) matches(r *run, filter string) bool {
	for condition := range strings.SplitSeq(filter, " AND ") {
		attribute, rest, _ := strings.Cut(strings.TrimPrefix(condition, "attributes."), " ")
		if filter == "" {
			return true
		}
		operator, value, _ := strings.Cut(rest, " ")
		var number int64
		switch attribute {
		case "run_id":
			if is := strings.Contains(value, "'"+r.id()+"'"); is == (operator == "!=") && !f.noUnequal {
				return false
			}
			continue
		case "status":
			if value != "'"+r.Info.Status+"'" {
				return false
			}
			continue
		case "start_time":
			number = int64(r.Info.StartTime)
		case "end_time":
			if number = int64(r.Info.EndTime); number == 0 {
				return false // NULL never matches
			}
		default:
			f.t.Errorf("filter %q", filter)
		}
		limit, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			f.t.Errorf("filter %q", filter)
		}
		if operator == ">=" && number < limit || operator == "<" && number >= limit {
			return false
		}
	}
	return true
}

// start starts a run at a time, "" for its id is a new one.
func (f *fakeServer) start(at time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	r := &run{}
	r.Info = runInfo{RunID: fmt.Sprintf("%032x", f.next), ExperimentID: "0", Status: "RUNNING", StartTime: whole(at.UnixMilli()), LifecycleStage: "active"}
	r.Data.Tags = []pair{{"team", "growth"}, {"mlflow.source.type", "LOCAL"}}
	if f.padding != "" {
		r.Data.Params = []pair{{"padding", f.padding}}
	}
	f.runs[r.Info.RunID] = r
	return r.Info.RunID
}

// set gives a run a status and an end time; the zero time leaves the one it has.
func (f *fakeServer) set(id, status string, end time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.runs[id]
	r.Info.Status = status
	if !end.IsZero() {
		r.Info.EndTime = whole(end.UnixMilli())
	}
}

// log gives a run the newest value of a metric.
func (f *fakeServer) log(id, key, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs[id].Data.Metrics = []metric{{Key: key, Value: json.RawMessage(value), Timestamp: whole(time.Now().UnixMilli())}}
}

// setAlias has an alias of a model point at a version, "" for none.
func (f *fakeServer) setAlias(model, alias, version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.models[model]
	m.Aliases = nil
	if version != "" {
		m.Aliases = append(m.Aliases, modelAlias{alias, version})
	}
}

// setStage moves a version to a stage, alone.
func (f *fakeServer) setStage(model, version, stage string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.models[model]
	m.LastUpdated = whole(time.Now().UnixMilli())
	m.Latest = []modelVersion{{Name: model, Version: version, Stage: stage}}
	for _, v := range f.versions {
		if v.Name == model && v.Version == version {
			v.Stage = stage
		}
	}
}

func (f *fakeServer) ended(status string, start, end time.Time) string {
	id := f.start(start)
	f.set(id, status, end)
	return id
}

// register makes the next version of a model.
func (f *fakeServer) register(model string, tags ...pair) *modelVersion {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := whole(time.Now().UnixMilli())
	number := 1
	for _, v := range f.versions {
		if v.Name == model {
			number++
		}
	}
	v := &modelVersion{Name: model, Version: strconv.Itoa(number), Created: now, Status: "READY", Source: "models:/m-1", Tags: tags}
	f.versions = append(f.versions, v)
	m := f.models[model]
	if m == nil {
		m = &registeredModel{Name: model, Tags: tags}
		f.models[model] = m
	}
	m.LastUpdated = now
	return v
}

// rename gives a registered model another name.
func (f *fakeServer) rename(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renamed(from, to)
}

func (f *fakeServer) renamed(from, to string) {
	delete(f.models, from)
	f.models[to] = &registeredModel{Name: to, LastUpdated: whole(time.Now().UnixMilli())}
	for _, v := range f.versions {
		if v.Name == from {
			v.Name = to
		}
	}
}

// asked returns how often the server was asked, and as whom the last time.
func (f *fakeServer) asked() (n int, authorization string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests), f.last.Get("Authorization")
}

func (f *fakeServer) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// fakeLog records and reads facts in memory; each Record is a frame. A Service made
// anew over it is a process after a crash.
type fakeLog struct {
	mu         sync.Mutex
	generation uint64
	seq        uint64
	facts      map[string]engine.Fact
	events     []raised
	records    int
	crashAfter int // records that are still stored; then nothing is. Negative: never
}

// raised is an event, as far as the tests look at it.
type raised struct {
	ID, Subject string
	Type        string `json:"eventType"`
	Data        struct {
		RunStatus, ExperimentName, RunType string
		ModelName, ModelVersion            string
		RunTags, RunProperties             map[string]string
		ModelTags, ModelProperties         map[string]string
		ServiceName, ServiceComputeType    string
		ModelIDs, ExperimentID             string
		ServiceProperties                  map[string]string
		Sequencer                          string
	}
}

// word says what the event is in a word.
func (e raised) word() string {
	_, kind, _ := strings.Cut(e.Type, ".")
	_, kind, _ = strings.Cut(kind, ".")
	return kind + e.Data.RunStatus
}

func (l *fakeLog) Generation() uint64 { return l.generation }

func (l *fakeLog) Record(_ context.Context, records []engine.Record) (engine.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.crashAfter == 0 {
		return engine.Receipt{}, fmt.Errorf("the process was killed")
	}
	l.crashAfter--
	l.seq++
	l.records++
	receipt := engine.Receipt{Seq: l.seq, Generation: l.generation, Time: time.Now()}
	for i, r := range records {
		data := slices.Clone(r.Data)
		for _, h := range r.Holes {
			copy(data[h.Offset:h.Offset+engine.SequencerSize], receipt.Sequencer(h.Of))
		}
		switch {
		case r.Kind == engine.KindEvent:
			var e raised
			if err := json.Unmarshal(data, &e); err != nil {
				return receipt, err
			}
			l.events = append(l.events, e)
		case len(data) == 0:
			delete(l.facts, r.Key)
		default:
			l.facts[r.Key] = engine.Fact{Key: r.Key, Position: receipt.Position(i), Generation: l.generation, Data: data}
		}
	}
	return receipt, nil
}

func (l *fakeLog) Fact(_ context.Context, key string) (engine.Fact, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.facts[key]
	return f, ok, nil
}

func (l *fakeLog) FactKeys(_ context.Context, prefix string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []string
	for k := range l.facts {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// bridge is a poller between a server and a ledger, both in memory.
type bridge struct {
	*poller
	t      *testing.T
	fake   *fakeServer
	log    *fakeLog
	store  *resource.Store
	record resource.MLflowServer
	taken  int // events that want has seen
}

var workspaceID = resource.MustID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab/providers/Microsoft.MachineLearningServices/workspaces/bells")

// newBridge attaches a server that was there for a while. Call it within a bubble.
func newBridge(t *testing.T, change ...func(*resource.MLflowServer)) *bridge {
	t.Helper()
	b := &bridge{t: t, fake: newFakeServer(t), log: &fakeLog{generation: 1, facts: map[string]engine.Fact{}, crashAfter: -1}, store: resource.NewStore(resource.NewMemoryKV())}
	ws := resource.Workspace{Meta: resource.Meta{ID: workspaceID}, UID: 0xaa, TopicUID: 0xbb, StatusEvents: []string{"Queued", "Running", "NotResponding", "Completed", "Failed", "Canceled"}}
	if _, err := b.store.Workspaces.Create(t.Context(), ws.ID.Key(), ws); err != nil {
		t.Fatal(err)
	}
	b.record = resource.MLflowServer{UID: 7, Workspace: ws.ID, URL: "http://mlflow.example", Interval: 15, Created: resource.Stamp{At: time.Now()}}
	for _, f := range change {
		f(&b.record)
	}
	b.restart()
	return b
}

// restart makes what a new process would make of the ledger.
func (b *bridge) restart() {
	b.t.Helper()
	b.log.mu.Lock()
	b.log.generation++
	b.log.crashAfter = -1
	b.log.mu.Unlock()
	ledger := workspace.New(workspace.Config{Recorder: b.log, Facts: b.log, Workspaces: b.store.Workspaces})
	ws, _ := b.store.Workspaces.Get(workspaceID.Key())
	client := NewClient(Connection{URL: b.record.URL}, &http.Client{Transport: b.fake})
	b.poller = newPoller(b.record, ws.Value, client, ledger, newKnown(), slog.New(slog.DiscardHandler))
	if err := b.resume(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// rounds makes n rounds, 15 seconds apart.
func (b *bridge) rounds(n int) {
	b.t.Helper()
	for range n {
		if err := b.round(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
	}
}

// want holds the words of the events since the last call against a list, in any order.
func (b *bridge) want(words ...string) {
	b.t.Helper()
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	var got []string
	for _, e := range b.log.events[b.taken:] {
		got = append(got, e.word())
	}
	b.taken = len(b.log.events)
	slices.Sort(got)
	slices.Sort(words)
	if !slices.Equal(got, words) {
		b.t.Errorf("events %q, want %q", got, words)
	}
	seen := map[string]bool{}
	for _, e := range b.log.events {
		if seen[e.ID] {
			b.t.Errorf("event %+v was raised twice", e)
		}
		seen[e.ID] = true
	}
}
