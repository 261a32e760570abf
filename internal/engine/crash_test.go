package engine

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// crashChild is the process that the crash test kills: producers append events
// with a fact each, and a line tells the parent of each acknowledged write.
func crashChild(dir string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	e, err := Open(ctx, Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		fail(err)
	}
	p, round := e.Partition(), os.Getenv("CARILLON_ENGINE_CRASH_ROUND")
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		_, _ = fmt.Printf(format+"\n", args...) // a line is one write
	}
	for producer := range 16 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s/%d/%06d", round, producer, i)
				key := fmt.Sprintf("obj/%d/%d", producer, i%7)
				state := id
				if i%5 == 4 {
					state = "" // the object is deleted
				}
				r, err := p.Append(ctx, []Record{eventRecord(id), fact(key, state)})
				if err != nil {
					fail(err)
				}
				say("event %d %d %s %s", r.Seq, r.First, id, key)
			}
		}()
	}
	go func() {
		for i := 0; ; i++ {
			seq, err := p.Journal().Append(ctx, fmt.Appendf(nil, "%s/%d", round, i))
			if err != nil {
				fail(err)
			}
			say("journal %d %s/%d", seq, round, i)
		}
	}()
	go func() {
		for i := 0; ; i++ {
			if err := e.DeadLetters().Put(ctx, fmt.Sprint("again/", i%5), []byte(round)); err != nil {
				fail(err)
			}
		}
	}()
	for i := 0; ; i++ {
		if err := e.DeadLetters().Put(ctx, fmt.Sprintf("d/%s/%d", round, i), []byte("dead")); err != nil {
			fail(err)
		}
		say("dead d/%s/%d", round, i)
	}
}

// acknowledged is what the killed processes said was stored.
type acknowledged struct {
	events  map[Position]string
	facts   map[string]string // newest acknowledged event of each object
	journal map[uint64]string
	dead    []string
}

// TestKill kills a process under load at random moments, several times on one
// directory, and wants everything that it acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := acknowledged{events: map[Position]string{}, facts: map[string]string{}, journal: map[uint64]string{}}
	for round := range 5 {
		acked.load(t, dir, round, 200+rand.IntN(2000))
		e, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		acked.check(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("after round %d", round)
		}
	}
	t.Logf("%d events, %d journal entries, %d dead letters acknowledged", len(acked.events), len(acked.journal), len(acked.dead))
}

// load runs one process and kills it after some acknowledgements.
func (a *acknowledged) load(t *testing.T, dir string, round, acks int) {
	t.Helper()
	child := exec.Command(os.Args[0]) //nolint:gosec // this test binary
	child.Env = append(os.Environ(), "CARILLON_ENGINE_CRASH_DIR="+dir, fmt.Sprintf("CARILLON_ENGINE_CRASH_ROUND=%d", round))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil { // the pipe is drained; a cut line was not said
			break
		}
		if n == acks {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		a.note(t, line)
	}
	if err := child.Wait(); err == nil || child.ProcessState.Exited() {
		t.Fatalf("child ended by itself: %v", err)
	}
}

func (a *acknowledged) note(t *testing.T, line string) {
	t.Helper()
	var seq uint64
	var first int
	var id, key string
	switch {
	case strings.HasPrefix(line, "event "):
		if _, err := fmt.Sscanf(line, "event %d %d %s %s", &seq, &first, &id, &key); err != nil {
			t.Fatal(err)
		}
		a.events[At(seq, first)] = id
		a.facts[key] = max(a.facts[key], id)
	case strings.HasPrefix(line, "journal "):
		if _, err := fmt.Sscanf(line, "journal %d %s", &seq, &id); err != nil {
			t.Fatal(err)
		}
		a.journal[seq] = id
	default:
		a.dead = append(a.dead, strings.TrimSpace(strings.TrimPrefix(line, "dead ")))
	}
}

func (a *acknowledged) check(t *testing.T, e *Engine) {
	t.Helper()
	p := e.Partition()
	found := 0
	newest, live := map[string]string{}, map[string]string{} // last event and state of each object, by the log
	for f, err := range p.Frames(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range f.Records {
			if id, ok := a.events[f.Position(i)]; ok {
				found++
				if id != string(r.Data) {
					t.Errorf("position %s holds %s, acknowledged was %s", f.Position(i), r.Data, id)
				}
			}
			if r.Kind == KindFact {
				newest[r.Key] = string(f.Records[i-1].Data)
				live[r.Key] = string(r.Data)
			}
		}
	}
	if found != len(a.events) {
		t.Errorf("%d of %d acknowledged events are there", found, len(a.events))
	}
	maps.DeleteFunc(live, func(_, state string) bool { return state == "" })
	wantFacts(t, p, "obj/", live)
	for key, id := range a.facts {
		if newest[key] < id {
			t.Errorf("fact %s is %s, acknowledged was %s", key, newest[key], id)
		}
	}
	entries := 0
	for entry, err := range p.Journal().Read(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := a.journal[entry.Seq]; ok {
			entries++
			if want != string(entry.Payload) {
				t.Errorf("journal entry %d is %s, acknowledged was %s", entry.Seq, entry.Payload, want)
			}
		}
	}
	if entries != len(a.journal) {
		t.Errorf("%d of %d acknowledged journal entries are there", entries, len(a.journal))
	}
	for _, key := range a.dead {
		if _, ok, err := e.DeadLetters().Get(t.Context(), key); !ok || err != nil {
			t.Errorf("dead letter %s: %v %v", key, ok, err)
		}
	}
	keys, err := e.DeadLetters().Keys(t.Context(), "")
	if n := e.DeadLetters().Len(); err != nil || n != len(keys) {
		t.Errorf("%d dead letters are stored under %d keys: %v", n, len(keys), err)
	}
}
