package bench

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/server"
	"github.com/carillon-events/carillon/internal/servertest"
)

// everybody is the number of event subscriptions that want each event.
const everybody = 1000

// BenchmarkFanOut publishes events that 1,000 event subscriptions want, one event per
// request in and out. b.N counts deliveries; their rate is compared with that of a raw
// client, as in BenchmarkWalk. With watched=true each event subscription has series of
// its own in /metrics, as by default, which is read every second; with false none has.
func BenchmarkFanOut(b *testing.B) {
	var limit figure
	b.Run("limit=raw", func(b *testing.B) {
		s := newSink(b, b.N)
		began := cpu()
		b.ResetTimer()
		post(b, s.url, "", body(1), 64, b.N)
		limit = figure{rate(b, b.N, 0), reportCPU(b, began, b.N)}
	})
	for _, watched := range []bool{false, true} {
		b.Run(fmt.Sprintf("subs=%d/watched=%t", everybody, watched), func(b *testing.B) {
			f := spread(b, watched)
			b.ReportMetric(f.rate, "events/s")
			b.ReportMetric(0, "ns/op")
			f.against(b, limit, 0.6)
		})
	}
}

// spread publishes one event for every 1,000 deliveries of b.N, and waits for them.
func spread(b *testing.B, watched bool) figure {
	s := servertest.NewLocal(b, func(c *server.Config) {
		if !watched {
			c.MetricsEventSubscriptions = 0
		}
	})
	events := max(b.N/everybody, 1)
	handler := newSink(b, events*everybody)
	t := newTopic(b, s)
	for i := range everybody {
		t.subscribe(fmt.Sprintf("wants-%d", i), map[string]any{"endpointUrl": fmt.Sprintf("%s/%d", handler.url, i)}, nil)
	}
	payload := body(1)
	began := cpu()
	b.ResetTimer()
	if watched {
		go watch(b, s, handler.done)
	}
	t.post(payload, 16, events)
	handler.wait(b)
	b.StopTimer()
	n := events * everybody
	f := figure{float64(n) / b.Elapsed().Seconds(), reportCPU(b, began, n)}
	b.ReportMetric(journalBytes(b, s)/float64(n), "journal-B/event")
	return f
}

// watch reads the metrics every second, as a monitoring system does more seldom.
func watch(b *testing.B, s *servertest.Server, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		resp, err := http.Get(s.HTTP() + "/metrics")
		if err != nil {
			b.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}
