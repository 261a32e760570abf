package bench

import (
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

const (
	domainTopics = 100_000
	domainHands  = 8 // who make them at a time
)

// BenchmarkDomainTopics makes a domain of 100,000 topics without event subscriptions and
// reports what that takes: memory, the time to make them, to list them by pages of 100, to
// start again after a kill, and to delete the domain; and what one event then costs that
// is published for one of them, besides its answer. The workload has a size of its own:
// -benchtime 1x.
func BenchmarkDomainTopics(b *testing.B) {
	for b.Loop() {
		s := servertest.New(b)
		id, publish := s.Domain("many", nil)
		time.Sleep(time.Second)
		b.ReportMetric(float64(residentMB(s.PID())), "rss-before-MB")
		began := time.Now()
		var next atomic.Int64
		var hands sync.WaitGroup
		for range domainHands {
			hands.Go(func() {
				for n := next.Add(1); n <= domainTopics; n = next.Add(1) {
					if _, err := s.Do(b.Context(), "PUT", fmt.Sprintf("%s/topics/tenant-%06d", id, n), nil, nil, nil, nil); err != nil {
						b.Errorf("topic %d: %v", n, err)
						return
					}
				}
			})
		}
		hands.Wait()
		b.ReportMetric(time.Since(began).Seconds(), "make-s")
		b.ReportMetric(float64(residentMB(s.PID())), "rss-made-MB")
		s.Kill()
		s.Restart()
		b.ReportMetric(float64(s.Start.Milliseconds()), "ready-after-kill-ms")
		time.Sleep(2 * time.Second)
		b.ReportMetric(float64(residentMB(s.PID())), "rss-after-MB")

		began = time.Now()
		listed, query := 0, url.Values{"$top": {"100"}}
		for {
			var page struct {
				Value    []struct{}
				NextLink string
			}
			if _, err := s.Do(b.Context(), "GET", id+"/topics", query, nil, &page, nil); err != nil {
				b.Fatal(err)
			}
			listed += len(page.Value)
			if page.NextLink == "" {
				break
			}
			next, err := url.Parse(page.NextLink)
			if err != nil {
				b.Fatal(err)
			}
			query.Set("$skipToken", next.Query().Get("$skipToken"))
		}
		b.ReportMetric(time.Since(began).Seconds(), "list-s")
		if listed != domainTopics {
			b.Errorf("%d topics were listed", listed)
		}

		began = time.Now()
		for n := range 1000 {
			if err := publish(fmt.Sprintf(`[{"id":"1","topic":"tenant-%06d","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z"}]`, n*97)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "publish-µs")
		began = time.Now()
		s.Must("DELETE", id, nil, nil)
		b.ReportMetric(time.Since(began).Seconds(), "delete-s")
	}
	b.ReportMetric(0, "ns/op")
}
