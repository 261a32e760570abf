package workspace

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/secret"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/mlevent"
)

// EndpointState is where the deployment on an online endpoint stands. Any state
// may follow any other. Who deploys moves it on; with readiness the server itself
// moves Transitioning on. Source: spec/workspace.md section 1.5 and design.md.
type EndpointState = mlevent.EndpointState

// The states that this package names.
const (
	Transitioning  = mlevent.EndpointTransitioning
	Healthy        = mlevent.EndpointHealthy
	EndpointFailed = mlevent.EndpointFailed
)

// OnlineEndpoint is a service that models are deployed to.
type OnlineEndpoint struct {
	Head
	ComputeType string            `json:"computeType"`
	ModelIDs    string            `json:"modelIds"` // "name:version,name:version"
	Tags        map[string]string `json:"tags"`
	Properties  map[string]string `json:"properties"`
	ScoringURI  string            `json:"scoringUri"`
	State       EndpointState     `json:"state"`
	Readiness   *Readiness        `json:"readiness,omitempty"`

	Mirrored bool     `json:"mirrored,omitempty"` // another system keeps it
	Rollout  *Rollout `json:"rollout,omitempty"`  // of one that a cluster keeps

	Revision int64     `json:"revision"`          // grows each time Transitioning begins, or, of a mirrored one, its models change
	Deadline time.Time `json:"deadline,omitzero"` // of the probe that runs; zero when none does

	Ended *Deployment `json:"ended,omitempty"` // the deployment that ended last, what Told tells of
}

// Deployment is one that was healthy or failed.
type Deployment struct {
	Revision int64  `json:"revision"`
	ModelIDs string `json:"modelIds"`
	Failed   bool   `json:"failed,omitempty"`
}

// Readiness tells the server how to learn by itself that a deployment is done: it
// asks URL until the answer is 2xx, then the endpoint is Healthy; when the time is
// over it is Failed.
type Readiness struct {
	URL             string `json:"url"`
	TimeoutSeconds  int    `json:"timeoutSeconds"`
	IntervalSeconds int    `json:"intervalSeconds"`
}

// Defaults of Readiness.
const (
	DefaultReadinessTimeout  = 600
	DefaultReadinessInterval = 5
)

const (
	maxReadinessTimeout  = 86400
	maxReadinessInterval = 3600
)

// EndpointChange is what a request says of an online endpoint. Nil means that it
// says nothing.
type EndpointChange struct {
	ComputeType *string
	ModelIDs    *string
	Tags        Labels
	Properties  Labels
	ScoringURI  *string
	State       *string // an EndpointState in any case
	Readiness   *ReadinessChange
	NoReadiness bool // take readiness away
}

// ReadinessChange is what a request says of readiness; what it does not say takes
// its default.
type ReadinessChange struct {
	URL             *string
	TimeoutSeconds  *int
	IntervalSeconds *int
}

// Problems returns what is wrong with the change by itself, in field order.
func (c EndpointChange) Problems() []*fault.Error {
	var problems []*fault.Error
	if c.ComputeType != nil {
		problems = append(problems, textProblem("properties.computeType", *c.ComputeType))
	}
	if c.ModelIDs != nil {
		problems = append(problems, modelIDsProblem(*c.ModelIDs))
	}
	problems = append(problems, labelProblems(c.Tags, c.Properties)...)
	if c.ScoringURI != nil {
		problems = append(problems, textProblem("properties.scoringUri", *c.ScoringURI))
	}
	if c.State != nil {
		if _, ok := mlevent.ParseEndpointState(*c.State); !ok {
			problems = append(problems, fault.Field("properties.state", "The endpoint state %s is not known: use Transitioning, Healthy, Unhealthy or Failed.", quote(*c.State)))
		}
	}
	if c.Readiness != nil {
		problems = append(problems, c.Readiness.problems()...)
	}
	return problems
}

// modelIDsProblem checks "name:version,name:version" without spaces.
// Source: spec/workspace.md section 1.5.
func modelIDsProblem(ids string) *fault.Error {
	if ids == "" {
		return nil
	}
	for id := range strings.SplitSeq(ids, ",") {
		name, version, ok := strings.Cut(id, ":")
		if !ok || !validName(name) || !validName(version) {
			return fault.Field("properties.modelIds", "The model id %s in modelIds is not valid: write \"name:version\", several separated by commas, without spaces.", quote(id))
		}
	}
	return nil
}

