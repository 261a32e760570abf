package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/workspace"
)

// apiServer is an API server that has two kinds of objects, as its clients see it: lists
// by pages, watches from a resource version with bookmarks, and a history that ends.
type apiServer struct {
	mu        sync.Mutex
	version   int
	objects   map[string]map[string]any // by resource/namespace/name
	history   []change
	compacted int           // versions up to it cannot be watched from
	changed   chan struct{} // closed at each change
	dropped   chan struct{} // closed to end every watch

	lacks   bool // of InferenceServices
	refuses bool // connections
	down    bool
	status  int  // that everything is answered with, 0 for none
	expire  bool // the next watch is told 410 in its stream
	lists   int
}

type change struct {
	version int
	at      string
	verb    string
	object  map[string]any
}

func newAPIServer() *apiServer {
	return &apiServer{version: 10, objects: map[string]map[string]any{}, changed: make(chan struct{}), dropped: make(chan struct{})}
}

// put makes or replaces an object; nil removes it.
func (a *apiServer) put(at string, object map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	verb := "MODIFIED"
	old := a.objects[at]
	if object == nil && old == nil {
		return
	}
	switch {
	case object == nil:
		verb, object = "DELETED", old
		delete(a.objects, at)
	case old == nil:
		verb = "ADDED"
	}
	raw, _ := json.Marshal(object)
	var copied map[string]any
	_ = json.Unmarshal(raw, &copied)
	copied["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(a.version)
	if verb != "DELETED" {
		a.objects[at] = copied
	}
	a.history = append(a.history, change{a.version, at, verb, copied})
	close(a.changed)
	a.changed = make(chan struct{})
}

// drop ends every watch; with gap none goes on from where it was.
func (a *apiServer) drop(gap bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if gap {
		a.compacted = a.version
	}
	close(a.dropped)
	a.dropped = make(chan struct{})
}

// away makes changes while the server does not answer; with gap no watch goes on from
// where it was.
func (a *apiServer) away(gap bool, changes func()) {
	a.set(func() { a.down = true })
	a.drop(false)
	changes()
	a.set(func() {
		a.down = false
		if gap {
			a.compacted = a.version
		}
	})
}

func (a *apiServer) listed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lists
}

func (a *apiServer) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	prefix, lacks := strings.TrimPrefix(r.URL.Path, "/apis/"), a.lacks
	code, down := a.status, a.down
	a.mu.Unlock()
	prefix = prefix[strings.IndexByte(prefix, '/')+1:] // without the group
	prefix = prefix[strings.IndexByte(prefix, '/')+1:] // and the version
	if rest, ok := strings.CutPrefix(prefix, "namespaces/"); ok {
		namespace, resource, _ := strings.Cut(rest, "/")
		prefix = resource + "/" + namespace
	}
	prefix += "/"
	query := r.URL.Query()
	fail := func(code int, reason string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "the server says " + reason + " to " + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), "code": code})
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer s3cret":
		fail(401, "Unauthorized")
	case down:
		fail(503, "ServiceUnavailable")
	case code == 403:
		fail(403, "Forbidden")
	case lacks && strings.HasPrefix(prefix, "inferenceservices/"):
		fail(404, "NotFound")
	case strings.HasPrefix(prefix, "deployments/") && query.Get("labelSelector") != "carillon.dev/model-service=true":
		fail(400, "BadRequest")
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		a.watch(w, r, prefix, fail)
	default:
		a.list(w, prefix, query.Get("continue"))
	}
}

// pages of two objects.
func (a *apiServer) list(w http.ResponseWriter, prefix, after string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if after == "" {
		a.lists++
	}
	var names []string
	for at := range a.objects {
		if strings.HasPrefix(at, prefix) && at > after {
			names = append(names, at)
		}
	}
	slices.Sort(names)
	meta := map[string]any{"resourceVersion": strconv.Itoa(a.version)}
	items := []any{}
	for i, at := range names {
		if i == 2 {
			meta["continue"] = names[1]
			break
		}
		items = append(items, a.objects[at])
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})
}

