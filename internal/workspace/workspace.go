package workspace

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// Recorder stores facts and events in one write: all records or none, durable
// when it returns. The broker's log step satisfies it.
type Recorder interface {
	Record(ctx context.Context, records []engine.Record) (engine.Receipt, error)
}

// Facts reads the newest state of objects: what Record stored can be read as soon
// as it returned. engine.Partition satisfies it.
type Facts interface {
	// Fact returns the fact of a key, false for none and for a deleted object.
	Fact(ctx context.Context, key string) (engine.Fact, bool, error)
	// FactKeys returns the keys that begin with prefix, which ends in "/", sorted.
	FactKeys(ctx context.Context, prefix string) ([]string, error)
	// Generation begins the sequencers of what is recorded now; it is larger than that
	// of anything an earlier process recorded.
	Generation() uint64
}

// Changes reads the newest state of objects in the order in which they changed.
// engine.Partition satisfies it.
type Changes interface {
	// FactsAfter returns at most most facts of objects below prefix, of which a segment may
	// be "*", that were written at or after a time and behind a sequencer, and whether there
	// are more.
	FactsAfter(ctx context.Context, prefix string, since time.Time, after string, most int) ([]engine.Fact, bool, error)
}

// Config holds what a Service needs. Every field is needed unless it says so.
type Config struct {
	Recorder   Recorder
	Facts      Facts
	Workspaces *resource.Collection[resource.Workspace]
	Changes    Changes // optional: without it there are no lifecycle events to list

	// Client asks readiness addresses. Its connections must be guarded and it must
	// follow no redirect; egress.Guard.Client makes one.
	Client *http.Client
	// CheckURL says whether an address may ever be asked, so that one that may not
	// is refused when it is set. Optional; egress.Guard.CheckURL satisfies it.
	CheckURL func(*url.URL) error
	// CheckDataset says whether the server may read a dataset at an address, without
	// reading it. Optional; dataset.Places.Check satisfies it.
	CheckDataset func(uri string) error
	// Logger gets one record for each readiness probe that ends. Optional.
	Logger *slog.Logger
}

// Service does the operations on the objects of all workspaces. Its methods may
// be called from several goroutines.
type Service struct {
	recorder     Recorder
	facts        Facts
	changes      Changes
	workspaces   *resource.Collection[resource.Workspace]
	checkURL     func(*url.URL) error
	checkDataset func(string) error
	log          *slog.Logger
	locks        locks
	probes       probes
	driftJobs    driftJobs
	newest       atomic.Pointer[Mark] // of the last fact that this process stored
	newID        func() string        // a GUID
}

// New makes a Service. Readiness probes rest until Run.
func New(c Config) *Service {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		recorder:     c.Recorder,
		facts:        c.Facts,
		changes:      c.Changes,
		workspaces:   c.Workspaces,
		checkURL:     c.CheckURL,
		checkDataset: c.CheckDataset,
		log:          log,
		locks:        locks{held: map[string]*heldLock{}},
		probes:       probes{client: c.Client, wake: make(chan struct{}, 1), waiting: map[string]probe{}, running: map[string]*runningProbe{}},
		newID:        uuid.NewString,
	}
}

// Terms say who asks for a write and what must hold for it to happen.
type Terms struct {
	By resource.Stamp // At is ignored: the service knows the time

	// IfMatch holds etags, or "*" for any; the object must exist with one of them.
	// Empty asks nothing.
	IfMatch []string
	// IfNoneMatch holds etags, or "*" for any; the object must not exist with one
	// of them. Empty asks nothing.
	IfNoneMatch []string
}

// hold reports whether the terms hold for an object that exists with an etag, or
// does not exist.
func (t Terms) hold(what string, found bool, etag string) error {
	if len(t.IfMatch) > 0 {
		if !found {
			return fault.New(fault.PreconditionFailed, "PreconditionFailed", "%s does not exist, and If-Match asks that it does.", what)
		}
		if !matches(t.IfMatch, etag) {
			return fault.New(fault.PreconditionFailed, "PreconditionFailed",
				"%s has the etag %q, which If-Match does not name: it was changed since it was read. Read it again and repeat the change.", what, etag)
		}
	}
	if found && matches(t.IfNoneMatch, etag) {
		return fault.New(fault.PreconditionFailed, "PreconditionFailed", "%s exists with the etag %q, and If-None-Match asks that it does not.", what, etag)
	}
	return nil
}

func matches(tags []string, etag string) bool {
	for _, tag := range tags {
		if tag == "*" || tag == etag {
			return true
		}
	}
	return false
}

// enter begins an operation on a workspace: it returns the newest record, and the
// workspace is not deleted until leave is called.
func (s *Service) enter(ws resource.Workspace) (now resource.Workspace, leave func(), err error) {
	leave = s.locks.share("workspace/" + ws.UID.String())
	item, ok := s.workspaces.Get(ws.ID.Key())
	if !ok || item.Value.UID != ws.UID {
		leave()
		return resource.Workspace{}, nil, fault.New(fault.NotFound, "ParentResourceNotFound", "The workspace %q was deleted.", ws.ID)
	}
	return item.Value, leave, nil
}

