package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// exporter writes dead letters to the stores that event subscriptions name. It
// reads them where they are kept, in the order they were given up, from a place of
// its own for each event subscription. The place is stored after the blob is, so a
// crash repeats a blob under the name it had, and an outage of a store, however
// long, loses nothing: Azure drops an event after 4 hours, here it is written
// later and counted as late. What Azure calls not found waits as well, until the
// container is made or the event subscription names another.
//
// A store that fails rests by itself, for all event subscriptions that use it, and
// harms no other. After the deletion of an event subscription what waits is still
// tried for the 4 hours; then it stays with the server alone.
//
// Its lock is a leaf.
type exporter struct {
	b      *Broker
	ring   chan struct{} // something changed; holds one
	loaded chan struct{} // closed when the stored places are known

	mu      sync.Mutex
	places  map[uint64]*place // by uid of the event subscription
	stores  map[string]*letterStore
	restate map[uint64]bool // places to be stored again, or removed
	running int             // stores that are being written to
}

// place is how far the dead letters of one event subscription are written.
type place struct {
	At    uint64                          `json:"at"` // in the order of dead letters
	To    *resource.DeadLetterDestination `json:"to"`
	Ended time.Time                       `json:"ended,omitzero"` // when the event subscription was deleted

	waiting bool // in the list of its store
}

// letterStore is a store and who has something for it.
type letterStore struct {
	to       *resource.DeadLetterDestination
	waiting  []uint64
	busy     bool
	due      time.Time
	failures int
	failing  time.Time // since when
	problem  string
	warned   bool
}

// StoreTrouble tells why dead letters wait before their store.
type StoreTrouble struct {
	Store        string    `json:"store"`
	FailingSince time.Time `json:"failingSince"`
	Problem      string    `json:"problem"`
	NextAttempt  time.Time `json:"nextAttempt"`
}

const (
	maxBlobBytes   = 1 << 20
	maxBlobLetters = 1000
	maxStoresBusy  = 16
	writeTime      = time.Minute // for one blob
	storeRest      = 5 * time.Second
	maxStoreRest   = 5 * time.Minute
	azureDrops     = 4 * time.Hour // Source: spec/delivery.md section 7.2.
	placePrefix    = "letters/"
)

func newExporter(b *Broker) *exporter {
	return &exporter{
		b: b, ring: make(chan struct{}, 1), loaded: make(chan struct{}),
		places: map[uint64]*place{}, stores: map[string]*letterStore{}, restate: map[uint64]bool{},
	}
}

func placeKey(uid uint64) string { return placePrefix + resource.UID(uid).String() }

func (x *exporter) call() {
	select {
	case x.ring <- struct{}{}:
	default:
	}
}

// begin makes sure that the place of an event subscription is stored before its
// first letter is.
func (x *exporter) begin(ctx context.Context, uid uint64, to *resource.DeadLetterDestination) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.b.cfg.DeadLetterStore == nil || x.places[uid] != nil {
		return nil
	}
	last, err := x.b.cfg.DeadLetters.Last(ctx)
	if err != nil {
		return err
	}
	p := &place{At: last, To: to}
	if err := x.put(ctx, uid, p); err != nil {
		return err
	}
	x.places[uid] = p
	return nil
}

func (x *exporter) put(ctx context.Context, uid uint64, p *place) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode how far dead letters are written: %w", err)
	}
	return x.b.cfg.Work.Put(ctx, placeKey(uid), raw)
}

// stored tells that a letter of an event subscription was stored.
func (x *exporter) stored(uid uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.places[uid]; p != nil && !p.waiting {
		x.enqueue(uid, p)
		x.call()
	}
}

// enqueue puts an event subscription into the list of its store. The caller holds
// x.mu.
func (x *exporter) enqueue(uid uint64, p *place) {
	s := x.stores[p.To.Store()]
	if s == nil {
		s = &letterStore{to: p.To}
		x.stores[p.To.Store()] = s
	}
	if len(s.waiting) == 0 && s.failures == 0 {
		s.due = time.Now().Add(x.b.cfg.DeadLetterDelay) // others may come meanwhile
	}
	s.waiting = append(s.waiting, uid)
	p.waiting = true
}

// changed tells where the dead letters of an event subscription go from now on:
// those that wait go there as well; nil keeps all of them with the server.
func (x *exporter) changed(uid uint64, to *resource.DeadLetterDestination) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.places[uid]
	if p == nil || to != nil && p.To.Store() == to.Store() {
		return
	}
	x.withdraw(uid, p)
	x.restate[uid] = true
	if to == nil {
		delete(x.places, uid)
	} else {
		p.To = to
		x.enqueue(uid, p)
	}
	x.call()
}

