package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/engine"
	"github.com/carillon-events/carillon/internal/filter"
	"github.com/carillon-events/carillon/internal/resource"
)

// messages is how many journal messages there are.
func (s *store) messages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.journal)
}

// TestFlushes: a flush comes 25 ms after the first change, and at once when a
// caller waits for it or 64 KiB have come together; idle, nothing is written.
func TestFlushes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, p *process)
		soon   int // messages without any waiting
		later  int // after 25 ms
	}{
		{"nothing", func(*testing.T, *process) {}, 0, 0},
		{"one event", func(t *testing.T, p *process) { publish(t, p.Broker, 0, 1, "a") }, 0, 1},
		{"many small ones", func(t *testing.T, p *process) {
			for i := range 20 {
				publish(t, p.Broker, i, 1, "a")
				time.Sleep(time.Millisecond)
			}
		}, 0, 1},
		{"somebody waits", func(t *testing.T, p *process) {
			publish(t, p.Broker, 0, 1, "a")
			synctest.Wait()
			if err := p.journal.sync(t.Context()); err != nil {
				t.Error(err)
			}
		}, 1, 1},
		{"a changed filter", func(t *testing.T, p *process) {
			activate(t, p.Broker, withFilter(testSubscription(0, filter.Filter{}), filter.Filter{SubjectBeginsWith: "b"}))
		}, 1, 1},
		{"64 KiB", func(t *testing.T, p *process) { publish(t, p.Broker, 0, flushBytes/openEntryBytes+1, "b") }, 1, 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			stuck := newExactlyOnce()
			p := startProcess(t, newStore().open(-1), map[string]Sender{"es0": stuck}, testSubscription(0, filter.Filter{}))
			time.Sleep(time.Second)
			before := p.h.messages()
			tt.change(t, p)
			synctest.Wait()
			if n := p.h.messages() - before; n != tt.soon {
				t.Errorf("%d messages at once, want %d", n, tt.soon)
			}
			time.Sleep(flushAfter)
			synctest.Wait()
			if n := p.h.messages() - before; n < tt.later || n > tt.later+1 {
				t.Errorf("%d messages after 25 ms, want %d", n, tt.later)
			}
			before = p.h.messages()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if n := p.h.messages() - before; n != 0 {
				t.Errorf("%d messages while nothing happens", n)
			}
			finish(t, p)
		})
	}
}

// watchedJournal runs something before each message is stored.
type watchedJournal struct {
	Journal
	before func(payload []byte)
}

func (j watchedJournal) Append(ctx context.Context, payload []byte) (uint64, error) {
	j.before(payload)
	return j.Journal.Append(ctx, payload)
}

