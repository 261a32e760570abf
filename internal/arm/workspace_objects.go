package arm

import (
	"context"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// subresourcesOf returns every type of sub-resource.
func subresourcesOf(s *workspace.Service) []*subresource {
	return []*subresource{
		experiments(s), runs(s), models(s), modelVersions(s), onlineEndpoints(s), driftMonitors(s), driftRuns(s), driftBackFill(s), lifecycleEvents(),
	}
}

// entities turns a page of objects into entities.
func entities[T any](objects []T, next string, err error, entity func(T) subEntity) ([]subEntity, string, error) {
	out := make([]subEntity, len(objects))
	for i, o := range objects {
		out[i] = entity(o)
	}
	return out, next, err
}

// finished is the provisioningState of every sub-resource: changes are done when
// they are answered. Clients that poll after a 201 look for it.
// Source: spec/management.md section 4.2.
const finished = resource.Succeeded

type experimentProperties struct {
	ExperimentID string                     `json:"experimentId"`
	DisplayName  string                     `json:"displayName,omitempty"` // of an experiment that another system keeps
	State        resource.ProvisioningState `json:"provisioningState"`
}

func experimentEntity(e workspace.Experiment) subEntity {
	return subEntity{names: []string{e.Name}, head: e.Head, properties: experimentProperties{e.ExperimentID, e.DisplayName, finished}}
}

func experiments(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"experiments"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			e, err := s.GetExperiment(ctx, ws, names[0])
			return experimentEntity(e), err
		},
		list: func(ctx context.Context, ws resource.Workspace, _ []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListExperiments(ctx, ws, p)
			return entities(page, next, err, experimentEntity)
		},
		put: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, bool, error) {
			if err := f.failed(nil); err != nil {
				return subEntity{}, false, err
			}
			e, created, err := s.PutExperiment(ctx, ws, names[0], t)
			return experimentEntity(e), created, err
		},
		patch: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			if err := f.failed(nil); err != nil {
				return subEntity{}, err
			}
			e, err := s.PatchExperiment(ctx, ws, names[0], t)
			return experimentEntity(e), err
		},
		drop: func(ctx context.Context, ws resource.Workspace, names []string, t workspace.Terms) error {
			return s.DeleteExperiment(ctx, ws, names[0], t)
		},
	}
}

type runProperties struct {
	ExperimentID   string                     `json:"experimentId"`
	ExperimentName string                     `json:"experimentName"`
	RunID          string                     `json:"runId"`
	Status         workspace.RunStatus        `json:"status"`
	RunType        string                     `json:"runType"`
	Tags           map[string]string          `json:"tags"`
	Properties     map[string]string          `json:"properties"`
	StartTime      string                     `json:"startTime,omitempty"`
	EndTime        string                     `json:"endTime,omitempty"`
	State          resource.ProvisioningState `json:"provisioningState"`
}

func runEntity(r workspace.Run) subEntity {
	return subEntity{names: []string{r.Parent(), r.Name}, head: r.Head, properties: runProperties{
		r.ExperimentID, r.Experiment, r.Name, r.Status, r.RunType, r.Tags, r.Properties, r.StartTime, r.EndTime, finished,
	}}
}

func runChange(f fields) (workspace.RunChange, error) {
	c := workspace.RunChange{
		Status: f.text("status"), RunType: f.text("runType"), Tags: f.labels("tags"), Properties: f.labels("properties"),
		StartTime: f.text("startTime"), EndTime: f.text("endTime"),
	}
	return c, f.failed(c.Problems())
}

func runs(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"experiments", "runs"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			r, err := s.GetRun(ctx, ws, names[0], names[1])
			return runEntity(r), err
		},
		list: func(ctx context.Context, ws resource.Workspace, names []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListRuns(ctx, ws, names[0], p)
			return entities(page, next, err, runEntity)
		},
		put: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, bool, error) {
			c, err := runChange(f)
			if err != nil {
				return subEntity{}, false, err
			}
			r, created, err := s.PutRun(ctx, ws, names[0], names[1], c, t)
			return runEntity(r), created, err
		},
		patch: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			c, err := runChange(f)
			if err != nil {
				return subEntity{}, err
			}
			r, err := s.PatchRun(ctx, ws, names[0], names[1], c, t)
			return runEntity(r), err
		},
		drop: func(ctx context.Context, ws resource.Workspace, names []string, t workspace.Terms) error {
			return s.DeleteRun(ctx, ws, names[0], names[1], t)
		},
	}
}

type modelProperties struct {
	LatestVersion int64                      `json:"latestVersion"` // highest number, 0 for none
	State         resource.ProvisioningState `json:"provisioningState"`
}

func modelEntity(m workspace.Model) subEntity {
	return subEntity{names: []string{m.Name}, head: m.Head, properties: modelProperties{m.Highest, finished}}
}

// models can be read only: a model is what its versions share.
func models(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"models"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			m, err := s.GetModel(ctx, ws, names[0])
			return modelEntity(m), err
		},
		list: func(ctx context.Context, ws resource.Workspace, _ []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListModels(ctx, ws, p)
			return entities(page, next, err, modelEntity)
		},
	}
}

type versionProperties struct {
	ModelName  string                     `json:"modelName"`
	Version    string                     `json:"version"`
	Tags       map[string]string          `json:"tags"`
	Properties map[string]string          `json:"properties"`
	ModelURI   string                     `json:"modelUri"`
	RunID      string                     `json:"runId"`
	State      resource.ProvisioningState `json:"provisioningState"`
}

func versionEntity(m workspace.ModelVersion) subEntity {
	return subEntity{names: []string{m.Model, m.Name}, head: m.Head, properties: versionProperties{
		m.Model, m.Name, m.Tags, m.Properties, m.ModelURI, m.RunID, finished,
	}}
}

func modelChange(f fields) (workspace.ModelChange, error) {
	c := workspace.ModelChange{Tags: f.labels("tags"), Properties: f.labels("properties"), ModelURI: f.text("modelUri"), RunID: f.text("runId")}
	return c, f.failed(c.Problems())
}

func modelVersions(s *workspace.Service) *subresource {
	return &subresource{
		words: []string{"models", "versions"},
		get: func(ctx context.Context, ws resource.Workspace, names []string) (subEntity, error) {
			m, err := s.GetModelVersion(ctx, ws, names[0], names[1])
			return versionEntity(m), err
		},
		list: func(ctx context.Context, ws resource.Workspace, names []string, p workspace.Page) ([]subEntity, string, error) {
			page, next, err := s.ListModelVersions(ctx, ws, names[0], p)
			return entities(page, next, err, versionEntity)
		},
		post: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			c, err := modelChange(f)
			if err != nil {
				return subEntity{}, err
			}
			m, err := s.RegisterModel(ctx, ws, names[0], c, t)
			return versionEntity(m), err
		},
		put: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, bool, error) {
			c, err := modelChange(f)
			if err != nil {
				return subEntity{}, false, err
			}
			m, created, err := s.PutModelVersion(ctx, ws, names[0], names[1], c, t)
			return versionEntity(m), created, err
		},
		patch: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			c, err := modelChange(f)
			if err != nil {
				return subEntity{}, err
			}
			m, err := s.PatchModelVersion(ctx, ws, names[0], names[1], c, t)
			return versionEntity(m), err
		},
		drop: func(ctx context.Context, ws resource.Workspace, names []string, t workspace.Terms) error {
			return s.DeleteModelVersion(ctx, ws, names[0], names[1], t)
		},
	}
}
