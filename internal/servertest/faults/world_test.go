package faults

import (
	"bytes"
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

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/server"
	"github.com/carillon-events/carillon/internal/servertest"
)

var (
	faultsFor = flag.Duration("faults", 0, "how long the faults of TestFaults go on altogether; 0 leaves it out")
	seedFlag  = flag.Uint64("seed", 0, "seed of everything that is left to chance; 0 takes one from the clock")
)

func TestMain(m *testing.M) { servertest.Main(m) }

// What a world holds the server to.
const (
	latencyBound = time.Second // p99 from a publish request to the arrival at a handler that is well
	memoryBound  = 700 << 20   // resident bytes of the server's process, with the default --memory of 256 MiB
	arrivalBound = 2 * time.Minute
)

// pace is how often each publisher publishes: some 540 events a second from all of
// them, a third of what two busy cores take with the server and its handlers on them.
const pace = 50 * time.Millisecond

// notCounted is the first id of events that a fault publishes to see whether it can.
const notCounted = 1 << 30

// batches are the events in a request of each publisher.
var batches = []int{1, 1, 5, 20}

// TestFaults gives each fault its share of the time, in a world of its own.
func TestFaults(t *testing.T) {
	if *faultsFor == 0 {
		t.Skip("-faults says for how long; 75s is enough to see each of them")
	}
	t.Logf("-seed %d", seed())
	share := *faultsFor / time.Duration(len(all))
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) { f.run(t, rand.New(rand.NewPCG(seed(), 1)), share) })
	}
}

// seed is one for the whole run.
var seed = sync.OnceValue(func() uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return uint64(time.Now().UnixNano())
})

// all faults, in the order of TestFaults.
var all = []struct {
	name string
	run  func(t *testing.T, rng *rand.Rand, share time.Duration)
}{
	{"kill", testKill},
	{"stall", testStall},
	{"slow disk", testSlowDisk},
	{"full disk", testFullDisk},
	{"torn write", testTornWrite},
	{"flipped byte", testFlippedByte},
	{"handlers", testHandlers},
	{"half dead", testHalfDead},
	{"everything", testEverything},
}

// world is a server under load: publishers that remember what was acknowledged, and
// handlers that are well and remember what arrived.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	s       *servertest.Server
	topic   string
	publish func(body string) error
	well    []*handler
	key     func(id int) string // subject of an event; handlers may filter by it

	next    atomic.Int64
	stop    chan struct{}
	wg      sync.WaitGroup
	noise   *noise
	slow    *throttle     // nil = the disk is as fast as it is
	slack   time.Duration // that events may take beyond latencyBound
	over    func()        // ends the outage that down began
	torn    int           // writes that were made to look cut short
	flipped int           // bytes
	memory

	mu      sync.Mutex
	began   []time.Time // of the request that published each id; zero = not acknowledged
	excused map[int]string
	outages []outage
	refused int           // requests that were not acknowledged
	refusal error         // of the last of them
	slowest time.Duration // that was
}

// outage is a time in which nothing could be published and delivered.
type outage struct{ from, to time.Time }

// newWorld starts a server with two handlers that are well, or as many as are made
// later, and the load.
func newWorld(t *testing.T, rng *rand.Rand, handlers int, change ...func(*server.Config)) *world {
	t.Helper()
	w := &world{
		t: t, rng: rng, s: servertest.New(t, change...), stop: make(chan struct{}), excused: map[int]string{},
		key: func(int) string { return "any" },
	}
	w.topic, w.publish = w.s.Topic("load")
	for i := range handlers {
		w.subscribe(fmt.Sprintf("well-%d", i), nil)
	}
	return w
}

// load starts the publishers and what is measured beside them.
func (w *world) load() {
	w.noise = listen(w.t, w.slow)
	w.watch(w.s.PID())
	for _, size := range batches {
		w.wg.Go(func() { w.publisher(size) })
	}
}

func (w *world) publisher(size int) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		first := int(w.next.Add(int64(size))) - size
		began := time.Now()
		err := w.publish(w.body(first, size))
		w.mu.Lock()
		if grow := first + size - len(w.began); grow > 0 {
			w.began = append(w.began, make([]time.Time, grow)...)
		}
		for i := range size {
			if err == nil {
				w.began[first+i] = began
			}
		}
		if took := time.Since(began); err != nil {
			w.refused++
			w.refusal = fmt.Errorf("after %s: %w", took.Round(time.Millisecond), err)
		} else {
			w.slowest = max(w.slowest, took)
		}
		w.mu.Unlock()
	}
}

