package engine

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/smalldisk"
)

// fill takes all space of the small disk but rest, and returns what gives it back.
func fill(t *testing.T, rest int64) (free func()) {
	t.Helper()
	path := filepath.Join(smalldisk.Dir(), "filler")
	smalldisk.Fill(t, path, rest)
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !is(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 40 s", what)
		}
	}
}

func stderrLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// TestTinyDisk publishes until the disk refuses, fills it from outside, and wants
// what a nearly full disk promises, on a file system that is truly full.
func TestTinyDisk(t *testing.T) {
	if !smalldisk.Run(t, 128, "-test.timeout=90s") {
		return
	}
	dir := filepath.Join(smalldisk.Dir(), "data")
	e := open(t, Options{Dir: dir, LogQuota: 1 << 30, Logger: stderrLog()})
	p := e.Partition()
	var acked []string
	publish := func() error {
		id := fmt.Sprintf("%05d", len(acked)) + strings.Repeat("x", 64<<10)
		_, err := p.Append(t.Context(), []Record{eventRecord(id)})
		if err == nil {
			acked = append(acked, id)
		}
		return err
	}
	var err error
	for err == nil {
		err = publish()
	}
	if !fault.Is(err, fault.Unavailable) || p.Usage().Space == SpaceAmple {
		t.Fatalf("the disk is full and says %v, space %s", err, p.Usage().Space)
	}
	settles := func() {
		t.Helper()
		if _, err := p.Journal().Append(t.Context(), make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
		if err := e.DeadLetters().Put(t.Context(), "letter", make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	settles()
	free := fill(t, 1<<20) // less than the reserve
	wait(t, "the reserve is given up", func() bool { return p.Usage().Space == SpaceOut })
	if _, err := os.Stat(filepath.Join(dir, "RESERVE")); err == nil {
		t.Error("the reserve file is still there")
	}
	settles()
	if got := events(t, p, 0); len(got) != len(acked) {
		t.Errorf("%d events, %d acknowledged", len(got), len(acked))
	}
	if err := p.Purge(t.Context(), p.last.Load()/2); err != nil {
		t.Errorf("purge on a full disk: %v", err)
	}
	kept := len(events(t, p, 0))
	free()
	wait(t, "publishing goes on", func() bool { return publish() == nil })
	if got := events(t, p, 0); len(got) != kept+1 || got[kept] != acked[len(acked)-1] {
		t.Errorf("%d events after %d", len(got), kept)
	}
	if info, err := os.Stat(filepath.Join(dir, "RESERVE")); err != nil || info.Size() != 4<<20 {
		t.Errorf("reserve: %v %v", info, err)
	}
	if p.Err() != nil {
		t.Error(p.Err())
	}
}

// TestWedgedStore fills the disk behind the back of the disk watch, so that the
// store itself meets the end of it and acks nothing any more, and wants it to be
// restarted and everything acknowledged to be there.
func TestWedgedStore(t *testing.T) {
	t.Parallel()
	if !smalldisk.Run(t, 64, "-test.timeout=90s") {
		return
	}
	dir := filepath.Join(smalldisk.Dir(), "data")
	e := open(t, Options{Dir: dir, LogQuota: 1 << 30, Logger: stderrLog(),
		FreeSpace: func(string) (int64, int64, error) { return 64 << 20, 32 << 20, nil }})
	p := e.Partition()
	appended, journaled := make(chan string, 1), make(chan uint64, 1)
	var acked []string
	for i := range 20 {
		id := fmt.Sprint(i)
		mustAppend(t, p, eventRecord(id), fact("object", id))
		acked = append(acked, id)
	}
	free := fill(t, 0)
	big := strings.Repeat("z", 32<<10)
	go func() {
		mustAppend(t, p, eventRecord(big), fact("object", "20"))
		appended <- big
	}()
	go func() {
		seq, err := p.Journal().Append(t.Context(), []byte(big))
		if err != nil {
			t.Error(err)
		}
		journaled <- seq
	}()
	wait(t, "the store is late", func() bool { return p.Err() != nil })
	if !strings.Contains(p.Err().Error(), logStream) && !strings.Contains(p.Err().Error(), journalStream) {
		t.Errorf("the reason is %v", p.Err())
	}
	free()
	acked = append(acked, <-appended)
	if seq := <-journaled; seq != p.journal.last.Load() {
		t.Errorf("journal entry %d, the last is %d", seq, p.journal.last.Load())
	}
	wait(t, "the store is well", func() bool { return p.Err() == nil })
	if got := events(t, p, 0); fmt.Sprint(got) != fmt.Sprint(acked) {
		t.Errorf("%d events, %d acknowledged", len(got), len(acked))
	}
	if f, _, err := p.Fact(t.Context(), "object"); err != nil || string(f.Data) != "20" {
		t.Errorf("object is %q, %v", f.Data, err)
	}
	mustAppend(t, p, eventRecord("after"))
}
