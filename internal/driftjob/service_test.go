package driftjob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/dataset"
	"github.com/carillon-events/carillon/internal/drift"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

const ws = resource.UID(0xaa)

// ledger is a Ledger in memory. It starts what is scheduled at most once a window, as
// the true one does.
type ledger struct {
	mu       sync.Mutex
	observer func(workspace.DriftJob, bool)
	open     []workspace.DriftJob
	monitors map[string]workspace.DriftMonitor
	windows  map[string]workspace.Window // by run
	started  []string                    // windows that were made due, by their begin
	ended    map[string]workspace.DriftOutcome
	order    []string // runs, as they ended
	phases   []string
	failing  int // how often the ledger takes nothing
}

func newLedger() *ledger {
	return &ledger{monitors: map[string]workspace.DriftMonitor{}, windows: map[string]workspace.Window{}, ended: map[string]workspace.DriftOutcome{}}
}

func (l *ledger) ObserveDrift(f func(workspace.DriftJob, bool)) { l.observer = f }

func (l *ledger) OpenDriftJobs(context.Context) ([]workspace.DriftJob, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.open), nil
}

var errFull = errors.New("the log is full")

func (l *ledger) refuses() error {
	if l.failing > 0 {
		l.failing--
		return errFull
	}
	return nil
}

func (l *ledger) BeginDriftJob(_ context.Context, j workspace.DriftJob) (task workspace.DriftTask, open bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refuses(); err != nil {
		return task, false, err
	}
	if !slices.Contains(l.open, j) {
		return task, false, nil
	}
	return workspace.DriftTask{DriftJob: j, Settings: l.monitors[j.Monitor], Window: l.windows[j.Run], Seed: 1}, true, nil
}

func (l *ledger) NoteDriftProgress(_ workspace.DriftJob, p workspace.DriftProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phases = append(l.phases, p.Phase)
}

func (l *ledger) EndDriftJob(_ context.Context, j workspace.DriftJob, o workspace.DriftOutcome) error {
	l.mu.Lock()
	if err := l.refuses(); err != nil {
		l.mu.Unlock()
		return err
	}
	if slices.Contains(l.open, j) {
		l.open = slices.DeleteFunc(l.open, func(o workspace.DriftJob) bool { return o == j })
		l.ended[j.Run], l.order = o, append(l.order, j.Run)
	}
	l.mu.Unlock()
	l.observer(j, true)
	return nil
}

func (l *ledger) ScheduledMonitors(context.Context) (out []workspace.DriftJob, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, m := range l.monitors {
		if on, _ := m.Scheduled(); on {
			out = append(out, workspace.DriftJob{Workspace: ws, Monitor: name})
		}
	}
	return out, nil
}

func (l *ledger) ScheduleOf(_ context.Context, _ resource.UID, name string) (workspace.Schedule, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.monitors[name]
	if on, _ := m.Scheduled(); !on {
		return workspace.Schedule{}, false, nil
	}
	return *m.Schedule, true, nil
}

func (l *ledger) StartScheduled(_ context.Context, _ resource.UID, name string, w workspace.Window) error {
	l.mu.Lock()
	if err := l.refuses(); err != nil {
		l.mu.Unlock()
		return err
	}
	day := w.Start.Format(time.DateOnly)
	if slices.Contains(l.started, day) {
		l.mu.Unlock()
		return nil
	}
	l.started = append(l.started, day)
	l.mu.Unlock()
	l.post(name, "run of "+day, w)
	return nil
}

// post makes a job.
func (l *ledger) post(name, run string, w workspace.Window) workspace.DriftJob {
	j := workspace.DriftJob{Workspace: ws, Monitor: name, Run: run}
	l.mu.Lock()
	l.open, l.windows[run] = append(l.open, j), w
	l.mu.Unlock()
	l.observer(j, false)
	return j
}

// cancel ends a job from outside.
func (l *ledger) cancel(j workspace.DriftJob) {
	l.mu.Lock()
	l.open = slices.DeleteFunc(l.open, func(o workspace.DriftJob) bool { return o == j })
	l.mu.Unlock()
	l.observer(j, true)
}

func (l *ledger) plan(name string, s workspace.Schedule) {
	l.mu.Lock()
	m := l.monitors[name]
	m.Schedule = &s
	l.monitors[name] = m
	l.mu.Unlock()
	l.observer(workspace.DriftJob{Workspace: ws, Monitor: name}, false)
}

func (l *ledger) startedDays() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.started)
}

func (l *ledger) outcome(run string) (workspace.DriftOutcome, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.ended[run]
	return o, ok
}