func (c ReadinessChange) problems() []*fault.Error {
	const target = "properties.readiness"
	var problems []*fault.Error
	if c.URL == nil {
		problems = append(problems, fault.Field(target+".url", "A readiness needs url: the address that answers 2xx when the deployment serves."))
	} else if u, err := url.Parse(*c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || len(*c.URL) > maxText {
		problems = append(problems, fault.Field(target+".url", "The readiness url is not valid: write an absolute http or https address without a user name, of at most %d bytes.", maxText))
	}
	return append(problems,
		secondsProblem(target+".timeoutSeconds", c.TimeoutSeconds, maxReadinessTimeout),
		secondsProblem(target+".intervalSeconds", c.IntervalSeconds, maxReadinessInterval))
}

func secondsProblem(target string, n *int, most int) *fault.Error {
	if n != nil && (*n < 1 || *n > most) {
		return fault.Field(target, "The value %d of %s is out of range: use 1 to %d.", *n, target, most)
	}
	return nil
}

// apply makes the change. A state that is not given stays as it is, also when
// the change replaces the endpoint.
func (c EndpointChange) apply(e *OnlineEndpoint, replace bool) {
	set(&e.ComputeType, c.ComputeType, replace, "")
	set(&e.ModelIDs, c.ModelIDs, replace, "")
	e.Tags = c.Tags.apply(e.Tags, replace)
	e.Properties = c.Properties.apply(e.Properties, replace)
	set(&e.ScoringURI, c.ScoringURI, replace, "")
	e.ScoringURI = secret.WithoutUserinfo(e.ScoringURI)
	if c.State != nil {
		e.State, _ = mlevent.ParseEndpointState(*c.State)
	}
	switch {
	case c.Readiness != nil:
		r := Readiness{TimeoutSeconds: DefaultReadinessTimeout, IntervalSeconds: DefaultReadinessInterval}
		set(&r.URL, c.Readiness.URL, false, "")
		set(&r.TimeoutSeconds, c.Readiness.TimeoutSeconds, false, 0)
		set(&r.IntervalSeconds, c.Readiness.IntervalSeconds, false, 0)
		e.Readiness = &r
	case c.NoReadiness || replace:
		e.Readiness = nil
	}
}

func endpointKey(ws resource.UID, service string) string { return key(kindEndpoint, ws, service) }

func endpointWords(service string) string { return fmt.Sprintf("The online endpoint %q", service) }

// PutEndpoint makes an online endpoint, or replaces what one that exists says and
// moves its state. A new endpoint is Transitioning unless told otherwise.
func (s *Service) PutEndpoint(ctx context.Context, ws resource.Workspace, service string, c EndpointChange, t Terms) (e OnlineEndpoint, created bool, err error) {
	if err := fault.Join(append([]*fault.Error{nameProblem("serviceName", "endpoint name", service)}, c.Problems()...)...); err != nil {
		return e, false, err
	}
	return s.changeEndpoint(ctx, ws, service, c, t, true)
}

// PatchEndpoint changes what the request gives, tags and properties key by key,
// and moves the state.
func (s *Service) PatchEndpoint(ctx context.Context, ws resource.Workspace, service string, c EndpointChange, t Terms) (OnlineEndpoint, error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return OnlineEndpoint{}, err
	}
	e, _, err := s.changeEndpoint(ctx, ws, service, c, t, false)
	return e, err
}

func (s *Service) changeEndpoint(ctx context.Context, ws resource.Workspace, service string, c EndpointChange, t Terms, replace bool) (e OnlineEndpoint, created bool, err error) {
	if err := s.mayAsk(c.Readiness); err != nil {
		return e, false, err
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return e, false, err
	}
	defer leave()
	if err := s.notMirrored(ctx, endpointKey(ws.UID, service), mirroredEndpointKey(ws.UID, service), endpointWords(service)); err != nil {
		return e, false, err
	}
	k := endpointKey(ws.UID, service)
	defer s.locks.lock(k)()
	var old OnlineEndpoint
	found, err := s.read(ctx, k, &old)
	if err != nil {
		return e, false, err
	}
	if !found && !replace {
		return e, false, missing(endpointWords(service))
	}
	if err := t.hold(endpointWords(service), found, old.ETag); err != nil {
		return e, false, err
	}
	e = old
	if !found {
		e = OnlineEndpoint{Head: Head{Name: service}, State: Transitioning}
		first, err := s.firstNumber(ctx, ws.UID, k)
		if err != nil {
			return e, false, err
		}
		e.Revision = max(first-1, 0)
	}
	c.apply(&e, replace)
	return s.storeEndpoint(ctx, ws, old, e, found, t.By)
}