// TestMuchToFlush: many event subscriptions whose handler is down, big requests back
// to back and a slow disk. No message is longer than it may be, little piles up in
// memory, the handler that is well gets everything, and a crash between any two
// messages leaves the state of the last whole flush.
func TestMuchToFlush(t *testing.T) {
	const dead, batch, requests = 20, 50, 20
	const message, unflushed = 4 << 10, 32 << 10
	// The outcomes of an attempt each, and the deliveries of a frame, come on top.
	most := unflushed + (dead+1)*batch*(2*openEntryBytes+50)
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		hold := store.open(-1)
		var p *process
		longest, waiting, flushing := 0, 0, 0
		hold.made = func(b *Broker) { b.journal.maxMessage, b.journal.maxUnflushed = message, unflushed }
		hold.tune = func(c *Config) {
			c.Journal = watchedJournal{c.Journal, func(payload []byte) {
				time.Sleep(5 * time.Millisecond)
				longest = max(longest, len(payload))
				if p == nil {
					return
				}
				p.journal.mu.Lock()
				waiting = max(waiting, p.journal.unflushed())
				p.journal.mu.Unlock()
				if h, _, err := readHeader(payload); err != nil {
					t.Error(err)
				} else if h.part == 0 {
					flushing = max(flushing, int(h.left))
				}
			}}
		}
		living := newExactlyOnce()
		close(living.free)
		senders := map[string]Sender{"es0": living}
		subs := []*resource.EventSubscription{testSubscription(0, filter.Filter{})}
		for i := range dead {
			es := testSubscription(1+i, filter.Filter{})
			es.Destination.WebHook = &resource.WebHook{Packing: resource.Packing{MaxEventsPerBatch: batch, PreferredBatchSizeInKilobytes: 1024}}
			senders[es.Name] = senderFunc(func(context.Context, *Request) Response {
				return Response{Outcome: Busy, Status: 503, Detail: "down"}
			})
			subs = append(subs, es)
		}
		p = startProcess(t, hold, senders, subs...)
		for i := range requests {
			publish(t, p.Broker, i*batch, batch, "a")
		}
		for ctx, n := t.Context(), 0; p.journal.durable() < requests; n++ {
			if err := p.journal.sync(ctx); err != nil || n > 10*requests {
				t.Fatalf("the watermark stays at %d: %v", p.journal.durable(), err)
			}
			time.Sleep(time.Second)
		}
		living.check(t, requests*batch)
		if longest > message+maxHeader || flushing < 5 || waiting < unflushed || waiting > most {
			t.Errorf("longest message %d bytes, longest flush %d messages, %d bytes waited; want at most %d, at least 5, and %d to %d",
				longest, flushing, waiting, message+maxHeader, unflushed, most)
		}
		finish(t, p)

		var uids []uint64
		for _, es := range subs {
			uids = append(uids, uint64(es.UID))
		}
		before := ""
		for n := len(store.journal) / 2; n < len(store.journal)/2+40; n++ {
			head, _, err := readHeader(store.journal[n-1].Payload)
			if err != nil {
				t.Fatal(err)
			}
			r, err := recoverJournal(t.Context(), &handleOfAll{entries: store.journal[:n]})
			if err != nil {
				t.Fatal(err)
			}
			now := r.dump(uids)
			if head.left > 0 && before != "" && now != before {
				t.Errorf("message %d, %d before the last of its flush, changes what a start finds", n, head.left)
			}
			if head.left == 0 && now == before {
				t.Errorf("a start does not find what the flush up to message %d tells", n)
			}
			before = now
		}
	})
}

// TestRoom: who waits for the flusher goes on when it took what waits, when it ends,
// and when its own context does.
func TestRoom(t *testing.T) {
	for _, tt := range []struct {
		name string
		free func(ctx context.Context, j *journal, cancel context.CancelFunc)
	}{
		{"flushed", func(ctx context.Context, j *journal, _ context.CancelFunc) { _ = j.flush(ctx) }},
		{"the flusher ends", func(_ context.Context, j *journal, _ context.CancelFunc) { close(j.ended) }},
		{"its context ends", func(_ context.Context, _ *journal, cancel context.CancelFunc) { cancel() }},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			h := newStore().open(-1)
			j := newJournal(&Broker{}, fakeJournal{h})
			j.maxUnflushed = openEntryBytes
			j.room(ctx) // nothing waits
			for uid := range uint64(5) {
				j.gone(&subscription{uid: uid})
			}
			went := false
			go func() {
				j.room(ctx)
				went = true
			}()
			synctest.Wait()
			if went {
				t.Error("it does not wait")
			}
			tt.free(ctx, j, cancel)
			synctest.Wait()
			if !went {
				t.Error("it waits for ever")
			}
		})
	}
}

// dump is the recovered state of all event subscriptions, for comparison.
func (r *recovery) dump(uids []uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "W %d\n", r.w)
	for _, uid := range uids {
		s := r.subs[uid]
		if s == nil {
			fmt.Fprintf(&b, "%x -\n", uid)
			continue
		}
		slices.SortFunc(s.generations, func(a, b generationEntry) int { return int(a.number) - int(b.number) })
		fmt.Fprintf(&b, "%x lag %s breaker %+v\n", uid, s.lag, s.breaker)
		for _, g := range s.generations {
			fmt.Fprintf(&b, "  filter %d from %d %s\n", g.number, g.from, g.filter)
		}
		for _, list := range []map[engine.Position]openEntry{s.open, s.replays} {
			var entries []openEntry
			for _, e := range list {
				entries = append(entries, e)
			}
			slices.SortFunc(entries, func(a, b openEntry) int { return int(a.pos) - int(b.pos) })
			for _, e := range entries {
				fmt.Fprintf(&b, "  %+v\n", e)
			}
		}
		ahead := slices.Clone(r.ahead[uid])
		slices.Sort(ahead)
		fmt.Fprintf(&b, "  ahead %v\n", slices.Compact(ahead))
	}
	return b.String()
}

