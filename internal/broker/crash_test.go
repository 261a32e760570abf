package broker

import (
	"context"
	"encoding/json"
	"flag"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

var (
	simulations = flag.Int("simulations", 120, "how many seeded crash simulations to run")
	firstSeed   = flag.Int("first-seed", 0, "seed of the first crash simulation")
)

// TestCrashSimulation kills the process at a random arrow, several times in a row,
// and starts it again on what was stored, while publishers publish, filters
// change, event subscriptions come and go, handlers fail, block and refuse, dead
// letters cannot be stored, and others are replayed. A kill falls before or after
// one of these: a frame is stored, the publisher is answered, a journal message is
// stored, a dead letter is stored or removed, also the one that another replaced, an event is copied to the park or
// removed from it (others settle meanwhile), history is purged, a handler is asked, a handler has answered, a
// receiver has got its events.
// Bounds are small, so event subscriptions lag; so is the log's quota, so what waits
// for a retry is parked, where the park has room and does not fail. In most seeds
// messages of the journal are so short that a flush takes many, and so little may wait
// for one that workers and dispatcher do. In every third seed all is published to a
// domain, some event subscriptions are its own and the others those of its topics. In every
// other seed publishers wait longer for their answers, and some starts find a log that
// lost the end of what nobody was answered for, as in a power cut, while journal, park
// and dead letters tell of it.
//
// Then every acknowledged event was delivered to, or dead-lettered for, every
// event subscription whose filter of its time wanted it, and went to no other;
// nothing was sent again after the journal had stored its success, nor received again after
// the answer to its acknowledgement; no process
// delivered an event twice; no event was dropped for want of its body; nothing is
// open, the park is empty, and the dead letter of whatever was delivered in the end is
// gone. At every start each dead letter is in the list once. What is told at the end of an
// event that got the place of a lost one is its own.
func TestCrashSimulation(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // little is kept for long
	ready, open := maxReady, maxOpen
	maxReady, maxOpen = 8, 24
	defer func() { maxReady, maxOpen = ready, open }()
	defer func() {
		t.Logf("%d copies in the park, %d read", parkedCopies.Load(), parkedReads.Load())
		if *simulations >= 100 && !t.Failed() && (parkedCopies.Load() < uint64(*simulations) || parkedReads.Load() < uint64(*simulations)) {
			t.Error("simulations hardly park")
		}
		t.Logf("%d dead letters stood beside those that replaced them", halfLetters.Load())
		if *simulations >= 100 && !t.Failed() && halfLetters.Load() < uint64(*simulations)/10 {
			t.Error("simulations hardly stop between a dead letter and the removal of the one it replaces")
		}
		t.Logf("%d cuts of %d frames; the journal told of %d", cuts.Load(), lostFrames.Load(), toldFrames.Load())
		if *simulations >= 100 && !t.Failed() && toldFrames.Load() < uint64(*simulations)/2 {
			t.Error("simulations hardly lose what the journal tells of")
		}
		t.Logf("%d stops; %d flushes of several messages, %d cut off", stops.Load(), longFlushes.Load(), cutFlushes.Load())
		if *simulations >= 100 && !t.Failed() && stops.Load() < 25*uint64(*simulations) {
			t.Error("simulations hardly stop")
		}
		if *simulations >= 100 && !t.Failed() && (longFlushes.Load() < 10*uint64(*simulations) || cutFlushes.Load() < uint64(*simulations)/4) {
			t.Error("simulations hardly cut flushes off")
		}
	}()
	t.Run("seeds", func(all *testing.T) {
		for seed := *firstSeed; seed < *firstSeed+*simulations; seed++ {
			all.Run("seed="+strconv.Itoa(seed), func(t *testing.T) {
				t.Parallel()
				if !all.Failed() {
					synctest.Test(t, func(t *testing.T) { simulate(t, uint64(seed)) })
				}
			})
		}
	})
}

// delivered names an event and an event subscription.
type delivered struct {
	uid uint64
	id  int
}

// published is one event of a simulation and the ticks of its publish call.
type published struct {
	began, ended int
	acked        bool
}

// version is a filter that an event subscription had, and the ticks of the call
// that set it: done is 0 until it is known to be in force.
type version struct {
	wants       func(id int) bool
	began, done int
}

// simulation is what outlives the processes of a simulation.
type simulation struct {
	t     *testing.T
	store *store
	world world
	topic resource.UID // or domain that all is published to

	mu       sync.Mutex
	rng      *rand.Rand
	tick     int
	round    int
	events   []published
	versions map[uint64][]version
	records  map[string]*resource.EventSubscription // what the management plane has stored
	deleted  map[uint64]bool
	picks    map[uint64]string  // the topic of the domain that an event subscription is of
	seen     map[delivered]int  // process of the last success, +1
	answered map[delivered]bool // acknowledged by a receiver who heard that it was taken
	stored   map[delivered]bool
	flush    [][]byte                 // messages of the flush that is not whole yet
	read     uint64                   // place of the last dead letter that was read in the list
	removed  map[delivered]bool       // whose dead letter an operator may have removed
	places   map[engine.Position]bool // of events that the log lost
	sends    int
}

// simMetrics nobody reads.
var simMetrics = newMetrics(nil)

// These are of all simulations.
var cuts, lostFrames, toldFrames, stops, halfLetters, parkedCopies, parkedReads, longFlushes, cutFlushes atomic.Uint64

func (m *simulation) now() int { m.tick++; return m.tick }

// chance is true once in n times.
func (m *simulation) chance(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n) == 0
}

