package workspace

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// computing makes a monitor that names data.
func (b *bench) computing(t *testing.T, name string, change ...func(*MonitorChange)) DriftMonitor {
	t.Helper()
	c := MonitorChange{Baseline: &DatasetChange{URI: ptr("/data/train.csv")}, Target: &DatasetChange{URI: ptr("/data/live.csv"), TimestampColumn: ptr("at")}}
	for _, f := range change {
		f(&c)
	}
	m, _, err := b.PutMonitor(t.Context(), b.ws, name, c, kim)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func week(day string) DriftRunChange {
	start, _ := time.Parse(time.DateOnly, day)
	return DriftRunChange{StartTime: ptr(start.Format(time.RFC3339)), EndTime: ptr(start.AddDate(0, 0, 7).Format(time.RFC3339))}
}

// start posts a drift run for the server to compute.
func (b *bench) start(t *testing.T, monitor string, c DriftRunChange) DriftRun {
	t.Helper()
	if c.EndTime != nil && time.Now().Before(at(t, (*c.EndTime)[:10])) { // the clock of synctest stands in 2000
		c.Force = ptr(true)
	}
	d, created, err := b.PostDriftRun(t.Context(), b.ws, monitor, c, kim)
	if err != nil || !created {
		t.Fatalf("created %v, error %v", created, err)
	}
	return d
}

func (b *bench) job(d DriftRun) DriftJob { return DriftJob{b.ws.UID, d.Monitor, d.Name} }

// compute begins a job and ends it with a coefficient.
func (b *bench) compute(t *testing.T, d DriftRun, coefficient float64) {
	t.Helper()
	if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); !ok || err != nil {
		t.Fatalf("begun %v, error %v", ok, err)
	}
	if err := b.EndDriftJob(t.Context(), b.job(d), DriftOutcome{Result: result(coefficient)}); err != nil {
		t.Fatal(err)
	}
}

func result(coefficient float64) *drift.Result {
	return &drift.Result{SchemaVersion: "1.0", Status: drift.OK, Method: drift.ByClassifier, Coefficient: coefficient, Metrics: []drift.Metric{}, Columns: []drift.Column{{
		Name: "amount", Type: "numeric", Drifted: true, Metrics: map[string]float64{drift.Contribution: 0.75, drift.JS: 0.5},
		Profile: drift.Profiles{Baseline: map[string]float64{"mean": 1}, Target: map[string]float64{"mean": 2}},
	}}}
}

// raised returns what was raised after the first n frames: type, and status or
// coefficient.
func (b *bench) raised(t *testing.T, n int) []string {
	t.Helper()
	_, events := b.log.since(n)
	out := []string{}
	for _, raw := range events {
		var e struct {
			EventType string
			Data      struct {
				RunStatus        string
				DriftCoefficient float64
			}
		}
		if err := json.Unmarshal([]byte(raw), &e); err != nil {
			t.Fatal(err)
		}
		name := e.EventType[strings.LastIndexByte(e.EventType, '.')+1:]
		switch name {
		case "RunStatusChanged":
			name += " " + e.Data.RunStatus
		case "DatasetDriftDetected":
			name += fmt.Sprintf(" %g", e.Data.DriftCoefficient)
		}
		out = append(out, name)
	}
	return out
}

var everyStatus = func(ws *resource.Workspace) {
	ws.StatusEvents = []string{"Queued", "Running", "Completed", "Failed", "Canceled"}
}

