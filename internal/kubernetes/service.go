package kubernetes

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"maps"
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

// Run follows the attached clusters until ctx ends. It returns after its last goroutine.
func (s *Service) Run(ctx context.Context) error {
	resource.Following[resource.Cluster]{Records: s.attached, Changed: s.wake, Forget: s.forgetDetached, Follow: s.follow}.Run(ctx)
	return nil
}

// attached returns the clusters that are attached to a workspace, by key.
func (s *Service) attached() map[string]resource.Item[resource.Cluster] {
	records := map[string]resource.Item[resource.Cluster]{}
	for _, item := range s.cfg.Store.Clusters.List("") {
		if _, ok := s.cfg.Store.Workspaces.Get(item.Value.Workspace.Key()); ok {
			records[item.Key] = item
		}
	}
	return records
}

// forgetDetached forgets what is of a cluster that is not attached.
func (s *Service) forgetDetached(ctx context.Context) {
	uids := map[resource.UID]bool{}
	for _, item := range s.attached() {
		uids[item.Value.UID] = true
	}
	s.mu.Lock()
	maps.DeleteFunc(s.health, func(uid resource.UID, _ []*health) bool { return !uids[uid] })
	s.mu.Unlock()
	for _, ws := range s.cfg.Store.Workspaces.List("") {
		if err := s.forget(ctx, ws.Value); err != nil && ctx.Err() == nil {
			s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "services of a detached Kubernetes cluster not forgotten", slog.String(telemetry.Workspace, ws.Value.ID.String()), slog.String(telemetry.Error, err.Error()))
			time.AfterFunc(longestPause, s.signal)
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

// follow follows one cluster until ctx ends.
func (s *Service) follow(ctx context.Context, item resource.Item[resource.Cluster]) {
	cluster := item.Value
	ws, ok := s.cfg.Store.Workspaces.Get(cluster.Workspace.Key())
	if !ok {
		return // it goes, and so will this record
	}
	log := s.cfg.Logger.With(slog.String(telemetry.Workspace, ws.Value.ID.String()), slog.String("cluster", cluster.Name))
	credential, err := s.cfg.Secret(&cluster)
	client, connectErr := s.connect(&cluster, credential)
	if err = cmp.Or(err, connectErr); err != nil {
		h := &health{}
		h.fail(err)
		s.note(cluster.UID, []*health{h})
		log.LogAttrs(ctx, slog.LevelError, "Kubernetes cluster cannot be followed", slog.String(telemetry.Error, shown(err).Error()))
		return
	}
	defer client.hangUp()
	var watchers []*watcher
	var all []*health
	for i := range kinds {
		for _, namespace := range namespacesOf(&cluster) {
			w := &watcher{Service: s, cluster: &cluster, ws: ws.Value, kind: &kinds[i], namespace: namespace, client: client, log: log, health: &health{state: connecting}}
			watchers, all = append(watchers, w), append(all, w.health)
		}
	}
	s.note(cluster.UID, all)
	var running sync.WaitGroup
	for _, w := range watchers {
		running.Go(func() { w.follow(ctx) })
	}
	running.Wait()
}

func (s *Service) note(uid resource.UID, all []*health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health[uid] = all
}
