package mlflow

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Config holds what a Service needs. Every field is needed unless it says so.
type Config struct {
	Store  *resource.Store
	Ledger Ledger
	// Client asks MLflow servers. Its connections must be guarded and it must follow
	// no redirect; egress.Guard.Client makes one.
	Client *http.Client
	// Secret opens what a server is told as password or token.
	Secret func(*resource.MLflowServer) (secret.String, error)
	// WebhookSecret opens what the calls of a server are signed with.
	WebhookSecret func(*resource.MLflowServer) (secret.String, error)
	Logger        *slog.Logger
	Registerer    prometheus.Registerer // optional
	// ProxyOrigin is where the listener of the proxy is reached, such as
	// https://127.0.0.1:7443; "" where there is none.
	ProxyOrigin string
}

// Service follows every server that is attached. It is safe for concurrent use.
type Service struct {
	cfg     Config
	metrics *metrics
	wake    chan struct{} // the records have changed
	changes atomic.Uint64 // of the records
	named   sync.Map      // what Attached found, by name in lower case: attached

	mu     sync.Mutex
	status map[resource.UID]manage.MLflowStatus
	looks  map[resource.UID]*looks // of attached servers; outlives a change of their settings
	calls  map[resource.UID]*calls // of attached servers
}

// New makes a Service. Nothing is asked until Run.
func New(c Config) *Service {
	s := &Service{cfg: c, wake: make(chan struct{}, 1), status: map[resource.UID]manage.MLflowStatus{}, looks: map[resource.UID]*looks{}, calls: map[resource.UID]*calls{}}
	s.metrics = newMetrics(c.Registerer, s.longestLag)
	c.Store.MLflowServers.OnChange(func(string) { s.signal() })
	c.Store.Workspaces.OnChange(func(string) { s.signal() })
	return s
}

func (s *Service) signal() {
	s.changes.Add(1)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Check satisfies manage.MLflow.
func (s *Service) Check(ctx context.Context, server *resource.MLflowServer, password secret.String) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	return shown(s.client(server, password).Check(ctx))
}

// checkLimit bounds the question that a server is asked when it is attached.
const checkLimit = 30 * time.Second

// shown is an error as users may see it.
func shown(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(secret.Redact(err.Error()))
}

func (s *Service) client(server *resource.MLflowServer, password secret.String) *Client {
	c := Connection{URL: server.URL, StaticPrefix: server.StaticPrefix, Workspace: server.Within}
	if server.Username != "" {
		c.Username, c.Password = server.Username, password
	} else {
		c.Token = password
	}
	return NewClient(c, s.cfg.Client)
}

