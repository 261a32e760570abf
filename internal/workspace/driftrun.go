package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
	"github.com/carillon-events/carillon/mlevent"
)

// DriftRun is one comparison of a drift monitor, for one window of the target. Its
// Name is the run id. One that was computed elsewhere is Completed from the start and
// never changes; one that the server computes goes from Queued over Running to
// Completed, Failed or Canceled (driftjob.go).
type DriftRun struct {
	Head
	Monitor         string    `json:"monitor"` // name as spelled by the monitor
	DataDriftID     string    `json:"dataDriftId"`
	BaseDatasetID   string    `json:"baseDatasetId"`
	TargetDatasetID string    `json:"targetDatasetId"`
	Status          RunStatus `json:"status"`
	StartTime       string    `json:"startTime"` // of the window, in UTC; the window begins there
	EndTime         string    `json:"endTime"`   // of the window, which ends before it
	Coefficient     float64   `json:"driftCoefficient"`
	Threshold       float64   `json:"threshold"` // of the monitor at the time

	Kind        DriftKind    `json:"kind,omitempty"`
	Verdict     drift.Status `json:"verdict,omitempty"`  // of one that is Completed; "" is drift.OK
	Reason      string       `json:"reason,omitempty"`   // why there is no verdict, or why it Failed
	Method      drift.Method `json:"method,omitempty"`   // of the coefficient, where it is known
	HasDocument bool         `json:"document,omitempty"` // a result document is kept
	Early       bool         `json:"early,omitempty"`    // it was asked for before all rows of the window were there
	Begun       int          `json:"begun,omitempty"`    // how often its computing was begun

	Document json.RawMessage `json:"-"` // the result document, where GetDriftRun found one
	Progress *DriftProgress  `json:"-"` // of one that is being computed by this process
}

// DriftKind is how a drift run that the server computes came about.
// Source: spec/workspace.md section 1.6.
type DriftKind string

// The kinds; "" is a run that was computed elsewhere.
const (
	DriftAdhoc     DriftKind = "Adhoc"
	DriftScheduled DriftKind = "Scheduler"
	DriftBackFill  DriftKind = "BackFill"
)

// Judged reports whether the run came to a verdict.
func (r *DriftRun) Judged() bool {
	return r.Status == Completed && (r.Verdict == "" || r.Verdict == drift.OK)
}

// Drifted reports whether the coefficient is above the threshold, strictly.
// Source: spec/workspace.md section 1.6.
func (r *DriftRun) Drifted() bool { return r.Judged() && r.Coefficient > r.Threshold }

// Finding is what a drift run came to.
type Finding string

// The findings; "" is a run that is not Completed.
const (
	FoundDrift   Finding = "Drift"
	FoundNoDrift Finding = "NoDrift"
	FoundNoData  Finding = "NoData"
	FoundTooFew  Finding = "InsufficientData" // too few rows to tell
)

// Finding tells what the run came to.
func (r *DriftRun) Finding() Finding {
	switch {
	case r.Status != Completed:
		return ""
	case r.Verdict == drift.NoData:
		return FoundNoData
	case !r.Judged():
		return FoundTooFew
	case r.Drifted():
		return FoundDrift
	}
	return FoundNoDrift
}

// note has the experiment's run say what the drift run came to.
func (r *DriftRun) note(run *Run) {
	if found := r.Finding(); found != "" {
		if run.Properties == nil {
			run.Properties = map[string]string{}
		}
		run.Properties["dataDriftVerdict"] = string(found)
	}
}

// DriftRunType is the type of the experiment's run that a drift run also is.
const DriftRunType = "azureml.datadrift"

// DriftRunChange is what a request says of a new drift run.
type DriftRunChange struct {
	StartTime *string // RFC 3339
	EndTime   *string // RFC 3339
	Window    *string // a date or time in the window, in place of both

	// Coefficient is of a comparison that was made elsewhere; without it the server
	// compares.
	Coefficient *float64
	Result      json.RawMessage // its result document, if it has one
	Force       *bool           // compare again what was compared before
}

