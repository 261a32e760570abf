package servertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/server"
)

const driftDetected = "Microsoft.MachineLearningServices.DatasetDriftDetected"

// orders are rows of CSV, ten an hour from the second of March 2026 on, whose amounts
// are shifted.
func orders(hours, shift int) string {
	var b strings.Builder
	b.WriteString("at,amount,country\n")
	for i := range 10 * hours {
		fmt.Fprintf(&b, "%s,%d,%s\n", time.Date(2026, 3, 2, i/10, 0, 0, 0, time.UTC).Format(time.RFC3339), i*7919%1000+shift, []string{"AT", "DE", "CH"}[i%3])
	}
	return b.String()
}

// driftRun is what tests read of a drift run.
type driftRun struct {
	Name       string
	Properties struct {
		Status, Reason   string
		DriftCoefficient *float64
		Progress         *struct{ Phase string }
		Result           struct {
			Status        string
			DriftDetected bool
			Columns       []struct{ Name string }
		}
	}
}

// settled waits until a drift run has come to a status.
func settled(t *testing.T, s *Server, monitor, run string, statuses ...string) (d driftRun) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		s.Must("GET", Workspace+"/driftMonitors/"+monitor+"/runs/"+run, nil, &d)
		for _, status := range statuses {
			if d.Properties.Status == status {
				return d
			}
		}
	}
	t.Fatalf("drift run %s is %+v\n%s", run, d, s.Log())
	return d
}

func ofType(events []Received, eventType string) (of []Received) {
	seen := map[string]bool{}
	for _, e := range events {
		if e.Type == eventType && !seen[e.ID] {
			seen[e.ID] = true
			of = append(of, e)
		}
	}
	return of
}

// A monitor whose data is on this machine: what was asked for is computed, and the
// event says which column moved.
func TestDriftIsComputed(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"train.csv": orders(200, 0), "live/2026-03-02.csv": orders(24, 2000), "live/2026-03-03.csv": "at,amount,country\n"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := New(t, func(c *server.Config) { c.DataRoots = []string{root} })
	handler := NewReceiver(t)
	s.Subscribe(Workspace, "everything", handler.URL, nil)
	s.Must("PUT", Workspace+"/driftMonitors/orders", properties("baseline", map[string]any{"uri": root + "/train.csv"},
		"target", map[string]any{"uri": root + "/live/{yyyy}-{MM}-{dd}.csv", "timestampColumn": "at"}), nil)

	// Clients that ask at once get the same run.
	var mu sync.Mutex
	names := map[string]int{}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var d driftRun
			if err := s.Post(t.Context(), Workspace+"/driftMonitors/orders/runs", properties("window", "2026-03-02"), &d); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			names[d.Name]++
		})
	}
	group.Wait()
	if len(names) != 1 {
		t.Fatalf("runs are %v", names)
	}
	var run string
	for run = range names {
	}
	d := settled(t, s, "orders", run, "Completed", "Failed")
	if p := d.Properties; p.Status != "Completed" || p.Result.Status != "ok" || !p.Result.DriftDetected || p.DriftCoefficient == nil || *p.DriftCoefficient < 0.5 || len(p.Result.Columns) != 2 {
		t.Errorf("drift run is %+v", d)
	}

	var filled struct {
		Started int
		Value   []driftRun
	}
	s.Must("POST", Workspace+"/driftMonitors/orders/backfill", properties("startTime", "2026-03-01", "endTime", "2026-03-05", "frequency", "Day"), &filled)
	if filled.Started != 3 || len(filled.Value) != 4 || filled.Value[1].Name != run {
		t.Errorf("backfill answers %+v", filled)
	}
	for i, want := range []string{"noData", "ok", "noData", "noData"} {
		if d := settled(t, s, "orders", filled.Value[i].Name, "Completed", "Failed"); d.Properties.Result.Status != want {
			t.Errorf("window %d is %+v, want %s", i, d, want)
		}
	}

	var got []Received
	handler.Wait(t, patience, func(events []Received) bool {
		got = events
		return len(ofType(events, "Microsoft.MachineLearningServices.RunCompleted")) >= 4 && len(ofType(events, driftDetected)) > 0
	})
	drifts := ofType(got, driftDetected)
	if len(drifts) != 1 {
		t.Fatalf("%d drift events", len(drifts))
	}
	var data struct {
		RunID        string
		StartTime    string
		DriftDetails []struct {
			Column, Change string
			Contribution   float64
		}
	}
	if err := json.Unmarshal(drifts[0].Data, &data); err != nil || data.RunID != run || data.StartTime != "2026-03-02T00:00:00+00:00" ||
		len(data.DriftDetails) != 2 || data.DriftDetails[0].Column != "amount" || data.DriftDetails[0].Contribution < 0.5 || !strings.HasPrefix(data.DriftDetails[0].Change, "mean ") {
		t.Errorf("event is %s, error %v", drifts[0].Data, err)
	}
	s.Stop()
}

