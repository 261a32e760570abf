package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

// BenchmarkHistory publishes an event every 30 ms, so that each attempt has a flush of
// the delivery journal to itself, and reports what the journal takes for one: the dearest
// history there is. More event subscriptions get nothing; their state is written anew in
// turn. BenchmarkWalk reports the same under load.
func BenchmarkHistory(b *testing.B) {
	for _, subs := range []int{1, 1000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			s := servertest.NewLocal(b)
			handler := newSink(b, b.N)
			other, _ := s.Topic("other")
			for i := range subs - 1 {
				s.Subscribe(other, fmt.Sprintf("es%d", i), handler.url, nil)
			}
			id, publish := s.Topic("bench")
			s.Subscribe(id, "bench", handler.url, nil)
			before := journalBytes(b, s)
			tick := time.NewTicker(30 * time.Millisecond)
			defer tick.Stop()
			b.ResetTimer()
			for i := range b.N {
				<-tick.C
				if err := publish("[" + event(i) + "]"); err != nil {
					b.Fatal(err)
				}
			}
			<-handler.done
			b.StopTimer()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric((journalBytes(b, s)-before)/float64(b.N), "journal-B/event")
		})
	}
}