func TestDriftJob(t *testing.T) {
	noVerdict := func(s drift.Status) *drift.Result {
		return &drift.Result{SchemaVersion: "1.0", Status: s, Reason: "too few", Method: drift.ByClassifier, Coefficient: 0.9, Metrics: []drift.Metric{}, Columns: []drift.Column{}}
	}
	tests := []struct {
		name    string
		outcome DriftOutcome
		status  RunStatus
		drifted bool
		raised  []string
	}{
		{"drift", DriftOutcome{Result: result(0.5)}, Completed, true, []string{"DatasetDriftDetected 0.5", "RunStatusChanged Completed", "RunCompleted"}},
		{"no drift", DriftOutcome{Result: result(0.1)}, Completed, false, []string{"DatasetDriftDetected 0.1", "RunStatusChanged Completed", "RunCompleted"}},
		{"no rows", DriftOutcome{Result: noVerdict(drift.NoData)}, Completed, false, []string{"RunStatusChanged Completed", "RunCompleted"}},
		{"too few rows, whatever the coefficient", DriftOutcome{Result: noVerdict(drift.Insufficient)}, Completed, false, []string{"RunStatusChanged Completed", "RunCompleted"}},
		{"failed", DriftOutcome{Failure: "it vanished"}, Failed, false, []string{"RunStatusChanged Failed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, everyStatus)
				b.computing(t, "Orders")
				n := b.log.count()
				d := b.start(t, "orders", week("2026-02-23"))
				if d.Status != Queued || d.Kind != DriftAdhoc || d.StartTime != "2026-02-23T00:00:00+00:00" || d.EndTime != "2026-03-02T00:00:00+00:00" {
					t.Errorf("drift run is %+v", d)
				}
				time.Sleep(time.Second)
				task, ok, err := b.BeginDriftJob(t.Context(), b.job(d))
				if err != nil || !ok || task.Settings.Baseline.URI != "/data/train.csv" || task.Window.Start.Format(time.DateOnly) != "2026-02-23" || task.Seed == 0 {
					t.Fatalf("task is %+v, %v, error %v", task, ok, err)
				}
				b.NoteDriftProgress(b.job(d), DriftProgress{"reading the target", 7})
				if now, err := b.GetDriftRun(t.Context(), b.ws, "orders", d.Name); err != nil || now.Status != Running || now.Progress == nil || now.Progress.Rows != 7 {
					t.Errorf("while it is computed the run is %+v, error %v", now, err)
				}
				if want, got := []string{"RunStatusChanged Queued", "RunStatusChanged Running"}, b.raised(t, n); !slices.Equal(got, want) {
					t.Errorf("raised %q, want %q", got, want)
				}
				n = b.log.count()
				for range 2 { // the second time it is not open any more
					if err := b.EndDriftJob(t.Context(), b.job(d), tt.outcome); err != nil {
						t.Fatal(err)
					}
				}
				if b.log.count() != n+1 {
					t.Errorf("the end took %d frames", b.log.count()-n)
				}
				if got := b.raised(t, n); !slices.Equal(got, tt.raised) {
					t.Errorf("raised %q, want %q", got, tt.raised)
				}
				now, err := b.GetDriftRun(t.Context(), b.ws, "orders", d.Name)
				if err != nil || now.Status != tt.status || now.Drifted() != tt.drifted || now.Progress != nil || now.HasDocument != (tt.outcome.Result != nil) || (now.Document == nil) == now.HasDocument {
					t.Errorf("in the end the run is %+v, error %v", now, err)
				}
				if want := firstOf(tt.outcome.Failure, now.Reason); now.Reason != want {
					t.Errorf("reason is %q, want %q", now.Reason, want)
				}
				run, err := b.GetRun(t.Context(), b.ws, "orders", d.Name)
				if err != nil || run.Status != tt.status || run.EndTime == "" {
					t.Errorf("the experiment's run is %+v, error %v", run, err)
				}
				if open, err := b.OpenDriftJobs(t.Context()); err != nil || len(open) != 0 {
					t.Errorf("open are %v, error %v", open, err)
				}
				if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); ok || err != nil {
					t.Errorf("begun again: %v, %v", ok, err)
				}
			})
		})
	}
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// A process that ends in the middle leaves the job open; the next one begins it again,
// and its end is told once. One that ends its process every time is given up.
func TestDriftJobSurvivesRestart(t *testing.T) {
	b := newBench(t, everyStatus)
	b.computing(t, "m")
	d := b.start(t, "m", week("2026-02-23"))
	n := b.log.count()
	for range mostBegun - 1 {
		if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); !ok || err != nil {
			t.Fatal(ok, err)
		}
		b.Service = b.restart(nil)
		if open, err := b.OpenDriftJobs(t.Context()); err != nil || !slices.Equal(open, []DriftJob{b.job(d)}) {
			t.Fatalf("open are %v, error %v", open, err)
		}
	}
	if got := b.raised(t, n); !slices.Equal(got, []string{"RunStatusChanged Running"}) {
		t.Errorf("raised %q", got)
	}
	b.compute(t, d, 0.5)
	if got := b.raised(t, n); len(got) != 4 {
		t.Errorf("raised %q", got)
	}

	d = b.start(t, "m", week("2026-03-02"))
	for range mostBegun {
		if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); ok || err != nil {
		t.Fatal(ok, err)
	}
	if d, err := b.GetDriftRun(t.Context(), b.ws, "m", d.Name); err != nil || d.Status != Failed || !strings.Contains(d.Reason, "begun 5 times") {
		t.Errorf("drift run is %+v, error %v", d, err)
	}
}

