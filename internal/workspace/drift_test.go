package workspace

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

func window(coefficient float64) DriftRunChange {
	return DriftRunChange{StartTime: ptr("2026-02-23T00:00:00+00:00"), EndTime: ptr("2026-03-02T00:00:00+00:00"), Coefficient: &coefficient}
}

func TestDriftRaises(t *testing.T) {
	tests := []struct {
		name        string
		raiseOn     string
		threshold   float64
		coefficient float64
		drift       bool
	}{
		{"completed, below", resource.DriftOnCompleted, 0.2, 0.1, true},
		{"completed, above", resource.DriftOnCompleted, 0.2, 0.3, true},
		{"unset counts as completed", "", 0.2, 0.1, true},
		{"drift, below", resource.DriftOnDrift, 0.2, 0.1, false},
		{"drift, at the threshold", resource.DriftOnDrift, 0.2, 0.2, false},
		{"drift, above", resource.DriftOnDrift, 0.2, 0.2000001, true},
		{"drift, threshold 0", resource.DriftOnDrift, 0, 0.001, true},
		{"drift, nothing at threshold 0", resource.DriftOnDrift, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(ws *resource.Workspace) { ws.DriftRaiseOn = tt.raiseOn })
			m, created, err := b.PutMonitor(t.Context(), b.ws, "Orders", MonitorChange{Threshold: &tt.threshold}, kim)
			if err != nil || !created {
				t.Fatal(created, err)
			}
			n := b.log.count()
			d, _, err := b.PostDriftRun(t.Context(), b.ws, "orders", window(tt.coefficient), kim)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(d.Name, m.DataDriftID+"_") || d.Monitor != "Orders" || d.Threshold != tt.threshold {
				t.Errorf("drift run is %+v", d)
			}
			if b.log.count() != n+1 {
				t.Fatalf("%d frames, want 1", b.log.count()-n)
			}
			facts, events := b.log.since(n)
			ws := b.ws.UID.String()
			if want := []string{"exp/" + ws + "/orders", "driftrun/" + ws + "/orders/" + d.Name, "driftwindow/" + ws + "/orders/20260223t000000.000000000~20260302t000000.000000000", "driftstate/" + ws + "/orders", "run/" + ws + "/orders/" + d.Name}; !slices.Equal(facts, want) {
				t.Errorf("facts are %q, want %q", facts, want)
			}
			var types []string
			etags := map[string]string{}
			for _, raw := range events {
				var e struct {
					EventType string
					Data      struct{ ETag string }
				}
				if err := json.Unmarshal([]byte(raw), &e); err != nil {
					t.Fatal(err)
				}
				name := e.EventType[strings.LastIndexByte(e.EventType, '.')+1:]
				types, etags[name] = append(types, name), e.Data.ETag
			}
			want := []string{"RunCompleted"}
			if tt.drift {
				want = []string{"DatasetDriftDetected", "RunCompleted"}
			}
			if !slices.Equal(types, want) {
				t.Errorf("events are %q, want %q", types, want)
			}
			run, err := b.GetRun(t.Context(), b.ws, "orders", d.Name)
			if err != nil || run.Status != Completed || run.RunType != DriftRunType || run.ETag != etags["RunCompleted"] {
				t.Errorf("run is %+v, error %v, etags %v", run, err, etags)
			}
			now, err := b.GetDriftRun(t.Context(), b.ws, "orders", d.Name)
			if err != nil || now.ETag != d.ETag || tt.drift && etags["DatasetDriftDetected"] != now.ETag {
				t.Errorf("drift run is %+v, error %v, etags %v", now, err, etags)
			}
		})
	}
}

