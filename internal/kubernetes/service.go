package kubernetes

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// Config holds what a Service needs. Every field is needed unless it says so.
type Config struct {
	Store  *resource.Store
	Ledger Ledger

	Dial, DialClear Dial           // with TLS, and without
	RootCAs         *x509.CertPool // for clusters that name no authority; nil for the system's

	PodServer string // of the cluster that this server runs in; "" when it is not followed
	DialPod   Dial   // to PodServer; optional
	PodDir    string // where the pod's token is; "" for where Kubernetes puts it

	// Secret opens what a cluster is told as token or key.
	Secret     func(*resource.Cluster) (secret.String, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // optional
}

// Service follows every cluster that is attached. It is safe for concurrent use.
type Service struct {
	cfg     Config
	metrics *metrics
	wake    chan struct{} // the records have changed

	mu     sync.Mutex
	health map[resource.UID][]*health // by cluster, one for each watcher
}

// New makes a Service. Nothing is asked until Run.
func New(c Config) *Service {
	if c.PodDir == "" {
		c.PodDir = podDir
	}
	s := &Service{cfg: c, wake: make(chan struct{}, 1), health: map[resource.UID][]*health{}}
	s.metrics = newMetrics(c.Registerer, s.failing)
	c.Store.Clusters.OnChange(func(string) { s.signal() })
	c.Store.Workspaces.OnChange(func(string) { s.signal() })
	return s
}

func (s *Service) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// InCluster satisfies manage.Kubernetes.
func (s *Service) InCluster() bool { return s.cfg.PodServer != "" }

// Status satisfies manage.Kubernetes: the worst of its watchers, and all they have.
func (s *Service) Status(uid resource.UID) (out manage.KubernetesStatus, ok bool) {
	s.mu.Lock()
	watchers := s.health[uid]
	s.mu.Unlock()
	if len(watchers) == 0 {
		return out, false
	}
	worst, listed := absent, false
	for _, h := range watchers {
		h.mu.Lock()
		worst = max(worst, h.state)
		out.Objects += h.objects
		for _, p := range []problem{h.failure, h.skipped} {
			if p.at.After(out.ErrorAt) {
				out.LastError, out.ErrorAt = p.text, p.at
			}
		}
		if h.state == absent {
			out.Absent = true
		} else if !listed || h.lastList.Before(out.LastList) {
			listed, out.LastList = true, h.lastList
		}
		h.mu.Unlock()
	}
	out.State = manage.KubernetesWatching
	switch worst {
	case connecting:
		out.State = manage.KubernetesListing
	case failing:
		out.State = manage.KubernetesFailing
	case refused:
		out.State = manage.KubernetesRefused
	}
	return out, true
}

// failing counts the clusters that are not followed.
func (s *Service) failing() float64 {
	n := 0
	for _, item := range s.cfg.Store.Clusters.List("") {
		if status, ok := s.Status(item.Value.UID); ok && (status.State == manage.KubernetesFailing || status.State == manage.KubernetesRefused) {
			n++
		}
	}
	return float64(n)
}

// follower is the goroutines that follow one cluster.
type follower struct {
	revision uint64
	cancel   context.CancelFunc
	running  sync.WaitGroup
	client   *client // nil for a cluster that cannot be followed
}

func (f *follower) stop() {
	f.cancel()
	f.running.Wait()
	if f.client != nil {
		f.client.hangUp()
	}
}

// Run follows the attached clusters until ctx ends. It returns after its last goroutine.
func (s *Service) Run(ctx context.Context) error {
	running := map[string]*follower{} // by key
	defer func() {
		for _, f := range running {
			f.stop()
		}
	}()
	for {
		s.adjust(ctx, running)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// adjust starts and stops followers so that there is one for each record, as it is now,
// and forgets what is of a cluster that is not attached.
func (s *Service) adjust(ctx context.Context, running map[string]*follower) {
	records := map[string]resource.Item[resource.Cluster]{}
	uids := map[resource.UID]bool{}
	for _, item := range s.cfg.Store.Clusters.List("") {
		if _, ok := s.cfg.Store.Workspaces.Get(item.Value.Workspace.Key()); ok {
			records[item.Key], uids[item.Value.UID] = item, true
		}
	}
	for key, f := range running {
		if item, ok := records[key]; !ok || item.Revision != f.revision {
			f.stop()
			delete(running, key)
		}
	}
	s.mu.Lock()
	for uid := range s.health {
		if !uids[uid] {
			delete(s.health, uid)
		}
	}
	s.mu.Unlock()
	for _, ws := range s.cfg.Store.Workspaces.List("") {
		if err := s.forget(ctx, ws.Value); err != nil && ctx.Err() == nil {
			s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "services of a detached Kubernetes cluster not forgotten", slog.String(telemetry.Workspace, ws.Value.ID.String()), slog.String(telemetry.Error, err.Error()))
			time.AfterFunc(longestPause, s.signal)
		}
	}
	for key, item := range records {
		if running[key] == nil {
			ws, ok := s.cfg.Store.Workspaces.Get(item.Value.Workspace.Key())
			if ok {
				running[key] = s.start(ctx, item, ws.Value)
			}
		}
	}
}

// forget forgets what clusters kept that are not attached to the workspace any more.
func (s *Service) forget(ctx context.Context, ws resource.Workspace) error {
	kept, err := s.cfg.Ledger.ServicesOf(ctx, ws, "")
	for name, at := range kept {
		cluster, _, _ := strings.Cut(at, "/")
		if _, ok := s.cfg.Store.Clusters.Get(resource.ClusterID(ws.ID, cluster).Key()); !ok && err == nil {
			err = s.cfg.Ledger.ServiceGone(ctx, ws, name, at)
		}
	}
	return err
}

// start follows one cluster.
func (s *Service) start(ctx context.Context, item resource.Item[resource.Cluster], ws resource.Workspace) *follower {
	following, cancel := context.WithCancel(ctx)
	f := &follower{revision: item.Revision, cancel: cancel}
	cluster := item.Value
	log := s.cfg.Logger.With(slog.String(telemetry.Workspace, ws.ID.String()), slog.String("cluster", cluster.Name))
	var all []*health
	credential, err := s.cfg.Secret(&cluster)
	client, connectErr := s.connect(&cluster, credential)
	if err == nil {
		err = connectErr
	}
	if err != nil {
		h := &health{}
		h.fail(err)
		all = append(all, h)
		log.LogAttrs(ctx, slog.LevelError, "Kubernetes cluster cannot be followed", slog.String(telemetry.Error, shown(err).Error()))
	} else {
		f.client = client
		for i := range kinds {
			for _, namespace := range namespacesOf(&cluster) {
				w := &watcher{Service: s, cluster: &cluster, ws: ws, kind: &kinds[i], namespace: namespace, client: client, log: log, health: &health{state: connecting}}
				all = append(all, w.health)
				f.running.Go(func() { w.follow(following) })
			}
		}
	}
	s.mu.Lock()
	s.health[cluster.UID] = all
	s.mu.Unlock()
	return f
}