func (m *simulation) intN(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n)
}

// filters of a simulation: subjects are a for even ids, b for odd ones.
var simFilters = []struct {
	filter filter.Filter
	wants  func(id int) bool
}{
	{filter.Filter{}, func(int) bool { return true }},
	{filter.Filter{SubjectBeginsWith: "a"}, func(id int) bool { return id%2 == 0 }},
	{filter.Filter{SubjectBeginsWith: "b"}, func(id int) bool { return id%2 == 1 }},
	{filter.Filter{SubjectBeginsWith: "nobody"}, func(int) bool { return false }},
}

// Handlers of a simulation, by the name of the event subscription.
const (
	simFine     = "es0"
	simChanging = "es1" // its filter changes
	simFailing  = "es2" // fails often
	simRefusing = "es3" // refuses some for good, not always when they are replayed
	simBatching = "es4" // gets batches, and refuses those with a certain event
	simBlocking = "es5" // takes long to answer: it lags
	simFleeting = "es6" // is deleted and created again
	simPulling  = "es7" // has receivers, most of the time
)

const simBatch = 5

// simTopics are the topics of the domain that these are event subscriptions of; the
// others are the domain's own.
var simTopics = map[string]string{simFailing: "x", simRefusing: "x", simBatching: "y", simFleeting: "y"}

// simTopic is the topic of the domain that an event is for.
func simTopic(id int) string { return [2]string{"x", "y"}[id/2%2] }

// subscribe is the record of a new event subscription.
func (m *simulation) subscribe(n int, uid resource.UID) *resource.EventSubscription {
	es := testSubscription(n, filter.Filter{})
	if m.topic == testDomainUID {
		es = domainSubscription(n, simTopics[es.Name], filter.Filter{})
		m.picks[uint64(uid)] = es.DomainTopic
	}
	es.UID = uid
	m.records[es.Name] = es
	return es
}

// world is how much happens in a simulation. What is left open in one life is there
// for the next, so in many short lives little is enough to meet every arrow; a crowd
// is what it takes to lag far behind. Most lives publish nothing: a stop costs
// what the life before it did, and what they find open is theirs to lose.
type world struct {
	kills                       [2]int // at least, and up to so many more
	life                        int    // most arrows until a kill
	busy                        int    // one life in so many publishes, and has changes and replays
	publishers, requests, batch int    // most in one life
	message, unflushed          int    // bounds of a flush; 0 = as they are
	cuts                        bool   // publishers wait for their answers, and the log may lose its end
}

