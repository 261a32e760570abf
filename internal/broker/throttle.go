package broker

import "time"

// throttle slows the elevator down while processors are short, so that catching up
// takes what live events leave. It never makes the elevator rest below a quarter more than
// comes in live; but waiting for a processor like everybody else, the elevator may come
// to less than that where publishers keep all of them busy, and its backlog grows
// until they let go, or until the log is full and refuses them.
//
// That processors are short is seen by how long a goroutine that is ready waits for
// one: rates do not tell, for publishers that wait for their answers send less when
// they are slowed, and look like publishers that have less to send.
type throttle struct {
	wait   time.Duration // for a processor, a moving mean
	pause  time.Duration // after each frame of 128 KiB; see forFrame
	live   int64         // bytes that were handed out live when it was last asked
	credit int64         // bytes that may be handed out without a pause
}

const (
	longWait    = time.Millisecond // for a processor: they are short
	firstPause  = 50 * time.Microsecond
	longestRest = 20 * time.Millisecond // for a frame: 6 MB a second whatever else goes on
	mostCredit  = 1 << 20
)

// rest returns how long the elevator rests after a frame of size bytes. live counts
// the bytes that were ever handed out live, and waited is how long the elevator
// has just waited for a processor.
func (t *throttle) rest(size int, live int64, waited time.Duration) time.Duration {
	t.wait += (waited - t.wait) / 8
	t.credit = min(t.credit+(live-t.live)*5/4, mostCredit) - int64(size)
	t.credit = max(t.credit, -mostCredit)
	t.live = live
	if t.wait >= longWait {
		t.pause = min(t.pause+t.pause/8+firstPause, longestRest)
	} else {
		t.pause -= t.pause/8 + firstPause
		t.pause = max(t.pause, 0)
	}
	if t.credit >= 0 {
		return 0
	}
	return forFrame(t.pause, size)
}
