package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/servertest"
)

// tracking is a server that answers as MLflow does, with nothing in it. Each request
// takes it busy: a real one takes some milliseconds at the least.
func tracking(b *testing.B, busy time.Duration) (url string) {
	addr, _ := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(busy)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{}`)
	}), nil)
	return "http://" + addr
}

// behindProxy attaches a server to the default workspace and returns where the proxy is.
func behindProxy(s *servertest.Server, url string) string {
	s.Must("PUT", servertest.Workspace+"/providers/Carillon.MLflow/servers/default", map[string]any{"properties": map[string]any{"url": url, "pollIntervalSeconds": 3600}}, nil)
	return s.HTTP() + "/mlflow/default"
}

// logBatch is what a client sends for a step of a training with 20 metrics.
func logBatch() []byte {
	type metric struct {
		Key   string  `json:"key"`
		Value float64 `json:"value"`
		Time  int64   `json:"timestamp"`
		Step  int     `json:"step"`
	}
	var metrics []metric
	for i := range 20 {
		metrics = append(metrics, metric{fmt.Sprint("layer.", i, ".loss"), 0.12345 * float64(i), 1772442847531, i})
	}
	raw, _ := json.Marshal(map[string]any{"run_id": strings.Repeat("a", 32), "metrics": metrics})
	return raw
}

// logging sends n batches with some clients at once, and returns what one took.
func logging(b *testing.B, url string, clients, n int) (took []time.Duration, total time.Duration) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	body, each := logBatch(), make([][]time.Duration, clients)
	var left atomic.Int64
	left.Store(int64(n))
	var group sync.WaitGroup
	began := time.Now()
	for c := range clients {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				res, err := client.Post(url+"/api/2.0/mlflow/runs/log-batch", "application/json", bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != http.StatusOK {
					b.Errorf("answer %d", res.StatusCode)
					return
				}
				each[c] = append(each[c], time.Since(start))
			}
		})
	}
	group.Wait()
	total = time.Since(began)
	took = slices.Concat(each...)
	slices.Sort(took)
	return took, total
}

// BenchmarkMLflowProxy logs metrics through the proxy and directly: what a request by
// itself takes more, at a server that takes no time, and what is left of the rate of 8
// clients, at one that takes 5 ms.
func BenchmarkMLflowProxy(b *testing.B) {
	for b.Loop() {
		s := servertest.New(b)
		at := tracking(b, 0)
		proxied := behindProxy(s, at)
		logging(b, at, 1, 200)
		logging(b, proxied, 1, 200)
		direct, _ := logging(b, at, 1, 3000)
		through, _ := logging(b, proxied, 1, 3000)
		b.ReportMetric(float64((through[len(through)/2] - direct[len(direct)/2]).Microseconds()), "added-p50-µs")
		b.ReportMetric(float64((through[len(through)*99/100] - direct[len(direct)*99/100]).Microseconds()), "added-p99-µs")

		at = tracking(b, 5*time.Millisecond)
		proxied = behindProxy(s, at)
		_, without := logging(b, at, 8, 4000)
		_, with := logging(b, proxied, 8, 4000)
		b.ReportMetric(4000/with.Seconds(), "batches/s")
		b.ReportMetric(without.Seconds()/with.Seconds(), "of-direct")
		s.Stop()
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkMLflowUpload sends an artifact of 1 GiB through the proxy, and reports the
// server's memory before, during (the most) and after it, and the rate.
func BenchmarkMLflowUpload(b *testing.B) {
	const size = 1 << 30
	for b.Loop() {
		s := servertest.New(b)
		url := behindProxy(s, tracking(b, 0)) + "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/model.bin"
		b.ReportMetric(float64(residentMB(s.PID())), "before-MB")
		heap := func() float64 { return heapMB(b, s) }
		b.ReportMetric(heap(), "heap-before-MB")
		most, mostHeap := 0, 0.0
		done, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			for {
				most, mostHeap = max(most, residentMB(s.PID())), max(mostHeap, heap())
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}()
		began := time.Now()
		request, _ := http.NewRequest(http.MethodPut, url, io.LimitReader(filler{}, size))
		request.ContentLength = size
		res, err := http.DefaultClient.Do(request)
		if err != nil || res.StatusCode != http.StatusOK {
			b.Fatalf("%v, error %v", res, err)
		}
		_ = res.Body.Close()
		b.ReportMetric(size/time.Since(began).Seconds()/1e6, "MB/s")
		close(done)
		<-watched
		b.ReportMetric(float64(most), "during-MB")
		b.ReportMetric(mostHeap, "heap-during-MB")
		b.ReportMetric(float64(residentMB(s.PID())), "after-MB")
		s.Stop()
		runtime.GC()
	}
	b.ReportMetric(0, "ns/op")
}

// heapMB is what the metrics of a server say of its heap.
func heapMB(b *testing.B, s *servertest.Server) float64 {
	res, err := http.Get(s.HTTP() + "/metrics")
	if err != nil {
		b.Error(err)
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	raw, _ := io.ReadAll(res.Body)
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "go_memstats_heap_inuse_bytes "); ok {
			var bytes float64
			_, _ = fmt.Sscan(rest, &bytes)
			return bytes / (1 << 20)
		}
	}
	return 0
}

// filler is a file of some bytes.
type filler struct{}

func (filler) Read(p []byte) (int, error) { return len(p), nil }
