package bench

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/carillon-events/carillon/internal/servertest"
)

const (
	handlers = 1000 // of BenchmarkHalfDead, of which half die

	// deadRequests is how many requests of 100 events each part of BenchmarkHalfDead
	// publishes, that is as many events for each handler. What waits for the dead at
	// the end is more than the server keeps open deliveries.
	deadRequests = 1200
)

// BenchmarkHalfDead gives each of 1,000 handlers one event of each request of 100. Then
// half of the handlers die: some refuse connections, some never answer, some answer 500
// and some 503. It reports the rate of the living ones before and after, the ratio of the
// two, and the server's memory before, in the middle and at the end; alone-ratio compares
// with a server that has the living ones only. The workload has a size of its own:
// -benchtime 1x.
func BenchmarkHalfDead(b *testing.B) {
	for b.Loop() {
		g := newGraveyard(b, false)
		alone := g.round(b)
		g.s.Kill()
		g = newGraveyard(b, true)
		before := g.round(b)
		g.reportMemory(b, "before")
		g.die()
		after := g.round(b)
		g.reportMemory(b, "middle")
		after = min(after, g.round(b))
		g.reportMemory(b, "end")
		g.s.Kill()
		b.ReportMetric(before, "before/s")
		b.ReportMetric(after, "after/s")
		b.ReportMetric(after/before, "ratio")
		b.ReportMetric(after/alone, "alone-ratio")
		b.ReportMetric(0.9, "bar")
	}
	b.ReportMetric(0, "ns/op")
}

// graveyard is a server in a process of its own with handlers of which half may die.
type graveyard struct {
	*topic
	living *sink
	dead   atomic.Bool
	close  func() // ends those that will refuse connections
}

// newGraveyard starts a server and its handlers, without those that may die if the
// living are to be alone. Each wants one event of body(100), in batches of up to 100.
func newGraveyard(b *testing.B, mortals bool) *graveyard {
	g := &graveyard{topic: newTopic(b, servertest.New(b)), living: newSink(b, 1<<60)}
	mortal := &sink{want: 1 << 60}
	dying := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !g.dead.Load():
			mortal.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/hang/"):
			_, _ = w.Write(nil) // nothing: the head comes with the end of the handler
			<-r.Context().Done()
		case strings.HasPrefix(r.URL.Path, "/500/"):
			w.WriteHeader(http.StatusInternalServerError)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	address, _ := serve(b, dying, nil)
	refusing, stop := serve(b, dying, nil)
	g.close = stop
	for i := range handlers {
		url := fmt.Sprintf("%s/%d", g.living.url, i)
		if i%2 == 1 {
			if !mortals {
				continue
			}
			url = [4]string{"http://" + refusing, "http://" + address + "/hang", "http://" + address + "/500", "http://" + address + "/503"}[i/2%4] + fmt.Sprintf("/%d", i)
		}
		g.subscribe(fmt.Sprintf("handler-%d", i), batches(url), map[string]any{"subjectBeginsWith": "models/churn:", "subjectEndsWith": fmt.Sprintf(":%d", i%100)})
	}
	return g
}

// batches are a webhook's properties for up to 100 events per request.
func batches(url string) map[string]any {
	return map[string]any{"endpointUrl": url, "maxEventsPerBatch": 100, "preferredBatchSizeInKilobytes": 1024}
}

func (g *graveyard) die() {
	g.dead.Store(true)
	g.close()
}

// round publishes deadRequests requests and returns the rate at which the living got
// their events. After a minute it counts what they have got.
func (g *graveyard) round(b *testing.B) float64 {
	had, want := g.living.count.Load(), int64(deadRequests*handlers/2)
	began := time.Now()
	g.post(body(100), 16, deadRequests)
	for g.living.count.Load()-had < want && time.Since(began) < time.Minute {
		time.Sleep(time.Millisecond)
	}
	got := g.living.count.Load() - had
	if got < want {
		b.Logf("%d of %d events had come to the living after a minute", got, want)
	}
	return float64(got) / time.Since(began).Seconds()
}

// reportMemory reports what lived on the server's heap when it was last collected, and
// what is resident.
func (g *graveyard) reportMemory(b *testing.B, when string) {
	b.ReportMetric(metric(b, g.s, "go_memstats_next_gc_bytes")/2/(1<<20), "heap-"+when+"-MB")
	b.ReportMetric(float64(residentMB(g.s.PID())), "rss-"+when+"-MB")
}