// texts are datasets in memory, CSV by URI. A URI in slow is read when it is closed.
type texts struct {
	csv   map[string]string
	slow  map[string]chan struct{}
	mu    sync.Mutex
	now   int // read at the moment
	most  int
	reads []string
}

func (d *texts) Read(ctx context.Context, r dataset.Reference, o drift.ReadOptions) (*drift.Sample, error) {
	d.mu.Lock()
	d.now++
	d.most = max(d.most, d.now)
	d.reads = append(d.reads, r.URI)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.now--
	}()
	if held := d.slow[r.URI]; held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	text, ok := d.csv[r.URI]
	switch {
	case text == "panic":
		panic("a fault")
	case !ok && dataset.Patterned(r.URI):
		return nil, fmt.Errorf("%s: %w", r.URI, dataset.ErrNoFiles)
	case !ok:
		return nil, fmt.Errorf("%s: %w", r.URI, fs.ErrNotExist)
	}
	return drift.Read(strings.NewReader(text), int64(len(text)), drift.CSV, o)
}

// rows are 600 rows of CSV, an hour apart from the second of March 2026 on, whose value
// is shifted.
func rows(shift int) string {
	var b strings.Builder
	b.WriteString("at,value\n")
	for i := range 600 {
		fmt.Fprintf(&b, "%s,%d\n", time.Date(2026, 3, 2, i/10, 0, 0, 0, time.UTC).Format(time.RFC3339), i*7919%600+shift)
	}
	return b.String()
}

func monitorNamed(baseline, target string, change ...func(*workspace.DriftMonitor)) workspace.DriftMonitor {
	m := workspace.DriftMonitor{
		Baseline: workspace.Dataset{URI: baseline}, Threshold: 0.2,
		Target: workspace.Dataset{URI: target, TimestampColumn: "at"},
	}
	for _, f := range change {
		f(&m)
	}
	return m
}

var monday = workspace.Daily.At(time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC))

// serve runs a Service until the test ends.
func serve(t *testing.T, l *ledger, d *texts, processors int) (s *Service, stop func()) {
	s = New(Config{Ledger: l, Datasets: d, Logger: slog.New(slog.DiscardHandler), Processors: processors})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestOutcomes(t *testing.T) {
	data := &texts{csv: map[string]string{
		"/same": rows(0), "/moved": rows(500), "/broken": "at,value\n2026-03-02,1\nsoon,2\n", "/fault": "panic", "/few": "at,value\n2026-03-02,1\n",
	}}
	tests := []struct {
		name    string
		monitor workspace.DriftMonitor
		window  workspace.Window
		status  drift.Status
		drifted bool
		rows    int64
		failure string
	}{
		{"no drift", monitorNamed("/same", "/same"), monday, drift.OK, false, 240, ""},
		{"drift", monitorNamed("/same", "/moved"), monday, drift.OK, true, 240, ""},
		{"by another method", monitorNamed("/same", "/moved", func(m *workspace.DriftMonitor) { m.Method = drift.ByMaxJS }), monday, drift.OK, true, 240, ""},
		{"no rows in the window", monitorNamed("/nowhere", "/moved"), workspace.Daily.At(time.Unix(0, 0)), drift.NoData, false, 0, ""},
		{"no files in the window", monitorNamed("/nowhere", "/{yyyy}/{MM}/{dd}.csv"), monday, drift.NoData, false, 0, ""},
		{"too few rows", monitorNamed("/same", "/few"), monday, drift.Insufficient, false, 1, ""},
		{"more rows are asked for", monitorNamed("/same", "/moved", func(m *workspace.DriftMonitor) { m.MinRows = 1000 }), monday, drift.Insufficient, false, 240, ""},
		{"no target", monitorNamed("/same", "/nowhere"), monday, "", false, 0, "the target cannot be read: /nowhere: file does not exist"},
		{"no baseline", monitorNamed("/nowhere", "/same"), monday, "", false, 0, "the baseline cannot be read"},
		{"a time that is none", monitorNamed("/same", "/broken"), monday, "", false, 0, "line 3"},
		{"a feature that is none", monitorNamed("/same", "/same", func(m *workspace.DriftMonitor) { m.Features = []string{"other"} }), monday, "", false, 0, `no column "other"`},
		{"a fault of the server", monitorNamed("/same", "/fault"), monday, "", false, 0, "The server made a mistake"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				l.monitors["m"] = tt.monitor
				s, stop := serve(t, l, data, 1)
				defer stop()
				l.post("m", "run", tt.window)
				synctest.Wait()
				o, ok := l.outcome("run")
				if !ok {
					t.Fatal("it has not ended")
				}
				if tt.failure != "" {
					if o.Result != nil || !strings.Contains(o.Failure, tt.failure) {
						t.Errorf("outcome is %+v, want %q", o, tt.failure)
					}
					return
				}
				if r := o.Result; r == nil || r.Status != tt.status || r.HasDrift != tt.drifted || r.Rows.Target != tt.rows {
					t.Errorf("outcome is %+v", o)
				}
				if len(s.running)+len(s.waiting) != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

// Jobs of different monitors are computed two at a time, those of one in their order.
func TestJobsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		held := make(chan struct{})
		d := &texts{csv: map[string]string{"/a": rows(0)}, slow: map[string]chan struct{}{"/a": held}}
		for i := range 4 {
			l.monitors[fmt.Sprint("m", i)] = monitorNamed("/a", "/a")
		}
		for i := range 12 {
			l.observer = func(workspace.DriftJob, bool) {}
			l.post(fmt.Sprint("m", i%4), fmt.Sprintf("run %02d", i), monday)
		}
		_, stop := serve(t, l, d, 8) // they were open before
		defer stop()
		synctest.Wait()
		if d.now != mostJobs {
			t.Errorf("%d jobs are computed", d.now)
		}
		close(held)
		synctest.Wait()
		if d.most != mostJobs || len(l.order) != 12 {
			t.Errorf("%d jobs at most, ended are %q", d.most, l.order)
		}
		for i := range 4 {
			var of []string
			for _, run := range l.order {
				if n := 0; func() bool { _, err := fmt.Sscanf(run, "run %d", &n); return err == nil && n%4 == i }() {
					of = append(of, run)
				}
			}
			if !slices.IsSorted(of) {
				t.Errorf("jobs of a monitor ended in the order %q", of)
			}
		}
	})
}

func TestCancelEndsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.monitors["m"], l.monitors["other"] = monitorNamed("/a", "/a"), monitorNamed("/b", "/b")
		d := &texts{csv: map[string]string{"/b": rows(0)}, slow: map[string]chan struct{}{"/a": make(chan struct{})}}
		s, stop := serve(t, l, d, 1)
		defer stop()
		first, second := l.post("m", "first", monday), l.post("m", "second", monday)
		l.post("other", "third", monday)
		synctest.Wait()
		if len(s.running) != 1 || len(s.waiting) != 2 {
			t.Fatalf("%d run, %d wait", len(s.running), len(s.waiting))
		}
		l.cancel(second)
		l.cancel(first)
		synctest.Wait()
		if _, ok := l.outcome("third"); !ok || len(l.order) != 1 || len(s.running)+len(s.waiting) != 0 {
			t.Errorf("ended are %q", l.order)
		}
		l.post("m", "fourth", monday)
		synctest.Wait()
		l.mu.Lock()
		l.open = nil
		l.mu.Unlock()
		l.observer(workspace.DriftJob{Workspace: ws}, true) // the workspace is gone
		synctest.Wait()
		if len(s.running)+len(s.waiting) != 0 {
			t.Error("jobs of a workspace that is gone go on")
		}
	})
}

