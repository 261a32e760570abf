package broker

import (
	"testing"
	"time"
)

// TestThrottle runs the throttle for 1,000 frames of 100 KB in steps of a millisecond,
// and looks at what came of the last half.
func TestThrottle(t *testing.T) {
	const size = 100_000
	tests := []struct {
		name          string
		waited        time.Duration // for a processor, while the elevator is at work
		live          int64         // bytes a second that are handed out live
		least, utmost int64         // bytes a second that the elevator may hand out
	}{
		{"processors free, nothing live", 10 * time.Microsecond, 0, 100_000_000, 100_000_000},
		{"processors free, much live", 900 * time.Microsecond, 50_000_000, 100_000_000, 100_000_000},
		{"processors short, nothing live", 5 * time.Millisecond, 0, 4_000_000, 5_000_000},
		{"processors short, a little live", 5 * time.Millisecond, 1_000_000, 4_000_000, 6_000_000},
		{"processors short, much live", 5 * time.Millisecond, 40_000_000, 48_000_000, 52_000_000},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			const work = time.Millisecond // for a frame
			var th throttle
			var now, half time.Duration
			var handed int64
			for i := range 1000 {
				if i == 500 {
					half, handed = now, 0
				}
				now += work
				live := int64(now.Seconds() * float64(test.live))
				now += th.rest(size, live, test.waited)
				handed += size
			}
			if rate := int64(float64(handed) / (now - half).Seconds()); rate < test.least || rate > test.utmost {
				t.Errorf("%d bytes/s, want %d to %d", rate, test.least, test.utmost)
			}
		})
	}
}

// TestThrottleLetsGo checks that the elevator is at full speed again soon after
// processors are free.
func TestThrottleLetsGo(t *testing.T) {
	var th throttle
	for range 200 {
		th.rest(100_000, 0, 5*time.Millisecond)
	}
	if th.pause != longestRest {
		t.Fatalf("rests for %s while processors are short, want %s", th.pause, longestRest)
	}
	frames := 0
	for ; th.rest(100_000, 0, 0) > 0; frames++ {
		if frames == 100 {
			t.Fatal("still rests after 100 frames with free processors")
		}
	}
}