// TestRestatement: whatever happened, a start that reads from the oldest message
// still needed finds what one that reads everything finds, and what the process
// that wrote it had in memory; and that is never far back.
func TestRestatement(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			smallBounds(t, 16, 48)
			synctest.Test(t, func(t *testing.T) { restate(t, seed) })
		})
	}
}

func restate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	store := newStore()
	hold := store.open(-1)
	if seed == 0 {
		hold.made = func(b *Broker) { b.journal.maxMessage = 100 }
	}
	senders := map[string]Sender{}
	var subs []*resource.EventSubscription
	answers := []Response{answerOK, answerOK, answerFailed, answerBad, {Outcome: NotFound, Status: 404}}
	for i := range 60 {
		es := testSubscription(i, filter.Filter{})
		answer := answers[i%len(answers)]
		senders[es.Name] = senderFunc(func(ctx context.Context, _ *Request) Response { return after(ctx, 3*time.Millisecond, answer) })
		subs = append(subs, es)
	}
	var uids []uint64
	for _, es := range subs {
		uids = append(uids, uint64(es.UID))
	}
	p := startProcess(t, hold, senders, subs...)
	for n := range 250 {
		switch rng.IntN(12) {
		case 0:
			i := rng.IntN(len(subs))
			if s := p.lookup(uint64(subs[i].UID)); s != nil {
				subs[i] = withFilter(subs[i], filter.Filter{SubjectBeginsWith: []string{"", "a", "b"}[rng.IntN(3)]})
				_ = p.Activate(t.Context(), subs[i]) // too many filters may wait
			}
		case 1:
			if rng.IntN(5) == 0 {
				if err := p.Deactivate(t.Context(), subs[rng.IntN(len(subs))].UID); err != nil {
					t.Fatal(err)
				}
			}
		case 2:
			if all := letters(t, p.Broker); len(all) > 0 {
				_ = p.Replay(t.Context(), all[rng.IntN(len(all))].ID)
			}
		default:
			publish(t, p.Broker, n*10, 1+rng.IntN(4), []string{"a", "b"}[n%2])
		}
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
		if rng.IntN(10) == 0 {
			compareReadings(t, store, uids)
		}
	}
	time.Sleep(5 * time.Second)
	synctest.Wait()
	compareReadings(t, store, uids)
	// What is in memory now is what the journal tells.
	r, err := recoverJournal(t.Context(), fakeJournal{store.open(-1)})
	if err != nil {
		t.Fatal(err)
	}
	if told, now := r.dump(uids), memory(p.Broker).dump(uids); told != now {
		t.Errorf("the journal tells\n%s\nmemory has\n%s", told, now)
	}
	finish(t, p)
}

// memory is the state of a broker as a recovery would have it.
func memory(b *Broker) *recovery {
	r := &recovery{subs: map[uint64]*recovered{}, ahead: map[uint64][]engine.Position{}, w: b.journal.watermark()}
	for _, s := range b.all() {
		var w entryWriter
		w.buf = message(r.w, 1).buf
		s.state(&w, r.w)
		if _, err := readEntries(w.buf, r); err != nil {
			panic(err)
		}
	}
	return r
}