func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, prefix string, fail func(int, string)) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	send := func(verb string, object map[string]any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": verb, "object": object})
		_ = http.NewResponseController(w).Flush()
	}
	a.mu.Lock()
	dropped := a.dropped
	expired := from < a.compacted
	if expired {
		inStream := a.expire
		a.expire = false
		a.mu.Unlock()
		if !inStream {
			fail(410, "Expired")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		send("ERROR", map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410})
		return
	}
	var due []func() // sent without the lock: a client that does not read must not hold up the others
	bookmark := func() {
		version := strconv.Itoa(a.version)
		due = append(due, func() {
			send("BOOKMARK", map[string]any{"kind": "X", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": version}})
		})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	for {
		for _, c := range a.history {
			if c.version > from && strings.HasPrefix(c.at, prefix) {
				due = append(due, func() { send(c.verb, c.object) })
			}
		}
		from = a.version
		bookmark()
		changed := a.changed
		a.mu.Unlock()
		for _, f := range due {
			f()
		}
		due = nil
		select {
		case <-changed:
		case <-dropped:
			return
		case <-r.Context().Done():
			return
		}
		a.mu.Lock()
	}
}

// pipes is a listener without a network.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// factLog is the log under the workspace, in memory.
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
		data := slices.Clone(r.Data)
		for _, h := range r.Holes {
			copy(data[h.Offset:h.Offset+engine.SequencerSize], receipt.Sequencer(h.Of))
		}
		switch {
		case r.Kind == engine.KindEvent:
			l.events = append(l.events, string(data))
		case len(data) == 0:
			delete(l.facts, r.Key)
		default:
			l.facts[r.Key] = engine.Fact{Key: r.Key, Position: receipt.Position(i), Generation: 1, Data: data}
		}
	}
	return receipt, nil
}

func (l *factLog) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
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

// bridge is a Service between a cluster and a workspace.
type bridge struct {
	*Service
	t     *testing.T
	api   *apiServer
	log   *factLog
	store *resource.Store
	ws    resource.Workspace
	names *workspace.Service
	dial  Dial
	stop  func()
	taken int
}

const workspaceID = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab/providers/Microsoft.MachineLearningServices/workspaces/bells"

// newBridge makes a bridge. Call it within a bubble.
func newBridge(t *testing.T, api *apiServer) *bridge {
	t.Helper()
	b := &bridge{t: t, api: api, log: &factLog{facts: map[string]engine.Fact{}}, store: resource.NewStore(resource.NewMemoryKV())}
	b.ws = resource.Workspace{Meta: resource.Meta{ID: resource.MustID(workspaceID)}, UID: 1, TopicUID: 2, ExtraEvents: []string{"DeploymentFailed"}}
	if _, err := b.store.Workspaces.Create(t.Context(), b.ws.ID.Key(), b.ws); err != nil {
		t.Fatal(err)
	}
	listener := &pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: api, ErrorLog: log.New(discard{}, "", 0)}
	go func() { _ = server.Serve(listener) }()
	b.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		api.mu.Lock()
		refuses := api.refuses
		api.mu.Unlock()
		if refuses {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		return listener.dial(ctx, network, addr)
	}
	t.Cleanup(func() {
		b.stop()
		api.drop(false)
		_ = server.Close()
	})
	b.start()
	return b
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// start makes what a new process makes of the ledger.
func (b *bridge) start() {
	b.names = workspace.New(workspace.Config{Recorder: b.log, Facts: b.log, Workspaces: b.store.Workspaces})
	b.Service = New(Config{
		Store: b.store, Ledger: b.names, Dial: b.dial, DialClear: b.dial, Logger: slog.New(slog.DiscardHandler),
		Secret: func(*resource.Cluster) (secret.String, error) { return "s3cret", nil },
	})
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	b.stop = func() { cancel(); <-done }
}

func (b *bridge) restart() { b.stop(); b.start() }