// worldOf chooses: every fourth simulation is a crowd, and in three of four a flush
// takes several messages, which are as many arrows more.
func worldOf(seed uint64) world {
	w := world{kills: [2]int{20, 30}, life: 60, busy: 3, publishers: 2, requests: 3, batch: 3}
	if seed%4 == 0 {
		w = world{kills: [2]int{10, 20}, life: 150, busy: 4, publishers: 3, requests: 12, batch: 5}
	}
	if rng := rand.New(rand.NewPCG(seed, 2)); rng.IntN(4) > 0 {
		w.message, w.unflushed = 20+rng.IntN(300), 100+rng.IntN(4000)
		w.life *= 3
	}
	w.cuts = seed%2 == 1
	return w
}

func simulate(t *testing.T, seed uint64) {
	m := &simulation{
		t: t, store: newStore(), rng: rand.New(rand.NewPCG(seed, 1)),
		versions: map[uint64][]version{}, records: map[string]*resource.EventSubscription{}, deleted: map[uint64]bool{},
		topic: testTopicUID, picks: map[uint64]string{},
		removed: map[delivered]bool{}, places: map[engine.Position]bool{},
		seen: map[delivered]int{}, stored: map[delivered]bool{}, answered: map[delivered]bool{},
	}
	m.store.noted = m.note
	m.store.quota = int64(400 + m.rng.IntN(4000)) // a frame takes 100, a copy in the park 10
	if seed%3 == 0 {
		m.topic = testDomainUID
	}
	for n := range 8 {
		es := m.subscribe(n, resource.UID(0x500+n))
		m.versions[uint64(es.UID)] = []version{{wants: simFilters[0].wants}}
	}
	m.records[simFailing].RetryPolicy.MaxDeliveryAttempts = 5
	m.records[simBatching].Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: simBatch, PreferredBatchSizeInKilobytes: 1}}
	pulling := m.records[simPulling]
	pulling.Destination, pulling.DeliverySchema = resource.Destination{Type: resource.DestinationPull, Target: &resource.Target{}}, event.CloudEventSchemaV1_0
	m.world = worldOf(seed)
	rounds := m.world.kills[0] + m.rng.IntN(m.world.kills[1])
	for m.round = range rounds {
		m.process(2+m.intN(m.world.life), true)
	}
	m.round++
	m.process(-1, true)
	m.round++
	sent := m.sends
	m.process(-1, false)
	if m.sends != sent {
		t.Errorf("after a clean stop with nothing open, a start sent %d requests", m.sends-sent)
	}
	m.check()
}

// process runs one process until it is killed or, with left < 0, until everything
// is settled.
func (m *simulation) process(left int, publishing bool) {
	if m.world.cuts && publishing {
		m.cut()
	}
	h := m.store.open(left)
	if m.world.cuts {
		m.store.takeOver()
	}
	h.tune = func(c *Config) {
		c.Window, c.Retention, c.metrics = 500, 30*time.Second, simMetrics
		c.Journal = watchedJournal{c.Journal, func([]byte) {
			if m.chance(2) {
				time.Sleep(time.Duration(m.intN(10)) * time.Millisecond)
			}
		}}
		c.NewSender = func(es *resource.EventSubscription) (Sender, error) { return m.newSender(h, es), nil }
	}
	h.made = func(b *Broker) {
		m.lettersOnce(b)
		b.park.pause = m.pause
		if m.world.message > 0 && left >= 0 { // what is not stopped proves nothing by short messages
			b.journal.maxMessage, b.journal.maxUnflushed = m.world.message, m.world.unflushed
		}
	}
	h.failPut = func() bool { return m.chance(4) }
	h.failDrop = func() bool { return m.chance(2) }
	h.failPark = func() bool { m.pause(); return m.chance(10) }
	h.beforeDelete = m.pause
	if m.world.cuts && left >= 0 {
		h.beforeAnswer = func() { time.Sleep(time.Duration(m.intN(300)) * time.Millisecond) }
	}
	var subs []*resource.EventSubscription
	for _, n := range []string{simFine, simChanging, simFailing, simRefusing, simBatching, simBlocking, simFleeting, simPulling} {
		if es := m.records[n]; es != nil {
			subs = append(subs, es)
		}
	}
	p := startProcess(m.t, h, nil, subs...)
	if !h.isDead() {
		m.mu.Lock()
		for _, es := range subs { // what an earlier process left unanswered is in force now
			if v := m.versions[uint64(es.UID)]; v[len(v)-1].done == 0 {
				v[len(v)-1].done = m.now()
			}
		}
		m.mu.Unlock()
	}
	defer func() {
		for _, s := range p.all() {
			if n := s.dropped.Load(); n > 0 {
				m.t.Errorf("%d events of %x were dropped", n, s.uid)
			}
			m.inOrder(s)
		}
	}()
	ctx, leave := context.WithCancel(m.t.Context())
	var receivers sync.WaitGroup
	defer receivers.Wait()
	defer leave()
	if left < 0 || !m.chance(4) {
		pulling := m.records[simPulling] // change writes the map meanwhile
		for range 2 {
			receivers.Go(func() { m.receive(ctx, p, pulling) })
		}
	}
	var busy sync.WaitGroup
	if publishing && (m.round == 0 || m.chance(m.world.busy)) {
		for range 1 + m.intN(m.world.publishers) {
			busy.Go(func() { m.publish(p) })
		}
		busy.Go(func() { m.change(p) })
		busy.Go(func() { m.replay(p) })
	}
	busy.Wait()
	if left < 0 {
		settleAll(m.t, p)
		time.Sleep(2 * retainEvery) // what is settled leaves the park
		leave()
		receivers.Wait()
		m.histories(p)
		if err := p.end(); err != nil {
			m.t.Errorf("clean stop: %v", err)
		}
		m.lettersOnce(p.Broker)
		return
	}
	select {
	case <-h.killed:
	case <-time.After(time.Duration(m.intN(60_000)) * time.Millisecond):
		h.killMu.Lock()
		h.dead = true // quiet by now: end it here
		h.killMu.Unlock()
	}
	stops.Add(1)
	leave()
	receivers.Wait()
	_ = p.end() // a killed process cannot say anything of use
}

