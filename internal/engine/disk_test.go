package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

func TestDiskMarks(t *testing.T) {
	const mib = 1 << 20
	cases := map[string]struct {
		total int64
		want  diskMarks
	}{
		"large volume":    {10 << 40, diskMarks{1024 * mib, 1280 * mib, 256 * mib}},
		"two percent":     {25600 * mib, diskMarks{512 * mib, 640 * mib, 128 * mib}},
		"small volume":    {1024 * mib, diskMarks{64 * mib, 80 * mib, 16 * mib}},
		"smallest volume": {64 * mib, diskMarks{8 * mib, 10 * mib, 2 * mib}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := marksOf(c.total); got != c.want {
				t.Errorf("marks %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestDiskDecisions(t *testing.T) {
	m := diskMarks{low: 100, resume: 125, reserve: 25}
	cases := map[string]struct {
		now  Space
		free int64
		want Space
	}{
		"plenty":                             {SpaceAmple, 1000, SpaceAmple},
		"at the mark":                        {SpaceAmple, 100, SpaceAmple},
		"below the mark":                     {SpaceAmple, 99, SpaceLow},
		"back, not far enough":               {SpaceLow, 124, SpaceLow},
		"back":                               {SpaceLow, 125, SpaceAmple},
		"at the reserve":                     {SpaceLow, 25, SpaceLow},
		"below the reserve":                  {SpaceLow, 24, SpaceOut},
		"at once below the reserve":          {SpaceAmple, 0, SpaceOut},
		"the reserve counts as free now":     {SpaceOut, 49, SpaceOut},
		"room without the reserve":           {SpaceOut, 149, SpaceOut},
		"room for the reserve and to resume": {SpaceOut, 150, SpaceAmple},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := m.next(c.now, c.free); got != c.want {
				t.Errorf("%d free while %s: %s, want %s", c.free, c.now, got, c.want)
			}
		})
	}
}

// TestDiskFills lets the free space fall and rise in fake time and wants the
// promises of each state.
func TestDiskFills(t *testing.T) {
	const total = 1 << 30 // marks: 64, 80 and 16 MiB
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Int64
		var broken atomic.Bool
		free.Store(total / 2)
		e := open(t, Options{Dir: dir, FreeSpace: func(string) (int64, int64, error) {
			if broken.Load() {
				return 0, 0, errors.New("no answer")
			}
			return total, free.Load(), nil
		}})
		p := e.Partition()
		steps := []struct {
			name    string
			free    int64
			broken  bool
			space   Space
			reserve bool
		}{
			{name: "at the start", free: total / 2, space: SpaceAmple, reserve: true},
			{name: "low", free: 50 << 20, space: SpaceLow, reserve: true},
			{name: "not known", free: 50 << 20, broken: true, space: SpaceLow, reserve: true},
			{name: "out", free: 10 << 20, space: SpaceOut},
			{name: "the reserve is free now", free: 26 << 20, space: SpaceOut},
			{name: "back", free: 200 << 20, space: SpaceAmple, reserve: true},
		}
		for i, s := range steps {
			free.Store(s.free)
			broken.Store(s.broken)
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			if got := p.Usage().Space; got != s.space {
				t.Fatalf("%s: space is %s, want %s", s.name, got, s.space)
			}
			info, err := os.Stat(filepath.Join(dir, "RESERVE"))
			if (err == nil) != s.reserve || err == nil && info.Size() != 16<<20 {
				t.Errorf("%s: reserve file %v, %v", s.name, info, err)
			}
			_, published := p.Append(t.Context(), []Record{eventRecord(s.name)})
			_, created := e.KV().Create(t.Context(), s.name, nil)
			for what, err := range map[string]error{"publish": published, "create": created} {
				if s.space == SpaceAmple {
					if err != nil {
						t.Errorf("%s: %s: %v", s.name, what, err)
					}
					continue
				}
				if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.Unavailable || f.RetryAfter != 30*time.Second {
					t.Errorf("%s: %s: %v, want Unavailable with a time", s.name, what, err)
				}
			}
			if _, err := p.Journal().Append(t.Context(), []byte{byte(i)}); err != nil {
				t.Errorf("%s: settle: %v", s.name, err)
			}
			if err := e.DeadLetters().Put(t.Context(), s.name, []byte("dead")); err != nil {
				t.Errorf("%s: dead-letter: %v", s.name, err)
			}
			if err := p.Purge(t.Context(), p.last.Load()); err != nil {
				t.Errorf("%s: purge: %v", s.name, err)
			}
		}
		if err := e.KV().Delete(t.Context(), "at the start", 0); err != nil {
			t.Error(err)
		}
	})
}

// TestStartOnFullDisk wants an engine that starts, settles, and takes events again
// when there is space.
func TestStartOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Int64
		e := open(t, Options{Dir: dir, FreeSpace: func(string) (int64, int64, error) { return 1 << 30, free.Load(), nil }})
		p := e.Partition()
		if _, err := p.Append(t.Context(), []Record{eventRecord("x")}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("publish: %v", err)
		}
		if _, err := p.Journal().Append(t.Context(), []byte("x")); err != nil {
			t.Error(err)
		}
		small := p.Usage().Quota
		free.Store(1 << 29)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		mustAppend(t, p, eventRecord("x"))
		if got := p.Usage().Quota; got <= small || got < 1<<29/5 {
			t.Errorf("quota %d, at the start %d", got, small)
		}
	})
}