// compareReadings reads the journal from the oldest message that the last one
// names, and from its beginning.
func compareReadings(t *testing.T, store *store, uids []uint64) {
	t.Helper()
	synctest.Wait()
	short, err := recoverJournal(t.Context(), fakeJournal{store.open(-1)})
	if err != nil {
		t.Fatal(err)
	}
	store.mu.Lock()
	all := &handleOfAll{entries: slices.Clone(store.journal)}
	store.mu.Unlock()
	var oldest uint64
	back := 0
	for i, last := range slices.Backward(all.entries) { // of the last flush, as if everything were still needed
		head, rest, err := readHeader(last.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if back == 0 {
			oldest, head.oldest = head.oldest, 1
			all.entries[i].Payload = append(head.append(nil), rest...)
		} else if last.Seq < oldest {
			break
		}
		if head.part == 0 {
			back++
		}
	}
	long, err := recoverJournal(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := short.dump(uids), long.dump(uids); a != b {
		t.Errorf("from message %d of %d:\n%s\nfrom the first:\n%s", oldest, len(all.entries), a, b)
	}
	if back > 61 {
		t.Errorf("a start reads %d flushes", back)
	}
}

// handleOfAll is a journal to read only.
type handleOfAll struct {
	Journal
	entries []engine.JournalEntry
}

func (j *handleOfAll) Bounds() (first, last uint64) { return 1, uint64(len(j.entries)) }

func (j *handleOfAll) Read(ctx context.Context, from uint64) iter.Seq2[engine.JournalEntry, error] {
	return fakeJournal{(&store{journal: j.entries}).open(-1)}.Read(ctx, from)
}

// TestJournalAheadOfLog: after a power cut at durability "process" the log may end
// before what the journal tells of. That part is ignored, and new frames in its
// place reach everybody.
func TestJournalAheadOfLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		stuck := newExactlyOnce()
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": stuck}, es)
		for i := range 10 {
			publish(t, p.Broker, i, 1, "a")
		}
		changed := withFilter(es, filter.Filter{SubjectBeginsWith: "a"})
		activate(t, p.Broker, changed)
		finish(t, p)
		store.frames = store.frames[:4]
		for range 2 { // also when the second start comes before anything was delivered
			h := newExactlyOnce()
			p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, changed)
			if w := p.journal.watermark(); w != 4 {
				t.Errorf("watermark %d", w)
			}
			finish(t, p)
		}
		h := newExactlyOnce()
		close(h.free)
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": h}, changed)
		for i := 4; i < 12; i++ {
			publish(t, p.Broker, i, 1, "a")
		}
		publish(t, p.Broker, 99, 1, "b")
		settleAll(t, p)
		h.check(t, 12)
		finish(t, p)
	})
}

// TestSuccessAboveTheEndOfTheLog: after such a power cut the journal may tell of a success
// whose frame is lost. The event that gets its place is delivered, also where starts and
// kills come before the watermark has reached it.
func TestSuccessAboveTheEndOfTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, store.open(-1), nil) // nobody subscribes yet
		publish(t, p.Broker, 0, 2, "a")           // frame 1
		publish(t, p.Broker, 2, 2, "a")           // frame 2
		finish(t, p)
		m := message(1, 1)
		for _, e := range []any{
			plainEntry{tagRestate, 0x500}, generationEntry{uid: 0x500, number: 1, from: 1, filter: []byte("{}")},
			attemptEntry{uid: 0x500, pos: engine.At(2, 0), number: 1, outcome: Delivered}, attemptEntry{uid: 0x500, pos: engine.At(3, 0), number: 1, outcome: Delivered},
		} {
			m.write(e)
		}
		store.journal = []engine.JournalEntry{{Seq: 1, Generation: 7, Payload: m.buf}}

		// The second process does not come as far as to hand frame 2 out, so that the first
		// message is still needed.
		fine := &handler{t: t}
		h := store.open(-1)
		b, err := New(t.Context(), Config{
			Log: fakeLog{h}, Journal: fakeJournal{h}, Logger: slog.New(slog.DiscardHandler),
			NewSender: func(*resource.EventSubscription) (Sender, error) { return fine, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Activate(t.Context(), es); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			if err := b.journal.run(ctx); err != nil {
				t.Error(err)
			}
		}()
		if err := b.journal.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		<-b.journal.ended
		if len(store.journal) < 2 || b.journal.oldestNeeded() != 1 {
			t.Fatalf("%d messages in the journal, needed from %d on", len(store.journal), b.journal.oldestNeeded())
		}
		store.frames = append(store.frames, &engine.Frame{Seq: 3, Generation: 7, Time: time.Now(), Records: store.frames[0].Records, Size: 100})

		p = startProcess(t, store.open(-1), map[string]Sender{"es0": fine}, es)
		settleAll(t, p)
		if times := fine.times(); times["0"] != 1 || times["1"] != 1 || times["2"] != 0 || times["3"] != 1 {
			t.Errorf("sent: %v, want 0 and 1, of frame 3, and 3", times)
		}
		finish(t, p)
	})
}