// cut takes the end of the log away, as far back as nobody was answered at most.
func (m *simulation) cut() {
	frames := m.store.frames
	least := len(frames)
	for least > 0 && frames[least-1].Seq >= m.store.first && !m.acked(frames[least-1]) {
		least--
	}
	if least == len(frames) || m.chance(3) {
		return
	}
	end := least + m.intN(len(frames)-least)
	for _, f := range frames[end:] {
		for i := range f.Records {
			m.places[f.Position(i)] = true
		}
	}
	cuts.Add(1)
	lostFrames.Add(uint64(len(frames) - end))
	if r, err := recoverJournal(m.t.Context(), fakeJournal{&handle{store: m.store}}); err != nil {
		m.t.Error(err)
	} else if r.w > uint64(end) {
		toldFrames.Add(r.w - uint64(end))
	}
	m.store.frames = frames[:end:end]
}

// acked reports whether the publisher of a frame was answered.
func (m *simulation) acked(f *engine.Frame) bool {
	for i := range f.Records {
		if f.Records[i].Kind == engine.KindEvent && m.events[idOf(f.Records[i].Data)].acked {
			return true
		}
	}
	return false
}

// histories checks that what is told of the events in places that were lost once is
// theirs. All is settled.
func (m *simulation) histories(p *process) {
	for pos := range m.places {
		e, found, err := p.eventAt(m.t.Context(), resource.Stream{Topic: m.topic}, pos.String())
		if err != nil {
			m.t.Error(err)
		}
		if !found {
			continue // purged, or nobody has the place yet
		}
		for _, s := range p.all() {
			x, _, err := p.Explain(m.t.Context(), resource.UID(s.uid), &e)
			if err != nil {
				m.t.Error(err)
				continue
			}
			key := delivered{s.uid, idOf(e.Event)}
			for _, a := range x.Delivery.Attempts {
				if a.Start.Before(e.PublishTime.Truncate(time.Millisecond)) {
					m.t.Errorf("event %d at %s was published at %s, and for %x an attempt of %s is told of it", key.id, pos, e.PublishTime, s.uid, a.Start)
				}
			}
			if x.Delivery.State == StoryDelivered && m.seen[key] == 0 {
				m.t.Errorf("event %d at %s is told to be delivered to %x", key.id, pos, s.uid)
			}
			if d := x.Delivery.DeadLetter; d != nil {
				if l, err := p.DeadLetter(m.t.Context(), d.ID); err != nil || l.Sequencer != e.Sequencer {
					m.t.Errorf("event %d at %s is told to have the dead letter of another for %x: %v", key.id, pos, s.uid, err)
				}
			}
		}
	}
}

