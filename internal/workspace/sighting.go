package workspace

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/mlevent"
)

// Sighting is how a service was seen in a cluster, which keeps it: as it should be and
// as it is.
type Sighting struct {
	// Origin says where it is: the name of the cluster, and what tells it from others
	// there, with '/' between.
	Origin  string
	Name    string // of the online endpoint, in paths
	Service string // its name in events

	ComputeType string
	ModelIDs    string
	Tags        map[string]string
	Properties  map[string]string
	ScoringURI  string

	// State is Healthy once what should be there is there, Failed when it never will be,
	// else Transitioning.
	State EndpointState
	// Serving says of one that is not Healthy that it answers nevertheless, maybe with
	// what was there before.
	Serving bool
	// Spec names what should be there, Deployment what is: each deployment raises one
	// event, however often it is seen. Deployment counts with Healthy alone.
	Spec, Deployment string

	Silent bool // a service that is not known raises nothing: it is of the time before
}

// Rollout is what the ledger holds of an online endpoint that a cluster keeps.
type Rollout struct {
	Origin       string `json:"origin"`
	Service      string `json:"service"`
	Spec         string `json:"spec"`                   // that was seen last
	DeployedSpec string `json:"deployedSpec,omitempty"` // that was Healthy last
	Deployment   string `json:"deployment,omitempty"`   // that was Healthy last
}

// due is what a sighting raises.
type due uint8

const (
	nothing due = iota
	deployed
	failed
)

// afterSighting returns what an endpoint is after a sighting, and what that raises. Of
// one that is not known old holds no more than what the one of its name left behind.
// Source: spec/workspace.md sections 1.5, 6.2 and 6.3.
func afterSighting(old *OnlineEndpoint, known bool, o *Sighting) (e OnlineEndpoint, raise due) {
	e = *old
	before := Rollout{}
	if old.Rollout != nil {
		before = *old.Rollout
	}
	now := before
	now.Origin, now.Service, now.Spec = o.Origin, o.Service, o.Spec
	e.Head.Name, e.Mirrored = o.Name, true
	e.ComputeType, e.ModelIDs, e.Tags, e.Properties, e.ScoringURI = o.ComputeType, o.ModelIDs, o.Tags, o.Properties, secret.WithoutUserinfo(o.ScoringURI)
	renewed := o.Spec != before.Spec
	e.State = o.State
	switch {
	case o.State == Healthy:
		if o.Deployment != before.Deployment {
			raise = deployed
			renewed = renewed || before.DeployedSpec == o.Spec // a rollout of its own
		}
		now.DeployedSpec, now.Deployment = o.Spec, o.Deployment
	case o.Spec == before.DeployedSpec && o.Serving:
		e.State = Healthy
	case o.Spec == before.DeployedSpec:
		e.State = mlevent.EndpointUnhealthy
	case o.State == EndpointFailed && (old.State != EndpointFailed || renewed):
		raise = failed
	}
	if renewed {
		e.Revision++
	}
	if !known && o.Silent {
		raise = nothing
	}
	e.Rollout = &now
	return e, raise
}

// ObserveService takes what was seen of a service of a cluster. One of the same name that
// another cluster keeps is a Conflict.
func (s *Service) ObserveService(ctx context.Context, ws resource.Workspace, o Sighting, by resource.Stamp) (out Observed, err error) {
	if err := namesFit(o.Origin, o.Name, o.Service, o.ModelIDs, o.ScoringURI, o.Spec, o.Deployment); err != nil {
		return out, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return out, err
	}
	defer leave()
	k := mirroredEndpointKey(ws.UID, o.Name)
	defer s.locks.lock(k)()
	var old OnlineEndpoint
	if out.Known, err = s.read(ctx, k, &old); err != nil {
		return out, err
	}
	switch {
	case !out.Known:
		var left trace
		if _, err := s.read(ctx, traceKey(ws.UID, k), &left); err != nil {
			return out, err
		}
		old.Revision, old.Rollout = max(left.Next-1, 0), left.Rollout
	case old.Rollout == nil || old.Rollout.Origin != o.Origin:
		return out, fault.New(fault.Conflict, "Conflict", "The online endpoint %q is that of another system already: name services differently, or follow that cluster in another workspace.", o.Name)
	}
	TidyLabels(o.Tags, o.Properties)
	e, raise := afterSighting(&old, out.Known, &o)
	if out.Known && same(&old, &e) {
		return out, nil
	}
	now := time.Now()
	e.stamp(by, now, !out.Known)
	var w write
	fact := w.fact(k, &e)
	switch raise {
	case deployed:
		w.modelDeployed(ws, &e, now, fact)
	case failed:
		w.deploymentFailed(ws, &e, now, fact)
	}
	if _, err := s.record(ctx, &w); err != nil {
		return out, err
	}
	out.Changed, out.Events, out.Since = true, w.raised, now
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.OnlineEndpoint, e.Name), slog.Int(telemetry.Events, w.raised))
	return out, nil
}

// ServicesOf returns where the services are that clusters keep, by the name of their
// online endpoint, of those whose origin begins with prefix.
func (s *Service) ServicesOf(ctx context.Context, ws resource.Workspace, prefix string) (origins map[string]string, err error) {
	under := key(kindEndpoint, ws.UID) + "/"
	keys, err := s.facts.FactKeys(ctx, under)
	if err != nil {
		return nil, fmt.Errorf("list online endpoints of %s: %w", ws.ID, err)
	}
	origins = map[string]string{}
	for _, k := range keys {
		if !strings.HasPrefix(k[len(under):], mirrorSign) {
			continue
		}
		var e OnlineEndpoint
		if found, err := s.read(ctx, k, &e); err != nil {
			return nil, err
		} else if found && e.Rollout != nil && strings.HasPrefix(e.Rollout.Origin, prefix) {
			origins[e.Name] = e.Rollout.Origin
		}
	}
	return origins, nil
}

// ServiceGone forgets a service that is not in its cluster any more, and raises nothing.
// One that is not known, or of another origin, is left.
func (s *Service) ServiceGone(ctx context.Context, ws resource.Workspace, name, origin string) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	k := mirroredEndpointKey(ws.UID, name)
	defer s.locks.lock(k)()
	var e OnlineEndpoint
	found, err := s.read(ctx, k, &e)
	if err != nil || !found || e.Rollout == nil || e.Rollout.Origin != origin {
		return err
	}
	var w write
	w.gone(k)
	w.fact(traceKey(ws.UID, k), &trace{Next: e.Revision + 1, Rollout: e.Rollout})
	_, err = s.record(ctx, &w)
	return err
}
