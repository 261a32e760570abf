package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/audit"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/destination"
	"github.com/carillon-events/carillon/internal/driftjob"
	"github.com/carillon-events/carillon/internal/egress"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/ingest"
	"github.com/carillon-events/carillon/internal/issuer"
	"github.com/carillon-events/carillon/internal/kubernetes"
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/mlflow"
	"github.com/carillon-events/carillon/internal/openlineage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/internal/workspace"
)

// Ready tells where a server takes traffic.
type Ready struct {
	URL           string // https
	CAFingerprint string // SHA-256 of the certificate of its authority, hex
}

const (
	deadLetterPart = 10   // one part in so many of the log's quota is that of dead letters
	fullPart       = 0.95 // of its quota at which the log is called full: the next request may be refused
	idleTime       = 2 * time.Minute
	headerTime     = 10 * time.Second
	requestTime    = 2 * time.Minute // for a whole request; longer than a handshake with its repetitions may take
	mlflowTime     = 2 * time.Minute // for one answer of an MLflow server
	shutdownGrace  = 5 * time.Second
)

// Run runs a server until ctx ends and it has stopped in order; that is no error.
// ready is called once, when requests are answered.
func Run(ctx context.Context, cfg Config, ready func(Ready)) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	began := time.Now()
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	if cfg.LogOutput == nil {
		cfg.LogOutput = os.Stderr
	}
	logger := telemetry.NewLogger(cfg.LogOutput, level, telemetry.FormatAuto)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	if err := os.MkdirAll(filepath.Join(cfg.Data, "keys"), 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	eng, err := engine.Open(ctx, engine.Options{
		Dir: cfg.Data, Durability: cfg.Durability, LogQuota: cfg.LogQuota, Logger: logger, Registerer: registry,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()

	doors, _ := cfg.doors() // Validate has seen them
	listeners, err := open(doors)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	s := &server{cfg: cfg, log: logger, registry: registry, engine: eng, listeners: listeners, stopping: make(chan struct{})}
	if err := s.wire(ctx); err != nil {
		return err
	}
	return s.serve(ctx, func(r Ready) {
		logger.Info("server ready", "config", cfg, "url", r.URL, telemetry.Duration, time.Since(began))
		ready(r)
	})
}

// server is a wired server.
type server struct {
	cfg       Config
	log       *slog.Logger
	registry  *prometheus.Registry
	engine    *engine.Engine
	listeners []opened
	origin    string // public URL
	certs     *certificates
	stopping  chan struct{} // closed when the server stops: ends answers that never end

	broker     *broker.Broker
	audit      *audit.Log
	tokens     *access.Tokens
	directory  *access.Directory
	plane      *manage.Plane
	workspaces *workspace.Service
	datasets   *dataset.Places // where datasets of drift monitors lie
	mlflow     *mlflow.Service
	kubernetes *kubernetes.Service
	drift      *driftjob.Service
	proxy      *mlflow.Proxy
	handler    func(opened) http.Handler // of one listener
}

// wire makes every part and loads what is stored.
func (s *server) wire(ctx context.Context) error {
	s.origin = cmp.Or(strings.TrimRight(s.cfg.PublicURL, "/"), originOf(s.listeners, planeManagement))
	publishOrigin := cmp.Or(strings.TrimRight(s.cfg.PublishURL, "/"), strings.TrimRight(s.cfg.PublicURL, "/"), originOf(s.listeners, planePublish), s.origin)
	origins, hosts := []string{s.origin}, []string{}
	for _, l := range s.listeners {
		configured, _, _ := net.SplitHostPort(l.address)
		port := strconv.Itoa(l.addr().Port)
		hosts = append(hosts, configured, l.addr().IP.String())
		origins = append(origins, l.origin(), "https://localhost:"+port, "https://127.0.0.1:"+port, "http://localhost:"+port, "http://127.0.0.1:"+port)
	}
	for _, origin := range []string{s.origin, publishOrigin} {
		u, err := url.Parse(origin)
		if err != nil {
			return fmt.Errorf("read the public URL: %w", err)
		}
		hosts = append(hosts, u.Hostname())
	}
	proxies, err := s.cfg.proxies()
	if err != nil {
		return err
	}
	store := resource.NewStore(s.engine.KV())
	roles, err := access.NewRoles()
	if err != nil {
		return err
	}
	directory := access.NewDirectory(store, roles)
	if s.audit, err = audit.Open(ctx, s.engine.Audit(), s.cfg.Data, s.log); err != nil {
		return err
	}
	store.Observe(s.audit.Witness)
	if err := store.Load(ctx); err != nil {
		return err
	}
	source := s.cfg.MasterKey.In(s.cfg.Data)
	if err := secret.Sweep(filepath.Dir(source.Kept)); err != nil {
		return err
	}
	master, err := masterKeys(ctx, source, directory.TenantID() != "")
	if err != nil {
		return err
	}
	sealer := secret.NewSealer(master[0], master[1:]...)
	signing, err := access.OpenKeyRing(s.cfg.Data, sealer)
	if err != nil {
		return masterKeyMissing(err, source)
	}
	failed := newCertificateMetrics(s.registry, func() *certificates { return s.certs })
	if s.certs, err = openCertificates(&s.cfg, certificateNames(hosts...), sealer, s.log, failed); err != nil {
		return masterKeyMissing(err, source)
	}
	for _, warning := range s.warnings() {
		s.log.Warn("needs attention", "warning", warning)
	}
	owner, err := directory.Bootstrap(ctx, access.OwnerPath(s.cfg.Data), s.origin, source)
	if err != nil {
		return err
	}
	authorizer, err := access.NewAuthorizer(directory, s.cfg.WorkspaceRule)
	if err != nil {
		return err
	}
	guard, err := s.guard()
	if err != nil {
		return err
	}
	providers, err := access.OpenProviders(s.cfg.IdentityProviders, guard.Client(10*time.Second))
	if err != nil {
		return err
	}
	signing.Observe(func(ctx context.Context, operation, key string) error {
		s.log.LogAttrs(ctx, slog.LevelInfo, "signing key replaced", slog.String("change", operation), slog.String("key", key))
		return s.audit.Acted(ctx, access.SigningKeysID, operation, audit.Field{Path: "key", Before: json.RawMessage(strconv.Quote(key))})
	})
	tokens, err := access.NewTokens(signing, directory, access.TokensConfig{TenantID: owner.TenantID, Origins: origins, Providers: providers})
	if err != nil {
		return err
	}
	s.tokens, s.directory = tokens, directory
	if trusted := providers.Issuers(); len(trusted) > 0 {
		s.log.Info("tokens of foreign issuers are taken", "issuers", trusted)
	}
	connections := destination.NewConnections(store, sealer)
	bearer := destination.NewTokens(guard, func(application, eventSubscription string) (destination.Token, error) {
		issued, err := tokens.IssueForWebhook(application, eventSubscription)
		if err != nil {
			return destination.Token{}, err
		}
		s.log.Info("token made for a webhook", telemetry.EventSubscription, eventSubscription, "audience", application, "token_id", issued.ID)
		return destination.Token{Text: issued.Token, Expires: issued.Expires}, nil
	})
	signing.OnChange(bearer.ForgetOwn)
	pools := destination.NewPools(newDistrusted(s.registry, s.log))
	configOf := func(es *resource.EventSubscription) (destination.WebhookConfig, error) {
		return webhookConfig(es, sealer, guard, pools, bearer)
	}
	targets := destination.NewTargets(sealer, guard, pools, connections)
	rules := broker.Rules{DeadLetter404: s.cfg.DeadLetter404, OmitDataSchema: !s.cfg.DataSchema}
	letters := destination.NewDeadLetterStore(connections, s.cfg.DeadLetterRoot, guard)
	s.datasets = dataset.New(dataset.Config{
		Roots: s.cfg.DataRoots, Guard: guard, Connections: connections, Spool: filepath.Join(s.cfg.Data, "spool"),
		Remedy: "give its keys with carillon connection create",
	})
	partition := s.engine.Partition()
	s.broker, err = broker.New(ctx, broker.Config{
		Log: partition, Journal: partition.Journal(), Park: partition.Park(), DeadLetters: s.engine.DeadLetters(), Work: s.engine.Work(),
		DeadLetterStore: letters, DeadLetterDelay: s.cfg.DeadLetterDelay, DeadLetterQuota: cmp.Or(s.cfg.DeadLetterQuota, partition.Usage().Quota/deadLetterPart),
		Logger: s.log, Registerer: s.registry, MetricsEventSubscriptions: s.cfg.MetricsEventSubscriptions, Retention: s.cfg.Retention, Window: int(s.cfg.Memory / 4), Rules: rules,
		NewSender: func(es *resource.EventSubscription) (broker.Sender, error) { return newSender(es, targets, configOf) },
	})
	if err != nil {
		return err
	}
	s.workspaces = workspace.New(workspace.Config{
		Recorder: s.broker, Facts: partition, Changes: partition, Workspaces: store.Workspaces,
		Client: guard.Client(10 * time.Second), CheckURL: guard.CheckURL, CheckDataset: s.datasets.Check, Logger: s.log,
	})
	mlflowOrigin := cmp.Or(strings.TrimRight(s.cfg.PublicURL, "/"), originOf(s.listeners, planeMLflow))
	s.mlflow = mlflow.New(mlflow.Config{
		Store: store, Ledger: s.workspaces, Client: guard.Client(mlflowTime), Logger: s.log, Registerer: s.registry, ProxyOrigin: mlflowOrigin,
		Secret:        func(m *resource.MLflowServer) (secret.String, error) { return manage.OpenMLflowSecret(sealer, m) },
		WebhookSecret: func(m *resource.MLflowServer) (secret.String, error) { return manage.OpenMLflowWebhook(sealer, m) },
	})
	s.drift = driftjob.New(driftjob.Config{
		Ledger: s.workspaces, Datasets: s.datasets, Logger: s.log, Registerer: s.registry,
	})
	if s.proxy, err = mlflow.NewProxy(mlflow.ProxyConfig{
		Service: s.mlflow, Transport: guard.Passing(), Intents: filepath.Join(s.cfg.Data, "mlflow-intents"), Logger: s.log, Registerer: s.registry,
	}); err != nil {
		return err
	}
	if s.kubernetes, err = s.clusters(store, sealer, guard); err != nil {
		return err
	}
	s.plane = manage.New(manage.Config{
		Store: store, Access: authorizer, Directory: directory, TokenKeys: signing, Sealer: sealer, Handshaker: destination.NewHandshaker(guard, bearer), Targets: targets,
		Activator: s.broker, ClockRests: s.broker.ClockRests, EventLog: s.broker, Replayer: s.broker, Facts: s.workspaces, CheckURL: guard.CheckURL, CheckToken: tokens.CheckWebhook, CheckDeadLetter: letters.Check, CheckConnection: destination.CheckConnection,
		PublicURL: s.origin, PublishURL: publishOrigin, Log: s.log,
		ValidateOnChangeOnly: !s.cfg.RevalidateOnEveryPut,
		Rules:                rules,
		Messenger:            destination.NewMessenger(configOf, targets),
		Audit:                s.audit,
		MLflow:               s.mlflow,
		Kubernetes:           s.kubernetes,
		MasterKeys:           source,
		KeyFiles:             []manage.KeyFiles{signing, s.certs.ca},
	})
	if err := s.plane.CheckSecrets(master); err != nil {
		return err
	}
	by := access.Caller{ObjectID: owner.ObjectID, TenantID: owner.TenantID, AppID: owner.AppID, Name: owner.Name, Type: access.ServicePrincipal}
	if err := s.plane.Bootstrap(ctx, by); err != nil {
		return err
	}
	if s.cfg.MLflow != "" {
		change, err := s.cfg.mlflow()
		if err == nil {
			err = s.plane.FollowMLflow(ctx, by, change)
		}
		if err != nil {
			return err
		}
	}
	if err := s.plane.Restore(ctx); err != nil {
		return err
	}

	front := front{
		publish: ingest.New(ingest.Config{
			Topics: newPublishTopics(store, sealer, s.log), Publisher: s.broker, Senders: access.NewSenders(tokens, authorizer),
			Events: queues{s.broker, store}, Done: s.stopping, Origin: publishOrigin, Registerer: s.registry,
		}),
		lineage: openlineage.New(openlineage.Config{
			Store: store, Ledger: s.workspaces, Keys: s.plane.OpenLineageKeys, Authenticate: tokens.Authenticate, Authorizer: authorizer, Registerer: s.registry,
		}),
		identity: issuer.New(tokens, directory, s.audit), mlflow: s.proxy, mayTrain: func(caller access.Caller, ws resource.ID) error {
			return authorizer.Check(caller, openlineage.ActionWrite, ws)
		}, webhook: http.HandlerFunc(s.mlflow.ServeWebhook),
		management: arm.NewHandler(arm.Config{
			Plane: s.plane, Authenticate: tokens.Authenticate, Deliveries: s.broker, TenantID: owner.TenantID, PublicURL: publishOrigin,
			Done: s.stopping, Subresources: &arm.WorkspaceAPI{Service: s.workspaces, Authorizer: authorizer},
		}),
		metrics: metricsHandler(s.registry), authenticate: tokens.Authenticate, reasons: s.reasons, parked: s.broker.Parked, certificates: s.certs, warnings: s.warnings, origin: s.origin,
		hosts: hosts, insecure: s.cfg.InsecureHTTP,
	}
	s.handler = func(l opened) http.Handler {
		front := front
		front.door = l.door
		return throughProxies(proxies, telemetry.NewMiddleware(s.log, answerFailure).Wrap(&front))
	}
	return nil
}

// masterKeys reads the keys that secrets are sealed with. Only a directory that was
// never served gets a fresh one: in any other that would leave topics' keys and
// webhooks' URLs unreadable, and hide that the file is missing.
func masterKeys(ctx context.Context, from secret.Source, served bool) ([]secret.Key, error) {
	if from.Own() && !served {
		if _, err := secret.LoadOrCreateKey(from.Kept); err != nil {
			return nil, err
		}
	}
	keys, err := from.Load(ctx)
	if from.Own() && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the master key %s is missing, and the secrets in this data directory are sealed with it: put the file back from where you keep a copy, or name it with --master-key-file", from.Kept)
	}
	return keys, err
}

// masterKeyMissing adds the remedy to the error of a key file that another master key
// opens.
func masterKeyMissing(err error, from secret.Source) error {
	if errors.Is(err, secret.ErrUnknownKey) {
		return fmt.Errorf("%w: put that key into %s, behind the first", err, from.Name())
	}
	return err
}

// guard decides where this server may connect to. One that listens on loopback
// only may also send there: it is somebody's own machine.
func (s *server) guard() (*egress.Guard, error) {
	private, own := true, []netip.AddrPort{}
	for _, l := range s.listeners {
		private, own = private && l.addr().IP.IsLoopback(), append(own, l.addr().AddrPort())
	}
	networks, hosts, err := egress.ParseDestinations(s.cfg.AllowDestination)
	if err != nil {
		return nil, err
	}
	roots, err := destinationRoots(s.cfg.DestinationCA)
	if err != nil {
		return nil, err
	}
	return egress.New(egress.Options{
		RootCAs: roots, AllowLoopback: private, Allow: networks, AllowHosts: hosts,
		Own: func() []netip.AddrPort { return own },
	}), nil
}

// clusters makes what follows Kubernetes clusters. The one that this server runs in has a
// private address, which the operator allowed with it.
func (s *server) clusters(store *resource.Store, sealer *secret.Sealer, guard *egress.Guard) (*kubernetes.Service, error) {
	roots, err := destinationRoots(s.cfg.DestinationCA)
	if err != nil {
		return nil, err
	}
	c := kubernetes.Config{
		Store: store, Ledger: s.workspaces, Dial: guard.DialContext, DialClear: guard.DialClear, RootCAs: roots, Logger: s.log, Registerer: s.registry,
		Secret: func(c *resource.Cluster) (secret.String, error) { return manage.OpenClusterSecret(sealer, c) },
	}
	if s.cfg.InCluster {
		u, err := url.Parse(kubernetes.PodServer())
		if err != nil || u.Host == "" {
			return nil, errors.New("--in-cluster needs a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
		}
		c.PodServer, c.DialPod = u.String(), egress.New(egress.Options{AllowHosts: []string{u.Hostname()}}).DialContext
	}
	return kubernetes.New(c), nil
}

// destinationRoots returns the authorities that destinations may be signed by, nil for
// the system's.
func destinationRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // nil is a pool: the system's
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read --destination-ca: %w", err)
	}
	roots, err := egress.Roots(pem)
	if err != nil {
		return nil, fmt.Errorf("read --destination-ca %s: %w", path, err)
	}
	return roots, nil
}

