package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// store is a durable floor in memory that outlives brokers. Each broker works on
// it through a handle; a handle can be killed at any of its operations, before or
// after the operation took effect, and writes nothing from then on: what a kill -9
// leaves behind.
type store struct {
	mu      sync.Mutex
	frames  []*engine.Frame // seq i+1
	first   uint64
	damaged map[uint64]bool // frames that cannot be read by themselves
	journal []engine.JournalEntry
	letters []engine.TableEntry // dead letters in the order of storing
	placed  uint64              // the place of the last of them
	halves  int                 // letters that a stop left beside those that replace them
	work    map[string][]byte
	floor   uint64
	quota   int64                    // of the log; 0 = none
	park    map[uint64]*engine.Frame // copies by their sequence
	copied  uint64                   // the last of them
	reads   uint64                   // of copies
	noted   func(payload []byte)     // told of each journal message as it is stored

	generation uint64 // of the process that has it
}

func newStore() *store {
	return &store{park: map[uint64]*engine.Frame{}, work: map[string][]byte{}, first: 1, generation: 6}
}

var errKilled = errors.New("the process was killed")

// handle is one process's hold on a store.
type handle struct {
	*store
	onCommit func(*engine.Frame)
	appendMu sync.Mutex // one writer: commits reach the broker in order

	tune     func(*Config) // changes what a broker is made of
	made     func(*Broker) // changes the broker before it is used
	failPut  func() bool   // whether the dead-letter store refuses this time
	failDrop func() bool   // whether it fails to remove a replaced letter this time
	failKey  string        // a key that the dead-letter store never takes
	failPark func() bool   // whether the park refuses this time

	beforeAnswer func() // runs between a frame's commit and its publisher's answer
	beforeDelete func() // runs before a dead letter is deleted

	killMu sync.Mutex
	left   int // operations until the kill; negative = never
	dead   bool
	killed chan struct{}
}

// open begins a process that is killed after so many operations, negative = never. As
// the engine does, it leaves each dead letter its newest form first.
func (s *store) open(left int) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	before := len(s.letters)
	newest := map[string]uint64{}
	for _, e := range s.letters {
		newest[e.Key] = e.Seq
	}
	s.letters = slices.DeleteFunc(s.letters, func(e engine.TableEntry) bool { return e.Seq < newest[e.Key] })
	s.halves += before - len(s.letters)
	return &handle{store: s, left: left, killed: make(chan struct{})}
}

// arrow is one step between two verbs: the process may end here.
func (h *handle) arrow() error {
	h.killMu.Lock()
	defer h.killMu.Unlock()
	if h.dead {
		return errKilled
	}
	if h.left > 0 {
		if h.left--; h.left == 0 {
			h.dead = true
			close(h.killed)
			return errKilled
		}
	}
	return nil
}

func (h *handle) isDead() bool {
	h.killMu.Lock()
	defer h.killMu.Unlock()
	return h.dead
}

// guard runs do between two arrows.
func (h *handle) guard(do func()) error {
	if err := h.arrow(); err != nil {
		return err
	}
	h.mu.Lock()
	do()
	h.mu.Unlock()
	return h.arrow()
}

type fakeLog struct{ *handle }

func (l fakeLog) OnCommit(f func(*engine.Frame)) { l.onCommit = f }

func (l fakeLog) Append(_ context.Context, records []engine.Record) (engine.Receipt, error) {
	f, err := l.commit(records)
	if err != nil {
		return engine.Receipt{}, err
	}
	if l.beforeAnswer != nil {
		l.beforeAnswer()
	}
	return engine.Receipt{Seq: f.Seq, Generation: f.Generation, Time: f.Time}, l.arrow()
}

func (l fakeLog) commit(records []engine.Record) (f *engine.Frame, err error) {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	err = l.guard(func() {
		f = &engine.Frame{Seq: uint64(len(l.frames) + 1), Generation: l.generation, Time: time.Now(), Records: slices.Clone(records), Size: 100}
		l.frames = append(l.frames, f)
	})
	if err == nil {
		l.onCommit(f)
	}
	return f, err
}

func (l fakeLog) Frame(_ context.Context, seq uint64) (*engine.Frame, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq < l.first || seq > uint64(len(l.frames)) {
		return nil, engine.ErrPurged
	}
	if l.damaged[seq] {
		return nil, engine.ErrCorrupt
	}
	return l.frames[seq-1], nil
}