// withdraw takes an event subscription out of the list of its store, and forgets a
// store that nobody has anything for. The caller holds x.mu.
func (x *exporter) withdraw(uid uint64, p *place) {
	p.waiting = false
	s := x.stores[p.To.Store()]
	if s == nil {
		return
	}
	for i, waits := range s.waiting {
		if waits == uid {
			s.waiting = append(s.waiting[:i:i], s.waiting[i+1:]...)
			break
		}
	}
	if len(s.waiting) == 0 && !s.busy {
		delete(x.stores, p.To.Store())
	}
}

// ended tells that an event subscription is gone.
func (x *exporter) ended(uid uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.places[uid]; p != nil && p.Ended.IsZero() {
		p.Ended = time.Now().UTC()
		x.restate[uid] = true
		if !p.waiting {
			x.enqueue(uid, p) // so that its place is forgotten when nothing is left
		}
		x.call()
	}
}

// owes reports whether a letter waits to be written to a store.
func (x *exporter) owes(uid, seq uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.places[uid]
	return p != nil && seq > p.At
}

// trouble tells whether the store of a destination fails, nil when it does not.
func (x *exporter) trouble(to *resource.DeadLetterDestination) *StoreTrouble {
	if to == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.stores[to.Store()]
	if s == nil || s.failures == 0 {
		return nil
	}
	return &StoreTrouble{Store: to.String(), FailingSince: s.failing.UTC(), Problem: s.problem, NextAttempt: s.due.UTC()}
}

// load reads the places that are stored. Whoever has one may have letters that wait.
func (x *exporter) load(ctx context.Context) error {
	keys, err := x.b.cfg.Work.Keys(ctx, placePrefix)
	if err != nil {
		return err
	}
	for _, key := range keys {
		uid, err := strconv.ParseUint(key[len(placePrefix):], 16, 64)
		if err != nil {
			return fmt.Errorf("key %q of the work table: %w", key, err)
		}
		raw, found, err := x.b.cfg.Work.Get(ctx, key)
		if err != nil {
			return err
		}
		p := &place{}
		if !found {
			continue
		}
		if err := json.Unmarshal(raw, p); err != nil || p.To == nil {
			return fmt.Errorf("value of %q in the work table cannot be read: %w", key, err)
		}
		x.mu.Lock()
		x.places[uid] = p
		x.enqueue(uid, p)
		x.mu.Unlock()
		if s := x.b.lookup(uid); s != nil {
			x.changed(uid, s.cfg.Load().deadLetter)
		} else {
			x.ended(uid)
		}
	}
	return nil
}