// newSender makes the sender of an event subscription's destination.
func newSender(es *resource.EventSubscription, targets *destination.Targets, configOf func(*resource.EventSubscription) (destination.WebhookConfig, error)) (broker.Sender, error) {
	if es.Destination.WebHook == nil {
		return targets.Sender(es)
	}
	c, err := configOf(es)
	if err != nil {
		return nil, err
	}
	return destination.NewWebhook(c)
}

// webhookConfig is what a webhook needs to know of its event subscription, secrets
// opened.
func webhookConfig(es *resource.EventSubscription, sealer *secret.Sealer, guard *egress.Guard, pools *destination.Pools, tokens *destination.Tokens) (c destination.WebhookConfig, err error) {
	hook := es.Destination.WebHook
	full, err := sealer.Open(hook.SealedURL, es.URLOwner())
	if err != nil {
		return c, fmt.Errorf("open the endpoint URL: %w", err)
	}
	c = destination.WebhookConfig{URL: string(full), Name: es.Name, Schema: es.DeliverySchema, Guard: guard, Pools: pools, Tokens: tokens}
	if c.Credentials, err = manage.OpenCredentials(sealer, es, es.Destination); err != nil {
		return c, err
	}
	for _, a := range hook.DeliveryAttributes {
		if a.Type == resource.AttributeDynamic {
			c.Dynamic = append(c.Dynamic, a.Name)
			continue
		}
		value, err := manage.OpenAttribute(sealer, es, &a)
		if err != nil {
			return c, err
		}
		c.Headers = append(c.Headers, manage.Header{Name: a.Name, Value: value})
	}
	if hook.Signing != nil {
		for _, k := range hook.Signing.Keys {
			key, err := manage.OpenSigningKey(sealer, es, &k)
			if err != nil {
				return c, err
			}
			c.Signers = append(c.Signers, destination.Signer{Key: key, Expires: k.Expires})
		}
	}
	return c, nil
}