// mayAsk checks an address against the rules for outbound calls.
func (s *Service) mayAsk(r *ReadinessChange) error {
	if r == nil || s.checkURL == nil {
		return nil
	}
	u, err := url.Parse(*r.URL)
	if err == nil {
		err = s.checkURL(u)
	}
	if err != nil {
		return fault.Field("properties.readiness.url", "The readiness url may not be asked: %v", err)
	}
	return nil
}

// storeEndpoint stores the move from old to e with the event that is due, and
// starts or ends the probe. found says whether old exists. The caller holds the
// endpoint's lock.
func (s *Service) storeEndpoint(ctx context.Context, ws resource.Workspace, old, e OnlineEndpoint, found bool, by resource.Stamp) (OnlineEndpoint, bool, error) {
	if found && same(&old, &e) {
		return old, false, nil
	}
	if err := labelsFit(e.Tags, e.Properties); err != nil {
		return e, false, err
	}
	now := time.Now()
	began := e.State == Transitioning && (!found || old.State != Transitioning)
	if began {
		e.Revision++
	}
	switch {
	case e.State != Transitioning || e.Readiness == nil:
		e.Deadline = time.Time{}
	case began || old.Readiness == nil || *old.Readiness != *e.Readiness:
		e.Deadline = now.Add(time.Duration(e.Readiness.TimeoutSeconds) * time.Second).UTC()
	}
	e.stamp(by, now, !found)
	k := endpointKey(ws.UID, e.Name)
	var w write
	fact := w.fact(k, &e)
	switch {
	case !found || old.State != Transitioning:
	case e.State == Healthy:
		w.modelDeployed(ws, &e, now, fact)
	case e.State == EndpointFailed:
		w.deploymentFailed(ws, &e, now, fact)
	}
	if _, err := s.record(ctx, &w); err != nil {
		return e, false, err
	}
	if e.Deadline.IsZero() {
		s.probes.end(k)
	} else {
		s.probes.begin(probe{key: k, service: e.Name, workspace: ws.UID, revision: e.Revision, readiness: *e.Readiness, deadline: e.Deadline})
	}
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.OnlineEndpoint, e.Name),
		slog.String("endpoint_state", string(e.State)), slog.Int(telemetry.Events, w.raised))
	return e, !found, nil
}

// GetEndpoint reads an online endpoint.
func (s *Service) GetEndpoint(ctx context.Context, ws resource.Workspace, service string) (e OnlineEndpoint, err error) {
	return e, s.mustFind(ctx, endpointWords(service), &e, endpointKey(ws.UID, service), mirroredEndpointKey(ws.UID, service))
}

// ListEndpoints reads a page of the workspace's online endpoints.
func (s *Service) ListEndpoints(ctx context.Context, ws resource.Workspace, page Page) ([]OnlineEndpoint, string, error) {
	return list[OnlineEndpoint](ctx, s, page, strings.Compare, key(kindEndpoint, ws.UID))
}

// DeleteEndpoint forgets an online endpoint, ends its probe and raises nothing.
// One that is not there is no error.
func (s *Service) DeleteEndpoint(ctx context.Context, ws resource.Workspace, service string, t Terms) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.notMirrored(ctx, endpointKey(ws.UID, service), mirroredEndpointKey(ws.UID, service), endpointWords(service)); err != nil {
		return err
	}
	k := endpointKey(ws.UID, service)
	defer s.locks.lock(k)()
	var e OnlineEndpoint
	found, err := s.read(ctx, k, &e)
	if err != nil {
		return err
	}
	if err := t.hold(endpointWords(service), found, e.ETag); err != nil || !found {
		return err
	}
	var w write
	w.gone(k)
	w.fact(traceKey(ws.UID, k), &trace{Next: e.Revision + 1})
	if _, err := s.record(ctx, &w); err != nil {
		return err
	}
	s.probes.end(k)
	return nil
}
