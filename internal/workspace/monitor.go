package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// DriftMonitor compares a target dataset with a baseline.
type DriftMonitor struct {
	Head
	DataDriftID string          `json:"dataDriftId"` // GUID given by the server
	Baseline    Dataset         `json:"baseline"`
	Target      Dataset         `json:"target"`
	Features    []string        `json:"features"` // empty: all columns that both have
	Threshold   float64         `json:"threshold"`
	Schedule    json.RawMessage `json:"schedule,omitempty"` // JSON object or string as given
}

// Dataset says where rows are and how to read them.
type Dataset struct {
	DatasetID       string `json:"datasetId"` // given by the server when the caller gave none
	URI             string `json:"uri"`
	Format          string `json:"format"` // csv, jsonl, parquet, or empty
	TimestampColumn string `json:"timestampColumn"`
}

// DefaultThreshold is the threshold of a monitor that was given none.
// Source: spec/workspace.md section 1.6.
const DefaultThreshold = 0.2

// maxFeatures is the documented bound. Source: spec/workspace.md section 1.6.
const maxFeatures = 199

// MonitorChange is what a request says of a drift monitor. Nil means that it says
// nothing.
type MonitorChange struct {
	Baseline  *DatasetChange
	Target    *DatasetChange
	Features  []string // nil says nothing, empty says all
	Threshold *float64
	Schedule  json.RawMessage
}

// DatasetChange is what a request says of a dataset.
type DatasetChange struct {
	DatasetID       *string
	URI             *string
	Format          *string // csv, jsonl or parquet, in any case
	TimestampColumn *string
}

// Problems returns what is wrong with the change by itself, in field order.
func (c MonitorChange) Problems() []*fault.Error {
	var problems []*fault.Error
	problems = append(problems, c.Baseline.problems("properties.baseline")...)
	problems = append(problems, c.Target.problems("properties.target")...)
	if len(c.Features) > maxFeatures {
		problems = append(problems, fault.Field("properties.features", "There are %d features; at most %d are allowed. Leave features out to use all columns.", len(c.Features), maxFeatures))
	}
	for i, f := range c.Features {
		if f == "" || len(f) > maxName {
			problems = append(problems, fault.Field(fmt.Sprintf("properties.features[%d]", i), "The feature name %s is not valid: use 1 to %d bytes.", quote(f), maxName))
		}
	}
	if c.Threshold != nil {
		problems = append(problems, shareProblem("properties.threshold", *c.Threshold))
	}
	return append(problems, scheduleProblem(c.Schedule))
}

func (c *DatasetChange) problems(target string) []*fault.Error {
	if c == nil {
		return nil
	}
	var problems []*fault.Error
	for _, text := range []struct {
		name  string
		value *string
	}{{"datasetId", c.DatasetID}, {"uri", c.URI}, {"timestampColumn", c.TimestampColumn}} {
		if text.value != nil {
			problems = append(problems, textProblem(target+"."+text.name, *text.value))
		}
	}
	if c.Format != nil {
		switch strings.ToLower(*c.Format) {
		case "", "csv", "jsonl", "parquet":
		default:
			problems = append(problems, fault.Field(target+".format", "The dataset format %s is not known: use csv, jsonl or parquet.", quote(*c.Format)))
		}
	}
	return problems
}

func shareProblem(target string, v float64) *fault.Error {
	if v >= 0 && v <= 1 { // false for NaN
		return nil
	}
	return fault.Field(target, "The value %v of %s is out of range: use 0 to 1.", v, target)
}

func scheduleProblem(schedule json.RawMessage) *fault.Error {
	schedule = bytes.TrimSpace(schedule)
	switch {
	case len(schedule) == 0:
		return nil
	case !json.Valid(schedule) || schedule[0] != '{' && schedule[0] != '"':
		return fault.Field("properties.schedule", "A schedule is a JSON object or a string.")
	case len(schedule) > maxText:
		return fault.Field("properties.schedule", "The schedule takes %d bytes; at most %d are allowed.", len(schedule), maxText)
	}
	return nil
}

func (c MonitorChange) apply(m *DriftMonitor, replace bool) {
	c.Baseline.apply(&m.Baseline, replace)
	c.Target.apply(&m.Target, replace)
	if c.Features != nil || replace {
		m.Features = append([]string{}, c.Features...)
	}
	set(&m.Threshold, c.Threshold, replace, DefaultThreshold)
	if len(c.Schedule) > 0 {
		var b bytes.Buffer
		_ = json.Compact(&b, c.Schedule) // it is valid
		m.Schedule = b.Bytes()
	} else if replace {
		m.Schedule = nil
	}
}