// A window is compared once: by whoever comes first, unless it is asked for by force.
func TestDriftWindowOnce(t *testing.T) {
	b := newBench(t)
	b.computing(t, "m")
	first := b.start(t, "m", week("2026-02-23"))
	again := func(c DriftRunChange, want string) {
		t.Helper()
		d, created, err := b.PostDriftRun(t.Context(), b.ws, "m", c, kim)
		if err != nil || created || d.Name != want {
			t.Errorf("run %s, created %v, error %v; want %s", d.Name, created, err, want)
		}
	}
	force := week("2026-02-23")
	force.Force = ptr(true)
	again(week("2026-02-23"), first.Name)
	again(force, first.Name) // it is open
	b.compute(t, first, 0.1)
	again(week("2026-02-23"), first.Name)
	second := b.start(t, "m", force)
	if _, err := b.CancelDriftRun(t.Context(), b.ws, "m", second.Name, ptr("canceled"), kim); err != nil {
		t.Fatal(err)
	}
	again(week("2026-02-23"), first.Name) // what was cancelled does not hide it
	third := b.start(t, "m", force)
	b.compute(t, third, 0.1)
	again(week("2026-02-23"), third.Name)

	failed := b.start(t, "m", week("2026-03-02"))
	if err := b.EndDriftJob(t.Context(), b.job(failed), DriftOutcome{Failure: "no"}); err != nil {
		t.Fatal(err)
	}
	n := b.log.count()
	if err := b.StartScheduled(t.Context(), b.ws.UID, "m", Weekly.At(at(t, "2026-03-02"))); err != nil || b.log.count() != n {
		t.Errorf("a schedule repeats what failed: %v", err)
	}
	b.start(t, "m", week("2026-03-02")) // by hand it may be
}

