package broker

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

var simulations = flag.Int("simulations", 300, "how many seeded crash simulations to run")

// world is what the handlers of a simulation saw.
type world struct {
	mu   sync.Mutex
	seen map[string]int // "es/id" -> successful deliveries
	sent map[string]int // "es/id" -> incarnation of the last request
}

// crashTable names the arrows of the walk, as the simulation's kills hit them.
// Every kill falls before or after one of these: a frame is stored, the publisher
// is answered, a journal message is stored, a dead letter is stored or removed,
// the log is purged, a handler is asked, a handler has answered.

// TestCrashSimulation kills the process at a random arrow, several times in a row,
// and starts it again on what was stored. Then: every acknowledged event was
// delivered to, or dead-lettered for, every event subscription that wanted it; and
// nothing whose success the journal had stored is sent again.
func TestCrashSimulation(t *testing.T) {
	for seed := range *simulations {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, uint64(seed)) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := newStore()
	w := &world{seen: map[string]int{}, sent: map[string]int{}}
	acked := map[string]bool{}
	subs := []*resource.EventSubscription{
		testSubscription(0, filter.Filter{}),
		testSubscription(1, filter.Filter{SubjectBeginsWith: "a"}),
		testSubscription(2, filter.Filter{}), // fails often
		testSubscription(3, filter.Filter{}), // refuses some for good
	}
	subs[2].RetryPolicy.MaxDeliveryAttempts = 5
	published := 0
	rounds := 2 + rng.IntN(4)
	for round := range rounds {
		left := 5 + rng.IntN(120)
		if round == rounds-1 {
			left = -1
		}
		h := s.open(left)
		p := startProcess(t, h, w.senders(t, h, rng.Uint64(), round), subs...)
		var publishers sync.WaitGroup
		var mu sync.Mutex
		for range 1 + rng.IntN(3) {
			requests := 1 + rng.IntN(12)
			size := 1 + rng.IntN(5)
			mu.Lock()
			first := published
			published += requests * size
			mu.Unlock()
			publishers.Go(func() {
				for r := range requests {
					var batch []event.Event
					for i := range size {
						n := first + r*size + i
						batch = append(batch, testEvent(fmt.Sprint(n), []string{"a", "b"}[n%2]))
					}
					if p.Publish(t.Context(), testTopicUID, batch) != nil {
						return
					}
					mu.Lock()
					for i := range size {
						acked[fmt.Sprint(first+r*size+i)] = true
					}
					mu.Unlock()
					time.Sleep(time.Duration(r%3) * 10 * time.Millisecond)
				}
			})
		}
		publishers.Wait()
		if left < 0 {
			settleAll(t, p)
			if err := p.end(); err != nil {
				t.Errorf("clean stop: %v", err)
			}
			break
		}
		select {
		case <-h.killed:
		case <-time.After(time.Duration(rng.IntN(60_000)) * time.Millisecond):
			h.killMu.Lock()
			h.dead = true // quiet by now: end it here
			h.killMu.Unlock()
		}
		_ = p.end() // a killed process cannot say anything of use
	}
	w.check(t, s, subs, acked)
}

// settleAll waits until no delivery is open.
func settleAll(t *testing.T, p *process) {
	t.Helper()
	for range 100_000 {
		open := 0
		for _, s := range p.all() {
			open += p.Open(resource.UID(s.uid))
		}
		if open == 0 && p.queue.bytes.Load() == 0 {
			if err := p.journal.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			return
		}
		time.Sleep(time.Second)
	}
	t.Error("deliveries stay open")
}