// pause lets others go on while a copy is made, and between two who name it.
func (m *simulation) pause() {
	if m.chance(2) {
		time.Sleep(time.Duration(m.intN(20)) * time.Millisecond)
	}
}

// inOrder checks that the deliveries of an event subscription stand as before says.
func (m *simulation) inOrder(s *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range [2][]*delivery{s.order, s.parked} {
		var last engine.Position
		for _, d := range list {
			if last = max(last, engine.At(s.b.startLast, math.MaxUint16)); d.pos.Seq() > s.b.startLast {
				if d.pos <= last {
					m.t.Errorf("%x: the delivery of %s stands behind %s", s.uid, d.pos, last)
				}
				last = d.pos
			} else if last.Seq() > s.b.startLast {
				m.t.Errorf("%x: the delivery of %s, which the start found in the log, stands behind %s", s.uid, d.pos, last)
			}
		}
	}
}

// lettersOnce checks that the list has each dead letter once, and as many as there are.
// Nobody may be storing any. What stands at a place never changes, so a letter is read
// the first time that it is met there.
func (m *simulation) lettersOnce(b *Broker) {
	listed := map[string]bool{}
	list := func(id string) {
		if listed[id] {
			m.t.Errorf("dead letter %s is in the list twice at the start of round %d", id, m.round)
		}
		listed[id] = true
	}
	for e, err := range b.cfg.DeadLetters.Since(m.t.Context(), "", 0) {
		if err != nil {
			m.t.Error(err)
			return
		}
		if e.Seq <= m.read {
			list(idOfKey(e.Key))
		}
	}
	for l, err := range b.DeadLetters(m.t.Context(), 0, m.read) {
		if err != nil {
			m.t.Error(err)
			return
		}
		list(l.ID)
		m.read = l.Place
	}
	if keys, err := b.cfg.DeadLetters.Keys(m.t.Context(), ""); err != nil || len(keys) != len(listed) {
		m.t.Errorf("%d dead letters are listed of %d: %v", len(listed), len(keys), err)
	}
}

// publish makes some requests, one after the other, or, where answers come late, without
// waiting for them.
func (m *simulation) publish(p *process) {
	var unanswered sync.WaitGroup
	defer unanswered.Wait()
	for r := range 1 + m.intN(m.world.requests) {
		if m.world.cuts {
			unanswered.Go(func() { m.request(p) })
		} else if !m.request(p) {
			return
		}
		time.Sleep(time.Duration(r%3) * 10 * time.Millisecond)
	}
}

// request publishes some events; false when nobody answered.
func (m *simulation) request(p *process) bool {
	size := 1 + m.intN(m.world.batch)
	m.mu.Lock()
	first := len(m.events)
	began := m.now()
	for range size {
		m.events = append(m.events, published{began: began})
	}
	m.mu.Unlock()
	batch := make([]event.Event, size)
	for i := range batch {
		batch[i] = testEvent(strconv.Itoa(first+i), []string{"a", "b"}[(first+i)%2])
		if m.topic == testDomainUID {
			batch[i].DomainTopic = []byte(simTopic(first + i))
		}
	}
	err := p.Publish(m.t.Context(), m.topic, batch)
	m.mu.Lock()
	defer m.mu.Unlock()
	ended := m.now()
	for i := range size {
		e := &m.events[first+i]
		e.ended, e.acked = ended, err == nil
	}
	return err == nil
}