// body makes a request of consecutive ids.
func (w *world) body(first, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString([]string{"[", ","}[min(i, 1)])
		fmt.Fprintf(&b, `{"id":"%d","subject":"%s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{"n":%d,"rest":"%0500d"},"dataVersion":"1"}`,
			first+i, w.key(first+i), first+i, 0)
	}
	return b.String() + "]"
}

// handler is one that is well and gets every event, or those that wants names.
type handler struct {
	name  string
	wants func(id int) bool

	mu       sync.Mutex
	first    []time.Time // arrival of each id; zero = not yet
	repeated int
}

// subscribe makes a handler that is well and its event subscription.
func (w *world) subscribe(name string, wants func(id int) bool) *handler {
	h := &handler{name: name, wants: wants}
	receiver := servertest.NewReceiver(w.t)
	receiver.Forget = true
	receiver.Answer = func(_ http.ResponseWriter, _ *http.Request, events []servertest.Received) { h.take(events) }
	w.s.Subscribe(w.topic, name, receiver.URL, nil)
	w.well = append(w.well, h)
	return h
}

func (h *handler) take(events []servertest.Received) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		id, err := strconv.Atoi(e.ID)
		if err != nil {
			continue
		}
		if id >= notCounted {
			continue
		}
		if grow := id + 1 - len(h.first); grow > 0 {
			h.first = append(h.first, make([]time.Time, grow)...)
		}
		if h.first[id].IsZero() {
			h.first[id] = now
		} else {
			h.repeated++
		}
	}
}

// arrived is when an id arrived. The caller holds h.mu.
func (h *handler) arrived(id int) (at time.Time, ok bool) {
	if id >= len(h.first) {
		return at, false
	}
	return h.first[id], !h.first[id].IsZero()
}

// outage begins one; what is published or on its way while it lasts is not a matter
// of latency.
func (w *world) outage() (over func()) {
	from := time.Now()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.outages = append(w.outages, outage{from, time.Now()})
	}
}

// down kills the server; up starts it again.
func (w *world) down() {
	w.unwatch()
	w.over = w.outage()
	w.s.Kill()
}

func (w *world) up() {
	w.t.Helper()
	w.s.Restart()
	w.over()
	w.watch(w.s.PID())
}

// pause waits for a time in [low, high).
func (w *world) pause(low, high time.Duration) {
	time.Sleep(low + time.Duration(w.rng.Int64N(int64(high-low))))
}

// during repeats a fault until its share of the time is over.
func (w *world) during(share time.Duration, fault func()) (times int) {
	for end := time.Now().Add(share); time.Now().Before(end); times++ {
		fault()
	}
	return times
}

// quiet ends the load.
func (w *world) quiet() {
	close(w.stop)
	w.wg.Wait()
}

// check ends the load, waits until everything acknowledged has arrived, and judges.
func (w *world) check() {
	w.t.Helper()
	w.quiet()
	lost := 0
	for end := time.Now().Add(arrivalBound); ; time.Sleep(50 * time.Millisecond) {
		if lost = w.missing(); lost == 0 || time.Now().After(end) {
			break
		}
	}
	peak := w.unwatch()
	disk := w.noise.end()
	published, p50, p99 := w.latencies()
	repeated, damaged := 0, 0
	for _, h := range w.well {
		h.mu.Lock() // repeats may still arrive
		repeated += h.repeated
		for id := range w.excused {
			if _, ok := h.arrived(id); !ok {
				damaged++
			}
		}
		h.mu.Unlock()
	}
	w.t.Logf("%d events acknowledged, %d requests refused; %d deliveries lost, %d with a damaged frame, %d repeated; publish to arrival p50 %s, p99 %s, the slowest publish %s; memory up to %d MiB; a synced write beside it took p99 %s, at most %s",
		published, w.refused, lost, damaged, repeated, p50, p99, w.slowest, peak>>20, disk.p99, disk.most)
	if published == 0 {
		w.t.Error("nothing was published: this showed nothing")
	}
	if lost > 0 {
		w.t.Errorf("%d acknowledged events did not arrive within %s of the last fault", lost, arrivalBound)
	}
	if bound := latencyBound + w.slack + disk.p99; p99 > bound {
		w.t.Errorf("p99 from publish to arrival is %s; allowed is %s and what the disk's own p99 is", p99, latencyBound+w.slack)
	}
	if len(w.outages) == 0 && w.refused > 0 {
		w.t.Errorf("%d publish requests were refused, though the server was there all the time; the last one %v", w.refused, w.refusal)
	}
	log := w.s.Log()
	if told := strings.Count(log, "the last write was cut short"); told < w.torn { // a kill may cut one itself
		w.t.Errorf("%d writes were torn and the log tells of %d", w.torn, told)
	}
	if told := strings.Count(log, "stored data is damaged and was taken out"); told != w.flipped {
		w.t.Errorf("%d bytes were flipped and the log tells of %d damaged pieces", w.flipped, told)
	}
	if peak > memoryBound {
		w.t.Errorf("the server took %d MiB; the bound is %d MiB", peak>>20, memoryBound>>20)
	}
}

