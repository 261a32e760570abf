package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/drift"
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
	Note        json.RawMessage `json:"schedule,omitempty"` // a schedule in a form of the caller's own, which is kept and not run
	Schedule    *Schedule       `json:"plan,omitempty"`

	Method             drift.Method `json:"method,omitempty"`             // "": drift.ByClassifier
	MinRows            int          `json:"minRows,omitempty"`            // of each side; 0: drift.DefaultMinRows
	Seed               *uint64      `json:"seed,omitempty"`               // nil: made of monitor and window
	ConsecutiveWindows int          `json:"consecutiveWindows,omitempty"` // that drifted until it raises; 0 is 1
	CooldownHours      int          `json:"cooldownHours,omitempty"`      // after an event, without another one
}

// Unready says why the server cannot compare by itself, "" if it can.
func (m *DriftMonitor) Unready() string {
	_, reason := m.unready()
	return reason
}

// unready is Unready with the member that is to blame.
func (m *DriftMonitor) unready() (field, reason string) {
	for _, d := range []struct{ name, uri string }{{"baseline.uri", m.Baseline.URI}, {"target.uri", m.Target.URI}} {
		if d.uri == "" {
			return d.name, d.name + " is not set"
		}
		if err := dataset.Check(d.uri); err != nil {
			return d.name, d.name + " cannot be read: " + err.Error()
		}
	}
	if dataset.Patterned(m.Baseline.URI) {
		return "baseline.uri", "baseline.uri " + datedBaseline
	}
	return "", ""
}

const datedBaseline = "has a pattern of dates, and only the target has a window for it"

// dueAt is when a window has all its rows.
func (m *DriftMonitor) dueAt(w Window) time.Time {
	if m.Schedule != nil {
		return m.Schedule.DueAt(w)
	}
	return w.End
}

// Scheduled reports whether the monitor compares by itself, and why it does not.
func (m *DriftMonitor) Scheduled() (bool, string) {
	switch reason := m.Unready(); {
	case m.Schedule == nil && m.Note != nil:
		return false, "The schedule is kept as it was given and not run: give one with frequency (" + frequencyWords() + ")."
	case m.Schedule == nil || !m.Schedule.Enabled:
		return false, ""
	case reason != "":
		return false, "The schedule is not run: " + reason + "."
	}
	return true, ""
}

// Dataset says where rows are and how to read them.
type Dataset struct {
	DatasetID       string `json:"datasetId"` // given by the server when the caller gave none
	URI             string `json:"uri"`
	Format          string `json:"format"` // csv, jsonl, parquet, or empty
	TimestampColumn string `json:"timestampColumn"`
}

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

	NoSchedule         bool    // take the schedule away
	Method             *string // a drift.Method in any case
	MinRows            *int
	Seed               *int
	ConsecutiveWindows *int
	CooldownHours      *int
}

// Bounds of what a monitor can be told.
const (
	mostMinRows  = 1_000_000
	mostLatency  = 24 * 366 // hours
	mostCooldown = 24 * 366 // hours
	// MostWindows bounds the windows of a batch, those that a start looks back at, and
	// those that may have to drift in a row.
	MostWindows = 30
)

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
	if c.Method != nil {
		if _, ok := parseMethod(*c.Method); !ok {
			problems = append(problems, fault.Field("properties.method", "The method %s is not known: use classifier, auc, share or maxjs.", quote(*c.Method)))
		}
	}
	problems = append(problems,
		countProblem("properties.minRows", c.MinRows, 1, mostMinRows),
		countProblem("properties.seed", c.Seed, 0, math.MaxInt),
		countProblem("properties.consecutiveWindows", c.ConsecutiveWindows, 1, MostWindows),
		countProblem("properties.cooldownHours", c.CooldownHours, 0, mostCooldown))
	_, more := readSchedule(c.Schedule)
	return append(problems, more...)
}

func parseMethod(name string) (drift.Method, bool) {
	for _, m := range drift.Methods {
		if strings.EqualFold(name, string(m)) {
			return m, true
		}
	}
	return "", false
}

