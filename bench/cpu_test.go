package bench

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time that this process and a server have used so far. On a
// machine with other work, processor time per event says more than the rate does.
func cpu(server int) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	if server == 0 {
		return used
	}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(server) + "/stat")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(after)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return used + time.Duration(user+system)*10*time.Millisecond // 100 ticks a second
}

// reportCPU reports the processor time per event since began, in microseconds.
func reportCPU(b *testing.B, server int, began time.Duration, events int) {
	b.ReportMetric(float64((cpu(server) - began).Nanoseconds())/1000/float64(events), "cpu-µs")
}
