package server

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/ingest"
	"github.com/carillon-events/carillon/internal/issuer"
	"github.com/carillon-events/carillon/internal/mlflow"
	"github.com/carillon-events/carillon/internal/openlineage"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// front is the door every request comes through: it refuses foreign hosts and
// clear connections from elsewhere, and sends the rest to the plane it is for. It
// never redirects: a redirected PUT loses its body. Each listener has its own.
type front struct {
	door
	publish, identity, management http.Handler
	lineage                       http.Handler
	webhook                       http.Handler  // of MLflow servers
	mlflow                        *mlflow.Proxy // before them
	mayTrain                      func(access.Caller, resource.ID) error
	metrics                       http.Handler
	authenticate                  func(*http.Request) (access.Caller, error)
	reasons                       func() []string // why the server is not ready
	parked                        func() broker.Parked
	certificates                  *certificates
	warnings                      func() []string // what somebody has to see to while the server is ready
	origin                        string
	hosts                         []string // besides the names of this machine
	insecure                      bool
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if !f.knows(r.Host) {
		fault.Write(w, r, fault.New(fault.Misdirected, "MisdirectedRequest",
			"This server is not %q. Use %s, or name the host with --public-url.", r.Host, f.origin))
		return
	}
	if r.TLS == nil && !f.insecure && path != "/healthz" && path != "/ca.pem" && !fromThisMachine(r) {
		fault.Write(w, r, fault.New(fault.Forbidden, "HttpsRequired",
			"Plain http is answered on this machine only. Use %s%s.", f.origin, path))
		return
	}
	defer drain(w, r)
	switch path {
	case "/healthz":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
		return
	case "/ca.pem":
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(*f.certificates.bundle.Load())
		return
	case "/readyz":
		f.ready(w)
		return
	}
	plane, to := f.route(r)
	if !f.planes.has(plane) {
		fault.Write(w, r, fault.New(fault.Misdirected, "PlaneNotServed",
			"This listener does not serve the plane %s: use the one that does, or add the plane to its --listen.", plane))
		return
	}
	to.ServeHTTP(w, r)
}

// route returns the plane of a request, and who answers it there.
func (f *front) route(r *http.Request) (planes, http.Handler) {
	switch {
	case ingest.Serves(r):
		return planePublish, f.publish
	case openlineage.Serves(r.URL.Path):
		return planePublish, f.lineage
	case mlflow.ServesWebhook(r.URL.Path):
		return planePublish, f.webhook
	case r.URL.Path == "/metrics":
		return planeOps, http.HandlerFunc(f.serveMetrics)
	case mlflow.Proxies(r.URL.Path):
		return planeMLflow, http.HandlerFunc(f.serveMLflow)
	case issuer.Serves(r.URL.Path):
		return planeIssuer, f.identity
	}
	return planeManagement, f.management
}

const (
	drainFrom = 256 << 10 // net/http reads smaller rests itself
	drainMost = 64 << 20
	drainTime = 5 * time.Second
)

// drain reads what a refused request still sends, within bounds: a client that is
// still writing when the connection closes never sees the answer.
func drain(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength >= 0 && r.ContentLength <= drainFrom {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.CopyN(io.Discard, r.Body, drainMost)
}

// knows reports whether a Host header names this server: a page of the browser on
// this machine must not reach it under a name of its own.
func (f *front) knows(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	switch name {
	case "localhost", "127.0.0.1", "::1":
		return true
	}
	return strings.HasSuffix(name, ".eventgrid.localhost") || slices.Contains(f.hosts, name) || f.certificates.covers(name)
}

func fromThisMachine(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// ready tells whether the server is ready; why, or why not, only where the plane ops
// is, for it names event subscriptions.
func (f *front) ready(w http.ResponseWriter) {
	reasons := f.reasons()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if len(reasons) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if !f.planes.has(planeOps) {
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": len(reasons) == 0})
		return
	}
	server, authority := f.certificates.ends()
	_ = json.NewEncoder(w).Encode(map[string]any{
		"ready": len(reasons) == 0, "reasons": append([]string{}, reasons...), "parked": f.parked(), "warnings": append([]string{}, f.warnings()...),
		"certificates": map[string]any{"server": server.UTC().Format(time.RFC3339), "authority": authority.UTC().Format(time.RFC3339)},
	})
}

// serveMetrics shows the metrics to this machine, to others with a token, and to
// whoever reaches a listener that was given the plane ops.
func (f *front) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !f.named.has(planeOps) && !fromThisMachine(r) {
		if _, err := f.authenticate(r); err != nil {
			fault.Write(w, r, err)
			return
		}
	}
	f.metrics.ServeHTTP(w, r)
}

// serveMLflow passes on what is for an MLflow server. One that has no authentication of
// its own would be open to whoever reaches a listener on other networks: there a token of
// this server is wanted, of somebody who may write runs of the workspace. Such a token
// goes no further, wherever it is shown: whoever attached the server could use it here.
// Source: decisions.md 25.
func (f *front) serveMLflow(w http.ResponseWriter, r *http.Request) {
	caller, err := f.authenticate(r)
	ours := err == nil
	if ws, open := f.mlflow.Open(r.URL); open && !f.named.has(planeMLflow) && !fromThisMachine(r) {
		if ours {
			err = f.mayTrain(caller, ws)
		}
		if err != nil {
			fault.Write(w, r, err)
			return
		}
	}
	if ours {
		r.Header.Del("Authorization")
	}
	f.mlflow.ServeHTTP(w, r)
}

func metricsHandler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// answerFailure answers a request whose handler panicked.
func answerFailure(w http.ResponseWriter, r *http.Request, err error) {
	telemetry.RecordOf(r.Context()).SetError(err)
	fault.Write(w, r, err)
}