// TestJournalIsNotOurs: a journal that somebody else writes ends the broker.
func TestJournalIsNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := one(t, &handler{}, testSubscription(0, filter.Filter{}))
		p.h.mu.Lock()
		p.h.store.journal = append(p.h.store.journal, engine.JournalEntry{Seq: uint64(len(p.h.store.journal) + 1), Generation: 7, Payload: bytes.Clone(p.h.store.journal[0].Payload)})
		p.h.mu.Unlock()
		publish(t, p.Broker, 0, 1, "a")
		if err := <-p.done; err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("it ended with %v", err)
		}
		p.stop()
	})
}

// TestRecovery holds what a start makes of some journals.
func TestRecovery(t *testing.T) {
	const uid = 5
	pos := engine.At(7, 1)
	open := openEntry{uid: uid, pos: pos, attempts: 1, outcome: Busy, status: 503, published: 1, due: 2, last: 1}
	replay := openEntry{uid: uid, pos: pos, replay: true, published: 3}
	replayed := replay
	replayed.reason = reasonReplayed // its dead letter is still to be removed
	success := attemptEntry{uid: uid, pos: pos, number: 2, outcome: Delivered, status: 200}
	failure := attemptEntry{uid: uid, pos: pos, number: 2, outcome: Busy, status: 503}
	type messages [][]any
	for _, tt := range []struct {
		name     string
		w        uint64 // of every message
		messages messages
		want     []openEntry
		ahead    bool
	}{
		{"open", 7, messages{{open}}, []openEntry{open}, false},
		{"a failure leaves it open", 7, messages{{open}, {failure}}, []openEntry{open}, false},
		{"a success closes it, though the close was not written", 7, messages{{open}, {success}}, nil, false},
		{"a success of a replay leaves its dead letter to be removed", 7, messages{{replay}, {success}}, []openEntry{replayed}, false},
		{"a close is the delivery's, not the replay's", 7, messages{{open, replay}, {closedEntry{uid, pos, false}}}, []openEntry{replay}, false},
		{"a close is the replay's, not the delivery's", 7, messages{{open, replay}, {closedEntry{uid, pos, true}}}, []openEntry{open}, false},
		{"a success above the watermark is kept", 6, messages{{success}}, nil, true},
		{"and outlives a statement", 6, messages{{success}, {plainEntry{tagRestate, uid}}}, nil, true},
		{"a failure above the watermark is not", 6, messages{{failure}}, nil, false},
		{"a close that one who lags has to pass is kept", 7, messages{{lagEntry{uid, pos}, closedEntry{uid, pos, false}}}, nil, true},
		{"one of a replay is not", 7, messages{{lagEntry{uid, pos}, closedEntry{uid, pos, true}}}, nil, false},
		{"nor that of one who does not lag", 7, messages{{closedEntry{uid, pos, false}}}, nil, false},
		{"until it passed", 7, messages{{lagEntry{uid, pos}, closedEntry{uid, pos, false}}, {lagEntry{uid, pos + 1}}}, nil, false},
		{"or is live", 7, messages{{lagEntry{uid, pos}, closedEntry{uid, pos, false}}, {lagEntry{uid, 0}}}, nil, false},
		{"a close that it passed already is not", 7, messages{{lagEntry{uid, pos + 1}, closedEntry{uid, pos, false}}}, nil, false},
		{"a statement replaces", 7, messages{{open}, {plainEntry{tagRestate, uid}, replay}}, []openEntry{replay}, false},
		{"what stood above the end of the log is forgotten", 6, messages{{open}, {plainEntry{tagLogEnds, 6}}}, nil, false},
		{"a success there, too", 6, messages{{success}, {plainEntry{tagLogEnds, 6}}}, nil, false},
		{"what stood below is not", 6, messages{{open}, {plainEntry{tagLogEnds, 7}}}, []openEntry{open}, false},
		{"nor what is told of the frames in its place", 7, messages{{plainEntry{tagLogEnds, 6}}, {open}}, []openEntry{open}, false},
		{"a deleted one is forgotten", 7, messages{{open}, {plainEntry{tagGone, uid}}}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore()
			for i, entries := range tt.messages {
				m := message(tt.w, 1)
				for _, e := range entries {
					m.write(e)
				}
				s.journal = append(s.journal, engine.JournalEntry{Seq: uint64(i + 1), Payload: m.buf})
			}
			r, err := recoverJournal(t.Context(), fakeJournal{s.open(-1)})
			if err != nil {
				t.Fatal(err)
			}
			var got []openEntry
			if sub := r.subs[uid]; sub != nil {
				got = slices.AppendSeq(slices.Collect(maps.Values(sub.open)), maps.Values(sub.replays))
			}
			if since := tt.ahead && tt.w < pos.Seq(); !slices.Equal(got, tt.want) || (len(r.ahead[uid]) > 0) != tt.ahead || (r.aheadSince != 0) != since {
				t.Errorf("open %+v, ahead %v since %d", got, r.ahead, r.aheadSince)
			}
		})
	}
}