func (w *world) senders(t *testing.T, h *handle, seed uint64, round int) map[string]Sender {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 2))
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n) == 0
	}
	sender := func(name string, judge func(id string) Response) Sender {
		return senderFunc(func(ctx context.Context, r *Request) Response {
			if h.arrow() != nil {
				<-ctx.Done() // a dead process asks nobody
				return Response{Outcome: Canceled}
			}
			ids := idsIn(t, r.Body)
			if len(ids) != 1 {
				t.Errorf("body holds %d events: %s", len(ids), r.Body)
			}
			key := name + "/" + ids[0]
			if w.flushed(h.store, name, ids[0], round) {
				t.Errorf("%s was sent again in round %d, though its success was stored", key, round)
			}
			answer := judge(ids[0])
			if answer.Outcome == Delivered {
				w.mu.Lock()
				w.seen[key]++
				w.mu.Unlock()
			}
			if h.arrow() != nil { // answered, and nobody there to hear it
				<-ctx.Done()
				return Response{Outcome: Canceled}
			}
			return answer
		})
	}
	ok := func(string) Response { return Response{Outcome: Delivered, Status: 200} }
	return map[string]Sender{
		"es0": sender("es0", ok),
		"es1": sender("es1", ok),
		"es2": sender("es2", func(string) Response {
			if chance(3) {
				return Response{Outcome: GenericError, Status: 500}
			}
			return ok("")
		}),
		"es3": sender("es3", func(id string) Response {
			if strings.HasSuffix(id, "7") {
				return Response{Outcome: BadRequest, Status: 400}
			}
			return ok("")
		}),
	}
}

// flushed reports whether the journal holds the success of an event's delivery,
// stored by an earlier process.
func (w *world) flushed(s *store, name, id string, round int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := &successes{at: map[string]bool{}}
	for _, m := range s.journal {
		if _, err := readEntries(m.Payload, found); err != nil {
			panic(err)
		}
	}
	for key := range found.at {
		var uid uint64
		var pos engine.Position
		if _, err := fmt.Sscanf(key, "%x %d", &uid, &pos); err != nil {
			panic(err)
		}
		if fmt.Sprintf("es%d", uid-0x500) != name {
			continue
		}
		raw := s.frames[pos.Seq()-1].Records[pos.Index()].Data
		if strings.Contains(string(raw), fmt.Sprintf(`{"id":%q`, id)) {
			return true
		}
	}
	return false
}

// successes collects the delivered attempts of a journal.
type successes struct {
	recovery
	at map[string]bool
}

func (s *successes) open(openEntry)                       {}
func (s *successes) closed(uint64, engine.Position, bool) {}
func (s *successes) lag(uint64, engine.Position)          {}
func (s *successes) breaker(breakerEntry)                 {}
func (s *successes) generation(generationEntry)           {}
func (s *successes) gone(uint64)                          {}
func (s *successes) restate(uint64)                       {}
func (s *successes) attempt(e attemptEntry) {
	if e.outcome == Delivered {
		s.at[fmt.Sprintf("%x %d", e.uid, e.pos)] = true
	}
}

// check holds the end of a simulation against what was promised.
func (w *world) check(t *testing.T, s *store, subs []*resource.EventSubscription, acked map[string]bool) {
	t.Helper()
	buried := map[string]bool{}
	for key := range s.table {
		uid, pos, err := parseLetterID(strings.Replace(key, "/", "-", 1))
		if err != nil {
			t.Fatal(err)
		}
		raw := string(s.frames[pos.Seq()-1].Records[pos.Index()].Data)
		id, _, _ := strings.Cut(strings.TrimPrefix(raw, `{"id":"`), `"`)
		buried[fmt.Sprintf("es%d/%s", uid-0x500, id)] = true
	}
	for id := range acked {
		for i, es := range subs {
			var n int
			_, _ = fmt.Sscan(id, &n)
			if i == 1 && n%2 == 1 {
				continue // its filter wants subjects that begin with a
			}
			key := es.Name + "/" + id
			if w.seen[key] == 0 && !buried[key] {
				t.Errorf("acknowledged event %s was neither delivered to nor dead-lettered for %s", id, es.Name)
			}
		}
	}
}
