package servertest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// pair is a request of two events of which each filter of TestFilterUpdate wants one,
// so that what arrives tells which filter the request met.
func pair(n int) string {
	one := func(side string) string {
		return fmt.Sprintf(`{"id":"%d-%s","subject":"s","eventType":"t","eventTime":"2026-01-01T00:00:00Z","dataVersion":"1","data":{"side":%q}}`, n, side, side)
	}
	return "[" + one("a") + "," + one("b") + "]"
}

func wants(side string) map[string]any {
	return map[string]any{"advancedFilters": []any{map[string]any{"operatorType": "StringIn", "key": "data.side", "values": []string{side}}}}
}

// TestFilterUpdate changes the filter of an event subscription while publishers go on.
// What was acknowledged before an update was sent meets the filter before it, what is
// published after its answer the one after it, and between the two there is one place
// in the log: no request is divided, none meets both filters or neither. It holds for
// PATCH and PUT, whenever the events are delivered, also after a kill -9.
func TestFilterUpdate(t *testing.T) {
	for _, tt := range []struct {
		name       string
		late, kill bool // the handler answers nothing until all is published; the server is killed before that
	}{
		{"live", false, false}, {"delivered later", true, false}, {"killed after the answer", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(t)
			handler := NewReceiver(t)
			free := make(chan struct{})
			open := sync.OnceFunc(func() { close(free) })
			defer open()
			if !tt.late {
				open()
			}
			handler.Answer = func(_ http.ResponseWriter, r *http.Request, _ []Received) {
				select {
				case <-free:
				case <-r.Context().Done():
				}
			}
			source, publish := s.Topic("orders")
			path := source + "/providers/Microsoft.EventGrid/eventSubscriptions/living"
			s.Subscribe(source, "living", handler.URL, map[string]any{"filter": wants("a")})

			p := startPairs(t, publish)
			sides := []string{"a"} // the filters, in their order
			var sent, answered []time.Time
			update := func(side string, by func(filter map[string]any)) {
				p.wait(30)
				sides, sent = append(sides, side), append(sent, time.Now())
				by(wants(side))
				answered = append(answered, time.Now())
			}
			patch := func(filter map[string]any) { s.Must("PATCH", path, map[string]any{"filter": filter}, nil) }
			update("b", patch)
			update("a", func(filter map[string]any) {
				s.Subscribe(source, "living", handler.URL, map[string]any{"filter": filter})
			})
			update("b", patch)
			p.wait(30)
			refused := wants("a")
			refused["includedEventTypes"] = []string{""}
			if _, err := s.Do(t.Context(), "PATCH", path, nil, map[string]any{"filter": refused}, nil, nil); !fault.Is(err, fault.Invalid) {
				t.Errorf("the bad update: %v", err)
			}
			p.wait(30)
			requests := p.stop()
			if tt.kill {
				s.Kill()
				s.Restart()
			}
			open()

			var met map[int]string
			handler.Wait(t, patience, func(events []Received) bool {
				met = map[int]string{}
				for _, e := range events {
					n, side, _ := strings.Cut(e.ID, "-")
					number, _ := strconv.Atoi(n)
					if before := met[number]; before != "" && before != side {
						t.Fatalf("request %d met both filters", number)
					}
					met[number] = side
				}
				return len(met) == len(requests)
			})
			for n, r := range requests {
				least, most := 0, 0 // the filters that r may have met
				for k := range sent {
					if r.began.After(answered[k]) {
						least = k + 1
					}
					if r.acked.After(sent[k]) {
						most = k + 1
					}
				}
				if !slices.Contains(sides[least:most+1], met[n]) {
					t.Errorf("request %d met %q, not one of %q", n, met[n], sides[least:most+1])
				}
			}
			if got := cuts(handler.Events()); !slices.Equal(got, sides) {
				t.Errorf("in the order of the log the filters were %q, want %q", got, sides)
			}
		})
	}
}

// cuts returns which filters events met, in the order of the log.
func cuts(events []Received) []string {
	slices.SortFunc(events, func(a, b Received) int {
		return strings.Compare(a.Header.Get("aeg-output-event-id"), b.Header.Get("aeg-output-event-id"))
	})
	var sides []string
	for _, e := range events {
		_, side, _ := strings.Cut(e.ID, "-")
		if len(sides) == 0 || sides[len(sides)-1] != side {
			sides = append(sides, side)
		}
	}
	return sides
}

// pairs are publishers that publish until they are stopped.
type pairs struct {
	done  chan struct{}
	fresh chan struct{} // an answer, while somebody waits for one
	wg    sync.WaitGroup

	mu       sync.Mutex
	requests map[int]pairRequest // those acknowledged
}

type pairRequest struct{ began, acked time.Time }

func startPairs(t *testing.T, publish func(string) error) *pairs {
	p := &pairs{done: make(chan struct{}), fresh: make(chan struct{}), requests: map[int]pairRequest{}}
	var next atomic.Int64
	for range 4 {
		p.wg.Go(func() {
			for {
				select {
				case <-p.done:
					return
				default:
				}
				n, began := int(next.Add(1)), time.Now()
				if err := publish(pair(n)); err != nil {
					t.Error(err)
					return
				}
				acked := time.Now()
				p.mu.Lock()
				p.requests[n] = pairRequest{began, acked}
				p.mu.Unlock()
				select {
				case p.fresh <- struct{}{}:
				default:
				}
			}
		})
	}
	t.Cleanup(func() { p.stop() })
	return p
}

// wait returns after n more answers.
func (p *pairs) wait(n int) {
	ended := make(chan struct{})
	go func() { p.wg.Wait(); close(ended) }()
	for range n {
		select {
		case <-p.fresh:
		case <-ended: // all publishers failed, and said so
			return
		}
	}
}

// stop ends the publishers and returns what was acknowledged.
func (p *pairs) stop() map[int]pairRequest {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	p.wg.Wait()
	return p.requests
}
