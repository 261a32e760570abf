package openlineage

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// factLog is the log under the workspaces, in memory.
type factLog struct {
	mu     sync.Mutex
	seq    uint64
	facts  map[string]engine.Fact
	events []string
	fail   error
}

func (l *factLog) Record(_ context.Context, records []engine.Record) (engine.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return engine.Receipt{}, l.fail
	}
	l.seq++
	receipt := engine.Receipt{Seq: l.seq, Generation: 1, Time: time.Now()}
	for i, r := range records {
		if r.Kind == engine.KindEvent {
			l.events = append(l.events, string(r.Data))
		} else {
			l.facts[r.Key] = engine.Fact{Key: r.Key, Position: receipt.Position(i), Generation: 1, Data: r.Data}
		}
	}
	return receipt, nil
}

func (l *factLog) Fact(_ context.Context, key string) (engine.Fact, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.facts[key]
	return f, ok, nil
}

func (*factLog) Generation() uint64 { return 1 }

func (l *factLog) FactKeys(_ context.Context, prefix string) (keys []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.facts {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

const (
	group      = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab"
	bells      = group + "/providers/Microsoft.MachineLearningServices/workspaces/bells"
	other      = group + "2/providers/Microsoft.MachineLearningServices/workspaces/twice"
	at         = "/openlineage/bells/api/v1/lineage"
	runID      = "01946f5c-5f1b-7c9e-8a39-0d0f3a5b7c11"
	writer     = "Bearer writer" // a principal that may write runs
	reader     = "Bearer reader" // one that may not
	key1, key2 = "a2V5MQ==", "a2V5Mg=="
)

// desk is a Handler over fakes, and what it stores.
type desk struct {
	*Handler
	log        *factLog
	workspaces *workspace.Service
	ws         resource.Workspace
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	store := resource.NewStore(resource.NewMemoryKV())
	if err := store.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	d := &desk{log: &factLog{facts: map[string]engine.Fact{}}}
	for i, id := range []string{bells, other, strings.Replace(other, "lab2", "lab3", 1)} {
		ws := resource.Workspace{Meta: resource.Meta{ID: resource.MustID(id)}, UID: resource.UID(i + 1), TopicUID: resource.UID(i + 11), StatusEvents: []string{"Running", "Completed", "Failed", "Canceled"}}
		if _, err := store.Workspaces.Create(context.Background(), ws.ID.Key(), ws); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			d.ws = ws
		}
	}
	if _, err := store.LineageKeys.Create(context.Background(), d.ws.ID.Key(), resource.LineageKeys{UID: 7, Workspace: d.ws.ID, SealedKeys: [2]string{key1, key2}}); err != nil {
		t.Fatal(err)
	}
	roles, err := access.NewRoles()
	if err != nil {
		t.Fatal(err)
	}
	directory := access.NewDirectory(store, roles)
	authorizer, err := access.NewAuthorizer(directory, "")
	if err != nil {
		t.Fatal(err)
	}
	callers := map[string]access.Caller{}
	for name, role := range map[string]string{writer: "AzureML Data Scientist", reader: "Reader"} {
		r, _ := roles.Named(role)
		c := access.Caller{ObjectID: fmt.Sprintf("00000000-0000-4000-8000-%012d", len(name)+len(role)), Name: name, Type: access.User}
		callers[name] = c
		if _, _, err := directory.Assign(context.Background(), access.Assignment{
			Name: c.ObjectID, Scope: resource.MustID(group), RoleID: r.ID, PrincipalID: c.ObjectID, PrincipalType: access.User,
		}, access.Caller{}); err != nil {
			t.Fatal(err)
		}
	}
	d.workspaces = workspace.New(workspace.Config{Recorder: d.log, Facts: d.log, Workspaces: store.Workspaces})
	d.Handler = New(Config{
		Store: store, Ledger: d.workspaces, Authorizer: authorizer,
		Keys: func(k *resource.LineageKeys) ([2]string, error) { return k.SealedKeys, nil },
		Authenticate: func(r *http.Request) (access.Caller, error) {
			c, ok := callers[r.Header.Get("Authorization")]
			if !ok {
				return c, fault.New(fault.Unauthenticated, "AuthenticationFailed", "Authentication failed.")
			}
			return c, nil
		},
	})
	return d
}

// send makes a request as a client with a key does; change may be nil.
func (d *desk) send(t testing.TB, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+key1)
	r.Header.Set("Content-Type", "application/json")
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

func as(authorization string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Del("Authorization")
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
	}
}