func countProblem(target string, n *int, least, most int) *fault.Error {
	switch {
	case n == nil || *n >= least && *n <= most:
		return nil
	case most == math.MaxInt:
		return fault.Field(target, "The value %d of %s is out of range: use %d or more.", *n, target, least)
	}
	return fault.Field(target, "The value %d of %s is out of range: use %d to %d.", *n, target, least, most)
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
	if c.URI != nil && *c.URI != "" && len(*c.URI) <= maxText {
		if err := dataset.Check(*c.URI); err != nil {
			problems = append(problems, unreadable(target+".uri", *c.URI, err))
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

// unreadable says that a dataset can never be read where it is said to lie.
func unreadable(target, uri string, err error) *fault.Error {
	return fault.Field(target, "The dataset %s cannot be read by the server: %v. Name data that is compared elsewhere by datasetId alone.", quote(dataset.Shown(uri)), err)
}

// checkPlaces refuses datasets that the change names and that the server may not read.
func (c MonitorChange) checkPlaces(check func(uri string) error) error {
	var problems []*fault.Error
	for _, d := range []struct {
		target string
		change *DatasetChange
	}{{"properties.baseline.uri", c.Baseline}, {"properties.target.uri", c.Target}} {
		switch {
		case d.change == nil || d.change.URI == nil || *d.change.URI == "":
		case d.change == c.Baseline && dataset.Patterned(*d.change.URI):
			problems = append(problems, fault.Field(d.target, "The value %s of %s %s: name a file or a directory.", quote(dataset.Shown(*d.change.URI)), d.target, datedBaseline))
		case check != nil:
			if err := check(*d.change.URI); err != nil {
				problems = append(problems, unreadable(d.target, *d.change.URI, err))
			}
		}
	}
	return fault.Join(problems...)
}

func shareProblem(target string, v float64) *fault.Error {
	if v >= 0 && v <= 1 { // false for NaN
		return nil
	}
	return fault.Field(target, "The value %v of %s is out of range: use 0 to 1.", v, target)
}

// scheduleChange is what a request says of a schedule. Nil means that it says nothing.
type scheduleChange struct {
	frequency    *Frequency
	latencyHours *int
	enabled      *bool
}

// readSchedule reads a schedule: nil for one in a form of the caller's own, a text or
// an object that has none of the members known here, which earlier versions took too.
func readSchedule(raw json.RawMessage) (*scheduleChange, []*fault.Error) {
	const target = "properties.schedule"
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0:
		return nil, nil
	case !json.Valid(raw) || raw[0] != '{' && raw[0] != '"':
		return nil, []*fault.Error{fault.Field(target, "A schedule is a JSON object, as in {\"frequency\": \"Week\", \"latencyHours\": 24}.")}
	case len(raw) > maxText:
		return nil, []*fault.Error{fault.Field(target, "The schedule takes %d bytes; at most %d are allowed.", len(raw), maxText)}
	case raw[0] == '"':
		return nil, nil
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(raw, &members) // it is a valid object
	var c scheduleChange
	var problems []*fault.Error
	known := false
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value := members[name]
		var problem *fault.Error
		switch strings.ToLower(name) {
		case "frequency":
			var text string
			err := json.Unmarshal(value, &text)
			f, ok := ParseFrequency(text)
			if c.frequency = &f; err != nil || !ok {
				problem = fault.Field(target+".frequency", "The frequency %.80s is not known: use %s.", value, frequencyWords())
			}
		case "latencyhours":
			if json.Unmarshal(value, &c.latencyHours) != nil || c.latencyHours == nil {
				problem = fault.Field(target+".latencyHours", "The latency %.80s is not a whole number of hours.", value)
			} else {
				problem = countProblem(target+".latencyHours", c.latencyHours, 0, mostLatency)
			}
		case "enabled":
			if json.Unmarshal(value, &c.enabled) != nil || c.enabled == nil {
				problem = fault.Field(target+".enabled", "The value %.80s of enabled is not true or false.", value)
			}
		default:
			continue
		}
		known = true
		problems = append(problems, problem)
	}
	if !known {
		return nil, nil
	}
	return &c, problems
}

// schedule makes the change. A schedule that is enabled anew looks at no window that
// was due before.
func (c MonitorChange) schedule(m *DriftMonitor, replace bool, now time.Time) error {
	change, _ := readSchedule(c.Schedule)
	switch {
	case len(c.Schedule) > 0 && change == nil:
		var b bytes.Buffer
		_ = json.Compact(&b, c.Schedule) // it is valid
		m.Note, m.Schedule = b.Bytes(), nil
		return nil
	case change == nil:
		if replace || c.NoSchedule {
			m.Note, m.Schedule = nil, nil
		}
		return nil
	}
	old := m.Schedule
	next := Schedule{LatencyHours: DefaultLatencyHours, Enabled: true}
	if old != nil && !replace {
		next = *old
	} else if change.frequency == nil {
		return fault.Field("properties.schedule.frequency", "A schedule needs frequency: use %s.", frequencyWords())
	}
	set(&next.Frequency, change.frequency, false, "")
	set(&next.LatencyHours, change.latencyHours, false, 0)
	set(&next.Enabled, change.enabled, false, false)
	next.Since = now.UTC()
	if old != nil && old.Enabled == next.Enabled && old.Frequency == next.Frequency {
		next.Since = old.Since
	}
	m.Note, m.Schedule = nil, &next
	return nil
}

func (c MonitorChange) apply(m *DriftMonitor, replace bool) {
	c.Baseline.apply(&m.Baseline, replace)
	c.Target.apply(&m.Target, replace)
	if c.Features != nil || replace {
		m.Features = append([]string{}, c.Features...)
	}
	if c.Method != nil {
		m.Method, _ = parseMethod(*c.Method)
	} else if replace {
		m.Method = ""
	}
	set(&m.Threshold, c.Threshold, replace, drift.DefaultThreshold(m.Method))
	set(&m.MinRows, c.MinRows, replace, 0)
	set(&m.ConsecutiveWindows, c.ConsecutiveWindows, replace, 0)
	set(&m.CooldownHours, c.CooldownHours, replace, 0)
	if c.Seed != nil {
		m.Seed = new(uint64(*c.Seed))
	} else if replace {
		m.Seed = nil
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
	if err := c.checkPlaces(s.checkDataset); err != nil {
		return m, false, err
	}
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
	now := time.Now()
	c.apply(&m, replace)
	if err := c.schedule(&m, replace, now); err != nil {
		return m, false, err
	}
	for _, d := range []*Dataset{&m.Baseline, &m.Target} {
		if d.DatasetID == "" {
			d.DatasetID = s.newID()
		}
	}
	if found && same(&old, &m) {
		return old, false, nil
	}
	m.stamp(t.By, now, !found)
	var w write
	w.fact(k, &m)
	if _, err := s.record(ctx, &w); err != nil {
		return m, false, err
	}
	s.driftJobs.tell(DriftJob{Workspace: ws.UID, Monitor: m.Name}, false)
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.DriftMonitor, m.Name))
	return m, !found, nil
}

// GetMonitor reads a drift monitor.
func (s *Service) GetMonitor(ctx context.Context, ws resource.Workspace, name string) (m DriftMonitor, err error) {
	return m, s.mustRead(ctx, monitorKey(ws.UID, name), monitorWords(name), &m)
}

// ListMonitors reads a page of the workspace's drift monitors.
func (s *Service) ListMonitors(ctx context.Context, ws resource.Workspace, page Page) ([]DriftMonitor, string, error) {
	return list[DriftMonitor](ctx, s, page, strings.Compare, key(kindMonitor, ws.UID))
}

// DeleteMonitor forgets a drift monitor and its results; the runs of its
// experiment stay, and one that is being computed is Canceled. One that is not there
// is no error.
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
	if err := s.endDriftRuns(ctx, ws, &m, t.By); err != nil {
		return err
	}
	keys := []string{driftStateKey(ws.UID, name), k}
	for _, kind := range []string{kindCompared, kindDocument, kindDriftRun} {
		more, err := s.facts.FactKeys(ctx, key(kind, ws.UID, name)+"/")
		if err != nil {
			return fmt.Errorf("list %s of drift monitor %s: %w", kind, name, err)
		}
		keys = append(more, keys...)
	}
	err = s.forget(ctx, keys)
	s.driftJobs.tell(DriftJob{Workspace: ws.UID, Monitor: m.Name}, true)
	return err
}
