package engine

import "testing"

func TestLedger(t *testing.T) {
	const quota = 100 * ledgerMarks // a mark every 100 bytes
	l := newLedger(11, 20, 1000, quota)
	for seq := uint64(21); seq <= 30; seq++ {
		l.add(seq, 50)
	}
	for seq, want := range map[uint64]int64{
		0: 0, 10: 0, // before the log
		15: 500, 20: 1000, // from before the start: evenly spread
		21: 1050, 22: 1100, 29: 1450, // a mark at every second frame
		30: 1500, 99: 1500,
	} {
		if got := l.upTo(seq); got != want {
			t.Errorf("up to frame %d: %d bytes, want %d", seq, got, want)
		}
	}
	for total, want := range map[int64]uint64{0: 11, 500: 16, 1000: 21, 1099: 22, 1100: 23, 5000: 30} {
		if got := l.after(total); got != want {
			t.Errorf("the total passes %d at frame %d, want %d", total, got, want)
		}
	}
	l.forget(24)
	if len(l.marks) != 4 || l.upTo(24) != 1200 || l.upTo(30) != 1500 {
		t.Errorf("after forgetting: %v", l.marks)
	}
	empty := newLedger(1, 0, 0, quota)
	empty.add(1, 70)
	if empty.upTo(0) != 0 || empty.upTo(1) != 70 {
		t.Errorf("one frame: %d, %d", empty.upTo(0), empty.upTo(1))
	}
}