func (x *exporter) run(ctx context.Context) error {
	if x.b.cfg.DeadLetterStore == nil {
		close(x.loaded)
		<-ctx.Done()
		return nil
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := x.load(ctx)
		if err == nil {
			break
		}
		x.b.log.Error("how far dead letters are written cannot be read", telemetry.Error, err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
	close(x.loaded)
	var writers sync.WaitGroup
	defer writers.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		x.restatePlaces(ctx)
		next := x.dispatch(time.Now(), func(s *letterStore) {
			writers.Go(func() { x.serve(ctx, s) })
		})
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
		}
		select {
		case <-x.ring:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// dispatch begins to serve the stores that are due and returns when the next one is.
func (x *exporter) dispatch(now time.Time, serve func(*letterStore)) (next time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.stores {
		switch {
		case s.busy || len(s.waiting) == 0 || x.running == maxStoresBusy:
		case s.due.After(now):
			if next.IsZero() || s.due.Before(next) {
				next = s.due
			}
		default:
			s.busy = true
			x.running++
			serve(s)
		}
	}
	return next
}

// restatePlaces stores the places that changed for another reason than a blob.
func (x *exporter) restatePlaces(ctx context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for uid := range x.restate {
		var err error
		if p := x.places[uid]; p != nil {
			err = x.put(ctx, uid, p)
		} else {
			err = x.b.cfg.Work.Delete(ctx, placeKey(uid))
		}
		if err != nil {
			if ctx.Err() == nil {
				x.b.log.Error("how far dead letters are written cannot be stored", telemetry.Error, err)
			}
			continue // at the next change or start again
		}
		delete(x.restate, uid)
	}
}

// serve writes what waits for one store, a blob of each event subscription in turn,
// until nothing waits or the store fails.
func (x *exporter) serve(ctx context.Context, s *letterStore) {
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		s.busy = false
		x.running--
		if key := s.to.Store(); len(s.waiting) == 0 && x.stores[key] == s {
			delete(x.stores, key)
		}
		x.call()
	}()
	for ctx.Err() == nil {
		x.mu.Lock()
		if len(s.waiting) == 0 {
			x.mu.Unlock()
			return
		}
		uid := s.waiting[0]
		s.waiting = s.waiting[1:]
		p := x.places[uid]
		p.waiting = false
		from, to := p.At, p.To
		x.mu.Unlock()

		w, err := x.write(ctx, uid, from, to)

		x.mu.Lock()
		if ctx.Err() != nil {
			x.mu.Unlock()
			return
		}
		x.took(s, p, uid, w, err)
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// took notes what became of a blob. The caller holds x.mu.
func (x *exporter) took(s *letterStore, p *place, uid uint64, w written, err error) {
	now := time.Now()
	if x.places[uid] != p {
		x.restate[uid] = true // the end of it may have been stored before this blob's place was
	}
	current := x.places[uid] == p && x.stores[p.To.Store()] == s
	if err == nil {
		if w.letters > 0 {
			if s.failures > 0 {
				x.b.log.Info("dead letters can be written again", "store", s.to.String(), telemetry.Duration, now.Sub(s.failing))
			}
			s.failures, s.problem, s.warned, s.failing = 0, "", false, time.Time{}
		}
		p.At = max(p.At, w.at)
		switch {
		case !current || p.waiting:
		case w.more:
			s.waiting = append(s.waiting, uid)
			p.waiting = true
		case !p.Ended.IsZero():
			delete(x.places, uid)
			x.restate[uid] = true
		}
		return
	}
	x.b.metrics.writeFailed.Inc()
	if s.failures == 0 {
		s.failing = now
	}
	rest := min(storeRest<<min(s.failures, 10), maxStoreRest)
	rest += time.Duration(x.b.jitter() * float64(rest) / 10)
	s.failures++
	s.due, s.problem = now.Add(rest), err.Error()
	log := x.b.log.Warn
	if !s.warned && now.Sub(s.failing) >= azureDrops {
		s.warned, log = true, x.b.log.Error
	}
	log("dead letters cannot be written to their store; they are kept and tried again", "store", s.to.String(),
		telemetry.Error, s.problem, "failing_for", now.Sub(s.failing), telemetry.NextAttempt, s.due)
	if !current || p.waiting {
		return
	}
	if !p.Ended.IsZero() && now.Sub(p.Ended) >= azureDrops {
		delete(x.places, uid)
		x.restate[uid] = true
		x.b.log.Warn("dead letters of a deleted event subscription stay with the server: their store failed for 4 hours", "store", s.to.String())
		return
	}
	s.waiting = append(s.waiting, uid)
	p.waiting = true
}

// written tells of a blob.
type written struct {
	at      uint64 // the place behind it
	letters int    // 0 = there was nothing to write
	more    bool
}

// write writes the next blob of an event subscription, if there is one, and stores
// how far that is.
func (x *exporter) write(ctx context.Context, uid, from uint64, to *resource.DeadLetterDestination) (written, error) {
	content := []byte{'['}
	name, folder := "", ""
	w, late := written{at: from}, 0
	here := map[string]bool{} // ids of the letters
	for l, err := range x.b.DeadLetters(ctx, resource.UID(uid), from) {
		if err != nil {
			return written{at: from}, err
		}
		if w.letters > 0 && (l.blobFolder() != folder || w.letters == maxBlobLetters || len(content)+len(l.Event) > maxBlobBytes) {
			w.more = true
			break
		}
		if here[l.ID] { // stored again while the list was read: a start repeats what a crash cut short
			w.at = l.Place
			continue
		}
		here[l.ID] = true
		before := len(content)
		if w.letters > 0 {
			content = append(content, ',')
		}
		if content, err = l.appendBlob(content, x.b.cfg.Rules); err != nil {
			x.b.log.Error("dead letter cannot be written to a store: it stays with the server", telemetry.Error, err)
			content, w.at = content[:before], l.Place
			continue
		}
		if w.letters == 0 {
			name, folder = l.blobName(), l.blobFolder()
		}
		w.letters++
		w.at = l.Place
		if !l.DeadLetterTime.IsZero() && time.Since(l.DeadLetterTime) > azureDrops {
			late++
		}
	}
	if w.at == from {
		return w, ctx.Err()
	}
	if w.letters > 0 {
		writing, cancel := context.WithTimeoutCause(ctx, writeTime, fault.New(fault.Unavailable, "StoreTimeout", "The store did not answer within %s.", writeTime))
		err := x.b.cfg.DeadLetterStore.Write(writing, to, name, append(content, ']'))
		cancel()
		if err != nil {
			return written{at: from}, err
		}
	}
	x.mu.Lock()
	p := place{At: w.at, To: to}
	now := x.places[uid]
	if now != nil {
		p.To, p.Ended = now.To, now.Ended
	}
	x.mu.Unlock()
	if now != nil {
		if err := x.put(ctx, uid, &p); err != nil {
			return written{at: from}, fmt.Errorf("store how far dead letters are written: %w", err)
		}
	}
	x.b.metrics.written.Add(float64(w.letters))
	x.b.metrics.writtenLate.Add(float64(late))
	if w.letters > 0 {
		x.b.log.Info("dead letters written", "store", to.String(), "blob", name, telemetry.Events, w.letters)
	}
	return w, nil
}