func (b *bridge) attach(change ...func(*resource.Cluster)) resource.Cluster {
	b.t.Helper()
	c := resource.Cluster{UID: resource.NewUID(), Workspace: b.ws.ID, Name: "prod", Server: "http://k.example", Created: resource.Stamp{At: time.Now()}}
	for _, f := range change {
		f(&c)
	}
	if _, err := b.store.Clusters.Create(b.t.Context(), c.ID().Key(), c); err != nil {
		b.t.Fatal(err)
	}
	b.settle()
	return c
}

// settle lets half a minute pass: what had to happen has happened.
func (b *bridge) settle() {
	time.Sleep(30 * time.Second)
	synctest.Wait()
}

// want holds the events since the last call against a list of type and service.
func (b *bridge) want(words ...string) {
	b.t.Helper()
	b.settle()
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	var got []string
	for _, text := range b.log.events[b.taken:] {
		var e struct {
			EventType string
			Data      struct{ ServiceName, ModelIDs string }
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			b.t.Fatal(err)
		}
		got = append(got, e.EventType[strings.LastIndexByte(e.EventType, '.')+1:]+" "+e.Data.ServiceName+" "+e.Data.ModelIDs)
	}
	b.taken = len(b.log.events)
	slices.Sort(got)
	slices.Sort(words)
	if !slices.Equal(got, words) {
		b.t.Errorf("events %q, want %q", got, words)
	}
}

// endpoints holds the online endpoints and their states against a list.
func (b *bridge) endpoints(want ...string) {
	b.t.Helper()
	list, _, err := b.names.ListEndpoints(b.t.Context(), b.ws, workspace.Page{})
	var got []string
	for _, e := range list {
		got = append(got, e.Name+" "+string(e.State))
	}
	if err != nil || !slices.Equal(got, want) {
		b.t.Errorf("online endpoints %q, error %v, want %q", got, err, want)
	}
}

func (b *bridge) state(c resource.Cluster, want string) manage.KubernetesStatus {
	b.t.Helper()
	status, ok := b.Status(c.UID)
	if !ok || status.State != want {
		b.t.Errorf("status is %+v, want %s", status, want)
	}
	return status
}

// service is an InferenceService of a generation; the model is of the number of the
// generation.
func service(name string, generation int, ready bool) map[string]any {
	status, observed := "False", generation-1
	if ready {
		status, observed = "True", generation
	}
	return map[string]any{
		"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
		"metadata": map[string]any{"namespace": "ml", "name": name, "uid": "uid-of-" + name, "generation": generation, "managedFields": []any{map[string]any{"manager": "kubectl"}}},
		"spec":     map[string]any{"predictor": map[string]any{"model": map[string]any{"storageUri": fmt.Sprintf("models:/%s/%d", name, generation)}}},
		"status":   map[string]any{"observedGeneration": observed, "conditions": []any{map[string]any{"type": "Ready", "status": status}}},
	}
}

func (b *bridge) put(name string, generation int, ready bool) {
	b.api.put("inferenceservices/ml/"+name, service(name, generation, ready))
}

func deploymentOf(name string, available int) map[string]any {
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"namespace": "ml", "name": name, "uid": "uid-of-" + name, "generation": 1, "annotations": map[string]any{revisionComment: "1", modelIDsComment: name + ":1"}},
		"spec":     map[string]any{"replicas": 2},
		"status":   map[string]any{"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": available},
	}
}

