//go:build unix

package faults

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// testStall stops the process and lets it go on, as a machine that swaps, a
// hypervisor that takes its processors away, or a disk that answers nothing for a
// while makes it seem. A stall of more than five seconds passes every limit that the
// engine has for its store, and none of them may lose anything.
func testStall(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	w.load()
	n := w.during(share, w.stall)
	t.Logf("%d stalls", n)
	w.check()
}

func (w *world) stall() {
	w.pause(50*time.Millisecond, time.Second)
	length := 3 * time.Second
	if w.rng.IntN(5) == 0 {
		length = 8 * time.Second
	}
	over := w.outage()
	w.signal(syscall.SIGSTOP)
	w.pause(100*time.Millisecond, length)
	w.signal(syscall.SIGCONT)
	over()
}

func (w *world) signal(s syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(w.s.PID(), s); err != nil {
		w.t.Fatal(err)
	}
}