func (l fakeLog) Frames(_ context.Context, from uint64) iter.Seq2[*engine.Frame, error] {
	l.mu.Lock()
	from = max(from, l.first)
	var frames []*engine.Frame
	if from <= uint64(len(l.frames)) {
		frames = l.frames[from-1:] // nothing changes what was appended
	}
	l.mu.Unlock()
	return func(yield func(*engine.Frame, error) bool) {
		for _, f := range frames {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func (l fakeLog) Bounds() (first, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, uint64(len(l.frames))
}

func (l fakeLog) Purge(_ context.Context, below uint64) error {
	return l.guard(func() { l.first = max(l.first, below) })
}

func (l fakeLog) SetFloor(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.floor = seq
}

// BytesFrom is exact.
func (l fakeLog) BytesFrom(seq uint64) (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := max(seq, l.first); i <= uint64(len(l.frames)); i++ {
		n += int64(l.frames[i-1].Size)
	}
	return n
}

func (l fakeLog) Usage() engine.Usage {
	return engine.Usage{Bytes: l.BytesFrom(0), AboveFloor: l.BytesFrom(l.floorNow()), Quota: l.quota}
}

func (l fakeLog) floorNow() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.floor
}

// fakePark counts 10 bytes for each copy.
type fakePark struct{ *handle }

func (k fakePark) Put(_ context.Context, f *engine.Frame, keep []int) (seq uint64, err error) {
	if k.failPark != nil && k.failPark() {
		return 0, errors.New("the park refused")
	}
	err = k.guard(func() {
		k.copied++
		seq = k.copied
		c := *f
		c.Records = make([]engine.Record, keep[len(keep)-1]+1)
		for _, i := range keep {
			c.Records[i] = f.Records[i]
		}
		k.park[seq] = &c
	})
	return seq, err
}

func (k fakePark) Frame(_ context.Context, seq, frame uint64) (*engine.Frame, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads++
	f := k.park[seq]
	if f == nil {
		return nil, engine.ErrPurged
	}
	if f.Seq != frame {
		return nil, engine.ErrCorrupt
	}
	return f, nil
}

func (k fakePark) Remove(_ context.Context, seqs ...uint64) error {
	for _, seq := range seqs {
		if err := k.guard(func() { delete(k.park, seq) }); err != nil {
			return err
		}
	}
	return nil
}

func (k fakePark) All(context.Context) iter.Seq2[uint64, error] {
	k.mu.Lock()
	seqs := slices.Sorted(maps.Keys(k.park))
	k.mu.Unlock()
	return func(yield func(uint64, error) bool) {
		for _, seq := range seqs {
			if !yield(seq, nil) {
				return
			}
		}
	}
}

func (k fakePark) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.park)
}

func (k fakePark) Bytes() int64 { return 10 * int64(k.Len()) }

type fakeJournal struct{ *handle }

func (j fakeJournal) Append(_ context.Context, payload []byte) (seq uint64, err error) {
	err = j.guard(func() {
		seq = uint64(len(j.journal) + 1)
		j.journal = append(j.journal, engine.JournalEntry{Seq: seq, Generation: j.generation, Payload: slices.Clone(payload)})
		if j.noted != nil {
			j.noted(payload)
		}
	})
	return seq, err
}

