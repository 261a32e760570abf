package arm

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

type monitorProperties struct {
	DataDriftID        string                     `json:"dataDriftId"`
	Baseline           datasetProperties          `json:"baseline"`
	Target             datasetProperties          `json:"target"`
	Features           []string                   `json:"features"`
	Threshold          float64                    `json:"threshold"`
	Method             drift.Method               `json:"method"`
	MinRows            int                        `json:"minRows"`
	Seed               *uint64                    `json:"seed,omitempty"`
	Schedule           any                        `json:"schedule,omitempty"` // scheduleProperties, or as it was given
	ConsecutiveWindows int                        `json:"consecutiveWindows"`
	CooldownHours      int                        `json:"cooldownHours"`
	ScheduleState      string                     `json:"scheduleState"` // Enabled: it compares by itself; Disabled
	ScheduleReason     string                     `json:"scheduleReason,omitempty"`
	State              resource.ProvisioningState `json:"provisioningState"`
}

type datasetProperties struct {
	DatasetID       string `json:"datasetId"`
	URI             string `json:"uri,omitempty"`
	Format          string `json:"format,omitempty"`
	TimestampColumn string `json:"timestampColumn,omitempty"`
}

type scheduleProperties struct {
	Frequency    workspace.Frequency `json:"frequency"`
	LatencyHours int                 `json:"latencyHours"`
	Enabled      bool                `json:"enabled"`
}

func monitorEntity(m workspace.DriftMonitor) subEntity {
	p := monitorProperties{
		DataDriftID: m.DataDriftID, Baseline: datasetProperties(m.Baseline), Target: datasetProperties(m.Target), Features: m.Features,
		Threshold: m.Threshold, Method: m.Method, MinRows: m.MinRows, Seed: m.Seed, ConsecutiveWindows: max(m.ConsecutiveWindows, 1), CooldownHours: m.CooldownHours,
		ScheduleState: "Disabled", State: finished,
	}
	if p.Method == "" {
		p.Method = drift.ByClassifier
	}
	if p.MinRows == 0 {
		p.MinRows = drift.DefaultMinRows
	}
	switch {
	case m.Schedule != nil:
		p.Schedule = scheduleProperties{m.Schedule.Frequency, m.Schedule.LatencyHours, m.Schedule.Enabled}
	case m.Note != nil:
		p.Schedule = m.Note
	}
	on, reason := m.Scheduled()
	if p.ScheduleReason = reason; on {
		p.ScheduleState = "Enabled"
	}
	return subEntity{names: []string{m.Name}, head: m.Head, properties: p}
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
		Threshold: f.number("threshold"), Schedule: f.raw("schedule"), NoSchedule: f.null("schedule"),
		Method: f.text("method"), MinRows: f.integer("minRows"), Seed: f.integer("seed"),
		ConsecutiveWindows: f.integer("consecutiveWindows"), CooldownHours: f.integer("cooldownHours"),
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
	Verdict     workspace.Finding          `json:"verdict,omitempty"` // of one that is Completed
	Kind        workspace.DriftKind        `json:"kind,omitempty"`
	DataDriftID string                     `json:"dataDriftId"`
	StartTime   string                     `json:"startTime"`
	EndTime     string                     `json:"endTime"`
	Coefficient *float64                   `json:"driftCoefficient,omitempty"` // of one that came to a verdict
	Reason      string                     `json:"reason,omitempty"`           // why it has no verdict, or failed
	Progress    *driftProgress             `json:"progress,omitempty"`
	Result      any                        `json:"result,omitempty"` // driftResult, with the members of the document where it is kept and one run is asked for
	State       resource.ProvisioningState `json:"provisioningState"`
}

type driftProgress struct {
	Phase string `json:"phase"`
	Rows  int64  `json:"rows"`
}

// driftResult is what every result says; without a verdict there is no coefficient.
type driftResult struct {
	Status          drift.Status `json:"status"`
	Coefficient     *float64     `json:"driftCoefficient,omitempty"`
	Threshold       float64      `json:"threshold"`
	Drifted         *bool        `json:"driftDetected,omitempty"`
	BaseDatasetID   string       `json:"baseDatasetId"`
	TargetDatasetID string       `json:"targetDatasetId"`
}

