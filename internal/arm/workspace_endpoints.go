package arm

import (
	"context"
	"encoding/json"

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
	return subEntity{[]string{e.Name}, e.Head, p}
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

type monitorProperties struct {
	DataDriftID string                     `json:"dataDriftId"`
	Baseline    datasetProperties          `json:"baseline"`
	Target      datasetProperties          `json:"target"`
	Features    []string                   `json:"features"`
	Threshold   float64                    `json:"threshold"`
	Schedule    json.RawMessage            `json:"schedule,omitempty"`
	State       resource.ProvisioningState `json:"provisioningState"`
}

type datasetProperties struct {
	DatasetID       string `json:"datasetId"`
	URI             string `json:"uri,omitempty"`
	Format          string `json:"format,omitempty"`
	TimestampColumn string `json:"timestampColumn,omitempty"`
}

func monitorEntity(m workspace.DriftMonitor) subEntity {
	return subEntity{[]string{m.Name}, m.Head, monitorProperties{
		m.DataDriftID, datasetProperties(m.Baseline), datasetProperties(m.Target), m.Features, m.Threshold, m.Schedule, finished,
	}}
}

func monitorChange(f fields) (workspace.MonitorChange, error) {
	dataset := func(name string) *workspace.DatasetChange {
		d, ok := f.object(name)
		if !ok {
			return nil
		}
		return &workspace.DatasetChange{DatasetID: d.text("datasetId"), URI: d.text("uri"), Format: d.text("format"), TimestampColumn: d.text("timestampColumn")}
	}
	c := workspace.MonitorChange{
		Baseline: dataset("baseline"), Target: dataset("target"), Features: f.texts("features"),
		Threshold: f.number("threshold"), Schedule: f.raw("schedule"),
	}
	return c, f.failed(c.Problems())
}

func driftMonitors(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"driftMonitors"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			m, err := s.GetMonitor(ctx, ws, names[0])
			return monitorEntity(m), err
		},
		list: func(ctx context.Context, ws resource.Workspace, _ []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListMonitors(ctx, ws, p)
			return entities(page, next, err, monitorEntity)
		},
		put: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, bool, error) {
			c, err := monitorChange(f)
			if err != nil {
				return subEntity{}, false, err
			}
			m, created, err := s.PutMonitor(ctx, ws, names[0], c, t)
			return monitorEntity(m), created, err
		},
		patch: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			c, err := monitorChange(f)
			if err != nil {
				return subEntity{}, err
			}
			m, err := s.PatchMonitor(ctx, ws, names[0], c, t)
			return monitorEntity(m), err
		},
		drop: func(ctx context.Context, ws resource.Workspace, names []string, t workspace.Terms) error {
			return s.DeleteMonitor(ctx, ws, names[0], t)
		},
	}
}

type driftRunProperties struct {
	RunID       string                     `json:"runId"`
	Status      workspace.RunStatus        `json:"status"`
	DataDriftID string                     `json:"dataDriftId"`
	StartTime   string                     `json:"startTime"`
	EndTime     string                     `json:"endTime"`
	Coefficient float64                    `json:"driftCoefficient"`
	Result      driftResult                `json:"result"`
	State       resource.ProvisioningState `json:"provisioningState"`
}

// driftResult is the result document of a comparison.
type driftResult struct {
	Coefficient     float64 `json:"driftCoefficient"`
	Threshold       float64 `json:"threshold"`
	Drifted         bool    `json:"driftDetected"`
	BaseDatasetID   string  `json:"baseDatasetId"`
	TargetDatasetID string  `json:"targetDatasetId"`
}

func driftRunEntity(d workspace.DriftRun) subEntity {
	return subEntity{[]string{d.Monitor, d.Name}, d.Head, driftRunProperties{
		d.Name, d.Status, d.DataDriftID, d.StartTime, d.EndTime, d.Coefficient,
		driftResult{d.Coefficient, d.Threshold, d.Drifted(), d.BaseDatasetID, d.TargetDatasetID}, finished,
	}}
}

// driftRuns are made by POST and never changed.
func driftRuns(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"driftMonitors", "runs"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			d, err := s.GetDriftRun(ctx, ws, names[0], names[1])
			return driftRunEntity(d), err
		},
		list: func(ctx context.Context, ws resource.Workspace, names []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListDriftRuns(ctx, ws, names[0], p)
			return entities(page, next, err, driftRunEntity)
		},
		post: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			c := workspace.DriftRunChange{StartTime: f.text("startTime"), EndTime: f.text("endTime"), Coefficient: f.number("driftCoefficient")}
			if err := f.failed(c.Problems()); err != nil {
				return subEntity{}, err
			}
			d, err := s.PostDriftRun(ctx, ws, names[0], c, t)
			return driftRunEntity(d), err
		},
	}
}