// Status satisfies manage.MLflow.
func (s *Service) Status(uid resource.UID) (manage.MLflowStatus, bool) {
	server, there := s.record(uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	status, ok := s.status[uid]
	if c := s.calls[uid]; c != nil {
		status.LastWebhook = c.lastAt()
	}
	if ok && there {
		status.Lag = lag(status.LastRound, server.Created.At)
	}
	return status, ok
}

func (s *Service) record(uid resource.UID) (resource.MLflowServer, bool) {
	for _, item := range s.cfg.Store.MLflowServers.List("") {
		if item.Value.UID == uid {
			return item.Value, true
		}
	}
	return resource.MLflowServer{}, false
}

// attached is a server that was found by the name of its workspace, when there had been
// so many changes.
type attached struct {
	changes uint64
	server  *resource.MLflowServer
}

// Attached returns the server that the workspace of a name follows: requests of MLflow's
// clients and webhooks name a workspace so. Nobody may change it. The error is a fault.
func (s *Service) Attached(name string) (*resource.MLflowServer, error) {
	now, key := s.changes.Load(), strings.ToLower(name)
	if known, ok := s.named.Load(key); ok && known.(attached).changes == now {
		return known.(attached).server, nil
	}
	ws, err := s.cfg.Store.WorkspaceNamed(name)
	if err != nil {
		return nil, err
	}
	item, ok := s.cfg.Store.MLflowServers.Get(ws.Key)
	if !ok {
		return nil, fault.New(fault.NotFound, "ResourceNotFound",
			"The workspace '%s' follows no MLflow server: attach one with carillon mlflow attach URL --workspace %[1]s.", ws.Value.ID.Name())
	}
	s.named.Store(key, attached{now, &item.Value})
	return &item.Value, nil
}

// looksOf returns what waits at a server, nil when it is not attached.
func (s *Service) looksOf(uid resource.UID) *looks {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.looks[uid]
	if q == nil {
		if _, ok := s.record(uid); !ok {
			return nil
		}
		q = newLooks(newKnown())
		s.looks[uid] = q
	}
	return q
}

// ProxyURL satisfies manage.MLflow.
func (s *Service) ProxyURL(server *resource.MLflowServer) string {
	if server.NoProxy || s.cfg.ProxyOrigin == "" {
		return ""
	}
	id := server.Workspace
	name := id.Name()
	if _, err := s.cfg.Store.WorkspaceNamed(name); err != nil { // several have it
		name = id.ResourceGroup() + "~" + name
	}
	return s.cfg.ProxyOrigin + proxyRoot + url.PathEscape(name)
}

// lag is for how long a server has not been read whole.
func lag(lastRound, attached time.Time) time.Duration {
	if lastRound.IsZero() {
		lastRound = attached
	}
	return time.Since(lastRound)
}

// longestLag is the lag of the server that has not been read whole for longest.
func (s *Service) longestLag() float64 {
	var longest time.Duration
	for _, item := range s.cfg.Store.MLflowServers.List("") {
		status, _ := s.Status(item.Value.UID)
		longest = max(longest, lag(status.LastRound, item.Value.Created.At))
	}
	return longest.Seconds()
}

// Run follows the attached servers until ctx ends: two never follow for one workspace at
// once. It returns after its last goroutine.
func (s *Service) Run(ctx context.Context) error {
	resource.Following[resource.MLflowServer]{Records: s.records, Changed: s.wake, Forget: s.forgetDetached, Follow: s.follow}.Run(ctx)
	return nil
}

// records returns the servers that are attached to a workspace, by its key.
func (s *Service) records() map[string]resource.Item[resource.MLflowServer] {
	records := map[string]resource.Item[resource.MLflowServer]{}
	for _, item := range s.cfg.Store.MLflowServers.List("") {
		if _, ok := s.cfg.Store.Workspaces.Get(item.Key); ok {
			records[item.Key] = item
		}
	}
	return records
}

// forgetDetached forgets what is of a server that is not attached.
func (s *Service) forgetDetached(context.Context) {
	detached := func(uid resource.UID) bool { _, ok := s.record(uid); return !ok }
	s.mu.Lock()
	maps.DeleteFunc(s.status, func(uid resource.UID, _ manage.MLflowStatus) bool { return detached(uid) })
	maps.DeleteFunc(s.calls, func(uid resource.UID, _ *calls) bool { return detached(uid) })
	var dropped []*looks
	for uid, q := range s.looks {
		if detached(uid) {
			dropped = append(dropped, q)
			delete(s.looks, uid)
		}
	}
	s.mu.Unlock()
	for _, q := range dropped {
		q.drop()
	}
}

// Waits after rounds that failed.
const (
	longestPause = 5 * time.Minute
	refusedPause = 10 * time.Minute // asking more often with credentials that are not taken may lock an account
	roundLimit   = time.Hour
)

// follow asks one server in rounds until ctx ends.
func (s *Service) follow(ctx context.Context, item resource.Item[resource.MLflowServer]) {
	server := item.Value
	at, ok := s.cfg.Store.Workspaces.Get(item.Key)
	if !ok {
		return // it goes, and so will this record
	}
	ws := at.Value
	log := s.cfg.Logger.With(slog.String(telemetry.Workspace, ws.ID.String()))
	s.note(server.UID, func(st *manage.MLflowStatus) { st.State = manage.MLflowReading })
	var p *poller
	var beside sync.WaitGroup
	defer beside.Wait()
	failures := 0
	for {
		began := time.Now()
		var err error
		if p == nil {
			if p, err = s.open(ctx, server, ws, log); err == nil {
				beside.Go(func() { s.lookBeside(ctx, p.observer) })
			}
		}
		if err == nil {
			err = s.turn(ctx, p)
		}
		if ctx.Err() != nil {
			return
		}
		pause := time.Duration(server.Interval) * time.Second
		if err == nil {
			if failures > 0 {
				log.LogAttrs(ctx, slog.LevelInfo, "MLflow server is followed again", slog.Int("failures", failures))
			}
			failures = 0
		} else {
			failures++
			pause = min(longestPause, pause<<min(failures, 12))
			if Refused(err) {
				pause = refusedPause
			}
			pause += rand.N(pause/10 + 1)
			level := slog.LevelWarn
			if Refused(err) {
				level = slog.LevelError
			}
			log.LogAttrs(ctx, level, "MLflow server not read", slog.String(telemetry.Error, shown(err).Error()), slog.Int("failures", failures), slog.Duration("pause", pause))
		}
		s.conclude(server.UID, p, err, began)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// open makes what follows a server, from what the ledger knows of it.
func (s *Service) open(ctx context.Context, server resource.MLflowServer, ws resource.Workspace, log *slog.Logger) (*poller, error) {
	q := s.looksOf(server.UID)
	if q == nil {
		return nil, errors.New("the server is not attached")
	}
	password, err := s.cfg.Secret(&server)
	if err != nil {
		return nil, err
	}
	p := newPoller(server, ws, s.client(&server, password), s.cfg.Ledger, q.known, log)
	p.wantsAliases = func() bool {
		now, ok := s.cfg.Store.Workspaces.Get(ws.ID.Key())
		return ok && slices.ContainsFunc(now.Value.ExtraEvents, func(name string) bool { return strings.HasPrefix(name, "ModelAlias") })
	}
	if err := p.resume(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// lookBeside looks at single objects beside the rounds of o until ctx ends.
func (s *Service) lookBeside(ctx context.Context, o *observer) {
	q := s.looksOf(o.server.UID)
	if q == nil {
		return
	}
	client, looking := *o.client, *o
	client.asked = s.metrics.requests.Inc
	client.further = func() error { return nil } // lookLimit bounds them
	looking.client = &client
	q.run(ctx, &looking, s.metrics)
}

// turn makes one round.
func (s *Service) turn(ctx context.Context, p *poller) error {
	ctx, cancel := context.WithTimeout(ctx, roundLimit)
	defer cancel()
	return p.round(ctx)
}

// conclude notes how a round went.
func (s *Service) conclude(uid resource.UID, p *poller, err error, began time.Time) {
	now := time.Now()
	s.note(uid, func(st *manage.MLflowStatus) {
		if p != nil {
			st.Requests, st.OpenRuns, st.Webhook, st.LargeRuns = p.requests, len(p.open), p.webhook, p.known.largeRuns()
			s.metrics.round(p.requests, p.events)
		}
		st.Duration = now.Sub(began)
		switch {
		case err == nil:
			st.State, st.LastRound, st.LastError, st.ErrorAt = manage.MLflowFollowing, now, "", time.Time{}
			s.metrics.rounds.WithLabelValues("ok").Inc()
		case Refused(err):
			st.State, st.LastError, st.ErrorAt = manage.MLflowRefused, shown(err).Error(), now
			s.metrics.rounds.WithLabelValues("refused").Inc()
		default:
			st.State, st.LastError, st.ErrorAt = manage.MLflowFailing, shown(err).Error(), now
			s.metrics.rounds.WithLabelValues("failed").Inc()
		}
	})
}

func (s *Service) note(uid resource.UID, change func(*manage.MLflowStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status[uid]
	change(&status)
	s.status[uid] = status
}
