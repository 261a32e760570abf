package servertest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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
)

var rounds = flag.Int("kill-rounds", 6, "how often TestKill kills the server")

// unsettled is how long before a kill an answer may have left the handler and the
// delivery still be repeated: a repeat later than this is a fault. What a busy
// machine adds to a flush of the journal is measured beside it, by synced writes and
// by publishing, and added.
// Source: decisions.md 10.
const unsettled = 100 * time.Millisecond

// busy measures how long a small synced write takes at most, by a goroutine that
// does little else, until the returned function is called.
func busy(t *testing.T) (longest func() time.Duration) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "synced"))
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	var most time.Duration
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_, err := f.WriteAt(make([]byte, 1<<10), 0)
			if err = errors.Join(err, f.Sync()); err != nil {
				t.Error(err)
				return
			}
			most, last = max(most, time.Since(last)), time.Now()
		}
	}()
	return func() time.Duration {
		close(stop)
		<-done
		_ = f.Close()
		return most
	}
}

// TestKill publishes from several publishers, kills the server with kill -9 at
// random moments, and starts it again on its directory. No acknowledged event is
// lost, and only deliveries that were not yet settled are repeated.
func TestKill(t *testing.T) {
	s := New(t)
	handler := NewReceiver(t)
	id, publish := s.Topic("load")
	s.Subscribe(id, "all", handler.URL, nil)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 3))
	longest := busy(t)
	var next atomic.Int64
	var mu sync.Mutex
	acked := map[int]bool{}
	var slow time.Duration // what the slowest publisher waited for its answer
	var kills []time.Time
	for range *rounds {
		stop := make(chan struct{})
		var publishers sync.WaitGroup
		for p := range 4 {
			publishers.Go(func() {
				size := []int{1, 1, 10, 50}[p]
				for {
					select {
					case <-stop:
						return
					default:
					}
					from, began := int(next.Add(int64(size)))-size, time.Now()
					if publish(eventBody(from, size)) == nil {
						mu.Lock()
						slow = max(slow, time.Since(began))
						for i := range size {
							acked[from+i] = true
						}
						mu.Unlock()
					}
				}
			})
		}
		timer := time.NewTimer(time.Duration(50+rng.IntN(400)) * time.Millisecond)
		<-timer.C
		s.Kill()
		kills = append(kills, time.Now())
		close(stop)
		publishers.Wait()
		s.Restart()
	}
	mu.Lock()
	want := len(acked)
	mu.Unlock()
	handler.Wait(t, patience, func(events []Received) bool {
		if len(events) < want {
			return false
		}
		got := map[int]bool{}
		for _, e := range events {
			n, _ := strconv.Atoi(e.ID)
			got[n] = true
		}
		for n := range acked {
			if !got[n] {
				return false
			}
		}
		return true
	})
	// A flush may have to wait for another one before it.
	slow = max(slow, longest())
	allowed := unsettled + 2*slow
	first := map[string]time.Time{}
	repeated := 0
	for _, e := range handler.Events() {
		at, seen := first[e.ID]
		if !seen {
			first[e.ID] = e.At
			continue
		}
		repeated++
		excused := false
		for _, k := range kills {
			excused = excused || (at.Before(k.Add(unsettled)) && k.Sub(at) < allowed)
		}
		if !excused {
			t.Errorf("event %s was delivered at %s and again at %s, and no kill was near", e.ID, at, e.At)
		}
	}
	t.Logf("%d rounds: %d events acknowledged, 0 lost, %d deliveries repeated; a synced write or a publication took up to %s", *rounds, want, repeated, slow)
	s.Stop()
}

// TestHangingHandler has two event subscriptions on one topic, one of a handler that
// never answers. The other one's events arrive as if it were alone.
func TestHangingHandler(t *testing.T) {
	s := New(t)
	hang := make(chan struct{})
	defer close(hang)
	hanging := NewReceiver(t)
	hanging.Answer = func(_ http.ResponseWriter, r *http.Request, _ []Received) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}
	healthy := NewReceiver(t)
	id, publish := s.Topic("busy")
	s.Subscribe(id, "hanging", hanging.URL, nil)
	s.Subscribe(id, "healthy", healthy.URL, nil)

	const total, publishers = 5000, 10
	published := make([]time.Time, total)
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for n := p; n < total; n += publishers {
				published[n] = time.Now()
				if err := publish(eventBody(n, 1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	healthy.Wait(t, patience, func(events []Received) bool { return len(events) >= total })
	latencies := make([]time.Duration, 0, total)
	for _, e := range healthy.Events() {
		n, _ := strconv.Atoi(e.ID)
		latencies = append(latencies, e.At.Sub(published[n]))
	}
	// One that has to wait for the other's answer waits for 30 s.
	if p99 := percentile(latencies, 99); p99 > 10*time.Second {
		t.Errorf("the healthy handler's p99 is %s beside one that hangs", p99)
	} else {
		t.Logf("p50 %s, p99 %s", percentile(latencies, 50), p99)
	}
}

// percentile returns the p-th percentile.
func percentile(d []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// TestSecondProcess sees a second server refused on a directory that is in use.
func TestSecondProcess(t *testing.T) {
	s := New(t)
	other := *s
	other.cfg.Listen = []string{"127.0.0.1:0"}
	out, err := other.run()
	if err == nil {
		t.Fatal("a second server started on the same directory")
	}
	if want := fmt.Sprint(s.PID()); !strings.Contains(out, s.Dir) || !strings.Contains(out, want) {
		t.Errorf("the refusal does not name the directory and the process %s: %s", want, out)
	}
}
