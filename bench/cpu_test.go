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
func reportCPU(b *testing.B, began time.Duration, events int) {
	b.ReportMetric(float64((cpu()-began).Nanoseconds())/1000/float64(events), "cpu-µs")
}