// receive receives until ctx ends, and says of each event what a receiver may.
func (m *simulation) receive(ctx context.Context, p *process, es *resource.EventSubscription) {
	uid := uint64(es.UID)
	for ctx.Err() == nil {
		r, err := p.Receive(ctx, es.UID, 1+m.intN(5), time.Minute)
		if err != nil {
			return
		}
		if p.h.arrow() != nil {
			return // a dead process answers nobody
		}
		tokens := map[Answer][]string{}
		var acknowledged []delivered
		m.mu.Lock()
		for _, e := range r.Events {
			id := idOf(e.Event)
			key := delivered{uid, id}
			if m.answered[key] || m.stored[key] {
				m.t.Errorf("event %d was received in round %d, though its acknowledgement was stored (answered: %v)", id, m.round, m.answered[key])
			}
			m.sends++
			switch n := m.rng.IntN(10); {
			case n == 0: // its lock ends
			case n == 1:
				tokens[Release] = append(tokens[Release], e.LockToken)
			case n == 2:
				tokens[Reject] = append(tokens[Reject], e.LockToken)
			default:
				m.seen[key] = m.round + 1
				acknowledged = append(acknowledged, key)
				tokens[Acknowledge] = append(tokens[Acknowledge], e.LockToken)
			}
		}
		m.mu.Unlock()
		for _, a := range []Answer{Acknowledge, Release, Reject} {
			if len(tokens[a]) == 0 {
				continue
			}
			problems, err := p.AnswerReceived(ctx, es.UID, a, time.Duration(m.intN(2))*10*time.Second, tokens[a])
			if err != nil {
				return
			}
			m.mu.Lock()
			for i, problem := range problems {
				if problem != nil {
					m.t.Errorf("answer %d: %v", a, problem)
				} else if a == Acknowledge {
					m.answered[acknowledged[i]] = true
				}
			}
			m.mu.Unlock()
		}
	}
}

// change alters a filter, deletes an event subscription and creates another one
// under its name, as the management plane would: the record first.
func (m *simulation) change(p *process) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second) // a dead process answers nothing
	defer cancel()
	for range m.intN(4) {
		time.Sleep(time.Duration(m.intN(40)) * time.Millisecond)
		m.mu.Lock()
		es := *m.records[simChanging]
		f := simFilters[m.rng.IntN(len(simFilters))]
		es.Filter = f.filter
		es.FilterGeneration++
		m.records[simChanging] = &es
		m.versions[uint64(es.UID)] = append(m.versions[uint64(es.UID)], version{wants: f.wants, began: m.now()})
		m.mu.Unlock()
		if !m.activate(ctx, p, &es) {
			return
		}
	}
	if !m.chance(3) {
		return
	}
	m.mu.Lock()
	old := m.records[simFleeting]
	delete(m.records, simFleeting)
	if old != nil {
		m.deleted[uint64(old.UID)] = true
		m.versions[uint64(old.UID)] = append(m.versions[uint64(old.UID)], version{wants: simFilters[3].wants, began: m.now()})
	}
	m.mu.Unlock()
	if old != nil {
		if p.Deactivate(ctx, old.UID) != nil {
			return
		}
		m.inForce(old.UID)
	}
	m.mu.Lock()
	es := m.subscribe(6, resource.UID(0x600+m.tick))
	m.versions[uint64(es.UID)] = []version{{wants: simFilters[3].wants}, {wants: simFilters[0].wants, began: m.now()}}
	m.mu.Unlock()
	m.activate(ctx, p, es)
}

func (m *simulation) activate(ctx context.Context, p *process, es *resource.EventSubscription) bool {
	if p.Activate(ctx, es) != nil {
		return false
	}
	m.inForce(es.UID)
	return true
}

// inForce notes that the newest version is.
func (m *simulation) inForce(uid resource.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.versions[uint64(uid)]
	v[len(v)-1].done = m.now()
}

// replay asks for some dead letters again, and has some removed meanwhile.
func (m *simulation) replay(p *process) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	var removals sync.WaitGroup
	defer removals.Wait()
	time.Sleep(time.Duration(m.intN(100)) * time.Millisecond)
	for l, err := range p.DeadLetters(ctx, 0, 0) {
		if err != nil {
			m.t.Error(err)
			return
		}
		if m.chance(10) {
			uid, _, _ := parseLetterID(l.ID)
			m.mu.Lock()
			m.removed[delivered{uid, idOf(l.Event)}] = true
			m.mu.Unlock()
			removals.Go(func() { _ = p.RemoveDeadLetter(ctx, l.ID) })
		}
		if m.chance(2) && p.Replay(ctx, l.ID) != nil && p.h.isDead() {
			return
		}
	}
}

