// Package smalldisk gives a test a small file system of its own to fill up: a tmpfs in a
// process and a mount namespace that end with the test. It is for tests alone.
package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const diskEnv = "CARILLON_TEST_DISK"

// Run runs the calling test again in a process of its own whose temporary
// directories are on a file system of some MiB, and reports whether this is that
// process. It gets the arguments of this one and those given. A machine that allows
// no mount skips the test.
func Run(t *testing.T, mib int, args ...string) bool {
	t.Helper()
	if dir := Dir(); dir != "" {
		if err := unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
			fmt.Println("no mount:", err)
			t.SkipNow()
		}
		return true
	}
	dir, steps := t.TempDir(), strings.Split(t.Name(), "/")
	for i := range steps {
		steps[i] = "^" + regexp.QuoteMeta(steps[i]) + "$"
	}
	args = slices.Concat(os.Args[1:], args, []string{"-test.run=" + strings.Join(steps, "/"), "-test.v"})
	child := exec.Command(os.Args[0], args...) //nolint:gosec // this test binary
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
	default:
		t.Logf("on the small disk:\n%s", out)
	}
	return false
}

// Dir is where the file system of Run is, empty in any other process.
func Dir() string { return os.Getenv(diskEnv) }

// Fill writes a file until so little is free.
func Fill(t *testing.T, path string, rest int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := make([]byte, 4<<10); err == nil; {
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
