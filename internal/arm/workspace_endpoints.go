package arm

import (
	"context"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

type endpointProperties struct {
	ComputeType string                     `json:"computeType"`
	ModelIDs    string                     `json:"modelIds"`
	Tags        map[string]string          `json:"tags"`
	Properties  map[string]string          `json:"properties"`
	ScoringURI  string                     `json:"scoringUri"`
	State       workspace.EndpointState    `json:"state"`
	Readiness   *readinessProperties       `json:"readiness,omitempty"`
	Provisioned resource.ProvisioningState `json:"provisioningState"`
}

type readinessProperties struct {
	URL             string `json:"url"`
	TimeoutSeconds  int    `json:"timeoutSeconds"`
	IntervalSeconds int    `json:"intervalSeconds"`
}

func endpointEntity(e workspace.OnlineEndpoint) subEntity {
	p := endpointProperties{e.ComputeType, e.ModelIDs, e.Tags, e.Properties, e.ScoringURI, e.State, nil, finished}
	if r := e.Readiness; r != nil {
		p.Readiness = &readinessProperties{r.URL, r.TimeoutSeconds, r.IntervalSeconds}
	}
	return subEntity{names: []string{e.Name}, head: e.Head, properties: p}
}

func endpointChange(f fields) (workspace.EndpointChange, error) {
	c := workspace.EndpointChange{
		ComputeType: f.text("computeType"), ModelIDs: f.text("modelIds"), Tags: f.labels("tags"), Properties: f.labels("properties"),
		ScoringURI: f.text("scoringUri"), State: f.text("state"), NoReadiness: f.null("readiness"),
	}
	if r, ok := f.object("readiness"); ok {
		c.Readiness = &workspace.ReadinessChange{URL: r.text("url"), TimeoutSeconds: r.integer("timeoutSeconds"), IntervalSeconds: r.integer("intervalSeconds")}
	}
	return c, f.failed(c.Problems())
}

func onlineEndpoints(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"onlineEndpoints"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			e, err := s.GetEndpoint(ctx, ws, names[0])
			return endpointEntity(e), err
		},
		list: func(ctx context.Context, ws resource.Workspace, _ []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListEndpoints(ctx, ws, p)
			return entities(page, next, err, endpointEntity)
		},
		put: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, bool, error) {
			c, err := endpointChange(f)
			if err != nil {
				return subEntity{}, false, err
			}
			e, created, err := s.PutEndpoint(ctx, ws, names[0], c, t)
			return endpointEntity(e), created, err
		},
		patch: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			c, err := endpointChange(f)
			if err != nil {
				return subEntity{}, err
			}
			e, err := s.PatchEndpoint(ctx, ws, names[0], c, t)
			return endpointEntity(e), err
		},
		drop: func(ctx context.Context, ws resource.Workspace, names []string, t workspace.Terms) error {
			return s.DeleteEndpoint(ctx, ws, names[0], t)
		},
	}
}
