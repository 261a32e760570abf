package broker

import (
	"runtime"
	"sync"
	"time"
)

// crew runs the workers of event subscriptions. Only so many attempts begin at a time as
// keep the processors busy: the next may begin when one of them has its answer, or has
// waited for it a while. An event that thousands want is so delivered over the few
// connections that are in use at a time, by the few goroutines that are at work, and not
// over thousands, each of them cold.
type crew struct {
	b     *Broker
	most  int           // turns at a time
	while time.Duration // how long a turn lasts at most
	busy  time.Duration // the same while processors are short

	mu      sync.Mutex
	waiting fifo[*subscription] // who wants a turn
	turns   int                 // that are not over
	oldest  *worker             // of them, in the order in which they began
	newest  *worker
	timer   *time.Timer // ends turns, while somebody waits
	armed   bool
	closed  bool
	short   time.Duration // how long a goroutine that is ready waits for a processor, a moving mean
}

// An attempt that waits for its handler keeps no processor busy, so its turn is short; but
// where processors are short, handlers on this machine wait for one as well, and to begin
// more would only make all of them slower.
//
// Destinations that failed last have a crew of their own, whose turns are long: attempts
// that begin together at thousands of them would keep all others waiting for a processor.
//
// Turns of two milliseconds let 32,000 attempts a second begin for each processor, more
// than it can make.
const (
	promptPerProcessor = 64
	promptWhile        = 2 * time.Millisecond
	promptBusy         = 10 * time.Millisecond
	hesitantMost       = 64
	hesitantWhile      = 25 * time.Millisecond
	shortWait          = 30 * time.Microsecond // for a processor: they are short
)

func newCrew(b *Broker, most int, while, busy time.Duration) *crew {
	return &crew{b: b, most: most, while: while, busy: busy}
}

// worker is a goroutine that makes one attempt after the other.
type worker struct {
	since      time.Time // its turn began
	turn       bool      // it is not over
	prev, next *worker
}

// start makes an attempt of s, which counts as a worker that starts, as soon as there is a
// turn for it.
func (c *crew) start(s *subscription, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
	case c.turns >= c.most:
		c.waiting.push(s)
		c.arm(now)
	default:
		c.launch(s, now)
	}
}

// close lets no attempt begin from now on.
func (c *crew) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.waiting = true, fifo[*subscription]{}
	if c.timer != nil {
		c.timer.Stop()
	}
}

// launch starts a worker. The caller holds c.mu.
func (c *crew) launch(s *subscription, now time.Time) {
	w := new(worker)
	c.begin(w, now)
	c.b.workers.Go(func() { c.run(w, s) })
}

// run makes attempts until there is no turn for another one.
func (c *crew) run(w *worker, s *subscription) {
	for s != nil {
		on, now := s.work()
		if on != nil && on != c {
			on.start(s, now)
			on = nil
		}
		s = c.following(w, s, on != nil, now)
	}
}

// following ends the turn of w and begins the next one, which it returns: s again only
// where nobody else waits.
func (c *crew) following(w *worker, s *subscription, more bool, now time.Time) *subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.turn {
		c.end(w)
	}
	if more && !c.closed {
		if c.waiting.len() == 0 && c.turns < c.most {
			c.begin(w, now)
			return s
		}
		c.waiting.push(s)
	}
	if c.waiting.len() == 0 || c.turns >= c.most {
		c.arm(now)
		return nil
	}
	c.begin(w, now)
	return c.waiting.pop()
}

// begin begins a turn. The caller holds c.mu.
func (c *crew) begin(w *worker, now time.Time) {
	w.since, w.turn = now, true
	w.prev, w.next = c.newest, nil
	if c.newest == nil {
		c.oldest = w
	} else {
		c.newest.next = w
	}
	c.newest = w
	c.turns++
}

// end ends a turn. The caller holds c.mu.
func (c *crew) end(w *worker) {
	if w.prev == nil {
		c.oldest = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		c.newest = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.turn = false
	c.turns--
}

// arm sets the timer where somebody waits. The caller holds c.mu.
func (c *crew) arm(now time.Time) {
	if c.waiting.len() == 0 || c.armed || c.oldest == nil {
		return
	}
	c.armed = true
	d := max(c.oldest.since.Add(c.while).Sub(now), c.while/4) // of those that go on, soon again
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.expire)
	} else {
		c.timer.Reset(d)
	}
}

// expire ends the turns that have lasted long enough, and begins others in their place.
func (c *crew) expire() {
	ready := time.Now()
	runtime.Gosched()
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	c.short += (now.Sub(ready) - c.short) / 8
	for w := c.oldest; w != nil && now.Sub(w.since) >= c.while; {
		next := w.next
		if c.short < shortWait || now.Sub(w.since) >= c.busy {
			c.end(w)
		}
		w = next
	}
	for c.waiting.len() > 0 && c.turns < c.most {
		c.launch(c.waiting.pop(), now)
	}
	c.arm(now)
}