// TestCluster follows a cluster through all that may happen to it.
func TestCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		b := newBridge(t, api)
		for _, old := range []string{"a", "b", "c", "d", "e"} { // three pages
			b.put(old, 1, old != "e")
		}
		cluster := b.attach()
		b.want()
		b.endpoints("ml.a Healthy", "ml.b Healthy", "ml.c Healthy", "ml.d Healthy", "ml.e Transitioning")

		b.put("e", 1, true)
		b.want("ModelDeployed ml/e e:1")
		b.put("f", 1, false)
		b.put("f", 1, true)
		b.put("f", 1, false)
		b.put("f", 1, true)
		b.put("a", 2, false)
		api.put("deployments/ml/scorer", deploymentOf("scorer", 1))
		b.want("ModelDeployed ml/f f:1")
		api.put("deployments/ml/scorer", deploymentOf("scorer", 2))
		b.want("ModelDeployed ml/scorer scorer:1")

		// The connections break, and go on where they were.
		lists := api.listed()
		api.drop(false)
		b.put("a", 2, true)
		b.want("ModelDeployed ml/a a:2")
		if n := api.listed(); n != lists {
			t.Errorf("%d lists more after a watch that broke", n-lists)
		}

		// The server is away for ten minutes while a service is deployed.
		api.away(false, func() {
			time.Sleep(10 * time.Minute)
			b.put("b", 2, true)
		})
		time.Sleep(time.Minute)
		b.want("ModelDeployed ml/b b:2")

		// What happened in a gap is found by a list: told by the answer, and in the stream.
		for _, inStream := range []bool{false, true} {
			api.away(true, func() {
				b.put("g", 1, true)
				api.put("inferenceservices/ml/g", nil)
				api.put("inferenceservices/ml/f", nil)
				b.put("h", map[bool]int{false: 1, true: 2}[inStream], true)
				api.set(func() { api.expire = inStream })
			})
			time.Sleep(time.Minute)
		}
		b.want("ModelDeployed ml/h h:1", "ModelDeployed ml/h h:2")
		b.endpoints("ml.a Healthy", "ml.b Healthy", "ml.c Healthy", "ml.d Healthy", "ml.e Healthy", "ml.h Healthy", "ml.scorer Healthy")

		// A new process asks again, and knows all of it.
		b.restart()
		b.want()
		b.stop()
		b.put("c", 2, true)
		api.put("deployments/ml/scorer", nil)
		b.start()
		b.want("ModelDeployed ml/c c:2")
		b.endpoints("ml.a Healthy", "ml.b Healthy", "ml.c Healthy", "ml.d Healthy", "ml.e Healthy", "ml.h Healthy")

		// While nothing can be stored the watch waits.
		b.log.refuse(fault.New(fault.Unavailable, "LogFull", "The log is full."))
		b.put("d", 2, true)
		b.put("d", 3, false)
		api.put("inferenceservices/ml/e", nil)
		time.Sleep(10 * time.Minute)
		b.state(cluster, manage.KubernetesFailing)
		b.log.refuse(nil)
		time.Sleep(time.Minute)
		b.state(cluster, manage.KubernetesWatching)
		b.want("ModelDeployed ml/d d:2")
		b.endpoints("ml.a Healthy", "ml.b Healthy", "ml.c Healthy", "ml.d Transitioning", "ml.h Healthy")

		// An hour later everything is listed once more, and is known.
		lists = api.listed()
		time.Sleep(90 * time.Minute)
		b.want()
		if n := api.listed(); n != lists+2 {
			t.Errorf("%d lists in 90 minutes, want one of each kind", n-lists)
		}
		if status := b.state(cluster, manage.KubernetesWatching); status.Objects != 5 || status.Absent || time.Since(status.LastList) > time.Hour {
			t.Errorf("status is %+v", status)
		}

		// One that is detached is forgotten, and raises nothing when it comes back.
		if err := b.store.Clusters.Delete(t.Context(), cluster.ID().Key(), 0); err != nil {
			t.Fatal(err)
		}
		b.settle()
		b.endpoints()
		b.attach(func(c *resource.Cluster) { c.EmitBacklog = true })
		b.want()
		b.endpoints("ml.a Healthy", "ml.b Healthy", "ml.c Healthy", "ml.d Transitioning", "ml.h Healthy")
	})
}

