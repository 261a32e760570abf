package servertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carillon-events/carillon/internal/fault"
)

const diskEnv = "CARILLON_TEST_DISK"

// onSmallDisk runs the calling test again in a process of its own whose temporary
// directories are on a file system of some MiB, and reports whether this is that
// process. A machine that allows no mount skips the test.
func onSmallDisk(t *testing.T, mib int) bool {
	t.Helper()
	if dir := os.Getenv(diskEnv); dir != "" {
		if err := unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
			fmt.Println("no mount:", err)
			t.SkipNow()
		}
		return true
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=90s") //nolint:gosec // this test binary
	child.Env = append(os.Environ(), diskEnv+"="+dir, "TMPDIR="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		child.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := child.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS):
		t.Skipf("this machine gives no mount namespace: %v", err)
	case strings.Contains(string(out), "no mount:"):
		t.Skipf("this machine mounts no tmpfs: %s", out)
	case err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Errorf("on the small disk: %v\n%s", err, out)
	}
	return false
}

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
	if !onSmallDisk(t, 128) {
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

	filler := filepath.Join(os.Getenv(diskEnv), "filler")
	fillUp(t, filler, 512<<10)
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
	if !strings.Contains(s.metrics(), "\ncarillon_engine_disk_space 2\n") {
		t.Error("the reserve is not given up")
	}
	if strings.Contains(s.metrics(), "\ncarillon_open_deliveries 0\n") {
		t.Error("nothing is open, though no handler answered")
	}
	close(hold)
	eventually(t, "every delivery is settled", func() bool { return strings.Contains(s.metrics(), "\ncarillon_open_deliveries 0\n") })

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "publishing goes on", func() bool { return publish(eventBody(4, 1)) == nil })
	handler.Wait(t, 10*time.Second, func(events []Received) bool { return events[len(events)-1].ID == "4" })
	if ready, reasons := s.readiness(); !ready {
		t.Errorf("not ready: %s", reasons)
	}
	s.Must("PUT", id+"2", map[string]any{"location": "local"}, nil)
	s.Stop()
}

// fillUp writes a file until so little is free.
func fillUp(t *testing.T, path string, rest int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := make([]byte, 64<<10); err == nil; {
		var space unix.Statfs_t
		if err = unix.Statfs(filepath.Dir(path), &space); err == nil && int64(space.Bavail)*space.Bsize <= rest {
			break
		}
		if err == nil {
			_, err = f.Write(page)
		}
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
