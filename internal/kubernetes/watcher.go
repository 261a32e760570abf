package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// Ledger decides what sightings mean. *workspace.Service satisfies it.
type Ledger interface {
	ObserveService(ctx context.Context, ws resource.Workspace, o workspace.Sighting, by resource.Stamp) (workspace.Observed, error)
	ServicesOf(ctx context.Context, ws resource.Workspace, prefix string) (map[string]string, error)
	ServiceGone(ctx context.Context, ws resource.Workspace, name, origin string) error
	Note(ctx context.Context, ws resource.Workspace, watcher string, into any) (bool, error)
	SetNote(ctx context.Context, ws resource.Workspace, watcher string, value any) error
}

// watcherStamp is who changes what a cluster keeps.
var watcherStamp = resource.Stamp{By: "Carillon Kubernetes watcher", Kind: "Application"}

const (
	listAgain    = time.Hour        // everything is listed, whatever a watch says
	absentPause  = time.Minute      // until a kind that the cluster lacks is looked for again
	longestPause = 30 * time.Second // after failures
	refusedPause = 10 * time.Minute
	pageOfList   = 500
)

// watcher follows one kind of object in one namespace, or in all of them. It is the
// store that client-go's reflector fills: it keeps nothing.
type watcher struct {
	*Service
	ctx       context.Context //nolint:containedctx // of the call of follow that the reflector is under: its methods take none
	cluster   *resource.Cluster
	ws        resource.Workspace
	kind      *kind
	namespace string
	client    dynamic.Interface
	log       *slog.Logger

	known    bool // a list was taken whole once: what comes now is new
	absences int  // answers in a row that there is no such kind: the second is an empty list, for a server that has just begun may not know its kinds yet
	health   *health
}

// note remembers that a list was taken whole.
type note struct {
	Listed bool `json:"listed"`
}

func (w *watcher) noteName() string {
	return "kubernetes/" + w.cluster.UID.String() + "/" + w.kind.resource.Resource + "/" + w.namespace
}

// follow lists and watches until ctx ends.
func (w *watcher) follow(ctx context.Context) {
	w.ctx = klog.NewContext(ctx, logr.Discard()) // what goes wrong is told by health
	failures := 0
	for ctx.Err() == nil {
		err := w.turn()
		if ctx.Err() != nil {
			return
		}
		pause := time.Duration(0)
		switch {
		case err == nil:
			failures = 0
			pause = time.Second
		case w.kind.optional && apierrors.IsNotFound(err):
			w.absences++
			if w.absences == 2 && w.replace(nil) != nil {
				return
			}
			w.health.set(absent)
			failures, pause = 0, absentPause
		default:
			failures++
			w.absences = 0
			pause = min(longestPause, time.Second<<min(failures, 12))
			if Refused(err) {
				pause = refusedPause
			}
			w.health.fail(err)
			w.log.LogAttrs(ctx, slog.LevelWarn, "Kubernetes cluster not read", slog.String(telemetry.Error, shown(err).Error()), slog.Int("failures", failures), slog.Duration("pause", pause))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause + rand.N(pause/10+1)):
		}
	}
}

// turn makes one list and watches from there, for as long as lists go without another.
func (w *watcher) turn() error {
	if !w.known {
		var n note
		found, err := w.cfg.Ledger.Note(w.ctx, w.ws, w.noteName(), &n)
		if err != nil {
			return err
		}
		w.known = found && n.Listed
	}
	ctx, cancel := context.WithTimeout(w.ctx, listAgain)
	defer cancel()
	objects := w.client.Resource(w.kind.resource).Namespace(w.namespace)
	selector := selectorOf(w.cluster, w.kind)
	var listed listing
	reflector := cache.NewReflectorWithOptions(&paged{cache.ListWatch{
		ListWithContextFunc: func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			o.ResourceVersion, o.ResourceVersionMatch = "", "" // from the store, not from a cache that may be older
			return listed.list(ctx, objects, o)
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			stream, err := objects.Watch(ctx, o)
			if err == nil {
				w.health.set(watching)
			} else {
				w.health.fail(err)
			}
			w.metrics.watches.WithLabelValues(outcomeOf(err)).Inc()
			return stream, err
		},
	}}, &unstructured.Unstructured{}, w, cache.ReflectorOptions{Name: "carillon", TypeDescription: w.kind.resource.Resource})
	reflector.WatchListPageSize = pageOfList
	return reflector.ListAndWatchWithContext(ctx)
}