const (
	drainBacklog = 200_000 // events that one handler is out for
	drainMost    = 180_000 // of them; the others may have been attempted and wait for their retry
	drainOthers  = 9       // handlers that are not out
)

// BenchmarkDrain has 10 handlers that want every event, in batches of up to 100. One
// is out while 200,000 events pass, and comes back; meanwhile events are published: as
// fast as they are taken, 5,000 a second, or none. It reports the rate at which each of
// the others got events before the outage and while the one caught up, the ratio of the
// two, and the rate at which that one got its backlog. The workload has a size of its
// own: -benchtime 1x.
func BenchmarkDrain(b *testing.B) {
	b.Run("live=full", func(b *testing.B) {
		drain(b, func(more func() bool) func() bool { return more })
	})
	b.Run("live=5000", func(b *testing.B) {
		drain(b, func(more func() bool) func() bool {
			ticks, over := time.NewTicker(20*time.Millisecond), make(chan struct{})
			end := sync.OnceFunc(func() { close(over) })
			return func() bool {
				select {
				case <-ticks.C:
				case <-over: // nobody waits for a tick to learn it
					return false
				}
				if !more() {
					end()
					return false
				}
				return true
			}
		})
	})
	b.Run("live=none", func(b *testing.B) { drain(b, nil) })
}

// drain runs BenchmarkDrain with publishers that ask pace(more) before each request of
// 100 events; without pace there are none while the one catches up.
func drain(b *testing.B, pace func(more func() bool) func() bool) {
	for b.Loop() {
		t := newTopic(b, servertest.NewLocal(b))
		others := newSink(b, 1<<60)
		for i := range drainOthers {
			t.subscribe(fmt.Sprintf("other-%d", i), batches(fmt.Sprintf("%s/%d", others.url, i)), nil)
		}
		var out atomic.Bool
		back := make(chan struct{}, 1) // the one got something
		one := &sink{want: 1 << 60}
		address, _ := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if out.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			one.ServeHTTP(w, r)
			select {
			case back <- struct{}{}:
			default:
			}
		}), nil)
		t.subscribe("one", batches("http://"+address), nil)
		payload := body(100)
		var published atomic.Int64
		// settle waits until all handlers that are not out have what was published.
		settle := func() {
			n := published.Load()
			for deadline := time.Now().Add(2 * time.Minute); others.count.Load() < drainOthers*n || !out.Load() && one.count.Load() < n; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					b.Fatalf("after 2 minutes the others have %d of %d events and the one %d of %d", others.count.Load(), drainOthers*n, one.count.Load(), n)
				}
			}
		}
		// while publishes while there is more to do and returns the rate at which each of
		// the others got events meanwhile.
		while := func(more func() bool) float64 {
			began, had := time.Now(), others.count.Load()
			postWhile(b, &fasthttp.Client{}, t.url(), t.key, payload, 16, pace(func() bool {
				if !more() {
					return false
				}
				published.Add(100)
				return true
			}))
			return float64(others.count.Load()-had) / drainOthers / time.Since(began).Seconds()
		}

		var before float64
		if pace != nil {
			began := time.Now()
			before = while(func() bool { return time.Since(began) < 4*time.Second })
			settle()
		}
		out.Store(true)
		t.post(payload, 16, drainBacklog/100)
		published.Add(drainBacklog)
		settle()

		for len(back) > 0 {
			<-back
		}
		had := one.count.Load()
		out.Store(false)
		<-back // its probation is over
		began := time.Now()
		caughtUp := func() bool { return one.count.Load()-had >= drainMost }
		if pace != nil {
			during := while(func() bool { return !caughtUp() })
			b.ReportMetric(before, "before/s")
			b.ReportMetric(during, "during/s")
			b.ReportMetric(during/before, "ratio")
			b.ReportMetric(0.9, "bar")
		} else {
			for !caughtUp() {
				time.Sleep(time.Millisecond)
			}
		}
		b.ReportMetric(drainMost/time.Since(began).Seconds(), "drain/s")
		settle() // nothing is lost
	}
	b.ReportMetric(0, "ns/op")
}
