package bench

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carillon-events/carillon/internal/servertest"
)

const (
	managed        = 10_000 // event subscriptions
	managedClients = 16
)

// BenchmarkManagement makes 10,000 event subscriptions with a filter each through the
// management API, from 16 clients over https, each with the handshake of its webhook. It
// reports how many are made a second, how long it takes to list all of them in pages of
// 100, and how long a start with them takes until the server is ready, after an orderly
// stop. The workload has a size of its own: -benchtime 1x.
func BenchmarkManagement(b *testing.B) {
	for b.Loop() {
		s := servertest.New(b)
		topic, _ := s.Topic("bench")
		all := topic + "/providers/Microsoft.EventGrid/eventSubscriptions"
		handler := newSink(b, 1<<60)

		began := time.Now()
		clients, ctx := errgroup.WithContext(b.Context())
		for c := range managedClients {
			clients.Go(func() error {
				for i := c; i < managed; i += managedClients {
					if err := s.Put(ctx, fmt.Sprintf("%s/handler-%d", all, i), map[string]any{"properties": map[string]any{
						"destination": map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": fmt.Sprintf("%s/%d", handler.url, i)}},
						"filter":      map[string]any{"advancedFilters": []any{map[string]any{"operatorType": "NumberIn", "key": "data.n", "values": []int{i}}}},
					}}, nil); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := clients.Wait(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(managed/time.Since(began).Seconds(), "made/s")
		b.ReportMetric(500, "made/s-bar")

		b.ReportMetric(float64(listAll(b, s, all).Milliseconds()), "list-ms")
		b.ReportMetric(1000, "list-ms-bar")

		s.Stop()
		s.Restart()
		b.ReportMetric(float64(s.Start.Milliseconds()), "ready-ms")
		b.ReportMetric(3000, "ready-ms-bar")
		listAll(b, s, all)
	}
	b.ReportMetric(0, "ns/op")
}

// listAll lists in pages of 100, checks that all are there, and returns how long it took.
func listAll(b *testing.B, s *servertest.Server, path string) time.Duration {
	began, n := time.Now(), 0
	for _, err := range s.List(context.Background(), path, url.Values{"$top": {"100"}}) {
		if err != nil {
			b.Fatal(err)
		}
		n++
	}
	if n != managed {
		b.Fatalf("%d event subscriptions are listed, %d were made", n, managed)
	}
	return time.Since(began)
}