// reasons says why the server is not ready; none when it is.
func (s *server) reasons() []string {
	var reasons []string
	if err := s.broker.Err(); err != nil {
		reasons = append(reasons, err.Error())
	}
	if err := s.engine.Partition().Err(); err != nil {
		reasons = append(reasons, err.Error())
	}
	if f, full := errors.AsType[*fault.Error](s.engine.Partition().Refuses()); full {
		reasons = append(reasons, f.Message)
	}
	if u := s.engine.Partition().Usage(); u.Quota > 0 && float64(u.AboveFloor) >= fullPart*float64(u.Quota) {
		reason := fmt.Sprintf("the event log is full: %d of %d bytes wait for handlers", u.AboveFloor, u.Quota)
		if es, seq, held := s.broker.Held(); held {
			reason += fmt.Sprintf("; %s holds it from frame %d on", es, seq)
		}
		if problem := s.broker.Parked().Problem; problem != "" {
			reason += "; what waits for a retry cannot be parked: " + problem
		}
		reasons = append(reasons, reason)
	}
	return reasons
}

// warnings says what somebody has to see to, though the server is ready.
func (s *server) warnings() []string {
	host := s.origin
	if u, err := url.Parse(s.origin); err == nil {
		host = u.Hostname()
	}
	out := s.certs.warnings(time.Now(), host)
	if s.cfg.InsecureHTTP {
		out = append(out, "--insecure-http is set: tokens and keys can be read on their way")
	}
	return out
}

