package engine

import "sort"

// ledger knows how many bytes of the log lie between two frames. It holds marks
// of the running total, a mark for each frame or, in a large log, for each
// 65,536th part of the quota, and takes the bytes between two marks as evenly
// spread. What was stored before this process started is one such stretch. Not
// for concurrent use.
type ledger struct {
	marks []mark
	total int64 // of everything up to the last frame
	last  uint64
	step  int64 // bytes between marks
}

// mark is the total of all frames up to and including seq.
type mark struct {
	seq   uint64
	total int64
}

// ledgerMarks bounds the marks of one quota.
const ledgerMarks = 1 << 16

// newLedger begins with a log of bytes in the frames first..last.
func newLedger(first, last uint64, bytes, quota int64) *ledger {
	l := &ledger{last: last, total: bytes, step: quota / ledgerMarks}
	if first > 0 {
		first--
	}
	l.marks = []mark{{first, 0}}
	if last > first {
		l.marks = append(l.marks, mark{last, bytes})
	}
	return l
}

// add counts the next frame.
func (l *ledger) add(seq uint64, bytes int64) {
	l.total += bytes
	l.last = seq
	if l.total-l.marks[len(l.marks)-1].total >= l.step {
		l.marks = append(l.marks, mark{seq, l.total})
	}
}

// upTo returns the total of the frames up to and including seq.
func (l *ledger) upTo(seq uint64) int64 {
	if seq >= l.last {
		return l.total
	}
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].seq > seq })
	if i == 0 {
		return l.marks[0].total
	}
	low, high := l.marks[i-1], mark{l.last, l.total}
	if i < len(l.marks) {
		high = l.marks[i]
	}
	share := float64(seq-low.seq) / float64(high.seq-low.seq)
	return low.total + int64(share*float64(high.total-low.total))
}

// after returns the first frame at which the total passes the given one.
func (l *ledger) after(total int64) uint64 {
	if total >= l.total {
		return l.last
	}
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].total > total })
	if i == 0 {
		return l.marks[0].seq
	}
	low, high := l.marks[i-1], mark{l.last, l.total}
	if i < len(l.marks) {
		high = l.marks[i]
	}
	share := float64(total-low.total) / float64(high.total-low.total)
	return low.seq + uint64(share*float64(high.seq-low.seq)) + 1
}

// forget drops the marks below seq that upTo no longer needs for it.
func (l *ledger) forget(seq uint64) {
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].seq > seq })
	if i > 1 {
		l.marks = append([]mark(nil), l.marks[i-1:]...)
	}
}