func outcomeOf(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// Add satisfies cache.ReflectorStore.
func (w *watcher) Add(object any) error { return w.seen(object) }

// Update satisfies cache.ReflectorStore.
func (w *watcher) Update(object any) error { return w.seen(object) }

// Delete satisfies cache.ReflectorStore.
func (w *watcher) Delete(object any) error {
	o, err := w.sight(object)
	if o.Origin == "" {
		return err
	}
	return w.insist(func() error { return w.cfg.Ledger.ServiceGone(w.ctx, w.ws, o.Name, o.Origin) })
}

// Replace satisfies cache.ReflectorStore: the list is all that there is.
func (w *watcher) Replace(list []any, _ string) error {
	w.absences = 0
	return w.replace(list)
}

func (w *watcher) replace(list []any) error {
	there := map[string]bool{}
	w.health.skip(nil)
	for _, object := range list {
		if o, _ := w.sight(object); o.Origin != "" {
			there[o.Origin] = true
		}
		if err := w.seen(object); err != nil {
			return err
		}
	}
	err := w.insist(func() error {
		kept, err := w.cfg.Ledger.ServicesOf(w.ctx, w.ws, origin(w.cluster, w.kind, w.namespace))
		for name, at := range kept {
			if err == nil && !there[at] {
				err = w.cfg.Ledger.ServiceGone(w.ctx, w.ws, name, at)
			}
		}
		return err
	})
	if err != nil || w.known {
		w.health.listed(len(list))
		return err
	}
	if err := w.insist(func() error { return w.cfg.Ledger.SetNote(w.ctx, w.ws, w.noteName(), note{Listed: true}) }); err != nil {
		return err
	}
	w.known = true
	w.health.listed(len(list))
	return nil
}

// Resync satisfies cache.ReflectorStore.
func (*watcher) Resync() error { return nil }

func (w *watcher) sight(object any) (workspace.Sighting, error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return workspace.Sighting{}, fmt.Errorf("%T is no object of a cluster", object)
	}
	return sight(w.cluster, w.kind, u)
}

// seen submits an object. One that cannot be read, or whose name another cluster has, is
// passed over, and the status says so.
func (w *watcher) seen(object any) error {
	o, err := w.sight(object)
	if err != nil {
		w.skip(err)
		return nil
	}
	o.Silent = !w.known && !w.cluster.EmitBacklog
	return w.insist(func() error {
		out, err := w.cfg.Ledger.ObserveService(w.ctx, w.ws, o, watcherStamp)
		if fault.Is(err, fault.Conflict) || fault.Is(err, fault.Invalid) {
			w.skip(err)
			return nil
		}
		w.metrics.events.Add(float64(out.Events))
		return err
	})
}

func (w *watcher) skip(err error) {
	w.health.skip(err)
	w.log.LogAttrs(w.ctx, slog.LevelWarn, "object of a Kubernetes cluster passed over", slog.String(telemetry.Error, shown(err).Error()))
}

// insist does something until it is done: what the reflector was told it takes for
// kept. It ends with the watcher.
func (w *watcher) insist(do func() error) error {
	pause, failed := 100*time.Millisecond, false
	for {
		err := do()
		if err == nil {
			if failed {
				w.health.set(watching)
			}
			return nil
		}
		if w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		failed = true
		w.health.fail(err)
		select {
		case <-w.ctx.Done():
			return w.ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// state is how one watcher stands, the best first.
type state uint8

const (
	absent state = iota
	watching
	connecting
	failing
	refused
)

// health is what a watcher says of itself.
type health struct {
	mu       sync.Mutex
	state    state
	lastList time.Time
	objects  int
	failure  problem // that stops the watcher; none once it goes on
	skipped  problem // that cost one object, since the last list
}

// problem is an error as users may see it.
type problem struct {
	text string
	at   time.Time
}

func problemOf(err error) problem {
	if err == nil {
		return problem{}
	}
	return problem{shown(err).Error(), time.Now()}
}

// set notes a state in which nothing fails.
func (h *health) set(s state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state, h.failure = s, problem{}
}

func (h *health) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state, h.failure = failing, problemOf(err)
	if Refused(err) {
		h.state = refused
	}
}

func (h *health) skip(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.skipped = problemOf(err)
}

func (h *health) listed(n int) {
	h.set(watching)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastList, h.objects = time.Now(), n
}