// serve runs everything until ctx ends, and stops it in reverse of its start.
func (s *server) serve(ctx context.Context, ready func(Ready)) error {
	g, running := errgroup.WithContext(ctx)
	// Each layer stops when the one above it has: its context is its own.
	base := context.WithoutCancel(ctx)
	delivering, stopDelivering := context.WithCancel(base)
	managing, stopManaging := context.WithCancel(base)
	defer stopDelivering()
	defer stopManaging()
	g.Go(func() error { return s.broker.Run(delivering) })
	if err := s.broker.Ready(running); err != nil {
		stopDelivering()
		return errors.Join(err, g.Wait())
	}
	managers, _ := errgroup.WithContext(base)
	managers.Go(func() error { return s.plane.Run(managing) })
	managers.Go(func() error { return s.audit.Run(managing) })
	managers.Go(func() error { return s.tendIdentity(managing) })
	managers.Go(func() error { return s.workspaces.Run(managing) })
	managers.Go(func() error { return s.mlflow.Run(managing) })
	managers.Go(func() error { return s.kubernetes.Run(managing) })
	managers.Go(func() error { return s.drift.Run(managing) })
	if own := s.certs.own; own != nil {
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		managers.Go(func() error { return own.run(managing, hangup) })
	}
	g.Go(managers.Wait)

	var lanes []*lane
	var servers []*http.Server
	for _, l := range s.listeners {
		handler := s.handler(l)
		publishing := newLane(handler, s.log)
		split := newSplit(l, publishing)
		clear, secure := s.httpServer(handler), s.httpServer(handler)
		secure.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: s.certs.get}
		g.Go(split.run)
		g.Go(func() error { return closed(clear.Serve(split.clear)) })
		g.Go(func() error { return closed(secure.ServeTLS(split.secure, "", "")) })
		lanes, servers = append(lanes, publishing), append(servers, clear, secure)
	}
	ready(Ready{URL: s.origin, CAFingerprint: s.certs.ca.fingerprint()})

	<-running.Done()
	s.log.Info("server stops")
	close(s.stopping)
	grace, cancel := context.WithTimeout(base, shutdownGrace)
	defer cancel()
	for _, l := range lanes {
		l.shutdown(grace)
	}
	for _, h := range servers {
		if err := h.Shutdown(grace); err != nil {
			_ = h.Close()
		}
	}
	stopManaging()
	_ = managers.Wait()
	s.proxy.Close()
	stopDelivering()
	return g.Wait()
}

// identityPause is the time between two looks at signing keys and sessions.
const identityPause = 10 * time.Minute

// tendIdentity replaces signing keys that are old and forgets sessions that have ended,
// until ctx ends.
func (s *server) tendIdentity(ctx context.Context) error {
	ticker := time.NewTicker(identityPause)
	defer ticker.Stop()
	for {
		if err := errors.Join(s.tokens.Keys().Tend(ctx, s.cfg.SigningKeyAge), s.directory.EndSessions(ctx)); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelError, "signing keys and sessions not tended", slog.String(telemetry.Error, err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *server) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, IdleTimeout: idleTime, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(debugWriter{s.log}, "", 0),
	}
}

// debugWriter takes net/http's own complaints, mostly about peers that went away.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug("http server", "message", string(p))
	return len(p), nil
}

// closed is no error of a server that was told to close.
func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
