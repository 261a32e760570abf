package faults

import (
	"math/rand/v2"
	"testing"
	"time"
)

// testKill kills the server with kill -9 at moments that nothing foresees.
func testKill(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	w.load()
	n := w.during(share, w.kill)
	t.Logf("%d kills", n)
	w.check()
}

func (w *world) kill() {
	w.pause(50*time.Millisecond, 3*time.Second)
	w.down()
	w.up()
}
