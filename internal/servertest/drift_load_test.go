package servertest

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/server"
)

var driftRows = flag.Int("drift-rows", 0, "rows of each dataset that TestPublishBesideDrift has compared; 0 leaves it out")

// TestPublishBesideDrift measures how long a publisher waits and how long an event is
// on its way, at 200 events a second, without a drift run and while one is computed. It
// needs a flag, for it takes a while; docs/drift.md has the figures.
func TestPublishBesideDrift(t *testing.T) {
	if *driftRows == 0 {
		t.Skip("give -drift-rows 1000000")
	}
	root := t.TempDir()
	for i, name := range []string{"train.csv", "live.csv"} {
		writeTable(t, filepath.Join(root, name), *driftRows, float64(i)*0.2)
	}
	s := New(t, func(c *server.Config) { c.DataRoots = []string{root} })
	handler := NewReceiver(t)
	topic, publish := s.Topic("orders")
	s.Subscribe(topic, "es1", handler.URL, nil)
	s.Must("PUT", Workspace+"/driftMonitors/m", properties("baseline", map[string]any{"uri": root + "/train.csv"}, "target", map[string]any{"uri": root + "/live.csv"}), nil)

	sent := 0
	send := func(until func() bool) (waits []time.Duration, at map[string]time.Time) {
		at = map[string]time.Time{}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for !until() {
			<-tick.C
			began := time.Now()
			if err := publish(eventBody(sent, 1)); err != nil {
				t.Fatal(err)
			}
			waits, at[strconv.Itoa(sent)] = append(waits, time.Since(began)), began
			sent++
		}
		return waits, at
	}
	report := func(what string, waits []time.Duration, at map[string]time.Time) {
		handler.Wait(t, 30*time.Second, func(events []Received) bool { return len(events) >= sent })
		var ways []time.Duration
		for _, e := range handler.Events() {
			if began, ok := at[e.ID]; ok {
				ways = append(ways, e.At.Sub(began))
			}
		}
		for _, list := range []struct {
			name string
			of   []time.Duration
		}{{"publish", waits}, {"publish to delivered", ways}} {
			slices.Sort(list.of)
			part := func(p float64) time.Duration {
				return list.of[min(len(list.of)-1, int(p*float64(len(list.of))))].Round(10 * time.Microsecond)
			}
			t.Logf("%s, %s: %d events, p50 %s, p99 %s, most %s", what, list.name, len(list.of), part(0.5), part(0.99), part(1))
		}
	}
	end := time.Now().Add(10 * time.Second)
	waits, at := send(func() bool { return time.Now().After(end) })
	report("without", waits, at)

	var d driftRun
	began := time.Now()
	s.Must("POST", Workspace+"/driftMonitors/m/runs", properties("window", "2026-03-02"), &d)
	look := time.Now()
	waits, at = send(func() bool {
		if time.Since(look) < 200*time.Millisecond {
			return false
		}
		look = time.Now()
		s.Must("GET", Workspace+"/driftMonitors/m/runs/"+d.Name, nil, &d)
		return d.Properties.Status == "Completed" || d.Properties.Status == "Failed"
	})
	took := time.Since(began)
	report("beside a drift run", waits, at)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		t.Skip(err)
	}
	for line := range bytes.Lines(status) {
		if bytes.HasPrefix(line, []byte("VmHWM")) {
			t.Logf("the run of %d rows a side took %s, %s; the server had at most %s", *driftRows, took.Round(time.Millisecond), d.Properties.Status, strings.TrimSpace(string(line[6:])))
		}
	}
}

// writeTable writes rows of twenty columns: numbers, whole numbers and texts, one of them
// shifted.
func writeTable(t *testing.T, path string, rows int, shift float64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, _ = w.WriteString("c0")
	for c := 1; c < 20; c++ {
		fmt.Fprintf(w, ",c%d", c)
	}
	chance := rand.New(rand.NewPCG(uint64(len(path)), 1))
	line := []byte{'\n'}
	for range rows {
		for c := range 20 {
			switch {
			case c == 0:
				line = strconv.AppendFloat(line, chance.NormFloat64()+shift, 'f', 4, 64)
			case c < 12:
				line = strconv.AppendFloat(line, chance.NormFloat64(), 'f', 4, 64)
			case c < 16:
				line = strconv.AppendInt(line, int64(chance.IntN(1000)), 10)
			default:
				line = append(line, "ABCDEFGH"[chance.IntN(8)])
			}
			line = append(line, ',')
		}
		line[len(line)-1] = '\n'
		_, _ = w.Write(line)
		line = line[:0]
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