// A job that reads without end fails, and others have their turn.
func TestJobsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.monitors["m"], l.monitors["other"] = monitorNamed("/a", "/a"), monitorNamed("/b", "/b")
		d := &texts{csv: map[string]string{"/b": rows(0)}, slow: map[string]chan struct{}{"/a": make(chan struct{})}}
		_, stop := serve(t, l, d, 1)
		defer stop()
		l.post("m", "first", monday)
		l.post("other", "second", monday)
		time.Sleep(longest - time.Second)
		if o, ok := l.outcome("first"); ok {
			t.Fatalf("it ended early: %+v", o)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if o, ok := l.outcome("first"); !ok || !strings.Contains(o.Failure, "more than 6 hours") {
			t.Errorf("the first: %+v", o)
		}
		if o, ok := l.outcome("second"); !ok || o.Result == nil {
			t.Errorf("the second: %+v", o)
		}
	})
}

// A shutdown cuts a job short and ends nothing; the next process does it again.
func TestShutdownLeavesJobsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.monitors["m"] = monitorNamed("/a", "/a")
		held := make(chan struct{})
		d := &texts{csv: map[string]string{"/a": rows(0)}, slow: map[string]chan struct{}{"/a": held}}
		_, stop := serve(t, l, d, 1)
		l.post("m", "run", monday)
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took > 0 || len(l.open) != 1 || len(l.order) != 0 {
			t.Errorf("after %s open are %v", took, l.open)
		}
		close(held)
		_, stop = serve(t, l, d, 1)
		defer stop()
		synctest.Wait()
		if o, ok := l.outcome("run"); !ok || o.Result == nil {
			t.Errorf("outcome is %+v, %v", o, ok)
		}
	})
}

