package cli

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// arrival is one event that a handler got.
type arrival struct {
	at        time.Time
	id        string
	eventType string
	subject   string
	runID     string // data.runId of run events
}

// inbox holds what a child "carillon listen -o json" got, and lets others wait
// for it.
type inbox struct {
	mu       sync.Mutex
	arrivals []arrival
	byID     map[string]int // how often each event id arrived
	changed  chan struct{}  // closed and replaced with each arrival
}

func newInbox() *inbox {
	return &inbox{byID: map[string]int{}, changed: make(chan struct{})}
}

// fill reads the lines of the handler until they end.
func (b *inbox) fill(lines <-chan string) {
	for line := range lines {
		var l struct {
			ReceivedTime time.Time       `json:"receivedTime"`
			Event        json.RawMessage `json:"event"`
		}
		if json.Unmarshal([]byte(line), &l) != nil || len(l.Event) == 0 {
			continue // a handshake
		}
		b.add(arrival{at: l.ReceivedTime, id: text(l.Event, eventView.id), eventType: text(l.Event, eventView.eventType),
			subject: text(l.Event, eventView.subject), runID: text(l.Event, "data.runId")})
	}
}

func (b *inbox) add(a arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.arrivals = append(b.arrivals, a)
	b.byID[a.id]++
	close(b.changed)
	b.changed = make(chan struct{})
}

// first waits for the first arrival, from number skip on, that wants accepts.
func (b *inbox) first(ctx context.Context, skip int, wants func(arrival) bool) (arrival, bool) {
	for {
		b.mu.Lock()
		arrivals, changed := b.arrivals, b.changed
		b.mu.Unlock()
		for _, a := range arrivals[min(skip, len(arrivals)):] {
			if wants(a) {
				return a, true
			}
		}
		skip = len(arrivals)
		select {
		case <-changed:
		case <-ctx.Done():
			return arrival{}, false
		}
	}
}

// runs returns which runs arrived, and how many arrivals were repeats.
func (b *inbox) runs() (arrived map[string]bool, repeats int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	arrived = map[string]bool{}
	for _, a := range b.arrivals {
		arrived[a.runID] = true
	}
	for _, n := range b.byID {
		repeats += n - 1
	}
	return arrived, repeats
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.arrivals)
}
