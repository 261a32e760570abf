package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// throttle is a control group whose processes write so many bytes a second to one disk
// and no more: cgroup v1, and root. What a process syncs counts as its own; the file
// system's journal does not.
// Source: docs.kernel.org/admin-guide/cgroup-v1/blkio-controller.html
type throttle struct {
	dir, parent, disk string
}

// throttled returns a throttle for the disk of a directory that a process is in, and why
// there is none. It is gone at the end of the test.
func throttled(t *testing.T, dir string, pid int) (*throttle, error) {
	t.Helper()
	disk, err := diskOf(dir)
	if err != nil {
		return nil, err
	}
	parent, err := ownGroup()
	if err != nil {
		return nil, err
	}
	x := &throttle{dir: filepath.Join(parent, fmt.Sprintf("carillon-slow-disk-%d", os.Getpid())), parent: parent, disk: disk}
	if err := os.Mkdir(x.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	t.Cleanup(func() {
		for _, in := range []int{pid, os.Getpid()} { // what is left in it, threads too
			_ = x.write(x.parent, "cgroup.procs", strconv.Itoa(in)) // it may have ended
		}
		var err error
		for range 50 {
			if err = os.Remove(x.dir); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("the control group is still there: %v", err)
	})
	if err := errors.Join(x.limit(1<<30), x.write(x.dir, "cgroup.procs", strconv.Itoa(pid))); err != nil {
		return nil, err
	}
	return x, nil
}

// limit sets how many bytes a second may be written from now on.
func (x *throttle) limit(bytes int64) error {
	return x.write(x.dir, "blkio.throttle.write_bps_device", fmt.Sprintf("%s %d", x.disk, bytes))
}

// enter puts the calling goroutine into the group, with a thread of its own that ends
// with it.
func (x *throttle) enter() error {
	runtime.LockOSThread()
	return x.write(x.dir, "tasks", strconv.Itoa(syscall.Gettid()))
}

func (x *throttle) write(group, name, text string) error {
	if err := os.WriteFile(filepath.Join(group, name), []byte(text), 0); err != nil {
		return fmt.Errorf("write %q: %w", text, err)
	}
	return nil
}

// diskOf returns the numbers of the whole disk that a directory is on.
func diskOf(dir string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", dir, err)
	}
	major, minor := st.Dev>>8&0xfff|st.Dev>>32&^0xfff, st.Dev&0xff|st.Dev>>12&^0xff
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return "", fmt.Errorf("%s is on no disk: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(device, "partition")); err == nil {
		device = filepath.Dir(device)
	}
	numbers, err := os.ReadFile(filepath.Join(device, "dev"))
	if err != nil {
		return "", fmt.Errorf("read the numbers of a disk: %w", err)
	}
	return strings.TrimSpace(string(numbers)), nil
}

// ownGroup returns the directory of the control group that this process is in.
func ownGroup() (string, error) {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("read the own control groups: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] == "blkio" {
			return filepath.Join("/sys/fs/cgroup/blkio", parts[2]), nil
		}
	}
	return "", errors.New("no control group of version 1 for disks")
}