// What the ledger does not take is tried again until it does.
func TestLedgerThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.monitors["m"] = monitorNamed("/a", "/a")
		d := &texts{csv: map[string]string{"/a": rows(0)}}
		_, stop := serve(t, l, d, 1)
		defer stop()
		l.failing = 1 // its begin
		l.post("m", "run", monday)
		time.Sleep(retryPause - time.Second)
		synctest.Wait()
		if len(l.order) != 0 {
			t.Error("it was not refused")
		}
		l.mu.Lock()
		l.failing = 0
		l.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(l.order) != 1 {
			t.Error("it was not begun again")
		}
		l.mu.Lock()
		l.failing = 3 // a start that is due
		l.mu.Unlock()
		l.plan("m", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: time.Now()})
		time.Sleep(24*time.Hour + 3*retryPause)
		synctest.Wait()
		if days := l.startedDays(); len(days) != 1 {
			t.Errorf("started are %q", days)
		}
	})
}

// In a bubble it is midnight of the first of January 2000, a Saturday.
func TestSchedule(t *testing.T) {
	since := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name     string
		schedule workspace.Schedule
		wait     time.Duration
		want     []string
	}{
		{"days", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: since}, 49 * time.Hour, []string{"2000-01-01", "2000-01-02"}},
		{"not a moment before", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: since}, 24*time.Hour - 1, nil},
		{"at once when it is due", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: since}, 24 * time.Hour, []string{"2000-01-01"}},
		{"latency", workspace.Schedule{Frequency: workspace.Daily, LatencyHours: 6, Enabled: true, Since: since}, 54 * time.Hour, []string{"1999-12-31", "2000-01-01", "2000-01-02"}},
		{"weeks", workspace.Schedule{Frequency: workspace.Weekly, Enabled: true, Since: since}, 10 * 24 * time.Hour, []string{"1999-12-27", "2000-01-03"}},
		{"months", workspace.Schedule{Frequency: workspace.Monthly, Enabled: true, Since: since}, 61 * 24 * time.Hour, []string{"2000-01-01", "2000-02-01"}},
		{"disabled", workspace.Schedule{Frequency: workspace.Daily, Since: since}, 100 * time.Hour, nil},
		{"what was missed", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: since.AddDate(0, 0, -3)}, 0, []string{"1999-12-29", "1999-12-30", "1999-12-31"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				l.monitors["m"] = monitorNamed("/a", "/{yyyy}.csv", func(m *workspace.DriftMonitor) { m.Schedule = &tt.schedule })
				_, stop := serve(t, l, &texts{}, 1)
				defer stop()
				time.Sleep(tt.wait)
				synctest.Wait()
				if days := l.startedDays(); !slices.Equal(days, tt.want) {
					t.Errorf("windows that were started begin %q, want %q", days, tt.want)
				}
			})
		})
	}
}

// A start looks back at 30 windows at most, and starts none twice.
func TestScheduleLooksBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.monitors["m"] = monitorNamed("/a", "/{yyyy}.csv", func(m *workspace.DriftMonitor) {
			m.Schedule = &workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: time.Now().AddDate(-1, 0, 0)}
		})
		for range 2 {
			_, stop := serve(t, l, &texts{}, 1)
			synctest.Wait()
			stop()
		}
		if days := l.startedDays(); len(days) != workspace.MostWindows || days[0] != "1999-12-02" || days[29] != "1999-12-31" || !slices.IsSorted(days) {
			t.Errorf("windows that were started begin %q", days)
		}
		if len(l.order) != workspace.MostWindows {
			t.Errorf("%d have ended", len(l.order))
		}
	})
}

// A schedule that is changed, stopped or deleted is heard of at once.
func TestScheduleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.monitors["m"] = monitorNamed("/a", "/{yyyy}.csv")
		s, stop := serve(t, l, &texts{}, 1)
		defer stop()
		l.plan("m", workspace.Schedule{Frequency: workspace.Monthly, Enabled: true, Since: time.Now()})
		time.Sleep(time.Hour)
		l.plan("m", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: time.Now()})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if days := l.startedDays(); !slices.Equal(days, []string{"2000-01-01"}) {
			t.Errorf("started are %q", days)
		}
		l.plan("m", workspace.Schedule{Frequency: workspace.Daily})
		time.Sleep(72 * time.Hour)
		synctest.Wait()
		if days := l.startedDays(); len(days) != 1 {
			t.Errorf("started are %q", days)
		}
		l.plan("m", workspace.Schedule{Frequency: workspace.Daily, Enabled: true, Since: time.Now()})
		synctest.Wait()
		l.observer(workspace.DriftJob{Workspace: ws, Monitor: "M"}, true)
		synctest.Wait()
		if len(s.plans) != 0 {
			t.Error("a monitor that is gone has a plan")
		}
	})
}