// Problems returns what is wrong with the request by itself, in field order.
func (c DriftRunChange) Problems() []*fault.Error {
	var problems []*fault.Error
	if c.Window == nil {
		for _, f := range []struct {
			target string
			value  *string
		}{{"properties.startTime", c.StartTime}, {"properties.endTime", c.EndTime}} {
			if f.value == nil {
				problems = append(problems, fault.Field(f.target, "A drift run needs %s: the target's window, as in \"2026-03-02T00:00:00Z\".", f.target))
			} else {
				problems = append(problems, timeProblem(f.target, f.value))
			}
		}
		problems = append(problems, orderProblem("properties.endTime", c.StartTime, c.EndTime, false))
	} else {
		if c.StartTime != nil || c.EndTime != nil {
			problems = append(problems, fault.Field("properties.window", "The window is given twice: leave out window, or startTime and endTime."))
		}
		if _, ok := parseDay(*c.Window); !ok {
			problems = append(problems, fault.Field("properties.window", "The value %s of properties.window is neither a date nor a date-time: write it as in \"2026-03-02\".", quote(*c.Window)))
		}
	}
	if c.Coefficient != nil {
		problems = append(problems, shareProblem("properties.driftCoefficient", *c.Coefficient))
	} else if c.Result != nil {
		problems = append(problems, fault.Field("properties.driftCoefficient", "A result that was computed elsewhere needs properties.driftCoefficient, too."))
	}
	if c.Result != nil {
		_, problem := readDocument(c.Result, c.Coefficient)
		problems = append(problems, problem)
	}
	return problems
}

// parseDay reads a date or a date-time.
func parseDay(text string) (time.Time, bool) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// window is the window that the request names; a monitor without schedule compares
// days.
func (c DriftRunChange) window(m *DriftMonitor) Window {
	if c.Window != nil {
		t, _ := parseDay(*c.Window)
		f := Daily
		if m.Schedule != nil {
			f = m.Schedule.Frequency
		}
		return f.At(t)
	}
	start, _ := time.Parse(time.RFC3339, *c.StartTime)
	end, _ := time.Parse(time.RFC3339, *c.EndTime)
	return Window{start.UTC(), end.UTC()}
}

// span is the window of a run.
func (r *DriftRun) span() Window {
	return DriftRunChange{StartTime: &r.StartTime, EndTime: &r.EndTime}.window(nil)
}

func driftRunKey(ws resource.UID, monitor, id string) string {
	return key(kindDriftRun, ws, monitor, id)
}

// PostDriftRun records a comparison of a drift monitor that was computed elsewhere, or
// has the server compare. It is also a run of the experiment named like the monitor;
// the result, that run, the experiment if it is new, and the events of both are
// one write. A window that was compared, or is about to be, is not compared by the
// server again unless that is asked for: then the run is that one, and not created.
func (s *Service) PostDriftRun(ctx context.Context, ws resource.Workspace, monitor string, c DriftRunChange, t Terms) (d DriftRun, created bool, err error) {
	if err := fault.Join(c.Problems()...); err != nil {
		return d, false, err
	}
	if c.Coefficient == nil {
		field := "properties.endTime"
		if c.Window != nil {
			field = "properties.window"
		}
		return s.startDriftRun(ctx, ws, monitor, driftRequest{c.window, field, DriftAdhoc, c.Force != nil && *c.Force}, t)
	}
	ws, leave, err := s.enter(ws)
	if err != nil {
		return d, false, err
	}
	defer leave()
	defer s.locks.lock(monitorKey(ws.UID, monitor))()
	var m DriftMonitor
	if err := s.mustRead(ctx, monitorKey(ws.UID, monitor), monitorWords(monitor), &m); err != nil {
		return d, false, err
	}
	var w write
	now := time.Now()
	d, run, release, err := s.newDriftRun(ctx, &w, ws, &m, c.window(&m), t.By, now)
	if err != nil {
		return d, false, err
	}
	defer release()
	var result *drift.Result
	if c.Result != nil {
		result, _ = readDocument(c.Result, c.Coefficient)
	}
	d.Status, d.Coefficient, d.Threshold = Completed, *c.Coefficient, m.Threshold
	run.Status, run.EndTime = Completed, event.FormatTime(now)
	d.note(&run)
	state, err := s.driftState(ctx, ws, m.Name)
	if err != nil {
		return d, false, err
	}
	if err := s.concludeDrift(ctx, &w, ws, &m, &d, &state, result, t.By, now); err != nil {
		return d, false, err
	}
	w.run(ws, &run, t.By, now, true, raises)
	if _, err := s.record(ctx, &w); err != nil {
		return d, false, err
	}
	telemetry.RecordOf(ctx).Add(slog.String(telemetry.Workspace, ws.ID.String()), slog.String(telemetry.DriftMonitor, m.Name),
		slog.String(telemetry.Run, d.Name), slog.Int(telemetry.Events, w.raised))
	return d, true, nil
}