// stalled serves a dataset that nobody gets before release is called.
type stalled struct {
	*httptest.Server
	asked   chan struct{} // one for each request that waits
	gone    chan struct{} // one for each that gave up
	release func()
}

func newStalled(t *testing.T, text string) *stalled {
	held := make(chan struct{})
	d := &stalled{asked: make(chan struct{}, 64), gone: make(chan struct{}, 64), release: sync.OnceFunc(func() { close(held) })}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked <- struct{}{}
		select {
		case <-held:
			w.Header().Set("ETag", `"1"`)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
		case <-r.Context().Done():
			d.gone <- struct{}{}
		}
	}))
	t.Cleanup(func() { d.release(); d.Close() })
	return d
}

// heard waits for a signal.
func heard(t *testing.T, signal chan struct{}, what string) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(patience):
		t.Fatal("nobody " + what)
	}
}

// A job that kill -9 cuts short is begun again, and its event is told once.
func TestDriftJobSurvivesKill(t *testing.T) {
	s := New(t)
	handler := NewReceiver(t)
	s.Must("PATCH", Workspace, properties("statusEvents", []string{"Queued", "Running", "Completed", "Failed"}), nil)
	s.Subscribe(Workspace, "everything", handler.URL, nil)
	live, train := newStalled(t, orders(24, 600)), newStalled(t, orders(24, 0))
	train.release()
	s.Must("PUT", Workspace+"/driftMonitors/orders", properties("baseline", map[string]any{"uri": train.URL + "/train.csv"},
		"target", map[string]any{"uri": live.URL + "/live.csv", "timestampColumn": "at"}), nil)
	var d driftRun
	s.Must("POST", Workspace+"/driftMonitors/orders/runs", properties("window", "2026-03-02"), &d)
	for range 2 {
		heard(t, live.asked, "reads the target")
		if now := settled(t, s, "orders", d.Name, "Running"); now.Properties.Progress == nil || now.Properties.Progress.Phase != "reading the target" {
			t.Errorf("drift run is %+v", now)
		}
		s.Kill()
		s.Restart()
	}
	heard(t, live.asked, "reads the target")
	live.release()
	if now := settled(t, s, "orders", d.Name, "Completed", "Failed"); now.Properties.Status != "Completed" {
		t.Errorf("drift run is %+v", now)
	}
	handler.Wait(t, patience, func(events []Received) bool {
		return len(ofType(events, "Microsoft.MachineLearningServices.RunCompleted")) > 0 && len(ofType(events, driftDetected)) > 0 &&
			len(ofType(events, "Microsoft.MachineLearningServices.RunStatusChanged")) >= 3
	})
	s.Stop()
	events := handler.Events()
	if n := len(ofType(events, driftDetected)); n != 1 {
		t.Errorf("%d drift events", n)
	}
	if n := len(ofType(events, "Microsoft.MachineLearningServices.RunStatusChanged")); n != 3 {
		t.Errorf("%d changes of status, want Queued, Running and Completed once each", n)
	}
}