func (j fakeJournal) Read(_ context.Context, from uint64) iter.Seq2[engine.JournalEntry, error] {
	j.mu.Lock()
	entries := j.journal[min(max(from, 1)-1, uint64(len(j.journal))):]
	j.mu.Unlock()
	return func(yield func(engine.JournalEntry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (j fakeJournal) Bounds() (first, last uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return 1, uint64(len(j.journal))
}

func (j fakeJournal) Purge(context.Context, uint64) error { return nil }
func (j fakeJournal) Bytes() int64                        { return 0 }

// fakeTable is a table of a store: the dead letters, or with work what is under way.
type fakeTable struct {
	*handle
	work bool
}

// Put stores a letter and then removes the one that it replaces.
func (t fakeTable) Put(_ context.Context, key string, value []byte) error {
	if t.work {
		return t.guard(func() { t.handle.work[key] = slices.Clone(value) })
	}
	if key == t.failKey || t.failPut != nil && t.failPut() {
		return errors.New("the store refused")
	}
	var e engine.TableEntry
	replaces := false
	err := t.guard(func() {
		replaces = slices.ContainsFunc(t.letters, func(old engine.TableEntry) bool { return old.Key == key })
		t.placed++
		e = engine.TableEntry{Seq: t.placed, Key: key, Value: slices.Clone(value)}
		t.letters = append(t.letters, e)
	})
	if err != nil || !replaces {
		return err
	}
	if t.failDrop != nil && t.failDrop() {
		return errors.New("the store did not remove the old letter")
	}
	return t.guard(func() {
		t.letters = slices.DeleteFunc(t.letters, func(old engine.TableEntry) bool { return old.Key == key && old.Seq < e.Seq })
	})
}

func (t fakeTable) Get(_ context.Context, key string) ([]byte, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.work {
		v, ok := t.handle.work[key]
		return v, ok, nil
	}
	for _, e := range slices.Backward(t.letters) {
		if e.Key == key {
			return e.Value, true, nil
		}
	}
	return nil, false, nil
}

func (t fakeTable) Delete(_ context.Context, key string) error {
	if !t.work && t.beforeDelete != nil {
		t.beforeDelete()
	}
	return t.guard(func() {
		if t.work {
			delete(t.handle.work, key)
			return
		}
		t.letters = slices.DeleteFunc(t.letters, func(e engine.TableEntry) bool { return e.Key == key })
	})
}

func (t fakeTable) Keys(_ context.Context, prefix string) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.Collect(maps.Keys(t.handle.work))
	if !t.work {
		all = nil
		for _, e := range t.letters {
			all = append(all, e.Key)
		}
	}
	all = slices.DeleteFunc(all, func(key string) bool { return !strings.HasPrefix(key, prefix) })
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (t fakeTable) Since(_ context.Context, prefix string, after uint64) iter.Seq2[engine.TableEntry, error] {
	t.mu.Lock()
	entries := slices.Clone(t.letters)
	t.mu.Unlock()
	return func(yield func(engine.TableEntry, error) bool) {
		for _, e := range entries {
			if e.Seq > after && strings.HasPrefix(e.Key, prefix) && !yield(e, nil) {
				return
			}
		}
	}
}

func (t fakeTable) Last(context.Context) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.placed, nil
}

func (t fakeTable) Purge(_ context.Context, below uint64) error {
	return t.guard(func() {
		t.letters = slices.DeleteFunc(t.letters, func(e engine.TableEntry) bool { return e.Seq < below })
	})
}

func (t fakeTable) Bytes() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.letters {
		n += entrySize(e)
	}
	return n
}

// senderFunc is a Sender made of a function.
type senderFunc func(ctx context.Context, r *Request) Response

func (f senderFunc) Send(ctx context.Context, r *Request) Response { return f(ctx, r) }
func (senderFunc) Close()                                          {}

// process is a running broker of a test.
type process struct {
	*Broker
	h    *handle
	stop context.CancelFunc
	done chan error
}

var testTopic = resource.MustID("/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/t")

const testTopicUID = resource.UID(0x70)

var testStream = resource.Stream{Topic: testTopicUID}

// startProcess starts a broker on a handle with event subscriptions and their senders.
func startProcess(t *testing.T, h *handle, senders map[string]Sender, subs ...*resource.EventSubscription) *process {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	cfg := Config{
		Log: fakeLog{h}, Journal: fakeJournal{h}, Park: fakePark{h}, DeadLetters: fakeTable{handle: h}, Work: fakeTable{h, true}, Logger: slog.New(slog.DiscardHandler),
		NewSender: func(es *resource.EventSubscription) (Sender, error) { return senders[es.Name], nil },
	}
	if h.tune != nil {
		h.tune(&cfg)
	}
	b, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if h.made != nil {
		h.made(b)
	}
	for _, es := range subs {
		if err := b.Activate(ctx, es); err != nil {
			t.Fatal(err)
		}
	}
	p := &process{Broker: b, h: h, stop: stop, done: make(chan error, 1)}
	go func() { p.done <- b.Run(ctx) }()
	ready, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-h.killed:
			cancel()
		case <-ready.Done():
		}
	}()
	if err := b.Ready(ready); err != nil && !h.isDead() {
		t.Fatal(err)
	}
	return p
}

// Replay replays one dead letter.
func (p *process) Replay(ctx context.Context, id string) error {
	problems, err := p.Broker.Replay(ctx, id)
	return cmp.Or(problems[0], err)
}

// end stops the process and returns what Run returned.
func (p *process) end() error {
	p.stop()
	return <-p.done
}

// testSubscription is an event subscription of the test topic.
func testSubscription(n int, f filter.Filter) *resource.EventSubscription {
	return &resource.EventSubscription{
		UID: resource.UID(0x500 + n), Scope: testTopic, Name: fmt.Sprintf("es%d", n), TopicUID: testTopicUID,
		Filter: f, FilterGeneration: 1, DeliverySchema: event.EventGridSchema,
		RetryPolicy: resource.RetryPolicy{MaxDeliveryAttempts: 30, EventTimeToLive: 1440},
		State:       resource.Succeeded,
	}
}

// testEvent is a stored event of the test topic.
func testEvent(id, subject string) event.Event {
	raw := fmt.Sprintf(`{"id":%q,"topic":%q,"subject":%q,"eventType":"t","eventTime":"2026-01-01T00:00:00Z","data":{},"dataVersion":"1","metadataVersion":"1"}`,
		id, testTopic, subject)
	return event.Event{Schema: event.EventGridSchema, Raw: []byte(raw)}
}

// idsIn returns the ids of the events in a delivered body.
func idsIn(body []byte) []string {
	var ids []string
	for part := range strings.SplitSeq(string(body), `{"id":"`) {
		if id, _, ok := strings.Cut(part, `"`); ok && id != "" && part[0] != '[' {
			ids = append(ids, id)
		}
	}
	return ids
}