// newDriftRun makes a drift run and the experiment's run that it also is; the
// experiment is in the write if it is new. Both ids stay free until release is called.
func (s *Service) newDriftRun(ctx context.Context, w *write, ws resource.Workspace, m *DriftMonitor, window Window, by resource.Stamp, now time.Time) (d DriftRun, run Run, release func(), err error) {
	e, isNew, leave, err := s.holdExperiment(ctx, ws, m.Name, by, now)
	if err != nil {
		return d, run, nil, err
	}
	id, unlock, err := s.freeDriftRunID(ctx, ws, *m, now)
	if err != nil {
		leave()
		return d, run, nil, err
	}
	if isNew {
		w.fact(experimentKey(ws.UID, e.Name), &e)
	}
	d = DriftRun{
		Head: Head{Name: id}, Monitor: m.Name, DataDriftID: m.DataDriftID,
		BaseDatasetID: m.Baseline.DatasetID, TargetDatasetID: m.Target.DatasetID, Threshold: m.Threshold,
	}
	d.StartTime, d.EndTime = window.Texts()
	d.stamp(by, now, true)
	run = Run{
		Head: Head{Name: id}, Experiment: e.Name, ExperimentID: e.ExperimentID, RunType: DriftRunType,
		Tags: map[string]string{}, Properties: map[string]string{"dataDriftId": m.DataDriftID, "dataDriftName": m.Name},
		StartTime: event.FormatTime(now), Generation: 1,
	}
	return d, run, func() { unlock(); leave() }, nil
}

// concludeDrift adds to a write that a drift run has come to its end: its fact, its
// document, what the monitor remembers of its windows, and the event that is due. The
// caller holds the monitor's lock.
func (s *Service) concludeDrift(ctx context.Context, w *write, ws resource.Workspace, m *DriftMonitor, d *DriftRun, state *driftState, result *drift.Result, by resource.Stamp, now time.Time) error {
	window := d.span()
	if result != nil {
		d.Method, d.HasDocument = result.Method, true
		result.Window = drift.Window{
			DataDriftID: d.DataDriftID, DataDriftName: d.Monitor, RunID: d.Name, BaseDatasetID: d.BaseDatasetID, TargetDatasetID: d.TargetDatasetID,
			StartTime: d.StartTime, EndTime: d.EndTime,
		}
		result.Threshold, result.HasDrift = d.Threshold, d.Drifted()
		w.fact(key(kindDocument, ws.UID, m.Name, d.Name), &document{Result: result})
	}
	place := w.fact(driftRunKey(ws.UID, m.Name, d.Name), d)
	inARow := 0
	if d.Drifted() {
		before, err := s.driftedBefore(ctx, ws, m.Name, window, m.ConsecutiveWindows-1)
		if err != nil {
			return err
		}
		inARow = 1 + before
	}
	if d.Judged() {
		var detected, over raised
		cleared := state.see(window, d.Drifted())
		telemetry.RecordOf(ctx).Add(slog.Bool("drift_cleared", cleared))
		if ws.DriftRaiseOn != resource.DriftOnDrift || d.Drifted() && inARow >= m.ConsecutiveWindows && state.rested(m, now) {
			state.Raised = now.UTC()
			detected = w.driftDetected(ws, d, details(result), now, place)
		}
		if cleared {
			over = w.driftCleared(ws, d, details(result), now, place)
		}
		w.came(place, now, detected, over)
	}
	var before compared
	windowKey := key(kindCompared, ws.UID, m.Name, window.key())
	if _, err := s.read(ctx, windowKey, &before); err != nil {
		return err
	}
	if d.Status == Completed || before.Status != Completed {
		now := compared{Run: d.Name, Status: d.Status, Judged: d.Judged(), Drifted: d.Drifted(), Early: d.Early}
		if d.Finding() == FoundNoData {
			now.Empty = before.Empty + 1
		}
		w.fact(windowKey, &now)
	}
	w.fact(driftStateKey(ws.UID, m.Name), state)
	return nil
}

// driftState is what a monitor's drift runs leave behind, and which of them are open:
// Queued or Running.
type driftState struct {
	own    Head      // not stored: nobody asks for its etag
	Open   []openRun `json:"open,omitempty"`
	Raised time.Time `json:"raised,omitzero"` // the last event
	Newest time.Time `json:"newest,omitzero"` // end of the newest window that was judged
	Above  bool      `json:"above,omitempty"` // whether that one drifted
}