// missing counts acknowledged events that a handler has not got, and names some.
func (w *world) missing() (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.well {
		h.mu.Lock()
		for id, began := range w.began {
			if began.IsZero() || h.wants != nil && !h.wants(id) || w.excused[id] != "" {
				continue
			}
			if _, ok := h.arrived(id); !ok {
				count++
			}
		}
		h.mu.Unlock()
	}
	return count
}

// latencies judges events whose way crossed no outage.
func (w *world) latencies() (published int, p50, p99 time.Duration) {
	var all []time.Duration
	for _, h := range w.well {
		h.mu.Lock()
		outages := w.outages
		for id, began := range w.began {
			at, ok := h.arrived(id)
			if began.IsZero() || !ok {
				continue
			}
			for len(outages) > 1 && outages[0].to.Before(began.Add(-time.Minute)) {
				outages = outages[1:]
			}
			if !slices.ContainsFunc(outages, func(o outage) bool { return began.Before(o.to) && at.After(o.from) }) {
				all = append(all, at.Sub(began))
			}
		}
		h.mu.Unlock()
	}
	for _, began := range w.began {
		if !began.IsZero() {
			published++
		}
	}
	if len(all) == 0 {
		return published, 0, 0
	}
	slices.Sort(all)
	return published, all[len(all)/2], all[len(all)*99/100]
}

// deliveryStatus is what the server tells of each event subscription of the topic.
type deliveryStatus struct {
	Open         int  `json:"openDeliveries"`
	InFlight     int  `json:"inFlight"`
	Lagging      bool `json:"lagging"`
	Matched      int  `json:"matchedEvents"`
	Delivered    int  `json:"deliveredEvents"`
	DeadLettered int  `json:"deadLetteredEvents"`
	Dropped      int  `json:"droppedEvents"`
}

func (w *world) status(name string) deliveryStatus {
	w.t.Helper()
	var body struct{ Properties deliveryStatus }
	w.s.Must("GET", w.topic+"/providers/Microsoft.EventGrid/eventSubscriptions/"+name+arm.DeliveryStatusPath+"/default", nil, &body)
	return body.Properties
}

// memory samples the resident memory of the server's process.
type memory struct {
	peak atomic.Int64
	end  chan struct{}
	done chan struct{}
}

func (m *memory) watch(pid int) {
	m.end, m.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(m.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			m.peak.Store(max(m.peak.Load(), resident(pid)))
			select {
			case <-m.end:
				return
			case <-tick.C:
			}
		}
	}()
}

func (m *memory) unwatch() (peak int64) {
	close(m.end)
	<-m.done
	return m.peak.Load()
}

// resident is what a process has in memory, 0 where /proc does not tell.
func resident(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(raw, []byte("VmRSS:"))
	line, _, _ := bytes.Cut(rest, []byte("kB"))
	kib, _ := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	return kib << 10
}

// noise measures the machine beside the server: a small synced write, again and
// again, on the same disk, from the moment at which it was due.
type noise struct {
	stop, done chan struct{}
	took       []time.Duration
	err        error
}

type diskNoise struct{ p99, most time.Duration }

func listen(t *testing.T, slow *throttle) *noise {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "synced"))
	if err != nil {
		t.Fatal(err)
	}
	n := &noise{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		if slow != nil { // the disk is as slow for it
			n.err = slow.enter()
		}
		for n.err == nil {
			var began time.Time
			select {
			case <-n.stop:
				n.err = f.Close()
				return
			case began = <-tick.C:
			}
			_, err := f.WriteAt(make([]byte, 1<<10), 0)
			n.err = errors.Join(err, f.Sync())
			n.took = append(n.took, time.Since(began))
		}
	}()
	return n
}

func (n *noise) end() diskNoise {
	close(n.stop)
	<-n.done
	if len(n.took) == 0 {
		return diskNoise{}
	}
	slices.Sort(n.took)
	return diskNoise{n.took[len(n.took)*99/100], n.took[len(n.took)-1]}
}
