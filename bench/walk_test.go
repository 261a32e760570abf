// Package bench measures the whole walk, from publish requests to a handler's
// answers, against raw limits measured in the same run. README.md holds dated
// results. The workloads keep their meaning for ever: add, do not edit.
package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/valyala/fasthttp"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/server"
	"github.com/carillon-events/carillon/internal/servertest"
)

// eventSize is the size of one event, in bytes.
const eventSize = 1024

// event is one event of eventSize bytes.
func event(id int) string {
	head := fmt.Sprintf(`{"id":"%d","subject":"models/churn:%d","eventType":"bench.event","eventTime":"2026-01-01T00:00:00Z","dataVersion":"1","data":{"n":%d,"pad":"`, id, id%100, id)
	return head + strings.Repeat("x", max(eventSize-len(head)-3, 0)) + `"}}`
}

// body is a request of n events.
func body(n int) []byte { return numbered(0, n) }

// numbered is a request of n events, the first of which has the id first.
func numbered(first, n int) []byte {
	events := make([]string, n)
	for i := range events {
		events[i] = event(first + i)
	}
	return []byte("[" + strings.Join(events, ",") + "]")
}

// sink is a handler on net/http that counts what it gets.
type sink struct {
	url   string
	count atomic.Int64
	done  chan struct{} // closed when count reached want
	want  int64
	seen  func(body []byte) // optional
}

func newSink(b *testing.B, want int) *sink {
	s := &sink{done: make(chan struct{}), want: int64(want)}
	addr, _ := serve(b, s, nil)
	s.url = "http://" + addr + "/hook"
	return s
}

// serve serves a handler on net/http, over TLS where there are settings of it, until
// stop or the end of the benchmark, and returns its address.
func serve(b *testing.B, h http.Handler, secure *tls.Config) (addr string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: secure, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		if secure != nil {
			_ = srv.ServeTLS(l, "", "")
		} else {
			_ = srv.Serve(l)
		}
	}()
	stop = func() { _ = srv.Close() }
	b.Cleanup(stop)
	return l.Addr().String(), stop
}

var mark = []byte(`"eventType":"bench.event"`)

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if consents(w, r) {
		return
	}
	buf := buffers.Get().(*bytes.Buffer)
	buf.Reset()
	_, _ = io.Copy(buf, r.Body)
	n := int64(bytes.Count(buf.Bytes(), mark))
	if s.seen != nil {
		s.seen(buf.Bytes())
	}
	buffers.Put(buf)
	if now := s.count.Add(n); now >= s.want && now-n < s.want {
		close(s.done)
	}
}

// consents answers a validation handshake, and reports whether the request is one.
func consents(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("aeg-event-type") != "SubscriptionValidation" {
		return false
	}
	var v []struct {
		Data struct{ ValidationCode string } `json:"data"`
	}
	if json.NewDecoder(r.Body).Decode(&v) == nil && len(v) == 1 {
		_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": v[0].Data.ValidationCode})
	}
	return true
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// post sends total requests of a body from c connections with fasthttp.
func post(b *testing.B, url, key string, payload []byte, c, total int) {
	postWhile(b, &fasthttp.Client{}, url, key, payload, c, upTo(total))
}

// upTo allows n requests.
func upTo(n int) func() bool {
	var left atomic.Int64
	left.Store(int64(n))
	return func() bool { return left.Add(-1) >= 0 }
}

// postWhile is post for as long as there is more to send.
func postWhile(b *testing.B, client *fasthttp.Client, url, key string, payload []byte, c int, more func() bool) {
	client.MaxConnsPerHost, client.MaxIdleConnDuration = c+8, time.Minute
	var wg sync.WaitGroup
	for range c {
		wg.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			for more() {
				req.SetRequestURI(url)
				req.Header.SetMethod("POST")
				req.Header.SetContentType("application/json")
				if key != "" {
					req.Header.Set("aeg-sas-key", key)
				}
				req.SetBodyRaw(payload)
				if err := client.Do(req, resp); err != nil {
					b.Error(err)
					return
				}
				if resp.StatusCode() != 200 {
					b.Errorf("status %d: %s", resp.StatusCode(), resp.Body())
					return
				}
			}
		})
	}
	wg.Wait()
}

// limits are the raw rates of this run, events per second.
var limits = struct{ client, ingest, packed float64 }{}