// TestWholeFlushes: messages count once all of their flush are there.
func TestWholeFlushes(t *testing.T) {
	type part struct{ part, left uint64 }
	for _, tt := range []struct {
		name     string
		messages []part
		damaged  uint64 // message
		from     uint64
		want     []uint64
	}{
		{"one message each", []part{{0, 0}, {0, 0}}, 0, 1, []uint64{1, 2}},
		{"several", []part{{0, 2}, {1, 1}, {2, 0}, {0, 1}, {1, 0}}, 0, 1, []uint64{1, 2, 3, 4, 5}},
		{"cut off at the end", []part{{0, 0}, {0, 2}, {1, 1}}, 0, 1, []uint64{1}},
		{"cut off before one message", []part{{0, 2}, {1, 1}, {0, 0}}, 0, 1, []uint64{3}},
		{"cut off before several", []part{{0, 2}, {0, 2}, {1, 1}, {0, 1}, {1, 0}}, 0, 1, []uint64{4, 5}},
		{"read from its middle on", []part{{0, 2}, {1, 1}, {2, 0}, {0, 0}}, 0, 2, []uint64{2, 3, 4}},
		{"the middle of one that was cut off", []part{{0, 2}, {1, 1}, {0, 0}}, 0, 2, []uint64{3}},
		{"damage costs itself alone", []part{{0, 3}, {1, 2}, {2, 1}, {3, 0}, {0, 0}}, 2, 1, []uint64{1, 3, 4, 5}},
		{"also at the end", []part{{0, 2}, {1, 1}, {2, 0}, {0, 0}}, 3, 1, []uint64{1, 2, 4}},
		{"also where the next begins", []part{{0, 1}, {1, 0}, {0, 2}, {1, 1}, {2, 0}}, 3, 1, []uint64{1, 2, 4, 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := &handleOfAll{}
			for i, m := range tt.messages {
				all.entries = append(all.entries, engine.JournalEntry{Seq: uint64(i + 1), Payload: journalHeader{part: m.part, left: m.left}.append(nil)})
			}
			var got []uint64
			for m, err := range flushes(t.Context(), &brokenJournal{all, tt.damaged}, tt.from) {
				if errors.Is(err, engine.ErrCorrupt) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, m.Seq)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("told of messages %d, want %d", got, tt.want)
			}
		})
	}
}

// TestKnownAboveWhatIsMatchedAgain: what a start knows of a lagging event subscription
// stands behind what it hands out again, and both hold the log.
func TestKnownAboveWhatIsMatchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		es := testSubscription(0, filter.Filter{})
		p := startProcess(t, store.open(-1), map[string]Sender{"es0": newExactlyOnce()}, es)
		for i := range 12 {
			publish(t, p.Broker, i, 1, "a")
		}
		finish(t, p)
		m := message(9, 1)
		for _, e := range []any{
			generationEntry{uid: uint64(es.UID), number: 1, from: 1, filter: []byte("{}")},
			lagEntry{uint64(es.UID), engine.At(10, 0)},
			openEntry{uid: uint64(es.UID), pos: engine.At(11, 0), published: time.Now().UnixMilli()},
		} {
			m.write(e)
		}
		store.journal = []engine.JournalEntry{{Seq: 1, Generation: 7, Payload: m.buf}}
		stuck := newExactlyOnce()
		p = startProcess(t, store.open(-1), map[string]Sender{"es0": stuck}, es)
		time.Sleep(time.Minute)
		if _, seq, ok := p.Held(); !ok || seq != 10 {
			t.Errorf("frame %d is held (%t), want 10", seq, ok)
		}
		if n := p.Open(es.UID); n != 3 {
			t.Errorf("%d open deliveries, want 3", n)
		}
		finish(t, p)
	})
}