func TestDriftRunCancel(t *testing.T) {
	b := newBench(t, everyStatus)
	b.computing(t, "m")
	var told []string
	b.ObserveDrift(func(job DriftJob, ended bool) { told = append(told, fmt.Sprint(job.Run != "", ended)) })
	d := b.start(t, "m", week("2026-02-23"))
	if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	n := b.log.count()
	_, err := b.CancelDriftRun(t.Context(), b.ws, "m", d.Name, ptr("Completed"), kim)
	wantFault(t, err, fault.Invalid, []string{"properties.status"}, "Canceled")
	_, err = b.CancelDriftRun(t.Context(), b.ws, "m", d.Name, ptr("Canceled"), Terms{IfMatch: []string{"1"}})
	wantFault(t, err, fault.PreconditionFailed, nil, "1")
	for range 2 {
		if d, err := b.CancelDriftRun(t.Context(), b.ws, "m", d.Name, ptr("Canceled"), kim); err != nil || d.Status != Canceled {
			t.Fatal(d, err)
		}
	}
	if err := b.EndDriftJob(t.Context(), b.job(d), DriftOutcome{Result: result(0.5)}); err != nil {
		t.Fatal(err)
	}
	if got := b.raised(t, n); !slices.Equal(got, []string{"RunStatusChanged Canceled"}) {
		t.Errorf("raised %q", got)
	}
	if want := []string{"true false", "true true"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	other := b.start(t, "m", week("2026-03-02"))
	b.compute(t, other, 0.5)
	_, err = b.CancelDriftRun(t.Context(), b.ws, "m", other.Name, ptr("Canceled"), kim)
	wantFault(t, err, fault.Conflict, nil, "Completed")

	// The experiment's run can be cancelled, too: the drift run goes with it.
	third := b.start(t, "m", week("2026-03-09"))
	if _, err := b.PatchRun(t.Context(), b.ws, "m", third.Name, status(Canceled), kim); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := b.BeginDriftJob(t.Context(), b.job(third)); ok || err != nil {
		t.Errorf("begun %v, error %v", ok, err)
	}
	fourth := b.start(t, "m", week("2026-03-16"))
	if _, ok, err := b.BeginDriftJob(t.Context(), b.job(fourth)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := b.PatchRun(t.Context(), b.ws, "m", fourth.Name, status(Canceled), kim); err != nil {
		t.Fatal(err)
	}
	if err := b.EndDriftJob(t.Context(), b.job(fourth), DriftOutcome{Result: result(0.5)}); err != nil {
		t.Fatal(err)
	}
	for _, run := range []DriftRun{third, fourth} {
		if d, err := b.GetDriftRun(t.Context(), b.ws, "m", run.Name); err != nil || d.Status != Canceled || d.Document != nil {
			t.Errorf("drift run is %+v, error %v", d, err)
		}
	}
}

// A monitor that goes takes its jobs along, and everything it remembers.
func TestDriftMonitorDeletedWhileItsJobRuns(t *testing.T) {
	b := newBench(t, everyStatus)
	b.computing(t, "m")
	done, d := b.start(t, "m", week("2026-02-16")), b.start(t, "m", week("2026-02-23"))
	b.compute(t, done, 0.5)
	if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	n := b.log.count()
	if err := b.DeleteMonitor(t.Context(), b.ws, "M", kim); err != nil {
		t.Fatal(err)
	}
	if err := b.EndDriftJob(t.Context(), b.job(d), DriftOutcome{Result: result(0.5)}); err != nil {
		t.Fatal(err)
	}
	if got := b.raised(t, n); !slices.Equal(got, []string{"RunStatusChanged Canceled"}) {
		t.Errorf("raised %q", got)
	}
	for _, kind := range []string{kindMonitor, kindDriftRun, kindDocument, kindCompared, kindDriftState} {
		if keys, err := b.log.FactKeys(t.Context(), kind+"/"); err != nil || len(keys) != 0 {
			t.Errorf("left are %q, error %v", keys, err)
		}
	}
	if run, err := b.GetRun(t.Context(), b.ws, "m", d.Name); err != nil || run.Status != Canceled {
		t.Errorf("run is %+v, error %v", run, err)
	}
}

func TestDriftAlertHygiene(t *testing.T) {
	type step struct {
		day         string
		coefficient float64 // negative: no verdict
		raises      bool
	}
	tests := []struct {
		name     string
		inARow   int
		cooldown int
		steps    []step // an hour apart
	}{
		{"each one", 1, 0, []step{{"2026-02-02", 0.5, true}, {"2026-02-09", 0.5, true}, {"2026-02-16", 0.1, false}}},
		{"two in a row", 2, 0, []step{{"2026-02-02", 0.5, false}, {"2026-02-09", 0.5, true}, {"2026-02-16", 0.1, false}, {"2026-02-23", 0.5, false}, {"2026-03-02", 0.5, true}}},
		{"a window without a verdict is passed over", 2, 0, []step{{"2026-02-02", 0.5, false}, {"2026-02-09", -1, false}, {"2026-02-16", 0.5, true}}},
		{"an older window counts those before it", 2, 0, []step{{"2026-02-16", 0.5, false}, {"2026-02-02", 0.5, false}, {"2026-02-09", 0.5, true}}},
		{"cooldown", 1, 2, []step{{"2026-02-02", 0.5, true}, {"2026-02-09", 0.5, false}, {"2026-02-16", 0.5, true}, {"2026-02-23", 0.5, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(ws *resource.Workspace) { ws.DriftRaiseOn = resource.DriftOnDrift })
				b.computing(t, "m", func(c *MonitorChange) { c.ConsecutiveWindows, c.CooldownHours = &tt.inARow, &tt.cooldown })
				for _, s := range tt.steps {
					d := b.start(t, "m", week(s.day))
					n := b.log.count()
					o := result(s.coefficient)
					if s.coefficient < 0 {
						o = &drift.Result{Status: drift.NoData}
					}
					if err := b.EndDriftJob(t.Context(), b.job(d), DriftOutcome{Result: o}); err != nil {
						t.Fatal(err)
					}
					if got := slices.ContainsFunc(b.raised(t, n), func(e string) bool { return strings.HasPrefix(e, "DatasetDriftDetected") }); got != s.raises {
						t.Errorf("window of %s raises: %v, want %v", s.day, got, s.raises)
					}
					time.Sleep(time.Hour)
				}
			})
		})
	}
}

