package engine

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkAppend measures durable single-record Appends of 1 KiB by concurrent
// producers at level disk.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			p := open(b, Options{}).Partition()
			data := make([]byte, 1024)
			b.ReportAllocs()
			b.SetBytes(1024)
			b.ResetTimer()
			var wg sync.WaitGroup
			for g := range producers {
				wg.Go(func() {
					for range (b.N + producers - 1 - g) / producers {
						if _, err := p.Append(b.Context(), []Record{{Kind: KindEvent, Topic: 1, Data: data}}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			_, last := p.Bounds()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(b.N)/float64(last), "records/frame")
		})
	}
}

// BenchmarkFrames measures the bulk read of frames that hold 100 records of
// 1 KiB, and of frames that hold one.
func BenchmarkFrames(b *testing.B) {
	for _, records := range []int{1, 100} {
		b.Run(fmt.Sprintf("records=%d", records), func(b *testing.B) {
			p := open(b, Options{Durability: DurabilityProcess}).Partition()
			request := make([]Record, records)
			for i := range request {
				request[i] = Record{Kind: KindEvent, Data: make([]byte, 1024)}
			}
			frames := max(1000, 20_000/records)
			for range frames {
				mustAppend(b, p, request...)
			}
			b.ResetTimer()
			read := 0
			for b.Loop() {
				for f, err := range p.Frames(b.Context(), 0) {
					if err != nil {
						b.Fatal(err)
					}
					read += len(f.Records)
				}
			}
			b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