// TestSettledWhereItLags: an event that an earlier process had settled is not sent again
// though its event subscription fell behind in front of it, or lagged there before, the
// watermark has passed it and the process is killed once more.
func TestSettledWhereItLags(t *testing.T) {
	const n, settled = 40, 30
	for _, tt := range []struct {
		name string
		w    uint64
		told []any // by the first process
		sent int   // how often the event is sent in the second one
	}{
		{"delivered above the watermark", 0, []any{attemptEntry{uid: 0x500, pos: engine.At(1, settled), number: 1, outcome: Delivered}}, 0},
		{"open above its place", 1, []any{lagEntry{0x500, engine.At(1, 0)}, openEntry{uid: 0x500, pos: engine.At(1, settled)}}, 1},
		{"parked above its place", 1, []any{lagEntry{0x500, engine.At(1, 0)}, openEntry{uid: 0x500, pos: engine.At(1, settled), parked: 1}}, 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			smallBounds(t, 2, 24)
			store := newStore()
			es := testSubscription(0, filter.Filter{})
			p := startProcess(t, store.open(-1), nil) // nobody subscribes yet
			publish(t, p.Broker, 0, n, "a")
			finish(t, p)
			first := message(tt.w, 1)
			for _, e := range append([]any{plainEntry{tagRestate, 0x500}, generationEntry{uid: 0x500, number: 1, from: 1, filter: []byte("{}")}}, tt.told...) {
				first.write(e)
			}
			store.journal = []engine.JournalEntry{{Seq: 1, Generation: 7, Payload: first.buf}}
			again := strconv.Itoa(settled)
			stuck := &handler{t: t, answer: func(ctx context.Context, a asked) Response {
				if a.ids[0] == again {
					return answerOK
				}
				<-ctx.Done()
				return Response{Outcome: Canceled}
			}}
			second := store.open(-1)
			p = startProcess(t, second, map[string]Sender{"es0": stuck}, es)
			time.Sleep(time.Second)
			synctest.Wait()
			if w := p.journal.durable(); w != 1 || stuck.times()[again] != tt.sent {
				t.Fatalf("watermark %d, event %s sent %d times in the second process", w, again, stuck.times()[again])
			}
			if s := p.lookup(0x500); s.lag == 0 || s.lag > engine.At(1, settled) {
				t.Fatalf("its place is %s", s.lag)
			}
			second.killMu.Lock()
			second.dead = true
			second.killMu.Unlock()
			_ = p.end()

			for range 2 { // and what the third knew, the fourth knows
				fine := &handler{t: t}
				third := store.open(-1)
				p = startProcess(t, third, map[string]Sender{"es0": fine}, es)
				settleAll(t, p)
				if times := fine.times(); times[again] != 0 {
					t.Errorf("event %s was sent again", again)
				}
				finish(t, p)
			}
		})
	}
}

// TestRejoinedAheadOfWatermark: one that became live at a place the journal's
// watermark has not reached is still stated as read up to there, with what is open.
func TestRejoinedAheadOfWatermark(t *testing.T) {
	b := &Broker{attempts: t.Context()}
	s := newSubscription(b, 5, resource.Stream{Topic: 6})
	s.addGeneration(generation{number: 1, from: 1, raw: []byte("{}")})
	s.rejoined = 10
	s.order = []*delivery{{sub: s, pos: engine.At(8, 0)}, {sub: s, pos: engine.At(11, 0)}}
	for _, tt := range []struct {
		w    uint64
		lag  engine.Position
		open int
	}{{7, engine.At(10, 0), 2}, {8, engine.At(10, 0), 2}, {9, 0, 1}, {11, 0, 2}} {
		for _, d := range s.order {
			d.stated = false
		}
		m := message(tt.w, 1)
		s.state(m, tt.w)
		r := &recovery{subs: map[uint64]*recovered{}, ahead: map[uint64][]engine.Position{}}
		if _, err := readEntries(m.buf, r); err != nil {
			t.Fatal(err)
		}
		if got := r.subs[5]; got.lag != tt.lag || len(got.open) != tt.open {
			t.Errorf("at watermark %d: lag %s and %d open, want %s and %d", tt.w, got.lag, len(got.open), tt.lag, tt.open)
		}
	}
}