// settleAll waits until everything is handed out and no delivery is open.
func settleAll(t *testing.T, p *process) {
	t.Helper()
	for i := range 10_000 {
		_, last := p.cfg.Log.Bounds()
		handedOut := p.journal.watermark() >= last // asked first: a delivery may open until then
		open := 0
		for _, s := range p.all() {
			open += p.Open(resource.UID(s.uid))
		}
		if handedOut && open == 0 {
			if err := p.journal.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			return
		}
		time.Sleep(time.Duration(min(i+1, 60)) * time.Second)
	}
	t.Error("deliveries stay open")
}

// note keeps which successes the journal has stored: those of whole flushes.
func (m *simulation) note(payload []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	head, _, err := readHeader(payload)
	if err != nil {
		m.t.Error(err)
	}
	if head.part == 0 {
		if len(m.flush) > 0 {
			cutFlushes.Add(1)
		}
		m.flush = nil
	}
	if m.flush = append(m.flush, payload); head.left > 0 {
		return
	}
	if head.part > 0 {
		longFlushes.Add(1)
	}
	found := &successes{replayed: map[string]bool{}}
	for _, payload := range m.flush {
		if _, err := readEntries(payload, found); err != nil {
			m.t.Error(err)
		}
	}
	m.flush = nil
	for _, e := range found.all {
		id := 0
		if key := letterKey(deliveryID(e.uid, e.pos)); found.replayed[key] {
			id = m.idOfLetter(key)
		} else {
			id = m.idAt(e.pos)
		}
		m.stored[delivered{e.uid, id}] = true
	}
}

// idAt is the id of the event at a position. The caller holds the store's lock, or
// is alone.
func (m *simulation) idAt(pos engine.Position) int {
	return idOf(m.store.frames[pos.Seq()-1].Records[pos.Index()].Data)
}

// idOf is the id of the event that some bytes begin with, or hold alone.
func idOf(raw []byte) int {
	_, rest, _ := strings.Cut(string(raw), `"id":"`)
	text, _, _ := strings.Cut(rest, `"`)
	id, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return id
}

// idOfLetter is the id of the event of a dead letter. The caller holds the store's lock.
func (m *simulation) idOfLetter(key string) int {
	for _, e := range slices.Backward(m.store.letters) {
		if e.Key == key {
			l := &Letter{}
			if err := json.Unmarshal(e.Value, l); err != nil {
				m.t.Error(err)
			}
			return idOf(l.Event)
		}
	}
	panic("the letter " + key + " went before its replay was settled")
}

// successes collects the delivered attempts of a flush, and which of them were replays of
// dead letters, by the keys of those.
type successes struct {
	all      []attemptEntry
	replayed map[string]bool
}

func (s *successes) open(e openEntry) {
	if e.replay && e.reason == reasonReplayed {
		s.replayed[letterKey(deliveryID(e.uid, e.pos))] = true
	}
}

func (s *successes) closed(uint64, engine.Position, bool) {}
func (s *successes) lag(uint64, engine.Position)          {}
func (s *successes) breaker(breakerEntry)                 {}
func (s *successes) generation(generationEntry)           {}
func (s *successes) gone(uint64)                          {}
func (s *successes) restate(uint64)                       {}
func (s *successes) logEnds(uint64)                       {}
func (s *successes) attempt(e attemptEntry) {
	if e.outcome == Delivered {
		s.all = append(s.all, e)
	}
}

// simSender is the handler of one event subscription.
type simSender struct {
	m     *simulation
	h     *handle
	uid   uint64
	name  string
	most  int
	judge func(ids []int, r *Request) Response
}

func (s *simSender) Close() {}

