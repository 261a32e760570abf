package faults

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/arm"
	"github.com/carillon-events/carillon/internal/broker"
	"github.com/carillon-events/carillon/internal/servertest"
)

// misbehaviours are what a handler may do instead of answering. Each runs until the
// handler is told to stop.
var misbehaviours = []struct {
	name string
	do   func(w http.ResponseWriter, r *http.Request, stop <-chan struct{})
}{
	{"hangs", func(_ http.ResponseWriter, r *http.Request, stop <-chan struct{}) {
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	}},
	{"resets", func(w http.ResponseWriter, _ *http.Request, _ <-chan struct{}) {
		if conn := hijack(w); conn != nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}},
	{"trickles", func(w http.ResponseWriter, _ *http.Request, stop <-chan struct{}) {
		conn := hijack(w)
		if conn == nil {
			return
		}
		defer func() { _ = conn.Close() }()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		const head = "HTTP/1.1 200 OK\r\nX-Never-Ends: "
		for i := 0; ; i++ {
			if _, err := conn.Write([]byte{head[min(i, len(head)-1)]}); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}},
	{"garbage", func(w http.ResponseWriter, _ *http.Request, _ <-chan struct{}) {
		if conn := hijack(w); conn != nil {
			noise := make([]byte, 4<<10)
			for i := range noise {
				noise[i] = byte(rand.Uint32())
			}
			_, _ = conn.Write(noise)
			_ = conn.Close()
		}
	}},
	{"circles", func(w http.ResponseWriter, r *http.Request, _ <-chan struct{}) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}},
	{"lies", func(w http.ResponseWriter, _ *http.Request, _ <-chan struct{}) { // about its length
		if conn := hijack(w); conn != nil {
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nten bytes."))
			_ = conn.Close()
		}
	}},
	{"floods", func(w http.ResponseWriter, _ *http.Request, stop <-chan struct{}) { // 100 MB
		w.Header().Set("Content-Length", strconv.Itoa(100<<20))
		chunk := bytes.Repeat([]byte("flood"), 13<<10)
		for sent := 0; sent < 100<<20; {
			n, err := w.Write(chunk[:min(len(chunk), 100<<20-sent)])
			if sent += n; err != nil {
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}},
	{"refuses", func(w http.ResponseWriter, _ *http.Request, _ <-chan struct{}) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}},
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	return conn
}

// testHandlers has a handler of every bad kind beside two that are well, on one
// topic. None of them may hold the others up or fill the memory, and each event of
// theirs is delivered, open, lagging or a dead letter.
func testHandlers(t *testing.T, rng *rand.Rand, share time.Duration) {
	w := newWorld(t, rng, 2)
	stop := w.misbehave()
	w.load()
	w.during(share, func() { time.Sleep(100 * time.Millisecond) })
	w.check()
	for _, m := range misbehaviours {
		s := w.status(m.name)
		if accounted := s.Delivered + s.DeadLettered + s.Open; s.Matched == 0 || s.Dropped > 0 || accounted < s.Matched && !s.Lagging {
			t.Errorf("%s: %+v: %d matched events are neither delivered nor open", m.name, s, s.Matched-accounted)
		}
	}
	stop()
}

// misbehave makes an event subscription for each misbehaviour.
func (w *world) misbehave() (stop func()) {
	w.t.Helper()
	end := make(chan struct{})
	for _, m := range misbehaviours {
		receiver := servertest.NewReceiver(w.t)
		receiver.Forget = true
		receiver.Answer = func(rw http.ResponseWriter, r *http.Request, _ []servertest.Received) { m.do(rw, r, end) }
		w.s.Subscribe(w.topic, m.name, receiver.URL, nil)
	}
	closed := false
	stop = func() {
		if !closed {
			closed = true
			close(end)
		}
	}
	w.t.Cleanup(stop) // before the receivers are closed, which wait for their requests
	return stop
}

// account asks the server what became of some acknowledged events for each handler
// that misbehaves. Each has a place: delivered, open, still in the log for an event
// subscription that lags, or a dead letter.
func (w *world) account(samples int) {
	w.t.Helper()
	placed := []broker.StoryState{
		broker.StoryNotHandedOut, broker.StoryQueued, broker.StoryInFlight, broker.StoryWaitingForRetry,
		broker.StoryDeadLettering, broker.StoryDeadLettered, broker.StoryDelivered,
	}
	var acknowledged []int
	for id, began := range w.began {
		if !began.IsZero() && w.excused[id] == "" {
			acknowledged = append(acknowledged, id)
		}
	}
	states := map[broker.StoryState]int{}
	for _, m := range misbehaviours {
		for range samples {
			id := strconv.Itoa(acknowledged[w.rng.IntN(len(acknowledged))])
			var told struct{ Delivery broker.Story }
			w.s.Must("POST", w.topic+"/providers/Microsoft.EventGrid/eventSubscriptions/"+m.name+arm.ExplainPath, map[string]any{"eventId": id}, &told)
			states[told.Delivery.State]++
			if !slices.Contains(placed, told.Delivery.State) {
				w.t.Errorf("event %s is acknowledged, and for the handler that %s it is %s: %s", id, m.name, told.Delivery.State, told.Delivery.Text)
			}
		}
	}
	w.t.Logf("acknowledged events of handlers that misbehave: %v", states)
}