// A cluster without KServe is followed; what comes with KServe is new, and what goes with
// it is gone. One that refuses says so.
func TestClusterThatLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		api.lacks = true
		b := newBridge(t, api)
		cluster := b.attach()
		api.put("deployments/ml/scorer", deploymentOf("scorer", 2))
		b.want("ModelDeployed ml/scorer scorer:1")
		if status := b.state(cluster, manage.KubernetesWatching); !status.Absent || status.LastError != "" {
			t.Errorf("status is %+v", status)
		}
		time.Sleep(2 * time.Minute)
		api.set(func() { api.lacks = false })
		b.put("churn", 1, true)
		time.Sleep(2 * time.Minute)
		b.want("ModelDeployed ml/churn churn:1")

		b.stop()
		api.set(func() { api.lacks = true })
		b.start()
		b.settle()
		b.endpoints("ml.churn Healthy", "ml.scorer Healthy") // it may be that the server has just begun
		time.Sleep(2 * time.Minute)
		b.endpoints("ml.scorer Healthy")
		if status := b.state(cluster, manage.KubernetesWatching); !status.Absent || status.Objects != 1 {
			t.Errorf("status is %+v", status)
		}
		api.set(func() { api.lacks = false })
		b.put("new", 1, true)
		time.Sleep(2 * time.Minute)
		b.want("ModelDeployed ml/new new:1")
		b.endpoints("ml.churn Healthy", "ml.new Healthy", "ml.scorer Healthy")

		api.set(func() { api.status = 403 })
		api.drop(true)
		b.settle()
		if status := b.state(cluster, manage.KubernetesRefused); !strings.Contains(status.LastError, "Forbidden") {
			t.Errorf("status is %+v", status)
		}
		if err := b.Check(t.Context(), &cluster, "s3cret"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("check: %v", err)
		}
		api.set(func() { api.status = 0 })
		if err := b.Check(t.Context(), &cluster, "s3cret"); err != nil {
			t.Errorf("check: %v", err)
		}
		if err := b.Check(t.Context(), &cluster, "wr0ng"); err == nil || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("check with another token: %v", err)
		}
		time.Sleep(15 * time.Minute)
		b.state(cluster, manage.KubernetesWatching)
		b.want()
	})
}

// A cluster that takes no connections when it is begun with is said to fail, and does not
// hold up the end.
func TestClusterThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		api.refuses = true
		b := newBridge(t, api)
		b.put("churn", 1, true)
		cluster := b.attach(func(c *resource.Cluster) { c.EmitBacklog = true })
		if status := b.state(cluster, manage.KubernetesFailing); !strings.Contains(status.LastError, "connection refused") {
			t.Errorf("status is %+v", status)
		}
		time.Sleep(5 * time.Minute)
		asked := time.Now()
		b.stop()
		if took := time.Since(asked); took > time.Second {
			t.Errorf("it ended after %v", took)
		}
		b.start()
		b.settle()
		b.state(cluster, manage.KubernetesFailing)
		api.set(func() { api.refuses = false })
		b.want("ModelDeployed ml/churn churn:1")
		b.state(cluster, manage.KubernetesWatching)
	})
}

// Namespaces are followed one by one, and an object that another cluster has, or that
// cannot be read, costs itself alone.
func TestClusterInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		b := newBridge(t, api)
		elsewhere := service("churn", 1, true)
		elsewhere["metadata"].(map[string]any)["namespace"] = "other"
		api.put("inferenceservices/other/churn", elsewhere)
		strange := service("strange", 1, true)
		strange["status"] = map[string]any{"conditions": "none"}
		api.put("inferenceservices/ml/strange", strange)
		b.put("churn", 1, true)
		cluster := b.attach(func(c *resource.Cluster) { c.EmitBacklog, c.Namespaces = true, []string{"ml"} })
		b.want("ModelDeployed ml/churn churn:1")
		if status := b.state(cluster, manage.KubernetesWatching); !strings.Contains(status.LastError, "ml/strange") {
			t.Errorf("status is %+v", status)
		}
		second := resource.Cluster{UID: 9, Workspace: b.ws.ID, Name: "second", Server: "http://k.example", EmitBacklog: true}
		if _, err := b.store.Clusters.Create(t.Context(), second.ID().Key(), second); err != nil {
			t.Fatal(err)
		}
		b.want("ModelDeployed other/churn churn:1")
		if status := b.state(second, manage.KubernetesWatching); status.LastError == "" {
			t.Errorf("status is %+v", status)
		}
		b.endpoints("ml.churn Healthy", "other.churn Healthy")
	})
}
