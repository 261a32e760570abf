package driftjob

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/workspace"
)

// memory is the log and the key-value store under a workspace.Service.
type memory struct {
	mu       sync.Mutex
	seq      uint64
	revision uint64
	facts    map[string]engine.Fact
	events   []string
}

func (m *memory) Record(_ context.Context, records []engine.Record) (engine.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	receipt := engine.Receipt{Seq: m.seq, Generation: 1, Time: time.Now()}
	for i, r := range records {
		switch {
		case r.Kind == engine.KindEvent:
			m.events = append(m.events, string(r.Data))
		case len(r.Data) == 0:
			delete(m.facts, r.Key)
		default:
			m.facts[r.Key] = engine.Fact{Key: r.Key, Position: receipt.Position(i), Generation: 1, Data: r.Data}
		}
	}
	return receipt, nil
}

func (m *memory) Fact(_ context.Context, key string) (engine.Fact, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.facts[key]
	return f, ok, nil
}

func (m *memory) FactKeys(_ context.Context, prefix string) (keys []string, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.facts {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (*memory) Generation() uint64 { return 1 }

func (m *memory) Create(context.Context, string, []byte) (uint64, error) {
	m.revision++
	return m.revision, nil
}

func (m *memory) Update(context.Context, string, []byte, uint64) (uint64, error) {
	m.revision++
	return m.revision, nil
}
func (*memory) Delete(context.Context, string, uint64) error     { return nil }
func (*memory) Watch(context.Context, func(engine.Change)) error { return nil }

// coefficients are the drift events so far, by the begin of their windows.
func (m *memory) coefficients(t *testing.T) map[string]float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := map[string]float64{}
	for _, raw := range m.events {
		var e struct {
			EventType string
			Data      struct {
				StartTime        string
				DriftCoefficient float64
			}
		}
		if err := json.Unmarshal([]byte(raw), &e); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.EventType, ".DatasetDriftDetected") {
			if _, twice := found[e.Data.StartTime]; twice {
				t.Errorf("the window of %s raised twice", e.Data.StartTime)
			}
			found[e.Data.StartTime] = e.Data.DriftCoefficient
		}
	}
	return found
}

// From a schedule to its events, with the true ledger: a window is compared when it is
// due, and what a stopped server missed is compared when it starts.
func TestScheduleRaisesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{facts: map[string]engine.Fact{}}
		store := resource.NewStore(m)
		ws := resource.Workspace{Meta: resource.Meta{ID: resource.MustID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/lab/providers/Microsoft.MachineLearningServices/workspaces/bells")}, UID: ws, TopicUID: 1}
		if _, err := store.Workspaces.Create(t.Context(), ws.ID.Key(), ws); err != nil {
			t.Fatal(err)
		}
		data := &texts{csv: map[string]string{"/train.csv": rows(0), "/live.csv": strings.ReplaceAll(rows(500), "2026-03-0", "2000-01-0")}}
		process := func() (*workspace.Service, func()) {
			w := workspace.New(workspace.Config{Recorder: m, Facts: m, Workspaces: store.Workspaces})
			s := New(Config{Ledger: w, Datasets: data, Logger: slog.New(slog.DiscardHandler), Processors: 1})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			return w, func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for day, coefficient := range m.coefficients(t) {
				if got = append(got, day[:10]); coefficient < 0.5 {
					t.Errorf("coefficient of %s is %g", day, coefficient)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("windows that raised begin %q, want %q", got, want)
			}
		}
		w, stop := process()
		uri := func(path string) *workspace.DatasetChange { return &workspace.DatasetChange{URI: &path} }
		target, column := uri("/live.csv"), "at"
		target.TimestampColumn = &column
		_, _, err := w.PutMonitor(t.Context(), ws, "orders", workspace.MonitorChange{Baseline: uri("/train.csv"), Target: target, Schedule: json.RawMessage(`{"frequency":"Day","latencyHours":6}`)}, workspace.Terms{})
		if err != nil {
			t.Fatal(err)
		}
		// It is midnight of the first of January 2000; the rows begin with the second.
		time.Sleep(54 * time.Hour) // the third, 6:00: the second is due
		expect("2000-01-02")
		stop()
		time.Sleep(5 * 24 * time.Hour)
		expect("2000-01-02")
		w, stop = process()
		defer stop()
		expect("2000-01-02", "2000-01-03") // the fourth has too few rows to tell, the others none
		list, _, err := w.ListDriftRuns(t.Context(), ws, "orders", workspace.Page{})
		if err != nil || len(list) != 13 { // two windows had no rows yet, and were looked at three times more in all, then twice
			t.Errorf("%d drift runs, error %v", len(list), err)
		}
		for _, d := range list {
			if d.Kind != workspace.DriftScheduled || d.Status != workspace.Completed {
				t.Errorf("drift run is %+v", d)
			}
		}
	})
}