func TestDriftCleared(t *testing.T) {
	var s driftState
	for i, tt := range []struct {
		day     string
		drifted bool
		cleared bool
	}{
		{"2026-02-02", false, false}, {"2026-02-09", true, false}, {"2026-02-16", true, false},
		{"2026-02-02", false, false}, // an older window says nothing of now
		{"2026-02-23", false, true}, {"2026-03-02", false, false},
	} {
		if got := s.see(Weekly.At(at(t, tt.day)), tt.drifted); got != tt.cleared {
			t.Errorf("%d: cleared %v, want %v", i, got, tt.cleared)
		}
	}
}

func TestBackFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01 there
		b := newBench(t)
		b.computing(t, "m", func(c *MonitorChange) { c.Schedule = json.RawMessage(`{"frequency":"week","enabled":false}`) })
		fill := func(from, to string, change ...func(*BackFillChange)) (BackFill, error) {
			c := BackFillChange{StartTime: &from, EndTime: &to}
			for _, f := range change {
				f(&c)
			}
			return b.BackFillDrift(t.Context(), b.ws, "m", c, kim)
		}
		got, err := fill("1999-12-01", "1999-12-14")
		if err != nil || got.Started != 3 || len(got.Runs) != 3 || got.Runs[0].StartTime != "1999-11-29T00:00:00+00:00" || got.Runs[0].Kind != DriftBackFill {
			t.Fatalf("%+v, error %v", got, err)
		}
		b.compute(t, got.Runs[1], 0.5)
		got, err = fill("1999-12-06", "2001-01-01", func(c *BackFillChange) { c.Frequency = ptr("Week") })
		if err != nil || got.Started != 1 || len(got.Runs) != 3 { // the week that is not over is left out
			t.Errorf("%+v, error %v", got, err)
		}
		_, err = fill("1999-10-01", "1999-12-01", func(c *BackFillChange) { c.Frequency = ptr("Day") })
		wantFault(t, err, fault.Invalid, []string{"properties.endTime"}, "end at 1999-10-31")
		_, err = fill("2000-01-01", "2000-02-01")
		wantFault(t, err, fault.Invalid, []string{"properties.endTime"}, "is over yet")
		_, err = fill("soon", "later", func(c *BackFillChange) { c.Frequency = ptr("Hour") })
		wantFault(t, err, fault.Invalid, []string{"properties.startTime", "properties.endTime", "properties.frequency"}, "soon")
		_, err = fill("1999-12-02", "1999-12-01")
		wantFault(t, err, fault.Invalid, []string{"properties.endTime"}, "after the start")
	})
}

// There is room for so many jobs of a monitor.
func TestDriftRunsWait(t *testing.T) {
	b := newBench(t)
	b.computing(t, "m")
	for i := range mostOpen {
		b.start(t, "m", week(time.Date(2020, 1, 1+7*i, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)))
	}
	_, _, err := b.PostDriftRun(t.Context(), b.ws, "m", week("2026-02-23"), kim)
	wantFault(t, err, fault.Conflict, nil, "not done")
}

func TestDriftRunNeedsData(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{Baseline: &DatasetChange{URI: ptr("/a.csv")}}, kim); err != nil {
		t.Fatal(err)
	}
	_, _, err := b.PostDriftRun(t.Context(), b.ws, "m", week("2026-02-23"), kim)
	wantFault(t, err, fault.Invalid, []string{"properties.target.uri"}, "target.uri is not set")
	b.checkDataset = func(uri string) error {
		if uri == "/secret.csv" {
			return errors.New("it lies outside")
		}
		return nil
	}
	for uri, want := range map[string]string{"train.csv": "no absolute path", "ftp://h/a.csv": "cannot be read", "/a/{yyyy}.csv": "pattern of dates", "/a/{day}.csv": "no part of a date", "/secret.csv": "it lies outside"} {
		c := MonitorChange{Baseline: &DatasetChange{URI: &uri}}
		_, _, err := b.PutMonitor(t.Context(), b.ws, "m", c, kim)
		wantFault(t, err, fault.Invalid, []string{"properties.baseline.uri"}, want)
		_, err = b.PatchMonitor(t.Context(), b.ws, "m", c, kim)
		wantFault(t, err, fault.Invalid, []string{"properties.baseline.uri"}, want)
		// Earlier versions took it.
		m := DriftMonitor{Baseline: Dataset{URI: uri}, Target: Dataset{URI: "/b.csv"}, Schedule: &Schedule{Frequency: Daily, Enabled: true}}
		if on, reason := m.Scheduled(); uri != "/secret.csv" && (on || !strings.Contains(reason, want)) {
			t.Errorf("scheduled %v: %s", on, reason)
		}
	}
}