// openRun is a drift run that the server is to compute.
type openRun struct {
	Run    string `json:"run"`
	Window string `json:"window"` // its key
}

func (d *driftState) head() *Head { return &d.own }

func driftStateKey(ws resource.UID, monitor string) string { return key(kindDriftState, ws, monitor) }

func (s *Service) driftState(ctx context.Context, ws resource.Workspace, monitor string) (d driftState, err error) {
	_, err = s.read(ctx, driftStateKey(ws.UID, monitor), &d)
	return d, err
}

// see notes the verdict on a window and reports whether it clears the monitor: the
// window before had drifted, this one has not. Windows older than the newest one change
// nothing.
func (d *driftState) see(w Window, drifted bool) (cleared bool) {
	if w.End.Before(d.Newest) {
		return false
	}
	cleared = d.Above && !drifted
	d.Newest, d.Above = w.End, drifted
	return cleared
}

// rested reports whether the last event is long enough ago for another one.
func (d *driftState) rested(m *DriftMonitor, now time.Time) bool {
	return d.Raised.IsZero() || m.CooldownHours == 0 || !now.Before(d.Raised.Add(time.Duration(m.CooldownHours)*time.Hour))
}

// compared is the newest drift run of a window that ended.
type compared struct {
	own     Head
	Run     string    `json:"run"`
	Status  RunStatus `json:"status"`
	Judged  bool      `json:"judged,omitempty"`
	Drifted bool      `json:"drifted,omitempty"`
	Early   bool      `json:"early,omitempty"` // not all rows were there yet
	Empty   int       `json:"empty,omitempty"` // runs in a row that found no rows
}

func (c *compared) head() *Head { return &c.own }

// driftedBefore counts the windows before one that drifted without a break, up to most.
// A window without a verdict is passed over.
func (s *Service) driftedBefore(ctx context.Context, ws resource.Workspace, monitor string, window Window, most int) (n int, err error) {
	if most <= 0 {
		return 0, nil
	}
	prefix := key(kindCompared, ws.UID, monitor) + "/"
	keys, err := s.facts.FactKeys(ctx, prefix)
	if err != nil {
		return 0, fmt.Errorf("list windows of drift monitor %s: %w", monitor, err)
	}
	own := prefix + window.key()
	for i := len(keys) - 1; i >= 0 && n < most; i-- {
		if keys[i] >= own {
			continue
		}
		var c compared
		if _, err := s.read(ctx, keys[i], &c); err != nil {
			return 0, err
		}
		switch {
		case c.Drifted:
			n++
		case c.Judged:
			return n, nil
		}
	}
	return n, nil
}

// freeDriftRunID returns the first id from now on that no run has, and keeps it
// until unlock is called. Source of its form: spec/workspace.md section 1.1.
func (s *Service) freeDriftRunID(ctx context.Context, ws resource.Workspace, m DriftMonitor, now time.Time) (id string, unlock func(), err error) {
	for ms := now.UnixMilli(); ; ms++ {
		id = fmt.Sprintf("%s_%d", m.DataDriftID, ms)
		k := runKey(ws.UID, m.Name, id)
		unlock = s.locks.lock(k)
		result, err := s.read(ctx, driftRunKey(ws.UID, m.Name, id), &DriftRun{})
		var run bool
		if err == nil {
			run, err = s.read(ctx, k, &Run{})
		}
		var before int64
		if err == nil {
			before, err = s.firstNumber(ctx, ws.UID, k)
		}
		if err == nil && !result && !run && before == 0 {
			return id, unlock, nil
		}
		unlock()
		if err != nil {
			return "", nil, err
		}
	}
}

func driftRunWords(id string) string { return fmt.Sprintf("The drift run %q", id) }

// GetDriftRun reads a drift run with its result document.
func (s *Service) GetDriftRun(ctx context.Context, ws resource.Workspace, monitor, id string) (d DriftRun, err error) {
	if err := s.mustRead(ctx, driftRunKey(ws.UID, monitor, id), driftRunWords(id), &d); err != nil {
		return d, err
	}
	s.driftJobs.progressOf(&d)
	if d.HasDocument {
		var doc document
		if _, err := s.read(ctx, key(kindDocument, ws.UID, monitor, id), &doc); err != nil {
			return d, err
		}
		d.Document = doc.Raw
	}
	return d, nil
}

