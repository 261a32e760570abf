package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/smalldisk"
)

// testFullDisk fills the volume of the server from outside, more or less, kills the
// server now and then while it is full, and frees it again.
func testFullDisk(t *testing.T, rng *rand.Rand, share time.Duration) {
	if !smalldisk.Run(t, 256, fmt.Sprintf("-seed=%d", seed())) {
		return
	}
	w := newWorld(t, rng, 2)
	w.load()
	refusals := 0
	n := w.during(share, func() { refusals += w.fillDisk() })
	t.Logf("the disk was full %d times; publishing was refused in %d of them", n, refusals)
	w.check()
	if refusals == 0 {
		t.Error("nothing was ever refused: this showed nothing")
	}
}

// fillDisk fills the disk for a while, which counts as an outage: where it is full to
// the last byte, the store is started anew after five seconds. It returns 1 when publishing was refused for want of space.
func (w *world) fillDisk() (refused int) {
	w.t.Helper()
	w.pause(200*time.Millisecond, time.Second)
	filler := filepath.Join(smalldisk.Dir(), "filler")
	full := w.outage()
	smalldisk.Fill(w.t, filler, w.rng.Int64N(2<<20))
	w.pause(300*time.Millisecond, 2*time.Second)
	if err := w.publish(w.body(notCounted, 1)); err != nil && strings.Contains(err.Error(), "503") {
		refused = 1
	}
	if w.rng.IntN(3) == 0 {
		w.down()
		w.up()
	}
	if err := os.Remove(filler); err != nil {
		w.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); w.publish(w.body(notCounted, 1)) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("publishing is refused 30 s after the disk was freed")
		}
	}
	full()
	return refused
}