func driftRunEntity(d workspace.DriftRun) subEntity {
	p := driftRunProperties{
		RunID: d.Name, Status: d.Status, Verdict: d.Finding(), Kind: d.Kind, DataDriftID: d.DataDriftID, StartTime: d.StartTime, EndTime: d.EndTime, Reason: d.Reason, State: finished,
	}
	if d.Progress != nil {
		p.Progress = &driftProgress{d.Progress.Phase, d.Progress.Rows}
	}
	if d.Judged() {
		p.Coefficient = &d.Coefficient
	}
	if d.Status == workspace.Completed {
		r := driftResult{Status: d.Verdict, Coefficient: p.Coefficient, Threshold: d.Threshold, BaseDatasetID: d.BaseDatasetID, TargetDatasetID: d.TargetDatasetID}
		if d.Judged() {
			r.Drifted = new(d.Drifted())
		}
		if r.Status == "" {
			r.Status = drift.OK
		}
		p.Result = r
		if d.Document != nil {
			p.Result = withDocument(r, d.Document)
		}
	}
	return subEntity{names: []string{d.Monitor, d.Name}, head: d.Head, properties: p}
}

// withDocument adds to a result what its document says beyond it.
func withDocument(r driftResult, document json.RawMessage) json.RawMessage {
	short, err := json.Marshal(struct {
		Threshold float64 `json:"threshold"`
		Drifted   *bool   `json:"driftDetected,omitempty"`
	}{r.Threshold, r.Drifted})
	if err != nil || len(document) < 3 || document[0] != '{' {
		return document
	}
	if r.Drifted == nil {
		document = withoutVerdict(document)
	}
	return append(append(short[:len(short)-1:len(short)-1], ','), document[1:]...)
}

// withoutVerdict is a document of a comparison that came to none.
func withoutVerdict(document json.RawMessage) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(document, &members) != nil {
		return document
	}
	for _, name := range []string{"driftCoefficient", "pValue", "hasDrift"} {
		delete(members, name)
	}
	short, err := json.Marshal(members)
	if err != nil {
		return document
	}
	return short
}

// driftRuns are made by POST: as they were computed elsewhere, or to be computed. One
// that is being computed can be cancelled by PATCH.
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
			c := workspace.DriftRunChange{
				StartTime: f.text("startTime"), EndTime: f.text("endTime"), Window: f.text("window"), Coefficient: f.number("driftCoefficient"),
				Force: value[bool](f, "force", "true or false"),
			}
			if _, ok := f.object("result"); ok {
				c.Result = f.raw("result")
			}
			if err := f.failed(c.Problems()); err != nil {
				return subEntity{}, err
			}
			d, created, err := s.PostDriftRun(ctx, ws, names[0], c, t)
			e := driftRunEntity(d)
			switch {
			case !created:
				e.status = http.StatusOK
			case d.Status != workspace.Completed:
				e.status = http.StatusAccepted
			}
			return e, err
		},
		patch: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (subEntity, error) {
			status := f.text("status")
			if err := f.failed(nil); err != nil {
				return subEntity{}, err
			}
			d, err := s.CancelDriftRun(ctx, ws, names[0], names[1], status, t)
			return driftRunEntity(d), err
		},
	}
}

// driftBackFill has the server compare the windows of a span.
func driftBackFill(s *workspace.Service) *subresource {
	runs := driftRuns(s)
	return &subresource{
		words: []string{"driftMonitors", "backfill"},
		act: func(ctx context.Context, ws resource.Workspace, names []string, f fields, t workspace.Terms) (any, error) {
			c := workspace.BackFillChange{StartTime: f.text("startTime"), EndTime: f.text("endTime"), Frequency: f.text("frequency"), Force: value[bool](f, "force", "true or false")}
			if err := f.failed(c.Problems()); err != nil {
				return nil, err
			}
			b, err := s.BackFillDrift(ctx, ws, names[0], c, t)
			if err != nil {
				return nil, err
			}
			out := struct {
				Started int   `json:"started"` // the other runs were there
				Value   []any `json:"value"`
			}{b.Started, []any{}}
			for _, d := range b.Runs {
				out.Value = append(out.Value, runs.body(ws, driftRunEntity(d)))
			}
			return out, nil
		},
	}
}