// A window that had no rows is not compared, and one is not over before its rows are there.
func TestWindowWithoutRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01 there
		b := newBench(t)
		b.computing(t, "m", func(c *MonitorChange) { c.Schedule = json.RawMessage(`{"frequency":"Day","latencyHours":6}`) })
		window := Daily.At(at(t, "2000-01-01"))
		ask := DriftRunChange{Window: ptr("2000-01-01")}
		_, _, err := b.PostDriftRun(t.Context(), b.ws, "m", ask, kim)
		wantFault(t, err, fault.Invalid, []string{"properties.window"}, "2000-01-02T06:00:00+00:00 only")
		forced := ask
		forced.Force = ptr(true)
		b.compute(t, b.start(t, "m", forced), 0.1)
		time.Sleep(30 * time.Hour) // it is due
		due := func(want bool) (d DriftRun) {
			t.Helper()
			n := b.log.count()
			if err := b.StartScheduled(t.Context(), b.ws.UID, "m", window); err != nil || (b.log.count() > n) != want {
				t.Fatalf("started %v, want %v; error %v", b.log.count() > n, want, err)
			}
			list, _, err := b.ListDriftRuns(t.Context(), b.ws, "m", Page{})
			if err != nil {
				t.Fatal(err)
			}
			return list[len(list)-1]
		}
		empty := func(d DriftRun) {
			t.Helper()
			time.Sleep(time.Second)
			if _, ok, err := b.BeginDriftJob(t.Context(), b.job(d)); !ok || err != nil {
				t.Fatalf("begun %v, error %v", ok, err)
			}
			if err := b.EndDriftJob(t.Context(), b.job(d), DriftOutcome{Result: &drift.Result{SchemaVersion: "1.0", Status: drift.NoData}}); err != nil {
				t.Fatal(err)
			}
			if run, err := b.GetRun(t.Context(), b.ws, "m", d.Name); err != nil || run.Properties["dataDriftVerdict"] != "NoData" {
				t.Errorf("the run says %v, error %v", run.Properties, err)
			}
		}
		for range mostEmpty {
			empty(due(true))
		}
		due(false) // it was looked for often enough
		d := b.start(t, "m", ask)
		b.compute(t, d, 0.1)
		due(false)
		if again, created, err := b.PostDriftRun(t.Context(), b.ws, "m", ask, kim); err != nil || created || again.Name != d.Name {
			t.Errorf("run %s, created %v, error %v", again.Name, created, err)
		}
	})
}

func TestDriftRunWindow(t *testing.T) {
	weekly := &DriftMonitor{Schedule: &Schedule{Frequency: Weekly}}
	if got := (DriftRunChange{Window: ptr("2026-02-25")}).window(weekly).String(); got != "2026-02-23T00:00:00+00:00 to 2026-03-02T00:00:00+00:00" {
		t.Error(got)
	}
	if got := (DriftRunChange{Window: ptr("2026-02-25T23:00:00-02:00")}).window(&DriftMonitor{}).String(); got != "2026-02-26T00:00:00+00:00 to 2026-02-27T00:00:00+00:00" {
		t.Error(got)
	}
	c := week("2026-02-23")
	c.Window = ptr("tomorrow")
	wantFault(t, fault.Join(c.Problems()...), fault.Invalid, []string{"properties.window", "properties.window"}, "twice")
}