// lineageEvent is an event of the run; more is put into its members.
func lineageEvent(eventType, eventTime, more string) string {
	return fmt.Sprintf(`{"eventType":%q,"eventTime":%q,"producer":"https://p.example","schemaURL":"https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
		"run":{"runId":%q},"job":{"namespace":"team","name":"churn.train"}%s}`, eventType, eventTime, runID, more)
}

const (
	noon  = "2026-03-02T12:00:00.000+00:00"
	later = "2026-03-02T12:00:01Z"
)

func TestRequests(t *testing.T) {
	start := lineageEvent("START", noon, "")
	zipped := func(body string) func(*http.Request) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(body))
		_ = z.Close()
		return func(r *http.Request) {
			*r = *httptest.NewRequest("POST", r.URL.Path, &b)
			r.Header.Set("Authorization", "Bearer "+key2)
			r.Header.Set("Content-Encoding", "gzip")
		}
	}
	encoded := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Content-Encoding", name) }
	}
	for name, c := range map[string]struct {
		path, body string
		change     func(*http.Request)
		status     int
		holds      string
		events     int
	}{
		"a key":                     {at, start, nil, 200, "", 1},
		"the other key":             {at, start, as("bearer " + key2), 200, "", 1},
		"a token":                   {at, start, as(writer), 200, "", 1},
		"a token without the role":  {at, start, as(reader), 403, "experiments/runs/write", 0},
		"no credential":             {at, start, as(""), 401, "carillon openlineage key list", 0},
		"a wrong key":               {at, start, as("Bearer a2V5Mw=="), 401, "AuthenticationFailed", 0},
		"an empty key":              {at, start, as("Bearer "), 401, "AuthenticationFailed", 0},
		"a key as basic":            {at, start, as("Basic " + key1), 401, "AuthenticationFailed", 0},
		"a key of another":          {"/openlineage/twice/api/v1/lineage", start, nil, 401, "AuthenticationFailed", 0},
		"any case, slash":           {"/OpenLineage/BELLS/api/V1/lineage/", start, nil, 200, "", 1},
		"by id":                     {bells + "/providers/Carillon.OpenLineage/api/v1/lineage", start, nil, 200, "", 1},
		"by id, a batch":            {bells + "/providers/carillon.openlineage/api/v1/lineage/batch", "[" + start + "]", nil, 204, "", 1},
		"no such workspace":         {"/openlineage/none/api/v1/lineage", start, as(writer), 404, "There is no workspace 'none'", 0},
		"nobody asks for none":      {"/openlineage/none/api/v1/lineage", start, nil, 401, "AuthenticationFailed", 0},
		"two of the name":           {"/openlineage/twice/api/v1/lineage", start, as(writer), 404, "Or send to its full id", 0},
		"no such id":                {group + "/providers/Microsoft.MachineLearningServices/workspaces/none/providers/Carillon.OpenLineage/api/v1/lineage", start, as(writer), 404, "There is no workspace", 0},
		"the url without a slash":   {"/openlineage/api/v1/lineage", start, nil, 404, "OPENLINEAGE_ENDPOINT", 0},
		"another path":              {"/openlineage/bells/api/v1/namespaces", start, nil, 404, "OPENLINEAGE_ENDPOINT", 0},
		"another method":            {at, start, func(r *http.Request) { r.Method = "GET" }, 405, "POST", 0},
		"gzip":                      {at, "", zipped(start), 200, "", 1},
		"not gzip":                  {at, start, encoded("gzip"), 400, "not gzip", 0},
		"identity":                  {at, start, encoded("identity"), 200, "", 1},
		"another encoding":          {at, start, encoded("zstd"), 415, "use gzip", 0},
		"too large":                 {at, `{"x":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, "unpacked", 0},
		"too large unpacked":        {at, "", zipped(`{"x":"` + strings.Repeat("x", maxBody) + `"}`), 413, "unpacked", 0},
		"no json":                   {at, `{`, nil, 400, "not an OpenLineage event", 0},
		"nothing":                   {at, ``, nil, 400, "not an OpenLineage event", 0},
		"an array":                  {at, " [" + start + "]", nil, 400, "/batch", 0},
		"an object as batch":        {at + "/batch", start, nil, 400, "not an array", 0},
		"a job event":               {at, `{"eventTime":"` + noon + `","job":{"namespace":"team","name":"j"}}`, nil, 200, "", 0},
		"a dataset event":           {at, `{"eventTime":"` + noon + `","dataset":{"namespace":"team","name":"d"}}`, nil, 200, "", 0},
		"a job event by its schema": {at, `{"eventTime":"` + noon + `","schemaURL":"https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/JobEvent"}`, nil, 200, "", 0},
		"a run event without run":   {at, `{"eventTime":"` + noon + `","job":{"namespace":"team","name":"j"},"schemaURL":"https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"}`, nil, 400, "no run", 0},
		"a failure without run":     {at, `{"eventType":"FAIL","eventTime":"` + noon + `","job":{"namespace":"team","name":"j"}}`, nil, 400, `"target":"run"`, 0},
		"a type alone":              {at, `{"eventType":"START"}`, nil, 400, "no run", 0},
		"an empty object":           {at, `{}`, nil, 400, "no run", 0},
		"null":                      {at, `null`, nil, 400, "no run", 0},
		"no event type":             {at, strings.Replace(start, `"START"`, `""`, 1), nil, 200, "", 0},
		"an unknown event type":     {at, lineageEvent("STARTED", noon, ""), nil, 400, "use START, RUNNING", 0},
		"no time":                   {at, lineageEvent("START", "", ""), nil, 400, "eventTime", 0},
		"no zone":                   {at, lineageEvent("START", "2026-03-02T12:00:00.123456", ""), nil, 200, "", 1},
		"no run id":                 {at, strings.Replace(start, runID, "r1", 1), nil, 400, "run.runId", 0},
		"no job":                    {at, strings.Replace(start, "churn.train", "", 1), nil, 400, "job.name", 0},
		"strange facets": {at, lineageEvent("START", noon, `,"inputs":"all","outputs":[1,{"namespace":"s3","name":"x"}],"run":{"runId":"`+runID+`","facets":{"parent":7,"errorMessage":[],"tags":{"tags":[1,{"key":"a","value":true}]},"mine":{"deep":[[[]]]}}}`),
			nil, 200, "", 1},
		"a batch":            {at + "/batch", "[" + start + "," + lineageEvent("COMPLETE", later, "") + "]", nil, 204, "", 3},
		"an empty batch":     {at + "/batch", "[]", nil, 204, "", 0},
		"a large batch":      {at + "/batch", "[" + strings.Repeat(start+",", maxEvents) + start + "]", nil, 413, "at most 1000", 0},
		"a batch, half good": {at + "/batch", "[" + start + "," + lineageEvent("DONE", later, "") + "]", nil, 200, `"partial_success"`, 1},
		"a batch, none good": {at + "/batch", "[1," + lineageEvent("DONE", later, "") + "]", nil, 400, "use START", 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			w := d.send(t, c.path, c.body, c.change)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.holds) {
				t.Errorf("answer %d %s, want %d with %q", w.Code, w.Body, c.status, c.holds)
			}
			if c.holds == "" && w.Body.Len() > 0 {
				t.Errorf("answer has the body %s", w.Body)
			}
			if len(d.log.events) != c.events {
				t.Errorf("%d events, want %d: %q", len(d.log.events), c.events, d.log.events)
			}
		})
	}
}

// What is read of a long list of little is little, and what cannot be read of one is not.
func TestLongLists(t *testing.T) {
	many := func(one string) string { return one + strings.Repeat(","+one, (maxBody-2000)/(len(one)+1)) }
	run := func(facets string) string {
		return lineageEvent("START", noon, `,"run":{"runId":"`+runID+`","facets":{`+facets+`}}`)
	}
	for name, c := range map[string]struct {
		path, body string
		status     int
	}{
		"events":       {at + batch, "[" + many("0") + "]", 413},
		"datasets":     {at, lineageEvent("START", noon, `,"inputs":[`+many("{}")+`]`), 200},
		"tags":         {at, run(`"tags":{"tags":[` + many("{}") + `]}`), 200},
		"strange tags": {at, run(`"tags":{"tags":[` + many("0") + `]}`), 200},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w := d.send(t, c.path, c.body, nil)
			runtime.ReadMemStats(&after)
			if took := (after.TotalAlloc - before.TotalAlloc) >> 20; w.Code != c.status || took > 150 {
				t.Errorf("answer %d, want %d; %d MiB were taken for 8", w.Code, c.status, took)
			}
		})
	}
}

// Large bodies that are sent slowly hold up other large ones, and no small ones.
func TestSlowBodies(t *testing.T) {
	d := newDesk(t)
	for range maxBodies {
		d.places <- struct{}{}
	}
	if w := d.send(t, at, lineageEvent("START", noon, ""), nil); w.Code != 200 {
		t.Errorf("a small one: %d %s", w.Code, w.Body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	d.send(t, at, lineageEvent("START", noon, `,"x":"`+strings.Repeat("x", smallBody)+`"`), func(r *http.Request) { *r = *r.WithContext(ctx) })
	if ctx.Err() == nil {
		t.Error("a large one did not wait")
	}
	<-d.places
	if w := d.send(t, at, lineageEvent("COMPLETE", later, `,"x":"`+strings.Repeat("x", 2*smallBody)+`"`), nil); w.Code != 200 || len(d.places) != maxBodies-1 {
		t.Errorf("a large one: %d %s, %d places are taken", w.Code, w.Body, len(d.places))
	}
}

// Source: spec/workspace.md section 6.1.
func TestWhatEventsBecome(t *testing.T) {
	d := newDesk(t)
	for _, e := range []string{
		`{"eventType":"START","eventTime":"2026-03-02T12:00:00Z","producer":"https://airflow.example","run":{"runId":"` + strings.ToUpper(runID) + `","facets":{
			"parent":{"run":{"runId":"p1"},"job":{"namespace":"team","name":"dag"},"root":{"run":{"runId":"r0"},"job":{"namespace":"team","name":"all"}}},
			"nominalTime":{"nominalStartTime":"2026-03-02T00:00:00Z","nominalEndTime":"2026-03-03T00:00:00Z"},
			"processing_engine":{"name":"Airflow","version":"3.1"},"tags":{"tags":[{"key":"tier","value":"gold","source":"USER"},{"key":"","value":"x"},{"key":"n","value":7},{"key":"repo","value":"https://s3cret@git.example/a"}]}}},
		  "job":{"namespace":"team","name":"dag.train","facets":{"jobType":{"processingType":"BATCH","integration":"AIRFLOW","jobType":"TASK"},
			"sourceCodeLocation":{"url":"https://ann:s3cret@git.example/a","version":"3f1c"},"tags":{"tags":[{"key":"owner","value":"ann"}]}}},
		  "inputs":[{"namespace":"s3://s3cret@in","name":"a"},{"namespace":"s3://in","name":"b"}]}`,
		`{"eventType":"FAIL","eventTime":"2026-03-02T12:05:00Z","run":{"runId":"` + runID + `","facets":{"errorMessage":{"message":"no space at https://s3cret@git.example/a","programmingLanguage":"python","stackTrace":"at x"}}},
		  "job":{"namespace":"team","name":"dag.train"},"outputs":[{"namespace":"s3://out","name":"c"}]}`,
	} {
		if w := d.send(t, at, e, nil); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if len(d.log.events) != 2 {
		t.Fatalf("events %q", d.log.events)
	}
	var last struct {
		EventType, Subject string
		Data               struct {
			ExperimentID, ExperimentName, RunID, RunType, RunStatus string
			RunTags, RunProperties                                  map[string]string
		}
	}
	if err := json.Unmarshal([]byte(strings.Map(printable, d.log.events[1])), &last); err != nil {
		t.Fatal(err)
	}
	job := experimentID(d.ws.ID, "team/dag.train")
	want := map[string]string{
		"openlineage.namespace": "team", "openlineage.job": "dag.train", "openlineage.producer": "https://airflow.example", "openlineage.errorMessage": "no space at https://git.example/a", "openlineage.errorLanguage": "python",
		"openlineage.parentRunId": "p1", "openlineage.parentJob": "team/dag", "openlineage.rootRunId": "r0", "openlineage.rootJob": "team/all",
		"openlineage.nominalStartTime": "2026-03-02T00:00:00Z", "openlineage.nominalEndTime": "2026-03-03T00:00:00Z", "openlineage.engine": "Airflow", "openlineage.engineVersion": "3.1",
		"openlineage.processingType": "BATCH", "openlineage.integration": "AIRFLOW", "openlineage.jobType": "TASK", "openlineage.sourceUrl": "https://git.example/a", "openlineage.sourceVersion": "3f1c",
		"openlineage.jobTag.owner": "ann", "openlineage.inputs": "s3://in/a,s3://in/b", "openlineage.outputs": "s3://out/c",
	}
	if got, want := fmt.Sprint(last.Data.RunProperties), fmt.Sprint(want); got != want {
		t.Errorf("properties\n%s\nwant\n%s", got, want)
	}
	if got := fmt.Sprint(last.Data.RunTags); got != "map[n:7 repo:https://git.example/a tier:gold]" {
		t.Errorf("tags %s", got)
	}
	if last.Subject != "experiments/"+job+"/runs/"+runID || last.Data.ExperimentName != "team/dag.train" || last.Data.RunType != "openlineage.airflow.task" || last.Data.RunStatus != "Failed" {
		t.Errorf("event %+v", last)
	}
	if e, err := d.workspaces.GetExperiment(t.Context(), d.ws, job); err != nil || e.DisplayName != "team/dag.train" {
		t.Errorf("experiment %+v, error %v", e, err)
	}
}

// printable leaves out the room that the log fills.
func printable(r rune) rune {
	if r == 0 {
		return '0'
	}
	return r
}

// What could not be stored is not acknowledged, whatever else a batch holds.
func TestNotStored(t *testing.T) {
	d := newDesk(t)
	d.log.fail = fault.New(fault.Unavailable, "LogFull", "The log is full.").After(time.Second)
	for path, body := range map[string]string{at: lineageEvent("START", noon, ""), at + "/batch": "[" + lineageEvent("DONE", noon, "") + "," + lineageEvent("START", noon, "") + "]"} {
		if w := d.send(t, path, body, nil); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s answers %d %s", path, w.Code, w.Body)
		}
	}
	d.log.fail = errors.New("the disk is on fire")
	if w := d.send(t, at, lineageEvent("START", noon, ""), nil); w.Code != 500 || strings.Contains(w.Body.String(), "fire") {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

func TestServes(t *testing.T) {
	for path, want := range map[string]bool{
		at: true, "/OpenLineage/x": true, bells + "/providers/Carillon.OpenLineage/api/v1/lineage/batch": true,
		bells + "/providers/Carillon.OpenLineage/receivers/default": false, "/openlineage": false, "/topics/openlineage/api/events": false,
	} {
		if Serves(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

// FuzzEvent sends any body: nothing panics, nothing but good and bad requests is
// answered, and no event outgrows what the log takes.
func FuzzEvent(f *testing.F) {
	for _, body := range []string{lineageEvent("START", noon, ""), lineageEvent("FAIL", later, `,"inputs":[{}],"outputs":null`), `{"run":{}}`, `[[{"run":{"facets":{"tags":{"tags":[{"key":"a","value":{}}]}}}}]]`, "[]", `{"run":{"runId":1}}`, `{"eventTime":9,"run":null}`} {
		f.Add(body, false)
		f.Add(body, true)
	}
	f.Fuzz(func(t *testing.T, body string, batched bool) {
		d := newDesk(t)
		path := at
		if batched {
			path, body = at+batch, "["+body+"]"
		}
		w := d.send(t, path, body, nil)
		if w.Code != 200 && w.Code != 204 && w.Code != 400 {
			t.Errorf("answer %d %s", w.Code, w.Body)
		}
		if w.Code >= 400 && len(d.log.events) > 0 {
			t.Errorf("a refused request raised %q", d.log.events)
		}
		for _, e := range d.log.events {
			if len(e) > 1<<20 {
				t.Errorf("an event of %d bytes", len(e))
			}
		}
	})
}