// An attempt and what became of its delivery are in one flush: the flusher takes both lists
// at once, and reads the delivery only when its event subscription has done with it.
func TestAttemptIsFlushedWithItsDelivery(t *testing.T) {
	j := &journal{kick: make(chan struct{}, 1), maxUnflushed: 1 << 20}
	s := &subscription{uid: 1}
	d := &delivery{sub: s}
	for range 2 {
		j.attempted(s, d, time.Now(), time.Now(), Response{Outcome: Delivered})
		if len(j.news.buf) == 0 || len(j.dirty) != 1 || j.dirty[0] != d || !d.dirty {
			t.Fatalf("%d bytes of news, %d deliveries changed", len(j.news.buf), len(j.dirty))
		}
	}
}

// TestStatedAboveWatermark: what the journal has of a live event subscription above the
// watermark stays in it when the event subscription is stated anew: nothing else would tell
// of it once the watermark passes. What it does not have comes with the watermark.
func TestStatedAboveWatermark(t *testing.T) {
	b := &Broker{attempts: t.Context()}
	s := newSubscription(b, 5, resource.Stream{Topic: 6})
	known, fresh := engine.At(8, 0), engine.At(9, 0)
	s.order = []*delivery{{sub: s, pos: known, stated: true}, {sub: s, pos: fresh}}
	s.openN = 2
	for _, tt := range []struct {
		name  string
		state func(*entryWriter)
		want  []engine.Position
	}{
		{"whole", func(m *entryWriter) { s.state(m, 7) }, []engine.Position{known}},
		{"its place", func(m *entryWriter) { s.stateLag(m, 7) }, nil},
		{"its place, later", func(m *entryWriter) { s.stateLag(m, 9) }, []engine.Position{fresh}},
	} {
		m := message(7, 1)
		tt.state(m)
		found := &told{}
		if _, err := readEntries(m.buf, found); err != nil {
			t.Fatal(err)
		}
		var got []engine.Position
		for _, e := range found.entries {
			if open, ok := e.(openEntry); ok {
				got = append(got, open.pos)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: open are %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestOrderAfterStart: what is matched again stands behind what the start knew, and is
// found all the same, as is what came since.
func TestOrderAfterStart(t *testing.T) {
	b := &Broker{attempts: t.Context(), startLast: 10}
	s := newSubscription(b, 5, resource.Stream{Topic: 6})
	at := func(seqs ...uint64) (list []*delivery) {
		for _, seq := range seqs {
			list = append(list, &delivery{sub: s, pos: engine.At(seq, 0), stated: true})
		}
		return list
	}
	s.order, s.parked, s.openN = at(8, 4, 5, 9, 11, 12, 14), at(3, 1, 2), 10
	for seq := uint64(1); seq < 16; seq++ {
		d, there := s.openAt(engine.At(seq, 0)), seq < 6 || seq == 8 || seq == 9 || seq == 11 || seq == 12 || seq == 14
		if (d != nil) != there || there && d.pos.Seq() != seq {
			t.Errorf("frame %d: found %v, want %t", seq, d, there)
		}
	}
	for below, want := range map[uint64]int{4: 0, 5: 1, 9: 3, 10: 4, 12: 5, 20: 7} {
		if got := s.appendOpen(nil, below); len(got) != want {
			t.Errorf("below %d: %v, want %d", below, got, want)
		}
	}
	if open, _ := s.floors(); open != 4 {
		t.Errorf("the floor is %d, want 4", open)
	}
	b.park = &park{b: b, copies: map[uint64]int{}}
	b.journal = newJournal(b, fakeJournal{newStore().open(-1)})
	if n := s.park(map[engine.Position]uint64{engine.At(4, 0): 1, engine.At(5, 0): 2}, 6); n != 2 || len(s.order) != 5 || s.order[0].pos.Seq() != 8 {
		t.Errorf("%d parked, in order are %d", n, len(s.order))
	}
	if open, _ := s.floors(); open != 8 {
		t.Errorf("the floor is %d, want 8", open)
	}
}
