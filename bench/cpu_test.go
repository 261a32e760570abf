package bench

import (
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time that this process has used so far. On a machine with
// other work, processor time per event says more than the rate does.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportCPU reports the processor time per event since began, in microseconds.
func reportCPU(b *testing.B, began time.Duration, events int) float64 {
	spent := float64((cpu() - began).Nanoseconds()) / 1000 / float64(events)
	b.ReportMetric(spent, "cpu-µs")
	return spent
}

// figure is what one benchmark measured, for others of the run to be compared with.
type figure struct {
	rate float64 // events per second
	cpu  float64 // processor time per event, in microseconds
}

// against reports the ratio of f's rate to that of base and, as cpu-ratio, how much of
// f's processor time base took: the same on a machine without other work, and steadier
// on one with it.
func (f figure) against(b *testing.B, base figure, bar float64) {
	b.ReportMetric(f.rate/base.rate, "ratio")
	b.ReportMetric(base.cpu/f.cpu, "cpu-ratio")
	if bar > 0 {
		b.ReportMetric(bar, "bar")
	}
}