// ListDriftRuns reads a page of a monitor's runs, the oldest first, without their
// documents.
func (s *Service) ListDriftRuns(ctx context.Context, ws resource.Workspace, monitor string, page Page) ([]DriftRun, string, error) {
	if _, err := s.GetMonitor(ctx, ws, monitor); err != nil {
		return nil, "", err
	}
	runs, next, err := list[DriftRun](ctx, s, page, strings.Compare, key(kindDriftRun, ws.UID, monitor))
	for i := range runs {
		s.driftJobs.progressOf(&runs[i])
	}
	return runs, next, err
}

// document is the result document of a drift run, as it is stored.
type document struct {
	own    Head
	Result *drift.Result   // on its way into the store
	Raw    json.RawMessage // as read
}

func (d *document) head() *Head { return &d.own }

// MarshalJSON writes the document.
func (d *document) MarshalJSON() ([]byte, error) { return json.Marshal(d.Result) }

// UnmarshalJSON keeps the document as it is: it goes out as it came in.
func (d *document) UnmarshalJSON(raw []byte) error {
	d.Raw = append(d.Raw[:0], raw...)
	return nil
}

// Bounds of a result document.
const (
	MaxDocument   = 2 << 20 // bytes
	maxColumns    = 1_000
	maxPlotted    = 1_000 // bins of a plot
	detailColumns = 5     // in an event
	maxChange     = 200   // bytes of what an event says of one of them
)

// readDocument reads the result document of a comparison that was made elsewhere.
// What it says of monitor, run, window, threshold and drift is not believed: that is
// known here.
func readDocument(raw json.RawMessage, coefficient *float64) (*drift.Result, *fault.Error) {
	const target = "properties.result"
	if len(raw) > MaxDocument {
		return nil, fault.Field(target, "The result document takes %d bytes; at most %d are allowed. Leave out plots.", len(raw), MaxDocument)
	}
	var r drift.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fault.Field(target, "The result document cannot be read: %v. Send what carillon drift run -o json prints.", err)
	}
	if r.Columns == nil {
		r.Columns = []drift.Column{}
	}
	if r.Metrics == nil {
		r.Metrics = []drift.Metric{}
	}
	switch method, ok := parseMethod(string(r.Method)); {
	case r.SchemaVersion != "1.0":
		return nil, fault.Field(target+".schemaVersion", "The schema version %s of the result document is not known: use \"1.0\".", quote(r.SchemaVersion))
	case !ok:
		return nil, fault.Field(target+".method", "The method %s is not known: use classifier, auc, share or maxjs.", quote(string(r.Method)))
	case r.Status != drift.OK:
		return nil, fault.Field(target+".status", "The result document has the status %s, and a comparison without a verdict is not recorded: it must be %q.", quote(string(r.Status)), drift.OK)
	case coefficient != nil && r.Coefficient != *coefficient:
		return nil, fault.Field(target+".driftCoefficient", "The result document has the coefficient %v, and properties.driftCoefficient is %v: they must be the same.", r.Coefficient, *coefficient)
	case len(r.Columns) > maxColumns:
		return nil, fault.Field(target+".columns", "The result document has %d columns; at most %d are allowed.", len(r.Columns), maxColumns)
	default:
		r.Method = method
	}
	for i, c := range r.Columns {
		at := fmt.Sprintf("%s.columns[%d]", target, i)
		if c.Name == "" || len(c.Name) > maxText {
			return nil, fault.Field(at+".name", "The column name %s is not valid: use 1 to %d bytes.", quote(c.Name), maxText)
		}
		if n := len(c.Plot.Labels); n > maxPlotted || len(c.Plot.Baseline) != n || len(c.Plot.Target) != n {
			return nil, fault.Field(at+".histogram", "The plot needs as many labels as shares of baseline and target, at most %d.", maxPlotted)
		}
	}
	return &r, nil
}

// details is what an event says of the columns that moved most.
func details(r *drift.Result) []mlevent.DriftDetail {
	if r == nil {
		return nil
	}
	var list []mlevent.DriftDetail
	for i := range r.Columns[:min(len(r.Columns), detailColumns)] {
		c := &r.Columns[i]
		list = append(list, mlevent.DriftDetail{
			Column: c.Name, Type: c.Type, Drifted: c.Drifted, Contribution: min(max(c.Metrics[drift.Contribution], 0), 1),
			Distance: min(max(c.Metrics[drift.JS], 0), 1), Change: clipped(c.Change()),
		})
	}
	return list
}

// clipped is a text of bounded length that is still text.
func clipped(text string) string {
	if len(text) <= maxChange {
		return text
	}
	return strings.ToValidUTF8(text[:maxChange], "") + "…"
}