// BenchmarkWalk measures the raw limits, then each shape of the walk, and reports
// each shape's ratio to its limit. Run it whole: go test ./bench -run - -bench
// BenchmarkWalk -benchtime 200000x.
func BenchmarkWalk(b *testing.B) {
	// raw/client: fasthttp client to net/http server, 1 KiB, 64 connections: what a
	// delivery costs at least.
	b.Run("raw/client", func(b *testing.B) {
		s := newSink(b, b.N)
		began := cpu()
		b.ResetTimer()
		post(b, s.url, "", body(1), 64, b.N)
		reportCPU(b, began, b.N)
		limits.client = rate(b, b.N, 0)
	})
	// raw/ingest: the same with 256 connections and no delivery: what a request of
	// one event costs at least.
	b.Run("raw/ingest", func(b *testing.B) {
		s := newSink(b, b.N)
		began := cpu()
		b.ResetTimer()
		post(b, s.url, "", body(1), 256, b.N)
		reportCPU(b, began, b.N)
		limits.ingest = rate(b, b.N, 0)
	})
	// raw/packed: a JetStream server in this process that syncs each message, 8 publishers
	// of messages that hold 100 events. Source: spec/engine.md sections 2 and 9.
	b.Run("raw/packed", func(b *testing.B) {
		js := durable(b)
		message := body(100)
		began := cpu()
		b.ResetTimer()
		inTurns(b, 8, func() error {
			_, err := js.Publish(b.Context(), "frames", message)
			return err
		})
		reportCPU(b, began, b.N)
		limits.packed = rate(b, b.N, 0)
	})
	// raw/engine: the engine of the walk alone, which packs requests that come together.
	b.Run("raw/engine", func(b *testing.B) {
		e, err := engine.Open(context.Background(), engine.Options{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = e.Close() }()
		raw := []byte(event(1))
		records := make([]engine.Record, 100)
		for i := range records {
			records[i] = engine.Record{Kind: engine.KindEvent, Schema: 1, Topic: 1, Data: raw}
		}
		began := cpu()
		b.ResetTimer()
		inTurns(b, 8, func() error {
			_, err := e.Partition().Append(context.Background(), records)
			return err
		})
		reportCPU(b, began, b.N)
		rate(b, b.N, 0)
	})
	measure := func(name string, s shape, limit func() float64, bar float64) {
		b.Run(name, func(b *testing.B) {
			walk(b, s)
			rate(b, b.N, limit())
			b.ReportMetric(bar, "bar")
		})
	}
	client := func() float64 { return limits.client }
	measure("in=1/out=1", shape{in: 1, out: 1, connections: 256}, client, 0.35)
	measure("in=100/out=1", shape{in: 100, out: 1, connections: 16}, client, 0.70)
	measure("in=1/out=100", shape{in: 1, out: 100, connections: 256}, func() float64 { return limits.ingest }, 0.55)
	measure("in=100/out=100", shape{in: 100, out: 100, connections: 16}, func() float64 { return limits.packed }, 1.0)
}

// durable is a stream of a JetStream server in this process, which syncs each message.
func durable(b *testing.B) jetstream.JetStream {
	s, err := natsserver.NewServer(&natsserver.Options{
		DontListen: true, JetStream: true, StoreDir: b.TempDir(), SyncAlways: true, MaxPayload: 8 << 20, MaxPending: 128 << 20, NoSigs: true, NoLog: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		b.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "FRAMES", Subjects: []string{"frames"}}); err != nil {
		b.Fatal(err)
	}
	return js
}

// inTurns calls f for each 100 of b.N, by so many at a time.
func inTurns(b *testing.B, workers int, f func() error) {
	var left atomic.Int64
	left.Store(int64(b.N / 100))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// shape is how events come and go: in events per request from so many connections, up
// to out per request to one handler.
type shape struct {
	in, out, connections int

	tls     bool   // the handler is reached over TLS
	signing string // version of the signatures of deliveries; "" for none
}

// walk publishes b.N events and waits until all are delivered.
func walk(b *testing.B, sh shape) figure {
	total := max(b.N/sh.in, 1)
	var handler *sink
	var change []func(*server.Config)
	if sh.tls {
		var ca string
		handler, ca = newTLSSink(b, total*sh.in)
		change = append(change, func(c *server.Config) { c.DestinationCA = ca })
	} else {
		handler = newSink(b, total*sh.in)
	}
	s := servertest.NewLocal(b, change...) // in this process, as client and server of the raw limits are
	t := newTopic(b, s)
	hook := map[string]any{"endpointUrl": handler.url}
	if sh.out > 1 {
		hook["maxEventsPerBatch"], hook["preferredBatchSizeInKilobytes"] = sh.out, 1024
	}
	if sh.signing != "" {
		hook["signing"] = map[string]any{"version": sh.signing}
	}
	t.subscribe("bench", hook, nil)
	payload := body(sh.in)
	began := cpu()
	b.ResetTimer()
	t.post(payload, sh.connections, total)
	handler.wait(b)
	b.StopTimer()
	f := figure{float64(total*sh.in) / b.Elapsed().Seconds(), reportCPU(b, began, total*sh.in)}
	b.ReportMetric(journalBytes(b, s)/float64(total*sh.in), "journal-B/event")
	b.ReportMetric(float64(total*sh.in)/metric(b, s, "carillon_engine_frames_total"), "events/frame")
	return f
}

// journalBytes is what the delivery journal takes once every delivery is settled.
func journalBytes(b *testing.B, s *servertest.Server) float64 {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if metric(b, s, "carillon_open_deliveries") == 0 {
			return metric(b, s, "carillon_engine_journal_bytes")
		}
	}
	b.Fatal("deliveries stay open")
	return 0
}

// metric reads one metric of a server that has no labels.
func metric(b *testing.B, s *servertest.Server, name string) float64 {
	resp, err := http.Get(s.HTTP() + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\n"+name+" ")
	line, _, _ := strings.Cut(after, "\n")
	v, err := strconv.ParseFloat(line, 64)
	if err != nil {
		b.Fatalf("metrics have no %s: %v", name, err)
	}
	return v
}

// topic is the topic that a benchmark publishes to.
type topic struct {
	b   *testing.B
	s   *servertest.Server
	id  string
	key string
}

func newTopic(b *testing.B, s *servertest.Server) *topic {
	id, _ := s.Topic("bench")
	var keys struct{ Key1 string }
	s.Must("POST", id+"/listKeys", nil, &keys)
	return &topic{b, s, id, keys.Key1}
}

// subscribe makes an event subscription with the properties of a webhook and a filter.
func (t *topic) subscribe(name string, hook, filter map[string]any) {
	t.s.Must("PUT", t.id+"/providers/Microsoft.EventGrid/eventSubscriptions/"+name, map[string]any{"properties": map[string]any{
		"destination": map[string]any{"endpointType": "WebHook", "properties": hook},
		"filter":      filter,
	}}, nil)
}

func (t *topic) url() string { return t.s.HTTP() + "/topics/bench/api/events" }

func (t *topic) post(payload []byte, connections, total int) {
	post(t.b, t.url(), t.key, payload, connections, total)
}

// wait waits until the handler has what it wants.
func (s *sink) wait(b *testing.B) {
	b.Helper()
	select {
	case <-s.done:
	case <-time.After(2 * time.Minute):
		b.Fatalf("%d of %d events delivered", s.count.Load(), s.want)
	}
}

// rate reports events per second, and their ratio to a limit.
func rate(b *testing.B, n int, limit float64) float64 {
	r := float64(n) / b.Elapsed().Seconds()
	b.ReportMetric(r, "events/s")
	b.ReportMetric(0, "ns/op")
	if limit > 0 {
		b.ReportMetric(r/limit, "ratio")
	}
	return r
}

// BenchmarkLatency publishes 200 events a second, one per request, and reports how
// long each took from the start of its request to the handler, in milliseconds,
// beside the time one synced append takes.
func BenchmarkLatency(b *testing.B) {
	s := servertest.New(b)
	handler := newSink(b, b.N)
	published := make([]time.Time, b.N)
	var mu sync.Mutex
	var took []time.Duration
	handler.seen = func(body []byte) {
		now := time.Now()
		_, after, _ := bytes.Cut(body, []byte(`"id":"`))
		id, _, _ := bytes.Cut(after, []byte(`"`))
		n, err := strconv.Atoi(string(id))
		if err != nil || n >= len(published) {
			return
		}
		mu.Lock()
		took = append(took, now.Sub(published[n]))
		mu.Unlock()
	}
	id, publish := s.Topic("bench")
	s.Subscribe(id, "bench", handler.url, nil)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	b.ResetTimer()
	var wg sync.WaitGroup
	for n := range b.N {
		<-tick.C
		mu.Lock()
		published[n] = time.Now()
		mu.Unlock()
		wg.Go(func() {
			if err := publish("[" + event(n) + "]"); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	<-handler.done
	b.StopTimer()
	slices.Sort(took)
	at := func(p int) float64 { return float64(took[min(len(took)*p/100, len(took)-1)].Microseconds()) / 1000 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(50), "p50-ms")
	b.ReportMetric(at(99), "p99-ms")
	b.ReportMetric(syncTime(b), "sync-ms")
}

// syncTime is how long it takes to append 1 KiB to a file and sync it, in
// milliseconds, the middle one of 101.
func syncTime(b *testing.B) float64 {
	f, err := os.Create(filepath.Join(b.TempDir(), "sync"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	took := make([]time.Duration, 101)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(make([]byte, 1024)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Microseconds()) / 1000
}