// A monitor that is deleted, or a run that is cancelled, ends the reading; so does a
// shutdown, which is prompt.
func TestDriftJobEnds(t *testing.T) {
	s := New(t)
	data := newStalled(t, orders(24, 0))
	start := func(monitor string) driftRun {
		t.Helper()
		s.Must("PUT", Workspace+"/driftMonitors/"+monitor, properties("baseline", map[string]any{"uri": data.URL + "/a.csv"}, "target", map[string]any{"uri": data.URL + "/b.csv"}), nil)
		var d driftRun
		s.Must("POST", Workspace+"/driftMonitors/"+monitor+"/runs", properties("window", "2026-03-02"), &d)
		heard(t, data.asked, "reads the target")
		return d
	}
	d := start("first")
	s.Must("DELETE", Workspace+"/driftMonitors/first", nil, nil)
	heard(t, data.gone, "stops reading")
	var run struct{ Properties struct{ Status string } }
	if s.Must("GET", Workspace+"/experiments/first/runs/"+d.Name, nil, &run); run.Properties.Status != "Canceled" {
		t.Errorf("the run of the deleted monitor is %s", run.Properties.Status)
	}
	d = start("second")
	s.Must("PATCH", Workspace+"/driftMonitors/second/runs/"+d.Name, properties("status", "Canceled"), nil)
	heard(t, data.gone, "stops reading")
	d = start("third")
	began := time.Now()
	s.Stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
	s.Restart()
	heard(t, data.asked, "reads it again")
	data.release()
	settled(t, s, "third", d.Name, "Completed")
}

// What is wrong with a dataset fails the run, which says so; the server goes on.
func TestDriftDatasetsThatFail(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("train.csv", orders(24, 0))
	write("cut.parquet", "PAR1 and then nothing")
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "out.csv")); err != nil {
		t.Fatal(err)
	}
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/grows.csv":
			http.NotFound(w, r)
		case r.Header.Get("If-Match") == "" && r.Header.Get("If-Range") == "":
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write([]byte(orders(24, 0)))
			panic(http.ErrAbortHandler) // in the middle, and now it is another file
		default:
			w.WriteHeader(http.StatusPreconditionFailed)
		}
	}))
	t.Cleanup(broken.Close)
	s := New(t, func(c *server.Config) { c.DataRoots = []string{root} })
	for target, want := range map[string]string{
		root + "/vanished.csv":       "does not exist|no such file",
		root + "/cut.parquet":        "Parquet",
		root + "/out.csv":            "escapes",
		broken.URL + "/vanished.csv": "404",
		broken.URL + "/grows.csv":    "changed while it was read",
	} {
		t.Run(target[strings.LastIndexByte(target, '/')+1:], func(t *testing.T) {
			s.Must("PUT", Workspace+"/driftMonitors/m", properties("baseline", map[string]any{"uri": root + "/train.csv"}, "target", map[string]any{"uri": target}), nil)
			var d driftRun
			s.Must("POST", Workspace+"/driftMonitors/m/runs", map[string]any{"properties": map[string]any{"window": "2026-03-02", "force": true}}, &d)
			d = settled(t, s, "m", d.Name, "Completed", "Failed")
			found := false
			for part := range strings.SplitSeq(want, "|") {
				found = found || strings.Contains(d.Properties.Reason, part)
			}
			if d.Properties.Status != "Failed" || !found {
				t.Errorf("drift run is %+v, want %q", d.Properties, want)
			}
		})
	}
	for target, want := range map[string]string{"/etc/hosts.csv": "--data-root", "https://10.0.0.1/private.csv": "10.0.0.1", root + "/../outside/secret.csv": "--data-root"} {
		err := s.Put(t.Context(), Workspace+"/driftMonitors/m", properties("baseline", map[string]any{"uri": root + "/train.csv"}, "target", map[string]any{"uri": target}), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
	}
	s.Stop()
}