// TestRestartOfTheStore restarts the store under writers of everything and wants
// each acknowledged write once, in order, and the newest state of each object.
func TestRestartOfTheStore(t *testing.T) {
	t.Parallel()
	e := open(t, Options{})
	p := e.Partition()
	changes := make(chan Change, 100)
	if err := e.KV().Watch(t.Context(), func(c Change) { changes <- c }); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, p, fact("gone", "was here"))
	mustAppend(t, p, fact("gone", ""))
	p.writer.limit, p.journal.writer.limit = 200*time.Millisecond, 200*time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	type written struct {
		events  []string
		journal []uint64
	}
	var w written
	done := make(chan struct{}, 2)
	acked := make(chan int, 1000)
	go func() {
		defer func() { done <- struct{}{} }()
		for i := 0; ctx.Err() == nil; i++ {
			id := string(rune('a'+i%26)) + time.Now().String()
			if _, err := p.Append(t.Context(), []Record{eventRecord(id), fact("key", id)}); err != nil {
				t.Error(err)
				return
			}
			w.events = append(w.events, id)
			if f, ok, err := p.Fact(t.Context(), "key"); err != nil || !ok || string(f.Data) != id {
				t.Errorf("fact after %q: %q, %v, %v", id, f.Data, ok, err)
			}
			select {
			case acked <- i:
			default:
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for ctx.Err() == nil {
			seq, err := p.Journal().Append(t.Context(), []byte("x"))
			if err != nil {
				t.Error(err)
				return
			}
			w.journal = append(w.journal, seq)
		}
	}()
	<-acked
	for range 3 {
		e.restart(t.Context(), errors.New("the test wants it"))
		for len(acked) > 0 {
			<-acked
		}
		<-acked // writing goes on
	}
	stop()
	<-done
	<-done
	if got := events(t, p, 0); len(got) != len(w.events) {
		t.Errorf("%d events stored, %d acknowledged", len(got), len(w.events))
	} else {
		for i := range got {
			if got[i] != w.events[i] {
				t.Fatalf("event %d is %q, acknowledged as %q", i, got[i], w.events[i])
			}
		}
	}
	for i, seq := range w.journal {
		if seq != w.journal[0]+uint64(i) {
			t.Fatalf("journal entry %d has sequence %d, the first %d", i, seq, w.journal[0])
		}
	}
	if f, ok, err := p.Fact(t.Context(), "gone"); ok || err != nil {
		t.Errorf("deleted object: %q %v", f.Data, err)
	}
	if _, err := e.KV().Create(t.Context(), "new", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Key != "new" {
		t.Errorf("watch saw %+v", c)
	}
	if p.Err() != nil {
		t.Error(p.Err())
	}
}

// TestRestartWritesFactsAgain takes from the store what the projection believes
// written, as a server that held it in memory would, and wants it back.
func TestRestartWritesFactsAgain(t *testing.T) {
	e := open(t, Options{})
	p := e.Partition()
	mustAppend(t, p, fact("a/1", "one"), fact("a/2", "two"))
	r := mustAppend(t, p, fact("a/2", ""), fact("a/3", "three"))
	for {
		p.projection.mu.Lock()
		at := p.projection.positions()
		p.projection.mu.Unlock()
		if at.applied == r.Seq {
			break
		}
		<-time.After(time.Millisecond)
	}
	if err := p.projection.facts.remove(t.Context(), factRoot+">"); err != nil {
		t.Fatal(err)
	}
	if _, there, err := p.Fact(t.Context(), "a/1"); there || err != nil {
		t.Fatalf("a fact that was taken away is there: %v", err)
	}
	e.restart(t.Context(), errors.New("the test wants it"))
	keys, err := p.FactKeys(t.Context(), "a/")
	if err != nil || len(keys) != 2 {
		t.Errorf("keys %v, %v", keys, err)
	}
	for key, want := range map[string]string{"a/1": "one", "a/2": "", "a/3": "three"} {
		if f, _, err := p.Fact(t.Context(), key); err != nil || string(f.Data) != want {
			t.Errorf("%s is %q, %v; want %q", key, f.Data, err, want)
		}
	}
}

// TestFullDiskHoldsTheFloor wants nothing to count as safe while the disk is full.
func TestFullDiskHoldsTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &projection{rest: 10 * time.Second, seen: 9, young: []settling{{5, time.Now()}, {7, time.Now()}}}
		j.hold(true)
		time.Sleep(time.Minute)
		if got := j.safe(); got != 4 {
			t.Errorf("safe up to %d while the disk is full, want 4", got)
		}
		j.hold(false)
		time.Sleep(5 * time.Second)
		if got := j.safe(); got != 4 {
			t.Errorf("safe up to %d five seconds later, want 4", got)
		}
		time.Sleep(6 * time.Second)
		if got := j.safe(); got != 9 {
			t.Errorf("safe up to %d eleven seconds later, want 9", got)
		}
	})
}
