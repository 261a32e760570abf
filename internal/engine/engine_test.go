package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-events/carillon/internal/fault"
)

// TestMain runs the server's access-time ticker for the whole run, outside of any
// synctest bubble, and turns the binary into a crash-test child when asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CARILLON_ENGINE_CRASH_DIR"); dir != "" {
		crashChild(dir)
		return
	}
	ats.Register()
	code := m.Run()
	ats.Unregister()
	os.Exit(code)
}

// open opens an engine for a test and closes it at the end.
func open(t testing.TB, o Options) *Engine {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func mustAppend(t testing.TB, p *Partition, records ...Record) Receipt {
	t.Helper()
	r, err := p.Append(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func eventRecord(data string) Record { return Record{Kind: KindEvent, Topic: 7, Data: []byte(data)} }

func fact(key, data string) Record { return Record{Kind: KindFact, Key: key, Data: []byte(data)} }

// events returns the data of the event records from a frame on.
func events(t testing.TB, p *Partition, from uint64) []string {
	t.Helper()
	var got []string
	for f, err := range p.Frames(t.Context(), from) {
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Records {
			if r.Kind == KindEvent {
				got = append(got, string(r.Data))
			}
		}
	}
	return got
}

func TestAppendThenRead(t *testing.T) {
	for _, level := range []Durability{DurabilityProcess, DurabilityDisk} {
		t.Run(string(level), func(t *testing.T) { appendThenRead(t, open(t, Options{Durability: level})) })
	}
}

func appendThenRead(t *testing.T, e *Engine) {
	t.Helper()
	p := e.Partition()
	var committed []uint64
	p.OnCommit(func(f *Frame) { committed = append(committed, f.Seq) })
	a := mustAppend(t, p, eventRecord("a"), eventRecord("b"))
	b := mustAppend(t, p, eventRecord("c"))
	if a.Seq != 2 || b.Seq != 3 || a.First != 0 { // frame 1 is the take-over record
		t.Fatalf("receipts %+v %+v", a, b)
	}
	if got := fmt.Sprint(committed); got != "[2 3]" {
		t.Errorf("committed frames %s", got)
	}
	if got := fmt.Sprint(events(t, p, 0)); got != "[a b c]" {
		t.Errorf("events %s", got)
	}
	if got := fmt.Sprint(events(t, p, 3)); got != "[c]" {
		t.Errorf("events from frame 3: %s", got)
	}
	f, err := p.Frame(t.Context(), a.Seq)
	if err != nil {
		t.Fatal(err)
	}
	if f.Generation != p.Generation() || !f.Time.Equal(a.Time) || f.Records[1].Topic != 7 || f.Position(1) != a.Position(1) || f.Sequencer(1) != a.Sequencer(1) {
		t.Errorf("frame %+v, receipt %+v", f, a)
	}
	if _, err := p.Frame(t.Context(), 99); !fault.Is(err, fault.NotFound) {
		t.Errorf("frame 99: %v", err)
	}
}

func TestHolesCarryPositions(t *testing.T) {
	p := open(t, Options{}).Partition()
	blank := strings.Repeat("0", SequencerSize)
	r := mustAppend(t, p,
		Record{Kind: KindFact, Key: "run/w/1", Data: []byte("state")},
		Record{Kind: KindEvent, Data: []byte(`{"sequencer":"` + blank + `","etag":"` + blank + `"}`), Holes: []Hole{{14, 1}, {14 + 32 + 10, 0}}},
	)
	f, err := p.Frame(t.Context(), r.Seq)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"sequencer":"` + r.Sequencer(1) + `","etag":"` + r.Sequencer(0) + `"}`
	if got := string(f.Records[1].Data); got != want {
		t.Errorf("event %s, want %s", got, want)
	}
	got, ok, err := p.Fact(t.Context(), "run/w/1")
	if err != nil || !ok || got.ETag() != r.Sequencer(0) || string(got.Data) != "state" {
		t.Errorf("fact %+v %v %v", got, ok, err)
	}
	for name, h := range map[string]Hole{"past the end": {30, 0}, "before the start": {-1, 0}, "of no record": {0, 1}} {
		if _, err := p.Append(t.Context(), []Record{{Kind: KindEvent, Data: make([]byte, 40), Holes: []Hole{h}}}); err == nil {
			t.Errorf("hole %s was taken", name)
		}
	}
}

var errDone = errors.New("done")

func TestManyProducersShareFrames(t *testing.T) {
	p := open(t, Options{}).Partition()
	var wg sync.WaitGroup
	const producers, each = 32, 40
	seen := sync.Map{}
	for g := range producers {
		wg.Go(func() {
			for i := range each {
				r, err := p.Append(t.Context(), []Record{eventRecord(fmt.Sprintf("%d/%d", g, i)), eventRecord("second")})
				if err != nil {
					t.Error(err)
					return
				}
				if _, twice := seen.LoadOrStore(r.Position(0), fmt.Sprintf("%d/%d", g, i)); twice {
					t.Errorf("position %s was given twice", r.Position(0))
				}
			}
		})
	}
	wg.Wait()
	records, frames := 0, 0
	for f, err := range p.Frames(t.Context(), 2) {
		if err != nil {
			t.Fatal(err)
		}
		frames++
		for i, r := range f.Records {
			records++
			if string(r.Data) == "second" {
				continue
			}
			if want, _ := seen.Load(f.Position(i)); want != string(r.Data) {
				t.Errorf("position %s holds %s, receipt said %v", f.Position(i), r.Data, want)
			}
			if string(f.Records[i+1].Data) != "second" {
				t.Error("a request was split")
			}
		}
	}
	if records != 2*producers*each || frames >= producers*each {
		t.Errorf("%d records in %d frames", records, frames)
	}
}

func TestLargeRequests(t *testing.T) {
	p := open(t, Options{}).Partition()
	big := []Record{{Kind: KindEvent, Data: bytes.Repeat([]byte("x"), 5<<20)}}
	if _, err := p.Append(t.Context(), big); err != nil {
		t.Errorf("5 MiB: %v", err)
	}
	many := make([]Record, maxRecords)
	for i := range many {
		many[i] = Record{Kind: KindEvent, Data: []byte("y")}
	}
	r, err := p.Append(t.Context(), many)
	if err != nil {
		t.Errorf("65536 records: %v", err)
	}
	if f, err := p.Frame(t.Context(), r.Seq); err != nil || len(f.Records) != maxRecords {
		t.Errorf("frame of 65536 records: %v", err)
	}
	if _, err := p.Append(t.Context(), append(many, many[0])); !fault.Is(err, fault.TooLarge) {
		t.Errorf("65537 records: %v", err)
	}
	if _, err := p.Append(t.Context(), []Record{{Kind: KindEvent, Data: make([]byte, 9<<20)}}); !fault.Is(err, fault.TooLarge) {
		t.Errorf("9 MiB: %v", err)
	}
	if _, err := p.Append(t.Context(), nil); err == nil {
		t.Error("no records were taken")
	}
}

func TestPurge(t *testing.T) {
	p := open(t, Options{}).Partition()
	var last Receipt
	for i := range 10 {
		last = mustAppend(t, p, eventRecord(strconv.Itoa(i)))
	}
	if err := p.Purge(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	if first, end := p.Bounds(); first != 6 || end != last.Seq {
		t.Errorf("bounds %d %d", first, end)
	}
	if _, err := p.Frame(t.Context(), 5); !errors.Is(err, ErrPurged) {
		t.Errorf("purged frame: %v", err)
	}
	if got := fmt.Sprint(events(t, p, 0)); got != "[4 5 6 7 8 9]" {
		t.Errorf("events %s", got)
	}
	if err := p.Purge(t.Context(), last.Seq+1); err != nil {
		t.Fatal(err)
	}
	if first, end := p.Bounds(); first != last.Seq || end != last.Seq {
		t.Errorf("after purging all: bounds %d %d, want the newest frame kept", first, end)
	}
	if u := p.Usage(); u.Bytes <= 0 || u.Bytes > 1000 {
		t.Errorf("usage %+v", u)
	}
}

func TestFramesPassesOverWhatDoesNotDecode(t *testing.T) {
	e := open(t, Options{})
	p := e.Partition()
	mustAppend(t, p, eventRecord("a"))
	p.writer.write(t.Context(), []byte("CF? this is no frame at all"))
	mustAppend(t, p, eventRecord("b"))
	var got []string
	for f, err := range p.Frames(t.Context(), 2) {
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			got = append(got, "corrupt")
			continue
		}
		got = append(got, string(f.Records[0].Data))
	}
	if fmt.Sprint(got) != "[a corrupt b]" {
		t.Errorf("got %v", got)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	one := mustAppend(t, e.Partition(), eventRecord("a"), fact("k", "1"))
	generation := e.Partition().Generation()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Partition().Append(t.Context(), []Record{eventRecord("late")}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("append after close: %v", err)
	}
	e = open(t, Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	p := e.Partition()
	if p.Generation() <= generation {
		t.Errorf("generation %d after %d", p.Generation(), generation)
	}
	two := mustAppend(t, p, eventRecord("b"))
	if two.Seq <= one.Seq || two.Time.Before(one.Time) || two.Sequencer(0) <= one.Sequencer(0) {
		t.Errorf("%+v after %+v", two, one)
	}
	if got := fmt.Sprint(events(t, p, 0)); got != "[a b]" {
		t.Errorf("events %s", got)
	}
	kinds := ""
	for f := range p.Frames(t.Context(), 0) {
		kinds += strconv.Itoa(int(f.Records[0].Kind))
	}
	if kinds != "3131" {
		t.Errorf("kinds of first records %s, want take-over, event, take-over, event", kinds)
	}
	if line := log.String(); !strings.Contains(line, "engine recovered") || !strings.Contains(line, "last_stop=clean") || !strings.Contains(line, "facts_replayed=0") {
		t.Errorf("log: %s", line)
	}
}

func TestIngestTimeNeverFalls(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(time.Hour).UnixNano()
	e.Partition().committer.now = future // as if the clock had been an hour ahead
	a := mustAppend(t, e.Partition(), eventRecord("a"))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, Options{Dir: dir})
	b := mustAppend(t, e.Partition(), eventRecord("b"))
	if a.Time.UnixNano() != future || b.Time.Before(a.Time) {
		t.Errorf("times %s then %s", a.Time, b.Time)
	}
}

func TestDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, Options{Dir: dir})
	_, err := Open(t.Context(), Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second process: %v", err)
	}
	newer := t.TempDir()
	if err := os.WriteFile(filepath.Join(newer, "FORMAT"), []byte(strconv.Itoa(formatVersion+1)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Dir: newer}); err == nil || !strings.Contains(err.Error(), fmt.Sprint("format ", formatVersion+1)) {
		t.Errorf("newer format: %v", err)
	}
	if info, err := os.Stat(newer); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	for _, level := range []Durability{DurabilityQuorum, DurabilityQuorumDisk, "tape"} {
		if _, err := Open(t.Context(), Options{Dir: t.TempDir(), Durability: level}); err == nil || !strings.Contains(err.Error(), string(level)) {
			t.Errorf("level %s: %v", level, err)
		}
	}
}

func TestQuota(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := open(t, Options{LogQuota: 64 << 10, Registerer: registry}).Partition()
	data := strings.Repeat("x", 4000)
	var stored int
	var err error
	for range 100 {
		if _, err = p.Append(t.Context(), []Record{eventRecord(data)}); err != nil {
			break
		}
		stored++
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Unavailable || f.Code != "ServiceUnavailable" || f.RetryAfter != 30*time.Second || !strings.Contains(f.Message, "65536") {
		t.Fatalf("after %d appends: %v", stored, err)
	}
	if stored < 14 || stored > 16 {
		t.Errorf("%d appends of 4000 bytes fit a quota of 65536", stored)
	}
	_, last := p.Bounds()
	if int(last) != stored+1 {
		t.Errorf("last frame %d after %d appends", last, stored)
	}
	p.SetFloor(last) // history does not count
	mustAppend(t, p, eventRecord(data))
	if u := p.Usage(); u.AboveFloor > 10_000 || u.Bytes < 56_000 {
		t.Errorf("usage %+v", u)
	}
	if err := p.Purge(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if u := p.Usage(); u.AboveFloor != u.Bytes {
		t.Errorf("usage %+v after purge to the floor", u)
	}
	for range 12 {
		mustAppend(t, p, eventRecord(data))
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families {
		got[m.GetName()] = m.GetMetric()[0].GetCounter().GetValue() + m.GetMetric()[0].GetGauge().GetValue()
	}
	if got["carillon_engine_refused_total"] != 1 || got["carillon_engine_frames_total"] != float64(stored+13) || got["carillon_engine_log_quota_bytes"] != 65536 || got["carillon_engine_journal_bytes"] <= 0 {
		t.Errorf("metrics %v", got)
	}
}

func TestCancelledAppend(t *testing.T) {
	p := open(t, Options{}).Partition()
	gate, entered := make(chan struct{}), make(chan struct{}, 10)
	p.OnCommit(func(*Frame) { entered <- struct{}{}; <-gate })
	go func() { _, _ = p.Append(context.Background(), []Record{eventRecord("first")}) }()
	<-entered // the committer is busy
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error)
	go func() {
		_, err := p.Append(ctx, []Record{eventRecord("second")})
		failed <- err
	}()
	for queued := 0; queued == 0; {
		p.committer.mu.Lock()
		queued = len(p.committer.queue)
		p.committer.mu.Unlock()
	}
	cancel(errDone)
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled append: %v", err)
	}
	close(gate)
	mustAppend(t, p, eventRecord("third"))
	if got := fmt.Sprint(events(t, p, 0)); got != "[first second third]" {
		t.Errorf("events %s", got)
	}
	if p.committer.reserved != 0 {
		t.Errorf("%d bytes stay reserved", p.committer.reserved)
	}
	if _, err := p.Append(ctx, []Record{eventRecord("fourth")}); !errors.Is(err, context.Canceled) {
		t.Errorf("append after cancel: %v", err)
	}
}

// copyDir copies a data directory as a crash would leave it.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), raw, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func streamConfig(name, subject string) jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: name, Subjects: []string{subject}}
}