func TestSchedules(t *testing.T) {
	tests := []struct {
		name     string
		schedule string
		want     string // of a schedule that is run
		note     string // of one that is kept
		wrong    string // the field
	}{
		{"frequency alone", `{"frequency":"week"}`, "Week 0 true", "", ""},
		{"everything", `{"frequency":"Month","latencyHours":72,"enabled":false,"more":1}`, "Month 72 false", "", ""},
		{"a text of the caller's own", `"every monday"`, "", `"every monday"`, ""},
		{"an object of the caller's own", `{ "cron": "0 5 * * 1" }`, "", `{"cron":"0 5 * * 1"}`, ""},
		{"another frequency", `{"frequency":"Hour"}`, "", "", "properties.schedule.frequency"},
		{"no frequency", `{"enabled":true}`, "", "", "properties.schedule.frequency"},
		{"latency that is no number", `{"frequency":"Day","latencyHours":"3"}`, "", "", "properties.schedule.latencyHours"},
		{"negative latency", `{"frequency":"Day","latencyHours":-1}`, "", "", "properties.schedule.latencyHours"},
		{"enabled that is neither", `{"frequency":"Day","enabled":1}`, "", "", "properties.schedule.enabled"},
		{"a list", `[]`, "", "", "properties.schedule"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			m, _, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{Schedule: json.RawMessage(tt.schedule)}, kim)
			if tt.wrong != "" {
				wantFault(t, err, fault.Invalid, []string{tt.wrong}, "")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if s := m.Schedule; s != nil {
				got = fmt.Sprint(s.Frequency, " ", s.LatencyHours, " ", s.Enabled)
			}
			if got != tt.want || string(m.Note) != tt.note {
				t.Errorf("schedule is %q, note %s", got, m.Note)
			}
		})
	}
}

// What was due before a schedule was enabled is not its business; a change that leaves
// it enabled does not move that.
func TestScheduleSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.computing(t, "m", func(c *MonitorChange) { c.Schedule = json.RawMessage(`{"frequency":"Day"}`) })
		began := time.Now().UTC()
		patch := func(schedule string) *Schedule {
			t.Helper()
			time.Sleep(time.Hour)
			m, err := b.PatchMonitor(t.Context(), b.ws, "m", MonitorChange{Schedule: json.RawMessage(schedule)}, kim)
			if err != nil {
				t.Fatal(err)
			}
			return m.Schedule
		}
		if s := patch(`{"latencyHours":5}`); !s.Since.Equal(began) || s.LatencyHours != 5 || !s.Enabled || s.Frequency != Daily {
			t.Errorf("schedule is %+v", s)
		}
		if s := patch(`{"enabled":false}`); s.Enabled {
			t.Errorf("schedule is %+v", s)
		}
		if monitors, err := b.ScheduledMonitors(t.Context()); err != nil || len(monitors) != 0 {
			t.Errorf("scheduled are %v, error %v", monitors, err)
		}
		if s := patch(`{"enabled":true}`); !s.Since.Equal(began.Add(3*time.Hour)) || s.LatencyHours != 5 {
			t.Errorf("schedule is %+v", s)
		}
		if s := patch(`{"frequency":"Week"}`); !s.Since.Equal(began.Add(4 * time.Hour)) {
			t.Errorf("schedule is %+v", s)
		}
		if monitors, err := b.ScheduledMonitors(t.Context()); err != nil || !slices.Equal(monitors, []DriftJob{{Workspace: b.ws.UID, Monitor: "m"}}) {
			t.Errorf("scheduled are %v, error %v", monitors, err)
		}
		if m, err := b.PatchMonitor(t.Context(), b.ws, "m", MonitorChange{NoSchedule: true}, kim); err != nil || m.Schedule != nil {
			t.Errorf("monitor is %+v, error %v", m, err)
		}
	})
}

func TestMonitorMethod(t *testing.T) {
	b := newBench(t)
	put := func(c MonitorChange) DriftMonitor {
		t.Helper()
		m, _, err := b.PutMonitor(t.Context(), b.ws, "m", c, kim)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := put(MonitorChange{Method: ptr("MaxJS"), MinRows: ptr(9), Seed: ptr(0), ConsecutiveWindows: ptr(30), CooldownHours: ptr(1)}); m.Method != drift.ByMaxJS || m.Threshold != 0.1 || *m.Seed != 0 || m.MinRows != 9 {
		t.Errorf("monitor is %+v", m)
	}
	if m := put(MonitorChange{Threshold: ptr(0.0)}); m.Threshold != 0 || m.Method != "" || m.Seed != nil || m.MinRows != 0 || m.ConsecutiveWindows != 0 || m.CooldownHours != 0 {
		t.Errorf("monitor is %+v", m)
	}
	_, _, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{Method: ptr("ks"), MinRows: ptr(0), Seed: ptr(-1), ConsecutiveWindows: ptr(31), CooldownHours: ptr(-1)}, kim)
	wantFault(t, err, fault.Invalid, []string{"properties.method", "properties.minRows", "properties.seed", "properties.consecutiveWindows", "properties.cooldownHours"}, "ks")
}