// apply makes the change. The dataset keeps its id unless another is given.
func (c *DatasetChange) apply(d *Dataset, replace bool) {
	if c == nil {
		c = &DatasetChange{}
	}
	if c.DatasetID != nil && *c.DatasetID != "" {
		d.DatasetID = *c.DatasetID
	}
	set(&d.URI, c.URI, replace, "")
	set(&d.Format, c.Format, replace, "")
	d.Format = strings.ToLower(d.Format)
	set(&d.TimestampColumn, c.TimestampColumn, replace, "")
}

func monitorKey(ws resource.UID, name string) string { return key(kindMonitor, ws, name) }

func monitorWords(name string) string { return fmt.Sprintf("The drift monitor %q", name) }

// PutMonitor makes a drift monitor or replaces the settings of one that exists.
func (s *Service) PutMonitor(ctx context.Context, ws resource.Workspace, name string, c MonitorChange, t Terms) (m DriftMonitor, created bool, err error) {
	if err := fault.Join(append([]*fault.Error{nameProblem("monitorName", "drift monitor name", name)}, c.Problems()...)...); err != nil {
		return m, false, err
	}
	return s.changeMonitor(ctx, ws, name, c, t, true)
}

// PatchMonitor changes the settings that the request gives.
func (s *Service) PatchMonitor(ctx context.Context, ws resource.Workspace, name string, c MonitorChange, t Terms) (DriftMonitor, error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return DriftMonitor{}, err
	}
	m, _, err := s.changeMonitor(ctx, ws, name, c, t, false)
	return m, err
}

func (s *Service) changeMonitor(ctx context.Context, ws resource.Workspace, name string, c MonitorChange, t Terms, replace bool) (m DriftMonitor, created bool, err error) {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return m, false, err
	}
	defer leave()
	k := monitorKey(ws.UID, name)
	defer s.locks.lock(k)()
	var old DriftMonitor
	found, err := s.read(ctx, k, &old)
	if err != nil {
		return m, false, err
	}
	if !found && !replace {
		return m, false, missing(monitorWords(name))
	}
	if err := t.hold(monitorWords(name), found, old.ETag); err != nil {
		return m, false, err
	}
	m = old
	if !found {
		m = DriftMonitor{Head: Head{Name: name}, DataDriftID: s.newID()}
	}
	c.apply(&m, replace)
	for _, d := range []*Dataset{&m.Baseline, &m.Target} {
		if d.DatasetID == "" {
			d.DatasetID = s.newID()
		}
	}
	if found && same(&old, &m) {
		return old, false, nil
	}
	m.stamp(t.By, time.Now(), !found)
	var w write
	w.fact(k, &m)
	if _, err := s.record(ctx, &w); err != nil {
		return m, false, err
	}
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.DriftMonitor, m.Name))
	return m, !found, nil
}

// GetMonitor reads a drift monitor.
func (s *Service) GetMonitor(ctx context.Context, ws resource.Workspace, name string) (m DriftMonitor, err error) {
	return m, s.mustRead(ctx, monitorKey(ws.UID, name), monitorWords(name), &m)
}

// ListMonitors reads a page of the workspace's drift monitors.
func (s *Service) ListMonitors(ctx context.Context, ws resource.Workspace, page Page) ([]DriftMonitor, string, error) {
	return list[DriftMonitor](ctx, s, key(kindMonitor, ws.UID), page, strings.Compare)
}

// DeleteMonitor forgets a drift monitor and its results; the runs of its
// experiment stay. One that is not there is no error.
func (s *Service) DeleteMonitor(ctx context.Context, ws resource.Workspace, name string, t Terms) error {
	ws, leave, err := s.enter(ws)
	if err != nil {
		return err
	}
	defer leave()
	k := monitorKey(ws.UID, name)
	defer s.locks.lock(k)()
	var m DriftMonitor
	found, err := s.read(ctx, k, &m)
	if err != nil {
		return err
	}
	if err := t.hold(monitorWords(name), found, m.ETag); err != nil || !found {
		return err
	}
	runs, err := s.facts.FactKeys(ctx, key(kindDriftRun, ws.UID, name)+"/")
	if err != nil {
		return fmt.Errorf("list runs of drift monitor %s: %w", name, err)
	}
	return s.forget(ctx, append(runs, k))
}