// workspaceOf finds a workspace by its uid.
func (s *Service) workspaceOf(uid resource.UID) (resource.Workspace, bool) {
	for _, item := range s.workspaces.List("") {
		if item.Value.UID == uid {
			return item.Value, true
		}
	}
	return resource.Workspace{}, false
}

// deleteBatch bounds the facts that one write of a deletion holds.
const deleteBatch = 1000

// DeleteAll forgets every object of a workspace and raises nothing. Call it after
// the workspace's own record is gone; it may be repeated.
func (s *Service) DeleteAll(ctx context.Context, uid resource.UID) error {
	defer s.locks.lock("workspace/" + uid.String())()
	for _, kind := range kinds {
		prefix := key(kind, uid)
		keys, err := s.facts.FactKeys(ctx, prefix+"/")
		if err != nil {
			return fmt.Errorf("list %s of deleted workspace: %w", kind, err)
		}
		for _, k := range keys {
			s.probes.end(k)
		}
		if kind == kindDriftRun {
			s.driftJobs.tell(DriftJob{Workspace: uid}, true)
		}
		if err := s.forget(ctx, keys); err != nil {
			return fmt.Errorf("delete %s of deleted workspace: %w", kind, err)
		}
	}
	return nil
}

// forget stores that the objects of keys are gone, in as few writes as fit.
func (s *Service) forget(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), deleteBatch)
		var w write
		for _, k := range keys[:n] {
			w.gone(k)
		}
		if _, err := s.record(ctx, &w); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// The kinds of facts, each the first segment of its keys. They stay as they are
// for ever: the log holds them.
const (
	kindExperiment = "exp"         // {workspace}/{experiment}
	kindRun        = "run"         // {workspace}/{experiment}/{run}
	kindModel      = "modelseq"    // {workspace}/{model}: the model's name and highest number
	kindVersion    = "model"       // {workspace}/{model}/{version}
	kindEndpoint   = "endpoint"    // {workspace}/{service}
	kindMonitor    = "monitor"     // {workspace}/{monitor}
	kindDriftRun   = "driftrun"    // {workspace}/{monitor}/{run}
	kindDocument   = "driftdoc"    // {workspace}/{monitor}/{run}: the result document, which lists do without
	kindCompared   = "driftwindow" // {workspace}/{monitor}/{window}: its newest drift run that ended
	kindDriftState = "driftstate"  // {workspace}/{monitor}: what its drift runs leave behind, and which are open
	kindOpen       = "open"        // {workspace}/{part}: mirrored runs that have not ended
	kindOrigin     = "origin"      // {workspace}/{hash}: the model that a mirrored version is of
	kindNote       = "note"        // {workspace}/{watcher}: what a watcher of another system remembers
	kindTrace      = "trace"       // {workspace}/{kind}/{…}: what a deleted object leaves behind
)

var kinds = []string{kindRun, kindExperiment, kindVersion, kindModel, kindEndpoint, kindDriftRun, kindDocument, kindCompared, kindDriftState, kindMonitor, kindOpen, kindOrigin, kindNote, kindTrace}

// key returns the fact key of an object.
func key(kind string, ws resource.UID, names ...string) string {
	var b strings.Builder
	b.WriteString(kind)
	b.WriteByte('/')
	b.WriteString(ws.String())
	for _, n := range names {
		b.WriteByte('/')
		b.WriteString(strings.ToLower(n))
	}
	return b.String()
}

// workspaceIn returns the workspace that a fact key belongs to.
func workspaceIn(k string) (uid resource.UID, err error) {
	segments := strings.SplitN(k, "/", 3)
	if len(segments) < 3 {
		return 0, fmt.Errorf("fact key %q names no workspace", k)
	}
	if err := uid.UnmarshalText([]byte(segments[1])); err != nil {
		return 0, fmt.Errorf("fact key %q: %w", k, err)
	}
	return uid, nil
}

// locks are read-write locks by name; one that nobody holds takes no memory.
type locks struct {
	mu   sync.Mutex
	held map[string]*heldLock
}

type heldLock struct {
	sync.RWMutex
	users int // who holds it or waits for it; guarded by locks.mu
}

// lock takes the lock alone and returns its release.
func (l *locks) lock(name string) (release func()) {
	h := l.use(name)
	h.Lock()
	return func() { h.Unlock(); l.leave(name, h) }
}

// share takes the lock together with other sharers and returns its release.
func (l *locks) share(name string) (release func()) {
	h := l.use(name)
	h.RLock()
	return func() { h.RUnlock(); l.leave(name, h) }
}

func (l *locks) use(name string) *heldLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[name]
	if h == nil {
		h = &heldLock{}
		l.held[name] = h
	}
	h.users++
	return h
}

func (l *locks) leave(name string, h *heldLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.held, name)
	}
}