// A result that was computed elsewhere is kept with its run, under the names that the
// server knows, and its event says which columns moved.
func TestDriftDocument(t *testing.T) {
	b := newBench(t)
	b.computing(t, "m")
	raw, err := json.Marshal(result(0.5))
	if err != nil {
		t.Fatal(err)
	}
	c := window(0.5)
	c.Result = raw
	n := b.log.count()
	d, _, err := b.PostDriftRun(t.Context(), b.ws, "m", c, kim)
	if err != nil {
		t.Fatal(err)
	}
	_, events := b.log.since(n)
	if want := `"driftDetails":[{"column":"amount","type":"numeric","drifted":true,"contribution":0.75,"distance":0.5,"change":"mean 1 to 2"}]`; !strings.Contains(events[0], want) {
		t.Errorf("event is %s, want %s in it", events[0], want)
	}
	got, err := b.GetDriftRun(t.Context(), b.ws, "m", d.Name)
	if err != nil {
		t.Fatal(err)
	}
	var kept drift.Result
	if err := json.Unmarshal(got.Document, &kept); err != nil || kept.RunID != d.Name || kept.DataDriftName != "m" || kept.Threshold != 0.2 || !kept.HasDrift || len(kept.Columns) != 1 {
		t.Errorf("document is %s, error %v", got.Document, err)
	}
	if list, _, err := b.ListDriftRuns(t.Context(), b.ws, "m", Page{}); err != nil || len(list) != 1 || list[0].Document != nil || !list[0].HasDocument {
		t.Errorf("list is %+v, error %v", list, err)
	}
	for name, tt := range map[string]struct {
		change func(*drift.Result)
		target string
	}{
		"another coefficient": {func(r *drift.Result) { r.Coefficient = 0.4 }, "properties.result.driftCoefficient"},
		"no verdict":          {func(r *drift.Result) { r.Status = drift.NoData }, "properties.result.status"},
		"another method":      {func(r *drift.Result) { r.Method = "ks" }, "properties.result.method"},
		"another version":     {func(r *drift.Result) { r.SchemaVersion = "2" }, "properties.result.schemaVersion"},
		"a nameless column":   {func(r *drift.Result) { r.Columns[0].Name = "" }, "properties.result.columns[0].name"},
		"a plot that is not":  {func(r *drift.Result) { r.Columns[0].Plot.Labels = []string{"a"} }, "properties.result.columns[0].histogram"},
		"too many columns":    {func(r *drift.Result) { r.Columns = make([]drift.Column, maxColumns+1) }, "properties.result.columns"},
		"too many bytes":      {func(r *drift.Result) { r.Reason = strings.Repeat("x", MaxDocument) }, "properties.result"},
	} {
		t.Run(name, func(t *testing.T) {
			r := result(0.5)
			tt.change(r)
			c := window(0.5)
			if c.Result, err = json.Marshal(r); err != nil {
				t.Fatal(err)
			}
			_, _, err := b.PostDriftRun(t.Context(), b.ws, "m", c, kim)
			wantFault(t, err, fault.Invalid, []string{tt.target}, "")
		})
	}
}

func FuzzDriftDocument(f *testing.F) {
	raw, _ := json.Marshal(result(0.5))
	f.Add(raw)
	f.Add([]byte(`{"schemaVersion":"1.0","status":"ok","method":"auc","columns":[{"name":"a","histogram":{"labels":["x"]}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, problem := readDocument(raw, nil)
		if problem != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Errorf("a document that was taken cannot be written: %v", err)
		}
		if list := details(r); len(list) > detailColumns {
			t.Errorf("%d columns in an event", len(list))
		}
	})
}
