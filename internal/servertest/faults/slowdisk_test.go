package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// The slow disk's speed, in bytes a second.
const (
	slowest = 512 << 10
	fastest = 4 << 20
)

// waitForPiece is how long an event may wait for a write of the journal, of which a piece
// has up to 1 MiB, at the slowest speed. What is measured beside the server is far shorter.
const waitForPiece = time.Second * (1 << 20) / slowest

// testSlowDisk lets the server write so many bytes a second and no more, now fewer, now
// more. Where that cannot be done, others write to the same disk as fast as they can, and
// sync, so that each sync of the server waits for theirs. How slow that makes the disk is
// measured beside it; the handlers that are well may be late by that much.
func testSlowDisk(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	slow, err := throttled(t, w.s.Dir, w.s.PID())
	if err != nil {
		t.Logf("others crowd the disk: %v", err)
		w.load()
		release := w.crowdDisk(4)
		w.during(share, func() { time.Sleep(100 * time.Millisecond) })
		release()
		w.check()
		return
	}
	w.slow, w.slack = slow, waitForPiece
	w.load()
	limit := func(bytes int64) {
		if err := slow.limit(bytes); err != nil {
			t.Fatal(err)
		}
	}
	n := w.during(share, func() {
		limit(slowest + rng.Int64N(fastest-slowest))
		w.pause(500*time.Millisecond, 3*time.Second)
	})
	t.Logf("%d speeds of the disk", n)
	limit(fastest)
	w.check()
}

// crowdDisk starts writers of 8 MiB each, synced, until the returned function is
// called.
func (w *world) crowdDisk(writers int) (release func()) {
	w.t.Helper()
	stop, dir := make(chan struct{}), w.t.TempDir()
	var wg sync.WaitGroup
	for i := range writers {
		f, err := os.Create(filepath.Join(dir, string(rune('a'+i))))
		if err != nil {
			w.t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { _ = f.Close() }()
			chunk := make([]byte, 1<<20)
			for at := int64(0); ; at = (at + 1<<20) % (64 << 20) {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.WriteAt(chunk, at); err != nil {
					w.t.Error(err)
					return
				}
				if at%(8<<20) == 0 {
					_ = f.Sync()
				}
			}
		})
	}
	return func() {
		close(stop)
		wg.Wait()
	}
}
