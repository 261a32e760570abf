package faults

import (
	"math/rand/v2"
	"testing"
	"time"
)

// testEverything draws from all faults that one machine can have at once, beside
// handlers of every bad kind.
func testEverything(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	w.misbehave()
	w.load()
	faults := []func(){
		w.kill, w.kill, w.kill, w.stall, w.tear, w.flip,
		func() {
			release := w.crowdDisk(2)
			w.pause(500*time.Millisecond, 3*time.Second)
			release()
		},
	}
	n := w.during(share, func() { faults[w.rng.IntN(len(faults))]() })
	t.Logf("%d faults", n)
	w.check()
	w.account(10)
}
