package servertest

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/smalldisk"
)

// metrics reads /metrics.
func (s *Server) metrics() string {
	s.t.Helper()
	resp, err := http.Get(s.HTTP() + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(raw)
}

// readiness reads /readyz.
func (s *Server) readiness() (ready bool, reasons string) {
	s.t.Helper()
	resp, err := http.Get(s.HTTP() + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer struct {
		Ready   bool
		Reasons []string
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Ready != (resp.StatusCode == http.StatusOK) {
		s.t.Fatalf("/readyz answers %d %s", resp.StatusCode, raw)
	}
	return answer.Ready, strings.Join(answer.Reasons, "; ")
}

// TestFullDisk fills the volume of a server from outside while a handler is slow,
// and wants refusals with a reason, deliveries that go on, and everything back when
// the space is: without a restart.
func TestFullDisk(t *testing.T) {
	if !smalldisk.Run(t, 128, "-test.timeout=5m") {
		return
	}
	s := New(t)
	handler := NewReceiver(t)
	hold := make(chan struct{})
	handler.Answer = func(http.ResponseWriter, *http.Request, []Received) { <-hold }
	id, publish := s.Topic("orders")
	s.Subscribe(id, "slow", handler.URL, nil)
	if err := publish(eventBody(0, 3)); err != nil {
		t.Fatal(err)
	}
	if ready, reasons := s.readiness(); !ready {
		t.Fatalf("not ready: %s", reasons)
	}

	filler := filepath.Join(smalldisk.Dir(), "filler")
	smalldisk.Fill(t, filler, 512<<10)
	eventually(t, "publishing is refused", func() bool { return publish(eventBody(3, 1)) != nil })
	err := publish(eventBody(3, 1))
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "The disk of this server has") {
		t.Errorf("publish: %v", err)
	}
	_, err = s.Do(t.Context(), "PUT", id+"2", nil, map[string]any{"location": "local"}, nil, nil)
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("a new topic: %v", err)
	}
	if ready, reasons := s.readiness(); ready || !strings.Contains(reasons, "The disk of this server has") {
		t.Errorf("ready %v because of %q", ready, reasons)
	}
	eventually(t, "the reserve is given up", func() bool { return strings.Contains(s.metrics(), "\ncarillon_engine_disk_space 2\n") })
	if strings.Contains(s.metrics(), "\ncarillon_open_deliveries 0\n") {
		t.Error("nothing is open, though no handler answered")
	}
	close(hold)
	eventually(t, "every delivery is settled", func() bool { return strings.Contains(s.metrics(), "\ncarillon_open_deliveries 0\n") })

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "publishing goes on", func() bool { return publish(eventBody(4, 1)) == nil })
	handler.Wait(t, patience, func(events []Received) bool { return events[len(events)-1].ID == "4" })
	if ready, reasons := s.readiness(); !ready {
		t.Errorf("not ready: %s", reasons)
	}
	s.Must("PUT", id+"2", map[string]any{"location": "local"}, nil)
	s.Stop()
}