func (s *simSender) Send(ctx context.Context, r *Request) Response {
	if s.h.arrow() != nil {
		<-ctx.Done() // a dead process asks nobody
		return Response{Outcome: Canceled}
	}
	if r.Fill() != nil {
		return Response{Outcome: Canceled}
	}
	m := s.m
	var ids []int
	for _, id := range idsIn(r.Body) {
		n, err := strconv.Atoi(id)
		if err != nil {
			m.t.Error(err)
		}
		ids = append(ids, n)
	}
	if len(ids) == 0 || len(ids) > s.most {
		m.t.Errorf("%s: body holds %d events", s.name, len(ids))
	}
	m.mu.Lock()
	for _, id := range ids {
		if m.stored[delivered{s.uid, id}] {
			m.t.Errorf("%s %x: event %d was sent in round %d, replay %q, though its success was stored", s.name, s.uid, id, m.round, r.Replay)
		}
	}
	m.sends++
	m.mu.Unlock()
	answer := s.judge(ids, r)
	if answer.Outcome == Delivered {
		m.mu.Lock()
		for _, id := range ids {
			key := delivered{s.uid, id}
			if r.Replay == "" && m.seen[key] == m.round+1 {
				m.t.Errorf("%s %x: event %d was delivered twice in round %d", s.name, s.uid, id, m.round)
			}
			m.seen[key] = m.round + 1
		}
		m.mu.Unlock()
	}
	if s.h.arrow() != nil { // answered, and nobody there to hear it
		<-ctx.Done()
		return Response{Outcome: Canceled}
	}
	return answer
}

// newSender makes a handler of one process.
func (m *simulation) newSender(h *handle, es *resource.EventSubscription) Sender {
	ok := Response{Outcome: Delivered, Status: 200}
	failed := Response{Outcome: GenericError, Status: 500}
	bad := Response{Outcome: BadRequest, Status: 400}
	s := &simSender{m: m, h: h, uid: uint64(es.UID), name: es.Name, most: 1}
	switch es.Name {
	case simFailing:
		s.judge = func([]int, *Request) Response {
			if m.chance(3) {
				return failed
			}
			return ok
		}
	case simRefusing:
		s.judge = func(ids []int, r *Request) Response {
			if ids[0]%10 == 7 && (r.Replay == "" || m.chance(2)) {
				return bad
			}
			return ok
		}
	case simBatching:
		s.most = simBatch
		s.judge = func(ids []int, _ *Request) Response {
			for _, id := range ids {
				if id%10 == 5 {
					return bad
				}
			}
			if m.chance(8) {
				return failed
			}
			return ok
		}
	case simBlocking:
		s.judge = func([]int, *Request) Response {
			if m.chance(3) {
				time.Sleep(time.Duration(m.intN(3000)) * time.Millisecond)
			}
			return ok
		}
	default:
		s.judge = func([]int, *Request) Response { return ok }
	}
	return s
}

// check holds the end of a simulation against what was promised.
func (m *simulation) check() {
	m.t.Helper()
	parkedCopies.Add(m.store.copied)
	parkedReads.Add(m.store.reads)
	halfLetters.Add(uint64(m.store.halves))
	if n := len(m.store.park); n > 0 {
		m.t.Errorf("%d copies stay in the park", n)
	}
	buried := map[delivered]bool{}
	for _, e := range m.store.letters {
		uid, _, err := parseLetterID(idOfKey(e.Key))
		if err != nil {
			m.t.Fatal(err)
		}
		l := &Letter{}
		if err := json.Unmarshal(e.Value, l); err != nil {
			m.t.Fatal(err)
		}
		key := delivered{uid, idOf(l.Event)}
		buried[key] = true
		if m.stored[key] && !m.deleted[uid] {
			m.t.Errorf("the dead letter of event %d for %x stays, though its replay was delivered", key.id, uid)
		}
	}
	for uid, versions := range m.versions {
		for id, e := range m.events {
			of := m.topic == testTopicUID || m.picks[uid] == "" || m.picks[uid] == simTopic(id)
			wanted, unwanted := of, true // by every filter it may have met
			for i, v := range versions {
				if v.began > e.ended || i+1 < len(versions) && versions[i+1].done != 0 && versions[i+1].done < e.began {
					continue
				}
				wanted = wanted && v.wants(id)
				unwanted = unwanted && !(of && v.wants(id))
			}
			key := delivered{uid, id}
			arrived := m.seen[key] != 0 || buried[key] || m.removed[key]
			if e.acked && wanted && !arrived && !m.deleted[uid] {
				m.t.Errorf("acknowledged event %d was neither delivered to nor dead-lettered for %x", id, uid)
			}
			if unwanted && arrived {
				m.t.Errorf("event %d reached %x, whose filter did not want it", id, uid)
			}
		}
	}
	if m.t.Failed() {
		m.t.Logf("%d events, %d rounds, %d journal messages", len(m.events), m.round+1, len(m.store.journal))
	}
}