// Runs of one monitor within one millisecond have different ids.
func TestDriftRunIDsAreUnique(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		m, _, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{}, kim)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, _, err := b.PostDriftRun(t.Context(), b.ws, "m", window(0.5), kim); err != nil {
				t.Fatal(err)
			}
		}
		runs, _, err := b.ListDriftRuns(t.Context(), b.ws, "m", Page{})
		if err != nil || len(runs) != 3 {
			t.Fatalf("%d runs, error %v", len(runs), err)
		}
		if want := m.DataDriftID + "_946684800000"; runs[0].Name != want {
			t.Errorf("first id is %s, want %s", runs[0].Name, want)
		}
		e, err := b.GetExperiment(t.Context(), b.ws, "m")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteMonitor(t.Context(), b.ws, "m", kim); err != nil {
			t.Fatal(err)
		}
		if _, err := b.GetDriftRun(t.Context(), b.ws, "m", runs[0].Name); !fault.Is(err, fault.NotFound) {
			t.Errorf("result of a deleted monitor: %v", err)
		}
		if _, err := b.GetRun(t.Context(), b.ws, "m", runs[0].Name); err != nil {
			t.Errorf("run of experiment %s: %v", e.Name, err)
		}
	})
}

func TestDriftRunProblems(t *testing.T) {
	b := newBench(t)
	_, _, err := b.PostDriftRun(t.Context(), b.ws, "m", DriftRunChange{}, kim)
	wantFault(t, err, fault.Invalid, []string{"properties.startTime", "properties.endTime"}, "the target's window")
	c := window(1.5)
	c.EndTime = c.StartTime
	_, _, err = b.PostDriftRun(t.Context(), b.ws, "m", c, kim)
	wantFault(t, err, fault.Invalid, []string{"properties.endTime", "properties.driftCoefficient"}, "1.5")
	_, _, err = b.PostDriftRun(t.Context(), b.ws, "m", window(0.5), kim)
	wantFault(t, err, fault.NotFound, nil, `The drift monitor "m"`)
	if b.log.count() != 0 {
		t.Error("a refused request wrote")
	}
}

func TestMonitorSettings(t *testing.T) {
	b := newBench(t)
	m, _, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{
		Baseline: &DatasetChange{DatasetID: ptr("base"), URI: ptr("file:///a.csv"), Format: ptr("CSV")},
		Features: []string{"age", "income"}, Schedule: json.RawMessage(`{ "frequency": "Day" }`),
	}, kim)
	if err != nil {
		t.Fatal(err)
	}
	if m.Baseline.DatasetID != "base" || m.Baseline.Format != "csv" || m.Target.DatasetID == "" || m.Threshold != 0.2 ||
		m.DataDriftID == "" || *m.Schedule != (Schedule{Frequency: Daily, Enabled: true, Since: m.Created.At}) {
		t.Errorf("monitor is %+v", m)
	}
	p, err := b.PatchMonitor(t.Context(), b.ws, "m", MonitorChange{Threshold: ptr(0.5), Target: &DatasetChange{TimestampColumn: ptr("at")}}, kim)
	if err != nil || p.Threshold != 0.5 || p.Target.DatasetID != m.Target.DatasetID || p.Target.TimestampColumn != "at" || len(p.Features) != 2 || p.Baseline != m.Baseline {
		t.Errorf("patched to %+v, error %v", p, err)
	}
	r, created, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{}, kim)
	if err != nil || created || r.DataDriftID != m.DataDriftID || r.Threshold != 0.2 || len(r.Features) != 0 ||
		r.Baseline != (Dataset{DatasetID: "base"}) || r.Target.DatasetID != m.Target.DatasetID || r.Schedule != nil {
		t.Errorf("replaced by %+v, created %v, error %v", r, created, err)
	}
	n := b.log.count()
	if again, _, err := b.PutMonitor(t.Context(), b.ws, "m", MonitorChange{}, kim); err != nil || again.ETag != r.ETag || b.log.count() != n {
		t.Errorf("the same request again: %+v, %v", again, err)
	}
	_, _, err = b.PutMonitor(t.Context(), b.ws, "-", MonitorChange{
		Baseline: &DatasetChange{Format: ptr("xml")}, Features: []string{"a", ""}, Threshold: ptr(-0.1), Schedule: json.RawMessage(`7`),
	}, kim)
	wantFault(t, err, fault.Invalid, []string{"monitorName", "properties.baseline.format", "properties.features[1]", "properties.threshold", "properties.schedule"}, "xml")
	_, err = b.PatchMonitor(t.Context(), b.ws, "none", MonitorChange{}, kim)
	wantFault(t, err, fault.NotFound, nil, "none")
}
